//! The one way out of the kernel and of IPAM, shared by DEL, roll-back, GC and recovery.

use std::sync::Arc;
use std::time::Duration;

use cni_plugin::spec::{Code, Failure};
use tokio::time::timeout;

use super::Server;
use crate::cni::record::{Record, State};

/// How long the World may take to let go; past it the link goes first and the World follows.
const WITHDRAW: Duration = Duration::from_secs(5);
/// How long a link may take to go.
const DETACH: Duration = Duration::from_secs(10);
/// How long IPAM may take; past it the release is owed.
const RELEASE: Duration = Duration::from_secs(5);

impl Server {
    /// Takes an attachment apart: route and policy, then link, then address, then the record. What is gone already is fine. The
    /// caller holds the turn of the attachment.
    ///
    /// # Errors
    /// The link cannot be deleted; the record stays, to be tried again.
    pub(super) async fn tear_down(&self, mut record: Record) -> Result<(), Failure> {
        self.leave(&mut record);
        if record.holds_interface() {
            self.remove_interface(&record).await?;
        }
        self.pay(record).await;
        Ok(())
    }

    /// Enters that an attachment goes; one without an interface of its own has only its addresses to give back.
    pub(super) fn leave(&self, record: &mut Record) {
        let next = if record.holds_interface() {
            State::Leaving
        } else {
            State::Owed
        };
        if record.state != next {
            record.state = next;
            self.book.note(record);
        }
    }

    /// The same where nobody waits for the outcome.
    pub(super) async fn tear_down_or_say(&self, record: Record) {
        let id = record.id.clone();
        if let Err(failure) = self.tear_down(record).await {
            tracing::warn!(attachment = %id, %failure, details = failure.details, "interface stays for now");
        }
    }

    /// Takes route, policy and link away.
    pub(super) async fn remove_interface(&self, record: &Record) -> Result<(), Failure> {
        self.withdraw(record).await;
        self.detach(record).await
    }

    /// Takes route and policy away. From then on the interface is one nobody knows, and what comes from such is dropped.
    pub(super) async fn withdraw(&self, record: &Record) {
        let withdrawing = timeout(WITHDRAW, self.rooms.cluster.withdraw(record.id.clone()));
        match self.timed("withdraw", withdrawing).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::warn!(attachment = %record.id, %error, "route and policy follow the link");
            }
            Err(_elapsed) => {
                tracing::warn!(attachment = %record.id, "route and policy were slow: they follow the link");
            }
        }
    }

    /// Deletes the link.
    pub(super) async fn detach(&self, record: &Record) -> Result<(), Failure> {
        let detach = self
            .rooms
            .kernel
            .detach(Arc::clone(&record.host), record.ifindex);
        let detached = self.timed("detach", timeout(DETACH, detach)).await;
        let why = match detached {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(why)) => why,
            Err(_elapsed) => "the kernel did not answer in time".to_owned(),
        };
        Err(Failure::new(
            Code::Internal,
            format!("the interface {} cannot be deleted", record.host),
        )
        .because(why))
    }

    /// Releases the address and closes the record; a release that must wait is entered as owed.
    pub(super) async fn pay(&self, mut record: Record) {
        let release = self
            .rooms
            .addresses
            .release(Arc::clone(&record.handle), record.claims.clone());
        let later = match self.timed("release", timeout(RELEASE, release)).await {
            Ok(Ok(())) => None,
            Ok(Err(error)) if !error.retryable => {
                tracing::warn!(attachment = %record.id, %error, "address is not ours any more");
                None
            }
            Ok(Err(error)) => Some(error.reason),
            Err(_elapsed) => Some("IPAM did not answer in time".to_owned()),
        };
        let Some(reason) = later else {
            self.book.close(record.serial);
            return;
        };
        if record.state != State::Owed {
            tracing::info!(attachment = %record.id, reason, "release of the address is owed");
        }
        record.state = State::Owed;
        self.book.note(&record);
    }
}
