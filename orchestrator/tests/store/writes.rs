//! Random but consistent writes: every record refers to what was written before or with it.

use std::collections::BTreeMap;

use outpost_orchestrator_core::record::{
    AgentMark, AgentRecord, AttemptRecord, InviteRecord, KeyRecord, Notice, NoticeKind, Phase,
    Presence, RunRecord, RunState, TaskRecord, TaskState, TenantRecord, WorkflowRecord,
    WorkflowStateRecord, Write,
};
use outpost_orchestrator_core::spec::{Retry, TaskSpec, WorkflowSpec};
use outpost_proto::ids::{
    AttemptId, CatalogueVersion, CommandSeq, EventSeq, Fence, Incarnation, Nonce, RunId,
    SessionEpoch, TaskIndex,
};
use outpost_proto::message::{Catalogue, CatalogueEntry, OnDisconnect, ParamValue};
use outpost_proto::name::{EntryHash, TenantName};
use outpost_proto::outcome::{Outcome, Report};

const TENANTS: [&str; 3] = ["a", "b-2", "c.d"];
const WORKFLOWS: [&str; 3] = ["build", "report", "x"];
const STATES: [RunState; 5] = [
    RunState::Running,
    RunState::Cancelling,
    RunState::Succeeded,
    RunState::Failed,
    RunState::Cancelled,
];

/// Draws writes from a seed.
pub(crate) struct Writes {
    state: u64,
    /// Grows with every record.
    pub(crate) now: u64,
    workflows: BTreeMap<(TenantName, &'static str), u32>,
    runs: Vec<RunRecord>,
    tasks: Vec<TaskRecord>,
    attempts: Vec<AttemptRecord>,
}

impl Writes {
    pub(crate) fn new(seed: u64) -> Self {
        let state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        Self {
            state,
            now: 1_000_000,
            workflows: BTreeMap::new(),
            runs: Vec::new(),
            tasks: Vec::new(),
            attempts: Vec::new(),
        }
    }

    /// xorshift64*: the whole range of 64 bits.
    fn draw(&mut self) -> u64 {
        self.state ^= self.state >> 12;
        self.state ^= self.state << 25;
        self.state ^= self.state >> 27;
        self.state.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.draw() % bound as u64) as usize
    }

    fn id(&mut self) -> u128 {
        u128::from(self.draw()) << 64 | u128::from(self.draw())
    }

    fn tick(&mut self) -> u64 {
        self.now += self.draw() % 1_000_000;
        self.now
    }

    fn flag(&mut self) -> bool {
        self.below(2) == 0
    }

    pub(crate) fn tenant_names(&self) -> Vec<TenantName> {
        TENANTS.iter().map(|name| name.parse().unwrap()).collect()
    }

    fn tenant(&mut self) -> TenantName {
        TENANTS[self.below(TENANTS.len())].parse().unwrap()
    }

    pub(crate) fn tenants(&mut self) -> Vec<Write> {
        let record = |tenant| {
            Write::Tenant(TenantRecord {
                next_fence: Fence(self.draw()),
                ..TenantRecord::new(tenant)
            })
        };
        TENANTS.map(|name| name.parse().unwrap()).map(record).into()
    }

    pub(crate) fn workflows(&mut self) -> Vec<Write> {
        let mut writes = Vec::new();
        for tenant in self.tenant_names() {
            for name in WORKFLOWS {
                writes.push(self.workflow(tenant.clone(), name));
            }
        }
        writes
    }

    fn workflow(&mut self, tenant: TenantName, name: &'static str) -> Write {
        let version = self.workflows.entry((tenant.clone(), name)).or_insert(0);
        *version += 1;
        let version = *version;
        let retry = Retry {
            retries: 2,
            delay_ms: 500,
            max_delay_ms: 60_000,
        };
        let task = |name: &str| TaskSpec {
            retry,
            ..TaskSpec::new(name.parse().unwrap(), "list-packages".parse().unwrap())
        };
        let spec = WorkflowSpec {
            description: "quotes \" and ' and \u{1F680} and \\ and \u{0}".into(),
            ..WorkflowSpec::new(name.parse().unwrap(), vec![task("one"), task("two")])
        };
        let source = format!("name: {name}\n# \u{0}\u{7f}\u{2028}");
        Write::Workflow(WorkflowRecord {
            tenant,
            version,
            spec,
            source,
            applied_at: self.tick(),
        })
    }

    /// A run of a workflow that was written before, or first of one that is written now.
    pub(crate) fn new_run(&mut self) -> RunRecord {
        let known = self.below(self.workflows.len());
        let ((tenant, workflow), newest) = self.workflows.iter().nth(known).unwrap();
        let (tenant, workflow, newest) = (tenant.clone(), workflow.parse().unwrap(), *newest);
        let version = 1 + self.below(newest as usize) as u32;
        let params = [
            ("top", ParamValue::Integer(i64::MIN)),
            ("all", ParamValue::Flag(true)),
            ("text", ParamValue::Text("'; DROP TABLE run; --".into())),
        ];
        let params = params
            .map(|(name, value)| (name.parse().unwrap(), value))
            .into();
        let agent = self.flag().then(|| "site-1".parse().unwrap());
        let (run, state, created_at) = (
            RunId(self.id()),
            STATES[self.below(STATES.len())],
            self.tick(),
        );
        RunRecord {
            tenant,
            run,
            workflow,
            version,
            params,
            state,
            agent,
            created_at,
            started_at: None,
            finished_at: None,
            scheduled_for: self.flag().then_some(self.now),
            reruns: 0,
        }
    }

    /// A run of a workflow that nobody wrote.
    pub(crate) fn orphan(&mut self) -> RunRecord {
        self.workflows
            .insert((self.tenant_names().remove(0), "build"), 1);
        let orphan = self.new_run();
        self.workflows.clear();
        orphan
    }

    /// One burst of everything.
    pub(crate) fn burst(&mut self) -> Vec<Write> {
        let mut writes = Vec::new();
        if self.workflows.is_empty() {
            writes.extend(self.tenants());
            writes.extend(self.workflows());
        }
        for _ in 0..=self.below(30) {
            self.one(&mut writes);
        }
        writes
    }

    fn one(&mut self, writes: &mut Vec<Write>) {
        match self.below(11) {
            0 => writes.extend(self.tenants().pop()),
            1 => {
                let (tenant, name) = (self.tenant(), WORKFLOWS[self.below(WORKFLOWS.len())]);
                writes.push(self.workflow(tenant, name));
            }
            2 => self.run_with_tasks(writes),
            3 if !self.runs.is_empty() => {
                let (at, state) = (
                    self.below(self.runs.len()),
                    STATES[self.below(STATES.len())],
                );
                let finished_at = Some(self.tick());
                let run = &mut self.runs[at];
                (run.state, run.finished_at) = (state, finished_at);
                writes.push(Write::Run(run.clone()));
            }
            4 if !self.tasks.is_empty() => {
                let (at, state) = (self.below(self.tasks.len()), self.task_state());
                self.tasks[at].state = state;
                writes.push(Write::Task(self.tasks[at].clone()));
            }
            5 if !self.tasks.is_empty() => self.new_attempt(writes),
            6 if !self.attempts.is_empty() => {
                let (at, phase) = (self.below(self.attempts.len()), self.phase());
                let late = self.flag().then(|| report(Outcome::Failed));
                let attempt = &mut self.attempts[at];
                (attempt.phase, attempt.late) = (phase, late);
                writes.push(Write::Attempt(attempt.clone()));
            }
            7 => self.agent_and_mark(writes),
            8 => writes.push(self.invite()),
            9 => writes.push(self.workflow_state()),
            _ => self.key_and_notice(writes),
        }
    }

    fn run_with_tasks(&mut self, writes: &mut Vec<Write>) {
        let run = self.new_run();
        writes.push(Write::Run(run.clone()));
        for task in 0..2 {
            let state = self.task_state();
            let task = TaskRecord {
                run: run.run,
                task: TaskIndex(task),
                state,
                attempts: 0,
                spent: 0,
                requeued: 0,
                untimely: 0,
                unsure: false,
                shown: Vec::new(),
            };
            writes.push(Write::Task(task.clone()));
            self.tasks.push(task);
        }
        self.runs.push(run);
    }

    fn task_state(&mut self) -> TaskState {
        match self.below(8) {
            0 => TaskState::Waiting,
            1 => TaskState::Queued { since: self.now },
            2 => TaskState::Backoff {
                until: u64::MAX,
                last: Outcome::TimedOut,
            },
            3 => TaskState::Active {
                attempt: AttemptId(self.id()),
            },
            4 => TaskState::Succeeded,
            5 => TaskState::Failed {
                outcome: Outcome::Failed,
            },
            6 => TaskState::UpstreamFailed,
            _ => TaskState::Cancelled,
        }
    }

    fn phase(&mut self) -> Phase {
        match self.below(6) {
            0 => Phase::Assigned,
            1 => Phase::Accepted,
            2 => Phase::Starting,
            3 => Phase::Running,
            4 => Phase::Finished {
                report: report(Outcome::Succeeded),
            },
            _ => Phase::Lost {
                may_have_started: self.flag(),
            },
        }
    }

    /// An attempt of the first task of a run that is like another one.
    pub(crate) fn attempt_of(&mut self, like: &RunRecord, run: RunId) -> AttemptRecord {
        self.attempt(like.tenant.clone(), run, TaskIndex(0))
    }

    fn new_attempt(&mut self, writes: &mut Vec<Write>) {
        let at = self.below(self.tasks.len());
        let (run, task) = (self.tasks[at].run, self.tasks[at].task);
        let tenant = self
            .runs
            .iter()
            .find(|known| known.run == run)
            .unwrap()
            .tenant
            .clone();
        let attempt = self.attempt(tenant, run, task);
        writes.push(Write::Attempt(attempt.clone()));
        self.attempts.push(attempt);
    }

    fn attempt(&mut self, tenant: TenantName, run: RunId, task: TaskIndex) -> AttemptRecord {
        AttemptRecord {
            tenant,
            attempt: AttemptId(self.id()),
            run,
            task,
            agent: "site-1".parse().unwrap(),
            fence: Fence(self.draw() >> 16),
            incarnation: Incarnation(self.draw()),
            retry_safe: self.flag(),
            ends_alone_s: self.flag().then_some(90),
            phase: self.phase(),
            cancel_requested: self.flag(),
            assigned_at: self.tick(),
            started_at: None,
            finished_at: None,
            late: None,
            recovered: false,
            asserted: None,
        }
    }

    fn agent(&mut self) -> Write {
        let entry = CatalogueEntry {
            hash: EntryHash(self.draw()),
            retry_safe: self.flag(),
            on_disconnect: OnDisconnect::StopAfter(300),
            grace_s: 10,
        };
        let catalogue = self.flag().then(|| Catalogue {
            version: CatalogueVersion(3),
            entries: vec![entry],
        });
        Write::Agent(AgentRecord {
            removed: self.flag(),
            session_epoch: SessionEpoch(4),
            nonces: vec![Nonce(self.draw()), Nonce(u64::MAX)],
            event_seq: EventSeq(self.draw() >> 16),
            command_seq: CommandSeq(9),
            incarnation: Incarnation(self.draw()),
            catalogue,
            spiffe_id: "spiffe://test/tenant/a/agent/site".into(),
            cordoned: self.flag(),
            ..AgentRecord::enrolled(
                self.tenant(),
                format!("site-{}", self.below(4)).parse().unwrap(),
                "ab".repeat(32),
                self.tick(),
            )
        })
    }

    /// A record, a mark, or both in either order.
    fn agent_and_mark(&mut self, writes: &mut Vec<Write>) {
        let mark = Write::AgentMark(AgentMark {
            tenant: self.tenant(),
            agent: format!("site-{}", self.below(4)).parse().unwrap(),
            event_seq: EventSeq(self.draw()),
            command_seq: CommandSeq(self.draw()),
            next_fence: Fence(self.draw()),
        });
        let order = self.below(4);
        if order < 3 {
            writes.push(mark.clone());
        }
        if order > 0 {
            writes.push(self.agent());
        }
        if order > 1 {
            writes.push(mark);
        }
    }

    fn workflow_state(&mut self) -> Write {
        Write::WorkflowState(WorkflowStateRecord {
            tenant: self.tenant(),
            workflow: WORKFLOWS[self.below(WORKFLOWS.len())].parse().unwrap(),
            paused: self.flag(),
            deleted: self.flag(),
            scheduled_until: self.flag().then(|| self.draw()),
            version: 0,
        })
    }

    fn invite(&mut self) -> Write {
        Write::Invite(InviteRecord {
            token_hash: format!("{:064x}", self.below(20)),
            tenant: self.tenant(),
            agent: "site-9".parse().unwrap(),
            expires_at: self.now + self.draw() % 100_000_000,
            bound_to: self.flag().then(|| "cd".repeat(32)),
        })
    }

    fn key_and_notice(&mut self, writes: &mut Vec<Write>) {
        let (tenant, at) = (self.tenant(), self.tick());
        if !self.runs.is_empty() {
            let (index, key) = (
                self.below(self.runs.len()),
                format!("key \"{}\"", self.below(30)),
            );
            let RunRecord {
                run,
                workflow,
                tenant,
                ..
            } = self.runs[index].clone();
            writes.push(Write::Key(KeyRecord {
                tenant,
                key,
                run,
                workflow,
                request: None,
                at,
            }));
        }
        let what = NoticeKind::Agent {
            agent: "site-1".parse().unwrap(),
            presence: Presence::Live,
        };
        writes.push(Write::Notice(Notice { tenant, at, what }));
    }
}

fn report(outcome: Outcome) -> Report {
    Report {
        outcome,
        may_have_started: true,
        duration_ms: (1 << 36) - 1,
        exit_code: Some(255),
        count: Some(0),
    }
}
