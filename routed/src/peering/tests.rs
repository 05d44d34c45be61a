//! Peering of the two racks, of a mesh, and of what goes wrong.

use std::net::IpAddr;

use bgp::filter::{Filter, Match, Verdict};
use bgp::speaker::{ConnectMode, Hops, NextHopMode, Reflection};
use bgp::{Asn, FamilySet};
use dataplane::host::Device;
use model::node::annotation;
use model::{Event, Kind, LocalEndpoint, Node, Object};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::kube::secrets::Password;

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn node(name: &str, annotations: &[(&str, &str)], labels: &[(&str, &str)]) -> Event {
    let pairs = |list: &[(&str, &str)]| {
        list.iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect()
    };
    let (node, errors) = Node::parse(
        &name.into(),
        format!("uid-{name}"),
        pairs(labels),
        &pairs(annotations),
        Vec::new(),
    );
    assert_eq!(errors, []);
    Event::upsert(node)
}

fn rack_node(name: &str, address: &str, asn: &str, rack: &str) -> Event {
    node(
        name,
        &[
            (annotation::IPV4_ADDRESS, address),
            (annotation::AS_NUMBER, asn),
        ],
        &[("rack", rack)],
    )
}

fn object<T: serde::de::DeserializeOwned + Into<Object>>(name: &str, spec: &Value) -> Event {
    let object: T = serde_json::from_value(json!({
        "apiVersion": "projectcalico.org/v3",
        "kind": std::any::type_name::<T>().rsplit("::").next().unwrap(),
        "metadata": { "name": name },
        "spec": spec,
    }))
    .unwrap();
    Event::upsert(object)
}

fn peer(name: &str, spec: &Value) -> Event {
    object::<api::BGPPeer>(name, spec)
}

fn configuration(spec: &Value) -> Event {
    object::<api::BGPConfiguration>("default", spec)
}

fn pool(name: &str, spec: &Value) -> Event {
    object::<api::IPPool>(name, spec)
}

fn affinity(node: &str, cidr: &str, state: &str) -> Event {
    let name = format!("{node}-{}", cidr.replace(['.', '/', ':'], "-"));
    object::<api::BlockAffinity>(
        &name,
        &json!({ "state": state, "node": node, "cidr": cidr, "deleted": false }),
    )
}

/// A block with one address, held by `holder`.
fn block(owner: &str, cidr: &str, ordinal: usize, holder: &str) -> Event {
    let size = 64;
    let allocations: Vec<Value> = (0..size)
        .map(|at| if at == ordinal { json!(0) } else { Value::Null })
        .collect();
    let unallocated: Vec<usize> = (0..size).filter(|at| *at != ordinal).collect();
    let name = cidr.replace(['.', '/', ':'], "-");
    object::<api::IPAMBlock>(
        &name,
        &json!({
            "cidr": cidr, "affinity": format!("host:{owner}"), "allocations": allocations, "unallocated": unallocated,
            "attributes": [{ "handle_id": "h", "secondary": { "node": holder } }],
            "strictAffinity": false, "deleted": false,
        }),
    )
}

fn endpoint(address: &str) -> Event {
    Event::upsert(LocalEndpoint {
        id: model::AttachmentId {
            network: "k8s-pod-network".into(),
            container_id: address.into(),
            ifname: "eth0".into(),
        },
        pod: None,
        pod_uid: None,
        interface: "cali1".into(),
        ifindex: 7,
        mac: None,
        addresses: vec![self::address(address)],
        labels: BTreeMap::new(),
    })
}

/// The two racks: a node AS and a ToR each, no mesh, one CrossSubnet pool.
fn racks() -> Vec<Event> {
    vec![
        rack_node("a1", "10.1.0.11/24", "64512", "a"),
        rack_node("a2", "10.1.0.12/24", "64512", "a"),
        rack_node("b1", "10.2.0.11/24", "64513", "b"),
        configuration(&json!({ "nodeToNodeMeshEnabled": false })),
        peer(
            "tor-a",
            &json!({ "nodeSelector": "rack == 'a'", "peerIP": "10.1.0.1", "asNumber": 65001 }),
        ),
        peer(
            "tor-b",
            &json!({ "nodeSelector": "rack == 'b'", "peerIP": "10.2.0.1", "asNumber": 65002 }),
        ),
        pool(
            "pods",
            &json!({ "cidr": "10.244.0.0/16", "vxlanMode": "CrossSubnet" }),
        ),
    ]
}

fn world(this: &str, events: impl IntoIterator<Item = Event>) -> World {
    let mut world = World::new(this.into());
    for event in events {
        world.apply(event);
    }
    for kind in Kind::ALL {
        world.apply(Event::Synced(*kind));
    }
    world
}

fn host() -> Host {
    let device = |index, net: &str| Device {
        index,
        mtu: 1500,
        running: true,
        addresses: vec![self::net(net)],
        ..Device::default()
    };
    Host {
        devices: BTreeMap::from([
            (
                dataplane::link::IfName::parse("eth0").unwrap(),
                device(2, "10.1.0.11/24"),
            ),
            (
                dataplane::link::IfName::parse("lo").unwrap(),
                device(1, "127.0.0.1/8"),
            ),
        ]),
        ..Host::default()
    }
}

fn plan_with(world: &World, passwords: &Passwords) -> Peering {
    plan(Inputs {
        world,
        host: &host(),
        passwords,
        bgp: runs(world, false),
    })
}

fn plan_of(this: &str, events: impl IntoIterator<Item = Event>) -> Peering {
    plan_with(&world(this, events), &Passwords::new())
}

fn peers(peering: &Peering) -> Vec<String> {
    let desired = peering.desired().expect("BGP runs");
    desired
        .peers
        .iter()
        .map(|(key, peer)| format!("{key} as {}", peer.remote_as))
        .collect()
}

fn only_peer(peering: &Peering) -> &Peer {
    let mut peers = peering.desired().expect("BGP runs").peers.values();
    let peer = peers.next().expect("a peer");
    assert!(peers.next().is_none());
    peer
}

fn reasons(peering: &Peering) -> Vec<(&str, &str, Reason)> {
    peering
        .findings
        .iter()
        .map(|finding| (&*finding.name, finding.path, finding.reason))
        .collect()
}

/// The first rule that decides, with its name.
fn verdict(filter: &Filter, prefix: &str, owner: Option<&str>) -> (String, Verdict) {
    let prefix = net(prefix);
    let holds = |matched: &Match| {
        if let Match::Prefixes(list) = matched {
            list.iter().any(|entry| entry.fits(&prefix))
        } else if let Match::Owner(wanted) = matched {
            owner == Some(&**wanted)
        } else {
            panic!("{matched:?} is not made here")
        }
    };
    let rule = filter
        .rules
        .iter()
        .find(|rule| rule.verdict != Verdict::Next && rule.matches.iter().all(holds));
    rule.map_or_else(
        || ("default".into(), filter.default),
        |rule| (rule.name.to_string(), rule.verdict),
    )
}

#[test]
fn every_rack_peers_with_its_own_router_under_its_own_as() {
    let a1 = plan_of("a1", racks());
    let desired = a1.desired().unwrap();
    assert_eq!(desired.global.asn, Asn(64512));
    assert_eq!(desired.global.router_id.to_string(), "10.1.0.11");
    assert_eq!(peers(&a1), ["10.1.0.1 as 65001"]);
    let tor = only_peer(&a1);
    assert_eq!(tor.local_address, Some(address("10.1.0.11")));
    assert_eq!(tor.connect, ConnectMode::Active);
    assert_eq!(tor.hops, Hops::Direct);
    assert_eq!(tor.families, FamilySet::IPV4);
    assert_eq!(tor.max_prefixes.unwrap().limit, 100_000);
    assert_eq!(a1.listen, ["0.0.0.0:179".parse().unwrap()]);
    assert_eq!(a1.findings, []);
    let b1 = plan_of("b1", racks());
    assert_eq!(b1.desired().unwrap().global.asn, Asn(64513));
    assert_eq!(peers(&b1), ["10.2.0.1 as 65002"]);
}

#[test]
fn the_mesh_joins_all_nodes_and_one_side_of_each_pair_dials_first() {
    let mut events = racks();
    events.push(configuration(
        &json!({ "nodeToNodeMeshEnabled": true, "nodeMeshMaxRestartTime": "60s" }),
    ));
    events.push(object::<api::BGPConfiguration>(
        "node.b1",
        &json!({ "listenPort": 1790 }),
    ));
    events.push(node(
        "rr",
        &[
            (annotation::IPV4_ADDRESS, "10.1.0.9/24"),
            (annotation::ROUTE_REFLECTOR_CLUSTER_ID, "1.1.1.1"),
        ],
        &[],
    ));
    events.push(node("addressless", &[], &[]));
    let a2 = plan_of("a2", events.clone());
    assert_eq!(
        peers(&a2),
        [
            "10.1.0.1 as 65001",
            "10.1.0.11 as 64512",
            "10.2.0.11 as 64513"
        ]
    );
    let sessions = &a2.desired().unwrap().peers;
    let to_a1 = &sessions[&address("10.1.0.11").into()];
    let to_b1 = &sessions[&address("10.2.0.11").into()];
    assert_eq!(
        (to_a1.connect, to_b1.connect),
        (ConnectMode::ActiveLate, ConnectMode::Active)
    );
    assert_eq!((to_a1.remote_port, to_b1.remote_port), (179, 1790));
    assert_eq!(to_b1.hops, Hops::Multihop(255), "eBGP into another subnet");
    assert_eq!(to_a1.graceful_restart.unwrap().restart_time, 60);
    assert_eq!(to_a1.max_prefixes.unwrap().limit, 1_000);
    assert_eq!(a2.origins[&address("10.1.0.11").into()], Origin::Mesh);
    assert!(
        plan_of("rr", events).desired().unwrap().peers.is_empty(),
        "a reflector is in no mesh, and no router is selected for it"
    );
}

#[test]
fn bgp_waits_for_the_world_and_for_an_address_and_stays_off_unasked() {
    let mut unsynced = World::new("a1".into());
    for event in racks() {
        unsynced.apply(event);
    }
    let waiting = plan_with(&unsynced, &Passwords::new());
    assert!(matches!(&waiting.speaking, Speaking::Waiting(reason) if reason.contains("Node")));
    assert_eq!(waiting.wanted(), None);

    let quiet = world("a1", [rack_node("a1", "10.1.0.11/24", "64512", "a")]);
    assert_eq!(runs(&quiet, false), Bgp::Off);
    assert_eq!(runs(&quiet, true), Bgp::On);
    let off = plan_with(&quiet, &Passwords::new());
    assert_eq!(off.wanted().unwrap().desired, None);

    let bare = plan_of("a1", [node("a1", &[], &[]), configuration(&json!({}))]);
    assert!(matches!(&bare.speaking, Speaking::Waiting(reason) if reason.contains("address")));
}

#[test]
fn a_missing_password_keeps_the_session_down_and_a_found_one_locks_it() {
    let locked = |optional: bool| {
        let mut events = racks();
        let reference = json!({ "name": "bgp", "key": "tor", "optional": optional });
        let spec = json!({ "peerIP": "10.1.0.1", "asNumber": 65001, "password": { "secretKeyRef": reference } });
        events.push(peer("tor-a", &spec));
        world("a1", events)
    };
    let key = SecretKey {
        name: "bgp".into(),
        key: "tor".into(),
    };
    let without = plan_with(&locked(false), &Passwords::new());
    assert!(without.desired().unwrap().peers.is_empty());
    assert_eq!(
        reasons(&without),
        [("tor-a", "spec.password", Reason::RefNotFound)]
    );
    assert_eq!(without.secrets, BTreeSet::from([key.clone()]));
    assert!(without.wanted().unwrap().incomplete);
    assert!(
        only_peer(&plan_with(&locked(true), &Passwords::new()))
            .password
            .is_none()
    );

    let found = Passwords::from([(key.clone(), Password::new("s3cret".into()))]);
    let with = plan_with(&locked(false), &found);
    assert_eq!(
        only_peer(&with).password.as_ref().unwrap().expose(),
        "s3cret"
    );
    assert!(!with.wanted().unwrap().incomplete);

    let long = Passwords::from([(key, Password::new("x".repeat(81)))]);
    let refused = plan_with(&locked(false), &long);
    assert!(refused.desired().unwrap().peers.is_empty());
    assert_eq!(
        reasons(&refused),
        [("tor-a", "spec.password", Reason::Invalid)]
    );
}

#[test]
fn for_one_address_the_closest_definition_wins_and_the_others_are_told() {
    let mut events = racks();
    events.push(peer(
        "a-global",
        &json!({ "peerIP": "10.1.0.1", "asNumber": 65100 }),
    ));
    events.push(peer(
        "z-own",
        &json!({ "node": "a1", "peerIP": "10.1.0.1:1179", "asNumber": 65200 }),
    ));
    let a1 = plan_of("a1", events.clone());
    assert_eq!(peers(&a1), ["10.1.0.1 as 65200"]);
    assert_eq!(only_peer(&a1).remote_port, 1179);
    assert_eq!(
        reasons(&a1),
        [
            ("a-global", "spec", Reason::Conflict),
            ("tor-a", "spec", Reason::Conflict)
        ]
    );
    assert_eq!(peers(&plan_of("a2", events)), ["10.1.0.1 as 65001"]);
}

#[test]
fn a_peer_that_is_a_node_beats_the_mesh_and_never_peers_with_itself() {
    let mut events = racks();
    events.push(configuration(&json!({})));
    events.push(peer(
        "near",
        &json!({ "peerIP": "10.1.0.12", "keepaliveTime": "40s" }),
    ));
    let a1 = plan_of("a1", events.clone());
    let near = &a1.desired().unwrap().peers[&address("10.1.0.12").into()];
    assert_eq!((near.remote_as, near.hold_time.secs()), (Asn(64512), 120));
    assert_eq!(
        a1.origins[&address("10.1.0.12").into()],
        Origin::Peer("near".into())
    );
    assert_eq!(a1.findings, []);
    assert!(
        !plan_of("a2", events)
            .desired()
            .unwrap()
            .peers
            .contains_key(&address("10.1.0.12").into())
    );
}

#[test]
fn a_route_reflector_and_its_clients_see_each_other_from_one_object() {
    let mut events = racks();
    let rr = [
        (annotation::IPV4_ADDRESS, "10.1.0.9/24"),
        (annotation::ROUTE_REFLECTOR_CLUSTER_ID, "1.1.1.1"),
        (annotation::AS_NUMBER, "64512"),
    ];
    events.push(node("rr", &rr, &[("role", "rr")]));
    events.push(peer(
        "reflectors",
        &json!({ "nodeSelector": "rack == 'a'", "peerSelector": "role == 'rr'" }),
    ));
    let client = plan_of("a1", events.clone());
    assert_eq!(peers(&client), ["10.1.0.1 as 65001", "10.1.0.9 as 64512"]);
    let to_rr = &client.desired().unwrap().peers[&address("10.1.0.9").into()];
    assert_eq!(
        (to_rr.reflection, to_rr.max_prefixes.unwrap().limit),
        (Reflection::None, 100_000)
    );
    let reflector = plan_of("rr", events.clone());
    assert_eq!(
        peers(&reflector),
        ["10.1.0.11 as 64512", "10.1.0.12 as 64512"]
    );
    assert!(
        reflector
            .desired()
            .unwrap()
            .peers
            .values()
            .all(|peer| peer.reflection == Reflection::Client)
    );
    assert_eq!(
        reflector
            .desired()
            .unwrap()
            .global
            .cluster_id
            .unwrap()
            .to_string(),
        "1.1.1.1"
    );

    let manual = json!({ "nodeSelector": "rack == 'a'", "peerSelector": "role == 'rr'", "reversePeering": "Manual" });
    events.push(peer("reflectors", &manual));
    assert_eq!(peers(&plan_of("rr", events)), Vec::<String>::new());
}

#[test]
fn fields_of_a_peer_reach_the_session() {
    let mut events = racks();
    events.push(peer(
        "tor-a",
        &json!({
            "node": "a1", "peerIP": "10.9.0.1", "asNumber": 65001, "localASNumber": 64999, "nextHopMode": "Self", "sourceAddress": "None",
            "maxRestartTime": "30s", "numAllowedLocalASNumbers": 2, "ttlSecurity": 3,
            "margay": { "holdTime": "9s", "connectRetryTime": "1s", "maxPrefixes": 7, "addressFamilies": ["ipv4-unicast", "ipv6-unicast"] }
        }),
    ));
    let a1 = plan_of("a1", events);
    let peer = only_peer(&a1);
    assert_eq!(a1.findings, []);
    assert_eq!(
        (peer.local_as, peer.local_address, peer.next_hop),
        (Some(Asn(64999)), None, NextHopMode::OwnAddress)
    );
    assert_eq!(
        (peer.hops, peer.allowed_own_as, peer.hold_time.secs()),
        (Hops::Security(3), 2, 9)
    );
    assert_eq!(peer.graceful_restart.unwrap().restart_time, 30);
    assert_eq!(peer.connect_retry.as_secs(), 1);
    assert_eq!(
        (peer.max_prefixes.unwrap().limit, peer.families),
        (7, FamilySet::ALL)
    );
}

#[test]
fn what_does_not_count_as_written_is_reported_at_its_field() {
    let cases = [
        (
            json!({ "peerIP": "10.1.0.300", "asNumber": 1 }),
            "spec.peerIP",
            Reason::Invalid,
        ),
        (
            json!({ "peerIP": "0.0.0.0", "asNumber": 1 }),
            "spec.peerIP",
            Reason::Invalid,
        ),
        (
            json!({ "peerIP": "10.9.0.1:0", "asNumber": 1 }),
            "spec.peerIP",
            Reason::Invalid,
        ),
        (json!({ "asNumber": 1 }), "spec.peerIP", Reason::Invalid),
        (
            json!({ "peerIP": "10.9.0.1" }),
            "spec.asNumber",
            Reason::Invalid,
        ),
        (
            json!({ "peerIP": "10.9.0.1", "asNumber": 0 }),
            "spec.asNumber",
            Reason::Invalid,
        ),
        (
            json!({ "peerIP": "10.9.0.1", "peerSelector": "all()" }),
            "spec.peerSelector",
            Reason::Invalid,
        ),
        (
            json!({ "node": "a1", "nodeSelector": "all()", "peerIP": "10.9.0.1" }),
            "spec.nodeSelector",
            Reason::Invalid,
        ),
        (
            json!({ "nodeSelector": "rack = a", "peerIP": "10.9.0.1" }),
            "spec.nodeSelector",
            Reason::Invalid,
        ),
        (
            json!({ "peerIP": "fd09::1", "asNumber": 1 }),
            "spec.peerIP",
            Reason::NoAddress,
        ),
        (
            json!({ "localWorkloadSelector": "all()", "asNumber": 1 }),
            "spec.localWorkloadSelector",
            Reason::Unsupported,
        ),
        (
            json!({ "peerIP": "10.9.0.1", "asNumber": 1, "margay": { "bfd": {} } }),
            "spec.margay.bfd",
            Reason::Unsupported,
        ),
        (
            json!({ "peerIP": "10.9.0.1", "asNumber": 1, "margay": { "holdTime": "2s" } }),
            "spec.margay.holdTime",
            Reason::Invalid,
        ),
        (
            json!({ "peerIP": "10.9.0.1", "asNumber": 1, "maxRestartTime": "2h" }),
            "spec.maxRestartTime",
            Reason::Invalid,
        ),
        (
            json!({ "peerIP": "10.9.0.1", "asNumber": 1, "filters": ["no-such"] }),
            "spec.filters",
            Reason::RefNotFound,
        ),
    ];
    for (spec, path, reason) in cases {
        let text = spec.to_string();
        let mut events = racks();
        events.push(peer("case", &spec));
        assert_eq!(
            reasons(&plan_of("a1", events)),
            [("case", path, reason)],
            "{text}"
        );
    }
    let mut events = racks();
    events.push(object::<api::BGPConfiguration>(
        "node.a1",
        &json!({ "asNumber": 64999 }),
    ));
    assert_eq!(
        reasons(&plan_of("a1", events)),
        [("node.a1", "spec", Reason::Unsupported)]
    );
}

#[test]
fn unknown_filters_refuse_every_route_both_ways() {
    let mut events = racks();
    events.push(peer(
        "tor-a",
        &json!({ "peerIP": "10.1.0.1", "asNumber": 65001, "filters": ["rack-policy"] }),
    ));
    let a1 = plan_of("a1", events);
    let peer = only_peer(&a1);
    assert_eq!(
        (&peer.import, &peer.export),
        (&Filter::reject_all(), &Filter::reject_all())
    );
}

#[test]
fn own_blocks_and_borrowed_addresses_are_announced() {
    let mut events = racks();
    events.push(pool(
        "secret",
        &json!({ "cidr": "10.99.0.0/16", "disableBGPExport": true }),
    ));
    events.push(affinity("a1", "10.244.1.0/26", "confirmed"));
    events.push(affinity("a1", "10.244.2.0/26", "pending"));
    events.push(affinity("b1", "10.244.7.0/26", "confirmed"));
    events.push(affinity("a1", "10.99.1.0/26", "confirmed"));
    events.push(block("b1", "10.244.7.0/26", 5, "a1"));
    let before = plan_of("a1", events.clone());
    let announced = |peering: &Peering| {
        peering
            .originate
            .keys()
            .map(|(_, prefix)| prefix.to_string())
            .collect::<Vec<_>>()
    };
    assert_eq!(
        announced(&before),
        ["10.244.1.0/26"],
        "the borrowed address is nobody's yet"
    );
    events.push(endpoint("10.244.7.5"));
    let after = plan_of("a1", events);
    assert_eq!(announced(&after), ["10.244.1.0/26", "10.244.7.5/32"]);
    let export = &only_peer(&after).export;
    for (prefix, owner, rule, expected) in [
        ("10.244.1.0/26", Some("ipam"), "own-block", Verdict::Accept),
        ("10.244.1.9/32", None, "inside-own-block", Verdict::Reject),
        (
            "10.244.7.5/32",
            Some("ipam"),
            "inside-a-pool",
            Verdict::Accept,
        ),
        (
            "10.99.1.0/26",
            Some("ipam"),
            "pool-without-export",
            Verdict::Reject,
        ),
        ("192.0.2.0/24", None, "default", Verdict::Reject),
    ] {
        assert_eq!(
            verdict(export, prefix, owner),
            (rule.to_owned(), expected),
            "{prefix}"
        );
    }
}

#[test]
fn no_peer_may_tell_us_what_is_ours() {
    let mut events = racks();
    events.push(configuration(&json!({})));
    events.push(affinity("a1", "10.244.1.0/26", "confirmed"));
    events.push(block("a1", "10.244.1.0/26", 9, "b1"));
    let a1 = plan_of("a1", events);
    let sessions = &a1.desired().unwrap().peers;
    let router = &sessions[&address("10.1.0.1").into()].import;
    let mesh = &sessions[&address("10.1.0.12").into()].import;
    for (prefix, from_router, from_node) in [
        ("0.0.0.0/0", "default-route", "default-route"),
        ("127.0.0.0/8", "martian", "martian"),
        ("10.1.0.11/32", "own-address", "own-address"),
        ("10.244.1.0/26", "own-block", "own-block"),
        ("10.244.1.8/32", "own-block", "own-block"),
        ("10.244.1.9/32", "lent-address", "lent-address"),
        ("10.244.7.0/26", "default", "inside-a-pool"),
        ("192.0.2.0/24", "default", "default"),
    ] {
        assert_eq!(verdict(router, prefix, None).0, from_router, "{prefix}");
        assert_eq!(verdict(mesh, prefix, None).0, from_node, "{prefix}");
    }
    assert_eq!(verdict(router, "192.0.2.0/24", None).1, Verdict::Accept);
    assert_eq!(verdict(mesh, "192.0.2.0/24", None).1, Verdict::Reject);
    assert_eq!(
        verdict(router, "10.244.1.9/32", None).1,
        Verdict::Accept,
        "another node holds it"
    );
}

#[test]
fn prefix_advertisements_tag_and_go_on() {
    let mut events = racks();
    events.push(configuration(&json!({
        "nodeToNodeMeshEnabled": false,
        "communities": [{ "name": "rack", "value": "65001:100" }],
        "prefixAdvertisements": [
            { "cidr": "10.244.0.0/16", "communities": ["rack", "65001:1:2"] },
            { "cidr": "10.99.0.0/16", "communities": ["no-such-name"] },
        ],
    })));
    let a1 = plan_of("a1", events);
    let tag = only_peer(&a1)
        .export
        .rules
        .iter()
        .find(|rule| rule.verdict == Verdict::Next)
        .unwrap();
    assert_eq!(tag.actions.len(), 2);
    assert_eq!(
        reasons(&a1),
        [("default", "spec.prefixAdvertisements", Reason::Invalid)]
    );
}

#[test]
fn a_node_without_ipv4_has_a_router_id_that_stays() {
    let six = |name: &str, address: &str| node(name, &[(annotation::IPV6_ADDRESS, address)], &[]);
    let events = || {
        [
            six("s1", "fd01::11/64"),
            six("s2", "fd01::12/64"),
            configuration(&json!({ "bindMode": "NodeIP" })),
        ]
    };
    let one = plan_of("s1", events());
    let two = plan_of("s2", events());
    let id = |peering: &Peering| peering.desired().unwrap().global.router_id;
    assert_ne!(id(&one), id(&two));
    assert_eq!(id(&one), id(&plan_of("s1", events())));
    assert_eq!(one.listen, ["[fd01::11]:179".parse().unwrap()]);
    assert_eq!(only_peer(&one).families, FamilySet::IPV6);
}

proptest! {
    #[test]
    fn the_plan_depends_on_objects_and_not_on_their_order(order in Just((0..13_usize).collect::<Vec<_>>()).prop_shuffle()) {
        let mut events = racks();
        events.extend([
            peer("a-global", &json!({ "peerIP": "10.1.0.1", "asNumber": 65100 })),
            peer("b-nodes", &json!({ "peerSelector": "all()" })),
            affinity("a1", "10.244.1.0/26", "confirmed"),
            affinity("b1", "10.244.7.0/26", "confirmed"),
            block("b1", "10.244.7.0/26", 5, "a1"),
            endpoint("10.244.7.5"),
        ]);
        let expected = plan_of("a1", events.clone());
        let shuffled = plan_of("a1", order.iter().map(|at| events[*at].clone()));
        prop_assert_eq!(expected.wanted(), shuffled.wanted());
        prop_assert_eq!(expected.findings, shuffled.findings);
    }
}
