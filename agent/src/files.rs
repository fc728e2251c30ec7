//! Small files that are either the old or the new one, whatever happens in between.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::OFlags;

/// Opens a plain file in a directory where another account can put what it wants: no link is followed, and nothing that is
/// no file is waited for.
///
/// # Errors
/// When it cannot be opened, or is no plain file.
pub fn open_plain(path: &Path) -> io::Result<File> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits().cast_signed())
        .open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is no plain file"));
    }
    Ok(file)
}

/// Reads a text of at most `limit` bytes from such a file.
///
/// # Errors
/// As [`open_plain`]; when it cannot be read, or is no text.
pub fn read_plain(path: &Path, limit: u64) -> io::Result<String> {
    let mut text = String::new();
    open_plain(path)?.take(limit).read_to_string(&mut text)?;
    Ok(text)
}

/// Puts `bytes` in the place of `path` (mode 0600): written beside it, synced, renamed, directory synced.
///
/// # Errors
/// The first step that failed; the old file is then still there.
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temp = path.with_extension("tmp");
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temp)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&temp, path)?;
    let dir = path.parent().unwrap_or(Path::new("."));
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_plain_file_is_not_read() {
        let dir = crate::testing::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "text").unwrap();
        assert_eq!(read_plain(&file, 3).unwrap(), "tex");
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&file, &link).unwrap();
        let _ = read_plain(&link, 9).unwrap_err();
        let fifo = dir.path().join("fifo");
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        let kind = rustix::fs::FileType::Fifo;
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, kind, mode, 0).unwrap();
        let _ = read_plain(&fifo, 9).unwrap_err();
    }
}
