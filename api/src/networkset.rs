//! Named sets of addresses, selected by labels like endpoints: `NetworkSet`, `GlobalNetworkSet`.

use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use crate::conditions::ConditionsStatus;

/// A set of addresses for the policies of one namespace.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "projectcalico.org",
    version = "v3",
    kind = "NetworkSet",
    plural = "networksets",
    singular = "networkset",
    shortname = "netset",
    shortname = "netsets",
    namespaced,
    status = "ConditionsStatus",
    derive = "PartialEq",
    derive = "Default",
    doc = "A set of addresses; its labels are selected like those of pods, by policies of its namespace and by global ones.",
    printcolumn = r#"{"name": "Accepted", "type": "string", "jsonPath": ".status.conditions[?(@.type=='Accepted')].status", "description": "Whether the object passed every rule"}"#
)]
pub struct NetworkSetSpec {
    /// The addresses, such as 192.0.2.0/24; host bits are cut off, a bare address is a /32 or /128.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "set"))]
    pub nets: Vec<String>,
}

/// A set of addresses for the policies of all namespaces.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "projectcalico.org",
    version = "v3",
    kind = "GlobalNetworkSet",
    plural = "globalnetworksets",
    singular = "globalnetworkset",
    shortname = "gns",
    status = "ConditionsStatus",
    derive = "PartialEq",
    derive = "Default",
    doc = "A set of addresses; its labels are selected like those of endpoints, by global policies and by rules with namespaceSelector global().",
    printcolumn = r#"{"name": "Accepted", "type": "string", "jsonPath": ".status.conditions[?(@.type=='Accepted')].status", "description": "Whether the object passed every rule"}"#
)]
pub struct GlobalNetworkSetSpec {
    /// The addresses, such as 192.0.2.0/24; host bits are cut off, a bare address is a /32 or /128.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "set"))]
    pub nets: Vec<String>,
}
