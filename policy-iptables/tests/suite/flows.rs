//! Live flows after a change: which are looked at, which are cut, and that a cut one is cut.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use model::World;
use model::flow::{Detail, Flow, Tuple};
use policy_iptables::flows::{Concern, Judgement, Review, concern};
use policy_iptables::io::Driver;
use policy_iptables::plan::{Planner, Settings};
use policy_iptables::ruleset::{Content, Key, Ruleset};
use policy_iptables::verdict::{Device, Outcome, Packet, State, walk};
use rand::Rng;
use serde_json::json;

use crate::bench::{Bench, Place};
use crate::namespace;
use crate::traffic::{policy, udp, world};
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

fn interfaces(ruleset: &Ruleset) -> BTreeSet<u32> {
    let Content::Verdicts { entries, .. } = &ruleset.sets["gid_in"].content else {
        panic!("gid_in is not a map");
    };
    let index = |key: &Key| {
        let Key::Index(index) = key else {
            panic!("{key:?}");
        };
        *index
    };
    entries.keys().map(index).collect()
}

#[test]
fn every_interface_whose_verdicts_changed_is_named() {
    let site = site();
    let (mut changed, mut named, mut all) = (0, 0, 0);
    for seed in 0..400 {
        let mut rng = worlds::rng(3_000_000 + seed);
        let mut world = World::new("node".into());
        for event in worlds::events(&mut rng, &site) {
            world.apply(event);
        }
        let mut settings = worlds::settings(&mut rng);
        let mut planner = Planner::new();
        let before = planner.plan(&mut world, &settings).ruleset;
        // Part of another world comes over this one; now and then the settings change too.
        for event in worlds::events(&mut rng, &site) {
            if rng.random_ratio(1, 10) {
                world.apply(event);
            }
        }
        if rng.random_ratio(1, 10) {
            settings = worlds::settings(&mut rng);
        }
        let now = planner.plan(&mut world, &settings).ruleset;
        let concern = concern(Some(&before), &now);
        let there: BTreeSet<u32> = &interfaces(&before) & &interfaces(&now);
        named += concern.tighter.len();
        all += there.len();
        for _ in 0..60 {
            let mut packet = worlds::packet(&mut rng, &site);
            packet.state = State::New;
            let ends = [&packet.input, &packet.output];
            let ends: Vec<u32> = ends.into_iter().flatten().map(|end| end.index).collect();
            let local: Vec<&u32> = ends.iter().filter(|index| there.contains(index)).collect();
            let (was, is) = (walk(&before, &packet), walk(&now, &packet));
            // A source that an interface gained or lost is no matter of policy, and neither are tunnels of the host.
            let around = [&was, &is].iter().any(|walk| {
                let last = walk.trace.last().map(|(chain, _)| &**chain);
                matches!(
                    last,
                    Some("wl_raw" | "input" | "unknown_in" | "unknown_out")
                )
            });
            if local.is_empty() || around {
                continue;
            }
            let expected = match (was.outcome, is.outcome) {
                (Outcome::Pass, Outcome::Drop) => &concern.tighter,
                (Outcome::Drop, Outcome::Pass) => &concern.looser,
                _ => continue,
            };
            changed += 1;
            assert!(
                local.iter().any(|index| expected.contains(index)),
                "seed {seed}: {packet:?}\n{concern:?}\n{:#?}\n{:#?}",
                was.trace,
                is.trace,
            );
        }
    }
    println!("{changed} verdicts changed; {named} of {all} interfaces named as tighter");
    assert!(changed > 1_000 && named < all * 9 / 10);
}

#[test]
fn a_member_more_loosens_an_allow_and_nothing_else() {
    let site = site();
    let allow = json!({ "action": "Allow", "source": { "selector": "app == 'extra'" } });
    let spec = json!({ "selector": "app != 'extra'", "types": ["Ingress"], "ingress": [allow] });
    let object: api::GlobalNetworkPolicy =
        serde_json::from_value(policy("only-extra", &spec)).unwrap();
    let mut world = World::new("node".into());
    for event in worlds::pods(&site) {
        world.apply(event);
    }
    world.apply(model::Event::upsert(object));
    let mut planner = Planner::new();
    let settings = Settings::default();
    let before = planner.plan(&mut world, &settings).ruleset;
    let mut rng = worlds::rng(0);
    let mut extra = worlds::remote_pod(&mut rng, 20);
    extra.labels.insert("app".into(), "extra".into());
    let id = extra.id.clone();
    world.apply(model::Event::upsert(extra));
    let with = planner.plan(&mut world, &settings).ruleset;
    let all: BTreeSet<u32> = site.pods.iter().map(|device| device.index).collect();
    let looser = Concern {
        tighter: BTreeSet::new(),
        looser: all.clone(),
    };
    assert_eq!(concern(Some(&before), &with), looser);
    world.apply(model::Event::Delete(model::Key::Pod(id)));
    let without = planner.plan(&mut world, &settings).ruleset;
    let tighter = Concern {
        tighter: all.clone(),
        looser: BTreeSet::new(),
    };
    assert_eq!(concern(Some(&with), &without), tighter);
    assert_eq!(concern(Some(&without), &without), Concern::default());
    // Whoever does not know what was before looks at everything.
    let everything = Concern {
        tighter: all.clone(),
        looser: all,
    };
    assert_eq!(concern(None, &without), everything);
}

/// A flow of UDP as connection tracking would tell of it: the client asked `asked`, and `served` answers.
fn flow(client: IpAddr, asked: (IpAddr, u16), served: (IpAddr, u16), mark: u32) -> Flow {
    let tuple = |source: (IpAddr, u16), destination: (IpAddr, u16)| Tuple {
        source: source.0,
        destination: destination.0,
        protocol: 17,
        detail: Detail::Ports {
            source: source.1,
            destination: destination.1,
        },
    };
    let client = (client, 5_000);
    Flow {
        original: tuple(client, asked),
        reply: tuple(served, client),
        mark,
    }
}

#[test]
fn flows_are_judged_by_their_translated_destination_and_their_mark() {
    let site = site();
    let mut world = World::new("node".into());
    for event in worlds::pods(&site) {
        world.apply(event);
    }
    let rule = json!({ "action": "Allow", "protocol": "UDP", "destination": { "ports": [53] } });
    let spec = json!({ "selector": "all()", "types": ["Ingress"], "ingress": [rule] });
    let object: api::GlobalNetworkPolicy = serde_json::from_value(policy("dns", &spec)).unwrap();
    world.apply(model::Event::upsert(object));
    let ruleset = Planner::new()
        .plan(&mut world, &Settings::default())
        .ruleset;
    let bit = 0x1_0000;
    let host = BTreeSet::from([worlds::HOST[0]]);
    let concern = concern(None, &ruleset);
    let review = Review::new(Arc::new(ruleset), &world, host, bit, concern);
    let pod = |n| worlds::pod_address(n, false);
    let service: IpAddr = "172.30.0.10".parse().unwrap();
    let outside: IpAddr = "198.51.100.7".parse().unwrap();
    for (flow, expected) in [
        (flow(pod(0), (pod(1), 53), (pod(1), 53), 0), None),
        (
            flow(pod(0), (pod(1), 80), (pod(1), 80), 0),
            Some(Judgement::Cut),
        ),
        // Asked on a forbidden port of a service, served on an allowed one of the pod, and the other way round.
        (flow(pod(0), (service, 80), (pod(1), 53), 0x4000), None),
        (
            flow(pod(0), (service, 53), (pod(1), 80), 0x4000),
            Some(Judgement::Cut),
        ),
        (
            flow(outside, (pod(1), 80), (pod(1), 80), 0),
            Some(Judgement::Cut),
        ),
        (flow(pod(0), (outside, 80), (outside, 80), 0), None),
        // From the host everything is free; between strangers nothing is ours.
        (flow(worlds::HOST[0], (pod(1), 80), (pod(1), 80), 0), None),
        (flow(outside, (service, 80), (outside, 80), 0), None),
        // Cut before: stays so, or is mended.
        (flow(pod(0), (pod(1), 80), (pod(1), 80), bit), None),
        (
            flow(pod(0), (pod(1), 53), (pod(1), 53), bit | 1),
            Some(Judgement::Mend),
        ),
    ] {
        assert_eq!(review.judge(&flow), expected, "{flow:?}");
    }
}

#[test]
fn a_cut_flow_is_cut_both_ways_until_it_is_mended_and_a_deleted_one_comes_back() {
    if !namespace::is_private() || !namespace::has_tun() {
        return;
    }
    let mut bench = Bench::new(2);
    let settings = Settings::default();
    let mut planner = Planner::new();
    let mut driver = Driver::open().unwrap();
    let open = planner.plan(&mut world(&bench, &[]), &settings).ruleset;
    driver.apply(&open).unwrap();
    // Nobody may begin a flow to pod 1, which itself may go where it likes.
    let spec = json!({ "selector": "all()", "types": ["Ingress"], "ingress": [
        { "action": "Allow", "protocol": "UDP", "destination": { "ports": [5000] } },
    ] });
    let closed = planner
        .plan(&mut world(&bench, &[policy("closed", &spec)]), &settings)
        .ruleset;
    let bit = settings.cut.unwrap();
    let (a, b) = (bench.site.pods[0].clone(), bench.site.pods[1].clone());
    for v6 in [false, true] {
        driver.apply(&open).unwrap();
        let ends = (worlds::pod_address(0, v6), worlds::pod_address(1, v6));
        let ask = udp(&a, Some(&b), ends, (5000, 80));
        let answer = udp(&b, Some(&a), (ends.1, ends.0), (80, 5000));
        let mut tag = 0;
        let mut passes = |bench: &Bench, packet: &Packet| {
            tag += 1;
            bench.send(packet, tag);
            let mut arrived = BTreeSet::new();
            bench.settle(&BTreeMap::from([(tag, packet.clone())]), &mut arrived);
            let index = packet.output.as_ref().unwrap().index;
            arrived.contains(&(tag, Place::Device(index)))
        };
        assert!(passes(&bench, &ask) && passes(&bench, &answer));
        driver.apply(&closed).unwrap();
        // Known flows live on, and would for ever.
        assert!(passes(&bench, &ask) && passes(&bench, &answer));
        bench.mark(&ask, bit, bit);
        assert!(!passes(&bench, &ask) && !passes(&bench, &answer) && !passes(&bench, &ask));
        bench.mark(&ask, bit, 0);
        assert!(passes(&bench, &ask) && passes(&bench, &answer));
        // Why flows are not deleted instead: the answer begins a flow that is allowed, and the question is its reply.
        bench.forget(&ask);
        assert!(!passes(&bench, &ask));
        assert!(passes(&bench, &answer));
        assert!(passes(&bench, &ask));
        bench.flush_conntrack();
    }
}
