//! Rules of `BGPFilter`.

use ipnet::IpNet;

use super::bgp::is_community;
use super::{Check, Report, Severity, address};
use crate::bgpfilter::{
    BGPFilterSpec, CommunityMatch, FilterAction, FilterOperation, FilterRuleV4, FilterRuleV6,
    MatchOperator,
};
use crate::scalar::IpVersion;

pub(super) const FILTER: &[Check<BGPFilterSpec>] = &[
    Check {
        id: "filter-prefix",
        severity: Severity::Refuse,
        judge: |filter, report| each(filter, report, prefix),
    },
    Check {
        id: "filter-interface",
        severity: Severity::Refuse,
        judge: |filter, report| each(filter, report, interface),
    },
    Check {
        id: "filter-communities",
        severity: Severity::Refuse,
        judge: |filter, report| each(filter, report, communities),
    },
    Check {
        id: "filter-priority",
        severity: Severity::Refuse,
        judge: |filter, report| each(filter, report, priority),
    },
    Check {
        id: "filter-operations",
        severity: Severity::Refuse,
        judge: |filter, report| each(filter, report, operations),
    },
    Check {
        id: "filter-operations-later",
        severity: Severity::Unsupported,
        judge: |filter, report| each(filter, report, operations_later),
    },
];

/// A rule of either family.
struct View<'a> {
    version: IpVersion,
    cidr: Option<&'a str>,
    operator: Option<MatchOperator>,
    /// Shortest and longest, where prefixLength is set.
    length: Option<(Option<u8>, Option<u8>)>,
    interface: Option<&'a str>,
    communities: Option<&'a CommunityMatch>,
    priority: Option<u32>,
    action: FilterAction,
    operations: &'a [FilterOperation],
}

macro_rules! view {
    ($rule:ident, $version:ident) => {
        impl<'a> From<&'a $rule> for View<'a> {
            fn from(rule: &'a $rule) -> Self {
                Self {
                    version: IpVersion::$version,
                    cidr: rule.cidr.as_deref().filter(|text| !text.is_empty()),
                    operator: rule.match_operator,
                    length: rule.prefix_length.map(|length| (length.min, length.max)),
                    interface: rule.interface.as_deref().filter(|text| !text.is_empty()),
                    communities: rule.communities.as_ref(),
                    priority: rule.priority,
                    action: rule.action,
                    operations: rule.operations.as_deref().unwrap_or_default(),
                }
            }
        }
    };
}

view!(FilterRuleV4, V4);
view!(FilterRuleV6, V6);

type Judge = fn(&View<'_>, &str, &mut Report<'_>);

fn each(filter: &BGPFilterSpec, report: &mut Report<'_>, judge: Judge) {
    list(&filter.export_v4, "exportV4", report, judge);
    list(&filter.import_v4, "importV4", report, judge);
    list(&filter.export_v6, "exportV6", report, judge);
    list(&filter.import_v6, "importV6", report, judge);
}

fn list<'a, R>(rules: &'a [R], field: &str, report: &mut Report<'_>, judge: Judge)
where
    View<'a>: From<&'a R>,
{
    for (i, rule) in rules.iter().enumerate() {
        judge(&View::from(rule), &format!("spec.{field}[{i}]"), report);
    }
}

fn prefix(rule: &View<'_>, path: &str, report: &mut Report<'_>) {
    report.say_if(
        rule.cidr.is_some() != rule.operator.is_some(),
        &format!("{path}.matchOperator"),
        "cidr and matchOperator belong together: set both or neither",
    );
    let length = format!("{path}.prefixLength");
    report.say_if(
        rule.length.is_some() && rule.cidr.is_none(),
        &length,
        "prefixLength needs cidr",
    );
    if let Some((Some(min), Some(max))) = rule.length {
        report.say_if(min > max, &length, "min must not be greater than max");
    }
    let longest = match rule.version {
        IpVersion::V4 => 32,
        IpVersion::V6 => 128,
    };
    let (min, max) = rule.length.unwrap_or_default();
    report.say_if(
        min.max(max).is_some_and(|most| most > longest),
        &length,
        "a prefix is at most 32 (IPv4) or 128 (IPv6) long",
    );
    let Some(text) = rule.cidr else { return };
    match text.parse::<IpNet>() {
        Ok(net) if address::family(&net) == rule.version => {}
        Ok(_) => report.say(
            format!("{path}.cidr"),
            format!("{text} is not a range of IPv{}", rule.version.number()),
        ),
        Err(_) => report.say(
            format!("{path}.cidr"),
            format!("{text:?} is not a range of addresses, write for instance 10.0.0.0/8"),
        ),
    }
}

fn interface(rule: &View<'_>, path: &str, report: &mut Report<'_>) {
    let fits = rule.interface.is_none_or(|name| {
        name.len() <= 15
            && name
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-' | b'*'))
    });
    report.say_if(
        !fits,
        &format!("{path}.interface"),
        "an interface is at most 15 of letters, digits, _, ., - and * as wildcard",
    );
}

fn communities(rule: &View<'_>, path: &str, report: &mut Report<'_>) {
    let Some(wanted) = rule.communities else {
        return;
    };
    let path = format!("{path}.communities.values");
    report.say_if(
        wanted.values.len() != 1,
        &path,
        "name exactly one community",
    );
    for (i, text) in wanted.values.iter().enumerate() {
        community(text, &format!("{path}[{i}]"), report);
    }
}

fn community(text: &str, path: &str, report: &mut Report<'_>) {
    if !is_community(text) {
        let message = format!(
            "{text:?} is not a community, write aa:nn (0 to 65535 each) or aa:nn:mm (0 to 4294967295 each)"
        );
        report.say(path, message);
    }
}

fn priority(rule: &View<'_>, path: &str, report: &mut Report<'_>) {
    let odd = |value: u32| value == 0 || value > 2_147_483_646;
    report.say_if(
        rule.priority.is_some_and(odd),
        &format!("{path}.priority"),
        "a priority is 1 to 2147483646",
    );
    for (i, operation) in rule.operations.iter().enumerate() {
        report.say_if(
            operation.set_priority.is_some_and(|set| odd(set.value)),
            &format!("{path}.operations[{i}].setPriority.value"),
            "a priority is 1 to 2147483646",
        );
    }
}

fn operations(rule: &View<'_>, path: &str, report: &mut Report<'_>) {
    let path = format!("{path}.operations");
    report.say_if(
        !rule.operations.is_empty() && rule.action != FilterAction::Accept,
        &path,
        "operations are of use with action Accept only",
    );
    for (i, operation) in rule.operations.iter().enumerate() {
        let path = format!("{path}[{i}]");
        let set = usize::from(operation.add_community.is_some())
            + usize::from(operation.prepend_as_path.is_some())
            + usize::from(operation.set_priority.is_some())
            + usize::from(operation.margay.is_some());
        report.say_if(set != 1, &path, "set exactly one operation in each entry");
        if let Some(added) = &operation.add_community {
            community(&added.value, &format!("{path}.addCommunity.value"), report);
        }
        if let Some(ours) = &operation.margay {
            let path = format!("{path}.margay");
            let set = usize::from(ours.remove_community.is_some())
                + usize::from(ours.set_local_pref.is_some())
                + usize::from(ours.set_med.is_some());
            report.say_if(set != 1, &path, "set exactly one operation in each entry");
            if let Some(removed) = &ours.remove_community {
                community(
                    &removed.value,
                    &format!("{path}.removeCommunity.value"),
                    report,
                );
            }
        }
    }
}

fn operations_later(rule: &View<'_>, path: &str, report: &mut Report<'_>) {
    report.say_if(
        !rule.operations.is_empty(),
        &format!("{path}.operations"),
        "routes cannot be changed yet: the rule rejects what it matches, for a route without its marks must not leak",
    );
}
