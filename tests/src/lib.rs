//! A datacentre on one machine, with a real Kubernetes inside: what the demo, the scenarios and the benchmarks stand in.
//!
//! ```text
//!                 spine 10.0.0.0/31
//!   control --- tor-a (BIRD) ======== tor-b (FRR) --- outside
//!                |                     |
//!            a1     a2             b1     b2        nodes: containerd, kubelet, kube-proxy
//! ```
//!
//! Every box is a [`machine::Machine`]: a set of namespaces (network, mount, process, host name) whose first process ends with the
//! lab, however the lab ends; with it the kernel ends everything inside. [`Lab`] is the front door. The crate knows
//! Margay only from outside, as a user does: by its manifest and its image.
#![expect(
    clippy::disallowed_methods,
    reason = "the lab acts: it is an `io` room as a whole"
)]

pub mod apiproxy;
pub mod binaries;
pub mod capture;
pub mod changes;
pub mod cni;
pub mod command;
pub mod control;
pub mod daemon;
pub mod fabric;
pub mod family;
pub mod flow;
pub mod forward;
pub mod guest;
pub mod image;
pub mod kubectl;
pub mod lab;
pub mod machine;
pub mod margay;
pub mod matrix;
pub mod node;
pub mod peers;
pub mod prepare;
pub mod progress;
pub mod requires;
pub mod rival;
pub mod run;
pub mod seed;
pub mod wait;
pub mod wire;

pub use fabric::Topology;
pub use family::{Families, Family};
pub use lab::{Lab, Options};
