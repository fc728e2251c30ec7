//! `ledger verify --capture`: whether every byte that the agent sent on the wire is accounted for.
//!
//! tshark decrypts and puts records and frames together, independently of this code; the accounting is ours. Every byte
//! of what the agent sent to the orchestrator is a frame of the ledger, or protocol of a kind that is listed and holds
//! nothing that could be chosen, or it is told with its packet and makes the verdict. What the capture lacks is told as
//! lacking. Used by `ledger verify` and by the leak test; never by the running agent.

mod account;
mod certificates;
mod connection;
mod freedom;
mod handshake;
mod hello;
mod hpack;
mod http2;
mod matching;
mod said;
mod tcp;
mod tree;
mod tshark;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Serialize;

pub use account::{At, Finding, Kind, Tally};
pub use matching::Matched;

use crate::ledger::LedgerError;
use connection::{Connection, Packet};
use tree::Node;
use tshark::Tshark;

/// What is to be checked.
#[derive(Debug)]
pub struct Options<'a> {
    /// The ledger's directory.
    pub ledger: &'a Path,
    /// The packet capture.
    pub capture: &'a Path,
    /// What the audit mode wrote meanwhile.
    pub keylog: &'a Path,
    /// Another tshark than the one in the path.
    pub tshark: Option<&'a Path>,
    /// `host:port` of the orchestrator, as the agent knows it.
    pub orchestrator: &'a str,
    /// The name in the agent's certificate (`spiffe://…`), where it is known.
    pub agent: Option<&'a str>,
}

/// Why nothing could be checked.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// There is no tshark to decrypt with.
    #[error("{program} cannot be used: {why}; {install}")]
    Missing {
        /// Which.
        program: PathBuf,
        /// Why not.
        why: String,
        /// How to get one.
        install: &'static str,
    },
    /// It did not do its work.
    #[error("{program} could not read the capture: {why}")]
    Tshark {
        /// Which.
        program: PathBuf,
        /// What it said.
        why: String,
    },
    /// A file that was named is not there.
    #[error("{path} cannot be read")]
    File {
        /// Which.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The agent does not know its orchestrator.
    #[error("`{0}` is no address of an orchestrator: is this agent enrolled?")]
    Address(String),
    /// The ledger cannot be read.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

/// What follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Every byte is accounted for.
    Accounted,
    /// Something was sent that is neither in the ledger nor protocol of a known kind.
    Unaccounted,
    /// Nothing of the kind, but the capture lacks a part, or has nothing.
    Incomplete,
}

/// A kind with its sum.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Row {
    /// What.
    pub kind: Kind,
    /// How often, and how many bytes.
    #[serde(flatten)]
    pub tally: Tally,
}

/// The whole of it.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// What follows.
    pub verdict: Verdict,
    /// Of this build.
    pub version: &'static str,
    /// As it says itself.
    pub tshark: String,
    /// Connections to the orchestrator's port in the capture.
    pub connections: usize,
    /// Each stream with the session of the ledger that it is.
    pub streams: Vec<Matched>,
    /// Certificate requests that were sent, and those of them that the ledger has.
    pub identity_calls: (usize, usize),
    /// Bytes by kind.
    pub rows: Vec<Row>,
    /// The sum of all rows.
    pub sum_bytes: u64,
    /// Bits in these that nobody can check: the most that could have been said by them, whatever else was.
    pub free_bits: u64,
    /// Payload bytes of the agent's packets, each once.
    pub captured_bytes: u64,
    /// Bytes that the agent's host sent a second time.
    pub repeated_bytes: u64,
    /// Payload bytes of the other side's packets.
    pub received_bytes: u64,
    /// What must not be there.
    pub findings: Vec<Finding>,
    /// Findings beyond those.
    pub more_findings: u64,
    /// What the capture lacks.
    pub lacks: Vec<String>,
}

impl Report {
    /// Frames that were sent, and those of them that are the ledger's.
    #[must_use]
    pub fn frames(&self) -> (usize, usize) {
        let add =
            |(sent, matched), stream: &Matched| (sent + stream.sent, matched + stream.matched);
        self.streams.iter().fold((0, 0), add)
    }
}

/// Checks a capture. `tap` gets everything that the agent sent, decrypted, piece by piece.
///
/// # Errors
/// When tshark is missing or fails, or a file cannot be read; what is found is no error.
pub fn verify(options: &Options<'_>, tap: &mut dyn FnMut(&[u8])) -> Result<Report, CaptureError> {
    for path in [options.capture, options.keylog] {
        std::fs::File::open(path).map_err(|source| CaptureError::File {
            path: path.to_owned(),
            source,
        })?;
    }
    let address = || CaptureError::Address(options.orchestrator.to_owned());
    let (host, port) = options.orchestrator.rsplit_once(':').ok_or_else(address)?;
    let port: u16 = port.parse().map_err(|_| address())?;
    let host = host.trim_matches(['[', ']']);

    let tshark = Tshark::find(options.tshark)?;
    let mut connections: BTreeMap<u64, Connection> = BTreeMap::new();
    let cut = tshark.packets(options.capture, options.keylog, port, &mut |node| {
        take(&node, host, port, &mut connections, tap);
    })?;
    let mut connections: Vec<Connection> = connections.into_values().collect();
    let matched = matching::matching(options.ledger, &mut connections, options.agent)?;
    let cut = cut.map(|why| format!("the capture could not be read to its end: {why}"));
    Ok(report(tshark.version, connections, matched, cut))
}

fn take(
    node: &Node,
    host: &str,
    port: u16,
    connections: &mut BTreeMap<u64, Connection>,
    tap: &mut dyn FnMut(&[u8]),
) {
    let layers = node.get("_source").and_then(|source| source.get("layers"));
    let Some(layers) = layers else {
        return;
    };
    let (Some(frame), Some(tcp)) = (layers.get("frame"), layers.get("tcp")) else {
        return;
    };
    let Some(stream) = tcp.number("tcp.stream") else {
        return;
    };
    let packet = Packet {
        number: frame.number("frame.number").unwrap_or(0),
        at_us: micros(frame.text("frame.time_epoch").unwrap_or_default()),
        is_upstream: tcp.number("tcp.dstport") == Some(u64::from(port)),
        is_whole: frame.number("frame.cap_len") == frame.number("frame.len"),
        layers,
        tcp,
    };
    if packet.is_upstream {
        for name in ["tls", "http2"] {
            layers.all(name).for_each(|layer| show(layer, tap));
        }
    }
    connections
        .entry(stream)
        .or_insert_with(|| Connection::new(stream, &packet, host))
        .packet(&packet);
}

/// Every text and every run of bytes that tshark found in a layer.
fn show(node: &Node, tap: &mut dyn FnMut(&[u8])) {
    for (_, field) in node.fields() {
        match field {
            Node::Leaf(text) => match tree::bytes(text) {
                Some(bytes) if bytes.len() > 1 => tap(&bytes),
                Some(_) | None => tap(text.as_bytes()),
            },
            Node::Tree(_) => show(field, tap),
        }
    }
}

/// Of `1795388942.831995000`.
fn micros(epoch: &str) -> u64 {
    let (seconds, fraction) = epoch.split_once('.').unwrap_or((epoch, "0"));
    let micros = fraction
        .get(..6)
        .and_then(|digits| digits.parse::<u64>().ok());
    seconds.parse::<u64>().unwrap_or(0) * 1_000_000 + micros.unwrap_or(0)
}

fn report(
    tshark: String,
    mut connections: Vec<Connection>,
    matched: matching::Outcome,
    cut: Option<String>,
) -> Report {
    let mut tallies: BTreeMap<Kind, Tally> = BTreeMap::new();
    let mut report = Report {
        verdict: Verdict::Accounted,
        version: env!("CARGO_PKG_VERSION"),
        tshark,
        connections: connections.len(),
        streams: matched.streams,
        identity_calls: (matched.calls, matched.calls_matched),
        rows: Vec::new(),
        sum_bytes: 0,
        free_bits: 0,
        captured_bytes: 0,
        repeated_bytes: 0,
        received_bytes: 0,
        findings: Vec::new(),
        more_findings: 0,
        lacks: cut.into_iter().chain(matched.lacks).collect(),
    };
    for connection in &mut connections {
        report.lacks.extend(connection.finish());
        let (whole, sum) = (connection.up.whole(), connection.account.bytes());
        if connection.is_complete() && whole != sum {
            let what = format!("{sum} bytes are explained and {whole} bytes were sent");
            connection.account.find(At::default(), 0, what);
        }
        report.captured_bytes += whole;
        report.repeated_bytes += connection.up.repeated;
        report.received_bytes += connection.down.whole();
        for (kind, tally) in &connection.account.tallies {
            let sum = tallies.entry(*kind).or_default();
            sum.count += tally.count;
            sum.bytes += tally.bytes;
        }
        report.more_findings += connection.account.more_findings;
        report.findings.append(&mut connection.account.findings);
    }
    if connections
        .iter()
        .all(|connection| connection.up.whole() == 0)
    {
        let what = "the capture has nothing that the agent sent to its orchestrator";
        report.lacks.push(what.to_owned());
    }
    let free = tallies
        .iter()
        .map(|(kind, tally)| kind.free_bits_of(*tally));
    report.free_bits = free.sum();
    report.sum_bytes = tallies.values().map(|tally| tally.bytes).sum();
    let rows = tallies.into_iter().map(|(kind, tally)| Row { kind, tally });
    report.rows = rows.collect();
    report.verdict = match (report.findings.is_empty(), report.lacks.is_empty()) {
        (false, _) => Verdict::Unaccounted,
        (true, false) => Verdict::Incomplete,
        (true, true) => Verdict::Accounted,
    };
    report
}

#[cfg(test)]
mod cutting_tests;
#[cfg(test)]
mod recorded_tests;
#[cfg(test)]
mod smuggling_tests;
#[cfg(test)]
mod tests;
