//! Keeps the two daemons of `dev` and `demo` running, as an init system would, and leaves nothing behind.
//!
//! Every daemon gets the read end of a pipe whose only write end is here: when this process ends, however it ends,
//! they and all that they started do. An orderly end asks the daemons first, then lets go of the
//! pipe, and then waits until everybody who held it has ended.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use outpost_agent_keeper::exec::Leash;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open, pidfd_send_signal};
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::failure::Failure;

/// First pause before a daemon is started again; it doubles up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// A daemon that ran so long is well: the next pause is the first again.
const WELL: Duration = Duration::from_secs(10);
/// From SIGTERM to SIGKILL.
const GRACE: Duration = Duration::from_secs(5);
/// From letting go of the leash to SIGKILL.
const UNLEASHED: Duration = Duration::from_secs(5);

/// One of our two programs with its arguments.
pub(crate) struct Program {
    /// As it is called by people.
    pub(crate) name: &'static str,
    /// The hidden sub-command that is this program.
    pub(crate) main: &'static str,
    /// Asked for at each start: the second may know more than the first.
    pub(crate) args: Box<dyn Fn() -> Vec<OsString> + Send>,
    /// Its output is appended here.
    pub(crate) log: PathBuf,
}

/// Holds the leash and the daemons.
pub(crate) struct Supervisor {
    leash: Leash,
    hold: OwnedFd,
    stop: watch::Sender<bool>,
    daemons: JoinSet<()>,
    restarts: Arc<AtomicU32>,
}

impl Supervisor {
    /// Nothing runs yet.
    pub(crate) fn new() -> Result<Self, Failure> {
        let (leash, hold) =
            Leash::pair().map_err(|error| Failure::Internal(format!("no pipe: {error}")))?;
        let restarts = Arc::default();
        Ok(Self {
            leash,
            hold,
            stop: watch::channel(false).0,
            daemons: JoinSet::new(),
            restarts,
        })
    }

    /// How often a daemon had to be started again.
    pub(crate) fn restarts(&self) -> u32 {
        self.restarts.load(Ordering::Relaxed)
    }

    /// Runs a program to its end, with its output in its log. Dropping this kills it.
    pub(crate) async fn run(&self, program: &Program) -> Result<ExitStatus, Failure> {
        let failed = |error: io::Error| {
            Failure::Internal(format!("{} could not be run: {error}", program.name))
        };
        let mut child = spawn(program, None).map_err(failed)?;
        child.wait().await.map_err(failed)
    }

    /// Keeps a program running until [`Self::end`].
    pub(crate) fn keep(&mut self, program: Program) -> Result<(), Failure> {
        let leash = self
            .leash
            .try_clone()
            .map_err(|error| Failure::Internal(format!("no descriptor: {error}")))?;
        self.daemons.spawn(keep(
            program,
            leash,
            self.stop.subscribe(),
            Arc::clone(&self.restarts),
        ));
        Ok(())
    }

    /// Ends everything that was started here and everything that it started. Returns how many processes had to be
    /// killed at last.
    pub(crate) async fn end(mut self) -> usize {
        self.stop.send_replace(true);
        while self.daemons.join_next().await.is_some() {}
        let Some(pipe) = pipe_name(&self.leash) else {
            return 0;
        };
        // Known by descriptor before they are told: an ending process lets go of the leash before it has ended.
        let mut known = BTreeMap::new();
        find_holders(&pipe, &mut known);
        drop((self.leash, self.hold));
        let until = Instant::now() + UNLEASHED;
        loop {
            find_holders(&pipe, &mut known);
            known.retain(|_, process| !is_over(process));
            if known.is_empty() || Instant::now() > until {
                break;
            }
            sleep(Duration::from_millis(10)).await;
        }
        for process in known.values() {
            let _ = pidfd_send_signal(process, Signal::KILL);
        }
        known.len()
    }
}

async fn keep(
    program: Program,
    leash: Leash,
    mut stop: watch::Receiver<bool>,
    restarts: Arc<AtomicU32>,
) {
    let mut pause = FIRST_PAUSE;
    while !*stop.borrow() {
        let begun = Instant::now();
        let ended = match spawn(&program, Some(&leash)) {
            Ok(mut child) => {
                tokio::select! {
                    status = child.wait() => describe(status),
                    _ = stop.changed() => return terminate(child).await,
                }
            }
            Err(error) => format!("could not be started: {error}"),
        };
        if begun.elapsed() > WELL {
            pause = FIRST_PAUSE;
        }
        note(
            &program.log,
            &format!(
                "{} {ended}; starting it again in {} ms",
                program.name,
                pause.as_millis()
            ),
        );
        restarts.fetch_add(1, Ordering::Relaxed);
        tokio::select! {
            () = sleep(pause) => {}
            _ = stop.changed() => return,
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

fn spawn(program: &Program, leash: Option<&Leash>) -> io::Result<Child> {
    let log = open_log(&program.log)?;
    let mut command = std::process::Command::new("/proc/self/exe");
    command
        .arg0(format!("outpost-{}", program.name))
        .arg(program.main)
        .args((program.args)())
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        // Ctrl-C on the terminal is for this process alone, which then ends the others in order.
        .process_group(0);
    if let Some(leash) = leash {
        leash.pass(&mut command)?;
    }
    // What is not on the leash is held by hand.
    Command::from(command).kill_on_drop(leash.is_none()).spawn()
}

async fn terminate(mut child: Child) {
    let pid = child
        .id()
        .and_then(|id| i32::try_from(id).ok())
        .and_then(Pid::from_raw);
    if let Some(pid) = pid {
        let _ = kill_process(pid, Signal::TERM);
    }
    if timeout(GRACE, child.wait()).await.is_err() {
        let _ = child.kill().await;
    }
}

fn describe(status: io::Result<ExitStatus>) -> String {
    match status {
        Ok(status) => format!("ended ({status})"),
        Err(error) => format!("is out of sight: {error}"),
    }
}

fn open_log(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)
}

fn note(log: &Path, text: &str) {
    let _ = open_log(log).and_then(|mut log| writeln!(log, "{text}"));
}

/// As `/proc/PID/fd` shows the leash's pipe.
fn pipe_name(leash: &Leash) -> Option<PathBuf> {
    let stat = rustix::fs::fstat(leash).ok()?;
    Some(PathBuf::from(format!("pipe:[{}]", stat.st_ino)))
}

/// Adds the processes that hold the pipe, other than this one.
fn find_holders(pipe: &Path, known: &mut BTreeMap<i32, OwnedFd>) {
    let own = std::process::id().to_string();
    let Ok(processes) = std::fs::read_dir("/proc") else {
        return;
    };
    for entry in processes.flatten() {
        let name = entry.file_name();
        let number = name.to_str().filter(|name| *name != own);
        let Some(pid) = number.and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        if !known.contains_key(&pid)
            && holds(pid, pipe)
            && let Some(it) = Pid::from_raw(pid)
            && let Ok(process) = pidfd_open(it, PidfdFlags::empty())
        {
            known.insert(pid, process);
        }
    }
}

/// Whether the process has ended.
fn is_over(process: &OwnedFd) -> bool {
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    poll(&mut [PollFd::new(process, PollFlags::IN)], Some(&now)).is_ok_and(|ready| ready > 0)
}

fn holds(pid: i32, pipe: &Path) -> bool {
    let Ok(descriptors) = std::fs::read_dir(format!("/proc/{pid}/fd")) else {
        return false;
    };
    descriptors
        .flatten()
        .any(|entry| std::fs::read_link(entry.path()).is_ok_and(|target| target == pipe))
}
