//! What the core is built from: everything that can still change, and single runs that are over.
//!
//! Every statement is answered by an index over what is live, so that a start costs what is live and not what is kept.

use std::collections::{BTreeMap, BTreeSet};

use outpost_orchestrator_core::record::{
    AgentMark, AgentRecord, AttemptRecord, InviteRecord, KeyRecord, RunRecord, Snapshot, StoredRun,
    TaskRecord, TenantRecord, WorkflowRecord,
};
use outpost_proto::ids::{Fence, RecoveryEpoch, RunId};
use outpost_proto::name::TenantName;
use rusqlite::{Connection, OptionalExtension as _, Params, params};
use serde::de::DeserializeOwned;

use super::StoreError;
use super::access::signed;
use super::page::parse;

pub(super) const TENANTS: &str =
    "SELECT record FROM tenant WHERE record IS NOT NULL ORDER BY tenant";
pub(super) const STATES: &str = "SELECT record FROM workflow_state ORDER BY tenant, workflow";
pub(super) const AGENTS: &str = "SELECT agent.record, agent_mark.record FROM agent \
     LEFT JOIN agent_mark USING (tenant, agent) ORDER BY agent.tenant, agent.agent";
pub(super) const INVITES: &str =
    "SELECT record FROM invite INDEXED BY invite_by_expiry WHERE expires_at > ?1";
pub(super) const KEYS: &str = "SELECT record FROM idempotency_key \
     INDEXED BY idempotency_key_by_time WHERE at > ?1 - 172800000000";
pub(super) const UNSETTLED: &str =
    "SELECT record FROM attempt INDEXED BY attempt_unsettled WHERE unsettled = 1";
pub(super) const UNSETTLED_OF_RUN: &str =
    "SELECT record FROM attempt WHERE run = ?1 AND unsettled = 2";
pub(super) const LIVE_RUNS: &str = "SELECT record FROM run INDEXED BY run_live WHERE live = 1";
pub(super) const RUN: &str = "SELECT record FROM run WHERE run = ?1";
pub(super) const TASKS: &str = "SELECT record FROM task WHERE run = ?1 ORDER BY task";
pub(super) const CURRENT: &str =
    "SELECT record FROM workflow INDEXED BY workflow_current WHERE current = 1";
pub(super) const VERSION: &str =
    "SELECT record FROM workflow WHERE tenant = ?1 AND workflow = ?2 AND version = ?3";

/// Everything that can still change, as of `now`.
pub(super) fn snapshot(
    connection: &Connection,
    (recovery, restored_at): (RecoveryEpoch, Option<u64>),
    now: u64,
) -> Result<Snapshot, StoreError> {
    let mut attempts = rows::<AttemptRecord>(connection, "attempt", UNSETTLED, [])?;
    let runs = runs(connection, &attempts)?;
    let mut tasks = Vec::new();
    for run in &runs {
        tasks.extend(tasks_of(connection, run.run)?);
        let unsettled = rows(
            connection,
            "attempt",
            UNSETTLED_OF_RUN,
            [run.run.to_string()],
        );
        attempts.extend::<Vec<AttemptRecord>>(unsettled?);
    }
    let attempts = sorted(attempts, |attempt| attempt.attempt);
    let as_of = [signed(now)];
    let mut tenants = rows(connection, "tenant", TENANTS, [])?;
    let agents = agents(connection, &mut tenants, now)?;
    Ok(Snapshot {
        recovery,
        restored_at,
        tenants,
        workflows: workflows(connection, &runs)?,
        workflow_states: rows(connection, "workflow_state", STATES, [])?,
        runs,
        tasks,
        attempts,
        agents,
        invites: sorted(
            rows(connection, "invite", INVITES, as_of)?,
            |invite: &InviteRecord| invite.token_hash.clone(),
        ),
        keys: sorted(
            rows(connection, "idempotency_key", KEYS, as_of)?,
            |key: &KeyRecord| (key.tenant.clone(), key.key.clone()),
        ),
    })
}

/// A run of this tenant with its version and tasks, whether it is over or not.
pub(super) fn stored_run(
    connection: &Connection,
    tenant: &TenantName,
    run: RunId,
) -> Result<Option<StoredRun>, StoreError> {
    let Some(record) =
        run_record(connection, &run.to_string())?.filter(|run| run.tenant == *tenant)
    else {
        return Ok(None);
    };
    let Some(workflow) = version(connection, &record)? else {
        return Ok(None);
    };
    let tasks = tasks_of(connection, run)?;
    Ok(Some(StoredRun {
        run: record,
        workflow,
        tasks,
    }))
}

/// Runs that are live, and those of attempts whose end is unknown.
fn runs(connection: &Connection, attempts: &[AttemptRecord]) -> Result<Vec<RunRecord>, StoreError> {
    let live = rows::<RunRecord>(connection, "run", LIVE_RUNS, [])?;
    let mut runs: BTreeMap<RunId, RunRecord> = live.into_iter().map(|run| (run.run, run)).collect();
    let awaited: BTreeSet<RunId> = attempts.iter().map(|attempt| attempt.run).collect();
    for id in awaited {
        if !runs.contains_key(&id)
            && let Some(run) = run_record(connection, &id.to_string())?
        {
            runs.insert(id, run);
        }
    }
    Ok(runs.into_values().collect())
}

/// The newest version of each workflow that was not deleted, and those that `runs` are of.
fn workflows(
    connection: &Connection,
    runs: &[RunRecord],
) -> Result<Vec<WorkflowRecord>, StoreError> {
    let key = |record: &WorkflowRecord| {
        (
            record.tenant.clone(),
            record.spec.name.clone(),
            record.version,
        )
    };
    let current = rows::<WorkflowRecord>(connection, "workflow", CURRENT, [])?;
    let mut workflows: BTreeMap<_, WorkflowRecord> = current
        .into_iter()
        .map(|record| (key(&record), record))
        .collect();
    for run in runs {
        let used = (run.tenant.clone(), run.workflow.clone(), run.version);
        if !workflows.contains_key(&used)
            && let Some(record) = version(connection, run)?
        {
            workflows.insert(used, record);
        }
    }
    Ok(workflows.into_values().collect())
}

/// All agents. What their marks say of their tenants' fences counts where it is the highest.
fn agents(
    connection: &Connection,
    tenants: &mut [TenantRecord],
    now: u64,
) -> Result<Vec<AgentRecord>, StoreError> {
    let mut fences: BTreeMap<TenantName, Fence> = BTreeMap::new();
    let mut statement = connection.prepare(AGENTS)?;
    let mut rows = statement.query([])?;
    let mut agents = Vec::new();
    while let Some(row) = rows.next()? {
        let mut agent: AgentRecord = parse("agent", &row.get::<_, String>(0)?)?;
        if let Some(mark) = row.get::<_, Option<String>>(1)? {
            let mark: AgentMark = parse("agent_mark", &mark)?;
            agent.event_seq = mark.event_seq;
            agent.command_seq = mark.command_seq;
            let fence = fences.entry(mark.tenant).or_default();
            *fence = mark.next_fence.max(*fence);
        }
        agent.bring_up_to_date(now);
        agents.push(agent);
    }
    for tenant in tenants {
        let marked = fences.get(&tenant.tenant).copied().unwrap_or_default();
        tenant.next_fence = tenant.next_fence.max(marked);
    }
    Ok(agents)
}

fn run_record(connection: &Connection, run: &str) -> Result<Option<RunRecord>, StoreError> {
    one(connection, "run", RUN, [run])
}

fn tasks_of(connection: &Connection, run: RunId) -> Result<Vec<TaskRecord>, StoreError> {
    rows(connection, "task", TASKS, [run.to_string()])
}

fn version(connection: &Connection, run: &RunRecord) -> Result<Option<WorkflowRecord>, StoreError> {
    let key = params![run.tenant.as_str(), run.workflow.as_str(), run.version];
    one(connection, "workflow", VERSION, key)
}

fn rows<T: DeserializeOwned>(
    connection: &Connection,
    table: &'static str,
    sql: &str,
    params: impl Params,
) -> Result<Vec<T>, StoreError> {
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query(params)?;
    let mut records = Vec::new();
    while let Some(row) = rows.next()? {
        records.push(parse(
            table,
            row.get_ref(0)?.as_str().map_err(rusqlite::Error::from)?,
        )?);
    }
    Ok(records)
}

fn one<T: DeserializeOwned>(
    connection: &Connection,
    table: &'static str,
    sql: &str,
    params: impl Params,
) -> Result<Option<T>, StoreError> {
    let found: Option<String> = connection
        .prepare_cached(sql)?
        .query_row(params, |row| row.get(0))
        .optional()?;
    found.map(|json| parse(table, &json)).transpose()
}

fn sorted<T, K: Ord>(mut records: Vec<T>, key: impl Fn(&T) -> K) -> Vec<T> {
    records.sort_by_key(key);
    records
}
