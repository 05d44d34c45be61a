//! Pools, reduced to how their packets travel and what is translated.

use std::net::IpAddr;

use api::{EncapMode, PoolUse};
use ipnet::IpNet;
use model::{ObjectName, World};

use super::Finding;
use crate::host::Host;

/// How packets of a pool travel between nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encap {
    /// As they are.
    None,
    /// In VXLAN.
    Vxlan(Scope),
    /// In IP-in-IP.
    Ipip(Scope),
}

/// Between which nodes packets are encapsulated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// All of them.
    Always,
    /// Those of different subnets.
    CrossSubnet,
}

/// One pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pool {
    /// Name of the object.
    pub name: ObjectName,
    /// The range.
    pub cidr: IpNet,
    /// How its packets travel.
    pub encap: Encap,
    /// Traffic that leaves all pools gets the node's address.
    pub nat_outgoing: bool,
    /// Serves load balancers only: no pods, so no routes and no exception from NAT.
    pub load_balancer_only: bool,
}

/// All pools of the World.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pools(Vec<Pool>);

impl Pools {
    /// Reads the pools; disabled ones too, since their addresses stay in use.
    pub fn read(world: &World) -> (Self, Vec<Finding>) {
        let mut pools = Vec::new();
        let mut findings = Vec::new();
        for (name, object) in world.pools() {
            match object.spec.cidr.parse::<IpNet>() {
                Ok(cidr) => {
                    let pool = read(name.clone(), cidr.trunc(), &object.spec);
                    if matches!((cidr, pool.encap), (IpNet::V6(_), Encap::Ipip(_))) {
                        findings.push(Finding::Ipv6InIpip { pool: name.clone() });
                    }
                    pools.push(pool);
                }
                Err(_) => findings.push(Finding::BadPool {
                    pool: name.clone(),
                    cidr: object.spec.cidr.chars().take(64).collect(),
                }),
            }
        }
        (Self(pools), findings)
    }

    /// Every pool.
    pub fn iter(&self) -> impl Iterator<Item = &Pool> {
        self.0.iter()
    }

    /// How packets to a prefix travel: as its smallest pool says, and as they are when no pool covers it (a pool that was deleted
    /// leaves its blocks behind).
    pub fn encap_of(&self, prefix: IpNet) -> Encap {
        self.0
            .iter()
            .filter(|pool| pool.cidr.contains(&prefix))
            .max_by_key(|pool| pool.cidr.prefix_len())
            .map_or(Encap::None, |pool| pool.encap)
    }

    /// True when BGP may write a route to the prefix into the kernel: anything but what lies in an encapsulated pool.
    pub fn bgp_may_program(&self, prefix: IpNet) -> bool {
        self.encap_of(prefix) == Encap::None
    }

    /// True when some pool of the family travels in VXLAN, also when only between subnets.
    pub fn uses_vxlan(&self, family: Family) -> bool {
        self.of(family)
            .any(|pool| matches!(pool.encap, Encap::Vxlan(_)))
    }

    /// True when some pool of the family travels in IP-in-IP.
    pub fn uses_ipip(&self, family: Family) -> bool {
        self.of(family)
            .any(|pool| matches!(pool.encap, Encap::Ipip(_)))
    }

    /// True when pods may have addresses of the family.
    pub fn serves(&self, family: Family) -> bool {
        self.of(family).next().is_some()
    }

    /// Pools whose encapsulation this kernel cannot do.
    pub(super) fn lacking(&self, host: &Host) -> impl Iterator<Item = Finding> {
        let lack = |pool: &Pool| {
            let (what, reason) = match pool.encap {
                Encap::Ipip(_) => ("IP-in-IP", host.lacks.ipip.as_ref()?),
                Encap::Vxlan(_) => ("VXLAN", host.lacks.vxlan.as_ref()?),
                Encap::None => return None,
            };
            Some(Finding::KernelLacks {
                pool: pool.name.clone(),
                what,
                reason: reason.clone(),
            })
        };
        self.0
            .iter()
            .filter(|pool| !pool.load_balancer_only)
            .filter_map(lack)
    }

    fn of(&self, family: Family) -> impl Iterator<Item = &Pool> {
        self.0
            .iter()
            .filter(move |pool| family == Family::of_net(pool.cidr) && !pool.load_balancer_only)
    }
}

/// IPv4 or IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both, IPv4 first.
    pub const BOTH: [Self; 2] = [Self::V4, Self::V6];

    /// Family of an address.
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv6() {
            Self::V6
        } else {
            Self::V4
        }
    }

    /// Family of a prefix.
    pub fn of_net(net: IpNet) -> Self {
        Self::of(net.addr())
    }

    /// 4 or 6.
    pub fn version(self) -> u8 {
        match self {
            Self::V4 => 4,
            Self::V6 => 6,
        }
    }

    /// True for IPv6.
    pub fn is_v6(self) -> bool {
        self == Self::V6
    }
}

fn read(name: ObjectName, cidr: IpNet, spec: &api::IPPoolSpec) -> Pool {
    let encap = match (spec.vxlan(), spec.ipip()) {
        (EncapMode::Always, _) => Encap::Vxlan(Scope::Always),
        (EncapMode::CrossSubnet, _) => Encap::Vxlan(Scope::CrossSubnet),
        (EncapMode::Never, EncapMode::Always) => Encap::Ipip(Scope::Always),
        (EncapMode::Never, EncapMode::CrossSubnet) => Encap::Ipip(Scope::CrossSubnet),
        (EncapMode::Never, EncapMode::Never) => Encap::None,
    };
    Pool {
        name,
        cidr,
        encap,
        nat_outgoing: spec.nat_outgoing,
        load_balancer_only: !spec.serves(PoolUse::Workload) && !spec.serves(PoolUse::Tunnel),
    }
}
