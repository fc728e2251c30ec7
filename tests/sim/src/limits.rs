//! Limits and priorities of workflows: drawn with them, and never exceeded whatever happens.

use std::collections::BTreeSet;

use outpost_orchestrator_core::record::{AttemptRecord, RunRecord, TaskRecord, TaskState};
use outpost_orchestrator_core::spec::{Affinity, WorkflowSpec};
use outpost_proto::ids::TaskIndex;
use outpost_proto::name::{TenantName, WorkflowName};

use crate::invariants::{Checked, holds};
use crate::world::World;

/// Most limits of a workflow that has some.
const MOST: u64 = 3;

/// Gives a third of all workflows limits, and a quarter no affinity. `drawn` is any random number.
pub(crate) fn limit(spec: &mut WorkflowSpec, drawn: u64) {
    let part = |shift: u32, of: u64| (drawn >> shift) % of;
    let limit = |shift: u32| u32::try_from(part(shift, MOST) + 1).ok();
    if part(0, 3) == 0 {
        spec.max_active_runs = limit(8).filter(|_| part(16, 2) == 0);
        spec.max_active_tasks = limit(24).filter(|_| part(32, 2) == 0);
        if let Some(task) = spec.tasks.first_mut() {
            task.max_active = limit(40).filter(|_| part(48, 2) == 0);
        }
    }
    if part(50, 4) == 0 {
        spec.affinity = Affinity::None;
    }
    spec.priority = i8::try_from(part(52, 5)).unwrap_or(0) - 2;
}

/// Whether it has limits.
pub(crate) fn is_limited(spec: &WorkflowSpec) -> bool {
    let task = spec.tasks.iter().any(|task| task.max_active.is_some());
    spec.max_active_runs.is_some() || spec.max_active_tasks.is_some() || task
}

impl World {
    /// Whenever something of a workflow was placed, its limits hold: those of its newest version, over all its runs.
    pub(crate) fn invariant_no_limit_is_exceeded(&self, made: &[AttemptRecord]) -> Checked {
        let mirror = &self.center.disk.mirror;
        let of = |attempt: &AttemptRecord| {
            let run = mirror.runs.get(&attempt.run)?;
            Some((run.tenant.clone(), run.workflow.clone()))
        };
        let workflows: BTreeSet<(TenantName, WorkflowName)> = made.iter().filter_map(of).collect();
        for (tenant, workflow) in workflows {
            let Some(spec) = self.newest(&tenant, &workflow) else {
                continue;
            };
            let active: Vec<(TaskIndex, &RunRecord)> = self.active(&tenant, &workflow).collect();
            let within =
                |most: Option<u32>, now: usize| most.is_none_or(|most| now <= most as usize);
            holds(
                within(spec.max_active_tasks, active.len()),
                "no more tasks of a workflow are active than may be",
                format!("{workflow}: {}", active.len()),
            )?;
            let first = spec.tasks.first();
            let placed_first = made.iter().any(|attempt| {
                attempt.task == TaskIndex(0)
                    && of(attempt) == Some((tenant.clone(), workflow.clone()))
            });
            let firsts = active
                .iter()
                .filter(|(task, _)| *task == TaskIndex(0))
                .count();
            holds(
                !placed_first || within(first.and_then(|task| task.max_active), firsts),
                "no more attempts of a task are active than may be",
                format!("{workflow}: {firsts}"),
            )?;
        }
        Ok(())
    }

    /// Whenever a run begins, no more runs of its workflow are active than may be.
    pub(crate) fn invariant_no_run_begins_beyond_the_limit(
        &self,
        before: Option<&RunRecord>,
        after: &RunRecord,
    ) -> Checked {
        let begins =
            after.started_at.is_some() && before.is_none_or(|run| run.started_at.is_none());
        // What began in a former life of the database is taken in, whatever has begun since or has not told its end.
        let mut attempts = self.center.disk.mirror.attempts.values();
        let taken_in = attempts.any(|attempt| attempt.run == after.run && attempt.recovered);
        let Some(spec) = self
            .newest(&after.tenant, &after.workflow)
            .filter(|_| begins && !taken_in)
        else {
            return Ok(());
        };
        let runs = self.center.disk.mirror.runs.values().filter(|run| {
            (&run.tenant, &run.workflow) == (&after.tenant, &after.workflow)
                && run.started_at.is_some()
                && !Self::run_over(run.state)
        });
        let runs = runs.count();
        holds(
            spec.max_active_runs
                .is_none_or(|most| runs <= most as usize),
            "no more runs of a workflow are active than may be",
            format!("{}: {runs}", after.workflow),
        )
    }

    /// Whether this queued task waits until a person decides: a limit of its workflow is reached by attempts whose ends
    /// nobody knows, or by runs that wait for a person themselves.
    pub(crate) fn is_held_up(&self, task: &TaskRecord) -> bool {
        let Some(run) = self.center.disk.mirror.runs.get(&task.run) else {
            return false;
        };
        let spec = self.newest(&run.tenant, &run.workflow);
        let Some(spec) = spec.filter(|spec| is_limited(spec)) else {
            return false;
        };
        let stuck: Vec<TaskIndex> = self
            .tasks_of(&run.tenant, &run.workflow)
            .filter(|(task, _)| self.is_stuck(task))
            .map(|(task, _)| task.task)
            .collect();
        let firsts = stuck.iter().filter(|task| **task == TaskIndex(0)).count();
        let first = spec.tasks.first().and_then(|task| task.max_active);
        let reached = |most: Option<u32>, now: usize| most.is_some_and(|most| now >= most as usize);
        reached(spec.max_active_tasks, stuck.len())
            || (task.task == TaskIndex(0) && reached(first, firsts))
            || (run.started_at.is_none()
                && reached(spec.max_active_runs, self.begun_and_stuck(run)))
    }

    /// Whether an active task stays so: nobody knows the end of its attempt and nobody decides, or a cheating agent has it.
    pub(crate) fn is_stuck(&self, task: &TaskRecord) -> bool {
        let TaskState::Active { attempt } = task.state else {
            return false;
        };
        self.is_in_a_cheats_hands(task) || (!self.plan.person && self.is_unknown(attempt))
    }

    /// Runs of the same workflow that have begun and wait for a person.
    fn begun_and_stuck(&self, run: &RunRecord) -> usize {
        let runs = self.center.disk.mirror.runs.values().filter(|other| {
            (&other.tenant, &other.workflow) == (&run.tenant, &run.workflow)
                && other.started_at.is_some()
                && !Self::run_over(other.state)
                && self.waits_for_a_person(other.run)
        });
        runs.count()
    }

    pub(crate) fn newest(
        &self,
        tenant: &TenantName,
        workflow: &WorkflowName,
    ) -> Option<&WorkflowSpec> {
        let versions =
            (tenant.clone(), workflow.clone(), 0)..=(tenant.clone(), workflow.clone(), u32::MAX);
        let versions = &mut self.center.disk.mirror.workflows.range(versions);
        versions.next_back().map(|(_, record)| &record.spec)
    }

    fn active<'a>(
        &'a self,
        tenant: &'a TenantName,
        workflow: &'a WorkflowName,
    ) -> impl Iterator<Item = (TaskIndex, &'a RunRecord)> {
        let tasks = self.tasks_of(tenant, workflow);
        let active = tasks.filter(|(task, _)| matches!(task.state, TaskState::Active { .. }));
        active.map(|(task, run)| (task.task, run))
    }

    fn tasks_of<'a>(
        &'a self,
        tenant: &'a TenantName,
        workflow: &'a WorkflowName,
    ) -> impl Iterator<Item = (&'a TaskRecord, &'a RunRecord)> {
        let mirror = &self.center.disk.mirror;
        mirror.tasks.values().filter_map(move |task| {
            let run = mirror.runs.get(&task.run)?;
            ((&run.tenant, &run.workflow) == (tenant, workflow)).then_some((task, run))
        })
    }
}
