//! Handle ids: what an address is for, and the owner attributes that go with them.

use std::collections::BTreeMap;

use ipnet::IpNet;

use crate::block::Extra;
use crate::name;
use crate::time::Time;

/// Handle of Calico's reserved Windows addresses: never touched, and does not make a block busy.
pub const WINDOWS_RESERVED: &str = "windows-reserved-ipam-handle";

/// Owner attributes of an allocation: name → value.
pub type Attributes = BTreeMap<String, String>;

/// Handle of an attachment: `<network>.<container id>`, other interfaces than `eth0` with `.<ifname>` behind.
pub fn attachment(network: &str, container_id: &str, ifname: &str) -> String {
    if ifname == "eth0" {
        format!("{network}.{container_id}")
    } else {
        format!("{network}.{container_id}.{ifname}")
    }
}

/// Handle of the addresses a node keeps ready: one for all of them.
pub fn warm(node: &str) -> String {
    format!("margay-warm-{node}")
}

/// Whether a handle is that of addresses some node keeps ready.
pub fn is_warm(handle: &str) -> bool {
    handle.starts_with("margay-warm-")
}

/// The part of a stored handle id that counts: old migrations left a `\r` and more behind.
pub fn significant(stored: &str) -> &str {
    stored.split('\r').next().unwrap_or_default()
}

/// A node's own addresses at the mouth of a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TunnelKind {
    /// IP-in-IP, IPv4.
    Ipip,
    /// VXLAN, IPv4.
    Vxlan,
    /// VXLAN, IPv6.
    VxlanV6,
    /// `WireGuard`, IPv4.
    Wireguard,
    /// `WireGuard`, IPv6.
    WireguardV6,
}

impl TunnelKind {
    /// Handle id of this node's address: one per node and kind.
    pub fn handle(self, node: &str) -> String {
        let prefix = match self {
            Self::Ipip => "ipip-tunnel-addr",
            Self::Vxlan => "vxlan-tunnel-addr",
            Self::VxlanV6 => "vxlan-v6-tunnel-addr",
            Self::Wireguard => "wireguard-tunnel-addr",
            Self::WireguardV6 => "wireguard-v6-tunnel-addr",
        };
        format!("{prefix}-{node}")
    }

    /// Value of the `type` owner attribute.
    pub fn type_attribute(self) -> &'static str {
        match self {
            Self::Ipip => "ipipTunnelAddress",
            Self::Vxlan => "vxlanTunnelAddress",
            Self::VxlanV6 => "vxlanV6TunnelAddress",
            Self::Wireguard => "wireguardTunnelAddress",
            Self::WireguardV6 => "wireguardV6TunnelAddress",
        }
    }

    /// Whether the address is an IPv6 one.
    pub fn is_v6(self) -> bool {
        matches!(self, Self::VxlanV6 | Self::WireguardV6)
    }

    /// Owner attributes of this node's address.
    pub fn attributes(self, node: &str) -> Attributes {
        Attributes::from([
            ("node".to_owned(), node.to_owned()),
            ("type".to_owned(), self.type_attribute().to_owned()),
        ])
    }
}

/// Owner attributes of a pod's main address.
pub fn pod_attributes(namespace: &str, pod: &str, node: &str, now: Time) -> Attributes {
    Attributes::from([
        ("pod".to_owned(), pod.to_owned()),
        ("namespace".to_owned(), namespace.to_owned()),
        ("node".to_owned(), node.to_owned()),
        ("timestamp".to_owned(), now.to_attribute()),
    ])
}

/// Owner attributes of a pod's further interface.
///
/// Calico's collector frees an address whose pod does not list it in its status and leaves entries without pod
/// attributes alone; hence keys of our own instead of `pod` and `namespace`.
pub fn secondary_attributes(
    namespace: &str,
    pod: &str,
    ifname: &str,
    node: &str,
    now: Time,
) -> Attributes {
    Attributes::from([
        ("margay.pod".to_owned(), pod.to_owned()),
        ("margay.namespace".to_owned(), namespace.to_owned()),
        ("margay.ifname".to_owned(), ifname.to_owned()),
        ("node".to_owned(), node.to_owned()),
        ("timestamp".to_owned(), now.to_attribute()),
    ])
}

/// A stored handle object: an index of blocks for other tools. It may lag and is never trusted.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Handle {
    /// The handle id as it is; the object's name is its lower-case form.
    pub id: String,
    /// Block → number of addresses.
    pub blocks: BTreeMap<IpNet, u32>,
    /// Soft-deleted: readers treat the object as absent.
    pub deleted: bool,
    /// Fields of the stored spec that this version does not know.
    pub extra: Extra,
}

impl Handle {
    /// An object that says where the addresses of `id` lie.
    pub fn new(id: &str, blocks: BTreeMap<IpNet, u32>) -> Self {
        Self {
            id: id.to_owned(),
            blocks,
            deleted: false,
            extra: Extra::new(),
        }
    }

    /// Name of the stored object.
    pub fn name(&self) -> String {
        name::handle(&self.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attachment_handles_name_the_interface_unless_it_is_eth0() {
        assert_eq!(
            attachment("k8s-pod-network", "abc", "eth0"),
            "k8s-pod-network.abc"
        );
        assert_eq!(
            attachment("k8s-pod-network", "abc", "net1"),
            "k8s-pod-network.abc.net1"
        );
    }

    #[test]
    fn handles_are_read_up_to_a_carriage_return() {
        assert_eq!(significant("net.abc\r\nrest"), "net.abc");
        assert_eq!(significant("net.abc"), "net.abc");
    }

    #[test]
    fn tunnel_handles_and_types_are_calicos() {
        for (kind, handle, tag) in [
            (TunnelKind::Ipip, "ipip-tunnel-addr-n1", "ipipTunnelAddress"),
            (
                TunnelKind::Vxlan,
                "vxlan-tunnel-addr-n1",
                "vxlanTunnelAddress",
            ),
            (
                TunnelKind::VxlanV6,
                "vxlan-v6-tunnel-addr-n1",
                "vxlanV6TunnelAddress",
            ),
            (
                TunnelKind::Wireguard,
                "wireguard-tunnel-addr-n1",
                "wireguardTunnelAddress",
            ),
            (
                TunnelKind::WireguardV6,
                "wireguard-v6-tunnel-addr-n1",
                "wireguardV6TunnelAddress",
            ),
        ] {
            assert_eq!(kind.handle("n1"), handle);
            assert_eq!(
                kind.attributes("n1").get("type").map(String::as_str),
                Some(tag)
            );
        }
    }
}
