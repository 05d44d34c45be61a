//! Deleting connection tracking entries of an address, so that a new owner does not inherit flows of the old one.
//!
//! An entry concerns an address when it is the source of its original or of its reply direction: the pod opened the connection,
//! or the pod answers it (also behind a Service). The kernel filters and deletes in one request each; one that cannot is listed
//! and the entries are deleted by tuple.
//!
//! Live flows are also listed, for whoever judges them, and marked as cut or mended.

use std::net::IpAddr;
use std::os::fd::AsFd;

use model::flow::{Detail, Flow, Tuple};
use netlink::attr::Encoder;
use netlink::{Batch, Errno, Error, OpenError, Protocol as Family, SharedSocket, Socket, attr};

use super::devices::address;
use super::rtm;

const CT_NEW: u16 = 0x100;
const CT_GET: u16 = 0x101;
const CT_DELETE: u16 = 0x102;
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_MARK: u16 = 8;
const CTA_ZONE: u16 = 18;
const CTA_MARK_MASK: u16 = 21;
const CTA_FILTER: u16 = 25;
const CTA_FILTER_ORIG_FLAGS: u16 = 1;
const CTA_FILTER_REPLY_FLAGS: u16 = 2;
/// `CTA_FILTER_F_CTA_IP_SRC`: of the tuple, only the source address counts.
const FILTER_IP_SRC: u32 = 1;
const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_IP_V4_SRC: u16 = 1;
const CTA_IP_V4_DST: u16 = 2;
const CTA_IP_V6_SRC: u16 = 3;
const CTA_IP_V6_DST: u16 = 4;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_SRC_PORT: u16 = 2;
const CTA_PROTO_DST_PORT: u16 = 3;
const CTA_PROTO_ICMP_TYPE: u16 = 5;
const CTA_PROTO_ICMP_CODE: u16 = 6;
const CTA_PROTO_ICMPV6_TYPE: u16 = 8;
const CTA_PROTO_ICMPV6_CODE: u16 = 9;
const NFGENMSG: usize = 4;
/// Deletions per send.
const CHUNK: usize = 256;

/// Why entries could not be deleted.
#[derive(Debug, thiserror::Error)]
pub enum ConntrackError {
    /// No socket.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The kernel refused.
    #[error("connection tracking: {0}")]
    Kernel(#[from] Error),
}

/// Names one entry to the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tracked {
    family: u8,
    /// The original tuple as the kernel gave it.
    tuple: Vec<u8>,
    zone: Option<u16>,
}

/// Which half of an entry holds the address as source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    Original,
    Reply,
}

/// Deletes entries. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Conntrack {
    socket: SharedSocket,
}

impl Conntrack {
    /// Works in the calling thread's namespace.
    ///
    /// # Errors
    /// [`ConntrackError::Open`] when the kernel has no netfilter netlink.
    pub fn open() -> Result<Self, ConntrackError> {
        let socket = Socket::open(Family::Netfilter)?;
        Ok(Self {
            socket: SharedSocket::new(socket),
        })
    }

    /// The same inside another namespace.
    ///
    /// # Errors
    /// As [`Conntrack::open`], and when the namespace cannot be entered.
    pub fn open_in(namespace: impl AsFd) -> Result<Self, ConntrackError> {
        let socket = Socket::open_in(namespace, Family::Netfilter)?;
        Ok(Self {
            socket: SharedSocket::new(socket),
        })
    }

    /// Deletes every entry whose original or reply source is one of the addresses.
    ///
    /// # Errors
    /// [`ConntrackError::Kernel`]; entries of addresses before the failing one are gone.
    pub async fn forget(&self, addresses: Vec<IpAddr>) -> Result<(), ConntrackError> {
        self.socket
            .with(move |socket| {
                for address in addresses {
                    for direction in [Direction::Original, Direction::Reply] {
                        forget(socket, address, direction)?;
                    }
                }
                Ok(())
            })
            .await
    }

    /// Lists all flows of both families and keeps those that `pick` says something about.
    ///
    /// # Errors
    /// [`ConntrackError::Kernel`].
    pub async fn select<T: Send + 'static>(
        &self,
        mut pick: impl FnMut(&Flow) -> Option<T> + Send + 'static,
    ) -> Result<Vec<(Tracked, T)>, ConntrackError> {
        self.socket
            .with(move |socket| {
                let mut found = Vec::new();
                for family in [rtm::AF_INET, rtm::AF_INET6] {
                    found.extend(socket.dump(
                        CT_GET,
                        |enc| enc.raw(&[family, 0, 0, 0]),
                        |message| {
                            let (tracked, flow) = entry(family, message.kind, message.body)?;
                            pick(&flow).map(|said| (tracked, said))
                        },
                    )?);
                }
                Ok(found)
            })
            .await
    }

    /// Sets the bits of `mask` in the marks of these flows to those of `value`; flows that ended meanwhile are passed over.
    ///
    /// # Errors
    /// [`ConntrackError::Kernel`]; flows of earlier chunks are marked.
    pub async fn mark(
        &self,
        flows: Vec<Tracked>,
        mask: u32,
        value: u32,
    ) -> Result<(), ConntrackError> {
        self.socket
            .with(move |socket| {
                submit_each(socket, CT_NEW, &flows, |enc| {
                    enc.put_be32(CTA_MARK, value & mask);
                    enc.put_be32(CTA_MARK_MASK, mask);
                })
            })
            .await
    }
}

/// Sends one message per entry, in chunks; entries that are gone already do not count as refused.
fn submit_each(
    socket: &mut Socket,
    kind: u16,
    entries: &[Tracked],
    more: impl Fn(&mut Encoder),
) -> Result<(), ConntrackError> {
    for chunk in entries.chunks(CHUNK) {
        let mut batch = Batch::new();
        for entry in chunk {
            batch.push(kind, 0, |enc| {
                enc.raw(&[entry.family, 0, 0, 0]);
                enc.nest(CTA_TUPLE_ORIG, |enc| enc.raw(&entry.tuple));
                if let Some(zone) = entry.zone {
                    enc.put_be16(CTA_ZONE, zone);
                }
                more(enc);
            });
        }
        match socket.submit(&mut batch) {
            Err(Error::Rejected(rejected))
                if rejected.failures.iter().all(|f| f.errno == Errno::ENOENT) => {}
            other => other?,
        }
    }
    Ok(())
}

/// Reads one entry of a listing.
fn entry(family: u8, kind: u16, body: &[u8]) -> Option<(Tracked, Flow)> {
    if kind != CT_NEW {
        return None;
    }
    let attributes = attr::parse(body.get(NFGENMSG..)?);
    let find = |kind| attributes.clone().find(kind);
    let (original, reply) = (find(CTA_TUPLE_ORIG)?, find(CTA_TUPLE_REPLY)?);
    let flow = Flow {
        original: tuple(&original)?,
        reply: tuple(&reply)?,
        mark: find(CTA_MARK).and_then(|mark| mark.be32()).unwrap_or(0),
    };
    let tracked = Tracked {
        family,
        tuple: original.payload.to_vec(),
        zone: find(CTA_ZONE).and_then(|zone| zone.be16()),
    };
    Some((tracked, flow))
}

fn tuple(tuple: &attr::Attribute<'_>) -> Option<Tuple> {
    let ip = tuple.nested().find(CTA_TUPLE_IP)?.nested();
    let end = |v4, v6| {
        let found = ip.clone().find(v4).or_else(|| ip.clone().find(v6))?;
        address(found.payload)
    };
    let protocol = tuple.nested().find(CTA_TUPLE_PROTO)?.nested();
    let octet = |kind| protocol.clone().find(kind).and_then(|octet| octet.u8());
    let port = |kind| protocol.clone().find(kind).and_then(|port| port.be16());
    let message = |kind, code| octet(kind).zip(octet(code));
    let icmp = message(CTA_PROTO_ICMP_TYPE, CTA_PROTO_ICMP_CODE)
        .or_else(|| message(CTA_PROTO_ICMPV6_TYPE, CTA_PROTO_ICMPV6_CODE));
    let detail = match (icmp, port(CTA_PROTO_SRC_PORT), port(CTA_PROTO_DST_PORT)) {
        (Some((kind, code)), _, _) => Detail::Icmp { kind, code },
        (None, Some(source), Some(destination)) => Detail::Ports {
            source,
            destination,
        },
        (None, _, _) => Detail::None,
    };
    Some(Tuple {
        source: end(CTA_IP_V4_SRC, CTA_IP_V6_SRC)?,
        destination: end(CTA_IP_V4_DST, CTA_IP_V6_DST)?,
        protocol: octet(CTA_PROTO_NUM)?,
        detail,
    })
}

fn forget(
    socket: &mut Socket,
    address: IpAddr,
    direction: Direction,
) -> Result<(), ConntrackError> {
    let mut batch = Batch::new();
    batch.push(CT_DELETE, 0, |enc| filter(enc, address, direction));
    match socket.submit(&mut batch) {
        Ok(()) => Ok(()),
        Err(error) if error.errno() == Some(Errno::ENOENT) => Ok(()),
        // A kernel that takes the half tuple for a whole one, or does not know filters.
        Err(error) if matches!(error.errno(), Some(Errno::EINVAL | Errno::EOPNOTSUPP)) => {
            forget_one_by_one(socket, address, direction)
        }
        Err(error) => Err(error.into()),
    }
}

/// The tuple is always there, so a kernel that ignores the filter refuses the request rather than deleting everything.
fn filter(enc: &mut Encoder, address: IpAddr, direction: Direction) {
    enc.raw(&[family(address), 1, 0, 0]);
    let (tuple, original, reply) = match direction {
        Direction::Original => (CTA_TUPLE_ORIG, FILTER_IP_SRC, 0),
        Direction::Reply => (CTA_TUPLE_REPLY, 0, FILTER_IP_SRC),
    };
    enc.nest(tuple, |enc| {
        enc.nest(CTA_TUPLE_IP, |enc| match address {
            IpAddr::V4(v4) => enc.put(CTA_IP_V4_SRC, &v4.octets()),
            IpAddr::V6(v6) => enc.put(CTA_IP_V6_SRC, &v6.octets()),
        });
    });
    enc.nest(CTA_FILTER, |enc| {
        enc.put_u32(CTA_FILTER_ORIG_FLAGS, original);
        enc.put_u32(CTA_FILTER_REPLY_FLAGS, reply);
    });
}

/// Lists, picks, and deletes by the original tuple.
fn forget_one_by_one(
    socket: &mut Socket,
    wanted: IpAddr,
    direction: Direction,
) -> Result<(), ConntrackError> {
    let family = family(wanted);
    let found = socket.dump(
        CT_GET,
        |enc| enc.raw(&[family, 0, 0, 0]),
        |message| {
            let (tracked, flow) = entry(family, message.kind, message.body)?;
            let tuple = match direction {
                Direction::Original => flow.original,
                Direction::Reply => flow.reply,
            };
            (tuple.source == wanted).then_some(tracked)
        },
    )?;
    submit_each(socket, CT_DELETE, &found, |_| {})
}

fn family(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => rtm::AF_INET,
        IpAddr::V6(_) => rtm::AF_INET6,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use netlink::netns;

    const CTA_TIMEOUT: u16 = 7;
    const UDP: u8 = 17;

    fn tuple(enc: &mut Encoder, kind: u16, from: [u8; 4], to: [u8; 4]) {
        enc.nest(kind, |enc| {
            enc.nest(CTA_TUPLE_IP, |enc| {
                enc.put(CTA_IP_V4_SRC, &from);
                enc.put(CTA_IP_V4_DST, &to);
            });
            enc.nest(CTA_TUPLE_PROTO, |enc| {
                enc.put_u8(CTA_PROTO_NUM, UDP);
                enc.put_be16(CTA_PROTO_SRC_PORT, 7);
                enc.put_be16(CTA_PROTO_DST_PORT, 7);
            });
        });
    }

    fn add(socket: &mut Socket, from: [u8; 4], to: [u8; 4]) {
        let mut batch = Batch::new();
        let flags = netlink::flags::CREATE | netlink::flags::EXCL;
        batch.push(CT_NEW, flags, |enc| {
            enc.raw(&[rtm::AF_INET, 0, 0, 0]);
            tuple(enc, CTA_TUPLE_ORIG, from, to);
            tuple(enc, CTA_TUPLE_REPLY, to, from);
            enc.put_be32(CTA_TIMEOUT, 60);
        });
        socket.submit(&mut batch).unwrap();
    }

    fn count(socket: &mut Socket) -> usize {
        let all = socket.dump(
            CT_GET,
            |enc| enc.raw(&[rtm::AF_INET, 0, 0, 0]),
            |_| Some(()),
        );
        all.unwrap().len()
    }

    /// What a kernel without filters takes; one that has them never comes here by itself.
    #[test]
    fn entries_are_also_found_and_deleted_one_by_one() {
        let Ok(namespace) = netns::create() else {
            println!("skipped: making a network namespace needs root");
            return;
        };
        let mut socket = Socket::open_in(namespace, Family::Netfilter).unwrap();
        let [a, b, c, d] = [1, 2, 3, 4].map(|n| [10, 0, 0, n]);
        for (from, to) in [(a, b), (b, c), (c, a), (b, d)] {
            add(&mut socket, from, to);
        }
        forget_one_by_one(&mut socket, a.into(), Direction::Original).unwrap();
        assert_eq!(count(&mut socket), 3);
        forget_one_by_one(&mut socket, a.into(), Direction::Reply).unwrap();
        assert_eq!(count(&mut socket), 2);
        forget_one_by_one(&mut socket, [10, 9, 9, 9].into(), Direction::Reply).unwrap();
        assert_eq!(count(&mut socket), 2);
    }

    #[tokio::test]
    async fn flows_are_listed_marked_and_mended() {
        let Ok(namespace) = netns::create() else {
            println!("skipped: making a network namespace needs root");
            return;
        };
        let mut socket = Socket::open_in(&namespace, Family::Netfilter).unwrap();
        let [a, b, c] = [1, 2, 3].map(|n| [10, 0, 0, n]);
        add(&mut socket, a, b);
        add(&mut socket, b, c);
        let conntrack = Conntrack::open_in(&namespace).unwrap();
        let of = |source: [u8; 4]| {
            move |flow: &Flow| (flow.original.source == IpAddr::from(source)).then_some(*flow)
        };
        let found = conntrack.select(of(a)).await.unwrap();
        let [(tracked, flow)] = found.as_slice() else {
            panic!("{found:?}");
        };
        let detail = Detail::Ports {
            source: 7,
            destination: 7,
        };
        let expected = Tuple {
            source: a.into(),
            destination: b.into(),
            protocol: UDP,
            detail,
        };
        assert_eq!((flow.original, flow.mark), (expected, 0));
        assert_eq!(flow.reply.source, IpAddr::from(b));

        let marks = async || {
            let mut all = conntrack.select(|flow| Some(flow.mark)).await.unwrap();
            all.sort_by_key(|(_, mark)| *mark);
            all.into_iter().map(|(_, mark)| mark).collect::<Vec<_>>()
        };
        conntrack
            .mark(vec![tracked.clone()], 0xff, 0x05)
            .await
            .unwrap();
        conntrack
            .mark(vec![tracked.clone()], 0x100, 0x100)
            .await
            .unwrap();
        assert_eq!(marks().await, [0, 0x105]);
        conntrack
            .mark(vec![tracked.clone()], 0x100, 0)
            .await
            .unwrap();
        assert_eq!(marks().await, [0, 0x05]);
        // One that ended meanwhile is no error, and does not come back.
        conntrack.forget(vec![a.into()]).await.unwrap();
        conntrack
            .mark(vec![tracked.clone()], 0x100, 0x100)
            .await
            .unwrap();
        assert_eq!(marks().await, [0]);
    }
}
