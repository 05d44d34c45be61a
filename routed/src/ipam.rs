//! The address task: owns the allocator of this node, carries its calls to the API server, answers who asks.
//!
//! ```text
//!  IpamHandle ──Ask 128──► ┐                       ┌─► store calls (≤ 4 blocks and 4 handles at once)
//!  watches ──Told 1024───► ├─ task: Allocator ─────┤
//!  replies, clock ───────► ┘                       └─► oneshot answers
//! ```
//!
//! Everything is decided in crate `ipam`; here is only plumbing: one task, so there is no lock and one order.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ::ipam::handle::TunnelKind;
use ::ipam::pool::{Labels, Named};
use ::ipam::tunnel::Plan;
use ::ipam::{Addresses, Assign, Family, Want};
use api::PoolUse;
use kube::Client;
use model::NodeName;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

mod numbers;
mod task;
#[cfg(test)]
mod tests;
mod told;

use crate::kube::store::Store;
use task::{Ask, Task};

pub use ::ipam::handle::is_warm;
pub use ::ipam::{
    AssignError, Assigned, Class, Held, Living, Release, ReleaseError, Released, Taken,
};
pub use numbers::Numbers;
pub use task::Counters;

/// Requests that may wait for the task: twice the attachments in flight.
const ASKS: usize = 128;
/// Events that may wait: a list of a few thousand blocks passes in some batches.
const EVENTS: usize = 1024;

/// A request for addresses.
#[derive(Clone, Debug)]
pub struct AssignRequest {
    /// What the addresses are for; the same handle is answered the same addresses.
    pub handle_id: String,
    /// One address of each family; all or none.
    pub families: Vec<Family>,
    /// The use; pools decide by it.
    pub usage: PoolUse,
    /// Pools by name or CIDR in the user's order; empty = whichever may serve.
    pub ipv4_pools: Vec<String>,
    /// The same for IPv6.
    pub ipv6_pools: Vec<String>,
    /// Labels of the pod's namespace; empty when there is none.
    pub namespace_labels: BTreeMap<String, String>,
    /// Owner attributes to store.
    pub attributes: BTreeMap<String, String>,
    /// These addresses and no others, at most one of each family.
    pub requested: Vec<IpAddr>,
    /// Handles of dead sandboxes of the same pod: a requested address they hold is taken over.
    pub supersedes: BTreeSet<String>,
}

impl From<AssignRequest> for Assign {
    fn from(request: AssignRequest) -> Self {
        let mut families: BTreeSet<Family> = request.families.iter().copied().collect();
        families.extend(
            request
                .requested
                .iter()
                .map(|address| Family::of_address(*address)),
        );
        let want = |family: Family| {
            let pools = match family {
                Family::V4 => &request.ipv4_pools,
                Family::V6 => &request.ipv6_pools,
            };
            Want {
                family,
                address: request
                    .requested
                    .iter()
                    .copied()
                    .find(|address| Family::of_address(*address) == family),
                pools: pools.iter().map(|pool| Named::parse(pool)).collect(),
            }
        };
        Self {
            wants: families.into_iter().map(want).collect(),
            handle: request.handle_id,
            usage: request.usage,
            namespace_labels: request.namespace_labels,
            attributes: request.attributes,
            supersedes: request.supersedes,
        }
    }
}

/// Why a tunnel has no address, or still has one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TunnelError {
    /// No pool with this encapsulation takes this node.
    #[error("no pool with this encapsulation takes this node")]
    Unwanted,
    /// None could be taken.
    #[error(transparent)]
    Assign(#[from] AssignError),
    /// The old one could not be given back.
    #[error(transparent)]
    Release(#[from] ReleaseError),
}

/// The way to the address task. Cheap to clone.
#[derive(Clone, Debug)]
pub struct IpamHandle {
    asks: mpsc::Sender<Ask>,
    events: mpsc::Sender<told::Told>,
    node: NodeName,
}

/// Starts the address task. It ends when told to stop and everything under way has come to an end, or after some seconds.
#[expect(
    clippy::needless_pass_by_value,
    reason = "a client is a handle, given to each task as its own"
)]
pub fn spawn(
    client: Client,
    node: NodeName,
    numbers: Numbers,
    stop: watch::Receiver<bool>,
) -> (IpamHandle, JoinHandle<()>) {
    let (asks, asked) = mpsc::channel(ASKS);
    let (events, told) = mpsc::channel(EVENTS);
    let store = Store::new(&client, node.as_str().into());
    let task = Task::new(&node, store, numbers, crate::clock::unix_nanos());
    let handle = IpamHandle { asks, events, node };
    (handle, tokio::spawn(task.run(asked, told, stop)))
}

impl IpamHandle {
    /// Tells the task of a change of the cluster. Waits while the task is behind.
    pub async fn event(&self, event: &model::Event) {
        if let Some(told) = told::translate(event, self.node.as_str()) {
            // The task outlives every watch; once it is gone the daemon is stopping and nobody needs events.
            let _stopping = self.events.send(told).await;
        }
    }

    /// Takes addresses: all that are asked for, or none. Each stands in a stored block when this returns.
    ///
    /// A caller that stops waiting gets nothing: what was or is being taken goes back.
    ///
    /// # Errors
    /// [`AssignError`]; [`AssignError::class`] says what it means for the caller. After `Unreachable` an address may
    /// have been taken: release by handle.
    pub async fn assign(&self, request: AssignRequest) -> Result<Vec<Assigned>, AssignError> {
        self.assign_as(request.into()).await
    }

    /// Gives addresses back: by handle, ordinal and sequence, or whatever the handle holds. What is gone already, or
    /// somebody else's by now, is success.
    ///
    /// # Errors
    /// [`ReleaseError`]; while it is [`retryable`](ReleaseError::retryable) the release is still owed.
    pub async fn release(&self, release: Release) -> Result<Released, ReleaseError> {
        let (answer, answered) = oneshot::channel();
        if self.asks.send(Ask::Release(release, answer)).await.is_err() {
            return Err(ReleaseError::Unreachable(STOPPING.to_owned()));
        }
        answered
            .await
            .unwrap_or_else(|_gone| Err(ReleaseError::Unreachable(STOPPING.to_owned())))
    }

    /// Gives back whatever a handle holds.
    ///
    /// # Errors
    /// As [`release`](Self::release).
    pub async fn release_handle(&self, handle_id: &str) -> Result<Released, ReleaseError> {
        let addresses = Addresses::OfHandle;
        self.release(Release {
            handle: handle_id.to_owned(),
            addresses,
        })
        .await
    }

    /// The addresses of a handle in blocks that concern this node.
    ///
    /// # Errors
    /// [`AssignError::NotSynced`] before every kind has listed.
    pub async fn by_handle(&self, handle_id: &str) -> Result<Vec<Held>, AssignError> {
        let (answer, answered) = oneshot::channel();
        self.asks
            .send(Ask::OfHandle(handle_id.to_owned(), answer))
            .await
            .map_err(|_gone| stopping())?;
        answered.await.map_err(|_gone| stopping())?
    }

    /// Every address whose entry names this node, tunnel addresses included.
    ///
    /// # Errors
    /// [`AssignError::NotSynced`] before every kind has listed.
    pub async fn held(&self) -> Result<Vec<Held>, AssignError> {
        let (answer, answered) = oneshot::channel();
        self.asks
            .send(Ask::Held(answer))
            .await
            .map_err(|_gone| stopping())?;
        answered.await.map_err(|_gone| stopping())?
    }

    /// Tells what lives here by the journal. Addresses that the last process answered before their entry was written are put in
    /// their name; from now on addresses that are kept ready are given out.
    ///
    /// # Errors
    /// [`AssignError::NotSynced`] before every kind has listed.
    pub async fn living(&self, living: Vec<Living>) -> Result<(), AssignError> {
        let (answer, answered) = oneshot::channel();
        self.asks
            .send(Ask::Living(living, answer))
            .await
            .map_err(|_gone| stopping())?;
        answered.await.map_err(|_gone| stopping())?
    }

    /// Whether a pod of this node would get an address of a family now.
    ///
    /// # Errors
    /// What such a request would be answered.
    pub async fn can_assign(&self, family: Family) -> Result<(), AssignError> {
        let (answer, answered) = oneshot::channel();
        self.asks
            .send(Ask::CanAssign(family, answer))
            .await
            .map_err(|_gone| stopping())?;
        answered.await.map_err(|_gone| stopping())?
    }

    /// What the task has counted so far.
    pub async fn counters(&self) -> Counters {
        let (answer, answered) = oneshot::channel();
        if self.asks.send(Ask::Counters(answer)).await.is_err() {
            return Counters::default();
        }
        answered.await.unwrap_or_default()
    }

    /// The address of this node's tunnel device: the one there is, if it may stay, else a new one.
    ///
    /// # Errors
    /// [`TunnelError`].
    pub async fn tunnel_address(&self, kind: TunnelKind) -> Result<IpAddr, TunnelError> {
        match self.plan(kind).await? {
            Plan::Keep(held) => Ok(held.address),
            Plan::Nothing | Plan::Release(_) => Err(TunnelError::Unwanted),
            Plan::Take(old, request) => {
                if let Some(old) = old {
                    self.release(old).await?;
                }
                let assigned = self.assign_as(*request).await?;
                assigned
                    .first()
                    .map(|assigned| assigned.address)
                    .ok_or(TunnelError::Unwanted)
            }
        }
    }

    /// Gives the address of this node's tunnel device back. None held is success.
    ///
    /// # Errors
    /// [`TunnelError::Release`].
    pub async fn release_tunnel_address(
        &self,
        node: &str,
        kind: TunnelKind,
    ) -> Result<(), TunnelError> {
        self.release_handle(&kind.handle(node)).await?;
        Ok(())
    }

    async fn plan(&self, kind: TunnelKind) -> Result<Plan, AssignError> {
        let (answer, answered) = oneshot::channel();
        self.asks
            .send(Ask::Tunnel(kind, answer))
            .await
            .map_err(|_gone| stopping())?;
        answered.await.map_err(|_gone| stopping())?
    }

    async fn assign_as(&self, request: Assign) -> Result<Vec<Assigned>, AssignError> {
        let (answer, answered) = oneshot::channel();
        self.asks
            .send(Ask::Assign(request, answer))
            .await
            .map_err(|_gone| stopping())?;
        answered.await.map_err(|_gone| stopping())?
    }
}

const STOPPING: &str = "the daemon is stopping";

fn stopping() -> AssignError {
    AssignError::Unreachable(STOPPING.to_owned())
}

/// Labels as pools see them, from a namespace that may be unknown.
pub fn namespace_labels(namespace: Option<&model::Namespace>) -> Labels {
    namespace
        .map(|namespace| namespace.labels.clone())
        .unwrap_or_default()
}
