//! `networking.k8s.io/v1`, from its own text.

use std::net::IpAddr;

use api::networking::{NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort};
use ipnet::IpNet;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use model::endpoint::{Labels, NAMESPACE_LABEL, NAMESPACE_PREFIX, ORCHESTRATOR_LABEL};
use model::{EndpointView, Member, World};

use super::{Candid, Candidate};
use crate::compile::{Direction, PolicyId, PolicyKind};
use crate::verdict::{Packet, Payload};

/// The policy, if it isolates the endpoint in this direction.
pub(super) fn candidate<'a>(
    policy: &'a NetworkPolicy,
    endpoint: &EndpointView<'_>,
    direction: Direction,
) -> Option<Candidate<'a>> {
    let spec = policy.spec.as_ref();
    let egress_rules = spec
        .and_then(|spec| spec.egress.as_ref())
        .map_or(0, Vec::len);
    let ingress_rules = spec
        .and_then(|spec| spec.ingress.as_ref())
        .map_or(0, Vec::len);
    let types = spec
        .and_then(|spec| spec.policy_types.as_ref())
        .filter(|types| !types.is_empty());
    let covers = match (types, direction) {
        (Some(types), Direction::Ingress) => types.iter().any(|kind| kind == "Ingress"),
        (Some(types), Direction::Egress) => types.iter().any(|kind| kind == "Egress"),
        (None, Direction::Ingress) => true,
        (None, Direction::Egress) => egress_rules > 0,
    };
    let selector = spec
        .and_then(|spec| spec.pod_selector.clone())
        .unwrap_or_default();
    let selects = in_namespace(&endpoint.labels, policy) && selected(&selector, &endpoint.labels)?;
    if !covers || !selects {
        return None;
    }
    let rules = match direction {
        Direction::Ingress => ingress_rules,
        Direction::Egress => egress_rules,
    };
    Some(Candidate {
        id: PolicyId {
            kind: PolicyKind::KubernetesNetworkPolicy,
            namespace: policy.metadata.namespace.clone().map(Into::into),
            name: policy.metadata.name.clone().unwrap_or_default().into(),
        },
        order: 1000.0,
        rules: (0..rules)
            .map(|index| Candid::Kubernetes(policy, index))
            .collect(),
    })
}

/// Whether one rule allows the packet.
pub(super) fn matches(
    world: &World,
    policy: &NetworkPolicy,
    index: usize,
    direction: Direction,
    packet: &Packet,
) -> bool {
    let Some(spec) = &policy.spec else {
        return false;
    };
    let (peers, ports, address) = match direction {
        Direction::Ingress => match spec.ingress.as_ref().and_then(|rules| rules.get(index)) {
            Some(rule) => (&rule.from, &rule.ports, packet.source),
            None => return false,
        },
        Direction::Egress => match spec.egress.as_ref().and_then(|rules| rules.get(index)) {
            Some(rule) => (&rule.to, &rule.ports, packet.destination),
            None => return false,
        },
    };
    let peer = match peers.as_deref() {
        None | Some([]) => true,
        Some(peers) => peers
            .iter()
            .any(|peer| is_peer(world, policy, peer, address)),
    };
    let port = match ports.as_deref() {
        None | Some([]) => true,
        Some(ports) => ports.iter().any(|port| is_port(world, port, packet)),
    };
    peer && port
}

fn is_peer(
    world: &World,
    policy: &NetworkPolicy,
    peer: &NetworkPolicyPeer,
    address: IpAddr,
) -> bool {
    let selects = peer.pod_selector.is_some() || peer.namespace_selector.is_some();
    if let Some(block) = &peer.ip_block {
        return !selects && in_block(&block.cidr, block.except.as_deref(), address);
    }
    selects
        && pods_at(world, address).any(|pod| {
            let namespace = match &peer.namespace_selector {
                None => Some(in_namespace(&pod.labels, policy)),
                Some(selector) => selected(selector, &namespace_labels(&pod.labels)),
            };
            let own = match &peer.pod_selector {
                None => Some(true),
                Some(selector) => selected(selector, &pod.labels),
            };
            namespace == Some(true) && own == Some(true)
        })
}

fn in_block(cidr: &str, except: Option<&[String]>, address: IpAddr) -> bool {
    let Ok(cidr) = cidr.parse::<IpNet>() else {
        return false;
    };
    let except: Result<Vec<IpNet>, _> = except
        .unwrap_or_default()
        .iter()
        .map(|text| text.parse())
        .collect();
    except.is_ok_and(|except| {
        cidr.contains(&address) && !except.iter().any(|net| net.contains(&address))
    })
}

fn is_port(world: &World, port: &NetworkPolicyPort, packet: &Packet) -> bool {
    let wanted = match port.protocol.as_deref() {
        None | Some("TCP") => 6,
        Some("UDP") => 17,
        Some("SCTP") => 132,
        Some(_) => return false,
    };
    let Payload::Transport {
        protocol,
        destination,
        ..
    } = packet.payload
    else {
        return false;
    };
    if protocol != wanted {
        return false;
    }
    match (&port.port, port.end_port) {
        (None, None) => true,
        (None | Some(IntOrString::String(_)), Some(_)) => false,
        (Some(IntOrString::Int(number)), end) => {
            let last = end.unwrap_or(*number);
            let sound = *number >= 1 && *number <= last && last <= 65535;
            sound && (*number..=last).contains(&i32::from(destination))
        }
        (Some(IntOrString::String(name)), None) => pods_at(world, packet.destination).any(|pod| {
            pod.ports.iter().any(|served| {
                *served.name == **name
                    && served.protocol.number() == protocol
                    && served.port == destination
            })
        }),
    }
}

/// Pods with this address, as the cluster knows them.
fn pods_at(world: &World, address: IpAddr) -> impl Iterator<Item = &Member> {
    let members = world.membership().endpoints().map(|(_, member)| member);
    members.filter(move |member| {
        member
            .labels
            .get(ORCHESTRATOR_LABEL)
            .is_some_and(|value| value == "k8s")
            && member.addresses.contains(&IpNet::from(address))
    })
}

fn in_namespace(labels: &Labels, policy: &NetworkPolicy) -> bool {
    labels
        .get(ORCHESTRATOR_LABEL)
        .is_some_and(|value| value == "k8s")
        && labels.get(NAMESPACE_LABEL) == policy.metadata.namespace.as_ref()
}

/// The labels of the namespace, out of those a pod inherits.
fn namespace_labels(labels: &Labels) -> Labels {
    let inherited = labels.iter().filter_map(|(key, value)| {
        let key = key.strip_prefix(NAMESPACE_PREFIX)?;
        Some((key.to_owned(), value.clone()))
    });
    inherited.collect()
}

/// `matchLabels` and `matchExpressions`; `None` for a requirement nobody can meet.
fn selected(selector: &LabelSelector, labels: &Labels) -> Option<bool> {
    let exact = selector.match_labels.iter().flatten();
    let mut all = exact
        .into_iter()
        .all(|(key, value)| labels.get(key) == Some(value));
    for requirement in selector.match_expressions.iter().flatten() {
        let value = labels.get(&requirement.key);
        let values = requirement.values.as_deref().unwrap_or_default();
        let listed = value.is_some_and(|value| values.contains(value));
        all &= match requirement.operator.as_str() {
            "In" if !values.is_empty() => listed,
            "NotIn" if !values.is_empty() => !listed,
            "Exists" if values.is_empty() => value.is_some(),
            "DoesNotExist" if values.is_empty() => value.is_none(),
            _ => return None,
        };
    }
    Some(all)
}
