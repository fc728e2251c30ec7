//! Random histories: whatever happens, in whatever order, with crashes and failed commits between any two turns, the
//! promises hold. An honest history raises no alarm; a hostile one breaks no promise.

use outpost_driver::{Core, Micros};
use outpost_proto::ids::*;
use outpost_proto::message::*;
use outpost_proto::outcome::Outcome;
use proptest::prelude::*;

use super::harness::*;
use super::world::{Keeper, Stream, World, small};
use crate::event::{Down, Event, KeeperSaid, NotStarted, Site};
use crate::{Found, unsettled};

/// What is thrown at the agent. Numbers pick among what there is.
#[derive(Debug, Clone, Copy)]
enum Op {
    Wait(u32),
    Connect { early_grant: bool },
    Open,
    Welcome,
    Reconcile,
    Cut(u8),
    Assign { entry: u8, again: Option<u8> },
    Direct { what: u8, pick: u8 },
    Grant,
    Acknowledge,
    Keeper { what: u8, pick: u8, heard: bool },
    Site(u8),
    Catalogue(u8),
    Crash { unspoken: bool, claim: bool },
    Fail { written: bool },
    Nonsense(u8),
    Renew { good: bool },
    Succeed { good: bool },
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        3 => (0..40_000_u32).prop_map(Op::Wait),
        3 => any::<bool>().prop_map(|early_grant| Op::Connect { early_grant }),
        1 => Just(Op::Open),
        1 => Just(Op::Welcome),
        1 => Just(Op::Reconcile),
        1 => any::<u8>().prop_map(Op::Cut),
        8 => (0..3_u8, prop::option::weighted(0.2, any::<u8>())).prop_map(|(entry, again)| Op::Assign { entry, again }),
        3 => (any::<u8>(), any::<u8>()).prop_map(|(what, pick)| Op::Direct { what, pick }),
        4 => Just(Op::Grant),
        3 => Just(Op::Acknowledge),
        10 => (any::<u8>(), any::<u8>(), prop::bool::weighted(0.9)).prop_map(|(what, pick, heard)| Op::Keeper { what, pick, heard }),
        1 => any::<u8>().prop_map(Op::Site),
        1 => any::<u8>().prop_map(Op::Catalogue),
        1 => (any::<bool>(), any::<bool>()).prop_map(|(unspoken, claim)| Op::Crash { unspoken, claim }),
        1 => any::<bool>().prop_map(|written| Op::Fail { written }),
        1 => any::<u8>().prop_map(Op::Nonsense),
        4 => prop::bool::weighted(0.8).prop_map(|good| Op::Renew { good }),
        2 => prop::bool::weighted(0.8).prop_map(|good| Op::Succeed { good }),
    ]
}

impl World {
    fn frame(&mut self, messages: Vec<DownMessage>) {
        if let Some(conn) = self.dialled {
            self.happens(Event::Frame { conn, messages });
        }
    }

    fn stream_is(&self, which: fn(&Stream) -> bool) -> bool {
        self.stream.as_ref().is_some_and(which)
    }

    fn wait(&mut self, us: u64) {
        let until = Micros(self.stage.now.0 + us);
        while let Some(at) = self.stage.agent.next_deadline().filter(|at| *at <= until) {
            self.stage.now = at.max(self.stage.now);
            self.happens(Event::Health(Health::default()));
        }
        self.stage.now = until;
    }

    fn open(&mut self) {
        if let (Some(conn), None) = (self.dialled, &self.stream) {
            self.stream = Some(Stream::default());
            self.happens(Event::Opened { conn });
        }
    }

    fn welcome(&mut self) {
        if self.stream_is(|stream| stream.hello && !stream.welcomed) {
            self.stream.as_mut().unwrap().welcomed = true;
            let highest_event_seq = self.acknowledged;
            self.frame(vec![DownMessage::Welcome(Welcome {
                highest_event_seq,
                ..welcome()
            })]);
        }
    }

    fn reconcile(&mut self) {
        if self.stream_is(|stream| stream.welcomed && !stream.reconciled) {
            self.stream.as_mut().unwrap().reconciled = true;
            let reconciled = self.stage.order(Directive::Reconciled);
            self.frame(vec![reconciled]);
        }
    }

    fn grant(&mut self) {
        let Some(stream) = self.stream.as_mut() else {
            return;
        };
        let Some((seq, _)) = stream.beats.last().copied() else {
            return;
        };
        stream.granted(seq.0);
        self.frame(vec![lease(seq.0)]);
    }

    fn assign(&mut self, entry: u8, again: Option<u8>) {
        if !self.hostile && !self.stream_is(|stream| stream.reconciled) {
            return;
        }
        let entry = ["copy", "single", "seldom"][usize::from(entry)];
        let number = self.stage.number();
        let fresh = u128::try_from(self.known.len()).unwrap() + 1;
        let mut new = assign(fresh, entry, number);
        new.catalogue_version = CatalogueVersion(self.version);
        let hostile = self.hostile;
        let open: Vec<_> = self
            .known
            .values()
            .filter(|known| {
                hostile
                    || !self.settled.contains(&known.attempt)
                        && !self.forgotten.contains(&known.attempt)
            })
            .collect();
        let chosen = match again.filter(|_| !open.is_empty()) {
            Some(pick) => Assign {
                command_seq: number,
                ..open[usize::from(pick) % open.len()].clone()
            },
            None => new,
        };
        self.known
            .entry(chosen.attempt)
            .or_insert_with(|| chosen.clone());
        self.frame(vec![DownMessage::Assign(chosen)]);
    }

    fn direct(&mut self, what: u8, pick: u8) {
        if self.known.is_empty() || (!self.hostile && !self.stream_is(|stream| stream.welcomed)) {
            return;
        }
        let attempt = *self
            .known
            .keys()
            .nth(usize::from(pick) % self.known.len())
            .unwrap();
        let directive = match what % 8 {
            0..=2 => Directive::Cancel(attempt),
            3 => Directive::Keep(attempt),
            4 => {
                self.forgotten.insert(attempt);
                Directive::Forget(attempt)
            }
            5 => Directive::Cordon,
            6 => Directive::Uncordon,
            _ => Directive::RenewNow,
        };
        let order = self.stage.order(directive);
        self.frame(vec![order]);
    }

    fn keeper(&mut self, what: u8, pick: u8, heard: bool) {
        let live = |keeper: &Keeper| !matches!(keeper, Keeper::Over(_));
        let open: Vec<_> = self
            .keepers
            .iter()
            .filter(|(_, keeper)| live(keeper))
            .map(|(id, k)| (*id, *k))
            .collect();
        if open.is_empty() {
            return;
        }
        let (attempt, keeper) = open[usize::from(pick) % open.len()];
        if let Keeper::Waits(_) = keeper {
            return self.waits(attempt, what, heard);
        }
        let outcome = if self.cancelled.contains(&attempt) {
            Outcome::Cancelled
        } else {
            Outcome::Succeeded
        };
        let said = match (keeper, what % 8) {
            (Keeper::Launched, 0) => KeeperSaid::NotStarted(NotStarted::LeaseOver),
            (Keeper::Launched, 1) => KeeperSaid::Gone { claimed: false },
            (Keeper::Launched, 2..=6) => KeeperSaid::Running,
            (_, 0) => KeeperSaid::Gone { claimed: true },
            _ => KeeperSaid::Finished(report(outcome)),
        };
        let next = if said == KeeperSaid::Running {
            Keeper::Running
        } else {
            Keeper::Over(said)
        };
        self.keepers.insert(attempt, next);
        let lost = match said {
            KeeperSaid::Running | KeeperSaid::GivenBack => vec![],
            KeeperSaid::Gone { .. } => self.lost(attempt),
            KeeperSaid::NotStarted(_) | KeeperSaid::Finished(_) => {
                self.goes_on(attempt);
                vec![]
            }
        };
        // What the runner does not hear before it ends, the next one finds.
        if heard {
            self.happens(Event::Keeper { attempt, said });
            for attempt in lost {
                let said = KeeperSaid::Gone { claimed: false };
                self.happens(Event::Keeper { attempt, said });
            }
        }
    }

    /// One that waits comes back when it was asked for, or now and then when it was not.
    fn waits(&mut self, attempt: AttemptId, what: u8, heard: bool) {
        let asked = self.wanted.contains(&attempt) || self.cancelled.contains(&attempt);
        if (asked || what.is_multiple_of(8)) && heard {
            self.given_back(attempt);
        }
    }

    /// The process ends; the next one finds what is really there.
    pub(super) fn crash(&mut self, claim: bool) {
        self.all_streams_gone();
        self.declined.clear();
        self.drop_speech = false;
        let wanted = unsettled(&self.stage.journal.mirror.snapshot(), &small());
        let mut found = Vec::new();
        for attempt in wanted {
            let what = match self.keepers.get(&attempt).copied() {
                None => Found::NeverStarted,
                Some(Keeper::Waits(_)) => {
                    self.keepers
                        .insert(attempt, Keeper::Over(KeeperSaid::Gone { claimed: false }));
                    Found::NeverStarted
                }
                Some(Keeper::Launched) if claim => {
                    self.keepers
                        .insert(attempt, Keeper::Over(KeeperSaid::Gone { claimed: false }));
                    Found::NeverStarted
                }
                Some(Keeper::Launched | Keeper::Running) => {
                    self.keepers.insert(attempt, Keeper::Running);
                    Found::Running
                }
                Some(Keeper::Over(KeeperSaid::Finished(report))) => Found::Finished(report),
                Some(Keeper::Over(KeeperSaid::Gone { claimed: true })) => {
                    Found::Gone { claimed: true }
                }
                Some(Keeper::Over(_)) => Found::Gone { claimed: false },
            };
            found.push((attempt, what));
        }
        self.stage.journal.fail = None;
        self.stage.restart(small(), &found);
        let rules = self.rules();
        self.happens(rules);
    }

    fn nonsense(&mut self, what: u8) {
        if !self.hostile {
            return;
        }
        let attempt = AttemptId(u128::from(what));
        let message = match what % 8 {
            0 => DownMessage::Welcome(welcome()),
            1 => self.stage.order(Directive::Reconciled),
            2 => DownMessage::Directive {
                command_seq: CommandSeq(0),
                directive: Directive::Cancel(attempt),
            },
            3 => lease(u32::from(what)),
            4 => durable(self.seen.0 + 100_000),
            5 => DownMessage::Assign(Assign {
                fence: Fence(9),
                ..assign(1, "copy", self.stage.number())
            }),
            6 => DownMessage::Welcome(Welcome {
                recovery: RecoveryEpoch {
                    counter: 0,
                    database: 1,
                },
                ..welcome()
            }),
            _ => DownMessage::Welcome(Welcome {
                protocol: 9,
                ..welcome()
            }),
        };
        if let Some(stream) = self.stream.as_mut() {
            stream.welcomed |= matches!(message, DownMessage::Welcome(_));
            stream.reconciled |= what % 8 == 1;
            if what % 8 == 3 {
                stream.granted(u32::from(what));
            }
        }
        // What else a lie may do is not in the model: such a stream is cut before anything can follow.
        self.frame(vec![message]);
        self.cut(0);
    }

    fn cut(&mut self, why: u8) {
        let why = [
            Down::Unreachable,
            Down::Ended,
            Down::Refused,
            Down::Protocol,
        ][usize::from(why % 4)];
        if let Some(conn) = self.dialled.take() {
            self.stream = None;
            if matches!(why, Down::Unreachable | Down::Ended) {
                self.stream_gone();
            }
            self.happens(Event::Closed { conn, why });
        }
    }

    /// The next step of a renewal, whichever it is.
    fn renew(&mut self, good: bool) {
        if std::mem::take(&mut self.csr_wanted) {
            let der = if good { vec![1] } else { vec![] };
            return self.happens(Event::Csr(der));
        }
        let held = Event::Renewed {
            life_us: 60 * SECOND,
            until: Micros(self.stage.now.0 + 60 * SECOND),
        };
        if self.renewing.take().is_some() {
            let answer = if good { held } else { Event::NotRenewed };
            return self.happens(answer);
        }
        if self.stream_is(|stream| stream.reconciled) {
            let order = self.stage.order(Directive::RenewNow);
            self.frame(vec![order]);
        }
    }

    /// The successor's stream stands, or cannot be made.
    fn succeed(&mut self, good: bool) {
        let Some(conn) = self.successor.take() else {
            return;
        };
        if good {
            self.successions += 1;
            self.dialled = Some(conn);
            self.stream = Some(Stream::default());
            self.happens(Event::Opened { conn });
            self.welcome();
            self.reconcile();
            self.grant();
        } else {
            let why = Down::Unreachable;
            self.happens(Event::Closed { conn, why });
        }
    }

    fn apply(&mut self, op: Op) {
        match op {
            Op::Wait(ms) => self.wait(u64::from(ms) * 1000),
            Op::Connect { early_grant } => {
                for _ in 0..3 {
                    if self.dialled.is_none() {
                        self.wait(310 * SECOND);
                    }
                }
                self.open();
                self.welcome();
                if early_grant {
                    self.grant();
                }
                self.reconcile();
                self.grant();
            }
            Op::Open => self.open(),
            Op::Welcome => self.welcome(),
            Op::Reconcile => self.reconcile(),
            Op::Cut(why) => self.cut(why),
            Op::Assign { entry, again } => self.assign(entry, again),
            Op::Direct { what, pick } => self.direct(what, pick),
            Op::Grant => self.grant(),
            Op::Acknowledge => {
                if self.stream_is(|stream| stream.welcomed) {
                    self.acknowledged = self.seen;
                    self.frame(vec![durable(self.seen.0)]);
                }
            }
            Op::Keeper { what, pick, heard } => self.keeper(what, pick, heard),
            Op::Site(what) => {
                let site = [
                    Site::Pause,
                    Site::Resume,
                    Site::Resume,
                    Site::Drain,
                    Site::Stop,
                ][usize::from(what % 5)];
                self.happens(Event::Site(site));
            }
            Op::Catalogue(what) => {
                self.version += u32::from(what % 2);
                let rules = self.rules();
                self.happens(rules);
            }
            Op::Crash { unspoken: true, .. } => self.drop_speech = true,
            Op::Crash {
                unspoken: false,
                claim,
            } => self.crash(claim),
            Op::Fail { written } => self.stage.journal.fail = Some(written),
            Op::Nonsense(what) => self.nonsense(what),
            Op::Renew { good } => self.renew(good),
            Op::Succeed { good } => self.succeed(good),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn an_honest_history_keeps_every_promise_and_raises_no_alarm(ops in prop::collection::vec(op(), 1..120)) {
        let mut world = World::new(false);
        ops.into_iter().for_each(|op| world.apply(op));
    }

    #[test]
    fn a_hostile_history_keeps_every_promise(ops in prop::collection::vec(op(), 1..120)) {
        let mut world = World::new(true);
        ops.into_iter().for_each(|op| world.apply(op));
    }
}

fn keepers(world: &mut World, whats: [u8; 2], pick: u8) {
    for what in whats {
        let heard = true;
        world.apply(Op::Keeper { what, pick, heard });
    }
}

/// What one keeper had is told to be lost one by one; meanwhile others are sent there.
#[test]
fn a_keeper_that_is_lost_with_a_line_begins_nothing_more() {
    let mut world = World::new(false);
    let early_grant = false;
    world.apply(Op::Connect { early_grant });
    let (entry, again) = (0, None);
    world.apply(Op::Assign { entry, again });
    keepers(&mut world, [2, 7], 0);
    // Three slots, two behind each, two in the queue.
    (0..11).for_each(|_| world.apply(Op::Assign { entry, again }));
    let waits = |world: &World| {
        let waits = |keeper: &&Keeper| matches!(keeper, Keeper::Waits(_));
        world.keepers.values().filter(waits).count()
    };
    assert_eq!((world.starts, waits(&world)), (10, 6));
    keepers(&mut world, [1, 2], 0);
    assert!(world.starts > 10 && waits(&world) > 3);
    (0..60).for_each(|_| keepers(&mut world, [2, 7], 0));
    assert_eq!(world.stage.agent.attempts.index.in_slot, 0);
}

/// The histories above mean something only if work is done in them.
#[test]
fn histories_are_not_idle() {
    let mut world = World::new(false);
    world.apply(Op::Connect { early_grant: false });
    for _ in 0..50 {
        world.apply(Op::Grant);
        world.apply(Op::Assign {
            entry: 0,
            again: None,
        });
        world.apply(Op::Keeper {
            what: 2,
            pick: 0,
            heard: true,
        });
        world.apply(Op::Keeper {
            what: 7,
            pick: 0,
            heard: true,
        });
        world.apply(Op::Acknowledge);
        world.apply(Op::Wait(1000));
    }
    assert_eq!((world.starts, world.settled.len()), (50, 50));
    for _ in 0..10 {
        for _ in 0..3 {
            world.apply(Op::Renew { good: true });
        }
        world.apply(Op::Succeed { good: true });
        world.apply(Op::Wait(20_000));
    }
    assert!(world.successions > 5, "{}", world.successions);
}
