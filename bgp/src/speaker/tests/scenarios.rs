//! Routes between speakers: policy, reflection, limits, faults of one session.

use std::sync::Arc;
use std::time::Duration;

use super::net::{Net, address, net as prefix, peer};
use crate::filter::{Action, Filter, Match, PrefixMatch, Rule, Verdict};
use crate::session::State;
use crate::speaker::*;
use crate::{Asn, Family};

const OURS: &str = "10.244.0.0/26";
const THEIRS: &str = "203.0.113.0/24";
const SECOND: Duration = Duration::from_secs(1);

fn filter(rules: Vec<Rule>) -> Arc<Filter> {
    Arc::new(Filter {
        rules,
        default: Verdict::Reject,
    })
}

fn within(text: &str) -> Vec<Match> {
    vec![Match::Prefixes(vec![PrefixMatch::within(prefix(text))])]
}

#[test]
fn transit_routes_carry_the_path_and_are_not_sent_back() {
    let mut net = Net::new(3, 1);
    net.start(0, 1, &[(1, peer(2))], &[OURS]);
    net.start(1, 2, &[(0, peer(1)), (2, peer(3))], &[]);
    net.start(2, 3, &[(1, peer(2))], &[]);
    net.run(5 * SECOND);
    let route = net.route(2, OURS).unwrap();
    assert_eq!(&*route.as_path, [Asn(2), Asn(1)]);
    assert_eq!(route.next_hops[0].address, address(1));
    assert!(
        net.route(0, OURS).is_none(),
        "our own route is nothing to program"
    );
    let explained = net.speaker(1).explain(prefix(OURS));
    let to = |host| {
        explained
            .exports
            .iter()
            .find(|view| view.peer == PeerKey::Addr(address(host)))
            .unwrap()
    };
    assert!(matches!(to(0).verdict, ExportVerdict::LearntFromPeer));
    assert!(matches!(to(2).verdict, ExportVerdict::Sent { .. }));
}

#[test]
fn internal_routes_are_not_passed_on_unless_reflected() {
    let reflects = |reflection| {
        let mut net = Net::new(3, 2);
        let client = Peer {
            reflection,
            ..peer(1)
        };
        net.start(0, 1, &[(1, peer(1))], &[OURS]);
        net.start(1, 1, &[(0, client.clone()), (2, client)], &[]);
        net.start(2, 1, &[(1, peer(1))], &[]);
        net.run(5 * SECOND);
        let rows = net.speaker(2).routes(&RouteQuery {
            view: RouteView::All,
            ..RouteQuery::default()
        });
        rows.into_iter().next()
    };
    assert_eq!(reflects(Reflection::None), None);
    let row = reflects(Reflection::Client).unwrap();
    assert_eq!(
        row.next_hop,
        Some(address(0)),
        "a reflector keeps the next hop"
    );
    assert_eq!(row.attributes.originator.map(Into::into), Some(address(0)));
    assert_eq!(row.attributes.cluster_list.len(), 1);
}

#[test]
fn export_edits_withdraw_what_is_no_longer_allowed_and_send_what_is() {
    let mut net = Net::new(2, 3);
    let only = |text: &str| Peer {
        export: filter(vec![Rule::new("own", within(text), Verdict::Accept)]),
        ..peer(2)
    };
    net.start(
        0,
        1,
        &[(1, only("10.1.0.0/16"))],
        &["10.1.0.0/24", "10.2.0.0/24"],
    );
    net.start(1, 2, &[(0, peer(1))], &[]);
    net.run(5 * SECOND);
    assert!(net.route(1, "10.1.0.0/24").is_some() && net.route(1, "10.2.0.0/24").is_none());
    let plan = net.reconcile(0, 1, &[(1, only("10.2.0.0/16"))]);
    assert_eq!(plan.soft.len(), 1);
    net.run(SECOND);
    assert!(net.route(1, "10.1.0.0/24").is_none() && net.route(1, "10.2.0.0/24").is_some());
    assert_eq!(net.status(0, 1).counters.flaps, 0);
}

#[test]
fn import_rules_rewrite_and_multipath_uses_equal_paths() {
    let mut net = Net::new(3, 4);
    let mut prefer = Rule::new("prefer", vec![], Verdict::Accept);
    prefer.actions = vec![Action::SetLocalPref(200), Action::SetPriority(512)];
    let plain = [(1, peer(2)), (2, peer(3))];
    net.start(0, 1, &plain, &[]);
    net.start(1, 2, &[(0, peer(1))], &[THEIRS]);
    net.start(2, 3, &[(0, peer(1))], &[THEIRS]);
    net.run(5 * SECOND);
    assert_eq!(net.route(0, THEIRS).unwrap().next_hops.len(), 2, "two ToRs");
    let preferring = Peer {
        import: filter(vec![prefer]),
        ..peer(3)
    };
    let plan = net.reconcile(0, 1, &[(1, peer(2)), (2, preferring)]);
    assert_eq!(plan.refresh.len(), 1);
    net.run(SECOND);
    let route = net.route(0, THEIRS).unwrap();
    assert_eq!(
        route.next_hops,
        [NextHop {
            address: address(2)
        }]
    );
    assert_eq!(route.priority, Some(512));
    let facts = NextHopFacts {
        changed: vec![(address(2), Resolution::Unresolved)],
    };
    let now = net.now;
    net.speaker(0).next_hops(&facts, now);
    net.run(SECOND);
    assert_eq!(
        net.route(0, THEIRS).unwrap().next_hops,
        [NextHop {
            address: address(1)
        }]
    );
    let explained = net.speaker(0).explain(prefix(THEIRS));
    assert!(matches!(
        explained.paths[1].standing,
        PathStanding::Ineligible(_)
    ));
}

#[test]
fn too_many_prefixes_end_the_session_for_a_while() {
    let mut net = Net::new(2, 5);
    let limited = Peer {
        max_prefixes: Some(MaxPrefixes {
            limit: 1,
            restart_after: 30 * SECOND,
        }),
        ..peer(2)
    };
    net.start(0, 1, &[(1, limited)], &[]);
    net.start(1, 2, &[(0, peer(1))], &["10.1.0.0/24", "10.2.0.0/24"]);
    net.run(5 * SECOND);
    assert_eq!(net.state(0, 1), State::Idle);
    assert!(net.route(0, "10.1.0.0/24").is_none());
    let now = net.now;
    let remove = vec![(Arc::from("test"), prefix("10.2.0.0/24"))];
    net.speaker(1).originate(
        OriginateDiff {
            add: vec![],
            remove,
        },
        now,
    );
    net.run(40 * SECOND);
    assert_eq!(net.state(0, 1), State::Established);
    assert!(net.route(0, "10.1.0.0/24").is_some());
}

#[test]
fn a_panic_in_one_session_ends_that_session_only() {
    let mut net = Net::new(3, 6);
    net.start(0, 1, &[(1, peer(2)), (2, peer(3))], &[OURS]);
    net.start(1, 2, &[(0, peer(1))], &[THEIRS]);
    net.start(2, 3, &[(0, peer(1))], &["198.51.100.0/24"]);
    net.run(5 * SECOND);
    net.speaker(0).panic_on_receive(&PeerKey::Addr(address(1)));
    let now = net.now;
    let remove = vec![(Arc::from("test"), prefix(THEIRS))];
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| ()));
    net.speaker(1).originate(
        OriginateDiff {
            add: vec![],
            remove,
        },
        now,
    );
    net.run(SECOND);
    std::panic::set_hook(hook);
    assert_eq!(net.status(0, 1).counters.panics, 1);
    assert!(net.route(0, THEIRS).is_none(), "nothing of it is trusted");
    assert_eq!(net.state(0, 2), State::Established);
    assert!(net.route(0, "198.51.100.0/24").is_some());
    net.run(10 * SECOND);
    assert_eq!(net.state(0, 1), State::Established, "it starts anew");
}

#[test]
fn a_peer_that_does_not_read_costs_nobody_anything_and_catches_up() {
    let mut net = Net::new(3, 7);
    net.start(0, 1, &[(1, peer(2)), (2, peer(3))], &[]);
    net.start(1, 2, &[(0, peer(1))], &[]);
    net.start(2, 3, &[(0, peer(1))], &[]);
    net.run(5 * SECOND);
    net.hosts[2].stuck = true;
    let batch = |round: u32| -> Vec<Origination> {
        (0..3000u32)
            .map(|index| Origination {
                owner: Arc::from("test"),
                prefix: ipnet::Ipv4Net::new(
                    ((10 << 24) + ((round * 3000 + index) << 8)).into(),
                    24,
                )
                .unwrap()
                .into(),
                attributes: OriginAttributes {
                    med: Some(index),
                    ..OriginAttributes::default()
                },
            })
            .collect()
    };
    for round in 0..12 {
        let now = net.now;
        let remove = if round == 0 {
            vec![]
        } else {
            batch(round - 1)
                .into_iter()
                .map(|o| (o.owner, o.prefix))
                .collect()
        };
        net.speaker(0).originate(
            OriginateDiff {
                add: batch(round),
                remove,
            },
            now,
        );
        net.run(SECOND / 10);
        assert!(
            net.status(0, 2).counters.queued <= 3 << 20,
            "memory is bounded: {}",
            net.status(0, 2).counters.queued
        );
    }
    assert!(net.status(0, 2).counters.slow > 0, "it was noticed");
    assert_eq!(
        net.status(1, 0).families.get(Family::Ipv4Unicast).accepted,
        3000,
        "the other has everything"
    );
    net.unstick(2);
    net.run(5 * SECOND);
    assert_eq!(
        net.status(2, 0).families.get(Family::Ipv4Unicast).accepted,
        3000,
        "it caught up, and forgot the rest"
    );
}

#[test]
fn removing_a_peer_forgets_its_routes_and_tells_it() {
    let mut net = Net::new(2, 8);
    net.start(0, 1, &[(1, peer(2))], &[OURS]);
    net.start(1, 2, &[(0, peer(1))], &[THEIRS]);
    net.run(5 * SECOND);
    let plan = net.reconcile(0, 1, &[]);
    assert_eq!(plan.removed.len(), 1);
    net.settle();
    assert!(net.route(0, THEIRS).is_none());
    assert!(net.route(1, OURS).is_none());
    assert!(matches!(
        net.status(1, 0).last_down,
        Some((crate::session::DownReason::Received(_), _))
    ));
}

#[test]
fn a_plan_in_force_is_a_no_op() {
    let mut net = Net::new(2, 9);
    net.start(0, 1, &[(1, peer(2))], &[OURS]);
    net.start(1, 2, &[(0, peer(1))], &[THEIRS]);
    net.run(5 * SECOND);
    let before = net.status(0, 1).counters;
    assert!(net.reconcile(0, 1, &[(1, peer(2))]).is_noop());
    net.run(SECOND);
    assert_eq!(net.status(0, 1).counters.updates_out, before.updates_out);
}
