//! Policy objects of every kind as one form.
//!
//! A user's object is text; what comes out here is typed, and a thing that could not be read can no longer be mistaken for a thing
//! that was not written: "anything" is [`Scope::Any`], "nothing" is [`Scope::Only`] of an empty set, and "unreadable" never
//! becomes a [`Rule`]. Each problem is a [`Finding`] for the object's status, and closes what it touches:
//!
//! | what cannot be used | effect |
//! |---|---|
//! | the policy's own selector | the policy counts as absent |
//! | a match of an Allow or Log rule | the rule never matches; of a list of alternatives only the bad entry is left out |
//! | a match of a Deny or Pass rule | the rule becomes Deny for everything in its direction |

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use api::selector::Selector;
use ipnet::IpNet;
use model::{NamespacedName, ObjectName, Transport};

use crate::ruleset::Family;

mod calico;
mod kubernetes;

pub use calico::{global_network_policy, network_policy};
pub use kubernetes::kubernetes_network_policy;

/// Order of every Kubernetes policy in its tier.
pub const KUBERNETES_ORDER: f64 = 1000.0;

/// Which kind a policy was written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PolicyKind {
    /// `networking.k8s.io/v1` NetworkPolicy.
    KubernetesNetworkPolicy,
    /// `projectcalico.org/v3` NetworkPolicy.
    NetworkPolicy,
    /// `projectcalico.org/v3` GlobalNetworkPolicy.
    GlobalNetworkPolicy,
}

impl PolicyKind {
    /// The name that policies of equal order are sorted by.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::KubernetesNetworkPolicy => "KubernetesNetworkPolicy",
            Self::NetworkPolicy => "NetworkPolicy",
            Self::GlobalNetworkPolicy => "GlobalNetworkPolicy",
        }
    }

    /// The short name of log prefixes and comments.
    pub const fn short(self) -> &'static str {
        match self {
            Self::KubernetesNetworkPolicy => "knp",
            Self::NetworkPolicy => "np",
            Self::GlobalNetworkPolicy => "gnp",
        }
    }
}

/// Names one policy object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PolicyId {
    /// Its kind.
    pub kind: PolicyKind,
    /// Its namespace, absent for a global one.
    pub namespace: Option<ObjectName>,
    /// Its name.
    pub name: ObjectName,
}

impl PolicyId {
    /// What breaks ties of order: `name/namespace/kind`.
    fn tie(&self) -> String {
        let namespace = self.namespace.as_ref().map_or("", ObjectName::as_str);
        format!("{}/{namespace}/{}", self.name, self.kind.as_str())
    }
}

impl fmt::Display for PolicyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{}/{namespace}/{}", self.kind.short(), self.name),
            None => write!(f, "{}/{}", self.kind.short(), self.name),
        }
    }
}

/// A policy in the one form.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// The object it comes from.
    pub id: PolicyId,
    /// Name of its tier.
    pub tier: ObjectName,
    /// Place in the tier, lowest first; absent is last.
    pub order: Option<f64>,
    /// Endpoints it applies to.
    pub subject: Selector,
    /// Rules for traffic to them; absent when the policy has no say about it.
    pub ingress: Option<Vec<Rule>>,
    /// Rules for traffic from them; absent when the policy has no say about it.
    pub egress: Option<Vec<Rule>>,
}

impl Policy {
    /// Rules of one direction; `None` when the policy has no say about it.
    pub fn rules(&self, direction: Direction) -> Option<&[Rule]> {
        match direction {
            Direction::Ingress => self.ingress.as_deref(),
            Direction::Egress => self.egress.as_deref(),
        }
    }

    /// Order within a tier: by `order`, absent last, then by name, namespace and kind.
    pub fn compare(&self, other: &Self) -> Ordering {
        compare_order(self.order, other.order).then_with(|| self.id.tie().cmp(&other.id.tie()))
    }
}

/// Absent sorts last.
pub fn compare_order(a: Option<f64>, b: Option<f64>) -> Ordering {
    a.unwrap_or(f64::INFINITY)
        .total_cmp(&b.unwrap_or(f64::INFINITY))
}

/// Seen from the endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// Traffic to it.
    Ingress,
    /// Traffic from it.
    Egress,
}

impl Direction {
    /// Both, in the order in which a packet between two endpoints meets them.
    pub const ALL: [Self; 2] = [Self::Egress, Self::Ingress];

    /// As it stands in a path of the object.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        }
    }
}

/// What a rule does with what it matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verb {
    /// Lets it through, as far as this endpoint and direction are concerned.
    Allow,
    /// Drops it.
    Deny,
    /// Notes it and goes on.
    Log,
    /// Leaves the tier.
    Pass,
}

/// A rule in the one form: every criterion must hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// What it does.
    pub verb: Verb,
    /// Where it stands in its object, for comments and logs: `ingress[2]`.
    pub path: Arc<str>,
    /// IP versions it exists for.
    pub families: BTreeSet<Family>,
    /// IP protocol it needs.
    pub protocol: Scope<u8>,
    /// IP protocol it refuses.
    pub not_protocol: Option<u8>,
    /// ICMP message it needs; only with an ICMP protocol.
    pub icmp: Scope<Icmp>,
    /// ICMP message it refuses.
    pub not_icmp: Option<Icmp>,
    /// Sender.
    pub source: Peer,
    /// Receiver.
    pub destination: Peer,
}

impl Rule {
    /// A rule that matches everything.
    pub fn new(verb: Verb, path: impl Into<Arc<str>>) -> Self {
        Self {
            verb,
            path: path.into(),
            families: BTreeSet::from(Family::ALL),
            protocol: Scope::Any,
            not_protocol: None,
            icmp: Scope::Any,
            not_icmp: None,
            source: Peer::default(),
            destination: Peer::default(),
        }
    }
}

/// A criterion that may be absent.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope<T> {
    /// Nothing was asked for: everything matches.
    #[default]
    Any,
    /// This must match; if it is an empty set, nothing does.
    Only(T),
}

/// An ICMP message: type, and code of that type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Icmp {
    /// Its type.
    pub kind: u8,
    /// Its code; absent is any.
    pub code: Option<u8>,
}

/// One end of the traffic: every criterion must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peer {
    /// Known endpoints with these labels.
    pub selector: Scope<Selector>,
    /// Not a known endpoint with these labels.
    pub not_selector: Option<Selector>,
    /// Addresses inside one of these.
    pub nets: Scope<BTreeSet<IpNet>>,
    /// Addresses outside all of these.
    pub not_nets: BTreeSet<IpNet>,
    /// Endpoints of this Service; as receiver also at one of its ports.
    pub service: Scope<NamespacedName>,
    /// One of these ports.
    pub ports: Scope<Ports>,
    /// None of these ports.
    pub not_ports: Ports,
}

/// Ports by number and by name, as alternatives.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ports {
    /// First and last, inclusive.
    pub ranges: BTreeSet<(u16, u16)>,
    /// Ports that endpoints serve under a name.
    pub named: BTreeSet<NamedPorts>,
}

impl Ports {
    /// True when no port is among them.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty() && self.named.is_empty()
    }
}

/// The address, protocol and number of every endpoint that serves a named port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NamedPorts {
    /// Endpoints that are asked.
    pub of: Selector,
    /// Name of the port.
    pub name: Arc<str>,
    /// Its protocol.
    pub protocol: Transport,
}

/// Why part of a policy is not enforced as written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// It breaks a rule of its kind.
    Invalid,
    /// It is right, and this version does not act on it.
    Unsupported,
    /// It names something that does not exist.
    RefNotFound,
}

/// Something about a policy that its author should know.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// The object.
    pub policy: PolicyId,
    /// JSON path inside it, such as `spec.ingress[2].source.nets[0]`.
    pub path: String,
    /// What is wrong and what happens instead.
    pub message: String,
    /// Which condition it belongs to.
    pub reason: Reason,
}

/// A policy as far as it can be used, and what was found on the way.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Compiled {
    /// Absent when the object counts as absent.
    pub policy: Option<Policy>,
    /// Problems, in the order of the object's fields.
    pub findings: Vec<Finding>,
}

/// Gathers findings about one object.
#[derive(Debug)]
struct Findings {
    policy: PolicyId,
    list: Vec<Finding>,
}

impl Findings {
    fn new(policy: PolicyId) -> Self {
        Self {
            policy,
            list: Vec::new(),
        }
    }

    fn add(&mut self, reason: Reason, path: impl Into<String>, message: impl Into<String>) {
        self.list.push(Finding {
            policy: self.policy.clone(),
            path: path.into(),
            message: message.into(),
            reason,
        });
    }
}

/// Reads a prefix; host bits are cut off, a bare address is a host. Leading zeros are read as the API server reads them (decimal),
/// everything else it would refuse is refused.
fn read_net(text: &str) -> Option<IpNet> {
    let net: Option<IpNet> = text.parse().ok();
    net.map(|net| net.trunc()).or_else(|| {
        text.parse()
            .ok()
            .map(|address: std::net::IpAddr| IpNet::from(address))
    })
}
