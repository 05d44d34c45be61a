//! One run of the lab: its tag, its directory, and the certainty that nothing outlives it.
//!
//! ```text
//! target/lab/runs/TAG/            lock (held while the run lives), machines (first processes, one per line)
//!                    logs/        one file per process, kept after the run
//!                    state/       disks of the machines, removed with the run
//!                    shared/      what the machines see: images, kubeconfigs
//! ```
//! Three nets, each under the other: `Drop` ends the run in order; a janitor process does the same when the lab dies in
//! any other way (panic, SIGTERM, SIGKILL); the next run sweeps what a killed janitor has left.

use std::fs::{File, TryLockError};
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::{binaries, progress, wait};

/// The runs of this process that live, for [`end_live`].
static LIVE: Mutex<Vec<Weak<Run>>> = Mutex::new(Vec::new());
/// How many directories of ended runs are kept for their logs.
const KEPT: usize = 8;

/// A live run. Dropping it ends every process and removes everything but the logs.
#[derive(Debug)]
pub struct Run {
    tag: String,
    directory: PathBuf,
    janitor: Mutex<Option<Child>>,
    /// Held until the process ends.
    _lock: File,
}

impl Run {
    /// Opens a run under `root` (see [`binaries::lab_directory`]) after sweeping those that were killed.
    ///
    /// # Errors
    /// Directories cannot be made, or the janitor cannot be started.
    pub fn open(root: &Path) -> Result<Arc<Self>> {
        let runs = root.join("runs");
        let _alone = alone(&runs)?;
        remove_dead(&runs)?;
        let tag = random_hex(3)?;
        let directory = runs.join(&tag);
        for part in ["logs", "state", "shared"] {
            std::fs::create_dir_all(directory.join(part))
                .with_context(|| format!("make {}", directory.join(part).display()))?;
        }
        let lock = File::create(directory.join("lock")).context("make the run's lock")?;
        lock.try_lock().context("lock the run")?;
        let janitor = Command::new(binaries::own("lab")?)
            .args(["janitor".as_ref(), directory.as_os_str()])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(
                File::create(directory.join("logs/janitor.log"))
                    .context("make the janitor's log")?,
            )
            // Out of the terminal's process group: Ctrl-C is for the lab, the janitor answers to the pipe.
            .process_group(0)
            .spawn()
            .context("start the janitor")?;
        let run = Arc::new(Self {
            tag,
            directory,
            janitor: Mutex::new(Some(janitor)),
            _lock: lock,
        });
        LIVE.lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(Arc::downgrade(&run));
        Ok(run)
    }

    /// Six hexadecimal digits that no other run has.
    pub fn tag(&self) -> &str {
        &self.tag
    }

    /// The run's directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Where every process writes its log.
    pub fn logs(&self) -> PathBuf {
        self.directory.join("logs")
    }

    /// What the machines see as `/run/lab/shared`.
    pub fn shared(&self) -> PathBuf {
        self.directory.join("shared")
    }

    /// Records the first process of a machine, so that it is ended with the run.
    pub(crate) fn enrol(&self, pid: u32) -> Result<()> {
        let started =
            start_time(pid).with_context(|| format!("process {pid} has ended at once"))?;
        let mut list = File::options()
            .create(true)
            .append(true)
            .open(self.directory.join("machines"))
            .context("open the list of machines")?;
        writeln!(list, "{pid} {started}").context("write the list of machines")
    }

    /// Ends the run: every machine, every control group, every file but the logs. Idempotent.
    ///
    /// # Errors
    /// What could not be removed, by name.
    pub fn end(&self) -> Result<()> {
        let janitor = self
            .janitor
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let Some(mut janitor) = janitor else {
            return Ok(());
        };
        drop(janitor.stdin.take());
        let ended = janitor.wait().context("wait for the janitor")?;
        if ended.success() {
            return Ok(());
        }
        let said = std::fs::read_to_string(self.logs().join("janitor.log")).unwrap_or_default();
        bail!(
            "run {} could not be removed whole: {}",
            self.tag,
            said.trim()
        )
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            progress::say(&format!("{error:#}"));
        }
    }
}

/// Ends every run of this process: for a signal handler that will not return to them.
///
/// # Errors
/// What could not be removed, of all runs.
pub fn end_live() -> Result<()> {
    let live = std::mem::take(&mut *LIVE.lock().unwrap_or_else(PoisonError::into_inner));
    live.iter()
        .filter_map(Weak::upgrade)
        .map(|run| run.end())
        .fold(Ok(()), Result::and)
}

/// Random bytes as hexadecimal digits: tags and tokens.
///
/// # Errors
/// `/dev/urandom` cannot be read.
pub fn random_hex(bytes: usize) -> Result<String> {
    use std::io::Read;
    let mut buffer = vec![0_u8; bytes];
    File::open("/dev/urandom")
        .and_then(|mut source| source.read_exact(&mut buffer))
        .context("read /dev/urandom")?;
    Ok(data_encoding::HEXLOWER.encode(&buffer))
}

/// The janitor's whole life: wait for the lab's end, then sweep.
///
/// # Errors
/// Those of [`sweep`].
pub fn janitor(directory: &Path) -> Result<()> {
    use std::io::Read;
    drop(std::io::stdin().read_to_end(&mut Vec::new()));
    sweep(directory)
}

/// Removes what killed runs have left; returns their tags.
///
/// # Errors
/// Something cannot be removed.
pub fn sweep_dead(runs: &Path) -> Result<Vec<String>> {
    let _alone = alone(runs)?;
    remove_dead(runs)
}

/// Keeps other labs from opening or sweeping runs until the file is dropped: a run that is just being made has no lock
/// of its own yet.
fn alone(runs: &Path) -> Result<File> {
    std::fs::create_dir_all(runs).with_context(|| format!("make {}", runs.display()))?;
    let guard = File::create(runs.join("guard")).context("make the guard of the runs")?;
    guard
        .lock()
        .context("wait for another lab to open its run")?;
    Ok(guard)
}

fn remove_dead(runs: &Path) -> Result<Vec<String>> {
    let mut swept = Vec::new();
    let mut ended = Vec::new();
    for entry in runs.read_dir().into_iter().flatten().flatten() {
        let directory = entry.path();
        let Ok(lock) = File::open(directory.join("lock")) else {
            continue;
        };
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => continue,
            Err(TryLockError::Error(error)) => return Err(error).context("look at a run's lock"),
        }
        if directory.join("state").exists() {
            sweep(&directory)?;
            swept.push(entry.file_name().to_string_lossy().into_owned());
        }
        let modified = entry
            .metadata()
            .and_then(|metadata| metadata.modified())
            .context("look at an ended run")?;
        ended.push((modified, directory));
    }
    ended.sort();
    for (_modified, directory) in ended.iter().rev().skip(KEPT) {
        std::fs::remove_dir_all(directory)
            .with_context(|| format!("remove {}", directory.display()))?;
    }
    Ok(swept)
}

/// Ends the machines of a run, removes its control groups and its files but the logs. Every failure is collected, the
/// rest goes on.
///
/// # Errors
/// All that could not be removed, in one text.
pub fn sweep(directory: &Path) -> Result<()> {
    let mut failures = Vec::new();
    if let Err(error) = end_machines(directory) {
        failures.push(format!("{error:#}"));
    }
    for group in control_groups(directory) {
        if let Err(error) = wait::until(
            "a control group to be empty",
            Duration::from_secs(5),
            || remove_group(&group).map(Some),
        ) {
            failures.push(format!("{error:#}"));
        }
    }
    for root in hierarchies() {
        // Another cluster of this machine may still have its own in there: then it stays.
        drop(std::fs::remove_dir(root.join("k8s.io")));
    }
    for part in ["state", "shared", "machines", "kubeconfig"] {
        let place = directory.join(part);
        let removed = if place.is_dir() {
            std::fs::remove_dir_all(&place)
        } else {
            std::fs::remove_file(&place)
        };
        match removed {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                failures.push(format!("remove {}: {error}", place.display()));
            }
            Ok(()) | Err(_) => {}
        }
    }
    if failures.is_empty() {
        Ok(())
    } else {
        bail!("{}", failures.join("; "))
    }
}

fn end_machines(directory: &Path) -> Result<()> {
    let list = std::fs::read_to_string(directory.join("machines")).unwrap_or_default();
    let mut alive: Vec<(u32, u64)> = list
        .lines()
        .filter_map(|line| line.split_once(' '))
        .filter_map(|(pid, started)| Some((pid.parse().ok()?, started.parse().ok()?)))
        .collect();
    wait::until("the lab's machines to end", Duration::from_secs(20), || {
        alive.retain(|(pid, started)| start_time(*pid) == Some(*started));
        for (pid, _started) in &alive {
            if let Ok(pid) = i32::try_from(*pid) {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
        Ok(alive.is_empty().then_some(()))
    })
}

/// When a process started, in clock ticks since boot; `None` when there is no such process or it is only a zombie.
fn start_time(pid: u32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything: fields are counted from its end. State is field 3, start time 22.
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    if matches!(fields.first(), Some(&"Z" | &"X")) {
        return None;
    }
    fields.get(19)?.parse().ok()
}

/// Where control groups of this machine have their roots.
fn hierarchies() -> Vec<PathBuf> {
    let root = Path::new("/sys/fs/cgroup");
    if root.join("cgroup.controllers").is_file() {
        return vec![root.to_path_buf()];
    }
    let entries = root.read_dir().into_iter().flatten().flatten();
    // Some controllers have a second name, which is a symbolic link.
    entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect()
}

/// The control groups of a run's containers: containerd calls them `k8s.io/ID`, and its disk knows the ids. The kernel
/// has ended the containers without it, so it could not remove them itself.
fn control_groups(directory: &Path) -> Vec<PathBuf> {
    let list = |place: PathBuf| place.read_dir().into_iter().flatten().flatten();
    let mut ids = Vec::new();
    for machine in list(directory.join("state")) {
        for kind in ["sandboxes", "containers"] {
            let place = machine
                .path()
                .join("var/lib/containerd/io.containerd.grpc.v1.cri")
                .join(kind);
            ids.extend(list(place).map(|entry| entry.file_name()));
        }
    }
    let groups = hierarchies()
        .into_iter()
        .flat_map(|root| ids.iter().map(move |id| root.join("k8s.io").join(id)));
    groups.filter(|place| place.is_dir()).collect()
}

fn remove_group(group: &Path) -> Result<()> {
    for entry in group.read_dir().into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            remove_group(&entry.path())?;
        }
    }
    match std::fs::remove_dir(group) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", group.display()))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}
