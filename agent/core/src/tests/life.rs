//! One attempt from assignment to memory, and the ways in which it can end.

use outpost_proto::ids::*;
use outpost_proto::message::{
    AttemptState, Directive, DownMessage, InventoryItem, Reporting, UpMessage,
};
use outpost_proto::outcome::{KillReason, Outcome, Refusal, Report, StartFailure};

use super::harness::*;
use crate::event::{Alarm, Event, KeeperSaid, NotStarted, Speech};
use crate::record::Write;
use crate::state::ended;

fn shop_one() -> Option<Event> {
    Some(shop(1, &[("copy", free())]))
}

fn ready_stage() -> Stage {
    let mut stage = Stage::new(settings());
    stage.ready(shop_one());
    stage.acked();
    stage.nothing_else();
    stage
}

fn running(stage: &mut Stage, attempt: u128) {
    let job = stage.job(attempt, "copy");
    stage.frame(vec![job]);
    assert_eq!(stage.started(), attempt);
    stage.acked();
    stage.keeper(attempt, KeeperSaid::Running);
    assert!(matches!(stage.sent_one(), UpMessage::Event(_)));
    stage.nothing_else();
}

#[test]
fn a_task_is_assigned_started_reported_and_settled() {
    let mut stage = Stage::new(settings());
    let hello = stage.connect(shop_one());
    assert_eq!((hello.last, hello.session_nonce), (None, Nonce(0)));
    assert_eq!(stage.welcomed(welcome()), vec![]);
    assert_eq!(
        stage.journal.mirror.snapshot().session.nonce,
        Nonce(11),
        "synced before the inventory is sent"
    );
    stage.reconciled();
    stage.acked();
    stage.nothing_else();

    let job = stage.job(1, "copy");
    stage.frame(vec![job]);
    let Speech::Start {
        assign: started,
        lease_until,
        behind: None,
    } = stage.next()
    else {
        panic!("not started")
    };
    assert_eq!(
        (started.attempt, lease_until),
        (AttemptId(1), stage.now.plus_ms(30_000))
    );
    stage.acked();
    stage.nothing_else();

    stage.keeper(1, KeeperSaid::Running);
    assert_eq!(stage.sent_one(), event(1, 1, AttemptState::Running));
    let finished = report(Outcome::Succeeded);
    stage.keeper(1, KeeperSaid::Finished(finished));
    assert_eq!(
        stage.sent_one(),
        event(2, 1, AttemptState::Finished(finished))
    );
    stage.frame(vec![durable(1)]);
    stage.nothing_else();
    assert_eq!(
        stage.agent.durable().attempts.len(),
        1,
        "an outcome is kept until it is acknowledged"
    );
    stage.frame(vec![durable(2)]);
    assert_eq!(
        stage.next(),
        Speech::Discard {
            attempt: AttemptId(1)
        }
    );
    let left = stage.agent.durable();
    assert_eq!((left.attempts.len(), left.memories.len()), (0, 1));
    assert_eq!(left.memories[0].settled_at_s, 1_700_000_000 + 400);
    stage.nothing_else();

    stage.after(31 * 24 * 3600 * SECOND);
    stage.spoken(&[]);
    assert_eq!(stage.agent.durable().memories, vec![]);
}

#[test]
fn what_is_settled_last_is_the_newest_whatever_the_clock_said_before() {
    let mut stage = Stage::new(crate::Settings {
        wall_offset_s: 1_900_000_000,
        ..settings()
    });
    for attempt in [1, 2] {
        stage.ready(Some(shop(1, &[("copy", free())])));
        let job = stage.job(attempt, "copy");
        stage.frame(vec![job]);
        stage.keeper(attempt, KeeperSaid::Finished(report(Outcome::Succeeded)));
        let number = stage.agent.durable().attempts[0].event_seq;
        stage.frame(vec![durable(number.0)]);
        // The clock is set right.
        stage.restart(settings(), &[]);
    }
    let settled = stage.agent.durable().memories;
    let settled = settled.iter().map(|memory| memory.settled_at_s);
    assert_eq!(settled.collect::<Vec<_>>(), [1_900_000_400; 2]);
}

#[test]
fn of_a_burst_only_the_latest_state_is_said() {
    let mut stage = ready_stage();
    let job = stage.job(1, "copy");
    stage.frame(vec![job]);
    assert_eq!(stage.started(), 1);
    stage.acked();
    let finished = report(Outcome::Failed);
    let attempt = AttemptId(1);
    stage.spoken(&[
        Event::Keeper {
            attempt,
            said: KeeperSaid::Running,
        },
        Event::Keeper {
            attempt,
            said: KeeperSaid::Finished(finished),
        },
        Event::Keeper {
            attempt,
            said: KeeperSaid::Finished(report(Outcome::Succeeded)),
        },
    ]);
    assert_eq!(
        stage.sent_one(),
        event(1, 1, AttemptState::Finished(finished))
    );
    stage.nothing_else();
}

#[test]
fn a_start_is_said_only_when_its_keeper_is_silent_until_the_next_heartbeat() {
    let mut stage = ready_stage();
    let job = stage.job(1, "copy");
    stage.frame(vec![job]);
    assert_eq!(stage.started(), 1);
    stage.acked();
    stage.after(10 * SECOND);
    stage.spoken(&[]);
    let messages = stage.sent();
    assert_eq!(messages[0], event(1, 1, AttemptState::Starting));
    let UpMessage::Heartbeat(heartbeat) = &messages[1] else {
        panic!("no heartbeat")
    };
    assert_eq!(
        (
            heartbeat.slots_free,
            heartbeat.running,
            heartbeat.lease_echo
        ),
        (1, 0, HeartbeatSeq(1))
    );
    stage.nothing_else();
}

#[test]
fn what_keepers_say_becomes_an_outcome() {
    let refused = |r| ended(Outcome::Refused(r), false);
    let said = [
        (
            KeeperSaid::NotStarted(NotStarted::LeaseOver),
            refused(Refusal::NoLease),
        ),
        (
            KeeperSaid::NotStarted(NotStarted::Cancelled),
            ended(Outcome::Cancelled, false),
        ),
        (
            KeeperSaid::NotStarted(NotStarted::Failed(StartFailure::Permission)),
            ended(Outcome::StartFailed(StartFailure::Permission), false),
        ),
        (
            KeeperSaid::NotStarted(NotStarted::Refused(Refusal::NotApproved)),
            refused(Refusal::NotApproved),
        ),
        (
            KeeperSaid::Gone { claimed: true },
            ended(Outcome::Killed(KillReason::Keeper), true),
        ),
        (
            KeeperSaid::Gone { claimed: false },
            ended(Outcome::Refused(Refusal::NoLease), false),
        ),
    ];
    for (said, outcome) in said {
        let mut stage = ready_stage();
        let job = stage.job(1, "copy");
        stage.frame(vec![job]);
        assert_eq!(stage.started(), 1);
        stage.acked();
        stage.keeper(1, said);
        assert_eq!(
            stage.sent_one(),
            event(1, 1, AttemptState::Finished(outcome))
        );
        stage.keeper(1, KeeperSaid::Running);
        stage.keeper(2, said);
        stage.nothing_else();
    }
}

#[test]
fn a_cancel_ends_what_waits_at_once_and_what_runs_when_its_tree_is_gone() {
    let mut stage = ready_stage();
    for attempt in [1, 2] {
        running(&mut stage, attempt);
    }
    let (waits, cancel) = (
        stage.job(3, "copy"),
        stage.order(Directive::Cancel(AttemptId(3))),
    );
    let (first, again) = (
        stage.order(Directive::Cancel(AttemptId(1))),
        stage.order(Directive::Cancel(AttemptId(1))),
    );
    let unknown = stage.order(Directive::Cancel(AttemptId(99)));
    stage.frame(vec![waits, cancel, first, again, unknown]);
    assert_eq!(
        stage.next(),
        Speech::Cancel {
            attempt: AttemptId(1)
        }
    );
    let cancelled = AttemptState::Finished(ended(Outcome::Cancelled, false));
    assert_eq!(stage.sent(), vec![stage.ack(), event(3, 3, cancelled)]);
    stage.nothing_else();
    assert!(stage.agent.durable().attempts[0].cancel_requested);

    let over = report(Outcome::Cancelled);
    stage.keeper(1, KeeperSaid::Finished(over));
    assert_eq!(stage.sent_one(), event(4, 1, AttemptState::Finished(over)));
    let late = stage.order(Directive::Cancel(AttemptId(1)));
    stage.frame(vec![late]);
    assert_eq!(
        stage.sent(),
        vec![stage.ack(), event(5, 1, AttemptState::Finished(over))]
    );
    stage.nothing_else();
}

#[test]
fn what_is_forgotten_while_it_runs_is_ended_and_then_goes_silently() {
    let mut stage = ready_stage();
    running(&mut stage, 1);
    let forget = stage.order(Directive::Forget(AttemptId(1)));
    stage.frame(vec![forget]);
    assert_eq!(
        stage.next(),
        Speech::Cancel {
            attempt: AttemptId(1)
        }
    );
    stage.acked();
    stage.nothing_else();
    assert_eq!(
        stage.agent.durable().attempts.len(),
        1,
        "absence never means delete"
    );
    stage.keeper(1, KeeperSaid::Finished(report(Outcome::Cancelled)));
    assert_eq!(
        stage.next(),
        Speech::Discard {
            attempt: AttemptId(1)
        }
    );
    stage.nothing_else();
    assert_eq!(stage.agent.durable().memories.len(), 1);
}

#[test]
fn a_command_that_comes_twice_starts_nothing_twice() {
    let mut stage = ready_stage();
    running(&mut stage, 1);
    let again = stage.job(1, "copy");
    stage.frame(vec![again]);
    assert_eq!(
        stage.sent(),
        vec![stage.ack(), event(2, 1, AttemptState::Running)]
    );
    stage.nothing_else();
}

#[test]
fn an_attempt_assigned_after_its_end_is_alarmed_of_and_its_outcome_said_again() {
    let mut stage = ready_stage();
    running(&mut stage, 1);
    let finished = report(Outcome::Succeeded);
    stage.keeper(1, KeeperSaid::Finished(finished));
    stage.sent_one();
    stage.frame(vec![durable(2)]);
    assert_eq!(
        stage.next(),
        Speech::Discard {
            attempt: AttemptId(1)
        }
    );
    let again = stage.job(1, "copy");
    stage.frame(vec![again]);
    assert_eq!(stage.next(), Speech::Alarm(Alarm::AttemptReused));
    assert_eq!(
        stage.sent(),
        vec![stage.ack(), event(3, 1, AttemptState::Finished(finished))]
    );
    stage.nothing_else();
}

#[test]
fn an_outcome_made_out_of_touch_is_in_the_next_inventory_with_its_number() {
    let mut stage = ready_stage();
    running(&mut stage, 1);
    stage.spoken(&[Event::Closed {
        conn: stage.conn,
        why: crate::event::Down::Unreachable,
    }]);
    let finished = report(Outcome::Succeeded);
    stage.keeper(1, KeeperSaid::Finished(finished));
    assert_eq!(stage.agent.durable().attempts[0].event_seq, EventSeq(0));
    let hello = stage.connect(None);
    assert_eq!(
        (hello.last, hello.session_nonce),
        (Some((LIFE, CommandSeq(2))), Nonce(11))
    );
    let item = InventoryItem {
        attempt: AttemptId(1),
        run: RunId(1),
        task: TaskIndex(0),
        fence: Fence(1),
        state: AttemptState::Finished(finished),
        event_seq: EventSeq(2),
    };
    assert_eq!(stage.welcomed(welcome()), vec![item]);
    stage.reconciled();
    stage.acked();
    stage.nothing_else();
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
fn a_strict_site_reports_on_the_grid_and_no_more_than_it_must() {
    let mut stage = Stage::new(crate::Settings {
        reporting: Reporting::Strict,
        ..settings()
    });
    stage.ready(shop_one());
    stage.acked();
    let job = stage.job(1, "copy");
    stage.frame(vec![job]);
    assert_eq!(stage.started(), 1);
    stage.acked();
    let exact = Report {
        exit_code: Some(3),
        duration_ms: 900,
        ..report(Outcome::Failed)
    };
    stage.keeper(1, KeeperSaid::Finished(exact));
    stage.nothing_else();
    stage.after(10 * SECOND);
    stage.spoken(&[]);
    let coarse = Report {
        exit_code: None,
        duration_ms: 1024,
        ..exact
    };
    assert_eq!(stage.sent()[0], event(1, 1, AttemptState::Finished(coarse)));
    assert_eq!(
        stage.agent.durable().attempts[0].state,
        AttemptState::Finished(exact),
        "the site knows it all"
    );
}

#[test]
fn numbers_are_reserved_in_blocks_and_never_used_twice() {
    let mut stage = ready_stage();
    running(&mut stage, 1);
    assert_eq!(
        stage.agent.durable().session.event_seq_reserved,
        EventSeq(1000)
    );
    stage.restart(settings(), &[(AttemptId(1), crate::Found::Running)]);
    stage.ready(shop_one());
    stage.acked();
    stage.keeper(1, KeeperSaid::Finished(report(Outcome::Succeeded)));
    assert!(
        matches!(stage.sent_one(), UpMessage::Event(event) if event.event_seq == EventSeq(1001))
    );
    assert_eq!(
        stage.agent.durable().session.event_seq_reserved,
        EventSeq(2000)
    );
}

#[test]
fn counters_outcomes_and_decisions_are_synced_and_starts_are_not() {
    let mut stage = ready_stage();
    running(&mut stage, 1);
    let record = Box::new(stage.agent.durable().attempts[0].clone());
    assert!(!Write::Attempt(record.clone()).needs_sync());
    let mut over = record;
    over.state = AttemptState::Finished(report(Outcome::Succeeded));
    assert!(Write::Attempt(over).needs_sync());
    assert!(Write::Session(stage.agent.durable().session).needs_sync());
}

#[test]
fn an_agent_holds_a_bounded_number_of_attempts() {
    let mut stage = ready_stage();
    let jobs: Vec<DownMessage> = (1..=4097)
        .map(|n| stage.job(n, "nothing-like-this"))
        .collect();
    stage.frame(jobs);
    assert_eq!(stage.agent.durable().attempts.len(), 4096);
    let hung_up = stage
        .said
        .iter()
        .any(|said| matches!(said, Speech::Hangup { .. }));
    assert!(hung_up, "one more than it holds ends the session");
}
