//! The ledger: the exact bytes of everything this agent ever sent, appended and synced before they are sent.
//!
//! Segments `000001.led`, `000002.led`, … of checksummed records. Every record carries the head of a SHA-256 chain
//! over all records before it, and a segment begins with the head of the one before, so that nothing can be changed,
//! reordered or taken out unnoticed. The frames of one session form a second chain, which the orchestrator can compute
//! from what it received: `head = SHA-256(head || u32 length || frame)`, from 32 zero bytes on.
//!
//! Beside the segments: `receipts.led`, what the orchestrator signed for of what it received; `trust.json`, whose signature
//! counts; `pruned.json`, with which head the oldest segment begins that is still there, which a record of the chain says too.
//!
//! Written by the runner, read by `outpost-agent ledger`. No ledger, no send: a failed append ends the process. The format is
//! described in `docs/ledger.md`.

mod beside;
mod bounds;
mod calls;
mod check;
mod damage;
mod export;
mod held;
mod live;
mod prune;
mod pruned;
mod reader;
mod receipts;
mod roots;
mod signed;
mod tear;
mod trust;
mod words;
mod writer;

use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

pub use calls::{IdentityCall, Method};
pub use check::{Finding, Given, Receipts, SessionHead, Summary, check, check_with, verify};
pub use damage::{Damage, Weight};
pub use export::{ExportError, Exported, Manifest, check_export, export};
pub use held::signed;
pub use prune::{DEFAULT_KEEP, Limits};
pub use pruned::TakenAway;
pub use reader::{Entry, Reader};
pub use receipts::{Judged, Notice};
pub use roots::{Roots, RootsError};
pub use signed::{Named, Past, Signed};
pub use trust::{Anchor, Trust, TrustError};
pub use words::{FrameWords, explain_entry, explain_signed, kinds_of_frame};
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
    /// A request for a certificate: an [`IdentityCall`].
    Identity,
    /// The orchestrator accepted the stream: session epoch, 8 bytes.
    Session,
    /// In `receipts.led`: the orchestrator's signature over what it received.
    Receipt,
    /// A process opened the ledger: its connections are numbered from 1 again.
    Opened,
    /// A torn end was cut off when the ledger was opened: how many bytes, 8 bytes. They were never sent.
    Cut,
    /// Behind a segment's start: how far a session is that goes on in it.
    Carried,
    /// In `receipts.led`: the certificates of a server that signed what follows.
    Server,
    /// In `receipts.led`: a segment was begun, its number and the head that it begins with.
    Tip,
    /// A segment is taken away, and why: a [`TakenAway`].
    Pruned,
    /// In `receipts.led`: a receipt with the agent that it names, and what it was worth when it came.
    Judged,
    /// In `receipts.led`: the same, with the sessions before.
    Linked,
    /// Of a number that this version does not know: a newer one wrote it.
    Newer,
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
            Self::Carried => 7,
            Self::Server => 8,
            Self::Tip => 9,
            Self::Pruned => 10,
            Self::Judged => 11,
            Self::Linked => 12,
            Self::Newer => u8::MAX,
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
            Self::Carried,
            Self::Server,
            Self::Tip,
            Self::Pruned,
            Self::Judged,
            Self::Linked,
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
        "the ledger is damaged ({kind}): {what} in {path} at byte {offset}; keep the directory as evidence, and move it away to begin a new ledger"
    )]
    Damaged {
        /// What kind of damage it is.
        kind: Damage,
        /// What is wrong.
        what: String,
        /// Which segment.
        path: PathBuf,
        /// Where.
        offset: u64,
    },
    /// A newer version wrote something there that this one cannot judge.
    #[error(
        "{path} holds a record, at byte {offset}, that this version of the agent does not know: a newer one wrote it. Run that \
         version again; or, to go on with this one, export the ledger with the newer one, move {dir} away as evidence, and a \
         new ledger is begun"
    )]
    Newer {
        /// Which segment.
        path: PathBuf,
        /// Where.
        offset: u64,
        /// The ledger's directory.
        dir: PathBuf,
    },
    /// There is more of something than any agent writes.
    #[error("{path} is not read: at most {limit} {what} are; no agent writes more")]
    Beyond {
        /// Of what.
        what: &'static str,
        /// How many are read.
        limit: u64,
        /// Where.
        path: PathBuf,
    },
}

fn io(what: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> LedgerError {
    let path = path.to_owned();
    move |source| LedgerError::Io { what, path, source }
}

/// Segment numbers present, in order. A file of another form of name is none.
fn segments(dir: &Path) -> Result<Vec<u64>, LedgerError> {
    let names = bounds::names(dir)?;
    let number = |name: &std::ffi::OsString| {
        let number: u64 = name.to_str()?.strip_suffix(".led")?.parse().ok()?;
        (*name == *segment_name(number)).then_some(number)
    };
    let mut numbers: Vec<_> = names.iter().filter_map(number).collect();
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

fn segment_name(number: u64) -> String {
    format!("{number:06}.led")
}

fn segment_path(dir: &Path, number: u64) -> PathBuf {
    dir.join(segment_name(number))
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

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A number of 8 bytes, or of fewer.
fn number(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |n, byte| n << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tampering;
#[cfg(test)]
mod tests;
