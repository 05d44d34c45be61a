//! What the daemon says about an object: `metav1.Condition` entries under `status.conditions`.

pub use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Condition type: the object passed every rule of [`crate::validate`].
pub const ACCEPTED: &str = "Accepted";
/// Condition type: every field that is set is acted on.
pub const FULLY_SUPPORTED: &str = "FullySupported";
/// Condition type: secrets, filters, tiers and pools the object names exist.
pub const RESOLVED_REFS: &str = "ResolvedRefs";
/// Condition type: every node that needs the object has it in the kernel.
pub const PROGRAMMED: &str = "Programmed";
/// Condition type of an IPPool: new addresses may come from it.
pub const ALLOCATABLE: &str = "Allocatable";
/// Condition type of a Tier, as Calico writes it.
pub const READY: &str = "Ready";

/// The status of every kind that has one: conditions, one per type.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ConditionsStatus {
    /// What the daemon found out about this object, one entry per type.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

impl ConditionsStatus {
    /// The condition of type `type_`, if the object carries one.
    pub fn get(&self, type_: &str) -> Option<&Condition> {
        self.conditions.iter().find(|c| c.type_ == type_)
    }
}
