//! The plugin's half: connect, send, wait; every step inside one deadline.
#![expect(
    clippy::disallowed_methods,
    reason = "deadlines of a socket need the clock"
)]

use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
use std::os::fd::AsRawFd;
use thiserror::Error;

use super::sys::send_with;
use super::{Decoder, FrameError, Reply, Request, encode};

/// How long a missing or refusing socket is tried, in all.
pub const CONNECT_BOUND: Duration = Duration::from_secs(2);

/// Pause between two tries.
const RETRY: Duration = Duration::from_millis(50);

/// Why no reply came.
#[derive(Debug, Error)]
pub enum CallError {
    /// Nobody listens; nothing was sent.
    #[error("nobody listens on {path}: {cause}")]
    Unreachable {
        /// The socket.
        path: String,
        /// The kernel's words.
        cause: io::Error,
    },
    /// The request was (perhaps in part) sent, but no reply came.
    #[error("the daemon did not answer: {0}")]
    NoReply(io::Error),
    /// The bytes that came, or were to be sent, are no message.
    #[error(transparent)]
    Frame(#[from] FrameError),
}

/// Sends `request` with the sandbox's descriptor to the daemon at `path` and waits for its reply, at most `bound` in all.
///
/// # Errors
/// See [`CallError`].
pub fn call(
    path: &Path,
    mut request: Request,
    sandbox: Option<BorrowedFd<'_>>,
    bound: Duration,
) -> Result<Reply, CallError> {
    let end = Instant::now() + bound;
    let mut stream = connect_within(path, bound.min(CONNECT_BOUND))?;
    let left = remaining(end).map_err(CallError::NoReply)?;
    request.deadline_ms = u32::try_from(left.as_millis()).unwrap_or(u32::MAX);
    let bytes = encode(&request)?;
    send(&stream, &bytes, sandbox, end).map_err(CallError::NoReply)?;
    receive(&mut stream, end)
}

fn connect_within(path: &Path, bound: Duration) -> Result<UnixStream, CallError> {
    let end = Instant::now() + bound;
    loop {
        let cause = match connect_once(path) {
            Ok(stream) => return Ok(stream),
            Err(cause) => cause,
        };
        let again = matches!(
            cause,
            Errno::ECONNREFUSED | Errno::ENOENT | Errno::EAGAIN | Errno::EINTR
        );
        if !again || Instant::now() + RETRY >= end {
            return Err(CallError::Unreachable {
                path: path.display().to_string(),
                cause: cause.into(),
            });
        }
        sleep(RETRY);
    }
}

/// Connects without waiting: on a Unix socket that is immediate, or EAGAIN while the backlog is full.
fn connect_once(path: &Path) -> Result<UnixStream, Errno> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    connect(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
    let stream = UnixStream::from(socket);
    stream
        .set_nonblocking(false)
        .map_err(|_error| Errno::last())?;
    Ok(stream)
}

fn send(
    stream: &UnixStream,
    bytes: &[u8],
    sandbox: Option<BorrowedFd<'_>>,
    end: Instant,
) -> io::Result<()> {
    let mut rest = bytes;
    let mut beside = sandbox;
    while !rest.is_empty() {
        stream.set_write_timeout(Some(remaining(end)?))?;
        let sent = match send_with(stream.as_fd(), rest, beside) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            sent => sent?,
        };
        beside = None;
        rest = rest.get(sent..).unwrap_or_default();
    }
    Ok(())
}

fn receive(stream: &mut UnixStream, end: Instant) -> Result<Reply, CallError> {
    let mut decoder = Decoder::default();
    let mut bytes = [0; 4096];
    loop {
        let left = remaining(end).map_err(CallError::NoReply)?;
        stream
            .set_read_timeout(Some(left))
            .map_err(CallError::NoReply)?;
        let read = match stream.read(&mut bytes) {
            Ok(0) => return Err(CallError::NoReply(io::ErrorKind::UnexpectedEof.into())),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(CallError::NoReply(error)),
        };
        if let Some(reply) = decoder.push(bytes.get(..read).unwrap_or_default())? {
            return Ok(reply);
        }
    }
}

fn remaining(end: Instant) -> io::Result<Duration> {
    let left = end.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(io::ErrorKind::TimedOut.into());
    }
    Ok(left)
}
