//! A look at what is in force, for every thread: what was asked for is worth nothing if it did not happen.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use rustix::io::Errno;
use rustix::net::{AddressFamily, Ipv4Addr, SocketAddrV4, SocketType, bind, socket};

/// Far above what the kernel writes about a thread.
const STATUS_BYTES: usize = 8 * 1024;

/// Why the look did not find what it should.
#[derive(Debug, thiserror::Error)]
pub(super) enum VerifyError {
    #[error("/proc cannot be read")]
    Proc(#[from] io::Error),
    #[error("there are {there} threads, and {seen} of them were looked at")]
    Threads { there: u64, seen: usize },
    #[error("a thread says {0}")]
    Thread(String),
    #[error("a file out of reach can be opened")]
    File,
}

/// The threads' own words, to be read later.
pub(super) struct Threads(Vec<File>);

impl Threads {
    pub(super) fn open() -> Result<Self, VerifyError> {
        let mut files = Vec::new();
        for thread in std::fs::read_dir("/proc/self/task")? {
            files.push(File::open(thread?.path().join("status"))?);
        }
        Ok(Self(files))
    }

    /// Every thread has a filter, no capability and no way to one; with Landlock, what has no rule cannot be opened.
    pub(super) fn verify(self, landlock_abi: u8) -> Result<(), VerifyError> {
        for file in &self.0 {
            let mut text = vec![0; STATUS_BYTES];
            let length = file.read_at(&mut text, 0)?;
            text.truncate(length);
            let text = String::from_utf8_lossy(&text);
            if let Some(line) = wrong(&text) {
                return Err(VerifyError::Thread(line.to_owned()));
            }
            // The number is the process's, whichever thread says it.
            let there = field(&text, "Threads").and_then(|count| count.parse().ok());
            let (there, seen) = (there.unwrap_or(0), self.0.len());
            if u64::try_from(seen) != Ok(there) {
                return Err(VerifyError::Threads { there, seen });
            }
        }
        if landlock_abi > 0 && File::open("/proc/self/status").is_ok() {
            return Err(VerifyError::File);
        }
        Ok(())
    }
}

/// Whether the rules for TCP hold: asked before sockets are out of reach altogether. Sends nothing.
pub(super) fn tcp_is_walled() -> bool {
    // A host without IPv4 has nothing to try this on.
    let Ok(probe) = socket(AddressFamily::INET, SocketType::STREAM, None) else {
        return true;
    };
    bind(&probe, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0)) == Err(Errno::ACCESS)
}

fn field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    let mut lines = status.lines();
    lines.find_map(|line| Some(line.strip_prefix(name)?.strip_prefix(':')?.trim()))
}

/// The first line that is not as it should be.
fn wrong(status: &str) -> Option<&str> {
    const NONE: &str = "0000000000000000";
    let wanted = [
        ("NoNewPrivs", "1"),
        ("Seccomp", "2"),
        ("CapInh", NONE),
        ("CapPrm", NONE),
        ("CapEff", NONE),
        ("CapAmb", NONE),
    ];
    let mut wrong = wanted
        .iter()
        .filter(|(name, value)| field(status, name) != Some(value));
    wrong.next().map(|(name, _)| {
        let line = status.lines().find(|line| line.starts_with(name));
        line.unwrap_or(name)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "Name:\toutpost-agent\nThreads:\t1\nCapInh:\t0000000000000000\nCapPrm:\t0000000000000000\n\
                        CapEff:\t0000000000000000\nCapBnd:\t000001ffffffffff\nCapAmb:\t0000000000000000\nNoNewPrivs:\t1\n\
                        Seccomp:\t2\nSeccomp_filters:\t2\n";

    #[test]
    fn each_line_counts() {
        assert_eq!(wrong(GOOD), None);
        for (right, bad) in [
            ("NoNewPrivs:\t1", "NoNewPrivs:\t0"),
            ("Seccomp:\t2", "Seccomp:\t0"),
            ("CapInh:\t0000000000000000", "CapInh:\t0000000000000400"),
            ("CapPrm:\t0000000000000000", "CapPrm:\t0000000000000001"),
            ("CapEff:\t0000000000000000", "CapEff:\t0000000000000001"),
            ("CapAmb:\t0000000000000000", "CapAmb:\t0000000000000001"),
        ] {
            assert_eq!(wrong(&GOOD.replace(right, bad)), Some(bad));
        }
        assert_eq!(wrong(""), Some("NoNewPrivs"));
        assert_eq!(field(GOOD, "Threads"), Some("1"));
    }
}
