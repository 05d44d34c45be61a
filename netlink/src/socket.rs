//! A request socket: batches, single requests and dumps.
#![expect(
    clippy::disallowed_methods,
    reason = "io: every wait on the kernel has a deadline on the monotonic clock"
)]

use std::fmt;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, getsockname,
    getsockopt, recv, send, setsockopt, socket, sockopt,
};

use crate::attr::Encoder;
use crate::batch::{Batch, frame};
use crate::extack::{Failure, parse_done, parse_error};
use crate::message::{self, DONE, ERROR, Message, NOOP, OVERRUN};
use crate::netns::{self, NetnsError};
use crate::{flags, sys};

/// How much the kernel may queue for us. A dump is paced by our reading, but every failing message of a batch is answered at once.
const RECEIVE_BUFFER: usize = 8 << 20;
/// A transaction is one buffer in one send, so this bounds the largest one.
const SEND_BUFFER: usize = 64 << 20;
/// The kernel fills at most 32 KiB per receive of a dump, single messages may be longer.
const READ_BUFFER: usize = 256 << 10;
const DUMP_ATTEMPTS: u32 = 5;
const DEFAULT_DEADLINE: Duration = Duration::from_secs(20);

/// Which part of the kernel a socket talks to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// Links, addresses, routes, neighbours, next hops.
    Route,
    /// nftables, conntrack, ipset.
    Netfilter,
    /// Families that are found by name.
    Generic,
}

/// Why a socket could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The socket call or one of its options was refused.
    #[error("open a netlink socket ({step}): {}", .errno.desc())]
    Socket {
        /// What was being done.
        step: &'static str,
        /// The kernel's error number.
        errno: Errno,
    },
    /// The namespace could not be entered.
    #[error(transparent)]
    Netns(#[from] NetnsError),
}

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel refused one or more messages.
    #[error(transparent)]
    Rejected(Rejected),
    /// Answers were lost because our buffer was full: what the kernel has is unknown until it is listed again.
    #[error("answers of the kernel were lost (buffer full): list again")]
    Overrun,
    /// The objects changed during every attempt to list them.
    #[error("a dump was interrupted by changes {attempts} times in a row")]
    Interrupted {
        /// How often it was tried.
        attempts: u32,
    },
    /// The kernel did not answer in time.
    #[error("no answer of the kernel within {0:?}")]
    Deadline(Duration),
    /// An attribute was longer than its 16-bit length allows; nothing was sent.
    #[error("an attribute is longer than 65,531 octets; nothing was sent")]
    Oversized,
    /// A message was longer than the read buffer.
    #[error("a message of {0} octets does not fit the read buffer")]
    Truncated(usize),
    /// The send itself was refused; `EMSGSIZE` or `ENOBUFS`: the batch is larger than the send buffer.
    #[error("send {octets} octets: {}", .errno.desc())]
    Send {
        /// Size of the batch.
        octets: usize,
        /// The kernel's error number.
        errno: Errno,
    },
    /// The receive failed.
    #[error("receive: {}", .0.desc())]
    Receive(Errno),
    /// A socket shared between tasks lost its worker.
    #[error("the thread that used the socket panicked")]
    Panicked,
}

impl Error {
    /// The error number of the first refused message, if this is a refusal.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Rejected(rejected) => rejected.failures.first().map(|f| f.errno),
            Self::Send { errno, .. } | Self::Receive(errno) => Some(*errno),
            Self::Overrun
            | Self::Interrupted { .. }
            | Self::Deadline(_)
            | Self::Oversized
            | Self::Truncated(_)
            | Self::Panicked => None,
        }
    }

    /// The refused messages, if this is a refusal.
    pub fn failures(&self) -> &[Failure] {
        match self {
            Self::Rejected(rejected) => &rejected.failures,
            Self::Overrun
            | Self::Interrupted { .. }
            | Self::Deadline(_)
            | Self::Oversized
            | Self::Truncated(_)
            | Self::Send { .. }
            | Self::Receive(_)
            | Self::Panicked => &[],
        }
    }

    /// True when the same request may succeed later: list, plan and try again. False for refusals that will repeat.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Rejected(rejected) => rejected.failures.iter().all(|f| {
                matches!(
                    f.errno,
                    Errno::EBUSY
                        | Errno::ENOMEM
                        | Errno::ENOBUFS
                        | Errno::EAGAIN
                        | Errno::EINTR
                        | Errno::ERESTART
                )
            }),
            Self::Overrun | Self::Interrupted { .. } | Self::Deadline(_) => true,
            Self::Send { errno, .. } => {
                matches!(errno, Errno::ENOMEM | Errno::EAGAIN | Errno::EINTR)
            }
            Self::Oversized | Self::Truncated(_) | Self::Receive(_) | Self::Panicked => false,
        }
    }
}

/// The messages of a request that were refused, at least one, in the order of the batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejected {
    /// What was refused and why. Never empty.
    pub failures: Vec<Failure>,
}

impl fmt::Display for Rejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.failures.split_first() {
            Some((first, [])) => write!(f, "refused: {first}"),
            Some((first, more)) => write!(f, "refused: {first}; and {} more", more.len()),
            None => f.write_str("refused"),
        }
    }
}

impl std::error::Error for Rejected {}

/// A request socket. One request at a time; open it once and keep it, an owned nftables table lives as long as its socket.
///
/// Calls block while the kernel works, which is CPU time, not waiting: it handles every message inside the send. From async code
/// use [`crate::SharedSocket`].
#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
    seq: u32,
    buffer: Vec<u8>,
    deadline: Duration,
    send_capacity: usize,
}

impl Socket {
    /// Opens a socket in the calling thread's namespace.
    ///
    /// # Errors
    /// [`OpenError::Socket`] when the kernel lacks the protocol or an option.
    pub fn open(protocol: Protocol) -> Result<Self, OpenError> {
        let fd = open_fd(protocol, SockFlag::SOCK_CLOEXEC)?;
        // Halved: the kernel doubles what is asked, and refuses a send that does not leave room for its own overhead.
        let send_capacity =
            getsockopt(&fd, sockopt::SndBuf).map_err(step("read the send buffer"))? / 2;
        Ok(Self {
            fd,
            seq: 0,
            buffer: vec![0; READ_BUFFER],
            deadline: DEFAULT_DEADLINE,
            send_capacity,
        })
    }

    /// Opens a socket inside another namespace, by a thread that enters it. The socket stays there, whoever uses it.
    ///
    /// # Errors
    /// [`OpenError::Netns`] when the namespace cannot be entered, else as [`Socket::open`].
    pub fn open_in(netns: impl AsFd, protocol: Protocol) -> Result<Self, OpenError> {
        netns::run_in(netns, || Self::open(protocol))?
    }

    /// Sets how long any single request may take; 20 seconds unless set.
    pub fn set_deadline(&mut self, deadline: Duration) {
        self.deadline = deadline;
    }

    /// Port of this socket: notifications of changes made through it carry it.
    ///
    /// # Errors
    /// [`Error::Receive`] when the socket cannot be asked.
    pub fn port(&self) -> Result<u32, Error> {
        getsockname::<NetlinkAddr>(self.fd.as_raw_fd())
            .map(|address| address.pid())
            .map_err(Error::Receive)
    }

    /// Largest batch, in octets, that one send can carry: 64 MiB, or what an unprivileged process was given.
    pub fn send_capacity(&self) -> usize {
        self.send_capacity
    }

    /// Sends a batch and learns what became of it. An empty plain batch is not sent.
    ///
    /// # Errors
    /// [`Error::Rejected`] names each refused message. In a plain batch all others took effect, in a transaction none did.
    pub fn submit(&mut self, batch: &mut Batch) -> Result<(), Error> {
        self.submit_echo(batch, |_| {})
    }

    /// As [`Socket::submit`], and gives the messages that the kernel sends back for those pushed with [`flags::ECHO`].
    ///
    /// # Errors
    /// As [`Socket::submit`].
    pub fn submit_echo(
        &mut self,
        batch: &mut Batch,
        echo: impl FnMut(Message<'_>),
    ) -> Result<(), Error> {
        if batch.is_oversized() {
            return Err(Error::Oversized);
        }
        if batch.is_empty() {
            return Ok(());
        }
        let base = self.reserve(batch.len());
        let until = Instant::now() + self.deadline;
        self.send(batch.seal(base))?;
        let mut answers = Answers::new(base, batch.len(), echo);
        self.drain(until, |message| answers.take(message))?;
        answers.finish()
    }

    /// One request that is answered by messages of its own kind and an acknowledgement, for example a lookup by name. `parse`
    /// turns each message into a value or skips it.
    ///
    /// # Errors
    /// [`Error::Rejected`] with the kernel's refusal, `ENOENT` or `ENODEV` for what does not exist.
    pub fn ask<T>(
        &mut self,
        kind: u16,
        extra_flags: u16,
        body: impl FnOnce(&mut Encoder),
        mut parse: impl FnMut(Message<'_>) -> Option<T>,
    ) -> Result<Vec<T>, Error> {
        let mut found = Vec::new();
        let mut batch = Batch::new();
        batch.push(kind, extra_flags, body);
        self.submit_echo(&mut batch, |message| found.extend(parse(message)))?;
        Ok(found)
    }

    /// Lists objects. The request is repeated up to five times when the objects changed meanwhile, so the result is one
    /// consistent picture or an error, never a part.
    ///
    /// # Errors
    /// [`Error::Interrupted`] when it never came out whole, [`Error::Rejected`] when the kernel refuses the filter.
    pub fn dump<T>(
        &mut self,
        kind: u16,
        body: impl FnOnce(&mut Encoder),
        mut parse: impl FnMut(Message<'_>) -> Option<T>,
    ) -> Result<Vec<T>, Error> {
        let mut request = Encoder::new();
        frame(&mut request, kind, flags::REQUEST | flags::DUMP, body);
        if request.is_oversized() {
            return Err(Error::Oversized);
        }
        for _ in 0..DUMP_ATTEMPTS {
            if let Some(found) = self.dump_once(&mut request, &mut parse)? {
                return Ok(found);
            }
        }
        Err(Error::Interrupted {
            attempts: DUMP_ATTEMPTS,
        })
    }

    /// One attempt at a dump; `None` when it was interrupted by a change.
    fn dump_once<T>(
        &mut self,
        request: &mut Encoder,
        parse: &mut impl FnMut(Message<'_>) -> Option<T>,
    ) -> Result<Option<Vec<T>>, Error> {
        let seq = self.reserve(0);
        let until = Instant::now() + self.deadline;
        request.patch(8, &seq.to_ne_bytes());
        self.send(request.as_bytes())?;
        let mut found = Vec::new();
        let mut interrupted = false;
        let mut refused = None;
        self.drain(until, |message| {
            if message.seq != seq {
                return Step::More;
            }
            interrupted |= message.flags & flags::DUMP_INTR != 0;
            match message.kind {
                ERROR => {
                    refused = parse_error(&message);
                    Step::Last
                }
                DONE => {
                    refused = parse_done(&message);
                    Step::Last
                }
                _ => {
                    found.extend(parse(message));
                    Step::More
                }
            }
        })?;
        match refused {
            // An interrupted dump may also end in the error of an object that vanished under it.
            _ if interrupted => Ok(None),
            Some(failure) => Err(Error::Rejected(Rejected {
                failures: vec![failure],
            })),
            None => Ok(Some(found)),
        }
    }

    /// Takes a sequence number for a batch start and leaves room for its messages.
    fn reserve(&mut self, messages: usize) -> u32 {
        let base = self.seq.wrapping_add(1);
        self.seq = base.wrapping_add(u32::try_from(messages).unwrap_or(u32::MAX));
        base
    }

    fn send(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.discard_stale();
        loop {
            match send(self.fd.as_raw_fd(), bytes, MsgFlags::empty()) {
                Ok(_) => return Ok(()),
                Err(Errno::EINTR) => {}
                Err(errno) => {
                    return Err(Error::Send {
                        octets: bytes.len(),
                        errno,
                    });
                }
            }
        }
    }

    /// Throws away what an earlier request that failed half-way left in the queue, an overrun mark included.
    fn discard_stale(&mut self) {
        // Bounded: an overrun mark and a queue of at most the receive buffer.
        while let Ok(1..) | Err(Errno::ENOBUFS | Errno::EINTR) = recv(
            self.fd.as_raw_fd(),
            &mut self.buffer,
            MsgFlags::MSG_DONTWAIT,
        ) {}
    }

    /// Reads until `step` says it has seen the last message. The kernel answers inside the send, so waiting is the exception.
    fn drain(
        &mut self,
        until: Instant,
        mut step: impl FnMut(Message<'_>) -> Step,
    ) -> Result<(), Error> {
        loop {
            let received = self.receive(until)?;
            for message in message::parse(self.buffer.get(..received).unwrap_or(&[])) {
                match message.kind {
                    NOOP => {}
                    OVERRUN => return Err(Error::Overrun),
                    _ => {
                        if let Step::Last = step(message) {
                            return Ok(());
                        }
                    }
                }
            }
        }
    }

    fn receive(&mut self, until: Instant) -> Result<usize, Error> {
        loop {
            let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_TRUNC;
            match recv(self.fd.as_raw_fd(), &mut self.buffer, flags) {
                Ok(length) if length > self.buffer.len() => return Err(Error::Truncated(length)),
                Ok(length) => return Ok(length),
                Err(Errno::EINTR) => {}
                Err(Errno::ENOBUFS) => return Err(Error::Overrun),
                Err(Errno::EAGAIN) => self.wait(until)?,
                Err(errno) => return Err(Error::Receive(errno)),
            }
        }
    }

    fn wait(&self, until: Instant) -> Result<(), Error> {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Error::Deadline(self.deadline));
        }
        let millis = u16::try_from(left.as_millis()).unwrap_or(u16::MAX).max(1);
        let mut fds = [PollFd::new(self.fd.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, PollTimeout::from(millis)) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(errno) => Err(Error::Receive(errno)),
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Whether more messages are expected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    More,
    Last,
}

/// Sorts the answers to one batch.
struct Answers<E> {
    base: u32,
    count: u32,
    failures: Vec<Failure>,
    echo: E,
}

impl<E: FnMut(Message<'_>)> Answers<E> {
    fn new(base: u32, count: usize, echo: E) -> Self {
        Self {
            base,
            count: u32::try_from(count).unwrap_or(u32::MAX),
            failures: Vec::new(),
            echo,
        }
    }

    fn take(&mut self, message: Message<'_>) -> Step {
        // 0 is the begin of a transaction, 1… are the messages; anything beyond belongs to nobody any more.
        let nth = message.seq.wrapping_sub(self.base);
        if nth > self.count {
            return Step::More;
        }
        if message.kind != ERROR {
            (self.echo)(message);
            return Step::More;
        }
        if let Some(failure) = parse_error(&message) {
            let index = nth.checked_sub(1).and_then(|n| usize::try_from(n).ok());
            self.failures.push(Failure { index, ..failure });
            // A refused begin (stale generation, unknown subsystem) ends it: no message is looked at. A failed commit is told the
            // same way and followed by the answer to the last message, which is thrown away before the next send.
            if nth == 0 {
                return Step::Last;
            }
        }
        if nth == self.count {
            Step::Last
        } else {
            Step::More
        }
    }

    fn finish(self) -> Result<(), Error> {
        if self.failures.is_empty() {
            Ok(())
        } else {
            Err(Error::Rejected(Rejected {
                failures: self.failures,
            }))
        }
    }
}

/// Opens, configures and binds; shared with [`crate::Monitor`].
pub(crate) fn open_fd(protocol: Protocol, flags: SockFlag) -> Result<OwnedFd, OpenError> {
    let number = match protocol {
        Protocol::Route => SockProtocol::NetlinkRoute,
        Protocol::Netfilter => SockProtocol::NetlinkNetFilter,
        Protocol::Generic => SockProtocol::NetlinkGeneric,
    };
    let fd =
        socket(AddressFamily::Netlink, SockType::Raw, flags, number).map_err(step("socket"))?;
    // Beyond net.core.*mem_max only with NET_ADMIN in the first user namespace; else as much as the limit gives.
    if setsockopt(&fd, sockopt::SndBufForce, &SEND_BUFFER).is_err() {
        setsockopt(&fd, sockopt::SndBuf, &SEND_BUFFER).map_err(step("send buffer"))?;
    }
    if setsockopt(&fd, sockopt::RcvBufForce, &RECEIVE_BUFFER).is_err() {
        setsockopt(&fd, sockopt::RcvBuf, &RECEIVE_BUFFER).map_err(step("receive buffer"))?;
    }
    for (option, name) in [
        (libc::NETLINK_EXT_ACK, "extended acks"),
        (libc::NETLINK_CAP_ACK, "capped acks"),
        (libc::NETLINK_GET_STRICT_CHK, "strict dumps"),
    ] {
        sys::set_netlink_option(fd.as_fd(), option, 1).map_err(step(name))?;
    }
    bind(fd.as_raw_fd(), &NetlinkAddr::new(0, 0)).map_err(step("bind"))?;
    Ok(fd)
}

pub(crate) fn step(step: &'static str) -> impl Fn(Errno) -> OpenError {
    move |errno| OpenError::Socket { step, errno }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::HEADER;

    fn error(seq: u32, code: i32) -> Vec<u8> {
        let mut enc = Encoder::new();
        frame(&mut enc, ERROR, flags::CAPPED, |enc| {
            enc.raw(&code.to_ne_bytes());
            enc.raw(&[0; HEADER]);
        });
        enc.patch(8, &seq.to_ne_bytes());
        enc.as_bytes().to_vec()
    }

    fn feed(base: u32, count: usize, answers: &[(u32, i32)]) -> (Vec<Step>, Result<(), Error>) {
        let mut sorted = Answers::new(base, count, |_| {});
        let mut steps = Vec::new();
        for &(seq, code) in answers {
            let bytes = error(seq, code);
            for message in message::parse(&bytes) {
                steps.push(sorted.take(message));
            }
        }
        (steps, sorted.finish())
    }

    fn failed(result: Result<(), Error>) -> Vec<(Option<usize>, Errno)> {
        match result {
            Err(Error::Rejected(r)) => r.failures.iter().map(|f| (f.index, f.errno)).collect(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn each_refused_message_is_named_by_its_place() {
        let (steps, result) = feed(10, 3, &[(11, -17), (13, -2)]);
        assert_eq!(steps, [Step::More, Step::Last]);
        assert_eq!(
            failed(result),
            [(Some(0), Errno::EEXIST), (Some(2), Errno::ENOENT)]
        );
    }

    #[test]
    fn answers_of_an_earlier_request_are_not_ours() {
        let (steps, result) = feed(10, 2, &[(9, -17), (12, 0)]);
        assert_eq!(steps, [Step::More, Step::Last]);
        assert!(result.is_ok());
    }

    #[test]
    fn a_refused_begin_refuses_the_batch_as_a_whole() {
        let (steps, result) = feed(10, 2, &[(10, -85)]);
        assert_eq!(steps, [Step::Last]);
        assert_eq!(failed(result), [(None, Errno::ERESTART)]);
    }

    #[test]
    fn sequence_numbers_may_wrap() {
        let (steps, result) = feed(u32::MAX, 2, &[(1, 0)]);
        assert_eq!(steps, [Step::Last]);
        assert!(result.is_ok());
    }
}
