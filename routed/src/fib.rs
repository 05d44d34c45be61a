//! Best paths of the speaker → route candidates of this host. Pure.
//!
//! ```text
//!  speaker ── LearntRoutes (batches) ──► Fib::take ───► what was learnt, and what of it is dirty
//!  World, Host ── Facts ──────────────► Fib::candidates ─┬─► Candidates, merged with the planned ones by dataplane
//!                                                        └─► unresolved next hops, back to the speaker
//! ```
//!
//! - Learnt routes never enter the kernel when the planner owns the prefix (pools with encapsulation), and never for service ranges:
//!   an echo from a router must not capture a service.
//! - A next hop is used when it lies on a link of ours, or when a route of the host that is not ours leads to it; the packets then
//!   go to the gateway of that route. Of several next hops those that resolve are used together. A next hop that does not resolve is
//!   told to the speaker, so that another path can win, and is tried again whenever the facts change.
//! - Work is proportional to what changed: a batch touches its own prefixes; only changed [`Facts`] touch all of them. Addresses
//!   and routes of pods are no part of the facts, so a pod that comes or goes costs nothing here.
//! - After the speaker was started anew within this daemon, what it does not tell again until `Synced` is dropped
//!   ([`LearntRoutes::Restarted`]); after a start of the daemon whoever applies keeps the kernel's own learnt routes until
//!   [`Fib::complete`].

mod facts;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write as _};
use std::net::IpAddr;
use std::sync::Arc;

use bgp::speaker::{BestRoute, FibBatch, RouteSource};
use bgp::{Family, FamilyMap};
use dataplane::plan::routes::{self, Candidate, Candidates, Merged, Rank};
use dataplane::route::{Group, Hop, Protocol, Route, RouteKey, Target};
use ipnet::IpNet;

pub use facts::{Facts, Underlay, Unresolved};

/// Unresolved next hops that are remembered and told to the speaker; paths behind further ones just stay out of the kernel.
const UNRESOLVED_MAX: usize = 4_096;

/// What the speaker's task tells the World's task, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LearntRoutes {
    /// Prefixes whose best route changed.
    Changes(FibBatch),
    /// Everything known of a family has been told.
    Synced(Family),
    /// A new speaker takes over from an old one: everything will be told again.
    Restarted,
    /// Every family in use has been told: what nobody confirmed may leave the kernel.
    Complete,
    /// BGP does not run: nothing is learnt, and nothing will be.
    Withdrawn,
}

/// What was learnt, and what follows from it.
#[derive(Debug, Default)]
pub struct Fib {
    learnt: FamilyMap<BTreeMap<IpNet, Entry>>,
    dirty: BTreeSet<IpNet>,
    facts: Facts,
    /// Next hop → how it is reached, under the facts in force.
    resolved: BTreeMap<IpAddr, Result<Hop, Unresolved>>,
    unresolved: Arc<BTreeSet<IpAddr>>,
    candidates: Candidates,
    complete: bool,
}

#[derive(Debug)]
struct Entry {
    best: BestRoute,
    /// Told by the speaker that runs now.
    told: Told,
    outcome: Option<Result<RouteKey, Refusal>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    Now,
    ByPredecessor,
}

/// Why a learnt route stays out of the kernel.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The prefix lies in an encapsulated pool.
    #[error("it lies in a pool with encapsulation: the planner owns it")]
    Planned,
    /// The prefix lies in a range of service addresses.
    #[error("it lies in the service range {0}: no peer may capture services")]
    Service(IpNet),
    /// `ipv6Support` is off.
    #[error("ipv6Support is off")]
    Ipv6Off,
    /// None of its next hops can be reached.
    #[error("no next hop resolves: {}", join(.0))]
    NextHops(Vec<(IpAddr, Unresolved)>),
}

fn join(hops: &[(IpAddr, Unresolved)]) -> String {
    let texts: Vec<String> = hops
        .iter()
        .map(|(address, why)| format!("{address} {why}"))
        .collect();
    texts.join(", ")
}

/// How a learnt prefix stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing<'a> {
    /// Nothing was learnt.
    Unknown,
    /// Learnt, and to be settled in the next round.
    Pending,
    /// Offered to the kernel under this key; a planned route of the same key may still win.
    Offered(&'a RouteKey),
    /// Kept out.
    Refused(&'a Refusal),
}

impl fmt::Display for Standing<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown => f.write_str("not learnt"),
            Self::Pending => f.write_str("not settled yet"),
            Self::Offered(key) => write!(f, "offered to the kernel, metric {}", key.metric),
            Self::Refused(refusal) => write!(f, "not offered to the kernel: {refusal}"),
        }
    }
}

impl Fib {
    /// Takes in what the speaker said. True when routes may follow from it, so that a round is due.
    pub fn take(&mut self, news: LearntRoutes) -> bool {
        match news {
            LearntRoutes::Changes(batch) => {
                let mut changed = false;
                for (prefix, best) in batch.changes {
                    changed |= self.learn(prefix, best);
                }
                changed
            }
            LearntRoutes::Synced(family) => {
                let gone = |entry: &Entry| entry.told == Told::ByPredecessor;
                let stale: Vec<_> = self
                    .learnt
                    .get(family)
                    .iter()
                    .filter(|(_, entry)| gone(entry))
                    .map(|(prefix, _)| *prefix)
                    .collect();
                stale
                    .iter()
                    .fold(false, |changed, prefix| self.learn(*prefix, None) | changed)
            }
            LearntRoutes::Restarted => {
                for family in Family::ALL {
                    self.learnt
                        .get_mut(family)
                        .values_mut()
                        .for_each(|entry| entry.told = Told::ByPredecessor);
                }
                false
            }
            LearntRoutes::Withdrawn => {
                let known = self.len();
                let first = !self.complete;
                *self = Self {
                    facts: std::mem::take(&mut self.facts),
                    complete: true,
                    ..Self::default()
                };
                known > 0 || first
            }
            LearntRoutes::Complete => !std::mem::replace(&mut self.complete, true),
        }
    }

    /// True once the speaker told everything since this daemon started: learnt routes in the kernel that nobody confirmed are stale.
    pub fn complete(&self) -> bool {
        self.complete
    }

    /// Merges planned routes with learnt ones.
    pub fn merge(&mut self, planned: &Candidates, facts: Facts) -> Merged {
        routes::merge(planned, self.candidates(facts))
    }

    /// Candidates under the given facts, for the merge with planned ones.
    pub fn candidates(&mut self, facts: Facts) -> &Candidates {
        if self.facts != facts {
            self.facts = facts;
            self.resolved.clear();
            self.dirty = self
                .learnt
                .iter()
                .flat_map(|(_, entries)| entries.keys().copied())
                .collect();
        }
        if self.resolved.len() > UNRESOLVED_MAX {
            self.resolved.clear();
        }
        for prefix in std::mem::take(&mut self.dirty) {
            self.settle(prefix);
        }
        self.review_unresolved();
        &self.candidates
    }

    /// Next hops that paths were seen with and that cannot be reached now: for the speaker.
    pub fn unresolved(&self) -> Arc<BTreeSet<IpAddr>> {
        Arc::clone(&self.unresolved)
    }

    /// How a prefix stands.
    pub fn standing(&self, prefix: &IpNet) -> Standing<'_> {
        let Some(entry) = self.learnt.get(Family::of(prefix)).get(&prefix.trunc()) else {
            return Standing::Unknown;
        };
        match &entry.outcome {
            None => Standing::Pending,
            Some(Ok(key)) => Standing::Offered(key),
            Some(Err(refusal)) => Standing::Refused(refusal),
        }
    }

    /// Prefixes learnt, of all families.
    pub fn len(&self) -> usize {
        self.learnt.iter().map(|(_, entries)| entries.len()).sum()
    }

    /// True when nothing is learnt.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Learns one prefix, or forgets it. True when its routing changed.
    fn learn(&mut self, prefix: IpNet, best: Option<BestRoute>) -> bool {
        let prefix = prefix.trunc();
        let entries = self.learnt.get_mut(Family::of(&prefix));
        let Some(best) = best else {
            let Some(old) = entries.remove(&prefix) else {
                return false;
            };
            self.dirty.remove(&prefix);
            self.retract(old.outcome);
            return true;
        };
        let old = entries.remove(&prefix);
        let same = old.as_ref().is_some_and(|old| {
            old.best.next_hops == best.next_hops && old.best.priority == best.priority
        });
        let outcome = old.and_then(|old| old.outcome);
        entries.insert(
            prefix,
            Entry {
                best,
                told: Told::Now,
                outcome,
            },
        );
        self.dirty.insert(prefix);
        !same
    }

    fn retract(&mut self, outcome: Option<Result<RouteKey, Refusal>>) {
        if let Some(Ok(key)) = outcome {
            self.candidates.remove(&key);
        }
    }

    fn settle(&mut self, prefix: IpNet) {
        let Some(entry) = self.learnt.get_mut(Family::of(&prefix)).get_mut(&prefix) else {
            return;
        };
        let old = entry.outcome.take();
        let made = make(&self.facts, &mut self.resolved, prefix, &entry.best);
        let (outcome, candidate) = match made {
            Ok((key, candidate)) => (Ok(key.clone()), Some((key, candidate))),
            Err(refusal) => (Err(refusal), None),
        };
        entry.outcome = Some(outcome);
        self.retract(old);
        if let Some((key, candidate)) = candidate {
            self.candidates.insert(key, vec![candidate]);
        }
    }

    /// Adds next hops that failed just now, drops those that resolve under the facts in force.
    fn review_unresolved(&mut self) {
        let failed = self
            .resolved
            .iter()
            .filter(|(_, result)| result.is_err())
            .map(|(address, _)| *address);
        let kept = self
            .unresolved
            .iter()
            .copied()
            .filter(|address| self.facts.resolve(*address).is_err());
        let now: BTreeSet<IpAddr> = kept.chain(failed).take(UNRESOLVED_MAX).collect();
        if now != *self.unresolved {
            self.unresolved = Arc::new(now);
        }
    }
}

fn make(
    facts: &Facts,
    resolved: &mut BTreeMap<IpAddr, Result<Hop, Unresolved>>,
    prefix: IpNet,
    best: &BestRoute,
) -> Result<(RouteKey, Candidate), Refusal> {
    facts.permits(prefix)?;
    let mut hops = Vec::with_capacity(best.next_hops.len());
    let mut failed = Vec::new();
    for next_hop in &best.next_hops {
        let address = next_hop.address;
        match resolved
            .entry(address)
            .or_insert_with(|| facts.resolve(address))
        {
            Ok(hop) => hops.push(hop.clone()),
            Err(why) => failed.push((address, *why)),
        }
    }
    let reason = reason(best, &failed);
    let Some(group) = Group::try_new(hops) else {
        return Err(Refusal::NextHops(failed));
    };
    let key = RouteKey::new(
        prefix,
        best.priority.unwrap_or_else(|| facts.priority(prefix)),
    );
    let route = Route {
        target: Target::Group(group),
        protocol: Protocol::LEARNT,
        source: None,
        mtu: None,
    };
    let rank = if facts.in_a_pool(prefix) {
        Rank::NoEncap
    } else {
        Rank::OtherBgp
    };
    Ok((
        key,
        Candidate {
            rank,
            route,
            reason,
        },
    ))
}

/// Where a route comes from, for `explain`.
fn reason(best: &BestRoute, failed: &[(IpAddr, Unresolved)]) -> String {
    let mut text = match &best.source {
        RouteSource::Local => "BGP, originated here".to_owned(),
        RouteSource::Peer { key, .. } => format!("BGP from {key}"),
    };
    if !best.as_path.is_empty() {
        let path: Vec<String> = best.as_path.iter().map(ToString::to_string).collect();
        // Writing into a String cannot fail.
        let _ = write!(text, ", AS path {}", path.join(" "));
    }
    if best.stale {
        text.push_str(", kept while the peer restarts");
    }
    if !failed.is_empty() {
        let _ = write!(text, "; not via {}", join(failed));
    }
    text
}

#[cfg(test)]
mod tests;
