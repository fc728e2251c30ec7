//! Who waits at a keeper behind whom: attempts that were handed over while the keeper still has another one.
//!
//! What waits there is `Starting` in the journal and counts against every limit but one: it takes the slot of the
//! attempt before it, and only when that is over. So the attempts with a slot of their own are never more than the
//! slots. It is safe to journal it as begun, because nobody but its keeper can begin it, and that makes the claim first:
//! if the keeper is lost, whoever looks makes the claim in its place and knows that nothing ran. It comes back to the
//! queue on its keeper's word alone, that it has it no more and never began it.
//!
//! Kept in step by [`crate::index::Index`]; nothing here is durable.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use outpost_driver::Micros;
use outpost_proto::ids::AttemptId;

/// Nobody waits longer than this behind one that turns out to take long while others get slots. Much more than what
/// is brief takes, with its start, on a busy host.
const WAITS_MS: u64 = 1000;

/// The lines behind attempts that have a slot.
#[derive(Debug, Clone, Default)]
pub(crate) struct Lines {
    /// Behind whom somebody waits, and who, in the order in which they will begin.
    behind: BTreeMap<AttemptId, VecDeque<AttemptId>>,
    /// The same, the other way round.
    before: BTreeMap<AttemptId, AttemptId>,
    /// Behind whom one more may wait, by how many do already.
    open: BTreeSet<(usize, AttemptId)>,
    /// Since when they have their slots, the longest first; some have it no more.
    since: VecDeque<(Micros, AttemptId)>,
    /// Who shall come back, and whose keeper was not asked yet.
    wanted: BTreeSet<AttemptId>,
    /// Whose keeper was asked.
    asked: BTreeSet<AttemptId>,
}

impl Lines {
    /// How many wait at keepers.
    pub(crate) fn len(&self) -> usize {
        self.before.len()
    }

    /// Whether this one waits at a keeper.
    pub(crate) fn waits(&self, attempt: AttemptId) -> bool {
        self.before.contains_key(&attempt)
    }

    /// Others may wait behind this one, which has a slot of its own from now on.
    pub(crate) fn open(&mut self, attempt: AttemptId, now: Micros) {
        if !self.waits(attempt) {
            self.place(attempt);
            self.since.push_back((now, attempt));
        }
    }

    fn place(&mut self, attempt: AttemptId) {
        self.open.insert((self.length(attempt), attempt));
    }

    /// Whoever has had a slot for long: nobody else waits behind it, and who does shall come back, for the next slot
    /// that gets free.
    pub(crate) fn close_long(&mut self, now: Micros) {
        while let Some(&(since, first)) = self.since.front()
            && since.plus_ms(WAITS_MS) < now
        {
            self.since.pop_front();
            self.close(first);
            let line = self.behind.get(&first).into_iter().flatten();
            let rest = line.filter(|one| !self.asked.contains(one));
            self.wanted.extend(rest.copied());
        }
    }

    /// Nobody else shall wait behind this one.
    fn close(&mut self, attempt: AttemptId) {
        self.open.remove(&(self.length(attempt), attempt));
    }

    fn length(&self, attempt: AttemptId) -> usize {
        self.behind.get(&attempt).map_or(0, VecDeque::len)
    }

    /// Behind whom the next one waits: where the fewest do, and fewer than `most`.
    pub(crate) fn shortest(&self, most: usize) -> Option<AttemptId> {
        let (length, attempt) = self.open.first()?;
        (*length < most).then_some(*attempt)
    }

    /// `attempt` waits behind `first` from now on.
    pub(crate) fn join(&mut self, first: AttemptId, attempt: AttemptId) {
        let was_open = self.open.remove(&(self.length(first), first));
        self.behind.entry(first).or_default().push_back(attempt);
        self.before.insert(attempt, first);
        if was_open {
            self.place(first);
        }
    }

    /// An attempt has its slot no more, or not that of another. Who waited behind it has its slot now: who that is.
    pub(crate) fn leave(&mut self, attempt: AttemptId) -> Option<AttemptId> {
        self.wanted.remove(&attempt);
        self.asked.remove(&attempt);
        if let Some(first) = self.before.remove(&attempt) {
            let was_open = self.open.remove(&(self.length(first), first));
            if let Some(line) = self.behind.get_mut(&first) {
                line.retain(|other| *other != attempt);
                if line.is_empty() {
                    self.behind.remove(&first);
                }
            }
            if was_open {
                self.place(first);
            }
            return None;
        }
        self.close(attempt);
        let mut line = self.behind.remove(&attempt)?;
        let next = line.pop_front()?;
        self.before.remove(&next);
        self.wanted.remove(&next);
        self.asked.remove(&next);
        for other in &line {
            self.before.insert(*other, next);
        }
        if !line.is_empty() {
            self.behind.insert(next, line);
        }
        Some(next)
    }

    /// Its keeper gave one back that waited behind this one, unasked: it takes no other.
    pub(crate) fn shut(&mut self, attempt: AttemptId) {
        if let Some(first) = self.before.get(&attempt).copied()
            && !self.asked.contains(&attempt)
        {
            self.close(first);
        }
    }

    /// Everybody who waits shall come back.
    pub(crate) fn want_all(&mut self) {
        let all = self.before.keys().copied();
        self.wanted
            .extend(all.filter(|attempt| !self.asked.contains(attempt)));
    }

    /// So many shall come back, the last of the longest lines first: there is room for them elsewhere.
    pub(crate) fn want(&mut self, count: usize) {
        let missing = count.saturating_sub(self.asked.len() + self.wanted.len());
        if missing == 0 || self.before.is_empty() {
            return;
        }
        let lines = self.behind.values();
        let mut last = lines
            .flat_map(|line| line.iter().copied().enumerate())
            .filter(|(_, one)| !self.asked.contains(one) && !self.wanted.contains(one))
            .collect::<Vec<_>>();
        last.sort_unstable_by(|a, b| b.cmp(a));
        let last = last.into_iter().take(missing);
        self.wanted.extend(last.map(|(_, attempt)| attempt));
    }

    /// Whose keepers are to be asked for them, now.
    pub(crate) fn ask(&mut self) -> Vec<AttemptId> {
        let wanted = std::mem::take(&mut self.wanted);
        self.asked.extend(wanted.iter().copied());
        wanted.into_iter().collect()
    }

    /// After a commit that failed: what was true before is still true of whoever has a slot. Nobody was asked.
    pub(crate) fn carry_over(&mut self, mut before: Self, has_slot: impl Fn(AttemptId) -> bool) {
        let lost = before
            .behind
            .iter()
            .flat_map(|(first, line)| line.iter().chain([first]))
            .filter(|attempt| !has_slot(**attempt))
            .copied()
            .collect::<Vec<_>>();
        for attempt in lost {
            before.leave(attempt);
        }
        before.open.retain(|(_, attempt)| has_slot(*attempt));
        before.wanted = std::mem::take(&mut before.asked);
        *self = before;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u128) -> AttemptId {
        AttemptId(number)
    }

    #[test]
    fn who_waits_takes_the_slot_of_the_one_before_it() {
        let mut lines = Lines::default();
        lines.open(id(1), Micros(0));
        lines.open(id(2), Micros(0));
        assert_eq!(lines.shortest(2), Some(id(1)));
        lines.join(id(1), id(3));
        assert_eq!(lines.shortest(2), Some(id(2)), "the shortest line");
        lines.join(id(2), id(4));
        assert_eq!(lines.shortest(1), None);
        lines.join(id(1), id(5));
        assert_eq!(lines.len(), 3);
        assert_eq!(lines.leave(id(1)), Some(id(3)));
        assert!(!lines.waits(id(3)) && lines.waits(id(5)));
        assert_eq!(lines.shortest(2), Some(id(2)), "3 is not open");
        lines.open(id(3), Micros(0));
        assert_eq!(lines.leave(id(5)), None);
        assert_eq!(lines.shortest(1), Some(id(3)));
        assert_eq!(lines.leave(id(3)), None);
        assert_eq!((lines.len(), lines.shortest(1)), (1, None));
    }

    #[test]
    fn each_is_asked_for_once_and_the_last_of_the_longest_line_first() {
        let mut lines = Lines::default();
        lines.open(id(1), Micros(0));
        lines.open(id(2), Micros(0));
        lines.join(id(1), id(3));
        lines.join(id(1), id(4));
        lines.join(id(2), id(5));
        lines.want(1);
        assert_eq!(lines.ask(), [id(4)]);
        lines.want(1);
        assert_eq!(lines.ask(), [], "one is coming already");
        lines.want_all();
        assert_eq!(lines.ask(), [id(3), id(5)]);
        lines.shut(id(5));
        lines.leave(id(5));
        assert_eq!(lines.shortest(1), Some(id(2)), "it was asked for");
    }
}
