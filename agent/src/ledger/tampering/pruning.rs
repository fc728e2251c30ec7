//! D4: what is taken away at the front is not taken for what the agent took away; and what the agent took away is said,
//! signed for, and told when it went before its time.

use super::super::live::Session;
use super::super::pruned::{PRUNED, PrunedTo, TakenAway, write_pruned};
use super::*;

/// The head that a segment begins with.
fn begins_with(path: &Path) -> Head {
    let bytes = std::fs::read(path).unwrap();
    let at = HEADER_BYTES + MAGIC.len() + 8;
    bytes[at..at + HEAD_BYTES].try_into().unwrap()
}

/// Takes the segments up to this one away, as somebody who can write the directory and has read the documentation.
fn take_away(dir: &Path, segment: u64) {
    let head = begins_with(&segment_path(dir, segment + 1));
    write_pruned(dir, &PrunedTo { segment, head }).unwrap();
    for number in 1..=segment {
        drop(std::fs::remove_file(segment_path(dir, number)));
    }
}

fn kinds(dir: &Path) -> Vec<Damage> {
    let (_, findings) = check(dir, false, None).unwrap();
    findings.into_iter().map(|finding| finding.kind).collect()
}

/// A process whose sessions have receipts, and whose oldest segments the agent takes away itself.
fn pruned(dir: &Path, center: &Center) -> u64 {
    let mut ledger = open(dir, center, 3 * SMALL);
    session(&mut ledger, center, (1, 1), 40);
    session(&mut ledger, center, (2, 2), 40);
    session(&mut ledger, center, (3, 3), 40);
    session(&mut ledger, center, (4, 4), 45);
    drop(ledger);
    segments(dir).unwrap()[0] - 1
}

#[test]
fn d4_segments_that_were_taken_away_by_hand_do_not_look_like_pruned_ones() {
    let center = Center::new();
    let dir = crate::testing::tempdir().unwrap();
    written(dir.path(), &center);
    assert_eq!(kinds(dir.path()), []);
    take_away(dir.path(), 2);
    let (_, findings) = check(dir.path(), false, None).unwrap();
    assert_eq!(findings[0].kind, Damage::PrunedUnsigned, "{findings:?}");
    assert!(findings[0].what.contains("no record says"), "{findings:?}");
    assert!(findings[0].path.ends_with(PRUNED));
}

#[test]
fn d4_more_taken_away_by_hand_than_the_agent_took_is_named_as_removed() {
    let center = Center::new();
    let dir = crate::testing::tempdir().unwrap();
    let gone = pruned(dir.path(), &center);
    assert!(gone > 1);
    assert_eq!(kinds(dir.path()), []);
    take_away(dir.path(), gone + 1);
    assert_eq!(kinds(dir.path()), [Damage::Removed]);
    assert!(verify(dir.path()).is_err());
}

#[test]
fn d4_a_ledger_that_was_taken_away_whole_is_no_pruned_one() {
    let center = Center::new();
    let dir = crate::testing::tempdir().unwrap();
    let gone = pruned(dir.path(), &center);
    let last = *segments(dir.path()).unwrap().last().unwrap();
    assert!(last > gone);
    std::fs::remove_file(dir.path().join("receipts.led")).unwrap();
    let head = begins_with(&segment_path(dir.path(), last));
    for number in segments(dir.path()).unwrap() {
        std::fs::remove_file(segment_path(dir.path(), number)).unwrap();
    }
    let to = PrunedTo {
        segment: last,
        head,
    };
    write_pruned(dir.path(), &to).unwrap();
    assert_eq!(kinds(dir.path()), [Damage::MissingSegment]);
}

/// Segment 1, made anew with every record in its place in the chain: `edit` says what stands in it.
pub(super) fn made_anew(dir: &Path, number: u64, records: &[(Kind, u64, Vec<u8>)]) {
    let head = match number {
        1 => Head::default(),
        _ => [7; 32],
    };
    made_behind(dir, (number, head), records);
}

/// The same behind one that ended with this head; answers its own.
fn made_behind(
    dir: &Path,
    (number, mut head): (u64, Head),
    records: &[(Kind, u64, Vec<u8>)],
) -> Head {
    let start = [MAGIC.as_slice(), &number.to_be_bytes(), &head].concat();
    let first = (Kind::Segment, 0, start);
    let mut bytes = Vec::new();
    for (kind, conn, payload) in std::iter::once(&first).chain(records) {
        let mut record = Vec::new();
        writer::encode(&mut record, *kind, (*conn, 5), payload);
        head = chain(&head, &record);
        bytes.extend([&record[..], &head].concat());
    }
    std::fs::write(segment_path(dir, number), bytes).unwrap();
    head
}

/// How far session 1 on connection 1 is after these frames, as a segment that it goes on in says it.
fn carried(frames: &[Vec<u8>]) -> (Kind, u64, Vec<u8>) {
    let mut live = live::Live::default();
    for frame in frames {
        drop(live.frame(1, frame));
    }
    drop(live.accepted(1, 1));
    (Kind::Carried, 1, live.of(1).map(Session::carried).unwrap())
}

#[test]
fn d4_frames_cannot_be_left_out_at_the_front_by_saying_that_a_session_goes_on() {
    let dir = crate::testing::tempdir().unwrap();
    let all = frames(1, 9);
    let frame = |n: usize| (Kind::Frame, 1, all[n].clone());
    let tampered = |result: Result<(Summary, Vec<Finding>), LedgerError>| matches!(result, Err(LedgerError::Damaged { kind, .. }) if kind == Damage::Tampered);
    let check = || check(dir.path(), false, None);
    // Nothing was taken away before segment 1.
    made_anew(dir.path(), 1, &[carried(&all[..5]), frame(5), frame(6)]);
    assert!(tampered(check()), "{:?}", check());
    // Somewhere in the middle, of a session that nothing is known of.
    let opened = (Kind::Opened, 0, Vec::new());
    made_anew(dir.path(), 1, &[opened.clone(), carried(&all[..5])]);
    assert!(tampered(check()), "{:?}", check());
    // Where something was taken away, but not directly behind the segment's start.
    std::fs::remove_file(segment_path(dir.path(), 1)).unwrap();
    let to = PrunedTo {
        segment: 1,
        head: [7; 32],
    };
    write_pruned(dir.path(), &to).unwrap();
    made_anew(dir.path(), 2, &[opened, carried(&all[..5]), frame(5)]);
    assert!(tampered(check()), "{:?}", check());
    // More at once than any agent has.
    let many: Vec<_> = (1..20)
        .map(|conn| (Kind::Carried, conn, carried(&all[..5]).2))
        .collect();
    made_anew(dir.path(), 2, &many);
    assert!(tampered(check()), "{:?}", check());
    // In its place it is taken as said, and what went is not counted as signed for.
    made_anew(dir.path(), 2, &[carried(&all[..5]), frame(5)]);
    let (summary, findings) = check().unwrap();
    assert_eq!((summary.frames, summary.signed_frames), (1, 0));
    let kinds: Vec<_> = findings.iter().map(|finding| finding.kind).collect();
    assert_eq!(kinds, [Damage::PrunedUnsigned; 2], "{findings:?}");
    assert!(
        findings[1]
            .what
            .contains("pruned before any receipt: 5 frames of session 1")
    );
}

#[test]
fn d4_what_a_segment_says_of_a_session_is_what_its_frames_say() {
    let dir = crate::testing::tempdir().unwrap();
    let all = frames(1, 9);
    let frame = |n: usize| (Kind::Frame, 1, all[n].clone());
    let accepted = (Kind::Session, 1, 1_u64.to_be_bytes().to_vec());
    let first = [frame(0), accepted, frame(1), frame(2)];
    let others: Vec<_> = all[1..4].to_vec();
    for (says, is_right) in [(&all[..3], true), (&all[..2], false), (&others, false)] {
        let head = made_behind(dir.path(), (1, Head::default()), &first);
        made_behind(dir.path(), (2, head), &[carried(says), frame(3)]);
        match check(dir.path(), false, None) {
            Ok((summary, _)) => assert!(is_right && summary.frames == 4, "{says:?}"),
            Err(LedgerError::Damaged { kind, path, .. }) => {
                assert_eq!((is_right, kind), (false, Damage::Tampered));
                assert!(path.ends_with("000002.led"));
            }
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn what_was_taken_away_before_any_receipt_is_told_and_what_was_signed_for_is_not() {
    let center = Center::new();
    for with_receipts in [true, false] {
        let dir = crate::testing::tempdir().unwrap();
        let mut ledger = open(dir.path(), &center, 3 * SMALL);
        for (conn, epoch) in [(1, 1), (2, 2), (3, 3)] {
            let all = frames(epoch, 40);
            for (n, frame) in all.iter().enumerate() {
                ledger.append(Kind::Frame, conn, 1, frame);
                ledger.sync().unwrap();
                if n == 0 {
                    ledger.append(Kind::Session, conn, 2, &epoch.to_be_bytes());
                    ledger.server(conn, center.chain());
                }
                if with_receipts {
                    ledger.receipt(conn, 3, &center.receipt(epoch, &all[..=n]));
                }
            }
        }
        drop(ledger);
        assert!(segments(dir.path()).unwrap()[0] > 1);
        let (summary, findings) = check(dir.path(), false, None).unwrap();
        if with_receipts {
            assert_eq!(findings, []);
            assert_eq!(summary.signed_frames, summary.frames, "those that are here");
        } else {
            let what = &findings[0].what;
            assert_eq!(findings[0].kind, Damage::PrunedUnsigned);
            assert!(what.starts_with("pruned before any receipt"), "{what}");
            assert_eq!(findings.len(), 1, "{findings:?}");
        }
        assert!(verify(dir.path()).is_ok(), "nothing is known to be wrong");
    }
}

#[test]
fn segments_that_go_before_their_time_are_told_at_once_and_by_every_check() {
    let center = Center::new();
    let dir = crate::testing::tempdir().unwrap();
    let mut ledger = open(dir.path(), &center, 3 * SMALL);
    session(&mut ledger, &center, (1, 1), 40);
    assert_eq!(ledger.notices(), []);
    session(&mut ledger, &center, (2, 2), 40);
    session(&mut ledger, &center, (3, 3), 40);
    let early = |notice: &Notice| matches!(notice, Notice::Early(what) if what.contains("makes this agent say much"));
    let told = ledger.notices();
    assert!(!told.is_empty() && told.iter().all(early), "{told:?}");
    drop(ledger);
    let summary = verify(dir.path()).unwrap();
    assert_eq!(summary.pruned.early, summary.pruned.for_size);
    assert!(summary.pruned.early > 0 && summary.pruned.youngest_s < Some(60));
    let mut reader = Reader::open(dir.path()).unwrap();
    let mut words = Vec::new();
    while let Some(entry) = reader.next_entry().unwrap() {
        words.extend(explain_entry(&entry).into_iter().map(|said| said.words));
    }
    assert!(words.iter().any(|words| words.contains("before its time")));
}

#[test]
fn what_goes_for_its_age_is_no_alarm() {
    let dir = crate::testing::tempdir().unwrap();
    let limits = Limits {
        bytes: DEFAULT_LIMIT_BYTES,
        keep: Duration::ZERO,
        ..Limits::default()
    };
    let mut ledger = Ledger::open(dir.path(), limits, 1).unwrap();
    ledger.make_segments_of(SMALL);
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let now = u64::try_from(now.unwrap().as_micros()).unwrap() + 60_000_000;
    for conn in 1..6 {
        for frame in frames(conn, 40) {
            ledger.append(Kind::Frame, conn, 1, &frame);
            ledger.sync().unwrap();
        }
    }
    let boot = outpost_agent_keeper::process::boot_time_us();
    ledger.hear(now, now, boot).unwrap();
    assert!(segments(dir.path()).unwrap()[0] > 1);
    assert_eq!(ledger.notices(), []);
    drop(ledger);
    let summary = verify(dir.path()).unwrap();
    assert!(summary.pruned_segments > 0);
    assert_eq!((summary.pruned.for_size, summary.pruned.early), (0, 0));
}

#[test]
fn what_is_said_of_a_segment_is_read_back() {
    let taken = TakenAway {
        segment: 7,
        head: [3; 32],
        for_size: true,
        last_written_s: 1_700_000_000,
        taken_away_s: 1_700_000_060,
        keep_s: 90,
    };
    assert_eq!(TakenAway::from_payload(&taken.payload()), Some(taken));
    assert!(taken.is_early());
    let late = TakenAway {
        keep_s: 60,
        ..taken
    };
    assert!(!late.is_early());
    let age = TakenAway {
        for_size: false,
        ..taken
    };
    assert!(!age.is_early());
    assert_eq!(TakenAway::from_payload(&taken.payload()[1..]), None);
}
