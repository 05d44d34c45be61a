//! What the rest of the daemon learns from the World: settings for new pods, facts for the Node object, wishes for the speaker.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use dataplane::plan::pools::Pools;
use model::{Dirty, NodeName, World};
use tokio::sync::watch;

use super::round::Kernel;
use crate::kube::node::NodeFacts;
use crate::kube::secrets::{Passwords, SecretKey};
use crate::log::LogFilter;
use crate::peering::{self, Inputs, Wanted};
use crate::tunnel::TunnelsWanted;
use crate::world::{CniSettings, Picture, SyncState};
use crate::{families, uplink};

/// Port of metrics unless configured.
const METRICS_PORT: u16 = 9091;
/// Begins the names of host ends unless configured.
const INTERFACE_PREFIX: &str = "cali";

/// Where the task writes what others read. Each is the last state, never a queue.
#[derive(Debug)]
pub struct Outlook {
    /// Whether new pods may be served.
    pub sync: watch::Sender<SyncState>,
    /// What attaching depends on.
    pub settings: watch::Sender<CniSettings>,
    /// What the Node object should say.
    pub facts: watch::Sender<NodeFacts>,
    /// Tunnels the pools ask for; `None` until the pools are known.
    pub tunnels: watch::Sender<Option<TunnelsWanted>>,
    /// Sessions and prefixes; `None` until the World is complete.
    pub peering: watch::Sender<Option<Wanted>>,
    /// What BGP objects lack, for people.
    pub findings: Vec<peering::Finding>,
    /// Next hops of learnt paths that cannot be reached.
    pub unresolved: watch::Sender<Arc<BTreeSet<IpAddr>>>,
    /// Secrets the sessions need.
    pub secrets: watch::Sender<BTreeSet<SecretKey>>,
    /// Where metrics are served.
    pub metrics: watch::Sender<Option<SocketAddr>>,
    /// Level of the log.
    pub log: LogFilter,
    /// `--bgp`: run even without any object that asks for it.
    pub bgp: bool,
    /// Passwords read so far.
    pub passwords: Passwords,
}

impl Outlook {
    /// Takes passwords that were read from Secrets.
    pub fn passwords(&mut self, passwords: Passwords) {
        self.passwords = passwords;
    }

    /// Changes the sync state and tells readers if it changed. `change` returns true when the node became ready for the first time.
    pub fn sync(&self, change: impl FnOnce(&mut SyncState) -> bool) {
        let mut first = false;
        self.sync.send_if_modified(|state| {
            let before = state.clone();
            first = change(state);
            before != *state
        });
        if first {
            self.facts.send_modify(|facts| facts.network_up = true);
        }
    }

    /// Reads configuration into the kernel's side before a round.
    pub fn read(&self, world: &World, kernel: &mut Kernel, dirty: Dirty) {
        if dirty == Dirty::NONE {
            return;
        }
        let felix = model::settings::felix(world);
        self.log.follow(felix.log_severity_screen);
        self.metrics
            .send_if_modified(|now| replace(now, metrics_address(&felix)));
        kernel.configure(&felix, peering::runs(world, self.bgp));
    }

    /// Publishes what follows from the World after a round.
    pub fn tell(&mut self, world: &World, kernel: &Kernel, dirty: Dirty) {
        self.tell_node(world, kernel);
        self.tell_settings(world, kernel);
        self.unresolved
            .send_if_modified(|now| replace(now, kernel.unresolved()));
        if dirty.any(Dirty::PEERING) {
            let peering = peering::plan(Inputs {
                world,
                host: kernel.host(),
                passwords: &self.passwords,
                bgp: peering::runs(world, self.bgp),
            });
            if let Some(wanted) = peering.wanted() {
                self.peering
                    .send_if_modified(|now| replace(now, Some(wanted)));
            }
            self.secrets
                .send_if_modified(|now| replace(now, peering.secrets));
            for finding in peering
                .findings
                .iter()
                .filter(|finding| !self.findings.contains(finding))
            {
                tracing::warn!(kind = finding.kind, name = %finding.name, path = finding.path, reason = finding.reason.as_str(), problem = %finding.message, "BGP object does not count as written");
            }
            self.findings = peering.findings;
        }
    }

    fn tell_node(&self, world: &World, kernel: &Kernel) {
        let (pools, _) = Pools::read(world);
        if let Some(node) = world.this_node() {
            for uplink in uplink::all(node, kernel.host(), &pools) {
                self.facts.send_if_modified(|facts| {
                    let before = facts.clone();
                    facts.address(uplink.address);
                    before != *facts
                });
            }
        }
        let wanted = TunnelsWanted::read(&pools, kernel.host(), kernel.ipv6());
        self.tunnels
            .send_if_modified(|now| replace(now, Some(wanted)));
    }

    fn tell_settings(&self, world: &World, kernel: &Kernel) {
        let settings = CniSettings {
            node: world.this_node_name().clone(),
            interface_prefix: kernel.interface_prefix().to_owned(),
            families: families::of_pods(world),
            mtu: kernel.pod_mtu(),
            ip_forwarding: false,
        };
        self.settings.send_if_modified(|now| replace(now, settings));
    }

    /// A picture for `routed status`.
    pub fn picture(&self, world: &World, kernel: &Kernel) -> Picture {
        let count = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
        let policies =
            world.kube_policies().len() + world.policies().len() + world.global_policies().len();
        let node = world.this_node();
        let (pools, _) = Pools::read(world);
        let uplinks = node.map_or_else(Vec::new, |node| uplink::all(node, kernel.host(), &pools));
        let mut problems = kernel.problems();
        let findings = self.findings.iter();
        problems.extend(findings.map(|finding| {
            format!(
                "{} {} {}: {}",
                finding.kind, finding.name, finding.path, finding.message
            )
        }));
        if uplinks.is_empty() {
            problems.push(uplink::missing(node));
        }
        Picture {
            counts: vec![
                ("interfaces", count(world.local_endpoints().count())),
                ("nodes", count(world.nodes().len())),
                ("pods", count(world.pods().len())),
                ("policies", count(policies)),
                ("pools", count(world.pools().len())),
                ("blocks", count(world.blocks().len())),
                ("routes", count(kernel.routes())),
                ("rules", count(kernel.rules())),
            ],
            unsynced: world
                .unsynced()
                .map(|kind| kind.as_str().to_owned())
                .collect(),
            problems,
            address: uplink::print(&uplinks),
        }
    }
}

/// Replaces a value and says whether that changed it.
fn replace<T: PartialEq>(now: &mut T, new: T) -> bool {
    let changed = *now != new;
    *now = new;
    changed
}

/// First entry of `interfacePrefix`.
pub(super) fn interface_prefix(felix: &api::FelixConfigurationSpec) -> &str {
    let first = felix
        .interface_prefix
        .as_deref()
        .and_then(|list| list.split(',').next());
    first
        .map(str::trim)
        .filter(|prefix| !prefix.is_empty())
        .unwrap_or(INTERFACE_PREFIX)
}

fn metrics_address(felix: &api::FelixConfigurationSpec) -> Option<SocketAddr> {
    if felix.prometheus_metrics_enabled != Some(true) {
        return None;
    }
    let host = felix.prometheus_metrics_host.as_deref().unwrap_or_default();
    // All addresses of both families.
    let address: IpAddr = host.parse().unwrap_or(Ipv6Addr::UNSPECIFIED.into());
    let port = felix.prometheus_metrics_port.unwrap_or(METRICS_PORT);
    Some(SocketAddr::new(address, port))
}

/// What this node is called before anything is known of it.
pub fn unknown_settings(node: NodeName) -> CniSettings {
    CniSettings {
        node,
        interface_prefix: INTERFACE_PREFIX.to_owned(),
        families: families::UNKNOWN,
        mtu: 0,
        ip_forwarding: false,
    }
}
