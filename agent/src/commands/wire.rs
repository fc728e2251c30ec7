//! `ledger verify --capture`: the table of every byte that the agent sent.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;

use crate::capture::{self, Options, Report, Verdict};
use crate::cli::Form;
use crate::cli::evidence::WireArgs;
use crate::output::{self, count};
use crate::state_dir::{Identity, StateDir};

/// The exit status of a capture that lacks a part; in the help.
const INCOMPLETE: u8 = 5;

/// Compares the capture with the ledger: this agent's, or the one in `from`.
pub(super) fn verify(
    state: impl FnOnce() -> anyhow::Result<PathBuf>,
    from: Option<&Path>,
    args: &WireArgs,
    form: Form,
) -> anyhow::Result<ExitCode> {
    let (ledger, identity) = match from {
        Some(from) => (from.to_owned(), None),
        None => here(&state()?)?,
    };
    let report = look(&ledger, identity, args, &mut |_| ())?;
    match form {
        Form::Json => output::json(&report),
        Form::Table => words(&report).iter().for_each(output::line),
    }
    Ok(match report.verdict {
        Verdict::Accounted => ExitCode::SUCCESS,
        Verdict::Unaccounted => ExitCode::FAILURE,
        Verdict::Incomplete => ExitCode::from(INCOMPLETE),
    })
}

/// The ledger of a state directory, and who is enrolled there.
pub(super) fn here(state: &Path) -> anyhow::Result<(PathBuf, Option<Identity>)> {
    let state = StateDir::open(state)?;
    Ok((state.ledger(), state.identity()?))
}

/// The same without a report; `tap` gets everything that was sent.
pub(super) fn look(
    ledger: &Path,
    identity: Option<Identity>,
    args: &WireArgs,
    tap: &mut dyn FnMut(&[u8]),
) -> anyhow::Result<Report> {
    let (enrolled, agent) = match identity {
        Some(identity) => (Some(identity.orchestrator), Some(identity.spiffe_id)),
        None => (None, None),
    };
    let orchestrator = args.orchestrator.clone().or(enrolled);
    let orchestrator = orchestrator.context("say which orchestrator: --orchestrator HOST:PORT")?;
    let (Some(capture), Some(keylog)) = (&args.capture, &args.keylog) else {
        anyhow::bail!("a capture needs its key log: --capture FILE --keylog FILE");
    };
    let options = Options {
        ledger,
        capture,
        keylog,
        tshark: args.tshark.as_deref(),
        orchestrator: &orchestrator,
        agent: agent.as_deref(),
    };
    Ok(capture::verify(&options, tap)?)
}

fn words(report: &Report) -> Vec<String> {
    let (sent, matched) = report.frames();
    let (calls, calls_matched) = report.identity_calls;
    let mut lines = vec![
        format!(
            "{}, {} and {} sent; decrypted by {}",
            count(report.connections, "connection"),
            count(sent, "frame"),
            count(calls, "certificate request"),
            report.tshark
        ),
        format!(
            "frames that are the ledger's next ones, byte for byte: {matched} of {sent}; certificate requests: \
             {calls_matched} of {calls}"
        ),
        String::new(),
    ];
    lines.extend(report.rows.iter().map(|row| {
        format!(
            "{:>9} B  {:>6} x  {}",
            row.tally.bytes,
            row.tally.count,
            row.kind.words()
        )
    }));
    lines.push(format!("{:>9} B            sum", report.sum_bytes));
    lines.push(format!(
        "{:>9} B            in the agent's packets, each byte once ({} B came again)",
        report.captured_bytes, report.repeated_bytes
    ));
    lines.push(format!(
        "{:>9} B            in the orchestrator's packets, not looked into",
        report.received_bytes
    ));
    lines.push(format!(
        "{:>9} bits         of all this nobody can check, by what it leaves to whoever says it; and nobody when it was said",
        report.free_bits
    ));
    lines.push(String::new());
    lines.extend(report.findings.iter().map(|finding| {
        format!(
            "UNACCOUNTED  connection {}, packet {}, byte {}: {} ({} B)",
            finding.connection, finding.at.packet, finding.at.offset, finding.what, finding.bytes
        )
    }));
    if report.more_findings > 0 {
        lines.push(format!(
            "UNACCOUNTED  {} more of the kind",
            report.more_findings
        ));
    }
    let lacks = report.lacks.iter();
    lines.extend(lacks.map(|lack| format!("INCOMPLETE   {lack}")));
    lines.push(match report.verdict {
        Verdict::Accounted => "every byte that the agent sent is accounted for".to_owned(),
        Verdict::Unaccounted => "NOT everything that was sent is accounted for".to_owned(),
        Verdict::Incomplete => {
            "nothing unaccounted was found, but the capture lacks a part".to_owned()
        }
    });
    lines
}
