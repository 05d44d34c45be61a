//! Socket options that no safe wrapper offers.
#![expect(
    unsafe_code,
    reason = "setsockopt takes a pointer; both callers pass a live value and its size"
)]

use std::io;
use std::mem::size_of;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd};

use libc::{c_int, c_void, socklen_t};

use crate::speaker::{Password, Ttl};

/// DSCP CS6, "network control" (RFC 4594 §3.1), in the octet it shares with ECN.
const NETWORK_CONTROL: c_int = 0xC0;

/// Address families as they stand in a socket address.
const AF_INET: libc::sa_family_t = 2;
const AF_INET6: libc::sa_family_t = 10;

const TCP_MD5SIG_EXT: c_int = 32;
const TCP_MD5SIG_FLAG_PREFIX: u8 = 1;

/// `struct tcp_md5sig` of `linux/tcp.h`.
#[repr(C)]
struct TcpMd5Sig {
    address: libc::sockaddr_storage,
    flags: u8,
    prefix_length: u8,
    key_length: u16,
    interface: c_int,
    key: [u8; Password::MAX_LEN],
}

fn set<T>(socket: BorrowedFd<'_>, level: c_int, name: c_int, value: &T) -> io::Result<()> {
    let length = socklen_t::try_from(size_of::<T>()).map_err(io::Error::other)?;
    // SAFETY: `value` lives over the call and `length` is its size; the kernel only reads it. `socket` is an open
    // descriptor by its type.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            std::ptr::from_ref(value).cast::<c_void>(),
            length,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Sets TTL handling and marks packets as network control.
///
/// # Errors
/// What the kernel says.
pub(super) fn set_ttl(socket: BorrowedFd<'_>, remote: IpAddr, ttl: Ttl) -> io::Result<()> {
    let (level, send, min, class) = match remote {
        IpAddr::V4(_) => (
            libc::IPPROTO_IP,
            libc::IP_TTL,
            libc::IP_MINTTL,
            libc::IP_TOS,
        ),
        IpAddr::V6(_) => (
            libc::IPPROTO_IPV6,
            libc::IPV6_UNICAST_HOPS,
            libc::IPV6_MINHOPCOUNT,
            libc::IPV6_TCLASS,
        ),
    };
    set(socket, level, class, &NETWORK_CONTROL)?;
    if let Some(hops) = ttl.send {
        set(socket, level, send, &c_int::from(hops))?;
    }
    if let Some(hops) = ttl.min {
        set(socket, level, min, &c_int::from(hops))?;
    }
    Ok(())
}

/// Sets the TCP-MD5 key for a peer, or takes it away. Removing a key that is not there is no error.
///
/// # Errors
/// What the kernel says: ENOMEM when `net.core.optmem_max` is used up.
pub(super) fn set_md5(
    socket: BorrowedFd<'_>,
    peer: IpAddr,
    password: Option<&Password>,
) -> io::Result<()> {
    let key_octets = password
        .map(|password| password.expose().as_bytes())
        .unwrap_or_default();
    let mut key = [0; Password::MAX_LEN];
    for (place, octet) in key.iter_mut().zip(key_octets) {
        *place = *octet;
    }
    let option = TcpMd5Sig {
        address: socket_address(peer),
        flags: TCP_MD5SIG_FLAG_PREFIX,
        prefix_length: if peer.is_ipv4() { 32 } else { 128 },
        key_length: u16::try_from(key_octets.len()).unwrap_or(0),
        interface: 0,
        key,
    };
    match set(socket, libc::IPPROTO_TCP, TCP_MD5SIG_EXT, &option) {
        Err(error) if password.is_none() && error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        result => result,
    }
}

fn socket_address(address: IpAddr) -> libc::sockaddr_storage {
    // SAFETY: all-zero octets are a valid sockaddr_storage of family AF_UNSPEC.
    let mut storage: libc::sockaddr_storage = unsafe { std::mem::zeroed() };
    let place = std::ptr::from_mut(&mut storage);
    match address {
        IpAddr::V4(address) => {
            let v4 = libc::sockaddr_in {
                sin_family: AF_INET,
                sin_port: 0,
                sin_addr: libc::in_addr {
                    s_addr: u32::from_ne_bytes(address.octets()),
                },
                sin_zero: [0; 8],
            };
            // SAFETY: sockaddr_storage is at least as large and as aligned as every sockaddr.
            unsafe { place.cast::<libc::sockaddr_in>().write(v4) };
        }
        IpAddr::V6(address) => {
            let v6 = libc::sockaddr_in6 {
                sin6_family: AF_INET6,
                sin6_port: 0,
                sin6_flowinfo: 0,
                sin6_addr: libc::in6_addr {
                    s6_addr: address.octets(),
                },
                sin6_scope_id: 0,
            };
            // SAFETY: as above.
            unsafe { place.cast::<libc::sockaddr_in6>().write(v6) };
        }
    }
    storage
}
