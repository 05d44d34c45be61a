//! The scalar forms shared by all kinds: numbers, names and texts that JSON writes in more than one way.
//!
//! A value that cannot be read is kept apart ([`Protocol::Unknown`], [`Port::Invalid`]) and never dropped: dropping a
//! criterion of a rule would widen the rule.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

mod duration;
mod port;
mod protocol;
mod text;

pub use duration::{DurationError, GoDuration};
pub use port::Port;
pub use protocol::Protocol;
pub(crate) use text::{Form, empty_is_none, text_enum, text_schema};

text_enum! {
    /// A setting that is on or off by name.
    pub enum Switch: Exact {
        /// On.
        Enabled = "Enabled",
        /// Off.
        Disabled = "Disabled",
    }
}

/// An autonomous system number, four octets (RFC 6793).
///
/// JSON is an integer; text (`"65000"`, and the dotted form `"1.10"` of node annotations) is read too, a number is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AsNumber(pub u32);

/// Why a text is not an AS number.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an AS number (0 to 4294967295, or two 16-bit halves such as 1.10)")]
pub struct AsNumberError(String);

impl fmt::Display for AsNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for AsNumber {
    type Err = AsNumberError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let halves = |(high, low): (&str, &str)| {
            Some((u32::from(high.parse::<u16>().ok()?) << 16) | u32::from(low.parse::<u16>().ok()?))
        };
        let number = match text.split_once('.') {
            Some(parts) => halves(parts),
            None => text.parse().ok(),
        };
        number
            .map(Self)
            .ok_or_else(|| AsNumberError(text.to_owned()))
    }
}

impl Serialize for AsNumber {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u32(self.0)
    }
}

impl<'de> Deserialize<'de> for AsNumber {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match NumberOrText::deserialize(deserializer)? {
            NumberOrText::Number(n) => u32::try_from(n)
                .map(Self)
                .map_err(|_out_of_range| de::Error::custom(AsNumberError(n.to_string()))),
            NumberOrText::Text(text) => text.parse().map_err(de::Error::custom),
        }
    }
}

impl JsonSchema for AsNumber {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "AsNumber".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "integer", "format": "int64", "minimum": 0, "maximum": 4_294_967_295_u32 })
    }
}

/// Version of the Internet Protocol, 4 or 6 in JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum IpVersion {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl IpVersion {
    /// 4 or 6.
    pub fn number(self) -> u8 {
        match self {
            Self::V4 => 4,
            Self::V6 => 6,
        }
    }
}

impl Serialize for IpVersion {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u8(self.number())
    }
}

impl<'de> Deserialize<'de> for IpVersion {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match u64::deserialize(deserializer)? {
            4 => Ok(Self::V4),
            6 => Ok(Self::V6),
            other => Err(de::Error::custom(format!(
                "{other} is not an IP version: write 4 or 6"
            ))),
        }
    }
}

impl JsonSchema for IpVersion {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "IpVersion".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "integer", "enum": [4, 6] })
    }
}

/// What Kubernetes calls int-or-string, before it gets a meaning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum NumberOrText {
    Number(i64),
    Text(String),
}

impl<'de> Deserialize<'de> for NumberOrText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NumberOrTextVisitor)
    }
}

struct NumberOrTextVisitor;

impl Visitor<'_> for NumberOrTextVisitor {
    type Value = NumberOrText;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an integer or a string")
    }

    fn visit_i64<E: de::Error>(self, v: i64) -> Result<Self::Value, E> {
        Ok(NumberOrText::Number(v))
    }

    fn visit_u64<E: de::Error>(self, v: u64) -> Result<Self::Value, E> {
        i64::try_from(v)
            .map(NumberOrText::Number)
            .map_err(|_out_of_range| E::custom(format!("{v} is out of range")))
    }

    fn visit_str<E: de::Error>(self, v: &str) -> Result<Self::Value, E> {
        Ok(NumberOrText::Text(v.to_owned()))
    }
}

/// Schema of an int-or-string field: the mark alone, since a structural schema allows no type beside it.
pub(crate) fn int_or_string() -> Schema {
    json_schema!({ "x-kubernetes-int-or-string": true })
}

#[cfg(test)]
mod tests;
