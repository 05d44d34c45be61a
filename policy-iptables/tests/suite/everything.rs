//! A ruleset with one of everything the vocabulary has.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnet::IpNet;
use policy_iptables::ruleset::{
    Action, Base, Chain, ChainKind, Content, Family, Field, Hook, Interface, Key, KeyType,
    Locality, Match, Rule, Ruleset, Sense, Set, Side, States, Verdict, partition, partition_ports,
};

/// A set made by hand.
pub(crate) fn set(key: KeyType, content: Content) -> Set {
    Set {
        key,
        content,
        comment: "made by hand".into(),
    }
}

/// Exact keys.
pub(crate) fn keys(keys: impl IntoIterator<Item = Key>) -> Content {
    Content::Keys(Arc::new(keys.into_iter().collect()))
}

/// A rule made by hand.
pub(crate) fn rule() -> Rule {
    Rule::new("by hand")
}

/// One of everything.
pub(crate) fn everything() -> Ruleset {
    let mut ruleset = Ruleset::default();
    addresses(&mut ruleset);
    concatenations(&mut ruleset);
    base_chains(&mut ruleset);
    let mut rules = lookups();
    rules.extend(compares());
    add(&mut ruleset, "f1", None, rules);
    ruleset
}

fn add(ruleset: &mut Ruleset, name: &str, base: Option<Base>, rules: Vec<Rule>) {
    let chain = Chain {
        base,
        key: None,
        comment: "a chain".into(),
        rules,
    };
    ruleset.chains.insert(name.into(), chain);
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

const V4: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1);

fn addresses(ruleset: &mut Ruleset) {
    let mut add = |name: &str, key, content| ruleset.sets.insert(name.into(), set(key, content));
    let many = (0..3000_u32).map(|n| Key::V4(Ipv4Addr::from(0x0a00_0000 + n)));
    add("s4_a", KeyType::V4, keys(many));
    add("s6_a", KeyType::V6, keys([Key::V6(V6)]));
    let nets = [
        "10.0.0.0/8",
        "0.0.0.0/1",
        "255.0.0.0/8",
        "fd00::/8",
        "ff00::/8",
    ]
    .map(net);
    let ranges = |family| Content::Ranges(Arc::new(partition(&nets, family)));
    add("n4_a", KeyType::V4, ranges(Family::V4));
    add("n6_a", KeyType::V6, ranges(Family::V6));
    let ports = partition_ports([(1, 10), (443, 443), (60000, 65535)]);
    add("p_a", KeyType::Port, Content::Ranges(Arc::new(ports)));
}

fn concatenations(ruleset: &mut Ruleset) {
    let mut add = |name: &str, key, content| ruleset.sets.insert(name.into(), set(key, content));
    add(
        "np4_a",
        KeyType::ServiceV4,
        keys([Key::ServiceV4(V4, 6, 80)]),
    );
    add(
        "np6_a",
        KeyType::ServiceV6,
        keys([Key::ServiceV6(V6, 132, 80)]),
    );
    add("self", KeyType::IndexPair, keys([Key::IndexPair(3, 3)]));
    add("src4", KeyType::IndexV4, keys([Key::IndexV4(3, V4)]));
    add("src6", KeyType::IndexV6, keys([Key::IndexV6(3, V6)]));
    let entries = BTreeMap::from([
        (Key::Index(3), Verdict::Jump("f1".into())),
        (Key::Index(4), Verdict::Goto("f1".into())),
    ]);
    let otherwise = Verdict::Goto("unknown".into());
    let map = Content::Verdicts {
        entries: Arc::new(entries),
        otherwise,
    };
    add("gid_out", KeyType::Index, map);
}

fn family(family: Family) -> Rule {
    rule().when(Match::Family(family))
}

fn is(field: Field, set: &str) -> Match {
    Match::Lookup(Sense::Is, field, set.into())
}

fn is_not(field: Field, set: &str) -> Match {
    Match::Lookup(Sense::IsNot, field, set.into())
}

fn protocol(number: u8) -> Rule {
    rule().when(Match::Protocol(Sense::Is, number))
}

fn base_chains(ruleset: &mut Ruleset) {
    let base = |kind, hook, priority| {
        Some(Base {
            kind,
            hook,
            priority,
        })
    };
    let cali = Match::In(Interface::Prefix("cali".into()));
    let vxlan = Match::Out(Interface::Named("vxlan.calico".into()));
    add(
        ruleset,
        "forward",
        base(ChainKind::Filter, Hook::Forward, 0),
        vec![
            rule()
                .when(cali)
                .when(Match::State(States::EstablishedOrRelated))
                .then(Action::Accept),
            rule()
                .when(Match::State(States::Invalid))
                .then(Action::Count)
                .then(Action::Drop),
            rule()
                .when(is(Field::InOutIndex, "self"))
                .then(Action::Accept),
            rule()
                .when(vxlan)
                .then(Action::Map(Field::InIndex, "gid_out".into())),
            rule().then(Action::Jump("f1".into())),
        ],
    );
    add(
        ruleset,
        "unknown",
        None,
        vec![rule().then(Action::Count).then(Action::Drop)],
    );
    let to_vxlan = Match::Port(Sense::Is, Side::Destination, 4789, 4789);
    add(
        ruleset,
        "raw_prerouting",
        base(ChainKind::Filter, Hook::Prerouting, -300),
        vec![
            family(Family::V4)
                .when(is_not(Field::InIndexSource(Family::V4), "src4"))
                .then(Action::Drop),
            family(Family::V6)
                .when(is(Field::InIndexSource(Family::V6), "src6"))
                .then(Action::Accept),
            protocol(17)
                .when(to_vxlan)
                .when(Match::Local(Sense::Is, Locality::Destination))
                .then(Action::NoTrack),
        ],
    );
    let address = Ipv4Addr::new(192, 0, 2, 1);
    let foreign = Match::Local(Sense::IsNot, Locality::SourceOnOutput);
    let own = Match::Local(Sense::Is, Locality::Source);
    add(
        ruleset,
        "nat_post",
        base(ChainKind::Nat, Hook::Postrouting, 110),
        vec![
            protocol(17).then(Action::Masquerade(Some((4790, 65535)))),
            family(Family::V4)
                .when(foreign)
                .when(own)
                .then(Action::Masquerade(None)),
            family(Family::V4)
                .when(Match::Protocol(Sense::Is, 6))
                .then(Action::SourceNat(address, Some((1024, 2048)))),
            family(Family::V4).then(Action::SourceNat(address, None)),
        ],
    );
}

fn lookups() -> Vec<Rule> {
    let tcp = Match::Protocol(Sense::Is, 6);
    let bit = 0x1_0000;
    let source = |family| Field::Address(Side::Source, family);
    let to_web = Match::Port(Sense::Is, Side::Destination, 80, 90);
    vec![
        family(Family::V4)
            .when(is(source(Family::V4), "s4_a"))
            .when(tcp.clone())
            .when(to_web)
            .then(Action::Return),
        family(Family::V6)
            .when(is_not(
                Field::Address(Side::Destination, Family::V6),
                "s6_a",
            ))
            .when(is_not(source(Family::V6), "n6_a"))
            .then(Action::Return),
        family(Family::V4)
            .when(is(source(Family::V4), "n4_a"))
            .then(Action::SetMark {
                keep: !bit,
                set: bit,
            })
            .then(Action::Return),
        rule()
            .when(Match::Mark {
                mask: bit,
                value: bit,
            })
            .then(Action::SetMark { keep: !bit, set: 0 })
            .then(Action::Return),
        rule()
            .when(tcp)
            .when(is(Field::Port(Side::Destination), "p_a"))
            .then(Action::Return),
        family(Family::V4)
            .when(is(Field::Service(Side::Destination, Family::V4), "np4_a"))
            .then(Action::Return),
        family(Family::V6)
            .when(is(Field::Service(Side::Source, Family::V6), "np6_a"))
            .then(Action::Return),
    ]
}

fn compares() -> Vec<Rule> {
    let from = |sense, first, last| Match::Port(sense, Side::Source, first, last);
    let net = |sense, text: &str| Match::Net(sense, Side::Source, net(text));
    vec![
        protocol(6)
            .when(from(Sense::IsNot, 80, 90))
            .when(from(Sense::IsNot, 100, 100))
            .then(Action::Reject),
        family(Family::V4)
            .when(net(Sense::Is, "127.0.0.0/8"))
            .then(Action::Drop),
        family(Family::V6)
            .when(net(Sense::IsNot, "fe80::/10"))
            .then(Action::Drop),
        protocol(1)
            .when(Match::Icmp(Sense::Is, 8, Some(0)))
            .then(Action::Log("calico-packet: ".into())),
        protocol(58)
            .when(Match::Icmp(Sense::IsNot, 128, None))
            .then(Action::Drop),
        rule()
            .when(Match::FlowMark {
                mask: 0x1_0000,
                value: 0x1_0000,
            })
            .then(Action::Drop),
        rule()
            .when(Match::Protocol(Sense::IsNot, 58))
            .then(Action::Goto("unknown".into())),
    ]
}
