//! Starting processes so that none of them outlives the harness, and running commands to their end.

use std::fs::File;
use std::io::{ErrorKind, Read as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::io::{FdFlags, fcntl_setfd};
use rustix::pipe::PipeFlags;

/// How long a command may take: some look at everything that a process holds in memory.
const LONGEST: Duration = Duration::from_secs(300);

/// A pipe whose write end only the harness has: when it is closed, by its drop or by the harness's death,
/// everything that was given its read end ends itself.
#[derive(Debug)]
pub struct Leash {
    read: OwnedFd,
    _write: OwnedFd,
}

impl Leash {
    /// A new leash.
    ///
    /// # Panics
    /// When no descriptors are left.
    #[must_use]
    pub fn new() -> Self {
        let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).expect("a pipe");
        // Every child of the harness inherits the read end. That holds nothing open: only write ends do.
        fcntl_setfd(&read, FdFlags::empty()).expect("an open descriptor");
        Self {
            read,
            _write: write,
        }
    }

    /// Adds `--leash-fd N`.
    pub fn pass(&self, command: &mut Command) {
        command
            .arg("--leash-fd")
            .arg(self.read.as_raw_fd().to_string());
    }
}

impl Default for Leash {
    fn default() -> Self {
        Self::new()
    }
}

/// A command with nothing of the harness's environment that could change what it does.
#[must_use]
pub fn command(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.env_clear();
    command.env("PATH", "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin");
    if let Some(filter) = std::env::var_os("OUTPOST_LOG") {
        command.env("OUTPOST_LOG", filter);
    }
    command.stdin(Stdio::null());
    command
}

/// Starts a daemon in a process group of its own, with both its streams appended to `log`.
///
/// # Panics
/// When it cannot be started.
#[must_use]
pub fn daemon(mut command: Command, log: &Path) -> Child {
    let open = || File::options().create(true).append(true).open(log);
    let log = open().expect("a log file can be made");
    command
        .stdout(log.try_clone().expect("a descriptor"))
        .stderr(log);
    command.process_group(0);
    spawn(&mut command)
}

/// Starts a command. A program that a test wrote just now is busy for a moment, when another test's thread forked in the
/// middle of that: its child holds the descriptor until it executes something else.
fn spawn(command: &mut Command) -> Child {
    loop {
        match command.spawn() {
            Err(error) if error.kind() == ErrorKind::ExecutableFileBusy => {
                std::thread::sleep(Duration::from_millis(5));
            }
            spawned => return spawned.expect("the binary can be started"),
        }
    }
}

/// How a command ended and what it said.
#[derive(Debug, Clone)]
pub struct Done {
    /// Its exit status; `None` when a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Done {
    /// The output of a command that succeeded.
    ///
    /// # Panics
    /// When it did not.
    #[track_caller]
    #[must_use]
    pub fn ok(self) -> String {
        assert_eq!(self.code, Some(0), "it was to succeed: {self:#?}");
        self.out
    }

    /// The error text of a command that ended with this status.
    ///
    /// # Panics
    /// When it ended otherwise.
    #[track_caller]
    #[must_use]
    pub fn fails_with(self, code: i32) -> String {
        assert_eq!(
            self.code,
            Some(code),
            "it was to end with {code}: {self:#?}"
        );
        self.err
    }
}

/// Runs a command to its end.
///
/// # Panics
/// When it cannot be started, or takes longer than five minutes.
#[track_caller]
#[must_use]
pub fn run(mut command: Command) -> Done {
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = spawn(&mut command);
    let (mut stdout, mut stderr) = (
        child.stdout.take().expect("piped"),
        child.stderr.take().expect("piped"),
    );
    let errors = std::thread::spawn(move || {
        let mut text = Vec::new();
        let _ = stderr.read_to_end(&mut text);
        text
    });
    let output = std::thread::spawn(move || {
        let mut text = Vec::new();
        let _ = stdout.read_to_end(&mut text);
        text
    });
    let code = wait(&mut child, LONGEST).unwrap_or_else(|| {
        let _ = child.kill();
        panic!("{command:?} took longer than {LONGEST:?}");
    });
    let text = |thread: std::thread::JoinHandle<Vec<u8>>| {
        String::from_utf8_lossy(&thread.join().expect("reading does not panic")).into_owned()
    };
    Done {
        code,
        out: text(output),
        err: text(errors),
    }
}

/// Waits for a child; its status, or `None` when it still runs after `limit`.
pub fn wait(child: &mut Child, limit: Duration) -> Option<Option<i32>> {
    let until = Instant::now() + limit;
    loop {
        if let Ok(Some(status)) = child.try_wait() {
            return Some(status.code());
        }
        if Instant::now() > until {
            return None;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}
