//! What the agent counts of itself, for `status` and for Prometheus. The runner's loop counts; `text` words it;
//! `server` answers on loopback when the site asked for that. Nothing here is ever sent upstream.

pub(crate) mod server;
mod text;

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use outpost_agent_core::record::Write;
use outpost_proto::ids::AttemptId;
use outpost_proto::name::EntryName;
use outpost_proto::outcome::Outcome;
use serde::{Deserialize, Serialize};

/// Refusals that `status` shows.
const RECENT: usize = 8;
/// Upper bounds of the buckets of a commit's duration, in microseconds.
const SYNC_BOUNDS_US: [u64; 9] = [
    100, 250, 500, 1_000, 2_500, 10_000, 50_000, 250_000, 1_000_000,
];

/// Counted by the loop and by the store, on one thread.
pub(crate) type Shared = Rc<RefCell<Numbers>>;

/// What this process counted since it began.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Numbers {
    /// When the process began, in microseconds since 1970.
    pub started_us: u64,
    /// Streams to the orchestrator that stood.
    pub connections: u64,
    /// When the newest of them began, in microseconds since 1970; 0 before the first.
    pub connected_us: u64,
    /// Outcomes that the orchestrator acknowledged, by their names: `succeeded`, `killed{oom}`.
    pub outcomes: BTreeMap<String, u64>,
    /// Attempts whose keeper said that they run.
    pub started: u64,
    /// The newest refusals, oldest first.
    pub refusals: VecDeque<RecentRefusal>,
    /// How often the orchestrator did what no honest one does, or evidence was in danger.
    pub alarms: u64,
    /// Segments of the ledger that went before their time, because there were too many.
    pub ledger_early: u64,
    /// What went wrong last, also when it is over.
    pub last_trouble: Option<LastTrouble>,
    /// When the catalogue in force was read, in microseconds since 1970.
    pub catalogue_read_us: u64,
    /// Why the newest reload was not accepted, until one is.
    pub catalogue_refused: Option<String>,
    /// Bytes of logs on disk, and attempts they are of, as of the last sweep.
    pub logs_bytes: u64,
    /// As above.
    pub logs_attempts: u64,
    /// How long commits of journal and ledger took.
    pub commits: Histogram,
}

/// An instruction that was refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecentRefusal {
    /// Microseconds since 1970.
    pub at_us: u64,
    /// Which attempt.
    pub attempt: String,
    /// What was wanted.
    pub entry: String,
    /// In full; stays at the site.
    pub why: String,
}

/// Something that went wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastTrouble {
    /// Microseconds since 1970.
    pub at_us: u64,
    /// In words.
    pub what: String,
}

/// Durations, counted by size.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Histogram {
    /// How many were at most as long as each bound, and longer than the one before; the last is without a bound.
    counts: [u64; SYNC_BOUNDS_US.len() + 1],
    sum_us: u64,
}

impl Histogram {
    /// Counts one.
    pub fn observe(&mut self, took: Duration) {
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let at = SYNC_BOUNDS_US.partition_point(|bound| *bound < us);
        self.counts[at] += 1;
        self.sum_us = self.sum_us.saturating_add(us);
    }
}

impl Numbers {
    /// Of a process that begins now.
    pub(crate) fn new(now_us: u64) -> Self {
        Self {
            started_us: now_us,
            catalogue_read_us: now_us,
            ..Self::default()
        }
    }

    /// A stream to the orchestrator stands.
    pub(crate) fn connected(&mut self, now_us: u64) {
        self.connections += 1;
        self.connected_us = now_us;
    }

    /// An instruction was refused.
    pub(crate) fn refused(&mut self, at_us: u64, attempt: AttemptId, entry: &EntryName, why: &str) {
        if self.refusals.len() == RECENT {
            self.refusals.pop_front();
        }
        self.refusals.push_back(RecentRefusal {
            at_us,
            attempt: attempt.to_string(),
            entry: entry.to_string(),
            why: why.to_owned(),
        });
    }

    /// Something went wrong.
    pub(crate) fn trouble(&mut self, at_us: u64, what: &str) {
        let what = what.to_owned();
        self.last_trouble = Some(LastTrouble { at_us, what });
    }

    /// A commit of journal and ledger is durable.
    pub(crate) fn synced(&mut self, took: Duration) {
        self.commits.observe(took);
    }

    /// These writes are durable. An outcome is counted when it is settled: exactly once, whatever happens before.
    pub(crate) fn committed(&mut self, writes: &[Write]) {
        for write in writes {
            if let Write::Settled(memory) = write {
                let name = memory.report.outcome.to_string();
                *self.outcomes.entry(name).or_default() += 1;
            }
        }
    }

    /// How many attempts ended so.
    pub(crate) fn ended(&self, outcome: Outcome) -> u64 {
        let name = outcome.to_string();
        self.outcomes.get(&name).copied().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests;
