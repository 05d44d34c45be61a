//! One TCP connection of a session, from its OPEN on.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};

use super::negotiate::Negotiated;
use super::output::Outbox;
use super::send::SendQueue;
use super::{ConnId, State};
use crate::wire::message;

/// Hold time until both sides agreed (RFC 4271 §8.2.2: "a large value", 4 minutes suggested).
pub(super) const OPEN_HOLD: Duration = Duration::from_mins(4);
/// Shortest send hold time (RFC 9687 §4).
const SEND_HOLD: Duration = Duration::from_mins(8);

/// Who opened the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    /// We did.
    Out,
    /// The peer did.
    In,
}

/// How far it got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Our OPEN is out.
    OpenSent,
    /// The peer's OPEN was accepted.
    OpenConfirm(Negotiated),
    /// Routes flow.
    Established(Negotiated),
}

/// A connection.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) conn: ConnId,
    pub(super) direction: Direction,
    pub(super) local: SocketAddr,
    pub(super) remote: SocketAddr,
    pub(super) phase: Phase,
    pub(super) send: SendQueue,
    /// Octets of a message that is not whole yet.
    pub(super) inbox: BytesMut,
    pub(super) hold: Option<Instant>,
    pub(super) keepalive: Option<Instant>,
}

impl Link {
    /// A connection in `OpenSent`; the caller sends the OPEN.
    pub(super) fn new(
        conn: ConnId,
        direction: Direction,
        local: SocketAddr,
        remote: SocketAddr,
        now: Instant,
    ) -> Self {
        Self {
            conn,
            direction,
            local,
            remote,
            phase: Phase::OpenSent,
            send: SendQueue::new(conn, SEND_HOLD),
            inbox: BytesMut::new(),
            hold: Some(now + OPEN_HOLD),
            keepalive: None,
        }
    }

    pub(super) fn state(&self) -> State {
        match self.phase {
            Phase::OpenSent => State::OpenSent,
            Phase::OpenConfirm(_) => State::OpenConfirm,
            Phase::Established(_) => State::Established,
        }
    }

    /// What was agreed on, once it was.
    pub(super) fn negotiated(&self) -> Option<&Negotiated> {
        match &self.phase {
            Phase::OpenSent => None,
            Phase::OpenConfirm(negotiated) | Phase::Established(negotiated) => Some(negotiated),
        }
    }

    /// Enters `OpenConfirm`: agreed timers begin.
    pub(super) fn confirm(
        &mut self,
        negotiated: Negotiated,
        now: Instant,
        jitter: f64,
        out: &mut Outbox,
    ) {
        self.phase = Phase::OpenConfirm(negotiated);
        self.send.set_hold(SEND_HOLD.max(negotiated.hold_time * 2));
        self.touch(now);
        self.send_keepalive(now, jitter, out);
    }

    /// Something arrived: the hold timer begins anew.
    pub(super) fn touch(&mut self, now: Instant) {
        if let Some(negotiated) = self.negotiated() {
            let hold = negotiated.hold_time;
            self.hold = (!hold.is_zero()).then(|| now + hold);
        }
    }

    /// Sends a KEEPALIVE and sets the next one, at 0.75 to 1.0 of its time (RFC 4271 §10).
    pub(super) fn send_keepalive(&mut self, now: Instant, jitter: f64, out: &mut Outbox) {
        let period = self
            .negotiated()
            .map_or(Duration::ZERO, |negotiated| negotiated.keepalive_time);
        self.keepalive = (!period.is_zero()).then(|| now + period.mul_f64(jitter));
        self.send
            .push_urgent(Bytes::from(message::keepalive()), now, out);
    }

    /// The next time something is due.
    pub(super) fn deadline(&self) -> Option<Instant> {
        [self.hold, self.keepalive, self.send.deadline()]
            .into_iter()
            .flatten()
            .min()
    }
}
