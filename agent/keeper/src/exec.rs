//! How one role of the binary starts another: by exec of itself, with descriptors passed deliberately.
//!
//! Used by the agent for all its roles, by the link for none, and by tests. Everything is close-on-exec unless it is
//! handed to [`pass_fd`]. The leash exists in development and demonstration only.
#![expect(
    unsafe_code,
    reason = "clearing close-on-exec between fork and exec needs `pre_exec`"
)]

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::FdFlags;
use rustix::pipe::PipeFlags;

/// How this program starts itself in another role.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SelfExec {
    /// The executable; `/proc/self/exe` unless a test says otherwise, so that an upgrade on disk changes nothing.
    pub exe: PathBuf,
    /// Arguments before `role …`: empty for the agent's own binary, the sub-command's name elsewhere.
    pub prefix: Vec<OsString>,
}

impl SelfExec {
    /// The running executable, with the arguments that lead to its roles.
    #[must_use]
    pub fn current(prefix: Vec<OsString>) -> Self {
        Self {
            exe: PathBuf::from("/proc/self/exe"),
            prefix,
        }
    }

    /// A command `<exe> <prefix…> role <role>`, to which the role's own arguments are added.
    #[must_use]
    pub fn command(&self, role: &str) -> Command {
        let mut command = Command::new(&self.exe);
        // What `ps` shows: which of the agent's processes this is.
        command.arg0("outpost-agent");
        command.args(&self.prefix).arg("role").arg(role);
        command
    }
}

/// Lets the child of `command` inherit `fd`; returns the number under which it will find it.
///
/// The descriptor is duplicated and lives as long as `command`; no other child inherits it.
///
/// # Errors
/// When no descriptors are left.
pub fn pass_fd(command: &mut Command, fd: BorrowedFd<'_>) -> io::Result<RawFd> {
    // Not below 3, where the standard streams of the child are put.
    let passed = rustix::io::fcntl_dupfd_cloexec(fd, 3)?;
    let number = passed.as_raw_fd();
    // SAFETY: the closure only makes one fcntl call, which is async-signal-safe.
    unsafe {
        command.pre_exec(move || Ok(rustix::io::fcntl_setfd(&passed, FdFlags::empty())?));
    }
    Ok(number)
}

/// Takes over a descriptor that was inherited under a number given by a `--…-fd N` argument; makes it close-on-exec.
///
/// Call at most once per number, first thing in a role.
///
/// # Errors
/// When the number is not an open descriptor, or is one of the standard streams.
pub fn take_fd(number: RawFd) -> io::Result<OwnedFd> {
    if number < 3 {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "an inherited descriptor must be 3 or higher",
        ));
    }
    // SAFETY: only borrowed for one call, which says whether it is open.
    let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
    rustix::io::fcntl_setfd(borrowed, FdFlags::CLOEXEC)?;
    // SAFETY: it is open, and by the contract above nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// The read end of the leash pipe: its end of file means that this process and its tree end at once.
#[derive(Debug)]
pub struct Leash {
    fd: OwnedFd,
}

impl Leash {
    /// A new leash and the write end that holds it; whoever owns that end must be its only owner.
    ///
    /// # Errors
    /// When no descriptors are left.
    pub fn pair() -> io::Result<(Self, OwnedFd)> {
        let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        Ok((Self { fd: read }, write))
    }

    /// From the number in `--leash-fd N`.
    ///
    /// # Errors
    /// When the number is not an open descriptor.
    pub fn take(number: RawFd) -> io::Result<Self> {
        Ok(Self {
            fd: take_fd(number)?,
        })
    }

    /// Adds `--leash-fd N` to a role's command and lets it inherit the leash.
    ///
    /// # Errors
    /// When no descriptors are left.
    pub fn pass(&self, command: &mut Command) -> io::Result<()> {
        let number = pass_fd(command, self.fd.as_fd())?;
        command.arg("--leash-fd").arg(number.to_string());
        Ok(())
    }

    /// Another descriptor of the same leash.
    ///
    /// # Errors
    /// When no descriptors are left.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self {
            fd: self.fd.try_clone()?,
        })
    }

    /// Whether the holder is gone. Never blocks. Readiness for reading means: ask.
    #[must_use]
    pub fn is_over(&self) -> bool {
        let mut fds = [PollFd::new(&self.fd, PollFlags::IN)];
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        rustix::event::poll(&mut fds, Some(&now)).is_ok()
            && fds[0].revents().contains(PollFlags::HUP)
    }
}

impl AsFd for Leash {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for Leash {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}
