//! Who this node is towards its peers.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use api::bgp::{DEFAULT_AS_NUMBER, DEFAULT_LISTEN_PORT};
use api::{BGPConfigurationSpec, BindMode};
use bgp::{Asn, Family, FamilyMap};
use model::{Node, NodeName, World, settings};
use sha2::{Digest as _, Sha256};

use super::{Finding, Reason};

/// This node as a speaker.
#[derive(Clone, Debug)]
pub(super) struct Identity {
    pub(super) name: NodeName,
    pub(super) asn: Asn,
    /// AS number of nodes that have none of their own.
    pub(super) cluster_as: Asn,
    pub(super) router_id: Ipv4Addr,
    /// Set when this node reflects routes.
    pub(super) cluster_id: Option<Ipv4Addr>,
    /// Address of each family sessions are spoken from.
    pub(super) addresses: FamilyMap<Option<IpAddr>>,
    /// The cluster's settings.
    pub(super) settings: BGPConfigurationSpec,
}

impl Identity {
    /// Reads it, or says what is missing.
    pub(super) fn read(world: &World, findings: &mut Vec<Finding>) -> Result<Self, String> {
        let name = world.this_node_name().clone();
        let node = world
            .this_node()
            .ok_or_else(|| format!("the API server has not told of Node {name} yet"))?;
        let addresses = FamilyMap::from_fn(|family| node.address(family == Family::Ipv6Unicast));
        let settings::BgpSettings { default, node: own } = settings::bgp(world);
        let settings = default.unwrap_or_default();
        if let Some(own) = own {
            check_node_object(&name, &own, findings);
        }
        let cluster_as = cluster_as(&settings, findings);
        let router_id = match (node.ipv4, node.ipv6) {
            (Some(net), _) => net.addr(),
            (None, Some(_)) => hashed_router_id(&name),
            (None, None) => return Err(format!("Node {name} has no BGP address annotation yet")),
        };
        Ok(Self {
            asn: as_of(node, cluster_as),
            cluster_id: node.route_reflector_cluster_id,
            name,
            cluster_as,
            router_id,
            addresses,
            settings,
        })
    }

    /// The AS number of a node.
    pub(super) fn as_of(&self, node: &Node) -> Asn {
        as_of(node, self.cluster_as)
    }

    /// Our address of the family of `peer`.
    pub(super) fn address_towards(&self, peer: IpAddr) -> Option<IpAddr> {
        *self.addresses.get(family_of(peer))
    }

    /// Where to listen: all addresses, or with `bindMode: NodeIP` the node's own.
    pub(super) fn listen(&self, world: &World) -> Vec<SocketAddr> {
        let port = port_of(world, &self.settings, &self.name);
        let node_ip = self.settings.bind_mode == Some(BindMode::NodeIP);
        let bind = |(family, address): (Family, &Option<IpAddr>)| {
            let address = (*address)?;
            let any: IpAddr = match family {
                Family::Ipv4Unicast => Ipv4Addr::UNSPECIFIED.into(),
                Family::Ipv6Unicast => Ipv6Addr::UNSPECIFIED.into(),
            };
            Some(SocketAddr::new(if node_ip { address } else { any }, port))
        };
        self.addresses.iter().filter_map(bind).collect()
    }
}

/// Port a node listens on.
pub(super) fn port_of(world: &World, default: &BGPConfigurationSpec, node: &NodeName) -> u16 {
    let own = world
        .bgp_configurations()
        .get(format!("node.{node}").as_str());
    own.and_then(|object| object.spec.listen_port)
        .or(default.listen_port)
        .filter(|port| *port != 0)
        .unwrap_or(DEFAULT_LISTEN_PORT)
}

/// The family of a session with `address`.
pub(super) fn family_of(address: IpAddr) -> Family {
    if address.is_ipv6() {
        Family::Ipv6Unicast
    } else {
        Family::Ipv4Unicast
    }
}

fn as_of(node: &Node, cluster_as: Asn) -> Asn {
    node.asn
        .filter(|number| *number != 0)
        .map_or(cluster_as, Asn)
}

fn cluster_as(settings: &BGPConfigurationSpec, findings: &mut Vec<Finding>) -> Asn {
    let number = settings.cluster_as();
    if number.0 != 0 {
        return Asn(number.0);
    }
    findings.push(Finding {
        kind: "BGPConfiguration",
        name: "default".into(),
        path: "spec.asNumber",
        reason: Reason::Invalid,
        message: format!("0 is no AS number of a speaker (RFC 7607); {DEFAULT_AS_NUMBER} is used"),
    });
    Asn(DEFAULT_AS_NUMBER.0)
}

/// The first four octets of a hash of the name: stable over restarts, and different between nodes but for an accident of one in
/// four thousand million per pair.
fn hashed_router_id(name: &NodeName) -> Ipv4Addr {
    let digest = Sha256::digest(name.as_str());
    let octets = digest.first_chunk::<4>().copied().unwrap_or([0, 0, 0, 1]);
    match Ipv4Addr::from(octets) {
        Ipv4Addr::UNSPECIFIED => Ipv4Addr::new(0, 0, 0, 1),
        id => id,
    }
}

/// Of `node.<name>` only three fields count; Calico ignores the others in silence.
fn check_node_object(node: &NodeName, spec: &BGPConfigurationSpec, findings: &mut Vec<Finding>) {
    let rest = BGPConfigurationSpec {
        log_severity_screen: None,
        listen_port: None,
        prefix_advertisements: Vec::new(),
        ..spec.clone()
    };
    if rest != BGPConfigurationSpec::default() {
        findings.push(Finding {
            kind: "BGPConfiguration",
            name: Arc::from(format!("node.{node}")),
            path: "spec",
            reason: Reason::Unsupported,
            message: "for one node only logSeverityScreen, listenPort and prefixAdvertisements count; other fields belong into default".into(),
        });
    }
}
