//! A speaker that runs, and its start in the right order.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use bgp::io::{FibReader, Handle, ListenConfig, SpawnError, Stopped};
use bgp::speaker::{FibUpdate, Restarting, Settings};
use bgp::{Family, FamilySet};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};

use super::{Deps, Pending, difference, facts, log};
use crate::fib::LearntRoutes;
use crate::peering::{Originated, Wanted};
use crate::world::{Request, WorldHandle};

/// Each family is announced as synced once, and once more at most when a speaker is told anew.
const SYNCED: usize = 4;

/// A speaker that runs. Its helpers end with it.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) handle: Handle,
    pub(super) driver: JoinHandle<()>,
    pub(super) listen: Vec<SocketAddr>,
    pub(super) since: Instant,
    /// Families that are not complete yet.
    pub(super) pending: Pending,
    /// The World's task was told that all are.
    pub(super) complete: bool,
    pub(super) synced: mpsc::Receiver<Family>,
    originated: Originated,
    unresolved: BTreeSet<IpAddr>,
    /// Forwarding of best routes, logging of events.
    helpers: JoinSet<()>,
}

/// Why a speaker does not start.
#[derive(Debug, thiserror::Error)]
pub(super) enum StartError {
    #[error(transparent)]
    Listen(#[from] SpawnError),
    #[error(transparent)]
    Stopped(#[from] Stopped),
}

/// Starts a speaker: listen, announce, next hops, best routes, events, peers.
pub(super) async fn start(
    deps: &Deps,
    wanted: &Wanted,
    forwarding: FamilySet,
    unresolved: &BTreeSet<IpAddr>,
) -> Result<Running, StartError> {
    let restarting = (!forwarding.is_empty()).then_some(Restarting { forwarding });
    let settings = Settings {
        restarting,
        ..Settings::default()
    };
    let listen = ListenConfig {
        addresses: wanted.listen.clone(),
    };
    let (handle, driver) = bgp::io::spawn(bgp::Speaker::new(settings, deps.seed), &listen)?;
    tracing::info!(listen = ?wanted.listen, restarting = !forwarding.is_empty(), "BGP runs");
    let (told, synced) = mpsc::channel(SYNCED);
    let mut running = Running {
        driver,
        listen: wanted.listen.clone(),
        since: crate::clock::now(),
        pending: Pending(Family::ALL.into_iter().collect()),
        complete: false,
        synced,
        originated: Originated::new(),
        unresolved: BTreeSet::new(),
        helpers: JoinSet::new(),
        handle,
    };
    running.originate(&wanted.originate).await?;
    running.next_hops(unresolved).await?;
    let routes = running.handle.fib_changes().await?;
    running
        .helpers
        .spawn(forward(routes, deps.world.clone(), told));
    running.helpers.spawn(log::events(running.handle.events()));
    if let Some(desired) = &wanted.desired {
        let plan = running.handle.reconcile(desired.clone()).await?;
        log::plan(&plan);
        running.pending.limit(desired);
    }
    Ok(running)
}

impl Running {
    /// Announces what is wanted and withdraws what is not.
    pub(super) async fn originate(&mut self, wanted: &Originated) -> Result<(), Stopped> {
        let diff = difference(&self.originated, wanted);
        if diff.add.is_empty() && diff.remove.is_empty() {
            return Ok(());
        }
        tracing::info!(
            added = diff.add.len(),
            removed = diff.remove.len(),
            "announced prefixes change"
        );
        self.handle.originate(diff).await?;
        self.originated.clone_from(wanted);
        Ok(())
    }

    /// Tells which next hops are lost and which are found again.
    pub(super) async fn next_hops(&mut self, unresolved: &BTreeSet<IpAddr>) -> Result<(), Stopped> {
        let facts = facts(&self.unresolved, unresolved);
        if facts.changed.is_empty() {
            return Ok(());
        }
        self.handle.next_hops(facts).await?;
        self.unresolved.clone_from(unresolved);
        Ok(())
    }
}

/// Best routes to the World's task, in order. While that one is busy nothing is read, and the speaker coalesces.
async fn forward(mut routes: FibReader, world: WorldHandle, synced: mpsc::Sender<Family>) {
    while let Some(update) = routes.next().await {
        let (news, family) = match update {
            FibUpdate::Changes(batch) => (LearntRoutes::Changes(batch), None),
            FibUpdate::Synced(family) => (LearntRoutes::Synced(family), Some(family)),
        };
        if world.send(Request::Learnt(news)).await.is_err() {
            return;
        }
        if let Some(family) = family
            && synced.send(family).await.is_err()
        {
            return;
        }
    }
}
