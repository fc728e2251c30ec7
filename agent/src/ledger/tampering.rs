//! D4: whatever is done to a ledger is found, and named for what it is: by hand for each kind, and by chance anywhere, on a
//! ledger of several processes, sessions and segments with receipts from a real server's key.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::*;
use crate::state_dir::Identity;
use outpost_certs::ca::Authority;
use outpost_certs::issue::ServerIdentity;
use outpost_certs::receipt::{self, Holder, Signer};
use outpost_proto::ids::SessionEpoch;
use outpost_proto::message::{Linked, Receipt, SessionEnd};

mod bounded;
mod chance;
mod hostile;
mod linked;
mod pruning;
mod roots;

const SMALL: u64 = 2000;
const SPIFFE: &str = "spiffe://test.example/tenant/acme/agent/bank";

#[test]
fn a_session_whose_number_was_lost_in_a_crash_is_known_by_what_was_signed_for() {
    let center = Center::new();
    let dir = crate::testing::tempdir().unwrap();
    let mut ledger = open(dir.path(), &center, DEFAULT_LIMIT_BYTES);
    let mine = frames(1, 1);
    ledger.append(Kind::Frame, 1, 1, &mine[0]);
    ledger.sync().unwrap();
    // Said in one breath with the receipt; neither is written when the process is killed, but for the receipt.
    ledger.append(Kind::Session, 1, 2, &1_u64.to_be_bytes());
    ledger.server(1, center.chain());
    let holds = Judged::Holds { frames: 1 };
    assert_eq!(ledger.receipt(1, 3, &center.receipt(1, &mine)), holds);
    drop(ledger);
    assert_eq!(verify(dir.path()).unwrap().receipts.hold, 1);
}

/// The other side: what an orchestrator computes of what it receives.
struct Center {
    authority: Authority,
    server: ServerIdentity,
}

impl Center {
    fn new() -> Self {
        let now = SystemTime::now();
        let authority = Authority::create("test.example", now).unwrap();
        let server = server(&authority);
        Self { authority, server }
    }

    fn chain(&self) -> Vec<Vec<u8>> {
        self.server.chain.iter().map(|der| der.to_vec()).collect()
    }

    fn trust(&self, dir: &Path) -> Trust {
        let anchor = Anchor::new(SPIFFE, &[self.authority.root().to_vec()]).unwrap();
        Trust::add(dir, anchor).unwrap()
    }

    fn receipt(&self, epoch: u64, frames: &[Vec<u8>]) -> Receipt {
        self.receipt_for("bank", epoch, frames)
    }

    fn receipt_for(&self, agent: &str, epoch: u64, frames: &[Vec<u8>]) -> Receipt {
        let mut head = Head::default();
        for frame in frames {
            head = session_chain(&head, frame);
        }
        let (epoch, count) = (SessionEpoch(epoch), frames.len() as u64);
        let tenant = "acme";
        let holder = Holder { tenant, agent };
        let signer = Signer::new(&self.server).unwrap();
        Receipt {
            session_epoch: epoch,
            frame_count: count,
            head,
            signature: signer.sign(epoch, count, &head).unwrap(),
            named_signature: signer.sign_for(holder, epoch, count, &head).unwrap(),
            linked: None,
        }
    }
}

impl Center {
    /// The same as [`Center::receipt`] says, with the sessions before.
    fn linked(
        &self,
        epoch: u64,
        frames: &[Vec<u8>],
        (since, before): (u64, &[SessionEnd]),
    ) -> Receipt {
        let plain = self.receipt(epoch, frames);
        let session = received(epoch, frames);
        let (tenant, agent) = ("acme", "bank");
        let since = SessionEpoch(since);
        let past = receipt::Past { since, before };
        let signer = Signer::new(&self.server).unwrap();
        let signature = signer.sign_linked(Holder { tenant, agent }, &session, past);
        Receipt {
            linked: Some(Linked {
                since,
                before: before.to_vec(),
                signature: signature.unwrap(),
            }),
            ..plain
        }
    }
}

/// What an orchestrator knows of a session when it received this of it.
fn received(epoch: u64, frames: &[Vec<u8>]) -> SessionEnd {
    let head = frames
        .iter()
        .fold(Head::default(), |head, frame| session_chain(&head, frame));
    SessionEnd {
        session_epoch: SessionEpoch(epoch),
        frame_count: frames.len() as u64,
        head,
    }
}

fn server(authority: &Authority) -> ServerIdentity {
    let long = Duration::from_secs(86_400);
    authority
        .issue_server(&["localhost".to_owned()], SystemTime::now(), long)
        .unwrap()
}

/// Frames of session `epoch`, none like another.
fn frames(epoch: u64, count: u64) -> Vec<Vec<u8>> {
    let frame = |n: u64| {
        let length = usize::try_from(20 + ((epoch + 10) * 7 + n * 13) % 90).unwrap();
        let text = format!("session {epoch} frame {n} ");
        text.bytes().cycle().take(length).collect()
    };
    (0..count).map(frame).collect()
}

fn open(dir: &Path, center: &Center, limits: impl Into<Limits>) -> Ledger {
    let mut ledger = Ledger::open(dir, limits, 1).unwrap();
    ledger.make_segments_of(SMALL);
    ledger.trust(center.trust(dir));
    ledger.is_of(Named::of(SPIFFE));
    ledger
}

/// A session of so many frames, with a receipt for each ten of them.
fn session(ledger: &mut Ledger, center: &Center, (conn, epoch): (u64, u64), count: u64) {
    let frames = frames(epoch, count);
    for (n, frame) in frames.iter().enumerate() {
        ledger.append(Kind::Frame, conn, 1_700_000_000_000_000 + n as u64, frame);
        ledger.sync().unwrap();
        if n == 0 {
            ledger.append(Kind::Session, conn, 2, &epoch.to_be_bytes());
            ledger.server(conn, center.chain());
        }
        if n % 10 == 9 {
            // What was sent in the meantime is not in it.
            let signed = n.saturating_sub(2);
            let receipt = center.receipt(epoch, &frames[..signed]);
            let judged = ledger.receipt(conn, 3, &receipt);
            let frames = signed as u64;
            assert_eq!(judged, Judged::Holds { frames });
        }
    }
    ledger.sync().unwrap();
}

/// Two processes, three sessions, several segments.
fn written(dir: &Path, center: &Center) {
    let mut ledger = open(dir, center, DEFAULT_LIMIT_BYTES);
    ledger.append(Kind::Identity, 9, 5, b"\x02 not a request");
    session(&mut ledger, center, (1, 1), 34);
    session(&mut ledger, center, (2, 2), 25);
    drop(ledger);
    let mut ledger = open(dir, center, DEFAULT_LIMIT_BYTES);
    session(&mut ledger, center, (1, 3), 31);
    drop(ledger);
}

fn agent() -> Identity {
    Identity {
        orchestrator: "localhost:1".into(),
        tenant: "acme".into(),
        agent: "bank".into(),
        spiffe_id: SPIFFE.into(),
    }
}

fn exported(center: &Center) -> (tempfile::TempDir, PathBuf) {
    let dir = crate::testing::tempdir().unwrap();
    let (ledger, to) = (dir.path().join("ledger"), dir.path().join("export"));
    written(&ledger, center);
    let exported = export(&ledger, &to, &agent(), 7).unwrap();
    assert_eq!(exported.findings, []);
    (dir, to)
}

fn copy(from: &Path) -> (tempfile::TempDir, PathBuf) {
    let dir = crate::testing::tempdir().unwrap();
    let to = dir.path().join("copy");
    std::fs::create_dir(&to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
    (dir, to)
}

/// The kinds of everything that is wrong with an export.
fn wrong(dir: &Path) -> Vec<Damage> {
    match check_export(dir, None) {
        Ok((_, _, findings)) => findings.into_iter().map(|finding| finding.kind).collect(),
        Err(ExportError::Ledger(LedgerError::Damaged { kind, .. })) => vec![kind],
        Err(
            ExportError::Manifest { .. }
            | ExportError::Io { .. }
            | ExportError::Trust(_)
            | ExportError::NotEmpty { .. }
            | ExportError::Ledger(
                LedgerError::Io { .. } | LedgerError::Beyond { .. } | LedgerError::Newer { .. },
            ),
        ) => vec![Damage::Tampered],
    }
}

/// Where the first damage is: file name and offset.
fn place(dir: &Path) -> (String, u64) {
    match check(dir, true, None) {
        Err(LedgerError::Damaged { path, offset, .. }) => {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            (name, offset)
        }
        other => panic!("{other:?}"),
    }
}

/// Offset and length of each record of a segment.
fn records(path: &Path) -> Vec<(usize, usize)> {
    let bytes = std::fs::read(path).unwrap();
    let (mut all, mut at) = (Vec::new(), 0);
    while at < bytes.len() {
        let length = u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
        let whole = HEADER_BYTES + length + HEAD_BYTES;
        all.push((at, whole));
        at += whole;
    }
    all
}

#[test]
fn what_was_written_verifies_with_what_was_signed_for_and_so_does_its_export() {
    let center = Center::new();
    let (dir, to) = exported(&center);
    let ledger = dir.path().join("ledger");
    assert!(segments(&ledger).unwrap().len() > 4);
    let own = verify(&ledger).unwrap();
    let (manifest, summary, findings) = check_export(&to, None).unwrap();
    assert_eq!((&own, findings), (&summary, Vec::new()));
    assert_eq!(manifest.agent, agent());
    let sessions: Vec<_> = summary
        .sessions
        .iter()
        .map(|s| (s.session_epoch, s.frames, s.signed_frames))
        .collect();
    let expected = [(Some(1), 34, 27), (Some(2), 25, 17), (Some(3), 31, 27)];
    assert_eq!(sessions, expected);
    let by = summary.sessions[0].signed_by.as_ref().unwrap();
    assert_eq!(by.len(), 32, "a serial number: {by}");
    assert_eq!(summary.receipts.hold, 8);
    assert_eq!(
        (summary.receipts.unknown, summary.receipts.of_pruned),
        (0, 0)
    );
}

#[test]
fn d4_a_changed_byte_is_named_with_what_it_was() {
    let center = Center::new();
    let (_dir, to) = exported(&center);
    let path = segment_path(&to, 2);
    let (at, length) = records(&path)[5];
    for (offset, expected) in [
        (HEADER_BYTES + 3, "was changed from"),
        (length - 2, "the head behind a record"),
        (6, "damaged header"),
    ] {
        let (_copy, dir) = copy(&to);
        let path = segment_path(&dir, 2);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[at + offset] ^= 4;
        std::fs::write(&path, bytes).unwrap();
        assert_eq!(wrong(&dir), [Damage::Tampered]);
        assert_eq!(place(&dir), ("000002.led".to_owned(), at as u64));
        let error = check(&dir, true, None).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn d4_records_that_change_places_or_are_taken_out_are_named() {
    let center = Center::new();
    let (_dir, to) = exported(&center);
    let segment = segment_path(&to, 2);
    let good = std::fs::read(&segment).unwrap();
    let all = records(&segment);
    let record = |n: usize| &good[all[n].0..all[n].0 + all[n].1];
    let swapped = [&good[..all[4].0], record(5), record(4), &good[all[6].0..]].concat();
    let without = [&good[..all[4].0], &good[all[5].0..]].concat();
    let twice = [&good[..all[5].0], record(4), &good[all[5].0..]].concat();
    for (bytes, expected, at) in [
        (swapped, Damage::Reordered, 4),
        (without, Damage::Removed, 4),
        (twice, Damage::Reordered, 5),
    ] {
        let (_copy, dir) = copy(&to);
        std::fs::write(segment_path(&dir, 2), bytes).unwrap();
        assert_eq!(wrong(&dir), [expected]);
        assert_eq!(place(&dir), ("000002.led".to_owned(), all[at].0 as u64));
    }
}

#[test]
fn d4_segments_that_are_missing_cut_or_in_each_others_place_are_named() {
    let center = Center::new();
    let (_dir, to) = exported(&center);
    let last = *segments(&to).unwrap().last().unwrap();
    for number in [1, 2, last] {
        let (_copy, dir) = copy(&to);
        std::fs::remove_file(segment_path(&dir, number)).unwrap();
        assert_eq!(wrong(&dir), [Damage::MissingSegment], "{number}");
        // Also without the list of files.
        let found = check(&dir, false, None).map(|(_, findings)| findings);
        let found = found.map_or_else(
            |error| error.to_string(),
            |findings| format!("{:?}", findings[0]),
        );
        assert!(
            found.to_lowercase().contains("missing"),
            "{number}: {found}"
        );
    }
    let (_copy, dir) = copy(&to);
    let (one, two) = (segment_path(&dir, 2), segment_path(&dir, 3));
    std::fs::copy(&one, dir.join("x")).unwrap();
    std::fs::copy(&two, &one).unwrap();
    std::fs::rename(dir.join("x"), &two).unwrap();
    assert_eq!(wrong(&dir), [Damage::Reordered]);
    // Cut between two records: only the next segment shows it, or what was signed for.
    let cut = |number: u64, back: usize| {
        let (copy, dir) = copy(&to);
        let path = segment_path(&dir, number);
        let all = records(&path);
        let (at, length) = all[all.len() - back];
        let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
        file.set_len((at + if back == 1 { length / 2 } else { 0 }) as u64)
            .unwrap();
        (copy, dir)
    };
    let (_copy, dir) = cut(2, 3);
    assert_eq!(wrong(&dir), [Damage::WrongPreviousHead]);
    assert_eq!(place(&dir).0, "000003.led");
    let (_copy, dir) = cut(2, 1);
    assert_eq!(wrong(&dir), [Damage::Truncated]);
    let (_copy, dir) = cut(last, 1);
    assert_eq!(wrong(&dir), [Damage::Truncated]);
    let (_copy, dir) = cut(last, 2);
    assert_eq!(wrong(&dir)[0], Damage::Truncated);
}

#[test]
fn d4_a_ledger_that_ends_before_what_was_signed_for_is_truncated_even_where_every_record_is_whole()
{
    let center = Center::new();
    let dir = crate::testing::tempdir().unwrap();
    let mut ledger = Ledger::open(dir.path(), DEFAULT_LIMIT_BYTES, 1).unwrap();
    ledger.trust(center.trust(dir.path()));
    ledger.is_of(Named::of(SPIFFE));
    session(&mut ledger, &center, (1, 1), 31);
    drop(ledger);
    assert!(verify(dir.path()).is_ok());
    let path = segment_path(dir.path(), 1);
    // Start, opening, session, and so many frames less one.
    let keep = records(&path)[20].0 as u64;
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(keep).unwrap();
    let (_, findings) = check(dir.path(), false, None).unwrap();
    assert_eq!(findings.len(), 1, "17 frames are there: {findings:?}");
    assert!(findings.iter().all(|f| f.kind == Damage::Truncated));
    assert!(
        findings[0]
            .what
            .contains("27 frames of session 1, and here are 17")
    );
    assert!(verify(dir.path()).is_err());
}

#[test]
fn an_agent_does_not_go_on_with_a_ledger_whose_newest_segment_is_gone() {
    let center = Center::new();
    let dir = crate::testing::tempdir().unwrap();
    written(dir.path(), &center);
    let last = *segments(dir.path()).unwrap().last().unwrap();
    std::fs::remove_file(segment_path(dir.path(), last)).unwrap();
    let error = Ledger::open(dir.path(), DEFAULT_LIMIT_BYTES, 1).unwrap_err();
    let kind = |error: &LedgerError| matches!(error, LedgerError::Damaged { kind, .. } if *kind == Damage::MissingSegment);
    assert!(kind(&error), "{error}");
    for number in 1..last {
        std::fs::remove_file(segment_path(dir.path(), number)).unwrap();
    }
    let error = Ledger::open(dir.path(), DEFAULT_LIMIT_BYTES, 1).unwrap_err();
    assert!(kind(&error), "{error}");
}

#[test]
fn a_receipt_for_other_frames_or_by_another_is_an_alarm_and_a_finding() {
    let center = Center::new();
    let stranger = Center::new();
    let mine = frames(1, 5);
    let mut others = mine.clone();
    others[3][0] ^= 1;
    let forged = {
        let mut receipt = center.receipt(1, &mine);
        receipt.named_signature[10] ^= 1;
        receipt
    };
    let cases = [
        (
            center.receipt(1, &others),
            center.chain(),
            Damage::ReceiptMismatch,
            Damage::ReceiptMismatch,
        ),
        (
            center.receipt(1, &frames(1, 9)),
            center.chain(),
            Damage::ReceiptMismatch,
            Damage::Truncated,
        ),
        (
            center.receipt(2, &mine),
            center.chain(),
            Damage::ReceiptMismatch,
            Damage::Truncated,
        ),
        (
            forged,
            center.chain(),
            Damage::ReceiptSignature,
            Damage::ReceiptSignature,
        ),
        (
            stranger.receipt(1, &mine),
            stranger.chain(),
            Damage::ReceiptSignature,
            Damage::ReceiptSignature,
        ),
        (
            stranger.receipt(1, &mine),
            center.chain(),
            Damage::ReceiptSignature,
            Damage::ReceiptSignature,
        ),
    ];
    for (receipt, chain, alarm, finding) in cases {
        let dir = crate::testing::tempdir().unwrap();
        let mut ledger = open(dir.path(), &center, DEFAULT_LIMIT_BYTES);
        for frame in &mine {
            ledger.append(Kind::Frame, 1, 1, frame);
        }
        ledger.append(Kind::Session, 1, 2, &1_u64.to_be_bytes());
        ledger.server(1, chain);
        let judged = ledger.receipt(1, 3, &receipt);
        assert!(
            matches!(&judged, Judged::Alarm(kind, _) if *kind == alarm),
            "{judged:?}, not {alarm:?}"
        );
        // It goes on all the same, and the good one that follows holds.
        ledger.server(1, center.chain());
        let holds = Judged::Holds { frames: 4 };
        assert_eq!(ledger.receipt(1, 4, &center.receipt(1, &mine[..4])), holds);
        ledger.sync().unwrap();
        let (summary, findings) = check(dir.path(), false, None).unwrap();
        let kinds: Vec<_> = findings.iter().map(|finding| finding.kind).collect();
        assert_eq!(kinds, [finding], "{findings:?}");
        assert_eq!(summary.sessions[0].signed_frames, 4);
    }
}

#[test]
fn receipts_outlive_the_segments_that_they_are_for_and_what_is_left_is_still_compared() {
    let center = Center::new();
    let dir = crate::testing::tempdir().unwrap();
    let mut ledger = open(dir.path(), &center, DEFAULT_LIMIT_BYTES);
    session(&mut ledger, &center, (1, 1), 40);
    session(&mut ledger, &center, (2, 2), 40);
    drop(ledger);
    let before = segments(dir.path()).unwrap();
    let mut ledger = open(dir.path(), &center, 3 * SMALL);
    // This session's first segments are taken away once others have begun.
    session(&mut ledger, &center, (1, 3), 30);
    session(&mut ledger, &center, (2, 4), 30);
    session(&mut ledger, &center, (3, 5), 45);
    drop(ledger);
    let left = segments(dir.path()).unwrap();
    assert!(left[0] > before[0], "{before:?} {left:?}");
    let summary = verify(dir.path()).unwrap();
    assert_eq!(summary.pruned_segments + 1, left[0]);
    assert!(summary.receipts.of_pruned >= 2, "{summary:?}");
    let newest = summary.sessions.last().unwrap();
    assert_eq!((newest.session_epoch, newest.frames), (Some(5), 45));
    assert_eq!(newest.signed_frames, 37);
    let cut = summary.sessions.iter().find(|s| s.pruned_frames > 0);
    let cut = cut.expect("one goes on across what was taken away");
    assert!(cut.pruned_frames < cut.frames && cut.signed_frames > cut.pruned_frames);
    // A receipt of what is gone is evidence still: it is checked.
    let to = dir.path().join("export");
    export(dir.path(), &to, &agent(), 1).unwrap();
    assert_eq!(wrong(&to), []);
    let path = dir.path().join("pruned.json");
    let text = std::fs::read_to_string(&path).unwrap();
    let raised = text.replacen("\"segment\":", "\"segment\":1", 1);
    std::fs::write(&path, raised).unwrap();
    assert!(verify(dir.path()).is_err());
}
