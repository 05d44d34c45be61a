//! The requests an attachment is made of.

use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::thread;
use std::time::Duration;

use ipnet::IpNet;
use netlink::{Batch, Errno, Error, Protocol, Socket};
use netlink_packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoData, InfoVeth, LinkAttribute,
};
use netlink_packet_route::route::{RouteProtocol, RouteScope};
use rtnetlink::{LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder};

use super::{AttachError, End, at, end};
use crate::io::{devices, rtm, tunnels};
use crate::link::IfName;
use crate::plan::workload::Veth;
use crate::route::TABLE_MAIN;

/// How often a link is looked at until its carrier has been noticed.
const SETTLE_POLL: Duration = Duration::from_millis(1);
/// `IPV4_DEVCONF_*` (`linux/ip.h`).
const DEVCONF_FORWARDING: u16 = 1;
const DEVCONF_PROXY_ARP: u16 = 3;
const DEVCONF_ROUTE_LOCALNET: u16 = 26;
const IFLA_AF_SPEC: u16 = 26;
const IFLA_INET_CONF: u16 = 1;
/// `linux/neighbour.h`: the table by name, parameters of one device in it.
const NDTA_NAME: u16 = 1;
const NDTA_PARMS: u16 = 6;
const NDTPA_IFINDEX: u16 = 1;
const NDTPA_PROXY_DELAY: u16 = 13;

/// Sends a batch and names the first step that was refused.
pub(super) fn submit<S: std::fmt::Debug>(
    socket: &mut Socket,
    batch: &mut Batch,
    steps: &[S],
) -> Result<(), AttachError> {
    socket.submit(batch).map_err(|source| {
        let failure = source.failures().first();
        let step = failure.and_then(|failure| steps.get(failure.index?));
        AttachError::Step {
            step: step.map_or_else(
                || "talk to the kernel".to_owned(),
                |step| format!("{step:?}"),
            ),
            source,
        }
    })
}

/// Whether the main table has a route to exactly this destination, whatever its metric.
pub(super) fn has_route(socket: &mut Socket, destination: IpNet) -> Result<bool, AttachError> {
    const HEADER: usize = 12;
    const RTA_TABLE: u16 = 15;
    let family = if destination.addr().is_ipv4() {
        rtm::AF_INET
    } else {
        rtm::AF_INET6
    };
    let found = socket.dump(
        rtm::GETROUTE,
        |enc| {
            enc.raw(&[family, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
            enc.put_u32(RTA_TABLE, TABLE_MAIN);
        },
        |message| {
            let &[_, length, ..] = message.body.first_chunk::<HEADER>()?;
            let attributes = netlink::attr::parse(message.body.get(HEADER..)?);
            let to = attributes
                .clone()
                .find(1)
                .and_then(|a| devices::address(a.payload));
            let same = length == destination.prefix_len()
                && to.is_none_or(|to| to == destination.network());
            same.then_some(())
        },
    );
    Ok(!rtm::no_such_table_is_empty(found)
        .map_err(at(format!("look for a route to {destination}")))?
        .is_empty())
}

/// The pair in one request, its far end straight into the sandbox; then what creation cannot set.
pub(super) fn make_pair(
    socket: &mut Socket,
    veth: &Veth,
    sandbox: &OwnedFd,
) -> Result<End, AttachError> {
    let peer = LinkMessageBuilder::<LinkUnspec>::new()
        .name(veth.sandbox.as_str())
        .mtu(veth.mtu)
        // Never up here: the kernel answers ENOTCONN.
        .setns_by_fd(sandbox.as_fd().as_raw_fd())
        .build();
    let pair = LinkVeth::new(veth.host.as_str(), veth.sandbox.as_str())
        .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
        .address(veth.host_mac.0.to_vec())
        .mtu(veth.mtu)
        .build();
    let mut batch = Batch::new();
    rtm::push(
        &mut batch,
        rtm::NEWLINK,
        netlink::flags::CREATE | netlink::flags::EXCL,
        &pair,
    );
    if let Err(error) = socket.submit(&mut batch) {
        return Err(name_taken(socket, veth, error));
    }
    let finish = LinkUnspec::new_with_name(veth.host.as_str())
        .alias(veth.alias.as_str())
        .append_extra_attribute(LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(
            vec![AfSpecInet6::AddrGenMode(In6AddrGenMode::None)],
        )]))
        .build();
    let mut batch = Batch::new();
    rtm::push(&mut batch, rtm::NEWLINK, 0, &finish);
    let finished = socket
        .submit(&mut batch)
        .and_then(|()| devices::find(socket, &veth.host));
    match finished
        .map_err(at(format!("set up {}", veth.host)))
        .and_then(end)
    {
        Ok(end) => Ok(end),
        Err(error) => {
            if let Ok(link) = devices::find(socket, &veth.host) {
                let mut batch = Batch::new();
                tunnels::push_delete(&mut batch, link.index);
                if let Err(undo) = socket.submit(&mut batch) {
                    tracing::error!(link = %veth.host, error = %undo, "a half-made link could not be deleted");
                }
            }
            Err(error)
        }
    }
}

/// `EEXIST` speaks of either end.
fn name_taken(socket: &mut Socket, veth: &Veth, error: Error) -> AttachError {
    if error.errno() != Some(Errno::EEXIST) {
        return at(format!("make {}", veth.host))(error);
    }
    match devices::find(socket, &veth.host) {
        Ok(link) => AttachError::HostNameTaken {
            name: veth.host.clone(),
            alias: link.alias,
        },
        Err(_) => AttachError::SandboxNameTaken {
            name: veth.sandbox.clone(),
        },
    }
}

/// IPv4 settings by netlink: one message instead of files that a container may only read, and in force before the link is up.
pub(super) fn push_ipv4_settings(batch: &mut Batch, index: u32) {
    batch.push(rtm::NEWLINK, 0, |enc| {
        let [a, b, c, d] = index.to_ne_bytes();
        enc.raw(&[0, 0, 0, 0, a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0]);
        enc.nest(IFLA_AF_SPEC, |enc| {
            enc.nest(u16::from(rtm::AF_INET), |enc| {
                enc.nest(IFLA_INET_CONF, |enc| {
                    for key in [
                        DEVCONF_FORWARDING,
                        DEVCONF_PROXY_ARP,
                        DEVCONF_ROUTE_LOCALNET,
                    ] {
                        enc.put_u32(key, 1);
                    }
                });
            });
        });
    });
    batch.push(rtm::SETNEIGHTBL, 0, |enc| {
        enc.raw(&[rtm::AF_INET, 0, 0, 0]);
        enc.put_str(NDTA_NAME, "arp_cache");
        enc.nest(NDTA_PARMS, |enc| {
            enc.put_u32(NDTPA_IFINDEX, index);
            enc.put_u64(NDTPA_PROXY_DELAY, 0);
        });
    });
}

pub(super) fn push_route(batch: &mut Batch, index: u32, destination: IpNet, via: Option<IpAddr>) {
    let scope = if via.is_some() {
        RouteScope::Universe
    } else {
        RouteScope::Link
    };
    let message = match (destination, via) {
        (IpNet::V4(net), via) => {
            let mut builder = RouteMessageBuilder::<std::net::Ipv4Addr>::new()
                .destination_prefix(net.network(), net.prefix_len())
                .output_interface(index)
                .protocol(RouteProtocol::Boot)
                .scope(scope);
            if let Some(IpAddr::V4(via)) = via {
                builder = builder.gateway(via);
            }
            builder.build()
        }
        (IpNet::V6(net), via) => {
            let mut builder = RouteMessageBuilder::<std::net::Ipv6Addr>::new()
                .destination_prefix(net.network(), net.prefix_len())
                .output_interface(index)
                .protocol(RouteProtocol::Boot);
            if let Some(IpAddr::V6(via)) = via {
                builder = builder.gateway(via);
            }
            builder.build()
        }
    };
    rtm::push(batch, rtm::NEWROUTE, rtm::PUT, &message);
}

/// Looks at the sandbox end until its carrier has been noticed; runs on a thread inside the sandbox.
pub(super) fn wait_until_settled(name: &IfName, within: Duration) -> Result<bool, AttachError> {
    let step = || at(format!("look at {name} in the sandbox"));
    let mut socket = Socket::open(Protocol::Route)?;
    // Bounded by count rather than by the clock: each look takes no time worth counting.
    let looks = within.as_millis() / SETTLE_POLL.as_millis();
    for _ in 0..=looks {
        let link = devices::find(&mut socket, name).map_err(step())?;
        // A pair that was just made has an unknown state, which does not count.
        if link.noticed() {
            // Where another thread is just noticing, it holds the lock that this empty change needs.
            let mut batch = Batch::new();
            let nothing = LinkUnspec::new_with_index(link.index).build();
            rtm::push(&mut batch, rtm::NEWLINK, 0, &nothing);
            socket.submit(&mut batch).map_err(step())?;
            return Ok(true);
        }
        thread::sleep(SETTLE_POLL);
    }
    Ok(false)
}
