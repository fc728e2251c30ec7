//! What an agent is told: between validated values and generated messages.

use std::str::FromStr;

use super::convert::{
    id_from_wire, id_to_wire, missing, narrow, recovery_from_wire, recovery_to_wire,
};
use super::error::{DecodeError, EncodeError, Invalid};
use super::{link, rules};
use crate::ids::{
    AttemptId, CatalogueVersion, CommandSeq, EventSeq, Fence, HeartbeatSeq, Nonce, RunId,
    SessionEpoch, TaskIndex,
};
use crate::message::{
    Assign, Directive, DownMessage, Granted, Linked, ParamValue, Receipt, SessionEnd, Welcome,
};
use crate::name::ParamName;

// ---------------------------------------------------------------- to the wire

/// Checks the rules; the bounds are checked on the frame as a whole.
pub(super) fn to_wire(message: &DownMessage) -> Result<link::DownMessage, EncodeError> {
    use link::down_message::Kind;
    rules::down(message)?;
    let kind = match message {
        DownMessage::Welcome(welcome) => Kind::Welcome(welcome_to_wire(welcome)),
        DownMessage::Assign(assign) => Kind::Assign(assign_to_wire(assign)),
        DownMessage::Directive {
            command_seq,
            directive,
        } => Kind::Directive(link::Directive {
            command_seq: command_seq.0,
            kind: directive_to_wire(directive),
        }),
        DownMessage::Granted(granted) => Kind::Granted(link::Granted {
            highest_event_seq: granted.highest_event_seq.0,
            lease: granted
                .lease
                .map(|(heartbeat_seq, lease_ms)| link::LeaseGrant {
                    heartbeat_seq: heartbeat_seq.0,
                    lease_ms,
                }),
        }),
    };
    Ok(link::DownMessage { kind: Some(kind) })
}

fn welcome_to_wire(welcome: &Welcome) -> link::Welcome {
    link::Welcome {
        protocol: welcome.protocol.into(),
        session_epoch: welcome.session_epoch.0,
        recovery: Some(recovery_to_wire(welcome.recovery)),
        next_nonce: welcome.next_nonce.0,
        highest_event_seq: welcome.highest_event_seq.0,
        heartbeat_interval_ms: welcome.heartbeat_interval_ms,
        lease_ms: welcome.lease_ms,
        server_time_us: welcome.server_time_us,
    }
}

fn assign_to_wire(assign: &Assign) -> link::Assign {
    link::Assign {
        attempt: id_to_wire(assign.attempt.0),
        run: id_to_wire(assign.run.0),
        task: assign.task.0.into(),
        fence: assign.fence.0,
        command_seq: assign.command_seq.0,
        entry: assign.entry.to_string(),
        catalogue_version: assign.catalogue_version.0,
        parameters: assign.parameters.iter().map(parameter_to_wire).collect(),
        deadline_ms: assign.deadline_ms.unwrap_or(0),
        task_name: assign.task_name.to_string(),
        workflow_name: assign.workflow_name.to_string(),
    }
}

fn parameter_to_wire((name, value): &(ParamName, ParamValue)) -> link::Parameter {
    use link::parameter::Value;
    let value = match value {
        ParamValue::Flag(flag) => Value::Flag(*flag),
        ParamValue::Integer(integer) => Value::Integer(*integer),
        ParamValue::Text(text) => Value::Text(text.clone()),
    };
    link::Parameter {
        name: name.to_string(),
        value: Some(value),
    }
}

fn directive_to_wire(directive: &Directive) -> Option<link::directive::Kind> {
    use link::directive::Kind;
    let nothing = link::Nothing {};
    match directive {
        Directive::Keep(attempt) => id_to_wire(attempt.0).map(Kind::Keep),
        Directive::Cancel(attempt) => id_to_wire(attempt.0).map(Kind::Cancel),
        Directive::Forget(attempt) => id_to_wire(attempt.0).map(Kind::Forget),
        Directive::Drain => Some(Kind::Drain(nothing)),
        Directive::Cordon => Some(Kind::Cordon(nothing)),
        Directive::Uncordon => Some(Kind::Uncordon(nothing)),
        Directive::Receipt(receipt) => Some(Kind::Receipt(receipt_to_wire(receipt))),
        Directive::RenewNow => Some(Kind::RenewNow(nothing)),
        Directive::Reconciled => Some(Kind::Reconciled(nothing)),
    }
}

fn receipt_to_wire(receipt: &Receipt) -> link::Receipt {
    let linked = receipt.linked.as_ref();
    let ends = linked.map_or_else(Vec::new, |linked| linked.before.clone());
    let ends = ends.into_iter().map(|end| link::SessionEnd {
        session_epoch: end.session_epoch.0,
        frame_count: end.frame_count,
        head: end.head.to_vec(),
    });
    link::Receipt {
        session_epoch: receipt.session_epoch.0,
        frame_count: receipt.frame_count,
        head: receipt.head.to_vec(),
        signature: receipt.signature.clone(),
        named_signature: receipt.named_signature.clone(),
        before: ends.collect(),
        since_epoch: linked.map_or(0, |linked| linked.since.0),
        linked_signature: linked.map_or_else(Vec::new, |linked| linked.signature.clone()),
    }
}

// ---------------------------------------------------------------- from the wire

impl TryFrom<link::DownMessage> for DownMessage {
    type Error = DecodeError;

    fn try_from(message: link::DownMessage) -> Result<Self, DecodeError> {
        use link::down_message::Kind;
        let message = match message.kind.ok_or(missing("DownMessage.kind"))? {
            Kind::Welcome(welcome) => Self::Welcome(welcome.try_into()?),
            Kind::Assign(assign) => Self::Assign(assign.try_into()?),
            Kind::Directive(directive) => Self::Directive {
                command_seq: CommandSeq(directive.command_seq),
                directive: directive
                    .kind
                    .ok_or(missing("Directive.kind"))?
                    .try_into()?,
            },
            Kind::Granted(granted) => Self::Granted(Granted {
                highest_event_seq: EventSeq(granted.highest_event_seq),
                lease: granted
                    .lease
                    .map(|lease| (HeartbeatSeq(lease.heartbeat_seq), lease.lease_ms)),
            }),
        };
        rules::down(&message)?;
        Ok(message)
    }
}

impl TryFrom<link::Welcome> for Welcome {
    type Error = DecodeError;

    fn try_from(welcome: link::Welcome) -> Result<Self, DecodeError> {
        let recovery = welcome.recovery.ok_or(missing("Welcome.recovery"))?;
        Ok(Self {
            protocol: narrow("Welcome.protocol", welcome.protocol)?,
            session_epoch: SessionEpoch(welcome.session_epoch),
            recovery: recovery_from_wire(recovery),
            next_nonce: Nonce(welcome.next_nonce),
            highest_event_seq: EventSeq(welcome.highest_event_seq),
            heartbeat_interval_ms: welcome.heartbeat_interval_ms,
            lease_ms: welcome.lease_ms,
            server_time_us: welcome.server_time_us,
        })
    }
}

impl TryFrom<link::Assign> for Assign {
    type Error = DecodeError;

    fn try_from(assign: link::Assign) -> Result<Self, DecodeError> {
        let parameters = assign.parameters.into_iter().map(parameter_from_wire);
        Ok(Self {
            attempt: AttemptId(id_from_wire("Assign.attempt", assign.attempt)?),
            run: RunId(id_from_wire("Assign.run", assign.run)?),
            task: TaskIndex(narrow("Assign.task", assign.task)?),
            fence: Fence(assign.fence),
            command_seq: CommandSeq(assign.command_seq),
            entry: name_from_wire("Assign.entry", &assign.entry)?,
            catalogue_version: CatalogueVersion(assign.catalogue_version),
            parameters: parameters.collect::<Result<_, _>>()?,
            deadline_ms: Some(assign.deadline_ms).filter(|ms| *ms > 0),
            task_name: name_from_wire("Assign.task_name", &assign.task_name)?,
            workflow_name: name_from_wire("Assign.workflow_name", &assign.workflow_name)?,
        })
    }
}

fn parameter_from_wire(parameter: link::Parameter) -> Result<(ParamName, ParamValue), DecodeError> {
    use link::parameter::Value;
    let value = match parameter.value.ok_or(missing("Parameter.value"))? {
        Value::Flag(flag) => ParamValue::Flag(flag),
        Value::Integer(integer) => ParamValue::Integer(integer),
        Value::Text(text) => ParamValue::Text(text),
    };
    Ok((name_from_wire("Parameter.name", &parameter.name)?, value))
}

fn name_from_wire<N: FromStr>(field: &'static str, text: &str) -> Result<N, DecodeError> {
    text.parse().map_err(|_| {
        DecodeError::Invalid(Invalid {
            field,
            reason: "is not a valid name",
        })
    })
}

impl TryFrom<link::directive::Kind> for Directive {
    type Error = DecodeError;

    fn try_from(kind: link::directive::Kind) -> Result<Self, DecodeError> {
        use link::directive::Kind;
        let attempt = |id| id_from_wire("Directive.kind", Some(id)).map(AttemptId);
        Ok(match kind {
            Kind::Keep(id) => Self::Keep(attempt(id)?),
            Kind::Cancel(id) => Self::Cancel(attempt(id)?),
            Kind::Forget(id) => Self::Forget(attempt(id)?),
            Kind::Drain(_) => Self::Drain,
            Kind::Cordon(_) => Self::Cordon,
            Kind::Uncordon(_) => Self::Uncordon,
            Kind::Receipt(receipt) => Self::Receipt(receipt.try_into()?),
            Kind::RenewNow(_) => Self::RenewNow,
            Kind::Reconciled(_) => Self::Reconciled,
        })
    }
}

impl TryFrom<link::Receipt> for Receipt {
    type Error = DecodeError;

    fn try_from(receipt: link::Receipt) -> Result<Self, DecodeError> {
        let head = chain_head("Receipt.head", receipt.head)?;
        let linked = if receipt.linked_signature.is_empty() {
            None
        } else {
            let before = receipt.before.into_iter().map(SessionEnd::try_from);
            Some(Linked {
                since: SessionEpoch(receipt.since_epoch),
                before: before.collect::<Result<_, _>>()?,
                signature: receipt.linked_signature,
            })
        };
        Ok(Self {
            session_epoch: SessionEpoch(receipt.session_epoch),
            frame_count: receipt.frame_count,
            head,
            signature: receipt.signature,
            named_signature: receipt.named_signature,
            linked,
        })
    }
}

impl TryFrom<link::SessionEnd> for SessionEnd {
    type Error = DecodeError;

    fn try_from(end: link::SessionEnd) -> Result<Self, DecodeError> {
        Ok(Self {
            session_epoch: SessionEpoch(end.session_epoch),
            frame_count: end.frame_count,
            head: chain_head("SessionEnd.head", end.head)?,
        })
    }
}

fn chain_head(field: &'static str, head: Vec<u8>) -> Result<[u8; 32], Invalid> {
    head.try_into().map_err(|_| Invalid {
        field,
        reason: "is not 32 bytes long",
    })
}
