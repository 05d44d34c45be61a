//! Container images made of static programs: an OCI archive with one layer, written in a few lines, no builder.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use data_encoding::HEXLOWER;
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::machine::Machine;
use crate::{binaries, command};

/// The image of the test pods, of the sandboxes too.
pub const PROBE: &str = "docker.io/margay/probe:dev";
/// Margay's image, as its manifest names it (`margay/routed:dev`) in the full form of the runtime.
pub const MARGAY: &str = "docker.io/margay/routed:dev";

/// What goes into an image.
#[derive(Debug)]
pub struct Image<'a> {
    /// Full reference, registry included.
    pub reference: &'a str,
    /// Programs: path in the image (without the leading slash) and file here.
    pub programs: Vec<(&'a str, PathBuf)>,
    /// The entry point.
    pub entry: Vec<&'a str>,
}

/// Writes the image as an OCI archive.
///
/// # Errors
/// A program cannot be read or the archive cannot be written.
pub fn write(image: &Image<'_>, archive: &Path) -> Result<()> {
    let mut layer = Tar::default();
    for (name, file) in &image.programs {
        layer.add(name, 0o755, &stripped(file)?);
    }
    let layer = layer.finish();
    let mut tar = Tar::default();
    let layer_digest = digest(&layer);
    let config = json!({
        "architecture": "amd64", "os": "linux",
        "config": {"Entrypoint": image.entry, "WorkingDir": "/"},
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{layer_digest}")]},
    });
    let (config, config_digest) = blob(&config);
    let manifest = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": format!("sha256:{config_digest}"), "size": config.len()},
        "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": format!("sha256:{layer_digest}"), "size": layer.len()}],
    });
    let (manifest, manifest_digest) = blob(&manifest);
    let index = json!({
        "schemaVersion": 2,
        "manifests": [{
            "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": format!("sha256:{manifest_digest}"), "size": manifest.len(),
            "annotations": {"io.containerd.image.name": image.reference, "org.opencontainers.image.ref.name": image.reference},
        }],
    });
    tar.add("oci-layout", 0o644, br#"{"imageLayoutVersion":"1.0.0"}"#);
    tar.add("index.json", 0o644, &blob(&index).0);
    for (name, content) in [
        (&config_digest, &config),
        (&manifest_digest, &manifest),
        (&layer_digest, &layer),
    ] {
        tar.add(&format!("blobs/sha256/{name}"), 0o644, content);
    }
    std::fs::write(archive, tar.finish()).with_context(|| format!("write {}", archive.display()))
}

/// Loads an archive into a node's containerd.
///
/// # Errors
/// `ctr` fails.
pub fn import(node: &Machine, archive: &str) -> Result<()> {
    node.exec(&[
        "ctr",
        "--namespace",
        "k8s.io",
        "images",
        "import",
        "--snapshotter",
        "overlayfs",
        archive,
    ])
    .map(drop)
}

/// The image of the test pods.
///
/// # Errors
/// `probe` has not been built.
pub fn probe() -> Result<Image<'static>> {
    Ok(Image {
        reference: PROBE,
        programs: vec![("probe", binaries::own("probe")?)],
        entry: vec!["/probe"],
    })
}

/// The program without its debug sections: every node unpacks the image. Where `strip` is missing, as it is.
fn stripped(file: &Path) -> Result<Vec<u8>> {
    let Some(strip) = command::find("strip") else {
        return std::fs::read(file).with_context(|| format!("read {}", file.display()));
    };
    let out = binaries::lab_directory()?.join(format!(
        "strip-{}-{}",
        std::process::id(),
        file.file_name().unwrap_or_default().to_string_lossy()
    ));
    let mut run = std::process::Command::new(strip);
    run.args(["--strip-all", "-o"]).arg(&out).arg(file);
    let content = command::output(&mut run, None)
        .and_then(|_| std::fs::read(&out).context("read the stripped program"));
    drop(std::fs::remove_file(&out));
    content
}

fn blob(value: &serde_json::Value) -> (Vec<u8>, String) {
    let text = value.to_string().into_bytes();
    let name = digest(&text);
    (text, name)
}

fn digest(content: &[u8]) -> String {
    HEXLOWER.encode(&Sha256::digest(content))
}

/// A tar archive in the ustar form (POSIX.1-1988): plain files only, all of them root's, all of one time.
#[derive(Debug, Default)]
struct Tar {
    bytes: Vec<u8>,
}

impl Tar {
    fn add(&mut self, name: &str, mode: u32, content: &[u8]) {
        let mut header = [0_u8; 512];
        let mut field = |at: usize, text: &str| {
            for (place, byte) in header.iter_mut().skip(at).zip(text.bytes()) {
                *place = byte;
            }
        };
        field(0, name);
        field(100, &format!("{mode:07o}"));
        field(108, "0000000");
        field(116, "0000000");
        field(124, &format!("{:011o}", content.len()));
        field(136, "00000000000");
        // The checksum is taken with blanks in its own place.
        field(148, "        ");
        field(156, "0");
        field(257, "ustar\x0000");
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        for (place, byte) in header
            .iter_mut()
            .skip(148)
            .zip(format!("{sum:06o}\0 ").bytes())
        {
            *place = byte;
        }
        self.bytes.extend_from_slice(&header);
        // Writing to memory cannot fail.
        let _ = self.bytes.write_all(content);
        self.bytes.resize(self.bytes.len().next_multiple_of(512), 0);
    }

    fn finish(mut self) -> Vec<u8> {
        self.bytes.resize(self.bytes.len() + 1024, 0);
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tar_is_read_back_by_the_tar_program() {
        let mut tar = Tar::default();
        tar.add("bin/one", 0o755, b"first");
        tar.add("two", 0o644, &[7; 513]);
        let mut list = std::process::Command::new("tar");
        let place = std::env::temp_dir().join(format!("lab-tar-{}", std::process::id()));
        std::fs::write(&place, tar.finish()).unwrap();
        let listed = command::output(list.args(["-tvf"]).arg(&place), None);
        std::fs::remove_file(&place).unwrap();
        let listed = listed.unwrap();
        let names: Vec<&str> = listed
            .lines()
            .filter_map(|line| line.split_whitespace().last())
            .collect();
        assert_eq!(names, ["bin/one", "two"]);
        assert!(listed.contains("513"), "{listed}");
    }
}
