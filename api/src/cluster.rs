//! What the cluster is: `ClusterInformation` (name `default`).

use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

/// What the cluster is. Written by the controller, read by other tools.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "projectcalico.org",
    version = "v3",
    kind = "ClusterInformation",
    plural = "clusterinformations",
    singular = "clusterinformation",
    shortname = "clusterinfo",
    shortname = "clusterinfos",
    derive = "PartialEq",
    derive = "Default",
    doc = "What the cluster is. Only the object named default counts."
)]
#[serde(rename_all = "camelCase")]
pub struct ClusterInformationSpec {
    /// A random id of the cluster.
    #[serde(
        default,
        rename = "clusterGUID",
        skip_serializing_if = "Option::is_none"
    )]
    pub cluster_guid: Option<String>,

    /// Kinds of orchestrators, separated by commas.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster_type: Option<String>,

    /// Version of the network software that wrote the objects last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calico_version: Option<String>,

    /// Whether objects may be written; false while a migration is under way. Absent means true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub datastore_ready: Option<bool>,

    /// Variant of the network software.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

impl ClusterInformationSpec {
    /// Whether objects may be written.
    pub fn ready(&self) -> bool {
        self.datastore_ready.unwrap_or(true)
    }
}
