//! What a purge takes and leaves, and whose the files of a state directory are.

use std::os::unix::fs::FileTypeExt as _;

use super::*;

#[test]
fn purge_takes_everything_of_a_run_and_nothing_of_another() {
    let world = World::new();
    let api = world.api();
    let mut agent = world.agent("site-1", &entries());
    let _ = api.apply(TWO).ok();
    world.allow("go.first");
    world.allow("go.second");
    let runs = [(), ()].map(|()| {
        let run = api.trigger("two", &json!({}));
        let _ = api.succeeded(&run);
        run
    });
    // One runs on.
    std::fs::remove_file(world.shared("go.first")).unwrap();
    let running = api.trigger("two", &json!({}));
    let attempt = api.attempt_in(&running, "first", "running");
    let error = agent.command(&["purge", &running, "--yes"]).fails_with(1);
    assert!(error.contains("run or wait here"), "{error}");
    assert!(agent.attempt_dir(&attempt).exists());
    let error = agent.command(&["purge", &runs[0]]).fails_with(1);
    assert!(error.contains("--yes"), "{error}");
    let error = agent.command(&["purge", &attempt, "--yes"]).fails_with(1);
    assert!(error.contains("name the run"), "{error}");

    let ledger = agent.ledger_words().len();
    let before = saying(&agent.state, CANARY).len();
    let gone = [
        attempt_of(&api, &runs[0], "first"),
        attempt_of(&api, &runs[0], "second"),
    ];
    let done = agent
        .command(&["purge", &runs[0], "--yes", "--output", "json"])
        .ok();
    let done: Value = serde_json::from_str(&done).unwrap();
    assert_eq!(done["run"], runs[0].as_str());
    assert_eq!(done["attempts"].as_array().unwrap().len(), 2, "{done:#}");
    assert_eq!(
        done["being_removed"].as_array().unwrap().len(),
        0,
        "{done:#}"
    );
    for attempt in &gone {
        assert!(!agent.attempt_dir(attempt).exists());
        let _ = agent.command(&["logs", attempt]).fails_with(1);
    }
    assert!(!agent.state.join("runs").join(&runs[0]).exists());
    assert!(agent.state.join("runs").join(&runs[1]).exists());
    assert!(saying(&agent.state, CANARY).len() < before);
    assert!(
        agent.ledger_words().len() >= ledger,
        "what left the site stays on record"
    );
    // The one that runs is not touched, and an agent that comes back finds nothing amiss.
    world.allow("go.first");
    let _ = api.succeeded(&running);
    assert_eq!(agent.terminate_within(Duration::from_secs(20)), Some(0));
    let _ = agent.command(&["purge", &runs[1][..12], "--yes"]).ok();
    assert!(!agent.state.join("runs").join(&runs[1]).exists());
    let _ = agent.command(&["purge", &running, "--yes"]).ok();
    assert_eq!(saying(&agent.state, CANARY), [""; 0].map(PathBuf::from));
    agent.start();
    agent.live(&api);
    let run = api.trigger("two", &json!({}));
    let _ = api.succeeded(&run);
}

/// The files below that name it, in what they hold or how they are called.
fn naming(dir: &Path, id: &str) -> Vec<String> {
    let name = |path: PathBuf| path.strip_prefix(dir).unwrap().display().to_string();
    let named = files(dir).into_iter().filter(|path| {
        path.file_name()
            .is_some_and(|name| name.to_string_lossy().contains(id))
    });
    let named = saying(dir, id).into_iter().chain(named).map(name);
    let mut named = named.collect::<Vec<_>>();
    named.sort();
    named.dedup();
    named
}

/// Of a purged run, one file of the state directory and no other says anything: the journal.
#[test]
fn a_purged_run_is_named_by_the_journal_and_by_nothing_else() {
    let world = World::new();
    let api = world.api();
    let (mut agent, _) = sealing(&world, "site-1");
    let number = Entry::script("number", "echo $1 > \"$OUTPOST_RUN_DIR/rows\"")
        .argument("{param.n}")
        .param("n", "kind = \"int\", min = 0, max = 9");
    let workflow = "name: some\ntasks:\n  good: {entry: number, with: {n: 7}}\n  bad: {entry: number, with: {n: 61234567}}\n";
    agent.offers(&api, &[number], workflow);
    let runs = [(), ()].map(|()| {
        let run = api.trigger("some", &json!({}));
        let _ = api.finished(&run);
        eventually("the run rests", || {
            agent.state.join("seals").join(&run).exists().then_some(())
        });
        run
    });
    let refused = || agent.command(&["refusals"]).ok();
    let of = |run: &str| naming(&agent.state, run);
    assert!(
        of(&runs[0]).contains(&"refusals".to_owned()),
        "{:?}",
        of(&runs[0])
    );
    let done = agent
        .command(&["purge", &runs[0], "--yes", "--output", "json"])
        .ok();
    let done: Value = serde_json::from_str(&done).unwrap();
    assert_eq!(done["refusals"], 1, "{done:#}");
    assert_eq!(of(&runs[0]), ["journal"]);
    assert!(of(&runs[1]).contains(&"refusals".to_owned()));
    assert_eq!(refused().matches("61234567").count(), 1, "{}", refused());
    // Also without the agent.
    assert_eq!(agent.terminate_within(Duration::from_secs(20)), Some(0));
    let _ = agent.command(&["purge", &runs[1][..16], "--yes"]).ok();
    let left = naming(&agent.state, &runs[1]);
    assert_eq!(left, ["journal"]);
}

/// Everything in the state directory: who owns it, and what its mode says to others.
fn walk(agent: &Agent, what: &str) {
    let own = rustix::process::geteuid().as_raw();
    let top = agent.state.metadata().unwrap();
    let link = agent.state.join("keys").metadata().unwrap().uid();
    assert_eq!((top.uid(), top.mode() & 0o7777), (own, 0o711), "{what}");
    for path in files(&agent.state) {
        let Ok(meta) = path.symlink_metadata() else {
            continue;
        };
        let name = path.strip_prefix(&agent.state).unwrap().to_path_buf();
        let parts = name.iter().map(|part| part.to_string_lossy().into_owned());
        let parts = parts.collect::<Vec<_>>();
        let (mode, owner, kind) = (meta.mode() & 0o7777, meta.uid(), meta.file_type());
        let told = format!("{what}: {} {mode:o} of {owner}", name.display());
        match (parts[0].as_str(), parts.len()) {
            // Passed through by tasks of other accounts, who can list nothing.
            ("work" | "runs", 1) => assert_eq!((mode, owner), (0o711, own), "{told}"),
            // A working directory and what is in it: the task's own.
            ("work", 2) => assert_eq!(mode, 0o700, "{told}"),
            ("work", _) => {}
            // Shared by the accounts of one run: as /tmp, below what cannot be listed.
            ("runs", 2) => {
                assert_eq!(owner, own, "{told}");
                assert!(matches!(mode, 0o700 | 0o1777), "{told}");
                assert_eq!(mode == 0o1777, is_root() && parts[1] != ".spare", "{told}");
            }
            ("runs", _) => assert_eq!(mode & 0o022 & !(mode >> 9 & 0o022), mode & 0o022, "{told}"),
            // Link's own, which has an account of its own where the agent is root.
            ("keys", _) => {
                assert!([own, link].contains(&owner), "{told}");
                assert_eq!(mode, if kind.is_dir() { 0o700 } else { 0o600 }, "{told}");
            }
            _ if kind.is_dir() => assert_eq!((mode, owner), (0o700, own), "{told}"),
            _ if kind.is_socket() => {
                assert_eq!(owner, own, "{told}");
                assert_eq!(mode & 0o077, 0, "{told}");
            }
            _ => {
                assert_eq!(owner, own, "{told}");
                assert_eq!(mode & 0o177, 0, "{told}");
            }
        }
    }
}

/// Rich: two tasks, outputs, a run that goes on, a purge, secrets of nobody.
fn rich_run(name: &str, umask: Option<&str>) {
    let world = World::new();
    let api = world.api();
    let token = world.token_file(&api, name);
    let mut agent = world.enrolled(name, &token, &entries());
    if let Some(umask) = umask {
        let program = agent.state.with_file_name("agent.sh");
        let built = outpost_e2e::binaries::Binary::Agent.path();
        let text = format!(
            "#!/bin/sh\numask {umask}\nexec {} \"$@\"\n",
            built.display()
        );
        std::fs::write(&program, text).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        agent.program = Some(program);
        std::fs::remove_dir_all(&agent.state).unwrap();
        let token = world.token_file(&api, &format!("{name}-again"));
        let _ = agent
            .command(&["enrol", "--token-file", &token.to_string_lossy()])
            .ok();
        agent.name = format!("{name}-again");
    }
    agent.start();
    agent.live(&api);
    let _ = api.apply(TWO).ok();
    let running = api.trigger("two", &json!({}));
    let _ = api.attempt_in(&running, "first", "running");
    walk(&agent, "while a task runs");
    world.allow("go.first");
    world.allow("go.second");
    let _ = api.succeeded(&running);
    let other = api.trigger("two", &json!({}));
    let _ = api.succeeded(&other);
    let _ = agent.command(&["purge", &other, "--yes"]).ok();
    agent.kill_runner();
    agent.start();
    eventually("the new runner answers", || {
        (agent.status()?["running"] == true).then_some(())
    });
    walk(&agent, "after a restart");
    assert_eq!(agent.terminate_within(Duration::from_secs(20)), Some(0));
    walk(&agent, "after its end");
}

#[test]
fn every_file_of_the_state_directory_is_for_the_agents_account_only() {
    rich_run("site-1", None);
}

#[test]
fn a_mask_of_nothing_at_the_start_widens_nothing() {
    rich_run("site-1", Some("000"));
}
