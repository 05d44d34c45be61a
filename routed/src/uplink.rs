//! Which address this node is known by, and which device carries it.

use std::net::IpAddr;

use dataplane::host::Host;
use ipnet::IpNet;
use model::Node;

/// The node's address of one family, as it is published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uplink {
    /// Address with the prefix length of its subnet.
    pub address: IpNet,
    /// The device that carries it.
    pub device: String,
}

/// Chooses by the kubelet's InternalIP: what the cluster uses to reach the node. A device that carries it must exist here.
pub fn choose(node: &Node, host: &Host, v6: bool) -> Option<Uplink> {
    let internal = node
        .internal_ips
        .iter()
        .filter(|address| address.is_ipv6() == v6);
    internal.copied().find_map(|address| carrier(host, address))
}

fn carrier(host: &Host, address: IpAddr) -> Option<Uplink> {
    let (name, device) = host.carrier_of(address)?;
    let net = device.addresses.iter().find(|net| net.addr() == address)?;
    Some(Uplink {
        address: *net,
        device: name.to_string(),
    })
}

/// Why the node has no address, for readiness.
pub fn missing(node: Option<&Node>) -> String {
    match node {
        None => "the API server has not told of this Node yet; is --node its name?".to_owned(),
        Some(node) if node.internal_ips.is_empty() => {
            format!("Node {} has no InternalIP in its status", node.name)
        }
        Some(node) => {
            let addresses: Vec<String> =
                node.internal_ips.iter().map(ToString::to_string).collect();
            format!(
                "no device of this host carries {}, the InternalIP of Node {}",
                addresses.join(" or "),
                node.name
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use dataplane::host::Device;
    use dataplane::link::IfName;

    #[test]
    fn the_internal_ip_is_chosen_with_the_subnet_of_its_device() {
        let (node, _) = Node::parse(
            &"a1".into(),
            String::new(),
            BTreeMap::new(),
            &BTreeMap::new(),
            vec!["fd01::11".parse().unwrap(), "10.1.0.11".parse().unwrap()],
        );
        let device = |net: &str| Device {
            addresses: vec![net.parse().unwrap()],
            ..Device::default()
        };
        let host = Host {
            devices: BTreeMap::from([
                (IfName::parse("docker0").unwrap(), device("172.17.0.1/16")),
                (IfName::parse("eth0").unwrap(), device("10.1.0.11/24")),
            ]),
        };
        let uplink = choose(&node, &host, false).unwrap();
        assert_eq!(
            (uplink.device.as_str(), uplink.address.to_string().as_str()),
            ("eth0", "10.1.0.11/24")
        );
        assert_eq!(
            choose(&node, &host, true),
            None,
            "no device carries the IPv6 address"
        );
    }
}
