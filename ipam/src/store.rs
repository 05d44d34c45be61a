//! The calls an allocator makes to the datastore, and what comes back. No trait, no await: whoever owns the allocator
//! carries the calls out ([`crate::memory`] in tests, `routed::kube::store` in a cluster) and feeds the replies back.
//!
//! There is no list and no watch: the index is fed by events.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use ipnet::IpNet;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use thiserror::Error;

use crate::affinity::Affinity;
use crate::block::Block;
use crate::handle::Handle;
use crate::name;

/// Identity and version of a stored object, and the metadata a swap must carry along.
#[derive(Clone, Debug, Default)]
pub struct Meta {
    /// `metadata.uid`.
    pub uid: Arc<str>,
    /// `metadata.resourceVersion`; a swap or removal lands only while it is this one.
    pub version: Arc<str>,
    /// Labels, annotations, owner references and finalizers of others, kept as they are.
    pub carried: Option<Arc<ObjectMeta>>,
}

impl Meta {
    /// Identity and version alone.
    pub fn new(uid: &str, version: &str) -> Self {
        Self {
            uid: Arc::from(uid),
            version: Arc::from(version),
            carried: None,
        }
    }
}

impl PartialEq for Meta {
    fn eq(&self, other: &Self) -> bool {
        self.uid == other.uid && self.version == other.version
    }
}

impl Eq for Meta {}

impl Hash for Meta {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.uid.hash(state);
        self.version.hash(state);
    }
}

/// An object as the store has it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Stored<T> {
    /// Identity, version, metadata.
    pub meta: Meta,
    /// The decoded spec.
    pub value: T,
}

/// One of the three kinds the allocator writes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Object {
    /// A block.
    Block(Box<Block>),
    /// A node's claim on a block.
    Affinity(Affinity),
    /// The index of a handle's addresses.
    Handle(Handle),
}

impl Object {
    /// What the object is stored under.
    pub fn key(&self) -> Key {
        match self {
            Self::Block(block) => Key::Block(block.cidr()),
            Self::Affinity(affinity) => Key::Affinity(Arc::clone(&affinity.node), affinity.cidr),
            Self::Handle(handle) => Key::Handle(Arc::from(handle.id.as_str())),
        }
    }
}

/// What an object is stored under.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// The block of a CIDR.
    Block(IpNet),
    /// The claim of a node on a block.
    Affinity(Arc<str>, IpNet),
    /// The handle of an id.
    Handle(Arc<str>),
}

impl Key {
    /// `metadata.name` of the object.
    pub fn name(&self) -> String {
        match self {
            Self::Block(cidr) => name::block(*cidr),
            Self::Affinity(node, cidr) => name::affinity(node, *cidr),
            Self::Handle(id) => name::handle(id),
        }
    }
}

/// Pairs a call with its reply. Never repeats in the life of an allocator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CallId(pub u64);

/// One call to the datastore.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum StoreCall {
    /// Reads an object, past every cache.
    Get(Key),
    /// Creates an object; fails with [`StoreError::Exists`].
    Create(Object),
    /// Replaces an object if uid and version are still these; fails with [`StoreError::Conflict`].
    Swap(Object, Meta),
    /// Deletes an object if uid and version are still these; fails with [`StoreError::Conflict`].
    Remove(Key, Meta),
}

/// What a call that worked gives.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum StoreReply {
    /// The object as stored now (get, create, swap).
    Object(Stored<Object>),
    /// The object is gone (remove).
    Removed,
}

/// Why a call did not work.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Error)]
pub enum StoreError {
    /// Another write came first.
    #[error("another write came first")]
    Conflict,
    /// An object of this name exists.
    #[error("it exists already")]
    Exists,
    /// There is no object of this name.
    #[error("it does not exist")]
    NotFound,
    /// The server refuses the request whatever its version: rights, admission, schema.
    #[error("the API server refuses: {0}")]
    Denied(String),
    /// The stored object cannot be decoded.
    #[error("the stored object is broken: {0}")]
    Broken(String),
    /// No answer, or none that says: a write may have happened, or may yet happen.
    #[error("no answer from the API server: {0}")]
    Unknown(String),
}
