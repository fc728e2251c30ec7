//! What is counted per catalogue entry: attempts in a slot, attempts waiting, starts in the last hour.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use outpost_driver::Micros;
use outpost_proto::ids::{AttemptId, CommandSeq};
use outpost_proto::name::EntryName;

use crate::event::Terms;

const HOUR_US: u64 = 3600 * 1_000_000;
/// What takes no longer than this is worth having the next one wait at its keeper.
const BRIEF_MS: u64 = 50;

/// A place in the queue: commands are numbered in the order in which they came.
pub(crate) type Place = (CommandSeq, AttemptId);

/// The counts of every entry with an attempt held or a start in the last hour.
#[derive(Debug, Clone, Default)]
pub(crate) struct Entries {
    by_name: BTreeMap<EntryName, Entry>,
}

#[derive(Debug, Clone, Default)]
struct Entry {
    terms: Option<Terms>,
    active: usize,
    waiting: usize,
    parked: BTreeSet<Place>,
    starts: VecDeque<Micros>,
    /// Whether the last of its attempts that ended by itself was over within moments.
    brief: bool,
}

impl Entry {
    fn has_room(&self) -> bool {
        let limit = self.terms.and_then(|terms| terms.max_parallel);
        limit.is_none_or(|limit| self.active < usize::from(limit))
    }

    fn starts_since(&mut self, since: Micros) -> usize {
        while self.starts.front().is_some_and(|at| *at < since) {
            self.starts.pop_front();
        }
        self.starts.len()
    }
}

impl Entries {
    fn entry(&mut self, name: &EntryName) -> &mut Entry {
        self.by_name.entry(name.clone()).or_default()
    }

    /// The terms as of the newest catalogue. Whoever was parked under the old ones must be looked at again.
    pub(crate) fn set_terms(&mut self, name: &EntryName, terms: Terms) {
        let entry = self.entry(name);
        entry.terms = Some(terms);
        if terms.max_per_hour.is_none() {
            entry.starts.clear();
        }
    }

    /// Whether one more attempt of this entry can be taken without starting more than `max_per_hour` of them within
    /// an hour. Attempts that wait count as if they started now.
    pub(crate) fn within_rate(&mut self, name: &EntryName, terms: Terms, now: Micros) -> bool {
        let Some(limit) = terms.max_per_hour else {
            return true;
        };
        let entry = self.entry(name);
        let taken = entry.starts_since(Micros(now.0.saturating_sub(HOUR_US))) + entry.waiting;
        u64::try_from(taken).is_ok_and(|taken| taken < u64::from(limit))
    }

    pub(crate) fn waits(&mut self, name: &EntryName) {
        self.entry(name).waiting += 1;
    }

    /// It begins, or never will: whoever was parked first may try again, if there is room. The one that left may be the
    /// only one that was woken when an attempt ended.
    pub(crate) fn waits_no_more(&mut self, name: &EntryName, place: Place) -> Option<Place> {
        let entry = self.entry(name);
        entry.waiting = entry.waiting.saturating_sub(1);
        entry.parked.remove(&place);
        let room = entry.has_room();
        room.then(|| entry.parked.pop_first()).flatten()
    }

    /// An attempt of this entry took so long.
    pub(crate) fn took(&mut self, name: &EntryName, duration_ms: u64) {
        self.entry(name).brief = duration_ms <= BRIEF_MS;
    }

    /// Whether its attempts are over within moments, as far as is known.
    pub(crate) fn is_brief(&self, name: &EntryName) -> bool {
        self.by_name.get(name).is_some_and(|entry| entry.brief)
    }

    /// Whether its starts are counted by the hour.
    pub(crate) fn is_rated(&self, name: &EntryName) -> bool {
        let terms = self.by_name.get(name).and_then(|entry| entry.terms);
        terms.is_none_or(|terms| terms.max_per_hour.is_some())
    }

    /// It took a slot at this moment.
    pub(crate) fn takes_slot(&mut self, name: &EntryName, now: Micros) {
        let entry = self.entry(name);
        entry.active += 1;
        // Without a limit nobody asks, and nothing else would make the list shorter.
        if entry.terms.is_none_or(|terms| terms.max_per_hour.is_some()) {
            entry.starts.push_back(now);
        }
    }

    /// It took a slot at this moment, in the life of an earlier process.
    pub(crate) fn took_slot(&mut self, name: &EntryName, at: Micros) {
        let starts = &mut self.entry(name).starts;
        let place = starts.partition_point(|other| *other <= at);
        starts.insert(place, at);
    }

    /// It would have begun at this moment, if anything did.
    pub(crate) fn would_begin(&mut self, name: &EntryName, now: Micros) {
        if self.is_rated(name) {
            self.entry(name).starts.push_back(now);
        }
    }

    /// It gave its slot back: whoever was parked first may try again.
    pub(crate) fn gives_slot(&mut self, name: &EntryName) -> Option<Place> {
        let entry = self.entry(name);
        entry.active = entry.active.saturating_sub(1);
        entry.parked.pop_first()
    }

    /// Whether one more may run at once; if not, the place is kept here until one ends.
    pub(crate) fn admit(&mut self, name: &EntryName, place: Place) -> bool {
        let entry = self.entry(name);
        let room = entry.has_room();
        if !room {
            entry.parked.insert(place);
        }
        room
    }

    /// Takes terms and starts, which no journal holds, from the counts before.
    pub(crate) fn carry_over(&mut self, before: Self) {
        for (name, was) in before.by_name {
            let entry = self.entry(&name);
            entry.terms = was.terms;
            entry.starts = was.starts;
            entry.brief = was.brief;
        }
    }

    /// Everything parked goes back to the queue; entries of which nothing is known but old terms go.
    pub(crate) fn unpark_all(&mut self) -> Vec<Place> {
        let mut places = Vec::new();
        for entry in self.by_name.values_mut() {
            places.extend(std::mem::take(&mut entry.parked));
            entry.terms = None;
        }
        self.by_name
            .retain(|_, entry| entry.active > 0 || entry.waiting > 0 || !entry.starts.is_empty());
        places
    }
}
