//! Tiers: groups of policies that are asked one after the other.

use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use crate::conditions::ConditionsStatus;
use crate::scalar::{empty_is_none, text_enum};

text_enum! {
    /// What happens at the end of a tier that had a say and decided nothing.
    #[derive(Default)]
    pub enum TierDefaultAction: Exact {
        /// The traffic is dropped.
        #[default]
        Deny = "Deny",
        /// The next tier decides.
        Pass = "Pass",
    }
}

/// A tier that exists in every cluster and cannot be deleted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PinnedTier {
    /// Its name.
    pub name: &'static str,
    /// Its place among the tiers.
    pub order: f64,
    /// What happens at its end.
    pub default_action: TierDefaultAction,
}

/// The tiers that are created at start if missing, in order.
pub const PINNED_TIERS: [PinnedTier; 3] = [
    PinnedTier {
        name: "kube-admin",
        order: 1_000.0,
        default_action: TierDefaultAction::Pass,
    },
    PinnedTier {
        name: "default",
        order: 1_000_000.0,
        default_action: TierDefaultAction::Deny,
    },
    PinnedTier {
        name: "kube-baseline",
        order: 10_000_000.0,
        default_action: TierDefaultAction::Pass,
    },
];

/// A group of policies; tiers are asked in order.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "projectcalico.org",
    version = "v3",
    kind = "Tier",
    plural = "tiers",
    singular = "tier",
    status = "ConditionsStatus",
    derive = "PartialEq",
    derive = "Default",
    doc = "A group of policies; tiers are asked in order.",
    validation = Rule::new("self.metadata.name == 'kube-admin' || self.metadata.name == 'kube-baseline' ? self.spec.defaultAction == 'Pass' : true").message("the tiers kube-admin and kube-baseline must have default action Pass").reason(Reason::FieldValueInvalid).field_path(".spec.defaultAction"),
    validation = Rule::new("self.metadata.name == 'default' ? self.spec.defaultAction == 'Deny' : true").message("the tier default must have default action Deny").reason(Reason::FieldValueInvalid).field_path(".spec.defaultAction"),
    printcolumn = r#"{"name": "Order", "type": "number", "jsonPath": ".spec.order", "description": "Its place among the tiers"}"#,
    printcolumn = r#"{"name": "DefaultAction", "type": "string", "jsonPath": ".spec.defaultAction", "description": "What happens at its end"}"#,
    printcolumn = r#"{"name": "Status", "type": "string", "jsonPath": ".status.conditions[?(@.type=='Ready')].reason", "description": "State of the tier"}"#,
    printcolumn = r#"{"name": "Accepted", "type": "string", "jsonPath": ".status.conditions[?(@.type=='Accepted')].status", "description": "Whether the object passed every rule"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct TierSpec {
    /// Its place among the tiers, lowest first; absent means last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order: Option<f64>,

    /// What happens at its end to traffic that a policy of the tier selects and none decides; absent means Deny.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "empty_is_none"
    )]
    pub default_action: Option<TierDefaultAction>,
}

impl TierSpec {
    /// What happens at its end, the default filled in.
    pub fn end(&self) -> TierDefaultAction {
        self.default_action.unwrap_or_default()
    }
}
