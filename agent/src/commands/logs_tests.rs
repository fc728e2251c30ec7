//! What the agent itself noted of a log, against what lies there when somebody reads it.

use outpost_agent_core::record::{Memory, Write};
use outpost_agent_keeper::seal::{Frame, Sealer};
use outpost_proto::ids::{Fence, RunId, TaskIndex};
use outpost_proto::outcome::Report;

use super::*;
use crate::journal::Journal;
use crate::seal::book::Book;
use crate::seal::tests::keys;

const ATTEMPT: AttemptId = AttemptId(0xabcd);

struct Site {
    _root: tempfile::TempDir,
    state: StateDir,
    keys: Arc<SiteKeys>,
}

impl Site {
    fn new() -> Self {
        let root = crate::testing::tempdir().unwrap();
        let state = StateDir::create(&root.path().join("state")).unwrap();
        std::fs::create_dir(state.attempt(ATTEMPT)).unwrap();
        Self {
            _root: root,
            state,
            keys: Arc::new(keys(&[1])),
        }
    }

    fn log(&self) -> PathBuf {
        self.state.attempt(ATTEMPT).join("log.0")
    }

    fn write(&self, text: &[u8]) {
        let spec = self.keys.for_attempt(ATTEMPT).unwrap();
        let header = spec.log_header(ATTEMPT.0.to_be_bytes(), 0, 0);
        let (mut sealer, bytes) = Sealer::begin(&header, &spec.key).unwrap();
        let mut out = bytes.to_vec();
        sealer.frame(Frame::Bytes(text), &mut out).unwrap();
        std::fs::write(self.log(), out).unwrap();
    }

    fn book(&self) -> Book {
        Book::open(&self.state, Arc::clone(&self.keys))
    }

    /// What is said of the log, with what was read of it.
    fn checked(&self) -> Result<(), String> {
        let dir = self.state.attempt(ATTEMPT);
        let mut log = LogTail::with_keys(&dir, Some(Arc::clone(&self.keys)));
        let _ = log.more(&mut |_| true).unwrap();
        check_book(&self.state, &dir, &log).map_err(|error| error.to_string())
    }
}

#[test]
fn a_log_that_is_not_what_was_noted_of_it_is_named() {
    let site = Site::new();
    let mut book = site.book();
    book.begun(ATTEMPT);
    site.write(b"said");
    book.over(ATTEMPT);
    assert_eq!(site.checked(), Ok(()));
    let whole = std::fs::read(site.log()).unwrap();
    std::fs::write(site.log(), &whole[..whole.len() - 1]).unwrap();
    let why = site.checked().unwrap_err();
    assert!(why.contains("the agent noted a log, encrypted"), "{why}");
    std::fs::write(site.log(), vec![b'x'; whole.len()]).unwrap();
    let why = site.checked().unwrap_err();
    assert!(why.contains("now there is a log, not encrypted"), "{why}");
    std::fs::remove_file(site.log()).unwrap();
    let why = site.checked().unwrap_err();
    assert!(why.contains("now there is no log"), "{why}");
}

#[test]
fn a_log_that_was_exchanged_for_a_plain_one_while_its_attempt_ran_is_named() {
    let site = Site::new();
    site.book().begun(ATTEMPT);
    assert_eq!(site.checked(), Ok(()), "it has none yet");
    site.write(b"said");
    assert_eq!(site.checked(), Ok(()));
    std::fs::write(site.log(), "made up").unwrap();
    let why = site.checked().unwrap_err();
    assert!(why.contains("it was exchanged"), "{why}");
}

#[test]
fn an_end_that_the_journal_knows_and_the_record_does_not_was_taken_away() {
    let site = Site::new();
    let checked = || check_end(&site.state, &site.state.attempt(ATTEMPT));
    let settled = |outcome: Outcome| {
        let memory = Memory {
            attempt: ATTEMPT,
            run: RunId(1),
            task: TaskIndex(0),
            fence: Fence(1),
            report: Report {
                outcome,
                may_have_started: true,
                duration_ms: 1,
                exit_code: None,
                count: None,
            },
            settled_at_s: 1,
        };
        let mut journal = Journal::open(site.state.path()).unwrap();
        journal.commit(&[Write::Settled(memory)]).unwrap();
    };
    assert!(checked().is_ok(), "nobody knows an end of it");
    settled(Outcome::Cancelled);
    assert!(checked().is_ok(), "its keeper may have been killed");
    settled(Outcome::Succeeded);
    let why = checked().unwrap_err().to_string();
    assert!(why.contains("is not on record"), "{why}");
}

#[test]
fn only_digits_name_an_attempt() {
    let site = Site::new();
    for wrong in ["", "..", "../attempts", "ABCD", "abcg"] {
        let why = find(&site.state, wrong).err().unwrap().to_string();
        assert!(why.contains("is no id"), "{wrong}: {why}");
    }
    let begins = &ATTEMPT.to_string()[..30];
    assert!(
        matches!(find(&site.state, begins), Ok(Found::Attempt(dir)) if dir == site.state.attempt(ATTEMPT))
    );
}
