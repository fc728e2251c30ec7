//! The store: a commit that fails takes nothing back and loses nothing, a restart knows everything, and people are told of
//! every step.

use std::collections::BTreeMap;

use outpost_orchestrator_core::event::{Answer, Ask, CloseReason};
use outpost_orchestrator_core::limits::KEY_TTL_MS;
use outpost_orchestrator_core::record::{NoticeKind, Phase, RunState, TaskState};
use outpost_proto::ids::{AttemptId, Nonce, RunId};
use outpost_proto::message::AttemptState;
use outpost_proto::outcome::Outcome;
use outpost_sim::stage::{Hand, Stage, assigned, name, task};

use crate::common::*;

fn trigger(scene: &mut Stage, key: &str) -> (RunId, bool) {
    let ask = Ask::Trigger {
        workflow: name("flow"),
        params: BTreeMap::new(),
        key: Some(key.to_owned()),
    };
    match scene.ask(ask) {
        Ok(Answer::Triggered { run, created }) => (run, created),
        other => panic!("{other:?}"),
    }
}

#[test]
fn b4_whichever_commit_fails_each_task_runs_once_and_its_end_is_known() {
    // The commits of a session with two tasks, one after the other.
    for nth in 0..8 {
        for applied in [false, true] {
            let mut scene = Stage::new();
            scene.apply(vec![task("t", "pay", &[]), task("u", "pay", &[0])]);
            let b = scene.host("b");
            cordon(&mut scene, "b", true);
            scene.is_cut_off(b);
            let fails = |scene: &mut Stage, at: u32| {
                if at == nth {
                    scene.commit_fails(applied);
                }
            };
            let a = scene.host("a");
            let run = scene.trigger();
            fails(&mut scene, 0);
            scene.stops(a);
            fails(&mut scene, 1);
            scene.starts(a);
            scene.pass(40);
            for at in [2, 4] {
                fails(&mut scene, at);
                scene.all_end(a, Outcome::Succeeded);
                fails(&mut scene, at + 1);
                scene.pass(40);
            }
            fails(&mut scene, 6);
            scene.is_reachable(b);
            scene.pass(40);
            fails(&mut scene, 7);
            scene.pass(40);
            assert_eq!(scene.run(run).state, RunState::Succeeded, "{nth} {applied}");
            for task in 0..2 {
                assert_eq!(scene.attempts(run, task).len(), 1, "{nth} {applied}");
            }
            assert!(scene.agent("a").connected && scene.agent("b").connected);
            assert!(scene.alarms().is_empty() && scene.told().is_empty());
        }
    }
}

#[test]
fn b4_streams_outlive_a_commit_that_fails_unless_what_they_were_told_is_not_true_any_more() {
    for applied in [false, true] {
        let mut scene = Stage::new();
        let mut a = scene.hand("a");
        a.connects(&mut scene, vec![]);
        let mut idle = scene.hand("idle");
        idle.connects(&mut scene, vec![]);
        cordon(&mut scene, "idle", true);
        let mut opening = scene.hand("opening");
        opening.opens(&mut scene);
        let mut gone = scene.hand("gone");
        gone.connects(&mut scene, vec![]);
        cordon(&mut scene, "gone", true);
        scene.apply(vec![task("t", "load", &[])]);
        scene.commit_fails(applied);
        // Nobody hears of it: the assignment may be durable, and was not said.
        let ask = Ask::Trigger {
            workflow: name("flow"),
            params: BTreeMap::new(),
            key: None,
        };
        assert_eq!(scene.try_ask("acme", ask), None);
        scene.settles();
        let runs = scene.store().runs.len();
        assert_eq!(runs, usize::from(applied));
        scene.pass(1);
        let why = applied.then_some(CloseReason::Replaced);
        assert_eq!(scene.why_ended(a.conn), why, "{applied}");
        assert_eq!(scene.why_ended(idle.conn), None);
        idle.hears(&mut scene);
        assert_eq!(idle.beats(&mut scene).len(), 1, "it goes on as it was");
        let hello = opening.hello();
        assert_eq!(opening.says(&mut scene, vec![hello]).len(), 1);
        if applied {
            // It lacks what it was never sent: it is sent under the same number of attempts.
            let again = assigned(&a.connects(&mut scene, vec![]));
            assert_eq!(again.len(), 1);
        } else {
            a.beats(&mut scene);
            let run = scene.trigger();
            let sent = assigned(&a.hears(&mut scene));
            assert_eq!(scene.attempts(run, 0)[0].attempt, sent[0].attempt);
        }
    }
}

#[test]
fn b4_a_second_holder_stays_the_second_over_a_commit_that_fails() {
    for applied in [false, true] {
        let mut scene = Stage::new();
        let mut a = scene.hand("a");
        a.connects(&mut scene, vec![]);
        let mut copy = Hand {
            nonce: Nonce(5),
            ..a.clone()
        };
        assert!(copy.greets(&mut scene).is_some());
        scene.commit_fails(applied);
        a.tells(&mut scene, AttemptId(1), AttemptState::Running);
        scene.settles();
        assert_eq!(scene.agent("a").holders.len(), 2);
        assert_eq!(copy.beats(&mut scene).len(), 1, "{applied}");
        assert_eq!(scene.why_ended(copy.conn), None);
    }
}

#[test]
fn c2_a_restart_forgets_neither_that_a_workflow_is_paused_nor_which_key_made_which_run() {
    let mut scene = Stage::new();
    let mut a = scene.hand("a");
    a.connects(&mut scene, vec![]);
    scene.apply(vec![task("t", "load", &[])]);
    let paused = Ask::PauseWorkflow {
        workflow: name("flow"),
        paused: true,
    };
    assert!(scene.ask(paused).is_ok());
    let (run, created) = trigger(&mut scene, "once");
    assert!(created);
    scene.orchestrator_restarts();
    assert_eq!(trigger(&mut scene, "once"), (run, false));
    let Ok(Answer::Workflows(views)) = scene.ask(Ask::Workflows) else {
        panic!()
    };
    assert!(views[0].paused);
    // A key has served its time after two days, and not before.
    scene.pass_ms(KEY_TTL_MS - 1);
    assert_eq!(trigger(&mut scene, "once"), (run, false));
    scene.pass_ms(1);
    assert!(trigger(&mut scene, "once").1);
}

#[test]
fn people_are_told_of_every_step_once() {
    let mut scene = Stage::new();
    let mut a = scene.hand("a");
    a.connects(&mut scene, vec![]);
    scene.apply(vec![task("t", "load", &[])]);
    scene.notices();
    scene.trigger();
    let sent = assigned(&a.hears(&mut scene))[0].clone();
    a.tells(&mut scene, sent.attempt, AttemptState::Running);
    a.ends(&mut scene, sent.attempt, Outcome::Succeeded);
    let words: Vec<String> = scene
        .notices()
        .into_iter()
        .map(|notice| match notice {
            NoticeKind::Run { state, .. } => format!("run {state:?}"),
            NoticeKind::Task { state, .. } => match state {
                TaskState::Queued { .. } => "task queued".into(),
                TaskState::Active { .. } => "task active".into(),
                other => format!("task {other:?}"),
            },
            NoticeKind::Attempt { phase, .. } => match phase {
                Phase::Finished { .. } => "attempt finished".into(),
                other => format!("attempt {other:?}"),
            },
            other => format!("{other:?}"),
        })
        .collect();
    let once = |word: &str| words.iter().filter(|it| *it == word).count();
    for word in [
        "run Running",
        "task queued",
        "attempt Assigned",
        "task active",
        "attempt Running",
        "attempt finished",
        "task Succeeded",
        "run Succeeded",
    ] {
        assert_eq!(once(word), 1, "{word}: {words:?}");
    }
    assert_eq!(words.len(), 8, "{words:?}");
}
