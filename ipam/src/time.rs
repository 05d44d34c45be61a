//! Wall-clock instants as numbers, and the texts Calico's objects hold them in.
//!
//! The clock is an argument everywhere in this crate; this type is what is passed.

use std::fmt;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;
use k8s_openapi::jiff::{Timestamp, fmt::strtime};

/// Nanoseconds since the Unix epoch, UTC.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(u64);

const NANOS: u64 = 1_000_000_000;

impl Time {
    /// An instant from nanoseconds since the Unix epoch.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// An instant from whole seconds since the Unix epoch.
    pub const fn from_secs(secs: u64) -> Self {
        Self(secs.saturating_mul(NANOS))
    }

    /// Nanoseconds since the Unix epoch.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// The instant `span` later; saturates at the end of time.
    #[must_use]
    pub fn plus(self, span: Duration) -> Self {
        let nanos = u64::try_from(span.as_nanos()).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(nanos))
    }

    /// How long ago `earlier` was; zero when it lies in the future.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// The whole second at or before this instant: what a stored timestamp can hold.
    #[must_use]
    pub(crate) const fn whole_second(self) -> Self {
        Self(self.0 - self.0 % NANOS)
    }

    /// The whole second at or after this instant, so that a rest counted from it is never too short.
    #[must_use]
    pub(crate) fn next_whole_second(self) -> Self {
        Self(self.0.saturating_add(NANOS - 1)).whole_second()
    }

    /// `2026-08-22 06:33:20.123456789 +0000 UTC`, the form of the `timestamp` owner attribute.
    pub fn to_attribute(self) -> String {
        let nanos = self.0 % NANOS;
        let seconds = Timestamp::from_nanosecond(i128::from(self.0))
            .and_then(|stamp| strtime::format("%Y-%m-%d %H:%M:%S", stamp))
            .unwrap_or_default();
        format!("{seconds}.{nanos:09} +0000 UTC")
    }

    /// Reads an RFC 3339 text; `None` for anything else and before 1970.
    pub fn parse(text: &str) -> Option<Self> {
        let stamp: Timestamp = text.parse().ok()?;
        u64::try_from(stamp.as_nanosecond()).ok().map(Self)
    }

    /// `2026-08-22T06:33:20Z`: whole seconds, rounded down.
    pub fn to_rfc3339(self) -> String {
        Timestamp::from_nanosecond(i128::from(self.0))
            .and_then(|stamp| strtime::format("%Y-%m-%dT%H:%M:%SZ", stamp))
            .unwrap_or_default()
    }

    /// Reads a stored timestamp; `None` before 1970.
    pub(crate) fn from_stored(stored: &meta::Time) -> Option<Self> {
        u64::try_from(stored.0.as_nanosecond()).ok().map(Self)
    }

    /// The stored form: whole seconds, rounded down when written.
    pub(crate) fn to_stored(self) -> Option<meta::Time> {
        Timestamp::from_nanosecond(i128::from(self.0))
            .ok()
            .map(meta::Time)
    }
}

impl fmt::Debug for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_attribute())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_the_ones_calico_writes() {
        let time = Time::from_nanos(1_787_380_400_123_456_789);
        assert_eq!(
            time.to_attribute(),
            "2026-08-22 06:33:20.123456789 +0000 UTC"
        );
        assert_eq!(time.to_rfc3339(), "2026-08-22T06:33:20Z");
        assert_eq!(
            Time::parse("2026-08-22T06:33:20Z"),
            Some(Time::from_secs(1_787_380_400))
        );
        assert_eq!(Time::parse("yesterday"), None);
        assert_eq!(
            serde_json::to_string(&time.to_stored()).unwrap(),
            r#""2026-08-22T06:33:20Z""#
        );
    }
}
