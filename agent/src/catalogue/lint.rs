//! Objections to entries that let the orchestrator choose more than it should. `dangerous = true` waives them.

use std::path::Path;

use super::entry::Entry;
use super::param::Kind;
use super::script;
use crate::secrets::Sources;

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

/// Programs that run the program which their arguments name.
const RUNS_ANOTHER: &[&str] = &[
    "chroot", "chrt", "env", "flock", "ionice", "nice", "nohup", "numactl", "runuser", "setpriv",
    "setsid", "stdbuf", "taskset", "time", "timeout", "unshare",
];

/// Everything the linter objects to: under which key, and one sentence that says why.
pub(super) fn objections(entry: &Entry, dir: &Path, secrets: &Sources) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for (name, param) in &entry.params {
        if matches!(param.kind, Kind::Text { pattern: None, .. }) {
            found.push((
                format!("param.{name}"),
                "free text without a pattern; add `pattern` or use kind `enum`".to_owned(),
            ));
        }
    }
    let code = runs_code(entry, dir)
        .map(|what| format!("{what}; put the code into a file and run that file"));
    let chosen = chosen_program(entry, dir);
    found.extend(code.or(chosen).map(|why| ("argv".to_owned(), why)));
    found.extend(script::objection(entry, dir).map(|why| ("argv".to_owned(), why)));
    for variable in &entry.inherit_env {
        for name in secrets.of_variable(variable) {
            let why = format!(
                "{variable} is the secret `{name}`, which it would get without being granted it; write \
                 `secret.{name} = {{ as = \"env\" }}`"
            );
            found.push(("inherit_env".to_owned(), why));
        }
    }
    found
}

/// The base name of a program without its version: `python3.11` is `python`.
fn base_name(program: &str) -> Option<&str> {
    let base = Path::new(program).file_name()?.to_str()?;
    Some(base.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.'))
}

fn takes_code(base: &str) -> Option<&'static (&'static str, &'static [&'static str])> {
    let mut known = TAKES_CODE.iter();
    known.find(|(name, _)| name.trim_end_matches('3') == base)
}

/// Whether a program reads what it runs from a file that it is given.
pub(super) fn reads_code(program: &str) -> bool {
    let known = base_name(program).and_then(takes_code);
    known.is_some_and(|(name, options)| !options.is_empty() && *name != "env")
}

/// Whether a program runs another one that its arguments name.
pub(super) fn runs_another(program: &str) -> bool {
    base_name(program).is_some_and(|base| RUNS_ANOTHER.contains(&base))
}

/// Where programs stand in `argv`: the first element, and behind one that runs another program any that may be it.
fn programs(entry: &Entry, dir: &Path) -> Vec<usize> {
    let fixed = |at: usize| entry.argv.get(at).and_then(|element| element.fixed(dir));
    if fixed(0).as_deref().is_some_and(runs_another) {
        (0..entry.argv.len()).collect()
    } else {
        vec![0]
    }
}

fn runs_code(entry: &Entry, dir: &Path) -> Option<String> {
    programs(entry, dir)
        .into_iter()
        .find_map(|at| runs_code_at(entry, dir, at))
}

fn runs_code_at(entry: &Entry, dir: &Path, at: usize) -> Option<String> {
    let program = entry.argv.get(at)?.fixed(dir)?;
    let (name, options) = takes_code(base_name(&program)?)?;
    if options.is_empty() {
        return Some(format!(
            "`{name}` runs what its arguments or its input name"
        ));
    }
    let used = entry.argv.iter().skip(at + 1);
    let used = used.filter_map(|element| element.fixed(dir));
    let takes_code = |argument: &String| {
        let short = |option: &str| option.len() == 2 && is_cluster_with(argument, option);
        options.contains(&argument.as_str()) || options.iter().any(|option| short(option))
    };
    let option = used.into_iter().find(takes_code)?;
    Some(format!("`{name} {option}` takes code as an argument"))
}

/// An interpreter whose script, or a program that runs another whose program, is a parameter.
fn chosen_program(entry: &Entry, dir: &Path) -> Option<String> {
    let chosen = |at: usize| {
        let program = entry.argv.get(at)?.fixed(dir)?;
        let base = base_name(&program)?;
        if takes_code(base).is_none() && !RUNS_ANOTHER.contains(&base) {
            return None;
        }
        // The first argument that is no option of its own; a parameter cannot begin with a dash unless it may.
        let mut arguments = entry.argv.iter().skip(at + 1);
        let first = arguments.find(|element| {
            let fixed = element.fixed(dir);
            fixed.is_none_or(|fixed| !fixed.starts_with('-') && !fixed.contains('='))
        })?;
        let is_param = first.begins_with_param();
        is_param.then(|| {
            format!("what `{base}` runs is chosen by a parameter; name the program, and let the parameter be an argument of it")
        })
    };
    programs(entry, dir).into_iter().find_map(chosen)
}

/// Whether `-xc` and the like contain the option `-c`.
fn is_cluster_with(argument: &str, option: &str) -> bool {
    let letters = argument
        .strip_prefix('-')
        .filter(|rest| !rest.starts_with('-') && rest.len() <= 4);
    letters.is_some_and(|letters| letters.contains(&option[1..]))
}
