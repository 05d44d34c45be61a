//! The kernel of a guest: Debian's cloud kernel, unpacked beside the control plane, never installed.

use std::fmt::Write;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::modinfo::{self, Module};
use crate::{binaries, command, progress};

/// The Debian package that always names the newest cloud kernel.
const NEWEST: &str = "linux-image-cloud-amd64";

/// An unpacked kernel.
#[derive(Clone, Debug)]
pub struct Kernel {
    directory: PathBuf,
}

impl Kernel {
    /// The kernel that lies there, or a newly fetched one: `target/lab/guest/VERSION`.
    ///
    /// # Errors
    /// The package cannot be fetched or is not what was expected.
    pub fn ready() -> Result<Self> {
        let root = binaries::lab_directory()?.join("guest");
        fs::create_dir_all(&root).with_context(|| format!("make {}", root.display()))?;
        // Tests run in parallel processes: one fetches, the others wait and find it done.
        let lock = File::create(root.join("lock")).context("make the kernel's lock")?;
        lock.lock().context("wait for another process")?;
        if let Some(kernel) = Self::present(&root)? {
            return Ok(kernel);
        }
        progress::step("fetch the guest's kernel", || fetch(&root))
    }

    fn present(root: &Path) -> Result<Option<Self>> {
        let entries = root
            .read_dir()
            .with_context(|| format!("list {}", root.display()))?;
        let mut found: Vec<PathBuf> = entries
            .flatten()
            .map(|entry| entry.path())
            .filter(|place| place.join("modules/index").is_file())
            .collect();
        found.sort();
        Ok(found.pop().map(|directory| Self { directory }))
    }

    /// The file to boot.
    pub fn image(&self) -> PathBuf {
        self.directory.join("vmlinuz")
    }

    /// The directory of modules, with an `index` of names.
    pub fn modules(&self) -> PathBuf {
        self.directory.join("modules")
    }

    /// Its version, as `uname -r` shows it.
    pub fn version(&self) -> String {
        let name = self.directory.file_name().unwrap_or_default();
        name.to_string_lossy().into_owned()
    }

    /// These modules and all that they need, in the order in which they can be loaded.
    ///
    /// # Errors
    /// The kernel has no such module.
    pub fn order(&self, wanted: &[&str]) -> Result<Vec<String>> {
        let index = fs::read_to_string(self.modules().join("index")).context("read the index")?;
        let mut order = Vec::new();
        for name in wanted {
            add(&index, name, &mut order)?;
        }
        Ok(order)
    }
}

fn add(index: &str, name: &str, order: &mut Vec<String>) -> Result<()> {
    if order.iter().any(|done| done == name) {
        return Ok(());
    }
    let mut lines = index.lines().map(|line| line.split('\t'));
    let needs = lines
        .find_map(|mut line| (line.next()? == name).then(|| line.next()).flatten())
        .with_context(|| format!("the guest's kernel has no module {name}"))?;
    for need in needs.split(' ').filter(|need| !need.is_empty()) {
        add(index, need, order)?;
    }
    order.push(name.to_owned());
    Ok(())
}

fn fetch(root: &Path) -> Result<Kernel> {
    let described = command::run("apt-cache", &["depends", "--important", NEWEST])
        .context("ask for the newest cloud kernel (`apt-get update` first: `make deps` does)")?;
    let package = described
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Depends: "))
        .find(|name| name.starts_with("linux-image-"))
        .with_context(|| format!("{NEWEST} names no kernel: {described}"))?;
    let fresh = root.join("new");
    if fresh.exists() {
        fs::remove_dir_all(&fresh).context("remove what a broken fetch has left")?;
    }
    fs::create_dir_all(&fresh).with_context(|| format!("make {}", fresh.display()))?;
    let mut download = std::process::Command::new("apt-get");
    download
        .args(["-o", "Acquire::Retries=3", "download", "-qq", package])
        .current_dir(&fresh);
    command::output(&mut download, None)?;
    let archive = fresh
        .read_dir()
        .context("look for the package")?
        .flatten()
        .map(|entry| entry.path())
        .find(|place| {
            place
                .extension()
                .is_some_and(|extension| extension == "deb")
        })
        .context("apt-get has downloaded nothing")?;
    let (archive, tree) = (utf8(&archive)?, utf8(&fresh.join("tree"))?);
    command::run("dpkg-deb", &["-x", &archive, &tree])?;
    let version = package.trim_start_matches("linux-image-");
    arrange(Path::new(&tree), version, &fresh)?;
    let place = root.join(version);
    for part in [archive.as_str(), tree.as_str()] {
        let removed = if Path::new(part).is_dir() {
            fs::remove_dir_all(part)
        } else {
            fs::remove_file(part)
        };
        removed.with_context(|| format!("remove {part}"))?;
    }
    fs::rename(&fresh, &place).context("put the kernel in place")?;
    Ok(Kernel { directory: place })
}

/// Moves the kernel and its modules out of the package's tree into two flat places, and writes the index.
fn arrange(tree: &Path, version: &str, place: &Path) -> Result<()> {
    fs::rename(
        tree.join(format!("boot/vmlinuz-{version}")),
        place.join("vmlinuz"),
    )
    .context("take the kernel out of its package")?;
    let modules = place.join("modules");
    fs::create_dir_all(&modules).context("make the directory of modules")?;
    let mut files = Vec::new();
    collect(&tree.join("lib/modules").join(version), &mut files)?;
    let mut index = String::new();
    for file in files {
        let content = fs::read(&file).with_context(|| format!("read {}", file.display()))?;
        let Module {
            name,
            needs,
            aliases,
        } = modinfo::parse(&content).with_context(|| format!("read {}", file.display()))?;
        fs::rename(&file, modules.join(format!("{name}.ko")))
            .with_context(|| format!("move {}", file.display()))?;
        let _ = writeln!(index, "{name}\t{}\t{}", needs.join(" "), aliases.join(" "));
    }
    if index.is_empty() {
        bail!("the package holds no modules that could be read");
    }
    fs::write(modules.join("index"), index).context("write the index")
}

fn collect(place: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let entries = place
        .read_dir()
        .with_context(|| format!("list {}", place.display()))?;
    for entry in entries.flatten() {
        let place = entry.path();
        if place.is_dir() {
            collect(&place, files)?;
        } else if place.extension().is_some_and(|extension| extension == "ko") {
            files.push(place);
        }
    }
    Ok(())
}

fn utf8(place: &Path) -> Result<String> {
    let text = place.to_str().map(str::to_owned);
    text.with_context(|| format!("not UTF-8: {}", place.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_module_needs_comes_first_and_once() {
        let index = "a\tb c\t\nb\tc\t\nc\t\talias\n";
        let mut order = Vec::new();
        add(index, "a", &mut order).unwrap();
        add(index, "b", &mut order).unwrap();
        assert_eq!(order, ["c", "b", "a"]);
        assert!(add(index, "d", &mut order).is_err());
    }
}
