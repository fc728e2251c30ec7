//! Leases: an agent begins work only under a live one of its present session, counted from when the heartbeat was sent.

use std::time::Duration;

use outpost_agent_core::event::{Alarm, Speech};
use outpost_proto::ids::{AttemptId, HeartbeatSeq};
use outpost_proto::message::{AttemptState, Directive, Welcome};
use outpost_proto::outcome::Outcome;
use outpost_sim::scene::Host;

use crate::part::*;

fn host() -> Host {
    Host::new("site", 1, &["moment", "hour"])
}

/// Welcomed and reconciled, without a lease; the time of its first heartbeat by its own clock.
fn without_lease(part: &mut Part, welcome: Welcome) -> u64 {
    part.hello();
    part.welcomes(welcome);
    let since = part.view().session_since_us;
    let reconciled = part.order(Directive::Reconciled);
    part.tell(&[reconciled]);
    since
}

fn in_touch(part: &Part) -> usize {
    let said = part.scene.said(0);
    said.filter(|(_, said)| **said == Speech::InTouch).count()
}

#[test]
fn nothing_begins_without_a_lease_and_all_that_may_does_with_one() {
    let mut part = Part::of(host());
    let beat = without_lease(&mut part, welcome());
    part.gives("hour", &[1]);
    part.goes_on(Duration::ZERO);
    assert_eq!((part.begun(), part.view().lease_until_us), (vec![], None));
    assert_eq!(in_touch(&part), 0);
    part.tell(&[lease(HeartbeatSeq(1), 30_000)]);
    assert_eq!(part.begun(), [(1, None)]);
    // From the moment the heartbeat was sent, however long the answer took.
    let until = part.view().lease_until_us;
    assert_eq!(until, Some(beat + 30 * SECOND));
    assert_eq!(
        in_touch(&part),
        1,
        "keepers hear that the orchestrator is there"
    );
}

#[test]
fn a_lease_that_came_too_late_begins_nothing_and_touches_no_keeper() {
    let mut part = Part::of(host());
    without_lease(&mut part, welcome());
    part.gives("hour", &[1]);
    part.silent(seconds(5));
    part.tell(&[lease(HeartbeatSeq(1), 4_000)]);
    assert_eq!((part.begun(), in_touch(&part)), (vec![], 0));
    assert!(part.view().lease_until_us.is_some());
    // The next heartbeat says that none is held.
    part.silent(seconds(6));
    assert_eq!(
        part.beat().map(|beat| beat.lease_echo),
        Some(HeartbeatSeq(0))
    );
}

#[test]
fn a_lease_ends_what_waits_begins_under_the_next_one_only() {
    let mut part = Part::ready(Host { slots: 1, ..host() });
    part.gives("hour", &[1, 2]);
    assert_eq!(part.begun(), [(1, None)]);
    part.silent(seconds(31));
    part.ends(1, Outcome::Succeeded);
    assert_eq!(
        part.begun(),
        [(1, None)],
        "nobody answered for half a minute"
    );
    let last = part.beat().expect("a heartbeat").seq;
    part.tell(&[lease(last, 30_000)]);
    assert_eq!(part.begun(), [(1, None), (2, None)]);
}

#[test]
fn answers_that_come_late_or_twice_never_shorten_or_prolong_a_lease() {
    let mut part = Part::of(host());
    let first = without_lease(&mut part, welcome());
    part.silent(seconds(10));
    let second = first + 10 * SECOND;
    let until = |part: &Part| part.view().lease_until_us;
    part.tell(&[lease(HeartbeatSeq(2), 30_000)]);
    assert_eq!(until(&part), Some(second + 30 * SECOND));
    for (what, seq, ms) in [
        ("an older heartbeat's answer", 1, 900_000),
        ("the same once more", 2, 30_000),
        ("a shorter one", 2, 1),
    ] {
        part.tell(&[lease(HeartbeatSeq(seq), ms)]);
        assert_eq!(until(&part), Some(second + 30 * SECOND), "{what}");
    }
    part.tell(&[lease(HeartbeatSeq(2), 31_000)]);
    assert_eq!(until(&part), Some(second + 31 * SECOND), "a longer one");
    assert_eq!(part.alarms(), []);
    part.tell(&[lease(HeartbeatSeq(3), 30_000)]);
    assert_eq!(part.alarms(), [Alarm::OutOfOrder], "never sent");
}

/// The newest 64 heartbeats can be answered; an orchestrator that is behind by more grants nothing.
#[test]
fn of_heartbeats_that_nobody_answered_the_newest_sixty_four_are_remembered() {
    for (late, granted) in [(63, true), (64, false)] {
        let mut part = Part::of(host());
        let quick = Welcome {
            heartbeat_interval_ms: 100,
            ..welcome()
        };
        let first = without_lease(&mut part, quick);
        let sent = |part: &Part| part.beat().map_or(0, |beat| beat.seq.0);
        while sent(&part) < 1 + late {
            part.scene.step();
        }
        assert_eq!(sent(&part), 1 + late);
        part.scene.tell(0, &[lease(HeartbeatSeq(1), 60_000)]);
        part.scene.run(millis(8));
        let until = part.view().lease_until_us;
        let expected = granted.then_some(first + 60 * SECOND);
        assert_eq!((until, part.alarms()), (expected, vec![]), "{late}");
    }
}

/// The keeper looks at the lease again right before it begins: a start so close to the end is not worth it.
#[test]
fn within_a_quarter_of_a_second_before_the_end_of_its_lease_nothing_begins() {
    for (left_ms, begins) in [(249, false), (250, false), (251, true)] {
        let mut part = Part::of(host());
        let first = without_lease(&mut part, welcome());
        part.tell(&[lease(HeartbeatSeq(1), 10_000 + left_ms)]);
        part.gives("hour", &[1, 2]);
        assert_eq!(part.begun(), [(1, None)]);
        // The slot gets free in the very turn of the second heartbeat.
        part.runs_to(first + 10 * SECOND, 140);
        part.scene.task_ends(0, AttemptId(1), Outcome::Succeeded);
        part.scene.run(millis(1));
        assert_eq!(part.beats().len(), 1, "still on its way");
        let begun = part.begun().len() == 2;
        assert_eq!(begun, begins, "{left_ms} ms");
    }
}

/// A lease that ends in the very moment of a heartbeat is not held any more.
#[test]
fn at_the_moment_of_its_end_a_lease_is_over() {
    for (lease_ms, held) in [(10_000, 0), (10_001, 1)] {
        let mut part = Part::of(host());
        without_lease(&mut part, welcome());
        part.tell(&[lease(HeartbeatSeq(1), lease_ms)]);
        part.silent(seconds(12));
        let beats = part.beats();
        assert_eq!(beats.len(), 2);
        assert_eq!(beats[1].1.lease_echo, HeartbeatSeq(held), "{lease_ms} ms");
    }
}

#[test]
fn what_runs_goes_on_without_a_lease_and_its_end_is_told() {
    let mut part = Part::ready(host());
    part.gives("hour", &[1]);
    part.silent(seconds(35));
    assert_eq!(part.state(1), Some(AttemptState::Running));
    part.ends(1, Outcome::Failed);
    assert_eq!(part.outcome(1), Some(Outcome::Failed));
    let told = part.events();
    assert!(
        matches!(told.last(), Some((_, 1, AttemptState::Finished(_)))),
        "{told:?}"
    );
}
