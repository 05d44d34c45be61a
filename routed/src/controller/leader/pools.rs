//! Pools over time: the finalizer while they give out addresses, what they say of themselves, and their end.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ::ipam::collector::View;
use ::ipam::pool::{Finalizer, Pool, Pools, Usage, finalizer};
use ipnet::IpNet;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::json;

use super::PoolFacts;

/// Keeps a pool from vanishing under its addresses; Calico's name.
const FINALIZER: &str = "projectcalico.org/ippool-finalizer";
const LIMIT: Duration = Duration::from_secs(5);

/// A pool as stored.
#[derive(Debug)]
struct Kept {
    finalizers: Vec<String>,
    version: Option<String>,
}

/// The pools there are.
pub(super) struct PoolKeeper {
    objects: Api<api::IPPool>,
    kept: BTreeMap<Arc<str>, Kept>,
    pools: Pools,
    /// A pool changed since the finalizers were looked at.
    stale: bool,
}

impl PoolKeeper {
    pub(super) fn new(client: Client) -> Self {
        Self {
            objects: Api::all(client),
            kept: BTreeMap::new(),
            pools: Pools::default(),
            stale: false,
        }
    }

    pub(super) fn take(&mut self, name: &Arc<str>, pool: Option<api::IPPool>) {
        self.stale = true;
        let Some(pool) = pool else {
            self.kept.remove(name);
            self.pools.remove(name);
            return;
        };
        let kept = Kept {
            finalizers: pool.metadata.finalizers.clone().unwrap_or_default(),
            version: pool.metadata.resource_version.clone(),
        };
        self.kept.insert(Arc::clone(name), kept);
        self.pools.upsert(Pool::parse(&pool));
    }

    /// Adds and removes finalizers.
    pub(super) async fn keep(&mut self, view: &View) {
        let terminating = self.pools.iter().any(|pool| pool.terminating);
        if !std::mem::replace(&mut self.stale, false) && !terminating {
            return;
        }
        let pools: Vec<Arc<Pool>> = self.pools.iter().cloned().collect();
        for pool in pools {
            let Some(kept) = self.kept.get(&pool.name) else {
                continue;
            };
            let present = kept.finalizers.iter().any(|name| name == FINALIZER);
            let allocatable = self.pools.unallocatable(&pool).is_none();
            let left = self.left(&pool, view);
            let mut wanted = kept.finalizers.clone();
            match finalizer(present, pool.terminating, allocatable, left) {
                Finalizer::Leave => continue,
                Finalizer::Add => wanted.push(FINALIZER.to_owned()),
                Finalizer::Remove => wanted.retain(|name| name != FINALIZER),
            }
            let version = kept.version.clone();
            self.write(&pool.name, &wanted, version.as_deref()).await;
        }
    }

    /// Blocks and claims inside a pool; a block that cannot be read may hold anything.
    fn left(&self, pool: &Pool, view: &View) -> usize {
        let inside = |block: &IpNet| {
            let owner = self.pools.of_block(*block);
            pool.cidr.contains(block) && owner.is_none_or(|owner| owner.name == pool.name)
        };
        let blocks = view.blocks.keys().chain(view.broken.keys());
        let claims = view.affinities.keys().map(|(_, block)| block);
        blocks.chain(claims).filter(|block| inside(block)).count()
    }

    async fn write(&mut self, name: &str, finalizers: &[String], version: Option<&str>) {
        let patch = Patch::Merge(json!({
            "metadata": { "finalizers": finalizers, "resourceVersion": version },
        }));
        let params = PatchParams::default();
        let call = self.objects.patch_metadata(name, &params, &patch);
        match tokio::time::timeout(LIMIT, call).await {
            Ok(Ok(_)) => tracing::info!(pool = name, ?finalizers, "finalizers written"),
            Ok(Err(error)) => {
                self.stale = true;
                tracing::debug!(pool = name, %error, "finalizers not written, trying again");
            }
            Err(_elapsed) => self.stale = true,
        }
    }

    /// What each pool's `Allocatable` condition says.
    pub(super) fn facts(&self, view: &View) -> PoolFacts {
        let mut blocks: BTreeMap<Arc<str>, Vec<&::ipam::block::Block>> = BTreeMap::new();
        for (cidr, stored) in &view.blocks {
            if let Some(pool) = self.pools.of_block(*cidr) {
                let name = Arc::clone(&pool.name);
                blocks.entry(name).or_default().push(&stored.value);
            }
        }
        self.pools
            .iter()
            .map(|pool| {
                let own = blocks.get(&pool.name).into_iter().flatten().copied();
                let usage = Usage::count(pool, own);
                let facts = self.pools.allocatable(pool, &usage);
                (pool.name.to_string(), facts)
            })
            .collect()
    }
}
