//! Listening sockets.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::mpsc;

use super::connection::Event;
use super::sys;
use crate::speaker::{ListenKey, Ttl};

/// Peers of a whole mesh may call at once.
const BACKLOG: u32 = 4096;
/// Pause after a failed accept: out of descriptors, most likely, and not to be spun on.
const PAUSE: Duration = Duration::from_millis(100);

/// Binds a listener.
///
/// # Errors
/// What the kernel says.
pub(super) fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()
    } else {
        TcpSocket::new_v6()
    }?;
    socket.set_reuseaddr(true)?;
    if address.is_ipv6() {
        // Each family has a listener of its own; without this the IPv6 one would take the IPv4 port as well.
        setsockopt(&socket, sockopt::Ipv6V6Only, &true)?;
    }
    // A peer that checks TTLs (RFC 5082) checks that of our SYN-ACK too, which the listener sends before any peer is
    // known. Connections inherit it until told otherwise.
    let reach = Ttl {
        send: Some(u8::MAX),
        min: None,
    };
    sys::set_ttl(socket.as_fd(), address.ip(), reach)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Sets a peer's key on a listener of its family.
///
/// # Errors
/// What the kernel says.
pub(super) fn set_key(listener: &TcpListener, key: &ListenKey) -> io::Result<()> {
    if listener.local_addr()?.is_ipv4() != key.address.is_ipv4() {
        return Ok(());
    }
    sys::set_md5(listener.as_fd(), key.address, key.password.as_ref())
}

/// Hands accepted connections to the driver until it is gone.
pub(super) async fn run(listener: std::sync::Arc<TcpListener>, events: mpsc::Sender<Event>) {
    loop {
        match listener.accept().await {
            Ok((stream, remote)) => {
                if events.send(Event::Incoming(stream, remote)).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                tracing::warn!(%error, "accept failed");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    #[tokio::test]
    async fn both_families_listen_on_one_port() {
        let four = bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0))).unwrap();
        let port = four.local_addr().unwrap().port();
        let six = bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)));
        match six {
            Ok(six) => assert_eq!(six.local_addr().unwrap().port(), port),
            Err(error) if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => {
                println!("skipped: no IPv6 here");
            }
            Err(error) => panic!("{error}"),
        }
    }
}
