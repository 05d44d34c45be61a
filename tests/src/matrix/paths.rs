//! The matrix of paths: between every kind of two ends, at every distance, in both families, does a small and a large transfer
//! arrive, and does the wire carry it as the pool says?
//!
//! ```text
//!   client pods ──┬─► server pods ◄── hosts of the clients      seen on the link of the client's node:
//!   (two nodes)   ├─► services, one a server pod                nothing, plain, or encapsulated
//!                 ├─► hosts
//!                 └─► outside, by the node's address
//! ```
//!
//! Which cells there are, what each must look like and whether it does is pure; a [`Bed`] dials and records.

mod bed;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::fmt::{self, Write};
use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result, ensure};

use crate::family::Family;
use crate::margay::{Encapsulation, Subnets};
use crate::wait;
use crate::wire::{Packet, Wrap};

pub use bed::{NAMESPACE, prepare, servers};

/// How long one transfer may take, in milliseconds.
const TIMEOUT: &str = "4000";

/// Ports of a server: HTTP for the small transfer, TCP echo for the large one. Each kind of path has its own, so that the wire tells them
/// apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    /// HTTP.
    pub small: u16,
    /// TCP echo.
    pub large: u16,
}

/// From pods, and on hosts.
pub const FROM_PODS: Ports = Ports {
    small: 80,
    large: 7,
};
/// Behind services.
pub const BEHIND_SERVICES: Ports = Ports {
    small: 81,
    large: 8,
};
/// From hosts.
pub const FROM_HOSTS: Ports = Ports {
    small: 82,
    large: 9,
};
/// Of the services themselves.
pub const SERVICES: Ports = Ports {
    small: 8081,
    large: 8008,
};

/// The kinds of paths.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A pod dials a pod.
    PodToPod,
    /// A pod dials a node.
    PodToHost,
    /// A node dials a pod.
    HostToPod,
    /// A pod dials a service with one server pod.
    PodToService,
    /// A pod dials what is no part of the cluster.
    PodToOutside,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::PodToPod => "pod -> pod",
            Self::PodToHost => "pod -> host",
            Self::HostToPod => "host -> pod",
            Self::PodToService => "pod -> service",
            Self::PodToOutside => "pod -> outside",
        })
    }
}

/// How far the server is from the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Distance {
    /// On one node.
    SameNode,
    /// On nodes of one subnet.
    SameSubnet,
    /// A router between the nodes.
    AcrossSubnets,
    /// Behind the routers, outside of the cluster.
    Outside,
}

impl fmt::Display for Distance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::SameNode => "same node",
            Self::SameSubnet => "same subnet",
            Self::AcrossSubnets => "across subnets",
            Self::Outside => "outside",
        })
    }
}

/// A node that takes part: where it stands, and what answers there.
#[derive(Clone, Debug)]
pub struct Stand {
    /// Name of the node.
    pub node: String,
    /// Its subnet's name.
    pub rack: String,
    /// Addresses of the host, one a family.
    pub host: Vec<IpAddr>,
    /// Addresses of its server pod.
    pub server: Vec<IpAddr>,
    /// Addresses of that pod's service.
    pub service: Vec<IpAddr>,
    /// The client pod, on nodes that dial.
    pub client: Option<Client>,
}

/// A pod that dials.
#[derive(Clone, Debug)]
pub struct Client {
    /// Its name.
    pub name: String,
    /// Its addresses, one a family.
    pub addresses: Vec<IpAddr>,
}

/// Where a transfer starts.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// A pod.
    Pod {
        /// Its node.
        node: String,
        /// Its name.
        name: String,
    },
    /// A node itself.
    Host {
        /// Its name.
        node: String,
    },
}

impl Place {
    /// The node where it is.
    pub fn node(&self) -> &str {
        match self {
            Self::Pod { node, .. } | Self::Host { node } => node,
        }
    }
}

/// One path.
#[derive(Clone, Debug)]
pub struct Cell {
    /// By which family.
    pub family: Family,
    /// Between which kinds of ends.
    pub kind: Kind,
    /// How far.
    pub distance: Distance,
    /// Who dials.
    pub from: Place,
    /// Who answers.
    pub to: String,
    /// What is dialled, for the small and the large transfer.
    pub dialled: [SocketAddr; 2],
    /// What that is on the wire, past the translation of services.
    pub on_wire: [SocketAddr; 2],
    /// Who the server must see; `None` where the kernel chooses.
    pub seen_as: Option<IpAddr>,
}

impl Cell {
    /// What the link of the client's node must carry; `None` = nothing, the packets stay on the node.
    pub fn expected(&self, encapsulation: Encapsulation) -> Option<Wrap> {
        match (self.distance, self.kind) {
            (Distance::SameNode, _) => None,
            (_, Kind::PodToHost | Kind::PodToOutside) => Some(Wrap::Plain),
            (Distance::SameSubnet, _) => Some(encapsulation.wrap(Subnets::Same)),
            (Distance::AcrossSubnets | Distance::Outside, _) => {
                Some(encapsulation.wrap(Subnets::Different))
            }
        }
    }

    fn carries(&self, packet: &Packet) -> bool {
        let ends = [packet.source, packet.destination];
        self.on_wire.iter().any(|target| ends.contains(target))
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (family, kind, distance) = (self.family, self.kind, self.distance);
        let (from, to) = (self.from.node(), &self.to);
        write!(f, "{family} {kind}, {distance}: {from} -> {to}")
    }
}

fn of(addresses: &[IpAddr], family: Family) -> Option<IpAddr> {
    addresses
        .iter()
        .copied()
        .find(|address| Family::of(*address) == family)
}

/// All paths of one family: from every client and its host to every server, service, host and outside.
pub fn cells(stands: &[Stand], family: Family, outside: IpAddr) -> Vec<Cell> {
    let mut cells = Vec::new();
    for from in stands {
        let Some(client) = &from.client else { continue };
        let pod = Place::Pod {
            node: from.node.clone(),
            name: client.name.clone(),
        };
        let host = Place::Host {
            node: from.node.clone(),
        };
        let (own, node) = (of(&client.addresses, family), of(&from.host, family));
        let mut add = |kind, distance, from: &Place, to: &str, targets: Targets, seen_as| {
            if let Some((dialled, on_wire)) = targets.sockets() {
                cells.push(Cell {
                    family,
                    kind,
                    distance,
                    from: from.clone(),
                    to: to.to_owned(),
                    dialled,
                    on_wire,
                    seen_as,
                });
            }
        };
        for to in stands {
            let distance = distance(from, to);
            let server = of(&to.server, family);
            let at = |address, ports| Targets::straight(address, ports);
            let service = Targets {
                dialled: of(&to.service, family).map(|address| (address, SERVICES)),
                on_wire: server.map(|address| (address, BEHIND_SERVICES)),
            };
            add(
                Kind::PodToPod,
                distance,
                &pod,
                &to.node,
                at(server, FROM_PODS),
                own,
            );
            add(
                Kind::HostToPod,
                distance,
                &host,
                &to.node,
                at(server, FROM_HOSTS),
                None,
            );
            add(Kind::PodToService, distance, &pod, &to.node, service, own);
            // A node is outside of all pools: natOutgoing applies, but not to what never leaves the node.
            let seen_as = node.filter(|_| distance != Distance::SameNode);
            let host = at(of(&to.host, family), FROM_PODS);
            add(Kind::PodToHost, distance, &pod, &to.node, host, seen_as);
        }
        let target = Targets::straight(Some(outside), FROM_PODS);
        add(
            Kind::PodToOutside,
            Distance::Outside,
            &pod,
            "outside",
            target,
            node,
        );
    }
    cells
}

/// What is dialled, and what that is on the wire.
struct Targets {
    dialled: Option<(IpAddr, Ports)>,
    on_wire: Option<(IpAddr, Ports)>,
}

impl Targets {
    fn straight(address: Option<IpAddr>, ports: Ports) -> Self {
        let target = address.map(|address| (address, ports));
        Self {
            dialled: target,
            on_wire: target,
        }
    }

    fn sockets(self) -> Option<([SocketAddr; 2], [SocketAddr; 2])> {
        let both = |(address, ports): (IpAddr, Ports)| {
            [ports.small, ports.large].map(|port| SocketAddr::new(address, port))
        };
        Some((both(self.dialled?), both(self.on_wire?)))
    }
}

fn distance(from: &Stand, to: &Stand) -> Distance {
    if from.node == to.node {
        Distance::SameNode
    } else if from.rack == to.rack {
        Distance::SameSubnet
    } else {
        Distance::AcrossSubnets
    }
}

/// Ends a recording; returns what was recorded.
pub type Finish = Box<dyn FnOnce() -> Result<Vec<Packet>> + Send>;

/// Where paths are measured.
pub trait Bed: Sync {
    /// Runs `probe` with these arguments where a path starts; returns its output.
    ///
    /// # Errors
    /// It cannot be run.
    fn probe(&self, from: &Place, arguments: &[&str]) -> Result<String>;

    /// Starts recording the uplink of a node: TCP, and UDP of VXLAN.
    ///
    /// # Errors
    /// It cannot be recorded.
    fn record(&self, node: &str) -> Result<Finish>;
}

/// What came of a path.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The path.
    pub cell: Cell,
    /// Answers to the small and the large transfer: `yes` and the answer, or `no` and the reason.
    pub answers: [String; 2],
    /// What was around its packets on the link of the client's node.
    pub seen: BTreeSet<Wrap>,
}

/// Dials all cells, those of one node at once, and records that node's link meanwhile: one node after the other, or the link would
/// carry what others dial as well.
///
/// # Errors
/// A link cannot be recorded or `probe` cannot be run; a path that does not work is an outcome, no error.
pub fn measure(bed: &impl Bed, cells: &[Cell]) -> Result<Vec<Outcome>> {
    let places: BTreeSet<&Place> = cells.iter().map(|cell| &cell.from).collect();
    let nodes: BTreeSet<&str> = places.iter().map(|place| place.node()).collect();
    let mut outcomes = Vec::new();
    for node in nodes {
        let places: Vec<&Place> = places
            .iter()
            .copied()
            .filter(|place| place.node() == node)
            .collect();
        let finish = bed.record(node)?;
        let answers = wait::together(&places, |place| dial(bed, place, cells))?;
        let packets = finish()?;
        for (cell, answers) in answers.into_iter().flatten() {
            let seen = packets.iter().filter(|packet| cell.carries(packet));
            outcomes.push(Outcome {
                seen: seen.map(|packet| packet.wrap).collect(),
                cell,
                answers,
            });
        }
    }
    Ok(outcomes)
}

/// All cells that start at one place, in one process.
fn dial(bed: &impl Bed, place: &Place, cells: &[Cell]) -> Result<Vec<(Cell, [String; 2])>> {
    let cells: Vec<&Cell> = cells.iter().filter(|cell| cell.from == *place).collect();
    let questions: Vec<String> = cells
        .iter()
        .flat_map(|cell| {
            let [small, large] = cell.dialled;
            [format!("http:{small}"), format!("large:{large}")]
        })
        .collect();
    let words: Vec<&str> = ["dials", TIMEOUT]
        .into_iter()
        .chain(questions.iter().map(String::as_str))
        .collect();
    let answered = bed.probe(place, &words)?;
    let mut lines = answered.lines().map(str::to_owned);
    let mut results = Vec::new();
    for cell in cells {
        let (small, large) = lines.next().zip(lines.next()).context("an answer each")?;
        results.push((cell.clone(), [small, large]));
    }
    ensure!(lines.next().is_none(), "one answer each: {answered}");
    Ok(results)
}

impl Outcome {
    /// What is not as it must be; nothing when all is well.
    pub fn complaints(&self, encapsulation: Encapsulation) -> Vec<String> {
        let mut complaints = Vec::new();
        for (size, answer) in ["small", "60 kB"].into_iter().zip(&self.answers) {
            if let Some(reason) = answer.strip_prefix("no ") {
                complaints.push(format!("{}: {size} transfer: {reason}", self.cell));
            }
        }
        let peer = self.peer();
        if let (Some(expected), Some(peer)) = (self.cell.seen_as, peer)
            && expected != peer
        {
            complaints.push(format!(
                "{}: the server saw {peer} instead of {expected}",
                self.cell
            ));
        }
        let expected: BTreeSet<Wrap> = self.cell.expected(encapsulation).into_iter().collect();
        // What did not arrive may have left no packet; that is said above.
        if complaints.is_empty() && self.seen != expected {
            complaints.push(format!(
                "{}: on the wire {:?} instead of {expected:?}",
                self.cell, self.seen
            ));
        }
        complaints
    }

    /// Who the server saw.
    fn peer(&self) -> Option<IpAddr> {
        let [small, _large] = &self.answers;
        let peer: SocketAddr = small
            .strip_prefix("yes ")?
            .split(' ')
            .nth(1)?
            .parse()
            .ok()?;
        Some(peer.ip())
    }
}

/// A table: kinds by distances; how the wire carried each, or that it failed.
pub fn render(outcomes: &[Outcome], encapsulation: Encapsulation) -> String {
    const DISTANCES: [Distance; 4] = [
        Distance::SameNode,
        Distance::SameSubnet,
        Distance::AcrossSubnets,
        Distance::Outside,
    ];
    let mut text = String::new();
    for family in Family::BOTH {
        let of_family = outcomes
            .iter()
            .filter(|outcome| outcome.cell.family == family);
        let kinds: BTreeSet<Kind> = of_family.clone().map(|outcome| outcome.cell.kind).collect();
        if kinds.is_empty() {
            continue;
        }
        // Writing to a string cannot fail.
        let _ = write!(text, "  {:<22}", format!("{family} {encapsulation:?}"));
        for distance in DISTANCES {
            let _ = write!(text, "{distance:<16}");
        }
        text.push('\n');
        for kind in kinds {
            let _ = write!(text, "  {kind:<22}");
            for distance in DISTANCES {
                let here = of_family.clone().filter(|outcome| {
                    outcome.cell.kind == kind && outcome.cell.distance == distance
                });
                let words: BTreeSet<String> =
                    here.map(|outcome| word(outcome, encapsulation)).collect();
                let words: Vec<String> = words.into_iter().collect();
                let _ = write!(text, "{:<16}", words.join(" "));
            }
            text.push('\n');
        }
    }
    text
}

fn word(outcome: &Outcome, encapsulation: Encapsulation) -> String {
    if !outcome.complaints(encapsulation).is_empty() {
        return "FAILED".to_owned();
    }
    match outcome.cell.expected(encapsulation) {
        None => "on the node",
        Some(Wrap::Plain) => "plain",
        Some(Wrap::Vxlan) => "vxlan",
        Some(Wrap::Ipip) => "ipip",
    }
    .to_owned()
}
