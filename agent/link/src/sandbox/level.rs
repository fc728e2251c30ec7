//! How much of the sandbox a host let a process have, in words that a person and the runner understand.

use std::fmt;

/// How much of the sandbox is in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// Neither Landlock nor a system call filter.
    None,
    /// Some of it.
    Partial,
    /// All of it.
    Strict,
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Partial => "partial",
            Self::Strict => "strict",
        })
    }
}

/// One part of the sandbox that is not in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Missing {
    /// Any Landlock at all.
    Landlock,
    /// Landlock's rules for TCP, which are of ABI 4.
    TcpRules,
    /// The system call filter.
    SystemCalls,
    /// An account of its own, although the agent is root.
    Account,
    /// Empty capability sets and no-new-privileges.
    Privileges,
    /// Nothing but the descriptors that were meant.
    Descriptors,
    /// A look at every thread that says so.
    Verified,
}

impl Missing {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Landlock,
        Self::TcpRules,
        Self::SystemCalls,
        Self::Account,
        Self::Privileges,
        Self::Descriptors,
        Self::Verified,
    ];

    /// Its bit in local messages.
    #[must_use]
    pub fn bit(self) -> u8 {
        match self {
            Self::Landlock => 1,
            Self::TcpRules => 1 << 1,
            Self::SystemCalls => 1 << 2,
            Self::Account => 1 << 3,
            Self::Privileges => 1 << 4,
            Self::Descriptors => 1 << 5,
            Self::Verified => 1 << 6,
        }
    }

    /// What is not so.
    #[must_use]
    pub fn says(self) -> &'static str {
        match self {
            Self::Landlock => "this kernel gives no Landlock",
            Self::TcpRules => "this kernel's Landlock has no rules for TCP",
            Self::SystemCalls => "this kernel takes no system call filter",
            Self::Account => "the network processes share root's account",
            Self::Privileges => "privileges could not all be given up",
            Self::Descriptors => "inherited descriptors could not all be closed",
            Self::Verified => "not every thread is confined",
        }
    }

    /// What a person does about it.
    #[must_use]
    pub fn fix(self) -> &'static str {
        match self {
            Self::Landlock => {
                "use Linux 6.7 or newer with landlock among the security modules (lsm= on the kernel's command line), and \
                 let a container's profile allow the landlock_* system calls"
            }
            Self::TcpRules => "use Linux 6.7 or newer (Landlock ABI 4)",
            Self::SystemCalls => "use a kernel with CONFIG_SECCOMP_FILTER, on x86_64 or aarch64",
            Self::Account => {
                "let root keep CAP_SETUID, CAP_SETGID, CAP_CHOWN, CAP_KILL and CAP_DAC_OVERRIDE, or run the agent as an \
                 ordinary user"
            }
            Self::Privileges | Self::Verified => "see the log of the network process",
            Self::Descriptors => "use Linux 5.9 or newer",
        }
    }
}

/// What is in force in one process, as it found when it looked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Confinement {
    /// The Landlock ABI whose rules are in force; 0 without Landlock.
    pub landlock_abi: u8,
    /// The account it runs as.
    pub uid: u32,
    missing: Vec<Missing>,
}

impl Confinement {
    /// With these parts missing; each is named once.
    #[must_use]
    pub fn new(landlock_abi: u8, uid: u32, mut missing: Vec<Missing>) -> Self {
        missing.sort_unstable();
        missing.dedup();
        Self {
            landlock_abi,
            uid,
            missing,
        }
    }

    /// Of a process that gave up nothing.
    #[must_use]
    pub fn nothing() -> Self {
        let uid = rustix::process::geteuid().as_raw();
        Self::new(0, uid, Missing::ALL.to_vec())
    }

    /// What is not in force, in a fixed order.
    #[must_use]
    pub fn missing(&self) -> &[Missing] {
        &self.missing
    }

    /// The level that follows. An ordinary user's agent shares its account with its network processes by nature: that
    /// is no part that is missing, because the filter keeps them from signals, tracing and every socket, and Landlock
    /// from every file.
    #[must_use]
    pub fn level(&self) -> Level {
        let lacks = |part| self.missing.contains(&part);
        if self.missing.is_empty() {
            Level::Strict
        } else if lacks(Missing::Landlock) && lacks(Missing::SystemCalls) {
            Level::None
        } else {
            Level::Partial
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_level_follows_from_what_is_missing() {
        let level = |missing: &[Missing]| Confinement::new(7, 1, missing.to_vec()).level();
        assert_eq!(level(&[]), Level::Strict);
        for one in Missing::ALL {
            assert_eq!(level(&[one]), Level::Partial, "{one:?}");
        }
        assert_eq!(
            level(&[Missing::SystemCalls, Missing::Landlock]),
            Level::None
        );
        assert_eq!(Confinement::nothing().level(), Level::None);
        assert!(Level::None < Level::Partial && Level::Partial < Level::Strict);
    }

    #[test]
    fn every_part_has_a_bit_of_its_own() {
        let all = Missing::ALL.iter().fold(0_u8, |all, part| all ^ part.bit());
        assert_eq!(all.count_ones() as usize, Missing::ALL.len());
    }
}
