//! What runner, spawner and keeper say to each other, as types.
//!
//! Each packet of a `SOCK_SEQPACKET` socket is one version byte and one JSON value ([`Packets`]). Unknown fields are
//! ignored and missing ones have defaults where that is safe, so that neighbours in version understand each other.
//! Nothing here performs an effect but `Packets`, which reads and writes whole packets and passes descriptors.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use crate::packets::{PacketError, Packets};
use crate::seal::SealSpec;
use crate::secrets::Secrets;

/// Version of packets and records that this build writes.
pub const PROTOCOL_VERSION: u8 = 4;

/// Oldest version that this build reads.
pub const OLDEST_READ: u8 = 1;

/// Newest version that this build reads: one more than it writes, so that a downgraded agent still finds its tasks.
pub const NEWEST_READ: u8 = PROTOCOL_VERSION + 1;

/// Longest packet in bytes, version byte included.
pub const MAX_PACKET_BYTES: usize = 256 * 1024;

/// Most keepers that one spawner holds at a time.
pub const MAX_KEEPERS: usize = 4096;

/// Longest human text in a message, in bytes. Texts stay at the site.
pub const MAX_TEXT_BYTES: usize = 512;

/// Everything a keeper needs to start and to own one task. It is never written to disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartSpec {
    /// The attempt's id: exactly 32 lower-case hex digits.
    pub attempt: String,
    /// The attempt's own directory, absolute, named by the attempt's id; made by the keeper if it is not there, and
    /// writable by nobody else. The keeper's files (`claim`, `log.N`, `keeper.sock`) are made in it with mode 0600.
    pub dir: PathBuf,
    /// What the attempt is, for people: kept beside its log.
    #[serde(default)]
    pub about: Option<About>,
    /// Program (absolute path) and arguments, passed verbatim.
    pub argv: Vec<String>,
    /// The complete environment.
    pub env: Vec<(String, String)>,
    /// Working directory; absolute. Entered as the task's user.
    pub cwd: PathBuf,
    /// Whether the keeper makes the working directory: mode 0700, the task's user's.
    #[serde(default)]
    pub make_cwd: bool,
    /// Whom the task runs as; `None`: as the agent itself.
    #[serde(default)]
    pub user: Option<UserIds>,
    /// From exec to the first TERM, in milliseconds of boot time.
    #[serde(default)]
    pub timeout_ms: Option<u64>,
    /// From TERM to KILL, in milliseconds.
    pub grace_ms: u64,
    /// Dead-man timer: the task is ended when the runner has not said `StillConnected` for so long.
    #[serde(default)]
    pub stop_after_ms: Option<u64>,
    /// Until when the task may be started: microseconds of `CLOCK_BOOTTIME`.
    pub lease_until_boot_us: u64,
    /// Most bytes of output kept, over all log files. Within the cap all is kept; beyond it the beginning (`log.0`)
    /// and the newest files stay, the middle goes, and one line at the end of `log.0` counts what is left out.
    pub log_max_bytes: u64,
    /// In how many files; at least 1.
    pub log_files: u32,
    /// How the log is encrypted, if it is. Only a keeper of version 4 or newer knows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seal: Option<SealSpec>,
    /// How the task's processes are held together.
    #[serde(default)]
    pub containment: Want,
    /// The task's umask.
    pub umask: u32,
    /// Whether setuid programs are without effect in the task.
    #[serde(default = "yes")]
    pub no_new_privs: bool,
    /// What is closed to a task that runs under the agent's own account. From version 4; a kernel without Landlock leaves
    /// all of it open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wall: Option<Wall>,
    /// What it is granted of the site's secrets: which ones. The values are in a descriptor beside the packet. From
    /// version 4.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secrets: Option<Secrets>,
}

fn yes() -> bool {
    true
}

/// What a task of the agent's own account cannot reach. Every path is absolute and has no link in it. Beside this, a task
/// behind a wall can neither trace nor signal what is outside of it, nor set limits or priorities there, as far as the
/// kernel can see to that.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wall {
    /// Directories in which it can do nothing: not read, not list, not make, not remove.
    pub closed: Vec<PathBuf>,
    /// Directories and files that it can read and execute, and not change. None of them lies in a closed one.
    #[serde(default)]
    pub read_only: Vec<PathBuf>,
    /// Directories in closed or kept ones that are open to it all the same.
    #[serde(default)]
    pub open: Vec<PathBuf>,
    /// Directories in which it can read and execute everything but what is closed, and change nothing but what is open; and
    /// such files.
    /// A keeper that does not know of them leaves what is beside the closed ones open.
    #[serde(default)]
    pub kept: Vec<PathBuf>,
    /// Whether it can make sockets by which it reaches services with a name on this host.
    #[serde(default)]
    pub unix_sockets: bool,
    /// Whether it reaches shared memory, semaphores, message queues and keys that the kernel keeps for the account. A keeper
    /// that does not know of this leaves them open.
    #[serde(default)]
    pub ipc: bool,
}

/// What an attempt is, in the words of whoever asked for it. Stays at the site.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    /// Its run.
    pub run: String,
    /// The workflow's name, as the orchestrator gave it.
    pub workflow: String,
    /// The task's name, as the orchestrator gave it.
    pub task: String,
    /// The catalogue entry.
    pub entry: String,
    /// Microseconds since 1970.
    pub begun_us: u64,
}

/// A user as the kernel knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserIds {
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// Supplementary groups, complete.
    pub groups: Vec<u32>,
}

/// Which containment a task shall have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Want {
    /// The strongest there is here: cgroup, pid namespace (as root only), subreaper.
    #[default]
    Auto,
    /// A delegated cgroup or nothing.
    Cgroup,
    /// A pid namespace or nothing; not as root also a user namespace, which hides owners and setuid bits.
    PidNamespace,
    /// A subreaper.
    Subreaper,
}

/// How a task's processes are held together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Containment {
    /// A leaf of a delegated cgroup v2 tree: the kernel ends the whole tree at once.
    Cgroup,
    /// A pid namespace: the whole tree ends with its init.
    PidNamespace,
    /// Orphans come to the keeper, which ends every descendant it finds until none is left.
    Subreaper,
}

/// What a runner says to the spawner.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToSpawner {
    /// Fork a keeper. Carries one descriptor: the socket end that becomes the keeper's first runner connection.
    Start(Box<StartSpec>),
    /// Say how you are.
    Status,
}

/// What the spawner answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FromSpawner {
    /// The keeper lives. Whether the task starts is said by the keeper.
    Started {
        /// Of this attempt.
        attempt: String,
        /// The keeper's process id.
        pid: u32,
        /// Its start time: clock ticks since boot.
        start_time: u64,
    },
    /// There is no keeper and will be none: nothing of the task runs.
    StartFailed {
        /// Of this attempt, as it was named.
        attempt: String,
        /// Why.
        failure: NotStarted,
        /// In words; stays at the site.
        text: String,
    },
    /// Answer to `Status`.
    Status {
        /// Version of the spawner's binary.
        version: String,
        /// Its process id.
        pid: u32,
        /// How many keepers it holds.
        keepers: u32,
        /// What `Want::Auto` means here.
        containment: Containment,
    },
}

/// What a runner says to a keeper.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToKeeper {
    /// End the task: TERM, grace, KILL. Answered by `Finished` when the whole tree is gone.
    Cancel,
    /// Pushes the dead-man timer.
    StillConnected,
    /// Say your state again.
    Query,
    /// The final state is safe with the runner: the keeper may end itself. Closing the connection means the same.
    Taken,
    /// Here is another attempt: begin it when the present one is over, its end told and nothing of it left. What the
    /// keeper says after the final state of one attempt is about the next. Understood from version 2 on; a keeper of that
    /// version ends the connection when its present attempt is not over.
    Next(Box<StartSpec>),
    /// Do not begin this attempt, which waits: answered by `GivenBack`, or by nothing if it does not wait. From version 3.
    GiveBack {
        /// Which.
        attempt: String,
    },
    /// As `Cancel` if this attempt is the present one, as `GiveBack` if it waits. From version 3.
    End {
        /// Which.
        attempt: String,
    },
}

/// A keeper's state. Said on connect, at each change and on `Query`; states in between may be skipped, and `Running` is
/// said only of a task that has lived for some milliseconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FromKeeper {
    /// Nothing of the task runs yet.
    Starting,
    /// This attempt, which waited, waits no more, and this keeper has begun nothing of it and never will. Says nothing of
    /// the present attempt.
    GivenBack {
        /// Which.
        attempt: String,
    },
    /// The task's program was executed.
    Running {
        /// The task's first process; in a pid namespace the namespace's init.
        pid: u32,
        /// Its start time: clock ticks since boot.
        start_time: u64,
    },
    /// Nothing of the task ever ran, and nothing will. Final.
    NotStarted {
        /// Why.
        why: NotStarted,
        /// In words; stays at the site.
        text: String,
    },
    /// The task is over and its whole tree is gone. Final.
    Finished(ExitRecord),
}

/// Why nothing of a task ever ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NotStarted {
    /// The lease was over at the last check before exec. No claim was made.
    LeaseOver,
    /// Somebody else made the claim: who did has reported the attempt.
    ClaimLost,
    /// The program does not exist.
    NotFound,
    /// The program is not executable, or the user may not.
    Permission,
    /// No process, memory, descriptors or disk left.
    Resources,
    /// Anything else, a spec that is not valid among it; the text says what.
    Other,
}

/// How a task's first process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ended {
    /// It exited with this code.
    Exited(u8),
    /// A signal ended it.
    Signalled(i32),
    /// It never ran. Only on disk; on the wire this is `FromKeeper::NotStarted`.
    NotStarted(NotStarted),
}

/// What brought the end about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// The task itself, or somebody on the host.
    Own,
    /// Its timeout.
    TimedOut,
    /// A runner's `Cancel`.
    Cancelled,
    /// The dead-man timer.
    DeadMan,
    /// The kernel, because memory ran out in the task's cgroup.
    Oom,
    /// The end of the process that holds the leash (development and demonstration only).
    Leash,
}

/// How an attempt ended: what the last line of its `claim` holds and `Finished` says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitRecord {
    /// Version of the record.
    pub version: u8,
    /// The attempt's id.
    pub attempt: String,
    /// Boot id of the kernel it ran under.
    pub boot_id: String,
    /// How the first process ended.
    pub ended: Ended,
    /// Why.
    pub cause: Cause,
    /// When it was started: microseconds of `CLOCK_BOOTTIME`; 0 when it never was.
    pub started_boot_us: u64,
    /// From start to the end of the whole tree, in milliseconds; 0 when it never ran.
    pub duration_ms: u64,
    /// Bytes of output received.
    pub log_bytes: u64,
    /// How many of them were not kept.
    pub log_dropped_bytes: u64,
    /// How its processes were held together; `None` when it never came to that.
    #[serde(default)]
    pub containment: Option<Containment>,
    /// Why it never ran, in words; empty otherwise.
    #[serde(default)]
    pub text: String,
}

/// What is wrong with a [`StartSpec`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// Only fixed-form ids reach the file system.
    #[error("the attempt id is not 32 lower-case hex digits")]
    Attempt,
    /// `argv` is empty or its program is not an absolute path.
    #[error("the program is not an absolute path: give argv[0] as one")]
    Program,
    /// `dir` or `cwd` is relative.
    #[error("`{0}` is not an absolute path")]
    Relative(&'static str),
    /// A NUL byte cannot be passed to a program.
    #[error("`{0}` contains a NUL byte")]
    Nul(&'static str),
    /// An environment name is empty or contains `=`.
    #[error("the environment has a name that is empty or contains `=`")]
    EnvName,
}

impl StartSpec {
    /// Checks what a keeper relies on.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn check(&self) -> Result<(), SpecError> {
        if !is_attempt_id(&self.attempt) {
            return Err(SpecError::Attempt);
        }
        if !self
            .argv
            .first()
            .is_some_and(|program| program.starts_with('/'))
        {
            return Err(SpecError::Program);
        }
        let walls = self.wall.iter().flat_map(|wall| {
            let paths = wall.closed.iter().chain(&wall.read_only);
            let paths = paths.chain(&wall.open).chain(&wall.kept);
            paths.map(|path| ("wall", path))
        });
        for (name, path) in [("dir", &self.dir), ("cwd", &self.cwd)]
            .into_iter()
            .chain(walls)
        {
            if !path.is_absolute() {
                return Err(SpecError::Relative(name));
            }
            if path.as_os_str().as_encoded_bytes().contains(&0) {
                return Err(SpecError::Nul(name));
            }
        }
        if self.argv.iter().any(|argument| argument.contains('\0')) {
            return Err(SpecError::Nul("argv"));
        }
        if self
            .env
            .iter()
            .any(|(name, value)| name.contains('\0') || value.contains('\0'))
        {
            return Err(SpecError::Nul("env"));
        }
        if self
            .env
            .iter()
            .any(|(name, _)| name.is_empty() || name.contains('='))
        {
            return Err(SpecError::EnvName);
        }
        Ok(())
    }
}

/// Whether `text` is an attempt id: 32 lower-case hex digits.
#[must_use]
pub fn is_attempt_id(text: &str) -> bool {
    text.len() == 32 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// Cuts a text for people to [`MAX_TEXT_BYTES`], at a character's border.
pub(crate) fn cut(mut text: String) -> String {
    let mut end = text.len().min(MAX_TEXT_BYTES);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
    text
}
