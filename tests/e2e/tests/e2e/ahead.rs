//! Short tasks wait at their keepers for the one before them: whatever happens meanwhile, each starts once.

use std::fmt::Write as _;

use outpost_e2e::api::{attempts_of, text};
use outpost_e2e::wait::so;
use outpost_e2e::{Agent, Api, Entry, World, eventually};
use serde_json::{Value, json};

/// A task that is over at once, unless the file `hold` is there: then it waits for the file `go`.
fn step() -> Entry {
    let wait = "until [ -e \"$shared/go\" ]; do sleep 0.05; done";
    let body = format!("if [ -e \"$shared/hold\" ]; then {wait}; fi");
    Entry::script("step", &body)
}

/// So many tasks that wait for nothing.
fn tasks(name: &str, count: usize) -> String {
    let mut text = format!("name: {name}\ntasks:\n");
    for task in 0..count {
        let _ = writeln!(text, "  {name}{task}: {{entry: step}}");
    }
    text
}

fn world() -> (World, Agent, Api) {
    let world = World::new();
    let agent = world.agent("site-1", &[step()]);
    let api = world.api();
    (world, agent, api)
}

/// Each task of a run succeeded, and was started once.
fn each_once(world: &World, tree: &Value, name: &str, count: usize) {
    for task in 0..count {
        let task = format!("{name}{task}");
        let attempts = attempts_of(tree, &task);
        let last = attempts.last().unwrap();
        assert_eq!(text(&last["outcome"]), "succeeded", "{tree:#}");
        assert_eq!(world.starts_of(&task), 1, "{task} of {tree:#}");
    }
}

#[test]
fn c1_runners_killed_among_short_tasks_start_each_of_them_once_and_cost_none_a_try() {
    const TASKS: usize = 200;
    let (world, mut agent, api) = world();
    let _ = api.apply(&tasks("many", TASKS)).ok();
    let run = api.trigger("many", &json!({}));
    for killed in 1..=4 {
        eventually("some of them have started", || {
            so(world.starts().len() >= killed * TASKS / 6)
        });
        agent.kill_runner();
        agent.start();
    }
    let tree = api.succeeded(&run);
    each_once(&world, &tree, "many", TASKS);
}

#[test]
fn p6_a_runner_that_is_told_to_stop_has_back_what_waits() {
    const TASKS: usize = 200;
    let (world, mut agent, api) = world();
    let _ = api.apply(&tasks("many", TASKS)).ok();
    let run = api.trigger("many", &json!({}));
    eventually("some of them have started", || {
        so(world.starts().len() >= TASKS / 4)
    });
    assert_eq!(
        agent.terminate_within(std::time::Duration::from_secs(20)),
        Some(0)
    );
    agent.start();
    let tree = api.succeeded(&run);
    each_once(&world, &tree, "many", TASKS);
    for task in 0..TASKS {
        let attempts = attempts_of(&tree, &format!("many{task}"));
        assert_eq!(attempts.len(), 1, "{attempts:?}");
    }
}

#[test]
fn nothing_that_waits_at_a_keeper_starts_once_the_site_has_paused() {
    let (world, agent, api) = world();
    let _ = api.apply(&tasks("warm", 4)).ok();
    let _ = api.apply(&tasks("held", 12)).ok();
    let _ = api.succeeded(&api.trigger("warm", &json!({})));
    world.allow("hold");
    let run = api.trigger("held", &json!({}));
    let slots = usize::from(agent.slots);

    eventually("every slot has one", || {
        so(world.starts().len() == 4 + slots)
    });
    let _ = agent.command(&["pause"]).ok();
    world.allow("go");
    eventually("what ran is over", || {
        so(agent.status()?["view"]["running"].as_array()?.is_empty())
    });
    assert_eq!(world.starts().len(), 4 + slots);
    let _ = agent.command(&["resume"]).ok();
    let tree = api.succeeded(&run);
    each_once(&world, &tree, "held", 12);
}
