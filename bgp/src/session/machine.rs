//! The machine itself.

mod receive;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use smallvec::SmallVec;

use super::dial::Dial;
use super::link::{Direction, Link, Phase};
use super::negotiate::Negotiated;
use super::output::{Action, Outbox};
use super::{ConnId, DownReason, SessionConfig, SessionGen, State};
use crate::FamilySet;
use crate::speaker::{ConnectMode, ConnectRequest};
use crate::wire::{Notification, cease, message};

/// From this age on, a further call of a restart-capable peer means that it restarted (RFC 4724 §4.2); before, it is
/// the other half of a collision.
const SETTLED: Duration = Duration::from_secs(5);

/// What happens to a session.
#[derive(Debug)]
pub enum Input<'a> {
    /// Begin.
    Start,
    /// End and stay down.
    Stop(Stop),
    /// End and begin again.
    Restart(Stop),
    /// End, and begin again after a while.
    Rest(Notification, Duration),
    /// The connection asked for stands.
    Connected(ConnId, SocketAddr, SocketAddr),
    /// It does not.
    ConnectFailed(ConnId, Arc<str>),
    /// The peer called: name, our end, its end.
    Accepted(ConnId, SocketAddr, SocketAddr),
    /// Octets arrived.
    Received(ConnId, &'a [u8]),
    /// Octets left.
    Sent(ConnId, usize),
    /// The connection ended; with the system's words when it broke.
    Closed(ConnId, Option<Arc<str>>),
    /// Time passed.
    Tick,
}

/// How to end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Tell the peer.
    Notify(Notification),
    /// Close without a word, so that a restart-capable peer keeps our routes (RFC 4724 §4.2).
    Silently,
}

/// One peer's state machine.
#[derive(Debug)]
pub struct Session {
    config: SessionConfig,
    dial: Dial,
    links: SmallVec<[Link; 2]>,
    generation: SessionGen,
    since: Instant,
    state: State,
    rng: SmallRng,
    #[cfg(test)]
    pub(crate) panic_on_receive: bool,
}

impl Session {
    /// A stopped session.
    pub fn new(config: SessionConfig, seed: u64, now: Instant) -> Self {
        Self {
            config,
            dial: Dial::Stopped,
            links: SmallVec::new(),
            generation: SessionGen::default(),
            since: now,
            state: State::Idle,
            rng: SmallRng::seed_from_u64(seed),
            #[cfg(test)]
            panic_on_receive: false,
        }
    }

    /// Configuration in force.
    pub fn config(&self) -> &SessionConfig {
        &self.config
    }

    /// Changes the configuration: what is negotiated takes effect with the next session, timers at once.
    pub fn configure(&mut self, config: SessionConfig, now: Instant) {
        let dialling = (config.connect, config.connect_retry)
            != (self.config.connect, self.config.connect_retry);
        self.config = config;
        if dialling && matches!(self.dial, Dial::Waiting(_) | Dial::Passive) {
            self.dial = self.idle_dial(now);
        }
    }

    /// Stays down until `until`, then starts by itself: for a session made anew in place of one that failed.
    pub fn rest(&mut self, until: Instant) {
        self.dial = Dial::Resting(until);
    }

    /// The state (RFC 4271 §8.2.2) and since when.
    pub fn state(&self) -> (State, Instant) {
        (self.state, self.since)
    }

    /// What was agreed on, when Established.
    pub fn established(&self) -> Option<&Negotiated> {
        self.links.iter().find_map(|link| match &link.phase {
            Phase::Established(negotiated) => Some(negotiated),
            Phase::OpenSent | Phase::OpenConfirm(_) => None,
        })
    }

    /// Sessions that became Established so far.
    pub fn generation(&self) -> SessionGen {
        self.generation
    }

    /// Octets waiting to be sent.
    pub fn queued(&self) -> usize {
        self.links.iter().map(|link| link.send.queued()).sum()
    }

    /// Names of all connections, attempts included.
    pub fn connections(&self) -> impl Iterator<Item = ConnId> {
        let calling = match self.dial {
            Dial::Calling(conn, _) => Some(conn),
            Dial::Stopped | Dial::Passive | Dial::Waiting(_) | Dial::Resting(_) => None,
        };
        self.links.iter().map(|link| link.conn).chain(calling)
    }

    /// When [`Input::Tick`] is due.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.links
            .iter()
            .filter_map(Link::deadline)
            .chain(self.dial_deadline())
            .min()
    }

    /// Sends whole messages behind what is queued; nothing unless Established.
    pub fn send(&mut self, octets: Bytes, now: Instant, out: &mut Outbox) {
        if let Some(link) = self.established_link() {
            link.send.push(octets, now, out);
        }
    }

    /// Takes back what is queued and not yet under way.
    pub fn take_back(&mut self) -> VecDeque<Bytes> {
        self.established_link()
            .map(|link| link.send.take_back())
            .unwrap_or_default()
    }

    /// Takes in what happened.
    pub fn handle(&mut self, input: Input<'_>, now: Instant, out: &mut Outbox) {
        match input {
            Input::Start => self.start(now, out),
            Input::Stop(stop) => self.stop(&stop, Dial::Stopped, now, out),
            Input::Restart(stop) => {
                self.stop(&stop, Dial::Stopped, now, out);
                self.start(now, out);
            }
            Input::Rest(notification, time) => self.stop(
                &Stop::Notify(notification),
                Dial::Resting(now + time),
                now,
                out,
            ),
            Input::Connected(conn, local, remote) => self.connected(conn, local, remote, now, out),
            Input::ConnectFailed(conn, error) => self.connect_failed(conn, error, now, out),
            Input::Accepted(conn, local, remote) => self.accepted(conn, local, remote, now, out),
            Input::Received(conn, octets) => self.received(conn, octets, now, out),
            Input::Sent(conn, octets) => self.sent(conn, octets, now, out),
            Input::Closed(conn, error) => {
                let reason = error.map_or(DownReason::Closed, DownReason::Broken);
                self.lose(conn, reason, now, out);
            }
            Input::Tick => self.tick(now, out),
        }
        self.note_state(now);
    }

    fn note_state(&mut self, now: Instant) {
        let dialler = match self.dial {
            Dial::Stopped | Dial::Resting(_) => State::Idle,
            Dial::Passive | Dial::Waiting(_) => State::Active,
            Dial::Calling(..) => State::Connect,
        };
        let state = self.links.iter().map(Link::state).max().unwrap_or(dialler);
        if state != self.state {
            self.state = state;
            self.since = now;
        }
    }

    fn start(&mut self, now: Instant, out: &mut Outbox) {
        if self.dial != Dial::Stopped {
            return;
        }
        match self.config.connect {
            ConnectMode::Active => self.call(now, out),
            ConnectMode::ActiveLate | ConnectMode::Passive => self.dial = self.idle_dial(now),
        }
    }

    fn stop(&mut self, stop: &Stop, then: Dial, now: Instant, out: &mut Outbox) {
        if let Dial::Calling(conn, _) = self.dial {
            out.push(Action::Abort(conn));
        }
        self.dial = Dial::Stopped;
        while let Some(conn) = self.links.last().map(|link| link.conn) {
            match stop {
                Stop::Notify(notification) => self.end(conn, notification.clone(), now, out),
                Stop::Silently => {
                    out.push(Action::Close(conn));
                    self.lose(conn, DownReason::Restarting, now, out);
                }
            }
        }
        self.dial = then;
    }

    /// The dialler between attempts.
    fn idle_dial(&mut self, now: Instant) -> Dial {
        match self.config.connect {
            ConnectMode::Passive => Dial::Passive,
            ConnectMode::Active | ConnectMode::ActiveLate => {
                let jitter = self.jitter();
                Dial::Waiting(now + self.config.connect_retry.mul_f64(jitter))
            }
        }
    }

    /// RFC 4271 §10: between 0.75 and 1.0.
    fn jitter(&mut self) -> f64 {
        self.rng.random_range(0.75..=1.0)
    }

    fn call(&mut self, now: Instant, out: &mut Outbox) {
        let conn = out.conn();
        let timeout = self.config.connect_retry;
        self.dial = Dial::Calling(conn, now + timeout);
        out.push(Action::Connect(ConnectRequest {
            conn,
            peer: self.config.key.clone(),
            remote: self.config.remote,
            local: self.config.local_address,
            password: self.config.password.clone(),
            ttl: self.config.ttl,
            timeout,
        }));
    }

    fn dial_deadline(&self) -> Option<Instant> {
        match self.dial {
            // No call while a connection is beyond OpenSent; one that hangs in OpenSent does not hold us up.
            Dial::Waiting(_) if self.links.iter().any(|link| link.state() > State::OpenSent) => {
                None
            }
            Dial::Waiting(_)
                if self
                    .links
                    .iter()
                    .any(|link| link.direction == Direction::Out) =>
            {
                None
            }
            dial @ (Dial::Stopped
            | Dial::Passive
            | Dial::Waiting(_)
            | Dial::Calling(..)
            | Dial::Resting(_)) => dial.deadline(),
        }
    }

    fn connected(
        &mut self,
        conn: ConnId,
        local: SocketAddr,
        remote: SocketAddr,
        now: Instant,
        out: &mut Outbox,
    ) {
        if !matches!(self.dial, Dial::Calling(calling, _) if calling == conn) {
            out.push(Action::Abort(conn));
            return;
        }
        self.dial = self.idle_dial(now);
        if self.established().is_some() {
            out.push(Action::Close(conn));
            return;
        }
        self.open_link(
            Link::new(conn, Direction::Out, local, remote, now),
            now,
            out,
        );
    }

    fn accepted(
        &mut self,
        conn: ConnId,
        local: SocketAddr,
        remote: SocketAddr,
        now: Instant,
        out: &mut Outbox,
    ) {
        if matches!(self.dial, Dial::Stopped | Dial::Resting(_)) {
            out.push(Action::Abort(conn));
            return;
        }
        // A peer that calls again gave its former call up.
        let former = self
            .links
            .iter()
            .find(|link| link.direction == Direction::In && link.state() < State::Established);
        if let Some(former) = former.map(|link| link.conn) {
            self.end(former, Notification::cease(cease::COLLISION), now, out);
        }
        let established = self.established().is_some();
        let settled = now.saturating_duration_since(self.since) >= SETTLED;
        let restarts = settled
            && self
                .established()
                .is_some_and(|agreed| agreed.restart.is_some());
        if established && !restarts {
            let refusal = Notification::cease(cease::COLLISION);
            out.push(Action::Send(
                conn,
                Bytes::from(message::notification(&refusal)),
            ));
            out.push(Action::Close(conn));
            return;
        }
        self.open_link(Link::new(conn, Direction::In, local, remote, now), now, out);
    }

    fn open_link(&mut self, mut link: Link, now: Instant, out: &mut Outbox) {
        link.send
            .push(Bytes::from(self.config.open().encode()), now, out);
        self.links.push(link);
    }

    fn connect_failed(&mut self, conn: ConnId, error: Arc<str>, now: Instant, out: &mut Outbox) {
        if matches!(self.dial, Dial::Calling(calling, _) if calling == conn) {
            self.dial = self.idle_dial(now);
            out.push(Action::Refused(DownReason::ConnectFailed(error)));
        }
    }

    fn sent(&mut self, conn: ConnId, octets: usize, now: Instant, out: &mut Outbox) {
        let generation = self.generation;
        let Some(link) = self.link(conn) else {
            return;
        };
        let waiting = link.send.queued();
        link.send.sent(octets, now, out);
        if waiting > 0
            && link.send.queued() < waiting
            && matches!(link.phase, Phase::Established(_))
        {
            out.push(Action::Drained(generation));
        }
    }

    fn tick(&mut self, now: Instant, out: &mut Outbox) {
        let due: SmallVec<[ConnId; 2]> = self
            .links
            .iter()
            .filter(|link| link.deadline().is_some_and(|at| at <= now))
            .map(|link| link.conn)
            .collect();
        for conn in due {
            self.tick_link(conn, now, out);
        }
        if self.dial_deadline().is_none_or(|at| at > now) {
            return;
        }
        match self.dial {
            Dial::Stopped | Dial::Passive => {}
            Dial::Waiting(_) => self.call(now, out),
            Dial::Calling(conn, _) => {
                out.push(Action::Abort(conn));
                self.connect_failed(conn, Arc::from("no answer in time"), now, out);
            }
            Dial::Resting(_) => {
                self.dial = Dial::Stopped;
                self.start(now, out);
            }
        }
    }

    fn tick_link(&mut self, conn: ConnId, now: Instant, out: &mut Outbox) {
        let jitter = self.jitter();
        let Some(link) = self.link(conn) else {
            return;
        };
        let due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        if due(link.hold) {
            let expired = Notification::new(crate::wire::code::HOLD_TIMER, 0);
            self.end_retaining(conn, expired, FamilySet::EMPTY, now, out);
        } else if due(link.send.deadline()) {
            // The peer takes nothing, so waiting for the NOTIFICATION to leave is vain (RFC 9687 §3).
            let stuck = Notification::new(crate::wire::code::SEND_HOLD, 0);
            self.end_retaining(conn, stuck, FamilySet::EMPTY, now, out);
            out.push(Action::Abort(conn));
        } else if due(link.keepalive) {
            link.send_keepalive(now, jitter, out);
        }
    }

    fn link(&mut self, conn: ConnId) -> Option<&mut Link> {
        self.links.iter_mut().find(|link| link.conn == conn)
    }

    fn established_link(&mut self) -> Option<&mut Link> {
        self.links
            .iter_mut()
            .find(|link| matches!(link.phase, Phase::Established(_)))
    }

    /// Tells the peer why, and ends the connection. Routes stay as RFC 8538 says.
    fn end(&mut self, conn: ConnId, notification: Notification, now: Instant, out: &mut Outbox) {
        let retained = self
            .links
            .iter()
            .find(|link| link.conn == conn)
            .and_then(Link::negotiated)
            .filter(|_| notification.code != crate::wire::code::CEASE)
            .map_or(FamilySet::EMPTY, |agreed| {
                agreed.retained(Some(&notification))
            });
        self.end_retaining(conn, notification, retained, now, out);
    }

    fn end_retaining(
        &mut self,
        conn: ConnId,
        notification: Notification,
        retained: FamilySet,
        now: Instant,
        out: &mut Outbox,
    ) {
        if let Some(link) = self.link(conn) {
            link.send
                .push_last(Bytes::from(message::notification(&notification)), now, out);
            out.push(Action::Close(conn));
            out.push(Action::NotificationOut(notification.clone()));
        }
        self.remove(conn, DownReason::Sent(notification), retained, now, out);
    }

    /// The connection ended by itself.
    fn lose(&mut self, conn: ConnId, reason: DownReason, now: Instant, out: &mut Outbox) {
        let link = self.links.iter().find(|link| link.conn == conn);
        let retained = match (&reason, link.and_then(Link::negotiated)) {
            (_, None) => FamilySet::EMPTY,
            (DownReason::Received(notification), Some(agreed)) => {
                agreed.retained(Some(notification))
            }
            (
                DownReason::Closed
                | DownReason::Broken(_)
                | DownReason::Restarting
                | DownReason::Sent(_)
                | DownReason::ConnectFailed(_),
                Some(agreed),
            ) => agreed.retained(None),
        };
        self.remove(conn, reason, retained, now, out);
    }

    fn remove(
        &mut self,
        conn: ConnId,
        reason: DownReason,
        retained: FamilySet,
        now: Instant,
        out: &mut Outbox,
    ) {
        if matches!(self.dial, Dial::Calling(calling, _) if calling == conn) {
            self.connect_failed(conn, Arc::from("closed before it stood"), now, out);
            return;
        }
        let Some(index) = self.links.iter().position(|link| link.conn == conn) else {
            return;
        };
        let link = self.links.remove(index);
        match link.phase {
            Phase::Established(_) => out.push(Action::Down(self.generation, reason, retained)),
            Phase::OpenSent | Phase::OpenConfirm(_) => {
                let collision =
                    matches!(&reason, DownReason::Sent(sent) if sent.subcode == cease::COLLISION);
                if !collision && self.established().is_none() {
                    out.push(Action::Refused(reason));
                }
            }
        }
        if matches!(self.dial, Dial::Waiting(_)) {
            self.dial = self.idle_dial(now);
        }
    }
}
