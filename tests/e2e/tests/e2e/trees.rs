//! Process trees, deadlines and output: what the keeper does alone.

use std::time::{Duration, Instant};

use outpost_e2e::api::{attempts_of, text};
use outpost_e2e::wait::so;
use outpost_e2e::{Entry, World, eventually, procs};
use serde_json::json;

/// A tree that ignores TERM, forks twice and leaves its session.
const STUBBORN: &str = "trap '' TERM\n(setsid sh -c 'trap \"\" TERM; while :; do sleep 1000; done' &)\nwhile :; do sleep 1001; done";

#[test]
fn k2_a_cancel_is_reported_only_when_a_tree_that_ignores_term_and_double_forks_is_gone() {
    let world = World::new();
    let stubborn = Entry::script("stubborn", STUBBORN).with("grace = \"1s\"");
    let _agent = world.agent("site-1", &[stubborn]);
    let api = world.api();
    let _ = api
        .apply("name: one\ntasks:\n  wait: {entry: stubborn}\n")
        .ok();
    let run = api.trigger("one", &json!({}));
    let attempt = api.attempt_in(&run, "wait", "running");
    let marker = format!("OUTPOST_ATTEMPT={attempt}");
    eventually("the whole tree runs", || {
        so(procs::with_environment(&marker).len() >= 4)
    });
    let asked = Instant::now();
    let _ = api
        .post(&format!("/api/v1/runs/{run}/cancel"), &json!({}))
        .ok();
    let tree = api.finished(&run);
    let left = procs::with_environment(&marker);
    assert!(
        left.is_empty(),
        "P7: reported, and these still run: {left:?}"
    );
    assert!(asked.elapsed() < Duration::from_secs(10), "K2");
    assert_eq!(tree["state"], "cancelled", "{tree:#}");
    assert_eq!(
        attempts_of(&tree, "wait")[0]["outcome"],
        "cancelled",
        "{tree:#}"
    );
    assert_eq!(world.starts_of("wait"), 1);
}

#[test]
fn c4_a_timeout_needs_no_contact_and_is_told_later() {
    let mut world = World::new();
    let slow = Entry::script("slow", STUBBORN)
        // Long enough for a busy machine to kill and stop two processes before.
        .with("timeout = \"20s\"")
        .with("grace = \"1s\"");
    let agent = world.agent("site-1", &[slow]);
    let api = world.api();
    let _ = api.apply("name: one\ntasks:\n  wait: {entry: slow}\n").ok();
    let run = api.trigger("one", &json!({}));
    let attempt = api.attempt_in(&run, "wait", "running");
    let (keeper, task) = agent.keeper_and_task(&attempt);
    world.orchestrator.kill();
    agent.runner().signal(rustix::process::Signal::STOP);
    assert!(task.is_alive(), "this machine is too slow for the test");
    eventually("the keeper fires the deadline alone", || {
        so(procs::with_environment(&format!("OUTPOST_ATTEMPT={attempt}")).is_empty())
    });
    agent.runner().signal(rustix::process::Signal::CONT);
    eventually("the keeper is done", || so(!keeper.is_alive()));
    world.orchestrator.start();
    let tree = api.finished(&run);
    assert_eq!(
        attempts_of(&tree, "wait")[0]["outcome"],
        "timed_out",
        "{tree:#}"
    );
    assert_eq!(world.starts_of("wait"), 1);
}

#[test]
fn k4_a_flood_of_output_is_capped_and_blocks_no_task() {
    const CAP: u64 = 1 << 20;
    let world = World::new();
    let flood = Entry::script(
        "flood",
        "echo first-line\nhead -c 60000000 /dev/zero\nyes flood | head -c 20000000\necho last-line",
    )
    .with("log_max = \"1MiB\"");
    let agent = world.agent("site-1", &[flood]);
    let api = world.api();
    let _ = api
        .apply("name: one\ntasks:\n  wait: {entry: flood}\n")
        .ok();
    let run = api.trigger("one", &json!({}));
    let mut most = 0;
    let tree = eventually("the flood is over", || {
        most = most.max(
            procs::attempts(&agent.state)
                .iter()
                .map(|dir| log_bytes(dir))
                .sum(),
        );
        let tree = api.run(&run)?;
        (tree["state"] != "running").then_some(tree)
    });
    assert_eq!(tree["state"], "succeeded", "{tree:#}");
    assert!(most <= CAP, "{most} bytes of log were kept at a time");
    let attempt = text(&attempts_of(&tree, "wait")[0]["attempt"]);
    let kept = log_bytes(&agent.attempt_dir(&attempt));
    assert!(
        kept > CAP / 4 && kept <= CAP,
        "{kept} bytes of log are kept"
    );
    let output = agent.output(&attempt);
    assert!(output.starts_with("first-line") && output.contains("last-line"));
}

fn log_bytes(dir: &std::path::Path) -> u64 {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("log."))
        .filter_map(|entry| Some(entry.metadata().ok()?.len()))
        .sum()
}
