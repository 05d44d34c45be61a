//! The node's CNI server: what a runtime asks through the plugin becomes interface, address, route and policy, or nothing.
//!
//! ```text
//!  margay (exec) ──► socket ──► server ──► Addresses (ipam)    one compare-and-swap
//!    one frame        │ uid 0     │ one  ├► Kernel (dataplane)  veth, sandbox, neighbours
//!    + sandbox        │ deadline  │ key  └► Cluster (World)     policy ► link up ► route, acknowledged
//!                     │ hang-up   │ at a
//!                     ▼           ▼ time
//!                  cancel      journal   intent ► attached ► leaving ► (owed) ► closed
//!
//!  tasks: accept (1 + one per connection, ≤ 256; ≤ 64 attachments act), housekeeping (1: recovery, spool, owed, sweep),
//!         heartbeat (1), installer (1). All end with `stop`; calls in flight get 5 s to finish or be undone.
//! ```
//!
//! Invariants:
//! - An answer to ADD means route **and** policy are in the kernel, both directions; a failure means nothing is left but, at
//!   worst, an address that is owed to IPAM and written down as such.
//! - DEL succeeds when there is nothing left to do, also without daemon (spool), without API server (owed), without journal
//!   (handle and interface mark), five times in a row.
//! - One call at a time per attachment and per host interface; a DEL ends a running ADD of its attachment.
//! - An address is released by handle, ordinal and sequence; by handle alone only when the journal never knew them.
//! - Nothing lives only in the journal: losing it costs a comparison with interfaces and blocks at the next start.
//!
//! Decisions (2026-11-21):
//! - The journal sits behind a mutex, not behind a task: an append is a write to memory-backed storage, and a round trip over a
//!   channel would cost every ADD twice what the write does. The lock is never held across an await.
//! - Cancelling is cooperative: waits are dropped at once, but a claim in IPAM or a batch in the kernel is awaited to its end
//!   (bounded), because abandoning one half way is what leaks. Rejected: dropping the whole future.
//! - A vanished sandbox is proven by its veth, which the kernel deletes with the namespace, or by another namespace on its path;
//!   a path that is missing proves nothing, because this daemon may not see the runtime's mounts.
//! - The conf names no MTU, no node, no API server: the daemon knows them, and a file on the host would be stale one day.

pub mod adapters;
mod ask;
mod book;
mod call;
mod cancel;
mod export;
pub mod install;
pub mod journal;
mod locks;
pub mod metrics;
mod names;
pub mod record;
mod sandbox;
pub mod seams;
mod server;
mod socket;
mod status;
#[cfg(test)]
mod tests;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use cni_plugin::rpc::Reply;
use cni_plugin::spec::StatusMode;
use cni_plugin::spool;
use thiserror::Error;
use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};

use crate::clock;
use crate::health::Health;
use crate::ipam::IpamHandle;
use crate::world::{SyncState, WorldHandle};
use book::Book;
use journal::file::{Journal, boot_id};
use metrics::Metrics;
use server::Server;
use status::Beat;

pub use server::Rooms;

/// How often the heartbeat is written: often enough that a missed one or two leave it fresh.
const BEAT: Duration = Duration::from_secs(5);
/// Name in health, and of the readiness check.
const NAME: &str = "cni";
/// Name of the socket in the run directory.
const SOCKET: &str = "cni.sock";

/// What the daemon has for the CNI server.
pub struct CniDeps {
    /// Directory of socket, journal, heartbeat and spool; memory-backed, and the same path on the host.
    pub run_dir: PathBuf,
    /// Where the host's root is seen.
    pub host_root: PathBuf,
    /// Where a writable `/proc/sys` is seen.
    pub sysctl_root: PathBuf,
    /// The plugin's binary in our image.
    pub plugin: PathBuf,
    /// For the one GET an ADD may need.
    pub client: kube::Client,
    /// Addresses.
    pub ipam: IpamHandle,
    /// Endpoints.
    pub world: WorldHandle,
    /// Told that CNI is served, and that its loop turns.
    pub health: Arc<Health>,
    /// Shows our counters.
    pub metrics: crate::metrics::Metrics,
}

impl std::fmt::Debug for CniDeps {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CniDeps")
            .field("run_dir", &self.run_dir)
            .finish_non_exhaustive()
    }
}

/// What the server is made of, whoever stands behind the rooms.
#[derive(Debug)]
pub struct Parts {
    /// IPAM, kernel and World.
    pub rooms: Rooms,
    /// Directory of socket, journal, heartbeat and spool.
    pub run_dir: PathBuf,
    /// What to put on the host; `None` leaves the host alone.
    pub install: Option<install::Plan>,
    /// Follows the World, for installer and heartbeat.
    pub sync: watch::Receiver<SyncState>,
    /// Told that CNI is served, and that its loop turns.
    pub health: Arc<Health>,
}

/// The running server.
#[derive(Debug)]
pub struct Cni {
    /// Ends when all calls have ended after `stop`.
    pub task: JoinHandle<()>,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// What is wrong with the installation on the host.
    pub findings: watch::Receiver<install::Findings>,
}

/// Why the server did not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// The socket could not be bound.
    #[error("the CNI socket {path} cannot be bound: {cause}")]
    Bind {
        /// The socket.
        path: PathBuf,
        /// The kernel's words.
        cause: io::Error,
    },
    /// `/proc` does not tell what it should.
    #[error("this process cannot look at itself in /proc: {0}")]
    Proc(io::Error),
    /// No access to links.
    #[error(transparent)]
    Kernel(#[from] adapters::OpenError),
}

/// Starts the server over the daemon's own rooms.
///
/// # Errors
/// See [`StartError`].
pub fn start(deps: CniDeps, stop: watch::Receiver<bool>) -> Result<JoinHandle<()>, StartError> {
    let sync = deps.world.sync();
    let rooms = Rooms {
        addresses: Arc::new(adapters::Ipam::new(deps.ipam)),
        kernel: Arc::new(adapters::Links::open(deps.sysctl_root)?),
        cluster: Arc::new(adapters::World::new(deps.world, deps.client)),
    };
    let install = install::Plan {
        host_root: deps.host_root,
        bin_dir: "opt/cni/bin".into(),
        conf_dir: "etc/cni/net.d".into(),
        plugin: deps.plugin,
        socket: deps.run_dir.join(SOCKET),
    };
    let parts = Parts {
        rooms,
        run_dir: deps.run_dir,
        install: Some(install),
        sync,
        health: deps.health,
    };
    let cni = serve(parts, stop)?;
    deps.metrics
        .collect(Box::new(export::Exporter(cni.metrics)));
    Ok(cni.task)
}

/// Starts the server: binds the socket (which answers at once, with "not yet" until in sync), adopts what the last daemon
/// attached, and serves until `stop` is true.
///
/// # Errors
/// See [`StartError`].
pub fn serve(parts: Parts, stop: watch::Receiver<bool>) -> Result<Cni, StartError> {
    let own = sandbox::own().map_err(StartError::Proc)?;
    let boot = boot_id().map_err(StartError::Proc)?;
    let path = parts.run_dir.join(SOCKET);
    let last = spool::last_beat(&path).map(|(reply, age)| Beat {
        said: reply.into_result().map(|_| ()),
        age,
    });
    let listener = socket::bind(&path).map_err(|cause| StartError::Bind {
        path: path.clone(),
        cause,
    })?;
    let (journal, found) = Journal::open(&parts.run_dir.join("journal"), &boot);
    tracing::info!(
        records = found.records,
        torn = found.torn,
        other_boot = found.other_boot,
        "journal read"
    );
    let metrics = Arc::new(Metrics::default());
    let book = Book::new(journal, Arc::clone(&metrics));
    let server = Arc::new(Server::new(
        parts.rooms,
        book,
        Arc::clone(&metrics),
        own,
        path,
        last,
    ));
    let (findings, watched) = watch::channel(install::Findings::default());
    parts
        .health
        .set(NAME, false, "attachments are being recovered", clock::now());
    let run = run(
        server,
        listener,
        parts.install,
        parts.sync,
        findings,
        parts.health,
        stop,
    );
    Ok(Cni {
        task: tokio::spawn(run),
        metrics,
        findings: watched,
    })
}

async fn run(
    server: Arc<Server>,
    listener: UnixListener,
    install: Option<install::Plan>,
    sync: watch::Receiver<SyncState>,
    findings: watch::Sender<install::Findings>,
    health: Arc<Health>,
    stop: watch::Receiver<bool>,
) {
    let housekeeping = Guard(tokio::spawn(server::keep_house(
        Arc::clone(&server),
        Arc::clone(&health),
    )));
    let heartbeat = Guard(tokio::spawn(beat(Arc::clone(&server), sync.clone())));
    let installer = install.map(|plan| {
        Guard(tokio::spawn(install::keep(
            plan,
            sync,
            stop.clone(),
            findings,
        )))
    });
    socket::accept(server, listener, stop, || health.beat(NAME, clock::now())).await;
    health.rest(NAME);
    drop((housekeeping, heartbeat, installer));
}

/// A task that ends with its owner.
#[derive(Debug)]
struct Guard(JoinHandle<()>);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Writes what STATUS says, once this daemon knows; until then what the last one said grows old by itself.
async fn beat(server: Arc<Server>, mut sync: watch::Receiver<SyncState>) {
    if sync.wait_for(|state| state.in_sync).await.is_err() {
        return;
    }
    let mut ticks = interval(BEAT);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        ticks.tick().await;
        let reply = match server.status(StatusMode::Guarded, None).await {
            Ok(()) => Reply::success(Vec::new()),
            Err(failure) => Reply::failure(&failure),
        };
        if let Err(error) = spool::beat(server.socket(), &reply) {
            tracing::warn!(%error, "heartbeat cannot be written");
        }
    }
}
