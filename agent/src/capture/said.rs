//! The messages of one request, put together from the data of its frames. Used by the accounts of HTTP/2.

use sha2::{Digest as _, Sha256};

use super::account::{Account, At, Kind};

/// Flag and length before each message.
const PREFIX: usize = 5;
/// A frame of the ledger is smaller.
const MESSAGE_BYTES: usize = 256 * 1024;

/// Whose messages a stream carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Call {
    /// Frames.
    Connect,
    /// A request for a certificate.
    Identity,
    /// Nothing that is known.
    Unknown,
}

/// A message that was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) at: At,
    pub(super) digest: [u8; 32],
    pub(super) bytes: u64,
}

/// The messages of one request.
#[derive(Debug)]
pub(super) struct Said {
    pub(super) call: Call,
    pub(super) messages: Vec<Message>,
    /// What there is of a message that does not end.
    pub(super) rest: Vec<u8>,
    pub(super) rest_at: At,
    /// Its messages can no longer be told apart.
    is_lost: bool,
}

impl Said {
    pub(super) fn new(call: Call) -> Self {
        Self {
            call,
            messages: Vec::new(),
            rest: Vec::new(),
            rest_at: At::default(),
            is_lost: false,
        }
    }

    /// Takes the data of one frame: adds what belongs to messages, and finds what cannot be a message.
    pub(super) fn data(&mut self, data: &[u8], at: At, account: &mut Account) {
        if self.is_lost {
            return account.find(at, data.len() as u64, "data after what is no message");
        }
        if self.rest.is_empty() {
            self.rest_at = at;
        }
        self.rest.extend_from_slice(data);
        while let Some((prefix, after)) = self.rest.split_at_checked(PREFIX) {
            let length = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]) as usize;
            if prefix[0] != 0 || length > MESSAGE_BYTES {
                let bytes = self.rest.len() as u64;
                account.find(at, bytes, "data that is no gRPC message of this service");
                self.rest.clear();
                self.is_lost = true;
                return;
            }
            let Some(message) = after.get(..length) else {
                break;
            };
            self.messages.push(Message {
                at,
                digest: Sha256::digest(message).into(),
                bytes: length as u64,
            });
            account.add(Kind::MessagePrefix, PREFIX as u64);
            self.rest.drain(..PREFIX + length);
            self.rest_at = at;
        }
    }
}
