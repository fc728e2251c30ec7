//! An old backup is restored while the agents are alive: the orchestrator begins a new life with an old memory. What must
//! hold is in the sentences below: nothing that finished runs again, and what is unknown is taken in, not started anew.

use std::collections::{BTreeMap, BTreeSet};

use outpost_orchestrator_core::mirror::Mirror;
use outpost_orchestrator_core::record::{AgentRecord, AttemptRecord, TaskState};
use outpost_proto::ids::{AttemptId, RunId, TaskIndex};
use outpost_proto::message::AttemptState;
use outpost_proto::outcome::{Outcome, Report};

use crate::invariants::{Checked, holds};
use crate::trace::note;
use crate::world::World;

/// A backup, and what the simulation knew when it was made.
#[derive(Debug)]
pub(crate) struct Backup {
    mirror: Mirror,
    facts: usize,
}

/// What only former lives of the database knew.
#[derive(Debug, Default)]
pub(crate) struct Former {
    /// Attempts as they were known then, of which the backup knew less or nothing.
    attempts: BTreeMap<AttemptId, AttemptRecord>,
    /// Tasks that had succeeded, each with the sites whose agents held or remembered that.
    succeeded: BTreeMap<(RunId, TaskIndex), BTreeSet<usize>>,
    /// Attempts whose end was kept for a person's decision, and told to the agent as durable.
    told: BTreeSet<AttemptId>,
    /// Runs that were over when the backup was made.
    over: BTreeSet<RunId>,
    backup: Option<Backup>,
}

impl Former {
    /// What nobody but this site remembers.
    pub(crate) fn forget_what_succeeded(&mut self, at: usize) {
        self.succeeded.retain(|_, sites| {
            sites.remove(&at);
            !sites.is_empty()
        });
    }

    /// A client wants a run's tasks run again. If it was over in the backup, then nothing that is remembered of it was taken
    /// in: the client sees what did not succeed before the backup, and what it asks for after the restore is done.
    pub(crate) fn asked_again(&mut self, run: RunId) {
        if self.over.contains(&run) {
            self.succeeded.retain(|(of, _), _| *of != run);
        }
    }

    /// A client cancelled a task that nobody had told yet to have succeeded: that is kept beside, and a run that is to be run
    /// again runs what was cancelled of it.
    pub(crate) fn cancelled(&mut self, run: RunId, task: TaskIndex) {
        self.succeeded.remove(&(run, task));
    }

    /// An attempt as the newest former life that knew it did.
    pub(crate) fn attempt(&self, attempt: AttemptId) -> Option<&AttemptRecord> {
        self.attempts.get(&attempt)
    }

    pub(crate) fn attempts_of(
        &self,
        run: RunId,
        task: TaskIndex,
    ) -> impl Iterator<Item = &AttemptRecord> {
        let attempts = self.attempts.values();
        attempts.filter(move |attempt| attempt.run == run && attempt.task == task)
    }
}

/// Attempts whose ends an agent told, and that a person's decision or the agent's next word will settle.
pub(crate) fn kept_for_a_decision(agent: &AgentRecord) -> impl Iterator<Item = AttemptId> {
    let (doubt, two) = (&agent.standing.doubt, &agent.standing.quarantine);
    let doubt = doubt.iter().flat_map(|it| it.told.keys());
    doubt
        .chain(two.iter().flat_map(|it| it.told.keys()))
        .copied()
}

impl World {
    /// A backup is made: only once every site is known, so that nobody has to be enrolled again.
    pub(crate) fn back_up(&mut self) {
        let known = self.sites.iter().all(|site| {
            let identity = &site.identity;
            let name = (identity.tenant.clone(), identity.agent.clone());
            let agents = &self.center.disk.mirror.agents;
            // And has told what a restore before this one lacked: what a backup has of that time is not known before.
            let life = self.center.disk.mirror.recovery.counter;
            let told = |agent: &AgentRecord| !agent.removed && agent.standing.reported >= life;
            site.enrolled && agents.get(&name).is_some_and(told)
        });
        if known {
            self.trace.count("backup made");
            let (mirror, facts) = (self.center.disk.mirror.clone(), self.truth.facts.len());
            self.truth.former.backup = Some(Backup { mirror, facts });
        }
    }

    /// The newest backup takes the database's place, with a recovery epoch of its own.
    pub(crate) fn restore(&mut self) {
        let Some(backup) = self.truth.former.backup.take() else {
            return;
        };
        note!(self, "the database is restored");
        self.trace.count("database restored");
        let database = self.dice.next();
        let now = self.database_time(self.now).0;
        let lost = std::mem::replace(&mut self.center.disk.mirror, backup.mirror);
        let mirror = &mut self.center.disk.mirror;
        mirror.recovery = lost.recovery;
        mirror.recovery.counter += 1;
        mirror.recovery.database = database;
        mirror.restored_at = Some(now);
        for tenant in mirror.tenants.values_mut() {
            tenant.restored(true, now);
        }
        self.truth.facts.truncate(backup.facts);
        self.clones.removals_are_undone();
        self.calendar.clock_was_set();
        let runs = &self.center.disk.mirror.runs;
        let over = runs.values().filter(|run| run.finished_at.is_some());
        self.truth.former.over = over.map(|run| run.run).collect();
        self.clients.forget_others(runs);
        self.note_what_succeeded(&lost);
        let kept = &self.center.disk.mirror.attempts;
        let attempts = lost.attempts.into_iter();
        let more = attempts.filter(|(attempt, known)| kept.get(attempt) != Some(known));
        self.truth.former.attempts.extend(more);
        let told = lost.agents.values().flat_map(kept_for_a_decision);
        self.truth.former.told.extend(told);
        self.owners_cannot_be_sure_any_more();
        // Whoever owned anything does so no longer, also if its process stands still and is forgotten.
        self.center.disk.owners.clear();
        self.center.disk.wrote_under.clear();
        self.nobody_was_ready();
        self.crash_replicas();
    }

    fn note_what_succeeded(&mut self, lost: &Mirror) {
        let sites = self.sites.iter().enumerate();
        for (index, site) in sites.filter(|(_, site)| !site.cheats && !site.gone) {
            // Whoever of two comes first after the restore is asked, and may know less.
            if self.is_undecided(index) {
                continue;
            }
            let known = site.disk.snapshot();
            // As it knows them itself: a copy may have told another end of what its original did.
            let succeeded = |report: Report| report.outcome == Outcome::Succeeded;
            let held = known.attempts.iter().filter_map(|held| match held.state {
                AttemptState::Finished(report) => succeeded(report).then_some(held.assign.attempt),
                AttemptState::Assigned | AttemptState::Starting | AttemptState::Running => None,
            });
            let remembered = known.memories.iter();
            let remembered = remembered.filter(|memory| succeeded(memory.report));
            let remembered = remembered.map(|memory| memory.attempt);
            for id in held.chain(remembered) {
                let Some(attempt) = lost.attempts.get(&id) else {
                    continue;
                };
                let place = (attempt.run, attempt.task);
                let task = lost.tasks.get(&place);
                if task.is_some_and(|task| task.state == TaskState::Succeeded)
                    && self.truth.ended_as(id, Outcome::Succeeded)
                {
                    let succeeded = &mut self.truth.former.succeeded;
                    succeeded.entry(place).or_default().insert(index);
                }
            }
        }
    }

    /// Whether only a former life of the database knew this attempt, or knew more of it.
    pub(crate) fn is_of_a_former_life(&self, attempt: AttemptId) -> bool {
        self.truth.former.attempts.contains_key(&attempt)
    }

    /// Whether a former life of the database had this attempt's end, in whatever form.
    pub(crate) fn was_durable_in_a_former_life(&self, attempt: AttemptId) -> bool {
        self.is_of_a_former_life(attempt) || self.truth.former.told.contains(&attempt)
    }

    /// When an attempt is made.
    pub(crate) fn invariant_nothing_finished_runs_again_after_a_restore(
        &self,
        made: &AttemptRecord,
    ) -> Checked {
        let place = (made.run, made.task);
        // Who was removed by a person is not waited for.
        let told = |sites: &BTreeSet<usize>| sites.iter().any(|site| !self.is_removed(*site));
        let again = self.truth.former.succeeded.get(&place).is_some_and(told);
        holds(
            made.recovered || !again,
            "nothing that finished before a restore runs again",
            format!("{} of {}", made.task, made.run),
        )
    }

    /// When an attempt is taken in.
    pub(crate) fn invariant_only_what_a_former_life_knew_is_taken_in(
        &self,
        made: &AttemptRecord,
    ) -> Checked {
        holds(
            self.is_of_a_former_life(made.attempt) || self.is_with_a_cheat(made),
            "only what a former life of the database knew is taken in",
            made.attempt,
        )
    }
}
