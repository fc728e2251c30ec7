//! The audit mode's key log: a file that the runner opens and link appends the secrets of its connections to, so that
//! the site can read a packet capture of its own agent. Off unless asked for; said at the start and in `status`.
//!
//! Whoever reads the file can read what was said, so it is the agent's alone (mode 0600), and nobody else may be able to
//! put another in its place.

use std::fs::{File, OpenOptions, Permissions};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::OFlags;

use crate::output;

/// Why the mode cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// It could not be opened.
    #[error("the audit key log {path} cannot be opened for appending")]
    Open {
        /// Which.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// It would not be the agent's alone.
    #[error("the audit key log {path} is refused: {why}")]
    Refused {
        /// Which.
        path: PathBuf,
        /// What is wrong, and what to do.
        why: String,
    },
}

/// An open key log.
#[derive(Debug, Clone)]
pub struct Audit {
    path: PathBuf,
    file: Arc<File>,
}

impl Audit {
    /// Opens the file for appending, makes it if there is none, and says on standard error that the mode is on.
    ///
    /// # Errors
    /// When it cannot be opened, is no plain file, belongs to another account or is open to others, or when others
    /// could replace it.
    pub fn open(path: &Path) -> Result<Self, AuditError> {
        let refused = |why: String| AuditError::Refused {
            path: path.to_owned(),
            why,
        };
        let own = rustix::process::geteuid().as_raw();
        let dir = match path.parent() {
            Some(dir) if !dir.as_os_str().is_empty() => dir,
            Some(_) | None => Path::new("."),
        };
        crate::catalogue::check_path(dir, own).map_err(&refused)?;
        let open = |source| AuditError::Open {
            path: path.to_owned(),
            source,
        };
        let file = OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .custom_flags(
                (OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK)
                    .bits()
                    .cast_signed(),
            )
            .open(path)
            .map_err(open)?;
        let meta = file.metadata().map_err(open)?;
        if !meta.is_file() || meta.nlink() != 1 {
            return Err(refused("it must be a plain file with one name".to_owned()));
        }
        if meta.uid() != own {
            return Err(refused(format!(
                "it belongs to user {}, not to the agent's own account",
                meta.uid()
            )));
        }
        if meta.mode() & 0o077 != 0 {
            return Err(refused(format!(
                "others can open it (mode {:o}): chmod 600, or name a new file",
                meta.mode() & 0o7777
            )));
        }
        // Whatever the process' mask is.
        file.set_permissions(Permissions::from_mode(0o600))
            .map_err(open)?;
        output::note(format_args!(
            "AUDIT MODE: the TLS secrets of every connection are written to {}; whoever reads that file can read what \
             was said. Leave the mode and remove the file when the audit is over.",
            path.display()
        ));
        Ok(Self {
            path: path.to_owned(),
            file: Arc::new(file),
        })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl AsFd for Audit {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path, mode: u32) {
        std::fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn the_key_log_is_the_agents_alone() {
        let dir = crate::testing::tempdir().unwrap();
        let path = dir.path().join("keys");
        drop(Audit::open(&path).unwrap());
        assert_eq!(path.metadata().unwrap().mode() & 0o777, 0o600);
        std::fs::write(&path, "kept\n").unwrap();
        drop(Audit::open(&path).unwrap());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "kept\n");

        mode(&path, 0o640);
        let why = Audit::open(&path).unwrap_err().to_string();
        assert!(why.contains("others can open it (mode 640)"), "{why}");
        mode(&path, 0o600);
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(matches!(Audit::open(&link), Err(AuditError::Open { .. })));
        std::fs::hard_link(&path, dir.path().join("twin")).unwrap();
        assert!(matches!(
            Audit::open(&path),
            Err(AuditError::Refused { .. })
        ));
    }

    #[test]
    fn what_is_no_file_or_another_accounts_is_refused_and_never_waited_for() {
        let dir = crate::testing::tempdir().unwrap();
        let path = dir.path().join("pipe");
        let (kind, user) = (
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::from_raw_mode(0o600),
        );
        rustix::fs::mknodat(rustix::fs::CWD, &path, kind, user, 0).unwrap();
        let (tell, told) = std::sync::mpsc::channel();
        let pipe = path.clone();
        std::thread::spawn(move || tell.send(Audit::open(&pipe).is_err()));
        let patience = std::time::Duration::from_secs(60);
        assert!(told.recv_timeout(patience).expect("it must not wait"));
        // With somebody at its other end it can be opened.
        let _reader = OpenOptions::new()
            .read(true)
            .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
            .open(&path)
            .unwrap();
        let why = Audit::open(&path).unwrap_err().to_string();
        assert!(why.contains("a plain file"), "{why}");
        let theirs = dir.path().join("theirs");
        std::fs::write(&theirs, "").unwrap();
        mode(&theirs, 0o600);
        if std::os::unix::fs::chown(&theirs, Some(61_713), None).is_ok() {
            let why = Audit::open(&theirs).unwrap_err().to_string();
            assert!(why.contains("belongs to user 61713"), "{why}");
        }
    }

    #[test]
    fn a_directory_where_others_could_put_another_file_is_refused() {
        let dir = crate::testing::tempdir().unwrap();
        let open = dir.path().join("open");
        std::fs::create_dir(&open).unwrap();
        mode(&open, 0o777);
        let why = Audit::open(&open.join("keys")).unwrap_err().to_string();
        assert!(why.contains("can be written by others"), "{why}");
        assert!(!open.join("keys").exists());
    }
}
