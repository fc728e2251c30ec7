//! How an attempt ended, and what is said about it.

use std::fmt;

use serde::{Deserialize, Serialize};

/// How an attempt ended. Terminal: the first accepted one stays, a later one is kept beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The task's process exited with 0 and its tree is gone.
    Succeeded,
    /// It exited with another code or by a signal of its own.
    Failed,
    /// It ran longer than its deadline; the whole tree was ended by the keeper.
    TimedOut,
    /// It was ended, or never started, because that was asked for.
    Cancelled,
    /// Nothing of the task ever ran.
    StartFailed(StartFailure),
    /// The agent's side ended it.
    Killed(KillReason),
    /// It ended with something around it.
    Interrupted(Interruption),
    /// The site did not start it.
    Refused(Refusal),
}

/// Why a process could not be started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StartFailure {
    /// The program does not exist.
    NotFound,
    /// Not executable, or the user may not.
    Permission,
    /// No process, memory or descriptors left.
    Resources,
    /// A secret could not be resolved.
    Secret,
    /// Anything else; the reason is in the site's log.
    Other,
}

/// Why the agent's side ended a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KillReason {
    /// Out of memory.
    Oom,
    /// The site's policy.
    Policy,
    /// `on_disconnect = "stop_after"` ran out.
    Lease,
    /// No disk space.
    Disk,
    /// The log cap, where the entry makes that an end.
    LogLimit,
    /// Its keeper died; the tree was ended.
    Keeper,
}

/// What interrupted a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Interruption {
    /// The host was started again.
    Reboot,
    /// The agent can no longer say what became of it.
    AgentStateLost,
    /// The container that held agent and task was started again.
    SidecarRestart,
}

/// Why the site did not start an attempt. Nothing of it ever ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Refusal {
    /// The catalogue has no such entry.
    UnknownEntry,
    /// A parameter is missing, unknown or outside its schema.
    BadParameters,
    /// Assigned under another version of the catalogue.
    CatalogueVersion,
    /// No live lease of the current session.
    NoLease,
    /// The site has paused.
    Paused,
    /// The agent is draining.
    Draining,
    /// More than the agent takes in advance.
    Full,
    /// `max_per_hour` is used up.
    Rate,
    /// Outside the entry's time windows.
    TimeWindow,
    /// The entry needs an approval that was not given.
    NotApproved,
    /// Too little disk space to run and report.
    Disk,
    /// The agent only observes.
    Observe,
    /// The orchestrator's database went back in time.
    Hold,
    /// Something this agent does not know.
    Unsupported,
}

impl Outcome {
    /// Whether this counts as the task's success.
    #[must_use]
    pub fn is_success(self) -> bool {
        self == Self::Succeeded
    }

    /// Every value, in a fixed order: for tables and tests.
    #[must_use]
    pub fn all() -> Vec<Self> {
        use Interruption as I;
        use KillReason as K;
        use Refusal as R;
        use StartFailure as S;
        let start = [
            S::NotFound,
            S::Permission,
            S::Resources,
            S::Secret,
            S::Other,
        ]
        .map(Self::StartFailed);
        let kill = [K::Oom, K::Policy, K::Lease, K::Disk, K::LogLimit, K::Keeper].map(Self::Killed);
        let interrupt = [I::Reboot, I::AgentStateLost, I::SidecarRestart].map(Self::Interrupted);
        let refuse = [
            R::UnknownEntry,
            R::BadParameters,
            R::CatalogueVersion,
            R::NoLease,
            R::Paused,
            R::Draining,
            R::Full,
            R::Rate,
            R::TimeWindow,
            R::NotApproved,
            R::Disk,
            R::Observe,
            R::Hold,
            R::Unsupported,
        ]
        .map(Self::Refused);
        let plain = [
            Self::Succeeded,
            Self::Failed,
            Self::TimedOut,
            Self::Cancelled,
        ];
        plain
            .into_iter()
            .chain(start)
            .chain(kill)
            .chain(interrupt)
            .chain(refuse)
            .collect()
    }
}

impl fmt::Display for Outcome {
    /// `succeeded`, `killed{keeper}`, `refused{bad_parameters}`: as in API, CLI, UI and docs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::TimedOut => "timed_out",
            Self::Cancelled => "cancelled",
            Self::StartFailed(StartFailure::NotFound) => "start_failed{not_found}",
            Self::StartFailed(StartFailure::Permission) => "start_failed{permission}",
            Self::StartFailed(StartFailure::Resources) => "start_failed{resources}",
            Self::StartFailed(StartFailure::Secret) => "start_failed{secret}",
            Self::StartFailed(StartFailure::Other) => "start_failed{other}",
            Self::Killed(KillReason::Oom) => "killed{oom}",
            Self::Killed(KillReason::Policy) => "killed{policy}",
            Self::Killed(KillReason::Lease) => "killed{lease}",
            Self::Killed(KillReason::Disk) => "killed{disk}",
            Self::Killed(KillReason::LogLimit) => "killed{log_limit}",
            Self::Killed(KillReason::Keeper) => "killed{keeper}",
            Self::Interrupted(Interruption::Reboot) => "interrupted{reboot}",
            Self::Interrupted(Interruption::AgentStateLost) => "interrupted{agent_state_lost}",
            Self::Interrupted(Interruption::SidecarRestart) => "interrupted{sidecar_restart}",
            Self::Refused(Refusal::UnknownEntry) => "refused{unknown_entry}",
            Self::Refused(Refusal::BadParameters) => "refused{bad_parameters}",
            Self::Refused(Refusal::CatalogueVersion) => "refused{catalogue_version}",
            Self::Refused(Refusal::NoLease) => "refused{no_lease}",
            Self::Refused(Refusal::Paused) => "refused{paused}",
            Self::Refused(Refusal::Draining) => "refused{draining}",
            Self::Refused(Refusal::Full) => "refused{full}",
            Self::Refused(Refusal::Rate) => "refused{rate}",
            Self::Refused(Refusal::TimeWindow) => "refused{time_window}",
            Self::Refused(Refusal::NotApproved) => "refused{not_approved}",
            Self::Refused(Refusal::Disk) => "refused{disk}",
            Self::Refused(Refusal::Observe) => "refused{observe}",
            Self::Refused(Refusal::Hold) => "refused{hold}",
            Self::Refused(Refusal::Unsupported) => "refused{unsupported}",
        };
        f.pad(text)
    }
}

/// An attempt's end as the agent reports it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// How it ended.
    pub outcome: Outcome,
    /// Whether any instruction of the task may have run.
    pub may_have_started: bool,
    /// From exec to the end of the whole tree, in milliseconds; 0 when it never ran. At most 2^36 - 1 (two years).
    pub duration_ms: u64,
    /// Only if the entry opted in.
    pub exit_code: Option<u8>,
    /// Only if the entry opted in: how many parts there are to fan out over.
    pub count: Option<u16>,
}
