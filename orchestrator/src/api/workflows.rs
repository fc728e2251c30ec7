//! Workflows: apply, look at, trigger, delete.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::State;
use outpost_orchestrator_core::event::{Answer, Applied, Ask, WorkflowView};
use outpost_orchestrator_core::record::WorkflowRecord;
use outpost_proto::ids::RunId;
use outpost_proto::message::ParamValue;
use outpost_proto::name::{ParamName, TenantName, WorkflowName};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tokio::task::spawn_blocking;

use super::answer::{Done, Made, Tagged, Version};
use super::input::{Asked, By, Json, Named, Yaml, integral, missing};
use super::preconditions::{Expected, IfNoneMatch, Key, Match};
use super::problem::ApiError;
use super::schedules::ScheduleView;
use super::{Api, schema, versions, view};
use crate::workflow;

/// How a file is applied.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct HowToApply {
    /// Accept entries that no agent announces.
    #[serde(default)]
    allow_unknown_entries: bool,
    /// Only tell what it would do.
    #[serde(default)]
    dry_run: bool,
}

/// What an apply did.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(example = serde_json::json!({ "name": "nightly", "version": 3, "result": "updated", "warnings": [] }))]
pub(super) struct AppliedView {
    #[schemars(with = "schema::WorkflowName")]
    name: WorkflowName,
    /// The current version; with `dry_run` the one it would be.
    version: u32,
    /// What it took.
    #[schemars(schema_with = "applied_words")]
    result: &'static str,
    /// What may not work yet, one sentence each.
    warnings: Vec<String>,
    /// Nothing was changed: it was only to be told.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    dry_run: bool,
}

fn applied_words(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({ "type": "string", "enum": ["created", "updated", "unchanged"] })
}

/// `POST /api/v1/workflows`
pub(super) async fn apply(
    State(api): State<Arc<Api>>,
    By(caller): By,
    Asked(how): Asked<HowToApply>,
    Expected(expected_version): Expected,
    Yaml(source): Yaml,
) -> Result<Version<AppliedView>, ApiError> {
    // A large file takes milliseconds, in which nobody else shall wait.
    let parsed = spawn_blocking(move || workflow::parse(&source).map(|spec| (spec, source)));
    let (spec, source) = parsed.await.map_err(|_| ApiError::Internal)??;
    let name = spec.name.clone();
    let ask = Ask::Apply {
        spec,
        source,
        allow_unknown_entries: how.allow_unknown_entries,
        dry_run: how.dry_run,
        expected_version,
    };
    let Answer::Applied {
        version,
        applied,
        warnings,
    } = api.state.handle.ask(caller.tenant, ask).await?
    else {
        return Err(ApiError::Internal);
    };
    let result = match applied {
        Applied::Created => "created",
        Applied::Updated => "updated",
        Applied::Unchanged => "unchanged",
    };
    Ok(Version {
        created: applied == Applied::Created && !how.dry_run,
        version: if how.dry_run { 0 } else { version },
        answer: AppliedView {
            name,
            version,
            result,
            warnings,
            dry_run: how.dry_run,
        },
    })
}

/// A workflow in a list.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct WorkflowItem {
    #[schemars(with = "schema::WorkflowName")]
    name: WorkflowName,
    version: u32,
    description: String,
    /// How many it has.
    tasks: usize,
    #[schemars(with = "schema::Time")]
    applied_at: String,
    #[serde(flatten)]
    live: LiveView,
    schedule: Option<ScheduleView>,
}

/// What a workflow does now.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct LiveView {
    /// Whether it makes no scheduled runs while a person wants so.
    paused: bool,
    /// When its next scheduled run is made.
    #[schemars(with = "Option<schema::Time>")]
    next_run_at: Option<String>,
    /// Runs that are not over.
    active_runs: usize,
    /// Tasks that could be placed.
    queued_tasks: usize,
    /// Tasks with a live attempt.
    active_tasks: usize,
}

impl From<&WorkflowView> for LiveView {
    fn from(view: &WorkflowView) -> Self {
        Self {
            paused: view.paused,
            next_run_at: view.next.map(view::time),
            active_runs: view.active_runs,
            queued_tasks: view.queued_tasks,
            active_tasks: view.active_tasks,
        }
    }
}

/// A page of workflows.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct WorkflowList {
    items: Vec<WorkflowItem>,
    #[schemars(with = "Option<schema::Cursor>")]
    next: Option<String>,
}

/// Which page of workflows.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct WhichWorkflows {
    #[schemars(with = "Option<schema::PageLimit>")]
    limit: Option<u32>,
    #[schemars(with = "Option<schema::NameCursor>")]
    cursor: Option<String>,
}

/// What the core says of a tenant's workflows, by name.
async fn live(
    api: &Api,
    tenant: &TenantName,
) -> Result<BTreeMap<WorkflowName, WorkflowView>, ApiError> {
    let Answer::Workflows(views) = api.state.handle.ask(tenant.clone(), Ask::Workflows).await?
    else {
        return Err(ApiError::Internal);
    };
    Ok(views
        .into_iter()
        .map(|view| (view.name.clone(), view))
        .collect())
}

/// `GET /api/v1/workflows`
pub(super) async fn list(
    State(api): State<Arc<Api>>,
    By(caller): By,
    Asked(which): Asked<WhichWorkflows>,
    known: IfNoneMatch,
) -> Result<Tagged<WorkflowList>, ApiError> {
    let limit = view::limit(which.limit, view::ITEMS)?;
    let page = api
        .state
        .reader
        .workflows(&caller.tenant, which.cursor.as_deref(), limit)
        .await?;
    let live = live(&api, &caller.tenant).await?;
    // What the core does not know was deleted.
    let item = |record: WorkflowRecord| {
        live.get(&record.spec.name)
            .map(|view| item(record, view.into()))
    };
    let answer = WorkflowList {
        items: page.items.into_iter().filter_map(item).collect(),
        next: page.next,
    };
    Ok(Tagged {
        version: None,
        answer,
        known,
    })
}

fn item(record: WorkflowRecord, live: LiveView) -> WorkflowItem {
    WorkflowItem {
        tasks: record.spec.tasks.len(),
        schedule: record.spec.schedule.as_ref().map(ScheduleView::from),
        name: record.spec.name,
        version: record.version,
        description: record.spec.description,
        applied_at: view::time(record.applied_at),
        live,
    }
}

/// A workflow.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct WorkflowDetail {
    #[serde(flatten)]
    version: versions::VersionView,
    #[serde(flatten)]
    live: LiveView,
}

/// `GET /api/v1/workflows/{name}`
pub(super) async fn show(
    State(api): State<Arc<Api>>,
    By(caller): By,
    Named(name): Named<WorkflowName>,
    known: IfNoneMatch,
) -> Result<Tagged<WorkflowDetail>, ApiError> {
    let live = live(&api, &caller.tenant).await?;
    let gone = || missing("workflow", name.as_str());
    let live = live.get(&name).ok_or_else(gone)?;
    let found = api
        .state
        .reader
        .workflow(&caller.tenant, &name, None)
        .await?;
    let version = versions::view_of(found.ok_or_else(gone)?);
    Ok(Tagged {
        version: Some(version.version),
        answer: WorkflowDetail {
            version,
            live: live.into(),
        },
        known,
    })
}

/// `DELETE /api/v1/workflows/{name}`
pub(super) async fn delete(
    State(api): State<Arc<Api>>,
    By(caller): By,
    Named(workflow): Named<WorkflowName>,
    Match(expected_version): Match,
) -> Result<Done, ApiError> {
    let ask = Ask::DeleteWorkflow {
        workflow,
        expected_version,
    };
    api.state.handle.ask(caller.tenant, ask).await?;
    Ok(Done)
}

/// A run to be made.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewRun {
    #[serde(default)]
    #[schemars(with = "schema::ParamValues")]
    params: Map<String, Value>,
}

/// A run that was made.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct RunMade {
    #[schemars(with = "schema::Id")]
    run: RunId,
}

/// `POST /api/v1/workflows/{name}/runs`
pub(super) async fn trigger(
    State(api): State<Arc<Api>>,
    By(caller): By,
    Named(workflow): Named<WorkflowName>,
    Key(key): Key,
    Json(new): Json<NewRun>,
) -> Result<Made<RunMade>, ApiError> {
    let ask = Ask::Trigger {
        workflow,
        params: values(new.params)?,
        key,
    };
    let Answer::Triggered { run, created } = api.state.handle.ask(caller.tenant, ask).await? else {
        return Err(ApiError::Internal);
    };
    Ok(Made {
        created,
        answer: RunMade { run },
    })
}

fn values(params: Map<String, Value>) -> Result<BTreeMap<ParamName, ParamValue>, ApiError> {
    let value = |(name, value): (String, Value)| {
        let bad = |why: String| ApiError::Value {
            path: format!("params.{}", view::shown(&name)),
            why,
        };
        let parsed: ParamName = name.parse().map_err(|error| bad(format!("{error}")))?;
        let value = match value {
            Value::Bool(flag) => ParamValue::Flag(flag),
            Value::Number(number) => {
                let whole = number
                    .as_i64()
                    .or_else(|| integral(&number))
                    .ok_or_else(|| bad(format!("{number} is not a whole number of 64 bits")))?;
                ParamValue::Integer(whole)
            }
            Value::String(text) => ParamValue::Text(text),
            Value::Null | Value::Array(_) | Value::Object(_) => {
                return Err(bad(
                    "is neither true, false, a whole number nor text".to_owned()
                ));
            }
        };
        Ok((parsed, value))
    };
    params.into_iter().map(value).collect()
}
