//! The one task around the allocator.

use std::collections::BTreeMap;
use std::time::Duration;

use ::ipam::handle::TunnelKind;
use ::ipam::store::{CallId, StoreCall, StoreError, StoreReply};
use ::ipam::tunnel::{self, Plan};
use ::ipam::{
    Addresses, Allocator, Answer, Assign, AssignError, Assigned, Family, Held, Input, Living, Note,
    Output, Release, ReleaseError, Released, RequestId, Settings, Taken, Time,
};
use api::PoolUse;
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use model::NodeName;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use super::numbers::Numbers;
use super::told::{Names, Told};

/// How soon it is noticed that a caller stopped waiting.
const ABANDONED: Duration = Duration::from_millis(100);
/// Longest wait for what is under way when the daemon stops: the CNI server undoes its own within 5 s.
const LINGER: Duration = Duration::from_secs(7);

/// What the handle asks.
#[derive(Debug)]
pub(super) enum Ask {
    Assign(Assign, oneshot::Sender<Result<Vec<Assigned>, AssignError>>),
    Release(Release, oneshot::Sender<Result<Released, ReleaseError>>),
    OfHandle(String, oneshot::Sender<Result<Vec<Held>, AssignError>>),
    Held(oneshot::Sender<Result<Vec<Held>, AssignError>>),
    CanAssign(Family, oneshot::Sender<Result<(), AssignError>>),
    Tunnel(TunnelKind, oneshot::Sender<Result<Plan, AssignError>>),
    Living(Vec<Living>, oneshot::Sender<Result<(), AssignError>>),
    Counters(oneshot::Sender<Counters>),
}

/// What happened since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Calls to the API server.
    pub calls: u64,
    /// Writes of blocks that landed.
    pub swaps: u64,
    /// Takes and gives those writes carried.
    pub items: u64,
    /// Writes that lost against another writer.
    pub conflicts: u64,
    /// Blocks claimed.
    pub claimed: u64,
    /// Claims lost to another node.
    pub lost: u64,
    /// Blocks and claims given up.
    pub given_up: u64,
    /// Releases that found another owner.
    pub not_ours: u64,
    /// Calls that failed otherwise.
    pub failed: u64,
}

/// Who waits for an answer.
#[derive(Debug)]
enum Waiter {
    Assign {
        handle: String,
        asked: Instant,
        answer: oneshot::Sender<Result<Vec<Assigned>, AssignError>>,
    },
    Release(oneshot::Sender<Result<Released, ReleaseError>>),
    /// A caller that went away: nobody.
    Nobody,
}

/// Carries one call out.
pub(super) trait Calls: Clone + Send + 'static {
    /// Carries a call out; never waits for ever.
    fn carry_out(&self, call: StoreCall) -> BoxFuture<'static, Result<StoreReply, StoreError>>;
}

impl Calls for crate::kube::store::Store {
    fn carry_out(&self, call: StoreCall) -> BoxFuture<'static, Result<StoreReply, StoreError>> {
        let store = self.clone();
        Box::pin(async move { Self::carry_out(&store, call).await })
    }
}

type Done = (CallId, Result<StoreReply, StoreError>);

pub(super) struct Task<S> {
    allocator: Allocator,
    store: S,
    names: Names,
    waiters: BTreeMap<RequestId, Waiter>,
    next_request: u64,
    calls: FuturesUnordered<BoxFuture<'static, Done>>,
    counters: Counters,
    numbers: Numbers,
}

impl<S: Calls> Task<S> {
    pub(super) fn new(node: &NodeName, store: S, numbers: Numbers, seed: u64) -> Self {
        let settings = Settings {
            seed,
            ..Settings::default()
        };
        Self {
            allocator: Allocator::new(node.as_str(), settings),
            store,
            names: Names::default(),
            waiters: BTreeMap::new(),
            next_request: 0,
            calls: FuturesUnordered::new(),
            counters: Counters::default(),
            numbers,
        }
    }

    pub(super) async fn run(
        mut self,
        mut asks: mpsc::Receiver<Ask>,
        mut events: mpsc::Receiver<Told>,
        mut stop: watch::Receiver<bool>,
    ) {
        let mut deadline: Option<Instant> = None;
        let (mut asking, mut telling) = (true, true);
        loop {
            if deadline.is_some() && self.allocator.is_idle() && (!asking || asks.is_closed()) {
                return;
            }
            let wake = self.wake();
            tokio::select! {
                biased;
                Some((call, reply)) = self.calls.next() => self.feed(Input::Reply(call, reply)),
                ask = asks.recv(), if asking => match ask {
                    Some(ask) => self.ask(ask),
                    None => asking = false,
                },
                told = events.recv(), if telling => match told {
                    Some(told) => self.told(told),
                    None => telling = false,
                },
                () = tokio::time::sleep_until(wake) => {
                    self.drop_abandoned();
                    self.feed(Input::Tick);
                }
                _ = stop.wait_for(|stop| *stop), if deadline.is_none() => deadline = Some(Instant::now() + LINGER),
                () = at(deadline), if deadline.is_some() => return,
            }
        }
    }

    fn told(&mut self, told: Told) {
        if let Some(event) = self.names.resolve(told) {
            self.feed(Input::Event(event));
        }
    }

    fn ask(&mut self, ask: Ask) {
        // A release behind a caller that went away must find what that caller was taking withdrawn.
        self.drop_abandoned();
        // Nobody waits any more when sending fails: then the question was idle.
        match ask {
            Ask::Assign(request, answer) => {
                let id = self.request(Waiter::Assign {
                    handle: request.handle.clone(),
                    asked: Instant::now(),
                    answer,
                });
                self.feed(Input::Assign(id, request));
            }
            Ask::Release(request, answer) => {
                let id = self.request(Waiter::Release(answer));
                self.feed(Input::Release(id, request));
            }
            Ask::OfHandle(handle, answer) => {
                let _idle = answer.send(self.whole(|all| all.of_handle(&handle)));
            }
            Ask::Held(answer) => {
                let _idle = answer.send(self.whole(|all| all.held().collect()));
            }
            Ask::CanAssign(family, answer) => {
                let _idle =
                    answer.send(self.allocator.can_assign(family, PoolUse::Workload, now()));
            }
            Ask::Tunnel(kind, answer) => {
                let _idle = answer.send(self.whole(|all| tunnel::plan(all.index(), kind)));
            }
            Ask::Living(living, answer) => {
                let known = self.whole(|_| ());
                if known.is_ok() {
                    self.feed(Input::Living(living));
                }
                let _idle = answer.send(known);
            }
            Ask::Counters(answer) => {
                let _idle = answer.send(self.counters);
            }
        }
    }

    /// Reads what is known once it is whole.
    fn whole<T>(&self, read: impl FnOnce(&Allocator) -> T) -> Result<T, AssignError> {
        if self.allocator.index().synced() {
            Ok(read(&self.allocator))
        } else {
            Err(AssignError::NotSynced)
        }
    }

    fn request(&mut self, waiter: Waiter) -> RequestId {
        self.next_request += 1;
        let id = RequestId(self.next_request);
        self.waiters.insert(id, waiter);
        id
    }

    fn feed(&mut self, input: Input) {
        for output in self.allocator.handle(input, now()) {
            match output {
                Output::Op(id, call) => {
                    self.counters.calls += 1;
                    let reply = self.store.carry_out(call);
                    self.calls.push(Box::pin(async move { (id, reply.await) }));
                }
                Output::Answer(id, answer) => self.answer(id, answer),
                Output::Note(note) => self.note(&note),
            }
        }
    }

    fn answer(&mut self, id: RequestId, answer: Answer) {
        match (self.waiters.remove(&id), answer) {
            (
                Some(Waiter::Assign {
                    handle,
                    asked,
                    answer: waiting,
                }),
                Answer::Assign(answer),
            ) => {
                if let Ok(assigned) = &answer {
                    self.numbers.assigned(assigned, asked.elapsed());
                }
                if let Err(Ok(assigned)) = waiting.send(answer) {
                    self.give_back(handle, &assigned);
                }
            }
            (Some(Waiter::Release(waiting)), Answer::Release(answer)) => {
                // A caller that went away has its journal; the release stands all the same.
                let _gone = waiting.send(answer);
            }
            (Some(Waiter::Nobody), Answer::Release(Err(error))) => {
                tracing::warn!(%error, "address of a caller that went away not released; the next comparison with the sandboxes will");
            }
            (
                Some(Waiter::Assign { .. } | Waiter::Release(_) | Waiter::Nobody) | None,
                Answer::Assign(_) | Answer::Release(_),
            ) => {}
        }
    }

    /// The caller went away between the answer and its delivery.
    fn give_back(&mut self, handle: String, assigned: &[Assigned]) {
        let taken = |a: &Assigned| Taken {
            block: a.block,
            ordinal: a.ordinal,
            sequence: a.sequence,
        };
        let addresses = Addresses::Exactly(assigned.iter().map(taken).collect());
        let id = self.request(Waiter::Nobody);
        self.feed(Input::Release(id, Release { handle, addresses }));
    }

    fn drop_abandoned(&mut self) {
        let gone: Vec<RequestId> = self
            .waiters
            .iter()
            .filter(
                |(_, waiter)| matches!(waiter, Waiter::Assign { answer, .. } if answer.is_closed()),
            )
            .map(|(id, _)| *id)
            .collect();
        for id in gone {
            self.waiters.insert(id, Waiter::Nobody);
            self.feed(Input::Cancel(id));
        }
    }

    fn wake(&self) -> Instant {
        let assigning = self
            .waiters
            .values()
            .any(|waiter| matches!(waiter, Waiter::Assign { .. }));
        let idle = if assigning {
            ABANDONED
        } else {
            Duration::from_mins(1)
        };
        let due = self
            .allocator
            .next_deadline()
            .map_or(idle, |at| at.since(now()).min(idle));
        // A deadline in the past would spin if the allocator had nothing to do at it.
        Instant::now() + due.max(Duration::from_millis(1))
    }

    fn note(&mut self, note: &Note) {
        self.numbers.note(note);
        match note {
            Note::Landed { block, batch } => {
                self.numbers.stock(&self.allocator);
                self.counters.swaps += 1;
                self.counters.items += *batch as u64;
                tracing::debug!(%block, batch, "block written");
            }
            Note::Conflict { block } => {
                self.counters.conflicts += 1;
                tracing::debug!(%block, "another write of the block came first");
            }
            Note::Claimed { block } => {
                self.counters.claimed += 1;
                tracing::info!(%block, "block claimed");
            }
            Note::Lost { block } => {
                self.counters.lost += 1;
                tracing::info!(%block, "block went to another node first");
            }
            Note::GivenUp { block } => {
                self.counters.given_up += 1;
                tracing::info!(%block, "claim given up");
            }
            Note::NotOurs {
                handle,
                block,
                ordinal,
            } => {
                self.counters.not_ours += 1;
                tracing::info!(handle, %block, ordinal, "address is another's by now, left alone");
            }
            Note::CooldownUnsupported => {
                tracing::warn!(
                    "the served IPAMBlock has no releasedAt: released addresses do not rest"
                );
            }
            Note::Failed { what, why } => {
                self.counters.failed += 1;
                tracing::warn!(what, error = %why, "call to the API server failed");
            }
        }
    }
}

fn now() -> Time {
    Time::from_nanos(crate::clock::unix_nanos())
}

async fn at(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
