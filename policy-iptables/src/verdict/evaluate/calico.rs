//! `projectcalico.org/v3`, from its own text.

use std::net::IpAddr;

use api::selector::Selector;
use api::{Action, Entity, GlobalNetworkPolicy, NetworkPolicy, PolicyType, Port};
use ipnet::IpNet;
use model::endpoint::{Labels, NAMESPACE_LABEL, SERVICE_ACCOUNT_LABEL};
use model::{EndpointView, World};

use super::{Candid, Candidate, Says};
use crate::compile::{Direction, PolicyId, PolicyKind};
use crate::ruleset::{Family, Side};
use crate::verdict::{Packet, Payload};

/// A criterion that nobody can use.
struct Unusable;

type Answer = Result<bool, Unusable>;

/// The policy, if it stands in the tier, selects the endpoint and covers the direction.
pub(super) fn namespaced<'a>(
    policy: &'a NetworkPolicy,
    tier: &str,
    endpoint: &EndpointView<'_>,
    direction: Direction,
) -> Option<Candidate<'a>> {
    let spec = &policy.spec;
    let labels = &endpoint.labels;
    let own = labels.get(NAMESPACE_LABEL) == policy.metadata.namespace.as_ref();
    let by_labels = chosen(spec.selector.as_deref(), labels)?;
    let by_account = chosen_account(spec.service_account_selector.as_deref(), labels)?;
    let covers = spec.covers(kind_of(direction));
    if !(own && by_labels && by_account && covers && spec.tier_name() == tier) {
        return None;
    }
    let rules = match direction {
        Direction::Ingress => &spec.ingress,
        Direction::Egress => &spec.egress,
    };
    Some(Candidate {
        id: PolicyId {
            kind: PolicyKind::NetworkPolicy,
            namespace: policy.metadata.namespace.clone().map(Into::into),
            name: policy.metadata.name.clone().unwrap_or_default().into(),
        },
        order: spec.order.unwrap_or(f64::INFINITY),
        rules: candids(policy.metadata.namespace.as_deref(), rules),
    })
}

/// As [`namespaced`], for a cluster-wide policy.
pub(super) fn global<'a>(
    policy: &'a GlobalNetworkPolicy,
    tier: &str,
    endpoint: &EndpointView<'_>,
    direction: Direction,
) -> Option<Candidate<'a>> {
    let spec = &policy.spec;
    if spec.do_not_track || spec.pre_dnat {
        return None;
    }
    let labels = &endpoint.labels;
    let by_space = match no_global(read(spec.namespace_selector.as_deref()).ok()?).ok()? {
        Some(selector) => selector.for_namespaces().matches(&**labels),
        None => true,
    };
    let by_labels = chosen(spec.selector.as_deref(), labels)?;
    let by_account = chosen_account(spec.service_account_selector.as_deref(), labels)?;
    let covers = spec.covers(kind_of(direction));
    if !(by_space && by_labels && by_account && covers && spec.tier_name() == tier) {
        return None;
    }
    let rules = match direction {
        Direction::Ingress => &spec.ingress,
        Direction::Egress => &spec.egress,
    };
    Some(Candidate {
        id: PolicyId {
            kind: PolicyKind::GlobalNetworkPolicy,
            namespace: None,
            name: policy.metadata.name.clone().unwrap_or_default().into(),
        },
        order: spec.order.unwrap_or(f64::INFINITY),
        rules: candids(None, rules),
    })
}

fn candids<'a>(namespace: Option<&'a str>, rules: &'a [api::Rule]) -> Vec<Candid<'a>> {
    let numbered = rules.iter().enumerate();
    numbered
        .map(|(index, rule)| Candid::Calico(namespace, rule, index))
        .collect()
}

fn kind_of(direction: Direction) -> PolicyType {
    match direction {
        Direction::Ingress => PolicyType::Ingress,
        Direction::Egress => PolicyType::Egress,
    }
}

/// What the rule says of the packet; `None` when it does not match. A rule with a criterion that cannot be used never allows, and
/// denies everything if it was to deny or to pass.
pub(super) fn ask(
    world: &World,
    namespace: Option<&str>,
    rule: &api::Rule,
    direction: Direction,
    packet: &Packet,
) -> Option<Says> {
    match (
        holds(world, namespace, rule, direction, packet),
        rule.action,
    ) {
        (Ok(false), _) | (Err(Unusable), Action::Allow | Action::Log) => None,
        (Ok(true), Action::Allow) => Some(Says::Allow),
        (Ok(true), Action::Log) => Some(Says::Log),
        (Ok(true), Action::Pass) => Some(Says::Pass),
        (Ok(true), Action::Deny) | (Err(Unusable), Action::Deny | Action::Pass) => Some(Says::Deny),
    }
}

/// All criteria are asked, so that one that cannot be used is found whatever the others say.
fn holds(
    world: &World,
    namespace: Option<&str>,
    rule: &api::Rule,
    direction: Direction,
    packet: &Packet,
) -> Answer {
    let mut answers = vec![
        protocol(rule, packet),
        icmp(rule, packet),
        Ok(families(rule, packet)),
    ];
    if rule.http.is_some() {
        answers.push(Err(Unusable));
    }
    for (side, entity) in [
        (Side::Source, &rule.source),
        (Side::Destination, &rule.destination),
    ] {
        let address = match side {
            Side::Source => packet.source,
            Side::Destination => packet.destination,
        };
        if let Some(service) = &entity.services {
            let elsewhere = (side == Side::Source) == (direction == Direction::Ingress);
            let others = Entity {
                services: None,
                ports: Vec::new(),
                not_ports: Vec::new(),
                ..entity.clone()
            };
            answers.push(if elsewhere && others == Entity::default() {
                serving(world, namespace, service, side, packet)
            } else {
                Err(Unusable)
            });
        }
        answers.push(labels(world, namespace, entity, address));
        answers.push(nets(rule, entity, address));
        answers.push(ports(world, rule, entity, side, packet));
    }
    answers
        .into_iter()
        .try_fold(true, |all, answer| Ok(all & answer?))
}

/// Whether the other end serves the Service: as sender by its address, as receiver also by protocol and port.
fn serving(
    world: &World,
    namespace: Option<&str>,
    service: &api::ServiceMatch,
    side: Side,
    packet: &Packet,
) -> Answer {
    let space = match (service.namespace.as_str(), namespace) {
        ("", None) => return Err(Unusable),
        ("", Some(own)) => own,
        (named, _) => named,
    };
    if service.name.is_empty() {
        return Err(Unusable);
    }
    let mut slices = world.endpoint_slices().values().filter(|slice| {
        let name = slice.service.as_ref().map(model::ObjectName::as_str);
        slice.id.namespace.as_str() == space && name == Some(service.name.as_str())
    });
    Ok(match (side, packet.payload) {
        (Side::Source, _) => slices.any(|slice| slice.addresses.contains(&packet.source)),
        (
            Side::Destination,
            Payload::Transport {
                protocol,
                destination,
                ..
            },
        ) => slices.any(|slice| {
            let mut ports = slice.ports.iter();
            slice.addresses.contains(&packet.destination)
                && ports.any(|(known, port)| known.number() == protocol && *port == destination)
        }),
        (Side::Destination, Payload::Icmp { .. } | Payload::Other(_)) => false,
    })
}

fn protocol(rule: &api::Rule, packet: &Packet) -> Answer {
    let is = match &rule.protocol {
        None => true,
        Some(given) => given.number().ok_or(Unusable)? == packet.protocol(),
    };
    let is_not = match &rule.not_protocol {
        None => false,
        Some(given) => given.number().ok_or(Unusable)? == packet.protocol(),
    };
    Ok(is && !is_not)
}

fn icmp(rule: &api::Rule, packet: &Packet) -> Answer {
    let number = rule.protocol.as_ref().and_then(api::Protocol::number);
    let mut all = true;
    for (given, wanted) in [(&rule.icmp, true), (&rule.not_icmp, false)] {
        let Some(given) = given else { continue };
        if !matches!(number, Some(1 | 58)) || (given.code.is_some() && given.type_.is_none()) {
            return Err(Unusable);
        }
        let Some(kind) = given.type_ else { continue };
        match packet.payload {
            Payload::Icmp { kind: k, code: c } => {
                let same = k == kind && given.code.is_none_or(|code| code == c);
                all &= same == wanted;
            }
            Payload::Transport { .. } | Payload::Other(_) => all = false,
        }
    }
    Ok(all)
}

/// A rule that names a family, by version, ICMP or nets, exists only for it.
fn families(rule: &api::Rule, packet: &Packet) -> bool {
    let version = match packet.family() {
        Family::V4 => 4,
        Family::V6 => 6,
    };
    let by_version = rule
        .ip_version
        .is_none_or(|given| given.number() == version);
    let by_protocol = match rule.protocol.as_ref().and_then(api::Protocol::number) {
        Some(1) => version == 4,
        Some(58) => version == 6,
        _ => true,
    };
    let ends = [&rule.source, &rule.destination];
    let mut texts = ends
        .into_iter()
        .flat_map(|end| end.nets.iter().chain(&end.not_nets))
        .peekable();
    let by_nets = texts.peek().is_none()
        || texts
            .filter_map(|text| net(text))
            .any(|net| Family::of_net(&net) == packet.family());
    by_version && by_protocol && by_nets
}

fn labels(world: &World, namespace: Option<&str>, entity: &Entity, address: IpAddr) -> Answer {
    let own = no_global(read(entity.selector.as_deref())?)?;
    let not = no_global(read(entity.not_selector.as_deref())?)?;
    let spaces = read(entity.namespace_selector.as_deref())?;
    if spaces
        .as_ref()
        .is_some_and(|spaces| spaces.mentions_global() && !spaces.is_global())
    {
        return Err(Unusable);
    }
    let accounts = entity.service_accounts.clone().unwrap_or_default();
    let account = no_global(read(accounts.selector.as_deref())?)?;
    let asks_account = account.is_some() || !accounts.names.is_empty();
    let asks_here =
        namespace.filter(|_| spaces.is_none() && (own.is_some() || not.is_some() || asks_account));
    let at = || {
        let members = world.membership().endpoints().map(|(_, member)| member);
        members.filter(move |member| member.addresses.iter().any(|net| net.contains(&address)))
    };
    let is = |labels: &Labels| {
        let name = labels.get(SERVICE_ACCOUNT_LABEL);
        asks_here.is_none_or(|here| labels.get(NAMESPACE_LABEL).is_some_and(|name| name == here))
            && spaces
                .as_ref()
                .is_none_or(|spaces| spaces.for_namespaces().matches(labels))
            && (accounts.names.is_empty() || name.is_some_and(|name| accounts.names.contains(name)))
            && account
                .as_ref()
                .is_none_or(|a| a.for_service_accounts().matches(labels))
            && own.as_ref().is_none_or(|own| own.matches(labels))
    };
    let positive = asks_here.is_some() || spaces.is_some() || own.is_some() || asks_account;
    let yes = !positive || at().any(|member| is(&member.labels));
    let no = not
        .as_ref()
        .is_some_and(|not| at().any(|member| not.matches(&*member.labels)));
    Ok(yes && !no)
}

fn nets(rule: &api::Rule, entity: &Entity, address: IpAddr) -> Answer {
    let mut inside = entity.nets.is_empty();
    for text in &entity.nets {
        match (net(text), rule.action) {
            (Some(net), _) => inside |= net.contains(&address),
            // One bad alternative of an Allow is left out; a Deny without it would be narrower.
            (None, Action::Allow | Action::Log) => {}
            (None, Action::Deny | Action::Pass) => return Err(Unusable),
        }
    }
    let mut outside = true;
    for text in &entity.not_nets {
        outside &= !net(text).ok_or(Unusable)?.contains(&address);
    }
    Ok(inside && outside)
}

fn ports(world: &World, rule: &api::Rule, entity: &Entity, side: Side, packet: &Packet) -> Answer {
    let number = rule.protocol.as_ref().and_then(api::Protocol::number);
    let carries = matches!(number, Some(6 | 17 | 132));
    let (address, here) = match (packet.payload, side) {
        (Payload::Transport { source, .. }, Side::Source) => (packet.source, Some(source)),
        (Payload::Transport { destination, .. }, Side::Destination) => {
            (packet.destination, Some(destination))
        }
        (Payload::Icmp { .. } | Payload::Other(_), _) => (packet.source, None),
    };
    let is = |port: &Port| match port {
        Port::Number(_) | Port::Range(..) if !carries => Err(Unusable),
        Port::Number(given) => Ok(here == Some(given.get())),
        Port::Range(first, last) => {
            Ok(here.is_some_and(|port| (first.get()..=last.get()).contains(&port)))
        }
        Port::Name(name) => {
            Ok(here.is_some_and(|port| serves(world, name, address, packet.protocol(), port)))
        }
        Port::Invalid(_) => Err(Unusable),
    };
    let mut one = entity.ports.is_empty();
    for port in &entity.ports {
        match (port, rule.action) {
            (Port::Invalid(_), Action::Allow | Action::Log) => {}
            _ => one |= is(port)?,
        }
    }
    let mut none = true;
    for port in &entity.not_ports {
        none &= !is(port)?;
    }
    Ok(one && none)
}

fn serves(world: &World, name: &str, address: IpAddr, protocol: u8, port: u16) -> bool {
    let mut members = world.membership().endpoints().map(|(_, member)| member);
    members.any(|member| {
        let mut served = member.ports.iter();
        member.addresses.contains(&IpNet::from(address))
            && served.any(|served| {
                *served.name == *name && served.protocol.number() == protocol && served.port == port
            })
    })
}

fn net(text: &str) -> Option<IpNet> {
    match text.parse::<IpNet>() {
        Ok(net) => Some(net),
        Err(_) => text.parse::<IpAddr>().ok().map(IpNet::from),
    }
}

fn read(text: Option<&str>) -> Result<Option<Selector>, Unusable> {
    match text {
        None => Ok(None),
        Some(text) if text.trim().is_empty() => Ok(None),
        Some(text) => match Selector::parse(text) {
            Ok(selector) => Ok(Some(selector)),
            Err(_) => Err(Unusable),
        },
    }
}

fn no_global(selector: Option<Selector>) -> Result<Option<Selector>, Unusable> {
    match selector {
        Some(selector) if selector.mentions_global() => Err(Unusable),
        selector => Ok(selector),
    }
}

/// Whether a policy's own selector takes the labels; `None` when it cannot be used.
fn chosen(text: Option<&str>, labels: &Labels) -> Option<bool> {
    let selector = no_global(read(text).ok()?).ok()?;
    Some(selector.is_none_or(|selector| selector.matches(labels)))
}

fn chosen_account(text: Option<&str>, labels: &Labels) -> Option<bool> {
    let selector = no_global(read(text).ok()?).ok()?;
    Some(selector.is_none_or(|selector| selector.for_service_accounts().matches(labels)))
}
