//! Why a run stands where it stands: the core answers for what can still change, the database for what is over.

use std::sync::Arc;

use axum::extract::State;
use outpost_orchestrator_core::event::{Answer, Ask, Denied, Explanation};
use outpost_orchestrator_core::record::{TaskRecord, TaskState};
use outpost_proto::ids::{AttemptId, RunId};
use outpost_proto::name::TaskName;
use schemars::JsonSchema;
use serde::Serialize;

use super::answer::Found;
use super::input::{By, Named};
use super::problem::ApiError;
use super::{Api, runs, schema, view};
use crate::driver::AskError;
use crate::store::read::RunTree;

/// Why one task stands where it stands.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Item {
    #[schemars(with = "schema::TaskName")]
    task: TaskName,
    #[schemars(with = "schema::TaskState")]
    state: String,
    /// Stable, such as `needs`, `slots_full` or `backoff`.
    code: String,
    /// In one sentence, with names, numbers and what would change it.
    reason: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "schema::Id")]
    attempt: Option<AttemptId>,
}

/// Every task of a run.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Explained {
    items: Vec<Item>,
}

/// `GET /api/v1/runs/{run}/explain`
pub(super) async fn explain(
    State(api): State<Arc<Api>>,
    By(caller): By,
    Named(run): Named<RunId>,
) -> Result<Found<Explained>, ApiError> {
    let ask = Ask::Explain { run };
    let items = match api.state.handle.ask(caller.tenant.clone(), ask).await {
        Ok(answer) => {
            let Answer::Explained(explained) = answer else {
                return Err(ApiError::Internal);
            };
            explained.into_iter().map(live).collect()
        }
        Err(AskError::Denied(Denied::UnknownRun(_))) => {
            over(&runs::tree(&api, &caller.tenant, run).await?)
        }
        Err(error @ (AskError::Denied(_) | AskError::Unavailable | AskError::Overloaded)) => {
            return Err(error.into());
        }
    };
    Ok(Found(Explained { items }))
}

fn live(explained: Explanation) -> Item {
    let Explanation {
        task,
        state,
        code,
        reason,
        attempt,
    } = explained;
    Item {
        task,
        state,
        code,
        reason,
        attempt,
    }
}

fn over(tree: &RunTree) -> Vec<Item> {
    let item = |record: &TaskRecord| {
        let spec = tree.workflow.spec.tasks.get(usize::from(record.task.0))?;
        let last = tree
            .attempts
            .iter()
            .rfind(|attempt| attempt.task == record.task);
        let (code, reason) = reason(tree, record);
        Some(Item {
            task: spec.name.clone(),
            state: view::task_state(record.state, last.map(|attempt| attempt.phase)).to_owned(),
            code: code.to_owned(),
            reason,
            attempt: last.map(|attempt| attempt.attempt),
        })
    };
    tree.tasks.iter().filter_map(item).collect()
}

fn reason(tree: &RunTree, record: &TaskRecord) -> (&'static str, String) {
    match record.state {
        TaskState::Succeeded => ("succeeded", "It succeeded.".to_owned()),
        TaskState::Failed { outcome } => (
            "failed",
            format!(
                "Attempt {} ended as {outcome}, and no further one was made.",
                record.attempts
            ),
        ),
        TaskState::UpstreamFailed => ("upstream_failed", upstream(tree, record)),
        TaskState::Cancelled => ("cancelled", "It was cancelled.".to_owned()),
        TaskState::Waiting
        | TaskState::Queued { .. }
        | TaskState::Backoff { .. }
        | TaskState::Active { .. } => ("over", "The run was over before it was.".to_owned()),
    }
}

fn upstream(tree: &RunTree, record: &TaskRecord) -> String {
    let spec = &tree.workflow.spec;
    let needs = spec
        .tasks
        .get(usize::from(record.task.0))
        .map_or(&[][..], |task| &task.needs);
    let did_not = |need: &&outpost_proto::ids::TaskIndex| {
        let need = tree.tasks.iter().find(|task| task.task == **need);
        need.is_some_and(|need| need.state != TaskState::Succeeded)
    };
    let without: Vec<_> = needs.iter().filter(did_not).copied().collect();
    let names: Vec<String> = view::names(spec, &without)
        .iter()
        .map(|name| format!("`{name}`"))
        .collect();
    format!(
        "It needs {}, which did not succeed, so it never ran.",
        names.join(", ")
    )
}
