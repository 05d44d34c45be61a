//! Counters of this page, as plain numbers the metrics endpoint renders.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use cni_plugin::spec::Verb;

/// Upper bounds of the duration buckets, in milliseconds; the last bucket is everything above.
pub const BUCKETS_MS: [u64; 12] = [1, 2, 3, 5, 8, 15, 30, 60, 125, 500, 2_000, 10_000];

/// Durations of one verb or step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Histogram {
    /// Calls per bucket, not cumulated; one more than [`BUCKETS_MS`].
    pub buckets: [u64; BUCKETS_MS.len() + 1],
    /// Sum of all durations.
    pub sum: Duration,
}

impl Histogram {
    fn observe(&mut self, took: Duration) {
        let at = BUCKETS_MS.partition_point(|bound| Duration::from_millis(*bound) < took);
        if let Some(bucket) = self.buckets.get_mut(at) {
            *bucket += 1;
        }
        self.sum += took;
    }

    /// Number of observations.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }
}

/// What the endpoint shows: `margay_cni_…`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// `requests_total{verb,code}`; code 0 = success.
    pub requests: BTreeMap<(Verb, u32), u64>,
    /// `duration_seconds{verb}`.
    pub durations: BTreeMap<Verb, Histogram>,
    /// `step_duration_seconds{step}` of ADD and DEL.
    pub steps: BTreeMap<&'static str, Histogram>,
    /// `inflight`.
    pub inflight: i64,
    /// `attached`.
    pub attached: u64,
    /// `owed_releases`.
    pub owed: u64,
    /// `rollbacks_total`.
    pub rollbacks: u64,
    /// `adopted_total`.
    pub adopted: u64,
    /// `collected_total`: attachments whose sandbox vanished without a DEL.
    pub collected: u64,
}

#[derive(Debug, Default)]
struct Calls {
    requests: BTreeMap<(Verb, u32), u64>,
    durations: BTreeMap<Verb, Histogram>,
    steps: BTreeMap<&'static str, Histogram>,
}

/// The counters themselves; shared by all calls.
#[derive(Debug, Default)]
pub struct Metrics {
    calls: Mutex<Calls>,
    inflight: AtomicI64,
    attached: AtomicU64,
    owed: AtomicU64,
    rollbacks: AtomicU64,
    adopted: AtomicU64,
    collected: AtomicU64,
}

impl Metrics {
    /// A call began.
    pub(super) fn began(&self) {
        self.inflight.fetch_add(1, Ordering::Relaxed);
    }

    /// A call that began has ended; `code` 0 = success.
    pub(super) fn ended(&self, verb: Verb, code: u32, took: Duration) {
        self.inflight.fetch_sub(1, Ordering::Relaxed);
        let mut calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        *calls.requests.entry((verb, code)).or_default() += 1;
        calls.durations.entry(verb).or_default().observe(took);
    }

    /// A step of ADD or DEL has ended, well or not.
    pub(super) fn step(&self, step: &'static str, took: Duration) {
        let mut calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        calls.steps.entry(step).or_default().observe(took);
    }

    /// The journal changed.
    pub(super) fn holds(&self, attached: u64, owed: u64) {
        self.attached.store(attached, Ordering::Relaxed);
        self.owed.store(owed, Ordering::Relaxed);
    }

    /// A failed ADD was undone.
    pub(super) fn rolled_back(&self) {
        self.rollbacks.fetch_add(1, Ordering::Relaxed);
    }

    /// Attachments of the last daemon were taken over.
    pub(super) fn adopted(&self, count: u64) {
        self.adopted.fetch_add(count, Ordering::Relaxed);
    }

    /// An attachment without sandbox was dropped.
    pub(super) fn collected(&self) {
        self.collected.fetch_add(1, Ordering::Relaxed);
    }

    /// All of it, now.
    pub fn snapshot(&self) -> Snapshot {
        let calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        Snapshot {
            requests: calls.requests.clone(),
            durations: calls.durations.clone(),
            steps: calls.steps.clone(),
            inflight: self.inflight.load(Ordering::Relaxed),
            attached: self.attached.load(Ordering::Relaxed),
            owed: self.owed.load(Ordering::Relaxed),
            rollbacks: self.rollbacks.load(Ordering::Relaxed),
            adopted: self.adopted.load(Ordering::Relaxed),
            collected: self.collected.load(Ordering::Relaxed),
        }
    }
}
