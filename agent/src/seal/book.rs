//! What the agent itself noted of encrypted logs: which were begun, and where each ended once its attempt was over. A log
//! that was cut together with its record is known by it, and one that was exchanged for a plain one.
//!
//! Lines in a file of the state directory. Each carries a tag that only who has the site's key can make, and the tag of
//! the line before it: none can be changed, put in or left out but the last ones. Written by the runner, which makes it
//! anew with each of its lives and whenever it has grown; read by `logs`. What is missing in it says nothing: a cut of
//! the power takes the last lines away as well.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use outpost_agent_keeper::adopt::{KeeperState, keeper_state};
use outpost_agent_keeper::record::read_exit_record;
use outpost_agent_keeper::seal::{SealedWith, Witness};
use outpost_proto::ids::AttemptId;
use serde::{Deserialize, Serialize};

use super::{MissingKey, SiteKeys};
use crate::log_tail::files;
use crate::state_dir::StateDir;

/// Version of the lines.
const VERSION: u8 = 1;
/// Longer than any line.
const LINE_BYTES: u64 = 1024;
/// It is made anew when it has grown by so much: some ten thousand attempts, most of which retention took away by then.
const GROWN_BYTES: u64 = 8 << 20;
/// Notes that are made before it is tried again when that failed, as on a full disk: the whole of it is read for it.
const NOTES_BETWEEN: u32 = 64;

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    /// The first one.
    Book { version: u8, with: SealedWith },
    /// The log of this attempt is encrypted, and its record signed.
    Begun { attempt: AttemptId, after: String },
    /// The attempt was over then.
    Over {
        attempt: AttemptId,
        #[serde(flatten)]
        end: End,
        after: String,
    },
}

/// Where a log ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct End {
    /// Whether the attempt's end was on record.
    pub(crate) recorded: bool,
    /// Its last file; `None` when there was none.
    pub(crate) file: Option<u64>,
    /// That one's length.
    pub(crate) bytes: u64,
}

impl End {
    /// Whether there is no log.
    pub(crate) fn is_empty(&self) -> bool {
        self.file.is_none()
    }

    /// Whether what lies there now can have become of what was noted: nothing is taken away, and nothing was added unless
    /// a keeper that was taken for dead brought its attempt to an end on record.
    pub(crate) fn becomes(&self, found: &Self) -> bool {
        let ended_later = !self.recorded && found.recorded;
        if ended_later {
            (found.file, found.bytes) >= (self.file, self.bytes)
        } else {
            found == self
        }
    }
}

/// What is noted of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Word {
    /// Nothing, or there is no book.
    None,
    /// That its log is encrypted.
    Begun,
    /// That too, and where it ended.
    Over(End),
}

/// Why a book cannot be read, or not be believed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BookError {
    /// The file system refused.
    #[error("{}: {source}", path.display())]
    Io {
        /// The book.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The key is not here.
    #[error("{}: {missing}", path.display())]
    Key {
        /// The book.
        path: PathBuf,
        /// Which key.
        missing: MissingKey,
    },
    /// Not what the agent wrote.
    #[error(
        "{}: its line {line} is not what the agent noted there: somebody changed it, or the disk lost a part of it; the agent makes it anew when it starts",
        path.display()
    )]
    Damaged {
        /// The book.
        path: PathBuf,
        /// Which line, from 1.
        line: u64,
    },
}

/// Everything that is noted, in the order of the attempts, up to what is not as it was written.
#[derive(Debug, Default)]
struct Noted {
    words: BTreeMap<AttemptId, Word>,
    /// The first line that is not what was written.
    damaged: Option<u64>,
}

/// What is noted of this attempt.
///
/// # Errors
/// See [`BookError`].
pub(crate) fn word(
    state: &StateDir,
    keys: &SiteKeys,
    attempt: AttemptId,
) -> Result<Word, BookError> {
    let noted = read(&state.book(), keys)?;
    match (noted.words.get(&attempt), noted.damaged) {
        // What stands before the damage is as it was written.
        (Some(word @ Word::Over(_)), _) => Ok(*word),
        (_, Some(line)) => Err(BookError::Damaged {
            path: state.book(),
            line,
        }),
        (word, None) => Ok(word.copied().unwrap_or(Word::None)),
    }
}

fn read(path: &Path, keys: &SiteKeys) -> Result<Noted, BookError> {
    let failed = |source| BookError::Io {
        path: path.to_owned(),
        source,
    };
    let file = match crate::files::open_plain(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Noted::default()),
        file => file.map_err(failed)?,
    };
    let mut reader = BufReader::new(file);
    let (mut noted, mut line) = (Noted::default(), Vec::new());
    let (mut witness, mut last) = (None, String::new());
    for number in 1.. {
        line.clear();
        let mut bounded = reader.by_ref().take(LINE_BYTES);
        bounded.read_until(b'\n', &mut line).map_err(failed)?;
        let is_long = line.len() as u64 == LINE_BYTES;
        let Some(body) = line.strip_suffix(b"\n") else {
            // What is being written, or was when the agent was killed.
            noted.damaged = is_long.then_some(number);
            break;
        };
        let missing = |missing| BookError::Key {
            path: path.to_owned(),
            missing,
        };
        let is_good = match serde_json::from_slice(body) {
            Ok(Line::Book { version, with }) if number == 1 && version == VERSION => {
                let opened = keys.book(&with).map_err(missing)?;
                let is_good = opened.vouches_for(body);
                witness = Some(opened);
                is_good
            }
            Ok(Line::Begun { attempt, after }) if after == last && vouched(&witness, body) => {
                noted.words.entry(attempt).or_insert(Word::Begun);
                true
            }
            Ok(Line::Over {
                attempt,
                end,
                after,
            }) if after == last && vouched(&witness, body) => {
                noted.words.insert(attempt, Word::Over(end));
                true
            }
            Ok(Line::Book { .. } | Line::Begun { .. } | Line::Over { .. }) | Err(_) => false,
        };
        let Some(tag) = Witness::tag_of(body).filter(|_| is_good) else {
            noted.damaged = Some(number);
            break;
        };
        last = tag;
    }
    Ok(noted)
}

fn vouched(witness: &Option<Witness>, body: &[u8]) -> bool {
    witness
        .as_ref()
        .is_some_and(|witness| witness.vouches_for(body))
}

/// The runner's: what it notes goes to the file at once, and to the disk when the kernel sees fit.
#[derive(Debug)]
pub(crate) struct Book {
    state: StateDir,
    keys: Arc<SiteKeys>,
    /// `None` when it could not be made: then the next note tries again.
    open: Option<Open>,
    /// Attempts that were begun and are not over.
    going: BTreeSet<AttemptId>,
    /// Notes before it is tried again.
    wait: u32,
}

#[derive(Debug)]
struct Open {
    file: File,
    witness: Witness,
    last: String,
    bytes: u64,
    /// Made anew beyond this.
    until: u64,
}

impl Book {
    /// Takes up what an earlier runner noted, and notes what ended since.
    pub(crate) fn open(state: &StateDir, keys: Arc<SiteKeys>) -> Self {
        let mut book = Self {
            state: state.clone(),
            keys,
            open: None,
            going: BTreeSet::new(),
            wait: 0,
        };
        book.make_anew();
        for attempt in book.going.clone() {
            let dir = state.attempt(attempt);
            let is_over = matches!(read_exit_record(&dir), Ok(Some(_)))
                || matches!(
                    keeper_state(&dir),
                    Ok(KeeperState::Dead(_) | KeeperState::EarlierBoot(_))
                );
            if is_over {
                book.over(attempt);
            }
        }
        book
    }

    /// An attempt with an encrypted log is about to begin.
    pub(crate) fn begun(&mut self, attempt: AttemptId) {
        self.going.insert(attempt);
        self.note(|after| Line::Begun { attempt, after });
    }

    /// It is over, and nothing is added to its log any more.
    pub(crate) fn over(&mut self, attempt: AttemptId) {
        if self.going.remove(&attempt)
            && let Ok(end) = end_of(&self.state.attempt(attempt))
        {
            self.note(|after| Line::Over {
                attempt,
                end,
                after,
            });
        }
    }

    fn note(&mut self, line: impl FnOnce(String) -> Line) {
        let due = |open: &Open| open.bytes > open.until;
        if self.open.as_ref().is_none_or(due) {
            match self.wait.checked_sub(1) {
                Some(left) => self.wait = left,
                None => self.make_anew(),
            }
        }
        let Some(open) = &mut self.open else { return };
        if let Err(error) = open.add(&line(open.last.clone())) {
            tracing::warn!(
                "{} cannot be written: {error}; that a log was cut together with its record may not be seen",
                self.state.book().display()
            );
        }
    }

    /// Writes what is known of attempts that are still here, with the key that encrypts now.
    fn make_anew(&mut self) {
        let path = self.state.book();
        let noted = read(&path, &self.keys).unwrap_or_else(|error| {
            tracing::error!("{error}; it is made anew without what it said");
            Noted::default()
        });
        if let Some(line) = noted.damaged {
            let error = BookError::Damaged { path, line };
            tracing::error!("{error}");
        }
        match self.write(&noted) {
            Ok(open) => self.open = Some(open),
            Err(error) => {
                self.wait = NOTES_BETWEEN;
                tracing::warn!(
                    "{} cannot be written: {error}; it is tried again",
                    self.state.book().display()
                );
            }
        }
    }

    fn write(&mut self, noted: &Noted) -> io::Result<Open> {
        let (with, witness) = self.keys.for_book().map_err(io::Error::other)?;
        let path = self.state.book();
        let beside = path.with_extension("new");
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&beside)?;
        let mut open = Open {
            file,
            witness,
            last: String::new(),
            bytes: 0,
            until: u64::MAX,
        };
        let mut lines = Vec::new();
        open.encode(
            &Line::Book {
                version: VERSION,
                with,
            },
            &mut lines,
        )?;
        for (&attempt, word) in &noted.words {
            // Retention or a person took it away.
            if !self.state.attempt(attempt).exists() {
                continue;
            }
            let after = open.last.clone();
            let line = match *word {
                Word::Over(end) => Line::Over {
                    attempt,
                    end,
                    after,
                },
                Word::Begun | Word::None => {
                    self.going.insert(attempt);
                    Line::Begun { attempt, after }
                }
            };
            open.encode(&line, &mut lines)?;
        }
        open.file.write_all(&lines)?;
        open.file.sync_all()?;
        std::fs::rename(&beside, &path)?;
        open.bytes = lines.len() as u64;
        open.until = open.bytes + GROWN_BYTES;
        Ok(open)
    }
}

impl Open {
    /// Adds a line; one that was not written whole is written over by the next.
    fn add(&mut self, line: &Line) -> io::Result<()> {
        let before = self.last.clone();
        let mut bytes = Vec::new();
        let written = self
            .encode(line, &mut bytes)
            .and_then(|()| self.file.write_all_at(&bytes, self.bytes));
        match written {
            Ok(()) => self.bytes += bytes.len() as u64,
            Err(_) => self.last = before,
        }
        written
    }

    fn encode(&mut self, line: &Line, out: &mut Vec<u8>) -> io::Result<()> {
        let mut body = serde_json::to_vec(line)?;
        self.witness.sign(&mut body).map_err(io::Error::other)?;
        self.last = Witness::tag_of(&body).unwrap_or_default();
        out.append(&mut body);
        out.push(b'\n');
        Ok(())
    }
}

/// Where a log ends on disk.
///
/// # Errors
/// When its directory cannot be read.
pub(crate) fn end_of(dir: &Path) -> io::Result<End> {
    let file = files(dir)?.last().copied();
    let bytes = file.map_or(Ok(0), |number| {
        let meta = dir.join(format!("log.{number}")).symlink_metadata();
        meta.map(|meta| meta.len())
    })?;
    Ok(End {
        recorded: matches!(read_exit_record(dir), Ok(Some(_))),
        file,
        bytes,
    })
}

#[cfg(test)]
#[path = "book_tests.rs"]
mod tests;
