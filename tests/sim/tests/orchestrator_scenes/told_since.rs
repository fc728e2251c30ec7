//! Where an attempt belongs that only an agent knows of, which fences follow from it, what an agent may have forgotten, and
//! what a person gave up meanwhile.

use outpost_orchestrator_core::event::Ask;
use outpost_orchestrator_core::record::{Phase, TaskState};
use outpost_proto::ids::{AttemptId, EventSeq, RunId, TaskIndex};
use outpost_proto::message::{AttemptState, InventoryItem};
use outpost_proto::outcome::Outcome;
use outpost_sim::stage::{DAY, Hand, Stage, assigned, name, task};

use crate::common::*;
use crate::work::sent;

/// A run of two tasks at a hand `a`: the first over as it says, the second running. And its restored database.
fn half_done(first: Outcome) -> (Stage, Hand, RunId, u64) {
    let mut scene = Stage::new();
    let mut a = scene.hand("a");
    a.connects(&mut scene, vec![]);
    let mut spec = [task("first", "load", &[]), task("second", "load", &[])];
    spec[0].retry.retries = 0;
    scene.apply(spec.to_vec());
    let run = scene.trigger();
    let said = assigned(&a.hears(&mut scene));
    let second = said
        .iter()
        .find(|assign| assign.task == TaskIndex(1))
        .unwrap_or(&said[0])
        .clone();
    let done = said
        .iter()
        .find(|assign| assign.task == TaskIndex(0))
        .unwrap_or(&said[0])
        .clone();
    a.ends(&mut scene, done.attempt, first);
    a.tells(&mut scene, second.attempt, AttemptState::Running);
    let next = scene.store().tenants[&name("acme")].next_fence.0;
    let backup = scene.backup();
    scene.pass(1);
    scene.restore(&backup);
    (scene, a, run, next)
}

#[test]
fn b7_an_attempt_that_is_told_takes_the_place_of_what_it_came_after() {
    for (task, first, state_told, takes) in [
        // An open task's, whatever the attempt is at.
        (1, Outcome::Succeeded, AttemptState::Running, true),
        (1, Outcome::Succeeded, SUCCEEDED, true),
        // What is over is over.
        (0, Outcome::Succeeded, AttemptState::Running, false),
        (0, Outcome::Failed, AttemptState::Running, false),
    ] {
        let (mut scene, mut a, run, next) = half_done(first);
        let before = state(&scene, run, task);
        let known = scene.attempts(run, 1)[0].clone();
        let told = unknown(run, task, next + 1, state_told, 7);
        let held = InventoryItem {
            attempt: known.attempt,
            fence: known.fence,
            event_seq: EventSeq(0),
            ..unknown(run, 1, 0, AttemptState::Running, 0)
        };
        a.event_seq = 7;
        a.connects(&mut scene, vec![held, told]);
        assert!(scene.attempt(told.attempt).recovered, "{task} {first:?}");
        let after = state(&scene, run, task);
        let expected = match (takes, state_told) {
            (false, _) => before,
            (true, AttemptState::Finished(_)) => TaskState::Succeeded,
            (true, _) => TaskState::Active {
                attempt: told.attempt,
            },
        };
        assert_eq!(after, expected, "{task} {first:?} {state_told:?}");
        assert_eq!(scene.task(run, task).attempts, 2);
        assert!(scene.alarms().is_empty());
    }
}

#[test]
fn b7_a_fence_that_nobody_can_have_given_out_takes_no_place() {
    let (mut scene, mut a, run, _) = half_done(Outcome::Succeeded);
    let known = scene.attempts(run, 1)[0].clone();
    let held = InventoryItem {
        attempt: known.attempt,
        fence: known.fence,
        ..unknown(run, 1, 0, AttemptState::Running, 0)
    };
    let told = unknown(run, 1, 1 << 47, AttemptState::Running, 7);
    a.connects(&mut scene, vec![held, told]);
    assert_eq!(
        state(&scene, run, 1),
        TaskState::Active {
            attempt: known.attempt
        }
    );
    assert!(
        scene.attempt(told.attempt).recovered,
        "people see it all the same"
    );
}

#[test]
fn b7_fences_go_on_above_all_that_agents_tell_of_as_far_as_a_clock_can_be_wrong() {
    let began = |scene: &Stage| {
        scene.store().tenants[&name("acme")]
            .began
            .map_or(0, |began| began.0)
    };
    let next = |scene: &Stage| scene.store().tenants[&name("acme")].next_fence.0;
    let leap = 1_u64 << 32;
    for (above, held, followed) in [
        (5, false, true),
        (5, true, true),
        (leap - 1, false, true),
        (leap, false, false),
        (leap + 5, true, false),
    ] {
        let (mut scene, mut a, _, _) = half_done(Outcome::Succeeded);
        let began = began(&scene);
        assert_eq!(next(&scene), began);
        let seconds = scene.now() / 1_000_000;
        assert_eq!(
            began,
            seconds << 16,
            "each life begins with the second of its restore"
        );
        let run = if held {
            scene
                .store()
                .runs
                .keys()
                .next()
                .copied()
                .unwrap_or(RunId(1))
        } else {
            RunId(9)
        };
        let event = u64::from(held) * 7;
        let told = unknown(run, 1, began + above, SUCCEEDED, event);
        a.event_seq = event;
        a.connects(&mut scene, vec![told]);
        let expected = if followed { began + above + 1 } else { began };
        assert_eq!(next(&scene), expected, "{above} {held}");
        // Also that one is durable, and the next task's fence is above it.
        scene.orchestrator_restarts();
        a.connects(&mut scene, vec![]);
        let run = scene.trigger();
        assert!(scene.attempts(run, 0)[0].fence.0 >= expected);
    }
    // Who was not waited for moves nothing.
    let (mut scene, mut a, _, _) = half_done(Outcome::Succeeded);
    a.connects(&mut scene, vec![]);
    let began = next(&scene);
    a.connects(
        &mut scene,
        vec![unknown(RunId(9), 1, began + 50, SUCCEEDED, 0)],
    );
    assert_eq!(next(&scene), began);
}

#[test]
fn b7_what_a_backup_says_was_assigned_is_sent_again_unless_its_agent_may_have_forgotten_it() {
    let thirty = 30 * DAY * 1000;
    for (age_ms, remembers, sent) in [
        (0, 0, true),
        (thirty, 0, true),
        (thirty + 1, 0, false),
        (25 * DAY * 1000, 0, true),
    ] {
        let (mut scene, mut a, run, attempt) = assigned_and_restored(age_ms);
        let again = is_sent_again(&mut scene, &mut a, attempt, remembers);
        assert_eq!(again, sent, "{age_ms} ms old");
        let lost = matches!(scene.attempt(attempt).phase, Phase::Lost { .. });
        assert_eq!(lost, !sent, "{age_ms} ms old");
        assert_eq!(
            scene.attempts(run, 0).len(),
            1,
            "its entry is not safe to run again"
        );
    }
}

/// Whether an attempt comes once more to a hand that remembers so many others.
fn is_sent_again(scene: &mut Stage, a: &mut Hand, attempt: AttemptId, remembers: u64) -> bool {
    let memories = (0..remembers)
        .map(|n| unknown(RunId(9), 0, n, SUCCEEDED, 0))
        .collect();
    let said = a.connects(scene, memories);
    assigned(&said)
        .iter()
        .any(|assign| assign.attempt == attempt)
}

/// An attempt that a hand `a` was sent and never answered for, and a backup of that so many milliseconds later.
fn assigned_and_restored(age_ms: u64) -> (Stage, Hand, RunId, AttemptId) {
    let (mut scene, a, run, assign) = sent("pay");
    let attempt = assign.attempt;
    let backup = scene.backup();
    scene.orchestrator_stops();
    scene.pass_ms(age_ms);
    scene.restore(&backup);
    (scene, a, run, attempt)
}

#[test]
fn b7_an_agent_whose_memory_is_full_may_have_forgotten_and_one_that_tells_more_is_not_honest() {
    for (many, sent, alarms) in [(199_999, true, 0), (200_000, false, 0), (200_001, false, 1)] {
        let (mut scene, mut a, _, attempt) = assigned_and_restored(1000);
        let again = is_sent_again(&mut scene, &mut a, attempt, many);
        assert_eq!(again, sent, "{many}");
        let lost = matches!(scene.attempt(attempt).phase, Phase::Lost { .. });
        assert_eq!(lost, !sent && alarms == 0, "{many}");
        assert_eq!(scene.alarms().len(), alarms, "{many}");
    }
}

/// Somebody says that an attempt is over whose agent, a real one, is not back after a restore.
fn given_up(scene: &mut Stage) -> (usize, RunId, AttemptId) {
    let b = scene.host("b");
    let mut spec = task("t", "pay", &[]);
    spec.retry.delay_ms = 1;
    spec.retry.max_delay_ms = 1;
    scene.apply(vec![spec]);
    let run = scene.trigger();
    let attempt = scene.running(b)[0].attempt;
    let backup = scene.backup();
    scene.restore_down(&backup);
    scene.is_cut_off(b);
    scene.orchestrator_comes_up();
    scene.pass(60);
    assert_eq!(says_over(scene, attempt), Ok(()));
    scene.pass(1);
    assert!(matches!(state(scene, run, 0), TaskState::Queued { .. }));
    assert_eq!(scene.task(run, 0).spent, 1);
    (b, run, attempt)
}

#[test]
fn b7_what_a_person_gave_up_and_its_agent_tells_succeeded_is_not_run_again() {
    for (outcome, again) in [(Outcome::Succeeded, false), (Outcome::Failed, true)] {
        let mut scene = Stage::new();
        let (b, run, attempt) = given_up(&mut scene);
        scene.ends(b, attempt, outcome);
        scene.is_reachable(b);
        scene.until(40, |scene| !scene.recovery().recovering);
        scene.pass(1);
        assert_eq!(
            scene.attempt(attempt).late.map(|late| late.outcome),
            Some(outcome)
        );
        assert_eq!(scene.attempts(run, 0).len(), if again { 2 } else { 1 });
        let over = state(&scene, run, 0) == TaskState::Succeeded;
        assert_eq!(over, !again);
    }
}

#[test]
fn b7_once_a_person_went_on_what_was_given_up_is_run_again() {
    let mut scene = Stage::new();
    let (b, run, attempt) = given_up(&mut scene);
    let a = scene.host("a");
    cordon(&mut scene, "a", true);
    assert_eq!(go_on(&mut scene), Ok(()));
    scene.ends(b, attempt, Outcome::Succeeded);
    cordon(&mut scene, "b", true);
    scene.is_reachable(b);
    scene.until(40, |scene| awaited(scene).is_empty());
    assert!(
        matches!(state(&scene, run, 0), TaskState::Queued { .. }),
        "as a person said"
    );
    cordon(&mut scene, "a", false);
    assert_eq!(scene.running(a).len(), 1);
}

#[test]
fn b7_the_end_of_what_was_given_up_in_ordinary_times_is_only_kept_beside() {
    let mut scene = Stage::new();
    let b = scene.host("b");
    scene.apply(vec![task("t", "pay", &[])]);
    let run = scene.trigger();
    let attempt = scene.running(b)[0].attempt;
    scene.is_cut_off(b);
    scene.pass(60);
    assert_eq!(says_over(&mut scene, attempt), Ok(()));
    scene.pass(5);
    scene.ends(b, attempt, Outcome::Succeeded);
    cordon(&mut scene, "b", true);
    scene.is_reachable(b);
    scene.until(40, |scene| scene.agent("b").connected);
    scene.pass(1);
    assert!(scene.attempt(attempt).late.is_some());
    assert!(matches!(state(&scene, run, 0), TaskState::Queued { .. }));
}

#[test]
fn b7_what_a_person_gave_up_of_an_entry_that_is_safe_to_run_again_is_not_run_again_either() {
    let mut scene = Stage::new();
    let b = scene.host("b");
    scene.apply(vec![task("t", "load", &[])]);
    let run = scene.trigger();
    let attempt = scene.running(b)[0].attempt;
    let backup = scene.backup();
    scene.restore_down(&backup);
    scene.is_cut_off(b);
    scene.orchestrator_comes_up();
    scene.pass(100);
    assert_eq!(says_over(&mut scene, attempt), Ok(()));
    scene.pass(10);
    let task = scene.task(run, 0);
    assert_eq!(
        (task.spent, task.requeued),
        (0, 1),
        "put back, and no try spent"
    );
    scene.ends(b, attempt, Outcome::Succeeded);
    scene.is_reachable(b);
    scene.until(40, |scene| !scene.recovery().recovering);
    scene.pass(1);
    assert_eq!(state(&scene, run, 0), TaskState::Succeeded);
    assert_eq!(scene.attempts(run, 0).len(), 1);
}

/// A run of which a person asked that it be run again, before or after the backup; and what was given up of it when.
fn run_again(before_backup: bool, given_up_before: bool) -> (Stage, usize, RunId, AttemptId) {
    let mut scene = Stage::new();
    let b = scene.host("b");
    let mut spec = task("t", "pay", &[]);
    spec.retry.retries = u16::from(before_backup);
    (spec.retry.delay_ms, spec.retry.max_delay_ms) = (1, 1);
    scene.apply(vec![spec]);
    let run = scene.trigger();
    let rerun = |scene: &mut Stage| {
        let stored = scene.store().stored_run(&name("acme"), run).map(Box::new);
        let again = Ask::Rerun {
            run,
            tasks: None,
            stored,
        };
        assert!(scene.ask(again).is_ok());
    };
    if before_backup {
        scene.all_end(
            b,
            Outcome::Refused(outpost_proto::outcome::Refusal::UnknownEntry),
        );
        rerun(&mut scene);
    }
    let attempt = scene.running(b)[0].attempt;
    if given_up_before {
        scene.is_cut_off(b);
        scene.pass(60);
        cordon(&mut scene, "b", true);
        assert_eq!(says_over(&mut scene, attempt), Ok(()));
        scene.pass(1);
    }
    let backup = scene.backup();
    scene.pass(1);
    scene.restore_down(&backup);
    scene.is_cut_off(b);
    scene.orchestrator_comes_up();
    scene.pass(60);
    if !given_up_before {
        assert_eq!(says_over(&mut scene, attempt), Ok(()));
        scene.pass(1);
    }
    if !before_backup {
        rerun(&mut scene);
    }
    assert!(matches!(state(&scene, run, 0), TaskState::Queued { .. }));
    (scene, b, run, attempt)
}

#[test]
fn b7_after_a_person_asked_for_another_try_the_success_of_an_earlier_one_counts_only_if_it_is_that()
{
    for (before_backup, given_up_before, counts) in [
        (true, false, true),
        (true, true, false),
        (false, false, false),
    ] {
        let (mut scene, b, run, attempt) = run_again(before_backup, given_up_before);
        scene.ends(b, attempt, Outcome::Succeeded);
        cordon(&mut scene, "b", true);
        scene.is_reachable(b);
        scene.until(40, |scene| !scene.recovery().recovering);
        scene.pass(1);
        let over = state(&scene, run, 0) == TaskState::Succeeded;
        assert_eq!(over, counts, "{before_backup} {given_up_before}");
    }
}
