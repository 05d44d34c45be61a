//! `projectcalico.org/v3` NetworkPolicy and GlobalNetworkPolicy.

use std::collections::BTreeSet;
use std::sync::Arc;

use api::selector::{NAMESPACE_LABEL, SERVICE_ACCOUNT_LABEL, Selector};
use api::{
    Action, Entity, GlobalNetworkPolicy, IcmpMatch, IpVersion, NetworkPolicy, PolicyType, Port,
    Protocol, ServiceAccountMatch, ServiceMatch,
};
use ipnet::IpNet;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use model::{NamespacedName, ObjectName, Transport};

use super::{
    Compiled, Direction, Findings, Icmp, NamedPorts, Peer, Policy, PolicyId, PolicyKind, Ports,
    Reason, Rule, Scope, Verb, read_net,
};
use crate::ruleset::{Family, Side};

/// Compiles a namespaced policy.
pub fn network_policy(object: &NetworkPolicy) -> Compiled {
    let namespace = ObjectName::from(object.metadata.namespace.clone().unwrap_or_default());
    let spec = &object.spec;
    let mut compiler = Compiler::new(PolicyKind::NetworkPolicy, Some(namespace), &object.metadata);
    let policy = compiler.policy(&Fields {
        tier: spec.tier_name(),
        order: spec.order,
        selector: spec.selector.as_deref(),
        namespace_selector: None,
        service_account_selector: spec.service_account_selector.as_deref(),
        ingress: spec.covers(PolicyType::Ingress).then_some(&spec.ingress),
        egress: spec.covers(PolicyType::Egress).then_some(&spec.egress),
    });
    Compiled {
        policy,
        findings: compiler.findings.list,
    }
}

/// Compiles a cluster-wide policy. Of one that also holds for forwarded traffic the normal part is taken; one that stands before
/// connection tracking or before translation is not taken at all, since its normal place would mean something else.
pub fn global_network_policy(object: &GlobalNetworkPolicy) -> Compiled {
    let spec = &object.spec;
    let mut compiler = Compiler::new(PolicyKind::GlobalNetworkPolicy, None, &object.metadata);
    for (set, path) in [
        (spec.do_not_track, "spec.doNotTrack"),
        (spec.pre_dnat, "spec.preDNAT"),
    ] {
        if set {
            let message = "not supported yet; the policy is not applied";
            compiler.findings.add(Reason::Unsupported, path, message);
        }
    }
    if spec.do_not_track || spec.pre_dnat {
        return Compiled {
            policy: None,
            findings: compiler.findings.list,
        };
    }
    if spec.apply_on_forward {
        let message = "forwarded traffic of host endpoints is not policed yet; the rest is";
        compiler
            .findings
            .add(Reason::Unsupported, "spec.applyOnForward", message);
    }
    let policy = compiler.policy(&Fields {
        tier: spec.tier_name(),
        order: spec.order,
        selector: spec.selector.as_deref(),
        namespace_selector: spec.namespace_selector.as_deref(),
        service_account_selector: spec.service_account_selector.as_deref(),
        ingress: spec.covers(PolicyType::Ingress).then_some(&spec.ingress),
        egress: spec.covers(PolicyType::Egress).then_some(&spec.egress),
    });
    Compiled {
        policy,
        findings: compiler.findings.list,
    }
}

/// What both kinds share; a direction is absent when the policy does not cover it.
struct Fields<'a> {
    tier: &'a str,
    order: Option<f64>,
    selector: Option<&'a str>,
    namespace_selector: Option<&'a str>,
    service_account_selector: Option<&'a str>,
    ingress: Option<&'a Vec<api::Rule>>,
    egress: Option<&'a Vec<api::Rule>>,
}

/// A match that cannot be used; it was reported.
struct Unusable;

struct Compiler {
    id: PolicyId,
    findings: Findings,
    subject: Selector,
}

impl Compiler {
    fn new(kind: PolicyKind, namespace: Option<ObjectName>, metadata: &ObjectMeta) -> Self {
        let id = PolicyId {
            kind,
            namespace,
            name: ObjectName::from(metadata.name.clone().unwrap_or_default()),
        };
        Self {
            findings: Findings::new(id.clone()),
            id,
            subject: Selector::all(),
        }
    }

    fn policy(&mut self, fields: &Fields<'_>) -> Option<Policy> {
        self.subject = self.subject(fields).ok()?;
        Some(Policy {
            id: self.id.clone(),
            tier: fields.tier.into(),
            order: fields.order,
            subject: self.subject.clone(),
            ingress: fields
                .ingress
                .map(|rules| self.rules(Direction::Ingress, rules)),
            egress: fields
                .egress
                .map(|rules| self.rules(Direction::Egress, rules)),
        })
    }

    fn subject(&mut self, fields: &Fields<'_>) -> Result<Selector, Unusable> {
        let own = self.selector("spec.selector", fields.selector);
        let spaces = self.selector("spec.namespaceSelector", fields.namespace_selector);
        let path = "spec.serviceAccountSelector";
        let accounts = self.selector(path, fields.service_account_selector);
        let (own, spaces, accounts) = (own?, spaces?, accounts?);
        let mut subject = self.own_namespace().unwrap_or_else(Selector::all);
        if let Some(spaces) = spaces {
            subject = Selector::and(&subject, &spaces.for_namespaces());
        }
        if let Some(accounts) = accounts {
            subject = Selector::and(&subject, &accounts.for_service_accounts());
        }
        Ok(match own {
            Some(own) => Selector::and(&subject, &own),
            None => subject,
        })
    }

    fn own_namespace(&self) -> Option<Selector> {
        let namespace = self.id.namespace.as_ref()?;
        Some(Selector::label_equals(NAMESPACE_LABEL, namespace.as_str()))
    }

    /// Reads a selector in which `global()` has no place; blank text is absent.
    fn selector(&mut self, path: &str, text: Option<&str>) -> Result<Option<Selector>, Unusable> {
        let selector = self.any_selector(path, text)?;
        if selector.as_ref().is_some_and(Selector::mentions_global) {
            let message = "global() stands only in the namespaceSelector of a rule";
            self.findings.add(Reason::Invalid, path, message);
            return Err(Unusable);
        }
        Ok(selector)
    }

    fn any_selector(
        &mut self,
        path: &str,
        text: Option<&str>,
    ) -> Result<Option<Selector>, Unusable> {
        let Some(text) = text.filter(|text| !text.trim().is_empty()) else {
            return Ok(None);
        };
        match Selector::parse(text) {
            Ok(selector) => Ok(Some(selector)),
            Err(error) => {
                self.findings.add(Reason::Invalid, path, error.to_string());
                Err(Unusable)
            }
        }
    }

    fn rules(&mut self, direction: Direction, rules: &[api::Rule]) -> Vec<Rule> {
        let mut compiled = Vec::with_capacity(rules.len());
        for (index, rule) in rules.iter().enumerate() {
            let label = format!("{}[{index}]", direction.as_str());
            let verb = match rule.action {
                Action::Allow => Verb::Allow,
                Action::Deny => Verb::Deny,
                Action::Log => Verb::Log,
                Action::Pass => Verb::Pass,
            };
            let path = format!("spec.{label}");
            match (self.rule(direction, &path, verb, &label, rule), verb) {
                (Ok(rule), _) => compiled.push(rule),
                (Err(Unusable), Verb::Allow | Verb::Log) => {
                    self.findings
                        .add(Reason::Invalid, path, "the rule never matches");
                }
                (Err(Unusable), Verb::Deny | Verb::Pass) => {
                    let message = "the rule denies everything in its direction";
                    self.findings.add(Reason::Invalid, path, message);
                    compiled.push(Rule::new(Verb::Deny, label));
                }
            }
        }
        compiled
    }

    fn rule(
        &mut self,
        direction: Direction,
        path: &str,
        verb: Verb,
        label: &str,
        given: &api::Rule,
    ) -> Result<Rule, Unusable> {
        let mut rule = Rule::new(verb, Arc::<str>::from(label));
        if given.http.is_some() {
            let message = "HTTP rules are not supported";
            self.findings
                .add(Reason::Unsupported, format!("{path}.http"), message);
            return Err(Unusable);
        }
        if let Some(protocol) = &given.protocol {
            rule.protocol = Scope::Only(self.protocol(path, "protocol", protocol)?);
        }
        if let Some(protocol) = &given.not_protocol {
            rule.not_protocol = Some(self.protocol(path, "notProtocol", protocol)?);
        }
        self.icmp(path, given, &mut rule)?;
        let source = Place {
            direction,
            side: Side::Source,
            verb,
            path: format!("{path}.source"),
        };
        let destination = Place {
            direction,
            side: Side::Destination,
            verb,
            path: format!("{path}.destination"),
        };
        let numbers = rule.protocol.clone();
        rule.source = self.peer(&source, &given.source, &numbers)?;
        rule.destination = self.peer(&destination, &given.destination, &numbers)?;
        rule.families = families(given, &rule);
        Ok(rule)
    }

    fn protocol(&mut self, path: &str, field: &str, given: &Protocol) -> Result<u8, Unusable> {
        given.number().ok_or_else(|| {
            let message = format!("{given} is not a protocol");
            self.findings
                .add(Reason::Invalid, format!("{path}.{field}"), message);
            Unusable
        })
    }

    fn icmp(&mut self, path: &str, given: &api::Rule, rule: &mut Rule) -> Result<(), Unusable> {
        let is_icmp = matches!(given.protocol, Some(Protocol::Icmp | Protocol::IcmpV6));
        for (field, icmp) in [("icmp", &given.icmp), ("notICMP", &given.not_icmp)] {
            let Some(icmp) = icmp else { continue };
            let path = format!("{path}.{field}");
            if !is_icmp {
                self.findings
                    .add(Reason::Invalid, path, "needs protocol ICMP or ICMPv6");
                return Err(Unusable);
            }
            let Some(icmp) = self.icmp_message(path, *icmp)? else {
                continue;
            };
            if field == "icmp" {
                rule.icmp = Scope::Only(icmp);
            } else {
                rule.not_icmp = Some(icmp);
            }
        }
        Ok(())
    }

    fn icmp_message(&mut self, path: String, icmp: IcmpMatch) -> Result<Option<Icmp>, Unusable> {
        match (icmp.type_, icmp.code) {
            (Some(kind), code) => Ok(Some(Icmp { kind, code })),
            (None, None) => Ok(None),
            (None, Some(_)) => {
                self.findings
                    .add(Reason::Invalid, path, "a code needs a type");
                Err(Unusable)
            }
        }
    }

    /// A Service stands alone but for ports, at the end that is not the policy's own.
    fn service(
        &mut self,
        place: &Place,
        given: &Entity,
        service: &ServiceMatch,
    ) -> Result<NamespacedName, Unusable> {
        let own = self.id.namespace.as_ref().map(ObjectName::as_str);
        let namespace = match service.namespace.as_str() {
            "" => own.unwrap_or_default(),
            named => named,
        };
        let elsewhere = matches!(
            (place.direction, place.side),
            (Direction::Ingress, Side::Source) | (Direction::Egress, Side::Destination)
        );
        let alone = Entity {
            services: given.services.clone(),
            ports: given.ports.clone(),
            not_ports: given.not_ports.clone(),
            ..Entity::default()
        };
        let message = if service.name.is_empty() || namespace.is_empty() {
            "name the Service and its namespace"
        } else if !elsewhere {
            "a Service can be the source of ingress rules and the destination of egress rules"
        } else if *given != alone {
            "a Service cannot be combined with selectors, nets or service accounts"
        } else {
            return Ok(NamespacedName::new(namespace, service.name.as_str()));
        };
        let path = format!("{}.services", place.path);
        self.findings.add(Reason::Invalid, path, message);
        Err(Unusable)
    }

    fn peer(
        &mut self,
        place: &Place,
        given: &Entity,
        protocol: &Scope<u8>,
    ) -> Result<Peer, Unusable> {
        let service = match &given.services {
            None => Scope::Any,
            Some(service) => Scope::Only(self.service(place, given, service)?),
        };
        let (selector, not_selector) = self.selectors(place, given)?;
        let nets = match given.nets.as_slice() {
            [] => Scope::Any,
            nets => Scope::Only(self.nets(place, "nets", nets, place.skips_bad_entries())?),
        };
        let of = place.named_ports_of(&self.subject, &selector);
        let ports = match given.ports.as_slice() {
            [] => Scope::Any,
            ports => {
                let skip = place.skips_bad_entries();
                Scope::Only(self.ports(place, "ports", ports, protocol, &of, skip)?)
            }
        };
        Ok(Peer {
            selector,
            not_selector,
            nets,
            service,
            not_nets: self.nets(place, "notNets", &given.not_nets, false)?,
            ports,
            not_ports: self.ports(place, "notPorts", &given.not_ports, protocol, &of, false)?,
        })
    }

    /// In a namespaced policy an entity with any selector is limited to the policy's namespace, unless it names others.
    fn selectors(
        &mut self,
        place: &Place,
        given: &Entity,
    ) -> Result<(Scope<Selector>, Option<Selector>), Unusable> {
        let at = |field: &str| format!("{}.{field}", place.path);
        let own = self.selector(&at("selector"), given.selector.as_deref())?;
        let not = self.selector(&at("notSelector"), given.not_selector.as_deref())?;
        let path = at("namespaceSelector");
        let spaces = self.any_selector(&path, given.namespace_selector.as_deref())?;
        if spaces
            .as_ref()
            .is_some_and(|s| s.mentions_global() && !s.is_global())
        {
            self.findings
                .add(Reason::Invalid, path, "global() stands alone or not at all");
            return Err(Unusable);
        }
        let accounts = self.accounts(&at("serviceAccounts"), given.service_accounts.as_ref())?;
        let any = own.is_some() || not.is_some() || accounts.is_some();
        let scope = match spaces {
            Some(spaces) => Some(spaces.for_namespaces()),
            None if any => self.own_namespace(),
            None => None,
        };
        let positive = [scope, accounts, own]
            .into_iter()
            .flatten()
            .reduce(|a, b| Selector::and(&a, &b));
        Ok((positive.map_or(Scope::Any, Scope::Only), not))
    }

    fn accounts(
        &mut self,
        path: &str,
        given: Option<&ServiceAccountMatch>,
    ) -> Result<Option<Selector>, Unusable> {
        let Some(given) = given else {
            return Ok(None);
        };
        let labels = self.selector(&format!("{path}.selector"), given.selector.as_deref())?;
        let labels = labels.map(|labels| labels.for_service_accounts());
        let names = given.names.iter().map(String::as_str);
        let names =
            (!given.names.is_empty()).then(|| Selector::label_in(SERVICE_ACCOUNT_LABEL, names));
        Ok([names, labels]
            .into_iter()
            .flatten()
            .reduce(|a, b| Selector::and(&a, &b)))
    }

    fn nets(
        &mut self,
        place: &Place,
        field: &str,
        given: &[String],
        skip_bad: bool,
    ) -> Result<BTreeSet<IpNet>, Unusable> {
        let mut nets = BTreeSet::new();
        for (index, text) in given.iter().enumerate() {
            if let Some(net) = read_net(text) {
                nets.insert(net);
                continue;
            }
            let path = format!("{}.{field}[{index}]", place.path);
            let message = format!("{text:?} is not a CIDR");
            self.findings.add(Reason::Invalid, path, message);
            if !skip_bad {
                return Err(Unusable);
            }
        }
        Ok(nets)
    }

    fn ports(
        &mut self,
        place: &Place,
        field: &str,
        given: &[Port],
        protocol: &Scope<u8>,
        of: &Selector,
        skip_bad: bool,
    ) -> Result<Ports, Unusable> {
        let mut ports = Ports::default();
        for (index, port) in given.iter().enumerate() {
            let path = format!("{}.{field}[{index}]", place.path);
            match (port, port.bounds()) {
                (_, Some(bounds)) if transports(protocol).len() == 1 => {
                    ports.ranges.insert(bounds);
                }
                (_, Some(_)) => {
                    let message = "a port number needs protocol TCP, UDP or SCTP";
                    self.findings.add(Reason::Invalid, path, message);
                    return Err(Unusable);
                }
                (Port::Name(name), None) => {
                    ports
                        .named
                        .extend(transports(protocol).into_iter().map(|protocol| NamedPorts {
                            of: of.clone(),
                            name: name.as_str().into(),
                            protocol,
                        }));
                }
                (Port::Invalid(_) | Port::Number(_) | Port::Range(..), None) => {
                    self.findings
                        .add(Reason::Invalid, path, format!("{port} is not a port"));
                    if !skip_bad {
                        return Err(Unusable);
                    }
                }
            }
        }
        Ok(ports)
    }
}

/// Where an entity stands.
struct Place {
    direction: Direction,
    side: Side,
    verb: Verb,
    path: String,
}

impl Place {
    /// Leaving out one of several alternatives narrows a rule: that closes an Allow and opens a Deny.
    fn skips_bad_entries(&self) -> bool {
        match self.verb {
            Verb::Allow | Verb::Log => true,
            Verb::Deny | Verb::Pass => false,
        }
    }

    /// Endpoints that are asked for a named port: at the policy's own end those it selects.
    fn named_ports_of(&self, subject: &Selector, selector: &Scope<Selector>) -> Selector {
        match (self.direction, self.side, selector) {
            (Direction::Ingress, Side::Destination, _) | (Direction::Egress, Side::Source, _) => {
                subject.clone()
            }
            (_, _, Scope::Only(selector)) => selector.clone(),
            (_, _, Scope::Any) => Selector::all(),
        }
    }
}

/// Transports that a rule's protocol leaves possible.
fn transports(protocol: &Scope<u8>) -> Vec<Transport> {
    let all = [Transport::Tcp, Transport::Udp, Transport::Sctp];
    match protocol {
        Scope::Any => all.to_vec(),
        Scope::Only(number) => all
            .into_iter()
            .filter(|transport| transport.number() == *number)
            .collect(),
    }
}

/// Families a rule exists for: those its nets name, those its version and ICMP protocol allow.
fn families(given: &api::Rule, rule: &Rule) -> BTreeSet<Family> {
    let mut families = BTreeSet::from(Family::ALL);
    let ends = [&given.source, &given.destination];
    if ends
        .iter()
        .any(|end| !end.nets.is_empty() || !end.not_nets.is_empty())
    {
        families = [&rule.source, &rule.destination]
            .into_iter()
            .flat_map(named_families)
            .collect();
    }
    let family = |version| match version {
        IpVersion::V4 => Family::V4,
        IpVersion::V6 => Family::V6,
    };
    if let Some(version) = given.ip_version {
        families.retain(|known| *known == family(version));
    }
    if let Some(version) = given.protocol.as_ref().and_then(Protocol::family) {
        families.retain(|known| *known == family(version));
    }
    families
}

fn named_families(peer: &Peer) -> BTreeSet<Family> {
    let nets = match &peer.nets {
        Scope::Any => None,
        Scope::Only(nets) => Some(nets),
    };
    nets.into_iter()
        .flatten()
        .chain(&peer.not_nets)
        .map(Family::of_net)
        .collect()
}
