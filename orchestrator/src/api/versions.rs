//! A workflow's versions: what was applied, whatever is current now.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::State;
use outpost_orchestrator_core::record::WorkflowRecord;
use outpost_orchestrator_core::spec::WorkflowSpec;
use outpost_proto::name::WorkflowName;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::answer::Found;
use super::input::{Asked, By, Named, OfVersion, missing};
use super::problem::ApiError;
use super::schedules::ScheduleView;
use super::{Api, schema, view};
use crate::store::StoreError;
use crate::store::read::VersionRow;

/// One version of a workflow.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct VersionView {
    #[schemars(with = "schema::WorkflowName")]
    name: WorkflowName,
    pub(super) version: u32,
    description: String,
    #[schemars(with = "schema::Time")]
    applied_at: String,
    /// The file as it was applied.
    source: String,
    tasks: Vec<TaskItem>,
    /// What a run can be given, by parameter.
    params: BTreeMap<String, view::ParamView>,
    schedule: Option<ScheduleView>,
}

/// A task of a workflow.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct TaskItem {
    #[schemars(with = "schema::TaskName")]
    name: String,
    #[schemars(with = "schema::EntryName")]
    entry: String,
    #[schemars(with = "Vec<schema::TaskName>")]
    needs: Vec<String>,
}

/// A version as people see it.
pub(super) fn view_of(record: WorkflowRecord) -> VersionView {
    let WorkflowRecord {
        spec,
        version,
        source,
        applied_at,
        tenant: _,
    } = record;
    VersionView {
        version,
        applied_at: view::time(applied_at),
        source,
        tasks: tasks(&spec),
        params: spec
            .params
            .iter()
            .map(|(name, param)| (name.to_string(), view::param(param)))
            .collect(),
        schedule: spec.schedule.as_ref().map(ScheduleView::from),
        name: spec.name,
        description: spec.description,
    }
}

fn tasks(spec: &WorkflowSpec) -> Vec<TaskItem> {
    let names = |needs: &[_]| {
        let names = view::names(spec, needs);
        names.into_iter().map(ToString::to_string).collect()
    };
    let task = |task: &outpost_orchestrator_core::spec::TaskSpec| TaskItem {
        name: task.name.to_string(),
        entry: task.entry.to_string(),
        needs: names(&task.needs),
    };
    spec.tasks.iter().map(task).collect()
}

/// A version in a list.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct VersionItem {
    version: u32,
    #[schemars(with = "schema::Time")]
    applied_at: String,
}

/// A page of versions.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct VersionList {
    items: Vec<VersionItem>,
    #[schemars(with = "Option<schema::Cursor>")]
    next: Option<String>,
}

/// Which page of versions.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct WhichVersions {
    #[schemars(with = "Option<schema::PageLimit>")]
    limit: Option<u32>,
    /// An earlier page's `next`.
    #[schemars(with = "Option<schema::VersionNumber>")]
    cursor: Option<u32>,
}

/// `GET /api/v1/workflows/{name}/versions`
pub(super) async fn list(
    State(api): State<Arc<Api>>,
    By(caller): By,
    Named(name): Named<WorkflowName>,
    Asked(which): Asked<WhichVersions>,
) -> Result<Found<VersionList>, ApiError> {
    let limit = view::limit(which.limit, view::ITEMS)?;
    if which.cursor == Some(0) {
        return Err(StoreError::BadCursor.into());
    }
    let cursor = which.cursor.map(|version| version.to_string());
    let page = api
        .state
        .reader
        .versions(&caller.tenant, &name, cursor.as_deref(), limit)
        .await?;
    if page.items.is_empty() && which.cursor.is_none() {
        return Err(missing("workflow", name.as_str()));
    }
    let item = |row: VersionRow| VersionItem {
        version: row.version,
        applied_at: view::time(row.applied_at),
    };
    Ok(Found(VersionList {
        items: page.items.into_iter().map(item).collect(),
        next: page.next,
    }))
}

/// `GET /api/v1/workflows/{name}/versions/{version}`
pub(super) async fn show(
    State(api): State<Arc<Api>>,
    By(caller): By,
    OfVersion(name, version): OfVersion,
) -> Result<Found<VersionView>, ApiError> {
    let found = api
        .state
        .reader
        .workflow(&caller.tenant, &name, Some(version))
        .await?;
    let gone = || missing("workflow version", &format!("{name}/{version}"));
    found.map(view_of).map(Found).ok_or_else(gone)
}
