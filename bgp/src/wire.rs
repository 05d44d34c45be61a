//! The protocol on the wire: framing, codecs, and one table of verdicts for malformed input.
//!
//! Parsing copies and allocates nothing; a prefix decodes to registers. Every fault found is a [`Fault`], and what a
//! fault causes stands in one place, [`Fault::reaction`] (RFC 7606).

pub mod attribute;
pub mod capability;
pub mod message;
pub mod nlri;
mod notification;
pub mod open;
mod reader;
pub mod refresh;
pub mod update;
mod verdict;

pub use notification::{Notification, cease, code};
pub use reader::Reader;
pub use verdict::{Fault, FaultSet, Reaction};
