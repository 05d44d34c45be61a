//! Protocol versions of the specification.

use std::fmt;

use serde_json::{Value, json};

use super::{Code, Failure};

/// A protocol version we answer in. Ordered as the specification grew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    /// 0.3.0: results with interfaces.
    V0_3_0,
    /// 0.3.1: the first one widely deployed.
    V0_3_1,
    /// 0.4.0: CHECK and `prevResult`.
    V0_4_0,
    /// 1.0.0: no `version` in `ips`, lists only.
    V1_0_0,
    /// 1.1.0: GC, STATUS, `mtu` of interfaces.
    V1_1_0,
}

impl Version {
    /// All of them, oldest first.
    pub const ALL: [Self; 5] = [
        Self::V0_3_0,
        Self::V0_3_1,
        Self::V0_4_0,
        Self::V1_0_0,
        Self::V1_1_0,
    ];

    /// The newest, used where no usable version was asked for.
    pub const NEWEST: Self = Self::V1_1_0;

    /// What a configuration without `cniVersion` counts as: older than anything we speak, as in Calico.
    pub const IMPLIED: &'static str = "0.2.0";

    /// Its text in `cniVersion`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::V0_3_0 => "0.3.0",
            Self::V0_3_1 => "0.3.1",
            Self::V0_4_0 => "0.4.0",
            Self::V1_0_0 => "1.0.0",
            Self::V1_1_0 => "1.1.0",
        }
    }

    /// Reads `cniVersion`; an absent one counts as [`Version::IMPLIED`].
    ///
    /// # Errors
    /// Code 1 when it is none of [`Version::ALL`].
    pub fn parse(text: Option<&str>) -> Result<Self, Failure> {
        let text = text.unwrap_or(Self::IMPLIED);
        Self::ALL.into_iter().find(|version| version.as_str() == text).ok_or_else(|| {
            let shown: String = text.chars().take(32).collect();
            Failure::new(
                Code::IncompatibleVersion,
                format!("CNI version {shown:?} is not supported: set cniVersion to one of 0.3.0, 0.3.1, 0.4.0, 1.0.0, 1.1.0"),
            )
        })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What VERSION prints: the asked version echoed (it need not be one we support, that is what the runtime wants to learn), and
/// the list of those we do. `stdin` may be empty or broken; then the newest stands for the echo.
pub fn version_answer(stdin: &[u8]) -> Value {
    let asked = serde_json::from_slice::<Value>(stdin)
        .ok()
        .and_then(|conf| conf.get("cniVersion")?.as_str().map(str::to_owned))
        .filter(|text| text.len() <= 32)
        .unwrap_or_else(|| Version::NEWEST.as_str().to_owned());
    json!({ "cniVersion": asked, "supportedVersions": Version::ALL.map(Version::as_str) })
}
