//! Graceful restart, both ways.

use std::time::Duration;

use super::net::{Net, net as prefix, peer};
use crate::session::State;
use crate::speaker::{Drain, Event, Peer, Restarting, Settings};
use crate::{Family, FamilySet};

const OURS: &str = "10.244.0.0/26";
const THEIRS: &str = "203.0.113.0/24";
const V4: Family = Family::Ipv4Unicast;

fn restarted() -> Settings {
    Settings {
        restarting: Some(Restarting {
            forwarding: FamilySet::IPV4,
        }),
        ..Settings::default()
    }
}

fn pair() -> Net {
    let mut net = Net::new(2, 1);
    net.start(0, 64512, &[(1, peer(65010))], &[OURS]);
    net.start(1, 65010, &[(0, peer(64512))], &[THEIRS]);
    net.run(Duration::from_secs(5));
    assert!(net.route(0, THEIRS).is_some() && net.route(1, OURS).is_some());
    net
}

#[test]
fn routes_of_a_restarting_peer_stay_and_are_confirmed() {
    let mut net = pair();
    net.kill(1);
    net.run(Duration::from_secs(10));
    assert!(net.route(0, THEIRS).unwrap().stale);
    assert!(net.status(0, 1).restart.stale.contains(V4));
    net.start_with(1, 65010, &[(0, peer(64512))], &[THEIRS], restarted());
    net.run(Duration::from_secs(10));
    assert!(!net.route(0, THEIRS).unwrap().stale);
    assert!(net.hosts[0].removed.is_empty(), "never removed");
    assert!(net.status(0, 1).restart.stale.is_empty());
}

#[test]
fn a_restarted_peer_that_lost_its_forwarding_is_swept_at_once() {
    let mut net = pair();
    net.kill(1);
    net.run(Duration::from_secs(1));
    net.start(1, 65010, &[(0, peer(64512))], &[]);
    net.run(Duration::from_secs(5));
    assert_eq!(net.hosts[0].removed, [prefix(THEIRS)]);
}

#[test]
fn a_peer_that_does_not_come_back_is_swept_when_its_time_is_up() {
    let mut net = pair();
    net.kill(1);
    net.run(Duration::from_secs(119));
    assert!(net.route(0, THEIRS).is_some());
    net.run(Duration::from_secs(2));
    assert!(net.route(0, THEIRS).is_none());
    assert_eq!(net.status(0, 1).families.get(V4).accepted, 0);
}

#[test]
fn what_is_not_announced_again_goes_with_end_of_rib() {
    let mut net = Net::new(2, 2);
    net.start(0, 64512, &[(1, peer(65010))], &[]);
    net.start(1, 65010, &[(0, peer(64512))], &[THEIRS, "198.51.100.0/24"]);
    net.run(Duration::from_secs(5));
    net.kill(1);
    net.start_with(1, 65010, &[(0, peer(64512))], &[THEIRS], restarted());
    net.run(Duration::from_secs(10));
    assert_eq!(net.hosts[0].removed, [prefix("198.51.100.0/24")]);
    assert!(net.route(0, THEIRS).is_some());
}

#[test]
fn without_the_capability_routes_go_with_the_session() {
    let mut net = Net::new(2, 3);
    let plain = Peer {
        graceful_restart: None,
        ..peer(65010)
    };
    net.start(0, 64512, &[(1, plain)], &[]);
    net.start(1, 65010, &[(0, peer(64512))], &[THEIRS]);
    net.run(Duration::from_secs(5));
    net.kill(1);
    assert!(net.route(0, THEIRS).is_none());
}

#[test]
fn a_planned_restart_says_nothing_and_keeps_routes_a_farewell_removes_them() {
    for (drain, kept) in [
        (Drain::Restart, true),
        (Drain::Shutdown { text: "bye".into() }, false),
    ] {
        let mut net = pair();
        let now = net.now;
        net.speaker(0).drain(&drain, now);
        net.settle();
        assert_eq!(net.route(1, OURS).is_some(), kept, "{drain:?}");
        let notified = !net.status(1, 0).counters.notifications_in.is_empty();
        assert_eq!(notified, !kept, "{drain:?}");
    }
}

#[test]
fn after_our_restart_selection_waits_for_peers_that_are_up_and_not_for_dead_ones() {
    let mut net = Net::new(3, 4);
    net.start(1, 65010, &[(0, peer(64512))], &[THEIRS]);
    net.start_with(
        0,
        64512,
        &[(1, peer(65010)), (2, peer(65011))],
        &[OURS],
        restarted(),
    );
    net.run(Duration::from_millis(200));
    assert_eq!(net.state(0, 1), State::Established);
    assert!(
        net.hosts[0].synced,
        "host 2 refuses connections: it is not waited for"
    );
    assert!(net.route(0, THEIRS).is_some());
    let ended = net.hosts[0]
        .events
        .iter()
        .filter(|event| matches!(event, Event::DeferralEnded { .. }))
        .count();
    assert_eq!(ended, 1);
}

#[test]
fn a_silent_peer_is_waited_for_ten_seconds() {
    let mut net = Net::new(2, 5);
    let passive = Peer {
        connect: crate::speaker::ConnectMode::Passive,
        ..peer(65010)
    };
    net.start_with(0, 64512, &[(1, passive)], &[], restarted());
    net.run(Duration::from_secs(9));
    assert!(!net.hosts[0].synced);
    net.run(Duration::from_secs(2));
    assert!(net.hosts[0].synced);
}

#[test]
fn two_restarting_speakers_do_not_wait_for_each_other() {
    let mut net = Net::new(2, 6);
    net.start_with(0, 64512, &[(1, peer(65010))], &[OURS], restarted());
    net.start_with(1, 65010, &[(0, peer(64512))], &[THEIRS], restarted());
    net.run(Duration::from_secs(6));
    assert!(net.hosts[0].synced && net.hosts[1].synced);
    assert!(net.route(0, THEIRS).is_some() && net.route(1, OURS).is_some());
}

#[test]
fn without_peers_deferral_ends_with_the_first_configuration() {
    let mut net = Net::new(1, 7);
    net.start_with(0, 64512, &[], &[OURS], restarted());
    assert!(net.hosts[0].synced);
}
