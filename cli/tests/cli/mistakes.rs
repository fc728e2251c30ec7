//! The likeliest mistakes, each with what it is told: a sentence, what to do next, and its exit status.

use std::net::TcpListener;
use std::process::Command;

use crate::fake::Fake;
use crate::support::{outpost, refused, text};

const TOKEN: &str = "opt_0123456789ab_secret";

#[test]
fn a_server_that_is_away_is_said_with_what_to_check() {
    let listener = TcpListener::bind("127.99.0.1:0").unwrap();
    let server = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let mut command = outpost();
    command
        .args(["runs", "--server", &server])
        .env("OUTPOST_TOKEN", TOKEN);
    let parts = [
        "error[unreachable]",
        &server,
        "refused",
        "help:",
        "--server",
        "outpost context show",
    ];
    refused(&mut command, 3, &parts);
    let json = outpost()
        .args(["runs", "--output", "json", "--server", &server])
        .env("OUTPOST_TOKEN", TOKEN)
        .output()
        .unwrap();
    let error: serde_json::Value = serde_json::from_slice(&json.stderr).unwrap();
    assert_eq!(error["error"]["code"], "unreachable");
    assert_eq!(error["error"]["status"], 3);
    assert!(
        error["error"]["help"]
            .as_str()
            .unwrap()
            .contains("--server")
    );
}

#[test]
fn a_token_is_never_shown_to_the_network() {
    for (server, part) in [
        ("http://outpost.example.org:7080", "use https"),
        ("ftp://127.0.0.1", "only http and https"),
        ("127.0.0.1:7080", "write it as http://"),
    ] {
        let mut command = outpost();
        command
            .args(["runs", "--server", server])
            .env("OUTPOST_TOKEN", TOKEN);
        refused(&mut command, 2, &["error[usage]", part]);
        let mut command = outpost();
        command
            .arg("runs")
            .env("OUTPOST_SERVER", server)
            .env("OUTPOST_TOKEN", TOKEN);
        refused(&mut command, 2, &[part, "said by variable OUTPOST_SERVER"]);
    }
}

#[test]
fn https_to_a_server_of_plain_http_is_said() {
    let server = Fake::new();
    let url = server.url().replace("http:", "https:");
    let mut command = outpost();
    command
        .args(["runs", "--server", &url])
        .env("OUTPOST_TOKEN", TOKEN);
    refused(
        &mut command,
        3,
        &["error[unreachable]", "plain http", "try http://"],
    );
}

#[test]
fn without_a_token_nothing_is_asked() {
    refused(
        outpost().arg("runs"),
        4,
        &[
            "error[no_token]",
            "--token-file",
            "OUTPOST_TOKEN_FILE",
            "outpost context add",
        ],
    );
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("token");
    let with = || {
        let mut command = outpost();
        command.arg("runs").arg("--token-file").arg(&file);
        command
    };
    refused(
        &mut with(),
        2,
        &[
            "error[file]: the token file",
            "(named by option --token-file)",
            "No such file",
            "help: name another",
        ],
    );
    std::fs::write(&file, "something else\n").unwrap();
    refused(&mut with(), 2, &["begins with `opt_`"]);
}

/// The server's refusal, and what is made of it.
#[track_caller]
fn answered(
    args: &[&str],
    path: (&'static str, &str),
    status: u16,
    body: &str,
    exit: i32,
    parts: &[&str],
) {
    let server = Fake::new().on(path.0, path.1, status, body);
    refused(&mut server.outpost(args), exit, parts);
}

#[test]
fn what_a_run_lacks_is_said_as_it_is_given() {
    answered(
        &["trigger", "nightly"],
        ("POST", "/api/v1/workflows/nightly/runs"),
        422,
        r#"{"code":"invalid_parameters","detail":"parameter `day`: is required","path":"params.day"}"#,
        2,
        &[
            "error[invalid_parameters]",
            "help: give it as `--param day=VALUE`",
        ],
    );
}

#[test]
fn what_is_not_there_is_told_with_where_to_look() {
    let none = r#"{"items":[],"next":null}"#;
    let gone = r#"{"code":"not_found","detail":"there is no workflow `nihgtly`"}"#;
    let known = r#"{"items":[{"name":"nightly","version":1,"tasks":1,"applied_at":"2026-01-01T00:00:00Z"}]}"#;
    let server = Fake::new()
        .on("GET", "/api/v1/runs", 200, none)
        .on("GET", "/api/v1/workflows/nihgtly", 404, gone)
        .on("GET", "/api/v1/workflows", 200, known);
    refused(
        &mut server.outpost(&["runs", "--workflow", "nihgtly"]),
        5,
        &["did you mean `nightly`?"],
    );
    let many: Vec<String> = (0..9)
        .map(|n| {
            format!(
                r#"{{"name":"w-{n}","version":1,"tasks":1,"applied_at":"2026-01-01T00:00:00Z"}}"#
            )
        })
        .collect();
    let many = format!(r#"{{"items":[{}],"next":null}}"#, many.join(","));
    let server_of_many = Fake::new()
        .on("GET", "/api/v1/runs", 200, none)
        .on("GET", "/api/v1/workflows/nihgtly", 404, gone)
        .on("GET", "/api/v1/workflows", 200, &many);
    refused(
        &mut server_of_many.outpost(&["runs", "--workflow", "nihgtly"]),
        5,
        &["help: `outpost workflows` lists those that are there"],
    );
    for id in ["7c2e91d0", "7c2e91d06b7f4a13a8a3f0d94c55e1b2"] {
        refused(
            &mut server.outpost(&["logs", id]),
            5,
            &[
                "error[not_found]",
                "no attempt and no run",
                "`outpost run RUN`",
            ],
        );
    }
    let none = server
        .outpost(&["runs", "--state", "failed"])
        .output()
        .unwrap();
    assert!(none.status.success(), "{}", text(&none.stderr));
}

#[test]
fn tokens_that_are_wrong_expired_or_may_not_are_told_apart() {
    let runs = ("GET", "/api/v1/runs");
    answered(
        &["runs"],
        runs,
        401,
        r#"{"code":"unauthenticated","detail":"the token is not known"}"#,
        4,
        &[
            "error[unauthenticated]: the token is not known",
            "outpost context show",
        ],
    );
    answered(
        &["runs"],
        runs,
        401,
        r#"{"code":"token_expired","detail":"the token expired on 2026-01-01"}"#,
        4,
        &["error[token_expired]", "token create", "--replace"],
    );
    answered(
        &["cancel", &"0".repeat(32)],
        ("POST", &format!("/api/v1/runs/{}/cancel", "0".repeat(32))),
        403,
        r#"{"code":"forbidden","detail":"this needs the role author, and the token has the role viewer"}"#,
        4,
        &["error[forbidden]: this needs the role author", "--role"],
    );
}

const WORKFLOWS: &str = r#"{"items":[{"name":"host-report","version":1,"tasks":1,"applied_at":"x"},
    {"name":"nightly","version":1,"tasks":1,"applied_at":"x"}],"next":null}"#;

#[test]
fn an_unknown_workflow_agent_context_or_command_is_told_with_the_one_that_is_meant() {
    let server = Fake::new()
        .on("GET", "/api/v1/workflows", 200, WORKFLOWS)
        .on(
            "GET",
            "/api/v1/agents",
            200,
            r#"{"items":[{"agent":"site-1","presence":"live"}]}"#,
        );
    for args in [
        &["trigger", "nihgtly"][..],
        &["trigger", "nihgtly", "--param", "a=b"],
        &["pause", "nihgtly"],
        &["schedule", "nihgtly"],
        &["delete", "workflow", "nihgtly", "--yes"],
    ] {
        refused(
            &mut server.outpost(args),
            5,
            &["error[not_found]", "did you mean `nightly`?"],
        );
    }
    refused(
        &mut server.outpost(&["trigger", "payroll"]),
        5,
        &["there is: host-report, nightly"],
    );
    refused(
        &mut server.outpost(&["agents", "cordon", "site1"]),
        5,
        &["did you mean `site-1`?"],
    );
    refused(outpost().arg("aply"), 2, &["'apply'"]);
    refused(
        outpost().args(["runs", "--context", "prod"]),
        2,
        &["error[no_context]", "outpost context add"],
    );
}

#[test]
fn a_parameter_that_cannot_be_is_told_before_anything_starts() {
    let workflow =
        r#"{"name":"nightly","version":1,"params":{"top":{"kind":"int"},"deep":{"kind":"flag"}}}"#;
    let server = Fake::new().on("GET", "/api/v1/workflows/nightly", 200, workflow);
    for (param, part) in [
        ("top=x", "a whole number"),
        ("deep=1", "true or false"),
        ("tops=1", "did you mean `top`?"),
        ("top", "NAME=VALUE"),
    ] {
        refused(
            &mut server.outpost(&["trigger", "nightly", "--param", param]),
            2,
            &["error[usage]", part],
        );
    }
    assert!(!server.asked().iter().any(|asked| asked.starts_with("POST")));
}

#[test]
fn a_file_that_is_missing_stops_everything() {
    let server = Fake::new();
    for command in ["apply", "diff", "validate"] {
        refused(
            &mut server.outpost(&[command, "no-such.yaml"]),
            2,
            &["error[file]: no-such.yaml", "No such file"],
        );
    }
    assert_eq!(server.asked(), Vec::<String>::new());
}

#[test]
fn a_server_of_another_version_is_not_mistaken_for_a_missing_thing() {
    let old = r#"{"code":"not_found","detail":"there is nothing at this path; the interface is below /api/v1"}"#;
    answered(
        &["pause", "nightly"],
        ("POST", "/api/v1/workflows/nightly/pause"),
        404,
        old,
        3,
        &[
            "error[incompatible]",
            "is older than this outpost",
            "outpost --version",
        ],
    );
    answered(
        &["runs"],
        ("GET", "/api/v1/runs"),
        200,
        r#"{"items":[{"id":7}],"next":null}"#,
        3,
        &["error[incompatible]", "not understood", "outpost --version"],
    );
    let other = Fake::new().plain(
        "GET",
        "/api/v1/runs",
        404,
        "text/html",
        "<html>nginx</html>",
    );
    refused(
        &mut other.outpost(&["runs"]),
        3,
        &["not as an Outpost orchestrator does"],
    );
    let other = Fake::new().plain(
        "GET",
        "/api/v1/runs",
        200,
        "text/html",
        "<html>hello</html>",
    );
    refused(
        &mut other.outpost(&["runs"]),
        3,
        &["no JSON", "is it an Outpost orchestrator?"],
    );
}

#[test]
fn a_dry_run_is_never_taken_for_done_by_a_server_that_does_not_know_it() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a.yaml");
    std::fs::write(&file, "name: a\ntasks:\n  b:\n    entry: c\n").unwrap();
    let applied = r#"{"name":"a","version":1,"result":"created","warnings":[]}"#;
    answered(
        &["apply", "--dry-run", &file.display().to_string()],
        ("POST", "/api/v1/workflows"),
        201,
        applied,
        3,
        &["does not know dry runs"],
    );
}

#[test]
fn the_beginning_of_an_id_must_be_unique_and_long_enough() {
    let item = |run: &str| {
        format!(r#"{{"run":"{run}","workflow":"w","state":"failed","created_at":"x"}}"#)
    };
    let (a, b) = (
        format!("4f1d9{}", "0".repeat(27)),
        format!("4f1d7{}", "0".repeat(27)),
    );
    let runs = format!(r#"{{"items":[{},{}],"next":null}}"#, item(&a), item(&b));
    let server = Fake::new().on("GET", "/api/v1/runs", 200, &runs).on(
        "GET",
        &format!("/api/v1/runs/{a}/explain"),
        200,
        r#"{"items":[]}"#,
    );
    refused(
        &mut server.outpost(&["explain", "4f1d"]),
        2,
        &["several runs", &a, &b, "more digits"],
    );
    refused(
        &mut server.outpost(&["explain", "4f1"]),
        2,
        &["no id of a run", "first 4"],
    );
    refused(
        &mut server.outpost(&["explain", "nightly"]),
        2,
        &["no id of a run", "outpost runs"],
    );
    refused(
        &mut server.outpost(&["explain", "ffff"]),
        5,
        &["error[not_found]", "outpost runs"],
    );
    assert!(
        server
            .outpost(&["explain", "4F1D9"])
            .output()
            .unwrap()
            .status
            .success()
    );
}

#[test]
fn nothing_is_deleted_without_a_yes() {
    let server = Fake::new()
        .on(
            "GET",
            "/api/v1/workflows/nightly",
            200,
            r#"{"name":"nightly"}"#,
        )
        .on("DELETE", "/api/v1/workflows/nightly", 200, "");
    refused(
        &mut server.outpost(&["delete", "workflow", "nightly"]),
        2,
        &["Delete the workflow `nightly`", "--yes"],
    );
    assert_eq!(server.asked(), ["GET /api/v1/workflows/nightly"]);
}

#[test]
fn an_unknown_form_or_number_is_wrong_use() {
    refused(
        outpost().args(["runs", "--output", "xml"]),
        2,
        &["table", "json"],
    );
    refused(outpost().args(["demo", "--top", "0"]), 2, &["1..=100"]);
    refused(
        outpost().args(["agents", "slots", "a", "many"]),
        2,
        &["`none`"],
    );
    refused(
        outpost().args(["agents", "drain", "a", "--timeout", "5m"]),
        2,
        &["--wait"],
    );
}

#[test]
fn colour_is_for_terminals_only() {
    let server = Fake::new();
    let plain = |command: &mut Command| {
        let output = command.output().unwrap();
        let said = text(&output.stdout) + &text(&output.stderr);
        assert!(!said.contains('\u{1b}'), "{said:?}");
    };
    plain(&mut server.outpost(&["runs"]));
    plain(
        server
            .outpost(&["runs"])
            .env("NO_COLOR", "1")
            .env("CLICOLOR_FORCE", "0"),
    );
    plain(server.outpost(&["workflows"]).env("TERM", "xterm-256color"));
}
