//! Cancelling: at once what never left, on the agent's word what did.

use super::*;

fn cancel(rig: &mut Rig, run: RunId) -> (Result<Answer, Denied>, Vec<Speech>) {
    rig.ask_in("acme", Ask::Cancel { run })
}

#[test]
fn what_runs_is_cancelled_when_its_agent_says_so_and_the_rest_at_once() {
    let mut rig = Rig::new();
    let mut site = rig.site("bank");
    rig.apply(workflow(
        "w",
        vec![task("a", "once", &[]), task("b", "once", &[0])],
    ));
    let (run, said) = rig.trigger("w");
    let attempt = assigns(&said)[0].attempt;
    let (answer, said) = cancel(&mut rig, run);
    assert_eq!(
        answer,
        Ok(Answer::Cancelled {
            state: RunState::Cancelling,
            pending: 1
        })
    );
    assert_eq!(directives(&said), [Directive::Cancel(attempt)]);
    assert_eq!(rig.task_state(run, 1), TaskState::Cancelled);
    assert!(matches!(rig.task_state(run, 0), TaskState::Active { .. }));

    let (again, said) = cancel(&mut rig, run);
    assert_eq!(
        (again, said),
        (
            Ok(Answer::Cancelled {
                state: RunState::Cancelling,
                pending: 1
            }),
            vec![]
        )
    );
    assert_eq!(
        site.ends(&mut rig, attempt, Outcome::Cancelled),
        [site.ack(1)]
    );
    assert_eq!(rig.run_state(run), RunState::Cancelled);
    assert_eq!(cancel(&mut rig, run).0, Err(Denied::UnknownRun(run)));
}

#[test]
fn an_end_that_came_first_is_kept_as_it_was() {
    for (outcome, task, state) in [
        (
            Outcome::Succeeded,
            TaskState::Succeeded,
            RunState::Succeeded,
        ),
        (
            Outcome::Failed,
            TaskState::Failed {
                outcome: Outcome::Failed,
            },
            RunState::Cancelled,
        ),
    ] {
        let mut rig = Rig::new();
        let mut site = rig.site("bank");
        let mut spec = super::task("a", "once", &[]);
        spec.retry.retries = 3;
        rig.apply(workflow("w", vec![spec]));
        let (run, said) = rig.trigger("w");
        cancel(&mut rig, run).0.unwrap();
        site.ends(&mut rig, assigns(&said)[0].attempt, outcome);
        assert_eq!(
            (rig.task_state(run, 0), rig.run_state(run)),
            (task, state),
            "no further attempt is made"
        );
    }
}

#[test]
fn a_cancel_waits_for_an_agent_that_is_out_of_touch() {
    let mut rig = Rig::new();
    let mut site = rig.site("bank");
    rig.apply(workflow("w", vec![task("a", "once", &[])]));
    let (run, said) = rig.trigger("w");
    let assign = assigns(&said).remove(0);
    site.tells(&mut rig, assign.attempt, AttemptState::Running);
    rig.turn(&[site.close()]);
    let (answer, said) = cancel(&mut rig, run);
    assert_eq!(
        answer,
        Ok(Answer::Cancelled {
            state: RunState::Cancelling,
            pending: 1
        })
    );
    assert_eq!(said, []);
    rig.pass_ms(24 * 3_600_000);
    assert_eq!(
        rig.run_state(run),
        RunState::Cancelling,
        "never cancelled before the agent says so"
    );
    let item = site.item(&assign, AttemptState::Running, 1);
    let said = site.connect(&mut rig, vec![item]);
    assert_eq!(
        directives(&said),
        [Directive::Cancel(assign.attempt), Directive::Reconciled]
    );
}

#[test]
fn what_never_arrived_is_cancelled_as_soon_as_that_is_known() {
    let mut rig = Rig::new();
    let mut site = rig.site("bank");
    rig.apply(workflow("w", vec![task("a", "once", &[])]));
    let (run, _) = rig.trigger("w");
    rig.turn(&[site.close()]);
    cancel(&mut rig, run).0.unwrap();
    let said = site.connect(&mut rig, vec![]);
    assert_eq!(
        (assigns(&said), directives(&said)),
        (vec![], vec![Directive::Reconciled])
    );
    assert_eq!(rig.run_state(run), RunState::Cancelled);

    // The same while it waits to be sent again.
    let (run, _) = rig.trigger("w");
    rig.turn(&[site.close()]);
    site.flags.paused = true;
    assert_eq!(assigns(&site.connect(&mut rig, vec![])), []);
    let (answer, said) = cancel(&mut rig, run);
    assert_eq!(
        (answer, said),
        (
            Ok(Answer::Cancelled {
                state: RunState::Cancelled,
                pending: 0
            }),
            vec![]
        )
    );
}

#[test]
fn a_run_that_was_never_placed_is_over_at_once() {
    let mut rig = Rig::new();
    rig.apply(workflow(
        "w",
        vec![task("a", "once", &[]), task("b", "once", &[0])],
    ));
    let (run, _) = rig.trigger("w");
    assert_eq!(
        cancel(&mut rig, run).0,
        Ok(Answer::Cancelled {
            state: RunState::Cancelled,
            pending: 0
        })
    );
    assert_eq!(rig.core.durable().runs, []);
}

#[test]
fn an_attempt_whose_end_nobody_knows_does_not_hold_up_a_cancel() {
    let mut rig = Rig::new();
    let mut site = rig.site("bank");
    rig.apply(workflow("w", vec![task("a", "once", &[])]));
    let (run, said) = rig.trigger("w");
    let attempt = assigns(&said)[0].attempt;
    site.reboots(&mut rig, vec![]);
    assert_eq!(
        cancel(&mut rig, run).0,
        Ok(Answer::Cancelled {
            state: RunState::Cancelled,
            pending: 0
        })
    );
    assert_eq!(
        rig.phase(attempt),
        Phase::Lost {
            may_have_started: true
        },
        "and it is not called cancelled"
    );
}

#[test]
fn what_its_agent_refuses_of_a_run_that_is_being_cancelled_is_not_tried_again() {
    let mut rig = Rig::new();
    let mut site = rig.site("bank");
    let mut spec = task("a", "once", &[]);
    spec.retry.retries = 3;
    rig.apply(workflow("w", vec![spec]));
    let (run, said) = rig.trigger("w");
    cancel(&mut rig, run).0.unwrap();
    let refused = Outcome::Refused(outpost_proto::outcome::Refusal::Full);
    site.ends(&mut rig, assigns(&said)[0].attempt, refused);
    assert_eq!(
        (rig.task_state(run, 0), rig.run_state(run)),
        (TaskState::Cancelled, RunState::Cancelled)
    );
}
