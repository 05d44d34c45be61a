//! Everything of ours in the kernel: what is wanted, what is there, and the changes between, in order.
//!
//! ```text
//!  put:     tunnels → host ends up → addresses → neighbours, forwarding → next hops → groups → routes
//!  remove:  routes → groups → next hops → forwarding, neighbours → addresses → tunnels
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use model::{Changes, Delta};

use crate::link::{AddressKey, IfName, Lifetime, Mac, Tunnel, WorkloadLink};
use crate::neighbour::{FdbKey, NeighbourKey};
use crate::nexthop::{Nexthop, NexthopId, NexthopMode, Present, assign};
use crate::route::{KernelTarget, Protocol, Route, RouteKey, Target};
use crate::sysctl::Sysctl;

/// What the plans want in the kernel.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Desired {
    /// Settings of the host and their values.
    pub settings: BTreeMap<Sysctl, u32>,
    /// Tunnel devices, by name.
    pub tunnels: BTreeMap<IfName, Tunnel>,
    /// Host ends of pods; they are made and deleted by recipes, here they are only brought up.
    pub workloads: BTreeMap<IfName, WorkloadLink>,
    /// Addresses on tunnel devices, and the gateway's on host ends of IPv6 pods.
    pub addresses: BTreeMap<AddressKey, Lifetime>,
    /// Permanent neighbours on tunnels and host ends.
    pub neighbours: BTreeMap<NeighbourKey, Mac>,
    /// Forwarding entries of tunnels: hardware address → node address.
    pub fdb: BTreeMap<FdbKey, IpAddr>,
    /// Routes, planned and learnt ones together, one per key.
    pub routes: BTreeMap<RouteKey, Route>,
    /// What becomes of other routes on host ends.
    pub strangers: Strangers,
}

/// What becomes of routes on host ends of pods that carry none of our protocols (`removeExternalRoutes`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Strangers {
    /// They stay.
    #[default]
    Keep,
    /// They go: at once where a planned route says the same, else after a grace, in which whoever hands the pod over may still tell
    /// of it.
    Remove,
}

/// What of ours may be removed yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retain {
    /// Keep planned objects nobody wants: until every kind of the World has listed.
    pub planned: bool,
    /// Keep learnt routes nobody wants: until BGP has converged after a start.
    pub learnt: bool,
}

impl Retain {
    /// Remove whatever nobody wants.
    pub const NOTHING: Self = Self {
        planned: false,
        learnt: false,
    };
    /// Only add: the state between start and first sync.
    pub const EVERYTHING: Self = Self {
        planned: true,
        learnt: true,
    };

    fn keeps(self, protocol: Protocol) -> bool {
        if protocol == Protocol::LEARNT {
            self.learnt
        } else {
            self.planned
        }
    }
}

/// What becomes of one such route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stranger {
    /// It is nobody's business.
    Stays,
    /// A planned route says the same.
    Goes,
    /// Nothing explains it.
    GoesAfterGrace,
}

/// A kernel table that is listed as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Table {
    /// Tunnel devices and host ends.
    Links,
    /// Addresses on tunnels.
    Addresses,
    /// Neighbour entries.
    Neighbours,
    /// Forwarding entries.
    Fdb,
    /// Next-hop objects.
    Nexthops,
    /// Routes.
    Routes,
}

impl Table {
    /// All of them, in the order in which they are put.
    pub const ALL: [Self; 6] = [
        Self::Links,
        Self::Addresses,
        Self::Neighbours,
        Self::Fdb,
        Self::Nexthops,
        Self::Routes,
    ];
}

/// Desired against actual for every table.
#[derive(Debug)]
pub struct Tables {
    mode: NexthopMode,
    retain: Retain,
    wanted: BTreeMap<RouteKey, Route>,
    strangers: Strangers,
    /// Numbers inside our range that somebody else holds.
    taken: BTreeSet<NexthopId>,
    pub(crate) tunnels: Delta<IfName, Tunnel>,
    pub(crate) workloads: Delta<IfName, WorkloadLink>,
    pub(crate) addresses: Delta<AddressKey, Lifetime>,
    pub(crate) neighbours: Delta<NeighbourKey, Mac>,
    pub(crate) fdb: Delta<FdbKey, IpAddr>,
    pub(crate) nexthops: Delta<NexthopId, Nexthop>,
    pub(crate) routes: Delta<RouteKey, Route<KernelTarget>>,
}

impl Tables {
    /// Nothing wanted, nothing known.
    pub fn new(mode: NexthopMode) -> Self {
        Self {
            mode,
            retain: Retain::EVERYTHING,
            wanted: BTreeMap::new(),
            strangers: Strangers::Keep,
            taken: BTreeSet::new(),
            tunnels: Delta::default(),
            workloads: Delta::default(),
            addresses: Delta::default(),
            neighbours: Delta::default(),
            fdb: Delta::default(),
            nexthops: Delta::default(),
            routes: Delta::default(),
        }
    }

    /// Replaces the plan.
    pub fn set_desired(&mut self, desired: Desired, retain: Retain) {
        self.retain = retain;
        self.tunnels.set_desired(desired.tunnels);
        self.workloads.set_desired(desired.workloads);
        self.addresses.set_desired(desired.addresses);
        self.neighbours.set_desired(desired.neighbours);
        self.fdb.set_desired(desired.fdb);
        self.wanted = desired.routes;
        self.strangers = desired.strangers;
    }

    /// What becomes of a route on a host end that carries none of our protocols.
    pub fn stranger(&self, key: &RouteKey, device: &IfName) -> Stranger {
        if self.strangers == Strangers::Keep {
            return Stranger::Stays;
        }
        // Planned routes to one prefix lie side by side.
        let first = RouteKey {
            metric: 0,
            tos: 0,
            ..key.clone()
        };
        let mut planned = self
            .wanted
            .range(first..)
            .take_while(|(wanted, _)| wanted.prefix == key.prefix);
        let same = Target::Device(device.clone());
        if planned.any(|(_, route)| route.target == same) {
            Stranger::Goes
        } else {
            Stranger::GoesAfterGrace
        }
    }

    /// Numbers of next-hop objects inside our range that are not ours.
    pub fn learn_taken(&mut self, taken: BTreeSet<NexthopId>) {
        self.taken = taken;
    }

    /// Drops what is known of a table, and of routes together with their objects.
    pub fn forget(&mut self, table: Table) {
        match table {
            Table::Links => {
                self.tunnels.forget();
                self.workloads.forget();
            }
            Table::Addresses => self.addresses.forget(),
            Table::Neighbours => self.neighbours.forget(),
            Table::Fdb => self.fdb.forget(),
            Table::Nexthops | Table::Routes => {
                self.nexthops.forget();
                self.routes.forget();
            }
        }
    }

    /// A device vanished, was made again or went down: the kernel dropped what hung on it, often without a word.
    pub fn device_lost(&mut self, device: &IfName) {
        prune(&mut self.addresses, |key, _| key.device != *device);
        prune(&mut self.neighbours, |key, _| key.device != *device);
        prune(&mut self.fdb, |key, _| key.device != *device);
        let hangs =
            |nexthop: &Nexthop| matches!(nexthop, Nexthop::Single(hop) if hop.device == *device);
        let objects = self
            .nexthops
            .actual()
            .is_some_and(|all| all.values().any(hangs));
        let inline = |route: &Route<KernelTarget>| match &route.target {
            KernelTarget::Inline(group) => group.hops().any(|(hop, _)| hop.device == *device),
            KernelTarget::Device(_)
            | KernelTarget::Object(_)
            | KernelTarget::Blackhole
            | KernelTarget::Other => false,
        };
        let inlined = self
            .routes
            .actual()
            .is_some_and(|all| all.values().any(inline));
        if objects || inlined {
            self.forget(Table::Routes);
        } else {
            prune(&mut self.routes, |_, route| {
                route.target != KernelTarget::Device(device.clone())
            });
        }
    }

    /// Tables that must be listed before [`Tables`] can tell what to change.
    pub fn unknown(&self) -> BTreeSet<Table> {
        let known = [
            (
                Table::Links,
                self.tunnels.actual().is_some() && self.workloads.actual().is_some(),
            ),
            (Table::Addresses, self.addresses.actual().is_some()),
            (Table::Neighbours, self.neighbours.actual().is_some()),
            (Table::Fdb, self.fdb.actual().is_some()),
            (Table::Nexthops, self.nexthops.actual().is_some()),
            (Table::Routes, self.routes.actual().is_some()),
        ];
        known
            .into_iter()
            .filter(|(_, known)| !known)
            .map(|(table, _)| table)
            .collect()
    }

    /// Tunnel devices to make, change and remove.
    pub fn tunnel_changes(&self) -> Option<Changes<IfName, Tunnel>> {
        self.kept(self.tunnels.diff())
    }

    /// Host ends to bring up. None is ever removed here.
    pub fn workload_changes(&self) -> Option<Changes<IfName, WorkloadLink>> {
        let mut changes = self.workloads.diff()?;
        changes.removals.clear();
        // One that is not there was never made or is being deleted; its recipe answers for it.
        changes.upserts.retain(|(_, _, there)| there.is_some());
        Some(changes)
    }

    /// Addresses to put and remove. On host ends they are only put; what is there goes with the link.
    pub fn address_changes(&self) -> Option<Changes<AddressKey, Lifetime>> {
        let mut changes = self.kept(self.addresses.diff())?;
        let tunnels = self.tunnels.actual()?;
        changes
            .removals
            .retain(|(key, _)| tunnels.contains_key(&key.device));
        Some(changes)
    }

    /// Neighbours to put and remove. On host ends only the recipe's successor puts; what it put goes with the link.
    pub fn neighbour_changes(&self) -> Option<Changes<NeighbourKey, Mac>> {
        let mut changes = self.kept(self.neighbours.diff())?;
        let tunnels = self.tunnels.actual()?;
        changes
            .removals
            .retain(|(key, _)| tunnels.contains_key(&key.device));
        Some(changes)
    }

    /// Forwarding entries to put and remove.
    pub fn fdb_changes(&self) -> Option<Changes<FdbKey, IpAddr>> {
        self.kept(self.fdb.diff())
    }

    /// Next-hop objects and routes to put and remove. Chooses the objects, so it must be called again after a listing.
    pub fn route_changes(&mut self) -> Option<RouteChanges> {
        let actual = self.routes.actual()?;
        let retained: BTreeSet<_> = actual
            .iter()
            .filter(|(key, route)| {
                !self.wanted.contains_key(key) && self.retain.keeps(route.protocol)
            })
            .map(|(key, _)| key.clone())
            .collect();
        let present = Present {
            nexthops: self.nexthops.actual()?,
            routes: actual,
            taken: &self.taken,
            retained: &retained,
        };
        let assigned = assign(self.mode, &self.wanted, present);
        self.nexthops.set_desired(assigned.nexthops);
        self.routes.set_desired(assigned.routes);
        let mut routes = self.routes.diff()?;
        routes.removals.retain(|(key, _)| !retained.contains(key));
        Some(RouteChanges {
            nexthops: self.nexthops.diff()?,
            routes,
        })
    }

    /// Whether a host end is up and every route wanted over it is in the kernel, as last acknowledged.
    pub fn stands(&self, device: &IfName) -> bool {
        let up = self
            .workloads
            .actual()
            .and_then(|links| links.get(device))
            .is_some_and(|link| link.up);
        let routes = self.routes.actual();
        let mut over = self
            .routes
            .desired()
            .iter()
            .filter(|(_, route)| route.target == KernelTarget::Device(device.clone()));
        up && over.all(|(key, route)| routes.is_some_and(|routes| routes.get(key) == Some(route)))
    }

    /// Number of routes wanted.
    pub fn wanted_routes(&self) -> usize {
        self.wanted.len()
    }

    fn kept<K, V>(&self, changes: Option<Changes<K, V>>) -> Option<Changes<K, V>> {
        let mut changes = changes?;
        if self.retain.planned {
            changes.removals.clear();
        }
        Some(changes)
    }
}

/// Changes of the two tables that refer to each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteChanges {
    /// Objects: single ones are put before groups and removed after them, all puts before and all removals after the routes.
    pub nexthops: Changes<NexthopId, Nexthop>,
    /// Routes.
    pub routes: Changes<RouteKey, Route<KernelTarget>>,
}

/// Removes entries from what is known, if any goes.
fn prune<K: Ord + Clone, V: PartialEq + Clone>(
    delta: &mut Delta<K, V>,
    stays: impl Fn(&K, &V) -> bool,
) {
    let Some(actual) = delta.actual() else { return };
    if actual.iter().all(|(key, value)| stays(key, value)) {
        return;
    }
    let mut left = actual.clone();
    left.retain(|key, value| stays(key, value));
    delta.learn(left);
}

#[cfg(test)]
mod tests;
