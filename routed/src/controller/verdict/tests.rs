use std::collections::BTreeMap;

use serde_json::json;

use super::*;
use crate::kube::report::Report;

fn policy(selector: &str) -> Value {
    json!({
        "apiVersion": "projectcalico.org/v3",
        "kind": "GlobalNetworkPolicy",
        "metadata": { "name": "default.x" },
        "spec": { "selector": selector, "ingress": [{ "action": "Allow" }] },
    })
}

fn named<'a>(verdicts: &'a [Verdict], type_: &str) -> &'a Verdict {
    verdicts
        .iter()
        .find(|verdict| verdict.type_ == type_)
        .unwrap_or_else(|| panic!("no {type_} in {verdicts:?}"))
}

fn id() -> ObjectId {
    (
        "GlobalNetworkPolicy".to_owned(),
        String::new(),
        "default.x".to_owned(),
    )
}

/// Nodes with the version they have in the kernel and what they say against `default.x`.
fn fleet(nodes: &[(&str, u64, Option<Reason>)], silent: &[&str]) -> Fleet {
    let report = |version: u64, reason: Option<Reason>| Report {
        applied: BTreeMap::from([(id().0, version)]),
        rejected: reason
            .map(|reason| Rejection {
                kind: id().0,
                namespace: String::new(),
                name: id().2,
                reason,
                message: "rule 3: invalid argument".to_owned(),
            })
            .into_iter()
            .collect(),
    };
    let alive = nodes
        .iter()
        .map(|(node, version, reason)| (Arc::from(*node), Arc::new(report(*version, *reason))));
    Fleet::new(
        alive.collect(),
        silent.iter().map(|node| Arc::from(*node)).collect(),
    )
}

fn composed(fleet: &Fleet, missing: &[Reference]) -> Vec<Verdict> {
    let own = judge("GlobalNetworkPolicy", &policy("all()"));
    let subject = Subject {
        id: &id(),
        version: 10,
        own: &own,
        missing,
        allocatable: None,
    };
    compose(subject, fleet)
}

#[test]
fn a_selector_that_cannot_be_parsed_is_named_on_the_object() {
    let verdicts = judge("GlobalNetworkPolicy", &policy("app == backend"));
    let accepted = named(&verdicts, "Accepted");
    assert!(!accepted.good);
    assert_eq!(accepted.reason, "Invalid");
    assert!(
        accepted.message.starts_with("spec.selector: "),
        "{}",
        accepted.message
    );
}

#[test]
fn a_name_that_never_counts_has_a_reason_of_its_own() {
    let object = json!({
        "apiVersion": "projectcalico.org/v3", "kind": "IPAMConfiguration",
        "metadata": {"name": "other"}, "spec": {"strictAffinity": true}
    });
    let verdicts = judge("IPAMConfiguration", &object);
    assert_eq!(named(&verdicts, "Accepted").reason, "NameNotUsed");
}

#[test]
fn programmed_counts_the_nodes_and_names_those_that_lag_or_are_silent() {
    let none = composed(&Fleet::default(), &[]);
    assert!(none.iter().all(|verdict| verdict.type_ != "Programmed"));
    let lag = composed(&fleet(&[("a", 10, None), ("b", 9, None)], &[]), &[]);
    let lag = named(&lag, "Programmed");
    assert_eq!((lag.good, lag.reason), (false, "Pending"));
    assert_eq!(lag.message, "1 of 2 nodes; waiting for b");
    let done = composed(&fleet(&[("a", 10, None), ("b", 12, None)], &["c"]), &[]);
    let done = named(&done, "Programmed");
    assert!(done.good, "a node that is away keeps nobody waiting");
    assert_eq!(done.message, "2 of 2 nodes; not heard of: c");
}

#[test]
fn what_thousands_of_nodes_reject_is_one_short_sentence() {
    let names: Vec<String> = (0..5_000).map(|n| format!("n{n:04}")).collect();
    let nodes: Vec<(&str, u64, Option<Reason>)> = names
        .iter()
        .map(|node| (node.as_str(), 10, Some(Reason::Kernel)))
        .collect();
    let verdicts = composed(&fleet(&nodes, &[]), &[]);
    let programmed = named(&verdicts, "Programmed");
    assert_eq!((programmed.good, programmed.reason), (false, "Rejected"));
    assert_eq!(
        programmed.message,
        "n0000, n0001, n0002, n0003, n0004 and 4995 more: rule 3: invalid argument"
    );
}

#[test]
fn each_reason_of_a_node_falls_into_its_condition() {
    for (reason, type_, word) in [
        (Reason::Conflict, "Accepted", "Conflict"),
        (Reason::Unsupported, "FullySupported", "FieldsIgnored"),
        (Reason::RefNotFound, "ResolvedRefs", "RefNotFound"),
        (Reason::Kernel, "Programmed", "Rejected"),
        (Reason::Unreadable, "Programmed", "Rejected"),
        (Reason::Invalid, "Programmed", "Rejected"),
        (Reason::Node, "Programmed", "Rejected"),
    ] {
        let verdicts = composed(&fleet(&[("a", 10, Some(reason))], &[]), &[]);
        for verdict in &verdicts {
            assert_eq!(
                verdict.good,
                verdict.type_ != type_,
                "{reason:?} {verdict:?}"
            );
        }
        assert_eq!(named(&verdicts, type_).reason, word);
    }
}

#[test]
fn a_policy_names_its_tier_and_a_peer_its_filters() {
    assert_eq!(
        references("GlobalNetworkPolicy", &policy("all()"))
            .iter()
            .map(|reference| (reference.kind, reference.name.as_str()))
            .collect::<Vec<_>>(),
        [("Tier", "default")]
    );
    let peer = json!({"spec": {"peerIP": "10.0.0.1", "filters": ["in", "out"]}});
    let references = references("BGPPeer", &peer);
    assert_eq!(references.len(), 2);
    assert_eq!(references[1].path, "spec.filters[1]");
    let verdicts = composed(&Fleet::default(), &references);
    let refs = named(&verdicts, "ResolvedRefs");
    assert!(!refs.good);
    assert!(
        refs.message.contains("there is no BGPFilter out"),
        "{refs:?}"
    );
}
