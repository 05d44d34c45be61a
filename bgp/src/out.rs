//! Update groups: what many peers are told alike is evaluated and encoded once.
//!
//! ```text
//!   change log ─► Group (cursor, one bit a destination) ─► Exporter: rules, memo ─► buckets of equal routes
//!                                                                                       │ encoded once
//!   new member, refresh ─► walk over the same bits ─────────────────────────────────────┤
//!                                                                                       ▼
//!                                              members: the same octets, minus what a member must not hear
//! ```
//!
//! A member is not told routes it is the source of, routes whose AS path contains its number, and routes it
//! originated within our AS. These are exceptions of a member, not reasons for a group of its own: a member that was
//! told the prefix before gets a private withdraw. Superfluous withdraws are legal, missing ones are not.

mod bitmap;
mod bundle;
mod export;
mod group;

pub use bitmap::Bitmap;
pub use bundle::{Bundle, Chunk};
pub(crate) use export::own_next_hop;
pub use export::{Class, Exported, Exporter, Locals, Withheld};
pub use group::{Forget, Group, GroupKey};
