//! Notifications: multicast groups heard from async code.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, SockFlag, recv};
use tokio::io::unix::AsyncFd;

use crate::message::{self, Message, OVERRUN};
use crate::netns;
use crate::socket::{Error, OpenError, Protocol, open_fd, step};
use crate::sys;

const READ_BUFFER: usize = 64 << 10;

/// What one wait brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    /// This many messages were given to the callback.
    Messages(usize),
    /// Notifications were lost. Everything that was being watched must be listed again.
    Overrun,
}

/// A socket that only listens.
#[derive(Debug)]
pub struct Monitor {
    fd: AsyncFd<OwnedFd>,
    buffer: Vec<u8>,
}

impl Monitor {
    /// Joins groups (`RTNLGRP_*`, `NFNLGRP_*` numbers) in the calling thread's namespace. Must run inside a tokio runtime.
    ///
    /// # Errors
    /// [`OpenError::Socket`] when a group is unknown to the kernel or not allowed.
    pub fn open(protocol: Protocol, groups: &[u32]) -> Result<Self, OpenError> {
        Self::register(join(protocol, groups)?)
    }

    /// As [`Monitor::open`], inside another namespace.
    ///
    /// # Errors
    /// As [`Monitor::open`], and [`OpenError::Netns`] when the namespace cannot be entered.
    pub fn open_in(
        namespace: impl AsFd,
        protocol: Protocol,
        groups: &[u32],
    ) -> Result<Self, OpenError> {
        Self::register(netns::run_in(namespace, || join(protocol, groups))??)
    }

    /// Waits for notifications and gives each of one receive to `each`. Cancel safe.
    ///
    /// # Errors
    /// [`Error::Receive`] when the socket itself fails.
    pub async fn hear(&mut self, mut each: impl FnMut(Message<'_>)) -> Result<Heard, Error> {
        loop {
            let mut ready = self
                .fd
                .readable()
                .await
                .map_err(|e| Error::Receive(raw(&e)))?;
            match recv(
                ready.get_inner().as_raw_fd(),
                &mut self.buffer,
                MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_TRUNC,
            ) {
                Ok(length) if length > self.buffer.len() => return Ok(Heard::Overrun),
                Ok(length) => return Ok(walk(self.buffer.get(..length).unwrap_or(&[]), &mut each)),
                Err(Errno::EAGAIN) => ready.clear_ready(),
                Err(Errno::EINTR) => {}
                Err(Errno::ENOBUFS) => return Ok(Heard::Overrun),
                Err(errno) => return Err(Error::Receive(errno)),
            }
        }
    }

    fn register(fd: OwnedFd) -> Result<Self, OpenError> {
        let fd = sys::register(fd).map_err(|e| step("register with the runtime")(raw(&e)))?;
        Ok(Self {
            fd,
            buffer: vec![0; READ_BUFFER],
        })
    }
}

fn join(protocol: Protocol, groups: &[u32]) -> Result<OwnedFd, OpenError> {
    let fd = open_fd(protocol, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK)?;
    for &group in groups {
        let group = libc::c_int::try_from(group).unwrap_or(libc::c_int::MAX);
        sys::set_netlink_option(fd.as_fd(), libc::NETLINK_ADD_MEMBERSHIP, group)
            .map_err(step("join a group"))?;
    }
    Ok(fd)
}

fn walk(bytes: &[u8], each: &mut impl FnMut(Message<'_>)) -> Heard {
    let mut count = 0;
    for message in message::parse(bytes) {
        if message.kind == OVERRUN {
            return Heard::Overrun;
        }
        each(message);
        count += 1;
    }
    Heard::Messages(count)
}

fn raw(error: &std::io::Error) -> Errno {
    error
        .raw_os_error()
        .map_or(Errno::UnknownErrno, Errno::from_raw)
}
