//! What follows from the end of an attempt: success, another try, a pause, or the end of its task.
//!
//! The rule for a second attempt is here: never while the first may still run, unless its entry is `retry_safe`.

use outpost_driver::Micros;
use outpost_proto::ids::{RunId, TaskIndex};
use outpost_proto::outcome::{Interruption, Outcome, Refusal, Report};

use crate::limits::{REQUEUE_PAUSE_MS, REQUEUES, UNTIMELY, UNTIMELY_PAUSE_MS};
use crate::record::{AttemptRecord, Phase, RunState, TaskRecord, TaskState, Write};
use crate::spec::Retry;
use crate::tenant::{Ctx, Tenant};

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
        // A second attempt might run beside it.
        _ if is_unsure(report, retry_safe) => Verdict::Final,
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

/// Whether nobody can say that an attempt is over, and a second one must not run beside it.
fn is_unsure(report: Report, retry_safe: bool) -> bool {
    report.outcome == UNKNOWN_END && report.may_have_started && !retry_safe
}

/// The outcome that stands for an attempt of which nobody can say what became of it.
pub(crate) const UNKNOWN_END: Outcome = Outcome::Interrupted(Interruption::AgentStateLost);

impl Tenant {
    /// An attempt's end is known. Only the attempt that the task waits for decides.
    pub(crate) fn task_ended(
        &mut self,
        ctx: &mut Ctx<'_>,
        attempt: &AttemptRecord,
        report: Report,
    ) {
        if is_unsure(report, attempt.retry_safe) {
            self.note_unsure(ctx, attempt.run, attempt.task);
        }
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
            // Given back on request: nothing stands in its way elsewhere.
            Verdict::Requeue
                if outcome == Outcome::Refused(Refusal::Draining)
                    && self.is_drained(&attempt.agent) =>
            {
                self.requeue(ctx, id, task, ctx.now, outcome);
                self.leave_drained(ctx, id);
            }
            Verdict::Requeue => {
                let (least, most) = self.requeue_pause(id, task, outcome);
                let pause = ctx.chance.between(least, most);
                self.requeue(ctx, id, task, ctx.now.plus_ms(pause), outcome);
            }
        }
        self.finish_if_over(ctx, id);
    }

    fn note_unsure(&mut self, ctx: &mut Ctx<'_>, id: RunId, task: TaskIndex) {
        let run = self.runs.get_mut(&id);
        let known = run.and_then(|run| run.tasks.get_mut(usize::from(task.0)));
        if let Some(known) = known {
            known.record.unsure = true;
            ctx.write(Write::Task(known.record.clone()));
        }
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
        let agent = self.agents.get(&attempt.agent);
        let idle = agent.map(|agent| agent.surely_idle(ctx.settings, attempt));
        self.release(ctx, id);
        self.requeue(ctx, id, task, idle.unwrap_or(ctx.now), UNKNOWN_END);
        self.finish_if_over(ctx, id);
    }

    /// When no attempt of this task that was given up can start or run on any more, counted from now where the clock that
    /// it was counted by may have been another: every agent counts as granted a full lease at a start.
    pub(crate) fn surely_idle(&self, ctx: &Ctx<'_>, id: RunId, task: TaskIndex) -> Micros {
        let pending = self.runs.get(&id).into_iter().flat_map(|run| &run.pending);
        let attempts = pending.filter_map(|attempt| self.attempts.get(attempt));
        let given_up = attempts.filter(|attempt| {
            let lost = matches!(attempt.phase, Phase::Lost { .. });
            attempt.task == task && lost && attempt.late.is_none() && attempt.asserted.is_none()
        });
        let idle = given_up.filter_map(|attempt| {
            let agent = self.agents.get(&attempt.agent)?;
            Some(agent.surely_idle(ctx.settings, attempt))
        });
        idle.max().unwrap_or(Micros(0))
    }

    /// Whether the task still waits for this attempt, and if so whether its run is being cancelled.
    pub(crate) fn waits_for(&self, attempt: &AttemptRecord) -> Option<bool> {
        let run = self.runs.get(&attempt.run)?;
        let state = run.task(attempt.task)?.record.state;
        let waits = state
            == TaskState::Active {
                attempt: attempt.attempt,
            };
        waits.then_some(run.record.state == RunState::Cancelling)
    }

    pub(crate) fn spent(
        &mut self,
        ctx: &mut Ctx<'_>,
        id: RunId,
        task: TaskIndex,
        outcome: Outcome,
    ) {
        let Some((retry, spent)) = self.count(id, task, |record| {
            (record.requeued, record.untimely) = (0, 0);
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

    /// Between what the pause before the next attempt is drawn, in milliseconds. The site is asked more and more seldom
    /// for what only its clock allows: when that is, is not known here.
    fn requeue_pause(&self, id: RunId, task: TaskIndex, outcome: Outcome) -> (u64, u64) {
        let (least, most) = REQUEUE_PAUSE_MS;
        let known = self.runs.get(&id).and_then(|run| run.task(task));
        let before = known.map_or(0, |task| task.record.untimely.min(16));
        if before == 0 || !is_untimely(outcome) {
            return (least, most);
        }
        let most = (most << before).min(UNTIMELY_PAUSE_MS);
        (most - most / 4, most)
    }

    fn requeue(
        &mut self,
        ctx: &mut Ctx<'_>,
        id: RunId,
        task: TaskIndex,
        until: Micros,
        last: Outcome,
    ) {
        let (counter, bound): (fn(&mut TaskRecord) -> &mut u16, _) = if is_untimely(last) {
            (|record| &mut record.untimely, UNTIMELY)
        } else {
            (|record| &mut record.requeued, REQUEUES)
        };
        let counted = self.count(id, task, |record| {
            let counter = counter(record);
            *counter = counter.saturating_add(1);
            *counter
        });
        match counted {
            Some((_, counted)) if counted > bound => {
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
        if until > ctx.now {
            let until = until.0;
            self.set_task(ctx, id, task, TaskState::Backoff { until, last });
        } else {
            self.queue_again(ctx, id, task);
        }
    }
}

/// Whether only the site's clock stands in the way.
fn is_untimely(outcome: Outcome) -> bool {
    matches!(
        outcome,
        Outcome::Refused(Refusal::Rate | Refusal::TimeWindow)
    )
}

/// The longest pause before try number `spent` + 1: doubled each time, up to the workflow's bound.
fn longest_delay_ms(retry: Retry, spent: u16) -> u64 {
    let doublings = u32::from(spent.saturating_sub(1)).min(40);
    retry
        .delay_ms
        .saturating_mul(1 << doublings)
        .min(retry.max_delay_ms.max(retry.delay_ms))
}
