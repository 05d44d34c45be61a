//! The reference: what a packet may do, read from the objects themselves.
//!
//! Slow, obvious, and without a line in common with the compiler: it parses texts at every question, knows no sets, no groups and
//! no chains. Where it and a rendered ruleset disagree, one of them is wrong. It serves `explain` as well, since it returns the way
//! to its verdict.

use std::cmp::Ordering;
use std::net::IpAddr;

use model::{EndpointView, World};

use super::{Outcome, Packet, Payload, State};
use crate::compile::{Direction, PolicyId};
use crate::plan::{DenyAction, HostAction, LoopPrevention, Settings};
use crate::ruleset::Family;

mod calico;
mod kubernetes;

/// One thing that happened on the way to a verdict.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// A rule matched.
    Rule {
        /// Direction it was asked in.
        direction: Direction,
        /// Tier of its policy.
        tier: String,
        /// Its policy.
        policy: PolicyId,
        /// Its place, such as `ingress[2]`.
        path: String,
        /// What it said.
        says: Says,
    },
    /// A tier that had a say ended in Deny.
    EndOfTier(Direction, String),
    /// The profile allowed: that of the namespace, or the default one of an interface that belongs to no pod.
    Profile(Direction),
    /// A fixed rule decided.
    Fixed(&'static str),
}

/// What a matching rule says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Says {
    /// Let it through.
    Allow,
    /// Drop it.
    Deny,
    /// Ask the next tier.
    Pass,
    /// Note it.
    Log,
}

/// The outcome and the way to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// What becomes of the packet.
    pub outcome: Outcome,
    /// What happened, in order.
    pub steps: Vec<Step>,
}

/// What policy and the fixed rules make of a packet.
pub fn evaluate(world: &World, settings: &Settings, packet: &Packet) -> Decision {
    let mut steps = Vec::new();
    let outcome = Evaluation {
        world,
        settings,
        packet,
        steps: &mut steps,
    }
    .judge();
    Decision { outcome, steps }
}

struct Evaluation<'a> {
    world: &'a World,
    settings: &'a Settings,
    packet: &'a Packet,
    steps: &'a mut Vec<Step>,
}

/// What the tiers said.
enum Stage {
    Allow,
    Deny,
    Undecided,
}

/// A policy as it takes part in a tier.
struct Candidate<'a> {
    id: PolicyId,
    order: f64,
    rules: Vec<Candid<'a>>,
}

/// A rule of a candidate, in its own kind.
enum Candid<'a> {
    Kubernetes(&'a api::networking::NetworkPolicy, usize),
    /// With the namespace of the policy.
    Calico(Option<&'a str>, &'a api::Rule, usize),
}

impl<'a> Evaluation<'a> {
    fn judge(mut self) -> Outcome {
        let input = self
            .packet
            .input
            .as_ref()
            .filter(|device| self.is_workload(&device.name));
        let from = input.map(|device| device.index);
        let output = self
            .packet
            .output
            .as_ref()
            .filter(|device| self.is_workload(&device.name));
        let to = output.map(|device| device.index);
        if let Some(index) = from
            && self.is_spoofed(index)
        {
            return self.fixed("not its own source, or the host's loopback", Outcome::Drop);
        }
        match (&self.packet.input, &self.packet.output) {
            (None, _) => self.fixed("from the host", Outcome::Pass),
            (Some(_), Some(_)) => self.forwarded(from, to),
            (Some(_), None) => self.delivered(from),
        }
    }

    fn forwarded(&mut self, from: Option<u32>, to: Option<u32>) -> Outcome {
        if from.is_none() && to.is_none() {
            return self.service_loop();
        }
        if let Some(outcome) = self.known_flow() {
            return outcome;
        }
        if let (Some(from), Some(to)) = (from, to)
            && from == to
            && self.endpoint(from).is_some()
        {
            return self.fixed("a workload that talks to itself", Outcome::Pass);
        }
        if let Some(from) = from {
            let outcome = self.leaving(from);
            if outcome != Outcome::Pass {
                return outcome;
            }
        }
        if let Some(to) = to {
            let outcome = self.workload(to, Direction::Ingress);
            if outcome != Outcome::Pass {
                return outcome;
            }
        }
        if from.is_some() {
            self.service_loop()
        } else {
            Outcome::Pass
        }
    }

    fn delivered(&mut self, from: Option<u32>) -> Outcome {
        if self.is_strange_tunnel() {
            return self.fixed("tunnel packet from a stranger", Outcome::Drop);
        }
        let Some(from) = from else {
            return self.fixed("to the host", Outcome::Pass);
        };
        if let Some(outcome) = self.known_flow() {
            return outcome;
        }
        if let (
            Family::V6,
            Payload::Icmp {
                kind: 130..=133 | 135 | 136,
                ..
            },
        ) = (self.packet.family(), self.packet.payload)
        {
            return self.fixed("neighbour discovery", Outcome::Pass);
        }
        match (self.leaving(from), self.settings.host_action) {
            (Outcome::Pass, HostAction::Drop) => {
                self.fixed("defaultEndpointToHostAction", Outcome::Drop)
            }
            (Outcome::Pass, HostAction::Accept) => Outcome::Pass,
            (outcome @ (Outcome::Drop | Outcome::Reject), _) => outcome,
        }
    }

    fn known_flow(&mut self) -> Option<Outcome> {
        match self.packet.state {
            State::Cut if self.settings.cut.is_some() => {
                Some(self.fixed("a flow that a later policy cut", Outcome::Drop))
            }
            State::Established | State::Cut => Some(self.fixed("established", Outcome::Pass)),
            State::Invalid if self.settings.drop_invalid => {
                Some(self.fixed("no place in any flow", Outcome::Drop))
            }
            State::Invalid | State::New | State::Untracked => None,
        }
    }

    /// What no workload may send, then its egress policy.
    fn leaving(&mut self, from: u32) -> Outcome {
        let family = self.packet.family();
        let forbidden = match self.packet.payload {
            Payload::Transport {
                protocol: 17,
                source,
                destination,
            } => {
                (source, destination) == (67, 68)
                    || (source, destination) == (547, 546)
                    || (destination == self.settings.vxlan_port
                        && !self.settings.workload_tunnels.vxlan)
            }
            Payload::Icmp { kind, .. } => family == Family::V6 && (kind == 134 || kind == 137),
            Payload::Other(4) => !self.settings.workload_tunnels.ipip,
            Payload::Transport { .. } | Payload::Other(_) => false,
        };
        if forbidden {
            return self.fixed("never from a workload", Outcome::Drop);
        }
        self.workload(from, Direction::Egress)
    }

    fn workload(&mut self, index: u32, direction: Direction) -> Outcome {
        let Some(endpoint) = self.endpoint(index) else {
            return self.fixed("unknown workload interface", Outcome::Drop);
        };
        match self.stages(&endpoint, direction) {
            Stage::Allow => return Outcome::Pass,
            Stage::Deny => return self.denied(),
            Stage::Undecided => {}
        }
        let namespace = endpoint.pod.map(|pod| &pod.id.namespace);
        let without_pod = endpoint.endpoint.pod.is_none();
        if without_pod || namespace.is_some_and(|name| self.world.namespaces().contains_key(name)) {
            self.steps.push(Step::Profile(direction));
            return Outcome::Pass;
        }
        self.steps.push(Step::Fixed("no profile"));
        self.denied()
    }

    fn stages(&mut self, endpoint: &EndpointView<'_>, direction: Direction) -> Stage {
        for (tier, end) in self.tiers() {
            let mine = self.candidates(&tier, endpoint, direction);
            if mine.is_empty() {
                continue;
            }
            let mut passed = false;
            for candidate in &mine {
                for rule in &candidate.rules {
                    if passed {
                        break;
                    }
                    let Some(says) = self.ask(rule, direction) else {
                        continue;
                    };
                    self.steps.push(Step::Rule {
                        direction,
                        tier: tier.clone(),
                        policy: candidate.id.clone(),
                        path: path(rule, direction),
                        says,
                    });
                    match says {
                        Says::Allow => return Stage::Allow,
                        Says::Deny => return Stage::Deny,
                        Says::Pass => passed = true,
                        Says::Log => {}
                    }
                }
            }
            if !passed && end == api::TierDefaultAction::Deny {
                self.steps.push(Step::EndOfTier(direction, tier));
                return Stage::Deny;
            }
        }
        Stage::Undecided
    }

    /// Names of all tiers in order, with their default action; those that policies name and nobody made come last.
    fn tiers(&self) -> Vec<(String, api::TierDefaultAction)> {
        let mut real: Vec<(f64, String, api::TierDefaultAction)> = Vec::new();
        for (name, tier) in self.world.tiers() {
            let order = tier.spec.order.unwrap_or(f64::INFINITY);
            real.push((
                order,
                name.to_string(),
                tier.spec
                    .default_action
                    .unwrap_or(api::TierDefaultAction::Deny),
            ));
        }
        for (name, order, end) in [
            ("kube-admin", 1_000.0, api::TierDefaultAction::Pass),
            ("default", 1_000_000.0, api::TierDefaultAction::Deny),
            ("kube-baseline", 10_000_000.0, api::TierDefaultAction::Pass),
        ] {
            if !real.iter().any(|(_, known, _)| known == name) {
                real.push((order, name.to_owned(), end));
            }
        }
        real.sort_by(|a, b| a.0.total_cmp(&b.0).then_with(|| a.1.cmp(&b.1)));
        let mut missing: Vec<String> = Vec::new();
        let namespaced = self
            .world
            .policies()
            .values()
            .map(|policy| policy.spec.tier.as_deref());
        let global = self
            .world
            .global_policies()
            .values()
            .map(|policy| policy.spec.tier.as_deref());
        for name in namespaced
            .chain(global)
            .flatten()
            .filter(|name| !name.is_empty())
        {
            if !real.iter().any(|(_, known, _)| known == name) {
                missing.push(name.to_owned());
            }
        }
        missing.sort();
        missing.dedup();
        let missing = missing
            .into_iter()
            .map(|name| (name, api::TierDefaultAction::Deny));
        real.into_iter()
            .map(|(_, name, end)| (name, end))
            .chain(missing)
            .collect()
    }

    /// Policies of a tier that select the endpoint and cover the direction, in order.
    fn candidates(
        &self,
        tier: &str,
        endpoint: &EndpointView<'_>,
        direction: Direction,
    ) -> Vec<Candidate<'a>> {
        let world = self.world;
        let mut found = Vec::new();
        if tier == "default" {
            let policies = world.kube_policies().values();
            found.extend(
                policies.filter_map(|policy| kubernetes::candidate(policy, endpoint, direction)),
            );
        }
        let policies = world.policies().values();
        found.extend(
            policies.filter_map(|policy| calico::namespaced(policy, tier, endpoint, direction)),
        );
        let policies = world.global_policies().values();
        found.extend(
            policies.filter_map(|policy| calico::global(policy, tier, endpoint, direction)),
        );
        found.sort_by(compare);
        found
    }

    fn ask(&self, rule: &Candid<'_>, direction: Direction) -> Option<Says> {
        match rule {
            Candid::Kubernetes(policy, index) => {
                kubernetes::matches(self.world, policy, *index, direction, self.packet)
                    .then_some(Says::Allow)
            }
            Candid::Calico(namespace, rule, _) => {
                calico::ask(self.world, *namespace, rule, direction, self.packet)
            }
        }
    }

    fn endpoint(&self, index: u32) -> Option<EndpointView<'a>> {
        let world = self.world;
        world
            .local_endpoints()
            .find(|view| view.endpoint.ifindex == index)
    }

    fn is_workload(&self, name: &str) -> bool {
        self.settings
            .prefixes
            .iter()
            .any(|prefix| name.starts_with(&**prefix))
    }

    fn is_spoofed(&self, index: u32) -> bool {
        let endpoint = self
            .world
            .local_endpoints()
            .find(|view| view.endpoint.ifindex == index);
        let own =
            endpoint.is_some_and(|view| view.endpoint.addresses.contains(&self.packet.source));
        match (self.packet.source, self.packet.destination) {
            (IpAddr::V4(_), IpAddr::V4(to)) => to.octets().first() == Some(&127) || !own,
            (IpAddr::V6(source), _) => {
                let detection = matches!(self.packet.payload, Payload::Icmp { kind: 135, .. });
                !(own || source.is_unicast_link_local() || source.is_unspecified() && detection)
            }
            (IpAddr::V4(_), IpAddr::V6(_)) => true,
        }
    }

    fn is_strange_tunnel(&self) -> bool {
        let nat = &self.settings.nat;
        let vxlan = matches!(
            self.packet.payload,
            Payload::Transport { protocol: 17, destination, .. } if Some(destination) == nat.vxlan_port
        );
        let has_ipip = nat
            .tunnels
            .iter()
            .any(|tunnel| tunnel.device.starts_with("tunl"));
        let ipip = has_ipip
            && self.packet.payload == Payload::Other(4)
            && self.packet.family() == Family::V4;
        (vxlan || ipip)
            && !nat
                .tunnel_sources
                .iter()
                .any(|net| net.contains(&self.packet.source))
    }

    fn service_loop(&mut self) -> Outcome {
        let inside = self
            .settings
            .service_ranges
            .iter()
            .any(|net| net.contains(&self.packet.destination));
        match self.settings.loops {
            LoopPrevention::Drop if inside => self.fixed("service loop", Outcome::Drop),
            LoopPrevention::Reject if inside => self.fixed("service loop", Outcome::Reject),
            LoopPrevention::Drop | LoopPrevention::Reject | LoopPrevention::Disabled => {
                Outcome::Pass
            }
        }
    }

    fn denied(&self) -> Outcome {
        match self.settings.deny {
            DenyAction::Drop => Outcome::Drop,
            DenyAction::Reject => Outcome::Reject,
        }
    }

    fn fixed(&mut self, why: &'static str, outcome: Outcome) -> Outcome {
        self.steps.push(Step::Fixed(why));
        outcome
    }
}

fn path(rule: &Candid<'_>, direction: Direction) -> String {
    let (Candid::Kubernetes(_, index) | Candid::Calico(_, _, index)) = rule;
    format!("{}[{index}]", direction.as_str())
}

fn compare(a: &Candidate<'_>, b: &Candidate<'_>) -> Ordering {
    let tie = |id: &PolicyId| {
        let namespace = id
            .namespace
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default();
        format!("{}/{namespace}/{}", id.name, id.kind.as_str())
    };
    a.order
        .total_cmp(&b.order)
        .then_with(|| tie(&a.id).cmp(&tie(&b.id)))
}
