//! Waiting with a name: a wait that times out says what it waited for and what it saw last.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// The pause between two looks.
const PAUSE: Duration = Duration::from_millis(100);

/// Looks until `look` returns `Ok(Some(_))`. An error counts as "not yet": it is what the timeout then reports.
///
/// # Errors
/// After `limit`, with `what`, the limit and the last error.
pub fn until<T>(
    what: &str,
    limit: Duration,
    mut look: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let start = Instant::now();
    let mut last = "not yet true".to_owned();
    loop {
        match look() {
            Ok(Some(seen)) => return Ok(seen),
            Ok(None) => {}
            Err(error) => last = format!("{error:#}"),
        }
        if start.elapsed() > limit {
            bail!("waited {} s for {what}: {last}", limit.as_secs());
        }
        std::thread::sleep(PAUSE);
    }
}

/// A number that this process has not had yet, for names.
pub fn next_number() -> usize {
    static NEXT: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(1);
    NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed)
}

/// Runs one piece of work per item, all at once, and returns the results in the order of the items.
///
/// # Errors
/// The first error in that order.
pub fn together<I: Sync, T: Send>(
    items: &[I],
    work: impl Fn(&I) -> Result<T> + Sync,
) -> Result<Vec<T>> {
    std::thread::scope(|scope| {
        let handles: Vec<_> = items
            .iter()
            .map(|item| scope.spawn(|| work(item)))
            .collect();
        handles
            .into_iter()
            .map(|handle| {
                handle
                    .join()
                    .unwrap_or_else(|_panic| bail!("a thread of the lab panicked"))
            })
            .collect()
    })
}
