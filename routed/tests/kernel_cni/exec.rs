//! Executing CNI plugins, and sandboxes to execute them for.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// Runs a program and gives back its stdout; fails the test when it fails.
pub(crate) fn run(line: &str) -> String {
    let (ok, text) = try_run(line);
    assert!(ok, "{line}: {text}");
    text
}

/// Runs a program; whether it succeeded, and all it printed.
pub(crate) fn try_run(line: &str) -> (bool, String) {
    let mut words = line.split_whitespace();
    let output = Command::new(words.next().unwrap())
        .args(words)
        .output()
        .unwrap();
    let text = [output.stdout, output.stderr].concat();
    (
        output.status.success(),
        String::from_utf8_lossy(&text).into_owned(),
    )
}

/// True when this process may do as it likes: root, in namespaces of its own. Says why not.
pub(crate) fn at_home() -> bool {
    let shared = |kind: &str| {
        let id = |who: &str| std::fs::read_link(format!("/proc/{who}/ns/{kind}")).ok();
        id("self").is_none_or(|ours| id("1") == Some(ours))
    };
    let home =
        nix::unistd::geteuid().is_root() && !shared("net") && !shared("mnt") && has_only_loopback();
    if !home {
        println!(
            "skipped: needs root in namespaces of its own, run under `unshare -nm --propagation private`"
        );
        return false;
    }
    if !Path::new("/run/netns").exists()
        || std::fs::read_dir("/run/netns").is_ok_and(|mut dir| dir.next().is_some())
    {
        std::fs::create_dir_all("/run/netns").unwrap();
    }
    // Names of sandboxes are files; a private one keeps them from the machine.
    run("mount -t tmpfs none /run/netns");
    run("ip link set lo up");
    true
}

/// True in a namespace nobody has touched. Where the namespaces of process 1 cannot be read, this alone keeps a bare run off the machine.
fn has_only_loopback() -> bool {
    let fallbacks = [
        "lo", "tunl0", "sit0", "gre0", "gretap0", "erspan0", "ip6tnl0", "ip6gre0",
    ];
    std::fs::read_to_string("/proc/self/net/dev").is_ok_and(|table| {
        table
            .lines()
            .filter_map(|line| line.split_once(':'))
            .all(|(name, _)| fallbacks.contains(&name.trim()))
    })
}

/// The plugin as cargo built it, built now if it was not.
pub(crate) fn plugin() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let path = test.parent().unwrap().parent().unwrap().join("margay");
    if !path.exists() {
        run(&format!(
            "{} build -q -p cni-plugin --bin margay",
            env!("CARGO")
        ));
    }
    path
}

/// A network namespace with a name, as a runtime makes one. Gone when dropped.
pub(crate) struct Sandbox {
    pub(crate) name: String,
}

impl Sandbox {
    pub(crate) fn new(name: &str) -> Self {
        run(&format!("ip netns add {name}"));
        Self { name: name.into() }
    }

    pub(crate) fn path(&self) -> String {
        format!("/run/netns/{}", self.name)
    }

    /// Runs a program inside.
    pub(crate) fn run(&self, line: &str) -> String {
        run(&format!("ip netns exec {} {line}", self.name))
    }

    pub(crate) fn try_run(&self, line: &str) -> (bool, String) {
        try_run(&format!("ip netns exec {} {line}", self.name))
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        let _gone_already = try_run(&format!("ip netns del {}", self.name));
    }
}

/// One exec of a plugin.
pub(crate) struct Call<'a> {
    pub(crate) plugin: &'a Path,
    pub(crate) verb: &'a str,
    pub(crate) id: &'a str,
    pub(crate) netns: String,
    pub(crate) args: String,
    pub(crate) conf: String,
}

impl Call<'_> {
    /// Executes it: error code (0 = success), stdout, and how long it took.
    pub(crate) fn exec(&self) -> (u64, Value, Duration) {
        let before = Instant::now();
        let mut child = Command::new(self.plugin)
            .env_clear()
            .env("CNI_COMMAND", self.verb)
            .env("CNI_CONTAINERID", self.id)
            .env("CNI_NETNS", &self.netns)
            .env("CNI_IFNAME", "eth0")
            .env("CNI_ARGS", &self.args)
            .env("CNI_PATH", "/usr/lib/cni")
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        child
            .stdin
            .take()
            .unwrap()
            .write_all(self.conf.as_bytes())
            .unwrap();
        let output = child.wait_with_output().unwrap();
        let took = before.elapsed();
        let value = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
        let code = if output.status.success() {
            0
        } else {
            value["code"].as_u64().unwrap_or(999)
        };
        (code, value, took)
    }
}
