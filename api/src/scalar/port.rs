//! Ports as rules name them.

use std::borrow::Cow;
use std::fmt;
use std::num::NonZeroU16;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{NumberOrText, int_or_string};

/// A port, a range of ports, or the name a pod gives to one: `80`, `"80"`, `"80:90"`, `http`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Port {
    /// One port.
    Number(NonZeroU16),
    /// From the first to the last, both included; the first is below the last.
    Range(NonZeroU16, NonZeroU16),
    /// A named port, resolved per destination pod.
    Name(String),
    /// What the user wrote and nobody can match: it stands for no port, never for every port.
    Invalid(String),
}

impl Port {
    /// Reads a port from text. All digits are a number; what is no port at all is [`Port::Invalid`].
    pub fn parse(text: &str) -> Self {
        Self::try_parse(text).unwrap_or_else(|| Self::Invalid(text.to_owned()))
    }

    /// First and last port, both included; `None` for names and invalid text.
    pub fn bounds(&self) -> Option<(u16, u16)> {
        match self {
            Self::Number(port) => Some((port.get(), port.get())),
            Self::Range(first, last) => Some((first.get(), last.get())),
            Self::Name(_) | Self::Invalid(_) => None,
        }
    }

    fn try_parse(text: &str) -> Option<Self> {
        if let Some((first, last)) = text.split_once(':') {
            let (first, last) = (number(first)?, number(last)?);
            return match first.cmp(&last) {
                std::cmp::Ordering::Less => Some(Self::Range(first, last)),
                std::cmp::Ordering::Equal => Some(Self::Number(first)),
                std::cmp::Ordering::Greater => None,
            };
        }
        if text.bytes().all(|b| b.is_ascii_digit()) {
            return number(text).map(Self::Number);
        }
        let is_name = text.len() <= 128
            && text
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'));
        is_name.then(|| Self::Name(text.to_owned()))
    }
}

fn number(digits: &str) -> Option<NonZeroU16> {
    digits
        .bytes()
        .all(|b| b.is_ascii_digit())
        .then(|| digits.parse().ok())
        .flatten()
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(port) => port.fmt(f),
            Self::Range(first, last) => write!(f, "{first}:{last}"),
            Self::Name(text) | Self::Invalid(text) => f.write_str(text),
        }
    }
}

impl Serialize for Port {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Number(port) => serializer.serialize_u16(port.get()),
            Self::Range(..) | Self::Name(_) | Self::Invalid(_) => serializer.collect_str(self),
        }
    }
}

impl<'de> Deserialize<'de> for Port {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(match NumberOrText::deserialize(deserializer)? {
            NumberOrText::Number(n) => Self::parse_number(n),
            NumberOrText::Text(text) => Self::parse(&text),
        })
    }
}

impl Port {
    fn parse_number(n: i64) -> Self {
        match u16::try_from(n).ok().and_then(NonZeroU16::new) {
            Some(port) => Self::Number(port),
            None => Self::Invalid(n.to_string()),
        }
    }
}

impl JsonSchema for Port {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Port".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        int_or_string()
    }
}
