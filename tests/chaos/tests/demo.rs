//! `outpost demo --chaos` as a person runs it.

use std::process::Command;

use outpost_e2e::binaries::Binary;
use outpost_e2e::process::command;
use serde_json::Value;

#[test]
fn the_demo_under_chaos_ends_with_a_history_that_holds() {
    let home = outpost_e2e::World::new();
    let dir = home.dir().join("demo");
    let mut demo: Command = command(Binary::Cli.path());
    demo.args(["demo", "--chaos", "--output", "json", "--dir"]);
    let output = demo.arg(&dir).output().unwrap();
    let said: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    assert!(output.status.success(), "{output:?}");
    let history = &said["chaos"]["history"];
    assert_eq!(history["violations"], serde_json::json!([]), "{said:#}");
    assert_eq!(history["duplicates"], 0);
    assert_eq!(history["acknowledged"], 3);
    assert!(history["starts"].as_u64() >= Some(39), "{history:#}");
    let faults = said["chaos"]["faults"].as_object().unwrap();
    assert!(!faults.is_empty());
}
