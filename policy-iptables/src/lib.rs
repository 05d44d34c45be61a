//! Network policy.
#![forbid(unsafe_code)]

pub mod compile;
#[cfg(feature = "io")]
pub mod io;
#[cfg(feature = "io")]
pub mod nft;
pub mod plan;
pub mod ruleset;
pub mod verdict;
