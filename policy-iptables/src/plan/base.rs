//! Base chains: where packets of workloads meet their groups, and everything around it.
//!
//! ```text
//!   raw_prerouting -300   workload? → wl_raw: 127/8, source = own address         VXLAN to us: not tracked
//!   forward           0   from a workload → wl_forward: established, invalid, self, wl_out, then the other end's group
//!                         to a workload   → wl_to: established, invalid, its group
//!                         service ranges that nobody translated
//!   input             0   tunnel packets from known nodes; from a workload → wl_input: …, wl_out, then the host action
//!   raw_output     -300   VXLAN: not tracked
//!   nat_post        110   pools to the outside, tunnel sources
//!   wl_out                what no workload may send, then gid_out
//! ```
//!
//! A chain without rules is not rendered: an empty hook costs every packet.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use model::{AttachmentId, World};

use super::sets::{address_type, digit};
use super::{HostAction, LoopPrevention, Settings};
use crate::compile::Direction;
use crate::ruleset::{
    Action, Base, Chain, ChainKind, Content, Family, Field, Hook, Interface, Key, KeyType,
    Locality, Match, Name, Rule, Ruleset, Sense, Set, Side, States, Verdict, partition,
};

mod nat;

const TCP: u8 = 6;
const UDP: u8 = 17;
const IPIP: u8 = 4;
const ICMPV6: u8 = 58;

/// Messages of `ICMPv6` without which IPv6 does not work: multicast listener queries, reports and leaves, router solicitation,
/// neighbour solicitation and advertisement.
const NEIGHBOUR_DISCOVERY: [u8; 6] = [130, 131, 132, 133, 135, 136];

/// Index and chain of a group, by endpoint and direction.
pub(super) type Chains = BTreeMap<(AttachmentId, Direction), (u32, Name)>;

/// Adds base chains, the chains they share, and the maps that lead to groups.
pub(super) fn render(world: &World, settings: &Settings, chains: &Chains, ruleset: &mut Ruleset) {
    let mut base = Builder { settings, ruleset };
    base.group_maps(chains);
    base.endpoint_sets(world);
    base.raw();
    base.forward();
    base.input();
    base.workload_chains();
    nat::render(settings, base.ruleset);
}

struct Builder<'a> {
    settings: &'a Settings,
    ruleset: &'a mut Ruleset,
}

impl Builder<'_> {
    fn set(&mut self, name: &str, key: KeyType, content: Content, comment: &str) {
        add_set(self.ruleset, name, key, content, comment);
    }

    fn chain(&mut self, name: &str, base: Option<Base>, rules: Vec<Rule>) {
        add_chain(self.ruleset, name, base, rules);
    }

    fn group_maps(&mut self, chains: &Chains) {
        for (direction, name, unknown, comment) in [
            (
                Direction::Egress,
                "gid_out",
                "unknown_out",
                "from a workload",
            ),
            (Direction::Ingress, "gid_in", "unknown_in", "to a workload"),
        ] {
            let entries = chains
                .iter()
                .filter(|((_, known), _)| *known == direction)
                .map(|(_, (index, chain))| (Key::Index(*index), Verdict::Jump(chain.clone())));
            let content = Content::Verdicts {
                entries: Arc::new(entries.collect()),
                otherwise: Verdict::Goto(unknown.into()),
            };
            self.set(name, KeyType::Index, content, comment);
            let rule = Rule::new("unknown workload interface")
                .then(Action::Count)
                .then(Action::Drop);
            self.chain(unknown, None, vec![rule]);
        }
    }

    fn endpoint_sets(&mut self, world: &World) {
        let mut sources = [BTreeSet::new(), BTreeSet::new()];
        let mut own = BTreeSet::new();
        for view in world.local_endpoints() {
            let index = view.endpoint.ifindex;
            own.insert(Key::IndexPair(index, index));
            let [v4, v6] = &mut sources;
            for address in &view.endpoint.addresses {
                let into = match Family::of(address) {
                    Family::V4 => &mut *v4,
                    Family::V6 => &mut *v6,
                };
                into.insert(Key::index_address(index, *address));
            }
        }
        let [v4, v6] = sources;
        self.set(
            "src4",
            KeyType::IndexV4,
            keys(v4),
            "addresses a workload may send from",
        );
        self.set(
            "src6",
            KeyType::IndexV6,
            keys(v6),
            "addresses a workload may send from",
        );
        self.set(
            "self",
            KeyType::IndexPair,
            keys(own),
            "a workload that talks to itself",
        );
    }

    /// One rule per workload prefix.
    fn of_workloads(&self, end: fn(Interface) -> Match, rule: impl Fn(Rule) -> Rule) -> Vec<Rule> {
        let prefixes = self.settings.prefixes.iter();
        prefixes
            .map(|prefix| rule(Rule::new("").when(end(Interface::Prefix(Arc::clone(prefix))))))
            .collect()
    }

    fn raw(&mut self) {
        let mut rules =
            self.of_workloads(Match::In, |rule| rule.then(Action::Goto("wl_raw".into())));
        rules.extend(untracked(self.settings).map(|rule| {
            rule.when(Match::Local(Sense::Is, Locality::Destination))
                .then(Action::NoTrack)
        }));
        self.chain(
            "raw_prerouting",
            Some(filter(Hook::Prerouting, -300)),
            rules,
        );
        let rules = untracked(self.settings).map(|rule| rule.then(Action::NoTrack));
        self.chain(
            "raw_output",
            Some(filter(Hook::Output, -300)),
            rules.collect(),
        );
        self.chain("wl_raw", None, anti_spoofing());
    }

    fn forward(&mut self) {
        let mut rules = self.of_workloads(Match::In, |rule| {
            rule.then(Action::Goto("wl_forward".into()))
        });
        rules.extend(self.of_workloads(Match::Out, |rule| rule.then(Action::Goto("wl_to".into()))));
        rules.extend(self.service_loop());
        self.chain("forward", Some(filter(Hook::Forward, 0)), rules);
    }

    fn input(&mut self) {
        let mut rules = tunnel_sources(self.settings, self.ruleset);
        rules.extend(
            self.of_workloads(Match::In, |rule| rule.then(Action::Goto("wl_input".into()))),
        );
        self.chain("input", Some(filter(Hook::Input, 0)), rules);
    }

    fn workload_chains(&mut self) {
        let mut rules = gate(self.settings);
        rules.push(
            Rule::new("self")
                .when(Match::Lookup(Sense::Is, Field::InOutIndex, "self".into()))
                .then(Action::Accept),
        );
        rules.push(Rule::new("").then(Action::Jump("wl_out".into())));
        let to_group = |rule: Rule| rule.then(Action::Map(Field::OutIndex, "gid_in".into()));
        rules.extend(self.of_workloads(Match::Out, to_group));
        rules.extend(self.service_loop());
        self.chain("wl_forward", None, rules);

        let mut rules = gate(self.settings);
        rules.push(to_group(Rule::new("")));
        self.chain("wl_to", None, rules);

        let mut rules = gate(self.settings);
        rules.extend(NEIGHBOUR_DISCOVERY.map(|kind| icmpv6(kind).then(Action::Accept)));
        rules.push(Rule::new("").then(Action::Jump("wl_out".into())));
        if self.settings.host_action == HostAction::Drop {
            let rule = Rule::new("defaultEndpointToHostAction");
            rules.push(rule.then(Action::Count).then(Action::Drop));
        }
        self.chain("wl_input", None, rules);

        let mut rules = never_from_workloads(self.settings);
        rules.push(Rule::new("").then(Action::Map(Field::InIndex, "gid_out".into())));
        self.chain("wl_out", None, rules);
    }

    /// A destination still inside a service range was translated by nobody and would come back from the router.
    fn service_loop(&mut self) -> Vec<Rule> {
        let end = match self.settings.loops {
            LoopPrevention::Disabled => return Vec::new(),
            LoopPrevention::Drop => Action::Drop,
            LoopPrevention::Reject => Action::Reject,
        };
        let mut rules = Vec::new();
        for family in Family::ALL {
            let content = partition(&self.settings.service_ranges, family);
            if content.is_empty() {
                continue;
            }
            let set: Name = format!("svc{}", digit(family)).into();
            let comment = "service addresses nobody serves";
            self.set(
                &set,
                address_type(family),
                Content::Ranges(Arc::new(content)),
                comment,
            );
            rules.push(
                Rule::new("service loop")
                    .when(Match::Family(family))
                    .when(Match::Lookup(
                        Sense::Is,
                        Field::Address(Side::Destination, family),
                        set,
                    ))
                    .then(Action::Count)
                    .then(end.clone()),
            );
        }
        rules
    }
}

fn add_set(ruleset: &mut Ruleset, name: &str, key: KeyType, content: Content, comment: &str) {
    ruleset.sets.insert(
        name.into(),
        Set {
            key,
            content,
            comment: comment.into(),
        },
    );
}

fn add_chain(ruleset: &mut Ruleset, name: &str, base: Option<Base>, rules: Vec<Rule>) {
    if rules.is_empty() {
        return;
    }
    let chain = Chain {
        base,
        key: None,
        comment: "".into(),
        rules,
    };
    ruleset.chains.insert(name.into(), chain);
}

fn keys(keys: BTreeSet<Key>) -> Content {
    Content::Keys(Arc::new(keys))
}

const fn filter(hook: Hook, priority: i32) -> Base {
    Base {
        kind: ChainKind::Filter,
        hook,
        priority,
    }
}

/// What stands before every judgement of a workload's packet.
fn gate(settings: &Settings) -> Vec<Rule> {
    let known = Rule::new("").when(Match::State(States::EstablishedOrRelated));
    let mut rules = match settings.cut {
        None => vec![known.then(Action::Accept)],
        Some(mask) => {
            let marked = |rule: Rule, value| rule.when(Match::FlowMark { mask, value });
            let cut = Rule::new("a flow that a later policy cut");
            vec![
                marked(known, 0).then(Action::Accept),
                marked(cut, mask).then(Action::Count).then(Action::Drop),
            ]
        }
    };
    if settings.drop_invalid {
        let rule = Rule::new("no place in any flow").when(Match::State(States::Invalid));
        rules.push(rule.then(Action::Count).then(Action::Drop));
    }
    rules
}

/// VXLAN of our own tunnels.
fn untracked(settings: &Settings) -> impl Iterator<Item = Rule> {
    settings
        .nat
        .vxlan_port
        .into_iter()
        .map(|port| udp(Rule::new("our VXLAN"), port))
}

fn udp(rule: Rule, port: u16) -> Rule {
    rule.when(Match::Protocol(Sense::Is, UDP)).when(Match::Port(
        Sense::Is,
        Side::Destination,
        port,
        port,
    ))
}

fn icmpv6(kind: u8) -> Rule {
    Rule::new("")
        .when(Match::Family(Family::V6))
        .when(Match::Protocol(Sense::Is, ICMPV6))
        .when(Match::Icmp(Sense::Is, kind, None))
}

/// Source must be the workload's own; the host's loopback is out of reach before any translation.
fn anti_spoofing() -> Vec<Rule> {
    let drop = |rule: Rule| rule.then(Action::Count).then(Action::Drop);
    let v4 = |comment: &str| Rule::new(comment).when(Match::Family(Family::V4));
    let v6 = |comment: &str| Rule::new(comment).when(Match::Family(Family::V6));
    let loopback = IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8));
    let link_local = IpNet::V6(Ipv6Net::new_assert(
        Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0),
        10,
    ));
    let unspecified = IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::UNSPECIFIED, 128));
    let own =
        |sense, family, set: &str| Match::Lookup(sense, Field::InIndexSource(family), set.into());
    vec![
        drop(v4("loopback of the host").when(Match::Net(Sense::Is, Side::Destination, loopback))),
        drop(v4("not its own source").when(own(Sense::IsNot, Family::V4, "src4"))),
        v6("")
            .when(own(Sense::Is, Family::V6, "src6"))
            .then(Action::Accept),
        v6("link-local")
            .when(Match::Net(Sense::Is, Side::Source, link_local))
            .then(Action::Accept),
        icmpv6(135)
            .when(Match::Net(Sense::Is, Side::Source, unspecified))
            .then(Action::Accept),
        drop(v6("not its own source")),
    ]
}

/// Servers and routers are not workloads; our tunnels are not open to them.
fn never_from_workloads(settings: &Settings) -> Vec<Rule> {
    let drop = |rule: Rule| rule.then(Action::Count).then(Action::Drop);
    let from_port = |rule: Rule, port| rule.when(Match::Port(Sense::Is, Side::Source, port, port));
    let mut rules = vec![
        drop(from_port(udp(Rule::new("DHCP server"), 68), 67)),
        drop(from_port(udp(Rule::new("DHCPv6 server"), 546), 547)),
        drop(icmpv6(134)),
        drop(icmpv6(137)),
    ];
    if !settings.workload_tunnels.vxlan {
        rules.push(drop(udp(Rule::new("VXLAN"), settings.vxlan_port)));
    }
    if !settings.workload_tunnels.ipip {
        rules.push(drop(
            Rule::new("IP-in-IP").when(Match::Protocol(Sense::Is, IPIP)),
        ));
    }
    rules
}

/// Tunnel packets come from known nodes only.
fn tunnel_sources(settings: &Settings, ruleset: &mut Ruleset) -> Vec<Rule> {
    let nat = &settings.nat;
    let has_ipip = nat
        .tunnels
        .iter()
        .any(|tunnel| tunnel.device.starts_with("tunl"));
    let mut rules = Vec::new();
    for family in Family::ALL {
        let stranger = |rule: Rule, set: &Name| {
            rule.when(Match::Lookup(
                Sense::IsNot,
                Field::Address(Side::Source, family),
                set.clone(),
            ))
            .then(Action::Count)
            .then(Action::Drop)
        };
        let start = |comment: &str| Rule::new(comment).when(Match::Family(family));
        let mut own = Vec::new();
        let set: Name = format!("tunnel_src{}", digit(family)).into();
        if let Some(port) = nat.vxlan_port {
            own.push(stranger(udp(start("VXLAN from a stranger"), port), &set));
        }
        if has_ipip && family == Family::V4 {
            let ipip = start("IP-in-IP from a stranger").when(Match::Protocol(Sense::Is, IPIP));
            own.push(stranger(ipip, &set));
        }
        if !own.is_empty() {
            let sources = Content::Ranges(Arc::new(partition(&nat.tunnel_sources, family)));
            add_set(
                ruleset,
                &set,
                address_type(family),
                sources,
                "nodes of the cluster",
            );
            rules.extend(own);
        }
    }
    rules
}
