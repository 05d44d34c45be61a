//! Both families through one dual-stack cluster in two racks: every kind of path at every distance in every encapsulation, switched
//! live; a dual-stack service and a policy of both families by the real kube-proxy.
#![expect(
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a scenario prints what it measured, and a failure ends it"
)]

use std::time::{Duration, Instant};

use lab::fabric::outside;
use lab::family::{Families, Family};
use lab::flow::Flow;
use lab::lab::{Options, Pod};
use lab::margay::Encapsulation;
use lab::matrix::paths::{self, Bed, Cell, Outcome, Place};
use lab::node::ProxyMode;
use lab::{Lab, Topology, requires};

const MINUTE: Duration = Duration::from_mins(1);
/// What may be silent while a path changes.
const SWITCH: Duration = Duration::from_millis(50);
/// Messages a second of a flow.
const RATE: u64 = 1_000;

fn skipped() -> bool {
    let missing = requires::missing();
    if missing.is_empty() {
        return false;
    }
    println!("SKIPPED: {}", missing.join("; "));
    true
}

#[test]
fn every_path_works_in_both_families_and_every_encapsulation() {
    if skipped() {
        return;
    }
    let topology = Topology::two_racks().speaking(Families::Dual);
    let lab = Lab::start(Options::new(topology)).unwrap();
    lab.install_margay_with(Encapsulation::VxlanAlways).unwrap();
    lab.wait_bgp(MINUTE).unwrap();
    let nodes = ["a1", "a2", "b1"];
    let stands = paths::prepare(&lab, &nodes, &["a1", "b1"]).unwrap();
    let _servers = paths::servers(&lab, &nodes).unwrap();
    let cells: Vec<Cell> = lab
        .families()
        .iter()
        .flat_map(|family| paths::cells(&stands, family, outside(family)))
        .collect();
    for encapsulation in [
        Encapsulation::VxlanAlways,
        Encapsulation::VxlanCrossSubnet,
        Encapsulation::Never,
    ] {
        encapsulate(&lab, encapsulation);
        every_path(&lab, &cells, encapsulation);
        large_packets(&lab, &cells, encapsulation);
    }
    switches_under_load(&lab);
    services_of_both_families_in_both_modes(&lab, &cells);
    a_policy_holds_in_both_families(&lab, &cells);
}

/// One subnet, the mesh, and not one IPv4 address but that of loopback links.
#[test]
fn a_cluster_of_ipv6_alone_does_without_any_ipv4_address() {
    if skipped() {
        return;
    }
    let topology = Topology::one_subnet(2).speaking(Families::Ipv6);
    let lab = Lab::start(Options::new(topology)).unwrap();
    lab.install_margay_with(Encapsulation::Never).unwrap();
    let nodes = ["n1", "n2"];
    let stands = paths::prepare(&lab, &nodes, &["n1"]).unwrap();
    let _servers = paths::servers(&lab, &nodes).unwrap();
    let cells = paths::cells(&stands, Family::V6, outside(Family::V6));
    every_path(&lab, &cells, Encapsulation::Never);
    let peers = ["exec", "ds/margay", "--", "/routed", "bgp", "peers"];
    let peers = lab
        .kubectl(&[&["-n", "margay-system"], &peers[..]].concat())
        .unwrap();
    assert!(
        peers.contains("fd01::1") && peers.contains("Established"),
        "the mesh speaks IPv6:\n{peers}"
    );
    for node in lab.nodes() {
        let addresses = node
            .exec(&["ip", "-4", "-o", "addr", "show", "scope", "global"])
            .unwrap();
        assert_eq!(addresses, "", "{} has IPv4 addresses", node.name());
    }
    for pod in pods(&lab) {
        assert_eq!(pod.addresses.len(), 1, "{pod:?}");
    }
}

fn encapsulate(lab: &Lab, encapsulation: Encapsulation) {
    for family in lab.families().iter() {
        lab.encapsulate(family, encapsulation).unwrap();
    }
}

/// Measures until all is as it must be: the nodes need a moment after a switch.
fn every_path(lab: &Lab, cells: &[Cell], encapsulation: Encapsulation) {
    let (start, mut last) = (Instant::now(), Vec::new());
    let outcome = lab.wait_for(
        &format!("every path with {encapsulation:?}"),
        Duration::from_secs(30),
        || {
            last = paths::measure(lab, cells)?;
            let complaints = complaints(&last, encapsulation);
            if complaints.is_empty() {
                return Ok(true);
            }
            anyhow::bail!("{}", complaints.join("\n"))
        },
    );
    print!("{}", paths::render(&last, encapsulation));
    println!(
        "  {} paths, small and 60 kB, in {:?}\n",
        last.len(),
        start.elapsed()
    );
    outcome
        .map_err(|error| error.context(lab.margay_logs(20)))
        .unwrap();
}

fn complaints(outcomes: &[Outcome], encapsulation: Encapsulation) -> Vec<String> {
    outcomes
        .iter()
        .flat_map(|outcome| outcome.complaints(encapsulation))
        .collect()
}

/// The largest packet that a pod may send arrives whole: the tunnel's headers were left room for.
fn large_packets(lab: &Lab, cells: &[Cell], encapsulation: Encapsulation) {
    for cell in cells {
        let (Place::Pod { node, name }, paths::Kind::PodToPod) = (&cell.from, cell.kind) else {
            continue;
        };
        let mtu = lab
            .node(node)
            .exec_in_pod(
                paths::NAMESPACE,
                name,
                &[
                    "sh",
                    "-c",
                    "ip -o link show eth0 | sed 's/.* mtu \\([0-9]*\\).*/\\1/'",
                ],
            )
            .unwrap();
        let [small, _large] = cell.dialled;
        let question = format!("packet={}", mtu.trim());
        let target = std::net::SocketAddr::new(small.ip(), 7).to_string();
        let answer = lab.probe(&cell.from, &["dial", &question, &target, "2000"]);
        let answer = answer
            .map_err(|error| error.context(format!("{cell} with {encapsulation:?}")))
            .unwrap();
        assert!(
            answer.starts_with(mtu.trim()),
            "{cell}: {answer}, expected {mtu}"
        );
    }
}

fn pods(lab: &Lab) -> Vec<Pod> {
    lab.pods(paths::NAMESPACE, "role").unwrap()
}

fn named<'a>(pods: &'a [Pod], name: &str) -> &'a Pod {
    pods.iter().find(|pod| pod.name == name).unwrap()
}

/// A stream and 1,000 messages a second in each family, inside a rack and across, while the pools are switched.
fn switches_under_load(lab: &Lab) {
    encapsulate(lab, Encapsulation::VxlanAlways);
    std::thread::sleep(Duration::from_secs(2));
    let pods = pods(lab);
    let from = named(&pods, "client-a1");
    let mut flows: Vec<(String, Flow)> = Vec::new();
    for family in lab.families().iter() {
        for to in ["server-a2", "server-b1"] {
            let address = named(&pods, to).of(family).unwrap();
            let flow = lab.flow(from, address, Duration::from_secs(9)).unwrap();
            flows.push((format!("{family} to {to}"), flow));
        }
    }
    std::thread::sleep(Duration::from_secs(2));
    let switches = [Encapsulation::VxlanCrossSubnet, Encapsulation::Never];
    for encapsulation in switches {
        encapsulate(lab, encapsulation);
        std::thread::sleep(Duration::from_secs(2));
    }
    let allowed = RATE * u64::try_from(SWITCH.as_millis()).unwrap() / 1_000;
    for (name, flow) in flows {
        let counts = flow.finish().unwrap();
        println!(
            "Always -> CrossSubnet -> Never, {name}: stream: {} of {} messages, longest gap {:?}; datagrams: {} lost of {}, longest gap {:?}",
            counts.tcp.received,
            counts.tcp.sent,
            counts.tcp.longest_gap,
            counts.udp.lost,
            counts.udp.sent,
            counts.udp.longest_gap,
        );
        assert_eq!(
            (counts.tcp.lost, &counts.tcp.error),
            (0, &None),
            "{name}: the stream lives"
        );
        let switches = u64::try_from(switches.len()).unwrap();
        assert!(
            counts.udp.lost <= allowed * switches,
            "{name}: {} datagrams lost in {switches} switches, {allowed} each are allowed",
            counts.udp.lost
        );
    }
}

/// kube-proxy's other mode: the service rows once more.
fn services_of_both_families_in_both_modes(lab: &Lab, cells: &[Cell]) {
    let services: Vec<Cell> = cells
        .iter()
        .filter(|cell| cell.kind == paths::Kind::PodToService)
        .cloned()
        .collect();
    lab.each_node(|node| node.start_proxy(ProxyMode::Iptables))
        .unwrap();
    println!("kube-proxy in iptables mode:");
    every_path(lab, &services, Encapsulation::Never);
    lab.each_node(|node| node.start_proxy(ProxyMode::Nftables))
        .unwrap();
}

/// One NetworkPolicy with an ipBlock of each family: who is named passes, everybody else does not, behind services too.
fn a_policy_holds_in_both_families(lab: &Lab, cells: &[Cell]) {
    let pods = pods(lab);
    let friend = named(&pods, "client-a1");
    let peer = |family| {
        let address = friend.of(family).unwrap();
        let length = if family == Family::V4 { 32 } else { 128 };
        format!("{{ipBlock: {{cidr: \"{address}/{length}\"}}}}")
    };
    let peers = lab.families().list(peer);
    let policy = format!(
        "apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {{name: friends, namespace: {namespace}}}
spec:
  podSelector: {{matchLabels: {{paths: server-a2}}}}
  policyTypes: [Ingress]
  ingress:
  - from: [{peers}]
",
        namespace = paths::NAMESPACE
    );
    let concerned: Vec<Cell> = cells
        .iter()
        .filter(|cell| cell.to == "a2")
        .filter(|cell| matches!(cell.kind, paths::Kind::PodToPod | paths::Kind::PodToService))
        .cloned()
        .collect();
    lab.apply_yaml(&policy).unwrap();
    lab.wait_for("the policy to hold in both families", MINUTE, || {
        for outcome in paths::measure(lab, &concerned)? {
            let allowed = outcome.cell.from.node() == "a1";
            for answer in &outcome.answers {
                anyhow::ensure!(
                    answer.starts_with("yes ") == allowed,
                    "{}: {answer}",
                    outcome.cell
                );
            }
        }
        Ok(true)
    })
    .unwrap();
    println!(
        "a NetworkPolicy with both families: {} paths as it says",
        concerned.len()
    );
    lab.delete_yaml(&policy).unwrap();
}
