//! What a ledger that somebody else may have written can make its reader hold or wait for: each has an end, and what is
//! beyond it is named and not read. Far more than any agent writes.
//!
//! Used by everything here that reads files; nothing that was sent is ever judged by these.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use super::{LedgerError, io};
use crate::files;

/// Entries of a ledger's or an export's directory.
pub(super) const FILES: usize = 100_000;
/// Bytes of one segment. An agent begins the next one after 16 MiB, unless its disk is full.
pub(super) const SEGMENT_MOST: u64 = 1 << 30;
/// Bytes of a segment in which damage is looked at closely, to name it.
pub(super) const DIAGNOSED: u64 = 64 << 20;
/// Bytes of the file of receipts: far more than it has when it is written anew.
pub(super) const RECEIPTS_BYTES: u64 = 64 << 20;
/// Receipts in it.
pub(super) const RECEIPTS: usize = 100_000;
/// Sessions that receipts say came before theirs, each once.
pub(super) const LINKS: usize = 100_000;
/// Bytes of an export's list of files.
pub(super) const LIST_BYTES: u64 = 32 << 20;
/// Bytes of each other file that is read whole.
pub(super) const SMALL_BYTES: u64 = 1 << 20;
/// Roots that are tried for one receipt.
pub(super) const ANCHORS: usize = 64;
/// Sessions that are listed one by one, the newest ones; of the others what they come to.
pub(super) const LISTED: usize = 10_000;
/// Findings that are listed one by one; of the others how many there are.
pub(super) const FINDINGS: usize = 1_000;

/// There is more of something than any agent writes.
pub(super) fn beyond(what: &'static str, limit: u64, path: &Path) -> LedgerError {
    LedgerError::Beyond {
        what,
        limit,
        path: path.to_owned(),
    }
}

/// Opens a plain file of at most so many bytes: no link is followed, no pipe waited for. Answers its length too.
pub(super) fn open(path: &Path, most: u64) -> Result<(File, u64), LedgerError> {
    let file = files::open_plain(path).map_err(io("opening", path))?;
    let size = file.metadata().map_err(io("reading", path))?.len();
    if size > most {
        return Err(beyond("bytes of it", most, path));
    }
    Ok((file, size))
}

/// All of such a file; `None` when there is none.
pub(super) fn read(path: &Path, most: u64) -> Result<Option<Vec<u8>>, LedgerError> {
    let (file, _) = match open(path, most) {
        Err(LedgerError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            return Ok(None);
        }
        opened => opened?,
    };
    let mut bytes = Vec::new();
    // Whatever is added while it is read is not of it.
    file.take(most)
        .read_to_end(&mut bytes)
        .map_err(io("reading", path))?;
    Ok(Some(bytes))
}

/// The names in a directory, in order.
pub(super) fn names(dir: &Path) -> Result<BTreeSet<std::ffi::OsString>, LedgerError> {
    let mut names = BTreeSet::new();
    for entry in std::fs::read_dir(dir).map_err(io("reading", dir))? {
        names.insert(entry.map_err(io("reading", dir))?.file_name());
        if names.len() > FILES {
            return Err(beyond("files in it", FILES as u64, dir));
        }
    }
    Ok(names)
}
