//! One rule of a policy: what it matches and what it does.

use std::collections::BTreeMap;

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::scalar::{IpVersion, Port, Protocol, text_enum};

text_enum! {
    /// What a rule does with what it matches.
    pub enum Action: Exact {
        /// Lets it through.
        Allow = "Allow",
        /// Drops it.
        Deny = "Deny",
        /// Notes it and goes on with the next rule.
        Log = "Log",
        /// Leaves the tier; the next one decides.
        Pass = "Pass",
    }
}

/// One rule. All criteria that are set must hold; the entries of one list are alternatives.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.http) || !has(self.protocol) || self.protocol == 'TCP' || self.protocol == 6").message("rules with HTTP match must have protocol TCP or unset").reason(Reason::FieldValueInvalid).field_path(".http"),
    validation = Rule::new("self.action == 'Allow' || !has(self.http)").message("HTTP match is only valid on Allow rules").reason(Reason::FieldValueForbidden).field_path(".http"),
    validation = Rule::new("!has(self.destination) || !has(self.destination.services) || ((!has(self.destination.ports) || size(self.destination.ports) == 0) && (!has(self.destination.notPorts) || size(self.destination.notPorts) == 0))").message("ports and notPorts cannot be specified with services").reason(Reason::FieldValueForbidden).field_path(".destination.services"),
    validation = Rule::new("!has(self.icmp) || (has(self.protocol) && (self.protocol == 'ICMP' || self.protocol == 'ICMPv6' || self.protocol == 1 || self.protocol == 58))").message("ICMP fields require protocol to be ICMP or ICMPv6").reason(Reason::FieldValueInvalid).field_path(".icmp"),
    validation = Rule::new("!has(self.ipVersion) || self.ipVersion == 4 || !has(self.protocol) || !(self.protocol == 'ICMP' || self.protocol == 1)").message("protocol ICMP requires ipVersion 4").reason(Reason::FieldValueInvalid).field_path(".protocol"),
    validation = Rule::new("!has(self.ipVersion) || self.ipVersion == 4 || !has(self.notProtocol) || !(self.notProtocol == 'ICMP' || self.notProtocol == 1)").message("protocol ICMP requires ipVersion 4").reason(Reason::FieldValueInvalid).field_path(".notProtocol"),
    validation = Rule::new("!has(self.ipVersion) || self.ipVersion == 6 || !has(self.protocol) || !(self.protocol == 'ICMPv6' || self.protocol == 58)").message("protocol ICMPv6 requires ipVersion 6").reason(Reason::FieldValueInvalid).field_path(".protocol"),
    validation = Rule::new("!has(self.ipVersion) || self.ipVersion == 6 || !has(self.notProtocol) || !(self.notProtocol == 'ICMPv6' || self.notProtocol == 58)").message("protocol ICMPv6 requires ipVersion 6").reason(Reason::FieldValueInvalid).field_path(".notProtocol")
)]
pub struct Rule {
    /// What happens to matching traffic.
    pub action: Action,

    /// Matches one version of IP only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip_version: Option<IpVersion>,

    /// Matches this protocol: a name (TCP, UDP, ICMP, `ICMPv6`, SCTP, `UDPLite`) or a number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Protocol>,

    /// Matches every protocol but this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_protocol: Option<Protocol>,

    /// Matches ICMP messages; needs protocol ICMP or `ICMPv6`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub icmp: Option<IcmpMatch>,

    /// Matches every ICMP message but these.
    #[serde(default, rename = "notICMP", skip_serializing_if = "Option::is_none")]
    pub not_icmp: Option<IcmpMatch>,

    /// Where the traffic comes from.
    #[serde(default, skip_serializing_if = "Entity::is_empty")]
    pub source: Entity,

    /// Where the traffic goes to.
    #[serde(default, skip_serializing_if = "Entity::is_empty")]
    pub destination: Entity,

    /// Matches HTTP requests. Not supported: the rule never matches and is reported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpMatch>,

    /// Notes about the rule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<RuleMetadata>,
}

impl Rule {
    /// A rule that matches everything.
    pub fn new(action: Action) -> Self {
        Self {
            action,
            ip_version: None,
            protocol: None,
            not_protocol: None,
            icmp: None,
            not_icmp: None,
            source: Entity::default(),
            destination: Entity::default(),
            http: None,
            metadata: None,
        }
    }
}

/// Matches ICMP messages by type, and by code of that type.
#[derive(KubeSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[x_kube(
    validation = Rule::new("!has(self.code) || has(self.type)").message("ICMP code specified without an ICMP type").reason(Reason::FieldValueInvalid)
)]
pub struct IcmpMatch {
    /// Type of the message; absent means any.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 254))]
    pub type_: Option<u8>,

    /// Code within the type; absent means any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 255))]
    pub code: Option<u8>,
}

/// One end of the traffic, as the user wrote it: texts are compiled, and refused, where the rule is.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.selector) || !self.selector.contains('global(')").message("global() can only be used in the namespaceSelector of a rule").reason(Reason::FieldValueInvalid).field_path(".selector"),
    validation = Rule::new("!has(self.services) || !has(self.namespaceSelector) || size(self.namespaceSelector) == 0").message("cannot specify namespaceSelector and services on the same rule").reason(Reason::FieldValueForbidden).field_path(".services"),
    validation = Rule::new("!has(self.services) || !has(self.serviceAccounts)").message("cannot specify serviceAccounts and services on the same rule").reason(Reason::FieldValueForbidden).field_path(".services"),
    validation = Rule::new("!has(self.services) || (has(self.services.name) && size(self.services.name) > 0)").message("services must specify a service name").reason(Reason::FieldValueRequired).field_path(".services.name"),
    validation = Rule::new("!has(self.services) || ((!has(self.selector) || size(self.selector) == 0) && (!has(self.notSelector) || size(self.notSelector) == 0))").message("cannot specify selector or notSelector and services on the same rule").reason(Reason::FieldValueForbidden).field_path(".services"),
    validation = Rule::new("!has(self.services) || ((!has(self.nets) || size(self.nets) == 0) && (!has(self.notNets) || size(self.notNets) == 0))").message("cannot specify nets or notNets and services on the same rule").reason(Reason::FieldValueForbidden).field_path(".services")
)]
pub struct Entity {
    /// Matches addresses in these ranges; a bare address is a /32 or /128. One family per rule.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), extend("x-kubernetes-list-type" = "set"))]
    pub nets: Vec<String>,

    /// Matches endpoints and network sets with these labels, in the policy's namespace unless namespaceSelector is set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub selector: Option<String>,

    /// Widens selector to the namespaces with these labels; `global()` alone means "outside all namespaces".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub namespace_selector: Option<String>,

    /// Matches a Service: an egress destination by address and port, an ingress source by address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub services: Option<ServiceMatch>,

    /// Matches these ports: numbers, ranges `80:90`, or names. Needs protocol TCP, UDP or SCTP unless all are names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 50), extend("x-kubernetes-list-type" = "atomic"))]
    pub ports: Vec<Port>,

    /// Matches addresses outside all of these ranges.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), extend("x-kubernetes-list-type" = "set"))]
    pub not_nets: Vec<String>,

    /// Matches what does not carry these labels, unknown addresses included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub not_selector: Option<String>,

    /// Matches every port but these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 50), extend("x-kubernetes-list-type" = "atomic"))]
    pub not_ports: Vec<Port>,

    /// Matches pods by their service account.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_accounts: Option<ServiceAccountMatch>,
}

impl Entity {
    /// Whether no criterion is set, so that everything matches.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Names one Service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ServiceMatch {
    /// Name of the Service.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 253))]
    pub name: String,

    /// Its namespace; absent means the policy's own, and a global policy must name one.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 253))]
    pub namespace: String,
}

/// Matches pods by service account; name and labels must both hold where both are set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ServiceAccountMatch {
    /// Names of service accounts; absent or empty means any name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "set"))]
    pub names: Vec<String>,

    /// Selects by the labels of the service account; absent or empty means any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,
}

/// Matches HTTP requests.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HttpMatch {
    /// Methods, such as GET.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 20), extend("x-kubernetes-list-type" = "atomic"))]
    pub methods: Vec<String>,

    /// Paths.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 20), extend("x-kubernetes-list-type" = "atomic"))]
    pub paths: Vec<HttpPath>,
}

/// A path of HTTP requests: exactly one field is set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HttpPath {
    /// The whole path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub exact: Option<String>,

    /// How the path begins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub prefix: Option<String>,
}

/// Notes about a rule.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RuleMetadata {
    /// Key → value, at most 256 KiB together.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}
