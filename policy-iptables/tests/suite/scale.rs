//! A node of 110 pods in a cluster of 5,000 with 300 policies: what a change costs. Times are printed, counts are gated.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use model::flow::{Detail, Flow, Tuple};
use model::{Event, Pod, World};
use policy_iptables::flows::{Review, concern};
use policy_iptables::io::Driver;
use policy_iptables::plan::{Planner, Settings};
use policy_iptables::verdict::Device;
use rand::Rng;
use serde_json::json;

use crate::namespace;
use crate::worlds::{self, Site};

const LOCAL: usize = 110;
const CLUSTER: usize = 5_000;
const POLICIES: u32 = 300;

fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let start = Instant::now();
    let done = work();
    (done, start.elapsed())
}

fn cluster() -> World {
    let device = |n: usize| Device {
        index: u32::try_from(n + 10).unwrap(),
        name: format!("cali{n}").into(),
    };
    let site = Site {
        pods: (0..LOCAL).map(device).collect(),
        unknown: device(LOCAL),
        outside: device(LOCAL + 1),
    };
    let mut world = World::new("node".into());
    for event in worlds::pods(&site) {
        world.apply(event);
    }
    let mut rng = worlds::rng(7);
    for n in LOCAL..CLUSTER {
        world.apply(Event::upsert(worlds::remote_pod(&mut rng, n)));
    }
    for n in 0..POLICIES {
        let app = ["web", "db", "api"][rng.random_range(0..3)];
        // Twenty different selectors over the cluster, each of them of several hundred pods.
        let peer = ["web", "db", "api"][rng.random_range(0..3)];
        let stage = ["prod", "dev"][rng.random_range(0..2)];
        let accounts = ["robot", "human", "nobody"][rng.random_range(0..3)];
        let peers = format!(
            "app == '{peer}' && stage == '{stage}' && projectcalico.org/serviceaccount != '{accounts}'"
        );
        let policy = json!({
            "apiVersion": "projectcalico.org/v3", "kind": "GlobalNetworkPolicy",
            "metadata": { "name": format!("policy-{n}") },
            "spec": {
                "order": n, "selector": format!("app == '{app}'"), "types": ["Ingress", "Egress"],
                "ingress": [{ "action": "Allow", "protocol": "TCP", "source": { "selector": peers }, "destination": { "ports": [n + 1, "http"] } }],
                "egress": [{ "action": "Allow", "protocol": "UDP", "destination": { "nets": ["10.244.0.0/16"], "ports": [53] } }],
            },
        });
        let policy: api::GlobalNetworkPolicy = serde_json::from_value(policy).unwrap();
        world.apply(Event::upsert(policy));
    }
    world
}

/// Flows from everywhere in the cluster to the pods of this node, each to a port that some policy may allow.
fn flows() -> impl Iterator<Item = Flow> {
    (0..10_000_usize).map(|n| {
        let tuple = |from: usize, to: usize, source: u16, destination: u16| Tuple {
            source: worlds::pod_address(from, false),
            destination: worlds::pod_address(to, false),
            protocol: 6,
            detail: Detail::Ports {
                source,
                destination,
            },
        };
        let (client, server) = (n % CLUSTER, n % LOCAL);
        let port = u16::try_from(n % 400).unwrap();
        Flow {
            original: tuple(client, server, 40_000, port),
            reply: tuple(server, client, port, 40_000),
            mark: 0,
        }
    })
}

#[test]
fn a_policy_for_every_pod_of_a_full_node_names_all_and_their_flows_are_found() {
    if !namespace::is_private() {
        return;
    }
    let mut world = cluster();
    let settings = Settings::default();
    let mut planner = Planner::new();
    let mut driver = Driver::open().unwrap();
    let before = planner.plan(&mut world, &settings).ruleset;
    driver.apply(&before).unwrap();
    let object = json!({
        "apiVersion": "projectcalico.org/v3", "kind": "GlobalNetworkPolicy",
        "metadata": { "name": "quarantine" },
        "spec": { "order": 0, "types": ["Ingress"], "ingress": [{ "action": "Deny", "protocol": "TCP", "destination": { "ports": [17] } }] },
    });
    let object: api::GlobalNetworkPolicy = serde_json::from_value(object).unwrap();
    world.apply(Event::upsert(object));
    let (plan, planning) = timed(|| planner.plan(&mut world, &settings));
    let (applied, applying) = timed(|| driver.apply(&plan.ruleset).unwrap());
    let now = Arc::new(plan.ruleset);
    let (concern, naming) = timed(|| concern(Some(&before), &now));
    assert_eq!(
        (concern.tighter.len(), concern.looser.len()),
        (LOCAL, LOCAL)
    );
    let bit = settings.cut.unwrap();
    let review = Review::new(Arc::clone(&now), &world, BTreeSet::new(), bit, concern);
    let (found, judging) = timed(|| flows().filter_map(|flow| review.judge(&flow)).count());
    println!(
        "one policy for {LOCAL} pods: plan {planning:?}, apply {applying:?}, {} messages; concern {naming:?}; {found} of 10000 flows found in {judging:?}",
        applied.messages
    );
    assert!(found > 25, "{found}");
}

#[test]
fn a_pod_that_changes_on_a_full_node_costs_its_own_elements() {
    if !namespace::is_private() {
        return;
    }
    let mut world = cluster();
    let settings = Settings::default();
    let mut planner = Planner::new();
    let mut driver = Driver::open().unwrap();
    let (plan, planning) = timed(|| planner.plan(&mut world, &settings));
    let (applied, applying) = timed(|| driver.apply(&plan.ruleset).unwrap());
    println!(
        "first: plan {planning:?}, apply {applying:?}, {} messages, {} octets, {:?}",
        applied.messages,
        applied.octets,
        driver.size()
    );

    let mut rng = worlds::rng(8);
    let id = worlds::remote_pod(&mut rng, CLUSTER).id;
    let newcomer = Pod {
        id,
        ..worlds::remote_pod(&mut rng, CLUSTER)
    };
    let (_, indexing) = timed(|| world.apply(Event::upsert(newcomer)));
    let (plan, planning) = timed(|| planner.plan(&mut world, &settings));
    let (applied, applying) = timed(|| driver.apply(&plan.ruleset).unwrap());
    println!(
        "one pod: index {indexing:?}, plan {planning:?}, apply {applying:?}, {} messages, {} octets",
        applied.messages, applied.octets
    );
    // One message for each set that the pod joins: those of its selectors and of the named port it serves, in two families.
    assert!(applied.messages <= 20, "{}", applied.messages);

    let (plan, planning) = timed(|| planner.plan(&mut world, &settings));
    let (applied, applying) = timed(|| driver.apply(&plan.ruleset).unwrap());
    println!("nothing: plan {planning:?}, apply {applying:?}");
    assert_eq!(applied.messages, 0);

    drop(driver);
    let (mut driver, opening) = timed(|| Driver::open().unwrap());
    let mut planner = Planner::new();
    let (kept, listing) = timed(|| driver.kept_ids().unwrap());
    planner.adopt(&kept);
    let plan = planner.plan(&mut world, &settings);
    let (applied, applying) = timed(|| driver.apply(&plan.ruleset).unwrap());
    println!("restart: open {opening:?}, list {listing:?}, compare {applying:?}");
    assert_eq!(applied.messages, 0);
}
