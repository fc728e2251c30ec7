//! What somebody else wrote cannot make its reader hold or wait for more than is said; what no agent writes is named.

use std::fs::File;
use std::io::{Seek as _, SeekFrom, Write as _};

use super::super::bounds::{
    DIAGNOSED, FILES, FINDINGS, LIST_BYTES, LISTED, RECEIPTS_BYTES, SEGMENT_MOST,
};
use super::super::held::FILE;
use super::*;

/// What is said to be too much of this export, and where.
fn beyond(dir: &Path) -> (&'static str, u64, PathBuf) {
    match check_export(dir, None) {
        Err(ExportError::Ledger(LedgerError::Beyond { what, limit, path })) => (what, limit, path),
        other => panic!("{other:?}"),
    }
}

/// Longer than anybody can hold, without taking any room.
fn lengthen(path: &Path, bytes: u64) {
    let file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(path);
    file.unwrap().set_len(bytes).unwrap();
}

#[test]
fn files_that_are_too_long_or_too_many_are_named_and_not_read() {
    let center = Center::new();
    let (_dir, to) = exported(&center);
    for (name, most) in [
        ("000002.led", SEGMENT_MOST),
        (FILE, RECEIPTS_BYTES),
        ("manifest.json", LIST_BYTES),
        ("pruned.json", 1 << 20),
    ] {
        let (_copy, dir) = copy(&to);
        let path = dir.join(name);
        lengthen(&path, most + 1);
        assert_eq!(beyond(&dir), ("bytes of it", most, path));
    }
    let (_copy, dir) = copy(&to);
    for n in 0..FILES {
        File::create(dir.join(format!("f{n}"))).unwrap();
    }
    assert_eq!(beyond(&dir), ("files in it", FILES as u64, dir));
}

#[test]
fn what_is_no_plain_file_is_not_opened() {
    let center = Center::new();
    let (_dir, to) = exported(&center);
    for name in ["000001.led", FILE, "trust.json", "manifest.json"] {
        let (_copy, dir) = copy(&to);
        let path = dir.join(name);
        std::fs::remove_file(&path).unwrap();
        let (mode, kind) = (rustix::fs::Mode::RUSR, rustix::fs::FileType::Fifo);
        rustix::fs::mknodat(rustix::fs::CWD, &path, kind, mode, 0).unwrap();
        assert!(check_export(&dir, None).is_err(), "{name}");
        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/dev/zero", &path).unwrap();
        assert!(check_export(&dir, None).is_err(), "{name}");
    }
}

#[test]
fn a_record_that_does_not_end_is_named_without_being_held() {
    let center = Center::new();
    let dir = crate::testing::tempdir().unwrap();
    written(dir.path(), &center);
    let last = *segments(dir.path()).unwrap().last().unwrap();
    let path = segment_path(dir.path(), last);
    let good = std::fs::metadata(&path).unwrap().len();
    // Zeros to the end are what space taken ahead looks like after a power cut, however many there are.
    let most = DIAGNOSED + 1;
    lengthen(&path, most);
    assert_eq!(verify(dir.path()).unwrap().torn_bytes, most - good);
    let mut file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.seek(SeekFrom::Start(most - 1)).unwrap();
    file.write_all(b"x").unwrap();
    let error = check(dir.path(), false, None).unwrap_err();
    let LedgerError::Damaged { kind, offset, .. } = error else {
        panic!("{error}")
    };
    assert_eq!((kind, offset), (Damage::Tampered, good));
}

#[test]
fn every_file_that_is_not_in_the_list_is_named() {
    let center = Center::new();
    let (_dir, to) = exported(&center);
    let (_copy, dir) = copy(&to);
    let deep = (0..200).fold(dir.join("notes"), |dir, _| dir.join("d"));
    std::fs::create_dir_all(deep).unwrap();
    std::fs::write(dir.join("000001.led.orig"), "x").unwrap();
    std::fs::write(dir.join("1.led"), "x").unwrap();
    let (_, _, findings) = check_export(&dir, None).unwrap();
    let unlisted = |finding: &Finding| finding.kind == Damage::UnlistedFile;
    assert!(findings.iter().all(unlisted), "{findings:?}");
    let names: Vec<_> = findings
        .iter()
        .map(|f| f.path.file_name().unwrap())
        .collect();
    assert_eq!(names, ["000001.led.orig", "1.led", "notes"]);
    let (_copy, dir) = copy(&to);
    let last = *segments(&dir).unwrap().last().unwrap();
    std::fs::write(segment_path(&dir, last + 2), "x").unwrap();
    assert_eq!(
        wrong(&dir),
        [Damage::MissingSegment],
        "one that is far behind"
    );
}

#[test]
fn d4_a_byte_of_any_file_of_an_export_is_found_by_the_list() {
    let center = Center::new();
    let (_dir, to) = exported(&center);
    for name in ["roots.pem", "receipts.jsonl", "trust.json"] {
        let (_copy, dir) = copy(&to);
        let path = dir.join(name);
        let mut bytes = std::fs::read(&path).unwrap();
        // Of as many bytes, and to a reader of this format the same.
        match name {
            "trust.json" => bytes[1] = b' ',
            _ => bytes[9] ^= 1,
        }
        assert_ne!(bytes, std::fs::read(&path).unwrap(), "{name}");
        std::fs::write(&path, bytes).unwrap();
        let (_, _, findings) = check_export(&dir, None).unwrap();
        assert_eq!(findings.len(), 1, "{name}: {findings:?}");
        assert_eq!(
            (findings[0].kind, &findings[0].path),
            (Damage::Tampered, &path)
        );
    }
}

#[test]
fn all_sessions_of_a_process_are_listed_and_of_very_many_the_newest() {
    let dir = crate::testing::tempdir().unwrap();
    let mut ledger = Ledger::open(dir.path(), DEFAULT_LIMIT_BYTES, 1).unwrap();
    // Far more than can stand side by side.
    for conn in 1..=30_u64 {
        ledger.append(Kind::Frame, conn, 1, b"hello");
        ledger.append(Kind::Session, conn, 1, &conn.to_be_bytes());
        ledger.append(Kind::Frame, conn, 1, b"more");
    }
    ledger.sync().unwrap();
    let epochs = |summary: &Summary| -> Vec<u64> {
        let epochs = summary.sessions.iter().map(|s| s.session_epoch.unwrap());
        epochs.collect()
    };
    let summary = verify(dir.path()).unwrap();
    assert_eq!(epochs(&summary), (1..=30).collect::<Vec<_>>());
    assert!(summary.sessions.iter().all(|session| session.frames == 2));
    for conn in 31..=LISTED as u64 + 50 {
        ledger.append(Kind::Frame, conn, 1, b"hello");
    }
    ledger.sync().unwrap();
    let summary = verify(dir.path()).unwrap();
    assert_eq!(
        (summary.sessions.len(), summary.sessions_left_out),
        (LISTED, 50)
    );
    assert_eq!(summary.frames, LISTED as u64 + 50 + 30);
}

#[test]
fn findings_beyond_so_many_are_counted() {
    let center = Center::new();
    let (_dir, to) = exported(&center);
    let (_copy, dir) = copy(&to);
    for n in 0..FINDINGS + 7 {
        File::create(dir.join(format!("f{n}"))).unwrap();
    }
    let (_, _, findings) = check_export(&dir, None).unwrap();
    assert_eq!(findings.len(), FINDINGS + 1);
    let last = findings.last().unwrap();
    assert_eq!(last.kind, Damage::UnlistedFile);
    assert!(last.what.starts_with("and 7 more"), "{}", last.what);
}
