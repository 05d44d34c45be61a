use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::handle;

const NOW: Time = Time::from_secs(1_700_000_000);

fn fresh(cidr: &str) -> Block {
    Block::try_new(cidr.parse().unwrap(), Owner::Host(Arc::from("n1")), NOW, 0).unwrap()
}

fn holder(handle: &str) -> Attribute {
    Attribute::new(handle, handle::pod_attributes("default", handle, "n1", NOW))
}

fn nobody(_: IpAddr) -> bool {
    false
}

fn later(secs: u64) -> Time {
    NOW.plus(Duration::from_secs(secs))
}

#[test]
fn addresses_leave_in_order_and_come_back_at_the_tail() {
    let mut block = fresh("10.0.0.0/30");
    let taken: Vec<_> = (0..3)
        .map(|n| block.take(&holder(&format!("h{n}")), nobody).unwrap())
        .collect();
    assert_eq!(taken, [0, 1, 2]);
    let sequence = block.sequence_of(0);
    assert_eq!(
        block.give(0, "h0", Some(sequence), NOW, Duration::ZERO),
        Given::Freed
    );
    assert_eq!(block.take(&holder("x"), nobody), Some(3));
    assert_eq!(block.take(&holder("y"), nobody), Some(0));
    assert_eq!(block.take(&holder("z"), nobody), None);
    block.check().unwrap();
}

#[test]
fn a_stale_sequence_releases_nothing() {
    let mut block = fresh("10.0.0.0/30");
    block.take(&holder("h"), nobody);
    let old = block.sequence_of(0);
    block.seal();
    assert_eq!(
        block.give(0, "h", Some(old), NOW, Duration::ZERO),
        Given::Freed
    );
    block.seal();
    let block_before = {
        block.take_exact(0, &holder("h")).unwrap();
        block.clone()
    };
    assert_eq!(
        block.give(0, "h", Some(old), NOW, Duration::ZERO),
        Given::NotYours
    );
    assert_eq!(block, block_before);
}

#[test]
fn another_handle_releases_nothing() {
    let mut block = fresh("10.0.0.0/30");
    block.take(&holder("h"), nobody);
    assert_eq!(
        block.give(0, "other", None, NOW, Duration::ZERO),
        Given::NotYours
    );
    assert_eq!(
        block.give(1, "h", None, NOW, Duration::ZERO),
        Given::AlreadyFree
    );
    assert_eq!(
        block.give(99, "h", None, NOW, Duration::ZERO),
        Given::AlreadyFree
    );
}

#[test]
fn duplicates_in_one_release_free_once() {
    let mut block = fresh("10.0.0.0/30");
    block.take(&holder("h"), nobody);
    let sequence = Some(block.sequence_of(0));
    assert_eq!(
        block.give(0, "h", sequence, NOW, Duration::ZERO),
        Given::Freed
    );
    assert_eq!(
        block.give(0, "h", sequence, NOW, Duration::ZERO),
        Given::AlreadyFree
    );
    block.check().unwrap();
}

#[test]
fn a_released_address_rests_and_then_waits_at_the_tail() {
    let cooldown = Duration::from_secs(30);
    let mut block = fresh("10.0.0.0/31");
    block.take(&holder("h"), nobody);
    block.give(0, "h", None, NOW, cooldown);
    block.seal();
    assert_eq!(block.cooling(), 1);
    assert!(!block.is_empty(), "a resting address keeps its block");
    assert_eq!(block.usable(nobody, later(29), cooldown), 1);
    assert_eq!(block.thaw(later(29), cooldown), 0);
    assert_eq!(block.usable(nobody, later(30), cooldown), 2);
    assert_eq!(block.thaw(later(30), cooldown), 1);
    block.seal();
    assert!(block.is_empty());
    assert_eq!(block.take(&holder("a"), nobody), Some(1));
    assert_eq!(block.take(&holder("b"), nobody), Some(0));
}

#[test]
fn a_resting_address_may_be_asked_for_explicitly() {
    let mut block = fresh("10.0.0.0/31");
    block.take(&holder("h"), nobody);
    block.give(0, "h", None, NOW, Duration::from_secs(30));
    assert_eq!(block.take_exact(0, &holder("h")), Ok(()));
    block.check().unwrap();
    assert_eq!(block.take_exact(0, &holder("h")), Err(Occupied::Mine));
    assert!(matches!(block.take_exact(0, &holder("g")), Err(Occupied::By(by)) if by.is_of("h")));
    assert_eq!(block.take_exact(7, &holder("g")), Err(Occupied::Outside));
}

#[test]
fn reserved_addresses_are_stepped_over_and_keep_their_place() {
    let mut block = fresh("10.0.0.0/30");
    let reserved: BTreeSet<IpAddr> = ["10.0.0.0", "10.0.0.2"].map(|a| a.parse().unwrap()).into();
    let skip = |address| reserved.contains(&address);
    assert_eq!(block.usable(skip, NOW, Duration::ZERO), 2);
    assert_eq!(block.take(&holder("a"), skip), Some(1));
    assert_eq!(block.take(&holder("b"), skip), Some(3));
    assert_eq!(block.take(&holder("c"), skip), None);
    assert_eq!(
        block.take_exact(2, &holder("c")),
        Ok(()),
        "explicit requests are not held up"
    );
    assert_eq!(block.take(&holder("d"), nobody), Some(0));
}

#[test]
fn equal_owners_share_an_attribute_and_unused_ones_go() {
    let mut block = fresh("10.0.0.0/29");
    for _ in 0..3 {
        block.take(&holder("shared"), nobody);
    }
    block.take(&holder("other"), nobody);
    assert_eq!(block.attributes.len(), 2);
    for ordinal in 0..3 {
        block.give(ordinal, "shared", None, NOW, Duration::ZERO);
    }
    block.seal();
    assert_eq!(block.attributes.len(), 1);
    assert!(
        block.holder(3).is_some_and(|owner| owner.is_of("other")),
        "indexes are renumbered"
    );
    block.check().unwrap();
}

#[test]
fn reserved_windows_entries_do_not_make_a_block_busy() {
    let mut block = fresh("10.0.0.0/29");
    block.take(
        &Attribute::new(handle::WINDOWS_RESERVED, Attributes::new()),
        nobody,
    );
    assert!(block.is_empty());
}

#[test]
fn a_block_made_again_never_repeats_a_number() {
    let block = fresh("10.0.0.0/30");
    let floor = NOW.as_nanos() + 5_000;
    let again = Block::try_new(block.cidr(), Owner::Host(Arc::from("n2")), NOW, floor).unwrap();
    assert!(again.sequence() > floor, "even when the clock stood still");
}

#[test]
fn tiny_and_huge_blocks_work() {
    for (cidr, size) in [
        ("10.0.0.7/32", 1),
        ("10.16.0.0/20", 4096),
        ("fd00::/116", 4096),
        ("fd00::9/128", 1),
    ] {
        let mut block = fresh(cidr);
        assert_eq!(block.size(), size);
        for _ in 0..size {
            block.take(&holder("h"), nobody).unwrap();
        }
        assert_eq!(block.take(&holder("h"), nobody), None);
        block.check().unwrap();
    }
    assert!(Block::try_new("10.0.0.0/19".parse().unwrap(), Owner::LoadBalancer, NOW, 0).is_err());
}

type Breakage = (&'static str, fn(&mut api::IPAMBlockSpec));

#[test]
fn what_breaks_the_invariant_is_refused() {
    let whole = render(&fresh("10.0.0.0/30"));
    let breakages: [Breakage; 7] = [
        ("slot missing", |spec| spec.allocations.truncate(3)),
        ("points past the attributes", |spec| {
            spec.allocations[0] = Some(3);
            spec.unallocated.remove(0);
        }),
        ("free and taken", |spec| {
            spec.allocations[0] = Some(0);
            spec.attributes.push(api::AllocationAttribute::default());
        }),
        ("twice free", |spec| spec.unallocated.push(0)),
        ("neither", |spec| spec.unallocated.truncate(3)),
        ("free outside", |spec| spec.unallocated.push(9)),
        ("no ordinal", |spec| {
            spec.sequence_number_for_allocation
                .insert("x".to_owned(), 1);
        }),
    ];
    for (name, breakage) in breakages {
        let mut spec = whole.clone();
        breakage(&mut spec);
        assert!(parse(&spec).is_err(), "{name}");
    }
}

/// An object as Calico writes it, with a field a later version might add.
const GOLDEN: &str = r#"{
  "cidr": "10.65.0.64/30",
  "affinity": "host:node-a",
  "affinityClaimTime": "2026-08-22T06:33:20Z",
  "allocations": [1, null, 0, 2],
  "unallocated": [1],
  "attributes": [
    {"handle_id": "k8s-pod-network.abc", "secondary": {"namespace": "default", "node": "node-a", "pod": "web-0", "timestamp": "2026-08-22 06:33:20.123456789 +0000 UTC"}},
    {"handle_id": "vxlan-tunnel-addr-node-a", "secondary": {"node": "node-a", "type": "vxlanTunnelAddress"}, "alternateOwnerAttrs": {"pod": "x"}, "later": {"deep": [1, 2]}},
    {"releasedAt": "2026-08-22T06:40:00Z"}
  ],
  "sequenceNumber": 1787380400123456789,
  "sequenceNumberForAllocation": {"0": 1787380400123456700, "2": 1787380400123456788, "3": 1787380400123456788},
  "deleted": false,
  "strictAffinity": false,
  "fieldOfALaterVersion": {"kept": true}
}"#;

#[test]
fn golden_object_round_trips_with_unknown_fields() {
    let stored: serde_json::Value = serde_json::from_str(GOLDEN).unwrap();
    let spec: api::IPAMBlockSpec = serde_json::from_value(stored.clone()).unwrap();
    let block = parse(&spec).unwrap();
    assert!(block.is_of("node-a"));
    assert_eq!(block.cooling(), 1);
    assert_eq!(
        block.of_handle("k8s-pod-network.abc").collect::<Vec<_>>(),
        [2]
    );
    assert_eq!(block.sequence_of(2), 1_787_380_400_123_456_788);
    let mut written = serde_json::to_value(render(&block)).unwrap();
    // `deleted: false` may be written or left out: the same to every reader.
    written
        .as_object_mut()
        .unwrap()
        .entry("deleted")
        .or_insert(serde_json::Value::Bool(false));
    assert_eq!(written, stored);
    assert_eq!(render(&parse(&render(&block)).unwrap()), render(&block));
}

#[test]
fn old_blocks_without_numbers_are_read() {
    let text = r#"{"cidr":"10.0.0.0/31","affinity":"host:a","allocations":[0,null],"unallocated":[1],
        "attributes":[{"handle_id":"net.abc\r\nrest"}],"strictAffinity":false,"deleted":false}"#;
    let mut block = parse(&serde_json::from_str(text).unwrap()).unwrap();
    assert_eq!(block.sequence_of(0), 0);
    assert_eq!(
        block.give(0, "net.abc", Some(0), NOW, Duration::ZERO),
        Given::Freed,
        "the handle ends at \\r"
    );
}

#[derive(Clone, Debug)]
enum Deed {
    Take(u8),
    TakeExact(u8, u8),
    Give(u8, u8),
    Thaw(u8),
    Seal,
}

fn deeds() -> impl Strategy<Value = Vec<Deed>> {
    let deed = prop_oneof![
        3 => (0..4_u8).prop_map(Deed::Take),
        1 => (0..10_u8, 0..4_u8).prop_map(|(ordinal, handle)| Deed::TakeExact(ordinal, handle)),
        3 => (0..10_u8, 0..4_u8).prop_map(|(ordinal, handle)| Deed::Give(ordinal, handle)),
        1 => (0..60_u8).prop_map(Deed::Thaw),
        2 => Just(Deed::Seal),
    ];
    prop::collection::vec(deed, 0..60)
}

fn perform(block: &mut Block, deed: &Deed) {
    let cooldown = Duration::from_secs(30);
    match deed {
        Deed::Take(handle) => drop(block.take(&holder(&handle.to_string()), |a| {
            a.to_string().ends_with('3')
        })),
        Deed::TakeExact(ordinal, handle) => {
            let _held = block.take_exact((*ordinal).into(), &holder(&handle.to_string()));
        }
        Deed::Give(ordinal, handle) => {
            block.give((*ordinal).into(), &handle.to_string(), None, NOW, cooldown);
        }
        Deed::Thaw(after) => {
            block.thaw(later((*after).into()), cooldown);
        }
        Deed::Seal => block.seal(),
    }
}

proptest! {
    #[test]
    fn every_history_keeps_the_invariant(deeds in deeds()) {
        let mut block = fresh("10.0.0.0/29");
        for deed in &deeds {
            perform(&mut block, deed);
            prop_assert_eq!(block.check(), Ok(()), "after {:?}", deed);
        }
        block.seal();
        let used: BTreeSet<u32> = block.slots.iter().flatten().copied().collect();
        prop_assert_eq!(used.len(), block.attributes.len(), "no attribute is left over");
        let spec = render(&block);
        let text = serde_json::to_string(&spec).unwrap();
        let back: api::IPAMBlockSpec = serde_json::from_str(&text).unwrap();
        // Stored stamps are whole seconds, and so is the test's clock.
        prop_assert_eq!(parse(&back).unwrap(), block);
    }

    #[test]
    fn take_then_give_back_leaves_the_same_set(deeds in deeds(), count in 1..8_usize) {
        let mut block = fresh("10.0.0.0/29");
        for deed in &deeds {
            perform(&mut block, deed);
        }
        let free = |block: &Block| block.free.iter().copied().collect::<BTreeSet<_>>();
        let before = free(&block);
        let me = holder("me");
        let taken: Vec<u32> = (0..count).map_while(|_| block.take(&me, nobody)).collect();
        for ordinal in taken {
            let sequence = Some(block.sequence_of(ordinal));
            prop_assert_eq!(block.give(ordinal, "me", sequence, NOW, Duration::ZERO), Given::Freed);
        }
        prop_assert_eq!(free(&block), before);
    }
}
