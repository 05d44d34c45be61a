//! Plugin and configuration on the host, and that they stay there.
//!
//! The configuration is what tells a runtime that the node has a network, so it is written only once the daemon serves and is in
//! sync. Both files are written beside their place and renamed into it, never in place: runtimes meet "text file busy", and
//! containerd reloads only for a rename *within* the directory it watches (a rename into it is a bare Create, which it ignores).

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::watch;

use crate::world::SyncState;

pub mod place;

use place::{InstallError, Place};

/// Name of the network, Calico's, so that handles and attachment keys mean the same to both.
pub const NETWORK: &str = "k8s-pod-network";
/// Name of the plugin's binary.
pub const PLUGIN: &str = "margay";
/// Name of the configuration: sorts before Calico's `10-calico.conflist`.
pub const CONFLIST: &str = "05-margay.conflist";

/// How often the host is looked at.
const LOOK: Duration = Duration::from_secs(2);

/// What goes where.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Where the host's root is mounted; `/` outside a container.
    pub host_root: PathBuf,
    /// Directory of plugins, below the root.
    pub bin_dir: PathBuf,
    /// Directory of configurations, below the root.
    pub conf_dir: PathBuf,
    /// The plugin's binary in our image.
    pub plugin: PathBuf,
    /// Where the daemon listens, as the host names it.
    pub socket: PathBuf,
}

/// What is wrong on the host, for a node condition; empty when all is well.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings(pub Vec<String>);

/// The configuration; chained plugins only where their binary exists, as a missing one would fail every ADD.
pub fn conflist(socket: &Path, portmap: bool) -> Value {
    let mut ours = json!({ "type": PLUGIN, "ipam": { "type": "margay-ipam" } });
    if let (Some(map), true) = (
        ours.as_object_mut(),
        socket != Path::new(cni_plugin::DEFAULT_SOCKET),
    ) {
        map.insert("socket".into(), socket.display().to_string().into());
    }
    let mut plugins = vec![ours];
    if portmap {
        plugins.push(
            json!({ "type": "portmap", "snat": true, "capabilities": { "portMappings": true } }),
        );
    }
    json!({
        "name": NETWORK,
        "cniVersion": "1.0.0",
        "cniVersions": ["0.3.1", "0.4.0", "1.0.0", "1.1.0"],
        "plugins": plugins,
    })
}

/// Installs, and keeps installed, until `stop`. What is wrong is told through `findings`.
pub async fn keep(
    plan: Plan,
    mut sync: watch::Receiver<SyncState>,
    mut stop: watch::Receiver<bool>,
    findings: watch::Sender<Findings>,
) {
    let work = async {
        if sync.wait_for(|state| state.in_sync).await.is_err() {
            return;
        }
        loop {
            tell(&findings, round(&plan));
            tokio::time::sleep(LOOK).await;
        }
    };
    tokio::select! {
        () = work => {}
        _ = stop.wait_for(|stop| *stop) => {}
    }
}

/// One look at the host, and whatever it needs. Blocking, but for a few small files.
pub fn round(plan: &Plan) -> Findings {
    let mut findings = Vec::new();
    if let Err(error) = install(plan, &mut findings) {
        findings.push(error.to_string());
    }
    Findings(findings)
}

/// Takes the configuration off the host, then the plugin. Running pods keep their network.
///
/// # Errors
/// What could not be removed.
pub fn remove(plan: &Plan) -> Result<(), InstallError> {
    Place::open(&plan.host_root, &plan.conf_dir)?.remove(CONFLIST)?;
    Place::open(&plan.host_root, &plan.bin_dir)?.remove(PLUGIN)
}

fn install(plan: &Plan, findings: &mut Vec<String>) -> Result<(), InstallError> {
    let bin = Place::open(&plan.host_root, &plan.bin_dir)?;
    let plugin = place::read_file(&plan.plugin)?;
    if bin.put(PLUGIN, &plugin, 0o755)? {
        tracing::info!(directory = %plan.bin_dir.display(), "plugin installed");
    }
    let portmap = bin.has("portmap")?;
    if !portmap {
        findings.push(format!(
            "{} has no portmap plugin: hostPort of pods does not work",
            plan.bin_dir.display()
        ));
    }
    let conf = Place::open(&plan.host_root, &plan.conf_dir)?;
    let mut text = format!("{:#}", conflist(&plan.socket, portmap)).into_bytes();
    text.push(b'\n');
    if conf.put(CONFLIST, &text, 0o600)? {
        tracing::info!(directory = %plan.conf_dir.display(), "configuration installed");
    }
    let winner = winner(conf.names()?);
    if winner.as_deref() != Some(CONFLIST) {
        findings.push(format!(
            "{} is used instead of {CONFLIST}: remove it from {}",
            winner.unwrap_or_default(),
            plan.conf_dir.display()
        ));
    }
    Ok(())
}

/// The file a runtime takes: the first by name among those it reads.
fn winner(mut names: Vec<String>) -> Option<String> {
    names.retain(|name| {
        [".conf", ".conflist", ".json"]
            .iter()
            .any(|suffix| name.ends_with(suffix))
    });
    names.sort();
    names.into_iter().next()
}

fn tell(findings: &watch::Sender<Findings>, now: Findings) {
    findings.send_if_modified(|before| {
        let changed = *before != now;
        if changed {
            for finding in &now.0 {
                tracing::warn!(finding, "installation on the host");
            }
            *before = now;
        }
        changed
    });
}

#[cfg(test)]
#[expect(
    clippy::disallowed_methods,
    reason = "a test looks at what was written"
)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    fn plan(root: &Path) -> Plan {
        fs::write(root.join("plugin"), b"new binary").unwrap();
        Plan {
            host_root: root.join("host"),
            bin_dir: "opt/cni/bin".into(),
            conf_dir: "etc/cni/net.d".into(),
            plugin: root.join("plugin"),
            socket: cni_plugin::DEFAULT_SOCKET.into(),
        }
    }

    fn host() -> (tempfile::TempDir, Plan) {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("host")).unwrap();
        let plan = plan(root.path());
        (root, plan)
    }

    #[test]
    fn both_files_are_installed_and_then_left_alone() {
        let (_root, plan) = host();
        assert!(round(&plan).0[0].contains("portmap"));
        let plugin = plan.host_root.join("opt/cni/bin/margay");
        let conf = plan.host_root.join("etc/cni/net.d/05-margay.conflist");
        assert_eq!(fs::read(&plugin).unwrap(), b"new binary");
        assert_eq!(
            fs::metadata(&plugin).unwrap().permissions().mode() & 0o7777,
            0o755
        );
        assert_eq!(
            fs::metadata(&conf).unwrap().permissions().mode() & 0o7777,
            0o600
        );
        let before = fs::metadata(&conf).unwrap().ino();
        round(&plan);
        assert_eq!(fs::metadata(&conf).unwrap().ino(), before);
        let left: Vec<_> = fs::read_dir(conf.parent().unwrap()).unwrap().collect();
        assert_eq!(left.len(), 1, "{left:?}");
    }

    #[test]
    fn a_deleted_configuration_comes_back_and_an_old_plugin_is_replaced_while_it_runs() {
        let (_root, plan) = host();
        round(&plan);
        let conf = plan.host_root.join("etc/cni/net.d/05-margay.conflist");
        fs::remove_file(&conf).unwrap();
        let plugin = plan.host_root.join("opt/cni/bin/margay");
        fs::write(&plugin, b"an old binary").unwrap();
        let held = fs::File::open(&plugin).unwrap();
        round(&plan);
        assert!(conf.exists());
        assert_eq!(fs::read(&plugin).unwrap(), b"new binary");
        assert_eq!(
            held.metadata().unwrap().len(),
            13,
            "the open file is another one"
        );
    }

    #[test]
    fn portmap_is_chained_only_where_it_exists() {
        let (_root, plan) = host();
        round(&plan);
        let conf = plan.host_root.join("etc/cni/net.d/05-margay.conflist");
        let plugins = |text: &str| {
            serde_json::from_str::<Value>(text).unwrap()["plugins"]
                .as_array()
                .unwrap()
                .len()
        };
        assert_eq!(plugins(&fs::read_to_string(&conf).unwrap()), 1);
        fs::write(plan.host_root.join("opt/cni/bin/portmap"), b"x").unwrap();
        assert_eq!(round(&plan), Findings::default());
        assert_eq!(plugins(&fs::read_to_string(&conf).unwrap()), 2);
    }

    #[test]
    fn a_foreign_configuration_that_wins_is_named() {
        let (_root, plan) = host();
        round(&plan);
        fs::write(plan.host_root.join("etc/cni/net.d/00-other.conf"), b"{}").unwrap();
        fs::write(plan.host_root.join("etc/cni/net.d/00-ignored.txt"), b"").unwrap();
        assert!(
            round(&plan)
                .0
                .iter()
                .any(|finding| finding.starts_with("00-other.conf is used"))
        );
    }

    #[test]
    fn symlinks_are_refused_as_destination_and_on_the_way() {
        let (root, plan) = host();
        let elsewhere = root.path().join("elsewhere");
        fs::write(&elsewhere, b"precious").unwrap();
        fs::create_dir_all(plan.host_root.join("opt/cni/bin")).unwrap();
        symlink(&elsewhere, plan.host_root.join("opt/cni/bin/margay")).unwrap();
        assert!(round(&plan).0[0].contains("symbolic link"));
        assert_eq!(fs::read(&elsewhere).unwrap(), b"precious");

        let (_root, plan) = host();
        symlink("/tmp", plan.host_root.join("opt")).unwrap();
        let findings = round(&plan);
        assert!(findings.0[0].contains("opt"), "{findings:?}");
    }

    #[test]
    fn a_directory_that_is_not_roots_is_refused() {
        let (_root, plan) = host();
        let bin = plan.host_root.join("opt/cni/bin");
        fs::create_dir_all(&bin).unwrap();
        if std::os::unix::fs::chown(&bin, Some(12345), None).is_err() {
            println!("skipped: only root can give a directory away");
            return;
        }
        assert!(round(&plan).0[0].contains("12345"));
    }

    #[test]
    fn removing_takes_both_and_is_content_when_they_are_gone() {
        let (_root, plan) = host();
        round(&plan);
        remove(&plan).unwrap();
        remove(&plan).unwrap();
        assert!(
            !plan
                .host_root
                .join("etc/cni/net.d/05-margay.conflist")
                .exists()
        );
        assert!(!plan.host_root.join("opt/cni/bin/margay").exists());
    }
}
