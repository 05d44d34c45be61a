//! IP-in-IP, alone and beside other encapsulations.

use super::ipv6::{dual, dual_host, planned_dual};
use super::*;

/// `cluster` with its pool in IP-in-IP; nodes tell their tunnel addresses.
fn ipip_cluster(mode: api::EncapMode) -> Vec<Event> {
    let mut events = cluster(Never);
    events.push(ipip_pool("default", "10.244.0.0/16", mode));
    for (node, address, tunnel) in [
        ("a1", "10.1.0.11/24", "10.244.1.1"),
        ("a2", "10.1.0.12/24", "10.244.2.1"),
        ("b1", "10.2.0.11/24", "10.244.3.1"),
    ] {
        let told = [
            (annotation::IPV4_ADDRESS, address),
            (annotation::IPV4_IPIP_TUNNEL, tunnel),
        ];
        events.push(annotated(node, &told));
    }
    events
}

#[test]
fn ipip_goes_to_the_node_address_over_the_device_of_the_module() {
    let plan = planned(ipip_cluster(Always), Bgp::On);
    assert_eq!(
        target(&plan, "10.244.2.0/26"),
        Some(hop("10.1.0.12", "tunl0"))
    );
    assert_eq!(
        target(&plan, "10.244.3.0/26"),
        Some(hop("10.2.0.11", "tunl0"))
    );
    let route = &plan.desired.routes[&crate::RouteKey::new("10.244.3.0/26".parse().unwrap(), 0)];
    assert_eq!((route.mtu, route.protocol), (Some(1480), Protocol::PLANNED));
    let tunnel = crate::Tunnel {
        shape: Shape::Ipip,
        mtu: 1480,
        up: true,
        marked: true,
    };
    assert_eq!(
        plan.desired.tunnels,
        BTreeMap::from([(name("tunl0"), tunnel)])
    );
    let address = AddressKey {
        device: name("tunl0"),
        address: "10.244.1.1/32".parse().unwrap(),
    };
    assert_eq!(
        plan.desired.addresses,
        BTreeMap::from([(address, Lifetime::Forever)])
    );
    assert!(plan.desired.fdb.is_empty());
    assert_eq!(plan.mtu.pod, 1480);
    assert_eq!(
        (plan.nat.vxlan_port, plan.nat.tunnel_sources.len()),
        (None, 3)
    );
    assert_eq!(plan.nat.tunnels[0].device, "tunl0");
    assert_eq!(plan.ipip_peer(), Some("10.1.0.12".parse().unwrap()));
    assert_eq!(planned(cluster(Always), Bgp::On).ipip_peer(), None);
    assert_eq!(plan.findings, []);
}

#[test]
fn ipip_across_subnets_is_straight_to_near_nodes() {
    let plan = planned(ipip_cluster(CrossSubnet), Bgp::On);
    assert_eq!(
        target(&plan, "10.244.2.0/26"),
        Some(hop("10.1.0.12", "eth0"))
    );
    assert_eq!(
        target(&plan, "10.244.3.0/26"),
        Some(hop("10.2.0.11", "tunl0"))
    );
    let ranks: BTreeSet<_> = plan.candidates.values().flatten().map(|c| c.rank).collect();
    assert!(ranks.contains(&Rank::IpipSameSubnet) && ranks.contains(&Rank::IpipTunnel));
}

#[test]
fn a_kernel_without_ipip_says_so_for_the_pool_and_nothing_is_guessed() {
    let mut host = host();
    host.lacks.ipip = Some("Unknown device type".into());
    let plan = plan(
        &world("a1", ipip_cluster(CrossSubnet)),
        &host,
        &Settings::new(Bgp::On),
    );
    assert_eq!(
        target(&plan, "10.244.2.0/26"),
        Some(hop("10.1.0.12", "eth0"))
    );
    assert_eq!(target(&plan, "10.244.3.0/26"), None);
    assert!(plan.desired.tunnels.is_empty());
    assert_eq!(
        plan.findings,
        [Finding::KernelLacks {
            pool: "default".into(),
            what: "IP-in-IP",
            reason: "Unknown device type".into()
        }]
    );
    assert!(plan.findings[0].to_string().contains("load the module"));
}

#[test]
fn ipip_of_an_ipv6_pool_is_told_and_not_routed() {
    let mut events = dual(Never);
    events.push(ipip_pool("six", "fd00:10::/64", Always));
    let plan = planned_dual(events, Bgp::Off);
    assert_eq!(target(&plan, "fd00:10::300/122"), None);
    assert_eq!(plan.findings, [Finding::Ipv6InIpip { pool: "six".into() }]);
}

#[test]
fn pools_of_different_modes_stand_side_by_side_and_a_switch_touches_its_own_routes_only() {
    let events = |second: Event| {
        let mut events = ipip_cluster(Always);
        for (node, address, n) in [
            ("a1", "10.1.0.11/24", 1),
            ("a2", "10.1.0.12/24", 2),
            ("b1", "10.2.0.11/24", 3),
        ] {
            let (ipip, vxlan) = (format!("10.244.{n}.1"), format!("10.245.{n}.0"));
            let told = [
                (annotation::IPV4_ADDRESS, address),
                (annotation::IPV4_IPIP_TUNNEL, ipip.as_str()),
                (annotation::IPV4_VXLAN_TUNNEL, vxlan.as_str()),
            ];
            events.push(annotated(node, &told));
        }
        events.push(second);
        events.push(block("10.245.3.0/26", "b1", &[]));
        events.push(pool("third", "10.246.0.0/16", Never, true));
        events.push(block("10.246.3.0/26", "b1", &[]));
        events
    };
    let before = planned(
        events(pool("second", "10.245.0.0/16", Always, true)),
        Bgp::Off,
    );
    assert_eq!(
        target(&before, "10.244.3.0/26"),
        Some(hop("10.2.0.11", "tunl0"))
    );
    assert_eq!(
        target(&before, "10.245.3.0/26"),
        Some(hop("10.245.3.0", "vxlan.calico"))
    );
    assert_eq!(
        target(&before, "10.246.3.0/26"),
        Some(hop("10.2.0.11", "eth0"))
    );
    assert_eq!(before.mtu.pod, 1450, "the smallest of them");
    let after = planned(
        events(ipip_pool("second", "10.245.0.0/16", Always)),
        Bgp::Off,
    );
    let changed: BTreeSet<_> = after
        .desired
        .routes
        .iter()
        .filter(|(key, route)| before.desired.routes.get(key) != Some(route))
        .map(|(key, _)| key.prefix.to_string())
        .collect();
    assert_eq!(changed, BTreeSet::from(["10.245.3.0/26".into()]));
    assert_eq!(
        before.desired.tunnels.get(&name("tunl0")),
        after.desired.tunnels.get(&name("tunl0"))
    );
    assert!(!after.desired.tunnels.contains_key(&name("vxlan.calico")));
}

proptest! {
    /// Whatever a node tells of itself or keeps to itself, in whatever mode: no route without a way, no gateway on a device that is
    /// not planned, no family over the other's tunnel.
    #[test]
    fn every_route_leads_somewhere(
        mode in mode(),
        ipip in any::<bool>(),
        lacks in any::<bool>(),
        told in proptest::collection::vec(any::<[bool; 5]>(), 3),
    ) {
        let mut events = dual(mode);
        events.extend(cluster(mode).into_iter().skip(3));
        if ipip {
            let mut spec = ipip_pool("default", "10.244.0.0/16", mode);
            std::mem::swap(events.last_mut().unwrap(), &mut spec);
            events.push(spec);
        }
        for (n, told) in told.iter().enumerate() {
            let rack = [1, 1, 2][n];
            let all = [
                (annotation::IPV4_ADDRESS, format!("10.{rack}.0.1{}/24", n + 1)),
                (annotation::IPV6_ADDRESS, format!("fd01:{rack}::1{}/64", n + 1)),
                (annotation::IPV4_VXLAN_TUNNEL, format!("10.244.{}.0", n + 1)),
                (annotation::IPV6_VXLAN_TUNNEL, format!("fd00:10::{}40", n + 1)),
                (annotation::IPV4_IPIP_TUNNEL, format!("10.244.{}.1", n + 1)),
            ];
            let kept = all.iter().zip(told).filter(|(_, told)| **told);
            let kept: Vec<_> = kept.map(|((key, text), _)| (*key, text.as_str())).collect();
            events.push(annotated(["a1", "a2", "b1"][n], &kept));
        }
        let mut host = dual_host();
        host.lacks.ipip = lacks.then(|| "no".to_owned());
        let plan = plan(&world("a1", events), &host, &Settings::new(Bgp::Off));
        for (key, route) in &plan.desired.routes {
            let Target::Hop(hop) = &route.target else { continue };
            let planned = plan.desired.tunnels.contains_key(&hop.device);
            prop_assert!(planned || hop.device == name("eth0"), "{key}: {hop:?}");
            prop_assert_eq!(hop.gateway.is_ipv6(), key.prefix.addr().is_ipv6());
            let six = hop.device == name("vxlan-v6.calico");
            prop_assert!(!planned || six == key.prefix.addr().is_ipv6(), "{key}: {hop:?}");
        }
        for address in plan.desired.addresses.keys() {
            prop_assert!(
                plan.desired.tunnels.contains_key(&address.device)
                    || plan.desired.workloads.contains_key(&address.device)
            );
        }
    }
}
