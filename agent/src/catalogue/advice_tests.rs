//! Remarks: what tasks of one account can do to each other and to the agent, and what is wider than it need be.

use crate::catalogue::survey;

const SECRETS: &str = "[secret.one]\nenv = \"ONE\"\n[secret.two]\nenv = \"TWO\"\n\
                       [secret.asked]\ncommand = [\"/bin/cat\", \"/none\"]\n";

/// What is remarked of a catalogue: where, and what.
fn remarks(text: &str) -> Vec<(Option<String>, String)> {
    let dir = crate::testing::tempdir().unwrap();
    let catalogue = dir.path().join("catalogue.d");
    std::fs::create_dir(&catalogue).unwrap();
    std::fs::write(dir.path().join("secrets.toml"), SECRETS).unwrap();
    std::fs::write(catalogue.join("site.toml"), text).unwrap();
    let survey = survey(&catalogue, "");
    assert!(survey.problems.is_empty(), "{:#?}", survey.problems);
    let said = survey.remarks.into_iter().map(|one| (one.entry, one.what));
    said.collect()
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// `USER` is a line that names an account, where there can be one.
fn told(text: &str, entry: Option<&str>, part: &str) -> bool {
    let text = match is_root() {
        true => text
            .replace("USER", "user = \"nobody\"")
            .replace("OTHER", "user = \"daemon\""),
        false => text.replace("USER", "").replace("OTHER", ""),
    };
    let is = |(of, what): (Option<String>, String)| of.as_deref() == entry && what.contains(part);
    remarks(&text).into_iter().any(is)
}

#[test]
fn entries_of_one_account_with_different_secrets_are_remarked_where_accounts_are_the_wall() {
    let text = "[entry.a]\nUSER\nargv = [\"/bin/true\"]\nsecret.one = { as = \"fd\" }\n\
                [entry.b]\nUSER\nargv = [\"/bin/true\"]\nsecret.one = { as = \"fd\" }\nsecret.two = { as = \"fd\" }\n";
    let part = "secret.two: `a` runs as nobody too and is not granted this";
    assert_eq!(told(text, Some("b"), part), is_root());
    assert!(
        !told(text, Some("a"), "is not granted this"),
        "`b` has it too"
    );
    let apart = text.replacen("USER", "OTHER", 1);
    assert!(!told(&apart, Some("b"), "is not granted this"));
}

#[test]
fn what_every_task_of_the_agents_account_can_do_is_remarked_where_they_share_it() {
    let text = "[entry.a]\nUSER\nargv = [\"/bin/true\"]\nunix_sockets = true\n";
    assert_eq!(
        told(
            text,
            Some("a"),
            "unix_sockets: it can speak to every service"
        ),
        !is_root()
    );
    let plain = text.replace("unix_sockets = true\n", "");
    assert!(!told(&plain, Some("a"), "unix_sockets"));
    let shares = text.replace("unix_sockets", "ipc");
    let part = "ipc: it reaches shared memory";
    assert_eq!(told(&shares, Some("a"), part), !is_root());
    assert!(!told(&plain, Some("a"), part));
    assert_eq!(told(&plain, None, "can run /bin/cat too"), !is_root());
}

#[test]
fn what_is_wider_than_it_need_be_is_remarked() {
    let as_root = "[entry.a]\nUSER\nargv = [\"/bin/true\"]\n";
    let part = "user: it runs as root";
    assert!(!told(as_root, Some("a"), part));
    // Only root can give another account to its tasks.
    if is_root() {
        let as_root = as_root.replace("USER", "user = \"root\"");
        assert!(told(&as_root, Some("a"), part));
    }
    let dangerous = "[entry.a]\nUSER\nargv = [\"/bin/true\"]\ndangerous = true\n";
    let part = "dangerous: it waives nothing: take the line out";
    assert!(told(dangerous, Some("a"), part));
    let waives = dangerous.replace("\"/bin/true\"", "\"/bin/sh\", \"-c\", \"true\"");
    assert!(!told(&waives, Some("a"), part));
    let variable = "[entry.a]\nUSER\nargv = [\"/bin/true\"]\nsecret.one = { as = \"env\" }\n";
    let part = "secret.one: every process of the task's user can read it in /proc";
    assert!(told(variable, Some("a"), part));
    assert!(!told(
        &variable.replace("\"env\"", "\"fd\""),
        Some("a"),
        part
    ));
}

#[test]
fn a_directory_to_write_that_is_not_there_is_told() {
    let dir = crate::testing::tempdir().unwrap();
    let user = if is_root() { "user = \"nobody\"\n" } else { "" };
    let text =
        format!("[entry.a]\n{user}argv = [\"/bin/true\"]\nwrites = [\"/no/such\", \"/tmp\"]\n");
    std::fs::write(dir.path().join("a.toml"), text).unwrap();
    let survey = survey(dir.path(), "");
    assert!(survey.problems.is_empty(), "{:#?}", survey.problems);
    let said: Vec<&str> = survey.broken.iter().map(|one| one.what.as_str()).collect();
    assert_eq!(said, ["writes: /no/such is not there: make it"]);
}
