//! An agent whose wall clock is wrong by a day and by decades: a clear word, nothing lost, in touch again once it is right.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use outpost_e2e::api::attempts_of;
use outpost_e2e::binaries::Binary;
use outpost_e2e::wait::so;
use outpost_e2e::{World, eventually, eventually_within};
use serde_json::json;

use crate::kills::{ONE_GATE, gate};
use crate::preload::{WRONG_CLOCK, compiled};

const HOUR: i64 = 3600;

/// A program that runs the agent with `object` preloaded into every one of its processes, whatever their environment:
/// in a mount namespace with an `/etc` of its own.
pub(crate) fn preloading(dir: &Path, object: &Path) -> PathBuf {
    let etc = dir.join("etc");
    let copied = std::process::Command::new("cp")
        .args(["-a", "/etc"])
        .arg(&etc)
        .status();
    assert!(copied.unwrap().success());
    std::fs::write(etc.join("ld.so.preload"), format!("{}\n", object.display())).unwrap();
    let program = dir.join("with-another-clock");
    let inner = format!("mount --bind {} /etc && exec \"$0\" \"$@\"", etc.display());
    let script = format!(
        "#!/bin/sh\nexec unshare --mount sh -c '{inner}' {} \"$@\"\n",
        Binary::Agent.path().display()
    );
    std::fs::write(&program, script).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    program
}

/// The file that says by how many seconds the clock is wrong, and how that is changed.
pub(crate) fn offset_of(world: &World) -> (PathBuf, impl Fn(i64) + use<>) {
    let offset = world.dir().join("offset");
    // Written in place: the processes have it mapped.
    std::fs::write(&offset, [0; 4096]).unwrap();
    let path = offset.clone();
    let set = move |seconds: i64| {
        let file = std::fs::File::options().write(true).open(&path).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, &seconds.to_ne_bytes(), 0).unwrap();
    };
    (offset, set)
}

#[test]
#[ignore = "needs: root"]
fn t1_a_wall_clock_that_is_wrong_gets_a_word_and_loses_nothing() {
    let world = World::new();
    let api = world.api();
    let (offset, set) = offset_of(&world);
    let object = compiled(world.dir(), WRONG_CLOCK, "OFFSET", &offset);
    let token = world.token_file(&api, "site-1");
    let mut agent = world.enrolled("site-1", &token, &[gate(0)]);
    agent.program = Some(preloading(world.dir(), &object));
    agent.start();
    agent.live(&api);
    let _ = api.apply(ONE_GATE).ok();
    let run = api.trigger("one", &json!({}));
    let attempt = api.attempt_in(&run, "wait", "running");
    let (keeper, task) = agent.keeper_and_task(&attempt);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let now = i64::try_from(now.as_secs()).unwrap();
    let year = 365 * 24 * HOUR;
    for (what, wrong) in [
        ("a day late", -25 * HOUR),
        ("a day early", 25 * HOUR),
        ("in 1970", 60 - now),
        ("in 2106", 80 * year),
    ] {
        set(wrong);
        agent.link().kill();
        let said = eventually_within(Duration::from_secs(60), what, || {
            let trouble = agent.status()?["trouble"].as_str()?.to_owned();
            trouble.contains("clock").then_some(trouble)
        });
        assert!(
            said.contains("check this host's clock"),
            "a person knows what to do: {said}"
        );
        assert!(keeper.is_alive() && task.is_alive(), "{what}");
        set(0);
        // The next try may be some seconds away.
        eventually_within(Duration::from_secs(120), "it connects again", || {
            so(agent.status()?["view"]["session"] == "ready")
        });
        assert!(keeper.is_alive() && task.is_alive(), "{what}");
    }
    // Work ends while the clock is wrong, and the agent itself begins anew meanwhile.
    set(-25 * HOUR);
    agent.link().kill();
    world.allow("go");
    eventually("the task ends", || so(!task.is_alive()));
    agent.kill_runner();
    agent.start();
    eventually_within(Duration::from_secs(60), "it says why it waits", || {
        let status = agent.status()?;
        so(status["trouble"].as_str()?.contains("clock"))
    });
    set(0);
    let tree = eventually_within(Duration::from_secs(120), "the outcome is told", || {
        let tree = api.run(&run)?;
        (tree["state"] == "succeeded").then_some(tree)
    });
    assert_eq!(attempts_of(&tree, "wait").len(), 1, "{tree:#}");
    assert_eq!(world.starts_of("wait"), 1);
}
