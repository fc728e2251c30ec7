//! D9: a backup that is taken while work is asked for and done, and what is made of it in another directory.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use outpost_e2e::api::{Api, attempts_of};
use outpost_e2e::wait::so;
use outpost_e2e::{Entry, World, eventually};

const QUICK: &str = "name: quick\ntasks:\n  a: {entry: quick}\n  b: {entry: quick, needs: [a]}\n";
/// Runs that are asked for before a backup, and after it, at least.
const SOME: usize = 10;

/// Asks for runs, one after the other, until it is told to stop; those that were acknowledged, in order.
fn ask(api: &Api, prefix: &str, enough: impl Fn(usize) -> bool) -> Vec<String> {
    let mut acknowledged = Vec::new();
    while !enough(acknowledged.len()) {
        let reply = api.trigger_once("quick", &format!("{prefix}-{}", acknowledged.len()));
        acknowledged.push(outpost_e2e::api::text(&reply.ok()["run"]));
    }
    acknowledged
}

/// How often each attempt was started, by the tasks' own account.
fn starts(world: &World) -> BTreeMap<String, usize> {
    let mut starts = BTreeMap::new();
    for (attempt, _) in world.starts() {
        *starts.entry(attempt).or_default() += 1;
    }
    starts
}

/// What a database says of itself, and how many of its rows name others that are not there.
fn state_of(file: &Path) -> (String, usize) {
    let options = sqlx::sqlite::SqliteConnectOptions::new()
        .filename(file)
        .read_only(true);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.unwrap().block_on(async {
        use sqlx::{ConnectOptions as _, Row as _};
        let mut connection = options.connect().await.unwrap();
        let whole = sqlx::query("PRAGMA integrity_check").fetch_one(&mut connection);
        let whole: String = whole.await.unwrap().get(0);
        let lost = sqlx::query("PRAGMA foreign_key_check").fetch_all(&mut connection);
        (whole, lost.await.unwrap().len())
    })
}

/// A directory with everything of an orchestrator but its database, in the place of the other one.
fn fresh(dir: &Path) {
    let old = dir.with_extension("old");
    std::fs::rename(dir, &old).unwrap();
    let copied = std::process::Command::new("cp")
        .arg("-a")
        .args([&old, dir])
        .status();
    assert!(copied.unwrap().success());
    for name in ["outpost.db", "outpost.db-wal", "outpost.db-shm"] {
        let _ = std::fs::remove_file(dir.join(name));
    }
}

#[test]
fn d9_a_backup_taken_under_load_is_whole_and_gives_no_work_before_another_life_was_begun() {
    let mut world = World::new();
    let api = world.api();
    let _agent = world.agent("bank", &[Entry::script("quick", "exit 0")]);
    let _ = api.apply(QUICK).ok();
    let file = world.dir().join("backup.db");
    let shown = file.to_string_lossy().into_owned();
    let before = ask(&api, "before", |count| count >= SOME);
    let enough = AtomicBool::new(false);
    let meanwhile = std::thread::scope(|scope| {
        let api = &api;
        let asking = scope.spawn(|| {
            ask(api, "meanwhile", |count| {
                count >= SOME && enough.load(Ordering::Relaxed)
            })
        });
        let _ = world.orchestrator.command(&["backup", &shown]).ok();
        enough.store(true, Ordering::Relaxed);
        asking.join().unwrap()
    });
    let after = ask(&api, "after", |count| count >= SOME);
    let all = [before.as_slice(), &meanwhile, &after].concat();
    for run in &all {
        let _ = api.succeeded(run);
    }
    assert_eq!(world.starts().len(), 2 * all.len());
    world.orchestrator.kill();
    assert_eq!(state_of(&file), ("ok".to_owned(), 0));

    // As it is, in a directory of its own: agents have seen more, and wait for a person.
    fresh(world.orchestrator.dir());
    let database = world.orchestrator.dir().join("outpost.db");
    std::fs::copy(&file, &database).unwrap();
    world.orchestrator.start();
    let api = world.api();
    eventually("the agent says that it saw more", || {
        let agent = api.agent("bank")?;
        so(agent["held_back"] == true)
    });
    let known = all.iter().filter(|run| api.run(run).is_some());
    assert!(known.count() >= before.len());
    assert_eq!(world.starts().len(), 2 * all.len(), "nothing began again");
    world.orchestrator.kill();

    // As another life: what it knows comes to its end, and what finished does not run again.
    for name in ["outpost.db", "outpost.db-wal", "outpost.db-shm"] {
        let _ = std::fs::remove_file(world.orchestrator.dir().join(name));
    }
    let restored = world.orchestrator.command(&["restore", &shown]).ok();
    assert!(restored.contains("epoch          2"), "{restored}");
    world.orchestrator.start();
    let api = world.api();
    for run in &before {
        let tree = api.succeeded(run);
        let attempts = ["a", "b"].map(|task| attempts_of(&tree, task).len());
        assert_eq!(attempts, [1, 1], "{tree}");
    }
    for run in &meanwhile {
        if api.run(run).is_some() {
            let _ = api.succeeded(run);
        }
    }
    assert_eq!(
        world.starts().len(),
        2 * all.len(),
        "what finished did not run again"
    );
    let next = ask(&api, "next", |count| count >= 1);
    let _ = api.succeeded(&next[0]);
    assert!(starts(&world).values().all(|count| *count == 1));
}
