//! Deleting connection tracking entries of an address, so that a new owner does not inherit flows of the old one.
//!
//! An entry concerns an address when it is the source of its original or of its reply direction: the pod opened the connection,
//! or the pod answers it (also behind a Service). The kernel filters and deletes in one request each; one that cannot is listed
//! and the entries are deleted by tuple.

use std::net::IpAddr;
use std::os::fd::AsFd;

use netlink::attr::Encoder;
use netlink::{Batch, Errno, Error, OpenError, Protocol as Family, SharedSocket, Socket, attr};

use super::devices::address;
use super::rtm;

const CT_NEW: u16 = 0x100;
const CT_GET: u16 = 0x101;
const CT_DELETE: u16 = 0x102;
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_ZONE: u16 = 18;
const CTA_FILTER: u16 = 25;
const CTA_FILTER_ORIG_FLAGS: u16 = 1;
const CTA_FILTER_REPLY_FLAGS: u16 = 2;
/// `CTA_FILTER_F_CTA_IP_SRC`: of the tuple, only the source address counts.
const FILTER_IP_SRC: u32 = 1;
const CTA_TUPLE_IP: u16 = 1;
const CTA_IP_V4_SRC: u16 = 1;
const CTA_IP_V6_SRC: u16 = 3;
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
    #[error("delete connection tracking entries: {0}")]
    Kernel(#[from] Error),
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
    let found = socket.dump(
        CT_GET,
        |enc| enc.raw(&[family(wanted), 0, 0, 0]),
        |message| {
            if message.kind != CT_NEW {
                return None;
            }
            let attributes = attr::parse(message.body.get(NFGENMSG..)?);
            let original = attributes.clone().find(CTA_TUPLE_ORIG)?;
            let tuple = match direction {
                Direction::Original => original,
                Direction::Reply => attributes.clone().find(CTA_TUPLE_REPLY)?,
            };
            let zone = attributes
                .clone()
                .find(CTA_ZONE)
                .and_then(|zone| zone.be16());
            (source(&tuple)? == wanted).then(|| (original.payload.to_vec(), zone))
        },
    )?;
    for chunk in found.chunks(CHUNK) {
        let mut batch = Batch::new();
        for (tuple, zone) in chunk {
            batch.push(CT_DELETE, 0, |enc| {
                enc.raw(&[family(wanted), 0, 0, 0]);
                enc.nest(CTA_TUPLE_ORIG, |enc| enc.raw(tuple));
                if let Some(zone) = zone {
                    enc.put_be16(CTA_ZONE, *zone);
                }
            });
        }
        match socket.submit(&mut batch) {
            // Ended by itself meanwhile.
            Err(Error::Rejected(rejected))
                if rejected.failures.iter().all(|f| f.errno == Errno::ENOENT) => {}
            other => other?,
        }
    }
    Ok(())
}

fn source(tuple: &attr::Attribute<'_>) -> Option<IpAddr> {
    let ip = tuple.nested().find(CTA_TUPLE_IP)?;
    let source = ip
        .nested()
        .find(CTA_IP_V4_SRC)
        .filter(|a| a.payload.len() == 4);
    let source = source.or_else(|| {
        ip.nested()
            .find(CTA_IP_V6_SRC)
            .filter(|a| a.payload.len() == 16)
    })?;
    address(source.payload)
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

    const CTA_TUPLE_PROTO: u16 = 2;
    const CTA_PROTO_NUM: u16 = 1;
    const CTA_PROTO_SRC_PORT: u16 = 2;
    const CTA_PROTO_DST_PORT: u16 = 3;
    const CTA_IP_V4_DST: u16 = 2;
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
}
