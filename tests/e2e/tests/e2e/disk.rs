//! Disks that are full, broken, read-only or not the agent's.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use outpost_e2e::api::attempts_of;
use outpost_e2e::binaries::Binary;
use outpost_e2e::wait::so;
use outpost_e2e::{Agent, Entry, World, eventually};
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

/// Fills the file system of a directory to the last byte; gone when it is dropped.
struct Filled(PathBuf);

impl Filled {
    fn all_of(dir: &Path) -> Self {
        use std::io::Write as _;
        let path = dir.join("somebody-elses");
        let mut file = std::fs::File::create(&path).unwrap();
        for size in [1 << 20, 4096, 1] {
            let bytes = vec![1; size];
            while file.write_all(&bytes).is_ok() {}
        }
        // Others may have made a little room meanwhile.
        let error = std::iter::repeat_with(|| file.write_all(b"x")).find_map(Result::err);
        let kind = error.map(|error| error.kind());
        assert_eq!(kind, Some(std::io::ErrorKind::StorageFull));
        Self(path)
    }
}

impl Drop for Filled {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// A file system of its own for an agent's state, unmounted when it is dropped.
struct Small(PathBuf);

impl Small {
    fn at(dir: &Path, size: &str) -> Self {
        std::fs::create_dir(dir).unwrap();
        let mut mount = std::process::Command::new("mount");
        mount.args([
            "-t",
            "tmpfs",
            "-o",
            &format!("mode=755,size={size}"),
            "none",
        ]);
        assert!(mount.arg(dir).status().unwrap().success());
        Self(dir.to_owned())
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let mut unmount = std::process::Command::new("umount");
        let _ = unmount.arg("-l").arg(&self.0).status();
    }
}

#[test]
#[ignore = "needs: root"]
fn d1_on_a_full_disk_outcomes_are_reported_new_work_is_refused_and_nothing_is_lost() {
    let world = World::new();
    let api = world.api();
    let small = Small::at(&world.dir().join("small"), "160m");
    let body = "until [ -e \"$shared/talk\" ]; do sleep 0.05; done\nyes | head -c 3000000\nuntil [ -e \"$shared/go\" ]; do sleep 0.05; done";
    let entries = [Entry::script("gate", body)];
    let token = world.token_file(&api, "site-1");
    let mut agent = world.stranger("site-1", &entries);
    agent.state = small.0.join("state");
    let _ = agent
        .command(&["enrol", "--token-file", &token.to_string_lossy()])
        .ok();
    agent.start();
    agent.live(&api);
    let _ = api.apply(ONE_GATE).ok();
    let runs = (0..3)
        .map(|_| api.trigger("one", &json!({})))
        .collect::<Vec<_>>();
    for run in &runs {
        let _ = api.attempt_in(run, "wait", "running");
    }
    let filled = Filled::all_of(&small.0);
    eventually("it says so", || {
        so(agent.logged().contains("too little room on disk"))
    });
    eventually("heartbeats tell it", || {
        so(api.agent("site-1")?["disk_percent"].as_u64()? >= 99)
    });
    let refused = api.trigger("one", &json!({}));
    eventually("new work is refused with its reason", || {
        so(agent.logged().contains("the disk has too little room"))
    });
    // Tasks write as much as they like, a runner is killed and comes back, and every outcome is told.
    world.allow("talk");
    agent.kill_runner();
    agent.start();
    agent.live(&api);
    world.allow("go");
    for run in &runs {
        let tree = api.succeeded(run);
        assert_eq!(attempts_of(&tree, "wait").len(), 1, "{tree:#}");
    }
    assert_eq!(world.starts_of("wait"), 3, "the refused one did not start");
    assert_eq!(api.run(&refused).unwrap()["state"], "running");
    drop(filled);
    let tree = outpost_e2e::eventually_within(Duration::from_secs(120), "it runs now", || {
        let tree = api.run(&refused)?;
        (tree["state"] == "succeeded").then_some(tree)
    });
    let told = attempts_of(&tree, "wait");
    assert!(
        told.iter().any(|one| one["outcome"] == "refused{disk}"),
        "{tree:#}"
    );
    assert_eq!(world.starts_of("wait"), 4);
    let _ = agent.command(&["ledger", "verify"]).ok();
    agent.kill_runner();
    drop(agent);
    // Before the directory that it is mounted in.
    drop(small);
    drop(world);
}
