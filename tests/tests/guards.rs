//! Each guard of the walls bites: a copy of the workspace with one sin in it does not pass.
#![expect(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "guards are programs: cargo, clippy, cargo-deny; the copy is made of files"
)]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A copy of the workspace in which one crate is real and the others are links.
struct Copy {
    root: tempfile::TempDir,
}

const CRATES: [&str; 10] = [
    "api",
    "model",
    "ipam",
    "bgp",
    "netlink",
    "dataplane",
    "policy-iptables",
    "cni-plugin",
    "routed",
    "tests",
];

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .to_owned()
}

impl Copy {
    fn with(sinner: &str) -> Self {
        let root = tempfile::tempdir().unwrap();
        for file in [
            "Cargo.toml",
            "Cargo.lock",
            "clippy.toml",
            "deny.toml",
            "rust-toolchain.toml",
        ] {
            fs::copy(workspace().join(file), root.path().join(file)).unwrap();
        }
        for name in CRATES {
            let (from, to) = (workspace().join(name), root.path().join(name));
            if name == sinner {
                copy_sources(&from, &to);
            } else {
                symlink(&from, &to).unwrap();
            }
        }
        symlink(workspace().join("manifests"), root.path().join("manifests")).unwrap();
        Self { root }
    }

    fn append(&self, file: &str, text: &str) {
        let path = self.root.path().join(file);
        let old = fs::read_to_string(&path).unwrap();
        fs::write(path, format!("{old}\n{text}\n")).unwrap();
    }

    fn cargo(&self, args: &[&str]) -> Output {
        Command::new(env!("CARGO"))
            .args(args)
            .current_dir(self.root.path())
            .env("CARGO_TARGET_DIR", self.root.path().join("target"))
            .env("CLIPPY_CONF_DIR", self.root.path())
            .env_remove("RUSTFLAGS")
            .output()
            .unwrap()
    }
}

fn copy_sources(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            if entry.file_name() != "target" {
                copy_sources(&entry.path(), &target);
            }
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

fn refused(output: &Output, because: &str) {
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(!output.status.success(), "the guard let it pass:\n{text}");
    assert!(
        text.contains(because),
        "refused, but not because of {because:?}:\n{text}"
    );
}

#[test]
fn a_pure_crate_that_names_tokio_does_not_build() {
    // One whose feature `io` is off, and one that has no such feature.
    for name in ["bgp", "model"] {
        let copy = Copy::with(name);
        copy.append(&format!("{name}/src/lib.rs"), "pub use tokio::time::sleep;");
        let output = copy.cargo(&["check", "--offline", "-p", name, "--no-default-features"]);
        refused(&output, "tokio");
    }
}

/// What clippy refuses: the sin, and a word of the reason it must give. All in one copy, because each costs a build.
const SINS: [(&str, &str); 3] = [
    (
        "/// Reads the clock where none may be read.\npub fn now() -> std::time::Instant { std::time::Instant::now() }",
        "time is an argument",
    ),
    (
        "/// Makes a channel that grows without end.\npub fn channel() -> usize { let (tx, rx) = tokio::sync::mpsc::unbounded_channel::<u8>(); drop((tx, rx)); 0 }",
        "no unbounded channel",
    ),
    (
        "/// Panics on bad input.\npub fn number(text: &str) -> u8 { text.parse().unwrap() }",
        "used `unwrap()`",
    ),
];

#[test]
fn a_banned_call_an_unbounded_channel_and_an_unwrap_fail_clippy_each_with_its_reason() {
    let copy = Copy::with("netlink");
    for (sin, _reason) in SINS {
        copy.append("netlink/src/lib.rs", sin);
    }
    let output = copy.cargo(&[
        "clippy",
        "--offline",
        "-p",
        "netlink",
        "--no-deps",
        "--",
        "-D",
        "warnings",
    ]);
    for (_sin, reason) in SINS {
        refused(&output, reason);
    }
}

#[test]
fn a_crate_that_reaches_over_a_wall_fails_the_dependency_check() {
    let copy = Copy::with("model");
    let manifest = copy.root.path().join("model/Cargo.toml");
    let text = fs::read_to_string(&manifest).unwrap();
    fs::write(
        &manifest,
        text.replace(
            "[dependencies]",
            "[dependencies]\nrtnetlink.workspace = true",
        ),
    )
    .unwrap();
    let output = copy.cargo(&["deny", "--offline", "check", "bans"]);
    refused(&output, "rtnetlink");
}
