//! How long what is over is kept, and its deletion a little at a time.
//!
//! The driver calls [`super::sqlite::Sqlite::prune`] between turns. Each call deletes for a bounded time in small
//! transactions, so that no burst waits long, and says whether more is to be done.

use std::time::Duration;

use outpost_orchestrator_core::limits::KEY_TTL_MS;
use rusqlite::{Connection, Transaction, TransactionBehavior, params};

use super::access::signed;

/// Rows deleted in one transaction.
const ROWS: i64 = 500;
/// How long one call may go on beginning transactions.
pub(super) const PATIENCE: Duration = Duration::from_millis(10);
/// Runs looked at in one transaction.
const LOOKED_AT: i64 = 200;
/// The newest runs of each workflow, kept whatever their age: what runs once a year is still seen to have run.
const NEWEST: i64 = 10;
/// How long the runs are left alone after all of them were looked at.
const REST_US: u64 = 10 * 60 * 1_000_000;
/// How long idempotency keys are kept.
const KEY_LIFE_US: u64 = KEY_TTL_MS * 1000;
/// Notices are kept for a day at least.
const SHORTEST: Duration = Duration::from_secs(24 * 60 * 60);
/// Nothing that a key refers to is deleted.
const SHORTEST_RUNS: Duration = Duration::from_millis(KEY_TTL_MS);

/// How long what is over is kept. Shorter times than a day count as a day, and for runs as two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Notices: for how long an event stream can be picked up again.
    pub notices: Duration,
    /// Runs that are over, with their tasks and attempts; the newest ten of each workflow stay. `None` keeps all.
    pub runs: Option<Duration>,
}

impl Default for Retention {
    /// A week of notices and 90 days of runs.
    fn default() -> Self {
        let day = Duration::from_secs(24 * 60 * 60);
        Self {
            notices: 7 * day,
            runs: Some(90 * day),
        }
    }
}

/// Where the deletion stands.
#[derive(Debug, Default)]
pub(super) struct Sweep {
    /// After this run, in the order of tenants and times.
    after: (String, i64, String),
    /// Runs are left alone until then.
    rest_until: u64,
}

pub(super) const TENANTS: &str = "WITH RECURSIVE t(tenant) AS (SELECT min(tenant) FROM notice UNION ALL \
     SELECT (SELECT min(tenant) FROM notice WHERE tenant > t.tenant) FROM t WHERE t.tenant IS NOT NULL) \
     SELECT tenant FROM t WHERE tenant IS NOT NULL";
pub(super) const NOTICES: &str = "DELETE FROM notice WHERE tenant = ?1 AND seq IN \
     (SELECT seq FROM notice WHERE tenant = ?1 AND seq < ?2 ORDER BY seq LIMIT ?4) AND at < ?3";
pub(super) const KEYS: &str = "DELETE FROM idempotency_key WHERE (tenant, key) IN \
     (SELECT tenant, key FROM idempotency_key INDEXED BY idempotency_key_by_time WHERE at < ?1 LIMIT ?2)";
pub(super) const INVITES: &str = "DELETE FROM invite WHERE token_hash IN \
     (SELECT token_hash FROM invite INDEXED BY invite_by_expiry WHERE expires_at < ?1 LIMIT ?2)";
/// The next runs of a walk over all of them, and whether each may go.
pub(super) const RUNS: &str = "SELECT tenant, created_at, run, \
     live = 0 AND finished_at < ?4 AND NOT EXISTS \
     (SELECT 1 FROM attempt INDEXED BY attempt_unsettled WHERE attempt.run = r.run AND unsettled = 1) \
     AND (SELECT count(*) FROM (SELECT 1 FROM run AS n INDEXED BY run_by_workflow \
     WHERE n.tenant = r.tenant AND n.workflow = r.workflow AND n.created_at > r.created_at LIMIT ?5)) = ?5 \
     FROM run AS r INDEXED BY run_by_time WHERE (tenant, created_at, run) > (?1, ?2, ?3) \
     ORDER BY tenant, created_at, run LIMIT ?6";
pub(super) const ATTEMPTS: &str = "DELETE FROM attempt WHERE run = ?1 AND (task, attempt) IN \
     (SELECT task, attempt FROM attempt WHERE run = ?1 LIMIT ?2)";
pub(super) const TASKS: &str = "DELETE FROM task WHERE run = ?1";
pub(super) const RUN: &str = "DELETE FROM run WHERE run = ?1";

/// A run met on the walk.
struct Met {
    tenant: String,
    created_at: i64,
    run: String,
    may_go: bool,
}

impl Retention {
    fn notices_us(&self) -> u64 {
        micros(self.notices.max(SHORTEST))
    }

    fn runs_us(&self) -> Option<u64> {
        self.runs.map(|runs| micros(runs.max(SHORTEST_RUNS)))
    }
}

/// One transaction's worth of deletions; `false` when there is nothing more to delete now. `next` is the next notice's
/// number: the newest notice stays, so that no number is used twice.
pub(super) fn step(
    connection: &mut Connection,
    retention: &Retention,
    sweep: &mut Sweep,
    next: u64,
    now: u64,
) -> rusqlite::Result<bool> {
    let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let before = now.saturating_sub(retention.notices_us());
    let mut more = notices(&tx, next.saturating_sub(1), before)?;
    for (sql, before) in [(KEYS, now.saturating_sub(KEY_LIFE_US)), (INVITES, now)] {
        let gone = tx
            .prepare_cached(sql)?
            .execute(params![signed(before), ROWS])?;
        more |= is_full(gone);
    }
    if let Some(keep) = retention.runs_us().filter(|_| now >= sweep.rest_until) {
        more |= runs(&tx, sweep, now.saturating_sub(keep))?;
        if sweep.after == Sweep::default().after {
            sweep.rest_until = now.saturating_add(REST_US);
        }
    }
    tx.commit()?;
    Ok(more)
}

fn notices(tx: &Transaction<'_>, newest: u64, before: u64) -> rusqlite::Result<bool> {
    let tenants: Vec<String> = tx
        .prepare_cached(TENANTS)?
        .query_map([], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    let mut more = false;
    for tenant in tenants {
        let row = params![tenant, signed(newest), signed(before), ROWS];
        more |= is_full(tx.prepare_cached(NOTICES)?.execute(row)?);
    }
    Ok(more)
}

/// Goes on with the walk; `false` once it is at its end, from where it begins again.
fn runs(tx: &Transaction<'_>, sweep: &mut Sweep, before: u64) -> rusqlite::Result<bool> {
    let (tenant, at, run) = &sweep.after;
    let met: Vec<Met> = tx
        .prepare_cached(RUNS)?
        .query_map(
            params![tenant, at, run, signed(before), NEWEST, LOOKED_AT],
            |row| {
                Ok(Met {
                    tenant: row.get(0)?,
                    created_at: row.get(1)?,
                    run: row.get(2)?,
                    may_go: row.get::<_, Option<bool>>(3)?.unwrap_or(false),
                })
            },
        )?
        .collect::<rusqlite::Result<_>>()?;
    let at_end = met.len() < usize::try_from(LOOKED_AT).unwrap_or(usize::MAX);
    let mut deleted = 0;
    for met in met {
        if met.created_at >= signed(before) {
            // The rest of this tenant is younger still.
            sweep.after = (met.tenant, i64::MAX, String::new());
            return Ok(true);
        }
        if met.may_go {
            let attempts = tx
                .prepare_cached(ATTEMPTS)?
                .execute(params![met.run, ROWS])?;
            deleted += attempts;
            if is_full(attempts) {
                return Ok(true);
            }
            deleted += tx.prepare_cached(TASKS)?.execute([&met.run])?;
            deleted += tx.prepare_cached(RUN)?.execute([&met.run])?;
        }
        sweep.after = (met.tenant, met.created_at, met.run);
        if is_full(deleted) {
            return Ok(true);
        }
    }
    if at_end {
        sweep.after = Sweep::default().after;
    }
    Ok(!at_end)
}

fn is_full(rows: usize) -> bool {
    i64::try_from(rows).unwrap_or(i64::MAX) >= ROWS
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
