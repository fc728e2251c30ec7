//! Why a task does what it does, in sentences with names and numbers and what would change it.
//!
//! Reads the state that placement reads and changes nothing.

use outpost_driver::Micros;
use outpost_proto::ids::{AttemptId, RunId};
use outpost_proto::name::AgentName;
use outpost_proto::outcome::{Outcome, Refusal};

use self::queued::obstructed;
use crate::agent::{Agent, Obstacle};
use crate::event::{Answer, Denied, Explanation};
use crate::record::{AttemptRecord, Phase, TaskState};
use crate::run::{Run, Task};
use crate::tenant::{Ctx, Tenant};

mod queued;

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
            let (state, why) = self.why(ctx, run, task);
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

    fn why(&self, ctx: &Ctx<'_>, run: &Run, task: &Task) -> (&'static str, Why) {
        match task.record.state {
            TaskState::Waiting => ("waiting", needs(run, task)),
            TaskState::Queued { since } => (
                "queued",
                self.queued(ctx, run, task.record.task, Micros(since)),
            ),
            TaskState::Backoff { until, last } => {
                ("backoff", pausing(ctx, run, task, Micros(until), last))
            }
            TaskState::Active { attempt } => (self.phase_of(attempt), self.active(ctx, attempt)),
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

    /// What an attempt does, in the word that people are told everywhere.
    fn phase_of(&self, id: AttemptId) -> &'static str {
        match self.attempts.get(&id).map(|attempt| attempt.phase) {
            Some(Phase::Assigned | Phase::Accepted) => "assigned",
            Some(Phase::Starting) => "starting",
            Some(Phase::Lost { .. }) => "lost",
            // Its end is about to become the task's.
            Some(Phase::Running | Phase::Finished { .. }) | None => "running",
        }
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
            Phase::Assigned | Phase::Accepted if self.is_confirmed(attempt) => {
                self.held(ctx, attempt, &heard)
            }
            Phase::Assigned | Phase::Accepted => {
                ("assigned", self.not_confirmed(ctx, attempt, &heard))
            }
            Phase::Starting | Phase::Running | Phase::Finished { .. } => {
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

    /// Why what its agent holds does not begin.
    fn held(&self, ctx: &Ctx<'_>, attempt: &AttemptRecord, heard: &str) -> (&'static str, String) {
        let name = &attempt.agent;
        let nothing = self.agents.get(name).and_then(|agent| {
            let obstacle = starts_nothing(agent)?;
            Some(obstructed(ctx, agent, obstacle))
        });
        match nothing {
            Some((code, because)) => {
                let because = because.trim_end_matches('.');
                let reason =
                    format!("Agent `{name}` holds it and starts nothing: {because}; {heard}.");
                (code, reason)
            }
            None => (
                "queued_at_agent",
                format!(
                    "Agent `{name}` holds it and starts it when a slot is free and the site's own limits let it; {heard}."
                ),
            ),
        }
    }

    /// Whether the agent said on its present connection that it holds it.
    fn is_confirmed(&self, attempt: &AttemptRecord) -> bool {
        let agent = self.agents.get(&attempt.agent);
        agent.is_some_and(|agent| {
            !agent.live.unsent.contains(&attempt.attempt)
                && agent
                    .ready()
                    .is_some_and(|session| session.is_confirmed(attempt.attempt))
        })
    }

    /// Its agent has not said that it holds it, or is known not to have it.
    fn not_confirmed(&self, ctx: &Ctx<'_>, attempt: &AttemptRecord, heard: &str) -> String {
        let name = &attempt.agent;
        let lacks = |agent: &&Agent| agent.live.unsent.contains(&attempt.attempt);
        let agent = self.agents.get(name);
        if agent.is_some_and(|agent| agent.ready().is_none()) {
            return format!("It was sent to agent `{name}`, which is not connected; {heard}.");
        }
        let Some(agent) = agent.filter(lacks) else {
            return format!("It was sent to agent `{name}`, which has not confirmed it; {heard}.");
        };
        let again = format!("It is to be sent again to agent `{name}`, which does not have it");
        if self.is_recovering(ctx) {
            return format!("{again}. {}", self.recovering());
        }
        match agent.obstacle(ctx.now) {
            Some(obstacle) => format!("{again}, but {}", obstructed(ctx, agent, obstacle).1),
            None => format!("{again}; {heard}."),
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

/// What keeps an agent from beginning what it holds, whether or not there is room.
fn starts_nothing(agent: &Agent) -> Option<Obstacle> {
    if agent.record.standing.quarantine.is_some() {
        return Some(Obstacle::Quarantined);
    }
    let flags = agent.live.heartbeat?.flags;
    let paused = flags.paused.then_some(Obstacle::Paused);
    paused.or(flags.hold.then_some(Obstacle::Hold))
}

/// Why it waits between two attempts.
fn pausing(ctx: &Ctx<'_>, run: &Run, task: &Task, until: Micros, last: Outcome) -> Why {
    let left = span(until.since(ctx.now));
    if let Outcome::Refused(refusal) = last
        && let Some((code, what)) = takes_nothing(refusal)
    {
        let agent = match &run.record.agent {
            Some(agent) => format!("Agent `{agent}`"),
            None => "Its agent".to_owned(),
        };
        let reason = format!(
            "{agent} sent it back unstarted: {what} It is placed again in {left}, without using up a try."
        );
        return why(code, reason);
    }
    let spec = run.workflow.task(task.record.task);
    let tries = spec.map_or(0, |spec| spec.retry.retries);
    let reason = format!(
        "The last attempt ended as {last}; the next one may be made in {left} ({} of {} attempts that count are used up).",
        task.record.spent,
        u32::from(tries) + 1,
    );
    why("backoff", reason)
}

/// Code and sentence of a refusal that says that an agent takes no work at all, or not now: it is told before the
/// agent's next heartbeat tells the same.
fn takes_nothing(refusal: Refusal) -> Option<(&'static str, &'static str)> {
    match refusal {
        Refusal::Paused => Some((
            "paused",
            "its site has paused it. Only the site can resume it.",
        )),
        Refusal::Draining => Some((
            "agent_draining",
            "its site drains it: it finishes what runs and takes nothing new.",
        )),
        Refusal::Observe => Some(("observe", "it only observes and runs nothing.")),
        Refusal::Hold => Some((
            "hold",
            "it holds back all work, because it saw a newer state of this orchestrator's database than there is now.",
        )),
        Refusal::TimeWindow => Some(("time_window", "its site lets it start at other times.")),
        Refusal::Rate => Some((
            "rate",
            "its site lets no more of these start within an hour.",
        )),
        Refusal::UnknownEntry
        | Refusal::BadParameters
        | Refusal::NotApproved
        | Refusal::Unsupported
        | Refusal::CatalogueVersion
        | Refusal::NoLease
        | Refusal::Full
        | Refusal::Disk => None,
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
