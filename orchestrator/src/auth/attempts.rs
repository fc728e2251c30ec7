//! How often somebody may be wrong: one small bucket per place, in a table of fixed size.

use std::hash::{BuildHasher as _, RandomState};
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Buckets; several places may share one, which only makes it stricter.
const BUCKETS: usize = 1024;
/// Wrong tokens in a row.
const BURST: u32 = 20;
/// After how long one more is allowed.
const REFILL: Duration = Duration::from_secs(1);

/// Counts wrong tokens by the address they came from.
#[derive(Debug)]
pub(super) struct Attempts {
    buckets: Vec<Bucket>,
    hasher: RandomState,
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    left: u32,
    since: Instant,
}

impl Attempts {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            buckets: vec![
                Bucket {
                    left: BURST,
                    since: now
                };
                BUCKETS
            ],
            hasher: RandomState::new(),
        }
    }

    /// Whether there is room for one more.
    pub(super) fn allowed(&mut self, from: Option<IpAddr>, now: Instant) -> bool {
        self.bucket(from, now).is_none_or(|bucket| bucket.left > 0)
    }

    /// One was wrong.
    pub(super) fn failed(&mut self, from: Option<IpAddr>, now: Instant) {
        if let Some(bucket) = self.bucket(from, now) {
            bucket.left = bucket.left.saturating_sub(1);
        }
    }

    fn bucket(&mut self, from: Option<IpAddr>, now: Instant) -> Option<&mut Bucket> {
        let place = usize::try_from(self.hasher.hash_one(from)).unwrap_or(0) % BUCKETS;
        let bucket = self.buckets.get_mut(place)?;
        let earned = now.saturating_duration_since(bucket.since).as_secs() / REFILL.as_secs();
        if earned > 0 {
            bucket.left = bucket
                .left
                .saturating_add(u32::try_from(earned).unwrap_or(BURST))
                .min(BURST);
            bucket.since = now;
        }
        Some(bucket)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_allowed_and_then_one_per_second() {
        let start = Instant::now();
        let mut attempts = Attempts::new(start);
        let here = Some(IpAddr::from([127, 0, 0, 1]));
        for _ in 0..BURST {
            assert!(attempts.allowed(here, start));
            attempts.failed(here, start);
        }
        assert!(!attempts.allowed(here, start));
        assert!(attempts.allowed(here, start + REFILL));
        attempts.failed(here, start + REFILL);
        assert!(!attempts.allowed(here, start + REFILL));
        assert!(attempts.allowed(here, start + REFILL * 1000));
    }
}
