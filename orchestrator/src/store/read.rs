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

/// An attempt with what it is an attempt of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttemptTree {
    /// The attempt.
    pub attempt: AttemptRecord,
    /// Its run.
    pub run: RunRecord,
    /// The version of the workflow it is of.
    pub workflow: WorkflowRecord,
}

/// Runs of a tenant, newest first, from below the cursor's place; `$filter` narrows further.
macro_rules! runs_sql {
    ($filter:literal) => {
        concat!(
            "SELECT record FROM run WHERE tenant = ?1 AND (created_at, run) < (?2, ?3) ",
            $filter,
            " ORDER BY created_at DESC, run DESC LIMIT ?4"
        )
    };
}

const RUNS: &str = runs_sql!("");
const RUNS_OF_WORKFLOW: &str = runs_sql!("AND workflow = ?5");
const RUNS_IN_STATE: &str = runs_sql!("AND state = ?6");
const RUNS_OF_WORKFLOW_IN_STATE: &str = runs_sql!("AND workflow = ?5 AND state = ?6");
const RUN: &str = "SELECT record FROM run WHERE run = ?2 AND tenant = ?1";
const TASKS_OF_RUN: &str = "SELECT record FROM task WHERE run = ?1 ORDER BY task";
const ATTEMPTS_OF_RUN: &str =
    "SELECT record FROM attempt WHERE run = ?1 ORDER BY assigned_at, attempt";
const ATTEMPT: &str = "SELECT record FROM attempt WHERE attempt = ?2 AND tenant = ?1";
const WORKFLOWS: &str = "SELECT record FROM workflow AS w WHERE tenant = ?1 AND workflow > ?2 AND version = \
                         (SELECT max(version) FROM workflow AS v WHERE v.tenant = ?1 AND v.workflow = w.workflow) \
                         ORDER BY workflow LIMIT ?3";
const WORKFLOW_VERSION: &str =
    "SELECT record FROM workflow WHERE tenant = ?1 AND workflow = ?2 AND version = ?3";
const WORKFLOW_CURRENT: &str =
    "SELECT record FROM workflow WHERE tenant = ?1 AND workflow = ?2 ORDER BY version DESC LIMIT 1";
const NOTICES: &str =
    "SELECT seq, record FROM notice WHERE tenant = ?1 AND seq > ?2 ORDER BY seq LIMIT ?3";
const NOTICES_OF_RUN: &str = "SELECT seq, record FROM notice WHERE run = ?4 AND tenant = ?1 AND seq > ?2 ORDER BY seq LIMIT ?3";
const NEWEST_NOTICE: &str = "SELECT max(seq) FROM notice WHERE tenant = ?1";

impl Reader {
    pub(super) fn on(path: &Path) -> Self {
        let options = sqlite::options(path).read_only(true);
        Self {
            pool: SqlitePoolOptions::new()
                .max_connections(CONNECTIONS)
                .connect_lazy_with(options),
        }
    }

    /// Runs, newest first; at most [`PAGE`] at once. `cursor` is an earlier page's `next`.
    ///
    /// # Errors
    /// [`StoreError::BadCursor`] and the database's own.
    pub async fn runs(
        &self,
        tenant: &TenantName,
        filter: &RunFilter,
        cursor: Option<&str>,
        limit: u32,
    ) -> Result<Page<RunRecord>, StoreError> {
        let (before, run) = cursor.map_or(Ok((i64::MAX, "g".to_owned())), run_cursor)?;
        let sql = match (&filter.workflow, filter.state) {
            (None, None) => RUNS,
            (Some(_), None) => RUNS_OF_WORKFLOW,
            (None, Some(_)) => RUNS_IN_STATE,
            (Some(_), Some(_)) => RUNS_OF_WORKFLOW_IN_STATE,
        };
        let limit = limit.clamp(1, PAGE);
        let query = sqlx::query_scalar(sql)
            .bind(tenant.as_str())
            .bind(before)
            .bind(run)
            .bind(i64::from(limit) + 1)
            .bind(filter.workflow.as_ref().map(WorkflowName::as_str))
            .bind(filter.state.map(state_word));
        let items = parse_all("run", query.fetch_all(&self.pool).await?)?;
        Ok(page(items, limit, |run: &RunRecord| {
            format!("{:x}-{}", run.created_at, run.run)
        }))
    }

    /// A run with its workflow version, tasks and attempts, all of one moment.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn run(
        &self,
        tenant: &TenantName,
        run: RunId,
    ) -> Result<Option<RunTree>, StoreError> {
        let mut tx = self.pool.begin().await?;
        let id = run.to_string();
        let found = sqlx::query_scalar(RUN)
            .bind(tenant.as_str())
            .bind(&id)
            .fetch_optional(&mut *tx)
            .await?;
        let Some(run) = parse_one::<RunRecord>("run", found)? else {
            return Ok(None);
        };
        let Some(workflow) = version_of(&mut tx, &run).await? else {
            return Ok(None);
        };
        let tasks = sqlx::query_scalar(TASKS_OF_RUN)
            .bind(&id)
            .fetch_all(&mut *tx)
            .await?;
        let attempts = sqlx::query_scalar(ATTEMPTS_OF_RUN)
            .bind(&id)
            .fetch_all(&mut *tx)
            .await?;
        let (tasks, attempts) = (parse_all("task", tasks)?, parse_all("attempt", attempts)?);
        Ok(Some(RunTree {
            run,
            workflow,
            tasks,
            attempts,
        }))
    }

    /// A run without its tasks.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn run_record(
        &self,
        tenant: &TenantName,
        run: RunId,
    ) -> Result<Option<RunRecord>, StoreError> {
        let query = sqlx::query_scalar(RUN)
            .bind(tenant.as_str())
            .bind(run.to_string());
        parse_one("run", query.fetch_optional(&self.pool).await?)
    }

    /// An attempt with its run and workflow version.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn attempt(
        &self,
        tenant: &TenantName,
        attempt: AttemptId,
    ) -> Result<Option<AttemptTree>, StoreError> {
        let mut tx = self.pool.begin().await?;
        let query = sqlx::query_scalar(ATTEMPT)
            .bind(tenant.as_str())
            .bind(attempt.to_string());
        let found = query.fetch_optional(&mut *tx).await?;
        let Some(attempt) = parse_one::<AttemptRecord>("attempt", found)? else {
            return Ok(None);
        };
        let query = sqlx::query_scalar(RUN)
            .bind(tenant.as_str())
            .bind(attempt.run.to_string());
        let found = query.fetch_optional(&mut *tx).await?;
        let Some(run) = parse_one::<RunRecord>("run", found)? else {
            return Ok(None);
        };
        let Some(workflow) = version_of(&mut tx, &run).await? else {
            return Ok(None);
        };
        Ok(Some(AttemptTree {
            attempt,
            run,
            workflow,
        }))
    }

    /// The current version of each workflow, by name; at most [`PAGE`] at once.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn workflows(
        &self,
        tenant: &TenantName,
        cursor: Option<&str>,
        limit: u32,
    ) -> Result<Page<WorkflowRecord>, StoreError> {
        let after = match cursor {
            Some(text) => text
                .parse::<WorkflowName>()
                .map_err(|_| StoreError::BadCursor)?
                .as_str()
                .to_owned(),
            None => String::new(),
        };
        let limit = limit.clamp(1, PAGE);
        let query = sqlx::query_scalar(WORKFLOWS)
            .bind(tenant.as_str())
            .bind(after)
            .bind(i64::from(limit) + 1);
        let items = parse_all("workflow", query.fetch_all(&self.pool).await?)?;
        Ok(page(items, limit, |workflow: &WorkflowRecord| {
            workflow.spec.name.to_string()
        }))
    }

    /// One version of a workflow, or the current one.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn workflow(
        &self,
        tenant: &TenantName,
        name: &WorkflowName,
        version: Option<u32>,
    ) -> Result<Option<WorkflowRecord>, StoreError> {
        let sql = if version.is_some() {
            WORKFLOW_VERSION
        } else {
            WORKFLOW_CURRENT
        };
        let query = sqlx::query_scalar(sql)
            .bind(tenant.as_str())
            .bind(name.as_str())
            .bind(version);
        parse_one("workflow", query.fetch_optional(&self.pool).await?)
    }

    /// What happened after number `after`, oldest first: in the whole tenant or about one run.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn notices(
        &self,
        tenant: &TenantName,
        run: Option<RunId>,
        after: u64,
        limit: u32,
    ) -> Result<Vec<NumberedNotice>, StoreError> {
        let sql = if run.is_some() {
            NOTICES_OF_RUN
        } else {
            NOTICES
        };
        let query = sqlx::query_as::<_, (i64, String)>(sql)
            .bind(tenant.as_str())
            .bind(signed(after))
            .bind(limit.clamp(1, PAGE))
            .bind(run.map(|run| run.to_string()));
        let rows = query.fetch_all(&self.pool).await?;
        let numbered = |(seq, json): (i64, String)| {
            Ok(NumberedNotice {
                seq: unsigned(seq),
                notice: parse("notice", &json)?,
            })
        };
        rows.into_iter().map(numbered).collect()
    }

    /// The number of the tenant's newest notice; 0 when there is none.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn newest_notice(&self, tenant: &TenantName) -> Result<u64, StoreError> {
        let query = sqlx::query_scalar::<_, Option<i64>>(NEWEST_NOTICE).bind(tenant.as_str());
        Ok(query.fetch_one(&self.pool).await?.map_or(0, unsigned))
    }

    /// Whether the database answers.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn ping(&self) -> Result<(), StoreError> {
        sqlx::query("SELECT 1").fetch_one(&self.pool).await?;
        Ok(())
    }

    /// Gives the connections back.
    pub async fn close(&self) {
        self.pool.close().await;
    }
}

async fn version_of(
    tx: &mut sqlx::SqliteConnection,
    run: &RunRecord,
) -> Result<Option<WorkflowRecord>, StoreError> {
    let query = sqlx::query_scalar(WORKFLOW_VERSION)
        .bind(run.tenant.as_str())
        .bind(run.workflow.as_str())
        .bind(run.version);
    parse_one("workflow", query.fetch_optional(tx).await?)
}

/// A state as it stands in the database: the same word as in JSON.
fn state_word(state: RunState) -> &'static str {
    match state {
        RunState::Running => "running",
        RunState::Cancelling => "cancelling",
        RunState::Succeeded => "succeeded",
        RunState::Failed => "failed",
        RunState::Cancelled => "cancelled",
    }
}

fn run_cursor(text: &str) -> Result<(i64, String), StoreError> {
    let (time, run) = text.split_once('-').ok_or(StoreError::BadCursor)?;
    let time = i64::from_str_radix(time, 16).map_err(|_| StoreError::BadCursor)?;
    let run: RunId = run.parse().map_err(|_| StoreError::BadCursor)?;
    Ok((time, run.to_string()))
}

/// Cuts the one item read beyond the page, whose presence says that there is a next one.
fn page<T>(mut items: Vec<T>, limit: u32, place: impl Fn(&T) -> String) -> Page<T> {
    let limit = limit as usize;
    let more = items.len() > limit;
    items.truncate(limit);
    let next = if more { items.last().map(place) } else { None };
    Page { items, next }
}

pub(super) fn parse<T: DeserializeOwned>(table: &'static str, json: &str) -> Result<T, StoreError> {
    serde_json::from_str(json).map_err(|error| StoreError::Record { table, error })
}

pub(super) fn parse_all<T: DeserializeOwned>(
    table: &'static str,
    rows: Vec<String>,
) -> Result<Vec<T>, StoreError> {
    rows.iter().map(|json| parse(table, json)).collect()
}

fn parse_one<T: DeserializeOwned>(
    table: &'static str,
    row: Option<String>,
) -> Result<Option<T>, StoreError> {
    row.map(|json| parse(table, &json)).transpose()
}

#[cfg(test)]
mod tests {
    use sqlx::{AssertSqlSafe, Row as _};

    use super::*;
    use crate::store::sqlite::Sqlite;

    #[tokio::test]
    async fn every_list_is_answered_by_an_index() {
        let dir = tempfile::tempdir().unwrap();
        Sqlite::create(dir.path(), 1).await.unwrap();
        let reader = Sqlite::open(dir.path()).await.unwrap().reader();
        let lists = [
            RUNS,
            RUNS_OF_WORKFLOW,
            RUNS_IN_STATE,
            RUNS_OF_WORKFLOW_IN_STATE,
            RUN,
            TASKS_OF_RUN,
            ATTEMPTS_OF_RUN,
            ATTEMPT,
            WORKFLOWS,
            WORKFLOW_VERSION,
            WORKFLOW_CURRENT,
            NOTICES,
            NOTICES_OF_RUN,
            NEWEST_NOTICE,
        ];
        for sql in lists {
            let plan = sqlx::query(AssertSqlSafe(format!("EXPLAIN QUERY PLAN {sql}")));
            let steps = plan.fetch_all(&reader.pool).await.unwrap();
            let steps: Vec<String> = steps.iter().map(|step| step.get("detail")).collect();
            assert!(!steps.is_empty(), "{sql}");
            for step in &steps {
                assert!(!step.starts_with("SCAN"), "{sql}: {steps:?}");
                assert!(!step.contains("TEMP B-TREE"), "{sql}: {steps:?}");
            }
        }
    }
}
