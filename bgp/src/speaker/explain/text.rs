//! An explanation as people read it: one line a path, one line a peer.

use std::fmt;

use super::{Explanation, ExportVerdict, ExportView, PathStanding, PathView};
use crate::filter::Trace;
use crate::rib::{Ineligible, Preference};
use crate::speaker::RouteSource;

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.paths.is_empty() {
            writeln!(f, "{}: no path is known", self.prefix)?;
        }
        for path in &self.paths {
            writeln!(f, "{path}")?;
        }
        for export in &self.exports {
            writeln!(f, "{export}")?;
        }
        Ok(())
    }
}

impl fmt::Display for PathView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = match self.standing {
            PathStanding::Best => "best",
            PathStanding::Equal => "equal",
            PathStanding::Lost(_) | PathStanding::Ineligible(_) => "lost",
        };
        write!(f, "{word}: ")?;
        match (&self.source, self.next_hop) {
            (RouteSource::Local, _) => f.write_str("originated here")?,
            (RouteSource::Peer { key, .. }, None) => write!(f, "from {key}")?,
            (RouteSource::Peer { key, .. }, Some(hop)) if hop == key.address() => {
                write!(f, "via {hop}")?;
            }
            (RouteSource::Peer { key, .. }, Some(hop)) => write!(f, "via {hop} from {key}")?,
        }
        let path = self.attributes.as_path.to_string();
        if !path.is_empty() {
            write!(f, " (AS path {path})")?;
        }
        if self.stale {
            f.write_str(", kept while the peer restarts")?;
        }
        match self.standing {
            PathStanding::Best | PathStanding::Equal => Ok(()),
            PathStanding::Lost(step) => write!(f, ": the best path has {step}"),
            PathStanding::Ineligible(why) => write!(f, ": ineligible, {why}"),
        }
    }
}

impl fmt::Display for ExportView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let peer = &self.peer;
        match &self.verdict {
            ExportVerdict::Sent {
                attributes,
                next_hop,
                trace,
            } => {
                write!(f, "announced to {peer}: next hop {next_hop}")?;
                let path = attributes.as_path.to_string();
                if !path.is_empty() {
                    write!(f, ", AS path {path}")?;
                }
                rules(f, trace)
            }
            ExportVerdict::Filtered(trace) => {
                write!(f, "not announced to {peer}: refused by the export rules")?;
                rules(f, trace)
            }
            ExportVerdict::NoSession => {
                write!(f, "not announced to {peer}: no session carries the family")
            }
            ExportVerdict::NoRoute => write!(f, "not announced to {peer}: there is no best path"),
            ExportVerdict::LearntFromPeer => {
                write!(f, "not announced to {peer}: the best path came from there")
            }
            ExportVerdict::InternalToInternal => {
                write!(
                    f,
                    "not announced to {peer}: learnt over iBGP, and neither side is a client"
                )
            }
            ExportVerdict::PathContainsPeer => {
                write!(
                    f,
                    "not announced to {peer}: the AS path contains the peer's AS number"
                )
            }
            ExportVerdict::WellKnownCommunity => write!(
                f,
                "not announced to {peer}: a well-known community forbids it"
            ),
            ExportVerdict::Originator => write!(
                f,
                "not announced to {peer}: the peer originated it within our AS"
            ),
            ExportVerdict::NoNextHop => {
                write!(
                    f,
                    "not announced to {peer}: we have no address of the family for the next hop"
                )
            }
        }
    }
}

fn rules(f: &mut fmt::Formatter<'_>, trace: &Trace) -> fmt::Result {
    if trace.0.is_empty() {
        return f.write_str("; no rule matched");
    }
    write!(f, "; rules {}", trace.0.join(", "))
}

impl fmt::Display for Preference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Local => "been originated here",
            Self::LocalPref => "a higher LOCAL_PREF",
            Self::AsPathLength => "a shorter AS path",
            Self::Origin => "a lower origin",
            Self::Med => "a lower MED",
            Self::External => "come over eBGP",
            Self::NextHopMetric => "a nearer next hop",
            Self::RouterId => "a lower router id",
            Self::ClusterList => "a shorter cluster list",
            Self::PeerAddress => "a lower peer address",
        })
    }
}

impl fmt::Display for Ineligible {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NextHopUnresolved => f.write_str("next hop unresolved"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::sync::Arc;

    use super::*;
    use crate::Asn;
    use crate::speaker::PeerKey;

    #[test]
    fn an_explanation_reads_as_in_the_manual() {
        let peer = |last| PeerKey::from(IpAddr::from([10, 0, 0, last]));
        let path = |last, standing| PathView {
            source: RouteSource::Peer {
                key: peer(last),
                asn: Asn(65010),
                external: true,
            },
            next_hop: Some(peer(last).address()),
            attributes: Arc::default(),
            stale: false,
            standing,
        };
        let export = |last, verdict| ExportView {
            peer: peer(last),
            verdict,
        };
        let text = Explanation {
            prefix: "10.244.7.0/26".parse().unwrap(),
            paths: vec![
                path(2, PathStanding::Best),
                path(3, PathStanding::Lost(Preference::AsPathLength)),
                path(4, PathStanding::Ineligible(Ineligible::NextHopUnresolved)),
            ],
            exports: vec![
                export(2, ExportVerdict::PathContainsPeer),
                export(
                    3,
                    ExportVerdict::Filtered(Trace(vec!["inside-own-block".into()])),
                ),
            ],
        }
        .to_string();
        let expected = "best: via 10.0.0.2\n\
                        lost: via 10.0.0.3: the best path has a shorter AS path\n\
                        lost: via 10.0.0.4: ineligible, next hop unresolved\n\
                        not announced to 10.0.0.2: the AS path contains the peer's AS number\n\
                        not announced to 10.0.0.3: refused by the export rules; rules inside-own-block\n";
        assert_eq!(text, expected);
    }
}
