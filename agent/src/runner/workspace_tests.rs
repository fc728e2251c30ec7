//! The modes and owners of what a task finds, and its environment to the letter.

use std::os::unix::fs::MetadataExt;

use outpost_proto::ids::{AttemptId, CommandSeq, Fence, RunId, TaskIndex};

use super::*;
use crate::catalogue::{self, Catalogue};

struct Site {
    _dir: tempfile::TempDir,
    state: StateDir,
    catalogue: Catalogue,
}

fn site() -> Site {
    let dir = crate::testing::tempdir().unwrap();
    let files = dir.path().join("catalogue");
    std::fs::create_dir(&files).unwrap();
    std::fs::set_permissions(&files, Permissions::from_mode(0o755)).unwrap();
    let user = if is_root() { "user = \"nobody\"" } else { "" };
    let text = format!(
        "[entry.e]\n{user}\nargv = [\"/bin/true\"]\nenv = {{ LANG = \"C\", PATH = \"/bin\" }}\n"
    );
    let file = files.join("a.toml");
    std::fs::write(&file, text).unwrap();
    std::fs::set_permissions(&file, Permissions::from_mode(0o644)).unwrap();
    let catalogue = catalogue::load(&files, "").unwrap();
    let state = StateDir::create(&dir.path().join("state")).unwrap();
    Site {
        _dir: dir,
        state,
        catalogue,
    }
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

impl Site {
    fn assign(&self, attempt: u128) -> Assign {
        Assign {
            attempt: AttemptId(attempt),
            run: RunId(7),
            task: TaskIndex(0),
            fence: Fence(5),
            command_seq: CommandSeq(1),
            entry: "e".parse().unwrap(),
            catalogue_version: self.catalogue.version(),
            parameters: Default::default(),
            deadline_ms: None,
            task_name: "t".parse().unwrap(),
            workflow_name: "w".parse().unwrap(),
        }
    }

    fn prepare(&self, attempt: u128) -> io::Result<StartSpec> {
        let assign = self.assign(attempt);
        let entry = self.catalogue.entry(&assign.entry).unwrap();
        let plan = self.catalogue.plan(&assign).unwrap();
        prepare(&self.state, &assign, entry, plan, 1, 1)
    }

    fn run(&self) -> std::path::PathBuf {
        self.state.run(RunId(7))
    }
}

fn mode(path: &Path) -> u32 {
    path.symlink_metadata().unwrap().mode() & 0o7777
}

/// What lies there; whether there is an empty file or none is the same to who reads it.
fn written(out: &Path) -> String {
    std::fs::read_to_string(out).unwrap_or_default()
}

#[test]
fn a_task_reaches_its_own_directories_and_can_list_nothing_else() {
    let site = site();
    let spec = site.prepare(1).unwrap();
    let state = site.state.path();
    for (dir, expected) in [("attempts", 0o700), ("keys", 0o700), ("ledger", 0o700)] {
        assert_eq!(mode(&state.join(dir)), expected, "{dir}");
    }
    for (dir, expected) in [("", 0o711), ("work", 0o711), ("runs", 0o711)] {
        assert_eq!(mode(&state.join(dir)), expected, "{dir}");
    }
    // The attempt's own directories are the keeper's to make, private and the task's.
    assert!(spec.make_cwd && !spec.cwd.exists() && !spec.dir.exists());
    let shared = if is_root() { 0o1777 } else { 0o700 };
    assert_eq!(mode(&site.run()), shared);
    assert_eq!(mode(&site.run().join("out")), shared);
    let owner = spec.user.as_ref().map(|user| user.uid);
    let out = site.run().join("out/t.env");
    assert_eq!(out.exists(), is_root(), "nobody but the task can make it");
    if let Some(uid) = owner {
        assert_eq!((out.metadata().unwrap().uid(), mode(&out)), (uid, 0o644));
    }
}

#[test]
fn k7_the_environment_is_what_was_declared_and_nothing_else() {
    let site = site();
    let spec = site.prepare(1).unwrap();
    let mut env = spec.env.clone();
    env.sort();
    let names = env
        .iter()
        .map(|(name, _)| name.as_str())
        .collect::<Vec<_>>();
    let expected = [
        "HOME",
        "LANG",
        "OUTPOST_ATTEMPT",
        "OUTPOST_ENTRY",
        "OUTPOST_FENCE",
        "OUTPOST_OUT",
        "OUTPOST_RUN",
        "OUTPOST_RUN_DIR",
        "OUTPOST_TASK",
        "OUTPOST_WORKFLOW",
        "PATH",
    ];
    assert_eq!(names, expected);
    let value = |name: &str| env.iter().find(|(n, _)| n == name).unwrap().1.clone();
    assert_eq!(value("PATH"), "/bin", "what is declared counts");
    assert_eq!(value("HOME"), spec.cwd.display().to_string());
    assert_eq!(value("OUTPOST_ATTEMPT"), spec.attempt);
}

#[test]
fn an_attempt_begins_with_empty_outputs_whatever_lay_there() {
    let site = site();
    site.prepare(1).unwrap();
    let out = site.run().join("out/t.env");
    let precious = site.state.path().join("precious");
    std::fs::write(&precious, "stays").unwrap();
    std::fs::write(&out, "count=1\n").unwrap();
    site.prepare(2).unwrap();
    assert_eq!(written(&out), "");
    std::fs::remove_file(&out).ok();
    std::os::unix::fs::symlink(&precious, &out).unwrap();
    site.prepare(3).unwrap();
    let lies = out.symlink_metadata().ok();
    assert_eq!(lies.map(|meta| meta.is_file()), is_root().then_some(true));
    assert_eq!(std::fs::read_to_string(&precious).unwrap(), "stays");
}

#[test]
fn the_directories_of_a_run_are_made_once_and_again_when_they_are_gone() {
    let site = site();
    let mut runs = Runs::default();
    let mut prepare = |attempt| {
        let assign = site.assign(attempt);
        let entry = site.catalogue.entry(&assign.entry).unwrap();
        let plan = site.catalogue.plan(&assign).unwrap();
        runs.prepare(&site.state, &assign, entry, plan, 1, 1)
    };
    prepare(1).unwrap();
    let out = site.run().join("out/t.env");
    std::fs::write(&out, "count=1\n").unwrap();
    prepare(2).unwrap();
    assert_eq!(written(&out), "");
    std::fs::remove_dir_all(site.run()).unwrap();
    prepare(3).unwrap();
    assert_eq!(written(&out), "");
    assert!(site.run().join("out").is_dir());
    assert_eq!(runs.known.len(), 1);
}

#[test]
fn directories_that_were_made_before_their_run_was_known_are_as_others() {
    let site = site();
    let spare = site.state.runs().join(SPARE);
    let mut runs = Runs::default();
    let begin = |runs: &mut Runs, run| {
        let mut assign = site.assign(1);
        assign.run = RunId(run);
        let entry = site.catalogue.entry(&assign.entry).unwrap();
        let plan = site.catalogue.plan(&assign).unwrap();
        runs.prepare(&site.state, &assign, entry, plan, 1, 1)
            .unwrap();
        site.state.run(assign.run)
    };
    assert_eq!(runs.may_prepare(), None, "nobody has run anything yet");
    begin(&mut runs, 1);
    assert!(runs.may_prepare().is_some());
    runs.prepare_next(&site.state);
    assert_eq!(runs.may_prepare(), None);
    assert_eq!(mode(&spare), 0o700, "nobody else reaches it");
    let made = spare.symlink_metadata().unwrap().ino();
    let run = begin(&mut runs, 2);
    assert_eq!(run.symlink_metadata().unwrap().ino(), made);
    let shared = if is_root() { 0o1777 } else { 0o700 };
    assert_eq!((mode(&run), mode(&run.join("out"))), (shared, shared));
    assert!(!spare.exists() && runs.may_prepare().is_some());
    // A run that has them already keeps them, and the ones that were made wait for another.
    runs.prepare_next(&site.state);
    std::fs::create_dir(site.state.run(RunId(3))).unwrap();
    let run = begin(&mut runs, 3);
    assert_eq!(mode(&run), shared);
    assert!(run.join("out").is_dir() && spare.exists() && runs.may_prepare().is_none());
    // Whoever takes them away costs nobody a run.
    std::fs::remove_dir_all(&spare).unwrap();
    assert!(begin(&mut runs, 4).join("out").is_dir());
    assert!(runs.may_prepare().is_some());
}

#[test]
fn a_run_directory_that_a_crash_left_half_made_is_made_right() {
    let site = site();
    DirBuilder::new().mode(0o700).create(site.run()).unwrap();
    site.prepare(1).unwrap();
    assert_eq!(mode(&site.run()), if is_root() { 0o1777 } else { 0o700 });
    std::fs::remove_dir_all(site.run()).unwrap();
    let outside = site.state.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    let closed = Permissions::from_mode(0o500);
    std::fs::set_permissions(&outside, closed).unwrap();
    std::os::unix::fs::symlink(&outside, site.run()).unwrap();
    assert!(
        site.prepare(2).is_err(),
        "a link in its place is not followed"
    );
    assert_eq!(mode(&outside), 0o500);
    assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0);
}

/// Tasks of the run can write where the directory of its outputs lies.
#[test]
fn k11_outputs_behind_a_link_are_neither_taken_away_nor_made() {
    let site = site();
    site.prepare(1).unwrap();
    let outside = site.state.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    for name in ["t.env", "other"] {
        std::fs::write(outside.join(name), "stays").unwrap();
    }
    let out = site.run().join("out");
    std::fs::remove_dir_all(&out).unwrap();
    std::os::unix::fs::symlink(&outside, &out).unwrap();
    for name in ["t.env", "other", "none"] {
        assert!(begin_outputs(&out.join(name), None).is_err(), "{name}");
    }
    assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 2);
    assert!(site.prepare(2).is_err());
    assert_eq!(std::fs::read(outside.join("t.env")).unwrap(), b"stays");
}

#[test]
fn what_a_task_makes_is_its_accounts_alone_unless_it_has_one_of_its_own() {
    let site = site();
    assert_eq!((super::mode(true), super::mode(false)), (0o1777, 0o700));
    let assign = site.assign(1);
    let entry = site.catalogue.entry(&assign.entry).unwrap();
    let umask = |user: Option<RunAs>| {
        let mut entry = entry.clone();
        entry.user = user;
        let plan = site.catalogue.plan(&assign).unwrap();
        let spec = spec(&site.state, &assign, &entry, plan, 1, 1);
        assert!(spec.no_new_privs && spec.make_cwd);
        spec.umask
    };
    let other = RunAs {
        name: "o".to_owned(),
        uid: 1,
        gid: 1,
        groups: Vec::new(),
    };
    assert_eq!((umask(None), umask(Some(other))), (0o077, 0o022));
}
