//! The task around the allocator, with a store in memory instead of an API server.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ::ipam::memory::{Fault, Memory};
use ::ipam::store::{StoreCall, StoreError, StoreReply};
use futures::future::BoxFuture;
use model::{Event, Key, Kind};
use serde_json::json;

use super::task::Calls;
use super::*;

/// A store in memory; calls take a moment, so that requests meet each other.
#[derive(Clone)]
struct Shared {
    memory: Arc<Mutex<Memory>>,
    fault: Arc<Mutex<Fault>>,
    writes: Arc<Mutex<u64>>,
}

impl Calls for Shared {
    fn carry_out(&self, call: StoreCall) -> BoxFuture<'static, Result<StoreReply, StoreError>> {
        let shared = self.clone();
        Box::pin(async move {
            tokio::time::sleep(Duration::from_millis(2)).await;
            let fault = *shared.fault.lock().unwrap_or_else(PoisonError::into_inner);
            let handle =
                format!("{call:?}").contains("Handle(Handle") || matches!(&call, StoreCall::Get(_));
            if !handle {
                *shared.writes.lock().unwrap_or_else(PoisonError::into_inner) += 1;
            }
            shared
                .memory
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .carry_out("n1", &call, fault)
        })
    }
}

struct Rig {
    handle: IpamHandle,
    store: Shared,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

/// A running task that knows one node and one pool; synced unless told otherwise.
async fn rig(synced: bool) -> Rig {
    let store = Shared {
        memory: Arc::default(),
        fault: Arc::new(Mutex::new(Fault::None)),
        writes: Arc::default(),
    };
    let (stop, stopped) = watch::channel(false);
    let (asks, asked) = mpsc::channel(ASKS);
    let (events, told) = mpsc::channel(EVENTS);
    let node = NodeName::from("n1");
    let task = tokio::spawn(
        Task::new(&node, store.clone(), Numbers::default(), 1).run(asked, told, stopped),
    );
    let handle = IpamHandle { asks, events, node };
    let pool: api::IPPool = serde_json::from_value(json!({
        "apiVersion": "projectcalico.org/v3", "kind": "IPPool",
        "metadata": {"name": "p"}, "spec": {"cidr": "10.0.0.0/24", "blockSize": 25, "vxlanMode": "Always"}
    }))
    .unwrap();
    handle.event(&Event::upsert(pool)).await;
    if synced {
        for kind in Kind::ALL {
            handle.event(&Event::Synced(*kind)).await;
        }
        settle(&handle).await;
    }
    Rig {
        handle,
        store,
        stop,
        task,
    }
}

/// Waits until the task has taken in what it was told.
async fn settle(handle: &IpamHandle) {
    for _ in 0..100 {
        if handle.held().await.is_ok() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("the task does not hear its events");
}

fn request(handle_id: &str) -> AssignRequest {
    AssignRequest {
        handle_id: handle_id.to_owned(),
        families: vec![Family::V4],
        usage: PoolUse::Workload,
        ipv4_pools: Vec::new(),
        ipv6_pools: Vec::new(),
        namespace_labels: BTreeMap::new(),
        attributes: BTreeMap::from([("node".to_owned(), "n1".to_owned())]),
        requested: Vec::new(),
        supersedes: BTreeSet::new(),
    }
}

#[tokio::test]
async fn a_burst_shares_its_writes_and_goes_again() {
    let rig = rig(true).await;
    rig.handle.assign(request("first")).await.unwrap();
    let before = *rig.store.writes.lock().unwrap();
    let burst = (0..110).map(|n| {
        let handle = rig.handle.clone();
        tokio::spawn(async move { handle.assign(request(&format!("h{n}"))).await })
    });
    let mut addresses = BTreeSet::new();
    for answer in burst.collect::<Vec<_>>() {
        addresses.insert(answer.await.unwrap().unwrap()[0].address);
    }
    assert_eq!(addresses.len(), 110);
    let writes = *rig.store.writes.lock().unwrap() - before;
    assert!(writes <= 4, "{writes} writes");
    assert_eq!(rig.handle.held().await.unwrap().len(), 111);
    for n in 0..110 {
        assert_eq!(
            rig.handle
                .release_handle(&format!("h{n}"))
                .await
                .unwrap()
                .freed,
            1
        );
    }
    assert_eq!(rig.handle.held().await.unwrap().len(), 1);
}

#[tokio::test]
async fn before_every_kind_has_listed_the_answer_is_later() {
    let rig = rig(false).await;
    let error = rig.handle.assign(request("h")).await.unwrap_err();
    assert_eq!(error.class(), Class::Later);
    assert!(rig.handle.held().await.is_err());
    assert!(rig.handle.can_assign(Family::V4).await.is_err());
}

#[tokio::test]
async fn status_knows_whether_an_address_is_left() {
    let rig = rig(true).await;
    rig.handle.can_assign(Family::V4).await.unwrap();
    let error = rig.handle.can_assign(Family::V6).await.unwrap_err();
    assert_eq!(error.class(), Class::Exhausted);
}

#[tokio::test]
async fn a_caller_that_goes_away_leaves_nothing() {
    let rig = rig(true).await;
    let gone =
        tokio::time::timeout(Duration::from_millis(3), rig.handle.assign(request("h"))).await;
    assert!(gone.is_err());
    rig.handle.release_handle("h").await.unwrap();
    assert_eq!(rig.handle.held().await.unwrap(), []);
}

#[tokio::test]
async fn a_silent_server_is_told_as_later_and_the_release_stays_owed() {
    let rig = rig(true).await;
    rig.handle.assign(request("h")).await.unwrap();
    *rig.store.fault.lock().unwrap() = Fault::UnknownNotDone;
    assert_eq!(
        rig.handle.assign(request("h2")).await.unwrap_err().class(),
        Class::Later
    );
    assert!(
        rig.handle
            .release_handle("h")
            .await
            .unwrap_err()
            .retryable()
    );
    *rig.store.fault.lock().unwrap() = Fault::None;
    assert_eq!(rig.handle.release_handle("h").await.unwrap().freed, 1);
}

#[tokio::test]
async fn the_tunnel_address_stays_the_same_until_it_is_released() {
    let rig = rig(true).await;
    let first = rig.handle.tunnel_address(TunnelKind::Vxlan).await.unwrap();
    assert_eq!(
        rig.handle.tunnel_address(TunnelKind::Vxlan).await.unwrap(),
        first
    );
    assert_eq!(
        rig.handle.tunnel_address(TunnelKind::VxlanV6).await,
        Err(TunnelError::Unwanted)
    );
    rig.handle
        .release_tunnel_address("n1", TunnelKind::Vxlan)
        .await
        .unwrap();
    rig.handle
        .release_tunnel_address("n1", TunnelKind::Vxlan)
        .await
        .unwrap();
    assert_eq!(rig.handle.held().await.unwrap(), []);
}

#[tokio::test]
async fn deletions_by_name_reach_the_index() {
    let rig = rig(true).await;
    rig.handle
        .event(&Event::Delete(Key::IpPool("p".into())))
        .await;
    tokio::time::sleep(Duration::from_millis(20)).await;
    let error = rig.handle.assign(request("h")).await.unwrap_err();
    assert_eq!(error.class(), Class::Exhausted);
    assert!(error.to_string().contains("no pool serves"), "{error}");
}

#[tokio::test]
async fn the_task_ends_when_told_once_its_callers_are_gone() {
    let rig = rig(true).await;
    rig.stop.send(true).unwrap();
    rig.handle.assign(request("late")).await.unwrap();
    drop(rig.handle);
    tokio::time::timeout(Duration::from_secs(8), rig.task)
        .await
        .unwrap()
        .unwrap();
}

/// Waits until a question about what is held is answered with yes.
async fn until_held(handle: &IpamHandle, yes: impl Fn(&[Held]) -> bool) {
    for _ in 0..500 {
        if yes(&handle.held().await.unwrap()) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{:?}", handle.held().await);
}

fn kept_ready(held: &[Held]) -> usize {
    held.iter().filter(|held| is_warm(&held.handle)).count()
}

async fn keep_ready(handle: &IpamHandle, count: u32) {
    let config: api::IPAMConfiguration = serde_json::from_value(json!({
        "apiVersion": "projectcalico.org/v3", "kind": "IPAMConfiguration",
        "metadata": {"name": "default"}, "spec": {"margay": {"warmAddresses": count}}
    }))
    .unwrap();
    handle.event(&Event::upsert(config)).await;
}

#[tokio::test]
async fn addresses_kept_ready_are_given_out_while_the_api_server_is_away_and_named_after() {
    let rig = rig(true).await;
    keep_ready(&rig.handle, 3).await;
    rig.handle.living(Vec::new()).await.unwrap();
    rig.handle.assign(request("first")).await.unwrap();
    until_held(&rig.handle, |held| kept_ready(held) == 3).await;
    let fault = |fault| *rig.store.fault.lock().unwrap() = fault;
    fault(Fault::UnknownNotDone);
    let mut given = BTreeSet::new();
    for name in ["a", "b", "c"] {
        let assigned = rig.handle.assign(request(name)).await.unwrap();
        assert_eq!(assigned[0].path.as_str(), "warm");
        let again = rig.handle.assign(request(name)).await.unwrap();
        assert_eq!(again, assigned, "one address for one handle");
        given.insert(assigned[0].address);
    }
    assert_eq!(given.len(), 3);
    let held = rig.handle.by_handle("b").await.unwrap();
    assert_eq!((held.len(), held[0].handle.as_str()), (1, "b"));
    assert!(
        rig.handle.assign(request("d")).await.is_err(),
        "the stock is used up"
    );
    fault(Fault::None);
    until_held(&rig.handle, |held| kept_ready(held) == 3).await;
    let stored = |name: &str| {
        let memory = rig.store.memory.lock().unwrap();
        memory
            .blocks()
            .any(|block| block.of_handle(name).count() == 1)
    };
    assert!(["a", "b", "c"].into_iter().all(stored));
    assert_eq!(rig.handle.release_handle("a").await.unwrap().freed, 1);
    // What is not wanted any more goes back.
    keep_ready(&rig.handle, 1).await;
    until_held(&rig.handle, |held| kept_ready(held) == 1).await;
    rig.stop.send_replace(true);
    rig.task.await.unwrap();
}

#[tokio::test]
async fn a_release_of_what_was_never_named_leaves_the_stock_whole() {
    let rig = rig(true).await;
    keep_ready(&rig.handle, 2).await;
    rig.handle.living(Vec::new()).await.unwrap();
    rig.handle.assign(request("first")).await.unwrap();
    until_held(&rig.handle, |held| kept_ready(held) == 2).await;
    *rig.store.fault.lock().unwrap() = Fault::UnknownNotDone;
    rig.handle.assign(request("a")).await.unwrap();
    assert!(rig.handle.release_handle("a").await.is_err(), "owed");
    *rig.store.fault.lock().unwrap() = Fault::None;
    assert_eq!(rig.handle.release_handle("a").await.unwrap().freed, 1);
    until_held(&rig.handle, |held| kept_ready(held) == 2 && held.len() == 3).await;
    rig.stop.send_replace(true);
    rig.task.await.unwrap();
}
