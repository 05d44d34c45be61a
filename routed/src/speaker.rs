//! The task that owns the BGP speaker of this node.
//!
//! ```text
//!  World's task ── Wanted (watch) ─────► this task ── reconcile, originate, next hops ──► bgp::io
//!               ── unresolved (watch) ─►     │ ▲                                            │
//!               ◄── LearntRoutes (requests) ─┼─┴── synced (mpsc, one a family) ◄── forward ◄┤ best routes
//!                                            └──► Handle (watch): inspect, metrics          └► events ► log
//! ```
//!
//! - Order of a start: listen, announce, next hops, best routes, events, and peers last: nobody is dialled before we know what to
//!   tell him.
//! - Nothing starts before the World said what is wanted. The first configuration waits a little longer when passwords are still
//!   being read: a start without those peers would end the deferral, and with it sweep their routes.
//! - An address that cannot be bound is retried; it is a readiness failure meanwhile, not a reason to leave.
//! - Other listen addresses mean another speaker: the old one closes without NOTIFICATION, so peers keep our routes, and the routes
//!   learnt from it stay until the new one told everything.
//! - The stop of the daemon closes sessions without NOTIFICATION. BGP turned off by configuration says so to the peers.

mod log;
mod start;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bgp::io::Handle;
use bgp::speaker::{Drain, NextHopFacts, OriginateDiff, Resolution};
use bgp::{Family, FamilySet};
use tokio::sync::watch;

use crate::fib::LearntRoutes;
use crate::health::Health;
use crate::peering::{Originated, Wanted};
use crate::world::{Request, Unprogrammed, WorldHandle};
use start::Running;

/// Name of the readiness check and of the heartbeat.
const CHECK: &str = "bgp";
/// Between heartbeats.
const BEAT: Duration = Duration::from_secs(20);
/// Between attempts to listen.
const RETRY: Duration = Duration::from_secs(5);
/// How long the first configuration waits for passwords that are not known yet.
const PASSWORDS: Duration = Duration::from_secs(10);
/// Deferral ends after 120 s at the latest (RFC 4724 §4.1); readiness waits for it this long and no longer.
const DEFERRAL: Duration = Duration::from_secs(125);
/// How long closing may take.
const CLOSING: Duration = Duration::from_secs(3);

/// What the task works with. [`crate::agent`] makes the channels.
#[derive(Debug)]
pub struct Deps {
    /// What the speaker should be; `None` until it is known.
    pub peering: watch::Receiver<Option<Wanted>>,
    /// Next hops that cannot be reached, from [`crate::fib::Fib::unresolved`].
    pub unresolved: watch::Receiver<Arc<BTreeSet<IpAddr>>>,
    /// Takes best routes.
    pub world: WorldHandle,
    /// Where the running speaker is published.
    pub handle: watch::Sender<Option<Handle>>,
    /// Takes readiness and heartbeats.
    pub health: Arc<Health>,
    /// Learnt routes of a former daemon were found in the kernel: peers are told that forwarding went on.
    pub restarting: bool,
    /// Randomness for jitter.
    pub seed: u64,
    /// True = leave.
    pub stop: watch::Receiver<bool>,
}

/// Why the task cannot go on.
#[derive(Debug, thiserror::Error)]
enum Fatal {
    /// The speaker's driver ended by itself.
    #[error("the BGP speaker ended by itself")]
    Speaker(#[source] Option<tokio::task::JoinError>),
    /// The World's task is gone.
    #[error(transparent)]
    World(#[from] Unprogrammed),
    /// The driver answers nothing.
    #[error(transparent)]
    Stopped(#[from] bgp::io::Stopped),
    /// Whoever says what is wanted is gone.
    #[error("the configuration of the speaker comes from nowhere any more")]
    Orphaned,
}

/// How a stage ends.
enum Next {
    /// The daemon stops.
    Leave,
    /// Look at what is wanted again.
    Again,
}

/// Runs the speaker as wanted until told to stop. Ends early only when going on makes no sense; the reason is logged, kernel routes
/// stay, and peers keep ours while the daemon starts anew.
pub async fn run(deps: Deps) {
    let (health, handle) = (Arc::clone(&deps.health), deps.handle.clone());
    let mut task = Task {
        deps,
        running: None,
        restarts: false,
        told_off: false,
    };
    if let Err(error) = task.run().await {
        let source = std::error::Error::source(&error).map(ToString::to_string);
        tracing::error!(%error, cause = source, "BGP stops");
        health.set(CHECK, false, error.to_string(), crate::clock::now());
    }
    handle.send_replace(None);
    health.rest(CHECK);
}

struct Task {
    deps: Deps,
    running: Option<Running>,
    /// A speaker ran before in this daemon, so the next one takes over from it.
    restarts: bool,
    /// The World's task knows that BGP does not run.
    told_off: bool,
}

impl Task {
    async fn run(&mut self) -> Result<(), Fatal> {
        self.deps.health.set(
            CHECK,
            false,
            "waiting to learn whether BGP runs here",
            crate::clock::now(),
        );
        loop {
            self.beat();
            let wanted = self.deps.peering.borrow_and_update().clone();
            let next = match wanted {
                None => self.wait(None).await?,
                Some(Wanted { desired: None, .. }) => self.off().await?,
                Some(wanted) if self.fits(&wanted).await? => self.apply(&wanted).await?,
                Some(wanted) => self.begin(&wanted).await?,
            };
            match next {
                Next::Again => {}
                Next::Leave => {
                    self.close(&Drain::Restart).await;
                    return Ok(());
                }
            }
        }
    }

    /// Whether a speaker runs that listens where it should; one that does not is closed for the next to take over.
    async fn fits(&mut self, wanted: &Wanted) -> Result<bool, Fatal> {
        match &self.running {
            None => Ok(false),
            Some(running) if running.listen == wanted.listen => Ok(true),
            Some(running) => {
                tracing::info!(from = ?running.listen, to = ?wanted.listen, "BGP listens elsewhere");
                self.close(&Drain::Restart).await;
                self.deps
                    .world
                    .send(Request::Learnt(LearntRoutes::Restarted))
                    .await?;
                Ok(false)
            }
        }
    }

    /// BGP does not run: says so to peers once, and to the World's task.
    async fn off(&mut self) -> Result<Next, Fatal> {
        if self.running.is_some() {
            tracing::info!("BGP is turned off on this node");
            let text = "BGP was turned off on this node".to_owned();
            self.close(&Drain::Shutdown { text }).await;
            self.restarts = false;
        }
        if !self.told_off {
            self.deps
                .world
                .send(Request::Learnt(LearntRoutes::Withdrawn))
                .await?;
            self.told_off = true;
        }
        self.deps.health.set(
            CHECK,
            true,
            "BGP does not run on this node",
            crate::clock::now(),
        );
        self.wait(None).await
    }

    /// Starts a speaker, or waits and tries again.
    async fn begin(&mut self, wanted: &Wanted) -> Result<Next, Fatal> {
        if wanted.incomplete
            && self.first()
            && let Some(next) = self.await_passwords().await?
        {
            return Ok(next);
        }
        let wanted = self.deps.peering.borrow_and_update().clone();
        let Some(wanted) = wanted.filter(|wanted| wanted.desired.is_some()) else {
            return Ok(Next::Again);
        };
        // Whatever restarts here, the kernel's routes of every family stay: forwarding goes on.
        let takes_over = self.restarts || (self.deps.restarting && !self.told_off);
        let forwarding = if takes_over {
            FamilySet::ALL
        } else {
            FamilySet::EMPTY
        };
        let unresolved = Arc::clone(&self.deps.unresolved.borrow_and_update());
        match start::start(&self.deps, &wanted, forwarding, &unresolved).await {
            Ok(running) => {
                self.deps.handle.send_replace(Some(running.handle.clone()));
                self.running = Some(running);
                self.restarts = true;
                self.told_off = false;
                self.watch_over().await
            }
            Err(start::StartError::Listen(error)) => {
                let cause = std::error::Error::source(&error)
                    .map(ToString::to_string)
                    .unwrap_or_default();
                let reason = format!("{error}: {cause}");
                tracing::warn!(reason, retry_s = RETRY.as_secs(), "BGP cannot listen");
                self.deps
                    .health
                    .set(CHECK, false, reason, crate::clock::now());
                self.wait(Some(RETRY)).await
            }
            Err(start::StartError::Stopped(stopped)) => Err(stopped.into()),
        }
    }

    fn first(&self) -> bool {
        self.running.is_none() && !self.restarts
    }

    /// Gives passwords a moment. `Some` when something else came up.
    async fn await_passwords(&mut self) -> Result<Option<Next>, Fatal> {
        self.deps.health.set(
            CHECK,
            false,
            "waiting for BGP passwords",
            crate::clock::now(),
        );
        let complete =
            |wanted: &Option<Wanted>| wanted.as_ref().is_none_or(|wanted| !wanted.incomplete);
        tokio::select! {
            found = tokio::time::timeout(PASSWORDS, self.deps.peering.wait_for(complete)) => match found {
                Ok(Ok(_)) | Err(_) => Ok(None),
                Ok(Err(_gone)) => Err(Fatal::Orphaned),
            },
            () = stopped(&mut self.deps.stop) => Ok(Some(Next::Leave)),
        }
    }

    /// Hands a running speaker what is wanted now.
    async fn apply(&mut self, wanted: &Wanted) -> Result<Next, Fatal> {
        if let Some(running) = &mut self.running {
            running.originate(&wanted.originate).await?;
            if let Some(desired) = &wanted.desired {
                let plan = running.handle.reconcile(desired.clone()).await?;
                log::plan(&plan);
                running.pending.limit(desired);
            }
        }
        self.watch_over().await
    }

    /// Looks after a running speaker until what is wanted changes.
    async fn watch_over(&mut self) -> Result<Next, Fatal> {
        loop {
            self.beat();
            self.settle().await?;
            let Some(running) = &mut self.running else {
                return Ok(Next::Again);
            };
            tokio::select! {
                changed = self.deps.peering.changed() => {
                    changed.map_err(|_gone| Fatal::Orphaned)?;
                    return Ok(Next::Again);
                }
                changed = self.deps.unresolved.changed() => {
                    changed.map_err(|_gone| Fatal::Orphaned)?;
                    let unresolved = Arc::clone(&self.deps.unresolved.borrow_and_update());
                    running.next_hops(&unresolved).await?;
                }
                Some(family) = running.synced.recv() => running.pending.done(family),
                ended = &mut running.driver => return Err(Fatal::Speaker(ended.err())),
                () = tokio::time::sleep(BEAT) => {}
                () = stopped(&mut self.deps.stop) => return Ok(Next::Leave),
            }
        }
    }

    /// Readiness, and the end of the sweep's patience.
    async fn settle(&mut self) -> Result<(), Fatal> {
        let Some(running) = &mut self.running else {
            return Ok(());
        };
        let now = crate::clock::now();
        if running.pending.is_empty() {
            if !running.complete {
                running.complete = true;
                self.deps
                    .world
                    .send(Request::Learnt(LearntRoutes::Complete))
                    .await?;
            }
            self.deps.health.set(CHECK, true, "", now);
        } else if now.saturating_duration_since(running.since) > DEFERRAL {
            self.deps.health.set(
                CHECK,
                true,
                "deferral has not ended in time; learnt routes of the former run stay",
                now,
            );
        } else {
            let reason = format!("waiting for the initial routes of {}", running.pending);
            self.deps.health.set(CHECK, false, reason, now);
        }
        Ok(())
    }

    /// Waits until something changes, or for a while.
    async fn wait(&mut self, limit: Option<Duration>) -> Result<Next, Fatal> {
        let pause = limit.unwrap_or(BEAT);
        tokio::select! {
            changed = self.deps.peering.changed() => changed.map(|()| Next::Again).map_err(|_gone| Fatal::Orphaned),
            () = tokio::time::sleep(pause) => Ok(Next::Again),
            () = stopped(&mut self.deps.stop) => Ok(Next::Leave),
        }
    }

    /// Closes the running speaker, if there is one.
    async fn close(&mut self, drain: &Drain) {
        let Some(running) = self.running.take() else {
            return;
        };
        self.deps.handle.send_replace(None);
        match tokio::time::timeout(CLOSING, running.handle.shutdown(drain.clone())).await {
            Ok(Ok(())) => tracing::info!(?drain, "BGP closed"),
            Ok(Err(error)) => tracing::warn!(%error, "BGP was closed before"),
            Err(_) => tracing::warn!("BGP did not close in time"),
        }
    }

    fn beat(&self) {
        self.deps.health.beat(CHECK, crate::clock::now());
    }
}

/// Returns when the daemon stops, or when nobody is left to say so.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    // An error means the sender is gone, which is the same news.
    let _ = stop.wait_for(|stop| *stop).await;
}

/// Families whose initial routes are not complete yet.
#[derive(Clone, Copy, Debug)]
struct Pending(FamilySet);

impl Pending {
    fn done(&mut self, family: Family) {
        self.0.remove(family);
    }

    /// Families that no peer carries are not waited for.
    fn limit(&mut self, desired: &bgp::speaker::Desired) {
        let used = desired.peers.values().flat_map(|peer| peer.families.iter());
        self.0 = self.0.intersection(used.collect());
    }

    fn is_empty(self) -> bool {
        self.0.is_empty()
    }
}

impl std::fmt::Display for Pending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<String> = self.0.iter().map(|family| family.to_string()).collect();
        f.write_str(&names.join(" and "))
    }
}

/// What turns one set of announced prefixes into another.
fn difference(from: &Originated, to: &Originated) -> OriginateDiff {
    let add = to
        .iter()
        .filter(|(key, route)| from.get(*key) != Some(*route))
        .map(|(_, route)| route.clone());
    let remove = from.keys().filter(|key| !to.contains_key(*key)).cloned();
    OriginateDiff {
        add: add.collect(),
        remove: remove.collect(),
    }
}

/// What turns one set of unresolved next hops into another.
fn facts(from: &BTreeSet<IpAddr>, to: &BTreeSet<IpAddr>) -> NextHopFacts {
    let lost = to
        .difference(from)
        .map(|address| (*address, Resolution::Unresolved));
    let found = from
        .difference(to)
        .map(|address| (*address, Resolution::Resolved { metric: 0 }));
    NextHopFacts {
        changed: lost.chain(found).collect(),
    }
}

#[cfg(test)]
mod tests;
