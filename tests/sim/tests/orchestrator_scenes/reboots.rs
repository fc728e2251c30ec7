//! What an agent says of a life before its present one, which its copy on another machine would say as well: when that is
//! believed, and what becomes of it once a person decided between the two.

use outpost_orchestrator_core::record::{Phase, RunState, TaskState};
use outpost_orchestrator_core::standing::Keep;
use outpost_proto::ids::{Incarnation, Nonce};
use outpost_proto::message::{AttemptState, Directive};
use outpost_proto::outcome::{Interruption, Outcome};
use outpost_sim::stage::{Hand, Stage, item, report, task};

use crate::common::*;
use crate::copies::resolve;
use crate::work::sent;

// --- real agents

#[test]
fn i15_a_copied_machine_that_comes_first_takes_nothing_from_the_original() {
    for keep in [Keep::This, Keep::That] {
        let mut scene = Stage::new();
        let a = scene.host("a");
        scene.apply(vec![task("t", "load", &[])]);
        let run = scene.trigger();
        let attempt = scene.running(a)[0].attempt;
        let copy = scene.copy(a);
        // The original is cut off for a moment, and the copy presents the nonce that is expected.
        scene.is_cut_off(a);
        scene.starts(copy);
        scene.pass(2);
        assert!(scene.told().is_empty(), "nobody can know yet");
        assert_eq!(
            state(&scene, run, 0),
            TaskState::Active { attempt },
            "and it is not believed"
        );
        scene.is_reachable(a);
        scene.until(35, |scene| !scene.recovery().quarantined.is_empty());
        scene.pass(100);
        assert_eq!(state(&scene, run, 0), TaskState::Active { attempt });
        assert_eq!(scene.attempts(run, 0).len(), 1);
        assert_eq!(resolve(&mut scene, "a", keep), Ok(()));
        match keep {
            // The original, which appeared second.
            Keep::That => {
                scene.pass(35);
                scene.ends(a, attempt, Outcome::Succeeded);
                scene.pass(1);
                assert_eq!(scene.run(run).state, RunState::Succeeded);
                assert_eq!(scene.attempts(run, 0).len(), 1, "it ran once");
            }
            Keep::This => {
                scene.pass(100);
                assert!(matches!(scene.attempt(attempt).phase, Phase::Lost { .. }));
                assert_eq!(
                    scene.running(copy).len(),
                    1,
                    "its entry is safe to run again"
                );
            }
        }
    }
}

// --- reboots

#[test]
fn c6_a_reboot_is_believed_once_nobody_else_can_be_the_agent() {
    for (off_s, believed_after_s) in [(60, 0), (10, 40)] {
        let mut scene = Stage::new();
        let a = scene.host("a");
        scene.apply(vec![task("t", "pay", &[])]);
        let run = scene.trigger();
        let attempt = scene.running(a)[0].attempt;
        scene.reboots(a, off_s);
        scene.until(35, |scene| scene.agent("a").connected);
        let waits = |scene: &mut Stage| state(scene, run, 0) == TaskState::Active { attempt };
        assert_eq!(waits(&mut scene), believed_after_s > 0, "off for {off_s} s");
        if believed_after_s > 0 {
            scene.pass(38);
            assert!(waits(&mut scene));
            scene.pass(3);
        }
        assert!(!waits(&mut scene));
        let ended = scene.attempt(attempt).phase;
        let Phase::Finished { report } = ended else {
            panic!("{ended:?}")
        };
        assert_eq!(report.outcome, Outcome::Interrupted(Interruption::Reboot));
        scene.pass(10);
        assert_eq!(scene.attempts(run, 0).len(), 2, "it is known to be over");
    }
}

#[test]
fn c6_a_doubt_outlives_a_restart_of_the_orchestrator_and_begins_anew_with_it() {
    let mut scene = Stage::new();
    let a = scene.host("a");
    scene.apply(vec![task("t", "pay", &[])]);
    let run = scene.trigger();
    let attempt = scene.running(a)[0].attempt;
    scene.reboots(a, 5);
    scene.until(35, |scene| scene.agent("a").connected);
    scene.pass(30);
    scene.orchestrator_restarts();
    scene.pass(39);
    assert_eq!(state(&scene, run, 0), TaskState::Active { attempt });
    scene.pass(2);
    assert_ne!(state(&scene, run, 0), TaskState::Active { attempt });
}

#[test]
fn c6_what_is_told_of_its_present_life_is_knowledge_at_once() {
    let (mut scene, mut a, run, first) = sent("load");
    a.incarnation = Incarnation(8);
    // Of the former one a real end is believed, too: it saw that itself.
    let over = AttemptState::Finished(report(Outcome::Failed));
    a.connects(&mut scene, vec![item(&first, over, 1)]);
    a.event_seq = 1;
    assert!(matches!(
        scene.attempt(first.attempt).phase,
        Phase::Finished { .. }
    ));
    a.lives(&mut scene, 10);
    let second = scene.attempts(run, 0)[1].clone();
    a.ends(
        &mut scene,
        second.attempt,
        Outcome::Interrupted(Interruption::SidecarRestart),
    );
    assert!(matches!(
        scene.attempt(second.attempt).phase,
        Phase::Finished { .. }
    ));
}

#[test]
fn c6_i15_what_is_told_between_two_holders_waits_for_the_decision() {
    for (keep, told_twice) in [(Keep::This, false), (Keep::This, true), (Keep::That, false)] {
        let (mut scene, mut a, run, sent) = sent("pay");
        a.tells(&mut scene, sent.attempt, AttemptState::Running);
        let mut copy = Hand {
            nonce: Nonce(5),
            incarnation: Incarnation(80),
            ..a.clone()
        };
        assert!(copy.greets(&mut scene).is_some());
        // The known one reboots: what it ran is interrupted.
        a.hangs_up(&mut scene);
        scene.pass(60);
        a.incarnation = Incarnation(8);
        let over = AttemptState::Finished(report(Outcome::Interrupted(Interruption::Reboot)));
        let said = a.connects(&mut scene, vec![item(&sent, over, a.event_seq + 1)]);
        assert!(directives(&said).contains(&Directive::Forget(sent.attempt)));
        a.event_seq += 1;
        assert_eq!(
            state(&scene, run, 0),
            TaskState::Active {
                attempt: sent.attempt
            }
        );
        if told_twice {
            let other = report(Outcome::Interrupted(Interruption::AgentStateLost));
            a.tells(&mut scene, sent.attempt, AttemptState::Finished(other));
        }
        assert_eq!(resolve(&mut scene, "a", keep), Ok(()));
        if keep == Keep::That {
            copy.connects(&mut scene, vec![]);
            scene.pass(60);
            assert!(
                matches!(scene.attempt(sent.attempt).phase, Phase::Lost { .. }),
                "it lacks it"
            );
            continue;
        }
        a.connects(&mut scene, vec![]);
        a.lives(&mut scene, 30);
        assert_eq!(
            state(&scene, run, 0),
            TaskState::Active {
                attempt: sent.attempt
            }
        );
        a.lives(&mut scene, 20);
        let phase = scene.attempt(sent.attempt).phase;
        let Phase::Finished { report } = phase else {
            panic!("{phase:?}")
        };
        assert_eq!(
            report.outcome,
            Outcome::Interrupted(Interruption::Reboot),
            "the first word"
        );
    }
}

#[test]
fn c6_i15_of_a_life_that_the_other_holder_had_too_nothing_is_believed() {
    let (mut scene, mut a, run, sent) = sent("pay");
    a.tells(&mut scene, sent.attempt, AttemptState::Running);
    // A copy in the same life: what was told of that life may be the copy's to end.
    let mut copy = Hand {
        nonce: Nonce(5),
        ..a.clone()
    };
    assert!(copy.greets(&mut scene).is_some());
    a.incarnation = Incarnation(8);
    let over = AttemptState::Finished(report(Outcome::Interrupted(Interruption::Reboot)));
    a.connects(&mut scene, vec![item(&sent, over, 5)]);
    assert_eq!(resolve(&mut scene, "a", Keep::This), Ok(()));
    a.connects(&mut scene, vec![]);
    a.lives(&mut scene, 60);
    assert!(matches!(
        scene.attempt(sent.attempt).phase,
        Phase::Lost { .. }
    ));
    assert_eq!(
        state(&scene, run, 0),
        TaskState::Active {
            attempt: sent.attempt
        },
        "nobody knows, and it is not safe to run again"
    );
}

#[test]
fn c6_of_what_no_task_waits_for_a_new_life_is_believed_at_once() {
    let (mut scene, mut a, _, sent) = sent("load");
    a.tells(&mut scene, sent.attempt, AttemptState::Running);
    // It lacks it: the task goes on elsewhere.
    a.connects(&mut scene, vec![]);
    a.incarnation = Incarnation(8);
    let over = AttemptState::Finished(report(Outcome::Interrupted(Interruption::Reboot)));
    a.connects(&mut scene, vec![item(&sent, over, 5)]);
    let late = scene.attempt(sent.attempt).late.map(|late| late.outcome);
    assert_eq!(late, Some(Outcome::Interrupted(Interruption::Reboot)));
}

#[test]
fn b7_what_another_attempt_took_the_place_of_is_not_doubted_any_more() {
    let (mut scene, mut a, run, sent) = sent("load");
    let backup = scene.backup();
    scene.pass(1);
    scene.restore(&backup);
    a.incarnation = Incarnation(8);
    let over = AttemptState::Finished(report(Outcome::Interrupted(Interruption::Reboot)));
    let newer = unknown(run, 0, sent.fence.0 + 5, AttemptState::Running, 6);
    a.connects(&mut scene, vec![item(&sent, over, 5), newer]);
    assert_eq!(
        state(&scene, run, 0),
        TaskState::Active {
            attempt: newer.attempt
        }
    );
    assert!(matches!(
        scene.attempt(sent.attempt).phase,
        Phase::Finished { .. }
    ));
}
