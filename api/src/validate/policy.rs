//! Rules of `NetworkPolicy` and `GlobalNetworkPolicy`.

use super::name::is_dns_label;
use super::rule::{self, Direction};
use super::scope::{self, Global};
use super::{Check, Report, Severity};
use crate::policy::{
    GlobalNetworkPolicy, GlobalNetworkPolicySpec, NetworkPolicy, NetworkPolicySpec, PolicyType,
    StagedGlobalNetworkPolicy, StagedNetworkPolicy,
};

/// Both kinds in the form of the wider one.
pub(super) struct View {
    name: String,
    namespaced: bool,
    spec: GlobalNetworkPolicySpec,
}

impl View {
    pub(super) fn of_namespaced(policy: &NetworkPolicy) -> Self {
        Self::widened(policy.metadata.name.as_deref(), policy.spec.clone())
    }

    pub(super) fn of_staged(policy: &StagedNetworkPolicy) -> Self {
        Self::widened(policy.metadata.name.as_deref(), policy.spec.policy.clone())
    }

    pub(super) fn of_global(policy: &GlobalNetworkPolicy) -> Self {
        Self {
            name: policy.metadata.name.clone().unwrap_or_default(),
            namespaced: false,
            spec: policy.spec.clone(),
        }
    }

    pub(super) fn of_staged_global(policy: &StagedGlobalNetworkPolicy) -> Self {
        Self {
            name: policy.metadata.name.clone().unwrap_or_default(),
            namespaced: false,
            spec: policy.spec.policy.clone(),
        }
    }

    fn widened(name: Option<&str>, spec: NetworkPolicySpec) -> Self {
        Self {
            name: name.unwrap_or_default().to_owned(),
            namespaced: true,
            spec: GlobalNetworkPolicySpec {
                tier: spec.tier,
                order: spec.order,
                ingress: spec.ingress,
                egress: spec.egress,
                selector: spec.selector,
                types: spec.types,
                service_account_selector: spec.service_account_selector,
                performance_hints: spec.performance_hints,
                ..GlobalNetworkPolicySpec::default()
            },
        }
    }
}

pub(super) const POLICY: &[Check<View>] = &[
    Check {
        id: "policy-name",
        severity: Severity::Refuse,
        judge: name,
    },
    Check {
        id: "policy-tier",
        severity: Severity::Refuse,
        judge: tier,
    },
    Check {
        id: "policy-selectors",
        severity: Severity::Refuse,
        judge: selectors,
    },
    Check {
        id: "policy-types",
        severity: Severity::Refuse,
        judge: types,
    },
    Check {
        id: "policy-hooks",
        severity: Severity::Refuse,
        judge: hooks,
    },
    Check {
        id: "policy-hooks-later",
        severity: Severity::Unsupported,
        judge: hooks_later,
    },
    Check {
        id: "policy-hints",
        severity: Severity::Unsupported,
        judge: hints,
    },
    Check {
        id: "rule",
        severity: Severity::Refuse,
        judge: rules,
    },
    Check {
        id: "rule-http",
        severity: Severity::Unsupported,
        judge: rules_http,
    },
];

/// Beginnings of names that stand for policies of other kinds.
const RESERVED: [&str; 2] = ["knp.default.", "ossg.default."];

fn name(policy: &View, report: &mut Report<'_>) {
    let reserved = policy.namespaced
        && RESERVED
            .iter()
            .any(|prefix| policy.name.starts_with(prefix));
    let parts: Vec<&str> = policy.name.split('.').collect();
    let fits = parts.len() <= 2 && parts.iter().all(|part| is_dns_label(part));
    report.say_if(
        !reserved && !fits,
        "metadata.name",
        "the name of a policy is one label, or two with a dot between (tier.name)",
    );
}

fn tier(policy: &View, report: &mut Report<'_>) {
    let name = policy.spec.tier_name();
    if !is_dns_label(name) {
        report.say(
            "spec.tier",
            format!("{name:?} cannot be the name of a tier"),
        );
    }
}

fn selectors(policy: &View, report: &mut Report<'_>) {
    let spec = &policy.spec;
    scope::check(
        spec.selector.as_deref(),
        Global::Forbidden,
        "spec.selector",
        report,
    );
    scope::check(
        spec.service_account_selector.as_deref(),
        Global::Forbidden,
        "spec.serviceAccountSelector",
        report,
    );
    scope::check(
        spec.namespace_selector.as_deref(),
        Global::Forbidden,
        "spec.namespaceSelector",
        report,
    );
}

fn types(policy: &View, report: &mut Report<'_>) {
    let twice =
        matches!(policy.spec.types.as_deref(), Some([first, rest @ ..]) if rest.contains(first));
    report.say_if(twice, "spec.types", "each type may be listed once");
}

fn hooks(policy: &View, report: &mut Report<'_>) {
    let spec = &policy.spec;
    report.say_if(
        spec.pre_dnat && spec.do_not_track,
        "spec.preDNAT",
        "preDNAT and doNotTrack cannot both be true",
    );
    let needs = "needs applyOnForward: true";
    report.say_if(
        spec.pre_dnat && !spec.apply_on_forward,
        "spec.preDNAT",
        needs,
    );
    report.say_if(
        spec.do_not_track && !spec.apply_on_forward,
        "spec.doNotTrack",
        needs,
    );
    report.say_if(
        spec.pre_dnat && !spec.egress.is_empty(),
        "spec.egress",
        "a preDNAT policy cannot have egress rules",
    );
    let egress = spec
        .types
        .as_deref()
        .is_some_and(|types| types.contains(&PolicyType::Egress));
    report.say_if(
        spec.pre_dnat && egress,
        "spec.types",
        "a preDNAT policy cannot have the type Egress",
    );
}

fn hooks_later(policy: &View, report: &mut Report<'_>) {
    let spec = &policy.spec;
    let elsewhere = "the policy is not applied at all: its normal place would mean something else";
    report.say_if(spec.pre_dnat, "spec.preDNAT", elsewhere);
    report.say_if(spec.do_not_track, "spec.doNotTrack", elsewhere);
    let part = spec.apply_on_forward && !spec.pre_dnat && !spec.do_not_track;
    report.say_if(
        part,
        "spec.applyOnForward",
        "the policy holds for traffic of hosts, not yet for traffic they forward",
    );
}

fn hints(policy: &View, report: &mut Report<'_>) {
    let given = !policy.spec.performance_hints.is_empty();
    report.say_if(
        given,
        "spec.performanceHints",
        "policies are compiled where an endpoint matches, hints change nothing",
    );
}

fn rules(policy: &View, report: &mut Report<'_>) {
    for (i, one) in policy.spec.ingress.iter().enumerate() {
        rule::check(
            one,
            Direction::Ingress,
            policy.namespaced,
            &format!("spec.ingress[{i}]"),
            report,
        );
    }
    for (i, one) in policy.spec.egress.iter().enumerate() {
        rule::check(
            one,
            Direction::Egress,
            policy.namespaced,
            &format!("spec.egress[{i}]"),
            report,
        );
    }
}

fn rules_http(policy: &View, report: &mut Report<'_>) {
    let both = [
        ("ingress", &policy.spec.ingress),
        ("egress", &policy.spec.egress),
    ];
    for (side, rules) in both {
        for (i, _) in rules
            .iter()
            .enumerate()
            .filter(|(_, rule)| rule.http.is_some())
        {
            let message = "HTTP is not looked into: the rule never matches, for an Allow that cannot be checked must not allow";
            report.say(format!("spec.{side}[{i}].http"), message);
        }
    }
}
