//! An agent's executable replaced in place while tasks run: runner and link are of the new file, spawner and keepers
//! stay what they are until they are done.

use std::path::{Path, PathBuf};
use std::time::Duration;

use outpost_e2e::api::attempts_of;
use outpost_e2e::binaries::Binary;
use outpost_e2e::procs::Proc;
use outpost_e2e::wait::so;
use outpost_e2e::{Agent, Api, World, eventually};
use serde_json::json;

use crate::kills::{ONE_GATE, gate};

/// Puts a new file of the agent's program in the place of what there was, as a package manager does.
fn install(path: &Path) {
    let new = path.with_extension("new");
    std::fs::copy(Binary::Agent.path(), &new).unwrap();
    std::fs::rename(&new, path).unwrap();
}

/// Which file a process executes: the present one, or one that is replaced since.
fn is_of_the_present_file(process: &Proc, program: &Path) -> bool {
    let exe: PathBuf = std::fs::read_link(format!("/proc/{}/exe", process.pid)).unwrap();
    assert!(
        exe.to_string_lossy()
            .starts_with(&*program.to_string_lossy()),
        "{}",
        exe.display()
    );
    exe == program
}

/// An agent that runs from a file of its own.
fn installed() -> (World, Agent, Api, PathBuf) {
    let world = World::new();
    let api = world.api();
    let program = world.dir().join("outpost-agent");
    install(&program);
    let token = world.token_file(&api, "site-1");
    let mut agent = world.enrolled("site-1", &token, &[gate(0)]);
    agent.program = Some(program.clone());
    agent.start();
    agent.live(&api);
    let _ = api.apply(ONE_GATE).ok();
    (world, agent, api, program)
}

fn running(api: &Api) -> (String, String) {
    let run = api.trigger("one", &json!({}));
    let attempt = api.attempt_in(&run, "wait", "running");
    (run, attempt)
}

#[test]
fn c9_an_agent_is_replaced_and_put_back_with_tasks_running() {
    let (world, mut agent, api, program) = installed();
    let mut runs = Vec::new();
    let mut kept = Vec::new();
    // To the next version and back, each time with what was started before still running.
    for round in 0..3 {
        let (run, attempt) = running(&api);
        kept.push(agent.keeper_and_task(&attempt));
        runs.push(run);
        let spawner = agent.spawner();
        install(&program);
        if round == 1 {
            agent.kill_runner();
        } else {
            assert_eq!(agent.terminate_within(Duration::from_secs(20)), Some(0));
        }
        agent.start();
        agent.live(&api);
        for part in [agent.runner(), agent.link()] {
            assert!(is_of_the_present_file(&part, &program), "{part:?}");
        }
        assert_eq!(agent.spawner(), spawner, "the spawner lives on");
        assert!(!is_of_the_present_file(&spawner, &program));
        for (keeper, task) in &kept {
            assert!(keeper.is_alive() && task.is_alive(), "P6, round {round}");
            assert!(!is_of_the_present_file(keeper, &program));
        }
    }
    // The new runner starts work through the old spawner.
    let (run, _) = running(&api);
    runs.push(run);
    world.allow("go");
    for run in &runs {
        let tree = api.succeeded(run);
        assert_eq!(attempts_of(&tree, "wait").len(), 1, "{tree:#}");
    }
    assert_eq!(world.starts_of("wait"), 4, "each was started once");
}

#[test]
fn c9_a_task_that_ends_between_the_two_versions_is_told_by_the_second() {
    let (world, mut agent, api, program) = installed();
    let (run, attempt) = running(&api);
    let (keeper, _) = agent.keeper_and_task(&attempt);
    assert_eq!(agent.terminate_within(Duration::from_secs(20)), Some(0));
    world.allow("go");
    eventually("the old keeper is done", || so(!keeper.is_alive()));
    install(&program);
    agent.start();
    let _ = api.succeeded(&run);
    assert_eq!(world.starts_of("wait"), 1);
}
