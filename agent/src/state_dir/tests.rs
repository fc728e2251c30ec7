//! Whose a directory may be, and what is done to one that is not.

use super::*;

#[test]
fn a_directory_of_a_newer_agent_is_refused_and_left_alone() {
    let dir = crate::testing::tempdir().unwrap();
    std::fs::write(dir.path().join("version"), "99").unwrap();
    assert!(matches!(
        StateDir::create(dir.path()),
        Err(StateError::Newer { found: 99, .. })
    ));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn d6_a_directory_that_others_can_write_is_refused() {
    let dir = crate::testing::tempdir().unwrap();
    StateDir::create(dir.path()).unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
    let error = StateDir::open(dir.path()).unwrap_err().to_string();
    assert!(error.contains("chmod go-w"), "{error}");
}

#[test]
fn a_second_runner_is_told_so() {
    let dir = crate::testing::tempdir().unwrap();
    let state = StateDir::create(dir.path()).unwrap();
    let _lock = state.lock().unwrap();
    assert!(matches!(state.lock(), Err(StateError::Locked { .. })));
}

#[test]
fn the_id_is_made_once() {
    let dir = crate::testing::tempdir().unwrap();
    let state = StateDir::create(dir.path()).unwrap();
    assert_eq!(state.id().unwrap(), state.id().unwrap());
}

fn mode(path: &Path) -> u32 {
    path.metadata().unwrap().permissions().mode() & 0o7777
}

#[test]
fn d6_a_directory_of_another_account_is_refused() {
    let dir = crate::testing::tempdir().unwrap();
    StateDir::create(dir.path()).unwrap();
    let error = if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(dir.path(), Some(61_713), None).unwrap();
        StateDir::open(dir.path()).unwrap_err()
    } else {
        check_safe(Path::new("/")).unwrap_err()
    };
    assert!(error.to_string().contains("belongs to user"), "{error}");
}

#[test]
fn d6_what_is_made_is_closed_to_others_and_passed_through_where_tasks_must() {
    let dir = crate::testing::tempdir().unwrap();
    let path = dir.path().join("a/b/state");
    let state = StateDir::create(&path).unwrap();
    let _lock = state.lock().unwrap();
    for (name, expected) in [
        ("a", 0o711),
        ("a/b", 0o711),
        ("a/b/state", 0o711),
        ("a/b/state/work", 0o711),
        ("a/b/state/runs", 0o711),
        ("a/b/state/keys", 0o700),
        ("a/b/state/ledger", 0o700),
        ("a/b/state/attempts", 0o700),
        ("a/b/state/lock", 0o600),
        ("a/b/state/version", 0o600),
    ] {
        assert_eq!(mode(&dir.path().join(name)), expected, "{name}");
    }
}
