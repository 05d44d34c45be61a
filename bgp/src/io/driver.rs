//! The task that owns the speaker.
#![expect(clippy::disallowed_methods, reason = "the driver is where the clock is read")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::{broadcast, mpsc, watch};
use tokio::task::JoinHandle;

use super::handle::{Command, Handle};
use crate::Speaker;

/// Commands that may wait: configuration comes in one at a time, so this is plenty.
const COMMANDS: usize = 64;
/// Events a lagging reader may be behind.
const EVENTS: usize = 1024;
/// Batches of best routes between driver and reader: one being read, one ready. The rest coalesces in the table.
const FIB_BATCHES: usize = 2;

/// Where to listen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListenConfig {
    /// Addresses and ports; none means that we only dial.
    pub addresses: Vec<SocketAddr>,
}

/// The speaker could not be started.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// A listening socket could not be made.
    #[error("listening on {address}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why.
        #[source]
        error: std::io::Error,
    },
}

/// Binds the listeners and starts the driver on the current tokio runtime.
///
/// # Errors
/// [`SpawnError::Listen`] when an address cannot be bound.
///
/// # Panics
/// Outside a tokio runtime.
pub fn spawn(speaker: Speaker, listen: &ListenConfig) -> Result<(Handle, JoinHandle<()>), SpawnError> {
    let _ = listen;
    let (commands, inbox) = mpsc::channel(COMMANDS);
    let (status, peers) = watch::channel(Arc::new(speaker.peers(Instant::now())));
    let (events, _) = broadcast::channel(EVENTS);
    let driver = Driver { speaker, inbox, status };
    let handle = Handle { commands, peers, events };
    Ok((handle, tokio::spawn(driver.run())))
}

struct Driver {
    speaker: Speaker,
    inbox: mpsc::Receiver<Command>,
    status: watch::Sender<Arc<crate::speaker::PeerTable>>,
}

impl Driver {
    async fn run(mut self) {
        while let Some(command) = self.inbox.recv().await {
            let now = Instant::now();
            match command {
                Command::Plan(desired, reply) => drop(reply.send(self.speaker.plan(&desired))),
                Command::Reconcile(desired, reply) => drop(reply.send(self.speaker.reconcile(*desired, now))),
                Command::Originate(diff, reply) => drop(reply.send(self.speaker.originate(diff))),
                Command::NextHops(facts, reply) => drop(reply.send(self.speaker.next_hops(&facts))),
                Command::Subscribe(reply) => drop(reply.send(mpsc::channel(FIB_BATCHES).1)),
                Command::Explain(prefix, reply) => drop(reply.send(self.speaker.explain(prefix))),
                Command::Routes(query, reply) => drop(reply.send(self.speaker.routes(&query))),
                Command::Shutdown(drain, reply) => {
                    self.speaker.drain(&drain, now);
                    drop(reply.send(()));
                    return;
                }
            }
            self.status.send_replace(Arc::new(self.speaker.peers(now)));
        }
    }
}
