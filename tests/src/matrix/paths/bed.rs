//! The lab as a bed for paths: pods by the kubelets, services by kube-proxy, recordings by tcpdump.

use std::fmt::Write;
use std::net::IpAddr;

use anyhow::{Context, Result};

use super::{
    BEHIND_SERVICES, Bed, Client, FROM_HOSTS, FROM_PODS, Finish, Place, Ports, SERVICES, Stand,
};
use crate::capture::Recording;
use crate::family::Families;
use crate::guest::Guest;
use crate::image;
use crate::lab::Lab;
use crate::machine::Service;

/// The namespace of the pods.
pub const NAMESPACE: &str = "paths";
/// What concerns paths on a link, around fragments too.
const FILTER: &str = "tcp or udp or ip proto 4 or ip6 proto 44";

impl Bed for Lab {
    fn probe(&self, from: &Place, arguments: &[&str]) -> Result<String> {
        let words = [&["nice", "-n", "-15", "/run/tools/probe"], arguments].concat();
        match from {
            Place::Pod { node, name } => self.node(node).exec_in_pod(NAMESPACE, name, &words),
            Place::Host { node } => self.node(node).exec(&words),
        }
    }

    fn record(&self, node: &str) -> Result<Finish> {
        let machine = &self.node(node).machine;
        // The cable of a node in a guest ends here, where recording costs little.
        let recording = match machine.guest() {
            Some(guest) => Recording::start(guest.holder(), &Guest::link(node), FILTER),
            None => Recording::start(machine, "eth0", FILTER),
        }?;
        Ok(Box::new(move || recording.finish()))
    }
}

/// Servers on the hosts of these nodes and outside; they end with the cluster, or when dropped.
///
/// # Errors
/// One cannot be started.
pub fn servers(lab: &Lab, nodes: &[&str]) -> Result<Vec<Service>> {
    let Ports { small, large } = FROM_PODS;
    let (small, large) = (small.to_string(), large.to_string());
    let words = [
        "/run/tools/probe",
        "serve",
        "--http",
        &small,
        "--tcp",
        &large,
    ];
    let hosts = nodes.iter().map(|node| lab.node(node).machine.as_ref());
    hosts
        .chain([lab.fabric.outside.as_ref()])
        .map(|machine| machine.spawn("serve", &words))
        .collect()
}

/// Puts a server pod with a service on every one of `nodes` and a client pod on every one of `clients`; returns how all stand once
/// they are Ready.
///
/// # Errors
/// The pods do not become Ready.
pub fn prepare(lab: &Lab, nodes: &[&str], clients: &[&str]) -> Result<Vec<Stand>> {
    let mut yaml = format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {NAMESPACE}}}\n");
    for node in nodes {
        yaml.push_str(&pod("server", node));
        yaml.push_str(&service(&format!("server-{node}"), lab.families()));
    }
    for node in clients {
        yaml.push_str(&pod("client", node));
    }
    lab.apply_yaml(&yaml)?;
    let ready = [
        "wait",
        "--for=condition=Ready",
        "pod",
        "--all",
        "--timeout=90s",
    ];
    lab.kubectl(&[&["-n", NAMESPACE], &ready[..]].concat())
        .map_err(|error| error.context(lab.margay_logs(15)))?;
    let pods = lab.pods(NAMESPACE, "role")?;
    let addresses = |name: &str| {
        let pod = pods.iter().find(|pod| pod.name == name);
        pod.map(|pod| pod.addresses.clone())
            .with_context(|| format!("pod {name} is not there"))
    };
    let stand = |name: &&str| {
        let node = lab.node(name);
        let (server, client) = (format!("server-{name}"), format!("client-{name}"));
        let client = clients.contains(name).then(|| {
            anyhow::Ok(Client {
                addresses: addresses(&client)?,
                name: client,
            })
        });
        Ok(Stand {
            node: node.name().to_owned(),
            rack: node.rack.clone(),
            host: lab
                .families()
                .iter()
                .map(|family| node.plan.of(family))
                .collect(),
            server: addresses(&server)?,
            service: cluster_ips(lab, &server)?,
            client: client.transpose()?,
        })
    };
    nodes.iter().map(stand).collect()
}

fn cluster_ips(lab: &Lab, service: &str) -> Result<Vec<IpAddr>> {
    let query = "-o=jsonpath={.spec.clusterIPs[*]}";
    let listed = lab.kubectl(&["-n", NAMESPACE, "get", "service", service, query])?;
    let parse = |word: &str| {
        word.parse()
            .with_context(|| format!("no address of a service: {word}"))
    };
    listed.split_whitespace().map(parse).collect()
}

fn pod(role: &str, node: &str) -> String {
    let mut flags = String::new();
    for Ports { small, large } in [FROM_PODS, BEHIND_SERVICES, FROM_HOSTS] {
        // Writing to a string cannot fail.
        let _ = write!(flags, ", \"--http\", \"{small}\", \"--tcp\", \"{large}\"");
    }
    format!(
        "---
apiVersion: v1
kind: Pod
metadata: {{name: {role}-{node}, namespace: {NAMESPACE}, labels: {{role: {role}, paths: {role}-{node}}}}}
spec:
  nodeName: {node}
  terminationGracePeriodSeconds: 1
  containers:
  - name: probe
    image: {image}
    imagePullPolicy: Never
    args: [\"serve\", \"--udp\", \"7\"{flags}]
    readinessProbe: {{tcpSocket: {{port: {ready}}}, periodSeconds: 1}}
",
        image = image::PROBE,
        ready = FROM_PODS.large,
    )
}

fn service(name: &str, families: Families) -> String {
    let policy = match families {
        Families::Ipv4 | Families::Ipv6 => "SingleStack",
        Families::Dual => "RequireDualStack",
    };
    format!(
        "---
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: {NAMESPACE}}}
spec:
  ipFamilyPolicy: {policy}
  selector: {{paths: {name}}}
  ports:
  - {{name: small, port: {}, targetPort: {}}}
  - {{name: large, port: {}, targetPort: {}}}
",
        SERVICES.small, BEHIND_SERVICES.small, SERVICES.large, BEHIND_SERVICES.large
    )
}
