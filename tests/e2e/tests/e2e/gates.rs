//! The site's last word before a start: approvals and time windows.

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use outpost_e2e::api::attempts_of;
use outpost_e2e::wait::so;
use outpost_e2e::{Agent, Entry, World, eventually};
use serde_json::{Value, json};

#[test]
fn a_start_that_needs_an_approval_has_one_or_is_refused_with_the_reason_here() {
    let world = World::new();
    let entry = Entry::script("guarded", "true")
        .with("needs_approval = true")
        .argument("{param.n}")
        .param("n", "kind = \"int\", min = 1, max = 5");
    let agent = world.agent("bank", &[entry]);
    let api = world.api();
    let workflow =
        |n: u8| format!("name: w{n}\ntasks:\n  t:\n    entry: guarded\n    with: {{n: {n}}}\n");
    for n in [1, 2] {
        let _ = api.apply(&workflow(n)).ok();
    }
    let outcome = |n: u8| {
        let tree = api.finished(&api.trigger(&format!("w{n}"), &json!({})));
        attempts_of(&tree, "t")[0]["outcome"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    assert_eq!(outcome(1), "refused{not_approved}");
    assert!(agent.logged().contains("outpost-agent approve guarded"));
    let _ = agent
        .command_with_catalogue(&["approve", "guarded", "--param", "n=1", "--times", "2"])
        .ok();
    assert_eq!(
        outcome(2),
        "refused{not_approved}",
        "it was approved with another value"
    );
    assert_eq!(outcome(1), "succeeded");
    assert_eq!(outcome(1), "succeeded");
    assert_eq!(outcome(1), "refused{not_approved}", "both are used up");
    assert_eq!(world.starts().len(), 2);
    let _ = agent
        .command_with_catalogue(&["approve", "guarded", "--times", "9"])
        .ok();
    let _ = agent
        .command_with_catalogue(&["approve", "guarded", "--withdraw"])
        .ok();
    assert_eq!(outcome(1), "refused{not_approved}", "it was taken back");
    let why = agent
        .command_with_catalogue(&["approve", "guarded", "--param", "n=9"])
        .fails_with(1);
    assert!(why.contains("from 1 to 5"), "{why}");
}

#[test]
fn a_start_outside_of_its_windows_is_refused_with_the_reason_here() {
    let world = World::new();
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap();
    let hour = now.as_secs() / 3600 % 24;
    let window = |from: u64| {
        format!(
            "windows = [\"{:02}:00-{:02}:00\"]",
            from % 24,
            (from + 4) % 24
        )
    };
    let token = world.token_file(&world.api(), "bank");
    let mut agent = world.enrolled("bank", &token, &[]);
    agent.env = vec![("TZ".to_owned(), "UTC0".to_owned())];
    let fix = |line: String| line.replace("-00:00", "-24:00");
    agent.site.write(&[
        Entry::script("now", "true").with(&fix(window(hour))),
        Entry::script("later", "true").with(&fix(window(hour + 10))),
    ]);
    agent.start();
    let api = world.api();
    agent.live(&api);
    let _ = api
        .apply("name: w\ntasks:\n  now: {entry: now}\n  later: {entry: later}\n")
        .ok();
    let run = api.trigger("w", &json!({}));
    // It is asked for again until its window opens: that is the orchestrator's own affair.
    eventually("the one is done and the other refused", || {
        let tree = api.run(&run)?;
        let of = |task: &str| {
            attempts_of(&tree, task).first()?["outcome"]
                .as_str()
                .map(str::to_owned)
        };
        so(of("now")? == "succeeded" && of("later")? == "refused{time_window}")
    });
    assert_eq!(world.starts_of("later"), 0);
    let logged = agent.logged();
    let why = logged
        .lines()
        .find(|line| line.contains("refused: entry `later`"))
        .unwrap();
    assert!(why.contains("by this site's clock"), "{why}");
    for (_, words) in agent.ledger_words() {
        assert!(!words.contains("clock, which"), "{words}");
    }
}

/// An agent with an entry that needs an approval and a secret; a file that tells that the secret was asked for, and one
/// with which it is there.
fn guarded_with_a_slow_secret() -> (World, Agent, PathBuf, PathBuf) {
    let world = World::new();
    let token = world.token_file(&world.api(), "bank");
    let mut agent = world.enrolled("bank", &token, &[]);
    let home = agent.site.catalogue().parent().unwrap().to_owned();
    let (asked, go, program) = (home.join("asked"), home.join("go"), home.join("source.sh"));
    let text = format!(
        ": > {}\nuntil test -e {}; do sleep 0.05; done\necho value\n",
        asked.display(),
        go.display()
    );
    std::fs::write(&program, text).unwrap();
    let secrets = format!(
        "[secret.slow]\ncommand = [\"/bin/sh\", \"{}\"]\n",
        program.display()
    );
    let file = home.join("secrets.toml");
    std::fs::write(&file, secrets).unwrap();
    for file in [&file, &program] {
        std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o644)).unwrap();
    }
    agent.site.write(&[guarded("first")]);
    agent.start();
    agent.live(&world.api());
    let _ = world
        .api()
        .apply("name: w\ntasks:\n  t: {entry: guarded}\n")
        .ok();
    (world, agent, asked, go)
}

fn guarded(description: &str) -> Entry {
    Entry::script("guarded", "true")
        .with("needs_approval = true")
        .with("secret.slow = { as = \"fd\" }")
        .with(&format!("description = \"{description}\""))
}

fn approvals(agent: &Agent, args: &[&str]) -> Vec<Value> {
    let all = [&["approve", "--output", "json"], args].concat();
    let said = agent.command_with_catalogue(&all).ok();
    serde_json::from_str::<Vec<Value>>(&said).unwrap()
}

#[test]
fn an_approval_that_is_taken_back_while_secrets_are_fetched_starts_nothing() {
    let (world, agent, asked, go) = guarded_with_a_slow_secret();
    let api = world.api();
    let run = api.trigger("w", &json!({}));
    let tree = api.finished(&run);
    assert_eq!(
        attempts_of(&tree, "t")[0]["outcome"],
        "refused{not_approved}"
    );
    assert!(
        !asked.exists(),
        "nothing is fetched for what is not approved"
    );
    assert_eq!(approvals(&agent, &["guarded"]).len(), 1);
    let run = api.trigger("w", &json!({}));
    eventually("the source is asked", || so(asked.exists()));
    assert_eq!(approvals(&agent, &[]).len(), 1, "it is not used up yet");
    assert_eq!(approvals(&agent, &["guarded", "--withdraw"]).len(), 0);
    std::fs::write(&go, "").unwrap();
    let tree = api.finished(&run);
    assert_eq!(
        attempts_of(&tree, "t")[0]["outcome"],
        "refused{not_approved}"
    );
    assert!(world.starts().is_empty());
    // And one that stays is used up by the start.
    assert_eq!(approvals(&agent, &["guarded"]).len(), 1);
    let _ = api.succeeded(&api.trigger("w", &json!({})));
    assert_eq!(approvals(&agent, &[]).len(), 0);
    assert_eq!(world.starts().len(), 1);
}

#[test]
fn a_catalogue_that_is_read_while_secrets_are_fetched_counts_for_what_waits_for_them() {
    let (world, agent, asked, go) = guarded_with_a_slow_secret();
    let api = world.api();
    assert_eq!(approvals(&agent, &["guarded"]).len(), 1);
    let run = api.trigger("w", &json!({}));
    eventually("the source is asked", || so(asked.exists()));
    agent.site.write(&[guarded("second")]);
    let _ = agent.command(&["reload"]).ok();
    std::fs::write(&go, "").unwrap();
    // It goes back unstarted, and comes again under the catalogue in force; the approval was not used up.
    let tree = api.succeeded(&run);
    let outcomes = attempts_of(&tree, "t");
    let outcomes = outcomes.iter().map(|one| one["outcome"].as_str().unwrap());
    assert_eq!(
        outcomes.collect::<Vec<_>>(),
        ["refused{catalogue_version}", "succeeded"]
    );
    let refusals = agent.command(&["refusals"]).ok();
    assert!(
        refusals.contains("which was read while what the attempt needs was being made ready"),
        "{refusals}"
    );
    assert_eq!(world.starts().len(), 1);
    assert_eq!(approvals(&agent, &[]).len(), 0);
}

#[test]
fn starts_of_the_last_hour_count_over_a_restart_of_the_agent() {
    let world = World::new();
    let entry = Entry::script("seldom", "true").with("max_per_hour = 2");
    let mut agent = world.agent("bank", &[entry]);
    let api = world.api();
    let _ = api.apply("name: w\ntasks:\n  t: {entry: seldom}\n").ok();
    for _ in 0..2 {
        let _ = api.succeeded(&api.trigger("w", &json!({})));
    }
    agent.kill_runner();
    // How old a task says that an attempt is counts for nothing.
    let attempts = std::fs::read_dir(agent.state.join("attempts")).unwrap();
    for attempt in attempts.flatten() {
        if let Ok(claim) = std::fs::File::open(attempt.path().join("claim")) {
            claim.set_modified(std::time::UNIX_EPOCH).unwrap();
        }
    }
    agent.start();
    agent.live(&api);
    let run = api.trigger("w", &json!({}));
    // It is asked for again and again: that is the orchestrator's own affair.
    eventually("the third one is refused", || {
        let attempts = attempts_of(&api.run(&run)?, "t");
        so(attempts.first()?["outcome"] == "refused{rate}")
    });
    assert_eq!(world.starts().len(), 2);
    let refusals = agent.command(&["refusals"]).ok();
    assert!(refusals.contains("`max_per_hour` is used up"), "{refusals}");
}
