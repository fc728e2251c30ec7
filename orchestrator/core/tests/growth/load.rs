//! A core with many live tasks, and one agent that ends them one by one.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "what is measured is made of valid parts; anything else is a failure"
)]

use std::collections::VecDeque;

use outpost_driver::{Core, Effects, Micros};
use outpost_orchestrator_core::event::{Ask, Call, Event as Happened, Speech};
use outpost_orchestrator_core::record::{Snapshot, Write};
use outpost_orchestrator_core::spec::{Affinity, TaskSpec, WorkflowSpec};
use outpost_orchestrator_core::{Orchestrator, Settings};
use outpost_proto::ids::*;
use outpost_proto::message::*;
use outpost_proto::name::{AgentName, EntryHash, EntryName, TenantName, spiffe_id};
use outpost_proto::outcome::{Outcome, Report};

use crate::counting::{asked, held};

const CONN: Conn = Conn(1);
const SLOTS: u16 = 50;
const ENTRY: &str = "load";

/// How the live tasks are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    /// Runs of a thousand tasks that need nothing.
    Wide,
    /// Runs of a thousand tasks, each needing the one before.
    Chains,
    /// The first, with every limit there is, all of them reached.
    Limited,
    /// The first, each task placed on its own.
    Apart,
    /// Runs of ten tasks that need nothing.
    Small,
}

/// What one step cost.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Cost {
    /// Requests for memory.
    pub(crate) asked: u64,
    /// Writes to the store.
    pub(crate) writes: usize,
}

/// The core and its one agent.
pub(crate) struct Load {
    core: Orchestrator,
    now: Micros,
    calls: u64,
    event_seq: u64,
    heartbeat: u32,
    /// Attempts the agent was given.
    given: VecDeque<AttemptId>,
    /// The newest command it was given.
    command: CommandSeq,
    /// Bytes that a live task costs.
    pub(crate) bytes_per_task: f64,
}

fn spec(shape: Shape) -> WorkflowSpec {
    let count = if shape == Shape::Small { 10 } else { 1000 };
    let tasks = (0..count).map(|n| {
        let mut task = TaskSpec::new(format!("task-{n}").parse().unwrap(), ENTRY.parse().unwrap());
        if shape == Shape::Chains && n > 0 {
            task.needs = vec![TaskIndex(n - 1)];
        }
        if shape == Shape::Limited && n % 10 == 0 {
            task.max_active = Some(1);
        }
        task
    });
    let mut spec = WorkflowSpec::new("work".parse().unwrap(), tasks.collect());
    if shape == Shape::Limited {
        spec.max_active_tasks = Some(20);
        spec.max_active_runs = Some(4);
    }
    if shape == Shape::Apart {
        spec.affinity = Affinity::None;
    }
    spec
}

impl Load {
    /// So many live tasks of this shape, of which the agent holds what it may.
    pub(crate) fn new(shape: Shape, tasks: usize) -> Self {
        let now = Micros(1_700_000_000_000_000);
        // As much waits at the agent whatever its tasks are like: what is compared is what waits here.
        let settings = Settings {
            backlog: Some(SLOTS),
            ..Settings::default()
        };
        let mut load = Self {
            core: Orchestrator::new(settings, [5; 32], now, Snapshot::default()),
            now,
            calls: 0,
            event_seq: 0,
            heartbeat: 0,
            given: VecDeque::new(),
            command: CommandSeq(0),
            bytes_per_task: 0.0,
        };
        load.enrol();
        load.connect();
        let spec = spec(shape);
        let per_run = spec.tasks.len();
        load.ask(Ask::Apply {
            spec,
            source: String::new(),
            allow_unknown_entries: false,
            dry_run: false,
            expected_version: None,
        });
        let before = held();
        for _ in 0..tasks / per_run {
            load.now = load.now.plus_ms(1);
            load.ask(Ask::Trigger {
                workflow: "work".parse().unwrap(),
                params: [].into(),
                key: None,
            });
        }
        load.bytes_per_task = (held() - before) as f64 / tasks as f64;
        load
    }

    fn turn(&mut self, event: Happened) -> Cost {
        let before = asked();
        let mut out: Effects<Write, Speech> = Effects::new();
        self.core.handle(self.now, &event, &mut out);
        self.core.settle(self.now, &mut out);
        let cost = Cost {
            asked: asked() - before,
            writes: out.writes.len(),
        };
        for speech in out.speech {
            match speech {
                Speech::Send { messages, .. } => self.hear(messages),
                Speech::Answer { answer, .. } => drop(answer.unwrap()),
                Speech::Close { why, .. } => panic!("{why:?}"),
                Speech::Alarm { what, .. } => panic!("{what:?}"),
            }
        }
        cost
    }

    fn hear(&mut self, messages: Vec<DownMessage>) {
        for message in messages {
            if let DownMessage::Assign(assign) = message {
                self.given.push_back(assign.attempt);
                self.command = assign.command_seq;
            }
        }
    }

    fn ask(&mut self, ask: Ask) -> Cost {
        self.calls += 1;
        self.turn(Happened::Asked {
            call: Call(self.calls),
            tenant: "acme".parse().unwrap(),
            ask,
        })
    }

    fn enrol(&mut self) {
        self.ask(Ask::Invite {
            agent: "bank".parse().unwrap(),
            token_hash: "token".into(),
            ttl_ms: 600_000,
        });
        self.turn(Happened::Enrol {
            call: Call(0),
            token_hash: "token".into(),
            key_hash: "key".into(),
        });
    }

    fn connect(&mut self) {
        let (tenant, agent): (TenantName, AgentName) =
            ("acme".parse().unwrap(), "bank".parse().unwrap());
        let spiffe_id = spiffe_id("test", &tenant, &agent);
        let entry: EntryName = ENTRY.parse().unwrap();
        let catalogue = Catalogue {
            version: CatalogueVersion(1),
            entries: vec![CatalogueEntry {
                hash: EntryHash::new(&spiffe_id, &entry),
                retry_safe: true,
                on_disconnect: OnDisconnect::Continue,
                grace_s: 10,
            }],
        };
        self.turn(Happened::Opened {
            conn: CONN,
            tenant,
            agent,
            spiffe_id,
            key_hash: "key".into(),
            not_after: u64::MAX,
        });
        self.say(UpMessage::Hello(Hello {
            protocol: (1, 1),
            build: (0, 1, 0),
            schema_hash: 1,
            incarnation: Incarnation(1),
            last: None,
            session_nonce: Nonce(0),
            slots: SLOTS,
            sandbox: Level::Strict,
            containment: Containment::Cgroup,
            limits: Level::Strict,
            reporting: Reporting::Normal,
        }));
        self.say(UpMessage::Catalogue(catalogue));
        let (items, end) = (Vec::new(), Some(0));
        self.say(UpMessage::Inventory(InventoryPage { items, end }));
        self.beat();
    }

    /// What it was given is acknowledged along with whatever it says.
    fn say(&mut self, message: UpMessage) -> Cost {
        let ack = (self.command > CommandSeq(0)).then_some(UpMessage::Ack(self.command));
        self.turn(Happened::Frame {
            conn: CONN,
            messages: ack.into_iter().chain([message]).collect(),
        })
    }

    /// A heartbeat: a turn with nothing to place.
    pub(crate) fn beat(&mut self) -> Cost {
        self.heartbeat += 1;
        self.say(UpMessage::Heartbeat(Heartbeat {
            seq: HeartbeatSeq(self.heartbeat),
            lease_echo: HeartbeatSeq(0),
            slots_free: SLOTS,
            running: 0,
            queued: 0,
            flags: Flags::default(),
            health: Health::default(),
        }))
    }

    /// The oldest attempt succeeds, and another task is placed if one may be.
    pub(crate) fn end_one(&mut self) -> Cost {
        let attempt = self.given.pop_front().unwrap();
        self.event_seq += 1;
        self.say(UpMessage::Event(Event {
            event_seq: EventSeq(self.event_seq),
            attempt,
            state: AttemptState::Finished(Report {
                outcome: Outcome::Succeeded,
                may_have_started: true,
                duration_ms: 1_000,
                exit_code: None,
                count: None,
            }),
        }))
    }
}
