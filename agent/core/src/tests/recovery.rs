//! Another certificate in place of one that ended: asked for in order, and what becomes of it.

use outpost_driver::{Core, Micros};
use outpost_proto::ids::*;
use outpost_proto::message::*;
use outpost_proto::outcome::Outcome;
use outpost_proto::wire::ChallengeAnswer;

use super::harness::*;
use crate::event::{Down, Event, KeeperSaid, NotRecovered, Proof, Speech};
use crate::{RecoveryView, Trouble};

const HOUR: u64 = 3600 * SECOND;

/// What link makes; the proof is the challenge itself.
fn proof(challenge: &[u8]) -> Event {
    Event::Proof(Proof {
        certificate: vec![1; 700],
        csr: vec![2; 300],
        proof: challenge.to_vec(),
    })
}

fn closed(conn: Conn, why: Down) -> Event {
    Event::Closed { conn, why }
}

/// To the core's next deadline.
fn wait(stage: &mut Stage) {
    stage.now = stage.agent.next_deadline().expect("something is due");
    stage.spoken(&[]);
}

/// A running task, and a connection that is not accepted because the certificate has ended.
fn expired() -> Stage {
    let mut stage = Stage::new(settings());
    stage.ready(Some(shop(1, &[("copy", free())])));
    stage.acked();
    let job = stage.job(7, "copy");
    stage.frame(vec![job]);
    assert_eq!(stage.started(), 7);
    stage.acked();
    stage.keeper(7, KeeperSaid::Running);
    assert_eq!(stage.sent_one(), event(1, 7, AttemptState::Running));
    stage.spoken(&[closed(stage.conn, Down::Unreachable)]);
    wait(&mut stage);
    let Speech::Dial { conn } = stage.next() else {
        panic!("no dial")
    };
    stage.spoken(&[closed(conn, Down::Expired)]);
    stage.nothing_else();
    stage
}

/// Begun: what link was asked for.
fn begun(stage: &mut Stage) {
    wait(stage);
    let (session_nonce, challenge) = (stage.agent.durable().session.nonce, Vec::new());
    assert_eq!(
        stage.next(),
        Speech::Prove {
            session_nonce,
            challenge
        }
    );
    stage.nothing_else();
}

/// Asked, without an answer to a challenge: its connection.
fn asked(stage: &mut Stage) -> Conn {
    begun(stage);
    stage.spoken(&[proof(&[])]);
    let Speech::Recover { conn, request } = stage.next() else {
        panic!("nothing is asked")
    };
    assert_eq!(request.answer, None);
    assert_eq!(request.session_nonce, stage.agent.durable().session.nonce);
    stage.nothing_else();
    conn
}

/// The challenge is answered.
fn answered(stage: &mut Stage, conn: Conn) {
    let challenge = vec![9; 32];
    stage.spoken(&[Event::Challenged {
        conn,
        challenge: challenge.clone(),
    }]);
    let Speech::Prove {
        challenge: passed, ..
    } = stage.next()
    else {
        panic!("nothing is signed")
    };
    assert_eq!(passed, challenge);
    stage.nothing_else();
    stage.spoken(&[proof(&challenge)]);
    let Speech::Recover { conn: on, request } = stage.next() else {
        panic!("nothing is asked")
    };
    assert_eq!(on, conn);
    let proof = challenge.clone();
    assert_eq!(request.answer, Some(ChallengeAnswer { challenge, proof }));
    stage.nothing_else();
}

#[test]
fn an_ended_certificate_is_replaced_and_the_session_goes_on_with_everything_it_had() {
    let mut stage = expired();
    let recovery = Some(RecoveryView {
        under_way: false,
        failures: 0,
    });
    assert_eq!(stage.agent.view().recovery, recovery);
    assert_eq!(
        stage.agent.view().trouble,
        Some(Trouble::Down(Down::Expired))
    );
    // Its task ends meanwhile.
    stage.keeper(7, KeeperSaid::Finished(report(Outcome::Succeeded)));
    stage.nothing_else();

    let conn = asked(&mut stage);
    answered(&mut stage, conn);
    let until = Micros(stage.now.0 + HOUR);
    stage.spoken(&[Event::Renewed {
        life_us: HOUR,
        until,
    }]);
    assert_eq!(stage.next(), Speech::Hangup { conn });
    let Speech::Dial { conn: dialled } = stage.next() else {
        panic!("not dialled at once")
    };
    assert!(dialled > conn);
    stage.nothing_else();
    stage.spoken(&[closed(conn, Down::Unreachable)]);
    stage.nothing_else();
    assert_eq!(stage.agent.view().recovery, None);

    stage.conn = dialled;
    stage.spoken(&[Event::Opened { conn: dialled }]);
    assert!(matches!(stage.sent_one(), UpMessage::Hello(_)));
    let items = stage.welcomed(Welcome {
        session_epoch: SessionEpoch(2),
        highest_event_seq: EventSeq(1),
        ..welcome()
    });
    let finished = AttemptState::Finished(report(Outcome::Succeeded));
    let told: Vec<_> = items
        .iter()
        .map(|item| (item.attempt.0, item.state))
        .collect();
    assert_eq!(told, [(7, finished)], "the outcome is told");
}

#[test]
fn a_certificate_that_is_stored_after_its_connection_is_gone_is_used_at_once() {
    let mut stage = expired();
    let conn = asked(&mut stage);
    answered(&mut stage, conn);
    stage.spoken(&[closed(conn, Down::Unreachable)]);
    let until = Micros(stage.now.0 + HOUR);
    stage.spoken(&[Event::Renewed {
        life_us: HOUR,
        until,
    }]);
    assert!(matches!(stage.next(), Speech::Dial { .. }));
    stage.nothing_else();
    assert_eq!(stage.agent.view().recovery, None);
}

#[test]
fn each_step_that_fails_is_begun_again_later_and_never_twice_at_once() {
    type Fails = fn(&mut Stage);
    let steps: [(&str, Fails); 7] = [
        ("no key", |stage| {
            begun(stage);
            stage.spoken(&[Event::Proof(Proof {
                certificate: Vec::new(),
                csr: Vec::new(),
                proof: Vec::new(),
            })]);
        }),
        ("no connection", |stage| {
            let conn = asked(stage);
            stage.spoken(&[closed(conn, Down::Unreachable)]);
        }),
        ("busy", |stage| {
            let conn = asked(stage);
            let why = NotRecovered::Later;
            stage.spoken(&[Event::NotRecovered { conn, why }]);
        }),
        ("no answer", |stage| {
            asked(stage);
            stage.after(61 * SECOND);
            stage.spoken(&[]);
        }),
        ("another challenge", |stage| {
            let conn = asked(stage);
            answered(stage, conn);
            let challenge = vec![8; 32];
            stage.spoken(&[Event::Challenged { conn, challenge }]);
        }),
        ("link ended", |stage| {
            asked(stage);
            stage.spoken(&[Event::NotRenewed]);
        }),
        ("not stored", |stage| {
            let conn = asked(stage);
            answered(stage, conn);
            stage.spoken(&[Event::NotRenewed]);
        }),
    ];
    let mut stage = expired();
    for (number, (what, fails)) in steps.into_iter().enumerate() {
        fails(&mut stage);
        let hangups = stage.said.drain(..);
        for said in hangups {
            assert!(matches!(said, Speech::Hangup { .. }), "{what}: {said:?}");
        }
        let view = stage.agent.view();
        let failures = u32::try_from(number).unwrap() + 1;
        let under_way = false;
        let expected = RecoveryView {
            under_way,
            failures,
        };
        assert_eq!(view.recovery, Some(expected), "{what}");
        let trouble = Trouble::NotRecovered(NotRecovered::Later);
        assert_eq!(view.trouble, Some(trouble), "{what}");
        // What is late means nothing.
        stage.spoken(&[proof(&[9; 32])]);
        stage.nothing_else();
    }
    let conn = asked(&mut stage);
    answered(&mut stage, conn);
}

#[test]
fn a_refusal_lets_the_certificate_be_tried_again_first() {
    for why in [NotRecovered::Holds, NotRecovered::Refused] {
        let mut stage = expired();
        let conn = asked(&mut stage);
        stage.spoken(&[Event::NotRecovered { conn, why }]);
        assert_eq!(stage.next(), Speech::Hangup { conn });
        stage.nothing_else();
        let view = stage.agent.view();
        assert_eq!(view.trouble, Some(Trouble::NotRecovered(why)));
        wait(&mut stage);
        let Speech::Dial { conn } = stage.next() else {
            panic!("{why:?}: not dialled")
        };
        stage.nothing_else();
        // It is right after all: asked again, more seldom.
        stage.spoken(&[closed(conn, Down::Expired)]);
        let conn = asked(&mut stage);
        stage.spoken(&[Event::NotRecovered { conn, why }]);
        assert_eq!(stage.agent.view().recovery.unwrap().failures, 2);
    }
}

#[test]
fn what_is_said_on_another_connection_changes_nothing() {
    let mut stage = expired();
    let conn = asked(&mut stage);
    let other = Conn(conn.0 - 1);
    let why = NotRecovered::Refused;
    stage.spoken(&[
        Event::NotRecovered { conn: other, why },
        closed(other, Down::Expired),
    ]);
    let challenge = vec![9; 32];
    stage.spoken(&[Event::Challenged {
        conn: other,
        challenge,
    }]);
    stage.nothing_else();
    answered(&mut stage, conn);
}

#[test]
fn while_it_is_asked_no_stream_is_dialled() {
    let mut stage = expired();
    asked(&mut stage);
    for _ in 0..20 {
        stage.after(2 * SECOND);
        stage.spoken(&[]);
        stage.nothing_else();
    }
}
