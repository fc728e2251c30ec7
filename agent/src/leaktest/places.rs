//! Where a mark is looked for: the ledger, the memory of link, the orchestrator's database, any file.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use crate::ledger::{Kind, LedgerError, Reader};

use super::search::{Looked, Searcher, Source};

/// Bytes read at a time.
const READ_BYTES: usize = 1 << 20;
/// Files that are looked at in a directory that is given; more is a mistake about which directory it is.
const MOST_FILES: usize = 10_000;
/// Bytes of a process that are looked at: many times what link has.
const MEMORY_BYTES: u64 = 2 << 30;

/// Everything that was sent, as the ledger has it: frames and requests for certificates, one after another.
pub(super) fn ledger(searcher: &Searcher, dir: &Path) -> Result<Looked, LedgerError> {
    let mut source = searcher.source();
    let mut reader = Reader::open(dir)?;
    while let Some(entry) = reader.next_entry()? {
        // Everything else in it was not sent.
        if matches!(entry.kind, Kind::Frame | Kind::Identity) {
            source.push(&entry.payload);
        }
    }
    Ok(source.end())
}

/// A file, or every file below a directory. Links are followed from `path` itself only; others are told.
pub(super) fn files(searcher: &Searcher, path: &Path) -> io::Result<(Looked, Vec<PathBuf>)> {
    let mut source = searcher.source();
    let (mut waiting, mut done) = (vec![path.canonicalize()?], Vec::new());
    let mut links = Vec::new();
    while let Some(path) = waiting.pop() {
        let meta = path.symlink_metadata()?;
        if meta.is_dir() {
            for entry in path.read_dir()? {
                waiting.push(entry?.path());
            }
        } else if meta.is_file() {
            read_all(&path, &mut source)?;
            source.cut();
            done.push(path);
        } else if meta.is_symlink() {
            links.push(path);
        }
        if waiting.len() + done.len() > MOST_FILES {
            let many =
                format!("more than {MOST_FILES} files: name the database's own directory or file");
            return Err(io::Error::other(many));
        }
    }
    if done.is_empty() {
        return Err(io::Error::other("there is no file"));
    }
    done.sort();
    let mut looked = source.end();
    if let Some(first) = links.first() {
        let (count, first) = (links.len(), first.display());
        let what = format!("{count} links that lead elsewhere, such as {first}");
        looked.not_searched.push(what);
    }
    Ok((looked, done))
}

fn read_all(path: &Path, source: &mut Source<'_>) -> io::Result<()> {
    let mut file = File::open(path)?;
    let mut part = vec![0; READ_BYTES];
    loop {
        let length = file.read(&mut part)?;
        if length == 0 {
            return Ok(());
        }
        source.push(&part[..length]);
    }
}

/// The link of a runner: its child in that role.
pub(super) fn link_of(runner: u32) -> Option<u32> {
    let processes = std::fs::read_dir("/proc").ok()?.flatten();
    let mut pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.find(|pid| {
        let args = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let args: Vec<&[u8]> = args.split(|byte| *byte == 0).collect();
        args.windows(2)
            .any(|pair| pair == [b"role".as_slice(), b"link"])
            && parent(*pid) == Some(runner)
    })
}

fn parent(pid: u32) -> Option<u32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may hold anything.
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(1)?.parse().ok()
}

/// Every page of a process that it can read and has for itself: of the files that it only reads, such as its program, it
/// can hold nothing.
pub(super) fn memory(searcher: &Searcher, pid: u32) -> io::Result<Looked> {
    up_to(MEMORY_BYTES, searcher, pid)
}

fn up_to(most: u64, searcher: &Searcher, pid: u32) -> io::Result<Looked> {
    let mut memory = File::open(format!("/proc/{pid}/mem"))?;
    let mut source = searcher.source();
    let (mut left, mut beyond, mut unread) = (most, 0, 0);
    let mut page = vec![0; READ_BYTES];
    for (from, to) in maps(pid)? {
        let mut at = from;
        while at < to && left > 0 {
            let want = usize::try_from((to - at).min(READ_BYTES as u64)).unwrap_or(READ_BYTES);
            let want = want.min(usize::try_from(left).unwrap_or(READ_BYTES));
            memory.seek(SeekFrom::Start(at))?;
            let Ok(length @ 1..) = memory.read(&mut page[..want]) else {
                // What went away meanwhile has nothing.
                unread += still(pid, at, to);
                at = to;
                break;
            };
            source.push(&page[..length]);
            at += length as u64;
            left -= length as u64;
        }
        beyond += to - at;
        source.cut();
    }
    let mut looked = source.end();
    if looked.bytes == 0 {
        return Err(io::Error::from(io::ErrorKind::PermissionDenied));
    }
    let told = [
        (beyond, format!("beyond the first {} MiB", most >> 20)),
        (unread, "that could not be read".to_owned()),
    ];
    let told = told.into_iter().filter(|(bytes, _)| *bytes > 0);
    let told = told.map(|(bytes, what)| format!("{bytes} bytes of memory {what}"));
    looked.not_searched.extend(told);
    Ok(looked)
}

fn maps(pid: u32) -> io::Result<Vec<(u64, u64)>> {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps"))?;
    Ok(maps.lines().filter_map(readable).collect())
}

/// Bytes of this range that the process still has.
fn still(pid: u32, from: u64, to: u64) -> u64 {
    let maps = maps(pid).unwrap_or_default().into_iter();
    let common = maps.map(|(begin, end)| end.min(to).saturating_sub(begin.max(from)));
    common.sum()
}

/// `from-to rwxp offset device inode name`.
fn readable(line: &str) -> Option<(u64, u64)> {
    let mut fields = line.split_whitespace();
    let (from, to) = fields.next()?.split_once('-')?;
    let may = fields.next()?;
    let name = fields.nth(3).unwrap_or_default();
    let is_window = ["[vvar", "[vdso", "[vsyscall"]
        .iter()
        .any(|window| name.starts_with(window));
    let is_unchanged_file = name.starts_with('/') && !may.contains('w');
    let number = |text| u64::from_str_radix(text, 16).ok();
    let is_looked_at = may.starts_with('r') && !is_window && !is_unchanged_file;
    is_looked_at.then_some((number(from)?, number(to)?))
}

#[cfg(test)]
mod tests {
    use super::super::mark::{Form, Mark};
    use super::*;

    #[test]
    fn what_this_process_holds_is_found_in_its_memory() {
        let mark = Mark::random().unwrap();
        let searcher = Searcher::new(&mark);
        let held = format!("{} and so on", mark.of("heap")).into_bytes();
        let looked = memory(&searcher, std::process::id()).unwrap();
        drop(held);
        assert!(looked.hits > 0);
        assert!(looked.bytes > 1 << 20);
        let looked = up_to(1 << 20, &searcher, std::process::id()).unwrap();
        assert_eq!(looked.bytes, 1 << 20);
        let told = looked.not_searched.join("; ");
        assert!(
            told.contains("bytes of memory beyond the first 1 MiB"),
            "{told}"
        );
    }

    /// A ledger as an agent that was taken over would have to write it, since nothing goes out that is not in it.
    #[test]
    fn what_is_planted_in_frames_is_found_in_the_ledger_however_it_is_dressed() {
        use crate::ledger::{DEFAULT_LIMIT_BYTES, Ledger};
        let mark = Mark::random().unwrap();
        let searcher = Searcher::new(&mark);
        let found = |kind: Kind, frames: &[Vec<u8>]| {
            let dir = crate::testing::tempdir().unwrap();
            let mut written = Ledger::open(dir.path(), DEFAULT_LIMIT_BYTES, 1).unwrap();
            for frame in frames {
                written.append(kind, 1, 1, frame);
            }
            written.sync().unwrap();
            let looked = ledger(&searcher, dir.path()).unwrap();
            looked.first.iter().map(|hit| hit.form).collect::<Vec<_>>()
        };
        // A field of a message in a frame: its number, its length, its bytes, and another field behind.
        let field = |bytes: &[u8]| {
            let length = u8::try_from(bytes.len()).unwrap_or(u8::MAX);
            [&[0x0a, length], bytes, &[0x10, 7]].concat()
        };
        for form in Form::ALL {
            let planted = field(&form.dress(&mark.of("output")));
            for kind in [Kind::Frame, Kind::Identity] {
                let found = found(kind, &[field(b"before"), planted.clone(), field(b"behind")]);
                assert!(found.contains(&form), "{form:?} in {kind:?}: {found:?}");
            }
            // What an agent keeps of others was never sent.
            assert_eq!(found(Kind::Receipt, &[planted]), []);
        }
        for cut in 1..mark.text().len() {
            let (one, other) = mark.text().as_bytes().split_at(cut);
            assert!(
                !found(Kind::Frame, &[field(one), field(other)]).is_empty(),
                "{cut}"
            );
        }
    }

    #[test]
    fn every_file_below_a_directory_is_looked_at() {
        let mark = Mark::random().unwrap();
        let dir = crate::testing::tempdir().unwrap();
        let deep = dir.path().join("a/b");
        std::fs::create_dir_all(&deep).unwrap();
        std::fs::write(dir.path().join("one"), "nothing").unwrap();
        std::fs::write(deep.join("two"), mark.text()).unwrap();
        let (looked, files) = files(&Searcher::new(&mark), dir.path()).unwrap();
        assert_eq!((looked.hits, looked.bytes), (1, 7 + 24));
        assert_eq!((files.len(), looked.not_searched), (2, vec![]));
    }

    #[test]
    fn what_is_not_looked_at_below_a_directory_is_told() {
        let mark = Mark::random().unwrap();
        let searcher = Searcher::new(&mark);
        let (dir, other) = (
            crate::testing::tempdir().unwrap(),
            crate::testing::tempdir().unwrap(),
        );
        assert!(
            files(&searcher, dir.path()).is_err(),
            "nothing is no answer"
        );
        std::fs::write(other.path().join("one"), mark.text()).unwrap();
        std::fs::write(dir.path().join("two"), "nothing").unwrap();
        let link = dir.path().join("elsewhere");
        std::os::unix::fs::symlink(other.path(), &link).unwrap();
        let (looked, _) = files(&searcher, dir.path()).unwrap();
        assert_eq!(looked.hits, 0);
        assert!(looked.not_searched[0].starts_with("1 links that lead elsewhere"));
        let (looked, _) = files(&searcher, &link).unwrap();
        assert_eq!(looked.hits, 1, "the one that is named is followed");
    }

    #[test]
    fn maps_are_read_as_the_kernel_writes_them() {
        let line =
            "7f0000001000-7f0000003000 rw-p 00000000 00:00 0                          [heap]";
        assert_eq!(readable(line), Some((0x7f00_0000_1000, 0x7f00_0000_3000)));
        assert_eq!(readable("7ffd-7ffe r--p 00000000 00:00 0 [vvar]"), None);
        assert_eq!(readable("7ffd-7ffe ---p 00000000 00:00 0"), None);
        assert_eq!(readable("1000-2000 r-xp 00000000 08:01 7 /usr/bin/x"), None);
        assert!(readable("1000-2000 rw-p 00000000 08:01 7 /usr/bin/x").is_some());
    }
}
