//! Records of runs as the core writes them: whole histories, and the lives of single attempts.

pub(crate) mod multiply;

use std::collections::BTreeMap;

use outpost_orchestrator_core::record::{
    AgentMark, AgentRecord, AttemptRecord, Notice, NoticeKind, Phase, RunRecord, RunState,
    TaskRecord, TaskState, TenantRecord, WorkflowRecord, Write,
};
use outpost_orchestrator_core::spec::{TaskSpec, WorkflowSpec};
use outpost_proto::ids::{AttemptId, CommandSeq, EventSeq, Fence, Incarnation, RunId, TaskIndex};
use outpost_proto::name::{AgentName, TenantName, WorkflowName};
use outpost_proto::outcome::{Outcome, Report};

/// Tasks of one run, each with one attempt.
pub(crate) const TASKS: usize = 10;
/// Of so many runs one failed.
const FAILED: usize = 500;

/// Draws records.
pub(crate) struct History {
    state: u64,
    now: u64,
    runs: Vec<RunId>,
    tenant: TenantName,
    workflow: WorkflowName,
    agent: AgentName,
}

impl Default for History {
    fn default() -> Self {
        Self {
            state: 0x9e37_79b9_7f4a_7c15,
            now: 1_700_000_000_000_000,
            runs: Vec::new(),
            tenant: name("acme"),
            workflow: name("nightly-report"),
            agent: name("site-1"),
        }
    }
}

/// A name that is valid by sight.
#[expect(clippy::expect_used, reason = "names of this file are valid")]
fn name<T: std::str::FromStr<Err: std::fmt::Debug>>(text: &str) -> T {
    text.parse().expect("a valid name")
}

impl History {
    pub(crate) fn tenant(&self) -> TenantName {
        self.tenant.clone()
    }

    pub(crate) fn workflow(&self) -> WorkflowName {
        self.workflow.clone()
    }

    /// One of the runs written, whatever the number.
    pub(crate) fn run_at(&self, place: usize) -> RunId {
        let place = place % self.runs.len().max(1);
        self.runs.get(place).copied().unwrap_or(RunId(0))
    }

    /// Of the runs that are there now, whoever wrote them, and that it is so much later, in microseconds.
    pub(crate) fn know(&mut self, runs: Vec<RunId>, later: u64) {
        self.runs = runs;
        self.now += later;
    }

    /// xorshift64*.
    fn draw(&mut self) -> u64 {
        self.state ^= self.state >> 12;
        self.state ^= self.state << 25;
        self.state ^= self.state >> 27;
        self.state.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// As the core makes them: 48 bits of milliseconds, then chance.
    fn id(&mut self) -> u128 {
        let wide = u128::from(self.draw()) << 64 | u128::from(self.draw());
        u128::from(self.now / 1000) << 80 | wide >> 48
    }

    fn tick(&mut self) -> u64 {
        self.now += 1 + self.draw() % 1000;
        self.now
    }

    /// What must be there before the first run.
    pub(crate) fn beginning(&mut self) -> Vec<Write> {
        let task = |place| TaskSpec::new(name(&format!("task-{place}")), name("entry"));
        let spec = WorkflowSpec::new(self.workflow(), (0..TASKS).map(task).collect());
        vec![
            Write::Tenant(TenantRecord::new(self.tenant())),
            Write::Workflow(WorkflowRecord {
                tenant: self.tenant(),
                version: 1,
                spec,
                source: "name: nightly-report".to_owned(),
                applied_at: self.now,
            }),
            Write::Agent(AgentRecord::enrolled(
                self.tenant(),
                self.agent.clone(),
                "ab".repeat(32),
                self.now,
            )),
        ]
    }

    /// Runs that are over, with everything that stays of them but their notices.
    pub(crate) fn finished_runs(&mut self, count: usize) -> Vec<Write> {
        let mut writes = Vec::new();
        for _ in 0..count {
            let at = self.tick();
            let id = RunId(self.id());
            let state = match self.runs.len() % FAILED {
                0 => RunState::Failed,
                _ => RunState::Succeeded,
            };
            self.runs.push(id);
            writes.push(Write::Run(self.run(id, state, at)));
            for place in 0..TASKS {
                let attempt = AttemptId(self.id());
                let task = TaskIndex(u16::try_from(place).unwrap_or(0));
                writes.push(self.task(id, task, TaskState::Succeeded));
                writes.push(self.attempt(id, task, attempt, finished()));
            }
        }
        writes
    }

    /// Attempts of one live run of as many tasks: the bursts in which they are assigned, run and are over.
    pub(crate) fn lives(&mut self, count: usize) -> [Vec<Write>; 3] {
        let at = self.tick();
        let run = RunId(self.id());
        let ids: Vec<(TaskIndex, AttemptId)> = (0..count)
            .map(|place| {
                let task = TaskIndex(u16::try_from(place).unwrap_or(0));
                (task, AttemptId(self.id()))
            })
            .collect();
        let mut assigned = vec![
            Write::Run(self.run(run, RunState::Running, at)),
            self.mark(at),
        ];
        let (mut running, mut over) = (vec![self.mark(at + 1)], vec![self.mark(at + 2)]);
        for (task, attempt) in ids {
            let active = TaskState::Active { attempt };
            assigned.push(self.task(run, task, active));
            assigned.push(self.task_notice(run, task, active));
            self.step(&mut assigned, run, task, attempt, Phase::Assigned);
            self.step(&mut running, run, task, attempt, Phase::Running);
            self.step(&mut over, run, task, attempt, finished());
            over.push(self.task(run, task, TaskState::Succeeded));
            over.push(self.task_notice(run, task, TaskState::Succeeded));
        }
        over.push(Write::Run(self.run(run, RunState::Succeeded, at)));
        [assigned, running, over]
    }

    fn step(
        &self,
        writes: &mut Vec<Write>,
        run: RunId,
        task: TaskIndex,
        attempt: AttemptId,
        phase: Phase,
    ) {
        writes.push(self.attempt(run, task, attempt, phase));
        writes.push(self.notice(NoticeKind::Attempt {
            run,
            task,
            attempt,
            agent: self.agent.clone(),
            phase,
        }));
    }

    fn task_notice(&self, run: RunId, task: TaskIndex, state: TaskState) -> Write {
        self.notice(NoticeKind::Task { run, task, state })
    }

    fn notice(&self, what: NoticeKind) -> Write {
        Write::Notice(Notice {
            tenant: self.tenant(),
            at: self.now,
            what,
        })
    }

    fn mark(&self, number: u64) -> Write {
        Write::AgentMark(AgentMark {
            tenant: self.tenant(),
            agent: self.agent.clone(),
            event_seq: EventSeq(number),
            command_seq: CommandSeq(number),
            next_fence: Fence(number),
        })
    }

    fn run(&self, run: RunId, state: RunState, at: u64) -> RunRecord {
        let is_over = matches!(state, RunState::Succeeded | RunState::Failed);
        RunRecord {
            tenant: self.tenant(),
            run,
            workflow: self.workflow(),
            version: 1,
            params: BTreeMap::new(),
            state,
            agent: Some(self.agent.clone()),
            created_at: at,
            started_at: Some(at),
            finished_at: is_over.then_some(at + 5),
            scheduled_for: None,
            reruns: 0,
        }
    }

    fn task(&self, run: RunId, task: TaskIndex, state: TaskState) -> Write {
        Write::Task(TaskRecord {
            run,
            task,
            state,
            attempts: 1,
            spent: 0,
            requeued: 0,
            untimely: 0,
            unsure: Default::default(),
            shown: Default::default(),
        })
    }

    fn attempt(&self, run: RunId, task: TaskIndex, attempt: AttemptId, phase: Phase) -> Write {
        Write::Attempt(AttemptRecord {
            tenant: self.tenant(),
            attempt,
            run,
            task,
            agent: self.agent.clone(),
            fence: Fence(self.now >> 16),
            incarnation: Incarnation(0x1234_5678_9abc),
            retry_safe: true,
            ends_alone_s: None,
            phase,
            cancel_requested: false,
            assigned_at: self.now,
            started_at: Some(self.now),
            finished_at: Some(self.now),
            late: None,
            recovered: false,
            asserted: None,
        })
    }
}

fn finished() -> Phase {
    Phase::Finished {
        report: Report {
            outcome: Outcome::Succeeded,
            may_have_started: true,
            duration_ms: 12,
            exit_code: None,
            count: None,
        },
    }
}
