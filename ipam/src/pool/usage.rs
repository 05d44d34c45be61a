//! How full a pool is, whether it gives out addresses, and when one that is deleted may go.

use std::collections::BTreeSet;

use super::{Pool, Pools, Unfit};
use crate::block::{Block, Owner};

/// What a pool's blocks hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Addresses of the pool.
    pub size: u128,
    /// Blocks the pool is cut into.
    pub blocks: u128,
    /// Blocks that exist.
    pub claimed: usize,
    /// Blocks without owner, which live on for the addresses in them.
    pub ownerless: usize,
    /// Addresses somebody holds.
    pub used: usize,
    /// Addresses that rest after their release.
    pub resting: usize,
    /// Held addresses whose node does not own the block.
    pub borrowed: usize,
    /// Nodes that own a block or hold an address.
    pub nodes: BTreeSet<String>,
}

impl Usage {
    /// Counts the blocks of a pool; `blocks` are those cut from it.
    pub fn count<'a>(pool: &Pool, blocks: impl Iterator<Item = &'a Block>) -> Self {
        let host_bits = u32::from(pool.cidr.max_prefix_len() - pool.cidr.prefix_len());
        let mut usage = Self {
            size: 1_u128.checked_shl(host_bits).unwrap_or(u128::MAX),
            blocks: pool.block_count(),
            ..Self::default()
        };
        for block in blocks.filter(|block| !block.is_deleted()) {
            usage.add(block);
        }
        usage
    }

    fn add(&mut self, block: &Block) {
        self.claimed += 1;
        let owner = match block.owner() {
            Some(Owner::Host(node)) => Some(&**node),
            Some(Owner::LoadBalancer | Owner::Other(_)) => None,
            None => {
                self.ownerless += 1;
                None
            }
        };
        self.nodes.extend(owner.map(str::to_owned));
        self.resting += block.cooling();
        for (_, entry) in block.held() {
            self.used += 1;
            if let Some(node) = entry.owner.get("node") {
                self.borrowed += usize::from(owner.is_some_and(|owner| owner != node));
                self.nodes.insert(node.clone());
            }
        }
    }

    /// Addresses in use, in percent of all; rounded down.
    pub fn percent(&self) -> u128 {
        (self.used as u128)
            .saturating_mul(100)
            .checked_div(self.size)
            .unwrap_or(0)
    }
}

/// Whether a pool gives out addresses, as its `Allocatable` condition says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allocatable {
    /// True = it does.
    pub good: bool,
    /// `OK`, `CIDROverlap`, `PoolDisabled`, `Terminating`, as Calico writes them, or `Invalid`.
    pub reason: &'static str,
    /// With numbers, for people.
    pub message: String,
}

/// Nodes named in a message at most.
const NAMED: usize = 5;

impl Pools {
    /// What the `Allocatable` condition of a pool says.
    pub fn allocatable(&self, pool: &Pool, usage: &Usage) -> Allocatable {
        let used = format!(
            "{} of {} addresses in use ({} %), {} of {} blocks claimed by {} nodes",
            usage.used,
            usage.size,
            usage.percent(),
            usage.claimed,
            usage.blocks,
            usage.nodes.len()
        );
        let (good, reason, message) = match self.unallocatable(pool) {
            None => (true, "OK", format!("{used}{}", self.losers(pool))),
            Some(Unfit::Overlaps(other)) => {
                let range = self
                    .iter()
                    .find(|pool| pool.name == other)
                    .map(|pool| format!(" ({})", pool.cidr))
                    .unwrap_or_default();
                let message = format!(
                    "overlaps pool {other}{range}, which comes first: it gives out no address"
                );
                (false, "CIDROverlap", message)
            }
            Some(Unfit::Disabled) => (
                false,
                "PoolDisabled",
                format!("disabled, so no new addresses; {used}"),
            ),
            Some(Unfit::Terminating) => (false, "Terminating", draining(usage)),
            Some(
                why @ (Unfit::Invalid(_)
                | Unfit::Family
                | Unfit::Node
                | Unfit::Namespace
                | Unfit::Manual
                | Unfit::Use(_)),
            ) => (false, "Invalid", why.to_string()),
        };
        Allocatable {
            good,
            reason,
            message,
        }
    }

    /// The pools this one keeps from giving out addresses.
    fn losers(&self, pool: &Pool) -> String {
        let losers: Vec<&str> = self
            .overlapping
            .iter()
            .filter(|(_, winner)| **winner == pool.name)
            .map(|(loser, _)| &**loser)
            .collect();
        if losers.is_empty() {
            return String::new();
        }
        format!("; overlapped by {}, refused for it", losers.join(", "))
    }
}

fn draining(usage: &Usage) -> String {
    if usage.claimed == 0 {
        return "being deleted: nothing is left in it".to_owned();
    }
    let named: Vec<&str> = usage.nodes.iter().take(NAMED).map(String::as_str).collect();
    let more = usage.nodes.len().saturating_sub(NAMED);
    let more = if more > 0 {
        format!(" and {more} more")
    } else {
        String::new()
    };
    format!(
        "being deleted: no new addresses; {} still in use and {} resting, in {} blocks, on {}{more}; it goes when the last block is empty",
        usage.used,
        usage.resting,
        usage.claimed,
        if named.is_empty() {
            "no node".to_owned()
        } else {
            named.join(", ")
        },
    )
}

/// What to do with a pool's finalizer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Finalizer {
    /// It is as it should be.
    Leave,
    /// The pool gives out addresses, so it must not vanish under them.
    Add,
    /// The pool is deleted and nothing is left in it.
    Remove,
}

/// Decides about the finalizer: `present` = the object carries it, `left` = blocks and claims inside the pool.
pub fn finalizer(present: bool, terminating: bool, allocatable: bool, left: usize) -> Finalizer {
    match (present, terminating) {
        (true, true) if left == 0 => Finalizer::Remove,
        (false, false) if allocatable => Finalizer::Add,
        (true | false, _) => Finalizer::Leave,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::block::Attribute;
    use crate::time::Time;

    fn pool(name: &str, cidr: &str) -> Pool {
        let stored: api::IPPool = serde_json::from_value(serde_json::json!({
            "apiVersion": "projectcalico.org/v3", "kind": "IPPool",
            "metadata": {"name": name}, "spec": {"cidr": cidr, "blockSize": 29}
        }))
        .unwrap();
        Pool::parse(&stored).unwrap()
    }

    /// A block of `owner` with one address of each of these nodes.
    fn block(owner: &str, holders: &[&str]) -> Block {
        let owner = Owner::Host(Arc::from(owner));
        let mut block =
            Block::try_new("10.0.0.0/29".parse().unwrap(), owner, Time::from_secs(9), 0).unwrap();
        for (at, node) in holders.iter().enumerate() {
            let owner = [("node".to_owned(), (*node).to_owned())].into();
            let entry = Attribute::new(&format!("h{at}"), owner);
            block.take(&entry, |_| false).unwrap();
        }
        block
    }

    #[test]
    fn usage_counts_owners_borrowers_and_what_rests() {
        let mut block = block("a", &["a", "a", "b"]);
        block.give(0, "h0", None, Time::from_secs(9), Duration::from_secs(30));
        let usage = Usage::count(&pool("p", "10.0.0.0/24"), [&block].into_iter());
        assert_eq!((usage.size, usage.blocks, usage.claimed), (256, 32, 1));
        assert_eq!((usage.used, usage.resting, usage.borrowed), (2, 1, 1));
        assert_eq!(usage.nodes.len(), 2);
    }

    #[test]
    fn the_condition_says_why_with_numbers_and_both_sides_of_an_overlap() {
        let mut pools = Pools::default();
        let first = pool("a", "10.0.0.0/24");
        let second = pool("b", "10.0.0.128/25");
        pools.upsert(Ok(first.clone()));
        pools.upsert(Ok(second.clone()));
        let usage = Usage::count(&first, [&block("n1", &["n1"])].into_iter());
        let won = pools.allocatable(&first, &usage);
        assert!(won.good && won.reason == "OK", "{won:?}");
        assert!(won.message.contains("1 of 256 addresses"), "{won:?}");
        assert!(won.message.contains("overlapped by b"), "{won:?}");
        let lost = pools.allocatable(&second, &Usage::default());
        assert_eq!((lost.good, lost.reason), (false, "CIDROverlap"));
        assert!(lost.message.contains("pool a (10.0.0.0/24)"), "{lost:?}");
        let gone = Pool {
            terminating: true,
            ..first
        };
        pools.upsert(Ok(gone.clone()));
        let draining = pools.allocatable(&gone, &usage);
        assert_eq!(draining.reason, "Terminating");
        assert!(draining.message.contains("1 still in use"), "{draining:?}");
        assert!(draining.message.contains("on n1"), "{draining:?}");
    }

    #[test]
    fn a_pool_keeps_its_finalizer_while_anything_is_left() {
        use Finalizer::{Add, Leave, Remove};
        for (present, terminating, allocatable, left, expected) in [
            (false, false, true, 0, Add),
            (false, false, false, 0, Leave),
            (true, false, true, 3, Leave),
            (true, false, false, 0, Leave),
            (true, true, false, 1, Leave),
            (true, true, false, 0, Remove),
            (false, true, false, 0, Leave),
        ] {
            assert_eq!(
                finalizer(present, terminating, allocatable, left),
                expected,
                "{present} {terminating} {allocatable} {left}"
            );
        }
    }
}
