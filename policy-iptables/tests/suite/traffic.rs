//! What happens to live traffic: replies, translation, changes of policy, and a daemon that dies.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use model::{Event, World};
use policy_iptables::io::Driver;
use policy_iptables::plan::{HostAction, Planner, Settings};
use policy_iptables::verdict::{Device, Locals, Packet, Payload, State};
use serde_json::{Value, json};

use crate::bench::{Bench, Place};
use crate::{namespace, worlds};

pub(crate) fn udp(
    input: &Device,
    output: Option<&Device>,
    ends: (IpAddr, IpAddr),
    ports: (u16, u16),
) -> Packet {
    Packet {
        input: Some(input.clone()),
        output: output.cloned(),
        source: ends.0,
        destination: ends.1,
        payload: Payload::Transport {
            protocol: 17,
            source: ports.0,
            destination: ports.1,
        },
        state: State::New,
        mark: 0,
        local: Locals::default(),
    }
}

pub(crate) fn world(bench: &Bench, policies: &[Value]) -> World {
    let mut world = World::new("node".into());
    for event in worlds::pods(&bench.site) {
        world.apply(event);
    }
    for policy in policies {
        let policy: api::GlobalNetworkPolicy = serde_json::from_value(policy.clone()).unwrap();
        world.apply(Event::upsert(policy));
    }
    world
}

pub(crate) fn policy(name: &str, spec: &Value) -> Value {
    json!({
        "apiVersion": "projectcalico.org/v3", "kind": "GlobalNetworkPolicy",
        "metadata": { "name": name }, "spec": spec,
    })
}

#[test]
fn replies_pass_where_a_new_flow_would_not() {
    if !namespace::is_private() || !namespace::has_tun() {
        return;
    }
    let bench = Bench::new(2);
    let policies = [policy(
        "egress-only",
        &json!({ "selector": "all()", "types": ["Ingress", "Egress"], "egress": [{ "action": "Allow" }] }),
    )];
    let mut world = world(&bench, &policies);
    let settings = Settings {
        host_action: HostAction::Accept,
        ..Settings::default()
    };
    let plan = Planner::new().plan(&mut world, &settings);
    let mut driver = Driver::open().unwrap();
    driver.apply(&plan.ruleset).unwrap();
    let (pod, outside) = (&bench.site.pods[0], &bench.site.outside);
    let ends = (
        worlds::pod_address(0, false),
        IpAddr::from([198, 51, 100, 7]),
    );
    let back = (ends.1, ends.0);
    let packets = BTreeMap::from([
        (1, udp(outside, Some(pod), back, (53, 5000))),
        (2, udp(pod, Some(outside), ends, (5001, 53))),
        (3, udp(outside, Some(pod), back, (53, 5001))),
        (4, udp(outside, Some(pod), back, (53, 5002))),
    ]);
    let mut arrived = BTreeSet::new();
    for (tag, packet) in &packets {
        bench.send(packet, *tag);
    }
    bench.settle(&packets, &mut arrived);
    let expected = [
        (2, Place::Device(outside.index)),
        (3, Place::Device(pod.index)),
    ];
    assert_eq!(arrived, BTreeSet::from(expected));
}

#[test]
fn a_pool_is_translated_outside_of_all_pools_only() {
    if !namespace::is_private() || !namespace::has_tun() {
        return;
    }
    let bench = Bench::new(2);
    let mut world = world(&bench, &[]);
    let mut settings = Settings::default();
    let net = |text: &str| text.parse().unwrap();
    settings.nat.nat_pools = ["10.244.0.0/16", "fd00:244::/64"].map(net).into();
    let all = [
        "10.244.0.0/16",
        "198.51.100.128/25",
        "fd00:244::/64",
        "2001:db8:2::/48",
    ];
    settings.nat.all_pools = all.map(net).into();
    settings.nat.vxlan_port = Some(4789);
    let plan = Planner::new().plan(&mut world, &settings);
    let mut driver = Driver::open().unwrap();
    driver.apply(&plan.ruleset).unwrap();
    let (pod, outside) = (&bench.site.pods[0], &bench.site.outside);
    let own = |v6| worlds::pod_address(0, v6);
    let probes = [
        (1, own(false), "198.51.100.7", worlds::HOST[0]),
        (2, own(false), "198.51.100.200", own(false)),
        (3, own(true), "2001:db8:1::7", worlds::HOST[1]),
        (4, own(true), "2001:db8:2::7", own(true)),
    ];
    for (tag, source, to, seen_from) in probes {
        let to: IpAddr = to.parse().unwrap();
        bench.send(&udp(pod, Some(outside), (source, to), (5000, 53)), tag);
        let seen = udp(pod, Some(outside), (seen_from, to), (5000, 53));
        let mut arrived = BTreeSet::new();
        bench.settle(&BTreeMap::from([(tag, seen)]), &mut arrived);
        assert_eq!(
            arrived,
            BTreeSet::from([(tag, Place::Device(outside.index))]),
            "probe {tag}"
        );
    }
}

/// Translation of a service as kube-proxy does it in each of its modes: before our rules, with its own mark and masquerade.
const KUBE_PROXY: &str = "
table inet kube-proxy {
    chain services {
        type nat hook prerouting priority dstnat;
        meta mark set meta mark or 0x4000
        ip daddr 172.30.0.10 udp dport 53 dnat ip to 10.244.0.2:5353
        ip6 daddr fd30::10 udp dport 53 dnat ip6 to [fd00:244::2]:5353
        ip daddr 172.30.0.11 udp dport 53 dnat ip to 10.244.0.2:5354
        ip6 daddr fd30::11 udp dport 53 dnat ip6 to [fd00:244::2]:5354
    }
    chain outgoing {
        type nat hook postrouting priority srcnat;
        meta mark and 0x4000 == 0x4000 masquerade fully-random
    }
}";

#[test]
fn policy_sees_client_and_backend_of_a_service_and_leaves_its_mark_alone() {
    if !namespace::is_private() || !namespace::has_tun() {
        return;
    }
    let bench = Bench::new(2);
    let rule = json!({ "action": "Allow", "protocol": "UDP", "destination": { "ports": [5353] } });
    let from = json!({ "action": "Allow", "protocol": "UDP", "source": { "nets": ["10.244.0.1/32", "fd00:244::1/128"] }, "destination": { "ports": [5353] } });
    let pass = json!({ "action": "Pass", "protocol": "UDP" });
    let policies = [
        policy("out", &json!({ "selector": "all()", "egress": [rule] })),
        policy("in", &json!({ "selector": "all()", "ingress": [from] })),
        policy(
            "first",
            &json!({ "tier": "kube-admin", "selector": "all()", "ingress": [pass], "egress": [pass] }),
        ),
    ];
    let mut world = world(&bench, &policies);
    let mut settings = Settings::default();
    let ranges = ["172.30.0.0/16", "fd30::/112"];
    settings.service_ranges = ranges.map(|range| range.parse().unwrap()).to_vec();
    let plan = Planner::new().plan(&mut world, &settings);
    let mut driver = Driver::open().unwrap();
    driver.apply(&plan.ruleset).unwrap();
    crate::driver::nft(&[KUBE_PROXY]);
    let (client, backend) = (&bench.site.pods[0], &bench.site.pods[1]);
    // The address the backend sees: that of no interface of ours but the masquerade, so the mark came through.
    for (v6, services) in [
        (false, ["172.30.0.10", "172.30.0.11"]),
        (true, ["fd30::10", "fd30::11"]),
    ] {
        let own = worlds::pod_address(0, v6);
        let to = worlds::pod_address(1, v6);
        let [allowed, denied] = services.map(|text| text.parse().unwrap());
        let unknown: IpAddr = if v6 {
            "fd30::12".parse().unwrap()
        } else {
            "172.30.0.12".parse().unwrap()
        };
        let probe = |service| udp(client, Some(backend), (own, service), (5000, 53));
        for (tag, service) in [(1, allowed), (2, denied), (3, unknown)] {
            bench.send(&probe(service), tag);
        }
        let seen = udp(
            client,
            Some(backend),
            (worlds::HOST[usize::from(v6)], to),
            (0, 5353),
        );
        let sent = (1..=3).map(|tag| (tag, seen.clone())).collect();
        let mut arrived = BTreeSet::new();
        bench.settle(&sent, &mut arrived);
        let expected = BTreeSet::from([(1, Place::Device(backend.index))]);
        assert_eq!(arrived, expected, "IPv6: {v6}");
    }
}

/// Policies between which the churn goes back and forth. In all of them pod 0 may reach pod 1 at port 80 and nobody may reach it
/// at port 81.
fn churn() -> Vec<Vec<Value>> {
    let allow = |ports: Value| json!({ "action": "Allow", "protocol": "UDP", "destination": { "ports": ports } });
    let spec = |order: u32, rules: Value| json!({ "order": order, "selector": "all()", "types": ["Ingress"], "ingress": rules });
    let from = |selector: &str| json!({ "action": "Allow", "protocol": "UDP", "source": { "selector": selector }, "destination": { "ports": [80] } });
    vec![
        vec![policy("a", &spec(10, json!([allow(json!([80]))])))],
        vec![policy(
            "a",
            &spec(10, json!([from("all()"), allow(json!([90]))])),
        )],
        vec![policy(
            "a",
            &spec(
                10,
                json!([{ "action": "Deny", "protocol": "UDP", "destination": { "ports": [81] } }, allow(json!(["1:100"]))]),
            ),
        )],
        vec![
            policy("a", &spec(20, json!([{ "action": "Deny" }]))),
            policy(
                "b",
                &spec(10, json!([from("app in {'x', 'y'} || has(app)")])),
            ),
        ],
        vec![policy(
            "b",
            &spec(
                10,
                json!([{ "action": "Allow", "protocol": "UDP", "source": { "nets": ["10.244.0.0/16"] }, "destination": { "ports": [80, 82] } }]),
            ),
        )],
    ]
}

#[test]
fn nothing_leaks_and_nothing_is_lost_while_policy_changes_and_daemons_die() {
    if !namespace::is_private() || !namespace::has_tun() {
        return;
    }
    let bench = Bench::new(3);
    let settings = Settings::default();
    let states = churn();
    let mut planner = Planner::new();
    let plans: Vec<_> = states
        .iter()
        .map(|policies| {
            planner
                .plan(&mut world(&bench, policies), &settings)
                .ruleset
        })
        .collect();
    let mut driver = Driver::open().unwrap();
    driver.apply(&plans[0]).unwrap();

    let stop = AtomicBool::new(false);
    let (source, target) = (&bench.site.pods[0], &bench.site.pods[1]);
    let ends = (worlds::pod_address(0, false), worlds::pod_address(1, false));
    let (sent, arrived, commits, restarts) = std::thread::scope(|scope| {
        let traffic = scope.spawn(|| {
            let mut sent = BTreeMap::new();
            let mut arrived = BTreeSet::new();
            let mut tag = 0;
            while !stop.load(Ordering::Relaxed) {
                // Each packet is the first of its flow: source port and destination port make a new pair.
                let port = 20_000 + u16::try_from(tag / 2 % 40_000).unwrap();
                for to in [80, 81] {
                    let packet = udp(source, Some(target), ends, (port, to));
                    bench.send(&packet, tag);
                    sent.insert(tag, packet);
                    tag += 1;
                }
                bench.collect(&sent, &mut arrived);
            }
            bench.settle(&sent, &mut arrived);
            (sent, arrived)
        });
        let until = Instant::now() + Duration::from_secs(4);
        let (mut commits, mut restarts) = (0, 0);
        while Instant::now() < until {
            for plan in &plans {
                commits += driver.apply(plan).unwrap().messages.min(1);
            }
            // The daemon dies: its socket closes, the table waits, the next one adopts it and sends nothing.
            let last = plans.last().unwrap();
            drop(driver);
            driver = Driver::open().unwrap();
            assert_eq!(driver.apply(last).unwrap().messages, 0);
            restarts += 1;
        }
        stop.store(true, Ordering::Relaxed);
        let (sent, arrived) = traffic.join().unwrap();
        (sent, arrived, commits, restarts)
    });
    let port = |packet: &Packet| match packet.payload {
        Payload::Transport { destination, .. } => destination,
        Payload::Icmp { .. } | Payload::Other(_) => 0,
    };
    let place = Place::Device(target.index);
    let leaked = sent
        .iter()
        .filter(|(tag, packet)| port(packet) == 81 && arrived.contains(&(**tag, place)));
    let lost = sent
        .iter()
        .filter(|(tag, packet)| port(packet) == 80 && !arrived.contains(&(**tag, place)));
    let (leaked, lost) = (leaked.count(), lost.count());
    println!(
        "{} packets, {commits} commits, {restarts} restarts: {leaked} leaked, {lost} lost",
        sent.len()
    );
    assert_eq!((leaked, lost), (0, 0));
    assert!(commits > 20 && sent.len() > 10_000);
}
