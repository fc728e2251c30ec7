//! Why a queued task is not placed: the first limit that stops it, or what keeps agents from taking it.

use outpost_driver::Micros;
use outpost_proto::ids::TaskIndex;
use outpost_proto::name::{EntryName, TaskName, WorkflowName};
use outpost_proto::outcome::{Outcome, Refusal};

use super::{Why, count, span, why};
use crate::agent::{Agent, Obstacle};
use crate::line::{Gate, Limit, Source, Target};
use crate::needs::Needs;
use crate::run::Run;
use crate::shown::Shown;
use crate::spec::{Affinity, TaskSpec};
use crate::tenant::{Ctx, Tenant};

/// Why what one task asks for holds up another.
const TOGETHER: &str = "with affinity `run` all tasks of a run go to one agent";

impl Tenant {
    pub(super) fn queued(&self, ctx: &Ctx<'_>, run: &Run, task: TaskIndex, since: Micros) -> Why {
        let (Some(spec), Some(needs)) = (run.workflow.task(task), run.workflow.needs(task)) else {
            return why("slots_full", "It is not known to its workflow.".to_owned());
        };
        let waited = span(ctx.now.since(since));
        if self.is_recovering(ctx) {
            return why("recovering", self.recovering());
        }
        let line = run.task(task).and_then(|task| task.line);
        if let Some(gate) = line
            .and_then(|line| self.places.lines.kind(line))
            .and_then(|kind| self.limit_reached(kind))
        {
            return self.limited(run, &gate, &waited);
        }
        let agent = run.record.agent.as_ref();
        match agent.and_then(|name| self.agents.get(name)) {
            Some(agent) => self.queued_for(ctx, run, task, agent, &spec.entry, &waited),
            None => self.unplaced(ctx, run, task, needs, &waited),
        }
    }

    /// Nothing is sent to anybody yet.
    pub(super) fn recovering(&self) -> String {
        let agents: Vec<&str> = self
            .awaited
            .iter()
            .take(5)
            .map(|name| name.as_str())
            .collect();
        format!(
            "The orchestrator's database was restored, and {} not told yet what the backup lacks ({}{}). New work \
             waits for that, so that nothing runs twice; `outpost recovery continue` goes on without.",
            if self.awaited.len() == 1 {
                "1 agent has".to_owned()
            } else {
                format!("{} agents have", self.awaited.len())
            },
            agents.join(", "),
            if self.awaited.len() > 5 { ", …" } else { "" },
        )
    }

    /// A limit of its workflow is reached.
    fn limited(&self, run: &Run, gate: &Gate, waited: &str) -> Why {
        let workflow = &gate.workflow;
        let (most, now) = (self.most(gate).unwrap_or(0), self.places.counts.of(gate));
        let change = "or when a version of the workflow that allows more is applied";
        match &gate.limit {
            Limit::Runs => {
                let ahead = self.runs_ahead(run, workflow);
                let reason = format!(
                    "Workflow `{workflow}` may have {} active at once (max_active_runs) and has {now}, with {} ahead of \
                     this one, which has waited for {waited}. It begins when an active run is over, {change}.",
                    count(most as usize, "run"),
                    count(ahead, "waiting run"),
                );
                why("max_active_runs", reason)
            }
            Limit::Tasks => {
                let reason = format!(
                    "Workflow `{workflow}` may have {} active at once over all its runs (max_active_tasks) and has \
                     {now}; it has waited for {waited}. It is placed when one of them is over, {change}.",
                    count(most as usize, "task"),
                );
                why("max_active_tasks", reason)
            }
            Limit::Task(task) => {
                let reason = format!(
                    "Task `{task}` may have {} active at once over all runs of workflow `{workflow}` (its max_active) \
                     and has {now}; it has waited for {waited}. It is placed when one of them is over, {change}.",
                    count(most as usize, "attempt"),
                );
                why("task_max_active", reason)
            }
        }
    }

    /// Runs of this workflow that have not begun and come before this one.
    fn runs_ahead(&self, run: &Run, workflow: &WorkflowName) -> usize {
        let place = |run: &Run| (run.record.created_at, run.record.run);
        let ahead = self.runs.values().filter(|other| {
            other.record.workflow == *workflow
                && !other.begun
                && !other.is_over()
                && place(other) < place(run)
        });
        ahead.count()
    }

    /// Its run has its agent.
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
            let (code, mut reason) = obstructed(ctx, agent, obstacle);
            reason.push_str(&as_shown(run, task, agent, obstacle));
            return self.stays(
                ctx,
                run,
                task,
                agent,
                why(code, format!("{bound}, but {reason}")),
            );
        }
        if !self.places.pools.offers(name, entry) {
            let reason = format!(
                "{bound}, but its catalogue no longer announces the entry `{entry}`. It runs once the site announces it again."
            );
            return why("no_agent_with_entry", reason);
        }
        let ahead = self
            .places
            .lines
            .ahead(&Target::Agent(name.clone()), run.key(task));
        let reason = format!(
            "{bound}, which holds {} of at most {} attempts{}; {} ahead of it, and it has waited for {waited}.",
            agent.held.len(),
            agent.capacity(ctx.settings),
            limited_slots(agent),
            count(ahead, "task"),
        );
        why("slots_full", reason)
    }

    /// If only affinity keeps it from another agent, that is the reason.
    fn stays(&self, ctx: &Ctx<'_>, run: &Run, task: TaskIndex, agent: &Agent, other: Why) -> Why {
        let Some(needs) = run.workflow.needs(task) else {
            return other;
        };
        let free = self.agents.values().find(|free| {
            free.record.agent != agent.record.agent
                && self.places.pools.suits(free, needs)
                && free.obstacle(ctx.now).is_none()
                && free.room(ctx.settings) > 0
        });
        match free {
            Some(free) => why(
                "affinity",
                format!(
                    "{} Agent `{}` has room, but with affinity `run` the tasks of a run stay together.",
                    other.reason, free.record.agent
                ),
            ),
            None => other,
        }
    }

    /// No agent was chosen yet: the agent that comes nearest says why.
    fn unplaced(
        &self,
        ctx: &Ctx<'_>,
        run: &Run,
        task: TaskIndex,
        needs: &Needs,
        waited: &str,
    ) -> Why {
        let agents = self.agents.values();
        let agents: Vec<&Agent> = agents.filter(|agent| !agent.record.removed).collect();
        if agents.is_empty() {
            let reason = "This tenant has no agent. Invite one and enrol it at a site.".to_owned();
            return why("no_agent", reason);
        }
        let together = run.workflow.record.spec.affinity == Affinity::Run;
        let serving = only(&agents, |agent| needs.served_by(agent));
        if serving.is_empty() {
            return no_agent_serves(run, task, needs, &agents, together);
        }
        let labelled = only(&serving, |agent| needs.labelled(agent));
        if labelled.is_empty() {
            return no_agent_labelled(run, task, needs, &serving);
        }
        let announces = |agent: &Agent| self.places.pools.offers_all(&agent.record.agent, needs);
        let offering = only(&labelled, announces);
        if offering.is_empty() {
            return self.no_agent_announces(run, task, needs, &labelled);
        }
        let full = offering
            .iter()
            .filter(|agent| agent.obstacle(ctx.now).is_none())
            .count();
        if full > 0 {
            let ahead = self.ahead(run, task);
            let reason = format!(
                "Every agent that could take it and takes work is full ({full} of them); {} ahead of it, and it has \
                 waited for {waited}.",
                count(ahead, "task")
            );
            return why("slots_full", reason);
        }
        hindered(ctx, run, task, &offering, waited)
    }

    fn ahead(&self, run: &Run, task: TaskIndex) -> usize {
        let line = run.task(task).and_then(|task| task.line);
        let kind = line.and_then(|line| self.places.lines.kind(line));
        let pool = kind.and_then(|kind| match &kind.source {
            Source::Class(class) => self.places.pools.pool(*class),
            Source::Bound(_) => None,
        });
        pool.map_or(0, |pool| {
            self.places.lines.ahead(&Target::Pool(pool), run.key(task))
        })
    }

    fn no_agent_announces(
        &self,
        run: &Run,
        task: TaskIndex,
        needs: &Needs,
        asked: &[&Agent],
    ) -> Why {
        let nobody = |entry: &&EntryName| {
            !asked
                .iter()
                .any(|agent| self.places.pools.offers(&agent.record.agent, entry))
        };
        let asked_of = count(asked.len(), "agent");
        let reason = match needs.entries.iter().find(nobody) {
            Some(entry) => {
                let other = asked_by_another(run, task, |needs| needs.entries.contains(entry));
                let of = other.map_or_else(String::new, |other| {
                    format!(" of task `{other}`, and {TOGETHER}")
                });
                format!(
                    "No agent{} announces the catalogue entry `{entry}`{of} ({asked_of} asked). It runs once a site adds \
                     it.",
                    narrowed(needs)
                )
            }
            None => format!(
                "Every entry of this workflow is announced somewhere, but no agent announces all of them ({asked_of} \
                 asked), and with affinity `run` a run stays on one agent."
            ),
        };
        why("no_agent_with_entry", reason)
    }
}

fn only<'a>(agents: &[&'a Agent], test: impl Fn(&Agent) -> bool) -> Vec<&'a Agent> {
    agents.iter().filter(|agent| test(agent)).copied().collect()
}

/// The task of this run that asks for what this one does not: with affinity `run` it holds up this one too.
fn asked_by_another(
    run: &Run,
    task: TaskIndex,
    asks: impl Fn(&Needs) -> bool,
) -> Option<&TaskName> {
    let spec = &run.workflow.record.spec;
    let asks = |task: &TaskSpec| asks(&Needs::of_task(spec, task));
    if run.workflow.task(task).is_none_or(asks) {
        return None;
    }
    let other = spec.tasks.iter().find(|task| asks(task));
    other.map(|task| &task.name)
}

fn no_agent_serves(
    run: &Run,
    task: TaskIndex,
    needs: &Needs,
    agents: &[&Agent],
    together: bool,
) -> Why {
    let asked = count(agents.len(), "agent");
    let nobody = needs.queues.iter().find(|queue| {
        !agents
            .iter()
            .any(|agent| agent.record.queues.contains(*queue))
    });
    let reason = match nobody {
        Some(queue) => {
            let other = asked_by_another(run, task, |needs| needs.queues.contains(queue));
            let of = other.map_or_else(String::new, |other| {
                format!(" that task `{other}` waits in, and {TOGETHER}")
            });
            format!(
                "No agent of this tenant serves the queue `{queue}`{of} ({asked} asked). It runs once an agent does: \
                 `outpost agents queues` sets which."
            )
        }
        None => {
            let all: Vec<String> = needs
                .queues
                .iter()
                .map(|queue| format!("`{queue}`"))
                .collect();
            let why = if together {
                ", and with affinity `run` a run stays on one agent"
            } else {
                ""
            };
            format!(
                "No agent of this tenant serves all of the queues {} ({asked} asked){why}.",
                all.join(", ")
            )
        }
    };
    why("no_agent_serves_queue", reason)
}

fn no_agent_labelled(run: &Run, task: TaskIndex, needs: &Needs, asked: &[&Agent]) -> Why {
    let labels = needs.labels.iter();
    let labels: Vec<String> = labels
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    let nobody = |needs: &Needs| !asked.iter().any(|agent| needs.labelled(agent));
    let other = asked_by_another(run, task, nobody);
    let of = other.map_or_else(String::new, |other| {
        format!(" that task `{other}` asks for, and {TOGETHER}")
    });
    let reason = format!(
        "No agent that serves its queue has the labels {}{of} ({} asked). It runs once an agent has them: `outpost agents \
         label` sets them.",
        labels.join(", "),
        count(asked.len(), "agent")
    );
    why("no_agent_with_labels", reason)
}

/// What the agents that were asked have in common, if that is less than all.
fn narrowed(needs: &Needs) -> &'static str {
    if needs.labels.is_empty() {
        " of this tenant"
    } else {
        " with its labels"
    }
}

/// Agents could run it and take no work: the one that comes nearest says why.
fn hindered(ctx: &Ctx<'_>, run: &Run, task: TaskIndex, offering: &[&Agent], waited: &str) -> Why {
    let nearest = offering
        .iter()
        .filter_map(|agent| Some((agent.obstacle(ctx.now)?, agent)))
        .max_by_key(|(obstacle, _)| *obstacle);
    let Some((obstacle, agent)) = nearest else {
        return why("slots_full", format!("It has waited for {waited}."));
    };
    let (code, mut reason) = obstructed(ctx, agent, obstacle);
    reason.push_str(&as_shown(run, task, agent, obstacle));
    let others = offering.len() - 1;
    let more = match others {
        0 => String::new(),
        1 => " 1 other agent takes no work either.".to_owned(),
        2.. => format!(" {others} other agents take no work either."),
    };
    let name = &agent.record.agent;
    why(
        code,
        format!("Agent `{name}` could run it, but {reason}{more}"),
    )
}

fn limited_slots(agent: &Agent) -> String {
    let offered = agent.live.hello.as_ref().map_or(0, |hello| hello.slots);
    match agent.record.slots_limit.filter(|limit| *limit < offered) {
        Some(limit) => format!(" (limited here to {limit} of its {offered} slots)"),
        None => String::new(),
    }
}

/// What became of showing the task to this agent, if that is what can be done with it.
fn as_shown(run: &Run, task: TaskIndex, agent: &Agent, obstacle: Obstacle) -> String {
    let shown = run.task(task).map(|task| task.record.shown.as_slice());
    let catalogue = agent.record.catalogue.as_ref();
    let (Obstacle::Observe, Some(shown), Some(catalogue)) = (obstacle, shown, catalogue) else {
        return String::new();
    };
    let is_it =
        |one: &&Shown| one.agent == agent.record.agent && one.catalogue == catalogue.version;
    match shown.iter().find(is_it).map(|one| one.answer) {
        None => String::new(),
        Some(None) => " It was shown this task.".to_owned(),
        Some(Some(Refusal::Observe)) => {
            " It was shown this task, and would have taken it.".to_owned()
        }
        Some(Some(refusal)) => format!(
            " It was shown this task, and would have sent it back as {}.",
            Outcome::Refused(refusal)
        ),
    }
}

/// Code and half a sentence: what keeps this agent from taking work, and what would change it.
pub(super) fn obstructed(
    ctx: &Ctx<'_>,
    agent: &Agent,
    obstacle: Obstacle,
) -> (&'static str, String) {
    let silent = span(ctx.now.since(agent.heard));
    let name = &agent.record.agent;
    match obstacle {
        Obstacle::Removed => ("agent_removed", "it was removed.".into()),
        Obstacle::Quarantined => (
            "agent_quarantined",
            format!("its identity has two holders: a machine or its state was copied. `outpost agents resolve {name}` decides which one stays."),
        ),
        Obstacle::Never => ("agent_never_connected", "it has never connected since it enrolled. Start it at its site.".into()),
        Obstacle::Gone => ("agent_gone", format!("it is not connected; it counts as last heard {silent} ago.")),
        Obstacle::Stale => ("agent_stale", format!("it has not been heard for {silent}. It gets work again once it is back.")),
        Obstacle::Reconciling => ("agent_reconciling", "it is telling what it holds. It gets work after that.".into()),
        Obstacle::NoLease => ("no_lease", "it holds no lease. It gets work after its next heartbeat.".into()),
        Obstacle::Hold => {
            ("hold", "it holds back all work, because it saw a newer state of this orchestrator's database than there is now.".into())
        }
        Obstacle::Paused => ("paused", "its site has paused it. Only the site can resume it.".into()),
        Obstacle::Drained => (
            "agent_draining",
            format!("it is drained from here: it finishes what runs and takes nothing new. `outpost agents uncordon {name}` ends that."),
        ),
        Obstacle::Cordoned => (
            "agent_cordoned",
            format!("it is cordoned: it takes nothing new. `outpost agents uncordon {name}` ends that."),
        ),
        Obstacle::Draining => ("agent_draining", "its site drains it: it finishes what runs and takes nothing new.".into()),
        Obstacle::Observe => ("observe", "it only observes and runs nothing.".into()),
        Obstacle::NoCatalogue => ("no_catalogue", "it has not announced a catalogue.".into()),
    }
}
