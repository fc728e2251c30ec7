//! The order of a session, and what happens to whoever does not keep it.

use std::time::Duration;

use outpost_driver::Core;
use outpost_proto::ids::*;
use outpost_proto::limits;
use outpost_proto::message::{
    AttemptState, Directive, DownMessage, Granted, InventoryItem, Receipt, UpMessage, Welcome,
};
use outpost_proto::outcome::{Outcome, Refusal};

use super::harness::*;
use crate::event::{Alarm, Down, Event, KeeperSaid, Speech};
use crate::state::ended;
use crate::{SessionPhase, Trouble};

fn shop_one() -> Option<Event> {
    Some(shop(1, &[("copy", free())]))
}

fn stage() -> Stage {
    Stage::new(settings())
}

/// It is alarmed of, the stream is ended, and nothing else happens.
fn broken_off(stage: &mut Stage, alarm: Alarm) {
    assert_eq!(stage.next(), Speech::Alarm(alarm));
    assert_eq!(stage.next(), Speech::Hangup { conn: stage.conn });
    stage.nothing_else();
    assert_eq!(stage.agent.view().session, None);
    assert_eq!(stage.agent.view().trouble, Some(Trouble::Alarm(alarm)));
}

#[test]
fn nothing_is_dialled_before_the_catalogue_is_known() {
    let mut stage = stage();
    stage.spoken(&[]);
    stage.nothing_else();
    assert_eq!(stage.agent.next_deadline(), None);
}

#[test]
fn work_before_reconciled_is_out_of_order() {
    let mut stage = stage();
    stage.connect(shop_one());
    stage.welcomed(welcome());
    let job = stage.job(1, "copy");
    stage.frame(vec![job]);
    broken_off(&mut stage, Alarm::OutOfOrder);
    assert_eq!(stage.agent.durable().attempts, vec![]);
}

#[test]
fn everything_before_its_time_is_out_of_order() {
    type Say = fn(&mut Stage) -> DownMessage;
    let says: [Say; 4] = [
        |stage| stage.job(1, "copy"),
        |stage| stage.order(Directive::Reconciled),
        |stage| stage.order(Directive::Cancel(AttemptId(1))),
        |_| durable(0),
    ];
    for say in says {
        let mut stage = stage();
        stage.connect(shop_one());
        let message = say(&mut stage);
        stage.frame(vec![message]);
        broken_off(&mut stage, Alarm::OutOfOrder);
    }
}

#[test]
fn a_second_welcome_a_second_reconciled_and_a_number_that_went_back_are_out_of_order() {
    type Say = fn(&mut Stage) -> DownMessage;
    let says: [Say; 5] = [
        |_| DownMessage::Welcome(welcome()),
        |stage| stage.order(Directive::Reconciled),
        |_| DownMessage::Directive {
            command_seq: CommandSeq(1),
            directive: Directive::Cordon,
        },
        |_| lease(2),
        |_| durable(1),
    ];
    for say in says {
        let mut stage = stage();
        stage.ready(shop_one());
        stage.acked();
        let (message, job) = (say(&mut stage), stage.job(1, "copy"));
        // What follows in the same frame is not looked at.
        stage.frame(vec![message, job]);
        broken_off(&mut stage, Alarm::OutOfOrder);
    }
}

#[test]
fn an_id_used_again_for_something_else_ends_the_session() {
    let mut stage = stage();
    stage.ready(shop_one());
    stage.acked();
    let job = stage.job(1, "copy");
    stage.frame(vec![job]);
    assert_eq!(stage.started(), 1);
    stage.acked();
    let mut other = assign(1, "copy", stage.number());
    other.deadline_ms = Some(1);
    stage.frame(vec![DownMessage::Assign(other)]);
    broken_off(&mut stage, Alarm::AttemptReused);
    assert_eq!(stage.agent.durable().attempts.len(), 1);
}

#[test]
fn what_an_earlier_connection_says_is_not_heard() {
    let mut stage = stage();
    stage.ready(shop_one());
    stage.acked();
    let old = stage.conn;
    stage.spoken(&[Event::Closed {
        conn: old,
        why: Down::Ended,
    }]);
    stage.connect(None);
    let job = stage.job(1, "copy");
    stage.spoken(&[
        Event::Frame {
            conn: old,
            messages: vec![job, lease(1)],
        },
        Event::Closed {
            conn: old,
            why: Down::Refused,
        },
        Event::Opened { conn: old },
    ]);
    stage.nothing_else();
    assert_eq!(stage.agent.view().session, Some(SessionPhase::Greeting));
    stage.welcomed(welcome());
    assert_eq!(
        stage.agent.view().lease_until_us,
        None,
        "a lease does not outlive its session"
    );
}

#[test]
fn a_receipt_is_no_command_and_may_come_at_any_time_with_any_number() {
    let mut stage = stage();
    let receipt = |number| DownMessage::Directive {
        command_seq: CommandSeq(number),
        directive: Directive::Receipt(Receipt {
            session_epoch: SessionEpoch(1),
            frame_count: 1,
            head: [7; 32],
            signature: vec![1],
            named_signature: vec![1],
            linked: None,
        }),
    };
    stage.connect(shop_one());
    stage.frame(vec![receipt(1)]);
    stage.nothing_else();
    stage.welcomed(welcome());
    stage.reconciled();
    stage.acked();
    stage.frame(vec![receipt(1), receipt(1 << 40), receipt(3)]);
    stage.nothing_else();
    // Commands go on where they were.
    let job = stage.job(1, "copy");
    stage.frame(vec![job]);
    assert_eq!(stage.started(), 1);
}

#[test]
fn an_unknown_version_is_not_spoken() {
    let mut stage = stage();
    stage.connect(shop_one());
    stage.frame(vec![DownMessage::Welcome(Welcome {
        protocol: 2,
        ..welcome()
    })]);
    assert_eq!(stage.next(), Speech::Hangup { conn: stage.conn });
    stage.nothing_else();
    assert_eq!(stage.agent.view().trouble, Some(Trouble::Unsupported(2)));
}

#[test]
fn silence_ends_every_step_and_the_next_try_follows() {
    for steps in 0..4 {
        let mut stage = stage();
        stage.spoken(shop_one().as_slice());
        let Speech::Dial { conn } = stage.next() else {
            panic!("no dial")
        };
        stage.conn = conn;
        if steps > 0 {
            stage.spoken(&[Event::Opened { conn }]);
        }
        if steps > 1 {
            let patient = Welcome {
                heartbeat_interval_ms: 3_000_000,
                ..welcome()
            };
            stage.frame(vec![DownMessage::Welcome(patient)]);
        }
        if steps > 2 {
            let reconciled = stage.order(Directive::Reconciled);
            stage.frame(vec![reconciled]);
        }
        stage.said.clear();
        let patience = if steps > 2 { 4 * 3000 } else { 60 };
        stage.after(patience * SECOND - 1);
        stage.spoken(&[]);
        assert!(
            !stage.said.contains(&Speech::Hangup { conn }),
            "too early in step {steps}"
        );
        stage.after(1);
        stage.spoken(&[]);
        assert!(
            stage.said.contains(&Speech::Hangup { conn }),
            "too patient in step {steps}"
        );
        assert_eq!(stage.agent.view().trouble, Some(Trouble::Silent));
        stage.connect(None);
    }
    assert!(limits::STALE_AFTER < Duration::from_secs(60));
}

#[test]
fn any_word_is_a_sign_of_life_and_heartbeats_keep_their_interval() {
    let mut stage = stage();
    stage.ready(shop_one());
    stage.acked();
    for beat in 2..20 {
        stage.after(10 * SECOND - 1);
        stage.frame(vec![durable(0)]);
        stage.nothing_else();
        stage.after(1);
        stage.spoken(&[]);
        let UpMessage::Heartbeat(heartbeat) = stage.sent_one() else {
            panic!("no heartbeat")
        };
        assert_eq!(heartbeat.seq, HeartbeatSeq(beat));
    }
}

#[test]
fn an_interval_of_zero_does_not_make_it_spin() {
    let mut stage = stage();
    stage.connect(shop_one());
    stage.welcomed(Welcome {
        heartbeat_interval_ms: 0,
        ..welcome()
    });
    stage.nothing_else();
}

fn waiting_outcome(stage: &mut Stage) {
    stage.ready(shop_one());
    stage.acked();
    let job = stage.job(1, "copy");
    stage.frame(vec![job]);
    assert_eq!(stage.started(), 1);
    stage.acked();
    stage.keeper(1, KeeperSaid::Finished(report(Outcome::Succeeded)));
    stage.sent_one();
    stage.spoken(&[Event::Closed {
        conn: stage.conn,
        why: Down::Ended,
    }]);
    stage.nothing_else();
}

/// What an agent in hold does: nothing new, nothing lost.
fn holds(stage: &mut Stage) {
    assert!(stage.agent.view().flags.hold);
    let (forget, job) = (
        stage.order(Directive::Forget(AttemptId(1))),
        stage.job(2, "copy"),
    );
    stage.frame(vec![durable(1), forget, job]);
    assert!(matches!(stage.next(), Speech::Refused { .. }));
    let refused = AttemptState::Finished(ended(Outcome::Refused(Refusal::Hold), false));
    assert!(matches!(&stage.sent()[1], UpMessage::Event(event) if event.state == refused));
    stage.nothing_else();
    assert_eq!(
        stage.agent.durable().attempts.len(),
        2,
        "an older database's word deletes nothing"
    );
}

#[test]
fn an_older_life_of_the_database_is_alarmed_of_and_held_against() {
    for recovery in [
        RecoveryEpoch {
            counter: 0,
            database: 77,
        },
        RecoveryEpoch {
            counter: 1,
            database: 78,
        },
    ] {
        let mut stage = stage();
        waiting_outcome(&mut stage);
        stage.connect(None);
        stage.frame(vec![DownMessage::Welcome(Welcome {
            recovery,
            ..welcome()
        })]);
        assert_eq!(stage.next(), Speech::Alarm(Alarm::WentBack));
        assert_eq!(stage.sent().len(), 3);
        assert_eq!(stage.agent.durable().session.recovery, Some(LIFE));
        stage.reconciled();
        stage.acked();
        holds(&mut stage);
    }
}

#[test]
fn a_database_copied_back_is_known_by_its_first_command() {
    let mut stage = stage();
    waiting_outcome(&mut stage);
    stage.connect(None);
    stage.welcomed(welcome());
    let obeyed = stage.command;
    stage.command = 0;
    let reconciled = stage.order(Directive::Reconciled);
    stage.frame(vec![reconciled]);
    assert_eq!(stage.next(), Speech::Alarm(Alarm::WentBack));
    stage.acked();
    holds(&mut stage);
    assert_eq!(
        stage.agent.durable().session.command_seq,
        CommandSeq(obeyed)
    );

    // The same life of the database does not get out of it by counting on.
    stage.spoken(&[Event::Closed {
        conn: stage.conn,
        why: Down::Ended,
    }]);
    stage.command = obeyed + 10;
    stage.connect(None);
    stage.welcomed(Welcome {
        highest_event_seq: EventSeq(1),
        ..welcome()
    });
    assert!(stage.agent.view().flags.hold);
}

#[test]
fn what_was_taken_before_a_hold_waits_for_its_end() {
    let mut stage = stage();
    stage.ready(shop_one());
    stage.acked();
    let jobs = (1..=3).map(|n| stage.job(n, "copy")).collect();
    stage.frame(jobs);
    assert_eq!((stage.started(), stage.started()), (1, 2));
    stage.acked();
    stage.spoken(&[Event::Closed {
        conn: stage.conn,
        why: Down::Ended,
    }]);
    stage.keeper(1, KeeperSaid::Finished(report(Outcome::Succeeded)));
    stage.connect(None);
    let older = RecoveryEpoch {
        counter: 0,
        database: 1,
    };
    stage.frame(vec![DownMessage::Welcome(Welcome {
        recovery: older,
        ..welcome()
    })]);
    assert_eq!(stage.next(), Speech::Alarm(Alarm::WentBack));
    stage.sent();
    stage.reconciled();
    stage.acked();
    stage.nothing_else();

    stage.spoken(&[Event::Closed {
        conn: stage.conn,
        why: Down::Ended,
    }]);
    stage.ready(None);
    assert_eq!(stage.started(), 3, "the database that was known is back");
}

#[test]
fn a_database_that_forgot_what_it_acknowledged_is_held_against() {
    let mut stage = stage();
    waiting_outcome(&mut stage);
    stage.ready(None);
    stage.acked();
    stage.frame(vec![durable(1)]);
    assert_eq!(
        stage.next(),
        Speech::Discard {
            attempt: AttemptId(1)
        }
    );
    stage.spoken(&[Event::Closed {
        conn: stage.conn,
        why: Down::Ended,
    }]);
    stage.connect(None);
    stage.frame(vec![DownMessage::Welcome(welcome())]);
    assert_eq!(stage.next(), Speech::Alarm(Alarm::WentBack));
}

#[test]
fn a_restored_database_is_obeyed_from_its_first_command_on() {
    let mut stage = stage();
    waiting_outcome(&mut stage);
    stage.connect(None);
    let recovery = RecoveryEpoch {
        counter: 2,
        database: 99,
    };
    let items = stage.welcomed(Welcome {
        recovery,
        ..welcome()
    });
    assert_eq!(items.len(), 1);
    stage.command = 0;
    stage.reconciled();
    stage.acked();
    stage.nothing_else();
    let session = stage.agent.durable().session;
    assert_eq!(
        (session.recovery, session.command_seq),
        (Some(recovery), CommandSeq(1))
    );
    assert!(!stage.agent.view().flags.hold);
}

#[test]
fn an_agent_put_back_to_an_earlier_copy_numbers_above_what_upstream_knows() {
    let mut stage = stage();
    waiting_outcome(&mut stage);
    stage.connect(None);
    let items = stage.welcomed(Welcome {
        highest_event_seq: EventSeq(5000),
        ..welcome()
    });
    let numbers: Vec<_> = items
        .iter()
        .map(|item: &InventoryItem| item.event_seq)
        .collect();
    assert_eq!(numbers, [EventSeq(5001)]);
    stage.reconciled();
    stage.acked();
    stage.frame(vec![durable(5000)]);
    stage.nothing_else();
    stage.frame(vec![durable(5001)]);
    assert_eq!(
        stage.next(),
        Speech::Discard {
            attempt: AttemptId(1)
        }
    );
}

#[test]
fn an_orchestrator_cannot_silence_an_agent_by_a_number() {
    let mut stage = stage();
    stage.connect(shop_one());
    let highest_event_seq = EventSeq((1 << 48) - 1);
    stage.frame(vec![DownMessage::Welcome(Welcome {
        highest_event_seq,
        ..welcome()
    })]);
    broken_off(&mut stage, Alarm::OutOfOrder);
}

#[test]
fn what_an_agent_numbered_itself_is_believed_however_high_it_was_told_to_begin() {
    let mut stage = stage();
    stage.connect(shop_one());
    let highest = (1 << 47) - 1;
    let knows = |event_seq| Welcome {
        highest_event_seq: EventSeq(event_seq),
        ..welcome()
    };
    stage.welcomed(knows(highest));
    stage.reconciled();
    stage.acked();
    let job = stage.job(1, "nowhere");
    stage.frame(vec![job]);
    stage.said.clear();
    let numbered = stage.agent.durable().attempts[0].event_seq;
    assert_eq!(numbered, EventSeq(highest + 1));
    let lost = Event::Closed {
        conn: stage.conn,
        why: Down::Ended,
    };
    stage.spoken(&[lost]);
    stage.connect(None);
    stage.welcomed(knows(numbered.0));
    stage.reconciled();
    let beyond = stage.agent.durable().session.event_seq_reserved;
    stage.spoken(&[Event::Closed {
        conn: stage.conn,
        why: Down::Ended,
    }]);
    stage.connect(None);
    let message = DownMessage::Welcome(knows(beyond.0 + 1));
    stage.frame(vec![message]);
    broken_off(&mut stage, Alarm::OutOfOrder);
}

#[test]
fn a_large_inventory_goes_in_pages_and_says_how_much_it_is() {
    let mut stage = stage();
    stage.ready(shop_one());
    stage.acked();
    let jobs = (1..=150).map(|n| stage.job(n, "copy")).collect();
    stage.frame(jobs);
    stage.said.clear();
    stage.spoken(&[Event::Closed {
        conn: stage.conn,
        why: Down::Ended,
    }]);
    stage.connect(None);
    stage.frame(vec![DownMessage::Welcome(welcome())]);
    let mut pages = Vec::new();
    while let Some(Speech::Send { messages, .. }) = stage.said.pop_front() {
        for message in messages {
            if let UpMessage::Inventory(page) = message {
                pages.push((page.items.len(), page.end));
            }
        }
    }
    assert_eq!(pages, [(64, None), (64, None), (22, Some(150))]);
}

#[test]
fn a_late_grant_of_the_present_session_cannot_be_invented() {
    let mut stage = stage();
    stage.ready(shop_one());
    stage.acked();
    let granted = Granted {
        highest_event_seq: EventSeq(0),
        lease: Some((HeartbeatSeq(0), 30_000)),
    };
    stage.frame(vec![DownMessage::Granted(granted)]);
    broken_off(&mut stage, Alarm::OutOfOrder);
}
