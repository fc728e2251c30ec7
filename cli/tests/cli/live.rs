//! The main flows against a real orchestrator and a real agent, as a workflow author and an operator go through them.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::support::{Running, Site, outpost, refused, text, wait_until};

const LONG: Duration = Duration::from_secs(90);

/// `outpost dev` with entries that do what a test needs.
struct Dev {
    site: Site,
    running: Running,
    about: Value,
}

impl Dev {
    fn new() -> Self {
        let site = Site::new();
        let catalogue = site.base().join("catalogue");
        std::fs::create_dir(&catalogue).unwrap();
        let user = if rustix::process::geteuid().is_root() {
            "user = \"nobody\"\n"
        } else {
            ""
        };
        let gate = site.base().join("gate").display().to_string();
        let entry = |name: &str, argv: &str| {
            format!("[entry.{name}]\nargv = {argv}\nretry_safe = true\n{user}")
        };
        let text = [
            entry("quick", r#"["/bin/true"]"#),
            entry("gated", &format!(r#"["/usr/bin/test", "-e", "{gate}"]"#)),
            entry("long", r#"["/bin/sh", "{catalogue}/scripts/long.sh"]"#),
        ];
        std::fs::write(catalogue.join("test.toml"), text.join("\n")).unwrap();
        let script = format!("while ! test -e {gate}; do sleep 0.05; done\n");
        std::fs::create_dir(catalogue.join("scripts")).unwrap();
        std::fs::write(catalogue.join("scripts/long.sh"), script).unwrap();
        let mut running = Running::start(
            outpost()
                .args(["dev", "--output", "json", "--dir"])
                .arg(site.dir())
                .arg("--catalogue")
                .arg(&catalogue)
                .stdout(Stdio::piped()),
        );
        let about = serde_json::from_str(&running.until("}", LONG)).unwrap();
        Self {
            site,
            running,
            about,
        }
    }

    fn outpost(&self, args: &[&str]) -> Command {
        let mut command = outpost();
        command
            .args(args)
            .current_dir(self.site.base())
            .env("OUTPOST_SERVER", self.about["server"].as_str().unwrap())
            .env(
                "OUTPOST_TOKEN_FILE",
                self.about["token_file"].as_str().unwrap(),
            );
        command
    }

    #[track_caller]
    fn said(&self, args: &[&str]) -> String {
        let output = self.outpost(args).output().unwrap();
        assert!(
            output.status.success(),
            "{args:?}: {}",
            text(&output.stderr)
        );
        text(&output.stdout)
    }

    #[track_caller]
    fn json(&self, args: &[&str]) -> Value {
        let output = self
            .outpost(args)
            .args(["--output", "json"])
            .output()
            .unwrap();
        assert!(
            !output.stdout.is_empty(),
            "{args:?}: {}",
            text(&output.stderr)
        );
        serde_json::from_slice(&output.stdout).unwrap()
    }

    fn file(&self, name: &str, text: &str) {
        let path = self.site.base().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    fn gate(&self) -> PathBuf {
        self.site.base().join("gate")
    }

    /// Kills the orchestrator; `dev` starts it again.
    fn kill_orchestrator(&self) {
        let processes = self.site.processes();
        let line = processes.iter().find(|it| it.contains(" serve ")).unwrap();
        let pid = line.split(':').next().unwrap().parse().unwrap();
        kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.running.signal(Signal::INT);
            self.running.ended(LONG);
        }
    }
}

const NIGHTLY: &str = "\
name: nightly
description: Dumps at night
schedule:
  cron: \"30 2 * * 1-5\"
  timezone: Europe/Berlin
tasks:
  first:
    entry: quick
  second:
    entry: gated
    needs: [first]
  third:
    entry: quick
    needs: [second]
";

#[test]
fn an_author_validates_applies_schedules_and_mends_a_workflow() {
    let dev = Dev::new();
    check_and_apply(&dev);
    change_and_schedule(&dev);
    fail_and_mend(&dev);
}

fn check_and_apply(dev: &Dev) {
    dev.file("flows/nightly.yaml", NIGHTLY);
    dev.file(
        "flows/more/long.yml",
        "name: long\ntasks:\n  wait:\n    entry: long\n",
    );
    assert!(
        dev.said(&["validate", "flows"])
            .contains("nightly.yaml: valid: nightly, 3 tasks")
    );
    let dry = dev.said(&["apply", "-f", "flows", "--dry-run"]);
    assert_eq!(dry.matches("would be created").count(), 2, "{dry}");
    assert_eq!(dev.json(&["workflows"])["items"], serde_json::json!([]));
    assert_eq!(
        dev.said(&["apply", "-f", "flows"])
            .matches("\tcreated")
            .count(),
        2
    );
    assert_eq!(
        dev.said(&["apply", "-f", "flows"])
            .matches("\tunchanged")
            .count(),
        2
    );
    assert_eq!(
        dev.outpost(&["diff", "flows"])
            .output()
            .unwrap()
            .status
            .code(),
        Some(0)
    );
}

fn change_and_schedule(dev: &Dev) {
    dev.file("flows/nightly.yaml", &NIGHTLY.replace("30 2", "45 3"));
    let diff = dev
        .outpost(&["diff", "flows/nightly.yaml"])
        .output()
        .unwrap();
    assert_eq!(diff.status.code(), Some(1));
    assert!(
        text(&diff.stdout).contains("~ schedule.cron: 30 2 * * 1-5 -> 45 3 * * 1-5"),
        "{}",
        text(&diff.stdout)
    );
    assert_eq!(
        dev.said(&["apply", "flows/nightly.yaml"]),
        "nightly version 2: updated\n"
    );

    let instants = dev.json(&["schedule", "nightly", "--count", "3"]);
    let instants = instants["items"].as_array().unwrap();
    assert_eq!(instants.len(), 3);
    assert!(
        instants
            .iter()
            .all(|it| it["in_zone"].as_str().unwrap().contains("T03:45:00")),
        "{instants:?}"
    );
    dev.said(&["pause", "nightly"]);
    assert_eq!(dev.json(&["workflows"])["items"][1]["paused"], true);
    assert!(
        dev.said(&["resume", "nightly"])
            .contains("next scheduled run")
    );
    // What runs from now on is what is asked for, also when the schedule's next instant falls into it.
    dev.said(&["pause", "nightly"]);
}

fn fail_and_mend(dev: &Dev) {
    let run = dev
        .outpost(&["trigger", "nightly", "--wait"])
        .output()
        .unwrap();
    assert_eq!(run.status.code(), Some(1), "{}", text(&run.stderr));
    assert!(
        text(&run.stderr).contains("failed: second"),
        "{}",
        text(&run.stderr)
    );
    let run = dev.json(&["runs", "--limit", "1"])["items"][0]["run"]
        .as_str()
        .unwrap()
        .to_owned();
    let short = &run[..8];
    assert!(dev.said(&["explain", short]).contains("upstream_failed"));
    std::fs::write(dev.gate(), "").unwrap();
    let again = dev.said(&["rerun", short, "--wait"]);
    assert!(
        again.starts_with(&format!("run {run}: again second, third\n")),
        "{again}"
    );
    assert!(
        !again.contains("first"),
        "only what is new is told: {again}"
    );
    assert!(again.contains("third   succeeded"), "{again}");
    assert_eq!(dev.json(&["run", short])["state"], "succeeded");
    refused(
        &mut dev.outpost(&["rerun", short]),
        5,
        &["error[cannot_rerun]", "--task"],
    );
    refused(
        &mut dev.outpost(&["rerun", short, "--task", "secnod"]),
        5,
        &["did you mean `second`?"],
    );
    refused(
        &mut dev.outpost(&["trigger", "nihgtly"]),
        5,
        &["did you mean `nightly`?"],
    );

    dev.said(&["delete", "workflow", "nightly", "--yes"]);
    assert_eq!(
        dev.json(&["workflows"])["items"].as_array().unwrap().len(),
        1
    );
    assert_eq!(dev.json(&["run", short])["state"], "succeeded");
}

#[test]
fn watching_outlives_a_killed_orchestrator_and_tells_everything_once() {
    let dev = Dev::new();
    dev.file("long.yaml", "name: long\ntasks:\n  wait:\n    entry: long\n  after:\n    entry: quick\n    needs: [wait]\n");
    dev.said(&["apply", "long.yaml"]);
    let run = dev.json(&["trigger", "long"])["run"]
        .as_str()
        .unwrap()
        .to_owned();
    let mut watch = dev.outpost(&["watch", &run[..12]]);
    let mut watch = Running::start(watch.stdout(Stdio::piped()).stderr(Stdio::piped()));
    watch.until("wait   running", LONG);
    dev.kill_orchestrator();
    let back = || dev.outpost(&["runs"]).output().unwrap().status.success();
    assert!(wait_until(LONG, back));
    std::fs::write(dev.gate(), "").unwrap();
    let rest = watch.until("run    ", LONG);
    assert!(watch.ended(LONG).success());
    for (line, times) in [
        ("wait   running", 0),
        ("wait   succeeded", 1),
        ("after  succeeded", 1),
        ("run    succeeded", 1),
    ] {
        assert_eq!(rest.matches(line).count(), times, "{line}: {rest}");
    }
    assert!(watch.errors().contains("trying again"));
}

#[test]
fn an_operator_labels_limits_cordons_and_drains_an_agent() {
    let dev = Dev::new();
    dev.file(
        "long.yaml",
        "name: long\nselector: {disk: fast}\ntasks:\n  wait:\n    entry: long\n",
    );
    let applied = dev.outpost(&["apply", "long.yaml"]).output().unwrap();
    assert!(applied.status.success(), "{}", text(&applied.stderr));
    let run = dev.json(&["trigger", "long"])["run"]
        .as_str()
        .unwrap()
        .to_owned();
    let code = |run: &str| why(&dev, run);
    assert!(
        wait_until(LONG, || code(&run) == "no_agent_with_labels"),
        "{}",
        code(&run)
    );
    assert_eq!(
        dev.said(&["agents", "label", "site-1", "zone=eu", "disk=fast"]),
        "site-1 has the labels disk=fast,zone=eu\n"
    );
    let state = |run: &str| {
        dev.json(&["run", run])["tasks"][0]["attempts"][0]["state"]
            .as_str()
            .map(str::to_owned)
    };
    assert!(wait_until(LONG, || state(&run).as_deref() == Some("running")));
    assert_eq!(
        dev.said(&["agents", "label", "site-1", "zone-"]),
        "site-1 has the labels disk=fast\n"
    );
    assert_eq!(
        dev.said(&["agents", "queues", "site-1", "default", "big"]),
        "site-1 serves default, big\n"
    );
    dev.said(&["agents", "slots", "site-1", "2"]);
    let shown = dev.json(&["agents", "show", "site-1"]);
    assert_eq!(shown["labels"], serde_json::json!({"disk": "fast"}));
    assert_eq!(shown["slots_limit"], 2);
    dev.said(&["agents", "slots", "site-1", "none"]);
    assert_eq!(
        dev.json(&["agents", "show", "site-1"])["slots_limit"],
        Value::Null
    );
    empty_and_fill(&dev);
}

fn empty_and_fill(dev: &Dev) {
    let code = |run: &str| why(dev, run);
    refused_with_output(
        &mut dev.outpost(&["agents", "drain", "site-1", "--wait", "--timeout", "1s"]),
        1,
        "it still has 1 attempt",
    );
    let next = dev.json(&["trigger", "long"])["run"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(
        wait_until(LONG, || code(&next) == "agent_draining"),
        "{}",
        code(&next)
    );
    std::fs::write(dev.gate(), "").unwrap();
    let drained = dev.said(&["agents", "drain", "site-1", "--wait", "--timeout", "1m"]);
    assert!(
        drained.ends_with("site-1 is drained: nothing runs there\n"),
        "{drained}"
    );
    assert!(dev.said(&["agents", "list"]).contains("draining"));
    dev.said(&["agents", "uncordon", "site-1"]);
    assert_eq!(
        dev.outpost(&["watch", &next])
            .output()
            .unwrap()
            .status
            .code(),
        Some(0)
    );
    dev.said(&["agents", "cordon", "site-1"]);
    assert_eq!(dev.json(&["agents", "show", "site-1"])["cordoned"], true);
    refused(
        &mut dev.outpost(&["agents", "cordon", "site1"]),
        5,
        &["did you mean `site-1`?"],
    );
}

/// Why a run's first task is where it is.
fn why(dev: &Dev, run: &str) -> String {
    let items = &dev.json(&["explain", run])["items"];
    items[0]["code"].as_str().unwrap().to_owned()
}

#[track_caller]
fn refused_with_output(command: &mut Command, status: i32, part: &str) {
    let output = command.output().unwrap();
    assert_eq!(
        output.status.code(),
        Some(status),
        "{}",
        text(&output.stderr)
    );
    assert!(
        text(&output.stderr).contains(part),
        "{}",
        text(&output.stderr)
    );
}

#[test]
fn dev_starts_from_nothing_in_the_same_place() {
    let site = Site::new();
    let start = |more: &[&str]| {
        let mut command = outpost();
        command
            .args(["dev", "--output", "json", "--dir"])
            .arg(site.dir())
            .args(more);
        Running::start(command.stdout(Stdio::piped()))
    };
    let mut dev = start(&[]);
    dev.until("}", LONG);
    refused(
        outpost()
            .args(["dev", "--reset", "--yes", "--dir"])
            .arg(site.dir()),
        2,
        &["runs in it"],
    );
    dev.signal(Signal::INT);
    assert!(dev.ended(LONG).success());
    let token = std::fs::read(site.dir().join("orchestrator/admin.token")).unwrap();
    std::fs::write(site.dir().join("mine"), "mine").unwrap();
    refused(
        outpost().args(["dev", "--dir"]).arg(site.dir()),
        2,
        &["--reset"],
    );
    refused(
        outpost().args(["dev", "--reset", "--dir"]).arg(site.dir()),
        2,
        &["--yes"],
    );
    std::fs::remove_file(site.dir().join("mine")).unwrap();
    let mut dev = start(&["--reset", "--yes"]);
    dev.until("}", LONG);
    assert_ne!(
        std::fs::read(site.dir().join("orchestrator/admin.token")).unwrap(),
        token
    );
    dev.signal(Signal::INT);
    assert!(dev.ended(LONG).success());
}

#[test]
fn https_is_spoken_with_the_authority_that_was_named() {
    let base = tempfile::tempdir().unwrap();
    let dir = base.path().join("o");
    let init = outpost()
        .args(["orchestrator-main", "init", "--dir"])
        .arg(&dir)
        .output()
        .unwrap();
    assert!(init.status.success(), "{}", text(&init.stderr));
    let ready = base.path().join("ready.json");
    let mut serve = outpost();
    // An address that is not loopback: TLS only. It is reached over loopback nevertheless.
    serve
        .args([
            "orchestrator-main",
            "serve",
            "--agents",
            "127.0.0.1:0",
            "--api",
            "0.0.0.0:0",
            "--dir",
        ])
        .arg(&dir);
    serve
        .arg("--ready-file")
        .arg(&ready)
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let _serving = Running::start(&mut serve);
    let read = || serde_json::from_slice::<Value>(&std::fs::read(&ready).ok()?).ok();
    assert!(wait_until(LONG, || read().is_some()));
    let api = read().unwrap()["api"].as_str().unwrap().to_owned();
    let port = api.rsplit(':').next().unwrap();
    let (token, root) = (dir.join("admin.token"), dir.join("ca/root.crt"));
    let ask = |server: &str, ca: bool| {
        let mut command = outpost();
        command
            .args(["runs", "--server", server, "--token-file"])
            .arg(&token);
        if ca {
            command.arg("--ca").arg(&root);
        }
        command
    };
    let url = format!("https://127.0.0.1:{port}");
    assert!(ask(&url, true).output().unwrap().status.success());
    assert!(
        ask(&format!("https://localhost:{port}"), true)
            .output()
            .unwrap()
            .status
            .success()
    );
    refused(
        &mut ask(&url, false),
        3,
        &["error[unreachable]", "--ca", "ca/root.crt"],
    );
    refused(
        &mut ask(&format!("https://127.0.0.9:{port}"), true),
        3,
        &["other names", "init --name"],
    );
    refused(
        &mut ask(&format!("http://127.0.0.1:{port}"), true),
        3,
        &["write https://"],
    );
    by_context(base.path(), &url, &token, &root);
}

/// The same, named once.
fn by_context(base: &Path, url: &str, token: &Path, root: &Path) {
    let home = base.join("home");
    let at = |args: &[&str]| {
        let mut command = outpost();
        command.args(args).env("XDG_CONFIG_HOME", &home);
        command
    };
    let added = at(&["context", "add", "tls", "--server", url, "--token-file"])
        .arg(token)
        .arg("--ca")
        .arg(root)
        .output()
        .unwrap();
    assert!(added.status.success(), "{}", text(&added.stderr));
    assert!(at(&["runs"]).output().unwrap().status.success());
    let wrong = base.join("wrong.pem");
    std::fs::write(&wrong, "nothing\n").unwrap();
    refused(at(&["runs", "--ca"]).arg(&wrong), 2, &["no certificate"]);
}
