//! How the network processes are confined, from the runner's side: the accounts they become, the least that is accepted,
//! and what is told of it here and upstream.
//!
//! Link and dial confine themselves (`outpost-agent-link`); link says first thing how far it came. Nothing here trusts a
//! word that is said after link has heard a peer.

mod accounts;

use clap::ValueEnum;
use outpost_agent_link::sandbox::{Confinement, Level, Missing};
use serde::{Deserialize, Serialize};

pub(crate) use accounts::{Accounts, KeyDirectory};

/// What `--sandbox` asks for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Required {
    /// As much of it as this host gives.
    #[default]
    Best,
    /// All of it, or nothing is connected.
    Strict,
}

impl Required {
    /// The least level that is accepted.
    #[must_use]
    pub fn least(self) -> Level {
        match self {
            Self::Best => Level::None,
            Self::Strict => Level::Strict,
        }
    }
}

/// Less than what is accepted.
#[derive(Debug, thiserror::Error)]
#[error("the sandbox of link is {}, and {least} is asked for: {}", .reached.level, .reached.reasons())]
pub struct TooWeak {
    /// The least level that is accepted.
    pub least: Level,
    /// What there is.
    pub reached: Reached,
}

impl TooWeak {
    /// The exit status of a command that ends because of it.
    pub const EXIT: u8 = 4;
}

/// How far link's sandbox came, as `status` and `check` tell it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reached {
    /// `strict`, `partial` or `none`.
    pub level: String,
    /// The Landlock ABI in force; 0: none.
    pub landlock_abi: u8,
    /// The account that link runs as.
    pub uid: u32,
    /// What is missing for `strict`.
    pub missing: Vec<Lack>,
}

/// One thing that is missing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lack {
    /// What is not so.
    pub says: String,
    /// What to do.
    pub fix: String,
}

impl Default for Reached {
    /// Before link has said anything.
    fn default() -> Self {
        Self {
            level: Level::None.to_string(),
            landlock_abi: 0,
            uid: 0,
            missing: vec![Lack {
                says: "link has not been ready yet".to_owned(),
                fix: "see the agent's log".to_owned(),
            }],
        }
    }
}

impl Reached {
    /// In words; `accounts` knows why there is none of its own.
    pub(crate) fn new(confinement: &Confinement, accounts: &Accounts) -> Self {
        let missing = confinement.missing().iter();
        let missing = missing.map(|part| {
            let why = accounts.why_none().filter(|_| *part == Missing::Account);
            let says = match why {
                Some(why) => format!("{}: {why}", part.says()),
                None => part.says().to_owned(),
            };
            let fix = part.fix().to_owned();
            Lack { says, fix }
        });
        Self {
            level: confinement.level().to_string(),
            landlock_abi: confinement.landlock_abi,
            uid: confinement.uid,
            missing: missing.collect(),
        }
    }

    /// Why it is not strict.
    #[must_use]
    pub fn reasons(&self) -> String {
        let says = self.missing.iter().map(|lack| lack.says.as_str());
        says.collect::<Vec<_>>().join("; ")
    }

    /// What to do about it.
    #[must_use]
    pub fn fixes(&self) -> String {
        let mut fixes: Vec<_> = self.missing.iter().map(|lack| lack.fix.as_str()).collect();
        fixes.dedup();
        fixes.join("; ")
    }

    /// The level and what makes it, on one line.
    #[must_use]
    pub fn words(&self) -> String {
        if self.missing.is_empty() {
            let abi = self.landlock_abi;
            return format!(
                "strict: Landlock ABI {abi}, system calls filtered, link is user {}",
                self.uid
            );
        }
        format!("{}: {}", self.level, self.reasons())
    }
}

/// As the orchestrator is told.
pub(crate) fn upstream(level: Level) -> outpost_proto::message::Level {
    match level {
        Level::None => outpost_proto::message::Level::None,
        Level::Partial => outpost_proto::message::Level::Partial,
        Level::Strict => outpost_proto::message::Level::Strict,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_said_with_what_to_do() {
        let accounts = Accounts::none("user 60917 is somebody's");
        let all = Confinement::new(7, 5, Vec::new());
        let words = Reached::new(&all, &accounts).words();
        assert_eq!(
            words,
            "strict: Landlock ABI 7, system calls filtered, link is user 5"
        );
        let some = Confinement::new(1, 0, vec![Missing::Account, Missing::TcpRules]);
        let reached = Reached::new(&some, &accounts);
        assert_eq!(
            reached.words(),
            "partial: this kernel's Landlock has no rules for TCP; the network processes share root's account: \
             user 60917 is somebody's"
        );
        assert!(reached.fixes().contains("Linux 6.7"));
        let least = Required::Strict.least();
        let error = TooWeak { least, reached }.to_string();
        assert!(
            error.starts_with("the sandbox of link is partial, and strict is asked for: "),
            "{error}"
        );
    }
}
