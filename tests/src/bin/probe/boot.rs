//! The first process of a guest kernel: makes the lab's file tree out of the shared one, then keeps the agent running.
//!
//! ```text
//! /       overlay: the machine's own files, read-only, under memory that forgets with the guest
//! RUN     the run's directory, shared both ways: what the lab writes while the guest runs is seen, and captures get out
//! STATE   the guest's disk (ext4), where a path is given: outlives a reset
//! ```
//! Modules beyond those that lead there are loaded as on every host: the kernel asks for them by calling `modprobe`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sys::wait::wait;

use crate::modules;

const SEARCH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// This program by the name that the kernel calls; see [`modules`].
const MODPROBE: &str = "/run/modprobe";

#[derive(Default)]
struct Layout {
    /// The run's directory.
    run: PathBuf,
    /// Where the guest's disk belongs; empty: it has none.
    state: PathBuf,
    /// Where the kernel's modules are, in the shared tree.
    modules: PathBuf,
    /// The agent's address with its prefix length, and its port.
    address: String,
    port: String,
}

/// Never returns while the guest is well: an error ends the first process, and with it the guest.
pub(crate) fn run(arguments: &[&str]) -> Result<(), String> {
    let layout = parse(arguments)?;
    for (kind, place) in [("devtmpfs", "/dev"), ("proc", "/proc"), ("sysfs", "/sys")] {
        mounted(kind, kind, place, MsFlags::empty(), None)?;
    }
    first_modules()?;
    furnish(&layout)?;
    network(&layout)?;
    let address = layout.address.split('/').next().unwrap_or_default();
    // Through /proc: the file itself lies in the tree below.
    let agent = Command::new("/proc/self/exe")
        .args(["agent", &format!("{address}:{}", layout.port)])
        .env("PATH", SEARCH)
        .spawn()
        .map_err(|error| format!("start the agent: {error}"))?;
    loop {
        match wait() {
            Ok(ended) if ended.pid().map(|pid| pid.as_raw().unsigned_abs()) == Some(agent.id()) => {
                return Err(format!("the agent has ended: {ended:?}"));
            }
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(format!("wait: {error}")),
        }
    }
}

fn parse(arguments: &[&str]) -> Result<Layout, String> {
    let mut layout = Layout::default();
    let mut iterator = arguments.iter();
    while let Some(flag) = iterator.next() {
        let value = super::value(flag, iterator.next())?;
        match *flag {
            "--run" => layout.run = value.into(),
            "--state" => layout.state = value.into(),
            "--modules" => layout.modules = value.into(),
            "--address" => value.clone_into(&mut layout.address),
            "--port" => value.clone_into(&mut layout.port),
            other => return Err(format!("boot: unknown flag {other}")),
        }
    }
    Ok(layout)
}

/// Those that it takes to reach the shared files come in the first file tree, in order; the rest when asked for.
fn first_modules() -> Result<(), String> {
    let order = fs::read_to_string("/modules/order")
        .map_err(|error| format!("read /modules/order: {error}"))?;
    for name in order.lines() {
        modules::load(&PathBuf::from(format!("/modules/{name}.ko")))?;
    }
    Ok(())
}

fn furnish(layout: &Layout) -> Result<(), String> {
    mounted("root", "virtiofs", "/low", MsFlags::MS_RDONLY, None)?;
    mounted("tmpfs", "tmpfs", "/up", MsFlags::empty(), None)?;
    directory("/up/upper")?;
    directory("/up/work")?;
    let layers = "lowerdir=/low,upperdir=/up/upper,workdir=/up/work";
    mounted("overlay", "overlay", "/new", MsFlags::empty(), Some(layers))?;
    let run = below("/new", &layout.run);
    mounted("run", "virtiofs", &utf8(&run)?, MsFlags::empty(), None)?;
    if !layout.state.as_os_str().is_empty() {
        let state = below("/new", &layout.state);
        mounted("/dev/vda", "ext4", &utf8(&state)?, MsFlags::empty(), None)?;
    }
    mounted(
        "tmpfs",
        "tmpfs",
        "/new/run",
        MsFlags::empty(),
        Some("mode=755"),
    )?;
    for place in ["/dev", "/proc", "/sys"] {
        mounted(place, "", &format!("/new{place}"), MsFlags::MS_MOVE, None)?;
    }
    std::env::set_current_dir("/new").map_err(|error| format!("enter /new: {error}"))?;
    mounted(".", "", "/", MsFlags::MS_MOVE, None)?;
    nix::unistd::chroot(".").map_err(|error| format!("chroot: {error}"))?;
    std::env::set_current_dir("/").map_err(|error| format!("enter /: {error}"))?;
    system()?;
    // The kernel looks for it from the root that the first process has.
    fs::copy("/proc/self/exe", MODPROBE).map_err(|error| format!("copy {MODPROBE}: {error}"))?;
    write(modules::PLACE, &utf8(&layout.modules)?)?;
    write("/proc/sys/kernel/modprobe", MODPROBE)
}

/// What every system has and the kernel does not make by itself.
fn system() -> Result<(), String> {
    for (place, target) in [
        ("/dev/fd", "/proc/self/fd"),
        ("/dev/stdin", "/proc/self/fd/0"),
        ("/dev/stdout", "/proc/self/fd/1"),
        ("/dev/stderr", "/proc/self/fd/2"),
    ] {
        std::os::unix::fs::symlink(target, place)
            .map_err(|error| format!("link {place}: {error}"))?;
    }
    mounted("devpts", "devpts", "/dev/pts", MsFlags::empty(), None)?;
    mounted("tmpfs", "tmpfs", "/dev/shm", MsFlags::empty(), None)?;
    mounted(
        "cgroup2",
        "cgroup2",
        "/sys/fs/cgroup",
        MsFlags::empty(),
        None,
    )?;
    write(
        "/sys/fs/cgroup/cgroup.subtree_control",
        "+cpuset +cpu +io +memory +pids",
    )?;
    nix::unistd::sethostname("guest").map_err(|error| format!("sethostname: {error}"))
}

/// The first network device is the lab's way in; the others are the scenario's.
fn network(layout: &Layout) -> Result<(), String> {
    for words in [
        ["link", "set", "lo", "up"].as_slice(),
        &["link", "set", "eth0", "name", "lab0", "up"],
        &["addr", "add", &layout.address, "dev", "lab0"],
    ] {
        let ended = Command::new("ip").args(words).env("PATH", SEARCH).status();
        let ended = ended.map_err(|error| format!("start ip: {error}"))?;
        if !ended.success() {
            return Err(format!("ip {}: {ended}", words.join(" ")));
        }
    }
    Ok(())
}

/// A path of the shared tree where that tree is mounted.
fn below(root: &str, place: &Path) -> PathBuf {
    Path::new(root).join(place.strip_prefix("/").unwrap_or(place))
}

fn utf8(place: &Path) -> Result<String, String> {
    let text = place.to_str().map(str::to_owned);
    text.ok_or_else(|| format!("boot: not UTF-8: {}", place.display()))
}

fn directory(place: &str) -> Result<(), String> {
    fs::create_dir_all(place).map_err(|error| format!("make {place}: {error}"))
}

fn write(place: &str, text: &str) -> Result<(), String> {
    fs::write(place, text).map_err(|error| format!("write {place}: {error}"))
}

/// Mounts, and makes the place for it where there is none yet.
fn mounted(
    source: &str,
    kind: &str,
    place: &str,
    flags: MsFlags,
    data: Option<&str>,
) -> Result<(), String> {
    if !Path::new(place).is_dir() {
        directory(place)?;
    }
    let kind = Some(kind).filter(|kind| !kind.is_empty());
    mount(Some(source), place, kind, flags, data)
        .map_err(|error| format!("mount {source} on {place}: {error}"))
}
