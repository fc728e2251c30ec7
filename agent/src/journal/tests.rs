//! Journals that are opened again, and what of them is on the disk.

use outpost_agent_core::record::SiteRecord;
use outpost_proto::ids::CommandSeq;

use super::*;

fn session(seq: u64) -> Write {
    Write::Session(SessionRecord {
        command_seq: CommandSeq(seq),
        ..SessionRecord::default()
    })
}

#[test]
fn a_burst_is_there_after_reopening() {
    let dir = crate::testing::tempdir().unwrap();
    let mut journal = Journal::open(dir.path()).unwrap();
    journal
        .commit(&[session(7), Write::Site(SiteRecord { paused: true })])
        .unwrap();
    drop(journal);
    let snapshot = Journal::open(dir.path()).unwrap().snapshot();
    assert_eq!(
        (snapshot.session.command_seq, snapshot.site.paused),
        (CommandSeq(7), true)
    );
}

#[test]
fn only_what_must_survive_a_power_cut_asks_for_a_sync() {
    use outpost_proto::ids::{EventSeq, Nonce};
    let dir = crate::testing::tempdir().unwrap();
    let mut journal = Journal::open(dir.path()).unwrap();
    assert!(!journal.append(&[]).unwrap());
    assert!(
        !journal.append(&[session(1)]).unwrap(),
        "a command's number"
    );
    let mut counters = SessionRecord {
        command_seq: CommandSeq(2),
        nonce: Nonce(7),
        ..SessionRecord::default()
    };
    assert!(journal.append(&[Write::Session(counters)]).unwrap());
    counters.command_seq = CommandSeq(3);
    assert!(!journal.append(&[Write::Session(counters)]).unwrap());
    counters.event_seq_reserved = EventSeq(1000);
    assert!(journal.append(&[Write::Session(counters)]).unwrap());
    let paused = Write::Site(SiteRecord { paused: true });
    assert!(journal.append(&[paused]).unwrap());
}

#[test]
fn d4_a_torn_last_line_loses_the_whole_burst_and_nothing_else() {
    let dir = crate::testing::tempdir().unwrap();
    let mut journal = Journal::open(dir.path()).unwrap();
    journal.commit(&[session(1)]).unwrap();
    journal
        .commit(&[session(2), Write::Site(SiteRecord { paused: true })])
        .unwrap();
    drop(journal);
    let path = dir.path().join("journal");
    let bytes = std::fs::read(&path).unwrap();
    let last = bytes
        .iter()
        .rev()
        .skip(1)
        .position(|b| *b == b'\n')
        .unwrap();
    for lost in 1..last {
        std::fs::write(&path, &bytes[..bytes.len() - lost]).unwrap();
        let snapshot = Journal::open(dir.path()).unwrap().snapshot();
        assert_eq!(
            (snapshot.session.command_seq, snapshot.site.paused),
            (CommandSeq(1), false),
            "{lost}"
        );
    }
}

#[test]
fn d4_damage_before_the_end_is_reported_and_not_skipped() {
    let dir = crate::testing::tempdir().unwrap();
    let mut journal = Journal::open(dir.path()).unwrap();
    journal.commit(&[session(1)]).unwrap();
    let damaged_until = usize::try_from(journal.bytes).unwrap();
    journal.commit(&[session(2)]).unwrap();
    drop(journal);
    let path = dir.path().join("journal");
    let bytes = std::fs::read(&path).unwrap();
    for at in 0..damaged_until {
        let mut bad = bytes.clone();
        bad[at] ^= 0x04;
        std::fs::write(&path, &bad).unwrap();
        assert!(
            matches!(Journal::open(dir.path()), Err(JournalError::Damaged { .. })),
            "flip at {at}"
        );
    }
}

#[test]
fn a_newer_format_is_refused_and_left_alone() {
    let dir = crate::testing::tempdir().unwrap();
    let path = dir.path().join("journal");
    let json = format!(r#"{{"outpost_journal":{}}}"#, VERSION + 1);
    let text = format!("{:08x} {json}\n", crc32fast::hash(json.as_bytes()));
    std::fs::write(&path, &text).unwrap();
    assert!(matches!(
        Journal::open(dir.path()),
        Err(JournalError::Newer { found: 3, .. })
    ));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
}

#[test]
fn a_long_journal_is_written_anew_and_says_the_same() {
    let dir = crate::testing::tempdir().unwrap();
    let mut journal = Journal::open(dir.path()).unwrap();
    let many = (0..2000).map(session).collect::<Vec<_>>();
    let mut written = 0;
    while written < 2 * COMPACT_FROM_BYTES {
        journal.commit(&many).unwrap();
        written += journal.line.len() as u64;
    }
    assert!(journal.bytes < COMPACT_FROM_BYTES);
    let before = journal.snapshot();
    drop(journal);
    assert_eq!(Journal::open(dir.path()).unwrap().snapshot(), before);
}

#[test]
fn what_is_written_anew_has_no_line_that_grows_with_what_is_held() {
    use outpost_agent_core::record::Memory;
    use outpost_proto::ids::{AttemptId, Fence, RunId, TaskIndex};
    use outpost_proto::outcome::{Outcome, Report};
    let dir = crate::testing::tempdir().unwrap();
    let mut journal = Journal::open(dir.path()).unwrap();
    let settled = |attempt| {
        Write::Settled(Memory {
            attempt: AttemptId(attempt),
            run: RunId(1),
            task: TaskIndex(0),
            fence: Fence(1),
            report: Report {
                outcome: Outcome::Succeeded,
                may_have_started: true,
                duration_ms: 1,
                exit_code: None,
                count: None,
            },
            settled_at_s: 1,
        })
    };
    let many = (1..=40_000).map(settled).collect::<Vec<_>>();
    journal.commit(&many).unwrap();
    journal.write_anew().unwrap();
    let before = journal.snapshot();
    drop(journal);
    let bytes = std::fs::read(dir.path().join("journal")).unwrap();
    assert!(bytes.len() > 2 * ANEW_LINE_BYTES, "{}", bytes.len());
    let longest = bytes.split(|byte| *byte == b'\n').map(<[u8]>::len).max();
    assert!(longest < Some(ANEW_LINE_BYTES + 64 * 1024), "{longest:?}");
    assert_eq!(Journal::open(dir.path()).unwrap().snapshot(), before);
}

#[test]
fn d4_a_line_that_is_longer_than_any_is_damage_and_nothing_is_cut() {
    let dir = crate::testing::tempdir().unwrap();
    let mut journal = Journal::open(dir.path()).unwrap();
    journal.commit(&[session(1)]).unwrap();
    let begins = journal.bytes;
    journal.commit(&vec![session(2); 100]).unwrap();
    drop(journal);
    let path = dir.path().join("journal");
    let file = File::open(&path).unwrap();
    let limit = begins + 1000;
    let read = replay::replay_within(limit, &path, &file, &mut Mirror::default());
    assert!(
        matches!(read, Err(JournalError::Damaged { offset, .. }) if offset == begins),
        "a torn end would be cut off"
    );
}

/// Bytes that this thread has given to write calls.
fn given() -> u64 {
    let io = std::fs::read_to_string("/proc/thread-self/io").unwrap();
    let line = io.lines().find_map(|line| line.strip_prefix("wchar: "));
    line.unwrap().parse().unwrap()
}

#[test]
fn d3_what_a_failed_sync_may_have_lost_is_written_again_when_the_journal_is_opened() {
    let dir = crate::testing::tempdir().unwrap();
    let mut journal = Journal::open(dir.path()).unwrap();
    // The newest line of all alone is longer than what may be unsynced beside it.
    for lines in [3000, 6000] {
        let last = vec![session(7); lines];
        journal.append(&[session(1)]).unwrap();
        journal.append(&last).unwrap();
        let long = journal.line.len() as u64;
        assert_eq!(lines > 3000, long > UNSYNCED, "{long}");
        let bytes = journal.bytes;
        drop(journal);
        let (before, path) = (given(), dir.path().join("journal"));
        let content = std::fs::read(&path).unwrap();
        journal = Journal::open(dir.path()).unwrap();
        assert!(given() - before >= bytes.min(UNSYNCED).max(long));
        assert_eq!(std::fs::read(&path).unwrap(), content);
        // Where the next line goes is not moved by it.
        journal.append(&[session(8)]).unwrap();
        drop(journal);
        journal = Journal::open(dir.path()).unwrap();
        assert_eq!(journal.snapshot().session.command_seq, CommandSeq(8));
    }
}
