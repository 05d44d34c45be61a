//! What a node's speaker knows, asked for by an object: `CalicoNodeStatus`.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::scalar::text_enum;

text_enum! {
    /// A part of the status.
    pub enum StatusClass: Exact {
        /// The speaker itself.
        Agent = "Agent",
        /// Sessions.
        Bgp = "BGP",
        /// Routes.
        Routes = "Routes",
    }
}

text_enum! {
    /// Whether the speaker runs.
    pub enum SpeakerState: Exact {
        /// It does.
        Ready = "Ready",
        /// It does not.
        NotReady = "NotReady",
    }
}

text_enum! {
    /// Why a node has a session.
    pub enum SessionOrigin: Exact {
        /// All nodes peer with each other.
        NodeMesh = "NodeMesh",
        /// A BGPPeer of this node.
        NodePeer = "NodePeer",
        /// A BGPPeer of all nodes.
        GlobalPeer = "GlobalPeer",
    }
}

text_enum! {
    /// State of a session (RFC 4271 §8.2.2).
    pub enum SessionState: Exact {
        /// Not tried.
        Idle = "Idle",
        /// A connection is made.
        Connect = "Connect",
        /// A connection is waited for.
        Active = "Active",
        /// OPEN is sent.
        OpenSent = "OpenSent",
        /// OPEN has come.
        OpenConfirm = "OpenConfirm",
        /// Routes are exchanged.
        Established = "Established",
        /// The session is being closed.
        Close = "Close",
    }
}

text_enum! {
    /// Whether a route forwards.
    pub enum RouteUse: Exact {
        /// It does.
        Fib = "FIB",
        /// It is known only.
        Rib = "RIB",
    }
}

text_enum! {
    /// Where a route comes from.
    pub enum RouteOrigin: Exact {
        /// The kernel had it.
        Kernel = "Kernel",
        /// It is configured.
        Static = "Static",
        /// A network of an interface.
        Direct = "Direct",
        /// Another node.
        NodeMesh = "NodeMesh",
        /// A BGPPeer.
        BgpPeer = "BGPPeer",
    }
}

/// Asks a node for its status, which it writes and refreshes.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "projectcalico.org",
    version = "v3",
    kind = "CalicoNodeStatus",
    plural = "caliconodestatuses",
    singular = "caliconodestatus",
    status = "NodeStatusReport",
    derive = "PartialEq",
    derive = "Default",
    doc = "Asks a node for its status, which it writes and refreshes.",
    printcolumn = r#"{"name": "Node", "type": "string", "jsonPath": ".spec.node", "description": "The node that is asked"}"#,
    printcolumn = r#"{"name": "Updated", "type": "date", "jsonPath": ".status.lastUpdated", "description": "When it answered last"}"#,
    printcolumn = r#"{"name": "Accepted", "type": "string", "jsonPath": ".status.conditions[?(@.type=='Accepted')].status", "description": "Whether the object passed every rule"}"#
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.node) && size(self.node) > 0").message("name the node that is asked").reason(Reason::FieldValueRequired).field_path(".node"),
    validation = Rule::new("has(self.classes) && size(self.classes) > 0").message("say what is asked for: Agent, BGP, Routes").reason(Reason::FieldValueRequired).field_path(".classes")
)]
pub struct CalicoNodeStatusSpec {
    /// Name of the node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,

    /// What is asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "set"))]
    pub classes: Vec<StatusClass>,

    /// Seconds between refreshes; 0 stops them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 86_400), extend("format" = "int32"))]
    pub update_period_seconds: Option<u32>,
}

/// What the node answered.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeStatusReport {
    /// When the node answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_updated: Option<Time>,
    /// The speaker itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent: Option<AgentReport>,
    /// Its sessions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bgp: Option<SessionsReport>,
    /// Its routes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub routes: Option<RoutesReport>,
    /// What the daemon found out about this object, one entry per type.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

/// The speaker, once per family under the names other tools read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct AgentReport {
    /// The speaker of IPv4 routes.
    #[serde(rename = "birdV4", skip_serializing_if = "Option::is_none")]
    pub v4: Option<SpeakerReport>,
    /// The speaker of IPv6 routes.
    #[serde(rename = "birdV6", skip_serializing_if = "Option::is_none")]
    pub v6: Option<SpeakerReport>,
}

/// One speaker.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct SpeakerReport {
    /// Whether it runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<SpeakerState>,
    /// Its version.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub version: String,
    /// Its BGP identifier.
    #[serde(rename = "routerID", skip_serializing_if = "String::is_empty")]
    pub router_id: String,
    /// When it started.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub last_boot_time: String,
    /// When its configuration changed last.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub last_reconfiguration_time: String,
}

/// The sessions of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct SessionsReport {
    /// Established sessions over IPv4.
    #[serde(rename = "numberEstablishedV4")]
    pub established_v4: u32,
    /// Other sessions over IPv4.
    #[serde(rename = "numberNotEstablishedV4")]
    pub not_established_v4: u32,
    /// Established sessions over IPv6.
    #[serde(rename = "numberEstablishedV6")]
    pub established_v6: u32,
    /// Other sessions over IPv6.
    #[serde(rename = "numberNotEstablishedV6")]
    pub not_established_v6: u32,
    /// Sessions over IPv4.
    #[serde(rename = "peersV4", skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    pub peers_v4: Vec<SessionReport>,
    /// Sessions over IPv6.
    #[serde(rename = "peersV6", skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    pub peers_v6: Vec<SessionReport>,
}

/// One session.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct SessionReport {
    /// Address of the peer.
    #[serde(rename = "peerIP", skip_serializing_if = "String::is_empty")]
    pub peer_ip: String,
    /// Why the node has it.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub origin: Option<SessionOrigin>,
    /// Its state.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<SessionState>,
    /// Since when it is in it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub since: String,
}

/// The routes of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct RoutesReport {
    /// IPv4.
    #[serde(rename = "routesV4", skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    pub v4: Vec<RouteReport>,
    /// IPv6.
    #[serde(rename = "routesV6", skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    pub v6: Vec<RouteReport>,
}

/// One route.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct RouteReport {
    /// Whether it forwards.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub used: Option<RouteUse>,
    /// The prefix.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub destination: String,
    /// The next hop.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub gateway: String,
    /// The interface.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub interface: String,
    /// Where it comes from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub learned_from: Option<RouteTeacher>,
}

/// Where a route comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct RouteTeacher {
    /// What taught it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source_type: Option<RouteOrigin>,
    /// The peer, where it is one.
    #[serde(rename = "peerIP", skip_serializing_if = "String::is_empty")]
    pub peer_ip: String,
}
