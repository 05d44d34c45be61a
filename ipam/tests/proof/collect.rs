//! What the collector may never do, whatever it is shown (F24), and what it must do in the end.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ipam::audit::{Finding, Pod};
use ipam::memory::Fault;
use proptest::prelude::*;

use crate::leader::{Leader, Truth, brisk};
use crate::sim::{Sim, pool};

/// Two nodes with these pods, as pods of the API, too.
fn cluster(pods: [usize; 2]) -> (Sim, Truth) {
    let mut sim = Sim::new(&["a", "b"], &[pool("p", "10.0.0.0/26", 29)]);
    let mut truth = Truth {
        nodes: BTreeSet::from(["a".to_owned(), "b".to_owned()]),
        alive: BTreeSet::from(["a".to_owned(), "b".to_owned()]),
        ..Truth::default()
    };
    for (n, count) in pods.into_iter().enumerate() {
        let node = sim.nodes[n].name.clone();
        for p in 0..count {
            let name = format!("{node}{p}");
            sim.get(n, &name).unwrap();
            truth.pods.insert(name, node.clone());
        }
    }
    sim.run_for(Duration::from_secs(3));
    (sim, truth)
}

/// Lets the leader look every second for a while; nodes answer by these journals.
fn collect(
    sim: &mut Sim,
    truth: &Truth,
    hidden: &BTreeSet<String>,
    journals: &BTreeMap<String, BTreeSet<String>>,
    span: Duration,
) -> Leader {
    let mut leader = Leader::new(brisk());
    for _ in 0..span.as_secs() {
        sim.run_for(Duration::from_secs(1));
        leader.refresh(&sim.store, truth, hidden, sim.now);
        leader.look(sim.now);
        for node in &truth.alive {
            let journal = journals.get(node);
            let knows = |handle: &str| journal.is_some_and(|journal| journal.contains(handle));
            leader.answer(node, knows, sim.now);
        }
        while leader.is_busy() {
            leader.step(&mut sim.store, truth, sim.now, Fault::None);
        }
        for n in 0..sim.nodes.len() {
            sim.deliver_all(n);
        }
    }
    leader
}

fn journals(truth: &Truth) -> BTreeMap<String, BTreeSet<String>> {
    let mut journals: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (pod, node) in &truth.pods {
        journals
            .entry(node.clone())
            .or_default()
            .insert(pod.clone());
    }
    journals
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// F24: whatever a list lacks, and even if the API server denies that the pod exists, what its node calls alive stays.
    #[test]
    fn a_partial_list_frees_nothing_that_a_node_calls_its_own(
        a in 0_usize..6, b in 0_usize..6, hide in any::<u16>(), api_lies in any::<bool>(), away in any::<bool>(),
    ) {
        let (mut sim, mut truth) = cluster([a, b]);
        truth.api_lies = api_lies;
        let names: Vec<String> = truth.pods.keys().cloned().collect();
        let hidden = names
            .into_iter()
            .enumerate()
            .filter(|(at, _)| hide & (1 << at) != 0)
            .map(|(_, name)| name)
            .collect();
        let journals = journals(&truth);
        if away {
            truth.alive.remove("b");
        }
        let before = sim.held();
        collect(&mut sim, &truth, &hidden, &journals, Duration::from_secs(30));
        prop_assert_eq!(sim.held(), before);
    }

    /// What no list, no node and no API server knows is freed, and nothing else.
    #[test]
    fn what_nobody_knows_is_freed_and_nothing_else(leaked in any::<u16>()) {
        let (mut sim, mut truth) = cluster([6, 6]);
        let names: Vec<String> = truth.pods.keys().cloned().collect();
        let lost: BTreeSet<String> = names
            .into_iter()
            .enumerate()
            .filter(|(at, _)| leaked & (1 << at) != 0)
            .map(|(_, name)| name)
            .collect();
        truth.pods.retain(|name, _| !lost.contains(name));
        let journals = journals(&truth);
        collect(&mut sim, &truth, &BTreeSet::new(), &journals, Duration::from_secs(30));
        let held: BTreeSet<String> = sim.held().into_values().collect();
        let expected: BTreeSet<String> = truth.pods.keys().cloned().collect();
        prop_assert_eq!(held, expected);
    }
}

#[test]
fn each_of_list_api_and_node_alone_keeps_an_address() {
    // In the list, known to the API server, known to the node; freed only when none of the three speaks for it.
    for case in 0_u8..8 {
        let [listed, exists, known] = [case & 1 != 0, case & 2 != 0, case & 4 != 0];
        let (mut sim, mut truth) = cluster([1, 0]);
        let journals = if known {
            journals(&truth)
        } else {
            BTreeMap::new()
        };
        truth.api_lies = !exists;
        let hidden = if listed {
            BTreeSet::new()
        } else {
            truth.pods.keys().cloned().collect()
        };
        collect(
            &mut sim,
            &truth,
            &hidden,
            &journals,
            Duration::from_secs(30),
        );
        let kept = sim.held().len() == 1;
        assert_eq!(kept, listed || exists || known, "{listed} {exists} {known}");
    }
}

#[test]
fn a_gone_node_leaves_nothing_and_its_borrowed_addresses_live_on() {
    let (mut sim, mut truth) = cluster([3, 2]);
    // b borrows from a's block: its own are full up to the last address.
    let mut borrowed = 0;
    for p in 2..60 {
        let name = format!("b{p}");
        if sim.get(1, &name).is_ok() {
            truth.pods.insert(name, "b".to_owned());
            borrowed += 1;
        }
    }
    assert!(borrowed > 20);
    let all = journals(&truth);
    truth.nodes.remove("a");
    truth.alive.remove("a");
    truth.pods.retain(|_, node| node == "b");
    collect(
        &mut sim,
        &truth,
        &BTreeSet::new(),
        &all,
        Duration::from_mins(1),
    );
    let held: BTreeSet<String> = sim.held().into_values().collect();
    assert_eq!(held, truth.pods.keys().cloned().collect());
    let pods = truth.pods.keys().map(|name| Pod {
        namespace: "default".to_owned(),
        name: name.clone(),
        node: "b".to_owned(),
        addresses: Vec::new(),
        finished: false,
        host_network: false,
    });
    let mut findings = sim.audit(pods.collect());
    findings.retain(|finding| !matches!(finding, Finding::HandleMissing(_)));
    assert_eq!(findings, []);
    for block in sim.store.blocks() {
        assert!(!block.is_of("a"), "{}", block.cidr());
    }
}
