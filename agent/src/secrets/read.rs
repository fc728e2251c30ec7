//! Fetching from what is at hand: a file, a variable, a systemd credential. Blocks as long as the file system does.

use std::ffi::OsString;
use std::fs::{File, Metadata, OpenOptions};
use std::io::Read as _;
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use super::Value;
use crate::catalogue::unchangeable;

/// Where systemd puts the credentials of a unit.
const CREDENTIALS: &str = "CREDENTIALS_DIRECTORY";

/// A file's content. Refused when others could change it: whoever can choose a task's secret can send it elsewhere.
pub(super) fn file(path: &Path) -> Result<Value, String> {
    let (mut file, _) = opened(path)?;
    Value::read(|into| file.read(into)).map_err(|error| told(&error))
}

/// The file, open, once it is known that others could not change it.
pub(super) fn opened(path: &Path) -> Result<(File, Metadata), String> {
    let own = rustix::process::geteuid().as_raw();
    unchangeable(path, own)?;
    let file = open(path).map_err(|error| error.to_string())?;
    let meta = file.metadata().map_err(|error| error.to_string())?;
    if !meta.is_file() {
        return Err("it is no file".to_owned());
    }
    // What was opened may be another than what was looked at.
    if others_can_change(&meta, own) {
        return Err("others can change it: chown and chmod go-w".to_owned());
    }
    Ok((file, meta))
}

fn others_can_change(meta: &Metadata, own: u32) -> bool {
    (meta.uid() != 0 && meta.uid() != own) || meta.mode() & 0o022 != 0
}

/// A pipe that nobody writes to must not hold anybody up.
fn open(path: &Path) -> std::io::Result<File> {
    OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path)
}

pub(super) fn env(name: &str) -> Result<Value, String> {
    let value = std::env::var_os(name);
    let value = value.ok_or_else(|| format!("the agent's environment has no variable {name}"))?;
    Ok(Value::new(value.into_vec()))
}

/// The directory of the unit's credentials, if it has some.
pub(super) fn credentials() -> Option<PathBuf> {
    credentials_in(std::env::var_os(CREDENTIALS)?)
}

fn credentials_in(dir: OsString) -> Option<PathBuf> {
    Some(PathBuf::from(dir)).filter(|dir| dir.is_absolute())
}

pub(super) fn credential(name: &str) -> Result<Value, String> {
    file(&credential_file(name)?)
}

/// Where the credential is.
pub(super) fn credential_file(name: &str) -> Result<PathBuf, String> {
    let dir = credentials().ok_or_else(|| {
        format!("${CREDENTIALS} is not set: the agent's unit needs LoadCredential={name}:…")
    })?;
    Ok(dir.join(name))
}

/// Whether everybody on this host can read it; a remark and no refusal, because some mounts cannot be otherwise.
pub(super) fn is_open(path: &Path) -> bool {
    path.metadata().is_ok_and(|meta| meta.mode() & 0o004 != 0)
}

fn told(error: &std::io::Error) -> String {
    if error.kind() == std::io::ErrorKind::FileTooLarge {
        "it is longer than 64 KiB".to_owned()
    } else {
        error.to_string()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn chmod(path: &Path, mode: u32) {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn a_file_that_others_could_change_is_refused() {
        let dir = crate::testing::tempdir().unwrap();
        let path = dir.path().join("value");
        std::fs::write(&path, "x\n").unwrap();
        chmod(&path, 0o600);
        assert_eq!(file(&path).unwrap().bytes(), b"x\n");
        assert!(!is_open(&path));
        chmod(&path, 0o644);
        assert!(is_open(&path));
        chmod(&path, 0o622);
        assert!(file(&path).unwrap_err().contains("written by others"));
        chmod(&path, 0o600);
        chmod(dir.path(), 0o777);
        assert!(file(&path).is_err(), "its directory can be changed");
    }

    #[test]
    fn what_was_opened_is_judged_whatever_the_path_led_to_before() {
        let path = tempfile::NamedTempFile::new().unwrap();
        let meta = || path.path().metadata().unwrap();
        let own = meta().uid();
        assert!(!others_can_change(&meta(), own));
        for mode in [0o620, 0o602] {
            chmod(path.path(), mode);
            assert!(others_can_change(&meta(), own), "{mode:o}");
        }
        chmod(path.path(), 0o600);
        // Root's own is as good as the agent's.
        assert_eq!(others_can_change(&meta(), own + 1), own != 0);
        if own == 0 {
            std::os::unix::fs::chown(path.path(), Some(61_713), None).unwrap();
            assert!(others_can_change(&meta(), own));
        }
    }

    /// A descriptor's link of a file that is gone reads as another file, which is what is looked at first.
    #[test]
    fn a_path_that_leads_elsewhere_when_it_is_opened_is_refused() {
        let dir = crate::testing::tempdir().unwrap();
        let path = dir.path().canonicalize().unwrap().join("value");
        std::fs::write(&path, "theirs").unwrap();
        chmod(&path, 0o606);
        let theirs = File::open(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let looked_at = dir.path().join("value (deleted)");
        std::fs::write(&looked_at, "own").unwrap();
        chmod(&looked_at, 0o600);
        let leads = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&theirs));
        let own = rustix::process::geteuid().as_raw();
        assert_eq!(unchangeable(Path::new(&leads), own), Ok(()));
        let why = file(Path::new(&leads)).unwrap_err();
        assert!(why.contains("others can change it"), "{why}");
    }

    #[test]
    fn credentials_are_where_an_absolute_path_says() {
        assert_eq!(credentials_in("/run/c".into()), Some("/run/c".into()));
        assert_eq!(credentials_in("run/c".into()), None);
        assert_eq!(credentials_in("".into()), None);
    }

    #[test]
    fn what_is_no_file_is_refused_at_once() {
        let dir = crate::testing::tempdir().unwrap();
        assert!(file(&dir.path().join("none")).is_err());
        assert!(file(dir.path()).is_err());
        let pipe = dir.path().join("pipe");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &pipe,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::from_raw_mode(0o600),
            0,
        )
        .unwrap();
        assert!(file(&pipe).unwrap_err().contains("no file"));
        let long = dir.path().join("long");
        std::fs::write(&long, vec![b'x'; 1 << 20]).unwrap();
        assert!(file(&long).unwrap_err().contains("64 KiB"));
    }

    #[test]
    fn a_variable_that_is_not_there_is_named() {
        let why = env("OUTPOST_TEST_NO_SUCH_VARIABLE").unwrap_err();
        assert!(why.contains("OUTPOST_TEST_NO_SUCH_VARIABLE"), "{why}");
    }
}
