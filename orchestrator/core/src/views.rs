//! Things as people see them: what answers are made of.

use std::collections::BTreeSet;

use outpost_proto::ids::{AttemptId, Incarnation};
use outpost_proto::message::{Heartbeat, Hello};
use outpost_proto::name::{AgentName, TaskName, WorkflowName};
use serde::Serialize;

use crate::label::{Labels, QueueName};
use crate::record::Presence;
use crate::standing::Keep;

/// Why a task does what it does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// The task.
    pub task: TaskName,
    /// Its state in one word, as elsewhere.
    pub state: String,
    /// A stable code of the reason, such as `needs`, `no_agent_with_entry`, `agent_stale`, `slots_full`, `backoff`.
    pub code: String,
    /// The reason in one sentence, with names, numbers and what would change it.
    pub reason: String,
    /// The attempt, when there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attempt: Option<AttemptId>,
}

/// A workflow as people see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkflowView {
    /// Its name.
    pub name: WorkflowName,
    /// The current version.
    pub version: u32,
    /// Whether its schedule makes no runs while a person wants so.
    pub paused: bool,
    /// When its next scheduled run is made; microseconds since 1970.
    pub next: Option<u64>,
    /// Runs that are not over.
    pub active_runs: usize,
    /// Tasks of them that could be placed.
    pub queued_tasks: usize,
    /// Tasks of them with an attempt.
    pub active_tasks: usize,
}

/// An agent as people see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentView {
    /// Its name.
    pub agent: AgentName,
    /// In touch or not.
    pub presence: Presence,
    /// Microseconds since 1970; `None` when it was not heard since the orchestrator started.
    pub last_heard: Option<u64>,
    /// When it enrolled.
    pub enrolled_at: u64,
    /// Whether it has a session now.
    pub connected: bool,
    /// When the certificate of its newest session ends, in microseconds since 1970.
    pub certificate_not_after: Option<u64>,
    /// What it said of itself on the present or last connection of this process's life.
    pub hello: Option<Hello>,
    /// Its newest heartbeat.
    pub heartbeat: Option<Heartbeat>,
    /// Entries in its catalogue.
    pub entries: usize,
    /// Attempts it holds, as far as known.
    pub attempts: usize,
    /// What it is labelled.
    pub labels: Labels,
    /// The queues it serves.
    pub queues: BTreeSet<QueueName>,
    /// Attempts it may run at once, if fewer than it offers.
    pub slots_limit: Option<u16>,
    /// Takes no new work while a person wants so.
    pub cordoned: bool,
    /// Takes no new work and is to run empty; it is when `attempts` is 0.
    pub draining: bool,
    /// The two holders of its identity, the known one first; empty when it has one as it should.
    pub holders: Vec<HolderView>,
    /// It saw a newer state of the database than there is, and gets no work.
    pub held_back: bool,
}

/// One of two holders of an agent's identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HolderView {
    /// The one that was known, or the one that appeared.
    pub which: Keep,
    /// Which life of which machine it is in.
    pub incarnation: Incarnation,
    /// Whether it has a session now.
    pub connected: bool,
    /// Microseconds since 1970.
    pub last_heard: Option<u64>,
    /// Its newest heartbeat.
    pub heartbeat: Option<Heartbeat>,
    /// Attempts in its inventory, as far as known.
    pub attempts: Option<usize>,
}

/// What endangers a tenant's work as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecoveryView {
    /// How often the database was restored, and one.
    pub counter: u32,
    /// When this life of the database began by a restore; microseconds since 1970.
    pub restored_at: Option<u64>,
    /// Agents that have not told yet what they know of the time that the backup lacks.
    pub awaited: Vec<AgentName>,
    /// New work waits for them.
    pub recovering: bool,
    /// Since when nothing silent is given up, because most agents are gone; microseconds since 1970.
    pub frozen_since: Option<u64>,
    /// Agents whose identity has two holders.
    pub quarantined: Vec<AgentName>,
    /// Agents that saw a newer state of the database than there is.
    pub held_back: Vec<AgentName>,
}
