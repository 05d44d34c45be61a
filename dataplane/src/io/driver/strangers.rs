//! Routes of others on host ends of pods, and how long they have been seen. Pure: the time is told.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::route::RouteKey;

/// How long a route stays on a host end that nothing in the World explains: whoever hands a pod over to us may still tell of it.
const GRACE: Duration = Duration::from_secs(10);

/// When each was first seen.
#[derive(Debug, Default)]
pub(super) struct Seen {
    since: BTreeMap<RouteKey, Instant>,
    now: BTreeMap<RouteKey, Instant>,
}

impl Seen {
    /// Whether the grace of a route is over; counts it as seen.
    pub(super) fn is_over(&mut self, key: &RouteKey, now: Instant) -> bool {
        let since = *self.since.get(key).unwrap_or(&now);
        self.now.insert(key.clone(), since);
        now.saturating_duration_since(since) >= GRACE
    }

    /// Ends a listing: what was not seen in it is forgotten.
    pub(super) fn listed(&mut self) {
        self.since = std::mem::take(&mut self.now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "some moment to count from")]
    fn a_route_that_comes_back_starts_anew() {
        let key = RouteKey::new("192.0.2.0/24".parse().unwrap(), 0);
        let start = Instant::now();
        let mut seen = Seen::default();
        let mut look = |seconds, there: bool| {
            let over = there && seen.is_over(&key, start + Duration::from_secs(seconds));
            seen.listed();
            over
        };
        assert_eq!(
            [look(0, true), look(9, true), look(10, true)],
            [false, false, true]
        );
        assert_eq!(
            [look(11, false), look(12, true), look(22, true)],
            [false, false, true]
        );
    }
}
