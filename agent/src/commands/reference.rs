//! `reference`: the documentation's reference pages, made from what the program really accepts.

use std::fmt::Write as _;

use clap::{Arg, Command, CommandFactory as _};

use crate::cli::Reference;
use crate::cli::args::Cli;
use crate::{catalogue, state_dir};

/// The page, as Markdown.
pub(crate) fn reference(what: Reference) -> String {
    match what {
        Reference::Catalogue => catalogue::reference(),
        Reference::Config => config(),
        Reference::Cli => cli(),
        Reference::Budget => super::budget::page(),
    }
}

fn whole() -> Command {
    let mut command = Cli::command();
    command.build();
    command
}

/// Every command that people type, with its arguments.
fn cli() -> String {
    let whole = whole();
    let mut text = String::from("# Command reference: outpost-agent\n");
    section(&mut text, &whole, 2);
    text
}

fn section(text: &mut String, command: &Command, level: usize) {
    let name = command.get_bin_name().unwrap_or(command.get_name());
    let about = command.get_about().map(ToString::to_string);
    // Writing to a string does not fail.
    let _ = write!(
        text,
        "\n{} {name}\n\n{}\n\n```\n{}\n```\n",
        "#".repeat(level),
        sentence(&about.unwrap_or_default()),
        usage(command)
    );
    arguments(text, command);
    if let Some(after) = command.get_after_help() {
        let _ = write!(text, "\n```\n{after}\n```\n");
    }
    for child in command.get_subcommands() {
        if !child.is_hide_set() && child.get_name() != "help" {
            section(text, child, (level + 1).min(4));
        }
    }
}

fn usage(command: &Command) -> String {
    let usage = command.clone().render_usage().to_string();
    usage.trim_start_matches("Usage: ").to_owned()
}

fn sentence(about: &str) -> String {
    if about.is_empty() || about.ends_with('.') {
        about.to_owned()
    } else {
        format!("{about}.")
    }
}

fn visible(command: &Command) -> impl Iterator<Item = &Arg> {
    let own = |arg: &&Arg| {
        let id = arg.get_id().as_str();
        !arg.is_hide_set() && !matches!(id, "help" | "version")
    };
    command.get_arguments().filter(own)
}

/// Options that every command has are told once, with the program itself.
fn arguments(text: &mut String, command: &Command) {
    let top = !command
        .get_bin_name()
        .is_some_and(|name| name.contains(' '));
    let own = visible(command).filter(|arg| top || !arg.is_global_set());
    let rows = own.map(|arg| format!("| {} | {} |", flag(arg), meaning(arg)));
    let rows = rows.collect::<Vec<_>>();
    if !rows.is_empty() {
        let _ = write!(
            text,
            "\n| argument | meaning |\n|---|---|\n{}\n",
            rows.join("\n")
        );
    }
}

fn flag(arg: &Arg) -> String {
    let value = arg.get_value_names().unwrap_or_default();
    let value = value.iter().map(|name| name.as_str()).collect::<Vec<_>>();
    let takes = arg.get_action().takes_values();
    let value = if takes {
        value.join(" ")
    } else {
        String::new()
    };
    let names = match (arg.get_short(), arg.get_long()) {
        (Some(short), Some(long)) => format!("-{short}, --{long} {value}"),
        (None, Some(long)) => format!("--{long} {value}"),
        (Some(short), None) => format!("-{short} {value}"),
        (None, None) => value,
    };
    format!("`{}`", names.trim_end())
}

fn meaning(arg: &Arg) -> String {
    let mut text = sentence(&arg.get_help().map(ToString::to_string).unwrap_or_default());
    let values = arg.get_possible_values();
    let values = values.iter().filter(|value| !value.is_hide_set());
    let values = values.map(|value| format!("`{}`", value.get_name()));
    let values = values.collect::<Vec<_>>();
    if !values.is_empty() && arg.get_action().takes_values() {
        let _ = write!(text, " One of {}.", values.join(", "));
    }
    let default = arg.get_default_values().first();
    if let Some(default) = default.and_then(|default| default.to_str())
        && arg.get_action().takes_values()
    {
        let _ = write!(text, " Default: `{default}`.");
    }
    if let Some(name) = arg.get_env().and_then(|name| name.to_str()) {
        let _ = write!(text, " Also from `{name}`.");
    }
    text.replace('|', "\\|").replace('\n', " ")
}

const CONFIG: &str = "# Agent configuration reference

The agent has no configuration file of its own: what it may run is the site's catalogue, whom it belongs to was settled
by its enrolment, and the rest are the options below, each also an environment variable. In a systemd unit they are
best set with `systemctl edit outpost-agent` and lines such as `Environment=OUTPOST_AGENT_SLOTS=8`.

## Options of `outpost-agent run`

| option | environment | default | meaning |
|---|---|---|---|
";

fn config() -> String {
    let mut text = CONFIG.to_owned();
    let whole = whole();
    let run = whole.find_subcommand("run");
    let run = run.map(visible).into_iter().flatten();
    let global = visible(&whole).filter(|arg| arg.get_id().as_str() == "state");
    for arg in global.chain(run.filter(|arg| !arg.is_global_set())) {
        let env = arg.get_env().and_then(|name| name.to_str());
        let default = arg.get_default_values().first();
        let default = default.and_then(|default| default.to_str());
        let takes = arg.get_action().takes_values();
        let code = |text: Option<&str>| text.map_or_else(String::new, |text| format!("`{text}`"));
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} |",
            flag(arg),
            code(env),
            code(default.filter(|_| takes)),
            sentence(&arg.get_help().map(ToString::to_string).unwrap_or_default())
                .replace('|', "\\|")
        );
    }
    text.push_str(REST);
    let _ = write!(
        text,
        "\n## State directory\n\nFormat {}. Belongs to the agent's account alone; tasks of other accounts pass through to their own directories.\n\n```text\n{}```\n",
        state_dir::VERSION,
        state_dir::LAYOUT
    );
    text
}

const REST: &str = "
`OUTPOST_LOG` filters the agent's own log on standard error, such as `info` (the default), `debug` or
`outpost_agent=debug`.

## Metrics

With `--metrics 127.0.0.1:9464` the runner answers `GET /metrics` in the Prometheus text format. Only loopback addresses
are accepted, and nothing is listened on without the option.

## What is kept, and for how long

Logs and directories of attempts and runs that are over go when they are older than `--keep-logs`, when their logs are
larger together than `--keep-logs-size`, or when there are more than 10,000; the oldest go first, and nothing that the
agent still holds goes. Segments of the ledger (16 MiB each) go when they are older than `--keep-ledger` or larger
together than `--keep-ledger-size`; those of the present session stay in any case, and `outpost-agent ledger verify`
checks the rest as before.

Nothing goes by its age before the orchestrator has said, since the agent started, what time it is, and then by the
earlier of its clock and the site's.
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_visible_command_and_option_is_in_the_reference() {
        let text = reference(Reference::Cli);
        for part in [
            "## outpost-agent catalogue try",
            "`--keep-ledger TIME`",
            "`-p, --param NAME=VALUE`",
            "3 refused",
        ] {
            assert!(text.contains(part), "`{part}` is not in\n{text}");
        }
        assert!(
            !text.contains("role link") && !text.contains("--leash-fd"),
            "{text}"
        );
        let text = reference(Reference::Config);
        for part in [
            "OUTPOST_AGENT_METRICS",
            "`90d`",
            "ledger/",
            "OUTPOST_AGENT_STATE",
        ] {
            assert!(text.contains(part), "`{part}` is not in\n{text}");
        }
    }
}
