//! [`Ruleset`](crate::ruleset::Ruleset) to nftables and back, over netlink.
//!
//! ```text
//!   Ruleset ── encode ──► Image ── diff(Image, Image in the kernel) ──► Changes ── transact ──► one batch
//!                                          ▲
//!                                list ─────┘   once at start and after every error
//! ```
//!
//! An [`Image`] is a ruleset as the kernel tells chains apart: rules are named by a hash over their encoded expressions, which
//! travels with the rule as userdata. A listing is therefore compared without decoding expressions, and a ruleset that some other
//! hand changed never compares equal by accident: a rule without our hash is foreign and is replaced.

mod abi;
mod encode;
mod image;
mod list;
mod transact;

pub use image::{ChainImage, Image, RuleImage, SetImage};
pub(crate) use list::{Owner, find_table, generation, list, rule_handles};
pub use transact::TableFlags;
pub(crate) use transact::{
    Changes, Handles, Subject, adoption, probe_owner, probe_rule, repave, transaction,
};
