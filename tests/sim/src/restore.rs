//! An old backup is restored while the agents are alive: the orchestrator begins a new life with an old memory. What must
//! hold is in the sentences below: nothing that finished runs again, and what is unknown is taken in, not started anew.

use std::collections::{BTreeMap, BTreeSet};

use outpost_orchestrator_core::mirror::Mirror;
use outpost_orchestrator_core::record::{AgentRecord, AttemptRecord, TaskState};
use outpost_proto::ids::{AttemptId, RunId, TaskIndex};

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
    /// Attempts as they were known then.
    attempts: BTreeMap<AttemptId, AttemptRecord>,
    /// Tasks that had succeeded, and whose agent held or remembered that.
    succeeded: BTreeSet<(RunId, TaskIndex)>,
    backup: Option<Backup>,
}

impl Former {
    pub(crate) fn forget_what_succeeded(&mut self) {
        self.succeeded.clear();
    }
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
            tenant.restored(true);
        }
        self.truth.facts.truncate(backup.facts);
        self.calendar.clock_was_set();
        let runs = &self.center.disk.mirror.runs;
        self.clients.forget_others(runs);
        self.note_what_succeeded(&lost);
        self.truth.former.attempts.extend(lost.attempts);
        self.crash_center();
    }

    fn note_what_succeeded(&mut self, lost: &Mirror) {
        for site in self.sites.iter().filter(|site| !site.cheats) {
            let known = site.disk.snapshot();
            let held = known.attempts.iter().map(|held| held.assign.attempt);
            let remembered = known.memories.iter().map(|memory| memory.attempt);
            for id in held.chain(remembered) {
                let Some(attempt) = lost.attempts.get(&id) else {
                    continue;
                };
                let place = (attempt.run, attempt.task);
                let task = lost.tasks.get(&place);
                if task.is_some_and(|task| task.state == TaskState::Succeeded)
                    && self.truth.ends.get(&id) == Some(&outpost_proto::outcome::Outcome::Succeeded)
                {
                    self.truth.former.succeeded.insert(place);
                }
            }
        }
    }

    /// Whether only a former life of the database knew this attempt, or knew more of it.
    pub(crate) fn is_of_a_former_life(&self, attempt: AttemptId) -> bool {
        self.truth.former.attempts.contains_key(&attempt)
    }

    /// When an attempt is made.
    pub(crate) fn invariant_nothing_finished_runs_again_after_a_restore(
        &self,
        made: &AttemptRecord,
    ) -> Checked {
        let again = self.truth.former.succeeded.contains(&(made.run, made.task));
        holds(
            made.recovered || !again,
            "nothing that finished before a restore runs again",
            format!("{} of {}", made.task, made.run),
        )
    }
}
