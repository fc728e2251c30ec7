//! Journal and ledger on a disk that somebody else has filled: what must be recorded of work that was begun still fits.

use std::path::{Path, PathBuf};

use outpost_agent::journal::Journal;
use outpost_agent::ledger::{DEFAULT_LIMIT_BYTES, Kind, Ledger, verify};
use outpost_proto::limits::HELD_ATTEMPTS;
use outpost_proto::message::AttemptState;

use crate::writes::{attempt, report, settled};

/// What is ahead of a journal's end at any time.
const LEAST: u64 = 1 << 20;

/// A small file system of its own, unmounted when it is dropped.
struct Small(tempfile::TempDir);

impl Small {
    fn of(mib: u32) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut mount = std::process::Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={mib}m"), "none"]);
        assert!(mount.arg(dir.path()).status().unwrap().success());
        Self(dir)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// Takes every byte that is left.
    fn fill(&self) -> PathBuf {
        use std::io::Write as _;
        let path = self.path().join("somebody-elses");
        let mut file = std::fs::File::create(&path).unwrap();
        for size in [1 << 20, 4096, 1] {
            let bytes = vec![1; size];
            while file.write_all(&bytes).is_ok() {}
        }
        path
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let mut unmount = std::process::Command::new("umount");
        let _ = unmount.arg("-l").arg(self.path()).status();
    }
}

#[test]
#[ignore = "needs: root"]
fn d1_the_ends_of_all_attempts_that_can_be_held_fit_into_a_journal_on_a_full_disk() {
    let small = Small::of(24);
    let mut journal = Journal::open(small.path()).unwrap();
    let held = HELD_ATTEMPTS as u128;
    for id in 0..held {
        journal
            .append(&[attempt(id, AttemptState::Running, 200)])
            .unwrap();
    }
    assert!(journal.has_room());
    small.fill();
    let before = journal.bytes();
    for id in 0..held {
        let over = AttemptState::Finished(report());
        journal.commit(&[attempt(id, over, 200)]).unwrap();
    }
    // The least that is ever taken ahead: a disk that fills at the worst moment leaves so much.
    let ends = journal.bytes() - before;
    assert!(ends < LEAST, "{ends} bytes");
    let told = journal.snapshot();
    drop(journal);
    let again = Journal::open(small.path()).unwrap();
    assert_eq!(again.snapshot(), told);
    assert!(
        told.attempts
            .iter()
            .all(|held| matches!(held.state, AttemptState::Finished(_)))
    );
}

#[test]
#[ignore = "needs: root"]
fn d1_a_long_journal_goes_on_while_there_is_no_room_for_a_shorter_one() {
    let small = Small::of(16);
    let mut journal = Journal::open(small.path()).unwrap();
    let long = |journal: &Journal, bytes: u64| journal.bytes() < bytes;
    let mut id = 0;
    // All of it is still held: a shorter one would be as long.
    while long(&journal, (4 << 20) - (200 << 10)) {
        journal
            .append(&[attempt(id, AttemptState::Running, 60 << 10)])
            .unwrap();
        id += 1;
    }
    let filled = small.fill();
    while long(&journal, (4 << 20) + (100 << 10)) {
        journal
            .append(&[attempt(id, AttemptState::Running, 60 << 10)])
            .unwrap();
        id += 1;
    }
    assert!(!small.path().join("journal.new").exists());
    assert!(journal.bytes() > 4 << 20 && !journal.has_room());
    (0..id).for_each(|id| {
        journal.append(&[settled(id)]).unwrap();
    });
    std::fs::remove_file(filled).unwrap();
    for id in 0..1000 {
        journal.append(&[settled(id)]).unwrap();
    }
    assert!(journal.bytes() < 1 << 20, "{} bytes", journal.bytes());
    assert!(journal.has_room());
    let told = journal.snapshot();
    drop(journal);
    assert_eq!(Journal::open(small.path()).unwrap().snapshot(), told);
}

#[test]
#[ignore = "needs: root"]
fn d1_a_journal_of_format_1_goes_on_as_it_is_until_there_is_room_to_write_it_anew() {
    let small = Small::of(24);
    let path = small.path().join("journal");
    let line = |json: &str| format!("{:08x} {json}\n", crc32fast::hash(json.as_bytes()));
    let header = |version: u32| line(&format!("{{\"outpost_journal\":{version}}}"));
    let held = serde_json::to_string(&[attempt(1, AttemptState::Running, 60 << 10)]).unwrap();
    std::fs::write(&path, header(1) + &line(&held)).unwrap();
    let somebody_elses = small.fill();
    // What is left in the journal's own last page is all there is; one that takes no work needs little.
    let mut journal = Journal::open(small.path()).unwrap();
    assert!(!journal.has_room());
    let over = AttemptState::Finished(report());
    std::fs::OpenOptions::new()
        .write(true)
        .open(&somebody_elses)
        .and_then(|file| file.set_len(file.metadata()?.len() - (100 << 10)))
        .unwrap();
    journal.commit(&[attempt(1, over, 60 << 10)]).unwrap();
    drop(journal);
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.starts_with(&header(1)) && !text.contains("\"step\""));
    let mut journal = Journal::open(small.path()).unwrap();
    std::fs::remove_file(somebody_elses).unwrap();
    for id in 0..1000 {
        journal.append(&[settled(id)]).unwrap();
    }
    let told = journal.snapshot();
    drop(journal);
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.starts_with(&header(2)));
    assert_eq!(Journal::open(small.path()).unwrap().snapshot(), told);
}

#[test]
#[ignore = "needs: root"]
fn d1_a_ledger_goes_on_in_its_segment_while_there_is_no_room_for_the_next() {
    let small = Small::of(24);
    let dir = small.path().join("ledger");
    let mut ledger = Ledger::open(&dir, DEFAULT_LIMIT_BYTES, 1).unwrap();
    let frame = vec![7; 32 << 10];
    let mut frames = 0;
    let mut until = |ledger: &mut Ledger, bytes: u64| {
        while ledger.bytes() < bytes {
            ledger.append(Kind::Frame, 1, 1, &frame);
            ledger.sync().unwrap();
            frames += 1;
        }
    };
    until(&mut ledger, (16 << 20) - (100 << 10));
    let filled = small.fill();
    until(&mut ledger, (16 << 20) + (700 << 10));
    assert!(!ledger.has_room());
    assert!(!dir.join("000002.led").exists());
    drop(ledger);
    let mut ledger = Ledger::open(&dir, DEFAULT_LIMIT_BYTES, 2).unwrap();
    std::fs::remove_file(filled).unwrap();
    until(&mut ledger, 17 << 20);
    assert!(ledger.has_room());
    assert!(dir.join("000002.led").exists());
    drop(ledger);
    assert_eq!(verify(&dir).unwrap().frames, frames);
}

#[test]
#[ignore = "needs: root"]
fn d1_a_ledger_that_is_over_its_limit_opens_on_a_full_disk_and_gives_way_later() {
    let small = Small::of(64);
    let dir = small.path().join("ledger");
    let mut ledger = Ledger::open(&dir, DEFAULT_LIMIT_BYTES, 1).unwrap();
    let frame = vec![7; 32 << 10];
    while !dir.join("000003.led").exists() {
        ledger.append(Kind::Frame, 1, 1, &frame);
        ledger.sync().unwrap();
    }
    drop(ledger);
    let filled = small.fill();
    drop(Ledger::open(&dir, 1, 2).unwrap());
    assert!(
        dir.join("000001.led").exists(),
        "no room to say that it went"
    );
    std::fs::remove_file(filled).unwrap();
    drop(Ledger::open(&dir, 1, 3).unwrap());
    assert!(!dir.join("000001.led").exists());
    let _ = verify(&dir).unwrap();
}
