//! The world around one agent under test, and what must hold after each of its turns.

use std::collections::{BTreeMap, BTreeSet};

use outpost_driver::{Micros, Turn};
use outpost_proto::ids::*;
use outpost_proto::message::*;

use super::harness::*;
use crate::Settings;
use crate::event::{Event, KeeperSaid, Speech, Terms};
use crate::record::Snapshot;

/// A stream as the orchestrator sees it.
#[derive(Debug, Default)]
pub(super) struct Stream {
    pub(super) hello: bool,
    pub(super) welcomed: bool,
    pub(super) reconciled: bool,
    pub(super) beats: Vec<(HeartbeatSeq, Micros)>,
    pub(super) lease_until: Option<Micros>,
}

impl Stream {
    /// Notes what a lease that names the heartbeat `seq` allows; one that names none allows nothing.
    pub(super) fn granted(&mut self, seq: u32) {
        let named = self.beats.iter().find(|(beat, _)| beat.0 == seq);
        let until = named.map(|(_, at)| at.plus_ms(30_000));
        self.lease_until = self.lease_until.max(until);
    }
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Keeper {
    /// Handed over to the keeper of this one, which is not over.
    Waits(AttemptId),
    Launched,
    Running,
    Over(KeeperSaid),
}

pub(super) struct World {
    pub(super) stage: Stage,
    pub(super) hostile: bool,
    pub(super) dialled: Option<Conn>,
    pub(super) stream: Option<Stream>,
    /// Dialled beside the stream.
    pub(super) successor: Option<Conn>,
    /// Link was asked for a request; it was said on this stream.
    pub(super) csr_wanted: bool,
    pub(super) renewing: Option<Conn>,
    pub(super) successions: u32,
    pub(super) keepers: BTreeMap<AttemptId, Keeper>,
    /// Whom a keeper began after the one that was handed to it first: nobody may have heard of it yet.
    pub(super) follows: BTreeMap<AttemptId, AttemptId>,
    /// Whom keepers were handed, in order.
    pub(super) handed: Vec<AttemptId>,
    /// Handed to keepers that are lost: whoever hands them over sees that nobody took them.
    pub(super) declined: Vec<AttemptId>,
    pub(super) cancelled: BTreeSet<AttemptId>,
    /// Asked back from their keepers.
    pub(super) wanted: BTreeSet<AttemptId>,
    pub(super) known: BTreeMap<AttemptId, Assign>,
    pub(super) settled: BTreeSet<AttemptId>,
    pub(super) forgotten: BTreeSet<AttemptId>,
    pub(super) seen: EventSeq,
    pub(super) acknowledged: EventSeq,
    pub(super) version: u32,
    pub(super) drop_speech: bool,
    pub(super) before: Snapshot,
    pub(super) starts: u32,
}

pub(super) fn small() -> Settings {
    Settings {
        slots: 3,
        ahead: 2,
        backlog: 4,
        ..settings()
    }
}

impl World {
    pub(super) fn new(hostile: bool) -> Self {
        let mut world = Self {
            stage: Stage::new(small()),
            hostile,
            dialled: None,
            stream: None,
            successor: None,
            csr_wanted: false,
            renewing: None,
            successions: 0,
            keepers: BTreeMap::new(),
            follows: BTreeMap::new(),
            handed: Vec::new(),
            declined: Vec::new(),
            cancelled: BTreeSet::new(),
            wanted: BTreeSet::new(),
            known: BTreeMap::new(),
            settled: BTreeSet::new(),
            forgotten: BTreeSet::new(),
            seen: EventSeq(0),
            acknowledged: EventSeq(0),
            version: 1,
            drop_speech: false,
            before: Snapshot::default(),
            starts: 0,
        };
        let rules = world.rules();
        world.happens(rules);
        world
    }

    pub(super) fn rules(&self) -> Event {
        let single = Terms {
            max_parallel: Some(1),
            ..free()
        };
        let seldom = Terms {
            max_per_hour: Some(3),
            ..free()
        };
        shop(
            self.version,
            &[("copy", free()), ("single", single), ("seldom", seldom)],
        )
    }

    /// One event, and everything the promises say about what follows.
    pub(super) fn happens(&mut self, event: Event) {
        let again = !matches!(event, Event::Frame { .. } | Event::Opened { .. });
        let turned = self.stage.turn(std::slice::from_ref(&event));
        let said = std::mem::take(&mut self.stage.said);
        if turned == Turn::Spoken && self.drop_speech {
            self.check_history();
            return self.crash(false);
        }
        if let Turn::NotCommitted(_) = turned {
            assert!(said.is_empty(), "spoke before the commit");
            self.all_streams_gone();
            self.check_history();
            if again {
                self.happens(event);
            }
            return;
        }
        self.check_history();
        let done = said.contains(&Speech::Done);
        for speech in said {
            self.check_speech(speech);
        }
        if done {
            self.crash(true);
        }
        while let Some(attempt) = self.declined.pop() {
            self.given_back(attempt);
        }
    }

    /// A keeper has it no more, or never had it.
    pub(super) fn given_back(&mut self, attempt: AttemptId) {
        self.keepers.remove(&attempt);
        self.wanted.remove(&attempt);
        let said = KeeperSaid::GivenBack;
        self.happens(Event::Keeper { attempt, said });
    }

    pub(super) fn all_streams_gone(&mut self) {
        (self.stream, self.dialled, self.successor) = (None, None, None);
        (self.csr_wanted, self.renewing) = (false, None);
    }

    /// What is dialled beside a stream that is gone takes its place.
    pub(super) fn stream_gone(&mut self) {
        self.stream = None;
        self.dialled = self.successor.take();
    }

    pub(super) fn check_history(&mut self) {
        let after = self.stage.journal.mirror.snapshot();
        let live = |keeper: &&Keeper| matches!(keeper, Keeper::Launched | Keeper::Running);
        assert!(
            self.keepers.values().filter(live).count() <= 3,
            "more than the slots"
        );
        for was in &self.before.attempts {
            let AttemptState::Finished(_) = was.state else {
                continue;
            };
            let id = was.assign.attempt;
            if let Some(is) = after
                .attempts
                .iter()
                .find(|record| record.assign.attempt == id)
            {
                assert_eq!(is.state, was.state, "a terminal state stays");
            } else {
                assert!(
                    after.memories.iter().any(|memory| memory.attempt == id),
                    "an outcome vanished"
                );
                let acked = was.event_seq != EventSeq(0) && was.event_seq <= self.acknowledged;
                assert!(
                    acked || self.forgotten.contains(&id),
                    "an outcome went before its acknowledgement"
                );
            }
        }
        for memory in &self.before.memories {
            assert!(after.memories.contains(memory), "a memory went early");
        }
        assert!(after.session.event_seq_reserved >= self.before.session.event_seq_reserved);
        self.settled
            .extend(after.memories.iter().map(|memory| memory.attempt));
        self.before = after;
    }

    pub(super) fn check_speech(&mut self, speech: Speech) {
        match speech {
            Speech::Dial { conn } => {
                let Some(stream) = &self.stream else {
                    self.dialled = Some(conn);
                    return;
                };
                assert!(stream.reconciled, "a successor of a session that works");
                let other = self.successor.replace(conn);
                assert!(other.is_none(), "one successor at a time");
            }
            Speech::Send { conn, messages } => {
                assert_eq!(
                    Some(conn),
                    self.dialled,
                    "said on a stream that is not the present one"
                );
                assert!(!messages.is_empty() && messages.len() <= 64);
                messages
                    .into_iter()
                    .for_each(|message| self.check_message(message));
            }
            Speech::Hangup { conn } => {
                self.successor.take_if(|successor| *successor == conn);
                if self.dialled == Some(conn) {
                    self.stream_gone();
                }
            }
            Speech::MakeCsr => self.csr_wanted = true,
            Speech::Prove { .. } | Speech::Recover { .. } => {}
            Speech::Renew { conn, csr } => {
                assert_eq!(Some(conn), self.dialled, "asked on the present stream");
                assert!(!csr.is_empty(), "asked with what link made");
                self.renewing = Some(conn);
            }
            Speech::Start {
                assign,
                lease_until,
                behind,
            } => {
                let stream = self.stream.as_ref().expect("started without a session");
                assert!(stream.reconciled, "started before the reconciliation");
                assert_eq!(
                    Some(lease_until),
                    stream.lease_until,
                    "started under another lease"
                );
                assert!(
                    lease_until > self.stage.now,
                    "started under a lease that is over"
                );
                let keeper = self.keeper_for(behind, assign.attempt);
                let earlier = self.keepers.insert(assign.attempt, keeper);
                assert!(earlier.is_none(), "started twice");
                self.starts += 1;
            }
            Speech::TakeBack { attempt } => {
                self.wanted.insert(attempt);
            }
            Speech::Cancel { attempt } => {
                self.cancelled.insert(attempt);
            }
            Speech::Alarm(alarm) => assert!(self.hostile, "an honest history raised {alarm:?}"),
            Speech::InTouch | Speech::Discard { .. } | Speech::Refused { .. } | Speech::Done => {}
        }
    }

    /// Where an attempt goes. The keeper of one that is over begins the next at once, and has only one at a time; one
    /// that is lost takes nothing.
    fn keeper_for(&mut self, behind: Option<AttemptId>, attempt: AttemptId) -> Keeper {
        let Some(mut first) = behind else {
            return Keeper::Launched;
        };
        self.handed.push(attempt);
        while let Some(next) = self.follows.get(&first) {
            first = *next;
        }
        match self.keepers.get(&first) {
            Some(Keeper::Launched | Keeper::Running) => Keeper::Waits(first),
            Some(Keeper::Waits(_)) => panic!("behind one that waits itself"),
            Some(Keeper::Over(KeeperSaid::Gone { .. })) => {
                self.declined.push(attempt);
                Keeper::Over(KeeperSaid::GivenBack)
            }
            Some(Keeper::Over(_)) | None => {
                self.follows.insert(first, attempt);
                Keeper::Launched
            }
        }
    }

    /// Who waits behind an attempt, in order.
    fn line(&self, first: AttemptId) -> Vec<AttemptId> {
        let waits = |(attempt, keeper): (&AttemptId, &Keeper)| {
            matches!(keeper, Keeper::Waits(other) if *other == first).then_some(*attempt)
        };
        let mut line = self.keepers.iter().filter_map(waits).collect::<Vec<_>>();
        // One that was given back and handed over again is the last.
        line.sort_by_key(|attempt| self.handed.iter().rposition(|handed| handed == attempt));
        line
    }

    /// An attempt is over: its keeper goes on with the next, whether anybody hears of it or not.
    pub(super) fn goes_on(&mut self, first: AttemptId) {
        let mut line = self.line(first).into_iter();
        let Some(next) = line.next() else { return };
        self.keepers.insert(next, Keeper::Launched);
        self.follows.insert(first, next);
        for other in line {
            self.keepers.insert(other, Keeper::Waits(next));
        }
    }

    /// A keeper is lost: nobody begins what waited there any more. What that was.
    pub(super) fn lost(&mut self, first: AttemptId) -> Vec<AttemptId> {
        let line = self.line(first);
        for attempt in &line {
            let never = KeeperSaid::Gone { claimed: false };
            self.keepers.insert(*attempt, Keeper::Over(never));
        }
        line
    }

    pub(super) fn check_message(&mut self, message: UpMessage) {
        let now = self.stage.now;
        let stream = self.stream.as_mut().expect("said without a stream");
        if let UpMessage::Hello(_) = message {
            assert!(
                !std::mem::replace(&mut stream.hello, true),
                "a second Hello"
            );
            return;
        }
        assert!(stream.hello && stream.welcomed, "said before Welcome");
        match message {
            UpMessage::Event(event) => {
                assert!(stream.reconciled, "an event before the reconciliation");
                assert!(event.event_seq > self.seen, "numbers grow on the wire");
                self.seen = event.event_seq;
            }
            UpMessage::Inventory(page) => {
                for item in page.items {
                    self.seen = self.seen.max(item.event_seq);
                    let over = matches!(item.state, AttemptState::Finished(_));
                    assert!(
                        !over || item.event_seq != EventSeq(0),
                        "an outcome that no acknowledgement can name"
                    );
                }
            }
            UpMessage::Heartbeat(heartbeat) => stream.beats.push((heartbeat.seq, now)),
            UpMessage::Hello(_)
            | UpMessage::Catalogue(_)
            | UpMessage::Trigger { .. }
            | UpMessage::Ack(_) => {}
        }
    }
}
