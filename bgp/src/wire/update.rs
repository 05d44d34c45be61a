//! UPDATE (RFC 4271 §4.3, RFC 4760), read in one pass, written filled.
//!
//! ```text
//!   +-----------+-------------+-----------+--------------+--------
//!   | length 16 | withdrawn … | length 16 | attributes … | NLRI …
//!   +-----------+-------------+-----------+--------------+--------
//!   MP_REACH:   AFI 16 | SAFI 8 | next hop length 8 | next hop … | reserved 8 | NLRI …
//!   MP_UNREACH: AFI 16 | SAFI 8 | NLRI …
//! ```

mod canonical;
mod encode;
mod parse;

pub use encode::{Reach, put_end_of_rib, put_reach, put_withdraw};
pub use parse::{Context, MpReach, Update};

pub(crate) use parse::prefixes;

#[cfg(test)]
pub(crate) mod tests;
