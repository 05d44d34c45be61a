//! Random faults, then calm: whatever happened, it ends in one session and the right routes.

use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::net::{Faults, Net, peer};
use crate::session::State;
use crate::speaker::{ConnectMode, Event};

/// Times each side went up and down, from its events.
fn balance(events: &[Event]) -> i64 {
    events
        .iter()
        .map(|event| match event {
            Event::Established { .. } => 1,
            Event::Down { .. } => -1,
            Event::Refused { .. }
            | Event::EndOfRib { .. }
            | Event::StaleSwept { .. }
            | Event::DeferralEnded { .. }
            | Event::MaxPrefixes { .. }
            | Event::SessionPanicked { .. } => 0,
        })
        .sum()
}

fn storm(seed: u64) {
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut net = Net::new(2, seed);
    let modes = [
        ConnectMode::Active,
        ConnectMode::ActiveLate,
        ConnectMode::Passive,
    ];
    let first = modes[rng.random_range(0..2)];
    let second = modes[rng.random_range(0..3)];
    let asn = if rng.random() { 64512 } else { 65010 };
    let mut ours = peer(asn);
    ours.connect = first;
    let mut theirs = peer(64512);
    theirs.connect = second;
    if rng.random() {
        ours.graceful_restart = None;
    }
    net.faults = Faults { refuse: 30, cut: 5 };
    net.start(0, 64512, &[(1, ours.clone())], &["10.244.0.0/26"]);
    net.start(1, asn, &[(0, theirs.clone())], &["203.0.113.0/24"]);
    for _ in 0..20 {
        net.run(Duration::from_millis(rng.random_range(1..4000)));
        match rng.random_range(0..10) {
            0 => {
                net.kill(1);
                net.run(Duration::from_millis(rng.random_range(1..4000)));
                net.hosts[1].events.clear();
                net.start(1, asn, &[(0, theirs.clone())], &["203.0.113.0/24"]);
            }
            1 => {
                ours.import = crate::filter::Filter::accept_all();
                ours.local_address = ours.local_address.xor(Some(net.hosts[0].address));
                net.reconcile(0, 64512, &[(1, ours.clone())]);
            }
            _ => {}
        }
        for host in 0..2 {
            let up = net.state(host, 1 - host) == State::Established;
            assert_eq!(
                balance(&net.hosts[host].events),
                i64::from(up),
                "seed {seed}: ups and downs of {host}"
            );
        }
    }
    net.faults = Faults::default();
    net.run(Duration::from_secs(400));
    for host in 0..2 {
        assert_eq!(
            net.state(host, 1 - host),
            State::Established,
            "seed {seed}: host {host}"
        );
        assert_eq!(net.status(host, 1 - host).counters.queued, 0, "seed {seed}");
    }
    let theirs = net
        .route(0, "203.0.113.0/24")
        .unwrap_or_else(|| panic!("seed {seed}: route at 0"));
    assert!(!theirs.stale, "seed {seed}");
    let ours = net
        .route(1, "10.244.0.0/26")
        .unwrap_or_else(|| panic!("seed {seed}: route at 1"));
    assert!(!ours.stale, "seed {seed}");
}

#[test]
fn any_storm_ends_in_one_session_with_all_routes() {
    for seed in 0..3000 {
        storm(seed);
    }
}
