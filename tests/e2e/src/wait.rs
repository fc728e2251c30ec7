//! Waiting for conditions, never for times.

use std::time::{Duration, Instant};

/// How long anything may take on a busy machine before it counts as never.
pub const DEADLINE: Duration = Duration::from_secs(60);
/// Between two looks.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Looks until there is something to see, and returns it.
///
/// # Panics
/// When there is nothing after [`DEADLINE`]: "`what` did not happen".
#[track_caller]
pub fn eventually<T>(what: &str, look: impl FnMut() -> Option<T>) -> T {
    eventually_within(DEADLINE, what, look)
}

/// The same with a deadline that is part of what is promised.
///
/// # Panics
/// When there is nothing after `deadline`.
#[track_caller]
pub fn eventually_within<T>(
    deadline: Duration,
    what: &str,
    mut look: impl FnMut() -> Option<T>,
) -> T {
    let until = Instant::now() + deadline;
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(
            Instant::now() < until,
            "within {deadline:?} this did not happen: {what}"
        );
        std::thread::sleep(LOOK_AGAIN);
    }
}

/// For [`eventually`]: something when it is so.
#[must_use]
pub fn so(condition: bool) -> Option<()> {
    condition.then_some(())
}
