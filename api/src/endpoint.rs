//! Interfaces of hosts that policy holds for: `HostEndpoint`.

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::conditions::ConditionsStatus;
use crate::scalar::Protocol;

/// An interface of a node, or all of them, that policy holds for.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "projectcalico.org",
    version = "v3",
    kind = "HostEndpoint",
    plural = "hostendpoints",
    singular = "hostendpoint",
    shortname = "hep",
    shortname = "heps",
    status = "ConditionsStatus",
    derive = "PartialEq",
    derive = "Default",
    doc = "An interface of a node, or all of them, that policy holds for. Its labels are selected like those of pods.",
    printcolumn = r#"{"name": "Node", "type": "string", "jsonPath": ".spec.node", "description": "The node it is on"}"#,
    printcolumn = r#"{"name": "Interface", "type": "string", "jsonPath": ".spec.interfaceName", "description": "The interface, * for all"}"#,
    printcolumn = r#"{"name": "Accepted", "type": "string", "jsonPath": ".status.conditions[?(@.type=='Accepted')].status", "description": "Whether the object passed every rule"}"#
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("(has(self.interfaceName) && size(self.interfaceName) > 0) || (has(self.expectedIPs) && size(self.expectedIPs) > 0)").message("name the interface by interfaceName or by expectedIPs").reason(Reason::FieldValueInvalid).field_path(".interfaceName"),
    validation = Rule::new("has(self.node) && size(self.node) > 0").message("node must be specified").reason(Reason::FieldValueRequired).field_path(".node")
)]
pub struct HostEndpointSpec {
    /// Name of the node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,

    /// The interface; `*` is every one, absent means the one that has an address of expectedIPs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface_name: Option<String>,

    /// Addresses of the interface: they find it where interfaceName is absent, and stand for it in selectors of rules.
    #[serde(default, rename = "expectedIPs", skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "set"))]
    pub expected_ips: Vec<String>,

    /// Names of profiles, asked after all policy; without any, what no policy decides is dropped.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "set"))]
    pub profiles: Vec<String>,

    /// Names of ports, for use in rules.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    pub ports: Vec<EndpointPort>,
}

/// A name for a port of a host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct EndpointPort {
    /// The name rules use.
    pub name: String,

    /// A protocol with ports: TCP, UDP or SCTP.
    pub protocol: Protocol,

    /// The port.
    #[schemars(range(min = 1, max = 65535))]
    pub port: u16,
}
