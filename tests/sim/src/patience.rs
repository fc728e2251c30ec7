//! What the orchestrator makes of silence and of failures: nothing is given up too early, and a task has the tries that
//! its workflow gives it, no more and no fewer.

use std::time::Duration;

use outpost_orchestrator_core::limits::REQUEUES;
use outpost_orchestrator_core::record::{AttemptRecord, Phase, RunState, TaskRecord, TaskState};
use outpost_orchestrator_core::spec::Retry;
use outpost_proto::outcome::{Interruption, Outcome};

use crate::invariants::{Checked, holds};
use crate::queue::{At, SECOND};
use crate::site::Site;
use crate::world::World;

/// Clocks and turns are not looked at more closely than this.
const ABOUT: At = 5 * SECOND;

fn micros(span: Duration) -> At {
    At::try_from(span.as_micros()).unwrap_or(At::MAX)
}

impl World {
    /// When an attempt is given up that nobody said to be over.
    pub(crate) fn invariant_nothing_is_given_up_too_early(
        &self,
        before: Option<&AttemptRecord>,
        after: &AttemptRecord,
    ) -> Checked {
        let was = before.is_some_and(|before| before.phase != after.phase);
        let lost = matches!(after.phase, Phase::Lost { .. }) && after.asserted.is_none();
        let named = |site: &&Site| {
            (&site.identity.tenant, &site.identity.agent) == (&after.tenant, &after.agent)
        };
        let index = self.sites.iter().position(|site| named(&site));
        let usual = |index: &usize| !self.is_copied(*index) && !self.is_removed(*index);
        let Some(index) = index.filter(usual).filter(|_| was && lost) else {
            return Ok(());
        };
        let site = &self.sites[index];
        let Some(spoke) = site.spoke.filter(|_| !site.cheats) else {
            return Ok(());
        };
        let settings = self.plan.settings();
        let silent = self.now.saturating_sub(spoke);
        if silent < ABOUT || after.incarnation != site.incarnation {
            // It says itself that it does not have it; or of another life, that may take a while to be believed.
            return Ok(());
        }
        let what = format!("{} of s{index}, silent for {silent} us", after.attempt);
        holds(
            silent + ABOUT >= micros(settings.lost_after) && after.retry_safe,
            "silence ends an attempt only after a while, and only if it may run twice",
            what,
        )
    }

    /// At each change of a task that follows an attempt.
    pub(crate) fn invariant_a_task_has_the_tries_that_it_was_given(
        &self,
        before: Option<&TaskRecord>,
        after: &TaskRecord,
    ) -> Checked {
        let sentence = "a task has the tries that its workflow gives it";
        let mirror = &self.center.disk.mirror;
        let (Some(before), Some(retry)) = (before, self.retry_of(after)) else {
            return Ok(());
        };
        let TaskState::Active { attempt } = before.state else {
            return Ok(());
        };
        let run = mirror.runs.get(&after.run);
        let cancelling = run.is_none_or(|run| run.state != RunState::Running);
        let known = mirror.attempts.get(&attempt);
        if cancelling || known.is_none_or(|known| known.recovered) {
            return Ok(());
        }
        let what = format!("{}: {before:?}, then {after:?}", after.run);
        match after.state {
            TaskState::Failed { outcome } if uses_a_try(outcome) => {
                let given_up = after.requeued > REQUEUES;
                holds(after.spent > retry.retries || given_up, sentence, what)
            }
            TaskState::Backoff { last, .. } => {
                let one_more = before.spent + u16::from(uses_a_try(last));
                let of_silence = last == Outcome::Interrupted(Interruption::AgentStateLost);
                let counted = after.spent == one_more || of_silence;
                holds(after.spent <= retry.retries && counted, sentence, what)
            }
            TaskState::Waiting
            | TaskState::Queued { .. }
            | TaskState::Active { .. }
            | TaskState::Succeeded
            | TaskState::Failed { .. }
            | TaskState::UpstreamFailed
            | TaskState::Cancelled => Ok(()),
        }
    }

    fn retry_of(&self, task: &TaskRecord) -> Option<Retry> {
        let mirror = &self.center.disk.mirror;
        let run = mirror.runs.get(&task.run)?;
        let key = (run.tenant.clone(), run.workflow.clone(), run.version);
        let spec = &mirror.workflows.get(&key)?.spec;
        let task = spec.tasks.get(usize::from(task.task.0))?;
        Some(task.retry)
    }
}

/// Whether a task that ended so was tried.
fn uses_a_try(outcome: Outcome) -> bool {
    match outcome {
        Outcome::Failed | Outcome::TimedOut | Outcome::StartFailed(_) | Outcome::Killed(_) => true,
        Outcome::Interrupted(Interruption::Reboot | Interruption::SidecarRestart) => true,
        Outcome::Interrupted(Interruption::AgentStateLost)
        | Outcome::Succeeded
        | Outcome::Cancelled
        | Outcome::Refused(_) => false,
    }
}
