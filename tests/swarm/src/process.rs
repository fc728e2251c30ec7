//! Processes of the measurement: crowds that are told when to begin and say how many they are, and what /proc knows.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::Context as _;

/// A crowd's process; it ends with this value.
pub(crate) struct Process {
    child: Child,
    stdin: ChildStdin,
    lines: Receiver<(Instant, String, usize)>,
    /// The newest number it said.
    pub(crate) number: usize,
    /// When it said it.
    pub(crate) said_at: Instant,
}

impl Process {
    /// Starts this executable in another role.
    pub(crate) fn start(args: &[String]) -> anyhow::Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("starting a crowd")?;
        let stdin = child.stdin.take().context("its input")?;
        let stdout = child.stdout.take().context("its output")?;
        let (send, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let mut words = line.split(' ');
                let word = words.next().unwrap_or_default().to_owned();
                let number = words.next().and_then(|n| n.parse().ok()).unwrap_or(0);
                if send.send((Instant::now(), word, number)).is_err() {
                    return;
                }
            }
        });
        Ok(Self {
            child,
            stdin,
            lines,
            number: 0,
            said_at: Instant::now(),
        })
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn go(&mut self) -> anyhow::Result<()> {
        Ok(self.stdin.write_all(b"go\n")?)
    }

    /// Waits until it said `word` with at least `number`; when it did.
    pub(crate) fn wait(
        &mut self,
        word: &str,
        number: usize,
        limit: Duration,
    ) -> anyhow::Result<Instant> {
        let until = Instant::now() + limit;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok((at, said, said_number)) => {
                    (self.number, self.said_at) = (said_number, at);
                    if said == word && said_number >= number {
                        return Ok(at);
                    }
                }
                Err(RecvTimeoutError::Timeout) => anyhow::bail!(
                    "{number} were to be {word} within {} s; there are {}",
                    limit.as_secs(),
                    self.number
                ),
                Err(RecvTimeoutError::Disconnected) => anyhow::bail!("a crowd ended"),
            }
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Resident memory in KiB.
pub(crate) fn rss_kib(pid: u32) -> anyhow::Result<f64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|line| line.split_whitespace().next());
    number
        .and_then(|number| number.parse().ok())
        .context("no resident memory is told")
}

/// Seconds of processor time so far.
pub(crate) fn cpu_s(pid: u32) -> anyhow::Result<f64> {
    // The sum over all threads: the process's own file tells only its first one.
    let mut nanos = 0.0;
    for thread in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let text = std::fs::read_to_string(thread?.path().join("schedstat")).unwrap_or_default();
        let spent = text.split_whitespace().next();
        nanos += spent.and_then(|n| n.parse::<f64>().ok()).unwrap_or(0.0);
    }
    Ok(nanos / 1e9)
}
