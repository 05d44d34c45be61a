//! Network policy: what it means, compiled to one nftables table, and the kernel kept equal to it.
//!
//! ```text
//!   policies of three kinds ── compile ──► Policy, Finding
//!   World + policies        ── plan ─────► Ruleset (groups, sets, base chains, NAT)
//!   Ruleset                 ── io ───────► one transaction over netlink; adopted by diff after a restart
//!   Packet + Ruleset        ── verdict::walk      ─┐
//!   Packet + World          ── verdict::evaluate  ─┴─► the same outcome, held by tests; `explain`
//!   Ruleset before, now, Flow ── flows::Review ─────► live flows to cut and to mend
//! ```
//!
//! Everything but `io` and `nft` is pure. The crate runs no program, reads no foreign table, and makes no routes; live flows
//! are listed and marked by the caller. Semantics, layout and hazards stand in `DESIGN.md`.

#![forbid(unsafe_code)]

pub mod compile;
pub mod flows;
#[cfg(feature = "io")]
pub mod io;
#[cfg(feature = "io")]
pub mod nft;
pub mod plan;
pub mod ruleset;
pub mod verdict;
