//! The first process of a machine: lays out its own file tree over the real one, reaps orphans, and ends with the lab.
//!
//! `unshare` has made the namespaces. The machine sees the real file system with a few places of its own: `/run` is
//! empty memory, `/var/lib`, `/var/log` and `/opt` are directories of the machine's state, `/etc` is an overlay. The
//! mounts live in the machine's mount namespace alone and vanish with it.
//!
//! Standard input is a pipe from the lab. Its end, however it came about, ends this process, and with the first
//! process of a process namespace the kernel ends all others of it.

use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sys::wait::wait;

/// What a machine has for itself on disk, so that it survives the machine's restart.
const OWN: [&str; 3] = ["var/lib", "var/log", "opt"];

struct Layout {
    host_name: String,
    /// The machine's own directory on disk.
    state: PathBuf,
    /// The run's directory, seen in the machine as `/run/lab`.
    shared: PathBuf,
    /// Programs, seen in the machine as `/run/tools/NAME`.
    tools: Vec<PathBuf>,
}

/// Becomes the first process of a machine.
pub(crate) fn run(arguments: &[&str]) -> Result<(), String> {
    let layout = parse(arguments)?;
    // Still the real /proc: the machine's number outside, by which others enter its namespaces.
    let outside =
        fs::read_link("/proc/self").map_err(|error| format!("read /proc/self: {error}"))?;
    nix::unistd::sethostname(&layout.host_name).map_err(|error| format!("sethostname: {error}"))?;
    furnish(&layout)?;
    println!("ready {}", outside.display());
    std::io::stdout()
        .flush()
        .map_err(|error| format!("say ready: {error}"))?;
    std::thread::spawn(end_with_the_lab);
    reap()
}

fn parse(arguments: &[&str]) -> Result<Layout, String> {
    let mut layout = Layout {
        host_name: String::new(),
        state: PathBuf::new(),
        shared: PathBuf::new(),
        tools: Vec::new(),
    };
    let mut iterator = arguments.iter();
    while let Some(flag) = iterator.next() {
        let value = super::value(flag, iterator.next())?;
        match *flag {
            "--hostname" => value.clone_into(&mut layout.host_name),
            "--state" => layout.state = value.into(),
            "--shared" => layout.shared = value.into(),
            "--tool" => layout.tools.push(value.into()),
            other => return Err(format!("init: unknown flag {other}")),
        }
    }
    Ok(layout)
}

fn end_with_the_lab() {
    drop(std::io::stdin().read_to_end(&mut Vec::new()));
    std::process::exit(0);
}

fn reap() -> Result<(), String> {
    loop {
        match wait() {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(Errno::ECHILD) => std::thread::sleep(std::time::Duration::from_millis(250)),
            Err(error) => return Err(format!("wait: {error}")),
        }
    }
}

fn furnish(layout: &Layout) -> Result<(), String> {
    let state = &layout.state;
    // Nothing of the machine may show outside, whatever the outside shares.
    propagate(MsFlags::MS_PRIVATE)?;
    let run = state.join("run");
    directory(&run)?;
    mounted("tmpfs", "tmpfs", &run, MsFlags::empty(), Some("mode=755"))?;
    for name in ["lab", "tools", "netns", "lock", "bird", "frr", "containerd"] {
        directory(&run.join(name))?;
    }
    fs::write(run.join("xtables.lock"), "")
        .map_err(|error| format!("write xtables.lock: {error}"))?;
    bind(&layout.shared, &run.join("lab"))?;
    // In a guest the disks are a file system of their own, which a bind leaves behind.
    if let Some(disks) = state.parent()
        && let Ok(inside) = disks.strip_prefix(&layout.shared)
    {
        bind(disks, &run.join("lab").join(inside))?;
    }
    for tool in &layout.tools {
        let name = tool
            .file_name()
            .ok_or_else(|| format!("init: no file name: {}", tool.display()))?;
        let place = run.join("tools").join(name);
        fs::write(&place, "").map_err(|error| format!("write {}: {error}", place.display()))?;
        bind(tool, &place)?;
    }
    let inside = Path::new("/run/lab").join(
        state
            .strip_prefix(&layout.shared)
            .map_err(|error| format!("init: {error}"))?,
    );
    for name in OWN.into_iter().chain(["etc", "etc.work"]) {
        directory(&state.join(name))?;
    }
    mounted(path(&run)?, "", Path::new("/run"), MsFlags::MS_MOVE, None)?;
    // From here on the real place of the state may be hidden: it is reached through /run/lab.
    for name in OWN {
        bind(&inside.join(name), &Path::new("/").join(name))?;
    }
    let overlay = format!(
        "lowerdir=/etc,upperdir={0}/etc,workdir={0}/etc.work",
        inside.display()
    );
    mounted(
        "overlay",
        "overlay",
        Path::new("/etc"),
        MsFlags::empty(),
        Some(&overlay),
    )?;
    mounted(
        "proc",
        "proc",
        Path::new("/proc"),
        MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC,
        None,
    )?;
    // hostPath volumes with mount propagation need a shared tree, as systemd makes it on real hosts.
    propagate(MsFlags::MS_SHARED)
}

fn propagate(how: MsFlags) -> Result<(), String> {
    mount(
        None::<&str>,
        "/",
        None::<&str>,
        how | MsFlags::MS_REC,
        None::<&str>,
    )
    .map_err(|error| format!("change the propagation of /: {error}"))
}

fn directory(place: &Path) -> Result<(), String> {
    fs::create_dir_all(place).map_err(|error| format!("make {}: {error}", place.display()))
}

fn bind(source: &Path, place: &Path) -> Result<(), String> {
    mounted(path(source)?, "", place, MsFlags::MS_BIND, None)
}

fn path(place: &Path) -> Result<&str, String> {
    place
        .to_str()
        .ok_or_else(|| format!("init: not UTF-8: {}", place.display()))
}

fn mounted(
    source: &str,
    kind: &str,
    place: &Path,
    flags: MsFlags,
    data: Option<&str>,
) -> Result<(), String> {
    mount(
        Some(source),
        place,
        Some(kind).filter(|kind| !kind.is_empty()),
        flags,
        data,
    )
    .map_err(|error| format!("mount {source} on {}: {error}", place.display()))
}
