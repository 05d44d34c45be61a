//! The real rooms behind [`super::seams`]: translation of types and errors, nothing else.

mod addresses;
mod cluster;
mod kernel;

pub use addresses::Ipam;
pub use cluster::World;
pub use kernel::{Links, OpenError};
