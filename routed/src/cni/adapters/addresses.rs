//! Addresses by way of the address task.

use std::sync::Arc;

use ::ipam::{Addresses as Which, Family};
use api::PoolUse;
use cni_plugin::spec::Families;
use futures::FutureExt;
use futures::future::BoxFuture;

use crate::cni::record::{Claim, Place};
use crate::cni::seams::{Addresses, Ask, Holding, Refusal, Unreleased};
use crate::ipam::{
    AssignError, AssignRequest, Assigned, Class, Held, IpamHandle, Living, Release, Taken,
    namespace_labels,
};

/// IPAM of this node.
#[derive(Clone, Debug)]
pub struct Ipam(IpamHandle);

impl Ipam {
    /// Over the handle of the address task.
    pub fn new(handle: IpamHandle) -> Self {
        Self(handle)
    }
}

impl Addresses for Ipam {
    fn assign(&self, ask: Ask) -> BoxFuture<'_, Result<Vec<Claim>, Refusal>> {
        async move {
            let request = AssignRequest {
                handle_id: ask.handle.to_string(),
                families: families(ask.families),
                usage: PoolUse::Workload,
                ipv4_pools: ask.ipv4_pools,
                ipv6_pools: ask.ipv6_pools,
                namespace_labels: namespace_labels(ask.namespace.as_ref()),
                attributes: ask.attributes,
                requested: ask.requested,
                supersedes: ask.supersedes,
            };
            let mut claims: Vec<Claim> = match self.0.assign(request).await {
                Ok(assigned) => assigned.iter().map(claim).collect(),
                Err(error) => return Err(refusal(&error)),
            };
            claims.sort_by_key(|claim| claim.address);
            Ok(claims)
        }
        .boxed()
    }

    fn release(
        &self,
        handle: Arc<str>,
        claims: Vec<Claim>,
    ) -> BoxFuture<'_, Result<(), Unreleased>> {
        async move {
            let release = Release {
                handle: handle.to_string(),
                addresses: which(&claims),
            };
            match self.0.release(release).await {
                Ok(_) => Ok(()),
                Err(error) => Err(Unreleased {
                    retryable: error.retryable(),
                    reason: error.to_string(),
                }),
            }
        }
        .boxed()
    }

    fn holdings(&self) -> BoxFuture<'_, Result<Vec<Holding>, String>> {
        async move {
            let held = self.0.held().await.map_err(|error| error.to_string())?;
            Ok(held.into_iter().map(holding).collect())
        }
        .boxed()
    }

    fn living(&self, living: Vec<Holding>) -> BoxFuture<'_, Result<(), String>> {
        async move {
            let known = |holding: Holding| {
                let taken = place(&holding.claim)?;
                Some(Living {
                    handle: holding.handle.to_string(),
                    attributes: holding.attributes,
                    taken,
                })
            };
            self.0
                .living(living.into_iter().filter_map(known).collect())
                .await
                .map_err(|error| error.to_string())
        }
        .boxed()
    }

    fn serviceable(&self, wanted: Families) -> BoxFuture<'_, Result<(), String>> {
        async move {
            for family in families(wanted) {
                self.0
                    .can_assign(family)
                    .await
                    .map_err(|error| error.to_string())?;
            }
            Ok(())
        }
        .boxed()
    }
}

fn families(wanted: Families) -> Vec<Family> {
    [(wanted.ipv4, Family::V4), (wanted.ipv6, Family::V6)]
        .into_iter()
        .filter_map(|(wanted, family)| wanted.then_some(family))
        .collect()
}

/// Exactly what the journal knows; all of the handle when it does not know a place.
fn which(claims: &[Claim]) -> Which {
    let taken: Option<Vec<Taken>> = claims.iter().map(place).collect();
    match taken {
        Some(taken) if !taken.is_empty() => Which::Exactly(taken),
        Some(_) | None => Which::OfHandle,
    }
}

fn place(claim: &Claim) -> Option<Taken> {
    claim.place.map(|place| Taken {
        block: place.block,
        ordinal: place.ordinal,
        sequence: place.sequence,
    })
}

fn claim(assigned: &Assigned) -> Claim {
    Claim {
        address: assigned.address,
        place: Some(Place {
            block: assigned.block,
            ordinal: assigned.ordinal,
            sequence: assigned.sequence,
        }),
    }
}

fn holding(held: Held) -> Holding {
    Holding {
        handle: held.handle.into(),
        claim: Claim {
            address: held.address,
            place: Some(Place {
                block: held.block,
                ordinal: held.ordinal,
                sequence: held.sequence,
            }),
        },
        attributes: held.attributes,
    }
}

fn refusal(error: &AssignError) -> Refusal {
    let words = error.to_string();
    match error.class() {
        Class::Exhausted => Refusal::Exhausted(words),
        Class::Refused => Refusal::Request(words),
        Class::Later => Refusal::Later(words),
        Class::Broken => Refusal::Internal(words),
    }
}
