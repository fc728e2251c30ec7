//! Commands that need no server: contexts, checking files, completions, manual pages, the reference.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use insta::assert_snapshot;

use crate::fake::Fake;
use crate::support::{outpost, refused, run, text};

const TOKEN: &str = "opt_0123456789ab_secret";

fn at(home: &Path, args: &[&str]) -> Command {
    let mut command = outpost();
    command.args(args).env("XDG_CONFIG_HOME", home);
    command
}

#[track_caller]
fn said(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout)
}

#[test]
fn contexts_are_added_chosen_shown_used_and_removed() {
    let home = tempfile::tempdir().unwrap();
    let home = home.path();
    let (one, two) = (Fake::new(), Fake::new());
    let none = r#"{"items":[],"next":null}"#;
    let (one, two) = (
        one.on("GET", "/api/v1/runs", 200, none),
        two.on("GET", "/api/v1/runs", 200, none),
    );
    let token = home.join("one.token");
    std::fs::write(&token, TOKEN).unwrap();
    let token = token.display().to_string();

    let added = said(&mut at(
        home,
        &[
            "context",
            "add",
            "one",
            "--server",
            &one.url(),
            "--token-file",
            &token,
        ],
    ));
    assert_eq!(added, "context one is added and current\n");
    let mut child = at(
        home,
        &[
            "context",
            "add",
            "two",
            "--server",
            &two.url(),
            "--token-stdin",
        ],
    )
    .stdin(Stdio::piped())
    .stdout(Stdio::piped())
    .spawn()
    .unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), TOKEN.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success());

    let kept = home.join("outpost/config.toml");
    assert_eq!(
        std::fs::metadata(kept).unwrap().permissions().mode() & 0o777,
        0o600
    );
    let hide = |text: &str| {
        text.replace(&one.url(), "URL-1")
            .replace(&two.url(), "URL-2")
            .replace(&home.display().to_string(), "HOME")
    };
    for (name, args) in [
        ("context_list", &["context", "list"][..]),
        ("context_show", &["context", "show"]),
        (
            "context_show_flag",
            &["context", "show", "--context", "two"],
        ),
        (
            "context_show_other",
            &["context", "show", "--server", "https://other.example.org"],
        ),
    ] {
        let json: Vec<&str> = args.iter().copied().chain(["--output", "json"]).collect();
        let shown = said(&mut at(home, args)) + &said(&mut at(home, &json));
        assert!(!shown.contains("secret"), "{shown}");
        assert_snapshot!(name, hide(&shown));
    }
    used_and_removed(home, &one, &two, &token);
}

fn used_and_removed(home: &Path, one: &Fake, two: &Fake, token: &str) {
    let file = home.join("outpost/config.toml");
    said(&mut at(home, &["runs"]));
    said(&mut at(home, &["runs", "--context", "two"]));
    said(at(home, &["runs"]).env("OUTPOST_CONTEXT", "two"));
    assert_eq!((one.asked().len(), two.asked().len()), (1, 2));
    said(&mut at(home, &["context", "use", "two"]));
    said(&mut at(home, &["runs"]));
    assert_eq!((one.asked().len(), two.asked().len()), (1, 3));

    refused(
        &mut at(home, &["context", "use", "tow"]),
        2,
        &["error[no_context]", "did you mean `two`?"],
    );
    refused(
        &mut at(home, &["context", "add", "two", "--server", &one.url()]),
        2,
        &["--replace"],
    );
    refused(
        &mut at(home, &["context", "add", "three"]),
        2,
        &["--server"],
    );
    refused(
        &mut at(home, &["context", "add", "a/b", "--server", &one.url()]),
        2,
        &["no name for a context"],
    );
    let other = "https://other.example.org";
    refused(
        &mut at(home, &["runs", "--server", other]),
        4,
        &["error[no_token]", "is not shown to another server"],
    );
    said(&mut at(home, &["context", "remove", "two"]));
    refused(&mut at(home, &["runs"]), 4, &["error[no_token]"]);
    assert!(Path::new(token).exists());

    std::fs::write(
        &file,
        "[context.x]\nserver = \"http://127.0.0.1:1\"\ntoken = \"opt_x\"\n",
    )
    .unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
    refused(&mut at(home, &["context", "list"]), 2, &["chmod 600"]);
}

#[test]
fn every_problem_of_every_file_is_shown_in_its_line() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(
        dir.path().join("good.yaml"),
        "name: good\ntasks:\n  a:\n    entry: x\n",
    )
    .unwrap();
    std::fs::write(
        dir.path().join("bad.yml"),
        "name: bad\nqueue: Big Queue\ntasks:\n  load:\n    entri: load\n    needs: [lod]\n  report:\n    entry: report\n    needs: [laod]\n    retries: many\n",
    )
    .unwrap();
    let check = |args: &[&str]| {
        outpost()
            .args(args)
            .current_dir(dir.path())
            .output()
            .unwrap()
    };
    let shown = check(&["validate", "."]);
    assert_eq!(shown.status.code(), Some(2));
    assert_snapshot!("validate", text(&shown.stdout) + &text(&shown.stderr));
    let json = check(&["validate", ".", "--output", "json"]);
    assert_eq!(json.status.code(), Some(2));
    assert_snapshot!("validate_json", text(&json.stdout) + &text(&json.stderr));
    assert_eq!(
        text(&check(&["validate", "good.yaml"]).stdout),
        "good.yaml: valid: good, 1 task\n"
    );
}

#[test]
fn a_file_holds_one_workflow_and_a_workflow_is_in_one_file() {
    let dir = tempfile::tempdir().unwrap();
    let one = "name: one\ntasks:\n  a:\n    entry: x\n";
    std::fs::write(dir.path().join("two.yaml"), format!("{one}---\n{one}")).unwrap();
    let check = |args: &[&str]| {
        let mut command = outpost();
        command.args(args).current_dir(dir.path());
        command
    };
    let output = check(&["validate", "two.yaml"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(
        text(&output.stderr).contains("one file holds one workflow"),
        "{}",
        text(&output.stderr)
    );
    std::fs::write(dir.path().join("two.yaml"), one).unwrap();
    std::fs::write(dir.path().join("three.yaml"), one).unwrap();
    let output = check(&["validate", "."]).output().unwrap();
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2));
    assert!(
        said.contains("two.yaml and") || said.contains("three.yaml and"),
        "{said}"
    );
    std::fs::write(
        dir.path().join("latin.yaml"),
        b"name: a\ndescription: caf\xe9\n",
    )
    .unwrap();
    refused(
        &mut check(&["validate", "latin.yaml"]),
        2,
        &["latin.yaml:2", "UTF-8"],
    );
}

#[test]
fn nothing_is_applied_when_one_of_several_is_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let flow = |name: &str| format!("name: {name}\ntasks:\n  a:\n    entry: x\n");
    std::fs::write(dir.path().join("a.yaml"), flow("a")).unwrap();
    std::fs::write(dir.path().join("b.yaml"), "name: b\ntasks: {}\n").unwrap();
    let server = Fake::new();
    let output = server
        .outpost(&["apply", "-f"])
        .arg(dir.path())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", text(&output.stderr));
    assert_eq!(server.asked(), Vec::<String>::new());

    // Both are fine here; the server does not take one of them, and says so before anything is applied.
    std::fs::write(dir.path().join("b.yaml"), flow("b")).unwrap();
    let server = Fake::new().on(
        "POST",
        "/api/v1/workflows?dry_run=true",
        422,
        r#"{"code":"unknown_entry","detail":"no agent announces `x`","path":"tasks.a.entry"}"#,
    );
    let output = server
        .outpost(&["apply", "-f"])
        .arg(dir.path())
        .output()
        .unwrap();
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(
        said.contains("nothing was applied") && said.contains("--allow-unknown-entries"),
        "{said}"
    );
    assert!(said.contains("b.yaml (tasks.a.entry)"), "{said}");
    assert!(
        server.asked().iter().all(|it| it.contains("dry_run=true")),
        "{:?}",
        server.asked()
    );

    let server = Fake::new()
        .on(
            "POST",
            "/api/v1/workflows?dry_run=true",
            200,
            r#"{"name":"a","version":1,"result":"created","warnings":[],"dry_run":true}"#,
        )
        .on(
            "POST",
            "/api/v1/workflows",
            201,
            r#"{"name":"a","version":1,"result":"created","warnings":[],"dry_run":false}"#,
        );
    let output = server
        .outpost(&["apply", "."])
        .current_dir(dir.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_snapshot!("apply_directory", text(&output.stdout));
    assert_eq!(server.asked().len(), 4);
}

#[test]
fn completions_manual_pages_and_references_are_made() {
    for (shell, part) in [
        ("bash", "_outpost"),
        ("zsh", "#compdef outpost"),
        ("fish", "complete -c outpost"),
    ] {
        let output = run(&["completions", shell]);
        let script = text(&output.stdout);
        assert!(output.status.success() && script.contains(part), "{shell}");
        assert!(
            script.contains("rerun") && !script.contains("-main"),
            "{shell}"
        );
    }
    let dir = tempfile::tempdir().unwrap();
    let pages = dir.path().join("man1");
    let written = said(outpost().arg("man").arg(&pages));
    assert!(written.contains("manual pages are in"), "{written}");
    let page = std::fs::read_to_string(pages.join("outpost-agents-drain.1")).unwrap();
    assert!(
        page.contains(".TH") && page.contains("outpost agents drain site\\-1"),
        "{page}"
    );
    let reference = said(outpost().args(["reference", "cli"]));
    assert!(
        reference.contains("### `outpost agents drain`"),
        "{reference}"
    );
    assert_snapshot!(
        "exit_codes",
        said(outpost().arg("exit-codes"))
            + &said(outpost().args(["exit-codes", "--output", "json"]))
    );
    let help = said(outpost().args(["help", "exit-codes"]));
    assert!(help.contains("70  an error of ours"), "{help}");
}

#[test]
fn schemas_are_json_schemas() {
    for kind in ["workflow", "catalogue"] {
        let schema: serde_json::Value =
            serde_json::from_str(&said(outpost().args(["schema", kind]))).unwrap();
        assert!(
            schema["$schema"]
                .as_str()
                .unwrap()
                .contains("json-schema.org"),
            "{schema}"
        );
        assert!(schema["properties"].is_object(), "{schema}");
    }
}
