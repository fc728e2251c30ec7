//! What packages put beside the binaries against what the binaries are: accounts, options, variables, directories and
//! capabilities; and what systemd's own programs say of it, in tests that need them. No systemd runs here.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use outpost_e2e::binaries::Binary;
use outpost_e2e::process::{command, run};
use outpost_e2e::{Entry, World};
use serde_json::json;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn read(path: &str) -> String {
    let path = root().join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

const AGENT: &str = "packaging/systemd/outpost-agent.service";
const ORCHESTRATOR: &str = "packaging/systemd/outpost-orchestrator.service";
const ACCOUNTS: &str = "packaging/sysusers.d/outpost.conf";
const DIRECTORIES: &str = "packaging/tmpfiles.d/outpost.conf";

/// All values of a unit's key.
fn values<'a>(unit: &'a str, key: &str) -> Vec<&'a str> {
    let lines = unit.lines().filter_map(|line| line.split_once('='));
    let of_key = lines.filter(|(name, _)| *name == key);
    of_key.map(|(_, value)| value.trim()).collect()
}

fn value<'a>(unit: &'a str, key: &str) -> &'a str {
    let [value] = values(unit, key)[..] else {
        panic!("{key} once: {unit}");
    };
    value
}

/// The text of a constant in a source file.
fn constant(file: &str, name: &str) -> String {
    let source = read(file);
    let start = format!("const {name}: &str = \"");
    let (_, rest) = source.split_once(&start).unwrap();
    rest.split_once('"').unwrap().0.to_owned()
}

#[test]
fn accounts_are_those_that_the_binaries_look_for() {
    let conf = read(ACCOUNTS);
    let users = conf.lines().filter_map(|line| line.strip_prefix("u "));
    let users = users.map(|line| {
        assert!(line.ends_with(" /usr/sbin/nologin"), "{line}");
        line.split_whitespace().next().unwrap().to_owned()
    });
    let sandbox = "agent/src/sandbox/accounts.rs";
    let expected = [
        value(&read(ORCHESTRATOR), "User").to_owned(),
        constant(sandbox, "LINK"),
        constant(sandbox, "DIAL"),
        constant("agent/src/users.rs", "TASK_ACCOUNT"),
    ];
    assert_eq!(users.collect::<Vec<_>>(), expected);
    // The agent itself is root: nothing else can give tasks accounts.
    assert_eq!(values(&read(AGENT), "User"), Vec::<&str>::new());
}

/// Every line of a unit that runs one of ours: the binary, and what is said to it.
fn ours(unit: &str) -> Vec<(Binary, Vec<String>)> {
    let lines = ["ExecStart", "ExecReload"].map(|key| values(unit, key));
    let lines = lines.into_iter().flatten();
    let one = |line: &str| {
        let mut words = line.split_whitespace().map(str::to_owned);
        let binary = match words.next().unwrap().as_str() {
            "/usr/bin/outpost-agent" => Binary::Agent,
            "/usr/bin/outpost-orchestrator" => Binary::Orchestrator,
            _ => return None,
        };
        Some((binary, words.collect()))
    };
    lines.filter_map(one).collect()
}

fn help(binary: Binary, subcommand: &str) -> String {
    let mut command = command(binary.path());
    command.args([subcommand, "--help"]);
    run(command).ok()
}

#[test]
fn units_say_what_the_binaries_understand() {
    for (unit, count) in [(read(AGENT), 2), (read(ORCHESTRATOR), 1)] {
        let ours = ours(&unit);
        assert_eq!(ours.len(), count, "{unit}");
        for (binary, words) in &ours {
            let help = help(*binary, &words[0]);
            for option in words.iter().filter(|word| word.starts_with("--")) {
                assert!(help.contains(option.as_str()), "{option}: {help}");
            }
        }
        // Those that are suggested, too.
        let (binary, words) = &ours[0];
        let help = help(*binary, &words[0]);
        let lines = unit.lines().map(|line| line.trim_start_matches('#'));
        let variables = lines.filter_map(|line| line.strip_prefix("Environment="));
        for variable in variables {
            let (name, _) = variable.split_once('=').unwrap();
            assert!(help.contains(&format!("env: {name}")), "{name}: {help}");
        }
    }
}

#[test]
fn units_wait_for_the_files_that_setting_up_makes() {
    let unit = read(ORCHESTRATOR);
    let dir = tempfile::tempdir().unwrap();
    let own = dir.path().join("outpost-orchestrator");
    let mut init = command(Binary::Orchestrator.path());
    init.arg("init").arg("--dir").arg(&own);
    let _ = run(init).ok();
    let path = Path::new(value(&unit, "ConditionPathExists"));
    assert!(own.join(path.file_name().unwrap()).exists());
    let parent = path.parent().unwrap();
    assert_eq!(
        parent,
        Path::new("/var/lib").join(value(&unit, "StateDirectory"))
    );
    assert!(value(&unit, "ExecStart").ends_with(&format!("--dir {}", parent.display())));
    let unit = read(AGENT);
    let state = Path::new("/var/lib").join(value(&unit, "StateDirectory"));
    let path = Path::new(value(&unit, "ConditionPathExists"));
    assert_eq!(path.parent().unwrap(), state);
    let mut help = command(Binary::Agent.path());
    help.arg("--help");
    let help = run(help).ok();
    assert!(
        help.contains(&format!("state in {} as root", state.display())),
        "{help}"
    );
    let world = World::new();
    let token = world.token_file(&world.api(), "site-1");
    let agent = world.enrolled("site-1", &token, &[]);
    assert!(agent.state.join(path.file_name().unwrap()).exists());
    let catalogue = "/etc/outpost/catalogue.d";
    assert!(help.contains(&format!("catalogue in {catalogue} as root")));
    let directories = read(DIRECTORIES);
    assert!(
        directories
            .lines()
            .any(|line| line.split_whitespace().collect::<Vec<_>>()
                == ["d", catalogue, "0755", "root", "root", "-"])
    );
}

/// Those that the agent's own code asks for, and the one with which it clears up after tasks of other accounts.
fn capabilities() -> BTreeSet<String> {
    let source = read("agent/src/sandbox/accounts.rs");
    let (_, list) = source.split_once("const NEEDED").unwrap();
    let (list, _) = list.split_once("];").unwrap();
    let names = list.split('"').skip(1).step_by(2).map(str::to_owned);
    names.chain(["CAP_FOWNER".to_owned()]).collect()
}

#[test]
fn units_give_no_capability_that_is_not_needed_and_keep_tasks_over_a_restart() {
    let unit = read(AGENT);
    let given = value(&unit, "CapabilityBoundingSet").split_whitespace();
    let given = given.map(str::to_owned).collect::<BTreeSet<_>>();
    assert_eq!(given, capabilities());
    for (key, expected) in [
        ("KillMode", "process"),
        ("Delegate", "yes"),
        ("NoNewPrivileges", "yes"),
        ("StateDirectoryMode", "0711"),
    ] {
        assert_eq!(value(&unit, key), expected);
    }
    // These would take from tasks that outlive the agent what they have, or hide them from it.
    for key in [
        "PrivateTmp",
        "RuntimeDirectory",
        "ProtectProc",
        "PrivateUsers",
        "DynamicUser",
    ] {
        assert_eq!(values(&unit, key), Vec::<&str>::new());
    }
    let unit = read(ORCHESTRATOR);
    assert_eq!(value(&unit, "CapabilityBoundingSet"), "");
    assert_eq!(value(&unit, "NoNewPrivileges"), "yes");
}

#[test]
fn units_come_back_after_a_crash_and_keep_the_system_and_their_files_closed() {
    let both = [
        ("Restart", "on-failure"),
        ("UMask", "0077"),
        ("WantedBy", "multi-user.target"),
        ("RestrictSUIDSGID", "yes"),
        ("SystemCallArchitectures", "native"),
    ];
    let agent = [
        ("RestartPreventExitStatus", "2 4"),
        ("ProtectSystem", "full"),
    ];
    let orchestrator = [
        ("RestartPreventExitStatus", "2"),
        ("ProtectSystem", "strict"),
        ("ProtectHome", "yes"),
        ("PrivateTmp", "yes"),
        ("PrivateDevices", "yes"),
        ("MemoryDenyWriteExecute", "yes"),
        ("RestrictNamespaces", "yes"),
        ("StateDirectoryMode", "0700"),
    ];
    for (unit, own) in [(AGENT, &agent[..]), (ORCHESTRATOR, &orchestrator[..])] {
        let text = read(unit);
        for (key, expected) in both.iter().chain(own) {
            assert_eq!(value(&text, key), *expected, "{key} of {unit}");
        }
    }
    let filters = read(ORCHESTRATOR);
    let filters = values(&filters, "SystemCallFilter");
    assert_eq!(filters, ["@system-service", "~@privileged @resources"]);
}

/// What one of systemd's programs says. The tests that ask them are told apart from those that run everywhere, so that no
/// host without them passes by not asking.
fn systemd(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output();
    let output = output.unwrap_or_else(|error| {
        panic!("{program} cannot be run (Debian has it in `systemd`, which need not run): {error}")
    });
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    assert!(output.status.success(), "{args:?}: {said}");
    said
}

/// A directory with the units, which name the binaries that there are.
fn units() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let bin = Binary::Agent.path().parent().unwrap().to_str().unwrap();
    for unit in [AGENT, ORCHESTRATOR] {
        let text = read(unit).replace("/usr/bin/outpost", &format!("{bin}/outpost"));
        let name = Path::new(unit).file_name().unwrap();
        std::fs::write(dir.path().join(name), text).unwrap();
    }
    dir
}

fn inside(dir: &tempfile::TempDir, name: &str) -> String {
    dir.path().join(name).to_str().unwrap().to_owned()
}

#[test]
#[ignore = "needs: systemd-analyze"]
fn systemd_understands_every_line_of_the_units() {
    let dir = units();
    for name in ["outpost-agent.service", "outpost-orchestrator.service"] {
        let said = systemd(
            "systemd-analyze",
            &["verify", "--man=no", &inside(&dir, name)],
        );
        let ours = said.lines().filter(|line| line.contains("outpost"));
        assert_eq!(ours.collect::<Vec<_>>(), Vec::<&str>::new(), "{said}");
    }
}

#[test]
#[ignore = "needs: systemd-analyze"]
fn systemd_finds_the_units_no_more_exposed_than_they_must_be() {
    let dir = units();
    // Of ten, in tenths: tasks run under the one, nothing but the server under the other.
    for (name, most) in [
        ("outpost-agent.service", "60"),
        ("outpost-orchestrator.service", "15"),
    ] {
        let threshold = format!("--threshold={most}");
        let unit = inside(&dir, name);
        let _ = systemd(
            "systemd-analyze",
            &["security", "--offline=true", &threshold, &unit],
        );
    }
}

#[test]
#[ignore = "needs: systemd-sysusers"]
fn systemd_makes_the_accounts_without_a_shell() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("etc")).unwrap();
    let root_dir = format!("--root={}", dir.path().display());
    let accounts = root().join(ACCOUNTS).canonicalize().unwrap();
    let _ = systemd("systemd-sysusers", &[&root_dir, accounts.to_str().unwrap()]);
    let passwd = std::fs::read_to_string(dir.path().join("etc/passwd")).unwrap();
    for account in ["outpost", "outpost-link", "outpost-dial", "outpost-task"] {
        let line = passwd
            .lines()
            .find(|line| line.starts_with(&format!("{account}:")));
        assert!(
            line.is_some_and(|line| line.ends_with(":/usr/sbin/nologin")),
            "{passwd}"
        );
    }
}

#[test]
#[ignore = "needs: root, systemd-tmpfiles"]
fn systemd_makes_the_catalogues_directory_for_root_alone_to_change() {
    let dir = tempfile::tempdir().unwrap();
    let root_dir = format!("--root={}", dir.path().display());
    let directories = root().join(DIRECTORIES).canonicalize().unwrap();
    let args = ["--create", &root_dir, directories.to_str().unwrap()];
    let _ = systemd("systemd-tmpfiles", &args);
    let made = dir.path().join("etc/outpost/catalogue.d");
    let made = std::fs::metadata(made).unwrap();
    assert_eq!(made.permissions().mode() & 0o7777, 0o755);
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&made), 0);
}

#[test]
#[ignore = "needs: root"]
fn an_agent_with_the_capabilities_of_its_unit_is_confined_as_strictly_and_runs_tasks_of_other_accounts()
 {
    let world = World::new();
    let api = world.api();
    let token = world.token_file(&api, "site-1");
    let script = "id -u > \"$shared/uid\"; mkdir -p \"$OUTPOST_RUN_DIR/a\"; touch \"$OUTPOST_RUN_DIR/a/b\" left; chmod 0 left";
    let mut agent = world.enrolled("site-1", &token, &[Entry::script("task", script)]);
    let given = value(&read(AGENT), "CapabilityBoundingSet").to_lowercase();
    let given = given
        .split_whitespace()
        .map(|name| format!(",+{}", &name[4..]));
    let program = world.dir().join("capped");
    let text = format!(
        "#!/bin/sh\nexec setpriv --bounding-set=-all{} --inh-caps=-all --no-new-privs {} \"$@\"\n",
        given.collect::<String>(),
        Binary::Agent.path().display()
    );
    std::fs::write(&program, text).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    agent.program = Some(program);
    agent
        .env
        .push(("OUTPOST_AGENT_SANDBOX".to_owned(), "strict".to_owned()));
    agent.start();
    agent.live(&api);
    let status = agent.status().unwrap();
    assert_eq!(status["sandbox"]["level"], "strict", "{status:#}");
    let _ = api.apply("name: w\ntasks:\n  t: {entry: task}\n").ok();
    let _ = api.succeeded(&api.trigger("w", &json!({})));
    let uid = std::fs::read_to_string(world.shared("uid")).unwrap();
    assert_ne!(uid.trim(), "0");
}
