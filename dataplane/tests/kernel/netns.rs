//! Hosts and pods made of namespaces. Every test makes its own and leaves nothing behind: a namespace dies with its descriptor.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::OwnedFd;
use std::process::Command;
use std::time::Duration;

use dataplane::IfName;
use netlink::netns;

pub(crate) struct Ns {
    pub(crate) fd: OwnedFd,
}

impl Ns {
    pub(crate) fn new() -> Self {
        let ns = Self::untouched();
        ns.ip("link set lo up");
        ns
    }

    /// As the kernel makes it: nothing is up, no table exists.
    pub(crate) fn untouched() -> Self {
        Self {
            fd: netns::create().expect("needs root: make a network namespace"),
        }
    }

    pub(crate) fn fd(&self) -> OwnedFd {
        self.fd.try_clone().unwrap()
    }

    /// Runs `ip` inside, fails the test when it fails, returns what it printed.
    pub(crate) fn ip(&self, arguments: &str) -> String {
        self.run("ip", arguments)
    }

    pub(crate) fn run(&self, program: &str, arguments: &str) -> String {
        let output = netns::run_in(&self.fd, || {
            Command::new(program)
                .args(arguments.split_whitespace())
                .output()
                .unwrap()
        })
        .unwrap();
        assert!(
            output.status.success(),
            "{program} {arguments}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// What a file holds, as seen from inside.
    pub(crate) fn read(&self, path: &str) -> String {
        netns::run_in(&self.fd, || std::fs::read_to_string(path).unwrap())
            .unwrap()
            .trim()
            .to_owned()
    }

    pub(crate) fn write(&self, path: &str, value: &str) {
        self.inside(|| std::fs::write(path, value).unwrap());
    }

    /// Runs `work` on a thread inside.
    pub(crate) fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        netns::run_in(&self.fd, work).unwrap()
    }

    pub(crate) fn udp(&self, address: &str) -> UdpSocket {
        let address: IpAddr = address.parse().unwrap();
        let socket = netns::run_in(&self.fd, || {
            UdpSocket::bind(SocketAddr::new(address, 7007)).unwrap()
        })
        .unwrap();
        socket
            .set_read_timeout(Some(Duration::from_millis(700)))
            .unwrap();
        socket
    }
}

/// As [`echo`], three times at most: the ports of a router that was just cabled need a moment.
pub(crate) fn reaches(from: &UdpSocket, to: &UdpSocket) -> Result<(), String> {
    echo(from, to)
        .or_else(|_| echo(from, to))
        .or_else(|_| echo(from, to))
}

/// A datagram there and one back. `Err` says which way failed.
pub(crate) fn echo(from: &UdpSocket, to: &UdpSocket) -> Result<(), String> {
    let mut buffer = [0; 64];
    from.send_to(b"there", to.local_addr().unwrap())
        .map_err(|e| format!("send: {e}"))?;
    let (length, sender) = to
        .recv_from(&mut buffer)
        .map_err(|e| format!("there: {e}"))?;
    assert_eq!(&buffer[..length], b"there");
    to.send_to(b"back", sender)
        .map_err(|e| format!("answer: {e}"))?;
    let (length, _) = from
        .recv_from(&mut buffer)
        .map_err(|e| format!("back: {e}"))?;
    assert_eq!(&buffer[..length], b"back");
    Ok(())
}

pub(crate) fn name(text: &str) -> IfName {
    IfName::parse(text).unwrap()
}
