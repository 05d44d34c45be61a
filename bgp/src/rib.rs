//! The table of routes and the choice among them.
//!
//! ```text
//!   announce / withdraw / stale ─► Table: hash index + slab of destinations ─► decide ─► change log ─► cursors
//!                                         (slab index = destination id)                  (ring)        (groups, FIB)
//! ```
//!
//! The path list of a destination *is* the Adj-RIB-In. Attribute sets are interned, next hops live outside of them, so
//! peers with one path share everything but two numbers.

mod decision;
mod log;
mod next_hop;
mod source;
mod table;
#[cfg(test)]
mod tests;

pub use decision::{Ineligible, Preference, Rules};
pub use log::Cursor;
pub use next_hop::{NextHops, NhId};
pub use source::{PeerId, Source};
pub(crate) use table::Interest;
pub use table::{Dest, DestId, Path, Rib, Table};
