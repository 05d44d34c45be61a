//! The speaker's numbers in Prometheus' shape, read at scrape time. Nothing is shown while BGP is off.

use std::fmt;

use bgp::Family;
use bgp::io::Handle;
use bgp::session::State;
use bgp::speaker::{Counters, PeerKey, PeerStatus, PeerTable};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use tokio::sync::watch;

/// Shows the sessions of this node's speaker.
#[derive(Debug)]
pub struct Exporter(pub watch::Receiver<Option<Handle>>);

impl Collector for Exporter {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let handle = self.0.borrow().clone();
        let Some(handle) = handle else { return Ok(()) };
        let peers = handle.peers();
        let table = peers.borrow();
        encode(&mut encoder, &table)
    }
}

fn encode(encoder: &mut DescriptorEncoder<'_>, table: &PeerTable) -> Result<(), fmt::Error> {
    let mut page = Page { encoder, table };
    page.states()?;
    page.gauge(
        "bgp_peer_up_seconds",
        "Age of an Established session",
        |peer| {
            let up = peer.state == State::Established;
            let age = table.at.saturating_duration_since(peer.since);
            if up { whole(age.as_secs()) } else { 0 }
        },
    )?;
    page.gauge("bgp_queue_bytes", "Octets waiting to be sent", |peer| {
        whole(peer.counters.queued)
    })?;
    page.counter("bgp_peer_established", "Times a session came up", |peer| {
        peer.counters.established
    })?;
    page.counter(
        "bgp_peer_flaps",
        "Times an Established session ended",
        |peer| peer.counters.flaps,
    )?;
    page.counter(
        "bgp_slow_peer",
        "Times a peer took octets too slowly",
        |peer| peer.counters.slow,
    )?;
    page.counter("bgp_panics_caught", "Panics caught in a session", |peer| {
        peer.counters.panics
    })?;
    page.prefixes()?;
    page.updates()?;
    page.malformed()?;
    page.notifications()?;
    page.speaker(&table.counters)
}

/// What is written, and from what.
struct Page<'a, 'e> {
    encoder: &'a mut DescriptorEncoder<'e>,
    table: &'a PeerTable,
}

impl Page<'_, '_> {
    fn peers(&self) -> impl Iterator<Item = (&PeerKey, &PeerStatus)> {
        self.table.peers.iter()
    }

    /// One series per state, so that a query needs no list of them.
    fn states(&mut self) -> Result<(), fmt::Error> {
        let rows: Vec<_> = self
            .peers()
            .flat_map(|(key, peer)| {
                State::ALL.into_iter().map(move |state| {
                    let labels = vec![("peer", key.to_string()), ("state", state.to_string())];
                    (labels, i64::from(peer.state == state))
                })
            })
            .collect();
        self.gauges("bgp_peer_state", "1 for the state a session is in", &rows)
    }

    fn prefixes(&mut self) -> Result<(), fmt::Error> {
        let mut rows = Vec::new();
        for (key, peer) in self.peers() {
            for family in Family::ALL {
                let seen = peer.families.get(family);
                let views = [
                    ("accepted", whole(seen.accepted)),
                    ("rejected", whole(seen.rejected)),
                    ("sent", whole(seen.sent)),
                ];
                for (view, count) in views {
                    let labels = vec![
                        ("peer", key.to_string()),
                        ("family", family.to_string()),
                        ("view", view.to_owned()),
                    ];
                    rows.push((labels, count));
                }
            }
        }
        self.gauges(
            "bgp_prefixes",
            "Prefixes of a session by family and view",
            &rows,
        )
    }

    fn updates(&mut self) -> Result<(), fmt::Error> {
        let mut rows = Vec::new();
        for (key, peer) in self.peers() {
            for (dir, count) in [
                ("in", peer.counters.updates_in),
                ("out", peer.counters.updates_out),
            ] {
                rows.push((
                    vec![("peer", key.to_string()), ("dir", dir.to_owned())],
                    count,
                ));
            }
        }
        self.counters("bgp_updates", "UPDATE messages", &rows)
    }

    fn malformed(&mut self) -> Result<(), fmt::Error> {
        let mut rows = Vec::new();
        for (key, peer) in self.peers() {
            for ((attribute, verdict), count) in &peer.counters.malformed {
                let labels = vec![
                    ("peer", key.to_string()),
                    ("attribute", (*attribute).to_owned()),
                    ("verdict", (*verdict).to_owned()),
                ];
                rows.push((labels, *count));
            }
        }
        self.counters(
            "bgp_malformed",
            "Malformed input by what was done about it",
            &rows,
        )
    }

    fn notifications(&mut self) -> Result<(), fmt::Error> {
        let mut rows = Vec::new();
        for (key, peer) in self.peers() {
            for (dir, sent) in [
                ("in", &peer.counters.notifications_in),
                ("out", &peer.counters.notifications_out),
            ] {
                for ((code, sub), count) in sent {
                    let labels = vec![
                        ("peer", key.to_string()),
                        ("dir", dir.to_owned()),
                        ("code", code.to_string()),
                        ("sub", sub.to_string()),
                    ];
                    rows.push((labels, *count));
                }
            }
        }
        self.counters(
            "bgp_notifications",
            "NOTIFICATION messages (RFC 4271 §6)",
            &rows,
        )
    }

    fn speaker(&mut self, counters: &Counters) -> Result<(), fmt::Error> {
        let mut by_family = |name, help, of: &dyn Fn(Family) -> usize| {
            let row = |family: Family| (vec![("family", family.to_string())], whole(of(family)));
            let rows: Vec<_> = Family::ALL.into_iter().map(row).collect();
            self.gauges(name, help, &rows)
        };
        by_family(
            "bgp_rib_destinations",
            "Destinations in the tables",
            &|family| *counters.destinations.get(family),
        )?;
        by_family("bgp_rib_paths", "Paths in the tables", &|family| {
            *counters.paths.get(family)
        })?;
        self.gauges(
            "bgp_attribute_sets",
            "Distinct attribute sets held",
            &[(Vec::new(), whole(counters.attribute_sets))],
        )?;
        self.gauges(
            "bgp_groups",
            "Update groups",
            &[(Vec::new(), whole(counters.groups))],
        )?;
        self.counters(
            "bgp_unknown_peer",
            "Connections refused because no peer is configured for their address",
            &[(Vec::new(), counters.unknown_peer)],
        )
    }

    fn gauge(
        &mut self,
        name: &str,
        help: &str,
        of: impl Fn(&PeerStatus) -> i64,
    ) -> Result<(), fmt::Error> {
        let row =
            |(key, peer): (&PeerKey, &PeerStatus)| (vec![("peer", key.to_string())], of(peer));
        let rows: Vec<_> = self.peers().map(row).collect();
        self.gauges(name, help, &rows)
    }

    fn counter(
        &mut self,
        name: &str,
        help: &str,
        of: impl Fn(&PeerStatus) -> u64,
    ) -> Result<(), fmt::Error> {
        let row =
            |(key, peer): (&PeerKey, &PeerStatus)| (vec![("peer", key.to_string())], of(peer));
        let rows: Vec<_> = self.peers().map(row).collect();
        self.counters(name, help, &rows)
    }

    fn gauges(&mut self, name: &str, help: &str, rows: &[Row<i64>]) -> Result<(), fmt::Error> {
        let encoder = &mut *self.encoder;
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (labels, value) in rows {
            ConstGauge::new(*value).encode(family.encode_family(labels)?)?;
        }
        Ok(())
    }

    fn counters(&mut self, name: &str, help: &str, rows: &[Row<u64>]) -> Result<(), fmt::Error> {
        let encoder = &mut *self.encoder;
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (labels, value) in rows {
            ConstCounter::new(*value).encode(family.encode_family(labels)?)?;
        }
        Ok(())
    }
}

/// Labels and value of one series.
type Row<T> = (Vec<(&'static str, String)>, T);

fn whole<T: TryInto<i64>>(count: T) -> i64 {
    count.try_into().unwrap_or(i64::MAX)
}
