//! Which address this node is known by, and which device carries it.

use std::net::IpAddr;

use dataplane::host::Host;
use dataplane::plan::pools::{Family, Pools};
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

/// The node's addresses, IPv4 first.
pub fn all(node: &Node, host: &Host, pools: &Pools) -> Vec<Uplink> {
    let chosen = [false, true].map(|v6| choose(node, host, v6));
    let beside = |v6: bool| {
        let family = if v6 { Family::V6 } else { Family::V4 };
        let other = chosen.get(usize::from(!v6))?.as_ref()?;
        pools.serves(family).then(|| neighbour(host, other, v6))?
    };
    let found = [false, true].map(|v6| match chosen.get(usize::from(v6)) {
        Some(Some(uplink)) => Some(uplink.clone()),
        Some(None) | None => beside(v6),
    });
    found.into_iter().flatten().collect()
}

/// For `routed status`; `None` without any address.
pub fn print(uplinks: &[Uplink]) -> Option<String> {
    let texts: Vec<String> = uplinks
        .iter()
        .map(|uplink| format!("{} ({})", uplink.address, uplink.device))
        .collect();
    (!texts.is_empty()).then(|| texts.join(", "))
}

/// Chooses by the kubelet's InternalIP: what the cluster uses to reach the node. A device that carries it must exist here.
pub fn choose(node: &Node, host: &Host, v6: bool) -> Option<Uplink> {
    let internal = node
        .internal_ips
        .iter()
        .filter(|address| address.is_ipv6() == v6);
    internal.copied().find_map(|address| carrier(host, address))
}

/// Many kubelets tell one address although the host has two families. Pools of the other one are served from the device that carries
/// the address told, and from no other: bridges of container engines and virtual machines never count. The smallest global address,
/// so that a restart chooses the same.
fn neighbour(host: &Host, told: &Uplink, v6: bool) -> Option<Uplink> {
    let (name, device) = host.carrier_of(told.address.addr())?;
    let global = |net: &&IpNet| net.addr().is_ipv6() == v6 && is_global(net.addr());
    let address = device.addresses.iter().filter(global).min()?;
    Some(Uplink {
        address: *address,
        device: name.to_string(),
    })
}

fn is_global(address: IpAddr) -> bool {
    let local = match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    !local && !address.is_loopback() && !address.is_multicast() && !address.is_unspecified()
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
            ..Host::default()
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

    #[test]
    fn a_family_the_kubelet_is_silent_about_is_looked_for_beside_the_one_it_told() {
        let internal = |addresses: &[&str]| {
            let addresses = addresses.iter().map(|text| text.parse().unwrap());
            let name = "a1".into();
            let empty = BTreeMap::new();
            Node::parse(
                &name,
                String::new(),
                empty.clone(),
                &empty,
                addresses.collect(),
            )
            .0
        };
        let device = |nets: &[&str]| Device {
            addresses: nets.iter().map(|net| net.parse().unwrap()).collect(),
            ..Device::default()
        };
        let eth0 = ["10.1.0.11/24", "fe80::1/64", "fd01::22/64", "fd01::11/64"];
        let host = Host {
            devices: BTreeMap::from([
                (IfName::parse("docker0").unwrap(), device(&["fd00::1/64"])),
                (IfName::parse("eth0").unwrap(), device(&eth0)),
            ]),
            ..Host::default()
        };
        let pools = |cidrs: &[&str]| {
            let mut world = model::World::new("a1".into());
            for cidr in cidrs {
                let spec = api::IPPoolSpec {
                    cidr: (*cidr).to_owned(),
                    ..api::IPPoolSpec::default()
                };
                let pool = api::IPPool::new(&cidr.replace(['.', ':', '/'], "-"), spec);
                world.apply(model::Event::upsert(pool));
            }
            Pools::read(&world).0
        };
        let told = internal(&["10.1.0.11"]);
        let addresses = |node: &Node, cidrs: &[&str]| print(&all(node, &host, &pools(cidrs)));
        assert_eq!(
            addresses(&told, &["10.244.0.0/16"]).as_deref(),
            Some("10.1.0.11/24 (eth0)")
        );
        assert_eq!(
            addresses(&told, &["fd00:10::/64"]).as_deref(),
            Some("10.1.0.11/24 (eth0), fd01::11/64 (eth0)")
        );
        assert_eq!(
            addresses(&internal(&["fd01::22"]), &["fd00:10::/64"]).as_deref(),
            Some("fd01::22/64 (eth0)"),
            "what the kubelet told wins, and IPv4 is served by no pool"
        );
        assert_eq!(addresses(&internal(&[]), &["10.244.0.0/16"]), None);
    }
}
