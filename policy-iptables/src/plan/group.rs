//! Groups: what one direction of an endpoint is judged by, and its chain.
//!
//! ```text
//!   f<id>:   tier without Pass rules, inline:  Allow = return    Deny = drop    end = drop, or go on
//!            tier with Pass rules:             clear mark bit; jump f<id>_<n>; bit set = clear it, return
//!            profile:                          end of chain (= return), or drop
//!   f<id>_n: Allow = set mark bit, return      Deny = drop    Pass = return    end = drop, or return
//! ```
//!
//! `return` from `f<id>` is Allow: the packet goes on to the other end's group. A chain that is left by Allow and by Pass needs two
//! ways out and nftables has one, so Allow leaves a bit behind for one rule. To go to the next tier's chain instead would need no
//! bit, but kernels may check the graph of jumps path by path: the number of paths is the product of the Pass rules of all
//! tiers, and their depth is limited to 16.

use std::collections::BTreeMap;
use std::sync::Arc;

use model::endpoint::NAMESPACE_LABEL;
use model::{AttachmentId, EndpointView, World};
use sha2::{Digest, Sha256};

use super::rules::alternatives;
use super::sets::Sets;
use super::{DenyAction, GroupInfo, Settings, Tier, TierEnd};
use crate::compile::{Direction, Policy, PolicyId, Rule as PolicyRule, Verb};
use crate::ruleset::{Action, Chain, ContentKey, Match, Name, Rule, Ruleset};

/// What judges one direction of its endpoints.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) direction: Direction,
    /// Tiers that have a say, each with the policies that apply.
    tiers: Vec<Tier>,
    profile: Profile,
    /// Endpoints with the index of their interface.
    pub(super) endpoints: BTreeMap<AttachmentId, u32>,
}

/// What happens when no tier decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Profile {
    /// `kns.<namespace>` allows both ways, and so does `projectcalico-default-allow` of an interface that belongs to no pod.
    Allow,
    /// No profile: drop.
    Missing,
}

/// Groups of all local endpoints, by content key.
pub(super) fn of_world(world: &World, tiers: &[Tier]) -> BTreeMap<ContentKey, Group> {
    let mut groups: BTreeMap<ContentKey, Group> = BTreeMap::new();
    for view in world.local_endpoints() {
        let profile = profile(world, &view);
        for direction in Direction::ALL {
            let group = Group {
                direction,
                tiers: applying(tiers, &view, direction),
                profile,
                endpoints: BTreeMap::new(),
            };
            groups
                .entry(group.key())
                .or_insert(group)
                .endpoints
                .insert(view.endpoint.id.clone(), view.endpoint.ifindex);
        }
    }
    groups
}

/// A pod has the profile of its namespace, while both are known. An interface that was attached without Kubernetes arguments
/// belongs to no pod and has the profile that allows.
fn profile(world: &World, view: &EndpointView<'_>) -> Profile {
    if view.endpoint.pod.is_none() {
        return Profile::Allow;
    }
    let namespace = view.pod.map(|pod| &pod.id.namespace);
    match namespace.filter(|namespace| world.namespaces().contains_key(*namespace)) {
        Some(_) if view.labels.contains_key(NAMESPACE_LABEL) => Profile::Allow,
        Some(_) | None => Profile::Missing,
    }
}

/// Tiers with the policies that select the endpoint and cover the direction; a tier without any is absent.
fn applying(tiers: &[Tier], view: &EndpointView<'_>, direction: Direction) -> Vec<Tier> {
    let mut found = Vec::new();
    for tier in tiers {
        let applies = |policy: &&Arc<Policy>| {
            policy.rules(direction).is_some() && policy.subject.matches(&*view.labels)
        };
        let policies: Vec<Arc<Policy>> = tier.policies.iter().filter(applies).cloned().collect();
        if !policies.is_empty() {
            found.push(Tier {
                name: tier.name.clone(),
                end: tier.end,
                policies,
            });
        }
    }
    found
}

impl Group {
    /// Hash over what makes it the same group: not the rules of its policies, so that editing one leaves the group in place. The
    /// kernel keeps it, so its input is words of ours that never change, not how a type happens to print.
    fn key(&self) -> ContentKey {
        let mut hash = Sha256::new();
        let direction = match self.direction {
            Direction::Ingress => "ingress",
            Direction::Egress => "egress",
        };
        let profile = match self.profile {
            Profile::Allow => "allow",
            Profile::Missing => "none",
        };
        hash.update(format!("{direction} {profile}"));
        for tier in &self.tiers {
            let end = match tier.end {
                TierEnd::Deny => "deny",
                TierEnd::Pass => "pass",
            };
            hash.update(format!("\0tier {} {end}", tier.name));
            for policy in &tier.policies {
                hash.update(format!("\0policy {}", policy.id));
            }
        }
        let mut key = [0; 16];
        for (slot, byte) in key.iter_mut().zip(hash.finalize()) {
            *slot = byte;
        }
        ContentKey(key)
    }

    pub(super) fn info(&self) -> GroupInfo {
        let policies = self.tiers.iter().flat_map(|tier| &tier.policies);
        GroupInfo {
            direction: self.direction,
            policies: policies.map(|policy| policy.id.clone()).collect(),
            endpoints: self.endpoints.keys().cloned().collect(),
        }
    }

    /// Adds the group's chains.
    pub(super) fn render(
        &self,
        name: &Name,
        key: ContentKey,
        settings: &Settings,
        sets: &mut Sets,
        ruleset: &mut Ruleset,
    ) {
        let mut body = Body {
            settings,
            sets,
            rules: Vec::new(),
        };
        let mut open = true;
        for (number, tier) in self.tiers.iter().enumerate() {
            let last = number + 1 == self.tiers.len() && self.profile == Profile::Allow;
            if !self.passes(tier) || last {
                // Behind the last tier everything is allowed, so Pass and Allow are the same there.
                body.tier(self.direction, tier, &Exits::inline());
            } else {
                let side: Name = format!("{name}_{number}").into();
                body.jump(tier, &side);
                let inside = Body {
                    settings,
                    sets: &mut *body.sets,
                    rules: Vec::new(),
                };
                let chain = inside.side_chain(self.direction, tier, settings.mark);
                ruleset.chains.insert(side, chain);
            }
            if tier.end == TierEnd::Deny && !self.passes(tier) {
                open = false;
                break;
            }
        }
        if open && self.profile == Profile::Missing {
            body.rules.push(deny(Rule::new("no profile"), settings));
        }
        let comment = match self.direction {
            Direction::Ingress => "to",
            Direction::Egress => "from",
        };
        let chain = Chain {
            base: None,
            key: Some(key),
            comment: comment.into(),
            rules: body.rules,
        };
        ruleset.chains.insert(name.clone(), chain);
    }

    fn passes(&self, tier: &Tier) -> bool {
        let rules = tier
            .policies
            .iter()
            .filter_map(|policy| policy.rules(self.direction));
        rules.flatten().any(|rule| rule.verb == Verb::Pass)
    }
}

/// How the verbs leave a chain.
struct Exits {
    allow: Vec<Action>,
}

impl Exits {
    fn inline() -> Self {
        Self {
            allow: vec![Action::Return],
        }
    }

    fn side(mark: u32) -> Self {
        Self {
            allow: vec![
                Action::SetMark {
                    keep: !mark,
                    set: mark,
                },
                Action::Return,
            ],
        }
    }
}

/// Rules of a chain while they are written.
struct Body<'a> {
    settings: &'a Settings,
    sets: &'a mut Sets,
    rules: Vec<Rule>,
}

impl Body<'_> {
    fn side_chain(mut self, direction: Direction, tier: &Tier, mark: u32) -> Chain {
        self.tier(direction, tier, &Exits::side(mark));
        Chain {
            base: None,
            key: None,
            comment: format!("tier {}", tier.name).into(),
            rules: self.rules,
        }
    }

    /// Enters a tier's own chain, and leaves the group when that chain said Allow. The bit is cleared before, whoever set it.
    fn jump(&mut self, tier: &Tier, chain: &Name) {
        let mark = self.settings.mark;
        let comment: Arc<str> = format!("tier {}", tier.name).into();
        let clear = || Action::SetMark {
            keep: !mark,
            set: 0,
        };
        self.rules
            .push(Rule::new(Arc::clone(&comment)).then(clear()));
        self.rules
            .push(Rule::new(Arc::clone(&comment)).then(Action::Jump(chain.clone())));
        let allowed = Rule::new(comment).when(Match::Mark {
            mask: mark,
            value: mark,
        });
        self.rules.push(allowed.then(clear()).then(Action::Return));
    }

    fn tier(&mut self, direction: Direction, tier: &Tier, exits: &Exits) {
        for policy in &tier.policies {
            for rule in policy.rules(direction).unwrap_or_default() {
                self.rule(tier, &policy.id, rule, exits);
            }
        }
        if tier.end == TierEnd::Deny {
            let end = Rule::new(format!("end of tier {}", tier.name));
            self.rules.push(deny(end, self.settings));
        }
    }

    fn rule(&mut self, tier: &Tier, policy: &PolicyId, rule: &PolicyRule, exits: &Exits) {
        let actions = match rule.verb {
            Verb::Allow => exits.allow.clone(),
            Verb::Pass => vec![Action::Return],
            Verb::Deny => denial(self.settings),
            Verb::Log if self.settings.log => vec![Action::Log(self.log_prefix(tier, policy))],
            Verb::Log => return,
        };
        let comment: Arc<str> = format!("{}: {policy} {}", tier.name, rule.path).into();
        for matches in alternatives(rule, self.settings.ipv6, self.sets) {
            let actions = actions.clone();
            self.rules.push(Rule {
                matches,
                actions,
                comment: Arc::clone(&comment),
            });
        }
    }

    /// Expands the configured prefix; the kernel keeps 127 octets.
    fn log_prefix(&self, tier: &Tier, policy: &PolicyId) -> Arc<str> {
        let full = match &policy.namespace {
            Some(namespace) => format!("{namespace}/{}", policy.name),
            None => policy.name.to_string(),
        };
        let text = self
            .settings
            .log_prefix
            .replace("%t", tier.name.as_str())
            .replace("%k", policy.kind.short())
            .replace("%n", policy.name.as_str())
            .replace("%p", &full);
        let printable = text.chars().filter(|c| c.is_ascii_graphic() || *c == ' ');
        let text: String = printable.take(120).collect();
        format!("{text}: ").into()
    }
}

/// What ends a denied packet.
fn denial(settings: &Settings) -> Vec<Action> {
    let end = match settings.deny {
        DenyAction::Drop => Action::Drop,
        DenyAction::Reject => Action::Reject,
    };
    vec![Action::Count, end]
}

fn deny(mut rule: Rule, settings: &Settings) -> Rule {
    rule.actions.extend(denial(settings));
    rule
}
