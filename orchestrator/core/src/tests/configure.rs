//! Cordon and drain: what an agent is told, what it gives back, and where that goes.

use outpost_proto::outcome::Refusal;

use super::*;
use crate::event::{AgentChange, AgentView};
use crate::spec::Affinity;

const TURNED_AWAY: Outcome = Outcome::Refused(Refusal::Draining);

fn ask(rig: &mut Rig, agent: &str, change: AgentChange) -> (AgentView, Vec<Speech>) {
    let ask = Ask::ConfigureAgent {
        agent: name(agent),
        change,
    };
    match rig.ask_in("acme", ask) {
        (Ok(Answer::Agent(view)), said) => (view, said),
        (answer, _) => panic!("{answer:?}"),
    }
}

fn cordon(cordoned: bool) -> AgentChange {
    AgentChange {
        cordoned: Some(cordoned),
        ..AgentChange::default()
    }
}

fn drain(draining: bool) -> AgentChange {
    AgentChange {
        draining: Some(draining),
        ..AgentChange::default()
    }
}

/// `none` so that whatever is given back can go elsewhere.
fn apart(tasks: u16) -> WorkflowSpec {
    let tasks = (0..tasks).map(|n| task(&format!("t{n}"), "once", &[]));
    let mut spec = workflow("w", tasks.collect());
    spec.affinity = Affinity::None;
    spec
}

#[test]
fn a_cordoned_agent_is_given_nothing_new_and_keeps_what_it_has() {
    let mut rig = Rig::new();
    let mut site = rig.site("bank");
    rig.apply(workflow(
        "w",
        vec![task("a", "load", &[]), task("b", "load", &[0])],
    ));
    let (run, said) = rig.trigger("w");
    let given = assigns(&said);
    let (view, said) = ask(&mut rig, "bank", cordon(true));
    assert_eq!(directives(&said), [Directive::Cordon]);
    assert_eq!(
        (view.cordoned, view.draining, view.attempts),
        (true, false, 1)
    );
    let said = site.ends(&mut rig, given[0].attempt, Outcome::Succeeded);
    assert_eq!(assigns(&said), []);
    assert_eq!(ask(&mut rig, "bank", cordon(true)).1, [], "it is told once");
    // The agent forgets it with its connection.
    let said = site.connect(&mut rig, vec![]);
    assert_eq!(
        directives(&said),
        [Directive::Cordon, Directive::Reconciled]
    );
    rig.restart();
    let said = site.connect(&mut rig, vec![]);
    assert_eq!(
        directives(&said),
        [Directive::Cordon, Directive::Reconciled]
    );
    // Cordoned, an agent says of itself that it drains.
    site.flags.draining = true;
    site.beats(&mut rig);
    let (view, said) = ask(&mut rig, "bank", cordon(false));
    assert!(!view.cordoned);
    let [
        DownMessage::Directive {
            directive: Directive::Uncordon,
            ..
        },
        DownMessage::Assign(next),
    ] = &messages(&said)[..]
    else {
        panic!("{said:?}")
    };
    assert_eq!((next.run, next.task.0), (run, 1));
    site.flags.draining = false;
    assert_eq!(
        directives(&site.connect(&mut rig, vec![])),
        [Directive::Reconciled]
    );
}

#[test]
fn a_drained_agent_gives_back_what_it_has_not_started_and_no_try_is_used_up() {
    let mut rig = Rig::new();
    let mut bank = rig.site("bank");
    rig.apply(apart(3));
    let (run, said) = rig.trigger("w");
    let given = assigns(&said);
    assert_eq!(given.len(), 3);
    bank.tells(&mut rig, given[0].attempt, AttemptState::Running);
    let plant = rig.site("plant");
    let (view, said) = ask(&mut rig, "bank", drain(true));
    assert_eq!(directives(&said), [Directive::Drain]);
    assert_eq!(
        (view.cordoned, view.draining, view.attempts),
        (true, true, 3)
    );
    let attempt = given[1].attempt;
    let turned_away = bank.event(attempt, AttemptState::Finished(report(TURNED_AWAY)));
    let done = rig.committed(&[bank.frame(vec![turned_away])]);
    let paused = |write: &Write| matches!(write, Write::Task(task) if matches!(task.state, TaskState::Backoff { .. }));
    assert!(
        !done.writes.iter().any(paused),
        "no pause: {:?}",
        done.writes
    );
    let said = done.speech;
    let [again] = &assigns(&said)[..] else {
        panic!("{said:?}")
    };
    assert_eq!(rig.attempt(again.attempt).agent, plant.agent, "at once");
    assert_eq!((again.run, again.task.0), (run, 1));
    bank.ends(&mut rig, given[2].attempt, TURNED_AWAY);
    assert_eq!(ask(&mut rig, "bank", drain(true)).0.attempts, 1);
    bank.ends(&mut rig, given[0].attempt, Outcome::Succeeded);
    assert_eq!(
        ask(&mut rig, "bank", drain(true)).0.attempts,
        0,
        "it is empty"
    );
    for task in 0..3 {
        assert_eq!(rig.mirror.tasks[&(run, TaskIndex(task))].spent, 0);
    }
}

#[test]
fn what_never_reached_a_drained_agent_is_withdrawn_at_once() {
    let mut rig = Rig::new();
    let mut bank = rig.site("bank");
    rig.apply(apart(1));
    let (run, said) = rig.trigger("w");
    let first = assigns(&said).remove(0);
    rig.turn(&[bank.close()]);
    ask(&mut rig, "bank", drain(true));
    let _plant = rig.site("plant");
    assert_eq!(
        rig.phase(first.attempt),
        Phase::Assigned,
        "it may have arrived"
    );
    let said = bank.connect(&mut rig, vec![]);
    assert_eq!(directives(&said), [Directive::Drain, Directive::Reconciled]);
    let [again] = &assigns(&said)[..] else {
        panic!("{said:?}")
    };
    assert_eq!(rig.attempt(again.attempt).agent, name("plant"));
    let Phase::Finished { report } = rig.phase(first.attempt) else {
        panic!()
    };
    assert_eq!(
        (report.outcome, report.may_have_started),
        (TURNED_AWAY, false)
    );
    assert_eq!(
        rig.task_state(run, 0),
        TaskState::Active {
            attempt: again.attempt
        }
    );
}

#[test]
fn what_waits_to_be_sent_again_is_withdrawn_when_a_drain_begins() {
    let mut rig = Rig::new();
    let mut bank = rig.site("bank");
    rig.apply(apart(1));
    let (_, said) = rig.trigger("w");
    let first = assigns(&said).remove(0);
    bank.flags.paused = true;
    let said = bank.connect(&mut rig, vec![]);
    assert_eq!(assigns(&said), [], "a paused agent is not sent it again");
    let _plant = rig.site("plant");
    let (view, said) = ask(&mut rig, "bank", drain(true));
    assert_eq!(view.attempts, 0);
    assert!(matches!(rig.phase(first.attempt), Phase::Finished { .. }));
    assert_eq!(assigns(&said).len(), 1, "plant has it");
}

#[test]
fn a_run_leaves_a_drained_agent_only_if_nothing_of_it_was_started_there() {
    let mut rig = Rig::new();
    let mut bank = rig.site("bank");
    rig.apply(workflow(
        "w",
        vec![task("a", "once", &[]), task("b", "once", &[])],
    ));
    let (untouched, said) = rig.trigger("w");
    let mut given = assigns(&said);
    rig.pass_ms(1);
    let (begun, said) = rig.trigger("w");
    given.extend(assigns(&said));
    bank.tells(&mut rig, given[2].attempt, AttemptState::Running);
    let _plant = rig.site("plant");
    ask(&mut rig, "bank", drain(true));
    bank.ends(&mut rig, given[0].attempt, TURNED_AWAY);
    assert_eq!(rig.mirror.runs[&untouched].agent, Some(name("bank")));
    let said = bank.ends(&mut rig, given[1].attempt, TURNED_AWAY);
    assert_eq!(assigns(&said).len(), 2, "it moves as a whole");
    assert_eq!(rig.mirror.runs[&untouched].agent, Some(name("plant")));
    let said = bank.ends(&mut rig, given[3].attempt, TURNED_AWAY);
    assert_eq!(assigns(&said), [], "what began there stays there");
    assert_eq!(rig.mirror.runs[&begun].agent, Some(name("bank")));
    let (_, said) = ask(&mut rig, "bank", cordon(false));
    assert_eq!(directives(&said), [Directive::Uncordon]);
    assert_eq!(assigns(&said).len(), 1, "the end of a cordon ends a drain");
}

#[test]
fn the_end_of_a_drain_leaves_the_cordon() {
    let mut rig = Rig::new();
    let _site = rig.site("bank");
    ask(&mut rig, "bank", drain(true));
    let (view, said) = ask(&mut rig, "bank", drain(false));
    assert_eq!((view.cordoned, view.draining), (true, false));
    assert_eq!(directives(&said), [Directive::Uncordon, Directive::Cordon]);
}

#[test]
fn a_change_that_cannot_be_changes_nothing() {
    let mut rig = Rig::new();
    rig.enrol("bank");
    let change = AgentChange {
        queues: Some([].into()),
        cordoned: Some(true),
        ..AgentChange::default()
    };
    let before = rig.mirror.clone();
    for (agent, change) in [("bank", change), ("stranger", cordon(true))] {
        let agent = name(agent);
        assert!(rig.ask(Ask::ConfigureAgent { agent, change }).is_err());
    }
    assert_eq!(rig.mirror, before);
}

#[test]
fn an_agents_record_is_written_only_when_more_than_its_numbers_changed() {
    let mut rig = Rig::new();
    let mut site = rig.site("bank");
    rig.apply(apart(2));
    let (_, said) = rig.trigger("w");
    let first = assigns(&said).remove(0);
    let event = site.event(first.attempt, AttemptState::Running);
    let writes = rig.writes(&[site.frame(vec![event])]);
    let of_agents: Vec<_> = writes
        .iter()
        .filter(|write| matches!(write, Write::Agent(_) | Write::AgentMark(_)))
        .collect();
    assert!(
        matches!(of_agents[..], [Write::AgentMark(_)]),
        "{of_agents:?}"
    );
    assert_eq!(writes.len(), 3, "mark, attempt, notice: {writes:?}");
    let ack = UpMessage::Ack(first.command_seq);
    assert_eq!(
        rig.writes(&[site.frame(vec![ack])]),
        [],
        "an acknowledgement"
    );
    let beat = site.heartbeat();
    assert_eq!(rig.writes(&[site.frame(vec![beat])]), [], "a heartbeat");
}
