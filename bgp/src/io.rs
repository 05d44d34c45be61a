//! Sockets, clock and tokio: the only room of this crate that acts.
//!
//! ```text
//!   Handle ──commands (mpsc, 64)──► driver task: owns the Speaker ──peers (watch)──────► readers
//!                                     ▲   │  ├──────events (broadcast, 1024)──────────► readers
//!      connection events (mpsc, 256)──┘   │  └──────fib updates (mpsc, 2 a reader)────► FibReader
//!                                         ▼ octets (mpsc a connection, bounded by the speaker's window)
//!                        one task a listener, one a dial attempt, one a connection
//! ```
//!
//! A connection task that finds the event channel full stops reading, so TCP slows the peer. The driver never waits
//! for a connection: what may be under way to one is bounded by the session's send window.

mod connection;
mod driver;
mod handle;
mod listener;
mod sys;

pub use driver::{ListenConfig, SpawnError, spawn};
pub use handle::{FibReader, Handle, Stopped};
