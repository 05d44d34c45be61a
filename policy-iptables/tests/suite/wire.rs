//! Packets on the wire: forged with right checksums, since connection tracking calls others invalid, and found again by a tag.

use std::net::IpAddr;

use policy_iptables::verdict::{Packet, Payload};

use crate::worlds::Shape;

const MAGIC: [u8; 8] = *b"margay!\x01";

/// Octets in the first fragment: every transport header we write and the tag.
const FIRST_FRAGMENT: usize = 32;

/// The octets of a packet that carries a tag, as they go into a device one by one.
pub(crate) fn forge(packet: &Packet, tag: u32, shape: Shape) -> Vec<Vec<u8>> {
    let mut body = transport(packet, tag, shape);
    match packet.payload {
        Payload::Transport { protocol: 132, .. } => {
            let sum = crc32c(&body).to_le_bytes();
            body[8..12].copy_from_slice(&sum);
        }
        Payload::Transport { protocol, .. } => {
            let at = if protocol == 6 { 16 } else { 6 };
            let sum = pseudo_sum(packet, &body);
            body[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        }
        Payload::Icmp { .. } => {
            let sum = match packet.source {
                IpAddr::V4(_) => fold(&body, 0),
                IpAddr::V6(_) => pseudo_sum(packet, &body),
            };
            body[2..4].copy_from_slice(&sum.to_be_bytes());
        }
        Payload::Other(_) => {}
    }
    match (shape, packet.source) {
        (Shape::Plain, _) => vec![whole(packet, &[], packet.protocol(), &body)],
        (Shape::Options, IpAddr::V4(_)) => vec![whole(packet, &[1, 1, 1, 1], 0, &body)],
        (Shape::Options, IpAddr::V6(_)) => {
            // Destination options of six octets of padding, once in front and once behind.
            let mut all = vec![60, 0, 1, 4, 0, 0, 0, 0];
            all.extend([packet.protocol(), 0, 1, 4, 0, 0, 0, 0]);
            all.extend(body);
            vec![whole(packet, &[], 60, &all)]
        }
        (Shape::Fragments, _) => {
            let (first, second) = body.split_at(FIRST_FRAGMENT);
            vec![
                fragment(packet, tag, 0, true, first),
                fragment(packet, tag, FIRST_FRAGMENT, false, second),
            ]
        }
    }
}

/// A packet in one piece. `next` is the first header behind an IPv6 one.
fn whole(packet: &Packet, options: &[u8], next: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = header(packet, options, next, 0, body.len());
    bytes.extend(body);
    bytes
}

fn fragment(packet: &Packet, tag: u32, offset: usize, more: bool, body: &[u8]) -> Vec<u8> {
    let offset = u16::try_from(offset).unwrap();
    match packet.source {
        IpAddr::V4(_) => {
            let [_, _, id @ ..] = tag.to_be_bytes();
            let more_fragments = if more { 0x2000 } else { 0 };
            let place = (offset / 8) | more_fragments;
            let identity = (u32::from(u16::from_be_bytes(id)) << 16) | u32::from(place);
            let mut bytes = header(packet, &[], 0, identity, body.len());
            bytes.extend(body);
            bytes
        }
        IpAddr::V6(_) => {
            let mut all = vec![packet.protocol(), 0];
            all.extend((offset | u16::from(more)).to_be_bytes());
            all.extend(tag.to_be_bytes());
            all.extend(body);
            whole(packet, &[], 44, &all)
        }
    }
}

/// Tag of a packet that is one of ours, whole and not quoted by an error message.
pub(crate) fn tag(bytes: &[u8]) -> Option<u32> {
    let at = bytes
        .windows(MAGIC.len())
        .position(|window| window == MAGIC)?;
    let tag = bytes.get(at + MAGIC.len()..at + MAGIC.len() + 4)?;
    Some(u32::from_be_bytes(tag.try_into().unwrap()))
}

/// Source and destination of an IP packet.
pub(crate) fn ends(bytes: &[u8]) -> Option<(IpAddr, IpAddr)> {
    let v4 = |at: usize| -> Option<IpAddr> {
        let octets: [u8; 4] = bytes.get(at..at + 4)?.try_into().ok()?;
        Some(octets.into())
    };
    let v6 = |at: usize| -> Option<IpAddr> {
        let octets: [u8; 16] = bytes.get(at..at + 16)?.try_into().ok()?;
        Some(octets.into())
    };
    match bytes.first()? >> 4 {
        4 => Some((v4(12)?, v4(16)?)),
        6 => Some((v6(8)?, v6(24)?)),
        _ => None,
    }
}

fn tagged(tag: u32) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend(tag.to_be_bytes());
    bytes
}

fn transport(packet: &Packet, tag: u32, shape: Shape) -> Vec<u8> {
    let mut bytes = Vec::new();
    let content = || {
        let mut content = tagged(tag);
        if shape == Shape::Fragments {
            content.extend([0; 44]);
        }
        content
    };
    match packet.payload {
        Payload::Transport {
            protocol,
            source,
            destination,
        } => {
            bytes.extend(source.to_be_bytes());
            bytes.extend(destination.to_be_bytes());
            match protocol {
                6 => {
                    // Sequence, acknowledgement, header of 5 words, SYN, window, checksum, urgent.
                    bytes.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, 0x02, 0x10, 0, 0, 0, 0, 0]);
                    bytes.extend(content());
                }
                17 => {
                    let length = u16::try_from(8 + content().len()).unwrap();
                    bytes.extend(length.to_be_bytes());
                    bytes.extend([0, 0]);
                    bytes.extend(content());
                }
                _ => sctp_init(&mut bytes, tag),
            }
        }
        Payload::Icmp { kind, code } => {
            let [_, _, id @ ..] = tag.to_be_bytes();
            bytes.extend([kind, code, 0, 0]);
            bytes.extend(id);
            bytes.extend([0, 1]);
            bytes.extend(content());
        }
        Payload::Other(_) => {
            bytes.extend([0; 4]);
            bytes.extend(content());
        }
    }
    bytes
}

/// Verification tag 0, checksum, one INIT chunk whose only parameter carries our tag.
fn sctp_init(bytes: &mut Vec<u8>, tag: u32) {
    let content = tagged(tag);
    let parameter = u16::try_from(4 + content.len()).unwrap();
    bytes.extend([0; 8]);
    bytes.extend([1, 0]);
    bytes.extend((20 + parameter).to_be_bytes());
    bytes.extend((tag | 0x8000_0000).to_be_bytes());
    bytes.extend([0, 1, 0, 0, 0, 10, 0, 10, 0, 0, 0, 1]);
    // A type of which unknown ones are skipped.
    bytes.extend([0x80, 0x77]);
    bytes.extend(parameter.to_be_bytes());
    bytes.extend(content);
}

/// An IP header. `identity` is the word of IPv4 that says which packet a fragment is of, and where it stands.
fn header(packet: &Packet, options: &[u8], next: u8, identity: u32, length: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    match (packet.source, packet.destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let octets = 20 + options.len();
            let total = u16::try_from(octets + length).unwrap();
            bytes.extend([0x40 | u8::try_from(octets / 4).unwrap(), 0]);
            bytes.extend(total.to_be_bytes());
            bytes.extend(identity.to_be_bytes());
            bytes.extend([64, packet.protocol(), 0, 0]);
            bytes.extend(source.octets());
            bytes.extend(destination.octets());
            bytes.extend(options);
            let sum = fold(&bytes, 0);
            bytes[10..12].copy_from_slice(&sum.to_be_bytes());
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            bytes.extend([0x60, 0, 0, 0]);
            bytes.extend(u16::try_from(length).unwrap().to_be_bytes());
            bytes.extend([next, 64]);
            bytes.extend(source.octets());
            bytes.extend(destination.octets());
        }
        mixed => panic!("{mixed:?}"),
    }
    bytes
}

fn pseudo_sum(packet: &Packet, body: &[u8]) -> u16 {
    let mut pseudo = Vec::new();
    for address in [packet.source, packet.destination] {
        match address {
            IpAddr::V4(address) => pseudo.extend(address.octets()),
            IpAddr::V6(address) => pseudo.extend(address.octets()),
        }
    }
    let mut start = u32::from(packet.protocol()) + u32::try_from(body.len()).unwrap();
    for pair in pseudo.chunks(2) {
        start += u32::from(u16::from_be_bytes([pair[0], pair[1]]));
    }
    fold(body, start)
}

fn fold(bytes: &[u8], start: u32) -> u16 {
    let mut sum = start;
    for pair in bytes.chunks(2) {
        sum += u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap()
}

fn crc32c(bytes: &[u8]) -> u32 {
    let mut crc = !0_u32;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 {
                (crc >> 1) ^ 0x82f6_3b78
            } else {
                crc >> 1
            };
        }
    }
    !crc
}
