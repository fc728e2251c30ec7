//! What values must hold beyond their number of bits: checked on the domain values, before sending and after receiving.

use super::error::Invalid;
use crate::limits::{PARAMETER_BYTES, PARAMETER_TEXT_BYTES, RECEIPT_SESSIONS, SIGNATURE_BYTES};
use crate::message::{
    Assign, Directive, DownMessage, Granted, Heartbeat, Hello, ParamValue, Receipt, UpMessage,
    Welcome,
};
use crate::name::ParamName;

const COUNTED_FROM_ONE: &str = "is counted from 1";

/// The rules of an agent's message.
pub(super) fn up(message: &UpMessage) -> Result<(), Invalid> {
    match message {
        UpMessage::Hello(hello) => protocol_range(hello),
        UpMessage::Event(event) => from_one("Event.event_seq", event.event_seq.0),
        UpMessage::Heartbeat(heartbeat) => percentages(heartbeat),
        UpMessage::Trigger {
            event_seq,
            trigger: _,
        } => from_one("Trigger.event_seq", event_seq.0),
        // Their bounds are all declared.
        UpMessage::Catalogue(_) | UpMessage::Inventory(_) | UpMessage::Ack(_) => Ok(()),
    }
}

fn protocol_range(hello: &Hello) -> Result<(), Invalid> {
    let (min, max) = hello.protocol;
    Invalid::unless(
        min <= max,
        "Hello.protocol_min",
        "is above the highest version spoken",
    )
}

fn percentages(heartbeat: &Heartbeat) -> Result<(), Invalid> {
    from_one("Heartbeat.seq", heartbeat.seq.0.into())?;
    let health = &heartbeat.health;
    let shares = [
        ("Heartbeat.cpu_percent", health.cpu_percent),
        ("Heartbeat.memory_percent", health.memory_percent),
        ("Heartbeat.disk_percent", health.disk_percent),
        ("Heartbeat.pressure_percent", health.pressure_percent),
        ("Heartbeat.ledger_percent", health.ledger_percent),
        ("Heartbeat.log_percent", health.log_percent),
    ];
    for (field, share) in shares {
        Invalid::unless(share <= 100, field, "is more than 100")?;
    }
    Ok(())
}

/// The rules of a message to an agent.
pub(super) fn down(message: &DownMessage) -> Result<(), Invalid> {
    match message {
        DownMessage::Welcome(welcome) => session(welcome),
        DownMessage::Assign(assign) => assignment(assign),
        DownMessage::Directive {
            command_seq,
            directive,
        } => {
            from_one("Directive.command_seq", command_seq.0)?;
            echoed("Directive.command_seq", command_seq.0)?;
            match directive {
                Directive::Receipt(receipt) => evidence(receipt),
                Directive::Keep(_)
                | Directive::Cancel(_)
                | Directive::Forget(_)
                | Directive::Drain
                | Directive::Cordon
                | Directive::Uncordon
                | Directive::RenewNow
                | Directive::Reconciled => Ok(()),
            }
        }
        DownMessage::Granted(granted) => grant(granted),
    }
}

fn session(welcome: &Welcome) -> Result<(), Invalid> {
    from_one("Welcome.session_epoch", welcome.session_epoch.0)?;
    echoed("Welcome.highest_event_seq", welcome.highest_event_seq.0)?;
    Invalid::unless(
        welcome.heartbeat_interval_ms > 0,
        "Welcome.heartbeat_interval_ms",
        "is zero",
    )
}

fn assignment(assign: &Assign) -> Result<(), Invalid> {
    from_one("Assign.command_seq", assign.command_seq.0)?;
    echoed("Assign.command_seq", assign.command_seq.0)?;
    echoed("Assign.fence", assign.fence.0)?;
    Invalid::unless(
        assign.deadline_ms != Some(0),
        "Assign.deadline_ms",
        "is zero: leave it out to use the entry's",
    )?;
    parameters(&assign.parameters)
}

fn parameters(parameters: &[(ParamName, ParamValue)]) -> Result<(), Invalid> {
    let mut bytes = 0;
    let mut before: Option<&ParamName> = None;
    for (name, value) in parameters {
        Invalid::unless(
            before < Some(name),
            "Assign.parameters",
            "are not in order of name, each once",
        )?;
        before = Some(name);
        bytes += name.as_str().len() + parameter_bytes(value)?;
    }
    Invalid::unless(
        bytes <= PARAMETER_BYTES,
        "Assign.parameters",
        "are more than 64 KiB together",
    )
}

fn parameter_bytes(value: &ParamValue) -> Result<usize, Invalid> {
    match value {
        ParamValue::Flag(_) => Ok(1),
        ParamValue::Integer(_) => Ok(8),
        ParamValue::Text(text) => {
            let field = "Parameter.text";
            Invalid::unless(
                text.len() <= PARAMETER_TEXT_BYTES,
                field,
                "is longer than 4096 bytes",
            )?;
            Invalid::unless(!text.contains('\0'), field, "contains a NUL")?;
            Ok(text.len())
        }
    }
}

fn evidence(receipt: &Receipt) -> Result<(), Invalid> {
    from_one("Receipt.session_epoch", receipt.session_epoch.0)?;
    Invalid::unless(
        (1..=SIGNATURE_BYTES).contains(&receipt.signature.len()),
        "Receipt.signature",
        "is empty or longer than 80 bytes",
    )?;
    Invalid::unless(
        receipt.named_signature.len() <= SIGNATURE_BYTES,
        "Receipt.named_signature",
        "is longer than 80 bytes",
    )?;
    let Some(linked) = &receipt.linked else {
        return Ok(());
    };
    Invalid::unless(
        (1..=SIGNATURE_BYTES).contains(&linked.signature.len()),
        "Receipt.linked_signature",
        "is empty or longer than 80 bytes",
    )?;
    Invalid::unless(
        linked.before.len() <= RECEIPT_SESSIONS,
        "Receipt.before",
        "are more than 8 sessions",
    )?;
    from_one("Receipt.since_epoch", linked.since.0)?;
    let before = linked.before.iter().map(|end| end.session_epoch);
    let epochs: Vec<_> = before.chain([receipt.session_epoch]).collect();
    Invalid::unless(
        linked.since <= epochs[0] && epochs.is_sorted_by(|a, b| a < b),
        "Receipt.before",
        "are not sessions before it, in their order",
    )
}

fn grant(granted: &Granted) -> Result<(), Invalid> {
    echoed("Granted.highest_event_seq", granted.highest_event_seq.0)?;
    match granted.lease {
        Some((heartbeat_seq, _)) => from_one("LeaseGrant.heartbeat_seq", heartbeat_seq.0.into()),
        None => Ok(()),
    }
}

fn from_one(field: &'static str, value: u64) -> Result<(), Invalid> {
    Invalid::unless(value > 0, field, COUNTED_FROM_ONE)
}

/// What an agent is to say back must fit into the 48 bits that it has for saying it.
fn echoed(field: &'static str, value: u64) -> Result<(), Invalid> {
    Invalid::unless(
        value >> 48 == 0,
        field,
        "does not fit into the 48 bits in which an agent says it back",
    )
}
