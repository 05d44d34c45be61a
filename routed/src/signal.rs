//! Signals that end a daemon.

use tokio::signal::unix::{SignalKind, signal};

/// Waits for SIGTERM or SIGINT and names it. If handlers cannot be installed the process ends as the default action says.
pub async fn terminated() -> &'static str {
    match (
        signal(SignalKind::terminate()),
        signal(SignalKind::interrupt()),
    ) {
        (Ok(mut terminate), Ok(mut interrupt)) => {
            tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
            }
        }
        (Err(error), _) | (_, Err(error)) => {
            tracing::error!(%error, "no signal handler; SIGTERM will end the process at once");
            std::future::pending().await
        }
    }
}
