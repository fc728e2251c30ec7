//! The ledger in words: what each record told the orchestrator.

use outpost_proto::message::{
    AttemptState, Flags, Heartbeat, Hello, InventoryPage, OnDisconnect, UpMessage,
};
use outpost_proto::outcome::Report;
use outpost_proto::strict::is_step;
use outpost_proto::wire::{self, RecoverRequest};

use super::calls::{IdentityCall, Method};
use super::live::Session;
use super::pruned::TakenAway;
use super::signed::Signed;
use super::{Entry, Kind, hex, number};

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
        Kind::Session => one(
            "session",
            format!(
                "(not sent) the orchestrator accepted the stream as session {}",
                number(&entry.payload)
            ),
        ),
        Kind::Pruned => one("pruned", pruned(&entry.payload)),
        Kind::Receipt | Kind::Judged | Kind::Linked => one(
            "receipt",
            "(not sent) the orchestrator signed what it received".to_owned(),
        ),
        Kind::Server => one(
            "server",
            "(not sent) the certificates of a server that signed".to_owned(),
        ),
        Kind::Tip => one("tip", "(not sent) a segment was begun".to_owned()),
        Kind::Segment => one(
            "segment",
            "(not sent) a new segment of the ledger begins".to_owned(),
        ),
        Kind::Newer => one(
            "newer",
            "(not known) a record of a newer version of the agent".to_owned(),
        ),
        Kind::Carried => one("carried", carried(entry)),
        Kind::Opened => one("opened", "(not sent) the agent started".to_owned()),
        Kind::Cut => one(
            "cut",
            format!(
                "(not sent) {} bytes of an unfinished write were cut off after a crash",
                number(&entry.payload)
            ),
        ),
    }
}

/// What a receipt says, in words.
#[must_use]
pub fn explain_signed(signed: &Signed) -> FrameWords {
    let Signed {
        frame_count,
        session_epoch,
        ..
    } = signed;
    let whose = match &signed.named {
        Some(named) => format!(" of agent {} of tenant {}", named.agent, named.tenant),
        None => String::new(),
    };
    FrameWords {
        kind: "receipt",
        words: format!(
            "(not sent) the orchestrator signed that it received the first {frame_count} frames of session {session_epoch}{whose}, \
             which end with head {}{}",
            hex(&signed.head),
            before(signed)
        ),
    }
}

/// Which sessions it says came before.
fn before(signed: &Signed) -> String {
    let Some(past) = &signed.past else {
        return String::new();
    };
    let ends = past.before.iter().map(|end| {
        format!(
            "{} frames of session {}",
            end.frame_count, end.session_epoch.0
        )
    });
    let ends: Vec<_> = ends.collect();
    if ends.is_empty() {
        return ", and that it knows of no session before".to_owned();
    }
    format!(
        ", and before it, of all sessions since {}, {}",
        past.since,
        ends.join(", ")
    )
}

fn carried(entry: &Entry) -> String {
    match Session::from_carried(entry.conn, &entry.payload) {
        Some(session) => format!(
            "(not sent) session {} goes on in this segment; {} frames with {} bytes were sent in it before",
            session.epoch.unwrap_or(0),
            session.frames,
            session.bytes
        ),
        None => "(not sent) a session goes on in this segment".to_owned(),
    }
}

fn pruned(payload: &[u8]) -> String {
    let Some(taken) = TakenAway::from_payload(payload) else {
        return "(not sent) an old segment was taken away".to_owned();
    };
    let why = match (taken.for_size, taken.is_early()) {
        (false, _) => "for its age",
        (true, false) => "because there were too many, and older than it was to be kept",
        (true, true) => "before its time, because there were too many",
    };
    format!(
        "(not sent) segment {} was taken away {why}: {} s after its last record, of {} s",
        taken.segment,
        taken.age_s(),
        taken.keep_s
    )
}

/// The kinds of the messages in a frame, in order; empty when it cannot be read.
#[must_use]
pub fn kinds_of_frame(frame: &[u8]) -> Vec<&'static str> {
    wire::decode_up(frame)
        .map(|messages| messages.iter().map(kind_of).collect())
        .unwrap_or_default()
}

fn identity(payload: &[u8]) -> String {
    let Some(call) = IdentityCall::decode(payload) else {
        return "a request for a certificate that this version cannot read".to_owned();
    };
    let what = match call.method {
        Method::Enrol => {
            "a request for a first certificate: a join token (its SHA-256 is kept in its place) and a request with a public \
             key"
        }
        Method::Renew => "a request for the next certificate: a request with a public key",
        Method::Recover => match RecoverRequest::decode(&call.request) {
            Ok(request) if request.answer.is_some() => {
                "a request for a certificate in place of one that ended: that one, the session's nonce, a request with a \
                 public key, and the proof that the ended one's key is held"
            }
            Ok(_) | Err(_) => {
                "a request for a certificate in place of one that ended: that one, the session's nonce, and a request with \
                 a public key"
            }
        },
    };
    format!(
        "{what}; {} bytes, public key {}",
        call.length,
        hex(&call.public_key_sha256)
    )
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
        "version {major}.{minor}.{patch} says hello: {} slots, containment {}, sandbox {}, reporting {}, life {:016x}",
        hello.slots,
        word(&hello.containment),
        word(&hello.sandbox),
        word(&hello.reporting),
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
    // A step, which is all that a strict site says, is no exact time.
    let most = if is_step(report.duration_ms) {
        "at most "
    } else {
        ""
    };
    let (outcome, ms) = (report.outcome, report.duration_ms);
    let mut words = format!("over: {outcome} after {most}{ms} ms");
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
