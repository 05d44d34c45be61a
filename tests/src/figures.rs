//! `lab figures`: what Margay takes in time and memory, beside the reference chain `ptp` + `host-local` on the same machine
//! in the same run. Medians; every single value is printed too, because a median hides a busy machine.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use lab::lab::{Pod, deployment};
use lab::{Lab, Options, rival};

/// Calls of each verb in one run of the plugin measurement.
const CALLS: u32 = 30;
/// Addresses kept ready in the second measurement of calls.
const WARM: u32 = 8;
const MINUTE: Duration = Duration::from_mins(1);
/// How long a cluster rests before memory is looked at.
const REST: Duration = Duration::from_secs(15);

/// One line of the table.
struct Figure {
    name: String,
    unit: &'static str,
    values: Vec<f64>,
}

impl Figure {
    fn new(name: impl Into<String>, unit: &'static str, values: Vec<f64>) -> Self {
        Self {
            name: name.into(),
            unit,
            values,
        }
    }

    fn print(&self) {
        let all: Vec<String> = self
            .values
            .iter()
            .map(|value| format!("{value:.1}"))
            .collect();
        println!(
            "{:<58} {:>8.1} {:<4} of {}",
            self.name,
            median(&self.values),
            self.unit,
            all.join(" ")
        );
    }
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
        .get(sorted.len().saturating_sub(1) / 2)
        .copied()
        .unwrap_or(f64::NAN)
}

/// Measures everything `rounds` times and prints the table.
///
/// # Errors
/// A cluster does not come up, or a measured action fails.
pub(crate) fn run(options: &Options, rounds: u32) -> Result<()> {
    let mut figures = beside(options, rounds)?;
    let lab = Lab::start(options.clone())?;
    lab.install_margay()?;
    lab.apply_yaml("apiVersion: projectcalico.org/v3\nkind: FelixConfiguration\nmetadata: {name: default}\nspec: {prometheusMetricsEnabled: true}\n")?;
    figures.push(pods_ready(&lab, "margay", rounds)?);
    figures.extend(plugin(&lab, "margay", rounds)?);
    lab.apply_yaml(&format!("apiVersion: projectcalico.org/v3\nkind: IPAMConfiguration\nmetadata: {{name: default}}\nspec: {{margay: {{warmAddresses: {WARM}}}}}\n"))?;
    figures.extend(plugin(
        &lab,
        &format!("margay, {WARM} addresses kept ready"),
        rounds,
    )?);
    figures.extend(steps(
        lab.nodes().first().context("the topology has no node")?,
    )?);
    lab.apply_yaml(&deployment("default", "figures", 12, &[]))?;
    lab.wait_rollout("default", "deployment/figures", MINUTE)?;
    figures.push(policy(&lab, rounds)?);
    figures.extend(memory(&lab)?);
    drop(lab);
    println!("\nmedian of {rounds} rounds, and each:");
    figures.iter().for_each(Figure::print);
    Ok(())
}

/// The same Deployment with the reference chain, in a cluster of its own.
fn beside(options: &Options, rounds: u32) -> Result<Vec<Figure>> {
    let lab = Lab::start(options.clone())?;
    rival::install(&lab)?;
    lab.wait_nodes_ready(MINUTE)?;
    Ok(vec![pods_ready(&lab, "ptp + host-local", rounds)?])
}

/// From `kubectl apply` of a Deployment of twelve pods until all are Ready.
fn pods_ready(lab: &Lab, chain: &str, rounds: u32) -> Result<Figure> {
    let yaml = deployment("default", "figures", 12, &[]);
    let mut values = Vec::new();
    for _ in 0..rounds {
        let start = Instant::now();
        lab.apply_yaml(&yaml)?;
        lab.wait_rollout("default", "deployment/figures", 2 * MINUTE)?;
        values.push(start.elapsed().as_secs_f64());
        lab.delete_yaml(&yaml)?;
        lab.wait_for("the pods to be gone", 2 * MINUTE, || {
            let left = lab.kubectl(&["get", "pods", "-l", "app=figures", "-o=name"])?;
            Ok(left.trim().is_empty())
        })?;
    }
    Ok(Figure::new(format!("12 pods Ready, {chain}"), "s", values))
}

/// ADD and DEL of both chains by turns, through a real exec, in sandboxes without a Kubernetes pod; one p50 per round.
fn plugin(lab: &Lab, name: &str, rounds: u32) -> Result<Vec<Figure>> {
    let node = lab.nodes().first().context("the topology has no node")?;
    let chains = ["margay", "ptp"];
    let mut seen: Vec<(&str, &str, Vec<f64>)> = Vec::new();
    for _ in 0..rounds {
        let printed = node.exec(&["bash", "-ec", &calls()])?;
        for (chain, verb) in chains
            .iter()
            .flat_map(|chain| [(*chain, "ADD"), (*chain, "DEL")])
        {
            let prefix = format!("{chain} {verb} ");
            let values: Vec<f64> = printed
                .lines()
                .filter_map(|line| line.strip_prefix(&prefix)?.parse::<f64>().ok())
                .map(|micros| micros / 1_000.0)
                .collect();
            anyhow::ensure!(values.len() == CALLS as usize, "{prefix}failed: {printed}");
            let p50 = median(&values);
            match seen
                .iter_mut()
                .find(|entry| (entry.0, entry.1) == (chain, verb))
            {
                Some(entry) => entry.2.push(p50),
                None => seen.push((chain, verb, vec![p50])),
            }
        }
    }
    let figure = |(chain, verb, values): (&str, &str, _)| {
        let chain = if chain == "margay" {
            name
        } else {
            "ptp + host-local"
        };
        Figure::new(format!("CNI {verb} p50 by exec, {chain}"), "ms", values)
    };
    Ok(seen.into_iter().map(figure).collect())
}

/// Where the daemon's part of a call goes: the mean of each step, by its own metrics.
fn steps(node: &lab::node::Node) -> Result<Vec<Figure>> {
    const SCRAPE: &str =
        r"exec 3<>/dev/tcp/127.0.0.1/9091; printf 'GET /metrics HTTP/1.0\r\n\r\n' >&3; cat <&3";
    let body = node.exec(&["bash", "-ec", SCRAPE])?;
    let number = |name: &str, step: &str| {
        let start = format!("margay_cni_step_duration_seconds_{name}{{step=\"{step}\"}} ");
        body.lines()
            .find_map(|line| line.strip_prefix(&start)?.trim().parse::<f64>().ok())
    };
    let names = body.lines().filter_map(|line| {
        line.strip_prefix("margay_cni_step_duration_seconds_count{step=\"")?
            .split('"')
            .next()
    });
    let figures = names.filter_map(|step| {
        let mean = number("sum", step)? / number("count", step)? * 1e3;
        Some(Figure::new(
            format!("  mean of step {step}"),
            "ms",
            vec![mean],
        ))
    });
    Ok(figures.collect())
}

/// The shell program that calls both plugins and prints microseconds. Between the chains it rests, so that what one leaves to be
/// done behind its answer (our DEL: link and address; the kernel: a namespace) is not in the other's time.
fn calls() -> String {
    format!(
        r#"cd /run
printf '%s' '{{"cniVersion":"1.0.0","name":"figures","type":"margay","ipam":{{"type":"margay-ipam"}}}}' > figures-margay
printf '%s' '{{"cniVersion":"1.0.0","name":"beside","type":"ptp","ipam":{{"type":"host-local","subnet":"10.66.0.0/16","dataDir":"/run/figures"}}}}' > figures-ptp
call() {{
  local start=$EPOCHREALTIME
  CNI_COMMAND=$2 CNI_CONTAINERID=$1$3 CNI_NETNS=/run/netns/figures$3 CNI_IFNAME=eth0 CNI_PATH=/usr/lib/cni $4 < figures-$1 > figures-out || {{ cat figures-out; exit 1; }}
  local end=$EPOCHREALTIME
  echo "$1 $2 $((10#${{end/./}} - 10#${{start/./}}))"
}}
for round in $(seq {CALLS}); do
  ip netns add figures$round
  for verb in ADD DEL; do call margay $verb $round /opt/cni/bin/margay; done
  sleep 0.15
  for verb in ADD DEL; do call ptp $verb $round /usr/lib/cni/ptp; done
  ip netns del figures$round
  sleep 0.15
done
rm -rf figures-margay figures-ptp figures-out figures
"#
    )
}

/// From the return of `kubectl apply` of a policy until the first new conversation that it stops; a thousand are begun a second.
fn policy(lab: &Lab, rounds: u32) -> Result<Figure> {
    let pods = lab.pods("default", "app=figures")?;
    let from = pods.first().context("no pods")?;
    let to = pods
        .iter()
        .find(|pod| pod.node != from.node)
        .context("all pods are on one node")?;
    let mut values = Vec::new();
    for round in 0..rounds {
        // Ports that no round before has used lately.
        let first_port = 10_000 + round % 8 * 6_000;
        values.push(first_stopped(lab, from, to, first_port)?);
    }
    Ok(Figure::new(
        "policy: kubectl apply returned until first packet dropped",
        "ms",
        values,
    ))
}

fn first_stopped(lab: &Lab, from: &Pod, to: &Pod, first_port: u32) -> Result<f64> {
    let (target, first_port) = (format!("{}:7", to.address), first_port.to_string());
    let policy = format!(
        "apiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\nmetadata: {{name: default.figures}}\nspec: {{selector: app == 'figures', types: [Ingress], ingress: [{{action: Deny, protocol: UDP, source: {{nets: [{}/32]}}}}, {{action: Allow}}]}}\n",
        from.address
    );
    let (printed, returned) = std::thread::scope(|scope| {
        let asking = scope.spawn(|| {
            lab.exec_in_pod(
                "default",
                &from.name,
                &["/run/tools/probe", "fresh", &target, "6", &first_port],
            )
        });
        std::thread::sleep(Duration::from_secs(2));
        let applied = lab.apply_yaml(&policy);
        let returned = SystemTime::now().duration_since(UNIX_EPOCH);
        let printed = asking
            .join()
            .unwrap_or_else(|_panic| anyhow::bail!("the thread of the probe panicked"));
        applied.and(printed).map(|printed| (printed, returned))
    })?;
    lab.delete_yaml(&policy)?;
    let seen: serde_json::Value =
        serde_json::from_str(&printed).context("read the probe's words")?;
    let first = seen
        .get("lost_from_us")
        .and_then(serde_json::Value::as_f64)
        .with_context(|| format!("nothing was stopped: {printed}"))?;
    let returned = returned.context("the clock stands before 1970")?;
    Ok((first - returned.as_secs_f64() * 1e6) / 1e3)
}

/// Resident memory of the daemon on every node after a rest, with six pods on each.
fn memory(lab: &Lab) -> Result<Vec<Figure>> {
    std::thread::sleep(REST);
    let (mut resident, mut own) = (Vec::new(), Vec::new());
    for node in lab.nodes() {
        for pid in node.processes("routed") {
            let read = |file: &str| std::fs::read_to_string(format!("/proc/{pid}/{file}"));
            if !read("cmdline").is_ok_and(|line| line.split('\0').nth(1) == Some("run")) {
                continue;
            }
            let status = read("status").context("read the daemon's memory")?;
            let mebibytes = |key: &str| {
                let line = status.lines().find_map(|line| line.strip_prefix(key));
                let kib = line.and_then(|rest| rest.split_whitespace().next()?.parse::<f64>().ok());
                kib.map(|kib| kib / 1_024.0)
                    .with_context(|| format!("no {key}"))
            };
            resident.push(mebibytes("VmRSS:")?);
            own.push(mebibytes("RssAnon:")?);
        }
    }
    Ok(vec![
        Figure::new("routed, resident", "MiB", resident),
        Figure::new(
            "routed, resident, not backed by its program file",
            "MiB",
            own,
        ),
    ])
}
