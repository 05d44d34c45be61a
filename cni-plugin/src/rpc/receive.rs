//! The daemon's half: one request off a non-blocking socket, however it is cut.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use thiserror::Error;

use super::sys::receive_with;
use super::{Decoder, FrameError, Request};

/// Why a connection gave no request.
#[derive(Debug, Error)]
pub enum ReceiveError {
    /// The socket failed; `WouldBlock` means "again when it is readable".
    #[error("reading the request")]
    Socket(#[from] io::Error),
    /// The bytes are not a request.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The peer closed before its request was whole.
    #[error("the plugin hung up before its request was whole")]
    HungUp,
    /// More than one descriptor came.
    #[error("{0} descriptors came with one request")]
    Descriptors(usize),
}

/// A whole request and the sandbox it is about.
#[derive(Debug)]
pub struct Received {
    /// The request.
    pub request: Request,
    /// The opened `CNI_NETNS`, if the plugin could open it.
    pub sandbox: Option<OwnedFd>,
}

/// A request being received.
#[derive(Debug, Default)]
pub struct Incoming {
    decoder: Decoder,
    sandboxes: Vec<OwnedFd>,
}

impl Incoming {
    /// Reads what is there.
    ///
    /// # Errors
    /// [`ReceiveError::Socket`] with `WouldBlock` when nothing more is there yet; anything else ends the connection.
    pub fn advance(&mut self, socket: BorrowedFd<'_>) -> Result<Received, ReceiveError> {
        let mut bytes = [0; 16 * 1024];
        loop {
            let (read, descriptors) = receive_with(socket, &mut bytes)?;
            self.sandboxes.extend(descriptors);
            if read == 0 {
                return Err(ReceiveError::HungUp);
            }
            let Some(request) = self.decoder.push(bytes.get(..read).unwrap_or_default())? else {
                continue;
            };
            if self.sandboxes.len() > 1 {
                return Err(ReceiveError::Descriptors(self.sandboxes.len()));
            }
            let sandbox = self.sandboxes.pop();
            return Ok(Received { request, sandbox });
        }
    }
}
