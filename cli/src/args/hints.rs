//! What is added when a command line cannot be read: where the words of other schedulers have gone. The parser's own
//! tips compare letters only.

use std::ffi::OsString;

use clap::error::{ContextKind, ContextValue, ErrorKind};

/// Commands of other schedulers, and the words to write here.
const ELSEWHERE: [(&str, &str); 27] = [
    ("alloc", "outpost run RUN`, `outpost logs RUN`"),
    (
        "auth",
        "outpost context add NAME --server URL --token-file FILE`",
    ),
    (
        "backfill",
        "outpost trigger WORKFLOW --param NAME=VALUE` once for each value",
    ),
    ("clear", "outpost rerun RUN`"),
    ("config", "outpost context show`, `outpost context list`"),
    ("dag", "outpost workflows`, `outpost runs`"),
    ("dags", "outpost workflows`, `outpost runs`"),
    ("describe", "outpost run RUN`, `outpost agents show AGENT`"),
    (
        "get",
        "outpost workflows`, `outpost runs`, `outpost agents`",
    ),
    ("job", "outpost workflows`, `outpost runs`"),
    ("jobs", "outpost workflows`, `outpost runs`"),
    ("kill", "outpost cancel RUN`"),
    (
        "list",
        "outpost workflows`, `outpost runs`, `outpost agents`",
    ),
    (
        "login",
        "outpost context add NAME --server URL --token-file FILE`",
    ),
    ("ls", "outpost workflows`, `outpost runs`, `outpost agents`"),
    ("node", "outpost agents`"),
    ("nodes", "outpost agents`"),
    ("plan", "outpost diff FILE`, `outpost apply --dry-run FILE`"),
    ("ps", "outpost runs --state running`"),
    ("retry", "outpost rerun RUN`"),
    ("server", "outpost-orchestrator serve`"),
    ("show", "outpost run RUN`, `outpost agents show AGENT`"),
    ("start", "outpost trigger WORKFLOW`"),
    (
        "status",
        "outpost runs`, `outpost run RUN`, `outpost agents`",
    ),
    ("stop", "outpost cancel RUN`"),
    ("tasks", "outpost run RUN`, `outpost explain RUN`"),
    ("unpause", "outpost resume WORKFLOW`"),
];
/// How other schedulers' options for parameters begin.
const CONF: [&str; 5] = ["-c", "--conf", "-e", "--exec-date", "--logical-date"];

/// The error with a tip of ours, where there is one. `words` is the command line that could not be read.
pub(crate) fn hinted(mut error: clap::Error, words: &[OsString]) -> clap::Error {
    let tip = match (error.kind(), words.get(1).and_then(|word| word.to_str())) {
        (ErrorKind::InvalidSubcommand, command) => {
            let given = text(&error, ContextKind::InvalidSubcommand);
            given.and_then(|given| instead(&given, command))
        }
        (ErrorKind::UnknownArgument, Some("trigger")) => {
            text(&error, ContextKind::InvalidArg).and_then(|given| parameter(&given))
        }
        (_, _) => None,
    };
    if let Some(tip) = tip {
        for kind in [
            ContextKind::SuggestedSubcommand,
            ContextKind::SuggestedArg,
            ContextKind::Suggested,
        ] {
            error.remove(kind);
        }
        error.insert(
            ContextKind::Suggested,
            ContextValue::StyledStrs(vec![tip.into()]),
        );
    }
    error
}

fn text(error: &clap::Error, kind: ContextKind) -> Option<String> {
    match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.clone()),
        Some(_) | None => None,
    }
}

fn instead(given: &str, command: Option<&str>) -> Option<String> {
    if command == Some("delete") && given != "delete" {
        return Some(format!(
            "what is deleted is named first: `outpost delete workflow {given}`"
        ));
    }
    let (_, ours) = ELSEWHERE.iter().find(|(theirs, _)| *theirs == given)?;
    (command == Some(given)).then(|| format!("here it is `{ours}"))
}

fn parameter(given: &str) -> Option<String> {
    if !given.starts_with('-') && given.contains('=') {
        return Some(format!("a parameter is given as `--param {given}`"));
    }
    CONF.contains(&given)
        .then(|| "parameters are given one by one as `--param NAME=VALUE`".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(line: &str) -> String {
        let words: Vec<OsString> = line.split(' ').map(OsString::from).collect();
        let error = super::super::command()
            .try_get_matches_from(&words)
            .unwrap_err();
        hinted(error, &words).to_string()
    }

    #[test]
    fn words_of_other_schedulers_lead_to_ours() {
        for (line, tip) in [
            (
                "outpost status",
                "here it is `outpost runs`, `outpost run RUN`, `outpost agents`",
            ),
            (
                "outpost dags list",
                "here it is `outpost workflows`, `outpost runs`",
            ),
            (
                "outpost delete nightly",
                "`outpost delete workflow nightly`",
            ),
            (
                "outpost trigger nightly day=2026-01-31",
                "`--param day=2026-01-31`",
            ),
            ("outpost trigger nightly --conf {}", "`--param NAME=VALUE`"),
            ("outpost login", "`outpost context add NAME"),
            ("outpost node status", "here it is `outpost agents`"),
        ] {
            let told = told(line);
            assert!(told.contains(tip), "{told}");
            assert!(!told.contains("similar"), "{told}");
        }
        // What is only misspelt keeps the parser's tip.
        assert!(told("outpost tirgger x").contains("similar subcommand exists: 'trigger'"));
        assert!(told("outpost runs --stat failed").contains("--state"));
    }
}
