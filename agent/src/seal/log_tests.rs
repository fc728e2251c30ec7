//! Logs as a keeper writes them, and what becomes of them afterwards.

use std::fs::{read, remove_file, write};

use outpost_agent_keeper::protocol::{Cause, Ended};
use outpost_agent_keeper::seal::{SealSpec, Sealer};
use outpost_proto::ids::AttemptId;

use super::*;
use crate::seal::tests::keys;

const ATTEMPT: u128 = 0xabcd;

struct Site {
    root: tempfile::TempDir,
    spec: SealSpec,
}

/// A log of five files: the first one, and those from the third on.
const PIECES: [(u64, &str); 5] = [
    (0, "zero "),
    (3, "three "),
    (4, "four "),
    (5, ""),
    (6, "six"),
];

impl Site {
    fn new() -> Self {
        let spec = keys(&[1]).for_attempt(AttemptId(ATTEMPT)).unwrap();
        let site = Self {
            root: crate::testing::tempdir().unwrap(),
            spec,
        };
        std::fs::create_dir(site.dir()).unwrap();
        site
    }

    fn dir(&self) -> PathBuf {
        self.root.path().join(format!("{ATTEMPT:032x}"))
    }

    fn path(&self, number: u64) -> PathBuf {
        self.dir().join(format!("log.{number}"))
    }

    /// 100 bytes are left out behind the first file.
    fn whole() -> Self {
        let site = Self::new();
        let mut position = 0;
        for (number, text) in PIECES {
            let last = number == 6;
            position += if number == 3 { 100 } else { 0 };
            site.file(number, position, text, last.then_some((119, 100)));
            position += text.len() as u64;
        }
        site
    }

    fn file(&self, number: u64, position: u64, text: &str, end: Option<(u64, u64)>) {
        let subject = ATTEMPT.to_be_bytes();
        let header = self.spec.log_header(subject, number, position);
        let (mut sealer, bytes) = Sealer::begin(&header, &self.spec.key).unwrap();
        let mut out = bytes.to_vec();
        sealer
            .frame(Frame::Bytes(text.as_bytes()), &mut out)
            .unwrap();
        let last = end.map_or(Frame::Continues, |(received, left_out)| Frame::End {
            received,
            left_out,
        });
        sealer.frame(last, &mut out).unwrap();
        write(self.path(number), out).unwrap();
    }

    fn read_with(
        &self,
        keys: Option<&SiteKeys>,
        over: bool,
    ) -> (String, Result<Option<String>, TailError>) {
        let mut log = SealedLog::default();
        let mut seen = Vec::new();
        let mut show = |bytes: &[u8]| {
            seen.extend_from_slice(bytes);
            true
        };
        let exit = end();
        let end = over.then_some(&exit);
        let read = log.more(&self.dir(), keys, over, &mut show);
        let verdict = read.and_then(|_| log.verdict(&self.dir(), end, false));
        (String::from_utf8(seen).unwrap(), verdict)
    }

    fn read(&self) -> (String, String) {
        let (seen, verdict) = self.read_with(Some(&keys(&[1])), true);
        (
            seen,
            verdict.map_or_else(|error| error.to_string(), Option::unwrap_or_default),
        )
    }
}

fn end() -> ExitRecord {
    ExitRecord {
        version: 4,
        attempt: format!("{ATTEMPT:032x}"),
        boot_id: String::new(),
        ended: Ended::Exited(0),
        cause: Cause::Own,
        started_boot_us: 1,
        duration_ms: 1,
        log_bytes: 119,
        log_dropped_bytes: 100,
        containment: None,
        text: String::new(),
    }
}

const NOTE: &str = "\n[outpost: 100 bytes of output left out here]\n";

#[test]
fn a_whole_log_is_shown_whole_with_what_was_left_out() {
    let (seen, verdict) = Site::whole().read();
    assert_eq!(seen, format!("zero {NOTE}three four six"));
    assert_eq!(verdict, "");
}

#[test]
fn without_its_key_nothing_is_shown_and_the_key_is_named() {
    let site = Site::whole();
    for keys in [None, Some(keys(&[2]))] {
        let (seen, verdict) = site.read_with(keys.as_ref(), true);
        let error = verdict.unwrap_err().to_string();
        assert_eq!(seen, "");
        assert!(error.contains(&site.spec.key_id.to_string()), "{error}");
        assert!(error.contains("--site-key-file"), "{error}");
    }
    assert_eq!(site.read_with(Some(&keys(&[2, 1])), true).1.unwrap(), None);
}

#[test]
fn every_file_that_is_missing_is_missed() {
    for (number, text) in [(0, "log.0"), (4, "log.4"), (5, "log.5"), (6, "log.6")] {
        let site = Site::whole();
        remove_file(site.path(number)).unwrap();
        let (_, verdict) = site.read();
        assert!(verdict.contains(text), "{number}: {verdict}");
    }
    // As if the cap had taken it: but the last frame says how much that was.
    let site = Site::whole();
    remove_file(site.path(3)).unwrap();
    let (_, verdict) = site.read();
    assert!(verdict.contains("106 bytes are not here"), "{verdict}");
    let site = Site::new();
    let (_, verdict) = site.read();
    assert!(verdict.contains("log.0"), "{verdict}");
}

#[test]
fn files_that_changed_places_or_came_from_elsewhere_are_named() {
    let site = Site::whole();
    let (four, five) = (read(site.path(4)).unwrap(), read(site.path(5)).unwrap());
    write(site.path(4), &five).unwrap();
    write(site.path(5), &four).unwrap();
    assert!(site.read().1.contains("log.5 under another name"));
    write(site.path(4), &four).unwrap();
    write(site.path(5), &five).unwrap();
    assert_eq!(site.read().1, "");
    let other = Site::whole();
    write(site.path(4), read(other.path(4)).unwrap()).unwrap();
    assert!(site.read().1.contains("another log of the same attempt"));
    write(site.path(4), &four).unwrap();
    let mut header = read(site.path(4)).unwrap();
    header[56] ^= 1;
    write(site.path(4), header).unwrap();
    assert!(site.read().1.contains("does not belong here"));
    write(
        site.path(4),
        "plain text that is long enough to be a header ".repeat(4),
    )
    .unwrap();
    assert!(
        site.read()
            .1
            .contains("does not begin as an encrypted file")
    );
}

#[test]
fn a_cut_a_flip_and_something_more_are_named_with_their_place() {
    let begins = HEADER_BYTES as u64;
    for cut in [0, 50, begins, begins + 3, begins + 23] {
        let site = Site::whole();
        let bytes = read(site.path(6)).unwrap();
        write(site.path(6), &bytes[..usize::try_from(cut).unwrap()]).unwrap();
        let (_, verdict) = site.read();
        let whole = if cut < begins {
            0
        } else if cut < begins + 23 {
            begins
        } else {
            begins + 23
        };
        assert!(
            verdict.contains(&format!("ends at byte {whole} without")),
            "{cut}: {verdict}"
        );
    }
    let site = Site::whole();
    let mut bytes = read(site.path(3)).unwrap();
    bytes[HEADER_BYTES + 6] ^= 4;
    write(site.path(3), bytes).unwrap();
    let (seen, verdict) = site.read();
    assert_eq!(seen, format!("zero {NOTE}"), "what is good before it");
    assert!(
        verdict.contains("log.3") && verdict.contains("at byte 104"),
        "{verdict}"
    );
    let site = Site::whole();
    let mut bytes = read(site.path(6)).unwrap();
    bytes.push(0);
    write(site.path(6), bytes).unwrap();
    assert!(site.read().1.contains("follows the last frame"));
    let site = Site::whole();
    write(site.path(7), read(site.path(6)).unwrap()).unwrap();
    assert!(site.read().1.contains("log.6 is the last one"));
}

#[test]
fn what_a_killed_keeper_tore_is_told_as_such() {
    let site = Site::whole();
    let bytes = read(site.path(6)).unwrap();
    for cut in [HEADER_BYTES + 4, HEADER_BYTES + 23] {
        write(site.path(6), &bytes[..cut]).unwrap();
        let (seen, verdict) = site.read_with(Some(&keys(&[1])), false);
        let told = verdict.unwrap().unwrap();
        assert!(seen.contains("four"), "{seen}");
        assert!(told.contains("ended by force"), "{told}");
    }
    // What a cut of the power never wrote reads as zeros.
    let mut holed = bytes;
    holed.truncate(HEADER_BYTES + 8);
    holed.resize(4096, 0);
    write(site.path(6), &holed).unwrap();
    let (_, verdict) = site.read_with(Some(&keys(&[1])), false);
    assert!(verdict.unwrap().unwrap().contains("power"));
    assert!(
        site.read().1.contains("a frame was changed, moved"),
        "with an end on record it is damage"
    );
    // And so is what has no holes, whether or not there is an end.
    let site = Site::whole();
    let mut flipped = read(site.path(6)).unwrap();
    flipped[HEADER_BYTES + 6] ^= 1;
    write(site.path(6), &flipped).unwrap();
    let (_, verdict) = site.read_with(Some(&keys(&[1])), false);
    assert!(
        verdict
            .unwrap_err()
            .to_string()
            .contains("a frame was changed, moved")
    );
}

/// Who has the attempt's key can still not make a log of what is none.
#[test]
fn files_that_overlap_and_what_belongs_to_other_files_are_named() {
    let site = Site::new();
    site.file(0, 0, "zero ", None);
    site.file(1, 3, "one", Some((6, 0)));
    let (seen, verdict) = site.read();
    assert_eq!(seen, "zero ");
    assert!(
        verdict.contains("log.1: it begins before the one before it ends"),
        "{verdict}"
    );

    let header = site.spec.log_header(ATTEMPT.to_be_bytes(), 1, 5);
    let (mut sealer, bytes) = Sealer::begin(&header, &site.spec.key).unwrap();
    let mut out = bytes.to_vec();
    sealer.frame(Frame::Attributes(b"who"), &mut out).unwrap();
    write(site.path(1), out).unwrap();
    let (_, verdict) = site.read();
    assert!(verdict.contains("log.1: it is no log"), "{verdict}");
}

/// A run and an attempt may have the same number: what is a file of the one is no log of the other.
#[test]
fn a_file_of_a_run_is_no_log_whatever_it_is_called() {
    let site = Site::new();
    let part = site.spec.log_header(ATTEMPT.to_be_bytes(), 0, 0).part;
    let made = keys(&[1]).fresh(Kind::RunFile, ATTEMPT.to_be_bytes(), part);
    let (header, key) = made.unwrap();
    let (mut sealer, bytes) = Sealer::begin(&header, &key).unwrap();
    let mut out = bytes.to_vec();
    sealer.frame(Frame::Bytes(b"canary"), &mut out).unwrap();
    write(site.path(0), out).unwrap();
    let (seen, verdict) = site.read();
    assert_eq!(seen, "");
    assert!(verdict.contains("does not belong here"), "{verdict}");
}
