//! One socket, all tables: list what is unknown, send the difference in order, name what was refused.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::os::fd::AsFd;
use std::sync::Arc;

use ipnet::IpNet;
use model::Changes;
use netlink::{Batch, Errno, Error, OpenError, Protocol as Family, Socket};
use tokio::sync::Mutex;
use tokio::task::spawn_blocking;

use super::devices::Devices;
use super::monitor::Changed;
use super::sysctl::{SysctlError, SysctlRoot};
use super::{addresses, devices, neighbours, nexthops, routes, tunnels};
use crate::host::Host;
use crate::link::{IfName, Tunnel};
use crate::nexthop::{Nexthop, NexthopMode};
use crate::plan::pools::Family as IpFamily;
use crate::plan::tunnels::device_name;
use crate::plan::workload::{Missing, Setting};
use crate::route::{Hop, Protocol};
use crate::sysctl::Sysctl;
use crate::tables::{Desired, Retain, RouteChanges, Table, Tables};

/// Messages of one send. Larger ones are hardly faster and hold the kernel's lock longer.
const CHUNK: usize = 512;

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

/// Why the driver as a whole failed. What is known of the kernel was dropped; the next call lists again.
#[derive(Debug, thiserror::Error)]
pub enum DriverError {
    /// No socket.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// A table could not be listed.
    #[error("list {table}: {source}")]
    List {
        /// The table.
        table: Table,
        /// What went wrong.
        source: Error,
    },
    /// A batch could not be sent or answered.
    #[error("apply {table}: {source}")]
    Apply {
        /// The table.
        table: Table,
        /// What went wrong.
        source: Error,
    },
    /// The thread that used the driver panicked.
    #[error("the thread that used the driver panicked")]
    Panicked,
}

impl DriverError {
    /// True when the next try may go well.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Open(_) => false,
            Self::List { source, .. } | Self::Apply { source, .. } => source.is_retryable(),
            Self::Panicked => true,
        }
    }
}

/// What became of one [`Driver::apply`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Messages sent; 0 when the kernel already was as planned.
    pub sent: usize,
    /// Objects the kernel refused; everything else took effect.
    pub refused: Vec<Refused>,
}

impl Report {
    /// True when some refusal will probably pass by itself: a device on its way, a gateway not yet reachable.
    pub fn wants_retry(&self) -> bool {
        self.refused.iter().any(|refused| refused.transient)
    }
}

/// One object the kernel refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// Its table.
    pub table: Table,
    /// The object, for people.
    pub object: String,
    /// The kernel's words.
    pub reason: String,
    /// Gone device, device down, unreachable gateway, busy: plan again rather than complain.
    pub transient: bool,
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Links => "links",
            Self::Addresses => "addresses",
            Self::Neighbours => "neighbours",
            Self::Fdb => "forwarding entries",
            Self::Nexthops => "next hops",
            Self::Routes => "routes",
        })
    }
}

/// Owns the node's tunnels, neighbours and routes in one namespace. Calls block; see [`SharedDriver`].
#[derive(Debug)]
pub struct Driver {
    socket: Socket,
    config: Config,
    tables: Tables,
    devices: Devices,
    /// Index and state of every device at the last listing.
    seen: BTreeMap<IfName, Seen>,
    links_stale: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Seen {
    index: u32,
    carrier: bool,
}

/// Whether a device is put or taken away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Act {
    Put,
    Remove,
}

impl Driver {
    /// Opens the driver in the calling thread's namespace and sets `nexthop_compat_mode` 0.
    ///
    /// # Errors
    /// [`DriverError::Open`]. A setting that cannot be written costs speed, not correctness: it is logged.
    pub fn open(config: Config) -> Result<Self, DriverError> {
        let socket = Socket::open(Family::Route)?;
        told(config.sysctl_root.write(&compat_mode()));
        Ok(Self::new(socket, config))
    }

    /// The same inside another namespace.
    ///
    /// # Errors
    /// As [`Driver::open`], and when the namespace cannot be entered.
    pub fn open_in(namespace: impl AsFd, config: Config) -> Result<Self, DriverError> {
        let socket = Socket::open_in(&namespace, Family::Route)?;
        told(config.sysctl_root.write_in(&namespace, &[compat_mode()]));
        Ok(Self::new(socket, config))
    }

    fn new(socket: Socket, config: Config) -> Self {
        Self {
            socket,
            tables: Tables::new(config.nexthops),
            config,
            devices: Devices::default(),
            seen: BTreeMap::new(),
            links_stale: true,
        }
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
        devices::host(&mut self.socket).map_err(|source| DriverError::List {
            table: Table::Links,
            source,
        })
    }

    /// Routes of the host that are not ours and lead over a gateway, by destination; typically the default route.
    ///
    /// # Errors
    /// [`DriverError::List`].
    pub fn underlay(&mut self) -> Result<BTreeMap<IpNet, Hop>, DriverError> {
        let failed = |table| move |source| DriverError::List { table, source };
        let links = devices::list(&mut self.socket).map_err(failed(Table::Links))?;
        let protocols = &self.config.route_protocols;
        routes::underlay(&mut self.socket, &Devices::new(&links), protocols)
            .map_err(failed(Table::Routes))
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
            Table::Links => self.links_stale = true,
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
                    carrier: link.carrier,
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
        let names = IpFamily::BOTH.map(device_name);
        self.tables
            .tunnels
            .learn(tunnels::tunnels(&links, &self.devices, &names));
        self.tables
            .workloads
            .learn(tunnels::workloads(&links, &self.config.interface_prefixes));
        self.links_stale = false;
        Ok(())
    }

    fn list(&mut self, table: Table) -> Result<(), Error> {
        let present: BTreeMap<IfName, Tunnel> =
            self.tables.tunnels.actual().cloned().unwrap_or_default();
        match table {
            Table::Links => self.list_links()?,
            Table::Addresses => {
                let found = addresses::list(&mut self.socket, &self.devices, &present)?;
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
            Table::Routes => {
                let protocols = &self.config.route_protocols;
                let found = routes::list(
                    &mut self.socket,
                    &self.devices,
                    protocols,
                    present.into_keys(),
                )?;
                self.tables.routes.learn(found);
            }
        }
        Ok(())
    }

    /// Makes and changes tunnels, brings host ends up.
    fn put_links(&mut self, report: &mut Report) -> Result<(), DriverError> {
        let Some(changes) = self.tables.tunnel_changes() else {
            return Ok(());
        };
        let (remake, change): (Vec<_>, Vec<_>) =
            changes.upserts.iter().partition(|(_, wanted, there)| {
                there
                    .as_ref()
                    .is_none_or(|there| there.shape != wanted.shape)
            });
        let old: Vec<_> = remake
            .iter()
            .filter(|(_, _, there)| there.is_some())
            .collect();
        self.send(
            Table::Links,
            Act::Remove,
            &old,
            |batch, (name, ..), devices| {
                tunnels::push_delete(batch, devices.index(name)?);
                Some(())
            },
            report,
        )?;
        self.send(
            Table::Links,
            Act::Put,
            &remake,
            |batch, (name, tunnel, _), devices| tunnels::push_make(batch, name, tunnel, devices),
            report,
        )?;
        let all: Vec<_> = remake.iter().chain(&change).copied().collect();
        self.send(
            Table::Links,
            Act::Put,
            &all,
            |batch, (name, tunnel, _), _| {
                tunnels::push_change(batch, name, tunnel);
                Some(())
            },
            report,
        )?;
        self.links_stale |= !all.is_empty();

        let Some(up) = self.tables.workload_changes() else {
            return Ok(());
        };
        let clean = self.send(
            Table::Links,
            Act::Put,
            &up.upserts,
            |batch, (name, ..), devices| {
                tunnels::push_up(batch, devices.index(name)?);
                Some(())
            },
            report,
        )?;
        if clean {
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
        let mut clean = self.put_addresses(&addresses, report)?;
        let mut clean_neighbours = self.put_neighbours(&neighbours, report)?;
        let mut clean_fdb = self.put_fdb(&fdb, report)?;
        self.apply_routes(&routes, report)?;
        clean_fdb &= self.send(
            Table::Fdb,
            Act::Remove,
            &fdb.removals,
            |batch, (key, node), devices| {
                neighbours::push_remove_fdb(batch, devices.index(&key.device)?, key.mac, *node);
                Some(())
            },
            report,
        )?;
        clean_neighbours &= self.send(
            Table::Neighbours,
            Act::Remove,
            &neighbours.removals,
            |batch, (key, _), devices| {
                neighbours::push_remove(batch, devices.index(&key.device)?, key.address);
                Some(())
            },
            report,
        )?;
        clean &= self.send(
            Table::Addresses,
            Act::Remove,
            &addresses.removals,
            |batch, (key, _), devices| {
                addresses::push_remove(batch, devices.index(&key.device)?, key.address);
                Some(())
            },
            report,
        )?;
        settle(clean, &mut self.tables.addresses, &addresses);
        settle(clean_neighbours, &mut self.tables.neighbours, &neighbours);
        settle(clean_fdb, &mut self.tables.fdb, &fdb);
        Ok(())
    }

    fn put_addresses(
        &mut self,
        changes: &Changes<crate::AddressKey, crate::Lifetime>,
        report: &mut Report,
    ) -> Result<bool, DriverError> {
        self.send(
            Table::Addresses,
            Act::Put,
            &changes.upserts,
            |batch, (key, ..), devices| {
                addresses::push_put(
                    batch,
                    devices.index(&key.device)?,
                    key.address,
                    addresses::Dad::Kernel,
                );
                Some(())
            },
            report,
        )
    }

    fn put_neighbours(
        &mut self,
        changes: &Changes<crate::NeighbourKey, crate::Mac>,
        report: &mut Report,
    ) -> Result<bool, DriverError> {
        self.send(
            Table::Neighbours,
            Act::Put,
            &changes.upserts,
            |batch, (key, mac, _), devices| {
                neighbours::push_put(batch, devices.index(&key.device)?, key.address, *mac);
                Some(())
            },
            report,
        )
    }

    fn put_fdb(
        &mut self,
        changes: &Changes<crate::FdbKey, std::net::IpAddr>,
        report: &mut Report,
    ) -> Result<bool, DriverError> {
        self.send(
            Table::Fdb,
            Act::Put,
            &changes.upserts,
            |batch, (key, node, _), devices| {
                neighbours::push_put_fdb(batch, devices.index(&key.device)?, key.mac, *node);
                Some(())
            },
            report,
        )
    }

    /// Single objects, groups, routes; then away with routes, groups, single objects.
    fn apply_routes(
        &mut self,
        changes: &RouteChanges,
        report: &mut Report,
    ) -> Result<(), DriverError> {
        let put = |batch: &mut Batch, (id, nexthop, _): &(_, _, _), devices: &Devices| {
            nexthops::push_put(batch, *id, nexthop, devices)
        };
        let remove = |batch: &mut Batch, (id, _): &(_, _), _: &Devices| {
            nexthops::push_remove(batch, *id);
            Some(())
        };
        let (singles, groups): (Vec<_>, Vec<_>) = changes
            .nexthops
            .upserts
            .iter()
            .cloned()
            .partition(|(_, nexthop, _)| matches!(nexthop, Nexthop::Single(_)));
        let (old_singles, old_groups): (Vec<_>, Vec<_>) = changes
            .nexthops
            .removals
            .iter()
            .cloned()
            .partition(|(_, nexthop)| matches!(nexthop, Nexthop::Single(_)));
        let mut clean = self.send(Table::Nexthops, Act::Put, &singles, put, report)?;
        clean &= self.send(Table::Nexthops, Act::Put, &groups, put, report)?;
        clean &= self.send(
            Table::Routes,
            Act::Put,
            &changes.routes.upserts,
            |batch, (key, route, _), devices| routes::push_put(batch, key, route, devices),
            report,
        )?;
        clean &= self.send(
            Table::Routes,
            Act::Remove,
            &changes.routes.removals,
            |batch, (key, route), _| {
                routes::push_remove(batch, key, route.protocol);
                Some(())
            },
            report,
        )?;
        clean &= self.send(Table::Nexthops, Act::Remove, &old_groups, remove, report)?;
        clean &= self.send(Table::Nexthops, Act::Remove, &old_singles, remove, report)?;
        if clean {
            self.tables.nexthops.applied(&changes.nexthops);
            self.tables.routes.applied(&changes.routes);
        } else {
            self.tables.forget(Table::Routes);
        }
        Ok(())
    }

    fn remove_tunnels(&mut self, report: &mut Report) -> Result<(), DriverError> {
        let Some(changes) = self.tables.tunnel_changes() else {
            return Ok(());
        };
        // Only what carries our mark or Calico's shape; a foreign device under the name is left alone.
        let ours: Vec<_> = changes
            .removals
            .iter()
            .filter(|(_, tunnel)| matches!(tunnel.shape, crate::Shape::Vxlan(_)))
            .cloned()
            .collect();
        self.send(
            Table::Links,
            Act::Remove,
            &ours,
            |batch, (name, _), devices| {
                tunnels::push_delete(batch, devices.index(name)?);
                Some(())
            },
            report,
        )?;
        self.links_stale |= !ours.is_empty();
        Ok(())
    }

    /// Sends one message per item, in chunks. Returns whether all took effect.
    fn send<T: fmt::Debug>(
        &mut self,
        table: Table,
        act: Act,
        items: &[T],
        push: impl Fn(&mut Batch, &T, &Devices) -> Option<()>,
        report: &mut Report,
    ) -> Result<bool, DriverError> {
        let mut clean = true;
        for chunk in items.chunks(CHUNK) {
            let mut batch = Batch::new();
            let mut sent = Vec::with_capacity(chunk.len());
            for item in chunk {
                if push(&mut batch, item, &self.devices).is_some() {
                    sent.push(item);
                } else if act == Act::Put {
                    clean = false;
                    report.refused.push(Refused {
                        table,
                        object: format!("{item:?}"),
                        reason: "the device is not there".into(),
                        transient: true,
                    });
                }
            }
            report.sent += batch.len();
            match self.socket.submit(&mut batch) {
                Ok(()) => {}
                Err(Error::Rejected(rejected)) => {
                    for failure in rejected.failures {
                        if act == Act::Remove && is_gone(failure.errno) {
                            continue;
                        }
                        clean = false;
                        let item = failure.index.and_then(|index| sent.get(index));
                        report.refused.push(Refused {
                            table,
                            object: item.map(|item| format!("{item:?}")).unwrap_or_default(),
                            transient: is_transient(failure.errno),
                            reason: failure.to_string(),
                        });
                    }
                }
                Err(source) => return Err(DriverError::Apply { table, source }),
            }
        }
        Ok(clean)
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

/// A removal found nothing to remove.
fn is_gone(errno: Errno) -> bool {
    matches!(
        errno,
        Errno::ESRCH | Errno::ENOENT | Errno::ENODEV | Errno::EADDRNOTAVAIL | Errno::ENXIO
    )
}

/// A device on its way, a gateway not yet reachable, memory or locks in use.
fn is_transient(errno: Errno) -> bool {
    matches!(
        errno,
        Errno::ENODEV
            | Errno::ENETDOWN
            | Errno::ENETUNREACH
            | Errno::EHOSTUNREACH
            | Errno::EBUSY
            | Errno::ENOMEM
            | Errno::EAGAIN
            | Errno::EEXIST
    )
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
