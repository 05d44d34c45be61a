//! All custom resource definitions, as the API server takes them and as `manifests/crds.yaml` holds them.
//!
//! The schemas come from the Rust types; what schemars and kube cannot say, or say in a way a structural schema does
//! not allow, is set right here: no `nullable`, no formats Kubernetes does not know, defaults only where the table says.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;
use serde_json::{Value, json};

use crate::bgp::{BGPConfiguration, BGPPeer};
use crate::bgpfilter::BGPFilter;
use crate::block::{BlockAffinity, IPAMBlock, IPAMHandle};
use crate::cluster::ClusterInformation;
use crate::controllers::KubeControllersConfiguration;
use crate::endpoint::HostEndpoint;
use crate::felix::FelixConfiguration;
use crate::ipamconfig::IPAMConfiguration;
use crate::ippool::{IPPool, IPReservation};
use crate::networkset::{GlobalNetworkSet, NetworkSet};
use crate::nodestatus::CalicoNodeStatus;
use crate::policy::{
    GlobalNetworkPolicy, NetworkPolicy, StagedGlobalNetworkPolicy, StagedKubernetesNetworkPolicy,
    StagedNetworkPolicy, Tier,
};

mod schema;

/// A value the API server fills in. Readers fill it in too: an object may be older than the default.
struct Default {
    kind: &'static str,
    /// Path below the schema root, in property names.
    path: &'static [&'static str],
    value: fn() -> Value,
}

const DEFAULTS: &[Default] = &[
    Default {
        kind: "BGPConfiguration",
        path: &["spec", "logSeverityScreen"],
        value: || json!("Info"),
    },
    Default {
        kind: "BGPConfiguration",
        path: &["spec", "nodeMeshPassword", "secretKeyRef", "name"],
        value: || json!(""),
    },
    Default {
        kind: "BGPConfiguration",
        path: &["spec", "serviceLoadBalancerAggregation"],
        value: || json!("Enabled"),
    },
    Default {
        kind: "BGPPeer",
        path: &["spec", "password", "secretKeyRef", "name"],
        value: || json!(""),
    },
    Default {
        kind: "BlockAffinity",
        path: &["spec", "deleted"],
        value: || json!(false),
    },
    Default {
        kind: "FelixConfiguration",
        path: &["spec", "nftablesFlowTableOffload"],
        value: || json!("Disabled"),
    },
    Default {
        kind: "FelixConfiguration",
        path: &["spec", "nftablesMode"],
        value: || json!("Auto"),
    },
    Default {
        kind: "GlobalNetworkPolicy",
        path: &["spec", "tier"],
        value: || json!("default"),
    },
    Default {
        kind: "IPAMBlock",
        path: &["spec", "sequenceNumber"],
        value: || json!(0),
    },
    Default {
        kind: "IPAMConfiguration",
        path: &["spec", "autoAllocateBlocks"],
        value: || json!(true),
    },
    Default {
        kind: "IPAMConfiguration",
        path: &["spec", "maxBlocksPerHost"],
        value: || json!(0),
    },
    Default {
        kind: "IPAMConfiguration",
        path: &["spec", "strictAffinity"],
        value: || json!(false),
    },
    Default {
        kind: "IPPool",
        path: &["spec", "assignmentMode"],
        value: || json!("Automatic"),
    },
    Default {
        kind: "IPPool",
        path: &["spec", "nodeSelector"],
        value: || json!("all()"),
    },
    Default {
        kind: "KubeControllersConfiguration",
        path: &["spec", "controllers", "loadBalancer", "assignIPs"],
        value: || json!("AllServices"),
    },
    Default {
        kind: "KubeControllersConfiguration",
        path: &["spec", "controllers", "policyMigration", "enabled"],
        value: || json!("Enabled"),
    },
    Default {
        kind: "KubeControllersConfiguration",
        path: &["spec", "healthChecks"],
        value: || json!("Enabled"),
    },
    Default {
        kind: "NetworkPolicy",
        path: &["spec", "tier"],
        value: || json!("default"),
    },
    Default {
        kind: "StagedGlobalNetworkPolicy",
        path: &["spec", "stagedAction"],
        value: || json!("Set"),
    },
    Default {
        kind: "StagedGlobalNetworkPolicy",
        path: &["spec", "tier"],
        value: || json!("default"),
    },
    Default {
        kind: "StagedKubernetesNetworkPolicy",
        path: &["spec", "stagedAction"],
        value: || json!("Set"),
    },
    Default {
        kind: "StagedNetworkPolicy",
        path: &["spec", "stagedAction"],
        value: || json!("Set"),
    },
    Default {
        kind: "StagedNetworkPolicy",
        path: &["spec", "tier"],
        value: || json!("default"),
    },
    Default {
        kind: "Tier",
        path: &["spec", "defaultAction"],
        value: || json!("Deny"),
    },
];

/// All definitions, sorted by name.
///
/// # Panics
/// Never on released code: a schema that cannot be written fails the test that compares the manifest.
pub fn crds() -> Vec<CustomResourceDefinition> {
    values()
        .into_iter()
        .map(|crd| {
            serde_json::from_value(crd).expect("a definition that came from the type fits the type")
        })
        .collect()
}

/// All definitions as YAML documents, the text of `manifests/crds.yaml`.
///
/// # Panics
/// Never on released code: see [`crds`].
pub fn crds_yaml() -> String {
    let mut text = String::from(
        "# Generated: `cargo run -p api --example crds > manifests/crds.yaml`. Do not edit.\n",
    );
    for crd in values() {
        text.push_str("---\n");
        text.push_str(&serde_yaml::to_string(&crd).expect("JSON can be written as YAML"));
    }
    text
}

/// Kind and schema of every definition.
pub(crate) fn schemas() -> impl Iterator<Item = (String, Value)> {
    values().into_iter().filter_map(|mut crd| {
        let kind = crd.pointer("/spec/names/kind")?.as_str()?.to_owned();
        let schema = crd.pointer_mut("/spec/versions/0/schema/openAPIV3Schema")?;
        Some((kind, schema.take()))
    })
}

fn values() -> Vec<Value> {
    let mut all: Vec<CustomResourceDefinition> = vec![
        BGPConfiguration::crd(),
        BGPFilter::crd(),
        BGPPeer::crd(),
        BlockAffinity::crd(),
        CalicoNodeStatus::crd(),
        ClusterInformation::crd(),
        FelixConfiguration::crd(),
        GlobalNetworkPolicy::crd(),
        GlobalNetworkSet::crd(),
        HostEndpoint::crd(),
        IPAMBlock::crd(),
        IPAMConfiguration::crd(),
        IPAMHandle::crd(),
        IPPool::crd(),
        IPReservation::crd(),
        KubeControllersConfiguration::crd(),
        NetworkPolicy::crd(),
        NetworkSet::crd(),
        StagedGlobalNetworkPolicy::crd(),
        StagedKubernetesNetworkPolicy::crd(),
        StagedNetworkPolicy::crd(),
        Tier::crd(),
    ];
    all.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
    all.into_iter().map(finish).collect()
}

fn finish(crd: CustomResourceDefinition) -> Value {
    let kind = crd.spec.names.kind.clone();
    let mut crd = serde_json::to_value(crd).expect("the type can be written as JSON");
    if let Some(root) = crd.pointer_mut("/spec/versions/0/schema/openAPIV3Schema") {
        schema::finish(root);
        for default in DEFAULTS.iter().filter(|default| default.kind == kind) {
            schema::set_default(root, default.path, (default.value)());
        }
    }
    schema::whole_numbers(&mut crd);
    crd
}

#[cfg(test)]
mod tests;
