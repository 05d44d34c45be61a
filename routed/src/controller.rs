//! The cluster controller: one of its replicas, elected by a Lease, creates the objects that must exist and writes conditions.
//!
//! Correctness never rests on it: nodes judge every object themselves. It only makes visible what they decide.

mod defaults;
mod election;
mod judge;

use std::sync::Arc;

use anyhow::Context as _;
use tokio::sync::watch;

use crate::args::ControllerArgs;

pub use judge::judge;

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// When no API client can be made. Everything after that is retried.
pub async fn run(args: ControllerArgs) -> anyhow::Result<()> {
    let client = crate::kube::client::connect(args.kubeconfig.as_deref())
        .await
        .context("no connection to the API server")?;
    let (stop_sender, stop) = watch::channel(false);
    let election = election::Election::new(client.clone(), &args.namespace, &args.name);
    let work = async {
        loop {
            let Some(term) = election.campaign(stop.clone()).await else {
                return;
            };
            tracing::info!("elected: this replica acts");
            let client = client.clone();
            let pool = args.default_pool.clone();
            let lost = tokio::select! {
                () = act(client, pool) => false,
                () = term.hold(stop.clone()) => true,
            };
            tracing::info!(lost, "stepping back");
            if *stop.borrow() {
                return;
            }
        }
    };
    tokio::select! {
        () = work => {}
        signal = crate::signal::terminated() => {
            tracing::info!(signal, "stopping");
            // Nobody listening is as good as everybody having stopped.
            let _ = stop_sender.send(true);
        }
    }
    Ok(())
}

async fn act(client: kube::Client, pool: String) {
    let client = Arc::new(client);
    tokio::join!(
        defaults::ensure(Arc::clone(&client), pool),
        judge::write_conditions(client),
    );
}
