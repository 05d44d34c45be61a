//! A namespace with TUN devices for pods: what is written to one comes in by it, what the kernel sends out by it is read from it.
//! Packets to the host are seen by raw sockets, which stand behind the input hook.
#![expect(
    unsafe_code,
    reason = "TUN devices are opened by ioctl, raw sockets by hand"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::process::Command;

use netlink::attr::Encoder;
use netlink::{Batch, Protocol, Socket};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{AddressFamily, SockFlag};
use policy_iptables::verdict::{Device, Packet, Payload};

use crate::wire;
use crate::worlds::{self, Shape, Site};

fn ip(arguments: &str) {
    let output = Command::new("ip")
        .args(arguments.split(' '))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {arguments}: {text}");
}

fn sysctl(key: &str, value: &str) {
    std::fs::write(format!("/proc/sys/net/{key}"), value).unwrap();
}

/// A TUN device: whole IP packets without a header of its own.
fn tun(name: &str) -> (OwnedFd, Device) {
    #[repr(C)]
    struct Request {
        name: [u8; 16],
        flags: u16,
        rest: [u8; 22],
    }
    const TUNSETIFF: libc::c_ulong = 0x4004_54ca;
    const IFF_TUN: u16 = 1;
    const IFF_NO_PI: u16 = 0x1000;
    let file = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/net/tun")
        .unwrap();
    let fd = OwnedFd::from(file);
    let mut request = Request {
        name: [0; 16],
        flags: IFF_TUN | IFF_NO_PI,
        rest: [0; 22],
    };
    request.name[..name.len()].copy_from_slice(name.as_bytes());
    // SAFETY: the descriptor is open and the request is as long as `struct ifreq`, which the kernel reads and writes.
    let done = unsafe { libc::ioctl(fd.as_raw_fd(), TUNSETIFF, &raw mut request) };
    assert_eq!(done, 0, "TUNSETIFF {name}");
    // SAFETY: the descriptor is open.
    let done = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) };
    assert_eq!(done, 0);
    ip(&format!("link set {name} up"));
    let index = nix::net::if_::if_nametoindex(name).unwrap();
    (
        fd,
        Device {
            index,
            name: name.into(),
        },
    )
}

/// A socket that sees what is delivered to this host.
fn raw(family: AddressFamily, protocol: i32) -> OwnedFd {
    let family = if family == AddressFamily::Inet {
        libc::AF_INET
    } else {
        libc::AF_INET6
    };
    let kind = libc::SOCK_RAW | SockFlag::SOCK_NONBLOCK.bits();
    // SAFETY: no pointers; the result is checked before it is owned.
    let fd = unsafe { libc::socket(family, kind, protocol) };
    assert!(fd >= 0, "raw socket {protocol}");
    // SAFETY: just opened, owned by nobody else.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// Header and original tuple of a flow, for the kernel.
fn flow(enc: &mut Encoder, packet: &Packet) {
    let (family, source, destination) = match (packet.source, packet.destination) {
        (IpAddr::V4(a), IpAddr::V4(b)) => (2, a.octets().to_vec(), b.octets().to_vec()),
        (IpAddr::V6(a), IpAddr::V6(b)) => (10, a.octets().to_vec(), b.octets().to_vec()),
        mixed => panic!("{mixed:?}"),
    };
    let Payload::Transport {
        protocol,
        source: from,
        destination: to,
    } = packet.payload
    else {
        panic!("{packet:?} has no ports");
    };
    let first = if family == 2 { 1 } else { 3 };
    enc.raw(&[family, 0, 0, 0]);
    enc.nest(1, |enc| {
        enc.nest(1, |enc| {
            enc.put(first, &source);
            enc.put(first + 1, &destination);
        });
        enc.nest(2, |enc| {
            enc.put_u8(1, protocol);
            enc.put_be16(2, from);
            enc.put_be16(3, to);
        });
    });
}

/// Where a packet arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Place {
    Device(u32),
    Host,
}

pub(crate) struct Bench {
    pub(crate) site: Site,
    /// Index of a device → its descriptor.
    devices: BTreeMap<u32, OwnedFd>,
    ears: Vec<OwnedFd>,
    conntrack: Socket,
}

impl Bench {
    /// Opens devices for this many pods and routes their addresses.
    pub(crate) fn new(pods: usize) -> Self {
        sysctl("ipv4/conf/all/rp_filter", "0");
        sysctl("ipv4/conf/default/rp_filter", "0");
        sysctl("ipv4/conf/default/route_localnet", "1");
        sysctl("ipv4/ip_forward", "1");
        sysctl("ipv6/conf/all/forwarding", "1");
        ip("link set lo up");
        let mut devices = BTreeMap::new();
        let mut open = |name: &str| {
            let (fd, device) = tun(name);
            devices.insert(device.index, fd);
            device
        };
        let site = Site {
            pods: (0..pods).map(|n| open(&format!("cali{n}"))).collect(),
            unknown: open("caliunknown"),
            outside: open("ext0"),
        };
        ip("addr add 192.0.2.1/24 dev ext0");
        ip("-6 addr add 2001:db8::1/64 dev ext0 nodad");
        ip("route add default dev ext0");
        ip("-6 route add default dev ext0");
        for (n, device) in site.pods.iter().enumerate() {
            for address in [worlds::pod_address(n, false), worlds::pod_address(n, true)] {
                ip(&format!("route add {address} dev {}", device.name));
            }
        }
        let mut ears = Vec::new();
        for protocol in [1, 4, 6, 17, 47, 132, 253] {
            ears.push(raw(AddressFamily::Inet, protocol));
        }
        for protocol in [6, 17, 47, 58, 132, 253] {
            ears.push(raw(AddressFamily::Inet6, protocol));
        }
        let conntrack = Socket::open(Protocol::Netfilter).unwrap();
        Self {
            site,
            devices,
            ears,
            conntrack,
        }
    }

    /// Forgets all flows.
    pub(crate) fn flush_conntrack(&mut self) {
        const DELETE: u16 = 0x102;
        let mut batch = Batch::new();
        batch.push(DELETE, 0, |enc| enc.raw(&[0; 4]));
        self.conntrack.submit(&mut batch).unwrap();
    }

    /// Sets bits in the mark of the flow that a packet began.
    pub(crate) fn mark(&mut self, packet: &Packet, mask: u32, value: u32) {
        const CHANGE: u16 = 0x100;
        let mut batch = Batch::new();
        batch.push(CHANGE, 0, |enc| {
            flow(enc, packet);
            enc.put_be32(8, value);
            enc.put_be32(21, mask);
        });
        self.conntrack.submit(&mut batch).unwrap();
    }

    /// Forgets the flow that a packet began.
    pub(crate) fn forget(&mut self, packet: &Packet) {
        const DELETE: u16 = 0x102;
        let mut batch = Batch::new();
        batch.push(DELETE, 0, |enc| flow(enc, packet));
        self.conntrack.submit(&mut batch).unwrap();
    }

    /// Lets a packet with a tag come in.
    pub(crate) fn send(&self, packet: &Packet, tag: u32) {
        self.send_as(packet, tag, Shape::Plain);
    }

    /// The same, written in one way or another.
    pub(crate) fn send_as(&self, packet: &Packet, tag: u32, shape: Shape) {
        let device = packet.input.as_ref().unwrap().index;
        for bytes in wire::forge(packet, tag, shape) {
            nix::unistd::write(&self.devices[&device], &bytes).unwrap();
        }
    }

    /// Reads whatever is there; true if anything was.
    pub(crate) fn collect(
        &self,
        sent: &BTreeMap<u32, Packet>,
        arrived: &mut BTreeSet<(u32, Place)>,
    ) -> bool {
        let mut buffer = [0; 2048];
        let mut any = false;
        let mut read = |fd: &OwnedFd| match nix::unistd::read(fd.as_fd(), &mut buffer) {
            Ok(length) => Some(buffer[..length].to_vec()),
            Err(errno) => {
                assert_eq!(std::io::Error::from(errno).kind(), ErrorKind::WouldBlock);
                None
            }
        };
        for (index, fd) in &self.devices {
            while let Some(bytes) = read(fd) {
                any = true;
                // An answer of the host may quote a probe; its ends are not those of the probe.
                if let Some(tag) = wire::tag(&bytes)
                    && let Some(packet) = sent.get(&tag)
                    && wire::ends(&bytes) == Some((packet.source, packet.destination))
                {
                    arrived.insert((tag, Place::Device(*index)));
                }
            }
        }
        for fd in &self.ears {
            while let Some(bytes) = read(fd) {
                any = true;
                arrived.extend(wire::tag(&bytes).map(|tag| (tag, Place::Host)));
            }
        }
        any
    }

    /// Collects until nothing came for a while.
    pub(crate) fn settle(
        &self,
        sent: &BTreeMap<u32, Packet>,
        arrived: &mut BTreeSet<(u32, Place)>,
    ) {
        let mut fds: Vec<PollFd<'_>> = self
            .devices
            .values()
            .chain(&self.ears)
            .map(|fd| PollFd::new(fd.as_fd(), PollFlags::POLLIN))
            .collect();
        while poll(&mut fds, PollTimeout::from(20_u8)).unwrap() > 0 {
            self.collect(sent, arrived);
        }
    }
}
