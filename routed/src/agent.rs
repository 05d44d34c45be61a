//! `routed run`: makes every task and every channel of the daemon; nothing else does.
//!
//! ```text
//!  watch tasks (18) ──Heard 1024──► inbox ──► ipam (its kinds)
//!                                     └────Request 1024──► reconcile ◄──── cni server ◄── plugin (cni.sock)
//!  monitors ─Request──────────────────────────────────────►  │  ▲            │
//!  secrets ──Request──────────────────────────────────────►  │  │            └──► ipam ──► API server
//!                                                             │  └─Request── speaker ◄── peers (TCP 179)
//!      watch channels (last state only): sync, settings ◄─────┤                ▲
//!      NodeFacts ──► node writer;  TunnelsWanted ──► tunnel;  └─ Peering ──────┘;  metrics address ──► metrics
//!                        reconcile ──Review 16──► flows (marks live flows that a later policy forbids)
//!  lease, health (9099), inspect (inspect.sock), metrics (9091): on their own
//! ```
//!
//! Start: lock → kernel sockets (adopt) → World's task → watches, IPAM → CNI (journal, then socket) → ready.
//! Stop: CNI finishes or undoes what it holds → speaker closes without NOTIFICATION → the rest. No kernel object is touched.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use dataplane::io::Conntrack;
use model::{Event, Object, World};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinError, JoinHandle, JoinSet};

use crate::args::RunArgs;
use crate::cni;
use crate::health::{self, Health};
use crate::inspect::{self, Inspector};
use crate::ipam::{self, IpamHandle};
use crate::kube::pulse::Pulse;
use crate::kube::{client, lease, node, secrets, watch as watches};
use crate::log::LogFilter;
use crate::metrics::{self, KindLabel, Metrics};
use crate::peering::Wanted;
use crate::reconcile::{Kernel, Outlook, Reconciler};
use crate::world::{REQUESTS, Request, SyncState, WorldHandle};
use crate::{flows, lock, reconcile, signal, speaker, tunnel};

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
    let connection = client::open(args.kubeconfig.as_deref())
        .await
        .context("no connection to the API server")?;
    let (stop_sender, stop) = watch::channel(false);
    let wiring = Wiring {
        started,
        args,
        log,
        client: connection.client,
        health: Arc::new(Health::default()),
        metrics: Metrics::default(),
        stop,
    };
    let mut tasks = wiring.start((connection.lease, connection.pulse))?;
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

/// What the World's task tells, seen from the readers' side; each is the last state.
struct Told {
    world: WorldHandle,
    requests: mpsc::Sender<Request>,
    sync: watch::Sender<SyncState>,
    facts: watch::Sender<node::NodeFacts>,
    facts_seen: watch::Receiver<node::NodeFacts>,
    tunnels: watch::Receiver<Option<tunnel::TunnelsWanted>>,
    peering: watch::Receiver<Option<Wanted>>,
    unresolved: watch::Receiver<Arc<BTreeSet<IpAddr>>>,
    secrets: watch::Receiver<BTreeSet<secrets::SecretKey>>,
    metrics: watch::Receiver<Option<SocketAddr>>,
    /// Routes that a former daemon learnt by BGP are in the kernel.
    learnt_before: bool,
}

impl Wiring {
    fn start(self, lease: (::kube::Client, Pulse)) -> anyhow::Result<Tasks> {
        let mut rest = JoinSet::new();
        let told = self.start_world(&mut rest)?;
        let (ipam, watches) = self.start_watches(&mut rest, &told);
        self.start_writers(&mut rest, &told, &ipam);
        let (client, pulse) = lease;
        let (namespace, node) = (self.args.namespace.clone(), self.args.node.clone());
        let renew = lease::renew(client, pulse, namespace, node, self.stop.clone());
        named(&mut rest, "lease", renew);
        let (handle, speaker_seen) = watch::channel(None);
        let cni = self.start_cni(&ipam, &told.world)?;
        let sessions = metrics::bgp::Exporter(speaker_seen.clone());
        self.metrics.collect(Box::new(sessions));
        self.serve(&mut rest, &told.world, speaker_seen);
        let speaker = tokio::spawn(speaker::run(speaker::Deps {
            peering: told.peering,
            unresolved: told.unresolved,
            world: told.world,
            handle,
            health: Arc::clone(&self.health),
            restarting: told.learnt_before,
            seed: crate::clock::unix_nanos(),
            stop: self.stop,
        }));
        Ok(Tasks {
            cni,
            speaker,
            rest,
            watches,
        })
    }

    /// The kernel's side and the task that owns the World.
    fn start_world(&self, rest: &mut JoinSet<&'static str>) -> anyhow::Result<Told> {
        let node = model::NodeName::from(self.args.node.as_str());
        let (requests, inbox) = mpsc::channel(REQUESTS);
        let (sync, sync_seen) = watch::channel(SyncState::default());
        let (settings, settings_seen) = watch::channel(reconcile::unknown_settings(node.clone()));
        let (facts, facts_seen) = watch::channel(node::NodeFacts::default());
        let (tunnels, tunnels_seen) = watch::channel(None);
        let (peering, peering_seen) = watch::channel(None);
        let (unresolved, unresolved_seen) = watch::channel(Arc::default());
        let (wanted_secrets, secrets_seen) = watch::channel(BTreeSet::new());
        let (metrics_at, metrics_seen) = watch::channel(None);

        let mut kernel =
            Kernel::open(&self.args.sysctl_root).context("cannot open the kernel's side")?;
        let learnt_before = kernel.has_learnt_routes().context("cannot list routes")?;
        let monitor = kernel.monitor().context("cannot listen to the kernel")?;
        let policy_monitor = kernel
            .policy_monitor()
            .context("cannot listen to nftables")?;
        self.start_reviews(rest, &mut kernel)?;
        let told = Told {
            world: WorldHandle::new(requests.clone(), sync_seen, settings_seen),
            requests: requests.clone(),
            sync: sync.clone(),
            facts: facts.clone(),
            facts_seen,
            tunnels: tunnels_seen,
            peering: peering_seen,
            unresolved: unresolved_seen,
            secrets: secrets_seen,
            metrics: metrics_seen,
            learnt_before,
        };
        let outlook = Outlook {
            sync,
            settings,
            facts,
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
        let (health, metrics) = (Arc::clone(&self.health), self.metrics.clone());
        let reconciler = Reconciler::new(World::new(node), kernel, outlook, health, metrics);
        let stop = self.stop.clone();
        named(rest, "reconcile", reconciler.run(inbox, stop.clone()));
        let touched = listen_to_policy(policy_monitor, requests.clone(), stop.clone());
        named(rest, "policy monitor", touched);
        named(rest, "monitor", listen(monitor, requests, stop));
        Ok(told)
    }

    /// The task that looks at live flows after a change of policy.
    fn start_reviews(
        &self,
        rest: &mut JoinSet<&'static str>,
        kernel: &mut Kernel,
    ) -> anyhow::Result<()> {
        let conntrack = Conntrack::open().context("cannot list live flows")?;
        let (reviews, inbox) = mpsc::channel(flows::REVIEWS);
        kernel.review_by(reviews);
        let review = flows::review(conntrack, inbox, self.metrics.clone(), self.stop.clone());
        named(rest, "flows", review);
        Ok(())
    }

    /// What comes from the API server, and the address task, which reads some of it.
    fn start_watches(
        &self,
        rest: &mut JoinSet<&'static str>,
        told: &Told,
    ) -> (IpamHandle, JoinSet<()>) {
        let (heard, heard_seen) = mpsc::channel(HEARD);
        let freshness = Arc::new(watches::Freshness::default());
        let watches = watches::spawn(&self.client, &heard, &freshness);
        let (sync, stop) = (told.sync.clone(), self.stop.clone());
        named(rest, "reach", reachable(freshness, sync, stop));
        let node = model::NodeName::from(self.args.node.as_str());
        let numbers = ipam::Numbers::default();
        self.metrics.show(|registry| numbers.register(registry));
        let (ipam, task) = ipam::spawn(self.client.clone(), node, numbers, self.stop.clone());
        named(rest, "ipam", flatten(task));
        let (world, metrics) = (told.world.clone(), self.metrics.clone());
        let inbox = distribute(heard_seen, ipam.clone(), world, metrics);
        named(rest, "inbox", inbox);
        (ipam, watches)
    }

    /// What this daemon writes to the API server and reads by name, and metrics.
    fn start_writers(&self, rest: &mut JoinSet<&'static str>, told: &Told, ipam: &IpamHandle) {
        let (client, stop) = (&self.client, &self.stop);
        let (node, namespace) = (&self.args.node, &self.args.namespace);
        let (found, found_seen) = watch::channel(secrets::Passwords::new());
        let publish = node::publish(
            client.clone(),
            node.clone(),
            told.facts_seen.clone(),
            stop.clone(),
        );
        named(rest, "node", publish);
        let (wanted, facts) = (told.tunnels.clone(), told.facts.clone());
        let keep = tunnel::keep(node.clone(), ipam.clone(), wanted, facts, stop.clone());
        named(rest, "tunnel", keep);
        let follow = secrets::follow(
            client.clone(),
            namespace.clone(),
            told.secrets.clone(),
            found,
            stop.clone(),
        );
        named(rest, "secrets", follow);
        let passwords = pass_on(found_seen, told.requests.clone(), stop.clone());
        named(rest, "passwords", passwords);
        let serve = metrics::serve(self.metrics.clone(), told.metrics.clone(), stop.clone());
        named(rest, "metrics", serve);
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

/// Passes on that another hand touched the table of policy.
async fn listen_to_policy(
    mut monitor: policy_iptables::io::Monitor,
    requests: mpsc::Sender<Request>,
    mut stop: watch::Receiver<bool>,
) {
    loop {
        let touched = tokio::select! {
            touched = monitor.touched() => touched,
            _ = stop.wait_for(|stop| *stop) => return,
        };
        if let Err(error) = touched {
            tracing::error!(%error, "cannot hear nftables");
            return;
        }
        if requests.send(Request::PolicyTouched).await.is_err() {
            return;
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
