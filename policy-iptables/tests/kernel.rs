//! The driver against a real kernel. Runs in a network namespace of its own: see [`private`].
#![expect(
    clippy::disallowed_methods,
    reason = "tests look at namespaces and run nft to list what was loaded"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::os::unix::fs::MetadataExt;
use std::process::Command;
use std::sync::Arc;

use policy_iptables::io::{Driver, StartError};
use policy_iptables::nft::TableFlags;
use policy_iptables::ruleset::{
    Action, Base, Chain, ChainKind, Content, ContentKey, Family, Field, Hook, Interface, Key,
    KeyType, Locality, Match, Range, Rule, Ruleset, Sense, Set, Side, States, Verdict, partition,
    partition_ports,
};

/// True inside a namespace made for this test; otherwise says why nothing is tested.
fn private() -> bool {
    let namespace = |path: &str| std::fs::metadata(path).map(|meta| meta.ino()).ok();
    let ours = namespace("/proc/self/ns/net");
    let private = ours.is_some() && ours != namespace("/proc/1/ns/net");
    if !private {
        println!("SKIPPED: not in a network namespace of its own (run under `unshare -nm`)");
    }
    private
}

fn nft(arguments: &[&str]) -> String {
    let output = Command::new("nft").args(arguments).output().unwrap();
    assert!(
        output.status.success(),
        "nft {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

fn set(key: KeyType, content: Content) -> Set {
    Set {
        key,
        content,
        comment: "made by hand".into(),
    }
}

fn keys(keys: impl IntoIterator<Item = Key>) -> Content {
    Content::Keys(Arc::new(keys.into_iter().collect()))
}

fn rule() -> Rule {
    Rule::new("by hand")
}

/// One of everything the vocabulary has.
fn everything() -> Ruleset {
    let net = |text: &str| text.parse().unwrap();
    let v4 = |text: &str| text.parse::<Ipv4Addr>().unwrap();
    let mut ruleset = Ruleset::default();
    let mut add = |name: &str, set: Set| ruleset.sets.insert(name.into(), set);
    add(
        "s4_a",
        set(
            KeyType::V4,
            keys((0..3000u32).map(|n| Key::V4(Ipv4Addr::from(0x0a00_0000 + n)))),
        ),
    );
    add(
        "s6_a",
        set(KeyType::V6, keys([Key::V6("fd00::1".parse().unwrap())])),
    );
    let nets = [
        net("10.0.0.0/8"),
        net("0.0.0.0/1"),
        net("255.0.0.0/8"),
        net("fd00::/8"),
        net("ff00::/8"),
    ];
    add(
        "n4_a",
        set(
            KeyType::V4,
            Content::Ranges(Arc::new(partition(&nets, Family::V4))),
        ),
    );
    add(
        "n6_a",
        set(
            KeyType::V6,
            Content::Ranges(Arc::new(partition(&nets, Family::V6))),
        ),
    );
    add(
        "p_a",
        set(
            KeyType::Port,
            Content::Ranges(Arc::new(partition_ports([
                (1, 10),
                (443, 443),
                (60000, 65535),
            ]))),
        ),
    );
    add(
        "np4_a",
        set(
            KeyType::ServiceV4,
            keys([Key::ServiceV4(v4("10.0.0.1"), 6, 80)]),
        ),
    );
    add(
        "np6_a",
        set(
            KeyType::ServiceV6,
            keys([Key::ServiceV6("fd00::1".parse().unwrap(), 132, 80)]),
        ),
    );
    add(
        "self",
        set(KeyType::IndexPair, keys([Key::IndexPair(3, 3)])),
    );
    add(
        "src4",
        set(KeyType::IndexV4, keys([Key::IndexV4(3, v4("10.0.0.1"))])),
    );
    add(
        "src6",
        set(
            KeyType::IndexV6,
            keys([Key::IndexV6(3, "fd00::1".parse().unwrap())]),
        ),
    );
    let entries = BTreeMap::from([
        (Key::Index(3), Verdict::Jump("f1".into())),
        (Key::Index(4), Verdict::Goto("f1".into())),
    ]);
    add(
        "gid_out",
        set(
            KeyType::Index,
            Content::Verdicts {
                entries: Arc::new(entries),
                otherwise: Verdict::Goto("unknown".into()),
            },
        ),
    );
    let rules = vec![
        rule()
            .when(Match::In(Interface::Prefix("cali".into())))
            .when(Match::State(States::EstablishedOrRelated))
            .then(Action::Accept),
        rule()
            .when(Match::State(States::Invalid))
            .then(Action::Count)
            .then(Action::Drop),
        rule()
            .when(Match::Lookup(Sense::Is, Field::InOutIndex, "self".into()))
            .then(Action::Accept),
        rule()
            .when(Match::Out(Interface::Named("vxlan.calico".into())))
            .then(Action::Map(Field::InIndex, "gid_out".into())),
        rule().then(Action::Jump("f1".into())),
    ];
    let mut chain = |name: &str, base: Option<Base>, rules: Vec<Rule>| {
        ruleset.chains.insert(
            name.into(),
            Chain {
                base,
                key: None,
                comment: "a chain".into(),
                rules,
            },
        )
    };
    let base = |kind, hook, priority| {
        Some(Base {
            kind,
            hook,
            priority,
        })
    };
    chain("forward", base(ChainKind::Filter, Hook::Forward, 0), rules);
    chain(
        "unknown",
        None,
        vec![rule().then(Action::Count).then(Action::Drop)],
    );
    let family = |family| rule().when(Match::Family(family));
    let tcp = Match::Protocol(Sense::Is, 6);
    chain(
        "f1",
        None,
        vec![
            family(Family::V4)
                .when(Match::Lookup(
                    Sense::Is,
                    Field::Address(Side::Source, Family::V4),
                    "s4_a".into(),
                ))
                .when(tcp.clone())
                .when(Match::Port(Sense::Is, Side::Destination, 80, 90))
                .then(Action::Return),
            family(Family::V6)
                .when(Match::Lookup(
                    Sense::IsNot,
                    Field::Address(Side::Destination, Family::V6),
                    "s6_a".into(),
                ))
                .when(Match::Lookup(
                    Sense::IsNot,
                    Field::Address(Side::Source, Family::V6),
                    "n6_a".into(),
                ))
                .then(Action::Return),
            family(Family::V4)
                .when(Match::Lookup(
                    Sense::Is,
                    Field::Address(Side::Source, Family::V4),
                    "n4_a".into(),
                ))
                .then(Action::SetMark {
                    keep: !0x1_0000,
                    set: 0x1_0000,
                })
                .then(Action::Return),
            rule()
                .when(Match::Mark {
                    mask: 0x1_0000,
                    value: 0x1_0000,
                })
                .then(Action::SetMark {
                    keep: !0x1_0000,
                    set: 0,
                })
                .then(Action::Return),
            rule()
                .when(tcp.clone())
                .when(Match::Lookup(
                    Sense::Is,
                    Field::Port(Side::Destination),
                    "p_a".into(),
                ))
                .then(Action::Return),
            rule()
                .when(tcp.clone())
                .when(Match::Port(Sense::IsNot, Side::Source, 80, 90))
                .when(Match::Port(Sense::IsNot, Side::Source, 100, 100))
                .then(Action::Reject),
            family(Family::V4)
                .when(Match::Lookup(
                    Sense::Is,
                    Field::Service(Side::Destination, Family::V4),
                    "np4_a".into(),
                ))
                .then(Action::Return),
            family(Family::V6)
                .when(Match::Lookup(
                    Sense::Is,
                    Field::Service(Side::Source, Family::V6),
                    "np6_a".into(),
                ))
                .then(Action::Return),
            family(Family::V4)
                .when(Match::Net(Sense::Is, Side::Source, net("127.0.0.0/8")))
                .then(Action::Drop),
            family(Family::V6)
                .when(Match::Net(Sense::IsNot, Side::Source, net("fe80::/10")))
                .then(Action::Drop),
            rule()
                .when(Match::Protocol(Sense::Is, 1))
                .when(Match::Icmp(Sense::Is, 8, Some(0)))
                .then(Action::Log("calico-packet: ".into())),
            rule()
                .when(Match::Protocol(Sense::Is, 58))
                .when(Match::Icmp(Sense::IsNot, 128, None))
                .then(Action::Drop),
            rule()
                .when(Match::Protocol(Sense::IsNot, 58))
                .then(Action::Goto("unknown".into())),
        ],
    );
    chain(
        "raw_prerouting",
        base(ChainKind::Filter, Hook::Prerouting, -300),
        vec![
            family(Family::V4)
                .when(Match::Lookup(
                    Sense::IsNot,
                    Field::InIndexSource(Family::V4),
                    "src4".into(),
                ))
                .then(Action::Drop),
            family(Family::V6)
                .when(Match::Lookup(
                    Sense::Is,
                    Field::InIndexSource(Family::V6),
                    "src6".into(),
                ))
                .then(Action::Accept),
            rule()
                .when(Match::Protocol(Sense::Is, 17))
                .when(Match::Port(Sense::Is, Side::Destination, 4789, 4789))
                .when(Match::Local(Sense::Is, Locality::Destination))
                .then(Action::NoTrack),
        ],
    );
    chain(
        "nat_post",
        base(ChainKind::Nat, Hook::Postrouting, 110),
        vec![
            family(Family::V4)
                .when(Match::Protocol(Sense::Is, 17))
                .then(Action::Masquerade(Some((4790, 65535)))),
            family(Family::V4)
                .when(Match::Local(Sense::IsNot, Locality::SourceOnOutput))
                .when(Match::Local(Sense::Is, Locality::Source))
                .then(Action::Masquerade(None)),
            family(Family::V4)
                .when(tcp)
                .then(Action::SourceNat(v4("192.0.2.1"), Some((1024, 2048)))),
            family(Family::V4).then(Action::SourceNat(v4("192.0.2.1"), None)),
        ],
    );
    ruleset
}

#[test]
fn one_of_everything_loads_lists_and_is_adopted_without_a_message() {
    if !private() {
        return;
    }
    let ruleset = everything();
    let mut driver = Driver::open().unwrap();
    assert_eq!(driver.features().table, TableFlags::OwnedPersistent);
    let applied = driver.apply(&ruleset).unwrap();
    assert!(applied.isolated.is_empty(), "{:?}", applied.isolated);
    assert_eq!(driver.apply(&ruleset).unwrap().messages, 0);
    let listing = nft(&["list", "ruleset"]);
    for text in [
        "flags owner",
        "chain nat_post",
        "type nat hook postrouting priority srcnat + 10",
        "comment \"by hand\"",
        "elements = { 3 : jump f1",
        "10.0.0.1 . tcp . 80",
        "masquerade to :4790-65535 fully-random",
        "iifname \"cali*\"",
    ] {
        assert!(listing.contains(text), "{text:?} is not in\n{listing}");
    }
    // A new driver: the table waits as an orphan, and nothing needs to be sent.
    drop(driver);
    let mut next = Driver::open().unwrap();
    let applied = next.apply(&ruleset).unwrap();
    assert_eq!(applied.messages, 0, "adoption must change nothing");
    // And a second one beside it is refused.
    assert!(matches!(
        Driver::open(),
        Err(StartError::SecondDaemon { .. })
    ));
}

#[test]
fn one_member_of_ten_thousand_is_one_message() {
    if !private() {
        return;
    }
    let with = |count: u32| {
        let mut ruleset = everything();
        let members = (0..count).map(|n| Key::V4(Ipv4Addr::from(0x0a00_0000 + n)));
        ruleset
            .sets
            .insert("s4_a".into(), set(KeyType::V4, keys(members)));
        ruleset
    };
    let mut driver = Driver::open().unwrap();
    driver.apply(&with(10_000)).unwrap();
    let applied = driver.apply(&with(10_001)).unwrap();
    assert_eq!(applied.messages, 1);
    assert!(applied.octets < 300, "{} octets", applied.octets);
    let applied = driver.apply(&with(10_000)).unwrap();
    assert_eq!(applied.messages, 1);
    driver.forget();
    assert_eq!(driver.apply(&with(10_000)).unwrap().messages, 0);
}

#[test]
fn a_changed_rule_costs_one_delete_and_one_insert() {
    if !private() {
        return;
    }
    let before = everything();
    let mut after = before.clone();
    let chain = after.chains.get_mut("f1").unwrap();
    chain.rules[3] = rule()
        .when(Match::Protocol(Sense::Is, 17))
        .then(Action::Return);
    let mut driver = Driver::open().unwrap();
    driver.apply(&before).unwrap();
    assert_eq!(driver.apply(&after).unwrap().messages, 2);
    driver.forget();
    assert_eq!(driver.apply(&after).unwrap().messages, 0);
    // Ranges of a set change, verdicts of a map change, a chain and a set go.
    let mut last = after.clone();
    let ranges = BTreeSet::from([Range::Port(5, 20), Range::Port(443, 443)]);
    last.sets.insert(
        "p_a".into(),
        set(KeyType::Port, Content::Ranges(Arc::new(ranges))),
    );
    let entries = BTreeMap::from([(Key::Index(3), Verdict::Goto("f1".into()))]);
    last.sets.insert(
        "gid_out".into(),
        set(
            KeyType::Index,
            Content::Verdicts {
                entries: Arc::new(entries),
                otherwise: Verdict::Goto("unknown".into()),
            },
        ),
    );
    last.chains.remove("nat_post");
    last.chains
        .get_mut("raw_prerouting")
        .unwrap()
        .rules
        .remove(1);
    last.sets.remove("src6");
    driver.apply(&last).unwrap();
    driver.forget();
    assert_eq!(driver.apply(&last).unwrap().messages, 0);
    // And to nothing at all.
    driver.apply(&Ruleset::default()).unwrap();
    assert!(driver.list().unwrap().chains.is_empty());
    assert!(driver.list().unwrap().sets.is_empty());
}

#[test]
fn a_chain_the_kernel_refuses_is_closed_and_named_and_the_rest_stands() {
    if !private() {
        return;
    }
    let mut ruleset = everything();
    let broken = vec![rule().then(Action::Jump("nowhere".into()))];
    ruleset.chains.insert(
        "f2".into(),
        Chain {
            base: None,
            key: Some(ContentKey([7; 16])),
            comment: "".into(),
            rules: broken,
        },
    );
    let mut driver = Driver::open().unwrap();
    let applied = driver.apply(&ruleset).unwrap();
    assert_eq!(applied.isolated.len(), 1);
    assert_eq!(&*applied.isolated[0].chain, "f2");
    let listing = nft(&["list", "ruleset"]);
    assert!(
        listing.contains("refused by the kernel, closed"),
        "{listing}"
    );
    let ids = driver.kept_ids().unwrap();
    assert_eq!(
        ids.get(&ContentKey([7; 16])).map(|name| &**name),
        Some("f2")
    );
}
