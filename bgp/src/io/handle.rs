//! What the daemon holds of a running speaker.

use std::sync::Arc;

use ipnet::IpNet;
use tokio::sync::{Notify, broadcast, mpsc, oneshot, watch};

use crate::speaker::{
    Desired, Drain, Event, Explanation, FibUpdate, NextHopFacts, OriginateDiff, PeerTable, Plan,
    RouteQuery, RouteRow,
};

/// A running speaker. Cheap to clone; the driver ends when [`Handle::shutdown`] was called or the last handle is gone.
#[derive(Clone, Debug)]
pub struct Handle {
    pub(super) commands: mpsc::Sender<Command>,
    pub(super) peers: watch::Receiver<Arc<PeerTable>>,
    pub(super) events: broadcast::Sender<Event>,
    pub(super) fib_wake: Arc<Notify>,
}

/// The driver is gone: it was shut down, or it panicked (its `JoinHandle` knows).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the BGP speaker has stopped")]
pub struct Stopped;

/// What a handle asks of the driver.
#[derive(Debug)]
pub(super) enum Command {
    Plan(Box<Desired>, oneshot::Sender<Plan>),
    Reconcile(Box<Desired>, oneshot::Sender<Plan>),
    Originate(OriginateDiff, oneshot::Sender<()>),
    NextHops(NextHopFacts, oneshot::Sender<()>),
    Subscribe(oneshot::Sender<mpsc::Receiver<FibUpdate>>),
    Explain(IpNet, oneshot::Sender<Explanation>),
    Routes(RouteQuery, oneshot::Sender<Vec<RouteRow>>),
    Shutdown(Drain, oneshot::Sender<()>),
}

impl Handle {
    /// Snapshots of all peers, renewed at most every 100 ms when something changed.
    pub fn peers(&self) -> watch::Receiver<Arc<PeerTable>> {
        self.peers.clone()
    }

    /// Events from now on. A reader that falls 1,024 behind loses the oldest and is told so by the channel.
    pub fn events(&self) -> broadcast::Receiver<Event> {
        self.events.subscribe()
    }

    /// Says what [`Handle::reconcile`] would do.
    ///
    /// # Errors
    /// [`Stopped`] when the driver is gone.
    pub async fn plan(&self, desired: Desired) -> Result<Plan, Stopped> {
        self.ask(|reply| Command::Plan(Box::new(desired), reply))
            .await
    }

    /// Makes `desired` the configuration; the answer says what changes and which sessions bounce, and why.
    ///
    /// # Errors
    /// [`Stopped`] when the driver is gone.
    pub async fn reconcile(&self, desired: Desired) -> Result<Plan, Stopped> {
        self.ask(|reply| Command::Reconcile(Box::new(desired), reply))
            .await
    }

    /// Changes the set of originated routes.
    ///
    /// # Errors
    /// [`Stopped`] when the driver is gone.
    pub async fn originate(&self, diff: OriginateDiff) -> Result<(), Stopped> {
        self.ask(|reply| Command::Originate(diff, reply)).await
    }

    /// Reports what became known about next hops.
    ///
    /// # Errors
    /// [`Stopped`] when the driver is gone.
    pub async fn next_hops(&self, facts: NextHopFacts) -> Result<(), Stopped> {
        self.ask(|reply| Command::NextHops(facts, reply)).await
    }

    /// A reader of best routes that starts with everything known.
    ///
    /// # Errors
    /// [`Stopped`] when the driver is gone.
    pub async fn fib_changes(&self) -> Result<FibReader, Stopped> {
        let updates = self.ask(Command::Subscribe).await?;
        Ok(FibReader {
            updates,
            wake: Arc::clone(&self.fib_wake),
        })
    }

    /// Why a prefix is used or not, and what every peer is told.
    ///
    /// # Errors
    /// [`Stopped`] when the driver is gone.
    pub async fn explain(&self, prefix: IpNet) -> Result<Explanation, Stopped> {
        self.ask(|reply| Command::Explain(prefix, reply)).await
    }

    /// Routes in order of prefix, a page at a time.
    ///
    /// # Errors
    /// [`Stopped`] when the driver is gone.
    pub async fn routes(&self, query: RouteQuery) -> Result<Vec<RouteRow>, Stopped> {
        self.ask(|reply| Command::Routes(query, reply)).await
    }

    /// Leaves. Returns when every connection was told (or not, see [`Drain::Restart`]) and closed, after 2 s at most.
    ///
    /// # Errors
    /// [`Stopped`] when the driver was gone before.
    pub async fn shutdown(&self, drain: Drain) -> Result<(), Stopped> {
        self.ask(|reply| Command::Shutdown(drain, reply)).await
    }

    async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<T>) -> Command,
    ) -> Result<T, Stopped> {
        let (reply, answer) = oneshot::channel();
        self.commands
            .send(command(reply))
            .await
            .ok()
            .ok_or(Stopped)?;
        answer.await.ok().ok_or(Stopped)
    }
}

/// Reads best-path changes. A slow reader gets coalesced state: nothing queues up for it.
#[derive(Debug)]
pub struct FibReader {
    updates: mpsc::Receiver<FibUpdate>,
    /// Tells the driver that there is room again.
    wake: Arc<Notify>,
}

impl FibReader {
    /// The next update; `None` when the speaker stopped.
    pub async fn next(&mut self) -> Option<FibUpdate> {
        let update = self.updates.recv().await;
        self.wake.notify_one();
        update
    }
}
