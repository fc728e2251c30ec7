//! What a line of the journal holds, as short as it can be said.
//!
//! Most writes move an attempt that an earlier line holds as a whole, or settle it as it stands: they are told by what
//! changed. Whatever is not such a step is told as a whole. Lines of format 1 hold nothing but wholes.

use outpost_agent_core::mirror::Mirror;
use outpost_agent_core::record::{AttemptRecord, Memory, SessionRecord, SiteRecord, Write};
use outpost_proto::ids::{AttemptId, EventSeq};
use outpost_proto::message::AttemptState;
use serde::{Deserialize, Serialize};

/// A step of an attempt that is held: where it stands now, the number of the newest event about it, and whether it was
/// asked to end.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Step(AttemptId, AttemptState, EventSeq, bool);

/// A write as it is written.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(super) enum Told<'a> {
    Short(Short),
    Whole(&'a Write),
}

/// What is told by what changed.
#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Short {
    Step(Step),
    /// Settled as it stands, at that second.
    Over(AttemptId, u64),
}

/// A write as it is read.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Read {
    Attempt(Box<AttemptRecord>),
    Settled(Memory),
    Forgotten(AttemptId),
    Session(SessionRecord),
    Site(SiteRecord),
    Step(Step),
    Over(AttemptId, u64),
}

impl<'a> Told<'a> {
    /// `mirror`: everything that is written before this.
    pub(super) fn of(write: &'a Write, mirror: &Mirror) -> Self {
        let short = match write {
            Write::Attempt(next) => {
                let held = mirror.attempt(next.assign.attempt);
                held.filter(|held| held.is_step_to(next)).map(|_| {
                    let attempt = next.assign.attempt;
                    let (state, number) = (next.state, next.event_seq);
                    Short::Step(Step(attempt, state, number, next.cancel_requested))
                })
            }
            Write::Settled(memory) => {
                let held = mirror.attempt(memory.attempt);
                held.and_then(|held| held.memory(memory.settled_at_s))
                    .filter(|stands| stands == memory)
                    .map(|_| Short::Over(memory.attempt, memory.settled_at_s))
            }
            Write::Forgotten(_) | Write::Session(_) | Write::Site(_) => None,
        };
        short.map_or(Self::Whole(write), Self::Short)
    }
}

impl Read {
    /// The write that this stands for; `None` when it is a step of something that is not there.
    pub(super) fn write(self, mirror: &Mirror) -> Option<Write> {
        Some(match self {
            Self::Attempt(record) => Write::Attempt(record),
            Self::Settled(memory) => Write::Settled(memory),
            Self::Forgotten(attempt) => Write::Forgotten(attempt),
            Self::Session(session) => Write::Session(session),
            Self::Site(site) => Write::Site(site),
            Self::Step(Step(attempt, state, event_seq, cancel_requested)) => {
                let held = mirror.attempt(attempt)?.clone();
                Write::Attempt(Box::new(AttemptRecord {
                    state,
                    event_seq,
                    cancel_requested,
                    ..held
                }))
            }
            Self::Over(attempt, settled_at_s) => {
                Write::Settled(mirror.attempt(attempt)?.memory(settled_at_s)?)
            }
        })
    }
}

#[cfg(test)]
#[path = "line_tests.rs"]
mod tests;
