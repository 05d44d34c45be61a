//! IPv6 beside IPv4.

use super::*;

/// The same two racks with IPv6 beside IPv4, and one IPv6 block each.
pub(super) fn dual(vxlan: api::EncapMode) -> Vec<Event> {
    let tell = |n: u8, rack: u8| {
        [
            (annotation::IPV4_ADDRESS, format!("10.{rack}.0.1{n}/24")),
            (annotation::IPV6_ADDRESS, format!("fd01:{rack}::1{n}/64")),
            (annotation::IPV6_VXLAN_TUNNEL, format!("fd00:10::{n}40")),
        ]
    };
    let mut events = vec![
        pool("six", "fd00:10::/64", vxlan, true),
        block("fd00:10::100/122", "a1", &[]),
        block("fd00:10::200/122", "a2", &[]),
        block("fd00:10::300/122", "b1", &[]),
        affinity("fd00:10::100/122", "a1", "confirmed"),
        affinity("fd00:10::180/128", "a1", "confirmed"),
        endpoint("cali6", "10.244.1.6 fd00:10::106", Some([2, 0, 0, 0, 0, 6])),
    ];
    for (node, n, rack) in [("a1", 1, 1), ("a2", 2, 1), ("b1", 3, 2)] {
        let told = tell(n, rack);
        let told: Vec<_> = told
            .iter()
            .map(|(key, text)| (*key, text.as_str()))
            .collect();
        events.push(annotated(node, &told));
    }
    events
}

pub(super) fn dual_host() -> Host {
    let mut host = host();
    let eth0 = host.devices.get_mut(&name("eth0")).unwrap();
    // In the order of `dual`: a1 is 10.1.0.11 and fd01:1::11.
    eth0.addresses.push("fd01:1::11/64".parse().unwrap());
    host
}

pub(super) fn planned_dual(events: Vec<Event>, bgp: Bgp) -> Plan {
    plan(&world("a1", events), &dual_host(), &Settings::new(bgp))
}

#[test]
fn an_ipv6_pod_is_a_link_route_a_neighbour_and_the_gateway_on_its_host_end() {
    let plan = planned_dual(dual(Never), Bgp::On);
    let device = name("cali6");
    for address in ["10.244.1.6", "fd00:10::106"] {
        let address: IpAddr = address.parse().unwrap();
        let key = crate::RouteKey::new(address.into(), 1024);
        assert_eq!(
            plan.desired.routes[&key].target,
            Target::Device(device.clone())
        );
        let key = NeighbourKey {
            device: device.clone(),
            address,
        };
        assert_eq!(plan.desired.neighbours[&key], Mac([2, 0, 0, 0, 0, 6]));
    }
    let gateway = AddressKey {
        device,
        address: "fe80::ecee:eeff:feee:eeee/64".parse().unwrap(),
    };
    assert_eq!(
        plan.desired.addresses,
        BTreeMap::from([(gateway, Lifetime::Forever)])
    );
    let hole = crate::RouteKey::new("fd00:10::100/122".parse().unwrap(), 0);
    assert_eq!(plan.desired.routes[&hole].target, Target::Blackhole);
    assert_eq!(hole.metric, 1024);
    assert_eq!(
        target(&plan, "fd00:10::180/128"),
        None,
        "it would hide the pod"
    );
    assert_eq!(plan.findings, []);
}

#[test]
fn ipv6_pools_are_native_or_tunnelled_over_ipv6_by_the_same_rules() {
    for (mode, near, far) in [
        (Never, ("fd01:1::12", "eth0"), ("fd01:2::13", "eth0")),
        (
            CrossSubnet,
            ("fd01:1::12", "eth0"),
            ("fd00:10::340", "vxlan-v6.calico"),
        ),
        (
            Always,
            ("fd00:10::240", "vxlan-v6.calico"),
            ("fd00:10::340", "vxlan-v6.calico"),
        ),
    ] {
        let plan = planned_dual(dual(mode), Bgp::Off);
        assert_eq!(
            target(&plan, "fd00:10::200/122"),
            Some(hop(near.0, near.1)),
            "{mode:?}"
        );
        assert_eq!(
            target(&plan, "fd00:10::300/122"),
            Some(hop(far.0, far.1)),
            "{mode:?}"
        );
        assert_eq!(plan.findings, [], "{mode:?}");
    }
    let plan = planned_dual(dual(Always), Bgp::On);
    let tunnel = &plan.desired.tunnels[&name("vxlan-v6.calico")];
    let Shape::Vxlan(vxlan) = &tunnel.shape else {
        panic!("{tunnel:?}");
    };
    assert_eq!(vxlan.local, "fd01:1::11".parse::<IpAddr>().unwrap());
    assert_eq!(vxlan.mac, tunnels::derive_mac(&"a1".into(), Family::V6));
    assert_eq!((tunnel.mtu, plan.mtu.pod), (1430, 1430));
    let nodes: BTreeSet<_> = plan.desired.fdb.values().map(ToString::to_string).collect();
    assert_eq!(
        nodes,
        BTreeSet::from(["fd01:1::12".into(), "fd01:2::13".into()])
    );
    assert_eq!(plan.nat.vxlan_port, Some(4789));
    assert_eq!(
        plan.nat.nat_pools,
        BTreeSet::from(["fd00:10::/64".parse().unwrap()])
    );
    assert_eq!(
        plan.nat.tunnels[0].address,
        "fd00:10::140".parse::<IpAddr>().unwrap()
    );
    assert!(
        plan.nat
            .tunnel_sources
            .contains(&"fd01:2::13/128".parse().unwrap())
    );
}

#[test]
fn what_one_family_lacks_leaves_the_other_whole() {
    let mut events = dual(Always);
    let four = cluster(Always);
    // Nodes of `dual` tell everything of both families but the IPv4 tunnel addresses.
    events.extend(four.into_iter().skip(3));
    let plan = planned_dual(events, Bgp::On);
    assert_eq!(
        target(&plan, "fd00:10::300/122"),
        Some(hop("fd00:10::340", "vxlan-v6.calico"))
    );
    assert_eq!(target(&plan, "10.244.3.0/26"), None);
    assert_eq!(
        plan.findings,
        [Finding::NoOwnTunnelAddress {
            device: name("vxlan.calico")
        }]
    );
    assert_eq!(plan.desired.tunnels.len(), 1);
}

#[test]
fn without_ipv6_support_nothing_of_ipv6_is_planned() {
    let spec = api::FelixConfigurationSpec {
        ipv6_support: Some(false),
        ..api::FelixConfigurationSpec::default()
    };
    let (settings, _) = Settings::read(Bgp::Off, &spec);
    let plan = plan(&world("a1", dual(Always)), &dual_host(), &settings);
    let six = |key: &&crate::RouteKey| key.prefix.addr().is_ipv6() && key.metric != 1024;
    assert_eq!(plan.desired.routes.keys().find(six), None);
    assert!(plan.desired.tunnels.is_empty() && plan.desired.addresses.is_empty());
    assert_eq!(
        plan.desired.settings,
        BTreeMap::from([(Sysctl::Ipv4Forward, 1)])
    );
}

#[test]
fn an_uplink_that_lives_from_routers_hears_them_also_when_the_host_forwards() {
    let wanted = |routers, events| {
        let mut host = dual_host();
        host.devices.get_mut(&name("eth0")).unwrap().routers = routers;
        plan(&world("a1", events), &host, &Settings::new(Bgp::On))
            .desired
            .settings
    };
    let forward = BTreeMap::from([(Sysctl::Ipv4Forward, 1), (Sysctl::Ipv6AllForwarding, 1)]);
    assert_eq!(wanted(Routers::Unheard, dual(Never)), forward);
    assert_eq!(wanted(Routers::Heard, dual(Never)), forward);
    let hears = Sysctl::Ipv6Device(name("eth0"), Ipv6Key::AcceptRa);
    let settings = wanted(Routers::HeardByHosts, dual(Never));
    assert_eq!(settings.get(&hears), Some(&2));
    let order: Vec<_> = settings.keys().collect();
    assert_eq!(
        order.last(),
        Some(&&Sysctl::Ipv6AllForwarding),
        "afterwards it would be too late"
    );
    let four = wanted(Routers::HeardByHosts, cluster(Never));
    assert_eq!(
        four,
        BTreeMap::from([(Sysctl::Ipv4Forward, 1)]),
        "no IPv6 pool"
    );
}
