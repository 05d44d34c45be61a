//! A directory of the host, entered step by step so that no symbolic link can lead elsewhere.
#![expect(
    clippy::disallowed_methods,
    reason = "installing is writing files; all of it is here"
)]

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat, renameat};
use nix::sys::stat::{FileStat, Mode, SFlag, fchmod, fstat, fstatat, mkdirat};
use nix::unistd::{UnlinkatFlags, unlinkat};
use thiserror::Error;

/// Why the host could not be changed.
#[derive(Debug, Error)]
pub enum InstallError {
    /// A system call failed.
    #[error("{path}: {cause}")]
    Io {
        /// What it was about.
        path: PathBuf,
        /// The kernel's words.
        cause: io::Error,
    },
    /// A step of the way, or the destination, is a symbolic link or no directory or file.
    #[error("{0} is a symbolic link, or not of the kind it should be: it is not touched")]
    NotPlain(PathBuf),
    /// A directory belongs to somebody else, who could replace what is put there.
    #[error("{path} belongs to uid {uid}, not to root: nothing is put there")]
    NotRoots {
        /// The directory.
        path: PathBuf,
        /// Its owner.
        uid: u32,
    },
}

/// An opened directory of the host.
#[derive(Debug)]
pub struct Place {
    descriptor: OwnedFd,
    path: PathBuf,
}

impl Place {
    /// Enters `below` under `root`, making what is missing. Every step must be a directory of root's and no symbolic link.
    ///
    /// # Errors
    /// See [`InstallError`].
    pub fn open(root: &Path, below: &Path) -> Result<Self, InstallError> {
        let descriptor = File::open(root).map_err(|cause| InstallError::Io {
            path: root.into(),
            cause,
        })?;
        let mut place = Self {
            descriptor: descriptor.into(),
            path: root.into(),
        };
        for component in below.components() {
            place = match component {
                Component::Normal(name) => place.enter(Path::new(name))?,
                Component::RootDir | Component::CurDir => place,
                Component::ParentDir | Component::Prefix(_) => {
                    return Err(InstallError::NotPlain(below.into()));
                }
            };
        }
        Ok(place)
    }

    fn enter(self, name: &Path) -> Result<Self, InstallError> {
        let path = self.path.join(name);
        let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_RDONLY;
        let mut opened = openat(&self.descriptor, name, flags, Mode::empty());
        if matches!(opened, Err(Errno::ENOENT)) {
            match mkdirat(&self.descriptor, name, Mode::from_bits_truncate(0o755)) {
                Ok(()) | Err(Errno::EEXIST) => {}
                Err(errno) => return Err(failed(&path, errno)),
            }
            opened = openat(&self.descriptor, name, flags, Mode::empty());
        }
        let descriptor = match opened {
            Ok(descriptor) => descriptor,
            Err(Errno::ELOOP | Errno::ENOTDIR) => return Err(InstallError::NotPlain(path)),
            Err(errno) => return Err(failed(&path, errno)),
        };
        let uid = fstat(&descriptor)
            .map_err(|errno| failed(&path, errno))?
            .st_uid;
        if uid != 0 {
            return Err(InstallError::NotRoots { path, uid });
        }
        Ok(Self { descriptor, path })
    }

    /// Makes `name` hold exactly `bytes` with `mode`; answers whether anything had to be written.
    ///
    /// # Errors
    /// See [`InstallError`].
    pub fn put(&self, name: &str, bytes: &[u8], mode: u32) -> Result<bool, InstallError> {
        if self.holds(name, bytes, mode)? {
            return Ok(false);
        }
        // The suffix is none a runtime reads, and the directory is the same: the rename is what it notices.
        let temporary = format!(".{name}.tmp");
        let path = self.path.join(&temporary);
        self.remove(&temporary)?;
        let flags =
            OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_WRONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let descriptor = openat(
            &self.descriptor,
            temporary.as_str(),
            flags,
            Mode::from_bits_truncate(0o600),
        )
        .map_err(|errno| failed(&path, errno))?;
        let mut file = File::from(descriptor);
        let written = file
            .write_all(bytes)
            .and_then(|()| Ok(fchmod(file.as_fd(), Mode::from_bits_truncate(mode))?))
            .and_then(|()| file.sync_all())
            .and_then(|()| {
                Ok(renameat(
                    &self.descriptor,
                    temporary.as_str(),
                    &self.descriptor,
                    name,
                )?)
            });
        if let Err(cause) = written {
            self.remove(&temporary)?;
            return Err(InstallError::Io { path, cause });
        }
        Ok(true)
    }

    /// Removes `name`; an absent one is fine.
    ///
    /// # Errors
    /// See [`InstallError`].
    pub fn remove(&self, name: &str) -> Result<(), InstallError> {
        match unlinkat(&self.descriptor, name, UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => Ok(()),
            Err(errno) => Err(failed(&self.path.join(name), errno)),
        }
    }

    /// Whether something of this name exists.
    ///
    /// # Errors
    /// See [`InstallError`].
    pub fn has(&self, name: &str) -> Result<bool, InstallError> {
        Ok(self.stat(name)?.is_some())
    }

    /// All names in it.
    ///
    /// # Errors
    /// See [`InstallError`].
    pub fn names(&self) -> Result<Vec<String>, InstallError> {
        let flags = OFlag::O_DIRECTORY | OFlag::O_CLOEXEC | OFlag::O_RDONLY;
        let mut listing = Dir::openat(&self.descriptor, ".", flags, Mode::empty())
            .map_err(|errno| failed(&self.path, errno))?;
        let mut names = Vec::new();
        for entry in listing.iter() {
            let entry = entry.map_err(|errno| failed(&self.path, errno))?;
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
        Ok(names)
    }

    fn stat(&self, name: &str) -> Result<Option<FileStat>, InstallError> {
        match fstatat(&self.descriptor, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::ENOENT) => Ok(None),
            Err(errno) => Err(failed(&self.path.join(name), errno)),
        }
    }

    /// Whether `name` is a plain file of root's with these bytes and this mode.
    fn holds(&self, name: &str, bytes: &[u8], mode: u32) -> Result<bool, InstallError> {
        let path = self.path.join(name);
        let Some(stat) = self.stat(name)? else {
            return Ok(false);
        };
        if SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT != SFlag::S_IFREG {
            return Err(InstallError::NotPlain(path));
        }
        let same_size = u64::try_from(stat.st_size).is_ok_and(|size| size == bytes.len() as u64);
        if !same_size || stat.st_mode & 0o7777 != mode || stat.st_uid != 0 {
            return Ok(false);
        }
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let descriptor = openat(&self.descriptor, name, flags, Mode::empty())
            .map_err(|errno| failed(&path, errno))?;
        let mut there = Vec::with_capacity(bytes.len());
        let read = File::from(descriptor)
            .take(bytes.len() as u64 + 1)
            .read_to_end(&mut there);
        read.map_err(|cause| InstallError::Io { path, cause })?;
        Ok(there == bytes)
    }
}

/// Reads a file of our own image.
///
/// # Errors
/// [`InstallError::Io`].
pub fn read_file(path: &Path) -> Result<Vec<u8>, InstallError> {
    std::fs::read(path).map_err(|cause| InstallError::Io {
        path: path.into(),
        cause,
    })
}

fn failed(path: &Path, errno: Errno) -> InstallError {
    InstallError::Io {
        path: path.into(),
        cause: errno.into(),
    }
}
