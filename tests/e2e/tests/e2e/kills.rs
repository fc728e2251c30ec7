//! Every process killed with SIGKILL while a task runs: the task is started once, its outcome is told once.

use outpost_e2e::api::{attempts_of, text};
use outpost_e2e::wait::so;
use outpost_e2e::{Agent, Api, Entry, World, eventually, procs};
use serde_json::json;
use std::time::{Duration, Instant};

/// A task that waits until the test lets it go on, and then ends with this status.
pub(crate) fn gate(status: u8) -> Entry {
    let body = format!("until [ -e \"$shared/go\" ]; do sleep 0.05; done\nexit {status}");
    Entry::script("gate", &body).with("report_exit_code = true")
}

pub(crate) const ONE_GATE: &str = "name: one\ntasks:\n  wait: {entry: gate}\n";

/// A world with one agent and one run, whose only task runs: run and attempt.
pub(crate) fn one_running(status: u8) -> (World, Agent, Api, String, String) {
    let world = World::new();
    let agent = world.agent("site-1", &[gate(status)]);
    let api = world.api();
    let _ = api.apply(ONE_GATE).ok();
    let run = api.trigger("one", &json!({}));
    let attempt = api.attempt_in(&run, "wait", "running");
    (world, agent, api, run, attempt)
}

/// The run ends as it should, with one attempt that was started once and whose end was told once.
fn told_once(world: &World, agent: &Agent, api: &Api, run: &str, outcome: &str) {
    let tree = api.finished(run);
    let attempts = attempts_of(&tree, "wait");
    assert_eq!(attempts.len(), 1, "{tree:#}");
    assert_eq!(attempts[0]["outcome"], outcome, "{tree:#}");
    assert!(attempts[0].get("late").is_none(), "{tree:#}");
    assert_eq!(world.starts_of("wait"), 1);
    let attempt = text(&attempts[0]["attempt"]);
    // An end is told in an event or, after a reconnect, in the inventory.
    let words = format!("{attempt} is over: {outcome} ");
    let told = agent
        .ledger_words()
        .into_iter()
        .filter(|(_, said)| said.contains(&words))
        .count();
    assert_eq!(told, 1, "how often its end is in the ledger");
    eventually("the outcome is acknowledged", || {
        so(agent.status()?["view"]["unacknowledged"] == 0)
    });
}

#[test]
fn c1_a_killed_runner_is_followed_by_one_that_adopts_the_task() {
    let (world, mut agent, api, run, attempt) = one_running(0);
    let (keeper, task) = agent.keeper_and_task(&attempt);
    let link = agent.link();
    agent.kill_runner();
    eventually("link ends with its runner", || so(!link.is_alive()));
    assert!(keeper.is_alive() && task.is_alive(), "P6");
    agent.start();
    agent.live(&api);
    assert!(keeper.is_alive() && task.is_alive(), "P6");
    world.allow("go");
    told_once(&world, &agent, &api, &run, "succeeded");
}

#[test]
fn c1_a_task_that_ends_while_no_runner_lives_is_reported_by_the_next_one() {
    let (world, mut agent, api, run, attempt) = one_running(0);
    let (keeper, task) = agent.keeper_and_task(&attempt);
    agent.kill_runner();
    world.allow("go");
    eventually("task and keeper end by themselves", || {
        so(!keeper.is_alive() && !task.is_alive())
    });
    agent.start();
    told_once(&world, &agent, &api, &run, "succeeded");
}

#[test]
fn c1_a_killed_link_is_replaced_under_the_same_runner() {
    let (world, agent, api, run, attempt) = one_running(0);
    let (keeper, task) = agent.keeper_and_task(&attempt);
    let (runner, link) = (agent.runner(), agent.link());
    link.kill();
    eventually("there is another link", || so(agent.link() != link));
    agent.live(&api);
    assert!(runner.is_alive() && keeper.is_alive() && task.is_alive());
    world.allow("go");
    told_once(&world, &agent, &api, &run, "succeeded");
}

#[test]
fn c1_a_killed_spawner_takes_no_task_along_and_is_replaced_at_the_next_start() {
    let (world, agent, api, run, attempt) = one_running(0);
    let (keeper, task) = agent.keeper_and_task(&attempt);
    let spawner = agent.spawner();
    spawner.kill();
    eventually("it is dead", || so(!spawner.is_alive()));
    let second = api.trigger("one", &json!({}));
    let _ = api.attempt_in(&second, "wait", "running");
    assert_ne!(agent.spawner(), spawner);
    assert!(keeper.is_alive() && task.is_alive());
    world.allow("go");
    let _ = (api.succeeded(&run), api.succeeded(&second));
    assert_eq!(world.starts_of("wait"), 2, "one start for each run");
}

/// Of three trees at least one is gone within the second: whatever else this machine does does not hold up all of them.
#[test]
fn c3_a_killed_keeper_takes_its_whole_tree_along_within_a_second_and_is_never_a_success() {
    let took = [(), (), ()].map(|()| keeper_killed());
    let fastest = took.iter().min();
    assert!(fastest <= Some(&Duration::from_secs(1)), "{took:?}");
}

/// Kills the keeper of a whole tree; how long that outlived it.
fn keeper_killed() -> Duration {
    let world = World::new();
    let body = "setsid sh -c 'exec sleep 1000' &\n(sleep 1001 &)\nsleep 1002";
    let agent = world.agent("site-1", &[Entry::script("tree", body)]);
    let api = world.api();
    let _ = api.apply("name: one\ntasks:\n  wait: {entry: tree}\n").ok();
    let run = api.trigger("one", &json!({}));
    let attempt = api.attempt_in(&run, "wait", "running");
    let of_task = || procs::with_environment(&format!("OUTPOST_ATTEMPT={attempt}"));
    let tree = eventually("the whole tree runs", || {
        let tree = of_task();
        (tree.len() >= 4).then_some(tree)
    });
    let (keeper, _) = agent.keeper_and_task(&attempt);
    let since = Instant::now();
    keeper.kill();
    eventually("its tree is gone", || {
        so(tree.iter().all(|process| !process.is_alive()) && of_task().is_empty())
    });
    let took = since.elapsed();
    told_once(&world, &agent, &api, &run, "killed{keeper}");
    took
}

#[test]
fn c2_a_killed_orchestrator_learns_the_outcome_when_it_is_back() {
    let (mut world, agent, api, run, attempt) = one_running(0);
    let (keeper, _) = agent.keeper_and_task(&attempt);
    world.orchestrator.kill();
    // What is said into a connection that is dead already is in the ledger too, and once more in the next inventory.
    eventually("the agent knows that nobody hears it", || {
        so(agent.status()?["view"]["session"] != "ready")
    });
    world.allow("go");
    eventually("the task ends meanwhile", || so(!keeper.is_alive()));
    world.orchestrator.start();
    told_once(&world, &agent, &api, &run, "succeeded");
}

#[test]
fn c2_a_killed_orchestrator_finds_tasks_running_when_it_is_back() {
    let (mut world, agent, api, run, attempt) = one_running(0);
    let (keeper, task) = agent.keeper_and_task(&attempt);
    world.orchestrator.kill_and_restart();
    agent.live(&api);
    assert!(keeper.is_alive() && task.is_alive());
    world.allow("go");
    told_once(&world, &agent, &api, &run, "succeeded");
}

#[test]
fn c1_runner_link_and_spawner_killed_together_leave_a_task_whose_exit_37_the_next_runner_tells_once()
 {
    let (world, mut agent, api, run, attempt) = one_running(37);
    let (keeper, task) = agent.keeper_and_task(&attempt);
    let (link, spawner) = (agent.link(), agent.spawner());
    link.kill();
    spawner.kill();
    agent.kill_runner();
    eventually("all three are dead", || {
        so(!link.is_alive() && !spawner.is_alive())
    });
    assert!(keeper.is_alive() && task.is_alive(), "P6");
    world.allow("go");
    eventually("the task ends with nobody there", || so(!task.is_alive()));
    agent.start();
    told_once(&world, &agent, &api, &run, "failed");
    let tree = api.finished(&run);
    assert_eq!(attempts_of(&tree, "wait")[0]["exit_code"], 37, "{tree:#}");
}

#[test]
fn c2_runs_that_were_acknowledged_are_there_after_kill_9() {
    let mut world = World::new();
    let api = world.api();
    let _ = api.apply_unknown(ONE_GATE).ok();
    for round in 0..3 {
        let runs = (0..10)
            .map(|_| api.trigger("one", &json!({})))
            .collect::<Vec<_>>();
        world.orchestrator.kill_and_restart();
        for run in runs {
            assert!(api.run(&run).is_some(), "round {round}: {run} is lost (P5)");
        }
    }
}
