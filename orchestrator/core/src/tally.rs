//! How many runs, queued and active tasks each workflow has. Counted as it changes, so that nothing walks runs to know.

use std::collections::BTreeMap;

use outpost_proto::ids::RunId;
use outpost_proto::name::WorkflowName;

use crate::record::TaskState;
use crate::run::Run;
use crate::tenant::Tenant;

/// What a workflow does now, over all its versions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Tally {
    /// Runs that are not over.
    pub(crate) runs: usize,
    /// Tasks that may be placed.
    pub(crate) queued: usize,
    /// Tasks with an attempt.
    pub(crate) active: usize,
}

/// Per workflow that does something, and over all of them.
#[derive(Debug, Default)]
pub(crate) struct Tallies {
    of: BTreeMap<WorkflowName, Tally>,
    runs: usize,
}

impl Tallies {
    /// Live runs of the tenant.
    pub(crate) fn runs(&self) -> usize {
        self.runs
    }

    pub(crate) fn get(&self, workflow: &WorkflowName) -> Tally {
        self.of.get(workflow).copied().unwrap_or_default()
    }

    /// A run is there that was not, or is over.
    pub(crate) fn run(&mut self, workflow: &WorkflowName, live: bool) {
        step(&mut self.runs, live);
        self.change(workflow, |tally| step(&mut tally.runs, live));
    }

    pub(crate) fn task(&mut self, workflow: &WorkflowName, before: TaskState, after: TaskState) {
        if kind(before) == kind(after) {
            return;
        }
        self.change(workflow, |tally| {
            for (state, more) in [(before, false), (after, true)] {
                match kind(state) {
                    Kind::Queued => step(&mut tally.queued, more),
                    Kind::Active => step(&mut tally.active, more),
                    Kind::Else => {}
                }
            }
        });
    }

    /// Takes in a run as it stands, with all its tasks.
    pub(crate) fn load(&mut self, run: &Run) {
        if !run.is_over() {
            self.run(&run.record.workflow, true);
        }
        for task in &run.tasks {
            self.task(&run.record.workflow, TaskState::Waiting, task.record.state);
        }
    }

    fn change(&mut self, workflow: &WorkflowName, change: impl FnOnce(&mut Tally)) {
        let tally = match self.of.get_mut(workflow) {
            Some(tally) => tally,
            None => self.of.entry(workflow.clone()).or_default(),
        };
        change(tally);
        if *tally == Tally::default() {
            self.of.remove(workflow);
        }
    }
}

#[derive(PartialEq, Eq)]
enum Kind {
    Queued,
    Active,
    Else,
}

fn kind(state: TaskState) -> Kind {
    match state {
        TaskState::Queued { .. } => Kind::Queued,
        TaskState::Active { .. } => Kind::Active,
        TaskState::Waiting
        | TaskState::Backoff { .. }
        | TaskState::Succeeded
        | TaskState::Failed { .. }
        | TaskState::UpstreamFailed
        | TaskState::Cancelled => Kind::Else,
    }
}

fn step(number: &mut usize, more: bool) {
    *number = if more {
        number.saturating_add(1)
    } else {
        number.saturating_sub(1)
    };
}

impl Tenant {
    /// A task moved from one state to another.
    pub(crate) fn tally_task(&mut self, id: RunId, before: TaskState, after: TaskState) {
        if let Some(run) = self.runs.get(&id) {
            self.tallies.task(&run.record.workflow, before, after);
        }
    }
}
