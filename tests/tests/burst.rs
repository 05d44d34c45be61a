//! 110 pods at once on one node and gone again: every address, link, route, set element, shim and mount is given back.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::time::Duration;

use lab::{Lab, image, requires};

const LIMIT: Duration = Duration::from_secs(240);
const PODS: usize = 110;

/// Everything on the node that belongs to a pod.
fn traces(lab: &Lab) -> BTreeSet<String> {
    let node = lab.node("n1");
    let mut seen = BTreeSet::new();
    let mut note = |what: &str, text: &str| {
        seen.extend(text.lines().map(|line| format!("{what} {}", line.trim())))
    };
    note(
        "link",
        &node
            .machine
            .shell("ip -o link show | grep -o 'cali[0-9a-f]*' | sort -u; true")
            .unwrap(),
    );
    note(
        "route",
        &node
            .machine
            .shell("ip route show | grep cali; true")
            .unwrap(),
    );
    note(
        "element",
        &node
            .machine
            .shell("nft list table inet margay | grep -o '10\\.244\\.[0-9.]*' | sort -u; true")
            .unwrap(),
    );
    note(
        "shim",
        &node
            .machine
            .shell("ps -eo args | grep -o '[c]ontainerd-shim.* -id [0-9a-f]*' | sort -u; true")
            .unwrap(),
    );
    note(
        "mount",
        &node
            .machine
            .shell("grep -o '/run/netns/[^ ]*' /proc/self/mountinfo | sort -u; true")
            .unwrap(),
    );
    let blocks = lab
        .kubectl(&[
            "get",
            "ipamblocks",
            "-o=jsonpath={range .items[*]}{.spec.attributes[*].handle_id}{\"\\n\"}{end}",
        ])
        .unwrap();
    for handle in blocks
        .split_whitespace()
        .filter(|handle| !handle.contains("tunnel"))
    {
        seen.insert(format!("address {handle}"));
    }
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

#[test]
fn a_burst_of_110_pods_comes_and_goes_without_a_trace() {
    let missing = requires::missing();
    if !missing.is_empty() {
        println!("SKIPPED: {}", missing.join("; "));
        return;
    }
    let lab = Lab::one_subnet(1).unwrap();
    lab.install_margay().unwrap();
    let before = traces(&lab);
    // The node's other pods (the daemon and the controllers) count against the kubelet's limit.
    let own = lab
        .kubectl(&["get", "pods", "-A", "-o=name"])
        .unwrap()
        .lines()
        .count();
    let count = PODS - own;
    lab.apply_yaml(&pods(count)).unwrap();
    lab.wait_for("every pod of the burst to run", LIMIT, || {
        let running = lab.kubectl(&[
            "get",
            "pods",
            "-l",
            "app=burst",
            "--field-selector=status.phase=Running",
            "-o=name",
        ])?;
        Ok(running.lines().count() == count)
    })
    .map_err(|error| error.context(lab.margay_logs(30)))
    .unwrap();
    let addresses = lab.pods("default", "app=burst").unwrap();
    let distinct: BTreeSet<&str> = addresses.iter().map(|pod| pod.address.as_str()).collect();
    assert_eq!(distinct.len(), count, "an address per pod");
    let events = lab
        .kubectl(&[
            "get",
            "events",
            "--field-selector=reason=FailedCreatePodSandBox",
            "-o=name",
        ])
        .unwrap();
    println!(
        "failed sandboxes that the kubelet recovered: {}",
        events.lines().count()
    );

    lab.kubectl(&["delete", "pods", "-l", "app=burst", "--wait=false"])
        .unwrap();
    lab.wait_for("every pod of the burst to be gone", LIMIT, || {
        Ok(lab.pods("default", "app=burst")?.is_empty())
    })
    .unwrap();
    lab.wait_for("nothing of the burst to be left", LIMIT, || {
        let left: Vec<String> = traces(&lab).difference(&before).cloned().collect();
        anyhow::ensure!(left.is_empty(), "left: {left:?}");
        Ok(true)
    })
    .unwrap();
}
