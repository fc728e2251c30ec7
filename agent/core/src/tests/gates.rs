//! What keeps work from being taken or started.

use std::time::Duration;

use outpost_driver::Core;
use outpost_proto::ids::*;
use outpost_proto::message::{AttemptState, Directive, DownMessage, ParamValue, UpMessage};
use outpost_proto::outcome::{Outcome, Refusal};

use super::harness::*;
use crate::Settings;
use crate::event::{Event, KeeperSaid, Site, Speech, Terms};
use crate::state::ended;

fn shop_one() -> Option<Event> {
    Some(shop(1, &[("copy", free())]))
}

fn ready_with(settings: Settings, terms: Terms) -> Stage {
    let mut stage = Stage::new(settings);
    stage.ready(Some(shop(1, &[("copy", terms)])));
    stage.acked();
    stage.nothing_else();
    stage
}

fn ready_stage() -> Stage {
    ready_with(settings(), free())
}

fn refused(refusal: Refusal) -> AttemptState {
    AttemptState::Finished(ended(Outcome::Refused(refusal), false))
}

/// The job is refused, the reason stays at the site, and the refusal is kept like any outcome.
fn refuses(stage: &mut Stage, attempt: u128, entry: &str, refusal: Refusal) {
    let job = stage.job(attempt, entry);
    stage.frame(vec![job]);
    let Speech::Refused { why, .. } = stage.next() else {
        panic!("not refused")
    };
    assert!(!why.is_empty());
    let messages = stage.sent();
    assert_eq!(messages[0], stage.ack());
    let UpMessage::Event(event) = &messages[1] else {
        panic!("no event")
    };
    assert_eq!(
        (event.attempt, event.state),
        (AttemptId(attempt), refused(refusal))
    );
    stage.nothing_else();
    assert!(
        stage
            .agent
            .durable()
            .attempts
            .iter()
            .any(|record| record.state == refused(refusal))
    );
}

#[test]
fn the_catalogue_decides_and_another_version_is_refused() {
    let mut stage = ready_stage();
    refuses(&mut stage, 1, "format-disk", Refusal::UnknownEntry);
    stage.spoken(&[shop(2, &[("copy", free())])]);
    assert!(
        matches!(stage.sent_one(), UpMessage::Catalogue(catalogue) if catalogue.version == CatalogueVersion(2))
    );
    refuses(&mut stage, 2, "copy", Refusal::CatalogueVersion);
    stage.after(10 * SECOND);
    stage.spoken(&[]);
    let UpMessage::Heartbeat(heartbeat) = stage.sent_one() else {
        panic!("no heartbeat")
    };
    assert_eq!(heartbeat.health.refusals, 2);
}

#[test]
fn what_waits_is_judged_again_when_the_catalogue_changes() {
    let mut stage = ready_stage();
    let jobs = (1..=3).map(|n| stage.job(n, "copy")).collect();
    stage.frame(jobs);
    assert_eq!((stage.started(), stage.started()), (1, 2));
    stage.acked();
    stage.spoken(&[shop(2, &[("copy", free())])]);
    assert!(matches!(
        stage.next(),
        Speech::Refused {
            attempt: AttemptId(3),
            ..
        }
    ));
    assert_eq!(
        stage.sent()[1],
        event(1, 3, refused(Refusal::CatalogueVersion))
    );
    stage.nothing_else();
}

#[test]
fn a_pause_survives_a_restart_and_only_the_site_ends_it() {
    let mut stage = ready_stage();
    let jobs = (1..=3).map(|n| stage.job(n, "copy")).collect();
    stage.frame(jobs);
    assert_eq!((stage.started(), stage.started()), (1, 2));
    stage.acked();
    stage.spoken(&[Event::Site(Site::Pause)]);
    let uncordon = stage.order(Directive::Uncordon);
    stage.frame(vec![uncordon]);
    stage.acked();
    refuses(&mut stage, 4, "copy", Refusal::Paused);
    stage.keeper(1, KeeperSaid::Finished(report(Outcome::Succeeded)));
    stage.sent_one();
    stage.nothing_else();
    let found = [(AttemptId(2), crate::Found::Running)];
    stage.restart(settings(), &found);
    stage.ready(shop_one());
    stage.acked();
    stage.nothing_else();
    stage.spoken(&[Event::Site(Site::Resume)]);
    assert_eq!(stage.started(), 3);
    stage.nothing_else();
}

#[test]
fn nothing_starts_without_a_live_lease() {
    let mut stage = Stage::new(settings());
    stage.connect(shop_one());
    stage.welcomed(welcome());
    let (reconciled, job) = (stage.order(Directive::Reconciled), stage.job(1, "copy"));
    stage.frame(vec![reconciled, job]);
    stage.acked();
    stage.nothing_else();
    stage.after(29_900_000);
    stage.frame(vec![lease(1)]);
    assert_eq!(stage.next(), Speech::InTouch);
    let UpMessage::Heartbeat(heartbeat) = stage.sent_one() else {
        panic!("no heartbeat")
    };
    assert_eq!(heartbeat.seq, HeartbeatSeq(2));
    stage.nothing_else();
    stage.frame(vec![lease(2)]);
    assert_eq!(stage.next(), Speech::InTouch);
    let Speech::Start { lease_until, .. } = stage.next() else {
        panic!("not started")
    };
    assert_eq!(lease_until, stage.now.plus_ms(30_000));
    stage.nothing_else();
}

#[test]
fn what_waits_from_an_earlier_session_starts_only_after_the_next_is_reconciled() {
    let mut stage = Stage::new(settings());
    stage.connect(shop_one());
    stage.welcomed(welcome());
    let (reconciled, job) = (stage.order(Directive::Reconciled), stage.job(1, "copy"));
    stage.frame(vec![reconciled, job]);
    stage.acked();
    stage.spoken(&[Event::Closed {
        conn: stage.conn,
        why: crate::event::Down::Ended,
    }]);
    stage.connect(None);
    assert_eq!(stage.welcomed(welcome()).len(), 1);
    stage.frame(vec![lease(1)]);
    stage.nothing_else();
    let reconciled = stage.order(Directive::Reconciled);
    stage.frame(vec![reconciled]);
    assert_eq!(stage.started(), 1);
    stage.acked();
    stage.nothing_else();
}

#[test]
fn slots_are_given_in_the_order_of_the_commands() {
    let mut stage = ready_stage();
    let jobs = [9, 8, 7, 6].map(|n| stage.job(n, "copy"));
    stage.frame(jobs.into());
    assert_eq!((stage.started(), stage.started()), (9, 8));
    stage.acked();
    stage.keeper(8, KeeperSaid::Finished(report(Outcome::Succeeded)));
    assert_eq!(stage.started(), 7);
    stage.sent_one();
    stage.nothing_else();
    let view = stage.agent.view();
    assert_eq!(
        (view.running.len(), view.queued.len(), view.unacknowledged),
        (2, 1, 1)
    );
}

#[test]
fn an_entry_with_a_limit_waits_and_others_pass_it() {
    let mut stage = Stage::new(Settings {
        slots: 10,
        ..settings()
    });
    let one = Terms {
        max_parallel: Some(1),
        ..free()
    };
    stage.ready(Some(shop(1, &[("backup", one), ("copy", free())])));
    stage.acked();
    let jobs = [(1, "backup"), (2, "backup"), (3, "backup"), (4, "copy")]
        .map(|(n, entry)| stage.job(n, entry));
    stage.frame(jobs.into());
    assert_eq!((stage.started(), stage.started()), (1, 4));
    stage.acked();
    let cancel = stage.order(Directive::Cancel(AttemptId(2)));
    stage.frame(vec![cancel]);
    stage.sent();
    stage.nothing_else();
    stage.keeper(1, KeeperSaid::Finished(report(Outcome::Succeeded)));
    assert_eq!(stage.started(), 3);
    stage.sent_one();
    stage.nothing_else();
}

#[test]
fn whoever_waits_behind_one_that_is_cancelled_while_paused_begins_after_it() {
    let one = Terms {
        max_parallel: Some(1),
        ..free()
    };
    let mut stage = ready_with(settings(), one);
    let jobs = [1, 2, 3].map(|n| stage.job(n, "copy"));
    stage.frame(jobs.into());
    assert_eq!(stage.started(), 1);
    stage.acked();
    stage.spoken(&[Event::Site(Site::Pause)]);
    stage.said.clear();
    stage.keeper(1, KeeperSaid::Finished(report(Outcome::Succeeded)));
    let cancel = stage.order(Directive::Cancel(AttemptId(2)));
    stage.frame(vec![cancel]);
    stage.said.clear();
    stage.spoken(&[Event::Site(Site::Resume)]);
    assert_eq!(stage.started(), 3);
    assert_eq!(stage.agent.view().queued.len(), 0);
}

#[test]
fn an_hourly_limit_refuses_and_comes_back() {
    let mut stage = ready_with(
        settings(),
        Terms {
            max_per_hour: Some(1),
            ..free()
        },
    );
    let job = stage.job(1, "copy");
    stage.frame(vec![job]);
    assert_eq!(stage.started(), 1);
    stage.acked();
    refuses(&mut stage, 2, "copy", Refusal::Rate);
    stage.spoken(&[Event::Closed {
        conn: stage.conn,
        why: crate::event::Down::Ended,
    }]);
    stage.after(3600 * SECOND);
    stage.ready(None);
    stage.acked();
    let job = stage.job(3, "copy");
    stage.frame(vec![job]);
    assert_eq!(stage.started(), 3);
}

#[test]
fn what_began_under_an_earlier_process_counts_in_its_hour() {
    let limit = Terms {
        max_per_hour: Some(2),
        ..free()
    };
    let mut stage = ready_with(settings(), limit);
    let later = |stage: &mut Stage, seconds: u64| {
        stage.spoken(&[Event::Closed {
            conn: stage.conn,
            why: crate::event::Down::Ended,
        }]);
        stage.after(seconds * SECOND);
        stage.ready(None);
        stage.acked();
    };
    later(&mut stage, 7200);
    let (entry, now) = ("copy".parse().unwrap(), stage.now);
    // In whatever order they are found.
    for ago in [600, 1200] {
        let at = now.0.saturating_sub(ago * SECOND);
        stage.agent.began(&entry, outpost_driver::Micros(at));
    }
    refuses(&mut stage, 1, "copy", Refusal::Rate);
    // The older one is an hour old: one more may begin.
    later(&mut stage, 2500);
    let job = stage.job(2, "copy");
    stage.frame(vec![job]);
    assert_eq!(stage.started(), 2);
    stage.acked();
    refuses(&mut stage, 3, "copy", Refusal::Rate);
}

/// A job with parameters of nearly full size.
fn large_job(stage: &mut Stage, attempt: u128) -> DownMessage {
    let DownMessage::Assign(mut assign) = stage.job(attempt, "copy") else {
        unreachable!()
    };
    let text = || ParamValue::Text("x".repeat(4096));
    assign.parameters = (0..15)
        .map(|n| (format!("p{n:02}").parse().unwrap(), text()))
        .collect();
    DownMessage::Assign(assign)
}

#[test]
fn what_is_refused_leaves_no_parameters_behind_and_is_the_same_when_it_comes_again() {
    let mut stage = ready_stage();
    stage.spoken(&[Event::Site(Site::Pause)]);
    stage.said.clear();
    let job = large_job(&mut stage, 1);
    stage.frame(vec![job]);
    assert_eq!(stage.agent.durable().attempts[0].assign.parameters, vec![]);
    stage.said.clear();
    let again = large_job(&mut stage, 1);
    stage.frame(vec![again]);
    let messages = stage.sent();
    let UpMessage::Event(event) = &messages[1] else {
        panic!("{messages:?}")
    };
    assert_eq!(event.state, refused(Refusal::Paused));
}

#[test]
fn more_parameters_than_an_agent_holds_are_refused_until_some_are_gone() {
    let settings = Settings {
        backlog: 4000,
        ..settings()
    };
    let mut stage = ready_with(settings, free());
    let each = 15 * (4096 + 3);
    let most = 64 * 1024 * 1024 / each;
    let jobs = (1..=most + 1).map(|n| large_job(&mut stage, n)).collect();
    stage.frame(jobs);
    stage.said.clear();
    let state = |stage: &Stage, n| {
        let attempts = stage.agent.durable().attempts;
        let mut of = attempts.iter().filter(|one| one.assign.attempt.0 == n);
        of.next().map(|record| record.state)
    };
    assert_eq!(state(&stage, most), Some(AttemptState::Assigned));
    assert_eq!(state(&stage, most + 1), Some(refused(Refusal::Full)));
    let forget = stage.order(Directive::Forget(AttemptId(most)));
    stage.frame(vec![forget]);
    let next = large_job(&mut stage, most + 2);
    stage.frame(vec![next]);
    assert_eq!(state(&stage, most + 2), Some(AttemptState::Assigned));
}

#[test]
fn more_than_the_backlog_is_refused() {
    let mut stage = ready_with(
        Settings {
            backlog: 1,
            ..settings()
        },
        free(),
    );
    let jobs = (1..=3).map(|n| stage.job(n, "copy")).collect();
    stage.frame(jobs);
    assert_eq!((stage.started(), stage.started()), (1, 2));
    stage.acked();
    refuses(&mut stage, 4, "copy", Refusal::Full);
}

#[test]
fn an_observing_agent_runs_nothing() {
    let mut stage = ready_with(
        Settings {
            observe: true,
            ..settings()
        },
        free(),
    );
    refuses(&mut stage, 1, "format-disk", Refusal::UnknownEntry);
    refuses(&mut stage, 2, "copy", Refusal::Observe);
    assert!(stage.agent.view().flags.observe);
}

#[test]
fn a_cordon_keeps_new_work_out_until_it_is_lifted() {
    let mut stage = ready_stage();
    let cordon = stage.order(Directive::Cordon);
    stage.frame(vec![cordon]);
    stage.acked();
    refuses(&mut stage, 1, "copy", Refusal::Draining);
    let (uncordon, job) = (stage.order(Directive::Uncordon), stage.job(2, "copy"));
    stage.frame(vec![uncordon, job]);
    assert_eq!(stage.started(), 2);
}

#[test]
fn a_drain_by_the_orchestrator_gives_back_what_waits_and_keeps_the_connection() {
    let mut stage = ready_stage();
    let jobs = (1..=3).map(|n| stage.job(n, "copy")).collect();
    stage.frame(jobs);
    assert_eq!((stage.started(), stage.started()), (1, 2));
    stage.acked();
    let drain = stage.order(Directive::Drain);
    stage.frame(vec![drain]);
    assert!(matches!(
        stage.next(),
        Speech::Refused {
            attempt: AttemptId(3),
            ..
        }
    ));
    assert_eq!(
        stage.sent(),
        vec![stage.ack(), event(1, 3, refused(Refusal::Draining))]
    );
    stage.keeper(1, KeeperSaid::Finished(report(Outcome::Succeeded)));
    stage.sent_one();
    stage.nothing_else();
}

#[test]
fn a_drain_by_the_site_ends_the_process_once_everything_is_acknowledged() {
    let mut stage = ready_stage();
    let job = stage.job(1, "copy");
    stage.frame(vec![job]);
    assert_eq!(stage.started(), 1);
    stage.acked();
    stage.spoken(&[Event::Site(Site::Drain)]);
    refuses(&mut stage, 2, "copy", Refusal::Draining);
    stage.keeper(1, KeeperSaid::Finished(report(Outcome::Succeeded)));
    stage.sent_one();
    stage.nothing_else();
    stage.frame(vec![durable(2)]);
    assert!(matches!(stage.next(), Speech::Discard { .. }));
    assert!(matches!(stage.next(), Speech::Discard { .. }));
    assert_eq!(stage.next(), Speech::Hangup { conn: stage.conn });
    assert_eq!(stage.next(), Speech::Done);
    stage.nothing_else();
    assert_eq!(stage.agent.next_deadline(), None);
    stage.after(SECOND);
    let job = stage.job(3, "copy");
    stage.frame(vec![job]);
    stage.nothing_else();
}

#[test]
fn a_drain_is_bounded() {
    let mut stage = ready_with(
        Settings {
            drain_limit: Duration::from_secs(5),
            ..settings()
        },
        free(),
    );
    let job = stage.job(1, "copy");
    stage.frame(vec![job]);
    stage.said.clear();
    stage.spoken(&[Event::Site(Site::Drain)]);
    stage.nothing_else();
    stage.after(5 * SECOND);
    stage.spoken(&[]);
    assert_eq!(stage.next(), Speech::Hangup { conn: stage.conn });
    assert_eq!(stage.next(), Speech::Done);
    assert_eq!(
        stage.agent.durable().attempts.len(),
        1,
        "the task goes on under its keeper"
    );
}

#[test]
fn a_stop_says_what_is_known_and_waits_a_little_for_the_answer() {
    let mut stage = ready_stage();
    let job = stage.job(1, "copy");
    stage.frame(vec![job]);
    assert_eq!(stage.started(), 1);
    stage.acked();
    let finished = report(Outcome::Succeeded);
    let over = Event::Keeper {
        attempt: AttemptId(1),
        said: KeeperSaid::Finished(finished),
    };
    stage.spoken(&[over, Event::Site(Site::Stop)]);
    assert_eq!(
        stage.sent_one(),
        event(1, 1, AttemptState::Finished(finished))
    );
    stage.nothing_else();
    stage.after(2 * SECOND);
    stage.spoken(&[]);
    assert_eq!(stage.next(), Speech::Hangup { conn: stage.conn });
    assert_eq!(stage.next(), Speech::Done);
    stage.nothing_else();
}

#[test]
fn a_stop_without_a_connection_is_immediate_and_ends_no_task() {
    let mut stage = ready_stage();
    let job = stage.job(1, "copy");
    stage.frame(vec![job]);
    stage.said.clear();
    let closed = Event::Closed {
        conn: stage.conn,
        why: crate::event::Down::Unreachable,
    };
    stage.spoken(&[closed, Event::Site(Site::Stop)]);
    assert_eq!(stage.next(), Speech::Done);
    stage.nothing_else();
}

#[test]
fn unacknowledged_outcomes_hold_back_new_starts() {
    let mut stage = ready_with(
        Settings {
            backlog: 4000,
            ..settings()
        },
        free(),
    );
    let jobs = (1..=2048).map(|n| stage.job(n, "unknown")).collect();
    stage.frame(jobs);
    let highest = stage
        .said
        .iter()
        .filter(|said| matches!(said, Speech::Refused { .. }))
        .count();
    stage.said.clear();
    let job = stage.job(5000, "copy");
    stage.frame(vec![job]);
    stage.acked();
    stage.nothing_else();
    stage.frame(vec![durable(u64::try_from(highest).unwrap())]);
    let starts = stage
        .said
        .iter()
        .filter(|said| matches!(said, Speech::Start { .. }))
        .count();
    assert_eq!(starts, 1);
}

#[test]
fn d1_without_room_nothing_new_is_taken_what_waits_is_turned_away_and_what_runs_goes_on() {
    let mut stage = ready_with(
        Settings {
            slots: 1,
            ..settings()
        },
        free(),
    );
    let jobs = (1..=2).map(|n| stage.job(n, "copy")).collect();
    stage.frame(jobs);
    assert_eq!(stage.started(), 1);
    stage.acked();
    stage.nothing_else();
    stage.spoken(&[Event::Room(false)]);
    assert!(matches!(
        stage.next(),
        Speech::Refused {
            attempt: AttemptId(2),
            ..
        }
    ));
    let UpMessage::Event(event) = stage.sent_one() else {
        panic!("no event")
    };
    assert_eq!(
        (event.attempt, event.state),
        (AttemptId(2), refused(Refusal::Disk))
    );
    stage.nothing_else();
    refuses(&mut stage, 3, "copy", Refusal::Disk);
    // The one that runs is told as ever.
    stage.keeper(1, KeeperSaid::Running);
    assert!(
        stage
            .agent
            .view()
            .running
            .iter()
            .any(|one| one.attempt == AttemptId(1))
    );
    stage.spoken(&[Event::Room(true)]);
}
