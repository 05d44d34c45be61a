//! The sentences of the semantics as cases written by hand: reference and walker must both give the verdict that stands here.
//!
//! The scene: namespaces `x`, `y`, `z` (label `team`: red, blue, none) with pods `a`, `b`, `c` each (label `pod`), all on this
//! node. Pod `n` has addresses `10.244.0.(n + 1)` and, asked for as `x/a+6`, `fd00:244::(n + 1)`. Every pod serves `web` on TCP 80 and `dns` on UDP 53; `y/b` serves `web` on 8080.

use std::collections::BTreeMap;
use std::net::IpAddr;

use model::endpoint::Labels;
use model::{
    AttachmentId, Event, LocalEndpoint, NamedPort, Namespace, Pod, PodRef, Transport, World,
};
use policy_iptables::compile::{Finding, Reason};
use policy_iptables::plan::{HostAction, Planner, Settings};
use policy_iptables::verdict::evaluate::evaluate;
use policy_iptables::verdict::{Device, Locals, Outcome, Packet, Payload, State, faults, walk};
use serde_json::{Value, json};

use crate::worlds;

const PODS: [&str; 9] = [
    "x/a", "x/b", "x/c", "y/a", "y/b", "y/c", "z/a", "z/b", "z/c",
];

fn pod_of(name: &str) -> Option<usize> {
    let name = name.strip_suffix("+6").unwrap_or(name);
    PODS.iter().position(|pod| *pod == name)
}

fn address_of(name: &str) -> IpAddr {
    match (name, pod_of(name)) {
        (name, Some(n)) => worlds::pod_address(n, name.ends_with("+6")),
        ("host+6", None) => worlds::HOST[1],
        ("host", None) => IpAddr::from([192, 0, 2, 1]),
        (text, None) => text.parse().unwrap(),
    }
}

fn addresses_of(n: usize) -> Vec<IpAddr> {
    [false, true].map(|v6| worlds::pod_address(n, v6)).to_vec()
}

fn device(n: usize) -> Device {
    Device {
        index: u32::try_from(n + 10).unwrap(),
        name: format!("cali{n}").into(),
    }
}

fn pod(n: usize) -> Pod {
    let (namespace, name) = PODS[n].split_once('/').unwrap();
    let web = if PODS[n] == "y/b" { 8080 } else { 80 };
    let port = |name: &str, protocol, port| NamedPort {
        name: name.into(),
        protocol,
        port,
    };
    Pod {
        id: PodRef::new(namespace, name),
        uid: PODS[n].into(),
        node: Some("node".into()),
        labels: Labels::from([("pod".into(), name.into())]),
        annotations: BTreeMap::new(),
        service_account: Some(format!("sa-{name}").as_str().into()),
        ips: addresses_of(n),
        finished: false,
        terminating: false,
        host_network: false,
        ports: vec![
            port("web", Transport::Tcp, web),
            port("dns", Transport::Udp, 53),
        ],
    }
}

fn endpoint(n: usize) -> LocalEndpoint {
    LocalEndpoint {
        id: AttachmentId {
            network: "margay".into(),
            container_id: PODS[n].into(),
            ifname: "eth0".into(),
        },
        pod: Some(pod(n).id),
        pod_uid: Some(PODS[n].into()),
        interface: device(n).name,
        ifindex: device(n).index,
        mac: None,
        addresses: addresses_of(n),
        labels: Labels::new(),
    }
}

fn scene() -> World {
    let mut world = World::new("node".into());
    for (name, team) in [("x", Some("red")), ("y", Some("blue")), ("z", None)] {
        let mut labels = Labels::from([("ns".into(), name.into())]);
        labels.extend(team.map(|team| ("team".into(), team.into())));
        let annotations = BTreeMap::new();
        let namespace = Namespace {
            name: name.into(),
            labels,
            annotations,
            terminating: false,
        };
        world.apply(Event::upsert(namespace));
    }
    for n in 0..PODS.len() {
        world.apply(Event::upsert(pod(n)));
        world.apply(Event::upsert(endpoint(n)));
    }
    world
}

fn add(world: &mut World, object: &Value) {
    let event = match object["kind"].as_str().unwrap() {
        "Tier" => Event::upsert(read::<api::Tier>(object)),
        "NetworkSet" => Event::upsert(model::NetworkSet::parse(&read(object)).0),
        "GlobalNetworkSet" => Event::upsert(model::GlobalNetworkSet::parse(&read(object)).0),
        "GlobalNetworkPolicy" => Event::upsert(read::<api::GlobalNetworkPolicy>(object)),
        "NetworkPolicy" if object["apiVersion"] == "projectcalico.org/v3" => {
            Event::upsert(read::<api::NetworkPolicy>(object))
        }
        _ => Event::upsert(read::<api::networking::NetworkPolicy>(object)),
    };
    world.apply(event);
}

fn read<T: serde::de::DeserializeOwned>(object: &Value) -> T {
    serde_json::from_value(object.clone()).unwrap()
}

/// `tcp 80`, `udp 53`, `sctp 9`, `icmp 8` of the version of the addresses, `proto 47`.
fn payload(text: &str) -> Payload {
    let (protocol, number) = text.split_once(' ').unwrap();
    let number: u16 = number.parse().unwrap();
    let transport = |protocol| Payload::Transport {
        protocol,
        source: 40_000,
        destination: number,
    };
    match protocol {
        "tcp" => transport(6),
        "udp" => transport(17),
        "sctp" => transport(132),
        "icmp" => Payload::Icmp {
            kind: u8::try_from(number).unwrap(),
            code: 0,
        },
        _ => Payload::Other(u8::try_from(number).unwrap()),
    }
}

fn packet(from: &str, to: &str, what: &str) -> Packet {
    let outside = || Device {
        index: 2,
        name: "eth0".into(),
    };
    let device_of = |name: &str| pod_of(name).map_or_else(outside, device);
    let is_host = |name: &str| name.starts_with("host") || name.starts_with("ff02:");
    Packet {
        input: (!is_host(from)).then(|| device_of(from)),
        output: (!is_host(to)).then(|| device_of(to)),
        source: address_of(from),
        destination: address_of(to),
        payload: payload(what),
        state: State::New,
        mark: 0,
        local: Locals {
            destination: to.starts_with("host"),
            source: from.starts_with("host"),
            source_on_output: false,
        },
    }
}

/// From, to, what, and whether it passes.
type Probe = (&'static str, &'static str, &'static str, bool);

fn check_with(settings: &Settings, world: &mut World, probes: &[Probe]) -> Vec<Finding> {
    let plan = Planner::new().plan(world, settings);
    assert_eq!(faults(&plan.ruleset), Vec::<String>::new());
    for (from, to, what, passes) in probes {
        let packet = packet(from, to, what);
        let decided = evaluate(world, settings, &packet);
        let walked = walk(&plan.ruleset, &packet);
        let expected = if *passes {
            Outcome::Pass
        } else {
            Outcome::Drop
        };
        assert_eq!(
            decided.outcome, expected,
            "reference, {from} to {to} {what}: {:#?}",
            decided.steps
        );
        assert_eq!(
            walked.outcome, expected,
            "walker, {from} to {to} {what}: {:#?}",
            walked.trace
        );
    }
    plan.findings
}

fn check(objects: &[Value], probes: &[Probe]) -> Vec<Finding> {
    let mut world = scene();
    for object in objects {
        add(&mut world, object);
    }
    check_with(&Settings::default(), &mut world, probes)
}

fn kubernetes(namespace: &str, spec: &Value) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": { "name": "policy", "namespace": namespace }, "spec": spec,
    })
}

fn named(name: &str, mut object: Value) -> Value {
    object["metadata"]["name"] = json!(name);
    object
}

fn global(spec: &Value) -> Value {
    json!({
        "apiVersion": "projectcalico.org/v3", "kind": "GlobalNetworkPolicy",
        "metadata": { "name": "policy" }, "spec": spec,
    })
}

fn namespaced(namespace: &str, spec: &Value) -> Value {
    json!({
        "apiVersion": "projectcalico.org/v3", "kind": "NetworkPolicy",
        "metadata": { "name": "policy", "namespace": namespace }, "spec": spec,
    })
}

fn tier(name: &str, order: u32, end: &str) -> Value {
    json!({
        "apiVersion": "projectcalico.org/v3", "kind": "Tier",
        "metadata": { "name": name }, "spec": { "order": order, "defaultAction": end },
    })
}

#[test]
fn without_policy_everything_passes_and_unknown_interfaces_do_not() {
    check(
        &[],
        &[
            ("x/a", "y/b", "tcp 80", true),
            ("x/a", "198.51.100.1", "udp 53", true),
            ("198.51.100.1", "x/a", "icmp 8", true),
            ("host", "x/a", "tcp 80", true),
        ],
    );
    let mut world = scene();
    let id = endpoint(0).id;
    world.apply(Event::Delete(model::Key::Endpoint(id)));
    check_with(
        &Settings::default(),
        &mut world,
        &[
            ("x/a", "y/b", "tcp 80", false),
            ("y/b", "x/a", "tcp 80", false),
            ("y/b", "y/a", "tcp 80", true),
        ],
    );
}

#[test]
fn isolation_is_per_direction_and_spares_the_host_and_oneself() {
    check(
        &[kubernetes(
            "x",
            &json!({ "podSelector": {}, "policyTypes": ["Ingress"] }),
        )],
        &[
            ("y/a", "x/a", "tcp 80", false),
            ("x/b", "x/a", "tcp 80", false),
            ("198.51.100.1", "x/a", "tcp 80", false),
            ("x/a", "y/a", "tcp 80", true),
            ("x/a", "x/a", "tcp 80", true),
            ("host", "x/a", "tcp 80", true),
            ("y/a", "z/a", "tcp 80", true),
        ],
    );
    check(
        &[kubernetes(
            "x",
            &json!({ "podSelector": { "matchLabels": { "pod": "a" } }, "policyTypes": ["Egress"] }),
        )],
        &[
            ("x/a", "y/a", "tcp 80", false),
            ("x/a", "198.51.100.1", "udp 53", false),
            ("x/b", "y/a", "tcp 80", true),
            ("y/a", "x/a", "tcp 80", true),
        ],
    );
}

#[test]
fn absent_types_are_ingress_and_egress_only_with_an_egress_rule() {
    let closed = [
        ("y/a", "x/a", "tcp 80", false),
        ("x/a", "y/a", "tcp 80", true),
    ];
    check(&[kubernetes("x", &json!({ "podSelector": {} }))], &closed);
    check(
        &[kubernetes("x", &json!({ "podSelector": {}, "egress": [] }))],
        &closed,
    );
    check(
        &[kubernetes(
            "x",
            &json!({ "podSelector": {}, "egress": [{}] }),
        )],
        &closed,
    );
    check(
        &[kubernetes(
            "x",
            &json!({ "podSelector": {}, "egress": [{ "ports": [{ "port": 80 }] }] }),
        )],
        &[
            ("y/a", "x/a", "tcp 80", false),
            ("x/a", "y/a", "tcp 80", true),
            ("x/a", "y/a", "tcp 81", false),
        ],
    );
    check(
        &[kubernetes(
            "x",
            &json!({ "podSelector": {}, "ingress": [{}] }),
        )],
        &[("y/a", "x/a", "proto 47", true)],
    );
}

#[test]
fn peers_select_pods_of_the_right_namespaces() {
    let with = |peer: Value| {
        kubernetes(
            "x",
            &json!({ "podSelector": {}, "ingress": [{ "from": [peer] }] }),
        )
    };
    check(
        &[with(
            json!({ "podSelector": { "matchLabels": { "pod": "b" } } }),
        )],
        &[
            ("x/b", "x/a", "tcp 80", true),
            ("y/b", "x/a", "tcp 80", false),
            ("x/c", "x/a", "tcp 80", false),
        ],
    );
    check(
        &[with(json!({ "namespaceSelector": {} }))],
        &[
            ("y/b", "x/a", "tcp 80", true),
            ("198.51.100.1", "x/a", "tcp 80", false),
        ],
    );
    let both = json!({ "namespaceSelector": { "matchLabels": { "team": "blue" } }, "podSelector": { "matchLabels": { "pod": "b" } } });
    check(
        &[with(both)],
        &[
            ("y/b", "x/a", "tcp 80", true),
            ("y/a", "x/a", "tcp 80", false),
            ("z/b", "x/a", "tcp 80", false),
        ],
    );
    let not_blue = json!({ "namespaceSelector": { "matchExpressions": [{ "key": "team", "operator": "NotIn", "values": ["blue"] }] } });
    check(
        &[with(not_blue)],
        &[
            ("z/b", "x/a", "tcp 80", true),
            ("y/b", "x/a", "tcp 80", false),
            ("198.51.100.1", "x/a", "tcp 80", false),
        ],
    );
}

#[test]
fn list_entries_are_alternatives_and_policies_add_up() {
    let from = |pod: &str| json!({ "podSelector": { "matchLabels": { "pod": pod } } });
    let rule = json!({ "from": [from("b"), { "ipBlock": { "cidr": "198.51.100.0/24" } }] });
    let first = kubernetes("x", &json!({ "podSelector": {}, "ingress": [rule] }));
    let second = named(
        "other",
        kubernetes(
            "x",
            &json!({ "podSelector": {}, "ingress": [{ "from": [from("c")], "ports": [{ "port": 443 }] }] }),
        ),
    );
    check(
        &[first, second],
        &[
            ("x/b", "x/a", "tcp 80", true),
            ("198.51.100.9", "x/a", "tcp 80", true),
            ("x/c", "x/a", "tcp 443", true),
            ("x/c", "x/a", "tcp 80", false),
            ("y/b", "x/a", "tcp 80", false),
        ],
    );
}

#[test]
fn an_address_block_is_a_cidr_minus_its_exceptions_and_rules_form_a_union() {
    let block = |cidr: &str, except: &[&str]| json!({ "from": [{ "ipBlock": { "cidr": cidr, "except": except } }] });
    check(
        &[kubernetes(
            "x",
            &json!({ "podSelector": {}, "ingress": [block("198.51.100.0/24", &["198.51.100.128/25"]), block("198.51.100.200/32", &[])] }),
        )],
        &[
            ("198.51.100.1", "x/a", "tcp 80", true),
            ("198.51.100.129", "x/a", "tcp 80", false),
            ("198.51.100.200", "x/a", "tcp 80", true),
            ("192.0.2.7", "x/a", "tcp 80", false),
        ],
    );
    // Leading zeros mean to us what they mean to the API server; host bits are cut off.
    check(
        &[kubernetes(
            "x",
            &json!({ "podSelector": {}, "ingress": [block("198.051.100.7/24", &[])] }),
        )],
        &[
            ("198.51.100.1", "x/a", "tcp 80", true),
            ("192.0.2.7", "x/a", "tcp 80", false),
        ],
    );
    // It also matches pods inside it.
    check(
        &[kubernetes(
            "x",
            &json!({ "podSelector": {}, "ingress": [block("10.244.0.0/30", &["10.244.0.3/32"])] }),
        )],
        &[
            ("x/b", "x/a", "tcp 80", true),
            ("x/c", "x/a", "tcp 80", false),
            ("y/c", "x/a", "tcp 80", false),
        ],
    );
}

#[test]
fn what_cannot_be_read_matches_nothing_and_is_reported() {
    let peers = json!([
        { "ipBlock": { "cidr": "198.51.100.0/33" } },
        { "ipBlock": { "cidr": "0.0.0.0/0", "except": ["nonsense"] } },
        { "ipBlock": { "cidr": "0.0.0.0/0" }, "podSelector": {} },
        {},
        { "podSelector": { "matchLabels": { "pod": "b" } } },
    ]);
    let findings = check(
        &[kubernetes(
            "x",
            &json!({ "podSelector": {}, "ingress": [{ "from": peers }] }),
        )],
        &[
            ("x/b", "x/a", "tcp 80", true),
            ("x/c", "x/a", "tcp 80", false),
            ("198.51.100.1", "x/a", "tcp 80", false),
        ],
    );
    let paths: Vec<&str> = findings
        .iter()
        .map(|finding| finding.path.as_str())
        .collect();
    assert_eq!(
        paths,
        [0, 1, 2, 3].map(|n| format!("spec.ingress[0].from[{n}]"))
    );
    let ports = json!([{ "port": 80, "protocol": "DCCP" }, { "port": 90, "endPort": 80 }, { "endPort": 80 }, { "port": "web", "endPort": 90 }, { "port": 70000 }]);
    let findings = check(
        &[kubernetes(
            "x",
            &json!({ "podSelector": {}, "ingress": [{ "ports": ports }] }),
        )],
        &[
            ("x/b", "x/a", "tcp 80", false),
            ("x/b", "x/a", "udp 80", false),
            ("x/b", "x/a", "icmp 8", false),
        ],
    );
    assert_eq!(findings.len(), 5);
}

#[test]
fn ports_default_to_tcp_and_absent_ports_mean_any_protocol() {
    let ports = |ports: Value| {
        kubernetes(
            "x",
            &json!({ "podSelector": {}, "ingress": [{ "ports": ports }] }),
        )
    };
    check(
        &[ports(
            json!([{ "port": 80 }, { "port": 9, "protocol": "SCTP" }, { "protocol": "UDP" }]),
        )],
        &[
            ("y/a", "x/a", "tcp 80", true),
            ("y/a", "x/a", "tcp 9", false),
            ("y/a", "x/a", "sctp 9", true),
            ("y/a", "x/a", "sctp 80", false),
            ("y/a", "x/a", "udp 1234", true),
            ("y/a", "x/a", "icmp 8", false),
        ],
    );
    check(
        &[ports(json!([{ "port": 8000, "endPort": 8080 }]))],
        &[
            ("y/a", "x/a", "tcp 7999", false),
            ("y/a", "x/a", "tcp 8000", true),
            ("y/a", "x/a", "tcp 8080", true),
            ("y/a", "x/a", "tcp 8081", false),
        ],
    );
    check(
        &[ports(json!([]))],
        &[
            ("y/a", "x/a", "icmp 8", true),
            ("y/a", "x/a", "proto 47", true),
        ],
    );
}

#[test]
fn a_named_port_is_the_one_the_destination_serves() {
    let ports = json!([{ "port": "web" }, { "port": "dns", "protocol": "TCP" }]);
    check(
        &[kubernetes(
            "y",
            &json!({ "podSelector": {}, "ingress": [{ "ports": ports }] }),
        )],
        &[
            ("x/a", "y/a", "tcp 80", true),
            ("x/a", "y/b", "tcp 80", false),
            ("x/a", "y/b", "tcp 8080", true),
            ("x/a", "y/a", "udp 80", false),
            ("x/a", "y/a", "tcp 53", false),
        ],
    );
    check(
        &[kubernetes(
            "x",
            &json!({ "podSelector": {}, "policyTypes": ["Egress"], "egress": [{ "ports": [{ "port": "web" }] }] }),
        )],
        &[
            ("x/a", "y/a", "tcp 80", true),
            ("x/a", "y/b", "tcp 8080", true),
            ("x/a", "y/b", "tcp 80", false),
            ("x/a", "198.51.100.1", "tcp 80", false),
        ],
    );
}

#[test]
fn host_network_and_finished_pods_are_nobody() {
    let policy = kubernetes(
        "x",
        &json!({ "podSelector": {}, "ingress": [{ "from": [{ "podSelector": {} }] }] }),
    );
    let mut world = scene();
    add(&mut world, &policy);
    let settings = Settings::default();
    check_with(&settings, &mut world, &[("x/b", "x/a", "tcp 80", true)]);
    world.apply(Event::upsert(Pod {
        finished: true,
        ..pod(1)
    }));
    check_with(
        &settings,
        &mut world,
        &[
            ("x/b", "x/a", "tcp 80", false),
            ("x/c", "x/a", "tcp 80", true),
        ],
    );
    // A pod that terminates keeps its identity, and so does one that the API forgot while its sandbox stands.
    world.apply(Event::upsert(Pod {
        terminating: true,
        ..pod(2)
    }));
    world.apply(Event::Delete(model::Key::Pod(pod(2).id)));
    check_with(&settings, &mut world, &[("x/c", "x/a", "tcp 80", true)]);
    world.apply(Event::Delete(model::Key::Endpoint(endpoint(2).id)));
    check_with(&settings, &mut world, &[("x/c", "x/a", "tcp 80", false)]);
}

#[test]
fn a_label_change_is_seen_at_once() {
    let mut world = scene();
    let blue = json!({ "namespaceSelector": { "matchLabels": { "team": "blue" } } });
    add(
        &mut world,
        &kubernetes(
            "x",
            &json!({ "podSelector": {}, "ingress": [{ "from": [blue] }] }),
        ),
    );
    let settings = Settings::default();
    check_with(&settings, &mut world, &[("z/a", "x/a", "tcp 80", false)]);
    let labels = Labels::from([("team".into(), "blue".into())]);
    let namespace = Namespace {
        name: "z".into(),
        labels,
        annotations: BTreeMap::new(),
        terminating: false,
    };
    world.apply(Event::upsert(namespace));
    check_with(&settings, &mut world, &[("z/a", "x/a", "tcp 80", true)]);
}

#[test]
fn a_pod_reaches_its_own_host_by_egress_policy_and_the_host_action() {
    let accept = Settings {
        host_action: HostAction::Accept,
        ..Settings::default()
    };
    let mut world = scene();
    check_with(
        &Settings::default(),
        &mut world,
        &[("x/a", "host", "tcp 80", false)],
    );
    check_with(&accept, &mut world, &[("x/a", "host", "tcp 80", true)]);
    add(
        &mut world,
        &kubernetes(
            "x",
            &json!({ "podSelector": {}, "policyTypes": ["Egress"] }),
        ),
    );
    check_with(
        &accept,
        &mut world,
        &[
            ("x/a", "host", "tcp 80", false),
            ("y/a", "host", "tcp 80", true),
        ],
    );
}

#[test]
fn fixed_rules_hold_whatever_policy_says() {
    let mut world = scene();
    let mut settings = Settings {
        host_action: HostAction::Accept,
        ..Settings::default()
    };
    settings.nat.vxlan_port = Some(4789);
    settings.nat.tunnel_sources = ["192.0.2.0/24".parse().unwrap()].into();
    settings.service_ranges = vec!["203.0.113.0/24".parse().unwrap()];
    check_with(
        &settings,
        &mut world,
        &[
            ("x/a", "y/a", "udp 4789", false),
            ("x/a", "y/a", "proto 4", false),
            ("192.0.2.7", "host", "udp 4789", true),
            ("198.51.100.1", "host", "udp 4789", false),
            ("x/a", "203.0.113.1", "tcp 80", false),
            ("198.51.100.1", "203.0.113.1", "tcp 80", false),
            ("x/a", "198.51.100.1", "tcp 80", true),
        ],
    );
    // A source that is not its own, and the host's loopback before any translation.
    let mut spoofed = packet("x/a", "y/a", "tcp 80");
    spoofed.source = address_of("x/b");
    let mut loopback = packet("x/a", "host", "tcp 80");
    loopback.destination = "127.0.0.1".parse().unwrap();
    let ruleset = Planner::new().plan(&mut world, &settings).ruleset;
    for packet in [spoofed, loopback] {
        assert_eq!(evaluate(&world, &settings, &packet).outcome, Outcome::Drop);
        assert_eq!(walk(&ruleset, &packet).outcome, Outcome::Drop);
    }
}

#[test]
fn the_web_tier_may_reach_the_database_and_nobody_else() {
    let spec = json!({
        "selector": "pod == 'a' && projectcalico.org/namespace in {'y', 'z'}",
        "types": ["Ingress"],
        "ingress": [
            { "action": "Allow", "protocol": "TCP", "source": { "selector": "pod == 'b'" }, "destination": { "ports": [3306] } },
            { "action": "Deny" },
        ],
    });
    check(
        &[global(&spec)],
        &[
            ("x/b", "y/a", "tcp 3306", true),
            ("x/b", "z/a", "tcp 3306", true),
            ("x/b", "y/a", "tcp 80", false),
            ("x/c", "y/a", "tcp 3306", false),
            ("198.51.100.1", "y/a", "tcp 3306", false),
            ("x/c", "x/a", "tcp 3306", true),
        ],
    );
}

#[test]
fn tiers_are_asked_in_order_and_pass_leads_to_the_next() {
    let rules = |rules: Value| json!({ "tier": "first", "selector": "all()", "types": ["Ingress"], "ingress": rules });
    let pass = rules(json!([
        { "action": "Pass", "protocol": "TCP", "destination": { "ports": [80] } },
        { "action": "Allow", "protocol": "TCP", "destination": { "ports": [443] } },
    ]));
    let knp = kubernetes(
        "x",
        &json!({ "podSelector": {}, "ingress": [{ "from": [{ "podSelector": {} }] }] }),
    );
    let probes = [
        ("x/b", "x/a", "tcp 80", true),
        ("y/a", "x/a", "tcp 80", false),
        ("y/a", "x/a", "tcp 443", true),
        // Nobody passed it on, so the first tier ends it.
        ("x/b", "x/a", "tcp 81", false),
        // Behind the last tier: the profile.
        ("x/b", "y/a", "tcp 80", true),
    ];
    check(
        &[tier("first", 10, "Deny"), global(&pass), knp.clone()],
        &probes,
    );
    // A tier behind the default one never hears of what was decided before it.
    check(
        &[tier("first", 2_000_000, "Deny"), global(&pass), knp],
        &[
            ("x/b", "x/a", "tcp 81", true),
            ("y/a", "x/a", "tcp 443", false),
            ("y/a", "z/a", "tcp 81", false),
        ],
    );
}

#[test]
fn a_tier_that_ends_in_pass_leaves_the_undecided_to_the_next() {
    let spec = json!({ "tier": "first", "selector": "all()", "types": ["Ingress"], "ingress": [{ "action": "Deny", "protocol": "TCP", "destination": { "ports": [22] } }] });
    check(
        &[tier("first", 10, "Pass"), global(&spec)],
        &[
            ("y/a", "x/a", "tcp 22", false),
            ("y/a", "x/a", "tcp 80", true),
        ],
    );
    // The same in two tiers with Pass rules between them and a profile at the end.
    let pass = |tier: &str, port: u32| {
        json!({ "tier": tier, "selector": "all()", "types": ["Ingress"], "ingress": [
        { "action": "Pass", "protocol": "TCP", "destination": { "ports": [port, 90] } },
        { "action": "Allow", "protocol": "UDP" },
    ] })
    };
    let objects = [
        tier("first", 10, "Deny"),
        tier("second", 20, "Deny"),
        named("one", global(&pass("first", 80))),
        named("two", global(&pass("second", 81))),
    ];
    check(
        &objects,
        &[
            ("y/a", "x/a", "tcp 90", true),
            ("y/a", "x/a", "tcp 80", false),
            ("y/a", "x/a", "tcp 81", false),
            ("y/a", "x/a", "udp 7", true),
        ],
    );
}

#[test]
fn a_tier_that_does_not_exist_comes_last_and_denies() {
    let spec = json!({ "tier": "nowhere", "selector": "pod == 'a'", "types": ["Ingress"], "ingress": [{ "action": "Allow", "protocol": "UDP" }] });
    let findings = check(
        &[global(&spec)],
        &[
            ("y/b", "x/a", "udp 53", true),
            ("y/b", "x/a", "tcp 80", false),
            ("y/b", "x/b", "tcp 80", true),
        ],
    );
    assert_eq!(findings.len(), 1);
    assert_eq!(
        (findings[0].path.as_str(), findings[0].reason),
        ("spec.tier", Reason::RefNotFound)
    );
}

#[test]
fn order_decides_inside_a_tier_and_names_break_ties() {
    let spec = |order: Value, action: &str| json!({ "order": order, "selector": "all()", "types": ["Ingress"], "ingress": [{ "action": action }] });
    let pair = |first: (&str, Value, &str), second: (&str, Value, &str)| {
        [
            named(first.0, global(&spec(first.1, first.2))),
            named(second.0, global(&spec(second.1, second.2))),
        ]
    };
    for (objects, passes) in [
        (
            pair(("a", json!(2.0), "Allow"), ("b", json!(1.5), "Deny")),
            false,
        ),
        (
            pair(("a", json!(1.0), "Allow"), ("b", json!(1.5), "Deny")),
            true,
        ),
        (
            pair(("a", json!(null), "Allow"), ("b", json!(1e9), "Deny")),
            false,
        ),
        (
            pair(("a", json!(1), "Allow"), ("b", json!(1), "Deny")),
            true,
        ),
        (
            pair(("b", json!(1), "Allow"), ("a", json!(1), "Deny")),
            false,
        ),
    ] {
        check(&objects, &[("y/a", "x/a", "tcp 80", passes)]);
    }
}

#[test]
fn selectors_know_endpoints_and_not_selectors_know_everybody_else() {
    let ingress = |source: Value| {
        global(
            &json!({ "selector": "all()", "types": ["Ingress"], "ingress": [{ "action": "Allow", "source": source }] }),
        )
    };
    check(
        &[ingress(json!({ "selector": "pod != 'b'" }))],
        &[
            ("y/a", "x/a", "tcp 80", true),
            ("y/b", "x/a", "tcp 80", false),
            ("198.51.100.1", "x/a", "tcp 80", false),
        ],
    );
    check(
        &[ingress(json!({ "notSelector": "pod == 'b'" }))],
        &[
            ("y/b", "x/a", "tcp 80", false),
            ("198.51.100.1", "x/a", "tcp 80", true),
        ],
    );
    check(
        &[ingress(
            json!({ "selector": "has(pod)", "notSelector": "pod == 'b'" }),
        )],
        &[
            ("y/a", "x/a", "tcp 80", true),
            ("y/b", "x/a", "tcp 80", false),
            ("198.51.100.1", "x/a", "tcp 80", false),
        ],
    );
    // Nobody carries it: nothing matches, which is not the same as anything.
    check(
        &[ingress(json!({ "selector": "has(nobody)" }))],
        &[("y/a", "x/a", "tcp 80", false)],
    );
    check(
        &[ingress(json!({ "namespaceSelector": "global()" }))],
        &[
            ("y/a", "x/a", "tcp 80", false),
            ("198.51.100.1", "x/a", "tcp 80", false),
        ],
    );
    check(
        &[ingress(json!({ "serviceAccounts": { "names": ["sa-b"] } }))],
        &[
            ("y/b", "x/a", "tcp 80", true),
            ("y/a", "x/a", "tcp 80", false),
        ],
    );
}

#[test]
fn a_namespaced_policy_stays_in_its_namespace_unless_it_names_others() {
    let ingress = |source: Value| {
        namespaced(
            "x",
            &json!({ "selector": "all()", "types": ["Ingress"], "ingress": [{ "action": "Allow", "source": source }] }),
        )
    };
    check(
        &[ingress(json!({ "selector": "pod == 'b'" }))],
        &[
            ("x/b", "x/a", "tcp 80", true),
            ("y/b", "x/a", "tcp 80", false),
            ("y/b", "y/a", "tcp 80", true),
        ],
    );
    check(
        &[ingress(
            json!({ "selector": "pod == 'b'", "namespaceSelector": "team == 'blue'" }),
        )],
        &[
            ("x/b", "x/a", "tcp 80", false),
            ("y/b", "x/a", "tcp 80", true),
        ],
    );
    check(
        &[ingress(json!({ "nets": ["198.51.100.0/24"] }))],
        &[
            ("198.51.100.1", "x/a", "tcp 80", true),
            ("x/b", "x/a", "tcp 80", false),
        ],
    );
}

#[test]
fn negations_of_ports_protocols_and_nets_hold_together() {
    let rule = json!({ "action": "Allow", "protocol": "TCP", "source": { "notNets": ["198.51.100.0/25"], "notPorts": [1] }, "destination": { "notPorts": [22, "8000:8100", "web"] } });
    check(
        &[global(
            &json!({ "selector": "all()", "types": ["Ingress"], "ingress": [rule] }),
        )],
        &[
            ("198.51.100.200", "x/a", "tcp 443", true),
            ("198.51.100.1", "x/a", "tcp 443", false),
            ("198.51.100.200", "x/a", "tcp 22", false),
            ("198.51.100.200", "x/a", "tcp 8050", false),
            ("198.51.100.200", "x/a", "tcp 80", false),
            ("198.51.100.200", "y/b", "tcp 80", true),
            ("198.51.100.200", "x/a", "udp 443", false),
        ],
    );
    let rule =
        json!({ "action": "Allow", "notProtocol": "TCP", "destination": { "notPorts": ["dns"] } });
    check(
        &[global(
            &json!({ "selector": "all()", "types": ["Ingress"], "ingress": [rule] }),
        )],
        &[
            ("y/a", "x/a", "tcp 80", false),
            ("y/a", "x/a", "udp 53", false),
            ("y/a", "x/a", "udp 54", true),
            ("y/a", "x/a", "icmp 8", true),
            ("y/a", "x/a", "proto 47", true),
        ],
    );
    let rule = json!({ "action": "Allow", "protocol": "ICMP", "icmp": { "type": 8 } });
    check(
        &[global(
            &json!({ "selector": "all()", "types": ["Ingress"], "ingress": [rule] }),
        )],
        &[
            ("y/a", "x/a", "icmp 8", true),
            ("y/a", "x/a", "icmp 13", false),
            ("y/a", "x/a", "tcp 8", false),
        ],
    );
}

#[test]
fn an_unusable_match_never_allows_and_always_denies() {
    let spec =
        |rules: Value| json!({ "selector": "all()", "types": ["Ingress"], "ingress": rules });
    for (field, bad) in [
        ("source", json!({ "selector": "pod ==" })),
        ("source", json!({ "notNets": ["nonsense"] })),
        ("source", json!({ "selector": "global()" })),
        (
            "source",
            json!({ "namespaceSelector": "global() && team == 'blue'" }),
        ),
        ("source", json!({ "services": { "name": "s" } })),
        ("destination", json!({ "ports": [80] })),
        ("protocol", json!("bogus")),
        ("http", json!({ "methods": ["GET"] })),
    ] {
        let mut rule = json!({ "action": "Allow" });
        rule[field] = bad.clone();
        let findings = check(
            &[global(&spec(json!([rule])))],
            &[("y/a", "x/a", "tcp 80", false)],
        );
        assert!(!findings.is_empty(), "{field} {bad}");
        for action in ["Deny", "Pass"] {
            rule["action"] = json!(action);
            let rules = json!([rule, { "action": "Allow" }]);
            check(&[global(&spec(rules))], &[("y/a", "x/a", "udp 53", false)]);
        }
    }
    // Of several alternatives the good ones of an Allow stay.
    let rule = json!({ "action": "Allow", "source": { "nets": ["nonsense", "198.51.100.0/24"] } });
    check(
        &[global(&spec(json!([rule])))],
        &[
            ("198.51.100.1", "x/a", "tcp 80", true),
            ("y/a", "x/a", "tcp 80", false),
        ],
    );
    let rule = json!({ "action": "Allow", "source": { "nets": ["nonsense"] } });
    check(
        &[global(&spec(json!([rule])))],
        &[("y/a", "x/a", "tcp 80", false)],
    );
}

#[test]
fn a_policy_that_cannot_be_placed_is_absent_and_reported() {
    let deny = |extra: Value| {
        let mut spec = json!({ "selector": "all()", "types": ["Ingress"] });
        spec.as_object_mut()
            .unwrap()
            .extend(extra.as_object().unwrap().clone());
        global(&spec)
    };
    for (extra, path, reason) in [
        (
            json!({ "selector": "pod ==" }),
            "spec.selector",
            Reason::Invalid,
        ),
        (
            json!({ "namespaceSelector": "(" }),
            "spec.namespaceSelector",
            Reason::Invalid,
        ),
        (
            json!({ "serviceAccountSelector": "global()" }),
            "spec.serviceAccountSelector",
            Reason::Invalid,
        ),
        (
            json!({ "preDNAT": true, "applyOnForward": true }),
            "spec.preDNAT",
            Reason::Unsupported,
        ),
        (
            json!({ "doNotTrack": true, "applyOnForward": true }),
            "spec.doNotTrack",
            Reason::Unsupported,
        ),
    ] {
        let findings = check(&[deny(extra)], &[("y/a", "x/a", "tcp 80", true)]);
        assert_eq!(
            (findings[0].path.as_str(), findings[0].reason),
            (path, reason)
        );
    }
    let findings = check(
        &[deny(json!({ "applyOnForward": true }))],
        &[("y/a", "x/a", "tcp 80", false)],
    );
    assert_eq!(findings[0].path, "spec.applyOnForward");
}

/// The rules of the groups alone, without ids in their names, which depend on hashes of names.
fn rendered(objects: &[Value], settings: &Settings) -> String {
    let mut world = scene();
    for object in objects {
        add(&mut world, object);
    }
    Planner::new()
        .plan(&mut world, settings)
        .ruleset
        .to_string()
}

#[test]
fn rendered_rules_are_as_reviewed() {
    let mut settings = Settings {
        host_action: HostAction::Accept,
        ..Settings::default()
    };
    settings.nat.vxlan_port = Some(4789);
    settings.nat.tunnel_sources = ["192.0.2.0/24".parse().unwrap()].into();
    settings.nat.nat_pools = ["10.244.0.0/16".parse().unwrap()].into();
    settings.nat.all_pools = ["10.244.0.0/16".parse().unwrap()].into();
    let database = json!({
        "tier": "security", "selector": "pod == 'a' && projectcalico.org/namespace in {'y', 'z'}",
        "ingress": [
            { "action": "Allow", "protocol": "TCP", "source": { "selector": "pod == 'b'" }, "destination": { "ports": [3306, "web"] } },
            { "action": "Pass", "source": { "nets": ["10.0.0.0/8", "10.1.0.0/16", "192.0.2.0/24"], "notNets": ["10.9.0.0/16"] } },
        ],
        "egress": [{ "action": "Log" }, { "action": "Deny", "notProtocol": "UDP", "destination": { "notSelector": "has(pod)" } }],
    });
    let frontend = json!({
        "podSelector": { "matchLabels": { "pod": "a" } },
        "ingress": [{ "from": [{ "ipBlock": { "cidr": "198.51.100.0/24", "except": ["198.51.100.7/32"] } }], "ports": [{ "port": 80 }, { "port": 443, "endPort": 444 }] }],
    });
    let objects = [
        tier("security", 100, "Deny"),
        named("database", global(&database)),
        named("frontend", kubernetes("y", &frontend)),
    ];
    insta::assert_snapshot!(rendered(&objects, &settings));
}

#[test]
fn every_rule_applies_to_both_families_of_a_pod() {
    let rule = json!({ "from": [{ "podSelector": { "matchLabels": { "pod": "b" } } }], "ports": [{ "port": "web" }] });
    check(
        &[kubernetes(
            "x",
            &json!({ "podSelector": {}, "ingress": [rule] }),
        )],
        &[
            ("x/b", "x/a", "tcp 80", true),
            ("x/b+6", "x/a+6", "tcp 80", true),
            ("x/b+6", "x/a+6", "tcp 81", false),
            ("x/c", "x/a", "tcp 80", false),
            ("x/c+6", "x/a+6", "tcp 80", false),
            ("2001:db8:1::1", "x/a+6", "tcp 80", false),
            ("x/a+6", "x/a+6", "tcp 81", true),
            ("host+6", "x/a+6", "tcp 81", true),
            ("x/a+6", "2001:db8:1::1", "tcp 80", true),
        ],
    );
    // Names resolve in each family to the number the pod serves.
    let rule = json!({ "to": [{ "namespaceSelector": {} }], "ports": [{ "port": "web" }] });
    check(
        &[kubernetes(
            "x",
            &json!({ "podSelector": {}, "policyTypes": ["Egress"], "egress": [rule] }),
        )],
        &[
            ("x/a", "y/b", "tcp 8080", true),
            ("x/a+6", "y/b+6", "tcp 8080", true),
            ("x/a+6", "y/b+6", "tcp 80", false),
            ("x/a+6", "y/a+6", "tcp 80", true),
            ("x/a+6", "2001:db8:1::1", "tcp 80", false),
        ],
    );
}

#[test]
fn a_net_of_one_family_says_nothing_about_the_other() {
    let block = |cidr: &str| json!({ "podSelector": {}, "policyTypes": ["Ingress"], "ingress": [{ "from": [{ "ipBlock": { "cidr": cidr } }] }] });
    check(
        &[kubernetes("x", &block("0.0.0.0/0"))],
        &[
            ("198.51.100.1", "x/a", "tcp 80", true),
            ("2001:db8:1::1", "x/a+6", "tcp 80", false),
            ("y/a+6", "x/a+6", "tcp 80", false),
        ],
    );
    check(
        &[kubernetes("x", &block("::/0"))],
        &[
            ("198.51.100.1", "x/a", "tcp 80", false),
            ("2001:db8:1::1", "x/a+6", "icmp 128", true),
        ],
    );
    let except = json!({ "podSelector": {}, "ingress": [{ "from": [{ "ipBlock": { "cidr": "2001:db8::/32", "except": ["2001:db8:1::/48"] } }] }] });
    check(
        &[kubernetes("x", &except)],
        &[
            ("2001:db8:1::1", "x/a+6", "tcp 80", false),
            ("2001:db8:2::1", "x/a+6", "tcp 80", true),
        ],
    );
    let rules = json!([{ "action": "Deny", "source": { "notNets": ["fd00:244::/64"] } }, { "action": "Allow" }]);
    check(
        &[namespaced("x", &json!({ "ingress": rules }))],
        &[
            ("198.51.100.1", "x/a", "tcp 80", true),
            ("2001:db8:1::1", "x/a+6", "tcp 80", false),
            ("y/a+6", "x/a+6", "tcp 80", true),
        ],
    );
}

#[test]
fn icmp_is_of_one_version_and_its_types_are_told_apart() {
    let rules = json!([
        { "action": "Allow", "protocol": "ICMP" },
        { "action": "Allow", "protocol": "ICMPv6", "icmp": { "type": 128, "code": 0 } },
        { "action": "Allow", "ipVersion": 6, "protocol": "TCP", "destination": { "ports": [80] } },
    ]);
    check(
        &[namespaced("x", &json!({ "ingress": rules }))],
        &[
            ("y/a", "x/a", "icmp 8", true),
            ("y/a", "x/a", "icmp 128", true),
            ("y/a+6", "x/a+6", "icmp 128", true),
            ("y/a+6", "x/a+6", "icmp 139", false),
            ("y/a", "x/a", "tcp 80", false),
            ("y/a+6", "x/a+6", "tcp 80", true),
        ],
    );
}

#[test]
fn what_ipv6_needs_on_a_link_reaches_the_host_and_what_routers_send_does_not() {
    let closed = json!({ "selector": "all()", "types": ["Ingress", "Egress"] });
    let mut probes: Vec<Probe> = vec![("x/a+6", "host+6", "icmp 128", false)];
    for what in [
        "icmp 130", "icmp 131", "icmp 132", "icmp 133", "icmp 135", "icmp 136",
    ] {
        probes.push(("x/a+6", "host+6", what, true));
        probes.push(("x/a+6", "ff02::1", what, true));
        // Through the host it is traffic like any other.
        probes.push(("x/a+6", "y/a+6", what, false));
    }
    for what in ["icmp 134", "icmp 137"] {
        probes.push(("x/a+6", "host+6", what, false));
        probes.push(("x/a+6", "ff02::1", what, false));
    }
    check(&[global(&closed)], &probes);
    // Advertisements and redirects are dropped also where everything is allowed.
    let mut world = scene();
    let settings = Settings {
        host_action: HostAction::Accept,
        ..Settings::default()
    };
    check_with(
        &settings,
        &mut world,
        &[
            ("x/a+6", "ff02::1", "icmp 134", false),
            ("x/a+6", "host+6", "icmp 137", false),
            ("x/a+6", "y/a+6", "icmp 134", false),
            ("x/a+6", "host+6", "icmp 128", true),
            ("x/a+6", "host+6", "udp 546", true),
        ],
    );
}

#[test]
fn a_pod_of_a_dying_namespace_stays_isolated_until_it_is_gone() {
    let mut world = scene();
    let isolate = kubernetes(
        "x",
        &json!({ "podSelector": {}, "policyTypes": ["Ingress"] }),
    );
    add(&mut world, &isolate);
    add(
        &mut world,
        &named("too", namespaced("x", &json!({ "types": ["Egress"] }))),
    );
    let mut dying = world.namespaces()["x"].clone();
    dying.terminating = true;
    world.apply(Event::upsert(dying));
    let kube = model::NamespacedName::new("x", "policy");
    let own = model::NamespacedName::new("x", "too");
    world.apply(Event::Delete(model::Key::KubeNetworkPolicy(kube.clone())));
    world.apply(Event::Delete(model::Key::NetworkPolicy(own)));
    let settings = Settings::default();
    let closed = [
        ("y/a", "x/a", "tcp 80", false),
        ("x/a", "y/a", "tcp 80", false),
        ("x/c", "y/a", "tcp 80", false),
    ];
    check_with(&settings, &mut world, &closed);
    for n in [0, 1] {
        world.apply(Event::Delete(model::Key::Pod(pod(n).id)));
        world.apply(Event::Delete(model::Key::Endpoint(endpoint(n).id)));
    }
    check_with(&settings, &mut world, &[("x/c", "y/a", "tcp 80", false)]);
    world.apply(Event::Delete(model::Key::Endpoint(endpoint(2).id)));
    assert!(!world.kube_policies().contains_key(&kube));
    assert!(world.policies().is_empty());
}

/// A set of addresses with the label `role: partner`.
fn network_set(namespace: Option<&str>, nets: &[&str]) -> Value {
    let kind = namespace.map_or("GlobalNetworkSet", |_| "NetworkSet");
    json!({
        "apiVersion": "projectcalico.org/v3", "kind": kind,
        "metadata": { "name": "partners", "namespace": namespace, "labels": { "role": "partner" } },
        "spec": { "nets": nets },
    })
}

#[test]
fn network_sets_are_found_by_selectors_of_their_scope() {
    let sets = [
        network_set(Some("x"), &["198.51.100.1", "2001:db8:1::/64"]),
        network_set(Some("y"), &["198.51.100.2/32"]),
        network_set(None, &["198.51.100.3", "203.0.113.0/24", "203.0.113.9/32"]),
    ];
    let with = |policy: Value| sets.iter().cloned().chain([policy]).collect::<Vec<_>>();
    let partner = json!({ "selector": "role == 'partner'" });
    let allow = |source: Value| json!({ "ingress": [{ "action": "Allow", "source": source }] });
    let in_x = json!({ "selector": "role == 'partner'", "namespaceSelector": "ns == 'x'" });
    let in_any = json!({ "selector": "role == 'partner'", "namespaceSelector": "all()" });
    let in_none = json!({ "selector": "role == 'partner'", "namespaceSelector": "global()" });
    // Sets of x, of y, of the cluster.
    for (policy, expected) in [
        (
            namespaced("x", &allow(partner.clone())),
            [true, false, false],
        ),
        (namespaced("x", &allow(in_any.clone())), [true, true, false]),
        (
            namespaced("x", &allow(in_none.clone())),
            [false, false, true],
        ),
        (global(&allow(partner.clone())), [true, true, true]),
        (global(&allow(in_x)), [true, false, false]),
        (global(&allow(in_none)), [false, false, true]),
    ] {
        let [x, y, cluster] = expected;
        check(
            &with(policy),
            &[
                ("198.51.100.1", "x/a", "tcp 80", x),
                ("2001:db8:1::7", "x/a+6", "tcp 80", x),
                ("2001:db8:1:1::7", "x/a+6", "tcp 80", false),
                ("198.51.100.2", "x/a", "tcp 80", y),
                ("198.51.100.3", "x/a", "tcp 80", cluster),
                ("203.0.113.77", "x/a", "tcp 80", cluster),
                ("203.0.113.9", "x/a", "tcp 80", cluster),
                ("198.51.100.9", "x/a", "tcp 80", false),
                ("y/a", "x/a", "tcp 80", false),
            ],
        );
    }
    // Everybody but the members, addresses nobody knows included.
    let others = json!({ "notSelector": "role == 'partner'" });
    check(
        &with(global(&allow(others))),
        &[
            ("198.51.100.1", "x/a", "tcp 80", false),
            ("203.0.113.77", "x/a", "tcp 80", false),
            ("198.51.100.9", "x/a", "tcp 80", true),
            ("y/a", "x/a", "tcp 80", true),
        ],
    );
    // Kubernetes policies know pods only, whatever labels a set claims.
    let mut claims = network_set(Some("x"), &["198.51.100.1"]);
    claims["metadata"]["labels"]["projectcalico.org/orchestrator"] = json!("k8s");
    let rule = json!({ "from": [{ "podSelector": {} }] });
    check(
        &[
            claims,
            kubernetes("x", &json!({ "podSelector": {}, "ingress": [rule] })),
        ],
        &[
            ("198.51.100.1", "x/a", "tcp 80", false),
            ("x/b", "x/a", "tcp 80", true),
        ],
    );
}

#[test]
fn a_set_that_changes_changes_what_is_allowed() {
    let mut world = scene();
    let allow = json!({ "ingress": [{ "action": "Allow", "source": { "selector": "role == 'partner'" } }] });
    add(&mut world, &global(&allow));
    let settings = Settings::default();
    let closed = [("198.51.100.1", "x/a", "tcp 80", false)];
    let open = [("198.51.100.1", "x/a", "tcp 80", true)];
    check_with(&settings, &mut world, &closed);
    for (nets, probes) in [
        (&["198.51.100.0/24"][..], &open),
        (&["198.51.100.2/32"], &closed),
        (&["198.51.100.1/32", "nonsense"], &open),
        (&[], &closed),
        (&["0.0.0.0/0", "10.0.0.0/8", "198.51.100.1/32"], &open),
    ] {
        add(&mut world, &network_set(None, nets));
        check_with(&settings, &mut world, probes);
    }
    world.apply(Event::Delete(model::Key::GlobalNetworkSet(
        "partners".into(),
    )));
    check_with(&settings, &mut world, &closed);
}

fn slice(namespace: &str, name: &str, service: &str, pods: &[&str], port: u16) -> Event {
    Event::upsert(model::EndpointSlice {
        id: model::NamespacedName::new(namespace, name),
        service: Some(service.into()),
        addresses: pods.iter().map(|pod| address_of(pod)).collect(),
        ports: [(Transport::Tcp, port)].into(),
    })
}

#[test]
fn a_service_is_its_endpoints_at_their_ports() {
    let mut world = scene();
    world.apply(slice("y", "web-1", "web", &["y/a", "y/b"], 8080));
    world.apply(slice("y", "web-2", "web", &["y/a+6"], 8081));
    world.apply(slice("x", "web", "web", &["x/c"], 8080));
    let allow = |service: Value| json!({ "types": ["Egress"], "egress": [{ "action": "Allow", "destination": { "services": service } }] });
    let settings = Settings::default();
    let in_y = json!({ "name": "web", "namespace": "y" });
    add(&mut world, &namespaced("x", &allow(in_y.clone())));
    check_with(
        &settings,
        &mut world,
        &[
            ("x/a", "y/a", "tcp 8080", true),
            ("x/a", "y/b", "tcp 8080", true),
            ("x/a", "y/a", "tcp 8081", false),
            ("x/a", "y/a", "udp 8080", false),
            ("x/a", "y/a", "icmp 8", false),
            ("x/a+6", "y/a+6", "tcp 8081", true),
            ("x/a+6", "y/a+6", "tcp 8080", false),
            ("x/a", "x/c", "tcp 8080", false),
        ],
    );
    // Endpoints change, and only those of a Service somebody asks for make a plan anew.
    assert!(
        world
            .apply(slice("y", "web-1", "web", &["y/c"], 8080))
            .any(model::Dirty::POLICY)
    );
    assert!(
        world
            .apply(slice("y", "other", "other", &["y/c"], 1))
            .is_none()
    );
    check_with(
        &settings,
        &mut world,
        &[
            ("x/a", "y/a", "tcp 8080", false),
            ("x/a", "y/c", "tcp 8080", true),
        ],
    );
    // Without a namespace it is the policy's own.
    add(
        &mut world,
        &namespaced("x", &allow(json!({ "name": "web" }))),
    );
    check_with(
        &settings,
        &mut world,
        &[
            ("x/a", "x/c", "tcp 8080", true),
            ("x/a", "y/c", "tcp 8080", false),
        ],
    );
    // As source it is its addresses.
    let from = json!({ "ingress": [{ "action": "Allow", "source": { "services": in_y } }] });
    let mut world = scene();
    world.apply(slice("y", "web-1", "web", &["y/a"], 8080));
    add(&mut world, &global(&from));
    check_with(
        &settings,
        &mut world,
        &[
            ("y/a", "x/a", "tcp 1", true),
            ("y/a", "x/a", "icmp 8", true),
            ("y/b", "x/a", "tcp 8080", false),
        ],
    );
}

#[test]
fn a_service_that_cannot_be_used_never_allows_and_denies_everything() {
    let service = json!({ "name": "web", "namespace": "y" });
    for (rule, passes) in [
        (
            json!({ "action": "Allow", "source": { "services": { "name": "nobody", "namespace": "y" } } }),
            false,
        ),
        (
            json!({ "action": "Allow", "source": { "services": { "name": "web" } } }),
            false,
        ),
        (
            json!({ "action": "Allow", "destination": { "services": service } }),
            false,
        ),
        (
            json!({ "action": "Allow", "source": { "services": service, "nets": ["10.0.0.0/8"] } }),
            false,
        ),
        (
            json!({ "action": "Deny", "source": { "services": { "name": "nobody", "namespace": "y" } } }),
            true,
        ),
        (
            json!({ "action": "Deny", "destination": { "services": service } }),
            false,
        ),
    ] {
        let mut world = scene();
        world.apply(slice("y", "web-1", "web", &["y/a"], 80));
        let rules = json!([rule, { "action": if passes { "Allow" } else { "Log" } }]);
        add(&mut world, &global(&json!({ "ingress": rules })));
        check_with(
            &Settings::default(),
            &mut world,
            &[("y/a", "x/a", "tcp 80", passes)],
        );
    }
}
