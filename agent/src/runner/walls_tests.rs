//! What is said of walls, and what an entry can open in one.

use super::*;

#[test]
fn each_level_is_told_apart() {
    let told = |root, separation, calls| words(root, separation, calls);
    assert!(
        told(true, Separation::Missing, false).0,
        "root gives each task an account"
    );
    let (is_whole, whole) = told(false, Separation::Whole(7), true);
    assert!(is_whole && whole.starts_with("by Landlock 7"), "{whole}");
    for (separation, calls, part) in [
        (
            Separation::Whole(7),
            false,
            "named sockets of the account's services are in reach",
        ),
        (
            Separation::NoSignals(5),
            true,
            "can end the agent's processes",
        ),
        (Separation::Missing, true, "not at all"),
    ] {
        let (is_whole, words) = told(false, separation, calls);
        assert!(!is_whole && words.contains(part), "{words}");
    }
}

#[test]
fn what_the_agent_is_made_of_cannot_be_declared() {
    let path = |path: &str| vec![PathBuf::from(path)];
    let wall = Wall {
        closed: path("/home/u/.local/state/agent"),
        read_only: path("/home/u/.config/outpost/catalogue.d"),
        open: Vec::new(),
        kept: path("/home/u"),
        unix_sockets: false,
        ipc: false,
    };
    for place in [
        "/",
        "/home/u",
        "/home/u/.local/state/agent",
        "/home/u/.local/state/agent/keys",
        "/home/u/.config/outpost",
        "/home/u/.config/outpost/catalogue.d/scripts",
    ] {
        assert!(agents_own(&wall, Path::new(place)).is_some(), "{place}");
    }
    for place in ["/home/u/data", "/home/u/.local/state/agent-2", "/srv"] {
        assert!(agents_own(&wall, Path::new(place)).is_none(), "{place}");
    }
}

#[test]
fn what_everybody_uses_is_no_home() {
    let dir = crate::testing::tempdir().unwrap();
    assert!(is_place(dir.path()));
    assert!(!is_place(Path::new("/")) && !is_place(&dir.path().join("none")));
    let everybodys = std::os::unix::fs::PermissionsExt::from_mode(0o1777);
    std::fs::set_permissions(dir.path(), everybodys).unwrap();
    assert!(!is_place(dir.path()));
}

#[test]
fn k12_catalogue_and_sources_of_secrets_are_read_only_to_every_task() {
    let dir = crate::testing::tempdir().unwrap();
    let dir = dir.path().canonicalize().unwrap();
    std::fs::create_dir(dir.join("catalogue.d")).unwrap();
    let wall = || {
        let catalogue = crate::catalogue::load(&dir.join("catalogue.d"), "").unwrap();
        Walls::default().wall(vec![dir.join("own")], &catalogue)
    };
    assert_eq!(wall().read_only, [dir.join("catalogue.d")]);
    std::fs::write(dir.join("secrets.toml"), "").unwrap();
    let paths = [dir.join("catalogue.d"), dir.join("secrets.toml")];
    assert_eq!(wall().read_only, paths);
    assert_eq!(wall().open, [dir.join("own")]);
}

#[test]
fn k16_a_working_directory_is_opened_where_it_holds_nothing_of_others() {
    let dir = crate::testing::tempdir().unwrap();
    let home = dir.path().canonicalize().unwrap();
    for below in ["catalogue.d", "data/run", "place", "state/keys"] {
        std::fs::create_dir_all(home.join(below)).unwrap();
    }
    let opened = |workdir: &str, writes: &str| {
        let workdir = home.join(workdir);
        let writes = home.join(writes);
        let user = match rustix::process::geteuid().is_root() {
            true => "user = \"nobody\"\n",
            false => "",
        };
        let text = format!(
            "[entry.a]\nargv = [\"/bin/true\"]\nworkdir = \"{}\"\nwrites = [\"{}\"]\n{user}",
            workdir.display(),
            writes.display()
        );
        std::fs::write(home.join("catalogue.d/site.toml"), text).unwrap();
        let catalogue = crate::catalogue::load(&home.join("catalogue.d"), "").unwrap();
        let entry = catalogue.entries().next().unwrap();
        let spec = serde_json::json!({
            "attempt": "0".repeat(32), "dir": "/", "argv": ["/bin/true"], "env": [], "cwd": workdir,
            "grace_ms": 1, "lease_until_boot_us": 1, "log_max_bytes": 1, "log_files": 1, "umask": 0,
            "wall": { "closed": [home.join("state")], "kept": [home, home.join("data/run")] }
        });
        let mut spec: StartSpec = serde_json::from_value(spec).unwrap();
        open_declared(&mut spec, entry)?;
        Ok::<_, String>(spec.wall.unwrap().open)
    };
    let written = home.join("written");
    std::fs::create_dir(&written).unwrap();
    let place = home.join("place");
    assert_eq!(opened("place", "written"), Ok(vec![written.clone(), place]));
    for closed in ["", "data", "data/run", "state", "state/keys"] {
        let open = opened(closed, "written");
        assert_eq!(open, Ok(vec![written.clone()]), "{closed}");
    }
    // What is declared is opened, or the entry does not start.
    for closed in ["", "state", "state/keys", "none"] {
        let why = opened("place", closed).unwrap_err();
        assert!(why.contains("`writes` names"), "{why}");
    }
}

#[test]
fn k16_the_state_directory_is_closed() {
    let dir = crate::testing::tempdir().unwrap();
    let state = StateDir::create(&dir.path().join("state")).unwrap();
    let real = state.path().canonicalize().unwrap();
    assert_eq!(Walls::new(&state).closed, [real]);
}

#[test]
fn k16_cgroups_and_a_program_that_could_be_exchanged_are_kept() {
    let kept = kept();
    if let Some(tree) = cgroup_tree() {
        assert!(kept.contains(&tree.canonicalize().unwrap()), "{kept:?}");
    }
    let program = std::env::current_exe().unwrap().canonicalize().unwrap();
    let beside = program.parent().unwrap();
    let own = rustix::process::geteuid().as_raw();
    let is_own = |path: &Path| path.metadata().unwrap().uid() == own;
    let could = is_own(&program) || is_own(beside) || tempfile::tempfile_in(beside).is_ok();
    assert_eq!(kept.contains(&program), could);
}
