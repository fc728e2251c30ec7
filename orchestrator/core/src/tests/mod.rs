//! The rig: the core on a mirror store, and a site that behaves. Every turn ends with the core being what is durable.

mod asks;
mod cancel;
mod explain;
mod faults;
mod invariants;
mod lifecycle;
mod reconnect;

use std::collections::BTreeMap;

use outpost_driver::{Core, Effects, Micros};
use outpost_proto::ids::*;
use outpost_proto::message::*;
use outpost_proto::name::{AgentName, EntryHash, EntryName, TenantName};
use outpost_proto::outcome::{Outcome, Report};

use crate::event::{Answer, Ask, Call, CloseReason, Denied, Event as Happened, Speech};
use crate::limits::Settings;
use crate::mirror::Mirror;
use crate::record::{Phase, RunState, TaskState};
use crate::spec::{Retry, TaskSpec, WorkflowSpec};
use crate::{Orchestrator, record::AttemptRecord};

pub(super) const T0: Micros = Micros(1_700_000_000_000_000);
pub(super) const ENTRIES: [(&str, bool); 3] = [("load", true), ("report", false), ("once", false)];

pub(super) fn name<T: std::str::FromStr<Err: std::fmt::Debug>>(text: &str) -> T {
    text.parse().unwrap()
}

pub(super) fn report(outcome: Outcome) -> Report {
    let refused = matches!(outcome, Outcome::Refused(_));
    Report {
        outcome,
        may_have_started: !refused,
        duration_ms: 7,
        exit_code: None,
        count: None,
    }
}

pub(super) fn task(text: &str, entry: &str, needs: &[u16]) -> TaskSpec {
    TaskSpec {
        name: name(text),
        entry: name(entry),
        needs: needs.iter().copied().map(TaskIndex).collect(),
        with: BTreeMap::new(),
        retry: Retry {
            retries: 0,
            delay_ms: 1000,
            max_delay_ms: 4000,
        },
        timeout_ms: None,
    }
}

pub(super) fn workflow(text: &str, tasks: Vec<TaskSpec>) -> WorkflowSpec {
    WorkflowSpec {
        name: name(text),
        description: String::new(),
        params: BTreeMap::new(),
        tasks,
    }
}

/// The core, its store and the time.
pub(super) struct Rig {
    pub(super) core: Orchestrator,
    pub(super) mirror: Mirror,
    pub(super) now: Micros,
    calls: u64,
    conns: u64,
    lives: u8,
}

impl Rig {
    pub(super) fn new() -> Self {
        Self::with(Settings::default())
    }

    pub(super) fn with(settings: Settings) -> Self {
        let mirror = Mirror::default();
        let core = Orchestrator::new(settings, [3; 32], T0, mirror.snapshot(T0));
        Self {
            core,
            mirror,
            now: T0,
            calls: 0,
            conns: 0,
            lives: 3,
        }
    }

    /// One turn that commits. Gives what was said.
    pub(super) fn turn(&mut self, events: &[Happened]) -> Vec<Speech> {
        let mut out = Effects::new();
        for event in events {
            self.core.handle(self.now, event, &mut out);
        }
        self.core.settle(self.now, &mut out);
        out.writes.iter().for_each(|write| self.mirror.apply(write));
        assert_eq!(
            self.core.durable(),
            self.mirror.snapshot(self.now),
            "the core is what is durable"
        );
        out.speech
    }

    /// One turn whose commit fails; `durable` says whether it happened all the same.
    pub(super) fn failing_turn(&mut self, events: &[Happened], durable: bool) {
        let mut out = Effects::new();
        for event in events {
            self.core.handle(self.now, event, &mut out);
        }
        self.core.settle(self.now, &mut out);
        if durable {
            out.writes.iter().for_each(|write| self.mirror.apply(write));
        }
        self.core.reload(self.now, self.mirror.snapshot(self.now));
        assert_eq!(
            self.core.durable(),
            self.mirror.snapshot(self.now),
            "the core is what is durable"
        );
    }

    /// A new process on the same store.
    pub(super) fn restart(&mut self) {
        self.lives += 1;
        self.core = Orchestrator::new(
            Settings::default(),
            [self.lives; 32],
            self.now,
            self.mirror.snapshot(self.now),
        );
        assert_eq!(
            self.core.durable(),
            self.mirror.snapshot(self.now),
            "the core is what is durable"
        );
    }

    /// Lets time pass, waking the core whenever it wants.
    pub(super) fn pass_ms(&mut self, ms: u64) -> Vec<Speech> {
        let end = self.now.plus_ms(ms);
        let mut said = Vec::new();
        while let Some(next) = self.core.next_deadline().filter(|next| *next <= end) {
            assert!(
                next >= self.now || next == Micros(0),
                "a deadline that stays in the past spins"
            );
            self.now = self.now.max(next);
            said.extend(self.turn(&[]));
            assert!(
                self.core.next_deadline().is_none_or(|next| next > self.now),
                "settled means settled"
            );
        }
        self.now = end;
        said
    }

    pub(super) fn ask_in(
        &mut self,
        tenant: &str,
        ask: Ask,
    ) -> (Result<Answer, Denied>, Vec<Speech>) {
        self.calls += 1;
        let call = Call(self.calls);
        let mut said = self.turn(&[Happened::Asked {
            call,
            tenant: name(tenant),
            ask,
        }]);
        let at = said
            .iter()
            .position(|speech| matches!(speech, Speech::Answer { .. }))
            .unwrap();
        let Speech::Answer {
            call: answered,
            answer,
        } = said.remove(at)
        else {
            unreachable!()
        };
        assert_eq!(answered, call);
        (answer, said)
    }

    pub(super) fn ask(&mut self, ask: Ask) -> Result<Answer, Denied> {
        self.ask_in("acme", ask).0
    }

    pub(super) fn apply(&mut self, spec: WorkflowSpec) {
        let ask = Ask::Apply {
            spec,
            source: String::new(),
            allow_unknown_entries: true,
        };
        assert!(matches!(self.ask(ask), Ok(Answer::Applied { .. })));
    }

    pub(super) fn trigger(&mut self, workflow: &str) -> (RunId, Vec<Speech>) {
        let ask = Ask::Trigger {
            workflow: name(workflow),
            params: BTreeMap::new(),
            key: None,
        };
        let (answer, said) = self.ask_in("acme", ask);
        let Ok(Answer::Triggered { run, created: true }) = answer else {
            panic!("{answer:?}")
        };
        (run, said)
    }

    pub(super) fn enrol(&mut self, agent: &str) {
        let ask = Ask::Invite {
            agent: name(agent),
            token_hash: format!("token of {agent}"),
            ttl_ms: 600_000,
        };
        assert!(matches!(self.ask(ask), Ok(Answer::Invited { .. })));
        let answer = self.enrol_with(&format!("token of {agent}"), "key");
        assert_eq!(
            answer,
            Ok(Answer::Enrolled {
                tenant: name("acme"),
                agent: name(agent)
            })
        );
    }

    pub(super) fn enrol_with(&mut self, token: &str, key: &str) -> Result<Answer, Denied> {
        self.calls += 1;
        let call = Call(self.calls);
        let said = self.turn(&[Happened::Enrol {
            call,
            token_hash: token.into(),
            key_hash: key.into(),
        }]);
        let [Speech::Answer { answer, .. }] = &said[..] else {
            panic!("{said:?}")
        };
        answer.clone()
    }

    /// An enrolled agent with a ready session and a lease.
    pub(super) fn site(&mut self, agent: &str) -> Site {
        self.enrol(agent);
        let mut site = Site::new(agent);
        site.connect(self, vec![]);
        site
    }

    pub(super) fn next_conn(&mut self) -> Conn {
        self.conns += 1;
        Conn(self.conns)
    }

    pub(super) fn task_state(&self, run: RunId, task: u16) -> TaskState {
        self.mirror.tasks[&(run, TaskIndex(task))].state
    }

    pub(super) fn run_state(&self, run: RunId) -> RunState {
        self.mirror.runs[&run].state
    }

    pub(super) fn attempt(&self, attempt: AttemptId) -> &AttemptRecord {
        &self.mirror.attempts[&attempt]
    }

    pub(super) fn phase(&self, attempt: AttemptId) -> Phase {
        self.attempt(attempt).phase
    }
}

/// A site's agent as far as the wire shows it.
pub(super) struct Site {
    pub(super) agent: AgentName,
    pub(super) conn: Conn,
    pub(super) nonce: Nonce,
    pub(super) incarnation: Incarnation,
    pub(super) event_seq: u64,
    pub(super) heartbeat_seq: u32,
    pub(super) slots: u16,
    pub(super) flags: Flags,
    pub(super) catalogue_version: u32,
}

impl Site {
    pub(super) fn new(agent: &str) -> Self {
        Self {
            agent: name(agent),
            conn: Conn(0),
            nonce: Nonce(0),
            incarnation: Incarnation(1),
            event_seq: 0,
            heartbeat_seq: 0,
            slots: 2,
            flags: Flags::default(),
            catalogue_version: 1,
        }
    }

    pub(super) fn spiffe_id(&self) -> String {
        outpost_proto::name::spiffe_id("test", &name::<TenantName>("acme"), &self.agent)
    }

    pub(super) fn open(&mut self, rig: &mut Rig) -> Happened {
        self.conn = rig.next_conn();
        self.heartbeat_seq = 0;
        let spiffe_id = self.spiffe_id();
        Happened::Opened {
            conn: self.conn,
            tenant: name("acme"),
            agent: self.agent.clone(),
            spiffe_id,
        }
    }

    pub(super) fn frame(&self, messages: Vec<UpMessage>) -> Happened {
        Happened::Frame {
            conn: self.conn,
            messages,
        }
    }

    pub(super) fn hello(&self) -> UpMessage {
        UpMessage::Hello(Hello {
            protocol: (1, 1),
            build: (0, 1, 0),
            schema_hash: 1,
            incarnation: self.incarnation,
            last: None,
            session_nonce: self.nonce,
            slots: self.slots,
            sandbox: Level::Strict,
            containment: Containment::Cgroup,
            limits: Level::Strict,
            reporting: Reporting::Normal,
        })
    }

    pub(super) fn catalogue(&self) -> UpMessage {
        let entries = ENTRIES.iter().map(|(entry, retry_safe)| CatalogueEntry {
            hash: EntryHash::new(&self.spiffe_id(), &name::<EntryName>(entry)),
            retry_safe: *retry_safe,
            on_disconnect: OnDisconnect::Continue,
            grace_s: 10,
        });
        UpMessage::Catalogue(Catalogue {
            version: CatalogueVersion(self.catalogue_version),
            entries: entries.collect(),
        })
    }

    pub(super) fn inventory(items: Vec<InventoryItem>) -> UpMessage {
        let end = Some(u16::try_from(items.len()).unwrap());
        UpMessage::Inventory(InventoryPage { items, end })
    }

    pub(super) fn item(
        &self,
        assign: &Assign,
        state: AttemptState,
        event_seq: u64,
    ) -> InventoryItem {
        InventoryItem {
            attempt: assign.attempt,
            run: assign.run,
            task: assign.task,
            fence: assign.fence,
            state,
            event_seq: EventSeq(event_seq),
        }
    }

    pub(super) fn heartbeat(&mut self) -> UpMessage {
        self.heartbeat_seq += 1;
        UpMessage::Heartbeat(Heartbeat {
            seq: HeartbeatSeq(self.heartbeat_seq),
            lease_echo: HeartbeatSeq(0),
            slots_free: self.slots,
            running: 0,
            queued: 0,
            flags: self.flags,
            health: Health::default(),
        })
    }

    pub(super) fn event(&mut self, attempt: AttemptId, state: AttemptState) -> UpMessage {
        self.event_seq += 1;
        UpMessage::Event(Event {
            event_seq: EventSeq(self.event_seq),
            attempt,
            state,
        })
    }

    /// Hello to heartbeat; gives what was said after the Welcome.
    pub(super) fn connect(&mut self, rig: &mut Rig, items: Vec<InventoryItem>) -> Vec<Speech> {
        let opened = self.open(rig);
        let hello = self.frame(vec![self.hello()]);
        let mut said = rig.turn(&[opened, hello]);
        let welcome = messages(&said);
        let [DownMessage::Welcome(welcome)] = &welcome[..] else {
            panic!("{said:?}")
        };
        self.nonce = welcome.next_nonce;
        said.retain(|speech| !matches!(speech, Speech::Send { .. }));
        let heartbeat = self.heartbeat();
        let listing = self.frame(vec![self.catalogue(), Self::inventory(items), heartbeat]);
        said.extend(rig.turn(&[listing]));
        said
    }

    /// One frame; gives what was said.
    pub(super) fn says(&mut self, rig: &mut Rig, message: UpMessage) -> Vec<Speech> {
        rig.turn(&[self.frame(vec![message])])
    }

    pub(super) fn tells(
        &mut self,
        rig: &mut Rig,
        attempt: AttemptId,
        state: AttemptState,
    ) -> Vec<Speech> {
        let event = self.event(attempt, state);
        self.says(rig, event)
    }

    pub(super) fn ends(
        &mut self,
        rig: &mut Rig,
        attempt: AttemptId,
        outcome: Outcome,
    ) -> Vec<Speech> {
        self.tells(rig, attempt, AttemptState::Finished(report(outcome)))
    }

    pub(super) fn beats(&mut self, rig: &mut Rig) -> Vec<Speech> {
        let heartbeat = self.heartbeat();
        self.says(rig, heartbeat)
    }

    pub(super) fn close(&self) -> Happened {
        Happened::Closed { conn: self.conn }
    }

    pub(super) fn ack(&self, highest: u64) -> Speech {
        self.granted(highest, None)
    }

    pub(super) fn granted(&self, highest: u64, lease: Option<u32>) -> Speech {
        let lease = lease.map(|seq| (HeartbeatSeq(seq), 30_000));
        let granted = Granted {
            highest_event_seq: EventSeq(highest),
            lease,
        };
        Speech::Send {
            conn: self.conn,
            messages: vec![DownMessage::Granted(granted)],
        }
    }
}

pub(super) fn messages(said: &[Speech]) -> Vec<DownMessage> {
    let sent = said.iter().filter_map(|speech| match speech {
        Speech::Send { messages, .. } => Some(messages.clone()),
        Speech::Close { .. } | Speech::Answer { .. } | Speech::Alarm { .. } => None,
    });
    sent.flatten().collect()
}

pub(super) fn assigns(said: &[Speech]) -> Vec<Assign> {
    let assigns = messages(said)
        .into_iter()
        .filter_map(|message| match message {
            DownMessage::Assign(assign) => Some(assign),
            DownMessage::Welcome(_) | DownMessage::Directive { .. } | DownMessage::Granted(_) => {
                None
            }
        });
    assigns.collect()
}

pub(super) fn directives(said: &[Speech]) -> Vec<Directive> {
    let directives = messages(said)
        .into_iter()
        .filter_map(|message| match message {
            DownMessage::Directive { directive, .. } => Some(directive),
            DownMessage::Welcome(_) | DownMessage::Assign(_) | DownMessage::Granted(_) => None,
        });
    directives.collect()
}

pub(super) fn closes(said: &[Speech]) -> Vec<(Conn, CloseReason)> {
    let closes = said.iter().filter_map(|speech| match speech {
        Speech::Close { conn, why } => Some((*conn, *why)),
        Speech::Send { .. } | Speech::Answer { .. } | Speech::Alarm { .. } => None,
    });
    closes.collect()
}
