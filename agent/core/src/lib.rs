//! What the agent decides: sessions, leases, attempts and what is reported of them.
//!
//! A pure state machine: no clock, no disk, no network, no processes, no randomness of its own. [`event`] is everything
//! that can happen and everything that can result, [`record`] everything that is durable, [`state`] the life of an
//! attempt as a table, [`mirror`] the journal as a value.
//!
//! Read downward: [`Agent`] below takes each event and ends each turn; `startup` makes it from what is durable,
//! `frames` and `commands` are what the orchestrator says, `work` is what becomes of attempts, `reports` what is said
//! back.

mod attempts;
mod chance;
mod clock;
mod commands;
mod entries;
pub mod event;
mod frames;
mod grid;
mod index;
mod lease;
mod lines;
mod memory;
pub mod mirror;
mod outbox;
pub mod record;
mod recovery;
mod renewal;
mod reports;
mod session;
mod settings;
mod shelf;
mod startup;
pub mod state;
mod view;
mod work;

use std::collections::BTreeMap;

use outpost_driver::{Core, Effects, Micros};
use outpost_proto::ids::{AttemptId, Conn, EventSeq};
use outpost_proto::message::{Catalogue, Flags, Health};

use crate::attempts::Attempts;
use crate::clock::Clocks;
use crate::event::{Down, Event, NotRecovered, Rules, Site, Speech};
use crate::memory::Memories;
use crate::record::{SessionRecord, SiteRecord, Snapshot, Write};
use crate::recovery::Recovery;
use crate::renewal::Renewal;
use crate::session::Connector;

pub use crate::recovery::RecoveryView;
pub use crate::renewal::CertificateView;
pub use crate::session::Phase as SessionPhase;
pub use crate::settings::{Backoff, Found, Settings};
pub use crate::startup::unsettled;
pub use crate::view::{AttemptView, Trouble, View};

/// What one event, or the end of a burst, decides.
type Out = Effects<Write, Speech>;

/// The agent.
#[derive(Debug)]
pub struct Agent {
    settings: Settings,
    rules: Option<Announced>,
    attempts: Attempts,
    memories: Memories,
    clocks: Clocks,
    counters: SessionRecord,
    counters_changed: bool,
    site: SiteRecord,
    site_changed: bool,
    next_event: u64,
    /// The highest event acknowledged in this life of the process.
    acknowledged: EventSeq,
    gates: Gates,
    connector: Connector,
    renewal: Renewal,
    recovery: Recovery,
    health: Health,
    /// The host's numbers as a strict site tells them, and when they were looked at; at first when it began to live.
    looked: (Micros, Health),
    refusals: u16,
    trouble: Option<Trouble>,
    due: Due,
    turn: Marks,
    /// What the runner found of the attempts begun before, until the turn that writes it is committed.
    found: Option<BTreeMap<AttemptId, Found>>,
}

/// The catalogue, and what is announced of it.
#[derive(Debug)]
struct Announced {
    rules: Rules,
    catalogue: Catalogue,
}

/// What keeps the agent from taking or starting work, besides the site's durable pause.
#[derive(Debug, Default)]
struct Gates {
    /// By the orchestrator; holds for one session, in which it is said again.
    cordoned: bool,
    /// By the orchestrator; holds for one session.
    told_to_drain: bool,
    /// By the site: the process ends at the latest then.
    draining: Option<Micros>,
    /// The disk has no room for more.
    no_room: bool,
    /// By the site: the process ends at the latest then.
    stopping: Option<Micros>,
    /// Nothing is decided any more.
    done: bool,
}

/// What the end of the turn still has to say.
#[derive(Debug, Default)]
struct Due {
    hangups: Vec<Conn>,
    cancels: Vec<AttemptId>,
    discards: Vec<AttemptId>,
    /// Begun, and nothing heard from their keepers yet.
    starts: Vec<AttemptId>,
}

/// What this turn is about to say once it is durable. After a commit that failed it was not said.
#[derive(Debug, Default)]
struct Marks {
    over: bool,
    starts: Vec<AttemptId>,
    discards: Vec<AttemptId>,
    hangups: Vec<Conn>,
    dialled: Option<Conn>,
}

impl Core for Agent {
    type Event = Event;
    type Write = Write;
    type Speech = Speech;
    type Snapshot = Snapshot;

    fn handle(&mut self, now: Micros, event: &Event, out: &mut Out) {
        self.begin_turn();
        if self.gates.done {
            return;
        }
        match event {
            Event::Opened { conn } => self.opened(now, *conn, out),
            Event::Closed { conn, why } => {
                self.closed(now, *conn, *why);
            }
            Event::Frame { conn, messages } => self.frame(now, *conn, messages, out),
            Event::Keeper { attempt, said } => self.keeper(now, *attempt, *said, out),
            Event::Catalogue(rules) => self.catalogue(now, rules, out),
            Event::Health(health) => self.health = *health,
            Event::Room(room) => self.room(now, *room, out),
            Event::Certificate { life_us, until } => self.certificate(*life_us, *until),
            Event::Csr(der) => self.csr(now, der, out),
            Event::Renewed { life_us, until } => self.renewed(now, *life_us, *until),
            Event::NotRenewed => self.not_stored(now),
            Event::Proof(proof) => self.proven(now, proof, out),
            Event::Challenged { conn, challenge } => self.challenged(now, *conn, challenge, out),
            Event::NotRecovered { conn, why } => self.not_recovered(now, *conn, *why),
            Event::Ends { conn, at } => self.ends(now, *conn, *at),
            Event::Site(site) => self.site(now, *site, out),
        }
    }

    fn settle(&mut self, now: Micros, out: &mut Out) {
        self.begin_turn();
        if !self.gates.done {
            self.lose_silent(now);
            self.forget_old(now, out);
            self.renew(now, out);
            self.recover_no_longer(now);
            self.say_due(out);
            self.dial(now, out);
            self.inventory(now);
            self.start(now, out);
            self.report(now, out);
            self.end(now, out);
        }
        self.write(out);
        self.turn.over = true;
    }

    fn next_deadline(&self) -> Option<Micros> {
        if self.gates.done {
            return None;
        }
        let session = self
            .connector
            .session
            .as_ref()
            .map(session::Session::next_deadline);
        let retry = Some(self.connector.retry_at).filter(|_| self.may_dial());
        let memory = self.memories.due_s().and_then(|s| self.clocks.when(s));
        let successor = self
            .connector
            .successor_due()
            .filter(|_| self.may_succeed());
        [
            session,
            retry,
            successor,
            self.connector.successor_patience_ends(),
            self.renewal.next_deadline(self.may_renew()),
            self.recovery.overdue(),
            memory,
            self.gates.draining,
            self.gates.stopping,
        ]
        .into_iter()
        .flatten()
        .min()
    }

    fn reload(&mut self, now: Micros, snapshot: Snapshot) {
        self.start_over(now, snapshot);
    }
}

impl Agent {
    /// Everything that is, or at the end of this turn will be, durable.
    #[must_use]
    pub fn durable(&self) -> Snapshot {
        Snapshot {
            attempts: self
                .attempts
                .iter()
                .map(|held| held.record.clone())
                .collect(),
            memories: self.memories.all(),
            session: self.counters,
            site: self.site,
        }
    }

    /// Seconds since 1970 that have surely passed: by the clock of this host, and by that of the orchestrator, as far as it
    /// was heard in this life of the process; 0 when it was not. Nothing counts as old by any other time.
    #[must_use]
    pub fn surely_s(&self, now: Micros) -> u64 {
        self.clocks.surely_s(now)
    }

    fn begin_turn(&mut self) {
        if self.turn.over {
            self.turn = Marks::default();
            self.found = None;
        }
    }

    fn site(&mut self, now: Micros, site: Site, out: &mut Out) {
        match site {
            Site::Pause | Site::Resume => {
                let paused = site == Site::Pause;
                self.site_changed |= self.site.paused != paused;
                self.site.paused = paused;
            }
            Site::Drain => {
                if self.gates.draining.is_none() {
                    self.gates.draining = Some(now.plus(self.settings.drain_limit));
                }
                self.turn_all_away(now, commands::draining(), out);
            }
            Site::Stop => {
                if self.gates.stopping.is_none() {
                    self.gates.stopping = Some(now.plus(self.settings.stop_grace));
                }
            }
        }
    }

    fn closed(&mut self, now: Micros, conn: Conn, why: Down) {
        if self.connector.on(conn).is_some() {
            self.lose(now, why, Trouble::Down(why));
            if why == Down::Expired && self.connector.session.is_none() {
                self.has_ended(now);
            }
        } else if self.recovery.conn() == Some(conn) {
            self.recovery_failed(now, NotRecovered::Later);
        } else if self.connector.is_successor(conn) {
            self.connector.successor_lost(now, &self.settings);
        } else if self.connector.is_fading(conn) {
            self.connector.faded();
        }
    }

    /// Ends the present session. The stream itself is gone already.
    fn lose(&mut self, now: Micros, why: Down, trouble: Trouble) -> Option<Conn> {
        self.trouble = Some(trouble);
        let conn = self.connector.lost(now, why, &self.settings);
        if let Some(conn) = conn {
            self.unanswered(now, conn);
        }
        // What faded is of use only until its successor is welcomed. A successor that took the place goes on.
        self.due.hangups.extend(self.connector.faded());
        if self.connector.session.is_none() {
            self.due.hangups.extend(self.connector.give_up_others());
        }
        conn
    }

    /// Ends the present session and its stream.
    fn hang_up(&mut self, now: Micros, why: Down, trouble: Trouble) {
        let conn = self.lose(now, why, trouble);
        self.due.hangups.extend(conn);
    }

    fn lose_silent(&mut self, now: Micros) {
        if self
            .connector
            .session
            .as_ref()
            .is_some_and(|session| session.patience_ends() <= now)
        {
            self.hang_up(now, Down::Unreachable, Trouble::Silent);
        }
        if self
            .connector
            .successor_patience_ends()
            .is_some_and(|at| at <= now)
        {
            let conn = self.connector.successor_lost(now, &self.settings);
            self.due.hangups.extend(conn);
        }
    }

    /// A stream's certificates end then: another one is made in time, at two thirds of what is left.
    fn ends(&mut self, now: Micros, conn: Conn, at: Micros) {
        if self.connector.on(conn).is_some() {
            let left = at.since(now);
            self.connector.want_successor(Micros(now.0 + left / 3 * 2));
        }
    }

    fn forget_old(&mut self, now: Micros, out: &mut Out) {
        let forgotten = self.memories.forget(self.clocks.surely_s(now));
        out.writes
            .extend(forgotten.into_iter().map(Write::Forgotten));
    }

    fn say_due(&mut self, out: &mut Out) {
        for conn in std::mem::take(&mut self.due.hangups) {
            self.turn.hangups.push(conn);
            out.speech.push(Speech::Hangup { conn });
        }
        let mut cancels = std::mem::take(&mut self.due.cancels);
        cancels.sort_unstable();
        cancels.dedup();
        out.speech.extend(
            cancels
                .into_iter()
                .map(|attempt| Speech::Cancel { attempt }),
        );
        for attempt in std::mem::take(&mut self.due.discards) {
            self.turn.discards.push(attempt);
            out.speech.push(Speech::Discard { attempt });
        }
    }

    fn may_dial(&self) -> bool {
        self.connector.session.is_none()
            && !self.recovery.is_under_way()
            && self.rules.is_some()
            && self.gates.stopping.is_none()
    }

    fn dial(&mut self, now: Micros, out: &mut Out) {
        if self.may_dial() && self.connector.retry_at <= now {
            if self.recovery.is_wanted() {
                return self.recover(now, out);
            }
            let conn = self.connector.dial(now);
            self.turn.dialled = Some(conn);
            out.speech.push(Speech::Dial { conn });
        } else if self.may_succeed() && self.connector.successor_due().is_some_and(|at| at <= now) {
            let conn = self.connector.dial_successor(now);
            self.turn.dialled = Some(conn);
            out.speech.push(Speech::Dial { conn });
        }
    }

    /// Not while a renewal is under way: its answer comes on the present stream, and wants a successor anyway.
    fn may_succeed(&self) -> bool {
        self.renewal.is_idle() && self.gates.stopping.is_none() && self.rules.is_some()
    }

    /// Ends the process once it is drained or stopped, or was given long enough.
    fn end(&mut self, now: Micros, out: &mut Out) {
        let all_told = self.attempts.over() == 0;
        let drained = all_told && self.attempts.len() == 0;
        let unheard = self.connector.ready().is_none();
        // What waits at a keeper comes back first: the next process may begin it.
        let none_waits = self.attempts.index.lines.len() == 0;
        let over = self
            .gates
            .draining
            .is_some_and(|limit| drained || limit <= now)
            || self
                .gates
                .stopping
                .is_some_and(|limit| (all_told || unheard) && none_waits || limit <= now);
        if !over {
            return;
        }
        let others = self.connector.give_up_others();
        let session = self.connector.session.take().map(|session| session.conn);
        let hangups = session.into_iter().chain(others);
        out.speech
            .extend(hangups.map(|conn| Speech::Hangup { conn }));
        out.speech.push(Speech::Done);
        self.gates.done = true;
    }

    fn write(&mut self, out: &mut Out) {
        let records = self.attempts.drain_changed();
        out.writes.extend(
            records
                .into_iter()
                .map(|record| Write::Attempt(Box::new(record))),
        );
        if std::mem::take(&mut self.counters_changed) {
            out.writes.push(Write::Session(self.counters));
        }
        if std::mem::take(&mut self.site_changed) {
            out.writes.push(Write::Site(self.site));
        }
    }

    fn flags(&self) -> Flags {
        Flags {
            paused: self.site.paused,
            draining: self.gates.cordoned
                || self.gates.told_to_drain
                || self.gates.draining.is_some(),
            observe: self.settings.observe,
            hold: self.counters.hold.is_some(),
        }
    }
}

#[cfg(test)]
mod tests;
