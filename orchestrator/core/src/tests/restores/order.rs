//! What is known of a task before it is known that what it needs is done: it is tried again in its turn only.

use super::*;

fn refused() -> Outcome {
    Outcome::Refused(outpost_proto::outcome::Refusal::Full)
}

/// After the restore the agent tells of the second task's attempt only; what became of the first one nobody knows.
fn second_known_first_not(retries: u16) -> (Rig, Site, RunId, AttemptId, AttemptId) {
    let mut rig = Rig::new();
    let mut bank = rig.site("bank");
    let mut spec = workflow("w", vec![task("a", "once", &[]), task("b", "once", &[0])]);
    spec.tasks[0].retry.retries = retries;
    rig.apply(spec);
    let (run, said) = rig.trigger("w");
    let first = assigns(&said).remove(0);
    bank.tells(&mut rig, first.attempt, AttemptState::Running);
    let backup = rig.mirror.clone();
    let said = bank.ends(&mut rig, first.attempt, Outcome::Succeeded);
    let second = assigns(&said).remove(0);
    restore(&mut rig, &backup);
    let item = bank.item(&second, AttemptState::Assigned, 0);
    bank.connect(&mut rig, vec![item]);
    let attempt = second.attempt;
    assert_eq!(rig.task_state(run, 1), TaskState::Active { attempt });
    (rig, bank, run, first.attempt, attempt)
}

#[test]
fn what_was_turned_away_waits_for_what_it_needs_to_succeed_in_this_life_too() {
    let (mut rig, mut bank, run, first, second) = second_known_first_not(1);
    let mut made = assigns(&bank.ends(&mut rig, second, refused()));
    made.extend(assigns(&rig.pass_ms(60_000)));
    assert_eq!(made, [], "nothing may run before what it needs is done");
    assert_eq!(rig.task_state(run, 1), TaskState::Waiting);
    said_to_be_over(&mut rig, first);
    let again = assigns(&bank.beats(&mut rig))
        .into_iter()
        .chain(assigns(&rig.pass_ms(5_000)));
    let again = again.collect::<Vec<_>>();
    assert_eq!(again.len(), 1, "{again:?}");
    assert_eq!(again[0].task, TaskIndex(0));
    let said = bank.ends(&mut rig, again[0].attempt, Outcome::Succeeded);
    assert_eq!(assigns(&said)[0].task, TaskIndex(1));
}

#[test]
fn what_was_turned_away_is_over_with_what_it_needs() {
    for first_is_over_first in [false, true] {
        let (mut rig, mut bank, run, first, second) = second_known_first_not(0);
        if first_is_over_first {
            said_to_be_over(&mut rig, first);
            assert_eq!(rig.run_state(run), RunState::Running, "the second is open");
        }
        bank.ends(&mut rig, second, refused());
        rig.pass_ms(60_000);
        if !first_is_over_first {
            said_to_be_over(&mut rig, first);
        }
        assert_eq!(rig.task_state(run, 1), TaskState::UpstreamFailed);
        assert_eq!(rig.run_state(run), RunState::Failed);
    }
}
