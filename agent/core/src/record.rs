//! What the agent must not forget: its journal is these records.

use outpost_proto::ids::{
    AttemptId, CommandSeq, EventSeq, Fence, Incarnation, Nonce, RecoveryEpoch, RunId, TaskIndex,
};
use outpost_proto::message::{Assign, AttemptState, OnDisconnect};
use serde::{Deserialize, Serialize};

/// One change to what is durable. All writes of a burst are journalled together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Write {
    /// An attempt, taken or changed.
    Attempt(Box<AttemptRecord>),
    /// Its outcome is durable upstream: only the memory of it stays.
    Settled(Memory),
    /// The memory is old enough to go.
    Forgotten(AttemptId),
    /// The session's counters.
    Session(SessionRecord),
    /// What the site decided.
    Site(SiteRecord),
}

impl Write {
    /// Whether this must survive a power cut, and not only the end of the process: counters and nonces are used only
    /// once they do, and an outcome is reported, under its number, only once it does. A start needs no sync of its own,
    /// because after a power cut the boot id already answers "may have started".
    #[must_use]
    pub fn needs_sync(&self) -> bool {
        match self {
            Self::Attempt(record) => {
                matches!(record.state, AttemptState::Finished(_)) && record.event_seq != EventSeq(0)
            }
            Self::Settled(_) | Self::Forgotten(_) => false,
            Self::Session(_) | Self::Site(_) => true,
        }
    }
}

/// An attempt that the agent holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttemptRecord {
    /// As it was assigned.
    pub assign: Assign,
    /// The life it was taken in: in any other it is interrupted.
    pub incarnation: Incarnation,
    /// As of the catalogue it was assigned under.
    pub on_disconnect: OnDisconnect,
    /// Where it stands.
    pub state: AttemptState,
    /// Number of the newest event about it; 0 while there is none.
    pub event_seq: EventSeq,
    /// Whether it was asked to end.
    pub cancel_requested: bool,
}

impl AttemptRecord {
    /// Whether `next` is this attempt, assigned as it was, and only stands elsewhere.
    #[must_use]
    pub fn is_step_to(&self, next: &Self) -> bool {
        (self.incarnation, self.on_disconnect) == (next.incarnation, next.on_disconnect)
            && self.assign == next.assign
    }

    pub(crate) fn step_to(&mut self, next: &Self) {
        self.state = next.state;
        self.event_seq = next.event_seq;
        self.cancel_requested = next.cancel_requested;
    }

    /// What is remembered of it once its outcome was acknowledged; `None` while it is not over.
    #[must_use]
    pub fn memory(&self, settled_at_s: u64) -> Option<Memory> {
        let AttemptState::Finished(report) = self.state else {
            return None;
        };
        Some(Memory {
            attempt: self.assign.attempt,
            run: self.assign.run,
            task: self.assign.task,
            fence: self.assign.fence,
            report,
            settled_at_s,
        })
    }
}

/// What is remembered of an attempt for thirty days after its outcome was acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// Which.
    pub attempt: AttemptId,
    /// Its run.
    pub run: RunId,
    /// Its task.
    pub task: TaskIndex,
    /// Its fence.
    pub fence: Fence,
    /// How it ended.
    pub report: outpost_proto::outcome::Report,
    /// When it was acknowledged, in seconds since 1970 by the site's clock.
    pub settled_at_s: u64,
}

/// The session's counters. Synced before any of them is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SessionRecord {
    /// To be presented by the next Hello.
    pub nonce: Nonce,
    /// The newest recovery epoch obeyed; `None` before the first Welcome.
    pub recovery: Option<RecoveryEpoch>,
    /// The newest command obeyed.
    pub command_seq: CommandSeq,
    /// Event numbers up to this one may have been used: reserved in blocks, so that not every event needs a sync.
    pub event_seq_reserved: EventSeq,
    /// The life of the database that went back in time: nothing new is taken from it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold: Option<RecoveryEpoch>,
    /// The present life of the database is a restored one, and was not told yet what is remembered.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub owes_memories: bool,
}

/// What the site decided. Survives restarts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SiteRecord {
    /// The kill switch: nothing starts.
    pub paused: bool,
}

/// What a journal gives back.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Snapshot {
    /// Attempts held, in order of id.
    pub attempts: Vec<AttemptRecord>,
    /// Outcomes remembered, in order of id.
    pub memories: Vec<Memory>,
    /// The session's counters.
    pub session: SessionRecord,
    /// What the site decided.
    pub site: SiteRecord,
}
