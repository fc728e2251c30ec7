//! A person's word that an attempt is over.

use super::*;

fn dead(rig: &mut Rig, attempt: AttemptId) -> Result<Answer, Denied> {
    rig.ask(Ask::AssertDead {
        attempt,
        by: "0123".into(),
        reason: "the machine burnt down".into(),
    })
}

fn silent(retries: u16) -> (Rig, Site, RunId, Assign) {
    let mut rig = Rig::new();
    let mut site = rig.site("bank");
    let mut spec = workflow("w", vec![task("a", "once", &[])]);
    spec.tasks[0].retry.retries = retries;
    rig.apply(spec);
    let (run, said) = rig.trigger("w");
    let assign = assigns(&said).remove(0);
    site.tells(&mut rig, assign.attempt, AttemptState::Running);
    (rig, site, run, assign)
}

#[test]
fn a_persons_word_frees_the_task_and_is_kept() {
    let (mut rig, site, run, assign) = silent(1);
    assert!(matches!(
        dead(&mut rig, assign.attempt),
        Err(Denied::InTouch { .. })
    ));
    rig.turn(&[site.close()]);
    rig.pass_ms(3_600_000);
    assert_eq!(
        rig.phase(assign.attempt),
        Phase::Running,
        "nobody else gives it up"
    );
    let mut other = rig.site("shop");
    let answer = dead(&mut rig, assign.attempt);
    assert!(
        matches!(answer, Ok(Answer::AssertedDead { .. })),
        "{answer:?}"
    );
    let record = rig.attempt(assign.attempt);
    assert!(matches!(
        record.phase,
        Phase::Lost {
            may_have_started: true
        }
    ));
    let asserted = record.asserted.as_ref().unwrap();
    assert_eq!(
        (asserted.by.as_str(), asserted.reason.as_str()),
        ("0123", "the machine burnt down")
    );
    let said = rig.pass_ms(5_000);
    let next = assigns(&said);
    assert_eq!(next.len(), 1, "its retries go on, elsewhere");
    other.ends(&mut rig, next[0].attempt, Outcome::Succeeded);
    assert_eq!(rig.run_state(run), RunState::Succeeded);
    let mut site = site;
    site.connect(&mut rig, vec![]);
    site.ends(&mut rig, assign.attempt, Outcome::Failed);
    assert_eq!(
        rig.attempt(assign.attempt).late.map(|late| late.outcome),
        Some(Outcome::Failed),
        "what it says later is kept beside"
    );
    assert_eq!(rig.run_state(run), RunState::Succeeded);
}

#[test]
fn without_retries_the_task_fails_and_unknown_attempts_are_denied() {
    let (mut rig, site, run, assign) = silent(0);
    rig.turn(&[site.close()]);
    rig.pass_ms(60_000);
    dead(&mut rig, assign.attempt).unwrap();
    assert_eq!(rig.run_state(run), RunState::Failed);
    assert!(
        dead(&mut rig, assign.attempt).is_ok(),
        "said twice is said once"
    );
    let unknown = AttemptId(5);
    assert_eq!(
        dead(&mut rig, unknown),
        Err(Denied::UnknownAttempt(unknown))
    );
}

#[test]
fn what_ended_because_its_agent_lost_its_state_is_over_and_nothing_is_left_to_say() {
    let unknown = Outcome::Interrupted(outpost_proto::outcome::Interruption::AgentStateLost);
    let (mut rig, mut site, run, assign) = silent(3);
    site.ends(&mut rig, assign.attempt, unknown);
    assert_eq!(rig.run_state(run), RunState::Failed, "never tried again");
    rig.turn(&[site.close()]);
    rig.pass_ms(60_000);
    let id = assign.attempt;
    assert_eq!(dead(&mut rig, id), Err(Denied::UnknownAttempt(id)));
    assert_eq!(rig.attempt(id).asserted, None);
    assert!(matches!(rig.phase(id), Phase::Finished { report } if report.outcome == unknown));
}

#[test]
fn what_a_person_said_is_over_may_run_once_more() {
    let (mut rig, site, run, assign) = silent(0);
    rig.turn(&[site.close()]);
    rig.pass_ms(60_000);
    dead(&mut rig, assign.attempt).unwrap();
    rig.site("shop");
    let stored = rig.mirror.stored_run(&name("acme"), run).map(Box::new);
    let (answer, said) = rig.ask_in(
        "acme",
        Ask::Rerun {
            run,
            tasks: None,
            stored,
        },
    );
    assert!(matches!(answer, Ok(Answer::Rerun { .. })), "{answer:?}");
    assert_eq!(assigns(&said).len(), 1);
}
