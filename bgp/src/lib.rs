//! BGP-4 as a library that knows no Kubernetes: it decides in pure state machines and acts in [`io`] only.
//!
//! ```text
//!   octets, timers, connects        desired peers, filters, prefixes, next-hop facts
//!            │                                     │
//!            ▼                                     ▼
//!   session (FSM, one a peer) ──routes──► speaker ─┬─ rib (table, decision, change log)
//!            ▲                                     ├─ attr (interned attribute sets)
//!            │                                     ├─ filter (import, export)
//!            └───────── encoded UPDATEs ◄── out ◄──┘  (update groups: encoded once)
//! ```
//!
//! [`Speaker`] is the front: it takes inputs together with `now`, and answers with outputs to perform and the
//! next deadline. The feature `io` adds listener, connector and driver on tokio.
//!
//! What it does *not* do: it programs no kernel route, reads no configuration file, and carries no address
//! family besides IPv4 and IPv6 unicast.

mod asn;
pub mod attr;
mod family;
pub mod filter;
#[cfg(feature = "io")]
pub mod io;
pub mod out;

pub mod rib;
pub mod session;
pub mod speaker;
pub mod wire;

pub use asn::Asn;
pub use family::{Family, FamilyMap, FamilySet};
pub use speaker::Speaker;
