//! The configuration file: what `serve` is told on its command line, kept.
//!
//! Every long option of `serve` is a key, with `_` for `-`. The command line wins over the environment, the
//! environment over the file, the file over the defaults. A key that is not one is an error that names its neighbours.

use std::ffi::OsString;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use clap::parser::ValueSource;
use clap::{ArgMatches, Command};

use super::reference::keys;

/// Its name in the orchestrator's directory.
pub const FILE: &str = "orchestrator.toml";

/// Why a configuration file is of no use.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It is not there, or may not be read.
    #[error("{}: {error}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// It is no TOML.
    #[error("{}: {error}", path.display())]
    Toml {
        /// Which.
        path: PathBuf,
        /// What is wrong, and where.
        error: Box<toml::de::Error>,
    },
    /// A key that nothing is configured by.
    #[error("{}: there is no key `{key}`; the keys are {known}; `outpost-orchestrator config reference` explains them", path.display())]
    Unknown {
        /// Which file.
        path: PathBuf,
        /// The key.
        key: String,
        /// All that there are.
        known: String,
    },
    /// A value that is no text, number or truth value.
    #[error("{}: `{key}` is a text, a whole number or true or false", path.display())]
    Value {
        /// Which file.
        path: PathBuf,
        /// The key.
        key: String,
    },
}

/// The command line as if the file's keys stood on it, for those that neither it nor the environment says.
///
/// `given` is the file that was named, which must be there; `usual` is read if it is there.
///
/// # Errors
/// [`FileError`]
pub fn complete(
    mut args: Vec<OsString>,
    matches: &ArgMatches,
    serve: &Command,
    given: Option<&Path>,
    usual: Option<&Path>,
) -> Result<Vec<OsString>, FileError> {
    let Some((path, text)) = read(given, usual)? else {
        return Ok(args);
    };
    let table: toml::Table = toml::from_str(&text).map_err(|error| FileError::Toml {
        path: path.clone(),
        error: Box::new(error),
    })?;
    let known = keys(serve);
    for (key, value) in table {
        let found = known.iter().find(|known| known.key == key);
        let Some(found) = found else {
            let names: Vec<&str> = known.iter().map(|known| known.key.as_str()).collect();
            return Err(FileError::Unknown {
                path,
                key,
                known: names.join(", "),
            });
        };
        let said = matches.value_source(&found.id);
        if matches!(
            said,
            Some(ValueSource::CommandLine | ValueSource::EnvVariable)
        ) {
            continue;
        }
        let text = match value {
            toml::Value::String(text) => text,
            toml::Value::Integer(number) => number.to_string(),
            toml::Value::Boolean(flag) => flag.to_string(),
            toml::Value::Float(_)
            | toml::Value::Datetime(_)
            | toml::Value::Array(_)
            | toml::Value::Table(_) => return Err(FileError::Value { path, key }),
        };
        args.push(format!("{}={text}", found.flag).into());
    }
    Ok(args)
}

fn read(
    given: Option<&Path>,
    usual: Option<&Path>,
) -> Result<Option<(PathBuf, String)>, FileError> {
    let (path, must) = match (given, usual) {
        (Some(path), _) => (path, true),
        (None, Some(path)) => (path, false),
        (None, None) => return Ok(None),
    };
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some((path.to_owned(), text))),
        Err(error) if error.kind() == ErrorKind::NotFound && !must => Ok(None),
        Err(error) => Err(FileError::Io {
            path: path.to_owned(),
            error,
        }),
    }
}
