//! The choice among paths to one prefix: a total order that returns the step which decided.
//!
//! MED is compared only within one neighbour system, which no pairwise order can express. So paths are grouped by
//! neighbour first (deterministic MED): the best of each group meet in the final, where MED counts no more.

use std::cmp::Ordering;

use serde::{Deserialize, Serialize};

use super::{NextHops, Path, PeerId, Source};
use crate::attr::{Header, Interner};
use crate::speaker::Resolution;

/// The step of the decision that told two paths apart, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Preference {
    /// Originated by ourselves.
    Local,
    /// Higher `LOCAL_PREF`.
    LocalPref,
    /// Shorter AS path.
    AsPathLength,
    /// Lower origin.
    Origin,
    /// Lower `MULTI_EXIT_DISC` within one neighbour system.
    Med,
    /// eBGP before iBGP.
    External,
    /// Lower metric to the next hop.
    NextHopMetric,
    /// Lower `ORIGINATOR_ID` or router id. Paths equal up to here may be used together.
    RouterId,
    /// Shorter `CLUSTER_LIST`.
    ClusterList,
    /// Lower address of the peer.
    PeerAddress,
}

/// Why a path is no candidate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Ineligible {
    /// Its next hop cannot be reached.
    NextHopUnresolved,
}

/// Knobs of the decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Equal paths used together.
    pub multipath: usize,
    /// Whether external paths through different systems can be equal.
    pub relax: bool,
    /// Whether MED counts between different systems.
    pub always_compare_med: bool,
}

/// Everything the decision reads besides the paths.
#[derive(Clone, Copy, Debug)]
pub(super) struct Facts<'a> {
    pub(super) rules: Rules,
    pub(super) sources: &'a [Source],
    pub(super) attributes: &'a Interner,
    pub(super) next_hops: &'a NextHops,
}

/// One path with what the decision reads of it.
#[derive(Clone, Copy, Debug)]
struct Candidate<'a> {
    path: Path,
    header: &'a Header,
    source: &'a Source,
    metric: u32,
}

impl<'a> Facts<'a> {
    /// Orders paths: those used come first, the best in front; returns how many are used.
    pub(super) fn select(&self, paths: &mut [Path]) -> usize {
        if let [only] = paths {
            return usize::from(self.ineligible(only).is_none());
        }
        paths.sort_by(|a, b| self.rank(a, b));
        let eligible = paths
            .iter()
            .take_while(|path| self.ineligible(path).is_none())
            .count();
        let Some(best) = self.final_winner(paths.get(..eligible).unwrap_or_default()) else {
            return 0;
        };
        if let Some(front) = paths.get_mut(..=best) {
            front.rotate_right(1);
        }
        self.gather_equals(paths, eligible)
    }

    /// Why a path is no candidate.
    pub(super) fn ineligible(&self, path: &Path) -> Option<Ineligible> {
        match self.next_hops.resolution(path.next_hop) {
            Resolution::Resolved { .. } => None,
            Resolution::Unresolved => Some(Ineligible::NextHopUnresolved),
        }
    }

    /// The step in which `loser` lost against `winner`; `None` when the two are one path.
    pub(super) fn reason(&self, winner: &Path, loser: &Path) -> Option<Preference> {
        let (winner, loser) = (self.candidate(winner)?, self.candidate(loser)?);
        let med =
            self.rules.always_compare_med || winner.header.neighbour == loser.header.neighbour;
        steps(&winner, &loser, med).map(|(step, _)| step)
    }

    /// Neighbours of one system side by side, the best of each first; ineligible paths last.
    fn rank(&self, a: &Path, b: &Path) -> Ordering {
        let bad = |path: &Path| self.ineligible(path).is_some();
        let neighbour = |path: &Path| {
            if self.rules.always_compare_med {
                None
            } else {
                self.attributes.get(path.attributes).header().neighbour
            }
        };
        bad(a)
            .cmp(&bad(b))
            .then_with(|| neighbour(a).cmp(&neighbour(b)))
            .then_with(|| self.compare(a, b, true))
    }

    /// Index of the best among the first of each neighbour group.
    fn final_winner(&self, eligible: &[Path]) -> Option<usize> {
        let mut winner: Option<(usize, &Path)> = None;
        for (index, path) in eligible.iter().enumerate() {
            let better = winner.is_none_or(|(_, best)| {
                let med =
                    self.rules.always_compare_med || self.neighbour(best) == self.neighbour(path);
                self.compare(path, best, med) == Ordering::Less
            });
            if better {
                winner = Some((index, path));
            }
        }
        winner.map(|(index, _)| index)
    }

    /// Moves paths equal to the first behind it; how many are used in all. A path that lost within its own neighbour
    /// system (by MED) is not used, even if it ties with a best path of another system.
    fn gather_equals(&self, paths: &mut [Path], eligible: usize) -> usize {
        let most = self.rules.multipath.clamp(1, 64);
        let mut used = 1;
        for index in 1..eligible {
            let (Some(best), Some(path)) = (paths.first(), paths.get(index)) else {
                break;
            };
            // Groups are contiguous and ordered, so the first of the same system seen so far is its winner.
            let system = self.neighbour(path);
            let earlier = paths.get(..index).unwrap_or_default();
            let winner = earlier
                .iter()
                .find(|earlier| self.neighbour(earlier) == system);
            let won = winner.is_none_or(|winner| self.equal(winner, path));
            if used < most && won && self.equal(best, path) {
                if let Some(part) = paths.get_mut(used..=index) {
                    part.rotate_right(1);
                }
                used += 1;
            }
        }
        used
    }

    fn neighbour(&self, path: &Path) -> Option<crate::Asn> {
        self.attributes.get(path.attributes).header().neighbour
    }

    fn equal(&self, best: &Path, other: &Path) -> bool {
        let (Some(best), Some(other)) = (self.candidate(best), self.candidate(other)) else {
            return false;
        };
        let same_system = best.header.neighbour == other.header.neighbour;
        let med = self.rules.always_compare_med || same_system;
        let tied = steps(&best, &other, med).is_none_or(|(step, _)| step >= Preference::RouterId);
        tied && (self.rules.relax || same_system) && best.path.peer != PeerId::LOCAL
    }

    fn compare(&self, a: &Path, b: &Path, med: bool) -> Ordering {
        match (self.candidate(a), self.candidate(b)) {
            (Some(a), Some(b)) => steps(&a, &b, med).map_or(Ordering::Equal, |(_, order)| order),
            (a, b) => a.is_none().cmp(&b.is_none()),
        }
    }

    fn candidate(&self, path: &Path) -> Option<Candidate<'a>> {
        Some(Candidate {
            path: *path,
            header: self.attributes.get(path.attributes).header(),
            source: self.sources.get(path.peer.0 as usize)?,
            metric: match self.next_hops.resolution(path.next_hop) {
                Resolution::Resolved { metric } => metric,
                Resolution::Unresolved => u32::MAX,
            },
        })
    }
}

/// The first step that tells two paths apart, and how (`Less` is better).
fn steps(a: &Candidate<'_>, b: &Candidate<'_>, med: bool) -> Option<(Preference, Ordering)> {
    use Preference as P;
    let local = |c: &Candidate<'_>| c.path.peer != PeerId::LOCAL;
    let router_id = |c: &Candidate<'_>| c.header.originator.unwrap_or(c.source.router_id);
    let order = [
        (P::Local, local(a).cmp(&local(b))),
        (P::LocalPref, b.header.local_pref.cmp(&a.header.local_pref)),
        (P::AsPathLength, a.header.hops.cmp(&b.header.hops)),
        (P::Origin, a.header.origin.cmp(&b.header.origin)),
        (
            P::Med,
            if med {
                a.header.med.cmp(&b.header.med)
            } else {
                Ordering::Equal
            },
        ),
        (P::External, b.source.external.cmp(&a.source.external)),
        (P::NextHopMetric, a.metric.cmp(&b.metric)),
        (P::RouterId, router_id(a).cmp(&router_id(b))),
        (P::ClusterList, a.header.clusters.cmp(&b.header.clusters)),
        (P::PeerAddress, a.source.address.cmp(&b.source.address)),
    ];
    order.into_iter().find(|(_, order)| order.is_ne())
}
