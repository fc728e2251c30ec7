//! Every key of the configuration, taken from the command line's own definition, so that the reference is never
//! behind the program.

use std::fmt::Write as _;

use clap::{Arg, Command};

/// What the definition does not say: the unit of a value and its bounds, by the option's name.
const UNITS: [(&str, &str, &str); 15] = [
    ("agents", "address and port", "port 0: the kernel chooses"),
    ("api", "address and port", "port 0: the kernel chooses"),
    ("public-agents", "host and port", "-"),
    ("api-rate", "requests a second", "0 to 1000000; 0: no limit"),
    ("api-burst", "requests", "1 to 1000000"),
    ("agent-cert-ttl", "duration", "10s to 90d"),
    ("recover-within", "duration", "0s: never, to 365d"),
    ("recoveries", "certificates", "0 to 65535"),
    ("server-cert-ttl", "duration", "10s to 90d"),
    ("api-cert", "path", "together with api_key"),
    ("api-key", "path", "together with api_cert"),
    (
        "log",
        "directives",
        "error, warn, info, debug, trace, or such as info,sqlx=debug",
    ),
    ("log-format", "word", "text, json"),
    ("keep-events", "duration", "1d to 3650d"),
    ("keep-runs", "duration", "1d to 3650d, or 0d: for ever"),
];
/// Options that belong to one start, not to a configuration.
const OF_ONE_START: [&str; 6] = [
    "dir",
    "config",
    "ready-file",
    "ready-fd",
    "leash-fd",
    "output",
];

/// One key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// As it stands in the file.
    pub key: String,
    /// As it is known to the parser.
    pub id: String,
    /// As it stands on the command line.
    pub flag: String,
    /// As it stands in the environment.
    pub env: Option<String>,
    /// When nothing is said.
    pub default: Option<String>,
    /// What its value is counted in.
    pub unit: String,
    /// What its value must be.
    pub bounds: String,
    /// What it does.
    pub description: String,
}

/// All keys, in the order of the command line. `serve` is the definition of that command, the global options included.
#[must_use]
pub fn keys(serve: &Command) -> Vec<Key> {
    serve.get_arguments().filter_map(key).collect()
}

fn key(arg: &Arg) -> Option<Key> {
    let long = arg.get_long()?;
    if OF_ONE_START.contains(&long) || matches!(long, "help" | "version") {
        return None;
    }
    let (_, unit, bounds) = UNITS
        .into_iter()
        .find(|(name, _, _)| *name == long)
        .unwrap_or((long, "", ""));
    let defaults: Vec<String> = arg
        .get_default_values()
        .iter()
        .map(|value| value.to_string_lossy().into_owned())
        .collect();
    let help = arg.get_long_help().or_else(|| arg.get_help());
    Some(Key {
        key: long.replace('-', "_"),
        id: arg.get_id().to_string(),
        flag: format!("--{long}"),
        env: arg
            .get_env()
            .map(|name| name.to_string_lossy().into_owned()),
        default: (!defaults.is_empty()).then(|| defaults.join(" ")),
        unit: unit.to_owned(),
        bounds: bounds.to_owned(),
        description: help.map(ToString::to_string).unwrap_or_default(),
    })
}

/// The reference as a Markdown document.
#[must_use]
pub fn markdown(serve: &Command) -> String {
    let mut text = String::from(
        "# Configuration of the orchestrator\n\n\
         `outpost-orchestrator serve` reads `orchestrator.toml` in its directory, or the file named by `--config`. Every \
         key can also be given in the environment or on the command line: the command line wins over the environment, \
         the environment over the file, the file over the default. A key that does not exist is an error.\n\n\
         Durations are a number and a unit: `ms`, `s`, `m`, `h`, `d`.\n",
    );
    for key in keys(serve) {
        let default = key.default.as_deref().unwrap_or("-");
        let env = key.env.as_deref().unwrap_or("-");
        // Writing to a string cannot fail.
        let _ = write!(
            text,
            "\n## `{}`\n\n{}\n\n\
             | default | unit | bounds | environment | command line |\n|---|---|---|---|---|\n\
             | `{default}` | {} | {} | `{env}` | `{}` |\n",
            key.key, key.description, key.unit, key.bounds, key.flag
        );
    }
    text.push_str(
        "\n## Example\n\n```toml\nagents = \"0.0.0.0:7443\"\npublic_agents = \"outpost.example.org:7443\"\n\
         api = \"127.0.0.1:7080\"\napi_rate = 200\nlog_format = \"json\"\n```\n",
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::serve_command;

    #[test]
    fn every_key_says_unit_and_bounds_and_can_be_given_every_way() {
        let keys = keys(&serve_command());
        for key in &keys {
            assert!(!key.unit.is_empty() && !key.bounds.is_empty(), "{key:?}");
            assert!(!key.description.is_empty() && key.env.is_some(), "{key:?}");
        }
        for (name, _, _) in UNITS {
            let flag = format!("--{name}");
            assert!(keys.iter().any(|key| key.flag == flag), "{flag}");
        }
    }
}
