//! The indices over the attempts held: who waits in which order, who has a slot, whose end is unacknowledged.
//!
//! Kept in step by [`crate::attempts::Attempts`] alone.

use std::collections::{BTreeMap, BTreeSet};

use outpost_driver::Micros;
use outpost_proto::ids::{AttemptId, EventSeq};
use outpost_proto::message::AttemptState;

use crate::entries::{Entries, Place};
use crate::lines::Lines;
use crate::record::AttemptRecord;

/// Counts and orders over attempts.
#[derive(Debug, Clone, Default)]
pub(crate) struct Index {
    /// Who waits for a slot, in the order in which the commands came.
    pub(crate) queue: BTreeSet<Place>,
    /// What is counted per entry.
    pub(crate) entries: Entries,
    /// Ends that were given a number, so that an acknowledgement finds them.
    pub(crate) by_number: BTreeMap<EventSeq, AttemptId>,
    /// Attempts that wait, parked ones included.
    pub(crate) waiting: usize,
    /// Attempts whose process exists.
    pub(crate) running: usize,
    /// Attempts that have a slot, or wait at a keeper for that of another.
    pub(crate) in_slot: usize,
    /// The ones that wait at a keeper.
    pub(crate) lines: Lines,
}

/// Which part of the indices an attempt is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Waits,
    InSlot { runs: bool },
    Over,
}

impl Kind {
    pub(crate) fn of(state: AttemptState) -> Self {
        match state {
            AttemptState::Assigned => Self::Waits,
            AttemptState::Starting => Self::InSlot { runs: false },
            AttemptState::Running => Self::InSlot { runs: true },
            AttemptState::Finished(_) => Self::Over,
        }
    }
}

fn place(record: &AttemptRecord) -> Place {
    (record.assign.command_seq, record.assign.attempt)
}

impl Index {
    /// `now`: when it started, if it has a slot.
    pub(crate) fn enter(&mut self, record: &AttemptRecord, now: Micros) {
        match Kind::of(record.state) {
            Kind::Waits => {
                self.waiting += 1;
                self.queue.insert(place(record));
                self.entries.waits(&record.assign.entry);
            }
            Kind::InSlot { runs } => {
                self.in_slot += 1;
                self.running += usize::from(runs);
                self.entries.takes_slot(&record.assign.entry, now);
            }
            Kind::Over => {
                if record.event_seq != EventSeq(0) {
                    self.by_number
                        .insert(record.event_seq, record.assign.attempt);
                }
            }
        }
    }

    /// Answers who has the slot now that this one had, if somebody waited for it at its keeper.
    pub(crate) fn leave(&mut self, record: &AttemptRecord) -> Option<AttemptId> {
        match Kind::of(record.state) {
            Kind::Waits => {
                self.waiting = self.waiting.saturating_sub(1);
                self.queue.remove(&place(record));
                let (entry, place) = (&record.assign.entry, place(record));
                self.queue.extend(self.entries.waits_no_more(entry, place));
            }
            Kind::InSlot { runs } => {
                self.in_slot = self.in_slot.saturating_sub(1);
                self.running = self.running.saturating_sub(usize::from(runs));
                self.queue
                    .extend(self.entries.gives_slot(&record.assign.entry));
                return self.lines.leave(record.assign.attempt);
            }
            Kind::Over => {
                self.by_number.remove(&record.event_seq);
            }
        }
        None
    }

    /// Slots that are taken: what waits at a keeper takes none of its own.
    pub(crate) fn slots_taken(&self) -> usize {
        self.in_slot.saturating_sub(self.lines.len())
    }

    /// It keeps its slot and its process exists now.
    pub(crate) fn runs(&mut self, attempt: AttemptId) {
        self.running += 1;
        if self.lines.waits(attempt) {
            // The word that the one before it is over is still to come.
            self.lines.leave(attempt);
        }
    }
}
