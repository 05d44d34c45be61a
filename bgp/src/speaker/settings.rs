//! What is fixed for the life of a speaker.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::FamilySet;

/// What a speaker is told once, at its start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// Present when a former run left routes in the kernel that still forward.
    pub restarting: Option<Restarting>,
    /// Longest time the choice of routes is deferred after a restart (RFC 4724 §4.1).
    pub deferral_cap: Duration,
    /// How long a configured peer may stay unestablished before deferral stops waiting for it.
    pub deferral_silence: Duration,
    /// Longest time stale routes of a restarting peer are kept, whatever it advertised.
    pub stale_cap: Duration,
}

/// A restart whose forwarding state survived (RFC 4724 §4.1): the R bit is set in our first OPENs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restarting {
    /// Families whose routes were found in the kernel and adopted: the F bit is set for these.
    pub forwarding: FamilySet,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            restarting: None,
            deferral_cap: Duration::from_mins(2),
            deferral_silence: Duration::from_secs(10),
            stale_cap: Duration::from_mins(6),
        }
    }
}
