//! Reading an attempt's log as it lies in the attempt's directory, also while it grows. Used by `logs` and by
//! `catalogue try`; never by anything that speaks upstream.

use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use outpost_agent_keeper::adopt::read_keeper_record;
use outpost_agent_keeper::protocol::ExitRecord;
use outpost_agent_keeper::seal::MAGIC;

use crate::files::open_plain;
use crate::seal::SiteKeys;
use crate::seal::log::{SealedLog, TailError, is_sealed_by};
use crate::seal::record::{self, Worth};

/// Bytes read at a time.
const CHUNK: usize = 64 * 1024;

/// An attempt's log from its beginning on: what was shown is not shown again.
#[derive(Debug)]
pub(crate) struct LogTail {
    dir: PathBuf,
    keys: Option<Arc<SiteKeys>>,
    /// Whether the attempt's end was on disk before the next look.
    over: bool,
    form: Option<Form>,
}

/// How the log is written; known with its first file.
#[derive(Debug)]
enum Form {
    Plain(Plain),
    Sealed(Box<SealedLog>),
}

/// The newest file that something was read of, and how much.
#[derive(Debug, Default)]
struct Plain {
    read: Option<(u64, u64)>,
}

impl LogTail {
    /// Of an attempt's directory; there need not be a log yet.
    pub(crate) fn new(dir: &Path) -> Self {
        Self::with_keys(dir, None)
    }

    /// The same, for a log that may be encrypted.
    pub(crate) fn with_keys(dir: &Path, keys: Option<Arc<SiteKeys>>) -> Self {
        Self {
            dir: dir.to_owned(),
            keys,
            over: false,
            form: None,
        }
    }

    /// The attempt's end is on disk: nothing is added any more.
    pub(crate) fn is_over(&mut self) {
        self.over = true;
    }

    /// Hands over what was added; `show` answers whether to go on. Answers the same.
    ///
    /// # Errors
    /// When the directory or a log file cannot be read, or is not what was written.
    pub(crate) fn more(&mut self, show: &mut dyn FnMut(&[u8]) -> bool) -> Result<bool, TailError> {
        if self.form.is_none() {
            self.form = form(&self.dir, self.keys.as_deref())?;
        }
        match &mut self.form {
            None => Ok(true),
            Some(Form::Plain(plain)) => Ok(plain.more(&self.dir, show)?),
            Some(Form::Sealed(sealed)) => {
                sealed.more(&self.dir, self.keys.as_deref(), self.over, show)
            }
        }
    }

    /// What there is to say of the log once nothing more of it is read: that it ends too early for a reason, or what
    /// cannot be said of it. `end`: the attempt's; `alive`: whether its keeper is.
    ///
    /// # Errors
    /// When something of it is missing for no such reason.
    pub(crate) fn verdict(
        &self,
        end: Option<&ExitRecord>,
        alive: bool,
    ) -> Result<Vec<String>, TailError> {
        let is_sealed = match &self.form {
            Some(Form::Plain(_)) => false,
            Some(Form::Sealed(_)) => true,
            None => is_sealed(&self.dir) == Some(true),
        };
        if !is_sealed && self.keys.is_none() {
            return Ok(Vec::new());
        }
        let said = match &self.form {
            Some(Form::Plain(_)) => None,
            Some(Form::Sealed(sealed)) => sealed.verdict(&self.dir, end, alive)?,
            None if is_sealed => SealedLog::default().verdict(&self.dir, end, alive)?,
            None => None,
        };
        let worth = record::worth(&self.dir, self.keys.as_deref())?;
        match worth {
            Worth::Plain | Worth::Nothing if is_sealed => {
                return Err(TailError::Damaged {
                    file: self.dir.clone(),
                    what: "the log is encrypted, and no record of its attempt says so".to_owned(),
                });
            }
            Worth::Signed | Worth::Plain | Worth::Nothing => {}
        }
        Ok(said
            .into_iter()
            .chain(worth.note().map(str::to_owned))
            .collect())
    }

    /// The keys with which it is read.
    pub(crate) fn keys(&self) -> Option<&SiteKeys> {
        self.keys.as_deref()
    }

    /// Whether what was read of it is encrypted.
    pub(crate) fn is_sealed(&self) -> bool {
        matches!(self.form, Some(Form::Sealed(_)))
    }
}

/// How the log of an attempt is written; `None` while there is none.
fn form(dir: &Path, keys: Option<&SiteKeys>) -> io::Result<Option<Form>> {
    let numbers = files(dir)?;
    let Some(first) = numbers.first() else {
        return Ok(None);
    };
    let sealed = match is_sealed(dir) {
        Some(true) => true,
        // A record that was changed does not make an encrypted log a plain one.
        Some(false) => match keys {
            Some(keys) => is_sealed_by(dir, *first, keys)?,
            None => false,
        },
        None => begins_sealed(&dir.join(format!("log.{first}")))?,
    };
    Ok(Some(if sealed {
        Form::Sealed(Box::default())
    } else {
        Form::Plain(Plain::default())
    }))
}

/// What its keeper says of the log: a task can print anything, also what an encrypted file begins with.
fn is_sealed(dir: &Path) -> Option<bool> {
    let record = read_keeper_record(dir).ok().flatten()?;
    Some(record.sealed)
}

fn begins_sealed(path: &Path) -> io::Result<bool> {
    let mut begins = Vec::new();
    let file = match open_plain(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        file => file?,
    };
    file.take(MAGIC.len() as u64).read_to_end(&mut begins)?;
    Ok(begins == MAGIC)
}

impl Plain {
    fn more(&mut self, dir: &Path, show: &mut dyn FnMut(&[u8]) -> bool) -> io::Result<bool> {
        for number in files(dir)? {
            let from = match self.read {
                Some((last, _)) if number < last => continue,
                Some((last, offset)) if number == last => offset,
                Some(_) | None => 0,
            };
            let Ok(mut file) = open_plain(&dir.join(format!("log.{number}"))) else {
                continue;
            };
            file.seek(SeekFrom::Start(from))?;
            let mut chunk = vec![0; CHUNK];
            let mut offset = from;
            loop {
                let length = file.read(&mut chunk)?;
                if length == 0 {
                    break;
                }
                if !show(&chunk[..length]) {
                    return Ok(false);
                }
                offset += length as u64;
                self.read = Some((number, offset));
            }
            self.read = Some((number, offset));
        }
        Ok(true)
    }
}

/// The numbers of an attempt's log files, in order; none before the attempt has a directory.
pub(crate) fn files(dir: &Path) -> io::Result<Vec<u64>> {
    let mut numbers = Vec::new();
    let entries = match std::fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(numbers),
        entries => entries?,
    };
    for entry in entries {
        let name = entry?.file_name();
        numbers.extend(
            name.to_str()
                .and_then(|name| name.strip_prefix("log.")?.parse::<u64>().ok()),
        );
    }
    numbers.sort_unstable();
    Ok(numbers)
}

#[cfg(test)]
#[path = "log_tail_tests.rs"]
mod records;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_added_is_handed_over_once_also_in_the_next_file() {
        let dir = crate::testing::tempdir().unwrap();
        let file = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        let mut tail = LogTail::new(dir.path());
        let mut more = || {
            let mut seen = Vec::new();
            let going = tail.more(&mut |bytes| {
                seen.extend_from_slice(bytes);
                true
            });
            assert!(going.unwrap());
            String::from_utf8(seen).unwrap()
        };
        assert_eq!(more(), "");
        file("log.0", "one\n");
        assert_eq!(more(), "one\n");
        file("log.0", "one\ntwo\n");
        file("log.1", "three\n");
        assert_eq!(more(), "two\nthree\n");
        assert_eq!(more(), "");
        file("log.10", "four\n");
        assert_eq!(more(), "four\n", "numbers, not texts");
    }
}
