//! The driver against a real kernel. Runs in a network namespace of its own: see [`private`].

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use policy_iptables::io::{Driver, Monitor, StartError};
use policy_iptables::nft::{Image, TableFlags};
use policy_iptables::ruleset::{
    Action, Chain, Content, ContentKey, Key, KeyType, Match, Range, Ruleset, Sense, Verdict,
};

use crate::everything::{everything, keys, rule, set};
use crate::namespace;

pub(crate) fn nft(arguments: &[&str]) -> String {
    let output = Command::new("nft").args(arguments).output().unwrap();
    assert!(
        output.status.success(),
        "nft {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn one_of_everything_loads_lists_and_is_adopted_without_a_message() {
    if !namespace::is_private() {
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
    if !namespace::is_private() {
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
    if !namespace::is_private() {
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
    let listed = driver.list().unwrap();
    let planned = Image::of(&last, None);
    for (name, set) in &planned.sets {
        assert_eq!(listed.sets.get(name), Some(set), "{name}");
    }
    assert_eq!(listed, planned);
    assert_eq!(driver.apply(&last).unwrap().messages, 0);
    // And to nothing at all.
    driver.apply(&Ruleset::default()).unwrap();
    assert!(driver.list().unwrap().chains.is_empty());
    assert!(driver.list().unwrap().sets.is_empty());
}

#[test]
fn a_chain_the_kernel_refuses_is_closed_and_named_and_the_rest_stands() {
    if !namespace::is_private() {
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

#[test]
fn what_a_foreign_hand_does_to_a_plain_table_is_mended() {
    if !namespace::is_private() {
        return;
    }
    // A table that somebody made without an owner stays without one; this is how kernels before 6.9 hold ours.
    nft(&["add", "table", "inet", "margay"]);
    let ruleset = everything();
    let mut driver = Driver::open().unwrap();
    assert_eq!(driver.features().table, TableFlags::Plain);
    driver.apply(&ruleset).unwrap();
    assert_eq!(driver.apply(&ruleset).unwrap().messages, 0);
    // Changes elsewhere cost a listing and nothing more.
    nft(&["add", "table", "inet", "stranger"]);
    assert_eq!(driver.apply(&ruleset).unwrap().messages, 0);
    for command in [
        "flush chain inet margay f1",
        "add rule inet margay forward accept",
        "insert rule inet margay forward accept",
        "delete element inet margay s4_a { 10.0.0.7 }",
        "add element inet margay s4_a { 192.0.2.1 }",
        "delete element inet margay gid_out { 3 }",
        "add chain inet margay foreign",
        "delete chain inet margay nat_post",
    ] {
        nft(&command.split(' ').collect::<Vec<_>>());
        assert!(driver.apply(&ruleset).unwrap().messages > 0, "{command}");
        assert_eq!(
            driver.list().unwrap(),
            Image::of(&ruleset, None),
            "{command}"
        );
    }
}

#[test]
fn a_table_with_objects_of_another_type_is_made_anew() {
    if !namespace::is_private() {
        return;
    }
    nft(&["add", "table", "inet", "margay"]);
    nft(&[
        "add",
        "set",
        "inet",
        "margay",
        "self",
        "{",
        "type",
        "ether_addr;",
        "}",
    ]);
    let ruleset = everything();
    let mut driver = Driver::open().unwrap();
    driver.apply(&ruleset).unwrap();
    assert_eq!(driver.list().unwrap(), Image::of(&ruleset, None));
}

/// A chain of one rule that leads to another.
fn leading_to(target: &str) -> Chain {
    Chain {
        base: None,
        key: None,
        comment: "".into(),
        rules: vec![rule().then(Action::Jump(target.into()))],
    }
}

#[test]
fn a_chain_refused_later_keeps_its_old_rules_also_after_everything_was_listed_anew() {
    if !namespace::is_private() {
        return;
    }
    let good = everything();
    let mut driver = Driver::open().unwrap();
    driver.apply(&good).unwrap();
    let mut bad = good.clone();
    bad.chains.insert("f1".into(), leading_to("nowhere"));
    bad.chains.insert("f3".into(), leading_to("unknown"));
    let mut kept = good.clone();
    kept.chains.insert("f3".into(), leading_to("unknown"));
    for round in 0..3 {
        let applied = driver.apply(&bad).unwrap();
        let names: Vec<&str> = applied.isolated.iter().map(|one| &*one.chain).collect();
        assert_eq!(names, ["f1"], "round {round}");
        assert!(!applied.isolated[0].reason.is_empty());
        assert_eq!(
            driver.list().unwrap(),
            Image::of(&kept, None),
            "round {round}"
        );
        driver.forget();
    }
    assert_eq!(driver.apply(&good).unwrap().isolated, []);
    assert_eq!(driver.list().unwrap(), Image::of(&good, None));
}

/// Holds that exactly these chains are isolated and all others stand as planned.
fn all_stands_but(driver: &mut Driver, ruleset: &Ruleset, bad: &[&str]) {
    let applied = driver.apply(ruleset).unwrap();
    let isolated: Vec<&str> = applied.isolated.iter().map(|one| &*one.chain).collect();
    assert_eq!(isolated, bad);
    let (listed, planned) = (driver.list().unwrap(), Image::of(ruleset, None));
    for (name, chain) in &planned.chains {
        let stands = listed.chains.get(name) == Some(chain);
        assert_eq!(stands, !bad.contains(&&**name), "{name}");
    }
}

/// Everything, and 40 chains that are in order.
fn crowd() -> Ruleset {
    let mut ruleset = everything();
    for n in 10..50 {
        let name = format!("h{n}");
        ruleset
            .chains
            .insert(name.as_str().into(), leading_to("unknown"));
    }
    ruleset
}

#[test]
fn of_chains_that_are_bad_only_together_one_is_left_out() {
    if !namespace::is_private() {
        return;
    }
    let mut ruleset = crowd();
    let into = rule().then(Action::Jump("g1".into()));
    ruleset.chains.get_mut("f1").unwrap().rules.push(into);
    for (from, to) in [("g1", "g2"), ("g2", "g3"), ("g3", "g1")] {
        ruleset.chains.insert(from.into(), leading_to(to));
    }
    // Each rule behind the one that closes the ring is refused as well.
    all_stands_but(&mut Driver::open().unwrap(), &ruleset, &["g3"]);
}

#[test]
fn many_bad_chains_are_sifted_out_and_the_rest_is_applied() {
    if !namespace::is_private() {
        return;
    }
    let bad = ["h11", "h12", "h23", "h37", "h49"];
    let mut ruleset = crowd();
    let mut driver = Driver::open().unwrap();
    driver.apply(&everything()).unwrap();
    for name in bad {
        ruleset.chains.insert(name.into(), leading_to("nowhere"));
    }
    all_stands_but(&mut driver, &ruleset, &bad);
    all_stands_but(&mut driver, &crowd(), &[]);
}

#[test]
fn a_foreign_flush_spares_the_table_while_its_owner_lives_and_the_next_start_mends_it_after() {
    if !namespace::is_private() {
        return;
    }
    let ruleset = everything();
    let mut driver = Driver::open().unwrap();
    driver.apply(&ruleset).unwrap();
    let untouched = |driver: &mut Driver| {
        driver.forget();
        assert_eq!(driver.apply(&ruleset).unwrap().messages, 0);
    };
    for command in ["flush ruleset", "add table inet other", "flush ruleset"] {
        nft(&command.split(' ').collect::<Vec<_>>());
        untouched(&mut driver);
    }
    // What a firewall of the old kind does to its own tables does not concern ours.
    for arguments in [["-F"], ["-X"]] {
        let done = Command::new("iptables-nft").args(arguments).status();
        assert!(done.is_ok_and(|status| status.success()), "{arguments:?}");
        untouched(&mut driver);
    }
    for command in ["delete table inet margay", "flush table inet margay"] {
        let refused = Command::new("nft")
            .args(command.split(' '))
            .output()
            .unwrap();
        assert!(!refused.status.success(), "{command}");
    }
    untouched(&mut driver);

    drop(driver);
    nft(&["flush", "ruleset"]);
    assert_eq!(nft(&["list", "tables"]), "");
    let mut driver = Driver::open().unwrap();
    driver.apply(&ruleset).unwrap();
    assert_eq!(driver.list().unwrap(), Image::of(&ruleset, None));
    assert!(nft(&["list", "ruleset"]).contains("flags owner"));
}

#[tokio::test]
async fn a_flush_of_a_plain_table_is_heard_and_mended_at_once() {
    if !namespace::is_private() {
        return;
    }
    nft(&["add", "table", "inet", "margay"]);
    let ruleset = everything();
    let mut driver = Driver::open().unwrap();
    assert_eq!(driver.features().table, TableFlags::Plain);
    let mut monitor = Monitor::open(driver.port().unwrap()).unwrap();
    driver.apply(&ruleset).unwrap();
    // Our own changes and those of other tables are not told.
    nft(&["add", "table", "inet", "other"]);
    let silence = tokio::time::timeout(Duration::from_millis(100), monitor.touched()).await;
    assert!(silence.is_err());
    let mut slowest = Duration::ZERO;
    for command in [
        "flush ruleset",
        "flush chain inet margay f1",
        "delete table inet margay",
    ] {
        nft(&command.split(' ').collect::<Vec<_>>());
        let started = Instant::now();
        let heard = tokio::time::timeout(Duration::from_secs(5), monitor.touched()).await;
        heard.expect(command).unwrap();
        driver.forget();
        driver.apply(&ruleset).unwrap();
        slowest = slowest.max(started.elapsed());
        assert_eq!(
            driver.list().unwrap(),
            Image::of(&ruleset, None),
            "{command}"
        );
    }
    println!("slowest repair {slowest:?}");
    assert!(slowest < Duration::from_millis(500));
}
