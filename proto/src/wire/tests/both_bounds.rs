//! Both bounds of every field that an agent can send, from the descriptor: the largest value passes or breaks a stated
//! rule, one more is refused by the encoder's check and by the decoder.
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "the kinds of fields and values are not our enums"
)]

use std::fmt::Write;

use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, Value};

use super::descriptor::{option, upstream};
use super::*;
use super::{link_message, pool, samples};

/// Changes the first part of the frame that is a `message`; whether there was one.
fn change(
    part: &mut DynamicMessage,
    message: &str,
    edit: &mut dyn FnMut(&mut DynamicMessage),
) -> bool {
    use prost_reflect::ReflectMessage;
    if part.descriptor().name() == message {
        edit(part);
        return true;
    }
    part.fields_mut().any(|(_, value)| match value {
        Value::Message(inner) => change(inner, message, edit),
        Value::List(items) => items
            .iter_mut()
            .filter_map(Value::as_message_mut)
            .any(|item| change(item, message, edit)),
        _ => false,
    })
}

/// The first sample frame that holds such a message, changed.
fn frame_with(message: &str, mut edit: impl FnMut(&mut DynamicMessage)) -> Vec<u8> {
    let pool = pool();
    for (_, sample) in samples::up() {
        let bytes = encode_up(&[sample]).unwrap();
        let frame = link_message(&pool, "FromAgent");
        let mut frame = DynamicMessage::decode(frame, bytes.as_slice()).unwrap();
        if change(&mut frame, message, &mut edit) {
            return frame.encode_to_vec();
        }
    }
    panic!("no sample holds a {message}");
}

fn value(field: &FieldDescriptor, number: u64) -> Value {
    match field.kind() {
        Kind::Bool => Value::Bool(number != 0),
        Kind::Enum(_) => Value::EnumNumber(i32::try_from(number).unwrap()),
        Kind::Uint32 | Kind::Fixed32 => Value::U32(u32::try_from(number).unwrap()),
        Kind::Uint64 | Kind::Fixed64 => Value::U64(number),
        other => panic!("{} has type {other:?}", field.full_name()),
    }
}

fn encoder_check(bytes: &[u8]) -> Result<(), OutOfBounds> {
    link::FromAgent::decode(bytes).unwrap().check()
}

#[test]
fn numbers_within_their_bits_pass_unless_a_stated_rule_refuses() {
    let pool = pool();
    let mut refused = String::new();
    for (name, message) in upstream(&pool) {
        for field in message.fields() {
            let Some(bits) = option(&pool, &field, "outpost.max_bits") else {
                continue;
            };
            for (bound, number) in [("0", 0), ("its most", u64::MAX >> (64 - bits))] {
                let bytes = frame_with(&name, |part| part.set_field(&field, value(&field, number)));
                encoder_check(&bytes).unwrap();
                match decode_up(&bytes) {
                    Ok(messages) => assert_eq!(encode_up(&messages).unwrap(), bytes, "{name}"),
                    Err(error) => {
                        let field = field.name();
                        writeln!(refused, "{name}.{field} at {bound} ({number}): {error}").unwrap();
                    }
                }
            }
        }
    }
    insta::assert_snapshot!(refused);
}

#[test]
fn numbers_beyond_their_bits_are_refused_on_both_sides() {
    let pool = pool();
    let mut tried = 0;
    for (name, message) in upstream(&pool) {
        for field in message.fields() {
            let Some(bits) = option(&pool, &field, "outpost.max_bits") else {
                continue;
            };
            let width = match field.kind() {
                // As wide as their type: there is nothing beyond.
                Kind::Bool => 1,
                Kind::Uint64 | Kind::Fixed64 => 64,
                _ => 32,
            };
            for bit in bits..width {
                // An enum's 32nd bit is its sign.
                let beyond = match field.kind() {
                    Kind::Enum(_) if bit == 31 => Value::EnumNumber(-1),
                    _ => value(&field, 1 << bit),
                };
                let bytes = frame_with(&name, |part| part.set_field(&field, beyond.clone()));
                let error = encoder_check(&bytes).unwrap_err();
                assert_eq!((error.message, error.field), (&*name, field.name()));
                assert!(matches!(error.excess, Excess::Bits { max_bits, .. } if max_bits == bits));
                assert_eq!(decode_up(&bytes), Err(DecodeError::OutOfBounds(error)));
                tried += 1;
            }
        }
    }
    assert!(tried > 100, "only {tried} values were tried");
}

#[test]
fn lists_at_their_length_pass_and_beyond_are_refused_on_both_sides() {
    let pool = pool();
    let mut tried = Vec::new();
    for (name, message) in upstream(&pool) {
        for field in message.fields().filter(FieldDescriptor::is_list) {
            let most = option(&pool, &field, "outpost.max_items").unwrap() as usize;
            let with = |items: usize| {
                frame_with(&name, |part| {
                    let list = part.get_field_mut(&field).as_list_mut().unwrap();
                    let first = list[0].clone();
                    list.clear();
                    list.resize(items, first);
                })
            };
            decode_up(&with(most)).unwrap();
            let beyond = with(most + 1);
            let error = encoder_check(&beyond).unwrap_err();
            assert_eq!((error.message, error.field), (&*name, field.name()));
            assert_eq!(
                error.excess,
                Excess::Items {
                    items: most + 1,
                    max_items: most
                }
            );
            assert_eq!(decode_up(&beyond), Err(DecodeError::OutOfBounds(error)));
            tried.push(format!("{name}.{}", field.name()));
        }
    }
    assert_eq!(
        tried,
        ["Catalogue.entries", "FromAgent.messages", "Inventory.items"]
    );
}
