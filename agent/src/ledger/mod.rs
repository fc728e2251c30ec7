//! The ledger: the exact bytes of everything this agent ever sent, appended and synced before they are sent.
//!
//! Segments `000001.led`, `000002.led`, … of checksummed records. Every record carries the head of a SHA-256 chain
//! over all records before it, and a segment begins with the head of the one before, so that nothing can be changed,
//! reordered or taken out unnoticed. The frames of one session form a second chain, which the orchestrator can compute
//! from what it received: `head = SHA-256(head || u32 length || frame)`, from 32 zero bytes on.
//!
//! Written by the runner, read by `outpost-agent ledger`. No ledger, no send: a failed append ends the process.

mod prune;
mod reader;
mod tear;
mod words;
mod writer;

use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

pub use prune::{DEFAULT_KEEP, Limits};
pub use reader::{Entry, Reader, SessionHead, Summary, verify};
pub use words::{FrameWords, explain_entry, kinds_of_frame};
pub use writer::{Ledger, Written};

/// A SHA-256 chain head.
pub type Head = [u8; 32];

/// Bytes of a segment after which the next one begins.
pub const SEGMENT_BYTES: u64 = 16 * 1024 * 1024;
/// Bytes of all segments together, by default; the oldest are pruned beyond it.
pub const DEFAULT_LIMIT_BYTES: u64 = 1024 * 1024 * 1024;
/// Bytes of one record's payload: a frame is at most 64 KiB.
const PAYLOAD_BYTES: usize = 256 * 1024;

const MAGIC: &[u8; 8] = b"OPLEDG1\n";
/// Length, kind, time, connection, and a CRC-32 over these, so that a damaged length is never taken for a torn end.
const HEADER_BYTES: usize = 4 + 1 + 8 + 8 + 4;
const HEADER_CRC_AT: usize = HEADER_BYTES - 4;
const HEAD_BYTES: usize = 32;

/// What a record holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// First of each segment: magic, segment number, head of the segment before.
    Segment,
    /// A frame on the link's stream, as sent.
    Frame,
    /// A request for a certificate, as sent.
    Identity,
    /// The orchestrator accepted the stream: session epoch, 8 bytes.
    Session,
    /// The orchestrator's signature over what it received.
    Receipt,
    /// A process opened the ledger: its connections are numbered from 1 again.
    Opened,
    /// A torn end was cut off when the ledger was opened: how many bytes, 8 bytes. They were never sent.
    Cut,
}

impl Kind {
    fn code(self) -> u8 {
        match self {
            Self::Segment => 0,
            Self::Frame => 1,
            Self::Identity => 2,
            Self::Session => 3,
            Self::Receipt => 4,
            Self::Cut => 5,
            Self::Opened => 6,
        }
    }

    fn from_code(code: u8) -> Option<Self> {
        [
            Self::Segment,
            Self::Frame,
            Self::Identity,
            Self::Session,
            Self::Receipt,
            Self::Cut,
            Self::Opened,
        ]
        .into_iter()
        .find(|kind| kind.code() == code)
    }
}

/// Why the ledger cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The file system said no.
    #[error("{what} {path}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// On this.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// What is there is not what was written.
    #[error(
        "the ledger is damaged: {what} in {path} at byte {offset}; keep the directory as evidence, and move it away to begin a new ledger"
    )]
    Damaged {
        /// What is wrong.
        what: &'static str,
        /// Which segment.
        path: PathBuf,
        /// Where.
        offset: u64,
    },
}

fn io(what: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> LedgerError {
    let path = path.to_owned();
    move |source| LedgerError::Io { what, path, source }
}

/// Segment numbers present, in order.
fn segments(dir: &Path) -> Result<Vec<u64>, LedgerError> {
    let mut numbers = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(io("reading", dir))? {
        let entry = entry.map_err(io("reading", dir))?;
        let name = entry.file_name();
        let number: Option<u64> = name
            .to_str()
            .and_then(|name| name.strip_suffix(".led"))
            .and_then(|n| n.parse().ok());
        numbers.extend(number);
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// Bytes of all segments; 0 before there is one.
///
/// # Errors
/// When the directory is there and cannot be read.
pub fn size(dir: &Path) -> Result<u64, LedgerError> {
    if !dir.exists() {
        return Ok(0);
    }
    let sizes = segments(dir)?.into_iter();
    Ok(sizes
        .map(|number| writer::size_of(&segment_path(dir, number)))
        .sum())
}

fn segment_path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:06}.led"))
}

/// The next head of the chain over all records.
fn chain(head: &Head, record: &[u8]) -> Head {
    Sha256::new()
        .chain_update(head)
        .chain_update(record)
        .finalize()
        .into()
}

/// The next head of a session's chain over its frames: the same on both sides of the wire.
#[must_use]
pub fn session_chain(head: &Head, frame: &[u8]) -> Head {
    let length = u32::try_from(frame.len()).unwrap_or(u32::MAX);
    Sha256::new()
        .chain_update(head)
        .chain_update(length.to_be_bytes())
        .chain_update(frame)
        .finalize()
        .into()
}

#[cfg(test)]
mod tests;
