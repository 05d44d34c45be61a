//! `kubectl`, as a user has it.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;

use crate::command;

/// `kubectl` with the administrator's kubeconfig of a run.
#[derive(Clone, Debug)]
pub struct Kubectl {
    /// The program.
    pub program: PathBuf,
    /// The kubeconfig.
    pub config: PathBuf,
}

impl Kubectl {
    /// The command with these arguments, not yet started.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command
            .arg("--kubeconfig")
            .arg(&self.config)
            .args(arguments);
        command
    }

    /// Runs it; returns its standard output.
    ///
    /// # Errors
    /// It fails; its own words are in the error.
    pub fn run(&self, arguments: &[&str]) -> Result<String> {
        command::output(&mut self.command(arguments), None)
    }

    /// As [`Kubectl::run`], with standard input.
    ///
    /// # Errors
    /// As [`Kubectl::run`].
    pub fn run_with(&self, arguments: &[&str], input: &str) -> Result<String> {
        command::output(&mut self.command(arguments), Some(input))
    }
}
