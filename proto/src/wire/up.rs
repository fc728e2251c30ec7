//! What an agent says: between validated values and generated messages.

use super::convert::{
    id_from_wire, id_to_wire, known, missing, narrow, recovery_from_wire, recovery_to_wire,
};
use super::error::{DecodeError, EncodeError, Invalid};
use super::{link, outcome, rules};
use crate::ids::{
    AttemptId, CatalogueVersion, CommandSeq, EventSeq, Fence, HeartbeatSeq, Incarnation, Nonce,
    RunId, TaskIndex,
};
use crate::message::{
    AttemptState, Catalogue, CatalogueEntry, Containment, Event, Flags, Health, Heartbeat, Hello,
    InventoryItem, InventoryPage, Level, OnDisconnect, Reporting, UpMessage,
};
use crate::name::EntryHash;
use crate::outcome::Report;

// ---------------------------------------------------------------- to the wire

/// Checks the rules; the bounds are checked on the frame as a whole.
pub(super) fn to_wire(message: &UpMessage) -> Result<link::UpMessage, EncodeError> {
    use link::up_message::Kind;
    rules::up(message)?;
    let kind = match message {
        UpMessage::Hello(hello) => Kind::Hello(hello_to_wire(hello)),
        UpMessage::Catalogue(catalogue) => Kind::Catalogue(link::Catalogue {
            version: catalogue.version.0,
            entries: catalogue.entries.iter().map(entry_to_wire).collect(),
        }),
        UpMessage::Inventory(page) => Kind::Inventory(link::Inventory {
            items: page.items.iter().map(item_to_wire).collect(),
            end: page.end.map(|count| link::InventoryEnd { count }),
        }),
        UpMessage::Event(event) => Kind::Event(event_to_wire(event)),
        UpMessage::Heartbeat(heartbeat) => Kind::Heartbeat(heartbeat_to_wire(heartbeat)),
        UpMessage::Trigger { trigger, event_seq } => Kind::Trigger(link::Trigger {
            trigger: (*trigger).into(),
            event_seq: event_seq.0,
        }),
        UpMessage::Ack(command_seq) => Kind::Ack(link::Ack {
            command_seq: command_seq.0,
        }),
    };
    Ok(link::UpMessage { kind: Some(kind) })
}

fn hello_to_wire(hello: &Hello) -> link::Hello {
    link::Hello {
        protocol_min: hello.protocol.0.into(),
        protocol_max: hello.protocol.1.into(),
        build_major: hello.build.0.into(),
        build_minor: hello.build.1.into(),
        build_patch: hello.build.2.into(),
        schema_hash: hello.schema_hash,
        incarnation: hello.incarnation.0,
        last_recovery: hello.last.map(|(recovery, _)| recovery_to_wire(recovery)),
        last_command_seq: hello.last.map_or(0, |(_, command_seq)| command_seq.0),
        session_nonce: hello.session_nonce.0,
        slots: hello.slots.into(),
        sandbox: level_to_wire(hello.sandbox).into(),
        containment: containment_to_wire(hello.containment).into(),
        limits: level_to_wire(hello.limits).into(),
        reporting: reporting_to_wire(hello.reporting).into(),
    }
}

fn level_to_wire(level: Level) -> link::Level {
    match level {
        Level::None => link::Level::None,
        Level::Partial => link::Level::Partial,
        Level::Strict => link::Level::Strict,
    }
}

fn containment_to_wire(containment: Containment) -> link::Containment {
    match containment {
        Containment::Cgroup => link::Containment::Cgroup,
        Containment::PidNamespace => link::Containment::PidNamespace,
        Containment::Subreaper => link::Containment::Subreaper,
    }
}

fn reporting_to_wire(reporting: Reporting) -> link::Reporting {
    match reporting {
        Reporting::Normal => link::Reporting::Normal,
        Reporting::Strict => link::Reporting::Strict,
    }
}

fn entry_to_wire(entry: &CatalogueEntry) -> link::CatalogueEntry {
    let (on_disconnect, stop_after_s) = match entry.on_disconnect {
        OnDisconnect::Continue => (link::OnDisconnect::Continue, 0),
        OnDisconnect::StopAfter(seconds) => (link::OnDisconnect::StopAfter, seconds),
    };
    link::CatalogueEntry {
        hash: entry.hash.0,
        retry_safe: entry.retry_safe,
        on_disconnect: on_disconnect.into(),
        stop_after_s,
        grace_s: entry.grace_s.into(),
    }
}

fn item_to_wire(item: &InventoryItem) -> link::InventoryItem {
    let (state, report) = state_to_wire(item.state);
    link::InventoryItem {
        attempt: id_to_wire(item.attempt.0),
        run: id_to_wire(item.run.0),
        task: item.task.0.into(),
        fence: item.fence.0,
        state,
        report,
        event_seq: item.event_seq.0,
    }
}

fn event_to_wire(event: &Event) -> link::Event {
    let (state, report) = state_to_wire(event.state);
    link::Event {
        event_seq: event.event_seq.0,
        attempt: id_to_wire(event.attempt.0),
        state,
        report,
    }
}

fn state_to_wire(state: AttemptState) -> (i32, Option<link::Report>) {
    let (state, report) = match state {
        AttemptState::Assigned => (link::State::Assigned, None),
        AttemptState::Starting => (link::State::Starting, None),
        AttemptState::Running => (link::State::Running, None),
        AttemptState::Finished(report) => (link::State::Finished, Some(report_to_wire(report))),
    };
    (state.into(), report)
}

fn report_to_wire(report: Report) -> link::Report {
    link::Report {
        outcome: outcome::to_wire(report.outcome).into(),
        may_have_started: report.may_have_started,
        duration_ms: report.duration_ms,
        exit_code_plus_one: report.exit_code.map_or(0, |code| u32::from(code) + 1),
        count_plus_one: report.count.map_or(0, |count| u32::from(count) + 1),
    }
}

fn heartbeat_to_wire(heartbeat: &Heartbeat) -> link::Heartbeat {
    let (flags, health) = (&heartbeat.flags, &heartbeat.health);
    link::Heartbeat {
        seq: heartbeat.seq.0,
        lease_echo: heartbeat.lease_echo.0,
        slots_free: heartbeat.slots_free.into(),
        running: heartbeat.running.into(),
        queued: heartbeat.queued.into(),
        paused: flags.paused,
        draining: flags.draining,
        observe: flags.observe,
        hold: flags.hold,
        cpu_percent: health.cpu_percent.into(),
        memory_percent: health.memory_percent.into(),
        disk_percent: health.disk_percent.into(),
        load_percent: health.load_percent.into(),
        pressure_percent: health.pressure_percent.into(),
        uptime_s: health.uptime_s,
        certificate_days_left: health.certificate_days_left.into(),
        refusals: health.refusals.into(),
        ledger_percent: health.ledger_percent.into(),
        log_percent: health.log_percent.into(),
    }
}

// ---------------------------------------------------------------- from the wire

impl TryFrom<link::UpMessage> for UpMessage {
    type Error = DecodeError;

    fn try_from(message: link::UpMessage) -> Result<Self, DecodeError> {
        use link::up_message::Kind;
        let message = match message.kind.ok_or(missing("UpMessage.kind"))? {
            Kind::Hello(hello) => Self::Hello(hello.try_into()?),
            Kind::Catalogue(catalogue) => Self::Catalogue(catalogue.try_into()?),
            Kind::Inventory(page) => Self::Inventory(page.try_into()?),
            Kind::Event(event) => Self::Event(event.try_into()?),
            Kind::Heartbeat(heartbeat) => Self::Heartbeat(heartbeat.try_into()?),
            Kind::Trigger(trigger) => Self::Trigger {
                trigger: narrow("Trigger.trigger", trigger.trigger)?,
                event_seq: EventSeq(trigger.event_seq),
            },
            Kind::Ack(ack) => Self::Ack(CommandSeq(ack.command_seq)),
        };
        rules::up(&message)?;
        Ok(message)
    }
}

impl TryFrom<link::Hello> for Hello {
    type Error = DecodeError;

    fn try_from(hello: link::Hello) -> Result<Self, DecodeError> {
        let last_command_seq = CommandSeq(hello.last_command_seq);
        Invalid::unless(
            hello.last_recovery.is_some() || hello.last_command_seq == 0,
            "Hello.last_command_seq",
            "is given without the recovery epoch it belongs to",
        )?;
        Ok(Self {
            protocol: (
                narrow("Hello.protocol_min", hello.protocol_min)?,
                narrow("Hello.protocol_max", hello.protocol_max)?,
            ),
            build: (
                narrow("Hello.build_major", hello.build_major)?,
                narrow("Hello.build_minor", hello.build_minor)?,
                narrow("Hello.build_patch", hello.build_patch)?,
            ),
            schema_hash: hello.schema_hash,
            incarnation: Incarnation(hello.incarnation),
            last: hello
                .last_recovery
                .map(|recovery| (recovery_from_wire(recovery), last_command_seq)),
            session_nonce: Nonce(hello.session_nonce),
            slots: narrow("Hello.slots", hello.slots)?,
            sandbox: level_from_wire("Hello.sandbox", hello.sandbox)?,
            containment: containment_from_wire(hello.containment)?,
            limits: level_from_wire("Hello.limits", hello.limits)?,
            reporting: reporting_from_wire(hello.reporting)?,
        })
    }
}

fn level_from_wire(field: &'static str, level: i32) -> Result<Level, DecodeError> {
    match known(field, level)? {
        link::Level::Unspecified => Err(missing(field)),
        link::Level::None => Ok(Level::None),
        link::Level::Partial => Ok(Level::Partial),
        link::Level::Strict => Ok(Level::Strict),
    }
}

fn containment_from_wire(containment: i32) -> Result<Containment, DecodeError> {
    let field = "Hello.containment";
    match known(field, containment)? {
        link::Containment::Unspecified => Err(missing(field)),
        link::Containment::Cgroup => Ok(Containment::Cgroup),
        link::Containment::PidNamespace => Ok(Containment::PidNamespace),
        link::Containment::Subreaper => Ok(Containment::Subreaper),
    }
}

fn reporting_from_wire(reporting: i32) -> Result<Reporting, DecodeError> {
    let field = "Hello.reporting";
    match known(field, reporting)? {
        link::Reporting::Unspecified => Err(missing(field)),
        link::Reporting::Normal => Ok(Reporting::Normal),
        link::Reporting::Strict => Ok(Reporting::Strict),
    }
}

impl TryFrom<link::Catalogue> for Catalogue {
    type Error = DecodeError;

    fn try_from(catalogue: link::Catalogue) -> Result<Self, DecodeError> {
        let entries = catalogue.entries.into_iter().map(CatalogueEntry::try_from);
        Ok(Self {
            version: CatalogueVersion(catalogue.version),
            entries: entries.collect::<Result<_, _>>()?,
        })
    }
}

impl TryFrom<link::CatalogueEntry> for CatalogueEntry {
    type Error = DecodeError;

    fn try_from(entry: link::CatalogueEntry) -> Result<Self, DecodeError> {
        let field = "CatalogueEntry.on_disconnect";
        let on_disconnect = match known(field, entry.on_disconnect)? {
            link::OnDisconnect::Unspecified => return Err(missing(field)),
            link::OnDisconnect::Continue => {
                Invalid::unless(
                    entry.stop_after_s == 0,
                    "CatalogueEntry.stop_after_s",
                    "is given for an entry that goes on",
                )?;
                OnDisconnect::Continue
            }
            link::OnDisconnect::StopAfter => OnDisconnect::StopAfter(entry.stop_after_s),
        };
        Ok(Self {
            hash: EntryHash(entry.hash),
            retry_safe: entry.retry_safe,
            on_disconnect,
            grace_s: narrow("CatalogueEntry.grace_s", entry.grace_s)?,
        })
    }
}

impl TryFrom<link::Inventory> for InventoryPage {
    type Error = DecodeError;

    fn try_from(page: link::Inventory) -> Result<Self, DecodeError> {
        let items = page.items.into_iter().map(InventoryItem::try_from);
        Ok(Self {
            items: items.collect::<Result<_, _>>()?,
            end: page.end.map(|end| end.count),
        })
    }
}

impl TryFrom<link::InventoryItem> for InventoryItem {
    type Error = DecodeError;

    fn try_from(item: link::InventoryItem) -> Result<Self, DecodeError> {
        Ok(Self {
            attempt: AttemptId(id_from_wire("InventoryItem.attempt", item.attempt)?),
            run: RunId(id_from_wire("InventoryItem.run", item.run)?),
            task: TaskIndex(narrow("InventoryItem.task", item.task)?),
            fence: Fence(item.fence),
            state: state_from_wire(
                ["InventoryItem.state", "InventoryItem.report"],
                item.state,
                item.report,
            )?,
            event_seq: EventSeq(item.event_seq),
        })
    }
}

impl TryFrom<link::Event> for Event {
    type Error = DecodeError;

    fn try_from(event: link::Event) -> Result<Self, DecodeError> {
        Ok(Self {
            event_seq: EventSeq(event.event_seq),
            attempt: AttemptId(id_from_wire("Event.attempt", event.attempt)?),
            state: state_from_wire(["Event.state", "Event.report"], event.state, event.report)?,
        })
    }
}

fn state_from_wire(
    [field, report_field]: [&'static str; 2],
    state: i32,
    report: Option<link::Report>,
) -> Result<AttemptState, DecodeError> {
    let state = match known(field, state)? {
        link::State::Unspecified => return Err(missing(field)),
        link::State::Assigned => AttemptState::Assigned,
        link::State::Starting => AttemptState::Starting,
        link::State::Running => AttemptState::Running,
        link::State::Finished => {
            let report = report.ok_or(missing(report_field))?;
            return Ok(AttemptState::Finished(report.try_into()?));
        }
    };
    Invalid::unless(
        report.is_none(),
        report_field,
        "is given for an attempt that is not over",
    )?;
    Ok(state)
}

impl TryFrom<link::Report> for Report {
    type Error = DecodeError;

    fn try_from(report: link::Report) -> Result<Self, DecodeError> {
        let outcome = known("Report.outcome", report.outcome)?;
        let exit_code = report.exit_code_plus_one.checked_sub(1);
        let count = report.count_plus_one.checked_sub(1);
        Ok(Self {
            outcome: outcome::from_wire(outcome).ok_or(missing("Report.outcome"))?,
            may_have_started: report.may_have_started,
            duration_ms: report.duration_ms,
            exit_code: exit_code
                .map(|code| narrow("Report.exit_code_plus_one", code))
                .transpose()?,
            count: count
                .map(|count| narrow("Report.count_plus_one", count))
                .transpose()?,
        })
    }
}

impl TryFrom<link::Heartbeat> for Heartbeat {
    type Error = DecodeError;

    fn try_from(beat: link::Heartbeat) -> Result<Self, DecodeError> {
        Ok(Self {
            seq: HeartbeatSeq(beat.seq),
            lease_echo: HeartbeatSeq(beat.lease_echo),
            slots_free: narrow("Heartbeat.slots_free", beat.slots_free)?,
            running: narrow("Heartbeat.running", beat.running)?,
            queued: narrow("Heartbeat.queued", beat.queued)?,
            flags: Flags {
                paused: beat.paused,
                draining: beat.draining,
                observe: beat.observe,
                hold: beat.hold,
            },
            health: Health {
                cpu_percent: narrow("Heartbeat.cpu_percent", beat.cpu_percent)?,
                memory_percent: narrow("Heartbeat.memory_percent", beat.memory_percent)?,
                disk_percent: narrow("Heartbeat.disk_percent", beat.disk_percent)?,
                load_percent: narrow("Heartbeat.load_percent", beat.load_percent)?,
                pressure_percent: narrow("Heartbeat.pressure_percent", beat.pressure_percent)?,
                uptime_s: beat.uptime_s,
                certificate_days_left: narrow(
                    "Heartbeat.certificate_days_left",
                    beat.certificate_days_left,
                )?,
                refusals: narrow("Heartbeat.refusals", beat.refusals)?,
                ledger_percent: narrow("Heartbeat.ledger_percent", beat.ledger_percent)?,
                log_percent: narrow("Heartbeat.log_percent", beat.log_percent)?,
            },
        })
    }
}
