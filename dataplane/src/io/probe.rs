//! What this kernel can do, tried out once in a namespace of its own. Never derived from a version.

use std::os::fd::AsFd;

use netlink::attr::Encoder;
use netlink::netns::{self, NetnsError};
use netlink::{Batch, Error, OpenError, Protocol as Family, Socket};
use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkInfo};
use rtnetlink::{LinkUnspec, LinkVxlan};

use super::rtm;

const NHA_ID: u16 = 1;
const NHA_GROUP: u16 = 2;
const NHA_OIF: u16 = 5;
/// First number of our range; the namespace is thrown away.
const PROBE_ID: u32 = 0x4d00_0000;
const LOOPBACK: u32 = 1;

/// What works. `Err` keeps the kernel's reason for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Features {
    /// VXLAN devices.
    pub vxlan: Result<(), String>,
    /// IP-in-IP devices.
    pub ipip: Result<(), String>,
    /// `WireGuard` devices.
    pub wireguard: Result<(), String>,
    /// Next-hop objects.
    pub nexthop_objects: Result<(), String>,
    /// Groups of next-hop objects.
    pub nexthop_groups: Result<(), String>,
}

/// A kind of tunnel that can be tried by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TunnelKind {
    /// VXLAN.
    Vxlan,
    /// IP-in-IP.
    Ipip,
}

/// Why nothing could be tried.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// No namespace.
    #[error(transparent)]
    Netns(#[from] NetnsError),
    /// No socket.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The loopback of the namespace did not come up.
    #[error("bring the loopback up: {0}")]
    Loopback(Error),
}

/// Tries every feature. Blocks for some milliseconds.
///
/// # Errors
/// [`ProbeError`] when not even a namespace can be made.
pub fn probe() -> Result<Features, ProbeError> {
    let namespace = netns::create()?;
    let mut socket = Socket::open_in(namespace.as_fd(), Family::Route)?;
    let mut up = Batch::new();
    super::tunnels::push_up(&mut up, LOOPBACK);
    socket.submit(&mut up).map_err(ProbeError::Loopback)?;
    Ok(Features {
        vxlan: attempt(&mut socket, push_vxlan),
        ipip: attempt(&mut socket, push_ipip),
        wireguard: attempt(&mut socket, |batch| {
            push_link(batch, "probe-wg", InfoKind::Wireguard);
        }),
        nexthop_objects: attempt(&mut socket, |batch| {
            batch.push(rtm::NEWNEXTHOP, rtm::PUT, |enc| {
                nexthop(enc, rtm::AF_INET, PROBE_ID);
                enc.put_u32(NHA_OIF, LOOPBACK);
            });
        }),
        nexthop_groups: attempt(&mut socket, |batch| {
            batch.push(rtm::NEWNEXTHOP, rtm::PUT, |enc| {
                nexthop(enc, 0, PROBE_ID + 1);
                let mut member = PROBE_ID.to_ne_bytes().to_vec();
                member.extend_from_slice(&[0; 4]);
                enc.put(NHA_GROUP, &member);
            });
        }),
    })
}

/// Tries one kind of tunnel, so that no module is loaded that nobody asked for. Blocks for some milliseconds.
///
/// # Errors
/// As [`probe`].
pub fn probe_tunnel(kind: TunnelKind) -> Result<Result<(), String>, ProbeError> {
    let namespace = netns::create()?;
    let mut socket = Socket::open_in(namespace.as_fd(), Family::Route)?;
    Ok(match kind {
        TunnelKind::Vxlan => attempt(&mut socket, push_vxlan),
        TunnelKind::Ipip => attempt(&mut socket, push_ipip),
    })
}

fn push_vxlan(batch: &mut Batch) {
    let link = LinkVxlan::new("probe-vxlan", 1).port(4789).build();
    rtm::push(batch, rtm::NEWLINK, netlink::flags::CREATE, &link);
}

/// Under the name of the device that the module brings along: a second one for any peer is refused.
fn push_ipip(batch: &mut Batch) {
    push_link(batch, "tunl0", InfoKind::IpIp);
}

fn nexthop(enc: &mut Encoder, family: u8, id: u32) {
    enc.raw(&[family, 0, 0, 0, 0, 0, 0, 0]);
    enc.put_u32(NHA_ID, id);
}

fn push_link(batch: &mut Batch, name: &str, kind: InfoKind) {
    let link = LinkUnspec::new_with_name(name)
        .append_extra_attribute(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(kind)]))
        .build();
    rtm::push(batch, rtm::NEWLINK, netlink::flags::CREATE, &link);
}

fn attempt(socket: &mut Socket, push: impl FnOnce(&mut Batch)) -> Result<(), String> {
    let mut batch = Batch::new();
    push(&mut batch);
    socket.submit(&mut batch).map_err(|error| error.to_string())
}
