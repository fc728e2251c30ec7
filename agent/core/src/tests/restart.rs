//! A new process, another incarnation, a commit that failed: nothing is begun twice and nothing is lost.

use outpost_driver::Turn;
use outpost_proto::ids::*;
use outpost_proto::message::{AttemptState, Directive, UpMessage};
use outpost_proto::outcome::{Interruption, KillReason, Outcome, Refusal, Report};

use super::harness::*;
use crate::event::{Event, KeeperSaid, Site, Speech};
use crate::state::ended;
use crate::{Found, Settings, Trouble, unsettled};

fn shop_one() -> Option<Event> {
    Some(shop(1, &[("copy", free())]))
}

/// Attempt 1 runs, 2 is starting, 3 waits.
fn three() -> Stage {
    let mut stage = Stage::new(settings());
    stage.ready(shop_one());
    stage.acked();
    let jobs = (1..=3).map(|n| stage.job(n, "copy")).collect();
    stage.frame(jobs);
    assert_eq!((stage.started(), stage.started()), (1, 2));
    stage.acked();
    stage.keeper(1, KeeperSaid::Running);
    stage.sent_one();
    stage.nothing_else();
    stage
}

fn states(stage: &Stage) -> Vec<AttemptState> {
    stage
        .agent
        .durable()
        .attempts
        .iter()
        .map(|record| record.state)
        .collect()
}

fn interrupted(by: Interruption, may_have_started: bool) -> AttemptState {
    AttemptState::Finished(ended(Outcome::Interrupted(by), may_have_started))
}

#[test]
fn a_new_process_adopts_what_it_finds_and_begins_nothing_again() {
    let mut stage = three();
    assert_eq!(
        unsettled(&stage.agent.durable(), &settings()),
        [AttemptId(1), AttemptId(2)]
    );
    stage.restart(
        settings(),
        &[
            (AttemptId(1), Found::Running),
            (AttemptId(2), Found::Running),
        ],
    );
    stage.ready(shop_one());
    stage.acked();
    stage.nothing_else();
    assert_eq!(
        states(&stage),
        [
            AttemptState::Running,
            AttemptState::Running,
            AttemptState::Assigned
        ]
    );
    let over = report(Outcome::Succeeded);
    stage.keeper(1, KeeperSaid::Finished(over));
    assert_eq!(
        stage.started(),
        3,
        "what waited goes on waiting and starts under the new session's lease"
    );
    stage.sent_one();
    stage.nothing_else();
}

#[test]
fn each_thing_that_can_be_found_has_its_outcome() {
    let over = report(Outcome::Failed);
    let lost = Interruption::AgentStateLost;
    let killed = AttemptState::Finished(ended(Outcome::Killed(KillReason::Keeper), true));
    let never = AttemptState::Finished(ended(Outcome::Refused(Refusal::NoLease), false));
    let cases = [
        (
            Some(Found::Finished(over)),
            AttemptState::Finished(over),
            AttemptState::Finished(over),
        ),
        (Some(Found::NeverStarted), killed, never),
        (Some(Found::Gone { claimed: false }), killed, never),
        (
            Some(Found::Gone { claimed: true }),
            interrupted(lost, true),
            interrupted(lost, true),
        ),
        (None, interrupted(lost, true), interrupted(lost, true)),
    ];
    for (found, ran, was_starting) in cases {
        let mut stage = three();
        let found: Vec<_> = found
            .iter()
            .flat_map(|found| [(AttemptId(1), *found), (AttemptId(2), *found)])
            .collect();
        stage.restart(settings(), &found);
        stage.spoken(&[]);
        assert_eq!(states(&stage), [ran, was_starting, AttemptState::Assigned]);
        stage.nothing_else();
        stage.connect(shop_one());
        let items = stage.welcomed(welcome());
        assert_eq!(
            items
                .iter()
                .map(|item| item.event_seq.0)
                .collect::<Vec<_>>(),
            [0, 1001, 1002]
        );
    }
}

#[test]
fn another_incarnation_interrupts_everything_and_all_of_it_may_have_started() {
    let mut stage = three();
    let other = Settings {
        incarnation: Incarnation(6),
        interruption: Interruption::Reboot,
        ..settings()
    };
    assert_eq!(unsettled(&stage.agent.durable(), &other), []);
    stage.restart(other, &[]);
    stage.ready(shop_one());
    stage.acked();
    stage.nothing_else();
    let reboot = interrupted(Interruption::Reboot, true);
    assert_eq!(states(&stage), [reboot; 3]);
}

#[test]
fn an_end_asked_for_is_asked_for_again() {
    let mut stage = three();
    let cancel = stage.order(Directive::Cancel(AttemptId(2)));
    stage.frame(vec![cancel]);
    stage.said.clear();
    stage.restart(
        settings(),
        &[
            (AttemptId(1), Found::Running),
            (AttemptId(2), Found::Running),
        ],
    );
    stage.spoken(&[]);
    assert_eq!(
        stage.next(),
        Speech::Cancel {
            attempt: AttemptId(2)
        }
    );
    stage.nothing_else();
}

#[test]
fn after_a_failed_commit_nothing_was_said_and_the_session_is_made_anew() {
    for written in [false, true] {
        let mut stage = three();
        let over = Report {
            duration_ms: 5,
            ..report(Outcome::Succeeded)
        };
        stage.journal.fail = Some(written);
        let finished = Event::Keeper {
            attempt: AttemptId(1),
            said: KeeperSaid::Finished(over),
        };
        let turned = stage.turn(std::slice::from_ref(&finished));
        assert!(matches!(turned, Turn::NotCommitted(_)));
        stage.nothing_else();
        assert_eq!(stage.agent.view().trouble, Some(Trouble::NotCommitted));
        // Attempt 3 was about to be begun in the slot of 1: it was not, so it may be begun later.
        stage.spoken(&[finished]);
        assert_eq!(stage.next(), Speech::Hangup { conn: stage.conn });
        assert!(
            stage
                .said
                .iter()
                .all(|said| !matches!(said, Speech::Start { .. }))
        );
        stage.said.clear();
        stage.ready(None);
        assert_eq!(stage.started(), 3);
        stage.acked();
        stage.nothing_else();
        assert_eq!(
            states(&stage),
            [
                AttemptState::Finished(over),
                AttemptState::Starting,
                AttemptState::Starting
            ]
        );
    }
}

#[test]
fn a_start_that_was_not_spoken_is_remembered_through_several_failures() {
    let mut stage = three();
    let over = Event::Keeper {
        attempt: AttemptId(1),
        said: KeeperSaid::Finished(report(Outcome::Succeeded)),
    };
    for written in [true, false, true, false] {
        stage.journal.fail = Some(written);
        assert!(matches!(
            stage.turn(std::slice::from_ref(&over)),
            Turn::NotCommitted(_)
        ));
    }
    stage.spoken(&[over]);
    assert_eq!(states(&stage)[2], AttemptState::Assigned);
    stage.said.clear();
    stage.ready(None);
    assert_eq!(stage.started(), 3);
}

#[test]
fn what_was_settled_in_a_commit_that_may_have_failed_is_discarded_all_the_same() {
    let mut stage = three();
    stage.keeper(1, KeeperSaid::Finished(report(Outcome::Succeeded)));
    let Some(Speech::Send { messages, .. }) = stage.said.pop_back() else {
        panic!("not sent")
    };
    let [UpMessage::Event(event)] = &messages[..] else {
        panic!("no event")
    };
    stage.said.clear();
    stage.journal.fail = Some(true);
    let acked = Event::Frame {
        conn: stage.conn,
        messages: vec![durable(event.event_seq.0)],
    };
    assert!(matches!(stage.turn(&[acked]), Turn::NotCommitted(_)));
    stage.spoken(&[]);
    assert_eq!(stage.next(), Speech::Hangup { conn: stage.conn });
    assert_eq!(
        stage.next(),
        Speech::Discard {
            attempt: AttemptId(1)
        }
    );
}

#[test]
fn an_acknowledgement_that_was_not_committed_counts_when_it_comes_again() {
    let mut stage = three();
    stage.keeper(1, KeeperSaid::Finished(report(Outcome::Succeeded)));
    stage.said.clear();
    stage.journal.fail = Some(false);
    let acked = Event::Frame {
        conn: stage.conn,
        messages: vec![durable(2)],
    };
    assert!(matches!(stage.turn(&[acked]), Turn::NotCommitted(_)));
    stage.connect(None);
    let seen = outpost_proto::message::Welcome {
        highest_event_seq: EventSeq(2),
        ..welcome()
    };
    stage.welcomed(seen);
    stage.reconciled();
    stage.said.clear();
    stage.frame(vec![durable(2)]);
    assert_eq!(
        stage.next(),
        Speech::Discard {
            attempt: AttemptId(1)
        }
    );
    stage.nothing_else();
}

#[test]
fn a_connection_that_was_only_about_to_be_made_is_made_later() {
    let mut stage = Stage::new(settings());
    stage.journal.fail = Some(false);
    assert!(matches!(
        stage.turn(shop_one().as_slice()),
        Turn::NotCommitted(_)
    ));
    stage.connect(shop_one());
}

#[test]
fn a_pause_that_was_not_committed_is_shown_again_and_holds() {
    let mut stage = three();
    stage.journal.fail = Some(false);
    let pause = Event::Site(Site::Pause);
    assert!(matches!(
        stage.turn(std::slice::from_ref(&pause)),
        Turn::NotCommitted(_)
    ));
    assert!(!stage.agent.view().flags.paused);
    stage.spoken(&[pause]);
    assert!(stage.agent.view().flags.paused && stage.journal.mirror.snapshot().site.paused);
}

#[test]
fn a_compacted_journal_is_the_same_journal() {
    let mut stage = three();
    stage.keeper(1, KeeperSaid::Finished(report(Outcome::Succeeded)));
    stage.frame(vec![durable(2)]);
    let mirror = &stage.journal.mirror;
    let mut compacted = crate::mirror::Mirror::default();
    mirror.writes().for_each(|write| compacted.apply(&write));
    assert_eq!(&compacted, mirror);
    assert_eq!(compacted.snapshot().memories.len(), 1);
    assert_eq!(crate::mirror::Mirror::from(mirror.snapshot()), *mirror);
}

#[test]
fn a_host_that_starts_with_a_clock_of_next_year_forgets_nothing_that_is_not_old_for_the_orchestrator_too()
 {
    const DAY_US: u64 = 24 * 3_600_000_000;
    let mut stage = three();
    stage.keeper(1, KeeperSaid::Finished(report(Outcome::Succeeded)));
    stage.frame(vec![durable(2)]);
    let remembered = |stage: &Stage| stage.agent.durable().memories.len();
    assert_eq!(remembered(&stage), 1);
    let mut next_year = settings();
    next_year.wall_offset_s += 365 * DAY_US / 1_000_000;
    let gone = [1, 2, 3].map(|n| (AttemptId(n), Found::Running));
    stage.restart(next_year, &gone);
    stage.spoken(&[]);
    assert_eq!(
        remembered(&stage),
        1,
        "nobody else was asked what day it is"
    );
    stage.ready(shop_one());
    stage.spoken(&[]);
    assert_eq!(
        remembered(&stage),
        1,
        "the orchestrator says that it is today"
    );
    stage.after(31 * DAY_US);
    stage.spoken(&[]);
    assert_eq!(remembered(&stage), 0);
}

/// What was found is said by nobody again: it must outlive a first turn that was not committed.
#[test]
fn what_was_found_at_the_start_outlives_a_commit_that_failed() {
    for applied in [false, true] {
        let mut stage = three();
        let over = report(Outcome::Succeeded);
        stage.restart(
            Settings {
                incarnation: Incarnation(6),
                ..settings()
            },
            &[(AttemptId(1), Found::Finished(over))],
        );
        stage.journal.fail = Some(applied);
        assert_eq!(stage.turn(&[]), Turn::NotCommitted("told to".into()));
        stage.spoken(&[]);
        let reboot = interrupted(Interruption::Reboot, true);
        assert_eq!(states(&stage), [reboot; 3]);

        let mut stage = three();
        stage.restart(
            settings(),
            &[
                (AttemptId(1), Found::Finished(over)),
                (AttemptId(2), Found::NeverStarted),
            ],
        );
        stage.journal.fail = Some(applied);
        assert_eq!(stage.turn(&[]), Turn::NotCommitted("told to".into()));
        stage.spoken(&[]);
        let gone = ended(Outcome::Refused(Refusal::NoLease), false);
        let gone = AttemptState::Finished(gone);
        assert_eq!(
            states(&stage),
            [AttemptState::Finished(over), gone, AttemptState::Assigned]
        );
    }
}
