//! What the wire must hold: closed upstream, bounds on both sides, one encoding per content, nothing guessed.

mod both_bounds;
mod descriptor;
mod golden;
mod hostile;
mod identity;
mod round_trip;
mod rules;
mod samples;
mod strategies;

use prost_reflect::{DescriptorPool, MessageDescriptor};

use super::*;

/// The descriptor that this build's code was made from.
fn pool() -> DescriptorPool {
    let bytes: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/outpost.fds"));
    DescriptorPool::decode(bytes).unwrap()
}

fn link_message(pool: &DescriptorPool, name: &str) -> MessageDescriptor {
    pool.get_message_by_name(&format!("outpost.link.v1.{name}"))
        .unwrap()
}

/// Bytes of one length-delimited field.
fn field(number: u8, content: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    prost::encoding::encode_varint(u64::from(number) << 3 | 2, &mut bytes);
    prost::encoding::encode_varint(content.len() as u64, &mut bytes);
    bytes.extend_from_slice(content);
    bytes
}

/// Bytes of one varint field.
fn number(field: u8, value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    prost::encoding::encode_varint(u64::from(field) << 3, &mut bytes);
    prost::encoding::encode_varint(value, &mut bytes);
    bytes
}
