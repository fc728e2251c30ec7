//! The Prometheus text of an agent's status: every name and help text in one place, names by the usual conventions
//! (base units, `_total` for counters, no labels with unbounded values).

use std::fmt::{Display, Write as _};

use outpost_proto::outcome::Outcome;

use super::{Histogram, SYNC_BOUNDS_US};
use crate::health::process::Usage;
use crate::runner::Status;

/// The text, from a status and this process's own numbers.
pub(super) fn render(status: &Status, usage: Option<&Usage>) -> String {
    let mut text = Text::default();
    build(&mut text, status);
    session(&mut text, status);
    work(&mut text, status);
    disk(&mut text, status);
    if let Some(usage) = usage {
        process(&mut text, usage);
    }
    text.0
}

#[derive(Default)]
struct Text(String);

impl Text {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a string does not fail.
        let _ = write!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    fn gauge(&mut self, name: &str, help: &str, value: impl Display) {
        self.head(name, "gauge", help);
        self.sample(name, "", value);
    }

    fn counter(&mut self, name: &str, help: &str, value: impl Display) {
        self.head(name, "counter", help);
        self.sample(name, "", value);
    }

    fn sample(&mut self, name: &str, labels: &str, value: impl Display) {
        let _ = writeln!(self.0, "{name}{labels} {value}");
    }
}

/// Microseconds as seconds, without zeros at the end.
struct Seconds(u64);

impl Display for Seconds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (whole, micros) = (self.0 / 1_000_000, self.0 % 1_000_000);
        if micros == 0 {
            return write!(f, "{whole}");
        }
        let digits = format!("{micros:06}");
        write!(f, "{whole}.{}", digits.trim_end_matches('0'))
    }
}

fn build(text: &mut Text, status: &Status) {
    let name = "outpost_agent_build_info";
    text.head(name, "gauge", "Version of the running agent; always 1.");
    text.sample(name, &format!("{{version=\"{}\"}}", status.version), 1);
    text.gauge(
        "outpost_agent_catalogue_entries",
        "Entries of the catalogue in force.",
        status.catalogue.entries,
    );
    text.gauge(
        "outpost_agent_catalogue_read_timestamp_seconds",
        "When the catalogue in force was read.",
        Seconds(status.numbers.catalogue_read_us),
    );
    text.gauge(
        "outpost_agent_catalogue_refused",
        "Whether the newest reload was not accepted, so that an older catalogue is in force.",
        u8::from(status.numbers.catalogue_refused.is_some()),
    );
}

fn session(text: &mut Text, status: &Status) {
    let since = |at: u64| status.now_boot_us.saturating_sub(at);
    let session = status.view_text("session");
    text.gauge(
        "outpost_agent_connected",
        "Whether a session with the orchestrator is ready for work.",
        u8::from(session == Some("ready")),
    );
    let age = session.map_or(0, |_| {
        since(status.view_number("session_since_us").unwrap_or(0))
    });
    text.gauge(
        "outpost_agent_session_age_seconds",
        "For how long the session has been in its present phase; 0 without one.",
        Seconds(age),
    );
    let lease = status.view_number("lease_until_us").unwrap_or(0);
    text.gauge(
        "outpost_agent_lease_remaining_seconds",
        "For how long work may still be started without another word from the orchestrator.",
        Seconds(lease.saturating_sub(status.now_boot_us)),
    );
    text.counter(
        "outpost_agent_connections_total",
        "Streams to the orchestrator that stood; all but the first are reconnects.",
        status.numbers.connections,
    );
    text.counter(
        "outpost_agent_alarms_total",
        "How often the orchestrator did what no honest one does, or evidence was in danger.",
        status.numbers.alarms,
    );
    text.counter(
        "outpost_agent_ledger_early_segments_total",
        "Segments of the ledger that were taken away before their time, because there were too many.",
        status.numbers.ledger_early,
    );
    text.gauge(
        "outpost_agent_certificate_expiry_timestamp_seconds",
        "When the certificate ends; 0 before it is known.",
        status.certificate_not_after_s,
    );
}

fn work(text: &mut Text, status: &Status) {
    let slots = status.view_number("slots").unwrap_or(0);
    text.gauge(
        "outpost_agent_slots",
        "How many attempts run at once.",
        slots,
    );
    text.gauge(
        "outpost_agent_attempts_running",
        "Attempts starting or running.",
        status.attempts("running").len(),
    );
    text.gauge(
        "outpost_agent_attempts_queued",
        "Attempts waiting for a slot or a lease.",
        status.attempts("queued").len(),
    );
    text.gauge(
        "outpost_agent_outcomes_unacknowledged",
        "Outcomes that are not yet durable at the orchestrator.",
        status.view_number("unacknowledged").unwrap_or(0),
    );
    text.gauge(
        "outpost_agent_paused",
        "Whether the site lets nothing start.",
        u8::from(status.flag("paused")),
    );
    text.gauge(
        "outpost_agent_draining",
        "Whether the agent finishes what runs and takes nothing new.",
        u8::from(status.flag("draining")),
    );
    let name = "outpost_agent_attempts_total";
    text.head(
        name,
        "counter",
        "Attempts that ended and were acknowledged, by outcome.",
    );
    for outcome in Outcome::all() {
        if !matches!(outcome, Outcome::Refused(_)) {
            let labels = labels(outcome);
            text.sample(name, &labels, status.numbers.ended(outcome));
        }
    }
    let name = "outpost_agent_refusals_total";
    text.head(
        name,
        "counter",
        "Instructions that the site refused, by reason.",
    );
    for outcome in Outcome::all() {
        if matches!(outcome, Outcome::Refused(_)) {
            let (_, reason) = parts(outcome);
            let labels = format!("{{reason=\"{reason}\"}}");
            text.sample(name, &labels, status.numbers.ended(outcome));
        }
    }
}

fn labels(outcome: Outcome) -> String {
    let (outcome, reason) = parts(outcome);
    format!("{{outcome=\"{outcome}\",reason=\"{reason}\"}}")
}

/// `killed{oom}` as two.
fn parts(outcome: Outcome) -> (String, String) {
    let name = outcome.to_string();
    match name.split_once('{') {
        Some((outcome, reason)) => {
            let reason = reason.trim_end_matches('}');
            (outcome.to_owned(), reason.to_owned())
        }
        None => (name, String::new()),
    }
}

fn disk(text: &mut Text, status: &Status) {
    text.gauge(
        "outpost_agent_ledger_bytes",
        "Bytes of the ledger of what left the site.",
        status.disk.ledger_bytes,
    );
    text.gauge(
        "outpost_agent_ledger_limit_bytes",
        "Bytes of the ledger beyond which its oldest segments go.",
        status.disk.ledger_limit_bytes,
    );
    text.gauge(
        "outpost_agent_journal_bytes",
        "Bytes of the journal.",
        status.disk.journal_bytes,
    );
    text.gauge(
        "outpost_agent_logs_bytes",
        "Bytes of logs kept, as of the last sweep.",
        status.numbers.logs_bytes,
    );
    text.gauge(
        "outpost_agent_logs_limit_bytes",
        "Bytes of logs beyond which the oldest go.",
        status.disk.logs_limit_bytes,
    );
    text.gauge(
        "outpost_agent_logs_attempts",
        "Attempts whose logs are kept, as of the last sweep.",
        status.numbers.logs_attempts,
    );
    histogram(text, &status.numbers.commits);
}

fn histogram(text: &mut Text, commits: &Histogram) {
    let name = "outpost_agent_commit_duration_seconds";
    let help = "How long journal and ledger took to be durable before something was said.";
    text.head(name, "histogram", help);
    let mut below = 0;
    for (bound, count) in SYNC_BOUNDS_US.iter().zip(&commits.counts) {
        below += count;
        let labels = format!("{{le=\"{}\"}}", Seconds(*bound));
        text.sample(&format!("{name}_bucket"), &labels, below);
    }
    let all = commits.counts.iter().sum::<u64>();
    text.sample(&format!("{name}_bucket"), "{le=\"+Inf\"}", all);
    text.sample(&format!("{name}_sum"), "", Seconds(commits.sum_us));
    text.sample(&format!("{name}_count"), "", all);
}

/// The names that every Prometheus client uses.
fn process(text: &mut Text, usage: &Usage) {
    text.counter(
        "process_cpu_seconds_total",
        "Processor time of the runner, user and system.",
        Seconds(usage.cpu_us),
    );
    text.gauge(
        "process_resident_memory_bytes",
        "Resident memory of the runner.",
        usage.resident_bytes,
    );
    text.gauge(
        "process_virtual_memory_bytes",
        "Virtual memory of the runner.",
        usage.virtual_bytes,
    );
    text.gauge(
        "process_open_fds",
        "Descriptors open in the runner.",
        usage.open_fds,
    );
    text.gauge(
        "process_max_fds",
        "Descriptors that the runner may open.",
        usage.max_fds,
    );
    text.gauge(
        "process_start_time_seconds",
        "When the runner began.",
        Seconds(usage.started_us),
    );
}
