//! `networking.k8s.io/v1` NetworkPolicy.

use std::collections::BTreeSet;
use std::sync::Arc;

use api::networking::{
    NetworkPolicy, NetworkPolicyIngressRule, NetworkPolicyPeer, NetworkPolicyPort,
    NetworkPolicySpec,
};
use api::selector::{NAMESPACE_LABEL, Selector};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use model::endpoint::ORCHESTRATOR_LABEL;
use model::{ObjectName, Transport};

use super::{
    Compiled, Direction, Findings, KUBERNETES_ORDER, NamedPorts, Peer, Policy, PolicyId,
    PolicyKind, Ports, Reason, Rule, Scope, Verb, read_net,
};
use crate::ruleset::Family;

/// Compiles a Kubernetes policy: tier `default`, order 1000, only Allow rules, only pods.
pub fn kubernetes_network_policy(object: &NetworkPolicy) -> Compiled {
    let namespace = ObjectName::from(object.metadata.namespace.clone().unwrap_or_default());
    let id = PolicyId {
        kind: PolicyKind::KubernetesNetworkPolicy,
        namespace: Some(namespace.clone()),
        name: ObjectName::from(object.metadata.name.clone().unwrap_or_default()),
    };
    let mut compiler = Compiler {
        own: own_pods(&namespace),
        subject: Selector::all(),
        findings: Findings::new(id.clone()),
    };
    let policy = compiler.policy(id, object.spec.clone().unwrap_or_default());
    Compiled {
        policy,
        findings: compiler.findings.list,
    }
}

/// Pods of one namespace.
fn own_pods(namespace: &ObjectName) -> Selector {
    Selector::and(
        &pods(),
        &Selector::label_equals(NAMESPACE_LABEL, namespace.as_str()),
    )
}

/// Pods, and nothing else that has labels.
fn pods() -> Selector {
    Selector::label_equals(ORCHESTRATOR_LABEL, "k8s")
}

struct Compiler {
    /// Pods of the policy's namespace.
    own: Selector,
    /// Pods the policy selects.
    subject: Selector,
    findings: Findings,
}

impl Compiler {
    fn policy(&mut self, id: PolicyId, spec: NetworkPolicySpec) -> Option<Policy> {
        let chosen = spec.pod_selector.unwrap_or_default();
        let chosen = match Selector::from_label_selector(&chosen) {
            Ok(chosen) => chosen,
            Err(error) => {
                self.findings
                    .add(Reason::Invalid, "spec.podSelector", error.to_string());
                return None;
            }
        };
        self.subject = Selector::and(&self.own, &chosen);
        let ingress = spec.ingress.unwrap_or_default();
        let egress = spec.egress.unwrap_or_default();
        let (covers_ingress, covers_egress) = match spec.policy_types.as_deref() {
            None | Some([]) => (true, !egress.is_empty()),
            Some(types) => (
                types.iter().any(|kind| kind == "Ingress"),
                types.iter().any(|kind| kind == "Egress"),
            ),
        };
        let ingress = covers_ingress.then(|| self.rules(Direction::Ingress, ingress));
        let egress = covers_egress.then(|| {
            // The two kinds of rule differ in the name of one field only.
            let alike = egress.into_iter().map(|rule| NetworkPolicyIngressRule {
                from: rule.to,
                ports: rule.ports,
            });
            self.rules(Direction::Egress, alike.collect())
        });
        Some(Policy {
            id,
            tier: api::DEFAULT_TIER.into(),
            order: Some(KUBERNETES_ORDER),
            subject: self.subject.clone(),
            ingress,
            egress,
        })
    }

    fn rules(&mut self, direction: Direction, rules: Vec<NetworkPolicyIngressRule>) -> Vec<Rule> {
        let mut compiled = Vec::new();
        for (index, rule) in rules.into_iter().enumerate() {
            let path = format!("spec.{}[{index}]", direction.as_str());
            let peers = self.peers(direction, &path, &rule.from.unwrap_or_default());
            let ports = self.ports(direction, &path, &rule.ports.unwrap_or_default());
            let label: Arc<str> = format!("{}[{index}]", direction.as_str()).into();
            for peer in &peers {
                for port in &ports {
                    compiled.push(allow(direction, &label, peer, port));
                }
            }
        }
        compiled
    }

    /// The peers of a rule as alternatives: none given is one that matches everything.
    fn peers(
        &mut self,
        direction: Direction,
        path: &str,
        given: &[NetworkPolicyPeer],
    ) -> Vec<Peer> {
        if given.is_empty() {
            return vec![Peer::default()];
        }
        let field = match direction {
            Direction::Ingress => "from",
            Direction::Egress => "to",
        };
        let mut peers = Vec::new();
        for (index, peer) in given.iter().enumerate() {
            let path = format!("{path}.{field}[{index}]");
            match self.peer(peer) {
                Ok(peer) => peers.push(peer),
                Err(message) => {
                    self.findings.add(
                        Reason::Invalid,
                        path,
                        format!("{message}; it matches nothing"),
                    );
                }
            }
        }
        peers
    }

    fn peer(&self, peer: &NetworkPolicyPeer) -> Result<Peer, String> {
        let selects = peer.pod_selector.is_some() || peer.namespace_selector.is_some();
        match &peer.ip_block {
            Some(_) if selects => Err("ipBlock excludes selectors".to_owned()),
            Some(block) => ip_block(&block.cidr, block.except.as_deref().unwrap_or_default()),
            None if selects => self.selected(peer),
            None => Err("a peer without ipBlock and selectors".to_owned()),
        }
    }

    fn selected(&self, peer: &NetworkPolicyPeer) -> Result<Peer, String> {
        let scope = match &peer.namespace_selector {
            None => self.own.clone(),
            Some(chosen) => {
                let chosen = Selector::from_label_selector(chosen).map_err(|e| e.to_string())?;
                Selector::and(&pods(), &chosen.for_namespaces())
            }
        };
        let chosen = match &peer.pod_selector {
            None => scope,
            Some(chosen) => {
                let chosen = Selector::from_label_selector(chosen).map_err(|e| e.to_string())?;
                Selector::and(&scope, &chosen)
            }
        };
        Ok(Peer {
            selector: Scope::Only(chosen),
            ..Peer::default()
        })
    }

    /// The ports of a rule as alternatives: none given is any port and any protocol; otherwise one entry per protocol.
    fn ports(
        &mut self,
        direction: Direction,
        path: &str,
        given: &[NetworkPolicyPort],
    ) -> Vec<(Scope<u8>, PortScope)> {
        if given.is_empty() {
            return vec![(Scope::Any, PortScope::Any)];
        }
        let mut by_protocol: Vec<(Transport, PortScope)> = Vec::new();
        for (index, port) in given.iter().enumerate() {
            let path = format!("{path}.ports[{index}]");
            match self.port(direction, port) {
                Ok((protocol, scope)) => {
                    match by_protocol.iter_mut().find(|(known, _)| *known == protocol) {
                        Some((_, known)) => known.widen(scope),
                        None => by_protocol.push((protocol, scope)),
                    }
                }
                Err(message) => {
                    self.findings.add(
                        Reason::Invalid,
                        path,
                        format!("{message}; it matches nothing"),
                    );
                }
            }
        }
        by_protocol
            .into_iter()
            .map(|(protocol, scope)| (Scope::Only(protocol.number()), scope))
            .collect()
    }

    fn port(
        &self,
        direction: Direction,
        port: &NetworkPolicyPort,
    ) -> Result<(Transport, PortScope), String> {
        let protocol = match port.protocol.as_deref() {
            None | Some("TCP") => Transport::Tcp,
            Some("UDP") => Transport::Udp,
            Some("SCTP") => Transport::Sctp,
            Some(other) => return Err(format!("protocol {other:?} is none of TCP, UDP, SCTP")),
        };
        let number = |value: i32| match u16::try_from(value) {
            Ok(number) if number > 0 => Ok(number),
            _ => Err(format!("{value} is not a port")),
        };
        let scope = match (&port.port, port.end_port) {
            (None, None) => PortScope::Any,
            (Some(IntOrString::Int(first)), None) => {
                let first = number(*first)?;
                PortScope::range(first, first)
            }
            (Some(IntOrString::Int(first)), Some(last)) => {
                let (first, last) = (number(*first)?, number(last)?);
                if first > last {
                    return Err(format!("endPort {last} is below port {first}"));
                }
                PortScope::range(first, last)
            }
            (Some(IntOrString::String(name)), None) => PortScope::named(NamedPorts {
                of: match direction {
                    Direction::Ingress => self.subject.clone(),
                    Direction::Egress => Selector::all(),
                },
                name: name.as_str().into(),
                protocol,
            }),
            (Some(IntOrString::String(_)) | None, Some(_)) => {
                return Err("endPort needs a numeric port".to_owned());
            }
        };
        Ok((protocol, scope))
    }
}

/// Ports of one protocol while they are gathered.
#[derive(Clone, Debug)]
enum PortScope {
    Any,
    Only(Ports),
}

impl PortScope {
    fn range(first: u16, last: u16) -> Self {
        Self::Only(Ports {
            ranges: BTreeSet::from([(first, last)]),
            named: BTreeSet::new(),
        })
    }

    fn named(named: NamedPorts) -> Self {
        Self::Only(Ports {
            ranges: BTreeSet::new(),
            named: BTreeSet::from([named]),
        })
    }

    fn widen(&mut self, other: Self) {
        match (&mut *self, other) {
            (Self::Any, _) => {}
            (_, Self::Any) => *self = Self::Any,
            (Self::Only(ports), Self::Only(more)) => {
                ports.ranges.extend(more.ranges);
                ports.named.extend(more.named);
            }
        }
    }
}

fn allow(
    direction: Direction,
    path: &Arc<str>,
    peer: &Peer,
    (protocol, ports): &(Scope<u8>, PortScope),
) -> Rule {
    let mut rule = Rule::new(Verb::Allow, Arc::clone(path));
    rule.protocol = protocol.clone();
    match direction {
        Direction::Ingress => rule.source = peer.clone(),
        Direction::Egress => rule.destination = peer.clone(),
    }
    rule.destination.ports = match ports {
        PortScope::Any => Scope::Any,
        PortScope::Only(ports) => Scope::Only(ports.clone()),
    };
    if let Scope::Only(nets) = &peer.nets {
        rule.families = nets.iter().map(Family::of_net).collect();
    }
    rule
}

fn ip_block(cidr: &str, except: &[String]) -> Result<Peer, String> {
    let read = |text: &str| {
        let slash = text.contains('/');
        read_net(text)
            .filter(|_| slash)
            .ok_or_else(|| format!("{text:?} is not a CIDR"))
    };
    let nets = BTreeSet::from([read(cidr)?]);
    let not_nets = except
        .iter()
        .map(|text| read(text))
        .collect::<Result<_, _>>()?;
    Ok(Peer {
        nets: Scope::Only(nets),
        not_nets,
        ..Peer::default()
    })
}
