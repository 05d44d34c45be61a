//! `routed run`: makes every task and every channel of the daemon; nothing else does.
//!
//! ```text
//!  watch tasks (15) ──Heard 1024──► inbox ──► ipam (its kinds)
//!                                     └────Request 1024──► reconcile ◄──── cni server ◄── plugin (cni.sock)
//!  monitor ──Request──────────────────────────────────────►  │  ▲            │
//!  secrets ──Request──────────────────────────────────────►  │  │            └──► ipam ──► API server
//!                                                             │  └─Request── speaker ◄── peers (TCP 179)
//!      watch channels (last state only): sync, settings ◄─────┤                ▲
//!      NodeFacts ──► node writer;  TunnelsWanted ──► tunnel;  └─ Peering ──────┘;  metrics address ──► metrics
//!  lease, health (9099), inspect (inspect.sock), metrics (9091): on their own
//! ```
//!
//! Start: lock → kernel sockets (adopt) → World's task → watches, IPAM → CNI (journal, then socket) → ready.
//! Stop: CNI finishes or undoes what it holds → speaker closes without NOTIFICATION → the rest. No kernel object is touched.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use model::{Event, Object, World};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinError, JoinHandle, JoinSet};

use crate::args::RunArgs;
use crate::cni;
use crate::health::{self, Health};
use crate::inspect::{self, Inspector};
use crate::ipam::{self, IpamHandle};
use crate::kube::{client, lease, node, secrets, watch as watches};
use crate::log::LogFilter;
use crate::metrics::{self, KindLabel, Metrics};
use crate::reconcile::{Kernel, Outlook, Reconciler};
use crate::world::{REQUESTS, Request, SyncState, WorldHandle};
use crate::{lock, reconcile, signal, speaker, tunnel};

/// Changes that may wait between the watches and the inbox; a burst at start is one per object.
const HEARD: usize = 1024;
/// How often it is looked whether a watch is alive.
const REACH: Duration = Duration::from_millis(500);
/// How long a stopping daemon waits for its tasks.
const STOP: Duration = Duration::from_secs(8);
/// Where readiness and liveness are served.
const HEALTH: ([u8; 4], u16) = ([127, 0, 0, 1], 9099);

/// Runs the node daemon until SIGTERM or SIGINT, or until a task it cannot do without has ended.
///
/// # Errors
/// What kept it from starting, or which task ended.
pub async fn run(args: RunArgs, log: LogFilter) -> anyhow::Result<()> {
    tracing::info!(node = %args.node, version = env!("CARGO_PKG_VERSION"), "starting");
    let started = crate::clock::now();
    let terminated = tokio::spawn(signal::terminated());
    let mut terminated = std::pin::pin!(terminated);
    let _lock = tokio::select! {
        lock = lock::acquire(&args.run_dir) => lock?,
        _ = &mut terminated => return Ok(()),
    };
    let client = client::connect(args.kubeconfig.as_deref())
        .await
        .context("no connection to the API server")?;
    let (stop_sender, stop) = watch::channel(false);
    let wiring = Wiring {
        started,
        args,
        log,
        client,
        health: Arc::new(Health::default()),
        metrics: Metrics::default(),
        stop,
    };
    let mut tasks = wiring.start()?;
    let ended = tokio::select! {
        signal = &mut terminated => {
            tracing::info!(signal = ?signal.ok(), "stopping; the kernel keeps what it has");
            None
        }
        name = tasks.ended() => Some(name),
    };
    tasks.stop(&stop_sender).await;
    match ended {
        None => Ok(()),
        Some(name) => anyhow::bail!("task {name} ended; the daemon starts anew"),
    }
}

/// What every task may need.
struct Wiring {
    started: std::time::Instant,
    args: RunArgs,
    log: LogFilter,
    client: ::kube::Client,
    health: Arc<Health>,
    metrics: Metrics,
    stop: watch::Receiver<bool>,
}

/// The running daemon: those that stop first, then the rest.
struct Tasks {
    cni: JoinHandle<()>,
    speaker: JoinHandle<()>,
    rest: JoinSet<&'static str>,
    watches: JoinSet<()>,
}

impl Wiring {
    fn start(self) -> anyhow::Result<Tasks> {
        let mut rest = JoinSet::new();
        let node = model::NodeName::from(self.args.node.as_str());

        let (requests, inbox) = mpsc::channel(REQUESTS);
        let (sync, sync_seen) = watch::channel(SyncState::default());
        let (settings, settings_seen) = watch::channel(reconcile::unknown_settings(node.clone()));
        let reach = sync.clone();
        let (facts, facts_seen) = watch::channel(node::NodeFacts::default());
        let (tunnels, tunnels_seen) = watch::channel(None);
        let (peering, peering_seen) = watch::channel(None);
        let (unresolved, unresolved_seen) = watch::channel(Arc::default());
        let (wanted_secrets, wanted_secrets_seen) = watch::channel(BTreeSet::new());
        let (found_secrets, found_secrets_seen) = watch::channel(secrets::Passwords::new());
        let (metrics_at, metrics_at_seen) = watch::channel(None);
        let world = WorldHandle::new(requests.clone(), sync_seen, settings_seen);

        let mut kernel =
            Kernel::open(&self.args.sysctl_root).context("cannot open the kernel's side")?;
        let learnt_before = kernel.has_learnt_routes().context("cannot list routes")?;
        let outlook = Outlook {
            sync,
            settings,
            facts: facts.clone(),
            tunnels,
            peering,
            unresolved,
            secrets: wanted_secrets,
            metrics: metrics_at,
            log: self.log.clone(),
            bgp: self.args.bgp,
            findings: Vec::new(),
            passwords: secrets::Passwords::new(),
        };
        let monitor = kernel.monitor().context("cannot listen to the kernel")?;
        let reconciler = Reconciler::new(
            World::new(node.clone()),
            kernel,
            outlook,
            Arc::clone(&self.health),
            self.metrics.clone(),
        );
        named(
            &mut rest,
            "reconcile",
            reconciler.run(inbox, self.stop.clone()),
        );
        named(
            &mut rest,
            "monitor",
            listen(monitor, requests.clone(), self.stop.clone()),
        );

        let (heard, heard_seen) = mpsc::channel(HEARD);
        let freshness = Arc::new(watches::Freshness::default());
        let watches = watches::spawn(&self.client, &heard, &freshness);
        named(
            &mut rest,
            "reach",
            reachable(freshness, reach, self.stop.clone()),
        );
        let (ipam, ipam_task) = ipam::spawn(self.client.clone(), node.clone(), self.stop.clone());
        named(&mut rest, "ipam", flatten(ipam_task));
        named(
            &mut rest,
            "inbox",
            distribute(
                heard_seen,
                ipam.clone(),
                world.clone(),
                self.metrics.clone(),
            ),
        );

        named(
            &mut rest,
            "node",
            node::publish(
                self.client.clone(),
                self.args.node.clone(),
                facts_seen,
                self.stop.clone(),
            ),
        );
        named(
            &mut rest,
            "tunnel",
            tunnel::keep(
                self.args.node.clone(),
                ipam.clone(),
                tunnels_seen,
                facts,
                self.stop.clone(),
            ),
        );
        named(
            &mut rest,
            "lease",
            lease::renew(
                self.client.clone(),
                self.args.namespace.clone(),
                self.args.node.clone(),
                self.stop.clone(),
            ),
        );
        named(
            &mut rest,
            "secrets",
            secrets::follow(
                self.client.clone(),
                self.args.namespace.clone(),
                wanted_secrets_seen,
                found_secrets,
                self.stop.clone(),
            ),
        );
        named(
            &mut rest,
            "passwords",
            pass_on(found_secrets_seen, requests.clone(), self.stop.clone()),
        );
        named(
            &mut rest,
            "metrics",
            metrics::serve(self.metrics.clone(), metrics_at_seen, self.stop.clone()),
        );

        let (speaker_handle, speaker_seen) = watch::channel(None);
        let speaker = tokio::spawn(speaker::run(speaker::Deps {
            peering: peering_seen,
            unresolved: unresolved_seen,
            world: world.clone(),
            handle: speaker_handle,
            health: Arc::clone(&self.health),
            restarting: learnt_before,
            seed: crate::clock::unix_nanos(),
            stop: self.stop.clone(),
        }));
        let cni = self.start_cni(&ipam, &world)?;
        self.serve(&mut rest, &world, speaker_seen);
        Ok(Tasks {
            cni,
            speaker,
            rest,
            watches,
        })
    }

    fn start_cni(&self, ipam: &IpamHandle, world: &WorldHandle) -> anyhow::Result<JoinHandle<()>> {
        let deps = cni::CniDeps {
            run_dir: self.args.run_dir.clone(),
            host_root: self.args.host_root.clone(),
            sysctl_root: self.args.sysctl_root.clone(),
            plugin: self.args.plugin.clone(),
            client: self.client.clone(),
            ipam: ipam.clone(),
            world: world.clone(),
            health: Arc::clone(&self.health),
            metrics: self.metrics.clone(),
        };
        cni::start(deps, self.stop.clone()).context("cannot serve CNI")
    }

    fn serve(
        &self,
        rest: &mut JoinSet<&'static str>,
        world: &WorldHandle,
        bgp: watch::Receiver<Option<bgp::io::Handle>>,
    ) {
        let inspector = Inspector {
            node: self.args.node.clone(),
            started: self.started,
            health: Arc::clone(&self.health),
            world: world.clone(),
            bgp,
        };
        let socket = self.args.run_dir.join("inspect.sock");
        let stop = self.stop.clone();
        named(rest, "inspect", async move {
            if let Err(error) = inspect::serve(&socket, inspector, stop).await {
                tracing::error!(error = format!("{error:#}"), "questions cannot be answered");
            }
        });
        let (health, stop) = (Arc::clone(&self.health), self.stop.clone());
        named(rest, "health", async move {
            if let Err(error) = health::serve(HEALTH.into(), health, stop).await {
                tracing::error!(%error, address = ?HEALTH, "health cannot be served");
            }
        });
    }
}

impl Tasks {
    /// Waits until a task has ended that should not; names it.
    async fn ended(&mut self) -> &'static str {
        tokio::select! {
            ended = &mut self.cni => report("cni", ended),
            ended = &mut self.speaker => report("speaker", ended),
            Some(ended) = self.rest.join_next() => match ended {
                Ok(name) => name,
                Err(error) => report("a task", Err(error)),
            },
            Some(ended) = self.watches.join_next() => report("watch", ended),
        }
    }

    async fn stop(mut self, stop: &watch::Sender<bool>) {
        // Every receiver may be gone already; then there is nothing to stop.
        let _ = stop.send(true);
        let orderly = async {
            if !self.cni.is_finished()
                && let Err(error) = (&mut self.cni).await
            {
                report("cni", Err(error));
            }
            if !self.speaker.is_finished()
                && let Err(error) = (&mut self.speaker).await
            {
                report("speaker", Err(error));
            }
            self.watches.shutdown().await;
            while let Some(ended) = self.rest.join_next().await {
                if let Err(error) = ended {
                    report("a task", Err(error));
                }
            }
        };
        if tokio::time::timeout(STOP, orderly).await.is_err() {
            tracing::warn!("not every task stopped in time; leaving all the same");
        }
    }
}

fn report(name: &'static str, ended: Result<(), JoinError>) -> &'static str {
    match ended {
        Ok(()) => tracing::error!(task = name, "task ended"),
        Err(error) => tracing::error!(task = name, %error, "task failed"),
    }
    name
}

fn named(
    tasks: &mut JoinSet<&'static str>,
    name: &'static str,
    work: impl Future<Output = ()> + Send + 'static,
) {
    tasks.spawn(async move {
        work.await;
        name
    });
}

async fn flatten(task: JoinHandle<()>) {
    if let Err(error) = task.await {
        report("ipam", Err(error));
    }
}

/// Tells whether the API server can be reached: while any watch is alive.
async fn reachable(
    freshness: Arc<watches::Freshness>,
    sync: watch::Sender<SyncState>,
    mut stop: watch::Receiver<bool>,
) {
    let mut timer = tokio::time::interval(REACH);
    loop {
        tokio::select! {
            _ = timer.tick() => {}
            _ = stop.wait_for(|stop| *stop) => return,
        }
        let alive = freshness.any_alive();
        sync.send_if_modified(|state| std::mem::replace(&mut state.api_reachable, alive) != alive);
    }
}

/// Passes on the kernel's word that something of ours changed.
async fn listen(
    mut monitor: dataplane::io::Monitor,
    requests: mpsc::Sender<Request>,
    mut stop: watch::Receiver<bool>,
) {
    loop {
        let changed = tokio::select! {
            changed = monitor.changed() => changed,
            _ = stop.wait_for(|stop| *stop) => return,
        };
        match changed {
            Ok(changed) => {
                if requests
                    .send(Request::KernelChanged(changed))
                    .await
                    .is_err()
                {
                    return;
                }
            }
            Err(error) => {
                tracing::error!(%error, "cannot hear the kernel");
                return;
            }
        }
    }
}

/// Hands each change to those it concerns. Ends with the watches.
async fn distribute(
    mut heard: mpsc::Receiver<watches::Heard>,
    ipam: IpamHandle,
    world: WorldHandle,
    metrics: Metrics,
) {
    let mut quarantined = BTreeSet::new();
    while let Some(heard) = heard.recv().await {
        match heard {
            watches::Heard::Event(event) => {
                if concerns_ipam(&event) {
                    ipam.event(&event).await;
                }
                if world.tell(event).await.is_err() {
                    return;
                }
            }
            watches::Heard::Rejected(rejected) => {
                let label = KindLabel {
                    kind: rejected.key.kind().as_str(),
                };
                let gauge = metrics.quarantined.get_or_create(&label);
                // An object that stays unreadable is told again at each change and each list.
                if rejected.reason.is_empty() {
                    if quarantined.remove(&rejected.key) {
                        gauge.dec();
                    }
                } else if quarantined.insert(rejected.key) {
                    gauge.inc();
                }
            }
        }
    }
}

/// Address management reads nodes, namespaces, pools, blocks, affinities and its own limits.
fn concerns_ipam(event: &Event) -> bool {
    use model::Kind;
    let kind = match event {
        Event::Upsert(object) => Object::kind(object),
        Event::Delete(key) => key.kind(),
        Event::Synced(kind) => *kind,
    };
    matches!(
        kind,
        Kind::Node
            | Kind::Namespace
            | Kind::IpPool
            | Kind::Block
            | Kind::Affinity
            | Kind::IpamConfiguration
    )
}

async fn pass_on(
    mut found: watch::Receiver<secrets::Passwords>,
    requests: mpsc::Sender<Request>,
    mut stop: watch::Receiver<bool>,
) {
    loop {
        tokio::select! {
            changed = found.changed() => if changed.is_err() { return },
            _ = stop.wait_for(|stop| *stop) => return,
        }
        let passwords = found.borrow_and_update().clone();
        if requests.send(Request::Passwords(passwords)).await.is_err() {
            return;
        }
    }
}
