//! A workflow as it was applied: already parsed, validated and acyclic.

use std::collections::BTreeMap;

use outpost_proto::ids::TaskIndex;
use outpost_proto::message::ParamValue;
use outpost_proto::name::{EntryName, ParamName, TaskName, WorkflowName};
use serde::{Deserialize, Serialize};

/// Tasks of one workflow.
pub const TASKS: usize = 1000;

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
