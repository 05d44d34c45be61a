//! An API server that is gone, silent, forgetful or unwilling, in front of Margay alone: pods do not notice, rules and routes are not
//! touched, and Margay finds back by itself. One cluster; everybody else in it talks to the server directly.
#![expect(
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a scenario prints what it measured, and a failure ends it"
)]

use std::time::{Duration, Instant};

use lab::Lab;
use lab::apiproxy::{ApiProxy, Call, Fault, Rule, Who};
use lab::changes::Changes;
use lab::cni::Sandbox;
use lab::flow::Flow;
use lab::lab::{Pod, deployment};
use lab::margay::NAMESPACE;
use lab::requires::skipped;
use lab::seed::step;

const MINUTE: Duration = Duration::from_mins(1);
/// A watch that was refused begins again after at most this: back-off of 30 s with as much jitter.
const HEARD: Duration = Duration::from_secs(75);

/// Closes port 80 of every test pod.
const CLOSED: &str = "apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: default.closed}
spec: {order: 5, selector: app == 'echo', types: [Ingress], ingress: [{action: Deny, protocol: TCP, destination: {ports: [80]}}, {action: Allow}]}
";

/// The cluster, its proxy, and two pods on each of two nodes.
struct Bed {
    lab: Lab,
    proxy: ApiProxy,
    pods: Vec<Pod>,
}

impl Bed {
    fn start() -> Self {
        let lab = Lab::one_subnet(2).unwrap();
        let proxy = lab.install_margay_behind_proxy().unwrap();
        lab.apply_yaml(&deployment("default", "echo", 4, &[]))
            .unwrap();
        lab.wait_rollout("default", "deployment/echo", MINUTE)
            .map_err(|error| error.context(lab.margay_logs(20)))
            .unwrap();
        let pods = lab.pods("default", "app=echo").unwrap();
        Self { lab, proxy, pods }
    }

    fn on(&self, node: &str) -> &Pod {
        self.pods.iter().find(|pod| pod.node == node).unwrap()
    }

    /// A thousand messages a second from a pod of one node to a pod of the other.
    fn flow(&self, seconds: u64) -> Flow {
        let to = self.on("n2").address.parse().unwrap();
        let time = Duration::from_secs(seconds);
        self.lab.flow(self.on("n1"), to, time).unwrap()
    }

    fn nothing_lost(&self, flow: Flow) {
        let counts = flow.finish().unwrap();
        println!("{counts:?}");
        let whole = counts.nothing_missing();
        whole
            .map_err(|error| error.context(self.lab.margay_logs(15)))
            .unwrap();
    }

    fn open(&self) -> bool {
        let target = format!("{}:80", self.on("n2").address);
        let words = ["/run/tools/probe", "dial", "http", &target, "500"];
        self.lab
            .exec_in_pod("default", &self.on("n1").name, &words)
            .is_ok()
    }

    /// Waits until the policy that closes port 80 holds, then opens it again.
    fn hears_again(&self, since: Instant) {
        self.lab
            .wait_for("the policy made meanwhile to hold", HEARD, || {
                Ok(!self.open())
            })
            .map_err(|error| error.context(self.lab.margay_logs(20)))
            .unwrap();
        println!("heard again after {:.1?}", since.elapsed());
        self.lab.delete_yaml(CLOSED).unwrap();
        self.lab
            .wait_for("its deletion to hold", HEARD, || Ok(self.open()))
            .unwrap();
    }

    /// ADD on n1, which cannot be served now: try again later, in a sentence, soon.
    fn add_is_put_off(&self, sandbox: &Sandbox) {
        let node = self.lab.node("n1");
        node.make_sandbox(sandbox).unwrap();
        let answer = node.cni("ADD", sandbox).unwrap();
        println!("ADD: {:.1?} {}", answer.took, answer.stdout);
        assert_eq!(answer.code(), Some(11), "{}", answer.stdout);
        assert!(answer.took < Duration::from_secs(20), "{:?}", answer.took);
        let links = node
            .exec(&["ip", "-n", &sandbox.name, "-o", "link"])
            .unwrap();
        assert_eq!(links.lines().count(), 1, "only loopback is there:\n{links}");
    }

    fn add_and_del_work(&self, sandbox: &Sandbox) {
        let node = self.lab.node("n1");
        self.lab
            .wait_for("ADD to work again", HEARD, || {
                let answer = node.cni("ADD", sandbox)?;
                anyhow::ensure!(answer.exit == 0, "{}", answer.stdout);
                Ok(true)
            })
            .map_err(|error| error.context(self.lab.margay_logs(20)))
            .unwrap();
        assert_eq!(node.cni("DEL", sandbox).unwrap().exit, 0);
        node.remove_sandbox(sandbox).unwrap();
    }

    /// Whether an address belongs to the sandbox. One that rests after its release belongs to nobody.
    fn holds(&self, sandbox: &Sandbox) -> bool {
        let query = "-o=jsonpath={range .items[*]}{range .spec.attributes[*]}{.handle_id}{\"\\n\"}{end}{end}";
        let handles = self.lab.kubectl(&["get", "ipamblocks", query]).unwrap();
        let mine = format!(".{}", sandbox.name);
        handles.lines().any(|handle| handle.ends_with(&mine))
    }

    /// The log of the daemon on n1.
    fn log(&self) -> String {
        let daemons = self.lab.pods(NAMESPACE, "app.kubernetes.io/name=margay");
        let daemons = daemons.unwrap();
        let daemon = daemons.iter().find(|pod| pod.node == "n1").unwrap();
        self.lab
            .kubectl(&["-n", NAMESPACE, "logs", &daemon.name])
            .unwrap()
    }
}

#[test]
fn an_api_server_that_misbehaves_changes_nothing_for_pods() {
    if skipped() {
        return;
    }
    let bed = Bed::start();
    step("F10: connections are refused", || refused(&bed));
    step("F06, F11: connections stand and no byte comes", || {
        silent(&bed);
    });
    step("F12: 410 on watches and on further pages", || gone(&bed));
    step("409, 429 and 500 on writes of blocks", || unwilling(&bed));
    step("F17: the token expires", || expired(&bed));
    bed.lab.wait_margay(MINUTE).unwrap();
}

fn refused(bed: &Bed) {
    let sandbox = Sandbox::new("late");
    let (running, changes) = (bed.flow(25), Changes::watch(&bed.lab, "n1").unwrap());
    let refusing = bed.proxy.play(Rule::new(Fault::Refuse));
    bed.lab.apply_yaml(CLOSED).unwrap();
    bed.add_is_put_off(&sandbox);
    let idle = Duration::from_secs(12);
    let before = ticks(&bed.lab);
    std::thread::sleep(idle);
    // A tick is a hundredth of a second, so ticks over seconds are per cent of a processor.
    let share = (ticks(&bed.lab) - before) / idle.as_secs();
    println!("without the API server the daemon takes {share} % of a processor, rounded down");
    // The promise is 1 % for a release build; this one is not optimised.
    assert!(share < 4, "{share} % of a processor");
    assert!(bed.open(), "the last state stays");
    assert_eq!(
        changes.finish().unwrap(),
        Vec::<String>::new(),
        "nothing changes in the kernel"
    );
    bed.nothing_lost(running);
    drop(refusing);
    let back = Instant::now();
    bed.add_and_del_work(&sandbox);
    println!(
        "ADD and DEL work {:.1?} after the API is back",
        back.elapsed()
    );
    bed.hears_again(back);
}

/// Processor time of the daemon on n1 so far, in hundredths of a second.
fn ticks(lab: &Lab) -> u64 {
    let daemon = lab.node("n1").processes("routed").into_iter().find(|pid| {
        std::fs::read_to_string(format!("/proc/{pid}/cmdline"))
            .is_ok_and(|line| line.contains("\0run"))
    });
    let text = std::fs::read_to_string(format!("/proc/{}/stat", daemon.unwrap())).unwrap();
    let (_name, rest) = text.rsplit_once(')').unwrap();
    // proc(5): utime and stime are fields 14 and 15; the state, first of the rest, is field 3.
    let fields = rest.split_whitespace().skip(11).take(2);
    fields.map(|field| field.parse::<u64>().unwrap()).sum()
}

fn silent(bed: &Bed) {
    let node = bed.lab.node("n1");
    let (held, late) = (Sandbox::new("held"), Sandbox::new("late"));
    node.make_sandbox(&held).unwrap();
    assert_eq!(node.cni("ADD", &held).unwrap().exit, 0);
    assert!(bed.holds(&held));
    let (running, changes) = (bed.flow(45), Changes::watch(&bed.lab, "n2").unwrap());
    let mute = bed.proxy.play(Rule::new(Fault::BlackHole));
    bed.lab.apply_yaml(CLOSED).unwrap();
    std::thread::scope(|scope| {
        let noticed = scope.spawn(|| is_noticed(bed));
        let gone = node.cni("DEL", &held).unwrap();
        println!("DEL: {:.1?}", gone.took);
        assert_eq!((gone.exit, gone.stdout.as_str()), (0, ""), "DEL succeeds");
        node.remove_sandbox(&held).unwrap();
        bed.add_is_put_off(&late);
        let noticed = noticed.join().unwrap();
        println!("noticed after {noticed:.1?}");
        assert!(noticed < Duration::from_secs(30), "F11: < 30 s");
    });
    assert!(bed.open(), "the last state stays");
    assert_eq!(changes.finish().unwrap(), Vec::<String>::new());
    assert!(bed.holds(&held), "the release is owed");
    // Connections that have met the fault stay mute: only new ones work.
    drop(mute);
    let back = Instant::now();
    bed.add_and_del_work(&late);
    bed.hears_again(back);
    bed.lab
        .wait_for("the owed release to be paid", MINUTE, || {
            Ok(!bed.holds(&held))
        })
        .map_err(|error| error.context(bed.lab.margay_logs(20)))
        .unwrap();
    bed.nothing_lost(running);
}

/// How long it takes until the daemon on n1 says that the server is silent.
fn is_noticed(bed: &Bed) -> Duration {
    let begin = Instant::now();
    bed.lab
        .wait_for("the daemon to notice the silence", MINUTE, || {
            Ok(bed.log().contains("the API server is silent"))
        })
        .unwrap();
    begin.elapsed()
}

fn gone(bed: &Bed) {
    let n1 = bed.lab.node("n1").address();
    let (running, changes) = (bed.flow(30), Changes::watch(&bed.lab, "n1").unwrap());
    let lists = || bed.proxy.count(n1, Call::List, "pods");
    let before = lists();
    let asked = bed.proxy.seen().len();
    let rules = [
        Rule::new(Fault::Pages(2)),
        Rule::new(Fault::Status(410))
            .calls(&[Call::Continue])
            .times(3),
        // Both ways an API server says it; half of the kinds meet each.
        Rule::new(Fault::Status(410))
            .calls(&[Call::Watch])
            .resource("pods")
            .times(4),
        Rule::new(Fault::Status(410))
            .calls(&[Call::Watch])
            .resource("globalnetworkpolicies")
            .times(4),
        Rule::new(Fault::WatchError(410))
            .calls(&[Call::Watch])
            .times(40),
    ];
    let playing = rules.map(|rule| bed.proxy.play(rule));
    bed.proxy.cut(Who::everybody());
    bed.lab
        .wait_for("410 on watches and on further pages", HEARD, || {
            let seen = bed.proxy.seen();
            let answered = |call| {
                let new = seen.iter().skip(asked);
                new.filter(|seen| seen.asked.call == call && seen.answered == Some(410))
                    .count()
            };
            let (watches, pages) = (answered(Call::Watch), answered(Call::Continue));
            // How many lists are long enough to have further pages depends on what the cluster holds just then.
            anyhow::ensure!(
                watches >= 30 && pages >= 1,
                "{watches} watches, {pages} pages"
            );
            Ok(lists() > before)
        })
        .unwrap();
    drop(playing);
    assert_eq!(
        changes.finish().unwrap(),
        Vec::<String>::new(),
        "no flush, no flap"
    );
    let back = Instant::now();
    bed.lab.apply_yaml(CLOSED).unwrap();
    bed.hears_again(back);
    bed.nothing_lost(running);
}

fn unwilling(bed: &Bed) {
    let sandbox = Sandbox::new("patient");
    let node = bed.lab.node("n1");
    for code in [409, 429, 500] {
        let rule = Rule::new(Fault::Status(code)).calls(&[Call::Update]);
        let playing = bed.proxy.play(rule.resource("ipamblocks").times(2));
        node.make_sandbox(&sandbox).unwrap();
        // What the daemon does not repeat itself, the runtime does.
        let mut calls = 0;
        bed.lab
            .wait_for(&format!("ADD in spite of {code}"), MINUTE, || {
                calls += 1;
                let answer = node.cni("ADD", &sandbox)?;
                println!(
                    "{code} twice, call {calls}: {:.1?} {}",
                    answer.took, answer.stdout
                );
                assert!(
                    matches!(answer.code(), None | Some(11)),
                    "{}",
                    answer.stdout
                );
                Ok(answer.exit == 0)
            })
            .unwrap();
        assert!(calls <= 2, "{code}: {calls} calls");
        drop(playing);
        assert_eq!(node.cni("DEL", &sandbox).unwrap().exit, 0);
        node.remove_sandbox(&sandbox).unwrap();
    }
}

fn expired(bed: &Bed) {
    let n1 = bed.lab.node("n1").address();
    let running = bed.flow(20);
    // The token has been in use for longer than that; a new one will do for the rest of this step.
    let playing = bed.proxy.play(
        Rule::new(Fault::Expire(Duration::from_secs(45)))
            .to(Who::from(n1).as_account("margay-system:margay-node")),
    );
    bed.proxy.cut(Who::from(n1));
    let refused = |since: Instant| {
        let seen = bed.proxy.seen();
        let ours = seen.into_iter().filter(|seen| {
            seen.at > since
                && seen.asked.address == n1
                && seen.asked.account.as_deref() == Some("margay-system:margay-node")
        });
        ours.partition::<Vec<_>, _>(|seen| seen.answered == Some(401))
    };
    let begin = Instant::now();
    bed.lab
        .wait_for("requests to be refused", MINUTE, || {
            Ok(refused(begin).0.len() >= 3)
        })
        .unwrap();
    assert!(bed.open(), "the last state stays");
    let renewed = Instant::now();
    // The kubelet would put its own, old token back.
    bed.lab.node("n1").stop_kubelet();
    renew_token(&bed.lab);
    bed.lab
        .wait_for("the new token to be read", Duration::from_secs(70), || {
            Ok(!refused(renewed).1.is_empty())
        })
        .map_err(|error| error.context(bed.lab.margay_logs(20)))
        .unwrap();
    println!("the new token is in use after {:.1?}", renewed.elapsed());
    drop(playing);
    bed.lab.node("n1").start_kubelet().unwrap();
    let sandbox = Sandbox::new("renewed");
    bed.lab.node("n1").make_sandbox(&sandbox).unwrap();
    bed.add_and_del_work(&sandbox);
    bed.nothing_lost(running);
}

/// A new token into the daemon's volume, in the place where the kubelet puts it.
fn renew_token(lab: &Lab) {
    let daemons = lab
        .pods(NAMESPACE, "app.kubernetes.io/name=margay")
        .unwrap();
    let daemon = daemons.iter().find(|pod| pod.node == "n1").unwrap();
    let bound = format!("--bound-object-name={}", daemon.name);
    let words = ["-n", NAMESPACE, "create", "token", "margay-node"];
    let words = [&words[..], &["--bound-object-kind=Pod", &bound]].concat();
    let token = lab.kubectl(&words).unwrap();
    let uid = [
        "-n",
        NAMESPACE,
        "get",
        "pod",
        &daemon.name,
        "-o=jsonpath={.metadata.uid}",
    ];
    let uid = lab.kubectl(&uid).unwrap();
    let script = format!(
        "cd /var/lib/kubelet/pods/{uid}/volumes/kubernetes.io~projected/kube-api-access-*/..data/ && cat > token.new && chmod 644 token.new && mv token.new token"
    );
    let node = &lab.node("n1").machine;
    node.exec_with(&["sh", "-ec", &script], token.trim())
        .unwrap();
}
