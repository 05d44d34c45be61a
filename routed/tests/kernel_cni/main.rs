//! The real plugin, executed, against the real server over the real kernel: links, routes, policy. Only the API server is missing;
//! the World is told by hand, and addresses come from a list.
//!
//! Runs as root in a network and mount namespace of its own (`unshare -nm --propagation private`); skips, and says so, elsewhere.
#![expect(
    clippy::disallowed_methods,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a test executes programs, times them, prints what it measured, and fails by panic"
)]

mod bench;
mod echo;
mod exec;
mod node;
mod verbs;
