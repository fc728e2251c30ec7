//! A database that was copied back without a word: any agent that saw more finds it out.

use outpost_orchestrator_core::event::Alarm;
use outpost_orchestrator_core::record::TaskState;
use outpost_proto::outcome::Outcome;
use outpost_sim::stage::{Stage, name, task};

use crate::common::*;

#[test]
fn b8_a_database_that_was_copied_back_is_found_out_by_any_agent_that_saw_more() {
    let mut scene = Stage::new();
    let a = scene.host("a");
    let b = scene.host_of("beta", "b", 2);
    scene.apply(vec![task("t", "pay", &[])]);
    let backup = scene.backup();
    scene.trigger();
    let attempt = scene.running(a)[0].attempt;
    scene.copy_back(&backup);
    scene.pass(40);
    assert_eq!(scene.told(), ["behind a"]);
    assert_eq!(scene.alarms(), [("a".to_owned(), Alarm::Behind)]);
    assert_eq!(scene.recovery().held_back, [name("a")]);
    assert!(scene.agent("a").held_back);
    assert!(
        scene.recovery_of("beta").held_back.is_empty(),
        "{b} saw nothing since"
    );
    assert_eq!(
        scene.running(a).len(),
        1,
        "what it runs, of a run nobody knows, goes on"
    );
    let waits = scene.trigger();
    scene.pass(20);
    assert!(
        matches!(state(&scene, waits, 0), TaskState::Queued { .. }),
        "it gets no work"
    );
    let why = scene.explain(waits);
    assert!(why.iter().any(|why| why.code == "hold"), "{why:?}");
    // Told once, however often it comes back.
    scene.is_cut_off(a);
    scene.is_reachable(a);
    scene.pass(40);
    scene.orchestrator_restarts();
    scene.pass(40);
    assert!(scene.told().is_empty());
    // A restore makes this database the true one.
    let now = scene.backup();
    scene.restore(&now);
    scene.until(40, |scene| !scene.recovery().recovering);
    scene.pass(20);
    assert!(!scene.agent("a").held_back && scene.recovery().held_back.is_empty());
    assert!(matches!(state(&scene, waits, 0), TaskState::Active { .. }));
    scene.ends(a, attempt, Outcome::Succeeded);
    assert_eq!(scene.running(a).len(), 1, "only what waited");
}

#[test]
fn b8_what_an_agent_saw_last_says_whether_the_database_went_back() {
    use outpost_proto::ids::{CommandSeq, RecoveryEpoch};
    let epoch = |counter, database| RecoveryEpoch { counter, database };
    let mut stage = Stage::new();
    let mut a = stage.hand("a");
    a.connects(&mut stage, vec![]);
    let mine = stage.record("a").command_seq.0;
    for (last, behind) in [
        (None, false),
        (Some((epoch(1, 1), CommandSeq(mine))), false),
        (Some((epoch(1, 1), CommandSeq(0))), false),
        (Some((epoch(1, 1), CommandSeq(mine + 1))), true),
        (Some((epoch(1, 2), CommandSeq(0))), true),
        (Some((epoch(2, 1), CommandSeq(0))), true),
        (Some((epoch(0, 9), CommandSeq(mine + 5))), false),
    ] {
        let mut scene = Stage::new();
        let mut a = scene.hand("a");
        a.connects(&mut scene, vec![]);
        a.hangs_up(&mut scene);
        a.last = last;
        assert!(a.greets(&mut scene).is_some());
        let told: Vec<String> = if behind {
            vec!["behind a".into()]
        } else {
            vec![]
        };
        assert_eq!(scene.told(), told, "{last:?}");
        assert_eq!(scene.agent("a").held_back, behind, "{last:?}");
    }
}

#[test]
fn b8_an_agent_that_renewed_since_the_copy_was_made_is_itself_and_saw_more() {
    use outpost_proto::ids::{CommandSeq, RecoveryEpoch};
    for alone in [true, false] {
        let mut scene = Stage::new();
        let mut a = scene.hand("a");
        a.connects(&mut scene, vec![]);
        let backup = scene.backup();
        assert!(scene.renew("a", ("key-a-0", "n1"), Some(a.conn)).is_ok());
        let former = a.clone();
        a.key = "n1".into();
        a.not_after += 1000;
        a.connects(&mut scene, vec![]);
        scene.copy_back(&backup);
        let epoch = RecoveryEpoch {
            counter: 1,
            database: 1,
        };
        a.last = Some((epoch, CommandSeq(50)));
        if !alone {
            let mut older = former.clone();
            older.connects(&mut scene, vec![]);
        }
        assert!(a.greets(&mut scene).is_some());
        let told = if alone { "behind a" } else { "quarantined a" };
        assert_eq!(scene.told(), [told]);
    }
}
