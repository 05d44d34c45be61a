//! The same through the socket, with the plugin's own client.

use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use cni_plugin::rpc::{CallError, Reply, call};
use tokio::sync::watch;

use super::*;
use crate::cni::socket::{accept, bind};

struct Daemon {
    node: Node,
    path: PathBuf,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

async fn daemon() -> Daemon {
    let node = Node::start().await;
    let path = node.directory.path().join("cni.sock");
    let listener = bind(&path).unwrap();
    let (stop, stopped) = watch::channel(false);
    let task = tokio::spawn(accept(Arc::clone(&node.server), listener, stopped, || ()));
    Daemon {
        node,
        path,
        stop,
        task,
    }
}

impl Daemon {
    async fn ask(&self, verb: &'static str, container: &Container) -> Result<Reply, CallError> {
        let (path, container) = (self.path.clone(), container.clone());
        tokio::task::spawn_blocking(move || {
            let sandbox = container.sandbox();
            call(
                &path,
                container.request(verb),
                sandbox.as_ref().map(AsFd::as_fd),
                Duration::from_secs(10),
            )
        })
        .await
        .unwrap()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_goes_all_the_way_and_the_socket_is_roots() {
    let daemon = daemon().await;
    assert_eq!(
        std::fs::metadata(&daemon.path)
            .unwrap()
            .permissions()
            .mode()
            & 0o777,
        0o600
    );
    let container = Container::pod("a");
    let stdout = daemon
        .ask("ADD", &container)
        .await
        .unwrap()
        .into_result()
        .unwrap();
    assert_eq!(
        serde_json::from_slice::<Value>(&stdout).unwrap()["ips"][0]["address"],
        "10.65.0.1/32"
    );
    assert_eq!(
        daemon.ask("DEL", &container).await.unwrap().into_result(),
        Ok(Vec::new())
    );
    // What no packet depends on is given back after the answer.
    for _ in 0..100 {
        if daemon.node.records().is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    daemon.node.assert_nothing_left();
    let snapshot = daemon.node.server.metrics().snapshot();
    assert_eq!(
        snapshot.requests,
        [((Verb::Add, 0), 1), ((Verb::Del, 0), 1)].into()
    );
    assert_eq!(snapshot.inflight, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_runtime_that_gives_up_finds_everything_undone() {
    let daemon = daemon().await;
    daemon.node.fakes.state().program_takes = Duration::from_secs(30);
    let path = daemon.path.clone();
    let gave_up = tokio::task::spawn_blocking(move || {
        let container = Container::pod("a").with("policy_setup_timeout_seconds", json!(30));
        call(
            &path,
            container.request("ADD"),
            container.sandbox().as_ref().map(AsFd::as_fd),
            Duration::from_millis(300),
        )
    });
    let told = gave_up.await.unwrap();
    assert!(!told.is_ok_and(|reply| reply.into_result().is_ok()));
    for _ in 0..100 {
        if daemon.node.records().is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    daemon.node.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rubbish_is_answered_with_code_6_or_closed_and_others_are_served_meanwhile() {
    use std::io::{Read, Write};
    let daemon = daemon().await;
    let silent = UnixStream::connect(&daemon.path).unwrap();
    for rubbish in [
        &b"\xff\xff\xff\xff"[..],
        b"\x00\x00\x00\x02\xff\xff",
        b"GET / HTTP/1.1\r\n\r\n",
    ] {
        let (path, rubbish) = (daemon.path.clone(), rubbish.to_vec());
        let answer = tokio::task::spawn_blocking(move || {
            let mut stream = UnixStream::connect(&path).unwrap();
            stream.write_all(&rubbish).unwrap();
            let mut bytes = Vec::new();
            let _ = stream.read_to_end(&mut bytes);
            bytes
        })
        .await
        .unwrap();
        let reply: Reply = cni_plugin::rpc::Decoder::default()
            .push(&answer)
            .unwrap()
            .unwrap();
        assert_eq!(reply.into_result().unwrap_err().code.number(), 6);
    }
    assert!(
        daemon
            .ask("ADD", &Container::pod("a"))
            .await
            .unwrap()
            .into_result()
            .is_ok()
    );
    drop(silent);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopping_daemon_undoes_what_it_holds_within_five_seconds() {
    let daemon = daemon().await;
    daemon.node.fakes.state().program_takes = Duration::from_mins(1);
    let path = daemon.path.clone();
    let add = tokio::task::spawn_blocking(move || {
        let container = Container::pod("a").with("policy_setup_timeout_seconds", json!(50));
        call(
            &path,
            container.request("ADD"),
            container.sandbox().as_ref().map(AsFd::as_fd),
            Duration::from_secs(20),
        )
    });
    while daemon.node.fakes.state().programs == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let before = tokio::time::Instant::now();
    daemon.stop.send_replace(true);
    daemon.task.await.unwrap();
    assert!(before.elapsed() < Duration::from_secs(5));
    assert_eq!(
        add.await
            .unwrap()
            .unwrap()
            .into_result()
            .unwrap_err()
            .code
            .number(),
        11
    );
    daemon.node.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_daemon_takes_the_socket_without_a_gap() {
    let daemon = daemon().await;
    let again = bind(&daemon.path).unwrap();
    let (_stop, stopped) = watch::channel(false);
    let task = tokio::spawn(accept(
        Arc::clone(&daemon.node.server),
        again,
        stopped,
        || (),
    ));
    assert!(
        daemon
            .ask("STATUS", &Container::pod(""))
            .await
            .unwrap()
            .into_result()
            .is_ok()
    );
    task.abort();
}
