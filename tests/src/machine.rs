//! A machine of the lab: a host, a router or a node, made of namespaces.
//!
//! Its first process is `probe init` (see there for the file tree it lays out). Programs are run in it with `nsenter`;
//! long-lived ones are [`Service`]s with a log file each. Its kernel is this machine's, or a guest's
//! ([`Machine::boot_in`]): what can be done with it is the same.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::guest::Guest;
use crate::run::Run;
use crate::{binaries, command, wait};

/// A set of namespaces with a first process. Dropping it ends every process inside; its links vanish with it.
#[derive(Debug)]
pub struct Machine {
    name: String,
    run: Arc<Run>,
    first: Mutex<First>,
    /// The guest whose kernel it runs on; `None`: this machine's.
    guest: Option<Arc<Guest>>,
}

#[derive(Debug)]
struct First {
    /// `unshare`, which waits for the machine's first process and ends it when it is ended itself.
    outer: Child,
    /// The first process, numbered as this process sees it, or as the guest does.
    pid: u32,
    in_guest: bool,
}

impl Machine {
    /// Boots a machine; it has a loopback link that is up, and nothing else.
    ///
    /// # Errors
    /// Namespaces or mounts are refused: the machine's own words are in the error.
    pub fn boot(run: &Arc<Run>, name: &str, tools: &[PathBuf]) -> Result<Self> {
        Self::boot_on(run, None, name, tools)
    }

    /// Boots a machine inside a guest, on the guest's disk, with the guest's port of the same name as its `eth0`.
    ///
    /// # Errors
    /// As [`Machine::boot`]; the guest has no such port.
    pub fn boot_in(guest: &Arc<Guest>, name: &str, tools: &[PathBuf]) -> Result<Self> {
        Self::boot_on(guest.holder().run(), Some(Arc::clone(guest)), name, tools)
    }

    fn boot_on(
        run: &Arc<Run>,
        guest: Option<Arc<Guest>>,
        name: &str,
        tools: &[PathBuf],
    ) -> Result<Self> {
        let first =
            start(run, guest.as_deref(), name, tools).with_context(|| format!("boot {name}"))?;
        let machine = Self {
            name: name.to_owned(),
            run: Arc::clone(run),
            first: Mutex::new(first),
            guest,
        };
        machine.exec(&["ip", "link", "set", "lo", "up"])?;
        Ok(machine)
    }

    /// Ends everything in the machine and boots it again with the same disk, as a power cut would. Links are gone.
    ///
    /// # Errors
    /// As [`Machine::boot`].
    pub fn reboot(&self, tools: &[PathBuf]) -> Result<()> {
        let mut first = self.first.lock().unwrap_or_else(PoisonError::into_inner);
        first.end();
        *first = start(&self.run, self.guest.as_deref(), &self.name, tools)
            .with_context(|| format!("boot {} again", self.name))?;
        drop(first);
        self.exec(&["ip", "link", "set", "lo", "up"]).map(drop)
    }

    /// The machine's host name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The guest whose kernel it runs on; `None`: this machine's.
    pub fn guest(&self) -> Option<&Arc<Guest>> {
        self.guest.as_ref()
    }

    /// The first process, numbered as outside: `/proc/PID/ns/net` is the machine's network namespace. In a guest: numbered
    /// as there, and no process of this machine.
    pub fn pid(&self) -> u32 {
        self.first
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pid
    }

    /// The machine's disk: holds its `var/lib`, `var/log`, `opt` and `etc` (only what differs from the real `/etc`).
    pub fn disk(&self) -> PathBuf {
        self.run.directory().join("state").join(&self.name)
    }

    /// The run it belongs to.
    pub fn run(&self) -> &Arc<Run> {
        &self.run
    }

    /// A command that will run in the machine.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = if let Some(guest) = &self.guest {
            guest.command_in(self.pid(), words)
        } else {
            let mut enter = Command::new("nsenter");
            let target = self.pid().to_string();
            enter.args(["--target", &target, "--net", "--mount", "--uts", "--pid"]);
            enter.arg("--").args(words);
            enter
        };
        command.env(
            "PATH",
            "/run/tools:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        );
        command
    }

    /// Runs a program in the machine to its end; returns its standard output.
    ///
    /// # Errors
    /// It fails; its own words are in the error.
    pub fn exec(&self, words: &[&str]) -> Result<String> {
        command::output(&mut self.command(words), None).with_context(|| format!("on {}", self.name))
    }

    /// As [`Machine::exec`], with standard input.
    ///
    /// # Errors
    /// As [`Machine::exec`].
    pub fn exec_with(&self, words: &[&str], input: &str) -> Result<String> {
        command::output(&mut self.command(words), Some(input))
            .with_context(|| format!("on {}", self.name))
    }

    /// Runs a line of shell in the machine.
    ///
    /// # Errors
    /// As [`Machine::exec`].
    pub fn shell(&self, line: &str) -> Result<String> {
        self.exec(&["sh", "-ec", line])
    }

    /// Runs `ip` commands, one per line, in one process.
    ///
    /// # Errors
    /// As [`Machine::exec`]; the first line that fails ends the batch.
    pub fn ip(&self, batch: &str) -> Result<()> {
        self.exec_with(&["ip", "-batch", "-"], batch).map(drop)
    }

    /// Sets kernel settings, `key=value` each.
    ///
    /// # Errors
    /// As [`Machine::exec`].
    pub fn sysctl(&self, settings: &[&str]) -> Result<()> {
        self.exec(&[&["sysctl", "-qw"], settings].concat())
            .map(drop)
    }

    /// Joins this machine and another by a cable: a veth pair. A machine in a guest has its port plugged in instead; the
    /// other machine is none.
    ///
    /// # Errors
    /// As [`Machine::exec`].
    pub fn cable(&self, port: &str, other: &Self, other_port: &str) -> Result<()> {
        if let Some(guest) = &self.guest {
            guest.cable(&self.name, other, other_port)?;
            return guest.hand_over(&self.name, self.pid(), port);
        }
        let pid = other.pid().to_string();
        // Outside the process namespace: `netns PID` means the number as seen here.
        let own = self.pid().to_string();
        command::run(
            "nsenter",
            &[
                "--target", &own, "--net", "--", "ip", "link", "add", port, "type", "veth", "peer",
                "name", other_port, "netns", &pid,
            ],
        )
        .with_context(|| format!("cable {}:{port} to {}:{other_port}", self.name, other.name))
        .map(drop)
    }

    /// Starts a long-lived program in the machine; its output goes to `logs/MACHINE-SERVICE.log`.
    ///
    /// # Errors
    /// The log cannot be opened, or `nsenter` cannot be started.
    pub fn spawn(&self, service: &str, words: &[&str]) -> Result<Service> {
        let log = self.run.logs().join(format!("{}-{service}.log", self.name));
        let file = File::options()
            .create(true)
            .append(true)
            .open(&log)
            .with_context(|| format!("open {}", log.display()))?;
        let child = self
            .command(words)
            .stdin(Stdio::null())
            .stdout(file.try_clone().context("share the log")?)
            .stderr(file)
            // Out of the terminal's process group: Ctrl-C is for the lab, which takes its machines down in order.
            .process_group(0)
            .spawn()
            .with_context(|| format!("start {service} on {}", self.name))?;
        Ok(Service {
            name: format!("{service} on {}", self.name),
            log,
            child,
        })
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.first
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner)
            .end();
    }
}

impl First {
    fn end(&mut self) {
        // In a guest the number means nothing here: the end of its input ends it, and so does the guest's power cut,
        // after which nobody answers.
        if self.in_guest {
            drop(self.outer.stdin.take());
            let ended = wait::until("a machine to end", Duration::from_secs(5), || {
                Ok(self.outer.try_wait()?)
            });
            if ended.is_err() {
                drop(self.outer.kill());
                drop(self.outer.wait());
            }
            return;
        }
        // Its end ends every process of the namespace; `unshare` then ends by itself.
        if let Ok(pid) = i32::try_from(self.pid) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        drop(self.outer.wait());
    }
}

fn start(run: &Run, guest: Option<&Guest>, name: &str, tools: &[PathBuf]) -> Result<First> {
    let disk = run.directory().join("state").join(name);
    let log = File::options()
        .create(true)
        .append(true)
        .open(run.logs().join(format!("{name}-init.log")))
        .context("open the log")?;
    let words = first_words(run, name, &disk, tools)?;
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let mut command = if let Some(guest) = guest {
        guest.exec(&["mkdir", "-p", &disk.to_string_lossy()])?;
        guest.command(&words)
    } else {
        std::fs::create_dir_all(&disk).with_context(|| format!("make {}", disk.display()))?;
        let (program, arguments) = words.split_first().context("no words")?;
        let mut command = Command::new(program);
        command.args(arguments);
        command
    };
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(log)
        .process_group(0);
    let mut outer = command.spawn().context("start unshare")?;
    let mut line = String::new();
    if let Some(stdout) = outer.stdout.as_mut() {
        BufReader::new(stdout)
            .read_line(&mut line)
            .context("read from the first process")?;
    }
    let Some(pid) = line
        .trim()
        .strip_prefix("ready ")
        .and_then(|pid| pid.parse().ok())
    else {
        drop(outer.wait());
        let said = std::fs::read_to_string(run.logs().join(format!("{name}-init.log")))
            .unwrap_or_default();
        bail!("the first process ended: {}", said.trim());
    };
    if guest.is_none() {
        run.enrol(pid)?;
    }
    Ok(First {
        outer,
        pid,
        in_guest: guest.is_some(),
    })
}

/// How a machine's first process is started: `unshare`, then `probe init`.
fn first_words(run: &Run, name: &str, disk: &Path, tools: &[PathBuf]) -> Result<Vec<String>> {
    let text = |place: &Path| {
        let text = place.to_str().map(str::to_owned);
        text.with_context(|| format!("not UTF-8: {}", place.display()))
    };
    let mut words = [
        "unshare",
        "--net",
        "--mount",
        "--uts",
        "--ipc",
        "--pid",
        "--fork",
        "--kill-child=KILL",
        "--propagation",
        "private",
        "--",
    ]
    .map(str::to_owned)
    .to_vec();
    words.push(text(&binaries::own("probe")?)?);
    words.extend(["init", "--hostname", name, "--state"].map(str::to_owned));
    words.push(text(disk)?);
    words.extend(["--shared".to_owned(), text(run.directory())?]);
    for tool in tools {
        words.extend(["--tool".to_owned(), text(tool)?]);
    }
    Ok(words)
}

/// A long-lived program in a machine. It ends with its machine, or by [`Service::stop`] and [`Service::kill`].
#[derive(Debug)]
pub struct Service {
    name: String,
    log: PathBuf,
    /// `nsenter`, the parent of the program.
    child: Child,
}

impl Service {
    /// What it is and where it runs.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its log file.
    pub fn log(&self) -> &PathBuf {
        &self.log
    }

    /// The program's number, as outside.
    pub fn pid(&self) -> Option<u32> {
        children(self.child.id()).first().copied()
    }

    /// Whether it still runs.
    pub fn alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Sends SIGTERM and waits; after ten seconds SIGKILL.
    pub fn stop(&mut self) {
        self.signal(Signal::SIGTERM);
        let ended = wait::until("the program to stop", Duration::from_secs(10), || {
            Ok((!self.alive()).then_some(()))
        });
        if ended.is_err() {
            self.kill();
        }
    }

    /// Sends SIGKILL and waits.
    pub fn kill(&mut self) {
        self.signal(Signal::SIGKILL);
        drop(self.child.wait());
    }

    /// Sends a signal to the program.
    pub fn signal(&self, signal: Signal) {
        if let Some(pid) = self.pid().and_then(|pid| i32::try_from(pid).ok()) {
            let _ = kill(Pid::from_raw(pid), signal);
        }
    }

    /// An error when it has ended, with the last lines of its log.
    ///
    /// # Errors
    /// It has ended.
    pub fn check(&mut self) -> Result<()> {
        if self.alive() {
            return Ok(());
        }
        bail!("{} has ended; {}", self.name, self.tail(12))
    }

    /// Where its log is, and its last lines.
    pub fn tail(&self, lines: usize) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let all: Vec<&str> = text.lines().collect();
        let last = all
            .get(all.len().saturating_sub(lines)..)
            .unwrap_or_default();
        format!("{}:\n    {}", self.log.display(), last.join("\n    "))
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        if self.alive() {
            self.kill();
        }
    }
}

/// The children of a process.
pub(crate) fn children(parent: u32) -> Vec<u32> {
    processes()
        .filter(|pid| parent_of(*pid) == Some(parent))
        .collect()
}

/// All processes, as numbered outside.
pub(crate) fn processes() -> impl Iterator<Item = u32> {
    std::fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

fn parent_of(pid: u32) -> Option<u32> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    text.rsplit_once(')')?
        .1
        .split_whitespace()
        .nth(1)?
        .parse()
        .ok()
}
