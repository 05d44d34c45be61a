//! The dataplane against a real kernel, in namespaces that each test makes for itself. Needs root.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a test fails by panicking, looks at the kernel with `ip` and takes times"
)]

mod netns;
mod routes;
mod tunnels;
mod workload;
mod world;
