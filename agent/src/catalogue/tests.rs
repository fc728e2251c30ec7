//! What a catalogue accepts and what it refuses, and in which words.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use outpost_proto::ids::{AttemptId, CommandSeq, Fence, RunId, TaskIndex};
use outpost_proto::message::ParamValue;

use super::*;

/// The line that root needs in each entry.
fn user() -> &'static str {
    if rustix::process::geteuid().is_root() {
        "user = \"nobody\"\n"
    } else {
        ""
    }
}

fn load_text(text: &str) -> Result<Catalogue, CatalogueError> {
    let dir = crate::testing::tempdir().unwrap();
    write(dir.path(), "a.toml", &text.replace("#user#\n", user()));
    load(dir.path(), "spiffe://test/tenant/t/agent/a")
}

fn write(dir: &Path, name: &str, text: &str) {
    let path = dir.join(name);
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o644)).unwrap();
}

fn refused(text: &str) -> String {
    load_text(text).unwrap_err().to_string()
}

fn assign(catalogue: &Catalogue, entry: &str, parameters: &[(&str, ParamValue)]) -> Assign {
    Assign {
        attempt: AttemptId(1),
        run: RunId(2),
        task: TaskIndex(0),
        fence: Fence(1),
        command_seq: CommandSeq(1),
        entry: entry.parse().unwrap(),
        catalogue_version: catalogue.version(),
        parameters: parameters
            .iter()
            .map(|(name, value)| (name.parse().unwrap(), value.clone()))
            .collect(),
        deadline_ms: None,
        task_name: "t".parse().unwrap(),
        workflow_name: "w".parse().unwrap(),
    }
}

const LISTING: &str = r#"
[entry.list]
#user#
argv = ["/bin/ls", "--sort={param.by}", "{{literal}}", "{param.dir}"]
env_params = { DEPTH = "depth" }
retry_safe = true
on_disconnect = "stop_after 5m"
param.by = { kind = "enum", values = ["size", "time"], default = "size" }
param.depth = { kind = "int", min = 1, max = 9, default = 3 }
param.dir = { kind = "text", pattern = "/[a-z/]+", max_length = 20 }
"#;

#[test]
fn an_accepted_assignment_becomes_verbatim_arguments() {
    let catalogue = load_text(LISTING).unwrap();
    let plan = catalogue
        .plan(&assign(
            &catalogue,
            "list",
            &[("dir", ParamValue::Text("/var/log".into()))],
        ))
        .unwrap();
    assert_eq!(
        plan.argv,
        ["/bin/ls", "--sort=size", "{literal}", "/var/log"]
    );
    assert_eq!(plan.env, [("DEPTH".to_owned(), "3".to_owned())]);
}

#[test]
fn k9_hostile_values_are_refused_and_never_split() {
    let catalogue = load_text(LISTING).unwrap();
    let judge = |value: ParamValue| catalogue.plan(&assign(&catalogue, "list", &[("dir", value)]));
    for text in [
        "-rf",
        "/a; rm",
        "$(id)",
        "/a\n/b",
        "/a b",
        "",
        "/aaaaaaaaaaaaaaaaaaaaaaaaaaa",
        "/a\0",
    ] {
        let (refusal, why) = judge(ParamValue::Text(text.to_owned())).unwrap_err();
        assert_eq!(refusal, Refusal::BadParameters);
        assert!(
            text.is_empty() || !why.contains(text),
            "the reason must not repeat the value: {why}"
        );
    }
    assert!(judge(ParamValue::Integer(1)).is_err());
    let unknown = assign(&catalogue, "list", &[("other", ParamValue::Flag(true))]);
    assert!(
        catalogue
            .plan(&unknown)
            .unwrap_err()
            .1
            .contains("has no parameter `other`; it has: by, depth, dir")
    );
    let missing = catalogue
        .plan(&assign(&catalogue, "list", &[]))
        .unwrap_err();
    assert!(
        missing.1.contains("needs the parameter `dir`"),
        "{}",
        missing.1
    );
}

#[test]
fn an_unknown_entry_is_refused_by_name() {
    let catalogue = load_text(LISTING).unwrap();
    let (refusal, why) = catalogue.plan(&assign(&catalogue, "rm", &[])).unwrap_err();
    assert_eq!(refusal, Refusal::UnknownEntry);
    assert!(why.contains("has no entry `rm`"), "{why}");
}

#[test]
fn what_is_announced_has_hashes_and_policies_only() {
    let catalogue = load_text(LISTING).unwrap();
    let announced = catalogue.announced();
    assert_eq!(announced.entries.len(), 1);
    assert!(announced.entries[0].retry_safe);
    assert_eq!(
        announced.entries[0].on_disconnect,
        message::OnDisconnect::StopAfter(300)
    );
    let again = load_text(LISTING).unwrap().version();
    assert_eq!(again, catalogue.version());
    assert_ne!(
        load_text(&LISTING.replace("size", "none"))
            .unwrap()
            .version(),
        catalogue.version()
    );
}

#[test]
fn unknown_keys_and_bad_values_name_file_line_entry_and_key() {
    let error = refused("[entry.a]\n#user#\nargv = [\"/bin/true\"]\ntimeot = \"5s\"\n");
    assert!(
        error.contains("a.toml:") && error.contains("timeot"),
        "{error}"
    );
    let error = refused("\n[entry.a]\n#user#\nargv = [\"true\"]\ntimeout = \"soon\"\n");
    // The line of the key itself; root's entries have one line more.
    let line = if user().is_empty() { 3 } else { 4 };
    let argv = format!("a.toml:{line}: entry `a`: argv: `true` must be an absolute path");
    assert!(error.contains(&argv), "{error}");
    let timeout = format!("a.toml:{}: entry `a`: timeout: `soon` is not", line + 1);
    assert!(error.contains(&timeout), "{error}");
    let error = refused("[entry.a]\n#user#\nargv = [\"/bin/echo\", \"{param.x}\"]\n");
    assert!(error.contains("there is no parameter `x`"), "{error}");
    let error = refused("[entry.A]\n#user#\nargv = [\"/bin/true\"]\n");
    assert!(
        error.contains("not a valid catalogue entry name"),
        "{error}"
    );
}

#[test]
fn the_linter_refuses_free_text_and_code_unless_dangerous() {
    let free =
        "[entry.a]\n#user#\nargv = [\"/bin/echo\", \"{param.x}\"]\nparam.x = { kind = \"text\" }\n";
    assert!(refused(free).contains("free text without a pattern"));
    for argv in [
        r#"["/bin/sh", "-c", "echo"]"#,
        r#"["/bin/bash", "-xc", "echo"]"#,
        r#"["/usr/bin/python3.11", "-c", "1"]"#,
        r#"["/usr/bin/env", "-S", "sh"]"#,
        r#"["/usr/bin/sudo", "ls"]"#,
    ] {
        let error = refused(&format!("[entry.a]\n#user#\nargv = {argv}\n"));
        assert!(error.contains("dangerous = true"), "{argv}: {error}");
        load_text(&format!(
            "[entry.a]\n#user#\nargv = {argv}\ndangerous = true\n"
        ))
        .unwrap();
    }
    load_text("[entry.a]\n#user#\nargv = [\"/bin/sh\", \"/opt/x.sh\"]\n").unwrap();
}

#[test]
fn files_that_others_can_write_are_refused_along_the_path() {
    let dir = crate::testing::tempdir().unwrap();
    let text = format!("[entry.a]\n{}argv = [\"/bin/true\"]\n", user());
    write(dir.path(), "a.toml", &text);
    let mode = |path: &Path, mode: u32| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    load(dir.path(), "s").unwrap();
    mode(&dir.path().join("a.toml"), 0o666);
    assert!(
        load(dir.path(), "s")
            .unwrap_err()
            .to_string()
            .contains("can be written by others (mode 666)")
    );
    mode(&dir.path().join("a.toml"), 0o644);
    mode(dir.path(), 0o777);
    assert!(
        load(dir.path(), "s")
            .unwrap_err()
            .to_string()
            .contains("chmod go-w")
    );
    mode(dir.path(), 0o755);

    let script = format!(
        "[entry.a]\n{}argv = [\"/bin/sh\", \"{{catalogue}}/x.sh\"]\n",
        user()
    );
    write(dir.path(), "a.toml", &script);
    assert!(
        load(dir.path(), "s").is_err(),
        "a script that does not exist"
    );
    write(dir.path(), "x.sh", "true\n");
    load(dir.path(), "s").unwrap();
    mode(&dir.path().join("x.sh"), 0o646);
    assert!(
        load(dir.path(), "s").is_err(),
        "a script that others can write"
    );
}

#[test]
fn an_entry_defined_twice_is_refused_wherever_the_second_is() {
    let dir = crate::testing::tempdir().unwrap();
    let text = format!("[entry.a]\n{}argv = [\"/bin/true\"]\n", user());
    write(dir.path(), "a.toml", &text);
    write(dir.path(), "b.toml", &text);
    let error = load(dir.path(), "s").unwrap_err().to_string();
    assert!(
        error.contains("b.toml:1: entry `a`: it is defined a second time"),
        "{error}"
    );
}

#[test]
fn a_missing_directory_says_what_to_do() {
    let error = load(Path::new("/no/such/catalogue.d"), "s")
        .unwrap_err()
        .to_string();
    assert!(error.contains("--catalogue"), "{error}");
}

#[test]
#[ignore = "needs: root"]
fn as_root_an_entry_without_a_user_is_refused() {
    let error = refused("[entry.a]\nargv = [\"/bin/true\"]\n");
    assert!(
        error.contains("user: it is missing, and the agent runs as root"),
        "{error}"
    );
}

#[test]
fn another_account_than_the_agents_own_needs_root() {
    if rustix::process::geteuid().is_root() {
        load_text("[entry.a]\nuser = \"nobody\"\nargv = [\"/bin/true\"]\n").unwrap();
    } else {
        let error = refused("[entry.a]\nuser = \"root\"\nargv = [\"/bin/true\"]\n");
        assert!(error.contains("which only root can change to"), "{error}");
    }
}

#[test]
fn a_directory_that_others_can_write_is_refused_even_if_it_holds_links_only() {
    let real = crate::testing::tempdir().unwrap();
    write(
        real.path(),
        "a.toml",
        &format!("[entry.e]\n{}argv = [\"/bin/true\"]\n", user()),
    );
    let dir = crate::testing::tempdir().unwrap();
    std::os::unix::fs::symlink(real.path().join("a.toml"), dir.path().join("a.toml")).unwrap();
    let mode = |mode| {
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(mode)).unwrap();
    };
    mode(0o755);
    load(dir.path(), "").unwrap();
    mode(0o777);
    let why = load(dir.path(), "").unwrap_err().to_string();
    assert!(why.contains("can be written by others (mode 777)"), "{why}");
}

#[test]
fn mistyped_names_get_the_likely_one() {
    let error = refused("[entry.a]\n#user#\nargv = [\"/bin/true\"]\ntimeot = \"5s\"\n");
    assert!(
        error.contains("there is no key `timeot`; did you mean `timeout`?"),
        "{error}"
    );
    let kind = "[entry.a]\n#user#\nargv = [\"/bin/true\"]\nparam.x = { kind = \"txt\" }\n";
    assert!(refused(kind).contains("did you mean `text`?"));
    let param = "[entry.a]\n#user#\nargv = [\"/bin/ls\", \"{param.depht}\"]\n\
                 param.depth = { kind = \"int\", min = 1, max = 9 }\n";
    assert!(refused(param).contains("there is no parameter `depht`; did you mean `depth`?"));
    let catalogue = load_text(LISTING).unwrap();
    let (_, why) = catalogue.plan(&assign(&catalogue, "lst", &[])).unwrap_err();
    assert!(why.ends_with("did you mean `list`?"), "{why}");
    let mistyped = assign(&catalogue, "list", &[("dri", ParamValue::Flag(true))]);
    let (_, why) = catalogue.plan(&mistyped).unwrap_err();
    assert!(why.ends_with("did you mean `dir`?"), "{why}");
}

#[test]
fn one_mistake_is_told_once() {
    let dir = crate::testing::tempdir().unwrap();
    let text = format!(
        "[entry.a]\n{}argv = [\"/bin/ls\", \"{{param.dir}}\"]\nenv_params = {{ DIR = \"dir\" }}\n\
         param.dir = {{ kind = \"path\" }}\n",
        user()
    );
    write(dir.path(), "a.toml", &text);
    let problems = load(dir.path(), "s").unwrap_err().problems;
    let [problem] = problems.as_slice() else {
        panic!("{problems:?}");
    };
    assert!(problem.what.contains("`path` is no kind"), "{problem}");
}

#[test]
fn a_survey_says_what_cannot_work_here_and_what_is_wide() {
    let dir = crate::testing::tempdir().unwrap();
    write(dir.path(), "job.sh", "#!/no/such/interpreter -x\n");
    write(dir.path(), "plain.sh", "true\n");
    let mode = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(dir.path().join("job.sh"), mode).unwrap();
    let user = user();
    let text = format!(
        "[entry.a]\n{user}argv = [\"/no/such/program\"]\n\n\
         [entry.b]\n{user}argv = [\"{{catalogue}}/job.sh\"]\ndescription = \"b\"\ndangerous = true\n\n\
         [entry.c]\n{user}argv = [\"{{catalogue}}/plain.sh\"]\ndescription = \"c\"\n\n\
         [entry.d]\n{user}argv = [\"/bin/ls\", \"{{param.x}}\"]\ndescription = \"d\"\nworkdir = \"/no/such\"\n\
         param.x = {{ kind = \"text\", pattern = \".*\" }}\n\n\
         [entry.e]\n{user}argv = [\"/bin/sh\", \"-c\", \"true\"]\ndescription = \"e\"\ndangerous = true\n"
    );
    write(dir.path(), "a.toml", &text);
    let survey = survey(dir.path(), "");
    assert!(survey.problems.is_empty(), "{:?}", survey.problems);
    assert_eq!(survey.catalogue.unwrap().entries().count(), 5);
    let said = |list: &[Problem], entry: &str, part: &str| {
        let found = list
            .iter()
            .find(|p| p.entry.as_deref() == Some(entry) && p.what.contains(part));
        let found = found.unwrap_or_else(|| panic!("{entry}: {part} is not in {list:#?}"));
        assert!(found.line.is_some());
    };
    said(
        &survey.broken,
        "a",
        "/no/such/program does not exist on this host",
    );
    said(
        &survey.broken,
        "b",
        "job.sh asks for an interpreter: /no/such/interpreter does not exist",
    );
    said(&survey.broken, "c", "is not executable: chmod +x it");
    said(&survey.broken, "d", "workdir: /no/such is no directory");
    said(
        &survey.remarks,
        "d",
        "param.x: its pattern accepts nearly any text",
    );
    said(&survey.remarks, "b", "it waives argv: ");
    said(&survey.remarks, "e", "it waives argv: `sh -c` takes code");
    assert_eq!(survey.broken.len(), 4);
}

#[test]
fn parameters_that_reach_nothing_are_told() {
    let dir = crate::testing::tempdir().unwrap();
    let user = user();
    let text = format!(
        "[entry.a]\n{user}argv = [\"/bin/ls\", \"-{{param.used}}\"]\nenv = {{ DAY = \"{{param.day}}\", HOST = \"db\" }}\n\
         env_params = {{ LIMIT = \"limit\" }}\nparam.used = {{ kind = \"int\", min = 1, max = 2 }}\n\
         param.limit = {{ kind = \"int\", min = 1, max = 2 }}\nparam.day = {{ kind = \"date\" }}\n"
    );
    write(dir.path(), "a.toml", &text);
    let survey = survey(dir.path(), "");
    assert!(survey.catalogue.is_some(), "{:?}", survey.problems);
    let said: Vec<&str> = survey.broken.iter().map(|p| p.what.as_str()).collect();
    assert_eq!(
        said,
        [
            "env.DAY: `{param.day}` stays as it stands in `env`; `env_params = { DAY = \"day\" }` hands the parameter over",
            "param.day: nothing takes it: put `{param.day}` into `argv`, or name it in `env_params`",
        ]
    );
}

/// A catalogue with `secrets.toml` beside its directory.
fn load_with_secrets(secrets: &str, text: &str) -> Result<Catalogue, CatalogueError> {
    let dir = crate::testing::tempdir().unwrap();
    write(dir.path(), "secrets.toml", secrets);
    let catalogue = dir.path().join("catalogue.d");
    std::fs::create_dir(&catalogue).unwrap();
    write(&catalogue, "a.toml", &text.replace("#user#\n", user()));
    load(&catalogue, "spiffe://test/tenant/t/agent/a")
}

const SECRETS: &str =
    "[secret.db-password]\nfile = \"/etc/db\"\n[secret.token]\nenv = \"API_TOKEN\"\n";

#[test]
fn an_entry_is_handed_what_it_is_granted_and_a_change_of_sources_is_no_change_of_it() {
    let entry = "[entry.a]\n#user#\nargv = [\"/bin/true\"]\nsecret.db-password = { as = \"fd\" }\n\
                 secret.token = { as = \"env\", variable = \"TOKEN\" }\n";
    let catalogue = load_with_secrets(SECRETS, entry).unwrap();
    let granted = &catalogue.entry(&"a".parse().unwrap()).unwrap().secrets;
    let granted = granted.iter().map(|grant| grant.variable.as_str());
    assert_eq!(
        granted.collect::<Vec<_>>(),
        ["OUTPOST_SECRET_DB_PASSWORD_FD", "TOKEN"]
    );
    let moved = SECRETS.replace("/etc/db", "/srv/db");
    let moved = load_with_secrets(&moved, entry).unwrap();
    assert_eq!(moved.version(), catalogue.version());
}

#[test]
fn grants_that_cannot_be_are_refused_with_their_place() {
    for (line, expected) in [
        ("secret.db = { as = \"fd\" }", "there is no secret `db` in "),
        (
            "secret.token = { as = \"argv\" }",
            "`argv` is no way to hand it over",
        ),
        ("secret.token = { }", "missing field `as`"),
        (
            "secret.token = \"fd\"",
            "each secret says how it is handed over",
        ),
        ("secrets = []", "it is `secret` here"),
        ("secret.Token = { as = \"fd\" }", "is no secret's name"),
        (
            "secret.token = { as = \"fd\", variable = \"OUTPOST_X\" }",
            "one of the agent's own names",
        ),
        (
            "env = { A = \"b\" }\nsecret.token = { as = \"fd\", variable = \"A\" }",
            "the variable A is taken by `env`",
        ),
        (
            "inherit_env = [\"API_TOKEN\"]",
            "API_TOKEN is the secret `token`, which it would get without being granted it",
        ),
    ] {
        let entry = format!("[entry.a]\n#user#\nargv = [\"/bin/true\"]\n{line}\n");
        let why = load_with_secrets(SECRETS, &entry).unwrap_err().to_string();
        assert!(
            why.contains(expected) && why.contains("a.toml"),
            "{line}: {why}"
        );
    }
    let why = load_with_secrets("[secret.x]\n", "")
        .unwrap_err()
        .to_string();
    assert!(
        why.contains("secrets.toml:1: secret `x`: it has no source"),
        "{why}"
    );
}

#[test]
fn what_an_interpreter_or_a_wrapper_runs_is_no_ones_choice_but_the_sites() {
    let refused = |argv: &str| {
        let text = format!(
            "[entry.a]\n#user#\nargv = {argv}\nparam.x = {{ kind = \"enum\", values = [\"y\"] }}\n"
        );
        load_text(&text).err().map(|error| error.to_string())
    };
    for argv in [
        r#"["/usr/bin/env", "bash", "-c", "id"]"#,
        r#"["/usr/bin/timeout", "5", "/bin/sh", "-xc", "id"]"#,
        r#"["/usr/bin/nice", "-n", "5", "python3", "-c", "pass"]"#,
        r#"["/bin/sh", "{param.x}"]"#,
        r#"["/usr/bin/python3", "-u", "{param.x}"]"#,
        r#"["/usr/bin/env", "A=b", "{param.x}"]"#,
    ] {
        assert!(refused(argv).is_some(), "{argv}");
    }
    for argv in [
        r#"["/bin/sh", "/opt/x.sh", "{param.x}"]"#,
        r#"["/usr/bin/env", "A=b", "/opt/x", "{param.x}"]"#,
        r#"["/usr/bin/timeout", "5", "/opt/x", "-c", "{param.x}"]"#,
        r#"["/opt/x", "{param.x}"]"#,
    ] {
        assert_eq!(refused(argv), None, "{argv}");
    }
}

#[test]
fn windows_are_read_with_the_entry_and_a_wrong_one_is_told_with_its_place() {
    let entry = "[entry.a]\n#user#\nargv = [\"/bin/true\"]\nneeds_approval = true\nwindows = [\"mon-fri\", \"01:00-02:00\"]\n";
    let catalogue = load_text(entry).unwrap();
    let entry_a = catalogue.entry(&"a".parse().unwrap()).unwrap();
    assert!(entry_a.needs_approval);
    assert_eq!(entry_a.windows.len(), 2);
    let why = refused(&entry.replace("mon-fri", "weekdays"));
    assert!(why.contains("windows: `weekdays` is no window"), "{why}");
}

#[test]
fn an_entry_has_no_more_secrets_than_its_keeper_takes() {
    let most = crate::secrets::MOST;
    let entry = |count: usize| {
        let grants = (0..count).map(|n| format!("secret.s{n} = {{ as = \"fd\" }}\n"));
        let grants = grants.collect::<String>();
        refused(&format!(
            "[entry.a]\n#user#\nargv = [\"/bin/true\"]\n{grants}"
        ))
    };
    let too_many = format!("it can have {most} secrets");
    assert!(
        !entry(most).contains(&too_many),
        "what is wrong is that there are none such"
    );
    assert!(entry(most + 1).contains(&too_many));
}
