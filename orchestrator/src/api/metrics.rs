//! Numbers for Prometheus: those of the process, and those of the token's tenant. No tenant's numbers reach another.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::HeaderValue;
use http::header::CONTENT_TYPE;
use outpost_orchestrator_core::event::{Answer, Ask};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use super::Api;
use super::doc::{AnswerDoc, Gives, Operation, schema_of};
use super::input::By;
use super::problem::ApiError;
use crate::metrics::Now;

/// The text format that every Prometheus reads.
const TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Numbers as text.
pub(super) struct Text(String);

/// Prometheus' text format.
struct Exposition;

impl JsonSchema for Exposition {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Exposition".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "description": "Prometheus' text format, version 0.0.4.", "type": "string" })
    }
}

impl Gives for Text {
    fn gives(operation: &mut Operation) {
        operation.answers.insert(
            200,
            AnswerDoc {
                description: "The numbers.",
                body: Some(("text/plain", schema_of::<Exposition>)),
                headers: &[],
            },
        );
    }
}

impl IntoResponse for Text {
    fn into_response(self) -> Response {
        ([(CONTENT_TYPE, HeaderValue::from_static(TYPE))], self.0).into_response()
    }
}

/// `GET /metrics`
pub(super) async fn scrape(State(api): State<Arc<Api>>, By(caller): By) -> Result<Text, ApiError> {
    let handle = &api.state.handle;
    let ask = |ask| handle.ask(caller.tenant.clone(), ask);
    let Answer::Agents(agents) = ask(Ask::Agents).await? else {
        return Err(ApiError::Internal);
    };
    let Answer::Workflows(workflows) = ask(Ask::Workflows).await? else {
        return Err(ApiError::Internal);
    };
    let now = Now {
        agents: &agents,
        workflows: &workflows,
        streams: super::events::open(&api),
        sessions: handle.sessions().len(),
        counters: handle.counters(),
        now: handle.now(),
    };
    Ok(Text(handle.metrics().text(&caller.tenant, &now)))
}
