//! What people and programs ask of one tenant. Each question is answered once its effects are durable, and a denied one
//! changed nothing. Runs are made and cancelled here; workflows, reruns, agents and invitations have files of their own.

use std::collections::BTreeMap;
use std::sync::Arc;

use outpost_proto::ids::{AttemptId, RunId, TaskIndex};
use outpost_proto::message::ParamValue;
use outpost_proto::name::{ParamName, WorkflowName};
use sha2::{Digest, Sha256};

use crate::agent::Agent;
use crate::enrol::Invites;
use crate::event::{Answer, Ask, Denied};
use crate::limits::{KEY_LEN, KEYS, RUNS};
use crate::params::{check_bounds, fill};
use crate::record::{KeyRecord, Phase, RunRecord, RunState, TaskState, Write};
use crate::run::{Run, Workflow};
use crate::tenant::{Ctx, Due, Tenant, key_expiry};
use crate::workflows::Applying;

pub(crate) fn decide(
    tenant: &mut Tenant,
    ctx: &mut Ctx<'_>,
    invites: &mut Invites,
    ask: &Ask,
) -> Result<Answer, Denied> {
    match ask {
        Ask::Apply {
            spec,
            source,
            allow_unknown_entries,
            dry_run,
            expected_version,
        } => {
            let applying = Applying {
                spec,
                source,
                allow_unknown_entries: *allow_unknown_entries,
                dry_run: *dry_run,
                expected_version: *expected_version,
            };
            tenant.apply(ctx, &applying)
        }
        Ask::DeleteWorkflow {
            workflow,
            expected_version,
        } => tenant.delete_workflow(ctx, workflow, *expected_version),
        Ask::PauseWorkflow { workflow, paused } => tenant.pause_workflow(ctx, workflow, *paused),
        Ask::Workflows => Ok(Answer::Workflows(tenant.workflow_views())),
        Ask::Upcoming { workflow, count } => tenant.upcoming(ctx, workflow, *count),
        Ask::Rerun { run, tasks, stored } => {
            tenant.rerun(ctx, *run, tasks.as_deref(), stored.as_deref())
        }
        Ask::Trigger {
            workflow,
            params,
            key,
        } => tenant.trigger(ctx, workflow, params, key.as_deref()),
        Ask::Cancel { run } => tenant.cancel(ctx, *run),
        Ask::Explain { run } => tenant.explain(ctx, *run),
        Ask::Agents => Ok(Answer::Agents(
            tenant.agents.values().map(Agent::view).collect(),
        )),
        Ask::ConfigureAgent { agent, change } => tenant.configure_agent(ctx, agent, change),
        Ask::Invite {
            agent,
            token_hash,
            ttl_ms,
        } => tenant.invite(ctx, invites, agent, token_hash, *ttl_ms),
        Ask::RemoveAgent { agent } => tenant.remove_agent(ctx, invites, agent),
        Ask::ResolveAgent { agent, keep, by } => tenant.resolve_agent(ctx, agent, *keep, by),
        Ask::Recovery => Ok(Answer::Recovery(tenant.recovery_view(ctx))),
        Ask::Continue { by } => tenant.go_on(ctx, by),
        Ask::Unfreeze { by } => tenant.unfreeze(ctx, by),
        Ask::AssertDead {
            attempt,
            by,
            reason,
        } => tenant.assert_dead(ctx, *attempt, by, reason),
    }
}

impl Tenant {
    pub(crate) fn trigger(
        &mut self,
        ctx: &mut Ctx<'_>,
        workflow: &WorkflowName,
        params: &BTreeMap<ParamName, ParamValue>,
        key: Option<&str>,
    ) -> Result<Answer, Denied> {
        let given = params;
        if let Some(known) = key.and_then(|key| self.keys.get(key)) {
            let same = |known: &String| *known == request(workflow, given);
            let same = known.request.as_ref().is_none_or(same);
            if known.workflow != *workflow || !same {
                return Err(Denied::KeyReused);
            }
            return Ok(Answer::Triggered {
                run: known.run,
                created: false,
            });
        }
        let Some(current) = self.living(workflow).cloned() else {
            return Err(Denied::UnknownWorkflow(workflow.clone()));
        };
        let params = fill(&current.record.spec, params)?;
        check_bounds(&current.record.spec, &params)?;
        if self.tallies.runs() >= RUNS {
            return Err(Denied::Limit(format!(
                "{RUNS} runs of this tenant are live, which is the limit: wait for some to end, or cancel some"
            )));
        }
        if let Some(key) = key {
            self.may_keep(key)?;
        }
        let run = self.make_run(ctx, current, params, None);
        if let Some(key) = key {
            self.keep_key(ctx, key, workflow, request(workflow, given), run);
        }
        Ok(Answer::Triggered { run, created: true })
    }

    fn may_keep(&self, key: &str) -> Result<(), Denied> {
        if key.is_empty()
            || key.len() > KEY_LEN
            || !key.bytes().all(|byte| (b' '..=b'~').contains(&byte))
        {
            return Err(Denied::Limit(format!(
                "an idempotency key has 1 to {KEY_LEN} printable ASCII characters"
            )));
        }
        if self.keys.len() >= KEYS {
            return Err(Denied::Limit(format!(
                "this tenant used {KEYS} idempotency keys within two days, which is the limit"
            )));
        }
        Ok(())
    }

    fn keep_key(
        &mut self,
        ctx: &mut Ctx<'_>,
        key: &str,
        workflow: &WorkflowName,
        request: String,
        run: RunId,
    ) {
        let record = KeyRecord {
            tenant: self.record.tenant.clone(),
            key: key.to_owned(),
            workflow: workflow.clone(),
            request: Some(request),
            run,
            at: ctx.now.0,
        };
        self.timers
            .set(key_expiry(&record), Due::Key(record.key.clone()));
        ctx.write(Write::Key(record.clone()));
        self.keys.insert(record.key.clone(), record);
    }

    /// A run of this version with these parameters, all of them valid.
    pub(crate) fn make_run(
        &mut self,
        ctx: &mut Ctx<'_>,
        workflow: Arc<Workflow>,
        params: BTreeMap<ParamName, ParamValue>,
        scheduled_for: Option<u64>,
    ) -> RunId {
        let record = RunRecord {
            tenant: self.record.tenant.clone(),
            run: ctx.chance.run(ctx.now),
            workflow: workflow.record.spec.name.clone(),
            version: workflow.record.version,
            params,
            state: RunState::Running,
            agent: None,
            created_at: ctx.now.0,
            started_at: None,
            finished_at: None,
            scheduled_for,
            reruns: 0,
        };
        let id = record.run;
        self.begin(ctx, record, workflow);
        id
    }

    fn begin(&mut self, ctx: &mut Ctx<'_>, record: RunRecord, workflow: Arc<Workflow>) {
        let id = record.run;
        let versions = self.workflows.get_mut(&record.workflow);
        if let Some(version) = versions.and_then(|versions| versions.get_mut(&record.version)) {
            version.runs += 1;
        }
        let run = Run::new(record, workflow);
        let tasks: Vec<_> = run.tasks.iter().map(|task| task.record.clone()).collect();
        self.tallies.load(&run);
        self.runs.insert(id, run);
        self.set_run(ctx, id, RunState::Running);
        for task in tasks {
            ctx.write(Write::Task(task.clone()));
            self.notice_task(ctx, &task);
            if matches!(task.state, TaskState::Queued { .. }) {
                self.enqueue(id, task.task);
            }
        }
    }

    /// What was never given out is cancelled at once; the rest when its agent says how it ended.
    pub(crate) fn cancel(&mut self, ctx: &mut Ctx<'_>, id: RunId) -> Result<Answer, Denied> {
        let Some(run) = self.runs.get(&id) else {
            return Err(Denied::UnknownRun(id));
        };
        if run.is_over() {
            return Err(Denied::RunOver {
                run: id,
                state: run.record.state,
            });
        }
        let mut at_once: Vec<TaskIndex> = Vec::new();
        let mut active: Vec<AttemptId> = Vec::new();
        for task in &run.tasks {
            match task.record.state {
                TaskState::Waiting | TaskState::Queued { .. } | TaskState::Backoff { .. } => {
                    at_once.push(task.record.task);
                }
                TaskState::Active { attempt } if self.is_lost(attempt) => {
                    at_once.push(task.record.task)
                }
                TaskState::Active { attempt } => active.push(attempt),
                TaskState::Succeeded
                | TaskState::Failed { .. }
                | TaskState::UpstreamFailed
                | TaskState::Cancelled => {}
            }
        }
        if run.record.state != RunState::Cancelling {
            self.set_run(ctx, id, RunState::Cancelling);
        }
        for task in at_once {
            self.set_task(ctx, id, task, TaskState::Cancelled);
        }
        for attempt in &active {
            self.request_cancel(ctx, *attempt);
        }
        let pending = active
            .iter()
            .filter(|attempt| self.attempts.contains_key(attempt))
            .count();
        self.finish_if_over(ctx, id);
        let state = self
            .runs
            .get(&id)
            .map_or(RunState::Cancelled, |run| run.record.state);
        Ok(Answer::Cancelled {
            state,
            pending: u32::try_from(pending).unwrap_or(u32::MAX),
        })
    }

    fn is_lost(&self, attempt: AttemptId) -> bool {
        self.attempts
            .get(&attempt)
            .is_none_or(|attempt| matches!(attempt.phase, Phase::Lost { .. }))
    }
}

/// What makes two triggers the same request: SHA-256 over workflow and given parameters, each with its length, in hex.
fn request(workflow: &WorkflowName, params: &BTreeMap<ParamName, ParamValue>) -> String {
    let mut hash = Sha256::new();
    let mut part = |kind: u8, bytes: &[u8]| {
        hash.update([kind]);
        hash.update((bytes.len() as u64).to_be_bytes());
        hash.update(bytes);
    };
    part(0, workflow.as_str().as_bytes());
    for (name, value) in params {
        part(1, name.as_str().as_bytes());
        match value {
            ParamValue::Flag(flag) => part(2, &[u8::from(*flag)]),
            ParamValue::Integer(number) => part(3, &number.to_be_bytes()),
            ParamValue::Text(text) => part(4, text.as_bytes()),
        }
    }
    let digest = hash.finalize();
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}
