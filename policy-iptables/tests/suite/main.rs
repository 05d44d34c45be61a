//! Tests of the whole crate: policies of random worlds by three judges, and the driver on a real kernel.
//!
//! | module | question |
//! |---|---|
//! | `tables` | does each sentence of the semantics hold, by hand-written cases |
//! | `random` | do reference and walker agree; does the plan depend on the set of objects alone |
//! | `differential` | does the kernel agree with both |
//! | `driver` | does everything load, list, get adopted; what does a change cost |
//! | `scale` | what does a change cost on a full node |
//! | `flows` | are the right live flows named after a change, and cut |
//! | `traffic` | is anything lost or let through while policy changes and daemons die |
//!
//! Those that need a kernel run in a network namespace of their own and skip visibly without one.
#![cfg(feature = "io")]
#![expect(
    clippy::disallowed_methods,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a test fails by panicking, says what it measured, and sets up devices with ip and sysctl"
)]

mod bench;
mod differential;
mod driver;
mod everything;
mod flows;
mod namespace;
mod random;
mod scale;
mod tables;
mod traffic;
mod wire;
mod worlds;
