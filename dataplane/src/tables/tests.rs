//! Changes applied to what is there give what is wanted, from any start.

use super::*;
use crate::route::{Group, Hop, Target};
use model::Changes;
use proptest::prelude::*;

fn device(n: u8) -> IfName {
    IfName::parse(&format!("cali{n}")).unwrap()
}

fn hop(n: u8) -> Hop {
    Hop {
        gateway: [10, 0, 0, n].into(),
        device: IfName::parse("eth0").unwrap(),
        onlink: false,
    }
}

fn target() -> impl Strategy<Value = Target> {
    prop_oneof![
        (0..4u8).prop_map(|n| Target::Device(device(n))),
        (0..4u8).prop_map(|n| Target::Hop(hop(n))),
        proptest::collection::btree_set(0..4u8, 1..3).prop_filter_map(
            "a group has members",
            |set| Group::try_new(set.into_iter().map(hop)).map(Target::Group)
        ),
        Just(Target::Blackhole),
    ]
}

fn routes() -> impl Strategy<Value = BTreeMap<RouteKey, Route>> {
    let route = (target(), any::<bool>()).prop_map(|(target, learnt)| Route {
        target,
        protocol: if learnt {
            Protocol::LEARNT
        } else {
            Protocol::PLANNED
        },
        source: None,
        mtu: None,
    });
    let key = (0..20u8).prop_map(|n| {
        RouteKey::new(
            ipnet::Ipv4Net::new([10, 1, n, 0].into(), 24)
                .unwrap()
                .into(),
            0,
        )
    });
    proptest::collection::btree_map(key, route, 0..16)
}

/// The kernel's two tables; an object that goes takes its routes along.
#[derive(Debug, Default, Clone)]
struct Kernel {
    nexthops: BTreeMap<NexthopId, Nexthop>,
    routes: BTreeMap<RouteKey, Route<KernelTarget>>,
}

impl Kernel {
    fn apply(&mut self, changes: &RouteChanges) {
        let single = |nexthop: &Nexthop| matches!(nexthop, Nexthop::Single(_));
        for singles in [true, false] {
            for (id, nexthop, _) in changes
                .nexthops
                .upserts
                .iter()
                .filter(|(_, n, _)| single(n) == singles)
            {
                if let Nexthop::Group(members) = nexthop {
                    assert!(
                        members
                            .keys()
                            .all(|member| self.nexthops.contains_key(member)),
                        "a member is put first"
                    );
                }
                let turned = self
                    .nexthops
                    .get(id)
                    .is_some_and(|there| single(there) != singles);
                assert!(
                    !turned,
                    "the kernel does not turn a single object into a group"
                );
                self.nexthops.insert(*id, nexthop.clone());
            }
        }
        for (key, route, _) in &changes.routes.upserts {
            if let KernelTarget::Object(id) = route.target {
                assert!(
                    self.nexthops.contains_key(&id),
                    "an object is put before its routes"
                );
            }
            self.routes.insert(key.clone(), route.clone());
        }
        for (key, _) in &changes.routes.removals {
            self.routes.remove(key);
        }
        for singles in [false, true] {
            for (id, _) in changes
                .nexthops
                .removals
                .iter()
                .filter(|(_, n)| single(n) == singles)
            {
                self.nexthops.remove(id);
                let used = |route: &Route<KernelTarget>| route.target == KernelTarget::Object(*id);
                assert!(
                    !self.routes.values().any(used),
                    "an object goes after its routes"
                );
            }
        }
    }

    fn hops(&self, target: &KernelTarget) -> Option<Vec<Hop>> {
        let KernelTarget::Object(id) = target else {
            return None;
        };
        let one = |id: &NexthopId| match &self.nexthops[id] {
            Nexthop::Single(hop) => hop.clone(),
            Nexthop::Group(_) => panic!("groups are flat"),
        };
        let mut hops: Vec<_> = match &self.nexthops[id] {
            Nexthop::Single(hop) => vec![hop.clone()],
            Nexthop::Group(members) => members.keys().map(one).collect(),
        };
        hops.sort();
        Some(hops)
    }

    fn says(&self, key: &RouteKey, wanted: &Route) -> bool {
        let Some(route) = self.routes.get(key) else {
            return false;
        };
        let same = match (&wanted.target, &route.target) {
            (Target::Device(a), KernelTarget::Device(b)) => a == b,
            (Target::Blackhole, KernelTarget::Blackhole) => true,
            (Target::Hop(hop), object) => self.hops(object) == Some(vec![hop.clone()]),
            (Target::Group(group), object) => {
                self.hops(object) == Some(group.hops().map(|(hop, _)| hop.clone()).collect())
            }
            _ => false,
        };
        same && route.protocol == wanted.protocol
    }
}

fn tables(kernel: &Kernel, wanted: &BTreeMap<RouteKey, Route>, retain: Retain) -> Tables {
    let mut tables = Tables::new(NexthopMode::Objects);
    tables.nexthops.learn(kernel.nexthops.clone());
    tables.routes.learn(kernel.routes.clone());
    let desired = Desired {
        routes: wanted.clone(),
        ..Desired::default()
    };
    tables.set_desired(desired, retain);
    tables
}

proptest! {
    #[test]
    fn any_row_of_plans_ends_in_the_last_one(plans in proptest::collection::vec(routes(), 1..6)) {
        let mut kernel = Kernel::default();
        for wanted in &plans {
            let changes = tables(&kernel, wanted, Retain::NOTHING).route_changes().unwrap();
            kernel.apply(&changes);
            prop_assert_eq!(kernel.routes.len(), wanted.len());
            for (key, route) in wanted {
                prop_assert!(kernel.says(key, route), "{} {:?}", key, route);
            }
            // Told again, nothing moves; started again, neither.
            let again = tables(&kernel, wanted, Retain::NOTHING).route_changes().unwrap();
            prop_assert!(again.nexthops.is_empty() && again.routes.is_empty(), "{again:?}");
        }
    }

    #[test]
    fn learnt_routes_outlive_a_restart_until_bgp_has_converged(before in routes(), now in routes()) {
        let mut kernel = Kernel::default();
        kernel.apply(&tables(&kernel, &before, Retain::NOTHING).route_changes().unwrap());
        let retain = Retain { planned: false, learnt: true };
        let changes = tables(&kernel, &now, retain).route_changes().unwrap();
        kernel.apply(&changes);
        for (key, route) in &now {
            prop_assert!(kernel.says(key, route));
        }
        for (key, route) in &before {
            let kept = now.contains_key(key) || route.protocol == Protocol::LEARNT;
            prop_assert_eq!(kernel.routes.contains_key(key), kept);
            if !now.contains_key(key) && kept {
                prop_assert!(kernel.says(key, route), "a kept route still leads where it led");
            }
        }
    }
}

#[test]
fn nothing_planned_is_removed_before_the_world_is_complete() {
    let mut tables = Tables::new(NexthopMode::Objects);
    let address = |n| AddressKey {
        device: device(n),
        address: "10.0.0.1/32".parse().unwrap(),
    };
    let tunnel = Tunnel {
        shape: crate::link::Shape::Ipip,
        mtu: 1480,
        up: true,
        marked: true,
    };
    tables.tunnels.learn(BTreeMap::from([(device(1), tunnel)]));
    // The other device is a host end, whose addresses go with it.
    let there = [address(1), address(2)].map(|key| (key, Lifetime::Forever));
    tables.addresses.learn(BTreeMap::from(there));
    tables.set_desired(Desired::default(), Retain::EVERYTHING);
    assert!(tables.address_changes().unwrap().is_empty());
    tables.set_desired(Desired::default(), Retain::NOTHING);
    let removed = tables.address_changes().unwrap().removals;
    assert_eq!(removed, [(address(1), Lifetime::Forever)]);
}

#[test]
fn a_lost_device_takes_what_hung_on_it_out_of_memory() {
    let mut tables = Tables::new(NexthopMode::Objects);
    let key = |n: u8| {
        RouteKey::new(
            ipnet::Ipv4Net::new([10, 1, n, 0].into(), 24)
                .unwrap()
                .into(),
            0,
        )
    };
    let over = |n| Route {
        target: KernelTarget::Device(device(n)),
        protocol: Protocol::PLANNED,
        source: None,
        mtu: None,
    };
    tables.nexthops.learn(BTreeMap::new());
    tables
        .routes
        .learn(BTreeMap::from([(key(1), over(1)), (key(2), over(2))]));
    tables.device_lost(&device(1));
    assert_eq!(
        tables.routes.actual().unwrap().keys().collect::<Vec<_>>(),
        [&key(2)]
    );

    tables.nexthops.learn(BTreeMap::from([(
        NexthopId(0x4d00_0001),
        Nexthop::Single(hop(1)),
    )]));
    tables.device_lost(&IfName::parse("eth0").unwrap());
    assert!(
        tables.routes.actual().is_none(),
        "objects over it went, and routes over those: list again"
    );
}

#[test]
fn host_ends_are_brought_up_never_removed() {
    let mut tables = Tables::new(NexthopMode::Objects);
    let wanted = Desired {
        workloads: BTreeMap::from([
            (device(1), WorkloadLink { up: true }),
            (device(9), WorkloadLink { up: true }),
        ]),
        ..Desired::default()
    };
    tables.workloads.learn(BTreeMap::from([
        (device(1), WorkloadLink { up: false }),
        (device(2), WorkloadLink { up: true }),
    ]));
    tables.set_desired(wanted, Retain::NOTHING);
    let changes: Changes<_, _> = tables.workload_changes().unwrap();
    let put: Vec<_> = changes
        .upserts
        .iter()
        .map(|(name, ..)| name.clone())
        .collect();
    assert_eq!(
        put,
        [device(1)],
        "the one that is not there is its recipe's business"
    );
    assert!(changes.removals.is_empty());
}
