//! People and programs that use the orchestrator: they ask, are sometimes not answered, and ask again.

use std::collections::BTreeMap;

use outpost_orchestrator_core::event::{Answer, Ask, Denied, Event};
use outpost_orchestrator_core::record::{RunRecord, RunState};
use outpost_orchestrator_core::spec::WorkflowSpec;
use outpost_orchestrator_core::standing::Keep;
use outpost_proto::ids::{AttemptId, RunId};
use outpost_proto::message::ParamValue;
use outpost_proto::name::{AgentName, ParamName, TenantName, WorkflowName};

use crate::invariants::{Checked, broken};
use crate::queue::{At, MS, SECOND};
use crate::trace::note;
use crate::world::{Happening, World};

/// Who decides what only people decide.
const PERSON: &str = "somebody";

/// Most times that one thing is asked for once faults have stopped.
const TRIES: u32 = 300;

/// What somebody wants.
#[derive(Debug, Clone)]
pub(crate) enum Want {
    Apply(Box<WorkflowSpec>),
    Trigger {
        workflow: WorkflowName,
        params: BTreeMap<ParamName, ParamValue>,
        key: Option<String>,
        /// The parameters are outside the workflow's bounds.
        refused: bool,
        /// Milliseconds after which the run is to be cancelled.
        cancel_ms: Option<u64>,
        /// Milliseconds after which what of it did not succeed is to be run again.
        rerun_ms: Option<u64>,
    },
    /// Whether the workflow shall be paused.
    Pause(WorkflowName, bool),
    Delete(WorkflowName),
    Rerun(RunId),
    Cancel(RunId),
    Invite(usize),
    Enrol(usize),
    Remove(usize),
    /// Which of two holders stays.
    Resolve(AgentName, Keep),
    /// Go on without agents that are not back after a restore.
    Continue,
    Unfreeze,
    AssertDead(AttemptId),
}

#[derive(Debug)]
struct Request {
    tenant: TenantName,
    want: Want,
    tries: u32,
    /// Of them, those since faults have stopped.
    late: u32,
    /// When it is asked again: one who asks waits for one answer at a time.
    again: At,
    done: bool,
}

/// Everybody who asked.
#[derive(Debug, Default)]
pub(crate) struct Clients {
    requests: BTreeMap<u64, Request>,
    next: u64,
    /// What the same key made.
    keys: BTreeMap<(TenantName, String), RunId>,
    /// All runs that somebody was told of.
    pub(crate) runs: BTreeMap<RunId, TenantName>,
}

/// What an answer promised, to be found in the store from then on.
#[derive(Debug, Clone)]
pub(crate) enum Fact {
    Applied(TenantName, WorkflowName, u32),
    Run(RunId),
    Cancelled(RunId),
    Paused(TenantName, WorkflowName),
    Deleted(TenantName, WorkflowName),
    /// And how often it had been by then.
    Rerun(RunId, u16),
    Invited(String),
    /// A key that was enrolled with an invitation.
    Enrolled(String, String),
    Removed(usize, String),
    AssertedDead(AttemptId),
}

impl Request {
    /// Without a key a second try might make a second run: nobody tries that.
    fn is_tried_once(&self) -> bool {
        matches!(self.want, Want::Trigger { key: None, .. })
    }
}

impl Clients {
    /// Whether everybody who asks until there is an answer has one.
    pub(crate) fn all_are_answered(&self) -> bool {
        let mut requests = self.requests.values();
        requests.all(|request| request.done || request.is_tried_once())
    }

    /// What a restored database does not know is not expected of it.
    pub(crate) fn forget_others(&mut self, runs: &BTreeMap<RunId, RunRecord>) {
        self.keys.retain(|_, run| runs.contains_key(run));
        self.runs.retain(|run, _| runs.contains_key(run));
    }
}

impl World {
    pub(crate) fn want(&mut self, tenant: &TenantName, want: Want) {
        let want = match want {
            Want::Cancel(RunId(0)) => match self.foreign_run(tenant) {
                Some(run) => Want::Cancel(run),
                None => return,
            },
            Want::Apply(_)
            | Want::Trigger { .. }
            | Want::Pause(..)
            | Want::Delete(_)
            | Want::Rerun(_)
            | Want::Cancel(_)
            | Want::Invite(_)
            | Want::Enrol(_)
            | Want::Remove(_)
            | Want::Resolve(..)
            | Want::Continue
            | Want::Unfreeze
            | Want::AssertDead(_) => want,
        };
        self.clients.next += 1;
        let id = self.clients.next;
        let request = Request {
            tenant: tenant.clone(),
            want,
            tries: 0,
            late: 0,
            again: 0,
            done: false,
        };
        self.clients.requests.insert(id, request);
        self.ask(id);
    }

    /// Sends a request, unless it was answered.
    pub(crate) fn ask(&mut self, id: u64) {
        let Some(request) = self.clients.requests.get_mut(&id) else {
            return;
        };
        if request.done || (request.is_tried_once() && request.tries > 0) {
            return;
        }
        request.tries += 1;
        request.late += u32::from(self.now > self.plan.quiet_from);
        if request.tries > 1 {
            self.trace.count("request sent again");
        }
        let at = self.now + self.dice.span(100, 50 * MS);
        self.queue.put(at, Happening::Asked { request: id });
        let again = self.now + self.dice.between(5 * SECOND, 15 * SECOND);
        self.ask_again_at(id, again);
    }

    pub(crate) fn ask_again_later(&mut self, id: u64) {
        let at = self.now + self.dice.span(100 * MS, 3 * SECOND);
        self.ask_again_at(id, at);
    }

    /// Then, and not when it was to be asked again before.
    fn ask_again_at(&mut self, id: u64, at: At) {
        if let Some(request) = self.clients.requests.get_mut(&id) {
            request.again = at;
            self.queue.put(at, Happening::AskAgain { request: id });
        }
    }

    pub(crate) fn ask_again(&mut self, id: u64) {
        let requests = &self.clients.requests;
        if requests
            .get(&id)
            .is_some_and(|request| request.again == self.now)
        {
            self.ask(id);
        }
    }

    pub(crate) fn invariant_a_request_is_answered_once_faults_have_stopped(&self) -> Checked {
        let mut requests = self.clients.requests.values();
        let tired = requests.find(|request| request.late > TRIES && !request.done);
        tired.map_or(Ok(()), |request| {
            let what = format!("{:?}, {} times", request.want, request.tries);
            Err(broken(
                "a request is answered once faults have stopped",
                what,
            ))
        })
    }

    /// A request arrived at the orchestrator's port.
    pub(crate) fn asked(&mut self, id: u64) {
        let Some(request) = self.clients.requests.get(&id) else {
            return;
        };
        let (tenant, want) = (request.tenant.clone(), request.want.clone());
        let ask = match want {
            Want::Apply(spec) => Ask::Apply {
                source: spec.description.clone(),
                spec: *spec,
                allow_unknown_entries: true,
                dry_run: false,
                expected_version: None,
            },
            Want::Trigger {
                workflow,
                params,
                key,
                ..
            } => Ask::Trigger {
                workflow,
                params,
                key,
            },
            Want::Pause(workflow, paused) => Ask::PauseWorkflow { workflow, paused },
            Want::Delete(workflow) => Ask::DeleteWorkflow {
                workflow,
                expected_version: None,
            },
            // What is stored is read right before it is decided on.
            Want::Rerun(run) => Ask::Rerun {
                run,
                tasks: None,
                stored: None,
            },
            Want::Cancel(run) => Ask::Cancel { run },
            Want::Invite(site) => Ask::Invite {
                agent: self.sites[site].identity.agent.clone(),
                token_hash: self.token(site),
                ttl_ms: 600_000,
            },
            Want::Remove(site) => Ask::RemoveAgent {
                agent: self.sites[site].identity.agent.clone(),
            },
            Want::Resolve(agent, keep) => Ask::ResolveAgent {
                agent,
                keep,
                by: PERSON.to_owned(),
            },
            Want::Continue => Ask::Continue {
                by: PERSON.to_owned(),
            },
            Want::Unfreeze => Ask::Unfreeze {
                by: PERSON.to_owned(),
            },
            Want::AssertDead(attempt) => Ask::AssertDead {
                attempt,
                by: PERSON.to_owned(),
                reason: "looked at the host".to_owned(),
            },
            Want::Enrol(site) => {
                let (token_hash, key_hash) = (self.token(site), self.key(site));
                return self.center_is_asked(id, &tenant, |call| Event::Enrol {
                    call,
                    token_hash,
                    key_hash,
                });
            }
        };
        let of = tenant.clone();
        self.center_is_asked(id, &of, |call| Event::Asked { call, tenant, ask });
    }

    fn token(&self, site: usize) -> String {
        format!("token-{site}-{:016x}", self.sites[site].identity.key)
    }

    fn key(&self, site: usize) -> String {
        self.sites[site].identity.key_hash()
    }

    /// The orchestrator answers: what it says must be durable now, whether or not the answer arrives.
    pub(crate) fn answered(&mut self, id: u64, answer: Result<Answer, Denied>) -> Checked {
        if let Some(minutes) = &mut self.minutes
            && minutes.waits_for(id)
        {
            minutes.answered(id, answer);
            return Ok(());
        }
        let Some(request) = self.clients.requests.get(&id) else {
            return Ok(());
        };
        let (tenant, want) = (request.tenant.clone(), request.want.clone());
        self.judge_answer(&tenant, &want, &answer)?;
        if let Some(fact) = self.fact(&tenant, &want, &answer) {
            if let Fact::Cancelled(run) = fact {
                self.truth.cancelled.entry(run).or_insert(self.now);
            }
            self.truth.facts.push(fact);
            self.invariant_what_was_acknowledged_is_in_the_store(1)?;
        }
        if self.now < self.plan.quiet_from && self.dice.percent(8) && !self.plan.directed {
            self.trace.count("answer lost");
            return Ok(());
        }
        let at = self.now + self.dice.span(100, 50 * MS);
        self.queue.put(
            at,
            Happening::Answered {
                request: id,
                answer: Box::new(answer),
            },
        );
        Ok(())
    }

    /// Whether this is an answer that can be given.
    fn judge_answer(
        &mut self,
        tenant: &TenantName,
        want: &Want,
        answer: &Result<Answer, Denied>,
    ) -> Checked {
        let foreign = |run: &RunId| {
            self.clients
                .runs
                .get(run)
                .is_some_and(|owner| owner != tenant)
        };
        match (want, answer) {
            (Want::Trigger { refused: true, .. }, Ok(_)) => {
                return Err(broken(
                    "parameters outside their bounds make no run",
                    format!("{want:?}"),
                ));
            }
            (Want::Trigger { key: Some(key), .. }, Ok(Answer::Triggered { run, .. })) => {
                let made = self
                    .clients
                    .keys
                    .entry((tenant.clone(), key.clone()))
                    .or_insert(*run);
                if made != run {
                    return Err(broken("one key makes one run", key));
                }
            }
            (Want::Cancel(run), Ok(_)) if foreign(run) => {
                return Err(broken(
                    "nothing crosses tenants",
                    format!("{tenant} reaches run {run}"),
                ));
            }
            (Want::Enrol(_), Err(denied)) => {
                // An invitation may run out while nobody answers; a new one is made then.
                note!(self, "enrolment denied: {denied}");
            }
            (
                Want::Apply(_)
                | Want::Trigger { .. }
                | Want::Pause(..)
                | Want::Delete(_)
                | Want::Rerun(_)
                | Want::Cancel(_)
                | Want::Invite(_)
                | Want::Enrol(_)
                | Want::Remove(_)
                | Want::Resolve(..)
                | Want::Continue
                | Want::Unfreeze
                | Want::AssertDead(_),
                _,
            ) => {}
        }
        Ok(())
    }

    fn fact(
        &self,
        tenant: &TenantName,
        want: &Want,
        answer: &Result<Answer, Denied>,
    ) -> Option<Fact> {
        match (want, answer.as_ref().ok()?) {
            (Want::Apply(spec), Answer::Applied { version, .. }) => {
                Some(Fact::Applied(tenant.clone(), spec.name.clone(), *version))
            }
            (Want::Trigger { .. }, Answer::Triggered { run, .. }) => Some(Fact::Run(*run)),
            (Want::Cancel(run), Answer::Cancelled { .. }) => Some(Fact::Cancelled(*run)),
            // Resuming what was never paused notes nothing.
            (Want::Pause(workflow, true), Answer::Paused { .. }) => {
                Some(Fact::Paused(tenant.clone(), workflow.clone()))
            }
            (Want::Delete(workflow), Answer::Deleted) => {
                Some(Fact::Deleted(tenant.clone(), workflow.clone()))
            }
            (Want::Rerun(run), Answer::Rerun { .. }) => {
                let reruns = self.center.disk.mirror.runs.get(run);
                Some(Fact::Rerun(*run, reruns.map_or(0, |run| run.reruns)))
            }
            (Want::Invite(site), Answer::Invited { .. }) => Some(Fact::Invited(self.token(*site))),
            (Want::Enrol(site), Answer::Enrolled { .. }) => {
                Some(Fact::Enrolled(self.token(*site), self.key(*site)))
            }
            (Want::AssertDead(attempt), Answer::AssertedDead { .. }) => {
                Some(Fact::AssertedDead(*attempt))
            }
            (Want::Remove(site), Answer::Removed) => Some(Fact::Removed(*site, self.key(*site))),
            (
                Want::Apply(_)
                | Want::Trigger { .. }
                | Want::Pause(..)
                | Want::Delete(_)
                | Want::Rerun(_)
                | Want::Cancel(_)
                | Want::Invite(_)
                | Want::Enrol(_)
                | Want::Remove(_)
                | Want::Resolve(..)
                | Want::Continue
                | Want::Unfreeze
                | Want::AssertDead(_),
                _,
            ) => None,
        }
    }

    /// An answer arrived.
    pub(crate) fn told(&mut self, id: u64, answer: Result<Answer, Denied>) {
        let Some(request) = self.clients.requests.get_mut(&id) else {
            return;
        };
        if std::mem::replace(&mut request.done, true) {
            return;
        }
        let (tenant, want) = (request.tenant.clone(), request.want.clone());
        match (want, answer) {
            (
                Want::Trigger {
                    cancel_ms,
                    rerun_ms,
                    ..
                },
                Ok(Answer::Triggered { run, .. }),
            ) => {
                self.clients.runs.insert(run, tenant);
                if let Some(later_ms) = rerun_ms {
                    self.queue
                        .put(self.now + later_ms * MS, Happening::Rerun { run });
                }
                if let Some(later_ms) = cancel_ms {
                    self.queue
                        .put(self.now + later_ms * MS, Happening::Cancel { run });
                }
            }
            (Want::Invite(site), Ok(_)) => self.want(&tenant, Want::Enrol(site)),
            (Want::Invite(site), Err(Denied::AgentExists(_))) if !self.sites[site].enrolled => {
                // It enrolled, and never heard so before its invitation ran out.
                self.want(&tenant, Want::Remove(site));
            }
            (Want::Enrol(site), Ok(_)) => {
                self.sites[site].enrolled = true;
                let dated = self.database_time(self.now).0;
                let identity = &mut self.sites[site].identity;
                (identity.since, identity.dated) = (self.now, dated);
                self.start_site(site);
            }
            (Want::Enrol(site), Err(_)) => {
                // The invitation ran out, or the agent was removed meanwhile: a new invitation, and a new key for it.
                self.sites[site].identity.key = self.dice.next();
                self.want(&tenant, Want::Invite(site));
            }
            (Want::Remove(site), _) => self.removed(site),
            (
                Want::Apply(_)
                | Want::Trigger { .. }
                | Want::Pause(..)
                | Want::Delete(_)
                | Want::Rerun(_)
                | Want::Cancel(_)
                | Want::Invite(_)
                | Want::Resolve(..)
                | Want::Continue
                | Want::Unfreeze
                | Want::AssertDead(_),
                _,
            ) => {}
        }
    }

    pub(crate) fn is_removed(&self, site: usize) -> bool {
        let identity = &self.sites[site].identity;
        let name = (identity.tenant.clone(), identity.agent.clone());
        let known = self.center.disk.mirror.agents.get(&name);
        known.is_some_and(|agent| agent.removed)
    }

    /// An agent was removed: some time later its host is set up anew and enrols again under the same name.
    fn removed(&mut self, site: usize) {
        if !self.is_removed(site) {
            // It had not enrolled when its removal was asked for.
            return;
        }
        self.trace.count("agent removed");
        let at = self.now + self.dice.span(30 * SECOND, 200 * SECOND);
        self.queue.put(at, Happening::SetUpAnew { site });
    }

    pub(crate) fn cancel(&mut self, run: RunId) {
        if let Some(tenant) = self.clients.runs.get(&run).cloned() {
            self.want(&tenant, Want::Cancel(run));
        }
    }

    pub(crate) fn rerun(&mut self, run: RunId) {
        if let Some(tenant) = self.clients.runs.get(&run).cloned() {
            self.want(&tenant, Want::Rerun(run));
        }
    }

    /// Whether what a cancel promised holds.
    pub(crate) fn is_ending(state: RunState) -> bool {
        match state {
            RunState::Running => false,
            RunState::Cancelling | RunState::Succeeded | RunState::Failed | RunState::Cancelled => {
                true
            }
        }
    }
}
