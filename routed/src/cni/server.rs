//! One node's attachments: who may act on which, and the verbs by name.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cni_plugin::spec::{Code, Failure, Families, StatusMode, Verb};
use model::{AttachmentId, PodRef};
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;

use crate::clock;
use crate::health::Health;

use super::book::Book;
use super::call::Call;
use super::cancel::{Cancel, Trip};
use super::locks::Locks;
use super::metrics::Metrics;
use super::names;
use super::record::{Record, Sandbox};
use super::seams::{Addresses, Cluster, Kernel};
use super::status::{Beat, Facts, verdict};

mod add;
mod check;
mod del;
mod gc;
mod recover;
mod teardown;

use del::Leaving;

/// Attachments in flight; more wait in the order they came. A node has 110 pods, the kernel's RTNL lock is one, and each call
/// holds a descriptor: more at once would only add memory.
const IN_FLIGHT: usize = 64;

/// How long a call right after start waits for what happens once.
const START: Duration = Duration::from_secs(2);

/// What is locked for the length of a call.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    /// The attachment itself; taken first.
    Attachment(AttachmentId),
    /// The host interface it uses; taken second, so two sandboxes of one pod do not meet.
    Host(Arc<str>),
}

/// The other rooms.
#[derive(Clone)]
pub struct Rooms {
    /// IPAM.
    pub addresses: Arc<dyn Addresses>,
    /// Links.
    pub kernel: Arc<dyn Kernel>,
    /// The World.
    pub cluster: Arc<dyn Cluster>,
}

impl std::fmt::Debug for Rooms {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rooms").finish_non_exhaustive()
    }
}

/// Serves the verbs.
#[derive(Debug)]
pub(super) struct Server {
    rooms: Rooms,
    book: Book,
    locks: Locks<Key>,
    permits: Semaphore,
    metrics: Arc<Metrics>,
    /// The node's own namespace, which no sandbox may be.
    own: Sandbox,
    /// The socket; spool and heartbeat lie beside it.
    socket: PathBuf,
    /// What the last daemon said of STATUS, and since when this one runs.
    last_beat: Option<(Beat, Instant)>,
    /// Since when the kernel has refused our batches.
    refusing: Mutex<Option<Instant>>,
    /// True once an ADD was served on this node, by this daemon or an earlier one.
    served: AtomicBool,
    /// True once the World was told what outlived the last daemon. Whoever removes waits for it: an attachment removed in between
    /// would be handed over after it is gone, and stay in the World for ever.
    adopted: watch::Sender<bool>,
    /// True once blocks were compared with what lives here; ADD waits for it.
    compared: watch::Sender<bool>,
}

impl Server {
    /// A server over its journal.
    pub(super) fn new(
        rooms: Rooms,
        book: Book,
        metrics: Arc<Metrics>,
        own: Sandbox,
        socket: PathBuf,
        last_beat: Option<Beat>,
    ) -> Self {
        let served = AtomicBool::new(!book.all().is_empty());
        Self {
            rooms,
            book,
            locks: Locks::default(),
            permits: Semaphore::new(IN_FLIGHT),
            metrics,
            own,
            socket,
            last_beat: last_beat.map(|beat| (beat, Instant::now())),
            refusing: Mutex::new(None),
            served,
            adopted: watch::Sender::new(false),
            compared: watch::Sender::new(false),
        }
    }

    /// Serves one call; the answer is what the plugin prints.
    ///
    /// # Errors
    /// What the plugin prints instead.
    pub(super) async fn serve(
        &self,
        call: &Call,
        sandbox: Option<OwnedFd>,
        trip: &Trip,
        cancel: &Cancel,
    ) -> Result<Answer, Failure> {
        match call.verb {
            Verb::Add => {
                let _permit = cancel.unless(self.permits.acquire()).await?;
                let (record, stdout) = self.add(call, sandbox, trip, cancel).await?;
                Ok(Answer {
                    stdout,
                    made: Some(record),
                    leaving: None,
                })
            }
            Verb::Del => {
                // Ends a running ADD of the same container before it queues, so that it need not outlive that ADD's waits.
                self.locks.interrupt(&Key::Attachment(call.id.clone()));
                let _permit = cancel.unless(self.permits.acquire()).await?;
                self.until_adopted().await?;
                let leaving = self.del(call).await?;
                Ok(Answer {
                    leaving: Some(leaving),
                    ..Answer::default()
                })
            }
            Verb::Check => self
                .check(call, sandbox, cancel)
                .await
                .map(|()| Answer::default()),
            Verb::Gc => {
                self.until_adopted().await?;
                self.gc(call).await.map(|()| Answer::default())
            }
            Verb::Status => self
                .status(call.config.status, call.config.families)
                .await
                .map(|()| Answer::default()),
            Verb::Version => Ok(Answer {
                stdout: cni_plugin::spec::version_answer(b"")
                    .to_string()
                    .into_bytes(),
                ..Answer::default()
            }),
        }
    }

    /// Undoes an ADD whose answer nobody took.
    pub(super) async fn unmake(&self, record: Record) {
        tracing::info!(attachment = %record.id, "runtime left before the answer: undoing");
        self.metrics.rolled_back();
        let turn = self.locks.enter(Key::Attachment(record.id.clone())).await;
        let still = self.book.get(record.serial);
        if let Some(record) = still {
            self.tear_down_or_say(record).await;
        }
        drop(turn);
    }

    /// STATUS, for a runtime or for the heartbeat. `families`: those of the cluster unless said.
    ///
    /// # Errors
    /// 50 or 51.
    pub(super) async fn status(
        &self,
        mode: StatusMode,
        families: Option<Families>,
    ) -> Result<(), Failure> {
        let families = families.unwrap_or_else(|| self.rooms.cluster.settings().families);
        let sync = self.rooms.cluster.sync();
        let assignable = if sync.in_sync {
            self.rooms.addresses.serviceable(families).await
        } else {
            Ok(())
        };
        verdict(&Facts {
            refusing: self.refusing_for(sync.in_sync && !sync.kernel_ok),
            sync,
            assignable,
            served: self.served.load(Ordering::Relaxed),
            mode,
            last: self.last_beat.as_ref().map(|(beat, since)| Beat {
                said: beat.said.clone(),
                age: beat.age.saturating_add(since.elapsed()),
            }),
        })
    }

    /// How long the kernel has refused, told each time somebody looks.
    fn refusing_for(&self, now: bool) -> Option<Duration> {
        let mut since = self.refusing.lock().unwrap_or_else(PoisonError::into_inner);
        if !now {
            *since = None;
            return None;
        }
        Some(since.get_or_insert_with(Instant::now).elapsed())
    }

    /// The journal, for tests that look or meddle.
    #[cfg(test)]
    pub(super) fn book(&self) -> &Book {
        &self.book
    }

    /// The socket; spool and heartbeat lie beside it.
    pub(super) fn socket(&self) -> &std::path::Path {
        &self.socket
    }

    /// Counters for the metrics endpoint.
    pub(super) fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Times a step of a call.
    async fn timed<T>(&self, step: &'static str, work: impl Future<Output = T>) -> T {
        let began = Instant::now();
        let done = work.await;
        self.metrics.step(step, began.elapsed());
        done
    }

    /// Name of the host end of an attachment.
    fn host_interface(
        prefix: &str,
        pod: Option<&PodRef>,
        call: &Call,
    ) -> Result<Arc<str>, Failure> {
        names::host_interface(prefix, pod, &call.id).map_err(|error| {
            Failure::new(
                Code::Internal,
                "interfacePrefix of FelixConfiguration makes no interface name: shorten it",
            )
            .because(error)
        })
    }

    /// Waits until blocks were compared with what lives here.
    async fn until_compared(&self) -> Result<(), Failure> {
        until(&self.compared, "the Margay daemon has just started and still compares addresses with what lives on this node").await
    }

    /// Waits until the World knows what outlived the last daemon.
    async fn until_adopted(&self) -> Result<(), Failure> {
        until(
            &self.adopted,
            "the Margay daemon has just started and cannot list this node's interfaces yet",
        )
        .await
    }
}

/// Waits a moment for something that happens once after start.
async fn until(event: &watch::Sender<bool>, why: &str) -> Result<(), Failure> {
    let mut seen = event.subscribe();
    let waited = tokio::time::timeout(START, seen.wait_for(|done| *done)).await;
    match waited {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(_)) | Err(_) => Err(Failure::new(
            Code::TryAgainLater,
            format!("{why}: repeat the call"),
        )),
    }
}

/// Recovery first, then the rounds that need no caller: owed releases, vanished sandboxes. Runs until it is dropped.
///
/// Sandboxes are looked after from the start: one that vanishes between recovery and the first plan would keep that plan, and so
/// the sync that the comparison waits for, from ever succeeding.
pub(super) async fn keep_house(server: Arc<Server>, health: Arc<Health>) {
    server.recover().await;
    let settle = async {
        server.pay_spool().await;
        server.compare_with_ipam().await;
        health.set(super::NAME, true, "", clock::now());
        let mut owed = tokio::time::interval(gc::OWED);
        loop {
            owed.tick().await;
            server.pay_owed().await;
        }
    };
    let sweep = async {
        let mut sweep = tokio::time::interval(gc::SWEEP);
        loop {
            sweep.tick().await;
            server.sweep().await;
        }
    };
    tokio::join!(settle, sweep);
}

/// What a call ended with.
#[derive(Debug, Default)]
pub(super) struct Answer {
    /// To be printed.
    pub(super) stdout: Vec<u8>,
    /// What an ADD made, to be undone if the answer finds nobody.
    pub(super) made: Option<Record>,
    /// What a DEL still has to do, once it is answered ([`Server::finish`]).
    pub(super) leaving: Option<Leaving>,
}
