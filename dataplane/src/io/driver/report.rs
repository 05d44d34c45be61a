//! What became of a round.

use std::fmt;

use netlink::{Error, OpenError};

use crate::tables::Table;

/// Why the driver as a whole failed. What is known of the kernel was dropped; the next call lists again.
#[derive(Debug, thiserror::Error)]
pub enum DriverError {
    /// No socket.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// A table could not be listed.
    #[error("list {table}: {source}")]
    List {
        /// The table.
        table: Table,
        /// What went wrong.
        source: Error,
    },
    /// A batch could not be sent or answered.
    #[error("apply {table}: {source}")]
    Apply {
        /// The table.
        table: Table,
        /// What went wrong.
        source: Error,
    },
    /// The thread that used the driver panicked.
    #[error("the thread that used the driver panicked")]
    Panicked,
}

impl DriverError {
    /// True when the next try may go well.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Open(_) => false,
            Self::List { source, .. } | Self::Apply { source, .. } => source.is_retryable(),
            Self::Panicked => true,
        }
    }
}

/// What became of one [`super::Driver::apply`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Messages sent; 0 when the kernel already was as planned.
    pub sent: usize,
    /// Objects the kernel refused; everything else took effect.
    pub refused: Vec<Refused>,
}

impl Report {
    /// True when some refusal will probably pass by itself: a device on its way, a gateway not yet reachable.
    pub fn wants_retry(&self) -> bool {
        self.refused.iter().any(|refused| refused.transient)
    }
}

/// One object the kernel refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// Its table; settings count as links.
    pub table: Table,
    /// The object, for people.
    pub object: String,
    /// The kernel's words.
    pub reason: String,
    /// Gone device, device down, unreachable gateway, busy: plan again rather than complain.
    pub transient: bool,
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Links => "links",
            Self::Addresses => "addresses",
            Self::Neighbours => "neighbours",
            Self::Fdb => "forwarding entries",
            Self::Nexthops => "next hops",
            Self::Routes => "routes",
        })
    }
}
