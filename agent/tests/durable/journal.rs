//! The journal.

use std::collections::BTreeMap;
use std::path::Path;

use outpost_agent::journal::{Journal, JournalError, peek};
use outpost_agent_core::mirror::Mirror;
use outpost_agent_core::record::{Snapshot, Write};
use outpost_proto::message::AttemptState;
use proptest::prelude::*;

use crate::writes::{attempt, history, report, scratch, settled};

/// A journal that was written and closed.
struct Written {
    dir: tempfile::TempDir,
    bytes: Vec<u8>,
    /// Where the header and each burst end.
    borders: Vec<usize>,
    /// What was durable at each border.
    states: Vec<Snapshot>,
}

fn written(history: &[Vec<Write>]) -> Written {
    let dir = scratch();
    let mut journal = Journal::open(dir.path()).unwrap();
    let mut mirror = Mirror::default();
    let end = |journal: &Journal| usize::try_from(journal.bytes()).unwrap();
    let (mut borders, mut states) = (vec![end(&journal)], vec![mirror.snapshot()]);
    for burst in history {
        journal.append(burst).unwrap();
        burst.iter().for_each(|write| mirror.apply(write));
        borders.push(end(&journal));
        states.push(mirror.snapshot());
    }
    drop(journal);
    let bytes = std::fs::read(dir.path().join("journal")).unwrap();
    Written {
        dir,
        bytes,
        borders,
        states,
    }
}

impl Written {
    fn reopened_as(&self, bytes: &[u8]) -> Result<Snapshot, JournalError> {
        let path = self.dir.path().join("journal");
        std::fs::write(&path, bytes).unwrap();
        let peeked = peek(self.dir.path());
        let opened = Journal::open(self.dir.path()).map(|journal| journal.snapshot());
        assert_eq!(peeked.is_ok(), opened.is_ok(), "a look says the same");
        if opened.is_err() {
            assert_eq!(std::fs::read(&path).unwrap(), bytes, "nothing was changed");
        }
        opened
    }

    /// How many bursts end at or before this length.
    fn bursts_within(&self, length: usize) -> usize {
        let whole = self.borders.iter().filter(|border| **border <= length);
        whole.count().saturating_sub(1)
    }

    fn end(&self) -> usize {
        *self.borders.last().unwrap()
    }
}

fn is_at(error: &JournalError, dir: &Path) -> Option<u64> {
    match error {
        JournalError::Damaged { path, offset } if *path == dir.join("journal") => Some(*offset),
        JournalError::Damaged { .. } | JournalError::Io { .. } | JournalError::Newer { .. } => None,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3))]

    #[test]
    fn d4_a_journal_torn_anywhere_is_what_it_was_before(history in history()) {
        let written = written(&history);
        for length in 0..=written.end() {
            let snapshot = written.reopened_as(&written.bytes[..length]).unwrap();
            let expected = &written.states[written.bursts_within(length)];
            prop_assert_eq!(&snapshot, expected, "torn at {}", length);
        }
    }

    #[test]
    fn d4_a_journal_whose_last_pages_were_never_written_is_what_it_was_before(
        history in history(), zeros in 1..9000_usize,
    ) {
        let written = written(&history);
        for length in (written.borders[0]..=written.end()).step_by(13) {
            let mut bytes = written.bytes[..length].to_vec();
            bytes.resize(length + zeros, 0);
            let snapshot = written.reopened_as(&bytes).unwrap();
            let expected = &written.states[written.bursts_within(length)];
            prop_assert_eq!(&snapshot, expected, "zeros from {}", length);
        }
    }

    #[test]
    fn d4_a_flipped_bit_is_reported_with_its_place_and_never_skipped(
        history in history(), flips in prop::collection::vec((any::<prop::sample::Index>(), 0..8_u8), 200),
    ) {
        let written = written(&history);
        let last = written.borders[written.borders.len() - 2];
        for (at, bit) in flips {
            let at = at.index(written.end());
            let mut bytes = written.bytes.clone();
            bytes[at] ^= 1 << bit;
            match written.reopened_as(&bytes) {
                Err(error) => {
                    let begins = written.borders.iter().rev().find(|border| **border <= at);
                    let begins = begins.copied().unwrap_or(0) as u64;
                    // A burst may have the word before it that what is before that was synced.
                    let named = is_at(&error, written.dir.path()).unwrap();
                    prop_assert!((begins..=at as u64).contains(&named), "{} for {}", error, at);
                    let text = error.to_string();
                    prop_assert!(text.contains("journal is damaged at byte"), "{}", text);
                }
                // Only at the very end can damage look like what a crash leaves.
                Ok(snapshot) => {
                    prop_assert!(at >= last, "flip of bit {} at {}", bit, at);
                    prop_assert_eq!(&snapshot, &written.states[written.states.len() - 2]);
                }
            }
        }
    }

    #[test]
    fn what_is_appended_behind_a_torn_end_is_read_back(history in history(), cut in any::<prop::sample::Index>()) {
        let written = written(&history);
        let length = written.borders[0] + cut.index(written.end() - written.borders[0] + 1);
        std::fs::write(written.dir.path().join("journal"), &written.bytes[..length]).unwrap();
        let mut journal = Journal::open(written.dir.path()).unwrap();
        let mut mirror = Mirror::from(written.states[written.bursts_within(length)].clone());
        for burst in &history {
            journal.append(burst).unwrap();
            burst.iter().for_each(|write| mirror.apply(write));
        }
        drop(journal);
        let again = Journal::open(written.dir.path()).unwrap().snapshot();
        prop_assert_eq!(again, mirror.snapshot());
    }
}

/// What a power cut leaves of `new`, of which `synced` bytes were surely on the disk: of the sectors behind that, those
/// that are chosen, in a file as long as the last of them needs and perhaps as long as it was made.
pub(crate) fn cut(new: &[u8], synced: usize, sector: usize, kept: &[bool], long: bool) -> Vec<u8> {
    let mut left = new.to_vec();
    left[synced..].fill(0);
    let first = synced / sector;
    let mut needed = synced;
    for (nth, from) in (first * sector..new.len()).step_by(sector).enumerate() {
        let to = (from + sector).min(new.len());
        if kept[nth % kept.len()] {
            left[from..to].copy_from_slice(&new[from..to]);
            needed = needed.max(to);
        }
    }
    if !long {
        left.truncate(needed);
    }
    left
}

fn sectors() -> impl Strategy<Value = (usize, Vec<bool>, bool)> {
    let kept = prop::collection::vec(any::<bool>(), 1..12);
    (
        prop_oneof![Just(512_usize), Just(4096)],
        kept,
        any::<bool>(),
    )
}

/// A burst that is longer than a sector now and then.
fn large(kib: usize, id: u128) -> Vec<Write> {
    vec![attempt(id, AttemptState::Running, kib * 700)]
}

/// The end of a journal as it was when everything was last synced, and what was durable then.
fn synced_and_more(before: &[usize], after: &[usize]) -> (Written, usize, Snapshot) {
    let dir = scratch();
    let mut journal = Journal::open(dir.path()).unwrap();
    let mut mirror = Mirror::default();
    let end = |journal: &Journal| usize::try_from(journal.bytes()).unwrap();
    let (mut borders, mut states) = (vec![end(&journal)], vec![mirror.snapshot()]);
    let (mut synced, mut durable) = (end(&journal), mirror.snapshot());
    for (id, kib) in before.iter().chain(after).enumerate() {
        let burst = large(*kib, id as u128);
        journal.append(&burst).unwrap();
        burst.iter().for_each(|write| mirror.apply(write));
        if id < before.len() {
            journal.sync().unwrap();
            (synced, durable) = (end(&journal), mirror.snapshot());
        }
        borders.push(end(&journal));
        states.push(mirror.snapshot());
    }
    drop(journal);
    let bytes = std::fs::read(dir.path().join("journal")).unwrap();
    let written = Written {
        dir,
        bytes,
        borders,
        states,
    };
    (written, synced, durable)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn d4_whatever_sectors_a_power_cut_leaves_what_was_synced_is_there_and_no_burst_in_part(
        before in prop::collection::vec(0..12_usize, 0..4),
        after in prop::collection::vec(0..12_usize, 1..8),
        (sector, kept, long) in sectors(),
    ) {
        let (written, synced, _) = synced_and_more(&before, &after);
        let left = cut(&written.bytes, synced, sector, &kept, long);
        let same = left.iter().zip(&written.bytes).take_while(|(left, new)| left == new).count();
        let snapshot = written.reopened_as(&left);
        prop_assert!(snapshot.is_ok(), "{:?}", snapshot);
        prop_assert_eq!(&snapshot.unwrap(), &written.states[written.bursts_within(same)]);
    }

    #[test]
    fn d4_damage_of_what_was_synced_is_found_beside_what_a_power_cut_left(
        before in prop::collection::vec(0..12_usize, 2..5),
        after in prop::collection::vec(0..12_usize, 0..4),
        (sector, kept, long) in sectors(),
        at in any::<prop::sample::Index>(),
        bit in 0..8_u8,
        whole in any::<bool>(),
    ) {
        let (written, synced, _) = synced_and_more(&before, &after);
        let mut left = cut(&written.bytes, synced, sector, &kept, long);
        // The last of it is not known to be synced by anything that follows it.
        let last = written.borders[before.len() - 1];
        let at = at.index(last);
        if whole {
            // A sector that was synced and is lost: found by what was written after the sync.
            let from = at / sector * sector;
            left[from..(from + sector).min(last)].fill(0);
        } else {
            left[at] ^= 1 << bit;
        }
        let error = written.reopened_as(&left).unwrap_err();
        prop_assert!(is_at(&error, written.dir.path()).unwrap() <= at as u64, "{}", error);
    }
}

/// The smallest size from which a journal may be written anew.
const SMALL: u64 = 4 << 20;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2))]

    #[test]
    fn a_journal_is_never_much_larger_than_what_it_says(
        steps in prop::collection::vec((0..40_u128, 0..5_u8, 1..64_usize), 300),
    ) {
        let dir = scratch();
        let mut journal = Journal::open(dir.path()).unwrap();
        let mut mirror = Mirror::default();
        let (mut longest, mut most) = (0, 0);
        let mut sizes = BTreeMap::new();
        for (id, of, kib) in steps {
            let write = match of {
                0 => settled(id),
                1 => attempt(id, AttemptState::Finished(report()), kib << 10),
                _ => attempt(id, AttemptState::Running, kib << 10),
            };
            let line = serde_json::to_vec(&[&write]).unwrap().len() as u64 + 10;
            longest = longest.max(line);
            mirror.apply(&write);
            // A memory is far smaller than the line that says it.
            sizes.insert(id, line);
            most = most.max(sizes.values().sum::<u64>() + 1024);
            journal.append(&[write]).unwrap();
            // What it says shrinks only until it is written anew.
            let bound = SMALL.max(2 * most) + longest;
            prop_assert!(journal.bytes() <= bound, "{} bytes, {} at most", journal.bytes(), bound);
            let file = std::fs::metadata(dir.path().join("journal")).unwrap();
            prop_assert!(file.len() >= journal.bytes());
        }
        drop(journal);
        let again = Journal::open(dir.path()).unwrap();
        prop_assert_eq!(again.snapshot(), mirror.snapshot());
    }
}
