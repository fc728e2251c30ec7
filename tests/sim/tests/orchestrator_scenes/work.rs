//! What follows from the end of an attempt: success, another try, a pause, or the end of its task.

use std::collections::BTreeSet;

use outpost_orchestrator_core::Settings;
use outpost_orchestrator_core::event::{Answer, Ask, Denied};
use outpost_orchestrator_core::record::{Phase, RunState, TaskState};
use outpost_orchestrator_core::spec::{Retry, TaskSpec};
use outpost_proto::ids::{AttemptId, RunId};
use outpost_proto::message::{Assign, AttemptState, Directive};
use outpost_proto::outcome::{Interruption, Outcome, Refusal, Report};
use outpost_sim::stage::{Hand, SECOND, Stage, assigned, report, task};

use crate::common::*;

/// A hand `a` that was sent the one task of a run, of this entry.
pub(crate) fn sent(entry: &str) -> (Stage, Hand, RunId, Assign) {
    given(Settings::default(), task("t", entry, &[]))
}

/// The same with these retries.
pub(crate) fn runs(entry: &str, retry: Retry) -> (Stage, Hand, RunId, Assign) {
    runs_with(Settings::default(), entry, retry)
}

pub(crate) fn runs_with(
    settings: Settings,
    entry: &str,
    retry: Retry,
) -> (Stage, Hand, RunId, Assign) {
    let mut spec = task("t", entry, &[]);
    spec.retry = retry;
    given(settings, spec)
}

fn given(settings: Settings, spec: TaskSpec) -> (Stage, Hand, RunId, Assign) {
    let mut scene = Stage::with(settings);
    let mut a = scene.hand("a");
    a.connects(&mut scene, vec![]);
    scene.apply(vec![spec]);
    let run = scene.trigger();
    let sent = assigned(&a.hears(&mut scene))[0].clone();
    (scene, a, run, sent)
}

pub(crate) const ONCE_MORE: Retry = Retry {
    retries: 1,
    delay_ms: 1000,
    max_delay_ms: 1000,
};

pub(crate) fn cancel(scene: &mut Stage, run: RunId) {
    assert!(scene.ask(Ask::Cancel { run }).is_ok());
}

pub(crate) fn dead(
    scene: &mut Stage,
    attempt: AttemptId,
    reason: &str,
) -> Result<TaskState, Denied> {
    let (by, reason) = ("somebody".to_owned(), reason.to_owned());
    match scene.ask(Ask::AssertDead {
        attempt,
        by,
        reason,
    })? {
        Answer::AssertedDead { task } => Ok(task),
        other => panic!("{other:?}"),
    }
}

/// The next attempt that a hand is sent, when it is.
pub(crate) fn next(scene: &mut Stage, a: &mut Hand, seconds: u64) -> Option<(u64, Assign)> {
    let began = scene.now();
    for at in 0..seconds * 10 {
        scene.pass_ms(100);
        if at % 50 == 0 {
            let beat = a.beat();
            let said = a.says(scene, vec![beat]);
            if let Some(assign) = assigned(&said).pop() {
                return Some(((scene.now() - began) / 1000, assign));
            }
        }
        if let Some(assign) = assigned(&a.hears(scene)).pop() {
            return Some(((scene.now() - began) / 1000, assign));
        }
    }
    None
}

#[test]
fn every_outcome_ends_a_task_spends_a_try_or_puts_it_back() {
    let refused = |why| {
        matches!(
            why,
            Refusal::UnknownEntry
                | Refusal::BadParameters
                | Refusal::NotApproved
                | Refusal::Unsupported
        )
    };
    for entry in ["load", "pay"] {
        for outcome in Outcome::all() {
            let (mut scene, mut a, run, sent) = runs(entry, ONCE_MORE);
            a.ends(&mut scene, sent.attempt, outcome);
            let lost = Outcome::Interrupted(Interruption::AgentStateLost);
            let unsure = entry == "pay" && outcome == lost;
            let record = scene.task(run, 0);
            match outcome {
                Outcome::Succeeded => assert_eq!(record.state, TaskState::Succeeded),
                Outcome::Cancelled => assert_eq!(record.state, TaskState::Cancelled),
                Outcome::Refused(why) if refused(why) => {
                    assert_eq!(record.state, TaskState::Failed { outcome });
                }
                Outcome::Refused(Refusal::Rate | Refusal::TimeWindow) => {
                    assert_eq!((record.untimely, record.requeued, record.spent), (1, 0, 0));
                }
                Outcome::Refused(_) => {
                    assert_eq!((record.untimely, record.requeued, record.spent), (0, 1, 0));
                }
                _ if unsure => assert_eq!(record.state, TaskState::Failed { outcome }),
                _ => assert_eq!((record.requeued, record.spent), (0, 1), "{outcome:?}"),
            }
            assert_eq!(record.unsure, unsure, "{entry} {outcome:?}");
            let over = matches!(
                record.state,
                TaskState::Succeeded | TaskState::Cancelled | TaskState::Failed { .. }
            );
            assert_eq!(
                next(&mut scene, &mut a, 8).is_some(),
                !over,
                "{entry} {outcome:?}"
            );
            assert_eq!(
                scene.attempt(sent.attempt).phase,
                Phase::Finished {
                    report: report(outcome)
                }
            );
        }
    }
}

#[test]
fn what_surely_never_started_is_tried_again_whoever_lost_track_of_it() {
    let (mut scene, mut a, run, sent) = runs("pay", ONCE_MORE);
    let never = Report {
        may_have_started: false,
        ..report(Outcome::Interrupted(Interruption::AgentStateLost))
    };
    a.tells(&mut scene, sent.attempt, AttemptState::Finished(never));
    assert!(!scene.task(run, 0).unsure);
    assert!(next(&mut scene, &mut a, 8).is_some());
}

#[test]
fn a_run_that_is_cancelled_tries_nothing_again() {
    let lost = Outcome::Interrupted(Interruption::AgentStateLost);
    for (outcome, state_then) in [
        (Outcome::Succeeded, TaskState::Succeeded),
        (Outcome::Cancelled, TaskState::Cancelled),
        (
            Outcome::Failed,
            TaskState::Failed {
                outcome: Outcome::Failed,
            },
        ),
        (lost, TaskState::Failed { outcome: lost }),
        (Outcome::Refused(Refusal::Full), TaskState::Cancelled),
        (Outcome::Refused(Refusal::Draining), TaskState::Cancelled),
    ] {
        let (mut scene, mut a, run, sent) = runs("load", ONCE_MORE);
        cancel(&mut scene, run);
        assert_eq!(
            directives(&a.hears(&mut scene)),
            [Directive::Cancel(sent.attempt)]
        );
        cancel(&mut scene, run);
        assert!(a.hears(&mut scene).is_empty(), "it was asked to");
        assert_eq!(scene.run(run).state, RunState::Cancelling);
        a.ends(&mut scene, sent.attempt, outcome);
        assert_eq!(state(&scene, run, 0), state_then);
        assert!(scene.run(run).finished_at.is_some());
        assert!(next(&mut scene, &mut a, 8).is_none());
    }
    // Nor does silence.
    let (mut scene, a, run, sent) = runs("load", ONCE_MORE);
    cancel(&mut scene, run);
    a.hangs_up(&mut scene);
    scene.pass(700);
    assert!(matches!(
        scene.attempt(sent.attempt).phase,
        Phase::Lost { .. }
    ));
    assert_eq!(state(&scene, run, 0), TaskState::Cancelled);
    assert!(scene.run(run).finished_at.is_some());
}

#[test]
fn a_task_is_tried_as_often_as_it_says() {
    for retries in [0, 1, 3] {
        let retry = Retry {
            retries,
            delay_ms: 100,
            max_delay_ms: 100,
        };
        let (mut scene, mut a, run, mut sent) = runs("load", retry);
        for _ in 0..retries {
            a.ends(&mut scene, sent.attempt, Outcome::Failed);
            sent = next(&mut scene, &mut a, 8)
                .unwrap_or_else(|| panic!("{retries}"))
                .1;
        }
        a.ends(&mut scene, sent.attempt, Outcome::Failed);
        assert_eq!(
            state(&scene, run, 0),
            TaskState::Failed {
                outcome: Outcome::Failed
            }
        );
        assert_eq!(scene.run(run).state, RunState::Failed);
        assert_eq!(scene.attempts(run, 0).len(), usize::from(retries) + 1);
    }
}

#[test]
fn pauses_double_up_to_their_longest_and_are_drawn() {
    // The longest after each end: a second, two, four, and never more than five.
    let bounds = [1_000, 2_000, 4_000, 5_000, 5_000];
    let mut longest = [0; 5];
    for _ in 0..2 {
        let retry = Retry {
            retries: 40,
            delay_ms: 1000,
            max_delay_ms: 5000,
        };
        let mut scene = Stage::new();
        let mut a = scene.hand("a");
        a.slots = 64;
        a.connects(&mut scene, vec![]);
        let tasks = (0..12).map(|n| {
            let mut task = task(&format!("t{n}"), "load", &[]);
            task.retry = retry;
            task
        });
        scene.apply(tasks.collect());
        let run = scene.trigger();
        for nth in 0..5 {
            for sent in assigned(&a.hears(&mut scene)) {
                a.ends(&mut scene, sent.attempt, Outcome::Failed);
                let now = scene.now();
                let pause = match state(&scene, run, sent.task.0) {
                    TaskState::Backoff { until, last } => {
                        assert_eq!(last, Outcome::Failed);
                        (until - now) / 1000
                    }
                    _ => 0,
                };
                assert!(pause <= bounds[nth], "{pause} ms after the {nth}th end");
                longest[nth] = longest[nth].max(pause);
            }
            scene.pass_ms(bounds[nth]);
        }
    }
    for (longest, bound) in longest.iter().zip(bounds) {
        assert!(*longest > bound * 3 / 5, "{longest} of {bound}");
    }
}

#[test]
fn what_is_put_back_pauses_for_seconds_and_not_more_than_a_hundred_times() {
    let (mut scene, mut a, run, mut sent) = runs("load", ONCE_MORE);
    let full = Outcome::Refused(Refusal::Full);
    let mut pauses = BTreeSet::new();
    for nth in 1..=100 {
        a.ends(&mut scene, sent.attempt, full);
        let TaskState::Backoff { until, last } = state(&scene, run, 0) else {
            panic!("{nth}")
        };
        assert_eq!((last, scene.task(run, 0).requeued), (full, nth));
        pauses.insert((until - scene.now()) / SECOND);
        sent = next(&mut scene, &mut a, 8)
            .unwrap_or_else(|| panic!("{nth}"))
            .1;
    }
    assert_eq!(pauses, BTreeSet::from([1, 2, 3, 4]), "one to five seconds");
    a.ends(&mut scene, sent.attempt, full);
    assert_eq!(state(&scene, run, 0), TaskState::Failed { outcome: full });
}

#[test]
fn what_a_drained_agent_gives_back_goes_elsewhere_at_once() {
    for drained in [true, false] {
        let (mut scene, mut a, run, sent) = runs("load", ONCE_MORE);
        let mut b = scene.hand("b");
        b.connects(&mut scene, vec![]);
        drain(&mut scene, "a", drained);
        a.hears(&mut scene);
        a.ends(
            &mut scene,
            sent.attempt,
            Outcome::Refused(Refusal::Draining),
        );
        assert_eq!(assigned(&b.hears(&mut scene)).len(), usize::from(drained));
        let paused = matches!(state(&scene, run, 0), TaskState::Backoff { .. });
        assert_eq!(paused, !drained);
    }
    // Of anything else a drained agent says, the pause is as always.
    let (mut scene, mut a, run, sent) = runs("load", ONCE_MORE);
    drain(&mut scene, "a", true);
    a.ends(&mut scene, sent.attempt, Outcome::Refused(Refusal::Full));
    assert!(matches!(state(&scene, run, 0), TaskState::Backoff { .. }));
}
