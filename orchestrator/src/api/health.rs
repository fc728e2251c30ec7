//! For probes: the only routes that anybody may ask.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::Api;
use super::problem::ApiError;

/// For the database to answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// The process answers.
pub(super) async fn alive() -> Json<Value> {
    Json(json!({ "status": "ok" }))
}

/// Driver and database answer, and the server is not about to stop.
pub(super) async fn ready(State(api): State<Arc<Api>>) -> Result<Json<Value>, ApiError> {
    if api.state.draining.is_cancelled() {
        return Err(ApiError::NotReady("it is stopping"));
    }
    if !api.state.handle.is_alive() {
        return Err(ApiError::NotReady("its driver has stopped"));
    }
    match timeout(PATIENCE, api.state.reader.ping()).await {
        Ok(Ok(())) => Ok(Json(json!({ "status": "ok" }))),
        Ok(Err(_)) | Err(_) => Err(ApiError::NotReady("its database does not answer")),
    }
}
