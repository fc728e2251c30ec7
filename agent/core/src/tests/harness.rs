//! An agent with its journal, and an orchestrator's part to be played by the test.

use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use outpost_driver::{CommitError, Core, Effects, LoadError, Micros, Store, Turn, turn};
use outpost_proto::ids::*;
use outpost_proto::message::*;
use outpost_proto::name::EntryName;
use outpost_proto::outcome::{Outcome, Refusal, Report};

use crate::event::{Catalog, Event, KeeperSaid, Speech, Terms};
use crate::mirror::Mirror;
use crate::record::{Snapshot, Write};
use crate::{Agent, Found, Settings};

pub(super) const SECOND: u64 = 1_000_000;
pub(super) const LIFE: RecoveryEpoch = RecoveryEpoch {
    counter: 1,
    database: 77,
};

/// A catalogue as data.
#[derive(Debug, Clone)]
pub(super) struct Shop {
    pub(super) version: u32,
    pub(super) terms: BTreeMap<EntryName, Terms>,
}

impl Catalog for Shop {
    fn announced(&self) -> Catalogue {
        Catalogue {
            version: CatalogueVersion(self.version),
            entries: vec![],
        }
    }

    fn judge(&self, assign: &Assign) -> Result<Terms, (Refusal, String)> {
        let unknown = || {
            (
                Refusal::UnknownEntry,
                format!("there is no entry `{}`", assign.entry),
            )
        };
        self.terms.get(&assign.entry).copied().ok_or_else(unknown)
    }
}

pub(super) fn free() -> Terms {
    Terms {
        on_disconnect: OnDisconnect::Continue,
        max_parallel: None,
        max_per_hour: None,
    }
}

pub(super) fn shop(version: u32, terms: &[(&str, Terms)]) -> Event {
    let terms = terms
        .iter()
        .map(|(name, terms)| (name.parse().unwrap(), *terms))
        .collect();
    Event::Catalogue(Arc::new(Shop { version, terms }))
}

/// The store: a mirror that can be told to fail.
#[derive(Debug, Default)]
pub(super) struct Journal {
    pub(super) mirror: Mirror,
    /// The next commit fails; `true`: after all of it was written.
    pub(super) fail: Option<bool>,
}

impl Store<Agent> for Journal {
    async fn commit(&mut self, effects: &Effects<Write, Speech>) -> Result<(), CommitError> {
        std::future::ready(()).await;
        let failed = self.fail.take();
        if failed != Some(false) {
            effects
                .writes
                .iter()
                .for_each(|write| self.mirror.apply(write));
        }
        failed.map_or(Ok(()), |_| Err(CommitError::Failed("told to".into())))
    }

    async fn load(&mut self) -> Result<Snapshot, LoadError> {
        std::future::ready(()).await;
        Ok(self.mirror.snapshot())
    }
}

pub(super) fn run<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("these futures never wait"),
    }
}

pub(super) fn settings() -> Settings {
    Settings {
        wall_offset_s: 1_700_000_000,
        // Tests of what is said see it in the turn in which it happens.
        report_within: Duration::ZERO,
        ..Settings::new(Incarnation(5), 2)
    }
}

/// One agent and what it said.
pub(super) struct Stage {
    pub(super) agent: Agent,
    pub(super) journal: Journal,
    pub(super) now: Micros,
    pub(super) said: VecDeque<Speech>,
    pub(super) conn: Conn,
    pub(super) command: u64,
}

impl Stage {
    pub(super) fn new(settings: Settings) -> Self {
        let agent = Agent::new(
            settings,
            [3; 32],
            Micros(0),
            Snapshot::default(),
            BTreeMap::new(),
        );
        let (journal, now) = (Journal::default(), Micros(0));
        Self {
            agent,
            journal,
            now,
            said: VecDeque::new(),
            conn: Conn(0),
            command: 0,
        }
    }

    /// The process ends and a new one begins with what is durable.
    pub(super) fn restart(&mut self, settings: Settings, found: &[(AttemptId, Found)]) {
        let found = found.iter().copied().collect();
        self.agent = Agent::new(
            settings,
            [4; 32],
            self.now,
            self.journal.mirror.snapshot(),
            found,
        );
        self.said.clear();
    }

    /// One turn of the real driver. What is durable and what the core thinks is durable are the same after it.
    pub(super) fn turn(&mut self, events: &[Event]) -> Turn {
        let (said, now) = (&mut self.said, self.now);
        let turned = run(turn(&mut self.agent, &mut self.journal, now, events, |s| {
            said.push_back(s)
        }))
        .unwrap();
        if turned == Turn::Spoken {
            assert_eq!(self.agent.durable(), self.journal.mirror.snapshot());
            let deadline = self.agent.next_deadline();
            assert!(
                deadline.is_none_or(|at| at > now),
                "settle would be called for ever: {deadline:?}"
            );
        }
        turned
    }

    pub(super) fn spoken(&mut self, events: &[Event]) {
        assert_eq!(self.turn(events), Turn::Spoken);
    }

    pub(super) fn after(&mut self, us: u64) {
        self.now = Micros(self.now.0 + us);
    }

    pub(super) fn next(&mut self) -> Speech {
        self.said.pop_front().expect("something was said")
    }

    pub(super) fn nothing_else(&self) {
        assert_eq!(self.said, VecDeque::new(), "something else happened");
    }

    pub(super) fn sent(&mut self) -> Vec<UpMessage> {
        let said = self.next();
        let Speech::Send { conn, messages } = said else {
            panic!("not sent: {said:?}")
        };
        assert_eq!(conn, self.conn);
        messages
    }

    pub(super) fn sent_one(&mut self) -> UpMessage {
        let mut messages = self.sent();
        assert_eq!(messages.len(), 1, "{messages:?}");
        messages.remove(0)
    }

    pub(super) fn frame(&mut self, messages: Vec<DownMessage>) {
        let conn = self.conn;
        self.spoken(&[Event::Frame { conn, messages }]);
    }

    pub(super) fn keeper(&mut self, attempt: u128, said: KeeperSaid) {
        self.spoken(&[Event::Keeper {
            attempt: AttemptId(attempt),
            said,
        }]);
    }

    /// The next command's number.
    pub(super) fn number(&mut self) -> CommandSeq {
        self.command += 1;
        CommandSeq(self.command)
    }

    pub(super) fn order(&mut self, directive: Directive) -> DownMessage {
        DownMessage::Directive {
            command_seq: self.number(),
            directive,
        }
    }

    pub(super) fn job(&mut self, attempt: u128, entry: &str) -> DownMessage {
        DownMessage::Assign(assign(attempt, entry, self.number()))
    }

    /// Waits for the next try and connects: what Hello said.
    pub(super) fn connect(&mut self, rules: Option<Event>) -> Hello {
        self.after(400 * SECOND);
        self.spoken(rules.as_slice());
        while !matches!(self.said.front(), Some(Speech::Dial { .. })) {
            self.next();
        }
        let Speech::Dial { conn } = self.next() else {
            unreachable!()
        };
        self.conn = conn;
        self.nothing_else();
        self.spoken(&[Event::Opened { conn }]);
        let UpMessage::Hello(hello) = self.sent_one() else {
            panic!("no Hello")
        };
        self.nothing_else();
        hello
    }

    /// Is welcomed: the inventory, and whether a heartbeat came with it.
    pub(super) fn welcomed(&mut self, welcome: Welcome) -> Vec<InventoryItem> {
        self.frame(vec![DownMessage::Welcome(welcome)]);
        let messages = self.sent();
        let [
            UpMessage::Catalogue(_),
            UpMessage::Inventory(page),
            UpMessage::Heartbeat(heartbeat),
        ] = &messages[..]
        else {
            panic!("not catalogue, inventory, heartbeat: {messages:?}")
        };
        assert_eq!(heartbeat.seq, HeartbeatSeq(1));
        assert_eq!(page.end.map(|end| end as usize), Some(page.items.len()));
        page.items.clone()
    }

    /// From nothing to a ready session with a lease of 30 s.
    pub(super) fn ready(&mut self, rules: Option<Event>) {
        self.connect(rules);
        self.welcomed(welcome());
        self.reconciled();
    }

    pub(super) fn reconciled(&mut self) {
        let reconciled = self.order(Directive::Reconciled);
        self.frame(vec![reconciled, lease(1)]);
        assert_eq!(self.next(), Speech::InTouch);
    }

    /// The Ack of everything commanded so far.
    pub(super) fn acked(&mut self) {
        assert_eq!(self.sent_one(), self.ack());
    }

    pub(super) fn ack(&self) -> UpMessage {
        UpMessage::Ack(CommandSeq(self.command))
    }

    pub(super) fn started(&mut self) -> u128 {
        let said = self.next();
        let Speech::Start { assign, .. } = said else {
            panic!("not started: {said:?}")
        };
        assign.attempt.0
    }
}

pub(super) fn assign(attempt: u128, entry: &str, command_seq: CommandSeq) -> Assign {
    Assign {
        attempt: AttemptId(attempt),
        run: RunId(1),
        task: TaskIndex(0),
        fence: Fence(1),
        command_seq,
        entry: entry.parse().unwrap(),
        catalogue_version: CatalogueVersion(1),
        parameters: vec![],
        deadline_ms: None,
        task_name: "task".parse().unwrap(),
        workflow_name: "flow".parse().unwrap(),
    }
}

pub(super) fn welcome() -> Welcome {
    Welcome {
        protocol: 1,
        session_epoch: SessionEpoch(1),
        recovery: LIFE,
        next_nonce: Nonce(11),
        highest_event_seq: EventSeq(0),
        heartbeat_interval_ms: 10_000,
        lease_ms: 30_000,
        server_time_us: 1_700_000_000_000_000,
    }
}

pub(super) fn lease(heartbeat: u32) -> DownMessage {
    DownMessage::Granted(Granted {
        highest_event_seq: EventSeq(0),
        lease: Some((HeartbeatSeq(heartbeat), 30_000)),
    })
}

pub(super) fn durable(event: u64) -> DownMessage {
    DownMessage::Granted(Granted {
        highest_event_seq: EventSeq(event),
        lease: None,
    })
}

pub(super) fn report(outcome: Outcome) -> Report {
    Report {
        outcome,
        may_have_started: true,
        duration_ms: 12,
        exit_code: None,
        count: None,
    }
}

pub(super) fn event(number: u64, attempt: u128, state: AttemptState) -> UpMessage {
    UpMessage::Event(outpost_proto::message::Event {
        event_seq: EventSeq(number),
        attempt: AttemptId(attempt),
        state,
    })
}
