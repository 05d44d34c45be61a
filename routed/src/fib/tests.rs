//! Learnt routes become candidates, or a reason why not.

use bgp::Asn;
use bgp::speaker::{NextHop, PeerKey};
use dataplane::host::{Device, Host};
use dataplane::link::IfName;
use dataplane::plan::pools::Pools;
use dataplane::plan::settings::{Bgp, Settings};
use model::{Event, Kind, World};
use proptest::prelude::*;
use serde_json::json;

use super::*;

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn device(text: &str) -> IfName {
    IfName::parse(text).unwrap()
}

fn object<T: serde::de::DeserializeOwned + Into<model::Object>>(
    kind: &str,
    name: &str,
    spec: &serde_json::Value,
) -> Event {
    let value = json!({ "apiVersion": "projectcalico.org/v3", "kind": kind, "metadata": { "name": name }, "spec": spec });
    Event::upsert(serde_json::from_value::<T>(value).unwrap())
}

fn world() -> World {
    let mut world = World::new("a1".into());
    world.apply(object::<api::IPPool>(
        "IPPool",
        "plain",
        &json!({ "cidr": "10.244.0.0/16" }),
    ));
    world.apply(object::<api::IPPool>(
        "IPPool",
        "tunnelled",
        &json!({ "cidr": "10.245.0.0/16", "vxlanMode": "CrossSubnet" }),
    ));
    let services = json!({ "serviceClusterIPs": [{ "cidr": "10.96.0.0/12" }] });
    world.apply(object::<api::BGPConfiguration>(
        "BGPConfiguration",
        "default",
        &services,
    ));
    for kind in Kind::ALL {
        world.apply(Event::Synced(*kind));
    }
    world
}

fn host(running: bool) -> Host {
    let up = |index, net: &str, running| Device {
        index,
        mtu: 1500,
        running,
        addresses: vec![self::net(net)],
        ..Device::default()
    };
    Host {
        devices: BTreeMap::from([
            (device("eth0"), up(2, "10.1.0.11/24", true)),
            (device("eth1"), up(3, "10.3.0.11/24", running)),
        ]),
        ..Host::default()
    }
}

fn facts_on(host: &Host) -> Facts {
    let world = world();
    let (pools, _) = Pools::read(&world);
    let gateway = Hop {
        gateway: address("10.1.0.1"),
        device: device("eth0"),
        onlink: false,
    };
    Facts::read(
        &world,
        host,
        &pools,
        &Settings::new(Bgp::On),
        Underlay::from([(net("10.2.0.0/16"), gateway)]),
    )
}

fn facts() -> Facts {
    facts_on(&host(true))
}

fn best(next_hops: &[&str]) -> BestRoute {
    BestRoute {
        next_hops: next_hops
            .iter()
            .map(|text| NextHop {
                address: address(text),
            })
            .collect(),
        source: RouteSource::Peer {
            key: PeerKey::from(address("10.1.0.1")),
            asn: Asn(65001),
            external: true,
        },
        as_path: Arc::from([Asn(65001), Asn(64513)]),
        priority: None,
        stale: false,
    }
}

fn change(prefix: &str, best: Option<BestRoute>) -> LearntRoutes {
    LearntRoutes::Changes(FibBatch {
        family: Family::Ipv4Unicast,
        changes: vec![(net(prefix), best)],
    })
}

fn gateways(candidates: &Candidates, prefix: &str) -> Vec<String> {
    let found = candidates.iter().find(|(key, _)| key.prefix == net(prefix));
    let Some((_, list)) = found else {
        return Vec::new();
    };
    match &list[0].route.target {
        Target::Group(group) => group
            .hops()
            .map(|(hop, _)| format!("{} dev {}", hop.gateway, hop.device))
            .collect(),
        other @ (Target::Device(_) | Target::Hop(_) | Target::Blackhole) => panic!("{other:?}"),
    }
}

#[test]
fn a_learnt_block_becomes_a_route_of_protocol_81_with_its_reason() {
    let mut fib = Fib::default();
    assert!(fib.take(change("10.244.7.0/26", Some(best(&["10.1.0.1"])))));
    let candidates = fib.candidates(facts()).clone();
    let (key, list) = candidates.first_key_value().unwrap();
    assert_eq!((key.metric, key.prefix), (1024, net("10.244.7.0/26")));
    assert_eq!(
        (list[0].route.protocol, list[0].rank),
        (Protocol::LEARNT, Rank::NoEncap)
    );
    assert_eq!(list[0].reason, "BGP from 10.1.0.1, AS path 65001 64513");
    assert_eq!(
        gateways(&candidates, "10.244.7.0/26"),
        ["10.1.0.1 dev eth0"]
    );
    assert!(
        !fib.take(change("10.244.7.0/26", Some(best(&["10.1.0.1"])))),
        "the same again is no news"
    );
    assert!(fib.take(change("10.244.7.0/26", None)));
    assert!(fib.candidates(facts()).is_empty());
}

#[test]
fn what_the_planner_owns_and_services_stay_out() {
    let mut fib = Fib::default();
    for prefix in [
        "10.245.3.0/26",
        "10.96.0.10/32",
        "10.96.0.0/12",
        "192.0.2.0/24",
    ] {
        fib.take(change(prefix, Some(best(&["10.1.0.1"]))));
    }
    let candidates = fib.candidates(facts());
    assert_eq!(
        candidates
            .keys()
            .map(|key| key.prefix.to_string())
            .collect::<Vec<_>>(),
        ["192.0.2.0/24"]
    );
    assert_eq!(candidates.values().next().unwrap()[0].rank, Rank::OtherBgp);
    assert_eq!(
        fib.standing(&net("10.245.3.0/26")),
        Standing::Refused(&Refusal::Planned)
    );
    assert_eq!(
        fib.standing(&net("10.96.0.10/32")),
        Standing::Refused(&Refusal::Service(net("10.96.0.0/12")))
    );
    assert_eq!(fib.standing(&net("10.246.0.0/26")), Standing::Unknown);
}

#[test]
fn several_next_hops_make_a_group_that_shrinks_with_its_links() {
    let mut fib = Fib::default();
    fib.take(change(
        "10.244.7.0/26",
        Some(best(&["10.1.0.1", "10.3.0.1"])),
    ));
    assert_eq!(
        gateways(fib.candidates(facts()), "10.244.7.0/26"),
        ["10.1.0.1 dev eth0", "10.3.0.1 dev eth1"]
    );
    assert!(fib.unresolved().is_empty());
    let candidates = fib.candidates(facts_on(&host(false)));
    assert_eq!(gateways(candidates, "10.244.7.0/26"), ["10.1.0.1 dev eth0"]);
    assert_eq!(*fib.unresolved(), BTreeSet::from([address("10.3.0.1")]));
    fib.candidates(facts());
    assert!(fib.unresolved().is_empty(), "the link is back");
}

#[test]
fn a_next_hop_behind_a_route_of_the_host_goes_to_its_gateway() {
    let mut fib = Fib::default();
    fib.take(change("10.244.7.0/26", Some(best(&["10.2.0.11"]))));
    assert_eq!(
        gateways(fib.candidates(facts()), "10.244.7.0/26"),
        ["10.1.0.1 dev eth0"]
    );
    for (next_hop, why) in [
        ("203.0.113.1", Unresolved::NoRoute),
        ("10.1.0.11", Unresolved::Own),
        ("169.254.0.1", Unresolved::LinkLocal),
    ] {
        fib.take(change("10.244.8.0/26", Some(best(&[next_hop]))));
        fib.candidates(facts());
        let refusal = Refusal::NextHops(vec![(address(next_hop), why)]);
        assert_eq!(
            fib.standing(&net("10.244.8.0/26")),
            Standing::Refused(&refusal)
        );
    }
}

#[test]
fn a_filter_may_choose_the_metric_and_the_old_key_goes() {
    let mut fib = Fib::default();
    fib.take(change("10.244.7.0/26", Some(best(&["10.1.0.1"]))));
    fib.candidates(facts());
    let elevated = BestRoute {
        priority: Some(512),
        ..best(&["10.1.0.1"])
    };
    assert!(fib.take(change("10.244.7.0/26", Some(elevated))));
    let metrics: Vec<u32> = fib
        .candidates(facts())
        .keys()
        .map(|key| key.metric)
        .collect();
    assert_eq!(metrics, [512]);
}

#[test]
fn a_new_speaker_keeps_routes_until_it_told_everything() {
    let mut fib = Fib::default();
    fib.take(change("10.244.7.0/26", Some(best(&["10.1.0.1"]))));
    fib.take(change("10.244.8.0/26", Some(best(&["10.1.0.1"]))));
    assert!(!fib.take(LearntRoutes::Restarted));
    fib.take(change("10.244.8.0/26", Some(best(&["10.1.0.1"]))));
    assert_eq!(fib.candidates(facts()).len(), 2);
    assert!(fib.take(LearntRoutes::Synced(Family::Ipv4Unicast)));
    assert_eq!(
        fib.candidates(facts())
            .keys()
            .map(|key| key.prefix)
            .collect::<Vec<_>>(),
        [net("10.244.8.0/26")]
    );
    assert!(!fib.complete());
    assert!(
        fib.take(LearntRoutes::Complete),
        "the sweep of the kernel is due"
    );
    assert!(!fib.take(LearntRoutes::Complete));
    assert!(fib.take(LearntRoutes::Withdrawn));
    assert!(fib.is_empty() && fib.complete() && fib.candidates(facts()).is_empty());
}

fn news() -> impl Strategy<Value = LearntRoutes> {
    let hops = prop_oneof![
        Just(None),
        proptest::collection::vec(0..4_u8, 1..3).prop_map(Some)
    ];
    let step = (0..12_u8, hops).prop_map(|(prefix, hops)| {
        let names = ["10.1.0.1", "10.3.0.1", "10.2.0.11", "203.0.113.1"];
        let best = hops.map(|hops| {
            best(
                &hops
                    .iter()
                    .map(|at| names[usize::from(*at)])
                    .collect::<Vec<_>>(),
            )
        });
        change(&format!("10.24{}.{prefix}.0/26", prefix % 3 + 4), best)
    });
    prop_oneof![20 => step, 1 => Just(LearntRoutes::Restarted), 1 => Just(LearntRoutes::Synced(Family::Ipv4Unicast))]
}

proptest! {
    /// Whatever came and whenever it was settled: the candidates are those of the routes known last, made in one go.
    #[test]
    fn candidates_depend_on_the_last_routes_alone(steps in proptest::collection::vec((news(), 0..3_u8), 0..60)) {
        let mut fib = Fib::default();
        for (news, look) in steps {
            fib.take(news);
            match look {
                0 => drop(fib.candidates(facts()).len()),
                1 => drop(fib.candidates(facts_on(&host(false))).len()),
                _ => {}
            }
        }
        let mut fresh = Fib::default();
        for (_, entries) in fib.learnt.iter() {
            for (prefix, entry) in entries {
                fresh.take(LearntRoutes::Changes(FibBatch { family: Family::of(prefix), changes: vec![(*prefix, Some(entry.best.clone()))] }));
            }
        }
        prop_assert_eq!(fib.candidates(facts()), fresh.candidates(facts()));
    }
}

#[test]
fn a_hundred_thousand_routes_are_settled_once_and_a_change_costs_one() {
    let mut fib = Fib::default();
    let prefixes = (0..100_000_u32)
        .map(|at| IpNet::new(IpAddr::V4((0x0b00_0000 + at * 256).into()), 24).unwrap());
    let changes = prefixes
        .map(|prefix| (prefix, Some(best(&["10.1.0.1", "10.3.0.1"]))))
        .collect();
    fib.take(LearntRoutes::Changes(FibBatch {
        family: Family::Ipv4Unicast,
        changes,
    }));
    assert_eq!(fib.candidates(facts()).len(), 100_000);
    assert!(fib.dirty.is_empty());
    fib.take(change("11.0.0.0/24", None));
    fib.take(change("11.0.1.0/24", Some(best(&["10.3.0.1"]))));
    assert_eq!(fib.dirty.len(), 1);
    assert_eq!(fib.candidates(facts()).len(), 99_999);
}
