//! Telling what a power cut leaves from damage, for journal and ledger, which both only ever grow at their ends.
//!
//! A cut loses any of the sectors that were written and not synced, in any order: a page may be there and the one before
//! it not. What was never written reads as zeros, because space that is taken ahead does, and so does a file that is
//! longer than what reached the disk. Damage has no such hole, or has behind it what was written only after a sync. To
//! make that a rule, neither file ever holds more than [`UNSYNCED`] bytes that are not surely on the disk, beside one
//! line or one write.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use crate::ahead;

/// Bytes that may be written without being surely on the disk. Large enough that the syncs beside the loop, one after
/// the other, keep ahead of it.
pub(crate) const UNSYNCED: u64 = 256 * 1024;
/// What a disk writes as a whole or not at all; some have larger ones, which are whole numbers of these.
const SECTOR: usize = 512;

/// Bytes that are written again at once.
const AGAIN: usize = 64 * 1024;

/// Writes these bytes of a file again, where and as they are, without moving where it is written next. After a sync that
/// failed, pages count as written that are not on the disk: to another process they read as if they were, and its sync
/// waits for nothing, until somebody writes to them. On a full disk whose file system writes nothing in place, they stay as
/// they are.
///
/// # Errors
/// When the file cannot be read or written.
pub(crate) fn write_again(file: &File, from: u64, until: u64) -> io::Result<()> {
    let mut part = vec![0; AGAIN];
    let mut at = from;
    while at < until {
        let left = usize::try_from(until - at).unwrap_or(AGAIN);
        let part = &mut part[..left.min(AGAIN)];
        file.read_exact_at(part, at)?;
        match file.write_all_at(part, at) {
            Err(error) if ahead::is_full(&error) => {
                tracing::warn!("no room to write again what is in a file already: {error}");
                return Ok(());
            }
            written => written?,
        }
        at += part.len() as u64;
    }
    Ok(())
}

/// Whether a part of these bytes was never written: whatever of them is in some sector holds zeros only. `offset`: where
/// in its file the first one is.
pub(crate) fn has_hole(offset: u64, bytes: &[u8]) -> bool {
    let (first, others) = bytes.split_at(left_in_sector(offset).min(bytes.len()));
    let is_hole = |part: &[u8]| !part.is_empty() && part.iter().all(|byte| *byte == 0);
    is_hole(first) || others.chunks(SECTOR).any(is_hole)
}

/// Bytes from here to where the next sector begins.
pub(crate) fn left_in_sector(offset: u64) -> usize {
    let sector = SECTOR as u64;
    usize::try_from(sector - offset % sector).unwrap_or(SECTOR)
}

/// These bytes without the zeros at their end.
pub(crate) fn without_zeros_behind(bytes: &[u8]) -> &[u8] {
    let end = bytes.iter().rposition(|byte| *byte != 0);
    bytes.get(..end.map_or(0, |at| at + 1)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hole_is_what_of_a_sector_is_zeros_only() {
        let with_zeros = |from: usize, to: usize| {
            let mut bytes = [1; 2048];
            bytes[from..to].fill(0);
            bytes
        };
        assert!(has_hole(0, &with_zeros(512, 1024)));
        assert!(!has_hole(0, &with_zeros(513, 1500)));
        assert!(has_hole(500, &with_zeros(0, 12)), "the end of a sector");
        assert!(!has_hole(500, &with_zeros(0, 11)));
        assert!(has_hole(1, &with_zeros(2047, 2048)), "its beginning");
        assert!(!has_hole(0, &[]) && !has_hole(7, &[1]));
        assert_eq!(without_zeros_behind(&[0, 7, 0, 0]), [0, 7]);
        assert!(without_zeros_behind(&[0, 0]).is_empty());
    }
}
