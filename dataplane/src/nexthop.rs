//! Next-hop objects: many routes, one place to change.
//!
//! A plan says where a route leads ([`Target`]); the kernel wants the number of an object. [`assign`] chooses the numbers so that
//! the fewest messages make the kernel equal to the plan:
//!
//! - an object whose routes all (or mostly) want something new is *replaced* and the routes stay as they are: the loss of a
//!   router, or the move of a node, is one message for any number of routes;
//! - an object that already says what is wanted keeps its number, also over a restart: the listing is the only memory;
//! - new objects take the first free number from a hash of their content on.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::num::NonZeroU8;
use std::ops::RangeInclusive;

use sha1::{Digest, Sha1};

use crate::route::{Group, Hop, KernelTarget, Route, RouteKey, Target};

/// Number of a next-hop object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct NexthopId(pub u32);

impl fmt::Display for NexthopId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "next hop {}", self.0)
    }
}

impl NexthopId {
    /// The numbers that are ours, together with protocol 81.
    pub const RANGE: RangeInclusive<u32> = 0x4d00_0000..=0x4dff_ffff;
}

/// A next-hop object as the kernel holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Nexthop {
    /// One gateway.
    Single(Hop),
    /// Several objects with weights.
    Group(BTreeMap<NexthopId, NonZeroU8>),
}

/// Whether routes refer to objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NexthopMode {
    /// Objects, the normal form.
    Objects,
    /// Gateways inside each route, for kernels that refuse objects.
    Inline,
}

/// What the kernel should hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Assigned {
    /// Objects in use.
    pub nexthops: BTreeMap<NexthopId, Nexthop>,
    /// Routes, referring to them.
    pub routes: BTreeMap<RouteKey, Route<KernelTarget>>,
}

/// What the kernel holds.
#[derive(Debug, Clone, Copy)]
pub struct Present<'a> {
    /// Our objects.
    pub nexthops: &'a BTreeMap<NexthopId, Nexthop>,
    /// Our routes.
    pub routes: &'a BTreeMap<RouteKey, Route<KernelTarget>>,
    /// Numbers inside our range that somebody else holds.
    pub taken: &'a BTreeSet<NexthopId>,
    /// Routes that stay although no plan wants them; their objects stay as they are.
    pub retained: &'a BTreeSet<RouteKey>,
}

/// What an object says, spelt out.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Content {
    Single(Hop),
    Group(Group),
}

/// Chooses objects for planned routes.
pub fn assign(
    mode: NexthopMode,
    desired: &BTreeMap<RouteKey, Route>,
    present: Present<'_>,
) -> Assigned {
    match mode {
        NexthopMode::Objects => Assignment::new(present).run(desired),
        NexthopMode::Inline => Assigned {
            nexthops: BTreeMap::new(),
            routes: desired
                .iter()
                .map(|(key, route)| (key.clone(), inline(route)))
                .collect(),
        },
    }
}

fn inline(route: &Route) -> Route<KernelTarget> {
    let target = match &route.target {
        Target::Device(device) => KernelTarget::Device(device.clone()),
        Target::Hop(hop) => match Group::try_new([hop.clone()]) {
            Some(group) => KernelTarget::Inline(group),
            None => KernelTarget::Other,
        },
        Target::Group(group) => KernelTarget::Inline(group.clone()),
        Target::Blackhole => KernelTarget::Blackhole,
    };
    with_target(route, target)
}

fn with_target(route: &Route, target: KernelTarget) -> Route<KernelTarget> {
    Route {
        target,
        protocol: route.protocol,
        source: route.source,
        mtu: route.mtu,
    }
}

struct Assignment<'a> {
    present: Present<'a>,
    /// Objects that must keep what they say: members of groups, and those of retained routes.
    pinned: BTreeSet<NexthopId>,
    /// What each object in use will say.
    decided: BTreeMap<NexthopId, Content>,
    /// Objects nobody routes over at present, by what they say: free to be used again.
    idle: BTreeMap<Content, NexthopId>,
    by_content: BTreeMap<Content, NexthopId>,
    /// Numbers given out just now.
    fresh: BTreeSet<NexthopId>,
    out: Assigned,
}

impl<'a> Assignment<'a> {
    fn new(present: Present<'a>) -> Self {
        Self {
            pinned: pinned(present),
            present,
            decided: BTreeMap::new(),
            idle: BTreeMap::new(),
            by_content: BTreeMap::new(),
            fresh: BTreeSet::new(),
            out: Assigned::default(),
        }
    }

    fn run(mut self, desired: &BTreeMap<RouteKey, Route>) -> Assigned {
        self.decide(desired);
        self.keep_retained();
        for (key, route) in desired {
            let target = match &route.target {
                Target::Device(device) => KernelTarget::Device(device.clone()),
                Target::Blackhole => KernelTarget::Blackhole,
                Target::Hop(hop) => {
                    KernelTarget::Object(self.object(key, Content::Single(hop.clone())))
                }
                Target::Group(group) => {
                    KernelTarget::Object(self.object(key, Content::Group(group.clone())))
                }
            };
            self.out
                .routes
                .insert(key.clone(), with_target(route, target));
        }
        self.out
    }

    /// Every object says what most of its routes want from now on.
    fn decide(&mut self, desired: &BTreeMap<RouteKey, Route>) {
        let votes = self.votes(desired);
        for (&id, nexthop) in self.present.nexthops {
            let says = content(nexthop, self.present.nexthops);
            let pinned = self.pinned.contains(&id);
            let wanted = votes.get(&id).filter(|_| !pinned);
            let Some(wanted) = wanted else {
                if let Some(says) = says {
                    self.idle.entry(says).or_insert(id);
                }
                continue;
            };
            let winner = wanted
                .iter()
                .max_by_key(|(content, count)| (**count, says.as_ref() == Some(*content)))
                .map(|(content, _)| content.clone());
            if let Some(winner) = winner {
                self.by_content.entry(winner.clone()).or_insert(id);
                self.decided.insert(id, winner);
            }
        }
    }

    /// Object → what its routes want → how many want it. An object cannot turn from a single one into a group or back.
    fn votes(
        &self,
        desired: &BTreeMap<RouteKey, Route>,
    ) -> BTreeMap<NexthopId, BTreeMap<Content, usize>> {
        let mut votes: BTreeMap<_, BTreeMap<_, usize>> = BTreeMap::new();
        for (key, route) in desired {
            let Some(id) = self.current(key) else {
                continue;
            };
            let wanted = match (&route.target, self.present.nexthops.get(&id)) {
                (Target::Hop(hop), Some(Nexthop::Single(_))) => Content::Single(hop.clone()),
                (Target::Group(group), Some(Nexthop::Group(_))) => Content::Group(group.clone()),
                _ => continue,
            };
            *votes.entry(id).or_default().entry(wanted).or_default() += 1;
        }
        votes
    }

    fn current(&self, key: &RouteKey) -> Option<NexthopId> {
        match self.present.routes.get(key)?.target {
            KernelTarget::Object(id) => Some(id),
            KernelTarget::Device(_)
            | KernelTarget::Inline(_)
            | KernelTarget::Blackhole
            | KernelTarget::Other => None,
        }
    }

    /// Objects under routes that stay stay too.
    fn keep_retained(&mut self) {
        let objects = self
            .present
            .retained
            .iter()
            .filter_map(|key| self.current(key));
        let mut queue: Vec<_> = objects.collect();
        while let Some(id) = queue.pop() {
            let Some(nexthop) = self.present.nexthops.get(&id) else {
                continue;
            };
            if let Nexthop::Group(members) = nexthop {
                queue.extend(members.keys().copied());
            }
            self.out.nexthops.insert(id, nexthop.clone());
        }
    }

    /// The object that says `content`, for the route `key`: the one it has, another one, or a new one.
    fn object(&mut self, key: &RouteKey, content: Content) -> NexthopId {
        let id = match self.current(key) {
            Some(id) if self.decided.get(&id) == Some(&content) => id,
            Some(id) if self.pinned.contains(&id) && self.says(id).as_ref() == Some(&content) => id,
            _ => self.find(content.clone()),
        };
        self.emit(id, content);
        id
    }

    fn says(&self, id: NexthopId) -> Option<Content> {
        content(self.present.nexthops.get(&id)?, self.present.nexthops)
    }

    fn find(&mut self, content: Content) -> NexthopId {
        if let Some(&id) = self
            .by_content
            .get(&content)
            .or_else(|| self.idle.get(&content))
        {
            return id;
        }
        let id = self.allocate(&content);
        self.fresh.insert(id);
        self.by_content.insert(content, id);
        id
    }

    fn emit(&mut self, id: NexthopId, content: Content) {
        if self.out.nexthops.contains_key(&id) {
            return;
        }
        let nexthop = match content {
            Content::Single(hop) => Nexthop::Single(hop),
            Content::Group(group) => {
                let members = group
                    .hops()
                    .map(|(hop, weight)| (hop.clone(), weight))
                    .collect::<Vec<_>>();
                let mut ids = BTreeMap::new();
                for (hop, weight) in members {
                    let single = Content::Single(hop);
                    // A member it has already keeps its place: members never change what they say.
                    let member = self
                        .member(id, &single)
                        .unwrap_or_else(|| self.find(single.clone()));
                    self.emit(member, single);
                    ids.insert(member, weight);
                }
                Nexthop::Group(ids)
            }
        };
        self.out.nexthops.insert(id, nexthop);
    }

    /// The member of a standing group that says `content`.
    fn member(&self, group: NexthopId, content: &Content) -> Option<NexthopId> {
        let Nexthop::Group(members) = self.present.nexthops.get(&group)? else {
            return None;
        };
        members
            .keys()
            .copied()
            .find(|id| self.says(*id).as_ref() == Some(content))
    }

    /// The first free number from the hash of the content on.
    fn allocate(&self, content: &Content) -> NexthopId {
        let (first, last) = NexthopId::RANGE.into_inner();
        let digest = Sha1::digest(format!("{content:?}"));
        let seed = digest
            .first_chunk::<4>()
            .map_or(0, |b| u32::from_be_bytes(*b));
        let size = last - first + 1;
        let free = |id: &NexthopId| {
            !self.present.nexthops.contains_key(id)
                && !self.present.taken.contains(id)
                && !self.fresh.contains(id)
        };
        (0..size)
            .map(|step| NexthopId(first + seed.wrapping_add(step) % size))
            .find(free)
            .unwrap_or(NexthopId(first))
    }
}

/// Members of groups and objects of retained routes: changing them would change something else as well.
fn pinned(present: Present<'_>) -> BTreeSet<NexthopId> {
    let members = present.nexthops.values().flat_map(|nexthop| match nexthop {
        Nexthop::Single(_) => Vec::new(),
        Nexthop::Group(members) => members.keys().copied().collect(),
    });
    let retained =
        present
            .retained
            .iter()
            .filter_map(|key| match present.routes.get(key)?.target {
                KernelTarget::Object(id) => Some(id),
                KernelTarget::Device(_)
                | KernelTarget::Inline(_)
                | KernelTarget::Blackhole
                | KernelTarget::Other => None,
            });
    members.chain(retained).collect()
}

/// What an object says; `None` for a group with a member that is not ours.
fn content(nexthop: &Nexthop, all: &BTreeMap<NexthopId, Nexthop>) -> Option<Content> {
    match nexthop {
        Nexthop::Single(hop) => Some(Content::Single(hop.clone())),
        Nexthop::Group(members) => {
            let hops = members.iter().map(|(id, weight)| match all.get(id)? {
                Nexthop::Single(hop) => Some((hop.clone(), *weight)),
                Nexthop::Group(_) => None,
            });
            let hops: Option<Vec<_>> = hops.collect();
            Group::try_weighted(hops?).map(Content::Group)
        }
    }
}

#[cfg(test)]
mod tests;
