//! What the leader hears of the cluster: one watch per kind, turned into small changes at once.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::sync::Arc;

use ::ipam::affinity::Affinity;
use ::ipam::block::Block;
use ::ipam::codec;
use ::ipam::collector::PodSeen;
use ::ipam::handle::Handle;
use ::ipam::store::Stored;
use futures::StreamExt;
use ipnet::IpNet;
use k8s_openapi::api::coordination::v1::Lease;
use kube::core::DeserializeGuard;
use kube::runtime::watcher::{Config, Event};
use kube::runtime::{WatchStreamExt, watcher as watch};
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::kube::objects::{NodeObject, PodObject};
use crate::kube::report::{self, Report, Veto};

/// Changes that may wait; a burst at start is one per object.
pub(super) const CHANGES: usize = 1024;

/// Kinds the leader must have listed before it decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Node,
    Pod,
    Block,
    Affinity,
    Handle,
    Lease,
    Pool,
    Configuration,
}

impl Kind {
    pub(super) const ALL: [Self; 8] = [
        Self::Node,
        Self::Pod,
        Self::Block,
        Self::Affinity,
        Self::Handle,
        Self::Lease,
        Self::Pool,
        Self::Configuration,
    ];
}

/// Namespace (empty for cluster-wide kinds) and name.
pub(super) type Id = (Arc<str>, Arc<str>);

/// The Lease of a node's daemon.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct LeaseSeen {
    /// `renewTime` as it stands there.
    pub(super) stamp: Arc<str>,
    /// What the node reports.
    pub(super) report: Report,
    /// What it answered.
    pub(super) veto: Option<Veto>,
}

/// A block as it could be read: one that cannot is named.
pub(super) type BlockSeen = Result<Stored<Block>, (IpNet, String)>;

/// One change; `None` = the object is gone.
#[derive(Clone, Debug)]
pub(super) enum Change {
    Node(Id, bool),
    Pod(Id, Option<PodSeen>),
    Block(Id, Option<Box<BlockSeen>>),
    Affinity(Id, Option<Stored<Affinity>>),
    Handle(Id, Option<Stored<Handle>>),
    Lease(Id, Option<LeaseSeen>),
    Pool(Id, Option<Box<api::IPPool>>),
    Configuration(Id, Option<Box<api::IPAMConfiguration>>),
    /// Every object of the kind has been told.
    Listed(Kind),
}

/// Starts the watches; they end with the set or with the receiver.
pub(super) fn follow(client: &Client, namespace: &str, out: &mpsc::Sender<Change>) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    let leases: Api<DeserializeGuard<Lease>> = Api::namespaced(client.clone(), namespace);
    tasks.spawn(run(leases, Kind::Lease, out.clone(), |id, lease| {
        let lease = lease.filter(|lease| is_nodes(lease, &id.1));
        Change::Lease(id, lease.map(|lease| lease_seen(&lease)))
    }));
    let nodes = |id, node: Option<NodeObject>| Change::Node(id, node.is_some());
    tasks.spawn(run(
        Api::all(client.clone()),
        Kind::Node,
        out.clone(),
        nodes,
    ));
    let pods = |id, pod: Option<PodObject>| Change::Pod(id, pod.map(pod_seen));
    tasks.spawn(run(Api::all(client.clone()), Kind::Pod, out.clone(), pods));
    tasks.spawn(run(
        Api::all(client.clone()),
        Kind::Block,
        out.clone(),
        |id, block| Change::Block(id, block.as_ref().and_then(block_seen)),
    ));
    tasks.spawn(run(
        Api::all(client.clone()),
        Kind::Affinity,
        out.clone(),
        |id, affinity: Option<api::BlockAffinity>| {
            let parsed = affinity.and_then(|affinity| codec::parse_affinity(&affinity).ok());
            Change::Affinity(id, parsed)
        },
    ));
    tasks.spawn(run(
        Api::all(client.clone()),
        Kind::Handle,
        out.clone(),
        |id, handle: Option<api::IPAMHandle>| {
            Change::Handle(id, handle.map(|handle| codec::parse_handle(&handle)))
        },
    ));
    tasks.spawn(run(
        Api::all(client.clone()),
        Kind::Pool,
        out.clone(),
        |id, pool| Change::Pool(id, pool.map(Box::new)),
    ));
    tasks.spawn(run(
        Api::all(client.clone()),
        Kind::Configuration,
        out.clone(),
        |id, configuration| Change::Configuration(id, configuration.map(Box::new)),
    ));
    tasks
}

/// A node's daemon holds the Lease of its name; whatever else lives in this namespace elects by names of its own.
fn is_nodes(lease: &Lease, name: &str) -> bool {
    let spec = lease.spec.as_ref();
    spec.and_then(|spec| spec.holder_identity.as_deref()) == Some(name)
}

fn lease_seen(lease: &Lease) -> LeaseSeen {
    let annotations = lease.metadata.annotations.clone().unwrap_or_default();
    LeaseSeen {
        stamp: stamp(lease),
        report: Report::parse(&annotations),
        veto: report::read(&annotations, report::VETO),
    }
}

/// When a Lease was renewed, in its own words: compared, never read as a time.
pub(super) fn stamp(lease: &Lease) -> Arc<str> {
    let renewed = lease
        .spec
        .as_ref()
        .and_then(|spec| spec.renew_time.as_ref());
    renewed
        .map(|time| time.0.to_string())
        .unwrap_or_default()
        .into()
}

fn pod_seen(pod: PodObject) -> PodSeen {
    let pod = pod.into_model();
    PodSeen {
        node: pod.node.map(|node| Arc::from(node.as_str())),
        addresses: pod.ips,
        finished: pod.finished,
        host_network: pod.host_network,
    }
}

fn block_seen(block: &api::IPAMBlock) -> Option<Box<BlockSeen>> {
    let seen = match codec::parse_block(block) {
        Ok(stored) => Ok(stored),
        Err(why) => Err((block.spec.cidr.parse().ok()?, why.to_string())),
    };
    Some(Box::new(seen))
}

/// Follows one kind. An object that does not deserialise counts as absent; a new list tells what vanished meanwhile.
async fn run<K>(
    api: Api<DeserializeGuard<K>>,
    kind: Kind,
    out: mpsc::Sender<Change>,
    convert: impl Fn(Id, Option<K>) -> Change + Send,
) where
    K: Resource<DynamicType = ()> + DeserializeOwned + Clone + Debug + Send + 'static,
{
    let mut stream = watch(api, Config::default()).default_backoff().boxed();
    let mut known: BTreeSet<Id> = BTreeSet::new();
    let mut listed: BTreeSet<Id> = BTreeSet::new();
    while let Some(item) = stream.next().await {
        let changes = match item {
            Err(error) => {
                tracing::debug!(?kind, %error, "watch broken, resuming with back-off");
                continue;
            }
            Ok(Event::Init) => {
                listed.clear();
                continue;
            }
            Ok(event @ (Event::Apply(_) | Event::InitApply(_) | Event::Delete(_))) => {
                let Some((id, object, exists)) = unpack(event, kind) else {
                    continue;
                };
                if exists {
                    known.insert(id.clone());
                    listed.insert(id.clone());
                } else {
                    known.remove(&id);
                }
                vec![convert(id, object)]
            }
            Ok(Event::InitDone) => {
                let vanished: Vec<Id> = known.difference(&listed).cloned().collect();
                known.retain(|id| listed.contains(id));
                let gone = vanished.into_iter().map(|id| convert(id, None));
                gone.chain([Change::Listed(kind)]).collect()
            }
        };
        for change in changes {
            if out.send(change).await.is_err() {
                return;
            }
        }
    }
}

/// An event's object, absent when it is gone or cannot be read, and whether something of that name exists.
fn unpack<K>(event: Event<DeserializeGuard<K>>, kind: Kind) -> Option<(Id, Option<K>, bool)>
where
    K: Resource<DynamicType = ()> + Clone + Debug,
{
    let id = |object: &DeserializeGuard<K>| -> Id {
        let namespace = object.namespace().unwrap_or_default();
        (namespace.into(), object.name_any().into())
    };
    match event {
        Event::Apply(object) | Event::InitApply(object) => {
            let id = id(&object);
            if let Err(invalid) = &object.0 {
                tracing::warn!(?kind, name = %id.1, error = %invalid.error, "object cannot be read; it counts as absent");
            }
            Some((id, object.0.ok(), true))
        }
        Event::Delete(object) => Some((id(&object), None, false)),
        Event::Init | Event::InitDone => None,
    }
}
