//! Reference == walker == kernel, on packets that really pass through it.
//!
//! Every packet carries a tag, so after a world's probes the set of tags that arrived is exactly the set of packets that were let
//! through.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use model::{Event, Key, Object};
use policy_iptables::io::Driver;
use policy_iptables::nft::Image;
use policy_iptables::plan::Planner;
use policy_iptables::ruleset::Family;
use policy_iptables::verdict::evaluate::evaluate;
use policy_iptables::verdict::{Device, Outcome, Packet, Payload, faults, walk};
use rand::Rng;
use rand::seq::SliceRandom;

use crate::bench::{Bench, Place};
use crate::worlds::Site;
use crate::{namespace, worlds};

const PODS: usize = 6;
const WORLDS: u64 = 160;
const PROBES: u32 = 300;
/// Probes that must have been judged in each family.
const LEAST: u32 = 20_000;

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
        let mut shapes = BTreeMap::new();
        let mut arrived = BTreeSet::new();
        for n in 0..PROBES {
            let packet = worlds::packet(&mut rng, &bench.site);
            let shape = worlds::shape(&mut rng, &packet);
            if is_fresh(&packet, &mut pairs) {
                bench.send_as(&packet, n, shape);
                shapes.insert(n, shape);
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
                "seed {seed} probe {n}: kernel {passed}, walker {:?}, reference {:?}\n{packet:?} {:?}\n{:#?}\n{:#?}\n{}",
                walked.outcome,
                decided.outcome,
                shapes[n],
                walked.trace,
                decided.steps,
                worlds::describe(&events),
            );
            *total.entry((packet.family(), passed)).or_default() += 1;
        }
        // Nothing arrived where it was not sent to.
        assert!(arrived.iter().all(|(n, _)| sent.contains_key(n)));
    }
    let of = |family| total[&(family, true)] + total[&(family, false)];
    let [v4, v6] = Family::ALL.map(of);
    println!(
        "{v4} probes of IPv4 and {v6} of IPv6 in {:?}: {total:?}; {WORLDS} worlds applied in {applying:?}",
        started.elapsed()
    );
    assert!(v4 >= LEAST && v6 >= LEAST, "{v4} and {v6}");
}

/// The key an object is deleted by, if it may go: endpoints and what hangs on them stay.
fn deletion(event: &Event) -> Option<Event> {
    let Event::Upsert(object) = event else {
        return None;
    };
    let name = |metadata: &Option<String>| metadata.clone().unwrap_or_default();
    let key = if let Object::GlobalNetworkPolicy(policy) = &**object {
        Key::GlobalNetworkPolicy(name(&policy.metadata.name).into())
    } else if let Object::Tier(tier) = &**object {
        Key::Tier(name(&tier.metadata.name).into())
    } else if let Object::Pod(pod) = &**object {
        Key::Pod(pod.id.clone())
    } else if let Object::Namespace(namespace) = &**object {
        Key::Namespace(namespace.name.clone())
    } else if let Object::NetworkSet(set) = &**object {
        Key::NetworkSet(set.id.clone())
    } else if let Object::GlobalNetworkSet(set) = &**object {
        Key::GlobalNetworkSet(set.name.clone())
    } else if let Object::EndpointSlice(slice) = &**object {
        Key::EndpointSlice(slice.id.clone())
    } else if let Object::Endpoint(endpoint) = &**object {
        Key::Endpoint(endpoint.id.clone())
    } else {
        return None;
    };
    Some(Event::Delete(key))
}

#[test]
fn event_by_event_the_kernel_is_what_a_fresh_plan_says() {
    if !namespace::is_private() {
        return;
    }
    let device = |index: u32, name: &str| Device {
        index,
        name: name.into(),
    };
    let site = Site {
        pods: (0..4)
            .map(|n| device(n + 10, &format!("cali{n}")))
            .collect(),
        unknown: device(99, "caliunknown"),
        outside: device(2, "eth0"),
    };
    let mut driver = Driver::open().unwrap();
    let mut planner = Planner::new();
    let (mut rounds, mut sent) = (0, 0);
    for seed in 0..12 {
        let mut rng = worlds::rng(2_000_000 + seed);
        let mut events = worlds::events(&mut rng, &site);
        let settings = worlds::settings(&mut rng);
        // Objects go again, some of them twice, at any time after which they may come back.
        events.extend(events.clone().iter().filter_map(deletion));
        events.extend(events.clone().into_iter().take(20));
        events.shuffle(&mut rng);
        let mut world = model::World::new("node".into());
        for event in events {
            world.apply(event);
            // Several events may fall together, and the daemon may die between any two.
            if rng.random_ratio(1, 3) {
                continue;
            }
            if rng.random_ratio(1, 15) {
                drop(driver);
                driver = Driver::open().unwrap();
                planner = Planner::new();
                planner.adopt(&driver.kept_ids().unwrap());
            }
            let plan = planner.plan(&mut world, &settings);
            sent += driver.apply(&plan.ruleset).unwrap().messages;
            driver.forget();
            assert_eq!(
                driver.list().unwrap(),
                Image::of(&plan.ruleset, None),
                "seed {seed}"
            );
            let mut fresh = Planner::new();
            fresh.adopt(&driver.kept_ids().unwrap());
            assert_eq!(
                fresh.plan(&mut world, &settings).ruleset,
                plan.ruleset,
                "seed {seed}"
            );
            rounds += 1;
        }
    }
    println!("{rounds} rounds, {sent} messages");
    assert!(rounds > 300);
}
