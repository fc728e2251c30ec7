//! Bytes from somebody who means harm: always an error, never a panic, and never a second meaning.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use super::{field, number, samples, strategies};
use crate::limits::{DOWN_FRAME_BYTES, UP_FRAME_BYTES};

const HELLO: u8 = 1;
const EVENT: u8 = 4;
const ACK: u8 = 7;

fn refused(bytes: &[u8]) -> DecodeError {
    decode_up(bytes).unwrap_err()
}

fn not_canonical() -> DecodeError {
    DecodeError::NotCanonical {
        message: "FromAgent",
    }
}

fn ack(content: &[u8]) -> Vec<u8> {
    field(1, &field(ACK, content))
}

#[test]
fn the_honest_form_of_these_tests_is_taken() {
    let messages = decode_up(&ack(&number(1, 5))).unwrap();
    assert_eq!(messages, [UpMessage::Ack(crate::ids::CommandSeq(5))]);
}

#[test]
fn unknown_fields_are_refused_at_every_depth() {
    for smuggled in [number(99, 1), field(99, b"a secret"), number(2, 7)] {
        let honest = ack(&number(1, 5));
        assert_eq!(
            refused(&[honest, smuggled.clone()].concat()),
            not_canonical()
        );
        let inside = field(1, &[field(ACK, &number(1, 5)), field(99, b"x")].concat());
        assert_eq!(refused(&inside), not_canonical());
        let innermost = ack(&[number(1, 5), smuggled].concat());
        assert_eq!(refused(&innermost), not_canonical());
    }
}

#[test]
fn a_second_spelling_of_the_same_content_is_refused() {
    let long_varint = ack(&[0x08, 0x85, 0x00]);
    let explicit_zero = ack(&number(1, 0));
    let twice = ack(&[number(1, 4), number(1, 5)].concat());
    let trigger = |parts: [Vec<u8>; 2]| field(1, &field(6, &parts.concat()));
    let honest = trigger([number(1, 3), number(2, 4)]);
    decode_up(&honest).unwrap();
    let out_of_order = trigger([number(2, 4), number(1, 3)]);
    for bytes in [long_varint, explicit_zero, twice, out_of_order] {
        assert_eq!(refused(&bytes), not_canonical(), "{bytes:02x?}");
    }
}

#[test]
fn two_kinds_in_one_message_are_refused() {
    let ack = field(ACK, &number(1, 5));
    let hello = encode_up(&[UpMessage::Hello(samples::hello())]).unwrap();
    let hello = &hello[2..];
    assert_eq!(hello[0], HELLO << 3 | 2);
    for parts in [[hello, &*ack], [&*ack, hello], [&*ack, &*ack]] {
        assert_eq!(refused(&field(1, &parts.concat())), not_canonical());
    }
}

#[test]
fn a_message_of_no_kind_is_refused() {
    let missing = |field| DecodeError::Missing { field };
    assert_eq!(refused(&field(1, &[])), missing("UpMessage.kind"));
    let down = |bytes: &[u8]| decode_down(bytes).unwrap_err();
    assert_eq!(down(&field(1, &[])), missing("DownMessage.kind"));
    let newer = field(1, &field(15, &[]));
    assert_eq!(down(&newer), missing("DownMessage.kind"), "never guessed");
    let directive = field(1, &field(3, &number(1, 5)));
    assert_eq!(down(&directive), missing("Directive.kind"));
}

#[test]
fn a_newer_field_in_a_known_message_to_an_agent_is_passed_over() {
    let message = samples::down().remove(0).1;
    let honest = encode_down(std::slice::from_ref(&message)).unwrap();
    let welcome = &honest[4..];
    let newer = field(1, &field(1, &[welcome, &number(99, 1)[..]].concat()));
    assert_eq!(decode_down(&newer).unwrap(), [message]);
}

#[test]
fn a_cut_frame_is_refused_wherever_it_is_cut() {
    for (name, message) in samples::up() {
        let bytes = encode_up(&[message]).unwrap();
        for end in 1..bytes.len() {
            let error = refused(&bytes[..end]);
            assert!(
                matches!(error, DecodeError::Malformed { .. }),
                "{name} at {end}: {error}"
            );
        }
    }
    for (name, message) in samples::down() {
        let bytes = encode_down(&[message]).unwrap();
        for end in 1..bytes.len() {
            let error = decode_down(&bytes[..end]).unwrap_err();
            assert!(
                matches!(error, DecodeError::Malformed { .. }),
                "{name} at {end}: {error}"
            );
        }
    }
}

#[test]
fn claimed_lengths_are_not_believed() {
    let claims: [&[u8]; 4] = [
        &[0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f],
        &[
            0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01,
        ],
        &[
            0x0a, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x01,
        ],
        &[0x0a, 0x06, 0x12, 0xff, 0xff, 0xff, 0xff, 0x0f],
    ];
    for bytes in claims {
        assert!(
            matches!(refused(bytes), DecodeError::Malformed { .. }),
            "{bytes:02x?}"
        );
        let down = decode_down(bytes).unwrap_err();
        assert!(
            matches!(down, DecodeError::Malformed { .. }),
            "{bytes:02x?}"
        );
    }
}

#[test]
fn deep_nesting_is_refused_without_recursion() {
    let groups = [0x7b; 60_000];
    assert!(matches!(refused(&groups), DecodeError::Malformed { .. }));
    assert!(decode_down(&groups).is_err());
    let mut nested = vec![0x08, 0x01];
    while nested.len() < 40_000 {
        nested = field(15, &nested);
    }
    assert_eq!(refused(&nested), not_canonical(), "unknown and not opened");
}

#[test]
fn a_frame_of_empty_parts_is_refused_and_stays_small() {
    let empties = |limit: usize| [0x0a, 0x00].repeat(limit / 2);
    let error = refused(&empties(UP_FRAME_BYTES));
    assert!(matches!(error, DecodeError::OutOfBounds(_)), "{error}");
    let error = decode_down(&empties(DOWN_FRAME_BYTES)).unwrap_err();
    assert!(matches!(error, DecodeError::OutOfBounds(_)), "{error}");
    let entries = [0x12, 0x00].repeat(UP_FRAME_BYTES / 2 - 8);
    let error = refused(&field(1, &field(2, &entries)));
    assert!(matches!(error, DecodeError::OutOfBounds(_)), "{error}");
    // Two bytes of a frame become one such value until the count is checked: this is what a frame can cost at most.
    let up = size_of::<link::UpMessage>().max(size_of::<link::InventoryItem>());
    assert!(UP_FRAME_BYTES / 2 * up <= 8 << 20, "{up}");
    assert!(DOWN_FRAME_BYTES / 2 * size_of::<link::DownMessage>() <= 40 << 20);
}

#[test]
fn numbers_packed_where_one_is_declared_are_refused() {
    let packed = ack(&field(1, &[1; 1000]));
    assert!(matches!(refused(&packed), DecodeError::Malformed { .. }));
}

#[test]
fn a_frame_longer_than_its_limit_is_not_even_read() {
    let too_long = |message, limit: usize| DecodeError::TooLong {
        message,
        bytes: limit + 1,
        limit,
    };
    let up = vec![0; UP_FRAME_BYTES + 1];
    assert_eq!(refused(&up), too_long("FromAgent", UP_FRAME_BYTES));
    let down = vec![0; DOWN_FRAME_BYTES + 1];
    let error = decode_down(&down).unwrap_err();
    assert_eq!(error, too_long("ToAgent", DOWN_FRAME_BYTES));
}

#[test]
fn an_unknown_state_is_named_and_refused() {
    let event = |state: u64| {
        let id = [0x09, 1, 0, 0, 0, 0, 0, 0, 0];
        let parts = [number(1, 9), field(2, &id), number(3, state)].concat();
        field(1, &field(EVENT, &parts))
    };
    decode_up(&event(1)).unwrap();
    let unsupported = DecodeError::Unsupported {
        field: "Event.state",
        value: 6,
    };
    assert_eq!(refused(&event(6)), unsupported);
}

#[test]
fn every_flipped_bit_is_refused_or_means_exactly_its_bytes() {
    let all: Vec<_> = samples::up().into_iter().map(|(_, m)| m).collect();
    let honest = encode_up(&all).unwrap();
    for bit in 0..honest.len() * 8 {
        let mut bytes = honest.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        if let Ok(messages) = decode_up(&bytes) {
            assert_eq!(encode_up(&messages).unwrap(), bytes, "bit {bit}");
        }
    }
}

proptest! {
    #[test]
    fn noise_never_panics(bytes in vec(any::<u8>(), 0..400)) {
        if let Ok(messages) = decode_up(&bytes) {
            prop_assert_eq!(encode_up(&messages).unwrap(), bytes.clone());
        }
        let _ = decode_down(&bytes);
        let _ = EnrolRequest::decode(&bytes);
        let _ = RenewRequest::decode(&bytes);
        let _ = RecoverRequest::decode(&bytes);
        let _ = RecoverReply::decode(&bytes);
        let _ = Issued::decode(&bytes);
    }

    #[test]
    fn damaged_frames_are_refused_or_mean_exactly_their_bytes(
        messages in vec(strategies::up(), 1..4),
        damage in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut bytes = encode_up(&messages).unwrap();
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Ok(messages) = decode_up(&bytes) {
            prop_assert_eq!(encode_up(&messages).unwrap(), bytes);
        }
    }

    #[test]
    fn damaged_frames_to_an_agent_never_panic(
        messages in vec(strategies::down(), 1..4),
        damage in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut bytes = encode_down(&messages).unwrap();
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Ok(messages) = decode_down(&bytes) {
            prop_assert_eq!(decode_down(&encode_down(&messages).unwrap()).unwrap(), messages);
        }
    }
}
