//! Network policy: `NetworkPolicy`, `GlobalNetworkPolicy`, and the tiers they stand in.

use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use crate::DEFAULT_TIER;
use crate::conditions::ConditionsStatus;
use crate::scalar::text_enum;

mod rule;
mod staged;
mod tier;

pub use rule::{
    Action, Entity, HttpMatch, HttpPath, IcmpMatch, Rule, RuleMetadata, ServiceAccountMatch,
    ServiceMatch,
};
pub use staged::{
    StagedAction, StagedGlobalNetworkPolicy, StagedGlobalNetworkPolicySpec,
    StagedKubernetesNetworkPolicy, StagedKubernetesNetworkPolicySpec, StagedNetworkPolicy,
    StagedNetworkPolicySpec,
};
pub use tier::{PINNED_TIERS, PinnedTier, Tier, TierDefaultAction, TierSpec};

/// Rules in the order they are asked.
pub type Rules = Vec<Rule>;

text_enum! {
    /// A direction a policy covers, seen from the endpoint it selects.
    pub enum PolicyType: Exact {
        /// Traffic to the endpoint.
        Ingress = "Ingress",
        /// Traffic from the endpoint.
        Egress = "Egress",
    }
}

text_enum! {
    /// What the author knows about a policy that we cannot see.
    pub enum PerformanceHint: Exact {
        /// Compile it even where no local endpoint matches.
        AssumeNeededOnEveryNode = "AssumeNeededOnEveryNode",
    }
}

/// Policy for the pods of one namespace.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "projectcalico.org",
    version = "v3",
    kind = "NetworkPolicy",
    plural = "networkpolicies",
    singular = "networkpolicy",
    shortname = "cnp",
    shortname = "caliconetworkpolicy",
    namespaced,
    status = "ConditionsStatus",
    derive = "PartialEq",
    derive = "Default",
    doc = "Policy for the pods of one namespace.",
    selectable = ".spec.tier",
    printcolumn = r#"{"name": "Tier", "type": "string", "jsonPath": ".spec.tier", "description": "The tier it stands in"}"#,
    printcolumn = r#"{"name": "Order", "type": "number", "jsonPath": ".spec.order", "description": "Its place in the tier"}"#,
    printcolumn = r#"{"name": "Accepted", "type": "string", "jsonPath": ".status.conditions[?(@.type=='Accepted')].status", "description": "Whether the object passed every rule"}"#
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.selector) || !self.selector.contains('global(')").message("global() can only be used in the namespaceSelector of a rule").reason(Reason::FieldValueInvalid).field_path(".selector"),
    validation = Rule::new("!has(self.serviceAccountSelector) || !self.serviceAccountSelector.contains('global(')").message("global() can only be used in the namespaceSelector of a rule").reason(Reason::FieldValueInvalid).field_path(".serviceAccountSelector")
)]
pub struct NetworkPolicySpec {
    /// The tier it stands in; absent or empty means default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tier: Option<String>,

    /// Its place in the tier, lowest first; absent means last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order: Option<f64>,

    /// Rules for traffic to the selected pods.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1024), extend("x-kubernetes-list-type" = "atomic"))]
    pub ingress: Rules,

    /// Rules for traffic from the selected pods.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1024), extend("x-kubernetes-list-type" = "atomic"))]
    pub egress: Rules,

    /// Selects pods of the policy's namespace; absent or empty means all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub selector: Option<String>,

    /// Directions covered; absent means what the rules say (see [`PolicyType`]).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 2), extend("x-kubernetes-list-type" = "set"))]
    pub types: Option<Vec<PolicyType>>,

    /// Selects pods by the labels of their service account; absent or empty means all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub service_account_selector: Option<String>,

    /// What the author knows about the policy that we cannot see.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "set"))]
    pub performance_hints: Vec<PerformanceHint>,
}

/// Policy for endpoints of all namespaces, host endpoints included.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "projectcalico.org",
    version = "v3",
    kind = "GlobalNetworkPolicy",
    plural = "globalnetworkpolicies",
    singular = "globalnetworkpolicy",
    shortname = "gnp",
    shortname = "cgnp",
    status = "ConditionsStatus",
    derive = "PartialEq",
    derive = "Default",
    doc = "Policy for endpoints of all namespaces, host endpoints included.",
    selectable = ".spec.tier",
    printcolumn = r#"{"name": "Tier", "type": "string", "jsonPath": ".spec.tier", "description": "The tier it stands in"}"#,
    printcolumn = r#"{"name": "Order", "type": "number", "jsonPath": ".spec.order", "description": "Its place in the tier"}"#,
    printcolumn = r#"{"name": "Accepted", "type": "string", "jsonPath": ".status.conditions[?(@.type=='Accepted')].status", "description": "Whether the object passed every rule"}"#
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.selector) || !self.selector.contains('global(')").message("global() can only be used in the namespaceSelector of a rule").reason(Reason::FieldValueInvalid).field_path(".selector"),
    validation = Rule::new("!has(self.serviceAccountSelector) || !self.serviceAccountSelector.contains('global(')").message("global() can only be used in the namespaceSelector of a rule").reason(Reason::FieldValueInvalid).field_path(".serviceAccountSelector"),
    validation = Rule::new("!has(self.namespaceSelector) || !self.namespaceSelector.contains('global(')").message("global() can only be used in the namespaceSelector of a rule").reason(Reason::FieldValueInvalid).field_path(".namespaceSelector"),
    validation = Rule::new("!(has(self.doNotTrack) && self.doNotTrack && has(self.preDNAT) && self.preDNAT)").message("preDNAT and doNotTrack cannot both be true").reason(Reason::FieldValueForbidden).field_path(".preDNAT"),
    validation = Rule::new("!(has(self.preDNAT) && self.preDNAT) || (has(self.applyOnForward) && self.applyOnForward)").message("preDNAT needs applyOnForward").reason(Reason::FieldValueInvalid).field_path(".preDNAT"),
    validation = Rule::new("!(has(self.doNotTrack) && self.doNotTrack) || (has(self.applyOnForward) && self.applyOnForward)").message("doNotTrack needs applyOnForward").reason(Reason::FieldValueInvalid).field_path(".doNotTrack"),
    validation = Rule::new("!(has(self.preDNAT) && self.preDNAT) || !has(self.egress) || size(self.egress) == 0").message("a preDNAT policy cannot have egress rules").reason(Reason::FieldValueForbidden).field_path(".egress"),
    validation = Rule::new("!(has(self.preDNAT) && self.preDNAT) || !has(self.types) || !('Egress' in self.types)").message("a preDNAT policy cannot have the type Egress").reason(Reason::FieldValueForbidden).field_path(".types")
)]
pub struct GlobalNetworkPolicySpec {
    /// The tier it stands in; absent or empty means default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tier: Option<String>,

    /// Its place in the tier, lowest first; absent means last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order: Option<f64>,

    /// Rules for traffic to the selected endpoints.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1024), extend("x-kubernetes-list-type" = "atomic"))]
    pub ingress: Rules,

    /// Rules for traffic from the selected endpoints.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1024), extend("x-kubernetes-list-type" = "atomic"))]
    pub egress: Rules,

    /// Selects endpoints; absent or empty means all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub selector: Option<String>,

    /// Directions covered; absent means what the rules say (see [`PolicyType`]).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 2), extend("x-kubernetes-list-type" = "set"))]
    pub types: Option<Vec<PolicyType>>,

    /// Whether the policy is applied before connection tracking; needs applyOnForward.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub do_not_track: bool,

    /// Whether the policy is applied before Services are resolved; needs applyOnForward.
    #[serde(
        default,
        rename = "preDNAT",
        skip_serializing_if = "std::ops::Not::not"
    )]
    pub pre_dnat: bool,

    /// Whether the policy of a host endpoint also holds for traffic the host forwards.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub apply_on_forward: bool,

    /// Selects pods by the labels of their service account; absent or empty means all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub service_account_selector: Option<String>,

    /// Selects pods by the labels of their namespace and leaves host endpoints out; absent or empty means all endpoints.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub namespace_selector: Option<String>,

    /// What the author knows about the policy that we cannot see.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "set"))]
    pub performance_hints: Vec<PerformanceHint>,
}

impl NetworkPolicySpec {
    /// The tier it stands in, the default filled in.
    pub fn tier_name(&self) -> &str {
        tier_name(self.tier.as_deref())
    }

    /// Directions covered: ingress and egress.
    pub fn covers(&self, direction: PolicyType) -> bool {
        covers(
            self.types.as_deref(),
            &self.ingress,
            &self.egress,
            direction,
        )
    }
}

impl GlobalNetworkPolicySpec {
    /// The tier it stands in, the default filled in.
    pub fn tier_name(&self) -> &str {
        tier_name(self.tier.as_deref())
    }

    /// Directions covered: ingress and egress.
    pub fn covers(&self, direction: PolicyType) -> bool {
        covers(
            self.types.as_deref(),
            &self.ingress,
            &self.egress,
            direction,
        )
    }
}

fn tier_name(tier: Option<&str>) -> &str {
    tier.filter(|name| !name.is_empty()).unwrap_or(DEFAULT_TIER)
}

/// Absent types: ingress, unless there are only egress rules; both where both have rules. An empty list (old data) is both.
fn covers(
    types: Option<&[PolicyType]>,
    ingress: &[Rule],
    egress: &[Rule],
    direction: PolicyType,
) -> bool {
    match (types, direction) {
        (Some([]), _) => true,
        (Some(given), direction) => given.contains(&direction),
        (None, PolicyType::Ingress) => !ingress.is_empty() || egress.is_empty(),
        (None, PolicyType::Egress) => !egress.is_empty(),
    }
}

#[cfg(test)]
mod tests;
