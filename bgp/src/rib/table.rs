//! Destinations and their paths.

use std::hash::BuildHasher;

use foldhash::fast::FixedState;
use hashbrown::HashTable;
use ipnet::IpNet;
use smallvec::SmallVec;

use super::decision::{Facts, Ineligible, Preference, Rules};
use super::log::{ChangeLog, Cursor};
use super::{NextHops, NhId, PeerId, Source};
use crate::attr::{AttrId, Interner};
use crate::speaker::Resolution;
use crate::{Family, FamilyMap};

/// Name of a destination: its place in the slab, and its bit in every bitmap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DestId(pub(crate) u32);

/// One path to a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Path {
    /// Where it came from.
    pub peer: PeerId,
    /// Attributes after import rules.
    pub attributes: AttrId,
    /// Next hop.
    pub next_hop: NhId,
    /// Kernel metric asked for by import rules.
    pub priority: Option<u32>,
    /// Kept only because its peer restarts.
    pub stale: bool,
}

/// A prefix and its paths.
#[derive(Debug)]
pub struct Dest {
    /// The prefix.
    pub prefix: IpNet,
    paths: SmallVec<[Path; 1]>,
    used: u8,
    /// Newest entry in the change log.
    changed: u64,
    /// Newest entry at which the best path changed.
    best_changed: u64,
    live: bool,
}

impl Dest {
    /// All paths, those used first, the best in front.
    pub fn paths(&self) -> &[Path] {
        &self.paths
    }

    /// Paths used together, the best first; empty when no path is eligible.
    pub fn used(&self) -> &[Path] {
        self.paths.get(..usize::from(self.used)).unwrap_or_default()
    }

    /// The best path.
    pub fn best(&self) -> Option<&Path> {
        self.used().first()
    }
}

/// All destinations of one family.
#[derive(Debug)]
pub struct Table {
    dests: Vec<Dest>,
    free: Vec<u32>,
    /// Destinations that lost their last path: if still empty once every reader knows, their ids are used again
    /// ([`Table::reclaim`]).
    empty: Vec<u32>,
    index: HashTable<u32>,
    hasher: FixedState,
    log: ChangeLog,
    filled: usize,
    paths: usize,
}

/// What a reader cares about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Interest {
    /// The best path alone.
    Best,
    /// Every path in use.
    Used,
}

impl Table {
    fn new(seed: u64) -> Self {
        Self {
            dests: Vec::new(),
            free: Vec::new(),
            empty: Vec::new(),
            index: HashTable::new(),
            hasher: FixedState::with_seed(seed),
            log: ChangeLog::new(),
            filled: 0,
            paths: 0,
        }
    }

    /// Number of destinations with paths.
    pub fn len(&self) -> usize {
        self.filled
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Number of paths.
    pub fn path_count(&self) -> usize {
        self.paths
    }

    /// A destination by name.
    pub fn dest(&self, id: DestId) -> Option<&Dest> {
        self.dests.get(id.0 as usize).filter(|dest| dest.live)
    }

    /// A destination by prefix.
    pub fn find(&self, prefix: &IpNet) -> Option<DestId> {
        let hash = self.hasher.hash_one(prefix);
        self.index
            .find(hash, |index| {
                self.dests
                    .get(*index as usize)
                    .is_some_and(|dest| dest.prefix == *prefix)
            })
            .map(|index| DestId(*index))
    }

    /// One past the greatest name in use.
    pub fn end(&self) -> u32 {
        u32::try_from(self.dests.len()).expect("slab names have 32 bits")
    }

    /// All destinations in order of name.
    pub fn iter(&self) -> impl Iterator<Item = (DestId, &Dest)> {
        (0u32..)
            .map(DestId)
            .zip(&self.dests)
            .filter(|(_, dest)| dest.live)
    }

    fn find_or_insert(&mut self, prefix: IpNet) -> DestId {
        if let Some(found) = self.find(&prefix) {
            return found;
        }
        let dest = Dest {
            prefix,
            paths: SmallVec::new(),
            used: 0,
            changed: u64::MAX,
            best_changed: u64::MAX,
            live: true,
        };
        let index = if let Some(index) = self.free.pop() {
            if let Some(place) = self.dests.get_mut(index as usize) {
                *place = dest;
            }
            index
        } else {
            self.dests.push(dest);
            self.end() - 1
        };
        let (dests, hasher) = (&self.dests, &self.hasher);
        let rehash = |index: &u32| {
            dests
                .get(*index as usize)
                .map_or(0, |dest| hasher.hash_one(dest.prefix))
        };
        self.index
            .insert_unique(hasher.hash_one(prefix), index, rehash);
        DestId(index)
    }

    /// Applies `edit` to the paths of a destination, decides anew, and logs what changed. Whether anything did.
    fn edit(
        &mut self,
        id: DestId,
        facts: &Facts<'_>,
        edit: impl FnOnce(&mut SmallVec<[Path; 1]>),
    ) -> bool {
        let Some(dest) = self.dests.get_mut(id.0 as usize) else {
            return false;
        };
        let before: SmallVec<[Path; 4]> = dest.used().iter().copied().collect();
        let had = dest.paths.len();
        edit(&mut dest.paths);
        dest.used = u8::try_from(facts.select(&mut dest.paths)).unwrap_or(u8::MAX);
        let has = dest.paths.len();
        let changed = dest.used() != before.as_slice();
        if changed {
            let told =
                |path: Option<&Path>| path.map(|path| (path.peer, path.attributes, path.next_hop));
            let best_changed = told(dest.best()) != told(before.first());
            dest.changed = self.log.append(id.0, dest.changed);
            if best_changed {
                dest.best_changed = dest.changed;
            }
        }
        self.paths = self.paths + has - had;
        match (had, has) {
            (0, 1..) => self.filled += 1,
            (1.., 0) => {
                self.filled -= 1;
                self.empty.push(id.0);
            }
            _ => {}
        }
        changed
    }

    /// Reads up to `limit` changed destinations that the reader cares about; whether it is up to date afterwards.
    pub(crate) fn read(
        &mut self,
        cursor: &mut Cursor,
        interest: Interest,
        limit: usize,
        found: &mut Vec<DestId>,
    ) -> bool {
        let most = found.len() + limit;
        loop {
            match *cursor {
                Cursor::At(at) if !self.log.holds(at) => {
                    *cursor = Cursor::Scan {
                        since: at,
                        next: 0,
                        then: self.log.head(),
                    };
                }
                Cursor::At(at) => {
                    if at >= self.log.head() {
                        return true;
                    }
                    if found.len() >= most {
                        return false;
                    }
                    self.read_entry(at, interest, found);
                    *cursor = Cursor::At(at + 1);
                    self.log.note_read(at + 1);
                }
                Cursor::Scan {
                    since,
                    next,
                    mut then,
                } => {
                    if next == 0 {
                        then = self.log.head();
                        self.log.note_read(then);
                    }
                    if self.scan(cursor, (since, next, then), interest, most, found) {
                        return false;
                    }
                }
            }
        }
    }

    fn read_entry(&self, at: u64, interest: Interest, found: &mut Vec<DestId>) {
        let Some(index) = self.log.get(at) else {
            return;
        };
        let Some(dest) = self.dests.get(index as usize) else {
            return;
        };
        let newest = match interest {
            Interest::Best => dest.best_changed,
            Interest::Used => dest.changed,
        };
        if newest == at {
            found.push(DestId(index));
        }
    }

    /// Scans on; whether the limit was reached first.
    fn scan(
        &self,
        cursor: &mut Cursor,
        (since, next, then): (u64, u32, u64),
        interest: Interest,
        most: usize,
        found: &mut Vec<DestId>,
    ) -> bool {
        for (index, dest) in (next..).zip(self.dests.get(next as usize..).unwrap_or_default()) {
            if found.len() >= most {
                *cursor = Cursor::Scan {
                    since,
                    next: index,
                    then,
                };
                return true;
            }
            let newest = match interest {
                Interest::Best => dest.best_changed,
                Interest::Used => dest.changed,
            };
            if dest.live && newest != u64::MAX && newest >= since {
                found.push(DestId(index));
            }
        }
        *cursor = Cursor::At(then);
        false
    }

    /// Where a reader that is up to date stands.
    pub(crate) fn head(&self) -> Cursor {
        Cursor::At(self.log.head())
    }

    /// Frees destinations without paths. Only when every reader is up to date: an id must not change its prefix under one.
    pub(crate) fn reclaim(&mut self) {
        for index in std::mem::take(&mut self.empty) {
            let still_empty = |dest: &&mut Dest| dest.live && dest.paths.is_empty();
            let Some(dest) = self.dests.get_mut(index as usize).filter(still_empty) else {
                continue;
            };
            dest.live = false;
            let hash = self.hasher.hash_one(dest.prefix);
            if let Ok(entry) = self.index.find_entry(hash, |found| *found == index) {
                entry.remove();
            }
            self.free.push(index);
        }
    }

    /// Whether destinations wait to be freed.
    pub(crate) fn has_empty(&self) -> bool {
        !self.empty.is_empty()
    }
}

/// The tables of all families with what they share.
#[derive(Debug)]
pub struct Rib {
    tables: FamilyMap<Table>,
    /// Attribute sets.
    pub attributes: Interner,
    /// Next hops.
    pub next_hops: NextHops,
    sources: Vec<Source>,
    rules: Rules,
}

impl Rib {
    /// Empty tables.
    pub fn new(rules: Rules, local: Source, seed: u64) -> Self {
        Self {
            tables: FamilyMap::from_fn(|_| Table::new(seed)),
            attributes: Interner::new(seed),
            next_hops: NextHops::default(),
            sources: vec![local],
            rules,
        }
    }

    /// The table of a family.
    pub fn table(&self, family: Family) -> &Table {
        self.tables.get(family)
    }

    /// The same, to read its changes.
    pub(crate) fn table_mut(&mut self, family: Family) -> &mut Table {
        self.tables.get_mut(family)
    }

    /// Facts about a source.
    pub fn source(&self, peer: PeerId) -> Option<&Source> {
        self.sources.get(peer.0 as usize)
    }

    /// Learns about a source.
    pub fn set_source(&mut self, peer: PeerId, source: Source) {
        let index = peer.0 as usize;
        while self.sources.len() <= index {
            self.sources.push(source);
        }
        if let Some(place) = self.sources.get_mut(index) {
            *place = source;
        }
    }

    /// Changes the knobs; every destination is decided anew.
    pub fn set_rules(&mut self, rules: Rules) {
        if self.rules == rules {
            return;
        }
        self.rules = rules;
        for family in Family::ALL {
            self.redecide(family, |_| true);
        }
    }

    /// Learns about a next hop; destinations with paths through it are decided anew.
    pub fn learn_next_hop(&mut self, address: std::net::IpAddr, resolution: Resolution) {
        let Some(id) = self.next_hops.learn(address, resolution) else {
            return;
        };
        for family in Family::ALL {
            self.redecide(family, |dest| {
                dest.paths.iter().any(|path| path.next_hop == id)
            });
        }
    }

    /// Adds or replaces the path of a peer; whether it is new. The rib counts its own hold on the attribute set.
    pub fn announce(&mut self, prefix: IpNet, path: Path) -> bool {
        let family = Family::of(&prefix);
        self.attributes.retain(path.attributes);
        let (table, facts) = split(
            &mut self.tables,
            family,
            self.rules,
            &self.sources,
            &self.attributes,
            &self.next_hops,
        );
        let id = table.find_or_insert(prefix);
        let mut replaced = None;
        table.edit(id, &facts, |paths| {
            match paths.iter_mut().find(|old| old.peer == path.peer) {
                Some(old) => replaced = Some(std::mem::replace(old, path)),
                None => paths.push(path),
            }
        });
        match replaced {
            Some(old) => {
                self.attributes.release(old.attributes);
                false
            }
            None => true,
        }
    }

    /// Removes the path of a peer; whether there was one.
    pub fn withdraw(&mut self, prefix: &IpNet, peer: PeerId) -> bool {
        let family = Family::of(prefix);
        match self.table(family).find(prefix) {
            Some(id) => self.remove_paths(family, id, |path| path.peer == peer) > 0,
            None => false,
        }
    }

    /// Marks all paths of a peer as stale; how many it has.
    pub fn mark_stale(&mut self, peer: PeerId, family: Family) -> usize {
        let mut marked = 0;
        for id in self.names(family, |path| path.peer == peer) {
            let (table, facts) = split(
                &mut self.tables,
                family,
                self.rules,
                &self.sources,
                &self.attributes,
                &self.next_hops,
            );
            table.edit(id, &facts, |paths| {
                for path in paths.iter_mut().filter(|path| path.peer == peer) {
                    path.stale = true;
                    marked += 1;
                }
            });
        }
        marked
    }

    /// Removes paths of a peer that are still stale; how many.
    pub fn sweep_stale(&mut self, peer: PeerId, family: Family) -> usize {
        self.remove_where(family, |path| path.peer == peer && path.stale)
    }

    /// Removes all paths of a peer; how many.
    pub fn flush(&mut self, peer: PeerId, family: Family) -> usize {
        self.remove_where(family, |path| path.peer == peer)
    }

    /// Why a path is no candidate.
    pub fn ineligible(&self, path: &Path) -> Option<Ineligible> {
        self.facts().ineligible(path)
    }

    /// The step in which `loser` lost against `winner`.
    pub fn reason(&self, winner: &Path, loser: &Path) -> Option<Preference> {
        self.facts().reason(winner, loser)
    }

    fn facts(&self) -> Facts<'_> {
        Facts {
            rules: self.rules,
            sources: &self.sources,
            attributes: &self.attributes,
            next_hops: &self.next_hops,
        }
    }

    fn names(&self, family: Family, which: impl Fn(&Path) -> bool) -> Vec<DestId> {
        self.table(family)
            .iter()
            .filter(|(_, dest)| dest.paths.iter().any(&which))
            .map(|(id, _)| id)
            .collect()
    }

    fn remove_where(&mut self, family: Family, which: impl Fn(&Path) -> bool) -> usize {
        self.names(family, &which)
            .into_iter()
            .map(|id| self.remove_paths(family, id, &which))
            .sum()
    }

    fn remove_paths(&mut self, family: Family, id: DestId, which: impl Fn(&Path) -> bool) -> usize {
        let mut removed: SmallVec<[AttrId; 4]> = SmallVec::new();
        let (table, facts) = split(
            &mut self.tables,
            family,
            self.rules,
            &self.sources,
            &self.attributes,
            &self.next_hops,
        );
        table.edit(id, &facts, |paths| {
            paths.retain(|path| {
                let goes = which(path);
                if goes {
                    removed.push(path.attributes);
                }
                !goes
            });
        });
        for attributes in &removed {
            self.attributes.release(*attributes);
        }
        removed.len()
    }

    fn redecide(&mut self, family: Family, which: impl Fn(&Dest) -> bool) {
        let ids: Vec<DestId> = self
            .table(family)
            .iter()
            .filter(|(_, dest)| which(dest))
            .map(|(id, _)| id)
            .collect();
        for id in ids {
            let (table, facts) = split(
                &mut self.tables,
                family,
                self.rules,
                &self.sources,
                &self.attributes,
                &self.next_hops,
            );
            table.edit(id, &facts, |_| ());
        }
    }
}

/// Borrows one table to change it, and everything the decision reads.
fn split<'a>(
    tables: &'a mut FamilyMap<Table>,
    family: Family,
    rules: Rules,
    sources: &'a [Source],
    attributes: &'a Interner,
    next_hops: &'a NextHops,
) -> (&'a mut Table, Facts<'a>) {
    (
        tables.get_mut(family),
        Facts {
            rules,
            sources,
            attributes,
            next_hops,
        },
    )
}
