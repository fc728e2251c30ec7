//! The ledger.

use std::path::{Path, PathBuf};

use outpost_agent::ledger::{DEFAULT_LIMIT_BYTES, Kind, Ledger, LedgerError, Reader, verify};
use proptest::prelude::*;

use crate::journal::cut;
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

    /// Whether so few bytes of a record lie in a sector of their own that they may be zeros by chance, or by one flip: the
    /// last ones of a head, and the first ones of a header, which are zeros but for the kind when the frame is empty.
    fn has_a_few_bytes_apart(&self) -> bool {
        let is_near = |border: &usize| matches!(border % 512, 1..=4 | 500..);
        self.borders.iter().any(is_near)
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
        prop_assume!(!written.has_a_few_bytes_apart());
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
                Some(
                    error @ (LedgerError::Io { .. } | LedgerError::Beyond { .. } | LedgerError::Newer { .. }),
                ) => panic!("{error}"),
                // Only at the very end can damage look like what a crash leaves; the next one to open it says so.
                None => {
                    prop_assert!(at >= last, "flip of bit {} at {}", bit, at);
                    prop_assert!(verify(written.dir.path()).unwrap().torn_bytes > 0);
                }
            }
        }
    }
}

/// A ledger whose frames were synced up to some of them, and where that was.
fn synced_and_more(before: &[Vec<u8>], after: &[Vec<u8>]) -> (Written, usize) {
    let dir = scratch();
    let mut ledger = Ledger::open(dir.path(), DEFAULT_LIMIT_BYTES, 1).unwrap();
    let end = |ledger: &Ledger| usize::try_from(ledger.bytes()).unwrap();
    let (mut borders, mut synced) = (vec![end(&ledger)], end(&ledger));
    for (nth, frame) in before.iter().chain(after).enumerate() {
        ledger.append(Kind::Frame, 1, 2, frame);
        if nth < before.len() {
            ledger.sync().unwrap();
            synced = end(&ledger);
        } else {
            ledger.write().unwrap();
        }
        borders.push(end(&ledger));
    }
    drop(ledger);
    let bytes = std::fs::read(segment(dir.path())).unwrap();
    let written = Written {
        dir,
        bytes,
        borders,
        payloads: before.iter().chain(after).cloned().collect(),
    };
    (written, synced)
}

fn payloads_of(frames: std::ops::Range<usize>) -> impl Strategy<Value = Vec<Vec<u8>>> {
    let short = prop::collection::vec(any::<u8>(), 0..120);
    let long = (any::<u8>(), 300..9000_usize).prop_map(|(byte, length)| vec![byte | 1; length]);
    prop::collection::vec(prop_oneof![short, long], frames)
}

fn sectors() -> impl Strategy<Value = (usize, Vec<bool>, bool)> {
    let kept = prop::collection::vec(any::<bool>(), 1..12);
    (
        prop_oneof![Just(512_usize), Just(4096)],
        kept,
        any::<bool>(),
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn d4_whatever_sectors_a_power_cut_leaves_a_ledger_holds_what_was_synced_and_goes_on(
        before in payloads_of(0..4), after in payloads_of(1..12), (sector, kept, long) in sectors(),
    ) {
        let (written, synced) = synced_and_more(&before, &after);
        let left = cut(&written.bytes, synced, sector, &kept, long);
        let same = left.iter().zip(&written.bytes).take_while(|(left, new)| left == new).count();
        written.write(&left);
        let whole = written.frames_within(same);
        prop_assert!(whole >= before.len());
        let (read, damage) = frames(written.dir.path());
        prop_assert!(damage.is_none(), "{:?}", damage);
        prop_assert_eq!(&read[..], &written.payloads[..whole]);
        drop(Ledger::open(written.dir.path(), DEFAULT_LIMIT_BYTES, 3).unwrap());
        let summary = verify(written.dir.path()).unwrap();
        prop_assert_eq!((summary.frames, summary.torn_bytes), (whole as u64, 0));
    }

    #[test]
    fn d4_a_flipped_bit_of_what_was_synced_is_found_beside_what_a_power_cut_left_of_a_ledger(
        before in payloads_of(2..5), after in payloads_of(1..12), (sector, kept, long) in sectors(),
        at in any::<prop::sample::Index>(), bit in 0..8_u8,
    ) {
        let (written, synced) = synced_and_more(&before, &after);
        let mut left = cut(&written.bytes, synced, sector, &kept, long);
        let at = at.index(written.borders[before.len() - 1]);
        prop_assume!(!written.has_a_few_bytes_apart());
        left[at] ^= 1 << bit;
        written.write(&left);
        let whole = written.frames_within(at);
        let (read, damage) = frames(written.dir.path());
        prop_assert!(matches!(damage, Some(LedgerError::Damaged { .. })), "{:?}", damage);
        prop_assert_eq!(&read[..], &written.payloads[..whole]);
    }
}

#[test]
fn d4_a_sector_that_is_lost_from_before_a_ledger_was_opened_again_is_damage() {
    let frame = vec![7; 600];
    let (written, _) = synced_and_more(&vec![frame.clone(); 8], &[]);
    let lost = |bytes: &mut Vec<u8>| bytes[1024..1536].fill(0);
    let mut left = written.bytes.clone();
    lost(&mut left);
    written.write(&left);
    assert!(
        frames(written.dir.path()).1.is_none(),
        "nothing says that it was synced"
    );
    written.write(&written.bytes);
    drop(Ledger::open(written.dir.path(), DEFAULT_LIMIT_BYTES, 3).unwrap());
    let mut left = std::fs::read(segment(written.dir.path())).unwrap();
    lost(&mut left);
    written.write(&left);
    let damage = frames(written.dir.path()).1;
    assert!(
        matches!(damage, Some(LedgerError::Damaged { .. })),
        "{damage:?}"
    );
    // More than is ever left to be synced lies behind it.
    let (written, _) = synced_and_more(&vec![vec![7; 60_000]; 10], &[]);
    let mut left = written.bytes.clone();
    lost(&mut left);
    written.write(&left);
    let damage = frames(written.dir.path()).1;
    assert!(
        matches!(damage, Some(LedgerError::Damaged { .. })),
        "{damage:?}"
    );
}
