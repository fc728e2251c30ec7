//! A certificate that has ended: another one is asked for in its place, in order and with patience, and work goes on as
//! if nothing had been.

use std::time::Duration;

use outpost_agent_core::event::{Down, Event, NotRecovered, Proof, Speech};
use outpost_agent_core::{RecoveryView, SessionPhase, Trouble};
use outpost_driver::Micros;
use outpost_orchestrator_core::event::Ask;
use outpost_proto::ids::{Conn, Nonce};
use outpost_proto::message::AttemptState;
use outpost_proto::outcome::Outcome;
use outpost_proto::wire::{ChallengeAnswer, RecoverRequest};
use outpost_sim::scene::{Host, Scene};

use crate::part::*;

const HOUR: u64 = 3600 * SECOND;

fn host() -> Host {
    Host::new("site", 2, &["moment", "minute", "hour"])
}

fn proof(challenge: &[u8]) -> Event {
    Event::Proof(Proof {
        certificate: vec![1; 700],
        csr: vec![2; 300],
        proof: challenge.to_vec(),
    })
}

/// What link was asked to prove, and how often.
fn proofs(part: &Part) -> Vec<(Nonce, Vec<u8>)> {
    let said = part.scene.said(0).filter_map(|(_, said)| match said {
        Speech::Prove {
            session_nonce,
            challenge,
        } => Some((*session_nonce, challenge.clone())),
        _ => None,
    });
    said.collect()
}

/// What the orchestrator was asked, and on which connection.
fn requests(part: &Part) -> Vec<(Conn, RecoverRequest)> {
    let said = part.scene.said(0).filter_map(|(_, said)| match said {
        Speech::Recover { conn, request } => Some((*conn, RecoverRequest::clone(request))),
        _ => None,
    });
    said.collect()
}

fn hangups(part: &Part) -> Vec<Conn> {
    part.hangups().into_iter().map(|(_, conn)| conn).collect()
}

/// A task runs, and the next stream is not accepted because the certificate has ended.
fn expired() -> Part {
    let mut part = Part::ready(host());
    part.scene.recoveries_wait();
    part.gives("hour", &[7]);
    part.scene.cut_off(0, seconds(3600));
    part.scene.run(millis(1));
    refused_for_it(&mut part);
    part
}

fn refused_for_it(part: &mut Part) {
    part.page();
    while part.dials().is_empty() {
        part.scene.step();
    }
    let conn = part.dials()[0].1;
    let why = Down::Expired;
    part.scene.hears(0, Event::Closed { conn, why });
    part.scene.run(millis(1));
    part.page();
}

/// Waits until link is asked for the first proof.
fn begun(part: &mut Part) {
    part.page();
    while proofs(part).is_empty() {
        part.scene.step();
    }
    assert_eq!(
        proofs(part),
        [(Nonce(11), vec![])],
        "the nonce of the last session"
    );
    assert_eq!(part.dials(), [], "no stream is dialled instead");
    assert_eq!(part.view().recovery.map(|view| view.under_way), Some(true));
}

/// The orchestrator was asked without an answer to a challenge: on this connection.
fn asked(part: &mut Part) -> Conn {
    begun(part);
    part.hears(proof(&[]));
    let requests = requests(part);
    let [(conn, request)] = &requests[..] else {
        panic!("not asked once: {requests:?}");
    };
    let expected = RecoverRequest {
        certificate: vec![1; 700],
        session_nonce: Nonce(11),
        csr: vec![2; 300],
        answer: None,
    };
    assert_eq!(*request, expected);
    *conn
}

/// And its challenge is answered.
fn answered(part: &mut Part, conn: Conn) {
    let challenge = vec![9; 32];
    part.hears(Event::Challenged {
        conn,
        challenge: challenge.clone(),
    });
    assert_eq!(proofs(part)[1..], [(Nonce(11), challenge.clone())]);
    part.hears(proof(&challenge));
    let requests = requests(part);
    let (on, request) = requests.last().expect("a request");
    let proof = challenge.clone();
    let expected = Some(ChallengeAnswer { challenge, proof });
    assert_eq!((requests.len(), on, &request.answer), (2, &conn, &expected));
}

fn renewed(part: &Part) -> Event {
    let until = Micros(part.scene.now() + SECOND + HOUR);
    Event::Renewed {
        life_us: HOUR,
        until,
    }
}

fn failed(failures: u32) -> Option<RecoveryView> {
    Some(RecoveryView {
        under_way: false,
        failures,
    })
}

/// Both ends and the port between them: a long weekend without the network, and the agent is back by itself.
#[test]
fn an_agent_that_was_away_until_its_certificate_ended_returns_by_itself_with_what_it_ran() {
    let mut scene = Scene::new(&[host()]);
    let flow = Scene::flow("nightly", &[("load", "minute")]);
    scene.apply("acme", &flow);
    scene.trigger("acme", &flow);
    scene.run(seconds(5));
    let attempt = scene.running(0)[0];
    scene.certificates_end(Duration::from_micros(8 * HOUR));
    scene.cut_off(0, Duration::from_micros(72 * HOUR));
    scene.run(Duration::from_micros(72 * HOUR));
    assert_eq!(scene.journal(0).attempts.len(), 1, "its outcome is kept");
    scene.run(seconds(600));
    let view = scene.view(0).expect("a process");
    assert_eq!(
        (view.session, view.recovery),
        (Some(SessionPhase::Ready), None)
    );
    assert_eq!(scene.journal(0).attempts, [], "and was told");
    let known = &scene.database().attempts[&attempt];
    let late = known.late.map(|report| report.outcome);
    assert_eq!(
        late,
        Some(Outcome::Succeeded),
        "given up meanwhile, and known after all"
    );
    let asked = scene
        .said(0)
        .filter(|(_, said)| matches!(said, Speech::Recover { .. }));
    assert_eq!(asked.count(), 2, "once, and once with the answer");
    // It has a lease and takes work.
    scene.trigger("acme", &flow);
    scene.run(seconds(5));
    assert_eq!(scene.running(0).len(), 1);
}

#[test]
fn an_agent_whose_name_was_removed_meanwhile_gets_no_certificate_and_says_who_can_help() {
    let mut scene = Scene::new(&[host()]);
    scene.certificates_end(Duration::from_micros(HOUR));
    scene.cut_off(0, Duration::from_micros(3 * HOUR));
    scene.run(Duration::from_micros(2 * HOUR));
    let agent = "site".parse().expect("a name");
    scene
        .ask("acme", Ask::RemoveAgent { agent })
        .expect("removed");
    scene.run(Duration::from_micros(2 * HOUR));
    let view = scene.view(0).expect("a process");
    assert_eq!(view.session, None);
    let trouble = view.trouble.expect("trouble").to_string();
    assert!(trouble.contains("invite this"), "{trouble}");
    assert!(view.recovery.expect("a recovery").failures > 1);
}

#[test]
fn an_ended_certificate_is_replaced_and_the_session_goes_on_with_everything_it_had() {
    let mut part = expired();
    assert_eq!(part.view().recovery, failed(0));
    assert_eq!(part.view().trouble, Some(Trouble::Down(Down::Expired)));
    part.ends(7, Outcome::Succeeded);
    let conn = asked(&mut part);
    answered(&mut part, conn);
    part.page();
    part.scene.network_is_back(0);
    let event = renewed(&part);
    part.scene.hears(0, event);
    part.scene.run(millis(1));
    assert_eq!(hangups(&part), [conn]);
    let dials = part.dials();
    assert!(
        matches!(dials[..], [(_, dialled)] if dialled > conn),
        "at once: {dials:?}"
    );
    let why = Down::Unreachable;
    part.hears(Event::Closed { conn, why });
    assert_eq!((part.dials().len(), part.view().recovery), (1, None));
    part.hello();
    let items = items(&part.welcomes(welcome()));
    assert!(matches!(items[..], [item] if item.attempt.0 == 7
        && matches!(item.state, AttemptState::Finished(_))));
    part.reconciles();
    assert_eq!(part.view().trouble, None);
}

#[test]
fn a_certificate_that_is_stored_after_its_connection_is_gone_is_used_at_once() {
    let mut part = expired();
    let conn = asked(&mut part);
    answered(&mut part, conn);
    let why = Down::Unreachable;
    part.hears(Event::Closed { conn, why });
    assert_eq!(part.view().recovery, failed(1));
    part.page();
    let event = renewed(&part);
    part.scene.hears(0, event);
    part.scene.run(millis(1));
    assert_eq!(part.dials().len(), 1);
    assert_eq!((part.view().recovery, hangups(&part)), (None, vec![]));
}

/// Whatever goes wrong, in whichever step: it is begun again later, never twice at once, and what is late means nothing.
#[test]
fn each_step_that_fails_is_begun_again_later() {
    type Fails = fn(&mut Part) -> Option<Conn>;
    let steps: [(&str, Fails); 8] = [
        ("no key", |part| {
            begun(part);
            part.hears(Event::Proof(Proof {
                certificate: Vec::new(),
                csr: Vec::new(),
                proof: Vec::new(),
            }));
            None
        }),
        ("no connection", |part| {
            let conn = asked(part);
            let why = Down::Unreachable;
            part.hears(Event::Closed { conn, why });
            None
        }),
        ("busy", |part| {
            let conn = asked(part);
            let why = NotRecovered::Later;
            part.hears(Event::NotRecovered { conn, why });
            Some(conn)
        }),
        ("link says nothing", |part| {
            begun(part);
            part.scene.run(seconds(61));
            None
        }),
        ("no answer", |part| {
            let conn = asked(part);
            part.scene.run(seconds(59));
            assert_eq!(part.view().recovery.map(|view| view.under_way), Some(true));
            part.scene.run(seconds(2));
            Some(conn)
        }),
        ("another challenge", |part| {
            let conn = asked(part);
            answered(part, conn);
            let challenge = vec![8; 32];
            part.hears(Event::Challenged { conn, challenge });
            Some(conn)
        }),
        ("link ended", |part| {
            let conn = asked(part);
            part.hears(Event::NotRenewed);
            Some(conn)
        }),
        ("not stored", |part| {
            let conn = asked(part);
            answered(part, conn);
            part.hears(Event::NotRenewed);
            Some(conn)
        }),
    ];
    let mut part = expired();
    for (failures, (what, fails)) in (1..).zip(steps) {
        let ended = fails(&mut part);
        // What link was asked for before it was asked on a connection ends none that anybody knows.
        let hangups = hangups(&part);
        assert!(
            ended.is_none_or(|conn| hangups == [conn]),
            "{what}: {hangups:?}"
        );
        assert_eq!(part.view().recovery, failed(failures), "{what}");
        let trouble = Trouble::NotRecovered(NotRecovered::Later);
        assert_eq!(part.view().trouble, Some(trouble), "{what}");
        let said = requests(&part).len();
        part.hears(proof(&[9; 32]));
        assert_eq!(requests(&part).len(), said, "{what}");
    }
    let conn = asked(&mut part);
    answered(&mut part, conn);
}

/// How long it waits between two tries that failed in the same way.
#[test]
fn tries_come_more_and_more_seldom_and_never_beyond_two_minutes() {
    let mut part = expired();
    let mut waits = Vec::new();
    for _ in 0..40 {
        let since = part.scene.now();
        begun(&mut part);
        waits.push(part.scene.now() - since);
        part.hears(Event::NotRenewed);
    }
    assert!(waits[0] <= 4 * SECOND + 10 * MS, "{}", waits[0]);
    let longest = waits.iter().max().expect("a wait");
    assert!(
        (60 * SECOND..=120 * SECOND + 10 * MS).contains(longest),
        "{longest}"
    );
}

/// It asks for a certificate, gets it, and that one ends as well; how long it waited before it asked.
fn recovers_and_ends(part: &mut Part) -> u64 {
    let since = part.scene.now();
    let conn = asked(part);
    let waited = part.scene.now() - since;
    answered(part, conn);
    let event = renewed(part);
    part.scene.hears(0, event);
    part.scene.run(millis(1));
    refused_for_it(part);
    waited
}

#[test]
fn the_first_wait_of_many_agents_that_ended_together_is_spread_over_seconds() {
    let mut waits = Vec::new();
    let mut part = expired();
    for _ in 0..12 {
        waits.push(recovers_and_ends(&mut part));
    }
    assert!(
        waits.iter().all(|wait| *wait < 4 * SECOND + 100 * MS),
        "{waits:?}"
    );
    assert!(waits.iter().any(|wait| *wait > 2 * SECOND), "{waits:?}");
}

#[test]
fn a_refusal_lets_the_certificate_be_tried_again_first_and_seldom_when_only_a_person_can_help() {
    for (why, longest_s) in [(NotRecovered::Holds, 120), (NotRecovered::Refused, 300)] {
        let mut part = expired();
        let mut waits = Vec::new();
        for failures in 1..=14 {
            let conn = asked(&mut part);
            part.hears(Event::NotRecovered { conn, why });
            assert_eq!(hangups(&part), [conn]);
            let trouble = Some(Trouble::NotRecovered(why));
            assert_eq!(
                (part.view().trouble, part.view().recovery),
                (trouble, failed(failures))
            );
            // A stream is tried with the certificate there is; it is right after all that it has ended.
            let since = part.scene.now();
            part.page();
            while part.dials().is_empty() {
                assert_eq!(proofs(&part), []);
                part.scene.step();
            }
            waits.push(part.scene.now() - since);
            let dialled = part.dials()[0].1;
            let expired = Down::Expired;
            part.hears(Event::Closed {
                conn: dialled,
                why: expired,
            });
        }
        let longest = waits.iter().max().copied().expect("a wait");
        assert!(
            longest <= longest_s * SECOND + 50 * MS,
            "{why:?}: {longest}"
        );
        assert!(longest > longest_s / 3 * SECOND, "{why:?}: {longest}");
    }
}

/// What was refused once is asked for after twice the time, also when a stream was tried in between.
#[test]
fn a_stream_that_is_tried_in_between_does_not_make_it_ask_sooner() {
    let mut part = expired();
    let mut waits = Vec::new();
    for _ in 0..12 {
        let conn = asked(&mut part);
        let why = NotRecovered::Holds;
        part.hears(Event::NotRecovered { conn, why });
        refused_for_it(&mut part);
        waits.push(recovers_and_ends(&mut part));
    }
    let bound = 8 * SECOND + 100 * MS;
    assert!(waits.iter().all(|wait| *wait < bound), "{waits:?}");
    assert!(waits.iter().any(|wait| *wait > bound / 2), "{waits:?}");
}

#[test]
fn what_is_said_on_another_connection_changes_nothing() {
    let mut part = expired();
    let conn = asked(&mut part);
    let other = Conn(conn.0 - 1);
    let (why, down) = (NotRecovered::Refused, Down::Expired);
    part.hears(Event::NotRecovered { conn: other, why });
    part.hears(Event::Closed {
        conn: other,
        why: down,
    });
    part.hears(Event::Challenged {
        conn: other,
        challenge: vec![9; 32],
    });
    let under_way = Some(RecoveryView {
        under_way: true,
        failures: 0,
    });
    assert_eq!((part.view().recovery, hangups(&part)), (under_way, vec![]));
    assert_eq!(proofs(&part).len(), 1);
    answered(&mut part, conn);
}

#[test]
fn while_it_is_asked_no_stream_is_dialled_and_before_nothing_is_proven() {
    let mut part = Part::ready(host());
    part.scene.recoveries_wait();
    for event in [
        proof(&[]),
        Event::NotRecovered {
            conn: part.conn(),
            why: NotRecovered::Later,
        },
    ] {
        part.hears(event);
    }
    let view = part.view();
    assert_eq!(
        (view.recovery, view.session),
        (None, Some(SessionPhase::Ready))
    );
    let mut part = expired();
    asked(&mut part);
    for _ in 0..20 {
        part.scene.run(seconds(2));
        assert_eq!((part.dials(), requests(&part).len()), (vec![], 1));
    }
}

/// The journal cannot be written in the turn that asks: nothing was said, and it is asked again later.
#[test]
fn a_commit_that_fails_while_it_is_asked_gives_the_connection_up() {
    for applied in [false, true] {
        let mut part = expired();
        let conn = asked(&mut part);
        part.scene.commit_fails(0, applied);
        part.ends(7, Outcome::Succeeded);
        part.scene.run(seconds(1));
        assert_eq!(hangups(&part), [conn]);
        assert_eq!(part.view().recovery, failed(1));
        let conn = asked(&mut part);
        answered(&mut part, conn);
    }
}
