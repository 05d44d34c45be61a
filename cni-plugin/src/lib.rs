//! The doorbell of Margay: what a container runtime says to a CNI plugin, and how the plugin says it to the node's daemon.
//!
//! ```text
//! runtime ──exec──► margay (main.rs) ──frame + sandbox descriptor──► routed::cni
//!         ◄─stdout─                  ◄────── one reply ─────────────
//! ```
//!
//! [`spec`] is the language of the CNI specification (pure), [`rpc`] the private wire between plugin and daemon, [`spool`] what
//! a DEL leaves behind when no daemon answers. The plugin holds no credential, makes no API call, touches no interface and
//! decides nothing: it checks the border, rings and prints.

#![forbid(unsafe_op_in_unsafe_fn)]

mod namespace;
pub mod rpc;
pub mod spec;
pub mod spool;

pub use namespace::is_network_namespace;

/// Where the daemon listens unless the network configuration names another `socket`.
pub const DEFAULT_SOCKET: &str = "/run/margay/cni.sock";

/// Version of this build, sent with every request.
pub const BUILD: &str = env!("CARGO_PKG_VERSION");
