//! World to [`Ruleset`].
//!
//! ```text
//!   policies ── compile ──► tiers in order ──► per endpoint and direction: what applies ──► groups
//!   World.membership ──► sets (selectors, named ports)          base chains (settings, NAT facts) ──► Ruleset
//! ```
//!
//! Endpoint directions with the same policies in the same order share one group: one chain `f<id>` that the maps `gid_out` and
//! `gid_in` lead to by interface index. The id comes from the group's content key, and a restart learns kept ids from the kernel,
//! so it changes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use model::{AttachmentId, NamespacedName, ObjectName, World};

use crate::compile::{
    self, Compiled, Direction, Finding, Policy, PolicyId, PolicyKind, Reason, compare_order,
};
use crate::ruleset::{ContentKey, Name, Ruleset};

mod base;
mod group;
mod ids;
mod rules;
mod sets;
mod settings;

pub use settings::{Abilities, DenyAction, HostAction, LoopPrevention, Settings, WorkloadTunnels};

use ids::Ids;
use sets::Sets;

/// What a plan gives.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// What the kernel should hold.
    pub ruleset: Ruleset,
    /// What is not enforced as written, for the objects' status.
    pub findings: Vec<Finding>,
    /// Chain of a group → what it stands for.
    pub groups: BTreeMap<Name, GroupInfo>,
}

/// What a group stands for, for `explain` and for reports about a refused chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupInfo {
    /// Direction it judges.
    pub direction: Direction,
    /// Policies in the order they are asked.
    pub policies: Vec<PolicyId>,
    /// Interfaces it judges.
    pub endpoints: Vec<AttachmentId>,
}

/// A tier with the policies that stand in it, in order.
#[derive(Clone, Debug, PartialEq)]
pub struct Tier {
    /// Its name.
    pub name: ObjectName,
    /// What happens at its end to an endpoint that it had a say about.
    pub end: TierEnd,
    /// Its policies in order.
    pub policies: Vec<Arc<Policy>>,
}

/// End of a tier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TierEnd {
    /// Drop.
    Deny,
    /// The next tier decides.
    Pass,
}

/// Makes plans, and remembers between them what is costly to make: compiled policies, member sets, ids.
#[derive(Debug, Default)]
pub struct Planner {
    compiled: BTreeMap<PolicyId, (Source, Arc<Result>)>,
    sets: Sets,
    ids: Ids,
}

/// The object a policy was compiled from, to know when it changed.
#[derive(Debug)]
enum Source {
    Kubernetes(Arc<api::networking::NetworkPolicy>),
    Namespaced(Arc<api::NetworkPolicy>),
    Global(Arc<api::GlobalNetworkPolicy>),
}

/// A compiled policy, shared with the tiers.
#[derive(Debug)]
struct Result {
    policy: Option<Arc<Policy>>,
    findings: Vec<Finding>,
}

impl From<Compiled> for Result {
    fn from(compiled: Compiled) -> Self {
        Self {
            policy: compiled.policy.map(Arc::new),
            findings: compiled.findings,
        }
    }
}

impl Planner {
    /// A planner that remembers nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes over the ids that the kernel kept from a predecessor: content key → chain name. Called once, before the first plan.
    pub fn adopt(&mut self, kept: &BTreeMap<ContentKey, Name>) {
        self.ids.adopt(kept);
    }

    /// Plans the whole table. The result depends on World and settings alone, but for the ids of groups, which are kept.
    pub fn plan(&mut self, world: &mut World, settings: &Settings) -> Plan {
        let mut findings = Vec::new();
        let tiers = self.tiers(world, &mut findings);
        self.sets.begin(world, &tiers);
        let groups = group::of_world(world, &tiers);
        let mut ruleset = Ruleset::default();
        let mut infos = BTreeMap::new();
        let mut chains = BTreeMap::new();
        self.ids.begin(groups.keys().copied());
        for (key, group) in &groups {
            let name = self.ids.name(*key);
            group.render(&name, *key, settings, &mut self.sets, &mut ruleset);
            infos.insert(name.clone(), group.info());
            for (endpoint, index) in &group.endpoints {
                chains.insert((endpoint.clone(), group.direction), (*index, name.clone()));
            }
        }
        base::render(world, settings, &chains, &mut ruleset);
        self.sets.finish(&mut ruleset);
        Plan {
            ruleset,
            findings,
            groups: infos,
        }
    }

    /// Tiers in order, each with its policies in order; those without policies are left out.
    fn tiers(&mut self, world: &World, findings: &mut Vec<Finding>) -> Vec<Tier> {
        self.compile(world);
        let mut by_tier: BTreeMap<ObjectName, Vec<Arc<Policy>>> = BTreeMap::new();
        for (_, result) in self.compiled.values() {
            findings.extend(result.findings.iter().cloned());
            if let Some(policy) = &result.policy {
                by_tier
                    .entry(policy.tier.clone())
                    .or_default()
                    .push(Arc::clone(policy));
            }
        }
        let mut tiers: Vec<(Option<Option<f64>>, Tier)> = by_tier
            .into_iter()
            .map(|(name, mut policies)| {
                policies.sort_by(|a, b| a.compare(b));
                let known = find_tier(world, &name);
                if known.is_none() {
                    findings.extend(policies.iter().map(|policy| missing_tier(policy)));
                }
                let end = known.map_or(TierEnd::Deny, |(_, end)| end);
                (
                    known.map(|(order, _)| order),
                    Tier {
                        name,
                        end,
                        policies,
                    },
                )
            })
            .collect();
        // A tier that does not exist stands behind all that do.
        tiers.sort_by(|(a, first), (b, second)| {
            a.is_none()
                .cmp(&b.is_none())
                .then_with(|| compare_order(a.flatten(), b.flatten()))
                .then_with(|| first.name.cmp(&second.name))
        });
        tiers.into_iter().map(|(_, tier)| tier).collect()
    }

    /// Compiles what is new or changed, drops what is gone.
    fn compile(&mut self, world: &World) {
        let mut seen = BTreeSet::new();
        for (name, object) in world.kube_policies() {
            let id = namespaced_id(PolicyKind::KubernetesNetworkPolicy, name);
            seen.insert(id.clone());
            let known = matches!(self.compiled.get(&id), Some((Source::Kubernetes(old), _)) if Arc::ptr_eq(old, object));
            if !known {
                let result = Arc::new(compile::kubernetes_network_policy(object).into());
                self.compiled
                    .insert(id, (Source::Kubernetes(Arc::clone(object)), result));
            }
        }
        for (name, object) in world.policies() {
            let id = namespaced_id(PolicyKind::NetworkPolicy, name);
            seen.insert(id.clone());
            let known = matches!(self.compiled.get(&id), Some((Source::Namespaced(old), _)) if Arc::ptr_eq(old, object));
            if !known {
                let result = Arc::new(compile::network_policy(object).into());
                self.compiled
                    .insert(id, (Source::Namespaced(Arc::clone(object)), result));
            }
        }
        for (name, object) in world.global_policies() {
            let id = PolicyId {
                kind: PolicyKind::GlobalNetworkPolicy,
                namespace: None,
                name: name.clone(),
            };
            seen.insert(id.clone());
            let known = matches!(self.compiled.get(&id), Some((Source::Global(old), _)) if Arc::ptr_eq(old, object));
            if !known {
                let result = Arc::new(compile::global_network_policy(object).into());
                self.compiled
                    .insert(id, (Source::Global(Arc::clone(object)), result));
            }
        }
        self.compiled.retain(|id, _| seen.contains(id));
    }
}

fn namespaced_id(kind: PolicyKind, name: &NamespacedName) -> PolicyId {
    PolicyId {
        kind,
        namespace: Some(name.namespace.clone()),
        name: name.name.clone(),
    }
}

/// Order and end of a tier; the pinned ones exist in every cluster, created or not.
fn find_tier(world: &World, name: &ObjectName) -> Option<(Option<f64>, TierEnd)> {
    let end = |end| match end {
        api::TierDefaultAction::Deny => TierEnd::Deny,
        api::TierDefaultAction::Pass => TierEnd::Pass,
    };
    if let Some(tier) = world.tiers().get(name) {
        return Some((tier.spec.order, end(tier.spec.end())));
    }
    let pinned = api::policy::PINNED_TIERS
        .iter()
        .find(|tier| tier.name == name.as_str())?;
    Some((Some(pinned.order), end(pinned.default_action)))
}

fn missing_tier(policy: &Policy) -> Finding {
    let message = format!(
        "tier {:?} does not exist; the policy is enforced after all tiers that do, with Deny at the end",
        policy.tier.as_str()
    );
    Finding {
        policy: policy.id.clone(),
        path: "spec.tier".to_owned(),
        message,
        reason: Reason::RefNotFound,
    }
}
