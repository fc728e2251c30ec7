//! Runs: lists, trees, cancel, re-run.

use std::sync::Arc;

use axum::extract::State;
use outpost_orchestrator_core::event::{Answer, Ask, Denied};
use outpost_orchestrator_core::spec::TASKS;
use outpost_proto::ids::RunId;
use outpost_proto::name::{TaskName, TenantName};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::answer::Found;
use super::input::{Asked, By, Json, Named, missing};
use super::problem::ApiError;
use super::{Api, schema, view};
use crate::driver::AskError;
use crate::store::read::{RunFilter, RunTree};

/// Which runs, and which page of them.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct WhichRuns {
    /// Of this workflow.
    #[schemars(with = "Option<schema::WorkflowName>")]
    workflow: Option<String>,
    /// In this state.
    #[schemars(with = "Option<schema::RunState>")]
    state: Option<String>,
    #[schemars(with = "Option<schema::PageLimit>")]
    limit: Option<u32>,
    #[schemars(with = "Option<schema::RunCursor>")]
    cursor: Option<String>,
}

/// A page of runs.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct RunList {
    items: Vec<view::RunItem>,
    #[schemars(with = "Option<schema::Cursor>")]
    next: Option<String>,
}

/// `GET /api/v1/runs`
pub(super) async fn list(
    State(api): State<Arc<Api>>,
    By(caller): By,
    Asked(which): Asked<WhichRuns>,
) -> Result<Found<RunList>, ApiError> {
    let workflow = which.workflow.map(|name| name.parse()).transpose();
    let workflow = workflow.map_err(|error| ApiError::BadRequest(format!("workflow: {error}")))?;
    let state = which.state.map(|word| {
        let why = || {
            format!(
                "state={} is none of {}",
                view::shown(&word),
                view::RUN_STATES.join(", ")
            )
        };
        view::run_state_of(&word).ok_or_else(|| ApiError::BadRequest(why()))
    });
    let filter = RunFilter {
        workflow,
        state: state.transpose()?,
        ..RunFilter::default()
    };
    let limit = view::limit(which.limit, view::ITEMS)?;
    let page = api
        .state
        .reader
        .runs(&caller.tenant, &filter, which.cursor.as_deref(), limit)
        .await?;
    Ok(Found(RunList {
        items: page.items.into_iter().map(view::run_item).collect(),
        next: page.next,
    }))
}

/// A run with its tasks.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct RunDetail {
    #[serde(flatten)]
    item: view::RunItem,
    tasks: Vec<view::TaskView>,
}

/// `GET /api/v1/runs/{run}`
pub(super) async fn show(
    State(api): State<Arc<Api>>,
    By(caller): By,
    Named(run): Named<RunId>,
) -> Result<Found<RunDetail>, ApiError> {
    let tree = tree(&api, &caller.tenant, run).await?;
    let tasks = view::tasks(&tree);
    Ok(Found(RunDetail {
        item: view::run_item(tree.run),
        tasks,
    }))
}

/// A run as the database has it.
pub(super) async fn tree(api: &Api, tenant: &TenantName, run: RunId) -> Result<RunTree, ApiError> {
    api.state
        .reader
        .run(tenant, run)
        .await?
        .ok_or_else(|| missing("run", &run.to_string()))
}

/// Where a run stands that was asked to end.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct CancelView {
    #[schemars(with = "schema::RunState")]
    state: &'static str,
    /// Attempts whose end is not yet known.
    pending: u32,
}

/// `POST /api/v1/runs/{run}/cancel`
pub(super) async fn cancel(
    State(api): State<Arc<Api>>,
    By(caller): By,
    Named(run): Named<RunId>,
) -> Result<Found<CancelView>, ApiError> {
    let ask = Ask::Cancel { run };
    match api.state.handle.ask(caller.tenant.clone(), ask).await {
        Ok(answer) => {
            let Answer::Cancelled { state, pending } = answer else {
                return Err(ApiError::Internal);
            };
            Ok(Found(CancelView {
                state: view::run_state(state),
                pending,
            }))
        }
        // The core knows live runs only; what is over is in the database.
        Err(AskError::Denied(Denied::UnknownRun(_) | Denied::RunOver { .. })) => {
            let state = view::run_state(tree(&api, &caller.tenant, run).await?.run.state);
            Err(ApiError::RunOver {
                run: run.to_string(),
                state,
            })
        }
        Err(error @ (AskError::Denied(_) | AskError::Unavailable | AskError::Overloaded)) => {
            Err(error.into())
        }
    }
}

/// What is to run again.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct WhatAgain {
    /// These and everything that needs them; without it all that did not succeed.
    #[schemars(with = "Option<Vec<schema::TaskName>>", length(min = 1, max = TASKS))]
    tasks: Option<Vec<String>>,
}

/// What runs again.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct AgainView {
    #[schemars(with = "schema::Id")]
    run: RunId,
    /// In the order of the workflow.
    #[schemars(with = "Vec<schema::TaskName>")]
    tasks: Vec<TaskName>,
}

/// `POST /api/v1/runs/{run}/rerun`
pub(super) async fn rerun(
    State(api): State<Arc<Api>>,
    By(caller): By,
    Named(run): Named<RunId>,
    Json(what): Json<WhatAgain>,
) -> Result<Found<AgainView>, ApiError> {
    let tasks = what.tasks.map(names).transpose()?;
    let ask = Ask::Rerun {
        run,
        tasks,
        stored: None,
    };
    let Answer::Rerun { tasks } = api.state.handle.ask(caller.tenant, ask).await? else {
        return Err(ApiError::Internal);
    };
    Ok(Found(AgainView { run, tasks }))
}

fn names(texts: Vec<String>) -> Result<Vec<TaskName>, ApiError> {
    let bad = |place: Option<usize>, why: String| ApiError::Value {
        path: place.map_or("tasks".to_owned(), |place| format!("tasks[{place}]")),
        why,
    };
    if texts.is_empty() || texts.len() > TASKS {
        let why = format!("names 1 to {TASKS} tasks; leave it out for all that did not succeed");
        return Err(bad(None, why));
    }
    let parsed = texts.iter().enumerate().map(|(place, text)| {
        text.parse()
            .map_err(|error| bad(Some(place), format!("{error}")))
    });
    parsed.collect()
}
