//! Watches: API objects in, [`Event`]s out.
//!
//! One task per kind. An object that does not deserialise is data: it is logged, reported as [`Rejected`], counts as absent and
//! the stream goes on. A broken stream is resumed with back-off; a new list is compared with what was known, so deletions that
//! happened meanwhile are told, and nothing is told twice as new.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use futures::{Stream, StreamExt};
use k8s_openapi::api::networking::v1::NetworkPolicy as KubePolicy;
use kube::core::DeserializeGuard;
use kube::runtime::watcher::{self, Config, DefaultBackoff};
use kube::runtime::{WatchStreamExt, watcher as watch};
use kube::{Api, Client, Resource, ResourceExt};
use model::{Event, Key, Kind, NamespacedName, Object, ObjectName};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::lenient::Lenient;
use super::objects::{
    EndpointSliceObject, NamespaceObject, NodeObject, PodObject, ServiceAccountObject,
};

/// The longest pause before a list anew.
const PAUSE: Duration = Duration::from_secs(30);

/// An object that could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejected {
    /// Which object.
    pub key: Key,
    /// What is wrong with it, or with some of its settings; empty once all of it can be read again or it is gone.
    pub reason: String,
}

/// What watches deliver.
#[derive(Debug)]
pub enum Heard {
    /// A change of the cluster.
    Event(Event),
    /// An object that counts as absent, or some of whose settings do.
    Rejected(Rejected),
}

/// What an object that can be read comes to.
struct Told {
    event: Event,
    /// What could not be used of it.
    complaint: Option<String>,
}

impl From<Event> for Told {
    fn from(event: Event) -> Self {
        Self {
            event,
            complaint: None,
        }
    }
}

impl Told {
    fn leniently<K: Into<Object>>(read: Lenient<K>) -> Self {
        Self {
            complaint: read.complaint(),
            event: Event::upsert(read.object),
        }
    }
}

/// When each kind last heard from the API server.
#[derive(Debug, Default)]
pub struct Freshness {
    /// Kind → Unix time in seconds, 0 before the first word. Order of [`Kind::ALL`].
    heard: [AtomicI64; 32],
    /// Kind → 1 while its stream is broken.
    broken: [AtomicI64; 32],
}

impl Freshness {
    fn slot(kind: Kind) -> usize {
        Kind::ALL
            .iter()
            .position(|other| *other == kind)
            .unwrap_or(0)
    }

    fn mark(&self, kind: Kind, broken: bool, now: i64) {
        if let Some(cell) = self.broken.get(Self::slot(kind)) {
            cell.store(i64::from(broken), Ordering::Relaxed);
        }
        if !broken && let Some(cell) = self.heard.get(Self::slot(kind)) {
            cell.store(now, Ordering::Relaxed);
        }
    }

    /// Unix time of the last word on a kind, `None` before the first.
    pub fn heard(&self, kind: Kind) -> Option<i64> {
        let seconds = self.heard.get(Self::slot(kind))?.load(Ordering::Relaxed);
        (seconds > 0).then_some(seconds)
    }

    /// True while a kind's stream is broken.
    pub fn broken(&self, kind: Kind) -> bool {
        self.broken
            .get(Self::slot(kind))
            .is_some_and(|cell| cell.load(Ordering::Relaxed) == 1)
    }

    /// True while any stream works: the API server can be reached.
    pub fn any_alive(&self) -> bool {
        WATCHED.iter().any(|kind| !self.broken(*kind))
    }
}

/// Kinds that come from the API server; the rest is told by this node itself.
const WATCHED: [Kind; 18] = [
    Kind::Node,
    Kind::Namespace,
    Kind::ServiceAccount,
    Kind::Pod,
    Kind::KubeNetworkPolicy,
    Kind::IpPool,
    Kind::Block,
    Kind::Affinity,
    Kind::IpamConfiguration,
    Kind::BgpConfiguration,
    Kind::BgpPeer,
    Kind::FelixConfiguration,
    Kind::Tier,
    Kind::NetworkPolicy,
    Kind::GlobalNetworkPolicy,
    Kind::NetworkSet,
    Kind::GlobalNetworkSet,
    Kind::EndpointSlice,
];

/// Starts a watch for every kind a node reads. The tasks end when the receiver of `heard` is dropped or the set is.
pub fn spawn(
    client: &Client,
    heard: &mpsc::Sender<Heard>,
    freshness: &Arc<Freshness>,
) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    let mut watches = Watches {
        client,
        heard,
        freshness,
        tasks: &mut tasks,
    };
    watches.add::<NodeObject, _>(
        Kind::Node,
        |_namespace, name| Key::Node(name.into()),
        |node| {
            let (node, errors) = node.into_model();
            for error in errors {
                tracing::warn!(%error, "annotation ignored");
            }
            Event::upsert(node)
        },
    );
    watches.add::<NamespaceObject, _>(Kind::Namespace, cluster_key(Key::Namespace), |namespace| {
        Event::upsert(namespace.into_model())
    });
    watches.add::<ServiceAccountObject, _>(
        Kind::ServiceAccount,
        namespaced_key(Key::ServiceAccount),
        |account| Event::upsert(account.into_model()),
    );
    watches.add::<PodObject, _>(Kind::Pod, namespaced_key(Key::Pod), |pod| {
        Event::upsert(pod.into_model())
    });
    watches.add::<KubePolicy, _>(
        Kind::KubeNetworkPolicy,
        namespaced_key(Key::KubeNetworkPolicy),
        Event::upsert,
    );
    watches.add::<api::IPPool, _>(Kind::IpPool, cluster_key(Key::IpPool), Event::upsert);
    watches.add::<api::IPAMBlock, _>(Kind::Block, cluster_key(Key::Block), Event::upsert);
    watches.add::<api::BlockAffinity, _>(Kind::Affinity, cluster_key(Key::Affinity), Event::upsert);
    watches.add::<api::IPAMConfiguration, _>(
        Kind::IpamConfiguration,
        cluster_key(Key::IpamConfiguration),
        Event::upsert,
    );
    watches.add::<Lenient<api::BGPConfiguration>, _>(
        Kind::BgpConfiguration,
        cluster_key(Key::BgpConfiguration),
        Told::leniently,
    );
    watches.add::<api::BGPPeer, _>(Kind::BgpPeer, cluster_key(Key::BgpPeer), Event::upsert);
    watches.add::<Lenient<api::FelixConfiguration>, _>(
        Kind::FelixConfiguration,
        cluster_key(Key::FelixConfiguration),
        Told::leniently,
    );
    watches.add::<api::Tier, _>(Kind::Tier, cluster_key(Key::Tier), Event::upsert);
    watches.add::<api::NetworkPolicy, _>(
        Kind::NetworkPolicy,
        namespaced_key(Key::NetworkPolicy),
        Event::upsert,
    );
    watches.add::<api::GlobalNetworkPolicy, _>(
        Kind::GlobalNetworkPolicy,
        cluster_key(Key::GlobalNetworkPolicy),
        Event::upsert,
    );
    watches.add::<api::NetworkSet, _>(
        Kind::NetworkSet,
        namespaced_key(Key::NetworkSet),
        |object| {
            let (set, bad) = model::NetworkSet::parse(&object);
            for problem in bad {
                tracing::warn!(set = %set.id, %problem, "network set is not whole");
            }
            Event::upsert(set)
        },
    );
    watches.add::<api::GlobalNetworkSet, _>(
        Kind::GlobalNetworkSet,
        cluster_key(Key::GlobalNetworkSet),
        |object| {
            let (set, bad) = model::GlobalNetworkSet::parse(&object);
            for problem in bad {
                tracing::warn!(set = %set.name, %problem, "network set is not whole");
            }
            Event::upsert(set)
        },
    );
    watches.add::<EndpointSliceObject, _>(
        Kind::EndpointSlice,
        namespaced_key(Key::EndpointSlice),
        |slice| Event::upsert(slice.into_model()),
    );
    tasks
}

fn cluster_key(
    make: fn(ObjectName) -> Key,
) -> impl Fn(Option<String>, String) -> Key + Copy + Send + Sync + 'static {
    move |_namespace, name| make(ObjectName::from(name))
}

fn namespaced_key(
    make: fn(NamespacedName) -> Key,
) -> impl Fn(Option<String>, String) -> Key + Copy + Send + Sync + 'static {
    move |namespace, name| make(NamespacedName::new(namespace.unwrap_or_default(), name))
}

struct Watches<'a> {
    client: &'a Client,
    heard: &'a mpsc::Sender<Heard>,
    freshness: &'a Arc<Freshness>,
    tasks: &'a mut JoinSet<()>,
}

impl Watches<'_> {
    fn add<K, T: Into<Told> + Send + 'static>(
        &mut self,
        kind: Kind,
        key: impl Fn(Option<String>, String) -> Key + Copy + Send + Sync + 'static,
        convert: impl Fn(K) -> T + Copy + Send + Sync + 'static,
    ) where
        K: Resource<DynamicType = ()> + DeserializeOwned + Clone + Debug + Send + 'static,
    {
        let api: Api<DeserializeGuard<K>> = Api::all(self.client.clone());
        let open = move || watch(api.clone(), Config::default()).default_backoff();
        let state = Follower {
            kind,
            key,
            convert,
            known: BTreeSet::new(),
            rejected: BTreeSet::new(),
            listed: BTreeSet::new(),
            heard: self.heard.clone(),
            freshness: Arc::clone(self.freshness),
        };
        self.tasks.spawn(state.run(open));
    }
}

/// Whether the server refused to begin a watch because it no longer knows the version. The watcher lists anew when it is told so
/// inside a stream, but repeats a refused beginning for ever with the same version.
fn is_too_old(error: &watcher::Error) -> bool {
    matches!(error, watcher::Error::WatchStartFailed(kube::Error::Api(status)) if status.code == 410)
}

struct Follower<KeyFn, Convert> {
    kind: Kind,
    key: KeyFn,
    convert: Convert,
    /// Keys told as existing.
    known: BTreeSet<Key>,
    /// Keys told as unreadable.
    rejected: BTreeSet<Key>,
    /// Keys seen in the list that is under way.
    listed: BTreeSet<Key>,
    heard: mpsc::Sender<Heard>,
    freshness: Arc<Freshness>,
}

/// The receiver is gone: the daemon is stopping.
struct Stopped;

impl<KeyFn, Convert> Follower<KeyFn, Convert>
where
    KeyFn: Fn(Option<String>, String) -> Key + Copy + Send + Sync + 'static,
{
    async fn run<K, T, S>(mut self, open: impl Fn() -> S + Send)
    where
        T: Into<Told> + Send,
        S: Stream<Item = watcher::Result<watcher::Event<DeserializeGuard<K>>>> + Send,
        K: Resource<DynamicType = ()> + DeserializeOwned + Clone + Debug + Send + 'static,
        Convert: Fn(K) -> T + Copy + Send + Sync + 'static,
    {
        let mut stream = std::pin::pin!(open());
        let mut pauses = DefaultBackoff::default();
        while let Some(item) = stream.next().await {
            let told = match item {
                Ok(event) => {
                    self.freshness
                        .mark(self.kind, false, crate::clock::unix_seconds());
                    self.take(event).await
                }
                Err(error) => {
                    if !self.freshness.broken(self.kind) {
                        tracing::warn!(kind = self.kind.as_str(), %error, "watch broken, resuming with back-off");
                    }
                    self.freshness.mark(self.kind, true, 0);
                    if is_too_old(&error) {
                        tokio::time::sleep(pauses.next().unwrap_or(PAUSE)).await;
                        stream.set(open());
                    }
                    Ok(())
                }
            };
            if told.is_err() {
                return;
            }
        }
    }

    async fn take<K, T: Into<Told> + Send>(
        &mut self,
        event: watcher::Event<DeserializeGuard<K>>,
    ) -> Result<(), Stopped>
    where
        K: Resource<DynamicType = ()> + DeserializeOwned + Clone + Debug + Send + 'static,
        Convert: Fn(K) -> T + Copy + Send + Sync + 'static,
    {
        match event {
            watcher::Event::Apply(object) => self.upsert(object).await,
            watcher::Event::InitApply(object) => {
                self.listed.insert(self.key_of(&object));
                self.upsert(object).await
            }
            watcher::Event::Delete(object) => {
                let key = self.key_of(&object);
                self.absolve(&key).await?;
                self.forget(key).await
            }
            watcher::Event::Init => {
                self.listed.clear();
                Ok(())
            }
            watcher::Event::InitDone => self.listed().await,
        }
    }

    /// A list is complete: whatever was known and is not in it is gone.
    async fn listed(&mut self) -> Result<(), Stopped> {
        let listed = std::mem::take(&mut self.listed);
        let vanished: BTreeSet<Key> = self
            .known
            .union(&self.rejected)
            .filter(|key| !listed.contains(key))
            .cloned()
            .collect();
        for key in vanished {
            self.absolve(&key).await?;
            self.forget(key).await?;
        }
        tracing::debug!(
            kind = self.kind.as_str(),
            objects = self.known.len(),
            "listed"
        );
        self.tell(Heard::Event(Event::Synced(self.kind))).await
    }

    async fn upsert<K, T: Into<Told> + Send>(
        &mut self,
        object: DeserializeGuard<K>,
    ) -> Result<(), Stopped>
    where
        K: Resource<DynamicType = ()> + DeserializeOwned + Clone + Debug + Send + 'static,
        Convert: Fn(K) -> T + Copy + Send + Sync + 'static,
    {
        let key = self.key_of(&object);
        match object.0 {
            Ok(object) => {
                let Told { event, complaint } = (self.convert)(object).into();
                match complaint {
                    None => self.absolve(&key).await?,
                    Some(reason) => {
                        tracing::warn!(kind = self.kind.as_str(), ?key, %reason, "settings cannot be used; the next values in precedence hold");
                        self.accuse(key.clone(), reason).await?;
                    }
                }
                self.known.insert(key);
                self.tell(Heard::Event(event)).await
            }
            Err(invalid) => {
                tracing::warn!(kind = self.kind.as_str(), ?key, error = %invalid.error, "object cannot be read; it counts as absent");
                self.accuse(key.clone(), invalid.error.clone()).await?;
                self.forget(key).await
            }
        }
    }

    async fn accuse(&mut self, key: Key, reason: String) -> Result<(), Stopped> {
        self.rejected.insert(key.clone());
        self.tell(Heard::Rejected(Rejected { key, reason })).await
    }

    /// An object that could not be read can be again, or is gone.
    async fn absolve(&mut self, key: &Key) -> Result<(), Stopped> {
        if !self.rejected.remove(key) {
            return Ok(());
        }
        let (key, reason) = (key.clone(), String::new());
        self.tell(Heard::Rejected(Rejected { key, reason })).await
    }

    async fn forget(&mut self, key: Key) -> Result<(), Stopped> {
        self.known.remove(&key);
        self.tell(Heard::Event(Event::Delete(key))).await
    }

    fn key_of<K>(&self, object: &DeserializeGuard<K>) -> Key
    where
        K: Resource<DynamicType = ()> + Clone + Debug,
    {
        (self.key)(object.namespace(), object.name_any())
    }

    async fn tell(&self, heard: Heard) -> Result<(), Stopped> {
        self.heard.send(heard).await.map_err(|_closed| Stopped)
    }
}

#[cfg(test)]
mod tests;
