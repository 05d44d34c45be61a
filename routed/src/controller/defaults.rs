//! Objects that must exist. Created if absent, never overwritten.

use std::sync::Arc;
use std::time::Duration;

use api::{FelixConfiguration, IPPool, Tier};
use kube::api::{ListParams, PostParams};
use kube::{Api, Client, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;

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
    create::<FelixConfiguration>(
        client,
        "FelixConfiguration",
        "default",
        &json!({ "defaultEndpointToHostAction": "Accept" }),
    )
    .await?;
    if !pool.is_empty() {
        let pools: Api<IPPool> = Api::all(client.clone());
        if pools
            .list_metadata(&ListParams::default().limit(1))
            .await?
            .items
            .is_empty()
        {
            let spec = json!({ "cidr": pool, "vxlanMode": "CrossSubnet", "natOutgoing": true });
            create::<IPPool>(client, "IPPool", "default-ipv4-ippool", &spec).await?;
        }
    }
    Ok(())
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
