//! What this site refused, and why in full: written by the runner, read by `outpost-agent refusals` and `observed`.
//!
//! Upstream is told a refusal's class and nothing else; this is where the reason stays. Two files of bounded size, one
//! JSON value in a line; when the newer one is full it takes the place of the older. Nothing waits for the disk here and
//! nothing depends on it: a line that cannot be written is missed, and a torn one is passed over.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use outpost_proto::message::{Assign, ParamValue};
use outpost_proto::outcome::Refusal;
use serde::{Deserialize, Serialize};

/// The newer file, in the state directory.
const FILE: &str = "refusals";
/// The older one.
const OLDER: &str = "refusals.older";
/// Bytes of each of the two files: some thousand refusals.
pub(crate) const FILE_BYTES: u64 = 1 << 20;
/// Characters of a parameter's text and of a reason.
pub(crate) const TEXT_CHARS: usize = 256;

/// One instruction that was refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Refused {
    /// Microseconds since 1970, by the site's clock.
    pub(crate) at_us: u64,
    /// What upstream was told: `not_approved`, `observe`.
    pub(crate) refusal: Refusal,
    /// In full.
    pub(crate) why: String,
    /// What was wanted, by the site's own name.
    pub(crate) entry: String,
    /// For which workflow.
    pub(crate) workflow: String,
    /// For which task of it.
    pub(crate) task: String,
    /// As which attempt.
    pub(crate) attempt: String,
    /// Of which run.
    pub(crate) run: String,
    /// With these, in order of name; long texts are cut.
    #[serde(default)]
    pub(crate) parameters: Vec<(String, String)>,
}

/// The files as the runner writes them.
#[derive(Debug)]
pub(crate) struct Refusals {
    dir: PathBuf,
    /// `None` until there is something to write, and after what could not be.
    file: Option<(File, u64)>,
}

impl Refusals {
    /// Of this state directory.
    pub(crate) fn open(dir: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
            file: None,
        }
    }

    /// Notes a refusal; one that cannot be noted is in the agent's log all the same.
    pub(crate) fn note(&mut self, at_us: u64, assign: &Assign, refusal: Refusal, why: &str) {
        let refused = refused(at_us, assign, refusal, why);
        if let Err(error) = self.append(&refused) {
            self.file = None;
            tracing::debug!("a refusal could not be noted: {error}");
        }
    }

    fn append(&mut self, refused: &Refused) -> io::Result<()> {
        let mut line = serde_json::to_vec(refused)?;
        line.push(b'\n');
        let (mut file, bytes) = match self.file.take() {
            Some(open) => open,
            None => self.newer()?,
        };
        file.write_all(&line)?;
        let bytes = bytes + u64::try_from(line.len()).unwrap_or(u64::MAX);
        if bytes < FILE_BYTES {
            self.file = Some((file, bytes));
        } else {
            std::fs::rename(self.dir.join(FILE), self.dir.join(OLDER))?;
        }
        Ok(())
    }

    /// Takes out what was refused of a run; see [`forget`].
    pub(crate) fn forget(&mut self, run: &str) -> io::Result<usize> {
        // What is open is about to be another file.
        self.file = None;
        forget(&self.dir, run)
    }

    /// The newer file. What an earlier runner could not finish is a line of its own, which nobody can read.
    fn newer(&self) -> io::Result<(File, u64)> {
        let mut open = OpenOptions::new();
        open.create(true).append(true).mode(0o600);
        open.custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed());
        let mut file = open.open(self.dir.join(FILE))?;
        let bytes = file.metadata()?.len();
        if bytes > 0 {
            file.write_all(b"\n")?;
        }
        Ok((file, bytes + 1))
    }
}

/// Takes out of the files what was refused of a run, and what nobody can read; answers how many refusals that were. Only
/// for who writes them, or holds the state directory's lock. Each file is the old or the new one, whatever happens in
/// between; a second time does what the first could not.
pub(crate) fn forget(dir: &Path, run: &str) -> io::Result<usize> {
    // What an interrupted one left beside them.
    match std::fs::remove_file(dir.join(FILE).with_extension("tmp")) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut forgotten = 0;
    for name in [OLDER, FILE] {
        let Some(bytes) = read_file(dir, name)? else {
            continue;
        };
        let mut kept = Vec::with_capacity(bytes.len());
        let mut unreadable = 0;
        let before = forgotten;
        for line in bytes.split(|byte| *byte == b'\n') {
            match serde_json::from_slice::<Refused>(line) {
                Ok(refused) if refused.run == run => forgotten += 1,
                Ok(_) => {
                    kept.extend_from_slice(line);
                    kept.push(b'\n');
                }
                // It may be of any run.
                Err(_) => unreadable += usize::from(!line.is_empty()),
            }
        }
        if forgotten > before || unreadable > 0 {
            crate::files::replace(&dir.join(name), &kept)?;
        }
    }
    Ok(forgotten)
}

fn refused(at_us: u64, assign: &Assign, refusal: Refusal, why: &str) -> Refused {
    let parameters = assign.parameters.iter();
    Refused {
        at_us,
        refusal,
        why: cut(why),
        entry: assign.entry.to_string(),
        workflow: assign.workflow_name.to_string(),
        task: assign.task_name.to_string(),
        attempt: assign.attempt.to_string(),
        run: assign.run.to_string(),
        parameters: parameters
            .map(|(name, value)| (name.to_string(), text(value)))
            .collect(),
    }
}

fn text(value: &ParamValue) -> String {
    match value {
        ParamValue::Flag(flag) => flag.to_string(),
        ParamValue::Integer(integer) => integer.to_string(),
        ParamValue::Text(text) => cut(text),
    }
}

fn cut(text: &str) -> String {
    let mut short = text.chars().take(TEXT_CHARS).collect::<String>();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}

/// What a state directory remembers of refusals, the oldest first.
///
/// # Errors
/// When a file that is there cannot be read.
pub(crate) fn read(dir: &Path) -> io::Result<Vec<Refused>> {
    let mut all = Vec::new();
    for name in [OLDER, FILE] {
        let Some(bytes) = read_file(dir, name)? else {
            continue;
        };
        let lines = bytes.split(|byte| *byte == b'\n');
        all.extend(lines.filter_map(|line| serde_json::from_slice::<Refused>(line).ok()));
    }
    Ok(all)
}

fn read_file(dir: &Path, name: &str) -> io::Result<Option<Vec<u8>>> {
    let file = match crate::files::open_plain(&dir.join(name)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    let mut bytes = Vec::new();
    // A file is as long as its bound and one more line at most.
    file.take(2 * FILE_BYTES).read_to_end(&mut bytes)?;
    Ok(Some(bytes))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use outpost_proto::ids::{AttemptId, CatalogueVersion, CommandSeq, Fence, RunId, TaskIndex};

    use super::*;

    fn assign(attempt: u128, text: &str) -> Assign {
        Assign {
            attempt: AttemptId(attempt),
            run: RunId(7),
            task: TaskIndex(0),
            fence: Fence(1),
            command_seq: CommandSeq(1),
            entry: "copy".parse().unwrap(),
            catalogue_version: CatalogueVersion(1),
            parameters: vec![
                ("day".parse().unwrap(), ParamValue::Text(text.to_owned())),
                ("deep".parse().unwrap(), ParamValue::Flag(true)),
            ],
            deadline_ms: None,
            task_name: "t".parse().unwrap(),
            workflow_name: "w".parse().unwrap(),
        }
    }

    #[test]
    fn what_is_refused_can_be_read_with_its_reason_also_after_a_restart_and_a_torn_line() {
        let dir = crate::testing::tempdir().unwrap();
        assert_eq!(read(dir.path()).unwrap(), []);
        let mut refusals = Refusals::open(dir.path());
        refusals.note(1, &assign(1, "monday"), Refusal::Rate, "used up");
        let file = dir.path().join(FILE);
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        let mut torn = OpenOptions::new().append(true).open(&file).unwrap();
        torn.write_all(b"{\"at_us\": 2, \"refu").unwrap();
        let mut refusals = Refusals::open(dir.path());
        refusals.note(3, &assign(2, &"x".repeat(5000)), Refusal::Observe, "would");
        let all = read(dir.path()).unwrap();
        let said = all
            .iter()
            .map(|one| (one.at_us, one.refusal, one.why.as_str()));
        assert_eq!(
            said.collect::<Vec<_>>(),
            [
                (1, Refusal::Rate, "used up"),
                (3, Refusal::Observe, "would")
            ]
        );
        assert_eq!(
            all[0].parameters[0],
            ("day".to_owned(), "monday".to_owned())
        );
        assert_eq!(all[1].parameters[0].1.chars().count(), TEXT_CHARS + 1);
        assert_eq!(all[1].parameters[1].1, "true");
    }

    #[test]
    fn a_run_is_forgotten_in_both_files_and_what_is_noted_next_is_kept() {
        let dir = crate::testing::tempdir().unwrap();
        let mut refusals = Refusals::open(dir.path());
        let of = |attempt: u128, run: u128| Assign {
            run: RunId(run),
            ..assign(attempt, "monday")
        };
        for n in 0..4 {
            refusals.note(
                n,
                &of(n.into(), 7 + u128::from(n % 2)),
                Refusal::Rate,
                "why",
            );
        }
        std::fs::rename(dir.path().join(FILE), dir.path().join(OLDER)).unwrap();
        let mut refusals = Refusals::open(dir.path());
        refusals.note(4, &of(4, 7), Refusal::Rate, "why");
        refusals.note(5, &of(5, 8), Refusal::Rate, "why");
        // A line that a crash tore, and what it left beside the files.
        let torn = b"{\"at_us\": 2, \"run\": \"00000000000000000000000000000007\"";
        let mut file = OpenOptions::new()
            .append(true)
            .open(dir.path().join(FILE))
            .unwrap();
        file.write_all(torn).unwrap();
        std::fs::write(dir.path().join("refusals.tmp"), torn).unwrap();
        let run = RunId(7).to_string();
        assert_eq!(refusals.forget(&run).unwrap(), 3);
        refusals.note(6, &of(6, 8), Refusal::Rate, "why");
        let left = read(dir.path()).unwrap();
        let left = left.iter().map(|one| one.at_us).collect::<Vec<_>>();
        assert_eq!(left, [1, 3, 5, 6]);
        for entry in std::fs::read_dir(dir.path()).unwrap() {
            let path = entry.unwrap().path();
            let text = std::fs::read_to_string(&path).unwrap();
            assert!(!text.contains(&run), "{}: {text}", path.display());
            let mode = path.metadata().unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{}", path.display());
        }
        assert_eq!(refusals.forget(&run).unwrap(), 0);
    }

    #[test]
    fn a_flood_of_refusals_takes_two_files_and_the_newest_stay() {
        let dir = crate::testing::tempdir().unwrap();
        let mut refusals = Refusals::open(dir.path());
        let text = "y".repeat(4096);
        for n in 0..6000 {
            refusals.note(n, &assign(n.into(), &text), Refusal::Full, &text);
        }
        let bytes = |name| {
            dir.path()
                .join(name)
                .metadata()
                .map_or(0, |file| file.len())
        };
        assert!(bytes(FILE) <= FILE_BYTES, "{}", bytes(FILE));
        assert!(bytes(OLDER) < FILE_BYTES + 4096, "{}", bytes(OLDER));
        let all = read(dir.path()).unwrap();
        assert_eq!(all.last().map(|one| one.at_us), Some(5999));
        assert!(all.len() > 1000, "{}", all.len());
        assert!(all.windows(2).all(|two| two[0].at_us + 1 == two[1].at_us));
    }

    #[test]
    fn what_nobody_can_read_goes_with_any_run_and_no_more_is_read_than_was_ever_written() {
        let dir = crate::testing::tempdir().unwrap();
        let file = dir.path().join(FILE);
        std::fs::write(&file, "{\"at_us\": 2, \"run\": \"canary").unwrap();
        assert_eq!(forget(dir.path(), &RunId(7).to_string()).unwrap(), 0);
        assert_eq!(std::fs::read(&file).unwrap(), b"");
        let mut refusals = Refusals::open(dir.path());
        refusals.note(1, &assign(1, "monday"), Refusal::Rate, &"x".repeat(5000));
        let one = std::fs::read(&file).unwrap();
        let between = vec![b'\n'; usize::try_from(2 * FILE_BYTES).unwrap()];
        std::fs::write(&file, [&one[..], &between, &one].concat()).unwrap();
        let read = read(dir.path()).unwrap();
        assert_eq!(read.len(), 1);
        assert_eq!(read[0].why.chars().count(), TEXT_CHARS + 1);
    }

    #[test]
    fn a_link_in_its_place_is_not_followed() {
        let dir = crate::testing::tempdir().unwrap();
        let other = dir.path().join("other");
        std::fs::write(&other, "mine").unwrap();
        std::os::unix::fs::symlink(&other, dir.path().join(FILE)).unwrap();
        let mut refusals = Refusals::open(dir.path());
        refusals.note(1, &assign(1, "monday"), Refusal::Rate, "used up");
        assert_eq!(std::fs::read(&other).unwrap(), b"mine");
    }
}
