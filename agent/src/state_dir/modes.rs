//! Who may read the agent's own files, looked at again and again: a task that runs under the agent's account can open none
//! of them, but Landlock has no rules about modes, so that it could let other accounts in, or lock the agent out.
//!
//! The runner looks when it starts and every few seconds, puts modes back and says so; `check` only says so. Files of
//! attempts and runs are not looked at: nobody gets to them but through a directory that is. What of an attempt is closed
//! to the agent itself is opened when it is needed.

use std::collections::BTreeMap;
use std::fs::Permissions;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::StateDir;

/// Between two looks.
const EVERY: Duration = Duration::from_secs(4);
/// What others may never do with a file or a directory, and with one that tasks of other accounts pass through.
const OTHERS: u32 = 0o077;
const OTHERS_PASS: u32 = 0o066;
/// What the agent itself needs.
const OWN_DIR: u32 = 0o700;
const OWN_FILE: u32 = 0o600;

/// Something whose mode is not what it must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wrong {
    path: PathBuf,
    is: u32,
    wanted: u32,
}

impl Wrong {
    /// In words.
    pub(crate) fn says(&self) -> String {
        let path = self.path.display();
        let whom = if self.is & OTHERS & !self.wanted == 0 {
            "is closed to the agent itself"
        } else {
            "is open to others"
        };
        format!(
            "{path} {whom} (mode {:o}, must be {:o})",
            self.is, self.wanted
        )
    }

    fn mend(&self) -> std::io::Result<()> {
        std::fs::set_permissions(&self.path, Permissions::from_mode(self.wanted))
    }
}

/// What is wrong in the state directory now.
pub(crate) fn look(state: &StateDir) -> Vec<Wrong> {
    let dirs = [
        (state.path().to_owned(), OTHERS_PASS),
        (state.works(), OTHERS_PASS),
        (state.runs(), OTHERS_PASS),
        (state.keys(), OTHERS),
        (state.ledger(), OTHERS),
        (state.attempts(), OTHERS),
        (state.trash(), OTHERS),
        (state.lists(), OTHERS),
    ];
    let mut wrong = Vec::new();
    for (dir, never) in dirs {
        wrong.extend(at(&dir, |mode| (mode & !never) | OWN_DIR));
    }
    for dir in [state.path(), &state.keys()] {
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| !kind.is_dir()) {
                wrong.extend(at(&entry.path(), |mode| (mode & !OTHERS) | OWN_FILE));
            }
        }
    }
    wrong
}

/// Gives the agent back what it needs of an attempt's directory, in which something is to be found now.
pub(crate) fn reopen(attempt: &Path) {
    let mend = |wrong: Option<Wrong>| {
        let Some(wrong) = wrong else { return };
        let says = wrong.says();
        match wrong.mend() {
            Ok(()) => tracing::error!("{says}: put back; a task of the agent's account did this"),
            Err(error) => tracing::error!("{says}: it cannot be put back: {error}"),
        }
    };
    mend(at(attempt, |mode| mode | OWN_DIR));
    for entry in std::fs::read_dir(attempt).into_iter().flatten().flatten() {
        mend(at(&entry.path(), |mode| mode | OWN_FILE));
    }
}

/// `None` for what is as it must be, not there, or a link.
fn at(path: &Path, wanted: impl Fn(u32) -> u32) -> Option<Wrong> {
    let meta = path.symlink_metadata().ok()?;
    let is = meta.mode() & 0o7777;
    let wanted = wanted(is);
    (!meta.is_symlink() && is != wanted).then(|| Wrong {
        path: path.to_owned(),
        is,
        wanted,
    })
}

/// The modes of files that hold secrets' values, as they were when they were first seen: the site chose them.
#[derive(Debug, Default)]
struct Chosen(BTreeMap<PathBuf, u32>);

impl Chosen {
    /// What is more open than it was, or more closed to the agent.
    fn look(&mut self, files: Vec<PathBuf>) -> Vec<Wrong> {
        self.0.retain(|path, _| files.contains(path));
        let mut wrong = Vec::new();
        for path in files {
            let Ok(meta) = path.symlink_metadata() else {
                continue;
            };
            let own = meta.uid() == rustix::process::geteuid().as_raw();
            let chosen = *self.0.entry(path.clone()).or_insert(meta.mode() & 0o7777);
            if own {
                wrong.extend(at(&path, |mode| (mode & chosen) | (chosen & 0o700)));
            }
        }
        wrong
    }
}

/// Puts modes back, now and as long as this process lives. `private`: files that hold values; `alarm` hears what was
/// wrong.
pub(crate) async fn keep(
    state: StateDir,
    private: impl Fn() -> Vec<PathBuf>,
    alarm: impl Fn(&str),
) {
    let mut chosen = Chosen::default();
    let mut hopeless = Vec::new();
    loop {
        let mut wrong = look(&state);
        wrong.extend(chosen.look(private()));
        // What cannot be mended is said once.
        hopeless.retain(|known| wrong.contains(known));
        wrong.retain(|wrong| !hopeless.contains(wrong));
        for wrong in wrong {
            let says = wrong.says();
            match wrong.mend() {
                Ok(()) => {
                    tracing::error!(
                        "{says}: put back; whoever did this runs under the agent's account, and others may have read it"
                    );
                    alarm(&says);
                }
                Err(error) => {
                    tracing::error!("{says}: it cannot be put back: {error}; change it with chmod");
                    alarm(&says);
                    hopeless.push(wrong);
                }
            }
        }
        tokio::time::sleep(EVERY).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chmod(path: &Path, mode: u32) {
        std::fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    fn mode(path: &Path) -> u32 {
        path.metadata().unwrap().mode() & 0o7777
    }

    #[test]
    fn what_was_opened_or_closed_is_named_and_put_back() {
        let dir = crate::testing::tempdir().unwrap();
        let state = StateDir::create(dir.path()).unwrap();
        let key = state.keys().join("agent.key");
        crate::files::replace(&key, b"key").unwrap();
        assert_eq!(look(&state), []);
        for made_later in [state.trash(), state.lists()] {
            std::fs::create_dir(&made_later).unwrap();
            chmod(&made_later, 0o700);
        }
        for (path, opened, right) in [
            (state.path().to_owned(), 0o755, 0o711),
            (state.keys(), 0o755, 0o700),
            (key, 0o644, 0o600),
            (state.ledger(), 0o000, 0o700),
            (state.path().join("version"), 0o640, 0o600),
            (state.works(), 0o755, 0o711),
            (state.runs(), 0o733, 0o711),
            (state.attempts(), 0o750, 0o700),
            (state.trash(), 0o711, 0o700),
            (state.lists(), 0o701, 0o700),
        ] {
            chmod(&path, opened);
            let wrong = look(&state);
            let [wrong] = wrong.as_slice() else {
                panic!("{path:?}: {wrong:?}");
            };
            let says = wrong.says();
            assert!(says.starts_with(path.to_str().unwrap()), "{says}");
            assert_eq!(says.contains("to others"), opened != 0, "{says}");
            wrong.mend().unwrap();
            assert_eq!(mode(&path), right);
        }
        assert_eq!(look(&state), []);
        // Where a link leads is for whoever made it to say.
        let outside = tempfile::NamedTempFile::new().unwrap();
        chmod(outside.path(), 0o644);
        std::os::unix::fs::symlink(outside.path(), state.path().join("link")).unwrap();
        assert_eq!(look(&state), []);
    }

    #[test]
    fn what_the_agent_needs_of_an_attempt_is_opened_again_and_no_link_is_followed() {
        let dir = crate::testing::tempdir().unwrap();
        let (attempt, other) = (dir.path().join("attempt"), dir.path().join("other"));
        std::fs::create_dir(&attempt).unwrap();
        let claim = attempt.join("claim");
        for file in [&claim, &other] {
            std::fs::write(file, "").unwrap();
            chmod(file, 0);
        }
        std::os::unix::fs::symlink(&other, attempt.join("link")).unwrap();
        chmod(&attempt, 0o300);
        reopen(&attempt);
        assert_eq!(mode(&attempt), 0o700);
        assert_eq!((mode(&claim), mode(&other)), (0o600, 0));
        reopen(&dir.path().join("never"));
    }

    #[test]
    fn files_with_values_are_looked_at_again_and_again() {
        let dir = crate::testing::tempdir().unwrap();
        let state = StateDir::create(&dir.path().join("state")).unwrap();
        let value = dir.path().join("value");
        std::fs::write(&value, "x").unwrap();
        chmod(&value, 0o600);
        let told = std::cell::RefCell::new(Vec::new());
        let private = || vec![value.clone()];
        let alarm = |says: &str| told.borrow_mut().push(says.to_owned());
        let changed = async {
            // Seen as the site chose it.
            chmod(&value, 0o644);
            while mode(&value) != 0o600 || told.borrow().is_empty() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
        let ended = runtime.block_on(async {
            tokio::select! {
                biased;
                () = keep(state, private, alarm) => false,
                ended = tokio::time::timeout(EVERY * 10, changed) => ended.is_ok(),
            }
        });
        assert!(ended, "{told:?}");
        assert!(told.borrow()[0].contains("value is open to others"));
    }

    #[test]
    fn a_secrets_file_stays_as_the_site_chose() {
        let dir = crate::testing::tempdir().unwrap();
        let path = dir.path().join("value");
        std::fs::write(&path, "x").unwrap();
        chmod(&path, 0o640);
        let mut chosen = Chosen::default();
        let mut look = || chosen.look(vec![path.clone(), dir.path().join("none")]);
        assert_eq!(look(), []);
        chmod(&path, 0o644);
        let wrong = look();
        assert_eq!(wrong.len(), 1);
        wrong[0].mend().unwrap();
        assert_eq!(mode(&path), 0o640);
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::chown(&path, Some(61_713), None).unwrap();
            chmod(&path, 0o666);
            assert_eq!(look(), [], "its owner's affair");
            std::os::unix::fs::chown(&path, Some(0), None).unwrap();
            chmod(&path, 0o640);
        }
        // Stricter than before is no harm, as long as the agent can read it.
        chmod(&path, 0o600);
        assert_eq!(look(), []);
    }
}
