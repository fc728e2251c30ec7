//! Invariants of the orchestrator's records, change by change, and of what it says and promises.

use outpost_orchestrator_core::record::{AttemptRecord, Phase, RunRecord, TaskRecord, TaskState};
use outpost_proto::ids::{AttemptId, Conn};
use outpost_proto::message::{Directive, DownMessage};
use outpost_proto::outcome::{Interruption, Outcome, Report};

use crate::clients::Fact;
use crate::invariants::{Checked, broken, holds};
use crate::world::World;

impl World {
    // --- at each turn of the orchestrator

    pub(crate) fn invariant_nothing_crosses_tenants(
        &self,
        conn: Conn,
        messages: &[DownMessage],
    ) -> Checked {
        let Some(link) = self.network.links.get(&conn.0) else {
            return Ok(());
        };
        let identity = &self.sites[link.site].identity;
        let sentence = "nothing crosses tenants";
        let mirror = &self.center.disk.mirror;
        for message in messages {
            let (named, run) = match message {
                DownMessage::Assign(assign) => (Some(assign.attempt), Some(assign.run)),
                // Who asks about others' attempts is told to forget them, as of any that never were.
                DownMessage::Directive { directive, .. } => {
                    let named = directed(directive).filter(|_| !self.sites[link.site].cheats);
                    (named, None)
                }
                DownMessage::Welcome(_) | DownMessage::Granted(_) => (None, None),
            };
            if let Some(known) = named.and_then(|id| mirror.attempts.get(&id)) {
                let own = known.tenant == identity.tenant && known.agent == identity.agent;
                holds(
                    own,
                    sentence,
                    format!("{} said to {}", known.attempt, identity.spiffe_id),
                )?;
            }
            if let Some(run) = run.and_then(|id| mirror.runs.get(&id)) {
                holds(run.tenant == identity.tenant, sentence, run.run)?;
            }
        }
        Ok(())
    }

    pub(crate) fn run_change(&mut self, before: Option<&RunRecord>, after: &RunRecord) -> Checked {
        let Some(before) = before else {
            return self.invariant_an_instant_makes_at_most_one_run(after);
        };
        if is_rerun(Some(before), after) {
            self.trace.count("run made to run again");
            return Ok(());
        }
        let over = World::run_over(before.state);
        let sentence = "the end of a run is final";
        holds(
            !over || before.state == after.state,
            sentence,
            format!("{}: {:?}", after.run, after.state),
        )
    }

    pub(crate) fn task_change(
        &self,
        before: Option<&TaskRecord>,
        after: &TaskRecord,
        rerun: bool,
    ) -> Checked {
        let Some(before) = before else { return Ok(()) };
        let over = match before.state {
            TaskState::Succeeded
            | TaskState::Failed { .. }
            | TaskState::UpstreamFailed
            | TaskState::Cancelled => true,
            TaskState::Waiting
            | TaskState::Queued { .. }
            | TaskState::Backoff { .. }
            | TaskState::Active { .. } => false,
        };
        let what = format!(
            "{} of {}: {:?} after {:?}",
            after.task, after.run, after.state, before.state
        );
        // What is run again begins with fresh tries, and its run says so.
        let again = rerun
            && (after.spent, after.requeued, after.untimely) == (0, 0, 0)
            && matches!(after.state, TaskState::Waiting | TaskState::Queued { .. });
        holds(
            !over || again || before.state == after.state,
            "the end of a task is final",
            what,
        )
    }

    pub(crate) fn attempt_change(
        &mut self,
        before: Option<&AttemptRecord>,
        after: &AttemptRecord,
    ) -> Checked {
        let Some(before) = before else {
            if !after.recovered {
                self.invariant_a_second_attempt_exists_only_if_the_first_is_over_or_may_run_twice(
                    after,
                )?;
            }
            self.invariant_nothing_finished_runs_again_after_a_restore(after)?;
            if after.recovered {
                self.invariant_only_what_a_former_life_knew_is_taken_in(after)?;
                return self.invariant_attempts_stay_in_their_tenant(after);
            }
            self.invariant_none_of_two_is_given_attempts(after)?;
            self.invariant_no_agent_is_given_more_than_it_takes(after)?;
            return self.invariant_attempts_stay_in_their_tenant(after);
        };
        self.invariant_an_accepted_outcome_is_never_replaced(before, after)?;
        // What follows a loss changes nothing any more.
        if before.phase != after.phase {
            self.invariant_only_a_silent_life_is_taken_for_over(after)?;
        }
        let had = outcome_of(before);
        match outcome_of(after) {
            Some(report) if had.is_none() => {
                self.invariant_an_accepted_outcome_is_true(after, report)
            }
            Some(_) | None => Ok(()),
        }
    }

    fn invariant_a_second_attempt_exists_only_if_the_first_is_over_or_may_run_twice(
        &self,
        after: &AttemptRecord,
    ) -> Checked {
        let sentence = "a second attempt exists only if the first is over or may run twice";
        for other in self.attempts_of(after.run, after.task) {
            if other.attempt == after.attempt {
                continue;
            }
            let twice = self.may_run_twice(other);
            let lost = matches!(other.phase, Phase::Lost { .. });
            let known = outcome_of(other).is_some_and(|report| !unknown_end(report));
            // What a person said of it may be what a restored database lacks.
            let former = self.truth.former.attempt(other.attempt);
            let former = former.is_some_and(|former| former.asserted.is_some());
            let ended = known
                || other.asserted.is_some()
                || former
                || (twice && (lost || outcome_of(other).is_some()));
            holds(
                ended,
                sentence,
                format!("{} beside {:?}", after.attempt, other),
            )?;
            // What it said of the end may be a lie.
            let sure = !self.said.is_risky(other.attempt) && !self.is_excused(other);
            let runs = self.runs_somewhere(other.attempt) && !self.is_with_a_cheat(other) && sure;
            holds(
                twice || !runs,
                sentence,
                format!("{} still runs", other.attempt),
            )?;
        }
        Ok(())
    }

    fn invariant_no_agent_is_given_more_than_it_takes(&self, after: &AttemptRecord) -> Checked {
        let named = |site: &&crate::site::Site| {
            site.identity.tenant == after.tenant && site.identity.agent == after.agent
        };
        let Some(site) = self.sites.iter().find(named) else {
            return Err(broken("work goes to agents that exist", &after.agent));
        };
        let held = self.center.disk.mirror.attempts.values().filter(|attempt| {
            (&attempt.tenant, &attempt.agent) == (&after.tenant, &after.agent) && active(attempt)
        });
        let (held, most) = (held.count(), self.center.settings.most(site.slots));
        let what = format!("{} holds {held} of {most}", after.agent);
        holds(
            held <= usize::from(most),
            "no agent is given more than it takes",
            what,
        )
    }

    fn invariant_attempts_stay_in_their_tenant(&self, after: &AttemptRecord) -> Checked {
        let run = self.center.disk.mirror.runs.get(&after.run);
        let own = run.is_some_and(|run| run.tenant == after.tenant);
        holds(own, "nothing crosses tenants", after.attempt)
    }

    fn invariant_an_accepted_outcome_is_never_replaced(
        &self,
        before: &AttemptRecord,
        after: &AttemptRecord,
    ) -> Checked {
        let sentence = "an accepted outcome is never replaced";
        let what = || {
            format!(
                "{}: {:?} after {:?}",
                after.attempt, after.phase, before.phase
            )
        };
        let over = matches!(before.phase, Phase::Finished { .. } | Phase::Lost { .. });
        holds(!over || before.phase == after.phase, sentence, what())?;
        let late = before.late.is_none() || before.late == after.late;
        holds(late, sentence, what())
    }

    fn invariant_an_accepted_outcome_is_true(
        &self,
        after: &AttemptRecord,
        report: Report,
    ) -> Checked {
        let id = after.attempt;
        if self.is_with_a_cheat(after) || self.may_be_with_two_alike(after) {
            return Ok(());
        }
        let over = self.is_taken_for_over(id) || self.is_word_beside(after, report);
        if !unknown_end(report) && !over {
            let gone = !self.runs_somewhere(id);
            holds(
                gone,
                "an end is accepted only when nothing of the task runs",
                id,
            )?;
        }
        let truth = self.truth.ends.get(&id);
        let never = report.may_have_started || !self.truth.starts.contains_key(&id);
        holds(never, "what is said never to have started never did", id)?;
        let claims = matches!(
            report.outcome,
            Outcome::Succeeded | Outcome::Failed | Outcome::TimedOut
        );
        let what = format!("{id}: {} instead of {truth:?}", report.outcome);
        holds(
            !claims || self.truth.ended_as(id, report.outcome),
            "an accepted outcome is the true one",
            what,
        )
    }

    // --- what was promised

    /// Of the newest `last` facts.
    pub(crate) fn invariant_what_was_acknowledged_is_in_the_store(&self, last: usize) -> Checked {
        let mirror = &self.center.disk.mirror;
        for fact in self.truth.facts.iter().rev().take(last) {
            let kept = match fact {
                Fact::Applied(tenant, name, version) => {
                    mirror
                        .workflows
                        .contains_key(&(tenant.clone(), name.clone(), *version))
                }
                Fact::Run(run) => mirror.runs.contains_key(run),
                Fact::Cancelled(run) => mirror
                    .runs
                    .get(run)
                    .is_some_and(|run| run.reruns > 0 || World::is_ending(run.state)),
                Fact::Rerun(run, reruns) => mirror
                    .runs
                    .get(run)
                    .is_some_and(|run| run.reruns >= (*reruns).max(1)),
                // Others may have resumed or applied it since: that it was noted at all is what stays.
                Fact::Paused(tenant, name) | Fact::Deleted(tenant, name) => mirror
                    .workflow_states
                    .contains_key(&(tenant.clone(), name.clone())),
                Fact::Invited(token) => mirror.invites.contains_key(token),
                Fact::Enrolled(token, key) => {
                    let bound = |invite: &outpost_orchestrator_core::record::InviteRecord| {
                        invite.bound_to.as_ref() == Some(key)
                    };
                    mirror.invites.get(token).is_some_and(bound)
                }
                Fact::AssertedDead(attempt) => {
                    let known = mirror.attempts.get(attempt);
                    known.is_some_and(|known| known.asserted.is_some())
                }
                Fact::Removed(site, key) => {
                    let identity = &self.sites[*site].identity;
                    let name = (identity.tenant.clone(), identity.agent.clone());
                    let agent = mirror.agents.get(&name);
                    agent.is_some_and(|agent| agent.removed || agent.key_hash != *key)
                }
            };
            holds(
                kept,
                "what was acknowledged is in the store",
                format!("{fact:?}"),
            )?;
        }
        Ok(())
    }
}

fn directed(directive: &Directive) -> Option<AttemptId> {
    match directive {
        Directive::Keep(id) | Directive::Cancel(id) | Directive::Forget(id) => Some(*id),
        Directive::Drain
        | Directive::Cordon
        | Directive::Uncordon
        | Directive::Receipt(_)
        | Directive::RenewNow
        | Directive::Reconciled => None,
    }
}

/// Whether this change of a run makes tasks of it run again.
pub(crate) fn is_rerun(before: Option<&RunRecord>, after: &RunRecord) -> bool {
    before.is_some_and(|before| before.reruns < after.reruns)
}

/// The outcome that was accepted for an attempt.
pub(crate) fn outcome_of(attempt: &AttemptRecord) -> Option<Report> {
    match attempt.phase {
        Phase::Finished { report } => Some(report),
        Phase::Lost { .. } => attempt.late,
        Phase::Assigned | Phase::Accepted | Phase::Starting | Phase::Running => None,
    }
}

/// Whether nobody can say that it is over.
fn unknown_end(report: Report) -> bool {
    report.may_have_started && report.outcome == Outcome::Interrupted(Interruption::AgentStateLost)
}

pub(crate) fn active(attempt: &AttemptRecord) -> bool {
    match attempt.phase {
        Phase::Assigned | Phase::Accepted | Phase::Starting | Phase::Running => true,
        Phase::Finished { .. } | Phase::Lost { .. } => false,
    }
}
