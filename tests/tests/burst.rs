//! 110 pods at once on one node and gone again: every address, link, route, set element, shim and mount is given back.
#![expect(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "a scenario prints what it measured, and a failure ends it"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use lab::requires::skipped;
use lab::{Lab, image};

const LIMIT: Duration = Duration::from_mins(4);
const PODS: usize = 110;

/// What a pod has on its node: kind and the shell line that lists all of that kind, one per line.
const TRACES: [(&str, &str); 6] = [
    (
        "link",
        "ip -o link show | grep -o 'cali[0-9a-f]*' | sort -u",
    ),
    ("route", "ip route show | grep 'dev cali'"),
    (
        "element",
        "nft list table inet margay | grep -o '10\\.244\\.[0-9.]*[0-9]' | sort -u",
    ),
    (
        "shim",
        "ps -eo args | grep -o '[c]ontainerd-shim.* -id [0-9a-f]*' | sort -u",
    ),
    (
        "sandbox mount",
        "grep -o '/run/netns/[^ ]*' /proc/self/mountinfo | sort -u",
    ),
    (
        "container mount",
        "grep -o '/run/containerd/io.containerd.runtime.v2.task/k8s.io/[^ ]*' /proc/self/mountinfo | sort -u",
    ),
];

/// Everything on the node that belongs to a pod, by kind.
fn traces(lab: &Lab) -> BTreeMap<&'static str, BTreeSet<String>> {
    let node = lab.node("n1");
    let lines = |text: String| {
        let lines = text.lines().map(str::trim);
        lines
            .filter(|line| !line.is_empty())
            .map(str::to_owned)
            .collect()
    };
    let mut seen: BTreeMap<&str, BTreeSet<String>> = TRACES
        .iter()
        // grep finding nothing is an answer.
        .map(|(kind, line)| {
            (
                *kind,
                lines(node.machine.shell(&format!("{line} || true")).unwrap()),
            )
        })
        .collect();
    let query =
        "-o=jsonpath={range .items[*]}{range .spec.attributes[*]}{.handle_id}{\"\\n\"}{end}{end}";
    let handles = lab.kubectl(&["get", "ipamblocks", query]).unwrap();
    // An address that rests after its release belongs to nobody: it has no handle.
    seen.insert("address", lines(handles));
    let handles = lab.kubectl(&["get", "ipamhandles", "-o=name"]).unwrap();
    seen.insert("handle", lines(handles));
    seen
}

fn pods(count: usize) -> String {
    let mut text = String::new();
    for number in 0..count {
        let _ = write!(
            text,
            "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: burst-{number}, namespace: default, labels: {{app: burst}}}}\nspec: {{nodeName: n1, terminationGracePeriodSeconds: 0, automountServiceAccountToken: false, enableServiceLinks: false, containers: [{{name: probe, image: {image}, imagePullPolicy: Never, args: [pause]}}]}}\n",
            image = image::PROBE,
        );
    }
    text
}

/// How many pods of the burst run.
fn running(lab: &Lab) -> anyhow::Result<usize> {
    let listed = lab.kubectl(&[
        "get",
        "pods",
        "-l",
        "app=burst",
        "--field-selector=status.phase=Running",
        "-o=name",
    ])?;
    Ok(listed.lines().count())
}

/// Sandboxes that could not be made at first: the kubelet's own words, each once, with how often.
fn failed_sandboxes(lab: &Lab) -> Vec<String> {
    let query = "-o=jsonpath={range .items[*]}{.involvedObject.name}{\" x\"}{.count}{\" \"}{.message}{\"\\n\"}{end}";
    let events = lab
        .kubectl(&[
            "get",
            "events",
            "--field-selector=reason=FailedCreatePodSandBox",
            query,
        ])
        .unwrap();
    events.lines().map(str::to_owned).collect()
}

fn now() -> Instant {
    Instant::now()
}

#[test]
fn a_burst_of_110_pods_comes_and_goes_without_a_trace() {
    if skipped() {
        return;
    }
    let lab = Lab::one_subnet(1).unwrap();
    lab.install_margay().unwrap();
    let before = traces(&lab);
    let start = now();
    lab.apply_yaml(&pods(PODS)).unwrap();
    let applied = start.elapsed();
    lab.wait_for("every pod of the burst to run", LIMIT, || {
        Ok(running(&lab)? == PODS)
    })
    .map_err(|error| error.context(lab.margay_logs(30)))
    .unwrap();
    let came = start.elapsed();
    let failed = failed_sandboxes(&lab);
    println!(
        "{PODS} pods: applied after {applied:.1?}, all Running after {came:.1?}; sandboxes that failed at first: {}",
        failed.len()
    );
    failed.iter().take(5).for_each(|line| println!("  {line}"));
    everything_is_there(&lab, &before);

    let start = now();
    lab.kubectl(&["delete", "pods", "-l", "app=burst", "--wait=false"])
        .unwrap();
    lab.wait_for("every pod of the burst to be gone", LIMIT, || {
        let left = lab.kubectl(&["get", "pods", "-l", "app=burst", "-o=name"])?;
        Ok(left.trim().is_empty())
    })
    .unwrap();
    println!("all gone after {:.1?}", start.elapsed());
    lab.wait_for("nothing of the burst to be left", LIMIT, || {
        let left: Vec<String> = new_since(&lab, &before)
            .into_iter()
            .filter(|(_kind, left)| !left.is_empty())
            .map(|(kind, left)| format!("{kind}: {left:?}"))
            .collect();
        anyhow::ensure!(left.is_empty(), "left: {}", left.join("; "));
        Ok(true)
    })
    .map_err(|error| error.context(lab.margay_logs(30)))
    .unwrap();
    println!("no trace left after {:.1?}", start.elapsed());
}

/// What has appeared on the node since `before`, by kind.
fn new_since(
    lab: &Lab,
    before: &BTreeMap<&'static str, BTreeSet<String>>,
) -> BTreeMap<&'static str, BTreeSet<String>> {
    let mut seen = traces(lab);
    for (kind, traces) in &mut seen {
        traces.retain(|trace| !before.get(kind).is_some_and(|old| old.contains(trace)));
    }
    seen
}

/// While the pods run each has its traces: so their absence afterwards says something.
fn everything_is_there(lab: &Lab, before: &BTreeMap<&'static str, BTreeSet<String>>) {
    let addresses = lab.pods("default", "app=burst").unwrap();
    let distinct: BTreeSet<&str> = addresses.iter().map(|pod| pod.address.as_str()).collect();
    assert_eq!(distinct.len(), PODS, "an address per pod");
    for (kind, traces) in new_since(lab, before) {
        assert!(
            traces.len() >= PODS,
            "{PODS} pods run and {} traces of kind {kind} are seen",
            traces.len()
        );
    }
}
