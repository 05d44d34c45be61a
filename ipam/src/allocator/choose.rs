//! Which free block of a pool to claim.
//!
//! A node without a block takes the k-th free one, k = its rank among the nodes that have none: all see nearly the
//! same lists, so a thousand cold starts hardly collide. Later claims start at a hash of node and pool and go on with
//! an odd stride; the number of blocks is a power of two, so the stride reaches all of them.

use std::collections::BTreeSet;

use ipnet::IpNet;
use sha2::{Digest as _, Sha256};

use crate::pool::Pool;

/// Blocks looked at beyond the taken ones before giving up (reserved or obstructed ones).
const PATIENCE: usize = 4096;

/// What the choice depends on.
pub(super) struct Choice<'a> {
    pub(super) pool: &'a Pool,
    /// Numbers of blocks that exist or are being claimed.
    pub(super) taken: &'a BTreeSet<u128>,
    /// This node's name.
    pub(super) node: &'a str,
    /// `Some(rank)` when the node owns no block of the pool.
    pub(super) first: Option<u128>,
}

impl Choice<'_> {
    /// Free blocks in order of preference; `usable` sorts out the rest.
    pub(super) fn pick(&self, usable: impl Fn(IpNet) -> bool) -> Option<IpNet> {
        let count = self.pool.block_count();
        let free = count
            .checked_sub(self.taken.len() as u128)
            .filter(|free| *free > 0)?;
        let (start, stride) = match self.first {
            Some(rank) => (self.nth_free(rank % free)?, 1),
            None => self.scatter(count),
        };
        let probes = (self.taken.len() + PATIENCE) as u128;
        (0..probes.min(count))
            .map(|step| start.wrapping_add(step.wrapping_mul(stride)) % count)
            .filter(|index| !self.taken.contains(index))
            .filter_map(|index| self.pool.block_at(index))
            .find(|block| usable(*block))
    }

    /// Number of free blocks.
    pub(super) fn free(&self) -> u128 {
        self.pool
            .block_count()
            .saturating_sub(self.taken.len() as u128)
    }

    /// The `k`-th free number, counting from zero.
    fn nth_free(&self, k: u128) -> Option<u128> {
        let mut index = k;
        for taken in self.taken {
            if *taken > index {
                break;
            }
            index = index.checked_add(1)?;
        }
        (index < self.pool.block_count()).then_some(index)
    }

    fn scatter(&self, count: u128) -> (u128, u128) {
        let digest = Sha256::digest(format!("{}\n{}", self.node, self.pool.name));
        let number = |bytes: &[u8]| {
            bytes
                .iter()
                .fold(0_u128, |acc, byte| (acc << 8) | u128::from(*byte))
        };
        let (start, stride) = digest.split_at(16);
        (number(start) % count, (number(stride) % count) | 1)
    }
}
