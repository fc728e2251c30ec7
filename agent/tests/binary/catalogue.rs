//! `catalogue lint`, `schema` and `reference`.

use crate::support::{Home, user};

#[test]
fn lint_says_everything_at_once_with_file_and_line() {
    let user = user();
    let home = Home::new().with_catalogue(&format!(
        "[entry.a]\n{user}\nargv = [\"ls\"]\ntimeout = \"soon\"\n\n\
         [entry.b]\n{user}\nargv = [\"/bin/sh\", \"-c\", \"true\"]\n\n\
         [entry.c]\n{user}\nargv = [\"/bin/echo\", \"{{param.x}}\"]\nparam.x = {{ kind = \"text\" }}\n"
    ));
    let done = home.agent(&["catalogue", "lint"]);
    assert_eq!(done.code, Some(1), "{done:#?}");
    for part in [
        "error: ",
        "site.toml:3: entry `a`: argv: `ls` must be an absolute path",
        "site.toml:4: entry `a`: timeout: `soon` is not a duration",
        "site.toml:8: entry `b`: argv: `sh -c` takes code as an argument; put the code into a file",
        "site.toml:13: entry `c`: param.x: free text without a pattern",
        "not accepted: 4 errors",
    ] {
        assert!(done.out.contains(part), "`{part}` is not in {}", done.out);
    }
    let json = home.agent(&["catalogue", "lint", "--output", "json"]);
    let value = json.json();
    assert_eq!(json.code, Some(1));
    assert_eq!(value["accepted"], false);
    assert_eq!(value["errors"].as_array().unwrap().len(), 4);
    assert_eq!(value["errors"][0]["line"], 3);
}

#[test]
fn lint_accepts_with_warnings() {
    let home = Home::new().with_catalogue(&format!(
        "[entry.a]\n{}\nargv = [\"/no/such/program\"]\n",
        user()
    ));
    let done = home.agent(&["catalogue", "lint"]);
    assert_eq!(done.code, Some(0), "{done:#?}");
    for part in [
        "warning: ",
        "/no/such/program does not exist",
        "accepted: 1 entry",
    ] {
        assert!(done.out.contains(part), "`{part}` is not in {}", done.out);
    }
}

#[test]
fn the_schema_and_the_references_are_printed() {
    let home = Home::new();
    let schema = home.agent(&["schema"]).json();
    assert_eq!(schema["title"], "Outpost catalogue file");
    for (what, title) in [
        ("catalogue", "# Catalogue reference"),
        ("config", "# Agent configuration reference"),
        ("cli", "# Command reference: outpost-agent"),
    ] {
        let text = home.agent(&["reference", what]).ok();
        assert!(text.starts_with(title), "{text}");
    }
    assert!(!home.agent(&["--help"]).ok().contains("reference"));
}
