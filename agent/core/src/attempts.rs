//! The attempts that the agent holds, and what was not yet said or written of them.
//!
//! Every change goes through here, so that no index can be forgotten. Nothing here decides.

use std::collections::{BTreeMap, VecDeque};

use outpost_driver::Micros;
use outpost_proto::ids::{AttemptId, EventSeq};
use outpost_proto::message::{Assign, AttemptState, OnDisconnect, ParamValue};
use outpost_proto::name::ParamName;
use outpost_proto::outcome::{Outcome, Report};

use crate::index::{Index, Kind};
use crate::record::AttemptRecord;

/// One attempt held.
#[derive(Debug, Clone)]
pub(crate) struct Held {
    /// What the journal has, or will have at the end of this turn.
    pub(crate) record: AttemptRecord,
    /// The orchestrator wants nothing more said about it.
    pub(crate) forgotten: bool,
    /// When it began, if this process began it.
    pub(crate) began: Option<Micros>,
    unsaid: bool,
    changed: bool,
}

/// How long it took by itself, in milliseconds; `None` if something else ended it, which says nothing of the next one.
fn took(report: Report) -> Option<u64> {
    match report.outcome {
        Outcome::Succeeded | Outcome::Failed => Some(report.duration_ms),
        // However short its deadline was: it would have taken longer.
        Outcome::TimedOut => Some(u64::MAX),
        Outcome::Cancelled
        | Outcome::StartFailed(_)
        | Outcome::Killed(_)
        | Outcome::Interrupted(_)
        | Outcome::Refused(_) => None,
    }
}

/// Bytes of the parameters of all attempts held: a burst of the journal, and what a restart reads, stay bounded.
const PARAMETER_BYTES: usize = 64 * 1024 * 1024;

fn parameter_bytes(assign: &Assign) -> usize {
    let bytes = |(name, value): &(ParamName, ParamValue)| {
        let of_value = match value {
            ParamValue::Flag(_) | ParamValue::Integer(_) => size_of::<i64>(),
            ParamValue::Text(text) => text.len(),
        };
        name.as_str().len() + of_value
    };
    assign.parameters.iter().map(bytes).sum()
}

/// All attempts held.
#[derive(Debug, Clone, Default)]
pub(crate) struct Attempts {
    held: BTreeMap<AttemptId, Held>,
    /// Of the parameters of all of them.
    parameter_bytes: usize,
    pub(crate) index: Index,
    unsaid: VecDeque<AttemptId>,
    changed: Vec<AttemptId>,
}

impl Attempts {
    /// Whether an agent holds the parameters of this one too.
    pub(crate) fn has_room_for(&self, assign: &Assign) -> bool {
        self.parameter_bytes + parameter_bytes(assign) <= PARAMETER_BYTES
    }

    /// Takes an attempt as the journal gave it back. The journal does not say when it started: the hourly limits
    /// count it as started now.
    pub(crate) fn restore(&mut self, record: AttemptRecord, now: Micros) {
        self.hold(record, now, false);
    }

    /// Takes a new attempt.
    pub(crate) fn take(&mut self, record: AttemptRecord, now: Micros) {
        self.hold(record, now, true);
    }

    fn hold(&mut self, record: AttemptRecord, now: Micros, new: bool) {
        let attempt = record.assign.attempt;
        let say = match Kind::of(record.state) {
            Kind::Waits => false,
            Kind::InSlot { .. } | Kind::Over => record.event_seq == EventSeq(0),
        };
        self.index.enter(&record, now);
        self.parameter_bytes += parameter_bytes(&record.assign);
        let held = Held {
            record,
            forgotten: false,
            began: None,
            unsaid: false,
            changed: false,
        };
        self.held.insert(attempt, held);
        if new {
            self.touch(attempt);
        }
        if say {
            self.say(attempt);
        }
    }

    /// Moves an attempt. Its number is taken away: the new state was not reported yet. A start is not marked as
    /// something to say, because a word from its keeper follows at once.
    pub(crate) fn set(&mut self, attempt: AttemptId, next: AttemptState, now: Micros) {
        let Some(held) = self.held.get_mut(&attempt) else {
            return;
        };
        if held.record.state == AttemptState::Starting && next == AttemptState::Running {
            held.record.state = next;
            held.record.event_seq = EventSeq(0);
            self.index.runs(attempt);
        } else {
            if let AttemptState::Finished(report) = next
                && let Some(took) = took(report)
            {
                self.index.entries.took(&held.record.assign.entry, took);
            }
            let heir = self.index.leave(&held.record);
            held.record.state = next;
            held.record.event_seq = EventSeq(0);
            self.index.enter(&held.record, now);
            heir.into_iter().for_each(|heir| self.lead(heir, now));
        }
        self.touch(attempt);
        match next {
            AttemptState::Starting => self.began(attempt, Some(now)),
            AttemptState::Assigned => self.began(attempt, None),
            AttemptState::Running | AttemptState::Finished(_) => self.say(attempt),
        }
    }

    /// It has a slot of its own: if its like are over within moments, others may wait behind it at its keeper.
    pub(crate) fn lead(&mut self, attempt: AttemptId, now: Micros) {
        if let Some(held) = self.held.get(&attempt)
            && held.record.on_disconnect == OnDisconnect::Continue
            && self.index.entries.is_brief(&held.record.assign.entry)
        {
            self.index.lines.open(attempt, now);
        }
    }

    /// Whether it may wait at a keeper: one that has no timer of its own, and whose start may be taken back uncounted.
    pub(crate) fn may_follow(&self, attempt: AttemptId) -> bool {
        self.held.get(&attempt).is_some_and(|held| {
            held.record.on_disconnect == OnDisconnect::Continue
                && !self.index.entries.is_rated(&held.record.assign.entry)
        })
    }

    fn began(&mut self, attempt: AttemptId, at: Option<Micros>) {
        if let Some(held) = self.held.get_mut(&attempt) {
            held.began = at;
        }
    }

    /// Takes an attempt out of every index.
    pub(crate) fn remove(&mut self, attempt: AttemptId, now: Micros) -> Option<AttemptRecord> {
        let held = self.held.remove(&attempt)?;
        let bytes = parameter_bytes(&held.record.assign);
        self.parameter_bytes = self.parameter_bytes.saturating_sub(bytes);
        let heir = self.index.leave(&held.record);
        heir.into_iter().for_each(|heir| self.lead(heir, now));
        Some(held.record)
    }

    /// Its present state is to be reported, again if it was.
    pub(crate) fn say(&mut self, attempt: AttemptId) {
        if let Some(held) = self.held.get_mut(&attempt)
            && !held.unsaid
        {
            held.unsaid = true;
            self.unsaid.push_back(attempt);
        }
    }

    /// It was asked to end.
    pub(crate) fn request_cancel(&mut self, attempt: AttemptId) {
        if let Some(held) = self.held.get_mut(&attempt)
            && !held.record.cancel_requested
        {
            held.record.cancel_requested = true;
            self.touch(attempt);
        }
    }

    /// Nothing more shall be said about it.
    pub(crate) fn forget(&mut self, attempt: AttemptId) {
        if let Some(held) = self.held.get_mut(&attempt) {
            held.forgotten = true;
        }
    }

    /// Keeps what no journal holds: since when an attempt runs, and what was counted per entry.
    pub(crate) fn carry_over(&mut self, before: Self) {
        self.index.entries.carry_over(before.index.entries);
        let has_slot = |attempt| {
            let held = self.held.get(&attempt);
            held.is_some_and(|held| matches!(Kind::of(held.record.state), Kind::InSlot { .. }))
        };
        let lines = before.index.lines;
        self.index.lines.carry_over(lines, has_slot);
        for (attempt, was) in before.held {
            if let Some(held) = self.held.get_mut(&attempt) {
                held.began = was.began;
                held.forgotten = was.forgotten;
            }
        }
    }

    /// Whether there is a state to be reported.
    pub(crate) fn has_unsaid(&mut self) -> bool {
        while let Some(attempt) = self.unsaid.front() {
            let held = self.held.get(attempt);
            if held.is_some_and(|held| held.unsaid && !held.forgotten) {
                return true;
            }
            self.unsaid.pop_front();
        }
        false
    }

    /// The next attempt whose state is to be reported.
    pub(crate) fn next_unsaid(&mut self) -> Option<AttemptId> {
        while let Some(attempt) = self.unsaid.pop_front() {
            if let Some(held) = self.held.get_mut(&attempt)
                && std::mem::take(&mut held.unsaid)
                && !held.forgotten
            {
                return Some(attempt);
            }
        }
        None
    }

    /// Its present state has this number from now on.
    pub(crate) fn number(&mut self, attempt: AttemptId, number: EventSeq) {
        if let Some(held) = self.held.get_mut(&attempt) {
            let before = std::mem::replace(&mut held.record.event_seq, number);
            if Kind::of(held.record.state) == Kind::Over {
                self.index.by_number.remove(&before);
                self.index.by_number.insert(number, attempt);
            }
            self.touch(attempt);
        }
    }

    /// Takes every number away: upstream knows of higher ones, so these may stand for something else there.
    pub(crate) fn unnumber(&mut self) {
        self.index.by_number.clear();
        let numbered: Vec<_> = self.ids(|held| held.record.event_seq != EventSeq(0));
        for attempt in numbered {
            if let Some(held) = self.held.get_mut(&attempt) {
                held.record.event_seq = EventSeq(0);
            }
            self.touch(attempt);
            self.say(attempt);
        }
    }

    /// The oldest numbered end, if its number is not above `highest`.
    pub(crate) fn acknowledged(&self, highest: EventSeq) -> Option<AttemptId> {
        let (number, attempt) = self.index.by_number.first_key_value()?;
        (*number <= highest).then_some(*attempt)
    }

    /// The next attempt in line whose entry has room. The ones passed over are parked with their entry.
    pub(crate) fn next_in_line(&mut self) -> Option<AttemptId> {
        while let Some(place) = self.index.queue.first().copied() {
            let entry = self
                .held
                .get(&place.1)
                .map(|held| &held.record.assign.entry);
            if entry.is_some_and(|entry| self.index.entries.admit(entry, place)) {
                return Some(place.1);
            }
            self.index.queue.remove(&place);
        }
        None
    }

    /// Every attempt that waits, in order. The terms of their entries are no longer known.
    pub(crate) fn requeue(&mut self) -> Vec<AttemptId> {
        self.index.queue.extend(self.index.entries.unpark_all());
        self.index
            .queue
            .iter()
            .map(|(_, attempt)| *attempt)
            .collect()
    }

    /// Ids of those that answer yes, in order of id.
    pub(crate) fn ids(&self, which: impl Fn(&Held) -> bool) -> Vec<AttemptId> {
        self.held
            .iter()
            .filter(|(_, held)| which(held))
            .map(|(id, _)| *id)
            .collect()
    }

    /// What was changed since this was asked last, each attempt once.
    pub(crate) fn drain_changed(&mut self) -> Vec<AttemptRecord> {
        let mut records = Vec::with_capacity(self.changed.len());
        for attempt in std::mem::take(&mut self.changed) {
            if let Some(held) = self.held.get_mut(&attempt)
                && std::mem::take(&mut held.changed)
            {
                records.push(held.record.clone());
            }
        }
        records
    }

    pub(crate) fn get(&self, attempt: AttemptId) -> Option<&Held> {
        self.held.get(&attempt)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Held> {
        self.held.values()
    }

    pub(crate) fn len(&self) -> usize {
        self.held.len()
    }

    /// Outcomes not yet acknowledged.
    pub(crate) fn over(&self) -> usize {
        self.held
            .len()
            .saturating_sub(self.index.waiting + self.index.in_slot)
    }

    fn touch(&mut self, attempt: AttemptId) {
        if let Some(held) = self.held.get_mut(&attempt)
            && !held.changed
        {
            held.changed = true;
            self.changed.push(attempt);
        }
    }
}
