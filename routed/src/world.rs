//! The handle to the task that owns the World.
//!
//! Whoever holds a [`WorldHandle`] can tell the task something, ask it something, or wait until what it told is in the kernel.
//! The task itself is [`crate::reconcile`].

use std::sync::Arc;
use std::time::Duration;

use cni_plugin::spec::Families;
use model::{AttachmentId, Event, LocalEndpoint, Namespace, NodeName, Pod, PodRef};
use tokio::sync::{mpsc, oneshot, watch};

use crate::fib::LearntRoutes;
use crate::kube::secrets::Passwords;

/// Requests that may wait in front of the task. Watches are bursty at start (one event per object); beyond this the sender
/// waits, and so in turn does the API server's stream.
pub const REQUESTS: usize = 1024;

/// What can be asked of the task that owns the World.
#[derive(Debug)]
pub enum Request {
    /// Something changed in the cluster.
    Event(Event),
    /// Bring an interface to life and say when route and policy are in the kernel.
    Program(LocalEndpoint, oneshot::Sender<Result<(), Unprogrammed>>),
    /// Take an interface out of route and policy and say when that is done.
    Withdraw(AttachmentId, oneshot::Sender<Result<(), Unprogrammed>>),
    /// The interfaces the CNI journal remembers, told once at start, before anything is served.
    Adopt(Vec<LocalEndpoint>),
    /// What is known of a pod.
    Pod(PodRef, oneshot::Sender<Option<PodView>>),
    /// The kernel told of a change in tables of ours, so list them again.
    KernelChanged(dataplane::io::Changed),
    /// Another hand touched the table of policy, so list it again.
    PolicyTouched,
    /// The speaker's best paths changed.
    Learnt(LearntRoutes),
    /// BGP passwords were read, or changed.
    Passwords(Passwords),
    /// A picture of the whole for `routed status`.
    Picture(oneshot::Sender<Picture>),
}

/// Why an interface is not in force yet.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Unprogrammed {
    /// The kernel refused; its words are in the text.
    #[error("the kernel refused {domain}: {reason}")]
    Refused {
        /// `policy` or `routes`.
        domain: &'static str,
        /// The kernel's own text.
        reason: Arc<str>,
    },
    /// Not every kind has been listed since the daemon started.
    #[error("the daemon is not in sync with the API server yet: waiting for {0}")]
    NotInSync(String),
    /// The daemon is going down.
    #[error("the daemon is stopping")]
    Stopping,
}

/// A pod and its namespace, as the World knows them.
#[derive(Clone, Debug)]
pub struct PodView {
    /// The pod.
    pub pod: Pod,
    /// Its namespace; absent until the watch delivered it.
    pub namespace: Option<Namespace>,
}

/// Whether this node may serve new pods.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SyncState {
    /// Every kind has been listed and the first apply of every domain succeeded.
    pub in_sync: bool,
    /// At least one watch of the API server is alive.
    pub api_reachable: bool,
    /// The last apply of every domain succeeded.
    pub kernel_ok: bool,
    /// What is missing, in words for an operator; empty when in sync.
    pub reason: String,
}

/// What attaching a pod depends on; changes take effect for new pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CniSettings {
    /// This node.
    pub node: NodeName,
    /// First entry of `interfacePrefix`: begins the names of host ends.
    pub interface_prefix: String,
    /// Families of pods whose network configuration names none.
    pub families: Families,
    /// MTU of pod interfaces, from the uplink and the encapsulations in use; 0 until known.
    pub mtu: u32,
    /// Whether containers may forward packets, unless their configuration says otherwise.
    pub ip_forwarding: bool,
}

/// State of the node for people.
#[derive(Clone, Debug, Default)]
pub struct Picture {
    /// Name → number, in the order they are shown.
    pub counts: Vec<(&'static str, u64)>,
    /// Kinds not listed yet.
    pub unsynced: Vec<String>,
    /// Problems, each one sentence.
    pub problems: Vec<String>,
    /// Node address and the device that carries it.
    pub address: Option<String>,
}

/// Talks to the task that owns the World. Cheap to clone.
#[derive(Clone, Debug)]
pub struct WorldHandle {
    requests: mpsc::Sender<Request>,
    sync: watch::Receiver<SyncState>,
    settings: watch::Receiver<CniSettings>,
}

impl WorldHandle {
    /// A handle over channels that [`crate::agent`] made.
    pub fn new(
        requests: mpsc::Sender<Request>,
        sync: watch::Receiver<SyncState>,
        settings: watch::Receiver<CniSettings>,
    ) -> Self {
        Self {
            requests,
            sync,
            settings,
        }
    }

    /// Tells the World of a change. Waits while the task is behind.
    ///
    /// # Errors
    /// [`Unprogrammed::Stopping`] when the task has ended.
    pub async fn tell(&self, event: Event) -> Result<(), Unprogrammed> {
        self.send(Request::Event(event)).await
    }

    /// Sends any request.
    ///
    /// # Errors
    /// [`Unprogrammed::Stopping`] when the task has ended.
    pub async fn send(&self, request: Request) -> Result<(), Unprogrammed> {
        self.requests
            .send(request)
            .await
            .map_err(|_closed| Unprogrammed::Stopping)
    }

    /// Brings an interface into route and policy; returns when both are acknowledged by the kernel. Callers bound the wait.
    ///
    /// # Errors
    /// [`Unprogrammed`] with the reason; the interface is then still in the World, and the caller withdraws it.
    pub async fn program(&self, endpoint: LocalEndpoint) -> Result<(), Unprogrammed> {
        let (done, answer) = oneshot::channel();
        self.send(Request::Program(endpoint, done)).await?;
        answer.await.map_err(|_closed| Unprogrammed::Stopping)?
    }

    /// Takes an interface out of route and policy; returns when the kernel has let go.
    ///
    /// # Errors
    /// [`Unprogrammed`] with the reason.
    pub async fn withdraw(&self, id: AttachmentId) -> Result<(), Unprogrammed> {
        let (done, answer) = oneshot::channel();
        self.send(Request::Withdraw(id, done)).await?;
        answer.await.map_err(|_closed| Unprogrammed::Stopping)?
    }

    /// Hands over the interfaces that outlived the last daemon. Told once at start, also when there are none: until then the
    /// World counts as incomplete, and nothing of ours leaves the kernel.
    ///
    /// # Errors
    /// [`Unprogrammed::Stopping`] when the task has ended.
    pub async fn adopt(&self, endpoints: Vec<LocalEndpoint>) -> Result<(), Unprogrammed> {
        self.send(Request::Adopt(endpoints)).await
    }

    /// What the World knows of a pod; `None` also while the daemon stops.
    pub async fn pod(&self, id: &PodRef) -> Option<PodView> {
        let (reply, answer) = oneshot::channel();
        self.send(Request::Pod(id.clone(), reply)).await.ok()?;
        answer.await.ok().flatten()
    }

    /// A picture for people, or `None` when the task does not answer within `limit`.
    pub async fn picture(&self, limit: Duration) -> Option<Picture> {
        let (reply, answer) = oneshot::channel();
        let asked = async {
            self.send(Request::Picture(reply)).await.ok()?;
            answer.await.ok()
        };
        tokio::time::timeout(limit, asked).await.ok().flatten()
    }

    /// Whether this node may serve new pods.
    pub fn sync(&self) -> watch::Receiver<SyncState> {
        self.sync.clone()
    }

    /// What attaching depends on.
    pub fn settings(&self) -> watch::Receiver<CniSettings> {
        self.settings.clone()
    }
}
