//! What an object amounts to, as conditions: from its own text ([`judge`]), from what it names, and from what the nodes report
//! ([`compose`]). Pure.

use std::collections::BTreeSet;
use std::sync::Arc;

use api::{Finding, Severity, conditions};
use ipam::pool::Allocatable;
use serde_json::Value;

use super::fleet::{Fleet, ObjectId, Progress};
use crate::kube::report::{Reason, Rejection};

/// A condition's message is a sentence or a few, not a log.
const MESSAGE: usize = 1024;
/// Nodes named in a message at most.
const NAMED: usize = 5;

/// One condition, without its times.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// `Accepted`, `FullySupported`, `ResolvedRefs`, `Programmed`, `Allocatable`.
    pub type_: &'static str,
    /// True or False.
    pub good: bool,
    /// One word for programs.
    pub reason: &'static str,
    /// Sentences for people.
    pub message: String,
}

/// Judges an object of a kind by its own text, as the API server holds it. The same rules hold in a node daemon and in
/// `routed validate`.
pub fn judge(kind: &str, object: &Value) -> Vec<Verdict> {
    let findings = api::validate::validate_object(kind, object);
    let refused = |finding: &&Finding| finding.severity == Severity::Refuse;
    let unused = findings
        .iter()
        .filter(refused)
        .all(|finding| finding.rule == api::validate::NAME_NOT_USED);
    let bad = if unused { "NameNotUsed" } else { "Invalid" };
    let unsupported = |finding: &&Finding| finding.severity == Severity::Unsupported;
    vec![
        verdict(
            conditions::ACCEPTED,
            ("Valid", bad),
            findings.iter().filter(refused).map(sentence),
        ),
        verdict(
            conditions::FULLY_SUPPORTED,
            ("AllFieldsActedOn", "FieldsIgnored"),
            findings.iter().filter(unsupported).map(sentence),
        ),
    ]
}

fn sentence(finding: &Finding) -> String {
    format!("{}: {}", finding.path, finding.message)
}

/// Good when there is nothing to say.
fn verdict(
    type_: &'static str,
    (good, bad): (&'static str, &'static str),
    sentences: impl Iterator<Item = String>,
) -> Verdict {
    let message = sentences.collect::<Vec<_>>().join("; ");
    let is_good = message.is_empty();
    Verdict {
        type_,
        good: is_good,
        reason: if is_good { good } else { bad },
        message: message.chars().take(MESSAGE).collect(),
    }
}

/// An object that another names: where, its kind, its name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Reference {
    pub(super) path: String,
    pub(super) kind: &'static str,
    pub(super) name: String,
}

/// Cluster-wide objects that an object names and that must exist for it to count as written.
pub(super) fn references(kind: &str, object: &Value) -> Vec<Reference> {
    let spec = object.get("spec").unwrap_or(&Value::Null);
    match kind {
        "NetworkPolicy"
        | "GlobalNetworkPolicy"
        | "StagedNetworkPolicy"
        | "StagedGlobalNetworkPolicy" => {
            let tier = spec.get("tier").and_then(Value::as_str).unwrap_or_default();
            let name = if tier.is_empty() { "default" } else { tier };
            vec![Reference {
                path: "spec.tier".to_owned(),
                kind: "Tier",
                name: name.to_owned(),
            }]
        }
        "BGPPeer" => {
            let filters = spec.get("filters").and_then(Value::as_array);
            let names = filters.into_iter().flatten().filter_map(Value::as_str);
            names
                .enumerate()
                .map(|(at, name)| Reference {
                    path: format!("spec.filters[{at}]"),
                    kind: "BGPFilter",
                    name: name.to_owned(),
                })
                .collect()
        }
        _ => Vec::new(),
    }
}

/// Whether a kind can name other objects, found by the leader or by nodes.
fn names_others(kind: &str) -> bool {
    matches!(
        kind,
        "NetworkPolicy"
            | "GlobalNetworkPolicy"
            | "StagedNetworkPolicy"
            | "StagedGlobalNetworkPolicy"
            | "BGPPeer"
            | "BGPConfiguration"
    )
}

/// An object whose conditions are composed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Subject<'a> {
    pub(super) id: &'a ObjectId,
    /// resourceVersion at which its spec became what it is.
    pub(super) version: u64,
    /// What its own text amounts to.
    pub(super) own: &'a [Verdict],
    /// References to objects that do not exist.
    pub(super) missing: &'a [Reference],
    /// Of a pool: whether it gives out addresses.
    pub(super) allocatable: Option<&'a Allocatable>,
}

/// Every condition of an object.
pub(super) fn compose(subject: Subject<'_>, fleet: &Fleet) -> Vec<Verdict> {
    let said = fleet.rejections(subject.id);
    let of = |reasons: &'static [Reason]| {
        let mine: Vec<&(Arc<str>, Rejection)> = said
            .iter()
            .filter(|(_, rejection)| reasons.contains(&rejection.reason))
            .collect();
        mine
    };
    let mut verdicts: Vec<Verdict> = subject.own.to_vec();
    for verdict in &mut verdicts {
        let (against, reason) = match verdict.type_ {
            conditions::ACCEPTED => (of(&[Reason::Conflict]), "Conflict"),
            conditions::FULLY_SUPPORTED => (of(&[Reason::Unsupported]), "FieldsIgnored"),
            _ => continue,
        };
        if verdict.good && !against.is_empty() {
            *verdict = failed(verdict.type_, reason, &folded(&against));
        }
    }
    if names_others(&subject.id.0) {
        let missing = subject
            .missing
            .iter()
            .map(|r| format!("{}: there is no {} {}", r.path, r.kind, r.name));
        let told = of(&[Reason::RefNotFound]);
        let told = (!told.is_empty()).then(|| folded(&told));
        verdicts.push(verdict(
            conditions::RESOLVED_REFS,
            ("AllFound", "RefNotFound"),
            missing.chain(told),
        ));
    }
    let refused = of(&[
        Reason::Kernel,
        Reason::Unreadable,
        Reason::Invalid,
        Reason::Node,
        Reason::Other,
    ]);
    verdicts.extend(programmed(subject, fleet, &refused));
    verdicts.extend(subject.allocatable.map(|allocatable| Verdict {
        type_: conditions::ALLOCATABLE,
        good: allocatable.good,
        reason: allocatable.reason,
        message: allocatable.message.clone(),
    }));
    verdicts
}

fn failed(type_: &'static str, reason: &'static str, message: &str) -> Verdict {
    Verdict {
        type_,
        good: false,
        reason,
        message: message.chars().take(MESSAGE).collect(),
    }
}

/// What several nodes say, each sentence once, with the nodes that say it.
fn folded(said: &[&(Arc<str>, Rejection)]) -> String {
    let sentences: BTreeSet<&str> = said
        .iter()
        .map(|(_, rejection)| rejection.message.as_str())
        .collect();
    let parts: Vec<String> = sentences
        .into_iter()
        .map(|sentence| {
            let nodes: Vec<Arc<str>> = said
                .iter()
                .filter(|(_, rejection)| rejection.message == sentence)
                .map(|(node, _)| Arc::clone(node))
                .collect();
            format!("{}: {sentence}", names(&nodes))
        })
        .collect();
    parts.join("; ")
}

fn names(nodes: &[Arc<str>]) -> String {
    let shown: Vec<&str> = nodes.iter().take(NAMED).map(AsRef::as_ref).collect();
    let more = nodes.len().saturating_sub(NAMED);
    if more == 0 {
        shown.join(", ")
    } else {
        format!("{} and {more} more", shown.join(", "))
    }
}

fn programmed(
    subject: Subject<'_>,
    fleet: &Fleet,
    refused: &[&(Arc<str>, Rejection)],
) -> Option<Verdict> {
    if !refused.is_empty() {
        let message = folded(refused);
        return Some(failed(conditions::PROGRAMMED, "Rejected", &message));
    }
    let Progress {
        done,
        waiting,
        silent,
    } = fleet.progress(&subject.id.0, subject.version)?;
    let all = done + waiting.len();
    let unheard = if silent.is_empty() {
        String::new()
    } else {
        format!("; not heard of: {}", names(&silent))
    };
    if waiting.is_empty() {
        return Some(Verdict {
            type_: conditions::PROGRAMMED,
            good: true,
            reason: "InForce",
            message: format!("{all} of {all} nodes{unheard}"),
        });
    }
    let message = format!(
        "{done} of {all} nodes; waiting for {}{unheard}",
        names(&waiting)
    );
    Some(failed(conditions::PROGRAMMED, "Pending", &message))
}

#[cfg(test)]
mod tests;
