//! Workflows: apply, look at, trigger.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json as Body;
use axum::extract::State;
use http::{HeaderMap, StatusCode};
use outpost_orchestrator_core::event::{Answer, Applied, Ask};
use outpost_orchestrator_core::limits::KEY_LEN;
use outpost_orchestrator_core::record::WorkflowRecord;
use outpost_proto::message::ParamValue;
use outpost_proto::name::{ParamName, WorkflowName};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tokio::task::spawn_blocking;

use super::input::{Asked, By, Json, Named, Yaml, missing};
use super::problem::ApiError;
use super::{Api, view};
use crate::workflow;

const KEY: &str = "idempotency-key";

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct HowToApply {
    #[serde(default)]
    allow_unknown_entries: bool,
}

/// `POST /api/v1/workflows`
pub(super) async fn apply(
    State(api): State<Arc<Api>>,
    By(caller): By,
    Asked(how): Asked<HowToApply>,
    Yaml(source): Yaml,
) -> Result<(StatusCode, Body<Value>), ApiError> {
    // A large file takes milliseconds, in which nobody else shall wait.
    let parsed = spawn_blocking(move || workflow::parse(&source).map(|spec| (spec, source)));
    let (spec, source) = parsed.await.map_err(|_| ApiError::Internal)??;
    let name = spec.name.clone();
    let ask = Ask::Apply {
        spec,
        source,
        allow_unknown_entries: how.allow_unknown_entries,
        dry_run: false,
        expected_version: None,
    };
    let Answer::Applied {
        version,
        applied,
        warnings,
    } = api.state.handle.ask(caller.tenant, ask).await?
    else {
        return Err(ApiError::Internal);
    };
    let (status, result) = match applied {
        Applied::Created => (StatusCode::CREATED, "created"),
        Applied::Updated => (StatusCode::OK, "updated"),
        Applied::Unchanged => (StatusCode::OK, "unchanged"),
    };
    let answer =
        json!({ "name": name, "version": version, "result": result, "warnings": warnings });
    Ok((status, Body(answer)))
}

#[derive(Debug, Serialize)]
struct WorkflowItem {
    name: WorkflowName,
    version: u32,
    description: String,
    tasks: usize,
    applied_at: String,
}

/// `GET /api/v1/workflows`
pub(super) async fn list(
    State(api): State<Arc<Api>>,
    By(caller): By,
    Asked(page): Asked<view::PageQuery>,
) -> Result<Body<Value>, ApiError> {
    let limit = page.limit()?;
    let page = api
        .state
        .reader
        .workflows(&caller.tenant, page.cursor.as_deref(), limit)
        .await?;
    let items: Vec<WorkflowItem> = page.items.into_iter().map(item).collect();
    Ok(Body(json!({ "items": items, "next": page.next })))
}

fn item(record: WorkflowRecord) -> WorkflowItem {
    WorkflowItem {
        tasks: record.spec.tasks.len(),
        name: record.spec.name,
        version: record.version,
        description: record.spec.description,
        applied_at: view::time(record.applied_at),
    }
}

/// `GET /api/v1/workflows/{name}`
pub(super) async fn show(
    State(api): State<Arc<Api>>,
    By(caller): By,
    Named(name): Named<WorkflowName>,
) -> Result<Body<Value>, ApiError> {
    let found = api
        .state
        .reader
        .workflow(&caller.tenant, &name, None)
        .await?;
    let record = found.ok_or_else(|| missing("workflow", name.as_str()))?;
    let spec = &record.spec;
    let task = |task: &outpost_orchestrator_core::spec::TaskSpec| json!({ "name": task.name, "entry": task.entry, "needs": view::names(spec, &task.needs) });
    let tasks: Vec<Value> = spec.tasks.iter().map(task).collect();
    let params: BTreeMap<&ParamName, view::ParamView<'_>> = spec
        .params
        .iter()
        .map(|(name, param)| (name, view::param(param)))
        .collect();
    Ok(Body(json!({
        "name": spec.name,
        "version": record.version,
        "description": spec.description,
        "applied_at": view::time(record.applied_at),
        "source": record.source,
        "tasks": tasks,
        "params": params,
    })))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NewRun {
    #[serde(default)]
    params: Map<String, Value>,
}

/// `POST /api/v1/workflows/{name}/runs`
pub(super) async fn trigger(
    State(api): State<Arc<Api>>,
    By(caller): By,
    Named(workflow): Named<WorkflowName>,
    headers: HeaderMap,
    Json(new): Json<NewRun>,
) -> Result<(StatusCode, Body<Value>), ApiError> {
    let (params, key) = (values(new.params)?, key(&headers)?);
    let ask = Ask::Trigger {
        workflow,
        params,
        key,
    };
    let Answer::Triggered { run, created } = api.state.handle.ask(caller.tenant, ask).await? else {
        return Err(ApiError::Internal);
    };
    let status = if created {
        StatusCode::CREATED
    } else {
        StatusCode::OK
    };
    Ok((status, Body(json!({ "run": run }))))
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

fn key(headers: &HeaderMap) -> Result<Option<String>, ApiError> {
    let mut keys = headers.get_all(KEY).iter();
    let Some(key) = keys.next() else {
        return Ok(None);
    };
    let fits = |text: &&str| {
        (1..=KEY_LEN).contains(&text.len())
            && text.bytes().all(|byte| (b' '..=b'~').contains(&byte))
    };
    match key.to_str().ok().filter(fits) {
        Some(text) if keys.next().is_none() => Ok(Some(text.to_owned())),
        Some(_) | None => Err(ApiError::BadRequest(format!(
            "Idempotency-Key is given once and has 1 to {KEY_LEN} printable ASCII characters"
        ))),
    }
}
