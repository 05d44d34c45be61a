//! Which tables somebody else changed.
//!
//! A notification is a hint, never a source: it marks a table, and the table is listed. Lost notifications mark every table.

use std::collections::BTreeSet;
use std::os::fd::AsFd;

use netlink::{Error, Heard, Message, OpenError, Protocol as Family, attr};

use super::rtm;
use crate::link::{IfName, Mac};
use crate::plan::workload::HOST_MAC;
use crate::route::{Protocol, TABLE_MAIN};
use crate::tables::Table;

/// `RTNLGRP_*` (`linux/rtnetlink.h`).
const GROUPS: [u32; 7] = [
    1,  // LINK
    3,  // NEIGH
    5,  // IPV4_IFADDR
    7,  // IPV4_ROUTE
    9,  // IPV6_IFADDR
    11, // IPV6_ROUTE
    32, // NEXTHOP
];
const LINK_HEADER: usize = 16;
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const SCOPE_LINK: u8 = 253;
const IFF_UP: u32 = 1;
const IFF_RUNNING: u32 = 0x40;
const IFF_LOWER_UP: u32 = 0x1_0000;
const NUD_PERMANENT: u16 = 0x80;
const RTM_F_CLONED: u32 = 0x200;

/// What was heard.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changed {
    /// Tables that changed, or may have.
    pub tables: BTreeSet<Table>,
    /// Devices that went down, lost their carrier or vanished: what hung on them is gone without a word.
    pub lost: BTreeSet<IfName>,
    /// An address of the host or the state of one of its devices changed: plans that depend on the host are stale.
    pub host: bool,
    /// Notifications were lost, so everything is marked.
    pub overrun: bool,
}

/// Listens for changes that are not our own.
#[derive(Debug)]
pub struct Monitor {
    inner: netlink::Monitor,
    /// Ports of sockets whose changes are known already.
    own: BTreeSet<u32>,
}

impl Monitor {
    /// Listens in the calling thread's namespace; changes made through sockets with these ports are not told. Must run inside a
    /// tokio runtime.
    ///
    /// # Errors
    /// [`OpenError`] when there is no socket.
    pub fn open(own: impl IntoIterator<Item = u32>) -> Result<Self, OpenError> {
        Ok(Self::new(
            netlink::Monitor::open(Family::Route, &GROUPS)?,
            own,
        ))
    }

    /// The same inside another namespace.
    ///
    /// # Errors
    /// [`OpenError`] when there is no socket or the namespace cannot be entered.
    pub fn open_in(
        namespace: impl AsFd,
        own: impl IntoIterator<Item = u32>,
    ) -> Result<Self, OpenError> {
        Ok(Self::new(
            netlink::Monitor::open_in(namespace, Family::Route, &GROUPS)?,
            own,
        ))
    }

    fn new(inner: netlink::Monitor, own: impl IntoIterator<Item = u32>) -> Self {
        Self {
            inner,
            own: own.into_iter().collect(),
        }
    }

    /// Waits until something changed. Cancel safe.
    ///
    /// # Errors
    /// [`Error::Receive`] when the socket itself fails.
    pub async fn changed(&mut self) -> Result<Changed, Error> {
        loop {
            let mut changed = Changed::default();
            let own = &self.own;
            let heard = self
                .inner
                .hear(|message| note(&message, own, &mut changed))
                .await?;
            if heard == Heard::Overrun {
                return Ok(Changed {
                    tables: Table::ALL.into_iter().collect(),
                    lost: BTreeSet::new(),
                    host: true,
                    overrun: true,
                });
            }
            if changed != Changed::default() {
                return Ok(changed);
            }
        }
    }
}

fn note(message: &Message<'_>, own: &BTreeSet<u32>, changed: &mut Changed) {
    if message.port != 0 && own.contains(&message.port) {
        return;
    }
    match message.kind {
        rtm::NEWLINK | rtm::DELLINK => {
            changed.tables.insert(Table::Links);
            changed.lost.extend(lost_device(message));
            changed.host |= !is_host_end(message);
        }
        rtm::NEWADDR | rtm::DELADDR => {
            changed.tables.insert(Table::Addresses);
            changed.host |= !is_link_local(message);
        }
        rtm::NEWNEIGH | rtm::DELNEIGH => changed.tables.extend(neighbour(message)),
        rtm::NEWROUTE | rtm::DELROUTE if concerns_us(message) => {
            changed.tables.insert(Table::Routes);
        }
        rtm::NEWNEXTHOP | rtm::DELNEXTHOP => {
            changed.tables.insert(Table::Nexthops);
        }
        _ => {}
    }
}

/// Ends of pods come and go all the time; no plan looks at them through the host.
fn is_host_end(message: &Message<'_>) -> bool {
    let row = message.body.get(LINK_HEADER..).unwrap_or(&[]);
    let mac = attr::parse(row)
        .find(IFLA_ADDRESS)
        .and_then(|mac| mac.array());
    mac.map(Mac) == Some(HOST_MAC)
}

fn is_link_local(message: &Message<'_>) -> bool {
    message.body.get(3) == Some(&SCOPE_LINK)
}

/// The kernel drops routes, next-hop objects and neighbours of a device that goes down, and objects also when only its carrier
/// goes, and tells nobody. A device that just appeared had none.
fn lost_device(message: &Message<'_>) -> Option<IfName> {
    let body = message.body.first_chunk::<LINK_HEADER>()?;
    let &[_, _, _, _, _, _, _, _, f0, f1, f2, f3, c0, c1, c2, c3] = body;
    let flags = u32::from_ne_bytes([f0, f1, f2, f3]);
    let new = u32::from_ne_bytes([c0, c1, c2, c3]) == u32::MAX;
    let dead = flags & IFF_UP == 0 || flags & (IFF_RUNNING | IFF_LOWER_UP) == 0;
    if message.kind == rtm::NEWLINK && (new || !dead) {
        return None;
    }
    let name = attr::parse(message.body.get(LINK_HEADER..)?).find(IFLA_IFNAME)?;
    IfName::parse(name.str()?).ok()
}

/// Learnt and ageing neighbours come and go; ours are permanent, and only their loss or replacement counts.
fn neighbour(message: &Message<'_>) -> Option<Table> {
    let &[family, _, _, _, _, _, _, _, s0, s1, _, _] = message.body.first_chunk::<12>()?;
    let permanent = u16::from_ne_bytes([s0, s1]) & NUD_PERMANENT != 0;
    if family == rtm::AF_BRIDGE {
        return Some(Table::Fdb);
    }
    (permanent || message.kind == rtm::DELNEIGH).then_some(Table::Neighbours)
}

/// Routes of the main table that are neither cached nor the kernel's own.
fn concerns_us(message: &Message<'_>) -> bool {
    let Some(&[_, _, _, _, table, protocol, _, _, f0, f1, f2, f3]) =
        message.body.first_chunk::<12>()
    else {
        return false;
    };
    let cloned = u32::from_ne_bytes([f0, f1, f2, f3]) & RTM_F_CLONED != 0;
    u32::from(table) == TABLE_MAIN && Protocol(protocol) != Protocol::KERNEL && !cloned
}
