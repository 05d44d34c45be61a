//! From small clusters to what the kernel should hold.

mod ipip;
mod ipv6;
#[path = "../../tests/kernel/world.rs"]
mod world;

use std::collections::BTreeSet;

use api::EncapMode::{Always, CrossSubnet, Never};
use model::Event;
use model::node::annotation;
use proptest::prelude::*;
use proptest::sample::Index;

use super::routes::Rank;
use super::settings::Bgp;
use super::*;
use crate::host::Device;
use crate::link::Shape;
use crate::route::{Hop, Protocol, Target};
use world::{affinity, annotated, block, endpoint, ipip_pool, pool, world};

/// Two racks: a1 (this), a2 in 10.1.0.0/24; b1 in 10.2.0.0/24. One block each.
fn cluster(vxlan: api::EncapMode) -> Vec<Event> {
    vec![
        node("a1", "10.1.0.11/24", Some("10.244.1.0")),
        node("a2", "10.1.0.12/24", Some("10.244.2.0")),
        node("b1", "10.2.0.11/24", Some("10.244.3.0")),
        pool("default", "10.244.0.0/16", vxlan, true),
        block("10.244.1.0/26", "a1", &[]),
        block("10.244.2.0/26", "a2", &[]),
        block("10.244.3.0/26", "b1", &[]),
        affinity("10.244.1.0/26", "a1", "confirmed"),
        affinity("10.244.2.0/26", "a2", "confirmed"),
        endpoint("cali1", "10.244.1.5", Some([2, 0, 0, 0, 0, 1])),
    ]
}

/// A node with its IPv4 address and, if given, its VXLAN tunnel address.
fn node(name: &str, address: &str, tunnel: Option<&str>) -> Event {
    let tunnel = tunnel.map(|tunnel| (annotation::IPV4_VXLAN_TUNNEL, tunnel));
    let mut told = vec![(annotation::IPV4_ADDRESS, address)];
    told.extend(tunnel);
    annotated(name, &told)
}

fn host() -> Host {
    let device = Device {
        index: 2,
        mtu: 1500,
        running: true,
        addresses: vec!["10.1.0.11/24".parse().unwrap()],
        ..Device::default()
    };
    Host {
        devices: BTreeMap::from([(name("eth0"), device)]),
        ..Host::default()
    }
}

fn name(text: &str) -> IfName {
    IfName::parse(text).unwrap()
}

fn planned(events: Vec<Event>, bgp: Bgp) -> Plan {
    plan(&world("a1", events), &host(), &Settings::new(bgp))
}

fn target(plan: &Plan, prefix: &str) -> Option<Target> {
    let prefix: IpNet = prefix.parse().unwrap();
    let found: Vec<_> = plan
        .desired
        .routes
        .iter()
        .filter(|(key, _)| key.prefix == prefix)
        .collect();
    assert!(found.len() < 2, "{found:?}");
    found.first().map(|(_, route)| route.target.clone())
}

fn hop(gateway: &str, device: &str) -> Target {
    Target::Hop(Hop {
        gateway: gateway.parse().unwrap(),
        device: name(device),
        onlink: true,
    })
}

#[test]
fn a_pod_is_a_link_route_a_neighbour_and_an_up_host_end() {
    let plan = planned(cluster(Never), Bgp::On);
    let route = &plan.desired.routes[&crate::RouteKey::new("10.244.1.5/32".parse().unwrap(), 1024)];
    assert_eq!(route.target, Target::Device(name("cali1")));
    assert_eq!(route.protocol, Protocol::PLANNED);
    assert!(plan.desired.workloads[&name("cali1")].up);
    let key = NeighbourKey {
        device: name("cali1"),
        address: "10.244.1.5".parse().unwrap(),
    };
    assert_eq!(plan.desired.neighbours[&key], Mac([2, 0, 0, 0, 0, 1]));
    assert_eq!(plan.findings, []);
}

#[test]
fn without_encapsulation_bgp_says_where_blocks_are_or_the_planner_when_it_is_off() {
    let on = planned(cluster(Never), Bgp::On);
    assert_eq!(target(&on, "10.244.2.0/26"), None);
    assert!(on.desired.tunnels.is_empty());
    let off = planned(cluster(Never), Bgp::Off);
    assert_eq!(
        target(&off, "10.244.2.0/26"),
        Some(hop("10.1.0.12", "eth0"))
    );
    assert_eq!(
        target(&off, "10.244.3.0/26"),
        Some(hop("10.2.0.11", "eth0"))
    );
}

#[test]
fn always_takes_the_tunnel_to_everyone() {
    let plan = planned(cluster(Always), Bgp::On);
    assert_eq!(
        target(&plan, "10.244.2.0/26"),
        Some(hop("10.244.2.0", "vxlan.calico"))
    );
    assert_eq!(
        target(&plan, "10.244.3.0/26"),
        Some(hop("10.244.3.0", "vxlan.calico"))
    );
    let route = &plan.desired.routes[&crate::RouteKey::new("10.244.3.0/26".parse().unwrap(), 0)];
    assert_eq!(route.mtu, Some(1450));
    let tunnel = &plan.desired.tunnels[&name("vxlan.calico")];
    let Shape::Vxlan(vxlan) = &tunnel.shape else {
        panic!("{tunnel:?}");
    };
    assert_eq!(
        (vxlan.vni, vxlan.port, vxlan.parent.as_str()),
        (4096, 4789, "eth0")
    );
    assert_eq!(tunnel.mtu, 1450);
    assert_eq!(plan.mtu.pod, 1450);
    assert_eq!(plan.desired.fdb.len(), 2);
    assert_eq!(plan.desired.addresses.len(), 1);
    assert_eq!(plan.nat.vxlan_port, Some(4789));
    assert_eq!(plan.nat.tunnel_sources.len(), 3);
    assert_eq!(plan.findings, []);
}

#[test]
fn cross_subnet_goes_straight_to_near_nodes_and_through_the_tunnel_to_far_ones() {
    let plan = planned(cluster(CrossSubnet), Bgp::On);
    assert_eq!(
        target(&plan, "10.244.2.0/26"),
        Some(hop("10.1.0.12", "eth0"))
    );
    assert_eq!(
        target(&plan, "10.244.3.0/26"),
        Some(hop("10.244.3.0", "vxlan.calico"))
    );
    assert_eq!(plan.mtu.pod, 1450, "pods may talk to far nodes");
}

#[test]
fn a_pool_that_stops_encapsulating_takes_the_device_away() {
    let mut events = cluster(Always);
    events.push(pool("default", "10.244.0.0/16", Never, true));
    let plan = planned(events, Bgp::On);
    assert!(plan.desired.tunnels.is_empty() && plan.desired.fdb.is_empty());
    assert_eq!(target(&plan, "10.244.3.0/26"), None);
    assert_eq!(plan.mtu.pod, 1500);
    assert_eq!(plan.nat.vxlan_port, None);
}

#[test]
fn a_device_nobody_needs_is_kept_while_others_may_still_send_through_it() {
    let tunnel = name("vxlan.calico");
    let mut host = host();
    host.devices.insert(tunnel.clone(), Device::default());
    let planned = |events: &[Event]| {
        let world = world("a1", events.to_vec());
        plan(&world, &host, &Settings::new(Bgp::On))
    };
    let mut events = cluster(Always);
    events.push(pool("default", "10.244.0.0/16", Never, true));
    events.push(node("a1", "10.1.0.11/24", None));
    events.push(node("a2", "10.1.0.12/24", None));
    let switching = planned(&events);
    assert!(switching.desired.tunnels.contains_key(&tunnel));
    assert!(switching.desired.addresses.is_empty() && switching.desired.fdb.is_empty());
    assert_eq!(target(&switching, "10.244.3.0/26"), None, "nothing is sent");
    assert_eq!(switching.nat.vxlan_port, Some(4789), "what comes is let in");
    events.push(node("b1", "10.2.0.11/24", None));
    let switched = planned(&events);
    assert!(switched.desired.tunnels.is_empty());
    assert_eq!(switched.nat.vxlan_port, None);
}

#[test]
fn only_confirmed_blocks_of_this_node_are_blackholes_and_never_single_addresses() {
    let mut events = cluster(Never);
    events.push(affinity("10.244.9.0/26", "a1", "pending"));
    events.push(affinity("10.244.9.64/26", "a1", "pendingDeletion"));
    events.push(affinity("10.244.9.128/32", "a1", "confirmed"));
    events.push(affinity("10.244.9.192/26", "a1", ""));
    let plan = planned(events, Bgp::On);
    let holes: BTreeSet<_> = plan
        .desired
        .routes
        .iter()
        .filter(|(_, route)| route.target == Target::Blackhole)
        .map(|(key, _)| key.prefix.to_string())
        .collect();
    assert_eq!(
        holes,
        BTreeSet::from(["10.244.1.0/26".into(), "10.244.9.192/26".into()])
    );
}

#[test]
fn a_borrowed_address_has_a_route_of_its_own_also_at_its_home() {
    let mut events = cluster(Always);
    events.push(block("10.244.1.0/26", "a1", &[(9, "b1")]));
    events.push(block("10.244.2.0/26", "a2", &[(7, "b1"), (8, "a1")]));
    let plan = planned(events, Bgp::On);
    assert_eq!(
        target(&plan, "10.244.1.9/32"),
        Some(hop("10.244.3.0", "vxlan.calico"))
    );
    assert_eq!(
        target(&plan, "10.244.2.7/32"),
        Some(hop("10.244.3.0", "vxlan.calico"))
    );
    assert_eq!(
        target(&plan, "10.244.2.8/32"),
        None,
        "ours: the pod's own route serves"
    );
}

#[test]
fn a_tunnel_address_outside_every_block_has_a_route_of_its_own() {
    let mut events = cluster(Always);
    events.push(node("b1", "10.2.0.11/24", Some("10.244.77.0")));
    let plan = planned(events, Bgp::On);
    assert_eq!(
        target(&plan, "10.244.77.0/32"),
        Some(Target::Device(name("vxlan.calico")))
    );
}

#[test]
fn what_is_missing_is_named_and_never_guessed() {
    let mut events = cluster(Always);
    events.push(node("a2", "10.1.0.12/24", None));
    events.push(block("10.244.4.0/26", "ghost", &[]));
    let plan = planned(events, Bgp::On);
    assert_eq!(target(&plan, "10.244.2.0/26"), None);
    assert_eq!(
        plan.findings,
        [
            Finding::NoNodeAddress {
                node: "ghost".into(),
                prefix: "10.244.4.0/26".parse().unwrap()
            },
            Finding::NoVtep {
                node: "a2".into(),
                prefix: "10.244.2.0/26".parse().unwrap()
            },
        ]
    );

    let mut events = cluster(Always);
    events.push(node("a1", "10.1.0.11/24", None));
    let plan = planned(events, Bgp::On);
    assert!(plan.desired.tunnels.is_empty());
    assert_eq!(
        plan.findings,
        [Finding::NoOwnTunnelAddress {
            device: name("vxlan.calico")
        }]
    );
}

#[test]
fn two_nodes_with_one_tunnel_address_do_not_share_it() {
    let mut events = cluster(Always);
    events.push(node("b1", "10.2.0.11/24", Some("10.244.2.0")));
    let plan = planned(events, Bgp::On);
    assert_eq!(
        target(&plan, "10.244.2.0/26"),
        Some(hop("10.244.2.0", "vxlan.calico"))
    );
    assert_eq!(target(&plan, "10.244.3.0/26"), None);
    let shared = |finding: &Finding| matches!(finding, Finding::SharedVtep { refused, .. } if refused.as_str() == "b1");
    assert!(plan.findings.iter().any(shared), "{:?}", plan.findings);
}

#[test]
fn a_block_around_a_node_address_is_not_tunnelled() {
    let mut events = cluster(Always);
    events.push(block("10.2.0.0/26", "b1", &[]));
    events.push(pool("other", "10.2.0.0/16", Always, false));
    let plan = planned(events, Bgp::On);
    assert_eq!(target(&plan, "10.2.0.0/26"), None);
    assert!(
        matches!(
            plan.findings.as_slice(),
            [Finding::NodeAddressInBlock { .. }]
        ),
        "{:?}",
        plan.findings
    );
}

#[test]
fn an_address_claimed_twice_goes_to_one() {
    let mut events = cluster(Never);
    events.push(endpoint("cali2", "10.244.1.5", None));
    let plan = planned(events, Bgp::On);
    assert_eq!(
        target(&plan, "10.244.1.5/32"),
        Some(Target::Device(name("cali1")))
    );
    assert!(matches!(
        plan.findings.as_slice(),
        [Finding::SharedAddress { .. }]
    ));
}

#[test]
fn hardware_addresses_are_derived_as_calico_does() {
    // SHA-1("abc") = a9993e364706816aba3e…
    let mac = tunnels::derive_mac(&"abc".into(), Family::V4);
    assert_eq!(mac.to_string(), "66:a9:99:3e:36:47");
    assert_ne!(tunnels::derive_mac(&"abc".into(), Family::V6), mac);
}

#[test]
fn nat_facts_count_disabled_pools_and_leave_out_load_balancers() {
    let mut events = cluster(Never);
    let balancer = api::IPPoolSpec {
        cidr: "192.0.2.0/24".into(),
        allowed_uses: vec![api::PoolUse::LoadBalancer],
        ..api::IPPoolSpec::default()
    };
    let disabled = api::IPPoolSpec {
        cidr: "10.99.0.0/16".into(),
        disabled: true,
        nat_outgoing: true,
        ..api::IPPoolSpec::default()
    };
    events.push(Event::upsert(api::IPPool::new("lb", balancer)));
    events.push(Event::upsert(api::IPPool::new("old", disabled)));
    let nat = planned(events, Bgp::On).nat;
    assert_eq!(nat.nat_pools.len(), 2);
    assert_eq!(nat.all_pools.len(), 2);
    assert!(nat.tunnel_sources.is_empty());
}

#[test]
fn the_better_rank_wins_a_key_and_the_loser_is_remembered() {
    let key = crate::RouteKey::new("10.244.3.0/26".parse().unwrap(), 0);
    let candidate = |rank, gateway: &str| routes::Candidate {
        rank,
        route: crate::Route {
            target: hop(gateway, "eth0"),
            protocol: Protocol::PLANNED,
            source: None,
            mtu: None,
        },
        reason: gateway.to_owned(),
    };
    let planned = Candidates::from([(key.clone(), vec![candidate(Rank::Blackhole, "1.1.1.1")])]);
    let learnt = Candidates::from([(
        key.clone(),
        vec![
            candidate(Rank::OtherBgp, "2.2.2.2"),
            candidate(Rank::NoEncap, "3.3.3.3"),
        ],
    )]);
    let merged = routes::merge(&planned, &learnt);
    assert_eq!(merged.chosen[&key].target, hop("3.3.3.3", "eth0"));
    let ranks: Vec<_> = merged.contested[&key].iter().map(|c| c.rank).collect();
    assert_eq!(ranks, [Rank::NoEncap, Rank::OtherBgp, Rank::Blackhole]);
}

fn mode() -> impl Strategy<Value = api::EncapMode> {
    prop_oneof![Just(Never), Just(Always), Just(CrossSubnet)]
}

proptest! {
    #[test]
    fn the_plan_does_not_depend_on_the_order_of_events(mode in mode(), swaps in proptest::collection::vec(any::<(Index, Index)>(), 0..20)) {
        let straight = cluster(mode);
        let mut shuffled = cluster(mode);
        for (a, b) in swaps {
            let (a, b) = (a.index(shuffled.len()), b.index(shuffled.len()));
            shuffled.swap(a, b);
        }
        prop_assert_eq!(planned(straight, Bgp::Off), planned(shuffled, Bgp::Off));
    }
}
