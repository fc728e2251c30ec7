//! What is remembered of settled attempts, bounded by age and by number.

use outpost_proto::ids::AttemptId;
use outpost_proto::limits::REMEMBERED;

use crate::record::Memory;
use crate::shelf::{Keyed, Shelf};

/// How long an outcome is remembered after it was acknowledged: thirty days.
pub(crate) const REMEMBERED_S: u64 = 30 * 24 * 3600;
/// How many go in one turn, so that a turn stays short when many are due at once.
const FORGOTTEN_AT_ONCE: usize = 1000;

/// The memories, by id and by age.
#[derive(Debug, Clone, Default)]
pub(crate) struct Memories {
    by_id: Shelf<Memory>,
    by_age: Shelf<(u64, AttemptId)>,
}

impl Keyed for Memory {
    type Key = AttemptId;

    fn key(&self) -> AttemptId {
        self.attempt
    }
}

impl Keyed for (u64, AttemptId) {
    type Key = Self;

    fn key(&self) -> Self {
        *self
    }
}

impl Memories {
    pub(crate) fn new(memories: Vec<Memory>) -> Self {
        let mut all = Self::default();
        memories.into_iter().for_each(|memory| all.insert(memory));
        all
    }

    pub(crate) fn insert(&mut self, memory: Memory) {
        if let Some(before) = self.by_id.insert(memory) {
            self.by_age.remove((before.settled_at_s, before.attempt));
        }
        self.by_age.insert((memory.settled_at_s, memory.attempt));
    }

    pub(crate) fn get(&self, attempt: AttemptId) -> Option<&Memory> {
        self.by_id.get(attempt)
    }

    /// The latest second since 1970 that one of them bears; 0 when there is none.
    pub(crate) fn newest_s(&self) -> u64 {
        self.by_age.last().map_or(0, |(at, _)| *at)
    }

    /// Takes out what is too old, or too many, at the given second since 1970.
    pub(crate) fn forget(&mut self, now_s: u64) -> Vec<AttemptId> {
        let mut gone = Vec::new();
        while gone.len() < FORGOTTEN_AT_ONCE
            && let Some(&(at, attempt)) = self.by_age.first()
            && (self.by_id.len() > REMEMBERED || at.saturating_add(REMEMBERED_S) <= now_s)
        {
            self.by_age.remove((at, attempt));
            self.by_id.remove(attempt);
            gone.push(attempt);
        }
        gone
    }

    /// The second since 1970 at which the next one is due.
    pub(crate) fn due_s(&self) -> Option<u64> {
        if self.by_id.len() > REMEMBERED {
            return Some(0);
        }
        self.by_age
            .first()
            .map(|(at, _)| at.saturating_add(REMEMBERED_S))
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Memory> {
        self.by_id.iter()
    }

    pub(crate) fn all(&self) -> Vec<Memory> {
        self.by_id.iter().copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use outpost_proto::ids::{Fence, RunId, TaskIndex};
    use outpost_proto::outcome::Outcome;

    use super::*;
    use crate::state::ended;

    fn memory(n: u128, settled_at_s: u64) -> Memory {
        Memory {
            attempt: AttemptId(n),
            run: RunId(1),
            task: TaskIndex(0),
            fence: Fence(1),
            report: ended(Outcome::Succeeded, true),
            settled_at_s,
        }
    }

    #[test]
    fn memories_go_after_thirty_days_and_not_before() {
        let mut memories = Memories::new(vec![memory(1, 100), memory(2, 50)]);
        assert_eq!(memories.due_s(), Some(50 + REMEMBERED_S));
        assert_eq!(memories.forget(49 + REMEMBERED_S), vec![]);
        assert_eq!(memories.forget(50 + REMEMBERED_S), vec![AttemptId(2)]);
        assert_eq!(memories.due_s(), Some(100 + REMEMBERED_S));
        assert!(memories.get(AttemptId(1)).is_some());
    }

    #[test]
    fn the_oldest_go_when_there_are_too_many() {
        let count = u64::try_from(REMEMBERED).unwrap() + 2;
        let mut memories = Memories::new((0..count).map(|n| memory(u128::from(n), n)).collect());
        assert_eq!(memories.forget(count), vec![AttemptId(0), AttemptId(1)]);
        assert_eq!(memories.forget(count), vec![]);
    }
}
