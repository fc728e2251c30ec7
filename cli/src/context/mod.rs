//! `outpost context`: several orchestrators, each named once. Never shows a token.

pub(crate) mod file;
pub(crate) mod resolve;

use std::io::Read as _;
use std::path::{Path, PathBuf};

use serde_json::json;

use self::file::{Context, Contexts};
use self::resolve::{Effective, Environment, Source, TokenAt, resolve};
use crate::args::{ConnectionArgs, ContextAdd, ContextCommand};
use crate::client::config;
use crate::failure::Failure;
use crate::output::{Column, Out, Table};

/// Bytes of a token on standard input, at most.
const MOST_TOKEN: u64 = 4096;

/// Runs one of the commands.
pub(crate) fn run(
    connection: &ConnectionArgs,
    command: ContextCommand,
    out: Out,
) -> Result<(), Failure> {
    match command {
        ContextCommand::List => {
            list(&load()?, out);
            Ok(())
        }
        ContextCommand::Show => show(&effective(connection)?, out),
        ContextCommand::Add(args) => add(connection, &args, out),
        ContextCommand::Use { name } => change(&name, out, "current", |contexts| {
            contexts.named(&name)?;
            contexts.current = Some(name.clone());
            Ok(())
        }),
        ContextCommand::Remove { name } => change(&name, out, "removed", |contexts| {
            contexts.named(&name)?;
            contexts.by_name.remove(&name);
            if contexts.current.as_ref() == Some(&name) {
                contexts.current = None;
            }
            Ok(())
        }),
    }
}

/// What is in effect for commands that ask a server.
///
/// # Errors
/// The file of contexts is wrong, or a context is named that is not there.
pub(crate) fn effective(connection: &ConnectionArgs) -> Result<Effective, Failure> {
    resolve(connection, &Environment::of_process(), &load()?)
}

fn load() -> Result<Contexts, Failure> {
    match file::usual_path() {
        Some(path) => Contexts::load(&path),
        None => Ok(Contexts::default()),
    }
}

/// Changes the file.
fn change(
    name: &str,
    out: Out,
    what: &str,
    change: impl FnOnce(&mut Contexts) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let path = file::usual_path().ok_or_else(|| {
        Failure::Usage("there is no place for contexts: set HOME or XDG_CONFIG_HOME".to_owned())
    })?;
    let mut contexts = Contexts::load(&path)?;
    change(&mut contexts)?;
    contexts.save(&path)?;
    let current = contexts.current.as_deref() == Some(name);
    let value = json!({ "name": name, "result": what, "current": current });
    out.either(&value, |out| {
        let and = if current && what == "added" {
            " and current"
        } else {
            ""
        };
        out.line(&format!("context {name} is {what}{and}"));
    });
    Ok(())
}

fn add(connection: &ConnectionArgs, args: &ContextAdd, out: Out) -> Result<(), Failure> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if args.name.is_empty() || args.name.len() > 64 || !args.name.chars().all(fits) {
        return Err(Failure::Usage(format!(
            "`{}` is no name for a context: use up to 64 letters, digits, `-`, `_` and `.`",
            args.name
        )));
    }
    let Some(server) = &connection.server else {
        return Err(Failure::Usage(
            "say which server it is: --server https://outpost.example.org:7080".to_owned(),
        ));
    };
    let token_file = connection.token_file.as_deref().map(absolute).transpose()?;
    let mut context = Context {
        server: config::server(server)?
            .as_str()
            .trim_end_matches('/')
            .to_owned(),
        token_file,
        token: None,
        ca: connection.ca.as_deref().map(absolute).transpose()?,
    };
    if let Some(path) = &context.token_file {
        config::token_in(path)?;
    }
    if let Some(path) = &context.ca {
        config::roots(path)?;
    }
    if args.token_stdin {
        let mut text = String::new();
        let read = std::io::stdin()
            .lock()
            .take(MOST_TOKEN)
            .read_to_string(&mut text);
        read.map_err(Failure::file("standard input"))?;
        context.token = Some(config::token_from(&text, "standard input")?);
    }
    change(&args.name, out, "added", |contexts| {
        if contexts.by_name.contains_key(&args.name) && !args.replace {
            return Err(Failure::Usage(format!(
                "there is a context `{}` already; choose another name, or pass --replace",
                args.name
            )));
        }
        contexts.by_name.insert(args.name.clone(), context);
        if args.choose || contexts.by_name.len() == 1 {
            contexts.current = Some(args.name.clone());
        }
        Ok(())
    })
}

/// Found from everywhere.
fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    path.canonicalize().map_err(Failure::file(path))
}

fn list(contexts: &Contexts, out: Out) {
    let columns = [
        Column::new("CURRENT", 1),
        Column::new("NAME", 0),
        Column::new("SERVER", 0),
        Column::new("TOKEN", 1),
        Column::new("CA", 2),
    ];
    let mut table = Table::new(&columns, "no contexts; `outpost context add` makes one");
    let mut items = Vec::new();
    for (name, context) in &contexts.by_name {
        let current = contexts.current.as_ref() == Some(name);
        let shown = |path: &Option<PathBuf>| path.as_ref().map(|path| path.display().to_string());
        let (token_file, ca) = (shown(&context.token_file), shown(&context.ca));
        let token = match (&context.token, &token_file) {
            (Some(_), _) => "stored".to_owned(),
            (None, Some(path)) => path.clone(),
            (None, None) => "none".to_owned(),
        };
        items.push(json!({
            "name": name, "current": current, "server": context.server,
            "token": if context.token.is_some() { "stored" } else if token_file.is_some() { "file" } else { "none" },
            "token_file": token_file, "ca": ca,
        }));
        let mark = if current { "*" } else { "" };
        table.row(vec![
            mark.to_owned(),
            name.clone(),
            context.server.clone(),
            token,
            ca.unwrap_or_default(),
        ]);
    }
    out.either(&json!({ "items": items }), |out| out.table(&table));
}

fn show(effective: &Effective, out: Out) -> Result<(), Failure> {
    let token = match &effective.token {
        Some(said) => {
            let (text, whence) = match &said.value {
                TokenAt::File(path) => (config::token_in(path)?, path.display().to_string()),
                TokenAt::Given(text) => (
                    config::token_from(text, &said.source.to_string())?,
                    match &said.source {
                        Source::Variable(_) => "environment".to_owned(),
                        Source::Option(_)
                        | Source::Context(_)
                        | Source::Current
                        | Source::Default => "stored".to_owned(),
                    },
                ),
            };
            Some((public_part(&text), whence, said.source.to_string()))
        }
        None => None,
    };
    let value = json!({
        "context": effective.context.as_ref().map(|it| json!({ "value": it.value, "source": it.source.to_string() })),
        "server": { "value": effective.server.value, "source": effective.server.source.to_string() },
        "token": token.as_ref().map(|(id, at, source)| json!({ "id": id, "at": at, "source": source })),
        "ca": effective.ca.as_ref().map(|it| json!({ "value": it.value, "source": it.source.to_string() })),
    });
    let mut table = Table::new(
        &[
            Column::new("WHAT", 0),
            Column::new("VALUE", 0),
            Column::new("SAID BY", 1),
        ],
        "",
    );
    let mut row = |what: &str, value: String, source: String| {
        table.row(vec![what.to_owned(), value, source]);
    };
    if let Some(it) = &effective.context {
        row("context", it.value.clone(), it.source.to_string());
    }
    row(
        "server",
        effective.server.value.clone(),
        effective.server.source.to_string(),
    );
    match (token, &effective.token_withheld) {
        (Some((id, at, source)), _) => row("token", format!("{id} ({at})"), source),
        (None, Some(server)) => row(
            "token",
            format!("none: the context's is for {server}"),
            String::new(),
        ),
        (None, None) => row("token", "none".to_owned(), String::new()),
    }
    if let Some(it) = &effective.ca {
        row("ca", it.value.display().to_string(), it.source.to_string());
    }
    out.either(&value, |out| out.table(&table));
    Ok(())
}

/// What the server's own lists show of a token: never its secret.
fn public_part(token: &str) -> String {
    let mut parts = token.splitn(3, '_');
    match (parts.next(), parts.next(), parts.next()) {
        (Some(kind), Some(id), Some(_)) => format!("{kind}_{id}"),
        (_, _, _) => "opt_…".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_public_part_of_a_token_is_shown() {
        assert_eq!(public_part("opt_0123456789ab_se_cret"), "opt_0123456789ab");
        assert_eq!(public_part("opt_secret"), "opt_…");
    }
}
