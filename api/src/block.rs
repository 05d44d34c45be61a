//! Address bookkeeping, written by daemons only: `IPAMBlock`, `BlockAffinity`, `IPAMHandle`.
//!
//! Other writers (Calico beside us) may know fields we do not: every spec keeps what it does not know in `other`, so
//! that read-change-write loses nothing. Strange content is judged in the `ipam` crate, so it does not fail here.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use crate::scalar::text_enum;

/// Reads `null` as the default: Go writes an empty list that way.
fn null_is_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Option::<T>::deserialize(deserializer).map(Option::unwrap_or_default)
}

/// One block of addresses: who owns it, which of its addresses are taken, and by whom.
///
/// Invariants are kept by the `ipam` crate: `allocations` has one entry per address; an ordinal stands in
/// `unallocated` exactly when its allocation is null.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "projectcalico.org",
    version = "v3",
    kind = "IPAMBlock",
    plural = "ipamblocks",
    singular = "ipamblock",
    derive = "PartialEq",
    derive = "Default",
    doc = "One block of addresses: its owner, and who holds which address. Written by the daemon only.",
    printcolumn = r#"{"name": "CIDR", "type": "string", "jsonPath": ".spec.cidr", "description": "The block"}"#,
    printcolumn = r#"{"name": "Affinity", "type": "string", "jsonPath": ".spec.affinity", "description": "Who owns the block"}"#,
    printcolumn = r#"{"name": "ClaimTime", "type": "date", "jsonPath": ".spec.affinityClaimTime", "description": "When it was claimed"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct IPAMBlockSpec {
    /// The block.
    #[schemars(extend("format" = "cidr"))]
    pub cidr: String,

    /// Owner: `host:<node>` or `virtual:load-balancer`; absent means an orphan with live addresses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^(host|virtual):[a-zA-Z0-9\.\-_]+$"))]
    pub affinity: Option<String>,

    /// When the block was claimed; protects a fresh empty block for 60 s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub affinity_claim_time: Option<Time>,

    /// One entry per address, in order: null (free) or an index into `attributes`.
    #[serde(default, deserialize_with = "null_is_default")]
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    pub allocations: Vec<Option<i64>>,

    /// Ordinals of the free addresses, first in first out: taken at the head, given back at the tail.
    #[serde(default, deserialize_with = "null_is_default")]
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    pub unallocated: Vec<i64>,

    /// Who holds addresses; equal entries are shared.
    #[serde(default, deserialize_with = "null_is_default")]
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    pub attributes: Vec<AllocationAttribute>,

    /// Starts at the clock in nanoseconds and grows by one with every write.
    #[serde(default, deserialize_with = "null_is_default")]
    #[schemars(extend("format" = "int64"))]
    pub sequence_number: u64,

    /// Ordinal (as text) → the block's number before the write that took or released the address.
    #[serde(
        default,
        deserialize_with = "null_is_default",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub sequence_number_for_allocation: BTreeMap<String, u64>,

    /// Soft delete: readers treat the object as absent.
    #[serde(
        default,
        deserialize_with = "null_is_default",
        skip_serializing_if = "std::ops::Not::not"
    )]
    pub deleted: bool,

    /// Dead field that the schema requires: written as false.
    #[serde(default, deserialize_with = "null_is_default")]
    pub strict_affinity: bool,

    /// Fields of other writers, kept as they are.
    #[serde(flatten)]
    pub other: BTreeMap<String, Value>,
}

/// Who holds the addresses that point at this entry.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AllocationAttribute {
    /// Name of the handle that frees these addresses.
    #[serde(default, rename = "handle_id", skip_serializing_if = "Option::is_none")]
    pub handle_id: Option<String>,

    /// The owner: `pod`, `namespace`, `node`, `timestamp`, `type` and so on → value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secondary: Option<BTreeMap<String, String>>,

    /// The other owner while a virtual machine moves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alternate_owner_attrs: Option<BTreeMap<String, String>>,

    /// When the address was given back (RFC 3339); an entry with nothing else is a cooling address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "date-time"))]
    pub released_at: Option<String>,

    /// Fields of other writers, kept as they are.
    #[serde(flatten)]
    pub other: BTreeMap<String, Value>,
}

text_enum! {
    /// How far a claim on a block has come.
    #[derive(Default)]
    pub enum AffinityState: Exact {
        /// The node owns the block.
        #[default]
        Confirmed = "confirmed",
        /// The claim is being made; it gives no right to anything.
        Pending = "pending",
        /// The claim is being given up.
        PendingDeletion = "pendingDeletion",
    }
}

/// A node's claim on a block.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "projectcalico.org",
    version = "v3",
    kind = "BlockAffinity",
    plural = "blockaffinities",
    singular = "blockaffinity",
    shortname = "affinity",
    shortname = "affinities",
    derive = "PartialEq",
    derive = "Default",
    doc = "A node's claim on a block of addresses. Written by the daemon only.",
    printcolumn = r#"{"name": "CIDR", "type": "string", "jsonPath": ".spec.cidr", "description": "The block"}"#,
    printcolumn = r#"{"name": "Node", "type": "string", "jsonPath": ".spec.node", "description": "Who claims it"}"#,
    printcolumn = r#"{"name": "Type", "type": "string", "jsonPath": ".spec.type", "description": "host or virtual"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct BlockAffinitySpec {
    /// How far the claim has come; empty text (old rows) means confirmed.
    #[serde(default, deserialize_with = "null_is_default")]
    #[schemars(schema_with = "affinity_state_schema")]
    pub state: String,

    /// Who claims.
    pub node: String,

    /// `host` or `virtual`; absent (old rows) means host.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub type_: Option<String>,

    /// The block.
    #[schemars(extend("format" = "cidr"))]
    pub cidr: String,

    /// Soft delete: readers treat the object as absent.
    #[serde(default, deserialize_with = "null_is_default")]
    pub deleted: bool,

    /// Fields of other writers, kept as they are.
    #[serde(flatten)]
    pub other: BTreeMap<String, Value>,
}

impl BlockAffinitySpec {
    /// How far the claim has come; `None` for a word nobody knows, which gives no right to anything.
    pub fn claim(&self) -> Option<AffinityState> {
        match self.state.as_str() {
            "" => Some(AffinityState::Confirmed),
            text => text.parse().ok(),
        }
    }
}

fn affinity_state_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({ "type": "string", "enum": ["", "confirmed", "pending", "pendingDeletion"] })
}

/// All addresses of one owner, so that they can be freed together.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "projectcalico.org",
    version = "v3",
    kind = "IPAMHandle",
    plural = "ipamhandles",
    singular = "ipamhandle",
    derive = "PartialEq",
    derive = "Default",
    doc = "All addresses of one owner, so that they can be freed together. Written by the daemon only.",
    printcolumn = r#"{"name": "ID", "type": "string", "jsonPath": ".spec.handleID", "description": "The owner's handle"}"#
)]
pub struct IPAMHandleSpec {
    /// The handle as its owner writes it; the object's name is the same in lower case.
    #[serde(rename = "handleID")]
    pub handle_id: String,

    /// Block CIDR → number of addresses. Counts of other writers may be too high: never trust them.
    #[serde(default, deserialize_with = "null_is_default")]
    pub block: BTreeMap<String, i64>,

    /// Soft delete: readers treat the object as absent.
    #[serde(
        default,
        deserialize_with = "null_is_default",
        skip_serializing_if = "std::ops::Not::not"
    )]
    pub deleted: bool,

    /// Fields of other writers, kept as they are.
    #[serde(flatten)]
    pub other: BTreeMap<String, Value>,
}

#[cfg(test)]
mod tests;
