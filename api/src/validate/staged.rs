//! Rules of the staged policies.

use ipnet::IpNet;
use k8s_openapi::api::networking::v1::{IPBlock, NetworkPolicyPeer, NetworkPolicyPort};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::name::{is_label_value, is_qualified_name};
use super::{Check, Report, Severity, address};
use crate::policy::{
    GlobalNetworkPolicySpec, StagedAction, StagedGlobalNetworkPolicySpec,
    StagedKubernetesNetworkPolicySpec, StagedNetworkPolicySpec,
};

/// What every staged kind has.
pub(super) struct Stage {
    action: Option<StagedAction>,
    /// Whether anything but the action and the tier is set.
    has_content: bool,
}

impl Stage {
    pub(super) fn of_namespaced(spec: &StagedNetworkPolicySpec) -> Self {
        let mut rest = spec.policy.clone();
        rest.tier = None;
        Self {
            action: spec.staged_action,
            has_content: rest != crate::NetworkPolicySpec::default(),
        }
    }

    pub(super) fn of_global(spec: &StagedGlobalNetworkPolicySpec) -> Self {
        let mut rest = spec.policy.clone();
        rest.tier = None;
        Self {
            action: spec.staged_action,
            has_content: rest != GlobalNetworkPolicySpec::default(),
        }
    }

    pub(super) fn of_kubernetes(spec: &StagedKubernetesNetworkPolicySpec) -> Self {
        let rest = StagedKubernetesNetworkPolicySpec {
            staged_action: None,
            ..spec.clone()
        };
        Self {
            action: spec.staged_action,
            has_content: rest != StagedKubernetesNetworkPolicySpec::default(),
        }
    }
}

pub(super) const STAGE: &[Check<Stage>] = &[
    Check {
        id: "staged-delete",
        severity: Severity::Refuse,
        judge: delete,
    },
    Check {
        id: "staged-later",
        severity: Severity::Unsupported,
        judge: |_, report| {
            report.say(
                "spec.stagedAction",
                "a staged policy is stored and not enforced; what it would do is not shown yet",
            );
        },
    },
];

fn delete(stage: &Stage, report: &mut Report<'_>) {
    report.say_if(
        stage.action == Some(StagedAction::Delete) && stage.has_content,
        "spec.stagedAction",
        "with Delete every field but tier must be empty",
    );
}

pub(super) const KUBERNETES: &[Check<StagedKubernetesNetworkPolicySpec>] = &[Check {
    id: "staged-kubernetes",
    severity: Severity::Refuse,
    judge: kubernetes,
}];

fn kubernetes(policy: &StagedKubernetesNetworkPolicySpec, report: &mut Report<'_>) {
    selector(&policy.pod_selector, "spec.podSelector", report);
    for (i, rule) in policy.ingress.iter().enumerate() {
        let path = format!("spec.ingress[{i}]");
        peers(rule.from.as_deref(), &format!("{path}.from"), report);
        ports(rule.ports.as_deref(), &format!("{path}.ports"), report);
    }
    for (i, rule) in policy.egress.iter().enumerate() {
        let path = format!("spec.egress[{i}]");
        peers(rule.to.as_deref(), &format!("{path}.to"), report);
        ports(rule.ports.as_deref(), &format!("{path}.ports"), report);
    }
}

fn selector(selector: &LabelSelector, path: &str, report: &mut Report<'_>) {
    for (key, value) in selector.match_labels.iter().flatten() {
        report.say_if(
            !is_qualified_name(key) || !is_label_value(value),
            &format!("{path}.matchLabels"),
            "keys and values of labels are at most 63 of letters, digits, -, _ and .",
        );
    }
    let expressions = selector.match_expressions.as_deref().unwrap_or_default();
    for (i, expression) in expressions.iter().enumerate() {
        let path = format!("{path}.matchExpressions[{i}]");
        report.say_if(
            !is_qualified_name(&expression.key),
            &format!("{path}.key"),
            "a key is at most 63 of letters, digits, -, _ and .",
        );
        let listed = expression
            .values
            .as_ref()
            .is_some_and(|list| !list.is_empty());
        match (expression.operator.as_str(), listed) {
            ("In" | "NotIn", true) | ("Exists" | "DoesNotExist", false) => {}
            ("In" | "NotIn", false) => {
                report.say(format!("{path}.values"), "In and NotIn need values");
            }
            ("Exists" | "DoesNotExist", true) => {
                report.say(
                    format!("{path}.values"),
                    "Exists and DoesNotExist take no values",
                );
            }
            _ => report.say(
                format!("{path}.operator"),
                "an operator is In, NotIn, Exists or DoesNotExist",
            ),
        }
    }
}

fn peers(list: Option<&[NetworkPolicyPeer]>, path: &str, report: &mut Report<'_>) {
    for (i, peer) in list.unwrap_or_default().iter().enumerate() {
        let path = format!("{path}[{i}]");
        let selects = peer.pod_selector.is_some() || peer.namespace_selector.is_some();
        report.say_if(
            peer.ip_block.is_some() && selects,
            &path,
            "ipBlock cannot be combined with selectors",
        );
        report.say_if(
            peer.ip_block.is_none() && !selects,
            &path,
            "set ipBlock, podSelector or namespaceSelector",
        );
        for (found, field) in [
            (&peer.pod_selector, "podSelector"),
            (&peer.namespace_selector, "namespaceSelector"),
        ] {
            if let Some(found) = found {
                selector(found, &format!("{path}.{field}"), report);
            }
        }
        if let Some(block) = &peer.ip_block {
            ip_block(block, &format!("{path}.ipBlock"), report);
        }
    }
}

fn ip_block(block: &IPBlock, path: &str, report: &mut Report<'_>) {
    let Ok(range) = block.cidr.parse::<IpNet>() else {
        let message = format!(
            "{:?} is not a range of addresses, write for instance 10.0.0.0/8",
            block.cidr
        );
        return report.say(format!("{path}.cidr"), message);
    };
    for (i, text) in block.except.iter().flatten().enumerate() {
        let inside = address::range(text)
            .is_some_and(|hole| range.contains(&hole) && hole.prefix_len() > range.prefix_len());
        report.say_if(
            !inside,
            &format!("{path}.except[{i}]"),
            "must be a range inside cidr and smaller",
        );
    }
}

fn ports(list: Option<&[NetworkPolicyPort]>, path: &str, report: &mut Report<'_>) {
    for (i, port) in list.unwrap_or_default().iter().enumerate() {
        let path = format!("{path}[{i}]");
        let known = port
            .protocol
            .as_deref()
            .is_none_or(|name| matches!(name, "TCP" | "UDP" | "SCTP"));
        report.say_if(
            !known,
            &format!("{path}.protocol"),
            "the protocol must be TCP, UDP or SCTP",
        );
        let number = match &port.port {
            Some(IntOrString::Int(number)) => Some(*number),
            Some(IntOrString::String(_)) | None => None,
        };
        report.say_if(
            number.is_some_and(|number| !(1..=65_535).contains(&number)),
            &format!("{path}.port"),
            "a port is 1 to 65535",
        );
        if let Some(end) = port.end_port {
            report.say_if(
                number.is_none_or(|number| end < number) || end > 65_535,
                &format!("{path}.endPort"),
                "endPort needs a port number and is not below it",
            );
        }
    }
}
