//! Runs and their tasks: what is ready, what follows when something ends, when a run is over.
//!
//! Nothing walks a whole graph: each end touches the tasks that need it, once. What the end of an attempt means for
//! its task is in `retry`.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use outpost_driver::Micros;
use outpost_proto::ids::{AttemptId, RunId, TaskIndex};
use outpost_proto::name::{EntryName, TaskName};

use crate::line::{Key, LineId};
use crate::needs::Needs;
use crate::record::{
    NoticeKind, RunRecord, RunState, TaskRecord, TaskState, WorkflowRecord, Write,
};
use crate::schedule::Schedule;
use crate::spec::{Affinity, TaskSpec, WorkflowSpec};
use crate::tenant::{Ctx, Due, Tenant, over};

/// A workflow version and what is derived from it.
#[derive(Debug)]
pub(crate) struct Workflow {
    pub(crate) record: WorkflowRecord,
    /// Per task, what needs it.
    pub(crate) successors: Vec<Vec<TaskIndex>>,
    /// Every entry it runs.
    pub(crate) entries: BTreeSet<EntryName>,
    /// When it runs by itself.
    pub(crate) schedule: Option<Schedule>,
    /// Tasks that have a limit of their own.
    pub(crate) limits: BTreeMap<TaskName, u32>,
    /// What each task asks of an agent, or one for all of them.
    needs: Vec<Arc<Needs>>,
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
        let limits = record.spec.tasks.iter();
        let limits = limits.filter_map(|task| Some((task.name.clone(), task.max_active?)));
        Self {
            successors,
            entries,
            limits: limits.collect(),
            needs: needs(&record.spec),
            // What was applied was checked then.
            schedule: record
                .spec
                .schedule
                .as_ref()
                .and_then(|rule| Schedule::new(rule).ok()),
            record,
        }
    }

    /// What a task asks of an agent.
    pub(crate) fn needs(&self, task: TaskIndex) -> Option<&Arc<Needs>> {
        self.needs
            .get(usize::from(task.0))
            .or_else(|| self.needs.first())
    }

    pub(crate) fn task(&self, task: TaskIndex) -> Option<&TaskSpec> {
        self.record.spec.tasks.get(usize::from(task.0))
    }
}

fn needs(spec: &WorkflowSpec) -> Vec<Arc<Needs>> {
    match spec.affinity {
        Affinity::Run => vec![Arc::new(Needs::of_all(spec))],
        Affinity::None => {
            let mut known: BTreeSet<Arc<Needs>> = BTreeSet::new();
            let needs = spec.tasks.iter().map(|task| {
                let needs = Arc::new(Needs::of_task(spec, task));
                let same = known.get(&needs).cloned();
                same.unwrap_or_else(|| {
                    known.insert(Arc::clone(&needs));
                    needs
                })
            });
            needs.collect()
        }
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
    /// Whether it counts as one of its workflow's active runs: a task of it was placed, and it is not over.
    pub(crate) begun: bool,
}

/// A task in memory.
#[derive(Debug)]
pub(crate) struct Task {
    pub(crate) record: TaskRecord,
    /// How many of its needs have not succeeded.
    pub(crate) waits_for: u16,
    /// The line it waits in; only while it is queued.
    pub(crate) line: Option<LineId>,
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
                    untimely: 0,
                    unsure: false,
                    shown: Vec::new(),
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
            Task {
                record,
                waits_for: u16::try_from(waits_for).unwrap_or(u16::MAX),
                line: None,
            }
        });
        let tasks = tasks.collect();
        Self {
            record,
            workflow,
            tasks,
            open,
            pending: BTreeSet::new(),
            begun: false,
        }
    }

    /// Counts anew what each task waits for: after tasks were taken back.
    pub(crate) fn count_needs(&mut self) {
        let done = |task: &Task| task.record.state == TaskState::Succeeded;
        let done: Vec<bool> = self.tasks.iter().map(done).collect();
        for task in &mut self.tasks {
            let needs = self.workflow.task(task.record.task);
            let needs = needs.map_or(&[][..], |spec| &spec.needs);
            let open = |need: &&TaskIndex| !done.get(usize::from(need.0)).copied().unwrap_or(false);
            let open = needs.iter().filter(open).count();
            task.waits_for = u16::try_from(open).unwrap_or(u16::MAX);
        }
    }

    pub(crate) fn is_over(&self) -> bool {
        over(self.record.state)
    }

    /// Whether its record says that it counts as an active run.
    pub(crate) fn has_begun(&self) -> bool {
        self.record.started_at.is_some() && !self.is_over()
    }

    pub(crate) fn task(&self, task: TaskIndex) -> Option<&Task> {
        self.tasks.get(usize::from(task.0))
    }

    /// Whether something that it needs is over without success.
    fn can_never(&self, task: TaskIndex) -> bool {
        let needs = self.workflow.task(task).map_or(&[][..], |spec| &spec.needs);
        let states = needs.iter().filter_map(|need| self.task(*need));
        let mut states = states.map(|task| task.record.state);
        states.any(|state| !is_open(state) && state != TaskState::Succeeded)
    }

    pub(crate) fn key(&self, task: TaskIndex) -> Key {
        let spec = &self.workflow.record.spec;
        let own = self.workflow.task(task).and_then(|task| task.priority);
        Key {
            priority: Reverse(own.unwrap_or(spec.priority)),
            created: self.record.created_at,
            run: self.record.run,
            task,
        }
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
        let Some(known) = run.tasks.get_mut(usize::from(task.0)) else {
            return;
        };
        let before = std::mem::replace(&mut known.record.state, state);
        let record = known.record.clone();
        match (is_open(before), is_open(state)) {
            (true, false) => run.open -= 1,
            (false, true) => run.open += 1,
            (true, true) | (false, false) => {}
        }
        if matches!(before, TaskState::Queued { .. }) {
            self.dequeue(id, task);
        }
        self.count_task(id, task, before, state);
        self.tally_task(id, before, state);
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
        if over(run.record.state) && !over(state) {
            // Run again, it waits for its turn like any other.
            run.record.started_at = None;
        }
        let before = std::mem::replace(&mut run.record.state, state);
        if over(before) != over(state) {
            let workflow = &run.record.workflow;
            self.tallies.run(workflow, !over(state));
        }
        if over(state) {
            run.record.finished_at = Some(ctx.now.0);
            self.count_run(id, false);
        }
        let Some(run) = self.runs.get(&id) else {
            return;
        };
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
            self.queue_again(ctx, run, task);
        }
    }

    /// Another try of a task. What it needs may be open, or over without success: a restored database can have learned
    /// of an attempt before it learned that what comes first is done.
    pub(crate) fn queue_again(&mut self, ctx: &mut Ctx<'_>, id: RunId, task: TaskIndex) {
        let Some(run) = self.runs.get(&id) else {
            return;
        };
        if run.task(task).is_none_or(|task| task.waits_for == 0) {
            self.set_task(ctx, id, task, TaskState::Queued { since: ctx.now.0 });
        } else if run.can_never(task) {
            self.task_over(ctx, id, task, TaskState::UpstreamFailed);
            self.finish_if_over(ctx, id);
        } else {
            self.set_task(ctx, id, task, TaskState::Waiting);
        }
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

    /// A task succeeded: what needs nothing more is queued.
    pub(crate) fn succeeded(&mut self, ctx: &mut Ctx<'_>, id: RunId, task: TaskIndex) {
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
