//! Which instants of a schedule make runs. One timer per workflow stands for its next instant; nothing looks ahead
//! further than that, and nothing polls.
//!
//! Instants are on the wall clock, timers on the core's own clock that never jumps: the difference is told by the
//! driver. The last instant decided on is written with the runs it made, so a crash, a reload or a failed commit
//! decides each instant once. It never goes back either: a wall clock that does makes no instant twice, and one that
//! leaps forward has missed what lies between, as after an outage.

use std::collections::BTreeMap;

use outpost_driver::Micros;
use outpost_proto::name::WorkflowName;

use crate::limits::{MISSED_AFTER_MS, RUNS, SKIPPED_COUNTED};
use crate::params::fill;
use crate::record::{NoticeKind, SkippedWhy, WorkflowStateRecord, Write};
use crate::schedule::Schedule;
use crate::spec::{Missed, ScheduleSpec};
use crate::tenant::{Ctx, Due, Tenant};

/// Next instants of a tenant's workflows, each with its timer.
#[derive(Debug, Default)]
pub(crate) struct Plans {
    next: BTreeMap<WorkflowName, (Micros, u64)>,
}

impl Plans {
    /// The instant that a workflow waits for.
    pub(crate) fn next(&self, workflow: &WorkflowName) -> Option<u64> {
        self.next.get(workflow).map(|(_, instant)| *instant)
    }
}

/// What is decided of the instants that are due.
#[derive(Debug, PartialEq, Eq, Default)]
pub(crate) struct Verdict {
    /// These make runs, ascending.
    pub(crate) make: Vec<u64>,
    /// These were missed and make none.
    pub(crate) missed: Option<Skipped>,
    /// The last of all.
    pub(crate) until: Option<u64>,
}

/// Instants that make no run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Skipped {
    pub(crate) from: u64,
    pub(crate) until: u64,
    pub(crate) count: u32,
}

impl Skipped {
    fn add(skipped: Option<Self>, instant: u64) -> Self {
        let known = skipped.unwrap_or(Self {
            from: instant,
            until: instant,
            count: 0,
        });
        Self {
            until: instant,
            count: known.count.saturating_add(1),
            ..known
        }
    }
}

/// Judges every instant later than `until` and not later than `now`. What is older than [`MISSED_AFTER_MS`] was missed,
/// and the schedule's policy decides on it; with `latest` and `all` the newest instants count, missed or not.
pub(crate) fn judge(schedule: &Schedule, spec: &ScheduleSpec, until: u64, now: u64) -> Verdict {
    let Some(first) = schedule.next(until).filter(|first| *first <= now) else {
        return Verdict::default();
    };
    let last = schedule.prev(now).unwrap_or(first);
    let on_time = now.saturating_sub(MISSED_AFTER_MS * 1000);
    let since = |from: u64| -> Vec<u64> {
        let instants = schedule.following(from.saturating_sub(1));
        instants.take_while(|instant| *instant <= now).collect()
    };
    let make = match spec.missed {
        _ if first >= on_time => since(first),
        Missed::Skip => since(on_time),
        Missed::Latest => vec![last],
        Missed::All => {
            let before = |instant: &u64| schedule.prev(instant.saturating_sub(1));
            let newest = std::iter::successors(Some(last), before);
            let newest = newest.take_while(|instant| *instant >= first);
            let mut newest: Vec<u64> = newest.take(usize::from(spec.missed_limit)).collect();
            newest.reverse();
            newest
        }
    };
    let end = make.first().copied().unwrap_or(u64::MAX);
    let missed = (first < end).then(|| {
        let skipped = schedule.following(first.saturating_sub(1));
        let skipped = skipped.take_while(|instant| *instant < end && *instant <= now);
        Skipped {
            from: first,
            until: schedule.prev(now.min(end - 1)).unwrap_or(first),
            count: u32::try_from(skipped.take(SKIPPED_COUNTED).count()).unwrap_or(u32::MAX),
        }
    });
    Verdict {
        make,
        missed,
        until: Some(last),
    }
}

impl Ctx<'_> {
    /// The wall clock's time, in microseconds since 1970.
    pub(crate) fn wall(&self) -> u64 {
        self.now.0.saturating_add_signed(self.ahead)
    }

    /// When the core's own clock shall look at an instant of the wall clock.
    fn core_time(&self, instant: u64) -> Micros {
        Micros(instant.saturating_add_signed(self.ahead.saturating_neg())).max(self.now)
    }
}

impl Tenant {
    /// What becomes of a workflow, as stored or as it is without a record.
    pub(crate) fn workflow_state(&self, workflow: &WorkflowName) -> WorkflowStateRecord {
        let known = self.workflow_states.get(workflow).cloned();
        known.unwrap_or_else(|| WorkflowStateRecord {
            tenant: self.record.tenant.clone(),
            workflow: workflow.clone(),
            paused: false,
            deleted: false,
            version: 0,
            scheduled_until: None,
        })
    }

    pub(crate) fn set_workflow_state(&mut self, ctx: &mut Ctx<'_>, state: WorkflowStateRecord) {
        ctx.write(Write::WorkflowState(state.clone()));
        self.workflow_states.insert(state.workflow.clone(), state);
    }

    /// The instant up to which a workflow's schedule was decided on. What a restored database lacks was decided before
    /// the restore, and may have run: it is not decided again.
    fn decided_until(&self, ctx: &Ctx<'_>, workflow: &WorkflowName) -> Option<u64> {
        let state = self.workflow_states.get(workflow);
        let decided = state.and_then(|state| state.scheduled_until);
        let decided = decided.or_else(|| Some(self.current(workflow)?.record.applied_at))?;
        Some(decided.max(ctx.restored_at.unwrap_or(0)))
    }

    /// Sets the timer of a workflow's next instant, instead of the one that stands.
    pub(crate) fn plan(&mut self, ctx: &Ctx<'_>, workflow: &WorkflowName) {
        if let Some((at, _)) = self.plans.next.remove(workflow) {
            self.timers.clear(at, Due::Schedule(workflow.clone()));
        }
        let asleep = self
            .workflow_states
            .get(workflow)
            .is_some_and(|state| state.paused || state.deleted);
        if asleep {
            return;
        }
        let Some(until) = self.decided_until(ctx, workflow) else {
            return;
        };
        let schedule = self
            .current(workflow)
            .and_then(|current| current.schedule.as_ref());
        let Some(instant) = schedule.and_then(|schedule| schedule.next(until)) else {
            return;
        };
        let at = ctx.core_time(instant);
        self.timers.set(at, Due::Schedule(workflow.clone()));
        self.plans.next.insert(workflow.clone(), (at, instant));
    }

    /// The same for all of them: after a load, and when the wall clock jumped.
    pub(crate) fn plan_all(&mut self, ctx: &Ctx<'_>) {
        let scheduled = self.workflows.iter().filter(|(_, versions)| {
            let current = versions.values().next_back();
            current.is_some_and(|current| current.workflow.schedule.is_some())
        });
        let names: Vec<WorkflowName> = scheduled.map(|(name, _)| name.clone()).collect();
        for name in names {
            self.plan(ctx, &name);
        }
    }

    /// Decides on every instant that is due, and waits for the next one.
    pub(crate) fn schedule_due(&mut self, ctx: &mut Ctx<'_>, workflow: &WorkflowName) {
        self.decide_instants(ctx, workflow);
        self.plan(ctx, workflow);
    }

    fn decide_instants(&mut self, ctx: &mut Ctx<'_>, workflow: &WorkflowName) {
        let mut state = self.workflow_state(workflow);
        let Some(until) = self.decided_until(ctx, workflow) else {
            return;
        };
        if state.paused || state.deleted {
            return;
        }
        let Some(current) = self.current(workflow).cloned() else {
            return;
        };
        let spec = &current.record.spec;
        let Some((schedule, rule)) = current.schedule.as_ref().zip(spec.schedule.as_ref()) else {
            return;
        };
        let verdict = judge(schedule, rule, until, ctx.wall());
        let Some(decided) = verdict.until else {
            return;
        };
        state.scheduled_until = Some(decided);
        self.set_workflow_state(ctx, state);
        self.tell_skipped(ctx, workflow, verdict.missed, SkippedWhy::Missed);
        let params = fill(spec, &rule.params).ok();
        let (mut no_room, mut no_params) = (None, None);
        for instant in verdict.make {
            if self.tallies.runs() >= RUNS {
                no_room = Some(Skipped::add(no_room, instant));
                continue;
            }
            match &params {
                Some(params) => {
                    let (current, params) = (current.clone(), params.clone());
                    self.make_run(ctx, current, params, Some(instant));
                }
                None => no_params = Some(Skipped::add(no_params, instant)),
            }
        }
        self.tell_skipped(ctx, workflow, no_room, SkippedWhy::RunLimit);
        self.tell_skipped(ctx, workflow, no_params, SkippedWhy::Params);
    }

    fn tell_skipped(
        &self,
        ctx: &mut Ctx<'_>,
        workflow: &WorkflowName,
        skipped: Option<Skipped>,
        why: SkippedWhy,
    ) {
        let Some(skipped) = skipped else { return };
        let what = NoticeKind::Skipped {
            workflow: workflow.clone(),
            from: skipped.from,
            until: skipped.until,
            count: skipped.count,
            why,
        };
        ctx.notice(&self.record.tenant, what);
    }
}
