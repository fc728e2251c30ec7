//! What is said, as validated values. The cores know these types and no other; `wire` turns them into bytes and back.

use serde::{Deserialize, Serialize};

use crate::ids::{
    AttemptId, CatalogueVersion, CommandSeq, EventSeq, Fence, HeartbeatSeq, Incarnation, Nonce,
    RecoveryEpoch, RunId, SessionEpoch, TaskIndex,
};
use crate::name::{EntryHash, EntryName, ParamName, TaskName, WorkflowName};
use crate::outcome::Report;

/// From the agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UpMessage {
    /// First on every stream.
    Hello(Hello),
    /// What the site allows.
    Catalogue(Catalogue),
    /// One page of what the agent holds.
    Inventory(InventoryPage),
    /// Something happened to an attempt.
    Event(Event),
    /// Liveness and health, stamped by the runner's loop.
    Heartbeat(Heartbeat),
    /// The site asks for one of the triggers numbered for it.
    Trigger {
        /// Its number.
        trigger: u16,
        /// From the agent's event counter.
        event_seq: EventSeq,
    },
    /// Every command up to this one was taken.
    Ack(CommandSeq),
}

/// Who is calling, and where it left off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// Lowest and highest protocol version spoken.
    pub protocol: (u8, u8),
    /// Build version: major, minor, patch.
    pub build: (u16, u16, u16),
    /// First 64 bits of SHA-256 over the link descriptor.
    pub schema_hash: u64,
    /// Any change ends earlier attempts as interrupted.
    pub incarnation: Incarnation,
    /// The newest recovery epoch and command obeyed; `None` when there never was one.
    pub last: Option<(RecoveryEpoch, CommandSeq)>,
    /// What the last Welcome handed out; `Nonce(0)` on an identity's first session.
    pub session_nonce: Nonce,
    /// How many tasks run at once.
    pub slots: u16,
    /// How much of link's sandbox is in force.
    pub sandbox: Level,
    /// What holds process trees together.
    pub containment: Containment,
    /// How far resource limits are enforced.
    pub limits: Level,
    /// How much is reported.
    pub reporting: Reporting,
}

/// How much of a protection is in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// Nothing.
    None,
    /// Some of it.
    Partial,
    /// All of it.
    Strict,
}

/// What holds a task's process tree together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Containment {
    /// A leaf cgroup (v2) with `cgroup.kill`.
    Cgroup,
    /// A pid namespace.
    PidNamespace,
    /// The keeper is the reaper of all descendants.
    Subreaper,
}

/// How much is reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reporting {
    /// Everything the wire allows.
    Normal,
    /// Outcome classes only, coarse durations.
    Strict,
}

/// What the site allows, as salted hashes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Catalogue {
    /// Changes with the content.
    pub version: CatalogueVersion,
    /// At most [`crate::limits::CATALOGUE_ENTRIES`].
    pub entries: Vec<CatalogueEntry>,
}

/// One entry as announced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CatalogueEntry {
    /// Salted hash of its name.
    pub hash: EntryHash,
    /// Whether running it a second time is harmless.
    pub retry_safe: bool,
    /// What becomes of it while the agent is out of touch.
    pub on_disconnect: OnDisconnect,
    /// Seconds between TERM and KILL, at most 4095.
    pub grace_s: u16,
}

/// What becomes of a task while its agent is out of touch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnDisconnect {
    /// It goes on.
    Continue,
    /// Its keeper ends it after this many seconds, at most 2^20 - 1 (twelve days).
    StopAfter(u32),
}

/// One page of what the agent holds. The last page carries the count of all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InventoryPage {
    /// At most [`crate::limits::INVENTORY_PAGE`].
    pub items: Vec<InventoryItem>,
    /// `Some(items on all pages)` on the last page.
    pub end: Option<u32>,
}

/// An attempt held, or an outcome not yet acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InventoryItem {
    /// Which attempt.
    pub attempt: AttemptId,
    /// Its run.
    pub run: RunId,
    /// Its task.
    pub task: TaskIndex,
    /// Its fence.
    pub fence: Fence,
    /// Where it stands.
    pub state: AttemptState,
    /// Number of the newest event about it; 0 while there is none.
    pub event_seq: EventSeq,
}

/// Where an attempt stands at the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AttemptState {
    /// Taken, not begun; can be withdrawn.
    Assigned,
    /// Journalled; exec may happen at any moment.
    Starting,
    /// The task's process exists.
    Running,
    /// Over; the whole tree is gone.
    Finished(Report),
}

/// Something happened to an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// One durable counter per agent.
    pub event_seq: EventSeq,
    /// Which attempt.
    pub attempt: AttemptId,
    /// Where it stands now.
    pub state: AttemptState,
}

/// Liveness and health. Percentages are 0 to 100 unless said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heartbeat {
    /// Counted per session from 1.
    pub seq: HeartbeatSeq,
    /// The heartbeat whose lease grant is held; 0 without a lease.
    pub lease_echo: HeartbeatSeq,
    /// Slots not in use.
    pub slots_free: u16,
    /// Attempts whose process exists.
    pub running: u16,
    /// Attempts taken and not begun.
    pub queued: u16,
    /// What keeps the agent from starting work.
    pub flags: Flags,
    /// The host's and the agent's numbers.
    pub health: Health,
}

/// What keeps an agent from starting work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Flags {
    /// The site's kill switch.
    pub paused: bool,
    /// Finishing what runs, taking nothing new.
    pub draining: bool,
    /// Records what it would do, runs nothing.
    pub observe: bool,
    /// The orchestrator's database went back in time.
    pub hold: bool,
}

/// The host's and the agent's numbers, sampled by the runner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Health {
    /// Processor time in use since the last sample, over all processors.
    pub cpu_percent: u8,
    /// Memory not available.
    pub memory_percent: u8,
    /// Space in use where the agent keeps its state.
    pub disk_percent: u8,
    /// One-minute load average per processor, in percent; at most 4095.
    pub load_percent: u16,
    /// The kernel's ten-second "some" CPU pressure.
    pub pressure_percent: u8,
    /// Seconds since the host started.
    pub uptime_s: u32,
    /// Whole days until the agent's certificate ends; at most 4095.
    pub certificate_days_left: u16,
    /// Instructions refused since the last heartbeat; saturates.
    pub refusals: u16,
    /// Ledger's share of its limit.
    pub ledger_percent: u8,
    /// Logs' share of their limit.
    pub log_percent: u8,
}

/// From the orchestrator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DownMessage {
    /// Answer to Hello.
    Welcome(Welcome),
    /// Start this once.
    Assign(Assign),
    /// A command that is not an assignment.
    Directive {
        /// From the agent's command counter.
        command_seq: CommandSeq,
        /// What to do.
        directive: Directive,
    },
    /// What is durable and how long work may be started.
    Granted(Granted),
}

/// The session exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Welcome {
    /// The version to speak.
    pub protocol: u8,
    /// Which session this is.
    pub session_epoch: SessionEpoch,
    /// Which life of the database.
    pub recovery: RecoveryEpoch,
    /// For the next Hello.
    pub next_nonce: Nonce,
    /// The highest event durable.
    pub highest_event_seq: EventSeq,
    /// Milliseconds between heartbeats.
    pub heartbeat_interval_ms: u32,
    /// Milliseconds of a lease.
    pub lease_ms: u32,
    /// Microseconds since 1970.
    pub server_time_us: u64,
}

/// Start this once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assign {
    /// Random, never reused.
    pub attempt: AttemptId,
    /// Its run.
    pub run: RunId,
    /// Its task.
    pub task: TaskIndex,
    /// Handed to the task as `OUTPOST_FENCE`.
    pub fence: Fence,
    /// From the agent's command counter.
    pub command_seq: CommandSeq,
    /// What to run, by the site's own name.
    pub entry: EntryName,
    /// The catalogue it was chosen under.
    pub catalogue_version: CatalogueVersion,
    /// At most [`crate::limits::PARAMETERS`], in order of name.
    pub parameters: Vec<(ParamName, ParamValue)>,
    /// Milliseconds it may run; `None` leaves it to the entry. The shorter one counts.
    pub deadline_ms: Option<u64>,
    /// For the site's display and `OUTPOST_TASK`.
    pub task_name: TaskName,
    /// For the site's display and `OUTPOST_WORKFLOW`.
    pub workflow_name: WorkflowName,
}

/// A parameter's value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum ParamValue {
    /// `true` or `false`.
    Flag(bool),
    /// A whole number.
    Integer(i64),
    /// Text; at most 4096 bytes, without NUL.
    Text(String),
}

/// A command that is not an assignment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Directive {
    /// Go on with this attempt.
    Keep(AttemptId),
    /// End this attempt's whole tree, or do not start it.
    Cancel(AttemptId),
    /// Nothing more is to be said about it.
    Forget(AttemptId),
    /// Finish what runs, take nothing new.
    Drain,
    /// Take nothing new until uncordoned.
    Cordon,
    /// Take work again.
    Uncordon,
    /// Evidence for the ledger.
    Receipt(Receipt),
    /// Get a new certificate now.
    RenewNow,
    /// The directives that follow from one inventory are complete.
    Reconciled,
}

/// The orchestrator's signature over what it received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// Of this session.
    pub session_epoch: SessionEpoch,
    /// How many frames the head covers.
    pub frame_count: u64,
    /// SHA-256 chain head.
    pub head: [u8; 32],
    /// ECDSA P-256, DER, at most 80 bytes.
    pub signature: Vec<u8>,
    /// The same over the agent's tenant and name as well; empty from an orchestrator that is too old to say it.
    pub named_signature: Vec<u8>,
    /// The same once more, with the sessions before; `None` from an orchestrator that is too old to say them.
    pub linked: Option<Linked>,
}

/// Which sessions of the agent came before, signed together with a receipt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Linked {
    /// The first session of this agent of which the signer knows: since its start, or the agent's enrolment.
    pub since: SessionEpoch,
    /// The newest ones before the receipt's, at most [`RECEIPT_SESSIONS`](crate::limits::RECEIPT_SESSIONS), ascending.
    pub before: Vec<SessionEnd>,
    /// ECDSA P-256, DER, at most 80 bytes, over all of it.
    pub signature: Vec<u8>,
}

/// How far one session was received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionEnd {
    /// Which.
    pub session_epoch: SessionEpoch,
    /// How many frames.
    pub frame_count: u64,
    /// SHA-256 chain head over them.
    pub head: [u8; 32],
}

/// What is durable and how long work may be started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Granted {
    /// The highest event durable; 0 says nothing.
    pub highest_event_seq: EventSeq,
    /// A lease: the heartbeat it answers and its milliseconds from when that was sent.
    pub lease: Option<(HeartbeatSeq, u32)>,
}
