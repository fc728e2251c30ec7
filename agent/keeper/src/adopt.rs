//! The runner's side: finding or starting the spawner, starting and adopting keepers, and what to do when one is dead.
//!
//! Everything here blocks unless [`SpawnerClient::set_nonblocking`] or [`KeeperClient::set_nonblocking`] was called; the
//! clients expose their descriptors, so that an async runner can wait for readiness and then call `recv`.
//!
//! When a keeper's connection ends before a final state was said, look in this order: [`read_exit_record`], then
//! [`keeper_state`]; if the keeper is dead, [`try_claim`] (`Won`: nothing ever ran) and otherwise [`end_tree`].

use std::cell::Cell;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};

use crate::containment::Remains;
use crate::door::Token;
use crate::exec::{Leash, SelfExec};
use crate::packets::{PacketError, Packets};
use crate::process;
use crate::protocol::{FromKeeper, FromSpawner, StartSpec, ToKeeper, ToSpawner};
use crate::{claim, keeper, record, secrets, spawner};

pub use crate::record::{KeeperRecord, RecordError, read_exit_record, read_keeper_record};

/// How often a spawner is tried to be started: one may be ending while it is connected to.
const STARTS: u32 = 5;
/// How long a spawner may take to say which version it is.
const ANSWERS: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 200_000_000,
};
/// Keepers from this version on make the attempt's and the working directory themselves.
const MAKES_DIRECTORIES: u8 = 2;
/// Keepers from this version on let attempts wait for their present one.
const TAKES_AHEAD: u8 = 3;
/// Spawners and keepers from this version on hand secrets over; older ones would start the task without them.
const HANDS_SECRETS: u8 = 4;
/// Keepers from this version on encrypt a log that shall be; older ones would write it as it is.
const SEALS: u8 = 4;
/// How long `end_tree` tries.
const END_TREE: Duration = Duration::from_secs(5);
/// Time between two rounds of it.
const KILL_AGAIN: Duration = Duration::from_millis(10);

/// Why there is no connection to a spawner.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// It could not be started.
    #[error("the spawner cannot be executed")]
    Exec(#[source] io::Error),
    /// It was started and said why it does not serve.
    #[error("the spawner does not start: {0}")]
    Refused(String),
    /// It serves and cannot be reached.
    #[error("the spawner in `{}` cannot be reached", dir.display())]
    Unreachable {
        /// The state directory.
        dir: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// A connection to the spawner.
#[derive(Debug)]
pub struct SpawnerClient {
    packets: Packets,
    /// Version of the protocol that the spawner and its keepers write, once it has said anything: they may be of the
    /// build before an upgrade.
    version: Cell<Option<u8>>,
}

impl SpawnerClient {
    /// Connects to the spawner of a state directory; starts one if there is none, which takes some milliseconds.
    ///
    /// # Errors
    /// When none can be started or reached.
    pub fn connect_or_start(
        state_dir: &Path,
        exec: &SelfExec,
        leash: Option<&Leash>,
    ) -> Result<Self, ConnectError> {
        let mut last = None;
        for _ in 0..STARTS {
            match Self::connect(state_dir).and_then(Self::greeted) {
                Ok(client) => return Ok(client),
                Err(error) => last = Some(error),
            }
            start_spawner(state_dir, exec, leash)?;
        }
        let source = last.unwrap_or_else(|| io::Error::from(io::ErrorKind::NotConnected));
        let connected = Self::connect(state_dir).and_then(Self::greeted);
        connected.map_err(|_| ConnectError::Unreachable {
            dir: state_dir.to_owned(),
            source,
        })
    }

    /// Connects to a living spawner.
    ///
    /// # Errors
    /// When there is none, or it belongs to another user.
    pub fn connect(state_dir: &Path) -> io::Result<Self> {
        let packets = crate::socket::connect(state_dir, spawner::SOCKET)?;
        Token::show(state_dir, &packets)?;
        Ok(Self {
            packets,
            version: Cell::new(None),
        })
    }

    /// Finds out which version the spawner writes. One that does not answer at once (it may be stopped) counts as of any
    /// version until its answer comes, before the others.
    fn greeted(self) -> io::Result<Self> {
        self.ask_status().map_err(io::Error::other)?;
        let mut fds = [PollFd::new(&self.packets, PollFlags::IN)];
        if rustix::event::poll(&mut fds, Some(&ANSWERS))? == 0 {
            return Ok(self);
        }
        let answer = self.packets.recv_of_version::<FromSpawner>();
        let (version, _, _) = answer
            .map_err(io::Error::other)?
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        self.version.set(Some(version));
        Ok(self)
    }

    /// Asks for a keeper. The spawner answers `Started` or `StartFailed` through [`Self::recv`]; the keeper itself
    /// speaks through the returned connection, from `Starting` on. After `StartFailed` that connection is at its end.
    ///
    /// # Errors
    /// When the spawner is gone or does not read; nothing was started then.
    pub fn start(&self, spec: Box<StartSpec>) -> Result<KeeperClient, PacketError> {
        // Keepers that make them themselves take those that are there.
        if self.version.get() < Some(MAKES_DIRECTORIES) {
            keeper::make_directories(&spec).map_err(PacketError::Io)?;
        }
        let (own, keepers) = Packets::pair().map_err(PacketError::Io)?;
        let secrets = secrets::beside(&spec).map(|fd| fd.try_clone_to_owned());
        let secrets = secrets.transpose().map_err(PacketError::Io)?;
        let fds = [Some(keepers.as_fd()), secrets.as_ref().map(AsFd::as_fd)];
        let fds = fds.into_iter().flatten().collect::<Vec<_>>();
        self.packets.send(&ToSpawner::Start(spec), &fds)?;
        Ok(KeeperClient {
            packets: own,
            version: self.version.clone(),
        })
    }

    /// Whether attempts with secrets may be asked for: one of an older build would start them without.
    #[must_use]
    pub fn hands_secrets(&self) -> bool {
        self.version.get() >= Some(HANDS_SECRETS)
    }

    /// Whether its keepers encrypt logs: one that has not said its version yet may not.
    #[must_use]
    pub fn seals(&self) -> bool {
        self.version.get() >= Some(SEALS)
    }

    /// Asks for a `Status`.
    ///
    /// # Errors
    /// When the spawner is gone or does not read.
    pub fn ask_status(&self) -> Result<(), PacketError> {
        self.packets.send(&ToSpawner::Status, &[])
    }

    /// The next answer; `None` when the spawner is gone.
    ///
    /// # Errors
    /// `WouldBlock` when non-blocking and there is none; otherwise the connection is to be closed.
    pub fn recv(&self) -> Result<Option<FromSpawner>, PacketError> {
        let received = self.packets.recv_of_version()?;
        Ok(received.map(|(version, message, _)| {
            self.version.set(Some(version));
            message
        }))
    }

    /// Switches between blocking and non-blocking.
    ///
    /// # Errors
    /// When the system refuses, which it does not for a live socket.
    pub fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()> {
        self.packets.set_nonblocking(nonblocking)
    }
}

fn start_spawner(
    state_dir: &Path,
    exec: &SelfExec,
    leash: Option<&Leash>,
) -> Result<(), ConnectError> {
    let mut command = exec.command("spawner");
    command.arg("--state").arg(state_dir);
    if let Some(leash) = leash {
        leash.pass(&mut command).map_err(ConnectError::Exec)?;
    }
    // It puts its own session and log in place before this call returns.
    let output = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .output();
    let output = output.map_err(ConnectError::Exec)?;
    if output.status.success() {
        return Ok(());
    }
    Err(ConnectError::Refused(
        String::from_utf8_lossy(&output.stderr).trim().to_owned(),
    ))
}

/// [`ToKeeper::Next`] without a copy of the spec.
#[derive(serde::Serialize)]
#[serde(rename_all = "snake_case")]
enum NextRef<'a> {
    Next(&'a StartSpec),
}

/// A connection to one keeper.
#[derive(Debug)]
pub struct KeeperClient {
    packets: Packets,
    /// Version of the protocol that it writes, as far as is known before its first word.
    version: Cell<Option<u8>>,
}

impl KeeperClient {
    /// Connects to the living keeper of an attempt's directory; it says its present state at once.
    ///
    /// # Errors
    /// When there is none: see [`keeper_state`].
    pub fn connect(dir: &Path) -> io::Result<Self> {
        let packets = crate::socket::connect(dir, record::SOCKET)?;
        // The directories of attempts lie together in the state directory.
        if let Some(state) = dir.parent().and_then(Path::parent) {
            Token::show(state, &packets)?;
        }
        Ok(Self {
            packets,
            version: Cell::new(None),
        })
    }

    /// Whether attempts may wait at this keeper, and are told apart in what is said to it.
    #[must_use]
    pub fn takes_ahead(&self) -> bool {
        self.version.get() >= Some(TAKES_AHEAD)
    }

    /// Whether attempts with secrets may be given to it.
    #[must_use]
    pub fn hands_secrets(&self) -> bool {
        self.version.get() >= Some(HANDS_SECRETS)
    }

    /// Whether it encrypts logs.
    #[must_use]
    pub fn seals(&self) -> bool {
        self.version.get() >= Some(SEALS)
    }

    /// Gives another attempt to a keeper: one whose final state was received with a record of version 2 or newer, or any
    /// one that [`Self::takes_ahead`].
    ///
    /// # Errors
    /// When the keeper is gone or does not read; it does not have it then.
    pub fn next(&self, spec: &StartSpec) -> Result<(), PacketError> {
        let secrets = secrets::beside(spec);
        self.packets.send(&NextRef::Next(spec), secrets.as_slice())
    }

    /// Says something to the keeper.
    ///
    /// # Errors
    /// When it is gone or does not read.
    pub fn send(&self, message: ToKeeper) -> Result<(), PacketError> {
        self.packets.send(&message, &[])
    }

    /// The keeper's next state; `None` when it is gone.
    ///
    /// # Errors
    /// `WouldBlock` when non-blocking and there is nothing new; otherwise the connection is to be closed.
    pub fn recv(&self) -> Result<Option<FromKeeper>, PacketError> {
        let Some((version, message, _)) = self.packets.recv_of_version()? else {
            return Ok(None);
        };
        self.version.set(Some(version));
        Ok(Some(message))
    }

    /// Switches between blocking and non-blocking.
    ///
    /// # Errors
    /// When the system refuses, which it does not for a live socket.
    pub fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()> {
        self.packets.set_nonblocking(nonblocking)
    }
}

macro_rules! descriptors {
    ($client:ident) => {
        impl AsFd for $client {
            fn as_fd(&self) -> BorrowedFd<'_> {
                self.packets.as_fd()
            }
        }

        impl AsRawFd for $client {
            fn as_raw_fd(&self) -> RawFd {
                self.packets.as_raw_fd()
            }
        }

        impl From<$client> for OwnedFd {
            fn from(client: $client) -> Self {
                client.packets.into_fd()
            }
        }
    };
}

descriptors!(SpawnerClient);
descriptors!(KeeperClient);

/// What is known of an attempt's keeper.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeeperState {
    /// None ever was here.
    Never,
    /// It lives: connect to it.
    Alive(KeeperRecord),
    /// It is gone, under this boot.
    Dead(KeeperRecord),
    /// It ran under an earlier boot: everything of it is gone.
    EarlierBoot(KeeperRecord),
}

/// Looks for an attempt's keeper, by process id, start time and boot id.
///
/// # Errors
/// When its record cannot be read or is damaged, or its process cannot be looked at: nothing is known then.
pub fn keeper_state(dir: &Path) -> Result<KeeperState, RecordError> {
    let Some(record) = read_keeper_record(dir)? else {
        return Ok(KeeperState::Never);
    };
    let boot_id = process::boot_id().map_err(|source| RecordError::Io {
        path: "/proc".into(),
        source,
    })?;
    if record.boot_id != boot_id {
        return Ok(KeeperState::EarlierBoot(record));
    }
    let is_gone = record.keeper.is_gone().map_err(|source| RecordError::Io {
        path: format!("/proc/{}", record.keeper.pid).into(),
        source,
    })?;
    Ok(if is_gone {
        KeeperState::Dead(record)
    } else {
        KeeperState::Alive(record)
    })
}

/// Who may speak for an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim {
    /// The caller: no keeper will ever start it, and none did.
    Won,
    /// A keeper (or an earlier call): the attempt may have run.
    Lost,
}

/// Makes the claim on an attempt in the keeper's place. Only `Won` allows to report that it never ran.
///
/// # Errors
/// When the file system refuses; then nothing is known.
pub fn try_claim(dir: &Path) -> io::Result<Claim> {
    Ok(if claim::by_runner(record::open(dir)?.as_fd())? {
        Claim::Won
    } else {
        Claim::Lost
    })
}

/// Why a tree could not be ended.
#[derive(Debug, thiserror::Error)]
pub enum EndTreeError {
    /// Its keeper lives, and ends it when told.
    #[error("the keeper of `{}` lives: cancel through it", .0.display())]
    KeeperLives(PathBuf),
    /// Who kept it cannot be known.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// Something survived every KILL, such as a process that waits for a dead disk. Try again later.
    #[error("processes of `{}` are still there after {} s", .0.display(), END_TREE.as_secs())]
    StillThere(PathBuf),
    /// Whether something is left cannot be seen. Try again later.
    #[error("what is left of `{}` cannot be seen", dir.display())]
    Unseen {
        /// The attempt's directory.
        dir: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// Ends what a dead keeper left behind and waits (some milliseconds, at most 5 s) until nothing is left of it.
///
/// Complete for a cgroup and for a pid namespace. For a subreaper it is complete while the spawner lives, to which the
/// orphans went; without the spawner, what cleared its environment *and* left its parent is not found.
///
/// # Errors
/// When the keeper lives, or something cannot be ended.
pub fn end_tree(dir: &Path) -> Result<(), EndTreeError> {
    let record = match keeper_state(dir)? {
        KeeperState::Never | KeeperState::EarlierBoot(_) => return Ok(()),
        KeeperState::Alive(_) => return Err(EndTreeError::KeeperLives(dir.to_owned())),
        KeeperState::Dead(record) => record,
    };
    let remains = Remains::of(&record);
    let give_up_us =
        process::boot_time_us() + u64::try_from(END_TREE.as_micros()).unwrap_or(u64::MAX);
    loop {
        remains.kill(true);
        let are_gone = remains.are_gone(true);
        if matches!(are_gone, Ok(true)) {
            return Ok(());
        }
        if process::boot_time_us() >= give_up_us {
            let dir = dir.to_owned();
            return Err(match are_gone {
                Ok(_) => EndTreeError::StillThere(dir),
                Err(source) => EndTreeError::Unseen { dir, source },
            });
        }
        std::thread::sleep(KILL_AGAIN);
    }
}

/// What can be seen of an attempt whose record of its keeper is damaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trace {
    /// A keeper listens.
    Keeper,
    /// Processes that were started for it are there.
    Processes,
    /// Nothing. A keeper that lost its runner moments ago may not listen yet.
    None,
}

/// Looks for what is left of an attempt without its record.
///
/// # Errors
/// When the look failed: nothing is known then.
pub fn trace(dir: &Path) -> io::Result<Trace> {
    if crate::socket::is_served(dir, record::SOCKET)? {
        return Ok(Trace::Keeper);
    }
    let attempt = dir.file_name().unwrap_or_default().to_string_lossy();
    Ok(if crate::containment::marked(&attempt)?.is_empty() {
        Trace::None
    } else {
        Trace::Processes
    })
}
