//! What an agent that only observes is shown: tasks that wait, that it could take, and that nobody else took.
//!
//! Such an agent refuses everything, so nothing is placed on it; but its site wants to know what would run there. Each
//! task that waits is therefore sent to it as an assignment, once per version of its catalogue, of which nothing is expected
//! but a refusal. It is no attempt: it uses up no try, no slot and no limit, its run keeps its choice of agents, and the
//! task stays in its line, where whoever can run it gets it meanwhile.
//!
//! That is sound because an agent observes from its start to its end. Whoever said in a session that it does begins
//! nothing in that session, and an assignment is heard in no other. An answer other than a refusal ends the session.

use std::collections::BTreeSet;

use outpost_proto::ids::{AttemptId, CatalogueVersion, RunId, TaskIndex};
use outpost_proto::message::{Assign, AttemptState, DownMessage};
use outpost_proto::name::AgentName;
use outpost_proto::outcome::{Outcome, Refusal};
use serde::{Deserialize, Serialize};

use crate::agent::{Agent, Obstacle};
use crate::event::Alarm;
use crate::limits::{SHOWN_AT_ONCE, SHOWN_OF_A_TASK};
use crate::line::{Key, Source, Target};
use crate::place::{Sends, resolve};
use crate::record::Write;
use crate::tenant::{Ctx, Tenant};

/// An agent that observes was shown a task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shown {
    /// Which agent.
    pub agent: AgentName,
    /// Under this catalogue of it.
    pub catalogue: CatalogueVersion,
    /// What it said: `observe` where it would have taken it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer: Option<Refusal>,
}

/// What an agent was shown in its present session, and has not answered yet.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Open {
    run: RunId,
    task: TaskIndex,
    catalogue: CatalogueVersion,
}

impl Tenant {
    /// Looks again at whether an agent observes. One that begins to is shown what waits.
    pub(crate) fn observes(&mut self, name: &AgentName, obstacle: Option<Obstacle>) {
        if obstacle != Some(Obstacle::Observe) {
            self.places.observers.remove(name);
        } else if !self.places.observers.contains_key(name) {
            let waiting = self.waiting_for(name);
            self.places.observers.insert(name.clone(), waiting);
        }
    }

    /// What an agent that observes could take is another than before.
    pub(crate) fn shows_anew(&mut self, name: &AgentName) {
        if self.places.observers.contains_key(name) {
            let waiting = self.waiting_for(name);
            self.places.observers.insert(name.clone(), waiting);
        }
    }

    fn waiting_for(&self, name: &AgentName) -> BTreeSet<Key> {
        let pools = self.places.pools.of_agent(name).collect::<BTreeSet<_>>();
        let suits = |target: &Target| match target {
            Target::Agent(agent) => agent == name,
            Target::Pool(pool) => pools.contains(pool),
        };
        self.places.lines.waiting(suits).collect()
    }

    /// A task waits from now on for one of these.
    pub(crate) fn shows(&mut self, target: &Target, key: Key) {
        let places = &mut self.places;
        for (name, waiting) in &mut places.observers {
            let suits = match target {
                Target::Agent(agent) => agent == name,
                Target::Pool(pool) => places.pools.of_agent(name).any(|of| of == *pool),
            };
            if suits {
                waiting.insert(key);
            }
        }
    }

    /// Shows what nobody took in this turn.
    pub(crate) fn show(&mut self, ctx: &mut Ctx<'_>, sends: &mut Sends) {
        if self.places.observers.is_empty() {
            return;
        }
        let names: Vec<AgentName> = self.places.observers.keys().cloned().collect();
        for name in names {
            let agent = self.agents.get(&name);
            if agent.and_then(|agent| agent.obstacle(ctx.now)) != Some(Obstacle::Observe) {
                // A lease that ended is seen here first.
                self.places.observers.remove(&name);
                continue;
            }
            while self.takes_more(&name)
                && let Some(waiting) = self.places.observers.get_mut(&name)
                && let Some(key) = waiting.pop_first()
            {
                self.show_one(ctx, &name, key, sends);
            }
        }
    }

    fn takes_more(&self, name: &AgentName) -> bool {
        let agent = self.agents.get(name);
        agent.is_some_and(|agent| agent.live.shown.len() < SHOWN_AT_ONCE)
    }

    fn show_one(&mut self, ctx: &mut Ctx<'_>, name: &AgentName, key: Key, sends: &mut Sends) {
        let Some(catalogue) = self.may_show(name, key) else {
            return;
        };
        let Some(conn) = self.agents.get(name).and_then(Agent::ready) else {
            return;
        };
        let conn = conn.conn;
        let command_seq = self.number(ctx, name);
        let fence = self.record.next_fence;
        self.record.next_fence.0 += 1;
        let attempt = ctx.chance.attempt(ctx.now);
        let (id, task) = (key.run, key.task);
        let Some(run) = self.runs.get_mut(&id) else {
            return;
        };
        let Some(spec) = run.workflow.task(task) else {
            return;
        };
        let assign = Assign {
            attempt,
            run: id,
            task,
            fence,
            command_seq,
            entry: spec.entry.clone(),
            catalogue_version: catalogue,
            parameters: resolve(spec, &run.record.params),
            deadline_ms: spec.timeout_ms,
            task_name: spec.name.clone(),
            workflow_name: run.record.workflow.clone(),
        };
        if let Some(known) = run.tasks.get_mut(usize::from(task.0)) {
            known.record.shown.push(Shown {
                agent: name.clone(),
                catalogue,
                answer: None,
            });
            ctx.write(Write::Task(known.record.clone()));
        }
        if let Some(agent) = self.agents.get_mut(name) {
            let open = Open {
                run: id,
                task,
                catalogue,
            };
            agent.live.shown.insert(attempt, open);
        }
        let (_, messages) = sends.entry(name.clone()).or_insert((conn, Vec::new()));
        messages.push(DownMessage::Assign(assign));
    }

    /// Under which catalogue a task is shown to an agent: it still waits, for this agent too, and was not shown to it before.
    fn may_show(&self, name: &AgentName, key: Key) -> Option<CatalogueVersion> {
        let run = self.runs.get(&key.run)?;
        let known = run.task(key.task)?;
        let kind = self.places.lines.kind(known.line?)?;
        let is_for_it = match &kind.source {
            Source::Bound(agent) => agent == name,
            Source::Class(class) => {
                let pool = self.places.pools.pool(*class)?;
                self.places.pools.of_agent(name).any(|of| of == pool)
            }
        };
        let agent = self.agents.get(name)?;
        let catalogue = agent.record.catalogue.as_ref()?.version;
        agent.offer(&run.workflow.task(key.task)?.entry)?;
        let shown = &known.record.shown;
        let before = |shown: &Shown| shown.agent == *name && shown.catalogue == catalogue;
        let is_new = shown.len() < SHOWN_OF_A_TASK && !shown.iter().any(before);
        (is_for_it && is_new).then_some(catalogue)
    }

    /// What an agent says of an attempt that nobody knows: of what it was shown it can only be that it refuses it.
    pub(crate) fn answered(
        &mut self,
        ctx: &mut Ctx<'_>,
        name: &AgentName,
        attempt: AttemptId,
        state: AttemptState,
    ) -> Result<(), Alarm> {
        let agent = self.agents.get_mut(name);
        let Some(open) = agent.and_then(|agent| agent.live.shown.remove(&attempt)) else {
            return Ok(());
        };
        let Some(answer) = refused(state) else {
            return Err(Alarm::ImpossibleEvent);
        };
        let run = self.runs.get_mut(&open.run);
        let known = run.and_then(|run| run.tasks.get_mut(usize::from(open.task.0)));
        let Some(known) = known else { return Ok(()) };
        let shown = known.record.shown.iter_mut();
        for shown in shown.filter(|shown| shown.agent == *name && shown.catalogue == open.catalogue)
        {
            shown.answer = Some(answer);
        }
        ctx.write(Write::Task(known.record.clone()));
        Ok(())
    }
}

/// How an agent refused an attempt, if that is what became of it.
pub(crate) fn refused(state: AttemptState) -> Option<Refusal> {
    let AttemptState::Finished(report) = state else {
        return None;
    };
    match report.outcome {
        Outcome::Refused(refusal) => Some(refusal),
        Outcome::Succeeded
        | Outcome::Failed
        | Outcome::StartFailed(_)
        | Outcome::TimedOut
        | Outcome::Cancelled
        | Outcome::Killed(_)
        | Outcome::Interrupted(_) => None,
    }
}
