//! The only way into the World.
//!
//! Events are plain data and serialise, so a recording from the field replays as a test.

use serde::{Deserialize, Serialize};

use crate::endpoint::{LocalEndpoint, Namespace, Pod, ServiceAccount};
use crate::ids::{AttachmentId, NamespacedName, NodeName, ObjectName, PodRef};
use crate::networkset::{GlobalNetworkSet, NetworkSet};
use crate::node::Node;
use crate::service::EndpointSlice;

/// A change of what this node knows of the cluster.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Event {
    /// An object appeared or changed; the whole new object.
    Upsert(Box<Object>),
    /// An object is gone.
    Delete(Key),
    /// Every object of this kind that existed when the watch began has been delivered.
    Synced(Kind),
}

impl Event {
    /// An upsert of `object`.
    pub fn upsert(object: impl Into<Object>) -> Self {
        Self::Upsert(Box::new(object.into()))
    }
}

macro_rules! objects {
    ($($(#[$doc:meta])* $variant:ident($object:ty, $key:ty);)*) => {
        /// An object as the World takes it.
        #[derive(Clone, Debug, Serialize, Deserialize)]
        #[expect(clippy::large_enum_variant, reason = "events travel boxed, and the payloads are moved into maps at once")]
        pub enum Object {
            $($(#[$doc])* $variant($object),)*
        }

        /// What an object is found by.
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum Key {
            $($(#[$doc])* $variant($key),)*
        }

        /// The kinds a node watches.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum Kind {
            $($(#[$doc])* $variant,)*
        }

        impl Kind {
            /// Every kind; the World is in sync once each has been listed.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// Name of the kind for messages and metrics.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => stringify!($variant),)*
                }
            }
        }

        impl Key {
            /// The kind this key belongs to.
            pub const fn kind(&self) -> Kind {
                match self {
                    $(Self::$variant(_) => Kind::$variant,)*
                }
            }
        }

        impl Object {
            /// The kind of this object.
            pub const fn kind(&self) -> Kind {
                match self {
                    $(Self::$variant(_) => Kind::$variant,)*
                }
            }
        }

        $(impl From<$object> for Object {
            fn from(object: $object) -> Self {
                Self::$variant(object)
            }
        })*
    };
}

objects! {
    /// A node of the cluster.
    Node(Node, NodeName);
    /// A namespace.
    Namespace(Namespace, ObjectName);
    /// A service account.
    ServiceAccount(ServiceAccount, NamespacedName);
    /// A pod anywhere in the cluster.
    Pod(Pod, PodRef);
    /// A NetworkPolicy of `networking.k8s.io`.
    KubeNetworkPolicy(api::networking::NetworkPolicy, NamespacedName);
    /// An address pool.
    IpPool(api::IPPool, ObjectName);
    /// A block of a pool.
    Block(api::IPAMBlock, ObjectName);
    /// A node's claim on a block.
    Affinity(api::BlockAffinity, ObjectName);
    /// Limits of address assignment.
    IpamConfiguration(api::IPAMConfiguration, ObjectName);
    /// Settings of the speaker.
    BgpConfiguration(api::BGPConfiguration, ObjectName);
    /// A neighbour of some nodes.
    BgpPeer(api::BGPPeer, ObjectName);
    /// Settings of the node agent.
    FelixConfiguration(api::FelixConfiguration, ObjectName);
    /// A tier of policies.
    Tier(api::Tier, ObjectName);
    /// A namespaced policy of `projectcalico.org/v3`.
    NetworkPolicy(api::NetworkPolicy, NamespacedName);
    /// A cluster-wide policy of `projectcalico.org/v3`.
    GlobalNetworkPolicy(api::GlobalNetworkPolicy, ObjectName);
    /// A set of addresses of a namespace.
    NetworkSet(NetworkSet, NamespacedName);
    /// A cluster-wide set of addresses.
    GlobalNetworkSet(GlobalNetworkSet, ObjectName);
    /// Some of the endpoints of a Service.
    EndpointSlice(EndpointSlice, NamespacedName);
    /// An interface of a sandbox on this node; told by the CNI server, not by the API.
    Endpoint(LocalEndpoint, AttachmentId);
}
