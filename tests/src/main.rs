//! `lab`: the demo, an empty cluster to develop in, and the housekeeping of both.
#![expect(
    clippy::disallowed_methods,
    reason = "the lab acts: it is an `io` room as a whole"
)]
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program for people at a terminal"
)]

mod demo;
mod figures;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};
use lab::guest::{self, Guest};
use lab::node::ProxyMode;
use lab::{Families, Lab, Options, Topology, binaries, command, prepare, progress, requires, run};

/// A real Kubernetes in a two-rack datacentre, in network namespaces of this machine.
#[derive(Debug, Parser)]
#[command(name = "lab", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Margay in two racks: BGP with BIRD and FRR, and a `GlobalNetworkPolicy` that changes who reaches whom.
    Demo {
        #[command(flatten)]
        programs: Programs,
        /// What the cluster speaks.
        #[arg(long, value_enum, default_value_t)]
        family: Families,
        /// End after the show, instead of staying up until Ctrl-C.
        #[arg(long)]
        exit: bool,
        /// Stay up after a failure, to look at it.
        #[arg(long)]
        keep: bool,
    },
    /// Two racks and a cluster without a network plugin, until Ctrl-C.
    Up {
        #[command(flatten)]
        programs: Programs,
        /// What the cluster speaks.
        #[arg(long, value_enum, default_value_t)]
        family: Families,
        /// One subnet with this many nodes instead of two racks.
        #[arg(long, value_name = "NODES")]
        one_subnet: Option<u8>,
        /// kube-proxy in iptables mode.
        #[arg(long)]
        iptables: bool,
        /// Install Margay as well.
        #[arg(long)]
        margay: bool,
    },
    /// Measures Margay beside the reference plugins `ptp` and `host-local`, and prints the table.
    Figures {
        #[command(flatten)]
        programs: Programs,
        /// How often each thing is measured; the median counts.
        #[arg(long, default_value_t = 3)]
        rounds: u32,
        /// Two racks of two nodes instead of one subnet of two.
        #[arg(long)]
        two_racks: bool,
    },
    /// Runs a command with cargo's tests in a guest: one boot, each test in namespaces of its own under that kernel.
    Guest {
        /// What to run, for example `cargo nextest run -p dataplane`.
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// Builds the control plane and fetches kubectl, so that nothing has to wait for them later.
    Prepare,
    /// Removes what killed runs have left.
    Clean,
    /// Waits for the end of the lab that started it, then removes what that has left.
    #[command(hide = true)]
    Janitor { directory: PathBuf },
}

#[derive(Debug, Args)]
struct Programs {
    /// Where `routed` and `margay` are; default: built, beside this program.
    #[arg(long, value_name = "DIR")]
    bin_dir: Option<PathBuf>,
    /// Official Kubernetes binaries to use instead of building the control plane (also: `KUBEBUILDER_ASSETS`).
    #[arg(long, value_name = "DIR")]
    kube_bin: Option<PathBuf>,
}

/// Set when a signal means "enough seen" rather than "break off".
static SHOWN: AtomicBool = AtomicBool::new(false);

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let outcome = match arguments.command {
        Command::Demo {
            programs,
            family,
            exit,
            keep,
        } => {
            let topology = Topology::two_racks().speaking(family);
            end_on_signals().and_then(|()| demo::run(options(topology, programs), exit, keep))
        }
        Command::Up {
            programs,
            family,
            one_subnet,
            iptables,
            margay,
        } => {
            let topology = one_subnet.map_or_else(Topology::two_racks, Topology::one_subnet);
            let mut options = options(topology.speaking(family), programs);
            if iptables {
                options.proxy = ProxyMode::Iptables;
            }
            end_on_signals().and_then(|()| up(options, margay))
        }
        Command::Figures {
            programs,
            rounds,
            two_racks,
        } => {
            let topology = if two_racks {
                Topology::two_racks()
            } else {
                Topology::one_subnet(2)
            };
            let options = options(topology, programs);
            end_on_signals()
                .and_then(|()| build(&options, &["--release", "-p", "routed", "-p", "cni-plugin"]))
                .and_then(|()| figures::run(&options, rounds))
        }
        Command::Guest { command } => end_on_signals().and_then(|()| in_guest(&command)),
        Command::Prepare => prepare::run(),
        Command::Clean => clean(),
        Command::Janitor { directory } => run::janitor(&directory),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nlab: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs a command while a guest is up, with the guest as cargo's test runner.
fn in_guest(words: &[String]) -> Result<()> {
    let missing = requires::guest_missing();
    anyhow::ensure!(
        missing.is_empty(),
        "this machine cannot hold a guest:\n  {}",
        missing.join("\n  ")
    );
    let (program, arguments) = words.split_first().context("nothing to run")?;
    let run = run::Run::open(&binaries::lab_directory()?)?;
    let guest = Guest::boot(&run, guest::Options::new("guest"))?;
    let status = std::process::Command::new(program)
        .args(arguments)
        .env(
            "CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER",
            guest.runner()?,
        )
        .status()
        .with_context(|| format!("start {program}"))?;
    guest.check()?;
    anyhow::ensure!(status.success(), "{}: {status}", words.join(" "));
    Ok(())
}

fn options(topology: Topology, programs: Programs) -> Options {
    Options {
        bin_dir: programs.bin_dir,
        kube_bin: programs.kube_bin,
        ..Options::new(topology)
    }
}

/// Builds what the lab takes along: its own `probe`, and the packages named, unless `--bin-dir` says where they are.
fn build(options: &Options, packages: &[&str]) -> Result<()> {
    let cargo = |words: &[&str]| {
        progress::step(&format!("cargo build {}", words.join(" ")), || {
            let program = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
            let mut build = std::process::Command::new(program);
            build
                .args(["build", "--quiet"])
                .args(words)
                .current_dir(binaries::workspace());
            command::output(&mut build, None).map(drop)
        })
    };
    if options.bin_dir.is_some() && binaries::own("probe").is_ok() {
        return Ok(());
    }
    cargo(&["-p", "lab", "--bin", "probe"])?;
    if options.bin_dir.is_none() && !packages.is_empty() {
        cargo(packages)?;
    }
    Ok(())
}

fn up(options: Options, margay: bool) -> Result<()> {
    build(
        &options,
        if margay {
            &["-p", "routed", "-p", "cni-plugin"]
        } else {
            &[]
        },
    )?;
    let lab = Lab::start(options)?;
    if margay {
        lab.install_margay()?;
        lab.wait_bgp(std::time::Duration::from_mins(1))?;
    }
    stay(&lab)
}

/// Says how to use the cluster, and waits for a signal.
fn stay(lab: &Lab) -> Result<()> {
    println!("\nThe cluster stays up until Ctrl-C. In another shell:\n");
    println!("  export KUBECONFIG={}", lab.kubeconfig().display());
    println!("  {} get pods -A -o wide", lab.binaries().kubectl.display());
    for node in lab.nodes() {
        println!(
            "  nsenter -t {} -n -m -u -p bash      # node {}, {}",
            node.machine.pid(),
            node.name(),
            node.address()
        );
    }
    for tor in &lab.fabric.tors {
        println!(
            "  nsenter -t {} -n -m -u -p bash      # {}",
            tor.machine.pid(),
            tor.title()
        );
    }
    println!("  logs: {}", lab.run().logs().display());
    SHOWN.store(true, Ordering::Relaxed);
    loop {
        std::thread::park();
    }
}

fn clean() -> Result<()> {
    let swept = run::sweep_dead(&binaries::lab_directory()?.join("runs"))?;
    if swept.is_empty() {
        println!("nothing was left behind");
    }
    for tag in swept {
        println!("removed what run {tag} had left");
    }
    Ok(())
}

/// On SIGINT, SIGTERM or SIGHUP takes the lab down and ends this program, whatever it is just doing.
fn end_on_signals() -> Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the signal runtime")?;
    // Registered before the thread starts, so that no signal finds the default action.
    let (mut interrupt, mut terminate, mut hangup) = {
        let _guard = runtime.enter();
        (
            signal(SignalKind::interrupt())?,
            signal(SignalKind::terminate())?,
            signal(SignalKind::hangup())?,
        )
    };
    std::thread::spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
                _ = hangup.recv() => {}
            }
        });
        let start = std::time::Instant::now();
        eprintln!("\n  taking everything down ...");
        let removed = run::end_live();
        let code = match (&removed, SHOWN.load(Ordering::Relaxed)) {
            (Ok(()), true) => 0,
            (Ok(()), false) => 130,
            (Err(_), _) => 1,
        };
        match removed {
            Ok(()) => eprintln!(
                "  gone, nothing left behind ({:.1} s)",
                start.elapsed().as_secs_f64()
            ),
            Err(error) => eprintln!("  {error:#}"),
        }
        std::process::exit(code);
    });
    Ok(())
}
