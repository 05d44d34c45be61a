//! The cluster controller: one of its replicas, elected by a Lease, creates the objects that must exist, frees what nobody holds any
//! more, leads pools to their end, and writes conditions.
//!
//! Correctness never rests on it: nodes judge every object themselves, and each write is a compare-and-swap. Without it nothing that
//! a dead node left is freed, and nobody reads what nodes decided.

mod defaults;
mod election;
mod feed;
mod fleet;
mod leader;
mod status;
mod verdict;

use std::sync::Arc;

use anyhow::Context as _;
use tokio::sync::watch;

use crate::args::ControllerArgs;

pub use verdict::{Verdict, judge};

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
            let (pool, namespace) = (args.default_pool.clone(), args.namespace.clone());
            let lost = tokio::select! {
                () = act(client, pool, namespace) => false,
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

async fn act(client: kube::Client, pool: String, namespace: String) {
    let (telling, told) = leader::channels();
    tokio::join!(
        defaults::ensure(Arc::new(client.clone()), pool),
        leader::lead(client.clone(), namespace, telling),
        status::keep(client, told),
    );
}
