//! `ledger show|explain|verify|export`: what left this site, without asking anybody.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;

use crate::cli::{self, Form};
use crate::ledger::{
    Damage, Entry, ExportError, Finding, Given, IdentityCall, Kind, LedgerError, Manifest, Named,
    Reader, Roots, SessionHead, Summary, Weight, check_export, check_with, explain_entry,
    explain_signed, export, kinds_of_frame, signed,
};
use crate::output;
use crate::runner::wall_us;
use crate::state_dir::StateDir;

/// A record, or a file, is not as it was written.
const DAMAGED: u8 = 3;
/// All records are, and they are not what the orchestrator signed for.
const NOT_SIGNED_FOR: u8 = 4;
/// Nothing is known to be wrong, and not all of it is shown.
const UNPROVEN: u8 = 5;
/// Findings of one kind that are said in words.
const TOLD: usize = 8;

/// `state`: where this agent's own is, asked only where it is needed.
pub(crate) fn ledger(
    state: impl FnOnce() -> anyhow::Result<PathBuf>,
    what: cli::Ledger,
    form: Form,
) -> anyhow::Result<ExitCode> {
    if let cli::Ledger::Verify { from, wire, .. } = &what
        && wire.capture.is_some()
    {
        return super::wire::verify(state, from.from.as_deref(), wire, form);
    }
    match what {
        cli::Ledger::Show { from } => each(&of(from, state)?, |entry| show(entry, form))?,
        cli::Ledger::Explain { from } => {
            let dir = of(from, state)?;
            each(&dir, |entry| explain(entry, form))?;
            explain_receipts(&dir, form)?;
        }
        cli::Ledger::Verify { from, roots, .. } => {
            let roots = Roots::named(&roots)?;
            return match from.from {
                Some(dir) => verify(&dir, (None, roots.as_ref()), true, form),
                None => {
                    let state = StateDir::open(&state()?)?;
                    let own = state.identity()?.map(|own| own.spiffe_id);
                    verify(&state.ledger(), (own, roots.as_ref()), false, form)
                }
            };
        }
        cli::Ledger::Export { to } => {
            let state = StateDir::open(&state()?)?;
            return export_to(&state, &to, form);
        }
        cli::Ledger::Budget => super::budget::show(form),
    }
    Ok(ExitCode::SUCCESS)
}

fn of(
    from: cli::LedgerFrom,
    state: impl FnOnce() -> anyhow::Result<PathBuf>,
) -> anyhow::Result<PathBuf> {
    match from.from {
        Some(dir) => Ok(dir),
        None => Ok(StateDir::open(&state()?)?.ledger()),
    }
}

fn each(dir: &Path, mut say: impl FnMut(&Entry)) -> anyhow::Result<()> {
    let mut reader = Reader::open(dir)?;
    while let Some(entry) = reader.next_entry()? {
        say(&entry);
    }
    if reader.torn > 0 {
        output::note(format_args!(
            "{} bytes at the end are no whole record: a write in progress",
            reader.torn
        ));
    }
    Ok(())
}

fn show(entry: &Entry, form: Form) {
    let kinds = match entry.kind {
        Kind::Frame => kinds_of_frame(&entry.payload).join(" "),
        Kind::Identity => "identity".to_owned(),
        Kind::Segment
        | Kind::Session
        | Kind::Receipt
        | Kind::Opened
        | Kind::Cut
        | Kind::Carried
        | Kind::Server
        | Kind::Tip
        | Kind::Pruned
        | Kind::Judged
        | Kind::Linked
        | Kind::Newer => "(not sent)".to_owned(),
    };
    match form {
        Form::Json => output::line(shown(entry, &kinds)),
        Form::Table => output::line(format_args!(
            "{}  {:>5} B  {kinds:<24} {}",
            time(entry.wall_us),
            entry.payload.len(),
            hex(&entry.payload)
        )),
    }
}

fn shown(entry: &Entry, kinds: &str) -> serde_json::Value {
    let mut value = serde_json::json!({
        "at_us": entry.wall_us, "connection": entry.conn, "kind": format!("{:?}", entry.kind).to_lowercase(),
        "messages": kinds, "bytes": entry.payload.len(), "hex": hex(&entry.payload),
    });
    let call = (entry.kind == Kind::Identity).then(|| IdentityCall::decode(&entry.payload));
    if let Some(call) = call.flatten() {
        value["identity"] = serde_json::json!({
            "method": format!("{:?}", call.method).to_lowercase(), "sent_bytes": call.length,
            "sent_sha256": hex(&call.sha256), "public_key_sha256": hex(&call.public_key_sha256),
        });
    }
    value
}

fn explain(entry: &Entry, form: Form) {
    for message in explain_entry(entry) {
        said(
            form,
            entry.wall_us,
            entry.conn,
            message.kind,
            &message.words,
        );
    }
}

fn explain_receipts(dir: &Path, form: Form) -> anyhow::Result<()> {
    for receipt in signed(dir)? {
        let message = explain_signed(&receipt);
        said(
            form,
            receipt.wall_us,
            receipt.conn,
            message.kind,
            &message.words,
        );
    }
    Ok(())
}

fn said(form: Form, wall_us: u64, conn: u64, kind: &str, words: &str) {
    match form {
        Form::Json => output::line(serde_json::json!({
            "at_us": wall_us, "connection": conn, "kind": kind, "words": words,
        })),
        Form::Table => output::line(format_args!("{}  {kind:<9}  {words}", time(wall_us))),
    }
}

/// `is_elsewhere`: of a copy, whose roots are the word of whoever made it.
fn verify(
    dir: &Path,
    (own, roots): (Option<String>, Option<&Roots>),
    is_elsewhere: bool,
    form: Form,
) -> anyhow::Result<ExitCode> {
    let is_export = dir.join("manifest.json").exists();
    let checked = if is_export {
        let checked = check_export(dir, roots);
        checked.map(|(manifest, summary, findings)| (Some(manifest), summary, findings))
    } else {
        let whose = own.as_deref().and_then(Named::of);
        let given = Given {
            whose: whose.as_ref(),
            spiffe_id: own.as_deref(),
            roots,
        };
        check_with(dir, false, given)
            .map(|(summary, findings)| (None, summary, findings))
            .map_err(ExportError::from)
    };
    match checked {
        Ok((manifest, summary, findings)) => {
            let code = verified(form, manifest.as_ref(), &summary, &findings);
            if form == Form::Table && is_elsewhere && !summary.roots_named {
                output::note(
                    "these roots are this copy's own word: whoever made it could bring others along. Ask the orchestrator's \
                     people for the SHA-256 of theirs, and say it: --root SHA256",
                );
            }
            Ok(code)
        }
        Err(error) => broken(form, error, is_elsewhere),
    }
}

/// The first damage, by its kind; anything else could not be checked.
fn broken(form: Form, error: ExportError, is_elsewhere: bool) -> anyhow::Result<ExitCode> {
    let ExportError::Ledger(LedgerError::Damaged {
        kind,
        what,
        path,
        offset,
    }) = &error
    else {
        return Err(error.into());
    };
    match form {
        Form::Json => output::json(&serde_json::json!({
            "verified": false, "kind": kind, "what": what, "path": path, "offset": offset,
        })),
        Form::Table if is_elsewhere => output::problem(format_args!(
            "this copy is damaged ({kind}): {what} in {} at byte {offset}; keep it as it is, and ask the site for another one",
            path.display()
        )),
        Form::Table => output::problem(&error),
    }
    Ok(ExitCode::from(DAMAGED))
}

fn verified(
    form: Form,
    manifest: Option<&Manifest>,
    summary: &Summary,
    findings: &[Finding],
) -> ExitCode {
    let code = code(findings);
    match form {
        Form::Json => {
            let mut value = serde_json::to_value(summary).unwrap_or_default();
            value["verified"] = (code == 0).into();
            value["findings"] = serde_json::to_value(findings).unwrap_or_default();
            if let Some(manifest) = manifest {
                value["agent"] = manifest.agent.spiffe_id.clone().into();
                value["exported_us"] = manifest.exported_us.into();
            }
            output::json(&value);
        }
        Form::Table => in_words(manifest, summary, findings),
    }
    ExitCode::from(code)
}

/// The worst of them.
fn code(findings: &[Finding]) -> u8 {
    let weight = |finding: &Finding| {
        // Frames that were signed for; anything else that ends early is said of its own file.
        let of_receipts = finding.path.ends_with("receipts.led");
        if finding.kind == Damage::Truncated && of_receipts {
            Weight::NotSignedFor
        } else {
            finding.kind.weight()
        }
    };
    match findings.iter().map(weight).max() {
        None => 0,
        Some(Weight::Unproven) => UNPROVEN,
        Some(Weight::NotSignedFor) => NOT_SIGNED_FOR,
        Some(Weight::Damaged) => DAMAGED,
    }
}

fn in_words(manifest: Option<&Manifest>, summary: &Summary, findings: &[Finding]) {
    if let Some(manifest) = manifest {
        output::line(format_args!(
            "export of {}: all {} files are as listed",
            manifest.agent.spiffe_id,
            manifest.files.len()
        ));
    }
    output::line(format_args!(
        "{}: {}, {} with {} bytes, {} with {} bytes",
        if findings.is_empty() {
            "verified"
        } else {
            "as it was written"
        },
        output::count(summary.records, "record"),
        output::count(summary.frames, "frame"),
        summary.frame_bytes,
        output::count(summary.identity_requests, "certificate request"),
        summary.identity_bytes
    ));
    taken_away(summary);
    if summary.sessions_left_out > 0 {
        output::line(format_args!(
            "the newest {} of {} sessions:",
            summary.sessions.len(),
            summary.sessions.len() as u64 + summary.sessions_left_out
        ));
    }
    summary.sessions.iter().for_each(session);
    if summary.torn_bytes > 0 {
        output::line(format_args!(
            "{} bytes at the end are no whole record: a write in progress",
            summary.torn_bytes
        ));
    }
    output::line(format_args!("head of everything: {}", summary.head));
    proven(summary);
    told(findings);
}

/// The first ones of each kind; the others are counted.
fn told(findings: &[Finding]) {
    let mut kinds = BTreeMap::<String, usize>::new();
    for Finding { kind, what, path } in findings {
        let number = kinds.entry(kind.to_string()).or_default();
        *number += 1;
        if *number <= TOLD {
            output::problem(format_args!("{kind}: {what} ({})", path.display()));
        }
    }
    for (kind, number) in kinds {
        if number > TOLD {
            let more = number - TOLD;
            output::problem(format_args!("{kind}: {more} more; --output json lists all"));
        }
    }
}

fn taken_away(summary: &Summary) {
    if summary.pruned_segments == 0 {
        return;
    }
    output::line(format_args!(
        "segments 1 to {} were taken away; receipts for {} sessions in them are kept",
        summary.pruned_segments, summary.receipts.of_pruned
    ));
    if let Some(youngest_s) = summary.pruned.youngest_s {
        output::problem(format_args!(
            "{} segments were taken away before their time, because there were too many, the youngest {youngest_s} s after its \
             last record: something made this agent say much",
            summary.pruned.early
        ));
    }
}

fn session(session: &SessionHead) {
    let epoch = session
        .session_epoch
        .map_or_else(|| "(never accepted)".to_owned(), |epoch| epoch.to_string());
    let signed = match &session.signed_by {
        Some(serial) => format!(
            "; the first {} signed for by the orchestrator (certificate {serial}){}",
            session.signed_frames,
            match &session.signed_for {
                Some(whose) => format!(" for {whose}"),
                None => ", which names no agent".to_owned(),
            }
        ),
        None => "; none signed for".to_owned(),
    };
    let pruned = match session.pruned_frames {
        0 => String::new(),
        pruned => format!(", {pruned} of them taken away"),
    };
    output::line(format_args!(
        "session {epoch}: {} frames{pruned}, {} bytes, head {}{signed}",
        session.frames, session.bytes, session.head
    ));
}

/// What all of this shows, and by whose word.
fn proven(summary: &Summary) {
    output::line(format_args!(
        "proven by this ledger's own chain: no record was changed, reordered or taken out between the first and the last"
    ));
    output::line(format_args!(
        "proven by the orchestrator's signatures: {} of {} frames here are to the byte what it received, and in these sessions \
         it received nothing else before them",
        summary.signed_frames, summary.frames
    ));
    if summary.receipts.unknown > 0 {
        output::line(format_args!(
            "{} receipts prove nothing: their signer's certificate, or the root for it, is not known here",
            summary.receipts.unknown
        ));
    }
    if summary.receipts.of_nobody > 0 {
        output::line(format_args!(
            "{} receipts for frames that were taken away name no agent, and prove nothing",
            summary.receipts.of_nobody
        ));
    }
    let word = if summary.roots_named {
        "which was named"
    } else {
        "compare it with the orchestrator's"
    };
    for root in &summary.roots {
        output::line(format_args!(
            "signatures count under the root with SHA-256 {root}: {word}"
        ));
    }
    for root in &summary.roots_unnamed {
        output::problem(format_args!(
            "the root with SHA-256 {root} is brought along and was not named: nothing counts under it"
        ));
    }
}

fn export_to(state: &StateDir, to: &Path, form: Form) -> anyhow::Result<ExitCode> {
    let agent = state.identity()?;
    let agent = agent.context("this directory is not enrolled: there is nothing to export")?;
    let exported = match export(&state.ledger(), to, &agent, wall_us()) {
        Ok(exported) => exported,
        Err(error) => return broken(form, error, false),
    };
    match form {
        Form::Json => output::json(&exported),
        Form::Table => {
            output::line(format_args!(
                "exported {} files with {} bytes to {}\nSHA-256 of manifest.json: {}\nto check it anywhere: outpost-agent ledger \
                 verify --from {} --root SHA256, of the orchestrator's root as its people tell it",
                exported.files,
                exported.bytes,
                exported.directory.display(),
                exported.manifest_sha256,
                exported.directory.display()
            ));
            told(&exported.findings);
        }
    }
    Ok(ExitCode::from(code(&exported.findings)))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Time of day in UTC; a segment's start has none.
fn time(wall_us: u64) -> String {
    if wall_us == 0 {
        return " ".repeat(12);
    }
    let ms = wall_us / 1000;
    let s = ms / 1000;
    format!(
        "{:02}:{:02}:{:02}.{:03}",
        s / 3600 % 24,
        s / 60 % 60,
        s % 60,
        ms % 1000
    )
}
