//! The node's Lease: proof that its daemon lives.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use tokio::sync::watch;

use super::pulse::Pulse;

/// How often the Lease is renewed.
pub const RENEW: Duration = Duration::from_secs(10);
/// After this long without renewal the daemon counts as gone.
pub const DURATION: Duration = Duration::from_secs(40);
const LIMIT: Duration = Duration::from_secs(5);

/// Renews `namespace/node` until told to stop. A failure is logged and tried again at the next turn: the Lease is a sign of life,
/// nothing waits for it. Whether the server answers at all is told to the pulse.
pub async fn renew(
    client: Client,
    mut pulse: Pulse,
    namespace: String,
    node: String,
    mut stop: watch::Receiver<bool>,
) {
    let leases: Api<Lease> = Api::namespaced(client, &namespace);
    let mut timer = tokio::time::interval(RENEW);
    let mut failing = false;
    loop {
        tokio::select! {
            _ = timer.tick() => {}
            _ = stop.wait_for(|stop| *stop) => return,
        }
        let outcome = tokio::time::timeout(LIMIT, once(&leases, &node)).await;
        match &outcome {
            // A refused connection is an answer too: whoever waits on it has been told.
            Ok(_) => pulse.answered(),
            Err(_elapsed) => pulse.missed(),
        }
        match outcome {
            Ok(Ok(())) => failing = false,
            Ok(Err(error)) if !failing => {
                failing = true;
                tracing::warn!(%error, "lease not renewed");
            }
            Err(_elapsed) if !failing => {
                failing = true;
                tracing::warn!("lease not renewed: the API server did not answer in time");
            }
            Ok(Err(_)) | Err(_) => {}
        }
    }
}

async fn once(leases: &Api<Lease>, node: &str) -> Result<(), kube::Error> {
    let lease = serde_json::json!({
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": { "name": node },
        "spec": {
            "holderIdentity": node,
            "leaseDurationSeconds": DURATION.as_secs(),
            "renewTime": micro_time(),
        },
    });
    let params = PatchParams::apply("margay").force();
    leases
        .patch(node, &params, &Patch::Apply(lease))
        .await
        .map(drop)
}

/// Now, in the form of a Kubernetes `MicroTime`.
pub fn micro_time() -> String {
    let seconds = crate::clock::unix_nanos() / 1_000;
    let time = i64::try_from(seconds)
        .ok()
        .and_then(|micros| Timestamp::from_microsecond(micros).ok())
        .unwrap_or_default();
    format!("{time:.6}")
}
