//! Few messages, right content, no memory.

use super::*;
use crate::link::IfName;
use crate::route::Protocol;
use proptest::prelude::*;

fn hop(n: u8) -> Hop {
    Hop {
        gateway: [10, 0, 0, n].into(),
        device: IfName::parse("eth0").unwrap(),
        onlink: false,
    }
}

fn group(hops: &[u8]) -> Target {
    Target::Group(Group::try_new(hops.iter().copied().map(hop)).unwrap())
}

fn key(n: u8) -> RouteKey {
    RouteKey::new(
        ipnet::Ipv4Net::new([10, 1, n, 0].into(), 24)
            .unwrap()
            .into(),
        1024,
    )
}

fn routes(targets: impl IntoIterator<Item = Target>) -> BTreeMap<RouteKey, Route> {
    let route = |target| Route {
        target,
        protocol: Protocol::LEARNT,
        source: None,
        mtu: None,
    };
    (0..).map(key).zip(targets.into_iter().map(route)).collect()
}

fn after(desired: &BTreeMap<RouteKey, Route>, present: &Assigned) -> Assigned {
    let none = BTreeSet::new();
    let retained = BTreeSet::new();
    assign(
        NexthopMode::Objects,
        desired,
        Present {
            nexthops: &present.nexthops,
            routes: &present.routes,
            taken: &none,
            retained: &retained,
        },
    )
}

/// Messages between two states: (objects put, routes put).
fn messages(before: &Assigned, after: &Assigned) -> (usize, usize) {
    let objects = after
        .nexthops
        .iter()
        .filter(|(id, n)| before.nexthops.get(id) != Some(n));
    let routes = after
        .routes
        .iter()
        .filter(|(key, r)| before.routes.get(key) != Some(r));
    (objects.count(), routes.count())
}

/// What a route says when its object is looked up.
fn spelt_out(state: &Assigned, key: &RouteKey) -> Option<Content> {
    if let KernelTarget::Object(id) = state.routes[key].target {
        content(&state.nexthops[&id], &state.nexthops)
    } else {
        None
    }
}

#[test]
fn losing_a_router_is_one_message_for_all_routes() {
    let both = after(
        &routes((0..200).map(|_| group(&[1, 2]))),
        &Assigned::default(),
    );
    assert_eq!(both.nexthops.len(), 3, "two gateways and their group");
    let lost = after(&routes((0..200).map(|_| group(&[2]))), &both);
    assert_eq!(messages(&both, &lost), (1, 0));
    let back = after(&routes((0..200).map(|_| group(&[1, 2]))), &lost);
    assert_eq!(
        messages(&lost, &back),
        (2, 0),
        "the gateway again, and the group"
    );
}

#[test]
fn a_node_that_moves_is_one_message() {
    let here = after(
        &routes((0..50).map(|_| Target::Hop(hop(1)))),
        &Assigned::default(),
    );
    let moved = after(&routes((0..50).map(|_| Target::Hop(hop(9)))), &here);
    assert_eq!(messages(&here, &moved), (1, 0));
    assert_eq!(moved.nexthops.len(), 1);
}

#[test]
fn a_gateway_of_a_group_is_not_bent_for_other_routes() {
    let before = after(
        &routes([group(&[1, 2]), Target::Hop(hop(1))]),
        &Assigned::default(),
    );
    assert_eq!(
        before.nexthops.len(),
        3,
        "the single one is shared with the group"
    );
    let desired = routes([group(&[1, 2]), Target::Hop(hop(7))]);
    let now = after(&desired, &before);
    assert_eq!(messages(&before, &now), (1, 1));
    assert_eq!(spelt_out(&now, &key(0)), spelt_out(&before, &key(0)));
}

#[test]
fn the_majority_keeps_the_object() {
    let before = after(
        &routes((0..100).map(|_| group(&[1, 2]))),
        &Assigned::default(),
    );
    let desired = routes((0..100).map(|n| {
        if n == 3 {
            group(&[1, 2])
        } else {
            group(&[2, 3])
        }
    }));
    let now = after(&desired, &before);
    assert_eq!(
        messages(&before, &now),
        (3, 1),
        "a gateway, the group bent, a new group for one"
    );
}

#[test]
fn numbers_of_others_are_left_alone() {
    let desired = routes([Target::Hop(hop(1))]);
    let free = after(&desired, &Assigned::default());
    let taken: BTreeSet<_> = free.nexthops.keys().copied().collect();
    let none = Assigned::default();
    let other = assign(
        NexthopMode::Objects,
        &desired,
        Present {
            nexthops: &none.nexthops,
            routes: &none.routes,
            taken: &taken,
            retained: &BTreeSet::new(),
        },
    );
    assert!(
        other
            .nexthops
            .keys()
            .all(|id| !taken.contains(id) && NexthopId::RANGE.contains(&id.0))
    );
}

#[test]
fn objects_of_retained_routes_stay() {
    let before = after(&routes([group(&[1, 2]), group(&[3])]), &Assigned::default());
    let desired: BTreeMap<_, _> = routes([group(&[3, 4])]);
    let retained = BTreeSet::from([key(1)]);
    let now = assign(
        NexthopMode::Objects,
        &desired,
        Present {
            nexthops: &before.nexthops,
            routes: &before.routes,
            taken: &BTreeSet::new(),
            retained: &retained,
        },
    );
    let KernelTarget::Object(kept) = before.routes[&key(1)].target else {
        panic!("a group is an object");
    };
    assert_eq!(now.nexthops.get(&kept), before.nexthops.get(&kept));
}

fn target() -> impl Strategy<Value = Target> {
    prop_oneof![
        (0..6u8).prop_map(|n| Target::Hop(hop(n))),
        proptest::collection::btree_set(0..6u8, 1..4)
            .prop_map(|set| group(&set.into_iter().collect::<Vec<_>>())),
        Just(Target::Blackhole),
    ]
}

fn plan() -> impl Strategy<Value = BTreeMap<RouteKey, Route>> {
    proptest::collection::vec(target(), 0..30).prop_map(routes)
}

proptest! {
    #[test]
    fn every_route_says_what_was_planned_whatever_stood_before(plans in proptest::collection::vec(plan(), 1..5)) {
        let mut state = Assigned::default();
        for desired in &plans {
            state = after(desired, &state);
            for (key, route) in desired {
                let wanted = match &route.target {
                    Target::Hop(hop) => Some(Content::Single(hop.clone())),
                    Target::Group(group) => Some(Content::Group(group.clone())),
                    Target::Device(_) | Target::Blackhole => None,
                };
                prop_assert_eq!(spelt_out(&state, key), wanted);
            }
            prop_assert_eq!(&after(desired, &state), &state, "a second round changes nothing");
        }
    }
}
