//! What a person gave up while its agent had not told yet, after a restore: when its success is still its task's.

use super::*;

fn refused() -> Outcome {
    Outcome::Refused(outpost_proto::outcome::Refusal::Full)
}

fn reruns(rig: &mut Rig, run: RunId) -> Vec<Assign> {
    let stored = rig.mirror.stored_run(&name("acme"), run).map(Box::new);
    let tasks = None;
    let (answer, said) = rig.ask_in("acme", Ask::Rerun { run, tasks, stored });
    assert!(matches!(answer, Ok(Answer::Rerun { .. })), "{answer:?}");
    assigns(&said)
}

fn goes_on(rig: &mut Rig) {
    rig.ask(Ask::Continue { by: "0123".into() }).unwrap();
}

/// What its agent remembers comes; whether the task was over with it, and whether that was kept beside.
fn succeeds(rig: &mut Rig, bank: &mut Site, run: RunId, assign: &Assign) -> bool {
    let item = bank.item(assign, finished(), 0);
    bank.connect(rig, vec![item]);
    assert!(rig.attempt(assign.attempt).late.is_some(), "kept beside");
    rig.task_state(run, 0) == TaskState::Succeeded
}

#[test]
fn what_a_person_asked_to_be_run_again_is_run_again() {
    let (mut rig, mut bank, mut shop, run, assign) = ended_after_the_backup(0);
    said_to_be_over(&mut rig, assign.attempt);
    assert_eq!(rig.run_state(run), RunState::Failed);
    assert_eq!(reruns(&mut rig, run), [], "new work waits");
    assert!(!succeeds(&mut rig, &mut bank, run, &assign));
    let made = assigns(&shop.connect(&mut rig, vec![]));
    assert_eq!(made.len(), 1);
}

#[test]
fn what_has_failed_for_good_meanwhile_stays_so() {
    let (mut rig, mut bank, _, run, assign) = ended_after_the_backup(0);
    said_to_be_over(&mut rig, assign.attempt);
    assert!(!succeeds(&mut rig, &mut bank, run, &assign));
    assert_eq!(rig.run_state(run), RunState::Failed);
}

#[test]
fn once_a_person_went_on_its_success_comes_too_late() {
    let (mut rig, mut bank, _, run, assign) = ended_after_the_backup(1);
    said_to_be_over(&mut rig, assign.attempt);
    goes_on(&mut rig);
    assert!(!succeeds(&mut rig, &mut bank, run, &assign));
}

#[test]
fn an_end_after_its_agents_inventory_comes_too_late() {
    let (mut rig, mut bank, mut shop, run, assign) = ended_after_the_backup(1);
    said_to_be_over(&mut rig, assign.attempt);
    let item = bank.item(&assign, AttemptState::Running, 1);
    let said = bank.connect(&mut rig, vec![item]);
    assert!(directives(&said).contains(&Directive::Cancel(assign.attempt)));
    assert!(recovery(&mut rig).recovering, "another was not heard");
    bank.event_seq = 5;
    bank.ends(&mut rig, assign.attempt, Outcome::Succeeded);
    assert_ne!(rig.task_state(run, 0), TaskState::Succeeded);
    let mut made = assigns(&shop.connect(&mut rig, vec![]));
    made.extend(assigns(&rig.pass_ms(5_000)));
    assert_eq!(made.len(), 1);
}

/// An attempt that a person gave up before the backup, the first of its run or, `rerun`, one of before; another one was
/// tried at another agent since, and refused.
fn given_up_before_the_backup(rerun: bool) -> (Rig, Site, RunId, Assign) {
    let mut rig = Rig::new();
    let mut bank = rig.site("bank");
    let mut spec = workflow("w", vec![task("a", "once", &[])]);
    spec.tasks[0].retry.retries = u16::from(!rerun);
    rig.apply(spec);
    let (run, said) = rig.trigger("w");
    let assign = assigns(&said).remove(0);
    bank.tells(&mut rig, assign.attempt, AttemptState::Running);
    rig.turn(&[bank.close()]);
    rig.pass_ms(60_000);
    let mut shop = rig.site("shop");
    said_to_be_over(&mut rig, assign.attempt);
    let mut made = assigns(&shop.beats(&mut rig));
    if rerun {
        made.extend(reruns(&mut rig, run));
    } else {
        made.extend(assigns(&rig.pass_ms(5_000)));
    }
    assert_eq!(made.len(), 1);
    shop.ends(&mut rig, made[0].attempt, refused());
    let task = &rig.mirror.tasks[&(run, TaskIndex(0))];
    let expected = (u16::from(!rerun), 1);
    assert_eq!((task.spent, task.requeued), expected, "{:?}", task.state);
    let backup = rig.mirror.clone();
    rig.pass_ms(1);
    restore(&mut rig, &backup);
    (rig, bank, run, assign)
}

#[test]
fn what_was_given_up_before_the_backup_is_not_needed_twice_either() {
    let (mut rig, mut bank, run, assign) = given_up_before_the_backup(false);
    assert!(succeeds(&mut rig, &mut bank, run, &assign));
}

#[test]
fn a_try_of_before_a_rerun_is_not_the_one_that_was_asked_for() {
    let (mut rig, mut bank, run, assign) = given_up_before_the_backup(true);
    assert!(!succeeds(&mut rig, &mut bank, run, &assign));
}

#[test]
fn of_a_run_that_was_run_again_the_present_try_counts() {
    let mut rig = Rig::new();
    let mut bank = rig.site("bank");
    let mut spec = workflow("w", vec![task("a", "once", &[])]);
    spec.tasks[0].retry.retries = 1;
    rig.apply(spec);
    let (run, said) = rig.trigger("w");
    let mut made = assigns(&said);
    while let Some(assign) = made.pop() {
        let mut said = bank.ends(&mut rig, assign.attempt, Outcome::Failed);
        said.extend(rig.pass_ms(5_000));
        said.extend(bank.beats(&mut rig));
        made.extend(assigns(&said));
    }
    assert_eq!(rig.run_state(run), RunState::Failed);
    let assign = reruns(&mut rig, run).remove(0);
    bank.tells(&mut rig, assign.attempt, AttemptState::Running);
    rig.site("shop");
    let backup = rig.mirror.clone();
    restore(&mut rig, &backup);
    rig.pass_ms(1);
    said_to_be_over(&mut rig, assign.attempt);
    assert!(succeeds(&mut rig, &mut bank, run, &assign));
}
