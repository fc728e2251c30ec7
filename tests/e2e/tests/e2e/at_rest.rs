//! What lies on the site's disk: who can read it, what of it is encrypted with the site's key, and that a run goes when a
//! person wants it to.

mod kept;
mod noted;

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use outpost_e2e::api::{attempts_of, text};
use outpost_e2e::site::is_root;
use outpost_e2e::{Agent, Api, Entry, World, eventually};
use serde_json::{Value, json};

/// Nothing else on this machine says this.
const CANARY: &str = "canary-7f3e9a";

const TWO: &str =
    "name: two\ntasks:\n  first: {entry: first}\n  second: {entry: second, needs: [first]}\n";

/// A task that says and leaves something, and one that reads it.
fn entries() -> [Entry; 4] {
    [
        Entry::script(
            "first",
            "echo out-canary-7f3e9a\necho value=out-canary-7f3e9a > \"$OUTPOST_OUT\"\n\
             mkdir -p \"$OUTPOST_RUN_DIR/data\"\necho data-canary-7f3e9a > \"$OUTPOST_RUN_DIR/data/rows\"\n\
             touch \"$shared/first.$OUTPOST_RUN\"\n\
             until [ -e \"$shared/go.first\" ]; do sleep 0.05; done",
        ),
        Entry::script(
            "second",
            "until [ -e \"$shared/go.second\" ]; do sleep 0.05; done\n\
             cat \"$OUTPOST_RUN_DIR/out/first.env\" \"$OUTPOST_RUN_DIR/data/rows\"",
        ),
        Entry::script("quick", "echo quick-canary-7f3e9a"),
        // Fails once: the second time it finds what it left.
        Entry::script(
            "again",
            "rows=\"$OUTPOST_RUN_DIR/data/rows\"\nif [ -e \"$rows\" ]; then cat \"$rows\"; exit 0; fi\n\
             mkdir \"$OUTPOST_RUN_DIR/data\"; echo data-canary-7f3e9a > \"$rows\"; exit 1",
        ),
    ]
}

/// An agent that encrypts, with its key; runs rest a moment only.
fn sealing(world: &World, name: &str) -> (Agent, PathBuf) {
    sealing_with(world, name, &entries())
}

fn sealing_with(world: &World, name: &str, entries: &[Entry]) -> (Agent, PathBuf) {
    let token = world.token_file(&world.api(), name);
    let mut agent = world.enrolled(name, &token, entries);
    let key = agent.state.with_file_name("site.key");
    let _ = agent
        .command(&["site-key", "new", "--out", &name_of(&key)])
        .ok();
    agent.env = vec![
        ("OUTPOST_AGENT_SITE_KEY_FILE".to_owned(), name_of(&key)),
        ("OUTPOST_AGENT_SEAL_RUNS_AFTER".to_owned(), "1s".to_owned()),
    ];
    agent.start();
    agent.live(&world.api());
    (agent, key)
}

fn name_of(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn without_key(agent: &mut Agent) -> Vec<(String, String)> {
    std::mem::take(&mut agent.env)
}

/// Every file below, never through a link.
fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.extend(files(&path));
        }
        found.push(path);
    }
    found
}

/// The files in which the word stands as it is.
fn saying(dir: &Path, word: &str) -> Vec<PathBuf> {
    let says = |path: &PathBuf| {
        let bytes = std::fs::read(path).unwrap_or_default();
        bytes
            .windows(word.len())
            .any(|window| window == word.as_bytes())
    };
    files(dir)
        .into_iter()
        .filter(|path| path.is_file() && says(path))
        .collect()
}

/// Waits until a file is there in its encrypted form.
fn rests(file: &Path) {
    eventually("the run rests", || {
        let bytes = std::fs::read(file).ok()?;
        bytes.starts_with(b"OPSEAL").then_some(())
    });
}

fn attempt_of(api: &Api, run: &str, task: &str) -> String {
    text(&attempts_of(&api.run(run).unwrap(), task)[0]["attempt"])
}

fn key_id(agent: &Agent) -> String {
    let status: Value = agent.status().unwrap();
    text(&status["site_keys"][0])
}

#[test]
fn logs_and_outputs_are_encrypted_and_the_site_reads_them_with_its_key() {
    let world = World::new();
    let api = world.api();
    let (mut agent, key) = sealing(&world, "site-1");
    let _ = api.apply(TWO).ok();
    let run = api.trigger("two", &json!({}));
    eventually("the first has said it", || {
        world.shared(&format!("first.{run}")).exists().then_some(())
    });
    let first = attempt_of(&api, &run, "first");
    // Readable while it runs, and followed.
    eventually("its log is live", || {
        agent.output(&first).contains(CANARY).then_some(())
    });
    assert_eq!(
        saying(&agent.state.join("attempts"), CANARY),
        [""; 0].map(PathBuf::from)
    );
    world.allow("go.first");
    world.allow("go.second");
    let _ = api.succeeded(&run);
    let second = attempt_of(&api, &run, "second");
    let said = agent.output(&second);
    assert!(
        said.contains("value=out-canary") && said.contains("data-canary"),
        "{said}"
    );

    // Some time after the last task nothing of it is readable without the key.
    eventually("the run rests", || {
        saying(&agent.state, CANARY).is_empty().then_some(())
    });
    let id = key_id(&agent);
    let shown = agent.command(&["status"]).ok();
    assert!(
        shown.contains(&format!("encrypted with key id {id}")),
        "{shown}"
    );
    let followed = agent.command(&["logs", "-f", &second]).ok();
    assert_eq!(followed, said);
    let env = without_key(&mut agent);
    let error = agent.command(&["logs", &second]).fails_with(1);
    assert!(
        error.contains(&id) && error.contains("--site-key-file"),
        "{error}"
    );
    let other = key.with_file_name("other.key");
    let _ = agent
        .command(&["site-key", "new", "--out", &name_of(&other)])
        .ok();
    let error = agent
        .command(&["logs", &second, "--site-key-file", &name_of(&other)])
        .fails_with(1);
    assert!(error.contains(&id), "{error}");
    // Rotated: the new one first, the old one for what there is.
    let both = format!("{}:{}", name_of(&other), name_of(&key));
    let read = agent
        .command(&["logs", &second, "--site-key-file", &both])
        .ok();
    assert_eq!(read, said);
    agent.env = env;
    drop(agent);
}

#[test]
fn a_run_that_rested_is_opened_for_its_next_task() {
    let world = World::new();
    let api = world.api();
    let (agent, _) = sealing(&world, "site-1");
    let _ = api.apply("name: again\ntasks:\n  t: {entry: again}\n").ok();
    let run = api.trigger("again", &json!({}));
    let _ = api.finished(&run);
    let rows = agent.state.join("runs").join(&run).join("data/rows");
    rests(&rows);
    let mode = |path: &Path| path.metadata().unwrap().mode() & 0o7777;
    assert_eq!(mode(&agent.state.join("runs").join(&run)), 0o700);
    assert_eq!(mode(&rows), 0o600);
    api.again(&run);
    let tree = api.succeeded(&run);
    let second = text(&attempts_of(&tree, "t")[1]["attempt"]);
    let said = agent.output(&second);
    assert!(said.contains("data-canary-7f3e9a"), "{said}");
    eventually("it rests again", || {
        let left = saying(&agent.state.join("runs"), CANARY);
        left.is_empty().then_some(())
    });
}

#[test]
fn a_log_that_was_changed_cut_or_exchanged_is_named_and_what_is_good_is_shown() {
    let world = World::new();
    let api = world.api();
    let (agent, _) = sealing(&world, "site-1");
    let _ = api.apply("name: one\ntasks:\n  t: {entry: quick}\n").ok();
    let attempts = [(), ()].map(|()| {
        let run = api.trigger("one", &json!({}));
        let _ = api.succeeded(&run);
        attempt_of(&api, &run, "t")
    });
    let log = |attempt: &str| agent.attempt_dir(attempt).join("log.0");
    let whole = std::fs::read(log(&attempts[0])).unwrap();
    let fails = |bytes: &[u8], why: &str| {
        std::fs::write(log(&attempts[0]), bytes).unwrap();
        let done = agent.command(&["logs", &attempts[0]]);
        let error = done.clone().fails_with(1);
        assert!(error.contains("log.0") && error.contains(why), "{error}");
        done.out
    };
    let at = whole.len() - 40;
    let mut flipped = whole.clone();
    flipped[at] ^= 1;
    // The end frame is the last 36 bytes: the flip is in the output before it.
    assert!(!fails(&flipped, "at byte 104").contains(CANARY));
    assert!(fails(&whole[..whole.len() - 36], "without its last frame").contains(CANARY));
    assert!(!fails(&whole[..140], "without its last frame").contains(CANARY));
    let other = std::fs::read(log(&attempts[1])).unwrap();
    assert_eq!(fails(&other, &format!("of attempt {}", attempts[1])), "");
    assert_eq!(fails(&b"plain ".repeat(50), "encrypted"), "");
    std::fs::remove_file(log(&attempts[0])).unwrap();
    let error = agent.command(&["logs", &attempts[0]]).fails_with(1);
    assert!(error.contains("log.0"), "{error}");
}

/// A claim as somebody would change it who can write to the state directory, and knows the form: line by line, with
/// checksums that are right.
fn rewrite(claim: &Path, change: &dyn Fn(usize, &str) -> Option<String>) {
    let text = std::fs::read_to_string(claim).unwrap();
    let lines = text.lines().filter(|line| !line.is_empty());
    let mut out = String::new();
    for (at, line) in lines.enumerate() {
        let (_, record) = line.split_once("\"record\":").unwrap();
        let record = record.strip_suffix('}').unwrap();
        if let Some(record) = change(at, record) {
            let sum = crc32fast::hash(record.as_bytes());
            out += &format!("{{\"crc32\":\"{sum:08x}\",\"record\":{record}}}\n");
        }
    }
    std::fs::write(claim, out).unwrap();
}

#[test]
fn a_record_that_was_changed_to_hide_what_a_log_said_is_named() {
    let world = World::new();
    let api = world.api();
    let (agent, _) = sealing(&world, "site-1");
    let _ = api.apply("name: one\ntasks:\n  t: {entry: quick}\n").ok();
    let run = api.trigger("one", &json!({}));
    let _ = api.succeeded(&run);
    let attempt = attempt_of(&api, &run, "t");
    let dir = agent.attempt_dir(&attempt);
    let (claim, log) = (dir.join("claim"), dir.join("log.0"));
    let whole = (std::fs::read(&claim).unwrap(), std::fs::read(&log).unwrap());
    let again = || {
        std::fs::write(&claim, &whole.0).unwrap();
        std::fs::write(&log, &whole.1).unwrap();
    };
    let done = agent.command(&["logs", &attempt]);
    assert_eq!((done.code, done.err.as_str()), (Some(0), ""), "{done:?}");
    assert!(done.out.contains(CANARY), "{done:?}");
    let fails = |why: &str| {
        let error = agent.command(&["logs", &attempt]).fails_with(1);
        assert!(error.contains("claim") && error.contains(why), "{error}");
        again();
    };
    let last = |record: &str| record.starts_with("{\"exit\"");
    // The task said nothing, says the record.
    std::fs::remove_file(&log).unwrap();
    rewrite(&claim, &|_, record| {
        let (before, after) = record.split_once("\"log_bytes\":").unwrap_or((record, ""));
        let Some((_, after)) = after.split_once(',') else {
            return Some(record.to_owned());
        };
        Some(format!("{before}\"log_bytes\":0,{after}"))
    });
    fails("is not what the attempt's keeper wrote");
    // It was never encrypted, says the record, and the log is what somebody put there.
    let plain = |_, record: &str| {
        let record = record.replace(",\"sealed\":true", "");
        Some(match record.split_once(",\"sealed_with\":") {
            Some((before, after)) => {
                let (_, after) = after.split_once('}').unwrap();
                format!("{before}{after}")
            }
            None => record,
        })
    };
    rewrite(&claim, &plain);
    let error = agent.command(&["logs", &attempt]).fails_with(1);
    assert!(
        error.contains("no record of its attempt says so"),
        "{error}"
    );
    std::fs::write(&log, "made up\n").unwrap();
    let error = agent.command(&["logs", &attempt]).fails_with(1);
    assert!(
        error.contains("the agent noted a log, encrypted"),
        "{error}"
    );
    again();
    // Nothing of it is signed.
    rewrite(&claim, &|at, record| {
        let record = match record.split_once(",\"tag\":") {
            Some((before, _)) => format!("{before}}}}}"),
            None => record.to_owned(),
        };
        if at > 0 {
            return Some(record);
        }
        let (before, after) = record.split_once(",\"sealed_with\":").unwrap();
        let (_, after) = after.split_once('}').unwrap();
        Some(format!("{before}{after}"))
    });
    let done = agent.command(&["logs", &attempt]);
    assert!(
        done.out.contains(CANARY) && done.code == Some(1) && done.err.contains("it is not signed"),
        "{done:?}"
    );
    again();
    // The log is cut, and the record of its attempt's end with it: the journal knows better.
    std::fs::write(&log, &whole.1[..whole.1.len() - 36]).unwrap();
    rewrite(&claim, &|_, record| {
        (!last(record)).then(|| record.to_owned())
    });
    let done = eventually("its keeper is gone", || {
        let done = agent.command(&["logs", &attempt]);
        (!done.err.contains("not yet closed")).then_some(done)
    });
    assert_eq!(done.code, Some(1), "{done:?}");
    assert!(done.err.contains("not on record"), "{done:?}");
    again();
    // Nothing is waited for that is no file.
    for path in [&log, &claim] {
        std::fs::remove_file(path).unwrap();
        let mode = rustix::fs::Mode::RWXU;
        let kind = rustix::fs::FileType::Fifo;
        rustix::fs::mknodat(rustix::fs::CWD, path, kind, mode, 0).unwrap();
        let _ = agent.command(&["logs", &attempt]).fails_with(1);
        std::fs::remove_file(path).unwrap();
        again();
    }
}

#[test]
fn a_log_that_is_still_written_is_said_to_be_open() {
    let world = World::new();
    let api = world.api();
    let (agent, _) = sealing(&world, "site-1");
    let _ = api.apply(TWO).ok();
    let run = api.trigger("two", &json!({}));
    let attempt = api.attempt_in(&run, "first", "running");
    let done = eventually("its log is live", || {
        let done = agent.command(&["logs", &attempt]);
        done.out.contains(CANARY).then_some(done)
    });
    assert!(done.err.contains("not yet closed"), "{done:?}");
    assert_eq!(done.code, Some(0), "{done:?}");
}

/// Whatever a task puts there under the names that the agent has, or had.
#[test]
fn a_task_that_makes_things_under_the_agents_names_spoils_nothing() {
    let world = World::new();
    let api = world.api();
    let body = "cd \"$OUTPOST_RUN_DIR\"
if [ -e rows ]; then cat rows; ls -A; exit 0; fi
mkdir .outpost-sealed .outpost-sealing; mkfifo .outpost-sealed/pipe .outpost-sealing.0123456789abcdef
ln -s /dev/zero .outpost-sealing/zero; echo data-canary-7f3e9a > rows; exit 1";
    let (agent, _) = sealing_with(&world, "site-1", &[Entry::script("spoil", body)]);
    let _ = api.apply("name: spoil\ntasks:\n  t: {entry: spoil}\n").ok();
    let run = api.trigger("spoil", &json!({}));
    let _ = api.finished(&run);
    let rows = agent.state.join("runs").join(&run).join("rows");
    rests(&rows);
    api.again(&run);
    let tree = api.succeeded(&run);
    let second = text(&attempts_of(&tree, "t")[1]["attempt"]);
    let said = agent.output(&second);
    for word in ["data-canary", ".outpost-sealed\n", ".outpost-sealing\n"] {
        assert!(said.contains(word), "{said}");
    }
}

/// A file of a run that rests is taken away: its next task does not run on what is left.
#[test]
fn what_was_taken_away_from_a_run_that_rests_is_missed_before_its_next_task() {
    let world = World::new();
    let api = world.api();
    let (agent, _) = sealing(&world, "site-1");
    let _ = api.apply("name: again\ntasks:\n  t: {entry: again}\n").ok();
    let run = api.trigger("again", &json!({}));
    let _ = api.finished(&run);
    let dir = agent.state.join("runs").join(&run);
    let list = agent.state.join("seals").join(&run);
    rests(&list);
    assert_eq!(list.metadata().unwrap().mode() & 0o7777, 0o600);
    std::fs::remove_file(dir.join("data/rows")).unwrap();
    api.again(&run);
    let tree = api.finished(&run);
    let attempts = attempts_of(&tree, "t");
    let second = text(&attempts[1]["attempt"]);
    assert!(
        !agent.attempt_dir(&second).join("log.0").exists(),
        "it did not run: {attempts:#?}"
    );
    let log = agent.logged();
    assert!(log.contains("data/rows: it is missing"), "{log}");
    let _ = agent.command(&["purge", &run, "--yes"]).ok();
    assert!(!list.exists() && !dir.exists());
}

#[test]
fn the_log_of_a_killed_keeper_is_read_to_where_it_got() {
    let world = World::new();
    let api = world.api();
    let (agent, _) = sealing(&world, "site-1");
    let _ = api.apply(TWO).ok();
    let run = api.trigger("two", &json!({}));
    let attempt = api.attempt_in(&run, "first", "running");
    let (keeper, _) = agent.keeper_and_task(&attempt);
    eventually("its log is live", || {
        agent.output(&attempt).contains(CANARY).then_some(())
    });
    keeper.kill();
    let done = eventually("its end is known", || {
        let done = agent.command(&["logs", &attempt]);
        done.err.contains("ended by force").then_some(done)
    });
    assert!(done.out.contains(CANARY), "{done:?}");
    assert_eq!(done.code, Some(0), "{done:?}");
}

/// Where tasks and agent share an account only the wall around the tasks keeps the key from them.
#[test]
fn a_task_cannot_read_the_sites_key() {
    let world = World::new();
    let api = world.api();
    let (agent, key) = sealing(&world, "site-1");
    let key = key.canonicalize().unwrap();
    let body = format!(
        "if cat '{}'; then echo READ; else echo REFUSED; fi",
        key.display()
    );
    let workflow = "name: one\ntasks:\n  t: {entry: look}\n";
    agent.offers(&api, &[Entry::script("look", &body)], workflow);
    let run = api.trigger("one", &json!({}));
    let _ = api.succeeded(&run);
    let said = agent.output(&attempt_of(&api, &run, "t"));
    assert!(
        said.contains("REFUSED") && !said.contains("READ\n"),
        "{said}"
    );
}

#[test]
fn an_agent_that_shall_encrypt_and_cannot_does_not_start() {
    let world = World::new();
    let token = world.token_file(&world.api(), "site-1");
    let mut agent = world.enrolled("site-1", &token, &entries());
    let key = agent.state.with_file_name("site.key");
    let refused = |agent: &mut Agent, why: &str| {
        agent.env = vec![("OUTPOST_AGENT_SITE_KEY_FILE".to_owned(), name_of(&key))];
        let error = agent.command_with_catalogue(&["run"]).fails_with(1);
        assert!(error.contains(why), "{error}");
    };
    refused(&mut agent, "cannot be read");
    let _ = agent
        .command(&["site-key", "new", "--out", &name_of(&key)])
        .ok();
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
    refused(&mut agent, "chmod 0400");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::write(&key, "too short").unwrap();
    refused(&mut agent, "holds no site key");
    agent.env = Vec::new();
    let error = agent
        .command_with_catalogue(&["run", "--site-key-credential", "outpost-site-key"])
        .fails_with(1);
    assert!(error.contains("LoadCredential=outpost-site-key"), "{error}");
}
