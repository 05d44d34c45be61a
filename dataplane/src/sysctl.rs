//! The kernel settings we may write, and no others.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::link::IfName;

/// A key of the allow-list. Keys that name a device are for devices we made, and `accept_ra` of uplinks.
///
/// The order is the order in which a set of them is written.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Sysctl {
    /// `net.ipv4.ip_forward`.
    Ipv4Forward,
    /// `net.ipv4.nexthop_compat_mode`: 0 keeps a group replace at two notifications whatever the number of routes.
    NexthopCompatMode,
    /// `net.ipv6.conf.{all,default,lo}.disable_ipv6` of a pod.
    DisableIpv6(Ipv6Scope),
    /// A key below `net.ipv6.conf.<device>`.
    Ipv6Device(IfName, Ipv6Key),
    /// `net.ipv6.conf.all.forwarding`. Last: it takes effect on every device at once.
    Ipv6AllForwarding,
}

/// The pseudo devices whose `disable_ipv6` a pod needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ipv6Scope {
    /// Every device.
    All,
    /// Devices to come.
    Default,
    /// The loopback.
    Loopback,
}

/// Keys of one IPv6 device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ipv6Key {
    /// Forward packets that arrive here.
    Forwarding,
    /// Answer neighbour solicitations for proxied addresses.
    ProxyNdp,
    /// Probe for duplicates before an address is used.
    AcceptDad,
    /// No IPv6 on this device.
    Disable,
    /// Believe router advertisements.
    AcceptRa,
}

impl Sysctl {
    /// Path below the root that holds `net` (usually `/proc/sys`).
    pub fn path(&self, root: &Path) -> PathBuf {
        let (directory, key) = match self {
            Self::Ipv4Forward => ("net/ipv4".into(), "ip_forward"),
            Self::NexthopCompatMode => ("net/ipv4".into(), "nexthop_compat_mode"),
            Self::Ipv6AllForwarding => ("net/ipv6/conf/all".into(), "forwarding"),
            Self::DisableIpv6(scope) => (
                format!("net/ipv6/conf/{}", scope.directory()),
                "disable_ipv6",
            ),
            // A device name holds no '/', so it is one path component; '.' is not special in a path.
            Self::Ipv6Device(device, key) => (format!("net/ipv6/conf/{device}"), key.file()),
        };
        root.join(directory).join(key)
    }
}

impl fmt::Display for Sysctl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path(Path::new("")).display())
    }
}

impl Ipv6Scope {
    fn directory(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Default => "default",
            Self::Loopback => "lo",
        }
    }
}

impl Ipv6Key {
    fn file(self) -> &'static str {
        match self {
            Self::Forwarding => "forwarding",
            Self::ProxyNdp => "proxy_ndp",
            Self::AcceptDad => "accept_dad",
            Self::Disable => "disable_ipv6",
            Self::AcceptRa => "accept_ra",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_with_a_dot_is_one_directory() {
        let key = Sysctl::Ipv6Device(IfName::parse("vxlan.calico").unwrap(), Ipv6Key::AcceptRa);
        assert_eq!(
            key.path(Path::new("/proc/sys")),
            Path::new("/proc/sys/net/ipv6/conf/vxlan.calico/accept_ra")
        );
    }
}
