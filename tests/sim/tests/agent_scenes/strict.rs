//! Strict reporting: what is told of attempts and of the host, and when.

use outpost_agent_core::event::{Event, Site, Speech};
use outpost_proto::ids::AttemptId;
use outpost_proto::message::{AttemptState, Directive, Health, UpMessage, Welcome};
use outpost_proto::outcome::Outcome;
use outpost_sim::scene::{Host, sold};

use crate::part::*;

fn host() -> Host {
    Host {
        strict: true,
        ..Host::new("site", 4, &["moment", "second", "hour", "failure"])
    }
}

#[test]
fn events_wait_for_the_heartbeat_and_tell_neither_order_nor_how_long_exactly() {
    let mut part = Part::ready(host());
    part.gives("hour", &[3, 1, 2]);
    part.goes_on(seconds(10));
    part.page();
    for (attempt, took) in [(2, 1025), (3, 700), (1, 90)] {
        part.scene
            .task_took(0, AttemptId(attempt), Outcome::Failed, took);
        part.goes_on(millis(700));
    }
    assert_eq!(part.events(), [], "not yet");
    part.goes_on(seconds(8));
    let told: Vec<_> = part
        .events()
        .iter()
        .map(|told| match told.2 {
            AttemptState::Finished(report) => (told.1, report.outcome, report.duration_ms),
            other => panic!("{other:?}"),
        })
        .collect();
    let failed = Outcome::Failed;
    assert_eq!(
        told,
        [(1, failed, 1024), (2, failed, 2048), (3, failed, 1024)]
    );
    let frames = part.frames();
    assert_eq!(frames.len(), 1, "with the heartbeat, in one frame");
    assert_eq!(part.beats().len(), 1);
    // The journal has it as it was.
    let AttemptState::Finished(report) = part.state(2).expect("held") else {
        panic!("over");
    };
    assert!(
        (1025..1030).contains(&report.duration_ms),
        "{}",
        report.duration_ms
    );
}

#[test]
fn a_shorter_interval_of_heartbeats_is_not_agreed_to_and_a_longer_one_is() {
    for (asked_ms, beats) in [(50, 6), (10_000, 6), (30_000, 2)] {
        let mut part = Part::of(host());
        part.begins_as(Welcome {
            heartbeat_interval_ms: asked_ms,
            ..welcome()
        });
        part.page();
        part.goes_on(seconds(65));
        assert_eq!(part.beats().len(), beats, "{asked_ms}");
    }
}

#[test]
fn what_says_nothing_of_attempts_is_said_at_once() {
    let mut part = Part::ready(host());
    part.page();
    let told = part.scene.now();
    part.commands(Directive::Cordon);
    assert_eq!(part.acks(), [part.command]);
    assert!(part.frames()[0].0 - told < 20 * MS);
    part.scene.reload(0, &[sold("moment")]);
    part.silent(millis(25));
    assert_eq!(part.frames().len(), 2, "and another catalogue");
}

#[test]
fn a_stream_that_is_ended_again_and_again_is_made_again_every_ten_seconds_at_most() {
    let mut part = Part::ready(host());
    part.page();
    for _ in 0..6 {
        part.scene.cut(0);
        part.scene.run(millis(1));
        part.begins();
    }
    let dials: Vec<u64> = part.dials().iter().map(|(at, _)| *at).collect();
    assert!(
        dials.windows(2).all(|two| two[1] - two[0] >= 10 * SECOND),
        "{dials:?}"
    );
    // One that tells all does not wait for that.
    let mut part = Part::ready(Host {
        strict: false,
        ..host()
    });
    let began = part.scene.now();
    for _ in 0..6 {
        part.scene.cut(0);
        part.scene.run(millis(1));
        part.begins();
    }
    assert!(part.scene.now() - began < 5 * SECOND);
}

#[test]
fn who_stops_tells_what_it_has_without_waiting_for_a_heartbeat() {
    let mut part = Part::ready(host());
    part.gives("hour", &[1]);
    part.goes_on(seconds(10));
    part.ends(1, Outcome::Succeeded);
    assert!(
        part.events()
            .iter()
            .all(|told| !matches!(told.2, AttemptState::Finished(_)))
    );
    part.page();
    part.wants(Site::Stop);
    assert_eq!(part.events().len(), 1);
}

#[test]
fn the_hosts_numbers_are_looked_at_once_in_five_minutes_and_coarsely() {
    let mut part = Part::ready(host());
    part.page();
    for round in 0..75 {
        let percent = if round % 2 == 0 { 3 } else { 93 };
        part.hears(Event::Health(Health {
            cpu_percent: percent,
            uptime_s: 1000 + round,
            ..Health::default()
        }));
        part.goes_on(seconds(20));
    }
    let told: Vec<(u64, u8)> = part
        .beats()
        .iter()
        .map(|(at, beat)| (*at, beat.health.cpu_percent))
        .collect();
    let changes: Vec<u64> = told
        .windows(2)
        .filter(|two| two[0].1 != two[1].1)
        .map(|two| two[1].0)
        .collect();
    assert!((3..=5).contains(&changes.len()), "{changes:?}");
    assert!(
        changes.windows(2).all(|two| two[1] - two[0] > 290 * SECOND),
        "{changes:?}"
    );
    assert!(told.iter().any(|(_, percent)| *percent > 50), "{told:?}");
    // One that tells all tells the newest.
    let mut part = Part::ready(Host {
        strict: false,
        ..host()
    });
    part.hears(Event::Health(Health {
        cpu_percent: 93,
        ..Health::default()
    }));
    part.goes_on(seconds(11));
    assert_eq!(part.beat().map(|beat| beat.health.cpu_percent), Some(93));
}

#[test]
fn an_inventory_rounds_as_events_do() {
    let mut part = Part::ready(host());
    part.gives("hour", &[1]);
    part.goes_on(seconds(10));
    part.scene
        .task_took(0, AttemptId(1), Outcome::Succeeded, 1500);
    part.goes_on(millis(100));
    part.scene.cut(0);
    part.scene.run(millis(1));
    part.page();
    part.begins();
    let frames: Vec<_> = part.frames().into_iter().map(|(_, said)| said).collect();
    let told = items(&frames);
    let [item] = told[..] else {
        panic!("{told:?}");
    };
    let AttemptState::Finished(report) = item.state else {
        panic!("{item:?}");
    };
    assert_eq!(report.duration_ms, 2048);
}

/// Whatever happens to its streams and its process: what a strict site says of attempts and host, and when it begins a
/// connection, is a multiple of ten seconds on the clock of its host, and never two of them at one moment.
#[test]
fn everything_that_tells_something_is_told_on_the_grid_of_the_hosts_clock() {
    let mut part = Part::ready(host());
    part.gives("hour", &[1, 2]);
    for (round, pause) in [3_300, 40, 12_700, 10, 9_990, 25_000, 1]
        .into_iter()
        .enumerate()
    {
        part.goes_on(millis(pause));
        if round == 3 {
            part.scene.crash(0);
        } else {
            part.scene.cut(0);
        }
        part.scene.run(millis(1));
        part.begins();
    }
    part.goes_on(seconds(35));
    let mut told = Vec::new();
    for (at, said) in part.scene.said(0) {
        let tells = match said {
            Speech::Dial { .. } => true,
            Speech::Send { messages, .. } => messages.iter().any(|message| {
                matches!(
                    message,
                    UpMessage::Inventory(_) | UpMessage::Heartbeat(_) | UpMessage::Event(_)
                )
            }),
            _ => false,
        };
        // The first connection of all begins with the process.
        if tells && at > SECOND {
            assert_eq!((at + SECOND) % (10 * SECOND), 0, "at {at}: {said:?}");
            if matches!(said, Speech::Send { .. }) {
                told.push(at);
            }
        }
    }
    assert!(told.len() > 12, "{told:?}");
    assert!(
        told.windows(2).all(|two| two[0] < two[1]),
        "one frame a moment: {told:?}"
    );
}

/// Told once, the next connection tells at the next moment at the earliest, however soon it stands.
#[test]
fn a_stream_that_is_lost_right_after_it_told_wins_nobody_a_second_look() {
    let mut part = Part::ready(host());
    part.goes_on(seconds(10));
    let told = part.frames().last().expect("a heartbeat").0;
    part.page();
    part.scene.cut(0);
    part.scene.run(millis(1));
    part.hello();
    let dialled = part.dials()[0].0;
    assert!(dialled > told + 8 * SECOND, "{dialled} after {told}");
    part.welcomes(welcome());
    assert_eq!(part.frames().len(), 1, "Hello alone");
    part.goes_on(seconds(9));
    assert_eq!(
        part.frames().len(),
        1,
        "the connection began at a moment, and the inventory waits for the next"
    );
    part.goes_on(seconds(2));
    assert_eq!(part.frames().len(), 2);
}
