//! Which pools are refused because an earlier one covers part of their range.
//!
//! Two pools over one address could cut it into blocks of different sizes, and two blocks would then own it. Every
//! node decides alike from the objects alone.

use std::collections::BTreeMap;
use std::sync::Arc;

use ipnet::IpNet;

use super::Pool;

/// The refused pools: name → the earlier pool it overlaps.
///
/// Order: pools marked allocatable, terminating ones, ones marked as overlapping, new ones; then older first; then by
/// name. A disabled pool takes no part.
pub fn overlaps<'a>(pools: impl Iterator<Item = &'a Pool>) -> BTreeMap<Arc<str>, Arc<str>> {
    let mut ranked: Vec<&Pool> = pools.filter(|pool| !pool.disabled).collect();
    ranked.sort_by_key(|pool| (rank(pool), pool.created, Arc::clone(&pool.name)));
    let mut accepted: Vec<&Pool> = Vec::with_capacity(ranked.len());
    let mut refused = BTreeMap::new();
    for pool in ranked {
        match accepted
            .iter()
            .find(|earlier| overlap(earlier.cidr, pool.cidr))
        {
            Some(earlier) => {
                refused.insert(Arc::clone(&pool.name), Arc::clone(&earlier.name));
            }
            None => accepted.push(pool),
        }
    }
    refused
}

fn rank(pool: &Pool) -> u8 {
    match (pool.terminating, pool.marked_allocatable) {
        (false, Some(true)) => 0,
        (true, _) => 1,
        (false, Some(false)) => 2,
        (false, None) => 3,
    }
}

/// Whether two prefixes share an address.
pub(crate) fn overlap(a: IpNet, b: IpNet) -> bool {
    a.contains(&b) || b.contains(&a)
}
