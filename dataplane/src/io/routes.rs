//! Routes: listed by protocol and by tunnel device, put and removed by key.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::num::NonZeroU8;

use ipnet::IpNet;
use netlink::{Batch, Errno, Error, Message, Socket, attr};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteMetric, RouteNextHop,
    RouteProtocol, RouteScope, RouteType, RouteVia,
};
use rtnetlink::RouteNextHopBuilder;

use super::devices::{Devices, address};
use super::rtm;
use crate::link::IfName;
use crate::nexthop::NexthopId;
use crate::route::{Group, Hop, KernelTarget, Protocol, Route, RouteKey, TABLE_MAIN};

const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PRIORITY: u16 = 6;
const RTA_PREFSRC: u16 = 7;
const RTA_METRICS: u16 = 8;
const RTA_MULTIPATH: u16 = 9;
const RTA_TABLE: u16 = 15;
const RTA_VIA: u16 = 18;
const RTA_NH_ID: u16 = 30;
const RTAX_MTU: u16 = 2;
const RTN_UNICAST: u8 = 1;
const RTN_BLACKHOLE: u8 = 6;
const SCOPE_UNIVERSE: u8 = 0;
const SCOPE_LINK: u8 = 253;
const ONLINK: u32 = 4;
const HEADER: usize = 12;
/// `struct rtnexthop`: length, flags, weight − 1, index.
const NEXTHOP_HEADER: usize = 8;

/// One route of the main table.
pub(crate) struct Listed {
    pub(crate) key: RouteKey,
    pub(crate) route: Route<KernelTarget>,
    /// The device it names itself; none where next hops do.
    pub(crate) device: Option<IfName>,
}

impl Listed {
    /// Whether it leads over a device that `matches`.
    pub(crate) fn is_over(&self, matches: impl Fn(&IfName) -> bool) -> bool {
        let inline = match &self.route.target {
            KernelTarget::Inline(group) => group.hops().any(|(hop, _)| matches(&hop.device)),
            KernelTarget::Device(_)
            | KernelTarget::Object(_)
            | KernelTarget::Blackhole
            | KernelTarget::Other => false,
        };
        inline || self.device.as_ref().is_some_and(matches)
    }
}

/// The main table of both families, split into what `ours` takes and how the host reaches what lies beyond its links.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) ours: BTreeMap<RouteKey, Route<KernelTarget>>,
    /// Other routes over a gateway, the one with the smallest metric per prefix.
    pub(crate) underlay: BTreeMap<IpNet, Hop>,
    /// Devices over which an IPv6 router advertised a route.
    pub(crate) advertised: BTreeSet<IfName>,
}

/// Lists every route that is not the kernel's own. One dump per family, whatever it is asked for: the kernel walks the whole table
/// for a filtered dump as well.
pub(crate) fn list(
    socket: &mut Socket,
    devices: &Devices,
    mut ours: impl FnMut(&Listed) -> bool,
) -> Result<Found, Error> {
    let mut found = Found::default();
    let mut metrics: BTreeMap<IpNet, u32> = BTreeMap::new();
    for family in [rtm::AF_INET, rtm::AF_INET6] {
        for listed in dump(socket, devices, family)? {
            if listed.route.protocol == Protocol::KERNEL {
                continue;
            }
            if listed.route.protocol == Protocol::ROUTER {
                found.advertised.extend(listed.device.clone());
            }
            if ours(&listed) {
                found.ours.insert(listed.key, listed.route);
                continue;
            }
            let KernelTarget::Inline(group) = &listed.route.target else {
                continue;
            };
            let (prefix, metric) = (listed.key.prefix, listed.key.metric);
            let better = metrics.get(&prefix).is_none_or(|least| metric < *least);
            if let Some((hop, _)) = group.hops().next()
                && better
            {
                metrics.insert(prefix, metric);
                found.underlay.insert(prefix, hop.clone());
            }
        }
    }
    Ok(found)
}

/// The source address the kernel chooses for packets of this host to a destination; `None` when it has no way there.
pub(crate) fn source_towards(
    socket: &mut Socket,
    destination: IpAddr,
) -> Result<Option<IpAddr>, Error> {
    let found = socket.ask(
        rtm::GETROUTE,
        0,
        |enc| match destination {
            IpAddr::V4(v4) => {
                enc.raw(&[rtm::AF_INET, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
                enc.put(RTA_DST, &v4.octets());
            }
            IpAddr::V6(v6) => {
                enc.raw(&[rtm::AF_INET6, 128, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
                enc.put(RTA_DST, &v6.octets());
            }
        },
        |message| {
            let source = attr::parse(message.body.get(HEADER..)?).find(RTA_PREFSRC)?;
            address(source.payload)
        },
    );
    match found {
        Ok(sources) => Ok(sources.into_iter().next()),
        Err(error)
            if matches!(
                error.errno(),
                Some(Errno::ENETUNREACH | Errno::EHOSTUNREACH)
            ) =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

fn dump(socket: &mut Socket, devices: &Devices, family: u8) -> Result<Vec<Listed>, Error> {
    let listed = socket.dump(
        rtm::GETROUTE,
        |enc| {
            enc.raw(&[family, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
            enc.put_u32(RTA_TABLE, TABLE_MAIN);
        },
        |message| parse(message, devices),
    );
    rtm::no_such_table_is_empty(listed)
}

/// `None` when a device is not there.
pub(crate) fn push_put(
    batch: &mut Batch,
    key: &RouteKey,
    route: &Route<KernelTarget>,
    devices: &Devices,
) -> Option<()> {
    let mut message = message(key);
    message.header.protocol = RouteProtocol::from(route.protocol.0);
    message.header.kind = RouteType::Unicast;
    match &route.target {
        KernelTarget::Device(device) => {
            if key.prefix.addr().is_ipv4() {
                message.header.scope = RouteScope::Link;
            }
            message
                .attributes
                .push(RouteAttribute::Oif(devices.index(device)?));
        }
        KernelTarget::Object(id) => message.attributes.push(RouteAttribute::NhId(id.0)),
        KernelTarget::Inline(group) => push_inline(&mut message, group, devices)?,
        KernelTarget::Blackhole => message.header.kind = RouteType::BlackHole,
        // Never planned: it stands for what we cannot read.
        KernelTarget::Other => return None,
    }
    if let Some(source) = route.source {
        message
            .attributes
            .push(RouteAttribute::PrefSource(route_address(source)));
    }
    if let Some(mtu) = route.mtu {
        message
            .attributes
            .push(RouteAttribute::Metrics(vec![RouteMetric::Mtu(mtu)]));
    }
    rtm::push(batch, rtm::NEWROUTE, rtm::PUT, &message);
    Some(())
}

/// Removes what stands under the key if it has this protocol; a route that somebody put in its place stays.
pub(crate) fn push_remove(batch: &mut Batch, key: &RouteKey, protocol: Protocol) {
    let mut message = message(key);
    message.header.protocol = RouteProtocol::from(protocol.0);
    // The kernel compares the scope unless it is "nowhere".
    message.header.scope = RouteScope::NoWhere;
    rtm::push(batch, rtm::DELROUTE, 0, &message);
}

fn message(key: &RouteKey) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = match key.prefix {
        IpNet::V4(_) => AddressFamily::Inet,
        IpNet::V6(_) => AddressFamily::Inet6,
    };
    message.header.destination_prefix_length = key.prefix.prefix_len();
    message.header.tos = key.tos;
    message.attributes.push(RouteAttribute::Table(key.table));
    message
        .attributes
        .push(RouteAttribute::Destination(route_address(
            key.prefix.addr(),
        )));
    message
        .attributes
        .push(RouteAttribute::Priority(key.metric));
    message
}

fn push_inline(message: &mut RouteMessage, group: &Group, devices: &Devices) -> Option<()> {
    let hops: Vec<_> = group.hops().collect();
    if let [(hop, _)] = hops.as_slice() {
        message
            .attributes
            .push(gateway(message.header.address_family, hop.gateway));
        message
            .attributes
            .push(RouteAttribute::Oif(devices.index(&hop.device)?));
        if hop.onlink {
            message.header.flags = RouteFlags::Onlink;
        }
        return Some(());
    }
    let mut paths = Vec::with_capacity(hops.len());
    for (hop, weight) in hops {
        paths.push(path(message.header.address_family, hop, weight, devices)?);
    }
    message.attributes.push(RouteAttribute::MultiPath(paths));
    Some(())
}

fn path(
    family: AddressFamily,
    hop: &Hop,
    weight: NonZeroU8,
    devices: &Devices,
) -> Option<RouteNextHop> {
    let mut builder = RouteNextHopBuilder::new(family)
        .interface(devices.index(&hop.device)?)
        .weight(weight.get() - 1)
        .via(hop.gateway)
        .ok()?;
    if hop.onlink {
        builder = builder.onlink();
    }
    Some(builder.build())
}

/// RFC 8950: an IPv4 route over an IPv6 gateway says so in an attribute of its own.
fn gateway(family: AddressFamily, gateway: IpAddr) -> RouteAttribute {
    match (family, gateway) {
        (AddressFamily::Inet, IpAddr::V6(via)) => RouteAttribute::Via(RouteVia::Inet6(via)),
        (_, address) => RouteAttribute::Gateway(route_address(address)),
    }
}

fn route_address(address: IpAddr) -> RouteAddress {
    match address {
        IpAddr::V4(v4) => RouteAddress::Inet(v4),
        IpAddr::V6(v6) => RouteAddress::Inet6(v6),
    }
}

/// What a route's attributes say, before it is known what they mean together.
#[derive(Default)]
struct Attributes {
    destination: Option<IpAddr>,
    device: Option<u32>,
    gateway: Option<IpAddr>,
    metric: u32,
    source: Option<IpAddr>,
    mtu: Option<u32>,
    table: Option<u32>,
    object: Option<u32>,
    paths: Option<KernelTarget>,
}

fn parse(message: Message<'_>, devices: &Devices) -> Option<Listed> {
    let &[
        family,
        length,
        _,
        tos,
        table,
        protocol,
        scope,
        kind,
        f0,
        f1,
        f2,
        f3,
    ] = message.body.first_chunk::<HEADER>()?;
    let attributes = read(attr::parse(message.body.get(HEADER..)?), devices);
    let any = if family == rtm::AF_INET {
        IpAddr::from([0; 4])
    } else {
        IpAddr::from([0; 16])
    };
    let prefix = IpNet::new(attributes.destination.unwrap_or(any), length).ok()?;
    let key = RouteKey {
        table: attributes.table.unwrap_or(u32::from(table)),
        prefix,
        tos,
        metric: attributes.metric,
    };
    let flags = u32::from_ne_bytes([f0, f1, f2, f3]);
    let route = Route {
        target: target(family, scope, kind, flags, &attributes, devices),
        protocol: Protocol(protocol),
        source: attributes.source,
        mtu: attributes.mtu,
    };
    Some(Listed {
        key,
        route,
        device: attributes.device.map(|index| devices.name(index)),
    })
}

fn read(row: attr::Attributes<'_>, devices: &Devices) -> Attributes {
    let mut read = Attributes::default();
    for attribute in row {
        match attribute.kind {
            RTA_DST => read.destination = address(attribute.payload),
            RTA_OIF => read.device = attribute.u32(),
            RTA_GATEWAY => read.gateway = address(attribute.payload),
            RTA_VIA => read.gateway = attribute.payload.get(2..).and_then(address),
            RTA_PRIORITY => read.metric = attribute.u32().unwrap_or(0),
            RTA_PREFSRC => read.source = address(attribute.payload),
            RTA_METRICS => read.mtu = attribute.nested().find(RTAX_MTU).and_then(|a| a.u32()),
            RTA_TABLE => read.table = attribute.u32(),
            RTA_NH_ID => read.object = attribute.u32(),
            RTA_MULTIPATH => {
                let group = parse_paths(attribute.payload, devices);
                read.paths = Some(group.map_or(KernelTarget::Other, KernelTarget::Inline));
            }
            _ => {}
        }
    }
    read
}

/// In compatibility mode the kernel spells out the gateways of an object beside its number; the number counts.
fn target(
    family: u8,
    scope: u8,
    kind: u8,
    flags: u32,
    read: &Attributes,
    devices: &Devices,
) -> KernelTarget {
    match kind {
        RTN_BLACKHOLE => return KernelTarget::Blackhole,
        RTN_UNICAST => {}
        _ => return KernelTarget::Other,
    }
    if let Some(id) = read.object {
        return KernelTarget::Object(NexthopId(id));
    }
    if let Some(paths) = &read.paths {
        return paths.clone();
    }
    let link_scope = if family == rtm::AF_INET {
        SCOPE_LINK
    } else {
        SCOPE_UNIVERSE
    };
    match (read.device, read.gateway) {
        (Some(index), Some(gateway)) => {
            let hop = Hop {
                gateway,
                device: devices.name(index),
                onlink: flags & ONLINK != 0,
            };
            Group::try_new([hop]).map_or(KernelTarget::Other, KernelTarget::Inline)
        }
        (Some(index), None) if scope == link_scope => KernelTarget::Device(devices.name(index)),
        (Some(_), None) | (None, _) => KernelTarget::Other,
    }
}

/// `None`: a path without gateway, a shape we never write.
fn parse_paths(mut payload: &[u8], devices: &Devices) -> Option<Group> {
    let mut hops = Vec::new();
    while let Some(&[l0, l1, flags, weight, i0, i1, i2, i3]) =
        payload.first_chunk::<NEXTHOP_HEADER>()
    {
        let length = usize::from(u16::from_ne_bytes([l0, l1]));
        let attributes = attr::parse(payload.get(NEXTHOP_HEADER..length)?);
        let gateway = attributes
            .clone()
            .find(RTA_GATEWAY)
            .and_then(|a| address(a.payload));
        let via = || {
            attributes
                .clone()
                .find(RTA_VIA)
                .and_then(|a| address(a.payload.get(2..)?))
        };
        let hop = Hop {
            gateway: gateway.or_else(via)?,
            device: devices.name(u32::from_ne_bytes([i0, i1, i2, i3])),
            onlink: u32::from(flags) & ONLINK != 0,
        };
        hops.push((hop, NonZeroU8::new(weight.checked_add(1)?)?));
        payload = payload.get((length + 3) & !3..).unwrap_or(&[]);
    }
    Group::try_weighted(hops)
}
