//! What must always hold, one sentence per function. Starts and ends are what the fake keepers did; the rest is what the
//! orchestrator's database holds, record by record.

use std::collections::BTreeMap;
use std::fmt::Display;

use outpost_orchestrator_core::record::{AttemptRecord, Phase, RunRecord, TaskRecord, TaskState};
use outpost_proto::ids::{AttemptId, Conn, RunId, TaskIndex};
use outpost_proto::message::{Assign, AttemptState, Directive, DownMessage};
use outpost_proto::outcome::{Interruption, Outcome, Report};

use crate::clients::Fact;
use crate::keeper;
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
    Violation { sentence, what: what.to_string() }
}

fn holds(condition: bool, sentence: &'static str, what: impl Display) -> Checked {
    if condition { Ok(()) } else { Err(broken(sentence, what)) }
}

/// What really happened.
#[derive(Debug, Default)]
pub(crate) struct Truth {
    pub(crate) starts: BTreeMap<AttemptId, u32>,
    /// How tasks ended, as their keepers saw it.
    pub(crate) ends: BTreeMap<AttemptId, Outcome>,
    /// What was acknowledged.
    pub(crate) facts: Vec<Fact>,
}

impl World {
    // --- at each exec

    /// A task's process exists from now on: everything that must be true of that.
    pub(crate) fn started(&mut self, site: usize, assign: &Assign, shown: u64, lease_until: u64) -> Checked {
        *self.truth.starts.entry(assign.attempt).or_insert(0) += 1;
        self.trace.count("task started");
        self.invariant_an_attempt_starts_at_most_once(assign.attempt)?;
        holds(shown < lease_until, "no start without a live lease of the current session", assign.attempt)?;
        self.invariant_what_starts_was_assigned_here_and_is_not_over(site, assign)?;
        self.invariant_a_task_starts_only_after_all_it_needs_succeeded(assign.run, assign.task)?;
        self.invariant_nothing_starts_once_a_later_attempt_exists(assign)?;
        self.invariant_an_agent_runs_no_more_than_it_may(site)?;
        self.invariant_what_ends_alone_never_overlaps(assign)
    }

    fn invariant_an_attempt_starts_at_most_once(&self, attempt: AttemptId) -> Checked {
        let starts = self.truth.starts.get(&attempt).copied().unwrap_or(0);
        holds(starts <= 1, "an attempt starts at most once", format!("{attempt}: {starts} starts"))
    }

    fn invariant_what_starts_was_assigned_here_and_is_not_over(&self, site: usize, assign: &Assign) -> Checked {
        let (id, site) = (assign.attempt, &self.sites[site]);
        let sentence = "only what is durably assigned to this agent, and not over, starts";
        let Some(known) = self.center.disk.mirror.attempts.get(&id) else {
            return Err(broken(sentence, format!("{id} is not in the database")));
        };
        let here = known.tenant == site.identity.tenant
            && known.agent == site.identity.agent
            && known.incarnation == site.incarnation;
        holds(here, sentence, format!("{id} is another agent's, or another incarnation's"))?;
        let over = matches!(known.phase, Phase::Finished { .. }) || known.late.is_some();
        holds(!over, sentence, format!("{id} is over: {:?}", known.phase))
    }

    fn invariant_a_task_starts_only_after_all_it_needs_succeeded(&self, run: RunId, task: TaskIndex) -> Checked {
        let sentence = "a task starts only after all it needs succeeded";
        for need in self.needs(run, task) {
            let known = self.center.disk.mirror.tasks.get(&(run, need)).map(|task| task.state);
            holds(known == Some(TaskState::Succeeded), sentence, format!("{task} of {run}: {need} is {known:?}"))?;
            let truly = self.attempts_of(run, need).any(|attempt| {
                self.truth.ends.get(&attempt.attempt) == Some(&Outcome::Succeeded)
            });
            holds(truly, sentence, format!("{task} of {run}: {need} never did"))?;
        }
        Ok(())
    }

    fn invariant_nothing_starts_once_a_later_attempt_exists(&self, assign: &Assign) -> Checked {
        let later = self
            .attempts_of(assign.run, assign.task)
            .find(|other| other.fence > assign.fence);
        let id = assign.attempt;
        holds(later.is_none(), "nothing starts once a later attempt of its task exists", id)
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
        holds(total <= site.slots, sentence, format!("s{index} runs {total} of {}", site.slots))?;
        for entry in &shop::ENTRIES {
            let count = by_entry.get(entry.name).copied().unwrap_or(0);
            let most = entry.max_parallel.unwrap_or(u16::MAX);
            holds(count <= most, sentence, format!("s{index} runs {count} of `{}`", entry.name))?;
        }
        Ok(())
    }

    fn invariant_what_ends_alone_never_overlaps(&self, assign: &Assign) -> Checked {
        let sentence = "an attempt that ends alone is gone before its successor starts";
        for other in self.attempts_of(assign.run, assign.task) {
            if other.attempt != assign.attempt && other.ends_alone_s.is_some() {
                holds(!self.runs_somewhere(other.attempt), sentence, other.attempt)?;
            }
        }
        Ok(())
    }

    // --- at each start that an agent decides

    pub(crate) fn may_start(&self, site: usize, assign: &Assign, shown: u64, lease_until: u64) -> Checked {
        let sentence = "no start without a live lease of the current session";
        let Some(granted) = self.lease_of(site) else {
            return Err(broken(sentence, format!("{}: no session is ready", assign.attempt)));
        };
        let live = shown < lease_until && lease_until <= granted;
        let what = format!("{}: at {shown}, until {lease_until}, granted until {granted}", assign.attempt);
        holds(live, sentence, what)?;
        let snapshot = self.sites[site].disk.snapshot();
        let journalled = snapshot.attempts.iter().any(|held| {
            held.assign.attempt == assign.attempt && held.state == AttemptState::Starting
        });
        holds(journalled, "a start is journalled before it is asked for", assign.attempt)
    }

    // --- at each turn of the orchestrator

    pub(crate) fn invariant_nothing_crosses_tenants(&self, conn: Conn, messages: &[DownMessage]) -> Checked {
        let Some(link) = self.network.links.get(&conn.0) else {
            return Ok(());
        };
        let identity = &self.sites[link.site].identity;
        let sentence = "nothing crosses tenants";
        let mirror = &self.center.disk.mirror;
        for message in messages {
            let (named, run) = match message {
                DownMessage::Assign(assign) => (Some(assign.attempt), Some(assign.run)),
                DownMessage::Directive { directive, .. } => (directed(directive), None),
                DownMessage::Welcome(_) | DownMessage::Granted(_) => (None, None),
            };
            if let Some(known) = named.and_then(|id| mirror.attempts.get(&id)) {
                let own = known.tenant == identity.tenant && known.agent == identity.agent;
                holds(own, sentence, format!("{} said to {}", known.attempt, identity.spiffe_id))?;
            }
            if let Some(run) = run.and_then(|id| mirror.runs.get(&id)) {
                holds(run.tenant == identity.tenant, sentence, run.run)?;
            }
        }
        Ok(())
    }

    pub(crate) fn run_change(&self, before: Option<&RunRecord>, after: &RunRecord) -> Checked {
        let Some(before) = before else { return Ok(()) };
        let over = World::run_over(before.state);
        let sentence = "the end of a run is final";
        holds(!over || before.state == after.state, sentence, format!("{}: {:?}", after.run, after.state))
    }

    pub(crate) fn task_change(&self, before: Option<&TaskRecord>, after: &TaskRecord) -> Checked {
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
        let what = format!("{} of {}: {:?} after {:?}", after.task, after.run, after.state, before.state);
        holds(!over || before.state == after.state, "the end of a task is final", what)
    }

    pub(crate) fn attempt_change(&self, before: Option<&AttemptRecord>, after: &AttemptRecord) -> Checked {
        let Some(before) = before else {
            self.invariant_a_second_attempt_exists_only_if_the_first_is_over_or_may_run_twice(after)?;
            self.invariant_no_agent_is_given_more_than_it_takes(after)?;
            return self.invariant_attempts_stay_in_their_tenant(after);
        };
        self.invariant_an_accepted_outcome_is_never_replaced(before, after)?;
        let had = outcome_of(before);
        match outcome_of(after) {
            Some(report) if had.is_none() => self.invariant_an_accepted_outcome_is_true(after, report),
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
            let ended = known || (twice && (lost || outcome_of(other).is_some()));
            holds(ended, sentence, format!("{} beside {:?}", after.attempt, other))?;
            let runs = self.runs_somewhere(other.attempt);
            holds(twice || !runs, sentence, format!("{} still runs", other.attempt))?;
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
        let (held, most) = (held.count(), self.center.settings.capacity(site.slots));
        let what = format!("{} holds {held} of {most}", after.agent);
        holds(held <= usize::from(most), "no agent is given more than it takes", what)
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
        let what = || format!("{}: {:?} after {:?}", after.attempt, after.phase, before.phase);
        let over = matches!(before.phase, Phase::Finished { .. } | Phase::Lost { .. });
        holds(!over || before.phase == after.phase, sentence, what())?;
        let late = before.late.is_none() || before.late == after.late;
        holds(late, sentence, what())
    }

    fn invariant_an_accepted_outcome_is_true(&self, after: &AttemptRecord, report: Report) -> Checked {
        let id = after.attempt;
        if !unknown_end(report) {
            let gone = !self.runs_somewhere(id);
            holds(gone, "an end is accepted only when nothing of the task runs", id)?;
        }
        let truth = self.truth.ends.get(&id);
        let never = report.may_have_started || !self.truth.starts.contains_key(&id);
        holds(never, "what is said never to have started never did", id)?;
        let claims = matches!(report.outcome, Outcome::Succeeded | Outcome::Failed | Outcome::TimedOut);
        let what = format!("{id}: {} instead of {truth:?}", report.outcome);
        holds(!claims || truth == Some(&report.outcome), "an accepted outcome is the true one", what)
    }

    // --- what was promised

    /// Of the newest `last` facts.
    pub(crate) fn invariant_what_was_acknowledged_is_in_the_store(&self, last: usize) -> Checked {
        let mirror = &self.center.disk.mirror;
        for fact in self.truth.facts.iter().rev().take(last) {
            let kept = match fact {
                Fact::Applied(tenant, name, version) => {
                    mirror.workflows.contains_key(&(tenant.clone(), name.clone(), *version))
                }
                Fact::Run(run) => mirror.runs.contains_key(run),
                Fact::Cancelled(run) => {
                    mirror.runs.get(run).is_some_and(|run| World::is_ending(run.state))
                }
                Fact::Invited(token) => mirror.invites.contains_key(token),
                Fact::Enrolled(token, key) => {
                    let bound = |invite: &outpost_orchestrator_core::record::InviteRecord| {
                        invite.bound_to.as_ref() == Some(key)
                    };
                    mirror.invites.get(token).is_some_and(bound)
                }
                Fact::Removed(site, key) => {
                    let identity = &self.sites[*site].identity;
                    let name = (identity.tenant.clone(), identity.agent.clone());
                    let agent = mirror.agents.get(&name);
                    agent.is_some_and(|agent| agent.removed || agent.key_hash != *key)
                }
            };
            holds(kept, "what was acknowledged is in the store", format!("{fact:?}"))?;
        }
        Ok(())
    }

    // --- what the sentences are made of

    pub(crate) fn attempts_of(&self, run: RunId, task: TaskIndex) -> impl Iterator<Item = &AttemptRecord> {
        let attempts = self.center.disk.mirror.attempts.values();
        attempts.filter(move |attempt| attempt.run == run && attempt.task == task)
    }

    fn needs(&self, run: RunId, task: TaskIndex) -> Vec<TaskIndex> {
        let mirror = &self.center.disk.mirror;
        let spec = mirror.runs.get(&run).and_then(|run| {
            let key = (run.tenant.clone(), run.workflow.clone(), run.version);
            mirror.workflows.get(&key)?.spec.tasks.get(usize::from(task.0))
        });
        spec.map(|spec| spec.needs.clone()).unwrap_or_default()
    }

    /// By the site's own catalogue, not by what the orchestrator noted.
    fn may_run_twice(&self, attempt: &AttemptRecord) -> bool {
        let mirror = &self.center.disk.mirror;
        let spec = mirror.runs.get(&attempt.run).and_then(|run| {
            let key = (run.tenant.clone(), run.workflow.clone(), run.version);
            mirror.workflows.get(&key)?.spec.tasks.get(usize::from(attempt.task.0))
        });
        spec.and_then(|spec| shop::entry(&spec.entry)).is_some_and(|entry| entry.retry_safe)
    }

    pub(crate) fn runs_somewhere(&self, attempt: AttemptId) -> bool {
        self.sites.iter().any(|site| {
            let keeper = site.keepers.get(&attempt);
            keeper.is_some_and(|keeper| keeper.phase == keeper::Phase::Running)
        })
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
