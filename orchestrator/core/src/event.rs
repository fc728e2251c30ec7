//! Everything that can happen to the orchestrator's core, and everything that can result: one page.

use std::collections::{BTreeMap, BTreeSet};

use outpost_proto::ids::{AttemptId, Conn, Nonce, RunId};
use outpost_proto::message::{DownMessage, ParamValue, UpMessage};
use outpost_proto::name::{AgentName, EntryName, ParamName, TaskName, TenantName, WorkflowName};
use serde::Serialize;

use crate::label::{Labels, QueueName};
use crate::record::{RunState, StoredRun, TaskState};
use crate::recover::NotRecovered;
use crate::spec::WorkflowSpec;
use crate::standing::Keep;
pub use crate::views::{AgentView, Explanation, HolderView, RecoveryView, WorkflowView};

/// Everything that can happen.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(
    clippy::large_enum_variant,
    reason = "a burst holds at most a thousand, and questions are rare among them"
)]
pub enum Event {
    /// A stream was accepted; tenant and agent come from its certificate and from nowhere else.
    Opened {
        /// Numbered by the driver, never reused within a process.
        conn: Conn,
        /// Whose.
        tenant: TenantName,
        /// Which agent.
        agent: AgentName,
        /// Its identity, the salt of its catalogue's hashes.
        spiffe_id: String,
        /// SHA-256 of its certificate's public key, in hex: a removed agent's certificate lives on, and its name may
        /// have been given to another.
        key_hash: String,
        /// When that certificate ends, in microseconds since 1970.
        not_after: u64,
    },
    /// One frame arrived, already validated.
    Frame {
        /// On this stream.
        conn: Conn,
        /// In order.
        messages: Vec<UpMessage>,
    },
    /// The stream is gone.
    Closed {
        /// Which.
        conn: Conn,
    },
    /// Somebody asks for something; the answer carries the same number.
    Asked {
        /// Numbered by the driver.
        call: Call,
        /// Tenant of the token.
        tenant: TenantName,
        /// What.
        ask: Ask,
    },
    /// The wall clock jumped, or is told for the first time. Schedules follow it; everything else follows the core's own
    /// clock, which never jumps.
    Wall {
        /// How far it is ahead of the core's clock, in microseconds.
        ahead: i64,
    },
    /// An agent presents an invitation. Tenant and name come from the invitation.
    Enrol {
        /// Numbered by the driver.
        call: Call,
        /// SHA-256 of the token's secret, in hex.
        token_hash: String,
        /// SHA-256 of the request's public key, in hex.
        key_hash: String,
    },
    /// An agent asks for its next certificate. Tenant, name and present key come from the certificate that it presents.
    Renew {
        /// Numbered by the driver.
        call: Call,
        /// Whose.
        tenant: TenantName,
        /// Which agent.
        agent: AgentName,
        /// SHA-256 of the presented certificate's public key, in hex.
        key_hash: String,
        /// The same of the request's.
        next_key: String,
        /// The stream of the connection on which it asks, if that has one.
        beside: Option<Conn>,
    },
    /// An agent whose certificate ended asks for another one, and has proven that it holds the ended one's key. Tenant,
    /// name and key come from the ended certificate.
    Recover {
        /// Numbered by the driver.
        call: Call,
        /// Whose.
        tenant: TenantName,
        /// Which agent.
        agent: AgentName,
        /// SHA-256 of the ended certificate's public key, in hex.
        key_hash: String,
        /// The same of the request's.
        next_key: String,
        /// What its last session handed out.
        nonce: Nonce,
        /// Milliseconds since the certificate ended; `None` while it holds.
        ended_ms_ago: Option<u64>,
        /// When it ended, or ends, in microseconds since 1970.
        not_after: u64,
    },
}

/// Number of one question, chosen by the driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Call(pub u64);

/// What a person or a program asks of a tenant's state.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(
    clippy::large_enum_variant,
    reason = "one per request, moved a few times and never kept in numbers"
)]
pub enum Ask {
    /// Make this the current version of its workflow.
    Apply {
        /// Validated.
        spec: WorkflowSpec,
        /// As it was sent.
        source: String,
        /// Accept entries that no agent announces.
        allow_unknown_entries: bool,
        /// Only tell what it would do.
        dry_run: bool,
        /// Refuse if the current version is another; 0: if there is one.
        expected_version: Option<u32>,
    },
    /// Let no more runs of it be made. Its history stays readable.
    DeleteWorkflow {
        /// Which.
        workflow: WorkflowName,
        /// Refuse if the current version is another.
        expected_version: Option<u32>,
    },
    /// Stop or start the making of scheduled runs. Triggers work all the same.
    PauseWorkflow {
        /// Which.
        workflow: WorkflowName,
        /// Whether it shall be paused.
        paused: bool,
    },
    /// All workflows with what they do now.
    Workflows,
    /// The next instants of a schedule.
    Upcoming {
        /// Of this workflow.
        workflow: WorkflowName,
        /// How many at most; at most [`crate::limits::UPCOMING`].
        count: u16,
    },
    /// Run tasks of a run again, in the same run.
    Rerun {
        /// Which run.
        run: RunId,
        /// These and everything that needs them; `None`: all that did not succeed.
        tasks: Option<Vec<TaskName>>,
        /// The run as it was stored right before this turn: used when it is not in memory.
        stored: Option<Box<StoredRun>>,
    },
    /// Make a run.
    Trigger {
        /// Of this workflow.
        workflow: WorkflowName,
        /// Given values.
        params: BTreeMap<ParamName, ParamValue>,
        /// The same key makes the same run once.
        key: Option<String>,
    },
    /// End a run.
    Cancel {
        /// Which.
        run: RunId,
    },
    /// Why does what waits wait?
    Explain {
        /// Which run.
        run: RunId,
    },
    /// All agents with their presence.
    Agents,
    /// Change what a person decides about an agent.
    ConfigureAgent {
        /// Which.
        agent: AgentName,
        /// What of it.
        change: AgentChange,
    },
    /// Let an agent enrol under this name.
    Invite {
        /// The name.
        agent: AgentName,
        /// SHA-256 of the token's secret, in hex.
        token_hash: String,
        /// Milliseconds it is good for; at most ten minutes.
        ttl_ms: u64,
    },
    /// Never let it connect again, and cut it off now.
    RemoveAgent {
        /// Which.
        agent: AgentName,
    },
    /// Decide which of two holders of an agent's identity stays.
    ResolveAgent {
        /// Which agent.
        agent: AgentName,
        /// Which holder.
        keep: Keep,
        /// Who says so.
        by: String,
    },
    /// What endangers the tenant's work as a whole.
    Recovery,
    /// Go on without the agents that have not told yet what a restored database lacks.
    Continue {
        /// Who says so.
        by: String,
    },
    /// Give up silent attempts again, although most agents are gone.
    Unfreeze {
        /// Who says so.
        by: String,
    },
    /// Say that an attempt is over of which nothing is heard.
    AssertDead {
        /// Which.
        attempt: AttemptId,
        /// Who says so.
        by: String,
        /// How the person knows; 1 to [`crate::limits::REASON_LEN`] characters.
        reason: String,
    },
}

/// What a person changes about an agent; `None` leaves it as it is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AgentChange {
    /// All its labels; at most [`crate::label::LABELS`].
    pub labels: Option<Labels>,
    /// All its queues; between 1 and [`crate::label::QUEUES`].
    pub queues: Option<BTreeSet<QueueName>>,
    /// Attempts it may run at once; `Some(None)`: as many as it offers.
    pub slots_limit: Option<Option<u16>>,
    /// Whether it takes no new work.
    pub cordoned: Option<bool>,
    /// Whether it takes no new work and is to run empty.
    pub draining: Option<bool>,
}

/// Everything that can result, besides writes.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(
    clippy::large_enum_variant,
    reason = "spoken and dropped at the end of the turn"
)]
pub enum Speech {
    /// Frames for one agent, in order.
    Send {
        /// On this stream.
        conn: Conn,
        /// At most a frame's worth.
        messages: Vec<DownMessage>,
    },
    /// End this stream.
    Close {
        /// Which.
        conn: Conn,
        /// Why.
        why: CloseReason,
    },
    /// The answer to a question.
    Answer {
        /// Which question.
        call: Call,
        /// The answer.
        answer: Result<Answer, Denied>,
    },
    /// A peer did what no honest peer does: count it and log it.
    Alarm {
        /// Whose.
        tenant: TenantName,
        /// Which agent.
        agent: AgentName,
        /// What it did.
        what: Alarm,
    },
}

/// Why a stream is ended by the orchestrator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloseReason {
    /// A newer stream of the same agent took over.
    Replaced,
    /// The agent was removed, or is not known.
    Removed,
    /// It is known, by another key: its certificate was renewed since, or its name given to another.
    OtherKey,
    /// No protocol version in common.
    Version,
    /// It broke the protocol.
    Protocol,
    /// Another holder of the same identity exists.
    Cloned,
}

/// What no honest agent does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Alarm {
    /// Messages out of order: before Hello, a second Hello, work before the inventory's end.
    OutOfOrder,
    /// An attempt that is not this agent's.
    ForeignAttempt,
    /// An event number that went back within a session, or an impossible change of state.
    ImpossibleEvent,
    /// An inventory whose count does not match.
    InventoryCount,
    /// A nonce of a holder of the identity that a person decided against, or of a third one.
    Nonce,
    /// A second holder of its identity appeared.
    Cloned,
    /// It saw a newer state of the database than there is.
    Behind,
}

/// What was asked for was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// To [`Ask::Apply`].
    Applied {
        /// The current version.
        version: u32,
        /// What it took.
        applied: Applied,
        /// What may not work yet, one sentence each.
        warnings: Vec<String>,
    },
    /// To [`Ask::DeleteWorkflow`].
    Deleted,
    /// To [`Ask::PauseWorkflow`].
    Paused {
        /// Whether it is paused now.
        paused: bool,
        /// When its next scheduled run is made; microseconds since 1970.
        next: Option<u64>,
    },
    /// To [`Ask::Workflows`], by name.
    Workflows(Vec<WorkflowView>),
    /// To [`Ask::Upcoming`]: microseconds since 1970, ascending. What a paused workflow would do.
    Upcoming(Vec<u64>),
    /// To [`Ask::Rerun`].
    Rerun {
        /// What runs again, in the order of the workflow.
        tasks: Vec<TaskName>,
    },
    /// To [`Ask::ConfigureAgent`].
    Agent(AgentView),
    /// To [`Ask::Trigger`].
    Triggered {
        /// The run.
        run: RunId,
        /// Whether this call made it.
        created: bool,
    },
    /// To [`Ask::Cancel`].
    Cancelled {
        /// Where the run stands now.
        state: RunState,
        /// Attempts whose end is not yet known.
        pending: u32,
    },
    /// To [`Ask::Explain`].
    Explained(Vec<Explanation>),
    /// To [`Ask::Agents`].
    Agents(Vec<AgentView>),
    /// To [`Ask::Invite`].
    Invited {
        /// Microseconds since 1970.
        expires_at: u64,
    },
    /// To [`Ask::RemoveAgent`].
    Removed,
    /// To [`Ask::Recovery`], [`Ask::Continue`] and [`Ask::Unfreeze`].
    Recovery(RecoveryView),
    /// To [`Ask::AssertDead`].
    AssertedDead {
        /// Where the attempt's task stands now.
        task: TaskState,
    },
    /// To [`Event::Renew`] and [`Event::Recover`]: issue a certificate for the name that was presented.
    Renewed,
    /// To [`Event::Enrol`]: issue a certificate for this name.
    Enrolled {
        /// Tenant of the invitation.
        tenant: TenantName,
        /// Name of the invitation.
        agent: AgentName,
    },
}

/// What an apply took.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Applied {
    /// The first version.
    Created,
    /// A new version.
    Updated,
    /// Nothing: it is the current one already.
    Unchanged,
}

/// What was asked for was not done, and nothing changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// No such workflow.
    #[error("there is no workflow `{0}`")]
    UnknownWorkflow(WorkflowName),
    /// No such run, or no longer a live one.
    #[error("there is no run {0}")]
    UnknownRun(RunId),
    /// Over already.
    #[error("run {run} is over: {state:?}")]
    RunOver {
        /// Which.
        run: RunId,
        /// How.
        state: RunState,
    },
    /// Somebody else changed it meanwhile.
    #[error(
        "workflow `{workflow}` is at version {current}, not at {expected}: look at what changed and apply again"
    )]
    VersionMismatch {
        /// Which.
        workflow: WorkflowName,
        /// The version that was expected; 0: none.
        expected: u32,
        /// The version it is at; 0: there is none.
        current: u32,
    },
    /// It has live runs.
    #[error(
        "workflow `{workflow}` has {runs} live runs: wait for them or cancel them, then delete it"
    )]
    WorkflowBusy {
        /// Which.
        workflow: WorkflowName,
        /// How many.
        runs: usize,
    },
    /// It cannot be scheduled like this.
    #[error("the schedule: {0}")]
    BadSchedule(String),
    /// It makes no runs by itself.
    #[error("workflow `{0}` has no schedule")]
    NoSchedule(WorkflowName),
    /// The run has no such task.
    #[error("run {run} has no task `{task}`")]
    UnknownTask {
        /// Which run.
        run: RunId,
        /// What was named.
        task: TaskName,
    },
    /// Nothing of the run can be run again now.
    #[error("run {run} cannot be run again: {why}")]
    CannotRerun {
        /// Which.
        run: RunId,
        /// What stands in the way and what would change it.
        why: String,
    },
    /// No agent of the tenant announces it, though at least one announced a catalogue.
    #[error(
        "task `{task}` wants the catalogue entry `{entry}`, which no agent of this tenant announces ({asked} asked){}",
        others_too(others)
    )]
    UnknownEntry {
        /// Whose need.
        task: TaskName,
        /// The missing entry.
        entry: EntryName,
        /// Further tasks whose entries nobody announces.
        others: Vec<(TaskName, EntryName)>,
        /// How many agents were asked.
        asked: usize,
    },
    /// A run's parameter is missing, unknown or outside its bounds.
    #[error("parameter `{param}`: {why}")]
    BadParam {
        /// Which.
        param: String,
        /// What is wrong and what would be right.
        why: String,
    },
    /// An agent of that name is enrolled.
    #[error("an agent named `{0}` is enrolled already; remove it first or choose another name")]
    AgentExists(AgentName),
    /// No such agent.
    #[error("there is no agent `{0}`")]
    UnknownAgent(AgentName),
    /// No such invitation, expired, or used by another key: all told alike.
    #[error("the join token is not valid: unknown, expired or used already; ask for a new one")]
    BadToken,
    /// The same idempotency key with another request.
    #[error("this idempotency key was used for another workflow or with other parameters")]
    KeyReused,
    /// Whoever asks is not the one who holds the session.
    #[error(
        "agent `{0}` does not renew now: another holder of its identity has its session, or nobody has decided yet \
         which one stays"
    )]
    NotTheHolder(AgentName),
    /// It gets no certificate in place of one that ended.
    #[error("agent `{agent}` gets no certificate in place of the one that ended: {why}")]
    NotRecovered {
        /// Which agent.
        agent: AgentName,
        /// Why, and what helps.
        why: NotRecovered,
    },
    /// There is nothing to decide.
    #[error("agent `{0}` has one holder: there is nothing to decide")]
    NotQuarantined(AgentName),
    /// Every agent has reported.
    #[error("no agent is waited for: there is nothing to continue")]
    NothingAwaited,
    /// Nothing is frozen.
    #[error("nothing is frozen: silent attempts are given up as always")]
    NotFrozen,
    /// Its end is known, or it never was.
    #[error("there is no attempt {0} whose end is unknown")]
    UnknownAttempt(AttemptId),
    /// Its agent can be asked.
    #[error(
        "attempt {attempt} is held by agent `{agent}`, which is in touch: cancel its run instead, so that the agent \
         ends it and says so"
    )]
    InTouch {
        /// Which attempt.
        attempt: AttemptId,
        /// Whose.
        agent: AgentName,
    },
    /// A limit.
    #[error("{0}")]
    Limit(String),
}

fn others_too(others: &[(TaskName, EntryName)]) -> String {
    let others = others
        .iter()
        .map(|(task, entry)| format!("; neither `{entry}`, which task `{task}` wants"));
    others.collect()
}
