//! `IPAMConfiguration` (name `default`): how nodes share the pools.

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::conditions::ConditionsStatus;
use crate::scalar::{Switch, empty_is_none};

/// Claims a node may hold per family when nothing else is configured.
pub const DEFAULT_MAX_BLOCKS_PER_HOST: u32 = 20;

/// Seconds a released address rests before it may be given out again, when nothing else is configured.
pub const DEFAULT_COOLDOWN_SECONDS: u32 = 30;

/// How nodes share the pools.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "projectcalico.org",
    version = "v3",
    kind = "IPAMConfiguration",
    plural = "ipamconfigurations",
    singular = "ipamconfiguration",
    shortname = "ipamconfig",
    shortname = "ipamconfigs",
    status = "ConditionsStatus",
    derive = "PartialEq",
    derive = "Default",
    doc = "How nodes share the pools. Only the object named default counts.",
    printcolumn = r#"{"name": "StrictAffinity", "type": "boolean", "jsonPath": ".spec.strictAffinity", "description": "Whether borrowing addresses is forbidden"}"#,
    printcolumn = r#"{"name": "MaxBlocksPerHost", "type": "integer", "jsonPath": ".spec.maxBlocksPerHost", "description": "Claims a node may hold"}"#,
    printcolumn = r#"{"name": "AutoAllocateBlocks", "type": "boolean", "jsonPath": ".spec.autoAllocateBlocks", "description": "Whether nodes claim blocks when they need them"}"#,
    printcolumn = r#"{"name": "Accepted", "type": "string", "jsonPath": ".status.conditions[?(@.type=='Accepted')].status", "description": "Whether the object passed every rule"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct IPAMConfigurationSpec {
    /// Whether a node uses only addresses of blocks it owns.
    #[serde(default)]
    pub strict_affinity: bool,

    /// Claims a node may hold per family; 0 means 20.
    #[serde(default, skip_serializing_if = "is_zero")]
    #[schemars(range(min = 0, max = 1_000_000), extend("format" = "int32"))]
    pub max_blocks_per_host: u32,

    /// Whether nodes claim blocks when they need them; false needs strictAffinity.
    #[serde(default = "yes")]
    pub auto_allocate_blocks: bool,

    /// Whether virtual machines keep their address when their pod is made anew; absent means Enabled.
    #[serde(
        default,
        rename = "kubeVirtVMAddressPersistence",
        skip_serializing_if = "Option::is_none",
        deserialize_with = "empty_is_none"
    )]
    pub kube_virt_vm_address_persistence: Option<Switch>,

    /// Seconds a released address rests before it may be given out again; absent means 30, 0 means no rest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1200), extend("format" = "int32"))]
    pub ip_cooldown_seconds: Option<u32>,

    /// Settings Calico's schema has no field for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub margay: Option<IPAMExtension>,
}

impl Default for IPAMConfigurationSpec {
    /// The configuration that holds when no object exists.
    fn default() -> Self {
        Self {
            strict_affinity: false,
            max_blocks_per_host: 0,
            auto_allocate_blocks: true,
            kube_virt_vm_address_persistence: None,
            ip_cooldown_seconds: None,
            margay: None,
        }
    }
}

impl IPAMConfigurationSpec {
    /// Claims a node may hold per family, the default filled in.
    pub fn max_blocks(&self) -> u32 {
        match self.max_blocks_per_host {
            0 => DEFAULT_MAX_BLOCKS_PER_HOST,
            given => given,
        }
    }

    /// Seconds a released address rests, the default filled in.
    pub fn cooldown_seconds(&self) -> u32 {
        self.ip_cooldown_seconds.unwrap_or(DEFAULT_COOLDOWN_SECONDS)
    }

    /// Whether nodes claim blocks by themselves: `autoAllocateBlocks: false` counts only with `strictAffinity`.
    pub fn allocates_blocks(&self) -> bool {
        self.auto_allocate_blocks || !self.strict_affinity
    }
}

/// Address settings Calico's schema has no field for.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct IPAMExtension {
    /// Addresses a node keeps ready before a pod asks; absent means 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 256), extend("format" = "int32"))]
    pub warm_addresses: Option<u32>,

    /// Whether pods of a StatefulSet get their last address again; absent means false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sticky_stateful_sets: Option<bool>,
}

fn yes() -> bool {
    true
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde calls it with a reference"
)]
fn is_zero(n: &u32) -> bool {
    *n == 0
}
