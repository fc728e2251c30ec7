//! Why a task does what it does, in sentences with names and numbers and what would change it.
//!
//! Reads the state that placement reads and changes nothing.

use outpost_driver::Micros;
use outpost_proto::ids::{AttemptId, RunId, TaskIndex};
use outpost_proto::name::{AgentName, EntryName};

use crate::agent::{Agent, Obstacle};
use crate::event::{Answer, Denied, Explanation};
use crate::record::{AttemptRecord, Phase, TaskState};
use crate::run::{Run, Task};
use crate::tenant::{Ctx, Tenant};

struct Why {
    code: &'static str,
    reason: String,
    attempt: Option<AttemptId>,
}

fn why(code: &'static str, reason: String) -> Why {
    Why {
        code,
        reason,
        attempt: None,
    }
}

impl Tenant {
    pub(crate) fn explain(&self, ctx: &Ctx<'_>, id: RunId) -> Result<Answer, Denied> {
        let Some(run) = self.runs.get(&id) else {
            return Err(Denied::UnknownRun(id));
        };
        let explained = run.tasks.iter().filter_map(|task| {
            let spec = run.workflow.task(task.record.task)?;
            let (state, why) = self.why(ctx, run, task, &spec.entry);
            Some(Explanation {
                task: spec.name.clone(),
                state: state.to_owned(),
                code: why.code.to_owned(),
                reason: why.reason,
                attempt: why.attempt,
            })
        });
        Ok(Answer::Explained(explained.collect()))
    }

    fn why(&self, ctx: &Ctx<'_>, run: &Run, task: &Task, entry: &EntryName) -> (&'static str, Why) {
        match task.record.state {
            TaskState::Waiting => ("waiting", needs(run, task)),
            TaskState::Queued { since } => (
                "queued",
                self.queued(ctx, run, task.record.task, since, entry),
            ),
            TaskState::Backoff { until, last } => {
                let tries = run
                    .workflow
                    .task(task.record.task)
                    .map_or(0, |spec| spec.retry.retries);
                let reason = format!(
                    "The last attempt ended as {last}; the next one may be made in {} ({} of {} attempts that count are used up).",
                    span(Micros(until).since(ctx.now)),
                    task.record.spent,
                    u32::from(tries) + 1,
                );
                ("backoff", why("backoff", reason))
            }
            TaskState::Active { attempt } => ("active", self.active(ctx, attempt)),
            TaskState::Succeeded => ("succeeded", why("succeeded", "It succeeded.".to_owned())),
            TaskState::Failed { outcome } => {
                let reason = format!(
                    "Attempt {} ended as {outcome}, and no further one is made.",
                    task.record.attempts
                );
                ("failed", why("failed", reason))
            }
            TaskState::UpstreamFailed => {
                let reason = "Something it needs did not succeed, so it never runs.".to_owned();
                ("upstream_failed", why("upstream_failed", reason))
            }
            TaskState::Cancelled => (
                "cancelled",
                why("cancelled", "It was cancelled.".to_owned()),
            ),
        }
    }

    fn queued(
        &self,
        ctx: &Ctx<'_>,
        run: &Run,
        task: TaskIndex,
        since: u64,
        entry: &EntryName,
    ) -> Why {
        let waited = span(ctx.now.since(Micros(since)));
        match run
            .record
            .agent
            .as_ref()
            .and_then(|name| self.agents.get(name))
        {
            Some(agent) => self.queued_for(ctx, run, task, agent, entry, &waited),
            None => self.unplaced(ctx, run, &waited),
        }
    }

    fn queued_for(
        &self,
        ctx: &Ctx<'_>,
        run: &Run,
        task: TaskIndex,
        agent: &Agent,
        entry: &EntryName,
        waited: &str,
    ) -> Why {
        let name = &agent.record.agent;
        let bound = format!("This run's tasks go to agent `{name}`");
        if let Some(obstacle) = agent.obstacle(ctx.now) {
            let (code, reason) = obstructed(ctx, agent, obstacle);
            return why(code, format!("{bound}, but {reason}"));
        }
        if !self.places.offers(name, entry) {
            let reason = format!(
                "{bound}, but its catalogue no longer announces the entry `{entry}`. It runs once the site announces it again."
            );
            return why("no_agent_with_entry", reason);
        }
        let ahead = self.places.ahead(name, run.key(task));
        let reason = format!(
            "{bound}, which holds {} of at most {} attempts; {} ahead of it, and it has waited for {waited}.",
            agent.held.len(),
            agent.capacity(ctx.settings),
            count(ahead, "task"),
        );
        why("slots_full", reason)
    }

    /// No agent was chosen yet: the agent that comes nearest says why.
    fn unplaced(&self, ctx: &Ctx<'_>, run: &Run, waited: &str) -> Why {
        let agents: Vec<&Agent> = self
            .agents
            .values()
            .filter(|agent| !agent.record.removed)
            .collect();
        if agents.is_empty() {
            let reason = "This tenant has no agent. Invite one and enrol it at a site.".to_owned();
            return why("no_agent", reason);
        }
        let offering: Vec<&Agent> = agents
            .iter()
            .filter(|agent| self.places.offers_all(&agent.record.agent, &run.workflow))
            .copied()
            .collect();
        if offering.is_empty() {
            return self.no_agent_with_entry(run, agents.len());
        }
        let nearest = offering
            .iter()
            .map(|agent| (agent.obstacle(ctx.now), agent))
            .max_by_key(|(obstacle, _)| *obstacle);
        let full = offering
            .iter()
            .filter(|agent| agent.obstacle(ctx.now).is_none())
            .count();
        if full > 0 {
            let reason = format!(
                "Every agent that announces this workflow's entries and takes work is full ({full} of them); it has waited for {waited}."
            );
            return why("slots_full", reason);
        }
        let Some((Some(obstacle), agent)) = nearest else {
            return why("slots_full", format!("It has waited for {waited}."));
        };
        let (code, reason) = obstructed(ctx, agent, obstacle);
        let others = offering.len() - 1;
        let more = if others == 0 {
            String::new()
        } else {
            format!(" {} take no work either.", count(others, "other agent"))
        };
        why(
            code,
            format!(
                "Agent `{}` could run it, but {reason}{more}",
                agent.record.agent
            ),
        )
    }

    fn no_agent_with_entry(&self, run: &Run, agents: usize) -> Why {
        let missing = run
            .workflow
            .entries
            .iter()
            .find(|entry| self.places.offering(entry).next().is_none());
        let reason = match missing {
            Some(entry) => format!(
                "No agent of this tenant announces the catalogue entry `{entry}` ({} asked). It runs once a site adds it.",
                count(agents, "agent")
            ),
            None => format!(
                "Every entry of this workflow is announced somewhere, but no agent announces all of them ({} asked), \
                 and a run stays on one agent.",
                count(agents, "agent")
            ),
        };
        why("no_agent_with_entry", reason)
    }

    fn active(&self, ctx: &Ctx<'_>, id: AttemptId) -> Why {
        let Some(attempt) = self.attempts.get(&id) else {
            return why("running", "Its attempt has just ended.".to_owned());
        };
        let heard = self.last_heard(ctx, &attempt.agent);
        let (code, reason) = match attempt.phase {
            Phase::Lost { .. } => ("unknown_end", self.unknown_end(attempt)),
            Phase::Assigned
            | Phase::Accepted
            | Phase::Starting
            | Phase::Running
            | Phase::Finished { .. }
                if attempt.cancel_requested =>
            {
                ("cancel_requested", self.cancelling(attempt, &heard))
            }
            Phase::Assigned => (
                "assigned",
                format!(
                    "It was sent to agent `{}`, which has not confirmed it; {heard}.",
                    attempt.agent
                ),
            ),
            Phase::Accepted => (
                "queued_at_agent",
                format!(
                    "Agent `{}` holds it and starts it when a slot is free; {heard}.",
                    attempt.agent
                ),
            ),
            Phase::Starting => (
                "starting",
                format!("Agent `{}` is starting it; {heard}.", attempt.agent),
            ),
            Phase::Running | Phase::Finished { .. } => {
                let since = attempt.started_at.map_or(0, |at| ctx.now.since(Micros(at)));
                (
                    "running",
                    format!(
                        "It has run on agent `{}` for {}; {heard}.",
                        attempt.agent,
                        span(since)
                    ),
                )
            }
        };
        Why {
            code,
            reason,
            attempt: Some(id),
        }
    }

    fn unknown_end(&self, attempt: &AttemptRecord) -> String {
        let removed = self
            .agents
            .get(&attempt.agent)
            .is_none_or(|agent| agent.record.removed);
        let waits = if removed {
            "that agent was removed, so only a person can go on: cancel this run and trigger another"
        } else {
            "it waits for that agent's word, or for a person to cancel this run and trigger another"
        };
        format!(
            "Nobody can say how its attempt on agent `{}` ended. It may have started and its entry is not retry_safe, \
             so no second attempt is made: {waits}.",
            attempt.agent
        )
    }

    fn cancelling(&self, attempt: &AttemptRecord, heard: &str) -> String {
        let connected = self
            .agents
            .get(&attempt.agent)
            .is_some_and(|agent| agent.ready().is_some());
        let delivery = if connected {
            "was told to end it"
        } else {
            "is told to end it once it is back"
        };
        format!(
            "Its cancel is not confirmed: agent `{}` {delivery}; {heard}.",
            attempt.agent
        )
    }

    fn last_heard(&self, ctx: &Ctx<'_>, name: &AgentName) -> String {
        let last = self
            .agents
            .get(name)
            .and_then(|agent| agent.live.last_heard);
        match last {
            Some(at) => format!("it was last heard {} ago", span(ctx.now.since(at))),
            None => "it has not been heard since the orchestrator started".to_owned(),
        }
    }
}

fn needs(run: &Run, task: &Task) -> Why {
    let needs = run
        .workflow
        .task(task.record.task)
        .map_or(&[][..], |spec| &spec.needs);
    let open = needs.iter().filter(|need| {
        run.task(**need)
            .is_some_and(|need| need.record.state != TaskState::Succeeded)
    });
    let names: Vec<String> = open
        .filter_map(|need| run.workflow.task(*need))
        .map(|spec| format!("`{}`", spec.name))
        .collect();
    why(
        "needs",
        format!("It needs {} to succeed first.", names.join(", ")),
    )
}

/// Code and half a sentence: what keeps this agent from taking work, and what would change it.
fn obstructed(ctx: &Ctx<'_>, agent: &Agent, obstacle: Obstacle) -> (&'static str, String) {
    let silent = span(ctx.now.since(agent.heard));
    match obstacle {
        Obstacle::Removed => ("agent_removed", "it was removed.".into()),
        Obstacle::Never => ("agent_never_connected", "it has never connected since it enrolled. Start it at its site.".into()),
        Obstacle::Gone => ("agent_gone", format!("it is not connected; it counts as last heard {silent} ago.")),
        Obstacle::Stale => ("agent_stale", format!("it has not been heard for {silent}. It gets work again once it is back.")),
        Obstacle::Reconciling => ("agent_reconciling", "it is telling what it holds. It gets work after that.".into()),
        Obstacle::NoLease => ("no_lease", "it holds no lease. It gets work after its next heartbeat.".into()),
        Obstacle::Hold => {
            ("hold", "it holds back all work, because it saw a newer state of this orchestrator's database than there is now.".into())
        }
        Obstacle::Paused => ("paused", "its site has paused it. Only the site can resume it.".into()),
        Obstacle::Draining => ("draining", "it is draining: it finishes what runs and takes nothing new.".into()),
        Obstacle::Observe => ("observe", "it only observes and runs nothing.".into()),
        Obstacle::Cordoned => ("cordoned", "it is cordoned. It gets work again once somebody uncordons it.".into()),
        Obstacle::NoCatalogue => ("no_catalogue", "it has not announced a catalogue.".into()),
    }
}

/// `1 agent`, `2 agents`.
fn count(number: usize, noun: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {noun}{plural}")
}

/// A span of time for people, rounded down: `850 ms`, `42 s`, `7 min`, `3 h`.
fn span(micros: u64) -> String {
    match micros {
        0..1_000_000 => format!("{} ms", micros / 1_000),
        1_000_000..120_000_000 => format!("{} s", micros / 1_000_000),
        120_000_000..7_200_000_000 => format!("{} min", micros / 60_000_000),
        7_200_000_000.. => format!("{} h", micros / 3_600_000_000),
    }
}
