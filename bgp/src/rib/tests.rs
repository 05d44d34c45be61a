use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;
use proptest::prelude::*;

use super::table::Interest;
use super::*;
use crate::attr::{AsPath, AttrSet, Attributes, Origin};
use crate::speaker::Resolution;
use crate::{Asn, Family};

const V4: Family = Family::Ipv4Unicast;

fn rules() -> Rules {
    Rules {
        multipath: 4,
        relax: true,
        always_compare_med: false,
    }
}

fn source(index: u8, external: bool) -> Source {
    Source {
        external,
        client: false,
        asn: Asn(u32::from(index)),
        router_id: Ipv4Addr::new(9, 9, 9, index),
        address: IpAddr::V4(Ipv4Addr::new(10, 0, 0, index)),
    }
}

fn rib() -> Rib {
    let mut rib = Rib::new(rules(), source(0, false), 3);
    for index in 1..=8 {
        rib.set_source(PeerId(u32::from(index)), source(index, index < 6));
    }
    rib
}

fn prefix(index: u8) -> IpNet {
    format!("10.1.{index}.0/24").parse().unwrap()
}

fn announce(rib: &mut Rib, peer: u32, to: u8, attributes: &Attributes) {
    let set = AttrSet::from_attributes(attributes);
    let attributes = rib.attributes.intern(set.octets());
    let next_hop = rib.next_hops.id(IpAddr::V4(Ipv4Addr::new(
        10,
        0,
        0,
        u8::try_from(peer).unwrap(),
    )));
    rib.announce(
        prefix(to),
        Path {
            peer: PeerId(peer),
            attributes,
            next_hop,
            priority: None,
            stale: false,
        },
    );
    rib.attributes.release(attributes);
}

fn path(asns: &[u32]) -> Attributes {
    Attributes {
        as_path: AsPath::sequence(asns.iter().copied().map(Asn)),
        ..Attributes::default()
    }
}

fn used(rib: &Rib, to: u8) -> Vec<u32> {
    let table = rib.table(V4);
    let dest = table.find(&prefix(to)).and_then(|id| table.dest(id));
    dest.map(|dest| dest.used().iter().map(|path| path.peer.0).collect())
        .unwrap_or_default()
}

fn read(rib: &mut Rib, cursor: &mut Cursor, interest: Interest) -> usize {
    let mut found = Vec::new();
    assert!(
        rib.table_mut(V4)
            .read(cursor, interest, usize::MAX, &mut found)
    );
    found.len()
}

#[test]
fn each_step_of_the_decision_is_named() {
    let base = path(&[1, 2]);
    let rows: [(Preference, Attributes, u32); 6] = [
        (
            Preference::LocalPref,
            Attributes {
                local_pref: Some(99),
                ..base.clone()
            },
            2,
        ),
        (Preference::AsPathLength, path(&[1, 2, 3]), 2),
        (
            Preference::Origin,
            Attributes {
                origin: Origin::Incomplete,
                ..base.clone()
            },
            2,
        ),
        (
            Preference::Med,
            Attributes {
                med: Some(5),
                ..base.clone()
            },
            2,
        ),
        (Preference::External, base.clone(), 7),
        (Preference::RouterId, base.clone(), 2),
    ];
    for (step, worse, peer) in rows {
        let mut rib = rib();
        announce(&mut rib, peer, 0, &worse);
        announce(&mut rib, 1, 0, &base);
        let table = rib.table(V4);
        let dest = table.dest(table.find(&prefix(0)).unwrap()).unwrap();
        let [best, loser] = dest.paths() else {
            panic!("two paths")
        };
        assert_eq!(best.peer, PeerId(1), "{step:?}");
        assert_eq!(rib.reason(best, loser), Some(step));
    }
}

#[test]
fn med_counts_within_one_neighbour_system_only() {
    let mut rib = rib();
    announce(
        &mut rib,
        2,
        0,
        &Attributes {
            med: Some(10),
            ..path(&[7, 1])
        },
    );
    announce(
        &mut rib,
        3,
        0,
        &Attributes {
            med: Some(0),
            ..path(&[7, 1])
        },
    );
    announce(
        &mut rib,
        1,
        0,
        &Attributes {
            med: Some(50),
            ..path(&[8, 1])
        },
    );
    assert_eq!(
        used(&rib, 0),
        [1, 3],
        "peer 2 lost to 3 by MED; 1 and 3 are equal, 1 by router id first"
    );
}

#[test]
fn unresolved_next_hops_make_paths_ineligible_and_back() {
    let mut rib = rib();
    announce(&mut rib, 1, 0, &path(&[1]));
    announce(&mut rib, 2, 0, &path(&[2, 3]));
    let gateway = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
    rib.learn_next_hop(gateway, Resolution::Unresolved);
    assert_eq!(used(&rib, 0), [2]);
    rib.learn_next_hop(gateway, Resolution::Resolved { metric: 9 });
    assert_eq!(used(&rib, 0), [1]);
}

#[test]
fn stale_paths_stay_used_until_swept() {
    let mut rib = rib();
    announce(&mut rib, 1, 0, &path(&[1]));
    announce(&mut rib, 1, 1, &path(&[1]));
    let (mut best, mut all) = (Cursor::START, Cursor::START);
    read(&mut rib, &mut best, Interest::Best);
    read(&mut rib, &mut all, Interest::Used);
    assert_eq!(rib.mark_stale(PeerId(1), V4), 2);
    assert_eq!(
        read(&mut rib, &mut best, Interest::Best),
        0,
        "peers are told nothing of it"
    );
    assert_eq!(read(&mut rib, &mut all, Interest::Used), 2);
    announce(&mut rib, 1, 0, &path(&[1]));
    assert_eq!(rib.sweep_stale(PeerId(1), V4), 1);
    assert_eq!((used(&rib, 0), used(&rib, 1)), (vec![1], vec![]));
}

#[test]
fn a_reader_sees_each_changed_destination_once_and_a_late_one_everything() {
    let mut rib = rib();
    let mut early = Cursor::START;
    read(&mut rib, &mut early, Interest::Used);
    for round in 1..=3u32 {
        for to in 0..10 {
            announce(&mut rib, 1, to, &path(&[round]));
        }
    }
    assert_eq!(read(&mut rib, &mut early, Interest::Used), 10, "coalesced");
    announce(&mut rib, 2, 3, &path(&[9]));
    rib.withdraw(&prefix(4), PeerId(1));
    assert_eq!(read(&mut rib, &mut early, Interest::Used), 2);
    let mut late = Cursor::START;
    assert_eq!(read(&mut rib, &mut late, Interest::Used), 10);
    assert_eq!(early, late);
}

#[test]
fn freed_destinations_are_used_again_and_nothing_leaks() {
    let mut rib = rib();
    for round in 0..3u8 {
        for to in 0..50 {
            announce(&mut rib, 1, to, &path(&[u32::from(to) + 1]));
        }
        assert_eq!(rib.table(V4).len(), 50, "round {round}");
        assert_eq!(rib.flush(PeerId(1), V4), 50);
        assert_eq!(rib.attributes.len(), 0);
        rib.table_mut(V4).reclaim();
        assert_eq!((rib.table(V4).len(), rib.table(V4).path_count()), (0, 0));
    }
    assert_eq!(rib.table(V4).end(), 50, "slots are used again");
}

fn candidates() -> impl Strategy<Value = Vec<(u32, Attributes)>> {
    let one = (
        1u32..=8,
        0u32..3,
        proptest::collection::vec(1u32..4, 1..4),
        0u32..3,
        proptest::option::of(0u32..3),
    );
    proptest::collection::vec(one, 1..8).prop_map(|list| {
        let made = list
            .into_iter()
            .map(|(peer, local_pref, asns, origin, med)| {
                let attributes = Attributes {
                    local_pref: Some(100 + local_pref),
                    origin: Origin::from_code(u8::try_from(origin).unwrap()).unwrap(),
                    med,
                    ..path(&asns)
                };
                (peer, attributes)
            });
        // One path a peer.
        made.collect::<std::collections::BTreeMap<_, _>>()
            .into_iter()
            .collect()
    })
}

proptest! {
    #[test]
    fn the_choice_does_not_depend_on_the_order_of_arrival(list in candidates(), seed: u64) {
        let mut shuffled = list.clone();
        let length = shuffled.len();
        for index in 0..length {
            let other = usize::try_from(seed.rotate_left(u32::try_from(index).unwrap() * 7) % length as u64).unwrap();
            shuffled.swap(index, other);
        }
        let mut first = rib();
        for (peer, attributes) in &list {
            announce(&mut first, *peer, 0, attributes);
        }
        let mut second = rib();
        for (peer, attributes) in &shuffled {
            announce(&mut second, *peer, 0, attributes);
        }
        prop_assert_eq!(used(&first, 0), used(&second, 0));
        // And taking the best away and putting it back changes nothing either.
        let best = used(&first, 0)[0];
        let attributes = &list.iter().find(|(peer, _)| *peer == best).unwrap().1;
        second.withdraw(&prefix(0), PeerId(best));
        announce(&mut second, best, 0, attributes);
        prop_assert_eq!(used(&first, 0), used(&second, 0));
    }
}
