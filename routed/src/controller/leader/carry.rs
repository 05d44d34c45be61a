//! Carries the leader's orders out: questions to nodes, proofs from the API server, calls to the store.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ::ipam::Time;
use ::ipam::collector::{Ask, Errand, Found, Need, Proof};
use ::ipam::store::{StoreCall, StoreError, StoreReply};
use futures::StreamExt;
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{DeleteParams, Patch, PatchParams};
use kube::{Api, Client};
use serde_json::json;

use crate::controller::feed;
use crate::kube::objects::{NodeObject, PodObject};
use crate::kube::report::{self, Asked, Question};
use crate::kube::store::Store;

const LIMIT: Duration = Duration::from_secs(5);
/// Errands under way at once: gentle on an API server that has just lost nodes.
const PARALLEL: usize = 8;
/// Errands of one look; the rest comes with the next, which decides anew.
const AT_ONCE: usize = 128;

/// The leader's hands.
pub(super) struct Carrier {
    client: Client,
    store: Store,
    leases: Api<Lease>,
}

impl Carrier {
    pub(super) fn new(client: Client, namespace: &str) -> Self {
        Self {
            store: Store::of_leader(&client),
            leases: Api::namespaced(client.clone(), namespace),
            client,
        }
    }

    /// Writes questions into the Leases of their nodes.
    pub(super) async fn ask(&self, asks: &BTreeMap<Arc<str>, Ask>) {
        for (node, ask) in asks {
            let asked = ask.spots.iter().map(|spot| Asked {
                handle: spot.handle.to_string(),
                block: spot.block,
                ordinal: spot.ordinal,
                sequence: spot.sequence,
            });
            let question = Question {
                id: ask.id,
                asked: asked.collect(),
            };
            let Ok(text) = serde_json::to_string(&question) else {
                continue;
            };
            let patch =
                Patch::Merge(json!({ "metadata": { "annotations": { report::ASK: text } } }));
            tracing::debug!(%node, addresses = ask.spots.len(), "asking whether these are in use");
            let params = PatchParams::default();
            if let Err(error) = within(self.leases.patch_metadata(node, &params, &patch)).await {
                tracing::warn!(%node, error, "node not asked; its addresses stay");
            }
        }
    }

    /// Does every errand, some at once.
    pub(super) async fn run(&self, errands: Vec<Errand>) {
        futures::stream::iter(errands.into_iter().take(AT_ONCE))
            .for_each_concurrent(PARALLEL, |errand| self.one(errand))
            .await;
    }

    async fn one(&self, mut errand: Errand) {
        loop {
            let now = Time::from_nanos(crate::clock::unix_nanos());
            let found = match errand.next(now) {
                Need::Done => break,
                Need::Prove(proof) => Found::Proved(self.prove(&proof).await),
                Need::Read(key) => match self.store.carry_out(StoreCall::Get(key)).await {
                    Ok(StoreReply::Object(stored)) => Found::Object(Some(Box::new(stored))),
                    Ok(StoreReply::Removed) | Err(StoreError::NotFound) => Found::Object(None),
                    Err(error) => {
                        tracing::debug!(%error, "not read; the next look begins anew");
                        break;
                    }
                },
                Need::Write(call) => {
                    let words = describe(&call);
                    let written = self.store.carry_out(call).await;
                    match &written {
                        Ok(_) => tracing::info!(what = %words, "set right"),
                        Err(error) => {
                            tracing::debug!(what = %words, %error, "not written; the next look begins anew");
                        }
                    }
                    Found::Written(written)
                }
            };
            errand.feed(found);
        }
        if errand.freed() > 0 {
            tracing::info!(addresses = errand.freed(), what = %errand, "freed");
        }
    }

    /// Asks the API server itself, by quorum reads. What cannot be found out is not true.
    async fn prove(&self, proof: &Proof) -> bool {
        match proof {
            Proof::NodeGone(node, stamp) => {
                let nodes: Api<NodeObject> = Api::all(self.client.clone());
                let lease = match within(self.leases.get_opt(node)).await {
                    Ok(lease) => lease.as_ref().map(feed::stamp),
                    Err(_) => return false,
                };
                // A Lease that is gone renews no more; one that moved since does.
                let silent = lease.is_none() || lease == *stamp;
                silent && matches!(within(nodes.get_opt(node)).await, Ok(None))
            }
            Proof::PodNotOn((namespace, name), node) => {
                let pods: Api<PodObject> = Api::namespaced(self.client.clone(), namespace);
                match within(pods.get_opt(name)).await {
                    Ok(None) => true,
                    Ok(Some(pod)) => {
                        let pod = pod.into_model();
                        let there = pod.node.as_ref().is_some_and(|at| at.as_str() == &**node);
                        pod.finished || !there
                    }
                    Err(_) => false,
                }
            }
        }
    }

    /// Removes the Lease of a node of which nothing is left.
    pub(super) async fn forget(&self, node: &Arc<str>, stamp: Option<Arc<str>>) {
        if !self.prove(&Proof::NodeGone(Arc::clone(node), stamp)).await {
            return;
        }
        let params = DeleteParams::default();
        match within(self.leases.delete(node, &params)).await {
            Ok(_) => tracing::info!(%node, "nothing is left of a node that is gone"),
            Err(error) => tracing::debug!(%node, error, "Lease of a gone node not removed"),
        }
    }
}

/// Waits for an answer, not for ever; errors in words.
async fn within<T>(call: impl Future<Output = Result<T, kube::Error>>) -> Result<T, String> {
    match tokio::time::timeout(LIMIT, call).await {
        Ok(answer) => answer.map_err(|error| error.to_string()),
        Err(_elapsed) => Err(format!("no answer within {LIMIT:?}")),
    }
}

fn describe(call: &StoreCall) -> String {
    match call {
        StoreCall::Get(key) => format!("read {}", key.name()),
        StoreCall::Create(object) => format!("create {}", object.key().name()),
        StoreCall::Swap(object, _) => format!("write {}", object.key().name()),
        StoreCall::Remove(key, _) => format!("remove {}", key.name()),
    }
}
