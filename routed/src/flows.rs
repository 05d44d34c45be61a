//! Live flows that a later policy forbids: found after the commit, cut in the background.
//!
//! ```text
//!   reconcile ──Review 16──► this task: list flows, judge each by the rules in force, mark
//! ```
//!
//! A review names the interfaces whose verdicts changed, so most commits need none. New flows meet the new rules at once; what is
//! done here is only for those that were there before, and never holds up a commit.

use std::collections::BTreeMap;
use std::time::Duration;

use dataplane::io::{Conntrack, ConntrackError, Tracked};
use policy_iptables::flows::{Judgement, Review};
use tokio::sync::{mpsc, watch};

use crate::metrics::Metrics;

/// Reviews that may wait. They are taken all at once and become one, so more would only mean that this task is stuck.
pub const REVIEWS: usize = 16;
/// Flows marked at once, and the rest after each: at most a thousand in a second, so that a mass cut leaves the kernel to others.
const CHUNK: (usize, Duration) = (100, Duration::from_millis(100));
/// A packet on its way through the commit may bring its flow into the table after the first look.
const SECOND_LOOK: Duration = Duration::from_millis(500);
/// Wait after the kernel refused.
const RETRY: Duration = Duration::from_secs(1);

/// Runs until told to stop or until nobody sends reviews.
pub async fn review(
    conntrack: Conntrack,
    mut reviews: mpsc::Receiver<Review>,
    metrics: Metrics,
    mut stop: watch::Receiver<bool>,
) {
    let mut taken = Vec::with_capacity(REVIEWS);
    loop {
        tokio::select! {
            count = reviews.recv_many(&mut taken, REVIEWS) => if count == 0 { return },
            _ = stop.wait_for(|stop| *stop) => return,
        }
        let Some(review) = taken
            .drain(..)
            .reduce(|earlier, later| later.after(earlier))
        else {
            continue;
        };
        tokio::select! {
            () = carry_out(&conntrack, &review, &metrics) => {}
            _ = stop.wait_for(|stop| *stop) => return,
        }
    }
}

/// Looks twice. What the kernel refuses is tried once more, then left to the next change.
async fn carry_out(conntrack: &Conntrack, review: &Review, metrics: &Metrics) {
    for wait in [Duration::ZERO, SECOND_LOOK] {
        tokio::time::sleep(wait).await;
        if let Err(error) = look(conntrack, review, metrics).await {
            tracing::warn!(%error, "live flows cannot be judged");
            tokio::time::sleep(RETRY).await;
        }
    }
}

async fn look(
    conntrack: &Conntrack,
    review: &Review,
    metrics: &Metrics,
) -> Result<(), ConntrackError> {
    let started = crate::clock::now();
    let judge = review.clone();
    let found = conntrack.select(move |flow| judge.judge(flow)).await?;
    let mut flows: BTreeMap<Judgement, Vec<Tracked>> = BTreeMap::new();
    for (flow, judgement) in found {
        flows.entry(judgement).or_default().push(flow);
    }
    for (judgement, flows) in flows {
        let count = flows.len();
        let (value, counter) = match judgement {
            Judgement::Cut => (review.bit(), &metrics.flows_cut),
            Judgement::Mend => (0, &metrics.flows_mended),
        };
        for (number, chunk) in flows.chunks(CHUNK.0).enumerate() {
            if number > 0 {
                tokio::time::sleep(CHUNK.1).await;
            }
            conntrack.mark(chunk.to_vec(), review.bit(), value).await?;
            counter.inc_by(u64::try_from(chunk.len()).unwrap_or(u64::MAX));
        }
        let took = crate::clock::now().saturating_duration_since(started);
        tracing::info!(
            ?judgement,
            count,
            interfaces = review.len(),
            ?took,
            "live flows marked"
        );
    }
    Ok(())
}
