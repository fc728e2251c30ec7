//! An orchestrator that wants its receipts to be worth nothing, and a disk that does not take them: what was signed for stays
//! shown, the agent goes on, and it is told.

use super::super::held::{BAD, FILE};
use super::*;

/// A ledger with one session of so many frames, of which nothing is signed for yet.
fn one(dir: &Path, center: &Center, count: u64) -> (Ledger, Vec<Vec<u8>>) {
    let mut ledger = open(dir, center, DEFAULT_LIMIT_BYTES);
    let mine = frames(1, count);
    for frame in &mine {
        ledger.append(Kind::Frame, 1, 1, frame);
    }
    ledger.append(Kind::Session, 1, 2, &1_u64.to_be_bytes());
    ledger.sync().unwrap();
    ledger.server(1, center.chain());
    (ledger, mine)
}

fn signed_frames(dir: &Path) -> u64 {
    let (summary, _) = check(dir, false, None).unwrap();
    summary.sessions[0].signed_frames
}

#[test]
fn no_receipt_that_does_not_hold_takes_the_place_of_one_that_does() {
    let center = Center::new();
    let dir = crate::testing::tempdir().unwrap();
    let (mut ledger, mine) = one(dir.path(), &center, 40);
    let holds = Judged::Holds { frames: 30 };
    assert_eq!(ledger.receipt(1, 3, &center.receipt(1, &mine[..30])), holds);
    let mut forged = center.receipt(1, &mine);
    forged.named_signature[9] ^= 1;
    let mut others = mine.clone();
    others[3][0] ^= 1;
    // It contradicts itself about frames whose head is forgotten here.
    let contradicts = center.receipt(1, &others[..30]);
    let judged = ledger.receipt(1, 4, &contradicts);
    let mismatch = Damage::ReceiptMismatch;
    assert!(
        matches!(&judged, Judged::Alarm(kind, _) if *kind == mismatch),
        "{judged:?}"
    );
    let junk = [
        forged,
        center.receipt(1, &others),
        center.receipt(1, &frames(1, 90)),
        center.receipt_for("other", 1, &mine),
        // These are signed for, and cover less, or nothing that is here.
        center.receipt(1, &mine[..7]),
        center.receipt(2, &mine),
    ];
    for round in 0..200 {
        for receipt in &junk {
            let judged = ledger.receipt(1, 4, receipt);
            assert!(!matches!(judged, Judged::Holds { .. }), "{judged:?}");
        }
        if round % 50 == 49 {
            ledger.receipts_have_grown();
            ledger.receipt(1, 5, &junk[0]);
        }
    }
    // A new file is made when one has grown: what covers most stays.
    ledger.receipts_have_grown();
    let holds = Judged::Holds { frames: 31 };
    assert_eq!(ledger.receipt(1, 6, &center.receipt(1, &mine[..31])), holds);
    drop(ledger);
    assert_eq!(signed_frames(dir.path()), 31);
    let kept = signed(dir.path()).unwrap();
    assert_eq!(kept.len(), BAD + 1, "so many as evidence, and no more");
    // Also in the next process, which goes on with the same connection numbers.
    let (mut ledger, _) = one(dir.path(), &center, 5);
    ledger.receipts_have_grown();
    ledger.receipt(1, 9, &center.receipt(1, &mine[..2]));
    drop(ledger);
    assert_eq!(signed_frames(dir.path()), 31);
    assert!(std::fs::metadata(dir.path().join(FILE)).unwrap().len() < 100_000);
}

#[test]
fn of_each_session_the_receipt_that_covers_most_stays_when_the_file_is_written_anew() {
    let center = Center::new();
    let dir = crate::testing::tempdir().unwrap();
    written(dir.path(), &center);
    assert_eq!(signed(dir.path()).unwrap().len(), 8);
    let mut ledger = open(dir.path(), &center, DEFAULT_LIMIT_BYTES);
    assert_eq!(signed(dir.path()).unwrap().len(), 8, "goes on with it");
    ledger.receipts_have_grown();
    ledger.append(Kind::Frame, 7, 1, b"hello");
    ledger.append(Kind::Session, 7, 2, &4_u64.to_be_bytes());
    ledger.sync().unwrap();
    ledger.server(7, center.chain());
    let one = Judged::Holds { frames: 1 };
    let hello = [b"hello".to_vec()];
    assert_eq!(ledger.receipt(7, 9, &center.receipt(4, &hello)), one);
    drop(ledger);
    let kept = signed(dir.path()).unwrap();
    let kept: Vec<_> = kept
        .iter()
        .map(|s| (s.session_epoch, s.frame_count))
        .collect();
    assert_eq!(kept, [(1, 27), (2, 17), (3, 27), (4, 1)]);
    assert_eq!(verify(dir.path()).unwrap().receipts.hold, 4);
}

#[test]
fn a_receipt_for_one_agent_cannot_be_presented_for_another() {
    let center = Center::new();
    let dir = crate::testing::tempdir().unwrap();
    let (mut ledger, mine) = one(dir.path(), &center, 9);
    let judged = ledger.receipt(1, 3, &center.receipt_for("other", 1, &mine));
    let expected = Damage::ReceiptSignature;
    assert!(
        matches!(&judged, Judged::Alarm(kind, why) if *kind == expected && why.contains("bank")),
        "{judged:?}"
    );
    let all = Judged::Holds { frames: 9 };
    assert_eq!(ledger.receipt(1, 3, &center.receipt(1, &mine)), all);
    drop(ledger);
    let (summary, findings) = check(dir.path(), false, None).unwrap();
    assert_eq!(findings.len(), 1, "{findings:?}");
    assert_eq!(summary.sessions[0].signed_for.as_deref(), Some("acme/bank"));
    // A whole ledger, exported as another agent's, by somebody who also makes the list of files anew.
    let (of_bank, of_other) = (crate::testing::tempdir().unwrap(), agent());
    written(&of_bank.path().join("ledger"), &center);
    let other = Identity {
        agent: "other".into(),
        spiffe_id: SPIFFE.replace("bank", "other"),
        ..of_other
    };
    let to = of_bank.path().join("export");
    std::fs::remove_file(of_bank.path().join("ledger/trust.json")).unwrap();
    let root = [center.authority.root().to_vec()];
    let anchor = Anchor::new(&other.spiffe_id, &root).unwrap();
    Trust::add(&of_bank.path().join("ledger"), anchor).unwrap();
    let exported = export(&of_bank.path().join("ledger"), &to, &other, 7).unwrap();
    let is_named = |finding: &Finding| {
        finding.kind == Damage::ReceiptMismatch && finding.what.contains("is for agent bank of")
    };
    assert_eq!(exported.findings.len(), 8);
    assert!(exported.findings.iter().all(is_named));
    let signed: Vec<_> = exported
        .summary
        .sessions
        .iter()
        .map(|s| s.signed_frames)
        .collect();
    assert_eq!(signed, [0, 0, 0]);
}

#[test]
fn a_receipt_of_an_earlier_orchestrator_holds_and_is_told_to_name_nobody() {
    let center = Center::new();
    let dir = crate::testing::tempdir().unwrap();
    let (mut ledger, mine) = one(dir.path(), &center, 9);
    let old = Receipt {
        named_signature: Vec::new(),
        ..center.receipt(1, &mine)
    };
    let all = Judged::Holds { frames: 9 };
    assert_eq!(ledger.receipt(1, 3, &old), all);
    drop(ledger);
    let summary = verify(dir.path()).unwrap();
    assert_eq!((summary.receipts.hold, summary.receipts.unnamed), (1, 1));
    let session = &summary.sessions[0];
    assert_eq!((session.signed_frames, &session.signed_for), (9, &None));
}

#[test]
fn a_receipt_whose_signer_is_not_known_is_told_and_proves_nothing() {
    let center = Center::new();
    let dir = crate::testing::tempdir().unwrap();
    let (mut ledger, mine) = one(dir.path(), &center, 5);
    ledger.server(1, Vec::new());
    // Link did not say what the server presented.
    let judged = ledger.receipt(1, 3, &center.receipt(1, &mine));
    let alarm = |judged: &Judged| matches!(judged, Judged::Alarm(Damage::ReceiptUnknown, _));
    assert!(alarm(&judged), "{judged:?}");
    let (summary, findings) = check(dir.path(), false, None).unwrap();
    assert_eq!((summary.receipts.unknown, summary.receipts.hold), (1, 0));
    assert_eq!(findings[0].kind, Damage::ReceiptUnknown, "{findings:?}");
    assert_eq!(summary.sessions[0].signed_frames, 0);
    // And where it is not known whose signature counts.
    ledger.server(1, center.chain());
    let four = Judged::Holds { frames: 4 };
    assert_eq!(ledger.receipt(1, 4, &center.receipt(1, &mine[..4])), four);
    drop(ledger);
    std::fs::remove_file(dir.path().join("trust.json")).unwrap();
    let (summary, findings) = check(dir.path(), false, None).unwrap();
    assert_eq!((summary.receipts.unknown, summary.signed_frames), (2, 0));
    assert_eq!(findings.len(), 2, "{findings:?}");
    assert!(verify(dir.path()).is_ok(), "nothing is known to be wrong");
}

#[test]
fn d3_a_file_of_receipts_that_cannot_be_synced_is_written_anew_and_the_agent_goes_on() {
    let center = Center::new();
    let dir = crate::testing::tempdir().unwrap();
    let (mut ledger, mine) = one(dir.path(), &center, 9);
    let receipt = |count: usize| center.receipt(1, &mine[..count]);
    ledger.receipt(1, 3, &receipt(4));
    assert_eq!(ledger.notices(), []);
    // A pipe takes what is written, and cannot be synced.
    let (_read, write) = std::io::pipe().unwrap();
    let pipe = std::fs::File::from(std::os::fd::OwnedFd::from(write));
    ledger.beside.cannot_be_synced(pipe.try_clone().unwrap());
    assert_eq!(
        ledger.receipt(1, 4, &receipt(6)),
        Judged::Holds { frames: 6 }
    );
    let told = ledger.notices();
    let anew =
        |notice: &Notice| matches!(notice, Notice::Receipts(what) if what.contains("written anew"));
    assert!(told.len() == 1 && anew(&told[0]), "{told:?}");
    assert_eq!(signed_frames(dir.path()), 6, "it is there, in the new file");
    // Nor can a new one be made.
    let temp = dir.path().join("receipts.tmp");
    std::fs::create_dir(&temp).unwrap();
    ledger.beside.cannot_be_synced(pipe);
    assert_eq!(
        ledger.receipt(1, 5, &receipt(8)),
        Judged::Holds { frames: 8 }
    );
    let told = ledger.notices();
    let not_kept =
        |notice: &Notice| matches!(notice, Notice::Receipts(what) if what.contains("not kept"));
    assert!(told.len() == 2 && not_kept(&told[1]), "{told:?}");
    ledger.receipt(1, 6, &receipt(9));
    ledger.append(Kind::Frame, 1, 7, b"it goes on");
    ledger.sync().unwrap();
    assert_eq!(ledger.notices(), [], "told once");
    drop(ledger);
    assert_eq!(signed_frames(dir.path()), 6, "nothing was written past it");
    // The next process begins without it, and with it as soon as it can.
    drop(open(dir.path(), &center, DEFAULT_LIMIT_BYTES));
    assert_eq!(signed_frames(dir.path()), 6);
}

#[test]
fn d4_a_damaged_file_of_receipts_is_set_aside_and_the_agent_goes_on_with_what_can_be_read() {
    let center = Center::new();
    let dir = crate::testing::tempdir().unwrap();
    written(dir.path(), &center);
    let path = dir.path().join(FILE);
    let all = records(&path);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[all[6].0 + HEADER_BYTES] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    let (mut ledger, mine) = one(dir.path(), &center, 9);
    let told = ledger.notices();
    assert!(
        matches!(&told[..], [Notice::Receipts(what)] if what.contains("set aside")),
        "{told:?}"
    );
    let all = Judged::Holds { frames: 9 };
    assert_eq!(ledger.receipt(1, 3, &center.receipt(1, &mine)), all);
    drop(ledger);
    let aside = dir.path().join("receipts.damaged");
    assert_eq!(std::fs::read(&aside).unwrap(), bytes);
    let (summary, findings) = check(dir.path(), false, None).unwrap();
    assert!(summary.receipts.hold > 1, "{summary:?}");
    assert_eq!((findings.len(), findings[0].kind), (1, Damage::Tampered));
    assert_eq!(findings[0].path, aside);
    // And the reader of an export is told as well.
    let to = dir.path().join("export");
    export(dir.path(), &to, &agent(), 1).unwrap();
    assert_eq!(wrong(&to), [Damage::Tampered]);
}
