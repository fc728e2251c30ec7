//! Running tasks of a run again, in the same run: its outputs are in its directory at the site.
//!
//! What is run again waits and is placed like the first time, with fresh tries. A task of which an attempt's end is
//! not known is not run again: that attempt may still run.

use std::collections::BTreeSet;
use std::sync::Arc;

use outpost_proto::ids::{RunId, TaskIndex};
use outpost_proto::name::TaskName;

use crate::event::{Answer, Denied};
use crate::limits::RUNS;
use crate::record::{AttemptRecord, Phase, RunState, StoredRun, TaskState};
use crate::run::{Run, Task, Workflow, is_open};
use crate::tenant::{Ctx, Tenant, Version};

/// What a rerun makes of a task.
type Anew = Vec<(TaskIndex, TaskState)>;

impl Tenant {
    pub(crate) fn rerun(
        &mut self,
        ctx: &mut Ctx<'_>,
        id: RunId,
        tasks: Option<&[TaskName]>,
        stored: Option<&StoredRun>,
    ) -> Result<Answer, Denied> {
        if self.evicted.contains(&id) {
            return Err(Denied::CannotRerun {
                run: id,
                why: "it is over since this very moment: ask once more".to_owned(),
            });
        }
        let in_memory = self.runs.contains_key(&id);
        let of_store = stored.filter(|stored| {
            !in_memory && stored.run.run == id && stored.run.tenant == self.record.tenant
        });
        let loaded = of_store.map(|stored| {
            let versions = self.workflows.get(&stored.run.workflow);
            let known = versions.and_then(|versions| versions.get(&stored.run.version));
            let workflow = known.map_or_else(
                || Arc::new(Workflow::new(stored.workflow.clone())),
                |version| Arc::clone(&version.workflow),
            );
            Run::load(stored.run.clone(), workflow, stored.tasks.clone())
        });
        let run = loaded.as_ref().or_else(|| self.runs.get(&id));
        let run = run.ok_or(Denied::UnknownRun(id))?;
        self.may_rerun(run)?;
        let anew = choose(ctx, run, tasks)?;
        self.no_end_unknown(ctx, run, &anew)?;
        let names = names(run, &anew);
        if let Some(run) = loaded {
            self.take_in(run);
        }
        self.begin_again(ctx, id, &anew);
        Ok(Answer::Rerun { tasks: names })
    }

    fn may_rerun(&self, run: &Run) -> Result<(), Denied> {
        let why = if self.living(&run.record.workflow).is_none() {
            format!(
                "its workflow `{}` was deleted: apply it again, then rerun",
                run.record.workflow
            )
        } else if run.record.state == RunState::Cancelling {
            "it is being cancelled: wait until it is over, then rerun".to_owned()
        } else if run.is_over() && self.tallies.runs() >= RUNS {
            return Err(Denied::Limit(format!(
                "{RUNS} runs of this tenant are live, which is the limit: wait for some to end, or cancel some"
            )));
        } else {
            return Ok(());
        };
        let run = run.record.run;
        Err(Denied::CannotRerun { run, why })
    }

    /// A second attempt follows only what is surely over, or what the site called `retry_safe` and can no longer start.
    fn no_end_unknown(&self, ctx: &Ctx<'_>, run: &Run, anew: &Anew) -> Result<(), Denied> {
        let cannot = |why: String| Denied::CannotRerun {
            run: run.record.run,
            why,
        };
        let chosen = |task: TaskIndex| anew.binary_search_by_key(&task, |(task, _)| *task).is_ok();
        let unsure = run.tasks.iter().map(|task| &task.record);
        let mut unsure = unsure.filter(|task| task.unsure && chosen(task.task));
        if let Some(task) = unsure.next() {
            return Err(cannot(format!(
                "the agent lost what it knew of an attempt of task `{}`, which may still run: look at the site, then \
                 trigger a new run",
                name_of(run, task.task)
            )));
        }
        let unknown = run.pending.iter().filter_map(|id| self.attempts.get(id));
        let mut unknown = unknown.filter(|attempt| chosen(attempt.task));
        match unknown.find(|attempt| !self.may_follow(ctx, attempt)) {
            Some(attempt) => Err(cannot(format!(
                "how attempt {} of task `{}` on agent `{}` ended is not known, it may still run: wait until the agent \
                 is back, or trigger a new run",
                attempt.attempt,
                name_of(run, attempt.task),
                attempt.agent
            ))),
            None => Ok(()),
        }
    }

    /// Whether another attempt may be made although the end of this one is unknown.
    fn may_follow(&self, ctx: &Ctx<'_>, attempt: &AttemptRecord) -> bool {
        let idle = self
            .agents
            .get(&attempt.agent)
            .is_none_or(|agent| agent.surely_idle(ctx.settings, attempt) <= ctx.now);
        let is_lost = matches!(attempt.phase, Phase::Lost { .. });
        is_lost && (attempt.asserted.is_some() || attempt.retry_safe && idle)
    }

    /// A run that was over is in memory again.
    fn take_in(&mut self, run: Run) {
        let versions = self
            .workflows
            .entry(run.record.workflow.clone())
            .or_default();
        let version = versions
            .entry(run.record.version)
            .or_insert_with(|| Version {
                workflow: Arc::clone(&run.workflow),
                runs: 0,
            });
        version.runs += 1;
        for entry in &run.workflow.entries {
            self.places.know_entry(entry, &self.agents);
        }
        self.tallies.load(&run);
        self.runs.insert(run.record.run, run);
    }

    fn begin_again(&mut self, ctx: &mut Ctx<'_>, id: RunId, anew: &Anew) {
        let Some(run) = self.runs.get_mut(&id) else {
            return;
        };
        run.record.reruns = run.record.reruns.saturating_add(1);
        run.record.finished_at = None;
        let gone = |agent: &_| {
            let known = self.agents.get(agent);
            known.is_none_or(|agent| agent.record.removed)
        };
        if run.record.agent.as_ref().is_some_and(gone) {
            run.record.agent = None;
        }
        for (task, _) in anew {
            if let Some(known) = run.tasks.get_mut(usize::from(task.0)) {
                let record = &mut known.record;
                (record.spent, record.requeued, record.untimely) = (0, 0, 0);
            }
        }
        self.set_run(ctx, id, RunState::Running);
        // What waits first, so that nothing counts a success that is run again.
        let (waiting, queued): (Anew, Anew) = anew
            .iter()
            .partition(|(_, state)| *state == TaskState::Waiting);
        for (task, state) in waiting.into_iter().chain(queued) {
            self.set_task(ctx, id, task, state);
        }
        if let Some(run) = self.runs.get_mut(&id) {
            run.count_needs();
        }
    }
}

/// The tasks to run again, and the state that each begins with: those named and all that need them, or all that did not
/// succeed. What needs something that did not succeed and is not run again stays as it is.
fn choose(ctx: &Ctx<'_>, run: &Run, named: Option<&[TaskName]>) -> Result<Anew, Denied> {
    let cannot = |why: String| Denied::CannotRerun {
        run: run.record.run,
        why,
    };
    let failed =
        |task: &&Task| !is_open(task.record.state) && task.record.state != TaskState::Succeeded;
    let first: BTreeSet<TaskIndex> = match named {
        None => run
            .tasks
            .iter()
            .filter(failed)
            .map(|task| task.record.task)
            .collect(),
        Some(names) => names
            .iter()
            .map(|name| find(run, name))
            .collect::<Result<_, _>>()?,
    };
    let mut chosen = with_successors(run, first.clone());
    let stuck = |task: &&TaskIndex| need_that_failed(run, **task, &chosen).is_some();
    let stuck = with_successors(run, chosen.iter().filter(stuck).copied().collect());
    for task in &first {
        if let Some(need) = need_that_failed(run, *task, &chosen) {
            let (task, need) = (name_of(run, *task), name_of(run, need));
            return Err(cannot(format!(
                "task `{task}` needs `{need}`, which did not succeed: name that one too"
            )));
        }
        if run
            .task(*task)
            .is_some_and(|task| is_open(task.record.state))
        {
            return Err(cannot(format!(
                "task `{}` is not over",
                name_of(run, *task)
            )));
        }
    }
    chosen.retain(|task| !stuck.contains(task));
    if chosen.is_empty() && run.is_over() {
        return Err(cannot(
            "every task of it succeeded: name the tasks to run again".to_owned(),
        ));
    } else if chosen.is_empty() {
        return Err(cannot("no task of it has failed so far".to_owned()));
    }
    for task in chosen.iter().filter_map(|task| run.task(*task)) {
        if let TaskState::Active { attempt } = task.record.state {
            return Err(cannot(format!(
                "task `{}` has the attempt {attempt}, which is not over: wait for it, or cancel the run",
                name_of(run, task.record.task)
            )));
        }
    }
    let state = |task: &TaskIndex| {
        let done = |need: &TaskIndex| {
            let state = run.task(*need).map(|task| task.record.state);
            state == Some(TaskState::Succeeded) && !chosen.contains(need)
        };
        if needs(run, *task).iter().all(done) {
            TaskState::Queued { since: ctx.now.0 }
        } else {
            TaskState::Waiting
        }
    };
    Ok(chosen.iter().map(|task| (*task, state(task))).collect())
}

fn find(run: &Run, name: &TaskName) -> Result<TaskIndex, Denied> {
    let tasks = (0..).map(TaskIndex).zip(&run.workflow.record.spec.tasks);
    let found = tasks
        .filter(|(_, task)| task.name == *name)
        .map(|(index, _)| index)
        .next();
    found.ok_or_else(|| Denied::UnknownTask {
        run: run.record.run,
        task: name.clone(),
    })
}

/// These tasks and everything that needs them, directly or not.
fn with_successors(run: &Run, tasks: BTreeSet<TaskIndex>) -> BTreeSet<TaskIndex> {
    let mut last: Vec<TaskIndex> = tasks.iter().copied().collect();
    let mut all = tasks;
    while let Some(task) = last.pop() {
        let after = run.workflow.successors.get(usize::from(task.0));
        last.extend(
            after
                .into_iter()
                .flatten()
                .filter(|next| all.insert(**next)),
        );
    }
    all
}

/// What a task needs that ended without success and is not run again.
fn need_that_failed(run: &Run, task: TaskIndex, chosen: &BTreeSet<TaskIndex>) -> Option<TaskIndex> {
    let failed = |need: &&TaskIndex| {
        let state = run.task(**need).map(|task| task.record.state);
        let over = state.is_some_and(|state| !is_open(state));
        over && state != Some(TaskState::Succeeded) && !chosen.contains(need)
    };
    needs(run, task).iter().find(failed).copied()
}

fn needs(run: &Run, task: TaskIndex) -> &[TaskIndex] {
    run.workflow.task(task).map_or(&[], |task| &task.needs)
}

fn names(run: &Run, anew: &Anew) -> Vec<TaskName> {
    let tasks = anew.iter().filter_map(|(task, _)| run.workflow.task(*task));
    tasks.map(|task| task.name.clone()).collect()
}

fn name_of(run: &Run, task: TaskIndex) -> &str {
    let spec = run.workflow.task(task);
    spec.map_or("?", |task| task.name.as_str())
}
