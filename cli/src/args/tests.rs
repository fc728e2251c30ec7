//! The help texts as their readers take them: every example is a command line that is understood.

use clap::{Command, CommandFactory as _, FromArgMatches as _};

use super::{Cli, command};

#[test]
fn the_command_line_is_consistent() {
    Cli::command().debug_assert();
}

/// Every command that is or can be shown, by its full name.
fn commands() -> Vec<(String, Command)> {
    fn add(command: &Command, name: &str, all: &mut Vec<(String, Command)>) {
        all.push((name.to_owned(), command.clone()));
        for below in command
            .get_subcommands()
            .filter(|it| it.get_name() != "help")
        {
            add(below, &format!("{name} {}", below.get_name()), all);
        }
    }
    let mut all = Vec::new();
    add(&command(), "outpost", &mut all);
    all
}

/// The example lines of a help text, without what explains them.
fn examples(command: &Command) -> Vec<String> {
    let help = command
        .get_after_help()
        .map(ToString::to_string)
        .unwrap_or_default();
    let Some((_, examples)) = help.split_once("Examples:\n") else {
        return Vec::new();
    };
    let lines = examples.lines().take_while(|line| line.starts_with("  "));
    let command = |line: &str| {
        let line = line.trim_start();
        let end = line.find("  ").unwrap_or(line.len());
        line[..end].to_owned()
    };
    lines.map(command).collect()
}

/// As a shell without variables would split it; redirections are the shell's.
fn words(line: &str) -> Vec<String> {
    let words = line.split_whitespace().map(str::to_owned);
    words
        .take_while(|word| word != ">" && word != "<")
        .collect()
}

#[test]
fn every_command_has_examples_and_every_example_is_understood() {
    let mut seen = 0;
    for (name, it) in commands() {
        let examples = examples(&it);
        assert!(!examples.is_empty(), "{name} has no examples");
        for example in examples {
            assert!(example.starts_with("outpost "), "{name}: {example}");
            let parsed = command()
                .try_get_matches_from(words(&example))
                .and_then(|matches| Cli::from_arg_matches(&matches));
            let fine = match &parsed {
                Ok(_) => true,
                Err(error) => error.kind() == clap::error::ErrorKind::DisplayHelp,
            };
            assert!(fine, "{name}: {example}: {}", parsed.err().unwrap());
            seen += 1;
        }
    }
    assert!(seen > 60, "{seen}");
}

#[test]
fn an_example_shows_the_command_it_belongs_to() {
    for (name, command) in commands() {
        let own = |example: &String| {
            example.starts_with(&name) || name == "outpost exit-codes" || command.has_subcommands()
        };
        assert!(
            examples(&command).iter().any(own),
            "{name} is not among its own examples"
        );
    }
}

#[test]
fn every_option_and_value_is_explained() {
    for (name, command) in commands() {
        assert!(
            command.get_about().is_some(),
            "{name} says nothing about itself"
        );
        for arg in command.get_arguments() {
            assert!(
                arg.get_help().is_some(),
                "{name}: {} is not explained",
                arg.get_id()
            );
        }
    }
}

#[test]
fn what_is_laid_out_by_hand_fits_eighty_columns() {
    for (name, command) in commands() {
        let help = command.get_after_help().map(ToString::to_string);
        let about = command.get_long_about().map(ToString::to_string);
        for line in help.iter().chain(&about).flat_map(|text| text.lines()) {
            let fits = !line.starts_with("  ") || line.chars().count() <= 80;
            assert!(fits, "{name}: {line}");
        }
    }
}

#[test]
fn commands_that_ask_no_server_do_not_speak_of_one() {
    let find = |path: &[&str]| {
        let mut command = command();
        for name in path {
            command = command.find_subcommand(name).unwrap().clone();
        }
        command.render_long_help().to_string()
    };
    assert!(find(&["runs"]).contains("--token-file"));
    assert!(find(&["agents", "drain"]).contains("--token-file"));
    for name in [
        "validate",
        "schema",
        "dev",
        "demo",
        "completions",
        "man",
        "exit-codes",
    ] {
        assert!(!find(&[name]).contains("--token-file"), "{name}");
        assert!(find(&[name]).contains("--output"), "{name}");
    }
}
