//! H14, D4: by chance anywhere.

use proptest::prelude::*;

use super::*;

/// Made once: every case begins with a copy of it.
fn sample() -> &'static Path {
    static MADE: std::sync::OnceLock<(tempfile::TempDir, PathBuf)> = std::sync::OnceLock::new();
    &MADE.get_or_init(|| exported(&Center::new())).1
}

fn names() -> Vec<String> {
    let names = std::fs::read_dir(sample()).unwrap();
    let mut names: Vec<_> = names
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn a_segment() -> impl Strategy<Value = u64> {
    let all = segments(sample()).unwrap();
    proptest::sample::select(all)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn d4_any_single_flip_in_any_file_is_found(
        name in proptest::sample::select(names()),
        at in any::<proptest::sample::Index>(),
        bit in 0..8_u8,
    ) {
        let (_copy, dir) = copy(sample());
        let path = dir.join(&name);
        let mut bytes = std::fs::read(&path).unwrap();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        std::fs::write(&path, bytes).unwrap();
        let found = wrong(&dir);
        prop_assert!(!found.is_empty(), "{name} at {at}, bit {bit}");
        if name.starts_with("00") {
            prop_assert_eq!(&found, &[Damage::Tampered], "{} at {}", name, at);
            let all = records(&sample().join(&name));
            let record = all.iter().rev().find(|(from, _)| *from <= at).unwrap();
            prop_assert_eq!(place(&dir), (name, record.0 as u64));
        }
    }

    #[test]
    fn d4_any_two_records_that_change_places_are_found(
        number in a_segment(),
        (one, two) in (any::<proptest::sample::Index>(), any::<proptest::sample::Index>()),
    ) {
        let (_copy, dir) = copy(sample());
        let path = segment_path(&dir, number);
        let all = records(&path);
        let (a, b) = (one.index(all.len()), two.index(all.len()));
        let (a, b) = (a.min(b), a.max(b));
        prop_assume!(a != b);
        let good = std::fs::read(&path).unwrap();
        let record = |n: usize| &good[all[n].0..all[n].0 + all[n].1];
        let order: Vec<usize> = (0..all.len())
            .map(|n| if n == a { b } else if n == b { a } else { n })
            .collect();
        let bytes: Vec<u8> = order.into_iter().flat_map(record).copied().collect();
        std::fs::write(&path, bytes).unwrap();
        let found = wrong(&dir);
        // A segment without its start cannot be told from one whose start was changed.
        let expected = if a == 0 { Damage::Tampered } else { Damage::Reordered };
        prop_assert_eq!(found, [expected]);
    }

    #[test]
    fn d4_any_records_that_are_taken_out_are_found(
        number in a_segment(),
        from in any::<proptest::sample::Index>(),
        count in 1..4_usize,
    ) {
        let (_copy, dir) = copy(sample());
        let path = segment_path(&dir, number);
        let all = records(&path);
        let from = from.index(all.len());
        let until = (from + count).min(all.len());
        let good = std::fs::read(&path).unwrap();
        let rest = all.get(until).map_or(&[][..], |(at, _)| &good[*at..]);
        std::fs::write(&path, [&good[..all[from].0], rest].concat()).unwrap();
        let found = wrong(&dir);
        prop_assert!(!found.is_empty(), "{number}: {from}..{until} of {}", all.len());
    }

    #[test]
    fn d4_any_cut_is_found(number in a_segment(), keep in any::<proptest::sample::Index>()) {
        let (_copy, dir) = copy(sample());
        let path = segment_path(&dir, number);
        let bytes = std::fs::read(&path).unwrap();
        let keep = keep.index(bytes.len());
        std::fs::write(&path, &bytes[..keep]).unwrap();
        prop_assert!(!wrong(&dir).is_empty(), "{number} at {keep}");
    }

    #[test]
    fn h14_whatever_stands_in_a_segment_is_read_without_harm(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        let dir = crate::testing::tempdir().unwrap();
        std::fs::write(segment_path(dir.path(), 1), &bytes).unwrap();
        let _ = check(dir.path(), false, None);
        let _ = check(dir.path(), true, None);
        std::fs::write(dir.path().join("receipts.led"), &bytes).unwrap();
        let _ = check(dir.path(), false, None);
        for name in ["pruned.json", "trust.json", "manifest.json", "manifest.sha256"] {
            std::fs::write(dir.path().join(name), &bytes).unwrap();
        }
        let _ = check_export(dir.path(), None);
    }

    #[test]
    fn h14_records_of_any_kind_and_content_are_read_and_explained_without_harm(
        all in prop::collection::vec((0..15_u8, any::<u64>(), 0..4_u64, prop::collection::vec(any::<u8>(), 0..90)), 0..40),
        beside in any::<bool>(),
    ) {
        let dir = crate::testing::tempdir().unwrap();
        // Each record is well formed and in its place: what is wrong is what they say.
        let (mut bytes, mut head) = (Vec::new(), Head::default());
        let number = u64::from(!beside);
        let start = [MAGIC.as_slice(), &number.to_be_bytes(), &head].concat();
        let first = (Kind::Segment.code(), 0, 0, start);
        for (code, wall_us, conn, payload) in std::iter::once(first).chain(all) {
            let kind = Kind::from_code(code).unwrap_or(Kind::Newer);
            let mut record = Vec::new();
            writer::encode(&mut record, kind, (conn, wall_us), &payload);
            head = chain(&head, &record);
            bytes.extend([&record[..], &head].concat());
        }
        let path = if beside { dir.path().join("receipts.led") } else { segment_path(dir.path(), 1) };
        std::fs::write(path, bytes).unwrap();
        let _ = check(dir.path(), true, None);
        let _ = Ledger::open(dir.path(), DEFAULT_LIMIT_BYTES, 1);
        let mut reader = Reader::open(dir.path()).unwrap();
        while let Ok(Some(entry)) = reader.next_entry() {
            prop_assert!(!explain_entry(&entry).is_empty() || entry.kind == Kind::Frame);
        }
    }
}
