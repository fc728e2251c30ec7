//! The orchestrator's part at one agent: what it says by default, and how the agent's answers are read.

use std::time::Duration;

use outpost_agent_core::event::{Alarm, Event, KeeperSaid, Speech};
use outpost_agent_core::record::AttemptRecord;
use outpost_agent_core::{SessionPhase, View};
use outpost_proto::ids::{
    AttemptId, CatalogueVersion, CommandSeq, Conn, EventSeq, Fence, HeartbeatSeq, Nonce,
    RecoveryEpoch, RunId, SessionEpoch, TaskIndex,
};
use outpost_proto::message::{
    Assign, AttemptState, Directive, DownMessage, Granted, Heartbeat, Hello, InventoryItem,
    UpMessage, Welcome,
};
use outpost_proto::outcome::{Outcome, Refusal, Report};
use outpost_sim::scene::{Host, Scene};

pub(crate) const MS: u64 = 1_000;
pub(crate) const SECOND: u64 = 1_000_000;
/// Longer than anything takes that follows at once.
const SOON: Duration = Duration::from_millis(25);
pub(crate) const LIFE: RecoveryEpoch = RecoveryEpoch {
    counter: 1,
    database: 77,
};

pub(crate) fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

pub(crate) fn millis(count: u64) -> Duration {
    Duration::from_millis(count)
}

/// One agent at whose other end the test is.
pub(crate) struct Part {
    pub(crate) scene: Scene,
    pub(crate) command: u64,
    /// How much of what arrived was answered.
    read: usize,
    /// The highest event that was said to be durable.
    pub(crate) acked: u64,
}

impl Part {
    /// The agent has begun; nothing was said.
    pub(crate) fn of(host: Host) -> Self {
        Self {
            scene: Scene::played(&[host]),
            command: 0,
            read: 0,
            acked: 0,
        }
    }

    /// The agent is ready and has a lease of 30 s.
    pub(crate) fn ready(host: Host) -> Self {
        let mut part = Self::of(host);
        part.begins();
        part
    }

    /// From the next Hello to a ready session with a lease.
    pub(crate) fn begins(&mut self) {
        let highest_event_seq = EventSeq(self.acked);
        self.begins_as(Welcome {
            highest_event_seq,
            ..welcome()
        });
    }

    pub(crate) fn begins_as(&mut self, welcome: Welcome) {
        self.hello();
        self.welcomes(welcome);
        self.reconciles();
    }

    /// Waits for the Hello of a stream that has none yet.
    pub(crate) fn hello(&mut self) -> Hello {
        let newest = |scene: &Scene| scene.streams(0).pop().map(|(_, link)| link);
        let said = |scene: &Scene| {
            let link = newest(scene)?;
            let mut on_it = scene.up(0).filter(|(_, on, _)| *on == link);
            match on_it.next()? {
                (_, _, [UpMessage::Hello(hello)]) => Some(hello.clone()),
                // Of a page that was turned, or the stream before.
                _ => None,
            }
        };
        self.scene.until("a Hello", |scene| {
            said(scene).is_some()
                && scene
                    .view(0)
                    .is_some_and(|view| view.session == Some(SessionPhase::Greeting))
        });
        said(&self.scene).expect("a Hello")
    }

    /// What the agent answers to this Welcome, frame by frame.
    pub(crate) fn welcomes(&mut self, welcome: Welcome) -> Vec<Vec<UpMessage>> {
        self.read = self.scene.up(0).count();
        self.tell(&[DownMessage::Welcome(welcome)]);
        let said = self.scene.up(0).skip(self.read);
        said.map(|(.., messages)| messages.to_vec()).collect()
    }

    pub(crate) fn reconciles(&mut self) {
        // A strict site says all of it on the grid.
        let read = self.read;
        self.scene.until("an inventory", |scene| {
            scene
                .up(0)
                .skip(read)
                .any(|(.., said)| matches!(said.last(), Some(UpMessage::Heartbeat(_))))
        });
        let reconciled = self.order(Directive::Reconciled);
        let beat = self.beat().expect("a heartbeat").seq;
        self.tell(&[reconciled, lease(beat, 30_000)]);
        assert_eq!(self.view().session, Some(SessionPhase::Ready));
        self.read = self.scene.up(0).count();
    }

    /// Reconciles when the page with its first heartbeat was turned.
    pub(crate) fn reconciles_after(&mut self, beat: u32) {
        let reconciled = self.order(Directive::Reconciled);
        self.tell(&[reconciled, lease(HeartbeatSeq(beat), 30_000)]);
        assert_eq!(self.view().session, Some(SessionPhase::Ready));
    }

    pub(crate) fn order(&mut self, directive: Directive) -> DownMessage {
        self.command += 1;
        DownMessage::Directive {
            command_seq: CommandSeq(self.command),
            directive,
        }
    }

    pub(crate) fn assign(&mut self, attempt: u128, entry: &str) -> Assign {
        self.command += 1;
        assign(attempt, entry, CommandSeq(self.command))
    }

    pub(crate) fn job(&mut self, attempt: u128, entry: &str) -> DownMessage {
        DownMessage::Assign(self.assign(attempt, entry))
    }

    /// Says this, and whatever follows at once.
    pub(crate) fn tell(&mut self, messages: &[DownMessage]) {
        for message in messages {
            if let DownMessage::Granted(granted) = message {
                self.acked = self.acked.max(granted.highest_event_seq.0);
            }
        }
        self.scene.tell(0, messages);
        self.scene.run(SOON);
    }

    /// Gives these attempts, in one frame.
    pub(crate) fn gives(&mut self, entry: &str, attempts: &[u128]) {
        let jobs: Vec<_> = attempts.iter().map(|n| self.job(*n, entry)).collect();
        self.tell(&jobs);
    }

    pub(crate) fn commands(&mut self, directive: Directive) {
        let order = self.order(directive);
        self.tell(&[order]);
    }

    /// So much time passes, and nobody says anything to the agent.
    pub(crate) fn silent(&mut self, lasts: Duration) {
        self.scene.run(lasts);
        self.read = self.scene.up(0).count();
    }

    /// So much time passes, and every heartbeat is answered with a lease of 30 s.
    pub(crate) fn goes_on(&mut self, lasts: Duration) {
        self.goes_on_with(lasts, 30_000);
    }

    pub(crate) fn goes_on_with(&mut self, lasts: Duration, lease_ms: u32) {
        let until = self.scene.now() + u64::try_from(lasts.as_micros()).expect("a span");
        while self.scene.due().is_some_and(|at| at <= until) {
            self.scene.step();
            let fresh: Vec<(u64, HeartbeatSeq)> = {
                let said = self.scene.up(0).skip(self.read);
                let beats = said.flat_map(|(_, link, messages)| {
                    messages.iter().filter_map(move |message| match message {
                        UpMessage::Heartbeat(beat) => Some((link, beat.seq)),
                        _ => None,
                    })
                });
                beats.collect()
            };
            self.read = self.scene.up(0).count();
            for (link, seq) in fresh {
                self.scene.tell_on(link, &[lease(seq, lease_ms)]);
            }
        }
        let left = until - self.scene.now();
        self.scene.run(Duration::from_micros(left));
    }

    /// Everything until so many microseconds before the agent's clock shows this.
    pub(crate) fn runs_to(&mut self, shown: u64, before: u64) {
        let at = shown - SECOND - before;
        let left = at.checked_sub(self.scene.now()).expect("a time to come");
        self.scene.run(Duration::from_micros(left));
    }

    /// What link took from the present stream.
    pub(crate) fn hears_frame(&mut self, messages: Vec<DownMessage>) {
        let conn = self.conn();
        self.hears(Event::Frame { conn, messages });
    }

    pub(crate) fn hears(&mut self, event: Event) {
        self.scene.hears(0, event);
        self.scene.run(SOON);
    }

    pub(crate) fn keeper(&mut self, attempt: u128, said: KeeperSaid) {
        self.hears(Event::Keeper {
            attempt: AttemptId(attempt),
            said,
        });
    }

    pub(crate) fn ends(&mut self, attempt: u128, outcome: Outcome) {
        self.scene.task_ends(0, AttemptId(attempt), outcome);
        self.scene.run(SOON);
    }

    pub(crate) fn wants(&mut self, wants: outpost_agent_core::event::Site) {
        self.scene.wants(0, wants);
        self.scene.run(SOON);
    }

    /// Nothing of what was said until now is looked at again.
    pub(crate) fn page(&mut self) {
        self.scene.turn_the_page();
        self.read = 0;
    }

    // --- what the agent said and is

    pub(crate) fn view(&self) -> View {
        self.scene.view(0).expect("a process")
    }

    pub(crate) fn conn(&self) -> Conn {
        self.scene.streams(0).pop().expect("a stream").0
    }

    pub(crate) fn held(&self, attempt: u128) -> Option<AttemptRecord> {
        let held = self.scene.journal(0).attempts;
        held.into_iter()
            .find(|held| held.assign.attempt == AttemptId(attempt))
    }

    pub(crate) fn state(&self, attempt: u128) -> Option<AttemptState> {
        self.held(attempt).map(|held| held.state)
    }

    /// How it ended, as the journal has it.
    pub(crate) fn outcome(&self, attempt: u128) -> Option<Outcome> {
        match self.state(attempt)? {
            AttemptState::Finished(report) => Some(report.outcome),
            _ => None,
        }
    }

    /// What was begun, and behind whom.
    pub(crate) fn begun(&self) -> Vec<(u128, Option<u128>)> {
        let begun = self.scene.said(0).filter_map(|(_, said)| match said {
            Speech::Start { assign, behind, .. } => {
                Some((assign.attempt.0, behind.map(|first| first.0)))
            }
            _ => None,
        });
        begun.collect()
    }

    /// Who was asked back from its keeper.
    pub(crate) fn asked_back(&self) -> Vec<u128> {
        let asked = self.scene.said(0).filter_map(|(_, said)| match said {
            Speech::TakeBack { attempt } => Some(attempt.0),
            _ => None,
        });
        asked.collect()
    }

    pub(crate) fn alarms(&self) -> Vec<Alarm> {
        let alarms = self.scene.said(0).filter_map(|(_, said)| match said {
            Speech::Alarm(alarm) => Some(*alarm),
            _ => None,
        });
        alarms.collect()
    }

    pub(crate) fn dials(&self) -> Vec<(u64, Conn)> {
        let dials = self.scene.said(0).filter_map(|(at, said)| match said {
            Speech::Dial { conn } => Some((at, *conn)),
            _ => None,
        });
        dials.collect()
    }

    pub(crate) fn hangups(&self) -> Vec<(u64, Conn)> {
        let hangups = self.scene.said(0).filter_map(|(at, said)| match said {
            Speech::Hangup { conn } => Some((at, *conn)),
            _ => None,
        });
        hangups.collect()
    }

    /// What the site's log says of refusals: which, and how upstream is told.
    pub(crate) fn refused(&self) -> Vec<(u128, Refusal, String)> {
        let refused = self.scene.said(0).filter_map(|(_, said)| match said {
            Speech::Refused {
                attempt,
                refusal,
                why,
                ..
            } => Some((attempt.0, *refusal, why.clone())),
            _ => None,
        });
        refused.collect()
    }

    /// The frames that arrived: when, and what.
    pub(crate) fn frames(&self) -> Vec<(u64, Vec<UpMessage>)> {
        let frames = self.scene.up(0);
        frames
            .map(|(at, _, messages)| (at, messages.to_vec()))
            .collect()
    }

    pub(crate) fn told(&self) -> Vec<UpMessage> {
        self.frames()
            .into_iter()
            .flat_map(|(_, said)| said)
            .collect()
    }

    /// What was told of attempts: number, which, where it stands.
    pub(crate) fn events(&self) -> Vec<(u64, u128, AttemptState)> {
        let told = self.told().into_iter();
        let events = told.filter_map(|message| match message {
            UpMessage::Event(event) => Some((event.event_seq.0, event.attempt.0, event.state)),
            _ => None,
        });
        events.collect()
    }

    pub(crate) fn acks(&self) -> Vec<u64> {
        let told = self.told().into_iter();
        let acks = told.filter_map(|message| match message {
            UpMessage::Ack(CommandSeq(number)) => Some(number),
            _ => None,
        });
        acks.collect()
    }

    pub(crate) fn beats(&self) -> Vec<(u64, Heartbeat)> {
        let frames = self.frames().into_iter();
        let beats = frames.flat_map(|(at, said)| {
            said.into_iter().filter_map(move |message| match message {
                UpMessage::Heartbeat(beat) => Some((at, beat)),
                _ => None,
            })
        });
        beats.collect()
    }

    pub(crate) fn beat(&self) -> Option<Heartbeat> {
        self.beats().pop().map(|(_, beat)| beat)
    }

    pub(crate) fn phase(&self) -> Option<SessionPhase> {
        self.view().session
    }
}

/// The pages of an inventory.
pub(crate) fn items(frames: &[Vec<UpMessage>]) -> Vec<InventoryItem> {
    let messages = frames.iter().flatten();
    let pages = messages.filter_map(|message| match message {
        UpMessage::Inventory(page) => Some(page.items.clone()),
        _ => None,
    });
    pages.flatten().collect()
}

pub(crate) fn assign(attempt: u128, entry: &str, command_seq: CommandSeq) -> Assign {
    Assign {
        attempt: AttemptId(attempt),
        run: RunId(1),
        task: TaskIndex(0),
        fence: Fence(1),
        command_seq,
        entry: entry.parse().expect("a name"),
        catalogue_version: CatalogueVersion(1),
        parameters: vec![],
        deadline_ms: None,
        task_name: "task".parse().expect("a name"),
        workflow_name: "flow".parse().expect("a name"),
    }
}

pub(crate) fn welcome() -> Welcome {
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

pub(crate) fn lease(seq: HeartbeatSeq, lease_ms: u32) -> DownMessage {
    DownMessage::Granted(Granted {
        highest_event_seq: EventSeq(0),
        lease: Some((seq, lease_ms)),
    })
}

pub(crate) fn durable(event: u64) -> DownMessage {
    DownMessage::Granted(Granted {
        highest_event_seq: EventSeq(event),
        lease: None,
    })
}

/// An end that no keeper measured.
pub(crate) fn ended(outcome: Outcome, may_have_started: bool) -> AttemptState {
    AttemptState::Finished(Report {
        outcome,
        may_have_started,
        duration_ms: 0,
        exit_code: None,
        count: None,
    })
}

pub(crate) fn refusal(refusal: Refusal) -> AttemptState {
    ended(Outcome::Refused(refusal), false)
}
