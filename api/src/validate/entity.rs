//! What one end of a rule must keep.

use super::scope::{self, Global};
use super::{Report, address};
use crate::policy::Entity;
use crate::scalar::{Port, Protocol};

/// Which end of which rule it is.
#[derive(Clone, Copy)]
pub(super) struct End {
    pub(super) name: &'static str,
    pub(super) is_source: bool,
    /// Services are matched as destination of egress and as source of ingress.
    pub(super) services_allowed: bool,
    pub(super) namespaced: bool,
}

/// Checks one end; `rule` is the path of its rule.
pub(super) fn check(
    entity: &Entity,
    end: End,
    protocol: Option<&Protocol>,
    rule: &str,
    report: &mut Report<'_>,
) {
    let path = format!("{rule}.{}", end.name);
    nets(entity, &path, report);
    selectors(entity, &path, report);
    ports(&entity.ports, protocol, &format!("{path}.ports"), report);
    ports(
        &entity.not_ports,
        protocol,
        &format!("{path}.notPorts"),
        report,
    );
    services(entity, end, &path, report);
}

fn nets(entity: &Entity, path: &str, report: &mut Report<'_>) {
    for (texts, field) in [(&entity.nets, "nets"), (&entity.not_nets, "notNets")] {
        for (i, text) in texts.iter().enumerate() {
            let path = format!("{path}.{field}[{i}]");
            match address::range(text) {
                None => report.say(
                    path,
                    format!("{text:?} is not a range of addresses, write for instance 10.0.0.0/8"),
                ),
                Some(net) => {
                    let everything = field == "notNets" && net.prefix_len() == 0;
                    report.say_if(
                        everything,
                        &path,
                        "excluding every address leaves nothing to match",
                    );
                }
            }
        }
    }
}

fn selectors(entity: &Entity, path: &str, report: &mut Report<'_>) {
    scope::check(
        entity.selector.as_deref(),
        Global::Forbidden,
        &format!("{path}.selector"),
        report,
    );
    scope::check(
        entity.not_selector.as_deref(),
        Global::Forbidden,
        &format!("{path}.notSelector"),
        report,
    );
    scope::check(
        entity.namespace_selector.as_deref(),
        Global::Alone,
        &format!("{path}.namespaceSelector"),
        report,
    );
    let accounts = entity
        .service_accounts
        .as_ref()
        .and_then(|accounts| accounts.selector.as_deref());
    scope::check(
        accounts,
        Global::Forbidden,
        &format!("{path}.serviceAccounts.selector"),
        report,
    );
}

fn ports(ports: &[Port], protocol: Option<&Protocol>, path: &str, report: &mut Report<'_>) {
    for (i, port) in ports.iter().enumerate() {
        if let Port::Invalid(text) = port {
            let message = format!(
                "{text:?} is not a port, write 1 to 65535, a range 80:90 or the name of a port"
            );
            report.say(format!("{path}[{i}]"), message);
        }
    }
    let numbers = ports.iter().any(|port| port.bounds().is_some());
    let carried = protocol.is_some_and(Protocol::has_ports);
    report.say_if(
        numbers && !carried,
        path,
        "port numbers need protocol TCP, UDP or SCTP in the same rule",
    );
    let named = ports.iter().any(|port| matches!(port, Port::Name(_)));
    let portless = protocol.is_some_and(|protocol| !protocol.has_ports());
    report.say_if(
        named && !numbers && portless,
        path,
        "the protocol of the rule has no ports",
    );
}

fn services(entity: &Entity, end: End, path: &str, report: &mut Report<'_>) {
    let Some(service) = &entity.services else {
        return;
    };
    let path = format!("{path}.services");
    let side = if end.is_source {
        "the source of ingress rules"
    } else {
        "the destination of egress rules"
    };
    if !end.services_allowed {
        report.say(path.as_str(), format!("services can be {side} only"));
    }
    report.say_if(
        service.name.is_empty(),
        &format!("{path}.name"),
        "name the Service",
    );
    let nowhere = service.namespace.is_empty() && !end.namespaced;
    report.say_if(
        nowhere,
        &format!("{path}.namespace"),
        "a global policy must say which namespace the Service is in",
    );
    let set = |text: &Option<String>| text.as_deref().is_some_and(|text| !text.is_empty());
    let selected =
        set(&entity.selector) || set(&entity.not_selector) || set(&entity.namespace_selector);
    report.say_if(
        selected,
        &path,
        "services cannot be combined with selectors",
    );
    let ranged = !entity.nets.is_empty() || !entity.not_nets.is_empty();
    report.say_if(
        ranged,
        &path,
        "services cannot be combined with nets or notNets",
    );
    report.say_if(
        entity.service_accounts.is_some(),
        &path,
        "services cannot be combined with serviceAccounts",
    );
    let ported = !end.is_source && (!entity.ports.is_empty() || !entity.not_ports.is_empty());
    report.say_if(
        ported,
        &path,
        "the ports of a Service are its own: leave ports and notPorts out",
    );
}
