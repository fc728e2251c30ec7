//! Rules beyond the number of bits, each refused by the encoder with its field's name; and, where a wire form exists
//! that the domain types cannot express, by the decoder.

use super::*;
use super::{field, number, samples};
use crate::ids::{CommandSeq, EventSeq, Fence, HeartbeatSeq, SessionEpoch};
use crate::limits::{PARAMETER_TEXT_BYTES, SIGNATURE_BYTES};
use crate::message::{Assign, Directive, Granted, Heartbeat, Hello, Linked, ParamValue, Welcome};

fn field_of(error: EncodeError) -> String {
    match error {
        EncodeError::Invalid(invalid) => invalid.field.to_owned(),
        EncodeError::OutOfBounds(bounds) => format!("{}.{}", bounds.message, bounds.field),
        EncodeError::TooLong { message, .. } => message.to_owned(),
    }
}

fn up(message: UpMessage) -> String {
    field_of(encode_up(&[message]).unwrap_err())
}

fn down(message: DownMessage) -> String {
    field_of(encode_down(&[message]).unwrap_err())
}

fn hello(edit: impl FnOnce(&mut Hello)) -> UpMessage {
    let mut hello = samples::hello();
    edit(&mut hello);
    UpMessage::Hello(hello)
}

fn beat(edit: impl FnOnce(&mut Heartbeat)) -> UpMessage {
    let mut beat = samples::heartbeat();
    edit(&mut beat);
    UpMessage::Heartbeat(beat)
}

fn assign(edit: impl FnOnce(&mut Assign)) -> DownMessage {
    let mut assign = samples::assign();
    edit(&mut assign);
    DownMessage::Assign(assign)
}

fn welcome(edit: impl FnOnce(&mut Welcome)) -> DownMessage {
    let mut welcome = samples::welcome();
    edit(&mut welcome);
    DownMessage::Welcome(welcome)
}

#[test]
fn an_agent_does_not_send_what_would_be_refused() {
    assert_eq!(up(hello(|h| h.protocol = (3, 2))), "Hello.protocol_min");
    assert_eq!(up(hello(|h| h.slots = 4096)), "Hello.slots");
    assert_eq!(up(beat(|b| b.seq = HeartbeatSeq(0))), "Heartbeat.seq");
    assert_eq!(
        up(beat(|b| b.health.load_percent = 4096)),
        "Heartbeat.load_percent"
    );
    let share = |edit: fn(&mut crate::message::Health)| up(beat(|b| edit(&mut b.health)));
    assert_eq!(share(|h| h.cpu_percent = 101), "Heartbeat.cpu_percent");
    assert_eq!(
        share(|h| h.memory_percent = 101),
        "Heartbeat.memory_percent"
    );
    assert_eq!(share(|h| h.disk_percent = 101), "Heartbeat.disk_percent");
    assert_eq!(
        share(|h| h.pressure_percent = 101),
        "Heartbeat.pressure_percent"
    );
    assert_eq!(
        share(|h| h.ledger_percent = 101),
        "Heartbeat.ledger_percent"
    );
    assert_eq!(share(|h| h.log_percent = 101), "Heartbeat.log_percent");
    let ack = UpMessage::Ack(CommandSeq(1 << 48));
    assert_eq!(up(ack), "Ack.command_seq");
    let trigger = UpMessage::Trigger {
        trigger: 1,
        event_seq: EventSeq(0),
    };
    assert_eq!(up(trigger), "Trigger.event_seq");
    let mut event = samples::event();
    event.event_seq = EventSeq(0);
    assert_eq!(up(UpMessage::Event(event)), "Event.event_seq");
}

#[test]
fn an_orchestrator_does_not_send_what_would_be_refused() {
    assert_eq!(
        down(welcome(|w| w.session_epoch = SessionEpoch(0))),
        "Welcome.session_epoch"
    );
    let interval = welcome(|w| w.heartbeat_interval_ms = 0);
    assert_eq!(down(interval), "Welcome.heartbeat_interval_ms");
    let beyond = EventSeq(1 << 48);
    let highest = welcome(|w| w.highest_event_seq = beyond);
    assert_eq!(down(highest), "Welcome.highest_event_seq");
    assert_eq!(down(assign(|a| a.fence = Fence(1 << 48))), "Assign.fence");
    assert_eq!(
        down(assign(|a| a.command_seq = CommandSeq(0))),
        "Assign.command_seq"
    );
    assert_eq!(
        down(assign(|a| a.deadline_ms = Some(0))),
        "Assign.deadline_ms"
    );
    let granted = |highest_event_seq, lease| {
        DownMessage::Granted(Granted {
            highest_event_seq,
            lease,
        })
    };
    assert_eq!(down(granted(beyond, None)), "Granted.highest_event_seq");
    let no_heartbeat = granted(EventSeq(0), Some((HeartbeatSeq(0), 1)));
    assert_eq!(down(no_heartbeat), "LeaseGrant.heartbeat_seq");
    let directive = |seq, directive| DownMessage::Directive {
        command_seq: CommandSeq(seq),
        directive,
    };
    assert_eq!(
        down(directive(0, Directive::Drain)),
        "Directive.command_seq"
    );
    assert_eq!(
        down(directive(1 << 48, Directive::Drain)),
        "Directive.command_seq"
    );
    let mut receipt = samples::receipt();
    receipt.signature = vec![1; SIGNATURE_BYTES + 1];
    let receipt = directive(1, Directive::Receipt(receipt));
    assert_eq!(down(receipt), "Receipt.signature");
    let mut receipt = samples::receipt();
    receipt.named_signature = vec![1; SIGNATURE_BYTES + 1];
    let receipt = directive(1, Directive::Receipt(receipt));
    assert_eq!(down(receipt), "Receipt.named_signature");
}

#[test]
fn sessions_before_a_receipt_are_few_and_in_order() {
    let with = |since: u64, before: &[u64], signature: usize| {
        let mut receipt = samples::receipt();
        receipt.linked = Some(Linked {
            since: SessionEpoch(since),
            before: before.iter().copied().map(samples::session_end).collect(),
            signature: vec![1; signature],
        });
        DownMessage::Directive {
            command_seq: CommandSeq(1),
            directive: Directive::Receipt(receipt),
        }
    };
    let good = [with(3, &[10, 11], 80), with(12, &[], 1), with(1, &[1], 1)];
    for message in good {
        assert_eq!(
            decode_down(&encode_down(std::slice::from_ref(&message)).unwrap()),
            Ok(vec![message])
        );
    }
    let nine: Vec<u64> = (3..12).collect();
    for (message, field) in [
        (with(3, &[10, 11], 81), "Receipt.linked_signature"),
        (with(3, &nine, 1), "Receipt.before"),
        (with(3, &[11, 10], 1), "Receipt.before"),
        (with(3, &[10, 10], 1), "Receipt.before"),
        (with(3, &[12], 1), "Receipt.before"),
        (with(11, &[10], 1), "Receipt.before"),
        (with(13, &[], 1), "Receipt.before"),
        (with(0, &[], 1), "Receipt.since_epoch"),
    ] {
        assert_eq!(down(message), field);
    }
}

#[test]
fn a_receipt_that_names_no_agent_is_read_as_before() {
    let mut old = samples::receipt();
    old.named_signature.clear();
    old.linked = None;
    let message = [DownMessage::Directive {
        command_seq: CommandSeq(1),
        directive: Directive::Receipt(old),
    }];
    let bytes = encode_down(&message).unwrap();
    assert_eq!(decode_down(&bytes).unwrap(), message);
}

#[test]
fn parameters_are_ordered_unique_and_bounded() {
    let text = |length| ParamValue::Text("x".repeat(length));
    let with = |parameters: &[(&str, ParamValue)]| {
        let parameters = parameters.iter();
        assign(|a| {
            a.parameters = parameters
                .map(|(name, value)| (name.parse().unwrap(), value.clone()))
                .collect();
        })
    };
    let flag = ParamValue::Flag(true);
    let unordered = with(&[("b", flag.clone()), ("a", flag.clone())]);
    assert_eq!(down(unordered), "Assign.parameters");
    let twice = with(&[("a", flag.clone()), ("a", flag)]);
    assert_eq!(down(twice), "Assign.parameters");
    encode_down(&[with(&[("a", text(PARAMETER_TEXT_BYTES))])]).unwrap();
    assert_eq!(
        down(with(&[("a", text(PARAMETER_TEXT_BYTES + 1))])),
        "Parameter.text"
    );
    assert_eq!(
        down(with(&[("a", ParamValue::Text("x\0".into()))])),
        "Parameter.text"
    );

    let many = |count: usize, length| {
        let names: Vec<_> = (10..10 + count).map(|n| format!("n{n}")).collect();
        let parameters: Vec<_> = names.iter().map(|n| (n.as_str(), text(length))).collect();
        with(&parameters)
    };
    // 16 names of 3 bytes and 16 texts of 4093: exactly 64 KiB.
    encode_down(&[many(16, 4093)]).unwrap();
    assert_eq!(down(many(16, 4094)), "Assign.parameters");
    encode_down(&[many(64, 1)]).unwrap();
    assert_eq!(down(many(65, 1)), "Assign.parameters");
}

#[test]
fn a_report_comes_with_the_end_and_only_then() {
    let id = [0x09, 1, 0, 0, 0, 0, 0, 0, 0];
    let event = |state, rest: &[u8]| {
        let parts = [&number(1, 9)[..], &field(2, &id), &number(3, state), rest].concat();
        decode_up(&field(1, &field(4, &parts)))
    };
    let report = field(4, &number(1, 1));
    event(4, &report).unwrap();
    let missing = DecodeError::Missing {
        field: "Event.report",
    };
    assert_eq!(event(4, &[]), Err(missing));
    let early = event(3, &report).unwrap_err();
    assert!(
        early.to_string().starts_with("Event.report is given"),
        "{early}"
    );
    let no_outcome = event(4, &field(4, &number(2, 1))).unwrap_err();
    assert_eq!(
        no_outcome,
        DecodeError::Missing {
            field: "Report.outcome"
        }
    );
}

#[test]
fn what_only_the_wire_can_say_is_refused() {
    // An entry that goes on, with seconds after which it stops.
    let entry = [number(3, 1), number(4, 60)].concat();
    let error = decode_up(&field(1, &field(2, &field(2, &entry)))).unwrap_err();
    assert!(
        error.to_string().starts_with("CatalogueEntry.stop_after_s"),
        "{error}"
    );
    // A command number of no recovery epoch.
    let error = decode_up(&field(1, &field(1, &number(9, 60)))).unwrap_err();
    assert!(
        error.to_string().starts_with("Hello.last_command_seq"),
        "{error}"
    );
    // A receipt whose chain head is no SHA-256.
    let receipt = [number(1, 1), field(3, &[7; 31]), field(4, &[1])].concat();
    let directive = [number(1, 5), field(8, &receipt)].concat();
    let error = decode_down(&field(1, &field(3, &directive))).unwrap_err();
    assert!(error.to_string().starts_with("Receipt.head"), "{error}");
    // A path where a name belongs.
    let honest = encode_down(&[assign(|_| {})]).unwrap();
    let at = honest.windows(6).position(|w| w == b"backup").unwrap();
    let mut bytes = honest;
    bytes[at..at + 6].copy_from_slice(b"../etc");
    let error = decode_down(&bytes).unwrap_err();
    assert_eq!(error.to_string(), "Assign.entry is not a valid name");
}
