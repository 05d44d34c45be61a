//! What a session wants done.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::ops::Range;

use bytes::Bytes;
use ipnet::IpNet;

use super::{ConnId, DownReason, Negotiated, SessionGen};
use crate::speaker::ConnectRequest;
use crate::wire::{Fault, Notification};
use crate::{Family, FamilySet};

/// One thing to do or to know, in order.
#[derive(Clone, Debug)]
pub enum Action {
    /// Open a connection.
    Connect(ConnectRequest),
    /// Write octets.
    Send(ConnId, Bytes),
    /// Close after writing.
    Close(ConnId),
    /// Drop at once.
    Abort(ConnId),
    /// The session is Established.
    Established(SessionGen, Negotiated),
    /// An Established session ended; routes of `retained` stay as stale.
    Down(SessionGen, DownReason, FamilySet),
    /// It did not come up.
    Refused(DownReason),
    /// Routes of one UPDATE, in the [`Batch`].
    Routes(SessionGen, RouteUpdate),
    /// The peer's initial routes end.
    EndOfRib(SessionGen, Family),
    /// The peer asks for our routes.
    Refresh(SessionGen, Family),
    /// Queued octets left: there may be room for more.
    Drained(SessionGen),
    /// Something was malformed.
    Malformed(Fault),
    /// A NOTIFICATION arrived.
    NotificationIn(Notification),
    /// A NOTIFICATION was sent.
    NotificationOut(Notification),
}

/// Routes of one UPDATE as ranges into a [`Batch`].
#[derive(Clone, Debug)]
pub struct RouteUpdate {
    /// Prefixes withdrawn, of any family.
    pub withdrawn: Range<usize>,
    /// Prefixes announced with next hop; two entries when the classic field and `MP_REACH` are both used.
    pub announced: [Option<(IpAddr, Range<usize>)>; 2],
    /// Canonical attributes of what is announced.
    pub attributes: Range<usize>,
}

/// Reused buffers of routes.
#[derive(Debug, Default)]
pub struct Batch {
    /// Prefixes.
    pub prefixes: Vec<IpNet>,
    /// Canonical attributes.
    pub octets: Vec<u8>,
}

impl Batch {
    /// Prefixes of a range.
    pub fn prefixes(&self, range: &Range<usize>) -> &[IpNet] {
        self.prefixes.get(range.clone()).unwrap_or_default()
    }

    /// Octets of a range.
    pub fn octets(&self, range: &Range<usize>) -> &[u8] {
        self.octets.get(range.clone()).unwrap_or_default()
    }
}

/// Where a session puts its actions; reused from input to input.
#[derive(Debug, Default)]
pub struct Outbox {
    /// Actions in order.
    pub actions: VecDeque<Action>,
    /// Routes that actions refer to.
    pub batch: Batch,
    /// Names for connections opened.
    pub next_conn: u64,
}

impl Outbox {
    /// Adds an action.
    pub fn push(&mut self, action: Action) {
        self.actions.push_back(action);
    }

    /// A fresh connection name.
    pub fn conn(&mut self) -> ConnId {
        self.next_conn += 1;
        ConnId(self.next_conn)
    }

    /// Forgets routes once all actions were taken.
    pub fn recycle(&mut self) {
        self.batch.prefixes.clear();
        self.batch.octets.clear();
    }
}
