//! Permanent neighbours, and the forwarding entries of VXLAN devices.

use std::collections::BTreeMap;
use std::net::IpAddr;

use netlink::{Batch, Error, Message, Socket, attr};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};

use super::devices::{Devices, address};
use super::rtm;
use crate::link::{IfName, Mac};
use crate::neighbour::{FdbKey, NeighbourKey};

const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
const NDA_IFINDEX: u16 = 8;
const NUD_PERMANENT: u16 = 0x80;
const HEADER: usize = 12;

struct Entry {
    index: u32,
    state: u16,
    destination: Option<IpAddr>,
    mac: Option<Mac>,
}

/// Permanent neighbours on the devices that `ours` takes.
pub(crate) fn list(
    socket: &mut Socket,
    devices: &Devices,
    ours: impl Fn(&IfName) -> bool,
) -> Result<BTreeMap<NeighbourKey, Mac>, Error> {
    let mut found = BTreeMap::new();
    for family in [rtm::AF_INET, rtm::AF_INET6] {
        for entry in dump(socket, family, None)? {
            let device = devices.name(entry.index);
            let (Some(address), Some(mac)) = (entry.destination, entry.mac) else {
                continue;
            };
            if entry.state & NUD_PERMANENT != 0 && ours(&device) {
                found.insert(NeighbourKey { device, address }, mac);
            }
        }
    }
    Ok(found)
}

/// Forwarding entries of the given devices. Of several destinations for one hardware address the last listed stands, and is
/// replaced if it is not the wanted one.
pub(crate) fn list_fdb(
    socket: &mut Socket,
    devices: &Devices,
    tunnels: impl Iterator<Item = IfName>,
) -> Result<BTreeMap<FdbKey, IpAddr>, Error> {
    let mut found = BTreeMap::new();
    for device in tunnels {
        let Some(index) = devices.index(&device) else {
            continue;
        };
        for entry in dump(socket, rtm::AF_BRIDGE, Some(index))? {
            let (Some(destination), Some(mac)) = (entry.destination, entry.mac) else {
                continue;
            };
            if entry.index == index {
                let device = device.clone();
                found.insert(FdbKey { device, mac }, destination);
            }
        }
    }
    Ok(found)
}

pub(crate) fn push_put(batch: &mut Batch, index: u32, address: IpAddr, mac: Mac) {
    rtm::push(
        batch,
        rtm::NEWNEIGH,
        rtm::PUT,
        &neighbour(index, address, Some(mac)),
    );
}

pub(crate) fn push_remove(batch: &mut Batch, index: u32, address: IpAddr) {
    rtm::push(batch, rtm::DELNEIGH, 0, &neighbour(index, address, None));
}

pub(crate) fn push_put_fdb(batch: &mut Batch, index: u32, mac: Mac, node: IpAddr) {
    rtm::push(
        batch,
        rtm::NEWNEIGH,
        rtm::PUT,
        &forwarding(index, mac, node),
    );
}

pub(crate) fn push_remove_fdb(batch: &mut Batch, index: u32, mac: Mac, node: IpAddr) {
    rtm::push(batch, rtm::DELNEIGH, 0, &forwarding(index, mac, node));
}

fn neighbour(index: u32, address: IpAddr, mac: Option<Mac>) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.ifindex = index;
    message.header.state = NeighbourState::Permanent;
    message.header.family = match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    };
    message
        .attributes
        .push(NeighbourAttribute::Destination(destination(address)));
    if let Some(Mac(mac)) = mac {
        message
            .attributes
            .push(NeighbourAttribute::LinkLayerAddress(mac.to_vec()));
    }
    message
}

fn forwarding(index: u32, Mac(mac): Mac, node: IpAddr) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.ifindex = index;
    message.header.family = AddressFamily::Bridge;
    message.header.state = NeighbourState::Permanent;
    message.header.flags = NeighbourFlags::Own;
    message
        .attributes
        .push(NeighbourAttribute::LinkLayerAddress(mac.to_vec()));
    message
        .attributes
        .push(NeighbourAttribute::Destination(destination(node)));
    message
}

fn destination(address: IpAddr) -> NeighbourAddress {
    match address {
        IpAddr::V4(v4) => NeighbourAddress::Inet(v4),
        IpAddr::V6(v6) => NeighbourAddress::Inet6(v6),
    }
}

fn dump(socket: &mut Socket, family: u8, device: Option<u32>) -> Result<Vec<Entry>, Error> {
    socket.dump(
        rtm::GETNEIGH,
        |enc| {
            enc.raw(&[family, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
            if let Some(index) = device {
                enc.put_u32(NDA_IFINDEX, index);
            }
        },
        parse,
    )
}

fn parse(message: Message<'_>) -> Option<Entry> {
    let &[_, _, _, _, i0, i1, i2, i3, s0, s1, _, _] = message.body.first_chunk::<HEADER>()?;
    let attributes = attr::parse(message.body.get(HEADER..)?);
    Some(Entry {
        index: u32::from_ne_bytes([i0, i1, i2, i3]),
        state: u16::from_ne_bytes([s0, s1]),
        destination: attributes
            .clone()
            .find(NDA_DST)
            .and_then(|a| address(a.payload)),
        mac: attributes
            .clone()
            .find(NDA_LLADDR)
            .and_then(|a| a.array())
            .map(Mac),
    })
}
