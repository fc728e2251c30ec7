//! What goes and what stays, on real directories with made-up ages.

use super::*;

const DAY: Duration = Duration::from_secs(24 * 3600);
const KEEP: Keep = Keep {
    logs: Duration::from_secs(14 * 24 * 3600),
    logs_bytes: 1 << 30,
    ledger: Duration::from_secs(90 * 24 * 3600),
    ledger_bytes: 1 << 30,
};

fn state() -> (tempfile::TempDir, StateDir) {
    let dir = tempfile::tempdir().unwrap();
    let state = StateDir::create(dir.path()).unwrap();
    (dir, state)
}

fn make(path: &Path, age: Duration) {
    std::fs::create_dir(path).unwrap();
    std::fs::write(path.join("log.0"), "x").unwrap();
    let dir = std::fs::File::open(path).unwrap();
    dir.set_modified(SystemTime::now() - age).unwrap();
}

/// Runs a sweep as the runner does, until the trash is empty.
async fn sweep(state: &StateDir, held: Held) -> u8 {
    let (inbox, mut happened) = mpsc::channel(1);
    let trash = Trash::start(state);
    let percent = Rc::new(Cell::new(255));
    tokio::task::spawn_local(keep(state.clone(), KEEP, trash, inbox, Rc::clone(&percent)));
    let Some(Happened::Held(ask)) = happened.recv().await else {
        panic!("it asks what is held")
    };
    ask.send(held).unwrap();
    let Some(Happened::Kept { .. }) = happened.recv().await else {
        panic!("it tells what it counted")
    };
    let gone = async {
        while percent.get() == 255 || std::fs::read_dir(state.trash()).is_ok_and(|d| d.count() > 0)
        {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), gone)
        .await
        .unwrap();
    percent.get()
}

fn local(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, test);
}

#[test]
fn what_is_old_goes_and_what_is_held_or_new_stays() {
    local(async {
        let (_dir, state) = state();
        let (old, new, held) = (AttemptId(1), AttemptId(2), AttemptId(3));
        make(&state.attempt(old), 15 * DAY);
        make(&state.attempt(new), 13 * DAY);
        make(&state.attempt(held), 400 * DAY);
        make(&state.run(RunId(1)), 15 * DAY);
        make(&state.run(RunId(2)), 13 * DAY);
        make(&state.run(RunId(3)), 400 * DAY);
        let kept = Held {
            attempts: [held].into(),
            runs: [RunId(3)].into(),
        };
        sweep(&state, kept).await;
        let there = |path: PathBuf| path.exists();
        assert!(!there(state.attempt(old)) && !there(state.run(RunId(1))));
        assert!(there(state.attempt(new)) && there(state.run(RunId(2))));
        assert!(there(state.attempt(held)) && there(state.run(RunId(3))));
    });
}

#[test]
fn of_too_many_the_newest_stay_and_held_ones_count_first() {
    let dir = tempfile::tempdir().unwrap();
    let extra = 3;
    for n in 0..KEPT_COUNT + extra {
        let path = dir.path().join(AttemptId(n as u128).to_string());
        std::fs::create_dir(&path).unwrap();
        let age = Duration::from_secs(n as u64 * 10);
        std::fs::File::open(&path)
            .unwrap()
            .set_modified(SystemTime::now() - age)
            .unwrap();
    }
    let oldest = AttemptId((KEPT_COUNT + extra - 1) as u128);
    let listed = list(dir.path(), KEEP.logs, None, |id: AttemptId| id == oldest).unwrap();
    assert_eq!(listed.kept, KEPT_COUNT);
    let over = listed
        .over
        .iter()
        .map(|aged| id_of::<AttemptId>(&aged.path).unwrap());
    let expected = (0..extra).map(|n| AttemptId((KEPT_COUNT - 1 + n) as u128));
    assert_eq!(over.collect::<BTreeSet<_>>(), expected.collect());
    assert_eq!(share(&listed, KEEP), 100);
}

#[test]
fn of_too_many_bytes_the_newest_logs_stay_and_held_ones_in_any_case() {
    let dir = tempfile::tempdir().unwrap();
    for n in 0..5 {
        let path = dir.path().join(AttemptId(n).to_string());
        make(&path, Duration::ZERO);
        std::fs::write(path.join("log.0"), [b'x'; 1000]).unwrap();
        let age = Duration::from_secs(u64::try_from(n).unwrap() * 60);
        let opened = std::fs::File::open(&path).unwrap();
        opened.set_modified(SystemTime::now() - age).unwrap();
    }
    let oldest_is_held = |id: AttemptId| id == AttemptId(4);
    let listed = list(dir.path(), KEEP.logs, Some(3500), oldest_is_held).unwrap();
    assert_eq!((listed.kept, listed.bytes), (3, 3000));
    let over = listed.over.iter().map(|aged| id_of(&aged.path).unwrap());
    assert_eq!(
        over.collect::<BTreeSet<_>>(),
        [AttemptId(2), AttemptId(3)].into()
    );
}

#[test]
fn one_that_was_used_since_it_was_listed_stays() {
    local(async {
        let (_dir, state) = state();
        let path = state.run(RunId(1));
        make(&path, 15 * DAY);
        let listed = list(&state.runs(), KEEP.logs, None, |_: RunId| false).unwrap();
        std::fs::File::open(&path)
            .unwrap()
            .set_modified(SystemTime::now())
            .unwrap();
        throw_in_steps(&Trash::start(&state), listed.over).await;
        assert!(path.exists());
    });
}

#[test]
fn k11_a_tree_with_its_permissions_taken_away_goes_and_links_are_not_followed() {
    local(async {
        let (_dir, state) = state();
        let outside = tempfile::tempdir().unwrap();
        std::fs::write(outside.path().join("precious"), "x").unwrap();
        let work = state.work(AttemptId(1));
        std::fs::create_dir_all(work.join("a/b")).unwrap();
        std::os::unix::fs::symlink(outside.path(), work.join("a/link")).unwrap();
        for dir in ["a/b", "a", ""] {
            std::fs::set_permissions(work.join(dir), Permissions::from_mode(0o0)).unwrap();
        }
        Trash::start(&state).throw_work(&BTreeSet::new()).unwrap();
        sweep(&state, Held::default()).await;
        assert!(!work.exists() && std::fs::read_dir(state.trash()).unwrap().count() == 0);
        assert!(outside.path().join("precious").exists());
    });
}

#[test]
fn what_went_while_it_was_thrown_is_gone_and_no_failure() {
    let dir = tempfile::tempdir().unwrap();
    let (trash, path) = (dir.path().join("trash"), dir.path().join("work"));
    let to = trash.join("work");
    for _ in 0..2 {
        let gone = rename_into(&trash, &path, &to).unwrap_err();
        assert_eq!(gone.kind(), io::ErrorKind::NotFound);
    }
    std::fs::create_dir(&path).unwrap();
    rename_into(&trash, &path, &to).unwrap();
    assert!(to.exists() && !path.exists());
}
