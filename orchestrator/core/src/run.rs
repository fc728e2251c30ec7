//! Runs and their tasks: what is ready, what follows when something ends, when a run is over.
//!
//! Nothing walks a whole graph: each end touches the tasks that need it, once. Retries, pauses and the rule for a
//! second attempt (never while the first may still run, unless its entry is `retry_safe`) are here.

use std::collections::BTreeSet;
use std::sync::Arc;

use outpost_driver::Micros;
use outpost_proto::ids::{AttemptId, RunId, TaskIndex};
use outpost_proto::name::EntryName;
use outpost_proto::outcome::{Interruption, Outcome, Refusal, Report};

use crate::limits::{REQUEUE_PAUSE_MS, REQUEUES};
use crate::place::Key;
use crate::record::{
    AttemptRecord, NoticeKind, RunRecord, RunState, TaskRecord, TaskState, WorkflowRecord, Write,
};
use crate::spec::{Retry, TaskSpec};
use crate::tenant::{Ctx, Due, Tenant, over};

/// A workflow version and what is derived from it.
#[derive(Debug)]
pub(crate) struct Workflow {
    pub(crate) record: WorkflowRecord,
    /// Per task, what needs it.
    pub(crate) successors: Vec<Vec<TaskIndex>>,
    /// Every entry it runs.
    pub(crate) entries: BTreeSet<EntryName>,
}

impl Workflow {
    pub(crate) fn new(record: WorkflowRecord) -> Self {
        let mut successors = vec![Vec::new(); record.spec.tasks.len()];
        for (index, task) in (0..).map(TaskIndex).zip(&record.spec.tasks) {
            for need in &task.needs {
                if let Some(after) = successors.get_mut(usize::from(need.0)) {
                    after.push(index);
                }
            }
        }
        let entries = record
            .spec
            .tasks
            .iter()
            .map(|task| task.entry.clone())
            .collect();
        Self {
            record,
            successors,
            entries,
        }
    }

    pub(crate) fn task(&self, task: TaskIndex) -> Option<&TaskSpec> {
        self.record.spec.tasks.get(usize::from(task.0))
    }
}

/// A run in memory.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) record: RunRecord,
    pub(crate) workflow: Arc<Workflow>,
    /// In the order of the workflow.
    pub(crate) tasks: Vec<Task>,
    /// Tasks that are not over.
    pub(crate) open: usize,
    /// Attempts whose end is not known.
    pub(crate) pending: BTreeSet<AttemptId>,
}

/// A task in memory.
#[derive(Debug)]
pub(crate) struct Task {
    pub(crate) record: TaskRecord,
    /// How many of its needs have not succeeded.
    pub(crate) waits_for: usize,
}

impl Run {
    /// A new run: what needs nothing is queued, everything else waits.
    pub(crate) fn new(record: RunRecord, workflow: Arc<Workflow>) -> Self {
        let since = record.created_at;
        let tasks = (0..)
            .map(TaskIndex)
            .zip(&workflow.record.spec.tasks)
            .map(|(index, spec)| {
                let ready = spec.needs.is_empty();
                let state = if ready {
                    TaskState::Queued { since }
                } else {
                    TaskState::Waiting
                };
                TaskRecord {
                    run: record.run,
                    task: index,
                    state,
                    attempts: 0,
                    spent: 0,
                    requeued: 0,
                }
            });
        let tasks = tasks.collect();
        Self::load(record, workflow, tasks)
    }

    pub(crate) fn load(
        record: RunRecord,
        workflow: Arc<Workflow>,
        mut tasks: Vec<TaskRecord>,
    ) -> Self {
        tasks.sort_by_key(|task| task.task);
        let succeeded: Vec<bool> = tasks
            .iter()
            .map(|task| task.state == TaskState::Succeeded)
            .collect();
        let done = |need: &&TaskIndex| succeeded.get(usize::from(need.0)).copied().unwrap_or(false);
        let open = tasks.iter().filter(|task| is_open(task.state)).count();
        let tasks = tasks.into_iter().map(|record| {
            let needs = workflow
                .task(record.task)
                .map_or(&[][..], |spec| &spec.needs);
            let waits_for = needs.len() - needs.iter().filter(done).count();
            Task { record, waits_for }
        });
        let tasks = tasks.collect();
        Self {
            record,
            workflow,
            tasks,
            open,
            pending: BTreeSet::new(),
        }
    }

    pub(crate) fn is_over(&self) -> bool {
        over(self.record.state)
    }

    pub(crate) fn task(&self, task: TaskIndex) -> Option<&Task> {
        self.tasks.get(usize::from(task.0))
    }

    pub(crate) fn key(&self, task: TaskIndex) -> Key {
        (self.record.created_at, self.record.run, task)
    }
}

pub(crate) fn is_open(state: TaskState) -> bool {
    match state {
        TaskState::Waiting
        | TaskState::Queued { .. }
        | TaskState::Backoff { .. }
        | TaskState::Active { .. } => true,
        TaskState::Succeeded
        | TaskState::Failed { .. }
        | TaskState::UpstreamFailed
        | TaskState::Cancelled => false,
    }
}

/// What the end of an attempt means for its task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Succeeded,
    /// Whatever the retries: never again.
    Final,
    /// It uses up a try.
    Spent,
    /// It never ran: once more after a pause, without using up a try.
    Requeue,
    /// It was cancelled.
    Cancelled,
}

pub(crate) fn judge(report: Report, retry_safe: bool) -> Verdict {
    match report.outcome {
        Outcome::Succeeded => Verdict::Succeeded,
        Outcome::Cancelled => Verdict::Cancelled,
        // Nobody can say that it is over, so a second attempt might run beside it.
        Outcome::Interrupted(Interruption::AgentStateLost)
            if report.may_have_started && !retry_safe =>
        {
            Verdict::Final
        }
        Outcome::Failed
        | Outcome::TimedOut
        | Outcome::StartFailed(_)
        | Outcome::Killed(_)
        | Outcome::Interrupted(
            Interruption::Reboot | Interruption::AgentStateLost | Interruption::SidecarRestart,
        ) => Verdict::Spent,
        Outcome::Refused(
            Refusal::UnknownEntry
            | Refusal::BadParameters
            | Refusal::NotApproved
            | Refusal::Unsupported,
        ) => Verdict::Final,
        Outcome::Refused(
            Refusal::CatalogueVersion
            | Refusal::NoLease
            | Refusal::Paused
            | Refusal::Draining
            | Refusal::Full
            | Refusal::Rate
            | Refusal::TimeWindow
            | Refusal::Disk
            | Refusal::Observe
            | Refusal::Hold,
        ) => Verdict::Requeue,
    }
}

/// The outcome that stands for an attempt of which nobody can say what became of it.
pub(crate) const UNKNOWN_END: Outcome = Outcome::Interrupted(Interruption::AgentStateLost);

impl Tenant {
    /// The one place where a task changes its state.
    pub(crate) fn set_task(
        &mut self,
        ctx: &mut Ctx<'_>,
        id: RunId,
        task: TaskIndex,
        state: TaskState,
    ) {
        let Some(run) = self.runs.get_mut(&id) else {
            return;
        };
        let key = run.key(task);
        let Some(known) = run.tasks.get_mut(usize::from(task.0)) else {
            return;
        };
        let before = std::mem::replace(&mut known.record.state, state);
        let record = known.record.clone();
        if is_open(before) && !is_open(state) {
            run.open -= 1;
        }
        if matches!(before, TaskState::Queued { .. }) {
            self.places.remove(key, run);
        }
        ctx.write(Write::Task(record.clone()));
        self.notice_task(ctx, &record);
        match state {
            TaskState::Queued { .. } => self.enqueue(id, task),
            TaskState::Backoff { until, .. } => {
                self.timers.set(Micros(until), Due::Backoff(id, task))
            }
            TaskState::Waiting
            | TaskState::Active { .. }
            | TaskState::Succeeded
            | TaskState::Failed { .. }
            | TaskState::UpstreamFailed
            | TaskState::Cancelled => {}
        }
    }

    pub(crate) fn set_run(&mut self, ctx: &mut Ctx<'_>, id: RunId, state: RunState) {
        let Some(run) = self.runs.get_mut(&id) else {
            return;
        };
        run.record.state = state;
        if over(state) {
            run.record.finished_at = Some(ctx.now.0);
        }
        let record = run.record.clone();
        let what = NoticeKind::Run {
            run: id,
            workflow: record.workflow.clone(),
            state,
        };
        ctx.write(Write::Run(record));
        ctx.notice(&self.record.tenant, what);
    }

    /// A pause is over, unless the task has moved on.
    pub(crate) fn backoff_over(&mut self, ctx: &mut Ctx<'_>, run: RunId, task: TaskIndex) {
        let state = self
            .runs
            .get(&run)
            .and_then(|run| run.task(task))
            .map(|task| task.record.state);
        if let Some(TaskState::Backoff { until, .. }) = state
            && until <= ctx.now.0
        {
            self.set_task(ctx, run, task, TaskState::Queued { since: ctx.now.0 });
        }
    }

    /// An attempt's end is known. Only the attempt that the task waits for decides.
    pub(crate) fn task_ended(
        &mut self,
        ctx: &mut Ctx<'_>,
        attempt: &AttemptRecord,
        report: Report,
    ) {
        let Some(cancelling) = self.waits_for(attempt) else {
            return;
        };
        let verdict = judge(report, attempt.retry_safe);
        let (id, task) = (attempt.run, attempt.task);
        let outcome = report.outcome;
        match verdict {
            Verdict::Succeeded => {
                self.set_task(ctx, id, task, TaskState::Succeeded);
                self.succeeded(ctx, id, task);
            }
            Verdict::Cancelled => self.task_over(ctx, id, task, TaskState::Cancelled),
            Verdict::Requeue if cancelling => self.task_over(ctx, id, task, TaskState::Cancelled),
            Verdict::Final => self.task_over(ctx, id, task, TaskState::Failed { outcome }),
            Verdict::Spent if cancelling => {
                self.task_over(ctx, id, task, TaskState::Failed { outcome })
            }
            Verdict::Spent => self.spent(ctx, id, task, outcome),
            Verdict::Requeue => {
                let pause = ctx.chance.between(REQUEUE_PAUSE_MS.0, REQUEUE_PAUSE_MS.1);
                self.requeue(ctx, id, task, ctx.now.plus_ms(pause), outcome);
            }
        }
        self.finish_if_over(ctx, id);
    }

    /// An attempt was given up. A second one follows only if its entry is `retry_safe`, and not before the first can
    /// no longer be started; without that the task waits for its agent or a person.
    pub(crate) fn task_lost(&mut self, ctx: &mut Ctx<'_>, attempt: &AttemptRecord) {
        let Some(cancelling) = self.waits_for(attempt) else {
            return;
        };
        let (id, task) = (attempt.run, attempt.task);
        if cancelling {
            self.task_over(ctx, id, task, TaskState::Cancelled);
            self.finish_if_over(ctx, id);
            return;
        }
        if !attempt.retry_safe {
            return;
        }
        let idle = self.agents.get(&attempt.agent).map(|agent| {
            // Under another incarnation nothing of the former one can start any more.
            let same = agent.record.incarnation == attempt.incarnation;
            if same {
                agent.surely_idle(ctx.settings, attempt.ends_alone_s)
            } else {
                ctx.now
            }
        });
        self.release(ctx, id);
        self.requeue(ctx, id, task, idle.unwrap_or(ctx.now), UNKNOWN_END);
        self.finish_if_over(ctx, id);
    }

    /// Whether the task still waits for this attempt, and if so whether its run is being cancelled.
    fn waits_for(&self, attempt: &AttemptRecord) -> Option<bool> {
        let run = self.runs.get(&attempt.run)?;
        let state = run.task(attempt.task)?.record.state;
        let waits = state
            == TaskState::Active {
                attempt: attempt.attempt,
            };
        waits.then_some(run.record.state == RunState::Cancelling)
    }

    fn spent(&mut self, ctx: &mut Ctx<'_>, id: RunId, task: TaskIndex, outcome: Outcome) {
        let Some((retry, spent)) = self.count(id, task, |record| {
            record.requeued = 0;
            record.spent = record.spent.saturating_add(1);
            record.spent
        }) else {
            return;
        };
        if spent > retry.retries {
            self.task_over(ctx, id, task, TaskState::Failed { outcome });
            return;
        }
        let until = ctx
            .now
            .plus_ms(ctx.chance.between(0, longest_delay_ms(retry, spent)));
        self.pause(ctx, id, task, until, outcome);
    }

    fn requeue(
        &mut self,
        ctx: &mut Ctx<'_>,
        id: RunId,
        task: TaskIndex,
        until: Micros,
        last: Outcome,
    ) {
        let requeued = self.count(id, task, |record| {
            record.requeued = record.requeued.saturating_add(1);
            record.requeued
        });
        match requeued {
            Some((_, requeued)) if requeued > REQUEUES => {
                self.task_over(ctx, id, task, TaskState::Failed { outcome: last });
            }
            Some(_) => self.pause(ctx, id, task, until, last),
            None => {}
        }
    }

    fn count(
        &mut self,
        id: RunId,
        task: TaskIndex,
        step: impl FnOnce(&mut TaskRecord) -> u16,
    ) -> Option<(Retry, u16)> {
        let run = self.runs.get_mut(&id)?;
        let retry = run.workflow.task(task)?.retry;
        let known = run.tasks.get_mut(usize::from(task.0))?;
        Some((retry, step(&mut known.record)))
    }

    fn pause(
        &mut self,
        ctx: &mut Ctx<'_>,
        id: RunId,
        task: TaskIndex,
        until: Micros,
        last: Outcome,
    ) {
        let state = if until > ctx.now {
            TaskState::Backoff {
                until: until.0,
                last,
            }
        } else {
            TaskState::Queued { since: ctx.now.0 }
        };
        self.set_task(ctx, id, task, state);
    }

    /// A task ended without success: what needs it, directly or not, can never run.
    pub(crate) fn task_over(
        &mut self,
        ctx: &mut Ctx<'_>,
        id: RunId,
        task: TaskIndex,
        state: TaskState,
    ) {
        self.set_task(ctx, id, task, state);
        let mut ended = vec![task];
        while let Some(task) = ended.pop() {
            let Some(run) = self.runs.get(&id) else {
                return;
            };
            let successors = run
                .workflow
                .successors
                .get(usize::from(task.0))
                .cloned()
                .unwrap_or_default();
            for next in successors {
                let waiting = self.runs.get(&id).and_then(|run| run.task(next));
                if waiting.is_some_and(|task| task.record.state == TaskState::Waiting) {
                    self.set_task(ctx, id, next, TaskState::UpstreamFailed);
                    ended.push(next);
                }
            }
        }
    }

    fn succeeded(&mut self, ctx: &mut Ctx<'_>, id: RunId, task: TaskIndex) {
        let Some(run) = self.runs.get_mut(&id) else {
            return;
        };
        let workflow = Arc::clone(&run.workflow);
        let mut ready = Vec::new();
        for next in workflow
            .successors
            .get(usize::from(task.0))
            .into_iter()
            .flatten()
        {
            let Some(known) = run.tasks.get_mut(usize::from(next.0)) else {
                continue;
            };
            known.waits_for = known.waits_for.saturating_sub(1);
            if known.waits_for == 0 && known.record.state == TaskState::Waiting {
                ready.push(*next);
            }
        }
        for next in ready {
            self.set_task(ctx, id, next, TaskState::Queued { since: ctx.now.0 });
        }
    }

    /// Ends the run once all its tasks are over.
    pub(crate) fn finish_if_over(&mut self, ctx: &mut Ctx<'_>, id: RunId) {
        let Some(run) = self
            .runs
            .get(&id)
            .filter(|run| run.open == 0 && !run.is_over())
        else {
            return;
        };
        let all = run
            .tasks
            .iter()
            .all(|task| task.record.state == TaskState::Succeeded);
        let state = match run.record.state {
            _ if all => RunState::Succeeded,
            RunState::Cancelling => RunState::Cancelled,
            RunState::Running | RunState::Succeeded | RunState::Failed | RunState::Cancelled => {
                RunState::Failed
            }
        };
        self.set_run(ctx, id, state);
        self.evict(id);
    }
}

/// The longest pause before try number `spent` + 1: doubled each time, up to the workflow's bound.
fn longest_delay_ms(retry: Retry, spent: u16) -> u64 {
    let doublings = u32::from(spent.saturating_sub(1)).min(40);
    retry
        .delay_ms
        .saturating_mul(1 << doublings)
        .min(retry.max_delay_ms.max(retry.delay_ms))
}
