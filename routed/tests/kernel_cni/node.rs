//! A node without an API server: the daemon's own reconcile task and CNI server, told of the cluster by hand.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cni_plugin::spec::Families;
use futures::FutureExt;
use futures::future::BoxFuture;
use model::{
    AttachmentId, Event, Kind, LocalEndpoint, Namespace, Node as NodeObject, NodeName, Object, Pod,
    PodRef, World,
};
use routed::cni::adapters::Links;
use routed::cni::record::{Claim, Place};
use routed::cni::seams::{Addresses, Ask, Cluster, Holding, Refusal, Unreleased};
use routed::cni::{self, Cni, Parts, Rooms};
use routed::health::Health;
use routed::kube::node::NodeFacts;
use routed::kube::secrets::Passwords;
use routed::log::LogFilter;
use routed::metrics::Metrics;
use routed::reconcile::{Kernel, Outlook, Reconciler, unknown_settings};
use routed::world::{CniSettings, PodView, Request, SyncState, Unprogrammed, WorldHandle};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::exec::run;

const SYSCTLS: &str = "/proc/sys";

/// A running daemon.
pub(crate) struct Node {
    pub(crate) run_dir: PathBuf,
    pub(crate) pool: Arc<Pool>,
    pub(crate) world: WorldHandle,
    pub(crate) cni: Cni,
    stop: watch::Sender<bool>,
    reconcile: JoinHandle<()>,
}

/// An uplink with an address, so that the node knows itself and its MTU.
pub(crate) fn uplink() {
    run("ip netns add outside");
    run("ip link add eth0 type veth peer name eth0 netns outside");
    run("ip address add 192.0.2.1/24 dev eth0");
    run("ip link set eth0 up");
    run("ip -n outside address add 192.0.2.254/24 dev eth0");
    run("ip -n outside link set eth0 up");
    run("ip route add default via 192.0.2.254");
}

impl Node {
    /// Starts a daemon; `pool` and `run_dir` outlive it, the World does not.
    pub(crate) async fn start(run_dir: &Path, pool: Arc<Pool>, log: LogFilter) -> Self {
        let node = NodeName::from("n1");
        let (requests, inbox) = mpsc::channel(256);
        let (sync, sync_seen) = watch::channel(SyncState::default());
        let (settings, settings_seen) = watch::channel(unknown_settings(node.clone()));
        let world = WorldHandle::new(requests, sync_seen.clone(), settings_seen);
        let outlook = Outlook {
            sync,
            settings,
            facts: watch::Sender::new(NodeFacts::default()),
            tunnels: watch::Sender::new(None),
            peering: watch::Sender::new(None),
            findings: Vec::new(),
            unresolved: watch::Sender::default(),
            secrets: watch::Sender::new(BTreeSet::new()),
            metrics: watch::Sender::new(None),
            log,
            bgp: false,
            passwords: Passwords::new(),
        };
        let kernel = Kernel::open(Path::new(SYSCTLS)).unwrap();
        let health = Arc::new(Health::default());
        let (stop, stopped) = watch::channel(false);
        let reconciler = Reconciler::new(
            World::new(node.clone()),
            kernel,
            outlook,
            Arc::clone(&health),
            Metrics::default(),
        );
        let reconcile = tokio::spawn(reconciler.run(inbox, stopped.clone()));
        tell_cluster(&world, &node).await;
        let parts = Parts {
            rooms: Rooms {
                addresses: Arc::<Pool>::clone(&pool),
                kernel: Arc::new(Links::open(SYSCTLS.into()).unwrap()),
                cluster: Arc::new(Told(world.clone())),
            },
            run_dir: run_dir.to_owned(),
            install: None,
            sync: sync_seen,
            health,
        };
        let cni = cni::serve(parts, stopped).unwrap();
        let node = Self {
            run_dir: run_dir.to_owned(),
            pool,
            world,
            cni,
            stop,
            reconcile,
        };
        node.until_in_sync().await;
        node
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.run_dir.join("cni.sock")
    }

    pub(crate) fn conf(&self) -> String {
        format!(
            r#"{{"cniVersion":"1.1.0","name":"k8s-pod-network","type":"margay","socket":"{}"}}"#,
            self.socket().display()
        )
    }

    pub(crate) async fn add_pod(&self, name: &str) {
        self.tell(Object::Pod(pod(name))).await;
    }

    pub(crate) async fn tell(&self, object: Object) {
        self.world
            .tell(Event::Upsert(Box::new(object)))
            .await
            .unwrap();
    }

    /// Ends the daemon in order. The kernel keeps what it has.
    pub(crate) async fn stop(self) {
        self.stop.send_replace(true);
        self.cni.task.await.unwrap();
        self.reconcile.await.unwrap();
    }

    async fn until_in_sync(&self) {
        let mut sync = self.world.sync();
        let waited = tokio::time::timeout(
            Duration::from_secs(10),
            sync.wait_for(|state| state.in_sync),
        )
        .await;
        assert!(
            waited.is_ok(),
            "not in sync: {:?}",
            self.world.sync().borrow().clone()
        );
    }
}

async fn tell_cluster(world: &WorldHandle, node: &NodeName) {
    let object = NodeObject::parse(
        node,
        "uid".into(),
        BTreeMap::new(),
        &BTreeMap::new(),
        vec!["192.0.2.1".parse().unwrap()],
    );
    world
        .tell(Event::Upsert(Box::new(Object::Node(object.0))))
        .await
        .unwrap();
    let namespace = Namespace {
        name: "shop".into(),
        labels: BTreeMap::new(),
        annotations: BTreeMap::new(),
        terminating: false,
    };
    world
        .tell(Event::Upsert(Box::new(Object::Namespace(namespace))))
        .await
        .unwrap();
    for kind in Kind::ALL.iter().filter(|kind| **kind != Kind::Endpoint) {
        world.tell(Event::Synced(*kind)).await.unwrap();
    }
}

fn pod(name: &str) -> Pod {
    Pod {
        id: PodRef::new("shop", name),
        uid: format!("uid-{name}").into(),
        node: Some("n1".into()),
        labels: BTreeMap::from([("app".to_owned(), name.to_owned())]),
        annotations: BTreeMap::new(),
        service_account: None,
        ips: Vec::new(),
        finished: false,
        terminating: false,
        host_network: false,
        ports: Vec::new(),
    }
}

/// Addresses from a list.
#[derive(Debug, Default)]
pub(crate) struct Pool(Mutex<BTreeMap<Arc<str>, Claim>>);

impl Pool {
    pub(crate) fn held(&self) -> usize {
        self.0.lock().unwrap().len()
    }
}

impl Addresses for Pool {
    fn assign(&self, ask: Ask) -> BoxFuture<'_, Result<Vec<Claim>, Refusal>> {
        let mut held = self.0.lock().unwrap();
        let taken: BTreeSet<IpAddr> = held.values().map(|claim| claim.address).collect();
        let free = (1..=254)
            .map(|last| IpAddr::from(Ipv4Addr::new(10, 65, 0, last)))
            .find(|address| !taken.contains(address));
        let answer = match (held.get(&ask.handle), free) {
            (Some(claim), _) => Ok(vec![claim.clone()]),
            (None, None) => Err(Refusal::Exhausted("the list is empty".into())),
            (None, Some(address)) => {
                let place = Place {
                    block: "10.65.0.0/24".parse().unwrap(),
                    ordinal: 0,
                    sequence: 1,
                };
                let claim = Claim {
                    address,
                    place: Some(place),
                };
                held.insert(ask.handle, claim.clone());
                Ok(vec![claim])
            }
        };
        async move { answer }.boxed()
    }

    fn release(
        &self,
        handle: Arc<str>,
        _claims: Vec<Claim>,
    ) -> BoxFuture<'_, Result<(), Unreleased>> {
        self.0.lock().unwrap().remove(&handle);
        async { Ok(()) }.boxed()
    }

    fn holdings(&self) -> BoxFuture<'_, Result<Vec<Holding>, String>> {
        let held = self.0.lock().unwrap();
        let holding = |(handle, claim): (&Arc<str>, &Claim)| Holding {
            handle: Arc::clone(handle),
            claim: claim.clone(),
            attributes: BTreeMap::from([("node".to_owned(), "n1".to_owned())]),
        };
        let all = held.iter().map(holding).collect();
        async move { Ok(all) }.boxed()
    }

    fn living(&self, _living: Vec<Holding>) -> BoxFuture<'_, Result<(), String>> {
        async { Ok(()) }.boxed()
    }

    fn serviceable(&self, _families: Families) -> BoxFuture<'_, Result<(), String>> {
        async { Ok(()) }.boxed()
    }
}

/// The World's own task; nobody can be asked for what it was not told.
struct Told(WorldHandle);

impl Cluster for Told {
    fn sync(&self) -> SyncState {
        // No watch is alive, and none is needed.
        SyncState {
            api_reachable: true,
            ..self.0.sync().borrow().clone()
        }
    }

    fn settings(&self) -> CniSettings {
        self.0.settings().borrow().clone()
    }

    fn pod(&self, id: PodRef) -> BoxFuture<'_, Option<PodView>> {
        async move { self.0.pod(&id).await }.boxed()
    }

    fn fetch_pod(&self, _id: PodRef) -> BoxFuture<'_, Result<Option<PodView>, String>> {
        async { Err("there is no API server".into()) }.boxed()
    }

    fn program(&self, endpoint: LocalEndpoint) -> BoxFuture<'_, Result<(), Unprogrammed>> {
        async move { self.0.program(endpoint).await }.boxed()
    }

    fn withdraw(&self, id: AttachmentId) -> BoxFuture<'_, Result<(), Unprogrammed>> {
        async move { self.0.withdraw(id).await }.boxed()
    }

    fn adopt(&self, endpoints: Vec<LocalEndpoint>) -> BoxFuture<'_, Result<(), Unprogrammed>> {
        async move { self.0.send(Request::Adopt(endpoints)).await }.boxed()
    }
}
