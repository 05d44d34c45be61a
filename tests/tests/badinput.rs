//! Bad input gets a clear error and nothing is lost: to the plugin, to the API, to BGP; a watch that breaks; a second daemon. One
//! cluster for all: each part leaves it as it was.

#![expect(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::indexing_slicing,
    reason = "a scenario looks at the machine, and a failure ends it"
)]

use std::time::Duration;

use lab::flow::Flow;
use lab::lab::{Pod, deployment};
use lab::margay::NAMESPACE;
use lab::requires::skipped;
use lab::seed::step;
use lab::{Lab, binaries};
use serde_json::Value;

const MINUTE: Duration = Duration::from_mins(1);
const PLUGIN: &str = "/opt/cni/bin/margay";
/// Where the daemon's metrics are, once they are switched on.
const METRICS: u16 = 9091;

/// One subnet of two nodes that peer with each other, two pods on each.
fn start() -> (Lab, Vec<Pod>) {
    let lab = Lab::one_subnet(2).unwrap();
    lab.install_margay().unwrap();
    lab.apply_yaml(&deployment("default", "echo", 4, &[]))
        .unwrap();
    lab.wait_rollout("default", "deployment/echo", MINUTE)
        .map_err(|error| error.context(lab.margay_logs(20)))
        .unwrap();
    let pods = lab.pods("default", "app=echo").unwrap();
    (lab, pods)
}

fn on<'a>(pods: &'a [Pod], node: &str) -> &'a Pod {
    pods.iter().find(|pod| pod.node == node).unwrap()
}

/// A thousand messages a second from a pod of one node to a pod of the other.
fn flow(lab: &Lab, pods: &[Pod], seconds: u64) -> Flow {
    let to = on(pods, "n2").address.parse().unwrap();
    lab.flow(on(pods, "n1"), to, Duration::from_secs(seconds))
        .unwrap()
}

fn nothing_lost(lab: &Lab, flow: Flow) {
    let counts = flow.finish().unwrap();
    println!("{counts:?}");
    let whole = counts.nothing_missing();
    whole
        .map_err(|error| error.context(lab.margay_logs(15)))
        .unwrap();
}

/// What a call could leave on a node, and what a second daemon could touch: links, addresses, routes, named namespaces, our table.
fn state(lab: &Lab, node: &str) -> String {
    let script = "ip -o link show | sed 's/ state .*//'; ip -o addr show | sed 's/valid_lft.*//'; ip route show table all | sort; \
                  ip nexthop show | sort; ls /run/netns; nft -s list table inet margay | sed 's/ # progname.*//'";
    lab.node(node).machine.shell(script).unwrap()
}

/// Addresses in use, by handle.
fn handles(lab: &Lab) -> String {
    lab.kubectl(&["get", "ipamhandles", "-o=name"]).unwrap()
}

/// A call of the plugin that must be refused.
struct Refused {
    what: &'static str,
    stdin: Vec<u8>,
    /// What differs from a good ADD: words of `env`.
    environment: &'static str,
    code: u64,
    /// What the text must name.
    names: &'static str,
}

const GOOD: &str = r#"{"cniVersion":"1.0.0","name":"k8s-pod-network","type":"margay","ipam":{"type":"margay-ipam"}}"#;

#[expect(clippy::too_many_lines, reason = "a table")]
fn refused() -> Vec<Refused> {
    let case = |what, stdin: &[u8], environment, code, names| Refused {
        what,
        stdin: stdin.to_vec(),
        environment,
        code,
        names,
    };
    let with = |from: &str, to: &str| GOOD.replace(from, to).into_bytes();
    let long = format!("{}{}", GOOD, " ".repeat(300 * 1024));
    let text = b"{\"cniVersion\":\"1.0.0\",\"name\":\"\xff\xfe\",\"type\":\"margay\"}";
    vec![
        case(
            "half a configuration",
            &GOOD.as_bytes()[..40],
            "",
            6,
            "not JSON",
        ),
        case("no configuration", b"", "", 6, "not JSON"),
        case(
            "a list for a configuration",
            b"[1, 2]",
            "",
            6,
            "not a JSON object",
        ),
        case("a configuration that is not UTF-8", text, "", 6, "not JSON"),
        case(
            "a configuration that is too long",
            long.as_bytes(),
            "",
            6,
            "longer than 262144 bytes",
        ),
        case(
            "an unknown version",
            &with("1.0.0", "9.9.9"),
            "",
            1,
            "9.9.9",
        ),
        case(
            "no version",
            &with("\"cniVersion\":\"1.0.0\",", ""),
            "",
            1,
            "0.2.0",
        ),
        case(
            "a key of the wrong form",
            &with(
                "\"type\":\"margay\",",
                "\"type\":\"margay\",\"mtu\":\"big\",",
            ),
            "",
            7,
            "mtu",
        ),
        case(
            "no network name",
            &with("\"name\":\"k8s-pod-network\",", ""),
            "",
            7,
            "name",
        ),
        case(
            "addresses from elsewhere",
            &with("margay-ipam", "host-local"),
            "",
            2,
            "host-local",
        ),
        case(
            "a sandbox that is not there",
            GOOD.as_bytes(),
            "CNI_NETNS=/run/netns/nowhere",
            3,
            "/run/netns/nowhere",
        ),
        case(
            "a sandbox that is a file",
            GOOD.as_bytes(),
            "CNI_NETNS=/etc/hosts",
            4,
            "/etc/hosts",
        ),
        case(
            "the host for a sandbox",
            GOOD.as_bytes(),
            "CNI_NETNS=/proc/1/ns/net",
            8,
            "own network namespace",
        ),
        case(
            "no sandbox",
            GOOD.as_bytes(),
            "-u CNI_NETNS",
            4,
            "CNI_NETNS",
        ),
        case(
            "an unknown verb",
            GOOD.as_bytes(),
            "CNI_COMMAND=ATTACH",
            4,
            "ATTACH",
        ),
        case(
            "an interface name that is a path",
            GOOD.as_bytes(),
            "CNI_IFNAME=../eth0",
            4,
            "CNI_IFNAME",
        ),
        case(
            "a container id with a blank",
            GOOD.as_bytes(),
            "CNI_CONTAINERID='a b'",
            4,
            "CNI_CONTAINERID",
        ),
        case(
            "a container id that is not UTF-8",
            GOOD.as_bytes(),
            r#"CNI_CONTAINERID="$(printf '\377')""#,
            4,
            "CNI_CONTAINERID",
        ),
        case(
            "a pod that does not exist",
            GOOD.as_bytes(),
            "CNI_ARGS='K8S_POD_NAMESPACE=default;K8S_POD_NAME=nobody'",
            11,
            "nobody",
        ),
    ]
}

/// Calls the plugin on n1 as a runtime does; exit code and stdout.
fn call(lab: &Lab, verb: &str, stdin: &[u8], environment: &str) -> (i32, String) {
    std::fs::write(lab.run().shared().join("stdin"), stdin).unwrap();
    let script = format!(
        "code=0; env CNI_COMMAND={verb} CNI_CONTAINERID=bad CNI_NETNS=/run/netns/bad CNI_IFNAME=eth0 CNI_PATH=/opt/cni/bin \
         {environment} {PLUGIN} < /run/lab/shared/stdin || code=$?; echo; echo $code"
    );
    // `env -u` must come before assignments.
    let script = match environment.strip_prefix("-u ") {
        Some(name) => script
            .replacen(environment, "", 1)
            .replacen("env ", &format!("env -u {name} "), 1)
            .replacen(&format!("{name}=/run/netns/bad"), "", 1),
        None => script,
    };
    let output = lab.node("n1").machine.shell(&script).unwrap();
    let (stdout, code) = output.trim_end().rsplit_once('\n').unwrap();
    (code.parse().unwrap(), stdout.trim().to_owned())
}

#[test]
fn bad_input_gets_a_clear_error_and_changes_nothing() {
    if skipped() {
        return;
    }
    let (lab, pods) = start();
    step(
        "the plugin refuses bad calls by name and leaves nothing",
        || {
            bad_calls(&lab, &pods);
        },
    );
    step(
        "a peer that sends garbage changes nothing for others",
        || {
            a_garbage_peer(&lab, &pods);
        },
    );
    step(
        "an object that cannot be read counts as absent and is reported",
        || {
            an_unreadable_object(&lab, &pods);
        },
    );
    step("a broken watch recovers", || a_broken_watch(&lab, &pods));
    step(
        "a second daemon waits, touches nothing, and takes over",
        || {
            a_second_daemon(&lab, &pods);
        },
    );
}

fn bad_calls(lab: &Lab, pods: &[Pod]) {
    lab.node("n1").machine.shell("ip netns add bad").unwrap();
    let running = flow(lab, pods, 20);
    let (before, used) = (state(lab, "n1"), handles(lab));
    for case in refused() {
        let (exit, stdout) = call(lab, "ADD", &case.stdin, case.environment);
        let error: Value = serde_json::from_str(&stdout)
            .unwrap_or_else(|_| panic!("{}: no JSON on stdout: {stdout}", case.what));
        println!("{}: {stdout}", case.what);
        assert_eq!(exit, 1, "{}: exit code", case.what);
        assert_eq!(error["code"], case.code, "{}: {stdout}", case.what);
        assert!(error["cniVersion"].is_string(), "{}: {stdout}", case.what);
        let said = format!("{} {}", error["msg"], error["details"]);
        assert!(
            said.contains(case.names),
            "{}: {stdout} does not name {}",
            case.what,
            case.names
        );
        assert!(said.len() > 20, "{}: {stdout} is no sentence", case.what);
    }
    let sandbox = lab
        .node("n1")
        .exec(&["ip", "-n", "bad", "-o", "link", "show"])
        .unwrap();
    assert_eq!(
        sandbox.lines().count(),
        1,
        "only loopback is in the sandbox:\n{sandbox}"
    );
    assert_eq!(
        state(lab, "n1"),
        before,
        "refused calls leave nothing on the node"
    );
    assert_eq!(handles(lab), used, "refused calls keep no address");
    a_good_call_still_works(lab, &before);
    lab.node("n1").machine.shell("ip netns del bad").unwrap();
    nothing_lost(lab, running);
}

fn a_good_call_still_works(lab: &Lab, before: &str) {
    let used = handles(lab);
    let (exit, stdout) = call(lab, "ADD", GOOD.as_bytes(), "");
    assert_eq!(exit, 0, "{stdout}\n{}", lab.margay_logs(20));
    let result: Value = serde_json::from_str(&stdout).unwrap();
    assert!(result.pointer("/ips/0/address").is_some(), "{stdout}");
    // Twice is once.
    for _ in 0..2 {
        assert_eq!(call(lab, "DEL", GOOD.as_bytes(), ""), (0, String::new()));
    }
    lab.wait_for("the good call to leave nothing either", MINUTE, || {
        let now = state(lab, "n1");
        anyhow::ensure!(now == before, "before:\n{before}\nnow:\n{now}");
        Ok(handles(lab) == used)
    })
    .unwrap();
}

/// A schema that refuses next to nothing, as an older or a foreign definition may be. The tier is a selectable field.
const LOOSE: &str = r#"[{"op":"replace","path":"/spec/versions/0/schema","value":{"openAPIV3Schema":{"type":"object","x-kubernetes-preserve-unknown-fields":true,"properties":{"spec":{"type":"object","x-kubernetes-preserve-unknown-fields":true,"properties":{"tier":{"type":"string"}}}}}}}]"#;
const UNREADABLE: &str = "apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: default.unreadable}
spec: {order: first, selector: all(), types: [Ingress]}
";
const READABLE: &str = "apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: default.readable}
spec: {order: 5, selector: app == 'echo', types: [Ingress], ingress: [{action: Deny, protocol: TCP, destination: {ports: [80]}}, {action: Allow}]}
";

/// The gauge of objects of a kind that count as absent, as n1 shows it.
fn quarantined(lab: &Lab, kind: &str) -> anyhow::Result<Option<u32>> {
    let script = format!(
        "exec 3<>/dev/tcp/127.0.0.1/{METRICS}; printf 'GET /metrics HTTP/1.0\\r\\n\\r\\n' >&3; cat <&3"
    );
    let body = lab.node("n1").exec(&["bash", "-ec", &script])?;
    let label = format!("margay_quarantined_objects{{kind=\"{kind}\"}} ");
    Ok(body
        .lines()
        .find_map(|line| line.strip_prefix(&label)?.trim().parse().ok()))
}

fn serves_http(lab: &Lab, pods: &[Pod]) -> bool {
    let (from, to) = (on(pods, "n1"), on(pods, "n2"));
    let target = format!("{}:80", to.address);
    let words = ["/run/tools/probe", "dial", "http", &target, "500"];
    lab.exec_in_pod("default", &from.name, &words).is_ok()
}

fn an_unreadable_object(lab: &Lab, pods: &[Pod]) {
    lab.apply_yaml("apiVersion: projectcalico.org/v3\nkind: FelixConfiguration\nmetadata: {name: default}\nspec: {prometheusMetricsEnabled: true}\n")
        .unwrap();
    let running = flow(lab, pods, 30);
    assert!(
        lab.apply_yaml(UNREADABLE).is_err(),
        "our own schema refuses it"
    );
    lab.kubectl(&[
        "patch",
        "crd",
        "globalnetworkpolicies.projectcalico.org",
        "--type=json",
        "-p",
        LOOSE,
    ])
    .unwrap();
    lab.wait_for("the loose schema to let the object through", MINUTE, || {
        lab.apply_yaml(UNREADABLE).map(|_| true)
    })
    .unwrap();
    lab.wait_for(
        "every node to say that it cannot read the object",
        MINUTE,
        || {
            let logs = lab.margay_logs(200);
            let said = logs.lines().filter(|line| {
                line.contains("object cannot be read; it counts as absent")
                    && line.contains("default.unreadable")
            });
            let pods: std::collections::BTreeSet<&str> =
                said.filter_map(|line| line.split(' ').next()).collect();
            anyhow::ensure!(pods.len() >= 2, "said by {pods:?}");
            Ok(true)
        },
    )
    .unwrap();
    lab.wait_for("one quarantined policy in the metrics", MINUTE, || {
        Ok(quarantined(lab, "GlobalNetworkPolicy")? == Some(1))
    })
    .unwrap();
    let path = "-o=jsonpath={.status.conditions[?(@.type=='Accepted')].status} {.status.conditions[?(@.type=='Accepted')].message}";
    lab.wait_for(
        "the condition Accepted=False that names the field",
        MINUTE,
        || {
            let status =
                lab.kubectl(&["get", "globalnetworkpolicy", "default.unreadable", path])?;
            anyhow::ensure!(
                status.starts_with("False") && status.contains("spec.order"),
                "status: {status}"
            );
            Ok(true)
        },
    )
    .unwrap();
    // Its neighbours of the same kind are read as ever, and the rest goes on.
    assert!(
        serves_http(lab, pods),
        "what cannot be read forbids nothing"
    );
    lab.apply_yaml(READABLE).unwrap();
    lab.wait_for("a policy beside it to hold", MINUTE, || {
        Ok(!serves_http(lab, pods))
    })
    .unwrap();
    lab.delete_yaml(READABLE).unwrap();
    lab.wait_for("its deletion to hold", MINUTE, || {
        Ok(serves_http(lab, pods))
    })
    .unwrap();
    nothing_lost(lab, running);
    lab.delete_yaml(UNREADABLE).unwrap();
    lab.wait_for("no quarantined policy in the metrics", MINUTE, || {
        Ok(quarantined(lab, "GlobalNetworkPolicy")? == Some(0))
    })
    .unwrap();
    lab.wait_margay(MINUTE).unwrap();
}

/// The API server crashes and comes back: what changed meanwhile and what changes afterwards is heard.
fn a_broken_watch(lab: &Lab, pods: &[Pod]) {
    let manifest =
        std::fs::read_to_string(binaries::workspace().join("manifests/crds.yaml")).unwrap();
    lab.apply_yaml(&manifest).unwrap();
    let running = flow(lab, pods, 20);
    for round in 0..2 {
        lab.stop_api();
        std::thread::sleep(Duration::from_secs(2));
        lab.start_api().unwrap();
        let start = std::time::Instant::now();
        lab.wait_for("a policy to be accepted", MINUTE, || {
            lab.apply_yaml(READABLE).map(|_| true)
        })
        .unwrap();
        lab.wait_for("a policy to hold after the watch broke", MINUTE, || {
            Ok(!serves_http(lab, pods))
        })
        .map_err(|error| error.context(lab.margay_logs(20)))
        .unwrap();
        lab.delete_yaml(READABLE).unwrap();
        lab.wait_for("its deletion to hold", MINUTE, || {
            Ok(serves_http(lab, pods))
        })
        .unwrap();
        println!(
            "round {round}: policy and deletion heard {:?} after the API server was back",
            start.elapsed()
        );
    }
    nothing_lost(lab, running);
    lab.wait_margay(MINUTE).unwrap();
}

/// A BGP message: marker, length, type, body.
fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(19 + body.len()).unwrap();
    [&[0xff; 16][..], &length.to_be_bytes(), &[kind], body].concat()
}

/// The AS number of the peer that sends garbage.
const GARBAGE_AS: u16 = 64_999;

/// OPEN (RFC 4271 §4.2) of that version: hold time 90, identifier 10.0.1.10, capabilities IPv4 unicast and 4-octet AS.
fn open(version: u8) -> Vec<u8> {
    let [high, low] = GARBAGE_AS.to_be_bytes();
    let body = [
        version, high, low, 0, 90, 10, 0, 1, 10, 14, 2, 12, 1, 4, 0, 1, 0, 1, 65, 4, 0, 0, high,
        low,
    ];
    message(1, &body)
}

/// Bytes that look like nothing, the same in every run.
fn noise(length: usize) -> Vec<u8> {
    let step = |seed: &mut u32| {
        *seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        Some(seed.to_be_bytes()[0])
    };
    std::iter::successors(Some(7_u32), |seed| {
        Some(seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223))
    })
    .map(|mut seed| step(&mut seed).unwrap_or_default())
    .take(length)
    .collect()
}

/// Sends bytes from the control host to the BGP port of n1; returns what comes back within three seconds, in hex.
fn speak(lab: &Lab, bytes: &[u8]) -> String {
    std::fs::write(lab.run().shared().join("garbage"), bytes).unwrap();
    let node = lab.node("n1").address();
    let script = format!(
        "exec 3<>/dev/tcp/{node}/179 && {{ cat /run/lab/shared/garbage >&3; timeout 3 od -An -v -tx1 -w4096 <&3; }}; true"
    );
    let answer = lab.fabric.control.exec(&["bash", "-c", &script]).unwrap();
    answer.split_whitespace().collect()
}

/// The sessions of n1: peer, state, for how many seconds.
fn sessions(lab: &Lab) -> Vec<(String, String, u64)> {
    let routed = lab.node("n1").processes("routed").into_iter().find(|pid| {
        std::fs::read_to_string(format!("/proc/{pid}/cmdline"))
            .is_ok_and(|line| line.contains("run"))
    });
    let program = format!("/proc/{}/root/routed", routed.unwrap());
    lab.node("n1").machine.shell("true").unwrap();
    std::fs::copy(program, lab.run().shared().join("routed-ask")).unwrap();
    let text = lab
        .node("n1")
        .machine
        .shell("/run/lab/shared/routed-ask bgp --output json peers || true")
        .unwrap();
    let value: Value = serde_json::from_str(&text).unwrap_or_else(|_| panic!("no JSON: {text}"));
    let word = |peer: &Value, key: &str| peer[key].as_str().unwrap_or_default().to_owned();
    value["peers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|peer| {
            (
                word(peer, "peer"),
                word(peer, "state"),
                peer["sinceSeconds"].as_u64().unwrap_or_default(),
            )
        })
        .collect()
}

fn session_with_n2(lab: &Lab) -> (String, u64) {
    let address = lab.node("n2").address().to_string();
    let all = sessions(lab);
    let found = all.iter().find(|(peer, ..)| peer.contains(&address));
    let (_, state, since) = found.unwrap_or_else(|| panic!("no session with {address}: {all:?}"));
    (state.clone(), *since)
}

fn a_garbage_peer(lab: &Lab, pods: &[Pod]) {
    lab.wait_for("the nodes' session", MINUTE, || {
        Ok(session_with_n2(lab).0 == "Established")
    })
    .unwrap();
    let begun = std::time::Instant::now();
    let (_, age) = session_with_n2(lab);
    let routes = || {
        lab.node("n1")
            .exec(&["ip", "route", "show", "proto", "81"])
            .unwrap()
    };
    let before = (routes(), state(lab, "n1"));
    let running = flow(lab, pods, 45);
    // Nobody's peer: closed without a word.
    for bytes in [noise(4096), open(4), Vec::new()] {
        assert_eq!(speak(lab, &bytes), "", "an unknown source gets no answer");
    }
    // A peer of ours that has lost its mind. NOTIFICATION codes and subcodes: RFC 4271 §4.5.
    lab.apply_yaml(&format!("apiVersion: projectcalico.org/v3\nkind: BGPPeer\nmetadata: {{name: garbage}}\nspec: {{peerIP: {}, asNumber: {GARBAGE_AS}}}\n", lab::fabric::CONTROL))
        .unwrap();
    let keepalive_then = |update: Vec<u8>| [open(4), message(4, &[]), update].concat();
    let cases = [
        ("noise", noise(4096), "030101"),
        ("an OPEN of version 5", open(5), "030201"),
        ("an OPEN that is cut", message(1, &[4, 0, 1]), "030102"),
        ("an UPDATE before OPEN", message(2, &[0, 0, 0, 0]), "0305"),
        (
            "attributes longer than the UPDATE",
            keepalive_then(message(2, &[0, 0, 0xff, 0xff, 0x40, 1])),
            "030301",
        ),
        (
            "a message longer than allowed",
            keepalive_then([&[0xff; 16][..], &[0xff, 0xff, 2]].concat()),
            "030102",
        ),
    ];
    for (what, bytes, notification) in cases {
        // After an error the daemon lets the peer wait; a refused connection says nothing.
        lab.wait_for(&format!("a NOTIFICATION for {what}"), MINUTE, || {
            let answer = speak(lab, &bytes);
            let notified = answer.split(&"f".repeat(32)).any(|part| {
                part.get(4..)
                    .is_some_and(|rest| rest.starts_with(notification))
            });
            anyhow::ensure!(notified, "answer: {answer}");
            Ok(true)
        })
        .map_err(|error| error.context(lab.margay_logs(15)))
        .unwrap();
    }
    nothing_lost(lab, running);
    let (state_now, age_now) = session_with_n2(lab);
    assert_eq!(state_now, "Established");
    assert!(
        age_now + 2 >= age + begun.elapsed().as_secs(),
        "the session with n2 is as old as the cluster: {age} s, then {age_now} s after {:?}",
        begun.elapsed()
    );
    assert_eq!(
        (routes(), state(lab, "n1")),
        before,
        "routes and rules are untouched"
    );
    lab.delete_yaml("apiVersion: projectcalico.org/v3\nkind: BGPPeer\nmetadata: {name: garbage}\n")
        .unwrap();
    lab.wait_margay(MINUTE).unwrap();
}

/// A kubeconfig for n1 with the rights of Margay's own service account, no more.
fn kubeconfig_of_the_daemon(lab: &Lab) {
    let shared = lab.run().shared();
    // Bound to the daemon's pod, as a mounted token is: admission wants to know the node.
    let daemons = lab
        .pods(NAMESPACE, "app.kubernetes.io/name=margay")
        .unwrap();
    let daemon = format!("--bound-object-name={}", on(&daemons, "n1").name);
    let token = lab
        .kubectl(&[
            "-n",
            NAMESPACE,
            "create",
            "token",
            "margay-node",
            "--bound-object-kind=Pod",
            &daemon,
        ])
        .unwrap();
    let template = std::fs::read_to_string(shared.join("n1.kubeconfig")).unwrap();
    let line = |line: &str| match line.split_once("token:") {
        Some((head, rest)) => format!(
            "{head}token: {}{}\n",
            token.trim(),
            if rest.contains('}') { "}" } else { "" }
        ),
        None => format!("{line}\n"),
    };
    let text: String = template.lines().map(line).collect();
    std::fs::write(shared.join("second.kubeconfig"), text).unwrap();
}

fn a_second_daemon(lab: &Lab, pods: &[Pod]) {
    let own = &lab.binaries().own;
    // Under another name, so that it is not taken for the first.
    std::fs::copy(own.join("routed"), lab.run().shared().join("second")).unwrap();
    std::fs::copy(own.join("margay"), lab.run().shared().join("margay")).unwrap();
    kubeconfig_of_the_daemon(lab);
    let node = lab.node("n1");
    // The first one's heartbeat is a new file each time.
    let places = || {
        node.machine
            .shell("ls -i /run/margay | grep -v heartbeat")
            .unwrap()
    };
    let before = (state(lab, "n1"), places());
    let running = flow(lab, pods, 40);
    let words = [
        "/run/lab/shared/second",
        "run",
        "--node",
        "n1",
        "--kubeconfig",
        "/run/lab/shared/second.kubeconfig",
        "--plugin",
        "/run/lab/shared/margay",
        "--log-format",
        "text",
    ];
    let mut second = node.machine.spawn("second", &words).unwrap();
    lab.wait_for("the second daemon to say that it waits", MINUTE, || {
        Ok(second.tail(20).contains("another daemon runs on this node"))
    })
    .unwrap();
    std::thread::sleep(Duration::from_secs(5));
    assert!(second.alive(), "it waits: {}", second.tail(10));
    assert_eq!(
        (state(lab, "n1"), places()),
        before,
        "a waiting daemon touches nothing"
    );
    let status = || node.machine.shell("/run/lab/shared/second status");
    assert!(
        status().unwrap().contains("ready"),
        "the first one serves as before"
    );

    // The first ends and is not started again: the kubelet is away.
    node.stop_kubelet();
    assert!(node.kill_routed() >= 1);
    lab.wait_for("the second daemon to be ready", MINUTE, || {
        status().map(|text| !text.contains("NOT READY"))
    })
    .map_err(|error| error.context(second.tail(20)))
    .unwrap();
    let text = second.tail(200);
    assert!(!text.contains("panicked"), "{text}");
    node.machine.shell("ip netns add bad").unwrap();
    let taken_over = state(lab, "n1");
    let stripped = |text: &str| {
        text.lines()
            .filter(|line| *line != "bad")
            .collect::<Vec<_>>()
            .join("\n")
    };
    assert_eq!(
        stripped(&taken_over),
        stripped(&before.0),
        "what was in the kernel is adopted"
    );
    a_good_call_still_works(lab, &taken_over);
    nothing_lost(lab, running);

    // And back: the second ends as a rollout ends one, the kubelet starts the first again.
    second.stop();
    node.start_kubelet().unwrap();
    lab.wait_margay(Duration::from_mins(2)).unwrap();
}
