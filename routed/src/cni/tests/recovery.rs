//! A daemon that ended at some moment, and the next one.

use std::collections::BTreeMap;

use cni_plugin::spool;

use super::*;
use crate::cni::journal::tests::record;
use crate::cni::record::{Claim, Place};

#[tokio::test]
async fn a_restart_hands_over_what_lives_before_anything_else() {
    let node = Node::start().await;
    node.run("ADD", &Container::pod("a")).await.unwrap();
    let before = node.fakes.state().endpoints.clone();
    let programs = node.fakes.state().programs;
    let node = node.restart().await;
    assert_eq!(node.fakes.state().endpoints, before);
    assert_eq!(
        node.fakes.state().programs,
        programs,
        "adoption programs nothing anew"
    );
    assert_eq!(node.server.metrics().snapshot().adopted, 1);
    assert_eq!(node.code("ADD", &Container::pod("a")).await, 101);
    assert_eq!(node.code("DEL", &Container::pod("a")).await, 0);
    node.assert_nothing_left();
}

#[tokio::test]
async fn an_add_killed_at_any_step_is_undone_at_start() {
    let stages: [(State, bool, bool); 4] = [
        (State::Intent, false, false),
        (State::Intent, true, false),
        (State::Intent, true, true),
        (State::Leaving, true, true),
    ];
    for (state, has_address, has_link) in stages {
        let node = Node::start().await;
        node.run("ADD", &Container::pod("a")).await.unwrap();
        let mut record = node.records()[0].clone();
        record.state = state;
        record.ifindex = 0;
        if !has_address {
            node.fakes.state().held.clear();
            record.claims.clear();
        }
        if !has_link {
            node.fakes.state().links.clear();
        }
        node.server.book().note(&record);
        let node = node.restart().await;
        node.assert_nothing_left();
    }
}

#[tokio::test]
async fn a_lost_journal_is_rebuilt_from_the_interfaces() {
    let node = Node::start().await;
    node.run("ADD", &Container::pod("a")).await.unwrap();
    let before = node.fakes.state().endpoints.clone();
    std::fs::remove_file(node.directory.path().join("journal")).unwrap();
    let node = node.restart().await;
    let after = node.fakes.state().endpoints.clone();
    assert_eq!(
        after.keys().collect::<Vec<_>>(),
        before.keys().collect::<Vec<_>>()
    );
    let record = node.records()[0].clone();
    assert!(
        record.claims[0].place.is_some(),
        "IPAM told where the address is written"
    );
    assert_eq!(node.code("DEL", &Container::pod("a")).await, 0);
    node.assert_nothing_left();
}

#[tokio::test]
async fn after_a_reboot_every_address_is_given_back() {
    for keeps_journal in [true, false] {
        let node = Node::start().await;
        node.run("ADD", &Container::pod("a")).await.unwrap();
        node.run(
            "ADD",
            &Container {
                kind: "uts",
                ..Container::plain("b")
            },
        )
        .await
        .unwrap();
        node.fakes.reboot();
        if !keeps_journal {
            std::fs::remove_file(node.directory.path().join("journal")).unwrap();
        }
        let node = node.restart_in_boot("another boot").await;
        node.server.pay_owed().await;
        node.assert_nothing_left();
    }
}

#[tokio::test]
async fn addresses_of_others_are_left_alone() {
    let node = Node::start().await;
    let place = Some(Place {
        block: "10.65.0.0/26".parse().unwrap(),
        ordinal: 9,
        sequence: 1,
    });
    let claim = Claim {
        address: "10.65.0.9".parse().unwrap(),
        place,
    };
    let hold = |handle: &str, attributes: &[(&str, &str)]| {
        let attributes: BTreeMap<_, _> = attributes
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect();
        node.fakes
            .state()
            .held
            .insert(handle.into(), (vec![claim.clone()], attributes));
    };
    hold(
        "vxlan-tunnel-addr-n1",
        &[("node", "n1"), ("type", "vxlanTunnelAddress")],
    );
    hold(
        "k8s-pod-network.elsewhere",
        &[("node", "n2"), ("pod", "web"), ("namespace", "shop")],
    );
    hold("margay-warm-n1", &[("node", "n1"), ("margay.warm", "true")]);
    let before = node.fakes.state().held.clone();
    let node = node.restart().await;
    assert_eq!(node.fakes.state().held, before);
}

#[tokio::test]
async fn a_pod_of_another_plugin_is_adopted_by_its_interface_and_its_address() {
    let node = Node::start().await;
    node.run("ADD", &Container::pod("a")).await.unwrap();
    std::fs::remove_file(node.directory.path().join("journal")).unwrap();
    for link in node.fakes.state().links.values_mut() {
        link.host.alias.clear();
    }
    let node = node.restart().await;
    assert_eq!(node.records().len(), 1);
    assert_eq!(node.fakes.state().held.len(), 1);
    assert_eq!(node.code("DEL", &Container::pod("a")).await, 0);
    node.assert_nothing_left();
}

#[tokio::test]
async fn a_spooled_del_is_done_at_start() {
    let node = Node::start().await;
    let container = Container::pod("a");
    node.run("ADD", &container).await.unwrap();
    spool::leave(
        &node.directory.path().join("cni.sock"),
        &container.request("DEL"),
    )
    .unwrap();
    let node = node.restart().await;
    node.assert_nothing_left();
    assert!(
        spool::collect(&node.directory.path().join("cni.sock"))
            .unwrap()
            .is_empty()
    );
}

#[tokio::test]
async fn a_sandbox_that_vanished_while_no_daemon_ran_is_collected_at_start() {
    let node = Node::start().await;
    node.run("ADD", &Container::pod("a")).await.unwrap();
    node.fakes.reboot();
    let node = node.restart().await;
    node.assert_nothing_left();
}

#[tokio::test]
async fn owed_and_replaced_records_survive_a_restart() {
    let node = Node::start().await;
    for (serial, state) in [(1, State::Owed), (2, State::Replaced)] {
        node.server.book().note(&record(serial, state));
    }
    let node = node.restart().await;
    let states: Vec<_> = node
        .records()
        .into_iter()
        .map(|record| record.state)
        .collect();
    assert_eq!(states, [State::Owed, State::Replaced]);
    node.server.pay_owed().await;
    assert_eq!(node.records().len(), 1);
}

#[tokio::test]
async fn a_sandbox_that_vanishes_right_after_recovery_does_not_keep_the_node_from_syncing() {
    let node = Node::start().await;
    node.run("ADD", &Container::pod("a")).await.unwrap();
    node.fakes.state().in_sync = false;
    node.fakes.forget_world();
    node.server.recover().await;
    assert_eq!(node.fakes.state().endpoints.len(), 1);
    node.fakes.state().links.clear();
    node.server.sweep().await;
    node.assert_nothing_left();
}

#[tokio::test]
async fn a_del_during_recovery_waits_until_the_world_was_told() {
    let node = Node::start().await;
    node.run("ADD", &Container::pod("a")).await.unwrap();
    let next = server(node.directory.path(), &node.fakes, "boot");
    node.fakes.forget_world();
    let node = Node {
        server: next,
        ..node
    };
    let (_trip, del) = node.begin("DEL", &Container::pod("a"));
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert!(!del.is_finished());
    node.server.recover().await;
    del.await.unwrap().unwrap();
    node.assert_nothing_left();
}

#[tokio::test]
async fn an_address_answered_before_its_entry_was_written_is_put_in_its_name_at_start() {
    let node = Node::start().await;
    let container = Container::pod("a");
    node.run("ADD", &container).await.unwrap();
    {
        let mut state = node.fakes.state();
        let (claims, _) = state.held.remove("k8s-pod-network.a").unwrap();
        let owner = [("node".to_owned(), "n1".to_owned())].into();
        state.held.insert("margay-warm-n1".into(), (claims, owner));
    }
    let node = node.restart().await;
    let (_, attributes) = node.fakes.state().held["k8s-pod-network.a"].clone();
    assert_eq!(
        (&*attributes["pod"], &*attributes["namespace"]),
        ("web-a", "shop")
    );
    node.fakes.state().held.remove("margay-warm-n1");
    assert_eq!(node.code("DEL", &container).await, 0);
    node.assert_nothing_left();
}
