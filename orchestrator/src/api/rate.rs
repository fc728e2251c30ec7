//! How often one token may ask: a bucket per token that fills steadily, so that a loop gone wild slows itself down
//! and nobody else.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// Buckets kept; when there are more tokens, the full ones are forgotten first.
const TOKENS: usize = 4096;

/// What one token may ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Requests that come back every second; 0 sets no limit.
    pub per_s: u32,
    /// Requests at once after a pause.
    pub burst: u32,
}

impl Default for Rate {
    /// What a person, a CI job or a dashboard never reaches.
    fn default() -> Self {
        Self {
            per_s: 200,
            burst: 1000,
        }
    }
}

/// The buckets of all tokens.
#[derive(Debug)]
pub(super) struct Buckets {
    rate: Rate,
    buckets: Mutex<HashMap<Arc<str>, Bucket>>,
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    /// Requests left, in thousandths.
    left: u64,
    since: Instant,
}

/// What is left after one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Left {
    /// There is no limit.
    Unlimited,
    /// So many more at once.
    Some(u32),
    /// Nothing; the next one after so many seconds.
    Nothing {
        /// At least 1.
        wait_s: u32,
    },
}

impl Buckets {
    pub(super) fn new(rate: Rate) -> Self {
        Self {
            rate,
            buckets: Mutex::default(),
        }
    }

    pub(super) fn rate(&self) -> Rate {
        self.rate
    }

    /// Takes one request of this token.
    pub(super) fn take(&self, token: &Arc<str>, now: Instant) -> Left {
        let Rate { per_s, burst } = self.rate;
        if per_s == 0 {
            return Left::Unlimited;
        }
        let most = u64::from(burst.max(1)) * 1000;
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if buckets.len() >= TOKENS && !buckets.contains_key(token) {
            make_room(&mut buckets, per_s, most, now);
        }
        let bucket = buckets.entry(token.clone()).or_insert(Bucket {
            left: most,
            since: now,
        });
        bucket.left = filled(*bucket, per_s, most, now);
        bucket.since = now;
        if bucket.left < 1000 {
            let missing_ms = (1000 - bucket.left).div_ceil(u64::from(per_s));
            let wait_s = u32::try_from(missing_ms.div_ceil(1000)).unwrap_or(u32::MAX);
            return Left::Nothing {
                wait_s: wait_s.max(1),
            };
        }
        bucket.left -= 1000;
        Left::Some(u32::try_from(bucket.left / 1000).unwrap_or(u32::MAX))
    }
}

/// What is in a bucket now: `per_s` requests a second are as many thousandths a millisecond.
fn filled(bucket: Bucket, per_s: u32, most: u64, now: Instant) -> u64 {
    let elapsed = now.saturating_duration_since(bucket.since).as_micros();
    let earned = elapsed.saturating_mul(u128::from(per_s)) / 1000;
    bucket
        .left
        .saturating_add(u64::try_from(earned).unwrap_or(u64::MAX))
        .min(most)
}

fn make_room(buckets: &mut HashMap<Arc<str>, Bucket>, per_s: u32, most: u64, now: Instant) {
    buckets.retain(|_, bucket| filled(*bucket, per_s, most, now) < most);
    if buckets.len() >= TOKENS {
        // More tokens than one orchestrator has are all at work: each begins anew, once.
        buckets.clear();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_burst_then_a_steady_rate_for_each_token() {
        let buckets = Buckets::new(Rate { per_s: 4, burst: 3 });
        let (one, two): (Arc<str>, Arc<str>) = ("one".into(), "two".into());
        let start = Instant::now();
        for left in [2, 1, 0] {
            assert_eq!(buckets.take(&one, start), Left::Some(left));
        }
        assert_eq!(buckets.take(&one, start), Left::Nothing { wait_s: 1 });
        assert_eq!(buckets.take(&two, start), Left::Some(2));
        let later = start + Duration::from_millis(250);
        assert_eq!(buckets.take(&one, later), Left::Some(0));
        assert_eq!(buckets.take(&one, later), Left::Nothing { wait_s: 1 });
        let much_later = start + Duration::from_secs(3600);
        assert_eq!(buckets.take(&one, much_later), Left::Some(2));
    }

    #[test]
    fn frequent_questions_do_not_lose_what_was_earned() {
        let buckets = Buckets::new(Rate {
            per_s: 200,
            burst: 1,
        });
        let token: Arc<str> = "one".into();
        let start = Instant::now();
        assert_eq!(buckets.take(&token, start), Left::Some(0));
        let mut allowed = 0;
        for step in 1..=1000 {
            let now = start + Duration::from_micros(1000 * step);
            allowed += usize::from(matches!(buckets.take(&token, now), Left::Some(_)));
        }
        assert_eq!(allowed, 200);
    }

    #[test]
    fn the_table_stays_small_and_zero_is_no_limit() {
        let buckets = Buckets::new(Rate::default());
        let now = Instant::now();
        for number in 0..TOKENS * 2 {
            buckets.take(&number.to_string().into(), now);
        }
        assert!(buckets.buckets.lock().unwrap().len() <= TOKENS);
        let free = Buckets::new(Rate { per_s: 0, burst: 0 });
        assert_eq!(free.take(&"x".into(), now), Left::Unlimited);
    }
}
