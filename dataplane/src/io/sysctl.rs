//! Writing the settings of the allow-list.
#![expect(
    clippy::disallowed_methods,
    reason = "io: the files below /proc/sys are the kernel's interface to its settings"
)]

use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use netlink::netns::{self, NetnsError};

use crate::plan::workload::{Missing, Setting};
use crate::sysctl::{Ipv6Key, Sysctl};

/// The directory that holds a writable `net`.
///
/// In a container the own `/proc/sys` is read-only, and the host's `/proc/sys/net` comes in as a mount at another place. Wherever
/// it is mounted, the kernel resolves it in the network namespace of the *thread* that opens the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SysctlRoot(PathBuf);

impl Default for SysctlRoot {
    fn default() -> Self {
        Self("/proc/sys".into())
    }
}

/// A setting that could not be written.
#[derive(Debug, thiserror::Error)]
pub enum SysctlError {
    /// The file could not be read or written.
    #[error("sysctl {key} = {value}: {source}")]
    Access {
        /// The key.
        key: Sysctl,
        /// What it should be.
        value: u32,
        /// The system's error.
        source: io::Error,
    },
    /// The namespace could not be entered.
    #[error(transparent)]
    Netns(#[from] NetnsError),
}

impl SysctlRoot {
    /// A directory that holds `net`, such as `/proc/sys`.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Writes a setting of the calling thread's namespace unless it has the value already.
    ///
    /// # Errors
    /// [`SysctlError::Access`] with the system's error; a missing key is fine when the setting says so.
    pub fn write(&self, setting: &Setting) -> Result<(), SysctlError> {
        match self.write_value(&setting.key, setting.value) {
            Err(source)
                if source.kind() == io::ErrorKind::NotFound
                    && setting.missing == Missing::Harmless =>
            {
                Ok(())
            }
            Err(source) => Err(SysctlError::Access {
                key: setting.key.clone(),
                value: setting.value,
                source,
            }),
            Ok(()) => Ok(()),
        }
    }

    /// Writes settings of another namespace, on a thread that enters it.
    ///
    /// # Errors
    /// As [`SysctlRoot::write`], and [`SysctlError::Netns`].
    pub fn write_in(&self, namespace: impl AsFd, settings: &[Setting]) -> Result<(), SysctlError> {
        netns::run_in(namespace, || {
            settings.iter().try_for_each(|setting| self.write(setting))
        })?
    }

    /// Writes settings of the host in the calling thread's namespace, in the order given; returns what could not be written, and why.
    /// An uplink that would lose its routers keeps the host from forwarding IPv6.
    pub(crate) fn write_in_order(&self, settings: &[Setting]) -> Vec<(String, String)> {
        let mut refused = Vec::new();
        let mut deaf = None;
        for setting in settings {
            let result = match (&setting.key, &deaf) {
                (Sysctl::Ipv6AllForwarding, Some(device)) => Err(format!(
                    "left as it is, because {device} would lose its default router"
                )),
                _ => self.write(setting).map_err(|error| error.to_string()),
            };
            if let Err(reason) = result {
                if let Sysctl::Ipv6Device(device, Ipv6Key::AcceptRa) = &setting.key {
                    deaf = Some(device.clone());
                }
                refused.push((format!("sysctl {}", setting.key), reason));
            }
        }
        refused
    }

    fn write_value(&self, key: &Sysctl, value: u32) -> io::Result<()> {
        let path = key.path(&self.0);
        let wanted = value.to_string();
        // Read first: writing `forwarding` walks every device even when nothing changes, and a read-only mount is no fault then.
        if std::fs::read_to_string(&path)?.trim() == wanted {
            return Ok(());
        }
        std::fs::write(&path, wanted)
    }
}
