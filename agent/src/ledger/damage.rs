//! Naming damage: what was done to a record that is not as it was written, as far as that can be told.
//!
//! Called once, when a check has failed already; nothing here decides whether there is damage.

use std::fmt;
use std::path::Path;

use serde::Serialize;

use super::bounds::{self, DIAGNOSED};
use super::{HEAD_BYTES, HEADER_BYTES, HEADER_CRC_AT, Head, Kind, MAGIC, PAYLOAD_BYTES, chain};

/// Records up to this long are tried with each of their bytes changed.
const EVERY_BYTE: usize = 1024;

/// Kinds of damage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Damage {
    /// Bytes of a record are others than were written.
    Tampered,
    /// A record, or a segment, is whole, and stands where it does not belong.
    Reordered,
    /// Records were taken out or put in before this one, or it was changed in more than one place.
    Removed,
    /// A file ends before it should.
    Truncated,
    /// A segment is not there.
    MissingSegment,
    /// A segment does not begin with the head that the one before ended with.
    WrongPreviousHead,
    /// The orchestrator signed for other frames than these.
    ReceiptMismatch,
    /// A receipt's signature is not by an orchestrator that this site trusts, over what it says.
    ReceiptSignature,
    /// A file that no agent put there.
    UnlistedFile,
    /// Of what was taken away nothing shows that it was as it is said to have been, or that the agent took it away.
    PrunedUnsigned,
    /// Of a receipt it cannot be told who signed it.
    ReceiptUnknown,
    /// Sessions that the orchestrator counted are not here, or nothing that is signed shows them.
    SessionMissing,
}

/// How much is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Weight {
    /// Nothing is known to be wrong, and not all of it is shown.
    Unproven,
    /// It is not what the orchestrator signed for.
    NotSignedFor,
    /// It is not as it was written.
    Damaged,
}

impl Damage {
    /// How much it says.
    #[must_use]
    pub fn weight(self) -> Weight {
        match self {
            Self::Tampered
            | Self::Reordered
            | Self::Removed
            | Self::Truncated
            | Self::MissingSegment
            | Self::WrongPreviousHead
            | Self::UnlistedFile => Weight::Damaged,
            Self::ReceiptMismatch | Self::ReceiptSignature => Weight::NotSignedFor,
            Self::PrunedUnsigned | Self::ReceiptUnknown | Self::SessionMissing => Weight::Unproven,
        }
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tampered => "tampered",
            Self::Reordered => "reordered",
            Self::Removed => "removed",
            Self::Truncated => "truncated",
            Self::MissingSegment => "missing segment",
            Self::WrongPreviousHead => "wrong previous head",
            Self::ReceiptMismatch => "receipt does not match",
            Self::ReceiptSignature => "receipt's signature",
            Self::UnlistedFile => "unlisted file",
            Self::PrunedUnsigned => "pruned unsigned",
            Self::ReceiptUnknown => "receipt of unknown signer",
            Self::SessionMissing => "session missing",
        })
    }
}

/// A record as it stands in a file.
struct Raw<'a> {
    offset: usize,
    /// Header and payload.
    record: &'a [u8],
    stored: Head,
}

impl<'a> Raw<'a> {
    /// The record at this offset, if its header and its length are whole.
    fn at(bytes: &'a [u8], offset: usize) -> Option<Self> {
        let rest = bytes.get(offset..)?;
        let (header, _) = rest.split_at_checked(HEADER_BYTES)?;
        let checksum = crc32fast::hash(&header[..HEADER_CRC_AT]).to_be_bytes();
        let length = u32::from_be_bytes(*header.first_chunk()?) as usize;
        if header[HEADER_CRC_AT..] != checksum || length > PAYLOAD_BYTES {
            return None;
        }
        let (record, rest) = rest.split_at_checked(HEADER_BYTES + length)?;
        Some(Self {
            offset,
            record,
            stored: *rest.first_chunk()?,
        })
    }

    fn next(&self, bytes: &'a [u8]) -> Option<Self> {
        Self::at(bytes, self.offset + self.record.len() + HEAD_BYTES)
    }

    fn follows(&self, head: &Head) -> bool {
        chain(head, self.record) == self.stored
    }
}

/// What is wrong at `offset` of segment `number` in this file, behind records that end with `before`.
pub(super) fn diagnose(
    path: &Path,
    number: u64,
    offset: u64,
    before: Option<Head>,
) -> (Damage, String) {
    let unreadable = || (Damage::Tampered, "a record that cannot be read".to_owned());
    // A file of more than that is named for less.
    let Ok(Some(bytes)) = bounds::read(path, DIAGNOSED) else {
        return unreadable();
    };
    let Ok(offset) = usize::try_from(offset) else {
        return unreadable();
    };
    let Some(raw) = Raw::at(&bytes, offset) else {
        let left = bytes.len() - offset.min(bytes.len());
        return if left < HEADER_BYTES {
            let what = format!("{left} bytes that are the beginning of a record");
            (Damage::Truncated, what)
        } else {
            let what = "a record with a damaged header, or one that does not end".to_owned();
            (Damage::Tampered, what)
        };
    };
    match before {
        None => start(&raw, number),
        Some(before) => record(&bytes, &raw, &before),
    }
}

/// Of a segment's first record.
fn start(raw: &Raw<'_>, number: u64) -> (Damage, String) {
    let payload = &raw.record[HEADER_BYTES..];
    let fields = payload
        .strip_prefix(MAGIC.as_slice())
        .and_then(|rest| rest.split_first_chunk::<8>());
    if let Some((says, head)) = fields
        && raw.record[4] == Kind::Segment.code()
        && let Ok(head) = head.try_into()
        && raw.follows(&head)
    {
        let what = format!(
            "this is segment {}, in the place of {number}",
            u64::from_be_bytes(*says)
        );
        return (Damage::Reordered, what);
    }
    let what = "the segment's first record is not as it was written".to_owned();
    (Damage::Tampered, what)
}

fn record(bytes: &[u8], raw: &Raw<'_>, before: &Head) -> (Damage, String) {
    let next = raw.next(bytes);
    let computed = chain(before, raw.record);
    if next.as_ref().is_some_and(|next| next.follows(&computed)) {
        let what = "the head behind a record was changed; the record itself is as it was";
        return (Damage::Tampered, what.to_owned());
    }
    if let Some((at, was)) = changed_byte(raw, before) {
        let what = format!(
            "byte {} was changed from {was:#04x} to {:#04x}",
            raw.offset + at,
            raw.record[at]
        );
        return (Damage::Tampered, what);
    }
    if let Some(at) = belongs_behind(bytes, raw) {
        let what = format!("a record that belongs behind the one at byte {at}");
        return (Damage::Reordered, what);
    }
    if next.is_some_and(|next| next.follows(&raw.stored)) {
        let what = "a record that does not continue the one before it, and is itself continued: records were taken \
                    out or put in here, or more than one byte of it was changed";
        return (Damage::Removed, what.to_owned());
    }
    let what = "a record that does not continue the chain".to_owned();
    (Damage::Tampered, what)
}

/// Which single byte of it makes it what it was, and what that was.
fn changed_byte(raw: &Raw<'_>, before: &Head) -> Option<(usize, u8)> {
    if raw.record.len() > EVERY_BYTE {
        return None;
    }
    let mut tried = raw.record.to_vec();
    for at in 0..tried.len() {
        let is = tried[at];
        for was in (0..=u8::MAX).filter(|was| *was != is) {
            tried[at] = was;
            if chain(before, &tried) == raw.stored {
                return Some((at, was));
            }
        }
        tried[at] = is;
    }
    None
}

/// Where the record stands that it continues, if that is elsewhere in the same file.
fn belongs_behind(bytes: &[u8], raw: &Raw<'_>) -> Option<usize> {
    let mut at = Raw::at(bytes, 0);
    while let Some(other) = at {
        if raw.follows(&other.stored) {
            return Some(other.offset);
        }
        at = other.next(bytes);
    }
    None
}
