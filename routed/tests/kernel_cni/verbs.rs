//! What a runtime sees, and what stands in the kernel after it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use routed::args::{LogArgs, LogFormat};
use serde_json::{Value, json};
use tokio::task::spawn_blocking;

use crate::echo::{Echo, probe, reaches};
use crate::exec::{Call, Sandbox, at_home, plugin, run, try_run};
use crate::node::{Node, Pool, uplink};

/// A node, and how to call its plugin.
pub(crate) struct Bed {
    pub(crate) node: Node,
    pub(crate) plugin: PathBuf,
    pub(crate) directory: tempfile::TempDir,
    log: routed::log::LogFilter,
}

impl Bed {
    pub(crate) async fn start() -> Option<Self> {
        if !at_home() {
            return None;
        }
        uplink();
        let log = routed::log::init(&LogArgs {
            log: "warn".into(),
            log_format: LogFormat::Text,
        });
        let directory = tempfile::tempdir().unwrap();
        let node = Node::start(directory.path(), Arc::default(), log.clone()).await;
        Some(Self {
            node,
            plugin: plugin(),
            directory,
            log,
        })
    }

    /// The daemon ends and another begins on the same node.
    pub(crate) async fn restart(self) -> Self {
        let pool: Arc<Pool> = Arc::clone(&self.node.pool);
        self.node.stop().await;
        let node = Node::start(self.directory.path(), pool, self.log.clone()).await;
        Self { node, ..self }
    }

    pub(crate) async fn call(
        &self,
        verb: &'static str,
        sandbox: &Sandbox,
        conf: String,
    ) -> (u64, Value, Duration) {
        let (plugin, id, netns) = (
            self.plugin.clone(),
            format!("id-{}", sandbox.name),
            sandbox.path(),
        );
        let args = format!(
            "K8S_POD_NAMESPACE=shop;K8S_POD_NAME={};K8S_POD_UID=uid-{}",
            sandbox.name, sandbox.name
        );
        spawn_blocking(move || {
            Call {
                plugin: &plugin,
                verb,
                id: &id,
                netns,
                args,
                conf,
            }
            .exec()
        })
        .await
        .unwrap()
    }

    /// A pod with its sandbox, attached.
    pub(crate) async fn pod(&self, name: &str) -> (Sandbox, Value) {
        self.node.add_pod(name).await;
        let sandbox = Sandbox::new(name);
        let (code, result, _) = self.call("ADD", &sandbox, self.node.conf()).await;
        assert_eq!(code, 0, "{result}");
        (sandbox, result)
    }

    pub(crate) async fn delete(&self, sandbox: &Sandbox) {
        let (code, result, _) = self.call("DEL", sandbox, self.node.conf()).await;
        assert_eq!(code, 0, "{result}");
    }
}

/// Link and address go behind the answer of a DEL: waits until they have, or until `left` addresses are held.
pub(crate) async fn until_gone(pool: &Pool, left: usize) {
    let limit = Instant::now() + Duration::from_secs(10);
    while Instant::now() < limit && !(pool.held() == left && (left > 0 || workloads().is_empty())) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(pool.held(), left);
    if left == 0 {
        assert_eq!(workloads(), "");
    }
}

fn workloads() -> String {
    let (_, links) = try_run("ip -o link show type veth");
    links
        .lines()
        .filter(|line| line.contains("cali"))
        .collect::<Vec<_>>()
        .join("\n")
}

/// Index and name of every link, and all routes. States are left out: the kernel announces a carrier late.
fn plumbing() -> (Vec<String>, String) {
    let links = run("ip -o link show type veth");
    let names = links
        .lines()
        .filter_map(|line| line.split('<').next().map(str::to_owned))
        .collect();
    (names, run("ip route"))
}

fn address(result: &Value) -> String {
    result["ips"][0]["address"]
        .as_str()
        .unwrap()
        .trim_end_matches("/32")
        .to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_is_reachable_when_add_returns_and_nothing_is_left_after_del() {
    let Some(bed) = Bed::start().await else {
        return;
    };
    let (web, result) = bed.pod("web").await;
    let (db, other) = bed.pod("db").await;
    let host = result["interfaces"][0]["name"].as_str().unwrap().to_owned();
    // No try again: what ADD promised holds for the first packet.
    let _web_answers = Echo::start(&web);
    let _db_answers = Echo::start(&db);
    assert!(reaches(None, &address(&result)), "node to pod");
    assert!(reaches(Some(&web), &address(&other)), "pod to pod");
    let inside = web.run("ip -j address show eth0");
    let inside: Value = serde_json::from_str(&inside).unwrap();
    assert_eq!(inside[0]["address"], result["interfaces"][1]["mac"]);
    assert_eq!(inside[0]["mtu"], result["interfaces"][1]["mtu"]);
    assert!(run(&format!("ip link show {host}")).contains("ee:ee:ee:ee:ee:ee"));
    assert!(run(&format!("ip -d link show {host}")).contains("margay shop/web id-web"));
    let route = run(&format!("ip route show {}", address(&result)));
    assert!(
        route.contains(&host) && route.contains("scope link"),
        "{route}"
    );
    for (sandbox, result) in [(&web, &result), (&db, &other)] {
        bed.delete(sandbox).await;
        assert_eq!(run(&format!("ip route show {}", address(result))), "");
        assert!(!reaches(None, &address(result)), "cut off with the answer");
        bed.delete(sandbox).await;
    }
    until_gone(&bed.node.pool, 0).await;
    assert_eq!(run("ip route show dev eth0 proto 80"), "");
    assert!(!web.try_run("ip link show eth0").0);
    bed.node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn check_is_quiet_after_add_and_sees_what_was_broken() {
    let Some(bed) = Bed::start().await else {
        return;
    };
    let (web, result) = bed.pod("web").await;
    let mut conf: Value = serde_json::from_str(&bed.node.conf()).unwrap();
    conf.as_object_mut()
        .unwrap()
        .insert("prevResult".into(), result);
    let check = |conf: Value| bed.call("CHECK", &web, conf.to_string());
    assert_eq!(check(conf.clone()).await.0, 0);
    for broken in [
        "ip route del 169.254.1.1",
        "ip address flush dev eth0",
        "ip link set eth0 down",
    ] {
        web.run(broken);
        let (code, answer, _) = check(conf.clone()).await;
        assert_eq!(code, 102, "{broken}: {answer}");
    }
    bed.delete(&web).await;
    bed.node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_sandboxes_are_refused_and_leave_nothing() {
    let Some(bed) = Bed::start().await else {
        return;
    };
    bed.node.add_pod("web").await;
    let conf = bed.node.conf();
    let args = "K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web".to_owned();
    for (netns, wanted) in [
        ("/run/netns/none", 3),
        ("/proc/self/ns/net", 8),
        ("/proc/self/ns/uts", 4),
        ("/etc/hostname", 4),
    ] {
        let (plugin, conf, args) = (bed.plugin.clone(), conf.clone(), args.clone());
        let call = move || {
            Call {
                plugin: &plugin,
                verb: "ADD",
                id: "bad",
                netns: netns.into(),
                args,
                conf,
            }
            .exec()
        };
        let (code, answer, _) = spawn_blocking(call).await.unwrap();
        assert_eq!(code, wanted, "{netns}: {answer}");
    }
    let taken = Sandbox::new("web");
    taken.run("ip link add eth0 type veth peer name other");
    let (code, answer, _) = bed.call("ADD", &taken, conf).await;
    assert_eq!(code, 101, "{answer}");
    assert!(answer["msg"].as_str().unwrap().contains("eth0"), "{answer}");
    assert_eq!(workloads(), "");
    assert_eq!(bed.node.pool.held(), 0);
    bed.node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_next_daemon_adopts_what_stands_and_no_packet_is_lost() {
    let Some(bed) = Bed::start().await else {
        return;
    };
    let (web, _) = bed.pod("web").await;
    let (db, other) = bed.pod("db").await;
    let before = plumbing();
    let answers = Echo::start(&db);
    let (path, target) = (web.path(), address(&other));
    let flow = spawn_blocking(move || probe(&path, &target, 200, Duration::from_millis(10)));
    let bed = bed.restart().await;
    for name in ["web", "db"] {
        bed.node.add_pod(name).await;
    }
    assert_eq!(flow.await.unwrap(), 200, "every packet was answered");
    assert_eq!(plumbing(), before);
    assert!(reaches(None, &address(&other)));
    drop(answers);
    assert_eq!(bed.node.cni.metrics.snapshot().adopted, 2);
    // A sandbox that vanished while no daemon ran is given up by the next.
    drop(web);
    let bed = bed.restart().await;
    until_gone(&bed.node.pool, 1).await;
    bed.delete(&db).await;
    until_gone(&bed.node.pool, 0).await;
    bed.node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plugin_killed_mid_call_leaves_nothing() {
    let Some(bed) = Bed::start().await else {
        return;
    };
    bed.node.add_pod("web").await;
    let web = Sandbox::new("web");
    for millis in [0_u64, 1, 2, 3, 5, 8, 13] {
        let (plugin, conf, netns) = (bed.plugin.clone(), bed.node.conf(), web.path());
        spawn_blocking(move || {
            use std::io::Write;
            let mut child = std::process::Command::new(plugin)
                .env_clear()
                .env("CNI_COMMAND", "ADD")
                .env("CNI_CONTAINERID", "killed")
                .env("CNI_NETNS", netns)
                .env("CNI_IFNAME", "eth0")
                .env("CNI_ARGS", "K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web")
                .stdin(std::process::Stdio::piped())
                .stdout(std::process::Stdio::null())
                .stderr(std::process::Stdio::null())
                .spawn()
                .unwrap();
            child
                .stdin
                .take()
                .unwrap()
                .write_all(conf.as_bytes())
                .unwrap();
            std::thread::sleep(Duration::from_millis(millis));
            child.kill().unwrap();
            child.wait().unwrap();
        })
        .await
        .unwrap();
        let before = Instant::now();
        while bed.node.cni.metrics.snapshot().inflight > 0
            && before.elapsed() < Duration::from_secs(5)
        {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        // An ADD that was quicker than the kill has been answered, and then it stands: the runtime's DEL follows.
        let (plugin, conf, netns) = (bed.plugin.clone(), bed.node.conf(), web.path());
        let call = move || {
            Call {
                plugin: &plugin,
                verb: "DEL",
                id: "killed",
                netns,
                args: String::new(),
                conf,
            }
            .exec()
        };
        assert_eq!(spawn_blocking(call).await.unwrap().0, 0);
        println!("killed after {millis} ms");
        until_gone(&bed.node.pool, 0).await;
    }
    bed.node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_and_ten_pods_come_and_go_at_once() {
    const PODS: usize = 110;
    let Some(bed) = Bed::start().await else {
        return;
    };
    let sandboxes: Vec<_> = (0..PODS)
        .map(|number| Sandbox::new(&format!("p{number}")))
        .collect();
    for sandbox in &sandboxes {
        bed.node.add_pod(&sandbox.name).await;
    }
    let all = |verb: &'static str| {
        let calls = sandboxes
            .iter()
            .map(|sandbox| bed.call(verb, sandbox, bed.node.conf()));
        futures::future::join_all(calls)
    };
    let before = Instant::now();
    let added = all("ADD").await;
    let adding = before.elapsed();
    let failed: Vec<_> = added.iter().filter(|(code, _, _)| *code != 0).collect();
    assert!(failed.is_empty(), "{failed:?}");
    let addresses: std::collections::BTreeSet<_> =
        added.iter().map(|(_, result, _)| address(result)).collect();
    assert_eq!(addresses.len(), PODS);
    let before = Instant::now();
    let deleted = all("DEL").await;
    let deleting = before.elapsed();
    assert!(deleted.iter().all(|(code, _, _)| *code == 0));
    until_gone(&bed.node.pool, 0).await;
    let gone = before.elapsed();
    println!("{PODS} pods at once: added in {adding:?}, cut off in {deleting:?}, gone in {gone:?}");
    bed.node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn status_and_del_are_kind_while_the_daemon_is_away() {
    let Some(bed) = Bed::start().await else {
        return;
    };
    let (web, _) = bed.pod("web").await;
    let conf = bed.node.conf();
    // The first heartbeat comes with sync, the next ones every few seconds.
    tokio::time::sleep(Duration::from_millis(200)).await;
    let pool = Arc::clone(&bed.node.pool);
    let Bed {
        node,
        plugin,
        directory,
        log,
    } = bed;
    node.stop().await;
    let call = |verb: &'static str, conf: String| {
        let (plugin, netns) = (plugin.clone(), web.path());
        let args = "K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web".to_owned();
        spawn_blocking(move || {
            Call {
                plugin: &plugin,
                verb,
                id: "id-web",
                netns,
                args,
                conf,
            }
            .exec()
        })
    };
    assert_eq!(
        call("STATUS", conf.clone()).await.unwrap().0,
        0,
        "an upgrade of a moment"
    );
    let (code, answer, took) = call("ADD", conf.clone()).await.unwrap();
    assert_eq!(code, 11, "{answer}");
    assert!(took < Duration::from_millis(2500));
    assert_eq!(call("DEL", conf).await.unwrap().0, 0);
    let node = Node::start(directory.path(), pool, log).await;
    for _ in 0..50 {
        if workloads().is_empty() && node.pool.held() == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!((workloads(), node.pool.held()), (String::new(), 0));
    assert_eq!(json!(node.cni.metrics.snapshot().rollbacks), json!(0));
    node.stop().await;
}
