//! The reference page of workflow files: made of the same table that the parser takes its words from, so that it says
//! what the parser does. The command line prints it; it asks nothing and reads no file.

use std::fmt::Write as _;

use outpost_orchestrator_core::label::LABELS;
use outpost_orchestrator_core::spec::TASKS;
use outpost_proto::limits::{PARAMETER_TEXT_BYTES, PARAMETERS};

use super::BYTES;
use super::keys::{DEFAULTS, FILE, Key, PARAM, SCHEDULE, Section, TASK, TASK_NAME, Takes, VALUES};

/// Shown on the page; a test reads it.
const EXAMPLE: &str = "name: nightly-report
description: Counts each region's readings and sends the sum
params:
  top: {kind: int, min: 1, max: 100, default: 10}
schedule:
  cron: \"30 2 * * 1-5\"
  timezone: Europe/Berlin
  missed: latest
max_active_runs: 1
defaults: {retries: 2, retry_delay: 30s}
tasks:
  count:
    for_each: {region: [north, south]}
    entry: count-readings
    with: {region: \"${each.region}\", top: \"${params.top}\"}
  send:
    entry: send-report
    needs: [count]
    timeout: 10m
";

/// Every key of a workflow file with what it takes, as Markdown.
#[must_use]
pub fn reference() -> String {
    let mut text = String::from("# Workflow file\n\n");
    // Writing to a string does not fail.
    let _ = write!(
        text,
        "Printed by `outpost reference workflow`. A workflow file is YAML of at most {} KiB, without anchors and aliases, \
         one workflow in each; `outpost validate` finds everything that is wrong with it, and `outpost schema workflow` \
         prints its JSON Schema for editors. A key that is not here is an error.\n\n```yaml\n{EXAMPLE}```\n",
        BYTES / 1024
    );
    section(&mut text, "The file", &FILE, &[]);
    section(&mut text, "A task: `tasks.NAME`", &TASK, &[]);
    let _ = write!(
        text,
        "\nTasks may also be a list; each then has a `{}`. At most {TASKS} tasks, those that `for_each` makes counted, \
         and no cycle in what they need. `for_each` over `region: [north]` in a task `count` makes the task `count-north`.\n",
        TASK_NAME.name
    );
    section(
        &mut text,
        "What tasks share: `defaults`",
        &DEFAULTS,
        &["A task that says something itself wins."],
    );
    section(
        &mut text,
        "A parameter: `params.NAME`",
        &PARAM,
        &["`min` and `max` belong to `int`, `values` to `enum`, `max_length` to `text`."],
    );
    section(
        &mut text,
        "When: `schedule`",
        &SCHEDULE,
        &[
            "A run is made at the instant itself; there is no interval of data before it. An instant that a change of clocks \
           skips fires right after the gap, one that comes twice fires once.",
        ],
    );
    values(&mut text);
    text
}

fn section(text: &mut String, title: &str, section: &Section, after: &[&str]) {
    let _ = write!(
        text,
        "\n## {title}\n\n{}\n\n| key | takes | meaning | such as |\n|---|---|---|---|\n",
        section.about
    );
    for key in section.keys {
        let _ = writeln!(
            text,
            "| `{}`{} | {} | {} | {} |",
            key.name,
            if key.required { ", required" } else { "" },
            cell(&takes(&key.takes)),
            cell(&meaning(key)),
            cell(&examples(key))
        );
    }
    for sentence in after {
        let _ = write!(text, "\n{sentence}\n");
    }
}

/// A column ends at a bar.
fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

fn meaning(key: &Key) -> String {
    let Takes::Word(words) = &key.takes else {
        return key.about.to_owned();
    };
    let words = words
        .iter()
        .map(|(word, about)| format!("`{word}`: {about}"));
    format!("{} {}.", key.about, words.collect::<Vec<_>>().join("; "))
}

fn examples(key: &Key) -> String {
    let examples = key.examples.iter().map(|example| format!("`{example}`"));
    examples.collect::<Vec<_>>().join(", ")
}

fn takes(takes: &Takes) -> String {
    match takes {
        Takes::Name => "a name".to_owned(),
        Takes::Queue => "a queue's name".to_owned(),
        Takes::Text(most) => format!("text, at most {most} characters"),
        Takes::Word(words) => {
            let words = words.iter().map(|(word, _)| format!("`{word}`"));
            format!("one of {}", words.collect::<Vec<_>>().join(", "))
        }
        Takes::Number(i64::MIN, _) | Takes::Number(_, i64::MAX) => "a whole number".to_owned(),
        Takes::Number(low, high) => format!("{low} to {high}"),
        Takes::Duration(most) => format!("a length of time, at most {most}"),
        Takes::Cron => "a cron expression of five fields, or a nickname".to_owned(),
        Takes::Zone => "an IANA time zone".to_owned(),
        Takes::Instant => "a day, or a day and a time".to_owned(),
        Takes::Values => format!("a list of at most {VALUES} different texts"),
        Takes::Literal => "`true`, `false`, a whole number or text".to_owned(),
        Takes::Selector => format!("at most {LABELS} labels with their values"),
        Takes::Needs => "a list of tasks".to_owned(),
        Takes::Literals => "parameters with their values".to_owned(),
        Takes::Arguments => format!("at most {PARAMETERS} parameters with their values"),
        Takes::Each => format!("one name with a list of at most {VALUES} values"),
        Takes::Params => format!("at most {PARAMETERS} parameters by name, each as below"),
        Takes::Section(_) => "keys as below".to_owned(),
        Takes::Tasks => format!("at most {TASKS} tasks by name, each as below, or a list of them"),
    }
}

fn values(text: &mut String) {
    let _ = write!(
        text,
        "\n## How values are written\n\n\
         | value | form |\n|---|---|\n\
         | a name | 1 to 63 of `a-z`, `0-9`, `.`, `_` and `-`; begins and ends with a letter or digit |\n\
         | a length of time | numbers with `d`, `h`, `m`, `s`, `ms`, the largest unit first: `1h30m`, `500ms` |\n\
         | a day, a time | `2026-01-31`, `2026-01-31T06:30`, in the schedule's `timezone` |\n\
         | a label | key: up to 63 of `a-z`, `0-9`, `.`, `_`, `/`, `-`; value: up to 63 of letters, digits, `.`, `_`, `-` |\n\
         | a parameter's value | at most {PARAMETER_TEXT_BYTES} bytes |\n\
         | `${{params.NAME}}` | in `with`: what the run was given, or the parameter's default |\n\
         | `${{each.NAME}}` | in `with` of a task with `for_each`: the value that this task was made for |\n\
         \nA `${{…}}` stands alone: it is a whole value, never a part of a text.\n"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_on_the_page_and_its_example_is_a_workflow() {
        let page = reference();
        for section in [&FILE, &TASK, &DEFAULTS, &PARAM, &SCHEDULE] {
            for key in section.keys {
                assert!(
                    page.contains(&format!("\n| `{}`", key.name)),
                    "{}",
                    key.name
                );
            }
        }
        assert!(super::super::parse(EXAMPLE).is_ok());
        let columns = |line: &str| line.replace("\\|", "").matches('|').count();
        for row in page.lines().filter(|line| line.starts_with("| `")) {
            assert!([3, 5].contains(&columns(row)), "{row}");
        }
    }
}
