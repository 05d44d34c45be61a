//! The task over a real speaker without peers: what it tells, and in which order.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use bgp::Asn;
use bgp::speaker::{
    ConnectMode, Desired, Global, OriginAttributes, Origination, Peer, PeerKey, Settings,
};
use tokio::sync::mpsc;

use super::*;

const NEXT_HOP: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7));

struct Rig {
    peering: watch::Sender<Option<Wanted>>,
    _unresolved: watch::Sender<Arc<BTreeSet<IpAddr>>>,
    requests: mpsc::Receiver<Request>,
    handle: watch::Receiver<Option<Handle>>,
    health: Arc<Health>,
    stop: watch::Sender<bool>,
    task: tokio::task::JoinHandle<()>,
}

fn rig() -> Rig {
    let (peering, peering_seen) = watch::channel(None);
    let (unresolved, unresolved_seen) = watch::channel(Arc::new(BTreeSet::new()));
    let (requests, inbox) = mpsc::channel(16);
    let (_, sync) = watch::channel(crate::world::SyncState::default());
    let (_, settings) = watch::channel(settings());
    let (handle, handle_seen) = watch::channel(None);
    let (stop, stop_seen) = watch::channel(false);
    let health = Arc::new(Health::default());
    let task = tokio::spawn(run(Deps {
        peering: peering_seen,
        unresolved: unresolved_seen,
        world: WorldHandle::new(requests, sync, settings),
        handle,
        health: Arc::clone(&health),
        restarting: false,
        seed: 7,
        stop: stop_seen,
    }));
    Rig {
        peering,
        _unresolved: unresolved,
        requests: inbox,
        handle: handle_seen,
        health,
        stop,
        task,
    }
}

fn settings() -> crate::world::CniSettings {
    crate::reconcile::unknown_settings("a1".into())
}

fn route(prefix: &str) -> Origination {
    Origination {
        owner: "ipam".into(),
        prefix: prefix.parse().unwrap(),
        // Nobody accepts a loopback address as a next hop.
        attributes: OriginAttributes {
            next_hop: Some(NEXT_HOP),
            ..OriginAttributes::default()
        },
    }
}

fn originated(prefixes: &[&str]) -> Originated {
    prefixes
        .iter()
        .map(|prefix| (("ipam".into(), prefix.parse().unwrap()), route(prefix)))
        .collect()
}

fn wanted(desired: Option<Desired>) -> Wanted {
    Wanted {
        desired,
        originate: originated(&["10.244.1.0/26"]),
        listen: vec!["127.0.0.1:0".parse().unwrap()],
        incomplete: false,
    }
}

fn speaking() -> Desired {
    Desired {
        global: Global::new(Asn(64512), Ipv4Addr::new(10, 1, 0, 11)),
        peers: BTreeMap::new(),
    }
}

async fn learnt(rig: &mut Rig) -> LearntRoutes {
    let request = tokio::time::timeout(Duration::from_secs(30), rig.requests.recv())
        .await
        .expect("in time")
        .expect("a request");
    let Request::Learnt(news) = request else {
        panic!("{request:?}");
    };
    news
}

#[tokio::test]
async fn without_bgp_nothing_is_learnt_and_the_node_is_ready() {
    let mut rig = rig();
    rig.peering.send_replace(Some(wanted(None)));
    assert_eq!(learnt(&mut rig).await, LearntRoutes::Withdrawn);
    tokio::task::yield_now().await;
    assert!(rig.health.checks()[CHECK].ok);
    assert!(rig.handle.borrow().is_none());
    rig.stop.send_replace(true);
    rig.task.await.unwrap();
}

#[tokio::test]
async fn a_speaker_without_peers_completes_at_once_and_goes_when_turned_off() {
    let mut rig = rig();
    rig.peering.send_replace(Some(wanted(Some(speaking()))));
    while learnt(&mut rig).await != LearntRoutes::Complete {}
    assert!(rig.handle.borrow().is_some());
    rig.peering.send_replace(Some(wanted(None)));
    while learnt(&mut rig).await != LearntRoutes::Withdrawn {}
    assert!(rig.handle.borrow().is_none());
    rig.stop.send_replace(true);
    rig.task.await.unwrap();
}

#[tokio::test]
async fn other_listeners_mean_another_speaker_that_takes_over() {
    let mut rig = rig();
    rig.peering.send_replace(Some(wanted(Some(speaking()))));
    while learnt(&mut rig).await != LearntRoutes::Complete {}
    let moved = Wanted {
        listen: vec!["127.0.0.2:0".parse().unwrap()],
        ..wanted(Some(speaking()))
    };
    rig.peering.send_replace(Some(moved));
    while learnt(&mut rig).await != LearntRoutes::Restarted {}
    while learnt(&mut rig).await != LearntRoutes::Complete {}
    rig.stop.send_replace(true);
    rig.task.await.unwrap();
    assert!(rig.handle.borrow().is_none());
}

/// A port nobody listens on just now.
fn free_port(address: &str) -> u16 {
    let listener = std::net::TcpListener::bind((address, 0)).unwrap();
    listener.local_addr().unwrap().port()
}

/// A router at 127.0.0.2 that waits for us at 127.0.0.1 and announces one prefix.
async fn router(port: u16) -> Handle {
    let listen = bgp::io::ListenConfig {
        addresses: vec![([127, 0, 0, 2], port).into()],
    };
    let speaker = bgp::Speaker::new(Settings::default(), 9);
    let (handle, _driver) = bgp::io::spawn(speaker, &listen).unwrap();
    let announced = OriginateDiff {
        add: vec![route("10.244.7.0/26")],
        remove: Vec::new(),
    };
    handle.originate(announced).await.unwrap();
    let mut node = Peer::new(Asn(64512));
    node.connect = ConnectMode::Passive;
    let desired = Desired {
        global: Global::new(Asn(65001), Ipv4Addr::new(127, 0, 0, 2)),
        peers: BTreeMap::from([(PeerKey::from(IpAddr::from([127, 0, 0, 1])), node)]),
    };
    handle.reconcile(desired).await.unwrap();
    handle
}

#[tokio::test]
async fn best_routes_reach_the_world_and_a_stop_leaves_ours_with_the_router() {
    loopback_up();
    let port = free_port("127.0.0.2");
    let router = router(port).await;
    let mut peer = Peer::new(Asn(65001));
    peer.remote_port = port;
    peer.local_address = Some([127, 0, 0, 1].into());
    let mut desired = speaking();
    desired
        .peers
        .insert(PeerKey::from(IpAddr::from([127, 0, 0, 2])), peer);

    let mut rig = rig();
    rig.peering.send_replace(Some(wanted(Some(desired))));
    let prefix = loop {
        if let LearntRoutes::Changes(batch) = learnt(&mut rig).await
            && let Some((prefix, Some(best))) = batch.changes.first()
        {
            assert_eq!(best.next_hops[0].address, NEXT_HOP);
            break *prefix;
        }
    };
    assert_eq!(prefix.to_string(), "10.244.7.0/26");

    let mut seen = router.peers();
    let mut router_has = async |stale: bool| {
        let settled = seen.wait_for(|table| {
            let node = table.peers.values().next().expect("one peer");
            let kept = node.restart.stale.contains(Family::Ipv4Unicast);
            node.families.get(Family::Ipv4Unicast).accepted == 1 && kept == stale
        });
        let settled = tokio::time::timeout(Duration::from_secs(30), settled).await;
        drop(settled.expect("in time").expect("the router runs"));
    };
    router_has(false).await;
    rig.stop.send_replace(true);
    rig.task.await.unwrap();
    router_has(true).await;
}

#[test]
fn announcements_differ_by_what_is_new_changed_and_gone() {
    let from = originated(&["10.244.1.0/26", "10.244.2.0/26"]);
    let to = originated(&["10.244.2.0/26", "10.244.3.0/26"]);
    let diff = difference(&from, &to);
    assert_eq!(diff.add, [route("10.244.3.0/26")]);
    assert_eq!(
        diff.remove,
        [(Arc::from("ipam"), "10.244.1.0/26".parse().unwrap())]
    );
    assert_eq!(difference(&to, &to), OriginateDiff::default());
}

#[test]
fn next_hops_are_told_when_lost_and_when_found_again() {
    let [one, two]: [IpAddr; 2] = [[10, 1, 0, 1].into(), [10, 1, 0, 2].into()];
    let told = facts(&BTreeSet::from([one]), &BTreeSet::from([two])).changed;
    assert_eq!(
        told,
        [
            (two, Resolution::Unresolved),
            (one, Resolution::Resolved { metric: 0 })
        ]
    );
}

/// In a network namespace of its own, as the test runner makes it, a process finds its loopback down.
#[expect(
    clippy::disallowed_methods,
    reason = "a test prepares its own namespace"
)]
fn loopback_up() {
    let status = std::process::Command::new("ip")
        .args(["link", "set", "lo", "up"])
        .status();
    assert!(status.is_ok_and(|status| status.success()), "loopback up");
}
