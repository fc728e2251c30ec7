//! The chain of session nonces between both cores: ten thousand crashes at random points of the exchange raise no false
//! alarm, and a copy of the agent's state always raises one.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use outpost_agent_core::event::{Catalog, Down, Event as Happens, Speech as Says, Terms};
use outpost_agent_core::mirror::Mirror as Journal;
use outpost_agent_core::{Agent, Settings as AgentSettings};
use outpost_driver::{Core, Effects, Micros};
use outpost_orchestrator_core::event::{Ask, Call, CloseReason, Event, Speech};
use outpost_orchestrator_core::mirror::Mirror;
use outpost_orchestrator_core::{Orchestrator, Settings};
use outpost_proto::ids::{CatalogueVersion, Conn, Incarnation};
use outpost_proto::message::{Assign, Catalogue, DownMessage, UpMessage};
use outpost_proto::outcome::Refusal;

const CRASHES: usize = 10_000;

#[derive(Debug)]
struct Nothing;

impl Catalog for Nothing {
    fn announced(&self) -> Catalogue {
        Catalogue {
            version: CatalogueVersion(1),
            entries: vec![],
        }
    }

    fn judge(&self, _: &Assign) -> Result<Terms, (Refusal, String)> {
        Err((Refusal::UnknownEntry, "there is none".into()))
    }
}

/// A splitmix64 generator: the same numbers each time.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn percent(&mut self, percent: u64) -> bool {
        self.next() % 100 < percent
    }

    fn seed(&mut self) -> [u8; 32] {
        let mut seed = [0; 32];
        for part in seed.chunks_mut(8) {
            part.copy_from_slice(&self.next().to_le_bytes());
        }
        seed
    }
}

/// One holder of the agent's state.
struct Holder {
    core: Agent,
    /// What a crash of the process leaves, and what a power cut leaves.
    written: Journal,
    durable: Journal,
    boots: u64,
    /// Its connection numbers and the orchestrator's.
    conns: BTreeMap<Conn, Conn>,
}

enum Packet {
    Up(Conn, Vec<UpMessage>),
    Down(Conn, Vec<DownMessage>),
    /// To the holder: its stream is gone.
    Gone(Conn, Down),
}

struct World {
    dice: Dice,
    now: Micros,
    center: Orchestrator,
    store: Mirror,
    holders: Vec<Holder>,
    wire: VecDeque<(usize, Packet)>,
    next_conn: u64,
    crashes: usize,
    alarms: Vec<String>,
    reconciled: usize,
    /// Crashes happen.
    rough: bool,
}

impl World {
    fn new() -> Self {
        let (mut dice, now) = (Dice(7), Micros(1_700_000_000_000_000));
        let mut store = Mirror::default();
        let mut center =
            Orchestrator::new(Settings::default(), dice.seed(), now, store.snapshot(now));
        let invite = Ask::Invite {
            agent: "bank".parse().unwrap(),
            token_hash: "token".into(),
            ttl_ms: 600_000,
        };
        let asked = Event::Asked {
            call: Call(1),
            tenant: "acme".parse().unwrap(),
            ask: invite,
        };
        let enrol = Event::Enrol {
            call: Call(2),
            token_hash: "token".into(),
            key_hash: "key".into(),
        };
        for event in [asked, enrol] {
            let mut out = Effects::new();
            center.handle(now, &event, &mut out);
            center.settle(now, &mut out);
            out.writes.iter().for_each(|write| store.apply(write));
        }
        let mut world = Self {
            dice,
            now,
            center,
            store,
            holders: vec![],
            wire: VecDeque::new(),
            next_conn: 1,
            crashes: 0,
            alarms: vec![],
            reconciled: 0,
            rough: true,
        };
        world.holds(Journal::default());
        world
    }

    fn holds(&mut self, state: Journal) -> usize {
        let core = Self::boot(&state, 1, self.now, self.dice.seed());
        self.holders.push(Holder {
            core,
            written: state.clone(),
            durable: state,
            boots: 1,
            conns: BTreeMap::new(),
        });
        let index = self.holders.len() - 1;
        self.agent_turn(index, &[Happens::Catalogue(Arc::new(Nothing))]);
        index
    }

    fn boot(state: &Journal, boots: u64, now: Micros, seed: [u8; 32]) -> Agent {
        let settings = AgentSettings::new(Incarnation(boots), 2);
        Agent::new(settings, seed, now, state.snapshot(), BTreeMap::new())
    }

    /// The process ends; with the power, what was not synced is gone too.
    fn agent_crash(&mut self, index: usize, power: bool) {
        self.crashes += 1;
        let (seed, now) = (self.dice.seed(), self.now);
        let holder = &mut self.holders[index];
        if power {
            holder.written = holder.durable.clone();
            holder.boots += 1;
        } else {
            // A journal is synced when it is opened: what it gives back is used.
            holder.durable = holder.written.clone();
        }
        holder.core = Self::boot(&holder.written, holder.boots, now, seed);
        let conns: Vec<Conn> = std::mem::take(&mut holder.conns).into_values().collect();
        self.wire
            .retain(|(to, packet)| *to != index || matches!(packet, Packet::Up(..)));
        // The orchestrator may be slow to notice.
        if self.dice.percent(50) {
            for conn in conns {
                self.center_turn(&[Event::Closed { conn }]);
            }
        }
        self.agent_turn(index, &[Happens::Catalogue(Arc::new(Nothing))]);
    }

    fn agent_turn(&mut self, index: usize, events: &[Happens]) {
        let (now, rough) = (self.now, self.rough);
        let holder = &mut self.holders[index];
        let mut out = Effects::new();
        for event in events {
            holder.core.handle(now, event, &mut out);
        }
        holder.core.settle(now, &mut out);
        out.writes
            .iter()
            .for_each(|write| holder.written.apply(write));
        if rough && self.dice.percent(15) {
            let power = self.dice.percent(50);
            return self.agent_crash(index, power);
        }
        // Nothing leaves before what it follows from is synced.
        let sends = out
            .speech
            .iter()
            .any(|said| matches!(said, Says::Send { .. }));
        if sends {
            holder.durable = holder.written.clone();
        }
        for said in out.speech {
            if rough && self.dice.percent(5) {
                let power = self.dice.percent(50);
                return self.agent_crash(index, power);
            }
            self.agent_says(index, said);
        }
    }

    fn agent_says(&mut self, index: usize, said: Says) {
        match said {
            Says::Dial { conn } => {
                let there = Conn(self.next_conn);
                self.next_conn += 1;
                self.holders[index].conns.insert(conn, there);
                self.center_turn(&[Event::Opened {
                    conn: there,
                    tenant: "acme".parse().unwrap(),
                    agent: "bank".parse().unwrap(),
                    spiffe_id: "spiffe://test/tenant/acme/agent/bank".into(),
                    key_hash: "key".into(),
                    not_after: u64::MAX,
                }]);
                if self.holders[index].conns.contains_key(&conn) {
                    self.agent_turn(index, &[Happens::Opened { conn }]);
                }
            }
            Says::Send { conn, messages } => {
                if let Some(there) = self.holders[index].conns.get(&conn) {
                    self.wire.push_back((index, Packet::Up(*there, messages)));
                }
            }
            Says::Hangup { conn } => {
                if let Some(there) = self.holders[index].conns.remove(&conn) {
                    self.center_turn(&[Event::Closed { conn: there }]);
                }
            }
            Says::MakeCsr
            | Says::TakeBack { .. }
            | Says::Renew { .. }
            | Says::Prove { .. }
            | Says::Recover { .. }
            | Says::Start { .. }
            | Says::Cancel { .. }
            | Says::InTouch
            | Says::Discard { .. }
            | Says::Refused { .. }
            | Says::Alarm(_)
            | Says::Done => {}
        }
    }

    fn center_turn(&mut self, events: &[Event]) {
        let mut out = Effects::new();
        for event in events {
            self.center.handle(self.now, event, &mut out);
        }
        self.center.settle(self.now, &mut out);
        let doubtful = self.rough && self.dice.percent(8);
        if !doubtful || self.dice.percent(50) {
            out.writes.iter().for_each(|write| self.store.apply(write));
        }
        if doubtful {
            return self.center_crash();
        }
        for said in out.speech {
            if self.rough && self.dice.percent(3) {
                return self.center_crash();
            }
            self.center_says(said);
        }
    }

    fn center_crash(&mut self) {
        self.crashes += 1;
        let snapshot = self.store.snapshot(self.now);
        self.center = Orchestrator::new(Settings::default(), self.dice.seed(), self.now, snapshot);
        self.wire
            .retain(|(_, packet)| !matches!(packet, Packet::Up(..)));
        for index in 0..self.holders.len() {
            let conns: Vec<Conn> = self.holders[index].conns.keys().copied().collect();
            for conn in conns {
                self.wire
                    .push_back((index, Packet::Gone(conn, Down::Unreachable)));
            }
        }
    }

    fn center_says(&mut self, said: Speech) {
        match said {
            Speech::Send { conn, messages } => {
                if let Some((index, here)) = self.holder_on(conn) {
                    self.wire.push_back((index, Packet::Down(here, messages)));
                }
            }
            Speech::Close { conn, why } => {
                if let Some((index, here)) = self.holder_on(conn) {
                    let down = match why {
                        CloseReason::Replaced => Down::Ended,
                        CloseReason::Removed
                        | CloseReason::OtherKey
                        | CloseReason::Version
                        | CloseReason::Protocol
                        | CloseReason::Cloned => Down::Refused,
                    };
                    self.wire.push_back((index, Packet::Gone(here, down)));
                }
            }
            Speech::Alarm { what, .. } => self.alarms.push(format!("{what:?}")),
            Speech::Answer { .. } => {}
        }
    }

    fn holder_on(&self, there: Conn) -> Option<(usize, Conn)> {
        self.holders.iter().enumerate().find_map(|(index, holder)| {
            let mut conns = holder.conns.iter();
            let (here, _) = conns.find(|(_, conn)| **conn == there)?;
            Some((index, *here))
        })
    }

    /// One thing happens: something arrives, a connection breaks, or time passes.
    fn step(&mut self) {
        if self.rough && self.dice.percent(3) {
            let index = self.dice.next() as usize % self.holders.len();
            let first = self.holders[index].conns.iter().next();
            if let Some((here, there)) = first.map(|(here, there)| (*here, *there)) {
                self.holders[index].conns.remove(&here);
                self.center_turn(&[Event::Closed { conn: there }]);
                self.agent_turn(
                    index,
                    &[Happens::Closed {
                        conn: here,
                        why: Down::Unreachable,
                    }],
                );
            }
            return;
        }
        let Some((index, packet)) = self.wire.pop_front() else {
            return self.wait();
        };
        self.now = self.now.plus_ms(1);
        match packet {
            Packet::Up(conn, messages) => self.center_turn(&[Event::Frame { conn, messages }]),
            Packet::Down(conn, messages) => {
                let reconciled =
                    |message: &DownMessage| matches!(message, DownMessage::Directive { .. });
                self.reconciled += usize::from(messages.iter().any(reconciled));
                if self.holders[index].conns.contains_key(&conn) {
                    self.agent_turn(index, &[Happens::Frame { conn, messages }]);
                }
            }
            Packet::Gone(conn, why) => {
                if self.holders[index].conns.remove(&conn).is_some() {
                    self.agent_turn(index, &[Happens::Closed { conn, why }]);
                }
            }
        }
    }

    fn wait(&mut self) {
        let next = self
            .holders
            .iter()
            .filter_map(|holder| holder.core.next_deadline());
        let next = next.chain(self.center.next_deadline()).min().unwrap();
        self.now = self.now.max(next);
        for index in 0..self.holders.len() {
            self.agent_turn(index, &[]);
        }
        self.center_turn(&[]);
    }

    fn is_quarantined(&self) -> bool {
        let agents = &mut self.store.agents.values();
        agents.any(|agent| agent.standing.quarantine.is_some())
    }
}

#[test]
fn ten_thousand_crashes_of_the_exchange_raise_no_alarm() {
    let mut world = World::new();
    while world.crashes < CRASHES {
        world.step();
        assert_eq!(world.alarms, [""; 0], "after {} crashes", world.crashes);
        assert!(!world.is_quarantined(), "after {} crashes", world.crashes);
    }
    assert!(world.reconciled > 100, "{}", world.reconciled);
}

#[test]
fn a_copy_is_told_from_the_agent_at_the_second_ones_next_session_and_both_stay_connected() {
    for seed in 0..50 {
        let mut world = World::new();
        world.dice = Dice(seed);
        let started = world.dice.next() as usize % 6 + 1;
        while world.reconciled < started {
            world.step();
        }
        let copied = world.holders[0].durable.clone();
        // The agent goes on, or not: either way one of the two comes second.
        let later = world.reconciled + world.dice.next() as usize % 3;
        while world.reconciled < later {
            world.step();
        }
        world.rough = false;
        world.holds(copied);
        for _ in 0..400 {
            world.step();
        }
        assert!(world.is_quarantined(), "seed {seed}");
        assert_eq!(world.alarms, ["Cloned"], "seed {seed}: it is told once");
        let streams = world.holders.iter().map(|holder| holder.conns.len());
        assert_eq!(
            streams.collect::<Vec<_>>(),
            [1, 1],
            "seed {seed}: both keep their sessions"
        );
    }
}
