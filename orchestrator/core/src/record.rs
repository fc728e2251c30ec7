//! What is durable: one record per thing, written whole. A store keeps them and gives back the live ones.
//!
//! Times are microseconds since 1970 on the database host's clock. What is nearly always nothing is not written of what
//! there are millions of.

use std::collections::{BTreeMap, BTreeSet};

use outpost_proto::ids::{
    AttemptId, CommandSeq, EventSeq, Fence, Incarnation, Nonce, RecoveryEpoch, RunId, SessionEpoch,
    TaskIndex,
};
use outpost_proto::message::{Catalogue, ParamValue};
use outpost_proto::name::{AgentName, ParamName, TenantName, WorkflowName};
use outpost_proto::outcome::{Outcome, Report};
use serde::{Deserialize, Serialize};

use crate::label::{Labels, QueueName, default_queues};
use crate::safety::{Asserted, Safety};
use crate::shown::Shown;
use crate::spec::WorkflowSpec;
use crate::standing::Standing;

mod fences;

pub use self::fences::TenantRecord;

/// One change to what is durable. All writes of a burst are one transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Write {
    /// A version of a workflow; the highest version is current.
    Workflow(WorkflowRecord),
    /// What becomes of a workflow apart from its versions.
    WorkflowState(WorkflowStateRecord),
    /// A run, created or changed.
    Run(RunRecord),
    /// A task of a run, created or changed.
    Task(TaskRecord),
    /// An attempt, created or changed.
    Attempt(AttemptRecord),
    /// An agent, enrolled or changed.
    Agent(AgentRecord),
    /// An agent's numbers that change with every burst. Of an agent's record and mark the one written last counts.
    AgentMark(AgentMark),
    /// An invitation, made or used.
    Invite(InviteRecord),
    /// What a tenant counts.
    Tenant(TenantRecord),
    /// An idempotency key and the run it made.
    Key(KeyRecord),
    /// Something worth telling to whoever watches; numbered by the store in commit order.
    Notice(Notice),
}

/// One applied version of a workflow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkflowRecord {
    /// Whose.
    pub tenant: TenantName,
    /// Counted from 1; an unchanged workflow makes no new one.
    pub version: u32,
    /// Validated.
    pub spec: WorkflowSpec,
    /// The text it was applied as.
    pub source: String,
    /// When.
    pub applied_at: u64,
}

/// What becomes of a workflow apart from its versions. Without one it is neither paused nor deleted, and no instant of
/// its schedule was decided on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkflowStateRecord {
    /// Whose.
    pub tenant: TenantName,
    /// Which.
    pub workflow: WorkflowName,
    /// Its schedule makes no runs while a person wants so.
    #[serde(default)]
    pub paused: bool,
    /// It was deleted; its versions and runs stay readable.
    #[serde(default)]
    pub deleted: bool,
    /// The newest version when it was deleted: applying the name again goes on from here. 0 while it is there.
    #[serde(default)]
    pub version: u32,
    /// Every instant of its schedule up to this one was decided on; never goes back.
    #[serde(default)]
    pub scheduled_until: Option<u64>,
}

/// One execution of a workflow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunRecord {
    /// Whose.
    pub tenant: TenantName,
    /// Which.
    pub run: RunId,
    /// Of this workflow.
    pub workflow: WorkflowName,
    /// In this version.
    pub version: u32,
    /// With defaults filled in.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub params: BTreeMap<ParamName, ParamValue>,
    /// Where it stands.
    pub state: RunState,
    /// The agent all its tasks run on, once the first was placed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<AgentName>,
    /// When it was triggered.
    pub created_at: u64,
    /// When its first task was placed; `None` while it has not begun, or not again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<u64>,
    /// When it was over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<u64>,
    /// The instant of the workflow's schedule that made it: one run per workflow and instant. `None` when it was
    /// triggered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheduled_for: Option<u64>,
    /// How often tasks of it were run again after it was over.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub reruns: u16,
}

/// A run that is over as a store gives it back, so that it can go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredRun {
    /// The run.
    pub run: RunRecord,
    /// The version it is of.
    pub workflow: WorkflowRecord,
    /// All its tasks.
    pub tasks: Vec<TaskRecord>,
}

/// Where a run stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunState {
    /// Tasks wait or run.
    Running,
    /// It was asked to end; tasks still run.
    Cancelling,
    /// Every task succeeded.
    Succeeded,
    /// Over, and a task did not succeed.
    Failed,
    /// Over after a cancel.
    Cancelled,
}

/// A task of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskRecord {
    /// Of this run.
    pub run: RunId,
    /// Its place in the workflow version.
    pub task: TaskIndex,
    /// Where it stands.
    pub state: TaskState,
    /// Attempts made so far.
    pub attempts: u16,
    /// Those of them that used up a try: they ran, or could not be started, and did not succeed.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub spent: u16,
    /// Attempts in a row that the site refused for now, or that were lost: bounded apart from the tries.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub requeued: u16,
    /// Attempts in a row that came outside of the entry's windows, or after as many starts as it may have in an hour:
    /// bounded apart from those.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub untimely: u16,
    /// Of an attempt of it nobody can say that it is over, and its entry is not `retry_safe`: it is never run again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unsure: bool,
    /// Which agents that only observe were shown it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shown: Vec<Shown>,
}

/// Where a task stands. A state owns its data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "is")]
pub enum TaskState {
    /// Something it needs is not over.
    Waiting,
    /// It may be placed.
    Queued {
        /// Since when.
        since: u64,
    },
    /// The next attempt may be made from then on.
    Backoff {
        /// When.
        until: u64,
        /// How the last attempt ended.
        last: Outcome,
    },
    /// An attempt exists.
    Active {
        /// Which.
        attempt: AttemptId,
    },
    /// It succeeded.
    Succeeded,
    /// Its last attempt ended so.
    Failed {
        /// How.
        outcome: Outcome,
    },
    /// Something it needs did not succeed.
    UpstreamFailed,
    /// It was cancelled, before or while it ran.
    Cancelled,
}

/// One try of a task on one agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttemptRecord {
    /// Whose.
    pub tenant: TenantName,
    /// Which.
    pub attempt: AttemptId,
    /// Of this run.
    pub run: RunId,
    /// Of this task.
    pub task: TaskIndex,
    /// On this agent.
    pub agent: AgentName,
    /// Handed to the task.
    pub fence: Fence,
    /// Under this incarnation: never sent to another.
    pub incarnation: Incarnation,
    /// As announced when it was assigned: decides whether a second attempt may follow an unknown end.
    pub retry_safe: bool,
    /// As announced when it was assigned: seconds out of touch (stop-after and grace) after which its keeper has
    /// ended it; `None` when it goes on by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ends_alone_s: Option<u32>,
    /// Where it stands.
    pub phase: Phase,
    /// Whether it was asked to end.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cancel_requested: bool,
    /// When it was assigned.
    pub assigned_at: u64,
    /// When it was first heard to run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<u64>,
    /// When its end was accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<u64>,
    /// An outcome that came after it had been given up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub late: Option<Report>,
    /// Its agent told of it after a restore: the backup did not know it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub recovered: bool,
    /// A person said that it is over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asserted: Option<Asserted>,
}

/// Where an attempt stands at the orchestrator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "is")]
pub enum Phase {
    /// Sent or to be sent; nothing is known of a start.
    Assigned,
    /// The same, in records of before one state stood for both.
    Accepted,
    /// As [`Phase::Running`], in records of before one state stood for both.
    Starting,
    /// The agent journalled its start: its process exists, or may at any moment.
    Running,
    /// Over.
    Finished {
        /// The first report accepted.
        report: Report,
    },
    /// Given up without a report.
    Lost {
        /// Whether it may have started.
        may_have_started: bool,
    },
}

/// An enrolled agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentRecord {
    /// Whose.
    pub tenant: TenantName,
    /// Its name.
    pub agent: AgentName,
    /// SHA-256 of the public key of the certificate that it used last, in hex.
    pub key_hash: String,
    /// The same of a renewed certificate that it has not used yet: it takes the other's place with its first session.
    #[serde(default)]
    pub next_key: Option<String>,
    /// When the certificate of its newest session ends; `None` before the first.
    #[serde(default)]
    pub certificate_not_after: Option<u64>,
    /// The salt of its catalogue's hashes, as of the newest session; empty before the first.
    #[serde(default)]
    pub spiffe_id: String,
    /// When it enrolled.
    pub enrolled_at: u64,
    /// Removed agents keep their record and never connect again.
    pub removed: bool,
    /// The newest session.
    pub session_epoch: SessionEpoch,
    /// The last nonce that was confirmed (0 at first), then those handed out since, newest last; at most 8.
    pub nonces: Vec<Nonce>,
    /// The highest event applied.
    pub event_seq: EventSeq,
    /// The newest command.
    pub command_seq: CommandSeq,
    /// As of the newest session.
    pub incarnation: Incarnation,
    /// As last announced.
    pub catalogue: Option<Catalogue>,
    /// Takes no new work while a person wants so.
    pub cordoned: bool,
    /// What it is labelled; at most [`crate::label::LABELS`].
    #[serde(default)]
    pub labels: Labels,
    /// The queues it serves; at least one, at most [`crate::label::QUEUES`].
    #[serde(default = "default_queues")]
    pub queues: BTreeSet<QueueName>,
    /// Attempts it may run at once, if fewer than it offers.
    #[serde(default)]
    pub slots_limit: Option<u16>,
    /// Takes no new work and is to run empty while a person wants so.
    #[serde(default)]
    pub draining: bool,
    /// Whether it is the only holder of its identity, and what it has yet to answer after a restore.
    #[serde(default, skip_serializing_if = "Standing::is_plain")]
    pub standing: Box<Standing>,
}

impl AgentRecord {
    /// An agent as it is right after it enrolled.
    #[must_use]
    pub fn enrolled(tenant: TenantName, agent: AgentName, key_hash: String, at: u64) -> Self {
        Self {
            tenant,
            agent,
            key_hash,
            next_key: None,
            certificate_not_after: None,
            spiffe_id: String::new(),
            enrolled_at: at,
            removed: false,
            session_epoch: SessionEpoch(0),
            nonces: Vec::new(),
            event_seq: EventSeq(0),
            command_seq: CommandSeq(0),
            incarnation: Incarnation(0),
            catalogue: None,
            cordoned: false,
            labels: Labels::new(),
            queues: default_queues(),
            slots_limit: None,
            draining: false,
            standing: Box::default(),
        }
    }
}

/// An agent's numbers that change with every burst, written apart from its record with the catalogue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentMark {
    /// Whose.
    pub tenant: TenantName,
    /// Which.
    pub agent: AgentName,
    /// The highest event applied.
    pub event_seq: EventSeq,
    /// The newest command.
    pub command_seq: CommandSeq,
    /// The tenant's next fence by then, so that giving out work needs no write of the tenant's record: of that record and
    /// all marks the highest one counts.
    #[serde(default)]
    pub next_fence: Fence,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
fn is_zero(number: &u16) -> bool {
    *number == 0
}

/// A one-time invitation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InviteRecord {
    /// SHA-256 of the token's secret, in hex: the token itself is never stored.
    pub token_hash: String,
    /// Into this tenant.
    pub tenant: TenantName,
    /// Under this name.
    pub agent: AgentName,
    /// Of no use from then on.
    pub expires_at: u64,
    /// The public key (SHA-256, hex) that used it: the same key may ask again, no other.
    pub bound_to: Option<String>,
}

/// An idempotency key of a trigger.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyRecord {
    /// Whose.
    pub tenant: TenantName,
    /// As given, 1 to 128 printable ASCII characters.
    pub key: String,
    /// Of this workflow: the same key for another one is refused.
    pub workflow: WorkflowName,
    /// SHA-256 of workflow and parameters as they were given, in hex: the same key with other ones is refused. `None`
    /// in records of before it was kept.
    #[serde(default)]
    pub request: Option<String>,
    /// What it made.
    pub run: RunId,
    /// When; kept for a day.
    pub at: u64,
}

/// Something worth telling.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notice {
    /// Whose.
    pub tenant: TenantName,
    /// When.
    pub at: u64,
    /// What about.
    #[serde(flatten)]
    pub what: NoticeKind,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum NoticeKind {
    /// A run was made or changed its state.
    Run {
        /// Which.
        run: RunId,
        /// Of this workflow.
        workflow: WorkflowName,
        /// Now.
        state: RunState,
    },
    /// A task changed its state.
    Task {
        /// Of this run.
        run: RunId,
        /// Its place.
        task: TaskIndex,
        /// Now.
        state: TaskState,
    },
    /// An attempt changed its phase.
    Attempt {
        /// Of this run.
        run: RunId,
        /// Of this task.
        task: TaskIndex,
        /// Which.
        attempt: AttemptId,
        /// Where it runs.
        agent: AgentName,
        /// Now.
        phase: Phase,
    },
    /// A workflow was applied, paused, resumed or deleted.
    Workflow {
        /// Which.
        workflow: WorkflowName,
        /// What happened to it.
        change: WorkflowChange,
    },
    /// Instants of a schedule made no run.
    Skipped {
        /// Of this workflow.
        workflow: WorkflowName,
        /// The first of them.
        from: u64,
        /// The last of them.
        until: u64,
        /// How many; counted up to 1000.
        count: u32,
        /// Why.
        why: SkippedWhy,
    },
    /// An agent enrolled, came, went stale or was removed.
    Agent {
        /// Which.
        agent: AgentName,
        /// Now.
        presence: Presence,
    },
    /// Something that nobody shall miss: what endangers the rule that nothing is lost and nothing runs twice, and what
    /// a person decided about it.
    Safety {
        /// What.
        what: Safety,
        /// Of this agent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        agent: Option<AgentName>,
        /// Of this attempt.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        attempt: Option<AttemptId>,
        /// Who decided: the public part of a token.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        by: Option<String>,
        /// In words.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
}

/// What happened to a workflow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "is")]
pub enum WorkflowChange {
    /// This version of it is current now.
    Applied {
        /// Counted from 1.
        version: u32,
    },
    /// Its schedule makes no runs.
    Paused,
    /// Its schedule makes runs again.
    Resumed,
    /// It is gone; its history stays.
    Deleted,
}

/// Why an instant of a schedule made no run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SkippedWhy {
    /// The orchestrator was not there, and the schedule says so.
    Missed,
    /// The tenant has as many live runs as one can have.
    RunLimit,
    /// The workflow's parameters refuse what the schedule gives.
    Params,
}

/// Whether an agent is in touch. Apart from what its attempts do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Presence {
    /// Never connected since it enrolled.
    Enrolled,
    /// Heard within the stale time.
    Live,
    /// Not heard for longer.
    Stale,
    /// Removed by a person.
    Removed,
}

/// What a store gives back: everything that can still change.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Snapshot {
    /// Which life of the database this is.
    pub recovery: RecoveryEpoch,
    /// When this life began by a restore: no instant of a schedule up to then is decided again.
    pub restored_at: Option<u64>,
    /// All tenants.
    pub tenants: Vec<TenantRecord>,
    /// The current version of each workflow that is not deleted, and every version that a live run is of.
    pub workflows: Vec<WorkflowRecord>,
    /// All of them, deleted ones too.
    pub workflow_states: Vec<WorkflowStateRecord>,
    /// Runs that are not over, and runs with an attempt whose end is still unknown.
    pub runs: Vec<RunRecord>,
    /// The tasks of those runs.
    pub tasks: Vec<TaskRecord>,
    /// The attempts of those runs that are not finished, or lost without a late report.
    pub attempts: Vec<AttemptRecord>,
    /// All agents, removed ones too.
    pub agents: Vec<AgentRecord>,
    /// Invitations that have not expired.
    pub invites: Vec<InviteRecord>,
    /// Idempotency keys of the last day.
    pub keys: Vec<KeyRecord>,
}
