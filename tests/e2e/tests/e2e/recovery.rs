//! What a person decides: two machines under one identity (P8, I15), and a database restored from a backup (P9, B5).

use outpost_e2e::api::{attempts_of, task};
use outpost_e2e::wait::so;
use outpost_e2e::{Entry, World, eventually};
use serde_json::{Value, json};

fn entries() -> [Entry; 2] {
    [
        Entry::script("wait", "until [ -e \"$shared/go\" ]; do sleep 0.05; done"),
        Entry::script("quick", "exit 0"),
    ]
}

#[test]
fn p8_a_copied_agent_is_set_aside_until_a_person_keeps_one() {
    let world = World::new();
    let api = world.api();
    let original = world.agent("bank", &entries());
    let mut copy = world.copy_of(&original, &entries());
    copy.start();
    let agent = eventually("both are connected and set aside", || {
        let agent = api.agent("bank")?;
        let holders = agent["holders"].as_array()?.clone();
        so(holders.len() == 2 && holders.iter().all(|holder| holder["connected"] == true))?;
        Some(agent)
    });
    assert_eq!(agent["holders"][0]["which"], "this");
    let _ = api.apply("name: w\ntasks:\n  a: {entry: quick}\n").ok();
    let run = api.trigger("w", &json!({}));
    let explained = api.get(&format!("/api/v1/runs/{run}/explain")).ok();
    assert_eq!(
        explained["items"][0]["code"], "agent_quarantined",
        "{explained}"
    );
    let shown = world.outpost(&["agents"]).ok();
    assert!(shown.contains("quarantined"), "{shown}");
    let shown = world.outpost(&["recovery"]).ok();
    assert!(shown.contains("outpost agents resolve bank"), "{shown}");
    let _ = world
        .outpost(&["agents", "resolve", "bank", "--keep", "that"])
        .ok();
    let _ = api.succeeded(&run);
    assert_eq!(world.starts_of("a"), 1);
    let agent = api.agent("bank").unwrap();
    assert_eq!(
        agent["holders"],
        json!([]),
        "the other one is turned away: {agent}"
    );
    let again = world.outpost(&["agents", "resolve", "bank", "--keep", "this"]);
    assert!(again.fails_with(5).contains("one holder"));
}

const CHAIN: &str = "name: chain\ntasks:\n  a: {entry: wait}\n  b: {entry: quick, needs: [a]}\n";

fn recovery(api: &outpost_e2e::api::Api) -> Value {
    api.get("/api/v1/recovery").ok()
}

#[test]
fn p9_nothing_finished_runs_again_after_a_restore() {
    let mut world = World::new();
    let api = world.api();
    let _agent = world.agent("bank", &entries());
    let _ = api.apply(CHAIN).ok();
    let run = api.trigger("chain", &json!({}));
    let _ = api.attempt_in(&run, "a", "running");
    let file = world.dir().join("backup.db").to_string_lossy().into_owned();
    let _ = world.orchestrator.command(&["backup", &file]).ok();
    world.allow("go");
    let _ = api.succeeded(&run);
    let refused = world.orchestrator.command(&["restore", &file, "--force"]);
    assert!(refused.fails_with(2).contains("another orchestrator uses"));
    world.orchestrator.kill();
    let refused = world.orchestrator.command(&["restore", &file]);
    assert!(refused.fails_with(2).contains("--force"));
    let restored = world
        .orchestrator
        .command(&["restore", &file, "--force"])
        .ok();
    assert!(restored.contains("before-restore"), "{restored}");
    world.orchestrator.start();
    let api = world.api();
    let tree = api.succeeded(&run);
    assert_eq!((world.starts_of("a"), world.starts_of("b")), (1, 1));
    assert_eq!(task(&tree, "b")["state"], "succeeded");
    assert_eq!(attempts_of(&tree, "b")[0]["recovered"], true, "{tree}");
    let view = recovery(&api);
    assert_eq!(
        (&view["epoch"], &view["recovering"]),
        (&json!(2), &json!(false))
    );
    let next = api.trigger("chain", &json!({}));
    let _ = api.succeeded(&next);
    assert_eq!(world.starts_of("b"), 2, "work goes on");
}

#[test]
fn b5_a_database_that_was_copied_back_gets_no_work_done() {
    let mut world = World::new();
    let api = world.api();
    let _agent = world.agent("bank", &entries());
    let file = world.dir().join("backup.db");
    let shown = file.to_string_lossy().into_owned();
    let _ = world.orchestrator.command(&["backup", &shown]).ok();
    let _ = api.apply("name: w\ntasks:\n  a: {entry: quick}\n").ok();
    let run = api.trigger("w", &json!({}));
    let _ = api.succeeded(&run);
    world.orchestrator.kill();
    for name in ["outpost.db", "outpost.db-wal", "outpost.db-shm"] {
        let _ = std::fs::remove_file(world.orchestrator.dir().join(name));
    }
    std::fs::copy(&file, world.orchestrator.dir().join("outpost.db")).unwrap();
    world.orchestrator.start();
    let api = world.api();
    eventually("the agent says that it saw more", || {
        let agent = api.agent("bank")?;
        so(agent["held_back"] == true)
    });
    let _ = api.apply("name: w\ntasks:\n  a: {entry: quick}\n").ok();
    let run = api.trigger("w", &json!({}));
    eventually("it is said why", || {
        let explained = api.get(&format!("/api/v1/runs/{run}/explain")).ok();
        so(explained["items"][0]["code"] == "hold")
    });
    assert_eq!(world.starts_of("a"), 1);
    // What makes this database the true one.
    let again = world.dir().join("again.db").to_string_lossy().into_owned();
    let _ = world.orchestrator.command(&["backup", &again]).ok();
    world.orchestrator.kill();
    let _ = world
        .orchestrator
        .command(&["restore", &again, "--force"])
        .ok();
    world.orchestrator.start();
    let _ = world.api().succeeded(&run);
    assert_eq!(world.starts_of("a"), 2);
}
