//! What people ask for, and what they can read.

use std::collections::BTreeMap;

use outpost_orchestrator_core::event::{
    AgentView, Answer, Ask, Denied, Event, Explanation, RecoveryView,
};
use outpost_orchestrator_core::mirror::Mirror;
use outpost_orchestrator_core::record::{AgentRecord, AttemptRecord, Phase, RunRecord, TaskRecord};
use outpost_orchestrator_core::spec::{Retry, TaskSpec, WorkflowSpec};
use outpost_proto::ids::{AttemptId, Conn, Nonce, RunId, TaskIndex};
use outpost_proto::outcome::{Outcome, Report};

use super::{Asker, Stage, name};

/// A task with two retries, a second apart at first.
#[must_use]
pub fn task(called: &str, entry: &str, needs: &[u16]) -> TaskSpec {
    TaskSpec {
        needs: needs.iter().copied().map(TaskIndex).collect(),
        retry: Retry {
            retries: 2,
            delay_ms: 1000,
            max_delay_ms: 4000,
        },
        ..TaskSpec::new(name(called), name(entry))
    }
}

/// A workflow named `flow`.
#[must_use]
pub fn flow(tasks: Vec<TaskSpec>) -> WorkflowSpec {
    WorkflowSpec::new(name("flow"), tasks)
}

/// How a keeper reports such an end.
#[must_use]
pub fn report(outcome: Outcome) -> Report {
    Report {
        outcome,
        may_have_started: !matches!(outcome, Outcome::Refused(_)),
        duration_ms: 1000,
        exit_code: None,
        count: None,
    }
}

impl Stage {
    // --- asking

    /// A person of tenant `acme` asks; `None`: nobody answered.
    pub fn try_ask(&mut self, tenant: &str, ask: Ask) -> Option<Result<Answer, Denied>> {
        let call = self.call(Asker::Script);
        let tenant = name(tenant);
        self.inbox.push(Event::Asked { call, tenant, ask });
        self.settles();
        self.answers.remove(&call)
    }

    /// The same, and is answered.
    ///
    /// # Panics
    /// If not.
    pub fn ask(&mut self, ask: Ask) -> Result<Answer, Denied> {
        self.ask_of("acme", ask)
    }

    /// The same of any tenant.
    ///
    /// # Panics
    /// If there is no answer.
    pub fn ask_of(&mut self, tenant: &str, ask: Ask) -> Result<Answer, Denied> {
        self.try_ask(tenant, ask).expect("an answer")
    }

    /// An agent is invited and enrols with this key.
    ///
    /// # Errors
    /// As the orchestrator says.
    ///
    /// # Panics
    /// If there is no answer.
    pub fn enrol(&mut self, tenant: &str, agent: &str, key: &str) -> Result<Answer, Denied> {
        let token_hash = format!("token-{tenant}-{agent}-{key}-{}", self.now);
        let invite = Ask::Invite {
            agent: name(agent),
            token_hash: token_hash.clone(),
            ttl_ms: 600_000,
        };
        self.ask_of(tenant, invite)?;
        let call = self.call(Asker::Script);
        let key_hash = key.to_owned();
        self.inbox.push(Event::Enrol {
            call,
            token_hash,
            key_hash,
        });
        self.settles();
        self.answers.remove(&call).expect("an answer")
    }

    /// Whoever holds this key asks for the next certificate of `acme`'s agent, beside this stream.
    ///
    /// # Errors
    /// As the orchestrator says.
    ///
    /// # Panics
    /// If there is no answer.
    pub fn renew(
        &mut self,
        agent: &str,
        (key, next): (&str, &str),
        beside: Option<Conn>,
    ) -> Result<Answer, Denied> {
        let call = self.call(Asker::Script);
        self.inbox.push(Event::Renew {
            call,
            tenant: name("acme"),
            agent: name(agent),
            key_hash: key.to_owned(),
            next_key: next.to_owned(),
            beside,
        });
        self.settles();
        self.answers.remove(&call).expect("an answer")
    }

    /// Whoever holds the key of a certificate that ended then asks for another one.
    ///
    /// # Errors
    /// As the orchestrator says.
    ///
    /// # Panics
    /// If there is no answer.
    pub fn recover(
        &mut self,
        agent: &str,
        (key, next): (&str, &str),
        nonce: Nonce,
        not_after: u64,
    ) -> Result<Answer, Denied> {
        let call = self.call(Asker::Script);
        let ended = self.now.checked_sub(not_after).filter(|ago| *ago > 0);
        self.inbox.push(Event::Recover {
            call,
            tenant: name("acme"),
            agent: name(agent),
            key_hash: key.to_owned(),
            next_key: next.to_owned(),
            nonce,
            ended_ms_ago: ended.map(|ago| ago / 1000),
            not_after,
        });
        self.settles();
        self.answers.remove(&call).expect("an answer")
    }

    /// Makes this the workflow `flow` of a tenant.
    ///
    /// # Panics
    /// If it is refused.
    pub fn apply_of(&mut self, tenant: &str, spec: WorkflowSpec) {
        let source = format!("{spec:?}");
        let ask = Ask::Apply {
            spec,
            source,
            allow_unknown_entries: true,
            dry_run: false,
            expected_version: None,
        };
        self.ask_of(tenant, ask).expect("a workflow");
    }

    /// The same of `acme`.
    pub fn apply(&mut self, tasks: Vec<TaskSpec>) {
        self.apply_of("acme", flow(tasks));
    }

    /// A run of `flow`.
    ///
    /// # Panics
    /// If it is refused.
    pub fn trigger_of(&mut self, tenant: &str) -> RunId {
        let ask = Ask::Trigger {
            workflow: name("flow"),
            params: BTreeMap::new(),
            key: None,
        };
        match self.ask_of(tenant, ask) {
            Ok(Answer::Triggered { run, .. }) => run,
            other => panic!("{other:?}"),
        }
    }

    /// The same of `acme`.
    pub fn trigger(&mut self) -> RunId {
        self.trigger_of("acme")
    }

    // --- reading

    /// What is durable.
    #[must_use]
    pub fn store(&self) -> &Mirror {
        &self.disk.mirror
    }

    /// A run as it is stored.
    ///
    /// # Panics
    /// If there is none.
    #[must_use]
    pub fn run(&self, run: RunId) -> RunRecord {
        self.disk.mirror.runs.get(&run).cloned().expect("a run")
    }

    /// A run's task as it is stored.
    ///
    /// # Panics
    /// If there is none.
    #[must_use]
    pub fn task(&self, run: RunId, task: u16) -> TaskRecord {
        let tasks = &self.disk.mirror.tasks;
        tasks.get(&(run, TaskIndex(task))).cloned().expect("a task")
    }

    /// An attempt as it is stored.
    ///
    /// # Panics
    /// If there is none.
    #[must_use]
    pub fn attempt(&self, attempt: AttemptId) -> AttemptRecord {
        let attempts = &self.disk.mirror.attempts;
        attempts.get(&attempt).cloned().expect("an attempt")
    }

    /// Every attempt of a run's task, in the order of their fences.
    #[must_use]
    pub fn attempts(&self, run: RunId, task: u16) -> Vec<AttemptRecord> {
        let attempts = self.disk.mirror.attempts.values();
        let of = |attempt: &&AttemptRecord| attempt.run == run && attempt.task == TaskIndex(task);
        let mut attempts: Vec<_> = attempts.filter(of).cloned().collect();
        attempts.sort_by_key(|attempt| attempt.fence);
        attempts
    }

    /// How many attempts of an agent were given up.
    #[must_use]
    pub fn given_up(&self, agent: &str) -> usize {
        let attempts = self.disk.mirror.attempts.values();
        let lost = |attempt: &&AttemptRecord| {
            attempt.agent.as_str() == agent && matches!(attempt.phase, Phase::Lost { .. })
        };
        attempts.filter(lost).count()
    }

    /// An agent of `acme` as it is stored.
    ///
    /// # Panics
    /// If there is none.
    #[must_use]
    pub fn record(&self, agent: &str) -> AgentRecord {
        let agents = &self.disk.mirror.agents;
        let record = agents.get(&(name("acme"), name(agent)));
        record.cloned().expect("an agent")
    }

    /// An agent of `acme` as people see it.
    ///
    /// # Panics
    /// If there is none.
    pub fn agent(&mut self, agent: &str) -> AgentView {
        match self.ask(Ask::Agents) {
            Ok(Answer::Agents(views)) => {
                let mut views = views.into_iter();
                let of = |view: &AgentView| view.agent.as_str() == agent;
                views.find(of).expect("an agent")
            }
            other => panic!("{other:?}"),
        }
    }

    /// What endangers a tenant's work.
    ///
    /// # Panics
    /// If there is no answer.
    pub fn recovery_of(&mut self, tenant: &str) -> RecoveryView {
        match self.ask_of(tenant, Ask::Recovery) {
            Ok(Answer::Recovery(view)) => view,
            other => panic!("{other:?}"),
        }
    }

    /// The same of `acme`.
    pub fn recovery(&mut self) -> RecoveryView {
        self.recovery_of("acme")
    }

    /// Whether nothing silent is given up in a tenant because most agents are gone.
    pub fn is_frozen(&mut self, tenant: &str) -> bool {
        self.recovery_of(tenant).frozen_since.is_some()
    }

    /// Why what waits of a run waits.
    ///
    /// # Panics
    /// If there is no answer.
    pub fn explain(&mut self, run: RunId) -> Vec<Explanation> {
        match self.ask(Ask::Explain { run }) {
            Ok(Answer::Explained(why)) => why,
            other => panic!("{other:?}"),
        }
    }
}
