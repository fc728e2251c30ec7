//! `leaktest`: whether anything that a task leaves behind is found in what left the site.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use outpost_agent_keeper::exec::SelfExec;

use super::words::{at, bytes};
use crate::cli::Form;
use crate::cli::evidence::LeaktestArgs;
use crate::leaktest::{self, Canary, How, Looking, Options, Report, Source, Verdict, canary};
use crate::output;
use crate::state_dir::StateDir;

/// The account of canaries: root has none of its own to give.
fn user(given: Option<String>) -> Option<String> {
    given.or_else(|| {
        rustix::process::geteuid()
            .is_root()
            .then(|| "nobody".to_owned())
    })
}

/// Puts the canaries into the catalogue and says what to do with them.
pub(crate) fn prepare(
    state: &Path,
    catalogue: &Path,
    given: Option<String>,
) -> anyhow::Result<ExitCode> {
    let state = StateDir::open(state)?;
    let files = leaktest::prepare(&state, catalogue, user(given).as_deref())?;
    for file in &files {
        output::note(format_args!("written: {}", file.display()));
    }
    output::note(format_args!(
        "next: outpost-agent reload; have the workflow that follows on standard output applied and run by somebody who \
         may (outpost apply, outpost trigger {}); then outpost-agent leaktest. Remove the files when the test is over.",
        canary::WORKFLOW_NAME
    ));
    output::text(&canary::workflow());
    Ok(ExitCode::SUCCESS)
}

/// Runs the test and reports.
pub(crate) fn leaktest(
    state: &Path,
    args: LeaktestArgs,
    exec: SelfExec,
    form: Form,
) -> anyhow::Result<ExitCode> {
    let user = user(args.user);
    let options = Options {
        state,
        tries: !args.no_try,
        user: user.as_deref(),
        orchestrator: args.orchestrator_db.as_deref(),
        site_keys: args.keys.load()?.map(Arc::new),
        exec,
    };
    let wire = args.wire;
    let mut captured = |source: &mut Source<'_>| {
        let (ledger, identity) = super::wire::here(state)?;
        let report = super::wire::look(&ledger, identity, &wire, &mut |bytes| source.push(bytes))?;
        let capture = wire.capture.as_deref().unwrap_or(Path::new(""));
        let connections = report.connections;
        let what = format!("{} ({connections} connections)", capture.display());
        let why =
            "what is not accounted for, or not in the capture: ledger verify --capture says what";
        let is_whole = report.verdict == crate::capture::Verdict::Accounted;
        Ok((
            what,
            (!is_whole).then(|| why.to_owned()).into_iter().collect(),
        ))
    };
    let capture: Option<leaktest::Tap<'_>> = match wire.capture {
        Some(_) => Some(&mut captured),
        None => None,
    };
    let report = super::block_on(leaktest::run(&options, capture))?;
    match form {
        Form::Json => output::json(&report),
        Form::Table => words(&report).iter().for_each(output::line),
    }
    Ok(ExitCode::from(match report.verdict {
        Verdict::NothingFound => 0,
        Verdict::Found => 1,
        Verdict::Void => 3,
    }))
}

fn words(report: &Report) -> Vec<String> {
    let mut lines = vec![
        format!(
            "leak test of {} by outpost-agent {}, mark {}",
            at(report.begun_us),
            report.version,
            report.mark.text()
        ),
        format!("looked for as: {}", report.forms.join(", ")),
        String::new(),
        "canaries, and whether the mark is in their own logs, where it must be:".to_owned(),
    ];
    lines.extend(report.canaries.iter().flat_map(ran));
    if report.instructed() == 0 {
        lines.push(
            "  none ran as an instruction of the orchestrator: `outpost-agent leaktest prepare` says how".to_owned(),
        );
    }
    lines.push(String::new());
    lines.push("where it must not be:".to_owned());
    lines.extend(report.places.iter().flat_map(looked));
    lines.push(String::new());
    lines.push(match report.verdict {
        Verdict::NothingFound => format!(
            "nothing found in {}, in {} forms",
            bytes(report.bytes()),
            report.forms.len()
        ),
        Verdict::Found => "FOUND: what a task left behind is where it must not be".to_owned(),
        Verdict::Void if report.unseen.is_empty() => {
            "VOID: not all of it was searched, so that not finding the mark proves nothing"
                .to_owned()
        }
        Verdict::Void => format!(
            "VOID: the mark is in no canary's log as {}, so that not finding it proves nothing",
            report.unseen.join(", ")
        ),
    });
    lines
}

fn ran(canary: &Canary) -> Vec<String> {
    let how = match canary.how {
        How::Instructed => "instructed",
        How::Tried => "tried",
    };
    let ended = canary.outcome.as_deref().or(canary.attempt.as_deref());
    let line = format!(
        "  {:<18} {how:<10}  {:>3} times in {:<8} {}",
        canary.entry,
        canary.log.hits,
        bytes(canary.log.bytes),
        ended.unwrap_or_default()
    );
    let not_searched = canary.log.not_searched.iter();
    let not_searched = not_searched.map(|what| format!("    NOT SEARCHED: {what}"));
    std::iter::once(line).chain(not_searched).collect()
}

fn looked(looking: &Looking) -> Vec<String> {
    let Looking {
        place,
        what,
        looked,
        ..
    } = looking;
    let Some(looked) = looked else {
        let why = looking.not_looked.as_deref().unwrap_or_default();
        return vec![format!("  {place:<24} not looked at: {why}  {what}")];
    };
    let mut lines = vec![format!(
        "  {place:<24} {:>3} times in {:<8} {what}",
        looked.hits,
        bytes(looked.bytes)
    )];
    let not_searched = looked.not_searched.iter();
    lines.extend(not_searched.map(|what| format!("    NOT SEARCHED: {what}")));
    lines.extend(looked.first.iter().map(|hit| {
        let left_as = hit.left_as.as_deref().unwrap_or("?");
        format!(
            "    at byte {}, as {}, left as {left_as}",
            hit.offset,
            hit.form.name()
        )
    }));
    lines
}
