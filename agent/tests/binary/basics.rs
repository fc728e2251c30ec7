//! What it says, how it ends, and that a refusal has no effect.

use crate::support::{Done, Home, entry, mode};

#[test]
fn help_shows_the_commands_with_examples_and_exit_statuses() {
    let done = Home::new().agent(&["--help"]);
    assert_eq!(done.code, Some(0), "{done:#?}");
    for part in ["enrol", "check", "ledger", "Examples", "Exit status"] {
        assert!(done.out.contains(part), "`{part}` is not in:\n{}", done.out);
    }
    assert!(!done.out.contains("role"), "roles are the agent's own");
}

#[test]
fn an_unknown_command_is_wrong_usage() {
    Home::new().agent(&["rnu"]).fails(2, "unrecognized");
}

#[test]
fn without_a_home_nothing_is_guessed() {
    if rustix::process::geteuid().is_root() {
        // Root's files are in one place, whatever the environment says.
        return;
    }
    let below = tempfile::tempdir().unwrap();
    let agent = |args: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_outpost-agent"));
        command.args(args).env_clear().current_dir(below.path());
        Done::of(command.output().unwrap())
    };
    agent(&["status"]).fails(1, "give one with --state");
    agent(&["catalogue", "list"]).fails(1, "give one with --catalogue");
    agent(&["schema"]).ok();
    assert_eq!(std::fs::read_dir(below.path()).unwrap().count(), 0);
}

#[test]
fn check_on_nothing_says_what_is_missing_and_what_to_do() {
    let home = Home::new();
    let done = home.agent(&["check"]);
    assert_eq!(done.code, Some(1), "{done:#?}");
    assert!(
        done.out.contains("FAIL  state") && done.out.contains("outpost-agent enrol"),
        "{done:#?}"
    );
    assert!(!home.state().exists(), "a check leaves nothing behind");
}

#[test]
fn run_before_enrolment_says_how_to_enrol() {
    let home = Home::new().with_catalogue(&entry());
    home.agent(&["run"]).fails(1, "outpost-agent enrol");
    let home = home.with_state("1");
    home.agent(&["run"]).fails(1, "not enrolled");
    let status = home.agent(&["status"]);
    assert_eq!(status.code, Some(1), "{status:#?}");
    assert!(
        status
            .out
            .contains("not running: start it with `outpost-agent run`")
    );
    home.agent(&["pause"]).fails(1, "no agent is running");
}

#[test]
fn d6_a_state_directory_of_a_newer_agent_is_refused_and_left_alone() {
    let home = Home::new().with_state("99").with_catalogue(&entry());
    home.agent(&["run"]).fails(1, "newer agent");
    home.agent(&["logs"]).fails(1, "newer agent");
    assert_eq!(std::fs::read_dir(home.state()).unwrap().count(), 1);
}

#[test]
fn d6_a_state_directory_that_others_can_write_is_refused() {
    let home = Home::new().with_state("1");
    mode(&home.state(), 0o777);
    home.agent(&["run"]).fails(1, "chmod go-w");
}

#[test]
fn a_second_runner_on_one_state_directory_is_refused() {
    let home = Home::new().with_state("1").with_catalogue(&entry());
    let lock = std::fs::File::create(home.state().join("lock")).unwrap();
    lock.lock().unwrap();
    home.agent(&["run"]).fails(1, "another agent is running");
}

#[test]
fn a_catalogue_that_is_not_there_or_cannot_be_understood_is_told_with_file_and_line() {
    let home = Home::new();
    home.agent(&["catalogue", "list"])
        .fails(1, "make the directory");
    let home = home.with_catalogue("[entry.quick]\nargv = [\"/bin/true\"]\nspeed = 3\n");
    home.agent(&["catalogue", "list"]).fails(1, "site.toml:3");
    std::fs::write(home.file(), [0xff, 0xfe]).unwrap();
    home.agent(&["catalogue", "list"])
        .fails(1, "cannot be read");
    std::fs::remove_file(home.file()).unwrap();
    std::os::unix::fs::symlink("/nowhere", home.file()).unwrap();
    home.agent(&["catalogue", "list"]).fails(1, "site.toml");
}

#[test]
fn a_list_of_the_catalogue_says_what_each_start_depends_on() {
    let gates = "needs_approval = true\nwindows = [\"sat\", \"01:00-02:00\"]\nmax_per_hour = 1\nmax_parallel = 2\n";
    let home = Home::new().with_catalogue(&format!("{}{gates}", entry()));
    let list = home.agent(&["catalogue", "list"]).ok();
    let said: Vec<_> = list.lines().skip(1).map(str::trim).collect();
    assert_eq!(
        said,
        [
            "each start needs an approval here",
            "starts within sat; 01:00-02:00 only",
            "1 start in an hour at most",
            "2 at a time at most",
        ],
        "{list}"
    );
    assert!(!list.lines().next().unwrap().ends_with(": "), "{list}");
    let list = home
        .agent(&["catalogue", "list", "--output", "json"])
        .json();
    assert_eq!(
        list[0]["windows"],
        serde_json::json!(["sat", "01:00-02:00"])
    );
    assert_eq!(list[0]["needs_approval"], true);
}

#[test]
fn k12_a_catalogue_that_others_can_write_is_refused_along_its_whole_path() {
    let home = Home::new().with_catalogue(&entry());
    assert_eq!(home.agent(&["catalogue", "list"]).code, Some(0));
    mode(&home.file(), 0o666);
    home.agent(&["catalogue", "list"]).fails(1, "chmod go-w");
    mode(&home.file(), 0o644);
    mode(&home.catalogue(), 0o777);
    home.agent(&["catalogue", "list"]).fails(1, "chmod go-w");
    mode(&home.catalogue(), 0o755);
    mode(home.0.path(), 0o777);
    home.agent(&["catalogue", "list"]).fails(1, "chmod go-w");
}

#[test]
fn a_token_that_is_none_is_refused_and_makes_no_state() {
    let home = Home::new();
    let file = home.0.path().join("join.token");
    std::fs::write(&file, "opj1.nonsense\n").unwrap();
    mode(&file, 0o600);
    let path = file.to_string_lossy().into_owned();
    home.agent(&["enrol", "--token-file", &path])
        .fails(1, "join token");
    assert!(!home.state().exists());
}

#[test]
fn what_is_kept_has_bounds() {
    let home = Home::new();
    home.agent(&["run", "--keep-logs", "31d"])
        .fails(2, "it can be 30d at most");
    home.agent(&["run", "--keep-ledger-size", "1MiB"])
        .fails(2, "it can be 32MiB at least");
    home.agent(&["run", "--keep-logs-size", "10GB"])
        .fails(2, "is not a size");
    home.agent(&["run", "--keep-ledger", "soon"])
        .fails(2, "is not a duration");
}

#[test]
fn d6_what_an_agent_of_format_1_left_is_still_shown() {
    let home = Home::new();
    let fixture = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/state-1");
    let copied = std::process::Command::new("cp")
        .arg("-r")
        .arg(fixture)
        .arg(home.state())
        .status();
    assert!(copied.unwrap().success());
    mode(&home.state(), 0o711);
    let logs = home.agent(&["logs"]).ok();
    assert_eq!(logs.lines().count(), 4, "{logs}");
    let line = |id: &str| {
        let line = logs.lines().find(|line| line.starts_with(id));
        line.unwrap_or_else(|| panic!("{id} is not in\n{logs}"))
    };
    let oldest = line("5acc3038211444306c3469fb5db2c43c");
    assert!(
        oldest.contains("  exit 0  ") && oldest.contains("  w/a  run "),
        "{oldest}"
    );
    let run = oldest.rsplit(' ').next().unwrap();
    let of_run = home.agent(&["logs", run]).ok();
    assert!(of_run.lines().any(|line| line == oldest), "{of_run}");
    home.agent(&["logs", "-f", run])
        .fails(1, "begins the id of a run");
    let silent = home.agent(&["logs", "5acc"]);
    assert!(
        silent.out.is_empty() && silent.err.contains("it printed nothing"),
        "{silent:#?}"
    );
    home.agent(&["logs", "ffffffffffff"])
        .fails(1, "no attempt and no run here");
    let status = home.agent(&["status", "--output", "json"]);
    assert_eq!(status.json()["identity"]["agent"], "site-1", "{status:#?}");
    home.agent(&["ledger", "verify"]).ok();
    let version = std::fs::read_to_string(home.state().join("version")).unwrap();
    assert_eq!(version.trim(), "1", "whoever only looks changes nothing");
}
