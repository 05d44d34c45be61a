//! World → what the kernel of this node should hold. Pure.
//!
//! ```text
//!  World ─┬─ tunnels ── device, address, neighbours, forwarding ─┐
//!  Host ──┼─ routes ─── candidates per key, best first ──────────┼─► Plan{desired, nat, mtu, findings}
//!         ├─ mtu ─────  smallest of the enabled encapsulations   │
//!         └─ nat ─────  facts, rendered by policy-iptables ──────┘
//!  pod ──── workload ── Recipe, performed once at ADD
//! ```

pub mod mtu;
pub mod nat;
pub mod pools;
pub mod routes;
pub mod settings;
pub mod tunnels;
pub mod workload;

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use model::{NatFacts, NodeName, ObjectName, World};

use crate::host::{Host, Routers};
use crate::link::{AddressKey, IfName, Lifetime, Mac, WorkloadLink};
use crate::neighbour::NeighbourKey;
use crate::route::Target;
use crate::sysctl::{Ipv6Key, Sysctl};
use crate::tables::Desired;

use mtu::Mtus;
use pools::{Family, Pools};
use routes::Candidates;
use settings::Settings;
use tunnels::Tunnels;

/// What follows from the World, with the reasons for what does not.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// What the kernel should hold. `routes` are the planned ones alone; merge learnt ones by [`routes::merge`].
    pub desired: Desired,
    /// All planned routes, the losers of a key too; the input of [`routes::merge`].
    pub candidates: Candidates,
    /// Address translation.
    pub nat: NatFacts,
    /// Sizes of tunnels and pods.
    pub mtu: Mtus,
    /// What is missing or contradictory, for conditions and `explain`.
    pub findings: Vec<Finding>,
}

/// Something that keeps a part of the plan from being made.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum Finding {
    /// This node's own object or address annotation is missing: nothing that leaves the node can be planned.
    #[error(
        "this node has no IPv{version} address annotation yet: no tunnel and no remote route of that family"
    )]
    NoOwnAddress {
        /// 4 or 6.
        version: u8,
    },
    /// No device carries the node address.
    #[error("no device carries the node address {address}: no route to other nodes")]
    NoParent {
        /// The address from the annotation.
        address: IpAddr,
    },
    /// This node has no tunnel address yet.
    #[error("this node has no tunnel address for {device} yet: no tunnel")]
    NoOwnTunnelAddress {
        /// The device that would carry it.
        device: IfName,
    },
    /// A node that owns a block is unknown or has no address.
    #[error("{prefix} belongs to node {node}, which has no node address: no route")]
    NoNodeAddress {
        /// Owner of the prefix.
        node: NodeName,
        /// The block or borrowed address.
        prefix: IpNet,
    },
    /// A node that is reached by VXLAN has not published a tunnel address.
    #[error("{prefix} belongs to node {node}, which has no VXLAN tunnel address: no route")]
    NoVtep {
        /// Owner of the prefix.
        node: NodeName,
        /// The block or borrowed address.
        prefix: IpNet,
    },
    /// Two nodes claim one tunnel address, hardware address or node address.
    #[error("nodes {kept} and {refused} both claim {what}: {refused} gets no tunnel")]
    SharedVtep {
        /// Keeps it.
        kept: NodeName,
        /// Is left out.
        refused: NodeName,
        /// The address both claim.
        what: String,
    },
    /// A block would carry packets for a node into a tunnel.
    #[error("{prefix} contains the address of node {node}: it is not routed into a tunnel")]
    NodeAddressInBlock {
        /// The node whose address lies inside.
        node: NodeName,
        /// The block.
        prefix: IpNet,
    },
    /// Two interfaces of this node claim one address.
    #[error("interfaces {kept} and {refused} both claim {address}: {refused} gets no route")]
    SharedAddress {
        /// Keeps the route.
        kept: IfName,
        /// Is left out.
        refused: IfName,
        /// The address both claim.
        address: IpAddr,
    },
    /// An interface name that the kernel cannot have.
    #[error("endpoint {endpoint}: {error}")]
    BadInterface {
        /// The endpoint.
        endpoint: String,
        /// What is wrong with the name.
        error: String,
    },
    /// A pool whose range cannot be read.
    #[error("pool {pool}: cidr {cidr:?} is no prefix; its encapsulation and NAT are not applied")]
    BadPool {
        /// The pool.
        pool: ObjectName,
        /// What stands there.
        cidr: String,
    },
    /// A pool wants an encapsulation that this kernel cannot do.
    #[error(
        "pool {pool} wants {what}, which the kernel of this node cannot do ({reason}): no route to its other nodes; load the module or change the pool's mode"
    )]
    KernelLacks {
        /// The pool.
        pool: ObjectName,
        /// The encapsulation.
        what: &'static str,
        /// The kernel's words.
        reason: String,
    },
    /// A pool of IPv6 addresses wants IP-in-IP.
    #[error(
        "pool {pool}: ipipMode carries IPv4 only: no route to its other nodes; use vxlanMode or neither"
    )]
    Ipv6InIpip {
        /// The pool.
        pool: ObjectName,
    },
    /// No device matches `mtuIfacePattern`.
    #[error("no running device matches mtuIfacePattern: the MTU of {parent} is used")]
    NoMtuDevice {
        /// The parent.
        parent: IfName,
    },
    /// The kernel would send IP-in-IP from an address that other nodes do not know this node by, and they would drop it.
    #[error(
        "IP-in-IP to {peer} would leave from {used}, but nodes accept it from node addresses only and this one's is {own}: route {peer} with source {own}"
    )]
    OuterSource {
        /// The node address that was looked up.
        peer: IpAddr,
        /// What the kernel chooses.
        used: IpAddr,
        /// This node's address.
        own: IpAddr,
    },
    /// A configured MTU that the uplink cannot carry.
    #[error("FelixConfiguration {field}: {value} does not fit the uplink; {used} is used")]
    MtuTooLarge {
        /// Name of the field.
        field: &'static str,
        /// What stands there, octets.
        value: u32,
        /// What is used instead, octets.
        used: u32,
    },
    /// Pods would get an MTU below what IPv6 demands of every link.
    #[error(
        "the MTU of pods is {mtu}, below the 1280 of IPv6 (RFC 8200): pods get no IPv6 address until the uplink carries more"
    )]
    MtuBelowIpv6 {
        /// Octets.
        mtu: u32,
    },
}

impl Plan {
    /// A node that is reached by IP-in-IP, whose device leaves the outer source to the kernel: worth a look at what it chooses.
    pub fn ipip_peer(&self) -> Option<IpAddr> {
        self.candidates
            .values()
            .flatten()
            .filter(|candidate| candidate.rank == routes::Rank::IpipTunnel)
            .find_map(|candidate| match &candidate.route.target {
                Target::Hop(hop) => Some(hop.gateway),
                Target::Device(_) | Target::Group(_) | Target::Blackhole => None,
            })
    }
}

/// Plans everything of this node but the recipes of pods.
pub fn plan(world: &World, host: &Host, settings: &Settings) -> Plan {
    let (pools, mut findings) = Pools::read(world);
    let (mtu, gaps) = mtu::plan(world, host, settings, &pools);
    findings.extend(gaps);
    let (tunnels, gaps) = Tunnels::read(world, host, settings, &pools, &mtu);
    findings.extend(gaps);
    let (candidates, gaps) = routes::plan(world, host, settings, &pools, &tunnels);
    findings.extend(gaps);
    let mut desired = Desired::default();
    tunnels.add_to(&mut desired);
    add_workloads(world, settings, &mut desired);
    if settings.forwarding {
        desired.settings = forwarding(host, settings, &pools);
    }
    desired.strangers = settings.strangers;
    desired.routes = routes::merge(&candidates, &BTreeMap::new()).chosen;
    findings.sort();
    findings.dedup();
    Plan {
        nat: nat::plan(world, settings, &pools, &tunnels),
        desired,
        candidates,
        mtu,
        findings,
    }
}

/// Settings that make this host a router. Once it forwards IPv6 its kernel stops believing routers on devices that do not say
/// otherwise, and an uplink that lives from advertisements would lose its addresses and its default route: those say otherwise
/// before (the order of [`Sysctl`] is the order of writing).
fn forwarding(host: &Host, settings: &Settings, pools: &Pools) -> BTreeMap<Sysctl, u32> {
    let mut wanted = BTreeMap::from([(Sysctl::Ipv4Forward, 1)]);
    if !settings.ipv6 || !pools.serves(Family::V6) {
        return wanted;
    }
    wanted.insert(Sysctl::Ipv6AllForwarding, 1);
    for (name, device) in &host.devices {
        match device.routers {
            Routers::HeardByHosts => {
                let key = Sysctl::Ipv6Device(name.clone(), Ipv6Key::AcceptRa);
                wanted.insert(key, 2);
            }
            Routers::Unheard | Routers::Heard => {}
        }
    }
    wanted
}

/// Host ends up, the gateway's address on them, and their pods as permanent neighbours.
fn add_workloads(world: &World, settings: &Settings, desired: &mut Desired) {
    for view in world.local_endpoints() {
        // A name the kernel cannot have is reported by `routes::plan`.
        let Ok(device) = IfName::parse(&view.endpoint.interface) else {
            continue;
        };
        desired
            .workloads
            .insert(device.clone(), WorkloadLink { up: true });
        if settings.ipv6 && view.endpoint.addresses.iter().any(IpAddr::is_ipv6) {
            // Made by the recipe, and lost with every "down".
            let gateway = AddressKey {
                device: device.clone(),
                address: workload::gateway_v6().into(),
            };
            desired.addresses.insert(gateway, Lifetime::Forever);
        }
        let Some(mac) = view.endpoint.mac else {
            continue;
        };
        for &address in &view.endpoint.addresses {
            if address.is_ipv6() && !settings.ipv6 {
                continue;
            }
            let key = NeighbourKey {
                device: device.clone(),
                address,
            };
            desired.neighbours.insert(key, Mac(mac));
        }
    }
}

#[cfg(test)]
mod tests;
