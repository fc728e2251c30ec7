//! Every reason there is, as people read it.

use super::*;
use outpost_proto::outcome::Refusal;

use crate::event::AgentChange;

fn explained(rig: &mut Rig, run: RunId) -> String {
    let Ok(Answer::Explained(tasks)) = rig.ask(Ask::Explain { run }) else {
        panic!()
    };
    let lines = tasks.iter().map(|task| {
        format!(
            "{} {} [{}] {}",
            task.task, task.state, task.code, task.reason
        )
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn before_it_is_placed() {
    let mut rig = Rig::new();
    let mut told = Vec::new();
    rig.apply(workflow(
        "w",
        vec![task("a", "load", &[]), task("b", "once", &[0])],
    ));
    rig.apply(workflow("v", vec![task("a", "lost", &[])]));
    let (run, _) = rig.trigger("w");
    let (other, _) = rig.trigger("v");
    told.push(explained(&mut rig, run));
    rig.enrol("bank");
    told.push(explained(&mut rig, other));
    let mut site = Site::new("bank");
    site.flags.paused = true;
    site.connect(&mut rig, vec![]);
    told.push(explained(&mut rig, run));
    let hinder: [fn(&mut Flags); 3] = [
        |f| f.draining = true,
        |f| f.observe = true,
        |f| f.hold = true,
    ];
    for hinder in hinder {
        site.flags = Flags::default();
        hinder(&mut site.flags);
        site.beats(&mut rig);
        told.push(explained(&mut rig, run));
    }
    rig.pass_ms(31_000);
    told.push(explained(&mut rig, run));
    rig.pass_ms(31_000);
    told.push(explained(&mut rig, run));
    site.connect(&mut rig, vec![]);
    rig.turn(&[site.close()]);
    told.push(explained(&mut rig, run));
    insta::assert_snapshot!(told.join("\n\n"));
}

#[test]
fn once_it_is_placed() {
    let mut rig = Rig::new();
    let mut site = rig.site("bank");
    site.slots = 1;
    site.connect(&mut rig, vec![]);
    let mut told = Vec::new();
    let mut retried = task("a", "load", &[]);
    retried.retry = Retry {
        retries: 2,
        delay_ms: 8000,
        max_delay_ms: 8000,
    };
    rig.apply(workflow(
        "w",
        vec![
            retried,
            task("b", "once", &[]),
            task("c", "load", &[]),
            task("d", "load", &[1]),
        ],
    ));
    let (run, said) = rig.trigger("w");
    let given = assigns(&said);
    rig.pass_ms(1500);
    told.push(explained(&mut rig, run));
    site.says(&mut rig, UpMessage::Ack(given[1].command_seq));
    site.tells(&mut rig, given[0].attempt, AttemptState::Starting);
    told.push(explained(&mut rig, run));
    site.tells(&mut rig, given[0].attempt, AttemptState::Running);
    site.tells(&mut rig, given[1].attempt, AttemptState::Running);
    rig.pass_ms(3000);
    told.push(explained(&mut rig, run));
    site.ends(&mut rig, given[0].attempt, Outcome::Failed);
    told.push(explained(&mut rig, run));
    site.ends(&mut rig, given[1].attempt, Outcome::Failed);
    told.push(explained(&mut rig, run));
    insta::assert_snapshot!(told.join("\n\n"));
}

#[test]
fn what_is_held_by_an_agent_whose_site_has_paused_it_is_told_so() {
    let mut rig = Rig::new();
    let mut site = rig.site("bank");
    rig.apply(workflow("w", vec![task("a", "load", &[])]));
    let (run, said) = rig.trigger("w");
    site.says(&mut rig, UpMessage::Ack(assigns(&said)[0].command_seq));
    let told = explained(&mut rig, run);
    assert!(told.contains("starts it when a slot is free"), "{told}");
    site.flags.paused = true;
    site.beats(&mut rig);
    let told = explained(&mut rig, run);
    assert_eq!(
        told,
        "a assigned [paused] Agent `bank` holds it and starts nothing: its site has paused it. Only the site can resume \
         it; it was last heard 0 ms ago."
    );
    site.flags = Flags {
        hold: true,
        ..Flags::default()
    };
    site.beats(&mut rig);
    let told = explained(&mut rig, run);
    assert!(
        told.starts_with("a assigned [hold] Agent `bank` holds it and starts nothing"),
        "{told}"
    );
    // Whoever has gone cannot say whether it holds it still.
    rig.turn(&[site.close()]);
    let told = explained(&mut rig, run);
    assert!(told.starts_with("a assigned [assigned] "), "{told}");
    assert!(told.contains("which is not connected"), "{told}");
}

#[test]
fn when_it_cannot_go_on_by_itself() {
    let mut rig = Rig::new();
    let mut site = rig.site("bank");
    let mut told = Vec::new();
    rig.apply(workflow(
        "w",
        vec![task("a", "once", &[]), task("b", "once", &[])],
    ));
    let (run, said) = rig.trigger("w");
    let given = assigns(&said);
    site.tells(&mut rig, given[0].attempt, AttemptState::Running);
    rig.ask(Ask::Cancel { run }).unwrap();
    told.push(explained(&mut rig, run));
    rig.turn(&[site.close()]);
    rig.pass_ms(180_000);
    told.push(explained(&mut rig, run));

    let (run, _) = rig.trigger("w");
    site.connect(&mut rig, vec![]);
    rig.ask(Ask::RemoveAgent {
        agent: name("bank"),
    })
    .unwrap();
    told.push(explained(&mut rig, run));
    insta::assert_snapshot!(told.join("\n\n"));
}

fn change(rig: &mut Rig, agent: &str, change: AgentChange) {
    let agent = name(agent);
    rig.ask(Ask::ConfigureAgent { agent, change }).unwrap();
}

#[test]
fn when_no_agent_fits() {
    let mut rig = Rig::new();
    let _bank = rig.site("bank");
    let mut plant = rig.site("plant");
    let mut told = Vec::new();
    let mut spec = workflow("w", vec![task("a", "load", &[]), task("b", "once", &[])]);
    spec.tasks[0].queue = Some(name("big"));
    spec.tasks[1].selector.0 = [(name("zone"), name("eu"))].into();
    rig.apply(spec);
    let (run, _) = rig.trigger("w");
    told.push(explained(&mut rig, run));
    let queues = |names: &[&str]| AgentChange {
        queues: Some(names.iter().map(|queue| name(queue)).collect()),
        ..AgentChange::default()
    };
    change(&mut rig, "bank", queues(&["big"]));
    told.push(explained(&mut rig, run));
    change(&mut rig, "plant", queues(&["big", "default"]));
    told.push(explained(&mut rig, run));
    let UpMessage::Catalogue(mut less) = plant.catalogue() else {
        panic!()
    };
    less.version = CatalogueVersion(2);
    less.entries.remove(0);
    plant.says(&mut rig, UpMessage::Catalogue(less));
    let labels = Some([(name("zone"), name("eu"))].into());
    let labelled = AgentChange {
        labels,
        ..AgentChange::default()
    };
    change(&mut rig, "plant", labelled);
    told.push(explained(&mut rig, run));
    let full = plant.catalogue();
    let cordoned = AgentChange {
        cordoned: Some(true),
        ..AgentChange::default()
    };
    change(&mut rig, "plant", cordoned);
    plant.says(&mut rig, full);
    told.push(explained(&mut rig, run));
    let draining = AgentChange {
        draining: Some(true),
        ..AgentChange::default()
    };
    change(&mut rig, "plant", draining);
    told.push(explained(&mut rig, run));
    insta::assert_snapshot!(told.join("\n\n"));
}

#[test]
fn when_a_limit_is_reached() {
    let mut rig = Rig::new();
    let mut site = rig.site("bank");
    let mut told = Vec::new();
    let mut spec = workflow("w", vec![task("a", "load", &[]), task("b", "load", &[])]);
    spec.max_active_runs = Some(1);
    rig.apply(spec.clone());
    for _ in 0..2 {
        rig.trigger("w");
        rig.pass_ms(1);
    }
    let (third, _) = rig.trigger("w");
    rig.pass_ms(5000);
    told.push(explained(&mut rig, third));
    spec.max_active_runs = None;
    spec.max_active_tasks = Some(2);
    rig.apply(spec.clone());
    told.push(explained(&mut rig, third));
    site.beats(&mut rig);
    spec.max_active_tasks = None;
    spec.tasks[0].max_active = Some(1);
    change(
        &mut rig,
        "bank",
        AgentChange {
            slots_limit: Some(Some(1)),
            ..AgentChange::default()
        },
    );
    rig.apply(spec);
    told.push(explained(&mut rig, third));
    insta::assert_snapshot!(told.join("\n\n"));
}

#[test]
fn when_only_affinity_keeps_it_from_an_agent() {
    let mut rig = Rig::new();
    let mut site = rig.site("bank");
    rig.apply(workflow(
        "w",
        vec![task("a", "load", &[]), task("b", "load", &[0])],
    ));
    let (run, said) = rig.trigger("w");
    let _plant = rig.site("plant");
    let draining = AgentChange {
        draining: Some(true),
        ..AgentChange::default()
    };
    change(&mut rig, "bank", draining);
    let first = assigns(&said).remove(0);
    site.ends(&mut rig, first.attempt, Outcome::Succeeded);
    insta::assert_snapshot!(explained(&mut rig, run));
}

#[test]
fn when_its_agent_sent_it_back() {
    let mut told = Vec::new();
    let refusals = [
        Refusal::Paused,
        Refusal::Draining,
        Refusal::Observe,
        Refusal::Hold,
        Refusal::Rate,
    ];
    for refusal in refusals {
        let mut rig = Rig::new();
        let mut site = rig.site("bank");
        rig.apply(workflow("w", vec![task("a", "load", &[])]));
        let (run, said) = rig.trigger("w");
        let given = assigns(&said);
        site.ends(&mut rig, given[0].attempt, Outcome::Refused(refusal));
        told.push(explained(&mut rig, run));
    }
    insta::assert_snapshot!(told.join("\n\n"));
}

#[test]
fn when_another_task_of_its_run_asks_too_much() {
    let mut rig = Rig::new();
    let _bank = rig.site("bank");
    let mut told = Vec::new();
    let mut spec = workflow("w", vec![task("a", "load", &[]), task("b", "once", &[])]);
    spec.tasks[0].queue = Some(name("big"));
    let mut runs = vec![spec.clone()];
    spec.tasks[0].queue = None;
    spec.tasks[0].selector.0 = [(name("zone"), name("eu"))].into();
    runs.push(spec.clone());
    spec.tasks[0].selector = Default::default();
    spec.tasks[0].entry = name("unheard-of");
    runs.push(spec);
    for spec in runs {
        rig.apply(spec);
        let (run, _) = rig.trigger("w");
        told.push(explained(&mut rig, run));
    }
    insta::assert_snapshot!(told.join("\n\n"));
}
