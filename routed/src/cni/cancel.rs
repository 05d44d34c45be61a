//! Why a running call should end before it is done.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use cni_plugin::spec::{Code, Failure};
use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};

/// Reasons to stop a call that has begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    /// The plugin closed its end: the runtime gave up.
    HungUp,
    /// A DEL of the same attachment came.
    Deleted,
    /// The daemon goes down.
    Stopping,
}

/// Ends one call; shared by whoever may have a reason to.
#[derive(Clone, Debug)]
pub(super) struct Trip(Arc<watch::Sender<Option<Reason>>>);

/// What a call asks before, and while, it waits.
#[derive(Clone, Debug)]
pub(super) struct Cancel {
    reason: watch::Receiver<Option<Reason>>,
    deadline: Instant,
}

impl Trip {
    /// A call that may run `bound` long.
    pub(super) fn new(bound: Duration) -> (Self, Cancel) {
        let (sender, reason) = watch::channel(None);
        let deadline = Instant::now() + bound;
        (Self(Arc::new(sender)), Cancel { reason, deadline })
    }

    /// Ends it; the first reason stands.
    pub(super) fn trip(&self, reason: Reason) {
        self.0.send_if_modified(|standing| {
            let first = standing.is_none();
            if first {
                *standing = Some(reason);
            }
            first
        });
    }
}

impl Cancel {
    /// # Errors
    /// The failure to answer with, if the call should end now.
    pub(super) fn check(&self) -> Result<(), Failure> {
        if let Some(reason) = *self.reason.borrow() {
            return Err(reason.failure());
        }
        if Instant::now() >= self.deadline {
            return Err(overdue());
        }
        Ok(())
    }

    /// Waits for something that may be abandoned at any moment.
    ///
    /// # Errors
    /// The failure to answer with, if the call should end first.
    pub(super) async fn unless<T>(&self, wait: impl Future<Output = T>) -> Result<T, Failure> {
        let mut reason = self.reason.clone();
        let tripped = async {
            let standing = reason
                .wait_for(Option::is_some)
                .await
                .ok()
                .and_then(|standing| *standing);
            match standing {
                Some(reason) => reason,
                // Nobody is left who could have a reason.
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            reason = tripped => Err(reason.failure()),
            done = timeout_at(self.deadline, wait) => done.map_err(|_elapsed| overdue()),
        }
    }

    /// Waits for something that must not be abandoned half way, save when it hangs for longer than `bound`.
    ///
    /// # Errors
    /// The call should have ended before, or it hung.
    pub(super) async fn whole<T>(
        &self,
        bound: Duration,
        work: impl Future<Output = T>,
    ) -> Result<T, Failure> {
        self.check()?;
        timeout(bound, work).await.map_err(|_elapsed| overdue())
    }
}

impl Reason {
    fn failure(self) -> Failure {
        Failure::new(
            Code::TryAgainLater,
            match self {
                Self::HungUp => "the runtime gave up on this call, so everything was undone",
                Self::Deleted => "a DEL of the same container came, so everything was undone",
                Self::Stopping => {
                    "the Margay daemon is restarting: the call can be repeated in a moment"
                }
            },
        )
    }
}

fn overdue() -> Failure {
    Failure::new(
        Code::TryAgainLater,
        "the call did not end within its time, so everything was undone: repeat it",
    )
}
