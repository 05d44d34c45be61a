//! Deleting links of pods, many at once.
//!
//! Deleting one veth costs the kernel about 24 ms of grace periods, whoever else waits. So links that want to die
//! while the kernel is at it gather, are moved into one interface group, and go by a single request that pays once.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};

use netlink::netns;
use netlink::{Batch, Errno, Error, OpenError, Protocol as Family, SharedSocket, Socket};
use rtnetlink::{LinkMessageBuilder, LinkUnspec};
use tokio::sync::oneshot;

use super::devices;
use super::rtm;
use crate::link::IfName;

/// Interface group of links that are about to be deleted: "marg" in ASCII. Nobody else's links are ever put there.
const DYING: u32 = 0x6d61_7267;

/// Why a link could not be deleted.
#[derive(Debug, Clone, thiserror::Error)]
pub enum DetachError {
    /// The kernel refused.
    #[error("delete {name}: {reason}")]
    Refused {
        /// The link.
        name: IfName,
        /// The kernel's words.
        reason: Arc<str>,
    },
    /// The task that deletes ended early.
    #[error("delete {name}: the deleting task ended")]
    Abandoned {
        /// The link.
        name: IfName,
    },
}

type Outcome = Result<(), Arc<str>>;

#[derive(Debug)]
struct Waiting {
    name: IfName,
    done: oneshot::Sender<Outcome>,
}

/// Deletes links in groups. Cheap to clone. Must be used inside a tokio runtime.
#[derive(Debug, Clone)]
pub struct Detacher {
    socket: SharedSocket,
    /// Who waits; the one who finds it empty starts the round. Bounded by the callers, each of which waits.
    waiting: Arc<Mutex<Vec<Waiting>>>,
}

impl Detacher {
    /// Works in the calling thread's namespace.
    ///
    /// # Errors
    /// [`OpenError`] when there is no socket.
    pub fn open() -> Result<Self, OpenError> {
        Self::open_in(netns::current()?)
    }

    /// Works in another namespace.
    ///
    /// # Errors
    /// [`OpenError`] when there is no socket or the namespace cannot be entered.
    pub fn open_in(host: OwnedFd) -> Result<Self, OpenError> {
        Ok(Self {
            socket: SharedSocket::new(Socket::open_in(host, Family::Route)?),
            waiting: Arc::default(),
        })
    }

    /// Deletes a link with everything on it, together with others that wait. One that is gone is fine.
    ///
    /// # Errors
    /// [`DetachError::Refused`] with the kernel's words.
    pub async fn detach(&self, name: IfName) -> Result<(), DetachError> {
        let (done, outcome) = oneshot::channel();
        let first = {
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            waiting.push(Waiting {
                name: name.clone(),
                done,
            });
            waiting.len() == 1
        };
        if first {
            // A task of its own: the caller may be dropped, those who wait with it must not be.
            tokio::spawn(self.clone().round());
        }
        match outcome.await {
            Ok(outcome) => outcome.map_err(|reason| DetachError::Refused { name, reason }),
            Err(_) => Err(DetachError::Abandoned { name }),
        }
    }

    async fn round(self) {
        let gathered = Arc::clone(&self.waiting);
        // Taken once the socket is free: who came while an earlier round was in the kernel goes with this one, and nobody waits
        // for company that may not come.
        let round = move |socket: &mut Socket| {
            let waiting =
                std::mem::take(&mut *gathered.lock().unwrap_or_else(PoisonError::into_inner));
            let names: Vec<_> = waiting.iter().map(|one| one.name.clone()).collect();
            for (one, outcome) in waiting.into_iter().zip(delete(socket, &names)) {
                // The caller may have gone; the link went all the same.
                drop(one.done.send(outcome));
            }
            Ok::<_, Error>(())
        };
        if let Err(error) = self.socket.with(round).await {
            tracing::error!(%error, "a round of deletions was abandoned");
        }
    }
}

/// Deletes links by group, or one by one when the group is refused. One outcome per name.
fn delete(socket: &mut Socket, names: &[IfName]) -> Vec<Outcome> {
    if let [name] = names {
        return vec![delete_one(socket, name)];
    }
    if move_into_group(socket, names).is_ok() && delete_group(socket).is_ok() {
        return names.iter().map(|_| Ok(())).collect();
    }
    names.iter().map(|name| delete_one(socket, name)).collect()
}

/// Marks the links; those that are gone are skipped. A leftover of a round that died between the two requests is harmless: it was
/// to be deleted and is, by the next round.
fn move_into_group(socket: &mut Socket, names: &[IfName]) -> Result<(), Error> {
    let mut batch = Batch::new();
    for name in names {
        let message = LinkUnspec::new_with_name(name.as_str())
            .link_group(DYING)
            .down()
            .build();
        rtm::push(&mut batch, rtm::NEWLINK, 0, &message);
    }
    match socket.submit(&mut batch) {
        Err(Error::Rejected(rejected))
            if rejected.failures.iter().all(|f| f.errno == Errno::ENODEV) =>
        {
            Ok(())
        }
        other => other,
    }
}

fn delete_group(socket: &mut Socket) -> Result<(), Error> {
    let mut batch = Batch::new();
    let message = LinkMessageBuilder::<LinkUnspec>::new()
        .link_group(DYING)
        .build();
    rtm::push(&mut batch, rtm::DELLINK, 0, &message);
    match socket.submit(&mut batch) {
        Err(error) if error.errno() == Some(Errno::ENODEV) => Ok(()),
        other => other,
    }
}

fn delete_one(socket: &mut Socket, name: &IfName) -> Outcome {
    let result = devices::find(socket, name).and_then(|link| {
        let mut batch = Batch::new();
        super::tunnels::push_delete(&mut batch, link.index);
        socket.submit(&mut batch)
    });
    match result {
        Err(error) if error.errno() != Some(Errno::ENODEV) => Err(error.to_string().into()),
        Ok(()) | Err(_) => Ok(()),
    }
}
