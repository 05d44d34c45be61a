//! The verbs of the specification.

use std::fmt;
use std::time::Duration;

use super::{Code, Failure, Version};

/// `CNI_COMMAND`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verb {
    /// Attach a container.
    Add,
    /// Detach it; succeeds when there is nothing to detach.
    Del,
    /// Compare what ADD reported with what is there.
    Check,
    /// Drop attachments the runtime does not know.
    Gc,
    /// Would an ADD work now?
    Status,
    /// Which protocol versions are spoken?
    Version,
}

impl Verb {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Add,
        Self::Del,
        Self::Check,
        Self::Gc,
        Self::Status,
        Self::Version,
    ];

    /// Its text in `CNI_COMMAND`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Del => "DEL",
            Self::Check => "CHECK",
            Self::Gc => "GC",
            Self::Status => "STATUS",
            Self::Version => "VERSION",
        }
    }

    /// Reads `CNI_COMMAND`.
    ///
    /// # Errors
    /// Code 4 for an unknown verb.
    pub fn parse(text: &str) -> Result<Self, Failure> {
        Self::ALL
            .into_iter()
            .find(|verb| verb.as_str() == text)
            .ok_or_else(|| {
                let shown: String = text.chars().take(32).collect();
                Failure::new(
                    Code::InvalidEnvironment,
                    format!("CNI_COMMAND {shown:?} is not a verb of the CNI specification"),
                )
            })
    }

    /// The first protocol version that has it.
    pub fn since(self) -> Version {
        match self {
            Self::Add | Self::Del | Self::Version => Version::V0_3_0,
            Self::Check => Version::V0_4_0,
            Self::Gc | Self::Status => Version::V1_1_0,
        }
    }

    /// # Errors
    /// Code 1 when `version` does not have this verb yet.
    pub fn allowed_in(self, version: Version) -> Result<(), Failure> {
        if version >= self.since() {
            return Ok(());
        }
        Err(Failure::new(
            Code::IncompatibleVersion,
            format!(
                "{self} needs cniVersion {} or later, the configuration says {version}",
                self.since()
            ),
        ))
    }

    /// How long the whole call may take, connect included.
    pub fn deadline(self) -> Duration {
        Duration::from_secs(match self {
            Self::Add => 60,
            Self::Gc => 30,
            Self::Del => 20,
            Self::Check => 10,
            Self::Status | Self::Version => 1,
        })
    }

    /// The environment variables the specification requires for it, `CNI_COMMAND` apart.
    pub fn required(self) -> &'static [&'static str] {
        match self {
            Self::Add | Self::Check => &["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"],
            Self::Del => &["CNI_CONTAINERID", "CNI_IFNAME"],
            Self::Gc => &["CNI_PATH"],
            Self::Status | Self::Version => &[],
        }
    }

    /// True for the verbs that act on one attachment.
    pub fn names_an_attachment(self) -> bool {
        match self {
            Self::Add | Self::Del | Self::Check => true,
            Self::Gc | Self::Status | Self::Version => false,
        }
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
