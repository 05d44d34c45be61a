//! Numbers of the address task for Prometheus.

use std::time::Duration;

use ::ipam::handle::is_warm;
use ::ipam::{Allocator, Assigned, Note, Path};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResultLabel {
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PathLabel {
    path: &'static str,
}

/// What the task counts; clones count together.
#[derive(Clone, Debug)]
pub struct Numbers {
    swaps: Family<ResultLabel, Counter>,
    batch_size: Histogram,
    assign_seconds: Family<PathLabel, Histogram>,
    claims: Family<ResultLabel, Counter>,
    not_ours: Counter,
    warm: Gauge,
    cooling: Gauge,
}

fn seconds() -> Histogram {
    Histogram::new([
        0.000_1, 0.000_5, 0.001, 0.002, 0.005, 0.01, 0.03, 0.1, 0.5, 2.0, 10.0,
    ])
}

impl Default for Numbers {
    fn default() -> Self {
        Self {
            swaps: Family::default(),
            batch_size: Histogram::new([1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0]),
            assign_seconds: Family::new_with_constructor(seconds),
            claims: Family::default(),
            not_ours: Counter::default(),
            warm: Gauge::default(),
            cooling: Gauge::default(),
        }
    }
}

impl Numbers {
    /// Shows them under the names of the address page.
    pub fn register(&self, registry: &mut Registry) {
        let help = "Writes of blocks by what became of them";
        registry.register("ipam_swaps", help, self.swaps.clone());
        let help = "Addresses taken, given back or named by one write";
        registry.register("ipam_batch_size", help, self.batch_size.clone());
        let help = "Time to take the addresses of one request, by where the last one came from";
        registry.register("ipam_assign_seconds", help, self.assign_seconds.clone());
        let help = "Claims of blocks by what became of them";
        registry.register("ipam_claims", help, self.claims.clone());
        let help = "Releases and namings that found another owner and changed nothing";
        registry.register("ipam_not_ours", help, self.not_ours.clone());
        let help = "Addresses kept ready";
        registry.register("ipam_warm", help, self.warm.clone());
        let help = "Addresses of this node's blocks that rest after their release";
        registry.register("ipam_cooling", help, self.cooling.clone());
    }

    pub(super) fn note(&self, note: &Note) {
        match note {
            Note::Landed { batch, .. } => {
                self.swap("landed");
                self.batch_size
                    .observe(f64::from(u32::try_from(*batch).unwrap_or(u32::MAX)));
            }
            Note::Conflict { .. } => self.swap("conflict"),
            Note::Failed { .. } => self.swap("failed"),
            Note::Claimed { .. } => self.claim("claimed"),
            Note::Lost { .. } => self.claim("lost"),
            Note::GivenUp { .. } => self.claim("given_up"),
            Note::NotOurs { .. } => {
                self.not_ours.inc();
            }
            Note::CooldownUnsupported => {}
        }
    }

    pub(super) fn assigned(&self, assigned: &[Assigned], took: Duration) {
        let Some(slowest) = assigned
            .iter()
            .map(|one| one.path)
            .max_by_key(|path| rank(*path))
        else {
            return;
        };
        let label = PathLabel {
            path: slowest.as_str(),
        };
        let histogram = self.assign_seconds.get_or_create(&label);
        histogram.observe(took.as_secs_f64());
    }

    pub(super) fn stock(&self, allocator: &Allocator) {
        let warm = allocator.held().filter(|held| is_warm(&held.handle));
        self.warm
            .set(i64::try_from(warm.count()).unwrap_or(i64::MAX));
        let cooling = allocator.index().cooling();
        self.cooling.set(i64::try_from(cooling).unwrap_or(i64::MAX));
    }

    fn swap(&self, result: &'static str) {
        self.swaps.get_or_create(&ResultLabel { result }).inc();
    }

    fn claim(&self, result: &'static str) {
        self.claims.get_or_create(&ResultLabel { result }).inc();
    }
}

/// Paths in order of what they cost.
fn rank(path: Path) -> u8 {
    match path {
        Path::Warm => 0,
        Path::Own => 1,
        Path::Borrow => 2,
        Path::Claim => 3,
    }
}
