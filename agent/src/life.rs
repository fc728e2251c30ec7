//! Which life this is: of the state directory, of the kernel, of the pid namespace.
//!
//! Whatever was begun in another life is over: the runner reports it as interrupted and never starts it again.

use std::fs;
use std::io;
use std::path::Path;

use outpost_proto::ids::Incarnation;
use outpost_proto::outcome::Interruption;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// Where the life is remembered, in the state directory.
const FILE: &str = "life.json";

/// What makes up a life.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Life {
    /// Random, made with the state directory.
    pub state_id: String,
    /// The kernel's boot id.
    pub boot_id: String,
    /// The pid namespace's inode number.
    pub pid_namespace: u64,
    /// Start time of that namespace's PID 1, in clock ticks since boot.
    pub init_start: u64,
}

impl Life {
    /// The present life, of the state directory with this id.
    ///
    /// # Errors
    /// When /proc cannot be read.
    pub fn present(state_id: &str) -> io::Result<Self> {
        let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id")?
            .trim()
            .to_owned();
        let namespace = fs::read_link("/proc/self/ns/pid")?;
        let digits = namespace
            .to_string_lossy()
            .chars()
            .filter(char::is_ascii_digit)
            .collect::<String>();
        let pid_namespace = digits
            .parse()
            .map_err(|_| io::Error::other("/proc/self/ns/pid has no number"))?;
        let init_start = start_time(&fs::read_to_string("/proc/1/stat")?)
            .ok_or_else(|| io::Error::other("/proc/1/stat has no start time"))?;
        Ok(Self {
            state_id: state_id.to_owned(),
            boot_id,
            pid_namespace,
            init_start,
        })
    }

    /// What upstream sees of it: 64 bits.
    #[must_use]
    pub fn incarnation(&self) -> Incarnation {
        let digest = Sha256::new()
            .chain_update(self.state_id.as_bytes())
            .chain_update([0])
            .chain_update(self.boot_id.as_bytes())
            .chain_update(self.pid_namespace.to_be_bytes())
            .chain_update(self.init_start.to_be_bytes())
            .finalize();
        let mut first = [0; 8];
        first.copy_from_slice(&digest[..8]);
        Incarnation(u64::from_be_bytes(first))
    }

    /// What a change from an earlier life means for what was running then.
    #[must_use]
    pub fn interruption_since(&self, earlier: &Self) -> Interruption {
        if self.boot_id != earlier.boot_id {
            Interruption::Reboot
        } else if self.state_id != earlier.state_id {
            Interruption::AgentStateLost
        } else {
            Interruption::SidecarRestart
        }
    }
}

/// Field 22 of /proc/PID/stat (proc(5)); the command in parentheses may contain anything.
fn start_time(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(19)?.parse().ok()
}

/// The life the state directory was last used in; `None` when it was in none.
///
/// # Errors
/// When the file cannot be read.
pub fn earlier(state_dir: &Path) -> io::Result<Option<Life>> {
    match fs::read(state_dir.join(FILE)) {
        Ok(bytes) => Ok(serde_json::from_slice(&bytes).ok()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Remembers the present life. Only once what the earlier one left is journalled as interrupted: a crash before that
/// must find the earlier life again, or a reboot would be reported as something else.
///
/// # Errors
/// When the file cannot be written.
pub fn remember(state_dir: &Path, present: &Life) -> io::Result<()> {
    crate::files::replace(&state_dir.join(FILE), &serde_json::to_vec(present)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_present_life_is_the_same_twice_and_another_after_a_reboot() {
        let life = Life::present("state").unwrap();
        assert_eq!(life, Life::present("state").unwrap());
        let rebooted = Life {
            boot_id: "another".to_owned(),
            ..life.clone()
        };
        assert_ne!(life.incarnation(), rebooted.incarnation());
        assert_eq!(rebooted.interruption_since(&life), Interruption::Reboot);
        let restarted = Life {
            init_start: life.init_start + 1,
            ..life.clone()
        };
        assert_ne!(life.incarnation(), restarted.incarnation());
        assert_eq!(
            restarted.interruption_since(&life),
            Interruption::SidecarRestart
        );
    }

    #[test]
    fn the_earlier_life_is_found_until_the_present_one_is_remembered() {
        let dir = crate::testing::tempdir().unwrap();
        let life = Life::present("state").unwrap();
        assert_eq!(earlier(dir.path()).unwrap(), None);
        assert_eq!(earlier(dir.path()).unwrap(), None, "asking changes nothing");
        remember(dir.path(), &life).unwrap();
        assert_eq!(earlier(dir.path()).unwrap(), Some(life));
    }

    #[test]
    fn a_command_name_with_parentheses_does_not_confuse() {
        let stat = "1 (a) b (c) S 0 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4242 1 1";
        assert_eq!(start_time(stat), Some(4242));
    }
}
