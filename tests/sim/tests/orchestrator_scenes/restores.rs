//! A backup takes the database's place: what the agents know of the time it lacks comes first, nothing that finished runs
//! again, and people are told whom the orchestrator waits for.

use outpost_orchestrator_core::event::{Ask, Denied};
use outpost_orchestrator_core::record::{Phase, RunState, TaskState};
use outpost_proto::ids::{AttemptId, RunId};
use outpost_proto::message::{AttemptState, Directive};
use outpost_proto::outcome::Outcome;
use outpost_sim::stage::{Stage, name, task};

use crate::common::*;

#[test]
fn b7_what_finished_since_the_backup_is_not_run_again_and_what_runs_goes_on() {
    let mut scene = Stage::new();
    let a = scene.host("a");
    scene.apply(vec![
        task("begun", "pay", &[]),
        task("next", "pay", &[0]),
        task("last", "pay", &[1]),
    ]);
    let run = scene.trigger();
    let backup = scene.backup();
    scene.all_end(a, Outcome::Succeeded);
    scene.all_end(a, Outcome::Succeeded);
    let last = scene.running(a)[0].clone();
    scene.told();
    scene.restore(&backup);
    let view = scene.recovery();
    assert!(view.recovering && view.restored_at == Some(scene.now()) && view.counter == 2);
    assert_eq!(awaited(&mut scene), ["a"]);
    scene.until(40, |scene| !scene.recovery().recovering);
    assert!(awaited(&mut scene).is_empty());
    assert_eq!(scene.told(), ["recovered"]);
    assert_eq!(state(&scene, run, 0), TaskState::Succeeded);
    assert_eq!(state(&scene, run, 1), TaskState::Succeeded);
    assert_eq!(
        state(&scene, run, 2),
        TaskState::Active {
            attempt: last.attempt
        }
    );
    let taken_in = scene.attempt(last.attempt);
    assert!(taken_in.recovered && taken_in.phase == Phase::Running && taken_in.fence == last.fence);
    assert_eq!(scene.task(run, 2).attempts, 1);
    scene.ends(a, last.attempt, Outcome::Succeeded);
    assert_eq!(scene.run(run).state, RunState::Succeeded);
    assert!(
        (0..3).all(|task| scene.attempts(run, task).len() == 1),
        "each ran once"
    );
    assert!(scene.alarms().is_empty());
    let record = scene.record("a");
    assert_eq!((record.standing.reported, record.standing.met), (2, 2));
}

#[test]
fn b7_what_the_backup_knew_to_be_over_is_not_taken_in_again() {
    let mut scene = Stage::new();
    let a = scene.host("a");
    scene.apply(vec![task("done", "pay", &[]), task("on", "pay", &[0])]);
    let run = scene.trigger();
    scene.all_end(a, Outcome::Succeeded);
    let backup = scene.backup();
    scene.restore(&backup);
    scene.until(40, |scene| !scene.recovery().recovering);
    assert_eq!(scene.task(run, 0).attempts, 1);
    assert!(
        scene
            .attempts(run, 0)
            .iter()
            .all(|attempt| !attempt.recovered)
    );
    scene.all_end(a, Outcome::Succeeded);
    assert_eq!(scene.run(run).state, RunState::Succeeded);
    assert_eq!(scene.attempts(run, 1).len(), 1);
}

#[test]
fn b7_of_runs_that_the_backup_lacks_what_lives_goes_on_and_its_end_is_let_go_of() {
    let mut scene = Stage::new();
    let mut a = scene.hand("a");
    a.connects(&mut scene, vec![]);
    let backup = scene.backup();
    scene.restore(&backup);
    let run = RunId(77);
    let states = [
        AttemptState::Assigned,
        AttemptState::Starting,
        AttemptState::Running,
        SUCCEEDED,
    ];
    let items: Vec<_> = (0..4)
        .map(|n| unknown(run, 0, 5 + n, states[n as usize], n + 1))
        .collect();
    a.event_seq = 9;
    let said = a.connects(&mut scene, items.clone());
    let ids: Vec<AttemptId> = items.iter().map(|item| item.attempt).collect();
    assert_eq!(
        directives(&said),
        [
            Directive::Forget(ids[0]),
            Directive::Keep(ids[1]),
            Directive::Keep(ids[2]),
            Directive::Forget(ids[3]),
            Directive::Reconciled,
        ]
    );
    assert!(directives(&a.tells(&mut scene, ids[1], AttemptState::Running)).is_empty());
    let forget = [Directive::Forget(ids[1])];
    assert_eq!(directives(&a.tells(&mut scene, ids[1], SUCCEEDED)), forget);
    assert_eq!(
        directives(&a.tells(&mut scene, ids[1], AttemptState::Running)),
        forget
    );
    // The other one goes on over a restart, too.
    scene.orchestrator_restarts();
    let said = a.connects(&mut scene, vec![items[1], items[2]]);
    let [Directive::Forget(_), Directive::Keep(kept), ..] = directives(&said)[..] else {
        panic!("{said:?}")
    };
    assert_eq!(kept, ids[2]);
    assert!(scene.store().attempts.is_empty() && scene.alarms().is_empty());
}

#[test]
fn b7_nothing_new_begins_and_nothing_is_given_up_before_every_agent_has_told() {
    let mut scene = Stage::new();
    let (a, b) = (scene.host("a"), scene.host("b"));
    let c = scene.host("c");
    scene.apply(vec![task("t", "load", &[])]);
    let runs: Vec<RunId> = (0..3).map(|_| scene.trigger()).collect();
    for host in [a, b, c] {
        assert_eq!(scene.running(host).len(), 1);
    }
    let backup = scene.backup();
    scene.restore_down(&backup);
    scene.is_cut_off(c);
    scene.orchestrator_comes_up();
    scene.pass(40);
    assert_eq!(awaited(&mut scene), ["c"]);
    let waits = scene.trigger();
    assert!(matches!(state(&scene, waits, 0), TaskState::Queued { .. }));
    let why = scene.explain(waits);
    assert!(why.iter().any(|why| why.reason.contains('c')), "{why:?}");
    // Somebody else vanishes meanwhile, and stays away for long.
    scene.is_cut_off(b);
    scene.pass(1200);
    assert_eq!(scene.given_up("b") + scene.given_up("c"), 0);
    assert!(matches!(state(&scene, waits, 0), TaskState::Queued { .. }));
    scene.told();
    scene.is_reachable(c);
    scene.until(40, |scene| !scene.recovery().recovering);
    assert_eq!(scene.told(), ["recovered"]);
    scene.pass(2);
    assert!(matches!(state(&scene, waits, 0), TaskState::Active { .. }));
    assert_eq!(
        scene.given_up("b"),
        1,
        "its silence means what it always does"
    );
    assert_eq!(go_on(&mut scene), Err(Denied::NothingAwaited));
    drop(runs);
}

#[test]
fn b7_a_person_may_go_on_without_those_that_are_not_back_and_is_asked_again_after_the_next_restore()
{
    let mut scene = Stage::new();
    let (a, b) = (scene.host("a"), scene.host("b"));
    scene.apply(vec![task("t", "load", &[])]);
    let backup = scene.backup();
    assert_eq!(go_on(&mut scene), Err(Denied::NothingAwaited));
    for _ in 0..2 {
        scene.restore_down(&backup);
        scene.is_cut_off(b);
        scene.orchestrator_comes_up();
        scene.pass(40);
        let run = scene.trigger();
        assert!(matches!(state(&scene, run, 0), TaskState::Queued { .. }));
        assert_eq!(go_on(&mut scene), Ok(()));
        assert_eq!(scene.told(), ["continued by somebody: 1 not heard: b"]);
        assert!(!scene.recovery().recovering);
        assert_eq!(awaited(&mut scene), ["b"]);
        assert_eq!(go_on(&mut scene), Err(Denied::NothingAwaited));
        assert!(matches!(state(&scene, run, 0), TaskState::Active { .. }));
        scene.orchestrator_restarts();
        assert!(!scene.recovery().recovering, "it was said once and for all");
        scene.pass(40);
        scene.all_end(a, Outcome::Succeeded);
    }
    scene.told();
    scene.is_reachable(b);
    scene.until(40, |scene| awaited(scene).is_empty());
    assert!(scene.told().is_empty(), "nobody waited for it any more");
}

#[test]
fn b7_who_is_removed_is_not_waited_for() {
    let mut scene = Stage::new();
    let hosts = [scene.host("a"), scene.host("b"), scene.host("c")];
    assert!(scene.ask(Ask::RemoveAgent { agent: name("c") }).is_ok());
    let backup = scene.backup();
    scene.restore_down(&backup);
    scene.is_cut_off(hosts[1]);
    scene.orchestrator_comes_up();
    assert_eq!(awaited(&mut scene), ["a", "b"]);
    scene.pass(40);
    scene.told();
    assert!(scene.ask(Ask::RemoveAgent { agent: name("b") }).is_ok());
    assert!(!scene.recovery().recovering);
    assert_eq!(scene.told(), ["recovered"]);
}

#[test]
fn b7_who_comes_late_with_what_was_begun_elsewhere_meanwhile_is_kept_beside() {
    let mut scene = Stage::new();
    let (a, b) = (scene.host("a"), scene.host("b"));
    cordon(&mut scene, "a", true);
    cordon(&mut scene, "b", true);
    scene.apply(vec![task("t", "load", &[])]);
    let run = scene.trigger();
    let backup = scene.backup();
    cordon(&mut scene, "b", false);
    let lost = scene.running(b)[0].clone();
    scene.restore_down(&backup);
    scene.is_cut_off(b);
    scene.orchestrator_comes_up();
    cordon(&mut scene, "a", false);
    scene.pass(40);
    assert_eq!(go_on(&mut scene), Ok(()));
    let present = scene.running(a)[0].clone();
    assert!(present.fence > lost.fence, "its lock is the newer one's");
    scene.is_reachable(b);
    scene.until(40, |scene| awaited(scene).is_empty());
    assert!(scene.attempt(lost.attempt).recovered);
    assert_eq!(
        state(&scene, run, 0),
        TaskState::Active {
            attempt: present.attempt
        }
    );
    assert_eq!(scene.task(run, 0).attempts, 2, "people see both");
    // Its end changes nothing; the present one's decides.
    scene.ends(b, lost.attempt, Outcome::Failed);
    assert_eq!(
        state(&scene, run, 0),
        TaskState::Active {
            attempt: present.attempt
        }
    );
    scene.ends(a, present.attempt, Outcome::Succeeded);
    assert_eq!(scene.run(run).state, RunState::Succeeded);
}
