//! Streams: how long each step is waited for, when the next one is tried, and that a successor takes over without a gap.

use std::time::Duration;

use outpost_agent_core::event::{Down, Event, Site};
use outpost_agent_core::{SessionPhase, Trouble};
use outpost_driver::Micros;
use outpost_proto::ids::{AttemptId, EventSeq};
use outpost_proto::message::{Directive, DownMessage, Welcome};
use outpost_proto::outcome::Outcome;
use outpost_sim::scene::Host;

use crate::part::*;

const HOUR: u64 = 3600 * SECOND;

fn host() -> Host {
    Host::new("site", 2, &["moment", "hour"])
}

fn conns<T>(said: Vec<(u64, T)>) -> Vec<T> {
    said.into_iter().map(|(_, conn)| conn).collect()
}

// --- patience

/// In each step the agent hears nothing more: when it has had enough, it hangs up and tries again.
#[test]
fn silence_ends_every_step_and_the_next_try_follows() {
    type Until = fn(&mut Part);
    let greeted: Until = |part| {
        part.hello();
    };
    let welcomed: Until = |part| {
        part.hello();
        part.welcomes(welcome());
    };
    let works: Until = |part| part.begins();
    let seldom: Until = |part| {
        part.begins_as(Welcome {
            heartbeat_interval_ms: 25_000,
            ..welcome()
        });
    };
    let steps: [(SessionPhase, bool, u64, Until); 5] = [
        (SessionPhase::Dialling, true, 60, |part| {
            part.silent(millis(30))
        }),
        (SessionPhase::Greeting, false, 60, greeted),
        (SessionPhase::Reconciling, false, 60, welcomed),
        (SessionPhase::Ready, false, 40, works),
        (SessionPhase::Ready, false, 100, seldom),
    ];
    for (phase, mute, patience_s, until) in steps {
        let mut part = Part::of(host());
        part.scene.mute(mute);
        until(&mut part);
        assert_eq!(part.phase(), Some(phase));
        let stream = part.conn();
        let heard = part.scene.now();
        part.silent(seconds(patience_s) - millis(100));
        assert_eq!(part.hangups(), [], "too early: {phase:?}");
        part.silent(millis(110));
        assert_eq!(conns(part.hangups()), [stream], "too late: {phase:?}");
        assert!(part.scene.now() - heard >= patience_s * SECOND);
        assert_eq!(part.view().trouble, Some(Trouble::Silent));
        assert_eq!(part.view().lease_until_us, None);
        part.scene.mute(false);
        part.begins();
        assert_eq!(part.view().trouble, None);
    }
}

#[test]
fn any_word_is_a_sign_of_life() {
    let mut part = Part::ready(host());
    part.page();
    for _ in 0..10 {
        part.silent(seconds(35));
        part.tell(&[durable(0)]);
    }
    assert_eq!((part.hangups(), part.dials()), (vec![], vec![]));
    let beats = part.beats();
    assert_eq!(beats.len(), 35, "heartbeats keep their interval");
}

#[test]
fn an_interval_of_nothing_and_one_of_years_are_kept_within_reason() {
    for (asked_ms, least, most) in [(1, 18, 21), (40, 18, 21), (100, 9, 11), (u32::MAX, 0, 0)] {
        let mut part = Part::of(host());
        part.begins_as(Welcome {
            heartbeat_interval_ms: asked_ms,
            ..welcome()
        });
        part.page();
        part.silent(seconds(1));
        let beats = part.beats().len();
        assert!((least..=most).contains(&beats), "{asked_ms}: {beats}");
    }
}

#[test]
fn the_slowest_heartbeats_come_every_hour() {
    let mut part = Part::of(host());
    part.begins_as(Welcome {
        heartbeat_interval_ms: u32::MAX,
        ..welcome()
    });
    part.page();
    part.goes_on(seconds(3 * 3600 + 60));
    assert_eq!(part.beats().len(), 3);
    assert_eq!(part.hangups(), []);
}

// --- tries

/// Tries so long against an orchestrator that fails like this; the longest times between two of them.
fn waits(part: &mut Part, why: Down, lasts: Duration) -> Vec<u64> {
    part.page();
    let until = part.scene.now() + u64::try_from(lasts.as_micros()).expect("a span");
    let mut seen = 0;
    while part.scene.due().is_some_and(|at| at < until) {
        part.scene.step();
        let dials = part.dials();
        if dials.len() > seen {
            seen = dials.len();
            let conn = dials[seen - 1].1;
            part.scene.hears(0, Event::Closed { conn, why });
        }
    }
    let dials = part.dials();
    let mut waits: Vec<u64> = dials.windows(2).map(|two| two[1].0 - two[0].0).collect();
    let numbers = conns(dials);
    assert!(
        numbers.windows(2).all(|two| two[0] < two[1]),
        "numbers grow"
    );
    waits.sort_unstable();
    waits
}

/// Which failures are tried again how soon: what may be over in moments often, what needs a person seldom.
#[test]
fn tries_come_at_random_more_and_more_seldom_and_never_beyond_a_bound() {
    for (why, cap_s, least) in [
        (Down::Unreachable, 30, 1200 / 30),
        (Down::Ended, 30, 1200 / 30),
        (Down::Refused, 300, 3),
        (Down::Protocol, 300, 3),
    ] {
        let mut part = Part::of(host());
        let waits = waits(&mut part, why, seconds(4 * 1200));
        let longest = *waits.last().expect("some tries");
        assert!(waits.len() >= least, "{why:?}: {}", waits.len());
        assert!(longest <= cap_s * SECOND + 10 * MS, "{why:?}: {longest}");
        assert!(longest > cap_s * SECOND / 2, "{why:?}: {longest}");
        assert!(
            waits[waits.len() / 4] < cap_s * SECOND / 2,
            "{why:?}: {waits:?}"
        );
    }
}

#[test]
fn once_a_session_was_ready_the_next_failure_is_a_first_one() {
    let mut part = Part::of(host());
    let longest = waits(&mut part, Down::Unreachable, seconds(600)).pop();
    assert!(longest > Some(5 * SECOND));
    part.begins();
    for _ in 0..5 {
        part.page();
        let lost = part.scene.now();
        part.scene.cut(0);
        part.begins();
        let dialled = part.dials()[0].0 - lost;
        assert!(dialled < 250 * MS, "{dialled}");
    }
    // Without ever getting ready they add up.
    let mut dialled = Vec::new();
    for _ in 0..12 {
        part.page();
        let lost = part.scene.now();
        part.scene.cut(0);
        part.hello();
        dialled.push(part.dials()[0].0 - lost);
    }
    assert!(dialled.iter().any(|wait| *wait > 2 * SECOND), "{dialled:?}");
}

// --- successors

/// Ready, with a certificate of an hour that is to be renewed after about twenty minutes.
fn renewing() -> Part {
    let mut part = Part::ready(host());
    let now = part.scene.now() + SECOND;
    part.hears(Event::Certificate {
        life_us: HOUR,
        until: Micros(now + HOUR),
    });
    part.page();
    part
}

/// Until a certificate is asked for.
fn asked(part: &mut Part) {
    while part.scene.renewals().is_empty() {
        part.goes_on(millis(500));
    }
    assert_eq!(part.scene.renewals().len(), 1, "asked once");
}

/// Renewed: the successor that is dialled for it.
fn succeeding(part: &mut Part) -> outpost_proto::ids::Conn {
    part.scene.mute(true);
    asked(part);
    assert_eq!(part.dials(), []);
    part.scene.answer_renewal(true);
    part.scene.run(millis(25));
    let dials = conns(part.dials());
    let [successor] = dials[..] else {
        panic!("not dialled beside it: {dials:?}");
    };
    successor
}

/// One whose successor was opened and not welcomed yet: the stream that there is, and that one.
fn greeting_beside() -> (Part, outpost_proto::ids::Conn, outpost_proto::ids::Conn) {
    let mut part = renewing();
    let successor = succeeding(&mut part);
    let former = part.scene.streams(0)[0].0;
    part.page();
    part.scene.mute(false);
    part.hears(Event::Opened { conn: successor });
    (part, former, successor)
}

/// The streams by the orchestrator's number.
fn links(part: &Part) -> Vec<u64> {
    let streams = part.scene.streams(0).into_iter();
    streams.map(|(_, link)| link).collect()
}

#[test]
fn a_certificate_is_renewed_after_about_a_third_of_its_life() {
    let mut part = renewing();
    let began = part.scene.now();
    asked(&mut part);
    let asked = part.scene.renewals()[0].0 - began;
    assert!(
        (17 * 60 * SECOND..=23 * 60 * SECOND).contains(&asked),
        "{asked}"
    );
}

#[test]
fn a_session_works_until_its_successor_stands_and_is_ended_when_that_is_welcomed() {
    let mut part = renewing();
    let former = part.conn();
    let successor = succeeding(&mut part);
    let link = links(&part)[0];
    // The stream of the successor does not stand yet: work comes, and goes, on the present one.
    let job = part.job(1, "hour");
    part.scene.tell_on(link, &[job]);
    part.goes_on(seconds(20));
    assert_eq!(part.begun(), [(1, None)]);
    assert_eq!(part.hangups(), []);
    // It stands: Hello on it, and nothing more is heard on the former one.
    part.page();
    part.scene.mute(false);
    part.hears(Event::Opened { conn: successor });
    assert_eq!(part.phase(), Some(SessionPhase::Greeting));
    // What is heard of a stream of long ago means nothing.
    let (long_ago, why) = (outpost_proto::ids::Conn(9999), Down::Refused);
    part.hears(Event::Closed {
        conn: long_ago,
        why,
    });
    let cancel = part.order(Directive::Cancel(AttemptId(1)));
    part.scene.tell_on(link, &[cancel]);
    part.silent(millis(50));
    assert_eq!(part.held(1).map(|held| held.cancel_requested), Some(false));
    assert_eq!(
        part.hangups(),
        [],
        "not before the orchestrator has taken the Hello"
    );
    let newest = links(&part)[1];
    part.scene
        .tell_on(newest, &[DownMessage::Welcome(welcome())]);
    part.silent(millis(50));
    assert_eq!(conns(part.hangups()), [former]);
    assert_eq!(part.scene.ended(), [link]);
    part.reconciles();
    assert_eq!(part.begun(), []);
    // It is not renewed again at once.
    part.page();
    part.goes_on(seconds(600));
    assert_eq!((part.dials(), part.scene.renewals()), (vec![], vec![]));
}

#[test]
fn a_successor_that_cannot_be_made_is_tried_again_and_the_session_stays() {
    let mut part = renewing();
    let mut successor = succeeding(&mut part);
    let former = part.scene.streams(0)[0].0;
    for _ in 0..3 {
        part.page();
        let why = Down::Unreachable;
        part.hears(Event::Closed {
            conn: successor,
            why,
        });
        assert_eq!(part.phase(), Some(SessionPhase::Ready));
        part.goes_on(seconds(2));
        let dials = conns(part.dials());
        assert_eq!(dials.len(), 1, "once at a time");
        assert!(dials[0] > successor && dials[0] > former);
        successor = dials[0];
        assert_eq!(part.hangups(), []);
    }
    // One that hears nothing is given up after a minute.
    part.page();
    part.goes_on(seconds(70));
    assert_eq!(conns(part.hangups()), [successor]);
    assert_eq!(part.phase(), Some(SessionPhase::Ready));
    assert_eq!(
        part.scene.renewals(),
        [],
        "under a renewed certificate none is asked for"
    );
}

#[test]
fn a_successor_takes_the_place_of_a_session_that_is_merely_lost() {
    for (why, takes) in [
        (Down::Unreachable, true),
        (Down::Ended, true),
        (Down::Refused, false),
        (Down::Protocol, false),
        (Down::Expired, false),
    ] {
        let mut part = renewing();
        let successor = succeeding(&mut part);
        let former = part.scene.streams(0)[0].0;
        part.page();
        part.hears(Event::Closed { conn: former, why });
        let phase = takes.then_some(SessionPhase::Dialling);
        assert_eq!(part.phase(), phase, "{why:?}");
        let given_up = if takes { vec![] } else { vec![successor] };
        assert_eq!(conns(part.hangups()), given_up, "{why:?}");
        if takes {
            part.scene.mute(false);
            part.hears(Event::Opened { conn: successor });
            part.begins();
            assert_eq!(part.dials(), [], "{why:?}");
        }
    }
}

#[test]
fn a_successor_that_breaks_before_its_welcome_ends_both() {
    let (mut part, former, successor) = greeting_beside();
    let why = Down::Unreachable;
    part.hears(Event::Closed {
        conn: successor,
        why,
    });
    assert_eq!(conns(part.hangups()), [former]);
    part.begins();
}

#[test]
fn that_the_former_stream_is_gone_first_changes_nothing() {
    let (mut part, former, _) = greeting_beside();
    for why in [Down::Unreachable, Down::Refused] {
        part.hears(Event::Closed { conn: former, why });
        assert_eq!(part.phase(), Some(SessionPhase::Greeting));
    }
    part.welcomes(welcome());
    part.reconciles();
    assert_eq!((part.hangups(), part.dials()), (vec![], vec![]));
}

#[test]
fn before_its_certificates_end_a_stream_is_followed_by_another() {
    let mut part = Part::ready(host());
    let (conn, now) = (part.conn(), part.scene.now() + SECOND);
    // The earliest end that was told counts, and of another stream none does.
    for (of, after_s) in [
        (conn, 900),
        (conn, 600),
        (conn, 1200),
        (outpost_proto::ids::Conn(99), 3),
    ] {
        part.hears(Event::Ends {
            conn: of,
            at: Micros(now + after_s * SECOND),
        });
    }
    part.page();
    part.goes_on(seconds(390));
    assert_eq!(part.dials(), []);
    part.goes_on(seconds(20));
    assert_eq!(part.dials().len(), 1, "at two thirds");
    part.begins();
    assert_eq!(conns(part.hangups()), [conn]);
    part.page();
    part.goes_on(seconds(900));
    assert_eq!(part.dials(), [], "only once");
}

#[test]
fn no_successor_is_made_beside_a_session_that_does_not_work_yet() {
    let mut part = Part::of(host());
    part.hello();
    part.welcomes(welcome());
    let (conn, now) = (part.conn(), part.scene.now() + SECOND);
    part.hears(Event::Ends {
        conn,
        at: Micros(now + 3 * SECOND),
    });
    part.page();
    part.scene.mute(true);
    part.silent(seconds(9));
    assert_eq!(part.dials(), []);
    part.reconciles_after(1);
    assert_eq!(part.dials().len(), 1, "but as soon as it does");
}

/// One thing after the other: what is renewed under a stream that is about to be followed would be asked for twice.
#[test]
fn while_a_successor_is_made_no_certificate_is_asked_for() {
    let mut part = Part::ready(host());
    let (conn, now) = (part.conn(), part.scene.now() + SECOND);
    part.hears(Event::Ends {
        conn,
        at: Micros(now + 30 * SECOND),
    });
    part.scene.mute(true);
    part.goes_on(seconds(25));
    let link = links(&part)[0];
    let order = part.order(Directive::RenewNow);
    part.scene.tell_on(link, &[order]);
    part.goes_on(seconds(20));
    assert_eq!(part.scene.renewals(), []);
    part.scene.mute(false);
    let successor = part.conn();
    part.hears(Event::Opened { conn: successor });
    part.begins();
    assert_eq!(part.scene.renewals().len(), 1, "but then");
}

#[test]
fn an_agent_that_stops_makes_no_successor_and_ends_every_stream() {
    let mut part = renewing();
    let successor = succeeding(&mut part);
    let former = part.scene.streams(0)[0].0;
    part.page();
    part.wants(Site::Stop);
    let mut ended = conns(part.hangups());
    ended.sort_unstable();
    assert_eq!(ended, [former, successor]);
}

#[test]
fn a_renewal_that_is_refused_is_asked_for_again_and_the_session_goes_on() {
    let mut part = renewing();
    asked(&mut part);
    part.scene.answer_renewal(false);
    part.goes_on(seconds(10));
    assert_eq!(part.scene.renewals().len(), 1, "again within seconds");
    // No answer at all is waited for, and then it is asked for once more.
    part.page();
    part.goes_on(seconds(70));
    assert_eq!(part.scene.renewals().len(), 1);
    assert_eq!(
        (part.dials(), part.phase()),
        (vec![], Some(SessionPhase::Ready))
    );
    let certificate = part.view().certificate.expect("a certificate");
    assert_eq!(certificate.failures, 2);
}

#[test]
fn the_end_of_a_session_is_the_end_of_what_was_asked_beside_it() {
    let mut part = renewing();
    asked(&mut part);
    part.scene.cut(0);
    part.scene.run(millis(25));
    assert_eq!(part.view().certificate.map(|known| known.failures), Some(1));
    part.page();
    part.begins();
    part.goes_on(seconds(10));
    assert_eq!(
        part.scene.renewals().len(),
        1,
        "asked again on the next one"
    );
}

#[test]
fn outcomes_that_a_lost_stream_took_with_it_are_told_on_the_next_one() {
    let mut part = Part::ready(host());
    part.gives("moment", &[1]);
    part.silent(millis(100));
    let told = part.events();
    assert_eq!(part.outcome(1), Some(Outcome::Succeeded));
    part.scene.cut(0);
    part.page();
    part.hello();
    let frames = part.welcomes(Welcome {
        highest_event_seq: EventSeq(0),
        ..welcome()
    });
    let items = items(&frames);
    let number = told.last().expect("an event").0;
    let again: Vec<_> = items
        .iter()
        .map(|item| (item.event_seq.0, item.attempt.0))
        .collect();
    assert_eq!(again, [(number, 1)], "under the number it had");
    part.reconciles();
    part.tell(&[durable(number)]);
    assert_eq!(part.held(1), None);
}
