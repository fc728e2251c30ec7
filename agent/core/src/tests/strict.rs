//! Strict reporting: what is told, and when.
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "a test looks at the few things that matter to it"
)]

use std::time::Duration;

use outpost_driver::{Core as _, Micros};
use outpost_proto::ids::AttemptId;
use outpost_proto::limits::{STRICT_GRID, STRICT_HEALTH};
use outpost_proto::message::{
    AttemptState, Directive, DownMessage, Health, Heartbeat, Reporting, UpMessage, Welcome,
};
use outpost_proto::outcome::{Outcome, Report};

use super::harness::*;
use crate::Settings;
use crate::event::{Down, Event, KeeperSaid, Site, Speech};
use crate::settings::Backoff;

pub(super) fn strict() -> Settings {
    Settings {
        reporting: Reporting::Strict,
        slots: 4,
        ..settings()
    }
}

fn stage() -> Stage {
    let mut stage = Stage::new(strict());
    stage.ready(Some(shop(1, &[("copy", free())])));
    stage.acked();
    stage.nothing_else();
    stage
}

fn run(stage: &mut Stage, attempts: &[u128]) {
    let jobs = attempts.iter().map(|n| stage.job(*n, "copy")).collect();
    stage.frame(jobs);
    for attempt in attempts {
        assert_eq!(stage.started(), *attempt);
    }
    stage.acked();
    for attempt in attempts {
        stage.keeper(*attempt, KeeperSaid::Running);
    }
    stage.nothing_else();
}

fn ends(stage: &mut Stage, attempt: u128) {
    let report = Report {
        exit_code: Some(7),
        count: Some(9),
        ..report(Outcome::Failed)
    };
    stage.keeper(attempt, KeeperSaid::Finished(report));
}

/// Goes on to the next heartbeat: the events that come with it, and the heartbeat.
fn heartbeat(stage: &mut Stage) -> (Vec<(u128, AttemptState)>, Heartbeat) {
    stage.now = stage.agent.next_deadline().unwrap();
    stage.spoken(&[]);
    let mut messages = stage.sent();
    let Some(UpMessage::Heartbeat(heartbeat)) = messages.pop() else {
        panic!("no heartbeat: {messages:?}")
    };
    let event = |message: UpMessage| match message {
        UpMessage::Event(event) => (event.attempt.0, event.state),
        other => panic!("no event: {other:?}"),
    };
    stage.frame(vec![lease(heartbeat.seq.0)]);
    assert_eq!(stage.next(), Speech::InTouch);
    stage.nothing_else();
    (messages.into_iter().map(event).collect(), heartbeat)
}

#[test]
fn events_wait_for_the_heartbeat_and_tell_neither_order_nor_what_the_task_chose() {
    let mut stage = stage();
    run(&mut stage, &[3, 1, 2]);
    stage.after(SECOND);
    for attempt in [2, 3, 1] {
        ends(&mut stage, attempt);
        stage.nothing_else();
    }
    let (events, heartbeat) = heartbeat(&mut stage);
    let told = AttemptState::Finished(Report {
        outcome: Outcome::Failed,
        may_have_started: true,
        duration_ms: 1024,
        exit_code: None,
        count: None,
    });
    assert_eq!(events, [(1, told), (2, told), (3, told)]);
    assert_eq!((heartbeat.running, heartbeat.slots_free), (0, 4));
}

#[test]
fn a_shorter_interval_of_heartbeats_is_not_agreed_to_and_a_longer_one_is() {
    for (asked_ms, apart_us) in [
        (50, 10 * SECOND),
        (10_000, 10 * SECOND),
        (60_000, 60 * SECOND),
    ] {
        let mut stage = Stage::new(strict());
        stage.connect(Some(shop(1, &[("copy", free())])));
        stage.welcomed(Welcome {
            heartbeat_interval_ms: asked_ms,
            ..welcome()
        });
        stage.reconciled();
        stage.acked();
        let next = stage.agent.next_deadline().unwrap();
        // Patience with a silent orchestrator may end first, and is no moment at which anything is told.
        assert_eq!(
            next,
            Micros(stage.now.0 + apart_us.min(60 * SECOND)),
            "{asked_ms}"
        );
    }
}

#[test]
fn a_stream_that_is_ended_again_and_again_is_made_again_every_ten_seconds_at_most() {
    let mut stage = Stage::new(strict());
    stage.spoken(&[shop(1, &[("copy", free())])]);
    let mut dialled = Vec::new();
    for _ in 0..100 {
        while let Some(said) = stage.said.pop_front() {
            if let Speech::Dial { conn } = said {
                dialled.push(stage.now);
                stage.spoken(&[Event::Closed {
                    conn,
                    why: Down::Ended,
                }]);
            }
        }
        stage.now = stage.agent.next_deadline().unwrap();
        stage.spoken(&[]);
    }
    assert!(dialled.len() >= 50, "{dialled:?}");
    let grid = u64::try_from(STRICT_GRID.as_micros()).unwrap();
    for two in dialled.windows(2) {
        assert!(two[1].since(two[0]) >= grid, "{two:?}");
    }
}

#[test]
fn a_successor_is_no_sooner_than_ten_seconds_after_its_predecessor() {
    let mut stage = Stage::new(strict());
    let before = stage.now;
    stage.ready(Some(shop(1, &[("copy", free())])));
    stage.acked();
    let began = Micros(before.0 + 400 * SECOND);
    let conn = stage.conn;
    // Its certificates end at once: a successor is wanted now.
    stage.spoken(&[Event::Ends {
        conn,
        at: stage.now,
    }]);
    stage.nothing_else();
    stage.now = stage.agent.next_deadline().unwrap();
    stage.spoken(&[]);
    let dialled = stage
        .said
        .iter()
        .any(|said| matches!(said, Speech::Dial { .. }));
    assert!(dialled, "{:?}", stage.said);
    assert_eq!(stage.now, began.plus(STRICT_GRID));
}

/// Also when it is to be tried again in the same moment.
#[test]
fn a_successor_that_is_lost_at_once_is_tried_again_ten_seconds_later() {
    let at_once = Backoff {
        base: Duration::ZERO,
        cap: Duration::ZERO,
    };
    let mut stage = Stage::new(Settings {
        reconnect: at_once,
        ..strict()
    });
    stage.ready(Some(shop(1, &[("copy", free())])));
    stage.acked();
    let conn = stage.conn;
    stage.spoken(&[Event::Ends {
        conn,
        at: stage.now,
    }]);
    let mut dialled = Vec::new();
    while dialled.len() < 3 {
        stage.now = stage.agent.next_deadline().unwrap();
        stage.spoken(&[]);
        while dialled.len() < 3
            && let Some(said) = stage.said.pop_front()
        {
            if let Speech::Dial { conn } = said {
                dialled.push(stage.now);
                let why = Down::Ended;
                stage.spoken(&[Event::Closed { conn, why }]);
            }
        }
    }
    for two in dialled.windows(2) {
        assert_eq!(two[1], two[0].plus(STRICT_GRID), "{dialled:?}");
    }
}

#[test]
fn the_hosts_numbers_are_told_in_steps_and_looked_at_every_five_minutes() {
    let mut stage = stage();
    let busy = Health {
        cpu_percent: 3,
        memory_percent: 51,
        disk_percent: 96,
        load_percent: 350,
        pressure_percent: 81,
        log_percent: 0,
        ledger_percent: 7,
        uptime_s: 77,
        certificate_days_left: 3,
        refusals: 0,
    };
    stage.spoken(&[Event::Health(busy)]);
    let began = stage.now;
    // The first look was with the first heartbeat, at numbers that were not there yet.
    let (_, first) = heartbeat(&mut stage);
    assert_eq!(
        (first.health.cpu_percent, first.health.load_percent),
        (50, 100)
    );
    assert_eq!(
        (first.health.uptime_s, first.health.certificate_days_left),
        (77, 3)
    );
    let looked = loop {
        let (_, beat) = heartbeat(&mut stage);
        if beat.health != first.health {
            break beat.health;
        }
    };
    let expected = Health {
        cpu_percent: 50,
        memory_percent: 80,
        disk_percent: 100,
        load_percent: 400,
        pressure_percent: 95,
        log_percent: 50,
        ledger_percent: 50,
        ..busy
    };
    assert_eq!(looked, expected);
    // Five minutes of the host's clock, whenever the process began.
    let health = u64::try_from(STRICT_HEALTH.as_micros()).unwrap();
    assert!(
        began.0 < 2 * health && stage.now == Micros(2 * health),
        "{began:?}"
    );
}

/// What is told of attempts or of the host, and connections: nothing but answers to commands is left.
fn tells(message: &UpMessage) -> bool {
    match message {
        UpMessage::Ack(_) => false,
        UpMessage::Hello(_)
        | UpMessage::Catalogue(_)
        | UpMessage::Inventory(_)
        | UpMessage::Event(_)
        | UpMessage::Heartbeat(_)
        | UpMessage::Trigger { .. } => true,
    }
}

/// An orchestrator that lets the agent wait for its Welcome, ends streams when it likes, and an agent that is killed
/// and started again at any moment.
#[test]
fn k18_no_two_looks_are_closer_than_the_grid_on_whichever_stream_and_in_whichever_life() {
    let grid = u64::try_from(STRICT_GRID.as_micros()).unwrap();
    for seed in 0..200_u64 {
        let mut stage = Stage::new(strict());
        stage.now = Micros(seed * 777_777);
        stage.restart(strict(), &[]);
        stage.spoken(&[shop(1, &[("copy", free())])]);
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut draw = |below: u64| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state % below
        };
        let mut looks = Vec::new();
        let mut told = 0;
        while told < 60 {
            let mut events = Vec::new();
            while let Some(said) = stage.said.pop_front() {
                match said {
                    Speech::Dial { conn } => {
                        stage.conn = conn;
                        events.push(Event::Opened { conn });
                    }
                    Speech::Send { conn, messages } => {
                        assert_eq!(conn, stage.conn);
                        if messages.iter().any(tells) {
                            looks.push((stage.now, messages.clone()));
                            told += 1;
                        }
                        for message in messages {
                            let answer = match message {
                                UpMessage::Hello(_) => {
                                    // As late as it likes.
                                    stage.after(draw(2 * grid));
                                    DownMessage::Welcome(Welcome {
                                        heartbeat_interval_ms: 50,
                                        ..welcome()
                                    })
                                }
                                UpMessage::Inventory(_) => stage.order(Directive::Reconciled),
                                _ => continue,
                            };
                            events.push(Event::Frame {
                                conn,
                                messages: vec![answer],
                            });
                        }
                    }
                    _ => {}
                }
            }
            for event in events {
                stage.spoken(&[event]);
            }
            if !stage.said.is_empty() {
                continue;
            }
            let next = stage.agent.next_deadline().unwrap();
            let sooner = stage.now.plus(Duration::from_micros(1 + draw(grid)));
            match draw(6) {
                0 => {
                    stage.now = sooner.min(next);
                    stage.restart(strict(), &[]);
                    stage.spoken(&[shop(1, &[("copy", free())])]);
                }
                1 | 2 => {
                    stage.now = sooner.min(next);
                    let (conn, why) = (stage.conn, Down::Ended);
                    stage.spoken(&[Event::Closed { conn, why }]);
                }
                _ => {
                    stage.now = next;
                    stage.spoken(&[]);
                }
            }
        }
        for two in looks.windows(2) {
            let [(before, _), (at, _)] = two else {
                unreachable!()
            };
            assert_eq!(at.0 % grid, 0, "seed {seed}: {two:?}");
            // One look is several frames when there is much to tell.
            assert!(
                at == before || at.since(*before) >= grid,
                "seed {seed}: {two:?}"
            );
        }
    }
}

#[test]
fn k18_the_hosts_numbers_are_looked_at_on_the_same_moments_in_every_life_of_the_process() {
    let busy = Health {
        cpu_percent: 99,
        ..Health::default()
    };
    let mut stage = stage();
    for _ in 0..5 {
        // Killed and started again: the new one knows better at once, and says nothing of it.
        stage.restart(strict(), &[]);
        stage.spoken(&[shop(1, &[("copy", free())]), Event::Health(busy)]);
        while !matches!(stage.said.front(), Some(Speech::Dial { .. })) {
            stage.said.pop_front();
            if stage.said.is_empty() {
                stage.now = stage.agent.next_deadline().unwrap();
                stage.spoken(&[]);
            }
        }
        let Speech::Dial { conn } = stage.next() else {
            unreachable!()
        };
        stage.conn = conn;
        stage.spoken(&[Event::Opened { conn }]);
        let _ = stage.sent();
        stage.frame(vec![DownMessage::Welcome(welcome())]);
        stage.nothing_else();
        stage.now = stage.agent.next_deadline().unwrap();
        stage.spoken(&[]);
        let said = stage.sent();
        let Some(UpMessage::Heartbeat(beat)) = said.last() else {
            panic!("no heartbeat: {said:?}")
        };
        assert!(stage.now < Micros(600 * SECOND), "{:?}", stage.now);
        assert_eq!(beat.health.cpu_percent, 50, "{:?}", stage.now);
    }
}

#[test]
fn who_stops_tells_at_once_what_is_known() {
    let mut stage = stage();
    run(&mut stage, &[1]);
    ends(&mut stage, 1);
    stage.nothing_else();
    stage.spoken(&[Event::Site(Site::Stop)]);
    let UpMessage::Event(event) = stage.sent_one() else {
        panic!("no event")
    };
    assert_eq!(event.attempt, AttemptId(1));
}
