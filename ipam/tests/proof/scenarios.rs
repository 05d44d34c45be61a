//! Scenarios, one promise each.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use api::PoolUse;
use ipam::audit::{Finding, Leak};
use ipam::handle::TunnelKind;
use ipam::index::Event;
use ipam::memory::Fault;
use ipam::pool::Named;
use ipam::store::{Key, Object, StoreCall};
use ipam::tunnel::{self, Plan};
use ipam::{Addresses, AssignError, Config, Family, Input, Limit, Note, Path, Taken, Want};

use crate::sim::{Sim, is_handle, is_write, net, pool, taken};

fn one_pool() -> [ipam::pool::Pool; 1] {
    [pool("p", "10.65.0.0/16", 26)]
}

#[test]
fn first_address_of_a_node_costs_three_writes_and_no_read() {
    let mut sim = Sim::new(&["a"], &one_pool());
    let got = sim.get(0, "h").unwrap();
    assert_eq!(got.path, Path::Claim);
    assert_eq!((sim.address_writes(), sim.address_reads()), (3, 0));
    assert_eq!(sim.held().get(&got.address).map(String::as_str), Some("h"));
}

#[test]
fn address_on_a_node_with_a_block_costs_one_write_and_no_read() {
    let mut sim = Sim::new(&["a"], &one_pool());
    sim.get(0, "h1").unwrap();
    let before = (sim.address_writes(), sim.address_reads());
    let got = sim.get(0, "h2").unwrap();
    assert_eq!(got.path, Path::Own);
    assert_eq!(
        (
            sim.address_writes() - before.0,
            sim.address_reads() - before.1
        ),
        (1, 0)
    );
}

#[test]
fn a_burst_of_110_costs_at_most_four_writes() {
    let mut sim = Sim::new(&["a"], &[pool("p", "10.65.0.0/16", 25)]);
    sim.get(0, "first").unwrap();
    let before = sim.address_writes();
    let ids: Vec<_> = (0..110).map(|n| sim.ask(0, &format!("h{n}"))).collect();
    sim.run();
    let got: BTreeSet<_> = ids
        .iter()
        .map(|id| sim.assigned(0, *id).unwrap()[0].address)
        .collect();
    assert_eq!(got.len(), 110);
    let writes = sim.address_writes() - before;
    assert!(writes <= 4, "{writes} writes");
    let before = sim.address_writes();
    let ids: Vec<_> = (0..110)
        .map(|n| sim.give(0, &format!("h{n}"), Addresses::OfHandle))
        .collect();
    sim.run();
    for id in ids {
        assert_eq!(sim.released(0, id).unwrap().freed, 1);
    }
    assert!(sim.address_writes() - before <= 4);
    assert_eq!(sim.held().len(), 1);
}

#[test]
fn a_burst_on_an_empty_node_fills_the_blocks_it_claims() {
    let mut sim = Sim::new(&["a"], &one_pool());
    let ids: Vec<_> = (0..110).map(|n| sim.ask(0, &format!("h{n}"))).collect();
    sim.run();
    for id in ids {
        sim.assigned(0, id).unwrap();
    }
    assert_eq!(sim.store.blocks().count(), 2);
    assert!(sim.address_writes() <= 8, "{} writes", sim.address_writes());
}

#[test]
fn two_hundred_cold_starts_hardly_collide() {
    let names: Vec<String> = (0..200).map(|n| format!("node-{n:04}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut sim = Sim::new(&names, &one_pool());
    let ids: Vec<_> = (0..names.len()).map(|n| sim.ask(n, "h")).collect();
    sim.run();
    for (n, id) in ids.into_iter().enumerate() {
        sim.assigned(n, id).unwrap();
    }
    // At most 3.3 writes a node.
    let writes = sim.address_writes();
    assert!(writes * 10 <= names.len() * 33, "{writes} writes");
}

#[test]
fn both_families_or_none() {
    let mut sim = Sim::new(
        &["a"],
        &[
            pool("v4", "10.65.0.0/24", 26),
            pool("v6", "fd00::/121", 128),
        ],
    );
    sim.config.max_blocks = 1;
    sim.set_config(Config {
        strict: true,
        ..sim.config.clone()
    });
    let both = |sim: &Sim, handle: &str| {
        let mut request = sim.pod(0, handle);
        request.wants = vec![Want::any(Family::V4), Want::any(Family::V6)];
        request
    };
    let request = both(&sim, "h1");
    let id = sim.send(0, request);
    sim.run();
    let got = sim.assigned(0, id).unwrap();
    assert_eq!(got.len(), 2);
    assert!(got[0].address.is_ipv4() && got[1].address.is_ipv6());
    let request = both(&sim, "h2");
    let id = sim.send(0, request);
    sim.run();
    match sim.assigned(0, id).unwrap_err() {
        AssignError::Exhausted {
            family: Family::V6,
            limit: Limit::BlockCap(1),
            ..
        } => {}
        other => panic!("{other}"),
    }
    assert_eq!(sim.held().len(), 2, "the v4 address went back");
}

#[test]
fn exhaustion_names_pools_counts_and_the_limit() {
    let mut sim = Sim::new(&["a", "b"], &[pool("tiny", "10.0.0.0/30", 31)]);
    for n in 0..4 {
        sim.get(n % 2, &format!("h{n}")).unwrap();
    }
    let error = sim.get(0, "one too many").unwrap_err();
    assert!(matches!(
        &error,
        AssignError::Exhausted {
            limit: Limit::PoolExhausted,
            ..
        }
    ));
    let text = error.to_string();
    assert!(
        text.contains("tiny: 0 free blocks, 1 own blocks full"),
        "{text}"
    );
    assert!(text.contains("add a pool"), "{text}");
    assert_eq!(sim.held().len(), 4);
}

#[test]
fn a_full_node_borrows_from_the_roomiest_block() {
    let mut sim = Sim::new(&["a", "b"], &[pool("p", "10.0.0.0/29", 30)]);
    let owner = sim.get(1, "b0").unwrap();
    for n in 0..4 {
        sim.get(0, &format!("a{n}")).unwrap();
    }
    let borrowed = sim.get(0, "a4").unwrap();
    assert_eq!((borrowed.path, borrowed.block), (Path::Borrow, owner.block));
    assert!(
        sim.store.block(owner.block).unwrap().is_of("b"),
        "the owner stays"
    );
    assert_eq!(sim.free(0, "a4", borrowed).freed, 1);
}

#[test]
fn strict_affinity_toggled_forbids_and_allows_borrowing() {
    let mut sim = Sim::new(&["a", "b"], &[pool("p", "10.0.0.0/31", 31)]);
    sim.get(1, "b0").unwrap();
    let strict = |strict| Config {
        strict,
        cooldown: Duration::ZERO,
        ..Config::default()
    };
    sim.set_config(strict(true));
    let error = sim.get(0, "a0").unwrap_err();
    assert!(
        matches!(
            error,
            AssignError::Exhausted {
                limit: Limit::StrictAffinity,
                ..
            }
        ),
        "{error}"
    );
    sim.set_config(strict(false));
    assert_eq!(sim.get(0, "a0").unwrap().path, Path::Borrow);
}

#[test]
fn a_stale_sequence_releases_nothing() {
    let mut sim = Sim::new(&["a"], &[pool("p", "10.0.0.0/31", 31)]);
    let first = sim.get(0, "h").unwrap();
    sim.free(0, "h", first);
    sim.get(0, "filler").unwrap();
    let second = sim.get(0, "h").unwrap();
    assert_eq!(first.address, second.address);
    assert_eq!(sim.free(0, "h", first).not_ours, 1);
    assert_eq!(
        sim.held().get(&second.address).map(String::as_str),
        Some("h")
    );
    assert!(
        sim.nodes[0]
            .notes
            .iter()
            .any(|note| matches!(note, Note::NotOurs { .. }))
    );
}

#[test]
fn a_block_deleted_between_release_and_reuse_is_success() {
    let mut sim = Sim::new(&["a"], &one_pool());
    let got = sim.get(0, "h").unwrap();
    let mut other = pool("p", "10.65.0.0/16", 26);
    other.nodes = Some(api::Selector::parse("gone == 'yes'").unwrap());
    sim.free(0, "h", got);
    sim.set_pool(other);
    sim.run();
    assert_eq!(
        sim.store.blocks().count(),
        0,
        "an empty block of a pool that left the node is given up"
    );
    assert_eq!(sim.store.objects().count(), 0, "with everything about it");
    assert_eq!(sim.free(0, "h", got).already_free, 1);
}

#[test]
fn duplicates_in_one_release_free_once() {
    let mut sim = Sim::new(&["a"], &one_pool());
    let got = sim.get(0, "h").unwrap();
    let id = sim.give(0, "h", Addresses::Exactly(vec![taken(got), taken(got)]));
    sim.run();
    let done = sim.released(0, id).unwrap();
    assert_eq!((done.freed, done.already_free), (1, 1));
}

#[test]
fn a_release_over_many_blocks_is_one_answer() {
    let mut sim = Sim::new(&["a"], &[pool("p", "10.0.0.0/29", 31)]);
    let mut all = Vec::new();
    for n in 0..8 {
        all.push(sim.get(0, &format!("h{n}")).unwrap());
    }
    assert_eq!(sim.store.blocks().count(), 4);
    // One handle per address, so this one release names strangers' addresses too: they stay.
    let id = sim.give(
        0,
        "h3",
        Addresses::Exactly(all.iter().copied().map(taken).collect()),
    );
    sim.run();
    let done = sim.released(0, id).unwrap();
    assert_eq!((done.freed, done.not_ours), (1, 7));
}

#[test]
fn addresses_of_a_deleted_pool_can_still_be_released() {
    let mut sim = Sim::new(&["a"], &one_pool());
    let got = sim.get(0, "h").unwrap();
    sim.remove_pool("p");
    assert_eq!(sim.free(0, "h", got).freed, 1);
    let error = sim.get(0, "h2").unwrap_err();
    assert!(matches!(
        error,
        AssignError::Exhausted {
            limit: Limit::NoPool,
            ..
        }
    ));
}

#[test]
fn a_terminating_pool_loses_its_owner_and_keeps_live_addresses() {
    let mut sim = Sim::new(&["a"], &one_pool());
    let got = sim.get(0, "h").unwrap();
    let mut going = pool("p", "10.65.0.0/16", 26);
    going.terminating = true;
    sim.set_pool(going);
    sim.run();
    let block = sim.store.block(got.block).unwrap();
    assert_eq!(block.owner(), None);
    assert_eq!(block.of_handle("h").count(), 1);
    assert!(
        sim.store
            .objects()
            .all(|(key, _)| !matches!(key, Key::Affinity(..)))
    );
    assert_eq!(sim.free(0, "h", got).freed, 1, "and they can be given back");
}

#[test]
fn reservations_hide_addresses_and_whole_blocks() {
    let mut sim = Sim::new(&["a"], &[pool("p", "10.0.0.0/29", 30)]);
    sim.reserve(&["10.0.0.0/30", "10.0.0.5/32"]);
    let got: Vec<String> = (0..3)
        .map(|n| sim.get(0, &format!("h{n}")).unwrap().address.to_string())
        .collect();
    assert_eq!(got, ["10.0.0.4", "10.0.0.6", "10.0.0.7"]);
    assert!(sim.get(0, "h3").is_err());
    let mut request = sim.pod(0, "explicit");
    request.wants[0].address = Some("10.0.0.5".parse().unwrap());
    let id = sim.send(0, request);
    sim.run();
    assert_eq!(
        sim.assigned(0, id).unwrap()[0].address.to_string(),
        "10.0.0.5",
        "explicit requests are not held up"
    );
}

#[test]
fn selector_swaps_between_two_nodes_move_the_block() {
    let of = |node: &str| {
        let mut p = pool("p", "10.0.0.0/31", 31);
        p.nodes = Some(api::Selector::parse(&format!("name == '{node}'")).unwrap());
        p
    };
    let mut sim = Sim::new(&["a", "b"], &[of("a")]);
    for name in ["a", "b"] {
        let labels = [("name".to_owned(), name.to_owned())].into();
        sim.event_to_all(&Event::Node(Arc::from(name), Arc::new(labels)));
    }
    for (n, name) in [(0, "a"), (1, "b"), (0, "a")] {
        sim.set_pool(of(name));
        sim.run();
        let got = sim.get(n, "h").unwrap();
        assert!(sim.store.block(got.block).unwrap().is_of(name));
        assert!(sim.get(1 - n, "stranger").is_err());
        sim.free(n, "h", got);
    }
}

#[test]
fn allowed_uses_hold_for_automatic_and_named_pools() {
    let mut tunnels = pool("tunnels", "10.0.0.0/24", 26);
    tunnels.uses = vec![PoolUse::Tunnel];
    let mut sim = Sim::new(&["a"], &[tunnels]);
    assert!(matches!(
        sim.get(0, "h"),
        Err(AssignError::Exhausted {
            limit: Limit::NoPool,
            ..
        })
    ));
    let mut request = sim.pod(0, "named");
    request.wants[0].pools = vec![Named::parse("tunnels")];
    let id = sim.send(0, request.clone());
    sim.run();
    let text = sim.assigned(0, id).unwrap_err().to_string();
    assert!(
        text.contains(
            "pool tunnels was asked for by name but cannot be used: allowedUses lacks Workload"
        ),
        "{text}"
    );
    request.usage = PoolUse::Tunnel;
    let id = sim.send(0, request);
    sim.run();
    sim.assigned(0, id).unwrap();
}

#[test]
fn named_pools_are_used_in_their_order_and_one_bad_refuses() {
    let mut off = pool("off", "10.3.0.0/24", 26);
    off.disabled = true;
    let mut manual = pool("z-manual", "10.2.0.0/31", 31);
    manual.automatic = false;
    let mut sim = Sim::new(
        &["a"],
        &[
            pool("a-auto", "10.1.0.0/24", 26),
            manual,
            off,
            pool("six", "fd00::/64", 122),
        ],
    );
    let mut named = |handle: &str, names: &[&str]| {
        let mut request = sim.pod(0, handle);
        request.wants[0].pools = names.iter().map(|name| Named::parse(name)).collect();
        let id = sim.send(0, request);
        sim.run();
        sim.assigned(0, id).map(|got| got[0].address.to_string())
    };
    assert_eq!(named("h0", &["z-manual", "a-auto"]).unwrap(), "10.2.0.0");
    assert_eq!(
        named("h1", &["10.2.0.0/31"]).unwrap(),
        "10.2.0.1",
        "by CIDR"
    );
    assert!(
        named("h2", &["z-manual", "a-auto"])
            .unwrap()
            .starts_with("10.1.0."),
        "the first is full"
    );
    assert!(
        named("h3", &["a-auto", "off"])
            .unwrap_err()
            .to_string()
            .contains("disabled")
    );
    assert!(
        named("h4", &["six"])
            .unwrap_err()
            .to_string()
            .contains("other address family")
    );
    assert!(
        named("h5", &["nowhere"])
            .unwrap_err()
            .to_string()
            .contains("there is no pool nowhere")
    );
}

#[test]
fn of_overlapping_pools_only_the_first_serves() {
    let mut sim = Sim::new(
        &["a"],
        &[pool("a", "10.0.0.0/24", 26), pool("b", "10.0.0.0/16", 28)],
    );
    assert_eq!(sim.get(0, "h").unwrap().block.prefix_len(), 26);
    let mut request = sim.pod(0, "named");
    request.wants[0].pools = vec![Named::parse("b")];
    let id = sim.send(0, request);
    sim.run();
    assert!(
        sim.assigned(0, id)
            .unwrap_err()
            .to_string()
            .contains("overlaps pool a")
    );
}

#[test]
fn a_new_block_never_covers_one_of_another_size() {
    let mut old = pool("old", "10.0.0.0/26", 28);
    let mut sim = Sim::new(&["a", "b"], &[old.clone()]);
    let first = sim.get(0, "h").unwrap();
    old.disabled = true;
    sim.set_pool(old);
    sim.set_pool(pool("new", "10.0.0.0/25", 26));
    let second = sim.get(1, "g").unwrap();
    assert_eq!(
        second.block,
        net("10.0.0.64/26"),
        "10.0.0.0/26 covers {}",
        first.block
    );
}

#[test]
fn an_explicit_address_is_given_refused_and_taken_over() {
    let mut sim = Sim::new(&["a", "b"], &one_pool());
    let explicit = |sim: &mut Sim, n: usize, handle: &str, supersedes: &[&str]| {
        let mut request = sim.pod(n, handle);
        request.wants[0].address = Some("10.65.3.7".parse().unwrap());
        request.supersedes = supersedes.iter().map(|s| (*s).to_owned()).collect();
        let id = sim.send(n, request);
        sim.run();
        sim.assigned(n, id).map(|got| got[0])
    };
    let got = explicit(&mut sim, 0, "old", &[]).unwrap();
    assert_eq!((got.path, got.ordinal), (Path::Claim, 7));
    assert_eq!(
        explicit(&mut sim, 0, "old", &[]).unwrap().sequence,
        got.sequence,
        "same handle: same answer"
    );
    let text = explicit(&mut sim, 1, "other", &[]).unwrap_err().to_string();
    assert!(
        text.contains("10.65.3.7 is held by pod default/old on a"),
        "{text}"
    );
    let over = explicit(&mut sim, 0, "new", &["old"]).unwrap();
    assert_eq!(over.address, got.address);
    assert_eq!(
        sim.held().get(&got.address).map(String::as_str),
        Some("new")
    );
    assert_eq!(
        sim.free(0, "old", got).not_ours,
        1,
        "the dead sandbox's release hits nobody"
    );
    let mut outside = sim.pod(0, "x");
    outside.wants[0].address = Some("192.0.2.1".parse().unwrap());
    let id = sim.send(0, outside);
    sim.run();
    assert!(
        sim.assigned(0, id)
            .unwrap_err()
            .to_string()
            .contains("no pool holds")
    );
}

#[test]
fn an_explicit_address_in_a_strangers_block_is_strict() {
    let mut sim = Sim::new(&["a", "b"], &one_pool());
    let got = sim.get(0, "h").unwrap();
    let next = sim.store.block(got.block).unwrap().address(5).unwrap();
    sim.set_config(Config {
        strict: true,
        cooldown: Duration::ZERO,
        ..Config::default()
    });
    let mut request = sim.pod(1, "g");
    request.wants[0].address = Some(next);
    let id = sim.send(1, request);
    sim.run();
    let text = sim.assigned(1, id).unwrap_err().to_string();
    assert!(text.contains("lies in the block of node a"), "{text}");
}

#[test]
fn a_resting_address_is_not_given_out_before_its_time() {
    let mut sim = Sim::new(&["a"], &[pool("p", "10.0.0.0/31", 31)]);
    sim.set_config(Config {
        cooldown: Duration::from_secs(30),
        ..Config::default()
    });
    let first = sim.get(0, "h0").unwrap();
    sim.free(0, "h0", first);
    sim.get(0, "h1").unwrap();
    let text = sim.get(0, "h2").unwrap_err().to_string();
    assert!(text.contains("1 resting"), "{text}");
    sim.run_for(Duration::from_secs(30));
    assert_eq!(sim.get(0, "h3").unwrap().address, first.address);
}

#[test]
fn a_server_without_released_at_turns_resting_off() {
    let mut sim = Sim::new(&["a"], &[pool("p", "10.0.0.0/31", 31)]);
    sim.store.prune_released();
    sim.set_config(Config {
        cooldown: Duration::from_secs(30),
        ..Config::default()
    });
    let first = sim.get(0, "h0").unwrap();
    assert_eq!(sim.free(0, "h0", first).freed, 1);
    assert!(sim.nodes[0].notes.contains(&Note::CooldownUnsupported));
    assert!(sim.held().is_empty(), "the bare entry is freed at once");
    sim.get(0, "h1").unwrap();
    sim.get(0, "h2").unwrap();
}

#[test]
fn the_same_handle_has_one_address() {
    let mut sim = Sim::new(&["a"], &one_pool());
    let first = sim.get(0, "h").unwrap();
    let again = sim.get(0, "h").unwrap();
    assert_eq!(
        (first.address, first.sequence),
        (again.address, again.sequence)
    );
    assert_eq!(sim.held().len(), 1);
}

#[test]
fn an_add_that_follows_a_queued_del_of_its_handle_gets_a_fresh_address() {
    let mut sim = Sim::new(&["a"], &one_pool());
    let first = sim.get(0, "h").unwrap();
    let del = sim.give(0, "h", Addresses::OfHandle);
    let add = sim.ask(0, "h");
    sim.run();
    assert_eq!(sim.released(0, del).unwrap().freed, 1);
    let second = sim.assigned(0, add).unwrap()[0];
    assert_ne!(
        (first.address, first.sequence),
        (second.address, second.sequence)
    );
    assert_eq!(sim.held().len(), 1);
}

#[test]
fn a_release_by_handle_waits_for_the_add_it_follows() {
    for turns in 0..3 {
        let mut sim = Sim::new(&["a"], &one_pool());
        let add = sim.ask(0, "h");
        for _ in 0..turns {
            sim.turn(0, Fault::None);
        }
        let del = sim.give(0, "h", Addresses::OfHandle);
        sim.run();
        assert_eq!(
            sim.assigned(0, add),
            Err(AssignError::Cancelled),
            "after {turns} calls"
        );
        sim.released(0, del).unwrap();
        assert!(sim.held().is_empty(), "after {turns} calls");
    }
}

#[test]
fn a_withdrawn_request_keeps_nothing_whenever_it_is_withdrawn() {
    for turns in 0..4 {
        let mut sim = Sim::new(&["a"], &one_pool());
        let id = sim.ask(0, "h");
        for _ in 0..turns {
            if !sim.nodes[0].calls.is_empty() {
                sim.turn(0, Fault::None);
            }
        }
        sim.feed(0, Input::Cancel(id));
        sim.run();
        if turns < 3 {
            assert_eq!(
                sim.assigned(0, id),
                Err(AssignError::Cancelled),
                "after {turns} calls"
            );
            assert!(sim.held().is_empty(), "after {turns} calls");
        }
        assert!(sim.nodes[0].alloc.is_idle());
    }
}

#[test]
fn very_long_node_names_claim_and_release() {
    let name = "n".repeat(253);
    let mut sim = Sim::new(&[&name], &one_pool());
    let got = sim.get(0, "h").unwrap();
    assert_eq!(sim.free(0, "h", got).freed, 1);
}

#[test]
fn single_address_blocks_and_blocks_of_4096_work() {
    let mut sim = Sim::new(&["a"], &[pool("one", "10.0.0.0/30", 32)]);
    for n in 0..4 {
        sim.get(0, &format!("h{n}")).unwrap();
    }
    assert!(sim.get(0, "h4").is_err());
    let mut sim = Sim::new(&["a"], &[pool("big", "10.0.0.0/20", 20)]);
    let ids: Vec<_> = (0..300).map(|n| sim.ask(0, &format!("h{n}"))).collect();
    sim.run();
    for id in ids {
        sim.assigned(0, id).unwrap();
    }
    assert_eq!(sim.store.blocks().count(), 1);
}

#[test]
fn sixty_four_blocks_are_claimed_and_given_up() {
    let mut sim = Sim::new(&["a"], &[pool("p", "10.0.0.0/26", 32)]);
    sim.set_config(Config {
        max_blocks: 64,
        cooldown: Duration::ZERO,
        ..Config::default()
    });
    let ids: Vec<_> = (0..64).map(|n| sim.ask(0, &format!("h{n}"))).collect();
    sim.run();
    let got: Vec<_> = ids
        .iter()
        .map(|id| sim.assigned(0, *id).unwrap()[0])
        .collect();
    assert_eq!(sim.store.blocks().count(), 64);
    for (n, assigned) in got.into_iter().enumerate() {
        sim.free(0, &format!("h{n}"), assigned);
    }
    sim.run_for(Duration::from_hours(1));
    assert_eq!(
        sim.store.blocks().count(),
        1,
        "the node keeps its last block"
    );
    assert_eq!(sim.audit(Vec::new()), []);
}

#[test]
fn the_block_cap_counts_claims_under_way() {
    let mut sim = Sim::new(&["a"], &[pool("p", "10.0.0.0/24", 32)]);
    sim.set_config(Config {
        max_blocks: 3,
        strict: true,
        ..sim.config.clone()
    });
    let ids: Vec<_> = (0..5).map(|n| sim.ask(0, &format!("h{n}"))).collect();
    sim.run();
    let got = ids
        .iter()
        .filter(|id| sim.assigned(0, **id).is_ok())
        .count();
    assert_eq!((got, sim.store.blocks().count()), (3, 3));
}

#[test]
fn handle_objects_follow_within_a_second_and_leave_with_the_address() {
    let mut sim = Sim::new(&["a"], &one_pool());
    let got = sim.get(0, "Net.ABC").unwrap();
    sim.run_for(Duration::from_secs(1));
    match sim
        .store
        .get(&Key::Handle(Arc::from("Net.ABC")))
        .map(|stored| &stored.value)
    {
        Some(Object::Handle(handle)) => {
            assert_eq!(handle.name(), "net.abc");
            assert_eq!(handle.blocks.get(&got.block), Some(&1));
        }
        other => panic!("{other:?}"),
    }
    sim.free(0, "Net.ABC", got);
    sim.run_for(Duration::from_secs(1));
    assert_eq!(sim.store.get(&Key::Handle(Arc::from("Net.ABC"))), None);
    let handle_calls = sim
        .calls_done
        .iter()
        .filter(|(_, call)| is_handle(call))
        .count();
    assert_eq!(handle_calls, 3, "create, soft delete, remove; no read");
}

#[test]
fn an_address_that_comes_and_goes_within_the_delay_needs_no_handle_object() {
    let mut sim = Sim::new(&["a"], &one_pool());
    let id = sim.ask(0, "h");
    sim.run_for(Duration::from_millis(1));
    let got = sim.assigned(0, id).unwrap()[0];
    let id = sim.give(0, "h", Addresses::Exactly(vec![taken(got)]));
    sim.run();
    sim.released(0, id).unwrap();
    assert!(!sim.calls_done.iter().any(|(_, call)| is_handle(call)));
}

#[test]
fn a_conflict_is_read_and_decided_anew() {
    let mut sim = Sim::new(&["a"], &one_pool());
    sim.get(0, "h0").unwrap();
    let id = sim.ask(0, "h1");
    sim.turn(0, Fault::Conflict);
    sim.run();
    sim.assigned(0, id).unwrap();
    assert_eq!(sim.held().len(), 2);
}

#[test]
fn a_block_that_keeps_changing_is_left_for_another() {
    let mut sim = Sim::new(&["a"], &one_pool());
    let first = sim.get(0, "h0").unwrap();
    let id = sim.ask(0, "h1");
    let mut conflicts = 0;
    for _ in 0..200 {
        sim.now = sim.now.plus(Duration::from_millis(500));
        sim.feed(0, Input::Tick);
        if sim.nodes[0].calls.is_empty() {
            continue;
        }
        let swap = matches!(&sim.nodes[0].calls[0].call, StoreCall::Swap(Object::Block(b), _) if b.cidr() == first.block);
        conflicts += usize::from(swap);
        sim.turn(0, if swap { Fault::Conflict } else { Fault::None });
    }
    let got = sim.assigned(0, id).unwrap()[0];
    assert_ne!(got.block, first.block);
    assert_eq!(conflicts, 8);
}

#[test]
fn a_refusing_server_is_named_and_nothing_is_kept() {
    let mut sim = Sim::new(&["a"], &one_pool());
    let id = sim.ask(0, "h");
    while !sim.nodes[0].calls.is_empty() {
        sim.turn(0, Fault::Denied);
    }
    sim.feed(0, Input::Tick);
    let error = sim.assigned(0, id).unwrap_err();
    assert!(
        matches!(&error, AssignError::Denied(why) if why == "on command"),
        "{error}"
    );
    assert!(!error.retryable());
}

#[test]
fn a_silent_server_fails_the_request_as_retryable() {
    let mut sim = Sim::new(&["a"], &one_pool());
    sim.get(0, "h0").unwrap();
    let id = sim.ask(0, "h1");
    for _ in 0..50 {
        sim.now = sim.now.plus(Duration::from_millis(100));
        sim.feed(0, Input::Tick);
        while !sim.nodes[0].calls.is_empty() {
            sim.turn(0, Fault::UnknownNotDone);
        }
    }
    let error = sim.assigned(0, id).unwrap_err();
    assert!(
        matches!(error, AssignError::Unreachable(_)) && error.retryable(),
        "{error}"
    );
    sim.run_for(Duration::from_mins(1));
    assert_eq!(sim.held().len(), 1);
    assert!(sim.nodes[0].alloc.is_idle());
}

#[test]
fn nothing_is_answered_before_every_kind_has_listed() {
    let mut alloc = ipam::Allocator::new("a", ipam::Settings::default());
    let sim = Sim::new(&["a"], &one_pool());
    let out = alloc.handle(Input::Assign(ipam::RequestId(1), sim.pod(0, "h")), sim.now);
    assert_eq!(
        out,
        [ipam::Output::Answer(
            ipam::RequestId(1),
            ipam::Answer::Assign(Err(AssignError::NotSynced))
        )]
    );
}

#[test]
fn tunnel_addresses_come_stay_and_go_with_the_encapsulation() {
    let mut sim = Sim::new(&["a"], &one_pool());
    assert_eq!(
        tunnel::plan(sim.nodes[0].alloc.index(), TunnelKind::Vxlan),
        Plan::Nothing
    );
    let mut vxlan = pool("p", "10.65.0.0/16", 26);
    vxlan.vxlan = true;
    sim.set_pool(vxlan.clone());
    let Plan::Take(None, request) = tunnel::plan(sim.nodes[0].alloc.index(), TunnelKind::Vxlan)
    else {
        panic!("an address is wanted");
    };
    let id = sim.send(0, *request);
    sim.run();
    let got = sim.assigned(0, id).unwrap()[0];
    sim.boot(0);
    match tunnel::plan(sim.nodes[0].alloc.index(), TunnelKind::Vxlan) {
        Plan::Keep(held) => assert_eq!(held.address, got.address),
        other => panic!("{other:?}"),
    }
    assert_eq!(
        tunnel::plan(sim.nodes[0].alloc.index(), TunnelKind::VxlanV6),
        Plan::Nothing
    );
    vxlan.vxlan = false;
    sim.set_pool(vxlan);
    match tunnel::plan(sim.nodes[0].alloc.index(), TunnelKind::Vxlan) {
        Plan::Release(release) => {
            let exactly = Taken {
                block: got.block,
                ordinal: got.ordinal,
                sequence: got.sequence,
            };
            assert_eq!(release.addresses, Addresses::Exactly(vec![exactly]));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_audit_finds_a_leak_and_what_must_not_be_touched() {
    let mut sim = Sim::new(&["a"], &one_pool());
    let leaked = sim.get(0, "leaked").unwrap();
    sim.get(0, "alive").unwrap();
    let mut bare = sim.pod(0, "bare");
    bare.attributes.clear();
    let id = sim.send(0, bare);
    sim.run();
    sim.assigned(0, id).unwrap();
    let alive = ipam::audit::Pod {
        namespace: "default".to_owned(),
        name: "alive".to_owned(),
        node: "a".to_owned(),
        addresses: Vec::new(),
        finished: false,
        host_network: false,
    };
    assert_eq!(
        sim.audit(vec![alive]),
        [Finding::Leaked(
            leaked.address,
            "leaked".to_owned(),
            Leak::PodGone
        )]
    );
}

#[test]
fn a_far_block_is_read_before_it_is_written() {
    let mut sim = Sim::new(&["a", "b"], &[pool("p", "10.0.0.0/31", 31)]);
    sim.get(0, "h").unwrap();
    let before = sim.calls_done.len();
    sim.get(1, "g").unwrap();
    let calls: Vec<_> = sim.calls_done[before..]
        .iter()
        .filter(|(node, call)| node == "b" && !is_handle(call))
        .collect();
    assert_eq!(calls.len(), 2);
    assert!(!is_write(&calls[0].1) && is_write(&calls[1].1));
}
