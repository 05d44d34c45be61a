//! Ready and live, over HTTP on localhost.
//!
//! Ready = this node does its own job: every kind has been listed once, the last apply of each domain succeeded, CNI is served, and
//! BGP's deferral is over. The API server being reachable now, peers being up, other nodes: none of that is part of it.
//! Live = every task has passed its loop lately.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::sync::watch;

/// A task that has not passed its loop for this long is hung.
pub const HUNG: Duration = Duration::from_secs(90);

/// One condition of readiness.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// True when the node does this part of its job.
    pub ok: bool,
    /// Since when it stands so.
    pub since: Instant,
    /// Why not, in words for an operator.
    pub reason: String,
}

/// What health is made of. Every task writes its own entry.
#[derive(Debug, Default)]
pub struct Health {
    checks: Mutex<BTreeMap<&'static str, Check>>,
    beats: Mutex<BTreeMap<&'static str, Instant>>,
}

impl Health {
    /// Sets a readiness check.
    pub fn set(&self, name: &'static str, ok: bool, reason: impl Into<String>, now: Instant) {
        let reason = reason.into();
        let mut checks = self.checks.lock().unwrap_or_else(PoisonError::into_inner);
        let since = match checks.get(name) {
            Some(old) if old.ok == ok => old.since,
            _ => now,
        };
        checks.insert(name, Check { ok, since, reason });
    }

    /// Records that a task passed its loop.
    pub fn beat(&self, task: &'static str, now: Instant) {
        self.beats
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(task, now);
    }

    /// A task ended in order; it is not expected to beat any more.
    pub fn rest(&self, task: &'static str) {
        self.beats
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(task);
    }

    /// Every check, by name.
    pub fn checks(&self) -> BTreeMap<&'static str, Check> {
        self.checks
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// True when no check fails and there is at least one.
    pub fn ready(&self) -> bool {
        let checks = self.checks.lock().unwrap_or_else(PoisonError::into_inner);
        !checks.is_empty() && checks.values().all(|check| check.ok)
    }

    /// Tasks that have not passed their loop for [`HUNG`].
    pub fn hung(&self, now: Instant) -> Vec<&'static str> {
        let beats = self.beats.lock().unwrap_or_else(PoisonError::into_inner);
        beats
            .iter()
            .filter(|(_, beat)| now.saturating_duration_since(**beat) > HUNG)
            .map(|(task, _)| *task)
            .collect()
    }
}

/// Serves `/readiness` and `/liveness` on `address` until told to stop.
///
/// # Errors
/// The operating system's, when the address cannot be bound.
pub async fn serve(
    address: SocketAddr,
    health: Arc<Health>,
    mut stop: watch::Receiver<bool>,
) -> std::io::Result<()> {
    let listener = tokio::net::TcpListener::bind(address).await?;
    let router = Router::new()
        .route("/readiness", get(readiness))
        .route("/liveness", get(liveness))
        .with_state(health);
    axum::serve(listener, router)
        .with_graceful_shutdown(async move {
            // An error means the sender is gone, which is the same news.
            let _ = stop.wait_for(|stop| *stop).await;
        })
        .await
}

async fn readiness(State(health): State<Arc<Health>>) -> Response {
    let now = crate::clock::now();
    let mut body = String::from("check                ok     since    reason\n");
    for (name, check) in health.checks() {
        let since = now.saturating_duration_since(check.since).as_secs();
        // Writing into a String cannot fail.
        let _ = writeln!(
            body,
            "{name:<20} {:<6} {since:>4} s   {}",
            check.ok, check.reason
        );
    }
    answer(health.ready(), body)
}

async fn liveness(State(health): State<Arc<Health>>) -> Response {
    let hung = health.hung(crate::clock::now());
    let body = if hung.is_empty() {
        "alive\n".to_owned()
    } else {
        format!(
            "hung for more than {} s: {}\n",
            HUNG.as_secs(),
            hung.join(", ")
        )
    };
    answer(hung.is_empty(), body)
}

fn answer(good: bool, body: String) -> Response {
    let code = if good {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (code, body).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_failing_check_is_not_ready_and_keeps_its_age() {
        let health = Health::default();
        let start = crate::clock::now();
        assert!(!health.ready(), "nothing is known yet");
        health.set("sync", false, "waiting for Pod", start);
        health.set(
            "sync",
            false,
            "waiting for Node",
            start + Duration::from_secs(3),
        );
        assert_eq!(health.checks()["sync"].since, start);
        health.set("sync", true, "", start + Duration::from_secs(4));
        assert!(health.ready());
    }

    #[test]
    fn a_task_that_stops_beating_is_named() {
        let health = Health::default();
        let start = crate::clock::now();
        health.beat("reconcile", start);
        assert!(health.hung(start + HUNG).is_empty());
        assert_eq!(
            health.hung(start + HUNG + Duration::from_secs(1)),
            ["reconcile"]
        );
        health.rest("reconcile");
        assert!(health.hung(start + HUNG * 2).is_empty());
    }
}
