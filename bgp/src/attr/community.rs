//! Communities: tags that routes carry.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A community (RFC 1997): AS number and value, 16 bits each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Community(pub u32);

impl Community {
    /// Ask neighbours to prefer others before a planned stop (RFC 8326).
    pub const GRACEFUL_SHUTDOWN: Self = Self(0xFFFF_0000);
    /// Not to be sent to any external peer (RFC 1997).
    pub const NO_EXPORT: Self = Self(0xFFFF_FF01);
    /// Not to be sent to any peer (RFC 1997).
    pub const NO_ADVERTISE: Self = Self(0xFFFF_FF02);
    /// Not to be sent outside the own autonomous system, confederation members included (RFC 1997).
    pub const NO_EXPORT_SUBCONFED: Self = Self(0xFFFF_FF03);

    /// Both halves as one community.
    pub fn new(high: u16, low: u16) -> Self {
        Self(u32::from(high) << 16 | u32::from(low))
    }
}

impl fmt::Display for Community {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.0 >> 16, self.0 & 0xFFFF)
    }
}

/// A large community (RFC 8092): three 4-octet numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LargeCommunity {
    /// Global administrator, an AS number.
    pub global: u32,
    /// First local part.
    pub local1: u32,
    /// Second local part.
    pub local2: u32,
}

impl fmt::Display for LargeCommunity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.global, self.local1, self.local2)
    }
}

/// An extended community (RFC 4360), carried and not interpreted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ExtendedCommunity(pub [u8; 8]);

/// A text that is no community.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not of the form {form}")]
pub struct ParseCommunityError {
    text: String,
    form: &'static str,
}

impl FromStr for Community {
    type Err = ParseCommunityError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = || {
            let (high, low) = text.split_once(':')?;
            Some(Self::new(high.parse().ok()?, low.parse().ok()?))
        };
        parse().ok_or_else(|| ParseCommunityError {
            text: text.to_owned(),
            form: "n:n with 16-bit numbers",
        })
    }
}

impl FromStr for LargeCommunity {
    type Err = ParseCommunityError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = || {
            let (global, rest) = text.split_once(':')?;
            let (local1, local2) = rest.split_once(':')?;
            Some(Self {
                global: global.parse().ok()?,
                local1: local1.parse().ok()?,
                local2: local2.parse().ok()?,
            })
        };
        parse().ok_or_else(|| ParseCommunityError {
            text: text.to_owned(),
            form: "n:n:n with 32-bit numbers",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn communities_print_as_they_parse() {
        assert_eq!(
            "65535:0".parse::<Community>().unwrap(),
            Community::GRACEFUL_SHUTDOWN
        );
        assert_eq!(Community::NO_EXPORT.to_string(), "65535:65281");
        assert_eq!(
            "1:2:3".parse::<LargeCommunity>().unwrap().to_string(),
            "1:2:3"
        );
        assert!("65536:1".parse::<Community>().is_err());
        assert!("1:2".parse::<LargeCommunity>().is_err());
    }
}
