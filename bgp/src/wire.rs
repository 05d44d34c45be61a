//! The protocol on the wire: framing, codecs, and one table of verdicts for malformed input.
//!
//! Parsing copies and allocates nothing; a prefix decodes to registers. Every fault found is a [`Fault`], and what a
//! fault causes stands in one place, [`Fault::reaction`] (RFC 7606).

mod notification;

pub use notification::{Notification, cease, code};
