//! One socket, all tables: list what is unknown, send the difference in order, name what was refused.

#![expect(
    clippy::disallowed_methods,
    reason = "io: the clock says how long a stranger's route has been seen"
)]

mod outbox;
mod report;
mod strangers;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Instant;

use ipnet::IpNet;
use model::Changes;
use netlink::{Batch, Error, OpenError, Protocol as Family, Socket, netns};
use tokio::sync::Mutex;
use tokio::task::spawn_blocking;

use super::devices::Devices;
use super::monitor::Changed;
use super::sysctl::{SysctlError, SysctlRoot};
use super::{addresses, devices, neighbours, nexthops, routes, tunnels};
use crate::host::Host;
use crate::link::{IfName, Shape, Tunnel};
use crate::nexthop::{Nexthop, NexthopMode};
use crate::plan::tunnels::device_names;
use crate::plan::workload::{Missing, Setting};
use crate::route::{Hop, Protocol};
use crate::sysctl::Sysctl;
use crate::tables::{Desired, Retain, RouteChanges, Stranger, Table, Tables};

use outbox::{Act, Outbox};
pub use report::{DriverError, Refused, Report};

/// What the driver takes for its own.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where `net` can be written.
    pub sysctl_root: SysctlRoot,
    /// Routes with these protocols are ours.
    pub route_protocols: BTreeSet<Protocol>,
    /// Devices that begin like this are host ends of pods.
    pub interface_prefixes: Vec<String>,
    /// Whether routes refer to next-hop objects.
    pub nexthops: NexthopMode,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            sysctl_root: SysctlRoot::default(),
            route_protocols: BTreeSet::from([Protocol::PLANNED, Protocol::LEARNT]),
            interface_prefixes: vec!["cali".into()],
            nexthops: NexthopMode::Objects,
        }
    }
}

/// Owns the node's tunnels, neighbours and routes in one namespace. Calls block; see [`SharedDriver`].
#[derive(Debug)]
pub struct Driver {
    socket: Socket,
    /// Where the socket is, for settings.
    namespace: OwnedFd,
    config: Config,
    tables: Tables,
    devices: Devices,
    /// Index and state of every device at the last listing.
    seen: BTreeMap<IfName, Seen>,
    links_stale: bool,
    /// Routes that are not ours, as of the last listing of routes.
    underlay: BTreeMap<IpNet, Hop>,
    /// Devices over which an IPv6 router advertised a route, as of the same.
    advertised: BTreeSet<IfName>,
    strangers: strangers::Seen,
    /// Settings that stood at the last look; looked at again when everything is.
    written: BTreeMap<Sysctl, u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Seen {
    index: u32,
    carrier: bool,
}

impl Driver {
    /// Opens the driver in the calling thread's namespace and sets `nexthop_compat_mode` 0.
    ///
    /// # Errors
    /// [`DriverError::Open`]. A setting that cannot be written costs speed, not correctness: it is logged.
    pub fn open(config: Config) -> Result<Self, DriverError> {
        Self::open_in(netns::current().map_err(OpenError::Netns)?, config)
    }

    /// The same inside another namespace.
    ///
    /// # Errors
    /// As [`Driver::open`], and when the namespace cannot be entered.
    pub fn open_in(namespace: impl AsFd, config: Config) -> Result<Self, DriverError> {
        let namespace = netns::keep(namespace).map_err(OpenError::Netns)?;
        let socket = Socket::open_in(&namespace, Family::Route)?;
        told(config.sysctl_root.write_in(&namespace, &[compat_mode()]));
        Ok(Self {
            socket,
            namespace,
            tables: Tables::new(config.nexthops),
            config,
            devices: Devices::default(),
            seen: BTreeMap::new(),
            links_stale: true,
            underlay: BTreeMap::new(),
            advertised: BTreeSet::new(),
            strangers: strangers::Seen::default(),
            written: BTreeMap::new(),
        })
    }

    /// Port of the driver's socket, so that [`super::Monitor`] can leave out what the driver did itself.
    ///
    /// # Errors
    /// [`DriverError::List`] when the socket cannot be asked.
    pub fn port(&self) -> Result<u32, DriverError> {
        self.socket.port().map_err(|source| DriverError::List {
            table: Table::Links,
            source,
        })
    }

    /// Devices and addresses of the host, for plans.
    ///
    /// # Errors
    /// [`DriverError::List`].
    pub fn host(&mut self) -> Result<Host, DriverError> {
        self.list_unknown()?;
        devices::host(&mut self.socket, &self.advertised).map_err(|source| DriverError::List {
            table: Table::Links,
            source,
        })
    }

    /// Routes of the host that are not ours and lead over a gateway, by destination; typically the default route. Lists only what is
    /// not known: the one listing of routes tells both.
    ///
    /// # Errors
    /// [`DriverError::List`].
    pub fn underlay(&mut self) -> Result<BTreeMap<IpNet, Hop>, DriverError> {
        self.list_unknown()?;
        Ok(self.underlay.clone())
    }

    /// The source address the kernel chooses towards a destination, `None` without a way there: what an outer header will carry.
    ///
    /// # Errors
    /// [`DriverError::List`].
    pub fn source_towards(&mut self, destination: IpAddr) -> Result<Option<IpAddr>, DriverError> {
        routes::source_towards(&mut self.socket, destination).map_err(|source| DriverError::List {
            table: Table::Routes,
            source,
        })
    }

    /// Whether routes learnt by a former process are in the kernel.
    ///
    /// # Errors
    /// [`DriverError`] when they cannot be listed.
    pub fn has_learnt_routes(&mut self) -> Result<bool, DriverError> {
        self.list_unknown()?;
        let routes = self.tables.routes.actual();
        Ok(routes.is_some_and(|routes| {
            routes
                .values()
                .any(|route| route.protocol == Protocol::LEARNT)
        }))
    }

    /// Marks a table as changed by somebody: it is listed before the next change.
    pub fn forget(&mut self, table: Table) {
        match table {
            Table::Links => {
                self.links_stale = true;
                self.written.clear();
            }
            Table::Addresses | Table::Neighbours | Table::Fdb | Table::Nexthops | Table::Routes => {
                self.tables.forget(table);
            }
        }
    }

    /// Takes what the monitor heard: tables to list again, devices that were lost in between.
    pub fn note(&mut self, changed: &Changed) {
        for device in &changed.lost {
            self.tables.device_lost(device);
        }
        for table in &changed.tables {
            self.forget(*table);
        }
    }

    /// What is wanted and what was last known, for `explain` and metrics.
    pub fn tables(&self) -> &Tables {
        &self.tables
    }

    /// Makes the kernel equal to the plan: lists what is unknown, sends the difference. Objects the kernel refuses are named in the
    /// report and do not hinder others.
    ///
    /// # Errors
    /// [`DriverError`] when listing or sending itself failed; everything known was dropped then.
    pub fn apply(&mut self, desired: Desired, retain: Retain) -> Result<Report, DriverError> {
        let result = self.try_apply(desired, retain);
        if result.is_err() {
            self.links_stale = true;
            for table in Table::ALL {
                self.tables.forget(table);
            }
        }
        result
    }

    fn try_apply(&mut self, desired: Desired, retain: Retain) -> Result<Report, DriverError> {
        let mut report = Report::default();
        // A pod attached since the last listing.
        self.links_stale |= desired
            .workloads
            .keys()
            .any(|name| !self.seen.contains_key(name));
        self.write_settings(&desired.settings, &mut report);
        self.tables.set_desired(desired, retain);
        self.list_unknown()?;
        self.put_links(&mut report)?;
        self.list_unknown()?;
        self.apply_tables(&mut report)?;
        self.remove_tunnels(&mut report)?;
        Ok(report)
    }

    fn list_unknown(&mut self) -> Result<(), DriverError> {
        if self.links_stale || self.tables.unknown().contains(&Table::Links) {
            self.list_links().map_err(|source| DriverError::List {
                table: Table::Links,
                source,
            })?;
        }
        for table in self.tables.unknown() {
            self.list(table)
                .map_err(|source| DriverError::List { table, source })?;
        }
        Ok(())
    }

    /// Lists the links, and forgets what hung on those that vanished, came again or went down.
    fn list_links(&mut self) -> Result<(), Error> {
        let links = devices::list(&mut self.socket)?;
        self.devices = Devices::new(&links);
        let now: BTreeMap<_, _> = links
            .iter()
            .map(|link| {
                let seen = Seen {
                    index: link.index,
                    carrier: link.carrier(),
                };
                (link.name.clone(), seen)
            })
            .collect();
        for (name, before) in &self.seen {
            let lost = match now.get(name) {
                None => true,
                Some(after) => after.index != before.index || (before.carrier && !after.carrier),
            };
            if lost {
                self.tables.device_lost(name);
            }
        }
        self.seen = now;
        let mut names = Vec::from(device_names());
        names.retain(|name| self.claims(name, &links));
        let there = tunnels::tunnels(&links, &self.devices, &names);
        let known = self.tables.tunnels.actual();
        let claimed = there.iter().any(|(name, tunnel)| {
            tunnel.shape == Shape::Ipip && known.is_none_or(|known| !known.contains_key(name))
        });
        self.tables.tunnels.learn(there);
        if claimed {
            // It was there before it became ours, and so was what hangs on it.
            self.tables.forget(Table::Addresses);
            self.tables.forget(Table::Routes);
        }
        self.tables
            .workloads
            .learn(tunnels::workloads(&links, &self.config.interface_prefixes));
        self.links_stale = false;
        Ok(())
    }

    /// Whether a device under the name of a tunnel is ours: IP-in-IP only while it is wanted or carries our mark, because the device
    /// is there for everybody as soon as the module is.
    fn claims(&self, name: &IfName, links: &[devices::Listed]) -> bool {
        let wanted = self.tables.tunnels.desired().contains_key(name);
        let link = links.iter().find(|link| link.name == *name);
        wanted || link.is_some_and(|link| tunnels::is_marked(link) || !link.comes_with_module())
    }

    fn list(&mut self, table: Table) -> Result<(), Error> {
        let present: BTreeMap<IfName, Tunnel> =
            self.tables.tunnels.actual().cloned().unwrap_or_default();
        match table {
            Table::Links => self.list_links()?,
            Table::Addresses => {
                let prefixes = &self.config.interface_prefixes;
                let is_host_end = |name: &IfName| tunnels::is_workload(name, prefixes);
                let found =
                    addresses::list(&mut self.socket, &self.devices, &present, is_host_end)?;
                self.tables.addresses.learn(found);
            }
            Table::Neighbours => {
                let prefixes = &self.config.interface_prefixes;
                let ours = |name: &IfName| {
                    present.contains_key(name) || tunnels::is_workload(name, prefixes)
                };
                let found = neighbours::list(&mut self.socket, &self.devices, ours)?;
                self.tables.neighbours.learn(found);
            }
            Table::Fdb => {
                let found =
                    neighbours::list_fdb(&mut self.socket, &self.devices, present.into_keys())?;
                self.tables.fdb.learn(found);
            }
            Table::Nexthops => {
                let found = nexthops::list(&mut self.socket, &self.devices)?;
                self.tables.learn_taken(found.taken);
                self.tables.nexthops.learn(found.ours);
            }
            Table::Routes => self.list_routes(&present)?,
        }
        Ok(())
    }

    /// Ours are those with our protocols, any on our tunnels, and on host ends what has no business there.
    fn list_routes(&mut self, present: &BTreeMap<IfName, Tunnel>) -> Result<(), Error> {
        let now = Instant::now();
        let Self {
            socket,
            devices,
            config,
            tables,
            strangers,
            ..
        } = self;
        let found = routes::list(socket, devices, |listed| {
            if config.route_protocols.contains(&listed.route.protocol)
                || listed.is_over(|name| present.contains_key(name))
            {
                return true;
            }
            let host_end = listed
                .device
                .as_ref()
                .filter(|name| tunnels::is_workload(name, &config.interface_prefixes));
            let stranger =
                host_end.map_or(Stranger::Stays, |name| tables.stranger(&listed.key, name));
            match stranger {
                Stranger::Stays => false,
                Stranger::Goes => true,
                Stranger::GoesAfterGrace => strangers.is_over(&listed.key, now),
            }
        })?;
        self.strangers.listed();
        self.underlay = found.underlay;
        self.advertised = found.advertised;
        self.tables.routes.learn(found.ours);
        Ok(())
    }

    /// Makes and changes tunnels, brings host ends up.
    fn put_links(&mut self, report: &mut Report) -> Result<(), DriverError> {
        let Some(changes) = self.tables.tunnel_changes() else {
            return Ok(());
        };
        let other_shape = |(_, wanted, there): &&(IfName, Tunnel, Option<Tunnel>)| {
            there
                .as_ref()
                .is_none_or(|there| there.shape != wanted.shape)
        };
        let (make, change): (Vec<_>, Vec<_>) = changes.upserts.iter().partition(other_shape);
        let in_the_way: Vec<_> = make
            .iter()
            .filter(|(.., there)| there.is_some())
            .copied()
            .collect();
        let all: Vec<_> = make.iter().chain(&change).copied().collect();
        let mut out = outbox(&mut self.socket, &self.devices, report);
        let name = |(name, ..): &&(IfName, Tunnel, _)| name.to_string();
        let delete = |batch: &mut Batch, (name, ..): &&(IfName, Tunnel, _), devices: &Devices| {
            tunnels::push_delete(batch, devices.index(name)?);
            Some(())
        };
        out.send(Table::Links, Act::Remove, &in_the_way, delete, name)?;
        let push =
            |batch: &mut Batch, (name, tunnel, _): &&(IfName, Tunnel, _), devices: &Devices| {
                tunnels::push_make(batch, name, tunnel, devices)
            };
        out.send(Table::Links, Act::Put, &make, push, name)?;
        let push = |batch: &mut Batch, (name, tunnel, _): &&(IfName, Tunnel, _), _: &Devices| {
            tunnels::push_change(batch, name, tunnel);
            Some(())
        };
        out.send(Table::Links, Act::Put, &all, push, name)?;
        self.links_stale |= !all.is_empty();
        self.bring_up(report)
    }

    /// Host ends that a recipe made and policy now covers.
    fn bring_up(&mut self, report: &mut Report) -> Result<(), DriverError> {
        let Some(up) = self.tables.workload_changes() else {
            return Ok(());
        };
        let push = |batch: &mut Batch, (name, ..): &(IfName, _, _), devices: &Devices| {
            tunnels::push_up(batch, devices.index(name)?);
            Some(())
        };
        let mut out = outbox(&mut self.socket, &self.devices, report);
        if out.send(Table::Links, Act::Put, &up.upserts, push, |(name, ..)| {
            name.to_string()
        })? {
            self.tables.workloads.applied(&up);
        } else {
            self.links_stale = true;
        }
        Ok(())
    }

    /// Everything that hangs on devices: puts downwards, removals upwards.
    fn apply_tables(&mut self, report: &mut Report) -> Result<(), DriverError> {
        let (Some(addresses), Some(neighbours), Some(fdb), Some(routes)) = (
            self.tables.address_changes(),
            self.tables.neighbour_changes(),
            self.tables.fdb_changes(),
            self.tables.route_changes(),
        ) else {
            return Ok(());
        };
        let mut out = outbox(&mut self.socket, &self.devices, report);
        let mut addresses_clean = out.put(&addresses.upserts)?;
        let mut neighbours_clean = out.put(&neighbours.upserts)?;
        let mut fdb_clean = out.put(&fdb.upserts)?;
        let routes_clean = apply_routes(&mut out, &routes)?;
        fdb_clean &= out.remove(&fdb.removals)?;
        neighbours_clean &= out.remove(&neighbours.removals)?;
        addresses_clean &= out.remove(&addresses.removals)?;
        settle(addresses_clean, &mut self.tables.addresses, &addresses);
        settle(neighbours_clean, &mut self.tables.neighbours, &neighbours);
        settle(fdb_clean, &mut self.tables.fdb, &fdb);
        settle(routes_clean, &mut self.tables.nexthops, &routes.nexthops);
        settle(routes_clean, &mut self.tables.routes, &routes.routes);
        Ok(())
    }

    /// Tunnels nobody wants any more; something else under their name is left alone.
    fn remove_tunnels(&mut self, report: &mut Report) -> Result<(), DriverError> {
        let Some(changes) = self.tables.tunnel_changes() else {
            return Ok(());
        };
        let is_ours = |(_, tunnel): &&(IfName, Tunnel)| match tunnel.shape {
            Shape::Vxlan(_) => true,
            Shape::Ipip => tunnel.marked,
            Shape::Foreign => false,
        };
        let ours: Vec<_> = changes.removals.iter().filter(is_ours).collect();
        let push = |batch: &mut Batch, (name, tunnel): &&(IfName, Tunnel), devices: &Devices| {
            let index = devices.index(name)?;
            match tunnel.shape {
                Shape::Ipip => tunnels::push_release(batch, index),
                Shape::Vxlan(_) | Shape::Foreign => tunnels::push_delete(batch, index),
            }
            Some(())
        };
        let mut out = outbox(&mut self.socket, &self.devices, report);
        out.send(Table::Links, Act::Remove, &ours, push, |(name, _)| {
            name.to_string()
        })?;
        self.links_stale |= !ours.is_empty();
        Ok(())
    }

    /// Writes what differs; a setting that cannot be written is named in the report. An uplink that would lose its routers keeps the
    /// host from forwarding IPv6.
    fn write_settings(&mut self, settings: &BTreeMap<Sysctl, u32>, report: &mut Report) {
        if *settings == self.written {
            return;
        }
        let root = &self.config.sysctl_root;
        let wanted: Vec<_> = settings
            .iter()
            .map(|(key, value)| Setting {
                key: key.clone(),
                value: *value,
                missing: Missing::Fails,
            })
            .collect();
        let refused = netns::run_in(&self.namespace, || root.write_in_order(&wanted));
        let refused = refused.unwrap_or_else(|error| vec![("sysctls".into(), error.to_string())]);
        if refused.is_empty() {
            self.written.clone_from(settings);
        }
        let named = refused.into_iter().map(|(object, reason)| Refused {
            table: Table::Links,
            object,
            reason,
            transient: false,
        });
        report.refused.extend(named);
    }
}

/// Single objects, groups, routes; then away with routes, groups, single objects.
fn apply_routes(out: &mut Outbox<'_>, changes: &RouteChanges) -> Result<bool, DriverError> {
    let single = |nexthop: &Nexthop| matches!(nexthop, Nexthop::Single(_));
    let nexthops = &changes.nexthops;
    let (singles, groups): (Vec<_>, Vec<_>) =
        nexthops.upserts.iter().partition(|(_, n, _)| single(n));
    let (old_singles, old_groups): (Vec<_>, Vec<_>) =
        nexthops.removals.iter().partition(|(_, n)| single(n));
    let mut clean = out.put(singles)?;
    clean &= out.put(groups)?;
    clean &= out.put(&changes.routes.upserts)?;
    clean &= out.remove(&changes.routes.removals)?;
    clean &= out.remove(old_groups)?;
    clean &= out.remove(old_singles)?;
    Ok(clean)
}

fn outbox<'a>(socket: &'a mut Socket, devices: &'a Devices, report: &'a mut Report) -> Outbox<'a> {
    Outbox {
        socket,
        devices,
        report,
    }
}

fn settle<K: Ord + Clone, V: PartialEq + Clone>(
    clean: bool,
    delta: &mut model::Delta<K, V>,
    changes: &Changes<K, V>,
) {
    if clean {
        delta.applied(changes);
    } else {
        delta.forget();
    }
}

fn compat_mode() -> Setting {
    Setting {
        key: Sysctl::NexthopCompatMode,
        value: 0,
        missing: Missing::Harmless,
    }
}

fn told(result: Result<(), SysctlError>) {
    if let Err(error) = result {
        tracing::warn!(%error, "next-hop changes will be slower: the setting could not be written");
    }
}

/// A [`Driver`] that async tasks take turns to use, on the runtime's blocking pool.
#[derive(Debug, Clone)]
pub struct SharedDriver {
    inner: Arc<Mutex<Driver>>,
}

impl SharedDriver {
    /// Shares a driver.
    pub fn new(driver: Driver) -> Self {
        Self {
            inner: Arc::new(Mutex::new(driver)),
        }
    }

    /// Runs `work` with the driver once it is free. A dropped caller does not interrupt it.
    ///
    /// # Errors
    /// What `work` returns; [`DriverError::Panicked`] when it panicked.
    pub async fn with<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Driver) -> Result<T, DriverError> + Send + 'static,
    ) -> Result<T, DriverError> {
        let mut driver = Arc::clone(&self.inner).lock_owned().await;
        spawn_blocking(move || work(&mut driver))
            .await
            .unwrap_or(Err(DriverError::Panicked))
    }
}
