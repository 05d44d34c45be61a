//! Names: states, connections, generations, reasons.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::wire::Notification;

/// State of a session (RFC 4271 §8.2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum State {
    /// Refuses connections: stopped, or waiting after an error.
    Idle,
    /// A TCP connection is being made.
    Connect,
    /// Waits to be called, or for the next attempt.
    Active,
    /// An OPEN was sent, the peer's is awaited.
    OpenSent,
    /// Both OPENs were seen, a KEEPALIVE is awaited.
    OpenConfirm,
    /// Routes flow.
    Established,
}

impl State {
    /// Every state, in order of progress.
    pub const ALL: [Self; 6] = [
        Self::Idle,
        Self::Connect,
        Self::Active,
        Self::OpenSent,
        Self::OpenConfirm,
        Self::Established,
    ];
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Idle => "Idle",
            Self::Connect => "Connect",
            Self::Active => "Active",
            Self::OpenSent => "OpenSent",
            Self::OpenConfirm => "OpenConfirm",
            Self::Established => "Established",
        })
    }
}

/// Name of one TCP connection, never used twice by one speaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnId(pub(crate) u64);

/// Counts the sessions of a peer that became Established. What an older generation says is void.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionGen(pub(crate) u64);

/// Why a session ended or did not come up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DownReason {
    /// We told the peer so.
    Sent(Notification),
    /// The peer told us so.
    Received(Notification),
    /// The peer closed the connection without a word.
    Closed,
    /// The connection broke; the system's words.
    Broken(Arc<str>),
    /// No connection could be made; the system's words.
    ConnectFailed(Arc<str>),
    /// We left in order to come back: no NOTIFICATION was sent.
    Restarting,
}

impl fmt::Display for DownReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sent(notification) => write!(f, "we sent {notification}"),
            Self::Received(notification) => write!(f, "peer sent {notification}"),
            Self::Closed => f.write_str("peer closed the connection"),
            Self::Broken(error) => write!(f, "connection broke: {error}"),
            Self::ConnectFailed(error) => write!(f, "connect failed: {error}"),
            Self::Restarting => f.write_str("we are restarting"),
        }
    }
}
