//! What agents that only observe are shown: each task that waits, once, and at nobody's cost.

use outpost_proto::outcome::Refusal;

use super::restores::restore;
use super::*;
use crate::event::{AgentChange, Alarm};
use crate::limits::{SHOWN_AT_ONCE, SHOWN_OF_A_TASK};

const OBSERVED: Outcome = Outcome::Refused(Refusal::Observe);

/// An agent that observes from its start.
fn observer(rig: &mut Rig, agent: &str) -> Site {
    rig.enrol(agent);
    let mut site = Site::new(agent);
    site.flags.observe = true;
    site.connect(rig, vec![]);
    site
}

fn one_task(rig: &mut Rig) {
    rig.apply(workflow("w", vec![task("a", "once", &[])]));
}

fn explained(rig: &mut Rig, run: RunId) -> String {
    let Ok(Answer::Explained(tasks)) = rig.ask(Ask::Explain { run }) else {
        panic!()
    };
    format!("[{}] {}", tasks[0].code, tasks[0].reason)
}

/// The task waits as if nothing had happened: no attempt, no try, no agent for its run.
#[track_caller]
fn untouched(rig: &Rig, run: RunId) {
    let task = &rig.mirror.tasks[&(run, TaskIndex(0))];
    assert!(
        matches!(task.state, TaskState::Queued { .. }),
        "{:?}",
        task.state
    );
    assert_eq!((task.attempts, task.spent, task.requeued), (0, 0, 0));
    let record = &rig.mirror.runs[&run];
    assert_eq!((&record.agent, record.started_at), (&None, None));
    assert!(rig.mirror.attempts.is_empty());
}

#[test]
fn a_task_that_waits_for_an_observer_is_shown_to_it_once_and_stays_as_it_is() {
    let mut rig = Rig::new();
    let mut bank = observer(&mut rig, "bank");
    one_task(&mut rig);
    let (run, said) = rig.trigger("w");
    let shown = assigns(&said);
    assert_eq!((shown.len(), messages(&said).len()), (1, 1), "{said:?}");
    assert_eq!((shown[0].run, shown[0].task), (run, TaskIndex(0)));
    untouched(&rig, run);
    assert!(explained(&mut rig, run).ends_with("runs nothing. It was shown this task."));
    let said = bank.ends(&mut rig, shown[0].attempt, OBSERVED);
    assert_eq!(directives(&said), [Directive::Forget(shown[0].attempt)]);
    untouched(&rig, run);
    assert_eq!(
        explained(&mut rig, run),
        "[observe] Agent `bank` could run it, but it only observes and runs nothing. It was shown this task, and would \
         have taken it."
    );
    // Not again: not with time, nor to a new session, nor by a new process.
    assert_eq!(assigns(&rig.pass_ms(20_000)), []);
    assert_eq!(assigns(&bank.beats(&mut rig)), []);
    assert_eq!(assigns(&bank.connect(&mut rig, vec![])), []);
    rig.restart();
    assert_eq!(assigns(&bank.connect(&mut rig, vec![])), []);
    assert_eq!(assigns(&bank.beats(&mut rig)), []);
    // Another catalogue may say something else.
    bank.catalogue_version = 2;
    let shown = assigns(&bank.says(&mut rig, bank.catalogue()));
    assert_eq!(shown.len(), 1);
    assert_eq!(shown[0].catalogue_version, CatalogueVersion(2));
    bank.ends(
        &mut rig,
        shown[0].attempt,
        Outcome::Refused(Refusal::BadParameters),
    );
    untouched(&rig, run);
    let told = explained(&mut rig, run);
    assert!(
        told.ends_with("and would have sent it back as refused{bad_parameters}."),
        "{told}"
    );
}

#[test]
fn whoever_can_run_it_gets_it_while_it_is_shown() {
    let mut rig = Rig::new();
    let mut bank = observer(&mut rig, "bank");
    one_task(&mut rig);
    let (run, said) = rig.trigger("w");
    let shown = assigns(&said).remove(0);
    rig.enrol("plant");
    let mut plant = Site::new("plant");
    let given = assigns(&plant.connect(&mut rig, vec![])).remove(0);
    assert_eq!(given.run, run);
    assert_ne!(given.attempt, shown.attempt);
    assert!(given.fence > shown.fence);
    // The answer comes late, and is about nothing that anybody waits for.
    let said = bank.ends(&mut rig, shown.attempt, OBSERVED);
    assert_eq!(directives(&said), [Directive::Forget(shown.attempt)]);
    assert_eq!(
        rig.task_state(run, 0),
        TaskState::Active {
            attempt: given.attempt
        }
    );
    plant.ends(&mut rig, given.attempt, Outcome::Succeeded);
    assert_eq!(rig.run_state(run), RunState::Succeeded);
    assert_eq!(rig.mirror.tasks[&(run, TaskIndex(0))].attempts, 1);
}

#[test]
fn what_another_agent_takes_at_once_is_not_shown_and_what_waits_for_it_is() {
    let mut rig = Rig::new();
    let mut plant = rig.site("plant");
    plant.slots = 1;
    plant.connect(&mut rig, vec![]);
    let change = AgentChange {
        slots_limit: Some(Some(0)),
        ..Default::default()
    };
    let mut bank = observer(&mut rig, "bank");
    one_task(&mut rig);
    let (_, said) = rig.trigger("w");
    let given = assigns(&said);
    assert_eq!(given.len(), 1, "{said:?}");
    assert_eq!(rig.attempt(given[0].attempt).agent.as_str(), "plant");
    rig.ask(Ask::ConfigureAgent {
        agent: name("plant"),
        change,
    })
    .unwrap();
    let (second, said) = rig.trigger("w");
    let shown = assigns(&said);
    assert_eq!(shown.len(), 1, "{said:?}");
    assert!(!rig.mirror.attempts.contains_key(&shown[0].attempt));
    assert_eq!(shown[0].run, second);
    bank.ends(&mut rig, shown[0].attempt, OBSERVED);
    let change = AgentChange {
        slots_limit: Some(None),
        ..Default::default()
    };
    let agent = name("plant");
    let (_, said) = rig.ask_in("acme", Ask::ConfigureAgent { agent, change });
    assert_eq!(assigns(&said).len(), 1);
}

#[test]
fn one_task_is_shown_so_often_and_no_more_whatever_catalogues_come() {
    let mut rig = Rig::new();
    let mut bank = observer(&mut rig, "bank");
    one_task(&mut rig);
    let (_, said) = rig.trigger("w");
    let mut times = assigns(&said).len();
    for version in 2..=u32::try_from(SHOWN_OF_A_TASK).unwrap() + 3 {
        bank.catalogue_version = version;
        for shown in assigns(&bank.says(&mut rig, bank.catalogue())) {
            times += 1;
            bank.ends(&mut rig, shown.attempt, OBSERVED);
        }
        assert!(times <= SHOWN_OF_A_TASK, "under catalogue {version}");
    }
    assert_eq!(times, SHOWN_OF_A_TASK);
}

#[test]
fn so_many_are_shown_as_are_answered_and_in_the_order_in_which_they_wait() {
    let mut rig = Rig::new();
    one_task(&mut rig);
    let runs: Vec<RunId> = (0..SHOWN_AT_ONCE + 3)
        .map(|_| {
            rig.now = rig.now.plus_ms(1);
            rig.trigger("w").0
        })
        .collect();
    rig.enrol("bank");
    let mut bank = Site::new("bank");
    bank.flags.observe = true;
    let mut shown = assigns(&bank.connect(&mut rig, vec![]));
    assert_eq!(shown.len(), SHOWN_AT_ONCE);
    let mut answered = 0;
    while let Some(assign) = shown.get(answered).cloned() {
        answered += 1;
        shown.extend(assigns(&bank.ends(&mut rig, assign.attempt, OBSERVED)));
    }
    let seen: Vec<RunId> = shown.iter().map(|assign| assign.run).collect();
    assert_eq!(seen, runs);
    runs.into_iter().for_each(|run| untouched(&rig, run));
}

#[test]
fn who_says_that_it_began_what_it_was_shown_is_believed_nothing() {
    let mut rig = Rig::new();
    let mut bank = observer(&mut rig, "bank");
    one_task(&mut rig);
    let (run, said) = rig.trigger("w");
    let shown = assigns(&said).remove(0);
    let said = bank.tells(&mut rig, shown.attempt, AttemptState::Running);
    assert_eq!(closes(&said), [(bank.conn, CloseReason::Protocol)]);
    let alarmed = said.iter().any(|one| {
        matches!(
            one,
            Speech::Alarm {
                what: Alarm::ImpossibleEvent,
                ..
            }
        )
    });
    assert!(alarmed, "{said:?}");
    untouched(&rig, run);
}

#[test]
fn what_it_says_of_it_in_another_session_is_let_go_of_before_and_after_a_restore() {
    for restored in [false, true] {
        let mut rig = Rig::new();
        let mut bank = observer(&mut rig, "bank");
        one_task(&mut rig);
        let before = rig.mirror.clone();
        let (run, said) = rig.trigger("w");
        let shown = assigns(&said).remove(0);
        if restored {
            // The run is of before the backup, what was shown of it is not.
            let mut backup = rig.mirror.clone();
            backup.tenants = before.tenants;
            backup
                .tasks
                .values_mut()
                .for_each(|task| task.shown.clear());
            restore(&mut rig, &backup);
        }
        let over = AttemptState::Finished(report(OBSERVED));
        let items = vec![bank.item(&shown, over, 1)];
        bank.event_seq = 1;
        let said = bank.connect(&mut rig, items);
        assert_eq!(
            directives(&said),
            [Directive::Forget(shown.attempt), Directive::Reconciled]
        );
        untouched(&rig, run);
        let again = assigns(&said);
        assert_eq!(again.len(), usize::from(restored), "{said:?}");
        assert!(again.iter().all(|again| again.fence > shown.fence));
    }
}

#[test]
fn who_neither_announces_nor_serves_it_or_takes_nothing_for_another_reason_is_shown_nothing() {
    let mut rig = Rig::new();
    let mut bank = observer(&mut rig, "bank");
    rig.apply(workflow("other", vec![task("a", "nowhere", &[])]));
    assert_eq!(rig.trigger("other").1, []);
    one_task(&mut rig);
    let cordoned = |cordoned| Ask::ConfigureAgent {
        agent: name("bank"),
        change: AgentChange {
            cordoned: Some(cordoned),
            ..Default::default()
        },
    };
    rig.ask(cordoned(true)).unwrap();
    let (run, said) = rig.trigger("w");
    assert_eq!(said, []);
    assert_eq!(assigns(&bank.beats(&mut rig)), []);
    rig.pass_ms(31_000);
    let (_, said) = rig.ask_in("acme", cordoned(false));
    assert_eq!(assigns(&said), [], "its lease is over");
    let shown = assigns(&bank.beats(&mut rig));
    assert_eq!(shown.len(), 1);
    // Over before it is answered.
    rig.ask(Ask::Cancel { run }).unwrap();
    bank.ends(&mut rig, shown[0].attempt, OBSERVED);
    assert_eq!(rig.run_state(run), RunState::Cancelled);
}

#[test]
fn a_commit_that_fails_shows_nothing_twice() {
    for durable in [false, true] {
        let mut rig = Rig::new();
        let mut bank = observer(&mut rig, "bank");
        one_task(&mut rig);
        let call = Call(1_000);
        let ask = Ask::Trigger {
            workflow: name("w"),
            params: BTreeMap::new(),
            key: None,
        };
        rig.failing_turn(
            &[Happened::Asked {
                call,
                tenant: name("acme"),
                ask,
            }],
            durable,
        );
        let mut said = rig.turn(&[]);
        if durable {
            // It counts as shown; nobody heard of it.
            assert_eq!(assigns(&said), []);
            said = bank.connect(&mut rig, vec![]);
            assert_eq!(assigns(&said), []);
        } else {
            let (_, said) = rig.trigger("w");
            assert_eq!(assigns(&said).len(), 1);
        }
    }
}
