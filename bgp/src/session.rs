//! One peer's state machine, sans-IO: an input and the time go in, actions come out.
//!
//! ```text
//!            start                 connected: OPEN sent         OPEN seen              KEEPALIVE seen
//!   Idle ───────────► Connect ───────────────────────► OpenSent ──────────► OpenConfirm ─────────────► Established
//!     ▲                 │ ▲                                │                     │                          │
//!     │  stop           ▼ │ retry                          └─────────────────────┴── error, NOTIFICATION ───┤
//!     └───────────────  Active ◄────────────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! A peer owns up to two connections at a time, one it opened and one we opened, so a collision (RFC 4271 §6.8) is
//! ordinary state. The state of the session is that of its most advanced connection ([`link`](self)); without any, it
//! is that of the dialler.

mod config;
mod dial;
mod link;
mod machine;
mod negotiate;
mod output;
mod send;
mod state;

pub use config::{RestartOffer, SessionConfig};
pub use machine::{Input, Session, Stop};
pub use negotiate::{Negotiated, PeerRestart};
pub use output::{Action, Batch, Outbox, RouteUpdate};
#[cfg(feature = "io")]
pub(crate) use send::WINDOW_CHUNKS;
pub use state::{ConnId, DownReason, SessionGen, State};

#[cfg(test)]
mod tests;
