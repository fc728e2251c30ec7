//! Lists and history, read from the database and from nowhere else. Called by the REST interface.
//!
//! Every read names its tenant; a thing of another tenant is not there. Lists are read in pages from a stable order, so
//! a page is the same whatever was added since.

use std::path::Path;

use futures_util::TryStreamExt as _;
use outpost_orchestrator_core::record::{
    AttemptRecord, Notice, NoticeKind, RunRecord, TaskRecord, WorkflowRecord,
};
use outpost_proto::ids::{AttemptId, RunId};
use outpost_proto::name::{AgentName, TenantName, WorkflowName};
use sqlx::AssertSqlSafe;
use sqlx::sqlite::{SqlitePool, SqlitePoolOptions};

use super::access::{signed, unsigned};
pub use super::page::{PAGE, Page};
use super::page::{page, parse, parse_all, parse_one, run_cursor};
pub use super::runs::RunFilter;
use super::runs::state_word;
use super::{StoreError, sqlite};

/// Connections that read: lists are short, and more would only wait for the same disk.
const CONNECTIONS: u32 = 4;

/// Reads for one orchestrator's database. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Reader {
    pub(super) pool: SqlitePool,
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

/// One version of a workflow in a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VersionRow {
    /// Counted from 1.
    pub version: u32,
    /// Microseconds since 1970.
    pub applied_at: u64,
}

pub(super) const RUN: &str = "SELECT record FROM run WHERE run = ?2 AND tenant = ?1";
pub(super) const TASKS_OF_RUN: &str = "SELECT record FROM task WHERE run = ?1 ORDER BY task";
pub(super) const ATTEMPTS_OF_RUN: &str = "SELECT record FROM attempt WHERE run = ?1";
pub(super) const ATTEMPT: &str = "SELECT record FROM attempt WHERE attempt = ?1";
pub(super) const WORKFLOWS: &str = "SELECT record FROM workflow INDEXED BY workflow_current \
     WHERE tenant = ?1 AND workflow > ?2 AND current = 1 ORDER BY workflow LIMIT ?3";
pub(super) const WORKFLOW_VERSION: &str =
    "SELECT record FROM workflow WHERE tenant = ?1 AND workflow = ?2 AND version = ?3";
pub(super) const WORKFLOW_CURRENT: &str = "SELECT record FROM workflow INDEXED BY workflow_current \
     WHERE tenant = ?1 AND workflow = ?2 AND current = 1";
pub(super) const VERSIONS: &str = "SELECT version, applied_at FROM workflow \
     WHERE tenant = ?1 AND workflow = ?2 AND version < ?3 ORDER BY version DESC LIMIT ?4";
pub(super) const NOTICES: &str =
    "SELECT first, at, record FROM notice WHERE tenant = ?1 AND seq > ?2 ORDER BY seq LIMIT ?3";
pub(super) const NOTICES_OF_RUN: &str = "SELECT first, at, record FROM notice INDEXED BY notice_by_run \
     WHERE run = ?4 AND tenant = ?1 AND seq > ?2 ORDER BY seq LIMIT ?3";
pub(super) const NEWEST_NOTICE: &str =
    "SELECT seq FROM notice WHERE tenant = ?1 ORDER BY seq DESC LIMIT 1";

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
        let limit = limit.clamp(1, PAGE);
        let query = sqlx::query_scalar(AssertSqlSafe(filter.sql()))
            .bind(tenant.as_str())
            .bind(before)
            .bind(run)
            .bind(i64::from(limit) + 1)
            .bind(filter.workflow.as_ref().map(WorkflowName::as_str))
            .bind(filter.state.map(state_word))
            .bind(filter.agent.as_ref().map(AgentName::as_str));
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
        let tasks = parse_all("task", tasks)?;
        let mut attempts: Vec<AttemptRecord> = parse_all("attempt", attempts)?;
        attempts.sort_unstable_by_key(|attempt| (attempt.assigned_at, attempt.attempt));
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
        let query = sqlx::query_scalar(ATTEMPT).bind(attempt.to_string());
        let found = parse_one("attempt", query.fetch_optional(&mut *tx).await?)?;
        let Some(attempt) = found.filter(|attempt: &AttemptRecord| attempt.tenant == *tenant)
        else {
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

    /// The current version of each workflow that was not deleted, by name; at most [`PAGE`] at once.
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

    /// One version of a workflow, or the current one unless it was deleted.
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

    /// The versions of a workflow, newest first, of a deleted one too; at most [`PAGE`] at once.
    ///
    /// # Errors
    /// [`StoreError::BadCursor`] and the database's own.
    pub async fn versions(
        &self,
        tenant: &TenantName,
        name: &WorkflowName,
        cursor: Option<&str>,
        limit: u32,
    ) -> Result<Page<VersionRow>, StoreError> {
        let below = match cursor {
            Some(text) => i64::from(text.parse::<u32>().map_err(|_| StoreError::BadCursor)?),
            None => i64::MAX,
        };
        let limit = limit.clamp(1, PAGE);
        let query = sqlx::query_as::<_, (u32, i64)>(VERSIONS)
            .bind(tenant.as_str())
            .bind(name.as_str())
            .bind(below)
            .bind(i64::from(limit) + 1);
        let rows = query.fetch_all(&self.pool).await?;
        let row = |(version, applied_at)| VersionRow {
            version,
            applied_at: unsigned(applied_at),
        };
        let items = rows.into_iter().map(row).collect();
        Ok(page(items, limit, |row: &VersionRow| {
            row.version.to_string()
        }))
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
        let query = sqlx::query_as::<_, (i64, i64, String)>(sql)
            .bind(tenant.as_str())
            .bind(signed(after))
            .bind(limit.clamp(1, PAGE))
            .bind(run.map(|run| run.to_string()));
        let limit = limit.clamp(1, PAGE) as usize;
        let mut rows = query.fetch(&self.pool);
        let mut notices = Vec::new();
        // A row holds one notice or more: reading ends with the last one that is wanted.
        while notices.len() < limit
            && let Some((first, at, json)) = rows.try_next().await?
        {
            let what: Vec<NoticeKind> = parse("notice", &json)?;
            let numbered = (unsigned(first)..)
                .zip(what)
                .map(|(seq, what)| NumberedNotice {
                    seq,
                    notice: Notice {
                        tenant: tenant.clone(),
                        at: unsigned(at),
                        what,
                    },
                });
            notices.extend(numbered.filter(|notice| notice.seq > after));
        }
        notices.truncate(limit);
        Ok(notices)
    }

    /// The number of the tenant's newest notice; 0 when there is none.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn newest_notice(&self, tenant: &TenantName) -> Result<u64, StoreError> {
        let query = sqlx::query_scalar::<_, i64>(NEWEST_NOTICE).bind(tenant.as_str());
        Ok(query.fetch_optional(&self.pool).await?.map_or(0, unsigned))
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
