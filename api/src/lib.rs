//! The language users write: the kinds of `projectcalico.org/v3`, their labels, selectors and rules.
//!
//! ```text
//!   YAML ── API server (schema + CEL from `crds`) ── JSON ──► kinds (this crate's structs)
//!                                                               │
//!                     selector::Selector::parse ◄── raw text ───┤
//!                     validate::validate_* ──► Finding ─────────┘
//! ```
//!
//! Field names, types and defaults are those of Calico's own v3 custom resources, so a Calico user's YAML applies
//! unchanged; what Calico's schema cannot say lives in one optional object `margay` beside its fields.
//!
//! The crate touches nothing: no files, no sockets, no clock. It does *not* decide what an object means for the
//! kernel (crates `policy-iptables`, `dataplane`, `ipam`), and it never turns an unreadable value into an absent one.
#![forbid(unsafe_code)]
#![expect(
    unreachable_pub,
    reason = "KubeSchema copies each pub struct into a function body"
)]

pub mod admission;
pub mod annotation;
pub mod bgp;
pub mod bgpfilter;
pub mod block;
pub mod cluster;
pub mod conditions;
pub mod controllers;
pub mod crds;
pub mod endpoint;
pub mod felix;
pub mod ipamconfig;
pub mod ippool;
pub mod networkset;
pub mod nodestatus;
pub mod policy;
pub mod scalar;
pub mod selector;
pub mod validate;

mod tolerant;

/// Kubernetes' own policy kinds, as `k8s-openapi` has them.
pub use k8s_openapi::api::networking::v1 as networking;

pub use admission::admission_yaml;
pub use bgp::{
    BGPConfiguration, BGPConfigurationSpec, BGPPassword, BGPPeer, BGPPeerSpec, BindMode, Community,
    LoadBalancerAggregation, NextHopMode, PeerBfd, PeerExtension, PrefixAdvertisement,
    ReversePeering, SecretKeyRef, ServiceCidr, SourceAddress,
};
pub use bgpfilter::{
    BGPFilter, BGPFilterSpec, FilterAction, FilterOperation, FilterRuleV4, FilterRuleV6,
    FilterSource, MatchOperator, PeerType,
};
pub use block::{
    AffinityState, AllocationAttribute, BlockAffinity, BlockAffinitySpec, IPAMBlock, IPAMBlockSpec,
    IPAMHandle, IPAMHandleSpec,
};
pub use cluster::{ClusterInformation, ClusterInformationSpec};
pub use conditions::{Condition, ConditionsStatus};
pub use controllers::{KubeControllersConfiguration, KubeControllersConfigurationSpec};
pub use crds::{crds, crds_yaml};
pub use endpoint::{EndpointPort, HostEndpoint, HostEndpointSpec};
pub use felix::{FelixConfiguration, FelixConfigurationSpec};
pub use ipamconfig::{IPAMConfiguration, IPAMConfigurationSpec, IPAMExtension};
pub use ippool::{
    AssignmentMode, EncapMode, IPPool, IPPoolSpec, IPReservation, IPReservationSpec, PoolUse,
};
pub use networkset::{GlobalNetworkSet, GlobalNetworkSetSpec, NetworkSet, NetworkSetSpec};
pub use nodestatus::{CalicoNodeStatus, CalicoNodeStatusSpec};
pub use policy::{
    Action, Entity, GlobalNetworkPolicy, GlobalNetworkPolicySpec, HttpMatch, HttpPath, IcmpMatch,
    NetworkPolicy, NetworkPolicySpec, PerformanceHint, PolicyType, Rule, RuleMetadata,
    ServiceAccountMatch, ServiceMatch, StagedAction, StagedGlobalNetworkPolicy,
    StagedGlobalNetworkPolicySpec, StagedKubernetesNetworkPolicy,
    StagedKubernetesNetworkPolicySpec, StagedNetworkPolicy, StagedNetworkPolicySpec, Tier,
    TierDefaultAction, TierSpec,
};
pub use scalar::{AsNumber, GoDuration, IpVersion, Port, Protocol, Switch};
pub use selector::{Labels, ParseError, Selector};
pub use tolerant::tolerant;
pub use validate::{Finding, Severity};

/// The API group of every kind here.
pub const GROUP: &str = "projectcalico.org";

/// The one version of every kind here.
pub const VERSION: &str = "v3";

/// Name of the tier a policy belongs to when it names none.
pub const DEFAULT_TIER: &str = "default";
