//! Two nodes with a pod each, in racks of their own over a router, in both families; everything planned from one World.

use std::io::{Read, Write};
use std::net::{IpAddr, TcpListener, TcpStream};
use std::time::Duration;

use crate::netns::{Ns, name, reaches};
use crate::world::{affinity, annotated, block, endpoint, world};
use dataplane::io::{Config, Driver, Report, SysctlRoot, Workloads};
use dataplane::plan::settings::{Bgp, Settings};
use dataplane::plan::workload::{Attachment, DefaultRoute, Forwarding};
use dataplane::{Finding, Plan, Retain};
use model::Event;
use model::node::annotation;

/// Pods' MTU: the smallest of all encapsulations over 1500.
const POD_MTU: u32 = 1430;
/// What a transfer carries: more than one packet of any size, and a window besides.
const TRANSFER: usize = 60_000;

pub(crate) struct Machine {
    name: &'static str,
    pub(crate) host: Ns,
    pub(crate) pod: Ns,
    /// IPv4, IPv6.
    pub(crate) addresses: [&'static str; 2],
    pub(crate) driver: Driver,
    endpoint: Event,
}

pub(crate) struct Racks {
    pub(crate) a1: Machine,
    pub(crate) b1: Machine,
    router: Ns,
}

impl Racks {
    pub(crate) async fn new() -> Self {
        let router = Ns::new();
        forward(&router);
        let a1 = Machine::new("a1", ["10.244.1.5", "fd00:10::105"]).await;
        let b1 = Machine::new("b1", ["10.244.3.5", "fd00:10::305"]).await;
        cable(&router, &a1.host, 1);
        cable(&router, &b1.host, 2);
        count(&router);
        Self { a1, b1, router }
    }

    /// Both nodes are made what these pools ask for.
    pub(crate) fn apply(&mut self, pools: &[Event]) -> (Report, Report) {
        (self.a1.apply(pools), self.b1.apply(pools))
    }

    pub(crate) fn ping(&self) -> Result<(), String> {
        self.reach(0)
    }

    pub(crate) fn ping6(&self) -> Result<(), String> {
        self.reach(1)
    }

    fn reach(&self, family: usize) -> Result<(), String> {
        let udp = |machine: &Machine| machine.pod.udp(machine.addresses[family]);
        reaches(&udp(&self.a1), &udp(&self.b1))
    }

    /// Changes what the uplinks carry, at both ends.
    pub(crate) fn set_mtu(&self, mtu: u32) {
        for (machine, port) in [(&self.a1, "p1"), (&self.b1, "p2")] {
            machine.host.ip(&format!("link set eth0 mtu {mtu}"));
            self.router.ip(&format!("link set {port} mtu {mtu}"));
        }
    }

    /// Full packets both ways.
    pub(crate) fn transfer(&self, family: usize) {
        let address: IpAddr = self.b1.addresses[family].parse().unwrap();
        let listener = self
            .b1
            .pod
            .inside(|| TcpListener::bind((address, 7008)).unwrap());
        let echo = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut bytes = vec![0; TRANSFER];
            stream.read_exact(&mut bytes).unwrap();
            stream.write_all(&bytes).unwrap();
        });
        let limit = Duration::from_secs(10);
        let mut stream = self
            .a1
            .pod
            .inside(|| TcpStream::connect_timeout(&(address, 7008).into(), limit).unwrap());
        stream.set_read_timeout(Some(limit)).unwrap();
        let sent: Vec<u8> = (0..TRANSFER).map(|n| n.to_le_bytes()[0]).collect();
        stream.write_all(&sent).unwrap();
        let mut back = vec![0; TRANSFER];
        stream.read_exact(&mut back).unwrap();
        assert_eq!(sent, back);
        echo.join().unwrap();
    }

    /// Packets that the router carried since it was last asked, by outer header; those of no pod left out.
    pub(crate) fn carried(&self) -> Vec<(String, u64)> {
        let text = self.router.run("nft", "reset counters table inet wire");
        let mut counted = Vec::new();
        let mut words = text.split_whitespace();
        while let Some(word) = words.next() {
            if word == "counter" {
                let kind = words.next().unwrap().to_owned();
                let packets = words.nth(2).unwrap().parse().unwrap();
                counted.push((kind, packets));
            }
        }
        counted.retain(|(_, packets)| *packets > 0);
        counted
    }

    /// Asserts how packets of pods travelled since it was last asked.
    pub(crate) fn assert_only(&self, kind: &str) {
        let carried = self.carried();
        let kinds: Vec<_> = carried.iter().map(|(kind, _)| kind.as_str()).collect();
        assert_eq!(kinds, [kind], "{carried:?}");
    }
}

impl Machine {
    async fn new(node: &'static str, addresses: [&'static str; 2]) -> Self {
        let (host, pod) = (Ns::new(), Ns::new());
        let workloads = Workloads::open_in(host.fd(), SysctlRoot::default()).unwrap();
        let recipe = dataplane::plan::workload::plan(&Attachment {
            host: name("cali1"),
            sandbox: name("eth0"),
            alias: "margay default/cali1 c0ffee".into(),
            addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
            mtu: POD_MTU,
            forwarding: Forwarding::Off,
            default_route: DefaultRoute::Always,
            routes: Vec::new(),
        })
        .unwrap();
        let attached = workloads.attach(recipe, pod.fd()).await.unwrap();
        let driver = Driver::open_in(&host.fd, Config::default()).unwrap();
        Self {
            name: node,
            host,
            pod,
            addresses,
            driver,
            endpoint: endpoint("cali1", &addresses.join(" "), Some(attached.sandbox.mac.0)),
        }
    }

    fn plan(&mut self, pools: &[Event]) -> Plan {
        self.plan_lacking(pools, None)
    }

    /// The plan for a kernel that may lack IP-in-IP.
    pub(crate) fn plan_lacking(&mut self, pools: &[Event], ipip: Option<String>) -> Plan {
        let mut events = cluster();
        events.push(self.endpoint.clone());
        events.extend(pools.iter().cloned());
        let mut host = self.driver.host().unwrap();
        host.lacks.ipip = ipip;
        let mut plan =
            dataplane::plan::plan(&world(self.name, events), &host, &Settings::new(Bgp::On));
        // The kernel takes a moment to notice that an uplink runs; its MTU is the same one.
        plan.findings
            .retain(|finding| !matches!(finding, Finding::NoMtuDevice { .. }));
        plan
    }

    pub(crate) fn apply(&mut self, pools: &[Event]) -> Report {
        let plan = self.plan(pools);
        assert_eq!(plan.findings, []);
        let report = self.driver.apply(plan.desired, Retain::NOTHING).unwrap();
        assert_eq!(report.refused, []);
        report
    }
}

/// Nodes that tell everything, and a block of each family for each.
fn cluster() -> Vec<Event> {
    let mut events = Vec::new();
    for (node, rack, n) in NODES {
        let [v4, v6] = addresses(rack);
        let told = [
            (annotation::IPV4_ADDRESS, v4),
            (annotation::IPV6_ADDRESS, v6),
            (annotation::IPV4_VXLAN_TUNNEL, format!("10.244.{n}.0")),
            (annotation::IPV6_VXLAN_TUNNEL, format!("fd00:10::{n}01")),
            (annotation::IPV4_IPIP_TUNNEL, format!("10.244.{n}.1")),
        ];
        events.push(telling(node, &told));
        for cidr in [format!("10.244.{n}.0/26"), format!("fd00:10::{n}00/122")] {
            events.push(block(&cidr, node, &[]));
            events.push(affinity(&cidr, node, "confirmed"));
        }
    }
    events
}

/// The same nodes once they have taken their tunnel addresses back.
pub(crate) fn without_tunnel_addresses() -> Vec<Event> {
    NODES
        .map(|(node, rack, _)| {
            let [v4, v6] = addresses(rack);
            telling(
                node,
                &[
                    (annotation::IPV4_ADDRESS, v4),
                    (annotation::IPV6_ADDRESS, v6),
                ],
            )
        })
        .to_vec()
}

/// Name, rack, number of the first block.
const NODES: [(&str, u8, u8); 2] = [("a1", 1, 1), ("b1", 2, 3)];

fn addresses(rack: u8) -> [String; 2] {
    [format!("10.{rack}.0.11/24"), format!("fd01:{rack}::11/64")]
}

fn telling(node: &str, told: &[(&str, String)]) -> Event {
    let told: Vec<_> = told
        .iter()
        .map(|(key, text)| (*key, text.as_str()))
        .collect();
    annotated(node, &told)
}

pub(crate) fn forward(ns: &Ns) {
    ns.write("/proc/sys/net/ipv4/ip_forward", "1");
    ns.write("/proc/sys/net/ipv6/conf/all/forwarding", "1");
}

/// Counts what the router carries, by outer header.
fn count(router: &Ns) {
    router.run("nft", "add table inet wire");
    router.run(
        "nft",
        "add chain inet wire seen { type filter hook forward priority 0 ; }",
    );
    for (kind, matches) in [
        ("vxlan4", "ip protocol udp udp dport 4789"),
        ("vxlan6", "ip6 nexthdr udp udp dport 4789"),
        ("ipip", "ip protocol 4"),
        ("plain4", "ip daddr 10.244.0.0/16"),
        ("plain6", "ip6 daddr fd00:10::/64"),
    ] {
        router.run("nft", &format!("add counter inet wire {kind}"));
        router.run(
            "nft",
            &format!("add rule inet wire seen {matches} counter name {kind}"),
        );
    }
}

/// Cables a host to the router, with a default route and without waiting for duplicate detection.
pub(crate) fn cable(router: &Ns, host: &Ns, rack: u8) {
    let pid = std::process::id();
    // The far end is moved by descriptor: the namespaces have no names.
    let fd = std::os::fd::AsRawFd::as_raw_fd(&host.fd);
    let port = format!("p{rack}");
    router.ip(&format!(
        "link add {port} type veth peer name eth0 netns /proc/{pid}/fd/{fd}"
    ));
    router.ip(&format!("addr add 10.{rack}.0.1/24 dev {port}"));
    router.ip(&format!("addr add fd01:{rack}::1/64 dev {port} nodad"));
    router.ip(&format!("link set {port} up"));
    host.ip(&format!("addr add 10.{rack}.0.11/24 dev eth0"));
    host.ip(&format!("addr add fd01:{rack}::11/64 dev eth0 nodad"));
    host.ip("link set eth0 up");
    host.ip(&format!("route add default via 10.{rack}.0.1"));
    host.ip(&format!("-6 route add default via fd01:{rack}::1"));
}
