//! The two socket calls that carry a descriptor.
#![expect(
    unsafe_code,
    reason = "a received descriptor arrives as a bare number and must be given an owner at once"
)]

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::cmsg_space;
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, UnixAddr, recvmsg, sendmsg};

/// More descriptors than one are never sent, but all that come must be closed; the kernel drops what does not fit.
const ROOM: usize = 4;

/// Sends some of `bytes`, with `descriptor` beside them.
pub(super) fn send_with(
    socket: BorrowedFd<'_>,
    bytes: &[u8],
    descriptor: Option<BorrowedFd<'_>>,
) -> io::Result<usize> {
    let raw = descriptor.map(|descriptor| [descriptor.as_raw_fd()]);
    let control: Vec<ControlMessage<'_>> = raw
        .iter()
        .map(|raw| ControlMessage::ScmRights(raw))
        .collect();
    let sent = sendmsg::<UnixAddr>(
        socket.as_raw_fd(),
        &[IoSlice::new(bytes)],
        &control,
        MsgFlags::MSG_NOSIGNAL,
        None,
    )?;
    Ok(sent)
}

/// Receives into `bytes`; every descriptor that came along is owned by the answer.
pub(super) fn receive_with(
    socket: BorrowedFd<'_>,
    bytes: &mut [u8],
) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut space = cmsg_space!([i32; ROOM]);
    let mut parts = [IoSliceMut::new(bytes)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC | MsgFlags::MSG_DONTWAIT;
    let message = recvmsg::<UnixAddr>(socket.as_raw_fd(), &mut parts, Some(&mut space), flags)?;
    let mut owned = Vec::new();
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(descriptors) = control {
            for raw in descriptors {
                // SAFETY: the kernel installed this descriptor in our table during the call above; nobody else knows it.
                owned.push(unsafe { OwnedFd::from_raw_fd(raw) });
            }
        }
    }
    Ok((message.bytes, owned))
}
