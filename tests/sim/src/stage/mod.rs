//! A stage for scenes about the orchestrator: both real cores, their stores and the frames between them, and a script in
//! place of a seed.
//!
//! [`crate::scene`] is the world of the seeds with nothing left to chance, for scenes about one agent. Here are many peers
//! and the people who watch them. A test says what happens and when: hosts with real agents, whose tasks begin and end as it says; peers that say by hand
//! what no honest agent does; people who ask; disks that fail, backups that are restored. Nothing takes time by itself and
//! nothing is drawn, so that a scene reads as a story and ends with what both ends and people were told. After every turn
//! the orchestrator's core is what is durable.

#![expect(
    clippy::expect_used,
    clippy::panic,
    reason = "a script that does not fit ends its test"
)]

mod hand;
mod host;
mod people;
mod restore;

use std::collections::{BTreeMap, VecDeque};
use std::str::FromStr;

use outpost_agent_core::event::{Down, Event as SiteEvent};
use outpost_driver::{Core, Micros, Turn};
use outpost_orchestrator_core::event::{Alarm, Answer, Call, CloseReason, Denied, Event, Speech};
use outpost_orchestrator_core::record::{AgentRecord, NoticeKind};
use outpost_orchestrator_core::{Orchestrator, Settings};
use outpost_proto::ids::Conn;
use outpost_proto::message::{DownMessage, UpMessage};
use outpost_proto::name::AgentName;
use outpost_proto::wire;

pub use self::hand::{Hand, assigned, item, pages};
pub use self::host::{Host, Step};
pub use self::people::{flow, report, task};
pub use self::restore::Backup;
use crate::dice::Dice;
use crate::disk::{CenterDisk, CommitFault};
use crate::driver::take_turn;

/// What the database host's clock shows when a scene begins, in microseconds since 1970.
pub const BEGIN: u64 = 1_700_000_000_000_000;
/// One second, in microseconds.
pub const SECOND: u64 = 1_000_000;
/// One day, in seconds.
pub const DAY: u64 = 24 * 3600;

/// More turns than any scene has at one moment: something goes round in circles.
const MOST_TURNS: u32 = 100_000;

/// A name of whatever kind.
///
/// # Panics
/// If it is none.
#[must_use]
pub fn name<T: FromStr<Err: std::fmt::Debug>>(text: &str) -> T {
    text.parse().expect("a name")
}

/// Of a process's own chance.
fn seed(of: u64) -> [u8; 32] {
    Dice::new(of).seed()
}

/// Who is at the other end of a stream.
#[derive(Debug, Clone, Copy)]
enum End {
    Host {
        host: usize,
        process: u64,
        conn: Conn,
    },
    Hand,
}

/// Who waits for an answer.
#[derive(Debug, Clone)]
enum Asker {
    Script,
    Renewal {
        host: usize,
        process: u64,
        key: String,
    },
    Recovery {
        host: usize,
        process: u64,
        conn: Conn,
        key: String,
    },
}

/// One scene.
#[derive(Debug)]
pub struct Stage {
    /// Microseconds since 1970, on every clock.
    now: u64,
    settings: Settings,
    core: Option<Orchestrator>,
    disk: CenterDisk,
    lives: u8,
    inbox: Vec<Event>,
    hosts: Vec<Host>,
    streams: BTreeMap<u64, End>,
    /// What came down to peers by hand, and why streams were ended.
    heard: BTreeMap<u64, VecDeque<DownMessage>>,
    ended: BTreeMap<u64, CloseReason>,
    next_stream: u64,
    next_call: u64,
    askers: BTreeMap<Call, Asker>,
    answers: BTreeMap<Call, Result<Answer, Denied>>,
    alarms: Vec<(AgentName, Alarm)>,
    /// Sizes of the frames that were sent, messages and bytes.
    frames: Vec<(usize, usize)>,
    turns: u32,
}

impl Default for Stage {
    fn default() -> Self {
        Self::with(Settings::default())
    }
}

impl Stage {
    /// An orchestrator on an empty database.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The same, with these settings.
    #[must_use]
    pub fn with(settings: Settings) -> Self {
        let mut scene = Self {
            now: BEGIN,
            settings,
            core: None,
            disk: CenterDisk::default(),
            lives: 0,
            inbox: Vec::new(),
            hosts: Vec::new(),
            streams: BTreeMap::new(),
            heard: BTreeMap::new(),
            ended: BTreeMap::new(),
            next_stream: 0,
            next_call: 0,
            askers: BTreeMap::new(),
            answers: BTreeMap::new(),
            alarms: Vec::new(),
            frames: Vec::new(),
            turns: 0,
        };
        scene.disk.is_read = true;
        scene.disk.mirror.recovery.counter = 1;
        scene.disk.mirror.recovery.database = 1;
        scene.orchestrator_starts();
        scene
    }

    /// What every clock shows, in microseconds since 1970.
    #[must_use]
    pub fn now(&self) -> u64 {
        self.now
    }

    // --- time

    /// Lets so many seconds pass.
    pub fn pass(&mut self, seconds: u64) {
        self.pass_ms(seconds * 1000);
    }

    /// Lets so many milliseconds pass: whatever is due in them happens.
    ///
    /// # Panics
    /// If what is due never gets done.
    pub fn pass_ms(&mut self, ms: u64) {
        let end = self.now + ms * 1000;
        self.settles();
        while let Some(next) = self.next_deadline().filter(|next| *next <= end) {
            self.now = self.now.max(next);
            self.turns = 0;
            self.is_due();
            self.settles();
        }
        self.now = end;
        self.turns = 0;
    }

    /// Lets time pass, a tenth of a second at a time, until this holds; gives how many milliseconds that took.
    ///
    /// # Panics
    /// If it does not hold within so many seconds.
    pub fn until(&mut self, seconds: u64, holds: impl Fn(&mut Self) -> bool) -> u64 {
        let began = self.now;
        while !holds(self) {
            assert!(self.now < began + seconds * SECOND, "it never happens");
            self.pass_ms(100);
        }
        (self.now - began) / 1000
    }

    fn next_deadline(&self) -> Option<u64> {
        let core = self.core.as_ref().and_then(Core::next_deadline);
        let hosts = self.hosts.iter().filter_map(Host::next_deadline);
        core.map(|at| at.0).into_iter().chain(hosts).min()
    }

    fn is_due(&mut self) {
        let due = self.core.as_ref().and_then(Core::next_deadline);
        if due.is_some_and(|at| at.0 <= self.now) {
            self.orchestrator_turns();
        }
        for host in 0..self.hosts.len() {
            self.tasks_end(host);
            if self.hosts[host]
                .core_deadline()
                .is_some_and(|at| at <= self.now)
            {
                self.host_turns(host);
            }
        }
    }

    /// Until nobody has anything to say.
    ///
    /// # Panics
    /// If that never is.
    pub fn settles(&mut self) {
        loop {
            let host = self.hosts.iter().position(Host::has_mail);
            if !self.inbox.is_empty() && self.core.is_some() {
                self.orchestrator_turns();
            } else if let Some(host) = host {
                self.host_turns(host);
            } else {
                return;
            }
        }
    }

    fn takes_a_turn(&mut self) {
        self.turns += 1;
        assert!(self.turns < MOST_TURNS, "the scene goes round in circles");
    }

    // --- the orchestrator

    fn time(&self) -> Micros {
        Micros(self.now)
    }

    fn orchestrator_starts(&mut self) {
        self.lives += 1;
        // Agents are rows of text, and what a former version wrote in them is brought up to date when it is read.
        for record in self.disk.mirror.agents.values_mut() {
            record.bring_up_to_date(self.now);
            let row = serde_json::to_string(record).expect("a row");
            let read: AgentRecord = serde_json::from_str(&row).expect("a record");
            assert_eq!(read, *record, "a row says all there is");
        }
        let snapshot = self.disk.mirror.snapshot(self.time());
        let seed = seed(u64::from(self.lives));
        let core = Orchestrator::new(self.settings, seed, self.time(), snapshot);
        self.core = Some(core);
        self.is_what_is_durable();
    }

    /// While the orchestrator is down, an agent's row becomes what a former version wrote.
    ///
    /// # Panics
    /// If there is no such agent.
    pub fn rewrite(&mut self, agent: &str, wrote: impl FnOnce(&mut serde_json::Value)) {
        let agents = &mut self.disk.mirror.agents;
        let record = agents.get_mut(&(name("acme"), name(agent)));
        let record = record.expect("an agent");
        let mut row = serde_json::to_value(record.clone()).expect("a row");
        wrote(&mut row);
        *record = serde_json::from_value(row).expect("a record");
    }

    /// kill -9 of the orchestrator: every stream ends.
    pub fn orchestrator_stops(&mut self) {
        self.core = None;
        self.inbox.clear();
        self.askers.clear();
        for (stream, end) in std::mem::take(&mut self.streams) {
            self.ended.insert(stream, CloseReason::Replaced);
            if let End::Host {
                host,
                process,
                conn,
            } = end
            {
                let why = Down::Unreachable;
                self.host_hears(host, process, SiteEvent::Closed { conn, why });
            }
        }
    }

    /// It is killed and starts again at once.
    pub fn orchestrator_restarts(&mut self) {
        self.orchestrator_stops();
        self.orchestrator_starts();
        self.settles();
    }

    /// The next commit with something to write fails; `applied`: it was durable all the same.
    pub fn commit_fails(&mut self, applied: bool) {
        let fatal = false;
        self.disk.trouble.fault = Some(CommitFault { applied, fatal });
    }

    fn is_what_is_durable(&self) {
        if let Some(core) = &self.core {
            let durable = self.disk.mirror.snapshot(self.time());
            assert_eq!(core.durable(), durable, "the core is what is durable");
        }
    }

    fn orchestrator_turns(&mut self) {
        self.takes_a_turn();
        let now = self.time();
        (self.disk.trouble.now, self.disk.now) = (self.now, now);
        let events = std::mem::take(&mut self.inbox);
        let Some(core) = self.core.as_mut() else {
            return;
        };
        let mut said = Vec::new();
        let turned = take_turn(
            (core, &mut self.disk),
            now,
            &events,
            |speech| said.push(speech),
            false,
        );
        self.is_what_is_durable();
        match turned.expect("a store that goes on") {
            Turn::Spoken => said.into_iter().for_each(|speech| self.speaks(speech)),
            // What came over streams is shown again; who asked is not answered.
            Turn::NotCommitted(_) => {
                let streams = |event: &Event| match event {
                    Event::Opened { .. } | Event::Frame { .. } | Event::Closed { .. } => true,
                    Event::Asked { .. }
                    | Event::Wall { .. }
                    | Event::Enrol { .. }
                    | Event::Renew { .. }
                    | Event::Recover { .. } => false,
                };
                self.inbox = events.into_iter().filter(streams).collect();
            }
        }
    }

    fn speaks(&mut self, speech: Speech) {
        match speech {
            Speech::Send { conn, messages } => self.goes_down(conn, &messages),
            Speech::Close { conn, why } => {
                self.ended.insert(conn.0, why);
                let Some(End::Host {
                    host,
                    process,
                    conn,
                }) = self.streams.remove(&conn.0)
                else {
                    return;
                };
                let why = match why {
                    CloseReason::Replaced => Down::Ended,
                    CloseReason::Removed | CloseReason::OtherKey | CloseReason::Cloned => {
                        Down::Refused
                    }
                    CloseReason::Version | CloseReason::Protocol => Down::Protocol,
                };
                self.host_hears(host, process, SiteEvent::Closed { conn, why });
            }
            Speech::Answer { call, answer } => self.is_answered(call, answer),
            Speech::Alarm { agent, what, .. } => self.alarms.push((agent, what)),
        }
    }

    /// Over the wire: as bytes, as many frames as they need.
    fn goes_down(&mut self, conn: Conn, messages: &[DownMessage]) {
        let frames = wire::encode_down_frames(messages).expect("an honest orchestrator's frame");
        assert_eq!(frames.len(), 1, "what is said at once fits into a frame");
        for frame in frames {
            self.frames.push((messages.len(), frame.len()));
            let messages = wire::decode_down(&frame).expect("an honest orchestrator's frame");
            match self.streams.get(&conn.0) {
                Some(End::Host {
                    host,
                    process,
                    conn,
                }) => {
                    let (host, process, conn) = (*host, *process, *conn);
                    self.host_hears(host, process, SiteEvent::Frame { conn, messages });
                }
                Some(End::Hand) => self.heard.entry(conn.0).or_default().extend(messages),
                None => panic!("something is said on a stream that ended: {messages:?}"),
            }
        }
    }

    fn goes_up(&mut self, stream: u64, messages: &[UpMessage]) {
        let frames = wire::encode_up_frames(messages).expect("a frame");
        for frame in frames {
            let messages = wire::decode_up(&frame).expect("a frame");
            let conn = Conn(stream);
            self.inbox.push(Event::Frame { conn, messages });
        }
    }

    fn stream(&mut self, end: End) -> u64 {
        self.next_stream += 1;
        self.streams.insert(self.next_stream, end);
        self.next_stream
    }

    /// The site's end of it is gone.
    fn hangs_up(&mut self, stream: u64) {
        if self.streams.remove(&stream).is_some() {
            self.inbox.push(Event::Closed { conn: Conn(stream) });
        }
    }

    fn is_answered(&mut self, call: Call, answer: Result<Answer, Denied>) {
        match self.askers.remove(&call) {
            Some(Asker::Script) => {
                self.answers.insert(call, answer);
            }
            Some(Asker::Renewal { host, process, key }) => {
                self.renewal_ends(host, process, &key, answer.is_ok());
            }
            Some(Asker::Recovery {
                host,
                process,
                conn,
                key,
            }) => {
                self.recovery_ends(host, process, conn, &key, answer);
            }
            None => {}
        }
    }

    fn call(&mut self, asker: Asker) -> Call {
        self.next_call += 1;
        let call = Call(self.next_call);
        self.askers.insert(call, asker);
        call
    }

    // --- what is told

    /// Why the orchestrator ended this stream, if it did.
    #[must_use]
    pub fn why_ended(&self, conn: Conn) -> Option<CloseReason> {
        self.ended.get(&conn.0).copied()
    }

    /// Alarms since this was last asked.
    pub fn alarms(&mut self) -> Vec<(String, Alarm)> {
        let alarms = std::mem::take(&mut self.alarms);
        let alarms = alarms.into_iter();
        alarms
            .map(|(agent, what)| (agent.to_string(), what))
            .collect()
    }

    /// Messages and bytes of each frame that was sent since this was last asked.
    pub fn frames(&mut self) -> Vec<(usize, usize)> {
        std::mem::take(&mut self.frames)
    }

    /// What people were told since this was last asked: all notices.
    pub fn notices(&mut self) -> Vec<NoticeKind> {
        let told = std::mem::take(&mut self.disk.told);
        told.into_iter().map(|notice| notice.what).collect()
    }

    /// Of these, what nobody shall miss: "word agent by: reason".
    pub fn told(&mut self) -> Vec<String> {
        let safety = |notice: NoticeKind| match notice {
            NoticeKind::Safety {
                what,
                agent,
                by,
                reason,
                ..
            } => {
                let agent = agent.map_or(String::new(), |agent| format!(" {agent}"));
                let by = by.map_or(String::new(), |by| format!(" by {by}"));
                let reason = reason.map_or(String::new(), |reason| format!(": {reason}"));
                Some(format!("{}{agent}{by}{reason}", what.word()))
            }
            NoticeKind::Run { .. }
            | NoticeKind::Task { .. }
            | NoticeKind::Attempt { .. }
            | NoticeKind::Workflow { .. }
            | NoticeKind::Skipped { .. }
            | NoticeKind::Agent { .. } => None,
        };
        self.notices().into_iter().filter_map(safety).collect()
    }
}
