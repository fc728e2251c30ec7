//! What is remembered of settled attempts: thirty days, and two hundred thousand of them.

use outpost_agent_core::event::{Alarm, Speech};
use outpost_agent_core::record::{Memory, Write};
use outpost_proto::ids::{
    AttemptId, EventSeq, Fence, HeartbeatSeq, RecoveryEpoch, RunId, TaskIndex,
};
use outpost_proto::limits::REMEMBERED;
use outpost_proto::message::{AttemptState, DownMessage, Welcome};
use outpost_proto::outcome::{Outcome, Report};
use outpost_sim::scene::Host;

use crate::part::*;

const DAY_S: u64 = 24 * 3600;
/// What the wall clocks show when a scene begins, in seconds since 1970.
const BEGAN_S: u64 = 1_700_000_000;

fn host() -> Host {
    Host::new("site", 2, &["moment", "hour"])
}

/// Heartbeats once an hour, so that days are short.
fn seldom(part: &Part) -> Welcome {
    Welcome {
        heartbeat_interval_ms: 3_600_000,
        server_time_us: part.scene.wall_us(),
        ..welcome()
    }
}

fn memory(n: u128, settled_at_s: u64) -> Memory {
    Memory {
        attempt: AttemptId(n),
        run: RunId(1),
        task: TaskIndex(0),
        fence: Fence(1),
        report: Report {
            outcome: Outcome::Succeeded,
            may_have_started: true,
            duration_ms: 10,
            exit_code: None,
            count: None,
        },
        settled_at_s,
    }
}

fn remembered(part: &Part) -> Vec<u128> {
    let memories = part.scene.journal(0).memories;
    memories.iter().map(|memory| memory.attempt.0).collect()
}

/// One attempt, over and acknowledged.
fn settled(part: &mut Part, attempt: u128) {
    part.gives("moment", &[attempt]);
    part.silent(millis(100));
    let told = part.events().last().expect("an event").0;
    part.tell(&[durable(told)]);
    assert_eq!(part.held(attempt), None);
}

#[test]
fn an_outcome_is_remembered_for_thirty_days_to_the_second_and_not_longer() {
    let mut part = Part::of(host());
    let seldom = seldom(&part);
    part.begins_as(seldom);
    settled(&mut part, 1);
    let at_s = part.scene.journal(0).memories[0].settled_at_s;
    assert!((BEGAN_S..BEGAN_S + 5).contains(&at_s));
    part.goes_on(seconds(15 * DAY_S));
    settled(&mut part, 2);
    assert_eq!(remembered(&part), [1, 2]);
    let due_us = (at_s + 30 * DAY_S - BEGAN_S) * SECOND;
    part.page();
    part.goes_on(std::time::Duration::from_micros(
        due_us - part.scene.now() - 2 * SECOND,
    ));
    assert_eq!(remembered(&part), [1, 2], "a second before");
    part.goes_on(seconds(2));
    assert_eq!(remembered(&part), [2], "and then it goes by itself");
    part.goes_on(seconds(15 * DAY_S + 60));
    assert_eq!(remembered(&part), [0; 0]);
}

#[test]
fn what_is_remembered_is_answered_when_it_is_assigned_again_and_never_runs_again() {
    let mut part = Part::of(host());
    let seldom = seldom(&part);
    part.begins_as(seldom);
    settled(&mut part, 1);
    part.goes_on(seconds(29 * DAY_S));
    part.page();
    let again = part.job(1, "moment");
    part.tell(&[again]);
    assert_eq!(part.alarms(), [Alarm::AttemptReused], "said to the site");
    let told = part.events();
    let [(number, 1, AttemptState::Finished(report))] = told[..] else {
        panic!("{told:?}");
    };
    assert!(number > 2);
    assert_eq!(report.outcome, Outcome::Succeeded);
    assert_eq!((part.held(1), part.begun()), (None, vec![]));
    assert_eq!(part.scene.starts(AttemptId(1)), 1);
    assert!(part.phase().is_some(), "the session goes on");
    // It is known by run, task and fence; under another of them it is another one's.
    type Change = fn(&mut outpost_proto::message::Assign);
    let changes: [Change; 3] = [
        |assign| assign.run.0 += 1,
        |assign| assign.task.0 += 1,
        |assign| assign.fence.0 += 1,
    ];
    for change in changes {
        part.page();
        let stream = part.conn();
        let mut other = part.assign(1, "moment");
        change(&mut other);
        part.tell(&[DownMessage::Assign(other)]);
        assert_eq!(part.hangups().first().map(|(_, conn)| *conn), Some(stream));
        assert_eq!(part.events(), []);
        let seldom = self::seldom(&part);
        part.begins_as(seldom);
    }
}

/// Upstream waits for what it may have lost: told again, in the first inventory of the new life, once.
#[test]
fn a_restored_database_is_told_everything_that_is_remembered_once() {
    let mut part = Part::of(host());
    let older: Vec<Write> = (1..=100)
        .map(|n| Write::Settled(memory(n, BEGAN_S)))
        .collect();
    part.scene.crash(0);
    part.scene.write(0, &older);
    part.begins();
    settled(&mut part, 200);
    part.scene.cut(0);
    part.hello();
    let items = |part: &mut Part, welcome| super::part::items(&part.welcomes(welcome));
    assert_eq!(items(&mut part, welcome()), [], "the same life knows them");
    part.reconciles();
    let restored = Welcome {
        recovery: RecoveryEpoch {
            counter: 2,
            database: 78,
        },
        ..welcome()
    };
    for round in 0..2 {
        part.scene.cut(0);
        part.hello();
        // Until it has reconciled they are owed.
        let told = items(&mut part, restored.clone());
        let ids: Vec<u128> = told.iter().map(|item| item.attempt.0).collect();
        let all: Vec<u128> = (1..=100).chain([200]).collect();
        assert_eq!(ids, all, "{round}");
        assert!(told.iter().all(|item| item.event_seq == EventSeq(0)
            && matches!(item.state, AttemptState::Finished(report) if report.outcome == Outcome::Succeeded)
            && (item.run, item.task, item.fence) == (RunId(1), TaskIndex(0), Fence(1))));
        let ends: Vec<_> = part
            .told()
            .iter()
            .filter_map(|said| match said {
                outpost_proto::message::UpMessage::Inventory(page) => Some(page.end),
                _ => None,
            })
            .collect();
        assert_eq!(ends.last(), Some(&Some(101)));
    }
    part.command = 0;
    part.reconciles();
    part.scene.cut(0);
    part.hello();
    assert_eq!(items(&mut part, restored), [], "told once");
}

/// Neither clock alone makes anybody forget; the later one dates what is settled.
#[test]
fn a_host_whose_clock_is_wrong_forgets_nothing_that_is_not_old_for_the_orchestrator_too() {
    for (ahead_s, server_ahead_s) in [(400 * DAY_S, 0), (0, 400 * DAY_S)] {
        let mut part = Part::of(host());
        part.scene.crash(0);
        part.scene.write(0, &[Write::Settled(memory(1, BEGAN_S))]);
        part.scene
            .wall_ahead(0, i64::try_from(ahead_s).expect("a span"));
        part.scene.run(seconds(2));
        part.scene.wall_ahead_is_nothing_to_tls(0);
        let mut welcome = seldom(&part);
        welcome.server_time_us += server_ahead_s * SECOND;
        part.begins_as(welcome);
        part.silent(seconds(5));
        assert_eq!(remembered(&part), [1], "old by one clock only");
        settled(&mut part, 2);
        let at_s = part.scene.journal(0).memories[1].settled_at_s;
        assert!(
            at_s >= BEGAN_S + 400 * DAY_S,
            "the later clock dates it: {at_s}"
        );
        // One that was ahead once does not make the newest look the oldest.
        part.scene.crash(0);
        part.scene.wall_ahead(0, 0);
        part.scene.run(seconds(2));
        let welcome = seldom(&part);
        part.begins_as(welcome);
        settled(&mut part, 3);
        let after_s = part.scene.journal(0).memories[2].settled_at_s;
        assert!(after_s >= at_s, "{after_s}");
    }
}

#[test]
fn before_the_orchestrator_was_heard_nothing_is_old() {
    let mut part = Part::of(host());
    part.scene.crash(0);
    part.scene
        .write(0, &[Write::Settled(memory(1, BEGAN_S - 31 * DAY_S))]);
    part.scene.run(seconds(2));
    part.hello();
    part.silent(seconds(30));
    assert_eq!(remembered(&part), [1]);
    let seldom = seldom(&part);
    part.welcomes(seldom);
    assert_eq!(remembered(&part), [0; 0]);
}

/// More than two hundred thousand are too many, however young: the oldest go, a thousand a turn.
#[test]
fn of_too_many_the_oldest_go_a_thousand_at_a_time() {
    let most = u128::try_from(REMEMBERED).expect("a number");
    let mut part = Part::of(host());
    part.scene.crash(0);
    // Their ids are not in the order of their ages.
    let age =
        |n: u128| BEGAN_S - 1_000_000 + u64::try_from((n * 7) % (most + 1500)).expect("an age");
    let many: Vec<Write> = (0..most + 1500)
        .map(|n| Write::Settled(memory(n + 1, age(n))))
        .collect();
    part.scene.write(0, &many);
    let mut sizes = Vec::new();
    while part.scene.view(0).is_none() || part.scene.memories(0) > REMEMBERED {
        part.scene.step();
        let size = part.scene.memories(0);
        if sizes.last() != Some(&size) {
            sizes.push(size);
        }
    }
    assert_eq!(sizes, [REMEMBERED + 1500, REMEMBERED + 500, REMEMBERED]);
    let oldest = part
        .scene
        .journal(0)
        .memories
        .iter()
        .map(|memory| memory.settled_at_s)
        .min();
    assert_eq!(oldest, Some(BEGAN_S - 1_000_000 + 1500));
    // Two hundred thousand are not too many.
    part.begins();
    assert_eq!(part.scene.memories(0), REMEMBERED);
    part.gives("moment", &[1 << 80]);
    part.silent(millis(100));
    let told = part.events().last().expect("an event").0;
    part.tell(&[durable(told), lease(HeartbeatSeq(1), 30_000)]);
    assert_eq!(part.scene.memories(0), REMEMBERED, "one came, and one went");
    let discarded = part
        .scene
        .said(0)
        .any(|(_, said)| matches!(said, Speech::Discard { .. }));
    assert!(discarded);
}
