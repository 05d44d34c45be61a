//! What is wrong with the address books: blocks, handles and affinities against the pods and nodes that live.
//!
//! Pure, and careful: what cannot be judged is valid. A finding is a reason to look, never by itself a reason to
//! free an address (the node that holds it is asked first).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use crate::affinity::{Affinity, State};
use crate::block::{Attribute, Block, Owner};
use crate::handle::{Handle, WINDOWS_RESERVED, significant};

/// A pod, as far as addresses go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Node it runs on.
    pub node: String,
    /// Addresses of its status.
    pub addresses: Vec<IpAddr>,
    /// Succeeded or failed: it has no sandbox any more.
    pub finished: bool,
    /// Uses the node's own addresses.
    pub host_network: bool,
}

/// Everything the audit looks at.
#[derive(Clone, Debug, Default)]
pub struct Books {
    /// Blocks that decode.
    pub blocks: Vec<Block>,
    /// Blocks that do not: CIDR and why.
    pub broken: Vec<(IpNet, String)>,
    /// Handle objects.
    pub handles: Vec<Handle>,
    /// Affinities of all nodes.
    pub affinities: Vec<Affinity>,
    /// Pods of all namespaces.
    pub pods: Vec<Pod>,
    /// Nodes.
    pub nodes: BTreeSet<String>,
    /// Ranges of the pools.
    pub pools: Vec<IpNet>,
}

/// Why an address seems to be nobody's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Leak {
    /// Its pod does not exist.
    PodGone,
    /// Its pod has finished.
    PodFinished,
    /// Its pod runs on another node.
    PodElsewhere,
    /// It is the tunnel address of a node that does not exist.
    NodeGone,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Finding {
    /// A block that does not decode.
    BrokenBlock(IpNet, String),
    /// Two blocks share addresses: two owners are possible.
    OverlappingBlocks(IpNet, IpNet),
    /// Two entries or two pods claim one address.
    TwoOwners(IpAddr, String, String),
    /// An address nobody seems to hold.
    Leaked(IpAddr, String, Leak),
    /// A pod has an address of a pool that no block gives it.
    Unrecorded(IpAddr, String),
    /// A block lies in no pool.
    OutsidePools(IpNet),
    /// A block belongs to a node that does not exist.
    BlockOfGoneNode(IpNet, String),
    /// A block without owner and addresses.
    EmptyOwnerless(IpNet),
    /// A node's block without a confirmed affinity.
    Unconfirmed(IpNet, String),
    /// An affinity without a block of its node.
    ClaimWithoutBlock(IpNet, String),
    /// A soft-deleted object somebody has to remove: kind and name.
    SoftDeleted(&'static str, String),
    /// Addresses of a handle without a handle object.
    HandleMissing(String),
    /// A handle object without addresses.
    HandleEmpty(String),
    /// A handle object whose count for a block is wrong: (handle, block, stored, counted).
    HandleCount(String, IpNet, u32, u32),
}

/// Looks at everything; findings in a stable order.
pub fn audit(books: &Books) -> Vec<Finding> {
    let mut findings: Vec<Finding> = books
        .broken
        .iter()
        .map(|(cidr, why)| Finding::BrokenBlock(*cidr, why.clone()))
        .collect();
    blocks(books, &mut findings);
    claims(books, &mut findings);
    addresses(books, &mut findings);
    handles(books, &mut findings);
    findings.sort();
    findings.dedup();
    findings
}

fn blocks(books: &Books, findings: &mut Vec<Finding>) {
    let mut cidrs: Vec<IpNet> = books.blocks.iter().map(Block::cidr).collect();
    cidrs.extend(books.broken.iter().map(|(cidr, _)| *cidr));
    cidrs.sort();
    // Sorted by address and length, a block's insides follow it directly.
    let mut around: Option<IpNet> = None;
    for cidr in cidrs {
        match around {
            Some(wide) if wide.contains(&cidr) => {
                findings.push(Finding::OverlappingBlocks(wide, cidr));
            }
            Some(_) | None => around = Some(cidr),
        }
    }
    for block in &books.blocks {
        if block.is_deleted() {
            findings.push(Finding::SoftDeleted("IPAMBlock", block.cidr().to_string()));
            continue;
        }
        if !books.pools.iter().any(|pool| pool.contains(&block.cidr())) {
            findings.push(Finding::OutsidePools(block.cidr()));
        }
        match block.owner() {
            None if block.is_empty() => findings.push(Finding::EmptyOwnerless(block.cidr())),
            Some(Owner::Host(node)) if !books.nodes.contains(&**node) => {
                findings.push(Finding::BlockOfGoneNode(block.cidr(), node.to_string()));
            }
            Some(Owner::Host(_) | Owner::LoadBalancer | Owner::Other(_)) | None => {}
        }
    }
}

fn claims(books: &Books, findings: &mut Vec<Finding>) {
    let owners: BTreeMap<IpNet, &str> = books
        .blocks
        .iter()
        .filter(|block| !block.is_deleted())
        .filter_map(|block| match block.owner() {
            Some(Owner::Host(node)) => Some((block.cidr(), &**node)),
            Some(Owner::LoadBalancer | Owner::Other(_)) | None => None,
        })
        .collect();
    let mut confirmed = BTreeSet::new();
    for affinity in &books.affinities {
        if affinity.deleted {
            findings.push(Finding::SoftDeleted("BlockAffinity", affinity.name()));
        } else if affinity
            .kind
            .as_deref()
            .is_some_and(|kind| kind == "virtual")
        {
            // Service blocks are not owned by a node.
        } else if owners.get(&affinity.cidr) != Some(&&*affinity.node) {
            findings.push(Finding::ClaimWithoutBlock(
                affinity.cidr,
                affinity.node.to_string(),
            ));
        } else if affinity.state == State::Confirmed {
            confirmed.insert(affinity.cidr);
        }
    }
    let unconfirmed = owners.iter().filter(|(cidr, _)| !confirmed.contains(*cidr));
    findings
        .extend(unconfirmed.map(|(cidr, node)| Finding::Unconfirmed(*cidr, (*node).to_owned())));
}

fn addresses(books: &Books, findings: &mut Vec<Finding>) {
    let pods: BTreeMap<(&str, &str), &Pod> = books
        .pods
        .iter()
        .map(|pod| ((pod.namespace.as_str(), pod.name.as_str()), pod))
        .collect();
    let mut held: BTreeMap<IpAddr, &Attribute> = BTreeMap::new();
    for block in books.blocks.iter().filter(|block| !block.is_deleted()) {
        for (ordinal, entry) in block.held() {
            let Some(address) = block.address(ordinal) else {
                continue;
            };
            if let Some(other) = held.insert(address, entry) {
                findings.push(Finding::TwoOwners(address, label(other), label(entry)));
            }
            if let Some(leak) = leak(entry, &pods, &books.nodes) {
                findings.push(Finding::Leaked(address, label(entry), leak));
            }
        }
    }
    let mut seen: BTreeMap<IpAddr, String> = BTreeMap::new();
    for pod in books
        .pods
        .iter()
        .filter(|pod| !pod.finished && !pod.host_network)
    {
        let name = format!("{}/{}", pod.namespace, pod.name);
        for address in pod
            .addresses
            .iter()
            .filter(|a| books.pools.iter().any(|pool| pool.contains(*a)))
        {
            if let Some(other) = seen.insert(*address, name.clone()) {
                findings.push(Finding::TwoOwners(*address, other, name.clone()));
            }
            match held.get(address) {
                None => findings.push(Finding::Unrecorded(*address, name.clone())),
                Some(entry) => {
                    let owner = owner_pod(entry);
                    if owner
                        .is_some_and(|owner| owner != (pod.namespace.as_str(), pod.name.as_str()))
                    {
                        findings.push(Finding::TwoOwners(*address, label(entry), name.clone()));
                    }
                }
            }
        }
    }
}

fn handles(books: &Books, findings: &mut Vec<Finding>) {
    let mut counted: BTreeMap<String, BTreeMap<IpNet, u32>> = BTreeMap::new();
    for block in books.blocks.iter().filter(|block| !block.is_deleted()) {
        for (_, entry) in block.held() {
            if let Some(handle) = entry.handle().filter(|handle| *handle != WINDOWS_RESERVED) {
                *counted
                    .entry(handle.to_lowercase())
                    .or_default()
                    .entry(block.cidr())
                    .or_default() += 1;
            }
        }
    }
    for handle in &books.handles {
        let name = handle.name();
        if handle.deleted {
            findings.push(Finding::SoftDeleted("IPAMHandle", name));
            continue;
        }
        let Some(blocks) = counted.remove(&significant(&handle.id).to_lowercase()) else {
            findings.push(Finding::HandleEmpty(name));
            continue;
        };
        let all: BTreeSet<IpNet> = handle.blocks.keys().chain(blocks.keys()).copied().collect();
        for block in all {
            let of = |counts: &BTreeMap<IpNet, u32>| counts.get(&block).copied().unwrap_or(0);
            let (stored, real) = (of(&handle.blocks), of(&blocks));
            if stored != real {
                findings.push(Finding::HandleCount(name.clone(), block, stored, real));
            }
        }
    }
    findings.extend(counted.into_keys().map(Finding::HandleMissing));
}

/// Missing attributes and unknown types are valid: only what can be judged is a candidate.
fn leak(
    entry: &Attribute,
    pods: &BTreeMap<(&str, &str), &Pod>,
    nodes: &BTreeSet<String>,
) -> Option<Leak> {
    let node = entry.owner.get("node").map(String::as_str);
    if entry
        .owner
        .get("type")
        .is_some_and(|tag| tag.ends_with("TunnelAddress"))
    {
        return node
            .is_some_and(|node| !nodes.contains(node))
            .then_some(Leak::NodeGone);
    }
    match pods.get(&owner_pod(entry)?) {
        None => Some(Leak::PodGone),
        Some(pod) if pod.finished => Some(Leak::PodFinished),
        Some(pod) if node.is_some_and(|node| node != pod.node) => Some(Leak::PodElsewhere),
        Some(_) => None,
    }
}

fn owner_pod(entry: &Attribute) -> Option<(&str, &str)> {
    Some((
        entry.owner.get("namespace")?.as_str(),
        entry.owner.get("pod")?.as_str(),
    ))
}

fn label(entry: &Attribute) -> String {
    entry.handle().unwrap_or("no handle").to_owned()
}
