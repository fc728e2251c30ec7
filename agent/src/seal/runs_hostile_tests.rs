//! What a task, or whoever gets at the files of a run while it rests, puts in their place or beside them.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::tests::{RUN, Run, run};
use super::*;
use crate::seal::tests::keys;

/// As the agent's own files are.
fn put_closed(path: &Path, bytes: &[u8]) {
    std::fs::write(path, bytes).unwrap();
    std::fs::set_permissions(path, PermissionsExt::from_mode(0o600)).unwrap();
}

fn fifo(path: &Path) {
    let (mode, kind) = (Mode::RUSR | Mode::WUSR, FileType::Fifo);
    rustix::fs::mknodat(rustix::fs::CWD, path, kind, mode, 0).unwrap();
}

/// Another account's, where this one is root.
fn given_away(path: &Path) -> bool {
    std::os::unix::fs::chown(path, Some(61_713), None).is_ok()
}

/// A header that is signed as it must be, of this kind, run and path.
fn header(keys: &SiteKeys, kind: Kind, run: RunId, path: &[u8]) -> Vec<u8> {
    let (header, key) = keys.fresh(kind, run.0.to_be_bytes(), part(path)).unwrap();
    Sealer::begin(&header, &key).unwrap().1.to_vec()
}

#[test]
fn only_a_file_of_this_run_that_is_the_agents_alone_is_taken_for_encrypted() {
    let (dir, keys) = (Run::empty(), keys(&[1]));
    let path = dir.path().join("a");
    let is_taken = |bytes: &[u8]| {
        put_closed(&path, bytes);
        header_of(&File::open(&path).unwrap(), RUN)
            .unwrap()
            .is_some()
    };
    let right = header(&keys, Kind::RunFile, RUN, b"a");
    assert!(is_taken(&right));
    assert!(!is_taken(&right[..HEADER_BYTES - 1]));
    assert!(!is_taken(&header(&keys, Kind::RunFile, RunId(0x78), b"a")));
    for kind in [Kind::RunList, Kind::Log] {
        assert!(!is_taken(&header(&keys, kind, RUN, b"a")), "{kind:?}");
    }
    let taken = |file: &Path| {
        header_of(&File::open(file).unwrap(), RUN)
            .unwrap()
            .is_some()
    };
    put_closed(&path, &right);
    for mode in [0o640, 0o644, 0o700, 0o4600] {
        std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
        assert!(!taken(&path), "{mode:o}");
    }
    put_closed(&path, &right);
    assert!(taken(&path));
    if given_away(&path) {
        assert!(!taken(&path));
    }
}

/// Where no list says which files there were: what one run left is not handed to the tasks of another.
#[test]
fn a_file_of_another_run_is_not_opened_as_one_of_this() {
    let (dir, mut other, keys) = (run(), run(), keys(&[1]));
    other.rest.run = RunId(0x78);
    for rest in [&dir.rest, &other.rest] {
        seal(&keys, rest).unwrap();
    }
    let theirs = std::fs::read(other.path().join("out/load.env")).unwrap();
    put_closed(&dir.path().join("out/load.env"), &theirs);
    std::fs::write(&dir.rest.list, "some\n").unwrap();
    assert_eq!(open(Some(&keys), &dir.rest).unwrap().files, 2);
    assert_eq!(
        std::fs::read(dir.path().join("out/load.env")).unwrap(),
        theirs
    );
}

#[test]
fn what_was_put_behind_all_others_or_is_of_another_kind_is_named() {
    let keys = keys(&[1]);
    let dir = run();
    fifo(&dir.path().join("pipe"));
    seal(&keys, &dir.rest).unwrap();
    let last = dir.path().join("zzz");
    std::fs::write(&last, "x").unwrap();
    let error = open(Some(&keys), &dir.rest).unwrap_err().to_string();
    assert!(error.contains("zzz: it was put there after"), "{error}");
    std::fs::remove_file(&last).unwrap();
    std::fs::remove_file(dir.path().join("pipe")).unwrap();
    let socket = rustix::fs::FileType::Socket;
    let made = rustix::fs::mknodat(
        rustix::fs::CWD,
        dir.path().join("pipe"),
        socket,
        Mode::RWXU,
        0,
    );
    made.unwrap();
    let error = open(Some(&keys), &dir.rest).unwrap_err().to_string();
    assert!(error.contains("pipe: it is not the one"), "{error}");
}

/// A task may call its files what it will: only what the agent itself left half done is taken away.
#[test]
fn a_tasks_file_that_is_nearly_called_like_one_on_its_way_stays() {
    let dir = Run::empty();
    let path = |name: &str| dir.path().join(name);
    let kept = [
        ".outpost-sealing.mine",
        ".outpost-sealing.0123456789abcde",
        ".outpost-sealing.0123456789abcdefg",
        ".outpost-sealing-0123456789abcdef",
    ];
    for name in kept {
        put_closed(&path(name), b"said");
    }
    let chance = format!("{BESIDE}.0123456789abcdef");
    fifo(&path(&chance));
    let keys = keys(&[1]);
    assert_eq!(seal(&keys, &dir.rest).unwrap().files, 4);
    assert_eq!(open(Some(&keys), &dir.rest).unwrap().files, 4);
    for name in kept {
        assert_eq!(std::fs::read(path(name)).unwrap(), b"said", "{name}");
    }
    assert!(path(&chance).symlink_metadata().is_ok());
}

/// Of another account it is not the agent's, and neither is it once it is encrypted: it must not seem to be missing then.
#[test]
fn another_accounts_file_that_is_called_like_one_on_its_way_is_opened_as_it_was() {
    let names = [BESIDE.to_owned(), format!("{BESIDE}.00000000000000ff")];
    for name in names {
        let (dir, keys) = (run(), keys(&[1]));
        let path = dir.path().join(name);
        put_closed(&path, b"said");
        if !given_away(&path) {
            return;
        }
        for _ in 0..2 {
            assert_eq!(seal(&keys, &dir.rest).unwrap().files, 4);
            // One that was interrupted is taken up again.
            std::fs::write(&dir.rest.list, "some\n").unwrap();
            assert_eq!(seal(&keys, &dir.rest).unwrap().files, 0);
            assert!(dir.rest.is_whole());
            assert_eq!(open(Some(&keys), &dir.rest).unwrap().files, 4);
            assert_eq!(std::fs::read(&path).unwrap(), b"said");
            assert_eq!(path.metadata().unwrap().uid(), 61_713);
        }
    }
}

/// Nobody who outlived the run's tasks loses what it wrote: a file that grows meanwhile stays as it is.
#[test]
fn a_file_that_is_written_to_while_it_is_encrypted_stays_as_it_is() {
    use std::sync::atomic::{AtomicBool, Ordering};
    let (dir, keys) = (Run::empty(), keys(&[1]));
    let path = dir.path().join("grows");
    let give_up = std::time::Instant::now() + std::time::Duration::from_secs(60);
    // Only a file that is written to while it is read shows it, and nobody can say when that is.
    loop {
        std::fs::write(&path, vec![b'x'; 32 * FRAME_BYTES]).unwrap();
        let (begun, over) = (AtomicBool::new(false), AtomicBool::new(false));
        let done = std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut file = File::options().append(true).open(&path).unwrap();
                while !over.load(Ordering::Relaxed) {
                    file.write_all(b"y").unwrap();
                    begun.store(true, Ordering::Relaxed);
                }
            });
            while !begun.load(Ordering::Relaxed) {
                std::thread::yield_now();
            }
            let done = seal(&keys, &dir.rest).unwrap();
            over.store(true, Ordering::Relaxed);
            done
        });
        if (done.files, done.left) == (0, 1) {
            break;
        }
        assert!(
            std::time::Instant::now() < give_up,
            "it was never seen to grow"
        );
        open(Some(&keys), &dir.rest).unwrap();
    }
    let text = std::fs::read(&path).unwrap();
    assert!(text.starts_with(b"xxx") && text.ends_with(b"y"));
    assert_eq!(dir.path().read_dir().unwrap().count(), 1);
}

#[test]
fn a_file_that_grows_as_fast_as_it_is_read_is_not_read_for_ever() {
    let (header, key) = keys(&[1])
        .for_file(RUN.0.to_be_bytes(), part(b"a"))
        .unwrap();
    let most = FRAME_BYTES as u64 + 1;
    let read = |length: u64| {
        let (sealer, _) = Sealer::begin(&header, &key).unwrap();
        let mut from = io::Read::take(io::repeat(b'x'), length);
        encrypt(&mut from, most, sealer, Vec::new(), &mut io::sink()).unwrap()
    };
    assert_eq!(read(most), most);
    assert_eq!(read(1000 * most), 2 * FRAME_BYTES as u64);
}

#[test]
fn a_list_of_another_kind_is_none() {
    let (dir, keys) = (run(), keys(&[1]));
    seal(&keys, &dir.rest).unwrap();
    for kind in [Kind::RunFile, Kind::Log] {
        let (header, key) = keys.fresh(kind, RUN.0.to_be_bytes(), [0; 16]).unwrap();
        let (mut sealer, bytes) = Sealer::begin(&header, &key).unwrap();
        let mut out = bytes.to_vec();
        let end = Frame::End {
            received: 0,
            left_out: 0,
        };
        sealer.frame(end, &mut out).unwrap();
        std::fs::write(&dir.rest.list, out).unwrap();
        let error = open(Some(&keys), &dir.rest).unwrap_err().to_string();
        assert!(error.contains("it is not this run's"), "{kind:?}: {error}");
    }
}

/// Of an older build's words only the agent's own counts: a task of another account cannot make a run look encrypted.
#[test]
fn an_older_builds_word_of_another_account_is_a_file_of_its() {
    let dir = run();
    let word = dir.path().join(".outpost-sealed");
    put_closed(&word, b"all\n");
    assert!(dir.rest.is_whole());
    if given_away(&word) {
        assert!(!dir.rest.is_whole() && !is_sealed(&dir.rest));
        seal(&keys(&[1]), &dir.rest).unwrap();
        assert!(word.exists());
    }
}

#[test]
fn a_path_that_is_longer_than_any_walk_goes_is_not_listed() {
    let (dir, keys) = (Run::empty(), keys(&[1]));
    let mut list = Writer::begin(&keys, &dir.rest).unwrap();
    list.add(&vec![b'a'; FRAME_BYTES / 2], [0; STAMP]).unwrap();
    let error = list.add(&vec![b'a'; FRAME_BYTES / 2 + 1], [0; STAMP]);
    assert_eq!(error.unwrap_err().kind(), io::ErrorKind::InvalidFilename);
}

/// Who knew the key of one file could say twice whose it was, or not at all.
#[test]
fn a_file_says_once_whose_it_was() {
    let keys = keys(&[1]);
    for times in [0, 2] {
        let dir = run();
        seal(&keys, &dir.rest).unwrap();
        let path = dir.path().join("empty");
        let whose = attributes(&path.metadata().unwrap());
        let (header, key) = keys.for_file(RUN.0.to_be_bytes(), part(b"empty")).unwrap();
        let (mut sealer, bytes) = Sealer::begin(&header, &key).unwrap();
        let mut out = bytes.to_vec();
        for _ in 0..times {
            sealer.frame(Frame::Attributes(&whose), &mut out).unwrap();
        }
        let end = Frame::End {
            received: 0,
            left_out: 0,
        };
        sealer.frame(end, &mut out).unwrap();
        std::fs::write(&path, out).unwrap();
        std::fs::write(&dir.rest.list, "some\n").unwrap();
        let error = open(Some(&keys), &dir.rest).unwrap_err();
        assert!(
            matches!(error, RunError::Damaged { .. }),
            "{times}: {error}"
        );
    }
}
