//! One tenant's whole state, and what every decision about it is handed.
//!
//! A frame, question or timer of one tenant reaches this struct and no other: isolation is a matter of shape, not of
//! checks. `session`, `attempt`, `run`, `place`, `ask` and `explain` add what happens to it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use outpost_driver::{Effects, Micros};
use outpost_proto::ids::{AttemptId, Conn, RecoveryEpoch, RunId, TaskIndex};
use outpost_proto::name::{AgentName, TenantName, WorkflowName};

use crate::agent::Agent;
use crate::bearer::Life;
use crate::chance::Chance;
use crate::event::{Answer, Call, CloseReason, Denied, Speech};
use crate::freeze::Vanished;
use crate::limits::Settings;
use crate::plan::Plans;
use crate::queue::Places;
use crate::record::{
    AgentRecord, AttemptRecord, KeyRecord, Notice, NoticeKind, RunRecord, RunState, Snapshot,
    TaskRecord, TaskState, TenantRecord, WorkflowRecord, WorkflowStateRecord, Write,
};
use crate::recover::Recoveries;
use crate::run::{Run, Workflow};
use crate::tally::Tallies;
use crate::timers::Timers;

/// Where decisions go.
pub(crate) type Out = Effects<Write, Speech>;

/// What a decision is handed: time, chance, settings, and where its effects go.
pub(crate) struct Ctx<'a> {
    pub(crate) now: Micros,
    pub(crate) settings: &'a Settings,
    pub(crate) chance: &'a mut Chance,
    pub(crate) recovery: RecoveryEpoch,
    /// When this life of the database began by a restore.
    pub(crate) restored_at: Option<u64>,
    /// Nothing is declared lost before.
    pub(crate) lost_from: Micros,
    /// How far the wall clock is ahead of the core's, in microseconds.
    pub(crate) ahead: i64,
    /// Which turn this is.
    pub(crate) turn: u64,
    pub(crate) out: &'a mut Out,
}

impl Ctx<'_> {
    pub(crate) fn life(&self) -> Life {
        Life {
            recovery: self.recovery,
            restored_at: self.restored_at,
        }
    }

    pub(crate) fn write(&mut self, write: Write) {
        self.out.writes.push(write);
    }

    pub(crate) fn say(&mut self, speech: Speech) {
        self.out.speech.push(speech);
    }

    pub(crate) fn close(&mut self, conn: Conn, why: CloseReason) {
        self.say(Speech::Close { conn, why });
    }

    pub(crate) fn answer(&mut self, call: Call, answer: Result<Answer, Denied>) {
        self.say(Speech::Answer { call, answer });
    }

    pub(crate) fn notice(&mut self, tenant: &TenantName, what: NoticeKind) {
        let at = self.now.0;
        self.write(Write::Notice(Notice {
            tenant: tenant.clone(),
            at,
            what,
        }));
    }
}

/// What may be due for a tenant.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Due {
    /// Look whether an agent is stale, or its attempts are lost.
    Watch(AgentName),
    /// A task's pause is over.
    Backoff(RunId, TaskIndex),
    /// An idempotency key has served its day.
    Key(String),
    /// The next instant of a workflow's schedule.
    Schedule(WorkflowName),
    /// An agent has been out of touch for long enough not to be expected.
    Away(AgentName),
    /// What an agent said of its former life can be believed.
    Doubt(AgentName),
}

/// A version of a workflow and how many runs in memory are of it.
#[derive(Debug)]
pub(crate) struct Version {
    pub(crate) workflow: Arc<Workflow>,
    pub(crate) runs: usize,
}

/// One tenant.
#[derive(Debug)]
pub(crate) struct Tenant {
    pub(crate) record: TenantRecord,
    pub(crate) agents: BTreeMap<AgentName, Agent>,
    pub(crate) conns: BTreeMap<Conn, AgentName>,
    /// Ascending by version: the last one is current.
    pub(crate) workflows: BTreeMap<WorkflowName, BTreeMap<u32, Version>>,
    pub(crate) workflow_states: BTreeMap<WorkflowName, WorkflowStateRecord>,
    pub(crate) runs: BTreeMap<RunId, Run>,
    /// Runs let go of in this turn: what was read of them before it is not true any more.
    pub(crate) evicted: BTreeSet<RunId>,
    /// Attempts whose end is not known.
    pub(crate) attempts: BTreeMap<AttemptId, AttemptRecord>,
    pub(crate) keys: BTreeMap<String, KeyRecord>,
    pub(crate) places: Places,
    pub(crate) tallies: Tallies,
    pub(crate) plans: Plans,
    pub(crate) timers: Timers<Due>,
    /// Agents that have not told yet what a restored database lacks.
    pub(crate) awaited: BTreeSet<AgentName>,
    pub(crate) vanished: Vanished,
    pub(crate) recoveries: Recoveries,
}

impl Tenant {
    pub(crate) fn new(record: TenantRecord) -> Self {
        Self {
            record,
            agents: BTreeMap::new(),
            conns: BTreeMap::new(),
            workflows: BTreeMap::new(),
            workflow_states: BTreeMap::new(),
            runs: BTreeMap::new(),
            evicted: BTreeSet::new(),
            attempts: BTreeMap::new(),
            keys: BTreeMap::new(),
            places: Places::default(),
            tallies: Tallies::default(),
            plans: Plans::default(),
            timers: Timers::new(),
            awaited: BTreeSet::new(),
            vanished: Vanished::default(),
            recoveries: Recoveries::default(),
        }
    }

    /// A tenant of which nothing is durable yet.
    pub(crate) fn unknown(tenant: TenantName) -> Self {
        Self::new(TenantRecord::new(tenant))
    }

    /// Everything that does not come from one event: timers, then placement.
    pub(crate) fn settle(&mut self, ctx: &mut Ctx<'_>) {
        while let Some(due) = self.timers.fire(ctx.now) {
            match due {
                Due::Watch(agent) => self.watch(ctx, &agent),
                Due::Backoff(run, task) => self.backoff_over(ctx, run, task),
                Due::Key(key) => {
                    self.keys.remove(&key);
                }
                Due::Schedule(workflow) => self.schedule_due(ctx, &workflow),
                Due::Away(agent) => self.stays_away(ctx, &agent),
                Due::Doubt(agent) => self.believe(ctx, &agent),
            }
        }
        self.place(ctx);
        self.evicted.clear();
    }

    pub(crate) fn notice_task(&self, ctx: &mut Ctx<'_>, task: &TaskRecord) {
        let what = NoticeKind::Task {
            run: task.run,
            task: task.task,
            state: task.state,
        };
        ctx.notice(&self.record.tenant, what);
    }

    pub(crate) fn notice_attempt(ctx: &mut Ctx<'_>, attempt: &AttemptRecord) {
        let what = NoticeKind::Attempt {
            run: attempt.run,
            task: attempt.task,
            attempt: attempt.attempt,
            agent: attempt.agent.clone(),
            phase: attempt.phase,
        };
        ctx.notice(&attempt.tenant, what);
    }

    // --- load and durable

    /// Takes in what a store gave back, in any order that [`Tenant::loaded`] completes.
    pub(crate) fn load_workflow(&mut self, record: WorkflowRecord) {
        let versions = self.workflows.entry(record.spec.name.clone()).or_default();
        versions.insert(
            record.version,
            Version {
                workflow: Arc::new(Workflow::new(record)),
                runs: 0,
            },
        );
    }

    pub(crate) fn load_workflow_state(&mut self, record: WorkflowStateRecord) {
        self.workflow_states.insert(record.workflow.clone(), record);
    }

    pub(crate) fn load_agent(&mut self, ctx: &mut Ctx<'_>, record: AgentRecord) {
        if record.is_awaited(ctx.recovery) {
            self.awaited.insert(record.agent.clone());
        }
        let agent = Agent::new(record, ctx.now, ctx.settings);
        self.vanished.begins(&agent);
        self.agents.insert(agent.record.agent.clone(), agent);
    }

    /// A run of a version that the store did not give back cannot go on; it is left out.
    pub(crate) fn load_run(&mut self, record: RunRecord, tasks: Vec<TaskRecord>) {
        let versions = self.workflows.get_mut(&record.workflow);
        let Some(version) = versions.and_then(|versions| versions.get_mut(&record.version)) else {
            return;
        };
        version.runs += 1;
        let run = Run::load(record, Arc::clone(&version.workflow), tasks);
        self.tallies.load(&run);
        self.runs.insert(run.record.run, run);
    }

    pub(crate) fn load_attempt(&mut self, record: AttemptRecord) {
        let Some(run) = self.runs.get_mut(&record.run) else {
            return;
        };
        run.pending.insert(record.attempt);
        if is_active(&record)
            && let Some(agent) = self.agents.get_mut(&record.agent)
        {
            agent.held.insert(record.attempt);
        }
        self.attempts.insert(record.attempt, record);
    }

    pub(crate) fn load_key(&mut self, record: KeyRecord) {
        self.timers
            .set(key_expiry(&record), Due::Key(record.key.clone()));
        self.keys.insert(record.key.clone(), record);
    }

    /// Completes a load: queues, timers, indexes.
    pub(crate) fn loaded(&mut self, ctx: &mut Ctx<'_>) {
        let entries = self.workflows.values().flat_map(BTreeMap::values);
        let entries: Vec<_> = entries
            .flat_map(|version| version.workflow.entries.iter().cloned())
            .collect();
        for entry in entries {
            self.places.know_entry(&entry, &self.agents);
        }
        let begun = self.runs.values().filter(|run| run.has_begun());
        let begun: Vec<RunId> = begun.map(|run| run.record.run).collect();
        for run in begun {
            self.count_run(run, true);
        }
        let waiting: Vec<(RunId, TaskRecord)> = self
            .runs
            .values()
            .flat_map(|run| {
                run.tasks
                    .iter()
                    .map(|task| (run.record.run, task.record.clone()))
            })
            .collect();
        for (run, task) in waiting {
            self.count_task(run, task.task, TaskState::Waiting, task.state);
            match task.state {
                TaskState::Queued { .. } => self.enqueue(run, task.task),
                TaskState::Backoff { until, .. } => {
                    let until = Micros(until).max(self.surely_idle(ctx, run, task.task));
                    self.timers.set(until, Due::Backoff(run, task.task));
                }
                TaskState::Waiting
                | TaskState::Active { .. }
                | TaskState::Succeeded
                | TaskState::Failed { .. }
                | TaskState::UpstreamFailed
                | TaskState::Cancelled => {}
            }
        }
        self.plan_all(ctx);
        let names: Vec<AgentName> = self.agents.keys().cloned().collect();
        for name in names {
            self.arm(ctx, &name);
            self.doubts_again(ctx, &name);
            self.refresh(ctx, &name);
        }
    }

    /// Takes over the live connections of the state that this one replaces, as they were before the turn that failed:
    /// what was said on them in that turn is handled again. Gives those that cannot go on.
    pub(crate) fn adopt(
        &mut self,
        ctx: &mut Ctx<'_>,
        old: Self,
        open: &BTreeMap<Conn, TenantName>,
    ) -> Vec<Conn> {
        let mut ended = Vec::new();
        for (name, agent) in old.agents {
            let was = agent.before(ctx.turn);
            let Some(new) = self.agents.get_mut(&name).filter(|new| !new.record.removed) else {
                ended.extend(was.live.conns());
                continue;
            };
            ended.extend(new.resume(was, open, &self.attempts));
            let conns: Vec<Conn> = new.live.conns().collect();
            self.conns
                .extend(conns.into_iter().map(|conn| (conn, name.clone())));
            self.refresh(ctx, &name);
        }
        ended
    }

    /// Adds what of this tenant is durable.
    pub(crate) fn durable(&self, into: &mut Snapshot) {
        into.tenants.push(self.record.clone());
        let versions = self.workflows.values().flat_map(BTreeMap::values);
        into.workflows
            .extend(versions.map(|version| version.workflow.record.clone()));
        into.workflow_states
            .extend(self.workflow_states.values().cloned());
        for run in self.runs.values() {
            into.runs.push(run.record.clone());
            into.tasks
                .extend(run.tasks.iter().map(|task| task.record.clone()));
        }
        into.attempts.extend(self.attempts.values().cloned());
        into.agents
            .extend(self.agents.values().map(|agent| agent.record.clone()));
        into.keys.extend(self.keys.values().cloned());
    }

    /// Lets go of a run that is over and of which no end is unknown.
    pub(crate) fn evict(&mut self, run: RunId) {
        let gone = self
            .runs
            .get(&run)
            .is_some_and(|run| run.is_over() && run.pending.is_empty());
        if !gone {
            return;
        }
        let Some(run) = self.runs.remove(&run) else {
            return;
        };
        self.evicted.insert(run.record.run);
        let Some(versions) = self.workflows.get_mut(&run.record.workflow) else {
            return;
        };
        let current = versions.keys().next_back().copied();
        if let Some(version) = versions.get_mut(&run.record.version) {
            version.runs -= 1;
            if version.runs == 0 && current != Some(run.record.version) {
                versions.remove(&run.record.version);
            }
        }
        if self.living(&run.record.workflow).is_none() {
            self.drop_versions(&run.record.workflow);
        }
    }
}

/// Whether a run's state is a final one.
pub(crate) fn over(state: RunState) -> bool {
    match state {
        RunState::Running | RunState::Cancelling => false,
        RunState::Succeeded | RunState::Failed | RunState::Cancelled => true,
    }
}

/// Whether an attempt may still be held by its agent.
pub(crate) fn is_active(attempt: &AttemptRecord) -> bool {
    use crate::record::Phase;
    match attempt.phase {
        Phase::Assigned | Phase::Accepted | Phase::Starting | Phase::Running => true,
        Phase::Finished { .. } | Phase::Lost { .. } => false,
    }
}

/// When an idempotency key is forgotten.
pub(crate) fn key_expiry(record: &KeyRecord) -> Micros {
    Micros(record.at).plus_ms(crate::limits::KEY_TTL_MS)
}
