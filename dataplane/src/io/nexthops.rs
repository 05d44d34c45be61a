//! Next-hop objects: encoded here, because `netlink-packet-route` has no message for them.
//!
//! `struct nhmsg`: family, scope, protocol, reserved (one octet each), flags (32 bits).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::num::NonZeroU8;

use netlink::attr::Encoder;
use netlink::{Batch, Error, Message, Socket, attr};

use super::devices::{Devices, address};
use super::rtm;
use crate::nexthop::{Nexthop, NexthopId};
use crate::route::{Hop, Protocol};

const NHA_ID: u16 = 1;
const NHA_GROUP: u16 = 2;
const NHA_OIF: u16 = 5;
const NHA_GATEWAY: u16 = 6;
const ONLINK: u32 = 4;
const HEADER: usize = 8;
/// `struct nexthop_grp`: id, weight − 1, high octet of the weight, reserved.
const MEMBER: usize = 8;

/// Our objects, and the numbers in our range that are not ours.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) ours: BTreeMap<NexthopId, Nexthop>,
    pub(crate) taken: BTreeSet<NexthopId>,
}

pub(crate) fn list(socket: &mut Socket, devices: &Devices) -> Result<Found, Error> {
    let listed = socket.dump(
        rtm::GETNEXTHOP,
        |enc| enc.raw(&[0; HEADER]),
        |message| parse(message, devices),
    )?;
    let mut found = Found::default();
    for (id, protocol, nexthop) in listed {
        if !NexthopId::RANGE.contains(&id.0) {
            continue;
        }
        match nexthop {
            Some(nexthop) if protocol == Protocol::LEARNT => {
                found.ours.insert(id, nexthop);
            }
            Some(_) | None => {
                found.taken.insert(id);
            }
        }
    }
    Ok(found)
}

/// `None` when the device of a single next hop is not there.
pub(crate) fn push_put(
    batch: &mut Batch,
    id: NexthopId,
    nexthop: &Nexthop,
    devices: &Devices,
) -> Option<()> {
    match nexthop {
        Nexthop::Single(hop) => {
            let index = devices.index(&hop.device)?;
            batch.push(rtm::NEWNEXTHOP, rtm::PUT, |enc| single(enc, id, hop, index));
        }
        Nexthop::Group(members) => {
            batch.push(rtm::NEWNEXTHOP, rtm::PUT, |enc| group(enc, id, members));
        }
    }
    Some(())
}

pub(crate) fn push_remove(batch: &mut Batch, id: NexthopId) {
    batch.push(rtm::DELNEXTHOP, 0, |enc| {
        enc.raw(&[0; HEADER]);
        enc.put_u32(NHA_ID, id.0);
    });
}

fn header(enc: &mut Encoder, family: u8, flags: u32) {
    let [a, b, c, d] = flags.to_ne_bytes();
    enc.raw(&[family, 0, Protocol::LEARNT.0, 0, a, b, c, d]);
}

fn single(enc: &mut Encoder, id: NexthopId, hop: &Hop, index: u32) {
    let flags = if hop.onlink { ONLINK } else { 0 };
    match hop.gateway {
        IpAddr::V4(gateway) => {
            header(enc, rtm::AF_INET, flags);
            enc.put(NHA_GATEWAY, &gateway.octets());
        }
        IpAddr::V6(gateway) => {
            header(enc, rtm::AF_INET6, flags);
            enc.put(NHA_GATEWAY, &gateway.octets());
        }
    }
    enc.put_u32(NHA_ID, id.0);
    enc.put_u32(NHA_OIF, index);
}

fn group(enc: &mut Encoder, id: NexthopId, members: &BTreeMap<NexthopId, NonZeroU8>) {
    header(enc, 0, 0);
    enc.put_u32(NHA_ID, id.0);
    let mut bytes = Vec::with_capacity(members.len() * MEMBER);
    for (member, weight) in members {
        bytes.extend_from_slice(&member.0.to_ne_bytes());
        bytes.extend_from_slice(&[weight.get() - 1, 0, 0, 0]);
    }
    enc.put(NHA_GROUP, &bytes);
}

/// `None` in third place: an object of a shape we never write.
fn parse(
    message: Message<'_>,
    devices: &Devices,
) -> Option<(NexthopId, Protocol, Option<Nexthop>)> {
    let &[_, _, protocol, _, f0, f1, f2, f3] = message.body.first_chunk::<HEADER>()?;
    let attributes = attr::parse(message.body.get(HEADER..)?);
    let id = NexthopId(attributes.clone().find(NHA_ID)?.u32()?);
    let nexthop = if let Some(members) = attributes.clone().find(NHA_GROUP) {
        parse_group(members.payload)
    } else {
        let gateway = attributes
            .clone()
            .find(NHA_GATEWAY)
            .and_then(|a| address(a.payload));
        let index = attributes.clone().find(NHA_OIF).and_then(|a| a.u32());
        gateway.zip(index).map(|(gateway, index)| {
            Nexthop::Single(Hop {
                gateway,
                device: devices.name(index),
                onlink: u32::from_ne_bytes([f0, f1, f2, f3]) & ONLINK != 0,
            })
        })
    };
    Some((id, Protocol(protocol), nexthop))
}

fn parse_group(payload: &[u8]) -> Option<Nexthop> {
    let mut members = BTreeMap::new();
    let (entries, rest) = payload.as_chunks::<MEMBER>();
    if !rest.is_empty() {
        return None;
    }
    for &[a, b, c, d, weight, ..] in entries {
        let weight = NonZeroU8::new(weight.checked_add(1)?)?;
        members.insert(NexthopId(u32::from_ne_bytes([a, b, c, d])), weight);
    }
    Some(Nexthop::Group(members))
}
