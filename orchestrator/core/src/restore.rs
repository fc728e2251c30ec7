//! After a restore: what the agents know of the time that the backup lacks comes before any new work.
//!
//! Each agent that the backup knew tells what it holds and what it remembers of thirty days. An attempt that the
//! database does not know is taken in as it is told, and with it the task that it was of: nothing finished runs again.
//! A person may give up an attempt before its agent has told that it succeeded: then its task gets no other one either.
//! A database that was copied back without `restore` is noticed by any agent that was told more; that one gets no work
//! until a restore makes this database the true one.

use outpost_proto::ids::{AttemptId, Fence, Incarnation};
use outpost_proto::limits::HELD_ATTEMPTS;
use outpost_proto::message::{AttemptState, InventoryItem};
use outpost_proto::name::AgentName;
use outpost_proto::outcome::{Outcome, Refusal, Report};

use crate::agent::ends_alone_s;
use crate::doubt::interruption;
use crate::event::{Alarm, Answer, Denied, RecoveryView, Speech};
use crate::inventory::Listing;
use crate::record::{AttemptRecord, Phase, TaskState, Write};
use crate::run::is_open;
use crate::safety::Safety;
use crate::shown::refused;
use crate::tenant::{Ctx, Tenant};

/// After so long nobody remembers what became of an assignment, in microseconds.
const REMEMBERED_US: u64 = 30 * 24 * 3600 * 1_000_000;

/// What becomes of the task of an attempt that nobody here knew.
enum Place {
    /// The task waits for this attempt now.
    Task,
    /// The task has a newer one, or is over: it is kept beside.
    Beside,
}

impl Tenant {
    /// Whether new work waits for agents that have not reported since a restore.
    pub(crate) fn is_recovering(&self, ctx: &Ctx<'_>) -> bool {
        !self.awaited.is_empty() && self.record.continued < ctx.recovery.counter
    }

    /// An attempt that this database does not know.
    pub(crate) fn adopt_attempt(
        &mut self,
        ctx: &mut Ctx<'_>,
        name: &AgentName,
        item: &InventoryItem,
    ) -> Result<(), Alarm> {
        let standing = self.agents.get(name).map(|agent| &agent.record.standing);
        let taken_in = standing.is_some_and(|own| own.taken_in.contains(&item.attempt));
        if self.record.knew(item.fence) || taken_in {
            // The backup knew its end, or nobody waited for it any more, or it was told before.
            return Ok(());
        }
        self.follow_fence(ctx, name, item.fence);
        if refused(item.state) == Some(Refusal::Observe) {
            // It was at most shown to an agent that observes, or waited there: nothing of it ran, and nothing hangs on it.
            return Ok(());
        }
        let Some(place) = self.place_of(item) else {
            self.let_go_on(name, item);
            return Ok(());
        };
        let Some(attempt) = self.unknown_attempt(ctx, name, item) else {
            return Ok(());
        };
        let id = attempt.attempt;
        if let Some(agent) = self.agents.get_mut(name) {
            agent.held.insert(id);
            let standing = &mut agent.record.standing;
            if standing.quarantine.is_some() && standing.taken_in.insert(id) {
                self.places.changed.insert(name.clone());
            }
        }
        if let Some(run) = self.runs.get_mut(&item.run) {
            run.pending.insert(id);
            if let Some(task) = run.tasks.get_mut(usize::from(item.task.0)) {
                task.record.attempts = task.record.attempts.saturating_add(1);
            }
        }
        ctx.write(Write::Attempt(attempt.clone()));
        self.attempts.insert(id, attempt);
        match place {
            Place::Task => {
                let task = self.runs.get(&item.run).and_then(|run| run.task(item.task));
                let former = task.map(|task| task.record.state);
                self.begin_run(ctx, item.run, name);
                self.set_task(ctx, item.run, item.task, TaskState::Active { attempt: id });
                if let Some(TaskState::Active { attempt: former }) = former {
                    self.doubts_no_more(ctx, former);
                }
            }
            Place::Beside => self.rewrite_task(ctx, item),
        }
        self.told(ctx, name, id, item.state)?;
        Ok(())
    }

    /// Fences given out from now on are above this one, which a former life of the database gave out.
    pub(crate) fn follow_fence(&mut self, ctx: &mut Ctx<'_>, name: &AgentName, fence: Fence) {
        if self.awaited.contains(name) && self.record.follow(fence) {
            ctx.write(Write::Tenant(self.record.clone()));
        }
    }

    /// `None` when the run is not one that can still change.
    fn place_of(&self, item: &InventoryItem) -> Option<Place> {
        let run = self.runs.get(&item.run)?;
        let task = run.task(item.task)?;
        let place = match task.record.state {
            TaskState::Active { attempt } => {
                let present = self.attempts.get(&attempt);
                // A fence that no life of the database can have given out says nothing.
                let newer = present.is_some_and(|present| {
                    let told = item.fence;
                    self.record.believes(present.fence)
                        && (present.fence > told || !self.record.believes(told))
                });
                if newer { Place::Beside } else { Place::Task }
            }
            state if is_open(state) && !run.is_over() => Place::Task,
            TaskState::Waiting
            | TaskState::Queued { .. }
            | TaskState::Backoff { .. }
            | TaskState::Succeeded
            | TaskState::Failed { .. }
            | TaskState::UpstreamFailed
            | TaskState::Cancelled => Place::Beside,
        };
        Some(place)
    }

    fn unknown_attempt(
        &self,
        ctx: &Ctx<'_>,
        name: &AgentName,
        item: &InventoryItem,
    ) -> Option<AttemptRecord> {
        let agent = self.agents.get(name)?;
        let spec = self.runs.get(&item.run)?.workflow.task(item.task)?;
        let offer = agent.offer(&spec.entry);
        let incarnation = match interruption(item.state) {
            // Some life before the present one.
            Some(_) => Incarnation(0),
            None => agent.record.incarnation,
        };
        Some(AttemptRecord {
            tenant: self.record.tenant.clone(),
            attempt: item.attempt,
            run: item.run,
            task: item.task,
            agent: name.clone(),
            fence: item.fence,
            incarnation,
            retry_safe: offer.is_some_and(|offer| offer.retry_safe),
            ends_alone_s: offer.and_then(ends_alone_s),
            phase: Phase::Assigned,
            cancel_requested: false,
            assigned_at: ctx.now.0,
            started_at: None,
            finished_at: None,
            late: None,
            recovered: true,
            asserted: None,
        })
    }

    fn rewrite_task(&mut self, ctx: &mut Ctx<'_>, item: &InventoryItem) {
        let task = self.runs.get(&item.run).and_then(|run| run.task(item.task));
        if let Some(task) = task {
            ctx.write(Write::Task(task.record.clone()));
        }
    }

    /// What runs of a run that nobody here knows goes on to its end.
    fn let_go_on(&mut self, name: &AgentName, item: &InventoryItem) {
        let lives = match item.state {
            AttemptState::Assigned | AttemptState::Finished(_) => false,
            AttemptState::Starting | AttemptState::Running => true,
        };
        let Some(agent) = self.agents.get_mut(name) else {
            return;
        };
        let adopted = &mut agent.record.standing.adopted;
        if lives && adopted.len() < HELD_ATTEMPTS {
            adopted.insert(item.attempt);
            self.places.changed.insert(name.clone());
        }
    }

    /// Whether an attempt that is not known may go on all the same.
    pub(crate) fn may_go_on(&self, ctx: &Ctx<'_>, name: &AgentName, id: AttemptId) -> bool {
        self.agents.get(name).is_some_and(|agent| {
            agent.record.is_behind(ctx.recovery) || agent.record.standing.adopted.contains(&id)
        })
    }

    /// An attempt that was not known is over.
    pub(crate) fn unadopt(&mut self, name: &AgentName, id: AttemptId) {
        let agent = self.agents.get_mut(name);
        if agent.is_some_and(|agent| agent.record.standing.adopted.remove(&id)) {
            self.places.changed.insert(name.clone());
        }
    }

    /// Whether an agent that lacks an assignment may have forgotten it: the backup is older than its memory, or its
    /// memory is full.
    pub(crate) fn may_be_forgotten(
        &self,
        ctx: &Ctx<'_>,
        attempt: &AttemptRecord,
        listing: &Listing,
    ) -> bool {
        let age_us = ctx.now.0.saturating_sub(attempt.assigned_at);
        let agent = self.agents.get(&attempt.agent);
        let was_full = agent.is_some_and(|agent| agent.record.standing.may_have_forgotten);
        let full = was_full || listing.is_full();
        self.awaited.contains(&attempt.agent) && (full || age_us > REMEMBERED_US)
    }

    /// Whether the success of an attempt that a person gave up is still its task's: nobody got another one, because not
    /// every agent has told what it knows of the time that the backup lacks.
    pub(crate) fn makes_another_needless(
        &self,
        ctx: &Ctx<'_>,
        attempt: &AttemptRecord,
        report: Report,
    ) -> bool {
        let Some(said) = attempt.asserted.as_ref() else {
            return false;
        };
        let Some(run) = self.runs.get(&attempt.run) else {
            return false;
        };
        let Some(task) = run.task(attempt.task).map(|task| &task.record) else {
            return false;
        };
        let waits = match task.state {
            // What a person asked to be run again has not been tried since.
            TaskState::Queued { .. } | TaskState::Backoff { .. } => {
                task.spent > 0 || task.requeued > 0 || task.untimely > 0
            }
            TaskState::Waiting
            | TaskState::Active { .. }
            | TaskState::Succeeded
            | TaskState::Failed { .. }
            | TaskState::UpstreamFailed
            | TaskState::Cancelled => false,
        };
        // After a rerun the success of an earlier try may be one with other inputs.
        let of_this_try =
            run.record.reruns == 0 || ctx.restored_at.is_some_and(|restored| restored <= said.at);
        let told = self.awaited.contains(&attempt.agent) && self.is_recovering(ctx);
        told && waits && of_this_try && report.outcome == Outcome::Succeeded
    }

    /// An agent's inventory is complete: it is not waited for any more.
    pub(crate) fn reported(&mut self, ctx: &mut Ctx<'_>, name: &AgentName, listing: &Listing) {
        let Some(agent) = self.agents.get_mut(name) else {
            return;
        };
        if !agent.record.is_awaited(ctx.recovery) {
            return;
        }
        let standing = &mut agent.record.standing;
        // While there are two holders the other one may know what this one does not: whichever is kept tells again what
        // it holds, and what it remembers if it has not told that yet.
        if standing.quarantine.is_some() {
            if listing.is_full() && !standing.may_have_forgotten {
                standing.may_have_forgotten = true;
                self.places.changed.insert(name.clone());
            }
            return;
        }
        standing.reported = ctx.recovery.counter;
        standing.behind = None;
        standing.taken_in.clear();
        standing.may_have_forgotten = false;
        self.places.changed.insert(name.clone());
        self.not_awaited(ctx, name);
    }

    /// Of the last one that is not waited for any more, everything follows.
    pub(crate) fn not_awaited(&mut self, ctx: &mut Ctx<'_>, name: &AgentName) {
        let waited = self.is_recovering(ctx);
        if self.awaited.remove(name) && waited && self.awaited.is_empty() {
            self.tell_recovery(ctx, Safety::Recovered, None);
            self.arm_all(ctx);
        }
    }

    /// A person goes on without the agents that have not reported.
    pub(crate) fn go_on(&mut self, ctx: &mut Ctx<'_>, by: &str) -> Result<Answer, Denied> {
        if !self.is_recovering(ctx) {
            return Err(Denied::NothingAwaited);
        }
        self.record.continued = ctx.recovery.counter;
        ctx.write(Write::Tenant(self.record.clone()));
        self.tell_recovery(ctx, Safety::Continued, Some(by));
        self.arm_all(ctx);
        Ok(Answer::Recovery(self.recovery_view(ctx)))
    }

    /// An agent was told more by this database than it knows now.
    pub(crate) fn note_behind(&mut self, ctx: &mut Ctx<'_>, name: &AgentName) {
        let Some(agent) = self.agents.get_mut(name) else {
            return;
        };
        if agent.record.standing.behind.replace(ctx.recovery) == Some(ctx.recovery) {
            return;
        }
        self.places.changed.insert(name.clone());
        ctx.say(Speech::Alarm {
            tenant: self.record.tenant.clone(),
            agent: name.clone(),
            what: Alarm::Behind,
        });
        self.tell_safety(ctx, Safety::Behind, name, None);
    }

    pub(crate) fn recovery_view(&self, ctx: &Ctx<'_>) -> RecoveryView {
        let agents = || {
            let agents = self.agents.values();
            agents.filter(|agent| !agent.record.removed)
        };
        let quarantined = agents().filter(|agent| agent.record.standing.quarantine.is_some());
        let held_back = agents().filter(|agent| agent.record.is_behind(ctx.recovery));
        RecoveryView {
            counter: ctx.recovery.counter,
            restored_at: ctx.restored_at,
            awaited: self.awaited.iter().cloned().collect(),
            recovering: self.is_recovering(ctx),
            frozen_since: self.vanished.frozen_since().map(|at| at.0),
            quarantined: quarantined
                .map(|agent| agent.record.agent.clone())
                .collect(),
            held_back: held_back.map(|agent| agent.record.agent.clone()).collect(),
        }
    }

    fn tell_recovery(&self, ctx: &mut Ctx<'_>, what: Safety, by: Option<&str>) {
        let reason = (!self.awaited.is_empty()).then(|| {
            let names: Vec<&str> = self
                .awaited
                .iter()
                .take(20)
                .map(|name| name.as_str())
                .collect();
            format!("{} not heard: {}", self.awaited.len(), names.join(", "))
        });
        self.tell_standstill(ctx, what, by, reason);
    }
}
