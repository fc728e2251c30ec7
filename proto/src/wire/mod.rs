//! The door between bytes and validated values.
//!
//! Link, runner and orchestrator call the functions here and nothing else of the wire: generated types stay inside.
//! Encoders refuse what the other side would refuse. Decoders refuse what is too long, malformed, out of bounds, not
//! supported or not allowed; from an agent also every unknown field and every second spelling of one content, so that
//! nothing travels beside the declared fields. Nothing here guesses a missing or unknown value.

mod bounds;
mod convert;
mod down;
mod error;
mod identity;
mod outcome;
mod rules;
mod up;

#[cfg(test)]
mod tests;

use prost::Message;

use crate::limits::{DOWN_FRAME_BYTES, FRAME_MESSAGES, UP_FRAME_BYTES};
use crate::message::{DownMessage, UpMessage};

pub use bounds::{BudgetLine, budget, budget_of, budget_per_attempt};
pub use error::{DecodeError, EncodeError, Excess, Invalid, OutOfBounds};
pub use identity::{
    ChallengeAnswer, EnrolRequest, Issued, RecoverReply, RecoverRequest, RenewRequest,
};

use bounds::Bounded;

/// Generated from `proto/`; private, so that no wire type reaches a core.
#[expect(
    unreachable_pub,
    reason = "generated code is public within a private module"
)]
mod generated {
    pub mod link {
        include!(concat!(env!("OUT_DIR"), "/outpost.link.v1.rs"));
    }
    pub mod identity {
        include!(concat!(env!("OUT_DIR"), "/outpost.identity.v1.rs"));
    }
}

use generated::link;

/// First 64 bits (big-endian) of SHA-256 over the descriptor that this build's link messages were made from.
#[must_use]
pub const fn schema_hash() -> u64 {
    include!(concat!(env!("OUT_DIR"), "/schema_hash.rs"))
}

/// One frame from an agent, at most [`UP_FRAME_BYTES`] long.
///
/// # Errors
/// When a value is outside its bounds or rules, or the messages do not fit into one frame.
pub fn encode_up(messages: &[UpMessage]) -> Result<Vec<u8>, EncodeError> {
    seal_up(to_wire(messages, up::to_wire)?)
}

/// As few frames as hold the messages, in their order; none for none.
///
/// # Errors
/// When a value is outside its bounds or rules, or one message alone does not fit into a frame.
pub fn encode_up_frames(messages: &[UpMessage]) -> Result<Vec<Vec<u8>>, EncodeError> {
    let messages = to_wire(messages, up::to_wire)?;
    let frames = pack(messages, UP_FRAME_BYTES);
    frames.into_iter().map(seal_up).collect()
}

fn seal_up(messages: Vec<link::UpMessage>) -> Result<Vec<u8>, EncodeError> {
    let frame = link::FromAgent { messages };
    frame.check()?;
    seal("FromAgent", &frame, UP_FRAME_BYTES)
}

/// The messages of one frame from an agent.
///
/// # Errors
/// When the frame is anything but the one encoding of messages that are within every bound and rule.
pub fn decode_up(bytes: &[u8]) -> Result<Vec<UpMessage>, DecodeError> {
    let frame: link::FromAgent = open("FromAgent", bytes, UP_FRAME_BYTES)?;
    frame.check()?;
    canonical("FromAgent", &frame, bytes)?;
    frame
        .messages
        .into_iter()
        .map(UpMessage::try_from)
        .collect()
}

/// One frame to an agent, at most [`DOWN_FRAME_BYTES`] long.
///
/// # Errors
/// When a value is outside its bounds or rules, or the messages do not fit into one frame.
pub fn encode_down(messages: &[DownMessage]) -> Result<Vec<u8>, EncodeError> {
    seal_down(to_wire(messages, down::to_wire)?)
}

/// As few frames as hold the messages, in their order; none for none.
///
/// # Errors
/// When a value is outside its bounds or rules, or one message alone does not fit into a frame.
pub fn encode_down_frames(messages: &[DownMessage]) -> Result<Vec<Vec<u8>>, EncodeError> {
    let messages = to_wire(messages, down::to_wire)?;
    let frames = pack(messages, DOWN_FRAME_BYTES);
    frames.into_iter().map(seal_down).collect()
}

fn seal_down(messages: Vec<link::DownMessage>) -> Result<Vec<u8>, EncodeError> {
    let frame = link::ToAgent { messages };
    frame.check()?;
    seal("ToAgent", &frame, DOWN_FRAME_BYTES)
}

/// The messages of one frame to an agent. Fields that a newer orchestrator added to known messages are passed over.
///
/// # Errors
/// When the frame is too long or malformed, or a message is not known or outside its bounds or rules.
pub fn decode_down(bytes: &[u8]) -> Result<Vec<DownMessage>, DecodeError> {
    let frame: link::ToAgent = open("ToAgent", bytes, DOWN_FRAME_BYTES)?;
    frame.check()?;
    frame
        .messages
        .into_iter()
        .map(DownMessage::try_from)
        .collect()
}

fn to_wire<D, W>(
    messages: &[D],
    convert: fn(&D) -> Result<W, EncodeError>,
) -> Result<Vec<W>, EncodeError> {
    messages.iter().map(convert).collect()
}

/// Splits where the next message would make a frame too long or too many.
fn pack<W: Message>(messages: Vec<W>, limit: usize) -> Vec<Vec<W>> {
    let mut frames: Vec<Vec<W>> = Vec::new();
    let mut bytes = 0;
    for message in messages {
        let content = message.encoded_len();
        let size = 1 + prost::length_delimiter_len(content) + content;
        match frames.last_mut() {
            Some(frame) if frame.len() < FRAME_MESSAGES && bytes + size <= limit => {
                frame.push(message);
                bytes += size;
            }
            _ => {
                frames.push(vec![message]);
                bytes = size;
            }
        }
    }
    frames
}

fn seal(
    message: &'static str,
    content: &impl Message,
    limit: usize,
) -> Result<Vec<u8>, EncodeError> {
    let bytes = content.encoded_len();
    if bytes > limit {
        return Err(EncodeError::TooLong {
            message,
            bytes,
            limit,
        });
    }
    Ok(content.encode_to_vec())
}

fn open<M: Message + Default>(
    message: &'static str,
    bytes: &[u8],
    limit: usize,
) -> Result<M, DecodeError> {
    if bytes.len() > limit {
        return Err(DecodeError::TooLong {
            message,
            bytes: bytes.len(),
            limit,
        });
    }
    M::decode(bytes).map_err(|error| DecodeError::Malformed {
        message,
        reason: error.to_string(),
    })
}

fn canonical(
    message: &'static str,
    content: &impl Message,
    bytes: &[u8],
) -> Result<(), DecodeError> {
    let same = content.encoded_len() == bytes.len() && content.encode_to_vec() == bytes;
    if same {
        Ok(())
    } else {
        Err(DecodeError::NotCanonical { message })
    }
}
