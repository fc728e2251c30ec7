//! One burst of writes as SQL: one statement per table, whatever the number of records.
//!
//! A statement takes all records of its table as one JSON array, so a burst costs a handful of round trips to the
//! database's thread. Columns beside the record are taken out of the record by the statement itself: they cannot
//! disagree with it.

use std::collections::BTreeMap;

use outpost_orchestrator_core::record::{
    AgentRecord, AttemptRecord, InviteRecord, KeyRecord, Notice, RunRecord, TaskRecord,
    TenantRecord, WorkflowRecord, Write,
};
use outpost_proto::name::TenantName;
use serde::Serialize;
use sqlx::{Sqlite, Transaction};

use super::access::unsigned;

const TENANT: &str = "INSERT INTO tenant(tenant, created_at, record) \
    SELECT value ->> '$.tenant', 0, value FROM json_each(?1) WHERE true \
    ON CONFLICT DO UPDATE SET record = excluded.record";
const WORKFLOW: &str = "INSERT INTO workflow(tenant, workflow, version, applied_at, record) \
    SELECT value ->> '$.tenant', value ->> '$.spec.name', value ->> '$.version', value ->> '$.applied_at', value \
    FROM json_each(?1) WHERE true \
    ON CONFLICT DO UPDATE SET applied_at = excluded.applied_at, record = excluded.record";
const AGENT: &str = "INSERT INTO agent(tenant, agent, enrolled_at, removed, record) \
    SELECT value ->> '$.tenant', value ->> '$.agent', value ->> '$.enrolled_at', value ->> '$.removed', value \
    FROM json_each(?1) WHERE true \
    ON CONFLICT DO UPDATE SET enrolled_at = excluded.enrolled_at, removed = excluded.removed, \
    record = excluded.record";
const INVITE: &str = "INSERT INTO invite(token_hash, tenant, agent, expires_at, record) \
    SELECT value ->> '$.token_hash', value ->> '$.tenant', value ->> '$.agent', value ->> '$.expires_at', value \
    FROM json_each(?1) WHERE true \
    ON CONFLICT DO UPDATE SET tenant = excluded.tenant, agent = excluded.agent, expires_at = excluded.expires_at, \
    record = excluded.record";
const RUN: &str = "INSERT INTO run(run, tenant, workflow, version, state, created_at, finished_at, record) \
    SELECT value ->> '$.run', value ->> '$.tenant', value ->> '$.workflow', value ->> '$.version', \
    value ->> '$.state', value ->> '$.created_at', value ->> '$.finished_at', value FROM json_each(?1) WHERE true \
    ON CONFLICT DO UPDATE SET state = excluded.state, finished_at = excluded.finished_at, record = excluded.record";
const TASK: &str = "INSERT INTO task(run, task, state, record) \
    SELECT value ->> '$.run', value ->> '$.task', value ->> '$.state.is', value FROM json_each(?1) WHERE true \
    ON CONFLICT DO UPDATE SET state = excluded.state, record = excluded.record";
const ATTEMPT: &str = "INSERT INTO attempt(attempt, tenant, run, task, agent, phase, unsettled, assigned_at, record) \
    SELECT value ->> '$.attempt', value ->> '$.tenant', value ->> '$.run', value ->> '$.task', value ->> '$.agent', \
    value ->> '$.phase.is', \
    CASE value ->> '$.phase.is' WHEN 'finished' THEN 0 WHEN 'lost' THEN value ->> '$.late' IS NULL ELSE 1 END, \
    value ->> '$.assigned_at', value FROM json_each(?1) WHERE true \
    ON CONFLICT DO UPDATE SET phase = excluded.phase, unsettled = excluded.unsettled, record = excluded.record";
const KEY: &str = "INSERT INTO idempotency_key(tenant, key, run, at, record) \
    SELECT value ->> '$.tenant', value ->> '$.key', value ->> '$.run', value ->> '$.at', value \
    FROM json_each(?1) WHERE true \
    ON CONFLICT DO UPDATE SET run = excluded.run, at = excluded.at, record = excluded.record";
const NOTICE: &str = "INSERT INTO notice(tenant, run, at, record) \
    SELECT value ->> '$.tenant', value ->> '$.run', value ->> '$.at', value FROM json_each(?1) ORDER BY key \
    RETURNING tenant, seq";

/// The records of a burst by table. Of several writes of one thing the last one counts: records are whole.
#[derive(Default)]
pub(super) struct Batch<'a> {
    tenants: BTreeMap<&'a str, &'a TenantRecord>,
    workflows: BTreeMap<(&'a str, &'a str, u32), &'a WorkflowRecord>,
    agents: BTreeMap<(&'a str, &'a str), &'a AgentRecord>,
    invites: BTreeMap<&'a str, &'a InviteRecord>,
    runs: BTreeMap<u128, &'a RunRecord>,
    tasks: BTreeMap<(u128, u16), &'a TaskRecord>,
    attempts: BTreeMap<u128, &'a AttemptRecord>,
    keys: BTreeMap<(&'a str, &'a str), &'a KeyRecord>,
    notices: Vec<&'a Notice>,
}

impl<'a> Batch<'a> {
    pub(super) fn new(writes: &'a [Write]) -> Self {
        let mut batch = Self::default();
        for write in writes {
            batch.add(write);
        }
        batch
    }

    fn add(&mut self, write: &'a Write) {
        match write {
            Write::Tenant(record) => {
                self.tenants.insert(record.tenant.as_str(), record);
            }
            Write::Workflow(record) => {
                let key = (
                    record.tenant.as_str(),
                    record.spec.name.as_str(),
                    record.version,
                );
                self.workflows.insert(key, record);
            }
            Write::Agent(record) => {
                self.agents
                    .insert((record.tenant.as_str(), record.agent.as_str()), record);
            }
            Write::Invite(record) => {
                self.invites.insert(&record.token_hash, record);
            }
            Write::WorkflowState(_) | Write::AgentMark(_) => {}
            Write::Run(record) => {
                self.runs.insert(record.run.0, record);
            }
            Write::Task(record) => {
                self.tasks.insert((record.run.0, record.task.0), record);
            }
            Write::Attempt(record) => {
                self.attempts.insert(record.attempt.0, record);
            }
            Write::Key(record) => {
                self.keys
                    .insert((record.tenant.as_str(), &record.key), record);
            }
            Write::Notice(notice) => self.notices.push(notice),
        }
    }

    /// Writes everything; what is referred to comes before what refers to it. Answers the newest notice of each tenant.
    pub(super) async fn write(
        self,
        tx: &mut Transaction<'_, Sqlite>,
    ) -> sqlx::Result<Vec<(TenantName, u64)>> {
        upsert(tx, TENANT, self.tenants.values()).await?;
        upsert(tx, WORKFLOW, self.workflows.values()).await?;
        upsert(tx, AGENT, self.agents.values()).await?;
        upsert(tx, INVITE, self.invites.values()).await?;
        upsert(tx, RUN, self.runs.values()).await?;
        upsert(tx, TASK, self.tasks.values()).await?;
        upsert(tx, ATTEMPT, self.attempts.values()).await?;
        upsert(tx, KEY, self.keys.values()).await?;
        number(tx, &self.notices).await
    }
}

async fn upsert<R: Serialize>(
    tx: &mut Transaction<'_, Sqlite>,
    sql: &'static str,
    records: impl ExactSizeIterator<Item = R>,
) -> sqlx::Result<()> {
    if records.len() == 0 {
        return Ok(());
    }
    sqlx::query(sql)
        .bind(json(records.collect())?)
        .execute(&mut **tx)
        .await?;
    Ok(())
}

async fn number(
    tx: &mut Transaction<'_, Sqlite>,
    notices: &[&Notice],
) -> sqlx::Result<Vec<(TenantName, u64)>> {
    if notices.is_empty() {
        return Ok(Vec::new());
    }
    let query = sqlx::query_as::<_, (String, i64)>(NOTICE).bind(json(notices.to_vec())?);
    let mut newest: BTreeMap<TenantName, u64> = BTreeMap::new();
    for (tenant, seq) in query.fetch_all(&mut **tx).await? {
        let tenant = tenant
            .parse()
            .map_err(|error| sqlx::Error::Decode(Box::new(error)))?;
        let known = newest.entry(tenant).or_default();
        *known = unsigned(seq).max(*known);
    }
    Ok(newest.into_iter().collect())
}

fn json<R: Serialize>(records: Vec<R>) -> sqlx::Result<String> {
    serde_json::to_string(&records).map_err(|error| sqlx::Error::Encode(Box::new(error)))
}
