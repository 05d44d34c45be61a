//! What address translation the node needs: planned in `dataplane`, rendered in `policy-iptables`.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;

/// Facts for the chains `nat_post` and `raw`, from pools, nodes and configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NatFacts {
    /// Pools whose `natOutgoing` is set, disabled ones too: sources to masquerade.
    pub nat_pools: BTreeSet<IpNet>,
    /// All pools but those only for LoadBalancer: destinations that keep the pod's source.
    pub all_pools: BTreeSet<IpNet>,
    /// Node addresses excluded as well when `natOutgoingExclusions: IPPoolsAndHostIPs`.
    pub excluded_hosts: BTreeSet<IpAddr>,
    /// `natOutgoingAddress`: translate to this address instead of the interface's own.
    pub snat_address: Option<Ipv4Addr>,
    /// `natPortRange`, inclusive, for TCP and UDP.
    pub port_range: Option<(u16, u16)>,
    /// `iptablesNATOutgoingInterfaceFilter`: translate only what leaves here.
    pub interface: Option<String>,
    /// Tunnel devices and their own addresses: a local source that leaves a tunnel with another address is masqueraded.
    pub tunnels: Vec<TunnelSource>,
    /// UDP port of VXLAN while a pool needs it: not tracked, never taken as a translated source port.
    pub vxlan_port: Option<u16>,
    /// Addresses from which tunnel packets are accepted: all node addresses and `externalNodesList`.
    pub tunnel_sources: BTreeSet<IpNet>,
}

/// A tunnel device and the address that packets of this host should carry through it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TunnelSource {
    /// Name of the device.
    pub device: String,
    /// Tunnel address of this node.
    pub address: IpAddr,
}
