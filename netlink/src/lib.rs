//! One raw netlink socket, done well.
//!
//! A caller encodes messages into a [`Batch`], hands it to a [`Socket`] and learns which message of it the kernel refused and in
//! which words. Dumps are whole or an error, never partial; lost answers are [`Error::Overrun`], which means "list again".
//!
//! ```text
//!   Batch ──submit──► Socket ──one send──► kernel        Monitor ◄──multicast── kernel
//!     ▲                 │                                   │
//!   attr::Encoder       └─► Failure{index, errno, text}     └─► Heard::{Messages, Overrun}
//! ```
//!
//! It knows no routes, no links and no rules: those are the business of the crates that use it behind their `io`.

pub mod attr;
mod batch;
mod extack;
mod message;
mod monitor;
pub mod netns;
mod shared;
mod socket;
mod sys;

pub use batch::{Batch, GenerationId};
pub use extack::Failure;
pub use message::Message;
pub use monitor::{Heard, Monitor};
pub use nix::errno::Errno;
pub use shared::SharedSocket;
pub use socket::{Error, OpenError, Protocol, Rejected, Socket};

/// Message header flags (`linux/netlink.h`), named without their prefix.
pub mod flags {
    /// The message asks for something; every message to the kernel carries it.
    pub const REQUEST: u16 = 0x1;
    /// Answer with an acknowledgement even on success.
    pub const ACK: u16 = 0x4;
    /// Send the resulting notification to the requester as well.
    pub const ECHO: u16 = 0x8;
    /// A dump was interrupted by a change and is inconsistent.
    pub const DUMP_INTR: u16 = 0x10;
    /// List all objects that match.
    pub const DUMP: u16 = 0x300;
    /// Replace an object that exists.
    pub const REPLACE: u16 = 0x100;
    /// Fail when the object exists.
    pub const EXCL: u16 = 0x200;
    /// Create the object when it does not exist.
    pub const CREATE: u16 = 0x400;
    /// Add after the existing ones (routes: a sibling, nftables: at the end of the chain).
    pub const APPEND: u16 = 0x800;
    /// On a delete: remove everything that matches (`RTM_DELROUTE` and friends with bulk support).
    pub const BULK: u16 = 0x200;
    /// In an error message: the offending message is not repeated in full.
    pub const CAPPED: u16 = 0x100;
    /// In an error message: attributes with the kernel's text follow.
    pub const ACK_TLVS: u16 = 0x200;
}
