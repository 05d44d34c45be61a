//! The dataplane against a real kernel, in namespaces that each test makes for itself. Needs root.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a test fails by panicking, looks at the kernel with `ip` and takes times"
)]

mod ipip;
mod ipv6;
mod netns;
mod racks;
mod routes;
mod tunnels;
mod workload;
mod world;
