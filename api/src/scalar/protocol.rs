//! IP protocols as rules name them.

use std::borrow::Cow;
use std::fmt;
use std::num::NonZeroU8;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{IpVersion, NumberOrText, int_or_string};

/// An IP protocol: a name in any letter case or a number; known numbers become names, so 6 equals `TCP`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// 6.
    Tcp,
    /// 17.
    Udp,
    /// 1, IPv4 only.
    Icmp,
    /// 58, IPv6 only.
    IcmpV6,
    /// 132.
    Sctp,
    /// 136.
    UdpLite,
    /// Any other protocol number.
    Number(NonZeroU8),
    /// What the user wrote and nobody can match: a rule with it never allows, and denies everything.
    Unknown(String),
}

const NAMED: [(Protocol, u8, &str); 6] = [
    (Protocol::Tcp, 6, "TCP"),
    (Protocol::Udp, 17, "UDP"),
    (Protocol::Icmp, 1, "ICMP"),
    (Protocol::IcmpV6, 58, "ICMPv6"),
    (Protocol::Sctp, 132, "SCTP"),
    (Protocol::UdpLite, 136, "UDPLite"),
];

impl Protocol {
    /// The protocol of a number; 0 is no protocol in a rule.
    pub fn from_number(number: NonZeroU8) -> Self {
        NAMED
            .into_iter()
            .find(|(_, n, _)| *n == number.get())
            .map_or(Self::Number(number), |(named, _, _)| named)
    }

    /// Reads a name (any letter case) or a number in text; what is neither is [`Protocol::Unknown`].
    pub fn parse(text: &str) -> Self {
        if let Some((named, _, _)) = NAMED
            .into_iter()
            .find(|(_, _, name)| name.eq_ignore_ascii_case(text))
        {
            return named;
        }
        text.parse()
            .map_or_else(|_| Self::Unknown(text.to_owned()), Self::from_number)
    }

    /// The number on the wire; `None` for [`Protocol::Unknown`].
    pub fn number(&self) -> Option<u8> {
        match self {
            Self::Tcp => Some(6),
            Self::Udp => Some(17),
            Self::Icmp => Some(1),
            Self::IcmpV6 => Some(58),
            Self::Sctp => Some(132),
            Self::UdpLite => Some(136),
            Self::Number(n) => Some(n.get()),
            Self::Unknown(_) => None,
        }
    }

    /// Whether rules may name ports of it: TCP, UDP and SCTP.
    pub fn has_ports(&self) -> bool {
        matches!(self, Self::Tcp | Self::Udp | Self::Sctp)
    }

    /// The one family it exists in, if there is only one.
    pub fn family(&self) -> Option<IpVersion> {
        match self {
            Self::Icmp => Some(IpVersion::V4),
            Self::IcmpV6 => Some(IpVersion::V6),
            Self::Tcp
            | Self::Udp
            | Self::Sctp
            | Self::UdpLite
            | Self::Number(_)
            | Self::Unknown(_) => None,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp => f.write_str("TCP"),
            Self::Udp => f.write_str("UDP"),
            Self::Icmp => f.write_str("ICMP"),
            Self::IcmpV6 => f.write_str("ICMPv6"),
            Self::Sctp => f.write_str("SCTP"),
            Self::UdpLite => f.write_str("UDPLite"),
            Self::Number(n) => n.fmt(f),
            Self::Unknown(text) => f.write_str(text),
        }
    }
}

impl Serialize for Protocol {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Number(n) => serializer.serialize_u8(n.get()),
            Self::Tcp
            | Self::Udp
            | Self::Icmp
            | Self::IcmpV6
            | Self::Sctp
            | Self::UdpLite
            | Self::Unknown(_) => serializer.collect_str(self),
        }
    }
}

impl<'de> Deserialize<'de> for Protocol {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(match NumberOrText::deserialize(deserializer)? {
            NumberOrText::Number(n) => Self::parse(&n.to_string()),
            NumberOrText::Text(text) => Self::parse(&text),
        })
    }
}

impl JsonSchema for Protocol {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Protocol".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        int_or_string()
    }
}
