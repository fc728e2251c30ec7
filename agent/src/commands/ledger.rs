//! `ledger show|explain|verify`: what left this site, without asking anybody.

use std::path::Path;
use std::process::ExitCode;

use crate::cli::{self, Form};
use crate::ledger::{Entry, Kind, Reader, Summary, explain_entry, kinds_of_frame, verify};
use crate::output;
use crate::state_dir::StateDir;

pub(crate) fn ledger(state: &Path, what: cli::Ledger, form: Form) -> anyhow::Result<ExitCode> {
    let dir = StateDir::open(state)?.ledger();
    match what {
        cli::Ledger::Show => each(&dir, |entry| show(entry, form)),
        cli::Ledger::Explain => each(&dir, |entry| explain(entry, form)),
        cli::Ledger::Verify => {
            let summary = verify(&dir)?;
            match form {
                Form::Json => output::json(&summary),
                Form::Table => verified(&summary),
            }
            Ok(())
        }
    }?;
    Ok(ExitCode::SUCCESS)
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
        Kind::Segment | Kind::Session | Kind::Receipt | Kind::Opened | Kind::Cut => {
            "(not sent)".to_owned()
        }
    };
    let bytes = entry
        .payload
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect::<String>();
    match form {
        Form::Json => output::line(serde_json::json!({
            "at_us": entry.wall_us, "connection": entry.conn, "kind": format!("{:?}", entry.kind).to_lowercase(),
            "messages": kinds, "bytes": entry.payload.len(), "hex": bytes,
        })),
        Form::Table => {
            output::line(format_args!(
                "{}  {:>5} B  {kinds:<24} {bytes}",
                time(entry.wall_us),
                entry.payload.len()
            ));
        }
    }
}

fn explain(entry: &Entry, form: Form) {
    for message in explain_entry(entry) {
        match form {
            Form::Json => output::line(serde_json::json!({
                "at_us": entry.wall_us, "connection": entry.conn, "kind": message.kind, "words": message.words,
            })),
            Form::Table => output::line(format_args!(
                "{}  {:<9}  {}",
                time(entry.wall_us),
                message.kind,
                message.words
            )),
        }
    }
}

fn verified(summary: &Summary) {
    output::line(format_args!(
        "verified: {} records, {} frames with {} bytes, {} certificate requests with {} bytes",
        summary.records,
        summary.frames,
        summary.frame_bytes,
        summary.identity_requests,
        summary.identity_bytes
    ));
    for session in &summary.sessions {
        let epoch = session
            .session_epoch
            .map_or_else(|| "(never accepted)".to_owned(), |epoch| epoch.to_string());
        output::line(format_args!(
            "session {epoch}: {} frames, {} bytes, head {}",
            session.frames, session.bytes, session.head
        ));
    }
    if summary.torn_bytes > 0 {
        output::line(format_args!(
            "{} bytes at the end are no whole record: a write in progress",
            summary.torn_bytes
        ));
    }
    output::line(format_args!("head of everything: {}", summary.head));
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
