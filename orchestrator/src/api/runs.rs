//! Runs and attempts: lists, trees, cancel.

use std::sync::Arc;

use axum::Json as Body;
use axum::extract::State;
use outpost_orchestrator_core::event::{Answer, Ask, Denied};
use outpost_proto::ids::{AttemptId, RunId};
use outpost_proto::name::TenantName;
use serde::Deserialize;
use serde_json::{Value, json};

use super::input::{Asked, By, Named, missing};
use super::problem::ApiError;
use super::{Api, view};
use crate::driver::AskError;
use crate::store::read::{RunFilter, RunTree};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WhichRuns {
    workflow: Option<String>,
    state: Option<String>,
    limit: Option<u32>,
    cursor: Option<String>,
}

/// `GET /api/v1/runs`
pub(super) async fn list(
    State(api): State<Arc<Api>>,
    By(caller): By,
    Asked(which): Asked<WhichRuns>,
) -> Result<Body<Value>, ApiError> {
    let workflow = which.workflow.map(|name| name.parse()).transpose();
    let workflow = workflow.map_err(|error| ApiError::BadRequest(format!("workflow: {error}")))?;
    let state = which.state.map(|word| {
        let why = || {
            format!(
                "state={} is none of running, cancelling, succeeded, failed, cancelled",
                view::shown(&word)
            )
        };
        view::run_state_of(&word).ok_or_else(|| ApiError::BadRequest(why()))
    });
    let filter = RunFilter {
        workflow,
        state: state.transpose()?,
    };
    let limit = view::limit(which.limit)?;
    let page = api
        .state
        .reader
        .runs(&caller.tenant, &filter, which.cursor.as_deref(), limit)
        .await?;
    let items: Vec<view::RunItem> = page.items.into_iter().map(view::run_item).collect();
    Ok(Body(json!({ "items": items, "next": page.next })))
}

/// `GET /api/v1/runs/{run}`
pub(super) async fn show(
    State(api): State<Arc<Api>>,
    By(caller): By,
    Named(run): Named<RunId>,
) -> Result<Body<Value>, ApiError> {
    let tree = tree(&api, &caller.tenant, run).await?;
    let tasks = view::tasks(&tree);
    let run = tree.run;
    Ok(Body(json!({
        "run": run.run,
        "workflow": run.workflow,
        "version": run.version,
        "state": view::run_state(run.state),
        "agent": run.agent,
        "params": run.params,
        "created_at": view::time(run.created_at),
        "finished_at": run.finished_at.map(view::time),
        "duration_ms": run.finished_at.map(|at| view::between(run.created_at, at)),
        "tasks": tasks,
    })))
}

/// A run as the database has it.
pub(super) async fn tree(api: &Api, tenant: &TenantName, run: RunId) -> Result<RunTree, ApiError> {
    api.state
        .reader
        .run(tenant, run)
        .await?
        .ok_or_else(|| missing("run", &run.to_string()))
}

/// `POST /api/v1/runs/{run}/cancel`
pub(super) async fn cancel(
    State(api): State<Arc<Api>>,
    By(caller): By,
    Named(run): Named<RunId>,
) -> Result<Body<Value>, ApiError> {
    match api
        .state
        .handle
        .ask(caller.tenant.clone(), Ask::Cancel { run })
        .await
    {
        Ok(Answer::Cancelled { state, pending }) => Ok(Body(
            json!({ "state": view::run_state(state), "pending": pending }),
        )),
        Ok(
            Answer::Applied { .. }
            | Answer::Triggered { .. }
            | Answer::Explained(_)
            | Answer::Agents(_)
            | Answer::Invited { .. }
            | Answer::Deleted
            | Answer::Paused { .. }
            | Answer::Workflows(_)
            | Answer::Upcoming(_)
            | Answer::Rerun { .. }
            | Answer::Agent(_)
            | Answer::Removed
            | Answer::Enrolled { .. },
        ) => Err(ApiError::Internal),
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

/// `GET /api/v1/attempts/{attempt}`
pub(super) async fn attempt(
    State(api): State<Arc<Api>>,
    By(caller): By,
    Named(attempt): Named<AttemptId>,
) -> Result<Body<Value>, ApiError> {
    let found = api.state.reader.attempt(&caller.tenant, attempt).await?;
    let found = found.ok_or_else(|| missing("attempt", &attempt.to_string()))?;
    let tree = tree(&api, &caller.tenant, found.run.run).await?;
    let earlier = tree
        .attempts
        .iter()
        .filter(|known| known.task == found.attempt.task);
    let number = earlier.take_while(|known| known.attempt != attempt).count() + 1;
    let task = view::names(&found.workflow.spec, &[found.attempt.task])
        .first()
        .map(ToString::to_string);
    let agent = &found.attempt.agent;
    let mut shown = serde_json::to_value(view::attempt(&found.attempt, number))
        .map_err(|_| ApiError::Internal)?;
    if let Value::Object(fields) = &mut shown {
        fields.insert("run".to_owned(), json!(found.run.run));
        fields.insert("workflow".to_owned(), json!(found.run.workflow));
        fields.insert("task".to_owned(), json!(task));
        fields.insert(
            "where".to_owned(),
            json!(format!("on agent {agent}: outpost-agent logs {attempt}")),
        );
    }
    Ok(Body(shown))
}
