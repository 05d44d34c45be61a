//! The node daemon of Margay, its controller, and the command line that asks them.
//!
//! See `DESIGN.md` for tasks, channels and the order of start and stop.

pub mod agent;
pub mod args;
pub mod cli;
pub mod clock;
pub mod cni;
pub mod controller;
pub mod families;
pub mod fib;
pub mod flows;
pub mod health;
pub mod inspect;
pub mod ipam;
pub mod kube;
pub mod lock;
pub mod log;
pub mod manifests;
pub mod metrics;
pub mod peering;
pub mod reconcile;
pub mod signal;
pub mod speaker;
pub mod tunnel;
pub mod uplink;
pub mod validate;
pub mod world;
