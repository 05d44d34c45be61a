//! Sockets, clock and tokio: the only room of this crate that acts.
//!
//! ```text
//!   Handle ──commands (mpsc, 64)──► driver task: owns the Speaker ──peers (watch)──► readers
//!                                     ▲   │  └────fib batches (mpsc, 2)────────────► FibReader
//!            connection events (mpsc, 256)│
//!                                     │   ▼ octets (mpsc a connection, bounded by the speaker's credit)
//!                                 one task a connection, one a dial attempt, one a listener
//! ```
//!
//! Channels are made in [`spawn`] and nowhere else, but for the octet channel of each connection.

mod driver;
mod handle;

pub use driver::{ListenConfig, SpawnError, spawn};
pub use handle::{FibReader, Handle, Stopped};
