//! A store in memory: applies writes to maps and gives back exactly what a real store gives back.
//!
//! The simulator keeps its durable state in it, and the tests compare it with the core: what is durable must always be
//! what the core believes is durable.

use std::collections::{BTreeMap, BTreeSet};

use outpost_driver::Micros;
use outpost_proto::ids::{AttemptId, Fence, RecoveryEpoch, RunId, TaskIndex};
use outpost_proto::name::{AgentName, TenantName, WorkflowName};

use crate::record::{
    AgentRecord, AttemptRecord, InviteRecord, KeyRecord, Notice, Phase, RunRecord, Snapshot,
    StoredRun, TaskRecord, TenantRecord, WorkflowRecord, WorkflowStateRecord, Write,
};
use crate::tenant::{is_active, key_expiry, over};

/// Every record ever written, in its newest form.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Mirror {
    /// Which life of the database this is.
    pub recovery: RecoveryEpoch,
    /// When this life began by a restore.
    pub restored_at: Option<u64>,
    /// By name.
    pub tenants: BTreeMap<TenantName, TenantRecord>,
    /// By tenant, name and version.
    pub workflows: BTreeMap<(TenantName, WorkflowName, u32), WorkflowRecord>,
    /// By tenant and name.
    pub workflow_states: BTreeMap<(TenantName, WorkflowName), WorkflowStateRecord>,
    /// All runs, those that are over too.
    pub runs: BTreeMap<RunId, RunRecord>,
    /// All tasks.
    pub tasks: BTreeMap<(RunId, TaskIndex), TaskRecord>,
    /// All attempts.
    pub attempts: BTreeMap<AttemptId, AttemptRecord>,
    /// By tenant and name.
    pub agents: BTreeMap<(TenantName, AgentName), AgentRecord>,
    /// By token.
    pub invites: BTreeMap<String, InviteRecord>,
    /// By tenant and key.
    pub keys: BTreeMap<(TenantName, String), KeyRecord>,
    /// In commit order.
    pub notices: Vec<Notice>,
    /// Fences as they stand in tenants' own records.
    pub record_fences: BTreeMap<TenantName, Fence>,
    /// And in agents' marks: a record takes the place of its agent's mark.
    pub mark_fences: BTreeMap<(TenantName, AgentName), Fence>,
}

impl Mirror {
    /// Makes one write durable.
    pub fn apply(&mut self, write: &Write) {
        match write.clone() {
            Write::Workflow(record) => {
                let key = (
                    record.tenant.clone(),
                    record.spec.name.clone(),
                    record.version,
                );
                self.workflows.insert(key, record);
            }
            Write::WorkflowState(record) => {
                let key = (record.tenant.clone(), record.workflow.clone());
                self.workflow_states.insert(key, record);
            }
            Write::Run(record) => {
                self.runs.insert(record.run, record);
            }
            Write::Task(record) => {
                self.tasks.insert((record.run, record.task), record);
            }
            Write::Attempt(record) => {
                self.attempts.insert(record.attempt, record);
            }
            Write::Agent(record) => {
                let key = (record.tenant.clone(), record.agent.clone());
                self.no_mark(&key);
                self.agents.insert(key, record);
            }
            Write::AgentMark(mark) => {
                let key = (mark.tenant, mark.agent);
                self.no_mark(&key);
                if let Some(agent) = self.agents.get_mut(&key) {
                    agent.event_seq = mark.event_seq;
                    agent.command_seq = mark.command_seq;
                    if let Some(tenant) = self.tenants.get_mut(&key.0) {
                        tenant.next_fence = tenant.next_fence.max(mark.next_fence);
                    }
                    self.mark_fences.insert(key, mark.next_fence);
                }
            }
            Write::Invite(record) => {
                self.invites.insert(record.token_hash.clone(), record);
            }
            Write::Tenant(mut record) => {
                let name = record.tenant.clone();
                self.record_fences.insert(name.clone(), record.next_fence);
                record.next_fence = self.fence_of(&name);
                self.tenants.insert(name, record);
            }
            Write::Key(record) => {
                self.keys
                    .insert((record.tenant.clone(), record.key.clone()), record);
            }
            Write::Notice(notice) => self.notices.push(notice),
        }
    }

    /// An agent's mark is gone, and the tenant's fence with it if it stood nowhere else.
    fn no_mark(&mut self, key: &(TenantName, AgentName)) {
        let Some(gone) = self.mark_fences.remove(key) else {
            return;
        };
        let left = self.fence_of(&key.0);
        if let Some(tenant) = self.tenants.get_mut(&key.0)
            && tenant.next_fence == gone
        {
            tenant.next_fence = left;
        }
    }

    /// The highest fence that stands anywhere.
    fn fence_of(&self, name: &TenantName) -> Fence {
        let marks = self.mark_fences.iter();
        let marks = marks.filter_map(|((of, _), fence)| (of == name).then_some(*fence));
        let record = self.record_fences.get(name).copied();
        marks.chain(record).max().unwrap_or_default()
    }

    /// A run that is over, with all its tasks.
    #[must_use]
    pub fn stored_run(&self, tenant: &TenantName, run: RunId) -> Option<StoredRun> {
        let record = self.runs.get(&run).filter(|run| run.tenant == *tenant)?;
        let version = (tenant.clone(), record.workflow.clone(), record.version);
        let tasks = (run, TaskIndex(0))..=(run, TaskIndex(u16::MAX));
        Some(StoredRun {
            run: record.clone(),
            workflow: self.workflows.get(&version)?.clone(),
            tasks: self
                .tasks
                .range(tasks)
                .map(|(_, task)| task.clone())
                .collect(),
        })
    }

    /// What can still change at this instant, sorted by key.
    #[must_use]
    pub fn snapshot(&self, now: Micros) -> Snapshot {
        let unknown = |attempt: &&AttemptRecord| is_active(attempt) || unheard(attempt);
        let unknown: Vec<&AttemptRecord> = self.attempts.values().filter(unknown).collect();
        let awaited: BTreeSet<RunId> = unknown.iter().map(|attempt| attempt.run).collect();
        let live = |run: &&RunRecord| !over(run.state) || awaited.contains(&run.run);
        let runs: Vec<RunRecord> = self.runs.values().filter(live).cloned().collect();
        let ids: BTreeSet<RunId> = runs.iter().map(|run| run.run).collect();
        let used: BTreeSet<_> = runs
            .iter()
            .map(|run| (&run.tenant, &run.workflow, run.version))
            .collect();
        let workflows = self
            .workflows
            .iter()
            .filter(|((tenant, name, version), _)| {
                let newer = (tenant.clone(), name.clone(), version + 1)
                    ..=(tenant.clone(), name.clone(), u32::MAX);
                let deleted = |state: &WorkflowStateRecord| state.deleted;
                let state = self.workflow_states.get(&(tenant.clone(), name.clone()));
                used.contains(&(tenant, name, *version))
                    || (self.workflows.range(newer).next().is_none() && !state.is_some_and(deleted))
            });
        Snapshot {
            recovery: self.recovery,
            restored_at: self.restored_at,
            tenants: self.tenants.values().cloned().collect(),
            workflows: workflows.map(|(_, record)| record.clone()).collect(),
            workflow_states: self.workflow_states.values().cloned().collect(),
            tasks: self
                .tasks
                .values()
                .filter(|task| ids.contains(&task.run))
                .cloned()
                .collect(),
            attempts: unknown.into_iter().cloned().collect(),
            agents: self.agents.values().cloned().collect(),
            invites: self
                .invites
                .values()
                .filter(|invite| invite.expires_at > now.0)
                .cloned()
                .collect(),
            keys: self
                .keys
                .values()
                .filter(|key| key_expiry(key) > now)
                .cloned()
                .collect(),
            runs,
        }
    }
}

/// Lost, and nothing heard of its end.
fn unheard(attempt: &AttemptRecord) -> bool {
    matches!(attempt.phase, Phase::Lost { .. }) && attempt.late.is_none()
}
