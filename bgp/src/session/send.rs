//! The way out of one connection: a queue, a window of octets handed over, and the send hold timer.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::ConnId;
use super::output::{Action, Outbox};

/// Octets that may be on their way to the kernel.
const WINDOW_OCTETS: usize = 256 * 1024;
/// Chunks that may be on their way: drivers size their channels by this.
pub(crate) const WINDOW_CHUNKS: usize = 64;

/// Queue of one connection.
#[derive(Debug)]
pub(super) struct SendQueue {
    conn: ConnId,
    queue: VecDeque<Bytes>,
    queued: usize,
    in_flight: VecDeque<usize>,
    in_flight_octets: usize,
    hold: Duration,
    deadline: Option<Instant>,
}

impl SendQueue {
    /// An empty queue; `hold` is the longest time without progress (RFC 9687).
    pub(super) fn new(conn: ConnId, hold: Duration) -> Self {
        Self {
            conn,
            queue: VecDeque::new(),
            queued: 0,
            in_flight: VecDeque::new(),
            in_flight_octets: 0,
            hold,
            deadline: None,
        }
    }

    pub(super) fn set_hold(&mut self, hold: Duration) {
        self.hold = hold;
    }

    /// Octets waiting behind the window.
    pub(super) fn queued(&self) -> usize {
        self.queued
    }

    /// When the peer counts as stuck.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Sends behind what is queued.
    pub(super) fn push(&mut self, octets: Bytes, now: Instant, out: &mut Outbox) {
        self.queued += octets.len();
        self.queue.push_back(octets);
        self.pump(now, out);
    }

    /// Sends before what is queued; dropped when the window is full, which only a KEEPALIVE tolerates: the messages in
    /// the window are as good.
    pub(super) fn push_urgent(&mut self, octets: Bytes, now: Instant, out: &mut Outbox) {
        if self.in_flight.len() < WINDOW_CHUNKS {
            self.emit(octets, now, out);
        }
    }

    /// Sends a last message whatever is in flight; the queue is dropped.
    pub(super) fn push_last(&mut self, octets: Bytes, now: Instant, out: &mut Outbox) {
        self.take_back();
        self.emit(octets, now, out);
    }

    /// Takes back what is queued behind the window.
    pub(super) fn take_back(&mut self) -> VecDeque<Bytes> {
        self.queued = 0;
        std::mem::take(&mut self.queue)
    }

    /// Octets left for the kernel.
    pub(super) fn sent(&mut self, mut octets: usize, now: Instant, out: &mut Outbox) {
        self.in_flight_octets = self.in_flight_octets.saturating_sub(octets);
        while let Some(front) = self.in_flight.front_mut() {
            if *front > octets {
                *front -= octets;
                break;
            }
            octets -= *front;
            self.in_flight.pop_front();
        }
        self.deadline = (!self.in_flight.is_empty()).then(|| now + self.hold);
        self.pump(now, out);
    }

    fn pump(&mut self, now: Instant, out: &mut Outbox) {
        while self.in_flight.len() < WINDOW_CHUNKS && self.in_flight_octets < WINDOW_OCTETS {
            let Some(octets) = self.queue.pop_front() else {
                return;
            };
            self.queued -= octets.len();
            self.emit(octets, now, out);
        }
    }

    fn emit(&mut self, octets: Bytes, now: Instant, out: &mut Outbox) {
        self.in_flight.push_back(octets.len());
        self.in_flight_octets += octets.len();
        self.deadline.get_or_insert(now + self.hold);
        out.push(Action::Send(self.conn, octets));
    }
}
