//! What a node's daemon says of itself, in annotations of its Lease: how far it is with each kind, which objects it rejected, and
//! what it answers the leader. The Lease is written every ten seconds anyway, so 5,000 nodes cost no write of their own.
//!
//! | annotation | writer | JSON |
//! |---|---|---|
//! | `margay.io/applied` | node | kind → resourceVersion in the kernel |
//! | `margay.io/rejected` | node | list of [`Rejection`], at most 64 |
//! | `margay.io/ask` | leader | [`Question`] |
//! | `margay.io/veto` | node | [`Veto`] |
//!
//! Together they stay under 64 KiB.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// Annotation: how far the node is.
pub const APPLIED: &str = "margay.io/applied";
/// Annotation: what the node rejected.
pub const REJECTED: &str = "margay.io/rejected";
/// Annotation: what the leader asks.
pub const ASK: &str = "margay.io/ask";
/// Annotation: what the node answers.
pub const VETO: &str = "margay.io/veto";

/// Objects a node reports at most.
const REJECTIONS: usize = 64;
/// Characters of one rejection's message.
const MESSAGE: usize = 240;

/// What a rejection says of an object, named as in conditions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Reason {
    /// It breaks a rule.
    Invalid,
    /// It is right, and not acted on.
    Unsupported,
    /// It names something that does not exist.
    RefNotFound,
    /// Another object defines the same and wins.
    Conflict,
    /// The object cannot be read.
    Unreadable,
    /// The kernel refused it; its words are in the message.
    Kernel,
    /// A node cannot act on it for a reason of its own.
    Node,
    /// What a newer daemon says.
    #[serde(other)]
    Other,
}

/// An object that a node does not act on as written.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Rejection {
    /// Kind of the object.
    pub kind: String,
    /// Its namespace; empty for cluster-wide kinds.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// What kind of problem.
    pub reason: Reason,
    /// Where and what, and what follows.
    pub message: String,
}

/// What a node reports.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Kind → highest resourceVersion that is in the kernel.
    pub applied: BTreeMap<String, u64>,
    /// Objects not acted on as written.
    pub rejected: BTreeSet<Rejection>,
}

impl Report {
    /// The value of [`APPLIED`].
    pub fn applied_text(&self) -> String {
        serde_json::to_string(&self.applied).unwrap_or_default()
    }

    /// The value of [`REJECTED`]: at most 64, each message cut.
    pub fn rejected_text(&self) -> String {
        let cut: Vec<Rejection> = self
            .rejected
            .iter()
            .take(REJECTIONS)
            .map(|rejection| Rejection {
                message: rejection.message.chars().take(MESSAGE).collect(),
                ..rejection.clone()
            })
            .collect();
        serde_json::to_string(&cut).unwrap_or_default()
    }

    /// Reads the annotations of a Lease; what cannot be read counts as not said.
    pub fn parse(annotations: &BTreeMap<String, String>) -> Self {
        Self {
            applied: read(annotations, APPLIED).unwrap_or_default(),
            rejected: read(annotations, REJECTED).unwrap_or_default(),
        }
    }
}

/// An allocation the leader asks about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    /// The handle.
    pub handle: String,
    /// The block.
    pub block: IpNet,
    /// Its place in the block.
    pub ordinal: u32,
    /// The number it was taken under.
    pub sequence: u64,
}

/// What the leader asks one node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    /// Pairs it with its answer.
    pub id: u64,
    /// Which of these are yours?
    pub asked: Vec<Asked>,
}

/// What a node answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Veto {
    /// Of the question.
    pub id: u64,
    /// Positions of what the node calls its own; all others may go.
    pub mine: BTreeSet<usize>,
}

/// Reads an annotation as JSON; `None` = absent or unreadable.
pub fn read<T: serde::de::DeserializeOwned>(
    annotations: &BTreeMap<String, String>,
    key: &str,
) -> Option<T> {
    serde_json::from_str(annotations.get(key)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_reads_back_and_stays_bounded() {
        let rejection = |n: usize| Rejection {
            kind: "NetworkPolicy".to_owned(),
            namespace: "n".repeat(63),
            name: format!("{}{n}", "p".repeat(240)),
            reason: Reason::Kernel,
            message: "m".repeat(4_000),
        };
        let report = Report {
            applied: [("Tier".to_owned(), 7)].into(),
            rejected: (0..500).map(rejection).collect(),
        };
        let annotations = BTreeMap::from([
            (APPLIED.to_owned(), report.applied_text()),
            (REJECTED.to_owned(), report.rejected_text()),
        ]);
        let size: usize = annotations.values().map(String::len).sum();
        assert!(size < 48 * 1024, "{size}");
        let back = Report::parse(&annotations);
        assert_eq!(back.applied, report.applied);
        assert_eq!(back.rejected.len(), REJECTIONS);
    }

    #[test]
    fn what_a_newer_daemon_says_is_read_and_what_is_garbage_is_not() {
        let newer = r#"[{"kind":"Tier","name":"t","reason":"Tomorrow","message":"x","more":1}]"#;
        let annotations = BTreeMap::from([
            (REJECTED.to_owned(), newer.to_owned()),
            (APPLIED.to_owned(), "{".to_owned()),
        ]);
        let report = Report::parse(&annotations);
        let reasons: Vec<Reason> = report.rejected.iter().map(|r| r.reason).collect();
        assert_eq!(reasons, [Reason::Other]);
        assert!(report.applied.is_empty());
    }
}
