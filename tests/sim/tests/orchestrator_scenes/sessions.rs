//! One stream at a time and everything in its order: what ends a stream and what does not, which of two streams speaks for
//! an agent, and what an acknowledgement and a lease answer.

use outpost_orchestrator_core::event::{Alarm, CloseReason};
use outpost_orchestrator_core::record::TaskState;
use outpost_proto::ids::{AttemptId, CommandSeq, EventSeq};
use outpost_proto::message::{AttemptState, Directive, DownMessage, InventoryPage, UpMessage};
use outpost_proto::outcome::{Interruption, Outcome};
use outpost_sim::stage::{Hand, Stage, assigned, pages, task};

use crate::common::*;

fn connected(scene: &mut Stage) -> Hand {
    let mut a = scene.hand("a");
    a.connects(scene, vec![]);
    a
}

fn leases(said: &[DownMessage]) -> Vec<u32> {
    let lease = |message: &DownMessage| match message {
        DownMessage::Granted(granted) => granted.lease.map(|(seq, _)| seq.0),
        DownMessage::Welcome(_) | DownMessage::Assign(_) | DownMessage::Directive { .. } => None,
    };
    said.iter().filter_map(lease).collect()
}

fn acknowledged(said: &[DownMessage]) -> Vec<u64> {
    let highest = |message: &DownMessage| match message {
        DownMessage::Granted(granted) => Some(granted.highest_event_seq.0),
        DownMessage::Welcome(_) | DownMessage::Assign(_) | DownMessage::Directive { .. } => None,
    };
    said.iter().filter_map(highest).collect()
}

#[test]
fn versions_overlap_or_the_stream_ends() {
    for (range, fits) in [
        ((1, 1), true),
        ((0, 1), true),
        ((1, 2), true),
        ((0, 2), true),
        ((0, 0), false),
        ((2, 3), false),
    ] {
        let mut scene = Stage::new();
        let mut a = scene.hand("a");
        a.protocol = range;
        assert_eq!(a.greets(&mut scene).is_some(), fits, "{range:?}");
        let why = (!fits).then_some(CloseReason::Version);
        assert_eq!(scene.why_ended(a.conn), why, "{range:?}");
        assert!(scene.alarms().is_empty(), "an old agent is no attack");
    }
}

#[test]
fn a2_what_comes_out_of_order_ends_the_stream_and_changes_nothing() {
    let end = |end| UpMessage::Inventory(InventoryPage { items: vec![], end });
    for stage in ["opened", "greeted", "ready"] {
        for what in [
            "hello",
            "catalogue",
            "inventory",
            "event",
            "trigger",
            "heartbeat",
            "ack",
            "ack too far",
        ] {
            let mut scene = Stage::new();
            let mut a = scene.hand("a");
            match stage {
                "opened" => a.opens(&mut scene),
                "greeted" => drop(a.greets(&mut scene)),
                _ => drop(a.connects(&mut scene, vec![])),
            }
            let before = scene.record("a");
            let ready = UpMessage::Trigger {
                trigger: 1,
                event_seq: EventSeq(3),
            };
            let message = match what {
                "hello" => a.hello(),
                "catalogue" => UpMessage::Catalogue(a.catalogue.clone()),
                "inventory" => end(None),
                "event" => a.event(AttemptId(5), AttemptState::Running),
                "trigger" => ready,
                "heartbeat" => a.beat(),
                "ack" => UpMessage::Ack(before.command_seq),
                _ => UpMessage::Ack(CommandSeq(before.command_seq.0 + 1)),
            };
            let fine = match (stage, what) {
                ("opened", "hello") => true,
                ("opened", _) | (_, "hello" | "ack too far") => false,
                ("greeted", what) => !matches!(what, "event" | "trigger"),
                (_, what) => what != "inventory",
            };
            a.says(&mut scene, vec![message]);
            let why = (!fine).then_some(CloseReason::Protocol);
            assert_eq!(scene.why_ended(a.conn), why, "{what} when {stage}");
            let alarm = match (what, stage) {
                ("ack too far", "greeted" | "ready") => Alarm::ImpossibleEvent,
                _ => Alarm::OutOfOrder,
            };
            let alarms: Vec<_> = (!fine)
                .then(|| ("a".to_owned(), alarm))
                .into_iter()
                .collect();
            assert_eq!(scene.alarms(), alarms, "{what} when {stage}");
            if !fine {
                assert_eq!(scene.record("a"), before, "{what} when {stage}");
                assert!(!scene.agent("a").connected);
                // Whoever comes back in good order is welcome.
                assert!(a.greets(&mut scene).is_some());
            }
        }
    }
}

#[test]
fn make_before_break_the_older_stream_speaks_until_the_newer_one_says_hello() {
    let mut scene = Stage::new();
    let mut a = connected(&mut scene);
    let mut newer = a.clone();
    newer.opens(&mut scene);
    assert_eq!(
        leases(&a.beats(&mut scene)),
        [2],
        "the older one still works"
    );
    let hello = newer.hello();
    let said = newer.says(&mut scene, vec![hello]);
    assert!(matches!(said[..], [DownMessage::Welcome(_)]));
    assert_eq!(scene.why_ended(a.conn), Some(CloseReason::Replaced));
    assert_eq!(scene.why_ended(newer.conn), None);
    assert!(
        a.beats(&mut scene).is_empty(),
        "it is not listened to any more"
    );
    newer.lists(&mut scene, vec![]);
    assert!(scene.agent("a").connected && scene.alarms().is_empty());
    // That the older one ends, or one that never spoke, says nothing of the newer one.
    let mut third = newer.clone();
    third.opens(&mut scene);
    third.hangs_up(&mut scene);
    assert!(scene.agent("a").connected);
    let mut fourth = newer.clone();
    fourth.opens(&mut scene);
    newer.hangs_up(&mut scene);
    assert!(!scene.agent("a").connected);
    assert!(
        says_hello(&mut fourth, &mut scene),
        "the end of the former does not end it"
    );
    // Of two that have not spoken the newer one counts.
    let (mut fifth, mut sixth) = (fourth.clone(), fourth.clone());
    fifth.opens(&mut scene);
    sixth.opens(&mut scene);
    assert_eq!(scene.why_ended(fifth.conn), Some(CloseReason::Replaced));
    assert_eq!(scene.why_ended(fourth.conn), None);
}

/// Says Hello on the stream it opened before.
fn says_hello(hand: &mut Hand, scene: &mut Stage) -> bool {
    let said = hand.says(scene, vec![hand.hello()]);
    let [DownMessage::Welcome(welcome)] = &said[..] else {
        return false;
    };
    hand.nonce = welcome.next_nonce;
    true
}

#[test]
fn a_stream_of_somebody_unknown_or_removed_is_ended() {
    let mut scene = Stage::new();
    let a = connected(&mut scene);
    for (tenant, agent) in [("acme", "nobody"), ("nowhere", "a")] {
        let mut hand = Hand::new(tenant, agent, "key-a-0", a.not_after);
        hand.opens(&mut scene);
        assert_eq!(scene.why_ended(hand.conn), Some(CloseReason::Removed));
    }
    let agent = outpost_sim::stage::name("a");
    assert!(
        scene
            .ask(outpost_orchestrator_core::event::Ask::RemoveAgent { agent })
            .is_ok()
    );
    assert_eq!(scene.why_ended(a.conn), Some(CloseReason::Removed));
    let mut again = a.clone();
    again.opens(&mut scene);
    assert_eq!(scene.why_ended(again.conn), Some(CloseReason::Removed));
}

#[test]
fn a_lease_answers_the_newest_heartbeat_and_none_before_the_inventory_was_taken_in() {
    let mut scene = Stage::new();
    let mut a = scene.hand("a");
    assert!(a.greets(&mut scene).is_some());
    assert!(a.beats(&mut scene).is_empty());
    assert!(a.beats(&mut scene).is_empty());
    let said = a.says(&mut scene, pages(vec![]));
    assert_eq!(leases(&said), [2], "the answer that was owed");
    assert_eq!(leases(&a.beats(&mut scene)), [3]);
    // What was overtaken, or came twice, is answered by nothing.
    for former in [1, 2] {
        a.heartbeat = former;
        assert!(a.beats(&mut scene).is_empty());
    }
    assert_eq!(leases(&a.beats(&mut scene)), [4]);
    assert_eq!(scene.agent("a").heartbeat.map(|it| it.seq.0), Some(4));
}

#[test]
fn a_lease_that_ran_out_is_no_right_to_work_and_the_next_one_is() {
    let mut scene = Stage::new();
    let mut a = connected(&mut scene);
    scene.apply(vec![task("t", "load", &[])]);
    scene.pass_ms(29_999);
    let in_time = scene.trigger();
    assert!(matches!(
        state(&scene, in_time, 0),
        TaskState::Active { .. }
    ));
    scene.pass_ms(1);
    let late = scene.trigger();
    assert!(matches!(state(&scene, late, 0), TaskState::Queued { .. }));
    assert!(
        scene.explain(late).iter().any(|why| why.code == "no_lease"),
        "{:?}",
        scene.explain(late)
    );
    a.beats(&mut scene);
    assert!(matches!(state(&scene, late, 0), TaskState::Active { .. }));
}

#[test]
fn b5_an_event_that_comes_again_is_acknowledged_and_changes_nothing() {
    let mut scene = Stage::new();
    let mut a = connected(&mut scene);
    scene.apply(vec![task("t", "load", &[])]);
    let run = scene.trigger();
    let attempt = assigned(&a.hears(&mut scene))[0].attempt;
    a.event_seq = 6;
    assert_eq!(
        acknowledged(&a.tells(&mut scene, attempt, AttemptState::Running)),
        [7]
    );
    // The same number again, with another word.
    a.event_seq = 6;
    assert_eq!(
        acknowledged(&a.ends(&mut scene, attempt, Outcome::Failed)),
        [7]
    );
    a.event_seq = 2;
    assert_eq!(
        acknowledged(&a.ends(&mut scene, attempt, Outcome::Failed)),
        [7]
    );
    assert_eq!(state(&scene, run, 0), TaskState::Active { attempt });
    assert_eq!(scene.record("a").event_seq, EventSeq(7));
    let trigger = UpMessage::Trigger {
        trigger: 1,
        event_seq: EventSeq(8),
    };
    assert_eq!(acknowledged(&a.says(&mut scene, vec![trigger])), [8]);
    a.event_seq = 8;
    assert_eq!(
        acknowledged(&a.ends(&mut scene, attempt, Outcome::Succeeded)),
        [9]
    );
    assert_eq!(state(&scene, run, 0), TaskState::Succeeded);
    // Of what nobody knows any more the agent is told to let go, once for each word.
    let said = a.tells(&mut scene, attempt, AttemptState::Running);
    assert_eq!(directives(&said), [Directive::Forget(attempt)]);
    assert_eq!(acknowledged(&said), [10]);
    // The next session begins where this one was.
    assert_eq!(
        a.greets(&mut scene)
            .map(|welcome| welcome.highest_event_seq),
        Some(EventSeq(10))
    );
}

#[test]
fn what_is_told_of_anothers_attempt_ends_the_stream() {
    let mut scene = Stage::new();
    let mut a = connected(&mut scene);
    scene.apply(vec![task("t", "load", &[])]);
    let run = scene.trigger();
    let attempt = assigned(&a.hears(&mut scene))[0].attempt;
    let mut b = scene.hand("b");
    b.connects(&mut scene, vec![]);
    b.ends(&mut scene, attempt, Outcome::Succeeded);
    assert_eq!(scene.alarms(), [("b".to_owned(), Alarm::ForeignAttempt)]);
    assert_eq!(scene.why_ended(b.conn), Some(CloseReason::Protocol));
    assert_eq!(state(&scene, run, 0), TaskState::Active { attempt });
    // Also when it says that a reboot ended it.
    b.connects(&mut scene, vec![]);
    let reboot = Outcome::Interrupted(Interruption::Reboot);
    b.ends(&mut scene, attempt, reboot);
    assert_eq!(scene.alarms(), [("b".to_owned(), Alarm::ForeignAttempt)]);
    // Nor can what runs become what waits.
    a.tells(&mut scene, attempt, AttemptState::Running);
    a.tells(&mut scene, attempt, AttemptState::Assigned);
    assert_eq!(scene.alarms(), [("a".to_owned(), Alarm::ImpossibleEvent)]);
}

#[test]
fn commands_are_numbered_without_a_gap_and_on_across_sessions_and_restarts() {
    let mut scene = Stage::new();
    let mut a = scene.hand("a");
    let mut seen = Vec::new();
    scene.apply(vec![task("t", "load", &[])]);
    let numbers = |said: &[DownMessage], seen: &mut Vec<u64>| {
        for message in said {
            match message {
                DownMessage::Directive { command_seq, .. } => seen.push(command_seq.0),
                DownMessage::Assign(assign) => seen.push(assign.command_seq.0),
                DownMessage::Welcome(_) | DownMessage::Granted(_) => {}
            }
        }
    };
    for restart in [false, true, false] {
        if restart {
            scene.orchestrator_restarts();
        }
        numbers(&a.connects(&mut scene, vec![]), &mut seen);
        scene.trigger();
        numbers(&a.hears(&mut scene), &mut seen);
    }
    let all: Vec<u64> = (1..=seen.len() as u64).collect();
    assert_eq!(seen, all);
    assert_eq!(scene.record("a").command_seq.0, seen.len() as u64);
}

#[test]
fn people_read_whether_an_assignment_arrived() {
    let mut scene = Stage::new();
    let mut a = connected(&mut scene);
    a.slots = 3;
    scene.apply(vec![task("t", "load", &[]), task("u", "load", &[])]);
    let run = scene.trigger();
    let sent = assigned(&a.hears(&mut scene));
    let codes = |scene: &mut Stage| {
        let why = scene.explain(run).into_iter();
        let codes: Vec<String> = why.map(|why| why.code).collect();
        codes
    };
    assert_eq!(codes(&mut scene), ["assigned", "assigned"]);
    a.says(&mut scene, vec![UpMessage::Ack(sent[0].command_seq)]);
    assert_eq!(codes(&mut scene), ["queued_at_agent", "assigned"]);
    a.says(&mut scene, vec![UpMessage::Ack(sent[1].command_seq)]);
    assert_eq!(codes(&mut scene), ["queued_at_agent", "queued_at_agent"]);
}
