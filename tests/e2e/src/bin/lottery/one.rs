//! One run of the demo: start, kill, wait, look.

use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use outpost_e2e::procs::{self, Proc};
use outpost_e2e::{process, report, site};
use tempfile::TempDir;

use crate::starts::{self, Starts};
use crate::victim::{self, Kind};

/// How long a run may take, whatever happens to it.
const HANG: Duration = Duration::from_secs(60);
/// How long its processes may take to be gone afterwards.
const GONE: Duration = Duration::from_secs(10);
/// How long a victim of one kind is waited for, before any will do.
const AIM: Duration = Duration::from_secs(2);
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// The victim of a run that was over too soon.
pub(crate) const NOBODY: &str = "nobody";

/// What was drawn.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Kill {
    /// Not before this moment of the run.
    pub(crate) at: Duration,
    /// The first process of this kind from then on; otherwise any kind that is there.
    pub(crate) aim: Option<Kind>,
    /// Decides among those that are there.
    pub(crate) pick: u64,
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Verdict {
    /// As it should.
    Ok,
    /// With another exit status than 0.
    Failed,
    /// Not within a minute.
    Hung,
    /// A script was started more often than attempts were claimed.
    StartedTwice,
    /// With processes that did not go away.
    LeftBehind,
    /// The lottery itself could not do its work.
    Broken,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ok => "succeeded",
            Self::Failed => "FAILED",
            Self::Hung => "HUNG",
            Self::StartedTwice => "STARTED TWICE",
            Self::LeftBehind => "LEFT PROCESSES BEHIND",
            Self::Broken => "BROKEN LOTTERY",
        })
    }
}

/// A run that is over.
pub(crate) struct One {
    pub(crate) verdict: Verdict,
    pub(crate) took: Duration,
    killed: Option<(Kind, Duration)>,
    detail: String,
    /// Removed with this, unless it is kept.
    place: Option<TempDir>,
}

impl fmt::Display for One {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some((kind, at)) = &self.killed {
            write!(f, "{:<12} at {:>6.3} s  ", kind.word(), at.as_secs_f64())?;
        }
        write!(f, "{} in {:.1} s", self.verdict, self.took.as_secs_f64())?;
        if !self.detail.is_empty() {
            write!(f, ": {}", self.detail)?;
        }
        Ok(())
    }
}

impl One {
    /// Runs the demo once.
    pub(crate) fn run(outpost: &Path, kill: Option<Kill>) -> Self {
        let begun = Instant::now();
        Self::try_run(outpost, kill, begun).unwrap_or_else(|error| Self {
            verdict: Verdict::Broken,
            took: begun.elapsed(),
            killed: None,
            detail: format!("{error:#}"),
            place: None,
        })
    }

    fn try_run(outpost: &Path, kill: Option<Kill>, begun: Instant) -> anyhow::Result<Self> {
        let place = tempfile::Builder::new()
            .prefix("outpost-lottery-")
            .tempdir()?;
        site::mode(place.path(), 0o755);
        let dir = place.path().join("demo");
        let mut demo = start(outpost, &dir, &place.path().join("demo.log"))?;
        let starts = watch(&dir, &mut demo);
        let killed = kill.and_then(|kill| strike(kill, &dir, &mut demo, begun));
        let status = process::wait(&mut demo, HANG.saturating_sub(begun.elapsed()));
        let took = begun.elapsed();
        if status.is_none() {
            let _ = demo.kill();
            let _ = demo.wait();
        }
        let left = gone(&dir);
        let twice = match starts {
            Some(starts) => {
                let scripts = starts::scripts(&dir.join("catalogue.d"))?;
                let (opens, claimed) = (starts.end(), starts::claimed(&dir.join("agent")));
                if kill.is_none() && scripts.is_empty() {
                    anyhow::bail!("no entry runs a script: starts cannot be counted");
                }
                if kill.is_none() {
                    saw_all(&opens, &scripts, &claimed)?;
                }
                starts::too_many(&opens, &scripts, &claimed)
            }
            None => Default::default(),
        };
        let (verdict, detail) = match status {
            None => (Verdict::Hung, String::new()),
            _ if !twice.is_empty() => (Verdict::StartedTwice, format!("{twice:?}")),
            _ if !left.is_empty() => (Verdict::LeftBehind, format!("{left:?}")),
            Some(Some(0)) => (Verdict::Ok, String::new()),
            Some(code) => (Verdict::Failed, format!("exit status {code:?}")),
        };
        Ok(Self {
            verdict,
            took,
            killed,
            detail,
            place: Some(place),
        })
    }

    /// Who was killed, for the table.
    pub(crate) fn victim(&self) -> String {
        self.killed
            .map_or(NOBODY, |(kind, _)| kind.word())
            .to_owned()
    }

    /// Shows what there is of a run that went wrong, and keeps its directory.
    pub(crate) fn show(mut self) {
        if let Some(place) = self.place.take() {
            let kept: PathBuf = place.keep();
            report::tail(&kept.join("demo.log"));
            report::note(format_args!("kept: {}", kept.display()));
        }
    }
}

/// In an undisturbed run both counts are the same, or the count is not worth anything.
fn saw_all(
    opens: &std::collections::BTreeMap<String, u64>,
    scripts: &std::collections::BTreeMap<String, String>,
    claimed: &std::collections::BTreeMap<String, u64>,
) -> anyhow::Result<()> {
    for (script, entry) in scripts {
        let (seen, known) = (opens.get(script), claimed.get(entry));
        anyhow::ensure!(
            seen == known,
            "{entry}: {known:?} attempts, and {seen:?} starts were seen"
        );
    }
    Ok(())
}

fn start(outpost: &Path, dir: &Path, log: &Path) -> anyhow::Result<Child> {
    use std::os::unix::process::CommandExt as _;
    let log = File::create(log)?;
    let mut command = Command::new(outpost);
    command.arg("demo").arg("--dir").arg(dir);
    command
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log);
    command.process_group(0);
    command.spawn().context("starting the demo")
}

/// The scripts are written before the orchestrator's directory is made, and read by tasks long after.
fn watch(dir: &Path, demo: &mut Child) -> Option<Starts> {
    while !dir.join("orchestrator").exists() {
        if demo.try_wait().ok()?.is_some() {
            return None;
        }
        std::thread::sleep(LOOK_AGAIN);
    }
    Starts::watch(&dir.join("catalogue.d/scripts")).ok()
}

/// Waits for the moment and the victim, and kills it. `None` when the demo was over before.
fn strike(kill: Kill, dir: &Path, demo: &mut Child, begun: Instant) -> Option<(Kind, Duration)> {
    loop {
        if demo.try_wait().ok()?.is_some() {
            return None;
        }
        let now = begun.elapsed();
        let met = match kill.aim {
            _ if now < kill.at => None,
            Some(Kind::Dial) if now < kill.at + AIM => {
                victim::dial(dir).map(|dial| (Kind::Dial, dial))
            }
            Some(aim) if now < kill.at + AIM => pick(kill, Some(aim), dir, demo.id()),
            // What was aimed at does not come any more.
            Some(_) | None => pick(kill, None, dir, demo.id()),
        };
        if let Some((kind, process)) = met {
            process.kill();
            return Some((kind, begun.elapsed()));
        }
        std::thread::sleep(LOOK_AGAIN);
    }
}

/// First a kind, then one of it: there are many more keepers and tasks than others.
fn pick(kill: Kill, aim: Option<Kind>, dir: &Path, demo: u32) -> Option<(Kind, Proc)> {
    let alive = victim::alive(dir, demo);
    let kinds = alive
        .keys()
        .copied()
        .filter(|kind| aim.is_none_or(|aim| aim == *kind))
        .collect::<Vec<_>>();
    let nth = |count: usize, draw: u64| usize::try_from(draw % count.max(1) as u64).unwrap_or(0);
    let kind = *kinds.get(nth(kinds.len(), kill.pick))?;
    let processes = alive.get(&kind)?;
    let process = processes.get(nth(processes.len(), kill.pick >> 32))?;
    Some((kind, process.clone()))
}

/// Waits until nothing of the demo is left; what is left then, killed.
fn gone(dir: &Path) -> Vec<Proc> {
    let until = Instant::now() + GONE;
    loop {
        let left = procs::belonging_to(dir);
        if left.is_empty() || Instant::now() >= until {
            left.iter().for_each(Proc::kill);
            return left;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}
