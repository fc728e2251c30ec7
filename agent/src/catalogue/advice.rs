//! What is accepted and still worth a person's look: what will not work on this host, and what lets the orchestrator
//! choose more than an entry needs. Looked at by `lint` and `check`; nothing here keeps a catalogue from being used.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use outpost_agent_keeper::secrets::Delivery;
use outpost_proto::name::ParamName;

use super::entry::Entry;
use super::lint;
use super::param::Kind;
use super::{script, verify};
use crate::secrets::Sources;

/// What keeps an entry from working on this host: under which key, and one sentence.
pub(super) fn broken(entry: &Entry, dir: &Path) -> Vec<(String, String)> {
    let mut found = Vec::new();
    if let Some(what) = program(entry, dir) {
        found.push(("argv".to_owned(), what));
    }
    if let Some(workdir) = entry.workdir.as_ref().filter(|workdir| !workdir.is_dir()) {
        let what = format!("{} is no directory on this host", workdir.display());
        found.push(("workdir".to_owned(), what));
    }
    let missing = entry.writes.iter().filter(|path| !path.exists());
    found.extend(missing.map(|path| {
        let what = format!("{} is not there: make it", path.display());
        ("writes".to_owned(), what)
    }));
    found.extend(constants(entry));
    found.extend(unused(entry));
    found
}

/// Constants that look as if a parameter were put into them.
fn constants(entry: &Entry) -> impl Iterator<Item = (String, String)> {
    entry.env.iter().filter_map(|(variable, value)| {
        let (_, rest) = value.split_once("{param.")?;
        let (name, _) = rest.split_once('}')?;
        let what = format!(
            "`{{param.{name}}}` stays as it stands in `env`; `env_params = {{ {variable} = \"{name}\" }}` hands the \
             parameter over"
        );
        Some((format!("env.{variable}"), what))
    })
}

/// Parameters that nothing is told of.
fn unused(entry: &Entry) -> impl Iterator<Item = (String, String)> {
    let is_used = |name: &ParamName| {
        entry.argv.iter().any(|element| element.names(name))
            || entry.env_params.values().any(|used| used == name)
    };
    let unused = entry.params.keys().filter(move |name| !is_used(name));
    unused.map(|name| {
        let what = format!(
            "nothing takes it: put `{{param.{name}}}` into `argv`, or name it in `env_params`"
        );
        (format!("param.{name}"), what)
    })
}

/// What works and is wider than it need be: under which key, and one sentence.
pub(super) fn remarks(
    entry: &Entry,
    dir: &Path,
    own_uid: u32,
    secrets: &Sources,
) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut say = |key: &str, what: String| found.push((key.to_owned(), what));
    let program = entry.argv.first().and_then(|program| program.fixed(dir));
    let run = program.map(PathBuf::from).into_iter();
    let owners = verify::owners(entry, own_uid);
    for path in run.chain(script::run(entry, dir)) {
        if let Err(why) = verify::looked(&path, &owners) {
            say("argv", why);
        }
    }
    if entry.user.as_ref().is_some_and(|user| user.uid == 0) {
        let what = "it runs as root: name an account that can do no more than this task needs";
        say("user", what.to_owned());
    }
    if entry.unix_sockets && own_uid != 0 {
        let what = "it can speak to every service of this account that has a named socket, such as `systemd --user`, a bus \
                    or a container engine, and have it run things outside of its wall";
        say("unix_sockets", what.to_owned());
    }
    if entry.ipc && own_uid != 0 {
        let what = "it reaches shared memory, semaphores, queues and kernel keys of every program and task of this account";
        say("ipc", what.to_owned());
    }
    if entry.dangerous {
        let waived = lint::objections(entry, dir, secrets);
        if waived.is_empty() {
            let what = "it waives nothing: take the line out";
            say("dangerous", what.to_owned());
        }
        for (key, why) in waived {
            say("dangerous", format!("it waives {key}: {why}"));
        }
    }
    for grant in &entry.secrets {
        if grant.delivery == Delivery::Env {
            let what = "every process of the task's user can read it in /proc, and what the task starts inherits it: \
                        use `fd` or `file` where the program can";
            say(&format!("secret.{}", grant.secret), what.to_owned());
        }
    }
    for (name, param) in &entry.params {
        if let Kind::Text {
            pattern: Some(pattern),
            max_length,
            ..
        } = &param.kind
            && ACCEPTS_ALL
                .iter()
                .all(|text| pattern.is_match(text) || text.len() > *max_length as usize)
        {
            let what =
                "its pattern accepts nearly any text, paths and spaces included: make it narrower";
            say(&format!("param.{name}"), what.to_owned());
        }
    }
    found
}

/// A secret of an entry that a task of another entry can get at, because both run under one account, which is no wall
/// between them: which other entry, in one sentence. `others`: all entries.
pub(super) fn shared<'a>(
    entry: &Entry,
    mut others: impl Iterator<Item = &'a Entry>,
) -> Option<(String, String)> {
    let user = entry.user.as_ref()?;
    let lacks = |other: &Entry| {
        let mut granted = entry.secrets.iter().map(|grant| &grant.secret);
        granted
            .find(|name| other.secrets.iter().all(|grant| grant.secret != **name))
            .cloned()
    };
    let (other, secret) = others.find_map(|other| {
        let is_same = other
            .user
            .as_ref()
            .is_some_and(|theirs| theirs.uid == user.uid);
        let secret = lacks(other).filter(|_| is_same && other.name != entry.name)?;
        Some((other, secret))
    })?;
    let what = format!(
        "`{}` runs as {} too and is not granted this: tasks of one account can read each other's memory, descriptors and \
         files; give one of them an account of its own",
        other.name, user.name
    );
    Some((format!("secret.{secret}"), what))
}

/// Texts that have little in common: a pattern that accepts them all restricts nothing.
const ACCEPTS_ALL: &[&str] = &["a", "../../etc/passwd", "x; y $(z)", "a b", "\u{e4}\"'*"];

/// What keeps the program from being executed here.
fn program(entry: &Entry, dir: &Path) -> Option<String> {
    let program = entry.argv.first()?.fixed(dir)?;
    let path = Path::new(&program);
    if let Err(what) = executable(path) {
        return Some(what);
    }
    let interpreter = script::shebang(path)?.interpreter;
    let what = executable(Path::new(&interpreter)).err()?;
    Some(format!("{program} asks for an interpreter: {what}"))
}

fn executable(path: &Path) -> Result<(), String> {
    let shown = path.display();
    let meta = path.metadata().map_err(|error| {
        if error.kind() == std::io::ErrorKind::NotFound {
            format!("{shown} does not exist on this host: install it, or correct the path")
        } else {
            format!("{shown}: {error}")
        }
    })?;
    if !meta.is_file() {
        return Err(format!("{shown} is no file"));
    }
    if meta.permissions().mode() & 0o111 == 0 {
        return Err(format!("{shown} is not executable: chmod +x it"));
    }
    Ok(())
}

#[cfg(test)]
#[path = "advice_tests.rs"]
mod tests;
