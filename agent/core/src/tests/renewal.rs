//! Renewing the certificate, and making the next connection before the present one is given up.

use outpost_driver::{Core, Micros, Turn};
use outpost_proto::ids::*;
use outpost_proto::message::*;
use outpost_proto::outcome::Outcome;

use super::harness::*;
use crate::event::{Down, Event, KeeperSaid, Speech};

const HOUR: u64 = 3600 * SECOND;

fn held(stage: &Stage, life_us: u64) -> (u64, Micros) {
    (life_us, Micros(stage.now.0 + life_us))
}

fn certificate(stage: &Stage, life_us: u64) -> Event {
    let (life_us, until) = held(stage, life_us);
    Event::Certificate { life_us, until }
}

fn renewed(stage: &Stage, life_us: u64) -> Event {
    let (life_us, until) = held(stage, life_us);
    Event::Renewed { life_us, until }
}

/// A ready session, one attempt running, and a certificate of an hour.
fn stage() -> Stage {
    let mut stage = Stage::new(settings());
    stage.ready(Some(shop(1, &[("copy", free())])));
    stage.acked();
    stage.spoken(&[certificate(&stage, HOUR)]);
    let job = stage.job(7, "copy");
    stage.frame(vec![job]);
    assert_eq!(stage.started(), 7);
    stage.acked();
    stage.keeper(7, KeeperSaid::Running);
    assert_eq!(stage.sent_one(), event(1, 7, AttemptState::Running));
    stage.nothing_else();
    stage
}

/// Keeps the session alive until it is time to renew.
fn until_due(stage: &mut Stage) {
    let due = stage.agent.view().certificate.unwrap().renewal_at_us;
    let due = due.expect("a renewal is planned");
    while stage.now.0 < due {
        stage.after((9 * SECOND).min(due - stage.now.0));
        stage.frame(vec![durable(0)]);
        while let Some(said) = stage.said.pop_front() {
            if said == Speech::MakeCsr && stage.now.0 >= due {
                return;
            }
            let Speech::Send { messages, .. } = said else {
                panic!("{said:?}")
            };
            assert!(
                matches!(messages[..], [UpMessage::Heartbeat(_)]),
                "{messages:?}"
            );
        }
    }
    stage.spoken(&[]);
    assert_eq!(stage.next(), Speech::MakeCsr);
}

/// Asked for, answered, and the successor dialled: its connection.
fn succeeding(stage: &mut Stage) -> Conn {
    until_due(stage);
    stage.spoken(&[Event::Csr(vec![1, 2, 3])]);
    let (conn, csr) = (stage.conn, vec![1, 2, 3]);
    assert_eq!(stage.next(), Speech::Renew { conn, csr });
    stage.nothing_else();
    let renewed = renewed(stage, HOUR);
    stage.spoken(&[renewed]);
    let Speech::Dial { conn } = stage.next() else {
        panic!("no successor")
    };
    assert_ne!(conn, stage.conn);
    stage.nothing_else();
    conn
}

#[test]
fn the_session_works_until_its_successor_stands_and_is_ended_when_that_is_welcomed() {
    let mut stage = stage();
    let (old, new) = (stage.conn, succeeding(&mut stage));

    stage.keeper(7, KeeperSaid::Finished(report(Outcome::Succeeded)));
    let finished = AttemptState::Finished(report(Outcome::Succeeded));
    assert_eq!(stage.sent_one(), event(2, 7, finished), "on the old one");
    let job = stage.job(8, "copy");
    stage.frame(vec![job, lease(1)]);
    stage.said.clear();

    stage.spoken(&[Event::Opened { conn: new }]);
    stage.conn = new;
    assert!(matches!(stage.sent_one(), UpMessage::Hello(_)));
    stage.nothing_else();

    // Nothing said on the old stream counts any more, and nothing is said on it.
    let late = vec![
        durable(2),
        DownMessage::Assign(assign(9, "copy", CommandSeq(99))),
    ];
    let frame = Event::Frame {
        conn: old,
        messages: late,
    };
    stage.spoken(&[frame]);
    stage.nothing_else();

    stage.frame(vec![DownMessage::Welcome(Welcome {
        session_epoch: SessionEpoch(2),
        ..welcome()
    })]);
    assert_eq!(stage.next(), Speech::Hangup { conn: old });
    let messages = stage.sent();
    let UpMessage::Inventory(page) = &messages[1] else {
        panic!("{messages:?}")
    };
    let listed: Vec<_> = page
        .items
        .iter()
        .map(|item| (item.attempt.0, item.event_seq.0))
        .collect();
    assert!(
        listed.contains(&(7, 2)),
        "the outcome goes with the inventory: {listed:?}"
    );
    assert!(
        listed.iter().any(|(attempt, _)| *attempt == 8),
        "{listed:?}"
    );
    assert!(
        !listed.iter().any(|(attempt, _)| *attempt == 9),
        "{listed:?}"
    );
    stage.spoken(&[Event::Closed {
        conn: old,
        why: Down::Ended,
    }]);
    stage.nothing_else();
}

#[test]
fn a_successor_that_cannot_be_made_is_tried_again_and_the_session_stays() {
    let mut stage = stage();
    let mut new = succeeding(&mut stage);
    for _ in 0..5 {
        stage.spoken(&[Event::Closed {
            conn: new,
            why: Down::Refused,
        }]);
        let frame = Event::Frame {
            conn: stage.conn,
            messages: vec![durable(0)],
        };
        let again = loop {
            match stage.said.pop_front() {
                Some(Speech::Dial { conn }) => break conn,
                Some(Speech::Send { conn, .. }) => assert_eq!(conn, stage.conn),
                Some(other) => panic!("{other:?}"),
                None => {
                    stage.now = stage.agent.next_deadline().unwrap();
                    stage.spoken(std::slice::from_ref(&frame));
                }
            }
        };
        assert!(again > new);
        new = again;
    }
    assert_eq!(stage.agent.view().session, Some(crate::SessionPhase::Ready));
}

#[test]
fn a_successor_takes_the_place_of_a_session_that_is_lost() {
    let mut stage = stage();
    let (old, new) = (stage.conn, succeeding(&mut stage));
    stage.spoken(&[Event::Closed {
        conn: old,
        why: Down::Unreachable,
    }]);
    stage.nothing_else();
    stage.spoken(&[Event::Opened { conn: new }]);
    stage.conn = new;
    assert!(matches!(stage.sent_one(), UpMessage::Hello(_)));
    stage.nothing_else();
}

#[test]
fn a_successor_that_breaks_before_its_welcome_ends_both() {
    let mut stage = stage();
    let (old, new) = (stage.conn, succeeding(&mut stage));
    stage.spoken(&[Event::Opened { conn: new }]);
    stage.said.clear();
    stage.spoken(&[Event::Closed {
        conn: new,
        why: Down::Unreachable,
    }]);
    assert_eq!(stage.next(), Speech::Hangup { conn: old });
    stage.nothing_else();
    assert_eq!(stage.agent.view().session, None);
}

#[test]
fn a_renewal_that_fails_is_tried_again_and_one_without_an_answer_is_given_up() {
    let mut stage = stage();
    until_due(&mut stage);
    stage.spoken(&[Event::Csr(vec![])]);
    stage.nothing_else();
    assert_eq!(stage.agent.view().certificate.unwrap().failures, 1);
    until_due(&mut stage);
    stage.spoken(&[Event::Csr(vec![5])]);
    assert!(matches!(stage.next(), Speech::Renew { .. }));
    stage.spoken(&[Event::NotRenewed]);
    stage.nothing_else();
    until_due(&mut stage);
    for _ in 0..8 {
        stage.after(9 * SECOND);
        stage.frame(vec![durable(0)]);
    }
    assert!(stage.agent.view().certificate.unwrap().failures >= 3);
    stage.spoken(&[renewed(&stage, HOUR)]);
    assert_eq!(stage.agent.view().certificate.unwrap().failures, 0);
}

#[test]
fn nothing_is_asked_again_on_a_stream_whose_certificate_was_renewed() {
    let mut stage = stage();
    let mut new = succeeding(&mut stage);
    // No other stream can be made for longer than the renewed certificate waits for its own renewal.
    for _ in 0..300 {
        stage.spoken(&[Event::Closed {
            conn: new,
            why: Down::Unreachable,
        }]);
        stage.after(9 * SECOND);
        stage.frame(vec![durable(0)]);
        stage.spoken(&[]);
        while let Some(said) = stage.said.pop_front() {
            assert_ne!(said, Speech::MakeCsr);
            if let Speech::Dial { conn } = said {
                new = conn;
            }
        }
    }
    assert!(stage.now.0 > HOUR / 2, "well after it was due");
}

#[test]
fn the_orchestrator_can_ask_for_a_renewal_but_not_for_one_after_the_other() {
    let mut stage = stage();
    let now = stage.order(Directive::RenewNow);
    stage.frame(vec![now]);
    assert_eq!(stage.next(), Speech::MakeCsr);
    stage.acked();
    stage.spoken(&[Event::Csr(vec![5])]);
    assert!(matches!(stage.next(), Speech::Renew { .. }));
    let again = stage.order(Directive::RenewNow);
    stage.frame(vec![again]);
    stage.acked();
    stage.nothing_else();
}

#[test]
fn before_its_certificates_end_a_stream_is_followed_by_another() {
    let mut stage = stage();
    let (conn, at) = (stage.conn, Micros(stage.now.0 + 30 * SECOND));
    stage.spoken(&[Event::Ends { conn, at }]);
    stage.nothing_else();
    stage.after(9 * SECOND);
    stage.frame(vec![durable(0)]);
    stage.after(11 * SECOND);
    stage.said.clear();
    stage.frame(vec![durable(0)]);
    assert!(
        stage
            .said
            .iter()
            .any(|said| matches!(said, Speech::Dial { .. })),
        "{:?}",
        stage.said
    );
}

#[test]
fn a_commit_that_fails_ends_every_stream() {
    let mut stage = stage();
    let (old, new) = (stage.conn, succeeding(&mut stage));
    stage.journal.fail = Some(false);
    assert!(matches!(
        stage.turn(&[Event::Opened { conn: new }]),
        Turn::NotCommitted(_)
    ));
    stage.nothing_else();
    stage.spoken(&[]);
    let ended: Vec<_> = (0..2).map(|_| stage.next()).collect();
    for conn in [old, new] {
        assert!(ended.contains(&Speech::Hangup { conn }), "{ended:?}");
    }
}
