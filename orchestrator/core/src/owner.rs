//! Who may write: one owner at a time of a tenant's rows, or of a whole database that one process serves.
//!
//! A row says who owns and under which fence. Every commit is conditional on it, so that a process that was stopped and
//! goes on later, however long that was, writes nothing over its successor's. Nobody's wall clock is looked at: an owner
//! changes the row again and again, and whoever watches it unchanged for [`TTL`] on its own monotonic clock takes it
//! with the next fence. An owner that could not change the row for [`SURE`] neither decides nor speaks until it has:
//! what it would say without writing, a lease above all, would come from a state that is not the newest.
//!
//! Pure: the embedded store and the simulator call the same rules. Reading and changing the row, each in one
//! transaction, is the caller's part.

use std::time::Duration;

use outpost_driver::Micros;
use serde::{Deserialize, Serialize};

/// A row that is not changed for so long, on the clock of whoever watches, has no living owner.
pub const TTL: Duration = Duration::from_secs(15);
/// For so long after it began to change the row, on its own clock, an owner is sure of it. Shorter than [`TTL`] by more
/// than two clocks can drift apart in that time.
pub const SURE: Duration = Duration::from_secs(10);
/// How often an owner changes its row, and how often others look at it.
pub const BEAT: Duration = Duration::from_secs(3);

/// The row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// Drawn by a process when it starts: two processes never have the same.
    pub owner: u64,
    /// One more with every change of hands.
    pub fence: u64,
    /// Counts the changes by this owner.
    pub beat: u64,
}

impl Owner {
    /// The row of whoever takes over.
    #[must_use]
    pub fn next(found: Option<Self>, owner: u64) -> Self {
        Self {
            owner,
            fence: found.map_or(0, |found| found.fence) + 1,
            beat: 0,
        }
    }

    /// Whether a commit under `held` may happen while this is the row.
    #[must_use]
    pub fn admits(self, held: Self) -> bool {
        (self.owner, self.fence) == (held.owner, held.fence)
    }
}

/// What an owner knows of its own row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hold {
    row: Owner,
    sure_until: Micros,
}

impl Hold {
    /// It took the row; `began` is when it set out to, on its own clock.
    #[must_use]
    pub fn taken(row: Owner, began: Micros) -> Self {
        Self {
            row,
            sure_until: began.plus(SURE),
        }
    }

    /// The row as it is held.
    #[must_use]
    pub fn row(&self) -> Owner {
        self.row
    }

    /// Whether it may decide and speak now without having looked.
    #[must_use]
    pub fn is_sure(&self, now: Micros) -> bool {
        now < self.sure_until
    }

    /// Changes the row once more, if it is still its own. `None`: it is not; the owner lets go of everything.
    #[must_use]
    pub fn beat(&mut self, began: Micros, found: Option<Owner>) -> Option<Owner> {
        let found = found.filter(|found| found.admits(self.row))?;
        self.row = Owner {
            beat: found.beat + 1,
            ..found
        };
        self.sure_until = began.plus(SURE);
        Some(self.row)
    }
}

/// What a process knows of a row that it does not own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Watch {
    /// As it was last seen, and since when.
    seen: Option<(Owner, Micros)>,
}

impl Watch {
    /// Looks at the row. Gives the row to put in its place, if it may be taken: only while it is still as it was found.
    #[must_use]
    pub fn look(&mut self, now: Micros, found: Option<Owner>, me: u64) -> Option<Owner> {
        let Some(row) = found else {
            return Some(Owner::next(None, me));
        };
        match self.seen {
            Some((seen, since)) if seen == row => {
                (now.since(since) >= micros(TTL)).then(|| Owner::next(found, me))
            }
            Some(_) | None => {
                self.seen = Some((row, now));
                None
            }
        }
    }
}

fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Micros {
        Micros(seconds * 1_000_000)
    }

    #[test]
    fn a_row_that_is_not_there_is_taken_at_once() {
        let row = Watch::default().look(at(0), None, 7).unwrap();
        assert_eq!((row.owner, row.fence), (7, 1));
    }

    #[test]
    fn a_row_that_changes_is_never_taken_and_one_that_stands_still_is() {
        let mut hold = Hold::taken(Owner::next(None, 1), at(0));
        let (mut watch, mut row) = (Watch::default(), hold.row());
        for second in 0..100 {
            // The watcher's clock has nothing to do with the owner's.
            assert_eq!(watch.look(at(5_000 + second), Some(row), 2), None);
            row = hold.beat(at(second), Some(row)).unwrap();
        }
        assert_eq!(watch.look(at(5_100), Some(row), 2), None);
        let ttl = TTL.as_secs();
        assert_eq!(watch.look(at(5_099 + ttl), Some(row), 2), None);
        let taken = watch.look(at(5_100 + ttl), Some(row), 2).unwrap();
        assert_eq!((taken.owner, taken.fence), (2, 2));
    }

    #[test]
    fn a_former_owner_commits_nothing_and_is_not_sure_any_more() {
        let mut former = Hold::taken(Owner::next(None, 1), at(0));
        let row = Owner::next(Some(former.row()), 2);
        assert!(!row.admits(former.row()));
        assert!(former.is_sure(at(9)));
        assert!(!former.is_sure(at(10)));
        assert_eq!(former.beat(at(10), Some(row)), None);
        assert_eq!(former.beat(at(10), None), None);
        // The same number under another owner, as after a restore, is another fence.
        let other = Owner {
            owner: 3,
            ..former.row()
        };
        assert!(!other.admits(former.row()));
    }

    #[test]
    fn an_owner_stops_being_sure_before_anybody_may_take_its_row() {
        // Two clocks of which one runs five percent faster.
        assert!(SURE.mul_f64(1.05) < TTL.div_f64(1.05));
        assert!(BEAT * 3 < SURE);
    }
}
