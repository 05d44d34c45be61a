//! BGPPeer objects → who claims a session with which address on this node, and who wins.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use api::selector::Selector;
use api::{BGPPeerSpec, ReversePeering};
use model::{Node, World};

use super::identity::Identity;
use super::{Finding, Reason};

/// A session that an object wants.
#[derive(Clone, Debug)]
pub(super) struct Claim<'a> {
    /// The object.
    pub(super) name: Arc<str>,
    /// Its fields.
    pub(super) spec: &'a BGPPeerSpec,
    /// How strongly it speaks for this node.
    standing: Standing,
    /// Where the peer is.
    pub(super) address: IpAddr,
    /// Its port, if the object says so.
    pub(super) port: Option<u16>,
    /// The node that has this address, if one does.
    pub(super) node: Option<&'a Node>,
}

/// Who wins an address: the smaller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Standing {
    scope: ScopeRank,
    side: Side,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum ScopeRank {
    Node,
    Selector,
    Everywhere,
}

/// Whether the object is about us, or about the other end and mirrored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Side {
    Forward,
    Mirrored,
}

/// Which nodes an object is for.
#[derive(Debug)]
enum Scope<'a> {
    Node(&'a str),
    Selector(Selector),
    Everywhere,
}

impl Scope<'_> {
    fn takes(&self, node: &Node) -> bool {
        match self {
            Self::Node(name) => node.name.as_str() == *name,
            Self::Selector(selector) => selector.matches(&node.labels),
            Self::Everywhere => true,
        }
    }

    fn rank(&self) -> ScopeRank {
        match self {
            Self::Node(_) => ScopeRank::Node,
            Self::Selector(_) => ScopeRank::Selector,
            Self::Everywhere => ScopeRank::Everywhere,
        }
    }
}

/// Whom an object peers with.
#[derive(Debug)]
enum Target {
    Address(IpAddr, Option<u16>),
    Nodes(Selector),
}

/// Every session any object wants on this node.
pub(super) fn read<'a>(
    world: &'a World,
    identity: &Identity,
    findings: &mut Vec<Finding>,
) -> Vec<Claim<'a>> {
    let mut claims = Vec::new();
    let Some(this) = world.this_node() else {
        return claims;
    };
    for (name, object) in world.bgp_peers() {
        let name: Arc<str> = Arc::from(name.as_str());
        match parse(&object.spec) {
            Ok((scope, target)) => {
                let reader = Reader {
                    world,
                    identity,
                    this,
                    name,
                    spec: &object.spec,
                };
                reader.claim(&scope, &target, &mut claims);
            }
            Err(problem) => findings.push(problem.of(name)),
        }
    }
    claims
}

/// One claim an address, in order of addresses; losers of another object are reported.
pub(super) fn settle<'a>(
    mut claims: Vec<Claim<'a>>,
    findings: &mut Vec<Finding>,
) -> Vec<Claim<'a>> {
    claims.sort_by(|a, b| (a.standing, &a.name).cmp(&(b.standing, &b.name)));
    let mut winners: BTreeMap<IpAddr, Claim<'a>> = BTreeMap::new();
    for claim in claims {
        match winners.get(&claim.address) {
            Some(winner) if winner.name != claim.name && claim.standing.side == Side::Forward => findings.push(Finding {
                kind: "BGPPeer",
                message: format!("BGPPeer {} already defines the session with {}; this one does not count there", winner.name, claim.address),
                name: claim.name,
                path: "spec",
                reason: Reason::Conflict,
            }),
            Some(_) => {}
            None => {
                winners.insert(claim.address, claim);
            }
        }
    }
    winners.into_values().collect()
}

struct Reader<'a, 'b> {
    world: &'a World,
    identity: &'b Identity,
    this: &'a Node,
    name: Arc<str>,
    spec: &'a BGPPeerSpec,
}

impl<'a> Reader<'a, '_> {
    fn claim(&self, scope: &Scope<'_>, target: &Target, claims: &mut Vec<Claim<'a>>) {
        let ours = scope.takes(self.this);
        match target {
            Target::Address(address, port) => {
                // An object for all nodes may name one of them: that node does not peer with itself.
                if ours && !self.this.addresses().any(|own| own == *address) {
                    let node = self
                        .world
                        .nodes()
                        .values()
                        .find(|node| node.addresses().any(|one| one == *address));
                    let standing = Standing {
                        scope: scope.rank(),
                        side: Side::Forward,
                    };
                    claims.push(Claim {
                        port: *port,
                        ..self.with(standing, *address, node)
                    });
                }
            }
            Target::Nodes(selector) => {
                if ours {
                    self.nodes(
                        Standing {
                            scope: scope.rank(),
                            side: Side::Forward,
                        },
                        |node| selector.matches(&node.labels),
                        claims,
                    );
                }
                let mirrored = self.spec.reverse_peering != Some(ReversePeering::Manual);
                if mirrored && selector.matches(&self.this.labels) {
                    self.nodes(
                        Standing {
                            scope: scope.rank(),
                            side: Side::Mirrored,
                        },
                        |node| scope.takes(node),
                        claims,
                    );
                }
            }
        }
    }

    fn nodes(
        &self,
        standing: Standing,
        wanted: impl Fn(&Node) -> bool,
        claims: &mut Vec<Claim<'a>>,
    ) {
        let others = self
            .world
            .nodes()
            .values()
            .filter(|node| node.name != self.this.name);
        for node in others.filter(|node| wanted(node)) {
            for address in [node.address(false), node.address(true)]
                .into_iter()
                .flatten()
            {
                if self.identity.address_towards(address).is_some() {
                    claims.push(self.with(standing, address, Some(node)));
                }
            }
        }
    }

    fn with(&self, standing: Standing, address: IpAddr, node: Option<&'a Node>) -> Claim<'a> {
        Claim {
            name: Arc::clone(&self.name),
            spec: self.spec,
            standing,
            address,
            port: None,
            node,
        }
    }
}

/// Why an object cannot be read.
struct Problem {
    path: &'static str,
    reason: Reason,
    message: String,
}

impl Problem {
    fn invalid(path: &'static str, message: String) -> Self {
        Self {
            path,
            reason: Reason::Invalid,
            message,
        }
    }

    fn unsupported(path: &'static str, message: &str) -> Self {
        Self {
            path,
            reason: Reason::Unsupported,
            message: message.to_owned(),
        }
    }

    fn of(self, name: Arc<str>) -> Finding {
        Finding {
            kind: "BGPPeer",
            name,
            path: self.path,
            reason: self.reason,
            message: self.message,
        }
    }
}

fn parse(spec: &BGPPeerSpec) -> Result<(Scope<'_>, Target), Problem> {
    let scope = match (
        filled(spec.node.as_deref()),
        filled(spec.node_selector.as_deref()),
    ) {
        (Some(_), Some(_)) => {
            return Err(Problem::invalid(
                "spec.nodeSelector",
                "node and nodeSelector exclude each other; no session follows".into(),
            ));
        }
        (Some(node), None) => Scope::Node(node),
        (None, Some(text)) => Scope::Selector(selector("spec.nodeSelector", text)?),
        (None, None) => Scope::Everywhere,
    };
    if filled(spec.local_workload_selector.as_deref()).is_some() {
        return Err(Problem::unsupported(
            "spec.localWorkloadSelector",
            "sessions with local pods are not supported yet; no session follows",
        ));
    }
    if spec
        .margay
        .as_ref()
        .is_some_and(|ours| filled(ours.unnumbered.as_deref()).is_some())
    {
        return Err(Problem::unsupported(
            "spec.margay.unnumbered",
            "sessions by interface are not supported yet; no session follows",
        ));
    }
    let target = match (
        filled(spec.peer_ip.as_deref()),
        filled(spec.peer_selector.as_deref()),
    ) {
        (Some(_), Some(_)) => {
            return Err(Problem::invalid(
                "spec.peerSelector",
                "peerIP and peerSelector exclude each other; no session follows".into(),
            ));
        }
        (Some(text), None) => endpoint(text)?,
        (None, Some(text)) => Target::Nodes(selector("spec.peerSelector", text)?),
        (None, None) => {
            return Err(Problem::invalid(
                "spec.peerIP",
                "neither peerIP nor peerSelector says whom to peer with; no session follows".into(),
            ));
        }
    };
    Ok((scope, target))
}

/// Calico's clients write absent texts as empty ones.
fn filled(text: Option<&str>) -> Option<&str> {
    text.map(str::trim).filter(|text| !text.is_empty())
}

fn selector(path: &'static str, text: &str) -> Result<Selector, Problem> {
    Selector::parse(text)
        .map_err(|error| Problem::invalid(path, format!("{error}; it selects nothing")))
}

/// `ip`, `v4:port` or `[v6]:port`.
fn endpoint(text: &str) -> Result<Target, Problem> {
    let bad =
        |why: &str| Problem::invalid("spec.peerIP", format!("{text:?} {why}; no session follows"));
    let (address, port) = match (text.parse::<IpAddr>(), text.parse::<SocketAddr>()) {
        (Ok(address), _) => (address, None),
        (Err(_), Ok(socket)) => (socket.ip(), Some(socket.port())),
        (Err(_), Err(_)) => return Err(bad("is none of ip, v4:port and [v6]:port")),
    };
    if port == Some(0) {
        return Err(bad("has port 0"));
    }
    if address.is_unspecified()
        || address.is_multicast()
        || address == IpAddr::V4(Ipv4Addr::BROADCAST)
    {
        return Err(bad("is no address of one host"));
    }
    Ok(Target::Address(address, port))
}
