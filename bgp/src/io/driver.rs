//! The task that owns the speaker.
#![expect(
    clippy::disallowed_methods,
    reason = "the driver is where the clock is read"
)]

use std::collections::HashMap;
use std::future::pending;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, broadcast, mpsc, oneshot, watch};
use tokio::task::{AbortHandle, JoinHandle, JoinSet};
use tokio::time::{sleep_until, timeout};

use super::connection::{self, Event as ConnEvent};
use super::handle::{Command, Handle};
use super::{listener, sys};
use crate::Speaker;
use crate::session::{ConnId, WINDOW_CHUNKS};
use crate::speaker::{
    ConnectRequest, Drain, Event, FibConsumer, FibUpdate, Input, ListenKey, Output, PeerTable,
};

/// Commands that may wait: configuration comes in one at a time, so this is plenty.
const COMMANDS: usize = 64;
/// Reports of connections that may wait, a read of up to 64 KiB each; full means that the peers are slowed down.
const REPORTS: usize = 256;
/// Events a lagging reader may be behind.
const EVENTS: usize = 1024;
/// Updates of best routes between driver and reader: one being read, one ready. The rest coalesces in the table.
const FIB_UPDATES: usize = 2;
/// Prefixes of one such update.
const FIB_BATCH: usize = 4096;
/// Beyond the send window: a NOTIFICATION, and what was queued when the window was counted.
const WRITE_SLACK: usize = 16;
/// Shortest time between two status snapshots.
const STATUS_EVERY: Duration = Duration::from_millis(100);
/// How long leaving may take.
const FAREWELL: Duration = Duration::from_secs(2);

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
        error: io::Error,
    },
}

/// Binds the listeners and starts the driver on the current tokio runtime.
///
/// # Errors
/// [`SpawnError::Listen`] when an address cannot be bound.
///
/// # Panics
/// Outside a tokio runtime.
pub fn spawn(
    speaker: Speaker,
    listen: &ListenConfig,
) -> Result<(Handle, JoinHandle<()>), SpawnError> {
    let (commands, inbox) = mpsc::channel(COMMANDS);
    let (reports, reported) = mpsc::channel(REPORTS);
    let (status, peers) = watch::channel(Arc::new(speaker.peers(Instant::now())));
    let (events, _) = broadcast::channel(EVENTS);
    let fib_wake = Arc::new(Notify::new());
    let mut tasks = JoinSet::new();
    let mut listeners = Vec::new();
    for address in &listen.addresses {
        let listener = listener::bind(*address).map_err(|error| SpawnError::Listen {
            address: *address,
            error,
        })?;
        let listener = Arc::new(listener);
        tasks.spawn(listener::run(Arc::clone(&listener), reports.clone()));
        listeners.push(listener);
    }
    let driver = Driver {
        speaker,
        inbox,
        reports,
        reported,
        status,
        status_at: None,
        acted: false,
        events: events.clone(),
        listeners,
        conns: HashMap::new(),
        fib: Vec::new(),
        fib_wake: Arc::clone(&fib_wake),
        listening: tasks,
        tasks: JoinSet::new(),
    };
    let handle = Handle {
        commands,
        peers,
        events,
        fib_wake,
    };
    Ok((handle, tokio::spawn(driver.run())))
}

/// A connection or a dial attempt.
struct Conn {
    task: AbortHandle,
    /// Present once it stands.
    open: Option<(Arc<TcpStream>, mpsc::Sender<Bytes>)>,
}

struct Driver {
    speaker: Speaker,
    inbox: mpsc::Receiver<Command>,
    reports: mpsc::Sender<ConnEvent>,
    reported: mpsc::Receiver<ConnEvent>,
    status: watch::Sender<Arc<PeerTable>>,
    /// When the next snapshot is due.
    status_at: Option<Instant>,
    /// Whether something happened since the last one.
    acted: bool,
    events: broadcast::Sender<Event>,
    listeners: Vec<Arc<TcpListener>>,
    conns: HashMap<ConnId, Conn>,
    fib: Vec<(FibConsumer, mpsc::Sender<FibUpdate>)>,
    fib_wake: Arc<Notify>,
    /// Aborted when the driver ends.
    listening: JoinSet<()>,
    tasks: JoinSet<()>,
}

enum Wake {
    Command(Option<Command>),
    Report(ConnEvent),
    Due,
    FibRoom,
}

impl Driver {
    async fn run(mut self) {
        loop {
            self.settle();
            match self.wake().await {
                Wake::Command(Some(Command::Shutdown(drain, reply))) => {
                    return self.leave(&drain, Some(reply)).await;
                }
                Wake::Command(None) => return self.leave(&Drain::Restart, None).await,
                Wake::Command(Some(command)) => self.command(command),
                Wake::Report(report) => self.report(report),
                Wake::Due | Wake::FibRoom => {}
            }
            // Octets that wait are taken in before any timer acts: our slowness is not the peer's death.
            for _ in 0..REPORTS {
                match self.reported.try_recv() {
                    Ok(report) => self.report(report),
                    Err(_) => break,
                }
            }
            let now = Instant::now();
            if self.speaker.next_deadline().is_some_and(|at| at <= now) {
                self.speaker.handle(Input::Tick, now);
            }
        }
    }

    async fn wake(&mut self) -> Wake {
        let deadline = self
            .speaker
            .next_deadline()
            .into_iter()
            .chain(self.status_at)
            .min();
        let due = async {
            match deadline {
                Some(at) => sleep_until(at.into()).await,
                None => pending().await,
            }
        };
        tokio::select! {
            command = self.inbox.recv() => Wake::Command(command),
            Some(report) = self.reported.recv() => Wake::Report(report),
            () = due => Wake::Due,
            () = self.fib_wake.notified() => Wake::FibRoom,
        }
    }

    /// Performs what the speaker wants, feeds the readers, publishes.
    fn settle(&mut self) {
        self.perform_all();
        self.feed_readers();
        while self.tasks.try_join_next().is_some() {}
        self.publish();
    }

    fn perform_all(&mut self) {
        while let Some(output) = self.speaker.poll_output() {
            self.acted = true;
            self.perform(output);
        }
    }

    fn perform(&mut self, output: Output) {
        match output {
            Output::Connect(request) => self.dial(request),
            Output::Send { conn, octets } => self.send(conn, octets),
            // Dropping the sender lets the task write what it has and shut down.
            Output::Close { conn } => {
                if let Some(Conn { task, open: None }) = self.conns.remove(&conn) {
                    task.abort();
                }
            }
            Output::Abort { conn } => {
                if let Some(conn) = self.conns.remove(&conn) {
                    conn.task.abort();
                }
            }
            Output::Key(key) => self.set_key(&key),
            Output::Event(event) => {
                log(&event);
                // Nobody listening is fine.
                let _ = self.events.send(event);
            }
        }
    }

    fn dial(&mut self, request: ConnectRequest) {
        let conn = request.conn;
        let task = self
            .tasks
            .spawn(connection::dial(request, self.reports.clone()));
        self.conns.insert(conn, Conn { task, open: None });
    }

    fn send(&mut self, conn: ConnId, octets: Bytes) {
        let Some((_, writes)) = self.conns.get(&conn).and_then(|conn| conn.open.as_ref()) else {
            return;
        };
        // The window makes room; a connection that ended in the meantime reports that itself.
        if let Err(mpsc::error::TrySendError::Full(_)) = writes.try_send(octets) {
            tracing::error!(?conn, "send window exceeded, connection dropped");
            if let Some(conn) = self.conns.remove(&conn) {
                conn.task.abort();
            }
            let error = Some(Arc::from("send window exceeded"));
            self.speaker
                .handle(Input::Closed { conn, error }, Instant::now());
        }
    }

    fn set_key(&mut self, key: &ListenKey) {
        for listener in &self.listeners {
            if let Err(error) = listener::set_key(listener, key) {
                tracing::error!(peer = %key.address, %error, "setting the TCP-MD5 key on a listener failed");
            }
        }
        let open = self
            .conns
            .values()
            .filter_map(|conn| conn.open.as_ref())
            .map(|(stream, _)| stream);
        for stream in open.filter(|stream| {
            stream
                .peer_addr()
                .is_ok_and(|peer| peer.ip().to_canonical() == key.address)
        }) {
            if let Err(error) = sys::set_md5(stream.as_fd(), key.address, key.password.as_ref()) {
                tracing::warn!(peer = %key.address, %error, "changing the TCP-MD5 key of a connection failed");
            }
        }
    }

    fn report(&mut self, report: ConnEvent) {
        let now = Instant::now();
        match report {
            ConnEvent::Incoming(stream, remote) => self.incoming(stream, remote, now),
            ConnEvent::Dialled(conn, Ok(stream)) => self.dialled(conn, stream, now),
            ConnEvent::Dialled(conn, Err(error)) => {
                self.conns.remove(&conn);
                let error = Arc::from(error.to_string());
                self.speaker
                    .handle(Input::ConnectFailed { conn, error }, now);
            }
            ConnEvent::Received(conn, octets) => {
                self.speaker.handle(Input::Received { conn, octets }, now);
            }
            ConnEvent::Sent(conn, octets) => self.speaker.handle(Input::Sent { conn, octets }, now),
            ConnEvent::Closed(conn, error) => {
                self.conns.remove(&conn);
                self.speaker.handle(Input::Closed { conn, error }, now);
            }
        }
        self.perform_all();
    }

    fn incoming(&mut self, stream: TcpStream, remote: SocketAddr, now: Instant) {
        let Ok(local) = stream.local_addr() else {
            return;
        };
        let Some((conn, ttl)) = self.speaker.accept(local, remote, now) else {
            tracing::debug!(%remote, "connection from an address that is no peer");
            return;
        };
        let prepared = stream
            .set_nodelay(true)
            .and_then(|()| connection::prepare(stream.as_fd(), remote, ttl));
        if let Err(error) = prepared {
            tracing::warn!(%remote, %error, "preparing an accepted connection failed");
            let error = Some(Arc::from(error.to_string()));
            self.speaker.handle(Input::Closed { conn, error }, now);
            return;
        }
        self.open(conn, stream);
    }

    fn dialled(&mut self, conn: ConnId, stream: TcpStream, now: Instant) {
        if self.conns.remove(&conn).is_none() {
            return;
        }
        let ends = stream
            .set_nodelay(true)
            .and_then(|()| Ok((stream.local_addr()?, stream.peer_addr()?)));
        match ends {
            Ok((local, remote)) => {
                self.open(conn, stream);
                self.speaker.handle(
                    Input::Connected {
                        conn,
                        local,
                        remote,
                    },
                    now,
                );
            }
            Err(error) => {
                let error = Arc::from(error.to_string());
                self.speaker
                    .handle(Input::ConnectFailed { conn, error }, now);
            }
        }
    }

    fn open(&mut self, conn: ConnId, stream: TcpStream) {
        let stream = Arc::new(stream);
        let (writes, written) = mpsc::channel(WINDOW_CHUNKS + WRITE_SLACK);
        let task = self.tasks.spawn(connection::run(
            conn,
            Arc::clone(&stream),
            written,
            self.reports.clone(),
        ));
        self.conns.insert(
            conn,
            Conn {
                task,
                open: Some((stream, writes)),
            },
        );
    }

    fn command(&mut self, command: Command) {
        let now = Instant::now();
        // A caller that went away does not want its answer.
        match command {
            Command::Plan(desired, reply) => drop(reply.send(self.speaker.plan(&desired))),
            Command::Reconcile(desired, reply) => {
                drop(reply.send(self.speaker.reconcile(*desired, now)));
            }
            Command::Originate(diff, reply) => {
                self.speaker.originate(diff, now);
                let _ = reply.send(());
            }
            Command::NextHops(facts, reply) => {
                self.speaker.next_hops(&facts, now);
                let _ = reply.send(());
            }
            Command::Subscribe(reply) => {
                let (updates, reader) = mpsc::channel(FIB_UPDATES);
                self.fib.push((self.speaker.fib_subscribe(), updates));
                let _ = reply.send(reader);
            }
            Command::Explain(prefix, reply) => drop(reply.send(self.speaker.explain(prefix))),
            Command::Routes(query, reply) => drop(reply.send(self.speaker.routes(&query))),
            Command::Shutdown(..) => {}
        }
        self.status_at.get_or_insert(now);
    }

    fn feed_readers(&mut self) {
        let speaker = &mut self.speaker;
        self.fib.retain(|(consumer, updates)| {
            loop {
                match updates.try_reserve() {
                    Ok(room) => match speaker.fib_poll(*consumer, FIB_BATCH) {
                        Some(update) => room.send(update),
                        None => return true,
                    },
                    Err(mpsc::error::TrySendError::Full(())) => return true,
                    Err(mpsc::error::TrySendError::Closed(())) => {
                        speaker.fib_unsubscribe(*consumer);
                        return false;
                    }
                }
            }
        });
    }

    /// Renews the snapshot, at most every 100 ms; readers wake only when something else than the time changed.
    fn publish(&mut self) {
        let now = Instant::now();
        if std::mem::take(&mut self.acted) {
            let last = self.status.borrow().at;
            self.status_at.get_or_insert(now.max(last + STATUS_EVERY));
        }
        if self.status_at.is_none_or(|at| at > now) {
            return;
        }
        self.status_at = None;
        let fresh = self.speaker.peers(now);
        self.status.send_if_modified(|held| {
            let changed = held.peers != fresh.peers
                || held.counters != fresh.counters
                || held.deferring != fresh.deferring;
            *held = Arc::new(fresh);
            changed
        });
    }

    /// Tells everyone, waits until they were told, and ends.
    async fn leave(mut self, drain: &Drain, reply: Option<oneshot::Sender<()>>) {
        self.listening.abort_all();
        self.speaker.drain(drain, Instant::now());
        self.perform_all();
        self.conns.clear();
        let (tasks, reported) = (&mut self.tasks, &mut self.reported);
        let ended = timeout(FAREWELL, async {
            loop {
                tokio::select! {
                    ended = tasks.join_next() => if ended.is_none() { return },
                    // Connection tasks report while they end: a report nobody takes would hold them up.
                    Some(_) = reported.recv() => {}
                }
            }
        })
        .await;
        if ended.is_err() {
            tracing::warn!("connections still open when leaving");
        }
        if let Some(reply) = reply {
            let _ = reply.send(());
        }
    }
}

fn log(event: &Event) {
    match event {
        Event::Established { peer, families } => {
            tracing::info!(%peer, families = ?families.iter().collect::<Vec<_>>(), "session established");
        }
        Event::Down {
            peer,
            reason,
            retained,
        } => {
            tracing::warn!(%peer, %reason, retained = !retained.is_empty(), "session down");
        }
        Event::Refused { peer, reason } => {
            tracing::debug!(%peer, %reason, "session not established");
        }
        Event::EndOfRib { peer, family } => tracing::debug!(%peer, %family, "end of rib"),
        Event::StaleSwept {
            peer,
            family,
            routes,
        } => tracing::info!(%peer, %family, routes, "stale routes swept"),
        Event::DeferralEnded { family } => tracing::info!(%family, "route selection begins"),
        Event::MaxPrefixes {
            peer,
            family,
            limit,
        } => tracing::error!(%peer, %family, limit, "too many prefixes"),
        Event::SessionPanicked { peer } => tracing::error!(%peer, "session code panicked"),
    }
}
