//! The only place of the daemon that reads a clock for a value; everything else takes time as an argument.
#![expect(clippy::disallowed_methods, reason = "this is the io room of time")]

use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Monotonic time.
pub fn now() -> Instant {
    Instant::now()
}

/// Seconds since the Unix epoch; 0 if the clock stands before it.
pub fn unix_seconds() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .ok()
        .and_then(|since| i64::try_from(since.as_secs()).ok())
        .unwrap_or(0)
}

/// Nanoseconds since the Unix epoch; 0 if the clock stands before it.
pub fn unix_nanos() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .ok()
        .and_then(|since| u64::try_from(since.as_nanos()).ok())
        .unwrap_or(0)
}
