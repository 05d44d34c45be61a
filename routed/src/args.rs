//! The command line: parsed once, here.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// BGP-routed networking and policy for Kubernetes.
#[derive(Debug, Parser)]
#[command(
    name = "routed",
    version,
    about,
    after_help = "Examples:\n  routed status\n  routed bgp peers"
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Roles of the daemon, and questions to it.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the node daemon.
    Run(RunArgs),
    /// Run the cluster controller: default objects, conditions on objects.
    Controller(ControllerArgs),
    /// How this node is doing.
    Status(SocketArgs),
    /// What the BGP speaker knows.
    Bgp {
        /// Socket of the daemon.
        #[command(flatten)]
        socket: SocketArgs,
        /// The question.
        #[command(subcommand)]
        question: BgpQuestion,
    },
    /// Check objects in files, as the API server and the daemon do.
    #[command(
        after_help = "Exit code 0: nothing is wrong. 1: an object would be refused. 2: a file cannot be read.\n\nExamples:\n  routed validate -f policy.yaml\n  kustomize build . | routed validate -f - -o json"
    )]
    Validate(ValidateArgs),
    /// Print the custom resource definitions.
    Crds,
    /// Print the manifest to install with.
    Manifests {
        /// Image reference to put into it.
        #[arg(long, default_value = crate::manifests::DEFAULT_IMAGE)]
        image: String,
    },
}

/// Questions to the speaker.
#[derive(Debug, Subcommand)]
pub enum BgpQuestion {
    /// Sessions, their state, and why.
    Peers,
    /// Paths the speaker knows, best and losing ones.
    Routes {
        /// Only this prefix.
        prefix: Option<ipnet::IpNet>,
    },
    /// Why a prefix is where it is.
    Explain {
        /// The prefix.
        prefix: ipnet::IpNet,
    },
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}

/// Flags of both daemons.
#[derive(Clone, Debug, Args)]
pub struct LogArgs {
    /// What to log, by target: `info`, `info,bgp=debug`.
    #[arg(long, env = "MARGAY_LOG", default_value = "info")]
    pub log: String,
    /// How log lines look.
    #[arg(long, env = "MARGAY_LOG_FORMAT", value_enum, default_value = "json")]
    pub log_format: LogFormat,
}

/// Flags of `routed run`.
#[derive(Clone, Debug, Args)]
pub struct RunArgs {
    /// Name of this node, as the API server knows it.
    #[arg(long, env = "NODENAME")]
    pub node: String,
    /// Kubeconfig to use outside a pod.
    #[arg(long, env = "KUBECONFIG")]
    pub kubeconfig: Option<PathBuf>,
    /// Sockets and journal; memory-backed, so that a reboot clears it.
    #[arg(long, env = "MARGAY_RUN_DIR", default_value = "/run/margay")]
    pub run_dir: PathBuf,
    /// State that outlives a reboot.
    #[arg(long, env = "MARGAY_STATE_DIR", default_value = "/var/lib/margay")]
    pub state_dir: PathBuf,
    /// Where the host's `/opt/cni/bin` and `/etc/cni/net.d` are seen from here.
    #[arg(long, env = "MARGAY_HOST_ROOT", default_value = "/")]
    pub host_root: PathBuf,
    /// Where a `/proc/sys` whose `net` can be written is seen from here.
    #[arg(long, env = "MARGAY_SYSCTL_ROOT", default_value = "/proc/sys")]
    pub sysctl_root: PathBuf,
    /// The plugin binary to install on the host.
    #[arg(long, env = "MARGAY_PLUGIN", default_value = "/margay")]
    pub plugin: PathBuf,
    /// Namespace this daemon runs in: its Lease and BGP passwords live there.
    #[arg(long, env = "POD_NAMESPACE", default_value = "margay-system")]
    pub namespace: String,
    /// Run BGP even while no BGPPeer and no BGPConfiguration exists.
    #[arg(long, env = "MARGAY_BGP")]
    pub bgp: bool,
    /// Logging.
    #[command(flatten)]
    pub log: LogArgs,
}

/// Flags of `routed controller`.
#[derive(Clone, Debug, Args)]
pub struct ControllerArgs {
    /// Kubeconfig to use outside a pod.
    #[arg(long, env = "KUBECONFIG")]
    pub kubeconfig: Option<PathBuf>,
    /// Namespace of the Lease that elects the one that acts.
    #[arg(long, env = "POD_NAMESPACE", default_value = "margay-system")]
    pub namespace: String,
    /// Name of this replica.
    #[arg(long, env = "POD_NAME", default_value = "margay-controller")]
    pub name: String,
    /// Pools to create for families without one: `auto`, ranges with a comma between, or empty for none.
    #[arg(long, env = "MARGAY_DEFAULT_POOL", default_value = "")]
    pub default_pool: String,
    /// Logging.
    #[command(flatten)]
    pub log: LogArgs,
}

/// Flags of `routed validate`.
#[derive(Clone, Debug, Args)]
pub struct ValidateArgs {
    /// File, directory or `-` for standard input; can be given more than once.
    #[arg(short, long = "filename", required = true, value_name = "FILE")]
    pub filename: Vec<PathBuf>,
    /// Machine-readable output.
    #[arg(short, long, value_enum, default_value = "table")]
    pub output: Output,
}

/// Where the daemon answers.
#[derive(Clone, Debug, Args)]
pub struct SocketArgs {
    /// Socket of the daemon on this node.
    #[arg(
        long,
        env = "MARGAY_SOCKET",
        default_value = "/run/margay/inspect.sock"
    )]
    pub socket: PathBuf,
    /// Machine-readable output.
    #[arg(short, long, value_enum, default_value = "table")]
    pub output: Output,
}

/// Form of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// Columns for the eye.
    Table,
    /// JSON with a `schema` field; fields are only added.
    Json,
}
