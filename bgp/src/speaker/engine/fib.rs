//! Readers of best routes: each has a cursor per family and gets what changed since, coalesced.

use std::collections::HashMap;
use std::sync::Arc;

use smallvec::SmallVec;

use super::Speaker;
use crate::attr::AttrId;
use crate::rib::{Cursor, Dest, DestId, Interest, Path, PeerId};
use crate::speaker::{BestRoute, FibBatch, FibConsumer, FibUpdate, NextHop, RouteSource};
use crate::{Asn, Family, FamilyMap};

/// A reader's place.
#[derive(Debug)]
pub(super) struct Reader {
    id: FibConsumer,
    cursors: FamilyMap<Cursor>,
    synced: FamilyMap<bool>,
}

impl Speaker {
    /// Adds a reader of best routes; it starts with everything known.
    pub fn fib_subscribe(&mut self) -> FibConsumer {
        let id = FibConsumer(self.readers.last().map_or(0, |last| last.id.0 + 1));
        self.readers.push(Reader {
            id,
            cursors: FamilyMap::from_fn(|_| Cursor::START),
            synced: FamilyMap::from_fn(|_| false),
        });
        id
    }

    /// Forgets a reader.
    pub fn fib_unsubscribe(&mut self, consumer: FibConsumer) {
        self.readers.retain(|reader| reader.id != consumer);
    }

    /// The next batch of a reader, of at most `limit` prefixes; `None` when it is up to date. Nothing comes before the
    /// first configuration, nor of a family whose choice is deferred.
    pub fn fib_poll(&mut self, consumer: FibConsumer, limit: usize) -> Option<FibUpdate> {
        self.desired.as_ref()?;
        let deferring = self.deferring();
        let mut families = Family::ALL
            .into_iter()
            .filter(|family| !deferring.contains(*family));
        families.find_map(|family| self.fib_poll_family(consumer, family, limit))
    }

    fn fib_poll_family(
        &mut self,
        consumer: FibConsumer,
        family: Family,
        limit: usize,
    ) -> Option<FibUpdate> {
        let index = self
            .readers
            .iter()
            .position(|reader| reader.id == consumer)?;
        let reader = self.readers.get_mut(index)?;
        let mut ids = Vec::new();
        let cursor = reader.cursors.get_mut(family);
        let current = self
            .rib
            .table_mut(family)
            .read(cursor, Interest::Used, limit, &mut ids);
        if !ids.is_empty() {
            return Some(FibUpdate::Changes(FibBatch {
                family,
                changes: self.best_routes(family, &ids),
            }));
        }
        let synced = self.readers.get_mut(index)?.synced.get_mut(family);
        (current && !std::mem::replace(synced, true)).then_some(FibUpdate::Synced(family))
    }

    fn best_routes(
        &self,
        family: Family,
        ids: &[DestId],
    ) -> Vec<(ipnet::IpNet, Option<BestRoute>)> {
        let mut paths = HashMap::new();
        let table = self.rib.table(family);
        ids.iter()
            .filter_map(|id| table.dest(*id))
            .map(|dest| (dest.prefix, self.best_route(dest, &mut paths)))
            .collect()
    }

    /// `None` when there is nothing to program.
    fn best_route(
        &self,
        dest: &Dest,
        paths: &mut HashMap<AttrId, Arc<[Asn]>>,
    ) -> Option<BestRoute> {
        let best = dest.best().filter(|best| best.peer != PeerId::LOCAL)?;
        let mut next_hops: SmallVec<[NextHop; 4]> = SmallVec::new();
        for path in dest.used() {
            let next_hop = NextHop {
                address: self.rib.next_hops.address(path.next_hop),
            };
            if !next_hops.contains(&next_hop) {
                next_hops.push(next_hop);
            }
        }
        let as_path = paths.entry(best.attributes).or_insert_with(|| {
            self.rib
                .attributes
                .get(best.attributes)
                .attributes()
                .as_path
                .asns()
                .collect()
        });
        Some(BestRoute {
            next_hops: next_hops.into_vec(),
            source: self.route_source(best),
            as_path: Arc::clone(as_path),
            priority: best.priority,
            stale: best.stale,
        })
    }

    /// Where a path was learnt, for those outside.
    pub(super) fn route_source(&self, path: &Path) -> RouteSource {
        match (self.slot(path.peer), self.rib.source(path.peer)) {
            (Some(slot), Some(source)) if path.peer != PeerId::LOCAL => RouteSource::Peer {
                key: slot.key.clone(),
                asn: source.asn,
                external: source.external,
            },
            _ => RouteSource::Local,
        }
    }

    /// Whether every reader has seen everything of a family.
    pub(super) fn readers_current(&self, family: Family) -> bool {
        let head = self.rib.table(family).head();
        self.readers
            .iter()
            .all(|reader| *reader.cursors.get(family) == head)
    }
}
