//! Who is reached under which hardware address: neighbour and forwarding entries, always permanent.

use std::fmt;
use std::net::IpAddr;

use crate::link::{IfName, Mac};

/// A neighbour entry: address → [`Mac`]. The kernel's key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct NeighbourKey {
    /// Device on which the neighbour is reached.
    pub device: IfName,
    /// Its address.
    pub address: IpAddr,
}

impl fmt::Display for NeighbourKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} on {}", self.address, self.device)
    }
}

/// A forwarding entry of a VXLAN device: hardware address → node address of the outer header. The kernel's key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct FdbKey {
    /// The VXLAN device.
    pub device: IfName,
    /// Hardware address of the remote end.
    pub mac: Mac,
}

impl fmt::Display for FdbKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} on {}", self.mac, self.device)
    }
}
