//! What a plan must know of the host: its devices and the addresses on them.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::link::IfName;

/// Devices of the host's namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Host {
    /// Devices, by name.
    pub devices: BTreeMap<IfName, Device>,
}

/// One device.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Device {
    /// Index at the time of listing.
    pub index: u32,
    /// MTU in octets.
    pub mtu: u32,
    /// Operationally up (or of a kind that cannot tell, and administratively up).
    pub running: bool,
    /// Addresses with their prefix lengths.
    pub addresses: Vec<IpNet>,
}

impl Host {
    /// The device that carries an address: the parent, if the address is the node's.
    pub fn carrier_of(&self, address: IpAddr) -> Option<(&IfName, &Device)> {
        self.devices
            .iter()
            .find(|(_, device)| device.addresses.iter().any(|net| net.addr() == address))
    }
}
