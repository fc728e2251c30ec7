//! What a log and its record say of each other, and what is said of it when they do not agree.

use outpost_agent_keeper::seal::{Frame, SealSpec, Sealer, Witness};
use outpost_proto::ids::AttemptId;

use super::*;
use crate::seal::tests::keys;

const ATTEMPT: u128 = 0xabcd;

struct Site {
    root: tempfile::TempDir,
    spec: SealSpec,
}

impl Site {
    /// An attempt that is over, with an encrypted log and a signed record of it.
    fn new() -> Self {
        let site = Self {
            root: crate::testing::tempdir().unwrap(),
            spec: keys(&[1]).for_attempt(AttemptId(ATTEMPT)).unwrap(),
        };
        std::fs::create_dir(site.dir()).unwrap();
        let header = site.spec.log_header(ATTEMPT.to_be_bytes(), 0, 0);
        let (mut sealer, bytes) = Sealer::begin(&header, &site.spec.key).unwrap();
        let mut out = bytes.to_vec();
        let end = Frame::End {
            received: 4,
            left_out: 0,
        };
        for frame in [Frame::Bytes(b"said"), end] {
            sealer.frame(frame, &mut out).unwrap();
        }
        std::fs::write(site.dir().join("log.0"), out).unwrap();
        site.record(&site.keeper(true, true), true);
        site
    }

    fn dir(&self) -> PathBuf {
        self.root.path().join(format!("{ATTEMPT:032x}"))
    }

    /// The record's first line.
    fn keeper(&self, sealed: bool, with: bool) -> serde_json::Value {
        let mut keeper = serde_json::json!({
            "version": 4, "binary": "1", "attempt": format!("{ATTEMPT:032x}"), "boot_id": "b",
            "keeper": { "pid": 1, "start_time": 1 },
        });
        if sealed {
            keeper["sealed"] = true.into();
        }
        if with {
            keeper["sealed_with"] = serde_json::to_value(self.spec.sealed_with()).unwrap();
        }
        serde_json::json!({ "keeper": keeper })
    }

    fn record(&self, keeper: &serde_json::Value, signed: bool) {
        let mut body = serde_json::to_vec(keeper).unwrap();
        if signed {
            let witness = Witness::new(self.spec.key.clone(), ATTEMPT.to_be_bytes());
            witness.sign(&mut body).unwrap();
        }
        let sum = crc32fast::hash(&body);
        let body = String::from_utf8(body).unwrap();
        let line = format!("{{\"crc32\":\"{sum:08x}\",\"record\":{body}}}\n");
        std::fs::write(self.dir().join("claim"), line).unwrap();
    }

    /// What is shown of it, and what is said: `!` before an error.
    fn read(&self, of: Option<&[u8]>) -> (String, String) {
        let mut log = LogTail::with_keys(&self.dir(), of.map(keys).map(Arc::new));
        log.is_over();
        let mut seen = Vec::new();
        let read = log.more(&mut |bytes| {
            seen.extend_from_slice(bytes);
            true
        });
        let said = read.and_then(|_| log.verdict(None, false));
        let said = match said {
            Ok(said) => said.join("; "),
            Err(error) => format!("!{error}"),
        };
        (String::from_utf8_lossy(&seen).into_owned(), said)
    }
}

#[test]
fn a_log_and_its_signed_record_agree() {
    let site = Site::new();
    assert_eq!(site.read(Some(&[1])), ("said".to_owned(), String::new()));
    let (seen, said) = site.read(None);
    assert!(
        seen.is_empty() && said.contains("--site-key-file"),
        "{said}"
    );
    let (seen, said) = site.read(Some(&[2]));
    assert!(
        seen.is_empty() && said.contains("--site-key-file"),
        "{said}"
    );
}

#[test]
fn whatever_a_changed_record_says_the_log_is_shown_and_the_record_named() {
    let site = Site::new();
    // That the log is not encrypted; signed with the key of another attempt, as one that was exchanged; not signed at all.
    site.record(&site.keeper(false, false), false);
    let (seen, said) = site.read(Some(&[1]));
    assert_eq!(seen, "said");
    assert!(said.contains("no record of its attempt says so"), "{said}");
    site.record(&site.keeper(true, true), false);
    let (seen, said) = site.read(Some(&[1]));
    assert_eq!(seen, "said");
    assert!(
        said.starts_with('!') && said.contains("its line 1 is not what"),
        "{said}"
    );
    site.record(&site.keeper(true, false), false);
    let (_, said) = site.read(Some(&[1]));
    assert!(
        said.starts_with('!') && said.contains("it is not signed"),
        "{said}"
    );
    // Who has the attempt's key alone could sign this, and only a keeper that is broken would.
    site.record(&site.keeper(false, true), true);
    let (_, said) = site.read(Some(&[1]));
    assert!(said.starts_with('!'), "{said}");
    std::fs::remove_file(site.dir().join("claim")).unwrap();
    let (seen, said) = site.read(Some(&[1]));
    assert_eq!(seen, "said");
    assert!(
        said.starts_with('!') && said.contains("no record"),
        "{said}"
    );
}

#[test]
fn a_log_that_is_not_encrypted_is_said_to_be_unproved_only_to_who_reads_with_a_key() {
    let site = Site::new();
    std::fs::write(site.dir().join("log.0"), "made up ".repeat(20)).unwrap();
    site.record(&site.keeper(false, false), false);
    assert_eq!(site.read(None), ("made up ".repeat(20), String::new()));
    let (seen, said) = site.read(Some(&[1]));
    assert!(seen.starts_with("made up"));
    assert!(
        said.contains("whether it was changed cannot be said"),
        "{said}"
    );
    // The record says that it is.
    site.record(&site.keeper(true, true), true);
    let (seen, said) = site.read(Some(&[1]));
    assert!(
        seen.is_empty() && said.contains("does not begin as"),
        "{said}"
    );
}

/// What a task prints is its own affair, also the beginning of an encrypted file of this very site.
#[test]
fn a_plain_log_that_begins_like_an_encrypted_one_is_shown_as_it_is() {
    let site = Site::new();
    let header = site.spec.log_header(ATTEMPT.to_be_bytes(), 0, 0);
    let foreign = keys(&[9]).for_attempt(AttemptId(ATTEMPT)).unwrap();
    let (_, bytes) = Sealer::begin(&header, &foreign.key).unwrap();
    let text = [&bytes[..], b" and more"].concat();
    std::fs::write(site.dir().join("log.0"), &text).unwrap();
    site.record(&site.keeper(false, false), false);
    let (seen, said) = site.read(Some(&[1]));
    assert_eq!(seen, String::from_utf8_lossy(&text));
    assert!(said.contains("whether it was changed"), "{said}");
}

#[test]
fn a_link_in_the_place_of_a_log_is_not_followed() {
    let site = Site::new();
    let outside = site.root.path().join("outside");
    std::fs::write(&outside, "canary").unwrap();
    site.record(&site.keeper(false, false), false);
    std::fs::write(site.dir().join("log.0"), "own").unwrap();
    std::os::unix::fs::symlink(&outside, site.dir().join("log.1")).unwrap();
    assert_eq!(site.read(None).0, "own");
    std::fs::remove_file(site.dir().join("log.0")).unwrap();
    assert_eq!(site.read(None).0, "");
    // Without a record it is the first file that tells the form.
    std::fs::remove_file(site.dir().join("claim")).unwrap();
    let (seen, said) = site.read(Some(&[1]));
    assert!(seen.is_empty() && said.starts_with('!'), "{said}");
}
