//! The stored objects whole: metadata, labels and spec of the three kinds the allocator writes.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::{BlockAffinity, BlockAffinitySpec, IPAMBlock, IPAMHandle, IPAMHandleSpec};
use ipnet::IpNet;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::affinity::{Affinity, State};
use crate::block::{self, Block, BlockError};
use crate::handle::Handle;
use crate::name;
use crate::store::{Meta, Stored};

/// Reads a stored block.
///
/// # Errors
/// [`BlockError`] when it breaks the invariant of a block.
pub fn parse_block(stored: &IPAMBlock) -> Result<Stored<Block>, BlockError> {
    Ok(Stored {
        meta: parse_meta(&stored.metadata),
        value: block::parse(&stored.spec)?,
    })
}

/// Writes a block; `meta` is that of the object it replaces.
pub fn render_block(block: &Block, meta: Option<&Meta>) -> IPAMBlock {
    let metadata = render_meta(name::block(block.cidr()), meta, BTreeMap::new());
    IPAMBlock {
        metadata,
        spec: block::render(block),
    }
}

/// Reads a stored affinity. A state nobody knows counts as pending, which owns nothing.
///
/// # Errors
/// The text that should be a CIDR and is none.
pub fn parse_affinity(stored: &BlockAffinity) -> Result<Stored<Affinity>, BlockError> {
    let spec = &stored.spec;
    let value = Affinity {
        node: Arc::from(spec.node.as_str()),
        cidr: spec
            .cidr
            .parse()
            .map_err(|_not_a_cidr| BlockError::Text(spec.cidr.clone()))?,
        state: spec.claim().unwrap_or(State::Pending),
        kind: spec.type_.clone(),
        deleted: spec.deleted,
        extra: spec.other.clone(),
    };
    Ok(Stored {
        meta: parse_meta(&stored.metadata),
        value,
    })
}

/// Writes an affinity with the labels it must carry; `meta` is that of the object it replaces.
pub fn render_affinity(affinity: &Affinity, meta: Option<&Meta>) -> BlockAffinity {
    BlockAffinity {
        metadata: render_meta(affinity.name(), meta, affinity_labels(affinity)),
        spec: BlockAffinitySpec {
            state: affinity.state.to_string(),
            node: affinity.node.to_string(),
            type_: affinity.kind.clone(),
            cidr: affinity.cidr.to_string(),
            deleted: affinity.deleted,
            other: affinity.extra.clone(),
        },
    }
}

/// Whether a stored affinity carries the labels it must carry; rows of older writers do not.
pub fn has_labels(stored: &Stored<Affinity>) -> bool {
    // Objects without metadata come from tests and from this node's own creates.
    let Some(labels) = stored
        .meta
        .carried
        .as_ref()
        .map(|meta| meta.labels.as_ref())
    else {
        return true;
    };
    affinity_labels(&stored.value)
        .iter()
        .all(|(key, value)| labels.and_then(|labels| labels.get(key)) == Some(value))
}

/// Reads a stored handle. Counts below zero and keys that are no CIDR are dropped: they are never trusted anyway.
pub fn parse_handle(stored: &IPAMHandle) -> Stored<Handle> {
    let count =
        |(block, count): (&String, &i64)| Some((block.parse().ok()?, u32::try_from(*count).ok()?));
    let value = Handle {
        id: stored.spec.handle_id.clone(),
        blocks: stored.spec.block.iter().filter_map(count).collect(),
        deleted: stored.spec.deleted,
        extra: stored.spec.other.clone(),
    };
    Stored {
        meta: parse_meta(&stored.metadata),
        value,
    }
}

/// Writes a handle, labelled with the node that writes it, or by the leader (no node) with the labels it has; `meta` is that of the
/// object it replaces.
pub fn render_handle(handle: &Handle, node: &str, meta: Option<&Meta>) -> IPAMHandle {
    let mut labels = BTreeMap::new();
    if !node.is_empty() {
        labels.insert(name::LABEL_NODE_HASH.to_owned(), name::node_hash(node));
    }
    IPAMHandle {
        metadata: render_meta(handle.name(), meta, labels),
        spec: IPAMHandleSpec {
            handle_id: handle.id.clone(),
            block: handle
                .blocks
                .iter()
                .map(|(block, count)| (block.to_string(), i64::from(*count)))
                .collect(),
            deleted: handle.deleted,
            other: handle.extra.clone(),
        },
    }
}

fn affinity_labels(affinity: &Affinity) -> BTreeMap<String, String> {
    let version = match affinity.cidr {
        IpNet::V4(_) => "4",
        IpNet::V6(_) => "6",
    };
    let kind = affinity
        .kind
        .as_deref()
        .filter(|kind| !kind.is_empty())
        .unwrap_or("host");
    BTreeMap::from([
        (
            name::LABEL_HOSTNAME_HASH.to_owned(),
            name::node_hash(&affinity.node),
        ),
        (name::LABEL_AFFINITY_TYPE.to_owned(), kind.to_owned()),
        (name::LABEL_IP_VERSION.to_owned(), version.to_owned()),
    ])
}

fn parse_meta(metadata: &ObjectMeta) -> Meta {
    let carried = ObjectMeta {
        managed_fields: None,
        ..metadata.clone()
    };
    Meta {
        uid: Arc::from(metadata.uid.as_deref().unwrap_or_default()),
        version: Arc::from(metadata.resource_version.as_deref().unwrap_or_default()),
        carried: Some(Arc::new(carried)),
    }
}

fn render_meta(name: String, meta: Option<&Meta>, labels: BTreeMap<String, String>) -> ObjectMeta {
    let Some(meta) = meta else {
        return ObjectMeta {
            name: Some(name),
            labels: (!labels.is_empty()).then_some(labels),
            ..ObjectMeta::default()
        };
    };
    let mut metadata = meta.carried.as_deref().cloned().unwrap_or_default();
    metadata.name = metadata.name.or(Some(name));
    metadata.uid = Some(meta.uid.to_string());
    metadata.resource_version = Some(meta.version.to_string());
    if !labels.is_empty() {
        metadata.labels.get_or_insert_default().extend(labels);
    }
    metadata
}
