//! What says that files of a run may be encrypted, and which: a file of the agent's own beside the runs' directories,
//! where no task has anything to say.
//!
//! While files are on their way from one form to the other it is one word. Once all of them are encrypted it is a list of
//! everything that was there, encrypted itself: a file that is missing, older, exchanged or new is known by it before
//! anything of the run is used. Runs that an older build encrypted have a word in their own directory instead.

use std::cmp::Ordering;
use std::collections::VecDeque;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use outpost_agent_keeper::seal::{
    FRAME_BYTES, Frame, HEADER_BYTES, Header, Kind, MAGIC, Next, Reader as Frames, Sealer,
};
use outpost_proto::ids::RunId;

use super::runs::RunError;
use super::{MissingKey, NoKey, SiteKeys};
use crate::state_dir::StateDir;

/// What it says while some files may be encrypted and others not.
const SOME: &[u8] = b"some\n";
/// How the word of an older build is called in the run's directory, and what it says then and of a run that is whole.
const OLDER: &str = ".outpost-sealed";
const OLDER_WHOLE: &[u8] = b"all\n";
/// Bytes of what identifies one file.
pub(super) const STAMP: usize = 16;
/// Bytes of a path in the list: many times what the walk goes down to.
const PATH_BYTES: usize = FRAME_BYTES / 2;

/// A run, where its files are, and where the list is.
#[derive(Debug, Clone)]
pub(crate) struct Rest {
    /// Which run.
    pub(crate) run: RunId,
    /// Its directory.
    pub(crate) dir: PathBuf,
    /// Its list.
    pub(crate) list: PathBuf,
}

/// What is known of a run's files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Known {
    /// Nothing says that one is encrypted.
    Open,
    /// Any of them may be.
    Some,
    /// They are, by a list.
    Listed,
    /// An older build says that some, or all, are.
    Older,
}

impl Rest {
    pub(crate) fn of(state: &StateDir, run: RunId) -> Self {
        Self {
            run,
            dir: state.run(run),
            list: state.list_of(run),
        }
    }

    pub(super) fn known(&self) -> Result<Known, RunError> {
        let read = match crate::files::open_plain(&self.list) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(older(&self.dir).map_or(Known::Open, |_| Known::Older));
            }
            Err(error) => return Err(self.damaged(error.to_string())),
            Ok(file) => first_bytes(&file),
        };
        let begins = read.map_err(|source| self.failed(source))?;
        if begins == MAGIC {
            Ok(Known::Listed)
        } else if begins.starts_with(SOME) {
            Ok(Known::Some)
        } else {
            Err(self.damaged("it is not what the agent puts there".to_owned()))
        }
    }

    /// Whether all files were encrypted the last time that this was done.
    pub(crate) fn is_whole(&self) -> bool {
        match self.known() {
            Ok(Known::Listed) => true,
            Ok(Known::Older) => older(&self.dir).is_some_and(|word| word == OLDER_WHOLE),
            Ok(Known::Open | Known::Some) | Err(_) => false,
        }
    }

    /// From now on any of the files may be encrypted. An older build's word goes.
    pub(super) fn say_some(&self) -> io::Result<()> {
        let mut file = self.new_file()?;
        file.write_all(SOME)?;
        self.put_in_place(&file)?;
        if older(&self.dir).is_some() {
            std::fs::remove_file(self.dir.join(OLDER))?;
        }
        Ok(())
    }

    /// From now on none is.
    pub(crate) fn say_none(&self) -> io::Result<()> {
        if older(&self.dir).is_some() {
            std::fs::remove_file(self.dir.join(OLDER))?;
        }
        match std::fs::remove_file(&self.list) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// A file beside the list; what an interrupted one left is written over.
    fn new_file(&self) -> io::Result<File> {
        let lists = self.list.parent().unwrap_or(Path::new("."));
        match DirBuilder::new().mode(0o700).create(lists) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let mut open = OpenOptions::new();
        open.write(true).create(true).truncate(true).mode(0o600);
        open.open(self.beside())
    }

    /// The next list on its way; one that was interrupted stays until there is another.
    pub(crate) fn beside(&self) -> PathBuf {
        self.list.with_extension("new")
    }

    fn put_in_place(&self, file: &File) -> io::Result<()> {
        file.sync_all()?;
        std::fs::rename(self.beside(), &self.list)?;
        File::open(self.list.parent().unwrap_or(Path::new(".")))?.sync_all()
    }

    pub(super) fn failed(&self, source: io::Error) -> RunError {
        RunError::Io {
            run: self.dir.clone(),
            source,
        }
    }

    pub(super) fn damaged(&self, what: String) -> RunError {
        RunError::Damaged {
            path: self.list.clone(),
            what,
        }
    }
}

/// The first bytes, as many as tell one form from the other.
fn first_bytes(file: &File) -> io::Result<Vec<u8>> {
    let mut begins = Vec::new();
    file.take(MAGIC.len() as u64).read_to_end(&mut begins)?;
    Ok(begins)
}

/// The word of an older build. Tasks can put anything there: what is not such a word is a file of theirs.
fn older(dir: &Path) -> Option<Vec<u8>> {
    let file = crate::files::open_plain(&dir.join(OLDER)).ok()?;
    let own = rustix::process::geteuid().as_raw();
    if file.metadata().ok()?.uid() != own {
        return None;
    }
    let mut text = Vec::new();
    let most = SOME.len().max(OLDER_WHOLE.len()) as u64 + 1;
    file.take(most).read_to_end(&mut text).ok()?;
    (text == SOME || text == OLDER_WHOLE).then_some(text)
}

/// One file of the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    /// Its path in the run's directory.
    pub(super) path: Vec<u8>,
    /// What it was.
    pub(super) stamp: [u8; STAMP],
}

/// Which of two paths a walk comes to first.
pub(super) fn order(one: &[u8], other: &[u8]) -> Ordering {
    let rank = |byte: &u8| {
        if *byte == b'/' {
            0
        } else {
            u16::from(*byte) + 1
        }
    };
    one.iter().map(rank).cmp(other.iter().map(rank))
}

/// Writes a list as its files are met.
pub(super) struct Writer {
    file: File,
    sealer: Sealer,
    /// Entries that are not in a frame yet.
    entries: Vec<u8>,
    out: Vec<u8>,
    count: u64,
}

impl Writer {
    pub(super) fn begin(keys: &SiteKeys, rest: &Rest) -> io::Result<Self> {
        let failed = |NoKey| io::Error::other(NoKey.to_string());
        let (header, key) = keys.for_list(rest.run.0.to_be_bytes()).map_err(failed)?;
        let (sealer, bytes) = Sealer::begin(&header, &key).map_err(io::Error::other)?;
        Ok(Self {
            file: rest.new_file()?,
            sealer,
            entries: Vec::new(),
            out: bytes.to_vec(),
            count: 0,
        })
    }

    pub(super) fn add(&mut self, path: &[u8], stamp: [u8; STAMP]) -> io::Result<()> {
        let length = u32::try_from(path.len()).map_err(io::Error::other)?;
        if path.len() > PATH_BYTES {
            return Err(io::ErrorKind::InvalidFilename.into());
        }
        if self.entries.len() + 4 + STAMP + path.len() > FRAME_BYTES {
            self.flush()?;
        }
        self.entries.extend_from_slice(&length.to_le_bytes());
        self.entries.extend_from_slice(&stamp);
        self.entries.extend_from_slice(path);
        self.count += 1;
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        let frame = Frame::Bytes(&self.entries);
        self.sealer
            .frame(frame, &mut self.out)
            .map_err(io::Error::other)?;
        self.entries.clear();
        self.file.write_all(&self.out)?;
        self.out.clear();
        Ok(())
    }

    /// The list is whole, and takes the word's place.
    pub(super) fn finish(mut self, rest: &Rest) -> io::Result<()> {
        self.flush()?;
        let end = Frame::End {
            received: self.count,
            left_out: 0,
        };
        self.sealer
            .frame(end, &mut self.out)
            .map_err(io::Error::other)?;
        self.file.write_all(&self.out)?;
        rest.put_in_place(&self.file)
    }
}

/// Reads a list entry by entry.
pub(super) struct Reader<'a> {
    rest: &'a Rest,
    file: File,
    frames: Frames,
    ahead: VecDeque<Entry>,
    count: u64,
    is_over: bool,
}

impl<'a> Reader<'a> {
    pub(super) fn begin(keys: Option<&SiteKeys>, rest: &'a Rest) -> Result<Self, RunError> {
        let damaged = |what: &dyn ToString| rest.damaged(what.to_string());
        let file = crate::files::open_plain(&rest.list).map_err(|source| rest.failed(source))?;
        let mut bytes = [0; HEADER_BYTES];
        if let Err(error) = file.read_exact_at(&mut bytes, 0) {
            return Err(if error.kind() == io::ErrorKind::UnexpectedEof {
                damaged(&"it ends within its header")
            } else {
                rest.failed(error)
            });
        }
        let header = Header::parse(&bytes).map_err(|error| damaged(&error))?;
        if header.kind != Kind::RunList || header.subject != rest.run.0.to_be_bytes() {
            return Err(damaged(&"it is not this run's"));
        }
        let key = keys.map_or(Err(MissingKey(header.key_id)), |keys| keys.key_of(&header));
        let key = key.map_err(|missing| RunError::Key {
            path: rest.list.clone(),
            missing,
        })?;
        let frames = Frames::begin(&bytes, &header, &key).map_err(|error| damaged(&error))?;
        Ok(Self {
            rest,
            file,
            frames,
            ahead: VecDeque::new(),
            count: 0,
            is_over: false,
        })
    }

    /// What comes next, and stays there.
    pub(super) fn peek(&mut self) -> Result<Option<&Entry>, RunError> {
        while self.ahead.is_empty() && !self.is_over {
            self.read()?;
        }
        Ok(self.ahead.front())
    }

    /// Goes past it.
    pub(super) fn pass(&mut self) {
        self.ahead.pop_front();
    }

    fn read(&mut self) -> Result<(), RunError> {
        let damaged = |what: String| self.rest.damaged(what);
        match self
            .frames
            .next(&self.file)
            .map_err(|error| damaged(error.to_string()))?
        {
            Next::Frame(Frame::Bytes(bytes)) => {
                let mut left = bytes;
                while !left.is_empty() {
                    let (entry, rest) =
                        entry(left).ok_or_else(|| damaged("it says what no list does".into()))?;
                    self.ahead.push_back(entry);
                    self.count += 1;
                    left = rest;
                }
                Ok(())
            }
            Next::Frame(Frame::End { received, .. }) if received == self.count => {
                self.is_over = true;
                Ok(())
            }
            Next::Frame(_) => Err(damaged("it says what no list does".to_owned())),
            Next::Nothing | Next::Torn => Err(damaged("it ends without its last frame".to_owned())),
        }
    }
}

fn entry(bytes: &[u8]) -> Option<(Entry, &[u8])> {
    let (length, bytes) = bytes.split_first_chunk::<4>()?;
    let (stamp, bytes) = bytes.split_first_chunk::<STAMP>()?;
    let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
    let (path, rest) = bytes.split_at_checked(length)?;
    let entry = Entry {
        path: path.to_vec(),
        stamp: *stamp,
    };
    Some((entry, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_in_the_order_of_a_walk() {
        let mut paths = ["a-b", "a/b", "a", "a/b/c", "a.b", "b"];
        paths.sort_by(|one, other| order(one.as_bytes(), other.as_bytes()));
        assert_eq!(paths, ["a", "a/b", "a/b/c", "a-b", "a.b", "b"]);
    }
}
