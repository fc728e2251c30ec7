//! Schedules: what they are, when they come next, pause and resume.

use std::sync::Arc;

use axum::extract::State;
use outpost_orchestrator_core::event::{Answer, Ask};
use outpost_orchestrator_core::limits::UPCOMING;
use outpost_orchestrator_core::spec::{Missed, ScheduleSpec, When};
use outpost_proto::name::WorkflowName;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::answer::Found;
use super::input::{Asked, By, Named};
use super::problem::ApiError;
use super::{Api, schema, view};
use crate::auth::Caller;

/// Instants that are told when nothing is said.
const COUNT: u16 = 10;

/// When runs are made without anybody asking.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct ScheduleView {
    /// Five fields, or a nickname such as `@daily`; or else `every_ms`.
    #[serde(skip_serializing_if = "Option::is_none")]
    cron: Option<String>,
    /// Milliseconds from one to the next; or else `cron`.
    #[serde(skip_serializing_if = "Option::is_none")]
    every_ms: Option<u64>,
    /// IANA name.
    timezone: String,
    /// No instant before.
    #[schemars(with = "Option<schema::Time>")]
    start: Option<String>,
    /// No instant after.
    #[schemars(with = "Option<schema::Time>")]
    end: Option<String>,
    /// What becomes of instants that passed while the orchestrator was not there.
    #[schemars(schema_with = "missed_words")]
    missed: &'static str,
}

fn missed_words(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({ "type": "string", "enum": ["skip", "latest", "all"] })
}

impl From<&ScheduleSpec> for ScheduleView {
    fn from(spec: &ScheduleSpec) -> Self {
        let (cron, every_ms) = match &spec.when {
            When::Cron { expression } => (Some(expression.clone()), None),
            When::Every { ms } => (None, Some(*ms)),
        };
        Self {
            cron,
            every_ms,
            timezone: spec.timezone.clone(),
            start: spec.start.map(view::time),
            end: spec.end.map(view::time),
            missed: match spec.missed {
                Missed::Skip => "skip",
                Missed::Latest => "latest",
                Missed::All => "all",
            },
        }
    }
}

/// Whether a workflow makes scheduled runs.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct PausedView {
    paused: bool,
    /// When its next scheduled run is made.
    #[schemars(with = "Option<schema::Time>")]
    next_run_at: Option<String>,
}

/// `POST /api/v1/workflows/{name}/pause`
pub(super) async fn pause(
    State(api): State<Arc<Api>>,
    By(caller): By,
    Named(workflow): Named<WorkflowName>,
) -> Result<Found<PausedView>, ApiError> {
    set(&api, caller, workflow, true).await
}

/// `POST /api/v1/workflows/{name}/resume`
pub(super) async fn resume(
    State(api): State<Arc<Api>>,
    By(caller): By,
    Named(workflow): Named<WorkflowName>,
) -> Result<Found<PausedView>, ApiError> {
    set(&api, caller, workflow, false).await
}

async fn set(
    api: &Api,
    caller: Caller,
    workflow: WorkflowName,
    paused: bool,
) -> Result<Found<PausedView>, ApiError> {
    let ask = Ask::PauseWorkflow { workflow, paused };
    let Answer::Paused { paused, next } = api.state.handle.ask(caller.tenant, ask).await? else {
        return Err(ApiError::Internal);
    };
    Ok(Found(PausedView {
        paused,
        next_run_at: next.map(view::time),
    }))
}

/// How many instants.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct HowMany {
    #[schemars(range(min = 1, max = UPCOMING))]
    count: Option<u16>,
}

/// Instants, ascending.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Instants {
    #[schemars(with = "Vec<schema::Time>")]
    items: Vec<String>,
}

/// `GET /api/v1/workflows/{name}/upcoming`
pub(super) async fn upcoming(
    State(api): State<Arc<Api>>,
    By(caller): By,
    Named(workflow): Named<WorkflowName>,
    Asked(how): Asked<HowMany>,
) -> Result<Found<Instants>, ApiError> {
    let count = how.count.unwrap_or(COUNT);
    if !(1..=UPCOMING).contains(&count) {
        let why = format!("count={count} is not between 1 and {UPCOMING}");
        return Err(ApiError::BadRequest(why));
    }
    let ask = Ask::Upcoming { workflow, count };
    let Answer::Upcoming(instants) = api.state.handle.ask(caller.tenant, ask).await? else {
        return Err(ApiError::Internal);
    };
    Ok(Found(Instants {
        items: instants.into_iter().map(view::time).collect(),
    }))
}
