//! Packets as a link carries them: what is around a packet of a pod, if anything. Pure.
//!
//! ```text
//!  Ethernet | IP | TCP or UDP                                           plain
//!  Ethernet | IP | UDP 4789 | VXLAN | Ethernet | IP | TCP or UDP        VXLAN
//!  Ethernet | IPv4 (protocol 4) | IPv4 | TCP or UDP                     IP-in-IP
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::{Context, Result, bail};

/// The port of VXLAN.
pub const VXLAN_PORT: u16 = 4789;
const ETHERNET: usize = 14;
/// Protocol numbers of RFC 5237's registry.
const IPIP: u8 = 4;
const TCP: u8 = 6;
const UDP: u8 = 17;
/// IPv6 extension headers that may stand before the payload.
const HOP_BY_HOP: u8 = 0;
const FRAGMENT: u8 = 44;
const DESTINATION: u8 = 60;

/// What is around a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Wrap {
    /// Nothing: it travels as it was sent.
    Plain,
    /// VXLAN.
    Vxlan,
    /// IP-in-IP.
    Ipip,
}

/// A TCP segment or UDP datagram, or a fragment of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// What is around it.
    pub wrap: Wrap,
    /// Addresses of the outer header; of a plain packet its own.
    pub outer: (IpAddr, IpAddr),
    /// Where the packet comes from; port 0 in fragments after the first.
    pub source: SocketAddr,
    /// Where it goes.
    pub destination: SocketAddr,
    /// 6 or 17.
    pub protocol: u8,
    /// Octets of the outermost IP packet.
    pub size: usize,
}

/// Reads a file of tcpdump: the packets it understands, in their order. What carries neither TCP nor UDP is left out.
///
/// # Errors
/// It is no such file, or of a machine of the other byte order.
pub fn read_pcap(file: &[u8]) -> Result<Vec<Packet>> {
    const HEADER: usize = 24;
    let (header, mut rest) = file
        .split_at_checked(HEADER)
        .context("too short for a capture")?;
    let magic = header.first_chunk().map(|bytes| u32::from_le_bytes(*bytes));
    if !matches!(magic, Some(0xa1b2_c3d4 | 0xa1b2_3c4d)) {
        bail!("no capture of this machine: magic {magic:x?}");
    }
    let mut packets = Vec::new();
    // A record: seconds, fraction, octets kept, octets there were. The last may be cut off where tcpdump was ended.
    while let Some((record, after)) = rest.split_at_checked(16) {
        let kept = record
            .get(8..12)
            .and_then(|bytes| bytes.first_chunk())
            .map_or(0, |bytes| u32::from_le_bytes(*bytes));
        let kept = usize::try_from(kept).unwrap_or(usize::MAX);
        let Some((frame, after)) = after.split_at_checked(kept) else {
            break;
        };
        packets.extend(parse(frame));
        rest = after;
    }
    Ok(packets)
}

/// Reads an Ethernet frame, of which the end may be missing.
pub fn parse(frame: &[u8]) -> Option<Packet> {
    let outer = ip(frame.get(ETHERNET..)?)?;
    let (wrap, inner) = match outer.protocol {
        IPIP => (Wrap::Ipip, ip(outer.payload)?),
        UDP if port(outer.payload, 2) == Some(VXLAN_PORT) && !outer.later_fragment => {
            // UDP and VXLAN headers have eight octets each.
            let frame = outer.payload.get(16..)?;
            (Wrap::Vxlan, ip(frame.get(ETHERNET..)?)?)
        }
        _ => (Wrap::Plain, outer),
    };
    if !matches!(inner.protocol, TCP | UDP) {
        return None;
    }
    let end = |address, place| {
        let port = if inner.later_fragment {
            Some(0)
        } else {
            port(inner.payload, place)
        };
        Some(SocketAddr::new(address, port?))
    };
    Some(Packet {
        wrap,
        outer: (outer.source, outer.destination),
        source: end(inner.source, 0)?,
        destination: end(inner.destination, 2)?,
        protocol: inner.protocol,
        size: outer.size,
    })
}

/// An IP packet's header, as far as it matters.
#[derive(Clone, Copy)]
struct Ip<'a> {
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    later_fragment: bool,
    payload: &'a [u8],
    size: usize,
}

fn ip(packet: &[u8]) -> Option<Ip<'_>> {
    match packet.first()? >> 4 {
        4 => ipv4(packet),
        6 => ipv6(packet),
        _ => None,
    }
}

fn ipv4(packet: &[u8]) -> Option<Ip<'_>> {
    let words = usize::from(packet.first()? & 0x0f);
    let address = |place: usize| {
        let octets: [u8; 4] = *packet.get(place..)?.first_chunk()?;
        Some(IpAddr::from(Ipv4Addr::from(octets)))
    };
    Some(Ip {
        source: address(12)?,
        destination: address(16)?,
        protocol: *packet.get(9)?,
        later_fragment: number(packet, 6)? & 0x1fff != 0,
        payload: packet.get(words * 4..)?,
        size: usize::from(number(packet, 2)?),
    })
}

fn ipv6(packet: &[u8]) -> Option<Ip<'_>> {
    const HEADER: usize = 40;
    let address = |place: usize| {
        let octets: [u8; 16] = *packet.get(place..)?.first_chunk()?;
        Some(IpAddr::from(Ipv6Addr::from(octets)))
    };
    let mut protocol = *packet.get(6)?;
    let mut payload = packet.get(HEADER..)?;
    let mut later_fragment = false;
    while matches!(protocol, HOP_BY_HOP | FRAGMENT | DESTINATION) {
        let length = if protocol == FRAGMENT {
            later_fragment = number(payload, 2)? & 0xfff8 != 0;
            8
        } else {
            (usize::from(*payload.get(1)?) + 1) * 8
        };
        protocol = *payload.first()?;
        payload = payload.get(length..)?;
    }
    Some(Ip {
        source: address(8)?,
        destination: address(24)?,
        protocol,
        later_fragment,
        payload,
        size: usize::from(number(packet, 4)?) + HEADER,
    })
}

/// The port at a place of a TCP or UDP header.
fn port(payload: &[u8], place: usize) -> Option<u16> {
    number(payload, place)
}

fn number(octets: &[u8], place: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*octets.get(place..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ethernet(packet: Vec<u8>) -> Vec<u8> {
        [vec![0; ETHERNET], packet].concat()
    }

    fn v4(source: [u8; 4], destination: [u8; 4], protocol: u8, payload: &[u8]) -> Vec<u8> {
        let length = u16::try_from(20 + payload.len()).unwrap().to_be_bytes();
        let mut header = vec![
            0x45, 0, length[0], length[1], 0, 0, 0, 0, 64, protocol, 0, 0,
        ];
        header.extend(source);
        header.extend(destination);
        [header, payload.to_vec()].concat()
    }

    fn v6(source: &str, destination: &str, protocol: u8, payload: &[u8]) -> Vec<u8> {
        let length = u16::try_from(payload.len()).unwrap().to_be_bytes();
        let mut header = vec![0x60, 0, 0, 0, length[0], length[1], protocol, 64];
        for address in [source, destination] {
            header.extend(address.parse::<Ipv6Addr>().unwrap().octets());
        }
        [header, payload.to_vec()].concat()
    }

    fn ports(source: u16, destination: u16) -> Vec<u8> {
        let mut header = [source.to_be_bytes(), destination.to_be_bytes()].concat();
        header.extend([0; 4]);
        header
    }

    fn vxlan(frame: Vec<u8>) -> Vec<u8> {
        [
            ports(50_000, VXLAN_PORT),
            vec![8, 0, 0, 0, 0, 16, 0, 0],
            frame,
        ]
        .concat()
    }

    #[test]
    fn what_is_around_a_packet_is_told() {
        let pod = v4([10, 244, 0, 1], [10, 244, 1, 1], TCP, &ports(40_000, 80));
        let (a, b) = ([10, 1, 0, 11], [10, 1, 0, 12]);
        let pod6 = v6("fd00:244::1", "fd00:244::40", TCP, &ports(40_000, 80));
        let cases = [
            (ethernet(pod.clone()), Wrap::Plain, "10.244.1.1:80", 28),
            (
                ethernet(v4(a, b, UDP, &vxlan(ethernet(pod.clone())))),
                Wrap::Vxlan,
                "10.244.1.1:80",
                78,
            ),
            (
                ethernet(v4(a, b, IPIP, &pod)),
                Wrap::Ipip,
                "10.244.1.1:80",
                48,
            ),
            (ethernet(pod6.clone()), Wrap::Plain, "[fd00:244::40]:80", 48),
            (
                ethernet(v6("fd01::11", "fd01::12", UDP, &vxlan(ethernet(pod6)))),
                Wrap::Vxlan,
                "[fd00:244::40]:80",
                118,
            ),
        ];
        for (frame, wrap, destination, size) in cases {
            let packet = parse(&frame).unwrap();
            let destination: SocketAddr = destination.parse().unwrap();
            assert_eq!(
                (packet.wrap, packet.destination, packet.size),
                (wrap, destination, size)
            );
            for cut in 0..ETHERNET + 20 {
                assert_eq!(parse(&frame[..cut]), None, "cut to {cut} octets");
            }
        }
    }

    #[test]
    fn later_fragments_have_no_ports() {
        let mut packet = v4([10, 0, 0, 1], [10, 0, 0, 2], UDP, &ports(1, 2));
        packet[7] = 1;
        let parsed = parse(&ethernet(packet)).unwrap();
        assert_eq!(parsed.destination.port(), 0);
    }

    #[test]
    fn a_capture_that_was_cut_off_gives_its_whole_packets() {
        let frame = ethernet(v4([10, 0, 0, 1], [10, 0, 0, 2], TCP, &ports(1, 2)));
        let length = u32::try_from(frame.len()).unwrap().to_le_bytes();
        let record = [&[0; 8][..], &length, &length, &frame].concat();
        let mut file = 0xa1b2_c3d4_u32.to_le_bytes().to_vec();
        file.extend([0; 20]);
        file.extend(&record);
        file.extend(&record[..20]);
        assert_eq!(read_pcap(&file).unwrap().len(), 1);
        assert!(read_pcap(&[0; 24]).is_err());
    }
}
