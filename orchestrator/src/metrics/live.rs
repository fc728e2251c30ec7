//! What is alive, counted from what was committed: runs and tasks by state, and how long work waited.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use outpost_orchestrator_core::record::{
    AttemptRecord, Notice, NoticeKind, Phase, RunRecord, RunState, TaskRecord, TaskState, Write,
};
use outpost_proto::ids::{AttemptId, RunId, TaskIndex};
use outpost_proto::name::TenantName;
use tracing::warn;

use super::tenant::{self, TenantMetrics};

/// Everything alive. Holds as much as the core does, and much less of each.
#[derive(Debug, Default)]
pub(super) struct Live {
    runs: HashMap<RunId, Run>,
    /// Attempts that were heard to run.
    running: HashSet<AttemptId>,
    /// Runs that ended in the commit at hand: their last tasks may come behind them.
    over: Vec<RunId>,
}

#[derive(Debug)]
struct Run {
    of: Arc<TenantMetrics>,
    /// Place of its state's word.
    state: usize,
    tasks: BTreeMap<TaskIndex, Task>,
}

#[derive(Debug, Clone, Copy)]
struct Task {
    /// Place of its state's word.
    state: usize,
    /// While it is queued: since when.
    since: u64,
}

impl Live {
    /// Forgets everything, and takes it out of the numbers.
    pub(super) fn clear(&mut self) {
        for (_, run) in self.runs.drain() {
            run.leave();
        }
        self.running.clear();
        self.over.clear();
    }

    /// Counts one commit.
    pub(super) fn committed(
        &mut self,
        writes: &[Write],
        of: impl Fn(&TenantName) -> Arc<TenantMetrics>,
    ) {
        // A task and its new attempt are written together, in either order.
        let mut assigned: HashMap<AttemptId, u64> = HashMap::new();
        for write in writes {
            if let Write::Attempt(attempt) = write {
                assigned.insert(attempt.attempt, attempt.assigned_at);
            }
        }
        for write in writes {
            if let Write::Run(run) = write {
                self.run(run, &of);
            }
        }
        for write in writes {
            match write {
                Write::Task(task) => self.task(task, Some(&assigned)),
                Write::Attempt(attempt) => self.attempt(attempt, &of(&attempt.tenant)),
                Write::Run(_)
                | Write::Workflow(_)
                | Write::WorkflowState(_)
                | Write::Agent(_)
                | Write::AgentMark(_)
                | Write::Invite(_)
                | Write::Tenant(_)
                | Write::Key(_) => {}
                Write::Notice(notice) => safety(notice, &of),
            }
        }
        self.end_of_commit();
    }

    /// A run as it stands now.
    pub(super) fn run(
        &mut self,
        record: &RunRecord,
        of: impl Fn(&TenantName) -> Arc<TenantMetrics>,
    ) {
        let (state, end) = match record.state {
            RunState::Running => (Some(0), None),
            RunState::Cancelling => (Some(1), None),
            RunState::Succeeded => (None, Some(0)),
            RunState::Failed => (None, Some(1)),
            RunState::Cancelled => (None, Some(2)),
        };
        match (state, self.runs.get_mut(&record.run)) {
            (Some(state), Some(run)) => {
                add(run.of.runs.at(run.state), -1);
                run.state = state;
                add(run.of.runs.at(state), 1);
            }
            (Some(state), None) => {
                let of = of(&record.tenant);
                add(of.runs.at(state), 1);
                let tasks = BTreeMap::new();
                self.runs.insert(record.run, Run { of, state, tasks });
            }
            (None, Some(run)) if !self.over.contains(&record.run) => {
                if let Some(counter) = end.and_then(|end| run.of.runs_finished.at(end)) {
                    counter.inc();
                }
                self.over.push(record.run);
            }
            // Over for a while, or never alive here: a run of an attempt that is still unsettled.
            (None, Some(_) | None) => {}
        }
    }

    /// A task as it stands now. `assigned` says when the commit's attempts were assigned; without it nothing is
    /// measured.
    pub(super) fn task(&mut self, record: &TaskRecord, assigned: Option<&HashMap<AttemptId, u64>>) {
        let Some(run) = self.runs.get_mut(&record.run) else {
            return;
        };
        let before = run.tasks.get(&record.task).copied();
        let (state, since) = match record.state {
            TaskState::Waiting => (0, 0),
            TaskState::Queued { since } => (1, since),
            TaskState::Backoff { .. } => (2, 0),
            TaskState::Active { attempt } => {
                let at = assigned.and_then(|assigned| assigned.get(&attempt));
                let newly = before.is_none_or(|before| before.state != 3);
                if let Some(&at) = at.filter(|_| newly) {
                    // Queued and assigned within one commit: it did not wait.
                    let since = before.map_or(0, |before| before.since);
                    let waited = if since == 0 {
                        0
                    } else {
                        at.saturating_sub(since)
                    };
                    run.of.queued.observe(seconds(waited));
                }
                (3, 0)
            }
            TaskState::Succeeded => return run.task_over(record.task, 0),
            TaskState::Failed { .. } => return run.task_over(record.task, 1),
            TaskState::UpstreamFailed => return run.task_over(record.task, 2),
            TaskState::Cancelled => return run.task_over(record.task, 3),
        };
        if let Some(before) = before {
            add(run.of.tasks.at(before.state), -1);
        }
        add(run.of.tasks.at(state), 1);
        run.tasks.insert(record.task, Task { state, since });
    }

    /// An attempt that was there before: nothing of it is measured.
    pub(super) fn known(&mut self, record: &AttemptRecord) {
        if matches!(record.phase, Phase::Running) {
            self.running.insert(record.attempt);
        }
    }

    fn attempt(&mut self, record: &AttemptRecord, of: &TenantMetrics) {
        let ended = match record.phase {
            Phase::Assigned | Phase::Accepted | Phase::Starting => return,
            Phase::Running => None,
            Phase::Finished { report } => Some(tenant::outcome(report.outcome)),
            Phase::Lost { .. } => Some(tenant::LOST),
        };
        let was_running = match ended {
            None => !self.running.insert(record.attempt),
            Some(_) => self.running.remove(&record.attempt),
        };
        if let Some(started) = record.started_at.filter(|_| !was_running) {
            of.starting
                .observe(seconds(started.saturating_sub(record.assigned_at)));
        }
        // What came late is kept beside the end that was counted before.
        if let Some(counter) = ended.and_then(|place| of.attempts.at(place))
            && record.late.is_none()
        {
            counter.inc();
        }
    }

    /// Lets go of the runs that ended.
    pub(super) fn end_of_commit(&mut self) {
        for run in self.over.drain(..) {
            if let Some(run) = self.runs.remove(&run) {
                run.leave();
            }
        }
    }
}

impl Run {
    fn task_over(&mut self, task: TaskIndex, end: usize) {
        if let Some(before) = self.tasks.remove(&task) {
            add(self.of.tasks.at(before.state), -1);
            if let Some(counter) = self.of.tasks_finished.at(end) {
                counter.inc();
            }
        }
    }

    fn leave(self) {
        add(self.of.runs.at(self.state), -1);
        for task in self.tasks.values() {
            add(self.of.tasks.at(task.state), -1);
        }
    }
}

/// Counted, and written where whoever runs the orchestrator looks first.
fn safety(notice: &Notice, of: impl Fn(&TenantName) -> Arc<TenantMetrics>) {
    if let NoticeKind::Safety {
        what,
        agent,
        attempt,
        by,
        reason,
    } = &notice.what
    {
        of(&notice.tenant).safety(*what);
        let shown = |name: &dyn std::fmt::Display| name.to_string();
        warn!(
            target: "audit", tenant = %notice.tenant, what = what.word(),
            agent = agent.as_ref().map(|agent| shown(agent)),
            attempt = attempt.as_ref().map(|attempt| shown(attempt)),
            by, reason, "what nobody shall miss"
        );
    }
}

fn add(gauge: Option<&prometheus_client::metrics::gauge::Gauge>, by: i64) {
    if let Some(gauge) = gauge {
        gauge.inc_by(by);
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "microseconds of a wait are far below 2^52"
)]
fn seconds(micros: u64) -> f64 {
    micros as f64 / 1e6
}
