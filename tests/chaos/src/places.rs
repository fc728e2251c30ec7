//! Named places in the code at which a process can be made to hold or die, from outside.

use std::path::{Path, PathBuf};

use outpost_e2e::{eventually, site};
use outpost_failpoint::VARIABLE;
use serde_json::Value;

/// The directory of wishes that all processes under test look into.
#[derive(Debug)]
pub struct Places {
    dir: PathBuf,
}

impl Places {
    /// A directory at this path, which is made.
    ///
    /// # Panics
    /// When it cannot be made.
    #[must_use]
    pub fn at(dir: &Path) -> Self {
        std::fs::create_dir_all(dir).expect("a directory of our own");
        site::mode(dir, 0o777);
        Self {
            dir: dir.to_owned(),
        }
    }

    /// What processes must find in their environment.
    #[must_use]
    pub fn environment(&self) -> [(&'static str, String); 1] {
        [(VARIABLE, self.dir.to_string_lossy().into_owned())]
    }

    /// The first process that comes by dies.
    ///
    /// # Panics
    /// When the wish cannot be written.
    pub fn kill_once(&self, place: &str) {
        self.wish(place, "once");
    }

    /// Whoever comes by waits until it may go on.
    ///
    /// # Panics
    /// When the wish cannot be written.
    pub fn pause(&self, place: &str) {
        self.wish(place, "pause");
    }

    /// Takes a wish away; who waits goes on.
    pub fn go_on(&self, place: &str) {
        let _ = std::fs::remove_file(self.dir.join(place));
    }

    fn wish(&self, place: &str, what: &str) {
        let _ = std::fs::remove_file(self.reached(place));
        let draft = self.dir.join("draft");
        std::fs::write(&draft, what).expect("our own directory");
        // Who comes by has an account of its own, and writes its id into it.
        site::mode(&draft, 0o666);
        std::fs::rename(draft, self.dir.join(place)).expect("our own directory");
    }

    fn reached(&self, place: &str) -> PathBuf {
        self.dir.join(place).with_extension("reached")
    }

    /// Waits until somebody was there; its process id.
    ///
    /// # Panics
    /// When nobody comes by in time: the binaries may be no test build.
    #[track_caller]
    pub fn wait(&self, place: &str) -> i32 {
        let what = format!(
            "somebody came to {place} (with binaries of `cargo build --workspace --bins`; others have no such places)"
        );
        eventually(&what, || self.came(place))
    }

    /// The process that came by, if one did.
    #[must_use]
    pub fn came(&self, place: &str) -> Option<i32> {
        let text = std::fs::read_to_string(self.reached(place)).ok()?;
        let pid = serde_json::from_str::<Value>(&text).ok()?.as_i64()?;
        i32::try_from(pid).ok()
    }
}

impl Drop for Places {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}
