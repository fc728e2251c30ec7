//! What stays of a task's output, as it is and encrypted.

use std::path::Path;

use super::*;

fn run(max: u64, files: u32, output: &[u8]) -> (tempfile::TempDir, Log) {
    let dir = tempfile::tempdir().unwrap();
    let opened = crate::socket::open_dir(dir.path()).unwrap();
    let mut log = Log::new(Rc::new(opened), max, files);
    let mut source = output;
    while log.read_from(&mut source).unwrap() > 0 {}
    (dir, log)
}

fn files(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let mut found: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            (
                entry.file_name().into_string().unwrap(),
                std::fs::read(entry.path()).unwrap(),
            )
        })
        .collect();
    found.sort_by_key(|(name, _)| name.trim_start_matches("log.").parse::<u32>().unwrap());
    found
}

#[test]
fn within_the_cap_every_byte_is_kept_in_order() {
    let output: Vec<u8> = (0..3500_u32).map(|i| i.to_le_bytes()[0]).collect();
    let (dir, log) = run(4096, 4, &output);
    assert_eq!(log.counts(), (3500, 0));
    let found = files(dir.path());
    assert_eq!(found.len(), 4);
    // log.0 keeps a place for the note.
    assert_eq!(found[0].1.len(), 1024 - 64);
    assert_eq!(
        found
            .into_iter()
            .flat_map(|(_, bytes)| bytes)
            .collect::<Vec<_>>(),
        output
    );
}

#[test]
fn beyond_the_cap_the_beginning_and_the_newest_stay_and_one_line_counts_the_rest() {
    let output: Vec<u8> = (0..500_000_u32)
        .flat_map(|i| format!("{i}\n").into_bytes())
        .collect();
    let (dir, log) = run(8192, 4, &output);
    let found = files(dir.path());
    let total: usize = found.iter().map(|(_, bytes)| bytes.len()).sum();
    assert!(total <= 8192, "{total} bytes on disk");
    assert_eq!(found.len(), 4);
    assert_eq!(found[0].0, "log.0");
    let (received, dropped) = log.counts();
    assert_eq!(received, output.len() as u64);
    let (head, note) = found[0].1.split_at(2048 - 64);
    assert!(output.starts_with(head));
    let note = std::str::from_utf8(note).unwrap();
    assert_eq!(
        note.trim(),
        format!("[outpost: {dropped} bytes of output left out here]")
    );
    let tail: Vec<u8> = found[1..]
        .iter()
        .flat_map(|(_, bytes)| bytes.clone())
        .collect();
    assert!(output.ends_with(&tail));
    assert_eq!((head.len() + tail.len()) as u64, received - dropped);
}

#[test]
fn one_file_keeps_the_beginning_and_no_room_keeps_nothing() {
    let (dir, log) = run(1064, 1, &[b'x'; 5000]);
    assert_eq!(log.counts(), (5000, 4000));
    assert_eq!(files(dir.path())[0].1.len(), 1064);
    let (_dir, log) = run(0, 3, &[b'x'; 5000]);
    assert_eq!(log.counts(), (5000, 5000));
}

#[test]
fn two_files_keep_the_beginning_and_the_newest() {
    let (dir, log) = run(4096, 2, &[b'x'; 20_000]);
    let found = files(dir.path());
    assert_eq!(found.len(), 2);
    assert!(found.iter().map(|(_, bytes)| bytes.len()).sum::<usize>() <= 4096);
    let (received, dropped) = log.counts();
    let kept: usize = 2048 - 64 + found[1].1.len();
    assert_eq!(received - dropped, kept as u64);
}

mod sealed {
    use zeroize::Zeroizing;

    use super::*;
    use crate::seal::{DataKey, HEADER_BYTES, Header, KeyId, Next, Reader, SealSpec, part_of_log};

    const ATTEMPT: [u8; 16] = [0xab; 16];

    fn spec() -> SealSpec {
        SealSpec {
            key: DataKey::new(Zeroizing::new([7; 32])),
            key_id: KeyId([1; 8]),
            salt: [2; 32],
        }
    }

    fn sealed_log(dir: &Path, max: u64, files: u32) -> Log {
        let opened = crate::socket::open_dir(dir).unwrap();
        let mut log = Log::new(Rc::new(opened), max, files);
        log.sealing = Some(Box::new(Sealing::with(spec(), ATTEMPT)));
        log
    }

    fn run_sealed(max: u64, files: u32, output: &[u8]) -> (tempfile::TempDir, Log) {
        let dir = tempfile::tempdir().unwrap();
        let mut log = sealed_log(dir.path(), max, files);
        let mut source = output;
        while log.read_from(&mut source).unwrap() > 0 {}
        log.close();
        (dir, log)
    }

    /// One file: its number, what came before it, its content, and what was left out inside it.
    struct Opened {
        position: u64,
        content: Vec<u8>,
        left_out: u64,
        last: Option<(u64, u64)>,
        continues: bool,
    }

    fn open(number: usize, bytes: &[u8]) -> Opened {
        let first = bytes.first_chunk::<HEADER_BYTES>().unwrap();
        let header = Header::parse(first).unwrap();
        assert_eq!(header.subject, ATTEMPT);
        let (named, position) = part_of_log(header.part);
        assert_eq!(named, number as u64);
        let mut reader = Reader::begin(first, &header, &spec().key).unwrap();
        let mut file = tempfile::tempfile().unwrap();
        std::io::Write::write_all(&mut file, bytes).unwrap();
        let mut opened = Opened {
            position,
            content: Vec::new(),
            left_out: 0,
            last: None,
            continues: false,
        };
        loop {
            match reader.next(&file).unwrap() {
                Next::Frame(Frame::Bytes(bytes)) => opened.content.extend_from_slice(bytes),
                Next::Frame(Frame::LeftOut(count)) => opened.left_out += count,
                Next::Frame(Frame::Continues) => opened.continues = true,
                Next::Frame(Frame::End { received, left_out }) => {
                    opened.last = Some((received, left_out));
                }
                Next::Frame(Frame::Attributes(_)) => panic!("a log has none"),
                Next::Nothing => return opened,
                Next::Torn => panic!("torn"),
            }
        }
    }

    fn opened(dir: &Path) -> Vec<(usize, Opened)> {
        let numbered = files(dir).into_iter().map(|(name, bytes)| {
            let number = name.trim_start_matches("log.").parse().unwrap();
            (number, open(number, &bytes))
        });
        numbered.collect()
    }

    #[test]
    fn within_the_cap_every_byte_is_kept_and_the_end_is_told() {
        let output: Vec<u8> = (0..3000_u32).flat_map(u32::to_le_bytes).collect();
        let (dir, log) = run_sealed(1 << 20, 4, &output);
        assert_eq!(log.counts(), (12_000, 0));
        let found = opened(dir.path());
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].1.content, output);
        assert_eq!(found[0].1.last, Some((12_000, 0)));
        let raw = std::fs::read(dir.path().join("log.0")).unwrap();
        assert!(!raw.windows(8).any(|window| window == &output[80..88]));
    }

    #[test]
    fn files_follow_each_other_and_say_where_they_begin() {
        let output: Vec<u8> = (0..3000_u32).flat_map(u32::to_le_bytes).collect();
        let (dir, log) = run_sealed(16_000, 4, &output);
        assert_eq!(log.counts(), (12_000, 0));
        let found = opened(dir.path());
        assert!(found.len() > 2);
        let mut position = 0;
        for (number, file) in &found {
            assert_eq!(file.position, position, "log.{number}");
            position += file.content.len() as u64;
            assert_eq!(file.continues, file.last.is_none());
        }
        assert_eq!(position, 12_000);
        assert_eq!(found.last().unwrap().1.last, Some((12_000, 0)));
    }

    #[test]
    fn beyond_the_cap_the_gap_is_as_long_as_what_is_left_out() {
        let output: Vec<u8> = (0..200_000_u32).flat_map(u32::to_le_bytes).collect();
        for files_at_most in [2, 3, 4, 7] {
            let (dir, log) = run_sealed(20_000, files_at_most, &output);
            let on_disk: usize = files(dir.path()).iter().map(|(_, bytes)| bytes.len()).sum();
            assert!(on_disk <= 20_000, "{on_disk} bytes on disk");
            let found = opened(dir.path());
            assert_eq!(found.len(), files_at_most as usize);
            let (received, dropped) = log.counts();
            assert_eq!(received, 800_000);
            assert_eq!(found.last().unwrap().1.last, Some((received, dropped)));
            assert!(output.starts_with(&found[0].1.content));
            let tail: Vec<u8> = found[1..]
                .iter()
                .flat_map(|(_, f)| f.content.clone())
                .collect();
            assert!(output.ends_with(&tail));
            let gap = found[1].1.position - found[0].1.content.len() as u64;
            assert_eq!(gap, dropped);
        }
    }

    #[test]
    fn one_file_keeps_the_beginning_and_too_small_ones_keep_nothing() {
        let (dir, log) = run_sealed(2000, 1, &[b'x'; 9000]);
        let found = opened(dir.path());
        let (received, dropped) = log.counts();
        assert_eq!(found[0].1.content.len() as u64, received - dropped);
        assert_eq!(found[0].1.last, Some((9000, dropped)));
        assert!(dropped > 7000 && files(dir.path())[0].1.len() <= 2000);
        for max in [0, 150, 400] {
            let (_dir, log) = run_sealed(max, 4, &[b'x'; 5000]);
            assert_eq!(log.counts(), (5000, 5000));
        }
    }

    #[test]
    fn what_a_task_says_is_readable_before_it_says_more() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = sealed_log(dir.path(), 1 << 20, 4);
        for said in 1..5 {
            assert_eq!(log.read_from(&mut &b"line\n"[..]).unwrap(), 5);
            let found = opened(dir.path());
            assert_eq!(found[0].1.content, b"line\n".repeat(said));
            assert_eq!(found[0].1.last, None);
        }
    }

    /// A disk that takes nothing for a while: what is read afterwards says how much is missing, and no number of a frame
    /// was used for two contents.
    #[test]
    fn what_the_disk_did_not_take_is_told_and_what_it_tore_is_mended() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = sealed_log(dir.path(), 1 << 20, 4);
        let say = |log: &mut Log, text: &[u8]| {
            let mut source = text;
            while log.read_from(&mut source).unwrap() > 0 {}
        };
        say(&mut log, b"before");
        let works = log.current.take();
        let closed = std::fs::File::open(dir.path().join("log.0")).unwrap();
        // Open for reading only: every write fails.
        log.current = Some(closed);
        say(&mut log, b"waits");
        say(&mut log, b"lost");
        assert_eq!(log.counts(), (15, 4));
        log.current = works;
        say(&mut log, b"after");
        log.close();
        assert_eq!(log.counts(), (20, 4));
        let found = opened(dir.path());
        assert_eq!(found[0].1.content, b"beforewaitsafter");
        assert_eq!(found[0].1.left_out, 4);
        assert_eq!(found[0].1.last, Some((20, 4)));
    }

    #[test]
    fn what_never_reached_the_disk_is_counted_as_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = sealed_log(dir.path(), 1 << 20, 4);
        let mut source = &b"before"[..];
        log.read_from(&mut source).unwrap();
        log.current = Some(std::fs::File::open(dir.path().join("log.0")).unwrap());
        let mut source = &b"never"[..];
        log.read_from(&mut source).unwrap();
        log.close();
        assert_eq!(log.counts(), (11, 5));
        let found = opened(dir.path());
        assert_eq!(
            (found[0].1.content.as_slice(), found[0].1.last),
            (&b"before"[..], None)
        );
    }
}
