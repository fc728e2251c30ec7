//! K18: a task that tries to signal. Everything that upstream sees of an attempt, byte for byte and with its moment, is
//! compared over thousands of choices of the task: what can be told apart is counted, and must not be more than what
//! is published.
//!
//! The agent is deterministic, so that the information that goes through is at most the logarithm of the number of
//! different transcripts.
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "a test looks at the few things that matter to it"
)]

use std::collections::BTreeSet;
use std::time::Duration;

use outpost_driver::{Core as _, Micros};
use outpost_proto::budget::{Free, anew, bits, free as published};
use outpost_proto::ids::AttemptId;
use outpost_proto::limits::STRICT_GRID;
use outpost_proto::message::{
    AttemptState, Directive, DownMessage, Health, Reporting, UpMessage, Welcome,
};
use outpost_proto::outcome::{KillReason, Outcome, Report};
use outpost_proto::wire::encode_up;

use super::harness::*;
use crate::event::{Down, Event, KeeperSaid, Speech};
use crate::{Found, Settings};

/// Every frame that left, and when.
type Transcript = Vec<(u64, Vec<u8>)>;

const LIFETIME: Duration = Duration::from_secs(60);

/// What a task does.
#[derive(Debug, Clone)]
struct Choice {
    report: Report,
    run_ms: u64,
    /// What it makes of the host's numbers, sample by sample, again and again.
    host: Vec<Health>,
}

fn choice(run_ms: u64) -> Choice {
    Choice {
        report: report(Outcome::Succeeded),
        run_ms,
        host: vec![Health::default()],
    }
}

/// How the orchestrator treats the agent.
#[derive(Debug, Clone, Copy)]
struct Peer {
    heartbeat_ms: u32,
    /// It ends the stream again and again, after so long.
    ends_after_ms: Option<u64>,
}

const HONEST: Peer = Peer {
    heartbeat_ms: 10_000,
    ends_after_ms: None,
};
/// One that wants to see as sharply as it can.
const STARING: Peer = Peer {
    heartbeat_ms: 50,
    ends_after_ms: Some(300),
};

struct Listening {
    stage: Stage,
    peer: Peer,
    transcript: Transcript,
    began: Micros,
    ends_at: Option<Micros>,
    running: Vec<AttemptId>,
    told: BTreeSet<AttemptId>,
}

impl Listening {
    fn new(reporting: Reporting, peer: Peer) -> Self {
        let settings = Settings {
            reporting,
            slots: 8,
            ..settings()
        };
        let mut listening = Self {
            stage: Stage::new(settings),
            peer,
            transcript: Vec::new(),
            began: Micros(0),
            ends_at: None,
            running: Vec::new(),
            told: BTreeSet::new(),
        };
        listening.stage.now = Micros(400 * SECOND);
        listening.happens(&[shop(1, &[("copy", free())])]);
        // Past what the first connection has to say.
        listening.stage.after(SECOND);
        listening.began = listening.stage.now;
        listening.transcript.clear();
        listening
    }

    fn happens(&mut self, events: &[Event]) {
        self.stage.spoken(events);
        while let Some(said) = self.stage.said.pop_front() {
            match said {
                Speech::Dial { conn } => {
                    self.stage.conn = conn;
                    self.stage.spoken(&[Event::Opened { conn }]);
                    let ends = self.peer.ends_after_ms;
                    self.ends_at = ends.map(|ms| self.stage.now.plus_ms(ms));
                }
                Speech::Send { messages, .. } => self.hears(&messages),
                Speech::Start { assign, .. } => {
                    self.running.push(assign.attempt);
                    self.stage.keeper(assign.attempt.0, KeeperSaid::Running);
                }
                _ => {}
            }
        }
    }

    fn hears(&mut self, messages: &[UpMessage]) {
        let at = self.stage.now.since(self.began);
        self.transcript.push((at, encode_up(messages).unwrap()));
        let mut answers = Vec::new();
        for message in messages {
            match message {
                UpMessage::Hello(_) => answers.push(DownMessage::Welcome(Welcome {
                    heartbeat_interval_ms: self.peer.heartbeat_ms,
                    ..welcome()
                })),
                UpMessage::Inventory(page) => {
                    let over = |state| matches!(state, AttemptState::Finished(_));
                    let items = page.items.iter().filter(|item| over(item.state));
                    self.told.extend(items.map(|item| item.attempt));
                    answers.push(self.stage.order(Directive::Reconciled));
                }
                UpMessage::Event(event) => {
                    if let AttemptState::Finished(_) = event.state {
                        self.told.insert(event.attempt);
                    }
                }
                UpMessage::Heartbeat(beat) => answers.push(lease(beat.seq.0)),
                UpMessage::Catalogue(_) | UpMessage::Trigger { .. } | UpMessage::Ack(_) => {}
            }
        }
        if !answers.is_empty() {
            self.stage.frame(answers);
        }
    }

    /// Assigns and begins them.
    fn assign(&mut self, attempts: u128) {
        let jobs = (1..=attempts).map(|n| self.stage.job(n, "copy")).collect();
        let conn = self.stage.conn;
        self.happens(&[Event::Frame {
            conn,
            messages: jobs,
        }]);
        while self.running.len() < usize::try_from(attempts).unwrap() {
            self.moves_on(None);
        }
    }

    /// To the next moment at which something happens by itself, or to `until`.
    fn moves_on(&mut self, until: Option<Micros>) -> bool {
        let own = self.stage.agent.next_deadline();
        let next = [own, self.ends_at, until].into_iter().flatten().min();
        self.stage.now = next.unwrap();
        let mut events = Vec::new();
        if self.ends_at.is_some_and(|at| at <= self.stage.now) {
            self.ends_at = None;
            events.push(Event::Closed {
                conn: self.stage.conn,
                why: Down::Ended,
            });
        }
        self.happens(&events);
        until.is_some_and(|until| until <= self.stage.now)
    }

    fn goes_to(&mut self, at: Micros) {
        while !self.moves_on(Some(at)) {}
    }

    fn ends(&mut self, attempt: u128, report: Report) {
        self.happens(&[Event::Keeper {
            attempt: AttemptId(attempt),
            said: KeeperSaid::Finished(report),
        }]);
    }

    /// The agent's process is killed, and another begins at once with what is durable.
    fn dies(&mut self, reporting: Reporting) {
        let settings = Settings {
            reporting,
            slots: 8,
            ..settings()
        };
        let found = self
            .running
            .iter()
            .map(|attempt| (*attempt, Found::Running));
        let found = found.collect::<Vec<_>>();
        self.stage.restart(settings, &found);
        self.happens(&[shop(1, &[("copy", free())])]);
    }

    fn heard_of(mut self, attempts: usize) -> Transcript {
        while self.told.len() < attempts {
            self.moves_on(None);
        }
        self.transcript
    }
}

/// What upstream sees of one attempt.
fn seen(reporting: Reporting, peer: Peer, choice: &Choice) -> Transcript {
    let mut listening = Listening::new(reporting, peer);
    listening.assign(1);
    let over = listening.began.plus_ms(choice.run_ms);
    let samples = (0..).map(|n| listening.began.plus_ms(4_000 * n));
    let samples = samples.take_while(|at| *at < over).collect::<Vec<_>>();
    for (at, health) in samples.into_iter().zip(choice.host.iter().cycle()) {
        listening.goes_to(at);
        listening.happens(&[Event::Health(*health)]);
    }
    listening.goes_to(over);
    let report = Report {
        duration_ms: choice.run_ms,
        ..choice.report
    };
    listening.ends(1, report);
    listening.heard_of(1)
}

/// How many bits go through, at most, when a task chooses among these.
fn measured<T>(choices: impl IntoIterator<Item = T>, see: impl Fn(T) -> Transcript) -> f64 {
    let seen = choices.into_iter().map(see).collect::<BTreeSet<_>>();
    bits(u64::try_from(seen.len()).unwrap())
}

fn budget(reporting: Reporting) -> Free {
    published(reporting, LIFETIME)
}

#[test]
fn k18_exit_codes_and_counts_go_through_only_with_normal_reporting() {
    let choices = || {
        (0..=255u8).flat_map(|code| {
            (0..8u16).map(move |count| Choice {
                report: Report {
                    exit_code: Some(code),
                    count: Some(count * 8191),
                    ..report(Outcome::Failed)
                },
                ..choice(1500)
            })
        })
    };
    let through = |reporting| measured(choices(), |one| seen(reporting, HONEST, &one));
    let normal = through(Reporting::Normal);
    assert!(normal >= 11.0 - 1e-9, "the meter sees them: {normal}");
    assert!(normal <= budget(Reporting::Normal).content, "{normal}");
    assert_eq!(through(Reporting::Strict), 0.0);
}

#[test]
fn k18_how_it_fails_is_a_class_and_no_more() {
    let choices = || {
        let killed = [KillReason::Oom, KillReason::Disk, KillReason::LogLimit];
        let outcomes = [Outcome::Succeeded, Outcome::Failed, Outcome::TimedOut];
        let outcomes = outcomes.into_iter().chain(killed.map(Outcome::Killed));
        outcomes.flat_map(|outcome| {
            (0..=255u8).map(move |code| Choice {
                report: Report {
                    exit_code: Some(code),
                    ..report(outcome)
                },
                ..choice(1500)
            })
        })
    };
    let through = |reporting| measured(choices(), |one| seen(reporting, HONEST, &one));
    let strict = through(Reporting::Strict);
    assert!(
        (strict - 6.0_f64.log2()).abs() < 1e-9,
        "six classes: {strict}"
    );
    assert!(strict <= budget(Reporting::Strict).content);
    assert!(through(Reporting::Normal) <= budget(Reporting::Normal).content);
}

#[test]
fn k18_the_time_it_takes_is_told_in_steps_on_the_grid() {
    // Milliseconds of a minute, and each one of the first second and a half.
    let choices = || (1..1_500).chain((1_500..60_000).step_by(29)).map(choice);
    let through = |reporting, peer| measured(choices(), |one| seen(reporting, peer, &one));
    let (normal, strict) = (Reporting::Normal, Reporting::Strict);
    let exact = through(normal, HONEST);
    assert!(exact > 11.5, "the meter sees them: {exact}");
    assert!(exact <= budget(normal).content + budget(normal).moments);
    let coarse = through(strict, HONEST);
    // Seven heartbeats of a minute, and seven durations from a second to a minute.
    assert!(coarse > 0.0 && coarse <= 14.0_f64.log2(), "{coarse}");
}

#[test]
fn k18_an_orchestrator_that_stares_sees_no_sharper() {
    let choices = || (1..60_000).step_by(101).map(choice);
    let through = |peer| measured(choices(), |one| seen(Reporting::Strict, peer, &one));
    let (honest, staring) = (through(HONEST), through(STARING));
    // What begins a connection is told at the moments of heartbeats, and at no others.
    let published = budget(Reporting::Strict);
    assert!(
        staring <= published.moments / 2.0 + 3.0,
        "{honest} {staring}"
    );
    assert!(staring <= honest + 1.0, "{honest} {staring}");
    let exact = measured(choices(), |one| seen(Reporting::Normal, STARING, &one));
    assert!(
        exact > staring + 4.0,
        "the meter sees them: {exact} {staring}"
    );
}

#[test]
fn k18_the_order_in_which_tasks_end_within_a_heartbeat_says_nothing() {
    let orders = || {
        let four = [1u128, 2, 3, 4];
        (0..256usize).filter_map(move |n| {
            let order = [n % 4, n / 4 % 4, n / 16 % 4, n / 64].map(|at| four[at]);
            let each = order.iter().collect::<BTreeSet<_>>();
            (each.len() == 4).then_some(order)
        })
    };
    let see = |reporting, order: [u128; 4]| {
        let mut listening = Listening::new(reporting, HONEST);
        listening.assign(4);
        // That they run is told first.
        let heartbeat = listening.stage.now.plus_ms(11_000);
        listening.goes_to(heartbeat);
        for attempt in order {
            let next = listening.stage.now.plus_ms(100);
            listening.goes_to(next);
            let all_alike = Report {
                duration_ms: 300,
                ..report(Outcome::Succeeded)
            };
            listening.ends(attempt, all_alike);
        }
        listening.heard_of(4)
    };
    let through = |reporting| measured(orders(), |order| see(reporting, order));
    assert_eq!(through(Reporting::Strict), 0.0);
    assert!(through(Reporting::Normal) >= 24.0_f64.log2() - 1e-9);
}

/// Levels that a task brings processor, memory, disk and load to, sample by sample, chosen by the bits of `n`.
fn restless(n: u64, samples: usize) -> Vec<Health> {
    let mut state = n.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut draw = |below: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % below
    };
    let mut share = |_| u8::try_from(draw(101)).unwrap();
    (0..samples)
        .map(|at| Health {
            cpu_percent: share(at),
            memory_percent: share(at),
            disk_percent: share(at),
            pressure_percent: share(at),
            log_percent: share(at),
            load_percent: u16::from(share(at)) * 40,
            ..Health::default()
        })
        .collect()
}

#[test]
fn k18_the_hosts_numbers_say_no_more_than_their_steps_once_in_five_minutes() {
    let choices = || {
        (0..3_000).map(|n| Choice {
            host: restless(n, 15),
            ..choice(59_000)
        })
    };
    let through = |reporting| measured(choices(), |one| seen(reporting, HONEST, &one));
    let normal = through(Reporting::Normal);
    assert!(normal > 11.5, "the meter sees them: {normal}");
    assert!(normal <= budget(Reporting::Normal).host);
    // In a minute there is one look at most, or two if one falls into it.
    let strict = through(Reporting::Strict);
    assert!(
        strict <= 12.0 && strict <= budget(Reporting::Strict).host,
        "{strict}"
    );
}

#[test]
fn k18_in_an_hour_the_hosts_numbers_change_thirteen_times_at_most_and_only_in_steps() {
    for n in 0..20 {
        let restless = Choice {
            host: restless(n, 900),
            ..choice(3_600_000)
        };
        let transcript = seen(Reporting::Strict, HONEST, &restless);
        let beats = transcript.iter().flat_map(|(_, frame)| {
            let messages = outpost_proto::wire::decode_up(frame).unwrap();
            messages.into_iter().filter_map(|message| match message {
                UpMessage::Heartbeat(beat) => Some(beat.health),
                _ => None,
            })
        });
        let beats = beats.collect::<Vec<_>>();
        let changes = beats.windows(2).filter(|two| two[0] != two[1]).count();
        assert!(
            beats.len() >= 360 && changes <= 13,
            "{changes} of {}",
            beats.len()
        );
        assert!(changes >= 10, "the meter sees them: {changes}");
    }
}

#[test]
fn k18_everything_at_once_stays_within_what_is_published() {
    let outcomes = [
        Outcome::Succeeded,
        Outcome::Failed,
        Outcome::TimedOut,
        Outcome::Killed(KillReason::Oom),
    ];
    let choices = || {
        (0..4_096u64).map(|n| Choice {
            report: Report {
                exit_code: Some(u8::try_from(n % 251).unwrap()),
                count: Some(u16::try_from(n % 13).unwrap()),
                ..report(outcomes[usize::try_from(n % 4).unwrap()])
            },
            run_ms: 1 + n * 7919 % 60_000,
            host: restless(n, 15),
        })
    };
    for (reporting, peer) in [
        (Reporting::Normal, HONEST),
        (Reporting::Strict, HONEST),
        (Reporting::Strict, STARING),
    ] {
        let all = budget(reporting).all();
        let through = measured(choices(), |one| seen(reporting, peer, &one));
        assert!(through <= all, "{reporting:?} {peer:?}: {through} of {all}");
        let exact = reporting == Reporting::Normal;
        assert_eq!(through >= 12.0 - 1e-9, exact, "the meter: {through}");
    }
}

/// A task that has the agent, or its connection, end whenever it likes: what goes through is no more than that a
/// connection began at some of the moments of the grid, besides what is told of an attempt anyway.
#[test]
fn k18_a_task_that_ends_connections_and_the_agent_at_will_chooses_among_the_grids_moments_only() {
    let choices = || (0..4_096u64).map(|n| (1 + n * 7919 % 60_000, n));
    let see = |reporting, (run_ms, n): (u64, u64)| {
        let mut listening = Listening::new(reporting, HONEST);
        listening.assign(1);
        let began = listening.began;
        let mut state = n.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut draw = |below: u64| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state % below
        };
        let mut blows = (0..4).map(|_| draw(run_ms)).collect::<Vec<_>>();
        blows.sort_unstable();
        for blow in blows {
            listening.goes_to(began.plus_ms(blow).max(listening.stage.now.plus_ms(1)));
            if draw(2) == 0 {
                listening.dies(reporting);
            } else {
                let conn = listening.stage.conn;
                let why = Down::Ended;
                listening.happens(&[Event::Closed { conn, why }]);
            }
        }
        listening.goes_to(began.plus_ms(run_ms).max(listening.stage.now.plus_ms(1)));
        let report = Report {
            duration_ms: run_ms,
            ..report(Outcome::Succeeded)
        };
        listening.ends(1, report);
        // What answers commands says nothing of a task.
        let mut transcript = listening.heard_of(1);
        transcript.retain(|(_, frame)| {
            let messages = outpost_proto::wire::decode_up(frame).unwrap();
            !messages
                .iter()
                .all(|message| matches!(message, UpMessage::Ack(_)))
        });
        transcript
    };
    let strict = |choice| see(Reporting::Strict, choice);
    let through = measured(choices(), strict);
    let published = budget(Reporting::Strict).all() + anew(LIFETIME);
    assert!(through <= published, "{through} of {published}");
    let grid = STRICT_GRID.as_micros();
    let began = 401_000_000;
    for choice in choices().take(200) {
        let transcript = strict(choice);
        for (at, _) in &transcript {
            assert_eq!((began + u128::from(*at)) % grid, 0, "{choice:?}: {at}");
        }
    }
    let exact = measured(choices(), |choice| see(Reporting::Normal, choice));
    assert!(exact >= 12.0 - 1e-9, "the meter sees them: {exact}");
}
