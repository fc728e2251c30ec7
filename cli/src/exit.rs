//! What each exit status means: the one list that help texts, `outpost exit-codes` and the reference are made of.

use serde_json::{Value, json};

/// Done as asked.
pub(crate) const DONE: u8 = 0;
/// What was waited for did not come out as wished.
pub(crate) const UNSUCCESSFUL: u8 = 1;
/// Asked for wrongly.
pub(crate) const USAGE: u8 = 2;
/// No answer, or none that is understood.
pub(crate) const UNREACHABLE: u8 = 3;
/// Not allowed.
pub(crate) const DENIED: u8 = 4;
/// Not there, or in the way of what is.
pub(crate) const CONFLICT: u8 = 5;
/// Stopped.
pub(crate) const INTERRUPTED: u8 = 6;
/// Ours.
pub(crate) const INTERNAL: u8 = 70;

/// Every status and its meaning, in order.
pub(crate) const CODES: [(u8, &str, &str); 8] = [
    (
        DONE,
        "ok",
        "done; with --wait, and for `watch`: the run succeeded",
    ),
    (
        UNSUCCESSFUL,
        "unsuccessful",
        "the run, or what was waited for, did not succeed; `diff`: differs",
    ),
    (
        USAGE,
        "usage",
        "wrong use, or refused: options, files, workflows, parameters",
    ),
    (
        UNREACHABLE,
        "unreachable",
        "the server is out of reach, cannot answer, or is of another version",
    ),
    (
        DENIED,
        "denied",
        "denied: no token, a wrong or expired one, a role that may not",
    ),
    (
        CONFLICT,
        "conflict",
        "not found, or in conflict with what is there",
    ),
    (INTERRUPTED, "interrupted", "interrupted"),
    (INTERNAL, "internal", "an error of ours"),
];

/// As a section of help texts.
pub(crate) fn table() -> String {
    let lines = CODES.map(|(code, _, meaning)| format!("  {code:<3} {meaning}"));
    format!("Exit status:\n{}", lines.join("\n"))
}

/// As a section of the reference.
pub(crate) fn markdown() -> String {
    let rows = CODES.map(|(code, word, meaning)| format!("| {code} | {word} | {meaning} |\n"));
    format!(
        "| status | word | meaning |\n|---|---|---|\n{}",
        rows.concat()
    )
}

/// For programs.
pub(crate) fn json() -> Value {
    let items = CODES
        .map(|(code, word, meaning)| json!({ "status": code, "word": word, "meaning": meaning }));
    json!({ "items": items })
}
