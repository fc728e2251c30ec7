//! For probes: the only routes that anybody may ask.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use schemars::JsonSchema;
use serde::Serialize;
use tokio::time::timeout;

use super::Api;
use super::answer::Found;
use super::problem::ApiError;

/// For the database to answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// All is well.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Health {
    #[schemars(extend("const" = "ok"))]
    status: &'static str,
}

const OK: Found<Health> = Found(Health { status: "ok" });

/// The process answers.
pub(super) async fn alive() -> Found<Health> {
    OK
}

/// Driver and database answer, and the server is not about to stop.
pub(super) async fn ready(State(api): State<Arc<Api>>) -> Result<Found<Health>, ApiError> {
    if api.state.draining.is_cancelled() {
        return Err(ApiError::NotReady("it is stopping"));
    }
    if !api.state.handle.is_alive() {
        return Err(ApiError::NotReady("its driver has stopped"));
    }
    match timeout(PATIENCE, api.state.reader.ping()).await {
        Ok(Ok(())) => Ok(OK),
        Ok(Err(_)) | Err(_) => Err(ApiError::NotReady("its database does not answer")),
    }
}
