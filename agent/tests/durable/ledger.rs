//! The ledger.

use std::path::{Path, PathBuf};

use outpost_agent::ledger::{DEFAULT_LIMIT_BYTES, Kind, Ledger, LedgerError, Reader, verify};
use proptest::prelude::*;

use crate::writes::scratch;

/// A ledger of one segment that was written and closed.
struct Written {
    dir: tempfile::TempDir,
    bytes: Vec<u8>,
    /// Where each record begins, and where the last one ends.
    borders: Vec<usize>,
    payloads: Vec<Vec<u8>>,
}

fn segment(dir: &Path) -> PathBuf {
    dir.join("000001.led")
}

fn written(frames: &[Vec<u8>]) -> Written {
    let dir = scratch();
    let mut ledger = Ledger::open(dir.path(), DEFAULT_LIMIT_BYTES, 1).unwrap();
    let size = || usize::try_from(std::fs::metadata(segment(dir.path())).unwrap().len()).unwrap();
    let opened = usize::try_from(ledger.bytes()).unwrap();
    let mut borders = vec![opened];
    for frame in frames {
        ledger.append(Kind::Frame, 1, 2, frame);
        ledger.sync().unwrap();
        borders.push(usize::try_from(ledger.bytes()).unwrap());
    }
    assert!(size() >= *borders.last().unwrap());
    drop(ledger);
    let bytes = std::fs::read(segment(dir.path())).unwrap();
    Written {
        dir,
        bytes,
        borders,
        payloads: frames.to_vec(),
    }
}

/// Every frame up to the end or the damage.
fn frames(dir: &Path) -> (Vec<Vec<u8>>, Option<LedgerError>) {
    let mut reader = Reader::open(dir).unwrap();
    let mut frames = Vec::new();
    loop {
        match reader.next_entry() {
            Ok(Some(entry)) if entry.kind == Kind::Frame => frames.push(entry.payload),
            Ok(Some(_)) => {}
            Ok(None) => return (frames, None),
            Err(error) => return (frames, Some(error)),
        }
    }
}

impl Written {
    fn write(&self, bytes: &[u8]) {
        std::fs::write(segment(self.dir.path()), bytes).unwrap();
    }

    /// How many frames end at or before this length.
    fn frames_within(&self, length: usize) -> usize {
        let whole = self.borders.iter().filter(|border| **border <= length);
        whole.count().saturating_sub(1)
    }
}

fn payloads() -> impl Strategy<Value = Vec<Vec<u8>>> {
    prop::collection::vec(prop::collection::vec(any::<u8>(), 0..120), 1..6)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3))]

    #[test]
    fn d4_a_ledger_torn_anywhere_holds_what_came_before_and_goes_on(payloads in payloads()) {
        let written = written(&payloads);
        let end = *written.borders.last().unwrap();
        for length in written.borders[0]..=end {
            written.write(&written.bytes[..length]);
            let whole = written.frames_within(length);
            let (read, damage) = frames(written.dir.path());
            prop_assert!(damage.is_none(), "torn at {}", length);
            prop_assert_eq!(&read[..], &written.payloads[..whole], "torn at {}", length);
            if length % 17 == 0 {
                let mut ledger = Ledger::open(written.dir.path(), DEFAULT_LIMIT_BYTES, 3).unwrap();
                ledger.append(Kind::Frame, 1, 4, b"after");
                ledger.sync().unwrap();
                drop(ledger);
                let summary = verify(written.dir.path()).unwrap();
                prop_assert_eq!((summary.frames, summary.torn_bytes), (whole as u64 + 1, 0));
            }
        }
    }

    #[test]
    fn d4_a_flipped_bit_of_a_ledger_is_reported_with_its_place_and_nothing_behind_it_is_read(
        payloads in payloads(), flips in prop::collection::vec((any::<prop::sample::Index>(), 0..8_u8), 200),
    ) {
        let written = written(&payloads);
        let end = *written.borders.last().unwrap();
        let last = written.borders[written.borders.len() - 2];
        for (at, bit) in flips {
            let at = at.index(end);
            let mut bytes = written.bytes.clone();
            bytes[at] ^= 1 << bit;
            written.write(&bytes);
            let (read, damage) = frames(written.dir.path());
            let before = written.borders.iter().filter(|border| **border <= at).count();
            let before = before.saturating_sub(1);
            prop_assert_eq!(&read[..], &written.payloads[..before], "flip at {}", at);
            match damage {
                Some(LedgerError::Damaged { path, offset, .. }) => {
                    prop_assert_eq!(path, segment(written.dir.path()));
                    let begins = written.borders.iter().rev().find(|border| **border <= at);
                    match begins {
                        Some(begins) => prop_assert_eq!(offset, *begins as u64),
                        // Within the records of its opening.
                        None => prop_assert!(offset <= at as u64),
                    }
                    let opened = Ledger::open(written.dir.path(), DEFAULT_LIMIT_BYTES, 3);
                    prop_assert!(opened.is_err(), "nothing is appended to it");
                }
                Some(error @ LedgerError::Io { .. }) => panic!("{error}"),
                // Only at the very end can damage look like what a crash leaves; the next one to open it says so.
                None => {
                    prop_assert!(at >= last, "flip of bit {} at {}", bit, at);
                    prop_assert!(verify(written.dir.path()).unwrap().torn_bytes > 0);
                }
            }
        }
    }
}
