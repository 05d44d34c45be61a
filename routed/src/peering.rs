//! World → what the speaker should be: itself, its peers, their filters, the prefixes it announces. Pure.
//!
//! ```text
//!  BGPConfiguration, Node ── identity ── AS, router id, listeners ─────────────┐
//!  IPPool, affinity, block ─ own ─────── blocks, lent and borrowed addresses ──┤
//!                              └─ rules ─ import and export filters ───────────┼─► Peering
//!  Node ──────────────────── mesh ────── one session a node and family ────────┤
//!  BGPPeer ───────────────── claims ──── who wins an address ── session ───────┘
//! ```
//!
//! - BGP runs once a BGPPeer or a BGPConfiguration exists, or when it is asked for on the command line.
//! - Nothing is said before every kind has listed and this node has an address ([`Speaking::Waiting`]): half a configuration
//!   would close sessions that forward.
//! - For one address the first definition wins: for this node by name, then by selector, then for all nodes, then the mesh;
//!   within each by name of the object. The loser is reported, unless it is the mesh or a mirrored session.
//! - A peer that names filters passes no route either way until filters are supported: a rule that is not applied must not
//!   become "no rule". A peer whose password is missing is not configured at all, so its session stays down.
//! - Pools that are `disabled` count: they give out no new addresses, and those in use still have to be reached.

mod claims;
mod identity;
mod mesh;
mod own;
mod rules;
mod session;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

use bgp::speaker::{Desired, Global, Origination, Peer, PeerKey};
use dataplane::host::Host;
use dataplane::plan::settings::Bgp;
use ipnet::IpNet;
use model::World;

use crate::kube::secrets::{Passwords, SecretKey};
use identity::Identity;
use own::Own;
use rules::Rules;

/// What the plan is made from.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    /// The cluster.
    pub world: &'a World,
    /// Devices and addresses of this host.
    pub host: &'a Host,
    /// Passwords found so far.
    pub passwords: &'a Passwords,
    /// Whether BGP runs at all, from [`runs`].
    pub bgp: Bgp,
}

/// What follows, with the reasons for what does not.
#[derive(Clone, Debug)]
pub struct Peering {
    /// Whether and as what the speaker runs.
    pub speaking: Speaking,
    /// Announced prefixes: (owner, prefix) → route.
    pub originate: Originated,
    /// Addresses and ports to listen on.
    pub listen: Vec<SocketAddr>,
    /// Secrets that hold passwords of this node's peers, found or not.
    pub secrets: BTreeSet<SecretKey>,
    /// Those of them that are not found.
    pub missing: BTreeSet<SecretKey>,
    /// Where each session comes from.
    pub origins: BTreeMap<PeerKey, Origin>,
    /// What does not count as written, for conditions and status; ordered and without repetition.
    pub findings: Vec<Finding>,
}

/// Announced prefixes: (owner, prefix) → route.
pub type Originated = BTreeMap<(Arc<str>, IpNet), Origination>;

/// Whether and as what the speaker runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Speaking {
    /// BGP does not run on this node.
    Off,
    /// It should run, and something is not known yet. A speaker that runs keeps its configuration.
    Waiting(String),
    /// With this configuration.
    On(Desired),
}

/// Where a session comes from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// The node-to-node mesh.
    Mesh,
    /// The BGPPeer of this name.
    Peer(Arc<str>),
}

/// Something in an object that does not count as written.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// Kind of the object.
    pub kind: &'static str,
    /// Its name.
    pub name: Arc<str>,
    /// JSON path from the object's root.
    pub path: &'static str,
    /// What kind of problem.
    pub reason: Reason,
    /// What is wrong, in the user's words, and what follows.
    pub message: String,
}

/// Kinds of problems, named as in conditions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// Not usable as written.
    Invalid,
    /// Understood and not acted on.
    Unsupported,
    /// An object it names does not exist.
    RefNotFound,
    /// Another object defines the same session and wins.
    Conflict,
    /// A node has no address to speak from.
    NoAddress,
}

impl Reason {
    /// The word used in conditions.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Invalid => "Invalid",
            Self::Unsupported => "Unsupported",
            Self::RefNotFound => "RefNotFound",
            Self::Conflict => "Conflict",
            Self::NoAddress => "NoAddress",
        }
    }
}

/// What the speaker's task is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The configuration; `None` = BGP does not run.
    pub desired: Option<Desired>,
    /// Announced prefixes.
    pub originate: Originated,
    /// Addresses and ports to listen on.
    pub listen: Vec<SocketAddr>,
    /// Some peers are left out because their password is not known (yet).
    pub incomplete: bool,
}

impl Peering {
    /// The configuration of a running speaker.
    pub fn desired(&self) -> Option<&Desired> {
        match &self.speaking {
            Speaking::On(desired) => Some(desired),
            Speaking::Off | Speaking::Waiting(_) => None,
        }
    }

    /// What to tell the speaker's task; `None` = nothing new, leave it as it is.
    pub fn wanted(&self) -> Option<Wanted> {
        let desired = match &self.speaking {
            Speaking::Off => None,
            Speaking::Waiting(_) => return None,
            Speaking::On(desired) => Some(desired.clone()),
        };
        Some(Wanted {
            desired,
            originate: self.originate.clone(),
            listen: self.listen.clone(),
            incomplete: !self.missing.is_empty(),
        })
    }

    fn silent(speaking: Speaking, findings: Vec<Finding>) -> Self {
        Self {
            speaking,
            originate: Originated::new(),
            listen: Vec::new(),
            secrets: BTreeSet::new(),
            missing: BTreeSet::new(),
            origins: BTreeMap::new(),
            findings,
        }
    }
}

/// Whether BGP runs: somebody configured it, or `always` says so.
pub fn runs(world: &World, always: bool) -> Bgp {
    if always || !world.bgp_peers().is_empty() || !world.bgp_configurations().is_empty() {
        Bgp::On
    } else {
        Bgp::Off
    }
}

/// Plans everything the speaker is told.
pub fn plan(inputs: Inputs<'_>) -> Peering {
    let world = inputs.world;
    if !world.all_synced() {
        let kinds: Vec<_> = world.unsynced().map(model::Kind::as_str).collect();
        let reason = format!("waiting for the first list of {}", kinds.join(", "));
        return Peering::silent(Speaking::Waiting(reason), Vec::new());
    }
    if inputs.bgp == Bgp::Off {
        return Peering::silent(Speaking::Off, Vec::new());
    }
    let mut findings = Vec::new();
    let identity = match Identity::read(world, &mut findings) {
        Ok(identity) => identity,
        Err(reason) => return Peering::silent(Speaking::Waiting(reason), findings),
    };
    let own = Own::read(world);
    let rules = Rules::make(world, inputs.host, &own, &mut findings);
    let mut roster = Roster::default();
    let claims = claims::read(world, &identity, &mut findings);
    for claim in claims::settle(claims, &mut findings) {
        let context = session::Context {
            inputs,
            identity: &identity,
            rules: &rules,
        };
        roster.add(
            claim.address,
            Origin::Peer(Arc::clone(&claim.name)),
            session::plan(&context, &claim, &mut findings),
        );
    }
    mesh::plan(inputs, &identity, &rules, &mut roster, &mut findings);
    findings.sort();
    findings.dedup();
    let global = Global {
        cluster_id: identity.cluster_id,
        ..Global::new(identity.asn, identity.router_id)
    };
    Peering {
        speaking: Speaking::On(Desired {
            global,
            peers: roster.peers,
        }),
        originate: own.originate(),
        listen: identity.listen(world),
        secrets: roster.secrets,
        missing: roster.missing,
        origins: roster.origins,
        findings,
    }
}

/// Sessions as they are decided.
#[derive(Debug, Default)]
struct Roster {
    peers: BTreeMap<PeerKey, Peer>,
    origins: BTreeMap<PeerKey, Origin>,
    /// Addresses that some definition took, also when its session has to stay down.
    taken: BTreeSet<std::net::IpAddr>,
    secrets: BTreeSet<SecretKey>,
    missing: BTreeSet<SecretKey>,
}

/// One session as planned.
#[derive(Debug)]
struct Planned {
    /// `None`: the session stays down; a finding says why.
    peer: Option<Peer>,
    /// The Secret it depends on.
    secret: Option<session::Secret>,
}

impl Roster {
    fn add(&mut self, address: std::net::IpAddr, origin: Origin, planned: Planned) {
        self.taken.insert(address);
        if let Some(secret) = planned.secret {
            if secret.missing {
                self.missing.insert(secret.key.clone());
            }
            self.secrets.insert(secret.key);
        }
        if let Some(peer) = planned.peer {
            let key = PeerKey::from(address);
            self.origins.insert(key.clone(), origin);
            self.peers.insert(key, peer);
        }
    }
}

#[cfg(test)]
mod tests;
