//! What must always hold, one sentence per function. Starts and ends are what the fake keepers did; the rest is what the
//! orchestrator's database holds, record by record.

use std::collections::BTreeMap;
use std::fmt::Display;

use outpost_orchestrator_core::record::{AttemptRecord, Phase, TaskState};
use outpost_proto::ids::{AttemptId, Incarnation, RunId, TaskIndex};
use outpost_proto::message::{Assign, AttemptState};
use outpost_proto::outcome::Outcome;

use crate::clients::Fact;
use crate::keeper;
use crate::queue::{At, SECOND};
use crate::records::outcome_of;
use crate::restore::Former;
use crate::shop;
use crate::world::World;

/// Something that must never happen did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Violation {
    pub(crate) sentence: &'static str,
    pub(crate) what: String,
}

pub(crate) type Checked = Result<(), Violation>;

pub(crate) fn broken(sentence: &'static str, what: impl Display) -> Violation {
    Violation {
        sentence,
        what: what.to_string(),
    }
}

pub(crate) fn holds(condition: bool, sentence: &'static str, what: impl Display) -> Checked {
    if condition {
        Ok(())
    } else {
        Err(broken(sentence, what))
    }
}

/// What really happened.
#[derive(Debug, Default)]
pub(crate) struct Truth {
    pub(crate) starts: BTreeMap<AttemptId, u32>,
    /// How tasks ended, as their keepers saw it: of two alike each may have an end of its own.
    pub(crate) ends: BTreeMap<AttemptId, Vec<Outcome>>,
    /// When the last task did.
    pub(crate) last_end: At,
    /// Attempts of which keeper or task stood still with its host, and until when.
    pub(crate) slept: BTreeMap<AttemptId, At>,
    /// What the database knew before it was restored.
    pub(crate) former: Former,
    /// When it was first answered that a run is being cancelled.
    pub(crate) cancelled: BTreeMap<RunId, At>,
    /// When a strict site told anything last, on its host's clock, in each life of the host.
    pub(crate) told: BTreeMap<(usize, Incarnation), u64>,
    /// What was acknowledged.
    pub(crate) facts: Vec<Fact>,
}

impl Truth {
    pub(crate) fn ends(&mut self, attempt: AttemptId, outcome: Outcome) {
        self.ends.entry(attempt).or_default().push(outcome);
    }

    pub(crate) fn ended_as(&self, attempt: AttemptId, outcome: Outcome) -> bool {
        let ends = self.ends.get(&attempt);
        ends.is_some_and(|ends| ends.contains(&outcome))
    }
}

impl World {
    // --- at each exec

    /// A task's process exists from now on: everything that must be true of that.
    pub(crate) fn started(
        &mut self,
        site: usize,
        assign: &Assign,
        shown: u64,
        lease_until: u64,
    ) -> Checked {
        *self.truth.starts.entry(assign.attempt).or_insert(0) += 1;
        self.trace.count("task started");
        self.invariant_an_attempt_starts_at_most_once(assign.attempt)?;
        holds(
            shown < lease_until,
            "no start without a live lease of the current session",
            assign.attempt,
        )?;
        if self.plan.played {
            // Nobody knows what was assigned but the scene.
            return self.invariant_an_agent_runs_no_more_than_it_may(site);
        }
        self.invariant_what_starts_was_assigned_here_and_is_not_over(site, assign)?;
        self.invariant_a_task_starts_only_after_all_it_needs_succeeded(assign)?;
        self.invariant_nothing_starts_once_a_later_attempt_exists(site, assign)?;
        self.invariant_an_agent_runs_no_more_than_it_may(site)?;
        self.invariant_what_ends_alone_never_overlaps(assign)
    }

    fn invariant_an_attempt_starts_at_most_once(&self, attempt: AttemptId) -> Checked {
        let starts = self.truth.starts.get(&attempt).copied().unwrap_or(0);
        let known = self.center.disk.mirror.attempts.get(&attempt);
        let twice = known.is_some_and(|known| self.may_be_with_two_alike(known));
        holds(
            starts <= if twice { 2 } else { 1 },
            "an attempt starts at most once",
            format!("{attempt}: {starts} starts"),
        )
    }

    fn invariant_what_starts_was_assigned_here_and_is_not_over(
        &self,
        site: usize,
        assign: &Assign,
    ) -> Checked {
        let (id, site) = (assign.attempt, &self.sites[site]);
        let sentence = "only what is durably assigned to this agent, and not over, starts";
        // As it was assigned: what a restored database knows less of starts as the one before it decided.
        let former = self.truth.former.attempt(id);
        let Some(known) = former.or_else(|| self.center.disk.mirror.attempts.get(&id)) else {
            return Err(broken(sentence, format!("{id} is not in the database")));
        };
        let here = known.tenant == site.identity.tenant
            && known.agent == site.identity.agent
            && known.incarnation == site.incarnation;
        holds(
            here,
            sentence,
            format!("{id} is another agent's, or another incarnation's"),
        )?;
        let over = matches!(known.phase, Phase::Finished { .. }) || known.late.is_some();
        let over = over && !site.cheats && former.is_none() && !self.is_excused(known);
        holds(!over, sentence, format!("{id} is over: {:?}", known.phase))
    }

    fn invariant_a_task_starts_only_after_all_it_needs_succeeded(
        &self,
        assign: &Assign,
    ) -> Checked {
        let sentence = "a task starts only after all it needs succeeded";
        let (run, task) = (assign.run, assign.task);
        // A restored database may not know yet what the one before it did; true it must be all the same.
        let former = self.is_of_a_former_life(assign.attempt);
        // Nor is it known of which of two alike it knows the end.
        let alike = |task| {
            let mut attempts = self.attempts_of(run, task);
            attempts.any(|attempt| self.may_be_with_two_alike(attempt))
        };
        for need in self.needs(run, task) {
            let known = self
                .center
                .disk
                .mirror
                .tasks
                .get(&(run, need))
                .map(|task| task.state);
            holds(
                former || known == Some(TaskState::Succeeded) || alike(need) || alike(task),
                sentence,
                format!("{task} of {run}: {need} is {known:?}"),
            )?;
            let lost = self.truth.former.attempts_of(run, need);
            let truly = self.attempts_of(run, need).chain(lost).any(|attempt| {
                let said = outcome_of(attempt).map(|report| report.outcome);
                let said = said == Some(Outcome::Succeeded) && self.is_with_a_cheat(attempt);
                self.truth.ended_as(attempt.attempt, Outcome::Succeeded) || said
            });
            holds(
                truly,
                sentence,
                format!("{task} of {run}: {need} never did"),
            )?;
        }
        Ok(())
    }

    fn invariant_nothing_starts_once_a_later_attempt_exists(
        &self,
        site: usize,
        assign: &Assign,
    ) -> Checked {
        let later = self
            .attempts_of(assign.run, assign.task)
            .find(|other| other.fence > assign.fence);
        let id = assign.attempt;
        let unsure = |own| {
            let told = self.is_with_a_cheat(own) || self.is_excused(own);
            told || self.said.is_risky(id)
        };
        let own = self.center.disk.mirror.attempts.get(&id);
        if own.map_or_else(|| self.is_forgotten_with_its_holder(site, id), unsure) {
            return Ok(());
        }
        holds(
            later.is_none(),
            "nothing starts once a later attempt of its task exists",
            id,
        )
    }

    fn invariant_an_agent_runs_no_more_than_it_may(&self, index: usize) -> Checked {
        let site = &self.sites[index];
        let sentence = "an agent runs no more than its slots and its catalogue allow";
        let mut total: u16 = 0;
        let mut by_entry: BTreeMap<&str, u16> = BTreeMap::new();
        let running = |keeper: &&keeper::Keeper| keeper.phase == keeper::Phase::Running;
        for keeper in site.keepers.values().filter(running) {
            total += 1;
            *by_entry.entry(keeper.assign.entry.as_str()).or_insert(0) += 1;
        }
        holds(
            total <= site.slots,
            sentence,
            format!("s{index} runs {total} of {}", site.slots),
        )?;
        for entry in &shop::ENTRIES {
            let count = by_entry.get(entry.name).copied().unwrap_or(0);
            let most = entry.max_parallel.unwrap_or(u16::MAX);
            holds(
                count <= most,
                sentence,
                format!("s{index} runs {count} of `{}`", entry.name),
            )?;
        }
        Ok(())
    }

    fn invariant_what_ends_alone_never_overlaps(&self, assign: &Assign) -> Checked {
        let sentence = "an attempt that ends alone is gone before its successor starts";
        for other in self.attempts_of(assign.run, assign.task) {
            let Some(ends_alone_s) = other.ends_alone_s else {
                continue;
            };
            // Once its host is awake, it is gone within the same time again.
            let late = |awake: &At| self.now <= awake + (u64::from(ends_alone_s) + 1) * SECOND;
            let asleep = self.truth.slept.get(&other.attempt).is_some_and(late);
            let unsure = self.is_excused(other) || self.said.is_risky(other.attempt);
            // Whether a former attempt may start at all is another sentence's.
            let former = other.fence < assign.fence;
            if former && !asleep && !unsure && !self.is_with_a_cheat(other) {
                holds(!self.runs_somewhere(other.attempt), sentence, other.attempt)?;
            }
        }
        Ok(())
    }

    // --- at each start that an agent decides

    pub(crate) fn may_start(
        &self,
        site: usize,
        assign: &Assign,
        shown: u64,
        lease_until: u64,
    ) -> Checked {
        let sentence = "no start without a live lease of the current session";
        let Some(granted) = self.lease_of(site) else {
            return Err(broken(
                sentence,
                format!("{}: no session is ready", assign.attempt),
            ));
        };
        let live = shown < lease_until && lease_until <= granted;
        let what = format!(
            "{}: at {shown}, until {lease_until}, granted until {granted}",
            assign.attempt
        );
        holds(live, sentence, what)?;
        let snapshot = self.sites[site].disk.snapshot();
        let journalled = snapshot.attempts.iter().any(|held| {
            held.assign.attempt == assign.attempt && held.state == AttemptState::Starting
        });
        holds(
            journalled,
            "a start is journalled before it is asked for",
            assign.attempt,
        )
    }

    // --- what the sentences are made of

    pub(crate) fn attempts_of(
        &self,
        run: RunId,
        task: TaskIndex,
    ) -> impl Iterator<Item = &AttemptRecord> {
        let attempts = self.center.disk.mirror.attempts.values();
        attempts.filter(move |attempt| attempt.run == run && attempt.task == task)
    }

    fn needs(&self, run: RunId, task: TaskIndex) -> Vec<TaskIndex> {
        let mirror = &self.center.disk.mirror;
        let spec = mirror.runs.get(&run).and_then(|run| {
            let key = (run.tenant.clone(), run.workflow.clone(), run.version);
            mirror
                .workflows
                .get(&key)?
                .spec
                .tasks
                .get(usize::from(task.0))
        });
        spec.map(|spec| spec.needs.clone()).unwrap_or_default()
    }

    /// By the site's own catalogue, not by what the orchestrator noted.
    pub(crate) fn may_run_twice(&self, attempt: &AttemptRecord) -> bool {
        let mirror = &self.center.disk.mirror;
        let spec = mirror.runs.get(&attempt.run).and_then(|run| {
            let key = (run.tenant.clone(), run.workflow.clone(), run.version);
            mirror
                .workflows
                .get(&key)?
                .spec
                .tasks
                .get(usize::from(attempt.task.0))
        });
        spec.and_then(|spec| shop::entry(&spec.entry))
            .is_some_and(|entry| entry.retry_safe)
    }

    pub(crate) fn runs_somewhere(&self, attempt: AttemptId) -> bool {
        self.sites.iter().any(|site| {
            let keeper = site.keepers.get(&attempt);
            keeper.is_some_and(|keeper| keeper.phase == keeper::Phase::Running)
        })
    }
}
