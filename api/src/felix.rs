//! `FelixConfiguration`: settings of the node agent, under Calico's names.
//!
//! All fields Calico knows are here, those we do not act on too: they are accepted, stored and named on the object's
//! status. Precedence per field: `node.<name>`, then the oldest object whose `nodeSelector` matches, then `default`,
//! then the built-in value that the field's doc states.

use std::collections::BTreeMap;

use kube::{CustomResource, KubeSchema};
use schemars::{Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};

use crate::conditions::ConditionsStatus;
use crate::scalar::{GoDuration, Port, Switch, empty_is_none};

mod settings;

pub use settings::{
    AllowAction, AwsSrcDstCheck, BpfAttachType, BpfConnectTime, BpfConntrackLogLevel,
    BpfConntrackMode, BpfConntrackTimeouts, BpfJitHardening, BpfLogLevel, BpfMapScaling,
    BpfOverlaySource, BpfRedirect, BpfRpf, BpfServiceMode, ChainInsertMode, DenyAction, Dscp,
    EndpointToHostAction, EstablishedFlows, FelixExtension, FlowTableOffload,
    HealthTimeoutOverride, IptablesBackend, LocalSubnetReachability, LogSeverity, LoopPrevention,
    NatExclusions, NftablesMode, PolicyEvaluationMode, ProtoPort, RouteSource, RouteTableRange,
    SourceSpoofing, default_failsafe_inbound, default_failsafe_outbound,
};

/// Settings of the node agent.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "projectcalico.org",
    version = "v3",
    kind = "FelixConfiguration",
    plural = "felixconfigurations",
    singular = "felixconfiguration",
    shortname = "felixconfig",
    shortname = "felixconfigs",
    status = "ConditionsStatus",
    derive = "PartialEq",
    derive = "Default",
    doc = "Settings of the node agent: default for the cluster, node.<name> for one node, any other name with nodeSelector.",
    validation = Rule::new("self.metadata.name == 'default' || self.metadata.name.startsWith('node.') ? !has(self.spec.nodeSelector) : true").message("nodeSelector must not be set on the objects default and node.<name>").reason(Reason::FieldValueForbidden).field_path(".spec.nodeSelector"),
    printcolumn = r#"{"name": "Accepted", "type": "string", "jsonPath": ".status.conditions[?(@.type=='Accepted')].status", "description": "Whether the object passed every rule"}"#
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.routeTableRange) || !has(self.routeTableRanges)").message("routeTableRange and routeTableRanges cannot both be set").reason(Reason::FieldValueForbidden).field_path(".routeTableRange"),
    validation = Rule::new("!has(self.natOutgoingAddress) || size(self.natOutgoingAddress) == 0 || (isIP(self.natOutgoingAddress) && ip(self.natOutgoingAddress).family() == 4)").message("natOutgoingAddress must be a valid IPv4 address").reason(Reason::FieldValueInvalid).field_path(".natOutgoingAddress"),
    validation = Rule::new("!has(self.deviceRouteSourceAddress) || size(self.deviceRouteSourceAddress) == 0 || (isIP(self.deviceRouteSourceAddress) && ip(self.deviceRouteSourceAddress).family() == 4)").message("deviceRouteSourceAddress must be a valid IPv4 address").reason(Reason::FieldValueInvalid).field_path(".deviceRouteSourceAddress"),
    validation = Rule::new("!has(self.deviceRouteSourceAddressIPv6) || size(self.deviceRouteSourceAddressIPv6) == 0 || (isIP(self.deviceRouteSourceAddressIPv6) && ip(self.deviceRouteSourceAddressIPv6).family() == 6)").message("deviceRouteSourceAddressIPv6 must be a valid IPv6 address").reason(Reason::FieldValueInvalid).field_path(".deviceRouteSourceAddressIPv6")
)]
pub struct FelixConfigurationSpec {
    // scope
    /// Selects the nodes it applies to; forbidden on `default` and `node.<name>`, and without it other names mean nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub node_selector: Option<String>,

    // process: logs, health, metrics
    /// How much is logged to standard output; absent means Info.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "empty_is_none"
    )]
    pub log_severity_screen: Option<LogSeverity>,

    /// Accepted and reported: logs go to standard output.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "empty_is_none"
    )]
    pub log_severity_file: Option<LogSeverity>,

    /// Accepted and reported: logs go to standard output.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "empty_is_none"
    )]
    pub log_severity_sys: Option<LogSeverity>,

    /// Accepted and reported: logs go to standard output.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_file_path: Option<String>,

    /// Accepted and reported: filters by source file have no meaning here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_debug_filename_regex: Option<String>,

    /// Whether health is served over HTTP; absent means true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health_enabled: Option<bool>,

    /// Address health is served on; absent means localhost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health_host: Option<String>,

    /// TCP port health is served on; absent means 9099.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 65535))]
    pub health_port: Option<u16>,

    /// Watchdog times by component.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    pub health_timeout_overrides: Vec<HealthTimeoutOverride>,

    /// Whether metrics are served; absent means false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prometheus_metrics_enabled: Option<bool>,

    /// Address metrics are served on; absent means all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prometheus_metrics_host: Option<String>,

    /// TCP port metrics are served on; absent means 9091.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 65535))]
    pub prometheus_metrics_port: Option<u16>,

    /// Accepted and reported: there is no Go runtime.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prometheus_go_metrics_enabled: Option<bool>,

    /// Accepted and reported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prometheus_process_metrics_enabled: Option<bool>,

    /// Accepted and reported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prometheus_wire_guard_metrics_enabled: Option<bool>,

    /// Accepted and reported.
    #[serde(
        default,
        rename = "prometheusMetricsCAFile",
        skip_serializing_if = "Option::is_none"
    )]
    pub prometheus_metrics_ca_file: Option<String>,

    /// Accepted and reported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prometheus_metrics_cert_file: Option<String>,

    /// Accepted and reported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prometheus_metrics_key_file: Option<String>,

    /// Accepted and reported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prometheus_metrics_client_auth: Option<String>,

    // interfaces and host
    /// Whether IPv6 is handled; absent means true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv6_support: Option<bool>,

    /// Whether the daemon turns on forwarding in the kernel; absent means Enabled.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "empty_is_none"
    )]
    pub ip_forwarding: Option<Switch>,

    /// Comma list of prefixes of pod interface names; the first names new ones; absent means cali.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface_prefix: Option<String>,

    /// Comma list of names or /regular expressions/ of interfaces that are never host endpoints; absent means kube-ipvs0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface_exclude: Option<String>,

    /// Regular expression for the interfaces whose MTU counts for pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu_iface_pattern: Option<String>,

    /// Accepted and reported.
    #[serde(
        default,
        rename = "requireMTUFile",
        skip_serializing_if = "Option::is_none"
    )]
    pub require_mtu_file: Option<bool>,

    /// Whether floating addresses of pods are programmed; absent means Disabled.
    #[serde(
        default,
        rename = "floatingIPs",
        skip_serializing_if = "Option::is_none",
        deserialize_with = "empty_is_none"
    )]
    pub floating_ips: Option<Switch>,

    /// Whether pod and LoadBalancer addresses inside a host subnet are answered for on the link; absent means Disabled.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "empty_is_none"
    )]
    pub local_subnet_l2_reachability: Option<LocalSubnetReachability>,

    /// How often such addresses are announced again; absent means 120s, 0 means once.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "empty_is_none"
    )]
    pub local_subnet_l2_reachability_refresh_interval: Option<GoDuration>,

    // policy
    /// What happens to traffic from a pod to its own node after the pod's egress policy; absent means Drop.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "empty_is_none"
    )]
    pub default_endpoint_to_host_action: Option<EndpointToHostAction>,

    /// Ports of hosts that policy never closes; an empty list means none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failsafe_inbound_host_ports: Option<Vec<ProtoPort>>,

    /// Ports hosts may always reach; an empty list means none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failsafe_outbound_host_ports: Option<Vec<ProtoPort>>,

    /// Whether rules go to nftables; absent means Auto: whenever the kernel can.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "empty_is_none"
    )]
    pub nftables_mode: Option<NftablesMode>,

    /// Which iptables is used when iptables is; absent means Auto.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "empty_is_none"
    )]
    pub iptables_backend: Option<IptablesBackend>,

    /// Mark bits that may be used with nftables, at least 8; absent means 0xffff0000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 4_294_967_295_u32), extend("format" = "int64"))]
    pub nftables_mark_mask: Option<u32>,

    /// Mark bits that may be used with iptables, at least 8; absent means 0xffff0000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 4_294_967_295_u32), extend("format" = "int64"))]
    pub iptables_mark_mask: Option<u32>,

    /// What follows on allowed traffic; absent means Accept.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "empty_is_none"
    )]
    pub nftables_filter_allow_action: Option<AllowAction>,

    /// What follows on traffic allowed before Services are resolved; absent means Accept.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "empty_is_none"
    )]
    pub nftables_mangle_allow_action: Option<AllowAction>,

    /// How denied traffic ends; absent means Drop.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "empty_is_none"
    )]
    pub nftables_filter_deny_action: Option<DenyAction>,

    /// What follows on allowed traffic; absent means Accept.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "empty_is_none"
    )]
    pub iptables_filter_allow_action: Option<AllowAction>,

    /// What follows on traffic allowed before Services are resolved; absent means Accept.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "empty_is_none"
    )]
    pub iptables_mangle_allow_action: Option<AllowAction>,

    /// How denied traffic ends; absent means Drop.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "empty_is_none"
    )]
    pub iptables_filter_deny_action: Option<DenyAction>,

    /// Where our jump stands in the built-in chains of iptables; absent means Insert.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "empty_is_none"
    )]
    pub chain_insert_mode: Option<ChainInsertMode>,

    /// Entries an ipset may have; absent means 1048576.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_ipset_size: Option<i64>,

    /// Accepted and reported: the lock is waited for, not probed.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "empty_is_none"
    )]
    pub iptables_lock_probe_interval: Option<GoDuration>,

    /// Accepted and reported.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "empty_is_none"
    )]
    pub iptables_post_write_check_interval: Option<GoDuration>,

    /// Port ranges of `NodePorts`, used with kube-proxy in ipvs mode; absent means 30000:32767.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 7))]
    pub kube_node_port_ranges: Vec<Port>,

    /// Text before a logged packet; %t tier, %k kind, %n name, %p namespace and name; absent means calico-packet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^([a-zA-Z0-9%: /_-])*$"))]
    pub log_prefix: Option<String>,

    /// How many packets are logged: `N/second`, `/minute`, `/hour` or `/day`; absent means all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^[1-9]\d{0,3}/(?:second|minute|hour|day)$"))]
    pub log_action_rate_limit: Option<String>,

    /// Packets that may be logged at once under the limit; absent means 5.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 9999))]
    pub log_action_rate_limit_burst: Option<i64>,

    /// Whether pods may send VXLAN packets; absent means false.
    #[serde(
        default,
        rename = "allowVXLANPacketsFromWorkloads",
        skip_serializing_if = "Option::is_none"
    )]
    pub allow_vxlan_packets_from_workloads: Option<bool>,

    /// Whether pods may send IP-in-IP packets; absent means false.
    #[serde(
        default,
        rename = "allowIPIPPacketsFromWorkloads",
        skip_serializing_if = "Option::is_none"
    )]
    pub allow_ipip_packets_from_workloads: Option<bool>,

    /// Whether packets that connection tracking calls invalid may pass; absent means false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disable_conntrack_invalid_check: Option<bool>,

    /// Whether pods may ask for foreign source addresses; absent means Disabled.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "empty_is_none"
    )]
    pub workload_source_spoofing: Option<SourceSpoofing>,

    /// How packets to service addresses without a Service end; absent means Drop.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "empty_is_none"
    )]
    pub service_loop_prevention: Option<LoopPrevention>,

    /// Accepted and reported.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "empty_is_none"
    )]
    pub istio_ambient_mode: Option<Switch>,

    /// Accepted and reported; absent means 23.
    #[serde(
        default,
        rename = "istioDSCPMark",
        skip_serializing_if = "Option::is_none"
    )]
    pub istio_dscp_mark: Option<Dscp>,

    /// Whether established flows take the flowtable; absent means Disabled.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "empty_is_none"
    )]
    pub nftables_flow_table_offload: Option<FlowTableOffload>,

    /// Regular expression for further interfaces of the flowtable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nftables_flow_table_data_iface_pattern: Option<String>,

    /// Accepted and reported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy_sync_path_prefix: Option<String>,

    /// Accepted and reported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sidecar_acceleration_enabled: Option<bool>,

    // refresh and timeouts
    /// How often routes are audited; absent means 90s, 0 means never.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "empty_is_none"
    )]
    pub route_refresh_interval: Option<GoDuration>,

    /// How often interfaces are audited; absent means 90s, 0 means never.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "empty_is_none"
    )]
    pub interface_refresh_interval: Option<GoDuration>,

    /// How often iptables rules are audited; absent means 180s, 0 means never.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "empty_is_none"
    )]
    pub iptables_refresh_interval: Option<GoDuration>,

    /// How often nftables rules are audited; absent means 180s, 0 means never.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "empty_is_none"
    )]
    pub nftables_refresh_interval: Option<GoDuration>,

    /// How often ipsets are audited; absent means 90s, 0 means never.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "empty_is_none"
    )]
    pub ipsets_refresh_interval: Option<GoDuration>,

    /// Accepted and reported.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "empty_is_none"
    )]
    pub xdp_refresh_interval: Option<GoDuration>,

    /// How long the kernel may take to answer; absent means 10s.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "empty_is_none"
    )]
    pub netlink_timeout: Option<GoDuration>,

    // routes and tunnels
    /// IPv4 source hint on our routes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 45))]
    pub device_route_source_address: Option<String>,

    /// IPv6 source hint on our routes.
    #[serde(
        default,
        rename = "deviceRouteSourceAddressIPv6",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(length(max = 45))]
    pub device_route_source_address_ipv6: Option<String>,

    /// Protocol number on our routes; absent means 80.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_route_protocol: Option<u8>,

    /// Whether routes of others on pod interfaces are removed; absent means true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remove_external_routes: Option<bool>,

    /// IPv4 ranges of machines outside the cluster that may send tunnel packets.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub external_nodes_list: Vec<String>,

    /// Where routes come from; absent means `CalicoIPAM`.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "empty_is_none"
    )]
    pub route_source: Option<RouteSource>,

    /// Whether the daemon leaves routes alone (policy only); absent means false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub route_sync_disabled: Option<bool>,

    /// Deprecated: use routeTableRanges.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "old_route_table_range")]
    pub route_table_range: Option<RouteTableRange>,

    /// Routing tables we may use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub route_table_ranges: Option<Vec<RouteTableRange>>,

    /// Metric of IPv4 routes; absent means 1024.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 2_147_483_646), extend("format" = "int32"))]
    pub ipv4_normal_route_priority: Option<u32>,

    /// Metric of IPv4 routes during live migration; absent means 512.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 2_147_483_646), extend("format" = "int32"))]
    pub ipv4_elevated_route_priority: Option<u32>,

    /// Metric of IPv6 routes; absent means 1024.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 2_147_483_646), extend("format" = "int32"))]
    pub ipv6_normal_route_priority: Option<u32>,

    /// Metric of IPv6 routes during live migration; absent means 512.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 2_147_483_646), extend("format" = "int32"))]
    pub ipv6_elevated_route_priority: Option<u32>,

    /// How long the elevated metric stays after a migration; absent means 30s.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "empty_is_none"
    )]
    pub live_migration_route_convergence_time: Option<GoDuration>,

    /// Accepted and reported: one process owns routes and kernel here.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "empty_is_none"
    )]
    pub program_cluster_routes: Option<Switch>,

    /// Ports used for masquerading; absent means the kernel's choice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nat_port_range: Option<Port>,

    /// IPv4 address used for masquerading; absent means the address of the interface.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 45))]
    pub nat_outgoing_address: Option<String>,

    /// Destinations that are never masqueraded; absent means `IPPoolsOnly`.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "empty_is_none"
    )]
    pub nat_outgoing_exclusions: Option<NatExclusions>,

    /// Interface, `+` as wildcard at the end, masquerading is limited to.
    #[serde(
        default,
        rename = "iptablesNATOutgoingInterfaceFilter",
        skip_serializing_if = "Option::is_none"
    )]
    pub iptables_nat_outgoing_interface_filter: Option<String>,

    /// Whether the IP-in-IP device exists; absent means as the pools need it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipip_enabled: Option<bool>,

    /// MTU of the IP-in-IP device; absent or 0 means detected.
    #[serde(default, rename = "ipipMTU", skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "int32", "minimum" = 0))]
    pub ipip_mtu: Option<u32>,

    /// Whether the VXLAN devices exist; absent means as the pools need it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vxlan_enabled: Option<bool>,

    /// MTU of the IPv4 VXLAN device; absent or 0 means detected.
    #[serde(default, rename = "vxlanMTU", skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "int32", "minimum" = 0))]
    pub vxlan_mtu: Option<u32>,

    /// MTU of the IPv6 VXLAN device; absent or 0 means detected.
    #[serde(
        default,
        rename = "vxlanMTUV6",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(extend("format" = "int32", "minimum" = 0))]
    pub vxlan_mtuv6: Option<u32>,

    /// UDP port of VXLAN; absent means 4789.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 65535))]
    pub vxlan_port: Option<u16>,

    /// Network identifier of VXLAN; absent means 4096.
    #[serde(default, rename = "vxlanVNI", skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 16_777_215), extend("format" = "int32"))]
    pub vxlan_vni: Option<u32>,

    /// What is done about the source check of AWS; absent means `DoNothing`.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "empty_is_none"
    )]
    pub aws_src_dst_check: Option<AwsSrcDstCheck>,

    // WireGuard
    /// Whether IPv4 traffic between nodes is encrypted; absent means false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wireguard_enabled: Option<bool>,

    /// Whether IPv6 traffic between nodes is encrypted; absent means false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wireguard_enabled_v6: Option<bool>,

    /// UDP port for IPv4; absent means 51820.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub wireguard_listening_port: Option<u16>,

    /// UDP port for IPv6; absent means 51821.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub wireguard_listening_port_v6: Option<u16>,

    /// Priority of the routing rule; absent means 99.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 32765))]
    pub wireguard_routing_rule_priority: Option<i64>,

    /// Name of the IPv4 device; absent means wireguard.cali.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wireguard_interface_name: Option<String>,

    /// Name of the IPv6 device; absent means wg-v6.cali.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wireguard_interface_name_v6: Option<String>,

    /// MTU of the IPv4 device; absent or 0 means detected.
    #[serde(
        default,
        rename = "wireguardMTU",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(extend("format" = "int32", "minimum" = 0))]
    pub wireguard_mtu: Option<u32>,

    /// MTU of the IPv6 device; absent or 0 means detected.
    #[serde(
        default,
        rename = "wireguardMTUV6",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(extend("format" = "int32", "minimum" = 0))]
    pub wireguard_mtuv6: Option<u32>,

    /// Whether traffic of the hosts is encrypted too; absent means false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wireguard_host_encryption_enabled: Option<bool>,

    /// Interval of keepalives; absent or 0 means none.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "empty_is_none"
    )]
    pub wireguard_keep_alive: Option<GoDuration>,

    /// Whether the device uses threaded NAPI; absent means false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wireguard_threading_enabled: Option<bool>,

    // flow logs
    /// How often flow logs are handed on; absent means 300s.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "empty_is_none"
    )]
    pub flow_logs_flush_interval: Option<GoDuration>,

    /// Address flow logs are sent to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flow_logs_goldmane_server: Option<String>,

    /// Whether flow logs are served on a local socket; absent means Disabled.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "empty_is_none"
    )]
    pub flow_logs_local_reporter: Option<Switch>,

    /// Whether live flows are evaluated again when policy changes; absent means Continuous.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "empty_is_none"
    )]
    pub flow_logs_policy_evaluation_mode: Option<PolicyEvaluationMode>,

    /// Accepted and reported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flow_logs_collector_debug_trace: Option<bool>,

    // accepted and reported: Calico's process
    /// Accepted and reported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub use_internal_dataplane_driver: Option<bool>,

    /// Accepted and reported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dataplane_driver: Option<String>,

    /// Accepted and reported.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "empty_is_none"
    )]
    pub dataplane_watchdog_timeout: Option<GoDuration>,

    /// Accepted and reported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(
        pattern = r"^([a-zA-Z0-9-_]+=(true|false|),)*([a-zA-Z0-9-_]+=(true|false|))?$"
    ))]
    pub feature_detect_override: Option<String>,

    /// Accepted and reported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^([a-zA-Z0-9-_]+=([^=]+),)*([a-zA-Z0-9-_]+=([^=]+))?$"))]
    pub feature_gates: Option<String>,

    /// Accepted and reported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata_addr: Option<String>,

    /// Accepted and reported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata_port: Option<i64>,

    /// Accepted and reported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub openstack_region: Option<String>,

    /// Accepted and reported.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "empty_is_none"
    )]
    pub reporting_interval: Option<GoDuration>,

    /// Accepted and reported.
    #[serde(
        default,
        rename = "reportingTTL",
        skip_serializing_if = "Option::is_none",
        deserialize_with = "empty_is_none"
    )]
    pub reporting_ttl: Option<GoDuration>,

    /// Accepted and reported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint_reporting_enabled: Option<bool>,

    /// Accepted and reported.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "empty_is_none"
    )]
    pub endpoint_reporting_delay: Option<GoDuration>,

    /// Accepted and reported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint_status_path_prefix: Option<String>,

    /// Accepted and reported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage_reporting_enabled: Option<bool>,

    /// Accepted and reported.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "empty_is_none"
    )]
    pub usage_reporting_initial_delay: Option<GoDuration>,

    /// Accepted and reported.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "empty_is_none"
    )]
    pub usage_reporting_interval: Option<GoDuration>,

    /// Accepted and reported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub debug_memory_profile_path: Option<String>,

    /// Accepted and reported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub debug_disable_log_dropping: Option<bool>,

    /// Accepted and reported.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "empty_is_none"
    )]
    pub debug_simulate_calc_graph_hang_after: Option<GoDuration>,

    /// Accepted and reported.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "empty_is_none"
    )]
    pub debug_simulate_dataplane_hang_after: Option<GoDuration>,

    /// Accepted and reported.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "empty_is_none"
    )]
    pub debug_simulate_dataplane_apply_delay: Option<GoDuration>,

    /// Accepted and reported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub debug_host: Option<String>,

    /// Accepted and reported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 65535))]
    pub debug_port: Option<u16>,

    /// Accepted and reported.
    #[serde(
        default,
        rename = "goGCThreshold",
        skip_serializing_if = "Option::is_none"
    )]
    pub go_gc_threshold: Option<i64>,

    /// Accepted and reported.
    #[serde(
        default,
        rename = "goMemoryLimitMB",
        skip_serializing_if = "Option::is_none"
    )]
    pub go_memory_limit_mb: Option<i64>,

    /// Accepted and reported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub go_max_procs: Option<i64>,

    /// Accepted and reported.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "empty_is_none"
    )]
    pub windows_manage_firewall_rules: Option<Switch>,

    /// Accepted and reported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cgroup_v2_path: Option<String>,

    /// Accepted and reported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub xdp_enabled: Option<bool>,

    /// Accepted and reported.
    #[serde(
        default,
        rename = "genericXDPEnabled",
        skip_serializing_if = "Option::is_none"
    )]
    pub generic_xdp_enabled: Option<bool>,

    // accepted and reported: the eBPF data plane
    /// Accepted and reported with an Event: its author expects another data plane.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bpf_enabled: Option<bool>,

    /// Accepted and reported.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "empty_is_none"
    )]
    pub bpf_attach_type: Option<BpfAttachType>,

    /// Accepted and reported.
    #[serde(
        default,
        rename = "bpfCTLBLogFilter",
        skip_serializing_if = "Option::is_none"
    )]
    pub bpf_ctlb_log_filter: Option<String>,

    /// Accepted and reported.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "empty_is_none"
    )]
    pub bpf_connect_time_load_balancing: Option<BpfConnectTime>,

    /// Accepted and reported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bpf_connect_time_load_balancing_enabled: Option<bool>,

    /// Accepted and reported.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "empty_is_none"
    )]
    pub bpf_conntrack_log_level: Option<BpfConntrackLogLevel>,

    /// Accepted and reported.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "empty_is_none"
    )]
    pub bpf_conntrack_mode: Option<BpfConntrackMode>,

    /// Accepted and reported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bpf_conntrack_timeouts: Option<BpfConntrackTimeouts>,

    /// Accepted and reported.
    #[serde(
        default,
        rename = "bpfDSROptoutCIDRs",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub bpf_dsr_optout_cidrs: Vec<String>,

    /// Accepted and reported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bpf_data_iface_pattern: Option<String>,

    /// Accepted and reported.
    #[serde(
        default,
        rename = "bpfDisableGROForIfaces",
        skip_serializing_if = "Option::is_none"
    )]
    pub bpf_disable_gro_for_ifaces: Option<String>,

    /// Accepted and reported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bpf_disable_unprivileged: Option<bool>,

    /// Accepted and reported.
    #[serde(
        default,
        rename = "bpfEnforceRPF",
        skip_serializing_if = "Option::is_none",
        deserialize_with = "empty_is_none"
    )]
    pub bpf_enforce_rpf: Option<BpfRpf>,

    /// Accepted and reported.
    #[serde(
        default,
        rename = "bpfExcludeCIDRsFromNAT",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub bpf_exclude_cidrs_from_nat: Vec<String>,

    /// Accepted and reported.
    #[serde(
        default,
        rename = "bpfExportBufferSizeMB",
        skip_serializing_if = "Option::is_none"
    )]
    pub bpf_export_buffer_size_mb: Option<i64>,

    /// Accepted and reported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 4_294_967_295_u32), extend("format" = "int64"))]
    pub bpf_ext_to_service_connmark: Option<u32>,

    /// Accepted and reported.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "empty_is_none"
    )]
    pub bpf_external_service_mode: Option<BpfServiceMode>,

    /// Accepted and reported.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub bpf_force_track_packets_from_ifaces: Vec<String>,

    /// Accepted and reported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bpf_host_conntrack_bypass: Option<bool>,

    /// Accepted and reported.
    #[serde(
        default,
        rename = "bpfHostNetworkedNATWithoutCTLB",
        skip_serializing_if = "Option::is_none",
        deserialize_with = "empty_is_none"
    )]
    pub bpf_host_networked_nat_without_ctlb: Option<Switch>,

    /// Accepted and reported.
    #[serde(
        default,
        rename = "bpfIPFragTimeout",
        skip_serializing_if = "Option::is_none",
        deserialize_with = "empty_is_none"
    )]
    pub bpf_ip_frag_timeout: Option<GoDuration>,

    /// Accepted and reported.
    #[serde(
        default,
        rename = "bpfIPFragmentReassemblyEnabled",
        skip_serializing_if = "Option::is_none"
    )]
    pub bpf_ip_fragment_reassembly_enabled: Option<bool>,

    /// Accepted and reported.
    #[serde(
        default,
        rename = "bpfJITHardening",
        skip_serializing_if = "Option::is_none",
        deserialize_with = "empty_is_none"
    )]
    pub bpf_jit_hardening: Option<BpfJitHardening>,

    /// Accepted and reported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 65535))]
    pub bpf_kube_proxy_healthz_port: Option<u16>,

    /// Accepted and reported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bpf_kube_proxy_iptables_cleanup_enabled: Option<bool>,

    /// Accepted and reported.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "empty_is_none"
    )]
    pub bpf_kube_proxy_min_sync_period: Option<GoDuration>,

    /// Accepted and reported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bpf_l3_iface_pattern: Option<String>,

    /// Accepted and reported.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub bpf_log_filters: BTreeMap<String, String>,

    /// Accepted and reported.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "empty_is_none"
    )]
    pub bpf_log_level: Option<BpfLogLevel>,

    /// Accepted and reported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 3000))]
    pub bpf_maglev_max_endpoints_per_service: Option<i64>,

    /// Accepted and reported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 3000))]
    pub bpf_maglev_max_services: Option<i64>,

    /// Accepted and reported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bpf_map_size_conntrack: Option<i64>,

    /// Accepted and reported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub bpf_map_size_conntrack_cleanup_queue: Option<i64>,

    /// Accepted and reported.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "empty_is_none"
    )]
    pub bpf_map_size_conntrack_scaling: Option<BpfMapScaling>,

    /// Accepted and reported.
    #[serde(
        default,
        rename = "bpfMapSizeIPSets",
        skip_serializing_if = "Option::is_none"
    )]
    pub bpf_map_size_ipsets: Option<i64>,

    /// Accepted and reported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bpf_map_size_if_state: Option<i64>,

    /// Accepted and reported.
    #[serde(
        default,
        rename = "bpfMapSizeNATAffinity",
        skip_serializing_if = "Option::is_none"
    )]
    pub bpf_map_size_nat_affinity: Option<i64>,

    /// Accepted and reported.
    #[serde(
        default,
        rename = "bpfMapSizeNATBackend",
        skip_serializing_if = "Option::is_none"
    )]
    pub bpf_map_size_nat_backend: Option<i64>,

    /// Accepted and reported.
    #[serde(
        default,
        rename = "bpfMapSizeNATFrontend",
        skip_serializing_if = "Option::is_none"
    )]
    pub bpf_map_size_nat_frontend: Option<i64>,

    /// Accepted and reported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bpf_map_size_per_cpu_conntrack: Option<i64>,

    /// Accepted and reported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bpf_map_size_route: Option<i64>,

    /// Accepted and reported.
    #[serde(
        default,
        rename = "bpfOverlayHostSourceIP",
        skip_serializing_if = "Option::is_none",
        deserialize_with = "empty_is_none"
    )]
    pub bpf_overlay_host_source_ip: Option<BpfOverlaySource>,

    /// Accepted and reported.
    #[serde(
        default,
        rename = "bpfPSNATPorts",
        skip_serializing_if = "Option::is_none"
    )]
    pub bpf_psnat_ports: Option<Port>,

    /// Accepted and reported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bpf_policy_debug_enabled: Option<bool>,

    /// Accepted and reported.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "empty_is_none"
    )]
    pub bpf_profiling: Option<Switch>,

    /// Accepted and reported.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "empty_is_none"
    )]
    pub bpf_redirect_to_peer: Option<BpfRedirect>,

    /// Settings Calico's schema has no field for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub margay: Option<FelixExtension>,
}

/// Schema of the deprecated single range, which is narrower than the ranges that replaced it.
fn old_route_table_range(generator: &mut SchemaGenerator) -> Schema {
    let mut schema = generator.subschema_for::<RouteTableRange>();
    schema.insert(
        "x-kubernetes-validations".to_owned(),
        serde_json::json!([{
            "rule": "self.min >= 1 && self.max >= self.min && self.max <= 250",
            "message": "must be a range of route table indices within 1..250",
            "reason": "FieldValueInvalid",
        }]),
    );
    schema
}
