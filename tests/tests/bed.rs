//! The test bed stands without Margay: four real nodes behind two routers run pods by the reference plugins, services
//! work in both modes of kube-proxy, and nothing is left afterwards.
#![expect(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "a scenario looks at the machine, and a failure ends it"
)]

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use lab::lab::deployment;
use lab::matrix::Matrix;
use lab::node::ProxyMode;
use lab::requires::skipped;
use lab::{Lab, rival};

const MINUTE: Duration = Duration::from_mins(1);

/// The entries of a directory; none where there is no such directory.
fn entries(place: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    std::fs::read_dir(place)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
}

/// What a lab could leave in plain sight: mounts, links, named namespaces.
fn traces() -> BTreeSet<String> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mounts = mounts
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(|place| format!("mount {place}"));
    let links = std::fs::read_to_string("/proc/self/net/dev").unwrap();
    let links = links
        .lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(name, _)| format!("link {}", name.trim()));
    // What a container runtime calls its sandboxes' namespaces; other names are other people's.
    let named = entries(Path::new("/run/netns"))
        .map(|place| place.display().to_string())
        .filter(|name| name.contains("cni-"));
    mounts.chain(links).chain(named).collect()
}

/// The processes that still name the run: every machine's first process and every program of a machine does.
fn processes(tag: &str) -> Vec<String> {
    entries(Path::new("/proc"))
        .filter_map(|place| std::fs::read_to_string(place.join("cmdline")).ok())
        .map(|line| line.replace('\0', " "))
        .filter(|line| line.contains(tag))
        .collect()
}

/// The container ids on the machines' disks.
fn containers(run: &Path) -> Vec<OsString> {
    let places = entries(&run.join("state"))
        .map(|disk| disk.join("var/lib/containerd/io.containerd.grpc.v1.cri"));
    let places: Vec<PathBuf> = places
        .flat_map(|place| [place.join("sandboxes"), place.join("containers")])
        .collect();
    places
        .iter()
        .flat_map(|place| entries(place))
        .filter_map(|place| place.file_name().map(Into::into))
        .collect()
}

#[test]
fn a_cluster_runs_pods_and_services_by_the_reference_plugins_and_leaves_nothing() {
    if skipped() {
        return;
    }
    let before = traces();
    let lab = Lab::two_racks().unwrap();
    let directory = lab.run().directory().to_path_buf();
    let tag = lab.run().tag().to_owned();
    rival::install(&lab).unwrap();
    lab.wait_nodes_ready(MINUTE).unwrap();
    twelve_pods_talk(&lab);
    a_service_answers_in_both_modes(&lab);
    exec_and_logs_work(&lab);
    let ids = containers(&directory);
    assert_eq!(ids.len(), 24, "twelve sandboxes and twelve containers");
    drop(lab);
    assert_eq!(traces(), before);
    assert_eq!(processes(&tag), Vec::<String>::new());
    let groups = entries(Path::new("/sys/fs/cgroup")).map(|place| place.join("k8s.io"));
    let left: Vec<PathBuf> = groups
        .flat_map(|place| ids.iter().map(move |id| place.join(id)).collect::<Vec<_>>())
        .filter(|place| place.exists())
        .collect();
    assert_eq!(left, Vec::<PathBuf>::new());
    assert!(
        !directory.join("state").exists(),
        "the machines' disks are gone"
    );
    assert!(directory.join("logs").exists(), "the logs stay");
}

fn twelve_pods_talk(lab: &Lab) {
    lab.apply_yaml(&deployment("default", "echo", 12, &[]))
        .unwrap();
    lab.wait_rollout("default", "deployment/echo", MINUTE)
        .unwrap();
    let pods = lab.pods("default", "app=echo").unwrap();
    let nodes: BTreeSet<&str> = pods.iter().map(|pod| pod.node.as_str()).collect();
    assert_eq!((pods.len(), nodes.len()), (12, 4));
    let matrix = Matrix::measure(lab, &pods, 80).unwrap();
    assert!(
        matrix.cells.iter().flatten().all(|answered| *answered),
        "\n{}",
        matrix.render(None, false)
    );
    let first = pods.first().unwrap();
    let last = pods
        .iter()
        .find(|pod| pod.node.starts_with('b') != first.node.starts_with('b'))
        .unwrap();
    lab.flow(first, last.address.parse().unwrap(), Duration::from_secs(3))
        .unwrap()
        .finish()
        .unwrap()
        .nothing_lost()
        .unwrap();
}

fn a_service_answers_in_both_modes(lab: &Lab) {
    lab.apply_yaml("apiVersion: v1\nkind: Service\nmetadata: {name: echo, namespace: default}\nspec: {selector: {app: echo}, ports: [{port: 8080, targetPort: 80}]}\n").unwrap();
    let address = lab
        .kubectl(&["get", "service", "echo", "-o=jsonpath={.spec.clusterIP}"])
        .unwrap();
    let target = format!("{address}:8080");
    let pod = lab
        .pods("default", "app=echo")
        .unwrap()
        .first()
        .unwrap()
        .clone();
    for mode in [ProxyMode::Nftables, ProxyMode::Iptables] {
        lab.each_node(|node| node.start_proxy(mode)).unwrap();
        lab.wait_for(
            &format!("the service to answer in mode {mode:?}"),
            MINUTE,
            || {
                lab.exec_in_pod(
                    "default",
                    &pod.name,
                    &["/run/tools/probe", "dial", "http", &target],
                )
                .map(|answer| answer.starts_with("echo-"))
            },
        )
        .unwrap();
    }
}

fn exec_and_logs_work(lab: &Lab) {
    let pod = lab
        .pods("default", "app=echo")
        .unwrap()
        .last()
        .unwrap()
        .clone();
    let answer = lab
        .kubectl(&[
            "exec",
            &pod.name,
            "--",
            "/probe",
            "dial",
            "http",
            "127.0.0.1:80",
        ])
        .unwrap();
    assert!(answer.starts_with(&pod.name), "{answer}");
    let logs = lab.kubectl(&["logs", &pod.name]).unwrap();
    assert!(logs.contains("serving as"), "{logs}");
}

#[test]
fn a_node_comes_back_after_a_power_cut_and_the_api_after_a_crash() {
    if skipped() {
        return;
    }
    let lab = Lab::one_subnet(2).unwrap();
    rival::install(&lab).unwrap();
    lab.wait_nodes_ready(MINUTE).unwrap();
    lab.stop_api();
    assert!(
        lab.kubectl(&["get", "nodes", "--request-timeout=2s"])
            .is_err()
    );
    lab.start_api().unwrap();
    lab.reboot("n1").unwrap();
    lab.apply_yaml(&deployment("default", "echo", 4, &[]))
        .unwrap();
    lab.wait_rollout("default", "deployment/echo", MINUTE)
        .unwrap();
    let pods = lab.pods("default", "app=echo").unwrap();
    let matrix = Matrix::measure(&lab, &pods, 80).unwrap();
    assert!(
        matrix.cells.iter().flatten().all(|answered| *answered),
        "\n{}",
        matrix.render(None, false)
    );
}
