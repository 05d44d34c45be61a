//! Rules of `FelixConfiguration`, and its fields that are accepted and not acted on.

use ipnet::IpNet;
use regex::Regex;
use serde_json::Value;

use super::address::check_address;
use super::controllers::first_line;
use super::name::is_interface;
use super::scope::{self, Global};
use super::{Check, NAME_NOT_USED, Report, Severity};
use crate::felix::{FelixConfiguration, NftablesMode, ProtoPort, RouteSource};
use crate::scalar::{IpVersion, Port};

pub(super) const CONFIGURATION: &[Check<FelixConfiguration>] = &[
    Check {
        id: NAME_NOT_USED,
        severity: Severity::Refuse,
        judge: name,
    },
    Check {
        id: "felix-node-selector",
        severity: Severity::Refuse,
        judge: node_selector,
    },
    Check {
        id: "felix-addresses",
        severity: Severity::Refuse,
        judge: addresses,
    },
    Check {
        id: "felix-route-tables",
        severity: Severity::Refuse,
        judge: route_tables,
    },
    Check {
        id: "felix-mark-mask",
        severity: Severity::Refuse,
        judge: mark_masks,
    },
    Check {
        id: "felix-failsafe",
        severity: Severity::Refuse,
        judge: failsafe_ports,
    },
    Check {
        id: "felix-ports",
        severity: Severity::Refuse,
        judge: port_ranges,
    },
    Check {
        id: "felix-external-nodes",
        severity: Severity::Refuse,
        judge: external_nodes,
    },
    Check {
        id: "felix-patterns",
        severity: Severity::Refuse,
        judge: patterns,
    },
    Check {
        id: "felix-interfaces",
        severity: Severity::Refuse,
        judge: interfaces,
    },
    Check {
        id: "felix-ignored",
        severity: Severity::Unsupported,
        judge: ignored,
    },
];

/// Fields that are stored and change nothing (yet), besides all that begin with `bpf`.
pub(super) const IGNORED: &[&str] = &[
    "awsSrcDstCheck",
    "cgroupV2Path",
    "chainInsertMode",
    "dataplaneDriver",
    "dataplaneWatchdogTimeout",
    "debugDisableLogDropping",
    "debugHost",
    "debugMemoryProfilePath",
    "debugPort",
    "debugSimulateCalcGraphHangAfter",
    "debugSimulateDataplaneApplyDelay",
    "debugSimulateDataplaneHangAfter",
    "endpointReportingDelay",
    "endpointReportingEnabled",
    "endpointStatusPathPrefix",
    "featureDetectOverride",
    "featureGates",
    "floatingIPs",
    "flowLogsCollectorDebugTrace",
    "flowLogsFlushInterval",
    "flowLogsGoldmaneServer",
    "flowLogsLocalReporter",
    "flowLogsPolicyEvaluationMode",
    "genericXDPEnabled",
    "goGCThreshold",
    "goMaxProcs",
    "goMemoryLimitMB",
    "healthTimeoutOverrides",
    "ipsetsRefreshInterval",
    "iptablesBackend",
    "iptablesFilterAllowAction",
    "iptablesFilterDenyAction",
    "iptablesLockProbeInterval",
    "iptablesMangleAllowAction",
    "iptablesMarkMask",
    "iptablesPostWriteCheckInterval",
    "iptablesRefreshInterval",
    "ipv4ElevatedRoutePriority",
    "ipv6ElevatedRoutePriority",
    "istioAmbientMode",
    "istioDSCPMark",
    "kubeNodePortRanges",
    "liveMigrationRouteConvergenceTime",
    "localSubnetL2Reachability",
    "localSubnetL2ReachabilityRefreshInterval",
    "logDebugFilenameRegex",
    "logFilePath",
    "logSeverityFile",
    "logSeveritySys",
    "maxIpsetSize",
    "metadataAddr",
    "metadataPort",
    "nftablesFlowTableDataIfacePattern",
    "nftablesFlowTableOffload",
    "openstackRegion",
    "policySyncPathPrefix",
    "programClusterRoutes",
    "prometheusGoMetricsEnabled",
    "prometheusMetricsCAFile",
    "prometheusMetricsCertFile",
    "prometheusMetricsClientAuth",
    "prometheusMetricsKeyFile",
    "prometheusProcessMetricsEnabled",
    "prometheusWireGuardMetricsEnabled",
    "reportingInterval",
    "reportingTTL",
    "requireMTUFile",
    "routeTableRange",
    "routeTableRanges",
    "serviceLoopPrevention",
    "sidecarAccelerationEnabled",
    "usageReportingEnabled",
    "usageReportingInitialDelay",
    "usageReportingInterval",
    "windowsManageFirewallRules",
    "wireguardEnabled",
    "wireguardEnabledV6",
    "wireguardHostEncryptionEnabled",
    "wireguardInterfaceName",
    "wireguardInterfaceNameV6",
    "wireguardKeepAlive",
    "wireguardListeningPort",
    "wireguardListeningPortV6",
    "wireguardMTU",
    "wireguardMTUV6",
    "wireguardRoutingRulePriority",
    "wireguardThreadingEnabled",
    "workloadSourceSpoofing",
    "xdpEnabled",
    "xdpRefreshInterval",
];

fn scoped_by_name(configuration: &FelixConfiguration) -> bool {
    configuration
        .metadata
        .name
        .as_deref()
        .is_some_and(|name| name == "default" || name.starts_with("node."))
}

fn selector_text(configuration: &FelixConfiguration) -> Option<&str> {
    configuration.spec.node_selector.as_deref()
}

fn name(configuration: &FelixConfiguration, report: &mut Report<'_>) {
    let used = scoped_by_name(configuration)
        || selector_text(configuration).is_some_and(|text| !text.is_empty());
    report.say_if(
        !used,
        "metadata.name",
        "a name other than default and node.<name of a node> counts with nodeSelector only",
    );
}

fn node_selector(configuration: &FelixConfiguration, report: &mut Report<'_>) {
    let path = "spec.nodeSelector";
    let twice = scoped_by_name(configuration) && selector_text(configuration).is_some();
    report.say_if(
        twice,
        path,
        "the objects default and node.<name> cannot have nodeSelector",
    );
    scope::check(
        selector_text(configuration),
        Global::Forbidden,
        path,
        report,
    );
}

fn addresses(configuration: &FelixConfiguration, report: &mut Report<'_>) {
    let spec = &configuration.spec;
    check_address(
        spec.nat_outgoing_address.as_deref(),
        IpVersion::V4,
        "spec.natOutgoingAddress",
        report,
    );
    check_address(
        spec.device_route_source_address.as_deref(),
        IpVersion::V4,
        "spec.deviceRouteSourceAddress",
        report,
    );
    check_address(
        spec.device_route_source_address_ipv6.as_deref(),
        IpVersion::V6,
        "spec.deviceRouteSourceAddressIPv6",
        report,
    );
}

/// Most routing tables all ranges may name together.
const MAX_TABLES: i64 = 65_535;

fn route_tables(configuration: &FelixConfiguration, report: &mut Report<'_>) {
    let spec = &configuration.spec;
    let both = spec.route_table_range.is_some() && spec.route_table_ranges.is_some();
    report.say_if(
        both,
        "spec.routeTableRange",
        "routeTableRange and routeTableRanges cannot both be set",
    );
    let old = spec
        .route_table_range
        .is_some_and(|r| r.min < 1 || r.max < r.min || r.max > 250);
    report.say_if(
        old,
        "spec.routeTableRange",
        "must be a range of route table indices within 1..250",
    );
    let ranges = spec.route_table_ranges.as_deref().unwrap_or_default();
    for (i, range) in ranges.iter().enumerate() {
        let path = format!("spec.routeTableRanges[{i}]");
        report.say_if(range.min < 1, &path, "min must be >= 1");
        report.say_if(
            range.min > range.max,
            &path,
            "min must not be greater than max",
        );
    }
    let tables = ranges.iter().fold(0_i64, |sum, r| {
        sum.saturating_add(r.max.saturating_sub(r.min).saturating_add(1).max(0))
    });
    report.say_if(
        tables > MAX_TABLES,
        "spec.routeTableRanges",
        "the ranges name more than 65535 tables together",
    );
}

fn mark_masks(configuration: &FelixConfiguration, report: &mut Report<'_>) {
    let spec = &configuration.spec;
    for (mask, field) in [
        (spec.nftables_mark_mask, "nftablesMarkMask"),
        (spec.iptables_mark_mask, "iptablesMarkMask"),
    ] {
        let thin = mask.is_some_and(|mask| mask.count_ones() < 8);
        report.say_if(
            thin,
            &format!("spec.{field}"),
            "a mark mask has at least 8 bits set",
        );
    }
}

fn failsafe_ports(configuration: &FelixConfiguration, report: &mut Report<'_>) {
    let spec = &configuration.spec;
    let mut check = |ports: Option<&[ProtoPort]>, field: &str| {
        for (i, port) in ports.unwrap_or_default().iter().enumerate() {
            let path = format!("spec.{field}[{i}]");
            report.say_if(
                !port.protocol().has_ports(),
                &path,
                "the protocol must be TCP, UDP or SCTP",
            );
            let odd = port
                .net
                .as_deref()
                .is_some_and(|net| !net.is_empty() && net.parse::<IpNet>().is_err());
            report.say_if(
                odd,
                &path,
                "net is not a range of addresses, write for instance 10.0.0.0/8",
            );
        }
    };
    check(
        spec.failsafe_inbound_host_ports.as_deref(),
        "failsafeInboundHostPorts",
    );
    check(
        spec.failsafe_outbound_host_ports.as_deref(),
        "failsafeOutboundHostPorts",
    );
}

fn port_ranges(configuration: &FelixConfiguration, report: &mut Report<'_>) {
    let spec = &configuration.spec;
    let numeric = |port: &Port| port.bounds().is_some();
    let say = "write port numbers, such as 30000:32767";
    let nat = spec
        .nat_port_range
        .as_ref()
        .is_some_and(|port| !numeric(port));
    report.say_if(nat, "spec.natPortRange", say);
    report.say_if(
        !spec.kube_node_port_ranges.iter().all(numeric),
        "spec.kubeNodePortRanges",
        say,
    );
}

fn external_nodes(configuration: &FelixConfiguration, report: &mut Report<'_>) {
    for (i, text) in configuration.spec.external_nodes_list.iter().enumerate() {
        let fits = matches!(super::address::range(text), Some(IpNet::V4(_)));
        report.say_if(
            !fits,
            &format!("spec.externalNodesList[{i}]"),
            "write an IPv4 range, such as 192.0.2.0/24",
        );
    }
}

fn patterns(configuration: &FelixConfiguration, report: &mut Report<'_>) {
    let spec = &configuration.spec;
    let given = [
        (&spec.mtu_iface_pattern, "mtuIfacePattern"),
        (&spec.log_debug_filename_regex, "logDebugFilenameRegex"),
        (&spec.bpf_data_iface_pattern, "bpfDataIfacePattern"),
        (&spec.bpf_l3_iface_pattern, "bpfL3IfacePattern"),
        (
            &spec.nftables_flow_table_data_iface_pattern,
            "nftablesFlowTableDataIfacePattern",
        ),
    ];
    for (pattern, field) in given {
        if let Some(pattern) = pattern {
            check_pattern(pattern, &format!("spec.{field}"), report);
        }
    }
}

fn check_pattern(pattern: &str, path: &str, report: &mut Report<'_>) {
    if let Err(why) = Regex::new(pattern) {
        report.say(
            path,
            format!(
                "{pattern:?} is not a regular expression: {}",
                first_line(&why)
            ),
        );
    }
}

/// `interfacePrefix` is a list of beginnings of names, `interfaceExclude` one of names and `/regular expressions/`.
fn interfaces(configuration: &FelixConfiguration, report: &mut Report<'_>) {
    let spec = &configuration.spec;
    let list = |text: &'_ Option<String>| -> Vec<String> {
        let text = text.as_deref().unwrap_or_default();
        text.split(',')
            .filter(|_| !text.is_empty())
            .map(str::to_owned)
            .collect()
    };
    for prefix in list(&spec.interface_prefix) {
        report.say_if(
            !is_interface(&prefix),
            "spec.interfacePrefix",
            "write beginnings of names of interfaces, such as cali or cali,tap",
        );
    }
    let path = "spec.interfaceExclude";
    for name in list(&spec.interface_exclude) {
        match name
            .strip_prefix('/')
            .and_then(|rest| rest.strip_suffix('/'))
        {
            Some(pattern) => check_pattern(pattern, path, report),
            None => report.say_if(
                !is_interface(&name),
                path,
                "write names of interfaces or /regular expressions/, with commas between them",
            ),
        }
    }
}

fn ignored(configuration: &FelixConfiguration, report: &mut Report<'_>) {
    let external = configuration.spec.use_internal_dataplane_driver == Some(false);
    report.say_if(
        external,
        "spec.useInternalDataplaneDriver",
        "there is no external data plane driver here",
    );
    let iptables = configuration.spec.nftables_mode == Some(NftablesMode::Disabled);
    report.say_if(
        iptables,
        "spec.nftablesMode",
        "rules go to nftables: there is no other backend yet",
    );
    let endpoints = configuration.spec.route_source == Some(RouteSource::WorkloadIPs);
    report.say_if(
        endpoints,
        "spec.routeSource",
        "routes are made from blocks: there is no other source yet",
    );
    let Ok(Value::Object(fields)) = serde_json::to_value(&configuration.spec) else {
        return;
    };
    for (field, _) in fields.iter().filter(|(_, value)| !asks_for_nothing(value)) {
        if field == "bpfEnabled" {
            report.say("spec.bpfEnabled", "there is no eBPF data plane here: policy and routes go to nftables and the kernel's tables");
        } else if field.starts_with("bpf") || IGNORED.binary_search(&field.as_str()).is_ok() {
            report.say(
                format!("spec.{field}"),
                format!("{field} is stored and changes nothing"),
            );
        }
    }
}

/// Whether a value says "off", which is what not acting comes to.
fn asks_for_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(on) => !on,
        Value::String(text) => matches!(text.as_str(), "" | "Auto" | "Disabled"),
        Value::Number(_) | Value::Array(_) | Value::Object(_) => false,
    }
}
