//! The order in which an orchestrator may speak, and that an agent believes no other: nonsense ends its session, is
//! alarmed of, and touches nothing else.

use outpost_agent_core::event::{Alarm, Down, Event};
use outpost_agent_core::{SessionPhase, Trouble};
use outpost_proto::ids::{
    AttemptId, CommandSeq, Conn, EventSeq, HeartbeatSeq, Nonce, SessionEpoch,
};
use outpost_proto::message::{
    AttemptState, Directive, DownMessage, Granted, ParamValue, Receipt, UpMessage, Welcome,
};
use outpost_proto::outcome::{Outcome, Refusal};
use outpost_sim::scene::Host;

use crate::part::*;

fn host() -> Host {
    Host::new("site", 2, &["moment", "minute", "hour", "choosy"])
}

/// The session was ended for this, its stream too, and another one is made that works.
fn broken_off(part: &mut Part, stream: Conn, alarm: Alarm, what: &str) {
    assert_eq!(part.alarms(), [alarm], "{what}");
    let ended = part.hangups();
    assert!(ended.iter().any(|(_, conn)| *conn == stream), "{what}");
    let trouble = part.view().trouble;
    assert_eq!(trouble, Some(Trouble::Alarm(alarm)), "{what}");
    part.page();
    let command = part.command;
    part.begins();
    assert!(part.command > command);
    assert_eq!(part.view().trouble, None, "{what}");
}

#[test]
fn a_session_goes_from_hello_to_work_in_order_and_each_step_is_said_once() {
    let mut part = Part::of(host());
    let hello = part.hello();
    assert_eq!((hello.last, hello.session_nonce), (None, Nonce(0)));
    assert_eq!(part.frames().len(), 1, "nothing before Welcome");
    let answer = part.welcomes(welcome());
    let [said] = &answer[..] else {
        panic!("not one frame: {answer:?}");
    };
    let [
        UpMessage::Catalogue(catalogue),
        UpMessage::Inventory(page),
        UpMessage::Heartbeat(first),
    ] = &said[..]
    else {
        panic!("not catalogue, inventory, heartbeat: {said:?}");
    };
    assert_eq!(catalogue.entries.len(), 4);
    assert_eq!((page.items.len(), page.end), (0, Some(0)));
    assert_eq!(
        (first.seq, first.lease_echo),
        (HeartbeatSeq(1), HeartbeatSeq(0))
    );
    assert_eq!(part.phase(), Some(SessionPhase::Reconciling));
    part.reconciles();
    part.goes_on(seconds(35));
    let beats = part.beats();
    let numbers: Vec<u32> = beats.iter().map(|(_, beat)| beat.seq.0).collect();
    assert_eq!(numbers, [1, 2, 3, 4]);
    let echoes: Vec<u32> = beats.iter().map(|(_, beat)| beat.lease_echo.0).collect();
    assert_eq!(echoes, [0, 1, 2, 3], "each says whose lease is held");
    for pair in beats.windows(2) {
        let apart = pair[1].0 - pair[0].0;
        assert!((9_990 * MS..=10_010 * MS).contains(&apart), "{apart}");
    }
    assert_eq!(part.acks(), [1], "what was commanded is acknowledged once");
    // The next one presents what this one left.
    part.scene.cut(0);
    part.scene.run(millis(1));
    let hello = part.hello();
    assert_eq!(hello.last, Some((LIFE, CommandSeq(1))));
    assert_eq!(hello.session_nonce, Nonce(11));
}

#[test]
fn whatever_comes_before_its_time_ends_the_session() {
    type Say = fn(&mut Part) -> DownMessage;
    let says: [(&str, Say); 4] = [
        ("work", |part| part.job(1, "moment")),
        ("reconciled", |part| part.order(Directive::Reconciled)),
        ("a cancel", |part| {
            part.order(Directive::Cancel(AttemptId(1)))
        }),
        ("an acknowledgement", |_| durable(0)),
    ];
    for (what, say) in says {
        let mut part = Part::of(host());
        part.hello();
        let stream = part.conn();
        let message = say(&mut part);
        part.tell(&[message]);
        assert_eq!(part.state(1), None, "{what}");
        broken_off(&mut part, stream, Alarm::OutOfOrder, what);
    }
    let mut part = Part::of(host());
    part.hello();
    let stream = part.conn();
    part.welcomes(welcome());
    let job = part.job(1, "moment");
    part.tell(&[job]);
    assert_eq!(part.state(1), None, "work before the reconciliation");
    broken_off(&mut part, stream, Alarm::OutOfOrder, "work");
}

#[test]
fn whatever_comes_a_second_time_or_was_invented_ends_the_session_and_what_follows_is_not_looked_at()
{
    type Say = fn(&mut Part) -> DownMessage;
    let numbered = |number, directive| DownMessage::Directive {
        command_seq: CommandSeq(number),
        directive,
    };
    let granted = |event, lease| {
        DownMessage::Granted(Granted {
            highest_event_seq: EventSeq(event),
            lease,
        })
    };
    let says: [(&str, Say, DownMessage); 7] = [
        ("a welcome", |_| DownMessage::Welcome(welcome()), durable(0)),
        (
            "reconciled",
            |part| part.order(Directive::Reconciled),
            durable(0),
        ),
        (
            "an old number",
            |_| durable(0),
            numbered(1, Directive::Cordon),
        ),
        (
            "a lower number",
            |_| durable(0),
            numbered(0, Directive::Cordon),
        ),
        (
            "a lease for no heartbeat",
            |_| durable(0),
            granted(0, Some((HeartbeatSeq(0), 30_000))),
        ),
        (
            "a lease for the next heartbeat",
            |_| durable(0),
            granted(0, Some((HeartbeatSeq(2), 30_000))),
        ),
        (
            "an event that was never numbered",
            |_| durable(0),
            granted(1, None),
        ),
    ];
    for (what, say, second) in says {
        let mut part = Part::ready(host());
        let stream = part.conn();
        let first = say(&mut part);
        let job = part.job(1, "moment");
        // Past the wire, which lets some of it not even come so far.
        part.hears_frame(vec![first, second, job]);
        assert_eq!(part.state(1), None, "{what}");
        broken_off(&mut part, stream, Alarm::OutOfOrder, what);
    }
}

#[test]
fn commands_may_leave_numbers_out_and_each_frame_of_them_is_acknowledged_by_its_highest() {
    let mut part = Part::ready(host());
    part.page();
    let first = part.job(1, "hour");
    part.command += 100;
    let second = part.job(2, "hour");
    part.tell(&[first, second]);
    assert_eq!(part.acks(), [part.command]);
    assert_eq!(part.begun(), [(1, None), (2, None)]);
    let counters = part.scene.journal(0).session;
    assert_eq!(counters.command_seq, CommandSeq(part.command));
}

#[test]
fn a_receipt_is_no_command_and_may_come_at_any_time_with_any_number() {
    let receipt = |number| DownMessage::Directive {
        command_seq: CommandSeq(number),
        directive: Directive::Receipt(Receipt {
            session_epoch: SessionEpoch(1),
            frame_count: 1,
            head: [7; 32],
            signature: vec![1],
            named_signature: vec![],
            linked: None,
        }),
    };
    let mut part = Part::of(host());
    part.hello();
    part.tell(&[receipt(9)]);
    part.welcomes(welcome());
    part.reconciles();
    part.page();
    part.tell(&[receipt(1), receipt(1 << 40), receipt(3)]);
    assert_eq!((part.alarms(), part.acks()), (vec![], vec![]));
    part.gives("hour", &[1]);
    assert_eq!((part.begun(), part.acks()), (vec![(1, None)], vec![2]));
}

#[test]
fn a_version_that_is_not_known_is_not_spoken() {
    let mut part = Part::of(host());
    part.hello();
    let stream = part.conn();
    part.tell(&[DownMessage::Welcome(Welcome {
        protocol: 2,
        ..welcome()
    })]);
    assert_eq!(part.view().trouble, Some(Trouble::Unsupported(2)));
    assert_eq!(part.hangups().pop().map(|(_, conn)| conn), Some(stream));
    assert_eq!(part.alarms(), []);
    part.page();
    part.begins();
    assert_eq!(part.view().trouble, None);
}

#[test]
fn what_an_earlier_stream_says_is_not_heard() {
    let mut part = Part::ready(host());
    let (old, _) = part.scene.streams(0)[0];
    part.scene.cut(0);
    part.scene.run(millis(1));
    part.hello();
    let job = part.job(1, "hour");
    for event in [
        Event::Frame {
            conn: old,
            messages: vec![job, lease(HeartbeatSeq(1), 30_000)],
        },
        Event::Closed {
            conn: old,
            why: Down::Refused,
        },
        Event::Opened { conn: old },
    ] {
        part.hears(event);
    }
    assert_eq!(part.phase(), Some(SessionPhase::Greeting));
    assert_eq!((part.state(1), part.alarms()), (None, vec![]));
    part.welcomes(welcome());
    let until = part.view().lease_until_us;
    assert_eq!(until, None, "a lease does not outlive its session");
    part.reconciles();
}

#[test]
fn a_command_that_comes_again_is_answered_by_where_its_attempt_stands() {
    let mut part = Part::ready(host());
    part.gives("hour", &[1, 2, 3]);
    part.page();
    // One runs, and one waits for a slot: of that the acknowledgement says all.
    let again = [part.job(1, "hour"), part.job(3, "hour")];
    part.tell(&again);
    assert_eq!(part.alarms(), []);
    let told: Vec<_> = part.events().iter().map(|told| (told.1, told.2)).collect();
    assert_eq!(told, [(1, AttemptState::Running)]);
    assert_eq!(part.acks(), [part.command]);
    assert_eq!(part.begun(), [], "nothing begins a second time");
    part.ends(1, Outcome::Succeeded);
    part.page();
    let again = part.job(1, "hour");
    part.tell(&[again]);
    let told = part.events();
    assert!(
        matches!(told[..], [(_, 1, AttemptState::Finished(_))]),
        "{told:?}"
    );
    assert_eq!(part.scene.starts(AttemptId(1)), 1);
}

/// Whichever part of an assignment is another one: the id was used for something else.
#[test]
fn an_id_that_is_used_for_something_else_ends_the_session() {
    type Change = fn(&mut outpost_proto::message::Assign);
    let changes: [(&str, Change); 9] = [
        ("run", |assign| assign.run.0 += 1),
        ("task", |assign| assign.task.0 += 1),
        ("fence", |assign| assign.fence.0 += 1),
        ("entry", |assign| {
            assign.entry = "hour".parse().expect("a name")
        }),
        ("catalogue", |assign| assign.catalogue_version.0 += 1),
        ("parameters", |assign| {
            let name = "n".parse().expect("a name");
            assign.parameters = vec![(name, ParamValue::Integer(3))];
        }),
        ("deadline", |assign| assign.deadline_ms = Some(1)),
        ("task's name", |assign| {
            assign.task_name = "other".parse().expect("a name")
        }),
        ("workflow's name", |assign| {
            assign.workflow_name = "other".parse().expect("a name");
        }),
    ];
    for (what, change) in changes {
        let mut part = Part::ready(host());
        part.gives("minute", &[1]);
        let held = part.held(1);
        let stream = part.conn();
        let mut other = part.assign(1, "minute");
        change(&mut other);
        part.tell(&[DownMessage::Assign(other)]);
        assert_eq!(
            part.held(1).map(|held| held.assign),
            held.map(|held| held.assign),
            "{what}"
        );
        broken_off(&mut part, stream, Alarm::AttemptReused, what);
    }
}

#[test]
fn of_what_was_refused_the_parameters_are_not_kept_and_any_are_the_same_when_it_comes_again() {
    let mut part = Part::ready(host());
    let with = |part: &mut Part, n| {
        let mut assign = part.assign(1, "choosy");
        assign.parameters = vec![("n".parse().expect("a name"), ParamValue::Integer(n))];
        DownMessage::Assign(assign)
    };
    let refused = with(&mut part, 8);
    part.tell(&[refused]);
    assert_eq!(part.state(1), Some(refusal(Refusal::BadParameters)));
    let held = part.held(1).map(|held| held.assign.parameters);
    assert_eq!(held, Some(vec![]));
    part.page();
    let again = with(&mut part, 8);
    part.tell(&[again]);
    assert_eq!(part.alarms(), []);
    assert_eq!(part.events()[0].2, refusal(Refusal::BadParameters));
    // What is taken keeps them, and is another one with others.
    let mut part = Part::ready(host());
    let taken = with(&mut part, 7);
    part.tell(&[taken]);
    let stream = part.conn();
    let other = with(&mut part, 6);
    part.tell(&[other]);
    broken_off(&mut part, stream, Alarm::AttemptReused, "other parameters");
}

#[test]
fn more_than_an_agent_holds_ends_the_session() {
    let mut part = Part::ready(Host {
        backlog: 10_000,
        ..host()
    });
    let most = 4096;
    for from in (0..most).step_by(64) {
        let jobs: Vec<_> = (from..from + 64).map(|n| part.job(n + 1, "hour")).collect();
        part.tell(&jobs);
    }
    assert_eq!(part.scene.journal(0).attempts.len(), 4096);
    assert_eq!(part.view().session, Some(SessionPhase::Ready));
    part.gives("hour", &[5000]);
    assert_eq!(part.view().trouble, Some(Trouble::TooMany));
    assert_eq!((part.state(5000), part.alarms()), (None, vec![]));
}
