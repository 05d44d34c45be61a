//! Links, addresses, routes, neighbours and tunnels of one node: plan them, make the kernel equal.
//!
//! ```text
//!  World, Host ──► plan ──► Desired ──► Tables (desired against actual) ──► ordered changes ──► io::Driver ──► kernel
//!                                          ▲                                                        │
//!                                          └───────────────────── listings ─────────────────────────┘
//! ```
//!
//! `plan` and [`Tables`] are pure. `io` (feature of the same name) lists and applies over netlink, attaches pods, listens for
//! changes and deletes connection tracking entries. It never decides, and plans never read the kernel.

#![forbid(unsafe_code)]

pub mod host;
#[cfg(feature = "io")]
pub mod io;
pub mod link;
pub mod neighbour;
pub mod nexthop;
pub mod plan;
pub mod route;
pub mod sysctl;
pub mod tables;

pub use host::{Device, Host, Lacks, Routers};
pub use link::{AddressKey, IfName, Lifetime, Mac, Shape, Tunnel, Vxlan, WorkloadLink};
pub use neighbour::{FdbKey, NeighbourKey};
pub use nexthop::{Nexthop, NexthopId, NexthopMode};
pub use plan::{Finding, Plan};
pub use route::{Group, Hop, KernelTarget, Protocol, Route, RouteKey, Target};
pub use tables::{Desired, Retain, RouteChanges, Strangers, Table, Tables};
