//! Named sets of addresses that selectors find by their labels, like endpoints.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Serialize};

use crate::endpoint::{
    Labels, NAMESPACE_LABEL, NAMESPACE_PREFIX, Namespace, ORCHESTRATOR_LABEL, is_inherited,
};
use crate::ids::{NamespacedName, ObjectName};

/// A set of addresses for the policies of one namespace, and for global ones.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkSet {
    /// Namespace and name.
    pub id: NamespacedName,
    /// `metadata.labels`.
    pub labels: Labels,
    /// `spec.nets` as far as they can be read, without host bits.
    pub nets: BTreeSet<IpNet>,
}

/// A set of addresses for global policies and for peers with `namespaceSelector: global()`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GlobalNetworkSet {
    /// Its name.
    pub name: ObjectName,
    /// `metadata.labels`.
    pub labels: Labels,
    /// `spec.nets` as far as they can be read, without host bits.
    pub nets: BTreeSet<IpNet>,
}

/// An entry of `spec.nets` that is no address and no prefix; the rest of the set counts.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("spec.nets[{index}] {text:?} is not a CIDR; it is left out")]
pub struct BadNet {
    /// Place in the list.
    pub index: usize,
    /// What stands there.
    pub text: String,
}

impl NetworkSet {
    /// Reads the object.
    pub fn parse(object: &api::NetworkSet) -> (Self, Vec<BadNet>) {
        let (nets, bad) = read(&object.spec.nets);
        let ObjectMeta {
            name, namespace, ..
        } = &object.metadata;
        let id = NamespacedName::new(
            namespace.clone().unwrap_or_default(),
            name.clone().unwrap_or_default(),
        );
        let labels = object.metadata.labels.clone().unwrap_or_default();
        (Self { id, labels, nets }, bad)
    }

    /// Labels that selectors see: its own, the name of its namespace, and those inherited from it.
    pub fn effective_labels(&self, namespace: Option<&Namespace>) -> Labels {
        let mut labels = own_labels(&self.labels);
        let name = self.id.namespace.as_str();
        for (key, value) in namespace.into_iter().flat_map(|space| &space.labels) {
            labels.insert(format!("{NAMESPACE_PREFIX}{key}"), value.clone());
        }
        labels.insert(NAMESPACE_LABEL.into(), name.into());
        labels.insert(
            format!("{NAMESPACE_PREFIX}projectcalico.org/name"),
            name.into(),
        );
        labels
    }
}

impl GlobalNetworkSet {
    /// Reads the object.
    pub fn parse(object: &api::GlobalNetworkSet) -> (Self, Vec<BadNet>) {
        let (nets, bad) = read(&object.spec.nets);
        let name = object.metadata.name.clone().unwrap_or_default().into();
        let labels = object.metadata.labels.clone().unwrap_or_default();
        (Self { name, labels, nets }, bad)
    }

    /// Labels that selectors see: its own, as far as they do not claim a namespace.
    pub fn effective_labels(&self) -> Labels {
        own_labels(&self.labels)
    }
}

/// Without what only we may set: a set of addresses is no pod, and is of no namespace but its own.
fn own_labels(labels: &Labels) -> Labels {
    let own = labels.iter().filter(|(key, _)| {
        !is_inherited(key) && *key != NAMESPACE_LABEL && *key != ORCHESTRATOR_LABEL
    });
    own.map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}

fn read(texts: &[String]) -> (BTreeSet<IpNet>, Vec<BadNet>) {
    let (mut nets, mut bad) = (BTreeSet::new(), Vec::new());
    for (index, text) in texts.iter().enumerate() {
        let net = text.parse::<IpNet>().map(|net| net.trunc());
        match net.or_else(|_| text.parse::<IpAddr>().map(IpNet::from)) {
            Ok(net) => {
                nets.insert(net);
            }
            Err(_) => bad.push(BadNet {
                index,
                text: text.clone(),
            }),
        }
    }
    (nets, bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_is_read_entry_by_entry_and_claims_no_label_of_ours() {
        let mut object = api::NetworkSet::default();
        object.metadata.namespace = Some("web".into());
        object.metadata.name = Some("partners".into());
        object.metadata.labels = Some(Labels::from([
            ("role".into(), "partner".into()),
            (ORCHESTRATOR_LABEL.into(), "k8s".into()),
            (NAMESPACE_LABEL.into(), "kube-system".into()),
            ("pcns.team".into(), "red".into()),
        ]));
        object.spec.nets = ["192.0.2.7/24", "nonsense", "2001:db8::1", "10.0.0.0/33"]
            .map(String::from)
            .to_vec();
        let (set, bad) = NetworkSet::parse(&object);
        let expected = ["192.0.2.0/24", "2001:db8::1/128"].map(|net| net.parse().unwrap());
        assert_eq!(set.nets, BTreeSet::from(expected));
        assert_eq!(bad.iter().map(|bad| bad.index).collect::<Vec<_>>(), [1, 3]);
        let namespace = Namespace {
            name: "web".into(),
            labels: Labels::from([("team".into(), "blue".into())]),
            annotations: Labels::new(),
            terminating: false,
        };
        let expected = [
            ("role", "partner"),
            (NAMESPACE_LABEL, "web"),
            ("pcns.projectcalico.org/name", "web"),
            ("pcns.team", "blue"),
        ];
        let expected = expected.map(|(key, value)| (key.into(), value.into()));
        assert_eq!(
            set.effective_labels(Some(&namespace)),
            Labels::from(expected)
        );
    }
}
