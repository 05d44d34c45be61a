//! Who speaks BGP with whom and what is announced: `BGPConfiguration`, `BGPPeer`.

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::conditions::ConditionsStatus;
use crate::felix::LogSeverity;
use crate::scalar::{AsNumber, GoDuration, Switch, empty_is_none, text_enum};

/// AS number of nodes when nothing else is configured.
pub const DEFAULT_AS_NUMBER: AsNumber = AsNumber(64512);

/// TCP port BGP listens on when nothing else is configured.
pub const DEFAULT_LISTEN_PORT: u16 = 179;

text_enum! {
    /// Which addresses the BGP listener is bound to.
    pub enum BindMode: Exact {
        /// All addresses of the node.
        None = "None",
        /// The node's BGP address only.
        NodeIP = "NodeIP",
    }
}

text_enum! {
    /// How LoadBalancer addresses are announced.
    pub enum LoadBalancerAggregation: Exact {
        /// The configured ranges as a whole.
        Enabled = "Enabled",
        /// One host route per live address.
        Disabled = "Disabled",
    }
}

text_enum! {
    /// Which next hop a peer is told.
    pub enum NextHopMode: Exact {
        /// What BGP does by itself: self for eBGP, unchanged for iBGP.
        Auto = "Auto",
        /// Always our own address.
        Self_ = "Self",
        /// Always the one that was received.
        Keep = "Keep",
    }
}

text_enum! {
    /// Where the local address of a session comes from.
    pub enum SourceAddress: Exact {
        /// The node's BGP address.
        UseNodeIP = "UseNodeIP",
        /// The kernel decides by route.
        None = "None",
    }
}

text_enum! {
    /// Whether the nodes chosen by `peerSelector` get the mirrored session by themselves.
    pub enum ReversePeering: Exact {
        /// They do.
        Auto = "Auto",
        /// Another BGPPeer describes their side.
        Manual = "Manual",
    }
}

/// Cluster-wide BGP settings (`default`) and the few per node (`node.<name>`).
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "projectcalico.org",
    version = "v3",
    kind = "BGPConfiguration",
    plural = "bgpconfigurations",
    singular = "bgpconfiguration",
    shortname = "bgpconfig",
    shortname = "bgpconfigs",
    status = "ConditionsStatus",
    derive = "PartialEq",
    derive = "Default",
    doc = "BGP settings: the object named default for the cluster, node.<name> for one node.",
    printcolumn = r#"{"name": "Mesh", "type": "boolean", "jsonPath": ".spec.nodeToNodeMeshEnabled", "description": "Whether all nodes peer with each other"}"#,
    printcolumn = r#"{"name": "ASN", "type": "integer", "jsonPath": ".spec.asNumber", "description": "AS number of the nodes"}"#,
    printcolumn = r#"{"name": "Accepted", "type": "string", "jsonPath": ".status.conditions[?(@.type=='Accepted')].status", "description": "Whether the object passed every rule"}"#
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.nodeMeshPassword) || !has(self.nodeToNodeMeshEnabled) || self.nodeToNodeMeshEnabled").message("nodeMeshPassword cannot be set when nodeToNodeMeshEnabled is false").reason(Reason::FieldValueForbidden).field_path(".nodeMeshPassword"),
    validation = Rule::new("!has(self.nodeMeshMaxRestartTime) || !has(self.nodeToNodeMeshEnabled) || self.nodeToNodeMeshEnabled").message("nodeMeshMaxRestartTime cannot be set when nodeToNodeMeshEnabled is false").reason(Reason::FieldValueForbidden).field_path(".nodeMeshMaxRestartTime")
)]
pub struct BGPConfigurationSpec {
    /// How much the daemon logs about BGP; absent means Info.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "empty_is_none"
    )]
    pub log_severity_screen: Option<LogSeverity>,

    /// Whether all nodes without a route reflector id peer with each other; absent means true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_to_node_mesh_enabled: Option<bool>,

    /// AS number of nodes that have none of their own; absent means 64512.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub as_number: Option<AsNumber>,

    /// Announced ranges of LoadBalancer addresses.
    #[serde(
        default,
        rename = "serviceLoadBalancerIPs",
        skip_serializing_if = "Vec::is_empty"
    )]
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    pub service_load_balancer_ips: Vec<ServiceCidr>,

    /// Whether LoadBalancer ranges are announced whole; absent means Enabled.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "empty_is_none"
    )]
    pub service_load_balancer_aggregation: Option<LoadBalancerAggregation>,

    /// Announced ranges of external addresses of Services.
    #[serde(
        default,
        rename = "serviceExternalIPs",
        skip_serializing_if = "Vec::is_empty"
    )]
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    pub service_external_ips: Vec<ServiceCidr>,

    /// Announced ranges of cluster addresses of Services.
    #[serde(
        default,
        rename = "serviceClusterIPs",
        skip_serializing_if = "Vec::is_empty"
    )]
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    pub service_cluster_ips: Vec<ServiceCidr>,

    /// Names for community values, for use in prefixAdvertisements.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 500), extend("x-kubernetes-list-type" = "atomic"))]
    pub communities: Vec<Community>,

    /// Communities to tag routes with, by prefix.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 500), extend("x-kubernetes-list-type" = "atomic"))]
    pub prefix_advertisements: Vec<PrefixAdvertisement>,

    /// TCP port BGP listens on; absent means 179.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub listen_port: Option<u16>,

    /// TCP-MD5 password of the sessions between nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_mesh_password: Option<BGPPassword>,

    /// Graceful restart time of the sessions between nodes; absent means 120s.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "empty_is_none"
    )]
    pub node_mesh_max_restart_time: Option<GoDuration>,

    /// Which addresses the listener is bound to; absent means None.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "empty_is_none"
    )]
    pub bind_mode: Option<BindMode>,

    /// Interfaces whose subnets are never announced; `*` is a wildcard inside a name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "set"))]
    pub ignored_interfaces: Vec<String>,

    /// IPv4 address pods peer with.
    #[serde(
        default,
        rename = "localWorkloadPeeringIPV4",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(length(max = 45))]
    pub local_workload_peering_ipv4: Option<String>,

    /// IPv6 address pods peer with.
    #[serde(
        default,
        rename = "localWorkloadPeeringIPV6",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(length(max = 45))]
    pub local_workload_peering_ipv6: Option<String>,

    /// Accepted for Calico's sake and reported: one process owns routes and kernel here.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "empty_is_none"
    )]
    pub program_cluster_routes: Option<Switch>,

    /// Priority (metric) of IPv4 routes in the kernel; absent means 1024. FelixConfiguration wins.
    #[serde(
        default,
        rename = "ipv4NormalRoutePriority",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(range(min = 1, max = 2_147_483_646), extend("format" = "int32"))]
    pub ipv4_normal_route_priority: Option<u32>,

    /// Priority (metric) of IPv6 routes in the kernel; absent means 1024. FelixConfiguration wins.
    #[serde(
        default,
        rename = "ipv6NormalRoutePriority",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(range(min = 1, max = 2_147_483_646), extend("format" = "int32"))]
    pub ipv6_normal_route_priority: Option<u32>,
}

impl BGPConfigurationSpec {
    /// Whether nodes peer with each other.
    pub fn mesh(&self) -> bool {
        self.node_to_node_mesh_enabled.unwrap_or(true)
    }

    /// AS number of nodes that have none of their own.
    pub fn cluster_as(&self) -> AsNumber {
        self.as_number.unwrap_or(DEFAULT_AS_NUMBER)
    }

    /// TCP port BGP listens on.
    pub fn port(&self) -> u16 {
        self.listen_port.unwrap_or(DEFAULT_LISTEN_PORT)
    }
}

/// A range of service addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(extend("x-kubernetes-map-type" = "atomic"))]
pub struct ServiceCidr {
    /// The range.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(extend("format" = "cidr"))]
    pub cidr: String,
}

/// A name for a community value.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(extend("x-kubernetes-map-type" = "atomic"))]
pub struct Community {
    /// The name prefixAdvertisements use.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 253))]
    pub name: String,

    /// `aa:nn` (16 bits each, RFC 1997) or `aa:nn:mm` (32 bits each, RFC 8092).
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(
        length(max = 40),
        regex(pattern = r"^(\d+):(\d+)$|^(\d+):(\d+):(\d+)$")
    )]
    pub value: String,
}

/// Communities for the routes inside a prefix.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(extend("x-kubernetes-map-type" = "atomic"))]
pub struct PrefixAdvertisement {
    /// Routes equal to or inside this prefix are tagged.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(extend("format" = "cidr"))]
    pub cidr: String,

    /// Names from `communities`, or values.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 50), extend("x-kubernetes-list-type" = "atomic"))]
    pub communities: Vec<String>,
}

/// Where a TCP-MD5 password is kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BGPPassword {
    /// A key of a Secret in the daemon's namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_key_ref: Option<SecretKeyRef>,
}

/// One key of a Secret.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(extend("x-kubernetes-map-type" = "atomic"))]
pub struct SecretKeyRef {
    /// Name of the Secret.
    #[serde(default)]
    pub name: String,

    /// Key inside it.
    pub key: String,

    /// Whether the session may run without password when the key is missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub optional: Option<bool>,
}

/// A peering of nodes with a router, with other nodes, or with local pods.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "projectcalico.org",
    version = "v3",
    kind = "BGPPeer",
    plural = "bgppeers",
    singular = "bgppeer",
    status = "ConditionsStatus",
    derive = "PartialEq",
    derive = "Default",
    doc = "A peering of nodes with a router, with other nodes, or with local pods.",
    printcolumn = r#"{"name": "Node Selector", "type": "string", "jsonPath": ".spec.nodeSelector", "description": "Nodes that have this peering"}"#,
    printcolumn = r#"{"name": "Node", "type": "string", "jsonPath": ".spec.node", "description": "The one node that has this peering"}"#,
    printcolumn = r#"{"name": "Local ASN", "type": "string", "jsonPath": ".spec.localASNumber", "description": "AS number we use for this peering"}"#,
    printcolumn = r#"{"name": "Peer Selector", "type": "string", "jsonPath": ".spec.peerSelector", "description": "Nodes to peer with"}"#,
    printcolumn = r#"{"name": "Peer IP", "type": "string", "jsonPath": ".spec.peerIP", "description": "Address of the peer, with an optional port"}"#,
    printcolumn = r#"{"name": "Peer ASN", "type": "string", "jsonPath": ".spec.asNumber", "description": "AS number of the peer"}"#,
    printcolumn = r#"{"name": "Accepted", "type": "string", "jsonPath": ".status.conditions[?(@.type=='Accepted')].status", "description": "Whether the object passed every rule"}"#
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.node) || size(self.node) == 0 || !has(self.nodeSelector) || size(self.nodeSelector) == 0").message("node and nodeSelector cannot both be set").reason(Reason::FieldValueForbidden).field_path(".node"),
    validation = Rule::new("!has(self.peerIP) || size(self.peerIP) == 0 || !has(self.peerSelector) || size(self.peerSelector) == 0").message("peerIP and peerSelector cannot both be set").reason(Reason::FieldValueForbidden).field_path(".peerIP"),
    validation = Rule::new("!has(self.peerSelector) || size(self.peerSelector) == 0 || !has(self.asNumber) || self.asNumber == 0").message("asNumber must be empty when peerSelector is set").reason(Reason::FieldValueForbidden).field_path(".asNumber"),
    validation = Rule::new("!has(self.localWorkloadSelector) || size(self.localWorkloadSelector) == 0 || !has(self.peerIP) || size(self.peerIP) == 0").message("peerIP must be empty when localWorkloadSelector is set").reason(Reason::FieldValueForbidden).field_path(".peerIP"),
    validation = Rule::new("!has(self.localWorkloadSelector) || size(self.localWorkloadSelector) == 0 || !has(self.peerSelector) || size(self.peerSelector) == 0").message("peerSelector must be empty when localWorkloadSelector is set").reason(Reason::FieldValueForbidden).field_path(".peerSelector"),
    validation = Rule::new("!has(self.localWorkloadSelector) || size(self.localWorkloadSelector) == 0 || (has(self.asNumber) && self.asNumber != 0)").message("asNumber is required when localWorkloadSelector is set").reason(Reason::FieldValueInvalid).field_path(".asNumber"),
    validation = Rule::new("!has(self.reachableBy) || size(self.reachableBy) == 0 || (has(self.peerIP) && size(self.peerIP) > 0)").message("reachableBy must be empty when peerIP is empty").reason(Reason::FieldValueForbidden).field_path(".reachableBy"),
    validation = Rule::new("!has(self.reachableBy) || size(self.reachableBy) == 0 || isIP(self.reachableBy)").message("reachableBy must be an address").reason(Reason::FieldValueInvalid).field_path(".reachableBy"),
    validation = Rule::new("!has(self.reachableBy) || !isIP(self.reachableBy) || !has(self.peerIP) || (ip(self.reachableBy).family() == 6) == (isIP(self.peerIP) ? self.peerIP.contains(':') : self.peerIP.startsWith('['))").message("reachableBy and peerIP must be of one family").reason(Reason::FieldValueInvalid).field_path(".reachableBy"),
    validation = Rule::new("(has(self.peerIP) && size(self.peerIP) > 0) || (has(self.peerSelector) && size(self.peerSelector) > 0) || (has(self.localWorkloadSelector) && size(self.localWorkloadSelector) > 0) || (has(self.margay) && has(self.margay.unnumbered) && size(self.margay.unnumbered) > 0)").message("no peer is named: set peerIP or peerSelector").reason(Reason::FieldValueRequired),
    validation = Rule::new("!has(self.keepOriginalNextHop) || !self.keepOriginalNextHop || !has(self.nextHopMode)").message("keepOriginalNextHop and nextHopMode cannot both be set; keepOriginalNextHop is deprecated").reason(Reason::FieldValueForbidden).field_path(".keepOriginalNextHop")
)]
pub struct BGPPeerSpec {
    /// The one node that has this peering; absent with an absent nodeSelector means every node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub node: Option<String>,

    /// Selects the nodes that have this peering.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub node_selector: Option<String>,

    /// Address of the peer: `ip`, `v4:port` or `[v6]:port`.
    #[serde(default, rename = "peerIP", skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    #[x_kube(
        validation = Rule::new(r"self == '' || isIP(self) || (self.matches('^[0-9.]+:[0-9]{1,5}$') && isIP(self.split(':')[0]) && int(self.split(':')[1]) >= 1 && int(self.split(':')[1]) <= 65535) || (self.matches('^\\[[^\\]]+\\]:[0-9]{1,5}$') && isIP(self.substring(1, self.lastIndexOf(']'))) && int(self.substring(self.lastIndexOf(':') + 1)) >= 1 && int(self.substring(self.lastIndexOf(':') + 1)) <= 65535)").message("peerIP must be an address, optionally with a port as v4:port or [v6]:port").reason(Reason::FieldValueInvalid)
    )]
    pub peer_ip: Option<String>,

    /// AS number of the peer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub as_number: Option<AsNumber>,

    /// AS number we use towards this peer; absent means the node's own.
    #[serde(
        default,
        rename = "localASNumber",
        skip_serializing_if = "Option::is_none"
    )]
    pub local_as_number: Option<AsNumber>,

    /// Selects nodes to peer with; their address, port and AS number come from the nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub peer_selector: Option<String>,

    /// Deprecated form of nextHopMode Keep (eBGP only).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub keep_original_next_hop: bool,

    /// Which next hop the peer is told; absent means Auto.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "empty_is_none"
    )]
    pub next_hop_mode: Option<NextHopMode>,

    /// TCP-MD5 password (RFC 2385).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<BGPPassword>,

    /// Where the local address comes from; absent means `UseNodeIP`.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "empty_is_none"
    )]
    pub source_address: Option<SourceAddress>,

    /// Graceful restart time; absent means 120s.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "empty_is_none"
    )]
    pub max_restart_time: Option<GoDuration>,

    /// Time between keepalives; absent means a third of the hold time.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "empty_is_none"
    )]
    pub keepalive_time: Option<GoDuration>,

    /// How often our own AS number may stand in a received path; absent means 0.
    #[serde(
        default,
        rename = "numAllowedLocalASNumbers",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(extend("format" = "int32", "minimum" = 0))]
    pub num_allowed_local_as_numbers: Option<u32>,

    /// Hops to the peer for the TTL check (RFC 5082), 1 to 255; 0 or absent means no check.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_security: Option<u8>,

    /// Gateway towards a peer that is not on a link of ours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub reachable_by: Option<String>,

    /// Names of `BGPFilters`, applied in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    pub filters: Vec<String>,

    /// Selects local pods to peer with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub local_workload_selector: Option<String>,

    /// Whether nodes chosen by peerSelector get the mirrored session by themselves; absent means Auto.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "empty_is_none"
    )]
    pub reverse_peering: Option<ReversePeering>,

    /// Settings Calico's schema has no field for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub margay: Option<PeerExtension>,
}

/// Session settings Calico's schema has no field for.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PeerExtension {
    /// Time without a message after which the session falls; absent means 90s.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "empty_is_none"
    )]
    pub hold_time: Option<GoDuration>,

    /// Pause between attempts to connect; absent means 5s.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "empty_is_none"
    )]
    pub connect_retry_time: Option<GoDuration>,

    /// Prefixes the peer may announce; absent means 1,000 from nodes, 100,000 from all others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1), extend("format" = "int32"))]
    pub max_prefixes: Option<u32>,

    /// Bidirectional forwarding detection (RFC 5880) on the session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bfd: Option<PeerBfd>,

    /// Address families to negotiate, such as `ipv4-unicast`; absent means the family of the session.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "set"))]
    pub address_families: Vec<String>,

    /// Interface to peer over with link-local addresses (RFC 5549 next hops) instead of `peerIP`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 15))]
    pub unnumbered: Option<String>,
}

/// Timers of bidirectional forwarding detection.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PeerBfd {
    /// Shortest interval between packets we send; absent means 300ms.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "empty_is_none"
    )]
    pub min_tx: Option<GoDuration>,

    /// Shortest interval between packets we can take; absent means 300ms.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "empty_is_none"
    )]
    pub min_rx: Option<GoDuration>,

    /// Packets missed before the peer counts as gone; absent means 3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 255))]
    pub multiplier: Option<u8>,

    /// Whether the peer is more than one hop away (RFC 5883).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub multihop: Option<bool>,
}
