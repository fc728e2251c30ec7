//! What a file of a run was besides its content: its encrypted form hides it, and gives it back when it is opened.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt as _;

use rustix::fs::{Gid, Mode, Timespec, Timestamps, Uid};

/// Bytes of a file's attributes.
const ATTRIBUTES: usize = 24;

/// Whose the file is, its mode, and when it was changed: what its encrypted form hides.
pub(super) fn attributes(meta: &std::fs::Metadata) -> [u8; ATTRIBUTES] {
    let mut bytes = [0; ATTRIBUTES];
    let nsec = u32::try_from(meta.mtime_nsec()).unwrap_or(0);
    let words = [meta.mode() & 0o7777, meta.uid(), meta.gid(), nsec];
    let words = words.into_iter().flat_map(u32::to_le_bytes);
    for (to, from) in bytes
        .iter_mut()
        .zip(words.chain(meta.mtime().to_le_bytes()))
    {
        *to = from;
    }
    bytes
}

/// Gives a file its attributes back.
pub(super) fn attribute(file: &File, bytes: &[u8]) -> Option<io::Result<()>> {
    let words: &[u8; ATTRIBUTES] = bytes.try_into().ok()?;
    let (words, seconds) = words.split_at(16);
    let word = |at: usize| {
        let bytes = words.get(4 * at..4 * at + 4)?;
        Some(u32::from_le_bytes(bytes.try_into().ok()?))
    };
    let (mode, uid, gid, nsec) = (word(0)?, word(1)?, word(2)?, word(3)?);
    let seconds = i64::from_le_bytes(seconds.try_into().ok()?);
    let times = Timestamps {
        last_access: omit(),
        last_modification: Timespec {
            tv_sec: seconds,
            tv_nsec: i64::from(nsec),
        },
    };
    let set = || -> io::Result<()> {
        let meta = file.metadata()?;
        if (meta.uid(), meta.gid()) != (uid, gid) {
            rustix::fs::fchown(file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
        }
        // After the owner, whose change takes bits away.
        rustix::fs::fchmod(file, Mode::from_raw_mode(mode))?;
        Ok(rustix::fs::futimens(file, &times)?)
    };
    Some(set())
}

/// A time that stays as it is.
pub(super) fn omit() -> Timespec {
    Timespec {
        tv_sec: 0,
        tv_nsec: rustix::fs::UTIME_OMIT,
    }
}
