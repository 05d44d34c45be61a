//! The declarative front: what should be goes in, what to do comes out.
//!
//! [`Speaker`] is pure. Whoever drives it performs the [`Output`]s and reports what happened as [`Input`]s:
//!
//! ```text
//!   reconcile(desired) ─► Plan (what changes, what bounces, and why)
//!   originate, next_hops, handle(input, now) ─► poll_output(): connect, send, close, keys, events
//!   next_deadline() ─► when to call handle(Input::Tick, now) at the latest
//!   fib_poll(consumer) ─► batches of best-path changes, coalesced for slow readers
//! ```

mod desired;
mod engine;
mod explain;
mod originate;
mod output;
mod plan;
mod settings;
mod status;
#[cfg(test)]
mod tests;

pub use desired::{
    ConnectMode, Desired, Global, GracefulRestart, HoldTime, Hops, MaxPrefixes, NextHopMode,
    Password, PasswordError, Peer, PeerKey, Reflection,
};
pub use engine::Speaker;
pub use explain::{Explanation, ExportVerdict, ExportView, PathStanding, PathView};
pub use originate::{OriginAttributes, OriginateDiff, Origination};
pub use output::{
    BestRoute, ConnectRequest, Drain, Event, FibBatch, FibConsumer, FibUpdate, Input, ListenKey,
    NextHop, NextHopFacts, Output, Resolution, RouteSource, Ttl,
};
pub use plan::{Change, Plan, Why};
pub use settings::{Restarting, Settings};
pub use status::{
    Counters, FamilyStatus, PeerCounters, PeerStatus, PeerTable, RestartStatus, RouteQuery,
    RouteRow, RouteView,
};
