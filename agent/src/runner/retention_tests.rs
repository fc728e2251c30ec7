//! What goes and what stays, on real directories with made-up ages.

use super::*;

const DAY: Duration = Duration::from_secs(24 * 3600);
const KEEP: Keep = Keep {
    logs: Duration::from_secs(14 * 24 * 3600),
    logs_bytes: 1 << 30,
    runs_bytes: 1 << 30,
    ledger: Duration::from_secs(90 * 24 * 3600),
    ledger_bytes: 1 << 30,
    dated: Dated::Modified,
};

fn state() -> (tempfile::TempDir, StateDir) {
    let dir = crate::testing::tempdir().unwrap();
    let state = StateDir::create(dir.path()).unwrap();
    (dir, state)
}

fn make(path: &Path, age: Duration) {
    make_at(path, SystemTime::now() - age);
}

fn make_at(path: &Path, used: SystemTime) {
    std::fs::create_dir(path).unwrap();
    std::fs::write(path.join("log.0"), "x").unwrap();
    let dir = std::fs::File::open(path).unwrap();
    dir.set_modified(used).unwrap();
}

/// What is known when nothing is held and the orchestrator was heard.
fn timed() -> Held {
    Held {
        surely: Some(SystemTime::now()),
        ..Held::default()
    }
}

fn bounds() -> Bounds {
    Bounds::of(&timed(), KEEP, SystemTime::now())
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
            ..timed()
        };
        sweep(&state, kept).await;
        let there = |path: PathBuf| path.exists();
        assert!(!there(state.attempt(old)) && !there(state.run(RunId(1))));
        assert!(there(state.attempt(new)) && there(state.run(RunId(2))));
        assert!(there(state.attempt(held)) && there(state.run(RunId(3))));
    });
}

#[test]
fn k16_an_age_that_a_task_says_of_a_directory_takes_nothing_away_where_it_shares_the_account() {
    let dir = crate::testing::tempdir().unwrap();
    make(&dir.path().join(AttemptId(1).to_string()), 400 * DAY);
    let over = |dated: Dated| {
        let keep = Keep { dated, ..KEEP };
        let bounds = Bounds::of(&timed(), keep, SystemTime::now() + DAY);
        let listed = list(dir.path(), bounds, None, |_: AttemptId| false);
        listed.unwrap().over.len()
    };
    assert_eq!(over(Dated::Modified), 1);
    assert_eq!(over(Dated::Changed), 0);
}

#[test]
fn of_too_many_the_newest_stay_and_held_ones_count_first() {
    let dir = crate::testing::tempdir().unwrap();
    let (extra, now) = (3, SystemTime::now());
    for n in 0..KEPT_COUNT + extra {
        let path = dir.path().join(AttemptId(n as u128).to_string());
        std::fs::create_dir(&path).unwrap();
        let age = Duration::from_secs(120 + n as u64 * 10);
        std::fs::File::open(&path)
            .unwrap()
            .set_modified(now - age)
            .unwrap();
    }
    let oldest = AttemptId((KEPT_COUNT + extra - 1) as u128);
    let listed = list(dir.path(), bounds(), None, |id: AttemptId| id == oldest).unwrap();
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
    let dir = crate::testing::tempdir().unwrap();
    for n in 0..5 {
        let path = dir.path().join(AttemptId(n).to_string());
        make(&path, Duration::ZERO);
        std::fs::write(path.join("log.0"), [b'x'; 1000]).unwrap();
        let age = Duration::from_secs(u64::try_from(n).unwrap() * 60 + 120);
        let opened = std::fs::File::open(&path).unwrap();
        opened.set_modified(SystemTime::now() - age).unwrap();
    }
    let oldest_is_held = |id: AttemptId| id == AttemptId(4);
    let listed = list(
        dir.path(),
        bounds(),
        Some((3500, log_bytes)),
        oldest_is_held,
    )
    .unwrap();
    assert_eq!((listed.kept, listed.bytes), (3, 3000));
    let over = listed.over.iter().map(|aged| id_of(&aged.path).unwrap());
    assert_eq!(
        over.collect::<BTreeSet<_>>(),
        [AttemptId(2), AttemptId(3)].into()
    );
}

#[test]
fn of_too_many_bytes_of_runs_the_newest_stay_however_deep_they_lie() {
    let dir = crate::testing::tempdir().unwrap();
    for n in 0..4_u8 {
        let path = dir.path().join(RunId(n.into()).to_string());
        make(&path, Duration::ZERO);
        std::fs::create_dir_all(path.join("deep/er")).unwrap();
        std::fs::write(path.join("deep/er/file"), vec![b'x'; 100_000]).unwrap();
        std::os::unix::fs::symlink("/usr", path.join("link")).unwrap();
        let opened = std::fs::File::open(&path).unwrap();
        let age = Duration::from_secs(u64::from(n) * 60 + 120);
        opened.set_modified(SystemTime::now() - age).unwrap();
    }
    let most: Most = (250_000, measure::of_run);
    let oldest_is_held = |id: RunId| id == RunId(3);
    let listed = list(dir.path(), bounds(), Some(most), oldest_is_held).unwrap();
    let over = listed.over.iter().map(|aged| id_of(&aged.path).unwrap());
    assert_eq!(over.collect::<Vec<RunId>>(), [RunId(1), RunId(2)]);
}

#[test]
fn d4_without_the_orchestrators_time_nothing_is_old_whatever_the_clock_says() {
    local(async {
        let (_dir, state) = state();
        make(&state.attempt(AttemptId(1)), 400 * DAY);
        make(&state.run(RunId(1)), 400 * DAY);
        sweep(&state, Held::default()).await;
        assert!(state.attempt(AttemptId(1)).exists() && state.run(RunId(1)).exists());
        // The clock of this host is a year ahead, or something was made before it was set.
        make(&state.attempt(AttemptId(2)), Duration::ZERO);
        let before_it_was_set = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        make(&state.attempt(AttemptId(3)), before_it_was_set.unwrap());
        let a_year_ago = Held {
            surely: Some(SystemTime::now() - 395 * DAY),
            ..Held::default()
        };
        sweep(&state, a_year_ago).await;
        assert!(
            [1, 2, 3]
                .iter()
                .all(|n| state.attempt(AttemptId(*n)).exists())
        );
        sweep(&state, timed()).await;
        let stay = [1, 2, 3].map(|n| state.attempt(AttemptId(n)).exists());
        assert_eq!(stay, [false, true, true]);
    });
}

#[test]
fn what_was_used_shortly_before_it_was_asked_what_is_held_stays_however_much_there_is() {
    let dir = crate::testing::tempdir().unwrap();
    let asked = SystemTime::now();
    for (n, age) in [(1, 0), (2, 50), (3, 90)] {
        let path = dir.path().join(AttemptId(n).to_string());
        make_at(&path, asked - Duration::from_secs(age));
    }
    let listed = list(
        dir.path(),
        Bounds::of(&timed(), KEEP, asked),
        Some((0, log_bytes)),
        |_: AttemptId| false,
    )
    .unwrap();
    let over = listed.over.iter().map(|aged| id_of(&aged.path));
    assert_eq!(over.collect::<Vec<_>>(), [Some(AttemptId(3))]);
}

#[test]
fn one_that_was_used_since_it_was_listed_stays() {
    local(async {
        let (_dir, state) = state();
        let path = state.run(RunId(1));
        make(&path, 15 * DAY);
        let listed = list(&state.runs(), bounds(), None, |_: RunId| false).unwrap();
        std::fs::File::open(&path)
            .unwrap()
            .set_modified(SystemTime::now())
            .unwrap();
        throw_in_steps(&Trash::start(&state), listed.over, KEEP.dated).await;
        assert!(path.exists());
    });
}

#[test]
fn k11_a_tree_with_its_permissions_taken_away_goes_and_links_are_not_followed() {
    local(async {
        let (_dir, state) = state();
        let outside = crate::testing::tempdir().unwrap();
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
fn what_was_made_for_what_never_came_goes() {
    local(async {
        let (_dir, state) = state();
        let spare = state.attempts().join(format!("{SPARE}12.34"));
        let work = state.works().join(format!("{SPARE}12.34"));
        let of_a_run = state.runs().join(workspace::SPARE);
        make(&spare, Duration::ZERO);
        make(&work, Duration::ZERO);
        make(&of_a_run, Duration::ZERO);
        make(&state.attempt(AttemptId(1)), Duration::ZERO);
        make(&state.run(RunId(1)), Duration::ZERO);
        Trash::start(&state).throw_spares().unwrap();
        assert!(!spare.exists() && !work.exists() && !of_a_run.exists());
        assert!(state.attempt(AttemptId(1)).exists() && state.run(RunId(1)).exists());
        sweep(&state, Held::default()).await;
    });
}

#[test]
fn what_went_while_it_was_thrown_is_gone_and_no_failure() {
    let dir = crate::testing::tempdir().unwrap();
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

#[tokio::test]
async fn lists_of_encrypted_files_go_with_their_runs_and_what_was_on_its_way_at_the_start() {
    let set = tokio::task::LocalSet::new();
    let test = set.run_until(async {
        let dir = crate::testing::tempdir().unwrap();
        let state = StateDir::create(&dir.path().join("state")).unwrap();
        std::fs::create_dir(state.lists()).unwrap();
        let rest = |run| Rest::of(&state, RunId(run));
        std::fs::create_dir(rest(1).dir).unwrap();
        for path in [rest(1).list, rest(1).beside(), rest(2).list] {
            std::fs::write(path, "some\n").unwrap();
        }
        let trash = Trash::start(&state);
        trash.throw_spares().unwrap();
        assert!(rest(1).list.exists(), "its run is there");
        assert!(!rest(1).beside().exists() && !rest(2).list.exists());
        std::fs::write(rest(1).beside(), "half").unwrap();
        trash.throw(&rest(1).dir);
        trash.throw_list_of(&rest(1).dir);
        assert!(!rest(1).beside().exists() && !rest(1).list.exists());
    });
    test.await;
}

#[test]
fn a_list_goes_with_its_run_and_a_working_directory_not_before_its_attempt() {
    local(async {
        let (_dir, state) = state();
        let trash = Trash::start(&state);
        make(&state.run(RunId(1)), 15 * DAY);
        std::fs::create_dir(state.lists()).unwrap();
        let rest = Rest::of(&state, RunId(1));
        for list in [rest.list.clone(), rest.beside()] {
            std::fs::write(list, "some\n").unwrap();
        }
        let listed = list(&state.runs(), bounds(), None, |_: RunId| false).unwrap();
        throw_in_steps(&trash, listed.over, KEEP.dated).await;
        assert!(!rest.dir.exists() && !rest.list.exists() && !rest.beside().exists());

        let (held, other) = (AttemptId(1), AttemptId(2));
        make(&state.work(held), Duration::ZERO);
        make(&state.work(other), Duration::ZERO);
        trash.throw_work(&[held].into()).unwrap();
        assert!(state.work(held).exists() && !state.work(other).exists());
        let mode = state.trash().metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o700);
    });
}

#[test]
fn of_a_link_the_link_itself_counts_and_goes() {
    let dir = crate::testing::tempdir().unwrap();
    let (target, link) = (dir.path().join("target"), dir.path().join("link"));
    make(&target, 400 * DAY);
    std::os::unix::fs::symlink(&target, &link).unwrap();
    let age = |path: &Path| last_change(path, Dated::Modified).unwrap().elapsed();
    assert!(age(&target).unwrap() > 300 * DAY);
    assert!(age(&link).unwrap_or_default() < 300 * DAY);
    remove(&link).unwrap();
    assert!(link.symlink_metadata().is_err() && target.join("log.0").exists());
    std::os::unix::fs::symlink("nowhere", &link).unwrap();
    remove(&link).unwrap();
    assert!(link.symlink_metadata().is_err());
}

/// A run and an attempt may have the same number.
#[test]
fn what_goes_with_an_attempt_is_no_list_of_a_run() {
    local(async {
        let (_dir, state) = state();
        std::fs::create_dir(state.lists()).unwrap();
        let rest = Rest::of(&state, RunId(1));
        std::fs::write(&rest.list, "some\n").unwrap();
        let trash = Trash::start(&state);
        trash.throw_list_of(&state.attempt(AttemptId(1)));
        assert!(rest.list.exists());
        trash.throw_list_of(&state.run(RunId(1)));
        assert!(!rest.list.exists());
    });
}

#[test]
fn only_logs_are_counted_as_such() {
    let dir = crate::testing::tempdir().unwrap();
    for (name, bytes) in [("log.0", 10), ("log.7", 5), ("claim", 4096)] {
        std::fs::write(dir.path().join(name), vec![b'x'; bytes]).unwrap();
    }
    assert_eq!(log_bytes(dir.path()), 15);
}
