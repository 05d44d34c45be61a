//! The engine behind the front: owns sessions, table, groups and readers, and moves what one says to the others.
//!
//! ```text
//!   Input ─► Session ─► Outbox ─► receive: import rules ─► Rib ─► change log ─┬─► groups: flush ─► Session::send
//!                          │                                                  └─► readers: fib_poll
//!                          └─► Output
//! ```

mod apply;
mod export;
mod fib;
mod peer;
mod receive;
mod restart;
mod view;

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use foldhash::fast::FixedState;
use hashbrown::HashMap;
use ipnet::IpNet;

use self::fib::Reader;
use self::peer::PeerSlot;
use self::restart::Deferral;
use super::plan::{self, Refreshable};
use super::{
    Desired, Drain, Event, Input, NextHopFacts, OriginateDiff, Origination, Output, PeerKey, Plan,
    Settings, Ttl,
};
use crate::attr::AttrSet;
use crate::filter::{Compiled, Filter};
use crate::out::{Group, Locals, own_next_hop};
use crate::rib::{Path, PeerId, Rib, Rules, Source};
use crate::session::{self, ConnId, Outbox, Stop};
use crate::wire::{Notification, cease};
use crate::{Asn, FamilyMap};

/// From the first change to the flush: what comes within is told together.
const FLUSH_AFTER: Duration = Duration::from_millis(2);

/// A BGP speaker.
#[derive(Debug)]
pub struct Speaker {
    settings: Settings,
    seed: u64,
    desired: Option<Desired>,
    /// Compiled filters by content; the index is their name in group keys. A vacant place is used again.
    filters: Vec<Option<Arc<Compiled>>>,
    rib: Rib,
    originated: BTreeMap<(IpNet, Arc<str>), Origination>,
    locals: Locals,
    /// By [`PeerId`]; 0 is this speaker and stays empty.
    slots: Vec<Option<PeerSlot>>,
    keys: BTreeMap<PeerKey, PeerId>,
    conns: HashMap<ConnId, PeerId, FixedState>,
    groups: BTreeMap<usize, Group>,
    readers: Vec<Reader>,
    deferral: FamilyMap<Option<Deferral>>,
    /// When waiting for silent peers was last thought over.
    deferral_checked: Option<Instant>,
    outbox: Outbox,
    outputs: VecDeque<Output>,
    flush_at: Option<Instant>,
    /// For octets sent outside of a session's own input: holds nothing between calls.
    sends: Outbox,
    leaving: bool,
    unknown_peers: u64,
}

impl Speaker {
    /// A speaker without peers. `seed` feeds jitter and hashes; take it from the system's randomness.
    pub fn new(settings: Settings, seed: u64) -> Self {
        let rules = Rules {
            multipath: 16,
            relax: true,
            always_compare_med: false,
        };
        Self {
            settings,
            seed,
            desired: None,
            filters: Vec::new(),
            rib: Rib::new(rules, local_source(Asn(0), Ipv4Addr::UNSPECIFIED), seed),
            originated: BTreeMap::new(),
            locals: Locals::new(),
            slots: vec![None],
            keys: BTreeMap::new(),
            conns: HashMap::with_hasher(FixedState::with_seed(seed)),
            groups: BTreeMap::new(),
            readers: Vec::new(),
            deferral: FamilyMap::default(),
            deferral_checked: None,
            outbox: Outbox::default(),
            outputs: VecDeque::new(),
            flush_at: None,
            sends: Outbox::default(),
            leaving: false,
            unknown_peers: 0,
        }
    }

    /// Says what [`Speaker::reconcile`] would do.
    pub fn plan(&self, desired: &Desired) -> Plan {
        plan::compare(self.desired.as_ref(), desired, |key| self.refreshable(key))
    }

    /// Makes `desired` the configuration and acts on the difference.
    pub fn reconcile(&mut self, desired: Desired, now: Instant) -> Plan {
        let plan = self.plan(&desired);
        self.apply(&plan, desired, now);
        self.process(now);
        plan
    }

    /// Changes the set of originated routes.
    pub fn originate(&mut self, diff: OriginateDiff, now: Instant) {
        let mut touched: Vec<IpNet> = Vec::new();
        for (owner, prefix) in diff.remove {
            self.originated.remove(&(prefix.trunc(), owner));
            touched.push(prefix.trunc());
        }
        for mut route in diff.add {
            route.prefix = route.prefix.trunc();
            touched.push(route.prefix);
            self.originated
                .insert((route.prefix, Arc::clone(&route.owner)), route);
        }
        touched.sort_unstable();
        touched.dedup();
        for prefix in &touched {
            self.originate_one(prefix);
        }
        self.changed(now);
    }

    /// Takes in what became known about next hops.
    pub fn next_hops(&mut self, facts: &NextHopFacts, now: Instant) {
        for (address, resolution) in &facts.changed {
            self.rib.learn_next_hop(*address, *resolution);
        }
        self.changed(now);
    }

    /// Decides about an incoming connection: its name and TTL handling when a peer waits for it, else `None` (close it).
    pub fn accept(
        &mut self,
        local: SocketAddr,
        remote: SocketAddr,
        now: Instant,
    ) -> Option<(ConnId, Ttl)> {
        let key = PeerKey::Addr(remote.ip().to_canonical());
        let Some(peer) = self.keys.get(&key).copied().filter(|_| !self.leaving) else {
            self.unknown_peers += 1;
            return None;
        };
        let ttl = self.slot(peer)?.session.config().ttl;
        let conn = self.outbox.conn();
        self.conns.insert(conn, peer);
        self.drive(peer, session::Input::Accepted(conn, local, remote), now);
        self.process(now);
        Some((conn, ttl))
    }

    /// Takes in what happened.
    pub fn handle(&mut self, input: Input, now: Instant) {
        match input {
            Input::Connected {
                conn,
                local,
                remote,
            } => {
                self.drive_conn(conn, session::Input::Connected(conn, local, remote), now);
            }
            Input::ConnectFailed { conn, error } => {
                self.drive_conn(conn, session::Input::ConnectFailed(conn, error), now);
            }
            Input::Received { conn, octets } => {
                self.drive_conn(conn, session::Input::Received(conn, &octets), now);
            }
            Input::Sent { conn, octets } => {
                self.drive_conn(conn, session::Input::Sent(conn, octets), now);
            }
            Input::Closed { conn, error } => {
                self.drive_conn(conn, session::Input::Closed(conn, error), now);
            }
            Input::Tick => self.tick(now),
        }
        self.process(now);
    }

    /// The next thing to do, until `None`.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When [`Input::Tick`] is due at the latest.
    pub fn next_deadline(&self) -> Option<Instant> {
        let sessions = self.peers_in_use().filter_map(|(_, slot)| slot.deadline());
        sessions
            .chain(self.flush_at)
            .chain(self.deferral_deadline())
            .min()
    }

    /// Begins to leave; outputs follow. No session is opened afterwards.
    pub fn drain(&mut self, drain: &Drain, now: Instant) {
        self.leaving = true;
        for peer in self.peer_ids() {
            let stop = match drain {
                Drain::Restart => Stop::Silently,
                Drain::Shutdown { text } => Stop::Notify(self.hard(
                    peer,
                    Notification::cease_with_text(cease::ADMIN_SHUTDOWN, text),
                )),
            };
            self.drive(peer, session::Input::Stop(stop), now);
        }
        self.process(now);
    }

    /// Puts the state of one originated prefix into the table.
    fn originate_one(&mut self, prefix: &IpNet) {
        let from = (*prefix, Arc::from(""));
        let winner = self
            .originated
            .range(from..)
            .next()
            .filter(|((found, _), _)| found == prefix);
        let Some((_, route)) = winner else {
            self.locals.remove(prefix);
            self.rib.withdraw(prefix, PeerId::LOCAL);
            return;
        };
        let set = AttrSet::from_attributes(&route.attributes.attributes());
        let next_hop = route
            .attributes
            .next_hop
            .unwrap_or_else(|| own_next_hop(prefix));
        self.locals.insert(*prefix, Arc::clone(&route.owner));
        let attributes = self.rib.attributes.intern(set.octets());
        let next_hop = self.rib.next_hops.id(next_hop);
        let path = Path {
            peer: PeerId::LOCAL,
            attributes,
            next_hop,
            priority: None,
            stale: false,
        };
        self.rib.announce(*prefix, path);
        self.rib.attributes.release(attributes);
    }

    /// Something changed that groups or readers want to know.
    fn changed(&mut self, now: Instant) {
        self.flush_at.get_or_insert(now + FLUSH_AFTER);
    }

    fn tick(&mut self, now: Instant) {
        for peer in self.peer_ids() {
            let due = self
                .slot(peer)
                .and_then(|slot| slot.session.next_deadline())
                .is_some_and(|at| at <= now);
            if due {
                self.drive(peer, session::Input::Tick, now);
            }
            self.sweep_expired(peer, now);
        }
        self.check_deferral(now);
    }

    /// Tells peers what changed when it is time.
    fn process(&mut self, now: Instant) {
        if self.flush_at.is_some_and(|at| at <= now) {
            self.flush_at = None;
            self.flush(now);
        }
    }

    fn drive_conn(&mut self, conn: ConnId, input: session::Input<'_>, now: Instant) {
        if let Some(peer) = self.conns.get(&conn).copied() {
            self.drive(peer, input, now);
        }
    }

    /// Hands an input to a session. A panic in its code ends that session and no other.
    fn drive(&mut self, peer: PeerId, input: session::Input<'_>, now: Instant) {
        let Some(slot) = self.slots.get_mut(peer.0 as usize).and_then(Option::as_mut) else {
            return;
        };
        let (session, outbox) = (&mut slot.session, &mut self.outbox);
        let waiting = outbox.actions.len();
        let result = catch_unwind(AssertUnwindSafe(|| session.handle(input, now, outbox)));
        if result.is_err() {
            self.outbox.actions.truncate(waiting);
            self.quarantine(peer, now);
        }
        self.receive_from(peer, now);
    }

    /// Replaces a session whose code panicked: what it held is not to be trusted.
    fn quarantine(&mut self, peer: PeerId, now: Instant) {
        let Some(slot) = self.slots.get_mut(peer.0 as usize).and_then(Option::as_mut) else {
            return;
        };
        let established = slot.session.established().is_some();
        let generation = slot.session.generation();
        let conns: Vec<ConnId> = slot.session.connections().collect();
        let cease = Notification::cease(cease::OUT_OF_RESOURCES);
        slot.counters.panics += 1;
        slot.session = session::Session::new(
            slot.session.config().clone(),
            self.seed ^ u64::from(peer.0),
            now,
        );
        let event = Event::SessionPanicked {
            peer: slot.key.clone(),
        };
        for conn in conns {
            let octets = crate::wire::message::notification(&cease).into();
            self.outbox.push(session::Action::Send(conn, octets));
            self.outbox.push(session::Action::Close(conn));
        }
        if established {
            let reason = session::DownReason::Sent(cease);
            self.outbox.push(session::Action::Down(
                generation,
                reason,
                crate::FamilySet::EMPTY,
            ));
        }
        self.outputs.push_back(Output::Event(event));
        let time = Duration::from_secs(5);
        if let Some(slot) = self.slot_mut(peer) {
            slot.session.rest(now + time);
        }
    }

    /// Sends whole messages to an Established peer, behind what is queued.
    fn send(&mut self, peer: PeerId, octets: Bytes, now: Instant) {
        let Some(slot) = self.slots.get_mut(peer.0 as usize).and_then(Option::as_mut) else {
            return;
        };
        slot.session.send(octets, now, &mut self.sends);
        while let Some(action) = self.sends.actions.pop_front() {
            if let session::Action::Send(conn, octets) = action {
                self.outputs.push_back(Output::Send { conn, octets });
            }
        }
    }

    /// The compiled form of a filter and its name; equal filters share both.
    fn compile(&mut self, filter: &Arc<Filter>) -> (u32, Arc<Compiled>) {
        let same =
            |known: &Arc<Compiled>| Arc::ptr_eq(known.source(), filter) || known.source() == filter;
        let known = self
            .filters
            .iter()
            .position(|slot| slot.as_ref().is_some_and(same));
        let vacant = || self.filters.iter().position(Option::is_none);
        let index = known.or_else(vacant).unwrap_or(self.filters.len());
        if index == self.filters.len() {
            self.filters.push(None);
        }
        let compiled = match self.filters.get_mut(index) {
            Some(slot) => slot.get_or_insert_with(|| Arc::new(Compiled::compile(filter))),
            None => return (u32::MAX, Arc::new(Compiled::compile(filter))),
        };
        (
            u32::try_from(index).unwrap_or(u32::MAX),
            Arc::clone(compiled),
        )
    }

    fn refreshable(&self, key: &PeerKey) -> Refreshable {
        let slot = self.keys.get(key).and_then(|peer| self.slot(*peer));
        match slot.and_then(|slot| slot.session.established()) {
            None => Refreshable::NotEstablished,
            Some(agreed) if agreed.route_refresh => Refreshable::ByRefresh,
            Some(_) => Refreshable::OnlyByRestart,
        }
    }

    fn slot(&self, peer: PeerId) -> Option<&PeerSlot> {
        self.slots.get(peer.0 as usize).and_then(Option::as_ref)
    }

    fn slot_mut(&mut self, peer: PeerId) -> Option<&mut PeerSlot> {
        self.slots.get_mut(peer.0 as usize).and_then(Option::as_mut)
    }

    fn peers_in_use(&self) -> impl Iterator<Item = (PeerId, &PeerSlot)> {
        (0u32..)
            .map(PeerId)
            .zip(&self.slots)
            .filter_map(|(id, slot)| slot.as_ref().map(|slot| (id, slot)))
    }

    fn peer_ids(&self) -> Vec<PeerId> {
        self.peers_in_use().map(|(id, _)| id).collect()
    }
}

/// This speaker as a source of routes.
fn local_source(asn: Asn, router_id: Ipv4Addr) -> Source {
    Source {
        external: false,
        client: false,
        asn,
        router_id,
        address: IpAddr::V4(router_id),
    }
}

#[cfg(test)]
impl Speaker {
    /// Makes the code of one session panic on its next octets.
    pub(in crate::speaker) fn panic_on_receive(&mut self, key: &PeerKey) {
        let peer = self.keys.get(key).copied().unwrap();
        self.slot_mut(peer).unwrap().session.panic_on_receive = true;
    }
}
