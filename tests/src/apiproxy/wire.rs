//! A connection that can fall mute: it stands, and no byte passes any more.

use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::rule::Book;

/// A TCP connection under the rules. Nobody wakes what waits in a mute connection: it is mute for good.
pub(super) struct Line {
    stream: TcpStream,
    peer: IpAddr,
    book: Arc<Mutex<Book>>,
    mute: bool,
}

impl Line {
    pub(super) fn new(stream: TcpStream, peer: IpAddr, book: Arc<Mutex<Book>>) -> Self {
        Self {
            stream,
            peer,
            book,
            mute: false,
        }
    }

    fn is_mute(&mut self) -> bool {
        self.mute = self.mute
            || self
                .book
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .mutes(self.peer);
        self.mute
    }
}

impl AsyncRead for Line {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // Bytes that arrive while the connection is mute wake this and stay in the kernel.
        if self.is_mute() {
            return Poll::Pending;
        }
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Line {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.is_mute() {
            return Poll::Pending;
        }
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.is_mute() {
            return Poll::Pending;
        }
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.is_mute() {
            return Poll::Pending;
        }
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
