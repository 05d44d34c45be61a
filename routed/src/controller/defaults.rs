//! Objects that must exist. Created if absent, never overwritten.

mod pools;

use std::sync::Arc;
use std::time::Duration;

use api::{FelixConfiguration, IPPool, KubeControllersConfiguration, Tier};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{ListParams, PostParams};
use kube::{Api, Client, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::kube::objects::NodeObject;

const RETRY: Duration = Duration::from_secs(5);

/// Creates what is missing, trying until it succeeds.
pub(super) async fn ensure(client: Arc<Client>, pool: String) {
    while let Err(error) = attempt(&client, &pool).await {
        tracing::warn!(%error, "default objects not created, trying again");
        tokio::time::sleep(RETRY).await;
    }
}

/// Why a default object could not be made.
#[derive(Debug, thiserror::Error)]
enum EnsureError {
    #[error("{0}")]
    Refused(#[from] kube::Error),
    #[error("default object does not fit its kind: {0}")]
    Malformed(#[from] serde_json::Error),
    #[error("{0}")]
    Setting(#[from] pools::BadSetting),
}

async fn attempt(client: &Client, pool: &str) -> Result<(), EnsureError> {
    for (name, order, action) in [
        ("kube-admin", 1_000.0, "Pass"),
        ("default", 1_000_000.0, "Deny"),
        ("kube-baseline", 10_000_000.0, "Pass"),
    ] {
        let spec = json!({ "order": order, "defaultAction": action });
        create::<Tier>(client, "Tier", name, &spec).await?;
    }
    // Other tools fail without it.
    create::<KubeControllersConfiguration>(
        client,
        "KubeControllersConfiguration",
        "default",
        &json!({ "controllers": {} }),
    )
    .await?;
    create::<FelixConfiguration>(
        client,
        "FelixConfiguration",
        "default",
        &json!({ "defaultEndpointToHostAction": "Accept" }),
    )
    .await?;
    if let Some(setting) = pools::Setting::parse(pool)? {
        for (name, spec) in pools::wanted(&setting, &facts(client).await?) {
            create::<IPPool>(client, "IPPool", name, &spec).await?;
        }
    }
    Ok(())
}

/// What the cluster says about itself.
async fn facts(client: &Client) -> Result<pools::Facts, kube::Error> {
    let nodes: Api<NodeObject> = Api::all(client.clone());
    let existing: Api<IPPool> = Api::all(client.clone());
    let kubeadm: Api<ConfigMap> = Api::namespaced(client.clone(), "kube-system");
    let configuration = kubeadm
        .get_opt("kubeadm-config")
        .await?
        .and_then(|map| map.data?.remove("ClusterConfiguration"));
    let nodes = nodes.list(&ListParams::default()).await?;
    let addresses = nodes.items.iter().flat_map(|node| &node.status.addresses);
    let pools = existing.list(&ListParams::default()).await?;
    Ok(pools::Facts {
        node_addresses: addresses
            .filter(|address| address.kind == "InternalIP")
            .filter_map(|address| address.address.parse().ok())
            .collect(),
        pod_subnets: configuration
            .as_deref()
            .map(pools::pod_subnets)
            .unwrap_or_default(),
        pools: pools
            .items
            .iter()
            .filter_map(|pool| pool.spec.network())
            .collect(),
    })
}

async fn create<K>(
    client: &Client,
    kind: &str,
    name: &str,
    spec: &serde_json::Value,
) -> Result<(), EnsureError>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Serialize + std::fmt::Debug,
{
    let object: K = serde_json::from_value(json!({
        "apiVersion": format!("{}/{}", api::GROUP, api::VERSION),
        "kind": kind,
        "metadata": { "name": name },
        "spec": spec,
    }))?;
    let objects: Api<K> = Api::all(client.clone());
    match objects.create(&PostParams::default(), &object).await {
        Ok(_) => {
            tracing::info!(kind, name, "created");
            Ok(())
        }
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
        Err(error) => Err(error.into()),
    }
}
