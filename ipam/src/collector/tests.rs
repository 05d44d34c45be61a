//! Tables: who is in doubt, what becomes of it, what is repaired.

use super::*;
use crate::affinity::State;
use crate::block::Attribute;
use crate::store::Meta;

const NOW: Time = Time::from_secs(1_700_000_000);
const LONG: Duration = Duration::from_hours(1);

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn stored<T>(value: T) -> Stored<T> {
    let meta = Meta::new("u", "1");
    Stored { meta, value }
}

fn entry(node: &str, pod: &str) -> Attribute {
    let owner = [("node", node), ("namespace", "d"), ("pod", pod)];
    let owner = owner.map(|(key, value)| (key.to_owned(), value.to_owned()));
    Attribute::new(&format!("net.{pod}"), owner.into())
}

fn pod(node: &str, finished: bool) -> PodSeen {
    PodSeen {
        node: Some(Arc::from(node)),
        finished,
        ..PodSeen::default()
    }
}

fn view(nodes: &[&str], pods: &[(&str, PodSeen)]) -> View {
    View {
        nodes: nodes.iter().map(|node| Arc::from(*node)).collect(),
        pods: pods
            .iter()
            .map(|(name, pod)| ((Arc::from("d"), Arc::from(*name)), pod.clone()))
            .collect(),
        whole: true,
        ..View::default()
    }
}

fn with_block(mut view: View, owner: Option<&str>, entries: &[Attribute]) -> View {
    let owner_name = owner.unwrap_or("x");
    let owner_of = Owner::Host(Arc::from(owner_name));
    let mut block = Block::try_new(net("10.0.0.0/29"), owner_of, NOW, 0).unwrap();
    for entry in entries {
        block.take(entry, |_| false).unwrap();
    }
    if owner.is_none() {
        block.orphan();
    }
    view.blocks.insert(block.cidr(), stored(block));
    view
}

fn renewed(mut view: View, node: &str, at: Time) -> View {
    let sign = Sign {
        heard: at,
        stamp: Arc::from(at.to_rfc3339()),
    };
    view.signs.insert(Arc::from(node), sign);
    view
}

#[test]
fn only_what_can_be_judged_is_in_doubt() {
    let mut tunnel = Attribute::new("vxlan-tunnel-addr-a", BTreeMap::new());
    tunnel.owner.insert("node".to_owned(), "a".to_owned());
    let mut further = entry("a", "x");
    further.owner = further
        .owner
        .into_iter()
        .map(|(key, value)| match key.as_str() {
            "node" => (key, value),
            _ => (format!("margay.{key}"), value),
        })
        .collect();
    let mut nameless = entry("a", "gone");
    nameless.owner.remove("node");
    let alive = view(&["a", "b"], &[("x", pod("a", false))]);
    let cases = [
        (entry("a", "x"), &alive, None),
        (entry("a", "gone"), &alive, Some(Doubt::PodGone)),
        (entry("b", "x"), &alive, Some(Doubt::PodElsewhere)),
        (further.clone(), &alive, None),
        (nameless, &alive, None),
        (tunnel.clone(), &alive, None),
        (Attribute::default(), &alive, None),
    ];
    for (entry, view, expected) in cases {
        assert_eq!(doubt(&entry, view), expected, "{entry:?}");
    }
    let done = view(&["a"], &[("x", pod("a", true))]);
    assert_eq!(doubt(&entry("a", "x"), &done), Some(Doubt::PodFinished));
    assert_eq!(doubt(&further, &view(&["a"], &[])), Some(Doubt::PodGone));
    let without = view(&["b"], &[("x", pod("a", false)), ("y", pod("b", false))]);
    assert_eq!(doubt(&entry("a", "x"), &without), Some(Doubt::NodeGone));
    assert_eq!(doubt(&tunnel, &without), Some(Doubt::NodeGone));
    assert_eq!(doubt(&entry("a", "y"), &without), None, "it moved to b");
    let reserved = Attribute::new(crate::handle::WINDOWS_RESERVED, tunnel.owner);
    assert_eq!(doubt(&reserved, &without), None);
}

#[test]
fn every_case_is_decided_as_the_table_says() {
    let settings = Settings::default();
    let ages = [Duration::ZERO, settings.ask_after, settings.leak_grace];
    for age in ages {
        let old = age >= settings.leak_grace;
        let asked = age >= settings.ask_after;
        for answer in [None, Some(Answer::Mine), Some(Answer::Free)] {
            let act = |node| decide(&Case { age, node, answer }, &settings);
            assert_eq!(act(NodeState::Silent), Act::Keep, "{age:?} {answer:?}");
            let expected = match answer {
                Some(Answer::Mine) => Act::Keep,
                Some(Answer::Free) if old => Act::Free,
                None if asked => Act::Ask,
                Some(Answer::Free) | None => Act::Wait,
            };
            assert_eq!(act(NodeState::Alive), expected, "{age:?} {answer:?}");
            assert_eq!(act(NodeState::DeletedAlive), expected);
            assert_eq!(act(NodeState::Gone(Duration::ZERO)), Act::Wait);
            assert_eq!(act(NodeState::Gone(settings.gone_grace)), Act::Free);
        }
    }
    let never = Settings {
        leak_grace: Duration::ZERO,
        ..settings
    };
    let case = Case {
        age: LONG,
        node: NodeState::Alive,
        answer: Some(Answer::Free),
    };
    assert_eq!(decide(&case, &never), Act::Keep, "no leak collection");
}

#[test]
fn a_node_that_exists_is_asked_and_believed() {
    let mut collector = Collector::new(Settings::default());
    let leaked = with_block(view(&["a"], &[]), Some("a"), &[entry("a", "x")]);
    let mut now = NOW;
    let mut asked = None;
    for _ in 0..30 {
        let seen = renewed(leaked.clone(), "a", now);
        let mut orders = collector.look(&seen, now);
        assert_eq!(orders.free, []);
        asked = orders.ask.remove("a").or(asked);
        now = now.plus(Duration::from_mins(1));
    }
    let ask = asked.expect("the node was asked");
    assert_eq!(ask.spots.len(), 1);
    collector.answered("a", ask.id, &BTreeSet::from([0]), now);
    let seen = renewed(leaked.clone(), "a", now);
    assert_eq!(collector.look(&seen, now).free, [], "mine");
    now = now.plus(Settings::default().ask_again);
    let orders = collector.look(&renewed(leaked.clone(), "a", now), now);
    let again = orders.ask.get("a").expect("asked again after a while");
    collector.answered("a", again.id, &BTreeSet::new(), now);
    let orders = collector.look(&renewed(leaked, "a", now), now);
    assert_eq!(orders.free.len(), 1, "free, and long in doubt");
}

#[test]
fn an_unreachable_node_keeps_everything() {
    let mut collector = Collector::new(Settings::default());
    let entries = [entry("a", "x"), entry("a", "y")];
    let silent = with_block(view(&["a"], &[]), Some("a"), &entries);
    let silent = renewed(silent, "a", NOW);
    for minute in 0..120 {
        let orders = collector.look(&silent, NOW.plus(Duration::from_mins(minute)));
        assert!(
            orders.free.is_empty() && orders.repair.is_empty(),
            "{orders:?}"
        );
        assert_eq!(orders.forget, [] as [Arc<str>; 0]);
    }
}

#[test]
fn a_node_that_is_gone_loses_everything_within_a_minute_and_what_others_borrowed_stays() {
    let mut collector = Collector::new(Settings::default());
    let own = [entry("a", "x"), entry("a", "y")];
    let living = view(&["b"], &[("z", pod("b", false))]);
    let borrowed = [own[0].clone(), entry("b", "z")];
    for entries in [&own, &borrowed] {
        let seen = renewed(with_block(living.clone(), Some("a"), entries), "a", NOW);
        let mut freed = None;
        for second in 0..60 {
            let orders = collector.look(&seen, NOW.plus(Duration::from_secs(second)));
            freed = freed.or((!orders.free.is_empty()).then_some((second, orders)));
        }
        let (second, orders) = freed.expect("freed within a minute");
        assert!((40..=45).contains(&second), "after {second} s");
        assert!(orders.free.iter().all(|suspect| *suspect.node == *"a"));
        assert_eq!(orders.repair, [], "the block goes after its addresses");
        assert_eq!(orders.forget, [] as [Arc<str>; 0]);
        collector = Collector::new(Settings::default());
    }
    let emptied = renewed(with_block(living, Some("a"), &borrowed[1..]), "a", NOW);
    collector.look(&emptied, NOW);
    let orders = collector.look(&emptied, NOW.plus(Duration::from_mins(1)));
    let block = net("10.0.0.0/29");
    let node = Arc::from("a");
    assert_eq!(orders.repair, [Repair::Dead { node, block }]);
}

#[test]
fn a_deleted_node_whose_daemon_lives_is_asked_like_any_other() {
    let mut collector = Collector::new(Settings::default());
    let seen = with_block(view(&["b"], &[]), Some("a"), &[entry("a", "x")]);
    for second in 0..600 {
        let now = NOW.plus(Duration::from_secs(second));
        let orders = collector.look(&renewed(seen.clone(), "a", now), now);
        assert!(
            orders.free.is_empty() && orders.repair.is_empty(),
            "{orders:?}"
        );
        assert_eq!(orders.ask.contains_key("a"), second % 300 == 60);
    }
}

#[test]
fn nothing_is_done_before_every_kind_is_listed_or_after_a_mass_disappearance() {
    let names: Vec<String> = (0..30).map(|n| format!("n{n}")).collect();
    let all: Vec<&str> = names.iter().map(String::as_str).collect();
    let entries = [entry("n0", "x")];
    let mut collector = Collector::new(Settings::default());
    let mut seen = with_block(view(&all, &[]), Some("n0"), &entries);
    collector.look(&seen, NOW);
    seen.nodes = all[20..].iter().map(|node| Arc::from(*node)).collect();
    let held = collector.look(&seen, NOW.plus(Duration::from_secs(1)));
    assert_eq!(held.held, Some("nodes or pods vanished in mass"));
    for second in 2..60 {
        let orders = collector.look(&seen, NOW.plus(Duration::from_secs(second)));
        assert_eq!((orders.free.len(), orders.repair.len()), (0, 0));
    }
    collector.look(&seen, NOW.plus(Duration::from_secs(61)));
    let later = collector.look(&seen, NOW.plus(Duration::from_mins(2)));
    assert_eq!(later.free.len(), 1, "it stayed so");
    seen.whole = false;
    let blind = collector.look(&seen, NOW.plus(LONG));
    assert!(blind.held.is_some() && blind.free.is_empty());
}

#[test]
fn a_handle_is_freed_whole_or_not_at_all() {
    let mut collector = Collector::new(Settings::default());
    let mut mixed = entry("b", "z");
    mixed.handle = Some("net.x".to_owned());
    let living = view(&["b"], &[("z", pod("b", false))]);
    let seen = with_block(living, Some("a"), &[entry("a", "x"), mixed]);
    for second in 0..600 {
        let orders = collector.look(&seen, NOW.plus(Duration::from_secs(second)));
        assert_eq!(orders.free, []);
    }
}

#[test]
fn a_dead_nodes_block_is_removed_when_empty_and_orphaned_when_not() {
    let affinity = Affinity::new(&Arc::from("a"), net("10.0.0.0/29"), State::Confirmed);
    let cooldown = Duration::from_secs(30);
    for (entries, last) in [(&[][..], "remove"), (&[entry("b", "z")][..], "orphan")] {
        let seen = with_block(view(&["b"], &[]), Some("a"), entries);
        let mut block = seen.blocks.into_values().next();
        let mut claim = Some(stored(affinity.clone()));
        let mut calls = Vec::new();
        while let Some(call) =
            repair::owner_step("a", block.as_ref(), claim.as_ref(), NOW, cooldown)
        {
            calls.push(call.clone());
            assert!(calls.len() < 8, "{calls:?}");
            apply(&call, &mut block, &mut claim);
        }
        assert_eq!(claim, None, "{last}");
        assert_eq!(block.is_none(), last == "remove");
        assert!(block.is_none_or(|block| block.value.owner().is_none()));
    }
}

fn apply(
    call: &crate::store::StoreCall,
    block: &mut Option<Stored<Block>>,
    claim: &mut Option<Stored<Affinity>>,
) {
    use crate::store::{Key, Object, StoreCall};
    match call {
        StoreCall::Swap(Object::Block(value), _) => *block = Some(stored((**value).clone())),
        StoreCall::Swap(Object::Affinity(value), _) => *claim = Some(stored(value.clone())),
        StoreCall::Remove(Key::Block(_), _) => *block = None,
        StoreCall::Remove(Key::Affinity(..), _) => *claim = None,
        StoreCall::Get(_)
        | StoreCall::Create(_)
        | StoreCall::Swap(Object::Handle(_), _)
        | StoreCall::Remove(Key::Handle(_), _) => panic!("{call:?}"),
    }
}

#[test]
fn handle_objects_are_set_right_and_virtual_machines_left_alone() {
    use crate::store::{Object, StoreCall};
    let seen = with_block(view(&["a"], &[]), Some("a"), &[entry("a", "x")]);
    let block = seen.blocks.into_values().next().unwrap().value;
    let cidr = block.cidr();
    let right = Handle::new("net.x", [(cidr, 1)].into());
    let blocks = [block];
    assert_eq!(repair::handle_step(&stored(right.clone()), &blocks), None);
    let high = Handle::new("net.x", [(cidr, 3), (net("10.0.0.8/29"), 1)].into());
    let Some(StoreCall::Swap(Object::Handle(mended), _)) =
        repair::handle_step(&stored(high), &blocks)
    else {
        panic!("no swap");
    };
    assert_eq!(mended, right);
    let orphan = Handle::new("net.gone", [(cidr, 1)].into());
    let Some(StoreCall::Swap(Object::Handle(gone), _)) =
        repair::handle_step(&stored(orphan), &blocks)
    else {
        panic!("no swap");
    };
    assert!(gone.deleted);
    let removed = repair::handle_step(&stored(gone), &blocks);
    assert!(
        matches!(removed, Some(StoreCall::Remove(..))),
        "{removed:?}"
    );
    let machine = Handle::new("net.vmi.d.vm", BTreeMap::new());
    assert_eq!(repair::handle_step(&stored(machine), &blocks), None);
}
