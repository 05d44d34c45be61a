//! What this node has to announce, and what of it lives elsewhere.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use api::AffinityState;
use bgp::speaker::{OriginAttributes, Origination};
use ipnet::IpNet;
use model::{BlockOwner, World};

use super::Originated;

/// Owner tag of announced blocks and addresses.
pub(super) const IPAM: &str = "ipam";

/// Pools, own blocks, and addresses on the wrong side of them.
#[derive(Clone, Debug, Default)]
pub(super) struct Own {
    /// Every pool: range, and whether its blocks may be announced.
    pools: Vec<(IpNet, Export)>,
    /// Confirmed blocks of this node.
    pub(super) blocks: BTreeSet<IpNet>,
    /// Addresses of own blocks that other nodes hold.
    pub(super) lent: BTreeSet<IpAddr>,
    /// Addresses of local pods out of blocks of others.
    borrowed: BTreeSet<IpAddr>,
}

/// Whether blocks of a pool may be announced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Export {
    Enabled,
    Disabled,
}

impl Own {
    pub(super) fn read(world: &World) -> Self {
        let mut own = Self {
            blocks: blocks(world),
            ..Self::default()
        };
        for pool in world.pools().values() {
            // A range that is no prefix is reported by the route planner.
            let Some(range) = pool.spec.network() else {
                continue;
            };
            let export = if pool.spec.disable_bgp_export {
                Export::Disabled
            } else {
                Export::Enabled
            };
            own.pools.push((range, export));
        }
        own.pools.sort_by_key(|(range, _)| *range);
        own.read_strays(world);
        own
    }

    fn read_strays(&mut self, world: &World) {
        let this = world.this_node_name();
        let local: BTreeSet<IpAddr> = world
            .local_endpoints()
            .flat_map(|view| view.endpoint.addresses.iter().copied())
            .collect();
        for block in world.blocks().values() {
            let ours = matches!(&block.owner, BlockOwner::Node(owner) if owner == this);
            for (address, holder) in &block.borrowed {
                if holder == this {
                    if !ours && local.contains(address) {
                        self.borrowed.insert(*address);
                    }
                } else if self.blocks.contains(&block.cidr.trunc()) {
                    self.lent.insert(*address);
                }
            }
        }
    }

    /// Ranges of all pools.
    pub(super) fn pools(&self) -> impl Iterator<Item = IpNet> + '_ {
        self.pools.iter().map(|(range, _)| *range)
    }

    /// Ranges of pools that must not be announced.
    pub(super) fn sealed(&self) -> impl Iterator<Item = IpNet> + '_ {
        self.pools
            .iter()
            .filter(|(_, export)| *export == Export::Disabled)
            .map(|(range, _)| *range)
    }

    /// Announced prefixes.
    pub(super) fn originate(&self) -> Originated {
        let owner: Arc<str> = Arc::from(IPAM);
        let host_routes = self.borrowed.iter().map(|address| IpNet::from(*address));
        let in_pool = host_routes.filter(|prefix| self.pool_of(prefix) == Some(Export::Enabled));
        let blocks = self
            .blocks
            .iter()
            .copied()
            .filter(|block| self.pool_of(block) != Some(Export::Disabled));
        let originate = |prefix| {
            let attributes = OriginAttributes::default();
            (
                (Arc::clone(&owner), prefix),
                Origination {
                    owner: Arc::clone(&owner),
                    prefix,
                    attributes,
                },
            )
        };
        blocks.chain(in_pool).map(originate).collect()
    }

    /// What the smallest pool around a prefix says; `None` outside all pools (a deleted pool leaves its blocks behind).
    fn pool_of(&self, prefix: &IpNet) -> Option<Export> {
        let around = self
            .pools
            .iter()
            .filter(|(range, _)| range.contains(prefix));
        around
            .max_by_key(|(range, _)| range.prefix_len())
            .map(|(_, export)| *export)
    }
}

/// Confirmed host affinities of this node: the same rule as for the blackhole routes of the planner.
fn blocks(world: &World) -> BTreeSet<IpNet> {
    let this = world.this_node_name();
    let ours = |affinity: &&Arc<api::BlockAffinity>| {
        let spec = &affinity.spec;
        spec.claim() == Some(AffinityState::Confirmed)
            && !spec.deleted
            && spec.node == this.as_str()
            && spec.type_.as_deref().is_none_or(|kind| kind == "host")
    };
    let affinities = world.affinities().values().filter(ours);
    affinities
        .filter_map(|affinity| affinity.spec.cidr.parse::<IpNet>().ok())
        .map(|cidr| cidr.trunc())
        .collect()
}
