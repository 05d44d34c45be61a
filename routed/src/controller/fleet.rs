//! What all nodes report together: how far each is, and what they reject. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::kube::report::{Rejection, Report};

/// Kind, namespace (empty for cluster-wide kinds) and name of an object.
pub(super) type ObjectId = (String, String, String);

/// The nodes that exist, by what their daemons say.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Fleet {
    /// Nodes whose daemon lives, and its report.
    alive: BTreeMap<Arc<str>, Arc<Report>>,
    /// Nodes whose daemon is silent.
    silent: BTreeSet<Arc<str>>,
    /// Object → node and its words.
    rejected: BTreeMap<ObjectId, Vec<(Arc<str>, Rejection)>>,
}

/// How far an object is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Progress {
    /// Nodes that have it in the kernel.
    pub(super) done: usize,
    /// Nodes that do not yet, by name.
    pub(super) waiting: Vec<Arc<str>>,
    /// Nodes that exist and are not heard of, by name.
    pub(super) silent: Vec<Arc<str>>,
}

impl Fleet {
    /// Puts the reports together.
    pub(super) fn new(alive: BTreeMap<Arc<str>, Arc<Report>>, silent: BTreeSet<Arc<str>>) -> Self {
        let mut rejected: BTreeMap<ObjectId, Vec<(Arc<str>, Rejection)>> = BTreeMap::new();
        for (node, report) in &alive {
            for rejection in &report.rejected {
                let id = (
                    rejection.kind.clone(),
                    rejection.namespace.clone(),
                    rejection.name.clone(),
                );
                rejected
                    .entry(id)
                    .or_default()
                    .push((Arc::clone(node), rejection.clone()));
            }
        }
        Self {
            alive,
            silent,
            rejected,
        }
    }

    /// How far an object of a kind is that changed last at `version`; `None` when no daemon reports on that kind.
    pub(super) fn progress(&self, kind: &str, version: u64) -> Option<Progress> {
        let reported: Vec<(&Arc<str>, u64)> = self
            .alive
            .iter()
            .filter_map(|(node, report)| Some((node, *report.applied.get(kind)?)))
            .collect();
        if reported.is_empty() {
            return None;
        }
        let waiting: Vec<Arc<str>> = reported
            .iter()
            .filter(|(_, applied)| *applied < version)
            .map(|(node, _)| Arc::clone(node))
            .collect();
        Some(Progress {
            done: reported.len() - waiting.len(),
            waiting,
            silent: self.silent.iter().cloned().collect(),
        })
    }

    /// What nodes say against an object.
    pub(super) fn rejections(&self, id: &ObjectId) -> &[(Arc<str>, Rejection)] {
        self.rejected.get(id).map_or(&[], Vec::as_slice)
    }
}
