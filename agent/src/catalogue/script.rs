//! Scripts: a program file that only names, in its first line, the program that reads it; and files that an interpreter
//! in `argv` reads.
//!
//! The kernel executes what a script's first line names and gives that the script's name, which it opens itself. So of a
//! script as `argv[0]` it is not what was looked at that runs: an entry names the interpreter in front, where both are
//! looked at. Called by `lint`, `advice` and `verify`; never runs anything.

use std::fs::{File, OpenOptions};
use std::io::Read as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use super::entry::Entry;
use super::lint;

/// Bytes of a script's first line that the kernel looks at.
const SHEBANG_BYTES: u64 = 256;

/// Where the interpreter that `env` is asked for is looked for, to suggest its whole path: what tasks get as `PATH`.
const PATH: [&str; 6] = [
    "/usr/local/bin",
    "/usr/bin",
    "/bin",
    "/usr/local/sbin",
    "/usr/sbin",
    "/sbin",
];

/// What a script's first line names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Shebang {
    /// The program that the kernel executes.
    pub(super) interpreter: String,
    /// All that follows it: one argument.
    argument: Option<String>,
}

/// What the first line of this file names; `None` when it is no script, or cannot be read.
pub(super) fn shebang(path: &Path) -> Option<Shebang> {
    let mut start = Vec::new();
    let file = plain(path)?;
    file.take(SHEBANG_BYTES).read_to_end(&mut start).ok()?;
    let line = start
        .strip_prefix(b"#!")?
        .split(|byte| *byte == b'\n')
        .next()?;
    let line = String::from_utf8_lossy(line);
    let line = line.trim_matches([' ', '\t']);
    let (interpreter, rest) = line.split_once([' ', '\t']).unwrap_or((line, ""));
    let rest = rest.trim_start_matches([' ', '\t']);
    Some(Shebang {
        interpreter: interpreter.to_owned(),
        argument: (!rest.is_empty()).then(|| rest.to_owned()),
    })
}

/// A regular file; nothing else is waited for.
fn plain(path: &Path) -> Option<File> {
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(libc::O_NONBLOCK);
    let is_file = path.metadata().ok()?.is_file();
    is_file.then(|| options.open(path).ok()).flatten()
}

/// A script that would be executed by its own name, with what to write instead.
pub(super) fn objection(entry: &Entry, dir: &Path) -> Option<String> {
    let shown = entry.argv.iter().map(|element| element.shown());
    objection_to("argv", &fixed(entry, dir), shown.collect())
}

/// The same of a secret's command, whose elements are what they are.
pub(super) fn objection_to_command(argv: &[String]) -> Option<String> {
    let names = argv.iter().cloned().map(Some).collect::<Vec<_>>();
    objection_to("command", &names, argv.to_vec())
}

/// `names`: the elements as they are given to the kernel, where that is known; `shown`: as people write them, under `key`.
fn objection_to(key: &str, names: &[Option<String>], mut shown: Vec<String>) -> Option<String> {
    let at = executed(names).into_iter().find_map(|at| {
        let program = names.get(at)?.clone()?;
        let shebang = shebang(Path::new(&program))?;
        Some((at, program, shebang))
    });
    let (at, script, shebang) = at?;
    shown.splice(at..at, in_front(&shebang));
    let argv = shown.iter().map(|element| format!("{element:?}"));
    let argv = argv.collect::<Vec<_>>().join(", ");
    Some(format!(
        "{script} is a script: what would run is {}, which its first line names, and not the file that is verified; name \
         it in front, `{key} = [{argv}]`",
        shebang.interpreter
    ))
}

fn fixed(entry: &Entry, dir: &Path) -> Vec<Option<String>> {
    let elements = entry.argv.iter();
    elements.map(|element| element.fixed(dir)).collect()
}

/// The elements of `argv` that are executed by their names: the first one, and the program behind those that run another.
fn executed(argv: &[Option<String>]) -> Vec<usize> {
    let mut found = vec![0];
    let name = |at: usize| argv.get(at).cloned().flatten();
    if !name(0).is_some_and(|name| lint::runs_another(&name)) {
        return found;
    }
    let is_env = name(0).is_some_and(|name| name.ends_with("/env"));
    for at in 1..argv.len() {
        let Some(name) = name(at) else { continue };
        // What `env` looks for by its name reads the rest.
        let is_sought = is_env && !name.starts_with(['-', '/']) && !name.contains('=');
        if is_sought || lint::reads_code(&name) {
            break;
        }
        if lint::runs_another(&name) || !is_program(Path::new(&name)) {
            continue;
        }
        found.push(at);
        break;
    }
    found
}

fn is_program(path: &Path) -> bool {
    let meta = path.is_absolute().then(|| path.metadata().ok()).flatten();
    meta.is_some_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// What to write before the script: what the kernel would, but for `env`, whose choice is made here.
fn in_front(shebang: &Shebang) -> Vec<String> {
    let (interpreter, argument) = (&shebang.interpreter, &shebang.argument);
    let is_env = Path::new(interpreter)
        .file_name()
        .is_some_and(|name| name == "env");
    let words = argument.as_deref().filter(|_| is_env).map(|argument| {
        let argument = argument.strip_prefix("-S").unwrap_or(argument);
        argument
            .split_whitespace()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    });
    match words.as_deref() {
        Some([name, rest @ ..]) if !name.starts_with('-') && !name.contains('=') => {
            let found = PATH.iter().map(|dir| Path::new(dir).join(name));
            let found = found.into_iter().find(|path| is_program(path));
            match found {
                Some(path) => [path.display().to_string()]
                    .into_iter()
                    .chain(rest.iter().cloned())
                    .collect(),
                None => [interpreter.clone(), name.clone()]
                    .into_iter()
                    .chain(rest.iter().cloned())
                    .collect(),
            }
        }
        Some(_) | None => [interpreter.clone()]
            .into_iter()
            .chain(argument.clone())
            .collect(),
    }
}

/// The files among the arguments that are run: programs behind those that run another, interpreters, the first file behind
/// an interpreter, and every other script.
pub(super) fn run(entry: &Entry, dir: &Path) -> Vec<PathBuf> {
    run_of(&fixed(entry, dir))
}

/// The same of a secret's command.
pub(super) fn run_by_command(argv: &[String]) -> Vec<PathBuf> {
    run_of(&argv.iter().cloned().map(Some).collect::<Vec<_>>())
}

fn run_of(argv: &[Option<String>]) -> Vec<PathBuf> {
    let executed = executed(argv);
    let mut behind_interpreter = false;
    let mut found = Vec::new();
    for (at, name) in argv.iter().enumerate() {
        let Some(name) = name else {
            continue;
        };
        let path = Path::new(name);
        let is_interpreter = lint::reads_code(name);
        if at > 0 && path.is_absolute() && path.is_file() {
            let is_run = is_interpreter || behind_interpreter || executed.contains(&at);
            if is_run || shebang(path).is_some() {
                found.push(path.to_owned());
            }
            behind_interpreter = false;
        }
        behind_interpreter |= is_interpreter;
    }
    found
}

#[cfg(test)]
#[path = "script_tests.rs"]
mod tests;
