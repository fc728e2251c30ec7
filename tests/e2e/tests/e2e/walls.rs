//! What a task can do to the agent's account besides reading its files, with the real agent: files that something executes
//! or obeys later, modes, services with named sockets. As root the account of its entry is the wall; for an ordinary
//! account, which agent and task share, Landlock and a filter of system calls are, and what the agent sees to itself.

use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use outpost_e2e::agent::Agent;
use outpost_e2e::api::{Api, attempts_of};
use outpost_e2e::site::{is_root, mode};
use outpost_e2e::wait::so;
use outpost_e2e::{Entry, World, eventually};
use serde_json::json;

/// Runs one task of this entry to its end; how it ended.
fn runs(api: &Api, entry: &str) -> String {
    let workflow = format!("name: {entry}\ntasks:\n  t: {{entry: {entry}}}\n");
    let _ = api.apply(&workflow).ok();
    let run = api.trigger(entry, &json!({}));
    let outcome = &attempts_of(&api.finished(&run), "t")[0]["outcome"];
    outcome.as_str().unwrap().to_owned()
}

/// An agent whose account has a home and a runtime directory of the test's own.
fn at_home(world: &World, entries: impl Fn(&Path) -> Vec<Entry>) -> (Agent, PathBuf) {
    let home = world.dir().join("home");
    for dir in [".ssh", ".config/systemd/user", "declared", "run"] {
        std::fs::create_dir_all(home.join(dir)).unwrap();
    }
    for file in [".bashrc", ".ssh/authorized_keys"] {
        std::fs::write(home.join(file), "as it was\n").unwrap();
    }
    for dir in ["", "run"] {
        mode(&home.join(dir), 0o755);
    }
    mode(&home.join("declared"), 0o777);
    let api = world.api();
    let token = world.token_file(&api, "site-1");
    let mut agent = world.enrolled("site-1", &token, &entries(&home));
    for (variable, dir) in [
        ("HOME", home.clone()),
        ("XDG_RUNTIME_DIR", home.join("run")),
    ] {
        let dir = dir.to_string_lossy().into_owned();
        agent.env.push((variable.to_owned(), dir));
    }
    agent.start();
    agent.live(&api);
    (agent, home)
}

const LATER: &str = r#"for line in 'echo x >> $home/.bashrc' 'echo x > $home/.ssh/authorized_keys' 'touch $home/.profile' \
    'touch $home/.config/systemd/user/x.service' 'touch $home/run/x' 'rm $home/.bashrc' 'mv $home/.ssh $home/.away'; do
  if (eval "$line") 2> /dev/null; then echo "$line" >> $shared/tried; fi
done
cat $home/.bashrc > /dev/null
touch $home/declared/$OUTPOST_ENTRY"#;

#[test]
fn k16_what_the_account_executes_later_stays_as_it_is_but_for_what_an_entry_declares() {
    let world = World::new();
    let (agent, home) = at_home(&world, |home| {
        let script = format!("home={}\n{LATER}", home.display());
        let declared = format!("writes = [\"{}\"]", home.join("declared").display());
        let own = format!("writes = [\"{}\"]", world.dir().display());
        vec![
            Entry::script("declares", &script).with(&declared),
            Entry::script("silent", &script),
            Entry::script("wide", "true").with(&own),
        ]
    });
    let api = world.api();
    assert_eq!(runs(&api, "declares"), "succeeded");
    // As root permissions decide, which let everybody write there.
    let silent = if is_root() { "succeeded" } else { "failed" };
    assert_eq!(runs(&api, "silent"), silent);
    assert!(
        !world.shared("tried").exists(),
        "{:?}",
        std::fs::read_to_string(world.shared("tried"))
    );
    for file in [".bashrc", ".ssh/authorized_keys"] {
        assert_eq!(
            std::fs::read_to_string(home.join(file)).unwrap(),
            "as it was\n"
        );
    }
    assert!(home.join("declared/declares").exists());
    assert_eq!(home.join("declared/silent").exists(), is_root());
    if !is_root() {
        assert_eq!(runs(&api, "wide"), "start_failed{permission}");
        let why = "is closed to tasks: name what the task needs and no more";
        assert!(agent.logged().contains(why), "told at the site");
    }
}

#[test]
fn k14_services_of_the_account_are_out_of_reach_unless_the_entry_says_otherwise() {
    let world = World::new();
    let service = world.shared("service");
    let listener = UnixDatagram::bind(&service).unwrap();
    mode(&service, 0o777);
    listener.set_nonblocking(true).unwrap();
    let body = format!("logger -d -u {} hello || true", service.display());
    let entries = [
        Entry::script("plain", &body),
        Entry::script("speaks", &body).with("unix_sockets = true"),
    ];
    let agent = world.agent("site-1", &entries);
    let api = world.api();
    for (entry, reaches) in [("plain", is_root()), ("speaks", true)] {
        assert_eq!(runs(&api, entry), "succeeded");
        assert_eq!(listener.recv(&mut [0; 256]).is_ok(), reaches, "{entry}");
    }
    let lint = agent.command_with_catalogue(&["catalogue", "lint"]);
    let told = lint.out.contains("unix_sockets") || lint.err.contains("unix_sockets");
    assert_eq!(told, !is_root(), "{lint:?}");
}

#[test]
fn k16_an_attempt_that_a_task_closes_to_the_agent_comes_to_its_end_all_the_same() {
    let world = World::new();
    let mut agent = world.agent("site-1", &[Entry::script("plain", "true")]);
    let script = format!(
        "dir={}/attempts/$OUTPOST_ATTEMPT
chmod 0 $dir/claim $dir/keeper.sock $dir || true
until [ -e $shared/go ]; do sleep 0.05; done",
        agent.state.display()
    );
    let api = world.api();
    let workflow = "name: w\ntasks:\n  t: {entry: closes}\n";
    agent.offers(&api, &[Entry::script("closes", &script)], workflow);
    let run = api.trigger("w", &json!({}));
    let attempt = api.attempt_in(&run, "t", "running");
    let dir = agent.state.join("attempts").join(attempt);
    let closed = || dir.symlink_metadata().unwrap().mode() & 0o777 == 0;
    if !is_root() {
        eventually("it is closed", || so(closed()));
    }
    agent.kill_runner();
    agent.start();
    agent.live(&api);
    std::fs::write(world.shared("go"), "").unwrap();
    let _ = api.succeeded(&run);
    if !is_root() {
        assert!(agent.logged().contains("is closed to the agent itself"));
    }
}

#[test]
fn k16_modes_that_a_task_changes_are_put_back_and_told() {
    let world = World::new();
    // The agent may look between any two of them: the last one is told last.
    let body = "for change in '0 $STATE/ledger' '755 $STATE' '755 $STATE/keys' '644 $STATE/keys/agent.key'; do
  chmod $change || true
done";
    let mut agent = world.agent("site-1", &[Entry::script("plain", "true")]);
    let script = body.replace("$STATE", &agent.state.display().to_string());
    let api = world.api();
    let workflow = "name: opens\ntasks:\n  t: {entry: opens}\n";
    agent.offers(&api, &[Entry::script("opens", &script)], workflow);
    let state = agent.state.clone();
    let at = |path: &str| state.join(path).metadata().unwrap().mode() & 0o777;
    let right = || (at(""), at("keys"), at("keys/agent.key"), at("ledger"));
    let before = right();
    assert_eq!(before, (0o711, 0o700, 0o600, 0o700));
    assert_eq!(runs(&api, "opens"), "succeeded");
    let changed = "chmod 755 STATE STATE/keys && chmod 644 STATE/keys/agent.key";
    if is_root() {
        assert_eq!(right(), before, "another account changes nothing");
        // The same by root itself, which is nobody's task.
        let changed = changed.replace("STATE", &agent.state.display().to_string());
        let done = std::process::Command::new("/bin/sh")
            .args(["-c", &changed])
            .status();
        assert!(done.unwrap().success());
    }
    eventually("all modes are put back", || so(right() == before));
    eventually("it is told at the site", || {
        so(agent.logged().contains("agent.key is open to others"))
    });
    let status = agent.status().unwrap();
    let trouble = status["numbers"]["last_trouble"]["what"].as_str().unwrap();
    assert!(trouble.contains("open to others"), "{trouble}");
    // What was wrong while no agent ran is put right at the start.
    agent.kill_runner();
    mode(&state.join("keys/agent.key"), 0o640);
    agent.start();
    eventually("the key is the agent's only", || so(right() == before));
}
