//! Pools: which may serve a request, and why the others do not.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use api::{EncapMode, PoolUse, Selector};
use ipnet::IpNet;
use thiserror::Error;

use crate::net::{self, Family};
use crate::time::Time;

mod overlap;
#[cfg(test)]
mod tests;
mod usage;

pub(crate) use overlap::overlap;
pub use overlap::overlaps;
pub use usage::{Allocatable, Finalizer, Usage, finalizer};

/// Labels of a node or namespace: key → value.
pub type Labels = BTreeMap<String, String>;

/// A pool as a request names it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Named {
    /// By the object's name.
    Name(Arc<str>),
    /// By its CIDR.
    Cidr(IpNet),
}

impl Named {
    /// Reads a pool's name or CIDR.
    pub fn parse(text: &str) -> Self {
        text.parse()
            .map_or_else(|_not_a_cidr| Self::Name(Arc::from(text)), Self::Cidr)
    }
}

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Cidr(cidr) => cidr.fmt(f),
        }
    }
}

/// Why a pool does not serve a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unfit {
    /// `disabled: true`.
    Disabled,
    /// It is being deleted.
    Terminating,
    /// Another pool covers part of its range and came first.
    Overlaps(Arc<str>),
    /// The object cannot be used: the text says why.
    Invalid(String),
    /// It has addresses of the other family.
    Family,
    /// Its nodeSelector does not take this node.
    Node,
    /// Its namespaceSelector does not take this namespace.
    Namespace,
    /// It serves only requests that name it.
    Manual,
    /// Its allowedUses do not hold this use.
    Use(PoolUse),
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Disabled => f.write_str("disabled"),
            Self::Terminating => f.write_str("being deleted"),
            Self::Overlaps(other) => write!(f, "overlaps pool {other}"),
            Self::Invalid(why) => write!(f, "invalid: {why}"),
            Self::Family => f.write_str("of the other address family"),
            Self::Node => f.write_str("nodeSelector does not take this node"),
            Self::Namespace => f.write_str("namespaceSelector does not take the namespace"),
            Self::Manual => f.write_str("assignmentMode is Manual"),
            Self::Use(usage) => write!(f, "allowedUses lacks {usage:?}"),
        }
    }
}

/// Why a request cannot have what it names.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Refusal {
    /// There is no such pool.
    #[error("there is no pool {0}")]
    NoSuchPool(Named),
    /// The named pool does not fit.
    #[error("pool {pool} was asked for by name but cannot be used: {why}")]
    Pool {
        /// As the request names it.
        pool: Named,
        /// Why not.
        why: Unfit,
    },
    /// No pool holds the address.
    #[error("no pool holds the requested address {0}")]
    NoPoolFor(IpAddr),
    /// The address is taken.
    #[error("the requested address {address} is held by {by}")]
    Taken {
        /// The address.
        address: IpAddr,
        /// Its holder.
        by: String,
    },
    /// The address lies in another node's block.
    #[error(
        "the requested address {address} lies in the block of {owner}, and strictAffinity forbids borrowing"
    )]
    Strict {
        /// The address.
        address: IpAddr,
        /// The block's owner.
        owner: String,
    },
    /// Addresses and family do not go together, or nothing is wanted.
    #[error("{0}")]
    Senseless(String),
}

/// Pools left out, by name, and why.
pub type LeftOut = Vec<(Arc<str>, Unfit)>;

/// A pool, decoded.
#[derive(Clone, Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is one independent fact of the object"
)]
pub struct Pool {
    /// `metadata.name`.
    pub name: Arc<str>,
    /// The range.
    pub cidr: IpNet,
    /// Prefix length of its blocks.
    pub block_len: u8,
    /// Which nodes may allocate; `None` = all.
    pub nodes: Option<Selector>,
    /// Which namespaces' pods may have addresses; `None` = all.
    pub namespaces: Option<Selector>,
    /// What its addresses may be used for.
    pub uses: Vec<PoolUse>,
    /// Whether it serves requests that do not name it.
    pub automatic: bool,
    /// No new addresses.
    pub disabled: bool,
    /// Has a deletion timestamp.
    pub terminating: bool,
    /// IP-in-IP between nodes, ever.
    pub ipip: bool,
    /// VXLAN between nodes, ever.
    pub vxlan: bool,
    /// `metadata.creationTimestamp`.
    pub created: Option<Time>,
    /// What the `Allocatable` condition says, if anything.
    pub marked_allocatable: Option<bool>,
}

impl Pool {
    /// Reads a stored pool.
    ///
    /// # Errors
    /// The name and what makes the object unusable. Its range still counts as overlapping nothing.
    pub fn parse(stored: &api::IPPool) -> Result<Self, (Arc<str>, String)> {
        let name: Arc<str> = Arc::from(stored.metadata.name.as_deref().unwrap_or_default());
        let spec = &stored.spec;
        let invalid = |why: String| (Arc::clone(&name), why);
        let cidr = spec
            .network()
            .ok_or_else(|| invalid(format!("{:?} is no CIDR", spec.cidr)))?;
        let block_len = spec.block_prefix_len().unwrap_or_default();
        let first = net::block_at(cidr, block_len, 0);
        if first.and_then(net::block_size).is_none() {
            return Err(invalid(format!(
                "blockSize {block_len} does not fit {cidr}"
            )));
        }
        let selector = |text: &Option<String>, field: &str| match text.as_deref() {
            None | Some("") => Ok(None),
            Some(text) => Selector::parse(text)
                .map(Some)
                .map_err(|why| invalid(format!("{field}: {why}"))),
        };
        let uses = [PoolUse::Workload, PoolUse::Tunnel, PoolUse::LoadBalancer];
        let condition = stored
            .status
            .as_ref()
            .and_then(|status| status.get(api::conditions::ALLOCATABLE));
        Ok(Self {
            cidr,
            block_len,
            nodes: selector(&spec.node_selector, "nodeSelector")?,
            namespaces: selector(&spec.namespace_selector, "namespaceSelector")?,
            uses: uses
                .into_iter()
                .filter(|usage| spec.serves(*usage))
                .collect(),
            automatic: spec.assignment() == api::AssignmentMode::Automatic,
            disabled: spec.disabled,
            terminating: stored.metadata.deletion_timestamp.is_some(),
            ipip: spec.ipip() != EncapMode::Never,
            vxlan: spec.vxlan() != EncapMode::Never,
            created: stored
                .metadata
                .creation_timestamp
                .as_ref()
                .and_then(Time::from_stored),
            // The daemon decides disabled and terminating from the object itself: a condition may lag.
            marked_allocatable: condition
                .map(|condition| condition.status == "True" || condition.reason != "CIDROverlap"),
            name: Arc::clone(&name),
        })
    }

    /// The family of its addresses.
    pub fn family(&self) -> Family {
        Family::of(self.cidr)
    }

    /// Whether its nodeSelector takes a node.
    pub fn takes_node(&self, labels: &Labels) -> bool {
        self.nodes
            .as_ref()
            .is_none_or(|selector| selector.matches(labels))
    }

    fn takes_namespace(&self, labels: &Labels) -> bool {
        self.namespaces
            .as_ref()
            .is_none_or(|selector| selector.matches(labels))
    }

    /// Why the pool gives out nothing new, whoever asks. Overlap is decided elsewhere ([`overlaps`]).
    pub fn closed(&self) -> Option<Unfit> {
        if self.disabled {
            Some(Unfit::Disabled)
        } else if self.terminating {
            Some(Unfit::Terminating)
        } else {
            None
        }
    }

    /// Number of blocks.
    pub fn block_count(&self) -> u128 {
        net::block_count(self.cidr, self.block_len)
    }

    /// The `index`-th block, ascending.
    pub fn block_at(&self, index: u128) -> Option<IpNet> {
        net::block_at(self.cidr, self.block_len, index)
    }

    /// Which of its blocks this is.
    pub fn block_index(&self, block: IpNet) -> Option<u128> {
        net::block_index(self.cidr, self.block_len, block)
    }

    /// The block an address of this pool lies in.
    pub fn block_of(&self, address: IpAddr) -> Option<IpNet> {
        if self.cidr.contains(&address) {
            net::block_of(address, self.block_len)
        } else {
            None
        }
    }
}

/// What a request says about itself, as far as pools care.
#[derive(Clone, Copy, Debug)]
pub struct Asker<'a> {
    /// Family of the address.
    pub family: Family,
    /// What it is for.
    pub usage: PoolUse,
    /// Labels of the node.
    pub node: &'a Labels,
    /// Labels of the namespace, empty when there is none; `None` = any namespace.
    pub namespace: Option<&'a Labels>,
}

/// Every pool known, and which of them overlap an earlier one.
#[derive(Clone, Debug, Default)]
pub struct Pools {
    known: BTreeMap<Arc<str>, Result<Arc<Pool>, String>>,
    overlapping: BTreeMap<Arc<str>, Arc<str>>,
}

impl Pools {
    /// Adds or changes a pool; `Err` holds the name and why the object is unusable.
    pub fn upsert(&mut self, pool: Result<Pool, (Arc<str>, String)>) {
        match pool {
            Ok(pool) => self
                .known
                .insert(Arc::clone(&pool.name), Ok(Arc::new(pool))),
            Err((name, why)) => self.known.insert(name, Err(why)),
        };
        self.overlapping = overlaps(self.iter().map(|pool| &**pool));
    }

    /// Forgets a pool.
    pub fn remove(&mut self, name: &str) {
        self.known.remove(name);
        self.overlapping = overlaps(self.iter().map(|pool| &**pool));
    }

    /// The usable pools, by name.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Pool>> {
        self.known.values().filter_map(|pool| pool.as_ref().ok())
    }

    /// The pool a block was cut from: same block size, range around it.
    pub fn of_block(&self, block: IpNet) -> Option<&Arc<Pool>> {
        self.iter()
            .filter(|pool| pool.block_index(block).is_some())
            .min_by_key(|pool| self.overlapping.contains_key(&pool.name))
    }

    /// Why a pool gives out nothing new, whoever asks.
    pub fn unallocatable(&self, pool: &Pool) -> Option<Unfit> {
        let overlap = || {
            self.overlapping
                .get(&pool.name)
                .map(|other| Unfit::Overlaps(Arc::clone(other)))
        };
        pool.closed().or_else(overlap)
    }

    /// Pools that serve a request which names none, by name, and why each other one does not.
    pub fn automatic(&self, asker: &Asker<'_>) -> (Vec<Arc<Pool>>, LeftOut) {
        let (mut fit, mut unfit) = (Vec::new(), Vec::new());
        for (name, pool) in &self.known {
            match pool {
                Err(why) => unfit.push((Arc::clone(name), Unfit::Invalid(why.clone()))),
                Ok(pool) => match self.unfit_for(pool, asker) {
                    Some(why) => unfit.push((Arc::clone(name), why)),
                    None => fit.push(Arc::clone(pool)),
                },
            }
        }
        (fit, unfit)
    }

    /// Pools that a request names: exactly these, in this order. Selectors and assignmentMode do not apply.
    ///
    /// # Errors
    /// The first that does not exist, fit the family, allow the use or is not allocatable: one bad among good refuses.
    pub fn named(&self, names: &[Named], asker: &Asker<'_>) -> Result<Vec<Arc<Pool>>, Refusal> {
        names
            .iter()
            .map(|name| self.named_one(name, asker))
            .collect()
    }

    /// The pool that may give out a certain address.
    ///
    /// # Errors
    /// When no pool holds it, or the one that does is not allocatable or does not allow the use.
    pub fn holding(&self, address: IpAddr, usage: PoolUse) -> Result<Arc<Pool>, Refusal> {
        let mut why = Refusal::NoPoolFor(address);
        for pool in self.iter().filter(|pool| pool.cidr.contains(&address)) {
            let used = (!pool.uses.contains(&usage)).then_some(Unfit::Use(usage));
            match self.unallocatable(pool).or(used) {
                None => return Ok(Arc::clone(pool)),
                Some(unfit) => {
                    why = Refusal::Pool {
                        pool: Named::Name(Arc::clone(&pool.name)),
                        why: unfit,
                    }
                }
            }
        }
        Err(why)
    }

    fn named_one(&self, named: &Named, asker: &Asker<'_>) -> Result<Arc<Pool>, Refusal> {
        let refuse = |why| Refusal::Pool {
            pool: named.clone(),
            why,
        };
        let pool = match named {
            Named::Name(name) => match self.known.get(name) {
                None => return Err(Refusal::NoSuchPool(named.clone())),
                Some(Err(why)) => return Err(refuse(Unfit::Invalid(why.clone()))),
                Some(Ok(pool)) => pool,
            },
            Named::Cidr(cidr) => self
                .iter()
                .find(|pool| pool.cidr == *cidr)
                .ok_or_else(|| Refusal::NoSuchPool(named.clone()))?,
        };
        let family = (pool.family() != asker.family).then_some(Unfit::Family);
        let usage = (!pool.uses.contains(&asker.usage)).then_some(Unfit::Use(asker.usage));
        match family.or_else(|| self.unallocatable(pool)).or(usage) {
            Some(why) => Err(refuse(why)),
            None => Ok(Arc::clone(pool)),
        }
    }

    fn unfit_for(&self, pool: &Pool, asker: &Asker<'_>) -> Option<Unfit> {
        if pool.family() != asker.family {
            return Some(Unfit::Family);
        }
        if let Some(why) = self.unallocatable(pool) {
            return Some(why);
        }
        if !pool.automatic {
            return Some(Unfit::Manual);
        }
        if !pool.takes_node(asker.node) {
            return Some(Unfit::Node);
        }
        if !asker
            .namespace
            .is_none_or(|labels| pool.takes_namespace(labels))
        {
            return Some(Unfit::Namespace);
        }
        (!pool.uses.contains(&asker.usage)).then_some(Unfit::Use(asker.usage))
    }
}
