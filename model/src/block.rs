//! An address block as routing sees it: who owns it, and which of its addresses live elsewhere.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::ids::NodeName;

/// Whose block it is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum BlockOwner {
    /// Affine to a node.
    Node(NodeName),
    /// Affine to something that is no node, such as the load-balancer allocator.
    Virtual(String),
    /// Nobody's: addresses that are still in use keep it alive.
    Orphan,
}

/// One block, reduced to what routes depend on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// The block's prefix.
    pub cidr: IpNet,
    /// Its owner.
    pub owner: BlockOwner,
    /// Addresses in use on a node other than the owner: address → that node.
    pub borrowed: BTreeMap<IpAddr, NodeName>,
}

/// Why an IPAMBlock cannot be used for routing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("IPAMBlock {name}: spec.cidr is {cidr:?}, not a prefix; no route follows from it")]
pub struct BlockError {
    /// `metadata.name`.
    pub name: String,
    /// What stands in `spec.cidr`.
    pub cidr: String,
}

impl Block {
    /// Reads a stored block. `None` for one that is softly deleted.
    ///
    /// # Errors
    /// [`BlockError`] when the prefix cannot be read.
    pub fn parse(object: &api::IPAMBlock) -> Result<Option<Self>, BlockError> {
        let spec = &object.spec;
        if spec.deleted {
            return Ok(None);
        }
        let cidr: IpNet = spec.cidr.parse().map_err(|_ignored| BlockError {
            name: object.metadata.name.clone().unwrap_or_default(),
            cidr: spec.cidr.chars().take(64).collect(),
        })?;
        let owner = owner(spec.affinity.as_deref());
        let mut borrowed = BTreeMap::new();
        for (ordinal, entry) in spec.allocations.iter().enumerate() {
            let Some(node) = entry.and_then(|index| holder(spec, index)) else {
                continue;
            };
            if matches!(&owner, BlockOwner::Node(home) if home.as_str() == node) {
                continue;
            }
            if let Some(address) = nth(cidr, ordinal) {
                borrowed.insert(address, NodeName::from(node));
            }
        }
        Ok(Some(Self {
            cidr,
            owner,
            borrowed,
        }))
    }
}

fn owner(affinity: Option<&str>) -> BlockOwner {
    match affinity.and_then(|text| text.split_once(':')) {
        Some(("host", node)) => BlockOwner::Node(NodeName::from(node)),
        Some((_, other)) => BlockOwner::Virtual(other.to_owned()),
        None => BlockOwner::Orphan,
    }
}

fn holder(spec: &api::IPAMBlockSpec, index: i64) -> Option<&str> {
    let attribute = spec.attributes.get(usize::try_from(index).ok()?)?;
    let owner = attribute.secondary.as_ref()?;
    owner.get("node").map(String::as_str)
}

/// The address at an ordinal of a prefix, if it lies inside.
pub fn nth(cidr: IpNet, ordinal: usize) -> Option<IpAddr> {
    let address = match cidr {
        IpNet::V4(net) => {
            let offset = u32::try_from(ordinal).ok()?;
            IpAddr::from(std::net::Ipv4Addr::from(
                u32::from(net.network()).checked_add(offset)?,
            ))
        }
        IpNet::V6(net) => {
            let offset = u128::try_from(ordinal).ok()?;
            IpAddr::from(std::net::Ipv6Addr::from(
                u128::from(net.network()).checked_add(offset)?,
            ))
        }
    };
    cidr.contains(&address).then_some(address)
}
