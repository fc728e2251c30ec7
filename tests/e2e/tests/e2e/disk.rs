//! Disks that are full, broken, read-only or not the agent's.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use outpost_e2e::api::attempts_of;
use outpost_e2e::binaries::Binary;
use outpost_e2e::wait::so;
use outpost_e2e::{Agent, World, eventually};
use serde_json::json;

use crate::kills::{ONE_GATE, gate};
use crate::preload::{FAILING_SYNC, compiled};

/// An agent that is enrolled and never ran.
fn enrolled(world: &World) -> Agent {
    let token = world.token_file(&world.api(), "site-1");
    world.enrolled("site-1", &token, &[gate(0)])
}

fn refuses_to_start(agent: &Agent, words: &[&str]) {
    let error = agent.command_with_catalogue(&["run"]).fails_with(1);
    for word in words {
        assert!(error.contains(word), "`{word}` is not in: {error}");
    }
}

#[test]
fn d6_a_state_directory_that_is_missing_or_others_can_write_is_refused_with_the_way_out() {
    let world = World::new();
    let agent = enrolled(&world);
    let mode = |mode| {
        let mode = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(&agent.state, mode).unwrap();
    };
    mode(0o777);
    refuses_to_start(&agent, &["can be written by others", "chmod go-w"]);
    mode(0o711);
    let aside = agent.state.with_extension("aside");
    std::fs::rename(&agent.state, &aside).unwrap();
    refuses_to_start(&agent, &["no agent's state directory", "enrol first"]);
    assert!(!agent.state.exists(), "none is made in its place");
    std::fs::rename(&aside, &agent.state).unwrap();
    let ledger = agent.state.join("ledger");
    std::fs::remove_dir_all(&ledger).unwrap();
    std::fs::write(&ledger, "no directory").unwrap();
    refuses_to_start(&agent, &["ledger"]);
}

#[test]
#[ignore = "needs: root"]
fn d6_a_state_directory_of_another_owner_is_refused_with_the_way_out() {
    let world = World::new();
    let agent = enrolled(&world);
    std::os::unix::fs::chown(&agent.state, Some(65534), None).unwrap();
    refuses_to_start(&agent, &["belongs to user 65534", "chown"]);
}

/// A program that first mounts something in a mount namespace of its own and then runs the agent.
fn after_mounting(dir: &Path, mount: &str) -> PathBuf {
    let program = dir.join("after-mounting");
    let script = format!(
        "#!/bin/sh\nexec unshare --mount sh -c '{mount} && exec \"$0\" \"$@\"' {} \"$@\"\n",
        Binary::Agent.path().display()
    );
    std::fs::write(&program, script).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    program
}

#[test]
#[ignore = "needs: root"]
fn d6_a_state_directory_that_is_mounted_read_only_is_refused() {
    let world = World::new();
    let mut agent = enrolled(&world);
    let state = agent.state.display().to_string();
    let mount = format!("mount --bind {state} {state} && mount -o remount,bind,ro {state}");
    agent.program = Some(after_mounting(world.dir(), &mount));
    refuses_to_start(&agent, &["Read-only file system", &state]);
}

#[test]
fn d3_a_failed_sync_ends_the_agent_and_the_next_one_goes_on_from_what_is_surely_there() {
    let world = World::new();
    let api = world.api();
    let fail = world.dir().join("fail");
    let object = compiled(world.dir(), FAILING_SYNC, "FAIL", &fail);
    let mut agent = enrolled(&world);
    agent.env = vec![("LD_PRELOAD".to_owned(), object.display().to_string())];
    agent.start();
    agent.live(&api);
    let _ = api.apply(ONE_GATE).ok();
    let run = api.trigger("one", &json!({}));
    let attempt = api.attempt_in(&run, "wait", "running");
    let (keeper, task) = agent.keeper_and_task(&attempt);
    std::fs::write(&fail, "").unwrap();
    let status = agent.ended_within(Duration::from_secs(30));
    assert_eq!(status, Some(1), "fail-stop");
    let logged = agent.logged();
    assert!(
        logged.contains("syncing") && logged.contains("os error 5"),
        "{logged}"
    );
    assert!(keeper.is_alive() && task.is_alive(), "P6");
    // Never tried again on the same file: as long as the disk is broken, there is no agent.
    agent.start();
    assert_eq!(agent.ended_within(Duration::from_secs(30)), Some(1));
    world.allow("go");
    eventually("the task ends meanwhile", || so(!task.is_alive()));
    assert_ne!(api.run(&run).unwrap()["state"], "succeeded");
    std::fs::remove_file(&fail).unwrap();
    agent.start();
    let tree = api.succeeded(&run);
    let attempts = attempts_of(&tree, "wait");
    assert_eq!(attempts.len(), 1, "{tree:#}");
    assert!(attempts[0].get("late").is_none(), "{tree:#}");
    assert_eq!(world.starts_of("wait"), 1);
    let _ = agent.command(&["ledger", "verify"]).ok();
}
