//! The proofs of the allocator: scenarios, the crash table, every interleaving of a small world, and a long random
//! walk through a larger one. All through the public sans-IO surface.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    clippy::print_stdout,
    reason = "a test that meets what it does not expect fails on the spot, and tells what it walked"
)]

mod collect;
mod crash;
mod exhaustive;
mod leader;
mod random;
mod scenarios;
mod sim;
