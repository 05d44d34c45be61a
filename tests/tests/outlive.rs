//! The data path outlives the control path: the daemon killed and rolled, the API server gone, under a thousand messages a second.
#![expect(
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a scenario prints what it measured, and a failure ends it"
)]

use std::time::Duration;

use lab::flow::Flow;
use lab::lab::{Pod, deployment};
use lab::machine::Service;
use lab::margay::{Encapsulation, NAMESPACE};
use lab::{Lab, requires};

const MINUTE: Duration = Duration::from_mins(1);
const CONVERGED: Duration = Duration::from_mins(4);

fn skipped() -> bool {
    let missing = requires::missing();
    if missing.is_empty() {
        return false;
    }
    println!("SKIPPED: {}", missing.join("; "));
    true
}

fn start(encapsulation: Encapsulation) -> (Lab, Vec<Pod>) {
    let lab = Lab::two_racks().unwrap();
    lab.install_margay_with(encapsulation).unwrap();
    lab.wait_bgp(MINUTE).unwrap();
    lab.apply_yaml(&deployment("default", "echo", 8, &[]))
        .unwrap();
    lab.wait_rollout("default", "deployment/echo", MINUTE)
        .unwrap();
    // A policy is in force, so that rules have something to lose.
    lab.apply_yaml("apiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\nmetadata: {name: default.echo}\nspec: {selector: app == 'echo', types: [Ingress, Egress], ingress: [{action: Allow, source: {selector: app == 'echo'}}], egress: [{action: Allow}]}\n")
        .unwrap();
    let pods = lab.pods("default", "app=echo").unwrap();
    (lab, pods)
}

fn on<'a>(pods: &'a [Pod], node: &str, nth: usize) -> &'a Pod {
    pods.iter().filter(|pod| pod.node == node).nth(nth).unwrap()
}

/// Flows inside a node, inside a rack, and across.
fn flows(lab: &Lab, pods: &[Pod], seconds: u64) -> Vec<(&'static str, Flow)> {
    let from = on(pods, "a1", 0);
    let targets = [
        ("inside the node", on(pods, "a1", 1)),
        ("inside the rack", on(pods, "a2", 0)),
        ("across racks", on(pods, "b1", 0)),
    ];
    let flow = |to: &Pod| {
        lab.flow(
            from,
            to.address.parse().unwrap(),
            Duration::from_secs(seconds),
        )
        .unwrap()
    };
    targets
        .into_iter()
        .map(|(name, to)| (name, flow(to)))
        .collect()
}

fn nothing_lost(lab: &Lab, flows: Vec<(&'static str, Flow)>) {
    for (name, flow) in flows {
        let counts = flow.finish().unwrap();
        println!("{name}: {counts:?}");
        counts
            .nothing_lost()
            .map_err(|error| error.context(name).context(lab.margay_logs(15)))
            .unwrap();
    }
}

/// What the kernel tells of routes and rules on a node while something happens.
struct Watchers {
    routes: Service,
    rules: Service,
}

impl Watchers {
    fn start(lab: &Lab, node: &str) -> Self {
        let machine = &lab.node(node).machine;
        let routes = machine
            .spawn(
                &format!("ip-monitor-{node}"),
                &["ip", "monitor", "route", "nexthop"],
            )
            .unwrap();
        let rules = machine
            .spawn(&format!("nft-monitor-{node}"), &["nft", "monitor"])
            .unwrap();
        std::thread::sleep(Duration::from_millis(500));
        Self { routes, rules }
    }

    /// Changes of routes to pods or blocks, and of our tables.
    fn finish(mut self) -> Vec<String> {
        self.routes.stop();
        self.rules.stop();
        let routes = std::fs::read_to_string(self.routes.log()).unwrap();
        let rules = std::fs::read_to_string(self.rules.log()).unwrap();
        let routes = routes.lines().filter(|line| line.contains("10.244."));
        // Rules, elements, chains and sets of our table. The probe of kernel features has a table of its own, and taking an
        // orphaned table over is told as `add table inet margay`.
        let rules = rules.lines().filter(|line| line.contains("inet margay "));
        routes.chain(rules).map(str::to_owned).collect()
    }
}

#[test]
fn a_killed_daemon_and_a_rollout_lose_nothing_and_change_nothing() {
    if skipped() {
        return;
    }
    let (lab, pods) = start(Encapsulation::Never);
    let tor = lab.fabric.tor("a").unwrap();
    let before = tor.pod_routes().unwrap();
    assert!(before.contains("/26"), "{before}");

    let running = flows(&lab, &pods, 25);
    let watchers = Watchers::start(&lab, "a1");
    std::thread::sleep(Duration::from_secs(2));
    assert!(
        lab.node("a1").kill_routed() >= 1,
        "the daemon, and a controller where one runs here"
    );
    lab.wait_for("the kubelet to start the daemon again", MINUTE, || {
        Ok(!lab.node("a1").processes("routed").is_empty())
    })
    .unwrap();
    lab.wait_margay(MINUTE).unwrap();
    nothing_lost(&lab, running);
    assert_eq!(
        watchers.finish(),
        Vec::<String>::new(),
        "kill -9: nothing is deleted, nothing added again"
    );

    let running = flows(&lab, &pods, 40);
    let watchers = Watchers::start(&lab, "a1");
    std::thread::sleep(Duration::from_secs(2));
    lab.kubectl(&["-n", NAMESPACE, "rollout", "restart", "daemonset/margay"])
        .unwrap();
    lab.wait_margay(MINUTE).unwrap();
    nothing_lost(&lab, running);
    assert_eq!(
        watchers.finish(),
        Vec::<String>::new(),
        "rollout: nothing is deleted, nothing added again"
    );

    lab.wait_bgp(MINUTE).unwrap();
    let after = lab.fabric.tor("a").unwrap().pod_routes().unwrap();
    let blocks = |text: &str| text.lines().filter(|line| line.contains("/26")).count();
    assert_eq!(
        blocks(&after),
        blocks(&before),
        "the routers kept the routes\nbefore:\n{before}\nafter:\n{after}"
    );
}

#[test]
fn a_minute_without_the_api_server_changes_nothing_for_pods() {
    if skipped() {
        return;
    }
    let (lab, pods) = start(Encapsulation::VxlanCrossSubnet);
    let running = flows(&lab, &pods, 75);
    lab.stop_api();
    let outage = Duration::from_mins(1);
    let node = lab.node("a1");
    // What the runtime would do now: ADD says try again, DEL succeeds.
    std::thread::sleep(Duration::from_secs(3));
    let conf = "{\"cniVersion\":\"1.0.0\",\"name\":\"k8s-pod-network\",\"type\":\"margay\"}";
    node.machine.shell("ip netns add late").unwrap();
    let add = format!(
        "echo '{conf}' | CNI_COMMAND=ADD CNI_CONTAINERID=late CNI_NETNS=/run/netns/late CNI_IFNAME=eth0 CNI_PATH=/opt/cni/bin CNI_ARGS='IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=late' /opt/cni/bin/margay || true"
    );
    let answer = node.machine.shell(&add).unwrap();
    let error: serde_json::Value =
        serde_json::from_str(&answer).unwrap_or_else(|_| panic!("no JSON: {answer}"));
    assert_eq!(error["code"], 11, "{answer}");
    assert!(
        error["msg"].as_str().is_some_and(|text| text.len() > 20),
        "{answer}"
    );
    let del = add
        .replace("CNI_COMMAND=ADD", "CNI_COMMAND=DEL")
        .replace(" || true", "");
    node.machine.shell(&del).unwrap();
    node.machine.shell("ip netns del late").unwrap();
    std::thread::sleep(outage);
    lab.start_api().unwrap();
    nothing_lost(&lab, running);
    lab.kubectl(&["scale", "deployment/echo", "--replicas=12"])
        .unwrap();
    // Kubelets come back to the API server at their own pace, up to a minute apart; then each sandbox is tried anew.
    lab.wait_rollout("default", "deployment/echo", CONVERGED)
        .map_err(|error| error.context(lab.margay_logs(20)))
        .unwrap();
    lab.wait_margay(CONVERGED).unwrap();
}
