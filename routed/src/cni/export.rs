//! The counters of [`super::metrics`] in Prometheus' shape, read at scrape time.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use super::metrics::{BUCKETS_MS, Histogram, Metrics, Snapshot};

/// Shows a node's CNI counters.
#[derive(Debug)]
pub(super) struct Exporter(pub(super) Arc<Metrics>);

impl Collector for Exporter {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let now = self.0.snapshot();
        requests(&mut encoder, &now)?;
        durations(&mut encoder, &now)?;
        for (name, help, value) in [
            ("cni_rollbacks", "ADDs that were undone", now.rollbacks),
            (
                "cni_adopted",
                "Attachments taken over from an earlier daemon",
                now.adopted,
            ),
            (
                "cni_collected",
                "Attachments whose sandbox vanished without a DEL",
                now.collected,
            ),
        ] {
            let descriptor = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            ConstCounter::new(value).encode(descriptor)?;
        }
        for (name, help, value) in [
            ("cni_inflight", "Calls under way", now.inflight),
            (
                "cni_attached",
                "Attachments on this node",
                i64::try_from(now.attached).unwrap_or(i64::MAX),
            ),
            (
                "cni_owed_releases",
                "Addresses to be released once the API server answers",
                i64::try_from(now.owed).unwrap_or(i64::MAX),
            ),
        ] {
            let descriptor = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            ConstGauge::new(value).encode(descriptor)?;
        }
        Ok(())
    }
}

fn requests(encoder: &mut DescriptorEncoder<'_>, now: &Snapshot) -> Result<(), fmt::Error> {
    let help = "Calls of runtimes by verb and error code, 0 = success";
    let mut family = encoder.encode_descriptor("cni_requests", help, None, MetricType::Counter)?;
    for ((verb, code), count) in &now.requests {
        let labels = [
            ("verb", verb.as_str().to_owned()),
            ("code", code.to_string()),
        ];
        ConstCounter::new(*count).encode(family.encode_family(&labels)?)?;
    }
    Ok(())
}

fn durations(encoder: &mut DescriptorEncoder<'_>, now: &Snapshot) -> Result<(), fmt::Error> {
    let verbs = now
        .durations
        .iter()
        .map(|(verb, histogram)| (verb.as_str(), histogram));
    histograms(
        encoder,
        ("cni_duration_seconds", "Time of calls by verb", "verb"),
        verbs,
    )?;
    let steps = now.steps.iter().map(|(step, histogram)| (*step, histogram));
    histograms(
        encoder,
        (
            "cni_step_duration_seconds",
            "Time of the steps of ADD and DEL",
            "step",
        ),
        steps,
    )
}

fn histograms<'a>(
    encoder: &mut DescriptorEncoder<'_>,
    (name, help, label): (&'static str, &'static str, &'static str),
    rows: impl Iterator<Item = (&'static str, &'a Histogram)>,
) -> Result<(), fmt::Error> {
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
    for (value, histogram) in rows {
        let labels = [(label, value)];
        let seconds = |bound: &u64| Duration::from_millis(*bound).as_secs_f64();
        let bounds = BUCKETS_MS.iter().map(seconds).chain([f64::MAX]);
        let pairs: Vec<(f64, u64)> = bounds.zip(histogram.buckets).collect();
        let mut metric = family.encode_family(&labels)?;
        metric.encode_histogram::<NoLabelSet>(
            histogram.sum.as_secs_f64(),
            histogram.count(),
            &pairs,
            None,
        )?;
    }
    Ok(())
}
