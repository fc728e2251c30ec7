//! One burst of writes as SQL: prepared statements, one execution per record, all within the caller's transaction.
//!
//! Records are whole, so of several writes of one thing only the last one is written, and of several notices about one
//! thing only the last one is told: what nobody could read in between did not happen. Columns beside a record repeat
//! what lists filter and sort by.

use std::collections::{BTreeMap, BTreeSet};

use outpost_orchestrator_core::record::{
    AgentMark, AgentRecord, AttemptRecord, InviteRecord, KeyRecord, Notice, NoticeKind, Phase,
    RunRecord, TaskRecord, TenantRecord, WorkflowRecord, WorkflowStateRecord, Write,
};
use outpost_proto::ids::RunId;
use outpost_proto::name::TenantName;
use rusqlite::{Connection, Result, params};
use serde::Serialize;

use super::access::signed;
use super::runs::{is_live, state_word};

const TENANT: &str = "INSERT INTO tenant(tenant, created_at, record) VALUES (?1, 0, ?2) \
    ON CONFLICT DO UPDATE SET record = excluded.record";
const WORKFLOW: &str = "INSERT INTO workflow(tenant, workflow, version, applied_at, record) VALUES (?1, ?2, ?3, ?4, ?5) \
    ON CONFLICT DO UPDATE SET applied_at = excluded.applied_at, record = excluded.record";
const WORKFLOW_STATE: &str = "INSERT INTO workflow_state(tenant, workflow, record) VALUES (?1, ?2, ?3) \
    ON CONFLICT DO UPDATE SET record = excluded.record";
const OLDER_VERSIONS: &str = "UPDATE workflow SET current = NULL \
    WHERE tenant = ?1 AND workflow = ?2 AND current IS NOT NULL \
    AND version < (SELECT max(version) FROM workflow WHERE tenant = ?1 AND workflow = ?2)";
/// A row with its source is not rewritten for what it says already.
const NEWEST_VERSION: &str = "WITH wanted(current) AS (SELECT CASE WHEN EXISTS \
    (SELECT 1 FROM workflow_state WHERE tenant = ?1 AND workflow = ?2 AND record ->> '$.deleted') THEN 2 ELSE 1 END) \
    UPDATE workflow SET current = (SELECT current FROM wanted) WHERE tenant = ?1 AND workflow = ?2 \
    AND version = (SELECT max(version) FROM workflow WHERE tenant = ?1 AND workflow = ?2) \
    AND current IS NOT (SELECT current FROM wanted)";
const AGENT: &str = "INSERT INTO agent(tenant, agent, enrolled_at, removed, record) VALUES (?1, ?2, ?3, ?4, ?5) \
    ON CONFLICT DO UPDATE SET enrolled_at = excluded.enrolled_at, removed = excluded.removed, record = excluded.record";
const NO_MARK: &str = "DELETE FROM agent_mark WHERE tenant = ?1 AND agent = ?2";
const MARK: &str = "INSERT INTO agent_mark(tenant, agent, record) VALUES (?1, ?2, ?3) \
    ON CONFLICT DO UPDATE SET record = excluded.record";
const INVITE: &str = "INSERT INTO invite(token_hash, tenant, agent, expires_at, record) VALUES (?1, ?2, ?3, ?4, ?5) \
    ON CONFLICT DO UPDATE SET tenant = excluded.tenant, agent = excluded.agent, expires_at = excluded.expires_at, \
    record = excluded.record";
/// The conflict is named: a second run of one instant of a schedule is an error, not a change of the first.
const RUN: &str = "INSERT INTO run(run, tenant, workflow, version, state, live, agent, scheduled_for, created_at, \
    finished_at, record) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11) \
    ON CONFLICT (run) DO UPDATE SET state = excluded.state, live = excluded.live, agent = excluded.agent, \
    finished_at = excluded.finished_at, record = excluded.record";
/// A run that ends where it is known to run: the index over agents has nothing to learn.
const RUN_ENDS: &str = "UPDATE run SET state = ?2, live = 0, finished_at = ?3, record = ?4 \
    WHERE run = ?1 AND live = 1 AND agent IS ?5";
const TASK: &str = "INSERT INTO task(run, task, record) VALUES (?1, ?2, ?3) \
    ON CONFLICT DO UPDATE SET record = excluded.record";
const TASK_AGAIN: &str = "UPDATE task SET record = ?3 WHERE run = ?1 AND task = ?2";
/// Changes no row when the attempt is there and settles: naming a column of an index costs even if it stays the same.
/// Unsettled is 2 while the run is live, by which it is found then, else 1: only these stand in an index of their own.
const ATTEMPT: &str = "INSERT INTO attempt(run, task, attempt, unsettled, record) VALUES (?1, ?2, ?3, \
    CASE WHEN NOT ?4 THEN 0 WHEN (SELECT live FROM run WHERE run = ?1) THEN 2 ELSE 1 END, ?5) \
    ON CONFLICT (run, task, attempt) DO UPDATE SET record = excluded.record WHERE unsettled = excluded.unsettled";
/// By the place that is written to; the index over ids alone would be one more to search.
const ATTEMPT_AGAIN: &str = "UPDATE attempt SET record = ?5 \
    WHERE run = ?1 AND task = ?2 AND +attempt = ?3 AND (unsettled > 0) = ?4";
const ATTEMPT_SETTLES: &str = "UPDATE attempt SET record = ?5, \
    unsettled = CASE WHEN NOT ?4 THEN 0 WHEN (SELECT live FROM run WHERE run = ?1) THEN 2 ELSE 1 END \
    WHERE run = ?1 AND task = ?2 AND +attempt = ?3";
/// What a run leaves behind that is over is not found by it any more.
const LEFT_BEHIND: &str = "UPDATE attempt SET unsettled = 1 WHERE run = ?1 AND unsettled = 2";
const KEY: &str = "INSERT INTO idempotency_key(tenant, key, at, record) VALUES (?1, ?2, ?3, ?4) \
    ON CONFLICT DO UPDATE SET at = excluded.at, record = excluded.record";
const NOTICE: &str =
    "INSERT INTO notice(tenant, seq, first, run, at, record) VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
/// Notices of one row: a reader that wants a few need not read many.
const TOGETHER: usize = 64;

/// All of them.
#[cfg(test)]
pub(super) const STATEMENTS: [&str; 19] = [
    TENANT,
    WORKFLOW,
    WORKFLOW_STATE,
    OLDER_VERSIONS,
    NEWEST_VERSION,
    AGENT,
    NO_MARK,
    MARK,
    INVITE,
    RUN,
    RUN_ENDS,
    TASK,
    TASK_AGAIN,
    ATTEMPT,
    ATTEMPT_AGAIN,
    ATTEMPT_SETTLES,
    LEFT_BEHIND,
    KEY,
    NOTICE,
];

/// The records of a burst by table.
#[derive(Default)]
pub(super) struct Batch<'a> {
    tenants: BTreeMap<&'a str, &'a TenantRecord>,
    workflows: BTreeMap<(&'a str, &'a str, u32), &'a WorkflowRecord>,
    workflow_states: BTreeMap<(&'a str, &'a str), &'a WorkflowStateRecord>,
    agents: BTreeMap<(&'a str, &'a str), &'a AgentRecord>,
    marks: BTreeMap<(&'a str, &'a str), &'a AgentMark>,
    invites: BTreeMap<&'a str, &'a InviteRecord>,
    runs: BTreeMap<u128, &'a RunRecord>,
    tasks: BTreeMap<(u128, u16), &'a TaskRecord>,
    attempts: BTreeMap<(u128, u16, u128), &'a AttemptRecord>,
    keys: BTreeMap<(&'a str, &'a str), &'a KeyRecord>,
    notices: Vec<&'a Notice>,
}

/// What a notice is about; later ones about the same thing replace earlier ones of the burst.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum About<'a> {
    Run(u128),
    Task(u128, u16),
    Attempt(u128),
    Agent(&'a str, &'a str),
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
                let (tenant, name) = (record.tenant.as_str(), record.spec.name.as_str());
                self.workflows
                    .insert((tenant, name, record.version), record);
            }
            Write::WorkflowState(record) => {
                let key = (record.tenant.as_str(), record.workflow.as_str());
                self.workflow_states.insert(key, record);
            }
            Write::Agent(record) => {
                let key = (record.tenant.as_str(), record.agent.as_str());
                self.agents.insert(key, record);
                self.marks.remove(&key);
            }
            Write::AgentMark(mark) => {
                self.marks
                    .insert((mark.tenant.as_str(), mark.agent.as_str()), mark);
            }
            Write::Invite(record) => {
                self.invites.insert(&record.token_hash, record);
            }
            Write::Run(record) => {
                self.runs.insert(record.run.0, record);
            }
            Write::Task(record) => {
                self.tasks.insert((record.run.0, record.task.0), record);
            }
            Write::Attempt(record) => {
                let key = (record.run.0, record.task.0, record.attempt.0);
                self.attempts.insert(key, record);
            }
            Write::Key(record) => {
                self.keys
                    .insert((record.tenant.as_str(), &record.key), record);
            }
            Write::Notice(notice) => self.notices.push(notice),
        }
    }

    /// Writes everything; what is referred to comes before what refers to it. `next` is the next notice's number and
    /// grows. Answers the newest notice of each tenant.
    pub(super) fn write(
        self,
        tx: &Connection,
        next: &mut u64,
    ) -> Result<BTreeMap<TenantName, u64>> {
        self.write_rare(tx)?;
        self.write_runs(tx)?;
        for record in self.keys.values() {
            let (tenant, at) = (record.tenant.as_str(), signed(record.at));
            tx.prepare_cached(KEY)?
                .execute(params![tenant, record.key, at, json(record)?])?;
        }
        self.number(tx, next)
    }

    fn write_rare(&self, tx: &Connection) -> Result<()> {
        for (tenant, record) in &self.tenants {
            tx.prepare_cached(TENANT)?
                .execute(params![tenant, json(record)?])?;
        }
        self.write_workflows(tx)?;
        for ((tenant, agent), record) in &self.agents {
            let (at, json) = (signed(record.enrolled_at), json(record)?);
            tx.prepare_cached(AGENT)?
                .execute(params![tenant, agent, at, record.removed, json])?;
            tx.prepare_cached(NO_MARK)?
                .execute(params![tenant, agent])?;
        }
        for ((tenant, agent), mark) in &self.marks {
            tx.prepare_cached(MARK)?
                .execute(params![tenant, agent, json(mark)?])?;
        }
        for (hash, record) in &self.invites {
            let (tenant, agent) = (record.tenant.as_str(), record.agent.as_str());
            let (at, json) = (signed(record.expires_at), json(record)?);
            tx.prepare_cached(INVITE)?
                .execute(params![hash, tenant, agent, at, json])?;
        }
        Ok(())
    }

    fn write_workflows(&self, tx: &Connection) -> Result<()> {
        for ((tenant, name, version), record) in &self.workflows {
            let (at, json) = (signed(record.applied_at), json(record)?);
            tx.prepare_cached(WORKFLOW)?
                .execute(params![tenant, name, version, at, json])?;
        }
        for ((tenant, name), record) in &self.workflow_states {
            tx.prepare_cached(WORKFLOW_STATE)?
                .execute(params![tenant, name, json(record)?])?;
        }
        let applied = self
            .workflows
            .keys()
            .map(|(tenant, name, _)| (*tenant, *name));
        let touched: BTreeSet<_> = applied
            .chain(self.workflow_states.keys().copied())
            .collect();
        for (tenant, name) in touched {
            for sql in [OLDER_VERSIONS, NEWEST_VERSION] {
                tx.prepare_cached(sql)?.execute(params![tenant, name])?;
            }
        }
        Ok(())
    }

    fn write_runs(&self, tx: &Connection) -> Result<()> {
        for record in self.runs.values() {
            write_run(tx, record)?;
        }
        let mut update = tx.prepare_cached(TASK_AGAIN)?;
        let mut insert = tx.prepare_cached(TASK)?;
        for ((run, task), record) in &self.tasks {
            let (run, json) = (id(*run), json(record)?);
            let row = params![run, task, json];
            // What was tried is there already.
            if record.attempts == 0 || update.execute(row)? == 0 {
                insert.execute(row)?;
            }
        }
        let mut update = tx.prepare_cached(ATTEMPT_AGAIN)?;
        let mut insert = tx.prepare_cached(ATTEMPT)?;
        let mut settle = tx.prepare_cached(ATTEMPT_SETTLES)?;
        for ((run, task, attempt), record) in &self.attempts {
            let (run, attempt, unsettled) = (id(*run), id(*attempt), unsettled(record));
            let json = json(record)?;
            let row = params![run, task, attempt, unsettled, json];
            let known = match record.phase {
                Phase::Assigned => false,
                Phase::Accepted | Phase::Starting | Phase::Running => update.execute(row)? > 0,
                Phase::Finished { .. } | Phase::Lost { .. } => settle.execute(row)? > 0,
            };
            if !known && insert.execute(row)? == 0 {
                settle.execute(row)?;
            }
        }
        for record in self.runs.values().filter(|run| !is_live(run.state)) {
            tx.prepare_cached(LEFT_BEHIND)?
                .execute([id(record.run.0)])?;
        }
        Ok(())
    }

    fn number(&self, tx: &Connection, next: &mut u64) -> Result<BTreeMap<TenantName, u64>> {
        let mut newest = BTreeMap::new();
        if self.notices.is_empty() {
            return Ok(newest);
        }
        let mut insert = tx.prepare_cached(NOTICE)?;
        for (notice, what) in together(&self.notices) {
            let (first, count) = (*next, u64::try_from(what.len()).unwrap_or(u64::MAX));
            *next = first.saturating_add(count);
            let seq = next.saturating_sub(1);
            insert.execute(params![
                notice.tenant.as_str(),
                signed(seq),
                signed(first),
                run_of(&notice.what).map(|run| id(run.0)),
                signed(notice.at),
                json(&what)?,
            ])?;
            newest.insert(notice.tenant.clone(), seq);
        }
        Ok(newest)
    }
}

fn write_run(tx: &Connection, record: &RunRecord) -> Result<()> {
    let (run, state, json) = (id(record.run.0), state_word(record.state), json(record)?);
    let agent = record.agent.as_ref().map(|agent| agent.as_str());
    let finished_at = record.finished_at.map(signed);
    if !is_live(record.state) {
        let row = params![run, state, finished_at, json, agent];
        if tx.prepare_cached(RUN_ENDS)?.execute(row)? > 0 {
            return Ok(());
        }
    }
    let row = params![
        run,
        record.tenant.as_str(),
        record.workflow.as_str(),
        record.version,
        state,
        is_live(record.state),
        agent,
        record.scheduled_for.map(signed),
        signed(record.created_at),
        finished_at,
        json,
    ];
    tx.prepare_cached(RUN)?.execute(row).map(|_| ())
}

/// Rows of notices: one of them, for what they have in common, and what all of them say. In the order of their first
/// ones; within a burst nobody sees which run was first.
fn together<'a>(notices: &[&'a Notice]) -> Vec<(&'a Notice, Vec<&'a NoticeKind>)> {
    let mut rows: Vec<(&Notice, Vec<&NoticeKind>)> = Vec::new();
    let mut open = BTreeMap::new();
    for notice in told(notices) {
        let run = run_of(&notice.what).map(|run| run.0);
        let common = (notice.tenant.as_str(), run, notice.at);
        let row = open
            .get(&common)
            .and_then(|place: &usize| rows.get_mut(*place));
        match row.filter(|(_, what)| what.len() < TOGETHER) {
            Some((_, what)) => what.push(&notice.what),
            None => {
                open.insert(common, rows.len());
                rows.push((notice, vec![&notice.what]));
            }
        }
    }
    rows
}

/// The last notice about each thing, in their order.
fn told<'a>(notices: &[&'a Notice]) -> Vec<&'a Notice> {
    let mut seen = BTreeSet::new();
    let mut told: Vec<&Notice> = notices
        .iter()
        .rev()
        .filter(|notice| about(notice).is_none_or(|about| seen.insert(about)))
        .copied()
        .collect();
    told.reverse();
    told
}

fn about(notice: &Notice) -> Option<About<'_>> {
    match &notice.what {
        NoticeKind::Run { run, .. } => Some(About::Run(run.0)),
        NoticeKind::Task { run, task, .. } => Some(About::Task(run.0, task.0)),
        NoticeKind::Attempt { attempt, .. } => Some(About::Attempt(attempt.0)),
        NoticeKind::Agent { agent, .. } => {
            Some(About::Agent(notice.tenant.as_str(), agent.as_str()))
        }
        NoticeKind::Workflow { .. } | NoticeKind::Skipped { .. } | NoticeKind::Safety { .. } => {
            None
        }
    }
}

fn run_of(what: &NoticeKind) -> Option<RunId> {
    match what {
        NoticeKind::Run { run, .. }
        | NoticeKind::Task { run, .. }
        | NoticeKind::Attempt { run, .. } => Some(*run),
        NoticeKind::Agent { .. }
        | NoticeKind::Workflow { .. }
        | NoticeKind::Skipped { .. }
        | NoticeKind::Safety { .. } => None,
    }
}

/// Whether its end is not known yet, or it was given up and may still be reported.
fn unsettled(record: &AttemptRecord) -> bool {
    match record.phase {
        Phase::Assigned | Phase::Accepted | Phase::Starting | Phase::Running => true,
        Phase::Lost { .. } => record.late.is_none(),
        Phase::Finished { .. } => false,
    }
}

fn id(id: u128) -> String {
    format!("{id:032x}")
}

fn json(record: &impl Serialize) -> Result<String> {
    serde_json::to_string(record)
        .map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))
}
