//! Verbs called straight on the server.

use super::*;
use crate::cni::seams::Unplumbed;

#[tokio::test]
async fn add_answers_calicos_result_shape_after_policy_and_route() {
    let node = Node::start().await;
    let container = Container::pod("a").with("dns", json!({"nameservers": ["10.96.0.10"]}));
    let answer = node.run("ADD", &container).await.unwrap();
    let host = node.records()[0].host.to_string();
    assert_eq!(
        json(&answer),
        json!({
            "cniVersion": "1.1.0",
            "interfaces": [{"name": host}, {"name": "eth0", "mac": "02:00:00:00:00:07", "mtu": 1450, "sandbox": container.netns}],
            "ips": [{"address": "10.65.0.1/32", "interface": 1}],
            "routes": [{"dst": "10.65.0.1/32"}],
            "dns": {"nameservers": ["10.96.0.10"]},
        })
    );
    let state = node.fakes.state();
    assert!(
        state.links[&host].host.up,
        "the endpoint was programmed before the answer"
    );
    let (_, attributes) = &state.held["k8s-pod-network.a"];
    assert_eq!(attributes["pod"], "web-a");
    assert_eq!(attributes["namespace"], "shop");
    assert_eq!(attributes["node"], "n1");
}

#[tokio::test]
async fn del_leaves_nothing_and_succeeds_as_often_as_it_is_called() {
    let node = Node::start().await;
    let container = Container::pod("a");
    node.run("ADD", &container).await.unwrap();
    for _ in 0..5 {
        assert_eq!(node.code("DEL", &container).await, 0);
        node.assert_nothing_left();
    }
    assert_eq!(node.code("DEL", &Container::pod("never-added")).await, 0);
    node.assert_nothing_left();
}

type Turn = fn(&mut fakes::State);

fn fail(state: &mut fakes::State, why: Unplumbed) {
    state.attach_fails = Some(why);
}

fn annotate(state: &mut fakes::State, key: &str, value: &str) {
    state.annotations.insert(key.into(), value.into());
}

#[tokio::test]
async fn every_failing_step_of_add_leaves_nothing() {
    let table: [(u32, Turn); 12] = [
        (11, |state| state.in_sync = false),
        (11, |state| state.unknown_pods = true),
        (7, |state| state.host_network = true),
        (11, |state| state.mtu = 0),
        (11, |state| state.api_away = true),
        (103, |state| state.free = 0),
        (104, |state| {
            annotate(state, "cni.projectcalico.org/ipAddrs", "[\"x\"]");
        }),
        (104, |state| {
            annotate(state, "cni.projectcalico.org/ipv4pools", "pool");
        }),
        (3, |state| {
            fail(state, Unplumbed::SandboxGone("No such process".into()));
        }),
        (101, |state| {
            fail(state, Unplumbed::Exists("eth0 exists".into()));
        }),
        (100, |state| state.program_refused = true),
        (11, |state| state.program_takes = Duration::from_secs(5)),
    ];
    for (at, (code, turn)) in table.into_iter().enumerate() {
        let node = Node::start().await;
        turn(&mut node.fakes.state());
        let failure = node.run("ADD", &Container::pod("a")).await.unwrap_err();
        assert_eq!(failure.code.number(), code, "row {at}: {failure:?}");
        assert!(!failure.msg.is_empty());
        // With the API away nobody knows whether the claim landed, so its release is owed.
        node.fakes.state().api_away = false;
        node.server.pay_owed().await;
        node.assert_nothing_left();
    }
}

#[tokio::test]
async fn the_nodes_own_namespace_is_code_8_and_a_missing_one_code_3() {
    let directory = tempfile::tempdir().unwrap();
    let fakes = Fakes::new();
    let rooms = Rooms {
        addresses: Arc::<Fakes>::clone(&fakes),
        kernel: Arc::<Fakes>::clone(&fakes),
        cluster: Arc::<Fakes>::clone(&fakes),
    };
    let metrics = Arc::new(Metrics::default());
    let (journal, _) = Journal::open(&directory.path().join("journal"), "boot");
    let own = crate::cni::sandbox::own().unwrap();
    let server = Server::new(
        rooms,
        Book::new(journal, Arc::clone(&metrics)),
        metrics,
        own,
        directory.path().join("cni.sock"),
        None,
    );
    server.recover().await;
    let (trip, cancel) = Trip::new(Duration::from_secs(5));
    let container = Container::pod("a");
    let failure = server
        .serve(&container.call("ADD"), container.sandbox(), &trip, &cancel)
        .await
        .unwrap_err();
    assert_eq!(failure.code.number(), 8);
    let failure = server
        .serve(&container.call("ADD"), None, &trip, &cancel)
        .await
        .unwrap_err();
    assert_eq!(failure.code.number(), 3);
    fakes.assert_empty();
}

#[tokio::test]
async fn a_second_add_is_101_while_the_first_one_lives_and_starts_afresh_when_it_does_not() {
    let node = Node::start().await;
    let container = Container::pod("a");
    node.run("ADD", &container).await.unwrap();
    assert_eq!(node.code("ADD", &container).await, 101);
    assert_eq!(node.records().len(), 1);
    // The path now leads to another namespace: what was recorded is cleaned first.
    let reused = Container {
        kind: "uts",
        ..container
    };
    assert_eq!(node.code("ADD", &reused).await, 0);
    let records = node.records();
    assert_eq!(records.len(), 1);
    assert_eq!(node.code("DEL", &reused).await, 0);
    node.assert_nothing_left();
}

#[tokio::test]
async fn a_newer_sandbox_of_a_pod_takes_the_interface_and_the_older_keeps_its_address_until_its_del()
 {
    let node = Node::start().await;
    let older = Container::pod("a");
    let newer = Container {
        id: "b".into(),
        kind: "uts",
        ..older.clone()
    };
    node.run("ADD", &older).await.unwrap();
    node.run("ADD", &newer).await.unwrap();
    assert_eq!(node.fakes.state().links.len(), 1);
    assert_eq!(node.fakes.state().held.len(), 2);
    assert_eq!(node.code("DEL", &older).await, 0);
    assert_eq!(
        node.fakes.state().links.len(),
        1,
        "the newer sandbox keeps its interface"
    );
    assert_eq!(node.fakes.state().endpoints.len(), 1, "and its endpoint");
    assert_eq!(
        node.fakes
            .state()
            .held
            .keys()
            .map(ToString::to_string)
            .collect::<Vec<_>>(),
        ["k8s-pod-network.b"]
    );
    assert_eq!(node.code("DEL", &newer).await, 0);
    node.assert_nothing_left();
}

#[tokio::test]
async fn two_interfaces_of_a_pod_live_side_by_side() {
    let node = Node::start().await;
    let first = Container::pod("a");
    let second = Container {
        ifname: "net1".into(),
        ..first.clone()
    };
    node.run("ADD", &first).await.unwrap();
    node.run("ADD", &second).await.unwrap();
    assert_eq!(node.fakes.state().links.len(), 2);
    let attributes = node.fakes.state().held["k8s-pod-network.a.net1"].1.clone();
    assert_eq!(
        (attributes.get("pod"), attributes["margay.pod"].as_str()),
        (None, "web-a")
    );
    assert_eq!(node.code("DEL", &second).await, 0);
    assert_eq!(node.fakes.state().links.len(), 1);
    assert_eq!(node.code("DEL", &first).await, 0);
    node.assert_nothing_left();
}

#[tokio::test]
async fn without_kubernetes_arguments_labels_come_from_the_configuration() {
    let node = Node::start().await;
    node.fakes.state().unknown_pods = true;
    let container = Container::plain("0123456789abcdef").with(
        "args",
        json!({"cni": {"labels": [{"key": "app", "value": "db"}]}}),
    );
    node.run("ADD", &container).await.unwrap();
    let endpoint = node
        .fakes
        .state()
        .endpoints
        .values()
        .next()
        .unwrap()
        .clone();
    assert_eq!(endpoint.pod, None);
    assert_eq!(endpoint.labels["app"], "db");
    assert_eq!(&*endpoint.interface, "cali0123456789a");
    assert_eq!(node.code("DEL", &container).await, 0);
    node.assert_nothing_left();
}

#[tokio::test]
async fn a_pod_of_the_same_name_but_another_uid_is_never_used() {
    let node = Node::start().await;
    let container = Container {
        args: "K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-a;K8S_POD_UID=other".into(),
        ..Container::pod("a")
    };
    let failure = node.run("ADD", &container).await.unwrap_err();
    assert_eq!(failure.code.number(), 11);
    assert!(failure.details.contains("uid-a"), "{failure:?}");
    node.assert_nothing_left();
}

#[tokio::test]
async fn del_ends_a_running_add_and_waits_for_its_roll_back() {
    let node = Node::start().await;
    node.fakes.state().program_takes = Duration::from_secs(30);
    let container = Container::pod("a");
    let (_trip, add) = node.begin("ADD", &container);
    while node.fakes.state().programs == 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(node.code("DEL", &container).await, 0);
    node.assert_nothing_left();
    assert_eq!(add.await.unwrap().unwrap_err().code.number(), 11);
}

#[tokio::test]
async fn a_plugin_that_hangs_up_at_any_moment_leaves_nothing() {
    for slow in ["assign", "program"] {
        let node = Node::start().await;
        match slow {
            "assign" => node.fakes.state().assign_takes = Duration::from_millis(50),
            _ => node.fakes.state().program_takes = Duration::from_secs(30),
        }
        let (trip, add) = node.begin("ADD", &Container::pod("a"));
        tokio::time::sleep(Duration::from_millis(20)).await;
        trip.trip(Reason::HungUp);
        assert!(add.await.unwrap().is_err());
        node.assert_nothing_left();
    }
}

#[tokio::test]
async fn with_the_api_away_del_succeeds_and_the_release_is_paid_later() {
    let node = Node::start().await;
    let container = Container::pod("a");
    node.run("ADD", &container).await.unwrap();
    node.fakes.state().api_away = true;
    assert_eq!(node.code("DEL", &container).await, 0);
    assert_eq!(node.fakes.state().links.len(), 0);
    assert_eq!(node.records()[0].state, State::Owed);
    node.server.pay_owed().await;
    assert_eq!(node.records().len(), 1, "still away, still owed");
    assert_eq!(node.code("DEL", &container).await, 0, "again");
    node.fakes.state().api_away = false;
    node.server.pay_owed().await;
    node.assert_nothing_left();
}

#[tokio::test]
async fn del_answers_once_nothing_passes_and_the_same_container_waits_for_the_rest() {
    let node = Node::start().await;
    let container = Container::pod("a");
    node.run("ADD", &container).await.unwrap();
    let answer = node.answer("DEL", &container).await.unwrap();
    {
        let state = node.fakes.state();
        assert!(state.endpoints.is_empty(), "route and policy are out");
        assert_eq!(state.held.len(), 1, "the address goes behind the link");
    }
    assert_eq!(node.records()[0].state, State::Leaving);
    let (_trip, add) = node.begin("ADD", &container);
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert!(!add.is_finished(), "the turn is still the DEL's");
    node.server.finish(answer.leaving.unwrap()).await;
    add.await.unwrap().unwrap();
    assert_eq!(node.records().len(), 1);
    assert_eq!(node.code("DEL", &container).await, 0);
    node.assert_nothing_left();
}

#[tokio::test]
async fn a_daemon_that_dies_behind_the_answer_of_a_del_finishes_it_at_its_next_start() {
    let node = Node::start().await;
    let container = Container::pod("a");
    node.run("ADD", &container).await.unwrap();
    drop(node.answer("DEL", &container).await.unwrap());
    assert_eq!(node.fakes.state().links.len(), 1);
    let node = node.restart().await;
    node.assert_nothing_left();
}

#[tokio::test]
async fn a_link_that_cannot_be_deleted_keeps_its_address_and_is_tried_again() {
    let node = Node::start().await;
    let container = Container::pod("a");
    node.run("ADD", &container).await.unwrap();
    node.fakes.state().detach_fails = true;
    assert_eq!(
        node.code("DEL", &container).await,
        0,
        "nothing passes any more"
    );
    assert_eq!(
        node.fakes.state().held.len(),
        1,
        "the address stays with the link"
    );
    node.fakes.state().detach_fails = false;
    node.server.sweep().await;
    node.assert_nothing_left();
}

#[tokio::test]
async fn an_add_whose_record_cannot_be_written_is_code_5_and_del_still_works() {
    let node = Node::start().await;
    let container = Container::pod("a");
    node.run("ADD", &container).await.unwrap();
    // A directory in the journal's place: neither append nor rename can succeed any more.
    let journal = node.directory.path().join("journal.tmp");
    std::fs::create_dir(&journal).unwrap();
    std::fs::create_dir(journal.join("x")).unwrap();
    let node = node.restart().await;
    let failure = node.run("ADD", &Container::pod("b")).await.unwrap_err();
    assert_eq!(failure.code.number(), 5);
    assert!(failure.details.contains("journal"), "{failure:?}");
    assert_eq!(node.code("DEL", &container).await, 0);
    node.assert_nothing_left();
}

#[tokio::test]
async fn check_is_quiet_after_add_and_names_what_changed() {
    let node = Node::start().await;
    let container = Container::pod("a");
    let result = json(&node.run("ADD", &container).await.unwrap());
    let check = container.clone().with("prevResult", result);
    assert_eq!(node.code("CHECK", &check).await, 0);
    let host = node.records()[0].host.to_string();
    node.fakes.state().links.get_mut(&host).unwrap().host.up = false;
    let failure = node.run("CHECK", &check).await.unwrap_err();
    assert_eq!(failure.code.number(), 102);
    assert!(failure.details.contains("is down"), "{failure:?}");
    node.fakes.state().links.get_mut(&host).unwrap().host.up = true;
    node.fakes.state().held.clear();
    assert!(
        node.run("CHECK", &check)
            .await
            .unwrap_err()
            .details
            .contains("IPAM")
    );
}

#[tokio::test]
async fn gc_drops_only_what_is_not_listed_older_and_dead() {
    let node = Node::start().await;
    for (id, kind) in [("a", "net"), ("b", "uts"), ("c", "ipc")] {
        node.run(
            "ADD",
            &Container {
                kind,
                ..Container::pod(id)
            },
        )
        .await
        .unwrap();
    }
    let born = |second: u64| {
        for record in node.records() {
            node.server.book().note(&Record {
                since: second,
                ..record
            });
        }
    };
    let dead = node.records()[1].clone();
    node.fakes.state().links.remove(&*dead.host);
    let listed = json!([{"containerID": "a", "ifname": "eth0"}]);
    let call = Container::pod("").with("cni.dev/valid-attachments", listed);
    born(u64::MAX);
    assert_eq!(
        node.code("GC", &call).await,
        0,
        "all are younger than the request"
    );
    assert_eq!(node.records().len(), 3);
    born(1);
    let failure = node.run("GC", &call).await.unwrap_err();
    assert!(
        failure.details.contains("/c/eth0") && !failure.details.contains("/b/eth0"),
        "{failure:?}"
    );
    let left: Vec<_> = node
        .records()
        .into_iter()
        .map(|record| record.id.container_id.to_string())
        .collect();
    assert_eq!(left, ["a", "c"]);
    assert_eq!(node.fakes.state().held.len(), 2);
    let other = Container::pod("")
        .with("cni.dev/valid-attachments", json!([]))
        .with("name", json!("another-network"));
    assert_eq!(
        node.code("GC", &other).await,
        0,
        "other networks' attachments are not touched"
    );
}

#[tokio::test]
async fn the_sweep_collects_a_sandbox_that_vanished_without_a_del() {
    let node = Node::start().await;
    node.run("ADD", &Container::pod("a")).await.unwrap();
    node.run(
        "ADD",
        &Container {
            kind: "uts",
            ..Container::pod("b")
        },
    )
    .await
    .unwrap();
    node.server.sweep().await;
    assert_eq!(node.records().len(), 2);
    let host = node.records()[0].host.to_string();
    node.fakes.state().links.remove(&host);
    node.server.sweep().await;
    assert_eq!(node.records().len(), 1);
    assert_eq!(node.fakes.state().held.len(), 1);
    assert_eq!(node.server.metrics().snapshot().collected, 1);
}

#[tokio::test]
async fn status_follows_sync_and_spares_a_node_with_pods() {
    let node = Node::start().await;
    let status = Container::pod("");
    assert_eq!(node.code("STATUS", &status).await, 0);
    node.fakes.state().free = 0;
    assert_eq!(node.code("STATUS", &status).await, 50);
    node.fakes.state().free = 1;
    node.run("ADD", &Container::pod("a")).await.unwrap();
    assert_eq!(node.code("STATUS", &status).await, 0, "guarded");
    let strict = status.clone().with("status", json!("strict"));
    assert_eq!(node.code("STATUS", &strict).await, 50);
    node.fakes.state().in_sync = false;
    assert_eq!(node.code("STATUS", &status).await, 50);
}

#[tokio::test]
async fn sixty_at_once_are_all_served_and_all_gone_again() {
    let node = Node::start().await;
    let containers: Vec<_> = (0..60)
        .map(|number| Container::pod(&format!("c{number}")))
        .collect();
    let adds: Vec<_> = containers
        .iter()
        .map(|container| node.begin("ADD", container))
        .collect();
    for (_trip, add) in adds {
        add.await.unwrap().unwrap();
    }
    assert_eq!(node.fakes.state().held.len(), 60);
    assert!(node.fakes.state().most_at_once > 1, "they ran side by side");
    let dels: Vec<_> = containers
        .iter()
        .map(|container| node.begin("DEL", container))
        .collect();
    for (_trip, del) in dels {
        del.await.unwrap().unwrap();
    }
    node.assert_nothing_left();
}

#[tokio::test]
async fn policy_timeout_zero_answers_without_waiting() {
    let node = Node::start().await;
    node.fakes.state().program_takes = Duration::from_secs(30);
    let container = Container::pod("a").with("policy_setup_timeout_seconds", json!(0));
    assert_eq!(node.code("ADD", &container).await, 0);
}

#[tokio::test]
async fn version_needs_no_daemon_but_is_answered_all_the_same() {
    let node = Node::start().await;
    let answer = node
        .run(Verb::Version.as_str(), &Container::pod(""))
        .await
        .unwrap();
    assert_eq!(json(&answer)["supportedVersions"][0], "0.3.0");
}
