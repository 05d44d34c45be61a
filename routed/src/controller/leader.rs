//! The task of the replica that acts, as far as addresses go: frees what nobody holds, takes apart what dead nodes left, leads pools
//! from their first block to their last, and puts the nodes' reports together.
//!
//! ```text
//!  watches (8) ──Change 1024──► Leader ──► ipam::Collector ──► questions (Leases), errands (GET, GET, PUT)
//!                                 ├──► PoolFacts ─┐
//!                                 └──► Fleet ─────┴─► status task
//! ```
//!
//! Decisions are `ipam::collector`'s; here they are carried out. Marks live in memory alone: another leader starts over.

mod carry;
mod pools;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ::ipam::Config;
use ::ipam::Time;
use ::ipam::collector::{Collector, NodeState, Settings, Sign, View};
use ::ipam::pool::Allocatable;
use ipnet::IpNet;
use kube::Client;
use tokio::sync::{mpsc, watch};

use super::feed::{self, Change, Kind, LeaseSeen};
use super::fleet::Fleet;
use crate::kube::report::Report;
use carry::Carrier;
use pools::PoolKeeper;

/// How often it is looked.
const TICK: Duration = Duration::from_secs(1);
/// Changes taken in at once.
const BULK: usize = 1024;
/// How often reports and pools are told, at most: counting walks over every block.
const TELL: Duration = Duration::from_secs(2);

/// Pool → whether it gives out addresses, with numbers.
pub(super) type PoolFacts = BTreeMap<String, Allocatable>;

/// What the status task reads.
#[derive(Clone, Debug)]
pub(super) struct Told {
    pub(super) pools: watch::Receiver<Arc<PoolFacts>>,
    pub(super) fleet: watch::Receiver<Arc<Fleet>>,
}

/// Where the leader tells it.
#[derive(Debug)]
pub(super) struct Telling {
    pools: watch::Sender<Arc<PoolFacts>>,
    fleet: watch::Sender<Arc<Fleet>>,
}

/// The channels between leader and status task.
pub(super) fn channels() -> (Telling, Told) {
    let (pools, pools_seen) = watch::channel(Arc::default());
    let (fleet, fleet_seen) = watch::channel(Arc::default());
    let told = Told {
        pools: pools_seen,
        fleet: fleet_seen,
    };
    (Telling { pools, fleet }, told)
}

/// Leads until dropped.
pub(super) async fn lead(client: Client, namespace: String, telling: Telling) {
    let (out, mut changes) = mpsc::channel(feed::CHANGES);
    let _watches = feed::follow(&client, &namespace, &out);
    drop(out);
    let mut leader = Leader::new(client, &namespace, telling);
    let mut taken = Vec::with_capacity(BULK);
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            count = changes.recv_many(&mut taken, BULK) => if count == 0 { return },
            _ = tick.tick() => leader.act().await,
        }
        for change in taken.drain(..) {
            leader.take(change);
        }
    }
}

/// A clock that never jumps: how long something stood still is measured by it.
#[derive(Clone, Copy, Debug)]
struct Steady {
    base: u64,
    start: Instant,
}

impl Steady {
    fn new() -> Self {
        Self {
            base: crate::clock::unix_nanos(),
            start: crate::clock::now(),
        }
    }

    fn now(self) -> Time {
        let gone = crate::clock::now().saturating_duration_since(self.start);
        Time::from_nanos(self.base).plus(gone)
    }
}

struct Leader {
    carrier: Carrier,
    clock: Steady,
    view: View,
    /// Block and affinity objects by name: what a deletion bears.
    blocks: BTreeMap<Arc<str>, IpNet>,
    affinities: BTreeMap<Arc<str>, (Arc<str>, IpNet)>,
    reports: BTreeMap<Arc<str>, Arc<Report>>,
    listed: BTreeSet<Kind>,
    collector: Collector,
    pools: PoolKeeper,
    held: Option<&'static str>,
    telling: Telling,
    last_told: Option<Instant>,
}

impl Leader {
    fn new(client: Client, namespace: &str, telling: Telling) -> Self {
        Self {
            carrier: Carrier::new(client.clone(), namespace),
            clock: Steady::new(),
            view: View::default(),
            blocks: BTreeMap::new(),
            affinities: BTreeMap::new(),
            reports: BTreeMap::new(),
            listed: BTreeSet::new(),
            collector: Collector::new(Settings::default()),
            pools: PoolKeeper::new(client),
            held: None,
            telling,
            last_told: None,
        }
    }

    fn take(&mut self, change: Change) {
        match change {
            Change::Node((_, name), true) => {
                self.view.nodes.insert(name);
            }
            Change::Node((_, name), false) => {
                self.view.nodes.remove(&name);
            }
            Change::Pod(id, Some(pod)) => {
                self.view.pods.insert(id, pod);
            }
            Change::Pod(id, None) => {
                self.view.pods.remove(&id);
            }
            Change::Block((_, name), block) => self.take_block(name, block.map(|block| *block)),
            Change::Affinity((_, name), Some(stored)) => {
                let key = (Arc::clone(&stored.value.node), stored.value.cidr);
                self.affinities.insert(name, key.clone());
                self.view.affinities.insert(key, stored);
            }
            Change::Affinity((_, name), None) => {
                if let Some(key) = self.affinities.remove(&name) {
                    self.view.affinities.remove(&key);
                }
            }
            Change::Handle((_, name), Some(stored)) => {
                self.view.handles.insert(name, stored);
            }
            Change::Handle((_, name), None) => {
                self.view.handles.remove(&name);
            }
            Change::Lease((_, name), lease) => self.take_lease(name, lease),
            Change::Pool((_, name), pool) => self.pools.take(&name, pool.map(|pool| *pool)),
            Change::Configuration((_, name), configuration) if *name == *"default" => {
                let config = Config::parse(configuration.as_ref().map(|object| &object.spec));
                self.collector.settings_mut().cooldown = config.cooldown;
            }
            Change::Configuration(..) => {}
            Change::Listed(kind) => {
                self.listed.insert(kind);
                self.view.whole = Kind::ALL.iter().all(|kind| self.listed.contains(kind));
            }
        }
    }

    fn take_block(&mut self, name: Arc<str>, block: Option<feed::BlockSeen>) {
        if let Some(cidr) = self.blocks.remove(&name) {
            self.view.blocks.remove(&cidr);
            self.view.broken.remove(&cidr);
        }
        match block {
            Some(Ok(stored)) => {
                self.blocks.insert(name, stored.value.cidr());
                self.view.blocks.insert(stored.value.cidr(), stored);
            }
            Some(Err((cidr, why))) => {
                self.blocks.insert(name, cidr);
                self.view.broken.insert(cidr, why);
            }
            None => {}
        }
    }

    fn take_lease(&mut self, name: Arc<str>, lease: Option<LeaseSeen>) {
        let Some(lease) = lease else {
            self.view.signs.remove(&name);
            self.reports.remove(&name);
            return;
        };
        let now = self.clock.now();
        let known = self.view.signs.get(&name);
        if known.is_none_or(|sign| sign.stamp != lease.stamp) {
            let sign = Sign {
                heard: now,
                stamp: lease.stamp,
            };
            self.view.signs.insert(Arc::clone(&name), sign);
        }
        if let Some(veto) = lease.veto {
            self.collector.answered(&name, veto.id, &veto.mine, now);
        }
        if self.reports.get(&name).map(AsRef::as_ref) != Some(&lease.report) {
            self.reports.insert(name, Arc::new(lease.report));
        }
    }

    /// One look: decides, and carries out.
    async fn act(&mut self) {
        let now = self.clock.now();
        let orders = self.collector.look(&self.view, now);
        if orders.held != self.held {
            if let Some(why) = orders.held.filter(|_| self.held.is_none()) {
                tracing::info!(why, "nothing is freed for now");
            }
            self.held = orders.held;
        }
        let errands = self.collector.errands(&orders, &self.view);
        self.carrier.ask(&orders.ask).await;
        self.carrier.run(errands).await;
        for node in &orders.forget {
            let stamp = self
                .view
                .signs
                .get(node)
                .map(|sign| Arc::clone(&sign.stamp));
            self.carrier.forget(node, stamp).await;
        }
        if self.view.whole {
            self.pools.keep(&self.view).await;
            self.tell(now);
        }
    }

    fn tell(&mut self, now: Time) {
        let at = crate::clock::now();
        if self
            .last_told
            .is_some_and(|last| at.saturating_duration_since(last) < TELL)
        {
            return;
        }
        self.last_told = Some(at);
        let (mut alive, mut silent) = (BTreeMap::new(), BTreeSet::new());
        for node in &self.view.nodes {
            match (
                self.collector.state(&self.view, node, now),
                self.reports.get(node),
            ) {
                (NodeState::Alive | NodeState::DeletedAlive, Some(report)) => {
                    alive.insert(Arc::clone(node), Arc::clone(report));
                }
                (_, Some(_)) => {
                    silent.insert(Arc::clone(node));
                }
                // A node without a daemon of ours, a Calico node perhaps.
                (_, None) => {}
            }
        }
        let fleet = Fleet::new(alive, silent);
        self.telling
            .fleet
            .send_if_modified(|told| replace(told, fleet));
        let facts = self.pools.facts(&self.view);
        self.telling
            .pools
            .send_if_modified(|told| replace(told, facts));
    }
}

fn replace<T: PartialEq>(told: &mut Arc<T>, new: T) -> bool {
    let changed = **told != new;
    if changed {
        *told = Arc::new(new);
    }
    changed
}
