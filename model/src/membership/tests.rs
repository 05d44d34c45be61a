//! The incremental membership against its one-line specification.

use super::*;
use proptest::prelude::*;

const SELECTORS: &[&str] = &[
    "all()",
    "a == 'x'",
    "a != 'x'",
    "has(b)",
    "!has(b)",
    "a in {'x', 'y'} && b == 'z'",
    "a == 'x' || b == 'x'",
    "a starts with 'x' && !(b == 'y')",
];

#[derive(Clone, Debug)]
enum Step {
    Upsert(u8, Labels, Vec<u8>, Option<u16>),
    Remove(u8),
    Watch(usize),
    Unwatch(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let labels = proptest::collection::btree_map("[ab]", "[xyz]{1,2}", 0..3);
    let addresses = proptest::collection::vec(0..6u8, 0..3);
    prop_oneof![
        4 => (0..6u8, labels, addresses, proptest::option::of(80..82u16))
            .prop_map(|(id, labels, addresses, port)| Step::Upsert(id, labels, addresses, port)),
        1 => (0..6u8).prop_map(Step::Remove),
        2 => (0..SELECTORS.len()).prop_map(Step::Watch),
        1 => (0..SELECTORS.len()).prop_map(Step::Unwatch),
    ]
}

fn selector(index: usize) -> Selector {
    Selector::parse(SELECTORS[index]).unwrap()
}

fn key(id: u8) -> MemberKey {
    MemberKey::Pod(PodRef::new("ns", format!("pod-{id}")))
}

fn naive(endpoints: &BTreeMap<MemberKey, Member>, selector: &Selector) -> Members {
    let mut members = Members::new();
    for member in endpoints.values().filter(|m| selector.matches(&*m.labels)) {
        add(&mut members, &member.addresses);
    }
    members
}

fn member(labels: Labels, addresses: &[u8], port: Option<u16>) -> Member {
    Member {
        labels: Arc::new(labels),
        addresses: addresses
            .iter()
            .map(|last| IpNet::from(IpAddr::from([10, 0, 0, *last])))
            .collect(),
        ports: port
            .map(|port| NamedPort {
                name: "http".into(),
                protocol: Transport::Tcp,
                port,
            })
            .into_iter()
            .collect(),
    }
}

proptest! {
    #[test]
    fn members_equal_the_specification_after_any_history(steps in proptest::collection::vec(step(), 0..60)) {
        let mut incremental = Membership::default();
        let mut endpoints = BTreeMap::new();
        let mut watched: BTreeMap<Selector, Members> = BTreeMap::new();
        for step in steps {
            match step {
                Step::Upsert(id, labels, addresses, port) => {
                    let member = member(labels, &addresses, port);
                    endpoints.insert(key(id), member.clone());
                    incremental.upsert(&key(id), member);
                }
                Step::Remove(id) => {
                    endpoints.remove(&key(id));
                    incremental.remove(&key(id));
                }
                Step::Watch(index) => {
                    incremental.watch(&selector(index));
                    watched.entry(selector(index)).or_default();
                }
                Step::Unwatch(index) => {
                    incremental.unwatch(&selector(index));
                    watched.remove(&selector(index));
                }
            }
            let changed = incremental.take_changed();
            for (selector, last) in &mut watched {
                let expected = naive(&endpoints, selector);
                prop_assert_eq!(incremental.members(selector), Some(&expected));
                if expected != *last {
                    prop_assert!(changed.contains(selector), "a change of {} was not announced", selector);
                }
                *last = expected;
            }
        }
    }
}

#[test]
fn a_named_port_resolves_per_endpoint_and_protocol() {
    let mut membership = Membership::default();
    let labels = Labels::from([("a".into(), "x".into())]);
    membership.upsert(&key(1), member(labels.clone(), &[1], Some(8080)));
    membership.upsert(&key(2), member(labels, &[2], Some(9090)));
    let selector = selector(1);
    membership.watch(&selector);
    let expected = BTreeSet::from([
        (IpAddr::from([10, 0, 0, 1]), 8080),
        (IpAddr::from([10, 0, 0, 2]), 9090),
    ]);
    assert_eq!(
        membership.port_members(&selector, "http", Transport::Tcp),
        expected
    );
    assert!(
        membership
            .port_members(&selector, "http", Transport::Udp)
            .is_empty()
    );
}
