//! What holds after every act.

use super::*;

impl World {
    pub(super) fn invariant_a_task_starts_only_after_its_needs_succeeded(&self) {
        for attempt in self.rig.mirror.attempts.values() {
            let needs: &[u16] = match attempt.task.0 {
                2 => &[0, 1],
                3 => &[0],
                _ => &[],
            };
            for need in needs {
                assert_eq!(
                    self.rig.task_state(attempt.run, *need),
                    TaskState::Succeeded
                );
            }
        }
    }

    pub(super) fn invariant_a_second_attempt_exists_only_if_safe(&self) {
        for attempt in self.rig.mirror.attempts.values() {
            let later = self.rig.mirror.attempts.values().any(|other| {
                (other.run, other.task) == (attempt.run, attempt.task)
                    && other.fence > attempt.fence
            });
            let known = match attempt.phase {
                Phase::Finished { report } => report.outcome != Outcome::Succeeded,
                // A late end is an end: then it is known.
                Phase::Lost { .. } => attempt.retry_safe || attempt.late.is_some(),
                Phase::Assigned | Phase::Accepted | Phase::Starting | Phase::Running => false,
            };
            assert!(!later || known, "{attempt:?}");
        }
    }

    pub(super) fn invariant_fences_are_unique_and_below_the_next(&self) {
        let fences: BTreeSet<Fence> = self
            .rig
            .mirror
            .attempts
            .values()
            .map(|attempt| attempt.fence)
            .collect();
        assert_eq!(fences.len(), self.rig.mirror.attempts.len());
        let next = self.rig.mirror.tenants[&name("acme")].next_fence;
        assert!(fences.last().is_none_or(|last| *last < next));
    }

    pub(super) fn invariant_no_agent_holds_more_than_its_capacity(&self) {
        for site in &self.sites {
            let active =
                self.rig.mirror.attempts.values().filter(|attempt| {
                    attempt.agent == site.agent && crate::tenant::is_active(attempt)
                });
            let most = self.settings.most(site.slots);
            assert!(active.count() <= usize::from(most));
        }
    }

    /// Looked at whenever something was placed: a limit that was lowered takes nothing back.
    pub(super) fn invariant_no_limit_is_exceeded(&self) {
        for (text, limits) in WORKFLOWS.iter().zip(self.limits) {
            let mirror = &self.rig.mirror;
            let of_it = |run: &RunId| mirror.runs[run].workflow.as_str() == *text;
            let attempts = mirror.attempts.values();
            let mut fresh = attempts
                .filter(|attempt| of_it(&attempt.run) && !self.before.contains(&attempt.attempt))
                .peekable();
            if fresh.peek().is_none() {
                continue;
            }
            let tasks = mirror
                .tasks
                .values()
                .filter(|task| of_it(&task.run) && matches!(task.state, TaskState::Active { .. }));
            let active: Vec<TaskIndex> = tasks.map(|task| task.task).collect();
            let first = active.iter().filter(|task| task.0 == 0).count();
            let begun = mirror.runs.values().filter(|run| {
                run.workflow.as_str() == *text
                    && run.started_at.is_some()
                    && !crate::tenant::over(run.state)
            });
            let begun = begun.count();
            let within =
                |most: Option<u32>, now: usize| most.is_none_or(|most| now <= most as usize);
            assert!(within(limits.tasks, active.len()), "{text}: {active:?}");
            let (mut of_first, mut of_new) = (false, false);
            for attempt in fresh {
                of_first |= attempt.task.0 == 0;
                let others = mirror
                    .attempts
                    .values()
                    .any(|other| other.run == attempt.run && self.before.contains(&other.attempt));
                of_new |= !others;
            }
            assert!(!of_first || within(limits.task, first), "{text}: {first}");
            assert!(!of_new || within(limits.runs, begun), "{text}: {begun}");
        }
    }

    pub(super) fn invariant_a_run_is_over_exactly_when_all_its_tasks_are(&self) {
        for run in self.rig.mirror.runs.values() {
            let mut tasks = self
                .rig
                .mirror
                .tasks
                .values()
                .filter(|task| task.run == run.run);
            assert_eq!(
                tasks.any(|task| crate::run::is_open(task.state)),
                !crate::tenant::over(run.state)
            );
        }
    }
}
