//! The journal as a value: what a sequence of writes amounts to.
//!
//! The journal replays its records through it, tests and the simulator use it as the store itself.

use std::collections::BTreeMap;

use outpost_proto::ids::AttemptId;

use crate::record::{AttemptRecord, Memory, SessionRecord, SiteRecord, Snapshot, Write};
use crate::shelf::Shelf;

/// Everything durable, kept up to date write by write.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Mirror {
    attempts: BTreeMap<AttemptId, AttemptRecord>,
    memories: Shelf<Memory>,
    session: SessionRecord,
    site: SiteRecord,
}

impl Mirror {
    /// The session's counters.
    #[must_use]
    pub fn session(&self) -> SessionRecord {
        self.session
    }

    /// An attempt that is held.
    #[must_use]
    pub fn attempt(&self, attempt: AttemptId) -> Option<&AttemptRecord> {
        self.attempts.get(&attempt)
    }

    /// Takes one write. Any order of writes is accepted: a journal may be damaged, and what can be read counts.
    pub fn apply(&mut self, write: &Write) {
        match write {
            Write::Attempt(record) => match self.attempts.get_mut(&record.assign.attempt) {
                // Most writes move an attempt and leave what was assigned as it was.
                Some(held) if held.is_step_to(record) => held.step_to(record),
                Some(_) | None => {
                    let attempt = record.assign.attempt;
                    self.attempts.insert(attempt, (**record).clone());
                }
            },
            Write::Settled(memory) => {
                self.attempts.remove(&memory.attempt);
                self.memories.insert(*memory);
            }
            Write::Forgotten(attempt) => {
                self.memories.remove(*attempt);
            }
            Write::Session(session) => self.session = *session,
            Write::Site(site) => self.site = *site,
        }
    }

    /// What a new core is made from.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            attempts: self.attempts.values().cloned().collect(),
            memories: self.memories.iter().copied().collect(),
            session: self.session,
            site: self.site,
        }
    }

    /// The writes that make this from nothing: a compacted journal.
    pub fn writes(&self) -> impl Iterator<Item = Write> + '_ {
        let attempts = self
            .attempts
            .values()
            .map(|record| Write::Attempt(Box::new(record.clone())));
        let memories = self.memories.iter().map(|memory| Write::Settled(*memory));
        let rest = [Write::Session(self.session), Write::Site(self.site)];
        memories.chain(attempts).chain(rest)
    }
}

impl From<Snapshot> for Mirror {
    fn from(snapshot: Snapshot) -> Self {
        Self {
            attempts: snapshot
                .attempts
                .into_iter()
                .map(|r| (r.assign.attempt, r))
                .collect(),
            memories: snapshot.memories.into_iter().collect(),
            session: snapshot.session,
            site: snapshot.site,
        }
    }
}
