//! What the cluster looks like to one node.
//!
//! ```text
//!  watches ──► Event ──► World::apply ──► Dirty ──► plans of dataplane, policy-iptables, peering
//!  CNI     ──►                │
//!                             └─► Membership: selector → addresses, incremental
//! ```
//!
//! The crate is pure: it reads no clock, no socket, no file, and the state of a [`World`] depends on the set of objects it was
//! told of, never on their order. [`Delta`] is the other half: desired against actual for any table of the kernel.

#![forbid(unsafe_code)]

pub mod block;
pub mod delta;
pub mod endpoint;
pub mod event;
pub mod flow;
pub mod ids;
pub mod membership;
pub mod nat;
pub mod networkset;
pub mod node;
pub mod service;
pub mod settings;
pub mod world;

pub use block::{Block, BlockOwner};
pub use delta::{Changes, Delta};
pub use endpoint::{LocalEndpoint, NamedPort, Namespace, Pod, ServiceAccount, Transport};
pub use event::{Event, Key, Kind, Object};
pub use ids::{AttachmentId, NamespacedName, NodeName, ObjectName, PodRef};
pub use membership::{Member, MemberKey, Membership};
pub use nat::{NatFacts, TunnelSource};
pub use networkset::{GlobalNetworkSet, NetworkSet};
pub use node::Node;
pub use service::{Backends, EndpointSlice};
pub use world::{Dirty, EndpointView, World};
