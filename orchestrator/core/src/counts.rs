//! How much of each workflow is active now, and which of its limits are reached. Counted as it changes, never anew.

use std::collections::BTreeMap;
use std::sync::Arc;

use outpost_proto::ids::{RunId, TaskIndex};
use outpost_proto::name::{TaskName, WorkflowName};

use crate::line::{Gate, Kind, Limit};
use crate::record::TaskState;
use crate::run::Workflow;
use crate::tenant::Tenant;

/// What is active of one workflow over all its versions.
#[derive(Debug, Default)]
pub(crate) struct Count {
    /// Runs that have begun and are not over.
    pub(crate) runs: u32,
    /// Tasks with an attempt.
    pub(crate) tasks: u32,
    by_task: BTreeMap<TaskName, u32>,
}

/// Per workflow; one of which nothing is active is not in it.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    by_workflow: BTreeMap<WorkflowName, Count>,
}

impl Counts {
    /// How much counts against this limit now.
    pub(crate) fn of(&self, gate: &Gate) -> u32 {
        let Some(count) = self.by_workflow.get(&gate.workflow) else {
            return 0;
        };
        match &gate.limit {
            Limit::Runs => count.runs,
            Limit::Tasks => count.tasks,
            Limit::Task(task) => count.by_task.get(task).copied().unwrap_or(0),
        }
    }

    fn change(&mut self, workflow: &WorkflowName, change: impl FnOnce(&mut Count)) {
        let count = match self.by_workflow.get_mut(workflow) {
            Some(count) => count,
            None => self.by_workflow.entry(workflow.clone()).or_default(),
        };
        change(count);
        if count.runs == 0 && count.tasks == 0 {
            self.by_workflow.remove(workflow);
        }
    }

    fn task(&mut self, workflow: &WorkflowName, task: &TaskName, more: bool) {
        self.change(workflow, |count| {
            let active = match count.by_task.get_mut(task) {
                Some(active) => active,
                None => count.by_task.entry(task.clone()).or_default(),
            };
            step(active, more);
            if *active == 0 {
                count.by_task.remove(task);
            }
            step(&mut count.tasks, more);
        });
    }

    fn run(&mut self, workflow: &WorkflowName, more: bool) {
        self.change(workflow, |count| step(&mut count.runs, more));
    }
}

fn step(number: &mut u32, more: bool) {
    *number = if more {
        number.saturating_add(1)
    } else {
        number.saturating_sub(1)
    };
}

impl Tenant {
    /// A task got an attempt, or waits for none any more.
    pub(crate) fn count_task(
        &mut self,
        id: RunId,
        task: TaskIndex,
        before: TaskState,
        now: TaskState,
    ) {
        let active = |state| matches!(state, TaskState::Active { .. });
        let more = active(now);
        if active(before) == more {
            return;
        }
        let Some(run) = self.runs.get(&id) else {
            return;
        };
        let Some(spec) = run.workflow.task(task) else {
            return;
        };
        let workflow = &run.record.workflow;
        self.places.counts.task(workflow, &spec.name, more);
        if !more {
            for limit in [Limit::Tasks, Limit::Task(spec.name.clone())] {
                self.places.lines.opened(Gate {
                    workflow: workflow.clone(),
                    limit,
                });
            }
        }
    }

    /// A run begins: it counts from now on. Or it is over, and another may begin.
    pub(crate) fn count_run(&mut self, id: RunId, begun: bool) {
        let Some(run) = self.runs.get_mut(&id) else {
            return;
        };
        if run.begun == begun {
            return;
        }
        run.begun = begun;
        let workflow = run.record.workflow.clone();
        self.places.counts.run(&workflow, begun);
        if !begun {
            self.places.lines.opened(Gate {
                workflow,
                limit: Limit::Runs,
            });
        }
    }

    /// A workflow has another current version: its limits count from now on. Walks over the workflow's runs only if a
    /// task of it has a limit of its own, or had.
    pub(crate) fn limits_changed(&mut self, workflow: &WorkflowName) {
        let limited = self
            .current(workflow)
            .is_some_and(|current| !current.limits.is_empty());
        if limited || self.places.lines.has_limited(workflow) {
            let runs = self
                .runs
                .values()
                .filter(|run| run.record.workflow == *workflow && !run.is_over());
            let runs: Vec<RunId> = runs.map(|run| run.record.run).collect();
            for run in runs {
                self.line_up(run, |_| {});
            }
        }
        self.places.lines.limits_changed(workflow);
        let lines = &self.places.lines;
        self.places.pools.sweep(|class| lines.has_class(class));
    }

    /// The first limit that stops tasks of this kind now.
    pub(crate) fn limit_reached(&self, kind: &Kind) -> Option<Gate> {
        let runs = kind.fresh.then_some(Limit::Runs);
        let task = kind.limited.clone().map(Limit::Task);
        let limits = runs.into_iter().chain([Limit::Tasks]).chain(task);
        let gates = limits.map(|limit| Gate {
            workflow: kind.workflow.clone(),
            limit,
        });
        gates.into_iter().find(|gate| self.is_closed(gate))
    }

    pub(crate) fn is_closed(&self, gate: &Gate) -> bool {
        self.most(gate)
            .is_some_and(|most| self.places.counts.of(gate) >= most)
    }

    /// A limit's number: the current version's counts for all runs of the workflow.
    pub(crate) fn most(&self, gate: &Gate) -> Option<u32> {
        let current = self.current(&gate.workflow)?;
        let spec = &current.record.spec;
        match &gate.limit {
            Limit::Runs => spec.max_active_runs,
            Limit::Tasks => spec.max_active_tasks,
            Limit::Task(task) => current.limits.get(task).copied(),
        }
    }

    pub(crate) fn current(&self, workflow: &WorkflowName) -> Option<&Arc<Workflow>> {
        let versions = self.workflows.get(workflow)?;
        let (_, version) = versions.last_key_value()?;
        Some(&version.workflow)
    }
}
