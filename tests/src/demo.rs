//! The show: Margay in two racks, from an empty cluster to one `GlobalNetworkPolicy` that changes who reaches whom.

use std::io::IsTerminal;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use lab::lab::{Pod, deployment};
use lab::matrix::Matrix;
use lab::{Families, Family, Lab, Options, peers, progress};

const NAMESPACE: &str = "shop";
/// What the database listens on.
const PORT: u16 = 3306;
/// The tiers: Deployment, label `tier`, replicas.
const TIERS: [(&str, &str, u32); 3] = [
    ("web", "web", 4),
    ("db", "database", 2),
    ("batch", "batch", 2),
];
const POLICY: &str = include_str!("demo/database.yaml");

/// Runs the demo; returns when it has been shown (`exit`), else stays up until a signal.
pub(crate) fn run(options: Options, exit: bool, keep: bool) -> Result<()> {
    let start = Instant::now();
    let families = match options.topology.families {
        Families::Ipv4 => "IPv4",
        Families::Ipv6 => "IPv6 alone",
        Families::Dual => "IPv4 and IPv6",
    };
    println!(
        "Margay demo: two racks, four Kubernetes nodes, BIRD and FRR as top-of-rack routers, {families}\n"
    );
    super::build(&options, &["-p", "routed", "-p", "cni-plugin"])?;
    let lab = Lab::start(options)?;
    let shown = show(&lab);
    match shown {
        Err(error) if keep => {
            eprintln!("\nlab: {error:#}\n\nThe lab stays up to be looked at (--keep).");
            super::stay(&lab)
        }
        Err(error) => Err(error.context(format!(
            "the demo failed; all logs: {}",
            lab.run().logs().display()
        ))),
        Ok(()) if exit => {
            println!(
                "\nShown in {:.0} s. Taking everything down ...",
                start.elapsed().as_secs_f64()
            );
            let run = std::sync::Arc::clone(lab.run());
            drop(lab);
            run.end()?;
            println!("Nothing is left behind.");
            Ok(())
        }
        Ok(()) => super::stay(&lab),
    }
}

fn show(lab: &Lab) -> Result<()> {
    lab.install_margay()?;
    progress::step("BGP sessions with both routers", || {
        lab.wait_bgp(Duration::from_mins(1))
    })?;
    heading("The nodes");
    print!("{}", lab.kubectl(&["get", "nodes", "-o", "wide"])?);
    let pods = tiers(lab)?;
    heading("The pods, placed by the scheduler, addressed by Margay");
    // The wide columns of kubectl have room for one address.
    let columns = match lab.families() {
        Families::Ipv4 | Families::Ipv6 => "wide",
        Families::Dual => {
            "custom-columns=NAME:.metadata.name,STATUS:.status.phase,NODE:.spec.nodeName,ADDRESSES:.status.podIPs[*].ip"
        }
    };
    print!(
        "{}",
        lab.kubectl(&[
            "-n",
            NAMESPACE,
            "get",
            "pods",
            "-o",
            columns,
            "--sort-by=.spec.nodeName"
        ])?
    );
    routers(lab, &pods)?;
    policy(lab, &pods)
}

fn heading(text: &str) {
    println!("\n== {text}\n");
}

/// Deploys the tiers through the scheduler; returns their pods in the order of [`TIERS`].
fn tiers(lab: &Lab) -> Result<Vec<Pod>> {
    let total: u32 = TIERS.iter().map(|(_, _, replicas)| replicas).sum();
    progress::step(&format!("{total} pods in three tiers"), || {
        let mut yaml =
            format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {NAMESPACE}}}\n");
        for (name, tier, replicas) in TIERS {
            let plain = deployment(NAMESPACE, name, replicas, &[PORT]);
            let labelled = plain.replace(
                &format!("labels: {{app: {name}}}"),
                &format!("labels: {{app: {name}, tier: {tier}}}"),
            );
            yaml.extend(["---\n", &labelled]);
        }
        lab.apply_yaml(&yaml)?;
        TIERS.iter().try_for_each(|(name, _, _)| {
            lab.wait_rollout(
                NAMESPACE,
                &format!("deployment/{name}"),
                Duration::from_secs(90),
            )
        })
    })?;
    let mut pods = Vec::new();
    for (name, _, _) in TIERS {
        pods.extend(lab.pods(NAMESPACE, &format!("app={name}"))?);
    }
    Ok(pods)
}

/// The routers' sessions and routes, once every node with pods is known to both.
fn routers(lab: &Lab, pods: &[Pod]) -> Result<()> {
    let addresses: Vec<IpAddr> = pods
        .iter()
        .flat_map(|pod| lab.families().iter().map(|family| pod.of(family)))
        .collect::<Result<_>>()?;
    for tor in &lab.fabric.tors {
        lab.wait_for(
            &format!("{} to know the way to every pod", tor.title()),
            Duration::from_secs(30),
            || {
                let routes = tor.pod_routes()?;
                let known: Vec<ipnet::IpNet> = routes
                    .lines()
                    .filter_map(|line| line.split_whitespace().next()?.parse().ok())
                    .collect();
                match addresses
                    .iter()
                    .find(|address| !known.iter().any(|prefix| prefix.contains(*address)))
                {
                    Some(missing) => bail!("no route to {missing}; it has\n{routes}"),
                    None => Ok(true),
                }
            },
        )?;
    }
    for tor in &lab.fabric.tors {
        heading(&format!(
            "{}: sessions, and the pod routes it learnt",
            tor.title()
        ));
        print!("{}\n{}", peers::table(&tor.sessions()?), tor.pod_routes()?);
    }
    Ok(())
}

/// The matrices of all families, first one first.
type Matrices = Vec<(Family, Matrix)>;

fn measure(lab: &Lab, pods: &[Pod]) -> Result<Matrices> {
    let families = lab.families().iter();
    families
        .map(|family| Ok((family, Matrix::measure_by(lab, pods, PORT, family)?)))
        .collect()
}

/// Prints a matrix a family, named where there are two.
fn print_all(matrices: &Matrices, before: Option<&Matrices>, colour: bool) {
    for (place, (family, matrix)) in matrices.iter().enumerate() {
        if matrices.len() > 1 {
            println!("  {family}:");
        }
        let before = before.and_then(|before| before.get(place));
        print!(
            "{}",
            matrix.render(before.map(|(_, matrix)| matrix), colour)
        );
    }
}

/// The matrix before and after the policy.
fn policy(lab: &Lab, pods: &[Pod]) -> Result<()> {
    let colour = std::io::stdout().is_terminal() && std::env::var("NO_COLOR").is_err();
    heading(&format!(
        "Who reaches whom on port {PORT}, before any policy (pod@node)"
    ));
    let before = measure(lab, pods)?;
    print_all(&before, None, colour);
    let closed = before
        .iter()
        .flat_map(|(_, matrix)| matrix.cells.iter().flatten())
        .filter(|answered| !**answered)
        .count();
    if closed > 0 {
        bail!("{closed} pairs cannot talk although no policy forbids it");
    }
    heading(
        "kubectl apply: only the web tier may reach the database tier, a policy as written for Calico",
    );
    for line in POLICY.lines() {
        println!("  {line}");
    }
    lab.apply_yaml(POLICY)?;
    let expected = |from: &Pod, to: &Pod| {
        from.name == to.name || !to.name.starts_with("db-") || from.name.starts_with("web-")
    };
    let after = enforced(lab, pods, expected)?;
    heading("Who reaches whom now; [ ] = changed");
    print_all(&after, Some(&before), colour);
    let changed: usize = after
        .iter()
        .zip(&before)
        .map(|((_, after), (_, before))| after.changed(before))
        .sum();
    println!(
        "\n  {changed} of {} cells changed: the web tier still reaches the database, nobody else does.",
        pods.len() * pods.len() * after.len()
    );
    Ok(())
}

/// Measures until every cell is as the policy says; a policy is in force within a second, the wait is for slow machines.
fn enforced(lab: &Lab, pods: &[Pod], expected: impl Fn(&Pod, &Pod) -> bool) -> Result<Matrices> {
    let mut seen = None;
    let outcome = lab.wait_for(
        "the policy to be in force everywhere",
        Duration::from_secs(10),
        || {
            let matrices = measure(lab, pods)?;
            let pairs = || {
                let pairs = pods
                    .iter()
                    .flat_map(|from| pods.iter().map(move |to| (from, to)));
                pairs.map(|(from, to)| (from, to, expected(from, to)))
            };
            let wrong: Vec<String> = matrices
                .iter()
                .flat_map(|(family, matrix)| {
                    pairs()
                        .filter(|(from, to, expected)| {
                            matrix.reaches(&from.name, &to.name) != Some(*expected)
                        })
                        .map(move |(from, to, _)| {
                            format!("{} -> {} ({family})", from.name, to.name)
                        })
                })
                .collect();
            seen = Some(matrices);
            if wrong.is_empty() {
                Ok(true)
            } else {
                bail!("not as the policy says: {}", wrong.join(", "))
            }
        },
    );
    match (outcome, seen) {
        (Ok(()), Some(matrices)) => Ok(matrices),
        (Err(error), Some(matrices)) => {
            print_all(&matrices, None, false);
            Err(error)
        }
        (outcome, None) => Err(outcome.err().context("nothing was measured")?),
    }
}
