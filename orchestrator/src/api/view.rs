//! How things look in JSON. Every word and every field of an answer is written here or beside its route, so that a
//! change of the core changes no answer by accident.

use std::collections::BTreeMap;

use outpost_orchestrator_core::record::{
    AttemptRecord, Phase, Presence, RunRecord, RunState, TaskRecord, TaskState,
};
use outpost_orchestrator_core::spec::{ParamKind, ParamSpec, WorkflowSpec};
use outpost_proto::ids::{AttemptId, RunId, TaskIndex};
use outpost_proto::message::ParamValue;
use outpost_proto::name::{AgentName, ParamName, TaskName, WorkflowName};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Serialize;

use super::problem::ApiError;
use super::schema;
use crate::store::read::{PAGE, RunTree};

/// Items of a page, when nothing is said.
pub(super) const ITEMS: u32 = 50;

/// How many items a page has.
pub(super) fn limit(given: Option<u32>, default: u32) -> Result<u32, ApiError> {
    match given.unwrap_or(default) {
        limit @ 1..=PAGE => Ok(limit),
        other => Err(ApiError::BadRequest(format!(
            "limit={other} is not between 1 and {PAGE}"
        ))),
    }
}

/// Words of a run's states.
pub(super) const RUN_STATES: [&str; 5] =
    ["running", "cancelling", "succeeded", "failed", "cancelled"];
/// Words of an attempt's states.
pub(super) const ATTEMPT_STATES: [&str; 5] =
    ["assigned", "starting", "running", "finished", "lost"];
/// Words of a task's states; while it is active it is told by its attempt's word.
pub(super) const TASK_STATES: [&str; 12] = [
    "waiting",
    "queued",
    "backoff",
    "active",
    "assigned",
    "starting",
    "running",
    "lost",
    "succeeded",
    "failed",
    "upstream_failed",
    "cancelled",
];
/// Words of an agent's presence.
pub(super) const PRESENCES: [&str; 4] = ["enrolled", "live", "stale", "removed"];

/// A moment: `2026-03-01T12:00:00.000000Z`.
pub(super) fn time(micros: u64) -> String {
    let time = i64::try_from(micros)
        .ok()
        .and_then(|micros| jiff::Timestamp::from_microsecond(micros).ok());
    time.map_or_else(
        || "9999-12-30T22:00:00.000000Z".to_owned(),
        |time| format!("{time:.6}"),
    )
}

/// What was given, fit for a message.
pub(super) fn shown(text: &str) -> String {
    text.chars()
        .take(80)
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}

/// From one moment to another, in milliseconds.
pub(super) fn between(from: u64, to: u64) -> u64 {
    to.saturating_sub(from) / 1000
}

/// A run's state in one word.
pub(super) fn run_state(state: RunState) -> &'static str {
    match state {
        RunState::Running => "running",
        RunState::Cancelling => "cancelling",
        RunState::Succeeded => "succeeded",
        RunState::Failed => "failed",
        RunState::Cancelled => "cancelled",
    }
}

/// The way back from [`run_state`].
pub(super) fn run_state_of(word: &str) -> Option<RunState> {
    let all = [
        RunState::Running,
        RunState::Cancelling,
        RunState::Succeeded,
        RunState::Failed,
        RunState::Cancelled,
    ];
    all.into_iter().find(|state| run_state(*state) == word)
}

/// Whether nothing of a run changes any more.
pub(super) fn is_over(state: RunState) -> bool {
    match state {
        RunState::Running | RunState::Cancelling => false,
        RunState::Succeeded | RunState::Failed | RunState::Cancelled => true,
    }
}

/// A task's state in one word; `phase` is that of its attempt, if it has a live one.
pub(super) fn task_state(state: TaskState, phase: Option<Phase>) -> &'static str {
    match state {
        TaskState::Waiting => "waiting",
        TaskState::Queued { .. } => "queued",
        TaskState::Backoff { .. } => "backoff",
        TaskState::Active { .. } => match phase.map(phase_word) {
            // Its end is about to become the task's.
            Some("finished") => "running",
            Some(word) => word,
            None => "active",
        },
        TaskState::Succeeded => "succeeded",
        TaskState::Failed { .. } => "failed",
        TaskState::UpstreamFailed => "upstream_failed",
        TaskState::Cancelled => "cancelled",
    }
}

/// How a task, or its last attempt, ended.
pub(super) fn task_outcome(state: TaskState) -> Option<String> {
    match state {
        TaskState::Failed { outcome } | TaskState::Backoff { last: outcome, .. } => {
            Some(outcome.to_string())
        }
        TaskState::Waiting
        | TaskState::Queued { .. }
        | TaskState::Active { .. }
        | TaskState::Succeeded
        | TaskState::UpstreamFailed
        | TaskState::Cancelled => None,
    }
}

/// An attempt's phase in one word.
pub(super) fn phase_word(phase: Phase) -> &'static str {
    match phase {
        Phase::Assigned | Phase::Accepted => "assigned",
        Phase::Starting => "starting",
        Phase::Running => "running",
        Phase::Finished { .. } => "finished",
        Phase::Lost { .. } => "lost",
    }
}

/// How an attempt ended, once that is known.
pub(super) fn phase_outcome(phase: Phase) -> Option<String> {
    match phase {
        Phase::Finished { report } => Some(report.outcome.to_string()),
        Phase::Assigned
        | Phase::Accepted
        | Phase::Starting
        | Phase::Running
        | Phase::Lost { .. } => None,
    }
}

/// An agent's presence in one word.
pub(super) fn presence(presence: Presence) -> &'static str {
    match presence {
        Presence::Enrolled => "enrolled",
        Presence::Live => "live",
        Presence::Stale => "stale",
        Presence::Removed => "removed",
    }
}

/// Names of some tasks of a workflow.
pub(super) fn names<'a>(spec: &'a WorkflowSpec, tasks: &[TaskIndex]) -> Vec<&'a TaskName> {
    tasks
        .iter()
        .filter_map(|task| spec.tasks.get(usize::from(task.0)))
        .map(|task| &task.name)
        .collect()
}

/// What a run can be given.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct ParamView {
    #[schemars(schema_with = "param_kinds")]
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    min: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    values: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_length: Option<u32>,
    /// Without one a value must be given.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "param_value")]
    default: Option<ParamValue>,
}

fn param_kinds(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "enum": ["flag", "date", "int", "enum", "text"] })
}

fn param_value(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": ["boolean", "integer", "string"] })
}

/// One parameter of a workflow.
pub(super) fn param(spec: &ParamSpec) -> ParamView {
    let default = spec.default.clone();
    let mut view = ParamView {
        kind: "",
        min: None,
        max: None,
        values: None,
        max_length: None,
        default,
    };
    view.kind = match &spec.kind {
        ParamKind::Flag => "flag",
        ParamKind::Date => "date",
        ParamKind::Int { min, max } => {
            (view.min, view.max) = (Some(*min), Some(*max));
            "int"
        }
        ParamKind::Enum { values } => {
            view.values = Some(values.clone());
            "enum"
        }
        ParamKind::Text { max_length } => {
            view.max_length = Some(*max_length);
            "text"
        }
    };
    view
}

/// A run in a list.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct RunItem {
    #[schemars(with = "schema::Id")]
    run: RunId,
    #[schemars(with = "schema::WorkflowName")]
    workflow: WorkflowName,
    version: u32,
    #[schemars(with = "schema::RunState")]
    state: &'static str,
    /// The agent all its tasks run on, once the first was placed.
    #[schemars(with = "Option<schema::AgentName>")]
    agent: Option<AgentName>,
    /// The instant of the schedule that made it; null when it was triggered.
    #[schemars(with = "Option<schema::Time>")]
    scheduled_for: Option<String>,
    /// How often tasks of it were run again after it was over.
    reruns: u16,
    #[schemars(with = "schema::Time")]
    created_at: String,
    /// When its first task started.
    #[schemars(with = "Option<schema::Time>")]
    started_at: Option<String>,
    #[schemars(with = "Option<schema::Time>")]
    finished_at: Option<String>,
    duration_ms: Option<u64>,
    /// With defaults filled in.
    #[schemars(with = "schema::ParamValues")]
    params: BTreeMap<ParamName, ParamValue>,
}

/// One run of a list.
pub(super) fn run_item(run: RunRecord) -> RunItem {
    RunItem {
        run: run.run,
        state: run_state(run.state),
        workflow: run.workflow,
        version: run.version,
        agent: run.agent,
        scheduled_for: run.scheduled_for.map(time),
        reruns: run.reruns,
        created_at: time(run.created_at),
        started_at: run.started_at.map(time),
        finished_at: run.finished_at.map(time),
        duration_ms: run.finished_at.map(|at| between(run.created_at, at)),
        params: run.params,
    }
}

/// A task of a run.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct TaskView {
    #[schemars(with = "schema::TaskName")]
    task: TaskName,
    /// Its place in the workflow, counted from 0.
    index: u16,
    #[schemars(with = "schema::EntryName")]
    entry: String,
    #[schemars(with = "Vec<schema::TaskName>")]
    needs: Vec<TaskName>,
    #[schemars(with = "schema::TaskState")]
    state: &'static str,
    /// How it, or its last attempt, ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    outcome: Option<String>,
    attempts: Vec<AttemptView>,
}

/// An attempt, wherever it is shown.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct AttemptView {
    #[schemars(with = "schema::Id")]
    attempt: AttemptId,
    #[schemars(with = "schema::AgentName")]
    agent: AgentName,
    /// Counted from 1 within its task.
    #[schemars(range(min = 1))]
    number: usize,
    #[schemars(with = "schema::AttemptState")]
    state: &'static str,
    cancel_requested: bool,
    /// How it ended, such as `succeeded`, `failed` or `killed{oom}`.
    #[serde(skip_serializing_if = "Option::is_none")]
    outcome: Option<String>,
    /// Whether anything of it may have run.
    #[serde(skip_serializing_if = "Option::is_none")]
    may_have_started: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    exit_code: Option<u8>,
    #[schemars(with = "schema::Time")]
    assigned_at: String,
    #[schemars(with = "Option<schema::Time>")]
    started_at: Option<String>,
    #[schemars(with = "Option<schema::Time>")]
    finished_at: Option<String>,
    /// From an agent that reports strictly it is the power of two above the time that the attempt took, 1024 at least.
    duration_ms: Option<u64>,
    /// How it ended, said after it had been given up.
    #[serde(skip_serializing_if = "Option::is_none")]
    late: Option<String>,
    /// Its agent told of it after a restore: the backup did not know it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    recovered: bool,
    /// A person said that it is over, and how they know.
    #[serde(skip_serializing_if = "Option::is_none")]
    asserted_dead: Option<AssertedDead>,
}

/// A person's word that an attempt is over.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct AssertedDead {
    /// The public part of the person's token.
    by: String,
    #[schemars(with = "schema::Time")]
    at: String,
    reason: String,
}

/// One attempt; `number` counts those of its task from 1.
pub(super) fn attempt(record: &AttemptRecord, number: usize) -> AttemptView {
    let (outcome, may_have_started, exit_code, duration_ms) = match record.phase {
        Phase::Finished { report } => {
            let outcome = Some(report.outcome.to_string());
            (
                outcome,
                Some(report.may_have_started),
                report.exit_code,
                Some(report.duration_ms),
            )
        }
        Phase::Lost { may_have_started } => (None, Some(may_have_started), None, None),
        Phase::Assigned | Phase::Accepted | Phase::Starting | Phase::Running => {
            (None, None, None, None)
        }
    };
    AttemptView {
        attempt: record.attempt,
        agent: record.agent.clone(),
        number,
        state: phase_word(record.phase),
        cancel_requested: record.cancel_requested,
        outcome,
        may_have_started,
        exit_code,
        assigned_at: time(record.assigned_at),
        started_at: record.started_at.map(time),
        finished_at: record.finished_at.map(time),
        duration_ms,
        late: record.late.map(|report| report.outcome.to_string()),
        recovered: record.recovered,
        asserted_dead: record.asserted.as_ref().map(|asserted| AssertedDead {
            by: asserted.by.clone(),
            at: time(asserted.at),
            reason: asserted.reason.clone(),
        }),
    }
}

/// A run's tasks with their attempts.
pub(super) fn tasks(tree: &RunTree) -> Vec<TaskView> {
    let mut attempts: Vec<Vec<&AttemptRecord>> = vec![Vec::new(); tree.workflow.spec.tasks.len()];
    for attempt in &tree.attempts {
        if let Some(of_task) = attempts.get_mut(usize::from(attempt.task.0)) {
            of_task.push(attempt);
        }
    }
    let task = |record: &TaskRecord| {
        let place = usize::from(record.task.0);
        let (spec, attempts) = tree
            .workflow
            .spec
            .tasks
            .get(place)
            .zip(attempts.get(place))?;
        let active = match record.state {
            TaskState::Active { attempt } => attempts.iter().find(|known| known.attempt == attempt),
            TaskState::Waiting
            | TaskState::Queued { .. }
            | TaskState::Backoff { .. }
            | TaskState::Succeeded
            | TaskState::Failed { .. }
            | TaskState::UpstreamFailed
            | TaskState::Cancelled => None,
        };
        let numbered = attempts
            .iter()
            .enumerate()
            .map(|(place, record)| attempt(record, place + 1));
        Some(TaskView {
            task: spec.name.clone(),
            index: record.task.0,
            entry: spec.entry.to_string(),
            needs: names(&tree.workflow.spec, &spec.needs)
                .into_iter()
                .cloned()
                .collect(),
            state: task_state(record.state, active.map(|attempt| attempt.phase)),
            outcome: task_outcome(record.state),
            attempts: numbered.collect(),
        })
    };
    tree.tasks.iter().filter_map(task).collect()
}
