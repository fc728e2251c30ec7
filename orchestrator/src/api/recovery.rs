//! What endangers a tenant's work as a whole, and what a person decides about it: restores, freezes, two holders of one
//! identity, attempts of which nothing is heard.

use std::sync::Arc;

use axum::extract::State;
use outpost_orchestrator_core::event::{Answer, Ask, RecoveryView};
use outpost_orchestrator_core::limits::REASON_LEN;
use outpost_orchestrator_core::standing::Keep;
use outpost_proto::ids::AttemptId;
use outpost_proto::name::{AgentName, TenantName};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::answer::Found;
use super::input::{By, Json, Named};
use super::problem::ApiError;
use super::{Api, agents, schema, view};

/// What endangers the tenant's work as a whole; all is well when nothing is named.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Recovery {
    /// How often the database was restored, plus one.
    epoch: u32,
    /// When the database was restored last.
    #[schemars(with = "Option<schema::Time>")]
    restored_at: Option<String>,
    /// Whether new work waits for agents that have not told yet what the backup lacks.
    recovering: bool,
    /// Those agents.
    #[schemars(with = "Vec<schema::AgentName>")]
    awaited: Vec<AgentName>,
    /// Since when nothing silent is given up, because most agents went at once.
    #[schemars(with = "Option<schema::Time>")]
    frozen_since: Option<String>,
    /// Agents whose identity has two holders.
    #[schemars(with = "Vec<schema::AgentName>")]
    quarantined: Vec<AgentName>,
    /// Agents that saw a newer state of the database than there is.
    #[schemars(with = "Vec<schema::AgentName>")]
    held_back: Vec<AgentName>,
}

fn shown(recovery: RecoveryView) -> Recovery {
    Recovery {
        epoch: recovery.counter,
        restored_at: recovery.restored_at.map(view::time),
        recovering: recovery.recovering,
        awaited: recovery.awaited,
        frozen_since: recovery.frozen_since.map(view::time),
        quarantined: recovery.quarantined,
        held_back: recovery.held_back,
    }
}

async fn ask(api: &Api, tenant: TenantName, ask: Ask) -> Result<Found<Recovery>, ApiError> {
    let Answer::Recovery(recovery) = api.state.handle.ask(tenant, ask).await? else {
        return Err(ApiError::Internal);
    };
    Ok(Found(shown(recovery)))
}

/// `GET /api/v1/recovery`
pub(super) async fn show(
    State(api): State<Arc<Api>>,
    By(caller): By,
) -> Result<Found<Recovery>, ApiError> {
    ask(&api, caller.tenant, Ask::Recovery).await
}

/// `POST /api/v1/recovery/continue`
pub(super) async fn go_on(
    State(api): State<Arc<Api>>,
    By(caller): By,
) -> Result<Found<Recovery>, ApiError> {
    let by = caller.token_id.to_string();
    ask(&api, caller.tenant, Ask::Continue { by }).await
}

/// `POST /api/v1/recovery/unfreeze`
pub(super) async fn unfreeze(
    State(api): State<Arc<Api>>,
    By(caller): By,
) -> Result<Found<Recovery>, ApiError> {
    let by = caller.token_id.to_string();
    ask(&api, caller.tenant, Ask::Unfreeze { by }).await
}

/// Which of two holders stays.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(example = serde_json::json!({ "keep": "this" }))]
pub(super) struct Decision {
    keep: Which,
}

/// One of two holders.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Which {
    /// The one that was known when the other one appeared.
    This,
    /// The one that appeared.
    That,
}

/// `POST /api/v1/agents/{agent}/resolve`
pub(super) async fn resolve(
    State(api): State<Arc<Api>>,
    By(caller): By,
    Named(agent): Named<AgentName>,
    Json(decision): Json<Decision>,
) -> Result<Found<agents::AgentItem>, ApiError> {
    let keep = match decision.keep {
        Which::This => Keep::This,
        Which::That => Keep::That,
    };
    let by = caller.token_id.to_string();
    let ask = Ask::ResolveAgent { agent, keep, by };
    let Answer::Agent(agent) = api.state.handle.ask(caller.tenant, ask).await? else {
        return Err(ApiError::Internal);
    };
    Ok(Found(agents::item(agent)))
}

/// How a person knows that an attempt is over.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(example = serde_json::json!({ "reason": "the machine burnt down" }))]
pub(super) struct Assertion {
    /// For people; no control characters, and not only spaces.
    #[schemars(
        length(min = 1, max = 500),
        regex(
            pattern = "^[^\\u0000-\\u001f\\u007f-\\u009f]*[^\\s\\u0000-\\u001f\\u007f-\\u009f][^\\u0000-\\u001f\\u007f-\\u009f]*$"
        )
    )]
    reason: String,
}

/// What follows from a person's word.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Asserted {
    #[schemars(with = "schema::Id")]
    attempt: AttemptId,
    /// Where the attempt's task stands now.
    #[schemars(with = "schema::TaskState")]
    task_state: &'static str,
}

/// `POST /api/v1/attempts/{attempt}/assert-dead`
pub(super) async fn assert_dead(
    State(api): State<Arc<Api>>,
    By(caller): By,
    Named(attempt): Named<AttemptId>,
    Json(assertion): Json<Assertion>,
) -> Result<Found<Asserted>, ApiError> {
    let characters = assertion.reason.chars().count();
    if assertion.reason.trim().is_empty()
        || characters > REASON_LEN
        || assertion.reason.chars().any(char::is_control)
    {
        return Err(ApiError::Value {
            path: "reason".to_owned(),
            why: format!("has 1 to {REASON_LEN} characters without control characters"),
        });
    }
    let ask = Ask::AssertDead {
        attempt,
        by: caller.token_id.to_string(),
        reason: assertion.reason,
    };
    let Answer::AssertedDead { task } = api.state.handle.ask(caller.tenant, ask).await? else {
        return Err(ApiError::Internal);
    };
    Ok(Found(Asserted {
        attempt,
        task_state: view::task_state(task, None),
    }))
}
