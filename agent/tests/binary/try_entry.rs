//! `catalogue try`: the same path as an instruction's, on a person's terminal.

use std::os::unix::process::CommandExt as _;
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::support::{Done, Home, mode, user};

fn script(home: &Home, name: &str, text: &str) {
    let path = home.catalogue().join(name);
    std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
    mode(&path, 0o755);
}

/// A home whose directories tasks of other accounts can pass, with one entry per script.
fn home(scripts: &[(&str, &str, &str)]) -> Home {
    let text = scripts.iter().map(|(name, _, keys)| {
        // A script as the program itself is one of the things that an entry must mean.
        let front = if keys.contains("dangerous") {
            ""
        } else {
            "\"/bin/sh\", "
        };
        format!(
            "[entry.{name}]\nargv = [{front}\"{{catalogue}}/{name}.sh\"]\n{}\n{keys}\n",
            user()
        )
    });
    let home = Home::new().with_catalogue(&text.collect::<String>());
    mode(home.0.path(), 0o711);
    for (name, text, _) in scripts {
        script(&home, &format!("{name}.sh"), text);
    }
    home
}

/// What is left of trials, beside the state directory or in the directory for temporary files.
fn left(home: &Home) -> Vec<std::path::PathBuf> {
    let places = [home.state().join("try"), home.0.path().join("tmp")];
    let below = places.iter().flat_map(|place| {
        let own = rustix::process::geteuid().as_raw();
        [place.clone(), place.join(format!("outpost-try-{own}"))]
    });
    below
        .filter_map(|place| std::fs::read_dir(place).ok())
        .flatten()
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            !path.ends_with(format!(
                "outpost-try-{}",
                rustix::process::geteuid().as_raw()
            ))
        })
        .collect()
}

fn tried(home: &Home, args: &[&str]) -> Done {
    let tmp = home.0.path().join("tmp");
    let _ = std::fs::create_dir(&tmp);
    mode(&tmp, 0o711);
    let mut all = vec!["catalogue", "try"];
    all.extend(args);
    Done::of(home.command(&all).env("TMPDIR", tmp).output().unwrap())
}

#[test]
fn an_entry_runs_without_enrolment_with_its_environment_and_tells_its_outputs() {
    let home = home(&[(
        "greet",
        "echo \"hello $1 $DEPTH from $OUTPOST_TASK\"; echo problem >&2; pwd > \"$OUTPOST_RUN_DIR/where\"\n\
         echo \"who=$1\" >> \"$OUTPOST_OUT\"; echo count=7 >> \"$OUTPOST_OUT\"; id -un; env | cut -d= -f1 | sort | tr '\\n' ' '",
        "description = \"d\"\nreport_count = true\nenv_params = { DEPTH = \"depth\" }\n\
         param.depth = { kind = \"int\", min = 1, max = 9, default = 3 }\n",
    )]);
    let args = std::fs::read_to_string(home.file()).unwrap();
    let args = args.replace("greet.sh\"]", "greet.sh\", \"{param.who}\"]")
        + "param.who = { kind = \"enum\", values = [\"world\", \"moon\"] }\n";
    std::fs::write(home.file(), args).unwrap();
    let done = tried(&home, &["greet", "--param", "who=moon", "-p", "depth=5"]);
    assert_eq!(done.code, Some(0), "{done:#?}");
    assert!(
        done.out.contains("hello moon 5 from try\nproblem\n"),
        "{done:#?}"
    );
    if rustix::process::geteuid().is_root() {
        assert!(done.out.contains("nobody\n"), "{done:#?}");
    }
    assert!(
        done.out.contains("OUTPOST_ATTEMPT") && !done.out.contains("TMPDIR"),
        "{done:#?}"
    );
    for part in [
        "greet: succeeded after",
        "who=moon",
        "would leave the site: outcome, duration, count 7",
    ] {
        assert!(done.err.contains(part), "`{part}` is not in {done:#?}");
    }
    assert_eq!(left(&home), Vec::<std::path::PathBuf>::new());
    assert!(!home.state().exists());
    let json = tried(
        &home,
        &["greet", "--param", "who=world", "--output", "json"],
    );
    let value = json.json();
    assert_eq!(value["outcome"], "succeeded");
    assert_eq!(value["outputs"]["who"], "world");
    assert_eq!(value["reported"]["count"], 7);
    assert_eq!(value["reported"]["exit_code"], serde_json::Value::Null);
    assert_eq!(value["exit_code"], 0);
    assert!(json.err.contains("hello world 3"), "{json:#?}");
}

#[test]
fn the_exit_status_tells_how_it_ended() {
    let home = home(&[
        ("fails", "echo no; exit 3", ""),
        ("slow", "sleep 600", "timeout = \"300ms\"\ngrace = \"1s\""),
        ("killed", "kill -9 $$", ""),
        ("gone", "true", "dangerous = true"),
    ]);
    let done = tried(&home, &["fails"]);
    assert_eq!(done.code, Some(4), "{done:#?}");
    assert!(done.err.contains("fails: failed, exit code 3"), "{done:#?}");
    let done = tried(&home, &["slow"]);
    assert_eq!(done.code, Some(5), "{done:#?}");
    assert!(done.err.contains("timed_out"), "{done:#?}");
    let done = tried(&home, &["killed"]);
    assert_eq!(done.code, Some(4), "{done:#?}");
    assert!(done.err.contains("ended by signal 9"), "{done:#?}");
    let done = tried(&home, &["slow", "--deadline", "100ms"]);
    assert_eq!(done.code, Some(5), "{done:#?}");
    std::fs::write(home.catalogue().join("gone.sh"), "#!/no/such/interpreter\n").unwrap();
    let done = tried(&home, &["gone"]);
    assert_eq!(done.code, Some(6), "{done:#?}");
    assert!(
        done.err.contains("start_failed{not_found}") && done.err.contains("why: "),
        "{done:#?}"
    );
    let done = tried(&home, &["fails", "--deadline", "soon"]);
    assert_eq!(done.code, Some(2), "{done:#?}");
    assert_eq!(left(&home), Vec::<std::path::PathBuf>::new());
}

#[test]
fn what_an_instruction_could_not_do_is_refused_with_the_whole_reason() {
    let home = home(&[(
        "load",
        "true",
        "param.day = { kind = \"date\" }\nparam.n = { kind = \"int\", min = 1, max = 9, default = 1 }",
    )]);
    let refused = |args: &[&str], part: &str| {
        let done = tried(&home, args);
        assert_eq!(done.code, Some(3), "{done:#?}");
        assert!(done.err.contains(part), "`{part}` is not in {done:#?}");
    };
    refused(&["lod"], "did you mean `load`?");
    refused(&["load"], "needs the parameter `day`: a date as YYYY-MM-DD");
    refused(
        &["load", "-p", "day=2026-02-30"],
        "parameter `day` is not a date",
    );
    refused(
        &["load", "-p", "day=2026-02-28", "-p", "n=10"],
        "is not a whole number from 1 to 9",
    );
    refused(
        &["load", "-p", "day=2026-02-28", "-p", "n=x"],
        "is not a whole number from 1 to 9",
    );
    refused(
        &["load", "-p", "dya=1"],
        "has no parameter `dya`; it has: day, n; did you mean `day`?",
    );
    let long = format!("day={}", "x".repeat(5000));
    refused(&["load", "-p", &long], "refused{bad_parameters}");
    tried(&home, &["load", "-p", "day"]).fails(1, "--param NAME=VALUE");
    tried(&home, &["load", "-p", "n=1", "-p", "n=2"]).fails(1, "given twice");
    assert!(left(&home).is_empty());
}

#[test]
fn beside_a_running_agent_nothing_of_its_state_is_touched() {
    let home = home(&[("quick", "true", "")]).with_state("2");
    std::fs::write(home.state().join("id"), "0123456789abcdef0123456789abcdef").unwrap();
    let lock = std::fs::File::create(home.state().join("lock")).unwrap();
    lock.lock().unwrap();
    let names = || {
        let entries = std::fs::read_dir(home.state()).unwrap();
        let mut names = entries
            .map(|entry| entry.unwrap().file_name())
            .collect::<Vec<_>>();
        names.sort();
        names
    };
    let before = names();
    let done = tried(&home, &["quick"]);
    assert_eq!(done.code, Some(0), "{done:#?}");
    let after = names();
    assert_eq!(
        after
            .iter()
            .filter(|name| !before.contains(name))
            .collect::<Vec<_>>(),
        ["try"]
    );
    assert!(left(&home).is_empty());
    let kept = tried(&home, &["quick", "--keep"]);
    assert!(kept.err.contains("kept: "), "{kept:#?}");
    assert_eq!(left(&home).len(), 1);
}

fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < Duration::from_secs(60), "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn lives(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim()));
    stat.is_ok_and(|stat| !stat.contains(") Z "))
}

/// Whether a process has a handler for SIGINT: a trial's task may run before the trial has one.
fn heeds_interrupts(pid: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    let caught = u64::from_str_radix(caught.unwrap().trim(), 16).unwrap();
    caught & 0b10 != 0
}

/// A trial of a task that runs until it is ended; answers the child and the task's process id.
fn sleeping(home: &Home) -> (std::process::Child, String) {
    let child = home
        .command(&["catalogue", "try", "sleeps"])
        .env("TMPDIR", "/tmp")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .unwrap();
    let pid = pid_file(home);
    wait_for("the task runs", || pid.exists());
    let mut text = String::new();
    wait_for("the task says its id", || {
        text = std::fs::read_to_string(&pid).unwrap();
        text.ends_with('\n')
    });
    (child, text)
}

fn sleeper() -> Home {
    let home = home(&[("sleeps", "", "grace = \"2s\"")]);
    let pid = pid_file(&home);
    std::fs::create_dir(pid.parent().unwrap()).unwrap();
    script(
        &home,
        "sleeps.sh",
        &format!("echo $$ > {}; exec sleep 600", pid.display()),
    );
    home
}

/// The task writes its id where the test looks: beside the catalogue, which it cannot change.
fn pid_file(home: &Home) -> std::path::PathBuf {
    home.catalogue().with_file_name("marks").join("pid")
}

#[test]
fn ctrl_c_ends_the_task_as_a_cancel_would_and_a_kill_leaves_nothing_running() {
    if rustix::process::geteuid().is_root() {
        // As root the task is another account's and cannot write beside the catalogue.
        return;
    }
    let home = sleeper();
    let (child, task) = sleeping(&home);
    wait_for("it heeds an interrupt", || heeds_interrupts(child.id()));
    let group = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(group, rustix::process::Signal::INT).unwrap();
    let done = Done::of(child.wait_with_output().unwrap());
    assert_eq!(done.code, Some(130), "{done:#?}");
    assert!(done.err.contains("sleeps: cancelled"), "{done:#?}");
    assert!(!lives(&task));

    std::fs::remove_file(pid_file(&home)).unwrap();
    let (mut child, task) = sleeping(&home);
    child.kill().unwrap();
    child.wait().unwrap();
    wait_for("the task ends with the trial", || !lives(&task));
}

#[test]
fn a_further_task_of_the_same_run_finds_what_the_one_before_left() {
    let home = home(&[
        (
            "make",
            "echo 42 > $OUTPOST_RUN_DIR/made; echo rows=42 >> $OUTPOST_OUT",
            "",
        ),
        (
            "use",
            "cat $OUTPOST_RUN_DIR/made $OUTPOST_RUN_DIR/out/first.env; echo $OUTPOST_TASK",
            "",
        ),
    ]);
    let first = tried(&home, &["make", "--task", "first", "--keep"]);
    let kept = first
        .err
        .lines()
        .find_map(|line| line.strip_prefix("kept: "));
    let kept = kept.unwrap_or_else(|| panic!("{first:#?}")).to_owned();
    let second = tried(&home, &["use", "--task", "second", "--after", &kept]);
    assert_eq!(second.code, Some(0), "{second:#?}");
    assert_eq!(second.out, "42\nrows=42\nsecond\n");
    let own = Home::new().with_state("2");
    std::fs::write(own.state().join("identity.json"), "{}").unwrap();
    let own = own.state().display().to_string();
    assert_eq!(tried(&home, &["use", "--after", &own]).code, Some(1));
}
