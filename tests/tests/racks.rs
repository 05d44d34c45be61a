//! The front door, whole: Margay installed by `kubectl apply` on four real nodes in two racks, BIRD in front of one and FRR in front of
//! the other, pods through scheduler, kubelet and containerd, and a GlobalNetworkPolicy written for Calico.
#![expect(
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a scenario prints what it measured, and a failure ends it"
)]

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use lab::Lab;
use lab::capture::Capture;
use lab::lab::{Pod, deployment};
use lab::margay::Encapsulation;
use lab::matrix::Matrix;
use lab::node::ProxyMode;
use lab::requires::skipped;

const MINUTE: Duration = Duration::from_mins(1);
const VXLAN: &str = "udp port 4789";

/// Two racks with Margay in them and twelve pods, three per node.
fn twelve_pods(encapsulation: Encapsulation) -> (Lab, Vec<Pod>) {
    let lab = Lab::two_racks().unwrap();
    lab.install_margay_with(encapsulation).unwrap();
    lab.wait_bgp(MINUTE).unwrap();
    lab.apply_yaml(&deployment("default", "echo", 12, &[]))
        .unwrap();
    lab.wait_rollout("default", "deployment/echo", MINUTE)
        .map_err(|error| error.context(lab.margay_logs(20)))
        .unwrap();
    let pods = lab.pods("default", "app=echo").unwrap();
    let nodes: BTreeSet<&str> = pods.iter().map(|pod| pod.node.as_str()).collect();
    assert_eq!(
        (pods.len(), nodes.len()),
        (12, 4),
        "twelve pods on four nodes"
    );
    (lab, pods)
}

fn on<'a>(pods: &'a [Pod], node: &str) -> &'a Pod {
    pods.iter().find(|pod| pod.node == node).unwrap()
}

fn everybody_reaches_everybody(lab: &Lab, pods: &[Pod]) {
    let matrix = Matrix::measure(lab, pods, 80).unwrap();
    let all = matrix.cells.iter().flatten().all(|answered| *answered);
    assert!(
        all,
        "\n{}\n{}",
        matrix.render(None, false),
        lab.margay_logs(20)
    );
}

/// Packets seen on the node's uplink while one pod talks to another.
fn seen_between(lab: &Lab, from: &Pod, to: &Pod, filter: &str) -> usize {
    let node = lab.node(&from.node);
    let capture = Capture::start(&node.machine, "eth0", filter).unwrap();
    let target = format!("{}:80", to.address);
    lab.exec_in_pod(
        "default",
        &from.name,
        &["/run/tools/probe", "dial", "http", &target],
    )
    .unwrap();
    std::thread::sleep(Duration::from_millis(300));
    let lines = capture.finish().unwrap();
    lines.lines().filter(|line| line.contains(" > ")).count()
}

fn services_answer_in_both_modes(lab: &Lab, pods: &[Pod]) {
    lab.apply_yaml("apiVersion: v1\nkind: Service\nmetadata: {name: echo, namespace: default}\nspec: {selector: {app: echo}, ports: [{port: 8080, targetPort: 80}]}\n")
        .unwrap();
    let address = lab
        .kubectl(&["get", "service", "echo", "-o=jsonpath={.spec.clusterIP}"])
        .unwrap();
    let target = format!("{address}:8080");
    for mode in [ProxyMode::Nftables, ProxyMode::Iptables] {
        lab.each_node(|node| node.start_proxy(mode)).unwrap();
        for node in ["a1", "b2"] {
            let pod = on(pods, node);
            lab.wait_for(
                &format!("the service to answer {node} in mode {mode:?}"),
                MINUTE,
                || {
                    let answer = lab.exec_in_pod(
                        "default",
                        &pod.name,
                        &["/run/tools/probe", "dial", "http", &target],
                    )?;
                    Ok(answer.starts_with("echo-"))
                },
            )
            .unwrap();
        }
    }
}

#[test]
fn racks_are_joined_by_routes_learnt_from_bird_and_frr() {
    if skipped() {
        return;
    }
    let (lab, pods) = twelve_pods(Encapsulation::Never);
    everybody_reaches_everybody(&lab, &pods);
    let (from, to) = (on(&pods, "a1"), on(&pods, "b1"));
    // The routers know each node's block, and each node learnt the other rack's blocks from its router.
    for rack in ["a", "b"] {
        let tor = lab.fabric.tor(rack).unwrap();
        let routes = tor.pod_routes().unwrap();
        let blocks = routes.lines().filter(|line| line.contains("/26")).count();
        assert!(
            blocks >= 4,
            "router of rack {rack} knows {blocks} blocks:\n{routes}"
        );
    }
    for node in ["a1", "b1"] {
        let routes = lab
            .node(node)
            .exec(&["ip", "route", "show", "proto", "81"])
            .unwrap();
        let learnt = routes.lines().filter(|line| line.contains("/26")).count();
        assert!(
            learnt >= 2,
            "{node} learnt {learnt} blocks by BGP:\n{routes}"
        );
    }
    assert_eq!(
        seen_between(&lab, from, to, VXLAN),
        0,
        "a native pool is never encapsulated"
    );
    let plain = format!("host {} and tcp port 80", to.address);
    assert!(
        seen_between(&lab, from, to, &plain) > 0,
        "packets travel as the pod sent them"
    );
    let peers = lab
        .kubectl(&[
            "-n",
            "margay-system",
            "exec",
            "ds/margay",
            "--",
            "/routed",
            "bgp",
            "peers",
        ])
        .unwrap();
    assert!(
        peers.contains("Established") && peers.contains("safe"),
        "{peers}"
    );
    services_answer_in_both_modes(&lab, &pods);
}

#[test]
fn a_cross_subnet_pool_is_plain_inside_a_rack_and_vxlan_between_racks() {
    if skipped() {
        return;
    }
    let (lab, pods) = twelve_pods(Encapsulation::VxlanCrossSubnet);
    everybody_reaches_everybody(&lab, &pods);
    let from = on(&pods, "a1");
    assert_eq!(
        seen_between(&lab, from, on(&pods, "a2"), VXLAN),
        0,
        "inside a rack nothing is encapsulated"
    );
    assert!(
        seen_between(&lab, from, on(&pods, "b1"), VXLAN) > 0,
        "between racks it is"
    );
    for rack in ["a", "b"] {
        let routes = lab.fabric.tor(rack).unwrap().pod_routes().unwrap();
        assert!(
            routes.contains("/26"),
            "the router of rack {rack} still learns blocks:\n{routes}"
        );
    }
    // Switched live: Always encapsulates inside the rack too, Never nowhere.
    for (mode, inside, between) in [("Always", true, true), ("Never", false, false)] {
        let patch = format!("{{\"spec\":{{\"vxlanMode\":\"{mode}\"}}}}");
        lab.kubectl(&[
            "patch",
            "ippool",
            "default-ipv4-ippool",
            "--type=merge",
            "-p",
            &patch,
        ])
        .unwrap();
        for (to, encapsulated) in [("a2", inside), ("b1", between)] {
            lab.wait_for(&format!("vxlanMode {mode} from a1 to {to}"), MINUTE, || {
                Ok((seen_between(&lab, from, on(&pods, to), VXLAN) > 0) == encapsulated)
            })
            .unwrap();
        }
    }
    outside_sees_the_node(&lab, from);
    policies_take_effect_within_a_second(&lab);
}

/// natOutgoing: whoever is outside of all pools sees the node's address.
fn outside_sees_the_node(lab: &Lab, from: &Pod) {
    let node = lab.node(&from.node);
    let capture = Capture::start(&node.machine, "eth0", "udp port 9").unwrap();
    let target = format!("{}:9", lab::fabric::CONTROL);
    // Nobody answers there; what counts is the source on the wire.
    let _ = lab.exec_in_pod(
        "default",
        &from.name,
        &["/run/tools/probe", "dial", "udp", &target],
    );
    std::thread::sleep(Duration::from_millis(300));
    let lines = capture.finish().unwrap();
    assert!(lines.contains(&format!("{}.", node.address())), "{lines}");
    assert!(
        !lines.contains(&format!("{}.", from.address)),
        "the pod's own address left the pools:\n{lines}"
    );
}

const POLICY: &str = "apiVersion: projectcalico.org/v3
kind: Tier
metadata: {name: security}
spec: {order: 100, defaultAction: Pass}
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: security.database}
spec:
  tier: security
  order: 10
  selector: app == 'database' && projectcalico.org/namespace in {'default'}
  types: [Ingress, Egress]
  ingress:
  - {action: Allow, protocol: TCP, source: {selector: \"app in {'web'}\"}, destination: {ports: [3306]}}
  - {action: Deny}
  egress:
  - {action: Deny}
";

fn policies_take_effect_within_a_second(lab: &Lab) {
    lab.apply_yaml(&deployment("default", "web", 2, &[]))
        .unwrap();
    lab.apply_yaml(&deployment("default", "database", 2, &[3306]))
        .unwrap();
    for tier in ["web", "database"] {
        lab.wait_rollout("default", &format!("deployment/{tier}"), MINUTE)
            .unwrap();
    }
    let mut pods = lab.pods("default", "app in (web, database)").unwrap();
    pods.sort_by(|a, b| b.name.cmp(&a.name));
    let (web, database) = (first(&pods, "web"), first(&pods, "database"));
    let before = Matrix::measure(lab, &pods, 3306).unwrap();
    let closed = || {
        !dials(lab, web, database, 80)
            && !dials(lab, database, web, 80)
            && dials(lab, web, database, 3306)
    };
    let open = || dials(lab, web, database, 80) && dials(lab, database, web, 80);
    assert!(open(), "without a policy everything is allowed");
    lab.apply_yaml(POLICY).unwrap();
    let took = until(|| !dials(lab, web, database, 80));
    println!("policy applied to first connection refused: {took:?}");
    assert!(closed(), "the whole policy holds");
    assert!(
        took < Duration::from_secs(1),
        "the policy took {took:?} to hold"
    );
    let with = Matrix::measure(lab, &pods, 3306).unwrap();
    assert!(with.changed(&before) > 0 || with.reaches(&web.name, &database.name) == Some(true));
    assert_eq!(
        with.reaches(&web.name, &database.name),
        Some(true),
        "\n{}",
        with.render(Some(&before), false)
    );
    lab.delete_yaml(POLICY.split("---\n").last().unwrap())
        .unwrap();
    let took = until(|| dials(lab, web, database, 80));
    println!("policy deleted to first connection allowed: {took:?}");
    assert!(open(), "its deletion restores everything");
    assert!(
        took < Duration::from_secs(1),
        "its deletion took {took:?} to hold"
    );
    a_bad_selector_is_reported_and_allows_nothing(lab, web, database);
}

/// A bad selector is refused at the door; what no admission rule can see (brackets that do not close) is named on the object's
/// status, and in force it is as if it were not there.
fn a_bad_selector_is_reported_and_allows_nothing(lab: &Lab, web: &Pod, database: &Pod) {
    let deny = "apiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\nmetadata: {name: default.closed}\nspec: {order: 20, selector: app == 'database', types: [Ingress]}\n";
    let allowing = |selector: &str| {
        format!(
            "apiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\nmetadata: {{name: default.bad}}\nspec: {{order: 10, selector: app == 'database', types: [Ingress], ingress: [{{action: Allow, source: {{selector: \"{selector}\"}}}}]}}\n"
        )
    };
    let bad = allowing("(app == 'web'");
    lab.apply_yaml(deny).unwrap();
    let refused = lab.apply_yaml(&allowing("app == web")).unwrap_err();
    assert!(
        refused
            .to_string()
            .contains("source.selector: not a selector"),
        "{refused:#}"
    );
    lab.apply_yaml(&bad).unwrap();
    let path = "-o=jsonpath={.status.conditions[?(@.type=='Accepted')].status} {.status.conditions[?(@.type=='Accepted')].message}";
    lab.wait_for("the bad selector on the object's status", MINUTE, || {
        let status = lab.kubectl(&["get", "globalnetworkpolicy", "default.bad", path])?;
        Ok(status.starts_with("False") && status.contains("spec.ingress[0].source.selector"))
    })
    .unwrap();
    assert!(
        !dials(lab, web, database, 80),
        "a rule that cannot be read allows nothing"
    );
    lab.delete_yaml(&format!("{deny}---\n{bad}")).unwrap();
}

fn first<'a>(pods: &'a [Pod], name: &str) -> &'a Pod {
    pods.iter().find(|pod| pod.name.starts_with(name)).unwrap()
}

fn dials(lab: &Lab, from: &Pod, to: &Pod, port: u16) -> bool {
    let target = format!("{}:{port}", to.address);
    lab.exec_in_pod(
        "default",
        &from.name,
        &["/run/tools/probe", "dial", "http", &target, "300"],
    )
    .is_ok()
}

/// Time until a condition holds, counted to the beginning of the attempt that saw it; a minute if it never does.
fn until(mut condition: impl FnMut() -> bool) -> Duration {
    let start = Instant::now();
    loop {
        let passed = start.elapsed();
        if condition() || passed > MINUTE {
            return passed;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}
