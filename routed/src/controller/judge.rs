//! Conditions on objects: what a user's YAML amounts to.
//!
//! Every object is judged by the rules of [`api::validate`] alone, so the verdict is the same here, in a node daemon and in
//! `routed validate`. Written by server-side apply under the field manager `margay-status`, only where something changed.

use std::sync::Arc;
use std::time::Duration;

use api::{Finding, Severity, conditions};
use futures::StreamExt;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use k8s_openapi::jiff::Timestamp;
use kube::api::{ApiResource, DynamicObject, Patch, PatchParams};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};

const MANAGER: &str = "margay-status";
const LIMIT: Duration = Duration::from_secs(5);
/// A condition's message is a sentence or a few, not a log.
const MESSAGE: usize = 1024;

/// Kinds that carry conditions: (kind, plural).
const KINDS: [(&str, &str); 18] = [
    ("IPPool", "ippools"),
    ("IPReservation", "ipreservations"),
    ("IPAMConfiguration", "ipamconfigurations"),
    ("BGPConfiguration", "bgpconfigurations"),
    ("BGPPeer", "bgppeers"),
    ("BGPFilter", "bgpfilters"),
    ("FelixConfiguration", "felixconfigurations"),
    ("Tier", "tiers"),
    ("NetworkPolicy", "networkpolicies"),
    ("GlobalNetworkPolicy", "globalnetworkpolicies"),
    ("StagedNetworkPolicy", "stagednetworkpolicies"),
    ("StagedGlobalNetworkPolicy", "stagedglobalnetworkpolicies"),
    (
        "StagedKubernetesNetworkPolicy",
        "stagedkubernetesnetworkpolicies",
    ),
    ("NetworkSet", "networksets"),
    ("GlobalNetworkSet", "globalnetworksets"),
    ("HostEndpoint", "hostendpoints"),
    (
        "KubeControllersConfiguration",
        "kubecontrollersconfigurations",
    ),
    ("CalicoNodeStatus", "caliconodestatuses"),
];

/// One condition, without its times.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// `Accepted`, `FullySupported`.
    pub type_: &'static str,
    /// True or False.
    pub good: bool,
    /// One word for programs.
    pub reason: &'static str,
    /// Sentences for people.
    pub message: String,
}

/// Judges an object of a kind, as the API server holds it.
pub fn judge(kind: &str, object: &Value) -> Vec<Verdict> {
    let findings = api::validate::validate_object(kind, object);
    vec![
        verdict(
            conditions::ACCEPTED,
            &findings,
            |finding| finding.severity == Severity::Refuse,
            ("Valid", refused_because(&findings)),
        ),
        verdict(
            conditions::FULLY_SUPPORTED,
            &findings,
            |finding| finding.severity == Severity::Unsupported,
            ("AllFieldsActedOn", "FieldsIgnored"),
        ),
    ]
}

/// An object that nobody reads is another matter than one that is wrong.
fn refused_because(findings: &[Finding]) -> &'static str {
    let mut refused = findings
        .iter()
        .filter(|finding| finding.severity == Severity::Refuse);
    if refused.all(|finding| finding.rule == api::validate::NAME_NOT_USED) {
        "NameNotUsed"
    } else {
        "Invalid"
    }
}

fn verdict(
    type_: &'static str,
    findings: &[Finding],
    counts: impl Fn(&Finding) -> bool,
    (good, bad): (&'static str, &'static str),
) -> Verdict {
    let mut message = String::new();
    for finding in findings.iter().filter(|finding| counts(finding)) {
        if !message.is_empty() {
            message.push_str("; ");
        }
        message.push_str(&finding.path);
        message.push_str(": ");
        message.push_str(&finding.message);
    }
    let is_good = message.is_empty();
    Verdict {
        type_,
        good: is_good,
        reason: if is_good { good } else { bad },
        message: message.chars().take(MESSAGE).collect(),
    }
}

/// Follows every kind and keeps the conditions of its objects true.
pub(super) async fn write_conditions(client: Arc<Client>) {
    let follow = KINDS
        .iter()
        .map(|(kind, plural)| follow(&client, kind, plural));
    futures::future::join_all(follow).await;
}

async fn follow(client: &Client, kind: &'static str, plural: &'static str) {
    let resource = ApiResource {
        group: api::GROUP.to_owned(),
        version: api::VERSION.to_owned(),
        api_version: format!("{}/{}", api::GROUP, api::VERSION),
        kind: kind.to_owned(),
        plural: plural.to_owned(),
    };
    let all: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
    let mut stream = watcher(all, watcher::Config::default())
        .default_backoff()
        .applied_objects()
        .boxed();
    while let Some(item) = stream.next().await {
        match item {
            Ok(object) => {
                if let Err(error) = update(client, &resource, &object).await {
                    tracing::warn!(kind, name = %object.name_any(), %error, "condition not written");
                }
            }
            Err(error) => tracing::debug!(kind, %error, "watch broken, resuming with back-off"),
        }
    }
}

/// Why a condition could not be written.
#[derive(Debug, thiserror::Error)]
enum UpdateError {
    #[error("{0}")]
    Refused(#[from] kube::Error),
    #[error("the API server did not answer in {} s", LIMIT.as_secs())]
    Silent(#[from] tokio::time::error::Elapsed),
    #[error("object is not JSON: {0}")]
    Json(#[from] serde_json::Error),
}

async fn update(
    client: &Client,
    resource: &ApiResource,
    object: &DynamicObject,
) -> Result<(), UpdateError> {
    let value = serde_json::to_value(object)?;
    let verdicts = judge(&resource.kind, &value);
    let old = present(&value);
    if verdicts
        .iter()
        .all(|verdict| stands(&old, verdict, object.metadata.generation))
    {
        return Ok(());
    }
    let now = Timestamp::from_second(crate::clock::unix_seconds()).unwrap_or_default();
    let conditions: Vec<Value> = verdicts
        .iter()
        .map(|verdict| condition(&old, verdict, object.metadata.generation, now))
        .collect();
    let name = object.name_any();
    let patch = Patch::Apply(json!({
        "apiVersion": resource.api_version,
        "kind": resource.kind,
        "metadata": { "name": name },
        "status": { "conditions": conditions },
    }));
    let objects: Api<DynamicObject> = match object.namespace() {
        Some(namespace) => Api::namespaced_with(client.clone(), &namespace, resource),
        None => Api::all_with(client.clone(), resource),
    };
    let params = PatchParams::apply(MANAGER).force();
    tokio::time::timeout(LIMIT, objects.patch_status(&name, &params, &patch)).await??;
    Ok(())
}

fn present(object: &Value) -> Vec<Condition> {
    object
        .pointer("/status/conditions")
        .and_then(|conditions| serde_json::from_value(conditions.clone()).ok())
        .unwrap_or_default()
}

fn stands(old: &[Condition], verdict: &Verdict, generation: Option<i64>) -> bool {
    old.iter().any(|condition| {
        condition.type_ == verdict.type_
            && condition.status == status(verdict)
            && condition.reason == verdict.reason
            && condition.message == verdict.message
            && condition.observed_generation == generation
    })
}

fn status(verdict: &Verdict) -> &'static str {
    if verdict.good { "True" } else { "False" }
}

/// A condition keeps its transition time while its status stays.
fn condition(
    old: &[Condition],
    verdict: &Verdict,
    generation: Option<i64>,
    now: Timestamp,
) -> Value {
    let since = old
        .iter()
        .find(|condition| condition.type_ == verdict.type_ && condition.status == status(verdict))
        .map_or(now, |condition| condition.last_transition_time.0);
    json!({
        "type": verdict.type_,
        "status": status(verdict),
        "reason": verdict.reason,
        "message": verdict.message,
        "observedGeneration": generation,
        "lastTransitionTime": since.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(selector: &str) -> Value {
        json!({
            "apiVersion": "projectcalico.org/v3",
            "kind": "GlobalNetworkPolicy",
            "metadata": { "name": "default.x" },
            "spec": { "selector": selector, "ingress": [{ "action": "Allow" }] },
        })
    }

    #[test]
    fn a_selector_that_cannot_be_parsed_is_named_on_the_object() {
        let verdicts = judge("GlobalNetworkPolicy", &policy("app == backend"));
        let accepted = verdicts
            .iter()
            .find(|verdict| verdict.type_ == "Accepted")
            .unwrap();
        assert!(!accepted.good);
        assert_eq!(accepted.reason, "Invalid");
        assert!(
            accepted.message.starts_with("spec.selector: "),
            "{}",
            accepted.message
        );
    }

    #[test]
    fn a_name_without_meaning_is_its_own_reason() {
        let object = json!({
            "apiVersion": "projectcalico.org/v3",
            "kind": "BGPConfiguration",
            "metadata": { "name": "mine" },
            "spec": {},
        });
        let verdicts = judge("BGPConfiguration", &object);
        assert_eq!(verdicts[0].reason, "NameNotUsed");
    }

    #[test]
    fn a_good_policy_is_accepted_and_its_transition_time_stands() {
        let verdicts = judge("GlobalNetworkPolicy", &policy("app == 'backend'"));
        assert!(verdicts.iter().all(|verdict| verdict.good), "{verdicts:?}");
        let first = Timestamp::from_second(1_000).unwrap();
        let written = condition(&[], &verdicts[0], Some(1), first);
        let old: Vec<Condition> = vec![serde_json::from_value(written).unwrap()];
        assert!(stands(&old, &verdicts[0], Some(1)));
        let again = condition(
            &old,
            &verdicts[0],
            Some(2),
            Timestamp::from_second(2_000).unwrap(),
        );
        assert_eq!(again["lastTransitionTime"], "1970-01-01T00:16:40Z");
    }
}
