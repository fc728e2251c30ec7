//! What the tests of the binary share: starting it, waiting for what it says, looking at the processes it has made.

#![expect(
    clippy::panic,
    reason = "helpers of tests panic: that is how tests fail"
)]

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// The binary, without anything of the environment that would change what it does.
pub(crate) fn outpost() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_outpost"));
    for name in [
        "OUTPOST_SERVER",
        "OUTPOST_TOKEN",
        "OUTPOST_TOKEN_FILE",
        "OUTPOST_CA",
        "OUTPOST_PROXY",
        "OUTPOST_CONTEXT",
        "NO_COLOR",
        "CLICOLOR_FORCE",
    ] {
        command.env_remove(name);
    }
    command
        .env("XDG_CONFIG_HOME", "/nonexistent/outpost-tests")
        .env("TZ", "UTC")
        .env("COLUMNS", "100")
        .env("LC_ALL", "C.UTF-8")
        .stdin(std::process::Stdio::null());
    command
}

/// Runs the binary to its end.
pub(crate) fn run(args: &[&str]) -> Output {
    outpost().args(args).output().unwrap()
}

/// A command that must end with this status, and say all of these on stderr and nothing on stdout.
#[track_caller]
pub(crate) fn refused(command: &mut Command, status: i32, parts: &[&str]) {
    let output = command.output().unwrap();
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(status), "{said}");
    for part in parts {
        assert!(said.contains(part), "{part:?} is not in: {said}");
    }
    assert!(output.stdout.is_empty(), "{}", text(&output.stdout));
}

/// What a program said.
pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Whether the condition came true in time.
pub(crate) fn wait_until(within: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let until = Instant::now() + within;
    while Instant::now() < until {
        if condition() {
            return true;
        }
        thread::sleep(Duration::from_millis(20));
    }
    condition()
}

/// A program that runs beside the test; killed when the test is over.
pub(crate) struct Running {
    child: Child,
    lines: Receiver<String>,
}

impl Running {
    /// Its stdout must be piped.
    pub(crate) fn start(command: &mut Command) -> Self {
        let mut child = command.spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = channel();
        thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        Self { child, lines }
    }

    /// Everything it says up to a line with this in it.
    pub(crate) fn until(&mut self, part: &str, within: Duration) -> String {
        let until = Instant::now() + within;
        let mut said = String::new();
        while !said.contains(part) {
            let left = until.saturating_duration_since(Instant::now());
            let line = self
                .lines
                .recv_timeout(left)
                .unwrap_or_else(|_| panic!("{part:?} was not said: {said}"));
            said.push_str(&line);
            said.push('\n');
        }
        said
    }

    /// What it said on stderr, which must be piped, after it has ended.
    pub(crate) fn errors(&mut self) -> String {
        let mut said = String::new();
        let mut stderr = self.child.stderr.take().unwrap();
        stderr.read_to_string(&mut said).unwrap();
        said
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// How it ended.
    pub(crate) fn ended(&mut self, within: Duration) -> ExitStatus {
        let ended = wait_until(within, || self.child.try_wait().unwrap().is_some());
        assert!(ended, "it did not end");
        self.child.wait().unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A directory of one demo, by which its processes are known.
pub(crate) struct Site {
    base: tempfile::TempDir,
}

impl Site {
    /// Tasks of another account can pass it. What is made in it can be written by nobody else, whatever the mask of the
    /// account that runs the tests.
    pub(crate) fn new() -> Self {
        rustix::process::umask(rustix::fs::Mode::WGRP | rustix::fs::Mode::WOTH);
        let base = tempfile::Builder::new()
            .prefix("outpost-test-")
            .tempdir_in("/tmp")
            .unwrap();
        std::fs::set_permissions(base.path(), std::fs::Permissions::from_mode(0o711)).unwrap();
        std::fs::create_dir(base.path().join("d")).unwrap();
        Self { base }
    }

    /// Where everything is.
    pub(crate) fn dir(&self) -> PathBuf {
        self.base.path().join("d")
    }

    /// Above it, for what is not `dev`'s or `demo`'s.
    pub(crate) fn base(&self) -> &Path {
        self.base.path()
    }

    /// Command lines of all processes that have to do with this directory: by argument or by environment.
    pub(crate) fn processes(&self) -> Vec<String> {
        self.pids()
            .iter()
            .map(|pid| format!("{pid}: {}", words(&proc(*pid, "cmdline"))))
            .collect()
    }

    fn pids(&self) -> Vec<u32> {
        let mark = self.base.path().display().to_string();
        let all = std::fs::read_dir("/proc").unwrap().flatten();
        let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        let ours = |pid: &u32| {
            let named = ["cmdline", "environ"]
                .iter()
                .any(|file| words(&proc(*pid, file)).contains(&mark));
            // A dead process whose parent has not asked for it is no process.
            let state = text(&proc(*pid, "stat"));
            let alive = state
                .rsplit_once(')')
                .is_some_and(|(_, rest)| !rest.trim_start().starts_with(['Z', 'X']));
            named && alive
        };
        pids.filter(|pid| *pid != std::process::id())
            .filter(ours)
            .collect()
    }

    /// As `ss -lntp` would show it: nothing of the agent listens on TCP, and all else of this site on loopback only.
    #[track_caller]
    pub(crate) fn assert_agent_listens_to_nobody(&self) {
        let listeners = listeners();
        let (mut agent, mut served) = (0, 0);
        for pid in self.pids() {
            let command = words(&proc(pid, "cmdline"));
            let held = sockets(pid);
            let open = listeners
                .iter()
                .filter(|(inode, _)| held.contains(inode))
                .collect::<Vec<_>>();
            if command.contains("agent-main") {
                agent += 1;
                assert!(open.is_empty(), "{command} listens on {open:?}");
            }
            for (_, address) in &open {
                served += 1;
                assert!(
                    address.starts_with("0100007F:"),
                    "{command} listens on {address}"
                );
            }
        }
        assert!(
            agent >= 3,
            "runner, link and spawner run: {:?}",
            self.processes()
        );
        assert_eq!(
            served, 2,
            "the orchestrator's two ports are found by the same look"
        );
    }
}

fn proc(pid: u32, file: &str) -> Vec<u8> {
    std::fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default()
}

fn words(bytes: &[u8]) -> String {
    text(bytes).replace('\0', " ")
}

/// Inodes and local addresses of listening TCP sockets.
fn listeners() -> Vec<(String, String)> {
    const LISTEN: &str = "0A";
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"]
        .map(|path| std::fs::read_to_string(path).unwrap_or_default());
    let rows = tables.iter().flat_map(|table| table.lines().skip(1));
    let row = |row: &str| {
        let fields = row.split_whitespace().collect::<Vec<_>>();
        (fields.get(3) == Some(&LISTEN)).then(|| (fields[9].to_owned(), fields[1].to_owned()))
    };
    rows.filter_map(row).collect()
}

/// Inodes of a process' sockets.
fn sockets(pid: u32) -> BTreeSet<String> {
    let links = std::fs::read_dir(Path::new("/proc").join(pid.to_string()).join("fd"));
    let links = links.into_iter().flatten().flatten();
    let inode = |target: PathBuf| {
        target
            .to_str()?
            .strip_prefix("socket:[")?
            .strip_suffix(']')
            .map(str::to_owned)
    };
    links
        .filter_map(|link| inode(std::fs::read_link(link.path()).ok()?))
        .collect()
}
