//! Who owns which address: one owner per address, under any interleaving and any crash, with the Kubernetes API as
//! the only store and Calico's objects as the only format.
//!
//! ```text
//!   requests ─┐                                   ┌─► answers
//!   events ───┼─► allocator (jobs, lanes, index) ─┤
//!   replies ──┘        │ block algebra            └─► store calls ─► (whoever owns the allocator)
//!                      │ claim protocol (affinity)
//!                      └ pool candidates
//! ```
//!
//! The crate is sans-IO: no task, no socket, no clock, no randomness. It does *not* talk to the API server
//! (`routed::kube::store` does), route anything, or decide which address a tunnel device carries in the end.
#![forbid(unsafe_code)]

pub mod affinity;
pub mod allocator;
pub mod audit;
pub mod block;
pub mod codec;
pub mod collector;
pub mod handle;
pub mod index;
pub mod memory;
pub mod name;
pub mod pool;
pub mod request;
pub mod store;
pub mod tunnel;

mod net;
mod time;

pub use allocator::{Allocator, Input, Living, Note, Output, Settings};
pub use index::{Config, Event, Held, Index};
pub use net::Family;
pub use request::{
    Addresses, Answer, Assign, AssignError, Assigned, Class, Limit, Path, Release, ReleaseError,
    Released, RequestId, Taken, Tally, Want,
};
pub use time::Time;
