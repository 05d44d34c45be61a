//! The task that owns the World, and the only writer of routes and rules on this node.
//!
//! ```text
//!  watches ─┐                       ┌─► policy:  plan → Driver (one nft transaction)
//!  CNI ─────┼─► requests ─► World ──┤
//!  speaker ─┤   (drained in bulk)   ├─► routes:  plan + learnt → Driver (links up, neighbours, routes)
//!  monitors ┘                       ├─► peering: wanted sessions and prefixes ─► speaker task
//!                                   └─► answers: whoever waits for its interface
//! ```
//!
//! A round takes everything that waits, then plans each dirty domain once. Policy goes first, then links come up, then routes: an
//! interface never passes a packet before its rules. Before every kind has been listed nothing is planned at all, because a plan of
//! half a cluster would remove the other half.

mod outlook;
mod probed;
mod round;

use std::sync::Arc;
use std::time::{Duration, Instant};

use model::{AttachmentId, Dirty, Event, Key, Kind, LocalEndpoint, World};
use tokio::sync::{mpsc, oneshot, watch};

use crate::health::Health;
use crate::metrics::{KindLabel, Metrics};
use crate::world::{PodView, Request, SyncState, Unprogrammed};

pub use outlook::{Outlook, unknown_settings};
pub use round::Kernel;

/// Requests taken into one round at most; more would make whoever waits for an interface wait for the whole cluster.
const BULK: usize = 512;
/// Least time between two rounds nobody waits for: a burst of events becomes one plan.
const QUIET: Duration = Duration::from_millis(20);
/// Everything is listed and compared this often, in case the kernel's word got lost.
const AUDIT: Duration = Duration::from_mins(1);
/// First and longest wait after a refused round.
const RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));

/// Name of this task in liveness.
const TASK: &str = "reconcile";

type Answer = oneshot::Sender<Result<(), Unprogrammed>>;

/// Who waits for an interface, and for which one; `None` = for it to be gone.
struct Waiter {
    interface: Option<AttachmentId>,
    answer: Answer,
}

/// The task's state. Nobody else has a reference to any of it.
pub struct Reconciler {
    world: World,
    kernel: Kernel,
    outlook: Outlook,
    health: Arc<Health>,
    metrics: Metrics,
    dirty: Dirty,
    waiters: Vec<Waiter>,
    last_round: Option<Instant>,
    next_audit: Instant,
    retry: Option<(Instant, Duration)>,
}

impl std::fmt::Debug for Reconciler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reconciler")
            .field("dirty", &self.dirty)
            .finish_non_exhaustive()
    }
}

impl Reconciler {
    /// A task around an empty World.
    pub fn new(
        world: World,
        kernel: Kernel,
        outlook: Outlook,
        health: Arc<Health>,
        metrics: Metrics,
    ) -> Self {
        let now = crate::clock::now();
        Self {
            world,
            kernel,
            outlook,
            health,
            metrics,
            dirty: Dirty::NONE,
            waiters: Vec::new(),
            last_round: None,
            next_audit: now + AUDIT,
            retry: None,
        }
    }

    /// Runs until told to stop or until nobody can ask any more. What is in the kernel stays there.
    pub async fn run(
        mut self,
        mut requests: mpsc::Receiver<Request>,
        mut stop: watch::Receiver<bool>,
    ) {
        let mut taken = Vec::with_capacity(BULK);
        loop {
            let wake = self.wake();
            tokio::select! {
                count = requests.recv_many(&mut taken, BULK) => if count == 0 { break },
                () = tokio::time::sleep_until(wake.into()) => {}
                _ = stop.wait_for(|stop| *stop) => break,
            }
            for request in taken.drain(..) {
                self.take(request);
            }
            let now = crate::clock::now();
            self.health.beat(TASK, now);
            if now >= self.next_audit {
                self.next_audit = now + AUDIT;
                self.kernel.forget();
                self.dirty |= Dirty::ROUTES | Dirty::POLICY;
            }
            if self.due(now) {
                self.round(now);
            }
        }
        self.health.rest(TASK);
    }

    /// When to wake up although nothing was asked.
    fn wake(&self) -> Instant {
        let quiet = self.last_round.map(|last| last + QUIET);
        let pending = if self.dirty.is_none() { None } else { quiet };
        let retry = self.retry.map(|(at, _)| at);
        [pending, retry]
            .into_iter()
            .flatten()
            .fold(self.next_audit, Instant::min)
    }

    fn due(&self, now: Instant) -> bool {
        if let Some((at, _)) = self.retry
            && now < at
            && self.waiters.is_empty()
        {
            return false;
        }
        if self.dirty.is_none() && self.retry.is_none() && self.waiters.is_empty() {
            return false;
        }
        !self.waiters.is_empty() || self.last_round.is_none_or(|last| now >= last + QUIET)
    }

    fn take(&mut self, request: Request) {
        match request {
            Request::Event(event) => self.event(event),
            Request::Program(endpoint, done) => self.program(endpoint, done),
            Request::Withdraw(id, done) => {
                self.event(Event::Delete(Key::Endpoint(id)));
                if self.world.all_synced() {
                    self.waiters.push(Waiter {
                        interface: None,
                        answer: done,
                    });
                } else {
                    // Nothing is planned yet; the link's deletion takes what a former daemon made.
                    answer(done, Ok(()));
                }
            }
            Request::Adopt(endpoints) => {
                for endpoint in endpoints {
                    self.event(Event::upsert(endpoint));
                }
                self.event(Event::Synced(Kind::Endpoint));
            }
            Request::Pod(id, reply) => {
                let view = self.world.pods().get(&id).map(|pod| PodView {
                    pod: pod.clone(),
                    namespace: self.world.namespaces().get(&id.namespace).cloned(),
                });
                // Whoever asked may have given up; that is its business.
                let _ = reply.send(view);
            }
            Request::KernelChanged(changed) => {
                self.kernel.changed(&changed);
                self.metrics
                    .repairs
                    .get_or_create(&crate::metrics::DomainLabel { domain: "routes" })
                    .inc();
                self.dirty |= Dirty::ROUTES;
                if changed.host {
                    // Own addresses and on-link peers are read from the host.
                    self.dirty |= Dirty::PEERING;
                }
            }
            Request::PolicyTouched => {
                tracing::warn!("another program changed table inet margay; it is restored");
                self.kernel.policy_touched();
                self.metrics
                    .repairs
                    .get_or_create(&crate::metrics::DomainLabel { domain: "policy" })
                    .inc();
                self.dirty |= Dirty::POLICY;
            }
            Request::Learnt(routes) => {
                if self.kernel.learnt(routes) {
                    self.dirty |= Dirty::ROUTES;
                }
            }
            Request::Passwords(passwords) => {
                self.outlook.passwords(passwords);
                self.dirty |= Dirty::PEERING;
            }
            Request::Picture(reply) => {
                let _ = reply.send(self.outlook.picture(&self.world, &self.kernel));
            }
        }
    }

    fn event(&mut self, event: Event) {
        let kind = match &event {
            Event::Upsert(object) => object.kind(),
            Event::Delete(key) => key.kind(),
            Event::Synced(kind) => *kind,
        };
        self.metrics
            .world_events
            .get_or_create(&KindLabel {
                kind: kind.as_str(),
            })
            .inc();
        self.dirty |= self.world.apply(event);
    }

    fn program(&mut self, endpoint: LocalEndpoint, done: Answer) {
        if !self.world.all_synced() {
            let missing: Vec<&str> = self.world.unsynced().map(Kind::as_str).collect();
            answer(done, Err(Unprogrammed::NotInSync(missing.join(", "))));
            return;
        }
        let interface = Some(endpoint.id.clone());
        self.event(Event::upsert(endpoint));
        self.waiters.push(Waiter {
            interface,
            answer: done,
        });
    }

    /// Plans and applies what is dirty; answers whoever waited.
    fn round(&mut self, now: Instant) {
        self.last_round = Some(now);
        if !self.world.all_synced() {
            self.dirty = Dirty::NONE;
            let missing: Vec<&str> = self.world.unsynced().map(Kind::as_str).collect();
            self.sync(
                now,
                false,
                &format!("waiting for the first list of {}", missing.join(", ")),
            );
            return;
        }
        let dirty = std::mem::replace(&mut self.dirty, Dirty::NONE) | self.kernel.owed();
        self.outlook.read(&self.world, &mut self.kernel, dirty);
        // The drivers wait for the kernel, which is this task's whole purpose; other tasks keep running.
        let outcome = tokio::task::block_in_place(|| {
            self.kernel.apply(&mut self.world, dirty, &self.metrics)
        });
        self.reply(&outcome);
        match outcome {
            Ok(()) => {
                self.retry = None;
                self.sync(now, true, "");
            }
            Err(refused) => {
                let wait = self
                    .retry
                    .map_or(RETRY.0, |(_, wait)| (wait * 2).min(RETRY.1));
                self.retry = Some((crate::clock::now() + wait, wait));
                tracing::error!(error = %refused, retry_ms = wait.as_millis(), "the kernel is not as planned");
                self.sync(now, false, &refused.to_string());
            }
        }
        self.outlook.tell(&self.world, &self.kernel, dirty);
    }

    /// Answers whoever waited. An interface that stands is in force even if something else was refused in the same round.
    fn reply(&mut self, outcome: &Result<(), Unprogrammed>) {
        for waiter in std::mem::take(&mut self.waiters) {
            let stands = waiter
                .interface
                .as_ref()
                .map(|id| self.kernel.stands(&self.world, id));
            let reply = match (outcome, stands) {
                (Ok(()), Some(false)) => Err(Unprogrammed::Refused {
                    domain: "routes",
                    reason: Arc::from(self.kernel.problems().join("; ")),
                }),
                (Ok(()), None | Some(true))
                | (
                    Err(Unprogrammed::Refused {
                        domain: "routes", ..
                    }),
                    Some(true),
                ) => Ok(()),
                (Err(refused), _) => Err(refused.clone()),
            };
            answer(waiter.answer, reply);
        }
    }

    fn sync(&mut self, now: Instant, ok: bool, reason: &str) {
        self.health.set("sync", ok, reason, now);
        self.outlook.sync(|state: &mut SyncState| {
            let first = ok && !state.in_sync;
            // Once in sync, a refused round does not undo it: it is told by `kernel_ok`.
            state.in_sync |= ok;
            state.kernel_ok = ok;
            reason.clone_into(&mut state.reason);
            first
        });
    }
}

/// Answers a waiter; one that gave up is answered by nobody.
fn answer(done: Answer, outcome: Result<(), Unprogrammed>) {
    let _ = done.send(outcome);
}
