//! Kubernetes' own kinds, trimmed to the fields the network reads.
//!
//! A reflector of whole Pods would cost a node with 100,000 of them 2.5 GB. These types name a few fields, serde skips the
//! rest, and each object is turned into its [`model`] form and dropped.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use model::{NamedPort, Namespace, Node, PodRef, ServiceAccount, Transport};
use serde::{Deserialize, Serialize};

/// A Pod with the fields the network reads.
#[derive(Resource, Clone, Debug, Default, Deserialize, Serialize)]
#[resource(inherit = k8s_openapi::api::core::v1::Pod)]
pub struct PodObject {
    /// Object metadata.
    pub metadata: ObjectMeta,
    /// Desired state.
    #[serde(default)]
    pub spec: PodSpec,
    /// Observed state.
    #[serde(default)]
    pub status: PodStatus,
}

/// `spec` of a Pod.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodSpec {
    /// The node it is bound to.
    pub node_name: Option<String>,
    /// Its service account.
    pub service_account_name: Option<String>,
    /// True for pods in the host's network namespace.
    pub host_network: bool,
    /// Containers, for their named ports.
    pub containers: Vec<Container>,
    /// Init containers; sidecars are among them.
    pub init_containers: Vec<Container>,
}

/// A container, for its ports.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct Container {
    /// Declared ports.
    pub ports: Vec<ContainerPort>,
}

/// A declared port.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ContainerPort {
    /// Name, if it has one.
    pub name: Option<String>,
    /// Number inside the pod.
    pub container_port: u16,
    /// `TCP` if absent.
    pub protocol: Option<String>,
}

/// `status` of a Pod.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct PodStatus {
    /// Pending, Running, Succeeded, Failed, Unknown.
    pub phase: Option<String>,
    /// All addresses.
    #[serde(rename = "podIPs")]
    pub pod_ips: Vec<PodIp>,
}

/// One address of a Pod.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct PodIp {
    /// The address as text.
    pub ip: String,
}

/// A Node with the fields the network reads.
#[derive(Resource, Clone, Debug, Default, Deserialize, Serialize)]
#[resource(inherit = k8s_openapi::api::core::v1::Node)]
pub struct NodeObject {
    /// Object metadata.
    pub metadata: ObjectMeta,
    /// Observed state.
    #[serde(default)]
    pub status: NodeStatus,
}

/// `status` of a Node.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct NodeStatus {
    /// Addresses the kubelet reports.
    pub addresses: Vec<NodeAddress>,
}

/// One address of a Node.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct NodeAddress {
    /// InternalIP, ExternalIP, Hostname, …
    #[serde(rename = "type")]
    pub kind: String,
    /// The address as text.
    pub address: String,
}

/// A Namespace; its metadata is all the network reads.
#[derive(Resource, Clone, Debug, Default, Deserialize, Serialize)]
#[resource(inherit = k8s_openapi::api::core::v1::Namespace)]
pub struct NamespaceObject {
    /// Object metadata.
    pub metadata: ObjectMeta,
}

/// A `ServiceAccount`; its metadata is all the network reads.
#[derive(Resource, Clone, Debug, Default, Deserialize, Serialize)]
#[resource(inherit = k8s_openapi::api::core::v1::ServiceAccount)]
pub struct ServiceAccountObject {
    /// Object metadata.
    pub metadata: ObjectMeta,
}

/// An `EndpointSlice`, for policies that name a Service.
#[derive(Resource, Clone, Debug, Default, Deserialize, Serialize)]
#[resource(inherit = k8s_openapi::api::discovery::v1::EndpointSlice)]
pub struct EndpointSliceObject {
    /// Object metadata.
    pub metadata: ObjectMeta,
    /// Where the Service is served.
    #[serde(default)]
    pub endpoints: Option<Vec<SliceEndpoint>>,
    /// At which ports.
    #[serde(default)]
    pub ports: Option<Vec<SlicePort>>,
}

/// One place where a Service is served.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct SliceEndpoint {
    /// Its addresses; names for the address type FQDN.
    pub addresses: Vec<String>,
}

/// One port at which a Service is served.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct SlicePort {
    /// Absent means TCP.
    pub protocol: Option<String>,
    /// Number at the endpoint.
    pub port: Option<u16>,
}

/// Names the Service of a slice.
const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// Stands on the slices of Services without an address of their own.
const HEADLESS: &str = "service.kubernetes.io/headless";

impl EndpointSliceObject {
    /// The slice as the World takes it.
    pub fn into_model(self) -> model::EndpointSlice {
        let labels = self.metadata.labels.unwrap_or_default();
        let service = labels
            .get(SERVICE_NAME)
            .filter(|_| !labels.contains_key(HEADLESS));
        let endpoints = self.endpoints.unwrap_or_default();
        let addresses = endpoints.iter().flat_map(|endpoint| &endpoint.addresses);
        let ports = self.ports.unwrap_or_default().into_iter();
        model::EndpointSlice {
            id: model::NamespacedName::new(
                self.metadata.namespace.unwrap_or_default(),
                self.metadata.name.unwrap_or_default(),
            ),
            service: service.map(|name| name.as_str().into()),
            addresses: addresses.filter_map(|text| text.parse().ok()).collect(),
            ports: ports
                .filter_map(|port| {
                    let protocol = match port.protocol.as_deref() {
                        None | Some("TCP" | "") => Transport::Tcp,
                        Some("UDP") => Transport::Udp,
                        Some("SCTP") => Transport::Sctp,
                        Some(_) => return None,
                    };
                    Some((protocol, port.port?))
                })
                .collect(),
        }
    }
}

/// Annotations the network reads on pods and namespaces.
const ANNOTATIONS: [&str; 3] = [
    "cni.projectcalico.org/",
    "qos.projectcalico.org/",
    "kubernetes.io/",
];

impl PodObject {
    /// The pod as the World takes it.
    pub fn into_model(self) -> model::Pod {
        let containers = self
            .spec
            .init_containers
            .iter()
            .chain(&self.spec.containers);
        let ports = containers
            .flat_map(|container| &container.ports)
            .filter_map(named_port)
            .collect();
        model::Pod {
            id: PodRef::new(
                self.metadata.namespace.unwrap_or_default(),
                self.metadata.name.unwrap_or_default(),
            ),
            uid: self.metadata.uid.unwrap_or_default().into(),
            node: self.spec.node_name.map(Into::into),
            labels: self.metadata.labels.unwrap_or_default(),
            annotations: kept(self.metadata.annotations),
            service_account: self.spec.service_account_name.map(Into::into),
            ips: self
                .status
                .pod_ips
                .iter()
                .filter_map(|ip| ip.ip.parse().ok())
                .collect(),
            finished: matches!(self.status.phase.as_deref(), Some("Succeeded" | "Failed")),
            terminating: self.metadata.deletion_timestamp.is_some(),
            host_network: self.spec.host_network,
            ports,
        }
    }
}

fn named_port(port: &ContainerPort) -> Option<NamedPort> {
    let name: Arc<str> = port.name.as_deref()?.into();
    let protocol = match port.protocol.as_deref() {
        None | Some("TCP") => Transport::Tcp,
        Some("UDP") => Transport::Udp,
        Some("SCTP") => Transport::Sctp,
        Some(_) => return None,
    };
    Some(NamedPort {
        name,
        protocol,
        port: port.container_port,
    })
}

impl NodeObject {
    /// The node as the World takes it, with the annotations that could not be read.
    pub fn into_model(self) -> (Node, Vec<model::node::AnnotationError>) {
        let addresses = self.status.addresses.iter();
        let internal: Vec<IpAddr> = addresses
            .filter(|address| address.kind == "InternalIP")
            .filter_map(|address| address.address.parse().ok())
            .collect();
        Node::parse(
            &self.metadata.name.unwrap_or_default().into(),
            self.metadata.uid.unwrap_or_default(),
            self.metadata.labels.unwrap_or_default(),
            &self.metadata.annotations.unwrap_or_default(),
            internal,
        )
    }
}

impl NamespaceObject {
    /// The namespace as the World takes it.
    pub fn into_model(self) -> Namespace {
        Namespace {
            name: self.metadata.name.unwrap_or_default().into(),
            labels: self.metadata.labels.unwrap_or_default(),
            annotations: kept(self.metadata.annotations),
            terminating: self.metadata.deletion_timestamp.is_some(),
        }
    }
}

impl ServiceAccountObject {
    /// The account as the World takes it.
    pub fn into_model(self) -> ServiceAccount {
        ServiceAccount {
            id: model::NamespacedName::new(
                self.metadata.namespace.unwrap_or_default(),
                self.metadata.name.unwrap_or_default(),
            ),
            labels: self.metadata.labels.unwrap_or_default(),
        }
    }
}

fn kept(annotations: Option<BTreeMap<String, String>>) -> BTreeMap<String, String> {
    let mut annotations = annotations.unwrap_or_default();
    annotations.retain(|key, _| ANNOTATIONS.iter().any(|prefix| key.starts_with(prefix)));
    annotations
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slice_says_who_serves_what_and_a_headless_service_is_served_by_nobody() {
        let mut object = serde_json::json!({
            "metadata": { "name": "dns-x", "namespace": "kube-system", "labels": { "kubernetes.io/service-name": "dns" } },
            "addressType": "IPv6",
            "endpoints": [{ "addresses": ["fd00::1"], "conditions": { "ready": false } }, { "addresses": ["name.example"] }],
            "ports": [{ "name": "a", "port": 53, "protocol": "UDP" }, { "port": 80 }, { "name": "any" }],
        });
        let read = |object: &serde_json::Value| {
            let slice: EndpointSliceObject = serde_json::from_value(object.clone()).unwrap();
            slice.into_model()
        };
        let slice = read(&object);
        assert_eq!(slice.service, Some("dns".into()));
        assert_eq!(slice.addresses, ["fd00::1".parse().unwrap()].into());
        assert_eq!(
            slice.ports,
            [(Transport::Udp, 53), (Transport::Tcp, 80)].into()
        );
        object["metadata"]["labels"]["service.kubernetes.io/headless"] = "".into();
        assert_eq!(read(&object).service, None);
        object["endpoints"] = serde_json::Value::Null;
        assert!(read(&object).addresses.is_empty());
    }

    #[test]
    fn a_pod_keeps_what_the_network_reads_and_drops_the_rest() {
        let object: PodObject = serde_json::from_value(serde_json::json!({
            "metadata": {"namespace": "web", "name": "a", "uid": "u", "annotations": {
                "cni.projectcalico.org/ipv4pools": "[\"p\"]", "other/thing": "x"}},
            "spec": {"nodeName": "a1", "serviceAccountName": "robot", "volumes": [{"name": "v"}],
                "initContainers": [{"ports": [{"name": "probe", "containerPort": 1}]}],
                "containers": [{"image": "x", "ports": [
                    {"name": "dns", "containerPort": 53, "protocol": "UDP"}, {"containerPort": 80}]}]},
            "status": {"phase": "Running", "podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}]}
        }))
        .unwrap();
        let pod = object.into_model();
        assert_eq!(pod.ips.len(), 2);
        assert_eq!(pod.annotations.len(), 1);
        let ports: Vec<_> = pod
            .ports
            .iter()
            .map(|port| (&*port.name, port.protocol, port.port))
            .collect();
        assert_eq!(
            ports,
            [("probe", Transport::Tcp, 1), ("dns", Transport::Udp, 53)]
        );
        assert!(!pod.finished);
    }
}
