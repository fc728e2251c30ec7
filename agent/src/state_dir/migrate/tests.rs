//! From a directory as an agent of format 1 left it, and through crashes in between.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use super::*;
use crate::state_dir::{StateDir, VERSION};

/// A copy of a directory that an agent of format 1 made, enrolled, and ran tasks in.
fn format_1() -> tempfile::TempDir {
    let dir = crate::testing::tempdir().unwrap();
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/state-1");
    copy(&fixture, dir.path());
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o711)).unwrap();
    dir
}

fn copy(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            fs::create_dir(&target).unwrap();
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), &target).unwrap();
        }
    }
}

/// Every file with its content.
fn content(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut left = vec![dir.to_owned()];
    while let Some(next) = left.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                left.push(path);
            } else {
                let name = path.strip_prefix(dir).unwrap().to_owned();
                found.insert(name, fs::read(&path).unwrap());
            }
        }
    }
    found
}

fn version(dir: &Path) -> String {
    fs::read_to_string(dir.join("version")).unwrap()
}

#[test]
fn d6_a_directory_of_format_1_is_migrated_once_and_keeps_who_and_what_it_was() {
    let dir = format_1();
    let before = content(dir.path());
    let state = StateDir::open(dir.path()).unwrap();
    let identity = state.identity().unwrap().unwrap();
    let snapshot = crate::journal::peek(dir.path()).unwrap();
    assert!(!snapshot.memories.is_empty(), "the fixture ran something");
    let lock = state.lock().unwrap();
    state.migrate(&lock).unwrap();
    assert_eq!(version(dir.path()), VERSION.to_string());
    assert_eq!(state.identity().unwrap().unwrap(), identity);
    assert_eq!(crate::journal::peek(dir.path()).unwrap(), snapshot);
    crate::ledger::verify(&state.ledger()).unwrap();
    let after = content(dir.path());
    for (name, bytes) in &before {
        if name != Path::new("version") {
            assert_eq!(after.get(name), Some(bytes), "{}", name.display());
        }
    }
    for name in ["version", "id", "identity.json"] {
        let copied = after.get(&Path::new("backup-1").join(name));
        assert_eq!(copied, before.get(Path::new(name)), "{name}");
    }
    state.migrate(&lock).unwrap();
    assert_eq!(content(dir.path()), after, "a second time changes nothing");
}

#[test]
fn a_crash_in_the_middle_leaves_the_old_format_and_the_next_start_goes_on() {
    const FAILS: &[Step] = &[
        Step { from: 1, run: half },
        Step {
            from: 2,
            run: never,
        },
    ];
    const WORKS: &[Step] = &[
        Step {
            from: 1,
            run: whole,
        },
        Step {
            from: 2,
            run: whole,
        },
    ];
    fn half(dir: &Path) -> io::Result<()> {
        fs::write(dir.join("half"), "1")?;
        Err(io::Error::other("the power went"))
    }
    fn whole(dir: &Path) -> io::Result<()> {
        fs::write(dir.join("half"), "done")
    }
    fn never(_: &Path) -> io::Result<()> {
        panic!("a step after one that failed")
    }
    let dir = format_1();
    let before = content(dir.path());
    let why = migrate(dir.path(), 1, 3, FAILS).unwrap_err().to_string();
    assert!(
        why.contains("from format 1") && why.contains("backup-1"),
        "{why}"
    );
    assert_eq!(version(dir.path()), "1");
    // As if the crash had come in the middle of the copy, too.
    fs::rename(dir.path().join("backup-1"), dir.path().join("backup-1.tmp")).unwrap();
    fs::write(dir.path().join("backup-1.tmp/id"), "torn").unwrap();
    migrate(dir.path(), 1, 3, WORKS).unwrap();
    assert_eq!(version(dir.path()), "3");
    let backup =
        |n: u32, name: &str| fs::read(dir.path().join(format!("backup-{n}/{name}"))).unwrap();
    assert_eq!(&backup(1, "id"), before.get(Path::new("id")).unwrap());
    assert_eq!(backup(1, "version"), b"1");
    assert_eq!(backup(2, "version"), b"2");
}

#[test]
fn a_format_that_nobody_knows_any_more_is_told_and_left_alone() {
    let dir = format_1();
    fs::write(dir.path().join("version"), "0").unwrap();
    let before = content(dir.path());
    let error = migrate(dir.path(), 0, VERSION, STEPS).unwrap_err();
    assert!(
        matches!(error, StateError::TooOld { found: 0, .. }),
        "{error}"
    );
    assert_eq!(content(dir.path()), before);
}

#[test]
fn the_steps_lead_from_the_first_format_to_the_present_one() {
    let formats = STEPS.iter().map(|step| step.from).collect::<Vec<_>>();
    assert_eq!(formats, (1..VERSION).collect::<Vec<_>>());
}
