//! A workflow as it was applied: already parsed, validated and acyclic.

use std::collections::BTreeMap;

use outpost_proto::ids::TaskIndex;
use outpost_proto::limits::PARAMETER_TEXT_BYTES;
use outpost_proto::message::ParamValue;
use outpost_proto::name::{EntryName, ParamName, TaskName, WorkflowName};
use outpost_proto::units::is_date;
use serde::{Deserialize, Serialize};

use crate::label::{QueueName, Selector};

/// Tasks of one workflow.
pub const TASKS: usize = 1000;
/// Lowest and highest priority.
pub const PRIORITIES: (i8, i8) = (-100, 100);

/// One version of a workflow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkflowSpec {
    /// Its name within the tenant.
    pub name: WorkflowName,
    /// For people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// What a run can be given.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub params: BTreeMap<ParamName, ParamSpec>,
    /// In the order of the file; a task's place is its [`TaskIndex`]. Between 1 and [`TASKS`], acyclic.
    pub tasks: Vec<TaskSpec>,
    /// The queue of tasks that name none.
    #[serde(default, skip_serializing_if = "QueueName::is_default")]
    pub queue: QueueName,
    /// What the agent of every task must be labelled.
    #[serde(default, skip_serializing_if = "Selector::is_empty")]
    pub selector: Selector,
    /// Of tasks that name none; within [`PRIORITIES`], higher first.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub priority: i8,
    /// Runs that may have started tasks at once; `None` sets no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_active_runs: Option<u32>,
    /// Tasks active at once over all runs; `None` sets no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_active_tasks: Option<u32>,
    /// Whether the tasks of a run stay together.
    #[serde(default, skip_serializing_if = "Affinity::is_run")]
    pub affinity: Affinity,
    /// When runs are made without anybody asking.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule: Option<ScheduleSpec>,
}

impl WorkflowSpec {
    /// A workflow of these tasks with every other part as if it was not given.
    #[must_use]
    pub fn new(name: WorkflowName, tasks: Vec<TaskSpec>) -> Self {
        Self {
            name,
            description: String::new(),
            params: BTreeMap::new(),
            tasks,
            queue: QueueName::default(),
            selector: Selector::default(),
            priority: 0,
            max_active_runs: None,
            max_active_tasks: None,
            affinity: Affinity::Run,
            schedule: None,
        }
    }
}

fn is_zero(priority: &i8) -> bool {
    *priority == 0
}

/// Whether the tasks of a run stay together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Affinity {
    /// All tasks of a run go to one agent, so that they share the run's directory.
    #[default]
    Run,
    /// Each task goes where there is room.
    None,
}

impl Affinity {
    fn is_run(&self) -> bool {
        *self == Self::Run
    }
}

/// When runs of a workflow are made without anybody asking. Valid once `schedule::check` took it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScheduleSpec {
    /// The rule that instants follow.
    pub when: When,
    /// IANA name of the zone whose wall clock a cron expression is read on.
    pub timezone: String,
    /// No instant before; microseconds since 1970. Intervals are counted from here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<u64>,
    /// No instant after; microseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<u64>,
    /// What becomes of instants that passed while the orchestrator was not there.
    #[serde(default)]
    pub missed: Missed,
    /// For [`Missed::All`]: at most the newest so many, 1 to 100.
    pub missed_limit: u16,
    /// What scheduled runs are given.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub params: BTreeMap<ParamName, ParamValue>,
}

impl ScheduleSpec {
    /// This rule in UTC with every other part as if it was not given.
    #[must_use]
    pub fn new(when: When) -> Self {
        Self {
            when,
            timezone: "UTC".to_owned(),
            start: None,
            end: None,
            missed: Missed::Latest,
            missed_limit: 10,
            params: BTreeMap::new(),
        }
    }
}

/// The rule that instants follow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum When {
    /// Minutes of a wall clock.
    Cron {
        /// Five fields, or a nickname such as `@daily`.
        expression: String,
    },
    /// Again and again after this long.
    Every {
        /// Milliseconds, at least 1000.
        ms: u64,
    },
}

/// What becomes of instants that passed while the orchestrator was not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Missed {
    /// They make no run.
    Skip,
    /// The newest of them makes a run.
    #[default]
    Latest,
    /// Each makes a run, up to a bound.
    All,
}

/// One task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskSpec {
    /// Its name within the workflow.
    pub name: TaskName,
    /// The catalogue entry it runs.
    pub entry: EntryName,
    /// What must have succeeded before; places in [`WorkflowSpec::tasks`], sorted, without itself.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub needs: Vec<TaskIndex>,
    /// What the entry is given.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub with: BTreeMap<ParamName, Argument>,
    /// Further attempts.
    pub retry: Retry,
    /// Milliseconds one attempt may run; `None` leaves it to the entry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
    /// Where it waits; `None`: in the workflow's queue.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue: Option<QueueName>,
    /// What its agent must be labelled, besides what the workflow asks.
    #[serde(default, skip_serializing_if = "Selector::is_empty")]
    pub selector: Selector,
    /// Within [`PRIORITIES`]; `None`: the workflow's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<i8>,
    /// Attempts of this task active at once over all runs; `None` sets no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_active: Option<u32>,
}

impl TaskSpec {
    /// A task that runs this entry once, with every other part as if it was not given.
    #[must_use]
    pub fn new(name: TaskName, entry: EntryName) -> Self {
        Self {
            name,
            entry,
            needs: Vec::new(),
            with: BTreeMap::new(),
            retry: Retry {
                retries: 0,
                delay_ms: 1_000,
                max_delay_ms: 60_000,
            },
            timeout_ms: None,
            queue: None,
            selector: Selector::default(),
            priority: None,
            max_active: None,
        }
    }
}

/// What a parameter of a catalogue entry is given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Argument {
    /// Always this.
    Value(ParamValue),
    /// The run's parameter of this name.
    Param(ParamName),
}

/// Further attempts after one that ended without success.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retry {
    /// How many; 0 means one attempt in all.
    pub retries: u16,
    /// First delay in milliseconds; doubled each time, drawn with full jitter.
    pub delay_ms: u64,
    /// Longest delay in milliseconds.
    pub max_delay_ms: u64,
}

/// What a run's parameter accepts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ParamSpec {
    /// Its type and bounds.
    #[serde(flatten)]
    pub kind: ParamKind,
    /// Used when the run gives none; without it the parameter is required.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default: Option<ParamValue>,
}

/// Type and bounds of a parameter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum ParamKind {
    /// `true` or `false`.
    Flag,
    /// A whole number between two bounds, both included.
    Int {
        /// Lowest.
        min: i64,
        /// Highest.
        max: i64,
    },
    /// One of these texts.
    Enum {
        /// At least one.
        values: Vec<String>,
    },
    /// `YYYY-MM-DD`.
    Date,
    /// Free text; the site's own catalogue decides what of it is accepted there.
    Text {
        /// Most bytes; at most 4096.
        max_length: u32,
    },
}

impl ParamKind {
    /// Whether a parameter of this kind can have this value.
    #[must_use]
    pub fn accepts(&self, value: &ParamValue) -> bool {
        match (self, value) {
            (Self::Flag, ParamValue::Flag(_)) => true,
            (Self::Int { min, max }, ParamValue::Integer(number)) => (min..=max).contains(&number),
            (Self::Enum { values }, ParamValue::Text(text)) => values.contains(text),
            (Self::Date, ParamValue::Text(text)) => is_date(text),
            (Self::Text { max_length }, ParamValue::Text(text)) => {
                let most = usize::try_from(*max_length)
                    .unwrap_or(PARAMETER_TEXT_BYTES)
                    .min(PARAMETER_TEXT_BYTES);
                text.len() <= most && !text.contains('\0')
            }
            (Self::Flag, ParamValue::Integer(_) | ParamValue::Text(_))
            | (Self::Int { .. }, ParamValue::Flag(_) | ParamValue::Text(_))
            | (
                Self::Enum { .. } | Self::Date | Self::Text { .. },
                ParamValue::Flag(_) | ParamValue::Integer(_),
            ) => false,
        }
    }

    /// What it accepts, for people: follows "give" and "is not".
    #[must_use]
    pub fn expected(&self) -> String {
        match self {
            Self::Flag => "true or false".to_owned(),
            Self::Int { min, max } => format!("a whole number from {min} to {max}"),
            Self::Enum { values } => format!("one of {}", values.join(", ")),
            Self::Date => "a date of the form YYYY-MM-DD".to_owned(),
            Self::Text { max_length } => format!("text of at most {max_length} bytes without NUL"),
        }
    }
}
