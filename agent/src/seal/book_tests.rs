//! What is noted of encrypted logs, and what becomes of it when somebody changes it.

use super::*;
use crate::seal::tests::keys;

const ONE: AttemptId = AttemptId(1);
const TWO: AttemptId = AttemptId(2);

struct Site {
    _root: tempfile::TempDir,
    state: StateDir,
}

impl Site {
    fn new() -> Self {
        let root = crate::testing::tempdir().unwrap();
        let state = StateDir::create(&root.path().join("state")).unwrap();
        Self { _root: root, state }
    }

    fn open(&self, of: &[u8]) -> Book {
        Book::open(&self.state, Arc::new(keys(of)))
    }

    fn log(&self, attempt: AttemptId, number: u64, bytes: usize) {
        let dir = self.state.attempt(attempt);
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join(format!("log.{number}")), vec![b'x'; bytes]).unwrap();
    }

    fn word(&self, of: &[u8], attempt: AttemptId) -> Result<Word, BookError> {
        word(&self.state, &keys(of), attempt)
    }

    fn bytes(&self) -> Vec<u8> {
        std::fs::read(self.state.book()).unwrap()
    }

    fn put(&self, bytes: &[u8]) {
        std::fs::write(self.state.book(), bytes).unwrap();
    }
}

fn end(file: u64, bytes: u64) -> End {
    End {
        recorded: false,
        file: Some(file),
        bytes,
    }
}

/// One that is over and one that goes on.
fn two() -> (Site, Book) {
    let site = Site::new();
    let mut book = site.open(&[1]);
    book.begun(ONE);
    site.log(ONE, 0, 10);
    site.log(ONE, 3, 7);
    book.over(ONE);
    site.log(TWO, 0, 5);
    book.begun(TWO);
    (site, book)
}

#[test]
fn what_was_noted_is_known_with_the_key_and_outlives_the_runner_and_the_key() {
    let (site, mut book) = two();
    assert_eq!(site.word(&[1], ONE).unwrap(), Word::Over(end(3, 7)));
    assert_eq!(site.word(&[1], TWO).unwrap(), Word::Begun);
    assert_eq!(site.word(&[1], AttemptId(3)).unwrap(), Word::None);
    assert!(matches!(site.word(&[2], ONE), Err(BookError::Key { .. })));
    // Whoever begins one again does not make it one that goes on.
    book.begun(ONE);
    book.going.remove(&ONE);
    assert_eq!(site.word(&[1], ONE).unwrap(), Word::Over(end(3, 7)));
    // Of an attempt that it does not know it notes no end, and of one that is over no other.
    book.over(AttemptId(3));
    site.log(ONE, 3, 70);
    book.over(ONE);
    assert_eq!(site.word(&[1], ONE).unwrap(), Word::Over(end(3, 7)));

    let mut book = site.open(&[2, 1]);
    assert_eq!(site.word(&[2], ONE).unwrap(), Word::Over(end(3, 7)));
    assert_eq!(site.word(&[2], TWO).unwrap(), Word::Begun);
    book.over(TWO);
    assert_eq!(site.word(&[2], TWO).unwrap(), Word::Over(end(0, 5)));
    // What was taken away is forgotten.
    std::fs::remove_dir_all(site.state.attempt(ONE)).unwrap();
    let _ = site.open(&[2]);
    assert_eq!(site.word(&[2], ONE).unwrap(), Word::None);
    assert_eq!(site.word(&[2], TWO).unwrap(), Word::Over(end(0, 5)));
    use std::os::unix::fs::MetadataExt as _;
    assert_eq!(site.state.book().metadata().unwrap().mode() & 0o7777, 0o600);
}

#[test]
fn any_line_that_is_changed_left_out_exchanged_or_comes_from_elsewhere_is_named() {
    let (site, _) = two();
    let whole = site.bytes();
    let damaged = |bytes: &[u8]| {
        site.put(bytes);
        let error = site.word(&[1], TWO).map_err(|error| error.to_string());
        error.expect_err("it is believed")
    };
    for at in 0..whole.len() {
        let mut changed = whole.clone();
        changed[at] ^= 1;
        site.put(&changed);
        // A last line without its end is one that is being written; the key's id may be another's.
        let seen = site.word(&[1], TWO);
        let is_last = at + 1 == whole.len();
        assert!(
            seen.is_err() || is_last && seen.is_ok_and(|word| word == Word::None),
            "{at}"
        );
    }
    let lines: Vec<&[u8]> = whole.split_inclusive(|byte| *byte == b'\n').collect();
    let [book, begun, over, two] = lines.as_slice() else {
        panic!("{} lines", lines.len());
    };
    for (bytes, line) in [
        ([*begun, *over, *two].concat(), 1),
        ([*book, *over, *two].concat(), 2),
        ([*book, *begun, *two].concat(), 3),
        ([*book, *begun, *begun, *two].concat(), 3),
        ([*book, *over, *begun, *two].concat(), 2),
        ([*book, *book, *two].concat(), 2),
        ([*book, *begun, *over, *two, &[b'x'; 2000]].concat(), 5),
    ] {
        let error = damaged(&bytes);
        assert!(error.contains(&format!("its line {line} ")), "{error}");
    }
    // What stands before the damage is as it was noted.
    site.put(&[*book, *begun, *over, b"{}\n"].concat());
    assert_eq!(site.word(&[1], ONE).unwrap(), Word::Over(end(3, 7)));
    // Another site's, or of an earlier time: it begins with another salt.
    let (other, _) = super::tests::two();
    let theirs = other.bytes();
    let their_first = theirs
        .split_inclusive(|byte| *byte == b'\n')
        .next()
        .unwrap();
    let _ = damaged(&[their_first, *begun, *over, *two].concat());
}

/// That lines at the end are missing, or the whole of it, cannot be told from a cut of the power, and says nothing.
#[test]
fn without_its_last_lines_it_has_no_word_and_a_torn_one_is_none() {
    let (site, mut book) = two();
    let whole = site.bytes();
    let lines: Vec<&[u8]> = whole.split_inclusive(|byte| *byte == b'\n').collect();
    site.put(&lines[..2].concat());
    assert_eq!(site.word(&[1], ONE).unwrap(), Word::Begun);
    site.put(&whole[..whole.len() - 5]);
    assert_eq!(site.word(&[1], TWO).unwrap(), Word::None);
    std::fs::remove_file(site.state.book()).unwrap();
    assert_eq!(site.word(&[1], ONE).unwrap(), Word::None);
    // The runner that wrote it goes on where it was: what was cut off under its hands is known.
    site.put(&lines[..2].concat());
    drop(book);
    book = site.open(&[1]);
    site.put(&site.bytes()[..200]);
    book.over(ONE);
    assert!(matches!(
        site.word(&[1], ONE),
        Err(BookError::Damaged { .. })
    ));
}

#[test]
fn one_that_is_damaged_is_made_anew_with_what_was_still_good() {
    let (site, _) = two();
    let mut bytes = site.bytes();
    let last = bytes.len() - 60;
    bytes[last] ^= 1;
    site.put(&bytes);
    assert!(site.word(&[1], TWO).is_err());
    let _ = site.open(&[1]);
    assert_eq!(site.word(&[1], ONE).unwrap(), Word::Over(end(3, 7)));
    assert_eq!(site.word(&[1], TWO).unwrap(), Word::None);
}

#[test]
fn it_does_not_grow_without_end_and_forgets_nothing_by_that() {
    let (site, mut book) = two();
    book.open.as_mut().unwrap().until = 0;
    let third = AttemptId(3);
    book.begun(third);
    assert!(book.open.as_ref().unwrap().until > 0, "it was made anew");
    for (attempt, expected) in [
        (ONE, Word::Over(end(3, 7))),
        (TWO, Word::Begun),
        (third, Word::Begun),
    ] {
        assert_eq!(site.word(&[1], attempt).unwrap(), expected);
    }
}

#[test]
fn one_that_cannot_be_made_anew_goes_on_and_is_tried_again_after_a_while() {
    let (site, mut book) = two();
    let beside = site.state.book().with_extension("new");
    std::fs::create_dir(&beside).unwrap();
    book.open.as_mut().unwrap().until = 0;
    let third = AttemptId(3);
    book.begun(third);
    assert_eq!(site.word(&[1], third).unwrap(), Word::Begun);
    std::fs::remove_dir(&beside).unwrap();
    let mut notes = 0;
    while book.open.as_ref().unwrap().until == 0 {
        assert_eq!(book.wait, NOTES_BETWEEN - notes);
        book.begun(third);
        notes += 1;
    }
    assert_eq!(notes, NOTES_BETWEEN + 1);
    assert_eq!(site.word(&[1], TWO).unwrap(), Word::Begun);
}

#[test]
fn what_was_taken_away_since_is_no_later_state_of_what_was_noted() {
    let noted = end(3, 7);
    assert!(noted.becomes(&noted));
    for other in [
        end(3, 6),
        end(3, 8),
        end(2, 7),
        End {
            file: None,
            ..noted
        },
    ] {
        assert!(!noted.becomes(&other), "{other:?}");
    }
    // A keeper that was taken for dead may have gone on to its end, and only on.
    let ended = |end: End| End {
        recorded: true,
        ..end
    };
    assert!(noted.becomes(&ended(end(3, 9))) && noted.becomes(&ended(end(4, 1))));
    assert!(!noted.becomes(&ended(end(3, 6))));
    assert!(!ended(noted).becomes(&noted), "its record was cut");
}

#[test]
fn its_first_line_is_signed_and_of_the_one_version_that_is_known() {
    let site = Site::new();
    let first = |version: u8| {
        let (with, witness) = keys(&[1]).for_book().unwrap();
        let mut line = serde_json::to_vec(&Line::Book { version, with }).unwrap();
        witness.sign(&mut line).unwrap();
        line.push(b'\n');
        line
    };
    let word = |bytes: &[u8]| {
        site.put(bytes);
        site.word(&[1], ONE)
    };
    let good = first(VERSION);
    assert_eq!(word(&good).unwrap(), Word::None);
    // With the tag of another book's.
    let tag = |line: &[u8]| Witness::tag_of(line.strip_suffix(b"\n").unwrap()).unwrap();
    let text = String::from_utf8(good.clone()).unwrap();
    let changed = text.replace(&tag(&good), &tag(&first(VERSION)));
    let changed = changed.into_bytes();
    assert_ne!(changed, good);
    for bad in [changed, first(VERSION + 1)] {
        let why = word(&bad).unwrap_err();
        assert!(matches!(why, BookError::Damaged { line: 1, .. }), "{why}");
    }
}
