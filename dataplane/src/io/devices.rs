//! Links as the kernel lists them: names, indexes, addresses.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use netlink::{Error, Message, Socket, attr};

use super::rtm;
use crate::host::{Device, Host, Lacks, Routers};
use crate::link::{IfName, Lifetime, Mac};

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_OPERSTATE: u16 = 16;
const IFLA_LINKINFO: u16 = 18;
const IFLA_IFALIAS: u16 = 20;
const IFLA_AF_SPEC: u16 = 26;
const IFLA_EXT_MASK: u16 = 29;
const IFLA_INET6_CONF: u16 = 2;
/// Place of `accept_ra` in the array of 32-bit settings (`DEVCONF_ACCEPT_RA`, `linux/ipv6.h`).
const DEVCONF_ACCEPT_RA: usize = 3;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
/// `RTEXT_FILTER_SKIP_STATS`: no counters, they are half of a link dump.
const SKIP_STATS: u32 = 8;
const IFF_UP: u32 = 1;
const IFF_RUNNING: u32 = 0x40;
const IFF_LOWER_UP: u32 = 0x1_0000;
const OPER_UNKNOWN: u8 = 0;
const OPER_UP: u8 = 6;
const HEADER: usize = 16;

/// One link as listed.
#[derive(Debug, Clone)]
pub(crate) struct Listed {
    pub(crate) index: u32,
    pub(crate) name: IfName,
    pub(crate) mac: Option<Mac>,
    pub(crate) mtu: u32,
    /// `IFF_*`.
    flags: u32,
    /// `IF_OPER_*`.
    operational: u8,
    pub(crate) alias: Option<String>,
    pub(crate) kind: Option<String>,
    /// `IFLA_INFO_DATA`, still encoded.
    pub(crate) data: Vec<u8>,
    /// `accept_ra`; `None` on a device without IPv6.
    accept_ra: Option<i32>,
}

impl Listed {
    /// Administratively up.
    pub(crate) fn up(&self) -> bool {
        self.flags & IFF_UP != 0
    }

    /// Up and with a carrier: next-hop objects over it can exist.
    pub(crate) fn carrier(&self) -> bool {
        self.up() && self.flags & (IFF_RUNNING | IFF_LOWER_UP) != 0
    }

    /// Carries packets as far as the kernel can tell; devices of some kinds never know.
    pub(crate) fn running(&self) -> bool {
        self.noticed() || (self.operational == OPER_UNKNOWN && self.up())
    }

    /// A device that is there for everybody as soon as its module is loaded.
    pub(crate) fn comes_with_module(&self) -> bool {
        self.kind.as_deref() == Some("ipip")
    }

    /// The kernel has noticed the carrier: up, not merely unknown.
    pub(crate) fn noticed(&self) -> bool {
        self.operational == OPER_UP
    }
}

/// Names and indexes of one moment.
#[derive(Debug, Clone, Default)]
pub struct Devices {
    by_name: BTreeMap<IfName, u32>,
    by_index: BTreeMap<u32, IfName>,
}

impl Devices {
    pub(crate) fn new(links: &[Listed]) -> Self {
        Self {
            by_name: links
                .iter()
                .map(|link| (link.name.clone(), link.index))
                .collect(),
            by_index: links
                .iter()
                .map(|link| (link.index, link.name.clone()))
                .collect(),
        }
    }

    /// Index of a device.
    pub fn index(&self, name: &IfName) -> Option<u32> {
        self.by_name.get(name).copied()
    }

    /// Name of a device; a name that equals no other when the index is unknown.
    pub fn name(&self, index: u32) -> IfName {
        self.by_index
            .get(&index)
            .cloned()
            .unwrap_or_else(|| IfName::unknown(index))
    }
}

/// Lists every link of the socket's namespace.
pub(crate) fn list(socket: &mut Socket) -> Result<Vec<Listed>, Error> {
    socket.dump(
        rtm::GETLINK,
        |enc| {
            enc.raw(&[0; HEADER]);
            enc.put_u32(IFLA_EXT_MASK, SKIP_STATS);
        },
        parse,
    )
}

/// Looks up one link by name.
///
/// # Errors
/// `ENODEV` when there is none.
pub(crate) fn find(socket: &mut Socket, name: &IfName) -> Result<Listed, Error> {
    let found = socket.ask(
        rtm::GETLINK,
        0,
        |enc| {
            enc.raw(&[0; HEADER]);
            enc.put_u32(IFLA_EXT_MASK, SKIP_STATS);
            enc.put_str(IFLA_IFNAME, name.as_str());
        },
        parse,
    )?;
    found.into_iter().next().ok_or_else(no_device)
}

/// Devices with their addresses, for plans. `advertised`: those over which a router advertised a route.
pub(crate) fn host(socket: &mut Socket, advertised: &BTreeSet<IfName>) -> Result<Host, Error> {
    let mut addresses: BTreeMap<u32, Vec<IpNet>> = BTreeMap::new();
    let mut limited = BTreeSet::new();
    for listed in super::addresses::list_all(socket)? {
        // What a router advertised ends unless it is advertised again.
        if listed.lifetime == Lifetime::Limited && listed.net.addr().is_ipv6() {
            limited.insert(listed.index);
        }
        addresses.entry(listed.index).or_default().push(listed.net);
    }
    let mut devices = BTreeMap::new();
    for link in list(socket)? {
        let device = Device {
            index: link.index,
            mtu: link.mtu,
            running: link.running(),
            addresses: addresses.remove(&link.index).unwrap_or_default(),
            routers: routers(
                link.accept_ra,
                limited.contains(&link.index) || advertised.contains(&link.name),
            ),
        };
        devices.insert(link.name, device);
    }
    Ok(Host {
        devices,
        lacks: Lacks::default(),
    })
}

fn routers(accept_ra: Option<i32>, heard_of: bool) -> Routers {
    match accept_ra {
        Some(1) if heard_of => Routers::HeardByHosts,
        Some(2) => Routers::Heard,
        Some(_) | None => Routers::Unheard,
    }
}

fn accept_ra(families: attr::Attribute<'_>) -> Option<i32> {
    let settings = families
        .nested()
        .find(u16::from(rtm::AF_INET6))?
        .nested()
        .find(IFLA_INET6_CONF)?;
    let (values, _) = settings.payload.as_chunks::<4>();
    values
        .get(DEVCONF_ACCEPT_RA)
        .map(|value| i32::from_ne_bytes(*value))
}

fn parse(message: Message<'_>) -> Option<Listed> {
    if message.kind != rtm::NEWLINK {
        return None;
    }
    let &[_, _, _, _, i0, i1, i2, i3, f0, f1, f2, f3, ..] = message.body.first_chunk::<HEADER>()?;
    let flags = u32::from_ne_bytes([f0, f1, f2, f3]);
    let mut name = None;
    let mut link = Listed {
        index: u32::from_ne_bytes([i0, i1, i2, i3]),
        name: IfName::unknown(0),
        mac: None,
        mtu: 0,
        flags,
        operational: OPER_UNKNOWN,
        alias: None,
        kind: None,
        data: Vec::new(),
        accept_ra: None,
    };
    for attribute in attr::parse(message.body.get(HEADER..)?) {
        match attribute.kind {
            IFLA_IFNAME => name = attribute.str().and_then(|text| IfName::parse(text).ok()),
            IFLA_ADDRESS => link.mac = attribute.array().map(Mac),
            IFLA_MTU => link.mtu = attribute.u32().unwrap_or(0),
            IFLA_OPERSTATE => link.operational = attribute.u8().unwrap_or(OPER_UNKNOWN),
            IFLA_IFALIAS => link.alias = attribute.str().map(str::to_owned),
            IFLA_AF_SPEC => link.accept_ra = accept_ra(attribute),
            IFLA_LINKINFO => {
                for info in attribute.nested() {
                    match info.kind {
                        IFLA_INFO_KIND => link.kind = info.str().map(str::to_owned),
                        IFLA_INFO_DATA => link.data = info.payload.to_vec(),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    // A name we cannot hold stands under its index, so that nothing is mistaken for it.
    link.name = name.unwrap_or_else(|| IfName::unknown(link.index));
    Some(link)
}

/// The refusal for a device that is not there.
pub(crate) fn no_device() -> Error {
    Error::Rejected(netlink::Rejected {
        failures: vec![netlink::Failure {
            index: None,
            errno: netlink::Errno::ENODEV,
            text: None,
            offset: None,
            missing: None,
        }],
    })
}

/// An address out of 4 or 16 octets.
pub(crate) fn address(payload: &[u8]) -> Option<IpAddr> {
    match payload.len() {
        4 => Some(IpAddr::from(*payload.first_chunk::<4>()?)),
        16 => Some(IpAddr::from(*payload.first_chunk::<16>()?)),
        _ => None,
    }
}
