//! What this node publishes about itself: annotations other nodes read, and the condition that it has a network.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use model::node::annotation;
use tokio::sync::watch;

const LIMIT: Duration = Duration::from_secs(5);
const RETRY: Duration = Duration::from_secs(5);

/// What is published: annotation key → value, `None` = remove; and whether the network is up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeFacts {
    /// Annotations of ours.
    pub annotations: BTreeMap<&'static str, Option<String>>,
    /// Set once, when the node first became ready; a later blip does not take it back.
    pub network_up: bool,
}

impl NodeFacts {
    /// Sets or removes an annotation.
    pub fn annotate(&mut self, key: &'static str, value: Option<String>) {
        self.annotations.insert(key, value);
    }

    /// Sets the node's address with the prefix length of its subnet.
    pub fn address(&mut self, net: ipnet::IpNet) {
        let key = match net {
            ipnet::IpNet::V4(_) => annotation::IPV4_ADDRESS,
            ipnet::IpNet::V6(_) => annotation::IPV6_ADDRESS,
        };
        self.annotate(key, Some(net.to_string()));
    }
}

/// Keeps the Node object equal to the facts until told to stop.
pub async fn publish(
    client: Client,
    node: String,
    mut facts: watch::Receiver<NodeFacts>,
    mut stop: watch::Receiver<bool>,
) {
    let nodes: Api<Node> = Api::all(client);
    let mut published = NodeFacts::default();
    loop {
        let wanted = facts.borrow_and_update().clone();
        if wanted != published {
            match write(&nodes, &node, &wanted, &published).await {
                Ok(()) => {
                    tracing::info!(?wanted, "node published");
                    published = wanted;
                    continue;
                }
                Err(error) => tracing::warn!(%error, "node not published, trying again"),
            }
        }
        let retry = facts.borrow().clone() != published;
        tokio::select! {
            changed = facts.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(RETRY), if retry => {}
            _ = stop.wait_for(|stop| *stop) => return,
        }
    }
}

/// Why the Node could not be written.
#[derive(Debug, thiserror::Error)]
enum PublishError {
    #[error("API server: {0}")]
    Refused(#[from] kube::Error),
    #[error("the API server did not answer in {} s", LIMIT.as_secs())]
    Silent(#[from] tokio::time::error::Elapsed),
}

async fn write(
    nodes: &Api<Node>,
    node: &str,
    wanted: &NodeFacts,
    published: &NodeFacts,
) -> Result<(), PublishError> {
    let params = PatchParams::default();
    if wanted.annotations != published.annotations {
        let patch =
            Patch::Merge(serde_json::json!({ "metadata": { "annotations": wanted.annotations } }));
        tokio::time::timeout(LIMIT, nodes.patch_metadata(node, &params, &patch)).await??;
    }
    if wanted.network_up && !published.network_up {
        let now = crate::kube::lease::micro_time();
        let patch = Patch::Strategic(serde_json::json!({ "status": { "conditions": [{
            "type": "NetworkUnavailable",
            "status": "False",
            "reason": "MargayIsUp",
            "message": "Margay is running on this node",
            "lastHeartbeatTime": now.get(..19).map(|head| format!("{head}Z")),
            "lastTransitionTime": now.get(..19).map(|head| format!("{head}Z")),
        }]}}));
        tokio::time::timeout(LIMIT, nodes.patch_status(node, &params, &patch)).await??;
    }
    Ok(())
}
