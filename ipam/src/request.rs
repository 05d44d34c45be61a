//! What is asked of the allocator, and what it answers.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use api::PoolUse;
use ipnet::IpNet;
use thiserror::Error;

use crate::handle::Attributes;
use crate::net::Family;
use crate::pool::{Named, Refusal, Unfit};

/// Pairs a request with its answer; chosen by the caller, never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// One address wanted.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Want {
    /// Of which family.
    pub family: Family,
    /// Exactly this address; reservations do not block it.
    pub address: Option<IpAddr>,
    /// Pools named by annotation or configuration, by name or CIDR, in order of preference; empty = automatic.
    pub pools: Vec<Named>,
}

impl Want {
    /// Any address of a family, from the pools that serve automatically.
    pub fn any(family: Family) -> Self {
        Self {
            family,
            address: None,
            pools: Vec::new(),
        }
    }
}

/// A request for addresses: all of them, or none.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Assign {
    /// What the addresses are for; one address per family and handle.
    pub handle: String,
    /// The use; pools decide by it.
    pub usage: PoolUse,
    /// One entry per address.
    pub wants: Vec<Want>,
    /// Labels of the pod's namespace; empty when there is none.
    pub namespace_labels: BTreeMap<String, String>,
    /// Owner attributes to store.
    pub attributes: Attributes,
    /// Handles of dead sandboxes of the same pod: an explicit address they hold is taken over.
    pub supersedes: BTreeSet<String>,
}

/// How an address was come by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Path {
    /// From a block of this node.
    Own,
    /// From a block claimed for it.
    Claim,
    /// From another's block.
    Borrow,
    /// From the addresses kept ready: no round trip.
    Warm,
}

impl Path {
    /// The value of the metric label `path`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Own => "own",
            Self::Claim => "claim",
            Self::Borrow => "borrow",
            Self::Warm => "warm",
        }
    }
}

/// An address that is in a stored block under the request's handle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Assigned {
    /// The address.
    pub address: IpAddr,
    /// Its block.
    pub block: IpNet,
    /// Its place in the block.
    pub ordinal: u32,
    /// The number it was taken under: a release must present it.
    pub sequence: u64,
    /// How it was come by.
    pub path: Path,
}

/// One address to give back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Taken {
    /// The block.
    pub block: IpNet,
    /// The place in the block.
    pub ordinal: u32,
    /// The number it was taken under.
    pub sequence: u64,
}

/// Which addresses to give back.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Addresses {
    /// These, as the journal has them.
    Exactly(Vec<Taken>),
    /// Whatever the index shows under the handle.
    OfHandle,
}

/// A request to give addresses back.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Release {
    /// The handle they were taken under.
    pub handle: String,
    /// Which.
    pub addresses: Addresses,
}

/// What a pool had to offer when a request failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tally {
    /// The pool.
    pub pool: String,
    /// Why it was no candidate; `None` = it was one.
    pub unfit: Option<Unfit>,
    /// Blocks nobody owns.
    pub free_blocks: u128,
    /// Blocks of this node.
    pub own_blocks: u32,
    /// Free addresses in blocks of other nodes.
    pub foreign_free: u64,
    /// Resting addresses in blocks of this node.
    pub cooling: u64,
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.unfit {
            Some(why) => write!(f, "{}: {why}", self.pool),
            None => write!(
                f,
                "{}: {} free blocks, {} own blocks full, {} resting, {} free in blocks of other nodes",
                self.pool, self.free_blocks, self.own_blocks, self.cooling, self.foreign_free
            ),
        }
    }
}

/// The limit that bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// No pool takes the node, the namespace and the use.
    NoPool,
    /// Every block of the candidates is owned and full, or reserved.
    PoolExhausted,
    /// Addresses are free in other nodes' blocks, but strictAffinity forbids borrowing.
    StrictAffinity,
    /// The node owns as many blocks as it may, and strictAffinity forbids borrowing.
    BlockCap(u32),
    /// autoAllocateBlocks is off.
    NoAutomaticBlocks,
    /// Other writers kept coming first.
    Contention,
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoPool => f.write_str("no pool serves this pod: check the pools' selectors and uses"),
            Self::PoolExhausted => f.write_str("the pools are exhausted: add a pool or free addresses"),
            Self::StrictAffinity => {
                f.write_str("strictAffinity forbids borrowing from other nodes: add a pool or turn strictAffinity off")
            }
            Self::BlockCap(cap) => write!(
                f,
                "the node owns {cap} blocks, the most it may: raise maxBlocksPerHost or turn strictAffinity off"
            ),
            Self::NoAutomaticBlocks => {
                f.write_str("autoAllocateBlocks is off and the node's own blocks are full: turn it on")
            }
            Self::Contention => f.write_str("other writers kept coming first: try again"),
        }
    }
}

/// Why no address was given. Nothing is kept.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum AssignError {
    /// The index has not seen every kind yet.
    #[error("address pools and blocks are not known yet; try again")]
    NotSynced,
    /// Nothing left, in any pool this request may use.
    #[error("no {family} address: {limit} ({})", .pools.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Exhausted {
        /// The family that fell short.
        family: Family,
        /// The limit that bit.
        limit: Limit,
        /// Every pool of the family, and what it had.
        pools: Vec<Tally>,
    },
    /// The request names pools or addresses it cannot have.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The API server refused the write.
    #[error("the API server refuses to store the address: {0}")]
    Denied(String),
    /// The API server does not answer.
    #[error("the API server does not answer: {0}")]
    Unreachable(String),
    /// The caller went away.
    #[error("the request was withdrawn")]
    Cancelled,
}

/// What a failed request means for whoever asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Nothing is left where the request may look.
    Exhausted,
    /// What the request names cannot be had.
    Refused,
    /// The same request may work in a moment.
    Later,
    /// The API server will not have it: rights or schema are wrong.
    Broken,
}

impl AssignError {
    /// What the failure means for whoever asked.
    pub fn class(&self) -> Class {
        match self {
            _ if self.retryable() => Class::Later,
            Self::Exhausted { .. } => Class::Exhausted,
            Self::Refused(_) => Class::Refused,
            Self::NotSynced | Self::Unreachable(_) | Self::Cancelled => Class::Later,
            Self::Denied(_) => Class::Broken,
        }
    }

    /// Whether the same request may succeed later without anybody changing configuration.
    pub fn retryable(&self) -> bool {
        match self {
            Self::NotSynced | Self::Unreachable(_) => true,
            Self::Exhausted { limit, .. } => matches!(limit, Limit::Contention),
            Self::Refused(_) | Self::Denied(_) | Self::Cancelled => false,
        }
    }
}

/// Why an address was not given back. Whatever could be given back was.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ReleaseError {
    /// The index has not seen every kind yet.
    #[error("blocks are not known yet; try again")]
    NotSynced,
    /// The API server refused the write.
    #[error("the API server refuses the release: {0}")]
    Denied(String),
    /// The stored block is broken.
    #[error("block {block} is broken: {why}")]
    Broken {
        /// The block.
        block: IpNet,
        /// What is wrong.
        why: String,
    },
    /// The API server does not answer, or other writers kept coming first.
    #[error("the release did not land: {0}")]
    Unreachable(String),
}

impl ReleaseError {
    /// Whether the release is still owed: the same request will succeed once the store can be written.
    pub fn retryable(&self) -> bool {
        match self {
            Self::NotSynced | Self::Unreachable(_) | Self::Denied(_) => true,
            Self::Broken { .. } => false,
        }
    }
}

/// What became of a release.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Released {
    /// Addresses that were given back now.
    pub freed: u32,
    /// Addresses that were free already.
    pub already_free: u32,
    /// Addresses that are somebody else's by now: left alone.
    pub not_ours: u32,
}

/// The answer to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// To [`Assign`], in the order of the wants.
    Assign(Result<Vec<Assigned>, AssignError>),
    /// To [`Release`].
    Release(Result<Released, ReleaseError>),
}
