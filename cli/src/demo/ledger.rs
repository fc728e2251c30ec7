//! The ledger in words: what left the site, counted by kind, checked, and searched for what must not be in it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use outpost_agent::ledger::{Kind, Reader, explain_entry, kinds_of_frame, verify};
use serde::Serialize;

use super::search::{Search, search, texts_of_html, texts_of_json};
use crate::failure::Failure;

/// What left the site.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Left {
    /// Records of all kinds.
    pub(crate) records: u64,
    /// Receipts of the orchestrator that hold.
    pub(crate) receipts: u64,
    /// Frames on the link's streams.
    pub(crate) frames: u64,
    /// Their bytes.
    pub(crate) frame_bytes: u64,
    /// Messages in these frames, by kind.
    pub(crate) messages: BTreeMap<String, u64>,
    /// Requests for a certificate.
    pub(crate) identity_requests: u64,
    /// Their bytes.
    pub(crate) identity_bytes: u64,
    /// Connections that sent something.
    pub(crate) sessions: usize,
    /// Head of the chain over everything, in hex.
    pub(crate) head: String,
    /// One sentence of the ledger about each kind, as an example.
    pub(crate) examples: BTreeMap<String, String>,
    /// The report's strings, looked for in all of these bytes.
    pub(crate) search: Search,
}

/// Reads and verifies the whole ledger and looks for the report in it.
pub(crate) fn examine(ledger: &Path, report: &Path) -> Result<Left, Failure> {
    let damaged = |error: outpost_agent::ledger::LedgerError| {
        let why = std::error::Error::source(&error)
            .map(|source| format!(": {source}"))
            .unwrap_or_default();
        Failure::Unsuccessful(format!("{error}{why}"))
    };
    let summary = verify(ledger).map_err(damaged)?;
    let mut reader = Reader::open(ledger).map_err(damaged)?;
    let (mut messages, mut examples, mut sent) = (BTreeMap::new(), BTreeMap::new(), Vec::new());
    while let Some(entry) = reader.next_entry().map_err(damaged)? {
        if entry.kind == Kind::Frame {
            for kind in kinds_of_frame(&entry.payload) {
                *messages.entry(kind.to_owned()).or_default() += 1;
            }
            for said in explain_entry(&entry) {
                examples.insert(said.kind.to_owned(), said.words);
            }
        }
        // Everything else in it was not sent.
        if matches!(entry.kind, Kind::Frame | Kind::Identity) {
            sent.extend(entry.payload);
        }
    }
    Ok(Left {
        records: summary.records,
        receipts: summary.receipts.hold,
        frames: summary.frames,
        frame_bytes: summary.frame_bytes,
        messages,
        identity_requests: summary.identity_requests,
        identity_bytes: summary.identity_bytes,
        sessions: summary.sessions.len(),
        head: summary.head,
        examples,
        search: search(&texts(report)?, &sent),
    })
}

/// Every string of the two reports. A report that is not there, or without text, would prove nothing.
fn texts(report: &Path) -> Result<BTreeSet<String>, Failure> {
    let mut texts = BTreeSet::new();
    let path = report.join("report.json");
    let json = std::fs::read(&path).map_err(Failure::file(&path))?;
    let value = serde_json::from_slice(&json).map_err(|error| {
        Failure::Unsuccessful(format!("{} is not JSON: {error}", path.display()))
    })?;
    texts_of_json(&value, &mut texts);
    let path = report.join("report.html");
    let html = std::fs::read(&path).map_err(Failure::file(&path))?;
    texts_of_html(&String::from_utf8_lossy(&html), &mut texts);
    if texts.is_empty() {
        return Err(Failure::Unsuccessful(format!(
            "the report in {} has no text",
            report.display()
        )));
    }
    Ok(texts)
}
