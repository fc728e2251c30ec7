//! When things are said: at once where somebody waits for them, together where nobody does.

use std::time::Duration;

use outpost_driver::{Core as _, Micros};
use outpost_proto::ids::{CommandSeq, EventSeq};
use outpost_proto::message::{AttemptState, Directive, UpMessage};
use outpost_proto::outcome::Outcome;

use super::harness::*;
use crate::Settings;
use crate::event::{KeeperSaid, Speech};

const WITHIN: Duration = Duration::from_millis(5);
const WITHIN_US: u64 = 5_000;

/// A ready agent with one slot that lets collect what may.
fn stage() -> Stage {
    let mut stage = Stage::new(Settings {
        report_within: WITHIN,
        slots: 1,
        ..settings()
    });
    stage.connect(Some(shop(1, &[("copy", free())])));
    stage.welcomed(welcome());
    stage.reconciled();
    stage.said.clear();
    stage
}

fn due(stage: &Stage) -> Micros {
    stage.agent.next_deadline().unwrap()
}

fn ends(stage: &mut Stage, attempt: u128) {
    stage.keeper(attempt, KeeperSaid::Finished(report(Outcome::Succeeded)));
}

#[test]
fn that_a_command_was_taken_is_said_with_what_becomes_of_it() {
    let mut stage = stage();
    let job = stage.job(1, "copy");
    stage.frame(vec![job]);
    assert!(matches!(stage.next(), Speech::Start { .. }));
    stage.nothing_else();
    assert_eq!(due(&stage), Micros(stage.now.0 + WITHIN_US));
    stage.after(1_000);
    ends(&mut stage, 1);
    let [UpMessage::Ack(command), UpMessage::Event(event)] = stage.sent()[..] else {
        panic!("one frame with both");
    };
    assert_eq!(command, CommandSeq(stage.command));
    assert!(matches!(event.state, AttemptState::Finished(_)));
    stage.nothing_else();
    assert!(
        due(&stage).0 > stage.now.0 + WITHIN_US,
        "nothing is left to be said"
    );
}

#[test]
fn that_a_command_was_taken_is_said_in_time_when_nothing_becomes_of_it() {
    let mut stage = stage();
    let order = stage.order(Directive::Cordon);
    stage.frame(vec![order]);
    stage.nothing_else();
    stage.after(WITHIN_US - 1);
    stage.spoken(&[]);
    stage.nothing_else();
    stage.after(1);
    stage.spoken(&[]);
    assert_eq!(stage.sent_one(), UpMessage::Ack(CommandSeq(stage.command)));
    stage.nothing_else();
}

#[test]
fn ends_collect_while_others_wait_for_the_slot() {
    let mut stage = stage();
    let jobs = (1..=4).map(|n| stage.job(n, "copy")).collect();
    stage.frame(jobs);
    let begun = stage.now;
    assert!(matches!(stage.next(), Speech::Start { .. }));
    for attempt in 1..=2 {
        stage.after(1_000);
        ends(&mut stage, attempt);
        assert!(
            matches!(stage.next(), Speech::Start { .. }),
            "the slot waits for no frame"
        );
        stage.nothing_else();
    }
    assert_eq!(
        due(&stage),
        Micros(begun.0 + WITHIN_US),
        "counted from the first of them"
    );
    let held = &stage.agent.durable().attempts[0];
    assert_eq!(
        held.event_seq,
        EventSeq(0),
        "an end has no number before it is said"
    );
    // The last one takes the slot: from now on upstream knows what to do with it.
    stage.after(1_000);
    ends(&mut stage, 3);
    assert!(matches!(stage.next(), Speech::Start { .. }));
    let said = stage.sent();
    let ends = said
        .iter()
        .filter(|said| matches!(said, UpMessage::Event(_)));
    assert_eq!((said.len(), ends.count()), (4, 3));
    stage.nothing_else();
}

#[test]
fn who_leaves_says_everything_first() {
    let mut stage = stage();
    let jobs = (1..=3).map(|n| stage.job(n, "copy")).collect();
    stage.frame(jobs);
    ends(&mut stage, 1);
    stage.said.clear();
    stage.spoken(&[crate::event::Event::Site(crate::event::Site::Stop)]);
    let said = stage.sent();
    assert!(
        said.iter().any(|said| matches!(said, UpMessage::Event(_))),
        "{said:?}"
    );
}
