//! Schedules in the simulation: what people want of them, how the wall clock misbehaves, and what must hold.

use std::collections::{BTreeMap, BTreeSet};

use outpost_orchestrator_core::record::RunRecord;
use outpost_orchestrator_core::schedule::Schedule;
use outpost_orchestrator_core::spec::{Missed, ScheduleSpec, When};
use outpost_proto::name::{TenantName, WorkflowName};

use crate::clients::Want;
use crate::invariants::{Checked, broken, holds};
use crate::queue::{MS, SECOND};
use crate::trace::note;
use crate::world::World;

/// What is known of schedules besides what the database holds.
#[derive(Debug, Default)]
pub(crate) struct Calendar {
    /// How far the wall clock is ahead of the database's.
    pub(crate) ahead: i64,
    /// It jumped at least once.
    jumped: bool,
    /// Workflows that somebody paused, deleted or applied anew.
    disturbed: BTreeSet<(TenantName, WorkflowName)>,
}

impl Calendar {
    /// The orchestrator's clock is not what it was: instants may have been left out.
    pub(crate) fn clock_was_set(&mut self) {
        self.jumped = true;
    }

    pub(crate) fn was_set(&self) -> bool {
        self.jumped
    }
}

impl World {
    /// Some workflows run by themselves; all schedules end before the faults do, or soon after.
    pub(crate) fn draw_schedule(&mut self) -> Option<ScheduleSpec> {
        if !self.dice.percent(40) {
            return None;
        }
        let end = self.plan.quiet_from * 5 / 4;
        let when = if self.plan.long || self.dice.percent(50) {
            let times = self.dice.between(2, 6);
            When::Every {
                ms: (end / times / MS).max(1_000),
            }
        } else {
            let minutes = self.dice.between(2, 6);
            When::Cron {
                expression: format!("*/{minutes} * * * *"),
            }
        };
        let missed = [Missed::Skip, Missed::Latest, Missed::All][self.dice.below(3)];
        Some(ScheduleSpec {
            end: Some(self.database_time(end).0),
            missed,
            missed_limit: 100,
            ..ScheduleSpec::new(when)
        })
    }

    /// Pauses, resumes and deletions of one workflow.
    pub(crate) fn interfere(&mut self, tenant: &TenantName, workflow: &WorkflowName) {
        let mut wants = Vec::new();
        if self.dice.percent(20) {
            wants.push(Want::Pause(workflow.clone(), true));
            wants.push(Want::Pause(workflow.clone(), false));
        }
        if self.dice.percent(10) {
            wants.push(Want::Delete(workflow.clone()));
        }
        let mut at = 0;
        for want in wants {
            at += self.dice.between(30 * SECOND, self.plan.quiet_from / 2);
            self.disturb(tenant, workflow);
            self.want_at(at, tenant, want);
        }
    }

    pub(crate) fn disturb(&mut self, tenant: &TenantName, workflow: &WorkflowName) {
        let name = (tenant.clone(), workflow.clone());
        self.calendar.disturbed.insert(name);
    }

    /// Somebody sets the wall clock of the orchestrator's host.
    pub(crate) fn wall_jumps(&mut self) {
        let by = i64::try_from(self.dice.span(SECOND, 600 * SECOND)).unwrap_or(0);
        let back = self.dice.percent(50);
        self.calendar.ahead += if back { -by } else { by };
        self.calendar.jumped = true;
        note!(self, "the wall clock jumps");
        self.center_learns_the_wall();
    }

    // --- what must hold

    /// When a run is made.
    pub(crate) fn invariant_an_instant_makes_at_most_one_run(
        &mut self,
        made: &RunRecord,
    ) -> Checked {
        let Some(instant) = made.scheduled_for else {
            return Ok(());
        };
        self.trace.count("scheduled run");
        let runs = self.center.disk.mirror.runs.values();
        let same = runs.filter(|run| {
            (&run.tenant, &run.workflow) == (&made.tenant, &made.workflow)
                && run.scheduled_for == Some(instant)
        });
        let what = format!("{} of `{}` for {instant}", made.run, made.workflow);
        holds(same.count() == 1, "an instant makes at most one run", what)
    }

    /// At the end.
    pub(crate) fn invariant_each_instant_makes_its_run(&self) -> Checked {
        let mirror = &self.center.disk.mirror;
        let mut made: BTreeMap<(&TenantName, &WorkflowName), BTreeSet<u64>> = BTreeMap::new();
        for run in mirror.runs.values() {
            let instants = made.entry((&run.tenant, &run.workflow)).or_default();
            instants.extend(run.scheduled_for);
        }
        for ((tenant, name, version), record) in &mirror.workflows {
            let disturbed = self
                .calendar
                .disturbed
                .contains(&(tenant.clone(), name.clone()));
            let Some(rule) = record
                .spec
                .schedule
                .as_ref()
                .filter(|_| !disturbed && *version == 1)
            else {
                continue;
            };
            let error = |error| broken("a schedule that was applied can be kept", error);
            let schedule = Schedule::new(rule).map_err(error)?;
            let made = made.remove(&(tenant, name)).unwrap_or_default();
            for instant in &made {
                let known = schedule.prev(*instant) == Some(*instant);
                holds(
                    known,
                    "only instants of a schedule make runs",
                    format!("`{name}`: {instant}"),
                )?;
            }
            // A policy that makes up for everything leaves none out whatever happened, any other one while nothing did.
            let all = rule.missed == Missed::All || self.plan.calm;
            if !all || self.calendar.jumped {
                continue;
            }
            let until = |at| -> BTreeSet<u64> {
                let due = schedule.following(record.applied_at);
                due.take_while(|instant| *instant <= self.database_time(at).0)
                    .collect()
            };
            // That of this very moment may be made just now.
            let due = until(self.now);
            let surely = until(self.now.saturating_sub(SECOND));
            let what = format!("`{name}` of {tenant}: {made:?} instead of {due:?}");
            let all = surely.is_subset(&made) && made.is_subset(&due);
            holds(all, "each instant makes its run", what)?;
        }
        Ok(())
    }
}
