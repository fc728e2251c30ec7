//! What link and dial give up before the first byte of any peer reaches them, and how much of that the host let them.
//!
//! Called by the two roles once everything that needs a privilege is open: first the account, then every capability,
//! then files and ports (Landlock), then system calls (seccomp), and then a look at every thread whether all of it is in
//! force. Nothing here fails: what a host does not give is missing in the [`Confinement`], and the runner decides whether
//! that is enough. Never called in a process that has other work to do: most of it cannot be taken back.

mod account;
mod calls;
mod descriptors;
mod ground;
mod level;
mod libraries;
mod verify;

use std::os::fd::BorrowedFd;

pub use account::Account;
pub(crate) use descriptors::close_others;
pub use level::{Confinement, Level, Missing};

use ground::Ground;
use verify::Threads;

/// What a role is to be confined to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// The account to become, when the agent is root.
    pub account: Option<Account>,
    /// Dial only: connect nowhere unless all of it is in force. What link reaches the runner judges.
    pub strict: bool,
}

/// Where dial may go.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Way {
    /// TCP port of the orchestrator or the proxy.
    pub(crate) port: u16,
    /// Whether a name has to be resolved first.
    pub(crate) resolves: bool,
}

/// Confines link: files of its key directory, if it has one, and nothing else.
pub(crate) fn link(asked: Asked, key_dir: Option<BorrowedFd<'_>>, closed: bool) -> Confinement {
    let ground = Ground::link(key_dir);
    confine(asked, &ground, calls::link(), closed)
}

/// Confines dial: the way to one address.
pub(crate) fn dial(asked: Asked, way: Way, closed: bool) -> Confinement {
    let ground = Ground::dial(way);
    confine(asked, &ground, calls::dial(way), closed)
}

/// `closed`: whether the descriptors that nobody meant are.
fn confine(
    asked: Asked,
    ground: &Ground<'_>,
    calls: Result<Vec<calls::Program>, calls::CallsError>,
    closed: bool,
) -> Confinement {
    // Its files are opened while /proc is still in reach, and read when everything is in force.
    let threads = Threads::open();
    let mut missing = Vec::new();
    if !closed {
        missing.push(Missing::Descriptors);
    }
    if let Err(error) = account::become_account(asked.account) {
        tracing::warn!(%error, "the account stays");
        missing.push(Missing::Account);
    }
    if let Err(error) = account::give_up_privileges() {
        tracing::warn!(%error, "privileges stay");
        missing.push(Missing::Privileges);
    }
    let landlock_abi = ground.enter(cap()).unwrap_or_else(|error| {
        tracing::warn!(%error, "files and ports stay open");
        0
    });
    if landlock_abi == 0 {
        missing.push(Missing::Landlock);
    }
    if landlock_abi < ground::TCP_RULES || !verify::tcp_is_walled() {
        missing.push(Missing::TcpRules);
    }
    let filtered = calls
        .and_then(|programs| calls::install(&programs, cap()))
        .inspect_err(|error| tracing::warn!(%error, "system calls stay open"));
    if filtered.is_err() {
        missing.push(Missing::SystemCalls);
    }
    if let Err(error) = threads.and_then(|threads| threads.verify(landlock_abi)) {
        if missing.is_empty() {
            tracing::warn!(%error, "the sandbox is not what it should be");
        }
        missing.push(Missing::Verified);
    }
    Confinement::new(landlock_abi, rustix::process::geteuid().as_raw(), missing)
}

/// What a test lets this build have of the sandbox: builds without debug assertions have all of it, always.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cap {
    /// The newest Landlock ABI that is asked for.
    landlock_abi: u8,
    /// Whether system calls are filtered.
    filtered: bool,
}

impl Cap {
    const NONE: Self = Self {
        landlock_abi: u8::MAX,
        filtered: true,
    };
}

/// The environment variable by which a test caps it: `1`, `4`, `6` or `7` for a Landlock ABI, `no-landlock`, `nothing`.
#[cfg(debug_assertions)]
pub const CAP_VARIABLE: &str = "OUTPOST_TEST_SANDBOX";

#[cfg(debug_assertions)]
fn cap() -> Cap {
    let Some(asked) = std::env::var_os(CAP_VARIABLE) else {
        return Cap::NONE;
    };
    match asked.to_str() {
        Some("nothing") => Cap {
            landlock_abi: 0,
            filtered: false,
        },
        Some("no-landlock") => Cap {
            landlock_abi: 0,
            ..Cap::NONE
        },
        other => Cap {
            landlock_abi: other.and_then(|abi| abi.parse().ok()).unwrap_or(u8::MAX),
            ..Cap::NONE
        },
    }
}

#[cfg(not(debug_assertions))]
fn cap() -> Cap {
    Cap::NONE
}

#[cfg(test)]
#[path = "dial_tests.rs"]
mod dial_tests;
