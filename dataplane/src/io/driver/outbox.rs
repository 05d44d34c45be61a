//! Entries on their way to the kernel: one message each, in chunks, refusals named.

use std::fmt::Display;

use netlink::{Batch, Errno, Error, Socket};

use super::report::{DriverError, Refused, Report};
use crate::io::devices::Devices;
use crate::io::{addresses, neighbours, nexthops, routes};
use crate::link::{AddressKey, Lifetime, Mac};
use crate::neighbour::{FdbKey, NeighbourKey};
use crate::nexthop::{Nexthop, NexthopId};
use crate::route::{KernelTarget, Route, RouteKey};
use crate::tables::Table;

/// Messages of one send. Larger ones are hardly faster and hold the kernel's lock longer.
const CHUNK: usize = 512;

/// A key of a kernel table, and how its entry is put and taken away. `None`: its device is not there.
pub(super) trait Entry: Display {
    type Value;
    const TABLE: Table;

    fn push_put(&self, value: &Self::Value, batch: &mut Batch, devices: &Devices) -> Option<()>;
    fn push_remove(&self, value: &Self::Value, batch: &mut Batch, devices: &Devices) -> Option<()>;
}

impl Entry for AddressKey {
    type Value = Lifetime;
    const TABLE: Table = Table::Addresses;

    fn push_put(&self, _: &Lifetime, batch: &mut Batch, devices: &Devices) -> Option<()> {
        let index = devices.index(&self.device)?;
        addresses::push_put(batch, index, self.address);
        Some(())
    }

    fn push_remove(&self, _: &Lifetime, batch: &mut Batch, devices: &Devices) -> Option<()> {
        addresses::push_remove(batch, devices.index(&self.device)?, self.address);
        Some(())
    }
}

impl Entry for NeighbourKey {
    type Value = Mac;
    const TABLE: Table = Table::Neighbours;

    fn push_put(&self, mac: &Mac, batch: &mut Batch, devices: &Devices) -> Option<()> {
        neighbours::push_put(batch, devices.index(&self.device)?, self.address, *mac);
        Some(())
    }

    fn push_remove(&self, _: &Mac, batch: &mut Batch, devices: &Devices) -> Option<()> {
        neighbours::push_remove(batch, devices.index(&self.device)?, self.address);
        Some(())
    }
}

impl Entry for FdbKey {
    type Value = std::net::IpAddr;
    const TABLE: Table = Table::Fdb;

    fn push_put(&self, node: &Self::Value, batch: &mut Batch, devices: &Devices) -> Option<()> {
        neighbours::push_put_fdb(batch, devices.index(&self.device)?, self.mac, *node);
        Some(())
    }

    fn push_remove(&self, node: &Self::Value, batch: &mut Batch, devices: &Devices) -> Option<()> {
        neighbours::push_remove_fdb(batch, devices.index(&self.device)?, self.mac, *node);
        Some(())
    }
}

impl Entry for NexthopId {
    type Value = Nexthop;
    const TABLE: Table = Table::Nexthops;

    fn push_put(&self, nexthop: &Nexthop, batch: &mut Batch, devices: &Devices) -> Option<()> {
        nexthops::push_put(batch, *self, nexthop, devices)
    }

    fn push_remove(&self, _: &Nexthop, batch: &mut Batch, _: &Devices) -> Option<()> {
        nexthops::push_remove(batch, *self);
        Some(())
    }
}

impl Entry for RouteKey {
    type Value = Route<KernelTarget>;
    const TABLE: Table = Table::Routes;

    fn push_put(&self, route: &Self::Value, batch: &mut Batch, devices: &Devices) -> Option<()> {
        routes::push_put(batch, self, route, devices)
    }

    fn push_remove(&self, route: &Self::Value, batch: &mut Batch, _: &Devices) -> Option<()> {
        routes::push_remove(batch, self, route.protocol);
        Some(())
    }
}

/// Whether something is put or taken away; what is already gone needs no taking away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Act {
    Put,
    Remove,
}

/// Sends for one round.
pub(super) struct Outbox<'a> {
    pub(super) socket: &'a mut Socket,
    pub(super) devices: &'a Devices,
    pub(super) report: &'a mut Report,
}

impl Outbox<'_> {
    /// Puts entries; returns whether all took effect.
    pub(super) fn put<'k, K: Entry + 'k>(
        &mut self,
        entries: impl IntoIterator<Item = &'k (K, K::Value, Option<K::Value>)>,
    ) -> Result<bool, DriverError>
    where
        K::Value: 'k,
    {
        let items: Vec<_> = entries.into_iter().collect();
        let push = |batch: &mut Batch, (key, value, _): &&(K, K::Value, _), devices: &Devices| {
            key.push_put(value, batch, devices)
        };
        self.send(K::TABLE, Act::Put, &items, push, |(key, ..)| {
            key.to_string()
        })
    }

    /// Takes entries away; returns whether none is left.
    pub(super) fn remove<'k, K: Entry + 'k>(
        &mut self,
        entries: impl IntoIterator<Item = &'k (K, K::Value)>,
    ) -> Result<bool, DriverError>
    where
        K::Value: 'k,
    {
        let items: Vec<_> = entries.into_iter().collect();
        let push = |batch: &mut Batch, (key, value): &&(K, K::Value), devices: &Devices| {
            key.push_remove(value, batch, devices)
        };
        self.send(K::TABLE, Act::Remove, &items, push, |(key, _)| {
            key.to_string()
        })
    }

    /// Sends one message per item; returns whether all took effect.
    pub(super) fn send<T>(
        &mut self,
        table: Table,
        act: Act,
        items: &[T],
        push: impl Fn(&mut Batch, &T, &Devices) -> Option<()>,
        name: impl Fn(&T) -> String,
    ) -> Result<bool, DriverError> {
        let mut clean = true;
        for chunk in items.chunks(CHUNK) {
            let mut batch = Batch::new();
            let mut sent = Vec::with_capacity(chunk.len());
            for item in chunk {
                if push(&mut batch, item, self.devices).is_some() {
                    sent.push(item);
                } else if act == Act::Put {
                    clean = false;
                    self.refuse(table, name(item), "the device is not there".into(), true);
                }
            }
            self.report.sent += batch.len();
            let rejected = match self.socket.submit(&mut batch) {
                Ok(()) => continue,
                Err(Error::Rejected(rejected)) => rejected,
                Err(source) => return Err(DriverError::Apply { table, source }),
            };
            for failure in rejected.failures {
                if act == Act::Remove && is_gone(failure.errno) {
                    continue;
                }
                clean = false;
                let item = failure.index.and_then(|index| sent.get(index));
                let object = item.map(|item| name(item)).unwrap_or_default();
                self.refuse(
                    table,
                    object,
                    failure.to_string(),
                    is_transient(failure.errno),
                );
            }
        }
        Ok(clean)
    }

    fn refuse(&mut self, table: Table, object: String, reason: String, transient: bool) {
        self.report.refused.push(Refused {
            table,
            object,
            reason,
            transient,
        });
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
