//! The engine behind the front.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use ipnet::IpNet;

use super::plan::{self, Refreshable};
use super::{
    Desired, Drain, Explanation, FibConsumer, FibUpdate, Input, NextHopFacts, OriginateDiff, Origination, Output,
    PeerTable, Plan, RouteQuery, RouteRow, Settings,
};
use crate::session::ConnId;

/// A BGP speaker.
#[derive(Debug)]
pub struct Speaker {
    settings: Settings,
    seed: u64,
    desired: Option<Desired>,
    originated: BTreeMap<(IpNet, Arc<str>), Origination>,
    outputs: VecDeque<Output>,
}

impl Speaker {
    /// A speaker without peers. `seed` feeds jitter and hashes; take it from the system's randomness.
    pub fn new(settings: Settings, seed: u64) -> Self {
        Self { settings, seed, desired: None, originated: BTreeMap::new(), outputs: VecDeque::new() }
    }

    /// Says what [`Speaker::reconcile`] would do.
    pub fn plan(&self, desired: &Desired) -> Plan {
        plan::compare(self.desired.as_ref(), desired, |_| Refreshable::NotEstablished)
    }

    /// Makes `desired` the configuration and acts on the difference.
    pub fn reconcile(&mut self, desired: Desired, now: Instant) -> Plan {
        let plan = self.plan(&desired);
        let _ = now;
        self.desired = Some(desired);
        plan
    }

    /// Changes the set of originated routes.
    pub fn originate(&mut self, diff: OriginateDiff) {
        for (owner, prefix) in diff.remove {
            self.originated.remove(&(prefix.trunc(), owner));
        }
        for route in diff.add {
            self.originated.insert((route.prefix.trunc(), Arc::clone(&route.owner)), route);
        }
    }

    /// Takes in what became known about next hops.
    pub fn next_hops(&mut self, facts: &NextHopFacts) {
        let _ = facts;
    }

    /// Decides about an incoming connection: its name when a peer waits for it, else `None` (close it).
    pub fn accept(&mut self, local: SocketAddr, remote: SocketAddr, now: Instant) -> Option<ConnId> {
        let _ = (local, remote, now);
        None
    }

    /// Takes in what happened.
    pub fn handle(&mut self, input: Input, now: Instant) {
        let _ = (input, now, self.seed, &self.settings);
    }

    /// The next thing to do, until `None`.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When [`Input::Tick`] is due at the latest.
    pub fn next_deadline(&self) -> Option<Instant> {
        None
    }

    /// Begins to leave; outputs follow. No session is opened afterwards.
    pub fn drain(&mut self, drain: &Drain, now: Instant) {
        let _ = (drain, now);
    }

    /// Adds a reader of best routes; it starts with everything known.
    pub fn fib_subscribe(&mut self) -> FibConsumer {
        FibConsumer(0)
    }

    /// The next batch of a reader, of at most `limit` prefixes; `None` when it is up to date.
    pub fn fib_poll(&mut self, consumer: FibConsumer, limit: usize) -> Option<FibUpdate> {
        let _ = (consumer, limit);
        None
    }

    /// Why a prefix is used or not, and what every peer is told.
    pub fn explain(&self, prefix: IpNet) -> Explanation {
        Explanation { prefix, paths: Vec::new(), exports: Vec::new() }
    }

    /// Routes in order of prefix.
    pub fn routes(&self, query: &RouteQuery) -> Vec<RouteRow> {
        let _ = query;
        Vec::new()
    }

    /// All peers.
    pub fn peers(&self, now: Instant) -> PeerTable {
        PeerTable { at: now, peers: BTreeMap::new(), deferring: crate::FamilySet::EMPTY, counters: super::Counters::default() }
    }
}
