//! Telling what a power cut leaves of a ledger's end from damage, by the rule of [`crate::torn`].

use super::{HEAD_BYTES, HEADER_BYTES, HEADER_CRC_AT, Kind, PAYLOAD_BYTES, chain};
use crate::torn::{self, UNSYNCED};

/// Bytes of a header that may all be zeros although they were written: the length of an empty record.
const LENGTH_BYTES: usize = 4;
/// A record that says that the ledger was opened: it is empty.
const OPENED_BYTES: usize = HEADER_BYTES + HEAD_BYTES;

/// Bytes behind a bad record that are looked at: more than a power cut leaves.
pub(super) const MOST: u64 = 2 * (UNSYNCED + (HEADER_BYTES + PAYLOAD_BYTES + HEAD_BYTES) as u64);

/// What was read of the first bad record.
pub(super) enum Seen {
    /// Its header, which is bad: how long it is is not known.
    Header([u8; HEADER_BYTES]),
    /// All of it.
    Record(Vec<u8>),
}

impl Seen {
    /// Whether it was torn. `offset`: where it begins; `behind`: everything that follows what was seen.
    pub(super) fn is_torn(&self, offset: u64, behind: &[u8]) -> bool {
        let behind = torn::without_zeros_behind(behind);
        let (mut bytes, is_whole) = match self {
            Self::Header(header) => (header.to_vec(), false),
            Self::Record(record) => (record.clone(), true),
        };
        if behind.is_empty() {
            return true;
        }
        let seen = bytes.len();
        bytes.extend_from_slice(behind);
        let most = UNSYNCED + (HEADER_BYTES + PAYLOAD_BYTES + HEAD_BYTES) as u64;
        if bytes.len() as u64 > most || was_opened_in(&bytes) {
            return false;
        }
        // Of a record whose length is not known the header's own sectors count: one of them is what was lost.
        let rest = if is_whole {
            0
        } else {
            torn::left_in_sector(offset + seen as u64 - 1) - 1
        };
        bytes.truncate(seen + rest);
        has_hole(offset, &bytes)
    }
}

/// Whether some of a bad record was never written.
fn has_hole(offset: u64, bytes: &[u8]) -> bool {
    let first = torn::left_in_sector(offset);
    if first > LENGTH_BYTES {
        return torn::has_hole(offset, bytes);
    }
    let (length, rest) = bytes.split_at(first.min(bytes.len()));
    let is_zeros = length.iter().all(|byte| *byte == 0);
    (is_zeros && lost_its_length(bytes, first)) || torn::has_hole(offset + first as u64, rest)
}

/// Whether the header's checksum is that of a header whose first bytes, a part of its length, are not there.
fn lost_its_length(bytes: &[u8], first: usize) -> bool {
    let Some((header, _)) = bytes.split_first_chunk::<HEADER_BYTES>() else {
        return false;
    };
    let most = u32::try_from(PAYLOAD_BYTES).unwrap_or(u32::MAX);
    (1..=most).any(|length| {
        let length = length.to_be_bytes();
        if length[first..] != header[first..LENGTH_BYTES] {
            return false;
        }
        let mut whole = *header;
        whole[..LENGTH_BYTES].copy_from_slice(&length);
        crc32fast::hash(&whole[..HEADER_CRC_AT]).to_be_bytes() == whole[HEADER_CRC_AT..]
    })
}

/// Whether a later process found the beginning of these bytes there: it synced everything before it said so.
fn was_opened_in(bytes: &[u8]) -> bool {
    let records = bytes.windows(HEAD_BYTES + OPENED_BYTES);
    let mut records = records.filter(|window| {
        let (_, record) = window.split_at(HEAD_BYTES);
        record.starts_with(&[0; LENGTH_BYTES])
            && record.get(LENGTH_BYTES) == Some(&Kind::Opened.code())
    });
    records.any(|window| {
        let (before, record) = window.split_at(HEAD_BYTES);
        let (header, head) = record.split_at(HEADER_BYTES);
        before
            .try_into()
            .is_ok_and(|before| chain(before, header) == head)
    })
}
