//! Settings of the controller, under Calico's names: `KubeControllersConfiguration` (name `default`).

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::scalar::{GoDuration, Switch, empty_is_none, text_enum};

text_enum! {
    /// How much the controller logs.
    pub enum ControllerLog: Exact {
        /// Nothing.
        None = "None",
        /// Every decision.
        Debug = "Debug",
        /// Changes an operator cares about.
        Info = "Info",
        /// What it recovered from.
        Warning = "Warning",
        /// What someone must act on.
        Error = "Error",
        /// What ends the process.
        Fatal = "Fatal",
        /// What ends the process by a fault of its own.
        Panic = "Panic",
    }
}

text_enum! {
    /// Which Services of type LoadBalancer get an address.
    pub enum AssignIps: Exact {
        /// Every one.
        AllServices = "AllServices",
        /// Those that ask by annotation.
        RequestedServicesOnly = "RequestedServicesOnly",
    }
}

/// Settings of the controller.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "projectcalico.org",
    version = "v3",
    kind = "KubeControllersConfiguration",
    plural = "kubecontrollersconfigurations",
    singular = "kubecontrollersconfiguration",
    shortname = "kcc",
    shortname = "kccs",
    status = "ControllersReport",
    derive = "PartialEq",
    derive = "Default",
    doc = "Settings of the controller. Only the object named default counts.",
    printcolumn = r#"{"name": "Accepted", "type": "string", "jsonPath": ".status.conditions[?(@.type=='Accepted')].status", "description": "Whether the object passed every rule"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct KubeControllersConfigurationSpec {
    /// How much is logged; absent means Info.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "empty_is_none"
    )]
    pub log_severity_screen: Option<ControllerLog>,

    /// Accepted and reported: health is always served.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "empty_is_none"
    )]
    pub health_checks: Option<Switch>,

    /// Accepted and reported: there is no etcd of our own.
    #[serde(
        default,
        rename = "etcdV3CompactionPeriod",
        skip_serializing_if = "Option::is_none",
        deserialize_with = "empty_is_none"
    )]
    pub etcd_compaction_period: Option<GoDuration>,

    /// TCP port of metrics; absent means 9094, 0 means none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 65535))]
    pub prometheus_metrics_port: Option<u16>,

    /// What the controller does.
    pub controllers: ControllersSpec,

    /// Accepted and reported: there are no such profiles.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 65535), extend("format" = "int32"))]
    pub debug_profile_port: Option<u16>,
}

/// What the controller does, by part.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ControllersSpec {
    /// Nodes: addresses of the gone, endpoints of hosts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeController>,

    /// Accepted and reported: policies are read from the API itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<PeriodicController>,

    /// Accepted and reported: pods are read from the API itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload_endpoint: Option<PeriodicController>,

    /// Accepted and reported: service accounts are read from the API itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_account: Option<PeriodicController>,

    /// Accepted and reported: namespaces are read from the API itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<PeriodicController>,

    /// Addresses of Services of type LoadBalancer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load_balancer: Option<LoadBalancerController>,

    /// Accepted and reported: names of policies are not changed.
    #[serde(
        default,
        rename = "policyMigration",
        skip_serializing_if = "Option::is_none"
    )]
    pub migration: Option<MigrationController>,
}

/// What the controller does about nodes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeController {
    /// Accepted and reported: work is done when something changes.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "empty_is_none"
    )]
    pub reconciler_period: Option<GoDuration>,

    /// Accepted and reported: labels are read from the Node itself.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "empty_is_none"
    )]
    pub sync_labels: Option<Switch>,

    /// Endpoints that are made for hosts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_endpoint: Option<AutoHostEndpoint>,

    /// How long an address may have no owner before it is freed; absent means 15m, 0 means for ever.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "empty_is_none"
    )]
    pub leak_grace_period: Option<GoDuration>,
}

/// Endpoints that are made for hosts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AutoHostEndpoint {
    /// Whether they are made; absent means Disabled.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "empty_is_none"
    )]
    pub auto_create: Option<Switch>,

    /// Whether each node gets one for all its interfaces; absent means Enabled.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "empty_is_none"
    )]
    #[schemars(schema_with = "any_word")]
    pub create_default_host_endpoint: Option<Switch>,

    /// Further endpoints.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    pub templates: Vec<HostEndpointTemplate>,
}

/// Calico's schema takes any text here and its reader the two words: any other would only break the reader.
fn any_word(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({ "type": "string", "pattern": "^(Enabled|Disabled)?$" })
}

/// How endpoints of hosts are made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HostEndpointTemplate {
    /// Part of the names: `<node>-<this>-auto-hep`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub generate_name: Option<String>,

    /// Addresses of the node inside these ranges are expected.
    #[serde(
        default,
        rename = "interfaceCIDRs",
        skip_serializing_if = "Vec::is_empty"
    )]
    #[schemars(extend("x-kubernetes-list-type" = "set"))]
    pub interface_cidrs: Vec<String>,

    /// Regular expression; each interface whose name it matches gets an endpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface_pattern: Option<String>,

    /// Labels of the endpoints; they beat those of the node.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,

    /// Annotations of the endpoints.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,

    /// Selects the nodes; absent means all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_selector: Option<String>,
}

/// A controller of Calico that has no counterpart.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PeriodicController {
    /// Time between two rounds.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "empty_is_none"
    )]
    pub reconciler_period: Option<GoDuration>,
}

/// What the controller does about Services of type LoadBalancer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LoadBalancerController {
    /// Which of them get an address; absent means `AllServices`.
    #[serde(
        default,
        rename = "assignIPs",
        skip_serializing_if = "Option::is_none",
        deserialize_with = "empty_is_none"
    )]
    pub assign_ips: Option<AssignIps>,
}

/// A migration of Calico that has no counterpart.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MigrationController {
    /// Whether it runs.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "empty_is_none"
    )]
    pub enabled: Option<Switch>,
}

/// What the controller runs with.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ControllersReport {
    /// The settings in force, those of the environment included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub running_config: Option<KubeControllersConfigurationSpec>,

    /// Variables of the environment that changed them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub environment_vars: BTreeMap<String, String>,

    /// What the daemon found out about this object, one entry per type.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}
