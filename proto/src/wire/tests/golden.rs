//! The bytes of every message as they are and stay: `proto/tests/golden/*.hex`, a comment line and hex digits.
//!
//! A difference is a change of the wire. When it is wanted, run the tests with `GOLDEN_WRITE=1` and look at what changed.

use std::fs;
use std::path::PathBuf;

use super::*;
use super::{link_message, pool, samples};

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(format!("{name}.hex"))
}

fn hex(bytes: &[u8]) -> String {
    let lines = bytes.chunks(32).map(|line| {
        let digits: String = line.iter().map(|byte| format!("{byte:02x}")).collect();
        digits + "\n"
    });
    lines.collect()
}

fn read(name: &str) -> Vec<u8> {
    let text = fs::read_to_string(path(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
    let digits: String = text.lines().filter(|line| !line.starts_with('#')).collect();
    let pairs = digits.as_bytes().chunks(2);
    pairs
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

fn compare(name: &str, comment: &str, bytes: &[u8]) {
    if std::env::var_os("GOLDEN_WRITE").is_some() {
        fs::write(path(name), format!("# {comment}\n{}", hex(bytes))).unwrap();
    }
    assert_eq!(hex(&read(name)), hex(bytes), "{name} changed on the wire");
}

#[test]
fn frames_from_an_agent_have_the_recorded_bytes() {
    for (name, message) in samples::up() {
        let message = [message];
        let bytes = encode_up(&message).unwrap();
        compare(name, &format!("FromAgent with one message: {name}"), &bytes);
        assert_eq!(decode_up(&read(name)).unwrap(), message, "{name}");
    }
    let all: Vec<_> = samples::up().into_iter().map(|(_, m)| m).collect();
    let bytes = encode_up(&all).unwrap();
    compare(
        "up-burst",
        "FromAgent with one message of every kind",
        &bytes,
    );
    assert_eq!(decode_up(&bytes).unwrap(), all);
}

#[test]
fn frames_to_an_agent_have_the_recorded_bytes() {
    for (name, message) in samples::down() {
        let message = [message];
        let bytes = encode_down(&message).unwrap();
        compare(name, &format!("ToAgent with one message: {name}"), &bytes);
        assert_eq!(decode_down(&read(name)).unwrap(), message, "{name}");
    }
}

/// A second implementation reads and writes the same bytes: field numbers and types are those of the descriptor.
#[test]
fn recorded_bytes_are_what_the_descriptor_says() {
    let pool = pool();
    let up = samples::up()
        .into_iter()
        .map(|(name, _)| (name, "FromAgent"));
    let down = samples::down()
        .into_iter()
        .map(|(name, _)| (name, "ToAgent"));
    for (name, frame) in up.chain(down) {
        let bytes = read(name);
        let frame = link_message(&pool, frame);
        let dynamic = prost_reflect::DynamicMessage::decode(frame, bytes.as_slice()).unwrap();
        assert_eq!(hex(&dynamic.encode_to_vec()), hex(&bytes), "{name}");
    }
}

#[test]
fn the_schema_hash_changes_only_with_the_schema() {
    insta::assert_snapshot!(format!("{:016x}", schema_hash()));
}
