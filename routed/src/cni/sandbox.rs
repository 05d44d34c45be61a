//! Identity of network namespaces; the few file calls of this page.
#![expect(
    clippy::disallowed_methods,
    reason = "a namespace is a file, and its identity is that file's"
)]

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::sys::stat::fstat;
use nix::sys::statfs::{NSFS_MAGIC, fstatfs};

use super::record::Sandbox;

/// Whose namespace a descriptor is.
///
/// # Errors
/// It is no namespace, or the kernel refuses to say.
pub(super) fn identify(descriptor: impl AsFd) -> io::Result<Sandbox> {
    if fstatfs(&descriptor)?.filesystem_type() != NSFS_MAGIC {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "the descriptor is not a namespace",
        ));
    }
    let stat = fstat(&descriptor)?;
    Ok(Sandbox {
        device: stat.st_dev,
        inode: stat.st_ino,
    })
}

/// The namespace this daemon lives in: the node's.
///
/// # Errors
/// `/proc` is not what it should be.
pub(super) fn own() -> io::Result<Sandbox> {
    identify(OwnedFd::from(File::open("/proc/self/ns/net")?))
}

/// The namespace bound to `path`, `None` when there is none (any more), or when it cannot be told from here: this daemon has a
/// process table of its own, so `/proc/<pid>/ns/net` names something else in it.
pub(super) fn at(path: &str) -> Option<Sandbox> {
    if path.starts_with("/proc/") {
        return None;
    }
    let metadata = fs::metadata(Path::new(path)).ok()?;
    Some(Sandbox {
        device: metadata.dev(),
        inode: metadata.ino(),
    })
}
