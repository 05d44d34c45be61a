//! Reference == walker == kernel, on packets that really pass through it.
//!
//! Every packet carries a tag, so after a world's probes the set of tags that arrived is exactly the set of packets that were let
//! through.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use policy_iptables::io::Driver;
use policy_iptables::plan::Planner;
use policy_iptables::ruleset::Family;
use policy_iptables::verdict::evaluate::evaluate;
use policy_iptables::verdict::{Outcome, Packet, Payload, faults, walk};

use crate::bench::{Bench, Place};
use crate::{namespace, worlds};

const PODS: usize = 6;
const WORLDS: u64 = 120;
const PROBES: u32 = 210;

/// A probe whose answer of an earlier one does not make it part of a flow: ports are drawn anew each time, but protocols without
/// ports are one flow per pair of addresses.
fn is_fresh(packet: &Packet, pairs: &mut BTreeSet<(IpAddr, IpAddr, u8)>) -> bool {
    match packet.payload {
        Payload::Transport { .. } | Payload::Icmp { .. } => true,
        Payload::Other(protocol) => {
            let reverse = (packet.destination, packet.source, protocol);
            pairs.insert((packet.source, packet.destination, protocol));
            packet.source != packet.destination && !pairs.contains(&reverse)
        }
    }
}

#[test]
fn reference_walker_and_kernel_agree() {
    if !namespace::is_private() || !namespace::has_tun() {
        return;
    }
    let started = Instant::now();
    let mut bench = Bench::new(PODS);
    let mut driver = Driver::open().unwrap();
    let mut planner = Planner::new();
    let mut total: BTreeMap<(Family, bool), u32> = BTreeMap::new();
    let mut applying = Duration::ZERO;
    for seed in 0..WORLDS {
        let mut rng = worlds::rng(1_000_000 + seed);
        let events = worlds::events(&mut rng, &bench.site);
        let mut world = model::World::new("node".into());
        for event in &events {
            world.apply(event.clone());
        }
        let settings = worlds::settings(&mut rng);
        let plan = planner.plan(&mut world, &settings);
        assert_eq!(faults(&plan.ruleset), Vec::<String>::new(), "seed {seed}");
        let clock = Instant::now();
        let applied = driver.apply(&plan.ruleset).unwrap();
        applying += clock.elapsed();
        assert_eq!(applied.isolated, [], "seed {seed}");
        // The step from the world before left exactly this one: a listing finds no difference.
        driver.forget();
        assert_eq!(
            driver.apply(&plan.ruleset).unwrap().messages,
            0,
            "seed {seed}"
        );

        bench.flush_conntrack();
        let mut pairs = BTreeSet::new();
        let mut sent = BTreeMap::new();
        let mut arrived = BTreeSet::new();
        for n in 0..PROBES {
            let packet = worlds::packet(&mut rng, &bench.site);
            if is_fresh(&packet, &mut pairs) {
                bench.send(&packet, n);
                sent.insert(n, packet);
                bench.collect(&sent, &mut arrived);
            }
        }
        bench.settle(&sent, &mut arrived);
        for (n, packet) in &sent {
            let walked = walk(&plan.ruleset, packet);
            let decided = evaluate(&world, &settings, packet);
            let place = packet
                .output
                .as_ref()
                .map_or(Place::Host, |device| Place::Device(device.index));
            let passed = arrived.contains(&(*n, place));
            let agree =
                walked.outcome == decided.outcome && passed == (walked.outcome == Outcome::Pass);
            assert!(
                agree,
                "seed {seed} probe {n}: kernel {passed}, walker {:?}, reference {:?}\n{packet:?}\n{:#?}\n{:#?}\n{}",
                walked.outcome,
                decided.outcome,
                walked.trace,
                decided.steps,
                worlds::describe(&events),
            );
            *total.entry((packet.family(), passed)).or_default() += 1;
        }
        // Nothing arrived where it was not sent to.
        assert!(arrived.iter().all(|(n, _)| sent.contains_key(n)));
    }
    let probes: u32 = total.values().sum();
    println!(
        "{probes} probes in {:?}: {total:?}; {WORLDS} worlds applied in {applying:?}",
        started.elapsed()
    );
    assert!(probes >= 20_000, "{probes}");
}
