//! Faults of one node: its daemon killed at any moment, away for long, its rules and chains flushed by others. Pods do not notice, a
//! policy never holds less than before, nothing leaks. One cluster; on n1 the daemon is in the scenario's hands.
#![expect(
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a scenario prints what it measured, and a failure ends it"
)]

use std::collections::BTreeSet;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use lab::Lab;
use lab::cni::{Answer, Sandbox};
use lab::daemon::Daemon;
use lab::flow::Flow;
use lab::lab::{Pod, deployment};
use lab::requires::skipped;
use lab::seed::{Seed, step};

const MINUTE: Duration = Duration::from_mins(1);

/// Echo pods talk to each other; a stranger gets no answer.
const CLOSED: &str = "apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: default.echo}
spec: {order: 5, selector: app == 'echo', types: [Ingress], ingress: [{action: Allow, source: {selector: app == 'echo'}}]}
";
/// The stranger is let in.
const OPENED: &str = "apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: default.echo}
spec: {order: 5, selector: app == 'echo', types: [Ingress], ingress: [{action: Allow}]}
";

struct Bed {
    lab: Lab,
    pods: Vec<Pod>,
    stranger: Pod,
}

impl Bed {
    fn start() -> Self {
        let lab = Lab::one_subnet(2).unwrap();
        lab.install_margay().unwrap();
        lab.apply_yaml(CLOSED).unwrap();
        for (name, count) in [("echo", 4), ("stranger", 2)] {
            lab.apply_yaml(&deployment("default", name, count, &[]))
                .unwrap();
        }
        for name in ["echo", "stranger"] {
            lab.wait_rollout("default", &format!("deployment/{name}"), MINUTE)
                .map_err(|error| error.context(lab.margay_logs(20)))
                .unwrap();
        }
        let pods = lab.pods("default", "app=echo").unwrap();
        let strangers = lab.pods("default", "app=stranger").unwrap();
        let stranger = strangers.into_iter().find(|pod| pod.node == "n2").unwrap();
        Self {
            lab,
            pods,
            stranger,
        }
    }

    fn on(&self, node: &str) -> &Pod {
        self.pods.iter().find(|pod| pod.node == node).unwrap()
    }

    /// A thousand messages a second between echo pods of both nodes.
    fn flow(&self, seconds: u64) -> Flow {
        let to = self.on("n1").address.parse().unwrap();
        let time = Duration::from_secs(seconds);
        self.lab.flow(self.on("n2"), to, time).unwrap()
    }

    fn nothing_lost(&self, flow: Flow) {
        let counts = flow.finish().unwrap();
        println!("{counts:?}");
        let whole = counts.nothing_missing();
        whole
            .map_err(|error| error.context(self.lab.margay_logs(15)))
            .unwrap();
    }

    /// Whether the stranger gets an answer from the echo pod on n1.
    fn stranger_is_let_in(&self) -> bool {
        self.stranger_reaches(&self.on("n1").address)
    }

    fn stranger_reaches(&self, address: &str) -> bool {
        let target = format!("{address}:80");
        let words = ["/run/tools/probe", "dial", "http", &target, "300"];
        self.lab
            .exec_in_pod("default", &self.stranger.name, &words)
            .is_ok()
    }

    /// While `work` runs the stranger begins a new conversation with the echo pod on n1 every millisecond: none is answered.
    fn stranger_gets_nothing_during<T>(&self, seconds: u64, work: impl FnOnce() -> T) -> T {
        let target = format!("{}:7", self.on("n1").address);
        let (result, text) = std::thread::scope(|scope| {
            let probe = scope.spawn(|| {
                let seconds = seconds.to_string();
                let words = ["/run/tools/probe", "fresh", &target, &seconds, "20000"];
                self.lab
                    .exec_in_pod("default", &self.stranger.name, &words)
                    .unwrap()
            });
            let begin = Instant::now();
            let result = work();
            println!(
                "under the stranger's eyes for {:.1?} of {seconds} s",
                begin.elapsed()
            );
            (result, probe.join().unwrap())
        });
        println!("the stranger: {}", text.trim());
        let counts: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(
            counts.get("answered").and_then(serde_json::Value::as_u64),
            Some(0),
            "never more open than before"
        );
        result
    }

    fn handles(&self) -> BTreeSet<String> {
        let query = "-o=jsonpath={range .items[*]}{range .spec.attributes[*]}{.handle_id}{\"\\n\"}{end}{end}";
        // An address that rests after its release belongs to nobody: it has no handle.
        let listed = self.lab.kubectl(&["get", "ipamblocks", query]).unwrap();
        let handles = listed.lines().filter(|line| !line.is_empty());
        handles.map(str::to_owned).collect()
    }

    fn holds(&self, sandbox: &Sandbox) -> bool {
        self.handles()
            .iter()
            .any(|name| name.ends_with(&format!(".{}", sandbox.name)))
    }
}

/// Our table, word by word and sorted: elements of a set come in any order.
const RULES: &str = "nft -s list table inet margay | sed 's/ # progname.*//' | tr ',{}' '\n\n\n' | sed 's/^[ \t]*//; s/[ \t]*$//' | sort";

/// What pods and calls leave on n1: links, addresses, routes, our table.
fn state(lab: &Lab) -> String {
    let script = "ip -o link show | sed 's/ state .*//'; ip -o addr show | sed 's/valid_lft.*//'; ip route show table all | sort; \
                  ip nexthop show | sort; ";
    let script = format!("{script}{RULES}");
    lab.node("n1").machine.shell(&script).unwrap()
}

fn is_as_before(bed: &Bed, before: &(String, BTreeSet<String>)) {
    bed.lab
        .wait_for("the node to be as it was", MINUTE, || {
            let (state, handles) = (state(&bed.lab), bed.handles());
            anyhow::ensure!(state == before.0, "before:\n{}\nnow:\n{state}", before.0);
            anyhow::ensure!(handles == before.1, "{:?}, now {handles:?}", before.1);
            Ok(true)
        })
        .unwrap();
}

#[test]
fn a_node_whose_daemon_dies_or_whose_rules_are_flushed_is_as_before_and_never_more_open() {
    if skipped() {
        return;
    }
    let bed = Bed::start();
    let mut daemon = step("the daemon of n1 is run by hand", || {
        Daemon::take_over(&bed.lab, "n1").unwrap()
    });
    step("F28, F29: chains and rules are flushed by others", || {
        flushed(&bed, &mut daemon);
    });
    step("F08: policies made and unmade while pods talk", || {
        made_while_pods_talk(&bed);
    });
    step("F09: a dying namespace", || dying_namespace(&bed));
    step("F02: killed at any moment", || {
        killed_at_any_moment(&bed, &mut daemon);
    });
    step("F04, F05, F06: away for half a minute", || {
        away(&bed, &mut daemon);
    });
}

/// What `iptables` and firewalls do. kube-proxy's own rules go too and come back by themselves.
const FOREIGN: [&str; 3] = [
    "iptables -F; iptables -t nat -F; iptables -X || true",
    "printf '*filter\\n:INPUT ACCEPT\\n:FORWARD ACCEPT\\n:OUTPUT ACCEPT\\nCOMMIT\\n' | iptables-restore",
    "nft flush ruleset",
];

fn flushed(bed: &Bed, daemon: &mut Daemon<'_>) {
    let machine = &bed.lab.node("n1").machine;
    // No table is an empty listing.
    let rules = || machine.shell(RULES).unwrap();
    let before = rules();
    assert!(before.contains("chain"), "{before}");
    bed.stranger_gets_nothing_during(3, || {
        for foreign in FOREIGN {
            machine.shell(foreign).unwrap();
            assert_eq!(rules(), before, "our table is immune to: {foreign}");
        }
    });
    // Without its daemon the table belongs to nobody: others may flush it. At its start the daemon puts it back.
    daemon.kill();
    for foreign in FOREIGN {
        machine.shell(foreign).unwrap();
    }
    println!(
        "flushed while no daemon runs: {} octets are left",
        rules().len()
    );
    let start = Instant::now();
    daemon.start().unwrap();
    bed.lab
        .wait_for("the rules to be back", MINUTE, || Ok(rules() == before))
        .map_err(|error| error.context(daemon.tail(20)))
        .unwrap();
    println!(
        "rules are back {:.1?} after the daemon's start",
        start.elapsed()
    );
    daemon.wait_ready(MINUTE).unwrap();
    assert!(!bed.stranger_is_let_in());
}

fn made_while_pods_talk(bed: &Bed) {
    let target = format!("{}:7", bed.on("n1").address);
    let mut worst = Duration::ZERO;
    for round in 0_u16..4 {
        bed.lab.apply_yaml(OPENED).unwrap();
        bed.lab
            .wait_for("the stranger to be let in", MINUTE, || {
                Ok(bed.stranger_is_let_in())
            })
            .unwrap();
        let first = (30_000 + round * 4_000).to_string();
        let (text, applied) = std::thread::scope(|scope| {
            let probe = scope.spawn(|| {
                let words = ["/run/tools/probe", "fresh", &target, "2", &first];
                bed.lab
                    .exec_in_pod("default", &bed.stranger.name, &words)
                    .unwrap()
            });
            std::thread::sleep(Duration::from_secs(1));
            bed.lab.apply_yaml(CLOSED).unwrap();
            let applied = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
            (probe.join().unwrap(), applied)
        });
        let counts: serde_json::Value = serde_json::from_str(&text).unwrap();
        let lost = counts
            .get("lost_from_us")
            .and_then(serde_json::Value::as_u64);
        let lost = Duration::from_micros(lost.unwrap_or_else(|| panic!("never cut: {text}")));
        let late = lost.saturating_sub(applied);
        println!(
            "in force {late:?} after kubectl returned, or before: {}",
            text.trim()
        );
        worst = worst.max(late);
    }
    assert!(worst < Duration::from_millis(100), "{worst:?}");
}

/// A pod that takes its time to die, in a namespace whose policy lets nobody in.
const DOOMED: &str = "apiVersion: v1
kind: Namespace
metadata: {name: doomed}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: closed, namespace: doomed}
spec: {podSelector: {}, policyTypes: [Ingress]}
---
apiVersion: v1
kind: Pod
metadata: {name: slow, namespace: doomed, labels: {app: slow}}
spec:
  nodeName: n1
  terminationGracePeriodSeconds: 10
  containers:
  - name: probe
    image: IMAGE
    imagePullPolicy: Never
    args: [serve, --http, '80']
    lifecycle: {preStop: {sleep: {seconds: 6}}}
";

fn dying_namespace(bed: &Bed) {
    let (lab, node) = (&bed.lab, bed.lab.node("n1"));
    lab.apply_yaml(&DOOMED.replace("IMAGE", lab::image::PROBE))
        .unwrap();
    let ready = [
        "-n",
        "doomed",
        "wait",
        "pod/slow",
        "--for=condition=Ready",
        "--timeout=60s",
    ];
    lab.kubectl(&ready).unwrap();
    let slow = lab.pods("doomed", "app=slow").unwrap().remove(0);
    let target = format!("{}:80", slow.address);
    // The node itself may always talk to its pods: so the pod is seen to live.
    let lives = || {
        node.exec(&["/run/tools/probe", "dial", "http", &target, "300"])
            .is_ok()
    };
    assert!(lives() && !bed.stranger_reaches(&slow.address));
    lab.kubectl(&["delete", "namespace", "doomed", "--wait=false"])
        .unwrap();
    // The namespace controller takes pods first; whoever deletes by hand may not.
    lab.kubectl(&["-n", "doomed", "delete", "networkpolicy", "closed"])
        .unwrap();
    let mut looks = 0;
    while lives() {
        assert!(
            !bed.stranger_reaches(&slow.address),
            "isolated until the pod is gone; looked {looks} times before"
        );
        looks += 1;
    }
    println!("the pod outlived its policy by {looks} looks, isolated");
    assert!(looks >= 2, "the pod was to outlive its policy");
    // What follows compares the node with what it was before.
    lab.kubectl(&["wait", "--for=delete", "namespace/doomed", "--timeout=60s"])
        .unwrap();
}

/// Calls that are under way when the daemon dies.
const CALLS: usize = 6;
const ROUNDS: u64 = 8;

fn killed_at_any_moment(bed: &Bed, daemon: &mut Daemon<'_>) {
    let mut seed = Seed::choose("F02").unwrap();
    let node = bed.lab.node("n1");
    let sandboxes: Vec<Sandbox> = (0..CALLS)
        .map(|number| Sandbox::new(&format!("k{number}")))
        .collect();
    let before = (state(&bed.lab), bed.handles());
    for sandbox in &sandboxes {
        node.make_sandbox(sandbox).unwrap();
    }
    let running = bed.flow(40);
    bed.stranger_gets_nothing_during(35, || {
        for round in 0..ROUNDS {
            let verb = if round % 2 == 0 { "ADD" } else { "DEL" };
            let delay = Duration::from_millis(seed.below(150));
            let answers = under_way_when_killed(bed, daemon, verb, &sandboxes, delay, round);
            daemon.start().unwrap();
            daemon.wait_ready(MINUTE).unwrap();
            settle(bed, verb, &sandboxes, &answers);
        }
    });
    for sandbox in &sandboxes {
        assert_eq!(node.cni("DEL", sandbox).unwrap().exit, 0);
        node.remove_sandbox(sandbox).unwrap();
    }
    is_as_before(bed, &before);
    bed.nothing_lost(running);
}

/// Calls the plugin for all sandboxes at once, swaps a policy meanwhile, and kills the daemon after `delay`.
fn under_way_when_killed(
    bed: &Bed,
    daemon: &mut Daemon<'_>,
    verb: &str,
    sandboxes: &[Sandbox],
    delay: Duration,
    round: u64,
) -> Vec<Answer> {
    let node = bed.lab.node("n1");
    // Each round's policy differs in what it says of nobody.
    let policy = CLOSED.replace("order: 5", &format!("order: {}", 5 + round % 2));
    let answers: Vec<Answer> = std::thread::scope(|scope| {
        let swap = scope.spawn(|| bed.lab.apply_yaml(&policy).unwrap());
        let calls: Vec<_> = sandboxes
            .iter()
            .map(|sandbox| scope.spawn(|| node.cni(verb, sandbox).unwrap()))
            .collect();
        std::thread::sleep(delay);
        daemon.kill();
        swap.join().unwrap();
        calls.into_iter().map(|call| call.join().unwrap()).collect()
    });
    let served = answers.iter().filter(|answer| answer.exit == 0).count();
    println!("round {round}: {verb}, killed after {delay:?}, {served} of {CALLS} served");
    answers
}

/// What a runtime does next: a failed ADD is followed by DEL. Who was served has an address of its own.
fn settle(bed: &Bed, verb: &str, sandboxes: &[Sandbox], answers: &[Answer]) {
    let node = bed.lab.node("n1");
    if verb == "DEL" {
        for answer in answers {
            assert_eq!(answer.exit, 0, "DEL succeeds: {}", answer.stdout);
        }
        return;
    }
    let mut addresses = BTreeSet::new();
    for (sandbox, answer) in sandboxes.iter().zip(answers) {
        if answer.exit != 0 {
            assert_eq!(node.cni("DEL", sandbox).unwrap().exit, 0);
            continue;
        }
        let address = answer.address().unwrap();
        let route = node.exec(&["ip", "route", "show", &address]).unwrap();
        assert!(route.contains("dev cali"), "{address}: {route:?}");
        assert!(addresses.insert(address), "one owner per address");
    }
}

fn away(bed: &Bed, daemon: &mut Daemon<'_>) {
    let node = bed.lab.node("n1");
    let [held, lost, late] = ["held", "lost", "late"].map(Sandbox::new);
    for sandbox in [&held, &lost] {
        node.make_sandbox(sandbox).unwrap();
        assert_eq!(node.cni("ADD", sandbox).unwrap().exit, 0);
    }
    let running = bed.flow(50);
    daemon.stop();
    let stopped = Instant::now();
    assert_eq!(
        node.cni("STATUS", &late).unwrap().exit,
        0,
        "a short absence never makes the node NotReady"
    );
    dels_are_spooled(bed, &held, &lost);
    add_is_put_off(bed, &late);
    // A pod comes and one goes, through the kubelet.
    bed.lab
        .kubectl(&["scale", "deployment/echo", "--replicas=6"])
        .unwrap();
    let gone = bed.lab.pods("default", "app=stranger").unwrap();
    let gone = gone.iter().find(|pod| pod.node == "n1").unwrap();
    bed.lab
        .kubectl(&[
            "delete",
            "pod",
            &gone.name,
            "--ignore-not-found",
            "--timeout=40s",
        ])
        .unwrap();
    bed.lab.apply_yaml(OPENED).unwrap();
    bed.lab
        .wait_for("STATUS to say that pods suffer", MINUTE, || {
            assert!(!bed.stranger_is_let_in(), "the old policy holds");
            Ok(node.cni("STATUS", &late)?.code() == Some(51))
        })
        .unwrap();
    println!("STATUS 51 after {:.1?}", stopped.elapsed());
    assert!(stopped.elapsed() > Duration::from_secs(20));

    let start = Instant::now();
    daemon.start().unwrap();
    bed.lab
        .wait_for("the policy made meanwhile to hold", MINUTE, || {
            Ok(bed.stranger_is_let_in())
        })
        .map_err(|error| error.context(daemon.tail(20)))
        .unwrap();
    println!("converged {:.1?} after the start", start.elapsed());
    assert!(start.elapsed() < Duration::from_secs(5), "F04: < 5 s");
    bed.lab
        .wait_for("every release to be paid", MINUTE, || {
            Ok(!bed.holds(&held) && !bed.holds(&lost))
        })
        .map_err(|error| error.context(daemon.tail(20)))
        .unwrap();
    assert_eq!(node.cni("ADD", &late).unwrap().exit, 0, "ADD works again");
    assert_eq!(node.cni("DEL", &late).unwrap().exit, 0);
    bed.lab
        .wait_rollout("default", "deployment/echo", MINUTE)
        .map_err(|error| error.context(daemon.tail(20)))
        .unwrap();
    bed.nothing_lost(running);
}

/// DEL without a daemon succeeds; one of the two notes it leaves is lost.
fn dels_are_spooled(bed: &Bed, held: &Sandbox, lost: &Sandbox) {
    let node = bed.lab.node("n1");
    for sandbox in [lost, held] {
        let answer = node.cni("DEL", sandbox).unwrap();
        assert_eq!((answer.exit, answer.stdout.as_str()), (0, ""));
        if sandbox == lost {
            node.machine.shell("rm /run/margay/spool/*").unwrap();
        }
        node.remove_sandbox(sandbox).unwrap();
        assert!(bed.holds(sandbox), "the address is still taken");
    }
}

fn add_is_put_off(bed: &Bed, late: &Sandbox) {
    let node = bed.lab.node("n1");
    node.make_sandbox(late).unwrap();
    let answer = node.cni("ADD", late).unwrap();
    println!("ADD: {:.1?} {}", answer.took, answer.stdout);
    assert_eq!(answer.code(), Some(11), "{}", answer.stdout);
    // The plugin's two seconds, and the way into the node.
    assert!(
        answer.took < Duration::from_millis(2_900),
        "{:?}",
        answer.took
    );
    let links = node.exec(&["ip", "-n", &late.name, "-o", "link"]).unwrap();
    assert_eq!(links.lines().count(), 1, "nothing half-made:\n{links}");
}
