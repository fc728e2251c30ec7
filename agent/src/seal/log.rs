//! Reading an encrypted log, also while it grows: what is shown is what the task said, and whatever is not as the keeper
//! wrote it is said and not shown.
//!
//! Each file says which attempt's and which part it is and how much output came before it; the last frame of each says
//! whether another file follows. So a file that is missing, shortened, exchanged, or another attempt's is known.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use outpost_agent_keeper::protocol::ExitRecord;
use outpost_agent_keeper::seal::{
    Frame, HEADER_BYTES, Header, HeaderError, Kind, Next, ReadError, Reader, part_of_log,
};

use super::{MissingKey, SiteKeys};
use crate::files::open_plain;
use crate::log_tail::files;
use crate::torn;

/// Bytes behind a damaged frame that are looked at: a cut of the power leaves holes that are never so far apart.
const LOOK_BYTES: usize = 64 * 1024;

/// Why a log cannot be read on. What was shown before is what the task said.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TailError {
    /// The file system refused.
    #[error("the log cannot be read: {0}")]
    Io(#[from] io::Error),
    /// It is encrypted, and the key is not here.
    #[error("{file}: {missing}")]
    Key {
        /// Which file.
        file: PathBuf,
        /// Which key.
        missing: MissingKey,
    },
    /// Of another version of the form.
    #[error("{file}: {what}")]
    Form {
        /// Which file.
        file: PathBuf,
        /// What it says.
        what: HeaderError,
    },
    /// Not what the keeper wrote.
    #[error(
        "{file}: {what}: it was changed after it was written, or the disk lost a part of it; what is shown before this is as it was written"
    )]
    Damaged {
        /// Which file.
        file: PathBuf,
        /// What is wrong, and where.
        what: String,
    },
}

/// An encrypted log, from its beginning on.
#[derive(Debug)]
pub(super) struct Place {
    number: u64,
    reader: Reader,
}

/// What was read of it, and where that ends.
#[derive(Debug, Default)]
pub(crate) struct SealedLog {
    current: Option<Place>,
    /// The newest file that was read whole.
    last: Option<u64>,
    /// How much output that was, what is left out included.
    position: u64,
    left_out: u64,
    /// The same in every file of one log.
    salt: Option<[u8; 32]>,
    is_done: bool,
    /// What the last frame says is left out in all.
    told: u64,
    /// Whether the attempt was over before the first look: then nothing changes meanwhile.
    since_over: bool,
    has_looked: bool,
    /// Where it ends, without having said so.
    ends: Option<(u64, u64)>,
}

fn damaged(dir: &Path, number: u64, what: impl Into<String>) -> TailError {
    TailError::Damaged {
        file: dir.join(format!("log.{number}")),
        what: what.into(),
    }
}

fn left_out(count: u64, show: &mut dyn FnMut(&[u8]) -> bool) -> bool {
    count == 0 || show(format!("\n[outpost: {count} bytes of output left out here]\n").as_bytes())
}

impl SealedLog {
    /// Hands over what was added. `over`: the attempt's end was on disk before this look.
    pub(crate) fn more(
        &mut self,
        dir: &Path,
        keys: Option<&SiteKeys>,
        over: bool,
        show: &mut dyn FnMut(&[u8]) -> bool,
    ) -> Result<bool, TailError> {
        if !std::mem::replace(&mut self.has_looked, true) {
            self.since_over = over;
        }
        while !self.is_done {
            if self.current.is_none() && !self.begin(dir, keys, show)? {
                return Ok(true);
            }
            match self.read(dir, over, show)? {
                Came::ToTheEnd => {}
                Came::SoFar => return Ok(true),
                Came::Unwanted => return Ok(false),
            }
        }
        Ok(true)
    }

    /// Begins the next file; `false` when there is none yet.
    fn begin(
        &mut self,
        dir: &Path,
        keys: Option<&SiteKeys>,
        show: &mut dyn FnMut(&[u8]) -> bool,
    ) -> Result<bool, TailError> {
        let numbers = files(dir)?;
        let next = match self.last {
            None => numbers.first(),
            Some(last) => numbers.iter().find(|number| **number > last),
        };
        let Some(&number) = next else {
            return Ok(false);
        };
        // Behind the first file the oldest go when there are too many; a reader that is slow misses more.
        let expected = self.last.map_or(0, |last| last + 1);
        let may_miss = self.last == Some(0) || !self.since_over && self.last.is_some();
        if number != expected && !may_miss {
            return Err(damaged(dir, expected, "it is missing"));
        }
        let path = dir.join(format!("log.{number}"));
        let file = match open_plain(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.last = Some(number);
                return Ok(true);
            }
            file => file?,
        };
        let mut bytes = [0; HEADER_BYTES];
        match file.read_exact_at(&mut bytes, 0) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                self.ends = Some((number, 0));
                return Ok(false);
            }
            read => read?,
        }
        let header = parse(&path, &bytes)?;
        let (part, position) = part_of_log(header.part);
        let attempt = u128::from_be_bytes(header.subject);
        if header.kind != Kind::Log || Some(attempt) != attempt_of(dir) {
            let what = format!("it is of attempt {attempt:032x}, and does not belong here");
            return Err(damaged(dir, number, what));
        }
        if part != number {
            return Err(damaged(
                dir,
                number,
                format!("it is log.{part} under another name"),
            ));
        }
        if *self.salt.get_or_insert(header.salt) != header.salt {
            return Err(damaged(
                dir,
                number,
                "it is of another log of the same attempt",
            ));
        }
        let key = keys.map_or(Err(MissingKey(header.key_id)), |keys| keys.key_of(&header));
        let key = key.map_err(|missing| TailError::Key {
            file: path,
            missing,
        })?;
        let reader = Reader::begin(&bytes, &header, &key)
            .map_err(|error| damaged(dir, number, error.to_string()))?;
        let Some(missed) = position.checked_sub(self.position) else {
            return Err(damaged(
                dir,
                number,
                "it begins before the one before it ends",
            ));
        };
        self.position = position;
        self.left_out += missed;
        self.ends = None;
        self.current = Some(Place { number, reader });
        // Whoever does not read any more is told so by what comes next.
        left_out(missed, show);
        Ok(true)
    }

    fn read(
        &mut self,
        dir: &Path,
        over: bool,
        show: &mut dyn FnMut(&[u8]) -> bool,
    ) -> Result<Came, TailError> {
        let Some(Place { number, reader }) = &mut self.current else {
            return Ok(Came::SoFar);
        };
        let number = *number;
        let file = match open_plain(&dir.join(format!("log.{number}"))) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && !self.since_over => {
                (self.current, self.last) = (None, Some(number));
                return Ok(Came::ToTheEnd);
            }
            file => file?,
        };
        loop {
            let offset = reader.offset();
            match reader.next(&file) {
                Ok(Next::Frame(Frame::Bytes(bytes))) => {
                    self.position += bytes.len() as u64;
                    if !show(bytes) {
                        return Ok(Came::Unwanted);
                    }
                }
                Ok(Next::Frame(Frame::LeftOut(count))) => {
                    self.position = self.position.saturating_add(count);
                    self.left_out = self.left_out.saturating_add(count);
                    if !left_out(count, show) {
                        return Ok(Came::Unwanted);
                    }
                }
                Ok(Next::Frame(Frame::Attributes(_))) => {
                    return Err(damaged(dir, number, "it is no log"));
                }
                Ok(Next::Frame(Frame::Continues)) => {
                    (self.current, self.last) = (None, Some(number));
                    return Ok(Came::ToTheEnd);
                }
                Ok(Next::Frame(Frame::End {
                    received,
                    left_out: told,
                })) => {
                    // Whatever follows the last frame is not the keeper's.
                    reader
                        .next(&file)
                        .map_err(|error| damaged(dir, number, error.to_string()))?;
                    let rest = received.saturating_sub(self.position);
                    self.left_out += rest;
                    (self.is_done, self.told, self.current) = (true, told, None);
                    self.last = Some(number);
                    return Ok(if left_out(rest, show) {
                        Came::ToTheEnd
                    } else {
                        Came::Unwanted
                    });
                }
                Ok(Next::Nothing | Next::Torn) => {
                    self.ends = Some((number, offset));
                    return Ok(Came::SoFar);
                }
                Err(ReadError::Io(error)) => return Err(error.into()),
                // What a cut of the power left has holes; without an end on record nothing promises more.
                Err(_) if !over && has_hole(&file, offset)? => {
                    self.ends = Some((number, offset));
                    return Ok(Came::SoFar);
                }
                Err(error) => return Err(damaged(dir, number, error.to_string())),
            }
        }
    }

    /// What there is to say once nothing more comes. `end`: the attempt's; `alive`: whether its keeper is.
    pub(crate) fn verdict(
        &self,
        dir: &Path,
        end: Option<&ExitRecord>,
        alive: bool,
    ) -> Result<Option<String>, TailError> {
        if self.is_done {
            let numbers = files(dir)?;
            if let (Some(last), Some(more)) = (self.last, numbers.last())
                && *more > last
            {
                return Err(damaged(dir, *more, format!("log.{last} is the last one")));
            }
            if self.since_over && self.left_out != self.told {
                let what = format!(
                    "files are missing behind it: {} bytes are not here, of which the task's keeper left out {}",
                    self.left_out, self.told
                );
                return Err(damaged(dir, 0, what));
            }
            return Ok(None);
        }
        let (number, offset) = match (self.ends, self.last) {
            (Some(ends), _) => ends,
            (None, Some(last)) => (last + 1, 0),
            (None, None) => (0, 0),
        };
        let kept = end.map(|end| end.log_bytes.saturating_sub(end.log_dropped_bytes));
        match kept {
            Some(0) => Ok(None),
            Some(_) => Err(damaged(
                dir,
                number,
                format!(
                    "it ends at byte {offset} without its last frame, although the attempt's end is on record (or the disk was full then)"
                ),
            )),
            None if alive => Ok(Some(
                "the log is not yet closed: its attempt goes on, and what is shown is what there is by now".to_owned(),
            )),
            None if self.ends.is_none() && self.last.is_none() => Ok(None),
            None => Ok(Some(format!(
                "the log was never closed, and ends at byte {offset} of log.{number}: its keeper was ended by force, or the power was cut, and what it had not written is lost; a log that was cut together with the record of its attempt's end looks the same until the agent has noted where it ends"
            ))),
        }
    }
}

/// Whether the first file of a log is one that a keeper wrote with one of these keys: no task can print such a beginning.
pub(crate) fn is_sealed_by(dir: &Path, first: u64, keys: &SiteKeys) -> io::Result<bool> {
    let mut bytes = [0; HEADER_BYTES];
    let file = match open_plain(&dir.join(format!("log.{first}"))) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        file => file?,
    };
    match file.read_exact_at(&mut bytes, 0) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
        read => read?,
    }
    let Ok(header) = Header::parse(&bytes) else {
        return Ok(false);
    };
    let key = keys.key_of(&header);
    Ok(key.is_ok_and(|key| Reader::begin(&bytes, &header, &key).is_ok()))
}

/// How far a file was read.
enum Came {
    ToTheEnd,
    SoFar,
    Unwanted,
}

fn parse(path: &Path, bytes: &[u8; HEADER_BYTES]) -> Result<Header, TailError> {
    Header::parse(bytes).map_err(|error| match error {
        HeaderError::Version(_) => TailError::Form {
            file: path.to_owned(),
            what: error,
        },
        HeaderError::Magic | HeaderError::Kind => TailError::Damaged {
            file: path.to_owned(),
            what: format!("{error}, and its attempt's log is encrypted"),
        },
    })
}

/// The attempt whose directory this is.
pub(super) fn attempt_of(dir: &Path) -> Option<u128> {
    u128::from_str_radix(dir.file_name()?.to_str()?, 16).ok()
}

/// Whether a part of what follows never reached the disk.
fn has_hole(file: &File, offset: u64) -> io::Result<bool> {
    let mut bytes = vec![0; LOOK_BYTES];
    let length = file.read_at(&mut bytes, offset)?;
    Ok(torn::has_hole(
        offset,
        bytes.get(..length).unwrap_or_default(),
    ))
}

#[cfg(test)]
#[path = "log_tests.rs"]
mod tests;
