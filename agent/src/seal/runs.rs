//! The files of a run at rest: `$OUTPOST_RUN_DIR` with the outputs of its tasks. While tasks of the run are here they read
//! and write plain files; some time after the last one each file is encrypted in its place, and opened again before the
//! next one starts.
//!
//! One file after the other is written anew beside itself and renamed over: whenever this is interrupted, each file is
//! either as it was or encrypted, and what stands beside the runs (`list`) says that there may be encrypted ones. What is
//! no regular file stays as it is, and so do names, sizes and directories. What the disk held before is freed, not
//! overwritten.

use std::cmp::Ordering;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::PathBuf;

use outpost_agent_keeper::seal::{
    FRAME_BYTES, Frame, HEADER_BYTES, Header, Kind, MAGIC, Next, Reader as Frames, Sealer,
};
use outpost_proto::ids::RunId;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Timespec, Timestamps};
use sha2::{Digest as _, Sha256};

use super::attributes::{attribute, attributes, omit};
use super::list::{Entry, Known, Reader, Rest, STAMP, Writer, order};
use super::walk::{self, Found, Walked};
use super::{MissingKey, NoKey, SiteKeys};

/// How a file on its way from one form to the other is called: this, and chance. Tasks keep away from such names.
const BESIDE: &str = ".outpost-sealing";
/// What was done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Done {
    /// Files that are in the other form now.
    pub(crate) files: u64,
    /// Their bytes, before encryption.
    pub(crate) bytes: u64,
    /// What stays as it is because it is no regular file, changed meanwhile, or could not be opened.
    pub(crate) left: u64,
    /// An older build encrypted it: nothing says which files there were.
    pub(crate) older: bool,
    /// Encrypting it was interrupted before there was a list: neither does anything here.
    pub(crate) unlisted: bool,
    /// There are more files than are looked at: those beyond stay as they are, and there is no list.
    pub(crate) too_many: bool,
}

/// Why a run's files could not be encrypted or opened. The others may be.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RunError {
    /// The file system refused; a full disk among others.
    #[error("the files of the run in {run}: {source}")]
    Io {
        /// The run's directory.
        run: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The key is not here.
    #[error("{path}: {missing}")]
    Key {
        /// Which file.
        path: PathBuf,
        /// Which key.
        missing: MissingKey,
    },
    /// Not what was written.
    #[error(
        "{path}: {what}: somebody changed it meanwhile, or the disk lost a part of it; put back what was there, or give the run up with `outpost-agent purge`"
    )]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong, and where.
        what: String,
    },
}

/// Whether files of the run may be encrypted.
pub(crate) fn is_sealed(rest: &Rest) -> bool {
    !matches!(rest.known(), Ok(Known::Open))
}

/// Encrypts the files of a run of which nothing runs here. Nobody but this account can enter its directory from then on.
///
/// # Errors
/// See [`RunError`]: what was not encrypted by then is as it was.
pub(crate) fn seal(keys: &SiteKeys, rest: &Rest) -> Result<Done, RunError> {
    let failed = |source| rest.failed(source);
    let opened = walk::open(&rest.dir).map_err(failed)?;
    let mut done = Done {
        older: rest.known()? == Known::Older,
        ..Done::default()
    };
    let changed = rustix::fs::fstat(&opened).map_err(|errno| failed(errno.into()))?;
    rustix::fs::fchmod(&opened, Mode::RWXU).map_err(|errno| failed(errno.into()))?;
    let sealed = seal_all(keys, rest, &opened, &mut done);
    // Retention goes by when a task last changed it.
    let times = Timestamps {
        last_access: omit(),
        last_modification: Timespec {
            tv_sec: changed.st_mtime,
            tv_nsec: changed.st_mtime_nsec,
        },
    };
    let timed = rustix::fs::futimens(&opened, &times);
    sealed.map_err(failed)?;
    timed.map_err(|errno| failed(errno.into()))?;
    Ok(done)
}

fn seal_all(keys: &SiteKeys, rest: &Rest, dir: &OwnedFd, done: &mut Done) -> io::Result<()> {
    let mut list = None;
    let mut before = Vec::new();
    let walked = walk::files(&rest.dir, &mut |found| {
        if is_leftover(found, rest.run) {
            take_away(found);
            return Ok(());
        }
        // A run without files needs no list, and none of them is encrypted before something says so.
        if list.is_none() && found.kind == FileType::RegularFile {
            rest.say_some()?;
            let mut begun = Writer::begin(keys, rest)?;
            for Entry { path, stamp } in before.drain(..) {
                begun.add(&path, stamp)?;
            }
            list = Some(begun);
        }
        let stamp = match seal_one(keys, found, rest.run)? {
            Sealed::Now(bytes, stamp) => {
                done.files += 1;
                done.bytes += bytes;
                stamp
            }
            Sealed::Already(stamp) => stamp,
            Sealed::Not(stamp) => {
                done.left += 1;
                stamp
            }
        };
        // What went since it was listed, an older build's word among them, is not missed later.
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        if rustix::fs::statat(found.dir, found.name, flags).is_err() {
            return Ok(());
        }
        match &mut list {
            Some(list) => list.add(found.path, stamp),
            None => {
                let path = found.path.to_vec();
                before.push(Entry { path, stamp });
                Ok(())
            }
        }
    })?;
    done.left += walked.closed;
    done.too_many = walked.too_many;
    let Some(list) = list else {
        return Ok(());
    };
    // The list must not be there before what it says is so.
    rustix::fs::syncfs(dir)?;
    if walked.too_many {
        return Ok(());
    }
    list.finish(rest)
}

/// What became of a file, and what it is in the list.
enum Sealed {
    Now(u64, [u8; STAMP]),
    Already([u8; STAMP]),
    Not([u8; STAMP]),
}

/// Opens the files of a run again; without encrypted ones it does nothing. Where there is a list, everything is looked at
/// before the first file is opened.
///
/// # Errors
/// See [`RunError`]: what was not opened by then is encrypted, and the run is not to be used.
pub(crate) fn open(keys: Option<&SiteKeys>, rest: &Rest) -> Result<Done, RunError> {
    let failed = |source| rest.failed(source);
    let known = rest.known()?;
    let dir = match walk::open(&rest.dir) {
        // Nothing of the run is here any more: what says something of it is left over.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            rest.say_none().map_err(failed)?;
            return Ok(Done::default());
        }
        opened => opened.map_err(failed)?,
    };
    if known == Known::Listed {
        compare(keys, rest)?;
        rest.say_some().map_err(failed)?;
    }
    let mut done = Done {
        older: known == Known::Older,
        unlisted: known == Known::Some,
        ..Done::default()
    };
    let walked = each(rest, &mut |found| {
        if is_leftover(found, rest.run) {
            take_away(found);
            return Ok(());
        }
        if found.kind != FileType::RegularFile {
            return Ok(());
        }
        if let Some(bytes) = open_one(keys, rest, found, known)? {
            done.files += 1;
            done.bytes += bytes;
        }
        Ok(())
    })?;
    done.left += walked.closed;
    if done.files > 0 {
        // Nothing says that a file is encrypted once none is, not even after a cut of the power.
        rustix::fs::syncfs(&dir).map_err(|errno| failed(errno.into()))?;
    }
    if known != Known::Open {
        rest.say_none().map_err(failed)?;
    }
    Ok(done)
}

/// Walks with errors of runs.
fn each(
    rest: &Rest,
    act: &mut dyn FnMut(&Found<'_>) -> Result<(), RunError>,
) -> Result<Walked, RunError> {
    let mut wrong = None;
    let walked = walk::files(&rest.dir, &mut |found| {
        act(found).map_err(|error| {
            wrong = Some(error);
            io::ErrorKind::InvalidData.into()
        })
    });
    match wrong {
        Some(wrong) => Err(wrong),
        None => walked.map_err(|source| rest.failed(source)),
    }
}

/// Whether everything is there that was listed, as it was, and nothing else.
fn compare(keys: Option<&SiteKeys>, rest: &Rest) -> Result<(), RunError> {
    let mut list = Reader::begin(keys, rest)?;
    let wrong = |path: &[u8], what: &str| RunError::Damaged {
        path: rest.dir.join(std::ffi::OsStr::from_bytes(path)),
        what: what.to_owned(),
    };
    let missing = "it is missing, and was there when the run's files were encrypted";
    each(rest, &mut |found| {
        if is_leftover(found, rest.run) {
            take_away(found);
            return Ok(());
        }
        let stamp = stamp_of(found, rest.run).map_err(|source| rest.failed(source))?;
        let Some(entry) = list.peek()? else {
            return Err(wrong(found.path, NEW));
        };
        match order(&entry.path, found.path) {
            Ordering::Less => Err(wrong(&entry.path, missing)),
            Ordering::Greater => Err(wrong(found.path, NEW)),
            Ordering::Equal if entry.stamp != stamp => Err(wrong(found.path, OTHER)),
            Ordering::Equal => {
                list.pass();
                Ok(())
            }
        }
    })?;
    match list.peek()? {
        Some(entry) => Err(wrong(&entry.path, missing)),
        None => Ok(()),
    }
}

const NEW: &str = "it was put there after the run's files were encrypted";
const OTHER: &str = "it is not the one that was encrypted with the run's other files, but a plain or an older one, or another link";

/// What a file is in the list: of an encrypted one what no other file's header has, of a link where it leads.
fn stamp_of(found: &Found<'_>, run: RunId) -> io::Result<[u8; STAMP]> {
    let mut stamp = [0; STAMP];
    if found.kind == FileType::RegularFile {
        let sealed = match open_file(found)? {
            Some(file) => header_of(&file, run)?,
            None => None,
        };
        if let Some((bytes, _)) = sealed {
            stamp.copy_from_slice(check_of(&bytes));
        }
        return Ok(stamp);
    }
    let mut digest = Sha256::new();
    digest.update(found.kind.as_raw_mode().to_le_bytes());
    if found.kind == FileType::Symlink {
        let target = rustix::fs::readlinkat(found.dir, found.name, Vec::new())?;
        digest.update(target.to_bytes());
    }
    stamp.copy_from_slice(&digest.finalize()[..STAMP]);
    Ok(stamp)
}

/// The last bytes of a header: nobody without the key can make another one that has them.
fn check_of(header: &[u8; HEADER_BYTES]) -> &[u8] {
    &header[HEADER_BYTES - STAMP..]
}

fn part(path: &[u8]) -> [u8; 16] {
    let mut part = [0; 16];
    let digest = Sha256::digest(path);
    for (to, from) in part.iter_mut().zip(digest) {
        *to = from;
    }
    part
}

/// Opens a file that was listed as one, if it is one still; never waits for a pipe that took its place.
fn open_file(found: &Found<'_>) -> io::Result<Option<File>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    match rustix::fs::openat(found.dir, found.name, flags | OFlags::NOCTTY, Mode::empty()) {
        Ok(fd) => {
            let file = File::from(fd);
            Ok(file.metadata()?.is_file().then_some(file))
        }
        Err(rustix::io::Errno::LOOP | rustix::io::Errno::NOENT | rustix::io::Errno::ACCESS) => {
            Ok(None)
        }
        Err(errno) => Err(errno.into()),
    }
}

/// A new file beside the one that is to be replaced, under a name that nobody can have taken before.
fn beside(found: &Found<'_>) -> io::Result<Beside> {
    let mut chance = [0; 8];
    getrandom::fill(&mut chance).map_err(|error| io::Error::other(error.to_string()))?;
    let name = format!("{BESIDE}.{:016x}", u64::from_be_bytes(chance));
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(found.dir, &name, flags, Mode::RUSR | Mode::WUSR)?;
    Ok(Beside {
        file: File::from(fd),
        name,
    })
}

/// A file on its way.
struct Beside {
    file: File,
    name: String,
}

impl Beside {
    fn put_in_place(&self, found: &Found<'_>) -> io::Result<()> {
        self.file.sync_data()?;
        Ok(rustix::fs::renameat(
            found.dir, &self.name, found.dir, found.name,
        )?)
    }

    fn give_up(&self, found: &Found<'_>) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(
            found.dir,
            &self.name,
            AtFlags::empty(),
        )?)
    }
}

/// What was on its way when the agent was killed; the file itself is still there. A task's own file is not one, nor is what
/// that was encrypted to: its header says that it is called so, and that of one on its way says another name.
fn is_leftover(found: &Found<'_>, run: RunId) -> bool {
    let name = found.name.to_bytes().strip_prefix(BESIDE.as_bytes());
    let is_named = name.is_some_and(|rest| match rest.strip_prefix(b".") {
        Some(chance) => chance.len() == 16 && chance.iter().all(u8::is_ascii_hexdigit),
        // As an older build has it.
        None => rest.is_empty(),
    });
    let own = rustix::process::geteuid().as_raw();
    let is_own = |stat: rustix::fs::Stat| stat.st_uid == own && stat.st_mode & 0o7777 == 0o600;
    is_named
        && found.kind == FileType::RegularFile
        && rustix::fs::statat(found.dir, found.name, AtFlags::SYMLINK_NOFOLLOW).is_ok_and(is_own)
        && !is_called_so(found, run)
}

/// Whether it is an encrypted file of the run under its own name.
fn is_called_so(found: &Found<'_>, run: RunId) -> bool {
    let file = open_file(found).ok().flatten();
    let header = file.and_then(|file| header_of(&file, run).ok().flatten());
    header.is_some_and(|(_, header)| header.part == part(found.path))
}

fn take_away(found: &Found<'_>) {
    let _ = rustix::fs::unlinkat(found.dir, found.name, AtFlags::empty());
}

/// The header of a file of this run that is encrypted, as far as that can be said without a key.
fn header_of(file: &File, run: RunId) -> io::Result<Option<([u8; HEADER_BYTES], Header)>> {
    let meta = file.metadata()?;
    let own = rustix::process::geteuid().as_raw();
    if meta.uid() != own || meta.mode() & 0o7777 != 0o600 {
        return Ok(None);
    }
    let mut bytes = [0; HEADER_BYTES];
    match file.read_exact_at(&mut bytes, 0) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        read => read?,
    }
    if !bytes.starts_with(&MAGIC) {
        return Ok(None);
    }
    let header = Header::parse(&bytes).ok();
    let is_ours =
        |header: &Header| header.kind == Kind::RunFile && header.subject == run.0.to_be_bytes();
    Ok(header.filter(is_ours).map(|header| (bytes, header)))
}

fn seal_one(keys: &SiteKeys, found: &Found<'_>, run: RunId) -> io::Result<Sealed> {
    if found.kind != FileType::RegularFile {
        return Ok(Sealed::Not(stamp_of(found, run)?));
    }
    let Some(mut file) = open_file(found)? else {
        return Ok(Sealed::Not([0; STAMP]));
    };
    let mut stamp = [0; STAMP];
    if let Some((bytes, header)) = header_of(&file, run)?
        && keys
            .key_of(&header)
            .is_ok_and(|key| Frames::begin(&bytes, &header, &key).is_ok())
    {
        stamp.copy_from_slice(check_of(&bytes));
        return Ok(Sealed::Already(stamp));
    }
    let before = file.metadata()?;
    let failed = |NoKey| io::Error::other(NoKey.to_string());
    let refused = |error: outpost_agent_keeper::seal::Failed| io::Error::other(error.to_string());
    let (header, key) = keys
        .for_file(run.0.to_be_bytes(), part(found.path))
        .map_err(failed)?;
    let (mut sealer, bytes) = Sealer::begin(&header, &key).map_err(refused)?;
    stamp.copy_from_slice(check_of(&bytes));
    let mut to = beside(found)?;
    let mut out = bytes.to_vec();
    sealer
        .frame(Frame::Attributes(&attributes(&before)), &mut out)
        .map_err(refused)?;
    let received = encrypt(&mut file, before.len(), sealer, out, &mut to.file)?;
    let after = file.metadata()?;
    let same = (before.len(), before.mtime(), before.mtime_nsec())
        == (received, after.mtime(), after.mtime_nsec());
    if !same {
        // Somebody outlived the run's tasks and writes.
        to.give_up(found)?;
        return Ok(Sealed::Not([0; STAMP]));
    }
    to.put_in_place(found)?;
    Ok(Sealed::Now(received, stamp))
}

/// Encrypts what there is to read behind what `out` holds already; answers how much that was. Once it is more than `most`
/// nothing more is read: who adds to a file as fast as it is read would keep this up for ever.
fn encrypt(
    from: &mut impl io::Read,
    most: u64,
    mut sealer: Sealer,
    mut out: Vec<u8>,
    to: &mut impl io::Write,
) -> io::Result<u64> {
    let mut chunk = vec![0; FRAME_BYTES];
    let mut received = 0;
    loop {
        let length = from.read(&mut chunk)?;
        let content = chunk.get(..length).unwrap_or_default();
        let frame = if length == 0 {
            Frame::End {
                received,
                left_out: 0,
            }
        } else {
            Frame::Bytes(content)
        };
        let sealed = sealer.frame(frame, &mut out);
        sealed.map_err(|error| io::Error::other(error.to_string()))?;
        received += length as u64;
        if received > most {
            return Ok(received);
        }
        to.write_all(&out)?;
        out.clear();
        if length == 0 {
            return Ok(received);
        }
    }
}

/// Opens one file; `None` when it is not encrypted.
fn open_one(
    keys: Option<&SiteKeys>,
    rest: &Rest,
    found: &Found<'_>,
    known: Known,
) -> Result<Option<u64>, RunError> {
    let path = || rest.dir.join(std::ffi::OsStr::from_bytes(found.path));
    let io = |source| rest.failed(source);
    let damaged = |what: &str| RunError::Damaged {
        path: path(),
        what: what.to_owned(),
    };
    let Some(file) = open_file(found).map_err(io)? else {
        return Ok(None);
    };
    let Some((bytes, header)) = header_of(&file, rest.run).map_err(io)? else {
        return Ok(None);
    };
    let key = keys.map_or(Err(MissingKey(header.key_id)), |keys| keys.key_of(&header));
    if known == Known::Open {
        // Nothing says that it is encrypted: it may also be a task's own that only looks so.
        let is_sealed = key.is_ok_and(|key| Frames::begin(&bytes, &header, &key).is_ok());
        return if is_sealed {
            Err(damaged(
                "it is encrypted, and what says which files of the run are is missing",
            ))
        } else {
            Ok(None)
        };
    }
    if header.part != part(found.path) {
        return Err(damaged("it is another file of the run under this name"));
    }
    let key = key.map_err(|missing| RunError::Key {
        path: path(),
        missing,
    })?;
    let mut reader = Frames::begin(&bytes, &header, &key).map_err(|e| damaged(&e.to_string()))?;
    let mut to = beside(found).map_err(io)?;
    let mut kept = None;
    let mut written = 0;
    loop {
        let offset = reader.offset();
        match reader.next(&file).map_err(|e| damaged(&e.to_string()))? {
            Next::Frame(Frame::Attributes(bytes)) if kept.is_none() => kept = Some(bytes.to_vec()),
            Next::Frame(Frame::Bytes(bytes)) => {
                to.file.write_all(bytes).map_err(io)?;
                written += bytes.len() as u64;
            }
            Next::Frame(Frame::End { received, .. }) if received == written => break,
            Next::Frame(_) => return Err(damaged("it holds what no file of a run does")),
            Next::Nothing | Next::Torn => {
                return Err(damaged(&format!(
                    "it ends at byte {offset} without its last frame"
                )));
            }
        }
    }
    reader.next(&file).map_err(|e| damaged(&e.to_string()))?;
    let set = kept.and_then(|kept| attribute(&to.file, &kept));
    let set = set.ok_or_else(|| damaged("it does not say whose it was"))?;
    set.map_err(io)?;
    to.put_in_place(found).map_err(io)?;
    Ok(Some(written))
}

#[cfg(test)]
#[path = "runs_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "runs_hostile_tests.rs"]
mod hostile;
