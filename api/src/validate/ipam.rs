//! Rules of `IPPool`, `IPReservation` and `IPAMConfiguration`.

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::net::{Ipv4Addr, Ipv6Addr};

use super::address;
use super::scope::{self, Global};
use super::{Check, NAME_NOT_USED, Report, Severity};
use crate::ipamconfig::IPAMConfiguration;
use crate::ippool::{EncapMode, IPPoolSpec, IPReservationSpec, PoolUse};
use crate::selector::Selector;

pub(super) const POOL: &[Check<IPPoolSpec>] = &[
    Check {
        id: "pool-cidr",
        severity: Severity::Refuse,
        judge: pool_cidr,
    },
    Check {
        id: "pool-block-size",
        severity: Severity::Refuse,
        judge: pool_block_size,
    },
    Check {
        id: "pool-block-large",
        severity: Severity::Warn,
        judge: pool_block_large,
    },
    Check {
        id: "pool-encapsulation",
        severity: Severity::Refuse,
        judge: pool_encapsulation,
    },
    Check {
        id: "pool-selectors",
        severity: Severity::Refuse,
        judge: pool_selectors,
    },
    Check {
        id: "pool-uses",
        severity: Severity::Refuse,
        judge: pool_uses,
    },
    Check {
        id: "pool-load-balancer",
        severity: Severity::Unsupported,
        judge: pool_load_balancer,
    },
];

pub(super) const RESERVATION: &[Check<IPReservationSpec>] = &[Check {
    id: "reservation-cidr",
    severity: Severity::Refuse,
    judge: reservation_cidrs,
}];

pub(super) const CONFIGURATION: &[Check<IPAMConfiguration>] = &[
    Check {
        id: NAME_NOT_USED,
        severity: Severity::Refuse,
        judge: configuration_name,
    },
    Check {
        id: "ipam-auto-allocate",
        severity: Severity::Refuse,
        judge: configuration_auto_allocate,
    },
    Check {
        id: "ipam-limits",
        severity: Severity::Refuse,
        judge: configuration_limits,
    },
    Check {
        id: "ipam-max-blocks",
        severity: Severity::Warn,
        judge: configuration_max_blocks,
    },
    Check {
        id: "ipam-later",
        severity: Severity::Unsupported,
        judge: configuration_later,
    },
];

fn pool_cidr(pool: &IPPoolSpec, report: &mut Report<'_>) {
    let path = "spec.cidr";
    let Ok(net) = pool.cidr.parse::<IpNet>() else {
        return report.say(
            path,
            format!(
                "{:?} is not a range of addresses, write for instance 10.244.0.0/16",
                pool.cidr
            ),
        );
    };
    if net != net.trunc() {
        report.say(
            path,
            format!("the range has host bits set, write {}", net.trunc()),
        );
    }
    if link_local()
        .iter()
        .any(|local| local.contains(&net) || net.contains(local))
    {
        report.say(
            path,
            "a pool cannot hold link-local addresses (169.254.0.0/16, fe80::/10)",
        );
    }
}

fn link_local() -> [IpNet; 2] {
    [
        Ipv4Net::new_assert(Ipv4Addr::new(169, 254, 0, 0), 16).into(),
        Ipv6Net::new_assert(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10).into(),
    ]
}

fn pool_block_size(pool: &IPPoolSpec, report: &mut Report<'_>) {
    let path = "spec.blockSize";
    let (Some(net), Some(size)) = (pool.network(), pool.block_prefix_len()) else {
        return;
    };
    let (least, most) = match net {
        IpNet::V4(_) => (20, 32),
        IpNet::V6(_) => (116, 128),
    };
    if !(least..=most).contains(&size) {
        report.say(
            path,
            format!("blockSize {size} is out of range, use {least} to {most}"),
        );
    } else if size < net.prefix_len() && !pool.disabled {
        report.say(path, format!("the pool is smaller than one block of /{size}, use a wider cidr or a blockSize of {} or more", net.prefix_len()));
    }
}

fn pool_block_large(pool: &IPPoolSpec, report: &mut Report<'_>) {
    let host_bits = pool
        .network()
        .zip(pool.block_prefix_len())
        .map(|(net, size)| net.max_prefix_len().saturating_sub(size));
    let large = host_bits.is_some_and(|bits| bits > 10);
    report.say_if(
        large,
        "spec.blockSize",
        "blocks above 1,024 addresses make every assignment slow, use a larger number",
    );
}

fn pool_encapsulation(pool: &IPPoolSpec, report: &mut Report<'_>) {
    let ipip = pool.ipip() != EncapMode::Never;
    let both = ipip && pool.vxlan() != EncapMode::Never;
    report.say_if(
        both,
        "spec.ipipMode",
        "ipipMode and vxlanMode cannot both be on",
    );
    let six = ipip && matches!(pool.network(), Some(IpNet::V6(_)));
    report.say_if(
        six,
        "spec.ipipMode",
        "IP-in-IP exists for IPv4 pools only, use vxlanMode",
    );
}

fn pool_selectors(pool: &IPPoolSpec, report: &mut Report<'_>) {
    scope::check(
        pool.node_selector.as_deref(),
        Global::Forbidden,
        "spec.nodeSelector",
        report,
    );
    scope::check(
        pool.namespace_selector.as_deref(),
        Global::Forbidden,
        "spec.namespaceSelector",
        report,
    );
    let set = pool
        .namespace_selector
        .as_deref()
        .is_some_and(|text| !text.is_empty());
    let tunnel = set && pool.allowed_uses.contains(&PoolUse::Tunnel);
    report.say_if(
        tunnel,
        "spec.namespaceSelector",
        "namespaceSelector cannot be used with the use Tunnel: tunnels have no namespace",
    );
}

fn pool_uses(pool: &IPPoolSpec, report: &mut Report<'_>) {
    let path = "spec.allowedUses";
    let mut seen = Vec::new();
    for wanted in &pool.allowed_uses {
        report.say_if(seen.contains(wanted), path, "each use may be listed once");
        seen.push(*wanted);
    }
    if !pool.allowed_uses.contains(&PoolUse::LoadBalancer) {
        return;
    }
    report.say_if(
        seen.iter().any(|u| *u != PoolUse::LoadBalancer),
        path,
        "LoadBalancer must be the only use of a pool",
    );
    let encapsulated = pool.ipip() != EncapMode::Never || pool.vxlan() != EncapMode::Never;
    report.say_if(
        encapsulated,
        path,
        "a LoadBalancer pool cannot be encapsulated",
    );
    report.say_if(
        pool.disable_bgp_export,
        "spec.disableBGPExport",
        "a LoadBalancer pool is of no use without BGP",
    );
    let all = pool
        .node_selector
        .as_deref()
        .is_none_or(|text| Selector::parse(text).is_ok_and(|s| s.is_all()));
    report.say_if(
        !all,
        "spec.nodeSelector",
        "a LoadBalancer pool must have nodeSelector all()",
    );
}

fn pool_load_balancer(pool: &IPPoolSpec, report: &mut Report<'_>) {
    let wanted = pool.allowed_uses.contains(&PoolUse::LoadBalancer);
    report.say_if(
        wanted,
        "spec.allowedUses",
        "addresses for LoadBalancer Services are not assigned yet",
    );
}

fn reservation_cidrs(reservation: &IPReservationSpec, report: &mut Report<'_>) {
    for (i, text) in reservation.reserved_cidrs.iter().enumerate() {
        if address::range(text).is_none() {
            report.say(
                format!("spec.reservedCIDRs[{i}]"),
                format!("{text:?} is not a range of addresses, write for instance 10.0.0.0/30; the others of the object hold"),
            );
        }
    }
}

fn configuration_name(configuration: &IPAMConfiguration, report: &mut Report<'_>) {
    let used = configuration.metadata.name.as_deref() == Some("default");
    report.say_if(
        !used,
        "metadata.name",
        "only the IPAMConfiguration named default counts",
    );
}

fn configuration_auto_allocate(configuration: &IPAMConfiguration, report: &mut Report<'_>) {
    let spec = &configuration.spec;
    let alone = !spec.auto_allocate_blocks && !spec.strict_affinity;
    report.say_if(
        alone,
        "spec.autoAllocateBlocks",
        "autoAllocateBlocks: false needs strictAffinity: true; true is used",
    );
}

fn configuration_limits(configuration: &IPAMConfiguration, report: &mut Report<'_>) {
    let spec = &configuration.spec;
    report.say_if(
        spec.max_blocks_per_host > 1_000_000,
        "spec.maxBlocksPerHost",
        "maxBlocksPerHost is at most 1000000",
    );
    report.say_if(
        spec.ip_cooldown_seconds > Some(1200),
        "spec.ipCooldownSeconds",
        "ipCooldownSeconds is at most 1200",
    );
}

fn configuration_max_blocks(configuration: &IPAMConfiguration, report: &mut Report<'_>) {
    let spec = &configuration.spec;
    let loose = spec.max_blocks_per_host > 0 && !spec.strict_affinity;
    report.say_if(
        loose,
        "spec.maxBlocksPerHost",
        "without strictAffinity a node at its limit borrows addresses of other nodes",
    );
}

fn configuration_later(configuration: &IPAMConfiguration, report: &mut Report<'_>) {
    let spec = &configuration.spec;
    let ours = spec.margay.as_ref();
    report.say_if(
        spec.kube_virt_vm_address_persistence.is_some(),
        "spec.kubeVirtVMAddressPersistence",
        "virtual machines do not keep their address yet",
    );
    report.say_if(
        ours.and_then(|o| o.sticky_stateful_sets) == Some(true),
        "spec.margay.stickyStatefulSets",
        "pods of StatefulSets do not get their last address again yet",
    );
}
