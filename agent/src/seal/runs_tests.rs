//! Files of a run: encrypted in their place, and the same again afterwards.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::time::{Duration, SystemTime};

use super::*;
use crate::seal::tests::keys;

pub(super) const RUN: RunId = RunId(0x77);

/// A run's directory, and beside it the place of its list.
pub(super) struct Run {
    pub(super) root: tempfile::TempDir,
    pub(super) rest: Rest,
}

impl Run {
    pub(super) fn empty() -> Self {
        let root = crate::testing::tempdir().unwrap();
        let path = |name: &str| root.path().join(name);
        let rest = Rest {
            run: RUN,
            dir: path("run"),
            list: path("seals/77"),
        };
        std::fs::create_dir(&rest.dir).unwrap();
        Self { root, rest }
    }

    pub(super) fn path(&self) -> &Path {
        &self.rest.dir
    }
}

pub(super) fn run() -> Run {
    let dir = Run::empty();
    let path = |name: &str| dir.path().join(name);
    std::fs::create_dir_all(path("out")).unwrap();
    std::fs::create_dir_all(path("deep/er")).unwrap();
    std::fs::write(path("out/load.env"), "count=3\nsecret=canary\n").unwrap();
    std::fs::write(path("empty"), "").unwrap();
    std::fs::write(path("deep/er/large"), vec![7; 3 * FRAME_BYTES + 1]).unwrap();
    std::fs::set_permissions(path("empty"), PermissionsExt::from_mode(0o640)).unwrap();
    let then = SystemTime::UNIX_EPOCH + Duration::new(1_700_000_000, 5);
    for name in ["out/load.env", "empty", "deep/er/large"] {
        std::fs::File::open(path(name))
            .unwrap()
            .set_modified(then)
            .unwrap();
    }
    symlink("/etc/passwd", path("link")).unwrap();
    dir
}

type Seen = std::collections::BTreeMap<PathBuf, (u32, u32, i64, Vec<u8>)>;

fn seen(dir: &Path) -> Seen {
    let mut all = Seen::new();
    walk::files(dir, &mut |found| {
        let name = std::str::from_utf8(found.path).unwrap();
        if found.kind == FileType::RegularFile {
            let path = dir.join(name);
            let meta = path.metadata().unwrap();
            let bytes = std::fs::read(&path).unwrap();
            all.insert(name.into(), (meta.mode(), meta.uid(), meta.mtime(), bytes));
        }
        Ok(())
    })
    .unwrap();
    all
}

#[test]
fn files_are_encrypted_in_their_place_and_opened_as_they_were() {
    let dir = run();
    let before = seen(dir.path());
    let then = dir.path().metadata().unwrap().modified().unwrap();
    assert!(!is_sealed(&dir.rest));
    let keys = keys(&[1]);
    let done = seal(&keys, &dir.rest).unwrap();
    let bytes = 3 * FRAME_BYTES as u64 + 1 + 22;
    assert_eq!(
        done,
        Done {
            files: 3,
            bytes,
            left: 1,
            ..Done::default()
        }
    );
    assert!(is_sealed(&dir.rest) && dir.rest.is_whole());
    assert_eq!(dir.path().metadata().unwrap().mode() & 0o7777, 0o700);
    assert_eq!(dir.path().metadata().unwrap().modified().unwrap(), then);
    for (name, (mode, _, _, bytes)) in seen(dir.path()) {
        assert_eq!(mode & 0o7777, 0o600, "{name:?}");
        assert!(bytes.starts_with(&MAGIC), "{name:?}");
        assert!(
            !bytes.windows(6).any(|window| window == b"canary"),
            "{name:?}"
        );
    }
    assert_eq!(
        std::fs::read_link(dir.path().join("link")).unwrap(),
        Path::new("/etc/passwd")
    );
    // Again changes nothing.
    assert_eq!(
        seal(&keys, &dir.rest).unwrap(),
        Done {
            left: 1,
            ..Done::default()
        }
    );
    let done = open(Some(&keys), &dir.rest).unwrap();
    assert_eq!(
        done,
        Done {
            files: 3,
            bytes,
            ..Done::default()
        }
    );
    assert!(!is_sealed(&dir.rest));
    assert_eq!(seen(dir.path()), before);
    assert_eq!(open(Some(&keys), &dir.rest).unwrap(), Done::default());
}

/// A file on its way, as a kill leaves it.
fn leftover(dir: &Path) -> PathBuf {
    let path = dir.join(format!("{BESIDE}.0123456789abcdef"));
    std::fs::write(&path, "half").unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
    path
}

#[test]
fn what_was_interrupted_is_finished_by_either() {
    let dir = run();
    let before = seen(dir.path());
    let keys = keys(&[1]);
    seal(&keys, &dir.rest).unwrap();
    // As a kill leaves it: some are encrypted, one was on its way, and there is no list yet.
    std::fs::write(dir.path().join("later"), "plain").unwrap();
    let half = leftover(dir.path());
    std::fs::write(&dir.rest.list, "some\n").unwrap();
    assert!(is_sealed(&dir.rest) && !dir.rest.is_whole());
    assert_eq!(seal(&keys, &dir.rest).unwrap().files, 1);
    assert!(dir.rest.is_whole() && !half.exists());
    std::fs::write(&dir.rest.list, "some\n").unwrap();
    std::fs::write(dir.path().join("last"), "plain").unwrap();
    let half = leftover(&dir.path().join("deep"));
    let done = open(Some(&keys), &dir.rest).unwrap();
    assert!(done.files == 4 && done.unlisted, "{done:?}");
    assert!(!half.exists() && !dir.rest.list.exists());
    let mut after = seen(dir.path());
    assert_eq!(after.remove(Path::new("later")).unwrap().3, b"plain");
    assert_eq!(after.remove(Path::new("last")).unwrap().3, b"plain");
    assert_eq!(after, before);
}

/// What tasks call their files is no business of the agent's, whatever its own are or were called.
#[test]
fn a_tasks_own_directory_pipe_link_or_huge_file_under_the_agents_names_is_a_file_like_others() {
    let outside = crate::testing::tempdir().unwrap();
    let target = outside.path().join("file");
    std::fs::write(&target, "some\n").unwrap();
    let put: [&dyn Fn(&Path); 4] = [
        &|path| std::fs::create_dir(path).unwrap(),
        &|path| {
            let (mode, kind) = (Mode::RWXU, FileType::Fifo);
            rustix::fs::mknodat(rustix::fs::CWD, path, kind, mode, 0).unwrap();
        },
        &|path| symlink(&target, path).unwrap(),
        &|path| {
            let file = File::create(path).unwrap();
            file.set_len(1 << 40).unwrap();
            // The agent's own are closed to others.
            std::fs::set_permissions(path, PermissionsExt::from_mode(0o644)).unwrap();
        },
    ];
    let keys = keys(&[1]);
    for (n, put) in put.into_iter().enumerate() {
        for name in [".outpost-sealed", ".outpost-sealing"] {
            // The terabyte of holes is not to be encrypted, only to be in the way.
            let is_huge = n == 3;
            let dir = run();
            let path = dir.path().join(name);
            put(&path);
            assert!(!is_sealed(&dir.rest), "{n} {name}");
            assert_eq!(open(Some(&keys), &dir.rest).unwrap(), Done::default());
            if !is_huge {
                assert_eq!(seal(&keys, &dir.rest).unwrap().files, 3, "{n} {name}");
                assert!(dir.rest.is_whole());
                assert_eq!(open(Some(&keys), &dir.rest).unwrap().files, 3, "{n} {name}");
            }
            assert!(path.symlink_metadata().is_ok(), "{n} {name}");
        }
    }
    assert_eq!(std::fs::read(&target).unwrap(), b"some\n");
}

/// Nobody but the agent's account can put anything there: it is damage, and named.
#[test]
fn whatever_is_in_the_place_of_the_list_is_named_and_nothing_waits_for_it() {
    let keys = keys(&[1]);
    let put: [&dyn Fn(&Path); 5] = [
        &|path| std::fs::create_dir(path).unwrap(),
        &|path| {
            let (mode, kind) = (Mode::RWXU, FileType::Fifo);
            rustix::fs::mknodat(rustix::fs::CWD, path, kind, mode, 0).unwrap();
        },
        &|path| symlink("/etc/passwd", path).unwrap(),
        &|path| std::fs::write(path, "something else").unwrap(),
        &|path| {
            let mut file = File::create(path).unwrap();
            file.write_all(&MAGIC).unwrap();
            file.set_len(1 << 40).unwrap();
        },
    ];
    for (n, put) in put.into_iter().enumerate() {
        let dir = run();
        seal(&keys, &dir.rest).unwrap();
        std::fs::remove_file(&dir.rest.list).unwrap();
        put(&dir.rest.list);
        assert!(is_sealed(&dir.rest), "{n}");
        let error = open(Some(&keys), &dir.rest).unwrap_err();
        assert!(matches!(error, RunError::Damaged { .. }), "{n}: {error}");
        assert!(error.to_string().contains("seals/77"), "{n}: {error}");
        assert!(
            dir.path().join("empty").metadata().unwrap().len() > 0,
            "{n}"
        );
    }
}

#[test]
fn a_run_that_an_older_build_encrypted_is_opened_and_said_to_be_without_a_list() {
    let keys = keys(&[1]);
    for word in ["some\n", "all\n"] {
        let dir = run();
        let before = seen(dir.path());
        seal(&keys, &dir.rest).unwrap();
        std::fs::remove_file(&dir.rest.list).unwrap();
        std::fs::write(dir.path().join(".outpost-sealed"), word).unwrap();
        assert!(is_sealed(&dir.rest));
        assert_eq!(dir.rest.is_whole(), word == "all\n");
        let done = open(Some(&keys), &dir.rest).unwrap();
        assert!(done.files == 3 && done.older, "{done:?}");
        assert_eq!(seen(dir.path()), before);
        // Or encrypted on by this one, with a list of what is there then.
        seal(&keys, &dir.rest).unwrap();
        std::fs::remove_file(&dir.rest.list).unwrap();
        std::fs::write(dir.path().join(".outpost-sealed"), word).unwrap();
        assert!(seal(&keys, &dir.rest).unwrap().older);
        assert!(dir.rest.is_whole() && !dir.path().join(".outpost-sealed").exists());
        open(Some(&keys), &dir.rest).unwrap();
        assert_eq!(seen(dir.path()), before);
    }
}

#[test]
fn a_key_that_is_missing_is_named_and_a_former_one_opens() {
    let dir = run();
    let first = keys(&[1]);
    seal(&first, &dir.rest).unwrap();
    for other in [None, Some(keys(&[2]))] {
        let error = open(other.as_ref(), &dir.rest).unwrap_err().to_string();
        assert!(error.contains(&first.ids()[0].to_string()), "{error}");
        assert!(is_sealed(&dir.rest), "it stays encrypted");
    }
    open(Some(&keys(&[2, 1])), &dir.rest).unwrap();
}

#[test]
fn what_was_changed_exchanged_taken_away_or_added_is_named_and_nothing_of_it_is_used() {
    let keys = keys(&[1]);
    let spoilt = |spoil: &dyn Fn(&Path)| {
        let dir = run();
        seal(&keys, &dir.rest).unwrap();
        // What was once there of the same name: another encryption of the same run.
        std::fs::copy(dir.path().join("empty"), dir.root.path().join("older")).unwrap();
        open(Some(&keys), &dir.rest).unwrap();
        seal(&keys, &dir.rest).unwrap();
        spoil(dir.path());
        let before = seen(dir.path());
        let error = open(Some(&keys), &dir.rest).unwrap_err();
        assert!(matches!(error, RunError::Damaged { .. }), "{error}");
        assert!(is_sealed(&dir.rest));
        let listed = dir.rest.is_whole();
        assert!(!listed || seen(dir.path()) == before, "nothing is opened");
        error.to_string()
    };
    let edit = |dir: &Path, how: &dyn Fn(&mut Vec<u8>)| {
        let path = dir.join("deep/er/large");
        let mut bytes = std::fs::read(&path).unwrap();
        how(&mut bytes);
        std::fs::write(&path, bytes).unwrap();
    };
    let at = spoilt(&|dir| edit(dir, &|bytes| bytes[HEADER_BYTES + 60] ^= 1));
    assert!(
        at.contains("deep/er/large") && at.contains("at byte"),
        "{at}"
    );
    let cut = spoilt(&|dir| edit(dir, &|bytes| bytes.truncate(bytes.len() - 1)));
    assert!(cut.contains("without its last frame"), "{cut}");
    spoilt(&|dir| edit(dir, &|bytes| bytes.push(0)));
    let moved = spoilt(&|dir| {
        std::fs::rename(dir.join("out/load.env"), dir.join("empty")).unwrap();
    });
    assert!(moved.contains("empty: it is not the one"), "{moved}");
    let older = spoilt(&|dir| {
        std::fs::copy(dir.join("../older"), dir.join("empty")).unwrap();
    });
    assert!(older.contains("empty: it is not the one"), "{older}");
    let plain = spoilt(&|dir| std::fs::write(dir.join("empty"), "plain").unwrap());
    assert!(plain.contains("empty: it is not the one"), "{plain}");
    let gone = spoilt(&|dir| std::fs::remove_file(dir.join("deep/er/large")).unwrap());
    assert!(gone.contains("deep/er/large: it is missing"), "{gone}");
    let last = spoilt(&|dir| std::fs::remove_dir_all(dir.join("out")).unwrap());
    assert!(last.contains("out/load.env: it is missing"), "{last}");
    let new = spoilt(&|dir| std::fs::write(dir.join("deep/another"), "x").unwrap());
    assert!(new.contains("deep/another: it was put there"), "{new}");
    let link = spoilt(&|dir| {
        std::fs::remove_file(dir.join("link")).unwrap();
        symlink("/etc/shadow", dir.join("link")).unwrap();
    });
    assert!(link.contains("link: it is not the one"), "{link}");
    let list = spoilt(&|dir| {
        let path = dir.join("../seals/77");
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() - 36]).unwrap();
    });
    assert!(list.contains("seals/77: it ends without"), "{list}");
    let header = spoilt(&|dir| {
        let path = dir.join("../seals/77");
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..50]).unwrap();
    });
    assert!(header.contains("seals/77: it ends within"), "{header}");
}

/// Also the word that says so goes: what is encrypted is still not taken for what a task left.
#[test]
fn without_anything_that_says_so_an_encrypted_file_is_named() {
    let (dir, keys) = (run(), keys(&[1]));
    seal(&keys, &dir.rest).unwrap();
    std::fs::remove_file(&dir.rest.list).unwrap();
    let error = open(Some(&keys), &dir.rest).unwrap_err().to_string();
    assert!(error.contains("what says which files"), "{error}");
    // Whoever wants to use what is there all the same says so.
    std::fs::write(&dir.rest.list, "some\n").unwrap();
    assert_eq!(open(Some(&keys), &dir.rest).unwrap().files, 3);
}

/// Of another run, and of the same run's other state: a list is of one run, and of what was encrypted with it.
#[test]
fn a_list_from_elsewhere_is_known() {
    let keys = keys(&[1]);
    let (dir, other) = (run(), run());
    seal(&keys, &dir.rest).unwrap();
    seal(&keys, &other.rest).unwrap();
    std::fs::copy(&other.rest.list, &dir.rest.list).unwrap();
    let error = open(Some(&keys), &dir.rest).unwrap_err().to_string();
    assert!(error.contains("it is not the one"), "{error}");
    let mut third = run();
    third.rest.run = RunId(0x78);
    seal(&keys, &third.rest).unwrap();
    std::fs::copy(&third.rest.list, &dir.rest.list).unwrap();
    let error = open(Some(&keys), &dir.rest).unwrap_err().to_string();
    assert!(error.contains("it is not this run's"), "{error}");
}

#[test]
fn a_list_without_its_run_goes_and_more_files_than_are_listed_are_told() {
    let (dir, keys) = (run(), keys(&[1]));
    seal(&keys, &dir.rest).unwrap();
    std::fs::remove_dir_all(dir.path()).unwrap();
    assert_eq!(open(Some(&keys), &dir.rest).unwrap(), Done::default());
    assert!(!dir.rest.list.exists());
    // Thousands of them take several frames of the list.
    let dir = run();
    for n in 0..3000 {
        std::fs::write(dir.path().join(format!("file-{n}")), n.to_string()).unwrap();
    }
    assert_eq!(seal(&keys, &dir.rest).unwrap().files, 3003);
    assert!(dir.rest.list.metadata().unwrap().len() > FRAME_BYTES as u64);
    assert_eq!(open(Some(&keys), &dir.rest).unwrap().files, 3003);
}

/// A file that a task made to look like an encrypted one is encrypted like any other.
#[test]
fn what_only_looks_encrypted_is_a_file_like_others() {
    let dir = Run::empty();
    let keys = keys(&[1]);
    let (header, _) = keys
        .for_file(RUN.0.to_be_bytes(), part(b"made-up"))
        .unwrap();
    let (_, foreign) = crate::seal::tests::keys(&[9])
        .for_file([1; 16], [1; 16])
        .unwrap();
    let (_, bytes) = Sealer::begin(&header, &foreign).unwrap();
    let path = dir.path().join("made-up");
    std::fs::write(&path, bytes).unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
    assert_eq!(seal(&keys, &dir.rest).unwrap().files, 1);
    open(Some(&keys), &dir.rest).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), bytes);
}

#[test]
fn a_link_or_a_pipe_in_the_way_leads_nowhere() {
    let (dir, outside) = (Run::empty(), crate::testing::tempdir().unwrap());
    let target = outside.path().join("file");
    std::fs::write(&target, "outside").unwrap();
    symlink(outside.path(), dir.path().join("dir")).unwrap();
    symlink(&target, dir.path().join("file")).unwrap();
    symlink(&target, dir.path().join(BESIDE)).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        dir.path().join("pipe"),
        FileType::Fifo,
        Mode::RWXU,
        0,
    )
    .unwrap();
    std::fs::write(dir.path().join("own"), "own").unwrap();
    let keys = keys(&[1]);
    let done = seal(&keys, &dir.rest).unwrap();
    assert_eq!(done.files, 1);
    open(Some(&keys), &dir.rest).unwrap();
    assert_eq!(std::fs::read_to_string(&target).unwrap(), "outside");
    assert_eq!(
        std::fs::read_to_string(dir.path().join("own")).unwrap(),
        "own"
    );
    assert_eq!(outside.path().read_dir().unwrap().count(), 1);
}

#[test]
fn lists_are_the_agents_own() {
    let dir = run();
    seal(&keys(&[1]), &dir.rest).unwrap();
    let mode = |path: &Path| path.metadata().unwrap().mode() & 0o7777;
    assert_eq!(mode(&dir.rest.list), 0o600);
    assert_eq!(mode(dir.rest.list.parent().unwrap()), 0o700);
}

/// Where no list says which files there were, each still says which one it is.
#[test]
fn without_a_list_a_file_under_another_name_is_named() {
    let (dir, keys) = (run(), keys(&[1]));
    seal(&keys, &dir.rest).unwrap();
    std::fs::write(&dir.rest.list, "some\n").unwrap();
    std::fs::rename(dir.path().join("out/load.env"), dir.path().join("empty")).unwrap();
    let error = open(Some(&keys), &dir.rest).unwrap_err().to_string();
    assert!(
        error.contains("empty: it is another file of the run"),
        "{error}"
    );
}

/// While tasks are here they may copy what they will: only what the agent itself put there is taken for encrypted.
#[test]
fn a_copy_of_an_encrypted_file_is_a_file_like_others() {
    let (dir, keys) = (run(), keys(&[1]));
    seal(&keys, &dir.rest).unwrap();
    let bytes = std::fs::read(dir.path().join("empty")).unwrap();
    open(Some(&keys), &dir.rest).unwrap();
    let copy = dir.path().join("copy");
    std::fs::write(&copy, &bytes).unwrap();
    std::fs::set_permissions(&copy, PermissionsExt::from_mode(0o644)).unwrap();
    assert_eq!(open(Some(&keys), &dir.rest).unwrap(), Done::default());
    assert_eq!(seal(&keys, &dir.rest).unwrap().files, 4);
    open(Some(&keys), &dir.rest).unwrap();
    assert_eq!(std::fs::read(&copy).unwrap(), bytes);
}

#[test]
fn what_lies_too_deep_and_what_is_too_much_stays_and_is_told() {
    let (dir, keys) = (Run::empty(), keys(&[1]));
    let mut deep = dir.path().to_owned();
    (0..walk::DEPTH).for_each(|_| deep.push("d"));
    std::fs::create_dir_all(deep.join("d")).unwrap();
    std::fs::write(deep.join("last"), "plain").unwrap();
    std::fs::write(deep.join("d/beyond"), "plain").unwrap();
    let done = seal(&keys, &dir.rest).unwrap();
    assert_eq!((done.files, done.left), (1, 1));
    assert_eq!(std::fs::read(deep.join("d/beyond")).unwrap(), b"plain");
    open(Some(&keys), &dir.rest).unwrap();

    let dir = Run::empty();
    for n in 0..=walk::MOST {
        std::os::unix::fs::symlink("x", dir.path().join(format!("link-{n:05}"))).unwrap();
    }
    std::fs::write(dir.path().join("a"), "x").unwrap();
    std::fs::write(dir.path().join("z"), "x").unwrap();
    let done = seal(&keys, &dir.rest).unwrap();
    assert!(done.too_many && done.files <= 2, "{done:?}");
    assert!(!dir.rest.is_whole(), "a list would miss what it never saw");
}

/// Who knew the key of one file can make a whole one that holds something else, and none that says two lengths.
#[test]
fn counts_at_the_ends_of_a_file_and_of_a_list_must_be_right() {
    let (dir, keys) = (run(), keys(&[1]));
    seal(&keys, &dir.rest).unwrap();
    std::fs::write(&dir.rest.list, "some\n").unwrap();
    let subject = RUN.0.to_be_bytes();
    let end = |received| Frame::End {
        received,
        left_out: 0,
    };
    let (header, key) = keys.for_file(subject, part(b"empty")).unwrap();
    let (mut sealer, bytes) = Sealer::begin(&header, &key).unwrap();
    let mut out = bytes.to_vec();
    let meta = dir.path().metadata().unwrap();
    for frame in [
        Frame::Attributes(&attributes(&meta)),
        Frame::Bytes(b"four"),
        end(5),
    ] {
        sealer.frame(frame, &mut out).unwrap();
    }
    std::fs::write(dir.path().join("empty"), out).unwrap();
    let error = open(Some(&keys), &dir.rest).unwrap_err().to_string();
    assert!(error.contains("empty: it holds what no file"), "{error}");

    let (dir, keys) = (run(), keys);
    seal(&keys, &dir.rest).unwrap();
    let (header, key) = keys.for_list(subject).unwrap();
    let (mut sealer, bytes) = Sealer::begin(&header, &key).unwrap();
    let mut out = bytes.to_vec();
    sealer.frame(end(1), &mut out).unwrap();
    std::fs::write(&dir.rest.list, out).unwrap();
    let error = open(Some(&keys), &dir.rest).unwrap_err().to_string();
    assert!(error.contains("it says what no list does"), "{error}");
}

/// Between the look at a directory and the opening of a file a task that outlived its end may put anything there.
#[test]
fn what_took_a_files_place_is_neither_followed_nor_waited_for() {
    let (dir, outside) = (Run::empty(), crate::testing::tempdir().unwrap());
    let target = outside.path().join("file");
    std::fs::write(&target, "outside").unwrap();
    symlink(&target, dir.path().join("link")).unwrap();
    let (mode, kind) = (Mode::RWXU, FileType::Fifo);
    rustix::fs::mknodat(rustix::fs::CWD, dir.path().join("pipe"), kind, mode, 0).unwrap();
    let opened = walk::open(dir.path()).unwrap();
    for name in [c"link", c"pipe", c"gone"] {
        use std::os::fd::AsFd as _;
        let found = Found {
            dir: opened.as_fd(),
            name,
            path: name.to_bytes(),
            kind: FileType::RegularFile,
        };
        assert!(open_file(&found).unwrap().is_none(), "{name:?}");
    }
}
