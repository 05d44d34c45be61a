//! The data path outlives the control path: the daemon killed and rolled under a thousand messages a second. An API server
//! that is gone or misbehaves: `apifaults.rs`.
#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a scenario prints what it measured, and a failure ends it"
)]

use std::time::Duration;

use lab::Lab;
use lab::changes::Changes;
use lab::flow::Flow;
use lab::lab::{Pod, deployment};
use lab::margay::{Encapsulation, NAMESPACE};
use lab::requires::skipped;

const MINUTE: Duration = Duration::from_mins(1);

fn start() -> (Lab, Vec<Pod>) {
    let lab = Lab::two_racks().unwrap();
    lab.install_margay_with(Encapsulation::Never).unwrap();
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

#[test]
fn a_killed_daemon_and_a_rollout_lose_nothing_and_change_nothing() {
    if skipped() {
        return;
    }
    let (lab, pods) = start();
    let tor = lab.fabric.tor("a").unwrap();
    let before = tor.pod_routes().unwrap();
    assert!(before.contains("/26"), "{before}");

    let running = flows(&lab, &pods, 25);
    let watchers = Changes::watch(&lab, "a1").unwrap();
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
        watchers.finish().unwrap(),
        Vec::<String>::new(),
        "kill -9: nothing is deleted, nothing added again"
    );

    let running = flows(&lab, &pods, 40);
    let watchers = Changes::watch(&lab, "a1").unwrap();
    std::thread::sleep(Duration::from_secs(2));
    lab.kubectl(&["-n", NAMESPACE, "rollout", "restart", "daemonset/margay"])
        .unwrap();
    lab.wait_margay(MINUTE).unwrap();
    nothing_lost(&lab, running);
    assert_eq!(
        watchers.finish().unwrap(),
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
