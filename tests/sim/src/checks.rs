//! Invariants of one turn: what a core believes durable against what is, the ledger against the network, what an agent
//! lets go of, and, once faults have stopped, that everything ends.

use std::collections::BTreeSet;
use std::rc::Rc;

use outpost_agent_core::record::Write;
use outpost_driver::{Core, Micros};
use outpost_orchestrator_core::event::{Answer, Ask, Explanation, Speech};
use outpost_orchestrator_core::record::{AttemptRecord, Phase, RunState, Snapshot, TaskState};
use outpost_proto::ids::{AttemptId, Conn, RunId};
use outpost_proto::limits::REMEMBERED;
use outpost_proto::outcome::Outcome;

use crate::disk::Change;
use crate::invariants::{Checked, broken, holds};
use crate::records::{is_rerun, outcome_of};
use crate::replicas::{Replica, scoped};
use crate::restore::kept_for_a_decision;
use crate::shop;
use crate::world::World;

impl World {
    /// After a turn of an agent.
    pub(crate) fn check_site(&mut self, index: usize, spoken: bool) -> Checked {
        let written = std::mem::take(&mut self.sites[index].disk.written);
        for write in &written {
            if let Write::Settled(memory) = write {
                let interrupted = matches!(memory.report.outcome, Outcome::Interrupted(_));
                self.invariant_an_outcome_is_kept_until_it_is_durable_upstream(
                    memory.attempt,
                    interrupted,
                )?;
            }
        }
        let site = &self.sites[index];
        let Some(process) = site.process.as_ref().filter(|_| spoken) else {
            return Ok(());
        };
        let at = site.clock.shows(self.now);
        if process
            .core
            .next_deadline()
            .is_some_and(|deadline| deadline.0 <= at)
            && site.disk.memories() <= REMEMBERED
        {
            return Err(broken(
                "no deadline is left behind",
                format!("s{index} at {at}"),
            ));
        }
        if process.core.durable() != site.disk.snapshot() {
            let what = format!(
                "s{index}: {:?} and {:?}",
                process.core.durable(),
                site.disk.snapshot()
            );
            return Err(broken("what the agent believes durable is durable", what));
        }
        self.invariant_what_is_acknowledged_is_let_go(index)
    }

    fn invariant_an_outcome_is_kept_until_it_is_durable_upstream(
        &self,
        attempt: AttemptId,
        interrupted: bool,
    ) -> Checked {
        let mirror = &self.center.disk.mirror;
        let known = mirror.attempts.get(&attempt);
        let cheated = self.plan.played || known.is_some_and(|known| self.is_with_a_cheat(known));
        let lost = self.was_durable_in_a_former_life(attempt);
        // Told by another incarnation, and believed once that is surely the only one.
        let in_doubt = known.is_some_and(|known| {
            let agent = (known.tenant.clone(), known.agent.clone());
            let agent = mirror.agents.get(&agent);
            let is_kept = |agent| kept_for_a_decision(agent).any(|kept| kept == attempt);
            agent.is_some_and(is_kept) || (interrupted && self.is_let_go(known))
        });
        if cheated || lost || in_doubt || known.and_then(outcome_of).is_some() {
            return Ok(());
        }
        let what = format!("{attempt} is {:?}", known.map(|known| known.phase));
        Err(broken(
            "an outcome is kept at the agent until it is durable upstream",
            what,
        ))
    }

    /// After a turn of the orchestrator.
    pub(crate) fn check_center(&mut self, number: u64, now: Micros, spoken: bool) -> Checked {
        self.invariant_commits_come_under_one_owner_after_another()?;
        let mut rerun: BTreeSet<RunId> = BTreeSet::new();
        let mut made = Vec::new();
        let changes = std::mem::take(&mut self.center.disk.changes);
        self.note_what_people_said(&asserted_in(&changes));
        self.note_decisions(now);
        for change in changes {
            match &change {
                Change::Run(before, after) => {
                    if is_rerun(before.as_ref(), after) {
                        rerun.insert(after.run);
                        self.truth.former.asked_again(after.run);
                    }
                    self.run_change(before.as_ref(), after)?;
                    self.invariant_no_run_begins_beyond_the_limit(before.as_ref(), after)?;
                }
                Change::Task(before, after) => {
                    if after.state == TaskState::Cancelled {
                        self.truth.former.cancelled(after.run, after.task);
                    }
                    let rerun = rerun.contains(&after.run);
                    self.task_change(before.as_ref(), after, rerun)?;
                    self.invariant_a_task_has_the_tries_that_it_was_given(before.as_ref(), after)?;
                }
                Change::Attempt(before, after) => {
                    if before.is_none() {
                        self.trace.count("attempt made");
                        made.push(AttemptRecord::clone(after));
                    }
                    if matches!(after.phase, Phase::Lost { .. }) {
                        self.trace.count("attempt given up");
                    }
                    self.attempt_change(before.as_ref(), after)?;
                    self.invariant_nothing_is_given_up_too_early(before.as_ref(), after)?;
                }
            }
        }
        // What is taken in after a restore runs already, whatever else does.
        made.retain(|attempt| !attempt.recovered);
        self.invariant_no_limit_is_exceeded(&made)?;
        let Some(process) = self.center.seat(number).filter(|_| spoken) else {
            return Ok(());
        };
        // Who stood still in a turn that wrote nothing, and was overtaken meanwhile, believes what was.
        if !self.center.is_owner(process) {
            return Ok(());
        }
        if process
            .core
            .next_deadline()
            .is_some_and(|deadline| deadline <= now)
        {
            return Err(broken("no deadline is left behind", "at the orchestrator"));
        }
        // A turn that wrote nothing should have changed nothing durable either: looked at now and then.
        self.turns += 1;
        if self.center.disk.wrote || self.turns.is_multiple_of(16) {
            let durable = self.center.disk.mirror.snapshot(now);
            let (believed, durable) = (process.core.durable(), scoped(durable, &process.scope));
            if believed != durable {
                let what = differences(&believed, &durable);
                return Err(broken(
                    "what the orchestrator believes durable is durable",
                    what,
                ));
            }
        }
        self.invariants_of_presence(number)
    }

    fn invariant_commits_come_under_one_owner_after_another(&self) -> Checked {
        for (scope, under) in &self.center.disk.wrote_under {
            let in_order = under.is_sorted_by(|one, next| one.fence < next.fence);
            let what = format!("{scope:?}: {under:?}");
            holds(
                in_order,
                "commits of one tenant come under one owner after another",
                what,
            )?;
        }
        Ok(())
    }

    /// The exact bytes of a frame that is about to be handed to the network, from the ledger. `recorded`: how many frames
    /// the ledger held when this one was spoken of.
    pub(crate) fn recorded(
        &self,
        index: usize,
        frame: usize,
        recorded: usize,
        conn: Conn,
        is: impl FnOnce(&[u8]) -> bool,
    ) -> Result<Rc<[u8]>, crate::invariants::Violation> {
        let sentence = "every frame sent has an earlier ledger record";
        let ledger = self.sites[index].disk.ledger.borrow();
        let Some((process, on, bytes)) = ledger.get(frame).filter(|_| frame < recorded) else {
            return Err(broken(
                sentence,
                format!("s{index}, frame {frame} of {recorded}"),
            ));
        };
        let same = *process == self.sites[index].processes && *on == conn && is(bytes);
        if !same {
            return Err(broken(
                sentence,
                format!("s{index}, frame {frame} is another one"),
            ));
        }
        Ok(Rc::clone(bytes))
    }

    // --- the end

    pub(crate) fn run_over(state: RunState) -> bool {
        match state {
            RunState::Running | RunState::Cancelling => false,
            RunState::Succeeded | RunState::Failed | RunState::Cancelled => true,
        }
    }

    /// Whether nothing is left to happen: every run is over, or waits for a person, and every outcome was told.
    pub(crate) fn all_is_over(&self) -> bool {
        let mirror = &self.center.disk.mirror;
        let told = |site: &crate::site::Site| {
            let told = site.disk.snapshot().attempts.is_empty();
            site.cheats || site.gone || (site.enrolled && site.process.is_some() && told)
        };
        let awake = |replica: &Replica| replica.is_awake(self.now);
        self.center.is_whole()
            && self.center.replicas.iter().all(awake)
            && self.sites.iter().all(told)
            && self.is_everybody_single()
            && self.is_everybody_rekeyed()
            && self.clients.all_are_answered()
            && mirror
                .runs
                .values()
                .all(|run| Self::run_over(run.state) || self.waits_for_a_person(run.run))
    }

    /// Whether an attempt of this run has an end that nobody knows, or a cheating agent has it, or a limit holds it up
    /// that only a person can free; and nothing else of it goes on.
    pub(crate) fn waits_for_a_person(&self, run: RunId) -> bool {
        let tasks = self
            .center
            .disk
            .mirror
            .tasks
            .range((run, outpost_proto::ids::TaskIndex(0))..);
        let mut waits = false;
        for (_, task) in tasks.take_while(|((of, _), _)| *of == run) {
            match task.state {
                TaskState::Active { .. } if self.is_stuck(task) => waits = true,
                TaskState::Queued { .. } if self.is_held_up(task) => waits = true,
                TaskState::Queued { .. } | TaskState::Backoff { .. }
                    if self.is_in_a_cheats_hands(task) =>
                {
                    waits = true;
                }
                TaskState::Active { .. } | TaskState::Queued { .. } | TaskState::Backoff { .. } => {
                    return false;
                }
                TaskState::Waiting
                | TaskState::Succeeded
                | TaskState::Failed { .. }
                | TaskState::UpstreamFailed
                | TaskState::Cancelled => {}
            }
        }
        waits
    }

    /// Given up, with no word of its end, and not to be run twice.
    pub(crate) fn is_unknown(&self, attempt: outpost_proto::ids::AttemptId) -> bool {
        let mirror = &self.center.disk.mirror;
        let Some(known) = mirror.attempts.get(&attempt) else {
            return false;
        };
        let entry = mirror.runs.get(&known.run).and_then(|run| {
            let key = (run.tenant.clone(), run.workflow.clone(), run.version);
            let task = mirror
                .workflows
                .get(&key)?
                .spec
                .tasks
                .get(usize::from(known.task.0))?;
            shop::entry(&task.entry)
        });
        matches!(known.phase, Phase::Lost { .. })
            && known.late.is_none()
            && entry.is_some_and(|entry| !entry.retry_safe)
    }

    /// Once faults have stopped: what is not over waits for a person, and `explain` says so.
    pub(crate) fn invariant_when_faults_stop_everything_ends(&mut self) -> Checked {
        let sentence = "when faults stop, everything reaches a terminal state within a bound";
        if !self.all_is_over() {
            return Err(broken(sentence, self.what_goes_on()));
        }
        self.invariant_what_was_acknowledged_is_in_the_store(usize::MAX)?;
        self.invariant_each_instant_makes_its_run()?;
        let open = |run: &&outpost_orchestrator_core::record::RunRecord| !Self::run_over(run.state);
        let runs: Vec<_> = self
            .center
            .disk
            .mirror
            .runs
            .values()
            .filter(open)
            .cloned()
            .collect();
        for run in runs {
            if self.is_a_cheats_run(run.run) {
                continue;
            }
            self.trace.count("run left to a person");
            let explained = self.explain(&run.tenant, run.run);
            let says =
                |task: &Explanation| task.code == "unknown_end" || task.code.contains("max_active");
            if !explained.iter().any(says) {
                let sentence = "what waits for a person is explained";
                return Err(broken(sentence, format!("{}: {explained:?}", run.run)));
            }
        }
        Ok(())
    }

    fn explain(
        &mut self,
        tenant: &outpost_proto::name::TenantName,
        run: RunId,
    ) -> Vec<Explanation> {
        match self.peek(tenant, Ask::Explain { run }) {
            Some(Speech::Answer {
                answer: Ok(Answer::Explained(tasks)),
                ..
            }) => tasks,
            Some(_) | None => Vec::new(),
        }
    }

    fn what_goes_on(&mut self) -> String {
        use std::fmt::Write as _;
        let mut text = String::new();
        let mirror = &self.center.disk.mirror;
        let open: Vec<_> = mirror
            .runs
            .values()
            .filter(|run| !Self::run_over(run.state) && !self.waits_for_a_person(run.run))
            .map(|run| (run.tenant.clone(), run.run, run.agent.clone()))
            .collect();
        for (tenant, run, agent) in open {
            // Writing to a String cannot fail.
            let _ = write!(text, "\n  run {run} of {tenant} on {agent:?}:");
            for task in self.explain(&tenant, run) {
                let _ = write!(
                    text,
                    "\n    {} {}: {} {}",
                    task.task, task.state, task.code, task.reason
                );
            }
        }
        for (index, site) in self.sites.iter().enumerate() {
            let held = site.disk.snapshot().attempts;
            let view = site.process.as_ref().map(|process| process.core.view());
            if (view.is_none() || !held.is_empty()) && !site.gone {
                let _ = write!(
                    text,
                    "\n  s{index} enrolled {} holds {held:?} {view:?}",
                    site.enrolled
                );
            }
        }
        text
    }
}

/// The attempts of which somebody said that they are over.
fn asserted_in(changes: &[Change]) -> Vec<AttemptId> {
    let asserted = changes.iter().filter_map(|change| match change {
        Change::Attempt(_, after) => after.asserted.is_some().then_some(after.attempt),
        Change::Run(..) | Change::Task(..) => None,
    });
    asserted.collect()
}

/// What only one of two snapshots has, table by table.
fn differences(believed: &Snapshot, durable: &Snapshot) -> String {
    fn only<T: PartialEq + std::fmt::Debug>(what: &str, one: &[T], other: &[T]) -> String {
        let extra: Vec<&T> = one.iter().filter(|it| !other.contains(it)).collect();
        let missing: Vec<&T> = other.iter().filter(|it| !one.contains(it)).collect();
        if extra.is_empty() && missing.is_empty() {
            return String::new();
        }
        format!("\n    {what}: believed {extra:?}, durable {missing:?}")
    }
    let (one, other) = (believed, durable);
    let lives = [(one.recovery, one.restored_at)];
    [
        only("life", &lives, &[(other.recovery, other.restored_at)]),
        only("tenants", &one.tenants, &other.tenants),
        only("workflows", &one.workflows, &other.workflows),
        only(
            "workflow states",
            &one.workflow_states,
            &other.workflow_states,
        ),
        only("runs", &one.runs, &other.runs),
        only("tasks", &one.tasks, &other.tasks),
        only("attempts", &one.attempts, &other.attempts),
        only("agents", &one.agents, &other.agents),
        only("invites", &one.invites, &other.invites),
        only("keys", &one.keys, &other.keys),
    ]
    .concat()
}
