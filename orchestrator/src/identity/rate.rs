//! How often something may happen: evenly in the long run, and some times in one go.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// Keys in memory at once. Those that have not used anything up for a while are let go of first; beyond this many busy
/// ones nobody new passes.
const KEYS: usize = 100_000;

/// How often.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rate {
    /// In the long run.
    pub(super) per_second: f64,
    /// After a long pause.
    pub(super) in_one_go: f64,
}

/// One allowance per key.
#[derive(Debug)]
pub(super) struct Rates<K> {
    rate: Rate,
    left: Mutex<BTreeMap<K, Left>>,
}

#[derive(Debug, Clone, Copy)]
struct Left {
    left: f64,
    at: Instant,
}

impl<K: Ord + Clone> Rates<K> {
    pub(super) fn new(rate: Rate) -> Self {
        Self {
            rate,
            left: Mutex::default(),
        }
    }

    /// Whether it may happen now; it counts as having happened then.
    pub(super) fn pass(&self, key: &K) -> bool {
        self.pass_at(key, Instant::now())
    }

    fn pass_at(&self, key: &K, now: Instant) -> bool {
        let mut keys = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        if keys.len() >= KEYS && !keys.contains_key(key) {
            keys.retain(|_, left| self.refilled(*left, now) < self.rate.in_one_go);
            if keys.len() >= KEYS {
                return false;
            }
        }
        let full = Left {
            left: self.rate.in_one_go,
            at: now,
        };
        let left = keys.entry(key.clone()).or_insert(full);
        let refilled = self.refilled(*left, now);
        let passes = refilled >= 1.0;
        *left = Left {
            left: if passes { refilled - 1.0 } else { refilled },
            at: now,
        };
        passes
    }

    fn refilled(&self, left: Left, now: Instant) -> f64 {
        let passed = now.saturating_duration_since(left.at).as_secs_f64();
        passed
            .mul_add(self.rate.per_second, left.left)
            .min(self.rate.in_one_go)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn each_key_has_an_allowance_of_its_own_and_it_comes_back() {
        let rates = Rates::new(Rate {
            per_second: 0.5,
            in_one_go: 3.0,
        });
        let now = Instant::now();
        let passes = |key, at| (0..5).filter(|_| rates.pass_at(&key, at)).count();
        assert_eq!((passes(1, now), passes(2, now)), (3, 3));
        assert_eq!(passes(1, now + Duration::from_secs(2)), 1);
        assert_eq!(passes(1, now + Duration::from_secs(100)), 3);
    }
}
