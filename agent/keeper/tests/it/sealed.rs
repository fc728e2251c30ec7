//! Encrypted logs as real keepers write them: nothing of the output in plain, each attempt under its own key, and what a
//! keeper costs with it.

use std::fs::File;
use std::path::Path;

use outpost_agent_keeper::adopt::read_keeper_record;
use outpost_agent_keeper::protocol::{Cause, Ended, StartSpec};
use outpost_agent_keeper::record::{check_record, read_exit_record};
use outpost_agent_keeper::seal::{
    DataKey, Frame, HEADER_BYTES, Header, KeyId, Next, Reader, SealSpec, part_of_log,
};
use zeroize::Zeroizing;

use crate::site::*;

fn seal(byte: u8) -> SealSpec {
    SealSpec {
        key: DataKey::new(Zeroizing::new([byte; 32])),
        key_id: KeyId([byte + 0x10; 8]),
        salt: [byte + 0x20; 32],
    }
}

/// What a file says, and whether it says that it is the last one.
fn open(path: &Path, spec: &StartSpec) -> (Vec<u8>, Option<(u64, u64)>) {
    let bytes = std::fs::read(path).unwrap();
    let first = bytes.first_chunk::<HEADER_BYTES>().unwrap();
    let header = Header::parse(first).unwrap();
    let seal = spec.seal.as_ref().unwrap();
    assert_eq!(
        format!("{:032x}", u128::from_be_bytes(header.subject)),
        spec.attempt
    );
    assert_eq!((header.key_id, header.salt), (seal.key_id, seal.salt));
    let mut reader = Reader::begin(first, &header, &seal.key).unwrap();
    let file = File::open(path).unwrap();
    let (mut said, mut end) = (Vec::new(), None);
    loop {
        match reader.next(&file).unwrap() {
            Next::Frame(Frame::Bytes(bytes)) => said.extend_from_slice(bytes),
            Next::Frame(Frame::End { received, left_out }) => end = Some((received, left_out)),
            Next::Frame(Frame::Continues) => {}
            Next::Frame(other) => panic!("{other:?}"),
            Next::Nothing => return (said, end),
            Next::Torn => panic!("torn"),
        }
    }
}

fn contains(path: &Path, word: &[u8]) -> bool {
    let bytes = std::fs::read(path).unwrap();
    bytes.windows(word.len()).any(|window| window == word)
}

#[test]
fn a_keeper_encrypts_what_its_task_says_and_each_attempt_with_its_own_key() {
    let site = Site::new();
    let mut first = site.script("echo canary-of-the-first");
    first.seal = Some(seal(1));
    let keeper = site.start(&first);
    let record = expect(last(&keeper), Ended::Exited(0), Cause::Own);
    assert_eq!((record.log_bytes, record.log_dropped_bytes), (20, 0));
    let mut second = site.script("echo canary-of-the-second >&2; exit 3");
    second.seal = Some(seal(2));
    keeper.next(&second).unwrap();
    expect(last(&keeper), Ended::Exited(3), Cause::Own);
    // The third one's log is not encrypted, and says so by not saying so.
    let third = site.script("echo canary-of-the-third");
    keeper.next(&third).unwrap();
    expect(last(&keeper), Ended::Exited(0), Cause::Own);
    assert_eq!(read(&third.dir.join("log.0")), "canary-of-the-third\n");
    assert!(!read_keeper_record(&third.dir).unwrap().unwrap().sealed);
    for (spec, said) in [
        (&first, "canary-of-the-first\n"),
        (&second, "canary-of-the-second\n"),
    ] {
        let log = spec.dir.join("log.0");
        let length = said.len() as u64;
        assert_eq!(
            open(&log, spec),
            (said.as_bytes().to_vec(), Some((length, 0)))
        );
        assert!(read_keeper_record(&spec.dir).unwrap().unwrap().sealed);
        for file in std::fs::read_dir(&spec.dir).unwrap() {
            let path = file.unwrap().path();
            assert!(!contains(&path, b"canary"), "{}", path.display());
            // The key is in the keeper's memory only.
            let key = if said.contains("first") {
                "0101010101"
            } else {
                "0202020202"
            };
            assert!(!contains(&path, key.as_bytes()), "{}", path.display());
        }
    }
}

/// The lines of a claim, as they are and as somebody would change them: with a checksum that is right.
struct Claimed {
    path: std::path::PathBuf,
    lines: Vec<String>,
}

impl Claimed {
    fn of(spec: &StartSpec) -> Self {
        let path = spec.dir.join("claim");
        let text = read(&path);
        let lines = text.lines().filter(|line| !line.is_empty());
        let record = |line: &str| {
            let (_, record) = line.split_once("\"record\":").unwrap();
            record.strip_suffix('}').unwrap().to_owned()
        };
        let lines = lines.map(record).collect();
        Self { path, lines }
    }

    fn put(&self, lines: &[String]) {
        let line = |record: &String| {
            let sum = crc32fast::hash(record.as_bytes());
            format!("{{\"crc32\":\"{sum:08x}\",\"record\":{record}}}\n")
        };
        let text = lines.iter().map(line).collect::<String>();
        std::fs::write(&self.path, text).unwrap();
    }
}

#[test]
fn each_line_of_the_record_of_an_encrypted_log_is_signed_and_what_was_changed_is_known() {
    let site = Site::new();
    let run = |byte| {
        let mut spec = site.script_to_tell_of("echo said", 3);
        spec.seal = Some(seal(byte));
        expect(site.run_told(&spec), Ended::Exited(3), Cause::Own);
        spec
    };
    let (one, other) = (run(1), run(1));
    let witness = |spec: &StartSpec| {
        let seal = spec.seal.as_ref().unwrap();
        seal.witness(&spec.attempt).unwrap()
    };
    let own = witness(&one);
    let record = read_keeper_record(&one.dir).unwrap().unwrap();
    assert_eq!(record.sealed_with, Some(seal(1).sealed_with()));
    check_record(&one.dir, &own).unwrap();
    check_record(&one.dir, &witness(&other)).unwrap_err();
    let claimed = Claimed::of(&one);
    assert_eq!(claimed.lines.len(), 3, "keeper, task, end");
    let refused = |lines: &[String], line: &str| {
        claimed.put(lines);
        assert!(
            read_exit_record(&one.dir).is_ok(),
            "the checksums are right"
        );
        let error = check_record(&one.dir, &own).unwrap_err().to_string();
        assert!(error.contains(line), "{error}");
    };
    let mut lines = claimed.lines.clone();
    lines[2] = lines[2].replace("\"log_bytes\":5", "\"log_bytes\":0");
    assert_ne!(lines, claimed.lines);
    refused(&lines, "line 3");
    let mut lines = claimed.lines.clone();
    lines[0] = lines[0].replace(",\"sealed\":true", "");
    assert_ne!(lines, claimed.lines);
    refused(&lines, "line 1");
    // The end of another attempt that had even the same key.
    let mut lines = claimed.lines.clone();
    lines[2].clone_from(&Claimed::of(&other).lines[2]);
    refused(&lines, "line 3");
    let mut lines = claimed.lines.clone();
    let (signed, _) = lines[2].split_once(",\"tag\"").unwrap();
    lines[2] = format!("{signed}}}}}");
    refused(&lines, "line 3");
    // What was never written, or was cut away, leaves no trace here.
    claimed.put(&claimed.lines[..2]);
    check_record(&one.dir, &own).unwrap();
    claimed.put(&[]);
    check_record(&one.dir, &own).unwrap_err();
}

#[test]
fn nothing_waits_for_what_is_no_record() {
    let site = Site::new();
    let spec = site.script("exit 0");
    expect(site.run(&spec), Ended::Exited(0), Cause::Own);
    let path = spec.dir.join("claim");
    std::fs::remove_file(&path).unwrap();
    let mode = rustix::fs::Mode::RWXU;
    let kind = rustix::fs::FileType::Fifo;
    rustix::fs::mknodat(rustix::fs::CWD, &path, kind, mode, 0).unwrap();
    let error = read_keeper_record(&spec.dir).unwrap_err().to_string();
    assert!(error.contains("claim"), "{error}");
}

#[test]
fn k4_a_flood_is_capped_in_encrypted_files_and_its_newest_part_is_kept() {
    let site = Site::new();
    let mut spec = site.script("head -c 20000000 /dev/zero; echo end");
    spec.log_max_bytes = 300_000;
    spec.seal = Some(seal(1));
    let record = expect(site.run(&spec), Ended::Exited(0), Cause::Own);
    assert_eq!(record.log_bytes, 20_000_004);
    let mut numbers: Vec<u64> = std::fs::read_dir(&spec.dir)
        .unwrap()
        .filter_map(|file| {
            file.unwrap()
                .file_name()
                .to_str()?
                .strip_prefix("log.")?
                .parse()
                .ok()
        })
        .collect();
    numbers.sort_unstable();
    assert_eq!(numbers.len(), 4);
    let path = |number: &u64| spec.dir.join(format!("log.{number}"));
    let on_disk: u64 = numbers
        .iter()
        .map(|n| path(n).metadata().unwrap().len())
        .sum();
    assert!(on_disk <= 300_000, "{on_disk}");
    let (newest, end) = open(&path(numbers.last().unwrap()), &spec);
    assert!(newest.ends_with(b"\0end\n"));
    assert_eq!(end, Some((20_000_004, record.log_dropped_bytes)));
    let header = std::fs::read(path(&numbers[1])).unwrap();
    let header = Header::parse(header.first_chunk().unwrap()).unwrap();
    let (number, position) = part_of_log(header.part);
    let head = open(&path(&0), &spec).0.len() as u64;
    assert_eq!(
        (number, position - head),
        (numbers[1], record.log_dropped_bytes)
    );
}

/// Kilobytes that are a process's alone.
fn private_kb(pid: u32) -> u64 {
    let text = read(Path::new(&format!("/proc/{pid}/smaps_rollup")));
    let of = |name: &str| -> u64 {
        let line = text.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    of("Private_Dirty:")
}

#[test]
fn a_keeper_that_encrypts_costs_little_more_than_one_that_does_not() {
    let site = Site::new();
    let costs = |sealed: bool| {
        let mut spec =
            site.script("echo said; echo ready > ready; until [ -e go ]; do sleep 0.02; done");
        spec.seal = sealed.then(|| seal(1));
        let keeper = site.start(&spec);
        let task = running(&keeper);
        site.lines("ready", 1);
        let log = spec.dir.join("log.0");
        until("the output is on disk", || {
            log.metadata().ok().filter(|meta| meta.len() > 4)
        });
        assert!(task.is_alive());
        let kb = private_kb(keeper_of(&spec).keeper.pid);
        std::fs::write(site.path("go"), "").unwrap();
        expect(last(&keeper), Ended::Exited(0), Cause::Own);
        std::fs::remove_file(site.path("go")).unwrap();
        std::fs::remove_file(site.path("ready")).unwrap();
        kb
    };
    let (plain, sealed) = (costs(false), costs(true));
    println!("private memory of a keeper: {plain} kB, encrypting {sealed} kB");
    assert!(sealed <= plain + 128, "{plain} kB, encrypting {sealed} kB");
}
