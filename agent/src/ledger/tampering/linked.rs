//! D4: sessions that somebody leaves out of a ledger that is made anew, together with their receipts; and records of a newer
//! version, which are no damage.

use super::super::pruned::{PrunedTo, TakenAway, write_pruned};
use super::*;

const LEFT: &str = "are not here";
const UNCOVERED: &str = "nothing that is signed says";

/// One session, as a ledger holds it and an orchestrator signed it.
struct Had {
    epoch: u64,
    frames: Vec<Vec<u8>>,
    receipt: Option<Receipt>,
}

/// A ledger of exactly these, each in a segment of its own or more: as written by an agent, or by somebody who makes a whole
/// one anew.
fn holds(dir: &Path, center: &Center, sessions: &[Had]) {
    for (conn, had) in (1..).zip(sessions) {
        // Each by a process of its own, which knows nothing of those before.
        let mut ledger = open(dir, center, DEFAULT_LIMIT_BYTES);
        for frame in &had.frames {
            ledger.append(Kind::Frame, conn, 1, frame);
        }
        ledger.append(Kind::Session, conn, 2, &had.epoch.to_be_bytes());
        ledger.sync().unwrap();
        ledger.server(conn, center.chain());
        if let Some(receipt) = &had.receipt {
            let frames = receipt.frame_count;
            let judged = ledger.receipt(conn, 3, receipt);
            assert_eq!(judged, Judged::Holds { frames });
        }
    }
}

/// What there is of all of them, and what is not as it should be.
fn found(dir: &Path) -> (Summary, Vec<(Damage, String)>) {
    let (summary, findings) = check(dir, false, None).unwrap();
    let findings = findings.into_iter().map(|f| (f.kind, f.what));
    (summary, findings.collect())
}

/// Sessions 1 to `last`, each of `count` frames, with a receipt for all but its last frame; of the later ones, which say
/// what came before.
fn honest(center: &Center, last: u64, count: u64) -> Vec<Had> {
    let one = |epoch: u64| {
        let frames = frames(epoch, count);
        let signed = &frames[..frames.len() - 1];
        let first = epoch.saturating_sub(8).max(1);
        let before: Vec<_> = (first..epoch)
            .map(|n| received(n, &self::frames(n, count)))
            .collect();
        let receipt = center.linked(epoch, signed, (1, &before));
        Had {
            epoch,
            frames,
            receipt: Some(receipt),
        }
    };
    (1..=last).map(one).collect()
}

fn with_receipts(sessions: Vec<Had>, keeps: impl Fn(u64) -> bool) -> Vec<Had> {
    let keep = |had: Had| Had {
        receipt: had.receipt.filter(|_| keeps(had.epoch)),
        ..had
    };
    sessions.into_iter().map(keep).collect()
}

#[test]
fn what_a_later_receipt_says_of_a_session_holds_for_its_last_frames_too() {
    let center = Center::new();
    let dir = crate::testing::tempdir().unwrap();
    holds(dir.path(), &center, &honest(&center, 3, 9));
    let (summary, findings) = found(dir.path());
    assert_eq!(findings, []);
    let signed: Vec<_> = summary.sessions.iter().map(|s| s.signed_frames).collect();
    assert_eq!(signed, [9, 9, 8], "the last one has no successor");
    assert_eq!((summary.receipts.hold, summary.receipts.before), (3, 2));
    assert_eq!(summary.sessions[0].signed_for.as_deref(), Some("acme/bank"));
    // A session without a receipt of its own.
    let dir = crate::testing::tempdir().unwrap();
    let all = with_receipts(honest(&center, 3, 9), |epoch| epoch != 2);
    holds(dir.path(), &center, &all);
    let (summary, findings) = found(dir.path());
    assert_eq!(findings, []);
    assert_eq!(summary.sessions[1].signed_frames, 9);
}

#[test]
fn d4_leading_sessions_that_are_left_out_with_their_receipts_are_named() {
    let center = Center::new();
    // Of an orchestrator of an earlier version: the numbers show it.
    let dir = crate::testing::tempdir().unwrap();
    let third = Had {
        receipt: Some(center.receipt(3, &frames(3, 9))),
        epoch: 3,
        frames: frames(3, 9),
    };
    holds(dir.path(), &center, &[third]);
    let (_, findings) = found(dir.path());
    assert_eq!(findings.len(), 1, "{findings:?}");
    assert_eq!(findings[0].0, Damage::SessionMissing);
    assert!(findings[0].1.contains("sessions 1 to 2") && findings[0].1.contains(LEFT));
    // And what it signed, with which of them.
    let dir = crate::testing::tempdir().unwrap();
    holds(dir.path(), &center, &honest(&center, 3, 9)[2..]);
    let (_, findings) = found(dir.path());
    let kinds: Vec<_> = findings.iter().map(|(kind, _)| *kind).collect();
    let expected = [Damage::Truncated, Damage::Truncated, Damage::SessionMissing];
    assert_eq!(kinds, expected, "{findings:?}");
    assert!(
        findings[0]
            .1
            .contains("before session 3 came 9 frames of session 1, and here is none"),
        "{findings:?}"
    );
    assert!(verify(dir.path()).is_err());
}

#[test]
fn d4_sessions_that_stand_in_for_those_left_out_are_named() {
    let center = Center::new();
    let stand_ins = |receipt: Receipt| {
        let stand_in = |epoch| Had {
            epoch,
            frames: vec![b"hello".to_vec()],
            receipt: None,
        };
        let frames = frames(3, 9);
        vec![
            stand_in(1),
            stand_in(2),
            Had {
                epoch: 3,
                frames,
                receipt: Some(receipt),
            },
        ]
    };
    let all = honest(&center, 3, 9);
    let dir = crate::testing::tempdir().unwrap();
    let receipt = all[2].receipt.clone().unwrap();
    holds(dir.path(), &center, &stand_ins(receipt));
    let (_, findings) = found(dir.path());
    let kinds: Vec<_> = findings.iter().map(|(kind, _)| *kind).collect();
    assert_eq!(kinds, [Damage::Truncated; 2], "{findings:?}");
    assert!(
        findings[1]
            .1
            .contains("9 frames of session 2, and here are 1")
    );
    // With as many frames, and others.
    let mut forged = stand_ins(all[2].receipt.clone().unwrap());
    forged[1].frames = frames(7, 9);
    let dir = crate::testing::tempdir().unwrap();
    holds(dir.path(), &center, &forged);
    let kinds: Vec<_> = found(dir.path())
        .1
        .into_iter()
        .map(|(kind, _)| kind)
        .collect();
    assert_eq!(kinds, [Damage::Truncated, Damage::ReceiptMismatch]);
    // What no check can tell, and the page says so: a receipt of an earlier orchestrator says nothing of what came before,
    // and so does one of an orchestrator that was started after them.
    let of_earlier = center.receipt(3, &frames(3, 9));
    let started_since = center.linked(3, &frames(3, 9), (3, &[]));
    for receipt in [of_earlier, started_since] {
        let dir = crate::testing::tempdir().unwrap();
        holds(dir.path(), &center, &stand_ins(receipt));
        let (summary, findings) = found(dir.path());
        assert_eq!(findings, []);
        assert_eq!(
            summary.sessions[1].signed_frames, 0,
            "it is told not to be signed for"
        );
    }
}

#[test]
fn d4_sessions_farther_back_than_receipts_reach_are_told_to_be_unsigned() {
    let center = Center::new();
    let dir = crate::testing::tempdir().unwrap();
    // The twelfth names the fourth to the eleventh; the receipts of the first three went, and they could be anything.
    holds(
        dir.path(),
        &center,
        &with_receipts(honest(&center, 12, 3), |epoch| epoch == 12),
    );
    let (_, findings) = found(dir.path());
    assert_eq!(findings.len(), 1, "{findings:?}");
    assert_eq!(findings[0].0, Damage::SessionMissing);
    assert!(findings[0].1.contains("sessions 1 to 3") && findings[0].1.contains(UNCOVERED));
    let dir = crate::testing::tempdir().unwrap();
    let some = with_receipts(honest(&center, 12, 3), |epoch| epoch == 12 || epoch == 4);
    holds(dir.path(), &center, &some);
    assert_eq!(found(dir.path()).1, []);
}

/// Says that everything up to this session is gone: the segment that it begins in is the first one left.
fn only_from(dir: &Path, center: &Center, sessions: &[Had], gone: &[u64]) {
    holds(dir, center, sessions);
    let first = segments(dir).unwrap()[0];
    assert_eq!(first, 1);
    // Made anew as segment 2, behind one that the agent says it took away.
    let head = [7; 32];
    let mut all = vec![(Kind::Opened, 0, Vec::new())];
    let mut ledger = Reader::open(dir).unwrap();
    while let Some(entry) = ledger.next_entry().unwrap() {
        if matches!(entry.kind, Kind::Frame | Kind::Session) && !gone.contains(&entry.conn) {
            all.push((entry.kind, entry.conn, entry.payload));
        }
    }
    let taken = TakenAway {
        segment: 1,
        head,
        for_size: false,
        last_written_s: 1,
        taken_away_s: 9,
        keep_s: 2,
    };
    all.push((Kind::Pruned, 0, taken.payload()));
    for number in segments(dir).unwrap() {
        std::fs::remove_file(segment_path(dir, number)).unwrap();
    }
    super::pruning::made_anew(dir, 2, &all);
    write_pruned(dir, &PrunedTo { segment: 1, head }).unwrap();
}

#[test]
fn what_went_with_old_segments_is_no_missing_session_and_what_went_behind_them_is() {
    let center = Center::new();
    let dir = crate::testing::tempdir().unwrap();
    only_from(dir.path(), &center, &honest(&center, 4, 3), &[1, 2]);
    let (summary, findings) = found(dir.path());
    assert_eq!(findings, []);
    assert!(summary.receipts.of_pruned >= 2, "{summary:?}");
    // Only the newest receipt is there: it is evidence of what is gone.
    let dir = crate::testing::tempdir().unwrap();
    let only_last = with_receipts(honest(&center, 4, 3), |epoch| epoch == 4);
    only_from(dir.path(), &center, &only_last, &[1, 2]);
    let (summary, findings) = found(dir.path());
    assert_eq!(findings, []);
    assert_eq!(
        (summary.receipts.of_pruned, summary.receipts.before),
        (2, 1)
    );
    // A session behind one that is here cannot have gone with the oldest ones.
    let dir = crate::testing::tempdir().unwrap();
    only_from(
        dir.path(),
        &center,
        &with_receipts(honest(&center, 4, 3), |epoch| epoch == 4),
        &[1, 3],
    );
    let (_, findings) = found(dir.path());
    let kinds: Vec<_> = findings.iter().map(|(kind, _)| *kind).collect();
    assert_eq!(
        kinds,
        [Damage::Truncated, Damage::SessionMissing],
        "{findings:?}"
    );
    assert!(
        findings[0]
            .1
            .contains("3 frames of session 3, and here is none")
    );
    assert!(findings[1].1.contains("session 3 of this agent"));
}

#[test]
fn a_receipt_that_says_another_past_than_this_process_had_is_an_alarm() {
    let center = Center::new();
    let dir = crate::testing::tempdir().unwrap();
    holds(
        dir.path(),
        &center,
        &with_receipts(honest(&center, 2, 9), |epoch| epoch == 1),
    );
    let mut ledger = open(dir.path(), &center, DEFAULT_LIMIT_BYTES);
    let (first, second) = (frames(3, 9), frames(4, 5));
    for (conn, epoch, frames) in [(1, 3_u64, &first), (2, 4, &second)] {
        frames
            .iter()
            .for_each(|frame| ledger.append(Kind::Frame, conn, 1, frame));
        ledger.append(Kind::Session, conn, 2, &epoch.to_be_bytes());
        ledger.server(conn, center.chain());
    }
    ledger.sync().unwrap();
    let others = frames(9, 9);
    let too_many = frames(3, 10);
    for before in [&others, &too_many] {
        let receipt = center.linked(4, &second, (1, &[received(3, before)]));
        let judged = ledger.receipt(2, 5, &receipt);
        assert!(
            matches!(&judged, Judged::Alarm(Damage::ReceiptMismatch, why) if why.contains("came before")),
            "{judged:?}"
        );
    }
    // Of those that are forgotten here a later check says more.
    let before = [received(2, &frames(2, 9)), received(3, &first[..7])];
    let receipt = center.linked(4, &second, (1, &before));
    assert_eq!(ledger.receipt(2, 5, &receipt), Judged::Holds { frames: 5 });
    // Nothing of it can be changed.
    let mut forged = receipt;
    if let Some(linked) = &mut forged.linked {
        linked.before.remove(0);
    }
    let judged = ledger.receipt(2, 6, &forged);
    assert!(
        matches!(judged, Judged::Alarm(Damage::ReceiptSignature, _)),
        "{judged:?}"
    );
}

#[test]
fn a_record_of_a_newer_version_is_no_damage_and_the_way_out_is_named() {
    let dir = crate::testing::tempdir().unwrap();
    let newer = (Kind::Newer, 0, b"whatever it says".to_vec());
    super::pruning::made_anew(
        dir.path(),
        1,
        &[(Kind::Opened, 0, Vec::new()), newer.clone()],
    );
    let opened = Ledger::open(dir.path(), DEFAULT_LIMIT_BYTES, 1).map(drop);
    let checked = check(dir.path(), true, None).map(drop);
    for refused in [opened, checked] {
        let error = refused.unwrap_err();
        assert!(matches!(error, LedgerError::Newer { .. }), "{error:?}");
        let said = error.to_string();
        assert!(
            said.contains("000001.led") && said.contains("a newer one wrote it"),
            "{said}"
        );
        assert!(
            said.contains(&format!("move {} away", dir.path().display())),
            "{said}"
        );
    }
    // One that is not in its place in the chain is damage all the same.
    let path = segment_path(dir.path(), 1);
    let mut bytes = std::fs::read(&path).unwrap();
    let at = records(&path)[2].0 + HEADER_BYTES;
    bytes[at] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    assert!(matches!(
        check(dir.path(), true, None),
        Err(LedgerError::Damaged { .. })
    ));
}

#[test]
fn receipts_of_a_newer_version_are_told_and_those_beside_them_count() {
    let center = Center::new();
    let dir = crate::testing::tempdir().unwrap();
    holds(dir.path(), &center, &honest(&center, 1, 9));
    let path = dir.path().join("receipts.led");
    let mut bytes = std::fs::read(&path).unwrap();
    let head: Head = bytes[bytes.len() - HEAD_BYTES..].try_into().unwrap();
    let mut record = Vec::new();
    writer::encode(&mut record, Kind::Newer, (1, 5), b"whatever it says");
    let head = chain(&head, &record);
    bytes.extend([&record[..], &head].concat());
    std::fs::write(&path, bytes).unwrap();
    let (summary, findings) = found(dir.path());
    assert_eq!(summary.receipts.hold, 1);
    assert_eq!(findings.len(), 1, "{findings:?}");
    assert_eq!(findings[0].0, Damage::ReceiptUnknown);
    assert!(findings[0].1.contains("a newer version"));
    // The agent goes on with it, and sets nothing aside.
    let mut ledger = open(dir.path(), &center, DEFAULT_LIMIT_BYTES);
    assert_eq!(ledger.notices(), []);
}
