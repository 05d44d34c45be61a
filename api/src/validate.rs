//! The rules the kinds must keep, for admission, for the daemon and for `routed validate`.
//!
//! Each kind has a table: id, severity and check. What the API server can hold too stands as CEL on the types; here is
//! everything again, because a daemon trusts no object, and what CEL cannot say: selector syntax, address families, names
//! that must be defined. A finding never changes what an object means: consumers read the object, not the findings.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::bgp::{BGPConfiguration, BGPPeer};
use crate::bgpfilter::BGPFilter;
use crate::cluster::ClusterInformation;
use crate::controllers::KubeControllersConfiguration;
use crate::endpoint::HostEndpoint;
use crate::felix::FelixConfiguration;
use crate::ipamconfig::IPAMConfiguration;
use crate::ippool::{IPPool, IPReservation};
use crate::networkset::{GlobalNetworkSet, NetworkSet};
use crate::nodestatus::CalicoNodeStatus;
use crate::policy::{
    GlobalNetworkPolicy, NetworkPolicy, StagedGlobalNetworkPolicy, StagedKubernetesNetworkPolicy,
    StagedNetworkPolicy, Tier,
};
use crate::tolerant;

mod address;
mod bgp;
mod change;
mod controllers;
mod endpoint;
mod entity;
mod felix;
mod filter;
mod ipam;
mod name;
mod object;
mod peer;
mod policy;
mod rule;
mod schema;
mod scope;
mod staged;
mod tier;

pub use change::{Step, steps, validate_update, value_at};

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Severity {
    /// A field that is accepted and not acted on: condition `FullySupported` is false.
    Unsupported,
    /// The object is accepted and does something its author may not expect.
    Warn,
    /// The object, or the part the path names, does not count: condition `Accepted` is false.
    Refuse,
}

/// One broken rule.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Finding {
    /// Id of the rule; [`NAME_NOT_USED`] and [`UNREADABLE`] are known by name.
    pub rule: &'static str,
    /// JSON path from the object's root, such as `spec.ingress[2].source.selector`.
    pub path: String,
    /// What is wrong and what to write instead.
    pub message: String,
    /// How bad it is.
    pub severity: Severity,
}

/// Rule id of an object whose name has no meaning: reason `NameNotUsed` on its condition.
pub const NAME_NOT_USED: &str = "name-not-used";
/// Rule id of what does not fit the type or the schema of its field.
pub const UNREADABLE: &str = "unreadable";
/// Rule id of a field that the kind does not have.
pub const UNKNOWN_FIELD: &str = "unknown-field";

/// One line of a kind's table.
struct Check<T: 'static> {
    id: &'static str,
    severity: Severity,
    judge: fn(&T, &mut Report<'_>),
}

/// Where a check says what it found.
struct Report<'a> {
    id: &'static str,
    severity: Severity,
    findings: &'a mut Vec<Finding>,
}

impl Report<'_> {
    fn say(&mut self, path: impl Into<String>, message: impl Into<String>) {
        self.findings.push(Finding {
            rule: self.id,
            path: path.into(),
            message: message.into(),
            severity: self.severity,
        });
    }

    fn say_if(&mut self, broken: bool, path: &str, message: &str) {
        if broken {
            self.say(path, message);
        }
    }
}

/// Runs a table; findings come in the order of their paths.
fn run<T>(object: &T, table: &[Check<T>]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for Check {
        id,
        severity,
        judge,
    } in table
    {
        judge(
            object,
            &mut Report {
                id,
                severity: *severity,
                findings: &mut findings,
            },
        );
    }
    findings.sort_by(|a, b| a.path.cmp(&b.path));
    findings
}

/// Judges an IPPool.
pub fn validate_ip_pool(pool: &IPPool) -> Vec<Finding> {
    run(&pool.spec, ipam::POOL)
}

/// Judges an IPReservation.
pub fn validate_ip_reservation(reservation: &IPReservation) -> Vec<Finding> {
    run(&reservation.spec, ipam::RESERVATION)
}

/// Judges an IPAMConfiguration.
pub fn validate_ipam_configuration(configuration: &IPAMConfiguration) -> Vec<Finding> {
    run(configuration, ipam::CONFIGURATION)
}

/// Judges a BGPConfiguration.
pub fn validate_bgp_configuration(configuration: &BGPConfiguration) -> Vec<Finding> {
    run(configuration, bgp::CONFIGURATION)
}

/// Judges a BGPPeer.
pub fn validate_bgp_peer(peer: &BGPPeer) -> Vec<Finding> {
    run(&peer.spec, peer::PEER)
}

/// Judges a Tier.
pub fn validate_tier(tier: &Tier) -> Vec<Finding> {
    run(tier, tier::TIER)
}

/// Judges a NetworkPolicy.
pub fn validate_network_policy(policy: &NetworkPolicy) -> Vec<Finding> {
    run(&policy::View::of_namespaced(policy), policy::POLICY)
}

/// Judges a GlobalNetworkPolicy.
pub fn validate_global_network_policy(policy: &GlobalNetworkPolicy) -> Vec<Finding> {
    run(&policy::View::of_global(policy), policy::POLICY)
}

/// Judges a FelixConfiguration.
pub fn validate_felix_configuration(configuration: &FelixConfiguration) -> Vec<Finding> {
    run(configuration, felix::CONFIGURATION)
}

/// Judges a BGPFilter.
pub fn validate_bgp_filter(filter: &BGPFilter) -> Vec<Finding> {
    run(&filter.spec, filter::FILTER)
}

/// Judges a HostEndpoint.
pub fn validate_host_endpoint(host: &HostEndpoint) -> Vec<Finding> {
    run(&host.spec, endpoint::HOST)
}

/// Judges a NetworkSet.
pub fn validate_network_set(set: &NetworkSet) -> Vec<Finding> {
    run(
        &endpoint::Set::new(&set.metadata, &set.spec.nets),
        endpoint::SET,
    )
}

/// Judges a `GlobalNetworkSet`.
pub fn validate_global_network_set(set: &GlobalNetworkSet) -> Vec<Finding> {
    run(
        &endpoint::Set::new(&set.metadata, &set.spec.nets),
        endpoint::SET,
    )
}

/// Judges a `StagedNetworkPolicy`.
pub fn validate_staged_network_policy(policy: &StagedNetworkPolicy) -> Vec<Finding> {
    let mut findings = run(&staged::Stage::of_namespaced(&policy.spec), staged::STAGE);
    findings.extend(run(&policy::View::of_staged(policy), policy::POLICY));
    findings
}

/// Judges a `StagedGlobalNetworkPolicy`.
pub fn validate_staged_global_network_policy(policy: &StagedGlobalNetworkPolicy) -> Vec<Finding> {
    let mut findings = run(&staged::Stage::of_global(&policy.spec), staged::STAGE);
    findings.extend(run(&policy::View::of_staged_global(policy), policy::POLICY));
    findings
}

/// Judges a `StagedKubernetesNetworkPolicy`.
pub fn validate_staged_kubernetes_network_policy(
    policy: &StagedKubernetesNetworkPolicy,
) -> Vec<Finding> {
    let mut findings = run(&staged::Stage::of_kubernetes(&policy.spec), staged::STAGE);
    findings.extend(run(&policy.spec, staged::KUBERNETES));
    findings
}

/// Judges a `KubeControllersConfiguration`.
pub fn validate_controllers_configuration(
    configuration: &KubeControllersConfiguration,
) -> Vec<Finding> {
    run(configuration, controllers::CONTROLLERS)
}

/// Judges a `CalicoNodeStatus`.
pub fn validate_node_status(status: &CalicoNodeStatus) -> Vec<Finding> {
    run(&status.spec, controllers::NODE_STATUS)
}

/// Judges a `ClusterInformation`.
pub fn validate_cluster_information(cluster: &ClusterInformation) -> Vec<Finding> {
    run(cluster, controllers::CLUSTER)
}

/// Whether a kind is one of `projectcalico.org/v3`.
pub fn is_known_kind(kind: &str) -> bool {
    schema::is_known(kind)
}

/// Judges a whole object as JSON: its schema, as the API server does, its metadata, and the rules of its kind. An unknown
/// kind has no findings; what the bookkeeping kinds hold is judged by `ipam`.
///
/// Findings come in the order of their paths; where the schema has something to say of a field, it alone is heard.
pub fn validate_object(kind: &str, object: &Value) -> Vec<Finding> {
    if !is_known_kind(kind) {
        return Vec::new();
    }
    let mut findings = schema::check(kind, object);
    let said: Vec<String> = findings
        .iter()
        .map(|finding| finding.path.clone())
        .collect();
    let rules = metadata(object).into_iter().chain(rules_of(kind, object));
    findings.extend(rules.filter(|finding| !told(finding, &said)));
    findings.sort_by(|a, b| a.path.cmp(&b.path));
    findings
}

/// Whether the schema has said it already: of the same field, or of something inside it.
fn told(finding: &Finding, said: &[String]) -> bool {
    said.iter().any(|path| {
        path.strip_prefix(&finding.path)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
    })
}

fn metadata(object: &Value) -> Vec<Finding> {
    match ObjectMeta::deserialize(object.get("metadata").unwrap_or(&Value::Null)) {
        Ok(metadata) => run(&metadata, object::METADATA),
        Err(why) => vec![unreadable("metadata".to_owned(), why.to_string())],
    }
}

fn rules_of(kind: &str, object: &Value) -> Vec<Finding> {
    match kind {
        "IPPool" => read(object, validate_ip_pool),
        "IPReservation" => read(object, validate_ip_reservation),
        "IPAMConfiguration" => read(object, validate_ipam_configuration),
        "BGPConfiguration" => read_tolerant(object, |metadata, spec| {
            validate_bgp_configuration(&BGPConfiguration {
                metadata,
                spec,
                status: None,
            })
        }),
        "BGPPeer" => read(object, validate_bgp_peer),
        "BGPFilter" => read(object, validate_bgp_filter),
        "Tier" => read(object, validate_tier),
        "NetworkPolicy" => read(object, validate_network_policy),
        "GlobalNetworkPolicy" => read(object, validate_global_network_policy),
        "StagedNetworkPolicy" => read(object, validate_staged_network_policy),
        "StagedGlobalNetworkPolicy" => read(object, validate_staged_global_network_policy),
        "StagedKubernetesNetworkPolicy" => read(object, validate_staged_kubernetes_network_policy),
        "NetworkSet" => read(object, validate_network_set),
        "GlobalNetworkSet" => read(object, validate_global_network_set),
        "HostEndpoint" => read(object, validate_host_endpoint),
        "KubeControllersConfiguration" => read(object, validate_controllers_configuration),
        "CalicoNodeStatus" => read(object, validate_node_status),
        "ClusterInformation" => read(object, validate_cluster_information),
        "FelixConfiguration" => read_tolerant(object, |metadata, spec| {
            validate_felix_configuration(&FelixConfiguration {
                metadata,
                spec,
                status: None,
            })
        }),
        _ => Vec::new(),
    }
}

fn read<T: DeserializeOwned>(object: &Value, judge: fn(&T) -> Vec<Finding>) -> Vec<Finding> {
    if !object.get("spec").is_some_and(Value::is_object) {
        return vec![no_spec()];
    }
    match T::deserialize(object) {
        Ok(object) => judge(&object),
        Err(why) => vec![unreadable(unreadable_path::<T>(object), why.to_string())],
    }
}

/// Configuration kinds are read field by field: a bad one costs itself only.
fn read_tolerant<S: DeserializeOwned + Default>(
    object: &Value,
    judge: impl Fn(ObjectMeta, S) -> Vec<Finding>,
) -> Vec<Finding> {
    // What is wrong with the metadata is told by its own rules.
    let metadata =
        ObjectMeta::deserialize(object.get("metadata").unwrap_or(&Value::Null)).unwrap_or_default();
    let Some(spec) = object.get("spec").and_then(Value::as_object) else {
        return vec![no_spec()];
    };
    let (spec, mut findings) = tolerant(spec);
    findings.extend(judge(metadata, spec));
    findings
}

fn no_spec() -> Finding {
    unreadable("spec".to_owned(), "the object has no spec".to_owned())
}

fn unreadable(path: String, message: String) -> Finding {
    Finding {
        rule: UNREADABLE,
        path,
        message,
        severity: Severity::Refuse,
    }
}

/// The first field of the spec that can be taken away so that the object can be read, or `spec`.
fn unreadable_path<T: DeserializeOwned>(object: &Value) -> String {
    let fields = object.get("spec").and_then(Value::as_object);
    let culprit = fields
        .into_iter()
        .flat_map(|fields| fields.keys())
        .find(|name| {
            let mut without = object.clone();
            let removed = without
                .get_mut("spec")
                .and_then(Value::as_object_mut)
                .and_then(|spec| spec.remove(*name));
            removed.is_some() && T::deserialize(&without).is_ok()
        });
    culprit.map_or_else(|| "spec".to_owned(), |name| format!("spec.{name}"))
}

#[cfg(test)]
mod tests;
