//! Routes of this node: who may say where a destination is, and who wins when several do.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use api::AffinityState;
use ipnet::IpNet;
use model::{Block, BlockOwner, Node, NodeName, World};

use super::Finding;
use super::pools::{Encap, Family, Pools, Scope};
use super::settings::{Bgp, Settings};
use super::tunnels::{Overlay, Tunnels};
use crate::host::Host;
use crate::link::IfName;
use crate::route::{Hop, Route, RouteKey, Target};

/// Who wins one kernel key, best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rank {
    /// A pod of this node.
    LocalWorkload,
    /// A block in a VXLAN pool on a node of our subnet.
    VxlanSameSubnet,
    /// A block in a VXLAN pool behind the tunnel.
    VxlanTunnel,
    /// A block in an IP-in-IP pool on a node of our subnet.
    IpipSameSubnet,
    /// A block in an IP-in-IP pool behind the tunnel.
    IpipTunnel,
    /// A block in a pool without encapsulation.
    NoEncap,
    /// Anything else learnt by BGP.
    OtherBgp,
    /// An own block: what nobody has is dropped, not sent to the router.
    Blackhole,
}

/// A route that might go into the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Its standing against others of the same key.
    pub rank: Rank,
    /// The route.
    pub route: Route,
    /// Where it comes from, for `explain`.
    pub reason: String,
}

/// Candidates by key, in the order in which they were found.
pub type Candidates = BTreeMap<RouteKey, Vec<Candidate>>;

/// One route per key, and what it was chosen over.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Merged {
    /// Goes into the kernel.
    pub chosen: BTreeMap<RouteKey, Route>,
    /// Candidates that lost, best first, after the winner's reason.
    pub contested: BTreeMap<RouteKey, Vec<Candidate>>,
}

/// Merges planned with learnt candidates. Of equal rank the first wins, planned ones first.
pub fn merge(planned: &Candidates, learnt: &Candidates) -> Merged {
    let mut merged = Merged::default();
    for (key, candidates) in planned {
        let more = learnt.get(key).map_or(&[][..], Vec::as_slice);
        merged.choose(key, candidates.iter().chain(more));
    }
    for (key, candidates) in learnt {
        if !planned.contains_key(key) {
            merged.choose(key, candidates.iter());
        }
    }
    merged
}

impl Merged {
    fn choose<'a>(
        &mut self,
        key: &RouteKey,
        candidates: impl Iterator<Item = &'a Candidate> + Clone,
    ) {
        let Some(best) = candidates.clone().min_by_key(|candidate| candidate.rank) else {
            return;
        };
        self.chosen.insert(key.clone(), best.route.clone());
        if candidates.clone().nth(1).is_some() {
            let mut all: Vec<_> = candidates.cloned().collect();
            all.sort_by_key(|candidate| candidate.rank);
            self.contested.insert(key.clone(), all);
        }
    }
}

/// Plans every route that does not come from BGP.
pub fn plan(
    world: &World,
    host: &Host,
    settings: &Settings,
    pools: &Pools,
    tunnels: &Tunnels,
) -> (Candidates, Vec<Finding>) {
    let mut planner = Planner {
        world,
        host,
        settings,
        pools,
        tunnels,
        candidates: Candidates::new(),
        findings: Vec::new(),
        covered: BTreeMap::new(),
        node_addresses: world
            .nodes()
            .iter()
            .flat_map(|(name, node)| node.addresses().map(move |address| (address, name)))
            .collect(),
    };
    planner.local_workloads();
    planner.own_blocks();
    planner.remote_blocks();
    planner.uncovered_vteps();
    (planner.candidates, planner.findings)
}

struct Planner<'a> {
    world: &'a World,
    host: &'a Host,
    settings: &'a Settings,
    pools: &'a Pools,
    tunnels: &'a Tunnels,
    candidates: Candidates,
    findings: Vec<Finding>,
    /// Prefixes that have a planned route, by the node they lead to.
    covered: BTreeMap<NodeName, Vec<IpNet>>,
    /// Whose each node address is.
    node_addresses: BTreeMap<IpAddr, &'a NodeName>,
}

/// How a remote node is reached.
struct Path {
    hop: Hop,
    mtu: Option<u32>,
    rank: Rank,
}

impl Planner<'_> {
    fn local_workloads(&mut self) {
        let mut owners: BTreeMap<IpAddr, IfName> = BTreeMap::new();
        for view in self.world.local_endpoints() {
            let endpoint = view.endpoint;
            let device = match IfName::parse(&endpoint.interface) {
                Ok(device) => device,
                Err(error) => {
                    self.findings.push(Finding::BadInterface {
                        endpoint: endpoint.id.to_string(),
                        error: error.to_string(),
                    });
                    continue;
                }
            };
            for &address in &endpoint.addresses {
                if address.is_ipv6() && !self.settings.ipv6 {
                    continue;
                }
                if let Some(kept) = owners.get(&address) {
                    self.findings.push(Finding::SharedAddress {
                        kept: kept.clone(),
                        refused: device.clone(),
                        address,
                    });
                    continue;
                }
                owners.insert(address, device.clone());
                let key = RouteKey::new(address.into(), self.settings.priority(address));
                let route = Route {
                    target: Target::Device(device.clone()),
                    protocol: self.settings.route_protocol,
                    source: self.settings.device_source(address),
                    mtu: None,
                };
                self.offer(
                    key,
                    Rank::LocalWorkload,
                    route,
                    format!("pod interface {device}"),
                );
            }
        }
    }

    /// Blackholes for what this node owns for certain. Not for single addresses: it would hide the pod.
    fn own_blocks(&mut self) {
        let this = self.world.this_node_name();
        let mut own = BTreeSet::new();
        for affinity in self.world.affinities().values() {
            let spec = &affinity.spec;
            let confirmed = spec.claim() == Some(AffinityState::Confirmed) && !spec.deleted;
            let ours = spec.node == this.as_str()
                && spec.type_.as_deref().is_none_or(|kind| kind == "host");
            if confirmed
                && ours
                && let Ok(cidr) = spec.cidr.parse::<IpNet>()
            {
                own.insert(cidr.trunc());
            }
        }
        for cidr in own {
            if cidr.prefix_len() == cidr.max_prefix_len() {
                continue;
            }
            let route = self.planned(Target::Blackhole, None);
            self.offer(
                RouteKey::new(cidr, 0),
                Rank::Blackhole,
                route,
                "block of this node".into(),
            );
        }
    }

    /// Blocks of other nodes, and addresses that other nodes use out of any block, ours included.
    fn remote_blocks(&mut self) {
        let this = self.world.this_node_name();
        for block in self.world.blocks().values() {
            if let BlockOwner::Node(owner) = &block.owner
                && owner != this
            {
                self.remote(block.cidr, owner, block);
            }
            for (address, holder) in &block.borrowed {
                if holder != this {
                    self.remote(IpNet::from(*address), holder, block);
                }
            }
        }
    }

    fn remote(&mut self, prefix: IpNet, node: &NodeName, block: &Block) {
        let family = Family::of_net(prefix);
        if family.is_v6() && !self.settings.ipv6 {
            return;
        }
        match self.path(prefix, node, self.pools.encap_of(block.cidr)) {
            Ok(Some(path)) => {
                self.covered.entry(node.clone()).or_default().push(prefix);
                let route = self.planned(Target::Hop(path.hop), path.mtu);
                self.offer(
                    RouteKey::new(prefix, 0),
                    path.rank,
                    route,
                    format!("block of node {node}"),
                );
            }
            Ok(None) => {}
            Err(finding) => self.findings.push(finding),
        }
    }

    /// The way to a node for a prefix; `None` when BGP is to say it.
    fn path(&self, prefix: IpNet, name: &NodeName, encap: Encap) -> Result<Option<Path>, Finding> {
        let family = Family::of_net(prefix);
        let missing = || Finding::NoNodeAddress {
            node: name.clone(),
            prefix,
        };
        let path = match encap {
            Encap::None if self.settings.bgp == Bgp::On => return Ok(None),
            Encap::None => {
                let node = self.world.nodes().get(name).ok_or_else(missing)?;
                self.native(node, family, Rank::NoEncap)?
                    .ok_or_else(missing)?
            }
            // Told once for the pool.
            Encap::Ipip(_) if family.is_v6() => return Ok(None),
            Encap::Ipip(scope) | Encap::Vxlan(scope) => {
                let node = self.world.nodes().get(name).ok_or_else(missing)?;
                let address = node.address(family.is_v6()).ok_or_else(missing)?;
                if scope == Scope::CrossSubnet && self.is_near(address)? {
                    self.native(node, family, near_rank(encap))?
                        .ok_or_else(missing)?
                } else if matches!(encap, Encap::Ipip(_)) {
                    return self.ipip(prefix, address);
                } else {
                    return self.vxlan(prefix, name);
                }
            }
        };
        Ok(Some(path))
    }

    /// Straight to the node address over the parent. `None`: the node has none.
    fn native(&self, node: &Node, family: Family, rank: Rank) -> Result<Option<Path>, Finding> {
        let own = self.own_address(family)?;
        let (parent, _) = self
            .host
            .carrier_of(own)
            .ok_or(Finding::NoParent { address: own })?;
        let path = |gateway| Path {
            hop: Hop {
                gateway,
                device: parent.clone(),
                onlink: true,
            },
            mtu: None,
            rank,
        };
        Ok(node.address(family.is_v6()).map(path))
    }

    /// Through the VXLAN tunnel. `None` when this node has no tunnel, which was reported once for the family.
    fn vxlan(&self, prefix: IpNet, name: &NodeName) -> Result<Option<Path>, Finding> {
        let Some(overlay) = self.tunnels.vxlan.overlay(Family::of_net(prefix)) else {
            return Ok(None);
        };
        let vtep = overlay.peers.get(name).ok_or_else(|| Finding::NoVtep {
            node: name.clone(),
            prefix,
        })?;
        self.holds_no_node(prefix)?;
        Ok(Some(Path {
            hop: through(overlay, vtep.tunnel),
            mtu: Some(overlay.tunnel.mtu),
            rank: Rank::VxlanTunnel,
        }))
    }

    /// Through the IP-in-IP tunnel, whose outer header goes to the gateway of the route. `None` as with VXLAN.
    fn ipip(&self, prefix: IpNet, gateway: IpAddr) -> Result<Option<Path>, Finding> {
        let Some(ipip) = &self.tunnels.ipip else {
            return Ok(None);
        };
        self.holds_no_node(prefix)?;
        Ok(Some(Path {
            hop: Hop {
                gateway,
                device: ipip.device.clone(),
                onlink: true,
            },
            mtu: Some(ipip.tunnel.mtu),
            rank: Rank::IpipTunnel,
        }))
    }

    /// A node inside the prefix: the outer packets would be routed into the tunnel they make.
    fn holds_no_node(&self, prefix: IpNet) -> Result<(), Finding> {
        let range = prefix.network()..=prefix.broadcast();
        match self.node_addresses.range(range).next() {
            None => Ok(()),
            Some((_, node)) => Err(Finding::NodeAddressInBlock {
                node: (*node).clone(),
                prefix,
            }),
        }
    }

    /// A node address inside our own subnet. Where masks differ each side judges for itself and both arrivals are accepted.
    fn is_near(&self, address: IpAddr) -> Result<bool, Finding> {
        let family = Family::of(address);
        let own = self
            .world
            .this_node()
            .and_then(|node| node.subnet(family.is_v6()));
        let subnet = own.ok_or(Finding::NoOwnAddress {
            version: family.version(),
        })?;
        Ok(subnet.contains(&address))
    }

    fn own_address(&self, family: Family) -> Result<IpAddr, Finding> {
        let own = self
            .world
            .this_node()
            .and_then(|node| node.address(family.is_v6()));
        own.ok_or(Finding::NoOwnAddress {
            version: family.version(),
        })
    }

    /// Tunnel addresses of peers that no routed prefix of that peer covers: hosts answer from there.
    fn uncovered_vteps(&mut self) {
        let mut offers = Vec::new();
        for family in Family::BOTH {
            let Some(overlay) = self.tunnels.vxlan.overlay(family) else {
                continue;
            };
            for (name, vtep) in &overlay.peers {
                let prefixes = self.covered.get(name).map_or(&[][..], Vec::as_slice);
                if prefixes.iter().any(|prefix| prefix.contains(&vtep.tunnel)) {
                    continue;
                }
                offers.push((overlay.device.clone(), vtep.tunnel, name.clone()));
            }
        }
        for (device, address, name) in offers {
            let route = self.planned(Target::Device(device), None);
            let reason = format!("tunnel address of node {name}");
            self.offer(
                RouteKey::new(address.into(), 0),
                Rank::VxlanTunnel,
                route,
                reason,
            );
        }
    }

    fn planned(&self, target: Target, mtu: Option<u32>) -> Route {
        Route {
            target,
            protocol: self.settings.route_protocol,
            source: None,
            mtu,
        }
    }

    fn offer(&mut self, key: RouteKey, rank: Rank, route: Route, reason: String) {
        let candidate = Candidate {
            rank,
            route,
            reason,
        };
        self.candidates.entry(key).or_default().push(candidate);
    }
}

fn near_rank(encap: Encap) -> Rank {
    match encap {
        Encap::Vxlan(_) => Rank::VxlanSameSubnet,
        Encap::Ipip(_) => Rank::IpipSameSubnet,
        Encap::None => Rank::NoEncap,
    }
}

fn through(overlay: &Overlay, tunnel: IpAddr) -> Hop {
    Hop {
        gateway: tunnel,
        device: overlay.device.clone(),
        onlink: true,
    }
}
