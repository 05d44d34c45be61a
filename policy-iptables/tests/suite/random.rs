//! The reference and the rendered rules agree on random worlds.

use policy_iptables::plan::Planner;
use policy_iptables::verdict::evaluate::evaluate;
use policy_iptables::verdict::{Device, Outcome, State, faults, walk};
use rand::Rng;

use crate::worlds::{self, Site};

fn site() -> Site {
    let device = |index: u32, name: &str| Device {
        index,
        name: name.into(),
    };
    Site {
        pods: (0..6)
            .map(|n| device(n + 10, &format!("cali{n}")))
            .collect(),
        unknown: device(99, "caliunknown"),
        outside: device(2, "eth0"),
    }
}

#[test]
fn reference_and_walker_agree_on_random_worlds() {
    let site = site();
    let (mut probes, mut dropped) = (0, 0);
    for seed in 0..1_500 {
        let mut rng = worlds::rng(seed);
        let events = worlds::events(&mut rng, &site);
        let mut world = model::World::new("node".into());
        for event in &events {
            world.apply(event.clone());
        }
        let mut settings = worlds::settings(&mut rng);
        settings.cut = settings.cut.filter(|_| rng.random());
        let plan = Planner::new().plan(&mut world, &settings);
        assert_eq!(faults(&plan.ruleset), Vec::<String>::new(), "seed {seed}");
        for _ in 0..40 {
            let mut packet = worlds::packet(&mut rng, &site);
            packet.state = match rng.random_range(0..30) {
                0 => State::Established,
                1 => State::Invalid,
                2 => State::Cut,
                _ => packet.state,
            };
            packet.mark = if rng.random_ratio(1, 10) {
                0xffff_ffff
            } else {
                0
            };
            let walked = walk(&plan.ruleset, &packet);
            let decided = evaluate(&world, &settings, &packet);
            assert_eq!(
                walked.outcome,
                decided.outcome,
                "seed {seed}\n{}\n{packet:?}\nwalk {:#?}\nsteps {:#?}\nfindings {:#?}\n{:#?}",
                worlds::describe(&events),
                walked.trace,
                decided.steps,
                plan.findings,
                plan.ruleset.chains,
            );
            if walked.outcome == Outcome::Pass {
                let bit = settings.mark;
                assert_eq!(
                    walked.mark & !bit,
                    packet.mark & !bit,
                    "seed {seed}: a foreign mark bit changed"
                );
                assert_eq!(
                    walked.mark & bit & !packet.mark,
                    0,
                    "seed {seed}: our mark bit was left set"
                );
            }
            probes += 1;
            dropped += usize::from(walked.outcome != Outcome::Pass);
        }
    }
    println!("{probes} probes, {dropped} dropped");
    assert!(
        dropped > probes / 5 && dropped < probes * 4 / 5,
        "{dropped} of {probes} dropped: the worlds say too little"
    );
}

#[test]
fn the_order_of_events_does_not_change_the_plan() {
    use rand::seq::SliceRandom;
    let site = site();
    for seed in 0..150 {
        let mut rng = worlds::rng(seed);
        let mut events = worlds::events(&mut rng, &site);
        let settings = worlds::settings(&mut rng);
        let sorted = events.clone();
        events.shuffle(&mut rng);
        let mut world = model::World::new("node".into());
        let mut planner = Planner::new();
        for (n, event) in events.iter().enumerate() {
            world.apply(event.clone());
            // An incremental planner that saw every state on the way ends where a fresh one does.
            if n % 3 == 0 {
                planner.plan(&mut world, &settings);
            }
        }
        let last = planner.plan(&mut world, &settings);
        // Ids may differ by history, and a restart takes over those of its predecessor.
        let chains = last.ruleset.chains.iter();
        let kept = chains
            .filter_map(|(name, chain)| Some((chain.key?, name.clone())))
            .collect();
        let mut fresh = Planner::new();
        fresh.adopt(&kept);
        let mut world = model::World::new("node".into());
        for event in sorted {
            world.apply(event);
        }
        let first = fresh.plan(&mut world, &settings);
        assert_eq!(first.ruleset.sets, last.ruleset.sets, "seed {seed}");
        assert_eq!(first.ruleset.chains, last.ruleset.chains, "seed {seed}");
        assert_eq!(first.findings, last.findings, "seed {seed}");
        assert_eq!(first.groups, last.groups, "seed {seed}");
    }
}
