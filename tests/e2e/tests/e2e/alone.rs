//! What a keeper does with nobody there: runner, link and spawner killed or stopped, and no orchestrator.

use std::time::{Duration, Instant};

use outpost_e2e::api::attempts_of;
use outpost_e2e::wait::so;
use outpost_e2e::{Agent, Api, Entry, World, eventually, procs};
use rustix::process::Signal;
use serde_json::json;

/// Ignores TERM and leaves its session, so that only the whole ladder ends it.
const STUBBORN: &str = "trap '' TERM\n(setsid sh -c 'trap \"\" TERM; while :; do sleep 1000; done' &)\nwhile :; do sleep 1001; done";

/// One run of one stubborn task with these lines in its entry: its run and its attempt, once its tree runs.
fn stubborn(lines: &[&str]) -> (World, Agent, Api, String, String) {
    let world = World::new();
    let entry = lines
        .iter()
        .fold(Entry::script("stubborn", STUBBORN), |entry, line| {
            entry.with(line)
        });
    let agent = world.agent("site-1", &[entry]);
    let api = world.api();
    let _ = api
        .apply("name: one\ntasks:\n  wait: {entry: stubborn}\n")
        .ok();
    let run = api.trigger("one", &json!({}));
    let attempt = api.attempt_in(&run, "wait", "running");
    eventually("the whole tree runs", || so(tree(&attempt).len() >= 3));
    (world, agent, api, run, attempt)
}

fn tree(attempt: &str) -> Vec<procs::Proc> {
    procs::with_environment(&format!("OUTPOST_ATTEMPT={attempt}"))
}

fn ended(api: &Api, run: &str, outcome: &str, world: &World) {
    let tree = api.finished(run);
    let attempts = attempts_of(&tree, "wait");
    assert_eq!(attempts.len(), 1, "{tree:#}");
    assert_eq!(attempts[0]["outcome"], outcome, "{tree:#}");
    assert_eq!(world.starts_of("wait"), 1);
}

/// Long enough for a busy machine to stop or kill three processes before.
const DEADLINE: &str = "timeout = \"20s\"";

#[test]
fn c4_a_deadline_comes_with_runner_link_and_spawner_stopped() {
    let (world, agent, api, run, attempt) = stubborn(&[DEADLINE, "grace = \"1s\""]);
    let parts = [agent.runner(), agent.link(), agent.spawner()];
    parts.iter().for_each(|part| part.signal(Signal::STOP));
    assert!(
        !tree(&attempt).is_empty(),
        "this machine is too slow for the test"
    );
    eventually("the keeper fires the deadline alone", || {
        so(tree(&attempt).is_empty())
    });
    parts.iter().for_each(|part| part.signal(Signal::CONT));
    ended(&api, &run, "timed_out", &world);
}

#[test]
fn c4_a_deadline_comes_with_runner_link_and_spawner_killed() {
    let (mut world, mut agent, api, run, attempt) = stubborn(&[DEADLINE, "grace = \"1s\""]);
    let (link, spawner) = (agent.link(), agent.spawner());
    agent.kill_runner();
    link.kill();
    spawner.kill();
    world.orchestrator.kill();
    eventually("the keeper fires the deadline alone", || {
        so(tree(&attempt).is_empty())
    });
    world.orchestrator.start();
    agent.start();
    ended(&api, &run, "timed_out", &world);
}

#[test]
#[ignore = "needs: root"]
fn c3_a_keeper_killed_while_no_runner_lives_is_told_as_killed_by_the_next_one() {
    let (world, mut agent, api, run, attempt) = stubborn(&[]);
    let (keeper, _) = agent.keeper_and_task(&attempt);
    agent.kill_runner();
    keeper.kill();
    eventually("its tree is gone", || so(tree(&attempt).is_empty()));
    agent.start();
    ended(&api, &run, "killed{keeper}", &world);
}

/// P4: not later than the time, the grace and what a busy machine takes; and not before the time, counted from when the
/// orchestrator was heard last, at most a heartbeat's interval ago.
fn stop_after_comes(since: Instant, attempt: &str) {
    eventually("the keeper's dead-man timer ends the tree", || {
        so(tree(attempt).is_empty())
    });
    let took = since.elapsed();
    assert!(took >= Duration::from_secs(9), "{took:?}: too early");
    assert!(took < Duration::from_secs(45), "{took:?}: too late");
}

#[test]
fn p4_a_task_in_touch_outlives_its_stop_after() {
    let (world, _agent, api, run, attempt) = stubborn(&STOP_AFTER);
    let since = Instant::now();
    while since.elapsed() < Duration::from_secs(26) {
        assert!(!tree(&attempt).is_empty(), "ended while in touch");
        std::thread::sleep(Duration::from_millis(200));
    }
    let _ = api
        .post(&format!("/api/v1/runs/{run}/cancel"), &json!({}))
        .ok();
    ended(&api, &run, "cancelled", &world);
}

const STOP_AFTER: [&str; 2] = ["on_disconnect = \"stop_after 20s\"", "grace = \"1s\""];

#[test]
fn p4_stop_after_comes_with_runner_link_and_spawner_killed() {
    let (world, mut agent, api, run, attempt) = stubborn(&STOP_AFTER);
    let (link, spawner) = (agent.link(), agent.spawner());
    let since = Instant::now();
    agent.kill_runner();
    link.kill();
    spawner.kill();
    stop_after_comes(since, &attempt);
    agent.start();
    ended(&api, &run, "killed{lease}", &world);
}

#[test]
fn p4_stop_after_comes_with_runner_link_and_spawner_stopped() {
    let (world, agent, api, run, attempt) = stubborn(&STOP_AFTER);
    let parts = [agent.runner(), agent.link(), agent.spawner()];
    let since = Instant::now();
    parts.iter().for_each(|part| part.signal(Signal::STOP));
    stop_after_comes(since, &attempt);
    parts.iter().for_each(|part| part.signal(Signal::CONT));
    ended(&api, &run, "killed{lease}", &world);
}

#[test]
fn p4_stop_after_comes_while_the_orchestrator_is_away() {
    let (mut world, _agent, api, run, attempt) = stubborn(&STOP_AFTER);
    let since = Instant::now();
    world.orchestrator.kill();
    stop_after_comes(since, &attempt);
    world.orchestrator.start();
    ended(&api, &run, "killed{lease}", &world);
}
