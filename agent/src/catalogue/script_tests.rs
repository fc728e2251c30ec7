//! What is known of scripts, and what an entry that names one by itself is told.

use std::fs::{Permissions, set_permissions};

use outpost_proto::ids::{AttemptId, CommandSeq, Fence, RunId, TaskIndex};
use outpost_proto::message::Assign;

use super::super::{Catalogue, load, paths, survey};
use super::*;

/// A directory with these scripts, executable.
fn dir(scripts: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = crate::testing::tempdir().unwrap();
    for (name, text) in scripts {
        put(dir.path(), name, text, 0o755);
    }
    dir
}

fn put(dir: &Path, name: &str, text: &str, mode: u32) {
    let path = dir.join(name);
    std::fs::write(&path, text).unwrap();
    set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

fn entry(dir: &Path, lines: &str) {
    let user = if rustix::process::geteuid().is_root() {
        "user = \"nobody\"\n"
    } else {
        ""
    };
    put(dir, "a.toml", &format!("[entry.a]\n{user}{lines}\n"), 0o644);
}

/// What is said of the only entry, if it is not accepted.
fn refused(dir: &Path, lines: &str) -> Option<String> {
    entry(dir, lines);
    let problems = load(dir, "s").err()?.problems;
    let [problem] = problems.as_slice() else {
        panic!("{problems:#?}");
    };
    assert!(problem.line.is_some());
    Some(problem.what.clone())
}

fn suggestion(what: &str) -> &str {
    let (_, rest) = what.split_once('`').unwrap();
    rest.split_once('`').unwrap().0
}

#[test]
fn k12_a_script_as_the_program_is_refused_with_what_to_write_instead() {
    let dir = dir(&[
        ("job.sh", "#!/bin/sh\ntrue\n"),
        ("strict.sh", "#! /bin/sh -eu \ntrue\n"),
        ("found", "#!/usr/bin/env sh\ntrue\n"),
        ("split", "#!/usr/bin/env -S sh -e\ntrue\n"),
        ("unknown", "#!/usr/bin/env no-such-program\n"),
        ("cut", "#!/bin/sh"),
    ]);
    let path = dir.path().display();
    let sh = ["/usr/local/bin/sh", "/usr/bin/sh", "/bin/sh"];
    let sh = sh.into_iter().find(|sh| Path::new(sh).exists()).unwrap();
    for (argv, instead) in [
        (
            r#"["{catalogue}/job.sh"]"#.to_owned(),
            r#"["/bin/sh", "{catalogue}/job.sh"]"#.to_owned(),
        ),
        (
            format!(r#"["{path}/job.sh", "-x", "{{{{y}}}}"]"#),
            format!(r#"["/bin/sh", "{path}/job.sh", "-x", "{{{{y}}}}"]"#),
        ),
        (
            r#"["{catalogue}/strict.sh"]"#.to_owned(),
            r#"["/bin/sh", "-eu", "{catalogue}/strict.sh"]"#.to_owned(),
        ),
        (
            r#"["{catalogue}/found"]"#.to_owned(),
            format!(r#"["{sh}", "{{catalogue}}/found"]"#),
        ),
        (
            r#"["{catalogue}/split"]"#.to_owned(),
            format!(r#"["{sh}", "-e", "{{catalogue}}/split"]"#),
        ),
        (
            r#"["{catalogue}/unknown"]"#.to_owned(),
            r#"["/usr/bin/env", "no-such-program", "{catalogue}/unknown"]"#.to_owned(),
        ),
        (
            r#"["{catalogue}/cut"]"#.to_owned(),
            r#"["/bin/sh", "{catalogue}/cut"]"#.to_owned(),
        ),
        (
            r#"["/usr/bin/timeout", "5", "{catalogue}/job.sh"]"#.to_owned(),
            r#"["/usr/bin/timeout", "5", "/bin/sh", "{catalogue}/job.sh"]"#.to_owned(),
        ),
    ] {
        let what = refused(dir.path(), &format!("argv = {argv}")).unwrap();
        assert!(what.starts_with("argv: "), "{what}");
        assert!(what.contains("is a script: what would run is /"), "{what}");
        assert!(what.ends_with(", or set dangerous = true"), "{what}");
        assert_eq!(suggestion(&what), format!("argv = {instead}"), "{what}");
        // What is suggested is accepted.
        assert_eq!(refused(dir.path(), &format!("argv = {instead}")), None);
    }
}

#[test]
fn k12_what_is_no_script_is_not_taken_for_one_and_dangerous_says_that_it_is_meant() {
    let dir = dir(&[("job.sh", "#!/bin/sh\n"), ("binary", "\x7fELF#!/bin/sh\n")]);
    for argv in [
        r#"["/bin/sh", "{catalogue}/job.sh"]"#,
        r#"["/usr/bin/env", "bash", "{catalogue}/job.sh"]"#,
        r#"["/usr/bin/timeout", "5", "/bin/sh", "-e", "{catalogue}/job.sh"]"#,
        r#"["{catalogue}/binary"]"#,
        r#"["/no/such/program"]"#,
        "[\"/\"]",
    ] {
        assert_eq!(refused(dir.path(), &format!("argv = {argv}")), None);
    }
    let meant = "argv = [\"{catalogue}/job.sh\"]\ndangerous = true";
    assert_eq!(refused(dir.path(), meant), None);
    let remarks = survey(dir.path(), "").remarks;
    let waived = remarks
        .iter()
        .find(|one| one.what.contains("it waives argv"));
    assert!(waived.is_some(), "{remarks:#?}");
}

fn verified(dir: &Path, lines: &str) -> Result<(), String> {
    entry(dir, lines);
    verified_by(&load(dir, "s").unwrap())
}

fn verified_by(catalogue: &Catalogue) -> Result<(), String> {
    let assign = Assign {
        attempt: AttemptId(1),
        run: RunId(2),
        task: TaskIndex(0),
        fence: Fence(1),
        command_seq: CommandSeq(1),
        entry: "a".parse().unwrap(),
        catalogue_version: catalogue.version(),
        parameters: Vec::new(),
        deadline_ms: None,
        task_name: "t".parse().unwrap(),
        workflow_name: "w".parse().unwrap(),
    };
    let plan = catalogue.plan(&assign).unwrap();
    catalogue.verify(catalogue.entry(&assign.entry).unwrap(), &plan)
}

#[test]
fn k12_a_script_that_others_can_change_is_not_read_by_its_interpreter() {
    let catalogue = dir(&[]);
    let elsewhere = dir(&[
        ("job.sh", "true\n"),
        ("marked", "#!/bin/sh\n"),
        ("program", "\x7fELF"),
    ]);
    let path = elsewhere.path().display();
    for argv in [
        format!("[\"/bin/sh\", \"-e\", \"{path}/job.sh\", \"/etc/passwd\"]"),
        format!("[\"/usr/bin/nice\", \"/bin/sh\", \"{path}/job.sh\"]"),
        format!("[\"/usr/bin/nice\", \"{path}/program\"]"),
        // An interpreter that nobody knows here.
        format!("[\"/bin/cat\", \"{path}/marked\"]"),
    ] {
        let lines = format!("argv = {argv}");
        let dangerous = format!("{lines}\ndangerous = true");
        assert_eq!(verified(catalogue.path(), &lines), Ok(()));
        set_permissions(elsewhere.path(), Permissions::from_mode(0o777)).unwrap();
        let why = verified(catalogue.path(), &lines).unwrap_err();
        assert!(why.contains("can be written by others"), "{why}");
        let remarks = survey(catalogue.path(), "").remarks;
        let told = remarks.iter().any(|one| one.what.contains(&why));
        assert!(told, "{remarks:#?}");
        assert_eq!(verified(catalogue.path(), &dangerous), Ok(()));
        set_permissions(elsewhere.path(), Permissions::from_mode(0o755)).unwrap();
    }
    // What an interpreter's script reads is data.
    let file = elsewhere.path().join("job.sh");
    set_permissions(&file, Permissions::from_mode(0o666)).unwrap();
    let lines = format!("argv = [\"/bin/cat\", \"{}\"]", file.display());
    assert_eq!(verified(catalogue.path(), &lines), Ok(()));
}

#[test]
fn k12_a_script_that_came_after_the_catalogue_was_read_is_not_started() {
    let dir = dir(&[("job", "\x7fELF")]);
    entry(dir.path(), "argv = [\"{catalogue}/job\"]");
    let catalogue = load(dir.path(), "s").unwrap();
    assert_eq!(verified_by(&catalogue), Ok(()));
    put(dir.path(), "job", "#!/bin/sh\n", 0o755);
    let why = verified_by(&catalogue).unwrap_err();
    assert!(why.contains("is a script"), "{why}");
}

#[test]
fn k12_a_file_of_the_catalogue_among_the_arguments_is_not_one_that_others_can_change() {
    let dir = dir(&[("data", "x")]);
    // Nothing that an interpreter reads, and dangerous besides: the catalogue's own files are looked at all the same.
    entry(
        dir.path(),
        "argv = [\"/bin/cat\", \"{catalogue}/data\"]\ndangerous = true",
    );
    let catalogue = load(dir.path(), "s").unwrap();
    assert_eq!(verified_by(&catalogue), Ok(()));
    put(dir.path(), "data", "x", 0o666);
    let why = verified_by(&catalogue).unwrap_err();
    assert!(why.contains("data can be written by others"), "{why}");
}

#[test]
#[ignore = "needs: root"]
fn k12_a_program_may_be_the_entrys_own_account_s_and_nobody_elses() {
    let dir = dir(&[("job", "\x7fELF")]);
    entry(dir.path(), "argv = [\"{catalogue}/job\"]");
    let catalogue = load(dir.path(), "s").unwrap();
    let own = catalogue
        .entries()
        .next()
        .unwrap()
        .user
        .as_ref()
        .unwrap()
        .uid;
    let elsewhere = crate::testing::tempdir().unwrap();
    let program = elsewhere.path().join("job");
    std::fs::write(&program, "\x7fELF").unwrap();
    let is_looked_at = |uid: u32| {
        std::os::unix::fs::chown(&program, Some(uid), None).unwrap();
        let text = format!("argv = [{:?}]", program.display().to_string());
        entry(dir.path(), &text);
        verified_by(&load(dir.path(), "s").unwrap())
    };
    assert_eq!(is_looked_at(own), Ok(()));
    assert_eq!(is_looked_at(0), Ok(()));
    let why = is_looked_at(own - 1).unwrap_err();
    assert!(why.contains("belongs to user"), "{why}");
}

#[test]
#[ignore = "needs: root"]
fn k12_a_sticky_directory_is_one_of_roots_and_a_sticky_file_is_none() {
    let dir = dir(&[]);
    let sticky = dir.path().join("sticky");
    std::fs::create_dir(&sticky).unwrap();
    put(&sticky, "file", "x", 0o600);
    let file = sticky.join("file");
    let mode =
        |path: &Path, mode: u32| set_permissions(path, Permissions::from_mode(mode)).unwrap();
    mode(&sticky, 0o1777);
    assert_eq!(paths::check_for(&file, &[0]), Ok(()));
    // Whose directory it is can exchange what lies in it, whatever bit it has.
    std::os::unix::fs::chown(&sticky, Some(65534), None).unwrap();
    mode(&sticky, 0o1777);
    let why = paths::check_for(&file, &[0, 65534]).unwrap_err();
    assert!(why.contains("sticky can be written by others"), "{why}");
    std::os::unix::fs::chown(&sticky, Some(0), None).unwrap();
    mode(&sticky, 0o755);
    mode(&file, 0o1666);
    let why = paths::check_for(&file, &[0]).unwrap_err();
    assert!(why.contains("file can be written by others"), "{why}");
}

#[test]
fn k12_a_program_that_others_can_change_does_not_run() {
    let (catalogue, elsewhere) = (dir(&[]), dir(&[("program", "\x7fELF")]));
    let program = elsewhere.path().join("program");
    let lines = format!("argv = [{program:?}]");
    assert_eq!(verified(catalogue.path(), &lines), Ok(()));
    for open in [elsewhere.path(), &program] {
        set_permissions(open, Permissions::from_mode(0o757)).unwrap();
        let why = verified(catalogue.path(), &lines).unwrap_err();
        assert!(why.contains("can be written by others"), "{why}");
        set_permissions(open, Permissions::from_mode(0o755)).unwrap();
    }
}
