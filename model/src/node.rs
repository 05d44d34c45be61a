//! A Kubernetes Node as the network sees it.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

use crate::ids::NodeName;

/// Annotation keys on Node objects; Calico nodes beside us read and write the same ones.
pub mod annotation {
    /// Node address with prefix length, IPv4.
    pub const IPV4_ADDRESS: &str = "projectcalico.org/IPv4Address";
    /// Node address with prefix length, IPv6.
    pub const IPV6_ADDRESS: &str = "projectcalico.org/IPv6Address";
    /// AS number of the node: plain or dotted.
    pub const AS_NUMBER: &str = "projectcalico.org/ASNumber";
    /// Cluster id; present on route reflectors.
    pub const ROUTE_REFLECTOR_CLUSTER_ID: &str = "projectcalico.org/RouteReflectorClusterID";
    /// Tunnel address of `vxlan.calico`.
    pub const IPV4_VXLAN_TUNNEL: &str = "projectcalico.org/IPv4VXLANTunnelAddr";
    /// Tunnel address of `vxlan-v6.calico`.
    pub const IPV6_VXLAN_TUNNEL: &str = "projectcalico.org/IPv6VXLANTunnelAddr";
    /// Tunnel address of `tunl0`.
    pub const IPV4_IPIP_TUNNEL: &str = "projectcalico.org/IPv4IPIPTunnelAddr";
    /// MAC of `vxlan.calico`, if it is not the derived one.
    pub const VXLAN_MAC: &str = "projectcalico.org/VXLANTunnelMACAddr";
    /// MAC of `vxlan-v6.calico`, if it is not the derived one.
    pub const VXLAN_MAC_V6: &str = "projectcalico.org/VXLANTunnelMACAddrV6";
}

/// A node of the cluster. Annotations are parsed once, here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// `metadata.name`.
    pub name: NodeName,
    /// `metadata.uid`: a node deleted and made again under its name is another node.
    pub uid: String,
    /// `metadata.labels`.
    pub labels: BTreeMap<String, String>,
    /// Node address with the prefix length of its subnet, from the annotation.
    pub ipv4: Option<Ipv4Net>,
    /// The same for IPv6.
    pub ipv6: Option<Ipv6Net>,
    /// `status.addresses` of type InternalIP, in the order of the object.
    pub internal_ips: Vec<IpAddr>,
    /// AS number from the annotation; absent = the cluster's.
    pub asn: Option<u32>,
    /// Set on route reflectors.
    pub route_reflector_cluster_id: Option<Ipv4Addr>,
    /// Address of `vxlan.calico` on that node.
    pub vxlan_ipv4: Option<Ipv4Addr>,
    /// Address of `vxlan-v6.calico` on that node.
    pub vxlan_ipv6: Option<Ipv6Addr>,
    /// Address of `tunl0` on that node.
    pub ipip_ipv4: Option<Ipv4Addr>,
    /// MAC of `vxlan.calico`; absent = derived from the node's name.
    pub vtep_mac: Option<[u8; 6]>,
    /// MAC of `vxlan-v6.calico`; absent = derived from the node's name.
    pub vtep_mac_v6: Option<[u8; 6]>,
}

/// An annotation that could not be read; the node is used without it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("Node {node}: annotation {key} is {value:?}, expected {expected}; it is ignored")]
pub struct AnnotationError {
    /// The node that carries it.
    pub node: NodeName,
    /// The annotation's key.
    pub key: &'static str,
    /// What stands there.
    pub value: String,
    /// What should stand there.
    pub expected: &'static str,
}

impl Node {
    /// Parses a Node's metadata and addresses. A bad annotation is reported and treated as absent.
    pub fn parse(
        name: &NodeName,
        uid: String,
        labels: BTreeMap<String, String>,
        annotations: &BTreeMap<String, String>,
        internal_ips: Vec<IpAddr>,
    ) -> (Self, Vec<AnnotationError>) {
        let mut reader = Reader {
            node: name,
            annotations,
            errors: Vec::new(),
        };
        let node = Self {
            ipv4: reader.read(
                annotation::IPV4_ADDRESS,
                "an IPv4 address with prefix length",
                parse_net4,
            ),
            ipv6: reader.read(
                annotation::IPV6_ADDRESS,
                "an IPv6 address with prefix length",
                parse_net6,
            ),
            asn: reader.read(
                annotation::AS_NUMBER,
                "an AS number, plain or dotted",
                parse_as_number,
            ),
            route_reflector_cluster_id: reader.read(
                annotation::ROUTE_REFLECTOR_CLUSTER_ID,
                "a dotted quad",
                from_str,
            ),
            vxlan_ipv4: reader.read(annotation::IPV4_VXLAN_TUNNEL, "an IPv4 address", from_str),
            vxlan_ipv6: reader.read(annotation::IPV6_VXLAN_TUNNEL, "an IPv6 address", from_str),
            ipip_ipv4: reader.read(annotation::IPV4_IPIP_TUNNEL, "an IPv4 address", from_str),
            vtep_mac: reader.read(annotation::VXLAN_MAC, "a MAC address", parse_mac),
            vtep_mac_v6: reader.read(annotation::VXLAN_MAC_V6, "a MAC address", parse_mac),
            internal_ips,
            name: name.clone(),
            uid,
            labels,
        };
        let errors = reader.errors;
        (node, errors)
    }

    /// The node's own address of a family, without its prefix length.
    pub fn address(&self, v6: bool) -> Option<IpAddr> {
        if v6 {
            self.ipv6.map(|net| net.addr().into())
        } else {
            self.ipv4.map(|net| net.addr().into())
        }
    }

    /// The subnet the node's address of a family lies in.
    pub fn subnet(&self, v6: bool) -> Option<IpNet> {
        if v6 {
            self.ipv6.map(|net| net.trunc().into())
        } else {
            self.ipv4.map(|net| net.trunc().into())
        }
    }

    /// Every address this node owns as far as the cluster knows: annotations and `InternalIP`s.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        let annotated = [self.address(false), self.address(true)];
        let extra = self
            .internal_ips
            .iter()
            .copied()
            .filter(move |ip| !annotated.contains(&Some(*ip)));
        annotated.into_iter().flatten().chain(extra)
    }
}

struct Reader<'a> {
    node: &'a NodeName,
    annotations: &'a BTreeMap<String, String>,
    errors: Vec<AnnotationError>,
}

impl Reader<'_> {
    fn read<T>(
        &mut self,
        key: &'static str,
        expected: &'static str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Option<T> {
        let value = self.annotations.get(key).map(|text| text.trim())?;
        if value.is_empty() {
            return None;
        }
        let parsed = parse(value);
        if parsed.is_none() {
            self.errors.push(AnnotationError {
                node: self.node.clone(),
                key,
                value: value.chars().take(64).collect(),
                expected,
            });
        }
        parsed
    }
}

fn from_str<T: FromStr>(text: &str) -> Option<T> {
    text.parse().ok()
}

fn parse_net4(text: &str) -> Option<Ipv4Net> {
    text.parse()
        .ok()
        .or_else(|| text.parse::<Ipv4Addr>().ok().map(Ipv4Net::from))
}

fn parse_net6(text: &str) -> Option<Ipv6Net> {
    text.parse()
        .ok()
        .or_else(|| text.parse::<Ipv6Addr>().ok().map(Ipv6Net::from))
}

fn parse_as_number(text: &str) -> Option<u32> {
    match text.split_once('.') {
        None => text.parse().ok(),
        Some((high, low)) => {
            let (high, low): (u16, u16) = (high.parse().ok()?, low.parse().ok()?);
            Some(u32::from(high) << 16 | u32::from(low))
        }
    }
}

fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let mut mac = [0; 6];
    let mut parts = text.split(':');
    for octet in &mut mac {
        let part = parts.next()?;
        if part.len() != 2 {
            return None;
        }
        *octet = u8::from_str_radix(part, 16).ok()?;
    }
    parts.next().is_none().then_some(mac)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(pairs: &[(&str, &str)]) -> (Node, Vec<AnnotationError>) {
        let annotations = pairs
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect();
        Node::parse(
            &"a1".into(),
            "uid".into(),
            BTreeMap::new(),
            &annotations,
            vec!["10.1.0.11".parse().unwrap()],
        )
    }

    #[test]
    fn annotations_of_calico_are_read() {
        let (node, errors) = parse(&[
            (annotation::IPV4_ADDRESS, "10.1.0.11/24"),
            (annotation::AS_NUMBER, "1.10"),
            (annotation::VXLAN_MAC, "66:0a:ff:00:01:02"),
            (annotation::ROUTE_REFLECTOR_CLUSTER_ID, "244.0.0.1"),
        ]);
        assert!(errors.is_empty());
        assert_eq!(node.subnet(false), Some("10.1.0.0/24".parse().unwrap()));
        assert_eq!(node.asn, Some(65546));
        assert_eq!(node.vtep_mac, Some([0x66, 0x0a, 0xff, 0, 1, 2]));
        assert_eq!(
            node.addresses().count(),
            1,
            "the InternalIP equals the annotation"
        );
    }

    #[test]
    fn a_bad_annotation_is_named_and_counts_as_absent() {
        let (node, errors) = parse(&[
            (annotation::AS_NUMBER, "4294967296"),
            (annotation::VXLAN_MAC, "66:0a:ff:00:01"),
            (annotation::IPV4_VXLAN_TUNNEL, ""),
        ]);
        assert_eq!(
            (node.asn, node.vtep_mac, node.vxlan_ipv4),
            (None, None, None)
        );
        assert_eq!(errors.len(), 2);
        assert!(errors[0].to_string().contains("projectcalico.org/ASNumber"));
    }
}
