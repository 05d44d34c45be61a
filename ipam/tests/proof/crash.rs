//! The crash table: every point at which a node can die, by its row number in the design.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ipam::affinity::{Affinity, State};
use ipam::audit::Finding;
use ipam::block::{Attribute, Block, Owner};
use ipam::handle::Handle;
use ipam::index::Event;
use ipam::memory::Fault;
use ipam::store::{Key, Object};
use ipam::{Addresses, Assigned};

use crate::sim::{START, Sim, net, pool, taken};

fn one_node() -> Sim {
    Sim::new(&["a"], &[pool("p", "10.0.0.0/29", 30)])
}

/// Lets `turns` calls of the first node come back, then kills it; what was sent is lost.
fn die_after(sim: &mut Sim, turns: usize) {
    for _ in 0..turns {
        sim.turn(0, Fault::None);
    }
    sim.nodes[0].answers.clear();
    sim.boot(0);
}

fn rest_clean(sim: &mut Sim) {
    sim.run_for(Duration::from_mins(1));
    assert_eq!(sim.audit(Vec::new()), []);
    assert!(sim.nodes[0].alloc.is_idle());
}

fn undo_intent(sim: &mut Sim, handle: &str) {
    let id = sim.give(0, handle, Addresses::OfHandle);
    sim.run();
    sim.released(0, id).unwrap();
}

fn attach(sim: &mut Sim, handle: &str) -> Assigned {
    sim.get(0, handle).unwrap()
}

#[test]
fn row_1_a_pending_affinity_without_block_is_dropped_at_start() {
    let mut sim = one_node();
    sim.ask(0, "h");
    die_after(&mut sim, 1);
    rest_clean(&mut sim);
    assert_eq!(sim.store.objects().count(), 0);
}

#[test]
fn row_2_a_block_under_a_pending_affinity_is_confirmed_at_start() {
    let mut sim = one_node();
    sim.ask(0, "h");
    die_after(&mut sim, 2);
    assert_eq!(sim.held().len(), 1);
    undo_intent(&mut sim, "h");
    rest_clean(&mut sim);
    assert!(
        sim.store
            .blocks()
            .all(|block| block.is_of("a") && block.is_empty())
    );
}

#[test]
fn row_3_an_address_of_an_intent_is_undone_by_handle() {
    let mut sim = one_node();
    sim.ask(0, "h");
    die_after(&mut sim, 3);
    undo_intent(&mut sim, "h");
    rest_clean(&mut sim);
    assert!(sim.held().is_empty());
}

#[test]
fn row_4_a_lost_answer_is_read_back_and_counts() {
    for (fault, reads) in [(Fault::UnknownDone, 1), (Fault::UnknownNotDone, 1)] {
        let mut sim = one_node();
        attach(&mut sim, "h0");
        let before = sim.address_reads();
        let id = sim.ask(0, "h1");
        sim.turn(0, fault);
        sim.run();
        sim.assigned(0, id).unwrap();
        assert_eq!(sim.held().len(), 2, "{fault:?}");
        assert_eq!(sim.address_reads() - before, reads);
    }
}

#[test]
fn row_4_every_lost_answer_of_a_claim_is_read_back() {
    for lost in 0..3 {
        for fault in [Fault::UnknownDone, Fault::UnknownNotDone] {
            let mut sim = one_node();
            let id = sim.ask(0, "h");
            for _ in 0..lost {
                sim.turn(0, Fault::None);
            }
            sim.turn(0, fault);
            sim.run();
            sim.assigned(0, id).unwrap();
            assert_eq!(sim.store.blocks().count(), 1, "call {lost}, {fault:?}");
            assert_eq!(sim.held().len(), 1);
        }
    }
}

#[test]
fn row_5_a_batch_that_died_before_its_answers_is_undone_by_handle() {
    let mut sim = one_node();
    for n in 0..3 {
        sim.ask(0, &format!("h{n}"));
    }
    die_after(&mut sim, 3);
    assert_eq!(sim.held().len(), 3, "one write carried all");
    for n in 0..3 {
        undo_intent(&mut sim, &format!("h{n}"));
    }
    rest_clean(&mut sim);
}

#[test]
fn row_6_a_missing_handle_object_is_written_at_start() {
    let mut sim = one_node();
    let id = sim.ask(0, "h");
    sim.run_for(Duration::from_millis(1));
    sim.assigned(0, id).unwrap();
    assert_eq!(
        sim.audit(Vec::new()).len(),
        2,
        "no handle object, and no pod"
    );
    sim.boot(0);
    sim.run();
    assert!(sim.store.get(&Key::Handle(Arc::from("h"))).is_some());
}

#[test]
fn row_7_a_count_that_is_too_high_is_found() {
    let mut sim = one_node();
    let got = attach(&mut sim, "h");
    sim.store
        .put(Object::Handle(Handle::new("h", [(got.block, 2)].into())));
    let wrong = Finding::HandleCount("h".to_owned(), got.block, 2, 1);
    assert!(sim.audit(Vec::new()).contains(&wrong));
    sim.boot(0);
    sim.run();
    assert!(
        !sim.audit(Vec::new()).contains(&wrong),
        "a node sets its own right at start"
    );
}

#[test]
fn row_8_a_handle_object_without_address_is_found() {
    let mut sim = one_node();
    let got = attach(&mut sim, "h");
    let id = sim.give(0, "h", Addresses::Exactly(vec![taken(got)]));
    sim.run_for(Duration::from_millis(1));
    sim.released(0, id).unwrap();
    sim.boot(0);
    sim.run();
    assert_eq!(
        sim.audit(Vec::new()),
        [Finding::HandleEmpty("h".to_owned())]
    );
}

#[test]
fn row_9_a_release_without_api_stays_owed_and_is_paid() {
    let mut sim = one_node();
    let got = attach(&mut sim, "h");
    let id = sim.give(0, "h", Addresses::Exactly(vec![taken(got)]));
    for _ in 0..60 {
        sim.now = sim.now.plus(Duration::from_millis(100));
        sim.feed(0, ipam::Input::Tick);
        while !sim.nodes[0].calls.is_empty() {
            sim.turn(0, Fault::UnknownNotDone);
        }
    }
    assert!(sim.released(0, id).unwrap_err().retryable());
    assert_eq!(sim.free(0, "h", got).freed, 1, "the API is back");
}

#[test]
fn row_10_addresses_of_dead_containers_are_listed_for_the_start_scan() {
    let mut sim = one_node();
    attach(&mut sim, "dead");
    sim.boot(0);
    let held: Vec<String> = sim.nodes[0]
        .alloc
        .index()
        .held()
        .map(|held| held.handle)
        .collect();
    assert_eq!(held, ["dead"]);
    undo_intent(&mut sim, "dead");
    rest_clean(&mut sim);
}

#[test]
fn row_11_a_claim_half_given_up_is_decided_anew() {
    let mut sim = one_node();
    let got = attach(&mut sim, "h");
    let mut row = Affinity::new(&Arc::from("a"), got.block, State::PendingDeletion);
    row.kind = Some("host".to_owned());
    sim.store.put(Object::Affinity(row));
    sim.run();
    assert!(
        sim.audit(Vec::new())
            .iter()
            .all(|finding| !matches!(finding, Finding::Unconfirmed(..)))
    );
    attach(&mut sim, "h2");
    assert_eq!(sim.store.blocks().count(), 1);
}

#[test]
fn row_12_what_is_soft_deleted_is_removed_by_its_owner() {
    let mut sim = one_node();
    let got = attach(&mut sim, "h");
    sim.free(0, "h", got);
    let mut block = sim.store.block(got.block).unwrap().clone();
    block.soft_delete();
    block.seal();
    sim.store.put(Object::Block(Box::new(block)));
    sim.boot(0);
    rest_clean(&mut sim);
    assert_eq!(sim.store.objects().count(), 0);
    let second = attach(&mut sim, "h");
    assert!(
        second.sequence > got.sequence,
        "a block made again never repeats a number"
    );
}

#[test]
fn row_13_an_affinity_without_block_is_dropped_at_start() {
    for state in [State::Confirmed, State::PendingDeletion] {
        let mut sim = one_node();
        sim.store.put(Object::Affinity(Affinity::new(
            &Arc::from("a"),
            net("10.0.0.0/30"),
            state,
        )));
        sim.boot(0);
        rest_clean(&mut sim);
        assert_eq!(sim.store.objects().count(), 0, "{state:?}");
    }
}

#[test]
fn row_13_a_block_without_affinity_gets_one_at_start() {
    let mut sim = one_node();
    let owner = Owner::Host(Arc::from("a"));
    let block = Block::try_new(net("10.0.0.0/30"), owner, START, 0).unwrap();
    sim.store.put(Object::Block(Box::new(block)));
    sim.boot(0);
    rest_clean(&mut sim);
    assert_eq!(sim.store.objects().count(), 2);
}

#[test]
fn row_14_a_block_freed_by_another_is_taken_elsewhere() {
    let mut sim = one_node();
    let got = attach(&mut sim, "h");
    sim.free(0, "h", got);
    // Somebody else's leader frees the empty block; the node has not heard yet.
    let mut block = sim.store.block(got.block).unwrap().clone();
    block.soft_delete();
    block.seal();
    sim.store.put(Object::Block(Box::new(block)));
    let id = sim.ask(0, "h2");
    sim.turn(0, Fault::None);
    sim.run();
    sim.assigned(0, id).unwrap();
    sim.run_for(Duration::from_mins(1));
    assert_eq!(sim.held().len(), 1);
    assert!(sim.store.blocks().all(|block| !block.is_deleted()));
}

#[test]
fn row_19_a_node_made_again_under_its_name_keeps_its_blocks() {
    let mut sim = one_node();
    let got = attach(&mut sim, "h");
    sim.event_to_all(&Event::NodeGone(Arc::from("a")));
    sim.event_to_all(&Event::Node(Arc::from("a"), Arc::default()));
    sim.run();
    assert!(sim.store.block(got.block).unwrap().is_of("a"));
    assert_eq!(attach(&mut sim, "h2").block, got.block);
}

#[test]
fn row_20_an_address_nobody_claims_is_released_by_handle() {
    let mut sim = one_node();
    attach(&mut sim, "h");
    undo_intent(&mut sim, "h");
    rest_clean(&mut sim);
    let entry = Attribute::new("h", BTreeMap::new());
    assert!(
        sim.store
            .blocks()
            .all(|block| block.held().all(|(_, holder)| *holder != entry))
    );
}
