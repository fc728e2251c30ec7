//! `leaktest`: canary tasks leave a marked string wherever a task can leave any; then the mark is looked for in
//! everything that leaves the site or could.
//!
//! The mark is first looked for where it must be, in the canaries' own logs, in every form: a search that does not find
//! it there proves nothing, and the report says so. Used by the command and by the demo. Nothing here speaks to anybody.

pub mod canary;
mod mark;
mod places;
mod report;
mod search;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use outpost_agent_keeper::exec::SelfExec;
use outpost_agent_keeper::protocol::is_attempt_id;
use outpost_agent_keeper::record::read_keeper_record;
use outpost_proto::name::EntryName;
use serde::{Deserialize, Serialize};

pub use mark::{Form, Mark};
pub use report::{Canary, How, Looking, Report, Verdict};
pub use search::{Hit, Looked, Searcher, Source};

use crate::log_tail::LogTail;
use crate::runner::trial::{self, Place, Trial};
use crate::runner::{Ask, ask, wall_us};
use crate::seal::SiteKeys;
use crate::state_dir::StateDir;

/// Where the prepared mark is remembered.
const PREPARED: &str = "leaktest.json";

/// What is to be looked at.
#[derive(Debug)]
pub struct Options<'a> {
    /// The agent's state directory.
    pub state: &'a Path,
    /// Whether canaries run here and now, beside those that the orchestrator had run.
    pub tries: bool,
    /// The account of the canaries that run here and now, if it is another.
    pub user: Option<&'a str>,
    /// The orchestrator's directory or a dump of its database, when it is at hand.
    pub orchestrator: Option<&'a Path>,
    /// The site's keys, where canaries' logs are encrypted.
    pub site_keys: Option<Arc<SiteKeys>>,
    /// How sub-processes are started.
    pub exec: SelfExec,
}

/// Looks at what was captured on the wire, and says what that was, and what of it could not be searched.
pub type Tap<'a> = &'a mut dyn FnMut(&mut Source<'_>) -> anyhow::Result<(String, Vec<String>)>;

/// A mark that was put into the catalogue.
#[derive(Debug, Serialize, Deserialize)]
struct Prepared {
    mark: Mark,
    at_us: u64,
}

/// Puts the canaries into a catalogue and remembers their mark in the state directory; the files that were written.
///
/// # Errors
/// When a file cannot be written.
pub fn prepare(
    state: &StateDir,
    catalogue: &Path,
    user: Option<&str>,
) -> anyhow::Result<[PathBuf; 2]> {
    let mark = Mark::random()?;
    let files = canary::write(catalogue, &mark, user)
        .with_context(|| format!("writing the canaries into {}", catalogue.display()))?;
    let prepared = Prepared {
        mark,
        at_us: wall_us(),
    };
    let path = state.path().join(PREPARED);
    crate::files::replace(&path, &serde_json::to_vec(&prepared)?)
        .with_context(|| format!("writing {}", path.display()))?;
    Ok(files)
}

fn prepared(state: &StateDir) -> anyhow::Result<Option<Prepared>> {
    let path = state.path().join(PREPARED);
    match std::fs::read(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        bytes => {
            let bytes = bytes.with_context(|| format!("reading {}", path.display()))?;
            let prepared = serde_json::from_slice(&bytes);
            prepared.map(Some).with_context(|| {
                format!(
                    "{} does not parse: prepare the leak test again",
                    path.display()
                )
            })
        }
    }
}

/// Runs the test. `capture`: looks for the mark in what was captured on the wire, and says what that was; it is not
/// called when there is no capture.
///
/// # Errors
/// When the ledger or the canaries' logs cannot be read, or canaries cannot be run here.
pub async fn run(options: &Options<'_>, capture: Option<Tap<'_>>) -> anyhow::Result<Report> {
    let state = StateDir::open(options.state)?;
    let begun_us = wall_us();
    let prepared = prepared(&state)?;
    let mark = match &prepared {
        Some(prepared) => prepared.mark.clone(),
        None => Mark::random()?,
    };
    let searcher = Searcher::new(&mark);
    let mut canaries = match &prepared {
        Some(prepared) => instructed(options, &state, &searcher, prepared.at_us)?,
        None => Vec::new(),
    };
    if options.tries {
        canaries.extend(tried(options, &mark, &searcher).await?);
    }

    let mut places = vec![ledger(&state, &searcher)?];
    places.push(memory(&state, &searcher));
    places.extend(options.orchestrator.map(|path| database(path, &searcher)));
    if let Some(capture) = capture {
        let mut source = searcher.source();
        let (what, not_searched) = capture(&mut source)?;
        let mut looked = source.end();
        looked.not_searched.extend(not_searched);
        places.push(Looking::at("captured upstream bytes", what, looked));
    }
    Ok(Report::of(mark, begun_us, wall_us(), canaries, places))
}

/// The canaries that ran as instructions since they were prepared, each with what its log holds.
fn instructed(
    options: &Options<'_>,
    state: &StateDir,
    searcher: &Searcher,
    since_us: u64,
) -> anyhow::Result<Vec<Canary>> {
    let attempts = state.attempts();
    let mut found = Vec::new();
    for entry in attempts
        .read_dir()
        .with_context(|| format!("reading {}", attempts.display()))?
    {
        let entry = entry?;
        let name = entry.file_name();
        let Some(id) = name.to_str().filter(|id| is_attempt_id(id)) else {
            continue;
        };
        let record = read_keeper_record(&entry.path()).ok().flatten();
        let Some(about) = record.and_then(|record| record.about) else {
            continue;
        };
        if !about.entry.starts_with(canary::PREFIX) || about.begun_us < since_us {
            continue;
        }
        let mut source = searcher.source();
        let mut tail = LogTail::with_keys(&entry.path(), options.site_keys.clone());
        let read = tail.more(&mut |bytes| {
            source.push(bytes);
            true
        });
        let mut log = source.end();
        // A control that cannot be read controls nothing.
        log.not_searched
            .extend(read.err().map(|error| error.to_string()));
        found.push(Canary {
            entry: about.entry,
            how: How::Instructed,
            attempt: Some(id.to_owned()),
            outcome: None,
            log,
        });
    }
    found.sort_by(|one, other| one.entry.cmp(&other.entry));
    Ok(found)
}

/// Runs every canary here and now, as `catalogue try` does.
async fn tried(
    options: &Options<'_>,
    mark: &Mark,
    searcher: &Searcher,
) -> anyhow::Result<Vec<Canary>> {
    let dir = Temporary::make(mark).context("making a catalogue for the canaries")?;
    canary::write(&dir.0, mark, options.user).context("writing the canaries")?;
    let catalogue = crate::catalogue::load(&dir.0, "")?;
    let mut found = Vec::new();
    for name in canary::names() {
        let mut source = searcher.source();
        let trial = Trial {
            state: options.state,
            catalogue: &catalogue,
            entry: name.parse::<EntryName>()?,
            params: std::collections::BTreeMap::new(),
            deadline_ms: None,
            exec: options.exec.clone(),
            task: "leaktest".parse()?,
            place: Place::Own,
        };
        let mut show = |bytes: &[u8]| {
            source.push(bytes);
            true
        };
        let tried = trial::run(trial, &mut show);
        let tried = tried.await.with_context(|| format!("running {name}"))?;
        found.push(Canary {
            entry: name,
            how: How::Tried,
            attempt: None,
            outcome: Some(tried.outcome),
            log: source.end(),
        });
    }
    Ok(found)
}

/// A catalogue's directory that goes away with this value.
struct Temporary(PathBuf);

impl Temporary {
    fn make(mark: &Mark) -> std::io::Result<Self> {
        use std::os::unix::fs::DirBuilderExt as _;
        use std::os::unix::fs::PermissionsExt as _;
        let dir = std::env::temp_dir().join(format!("outpost-leaktest-{}", &mark.text()[8..]));
        std::fs::DirBuilder::new().mode(0o755).create(&dir)?;
        // Tasks of other accounts read the script, whatever this process' mask is.
        std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o755))?;
        Ok(Self(dir))
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // What stays is two small files in the system's own place for such.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn ledger(state: &StateDir, searcher: &Searcher) -> anyhow::Result<Looking> {
    let dir = state.ledger();
    let what = dir.display().to_string();
    if !dir.exists() {
        return Ok(Looking::not_at(
            "ledger",
            what,
            "nothing was ever sent from here",
        ));
    }
    Ok(Looking::at("ledger", what, places::ledger(searcher, &dir)?))
}

fn memory(state: &StateDir, searcher: &Searcher) -> Looking {
    const PLACE: &str = "memory of link";
    let Ok(status) = ask(state.path(), Ask::Status) else {
        return Looking::not_at(PLACE, String::new(), "no agent is running here");
    };
    let Some(link) = places::link_of(status.pid) else {
        return Looking::not_at(PLACE, String::new(), "the agent has no link just now");
    };
    let what = format!("process {link}");
    match places::memory(searcher, link) {
        Ok(looked) => Looking::at(PLACE, what, looked),
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            Looking::not_at(PLACE, what, "it can be read by root only")
        }
        Err(error) => Looking::not_at(PLACE, what, &error.to_string()),
    }
}

fn database(path: &Path, searcher: &Searcher) -> Looking {
    const PLACE: &str = "orchestrator's data";
    match places::files(searcher, path) {
        Ok((looked, files)) => {
            let files = match files.len() {
                1 => "1 file".to_owned(),
                n => format!("{n} files"),
            };
            Looking::at(PLACE, format!("{} ({files})", path.display()), looked)
        }
        Err(error) => Looking::in_vain(PLACE, path.display().to_string(), &error.to_string()),
    }
}

/// Forms that no log of a canary has, though they were printed there.
fn unseen(canaries: &[Canary]) -> Vec<Form> {
    let seen: BTreeSet<Form> = canaries
        .iter()
        .flat_map(|canary| canary.log.forms.iter().copied())
        .collect();
    let missing = Form::ALL.into_iter().filter(|form| !seen.contains(form));
    missing.collect()
}
