//! A veth pair: one end with us, the other in a namespace for the router.
//!
//! Each test moves its own thread into new network and mount namespaces, so nothing here touches the host and tests run
//! side by side, whatever runner starts them. Everything vanishes with the thread and the daemons it started.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

/// Longest wait for anything.
const PATIENCE: Duration = Duration::from_secs(20);

/// Two hosts on a wire.
pub(crate) struct Lab {
    pub(crate) ours: IpAddr,
    pub(crate) theirs: IpAddr,
    pub(crate) directory: tempfile::TempDir,
}

impl Lab {
    pub(crate) fn new() -> Self {
        enter();
        ip("link add us0 type veth peer name tor0");
        ip("netns add tor");
        ip("link set tor0 netns tor");
        ip("addr add 10.0.0.1/24 dev us0");
        ip("link set us0 up");
        ip("-n tor addr add 10.0.0.2/24 dev tor0");
        ip("-n tor link set tor0 up");
        ip("-n tor link set lo up");
        let directory = tempfile::tempdir().unwrap();
        Self {
            ours: "10.0.0.1".parse().unwrap(),
            theirs: "10.0.0.2".parse().unwrap(),
            directory,
        }
    }

    /// Writes a file and returns its path.
    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.directory.path().join(name);
        fs::write(&path, text).unwrap();
        path
    }

    /// Waits until something holds.
    pub(crate) async fn wait(&self, what: &str, holds: impl Fn() -> bool) {
        let begun = std::time::Instant::now();
        while !holds() {
            assert!(begun.elapsed() < PATIENCE, "timed out: {what}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// A daemon that ends with its guard.
pub(crate) struct Daemon(pub(crate) Child);

impl Daemon {
    /// Runs a program in the router's namespace.
    pub(crate) fn spawn(program: &str, arguments: &[&str]) -> Self {
        let mut command = Command::new("ip");
        command
            .args(["netns", "exec", "tor", program])
            .args(arguments);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        Self(command.spawn().unwrap())
    }

    pub(crate) fn signal(&self, name: &str) {
        let pid = self.0.id().to_string();
        assert!(
            Command::new("kill")
                .args([name, &pid])
                .status()
                .unwrap()
                .success()
        );
    }

    pub(crate) fn kill(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Output of a program in the router's namespace.
pub(crate) fn output(program: &str, arguments: &[&str]) -> String {
    let output = Command::new("ip")
        .args(["netns", "exec", "tor", program])
        .args(arguments)
        .output()
        .unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn ip(arguments: &str) {
    let output = Command::new("ip")
        .args(arguments.split(' '))
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "ip {arguments}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Moves this thread into namespaces of its own, with a /run for `ip netns` and the daemons.
fn enter() {
    unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).unwrap();
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
    mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty(), none).unwrap();
    fs::create_dir("/run/netns").unwrap();
    ip("link set lo up");
}

/// Why tests cannot run here, if they cannot.
pub(crate) fn missing(programs: &[&str]) -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some("not root: namespaces cannot be made".into());
    }
    programs
        .iter()
        .find(|program| !installed(program))
        .map(|program| format!("{program} is not installed"))
}

fn installed(program: &str) -> bool {
    let places = ["", "/usr/bin/", "/usr/sbin/", "/sbin/", "/bin/"];
    places
        .iter()
        .map(|place| format!("{place}{program}"))
        .any(|path| path.starts_with('/') && Path::new(&path).exists())
}

/// Returns from the test, with a reason, when something is missing.
macro_rules! requires {
    ($($binary:literal),+) => {
        if let Some(reason) = crate::net::missing(&[$($binary),+]) {
            println!("SKIPPED: {reason}");
            return;
        }
    };
}
pub(crate) use requires;
