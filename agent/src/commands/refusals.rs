//! `refusals` and `observed`: what this site refused, with the reasons that stay here.

use std::path::Path;
use std::process::ExitCode;

use outpost_proto::outcome::Refusal;

use super::words::at;
use crate::cli::{Form, RefusalsArgs};
use crate::output;
use crate::refusals::{Refused, read};
use crate::state_dir::StateDir;

/// Everything that was refused, for whatever reason.
pub(crate) fn refusals(state: &Path, which: &RefusalsArgs, form: Form) -> anyhow::Result<ExitCode> {
    let state = StateDir::open(state)?;
    list(&read(state.path())?, which, form, "nothing was refused");
    Ok(ExitCode::SUCCESS)
}

/// What was refused for no other reason than that the agent only observes.
pub(crate) fn observed(state: &Path, which: &RefusalsArgs, form: Form) -> anyhow::Result<ExitCode> {
    let state = StateDir::open(state)?;
    let mut all = read(state.path())?;
    all.retain(|one| one.refusal == Refusal::Observe);
    list(&all, which, form, "nothing would have run");
    Ok(ExitCode::SUCCESS)
}

fn list(all: &[Refused], which: &RefusalsArgs, form: Form, none: &str) {
    let wanted = |one: &&Refused| which.entry.as_ref().is_none_or(|entry| one.entry == *entry);
    let all = all.iter().filter(wanted).collect::<Vec<_>>();
    let newest = &all[all.len().saturating_sub(which.last)..];
    match form {
        Form::Json => newest
            .iter()
            .for_each(|one| match serde_json::to_string(one) {
                Ok(line) => output::line(line),
                Err(error) => output::problem(format_args!("it cannot be shown as JSON: {error}")),
            }),
        Form::Table if newest.is_empty() => output::line(none),
        Form::Table => newest.iter().for_each(|one| output::line(words(one))),
    }
}

fn words(one: &Refused) -> String {
    let refusal = outpost_proto::outcome::Outcome::Refused(one.refusal);
    let parameters = one.parameters.iter();
    let parameters = parameters
        .map(|(name, value)| format!(" {name}={}", visible(value)))
        .collect::<String>();
    format!(
        "{}  {refusal:<28}  {}{parameters}\n    for {}/{}, attempt {}\n    {}",
        at(one.at_us),
        one.entry,
        one.workflow,
        one.task,
        one.attempt,
        visible(&one.why)
    )
}

/// Text from elsewhere, without anything that would steer a terminal.
fn visible(text: &str) -> String {
    let shown = |c: char| match c.is_control() {
        true => c.escape_debug().to_string(),
        false => c.to_string(),
    };
    text.chars().map(shown).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_told_with_its_reason_and_shows_no_control_characters() {
        let one = Refused {
            at_us: 0,
            refusal: Refusal::BadParameters,
            why: "`day` is no date in this site's calendar\r".to_owned(),
            entry: "copy".to_owned(),
            workflow: "nightly".to_owned(),
            task: "dump".to_owned(),
            attempt: "00000000000000000000000000000007".to_owned(),
            run: "1".to_owned(),
            parameters: vec![("day".to_owned(), "\u{1b}[2J".to_owned())],
        };
        assert_eq!(
            words(&one),
            "1970-01-01 00:00:00 UTC  refused{bad_parameters}       copy day=\\u{1b}[2J\n    for nightly/dump, \
             attempt 00000000000000000000000000000007\n    `day` is no date in this site's calendar\\r"
        );
    }
}
