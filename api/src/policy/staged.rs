//! Policies that are looked at and not enforced: `StagedNetworkPolicy`, `StagedGlobalNetworkPolicy`,
//! `StagedKubernetesNetworkPolicy`.

use k8s_openapi::api::networking::v1::{NetworkPolicyEgressRule, NetworkPolicyIngressRule};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use super::{GlobalNetworkPolicySpec, NetworkPolicySpec, PolicyType};
use crate::conditions::ConditionsStatus;
use crate::scalar::{empty_is_none, text_enum};

text_enum! {
    /// What enforcing a staged policy would do to the policy of the same name.
    #[derive(Default)]
    pub enum StagedAction: Exact {
        /// It is created or replaced.
        #[default]
        Set = "Set",
        /// It is deleted.
        Delete = "Delete",
        /// Traffic is watched to write it.
        Learn = "Learn",
        /// Nothing.
        Ignore = "Ignore",
    }
}

/// A NetworkPolicy that is not enforced.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "projectcalico.org",
    version = "v3",
    kind = "StagedNetworkPolicy",
    plural = "stagednetworkpolicies",
    singular = "stagednetworkpolicy",
    shortname = "scnp",
    shortname = "snp",
    namespaced,
    status = "ConditionsStatus",
    derive = "PartialEq",
    derive = "Default",
    doc = "A NetworkPolicy that is not enforced.",
    selectable = ".spec.tier",
    printcolumn = r#"{"name": "Tier", "type": "string", "jsonPath": ".spec.tier", "description": "The tier it would stand in"}"#,
    printcolumn = r#"{"name": "Order", "type": "number", "jsonPath": ".spec.order", "description": "Its place in the tier"}"#,
    printcolumn = r#"{"name": "Accepted", "type": "string", "jsonPath": ".status.conditions[?(@.type=='Accepted')].status", "description": "Whether the object passed every rule"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct StagedNetworkPolicySpec {
    /// What enforcing it would do; absent means Set. With Delete every other field but tier is empty.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "empty_is_none"
    )]
    pub staged_action: Option<StagedAction>,

    /// The policy itself.
    #[serde(flatten)]
    pub policy: NetworkPolicySpec,
}

/// A GlobalNetworkPolicy that is not enforced.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "projectcalico.org",
    version = "v3",
    kind = "StagedGlobalNetworkPolicy",
    plural = "stagedglobalnetworkpolicies",
    singular = "stagedglobalnetworkpolicy",
    shortname = "sgnp",
    status = "ConditionsStatus",
    derive = "PartialEq",
    derive = "Default",
    doc = "A GlobalNetworkPolicy that is not enforced.",
    selectable = ".spec.tier",
    printcolumn = r#"{"name": "Tier", "type": "string", "jsonPath": ".spec.tier", "description": "The tier it would stand in"}"#,
    printcolumn = r#"{"name": "Order", "type": "number", "jsonPath": ".spec.order", "description": "Its place in the tier"}"#,
    printcolumn = r#"{"name": "Accepted", "type": "string", "jsonPath": ".status.conditions[?(@.type=='Accepted')].status", "description": "Whether the object passed every rule"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct StagedGlobalNetworkPolicySpec {
    /// What enforcing it would do; absent means Set. With Delete every other field but tier is empty.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "empty_is_none"
    )]
    pub staged_action: Option<StagedAction>,

    /// The policy itself.
    #[serde(flatten)]
    pub policy: GlobalNetworkPolicySpec,
}

/// A NetworkPolicy of Kubernetes that is not enforced.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "projectcalico.org",
    version = "v3",
    kind = "StagedKubernetesNetworkPolicy",
    plural = "stagedkubernetesnetworkpolicies",
    singular = "stagedkubernetesnetworkpolicy",
    shortname = "sknp",
    namespaced,
    status = "ConditionsStatus",
    derive = "PartialEq",
    derive = "Default",
    doc = "A NetworkPolicy of Kubernetes that is not enforced.",
    printcolumn = r#"{"name": "Accepted", "type": "string", "jsonPath": ".status.conditions[?(@.type=='Accepted')].status", "description": "Whether the object passed every rule"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct StagedKubernetesNetworkPolicySpec {
    /// What enforcing it would do; absent means Set. With Delete every other field is empty.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "empty_is_none"
    )]
    pub staged_action: Option<StagedAction>,

    /// Selects pods of its namespace; absent or empty means all.
    #[serde(default, skip_serializing_if = "is_default")]
    pub pod_selector: LabelSelector,

    /// What is allowed to the selected pods.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    pub ingress: Vec<NetworkPolicyIngressRule>,

    /// What is allowed from the selected pods.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    pub egress: Vec<NetworkPolicyEgressRule>,

    /// Directions covered; absent means Ingress, and Egress where there are egress rules.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 2), extend("x-kubernetes-list-type" = "set"))]
    pub policy_types: Option<Vec<PolicyType>>,
}

fn is_default(selector: &LabelSelector) -> bool {
    *selector == LabelSelector::default()
}
