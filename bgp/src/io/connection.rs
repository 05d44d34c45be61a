//! One TCP connection: dialled or accepted, then octets both ways.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use nix::sys::socket::{Shutdown, shutdown};
use std::os::fd::AsRawFd;
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::sys;
use crate::session::ConnId;
use crate::speaker::{ConnectRequest, Ttl};

/// Octets read at once.
const READ: usize = 64 * 1024;
/// Chunks written by one call.
const CHUNKS: usize = 64;
/// How long a closed connection may still deliver what was sent before.
const LINGER: Duration = Duration::from_secs(1);

/// What connections tell the driver.
#[derive(Debug)]
pub(super) enum Event {
    /// A peer called.
    Incoming(TcpStream, SocketAddr),
    /// A call was answered, or not.
    Dialled(ConnId, io::Result<TcpStream>),
    /// Octets arrived.
    Received(ConnId, Bytes),
    /// Octets left.
    Sent(ConnId, usize),
    /// The connection ended.
    Closed(ConnId, Option<Arc<str>>),
}

/// Calls a peer and reports the outcome.
pub(super) async fn dial(request: ConnectRequest, events: mpsc::Sender<Event>) {
    let late = || io::Error::new(io::ErrorKind::TimedOut, "no answer in time");
    let outcome = timeout(request.timeout, connect(&request))
        .await
        .unwrap_or_else(|_| Err(late()));
    // A driver that is gone needs no report.
    let _ = events.send(Event::Dialled(request.conn, outcome)).await;
}

async fn connect(request: &ConnectRequest) -> io::Result<TcpStream> {
    let socket = if request.remote.is_ipv4() {
        TcpSocket::new_v4()
    } else {
        TcpSocket::new_v6()
    }?;
    prepare(socket.as_fd(), request.remote, request.ttl)?;
    if request.password.is_some() {
        sys::set_md5(
            socket.as_fd(),
            request.remote.ip(),
            request.password.as_ref(),
        )?;
    }
    if let Some(local) = request.local {
        socket.bind(SocketAddr::new(local, 0))?;
    }
    socket.connect(request.remote).await
}

/// Sets what must hold before the first octet.
///
/// # Errors
/// What the kernel says.
pub(super) fn prepare(
    socket: std::os::fd::BorrowedFd<'_>,
    remote: SocketAddr,
    ttl: Ttl,
) -> io::Result<()> {
    sys::set_ttl(socket, remote.ip().to_canonical(), ttl)
}

/// Moves octets until either side ends. When `writes` closes, what it held is written, then the connection is shut
/// down; octets of the peer are read on for a moment, because a close with unread octets is a reset that could
/// overtake a NOTIFICATION.
pub(super) async fn run(
    conn: ConnId,
    stream: Arc<TcpStream>,
    writes: mpsc::Receiver<Bytes>,
    events: mpsc::Sender<Event>,
) {
    let ended = {
        let reader = read(conn, &stream, &events);
        let writer = write(conn, &stream, writes, &events);
        tokio::pin!(reader, writer);
        tokio::select! {
            ended = &mut reader => ended,
            ended = &mut writer => match ended {
                Ok(()) => {
                    // The driver forgot this connection: what is read now is thrown away, whatever comes of it.
                    let _ = timeout(LINGER, discard(&stream)).await;
                    return;
                }
                Err(error) => Err(error),
            },
        }
    };
    let error = ended.err().map(|error| Arc::from(error.to_string()));
    // A driver that is gone needs no report.
    let _ = events.send(Event::Closed(conn, error)).await;
}

/// Ends well at the end of the stream.
async fn read(conn: ConnId, stream: &TcpStream, events: &mpsc::Sender<Event>) -> io::Result<()> {
    let mut buffer = BytesMut::new();
    loop {
        stream.readable().await?;
        buffer.reserve(READ);
        match stream.try_read_buf(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(_) => {
                if events
                    .send(Event::Received(conn, buffer.split().freeze()))
                    .await
                    .is_err()
                {
                    return Ok(());
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}

async fn discard(stream: &TcpStream) -> io::Result<()> {
    let mut buffer = BytesMut::with_capacity(READ);
    loop {
        stream.readable().await?;
        buffer.clear();
        match stream.try_read_buf(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}

/// Ends well when `writes` closed and everything was written.
async fn write(
    conn: ConnId,
    stream: &TcpStream,
    mut writes: mpsc::Receiver<Bytes>,
    events: &mpsc::Sender<Event>,
) -> io::Result<()> {
    let mut chunks = Vec::with_capacity(CHUNKS);
    while writes.recv_many(&mut chunks, CHUNKS).await > 0 {
        let mut pending = chunks
            .drain(..)
            .collect::<std::collections::VecDeque<Bytes>>();
        while !pending.is_empty() {
            stream.writable().await?;
            let slices: Vec<IoSlice<'_>> =
                pending.iter().map(|chunk| IoSlice::new(chunk)).collect();
            match stream.try_write_vectored(&slices) {
                Ok(written) => {
                    advance(&mut pending, written);
                    if events.send(Event::Sent(conn, written)).await.is_err() {
                        return Ok(());
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }
    shutdown(stream.as_raw_fd(), Shutdown::Write).map_err(io::Error::from)
}

fn advance(pending: &mut std::collections::VecDeque<Bytes>, mut written: usize) {
    while let Some(front) = pending.front_mut() {
        if front.len() > written {
            front.advance(written);
            return;
        }
        written -= front.len();
        pending.pop_front();
    }
}
