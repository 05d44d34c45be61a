//! The World depends on the set of objects, never on the order in which they came.

use std::net::IpAddr;

use super::*;
use proptest::prelude::*;
use proptest::sample::SizeRange;

fn pod(name: u8, label: u8, ip: u8, local: bool, finished: bool) -> Pod {
    Pod {
        id: PodRef::new("web", format!("p{name}")),
        uid: "u".into(),
        node: Some(if local { "a1" } else { "b1" }.into()),
        labels: Labels::from([("app".into(), format!("x{label}"))]),
        annotations: BTreeMap::new(),
        service_account: Some("robot".into()),
        ips: vec![IpAddr::from([10, 244, 0, ip])],
        finished,
        terminating: false,
        host_network: false,
        ports: Vec::new(),
    }
}

fn namespace(label: u8) -> Namespace {
    Namespace {
        name: "web".into(),
        labels: Labels::from([("team".into(), format!("t{label}"))]),
        annotations: BTreeMap::new(),
        terminating: false,
    }
}

fn account(label: u8) -> ServiceAccount {
    ServiceAccount {
        id: NamespacedName::new("web", "robot"),
        labels: Labels::from([("role".into(), format!("r{label}"))]),
    }
}

fn attachment(pod: u8) -> AttachmentId {
    AttachmentId {
        network: "k8s-pod-network".into(),
        container_id: format!("c{pod}").into(),
        ifname: "eth0".into(),
    }
}

fn endpoint(pod: u8, ip: u8) -> LocalEndpoint {
    LocalEndpoint {
        id: attachment(pod),
        pod: Some(PodRef::new("web", format!("p{pod}"))),
        pod_uid: None,
        interface: format!("cali{pod}").into(),
        ifindex: u32::from(pod) + 10,
        mac: None,
        addresses: vec![IpAddr::from([10, 244, 0, ip])],
        labels: Labels::new(),
    }
}

/// One key and the history of values it went through; the last one is what counts.
#[derive(Clone, Debug)]
struct History(Vec<Event>);

fn history(
    of: impl Strategy<Value = Event>,
    length: impl Into<SizeRange>,
) -> impl Strategy<Value = History> {
    proptest::collection::vec(of, length).prop_map(History)
}

fn histories() -> impl Strategy<Value = Vec<History>> {
    let namespaces = history(
        prop_oneof![
            (0..3u8).prop_map(|label| Event::upsert(namespace(label))),
            Just(Event::Delete(Key::Namespace("web".into())))
        ],
        1..4,
    );
    let accounts = history(
        prop_oneof![
            (0..3u8).prop_map(|label| Event::upsert(account(label))),
            Just(Event::Delete(Key::ServiceAccount(NamespacedName::new(
                "web", "robot"
            ))))
        ],
        1..3,
    );
    // Pods 0..3 live elsewhere and may go; 3..6 have interfaces here and stay, because a pod deleted before its sandbox keeps
    // its identity, which is history on purpose.
    let remote = (0..3u8).prop_map(|name| {
        history(
            prop_oneof![
                3 => (0..3u8, 0..9u8, any::<bool>())
                    .prop_map(move |(label, ip, done)| Event::upsert(pod(name, label, ip, false, done))),
                1 => Just(Event::Delete(Key::Pod(PodRef::new("web", format!("p{name}")))))
            ],
            1..4,
        )
    });
    let local = (3..6u8).prop_map(|name| {
        history(
            (0..3u8, 0..9u8)
                .prop_map(move |(label, ip)| Event::upsert(pod(name, label, ip, true, false))),
            1..3,
        )
    });
    let interfaces = (3..6u8).prop_map(|name| {
        history(
            prop_oneof![
                3 => (0..9u8).prop_map(move |ip| Event::upsert(endpoint(name, ip))),
                1 => Just(Event::Delete(Key::Endpoint(attachment(name))))
            ],
            1..3,
        )
    });
    let many = |one: BoxedStrategy<BoxedStrategy<History>>| {
        proptest::collection::vec(one.prop_flat_map(|strategy| strategy), 0..4)
    };
    (
        namespaces,
        accounts,
        many(remote.prop_map(Strategy::boxed).boxed()),
        many(local.prop_map(Strategy::boxed).boxed()),
        many(interfaces.prop_map(Strategy::boxed).boxed()),
    )
        .prop_map(|(namespace, account, remote, local, interfaces)| {
            let mut all = vec![namespace, account];
            all.extend(remote);
            all.extend(local);
            all.extend(interfaces);
            all
        })
}

/// Keeps one history per key, so that "last" means something.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "histories are made of four kinds"
)]
fn key_of(event: &Event) -> String {
    match event {
        Event::Upsert(object) => match &**object {
            Object::Namespace(namespace) => format!("namespace {}", namespace.name),
            Object::ServiceAccount(account) => format!("account {}", account.id),
            Object::Pod(pod) => format!("pod {}", pod.id),
            Object::Endpoint(endpoint) => format!("endpoint {}", endpoint.id),
            other => panic!("no history is made for {other:?}"),
        },
        Event::Delete(Key::Namespace(name)) => format!("namespace {name}"),
        Event::Delete(Key::ServiceAccount(id)) => format!("account {id}"),
        Event::Delete(Key::Pod(id)) => format!("pod {id}"),
        Event::Delete(Key::Endpoint(id)) => format!("endpoint {id}"),
        other => panic!("no history is made for {other:?}"),
    }
}

fn interleave(histories: &[History], picks: &[usize]) -> Vec<Event> {
    let mut queues: Vec<_> = histories.iter().map(|history| history.0.iter()).collect();
    let mut events = Vec::new();
    for pick in picks {
        let queue = &mut queues[pick % histories.len()];
        events.extend(queue.next().cloned());
    }
    for queue in queues {
        events.extend(queue.cloned());
    }
    events
}

fn state(events: Vec<Event>) -> String {
    let mut world = World::new("a1".into());
    let selector = Selector::parse("has(app)").unwrap();
    world.membership_mut().watch(&selector);
    for event in events {
        world.apply(event);
    }
    world.membership_mut().take_changed();
    let endpoints: Vec<_> = world
        .local_endpoints()
        .map(|view| format!("{view:?}"))
        .collect();
    format!("{world:#?}\n{endpoints:#?}")
}

proptest! {
    #[test]
    fn the_world_does_not_depend_on_the_order_of_events(
        histories in histories(),
        one in proptest::collection::vec(any::<usize>(), 30),
        other in proptest::collection::vec(any::<usize>(), 30),
    ) {
        let mut seen = BTreeSet::new();
        let histories: Vec<History> = histories
            .into_iter()
            .filter(|history| seen.insert(key_of(&history.0[0])))
            .collect();
        prop_assert_eq!(state(interleave(&histories, &one)), state(interleave(&histories, &other)));
    }
}

#[test]
fn a_deleted_pod_keeps_its_identity_until_its_interface_is_gone() {
    let mut world = World::new("a1".into());
    let selector = Selector::parse("app == 'x1'").unwrap();
    world.membership_mut().watch(&selector);
    world.apply(Event::upsert(pod(1, 1, 7, true, false)));
    world.apply(Event::upsert(endpoint(1, 7)));
    world.apply(Event::Delete(Key::Pod(PodRef::new("web", "p1"))));
    assert_eq!(world.membership().members(&selector).unwrap().len(), 1);
    world.apply(Event::Delete(Key::Endpoint(attachment(1))));
    assert!(world.membership().members(&selector).unwrap().is_empty());
    assert!(world.pods().is_empty());
}

#[test]
fn an_event_that_changes_nothing_dirties_nothing() {
    let mut world = World::new("a1".into());
    assert!(
        !world
            .apply(Event::upsert(pod(1, 1, 7, true, false)))
            .is_none()
    );
    assert!(
        world
            .apply(Event::upsert(pod(1, 1, 7, true, false)))
            .is_none()
    );
}

#[test]
fn events_survive_serialisation() {
    let event = Event::upsert(endpoint(1, 7));
    let text = serde_json::to_string(&event).unwrap();
    let again: Event = serde_json::from_str(&text).unwrap();
    assert_eq!(format!("{event:?}"), format!("{again:?}"));
}

fn policy(namespace: &str) -> api::networking::NetworkPolicy {
    let metadata = ObjectMeta {
        name: Some("isolate".into()),
        namespace: Some(namespace.into()),
        ..ObjectMeta::default()
    };
    api::networking::NetworkPolicy {
        metadata,
        spec: None,
    }
}

fn dying() -> Namespace {
    Namespace {
        terminating: true,
        ..namespace(0)
    }
}

#[test]
fn a_policy_deleted_with_its_namespace_stays_until_each_of_its_interfaces_is_gone() {
    let id = NamespacedName::new("web", "isolate");
    let deleted = || Event::Delete(Key::KubeNetworkPolicy(id.clone()));
    let mut world = World::new("a1".into());
    for name in [3, 4] {
        world.apply(Event::upsert(pod(name, 0, name, true, false)));
        world.apply(Event::upsert(endpoint(name, name)));
    }
    world.apply(Event::upsert(namespace(0)));
    world.apply(Event::upsert(policy("web")));
    // While the namespace lives, a deletion is a deletion.
    world.apply(deleted());
    assert!(world.kube_policies().is_empty());

    world.apply(Event::upsert(policy("web")));
    world.apply(Event::upsert(dying()));
    assert_eq!(world.apply(deleted()), Dirty::NONE);
    // Pods and namespace go from the API; the sandboxes are taken down after them, one by one.
    for name in [3, 4] {
        world.apply(Event::Delete(Key::Pod(PodRef::new(
            "web",
            format!("p{name}"),
        ))));
    }
    world.apply(Event::Delete(Key::Namespace("web".into())));
    world.apply(Event::Delete(Key::Endpoint(attachment(3))));
    assert!(world.kube_policies().contains_key(&id));
    let dirty = world.apply(Event::Delete(Key::Endpoint(attachment(4))));
    assert!(dirty.any(Dirty::POLICY));
    assert!(world.kube_policies().is_empty());
}

#[test]
fn a_policy_made_again_is_no_longer_held() {
    let id = NamespacedName::new("web", "isolate");
    let mut world = World::new("a1".into());
    world.apply(Event::upsert(pod(3, 0, 3, true, false)));
    world.apply(Event::upsert(endpoint(3, 3)));
    world.apply(Event::upsert(dying()));
    world.apply(Event::upsert(policy("web")));
    world.apply(Event::Delete(Key::KubeNetworkPolicy(id.clone())));
    world.apply(Event::upsert(namespace(0)));
    world.apply(Event::upsert(policy("web")));
    world.apply(Event::Delete(Key::Endpoint(attachment(3))));
    assert!(world.kube_policies().contains_key(&id));
    world.apply(Event::Delete(Key::KubeNetworkPolicy(id)));
    assert!(world.kube_policies().is_empty());
}
