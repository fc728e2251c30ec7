//! Attempts that wait at a keeper behind another one: when they are handed over, and that everything which keeps work
//! from being started has them back.

use outpost_proto::ids::AttemptId;
use outpost_proto::message::{AttemptState, Directive, OnDisconnect, UpMessage};
use outpost_proto::outcome::{Outcome, Refusal, Report};

use super::harness::*;
use crate::Settings;
use crate::event::{Down, Event, KeeperSaid, Site, Speech, Terms};
use crate::state::ended;

const ENTRY: &str = "copy";

/// A ready agent with one slot, of which the last attempt, number 100, was over within moments.
fn stage_of(terms: Terms) -> Stage {
    let mut stage = Stage::new(Settings {
        slots: 1,
        ahead: 1,
        ..settings()
    });
    stage.ready(Some(shop(1, &[(ENTRY, terms)])));
    stage.said.clear();
    assign_all(&mut stage, [100]);
    ends(&mut stage, 100, Outcome::Succeeded);
    stage.said.clear();
    stage
}

/// The same with attempts 1 to 3: 1 has the slot, 2 waits at its keeper, 3 waits here.
fn stage() -> Stage {
    let mut stage = stage_of(free());
    assign_all(&mut stage, [1, 2, 3]);
    assert_eq!(begun(&mut stage), [(1, None), (2, Some(1))]);
    stage.said.clear();
    stage
}

fn assign_all<const N: usize>(stage: &mut Stage, attempts: [u128; N]) {
    let jobs = attempts.map(|attempt| stage.job(attempt, ENTRY));
    stage.frame(jobs.into());
}

fn ends(stage: &mut Stage, attempt: u128, outcome: Outcome) {
    stage.keeper(attempt, KeeperSaid::Finished(report(outcome)));
}

/// What was begun, and behind whom.
fn begun(stage: &mut Stage) -> Vec<(u128, Option<u128>)> {
    let said = stage.said.drain(..);
    let begun = said.filter_map(|said| {
        let Speech::Start { assign, behind, .. } = said else {
            return None;
        };
        Some((assign.attempt.0, behind.map(|first| first.0)))
    });
    begun.collect()
}

/// Who was asked for.
fn asked(stage: &mut Stage) -> Vec<u128> {
    let said = stage.said.drain(..);
    let asked = said.filter_map(|said| {
        let Speech::TakeBack { attempt } = said else {
            return None;
        };
        Some(attempt.0)
    });
    asked.collect()
}

fn state(stage: &Stage, attempt: u128) -> AttemptState {
    let attempts = stage.agent.durable().attempts;
    let held = attempts
        .iter()
        .find(|held| held.assign.attempt.0 == attempt);
    held.expect("held").state
}

fn back(stage: &mut Stage, attempt: u128) {
    stage.keeper(attempt, KeeperSaid::GivenBack);
}

#[test]
fn who_waits_at_a_keeper_is_journalled_as_begun_and_takes_the_slot_that_gets_free() {
    let mut stage = stage();
    assert_eq!(state(&stage, 2), AttemptState::Starting);
    assert_eq!(state(&stage, 3), AttemptState::Assigned);
    ends(&mut stage, 1, Outcome::Succeeded);
    assert_eq!(begun(&mut stage), [(3, Some(2))]);
    ends(&mut stage, 2, Outcome::Succeeded);
    ends(&mut stage, 3, Outcome::Succeeded);
    assert_eq!((begun(&mut stage), asked(&mut stage)), (vec![], vec![]));
    assign_all(&mut stage, [4]);
    assert_eq!(begun(&mut stage), [(4, None)]);
}

#[test]
fn nobody_waits_behind_what_takes_long_or_is_not_known() {
    let mut stage = Stage::new(Settings {
        slots: 1,
        ahead: 1,
        ..settings()
    });
    stage.ready(Some(shop(1, &[(ENTRY, free())])));
    assign_all(&mut stage, [1, 2, 3]);
    assert_eq!(begun(&mut stage), [(1, None)]);
    let long = Report {
        duration_ms: 51,
        ..report(Outcome::Succeeded)
    };
    stage.keeper(1, KeeperSaid::Finished(long));
    assert_eq!(begun(&mut stage), [(2, None)]);
}

#[test]
fn an_end_that_came_from_elsewhere_says_nothing_of_how_long_the_next_one_takes() {
    let lost = KeeperSaid::Gone { claimed: true };
    let said = |outcome| KeeperSaid::Finished(report(outcome));
    let (succeeded, failed) = (said(Outcome::Succeeded), said(Outcome::Failed));
    let (cancelled, timed_out) = (said(Outcome::Cancelled), said(Outcome::TimedOut));
    for (ends, brief) in [
        (vec![lost], false),
        (vec![cancelled], false),
        (vec![timed_out], false),
        (vec![failed], true),
        (vec![succeeded, lost, cancelled], true),
        (vec![succeeded, timed_out], false),
    ] {
        let mut stage = Stage::new(Settings {
            slots: 1,
            ahead: 1,
            ..settings()
        });
        stage.ready(Some(shop(1, &[(ENTRY, free())])));
        for (attempt, end) in (100..).zip(&ends) {
            assign_all(&mut stage, [attempt]);
            stage.keeper(attempt, *end);
        }
        stage.said.clear();
        assign_all(&mut stage, [1, 2]);
        let handed = begun(&mut stage).len() == 2;
        assert_eq!(handed, brief, "{ends:?}");
    }
}

#[test]
fn nobody_is_overtaken_for_long_behind_one_that_turns_out_to_take_long() {
    let mut stage = Stage::new(Settings {
        slots: 2,
        ahead: 1,
        ..settings()
    });
    stage.ready(Some(shop(1, &[(ENTRY, free())])));
    assign_all(&mut stage, [100]);
    ends(&mut stage, 100, Outcome::Succeeded);
    stage.said.clear();
    assign_all(&mut stage, [1, 2, 3, 4, 5, 6]);
    let all = [(1, None), (2, None), (3, Some(1)), (4, Some(2))];
    assert_eq!(begun(&mut stage), all);
    stage.after(SECOND);
    stage.spoken(&[]);
    assert_eq!(asked(&mut stage), []);
    stage.after(1);
    ends(&mut stage, 2, Outcome::Succeeded);
    let take_back = Speech::TakeBack {
        attempt: AttemptId(3),
    };
    assert!(stage.said.contains(&take_back));
    assert_eq!(
        begun(&mut stage),
        [(5, Some(4))],
        "4 has not had it for long"
    );
    back(&mut stage, 3);
    assert_eq!(begun(&mut stage), [], "not behind 1 again");
    ends(&mut stage, 4, Outcome::Succeeded);
    assert_eq!(begun(&mut stage), [(3, Some(5))]);
    ends(&mut stage, 5, Outcome::Succeeded);
    assert_eq!(begun(&mut stage), [(6, Some(3))]);
}

#[test]
fn what_has_a_timer_or_a_count_of_its_own_does_not_wait_at_a_keeper() {
    for terms in [
        Terms {
            on_disconnect: OnDisconnect::StopAfter(60),
            ..free()
        },
        Terms {
            max_parallel: Some(1),
            ..free()
        },
        Terms {
            max_per_hour: Some(10),
            ..free()
        },
    ] {
        let mut stage = stage_of(terms);
        assign_all(&mut stage, [1, 2]);
        assert_eq!(begun(&mut stage), [(1, None)], "{terms:?}");
        ends(&mut stage, 1, Outcome::Succeeded);
        assert_eq!(begun(&mut stage), [(2, None)], "{terms:?}");
    }
}

#[test]
fn a_pause_has_it_back_and_what_is_resumed_begins_it() {
    let mut stage = stage();
    stage.spoken(&[Event::Site(Site::Pause)]);
    assert_eq!(asked(&mut stage), [2]);
    stage.spoken(&[]);
    assert_eq!(asked(&mut stage), [], "asked once");
    back(&mut stage, 2);
    assert_eq!(state(&stage, 2), AttemptState::Assigned);
    ends(&mut stage, 1, Outcome::Succeeded);
    assert_eq!(begun(&mut stage), []);
    stage.spoken(&[Event::Site(Site::Resume)]);
    assert_eq!(begun(&mut stage), [(2, None), (3, Some(2))]);
}

#[test]
fn what_turns_away_whatever_waits_turns_it_away_too() {
    type Order = fn(&mut Stage);
    let orders: [(Order, Refusal); 3] = [
        (
            |stage| stage.spoken(&[Event::Site(Site::Drain)]),
            Refusal::Draining,
        ),
        (
            |stage| {
                let drain = stage.order(Directive::Drain);
                stage.frame(vec![drain]);
            },
            Refusal::Draining,
        ),
        (|stage| stage.spoken(&[Event::Room(false)]), Refusal::Disk),
    ];
    for (order, refusal) in orders {
        let mut stage = stage();
        order(&mut stage);
        assert_eq!(asked(&mut stage), [2], "{refusal:?}");
        assert_eq!(state(&stage, 2), AttemptState::Starting);
        back(&mut stage, 2);
        let refused = AttemptState::Finished(ended(Outcome::Refused(refusal), false));
        assert_eq!([state(&stage, 2), state(&stage, 3)], [refused; 2]);
    }
}

#[test]
fn another_catalogue_has_it_back_and_judges_it_again() {
    let mut stage = stage();
    stage.spoken(&[shop(2, &[(ENTRY, free())])]);
    assert_eq!(asked(&mut stage), [2]);
    back(&mut stage, 2);
    let other = Outcome::Refused(Refusal::CatalogueVersion);
    assert_eq!(
        state(&stage, 2),
        AttemptState::Finished(ended(other, false))
    );
}

#[test]
fn a_session_or_a_lease_that_ends_has_it_back() {
    let mut stage = stage();
    let conn = stage.conn;
    let why = Down::Unreachable;
    stage.spoken(&[Event::Closed { conn, why }]);
    assert_eq!(asked(&mut stage), [2]);
    let mut stage = self::stage();
    stage.after(30 * SECOND);
    stage.spoken(&[]);
    assert_eq!(asked(&mut stage), [2]);
}

#[test]
fn a_cancel_reaches_it_at_its_keeper_and_it_never_begins() {
    let mut stage = stage();
    let cancel = stage.order(Directive::Cancel(AttemptId(2)));
    stage.frame(vec![cancel]);
    let cancelled = Speech::Cancel {
        attempt: AttemptId(2),
    };
    assert!(stage.said.contains(&cancelled));
    back(&mut stage, 2);
    let cancelled = AttemptState::Finished(ended(Outcome::Cancelled, false));
    assert_eq!(state(&stage, 2), cancelled);
    // Its place is taken by the next one.
    assert_eq!(begun(&mut stage), [(3, Some(1))]);
}

#[test]
fn a_slot_that_is_free_elsewhere_has_it_back() {
    let mut stage = Stage::new(Settings {
        ahead: 1,
        ..settings()
    });
    stage.ready(Some(shop(1, &[(ENTRY, free())])));
    assign_all(&mut stage, [100]);
    ends(&mut stage, 100, Outcome::Succeeded);
    stage.said.clear();
    assign_all(&mut stage, [1, 2, 3]);
    assert_eq!(begun(&mut stage), [(1, None), (2, None), (3, Some(1))]);
    ends(&mut stage, 2, Outcome::Succeeded);
    assert_eq!(asked(&mut stage), [3]);
    back(&mut stage, 3);
    assert_eq!(begun(&mut stage), [(3, None)]);
}

#[test]
fn a_keeper_that_gives_back_unasked_is_given_nothing_more() {
    let mut stage = stage();
    back(&mut stage, 2);
    assert_eq!(begun(&mut stage), []);
    ends(&mut stage, 1, Outcome::Succeeded);
    assert_eq!(begun(&mut stage), [(2, None), (3, Some(2))]);
}

#[test]
fn what_waited_at_a_keeper_that_is_lost_may_run_elsewhere_at_once() {
    let mut stage = stage();
    stage.keeper(1, KeeperSaid::Gone { claimed: true });
    stage.keeper(2, KeeperSaid::Gone { claimed: false });
    let refused = Outcome::Refused(Refusal::NoLease);
    assert_eq!(
        state(&stage, 2),
        AttemptState::Finished(ended(refused, false))
    );
}

#[test]
fn a_process_that_stops_has_it_back_before_it_ends() {
    let mut stage = stage();
    stage.frame(vec![durable(1)]);
    stage.spoken(&[Event::Site(Site::Stop)]);
    assert!(!stage.said.contains(&Speech::Done));
    assert_eq!(asked(&mut stage), [2]);
    back(&mut stage, 2);
    assert!(stage.said.contains(&Speech::Done));
    assert_eq!(state(&stage, 2), AttemptState::Assigned);
}

#[test]
fn upstream_is_not_told_that_it_runs_before_it_does() {
    let mut stage = stage();
    stage.after(10 * SECOND);
    stage.spoken(&[]);
    let told = |stage: &mut Stage, attempt: u128| {
        let said = stage.said.drain(..).filter_map(|said| {
            let Speech::Send { messages, .. } = said else {
                return None;
            };
            Some(messages)
        });
        let mut messages = said.flatten();
        messages.any(|message| {
            matches!(message, UpMessage::Event(event) if event.attempt == AttemptId(attempt))
        })
    };
    assert!(!told(&mut stage, 2));
    ends(&mut stage, 1, Outcome::Succeeded);
    stage.said.clear();
    stage.after(10 * SECOND);
    stage.spoken(&[]);
    assert!(told(&mut stage, 2), "it has the slot now");
}

/// A keeper that was stopped gives one back only when the next session's inventory has said that it begins.
#[test]
fn what_upstream_was_told_begins_does_not_wait_here_again() {
    let refused = Outcome::Refused(Refusal::NoLease);
    for (cancel, outcome) in [(false, refused), (true, Outcome::Cancelled)] {
        let mut stage = stage();
        let (conn, why) = (stage.conn, Down::Unreachable);
        stage.spoken(&[Event::Closed { conn, why }]);
        assert_eq!(asked(&mut stage), [2]);
        stage.connect(None);
        let items = stage.welcomed(welcome());
        let told = items.iter().find(|item| item.attempt == AttemptId(2));
        assert_eq!(told.map(|item| item.state), Some(AttemptState::Starting));
        if cancel {
            let cancel = stage.order(Directive::Cancel(AttemptId(2)));
            stage.frame(vec![cancel]);
        }
        back(&mut stage, 2);
        assert_eq!(
            state(&stage, 2),
            AttemptState::Finished(ended(outcome, false))
        );
    }
}

#[test]
fn a_commit_that_fails_takes_back_what_was_not_handed_over() {
    for written in [false, true] {
        let mut stage = stage_of(free());
        assign_all(&mut stage, [1]);
        stage.said.clear();
        stage.journal.fail = Some(written);
        let job = stage.job(2, ENTRY);
        let conn = stage.conn;
        let turned = stage.turn(&[Event::Frame {
            conn,
            messages: vec![job],
        }]);
        assert!(matches!(turned, outpost_driver::Turn::NotCommitted(_)));
        assert_eq!(stage.agent.attempts.index.lines.len(), 0);
        ends(&mut stage, 1, Outcome::Succeeded);
        assert_eq!(begun(&mut stage), [], "no session");
    }
}
