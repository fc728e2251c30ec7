//! A site's catalogue, as its owner would write it: TOML and shell scripts.
//!
//! Every script first appends a line to a file, so that starts are counted by what the task itself did.

use std::fmt::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

/// Whom tasks run as when the agent is root; they run as the agent's own account otherwise.
pub const TASK_USER: &str = "nobody";

/// One catalogue entry.
#[derive(Debug, Clone)]
pub struct Entry {
    name: String,
    program: Program,
    user: Option<String>,
    lines: String,
    arguments: Vec<String>,
}

#[derive(Debug, Clone)]
enum Program {
    Script(String),
    Argv(Vec<String>),
}

impl Entry {
    /// A shell script. `$shared` is a directory that all tasks of the test can write to; its file `starts` gets a line
    /// before anything else is done.
    #[must_use]
    pub fn script(name: &str, body: &str) -> Self {
        Self::new(name, Program::Script(body.to_owned()))
    }

    /// A program with its arguments.
    #[must_use]
    pub fn program(name: &str, argv: &[&str]) -> Self {
        let argv = argv.iter().map(|arg| (*arg).to_owned()).collect();
        Self::new(name, Program::Argv(argv))
    }

    fn new(name: &str, program: Program) -> Self {
        Self {
            name: name.to_owned(),
            program,
            user: is_root().then(|| TASK_USER.to_owned()),
            lines: String::new(),
            arguments: Vec::new(),
        }
    }

    /// Adds a line of TOML to the entry.
    #[must_use]
    pub fn with(mut self, line: &str) -> Self {
        let _ = writeln!(self.lines, "{line}");
        self
    }

    /// Adds an argument, in which `{param.NAME}` stands for a parameter.
    #[must_use]
    pub fn argument(mut self, argument: &str) -> Self {
        self.arguments.push(argument.to_owned());
        self
    }

    /// Adds a required parameter: the rest of the line is its TOML.
    #[must_use]
    pub fn param(self, name: &str, toml: &str) -> Self {
        self.with(&format!("param.{name} = {{ {toml} }}"))
    }

    /// Without an account of its own.
    #[must_use]
    pub fn without_user(mut self) -> Self {
        self.user = None;
        self
    }
}

/// Whether the harness, and so the agent, runs as root.
#[must_use]
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// The catalogue of one agent.
#[derive(Debug, Clone)]
pub struct Site {
    catalogue: PathBuf,
    shared: PathBuf,
}

impl Site {
    /// A catalogue in this directory, which is made, whose scripts know `shared`.
    ///
    /// # Panics
    /// When the directory cannot be made.
    #[must_use]
    pub fn new(catalogue: &Path, shared: &Path) -> Self {
        std::fs::create_dir_all(catalogue).expect("a directory below our own");
        mode(catalogue, 0o755);
        Self {
            catalogue: catalogue.to_owned(),
            shared: shared.to_owned(),
        }
    }

    /// The catalogue's directory.
    #[must_use]
    pub fn catalogue(&self) -> &Path {
        &self.catalogue
    }

    /// Writes the entries, in place of what there was.
    ///
    /// # Panics
    /// When a file cannot be written.
    pub fn write(&self, entries: &[Entry]) {
        let mut toml = String::new();
        for entry in entries {
            let argv = self.argv(entry);
            let _ = writeln!(toml, "[entry.{}]\nargv = {argv}", entry.name);
            if let Some(user) = &entry.user {
                let _ = writeln!(toml, "user = \"{user}\"");
            }
            let _ = writeln!(toml, "{}", entry.lines);
        }
        self.file("site.toml", &toml);
    }

    /// Writes one file of the catalogue.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.catalogue.join(name);
        std::fs::write(&path, text).expect("a file below our own directory");
        mode(&path, 0o644);
        path
    }

    fn argv(&self, entry: &Entry) -> String {
        let mut argv = match &entry.program {
            Program::Argv(argv) => argv.clone(),
            Program::Script(body) => {
                let name = format!("{}.sh", entry.name);
                self.file(
                    &name,
                    &format!(
                        "set -eu\nshared=$1\necho \"$OUTPOST_ATTEMPT $OUTPOST_TASK\" >> \"$shared/starts\"\n{body}\n"
                    ),
                );
                let shared = self.shared.to_string_lossy().into_owned();
                vec![
                    "/bin/sh".to_owned(),
                    format!("{{catalogue}}/{name}"),
                    shared,
                ]
            }
        };
        argv.extend(entry.arguments.iter().cloned());
        serde_json::to_string(&argv).expect("texts are JSON, and their JSON is TOML")
    }
}

/// Sets a file's mode.
///
/// # Panics
/// When it is not ours.
pub fn mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("our own file");
}
