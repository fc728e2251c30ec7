//! Reading an attempt's log as it lies in the attempt's directory, also while it grows. Used by `logs` and by
//! `catalogue try`; never by anything that speaks upstream.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

/// Bytes read at a time.
const CHUNK: usize = 64 * 1024;

/// An attempt's log from its beginning on: what was shown is not shown again.
#[derive(Debug)]
pub(crate) struct LogTail {
    dir: PathBuf,
    /// The newest file that something was read of, and how much.
    read: Option<(u64, u64)>,
}

impl LogTail {
    /// Of an attempt's directory; there need not be a log yet.
    pub(crate) fn new(dir: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
            read: None,
        }
    }

    /// Hands over what was added; `show` answers whether to go on. Answers the same.
    ///
    /// # Errors
    /// When the directory or a log file cannot be read.
    pub(crate) fn more(&mut self, show: &mut dyn FnMut(&[u8]) -> bool) -> io::Result<bool> {
        for number in files(&self.dir)? {
            let from = match self.read {
                Some((last, _)) if number < last => continue,
                Some((last, offset)) if number == last => offset,
                Some(_) | None => 0,
            };
            let Ok(mut file) = File::open(self.dir.join(format!("log.{number}"))) else {
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
fn files(dir: &Path) -> io::Result<Vec<u64>> {
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
mod tests {
    use super::*;

    #[test]
    fn what_is_added_is_handed_over_once_also_in_the_next_file() {
        let dir = tempfile::tempdir().unwrap();
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
