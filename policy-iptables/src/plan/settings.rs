//! What the rendered table depends on besides policies and endpoints.

use std::sync::Arc;

use api::felix;
use ipnet::IpNet;
use model::{NatFacts, World};

/// Settings of the agent and facts of other planners.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Every interface whose name starts with one of these is a workload's.
    pub prefixes: Vec<Arc<str>>,
    /// What follows a pod's egress policy when the destination is this host.
    pub host_action: HostAction,
    /// How denied packets end.
    pub deny: DenyAction,
    /// Tunnel packets that workloads may send.
    pub workload_tunnels: WorkloadTunnels,
    /// Packets of workloads without a place in any flow are dropped.
    pub drop_invalid: bool,
    /// UDP port that counts as VXLAN when a workload sends to it.
    pub vxlan_port: u16,
    /// One bit of the packet mark, used inside a group's chain only and never left set.
    pub mark: u32,
    /// One bit of the mark of flows: set on those that are live and that a later policy forbids. `None`: such flows live on.
    pub cut: Option<u32>,
    /// Prefix of log lines, with `%t` tier, `%k` kind, `%n` name, `%p` namespace and name.
    pub log_prefix: Arc<str>,
    /// The kernel has a logger: Log rules are rendered.
    pub log: bool,
    /// The cluster uses IPv6: rules for it are rendered even while no peer has an address of it.
    pub ipv6: bool,
    /// Service ranges of BGPConfiguration: a destination still inside one at the end of forwarding would loop.
    pub service_ranges: Vec<IpNet>,
    /// What happens to it.
    pub loops: LoopPrevention,
    /// Address translation, as `dataplane` planned it.
    pub nat: NatFacts,
}

/// What not every kernel can do; [`crate::io::Features`] finds out by trying.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Abilities {
    /// A logger is there, so Log rules can be rendered.
    pub log: bool,
    /// Flows have marks, so live flows can be cut.
    pub flow_marks: bool,
}

/// Tunnel packets that workloads may send.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WorkloadTunnels {
    /// UDP to our VXLAN port.
    pub vxlan: bool,
    /// IP in IP.
    pub ipip: bool,
}

/// What follows a pod's egress policy when the destination is this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum HostAction {
    /// The packet is dropped.
    Drop,
    /// The packet goes on to the host.
    Accept,
}

/// How denied packets end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DenyAction {
    /// Silently.
    Drop,
    /// With an answer to the sender.
    Reject,
}

/// What happens to packets that would loop between us and a router.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LoopPrevention {
    /// They are dropped.
    Drop,
    /// They are answered.
    Reject,
    /// They go out.
    Disabled,
}

/// `nftablesMarkMask` unless set.
const MARK_MASK: u32 = 0xffff_0000;

impl Default for Settings {
    /// The built-in values, without any NAT.
    fn default() -> Self {
        Self {
            prefixes: vec!["cali".into()],
            host_action: HostAction::Drop,
            deny: DenyAction::Drop,
            workload_tunnels: WorkloadTunnels::default(),
            drop_invalid: true,
            vxlan_port: 4789,
            mark: lowest_bit(MARK_MASK),
            cut: Some(lowest_bit(MARK_MASK)),
            log_prefix: "calico-packet".into(),
            log: true,
            ipv6: true,
            service_ranges: Vec::new(),
            loops: LoopPrevention::Drop,
            nat: NatFacts::default(),
        }
    }
}

impl Settings {
    /// Reads the settings in force on this node, as far as the kernel can follow them.
    pub fn from_world(world: &World, nat: NatFacts, kernel: Abilities) -> Self {
        let felix = model::settings::felix(world);
        let default = Self::default();
        let mark = lowest_bit(felix.nftables_mark_mask.unwrap_or(MARK_MASK));
        let extension = felix.margay.clone().unwrap_or_default();
        let cuts = match extension.established_flows {
            None | Some(felix::EstablishedFlows::Reevaluate) => kernel.flow_marks,
            Some(felix::EstablishedFlows::Keep) => false,
        };
        Self {
            prefixes: felix
                .interface_prefix
                .as_deref()
                .map_or(default.prefixes, prefixes),
            host_action: match felix.default_endpoint_to_host_action {
                None | Some(felix::EndpointToHostAction::Drop) => HostAction::Drop,
                // Our table has no policy of the host behind it yet, so to accept and to go on are the same.
                Some(felix::EndpointToHostAction::Accept | felix::EndpointToHostAction::Return) => {
                    HostAction::Accept
                }
            },
            deny: match felix.nftables_filter_deny_action {
                None | Some(felix::DenyAction::Drop) => DenyAction::Drop,
                Some(felix::DenyAction::Reject) => DenyAction::Reject,
            },
            workload_tunnels: WorkloadTunnels {
                vxlan: felix.allow_vxlan_packets_from_workloads.unwrap_or(false),
                ipip: felix.allow_ipip_packets_from_workloads.unwrap_or(false),
            },
            drop_invalid: !felix.disable_conntrack_invalid_check.unwrap_or(false),
            vxlan_port: felix.vxlan_port.unwrap_or(default.vxlan_port),
            mark,
            cut: cuts.then_some(mark),
            log_prefix: felix.log_prefix.map_or(default.log_prefix, Into::into),
            log: kernel.log,
            ipv6: felix.ipv6_support.unwrap_or(true) && has_ipv6(world),
            service_ranges: service_ranges(world),
            loops: match felix.service_loop_prevention {
                None | Some(felix::LoopPrevention::Drop) => LoopPrevention::Drop,
                Some(felix::LoopPrevention::Reject) => LoopPrevention::Reject,
                Some(felix::LoopPrevention::Disabled) => LoopPrevention::Disabled,
            },
            nat,
        }
    }
}

/// A mask without bits gives the first bit of the built-in one: no bit at all would let a Pass rule allow.
const fn lowest_bit(mask: u32) -> u32 {
    let mask = if mask == 0 { MARK_MASK } else { mask };
    1 << mask.trailing_zeros()
}

/// Reads the comma list. Without any usable name the built-in prefix holds: an empty prefix would be every interface.
fn prefixes(list: &str) -> Vec<Arc<str>> {
    let found: Vec<Arc<str>> = list
        .split(',')
        .map(str::trim)
        .filter(|prefix| !prefix.is_empty() && prefix.len() <= 15)
        .map(Arc::from)
        .collect();
    if found.is_empty() {
        vec!["cali".into()]
    } else {
        found
    }
}

/// A pool or an endpoint brings IPv6.
fn has_ipv6(world: &World) -> bool {
    let pools = world
        .pools()
        .values()
        .any(|pool| pool.spec.cidr.contains(':'));
    pools
        || world.local_endpoints().any(|view| {
            view.endpoint
                .addresses
                .iter()
                .any(std::net::IpAddr::is_ipv6)
        })
}

fn service_ranges(world: &World) -> Vec<IpNet> {
    let Some(spec) = model::settings::bgp(world).default else {
        return Vec::new();
    };
    let lists = [
        &spec.service_cluster_ips,
        &spec.service_external_ips,
        &spec.service_load_balancer_ips,
    ];
    let texts = lists.into_iter().flatten().map(|range| range.cidr.as_str());
    let mut ranges: Vec<IpNet> = texts.filter_map(|text| text.parse().ok()).collect();
    ranges.sort_unstable();
    ranges
}
