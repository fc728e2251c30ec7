//! An agent's executable replaced in place while tasks run: runner and link are of the new file, spawner and keepers
//! stay what they are until they are done.
//!
//! The version before is another file of the same build, or, if `OUTPOST_E2E_FORMER_AGENT` names one, an older build.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use outpost_e2e::api::attempts_of;
use outpost_e2e::binaries::Binary;
use outpost_e2e::clocks::{TICK, boot};
use outpost_e2e::procs::Proc;
use outpost_e2e::wait::so;
use outpost_e2e::{Agent, Api, World, eventually};
use serde_json::json;

use crate::kills::{ONE_GATE, gate};

/// Which version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    Former,
    Present,
}

/// Puts a new file of the agent's program in the place of what there was, as a package manager does.
fn install(path: &Path, version: Version) {
    let former = std::env::var_os("OUTPOST_E2E_FORMER_AGENT").map(PathBuf::from);
    let former = former.filter(|_| version == Version::Former);
    let new = path.with_extension("new");
    std::fs::copy(former.as_deref().unwrap_or(Binary::Agent.path()), &new).unwrap();
    // So that whatever runs by now began before it, as the kernel counts.
    std::thread::sleep(TICK * 5);
    std::fs::rename(&new, path).unwrap();
}

/// Whether a process executes the present file, or one that was replaced since: by when it began, which everybody sees,
/// and by its name. Nobody but root is told that of processes that close themselves to their account.
#[track_caller]
fn executes_present_file(process: &Proc, program: &Path, present: bool) {
    let (began, put) = (beginning_of(process), put_in_place(program));
    assert_eq!(
        began + TICK * 2 >= put,
        present,
        "{process:?} began at {began:?}, the file is there since {put:?}"
    );
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let exe: PathBuf = std::fs::read_link(format!("/proc/{}/exe", process.pid)).unwrap();
    assert!(
        exe.to_string_lossy()
            .starts_with(&*program.to_string_lossy()),
        "{}",
        exe.display()
    );
    assert_eq!(exe == program, present, "{process:?}");
}

fn beginning_of(process: &Proc) -> SystemTime {
    assert_eq!(rustix::param::clock_ticks_per_second(), 100);
    boot() + TICK * u32::try_from(process.start).unwrap()
}

/// Since when a file is where it is.
fn put_in_place(path: &Path) -> SystemTime {
    let meta = path.metadata().unwrap();
    let nanos = u64::try_from(meta.ctime_nsec()).unwrap();
    let at = Duration::from_secs(meta.ctime().cast_unsigned()) + Duration::from_nanos(nanos);
    UNIX_EPOCH + at
}

/// An agent of the version before that runs from a file of its own.
fn installed() -> (World, Agent, Api, PathBuf) {
    let world = World::new();
    let api = world.api();
    let program = world.dir().join("outpost-agent");
    install(&program, Version::Former);
    let token = world.token_file(&api, "site-1");
    let mut agent = world.stranger("site-1", &[gate(0)]);
    agent.program = Some(program.clone());
    let _ = agent
        .command(&["enrol", "--token-file", &token.to_string_lossy()])
        .ok();
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
        let next = match round {
            1 => Version::Former,
            _ => Version::Present,
        };
        install(&program, next);
        if round == 1 {
            agent.kill_runner();
        } else {
            assert_eq!(agent.terminate_within(Duration::from_secs(20)), Some(0));
        }
        agent.start();
        agent.live(&api);
        executes_present_file(&agent.runner(), &program, true);
        executes_present_file(&agent.link(), &program, true);
        assert_eq!(agent.spawner(), spawner, "the spawner lives on");
        executes_present_file(&spawner, &program, false);
        for (keeper, task) in &kept {
            assert!(keeper.is_alive() && task.is_alive(), "P6, round {round}");
            executes_present_file(keeper, &program, false);
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
    install(&program, Version::Present);
    agent.start();
    let _ = api.succeeded(&run);
    assert_eq!(world.starts_of("wait"), 1);
}
