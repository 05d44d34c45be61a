//! Numbers for Prometheus, on `prometheusMetricsPort` while `prometheusMetricsEnabled` says so.
//!
//! Bounded cardinality: labels are kinds, domains, verbs, codes and this node's own peers, never pods or prefixes.

pub mod bgp;

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use tokio::sync::watch;

/// A domain of the kernel: `policy`, `routes`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct DomainLabel {
    /// The domain.
    pub domain: &'static str,
}

/// A watched kind.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct KindLabel {
    /// The kind.
    pub kind: &'static str,
}

/// Metrics that the reconcile task keeps.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Arc<Mutex<Registry>>,
    /// Time of one apply.
    pub apply_seconds: Family<DomainLabel, Histogram>,
    /// Applies that failed.
    pub apply_failures: Family<DomainLabel, Counter>,
    /// Kernel messages sent.
    pub apply_messages: Family<DomainLabel, Counter>,
    /// Events taken into the World.
    pub world_events: Family<KindLabel, Counter>,
    /// Objects that could not be read and count as absent.
    pub quarantined: Family<KindLabel, Gauge>,
    /// Interfaces of sandboxes on this node.
    pub endpoints_local: Gauge,
    /// Nodes, pods and policies known.
    pub cluster: Family<KindLabel, Gauge>,
    /// Live flows that a later policy forbade.
    pub flows_cut: Counter,
    /// Cut flows that a policy after that allowed again.
    pub flows_mended: Counter,
    /// Times the kernel told of changes that were not ours.
    pub repairs: Family<DomainLabel, Counter>,
}

/// Bounds of apply times in seconds: from one element to a whole node.
fn apply_buckets() -> Histogram {
    Histogram::new([
        0.000_1, 0.000_3, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0,
    ])
}

impl Default for Metrics {
    fn default() -> Self {
        let metrics = Self {
            registry: Arc::new(Mutex::new(Registry::with_prefix("margay"))),
            apply_seconds: Family::new_with_constructor(apply_buckets),
            apply_failures: Family::default(),
            apply_messages: Family::default(),
            world_events: Family::default(),
            quarantined: Family::default(),
            endpoints_local: Gauge::default(),
            cluster: Family::default(),
            flows_cut: Counter::default(),
            flows_mended: Counter::default(),
            repairs: Family::default(),
        };
        metrics.register();
        metrics
    }
}

impl Metrics {
    fn register(&self) {
        let mut registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        registry.register(
            "apply_seconds",
            "Time to make the kernel equal to the plan",
            self.apply_seconds.clone(),
        );
        registry.register(
            "apply_failures",
            "Applies the kernel refused",
            self.apply_failures.clone(),
        );
        registry.register(
            "apply_messages",
            "Messages sent to the kernel",
            self.apply_messages.clone(),
        );
        registry.register(
            "world_events",
            "Changes of the cluster taken in",
            self.world_events.clone(),
        );
        registry.register(
            "quarantined_objects",
            "Objects that could not be read",
            self.quarantined.clone(),
        );
        registry.register(
            "endpoints_local",
            "Interfaces of sandboxes on this node",
            self.endpoints_local.clone(),
        );
        registry.register(
            "cluster",
            "Objects this node knows of",
            self.cluster.clone(),
        );
        registry.register(
            "flows_cut",
            "Live flows that a later policy forbade",
            self.flows_cut.clone(),
        );
        registry.register(
            "flows_mended",
            "Cut flows that a policy allowed again",
            self.flows_mended.clone(),
        );
        registry.register(
            "repairs",
            "Rounds after a change of the kernel that was not ours",
            self.repairs.clone(),
        );
    }

    /// Adds numbers that live elsewhere and are read at scrape time.
    pub fn collect(&self, collector: Box<dyn Collector>) {
        self.registry
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .register_collector(collector);
    }

    /// Adds numbers that another task keeps.
    pub fn show(&self, register: impl FnOnce(&mut Registry)) {
        register(&mut self.registry.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn render(&self) -> Result<String, std::fmt::Error> {
        let mut body = String::new();
        text::encode(
            &mut body,
            &self.registry.lock().unwrap_or_else(PoisonError::into_inner),
        )?;
        Ok(body)
    }
}

/// Serves metrics where the configuration says, and moves when it says otherwise. The new listener stands before the old one closes.
pub async fn serve(
    metrics: Metrics,
    mut wanted: watch::Receiver<Option<SocketAddr>>,
    mut stop: watch::Receiver<bool>,
) {
    let mut serving = tokio::task::JoinSet::new();
    loop {
        let address = *wanted.borrow_and_update();
        let mut next = tokio::task::JoinSet::new();
        if let Some(address) = address {
            match listen(address).await {
                Ok(listener) => {
                    let router = Router::new()
                        .route("/metrics", get(scrape))
                        .with_state(metrics.clone());
                    next.spawn(async move { axum::serve(listener, router).await });
                    tracing::info!(%address, "metrics served");
                }
                Err(error) => tracing::error!(%address, %error, "metrics cannot be served there"),
            }
        }
        serving.abort_all();
        serving = next;
        tokio::select! {
            changed = wanted.changed() => if changed.is_err() { return },
            _ = stop.wait_for(|stop| *stop) => return,
            Some(ended) = serving.join_next() => tracing::error!(?ended, "metrics listener ended"),
        }
    }
}

/// Binds; where `[::]` is asked for and the host has no IPv6 at all, `0.0.0.0`.
async fn listen(address: SocketAddr) -> std::io::Result<tokio::net::TcpListener> {
    let bound = tokio::net::TcpListener::bind(address).await;
    match bound {
        Err(error) if address.ip() == Ipv6Addr::UNSPECIFIED && !in_use(&error) => {
            let any = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), address.port());
            tokio::net::TcpListener::bind(any).await.or(Err(error))
        }
        bound => bound,
    }
}

fn in_use(error: &std::io::Error) -> bool {
    error.kind() == std::io::ErrorKind::AddrInUse
}

async fn scrape(State(metrics): State<Metrics>) -> Response {
    match metrics.render() {
        Ok(body) => (
            [(
                header::CONTENT_TYPE,
                "application/openmetrics-text; version=1.0.0; charset=utf-8",
            )],
            body,
        )
            .into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_render_with_our_prefix() {
        let metrics = Metrics::default();
        metrics
            .apply_seconds
            .get_or_create(&DomainLabel { domain: "policy" })
            .observe(0.002);
        metrics
            .world_events
            .get_or_create(&KindLabel { kind: "Pod" })
            .inc();
        let body = metrics.render().unwrap();
        assert!(
            body.contains("margay_apply_seconds_bucket{le=\"0.003\",domain=\"policy\"} 1"),
            "{body}"
        );
        assert!(
            body.contains("margay_world_events_total{kind=\"Pod\"} 1"),
            "{body}"
        );
    }
}
