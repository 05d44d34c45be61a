//! Margay put into the lab as a user does it: its image on the nodes, its manifest applied, and the few objects that say
//! what this datacentre is like.

use std::fmt::Write;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::apiproxy::{self, ApiProxy};
use crate::control::PORT;
use crate::fabric::{Topology, control, pod_pool};
use crate::family::Family;
use crate::lab::Lab;
use crate::wire::Wrap;
use crate::{binaries, image, progress, wait};

/// Where Margay lives in the cluster.
pub const NAMESPACE: &str = "margay-system";
/// Its image in the run's shared directory.
pub(crate) const ARCHIVE: &str = "margay.tar";

/// How packets between nodes travel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Encapsulation {
    /// Plain everywhere: the routers must know the pods' routes.
    Never,
    /// VXLAN between subnets, plain inside one.
    #[default]
    VxlanCrossSubnet,
    /// VXLAN between all nodes.
    VxlanAlways,
    /// IP-in-IP between subnets, plain inside one; IPv4 only.
    IpipCrossSubnet,
    /// IP-in-IP between all nodes; IPv4 only.
    IpipAlways,
}

impl Encapsulation {
    /// The modes as a pool's spec has them.
    pub fn fields(self) -> String {
        let (vxlan, ipip) = match self {
            Self::Never => ("Never", "Never"),
            Self::VxlanCrossSubnet => ("CrossSubnet", "Never"),
            Self::VxlanAlways => ("Always", "Never"),
            Self::IpipCrossSubnet => ("Never", "CrossSubnet"),
            Self::IpipAlways => ("Never", "Always"),
        };
        format!("\"vxlanMode\": \"{vxlan}\", \"ipipMode\": \"{ipip}\"")
    }

    /// What is around a pod's packet between two nodes.
    pub fn wrap(self, subnets: Subnets) -> Wrap {
        match (self, subnets) {
            (Self::Never, _) | (Self::VxlanCrossSubnet | Self::IpipCrossSubnet, Subnets::Same) => {
                Wrap::Plain
            }
            (Self::VxlanAlways, _) | (Self::VxlanCrossSubnet, Subnets::Different) => Wrap::Vxlan,
            (Self::IpipAlways, _) | (Self::IpipCrossSubnet, Subnets::Different) => Wrap::Ipip,
        }
    }
}

/// How two nodes stand to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subnets {
    /// In one subnet.
    Same,
    /// A router between them.
    Different,
}

impl Lab {
    /// Installs Margay with a CrossSubnet pool and waits until its DaemonSet has rolled out and every node is Ready.
    ///
    /// # Errors
    /// A binary is not built, the manifest is refused, or Margay does not become ready: with the end of its log.
    pub fn install_margay(&self) -> Result<()> {
        self.install_margay_with(Encapsulation::default())
    }

    /// As [`Lab::install_margay`], with this encapsulation.
    ///
    /// # Errors
    /// As [`Lab::install_margay`].
    pub fn install_margay_with(&self, encapsulation: Encapsulation) -> Result<()> {
        self.install(encapsulation, PORT)
    }

    /// As [`Lab::install_margay`], with the proxy between Margay and the API server. Everybody else talks to the server itself.
    ///
    /// # Errors
    /// As [`Lab::install_margay`], and when the proxy does not start.
    pub fn install_margay_behind_proxy(&self) -> Result<ApiProxy> {
        let proxy = ApiProxy::start(self)?;
        self.install(Encapsulation::default(), apiproxy::PORT)?;
        Ok(proxy)
    }

    fn install(&self, encapsulation: Encapsulation, port: u16) -> Result<()> {
        progress::step("Margay's image on every node", || self.load_margay())?;
        progress::step("kubectl apply -f manifests/margay.yaml", || {
            self.apply_margay(encapsulation, port)
        })?;
        progress::step("Margay ready, nodes Ready", || {
            // A guest without acceleration is some ten times slower.
            let patience = if self.fabric.topology.in_guest {
                240
            } else {
                90
            };
            self.wait_margay(Duration::from_secs(patience))
        })
    }

    /// Builds the image from the binaries under test and loads it into every node.
    ///
    /// # Errors
    /// A binary is not built, or an image cannot be loaded.
    pub fn load_margay(&self) -> Result<()> {
        let in_guest = self.fabric.topology.in_guest;
        if !in_guest {
            write_image(&self.binaries().own, &self.run().shared().join(ARCHIVE))?;
        }
        self.each_node(|node| {
            // What a host has from its Kubernetes packages; the container runtime itself needs the first.
            node.machine.shell("mkdir -p /opt/cni/bin && cp /usr/lib/cni/loopback /usr/lib/cni/portmap /opt/cni/bin/")?;
            // A guest's disk has come with it.
            if in_guest {
                return Ok(());
            }
            image::import(&node.machine, &format!("/run/lab/shared/{ARCHIVE}"))
        })
    }

    fn apply_margay(&self, encapsulation: Encapsulation, port: u16) -> Result<()> {
        let place = binaries::workspace().join("manifests/margay.yaml");
        let manifest =
            std::fs::read_to_string(&place).with_context(|| format!("read {}", place.display()))?;
        let manifest = with_image(&manifest);
        // The definitions first, then this datacentre's objects, then the rest: so the controller finds our pool and
        // creates none of its own.
        let is_definition = |document: &&str| {
            document
                .lines()
                .any(|line| line == "kind: CustomResourceDefinition")
        };
        let definitions: Vec<&str> = manifest.split("\n---\n").filter(is_definition).collect();
        self.apply_yaml(&definitions.join("\n---\n"))?;
        self.kubectl(&[
            "wait",
            "--for=condition=Established",
            "crd",
            "--all",
            "--timeout=30s",
        ])?;
        self.apply_yaml(&endpoint(&self.fabric.topology, port))?;
        self.apply_yaml(&objects(&self.fabric.topology, encapsulation))?;
        for rack in self
            .fabric
            .topology
            .racks
            .iter()
            .filter(|rack| rack.software.is_some())
        {
            let annotation = format!("projectcalico.org/ASNumber={}", rack.node_as);
            let nodes = rack.nodes.iter().map(|node| node.name.as_str());
            let words: Vec<&str> = ["annotate", "--overwrite", "node"]
                .into_iter()
                .chain(nodes)
                .chain([annotation.as_str()])
                .collect();
            self.kubectl(&words)?;
        }
        self.apply_yaml(&manifest).map(drop)
    }

    /// Switches the pool of a family to another encapsulation, under whatever is running.
    ///
    /// # Errors
    /// The API refuses it.
    pub fn encapsulate(&self, family: Family, encapsulation: Encapsulation) -> Result<()> {
        let patch = format!("{{\"spec\": {{{}}}}}", encapsulation.fields());
        let words = [
            "patch",
            "ippool",
            pool_name(family),
            "--type=merge",
            "-p",
            &patch,
        ];
        self.kubectl(&words).map(drop)
    }

    /// Waits until Margay's DaemonSet has rolled out and every node is Ready.
    ///
    /// # Errors
    /// After `limit`, with the state of Margay's pods and the end of their logs.
    pub fn wait_margay(&self, limit: Duration) -> Result<()> {
        self.wait_rollout(NAMESPACE, "daemonset/margay", limit)
            .and_then(|()| self.wait_nodes_ready(limit))
            .map_err(|error| error.context(self.margay_logs(15)))
    }

    /// The last lines of every `routed`, for a failure's report.
    pub fn margay_logs(&self, lines: usize) -> String {
        let tail = format!("--tail={lines}");
        let logs = self.kubectl(&[
            "-n",
            NAMESPACE,
            "logs",
            "-l",
            "app.kubernetes.io/name=margay",
            "--prefix",
            &tail,
        ]);
        let previous = self.kubectl(&[
            "-n",
            NAMESPACE,
            "logs",
            "-l",
            "app.kubernetes.io/name=margay",
            "--prefix",
            "--previous",
            &tail,
        ]);
        format!(
            "routed says:\n{}{}",
            logs.unwrap_or_else(|error| format!("{error:#}\n")),
            previous.unwrap_or_default()
        )
    }

    /// Waits until every router has its sessions with all nodes of its rack.
    ///
    /// # Errors
    /// After `limit`, with the sessions as they are.
    pub fn wait_bgp(&self, limit: Duration) -> Result<()> {
        wait::together(&self.fabric.tors, |tor| {
            let count = if tor.rack.software.is_some() {
                tor.rack.nodes.len() * tor.families.iter().count()
            } else {
                0
            };
            tor.wait_established(count, limit)
        })
        .map(drop)
        .map_err(|error| error.context(self.margay_logs(10)))
    }
}

/// Writes Margay's image, made of the binaries under test.
pub(crate) fn write_image(own: &Path, archive: &Path) -> Result<()> {
    let programs = vec![
        ("routed", own.join("routed")),
        ("margay", own.join("margay")),
    ];
    for (name, file) in &programs {
        if !file.is_file() {
            bail!(
                "{} is missing: cargo build -p routed -p cni-plugin ({name} goes into the image)",
                file.display()
            );
        }
    }
    let margay = image::Image {
        reference: image::MARGAY,
        programs,
        entry: vec!["/routed"],
    };
    image::write(&margay, archive)
}

/// The manifest with the lab's image, which is loaded on every node, instead of the released one.
fn with_image(manifest: &str) -> String {
    let line = |line: &str| match line.split_once("image: margay/routed:") {
        Some((indent, _version)) => format!("{indent}image: margay/routed:dev\n"),
        None => format!("{line}\n"),
    };
    manifest.lines().map(line).collect()
}

/// The name of the pool of one family.
pub fn pool_name(family: Family) -> &'static str {
    match family {
        Family::V4 => "default-ipv4-ippool",
        Family::V6 => "default-ipv6-ippool",
    }
}

/// Where the API is, before services work.
fn endpoint(topology: &Topology, port: u16) -> String {
    format!(
        "apiVersion: v1
kind: Namespace
metadata: {{name: {NAMESPACE}}}
---
apiVersion: v1
kind: ConfigMap
metadata: {{name: kubernetes-services-endpoint, namespace: {NAMESPACE}}}
data: {{KUBERNETES_SERVICE_HOST: \"{control}\", KUBERNETES_SERVICE_PORT: \"{port}\"}}
",
        control = control(topology.families.first()),
    )
}

/// What Margay must know of this datacentre: the pools, the peers of each rack.
pub fn objects(topology: &Topology, encapsulation: Encapsulation) -> String {
    let routed = topology.racks.iter().any(|rack| rack.software.is_some());
    let mut text = format!(
        "apiVersion: projectcalico.org/v3
kind: BGPConfiguration
metadata: {{name: default}}
spec: {{nodeToNodeMeshEnabled: {mesh}, asNumber: 64512}}
",
        mesh = !routed,
    );
    for family in topology.families.iter() {
        let block = match family {
            Family::V4 => 26,
            Family::V6 => 122,
        };
        // Writing to a string cannot fail.
        let _ = write!(
            text,
            "---
apiVersion: projectcalico.org/v3
kind: IPPool
metadata: {{name: {name}}}
spec: {{cidr: \"{pool}\", blockSize: {block}, {encapsulation}, natOutgoing: true, nodeSelector: all()}}
",
            name = pool_name(family),
            pool = pod_pool(family),
            encapsulation = encapsulation.fields(),
        );
        let racks = topology.racks.iter().filter(|rack| rack.software.is_some());
        for rack in racks {
            let suffix = match family {
                Family::V4 => "",
                Family::V6 => "-v6",
            };
            let _ = write!(
                text,
                "---
apiVersion: projectcalico.org/v3
kind: BGPPeer
metadata: {{name: {router}{suffix}}}
spec: {{peerIP: \"{gateway}\", asNumber: {router_as}, nodeSelector: rack == '{rack}'}}
",
                router = rack.router(),
                gateway = rack.gateway_of(family),
                router_as = rack.router_as,
                rack = rack.name,
            );
        }
    }
    text
}
