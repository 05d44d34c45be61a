//! Who of the replicas acts: the holder of one Lease.
//!
//! Loosely after client-go's leader election: a holder that does not renew for the Lease's duration is replaced. Time is measured
//! by how long a record has not changed on *our* monotonic clock, so clocks of machines need not agree.

use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::sync::watch;

const NAME: &str = "margay-controller";
const DURATION: Duration = Duration::from_secs(15);
const RETRY: Duration = Duration::from_secs(2);
const RENEW: Duration = Duration::from_secs(5);
const LIMIT: Duration = Duration::from_secs(4);

/// A replica that wants to act.
pub(super) struct Election {
    leases: Api<Lease>,
    identity: String,
}

/// The time during which this replica acts.
pub(super) struct Term<'a> {
    election: &'a Election,
}

impl Election {
    pub(super) fn new(client: Client, namespace: &str, identity: &str) -> Self {
        Self {
            leases: Api::namespaced(client, namespace),
            identity: identity.to_owned(),
        }
    }

    /// Waits until this replica holds the Lease; `None` when told to stop first.
    pub(super) async fn campaign(&self, mut stop: watch::Receiver<bool>) -> Option<Term<'_>> {
        let mut seen: Option<(Option<String>, Instant)> = None;
        loop {
            match self.attempt(&mut seen).await {
                Ok(true) => return Some(Term { election: self }),
                Ok(false) => {}
                Err(error) => tracing::warn!(%error, "election: lease not reachable"),
            }
            tokio::select! {
                () = tokio::time::sleep(RETRY) => {}
                _ = stop.wait_for(|stop| *stop) => return None,
            }
        }
    }

    async fn attempt(
        &self,
        seen: &mut Option<(Option<String>, Instant)>,
    ) -> Result<bool, ElectionError> {
        let now = crate::clock::now();
        let Some(lease) = tokio::time::timeout(LIMIT, self.leases.get_opt(NAME)).await?? else {
            let lease = self.record(None);
            let params = PostParams::default();
            return won(tokio::time::timeout(LIMIT, self.leases.create(&params, &lease)).await?);
        };
        let holder = lease
            .spec
            .as_ref()
            .and_then(|spec| spec.holder_identity.clone());
        let version = lease.metadata.resource_version.clone();
        let unchanged_since = match seen {
            Some((known, since)) if *known == version => *since,
            _ => {
                *seen = Some((version, now));
                now
            }
        };
        let free = holder.as_deref().is_none_or(str::is_empty);
        let mine = holder.as_deref() == Some(&self.identity);
        let expired = now.saturating_duration_since(unchanged_since) > DURATION;
        if !(free || mine || expired) {
            return Ok(false);
        }
        let lease = self.record(lease.metadata.resource_version);
        let params = PostParams::default();
        won(tokio::time::timeout(LIMIT, self.leases.replace(NAME, &params, &lease)).await?)
    }

    fn record(&self, version: Option<String>) -> Lease {
        let now = i64::try_from(crate::clock::unix_nanos() / 1_000)
            .ok()
            .and_then(|micros| Timestamp::from_microsecond(micros).ok())
            .map(MicroTime);
        Lease {
            metadata: ObjectMeta {
                name: Some(NAME.to_owned()),
                resource_version: version,
                ..ObjectMeta::default()
            },
            spec: Some(LeaseSpec {
                holder_identity: Some(self.identity.clone()),
                lease_duration_seconds: i32::try_from(DURATION.as_secs()).ok(),
                renew_time: now,
                ..LeaseSpec::default()
            }),
        }
    }
}

impl Term<'_> {
    /// Renews the Lease; returns when it is lost or when told to stop.
    pub(super) async fn hold(&self, mut stop: watch::Receiver<bool>) {
        let mut renewed = crate::clock::now();
        let mut seen = None;
        loop {
            tokio::select! {
                () = tokio::time::sleep(RENEW) => {}
                _ = stop.wait_for(|stop| *stop) => return,
            }
            match self.election.attempt(&mut seen).await {
                Ok(true) => renewed = crate::clock::now(),
                Ok(false) => return,
                Err(error) => {
                    tracing::warn!(%error, "election: lease not renewed");
                    if crate::clock::now().saturating_duration_since(renewed) > DURATION {
                        return;
                    }
                }
            }
        }
    }
}

/// Why the Lease could not be read or written.
#[derive(Debug, thiserror::Error)]
enum ElectionError {
    #[error("{0}")]
    Refused(#[from] kube::Error),
    #[error("the API server did not answer in {} s", LIMIT.as_secs())]
    Silent(#[from] tokio::time::error::Elapsed),
}

/// A conflict is an election lost, not an error.
fn won(written: Result<Lease, kube::Error>) -> Result<bool, ElectionError> {
    match written {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
        Err(error) => Err(error.into()),
    }
}
