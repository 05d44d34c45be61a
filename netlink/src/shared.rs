//! A socket used from async code.

use std::sync::Arc;

use tokio::sync::Mutex;
use tokio::task::spawn_blocking;

use crate::socket::{Error, Socket};

/// A [`Socket`] that async tasks take turns to use.
///
/// The kernel does the work of a request inside the send, holding its own locks, so a request runs on the runtime's blocking
/// pool. A caller that is dropped half-way does not take the socket with it: the request runs to its end, then the next goes.
#[derive(Debug, Clone)]
pub struct SharedSocket {
    inner: Arc<Mutex<Socket>>,
}

impl SharedSocket {
    /// Shares a socket.
    pub fn new(socket: Socket) -> Self {
        Self {
            inner: Arc::new(Mutex::new(socket)),
        }
    }

    /// Runs `work` with the socket once it is free.
    ///
    /// # Errors
    /// What `work` returns; [`Error::Panicked`] when it panicked.
    pub async fn with<T, E>(
        &self,
        work: impl FnOnce(&mut Socket) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<Error> + Send + 'static,
    {
        let mut socket = Arc::clone(&self.inner).lock_owned().await;
        match spawn_blocking(move || work(&mut socket)).await {
            Ok(result) => result,
            Err(_) => Err(Error::Panicked.into()),
        }
    }
}
