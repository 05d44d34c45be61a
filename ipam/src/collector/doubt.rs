//! Whether an allocation may be nobody's: what can be judged and fails. Missing attributes and unknown kinds are valid.

use std::sync::Arc;

use super::{Spot, Suspect, View};
use crate::block::{Attribute, Block};
use crate::handle::WINDOWS_RESERVED;

/// Why an allocation may be nobody's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Doubt {
    /// Its pod does not exist.
    PodGone,
    /// Its pod has finished.
    PodFinished,
    /// Its pod is bound to another node, or to none.
    PodElsewhere,
    /// Its node does not exist.
    NodeGone,
}

impl Doubt {
    /// In words, for logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::PodGone => "its pod does not exist",
            Self::PodFinished => "its pod has finished",
            Self::PodElsewhere => "its pod is on another node",
            Self::NodeGone => "its node does not exist",
        }
    }
}

/// Judges an entry by what the lists show. An entry that names no node is nobody's to answer for, so it is valid.
pub fn doubt(entry: &Attribute, view: &View) -> Option<Doubt> {
    let node = entry.owner.get("node")?;
    if entry.handle()? == WINDOWS_RESERVED {
        return None;
    }
    let pod = pod_of(entry).map(|id| view.pods.get(&id));
    if !view.nodes.contains(node.as_str()) {
        // A pod that lives on another node took its address along.
        let moved = pod
            .flatten()
            .and_then(|pod| pod.node.as_ref())
            .is_some_and(|at| **at != **node && view.nodes.contains(at));
        return (!moved).then_some(Doubt::NodeGone);
    }
    match pod? {
        None => Some(Doubt::PodGone),
        Some(pod) if pod.finished => Some(Doubt::PodFinished),
        Some(pod) if pod.node.as_deref() != Some(node) => Some(Doubt::PodElsewhere),
        Some(_) => None,
    }
}

pub(super) fn suspect(
    block: &Block,
    ordinal: u32,
    entry: &Attribute,
    view: &View,
) -> Option<Suspect> {
    let doubt = doubt(entry, view)?;
    Some(Suspect {
        spot: Spot {
            handle: Arc::from(entry.handle()?),
            block: block.cidr(),
            ordinal,
            sequence: block.sequence_of(ordinal),
        },
        doubt,
        node: Arc::from(entry.owner.get("node")?.as_str()),
        pod: pod_of(entry),
    })
}

/// The pod an entry names, by Calico's keys or, on further interfaces, by ours.
fn pod_of(entry: &Attribute) -> Option<(Arc<str>, Arc<str>)> {
    let key = |plain: &str, ours: &str| {
        let value = entry.owner.get(plain).or_else(|| entry.owner.get(ours))?;
        Some(Arc::from(value.as_str()))
    };
    Some((
        key("namespace", "margay.namespace")?,
        key("pod", "margay.pod")?,
    ))
}
