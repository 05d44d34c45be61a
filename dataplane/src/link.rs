//! Devices: names, hardware addresses, tunnels, the host ends of pods.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

/// Longest interface name in octets (`IFNAMSIZ` without its terminating zero).
const NAME_MAX: usize = 15;

/// Name of a network interface. Plans speak of devices by name; an index is looked up when a change is applied, because a device
/// that was made again keeps its name only.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IfName(Arc<str>);

/// A text that no interface can be called.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no interface name: 1 to 15 printable octets, not \".\" or \"..\", without '/', ':' and blanks"
)]
pub struct BadIfName(pub String);

impl IfName {
    /// Parses a name by the kernel's rules (`dev_valid_name`).
    ///
    /// # Errors
    /// [`BadIfName`] repeats the text, cut to 64 characters.
    pub fn parse(text: &str) -> Result<Self, BadIfName> {
        let forbidden = |c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control();
        if text.is_empty()
            || text.len() > NAME_MAX
            || text == "."
            || text == ".."
            || text.contains(forbidden)
        {
            return Err(BadIfName(text.chars().take(64).collect()));
        }
        Ok(Self(text.into()))
    }

    /// The name of a device whose index nobody can name any more; equals no real name.
    #[cfg(any(feature = "io", test))]
    pub(crate) fn unknown(index: u32) -> Self {
        Self(format!("/{index}").into())
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for IfName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl AsRef<str> for IfName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

/// An Ethernet address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(pub [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, octet) in self.0.iter().enumerate() {
            let separator = if place == 0 { "" } else { ":" };
            write!(f, "{separator}{octet:02x}")?;
        }
        Ok(())
    }
}

/// A tunnel device: what makes it this device, and what may change in place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tunnel {
    /// A difference here means delete and make again.
    pub shape: Shape,
    /// Octets of an inner packet that fit.
    pub mtu: u32,
    /// Administratively up.
    pub up: bool,
    /// Carries our alias.
    pub marked: bool,
}

/// What cannot be changed on a device that stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shape {
    /// A VXLAN device with nothing learnt, no group, no miss notifications.
    Vxlan(Vxlan),
    /// The IP-in-IP device for any peer. It comes with the kernel's module and cannot be deleted: one that nobody wants is released
    /// by taking our mark off it.
    Ipip,
    /// Something else stands under the name; only ever read from the kernel.
    Foreign,
}

/// Identity of a VXLAN device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vxlan {
    /// Network identifier, 24 bits.
    pub vni: u32,
    /// UDP destination port.
    pub port: u16,
    /// Node address: source of the outer header.
    pub local: IpAddr,
    /// Device the outer packets leave by.
    pub parent: IfName,
    /// Hardware address; peers know it.
    pub mac: Mac,
}

/// The host end of a pod: made by a recipe, brought up by the planner once policy stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WorkloadLink {
    /// Administratively up.
    pub up: bool,
}

/// How long an address stays. Ours stay for ever; one that would end was put by somebody else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lifetime {
    /// Until it is removed.
    Forever,
    /// Until a timer ends it.
    Limited,
}

/// An address on one of our tunnel devices, or the gateway's on the host end of a pod. The kernel's key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct AddressKey {
    /// Device that carries it.
    pub device: IfName,
    /// Address with its prefix length.
    pub address: IpNet,
}

impl fmt::Display for AddressKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} on {}", self.address, self.device)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_kernels_rules() {
        for good in ["eth0", "cali0123456789a", "vxlan.calico", "a"] {
            assert!(IfName::parse(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            ".",
            "..",
            "sixteen-octets-x",
            "a/b",
            "a:1",
            "a b",
            "a\tb",
            "a\nb",
        ] {
            assert!(IfName::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn an_unknown_device_equals_no_name() {
        assert!(IfName::parse(IfName::unknown(7).as_str()).is_err());
    }
}
