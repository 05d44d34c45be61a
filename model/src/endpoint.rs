//! Pods, attached interfaces and the labels policy sees on them.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::ids::{AttachmentId, NodeName, ObjectName, PodRef};

/// Label that names an endpoint's namespace; always ours, whatever the pod says.
pub const NAMESPACE_LABEL: &str = "projectcalico.org/namespace";
/// Label that names the orchestrator: `k8s` on pods.
pub const ORCHESTRATOR_LABEL: &str = "projectcalico.org/orchestrator";
/// Label that names an endpoint's service account.
pub const SERVICE_ACCOUNT_LABEL: &str = "projectcalico.org/serviceaccount";
/// Prefix of labels inherited from the Namespace.
pub const NAMESPACE_PREFIX: &str = "pcns.";
/// Prefix of labels inherited from the service account.
pub const SERVICE_ACCOUNT_PREFIX: &str = "pcsa.";

/// Labels of one endpoint: key → value, sorted.
pub type Labels = BTreeMap<String, String>;

/// Transport protocol of a container port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Transport {
    /// TCP, IP protocol 6.
    Tcp,
    /// UDP, IP protocol 17.
    Udp,
    /// SCTP, IP protocol 132.
    Sctp,
}

impl Transport {
    /// The IP protocol number.
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }
}

/// A port of a container that has a name; policies may refer to it by that name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct NamedPort {
    /// `ports[].name` of the container.
    pub name: Arc<str>,
    /// `ports[].protocol`.
    pub protocol: Transport,
    /// `ports[].containerPort`.
    pub port: u16,
}

/// A Pod, trimmed to what the network needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pod {
    /// Namespace and name.
    pub id: PodRef,
    /// `metadata.uid`.
    pub uid: Arc<str>,
    /// `spec.nodeName`; absent while unscheduled.
    pub node: Option<NodeName>,
    /// `metadata.labels`.
    pub labels: Labels,
    /// Annotations of `cni.projectcalico.org/`, `qos.projectcalico.org/` and alike; others are not kept.
    pub annotations: BTreeMap<String, String>,
    /// `spec.serviceAccountName`.
    pub service_account: Option<ObjectName>,
    /// `status.podIPs`.
    pub ips: Vec<IpAddr>,
    /// True once the phase is Succeeded or Failed: its address may be reused.
    pub finished: bool,
    /// True while the pod has a deletion timestamp.
    pub terminating: bool,
    /// `spec.hostNetwork`: such pods are node traffic, never endpoints.
    pub host_network: bool,
    /// Named container ports, init and sidecar containers included.
    pub ports: Vec<NamedPort>,
}

/// A Namespace, trimmed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Namespace {
    /// `metadata.name`.
    pub name: ObjectName,
    /// `metadata.labels`.
    pub labels: Labels,
    /// Annotations of `cni.projectcalico.org/`; others are not kept.
    pub annotations: BTreeMap<String, String>,
    /// True while the namespace has a deletion timestamp.
    pub terminating: bool,
}

/// A `ServiceAccount`, trimmed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceAccount {
    /// Namespace and name.
    pub id: crate::ids::NamespacedName,
    /// `metadata.labels`.
    pub labels: Labels,
}

/// An interface of a sandbox on this node: what the CNI ADD made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocalEndpoint {
    /// Key of the attachment.
    pub id: AttachmentId,
    /// The pod it belongs to; absent when the runtime gave no Kubernetes arguments.
    pub pod: Option<PodRef>,
    /// UID of that pod, so that a cached predecessor of the same name is never used.
    pub pod_uid: Option<Arc<str>>,
    /// Name of the host end.
    pub interface: Arc<str>,
    /// Interface index of the host end.
    pub ifindex: u32,
    /// MAC of the end inside the sandbox, if known.
    pub mac: Option<[u8; 6]>,
    /// Addresses of the sandbox end, IPv4 first.
    pub addresses: Vec<IpAddr>,
    /// Labels from the network configuration, used only without a pod.
    pub labels: Labels,
}

/// Labels policy sees on a pod: its own, ours, and those inherited from Namespace and service account.
///
/// An own label that starts with `pcns.` or `pcsa.` is left out: a pod author must not claim another namespace's labels.
pub fn pod_labels(
    pod: &Pod,
    namespace: Option<&Namespace>,
    account: Option<&ServiceAccount>,
) -> Labels {
    let mut labels: Labels = pod
        .labels
        .iter()
        .filter(|(key, _)| !is_inherited(key))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    let namespace_name = pod.id.namespace.as_str();
    labels.insert(NAMESPACE_LABEL.into(), namespace_name.into());
    labels.insert(ORCHESTRATOR_LABEL.into(), "k8s".into());
    inherit(
        &mut labels,
        NAMESPACE_PREFIX,
        namespace.map(|ns| &ns.labels),
    );
    labels.insert("pcns.projectcalico.org/name".into(), namespace_name.into());
    if let Some(name) = &pod.service_account {
        labels.insert(SERVICE_ACCOUNT_LABEL.into(), name.as_str().into());
        inherit(
            &mut labels,
            SERVICE_ACCOUNT_PREFIX,
            account.map(|sa| &sa.labels),
        );
        labels.insert("pcsa.projectcalico.org/name".into(), name.as_str().into());
    }
    labels
}

/// True for label keys that only we may set.
pub fn is_inherited(key: &str) -> bool {
    key.starts_with(NAMESPACE_PREFIX) || key.starts_with(SERVICE_ACCOUNT_PREFIX)
}

fn inherit(labels: &mut Labels, prefix: &str, parent: Option<&Labels>) {
    for (key, value) in parent.into_iter().flatten() {
        labels.insert(format!("{prefix}{key}"), value.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(labels: &[(&str, &str)]) -> Pod {
        Pod {
            id: PodRef::new("web", "front"),
            uid: "u".into(),
            node: None,
            labels: labels
                .iter()
                .map(|(key, value)| ((*key).into(), (*value).into()))
                .collect(),
            annotations: BTreeMap::new(),
            service_account: Some("robot".into()),
            ips: Vec::new(),
            finished: false,
            terminating: false,
            host_network: false,
            ports: Vec::new(),
        }
    }

    #[test]
    fn a_pod_cannot_claim_the_labels_of_a_namespace() {
        let namespace = Namespace {
            name: "web".into(),
            labels: Labels::from([("team".into(), "blue".into())]),
            annotations: BTreeMap::new(),
            terminating: false,
        };
        let labels = pod_labels(
            &pod(&[
                ("pcns.team", "red"),
                ("app", "x"),
                (NAMESPACE_LABEL, "kube-system"),
            ]),
            Some(&namespace),
            None,
        );
        assert_eq!(labels["pcns.team"], "blue");
        assert_eq!(labels[NAMESPACE_LABEL], "web");
        assert_eq!(labels["pcns.projectcalico.org/name"], "web");
        assert_eq!(labels[SERVICE_ACCOUNT_LABEL], "robot");
        assert_eq!(labels["app"], "x");
    }
}
