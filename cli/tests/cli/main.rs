//! The `outpost` binary as people meet it: its help, what it says when something is wrong, and the demo, whole.

#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests panic: that is how tests fail"
)]

mod fake;
mod golden;
mod live;
mod mistakes;
mod offline;
mod support;

use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;

use support::{Running, Site, outpost, refused, run, text, wait_until};

/// Longer than anything here takes on a slow machine.
const LONG: Duration = Duration::from_secs(90);

#[test]
fn help_says_what_there_is_and_what_exit_codes_mean() {
    for (name, args) in [
        ("help", &["--help"][..]),
        ("help_trigger", &["trigger", "--help"]),
        ("help_agents_invite", &["agents", "invite", "--help"]),
        ("help_demo", &["demo", "--help"]),
    ] {
        let output = run(args);
        assert!(output.status.success());
        insta::assert_snapshot!(name, text(&output.stdout));
    }
}

#[test]
fn the_hidden_programs_are_the_real_ones() {
    for (name, expected) in [("orchestrator-main", "serve"), ("agent-main", "enrol")] {
        let output = run(&[name, "--help"]);
        assert!(output.status.success());
        assert!(text(&output.stdout).contains(expected));
    }
    assert!(!text(&run(&["--help"]).stdout).contains("-main"));
}

#[test]
fn the_demo_does_what_it_says() {
    let site = Site::new();
    let output = outpost()
        .args(["demo", "--top", "7", "--dir"])
        .arg(site.dir())
        .output()
        .unwrap();
    let said = text(&output.stdout);
    assert!(output.status.success(), "{said}\n{}", text(&output.stderr));
    for part in [
        "snapshot",
        "trying again",
        "attempt 2",
        "top = 7",
        "verified",
        "raw, hex or base64",
        "certificate request",
        "outpost-agent ledger verify: ",
        "outpost-agent leaktest: 6 canary tasks left a mark",
        "in 12 forms",
        "not in the ledger, ",
        "not in the orchestrator's data, ",
    ] {
        assert!(said.contains(part), "{part:?} is not in: {said}");
    }
    assert!(!said.contains('\u{1b}'), "a pipe gets no escape sequences");

    let report = said
        .lines()
        .find_map(|line| line.trim().strip_prefix("report"))
        .unwrap()
        .trim();
    let html = std::fs::read_to_string(report).unwrap();
    assert!(html.contains("<html"));
    let json = std::fs::read(report.replace(".html", ".json")).unwrap();
    let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
    assert_eq!(json["format"], "host-report/1");
    assert_eq!(site.processes(), Vec::<String>::new());
}

#[test]
fn what_the_demo_leaves_running_can_be_used_and_ends_with_it() {
    let site = Site::new();
    let mut demo = Running::start(
        outpost()
            .args(["demo", "--keep", "--dir"])
            .arg(site.dir())
            .stdout(Stdio::piped()),
    );
    let said = demo.until("Ctrl-C ends it.", LONG);
    let value = |name: &str| {
        let line = said.lines().find_map(|line| {
            line.trim()
                .strip_prefix(&format!("export {name}="))
                .map(str::to_owned)
        });
        line.unwrap()
    };
    let (server, token) = (value("OUTPOST_SERVER"), value("OUTPOST_TOKEN_FILE"));
    let client = |args: &[&str]| {
        let mut command = outpost();
        command
            .args(args)
            .env("OUTPOST_SERVER", &server)
            .env("OUTPOST_TOKEN_FILE", &token);
        command
    };

    site.assert_agent_listens_to_nobody();

    let runs = text(&client(&["runs"]).output().unwrap().stdout);
    assert!(runs.starts_with("run\tworkflow\tstate\t"), "{runs}");
    assert!(runs.contains("\thost-report\tsucceeded\t"), "{runs}");
    let agents = client(&["agents", "--output", "json"]).output().unwrap();
    let agents: serde_json::Value = serde_json::from_slice(&agents.stdout).unwrap();
    assert_eq!(agents["items"][0]["presence"], "live");
    assert!(client(&["workflows"]).output().unwrap().status.success());

    let mut rows = runs.lines();
    let row = rows.find(|row| row.contains("\thost-report\t")).unwrap();
    let run = row.split('\t').next().unwrap();
    let tree = client(&["run", run, "--output", "json"]).output().unwrap();
    let tree: serde_json::Value = serde_json::from_slice(&tree.stdout).unwrap();
    let attempt = tree["tasks"][0]["attempts"][0]["attempt"].as_str().unwrap();
    let logs = text(&client(&["logs", attempt]).output().unwrap().stdout);
    assert!(
        logs.contains("site-1") && logs.contains(&format!("outpost-agent logs {attempt}")),
        "{logs}"
    );
    assert!(client(&["explain", run]).output().unwrap().status.success());

    let nowhere = "0".repeat(32);
    refused(
        &mut client(&["run", &nowhere]),
        5,
        &["error[not_found]", "help:"],
    );
    refused(
        &mut client(&["trigger", "no-such-workflow"]),
        5,
        &["error[not_found]"],
    );
    refused(
        &mut client(&["trigger", "host-report", "--param", "tops=1"]),
        2,
        &["It has:", "did you mean `top`?"],
    );
    refused(
        &mut client(&["trigger", "host-report", "--param", "top=0"]),
        2,
        &["error[invalid_parameters]"],
    );
    let yaml = site.dir().join("bad.yaml");
    std::fs::write(&yaml, "name: bad\ntasks:\n  a:\n    entri: list-packages\n").unwrap();
    let shown = yaml.display().to_string();
    refused(
        &mut client(&["apply", &shown]),
        2,
        &["error[invalid_workflow]", &format!("{shown}:4"), "tasks.a"],
    );
    let forged = std::fs::read_to_string(&token)
        .unwrap()
        .trim()
        .chars()
        .rev()
        .skip(1)
        .collect::<String>();
    let forged = forged.chars().rev().chain(['_']).collect::<String>();
    let mut stranger = client(&["runs"]);
    stranger
        .env_remove("OUTPOST_TOKEN_FILE")
        .env("OUTPOST_TOKEN", forged);
    refused(&mut stranger, 4, &["error[unauthenticated]", "help:"]);

    let again = client(&["trigger", "host-report", "--param", "top=3", "--wait"])
        .output()
        .unwrap();
    let lines = text(&again.stdout);
    assert!(again.status.success(), "{lines}\n{}", text(&again.stderr));
    assert!(
        lines.lines().last().unwrap().contains("succeeded in"),
        "{lines}"
    );

    // Its tasks take seconds: where the cancel is slower than they are, another one is watched.
    let cancelled = (0..10).any(|_| stops_watching_and_cancels(&client));
    assert!(cancelled, "no run was under way when it was cancelled");

    demo.signal(Signal::INT);
    assert!(demo.ended(LONG).success());
    assert_eq!(site.processes(), Vec::<String>::new());
}

/// Watches a run, stops watching, and cancels it. `false` when it was over before.
fn stops_watching_and_cancels(client: &impl Fn(&[&str]) -> Command) -> bool {
    let mut watching = client(&["trigger", "host-report", "--wait"]);
    let mut watching = Running::start(watching.stdout(Stdio::piped()).stderr(Stdio::piped()));
    let run = watching.until("index ", LONG);
    let run = run.lines().next().unwrap().strip_prefix("run ").unwrap();
    watching.signal(Signal::INT);
    let stopped = watching.ended(LONG).code();
    let advice = watching.errors();
    let cancel = client(&["cancel", run, "--wait"]).output().unwrap();
    let over = text(&client(&["run", run]).output().unwrap().stdout);
    if over.contains("host-report succeeded") {
        return false;
    }
    assert_eq!(stopped, Some(6), "{advice}");
    assert!(
        advice.contains(&format!("outpost cancel {run}")),
        "{advice}"
    );
    assert!(cancel.status.success(), "{}", text(&cancel.stderr));
    assert!(over.contains("host-report cancelled"), "{over}");
    true
}

#[test]
fn a_demo_that_is_stopped_says_so_and_leaves_nothing() {
    let site = Site::new();
    let mut demo = Running::start(
        outpost()
            .args(["demo", "--dir"])
            .arg(site.dir())
            .stdout(Stdio::piped()),
    );
    demo.until("index ", LONG);
    demo.signal(Signal::TERM);
    assert_eq!(demo.ended(LONG).code(), Some(6));
    assert_eq!(site.processes(), Vec::<String>::new());
}

#[test]
fn a_demo_that_is_killed_leaves_nothing() {
    let site = Site::new();
    let mut demo = Running::start(
        outpost()
            .args(["demo", "--dir"])
            .arg(site.dir())
            .stdout(Stdio::piped()),
    );
    demo.until("index ", LONG);
    assert!(site.processes().len() >= 4, "{:?}", site.processes());
    demo.signal(Signal::KILL);
    demo.ended(LONG);
    let gone = wait_until(LONG, || site.processes().is_empty());
    assert!(gone, "{:?}", site.processes());
}

#[test]
fn dev_comes_up_and_goes() {
    let site = Site::new();
    let mut dev = Running::start(
        outpost()
            .args(["dev", "--dir"])
            .arg(site.dir())
            .stdout(Stdio::piped()),
    );
    dev.until("Ctrl-C ends it.", LONG);
    dev.signal(Signal::INT);
    assert!(dev.ended(LONG).success());
    assert_eq!(site.processes(), Vec::<String>::new());
}
