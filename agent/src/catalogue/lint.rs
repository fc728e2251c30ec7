//! Objections to entries that let the orchestrator choose more than it should. `dangerous = true` waives them.

use std::path::Path;

use super::entry::Entry;
use super::param::Kind;

/// Programs that run what they are given as text, and the options that make them do so.
const TAKES_CODE: &[(&str, &[&str])] = &[
    ("sh", &["-c"]),
    ("bash", &["-c"]),
    ("dash", &["-c"]),
    ("ash", &["-c"]),
    ("zsh", &["-c"]),
    ("ksh", &["-c"]),
    ("busybox", &["-c"]),
    ("python", &["-c"]),
    ("python3", &["-c"]),
    ("perl", &["-e", "-E"]),
    ("ruby", &["-e"]),
    ("node", &["-e", "--eval", "-p"]),
    ("php", &["-r"]),
    ("lua", &["-e"]),
    ("env", &["-S", "--split-string"]),
    ("xargs", &[]),
    ("sudo", &[]),
    ("su", &[]),
    ("ssh", &[]),
    ("awk", &[]),
];

/// Everything the linter objects to: under which key, and one sentence that says why.
pub(super) fn objections(entry: &Entry, dir: &Path) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for (name, param) in &entry.params {
        if matches!(param.kind, Kind::Text { pattern: None, .. }) {
            found.push((
                format!("param.{name}"),
                "free text without a pattern; add `pattern`, use kind `enum`, or set dangerous = true".to_owned(),
            ));
        }
    }
    if let Some(what) = runs_code(entry, dir) {
        let why =
            format!("{what}; put the code into a file and run that file, or set dangerous = true");
        found.push(("argv".to_owned(), why));
    }
    found
}

fn runs_code(entry: &Entry, dir: &Path) -> Option<String> {
    let program = entry.argv.first()?.fixed(dir)?;
    let base = Path::new(&program).file_name()?.to_str()?;
    let base = base.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.');
    let (name, options) = TAKES_CODE
        .iter()
        .find(|(name, _)| name.trim_end_matches('3') == base)?;
    if options.is_empty() {
        return Some(format!(
            "`{name}` runs what its arguments or its input name"
        ));
    }
    let used = entry
        .argv
        .iter()
        .skip(1)
        .filter_map(|element| element.fixed(dir));
    let takes_code = |argument: &String| {
        let short = |option: &str| option.len() == 2 && is_cluster_with(argument, option);
        options.contains(&argument.as_str()) || options.iter().any(|option| short(option))
    };
    let option = used.into_iter().find(takes_code)?;
    Some(format!("`{name} {option}` takes code as an argument"))
}

/// Whether `-xc` and the like contain the option `-c`.
fn is_cluster_with(argument: &str, option: &str) -> bool {
    let letters = argument
        .strip_prefix('-')
        .filter(|rest| !rest.starts_with('-') && rest.len() <= 4);
    letters.is_some_and(|letters| letters.contains(&option[1..]))
}
