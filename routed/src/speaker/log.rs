//! What the speaker did, for the log.

use bgp::speaker::{Change, Event, Plan};
use bgp::{Family, FamilySet};
use tokio::sync::broadcast::{Receiver, error::RecvError};

/// Logs events until the speaker ends.
pub(super) async fn events(mut events: Receiver<Event>) {
    loop {
        match events.recv().await {
            Ok(happened) => event(&happened),
            Err(RecvError::Lagged(missed)) => {
                tracing::warn!(missed, "BGP events not logged");
            }
            Err(RecvError::Closed) => return,
        }
    }
}

fn event(event: &Event) {
    match event {
        Event::Established { peer, families } => {
            tracing::info!(%peer, families = text(*families), "session up");
        }
        Event::Down {
            peer,
            reason,
            retained,
        } => {
            tracing::info!(%peer, %reason, routes_kept = text(*retained), "session down");
        }
        // Every failed attempt of every peer: too much for INFO.
        Event::Refused { peer, reason } => {
            tracing::debug!(%peer, %reason, "session not established");
        }
        Event::EndOfRib { peer, family } => {
            tracing::debug!(%peer, %family, "initial routes received");
        }
        Event::StaleSwept {
            peer,
            family,
            routes,
        } => tracing::info!(%peer, %family, routes, "stale routes dropped"),
        Event::DeferralEnded { family } => tracing::info!(%family, "route selection begins"),
        Event::MaxPrefixes {
            peer,
            family,
            limit,
        } => {
            tracing::error!(%peer, %family, limit, "peer announces too many prefixes; session closed");
        }
        Event::SessionPanicked { peer } => {
            tracing::error!(%peer, "session failed in our own code; it starts anew");
        }
    }
}

/// Logs what a new configuration does to sessions.
pub(super) fn plan(plan: &Plan) {
    if plan.is_noop() {
        return;
    }
    tracing::info!(
        added = plan.added.len(),
        removed = plan.removed.len(),
        changed = plan.soft.len(),
        refreshed = plan.refresh.len(),
        restarted = plan.restart.len(),
        unchanged = plan.unchanged.len(),
        "peers reconciled"
    );
    for Change { peer, why } in &plan.restart {
        tracing::info!(%peer, ?why, "session restarts for its new configuration");
    }
}

fn text(families: FamilySet) -> String {
    let names: Vec<String> = families
        .iter()
        .map(|family: Family| family.to_string())
        .collect();
    names.join(",")
}
