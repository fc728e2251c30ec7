//! The ledger holds what left, and shows when somebody touched it.

use outpost_e2e::Entry;
use outpost_e2e::World;
use outpost_e2e::api::{attempts_of, text};
use serde_json::{Value, json};

#[test]
fn the_ledger_verifies_names_every_outcome_and_tells_when_a_byte_of_it_changed() {
    let world = World::new();
    let mut agent = world.agent(
        "site-1",
        &[Entry::script("quick", "echo said-at-the-site-only")],
    );
    let api = world.api();
    let _ = api
        .apply("name: one\ntasks:\n  a: {entry: quick}\n  b: {entry: quick, needs: [a]}\n")
        .ok();
    let run = api.trigger("one", &json!({}));
    let tree = api.succeeded(&run);
    let summary: Value = serde_json::from_str(
        &agent
            .command(&["ledger", "verify", "--output", "json"])
            .ok(),
    )
    .unwrap();
    assert!(summary["frames"].as_u64().unwrap() >= 5, "{summary:#}");
    let words = agent.ledger_words();
    for task in ["a", "b"] {
        let attempt = text(&attempts_of(&tree, task)[0]["attempt"]);
        let told = words
            .iter()
            .filter(|(_, words)| words.contains(&format!("{attempt} is over: succeeded")));
        assert_eq!(told.count(), 1, "{words:#?}");
    }
    agent.kill_runner();
    let _ = agent.command(&["ledger", "verify"]).ok();
    let segments = std::fs::read_dir(agent.state.join("ledger"))
        .unwrap()
        .flatten();
    let segment = segments.map(|entry| entry.path()).min().unwrap();
    let good = std::fs::read(&segment).unwrap();
    let needle = b"said-at-the-site-only";
    assert!(!good.windows(needle.len()).any(|window| window == needle));
    // D4: everywhere but in the last record, where a torn write may be.
    for at in (0..good.len() / 2).step_by(97) {
        let mut bad = good.clone();
        bad[at] ^= 0x10;
        std::fs::write(&segment, &bad).unwrap();
        let done = agent.command(&["ledger", "verify"]);
        assert_eq!(done.code, Some(1), "byte {at}: {done:?}");
    }
}
