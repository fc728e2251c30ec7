//! The ledger in words: what each record told the orchestrator.

use outpost_proto::message::{
    AttemptState, Flags, Heartbeat, Hello, InventoryPage, OnDisconnect, UpMessage,
};
use outpost_proto::outcome::Report;
use outpost_proto::wire::{self, RecoverRequest};

use super::{Entry, Kind};

/// One message of a frame in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FrameWords {
    /// `hello`, `event`, `heartbeat`, …
    pub kind: &'static str,
    /// One sentence.
    pub words: String,
}

/// What a record says, one sentence per message in it.
#[must_use]
pub fn explain_entry(entry: &Entry) -> Vec<FrameWords> {
    let one = |kind, words: String| vec![FrameWords { kind, words }];
    match entry.kind {
        Kind::Frame => match wire::decode_up(&entry.payload) {
            Ok(messages) => messages.iter().map(message).collect(),
            Err(error) => one(
                "unreadable",
                format!("a frame that this version cannot read: {error}"),
            ),
        },
        Kind::Identity => one("identity", identity(&entry.payload)),
        Kind::Session => {
            let epoch = entry
                .payload
                .iter()
                .fold(0, |n: u64, b| n << 8 | u64::from(*b));
            one(
                "session",
                format!("(not sent) the orchestrator accepted the stream as session {epoch}"),
            )
        }
        Kind::Receipt => one(
            "receipt",
            "(not sent) the orchestrator signed what it received".to_owned(),
        ),
        Kind::Segment => one(
            "segment",
            "(not sent) a new segment of the ledger begins".to_owned(),
        ),
        Kind::Opened => one("opened", "(not sent) the agent started".to_owned()),
        Kind::Cut => {
            let bytes = entry
                .payload
                .iter()
                .fold(0, |n: u64, b| n << 8 | u64::from(*b));
            one(
                "cut",
                format!(
                    "(not sent) {bytes} bytes of an unfinished write were cut off after a crash"
                ),
            )
        }
    }
}

/// The kinds of the messages in a frame, in order; empty when it cannot be read.
#[must_use]
pub fn kinds_of_frame(frame: &[u8]) -> Vec<&'static str> {
    wire::decode_up(frame)
        .map(|messages| messages.iter().map(kind_of).collect())
        .unwrap_or_default()
}

fn identity(payload: &[u8]) -> String {
    let bytes = payload.len();
    match RecoverRequest::decode(payload) {
        Ok(request) => {
            let proof = match request.answer {
                Some(_) => ", and the proof that its key is held",
                None => "",
            };
            format!(
                "a request for a certificate in place of one that ended, {bytes} bytes: the ended one, the session's \
                 nonce, a public key{proof}"
            )
        }
        Err(_) => {
            format!("a request for a certificate, {bytes} bytes: a token or proof and a public key")
        }
    }
}

fn kind_of(message: &UpMessage) -> &'static str {
    match message {
        UpMessage::Hello(_) => "hello",
        UpMessage::Catalogue(_) => "catalogue",
        UpMessage::Inventory(_) => "inventory",
        UpMessage::Event(_) => "event",
        UpMessage::Heartbeat(_) => "heartbeat",
        UpMessage::Trigger { .. } => "trigger",
        UpMessage::Ack(_) => "ack",
    }
}

fn message(message: &UpMessage) -> FrameWords {
    let words = match message {
        UpMessage::Hello(hello) => hello_words(hello),
        UpMessage::Catalogue(catalogue) => {
            let stop = |on: OnDisconnect| matches!(on, OnDisconnect::StopAfter(_));
            format!(
                "catalogue version {} has {} entries, as salted hashes of their names; {} may be retried, {} stop when out of touch",
                catalogue.version,
                catalogue.entries.len(),
                catalogue
                    .entries
                    .iter()
                    .filter(|entry| entry.retry_safe)
                    .count(),
                catalogue
                    .entries
                    .iter()
                    .filter(|entry| stop(entry.on_disconnect))
                    .count(),
            )
        }
        UpMessage::Inventory(page) => inventory_words(page),
        UpMessage::Event(event) => {
            format!(
                "attempt {} is {} (event {})",
                event.attempt,
                state_words(&event.state),
                event.event_seq
            )
        }
        UpMessage::Heartbeat(beat) => heartbeat_words(beat),
        UpMessage::Trigger { trigger, event_seq } => {
            format!("trigger number {trigger} fired (event {event_seq})")
        }
        UpMessage::Ack(seq) => format!("every command up to number {seq} was taken"),
    };
    FrameWords {
        kind: kind_of(message),
        words,
    }
}

fn hello_words(hello: &Hello) -> String {
    let (major, minor, patch) = hello.build;
    format!(
        "version {major}.{minor}.{patch} says hello: {} slots, containment {}, sandbox {}, life {:016x}",
        hello.slots,
        word(&hello.containment),
        word(&hello.sandbox),
        hello.incarnation.0,
    )
}

fn inventory_words(page: &InventoryPage) -> String {
    let held = page
        .items
        .iter()
        .map(|item| format!("{} is {}", item.attempt, state_words(&item.state)));
    let held = held.collect::<Vec<_>>().join("; ");
    match (page.items.is_empty(), page.end) {
        (true, Some(0)) => "holds no attempt and owes no outcome".to_owned(),
        (_, Some(count)) => format!("holds or owes {count} attempts in all: {held}"),
        (_, None) => format!("holds or owes: {held}"),
    }
}

fn state_words(state: &AttemptState) -> String {
    match state {
        AttemptState::Assigned => "waiting here".to_owned(),
        AttemptState::Starting => "about to start".to_owned(),
        AttemptState::Running => "running".to_owned(),
        AttemptState::Finished(report) => report_words(report),
    }
}

fn report_words(report: &Report) -> String {
    let mut words = format!("over: {} after {} ms", report.outcome, report.duration_ms);
    if !report.may_have_started {
        words.push_str(", never started");
    }
    if let Some(code) = report.exit_code {
        words.push_str(&format!(", exit code {code}"));
    }
    if let Some(count) = report.count {
        words.push_str(&format!(", count {count}"));
    }
    words
}

fn heartbeat_words(beat: &Heartbeat) -> String {
    let health = &beat.health;
    let Flags {
        paused,
        draining,
        observe,
        hold,
    } = beat.flags;
    let flags = [
        (paused, "paused"),
        (draining, "draining"),
        (observe, "observing"),
        (hold, "holding"),
    ];
    let flags = flags
        .iter()
        .filter(|(on, _)| *on)
        .map(|(_, name)| format!(", {name}"))
        .collect::<String>();
    format!(
        "heartbeat {}: {} slots free, {} running, {} waiting{flags}; cpu {} %, memory {} %, disk {} %, load {} %, certificate {} days",
        beat.seq,
        beat.slots_free,
        beat.running,
        beat.queued,
        health.cpu_percent,
        health.memory_percent,
        health.disk_percent,
        health.load_percent,
        health.certificate_days_left,
    )
}

/// An enum's name as everywhere else: snake case.
fn word<T: serde::Serialize>(value: &T) -> String {
    serde_json::to_value(value)
        .ok()
        .and_then(|value| value.as_str().map(str::to_owned))
        .unwrap_or_default()
}
