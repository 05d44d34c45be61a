//! Two nodes in a real kernel, planned from one World: VXLAN on, switched live, off.

use crate::netns::{Ns, name, reaches};
use crate::world::{affinity, block, endpoint, node, pool, world};
use api::EncapMode::{self, Always, CrossSubnet, Never};
use dataplane::io::{Config, Driver, Report, SysctlRoot, Workloads};
use dataplane::plan::settings::{Bgp, Settings};
use dataplane::plan::workload::{Attachment, DefaultRoute, Forwarding};
use dataplane::{Plan, Retain};
use model::Event;

struct Machine {
    name: &'static str,
    host: Ns,
    pod: Ns,
    pod_address: &'static str,
    driver: Driver,
    endpoint: Event,
}

/// a1 and b1 over a router; `a2` in the World only.
struct Racks {
    a1: Machine,
    b1: Machine,
    _router: Ns,
}

impl Racks {
    async fn new() -> Self {
        let router = Ns::new();
        std_forward(&router);
        let a1 = Machine::new("a1", "10.1.0.11/24", "10.244.1.5").await;
        let b1 = Machine::new("b1", "10.2.0.11/24", "10.244.3.5").await;
        cable(&router, &a1.host, "10.1.0.1/24", "10.1.0.11/24");
        cable(&router, &b1.host, "10.2.0.1/24", "10.2.0.11/24");
        a1.host.ip("route add default via 10.1.0.1");
        b1.host.ip("route add default via 10.2.0.1");
        Self {
            a1,
            b1,
            _router: router,
        }
    }

    fn apply(&mut self, mode: EncapMode) -> (Report, Report) {
        (self.a1.apply(mode), self.b1.apply(mode))
    }

    fn ping(&self) -> Result<(), String> {
        reaches(
            &self.a1.pod.udp(self.a1.pod_address),
            &self.b1.pod.udp(self.b1.pod_address),
        )
    }
}

impl Machine {
    async fn new(node: &'static str, _address: &str, pod_address: &'static str) -> Self {
        let (host, pod) = (Ns::new(), Ns::new());
        let workloads = Workloads::open_in(host.fd(), SysctlRoot::default()).unwrap();
        let recipe = dataplane::plan::workload::plan(&Attachment {
            host: name("cali1"),
            sandbox: name("eth0"),
            alias: "margay default/cali1 c0ffee".into(),
            addresses: vec![pod_address.parse().unwrap()],
            mtu: 1450,
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
            pod_address,
            driver,
            endpoint: endpoint("cali1", pod_address, Some(attached.sandbox.mac.0)),
        }
    }

    fn plan(&mut self, mode: EncapMode, bgp: Bgp) -> Plan {
        let events = [
            node("a1", "10.1.0.11/24", Some("10.244.1.0")),
            node("b1", "10.2.0.11/24", Some("10.244.3.0")),
            pool("default", "10.244.0.0/16", mode, true),
            block("10.244.1.0/26", "a1", &[]),
            block("10.244.3.0/26", "b1", &[]),
            affinity("10.244.1.0/26", "a1", "confirmed"),
            affinity("10.244.3.0/26", "b1", "confirmed"),
            self.endpoint.clone(),
        ];
        let host = self.driver.host().unwrap();
        dataplane::plan::plan(&world(self.name, events), &host, &Settings::new(bgp))
    }

    fn apply(&mut self, mode: EncapMode) -> Report {
        let plan = self.plan(mode, Bgp::On);
        assert_eq!(
            plan.findings
                .iter()
                .filter(|f| !f.to_string().contains("mtuIfacePattern"))
                .count(),
            0
        );
        let report = self.driver.apply(plan.desired, Retain::NOTHING).unwrap();
        assert_eq!(report.refused, []);
        report
    }
}

fn std_forward(ns: &Ns) {
    netlink::netns::run_in(&ns.fd, || {
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "1")
    })
    .unwrap()
    .unwrap();
}

fn cable(router: &Ns, host: &Ns, gateway: &str, address: &str) {
    static PORTS: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let port = PORTS.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let pid = std::process::id();
    // The far end is moved by descriptor: the namespaces have no names.
    let fd = std::os::fd::AsRawFd::as_raw_fd(&host.fd);
    router.ip(&format!(
        "link add p{port} type veth peer name eth0 netns /proc/{pid}/fd/{fd}"
    ));
    router.ip(&format!("addr add {gateway} dev p{port}"));
    router.ip(&format!("link set p{port} up"));
    host.ip(&format!("addr add {address} dev eth0"));
    host.ip("link set eth0 up");
}

#[tokio::test]
async fn vxlan_carries_pods_between_subnets_and_a_restart_sends_nothing() {
    let mut racks = Racks::new().await;
    let (sent, _) = racks.apply(Always);
    assert!(sent.sent > 0);
    assert_eq!(racks.ping(), Ok(()));
    let device = racks.a1.host.ip("-d link show vxlan.calico");
    for part in [
        "id 4096",
        "local 10.1.0.11 dev eth0",
        "dstport 4789",
        "nolearning",
        "mtu 1450",
        "alias margay",
    ] {
        assert!(device.contains(part), "{part}: {device}");
    }
    assert!(
        racks
            .a1
            .host
            .ip("addr show vxlan.calico")
            .contains("inet 10.244.1.0/32")
    );
    let routes = racks.a1.host.ip("route show 10.244.3.0/26");
    assert!(
        routes.contains("nhid") && routes.contains("mtu 1450"),
        "{routes}"
    );
    assert!(
        racks
            .a1
            .host
            .ip("neigh show dev vxlan.calico")
            .contains("10.244.3.0 lladdr 66:")
    );
    assert!(
        racks
            .a1
            .host
            .run("bridge", "fdb show dev vxlan.calico")
            .contains("dst 10.2.0.11")
    );
    assert!(
        racks
            .a1
            .host
            .ip("route show type blackhole")
            .contains("10.244.1.0/26")
    );

    let (one, two) = racks.apply(Always);
    assert_eq!((one.sent, two.sent), (0, 0));
    racks.a1.driver = Driver::open_in(&racks.a1.host.fd, Config::default()).unwrap();
    assert_eq!(racks.a1.apply(Always).sent, 0, "adoption changes nothing");
}

#[tokio::test]
async fn the_mode_of_a_pool_is_switched_live() {
    let mut racks = Racks::new().await;
    racks.apply(Always);
    racks.ping().unwrap();
    // Both nodes lie in different subnets, so CrossSubnet keeps the tunnel and everything in it.
    let (one, two) = racks.apply(CrossSubnet);
    assert_eq!((one.sent, two.sent), (0, 0));

    let (off, _) = racks.apply(Never);
    assert!(off.sent > 0);
    assert!(!racks.a1.host.ip("link").contains("vxlan.calico"));
    assert!(!racks.a1.host.ip("route").contains("10.244.3.0/26"));
    assert_eq!(racks.a1.host.ip("nexthop").trim(), "");
    assert!(racks.ping().is_err(), "nobody routes it now");

    racks.apply(Always);
    assert_eq!(racks.ping(), Ok(()));
}

#[tokio::test]
async fn what_somebody_breaks_is_put_back() {
    let mut racks = Racks::new().await;
    racks.apply(Always);
    racks.a1.host.ip("neigh del 10.244.3.0 dev vxlan.calico");
    racks.a1.host.ip("addr flush dev vxlan.calico");
    racks.a1.host.ip("link set cali1 down");
    racks.a1.host.ip("link set vxlan.calico mtu 1300");
    for table in dataplane::Table::ALL {
        racks.a1.driver.forget(table);
    }
    assert!(racks.a1.apply(Always).sent > 0);
    assert_eq!(racks.ping(), Ok(()));
    racks.a1.host.ip("link del vxlan.calico");
    racks.a1.driver.forget(dataplane::Table::Links);
    racks.a1.apply(Always);
    assert_eq!(racks.ping(), Ok(()));
    assert_eq!(racks.a1.apply(Always).sent, 0);
}

#[tokio::test]
async fn a_device_of_calico_is_adopted_and_a_foreign_one_replaced() {
    let mut racks = Racks::new().await;
    let mac =
        dataplane::plan::tunnels::derive_mac(&"a1".into(), dataplane::plan::pools::Family::V4);
    racks.a1.host.ip(&format!(
        "link add vxlan.calico address {mac} mtu 1450 type vxlan id 4096 local 10.1.0.11 dev eth0 dstport 4789 nolearning"
    ));
    racks.a1.host.ip("link set vxlan.calico up");
    let before = racks.a1.host.ip("-o link show vxlan.calico");
    racks.apply(Always);
    let after = racks.a1.host.ip("-o link show vxlan.calico");
    let index = |line: &str| line.split(':').next().unwrap().to_owned();
    assert_eq!(index(&before), index(&after), "not made again");
    racks.ping().unwrap();

    racks.a1.host.ip("link del vxlan.calico");
    racks
        .a1
        .host
        .ip("link add vxlan.calico type vxlan id 7 dstport 4789 dev eth0");
    racks.a1.driver.forget(dataplane::Table::Links);
    racks.a1.apply(Always);
    assert_eq!(racks.ping(), Ok(()));
}
