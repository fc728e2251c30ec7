//! What the ledger promises: what is synced is there after a crash, and nothing can be changed unnoticed.

use std::fs::OpenOptions;
use std::io::{Seek, SeekFrom, Write};

use super::*;

fn filled(dir: &Path, frames: u64) -> Ledger {
    let mut ledger = Ledger::open(dir, DEFAULT_LIMIT_BYTES, 1).unwrap();
    for n in 0..frames {
        ledger.append(Kind::Frame, 1, n, format!("frame {n}").as_bytes());
    }
    ledger.sync().unwrap();
    ledger
}

fn segment(dir: &Path) -> PathBuf {
    segment_path(dir, 1)
}

fn flip(path: &Path, at: u64) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[usize::try_from(at).unwrap()] ^= 0x40;
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn what_was_synced_is_read_back_in_order_and_verifies() {
    let dir = crate::testing::tempdir().unwrap();
    filled(dir.path(), 3);
    let mut reader = Reader::open(dir.path()).unwrap();
    let mut frames = Vec::new();
    while let Some(entry) = reader.next_entry().unwrap() {
        if entry.kind == Kind::Frame {
            frames.push(String::from_utf8(entry.payload).unwrap());
        }
    }
    assert_eq!(frames, ["frame 0", "frame 1", "frame 2"]);
    let summary = verify(dir.path()).unwrap();
    assert_eq!(
        (summary.frames, summary.frame_bytes, summary.torn_bytes),
        (3, 21, 0)
    );
}

#[test]
fn a_session_head_is_the_one_that_the_other_side_computes_from_the_frames() {
    let dir = crate::testing::tempdir().unwrap();
    filled(dir.path(), 2);
    let head = session_chain(&session_chain(&[0; 32], b"frame 0"), b"frame 1");
    let hex = head.iter().map(|b| format!("{b:02x}")).collect::<String>();
    assert_eq!(verify(dir.path()).unwrap().sessions[0].head, hex);
}

#[test]
fn connections_of_two_processes_are_two_sessions_although_they_have_one_number() {
    let dir = crate::testing::tempdir().unwrap();
    drop(filled(dir.path(), 1));
    drop(filled(dir.path(), 2));
    let frames = verify(dir.path())
        .unwrap()
        .sessions
        .iter()
        .map(|s| s.frames)
        .collect::<Vec<_>>();
    assert_eq!(frames, [1, 2]);
}

#[test]
fn what_was_not_synced_is_not_there() {
    let dir = crate::testing::tempdir().unwrap();
    let mut ledger = filled(dir.path(), 1);
    ledger.append(Kind::Frame, 1, 9, b"never synced");
    drop(ledger);
    assert_eq!(verify(dir.path()).unwrap().frames, 1);
}

#[test]
fn d4_a_torn_end_is_cut_off_at_every_length_and_noted() {
    let whole = crate::testing::tempdir().unwrap();
    drop(filled(whole.path(), 2));
    let bytes = std::fs::read(segment(whole.path())).unwrap();
    let last = HEADER_BYTES + "frame 1".len() + HEAD_BYTES;
    for lost in 1..last {
        let dir = crate::testing::tempdir().unwrap();
        std::fs::write(segment(dir.path()), &bytes[..bytes.len() - lost]).unwrap();
        assert_eq!(verify(dir.path()).unwrap().frames, 1, "{lost} bytes lost");
        drop(filled(dir.path(), 1));
        assert_eq!(verify(dir.path()).unwrap().frames, 2, "{lost} bytes lost");
    }
}

#[test]
fn d4_a_bit_flip_before_the_last_record_is_reported_wherever_it_is() {
    let whole = crate::testing::tempdir().unwrap();
    drop(filled(whole.path(), 3));
    let size = std::fs::metadata(segment(whole.path())).unwrap().len();
    let last = (HEADER_BYTES + "frame 2".len() + HEAD_BYTES) as u64;
    for at in 0..size - last {
        let dir = crate::testing::tempdir().unwrap();
        std::fs::copy(segment(whole.path()), segment(dir.path())).unwrap();
        flip(&segment(dir.path()), at);
        assert!(
            matches!(verify(dir.path()), Err(LedgerError::Damaged { .. })),
            "flip at {at}"
        );
        assert!(
            Ledger::open(dir.path(), DEFAULT_LIMIT_BYTES, 1).is_err(),
            "flip at {at}"
        );
    }
}

#[test]
fn a_file_extended_with_zeros_by_a_power_cut_is_a_torn_end() {
    let dir = crate::testing::tempdir().unwrap();
    drop(filled(dir.path(), 1));
    let mut file = OpenOptions::new()
        .write(true)
        .open(segment(dir.path()))
        .unwrap();
    file.seek(SeekFrom::End(0)).unwrap();
    file.write_all(&[0; 4096]).unwrap();
    assert_eq!(verify(dir.path()).unwrap().torn_bytes, 4096);
    drop(filled(dir.path(), 1));
    assert_eq!(verify(dir.path()).unwrap().frames, 2);
}

#[test]
fn segments_follow_each_other_and_a_missing_one_is_found() {
    let dir = crate::testing::tempdir().unwrap();
    let mut ledger = Ledger::open(dir.path(), DEFAULT_LIMIT_BYTES, 1).unwrap();
    let frame = vec![7; 60_000];
    for _ in 0..700 {
        ledger.append(Kind::Frame, 1, 2, &frame);
        if ledger.buffer.len() > 1_000_000 {
            ledger.sync().unwrap();
        }
    }
    ledger.sync().unwrap();
    drop(ledger);
    assert_eq!(segments(dir.path()).unwrap(), [1, 2, 3]);
    assert_eq!(verify(dir.path()).unwrap().frames, 700);
    std::fs::remove_file(segment_path(dir.path(), 2)).unwrap();
    let error = verify(dir.path()).unwrap_err().to_string();
    assert!(error.contains("a missing segment"), "{error}");
}

#[test]
fn the_limit_prunes_the_oldest_segments_and_the_rest_still_verifies() {
    let dir = crate::testing::tempdir().unwrap();
    let mut ledger = Ledger::open(dir.path(), SEGMENT_BYTES * 2, 1).unwrap();
    let frame = vec![7; 60_000];
    for n in 0..1200 {
        // A new session now and then: the present one's segments stay.
        ledger.append(Kind::Frame, 1 + n / 200, 2, &frame);
        ledger.sync().unwrap();
    }
    drop(ledger);
    assert!(segments(dir.path()).unwrap()[0] > 1);
    assert!(verify(dir.path()).unwrap().frames > 0);
    drop(Ledger::open(dir.path(), SEGMENT_BYTES * 2, 1).unwrap());
}

#[test]
fn d1_where_there_is_no_room_to_say_what_goes_a_ledger_opens_all_the_same_and_it_goes_later() {
    let dir = crate::testing::tempdir().unwrap();
    let mut ledger = Ledger::open(dir.path(), DEFAULT_LIMIT_BYTES, 1).unwrap();
    let frame = vec![7; 60_000];
    for n in 0..700 {
        ledger.append(Kind::Frame, 1 + n / 100, 2, &frame);
        ledger.sync().unwrap();
    }
    drop(ledger);
    let before = segments(dir.path()).unwrap();
    assert_eq!(before[0], 1);
    // Every write to this says that the disk is full.
    let said = dir.path().join("pruned.tmp");
    std::os::unix::fs::symlink("/dev/full", &said).unwrap();
    drop(Ledger::open(dir.path(), SEGMENT_BYTES, 2).unwrap());
    let after = segments(dir.path()).unwrap();
    assert_eq!(after[..before.len()], before, "nothing goes unsaid");
    std::fs::remove_file(said).unwrap();
    drop(Ledger::open(dir.path(), SEGMENT_BYTES, 3).unwrap());
    assert!(segments(dir.path()).unwrap()[0] > 1);
    assert!(verify(dir.path()).unwrap().frames > 0);
}

#[test]
fn d3_what_a_failed_sync_may_have_lost_is_written_again_when_the_ledger_is_opened() {
    let given = || {
        let io = std::fs::read_to_string("/proc/thread-self/io").unwrap();
        let line = io.lines().find_map(|line| line.strip_prefix("wchar: "));
        line.unwrap().parse::<u64>().unwrap()
    };
    let dir = crate::testing::tempdir().unwrap();
    let mut ledger = filled(dir.path(), 1);
    for _ in 0..10 {
        ledger.append(Kind::Frame, 1, 2, &[7; 60_000]);
    }
    ledger.sync().unwrap();
    drop(ledger);
    let before = given();
    drop(Ledger::open(dir.path(), DEFAULT_LIMIT_BYTES, 3).unwrap());
    assert!(given() - before >= crate::torn::UNSYNCED);
    assert_eq!(verify(dir.path()).unwrap().frames, 11);
}

/// Fills whole segments with frames of one connection.
fn fill(ledger: &mut Ledger, conn: u64, segments: usize) {
    let frame = vec![7; 200_000];
    for _ in 0..segments {
        let bytes = usize::try_from(SEGMENT_BYTES).unwrap();
        for _ in 0..bytes / frame.len() + 1 {
            ledger.append(Kind::Frame, conn, 1, &frame);
        }
        ledger.sync().unwrap();
    }
}

fn numbers(dir: &Path) -> Vec<u64> {
    super::segments(dir).unwrap()
}

fn make_old(dir: &Path, number: u64) {
    let long_ago = std::time::SystemTime::now() - DEFAULT_KEEP - std::time::Duration::from_secs(60);
    let file = std::fs::File::options()
        .write(true)
        .open(segment_path(dir, number))
        .unwrap();
    file.set_modified(long_ago).unwrap();
}

#[test]
fn old_segments_go_once_the_orchestrator_says_what_time_it_is_and_the_rest_verifies() {
    let dir = crate::testing::tempdir().unwrap();
    let mut ledger = Ledger::open(dir.path(), DEFAULT_LIMIT_BYTES, 1).unwrap();
    fill(&mut ledger, 1, 3);
    let head = ledger_head(dir.path());
    drop(ledger);
    assert_eq!(numbers(dir.path()), [1, 2, 3, 4]);
    make_old(dir.path(), 1);
    make_old(dir.path(), 2);
    let mut ledger = Ledger::open(dir.path(), DEFAULT_LIMIT_BYTES, 2).unwrap();
    assert_eq!(
        numbers(dir.path()),
        [1, 2, 3, 4],
        "this host's clock may be wrong"
    );
    let now = || {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        u64::try_from(since.unwrap().as_micros()).unwrap()
    };
    let boot = outpost_agent_keeper::process::boot_time_us;
    // Either clock is a year ahead of the other.
    let year = 365 * 24 * 3600 * 1_000_000;
    ledger.hear(now() - year, now(), boot()).unwrap();
    ledger.hear(now(), now() - year, boot()).unwrap();
    assert_eq!(numbers(dir.path()), [1, 2, 3, 4]);
    ledger.hear(now() + year, now(), boot()).unwrap();
    assert_eq!(numbers(dir.path()), [3, 4]);
    let bytes: u64 = [3, 4]
        .map(|n| segment_path(dir.path(), n).metadata().unwrap().len())
        .iter()
        .sum();
    assert_eq!(ledger.bytes(), bytes);
    assert_ne!(ledger_head(dir.path()), head, "the opening is recorded");
    drop(ledger);
    Ledger::open(dir.path(), DEFAULT_LIMIT_BYTES, 3).unwrap();
    verify(dir.path()).unwrap();
}

#[test]
fn k16_an_age_that_a_task_says_of_a_segment_takes_nothing_away_where_it_shares_the_account() {
    let dir = crate::testing::tempdir().unwrap();
    let mut ledger = Ledger::open(dir.path(), DEFAULT_LIMIT_BYTES, 1).unwrap();
    fill(&mut ledger, 1, 2);
    drop(ledger);
    make_old(dir.path(), 1);
    let limits = Limits {
        dated: crate::dated::Dated::Changed,
        ..Limits::default()
    };
    let mut ledger = Ledger::open(dir.path(), limits, 2).unwrap();
    let boot = outpost_agent_keeper::process::boot_time_us();
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let now = u64::try_from(since.unwrap().as_micros()).unwrap();
    ledger.hear(now, now, boot).unwrap();
    assert_eq!(numbers(dir.path()), [1, 2, 3]);
}

#[test]
fn a_segment_from_before_the_clock_was_set_is_as_old_as_the_next_one() {
    let dir = crate::testing::tempdir().unwrap();
    let mut ledger = Ledger::open(dir.path(), DEFAULT_LIMIT_BYTES, 1).unwrap();
    fill(&mut ledger, 1, 2);
    drop(ledger);
    let path = segment_path(dir.path(), 1);
    let file = std::fs::File::options().write(true).open(path);
    file.unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
    let mut ledger = Ledger::open(dir.path(), DEFAULT_LIMIT_BYTES, 2).unwrap();
    let boot = outpost_agent_keeper::process::boot_time_us();
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let now = u64::try_from(since.unwrap().as_micros()).unwrap();
    ledger.hear(now, now, boot).unwrap();
    assert_eq!(numbers(dir.path()), [1, 2, 3]);
    make_old(dir.path(), 2);
    ledger.hear(now, now, boot).unwrap();
    assert_eq!(numbers(dir.path()), [3]);
}

fn ledger_head(dir: &Path) -> String {
    verify(dir).unwrap().head
}

#[test]
fn the_present_session_stays_whatever_its_age_and_size() {
    let dir = crate::testing::tempdir().unwrap();
    let mut ledger = Ledger::open(dir.path(), SEGMENT_BYTES, 1).unwrap();
    fill(&mut ledger, 1, 1);
    // Connections 2 and 3 stand side by side, as when a certificate is renewed; 2 began in segment 2.
    fill(&mut ledger, 2, 2);
    make_old(dir.path(), 2);
    fill(&mut ledger, 3, 1);
    assert_eq!(numbers(dir.path()), [2, 3, 4, 5]);
    fill(&mut ledger, 4, 1);
    assert_eq!(numbers(dir.path()), [4, 5, 6], "2 is over");
    verify(dir.path()).unwrap();
}
