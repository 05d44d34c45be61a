//! Error codes and the error object.

use serde_json::{Value, json};
use thiserror::Error;

use super::Version;

/// Error codes: 1–99 are the specification's, 100 and above ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Code {
    /// 1: the protocol version, or the verb in that version, is not spoken.
    IncompatibleVersion,
    /// 2: a field of the configuration is refused; the text names key and value.
    UnsupportedField,
    /// 3: the container or its sandbox does not exist (any more).
    UnknownContainer,
    /// 4: an environment variable is missing or malformed.
    InvalidEnvironment,
    /// 5: a file or socket failed.
    Io,
    /// 6: the bytes are not what they should be (JSON, UTF-8, a frame).
    Decode,
    /// 7: the network configuration is wrong.
    InvalidConfig,
    /// 8: `CNI_NETNS` is the host's own namespace.
    HostNamespace,
    /// 11: nothing was changed, the same call may succeed later.
    TryAgainLater,
    /// 50, STATUS only: an ADD would fail.
    NotAvailable,
    /// 51, STATUS only: an ADD would fail and running containers suffer.
    LimitedConnectivity,
    /// 100: a fault of ours.
    Internal,
    /// 101: the interface exists and is not a stale one of ours.
    InterfaceExists,
    /// 102: CHECK found differences.
    Differs,
    /// 103: no address is left.
    NoAddress,
    /// 104: an annotation or pool request cannot be met.
    RequestRefused,
}

impl Code {
    /// All of them, by number.
    pub const ALL: [Self; 16] = [
        Self::IncompatibleVersion,
        Self::UnsupportedField,
        Self::UnknownContainer,
        Self::InvalidEnvironment,
        Self::Io,
        Self::Decode,
        Self::InvalidConfig,
        Self::HostNamespace,
        Self::TryAgainLater,
        Self::NotAvailable,
        Self::LimitedConnectivity,
        Self::Internal,
        Self::InterfaceExists,
        Self::Differs,
        Self::NoAddress,
        Self::RequestRefused,
    ];

    /// Its number in `code`.
    pub fn number(self) -> u32 {
        match self {
            Self::IncompatibleVersion => 1,
            Self::UnsupportedField => 2,
            Self::UnknownContainer => 3,
            Self::InvalidEnvironment => 4,
            Self::Io => 5,
            Self::Decode => 6,
            Self::InvalidConfig => 7,
            Self::HostNamespace => 8,
            Self::TryAgainLater => 11,
            Self::NotAvailable => 50,
            Self::LimitedConnectivity => 51,
            Self::Internal => 100,
            Self::InterfaceExists => 101,
            Self::Differs => 102,
            Self::NoAddress => 103,
            Self::RequestRefused => 104,
        }
    }

    /// The code of a number; one from a newer daemon that we do not know counts as [`Code::Internal`].
    pub fn from_number(number: u32) -> Self {
        Self::ALL
            .into_iter()
            .find(|code| code.number() == number)
            .unwrap_or(Self::Internal)
    }
}

/// What a call failed with: one sentence a person can act on, and the chain of causes.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{msg}")]
pub struct Failure {
    /// Which kind.
    pub code: Code,
    /// One sentence that says what to do or to wait for.
    pub msg: String,
    /// Causes and the kernel's own words; may be empty.
    pub details: String,
}

impl Failure {
    /// A failure without details.
    pub fn new(code: Code, msg: impl Into<String>) -> Self {
        Self {
            code,
            msg: msg.into(),
            details: String::new(),
        }
    }

    /// The same failure with its causes.
    #[must_use]
    pub fn because(mut self, details: impl std::fmt::Display) -> Self {
        self.details = details.to_string();
        self
    }

    /// The error object of the specification, printed on stdout.
    pub fn render(&self, version: Version) -> Value {
        let mut object =
            json!({ "cniVersion": version.as_str(), "code": self.code.number(), "msg": self.msg });
        if let (Some(map), false) = (object.as_object_mut(), self.details.is_empty()) {
            map.insert("details".into(), Value::from(self.details.clone()));
        }
        object
    }
}
