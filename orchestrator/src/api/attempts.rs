//! Attempts, each by itself.

use std::sync::Arc;

use axum::extract::State;
use outpost_proto::ids::{AttemptId, RunId};
use outpost_proto::name::WorkflowName;
use schemars::JsonSchema;
use serde::Serialize;

use super::answer::Found;
use super::input::{By, Named, missing};
use super::problem::ApiError;
use super::{Api, runs, schema, view};

/// An attempt with what it is an attempt of.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct AttemptDetail {
    #[serde(flatten)]
    attempt: view::AttemptView,
    #[schemars(with = "schema::Id")]
    run: RunId,
    #[schemars(with = "schema::WorkflowName")]
    workflow: WorkflowName,
    #[schemars(with = "Option<schema::TaskName>")]
    task: Option<String>,
    /// Where its log is: what to run, and on which machine.
    #[serde(rename = "where")]
    place: String,
}

/// `GET /api/v1/attempts/{attempt}`
pub(super) async fn show(
    State(api): State<Arc<Api>>,
    By(caller): By,
    Named(attempt): Named<AttemptId>,
) -> Result<Found<AttemptDetail>, ApiError> {
    let found = api.state.reader.attempt(&caller.tenant, attempt).await?;
    let found = found.ok_or_else(|| missing("attempt", &attempt.to_string()))?;
    let tree = runs::tree(&api, &caller.tenant, found.run.run).await?;
    let earlier = tree
        .attempts
        .iter()
        .filter(|known| known.task == found.attempt.task);
    let number = earlier.take_while(|known| known.attempt != attempt).count() + 1;
    let task = view::names(&found.workflow.spec, &[found.attempt.task])
        .first()
        .map(ToString::to_string);
    let agent = &found.attempt.agent;
    Ok(Found(AttemptDetail {
        place: format!("on agent {agent}: outpost-agent logs {attempt}"),
        attempt: view::attempt(&found.attempt, number),
        run: found.run.run,
        workflow: found.run.workflow,
        task,
    }))
}
