//! Rules of `KubeControllersConfiguration`, `CalicoNodeStatus` and `ClusterInformation`.

use regex::Regex;

use super::address::check_cidr;
use super::name::is_dns_label;
use super::object;
use super::scope::{self, Global};
use super::{Check, NAME_NOT_USED, Report, Severity};
use crate::cluster::ClusterInformation;
use crate::controllers::{
    AutoHostEndpoint, ControllersSpec, HostEndpointTemplate, KubeControllersConfiguration,
};
use crate::nodestatus::CalicoNodeStatusSpec;

pub(super) const CONTROLLERS: &[Check<KubeControllersConfiguration>] = &[
    Check {
        id: NAME_NOT_USED,
        severity: Severity::Refuse,
        judge: name,
    },
    Check {
        id: "controllers-templates",
        severity: Severity::Refuse,
        judge: templates,
    },
    Check {
        id: "controllers-ignored",
        severity: Severity::Unsupported,
        judge: ignored,
    },
];

pub(super) const NODE_STATUS: &[Check<CalicoNodeStatusSpec>] = &[
    Check {
        id: "node-status",
        severity: Severity::Refuse,
        judge: node_status,
    },
    Check {
        id: "node-status-later",
        severity: Severity::Unsupported,
        judge: |_, report| report.say("spec", "status of nodes is not written yet"),
    },
];

pub(super) const CLUSTER: &[Check<ClusterInformation>] = &[Check {
    id: NAME_NOT_USED,
    severity: Severity::Refuse,
    judge: cluster_name,
}];

fn name(configuration: &KubeControllersConfiguration, report: &mut Report<'_>) {
    let used = configuration.metadata.name.as_deref() == Some("default");
    report.say_if(
        !used,
        "metadata.name",
        "only the KubeControllersConfiguration named default counts",
    );
}

fn cluster_name(cluster: &ClusterInformation, report: &mut Report<'_>) {
    let used = cluster.metadata.name.as_deref() == Some("default");
    report.say_if(
        !used,
        "metadata.name",
        "only the ClusterInformation named default counts",
    );
}

fn node_status(status: &CalicoNodeStatusSpec, report: &mut Report<'_>) {
    report.say_if(
        status.node.as_deref().is_none_or(str::is_empty),
        "spec.node",
        "name the node that is asked",
    );
    report.say_if(
        status.classes.is_empty(),
        "spec.classes",
        "say what is asked for: Agent, BGP, Routes",
    );
    report.say_if(
        status
            .update_period_seconds
            .is_some_and(|seconds| seconds > 86_400),
        "spec.updatePeriodSeconds",
        "a period is at most a day, 86400",
    );
}

fn auto(configuration: &KubeControllersConfiguration) -> Option<&AutoHostEndpoint> {
    let node = configuration.spec.controllers.node.as_ref();
    node.and_then(|node| node.host_endpoint.as_ref())
}

fn templates(configuration: &KubeControllersConfiguration, report: &mut Report<'_>) {
    let templates = auto(configuration).map(|auto| auto.templates.as_slice());
    for (i, template) in templates.unwrap_or_default().iter().enumerate() {
        let path = format!("spec.controllers.node.hostEndpoint.templates[{i}]");
        check_template(template, &path, report);
    }
}

fn check_template(template: &HostEndpointTemplate, path: &str, report: &mut Report<'_>) {
    let pattern = template.interface_pattern.as_deref().unwrap_or_default();
    report.say_if(
        pattern.is_empty() && template.interface_cidrs.is_empty(),
        path,
        "say which interfaces: set interfaceCIDRs or interfacePattern",
    );
    for (i, text) in template.interface_cidrs.iter().enumerate() {
        check_cidr(text, format!("{path}.interfaceCIDRs[{i}]"), report);
    }
    if let Err(why) = Regex::new(pattern) {
        let message = format!(
            "{pattern:?} is not a regular expression: {}",
            first_line(&why)
        );
        report.say(format!("{path}.interfacePattern"), message);
    }
    let named = template.generate_name.as_deref().unwrap_or_default();
    report.say_if(
        !named.is_empty() && !is_dns_label(named),
        &format!("{path}.generateName"),
        "the part of a name is at most 63 of a-z, 0-9 and -",
    );
    object::labels(&template.labels, &format!("{path}.labels"), report);
    object::annotations(
        &template.annotations,
        &format!("{path}.annotations"),
        report,
    );
    scope::check(
        template.node_selector.as_deref(),
        Global::Forbidden,
        &format!("{path}.nodeSelector"),
        report,
    );
}

/// The end of a message of the regular expression parser says what is wrong; the rest is a picture.
pub(super) fn first_line(why: &regex::Error) -> String {
    let text = why.to_string();
    let line = text.lines().last().unwrap_or_default();
    line.trim_start_matches("error: ").to_owned()
}

fn ignored(configuration: &KubeControllersConfiguration, report: &mut Report<'_>) {
    let spec = &configuration.spec;
    let mut say = |set: bool, field: &str, message: &str| {
        report.say_if(set, &format!("spec.{field}"), message);
    };
    let stored = "is stored and changes nothing";
    say(
        spec.log_severity_screen.is_some(),
        "logSeverityScreen",
        "the controller logs what its flag --log says",
    );
    say(
        spec.health_checks == Some(crate::Switch::Disabled),
        "healthChecks",
        stored,
    );
    say(
        spec.etcd_compaction_period.is_some(),
        "etcdV3CompactionPeriod",
        stored,
    );
    say(
        spec.prometheus_metrics_port.is_some(),
        "prometheusMetricsPort",
        "the controller serves no metrics yet",
    );
    say(
        spec.debug_profile_port.is_some(),
        "debugProfilePort",
        stored,
    );
    let ControllersSpec {
        node,
        policy,
        workload_endpoint,
        service_account,
        namespace,
        load_balancer,
        migration,
    } = &spec.controllers;
    let read = "is stored and changes nothing: what it would copy is read from the API itself";
    say(policy.is_some(), "controllers.policy", read);
    say(
        workload_endpoint.is_some(),
        "controllers.workloadEndpoint",
        read,
    );
    say(
        service_account.is_some(),
        "controllers.serviceAccount",
        read,
    );
    say(namespace.is_some(), "controllers.namespace", read);
    say(
        load_balancer.is_some(),
        "controllers.loadBalancer",
        "addresses for LoadBalancer Services are not assigned yet",
    );
    say(migration.is_some(), "controllers.policyMigration", stored);
    let Some(node) = node else { return };
    say(
        node.reconciler_period.is_some(),
        "controllers.node.reconcilerPeriod",
        "work is done when something changes",
    );
    say(
        node.sync_labels.is_some(),
        "controllers.node.syncLabels",
        "labels are read from the Node itself",
    );
    say(
        node.leak_grace_period.is_some(),
        "controllers.node.leakGracePeriod",
        "addresses that leaked are not looked for yet",
    );
    let makes = node.host_endpoint.as_ref().is_some_and(|auto| {
        auto.auto_create == Some(crate::Switch::Enabled) || !auto.templates.is_empty()
    });
    say(
        makes,
        "controllers.node.hostEndpoint",
        "endpoints of hosts are not made automatically yet",
    );
}
