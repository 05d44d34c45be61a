//! When to call the peer.

use std::time::Instant;

use super::ConnId;

/// The dialler of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dial {
    /// The session is stopped.
    Stopped,
    /// The peer calls us.
    Passive,
    /// Next attempt at this time.
    Waiting(Instant),
    /// An attempt is under way; it is given up at this time.
    Calling(ConnId, Instant),
    /// Stays down until this time, then starts again: after too many prefixes.
    Resting(Instant),
}

impl Dial {
    /// The next time something is due.
    pub(super) fn deadline(self) -> Option<Instant> {
        match self {
            Self::Stopped | Self::Passive => None,
            Self::Waiting(at) | Self::Calling(_, at) | Self::Resting(at) => Some(at),
        }
    }
}
