//! What the lab says while it works: one line per step on standard error, with what it took.
#![expect(clippy::print_stderr, reason = "progress is for the person who waits")]

use std::time::Instant;

/// Says what is being done and, when the work is over, how long it took.
///
/// # Errors
/// Those of the work.
pub fn step<T, E>(text: &str, work: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
    let start = Instant::now();
    let outcome = work();
    let mark = if outcome.is_ok() { "ok" } else { "FAILED" };
    eprintln!(
        "  {mark:<6} {text} ({:.1} s)",
        start.elapsed().as_secs_f64()
    );
    outcome
}

/// Says one thing.
pub fn say(text: &str) {
    eprintln!("  {text}");
}
