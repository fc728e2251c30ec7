//! A home for an agent, and what its commands say.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

/// How a command ended and what it said.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Done {
    pub(crate) fn of(output: Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self {
            code: output.status.code(),
            out: text(&output.stdout),
            err: text(&output.stderr),
        }
    }

    #[track_caller]
    pub(crate) fn ok(self) -> String {
        assert_eq!(self.code, Some(0), "{self:#?}");
        self.out
    }

    #[track_caller]
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:#?}"))
    }

    #[track_caller]
    pub(crate) fn fails(self, code: i32, part: &str) {
        assert_eq!(self.code, Some(code), "{self:#?}");
        assert!(self.err.contains(part), "`{part}` is not in {self:#?}");
    }
}

/// A directory for state and catalogue.
pub(crate) struct Home(pub(crate) TempDir);

impl Home {
    pub(crate) fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        // Whatever mask this account makes its directories with.
        mode(home.path(), 0o755);
        Self(home)
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.0.path().join("state")
    }

    pub(crate) fn catalogue(&self) -> PathBuf {
        self.0.path().join("catalogue.d")
    }

    /// A state directory as enrolment makes it, before it is enrolled.
    pub(crate) fn with_state(self, version: &str) -> Self {
        std::fs::create_dir(self.state()).unwrap();
        std::fs::write(self.state().join("version"), version).unwrap();
        mode(&self.state(), 0o711);
        self
    }

    pub(crate) fn with_catalogue(self, text: &str) -> Self {
        std::fs::create_dir(self.catalogue()).unwrap();
        mode(&self.catalogue(), 0o755);
        std::fs::write(self.file(), text).unwrap();
        mode(&self.file(), 0o644);
        self
    }

    pub(crate) fn file(&self) -> PathBuf {
        self.catalogue().join("site.toml")
    }

    pub(crate) fn agent(&self, args: &[&str]) -> Done {
        Done::of(self.command(args).output().unwrap())
    }

    /// The agent with this home, not yet started.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_outpost-agent"));
        command
            .env_clear()
            .env("OUTPOST_AGENT_STATE", self.state())
            .env("OUTPOST_AGENT_CATALOGUE", self.catalogue())
            .args(args);
        command
    }
}

pub(crate) fn mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

/// An entry that root and everybody else may have in a catalogue.
pub(crate) fn entry() -> String {
    format!("[entry.quick]\nargv = [\"/bin/true\"]\n{}\n", user())
}

/// The line that root needs in each entry.
pub(crate) fn user() -> &'static str {
    if rustix::process::geteuid().is_root() {
        "user = \"nobody\""
    } else {
        ""
    }
}
