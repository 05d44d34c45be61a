//! Durations in the text form of Go's `time.Duration`.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A span of time written as Go writes it: `90s`, `1m30s`, `1.5s`, `100ms`; units ms, s, m, h (us and ns are read too).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GoDuration(pub Duration);

/// Why a text is not a duration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DurationError {
    /// Nothing was written.
    #[error("an empty text is not a duration, write for instance 30s")]
    Empty,
    /// A number without unit, or a unit without number.
    #[error("{0:?} is not a duration: write numbers with units, for instance 1m30s or 500ms")]
    Syntax(String),
    /// More than 2^63 - 1 nanoseconds (292 years), the limit of Go's type.
    #[error("{0:?} is longer than any duration can be")]
    TooLong(String),
}

const NANOS_PER_SECOND: u128 = 1_000_000_000;

impl FromStr for GoDuration {
    type Err = DurationError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "" => return Err(DurationError::Empty),
            "0" => return Ok(Self(Duration::ZERO)),
            _ => {}
        }
        let mut rest = text;
        let mut nanos: u128 = 0;
        while !rest.is_empty() {
            let (part, after) =
                take_part(rest).ok_or_else(|| DurationError::Syntax(text.to_owned()))?;
            nanos = nanos.saturating_add(part);
            rest = after;
        }
        let nanos = i64::try_from(nanos)
            .ok()
            .and_then(|n| u64::try_from(n).ok());
        nanos
            .map(|n| Self(Duration::from_nanos(n)))
            .ok_or_else(|| DurationError::TooLong(text.to_owned()))
    }
}

/// Takes one number with its unit off the front; the value is in nanoseconds.
fn take_part(text: &str) -> Option<(u128, &str)> {
    let (whole, rest) = take_digits(text);
    let (fraction, rest) = match rest.strip_prefix('.') {
        Some(after) => take_digits(after),
        None => ("", rest),
    };
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let (unit, rest) = take_unit(rest)?;
    let whole = if whole.is_empty() {
        0
    } else {
        whole
            .parse::<u64>()
            .map_or(u128::from(u64::MAX), u128::from)
    };
    Some((
        whole
            .saturating_mul(unit)
            .saturating_add(fraction_of(fraction, unit)),
        rest,
    ))
}

fn take_digits(text: &str) -> (&str, &str) {
    text.split_at(text.bytes().take_while(u8::is_ascii_digit).count())
}

fn take_unit(text: &str) -> Option<(u128, &str)> {
    const UNITS: [(&str, u128); 8] = [
        ("ns", 1),
        ("us", 1_000),
        ("\u{b5}s", 1_000),
        ("\u{3bc}s", 1_000),
        ("ms", 1_000_000),
        ("s", NANOS_PER_SECOND),
        ("m", 60 * NANOS_PER_SECOND),
        ("h", 3_600 * NANOS_PER_SECOND),
    ];
    UNITS
        .iter()
        .find_map(|(name, nanos)| text.strip_prefix(name).map(|rest| (*nanos, rest)))
}

/// The decimal fraction `.digits` of a unit, in nanoseconds, cut below one; digits past the 18th cannot count.
fn fraction_of(digits: &str, unit: u128) -> u128 {
    let kept: String = digits.chars().take(18).collect();
    let scale = 10_u128.pow(u32::try_from(kept.len()).unwrap_or(0));
    kept.parse::<u128>().map_or(0, |n| n * unit / scale)
}

impl fmt::Display for GoDuration {
    /// Go's own form: `1h0m0s`, `1m30s`, `1.5s`, `100ms`, `0s`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanos = self.0.subsec_nanos();
        let seconds = self.0.as_secs();
        if seconds == 0 && nanos > 0 {
            return match nanos {
                0..1_000 => write!(f, "{nanos}ns"),
                1_000..1_000_000 => {
                    write_fraction(f, u64::from(nanos / 1_000), nanos % 1_000, 3, "\u{b5}s")
                }
                _ => write_fraction(f, u64::from(nanos / 1_000_000), nanos % 1_000_000, 6, "ms"),
            };
        }
        let (hours, minutes) = (seconds / 3_600, seconds / 60 % 60);
        if hours > 0 {
            write!(f, "{hours}h")?;
        }
        if seconds >= 60 {
            write!(f, "{minutes}m")?;
        }
        write_fraction(f, seconds % 60, nanos, 9, "s")
    }
}

fn write_fraction(
    f: &mut fmt::Formatter<'_>,
    whole: u64,
    fraction: u32,
    width: usize,
    unit: &str,
) -> fmt::Result {
    let digits = format!("{fraction:0width$}");
    match digits.trim_end_matches('0') {
        "" => write!(f, "{whole}{unit}"),
        digits => write!(f, "{whole}.{digits}{unit}"),
    }
}

impl Serialize for GoDuration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for GoDuration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Cow::<'de, str>::deserialize(deserializer)?
            .parse()
            .map_err(de::Error::custom)
    }
}

impl JsonSchema for GoDuration {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "GoDuration".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": r"^(0|([0-9]*(\.[0-9]*)?(ns|us|ms|s|m|h))*)$" })
    }
}
