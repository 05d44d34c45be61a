//! `routed`: one binary, several roles.

use std::process::ExitCode;

use clap::Parser as _;
use routed::args::{Cli, Command};
use routed::{agent, cli, controller, log, manifests};

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Run(args) => {
            let filter = log::init(&args.log);
            daemon(agent::run(args, filter).await)
        }
        Command::Controller(args) => {
            log::init(&args.log);
            daemon(Box::pin(controller::run(args)).await)
        }
        Command::Status(socket) => cli::status(&socket).await,
        Command::Bgp { socket, question } => cli::bgp(&socket, &question).await,
        Command::Validate(args) => cli::validate(&args),
        Command::Crds => print(&api::crds_yaml()),
        Command::Manifests { image } => print(&manifests::manifest(&image)),
    }
}

fn daemon(ended: anyhow::Result<()>) -> ExitCode {
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = format!("{error:#}"), "giving up");
            ExitCode::FAILURE
        }
    }
}

#[expect(clippy::print_stdout, reason = "this is the command line: it prints")]
fn print(text: &str) -> ExitCode {
    print!("{text}");
    ExitCode::SUCCESS
}
