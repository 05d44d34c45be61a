//! Addresses on our tunnel devices, and the gateway's on host ends of pods.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use netlink::{Batch, Error, Socket, attr};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{
    AddressAttribute, AddressHeaderFlags, AddressMessage, AddressScope,
};

use super::devices::{Devices, address};
use super::rtm;
use crate::link::{AddressKey, IfName, Lifetime, Tunnel};
use crate::plan::workload::gateway_v6;

const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const HEADER: usize = 8;
/// `IFA_F_PERMANENT`.
const PERMANENT: u8 = 0x80;

/// One address as listed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Listed {
    pub(crate) index: u32,
    pub(crate) net: IpNet,
    pub(crate) lifetime: Lifetime,
}

/// Every address of the namespace.
pub(crate) fn list_all(socket: &mut Socket) -> Result<Vec<Listed>, Error> {
    socket.dump(
        rtm::GETADDR,
        |enc| enc.raw(&[0; HEADER]),
        |message| {
            let &[_, length, flags, _, i0, i1, i2, i3] = message.body.first_chunk::<HEADER>()?;
            let row = attr::parse(message.body.get(HEADER..)?);
            // IPv4 tells the own address as LOCAL (ADDRESS is the far end of a point to point link), IPv6 as ADDRESS.
            let own = row
                .clone()
                .find(IFA_LOCAL)
                .or_else(|| row.clone().find(IFA_ADDRESS))?;
            Some(Listed {
                index: u32::from_ne_bytes([i0, i1, i2, i3]),
                net: IpNet::new(address(own.payload)?, length).ok()?,
                lifetime: if flags & PERMANENT == 0 {
                    Lifetime::Limited
                } else {
                    Lifetime::Forever
                },
            })
        },
    )
}

/// Addresses on tunnels, link-local ones left out: those are the kernel's. On host ends the gateway's alone.
pub(crate) fn list(
    socket: &mut Socket,
    devices: &Devices,
    tunnels: &BTreeMap<IfName, Tunnel>,
    is_host_end: impl Fn(&IfName) -> bool,
) -> Result<BTreeMap<AddressKey, Lifetime>, Error> {
    let gateway = IpNet::from(gateway_v6());
    let mut found = BTreeMap::new();
    for listed in list_all(socket)? {
        let device = devices.name(listed.index);
        let address = listed.net;
        let ours = if tunnels.contains_key(&device) {
            !is_link_local(address.addr())
        } else {
            address == gateway && is_host_end(&device)
        };
        if ours {
            found.insert(AddressKey { device, address }, listed.lifetime);
        }
    }
    Ok(found)
}

/// IPv6 addresses go without duplicate detection: ours are allocated, and one that is tentative serves nobody for a second.
pub(crate) fn push_put(batch: &mut Batch, index: u32, address: IpNet) {
    let mut message = message(index, address);
    if address.addr().is_ipv6() {
        message.header.flags = AddressHeaderFlags::Nodad;
    }
    rtm::push(batch, rtm::NEWADDR, rtm::PUT, &message);
}

pub(crate) fn push_remove(batch: &mut Batch, index: u32, address: IpNet) {
    rtm::push(batch, rtm::DELADDR, 0, &message(index, address));
}

fn message(index: u32, net: IpNet) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.index = index;
    message.header.prefix_len = net.prefix_len();
    message.header.scope = AddressScope::Universe;
    message.header.family = match net {
        IpNet::V4(_) => AddressFamily::Inet,
        IpNet::V6(_) => AddressFamily::Inet6,
    };
    message.attributes.push(AddressAttribute::Local(net.addr()));
    message
        .attributes
        .push(AddressAttribute::Address(net.addr()));
    message
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}
