//! What the lab needs of this machine: checked before anything is started, all at once, with the remedy.

use anyhow::{Result, bail};

use crate::command;

/// Program → what installs it on Debian.
const PROGRAMS: [(&str, &str); 14] = [
    ("nsenter", "util-linux"),
    ("unshare", "util-linux"),
    ("ip", "iproute2"),
    ("sysctl", "procps"),
    ("openssl", "openssl"),
    ("containerd", "containerd"),
    ("ctr", "containerd"),
    ("runc", "runc"),
    ("iptables", "iptables"),
    ("nft", "nftables"),
    ("conntrack", "conntrack"),
    ("tcpdump", "tcpdump"),
    ("bird", "bird2"),
    ("vtysh", "frr"),
];

/// The same for guests with a kernel of their own.
const GUEST_PROGRAMS: [(&str, &str); 3] = [
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("mkfs.ext4", "e2fsprogs"),
    ("dpkg-deb", "dpkg"),
];

/// The plugin that containerd runs for the loopback of every sandbox.
pub const LOOPBACK: &str = "/usr/lib/cni/loopback";

/// Checks everything.
///
/// # Errors
/// All that is missing, in one text, with what to do about it.
pub fn check() -> Result<()> {
    let missing = missing();
    if missing.is_empty() {
        Ok(())
    } else {
        bail!(
            "this machine cannot hold the lab:\n  {}",
            missing.join("\n  ")
        )
    }
}

/// What is missing, one line each; empty: the lab can run. For a visible skip: [`skipped`].
pub fn missing() -> Vec<String> {
    let mut lines = Vec::new();
    if !nix::unistd::geteuid().is_root() {
        lines.push("not root: run as root".to_owned());
    }
    for (program, package) in PROGRAMS {
        if command::find(program).is_none() {
            lines.push(format!(
                "no program {program}: apt-get install {package} (`make deps` does)"
            ));
        }
    }
    if !std::path::Path::new(LOOPBACK).is_file() {
        lines.push(format!(
            "no file {LOOPBACK}: apt-get install containernetworking-plugins (`make deps` does)"
        ));
    }
    let file_systems = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
    if !file_systems.lines().any(|line| line.ends_with("overlay")) {
        lines.push("the kernel has no overlay file system: modprobe overlay".to_owned());
    }
    if lines.is_empty()
        && let Err(error) = kernel()
    {
        lines.push(format!("the kernel refuses namespaces or links: {error:#}"));
    }
    lines
}

/// What is missing to boot guests beyond [`missing`], one line each. For a visible skip.
pub fn guest_missing() -> Vec<String> {
    let mut lines = missing();
    for (program, package) in GUEST_PROGRAMS {
        if command::find(program).is_none() {
            lines.push(format!(
                "no program {program}: apt-get install {package} (`make deps` does)"
            ));
        }
    }
    if crate::guest::program().is_none() {
        lines
            .push("no virtiofsd: apt-get install qemu-system-common (`make deps` does)".to_owned());
    }
    if !std::path::Path::new("/dev/net/tun").exists() {
        lines.push("no /dev/net/tun: modprobe tun".to_owned());
    }
    lines
}

/// True when the lab cannot run here; prints why, so that a skip is seen. For the first line of a scenario.
#[expect(
    clippy::print_stdout,
    reason = "a skip must be seen where the test's output is"
)]
pub fn skipped() -> bool {
    let missing = missing();
    if missing.is_empty() {
        return false;
    }
    println!("SKIPPED: {}", missing.join("; "));
    true
}

/// Tries what the fabric is made of, in a namespace that ends with the trial.
fn kernel() -> Result<()> {
    const TRIAL: &str = "ip link set lo up
mount -t tmpfs tmpfs /run
mount -t proc proc /proc
ip link add v0 type veth peer name v1
ip link add b0 type bridge
ip link add x0 type vxlan id 1 dstport 4789 dev v0
nft add table inet trial
";
    command::run(
        "unshare",
        &[
            "--net",
            "--mount",
            "--uts",
            "--ipc",
            "--pid",
            "--fork",
            "--propagation",
            "private",
            "--",
            "sh",
            "-ec",
            TRIAL,
        ],
    )
    .map(drop)
}
