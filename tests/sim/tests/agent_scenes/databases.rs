//! Lives of the orchestrator's database: one that went back in time is held against, one that was restored is obeyed.

use outpost_agent_core::Trouble;
use outpost_agent_core::event::Alarm;
use outpost_proto::ids::{AttemptId, CommandSeq, EventSeq, Nonce, RecoveryEpoch};
use outpost_proto::message::{AttemptState, Directive, Welcome};
use outpost_proto::outcome::{Outcome, Refusal};
use outpost_sim::scene::Host;

use crate::part::*;

fn host() -> Host {
    Host::new("site", 2, &["moment", "hour"])
}

/// An outcome waits for its acknowledgement, number 2; the stream is gone.
fn waiting() -> Part {
    let mut part = Part::ready(host());
    part.gives("hour", &[1]);
    part.ends(1, Outcome::Succeeded);
    assert_eq!(part.events().last().map(|told| told.0), Some(2));
    part.scene.cut(0);
    part.scene.run(millis(1));
    part.page();
    part
}

fn life(counter: u32, database: u64) -> Welcome {
    Welcome {
        recovery: RecoveryEpoch { counter, database },
        ..welcome()
    }
}

/// What an agent in hold does: nothing new, nothing lost, and it says so.
fn holds(part: &mut Part) {
    assert!(part.view().flags.hold);
    part.page();
    part.tell(&[durable(2)]);
    part.commands(Directive::Forget(AttemptId(1)));
    part.gives("hour", &[2]);
    assert!(
        part.held(1).is_some(),
        "an older database's word deletes nothing"
    );
    assert_eq!(part.state(2), Some(refusal(Refusal::Hold)));
    assert_eq!(part.refused()[0].1, Refusal::Hold);
    part.goes_on(seconds(10));
    assert!(part.beat().is_some_and(|beat| beat.flags.hold));
    assert!(part.phase().is_some());
}

#[test]
fn an_older_or_another_life_is_alarmed_of_and_held_against() {
    for older in [life(0, 77), life(1, 78), life(0, 78)] {
        let mut part = waiting();
        part.hello();
        part.welcomes(older);
        assert_eq!(part.alarms(), [Alarm::WentBack]);
        assert_eq!(
            part.scene.journal(0).session.recovery,
            Some(LIFE),
            "the one that is obeyed"
        );
        part.reconciles();
        holds(&mut part);
    }
}

#[test]
fn the_same_life_and_a_newer_one_are_no_alarm() {
    for (welcome, epoch) in [(welcome(), LIFE), (life(2, 99), life(2, 99).recovery)] {
        let mut part = waiting();
        part.hello();
        let told = items(&part.welcomes(welcome));
        assert_eq!(told.len(), 1);
        if epoch != LIFE {
            part.command = 0;
        }
        part.reconciles();
        assert_eq!(part.alarms(), []);
        let session = part.scene.journal(0).session;
        assert_eq!((session.recovery, session.hold), (Some(epoch), None));
        assert_eq!(session.command_seq, CommandSeq(part.command));
        part.gives("hour", &[2]);
        assert_eq!(part.begun(), [(2, None)]);
        part.tell(&[durable(2)]);
        assert_eq!(part.held(1), None);
    }
}

#[test]
fn a_database_copied_back_is_known_by_its_first_command() {
    let mut part = waiting();
    part.hello();
    part.welcomes(welcome());
    let obeyed = part.command;
    part.command = obeyed - 1;
    part.reconciles();
    assert_eq!(part.alarms(), [Alarm::WentBack]);
    holds(&mut part);
    let session = part.scene.journal(0).session;
    assert_eq!(
        session.command_seq,
        CommandSeq(obeyed),
        "of the one it held against it obeys none"
    );
    // It does not get out of it by counting on, nor by knowing more.
    part.scene.cut(0);
    part.scene.run(millis(1));
    part.page();
    part.command = obeyed + 10;
    part.begins_as(Welcome {
        highest_event_seq: EventSeq(1),
        ..welcome()
    });
    assert!(part.view().flags.hold);
    // As far behind as before: that is known, and alarmed of once.
    part.scene.cut(0);
    part.scene.run(millis(1));
    part.page();
    part.command = obeyed - 1;
    part.begins();
    assert_eq!((part.alarms(), part.view().flags.hold), (vec![], true));
}

#[test]
fn the_first_number_after_the_last_one_obeyed_is_no_step_back() {
    let mut part = waiting();
    part.begins();
    assert_eq!((part.alarms(), part.view().flags.hold), (vec![], false));
}

#[test]
fn a_database_that_forgot_what_it_acknowledged_is_held_against() {
    for (highest, held) in [(1, true), (2, false), (3, false)] {
        let mut part = waiting();
        part.begins();
        part.tell(&[durable(2)]);
        assert_eq!(part.held(1), None);
        part.scene.cut(0);
        part.scene.run(millis(1));
        part.hello();
        part.welcomes(Welcome {
            highest_event_seq: EventSeq(highest),
            ..welcome()
        });
        assert_eq!(part.view().flags.hold, held, "{highest}");
        let alarms = if held { vec![Alarm::WentBack] } else { vec![] };
        assert_eq!(part.alarms(), alarms);
    }
}

#[test]
fn what_was_taken_before_a_hold_waits_for_its_end() {
    let mut part = Part::ready(host());
    part.gives("hour", &[1, 2, 3]);
    assert_eq!(part.begun(), [(1, None), (2, None)]);
    part.scene.cut(0);
    part.scene.run(millis(1));
    part.begins_as(life(0, 5));
    assert!(part.view().flags.hold);
    part.ends(1, Outcome::Succeeded);
    part.goes_on(seconds(30));
    assert_eq!(
        (part.begun().len(), part.state(3)),
        (2, Some(AttemptState::Assigned))
    );
    let trouble = part.view().trouble;
    assert_eq!(trouble, None, "told by the flag from then on");
    // The life that was known is back, or a restored one.
    part.scene.cut(0);
    part.scene.run(millis(1));
    part.begins();
    assert_eq!(part.begun().last(), Some(&(3, None)));
    assert!(!part.view().flags.hold);
}

#[test]
fn a_hold_survives_a_restart_and_a_restored_database_ends_it() {
    let mut part = waiting();
    part.begins_as(life(0, 5));
    part.scene.crash(0);
    part.hello();
    assert!(part.view().flags.hold);
    part.welcomes(life(0, 5));
    assert_eq!(part.view().trouble, Some(Trouble::Alarm(Alarm::WentBack)));
    part.reconciles();
    assert!(part.view().flags.hold);
    part.scene.cut(0);
    part.scene.run(millis(1));
    part.command = 0;
    part.begins_as(life(2, 9));
    assert!(!part.view().flags.hold);
    part.tell(&[durable(2)]);
    assert_eq!(part.held(1), None, "it is acknowledged");
    let session = part.scene.journal(0).session;
    assert_eq!(
        (session.command_seq, session.nonce),
        (CommandSeq(1), Nonce(11))
    );
    // A restored database may know fewer events than the one before it acknowledged.
    let mut part = waiting();
    part.begins();
    part.tell(&[durable(2)]);
    part.scene.cut(0);
    part.scene.run(millis(1));
    part.command = 0;
    part.page();
    part.begins_as(life(2, 9));
    part.scene.cut(0);
    part.scene.run(millis(1));
    part.begins_as(life(2, 9));
    assert_eq!((part.alarms(), part.view().flags.hold), (vec![], false));
}
