//! What every command prints, for people in a pipe and for programs: the shapes that scripts rely on.

use std::process::Command;

use insta::assert_snapshot;

use crate::fake::Fake;
use crate::support::text;

const RUN: &str = "4f1d9c02aaaaaaaaaaaaaaaaaaaaaaaa";
const OTHER: &str = "4f1d77bbbbbbbbbbbbbbbbbbbbbbbbbb";
const ATTEMPT: &str = "7c2e91d06b7f4a13a8a3f0d94c55e1b2";
const FLOW: &str = "name: nightly\ntasks:\n  dump:\n    entry: dump\n";

/// A server with one of everything.
fn server() -> Fake {
    let run = format!(
        r#"{{"run":"{RUN}","workflow":"nightly","version":3,"state":"failed","agent":"site-1","params":{{"top":3}},
        "created_at":"2026-01-02T03:04:05.000000Z","finished_at":"2026-01-02T03:04:11.100000Z","duration_ms":6100,
        "scheduled_for":"2026-01-02T03:04:00.000000Z","reruns":1,"tasks":[
        {{"task":"dump","index":0,"entry":"dump","needs":[],"state":"failed","outcome":"failed","attempts":[
          {{"attempt":"a1","agent":"site-1","number":1,"state":"finished","outcome":"failed","exit_code":75,
            "assigned_at":"2026-01-02T03:04:05.000000Z","started_at":"2026-01-02T03:04:06.000000Z",
            "finished_at":"2026-01-02T03:04:07.000000Z","duration_ms":1000}},
          {{"attempt":"a2","agent":"site-1","number":2,"state":"finished","outcome":{{"killed":"oom"}},
            "assigned_at":"2026-01-02T03:04:08.000000Z","started_at":"2026-01-02T03:04:08.000000Z",
            "finished_at":"2026-01-02T03:04:11.000000Z","duration_ms":3000}}]}},
        {{"task":"verify","index":1,"entry":"verify","needs":["dump"],"state":"upstream_failed","attempts":[]}}]}}"#
    );
    let item = |run: &str, state: &str| {
        format!(
            r#"{{"run":"{run}","workflow":"nightly","version":3,"state":"{state}","agent":"site-1",
            "created_at":"2026-01-02T03:04:05.000000Z","finished_at":null,"duration_ms":6100,
            "scheduled_for":"2026-01-02T03:04:00.000000Z","reruns":1}}"#
        )
    };
    let runs = format!(
        r#"{{"items":[{},{}],"next":null}}"#,
        item(RUN, "failed"),
        item(OTHER, "running")
    );
    let workflow = format!(
        r#"{{"name":"nightly","version":3,"description":"Dumps","applied_at":"2026-01-01T00:00:00.000000Z",
        "source":{FLOW:?},"tasks":[{{"name":"dump","entry":"dump","needs":[]}}],
        "params":{{"top":{{"kind":"int","min":1,"max":9}}}},"paused":false,"next_run_at":"2026-07-06T00:30:00.000000Z",
        "active_runs":1,"schedule":{{"cron":"30 2 * * 1-5","timezone":"Europe/Berlin","start":null,"end":null,"missed":"latest"}}}}"#
    );
    let listed = r#"{"items":[
        {"name":"host-report","version":1,"description":"Examines the machine","tasks":12,"applied_at":"2026-01-01T00:00:00.000000Z",
         "paused":false,"next_run_at":null,"active_runs":0,"schedule":null},
        {"name":"nightly","version":3,"description":"Dumps","tasks":2,"applied_at":"2026-01-01T00:00:00.000000Z",
         "paused":false,"next_run_at":"2026-07-06T00:30:00.000000Z","active_runs":1,
         "schedule":{"cron":"30 2 * * 1-5","timezone":"Europe/Berlin"}}],"next":null}"#;
    let agent = |attempts: u32, cordoned: bool| {
        format!(
            r#"{{"agent":"site-1","presence":"live","last_heard":"2026-01-02T03:04:05.000000Z",
            "enrolled_at":"2026-01-01T00:00:00.000000Z","version":"0.1.0","slots":8,"slots_free":6,"running":2,"queued":0,
            "flags":["paused"],"containment":"cgroup","sandbox":"strict","cpu_percent":12,"memory_percent":34,
            "disk_percent":56,"load_percent":7,"certificate_days_left":6,"entries":12,"attempts":{attempts},
            "labels":{{"zone":"eu","disk":"fast"}},"queues":["default","big"],"slots_limit":4,
            "cordoned":{cordoned},"draining":{cordoned}}}"#
        )
    };
    Fake::new()
        .on("GET", "/api/v1/runs", 200, &runs)
        .on("GET", &format!("/api/v1/runs/{RUN}"), 200, &run)
        .on("POST", &format!("/api/v1/runs/{RUN}/cancel"), 200, r#"{"state":"cancelling","pending":2}"#)
        .on("POST", &format!("/api/v1/runs/{RUN}/rerun"), 200, &format!(r#"{{"run":"{RUN}","tasks":["dump","verify"]}}"#))
        .on("GET", &format!("/api/v1/runs/{RUN}/explain"), 200,
            r#"{"items":[{"task":"dump","state":"queued","code":"slots_full","reason":"site-1 runs 8 of 8; it waits for a free slot"}]}"#)
        .on("GET", "/api/v1/workflows", 200, listed)
        .on("GET", "/api/v1/workflows/nightly", 200, &workflow)
        .on("DELETE", "/api/v1/workflows/nightly", 200, "")
        .on("POST", "/api/v1/workflows/nightly/pause", 200, r#"{"paused":true,"next_run_at":null}"#)
        .on("POST", "/api/v1/workflows/nightly/resume", 200, r#"{"paused":false,"next_run_at":"2026-07-06T00:30:00.000000Z"}"#)
        .on("GET", "/api/v1/workflows/nightly/upcoming", 200,
            r#"{"items":["2026-03-27T01:30:00.000000Z","2026-03-30T00:30:00.000000Z"]}"#)
        .on("POST", "/api/v1/workflows/nightly/runs", 201, &format!(r#"{{"run":"{RUN}"}}"#))
        .on("POST", "/api/v1/workflows", 200, r#"{"name":"nightly","version":4,"result":"updated","warnings":["no agent serves the queue `big` yet"],"dry_run":false}"#)
        .on("POST", "/api/v1/workflows?dry_run=true", 200, r#"{"name":"nightly","version":4,"result":"updated","warnings":[],"dry_run":true}"#)
        .on("GET", "/api/v1/agents", 200, &format!(r#"{{"items":[{}]}}"#, agent(2, false)))
        .on("GET", "/api/v1/agents/site-1", 200, &agent(0, true))
        .on("PATCH", "/api/v1/agents/site-1", 200, &agent(2, true))
        .on("DELETE", "/api/v1/agents/site-1", 200, "")
        .on("POST", "/api/v1/agents/invites", 201, r#"{"token":"opj1.token","agent":"site-2","expires_at":"2026-01-02T03:14:05.000000Z"}"#)
        .on("GET", &format!("/api/v1/attempts/{ATTEMPT}"), 200, &format!(r#"{{"attempt":"{ATTEMPT}","run":"{RUN}","workflow":"nightly","task":"dump","agent":"site-1",
            "state":"finished","outcome":{{"killed":"oom"}},"where":"on agent site-1: outpost-agent logs {ATTEMPT}"}}"#))
        .plain("GET", "/api/v1/events", 200, "text/event-stream", "event: end\ndata: {}\n\n")
}

/// Status, stdout and stderr of a command, first for people, then for programs.
fn both(make: impl Fn(&[&str]) -> Command, args: &[&str]) -> String {
    let mut shown = String::new();
    for form in ["table", "json"] {
        let output = make(args).args(["--output", form]).output().unwrap();
        shown.push_str(&format!(
            "$ outpost {} --output {form}\n[{}]\n{}",
            args.join(" "),
            output.status.code().unwrap(),
            text(&output.stdout)
        ));
        let errors = text(&output.stderr);
        if !errors.is_empty() {
            shown.push_str(&format!("stderr:\n{errors}"));
        }
        if form == "json" && !output.stdout.is_empty() {
            serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap();
        }
    }
    shown
}

#[test]
fn every_command_that_asks_prints_the_same_each_time() {
    let server = server();
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(
        dir.path().join("nightly.yaml"),
        FLOW.replace("entry: dump", "entry: dump-all"),
    )
    .unwrap();
    std::fs::write(dir.path().join("same.yaml"), FLOW).unwrap();
    let ask = |args: &[&str]| {
        let mut command = server.outpost(args);
        command.current_dir(dir.path());
        command
    };
    for (name, args) in [
        ("apply", &["apply", "nightly.yaml"][..]),
        (
            "apply_dry_run",
            &["apply", "-f", "nightly.yaml", "--dry-run"],
        ),
        ("diff", &["diff", "nightly.yaml"]),
        ("diff_same", &["diff", "same.yaml"]),
        (
            "delete_workflow",
            &["delete", "workflow", "nightly", "--yes"],
        ),
        ("workflows", &["workflows"]),
        ("pause", &["pause", "nightly"]),
        ("resume", &["resume", "nightly"]),
        ("schedule", &["schedule", "nightly", "--count", "2"]),
        ("trigger", &["trigger", "nightly", "--param", "top=3"]),
        ("trigger_wait", &["trigger", "nightly", "--wait"]),
        ("runs", &["runs"]),
        ("runs_limit", &["runs", "--limit", "1"]),
        ("run", &["run", "4f1d9"]),
        ("watch", &["watch", "4f1d9"]),
        ("rerun", &["rerun", RUN, "--task", "dump"]),
        ("cancel", &["cancel", RUN]),
        ("explain", &["explain", RUN]),
        ("agents", &["agents"]),
        ("agents_show", &["agents", "show", "site-1"]),
        ("agents_invite", &["agents", "invite", "site-2"]),
        ("agents_remove", &["agents", "remove", "site-1", "--yes"]),
        (
            "agents_label",
            &["agents", "label", "site-1", "rack=7", "disk-"],
        ),
        (
            "agents_queues",
            &["agents", "queues", "site-1", "default", "big"],
        ),
        ("agents_slots", &["agents", "slots", "site-1", "4"]),
        ("agents_cordon", &["agents", "cordon", "site-1"]),
        ("agents_uncordon", &["agents", "uncordon", "site-1"]),
        ("agents_drain", &["agents", "drain", "site-1"]),
        (
            "agents_drain_wait",
            &["agents", "drain", "site-1", "--wait", "--timeout", "1m"],
        ),
        ("logs", &["logs", ATTEMPT]),
        ("logs_of_a_run", &["logs", "4f1d9"]),
        ("logs_of_a_task", &["logs", RUN, "verify"]),
    ] {
        assert_snapshot!(name, both(ask, args));
    }
}

#[test]
fn what_is_sent_is_what_the_interface_takes() {
    let dry = r#"{"name":"nightly","version":4,"result":"updated","warnings":[],"dry_run":true}"#;
    let path = "/api/v1/workflows?dry_run=true&allow_unknown_entries=true";
    let server = server().on("POST", path, 200, dry);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("nightly.yaml");
    std::fs::write(&file, FLOW).unwrap();
    let file = file.display().to_string();
    for args in [
        &["agents", "label", "site-1", "rack=7", "disk-"][..],
        &["agents", "queues", "site-1", "default", "big"],
        &["agents", "slots", "site-1", "4"],
        &["agents", "slots", "site-1", "none"],
        &["agents", "cordon", "site-1"],
        &["agents", "uncordon", "site-1"],
        &["agents", "drain", "site-1"],
        &["rerun", RUN],
        &["rerun", RUN, "--task", "dump", "--task", "verify"],
        &["trigger", "nightly", "--param", "top=3", "--key", "k"],
        &["apply", &file, "--dry-run", "--allow-unknown-entries"],
        &[
            "runs",
            "--workflow",
            "nightly",
            "--state",
            "failed",
            "--limit",
            "7",
        ],
        &["runs", "--all"],
        &["schedule", "nightly", "--count", "3"],
    ] {
        let output = server.outpost(args).output().unwrap();
        assert!(
            output.status.success(),
            "{args:?}: {}",
            text(&output.stderr)
        );
    }
    assert_snapshot!("what_is_sent", server.asked().join("\n"));
}

#[test]
fn lists_are_read_page_by_page() {
    let page = |runs: &[&str], next: &str| {
        let item = |run: &&str| {
            format!(r#"{{"run":"{run}","workflow":"w","state":"failed","created_at":"x"}}"#)
        };
        let items: Vec<String> = runs.iter().map(item).collect();
        format!(r#"{{"items":[{}],"next":{next}}}"#, items.join(","))
    };
    let server = Fake::new()
        .on(
            "GET",
            "/api/v1/runs?limit=500",
            200,
            &page(&["a", "b"], r#""c1""#),
        )
        .on(
            "GET",
            "/api/v1/runs?limit=500&cursor=c1",
            200,
            &page(&["c"], "null"),
        )
        .on(
            "GET",
            "/api/v1/runs?limit=3",
            200,
            &page(&["a", "b"], r#""c1""#),
        )
        .on(
            "GET",
            "/api/v1/runs?limit=1&cursor=c1",
            200,
            &page(&["c"], r#""c2""#),
        );
    for args in [&["runs", "--all"][..], &["runs", "--limit", "3"]] {
        let output = server
            .outpost(args)
            .args(["--output", "json"])
            .output()
            .unwrap();
        let value: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let runs: Vec<&str> = value["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|it| it["run"].as_str().unwrap())
            .collect();
        assert_eq!(runs, ["a", "b", "c"], "{args:?}");
    }
    let more = server.outpost(&["runs", "--limit", "3"]).output().unwrap();
    assert!(
        text(&more.stderr).contains("--all"),
        "{}",
        text(&more.stderr)
    );
}

#[test]
fn a_drain_that_takes_too_long_ends_at_its_timeout() {
    let busy = r#"{"agent":"site-1","presence":"live","attempts":2}"#;
    let server = Fake::new()
        .on("PATCH", "/api/v1/agents/site-1", 200, busy)
        .on("GET", "/api/v1/agents/site-1", 200, busy)
        .plain(
            "GET",
            "/api/v1/events",
            200,
            "text/event-stream",
            ": here\n\n",
        );
    let output = server
        .outpost(&["agents", "drain", "site-1", "--wait", "--timeout", "1s"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stderr);
    assert!(
        said.contains("it still has 2 attempts") && said.contains("uncordon site-1"),
        "{said}"
    );
    assert_eq!(
        text(&output.stdout),
        "site-1 drains; it still has 2 attempts\n"
    );
}
