//! Lists and history, read from the database and from nowhere else. Called by the REST interface.
//!
//! Every read names its tenant; a thing of another tenant is not there. Lists are read in pages from a stable order, so
//! a page is the same whatever was added since.

use std::path::Path;

use outpost_orchestrator_core::record::{
    AttemptRecord, Notice, RunRecord, RunState, TaskRecord, WorkflowRecord,
};
use outpost_proto::ids::{AttemptId, RunId};
use outpost_proto::name::{TenantName, WorkflowName};
use serde::de::DeserializeOwned;
use sqlx::sqlite::{SqlitePool, SqlitePoolOptions};

use super::access::{signed, unsigned};
use super::{StoreError, sqlite};

/// Connections that read: lists are short, and more would only wait for the same disk.
const CONNECTIONS: u32 = 4;
/// Most items of one page.
pub const PAGE: u32 = 1000;

/// Reads for one orchestrator's database. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Reader {
    pool: SqlitePool,
}

/// One page of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page<T> {
    /// In order.
    pub items: Vec<T>,
    /// Where the next page begins; `None` after the last one.
    pub next: Option<String>,
}

/// Which runs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RunFilter {
    /// Of this workflow.
    pub workflow: Option<WorkflowName>,
    /// In this state.
    pub state: Option<RunState>,
}

/// A run with everything that belongs to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunTree {
    /// The run.
    pub run: RunRecord,
    /// The version of the workflow it is of.
    pub workflow: WorkflowRecord,
    /// By place.
    pub tasks: Vec<TaskRecord>,
    /// In the order they were assigned.
    pub attempts: Vec<AttemptRecord>,
}

/// A notice and its number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NumberedNotice {
    /// Grows with every commit; never reused.
    pub seq: u64,
    /// What it says.
    pub notice: Notice,
}
