//! Programs run to their end, with their output taken and their own words kept in the error.

use std::io::Write;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// Runs a program; returns its standard output.
///
/// # Errors
/// It cannot be started, or it ends with another code than 0: the error holds the command and its standard error.
pub fn output(command: &mut Command, input: Option<&str>) -> Result<String> {
    let shown = show(command);
    command.stdin(if input.is_some() {
        Stdio::piped()
    } else {
        Stdio::null()
    });
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("start {shown}"))?;
    let feed = child
        .stdin
        .take()
        .zip(input.map(str::to_owned))
        .map(|(mut pipe, text)| {
            // A program that ends before it has read everything says why by its code.
            std::thread::spawn(move || drop(pipe.write_all(text.as_bytes())))
        });
    let result = child
        .wait_with_output()
        .with_context(|| format!("wait for {shown}"))?;
    drop(feed.map(std::thread::JoinHandle::join));
    if !result.status.success() {
        let said = String::from_utf8_lossy(&result.stderr);
        let said = if said.trim().is_empty() {
            String::from_utf8_lossy(&result.stdout)
        } else {
            said
        };
        bail!("{shown}: {}: {}", result.status, said.trim());
    }
    Ok(String::from_utf8_lossy(&result.stdout).into_owned())
}

/// Runs a program of this machine, found on the path.
///
/// # Errors
/// As [`output`].
pub fn run(program: &str, arguments: &[&str]) -> Result<String> {
    output(Command::new(program).args(arguments), None)
}

/// The command as one would type it, without the detour through `nsenter`.
fn show(command: &Command) -> String {
    let words: Vec<_> = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    let own = words
        .iter()
        .position(|word| word == "--")
        .map_or(0, |at| at + 1);
    words.get(own..).unwrap_or(&words).join(" ")
}

/// Where a program is: on the path, or in the places of system programs that a user's path lacks.
pub fn find(program: &str) -> Option<std::path::PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default();
    path.split(':')
        .chain(["/usr/sbin", "/sbin", "/usr/local/go/bin"])
        .map(|directory| std::path::Path::new(directory).join(program))
        .find(|candidate| candidate.is_file())
}
