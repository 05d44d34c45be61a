//! Random worlds and packets, small enough that every rule meets packets that it matches.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use model::endpoint::Labels;
use model::{
    AttachmentId, EndpointSlice, Event, GlobalNetworkSet, LocalEndpoint, NamedPort, Namespace,
    NamespacedName, NetworkSet, Object, Pod, PodRef, ServiceAccount, Transport, TunnelSource,
};
use policy_iptables::plan::{DenyAction, HostAction, LoopPrevention, Settings, WorkloadTunnels};
use policy_iptables::verdict::{Device, Locals, Packet, Payload, State};
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

/// Interfaces of the node under test.
#[derive(Clone, Debug)]
pub(crate) struct Site {
    /// Interfaces of local pods; pod `n` has address `n` of the pool.
    pub(crate) pods: Vec<Device>,
    /// An interface with a workload's name that belongs to nobody.
    pub(crate) unknown: Device,
    /// The way to everything else.
    pub(crate) outside: Device,
}

/// Addresses of the host, one per family.
pub(crate) const HOST: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
];

const NAMESPACES: [&str; 3] = ["a", "b", "c"];
const APPS: [&str; 3] = ["web", "db", "api"];
const TEAMS: [&str; 2] = ["red", "blue"];
const ACCOUNTS: [&str; 2] = ["robot", "human"];
const PORTS: [u16; 6] = [53, 80, 81, 443, 8080, 9000];
const TIERS: [&str; 5] = ["default", "first", "security", "last", "nowhere"];

/// Address of pod `n`, local ones first.
pub(crate) fn pod_address(n: usize, v6: bool) -> IpAddr {
    let n = u16::try_from(n).unwrap();
    if v6 {
        IpAddr::V6(Ipv6Addr::new(0xfd00, 0x244, 0, 0, 0, 0, 0, n + 1))
    } else {
        let [high, low] = (n + 1).to_be_bytes();
        IpAddr::V4(Ipv4Addr::new(10, 244, high, low))
    }
}

/// A generator that a failure can be repeated with.
pub(crate) fn rng(seed: u64) -> SmallRng {
    SmallRng::seed_from_u64(seed)
}

fn pick<'a, T>(rng: &mut SmallRng, items: &'a [T]) -> &'a T {
    items.choose(rng).unwrap()
}

/// The events that make a world, in an order that is as good as any other.
pub(crate) fn events(rng: &mut SmallRng, site: &Site) -> Vec<Event> {
    let mut events = Vec::new();
    for name in NAMESPACES {
        // Now and then a namespace is not known: its pods have no profile.
        if rng.random_ratio(19, 20) {
            events.push(Event::upsert(namespace(rng, name)));
        }
        for account in ACCOUNTS {
            let labels = Labels::from([("role".into(), (*pick(rng, &["admin", "user"])).into())]);
            let id = NamespacedName::new(name, account);
            events.push(Event::upsert(ServiceAccount { id, labels }));
        }
    }
    for n in 0..site.pods.len() + 6 {
        let pod = pod(rng, n);
        if let Some(device) = site.pods.get(n) {
            events.push(Event::upsert(endpoint(n, device, &pod)));
        }
        // Now and then the API has not told of a pod whose interface is there.
        if rng.random_ratio(29, 30) {
            events.push(Event::upsert(pod));
        }
    }
    for name in ["first", "security", "last"] {
        if rng.random_ratio(3, 4) {
            events.push(Event::upsert(tier(rng, name)));
        }
    }
    for n in 0..rng.random_range(0..4) {
        events.push(network_set(rng, n));
    }
    for n in 0..rng.random_range(2..8) {
        events.push(slice(rng, n));
    }
    for n in 0..rng.random_range(0..5) {
        events.push(Event::upsert(kubernetes_policy(rng, n)));
    }
    for n in 0..rng.random_range(0..5) {
        events.push(Event::upsert(namespaced_policy(rng, n)));
    }
    for n in 0..rng.random_range(0..5) {
        events.push(Event::upsert(global_policy(rng, n)));
    }
    events
}

/// Pods with names, and nothing else: pod `n` stands at interface `n` in namespace `a`.
pub(crate) fn pods(site: &Site) -> Vec<Event> {
    let mut rng = rng(0);
    let mut events = vec![Event::upsert(namespace(&mut rng, "a"))];
    for (n, device) in site.pods.iter().enumerate() {
        let id = PodRef::new("a", format!("pod-{n}").as_str());
        let pod = Pod {
            id,
            ips: [false, true].map(|v6| pod_address(n, v6)).to_vec(),
            ..pod(&mut rng, n)
        };
        events.push(Event::upsert(endpoint(n, device, &pod)));
        events.push(Event::upsert(pod));
    }
    events
}

fn namespace(rng: &mut SmallRng, name: &str) -> Namespace {
    let labels = Labels::from([
        ("kubernetes.io/metadata.name".into(), name.into()),
        ("team".into(), (*pick(rng, &TEAMS)).into()),
    ]);
    Namespace {
        name: name.into(),
        labels,
        annotations: Labels::new(),
        terminating: false,
    }
}

fn pod(rng: &mut SmallRng, n: usize) -> Pod {
    let mut labels = Labels::from([("app".into(), (*pick(rng, &APPS)).into())]);
    if rng.random() {
        labels.insert("stage".into(), (*pick(rng, &["prod", "dev"])).into());
    }
    let mut ports = Vec::new();
    for (name, protocol, numbers) in [
        ("http", Transport::Tcp, [80, 8080]),
        ("dns", Transport::Udp, [53, 81]),
        ("sig", Transport::Sctp, [9000, 443]),
    ] {
        if rng.random() {
            let port = *pick(rng, &numbers);
            ports.push(NamedPort {
                name: name.into(),
                protocol,
                port,
            });
        }
    }
    Pod {
        id: PodRef::new(*pick(rng, &NAMESPACES), format!("pod-{n}").as_str()),
        uid: format!("uid-{n}").into(),
        node: Some("node".into()),
        labels,
        annotations: Labels::new(),
        service_account: rng.random::<bool>().then(|| (*pick(rng, &ACCOUNTS)).into()),
        ips: pod_addresses(rng, n),
        finished: false,
        terminating: false,
        host_network: false,
        ports,
    }
}

/// A pod of some other node.
pub(crate) fn remote_pod(rng: &mut SmallRng, n: usize) -> Pod {
    Pod {
        node: Some("elsewhere".into()),
        ..pod(rng, n)
    }
}

/// A set of addresses with labels that pods have too, of a namespace or of the cluster.
fn network_set(rng: &mut SmallRng, n: u32) -> Event {
    let mut labels = Labels::from([("app".into(), (*pick(rng, &APPS)).into())]);
    if rng.random() {
        labels.insert("stage".into(), (*pick(rng, &["prod", "dev"])).into());
    }
    let count = rng.random_range(0..4);
    let nets = (0..count).map(|_| net(rng).parse().unwrap()).collect();
    let name = format!("set-{n}");
    if rng.random() {
        let name = name.as_str().into();
        return Event::upsert(GlobalNetworkSet { name, labels, nets });
    }
    let id = NamespacedName::new(*pick(rng, &NAMESPACES), name.as_str());
    Event::upsert(NetworkSet { id, labels, nets })
}

fn endpoint(n: usize, device: &Device, pod: &Pod) -> LocalEndpoint {
    LocalEndpoint {
        id: AttachmentId {
            network: "margay".into(),
            container_id: format!("container-{n}").into(),
            ifname: "eth0".into(),
        },
        pod: Some(pod.id.clone()),
        pod_uid: Some(Arc::clone(&pod.uid)),
        interface: Arc::clone(&device.name),
        ifindex: device.index,
        mac: None,
        addresses: pod.ips.clone(),
        labels: Labels::new(),
    }
}

/// Addresses of pod `n`: mostly both, now and then one family alone.
fn pod_addresses(rng: &mut SmallRng, n: usize) -> Vec<IpAddr> {
    let both = [false, true].map(|v6| pod_address(n, v6));
    match rng.random_range(0..16) {
        0 => both[..1].to_vec(),
        1 => both[1..].to_vec(),
        _ => both.to_vec(),
    }
}

fn tier(rng: &mut SmallRng, name: &str) -> api::Tier {
    let order = pick(
        rng,
        &[
            json!(10),
            json!(500_000),
            json!(2_000_000),
            json!(10),
            Value::Null,
        ],
    )
    .clone();
    let end = *pick(rng, &["Deny", "Pass"]);
    read(json!({
        "apiVersion": "projectcalico.org/v3", "kind": "Tier", "metadata": { "name": name },
        "spec": { "order": order, "defaultAction": end },
    }))
}

fn read<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

fn kubernetes_policy(rng: &mut SmallRng, n: u32) -> api::networking::NetworkPolicy {
    let mut spec = json!({ "podSelector": label_selector(rng) });
    let ingress: Vec<Value> = (0..rng.random_range(0..3))
        .map(|_| kubernetes_rule(rng, "from"))
        .collect();
    let egress: Vec<Value> = (0..rng.random_range(0..3))
        .map(|_| kubernetes_rule(rng, "to"))
        .collect();
    if rng.random() {
        spec["ingress"] = json!(ingress);
    }
    if rng.random() {
        spec["egress"] = json!(egress);
    }
    match rng.random_range(0..4) {
        0 => {}
        1 => spec["policyTypes"] = json!(["Ingress"]),
        2 => spec["policyTypes"] = json!(["Egress"]),
        _ => spec["policyTypes"] = json!(["Ingress", "Egress"]),
    }
    let namespace = *pick(rng, &NAMESPACES);
    read(
        json!({ "metadata": { "name": format!("knp-{n}"), "namespace": namespace }, "spec": spec }),
    )
}

fn kubernetes_rule(rng: &mut SmallRng, peers: &str) -> Value {
    let mut rule = json!({});
    if rng.random_ratio(3, 4) {
        let list: Vec<Value> = (0..rng.random_range(0..3))
            .map(|_| kubernetes_peer(rng))
            .collect();
        rule[peers] = json!(list);
    }
    if rng.random_ratio(3, 4) {
        let list: Vec<Value> = (0..rng.random_range(0..3))
            .map(|_| kubernetes_port(rng))
            .collect();
        rule["ports"] = json!(list);
    }
    rule
}

fn kubernetes_peer(rng: &mut SmallRng) -> Value {
    match rng.random_range(0..8) {
        0 | 1 => json!({ "podSelector": label_selector(rng) }),
        2 | 3 => json!({ "namespaceSelector": namespace_label_selector(rng) }),
        4 => {
            json!({ "podSelector": label_selector(rng), "namespaceSelector": namespace_label_selector(rng) })
        }
        5 => json!({ "ipBlock": { "cidr": net(rng), "except": [net(rng)] } }),
        6 => json!({ "ipBlock": { "cidr": net(rng) } }),
        _ => {
            json!({ "ipBlock": { "cidr": *pick(rng, &["010.0.0.0/8", "10.0.0.0/33", "nonsense", "10.244.0.1"]) } })
        }
    }
}

fn kubernetes_port(rng: &mut SmallRng) -> Value {
    let mut port = json!({});
    match rng.random_range(0..6) {
        0 => {}
        1 | 2 => port["port"] = json!(*pick(rng, &PORTS)),
        3 => port["port"] = json!(*pick(rng, &["http", "dns", "sig", "nobody"])),
        4 => {
            port["port"] = json!(*pick(rng, &[53, 80]));
            port["endPort"] = json!(*pick(rng, &[81, 443, 52]));
        }
        _ => port["endPort"] = json!(80),
    }
    if rng.random_ratio(3, 4) {
        port["protocol"] = json!(*pick(rng, &["TCP", "UDP", "SCTP"]));
    }
    port
}

fn label_selector(rng: &mut SmallRng) -> Value {
    match rng.random_range(0..6) {
        0 | 1 => json!({}),
        2 => json!({ "matchLabels": { "app": *pick(rng, &APPS) } }),
        3 => {
            json!({ "matchExpressions": [{ "key": "app", "operator": "In", "values": [*pick(rng, &APPS), *pick(rng, &APPS)] }] })
        }
        4 => {
            json!({ "matchExpressions": [{ "key": "stage", "operator": *pick(rng, &["Exists", "DoesNotExist"]) }] })
        }
        _ => {
            json!({ "matchExpressions": [{ "key": "stage", "operator": "NotIn", "values": ["prod"] }] })
        }
    }
}

fn namespace_label_selector(rng: &mut SmallRng) -> Value {
    match rng.random_range(0..3) {
        0 => json!({}),
        1 => json!({ "matchLabels": { "team": *pick(rng, &TEAMS) } }),
        _ => {
            json!({ "matchExpressions": [{ "key": "kubernetes.io/metadata.name", "operator": "NotIn", "values": [*pick(rng, &NAMESPACES)] }] })
        }
    }
}

fn namespaced_policy(rng: &mut SmallRng, n: u32) -> api::NetworkPolicy {
    let mut spec = policy_spec(rng);
    if rng.random_ratio(1, 6) {
        spec["serviceAccountSelector"] = json!(account_selector(rng));
    }
    let namespace = *pick(rng, &NAMESPACES);
    read(json!({
        "apiVersion": "projectcalico.org/v3", "kind": "NetworkPolicy",
        "metadata": { "name": format!("np-{n}"), "namespace": namespace }, "spec": spec,
    }))
}

fn global_policy(rng: &mut SmallRng, n: u32) -> api::GlobalNetworkPolicy {
    let mut spec = policy_spec(rng);
    if rng.random_ratio(1, 4) {
        spec["namespaceSelector"] = json!(space_selector(rng));
    }
    read(json!({
        "apiVersion": "projectcalico.org/v3", "kind": "GlobalNetworkPolicy",
        "metadata": { "name": format!("gnp-{n}") }, "spec": spec,
    }))
}

fn policy_spec(rng: &mut SmallRng) -> Value {
    let ingress: Vec<Value> = (0..rng.random_range(0..4)).map(|_| rule(rng)).collect();
    let egress: Vec<Value> = (0..rng.random_range(0..4)).map(|_| rule(rng)).collect();
    let mut spec = json!({
        "tier": *pick(rng, &TIERS),
        "selector": endpoint_selector(rng),
        "ingress": ingress,
        "egress": egress,
    });
    if rng.random_ratio(3, 4) {
        spec["order"] = json!(*pick(rng, &[1.0, 10.0, 1000.0, 2000.5]));
    }
    match rng.random_range(0..5) {
        0 => spec["types"] = json!(["Ingress"]),
        1 => spec["types"] = json!(["Egress"]),
        2 => spec["types"] = json!(["Ingress", "Egress"]),
        _ => {}
    }
    spec
}

fn endpoint_selector(rng: &mut SmallRng) -> String {
    match rng.random_range(0..9) {
        0 | 1 => "all()".to_owned(),
        2 | 3 => format!("app == '{}'", pick(rng, &APPS)),
        4 => format!("app in {{'{}', '{}'}}", pick(rng, &APPS), pick(rng, &APPS)),
        5 => "has(stage) && stage != 'prod'".to_owned(),
        6 => format!(
            "!has(stage) || app starts with '{}'",
            pick(rng, &["w", "d"])
        ),
        7 => "stage not in {'prod'}".to_owned(),
        _ => (*pick(rng, &["", "app ==", "global()"])).to_owned(),
    }
}

fn space_selector(rng: &mut SmallRng) -> String {
    match rng.random_range(0..6) {
        0 | 1 => "all()".to_owned(),
        2 | 3 => format!("team == '{}'", pick(rng, &TEAMS)),
        4 => format!("projectcalico.org/name != '{}'", pick(rng, &NAMESPACES)),
        _ => "global()".to_owned(),
    }
}

fn account_selector(rng: &mut SmallRng) -> String {
    (*pick(
        rng,
        &["role == 'admin'", "all()", "has(role) && role != 'admin'"],
    ))
    .to_owned()
}

fn rule(rng: &mut SmallRng) -> Value {
    let mut rule = json!({ "action": *pick(rng, &["Allow", "Allow", "Allow", "Deny", "Deny", "Pass", "Log"]) });
    match rng.random_range(0..12) {
        0..3 => rule["protocol"] = json!("TCP"),
        3 | 4 => rule["protocol"] = json!(*pick(rng, &["UDP", "SCTP"])),
        5 => {
            let odd = [json!("ICMP"), json!("ICMPv6"), json!(47), json!("bogus")];
            rule["protocol"] = pick(rng, &odd).clone();
        }
        6 => rule["notProtocol"] = json!(*pick(rng, &["TCP", "UDP", "ICMP"])),
        _ => {}
    }
    let icmp = matches!(rule["protocol"].as_str(), Some("ICMP" | "ICMPv6"));
    if icmp && rng.random() {
        let field = *pick(rng, &["icmp", "notICMP"]);
        rule[field] = json!({ "type": *pick(rng, &[0, 8, 13, 128, 128, 134, 139]) });
        if rng.random() {
            rule[field]["code"] = json!(*pick(rng, &[0, 1]));
        }
    }
    if rng.random_ratio(1, 12) {
        rule["ipVersion"] = json!(*pick(rng, &[4, 6]));
    }
    let ports = matches!(rule["protocol"].as_str(), Some("TCP" | "UDP" | "SCTP"));
    for end in ["source", "destination"] {
        if rng.random() {
            rule[end] = entity(rng, ports);
        } else if rng.random_ratio(1, 6) {
            rule[end] = json!({ "services": service(rng) });
            if ports && rng.random() {
                rule[end]["ports"] = json!([port(rng, ports)]);
            }
        }
    }
    rule
}

/// Most of them exist; at the wrong end, or without a namespace in a global policy, the rule cannot be used.
fn service(rng: &mut SmallRng) -> Value {
    let mut service = json!({ "name": *pick(rng, &["dns", "dns", "web", "nobody"]) });
    if rng.random_ratio(2, 3) {
        service["namespace"] = json!(*pick(rng, &NAMESPACES));
    }
    service
}

/// Some of the endpoints of a Service: pods of this node and others, and a host outside.
fn slice(rng: &mut SmallRng, n: u32) -> Event {
    let v6 = rng.random();
    let count = rng.random_range(0..4);
    let mut addresses: BTreeSet<IpAddr> = (0..count)
        .map(|_| pod_address(rng.random_range(0..10), v6))
        .collect();
    if rng.random() {
        addresses.insert(elsewhere(rng, 6, v6));
    }
    let count = rng.random_range(0..3);
    let ports = (0..count).map(|_| {
        let protocol = *pick(rng, &[Transport::Tcp, Transport::Udp, Transport::Sctp]);
        (protocol, *pick(rng, &PORTS))
    });
    let ports = ports.collect();
    let service = rng
        .random_ratio(9, 10)
        .then(|| (*pick(rng, &["dns", "web"])).into());
    Event::upsert(EndpointSlice {
        id: NamespacedName::new(*pick(rng, &NAMESPACES), format!("slice-{n}").as_str()),
        service,
        addresses,
        ports,
    })
}

fn entity(rng: &mut SmallRng, ports: bool) -> Value {
    let mut entity = json!({});
    if rng.random_ratio(1, 3) {
        entity["selector"] = json!(endpoint_selector(rng));
    }
    if rng.random_ratio(1, 6) {
        entity["notSelector"] = json!(endpoint_selector(rng));
    }
    if rng.random_ratio(1, 5) {
        entity["namespaceSelector"] = json!(space_selector(rng));
    }
    if rng.random_ratio(1, 5) {
        entity["nets"] = json!(
            (0..rng.random_range(1..3))
                .map(|_| any_net(rng))
                .collect::<Vec<_>>()
        );
    }
    if rng.random_ratio(1, 8) {
        entity["notNets"] = json!(
            (0..rng.random_range(1..3))
                .map(|_| net(rng))
                .collect::<Vec<_>>()
        );
    }
    if rng.random_ratio(1, 10) {
        let mut accounts = json!({ "names": [*pick(rng, &ACCOUNTS)] });
        if rng.random() {
            accounts["selector"] = json!(account_selector(rng));
        }
        entity["serviceAccounts"] = accounts;
    }
    for field in ["ports", "notPorts"] {
        if rng.random_ratio(if ports { 3 } else { 1 }, 10) {
            let list: Vec<Value> = (0..rng.random_range(1..4))
                .map(|_| port(rng, ports))
                .collect();
            entity[field] = json!(list);
        }
    }
    entity
}

fn port(rng: &mut SmallRng, numbers: bool) -> Value {
    match rng.random_range(0..20) {
        0..10 if numbers => json!(*pick(rng, &PORTS)),
        10..14 if numbers => json!("80:443"),
        14 if numbers => json!("443:80"),
        _ => json!(*pick(rng, &["http", "dns", "sig"])),
    }
}

fn any_net(rng: &mut SmallRng) -> String {
    if rng.random_ratio(1, 15) {
        "garbage".to_owned()
    } else {
        net(rng)
    }
}

fn net(rng: &mut SmallRng) -> String {
    (*pick(
        rng,
        &[
            "10.244.0.0/16",
            "10.244.0.0/29",
            "10.244.0.4/30",
            "10.244.0.3/32",
            "198.51.100.0/24",
            "198.51.100.128/25",
            "0.0.0.0/0",
            "fd00:244::/64",
            "fd00:244::4/126",
            "fd00:244::3/128",
            "fd00::/8",
            "fe80::/10",
            "2001:db8:1::/48",
            "2001:db8:2::/47",
            "::/0",
            "10.0.0.0/8",
            "192.0.2.1/32",
        ],
    ))
    .to_owned()
}

/// Settings that vary with the world.
pub(crate) fn settings(rng: &mut SmallRng) -> Settings {
    let mut settings = Settings {
        host_action: *pick(rng, &[HostAction::Drop, HostAction::Accept]),
        deny: DenyAction::Drop,
        drop_invalid: rng.random_ratio(5, 6),
        loops: *pick(rng, &[LoopPrevention::Drop, LoopPrevention::Disabled]),
        workload_tunnels: WorkloadTunnels {
            vxlan: rng.random_ratio(1, 8),
            ipip: rng.random_ratio(1, 8),
        },
        ..Settings::default()
    };
    if rng.random() {
        let ranges = ["198.51.100.240/28", "2001:db8:2::f0/124"];
        settings.service_ranges = ranges.map(|text| text.parse().unwrap()).to_vec();
    }
    if rng.random() {
        settings.nat.vxlan_port = Some(4789);
        settings.nat.tunnel_sources = ["198.51.100.0/28", "2001:db8:1::/64"]
            .map(|t| t.parse().unwrap())
            .into();
        settings.nat.tunnels = vec![TunnelSource {
            device: "tunl0".into(),
            address: HOST[0],
        }];
    }
    settings
}

/// How a packet is written, which no rule may notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// One IP packet without options.
    Plain,
    /// With IPv4 options, or IPv6 extension headers before the transport header.
    Options,
    /// In two fragments; ports stand in the first one only.
    Fragments,
}

/// A shape that the payload can be written in.
pub(crate) fn shape(rng: &mut SmallRng, packet: &Packet) -> Shape {
    // The INIT of an association stands alone in its packet, so there is nothing to cut off.
    let sctp = packet.protocol() == 132;
    match rng.random_range(0..8) {
        0 => Shape::Options,
        1 if !sctp => Shape::Fragments,
        _ => Shape::Plain,
    }
}

/// A packet that may come in at this site, with the way the routing table of the site gives it.
pub(crate) fn packet(rng: &mut SmallRng, site: &Site) -> Packet {
    let v6 = rng.random();
    if v6 && rng.random_ratio(1, 12) {
        return on_link(rng, site);
    }
    let pods = site.pods.len();
    let (input, source) = match rng.random_range(0..20) {
        0..12 => {
            let n = rng.random_range(0..pods);
            // Now and then a pod lies about its source.
            let claimed = if rng.random_ratio(1, 25) {
                (n + 1) % pods
            } else {
                n
            };
            (site.pods[n].clone(), pod_address(claimed, v6))
        }
        12 => (site.unknown.clone(), pod_address(pods, v6)),
        _ => (site.outside.clone(), elsewhere(rng, pods, v6)),
    };
    let host = HOST[usize::from(v6)];
    let (output, destination) = match rng.random_range(0..20) {
        0..12 => {
            let n = rng.random_range(0..pods);
            (Some(site.pods[n].clone()), pod_address(n, v6))
        }
        12..15 => (None, host),
        _ => (Some(site.outside.clone()), elsewhere(rng, pods, v6)),
    };
    let loopback = !v6 && output.is_none() && rng.random_ratio(1, 10);
    let destination = if loopback {
        IpAddr::V4(Ipv4Addr::LOCALHOST)
    } else {
        destination
    };
    let payload = payload(rng, v6);
    Packet {
        local: Locals {
            destination: output.is_none(),
            source: false,
            source_on_output: false,
        },
        input: Some(input),
        output,
        source,
        destination,
        payload,
        state: state_of(payload, v6),
        mark: 0,
    }
}

/// What IPv6 needs on a link: from an address that no other link knows, or from none yet, to the host.
fn on_link(rng: &mut SmallRng, site: &Site) -> Packet {
    let input = match rng.random_range(0..8) {
        0 => site.unknown.clone(),
        1 => site.outside.clone(),
        _ => pick(rng, &site.pods).clone(),
    };
    let link_local = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, rng.random_range(0x100..0x200));
    let all_nodes = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    let source = if rng.random_ratio(1, 4) {
        Ipv6Addr::UNSPECIFIED
    } else {
        link_local
    };
    let multicast = source.is_unspecified() || rng.random();
    let payload = if rng.random_ratio(3, 4) {
        icmp(rng, true)
    } else {
        payload(rng, true)
    };
    Packet {
        local: Locals {
            destination: !multicast,
            source: false,
            source_on_output: false,
        },
        input: Some(input),
        output: None,
        source: source.into(),
        destination: if multicast { all_nodes.into() } else { HOST[1] },
        payload,
        state: state_of(payload, true),
        mark: 0,
    }
}

/// What connection tracking says of a first packet: it knows the questions of ICMP, looks away from neighbour discovery, and calls
/// answers and errors without a flow invalid.
fn state_of(payload: Payload, v6: bool) -> State {
    match (payload, v6) {
        (Payload::Icmp { kind: 8 | 13, .. }, false)
        | (
            Payload::Icmp {
                kind: 128 | 139, ..
            },
            true,
        )
        | (Payload::Transport { .. } | Payload::Other(_), _) => State::New,
        (
            Payload::Icmp {
                kind: 130..=136 | 143,
                ..
            },
            true,
        ) => State::Untracked,
        (Payload::Icmp { .. }, _) => State::Invalid,
    }
}

fn elsewhere(rng: &mut SmallRng, pods: usize, v6: bool) -> IpAddr {
    if rng.random() {
        return pod_address(pods + rng.random_range(0..6), v6);
    }
    let n = *pick(rng, &[2_u8, 7, 100, 130, 200, 245]);
    if v6 {
        IpAddr::V6(Ipv6Addr::new(
            0x2001,
            0xdb8,
            u16::from(n % 2) + 1,
            0,
            0,
            0,
            0,
            n.into(),
        ))
    } else {
        IpAddr::V4(Ipv4Addr::new(198, 51, 100, n))
    }
}

fn payload(rng: &mut SmallRng, v6: bool) -> Payload {
    match rng.random_range(0..20) {
        0..15 => {
            let protocol = *pick(rng, &[6, 6, 17, 132]);
            let destination = if rng.random_ratio(1, 25) {
                4789
            } else {
                *pick(rng, &PORTS)
            };
            // Source ports are drawn anew by whoever sends the packet twice.
            Payload::Transport {
                protocol,
                source: rng.random_range(20_000..60_000),
                destination,
            }
        }
        15..18 => icmp(rng, v6),
        18 => Payload::Other(if v6 { 47 } else { *pick(rng, &[4, 47]) }),
        _ => Payload::Other(253),
    }
}

fn icmp(rng: &mut SmallRng, v6: bool) -> Payload {
    let kinds: &[u8] = if v6 {
        &[
            128, 128, 128, 129, 130, 131, 132, 133, 134, 135, 136, 137, 139, 143,
        ]
    } else {
        &[8, 8, 8, 0, 13]
    };
    Payload::Icmp {
        kind: *pick(rng, kinds),
        code: *pick(rng, &[0, 1]),
    }
}

/// The objects as text, to show a world that failed.
pub(crate) fn describe(events: &[Event]) -> String {
    let mut text = String::new();
    for event in events {
        if let Event::Upsert(object) = event
            && !matches!(**object, Object::ServiceAccount(_))
        {
            text.push_str(&serde_json::to_string(object).unwrap());
            text.push('\n');
        }
    }
    text
}
