//! Reading the catalogue: all files, all problems, and either a whole catalogue or none.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use outpost_proto::ids::CatalogueVersion;
use outpost_proto::limits::CATALOGUE_ENTRIES;
use outpost_proto::name::EntryName;
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::entry::{Entry, Wrong};
use super::file::File;
use super::{Catalogue, advice, lines, lint, parsing, paths};
use crate::secrets::{self, Sources};

/// Bytes of one catalogue file.
const FILE_BYTES: u64 = 1 << 20;

/// Something wrong in the catalogue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// Which file.
    pub file: PathBuf,
    /// Which line, from 1; `None` when it is about the whole file.
    pub line: Option<usize>,
    /// Which entry.
    pub entry: Option<String>,
    /// What is wrong and what would be right.
    pub what: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        if let Some(entry) = &self.entry {
            write!(f, ": entry `{entry}`")?;
        }
        write!(f, ": {}", self.what)
    }
}

/// The catalogue was not accepted; what was in force before stays so.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the catalogue in {dir} was not accepted:{}", list(.problems))]
pub struct CatalogueError {
    /// The directory.
    pub dir: PathBuf,
    /// Everything found.
    pub problems: Vec<Problem>,
}

fn list(problems: &[Problem]) -> String {
    problems
        .iter()
        .map(|problem| format!("\n  {problem}"))
        .collect()
}

/// Everything that can be said about a catalogue.
#[derive(Debug)]
pub struct Survey {
    /// The directory.
    pub dir: PathBuf,
    /// What keeps it from being accepted.
    pub problems: Vec<Problem>,
    /// What is accepted and cannot work on this host.
    pub broken: Vec<Problem>,
    /// What works and is wider than it need be.
    pub remarks: Vec<Problem>,
    /// The catalogue, when nothing keeps it from being accepted.
    pub catalogue: Option<Catalogue>,
}

/// Reads and checks every `*.toml` in `dir`. `spiffe_id` salts the names' hashes.
///
/// # Errors
/// Everything that is wrong, with file, line and entry.
pub fn load(dir: &Path, spiffe_id: &str) -> Result<Catalogue, CatalogueError> {
    let loading = Loading::read(dir, spiffe_id);
    let dir = loading.dir.clone();
    loading
        .accept(spiffe_id)
        .map_err(|problems| CatalogueError { dir, problems })
}

/// As [`load`], and looks besides at what the entries name on this host.
#[must_use]
pub fn survey(dir: &Path, spiffe_id: &str) -> Survey {
    let loading = Loading::read(dir, spiffe_id);
    let dir = loading.dir.clone();
    let (mut broken, mut remarks) = (Vec::new(), Vec::new());
    for (entry, at) in loading.entries.values() {
        let problem = |(key, what): (String, String)| Problem {
            file: at.file.clone(),
            line: Some(at.line_of(entry, &key)),
            entry: Some(entry.name.to_string()),
            what: worded(&key, &what),
        };
        broken.extend(advice::broken(entry, &dir).into_iter().map(problem));
        let wide = advice::remarks(entry, &dir, loading.own_uid, &loading.secrets);
        let others = loading.entries.values().map(|(other, _)| other);
        let shared = advice::shared(entry, others);
        remarks.extend(wide.into_iter().chain(shared).map(problem));
    }
    remarks.extend(loading.about_secrets());
    let (problems, catalogue) = match loading.accept(spiffe_id) {
        Ok(catalogue) => (Vec::new(), Some(catalogue)),
        Err(problems) => (problems, None),
    };
    Survey {
        dir,
        problems,
        broken,
        remarks,
        catalogue,
    }
}

fn files(dir: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "toml")
        {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// Where an entry stands.
struct At {
    file: PathBuf,
    line: usize,
    text: Rc<str>,
}

impl At {
    /// The line of one of an entry's keys; the entry's own when it is not written.
    fn line_of(&self, entry: &Entry, key: &str) -> usize {
        key_line(&self.text, entry.name.as_str(), key).unwrap_or(self.line)
    }
}

fn key_line(text: &str, entry: &str, key: &str) -> Option<usize> {
    let mut path = vec!["entry", entry];
    path.extend(
        key.split_once('.')
            .map_or_else(|| vec![key], |(table, name)| vec![table, name]),
    );
    lines::of_path(text, &path)
}

fn worded(key: &str, why: &str) -> String {
    if key.is_empty() {
        why.to_owned()
    } else {
        format!("{key}: {why}")
    }
}

struct Loading {
    dir: PathBuf,
    own_uid: u32,
    problems: Vec<Problem>,
    entries: BTreeMap<EntryName, (Entry, At)>,
    digest: Sha256,
    secrets: Sources,
    /// The text that `secrets` are from.
    secrets_text: String,
}

impl Loading {
    fn read(dir: &Path, spiffe_id: &str) -> Self {
        let own_uid = rustix::process::geteuid().as_raw();
        let mut loading = Self {
            dir: dir.to_owned(),
            own_uid,
            problems: Vec::new(),
            entries: BTreeMap::new(),
            digest: Sha256::new(),
            secrets: Sources::default(),
            secrets_text: String::new(),
        };
        loading.digest.update(spiffe_id.as_bytes());
        let dir = match dir.canonicalize() {
            Ok(dir) => dir,
            Err(error) => {
                let what = format!("{error}: make the directory, or name another with --catalogue");
                loading.problem(dir, None, None, what);
                return loading;
            }
        };
        loading.dir.clone_from(&dir);
        // Also when it holds links only: whoever can write here can exchange them.
        if let Err(why) = paths::check(&dir, own_uid) {
            loading.problem(&dir, None, None, why);
        }
        // Before the entries, which name them. Not part of the version: where a secret comes from changes no entry.
        loading.secrets(&dir);
        match files(&dir) {
            Ok(files) => files.iter().for_each(|file| loading.file(&dir, file)),
            Err(error) => loading.problem(&dir, None, None, error.to_string()),
        }
        if loading.entries.len() > CATALOGUE_ENTRIES {
            let what = format!(
                "it has {} entries and can have {CATALOGUE_ENTRIES}",
                loading.entries.len()
            );
            loading.problem(&dir, None, None, what);
        }
        loading
    }

    fn accept(self, spiffe_id: &str) -> Result<Catalogue, Vec<Problem>> {
        if !self.problems.is_empty() {
            return Err(self.problems);
        }
        let digest = self.digest.finalize();
        let version = u32::from_be_bytes([digest[0], digest[1], digest[2], digest[3]]);
        let entries = self.entries.into_iter();
        Ok(Catalogue {
            dir: self.dir,
            version: CatalogueVersion(version),
            spiffe_id: spiffe_id.to_owned(),
            entries: entries.map(|(name, (entry, _))| (name, entry)).collect(),
            secrets: Arc::new(self.secrets),
        })
    }

    fn secrets(&mut self, dir: &Path) {
        let (secrets, text, problems) = Sources::beside(dir, self.own_uid);
        for problem in problems {
            let line = problem.offset.map(|at| lines::of_offset(&text, at));
            self.problem(secrets.file(), line, None, problem.what);
        }
        (self.secrets, self.secrets_text) = (secrets, text);
    }

    /// What works and is wider than it need be, or will not work, of where secrets come from.
    fn about_secrets(&self) -> Vec<Problem> {
        let remark = |(name, source): (&secrets::Name, &secrets::Source)| {
            let line = lines::of_path(&self.secrets_text, &["secret", name.as_str()]);
            let why = secrets::remark(source)?;
            Some(Problem {
                file: self.secrets.file().to_owned(),
                line,
                entry: None,
                what: format!("secret `{name}`: {why}"),
            })
        };
        self.secrets.iter().filter_map(remark).collect()
    }

    fn problem(&mut self, file: &Path, line: Option<usize>, entry: Option<&str>, what: String) {
        self.problems.push(Problem {
            file: file.to_owned(),
            line,
            entry: entry.map(str::to_owned),
            what,
        });
    }

    fn file(&mut self, dir: &Path, path: &Path) {
        if let Err(why) = paths::check(path, self.own_uid) {
            return self.problem(path, None, None, why);
        }
        let text = match read(path) {
            Ok(text) => text,
            Err(why) => return self.problem(path, None, None, why),
        };
        self.digest.update((text.len() as u64).to_be_bytes());
        self.digest.update(text.as_bytes());
        let file = match toml::from_str::<File>(&text) {
            Ok(file) => file,
            Err(error) => {
                let offset = error.span().map(|span| span.start);
                let line = offset.map(|offset| lines::of_offset(&text, offset));
                let what = parsing::told(&text, offset, error.message());
                return self.problem(path, line, None, what);
            }
        };
        let text: Rc<str> = text.into();
        for (name, raw) in file.entry {
            let at = At {
                file: path.to_owned(),
                line: lines::of_offset(&text, name.span().start),
                text: Rc::clone(&text),
            };
            match Entry::new(name.get_ref(), raw, self.own_uid == 0) {
                Ok(entry) => self.entry(dir, at, entry),
                Err(wrong) => self.wrong(&at, name.get_ref(), wrong),
            }
        }
    }

    fn wrong(&mut self, at: &At, name: &str, wrong: Vec<Wrong>) {
        for Wrong { key, why } in wrong {
            let line = key_line(&at.text, name, &key).unwrap_or(at.line);
            self.problem(&at.file, Some(line), Some(name), worded(&key, &why));
        }
    }

    fn entry(&mut self, dir: &Path, at: At, entry: Entry) {
        let name = entry.name.clone();
        if !entry.dangerous {
            for (key, why) in lint::objections(&entry, dir, &self.secrets) {
                let line = at.line_of(&entry, &key);
                let why = format!("{why}, or set dangerous = true");
                self.problem(
                    &at.file,
                    Some(line),
                    Some(name.as_str()),
                    worded(&key, &why),
                );
            }
        }
        for grant in &entry.secrets {
            if let Err(why) = self.secrets.get(&grant.secret) {
                let key = format!("secret.{}", grant.secret);
                let line = at.line_of(&entry, &key);
                self.problem(
                    &at.file,
                    Some(line),
                    Some(name.as_str()),
                    worded(&key, &why),
                );
            }
        }
        for element in entry
            .argv
            .iter()
            .filter(|element| element.is_catalogue_file())
        {
            let Some(file) = element.fixed(dir) else {
                continue;
            };
            if let Err(why) = paths::check(Path::new(&file), self.own_uid) {
                let line = at.line_of(&entry, "argv");
                self.problem(&at.file, Some(line), Some(name.as_str()), why);
            }
        }
        if let Some((_, other)) = self.entries.get(&name) {
            let what = format!(
                "it is defined a second time; the first is in {}:{}",
                other.file.display(),
                other.line
            );
            return self.problem(&at.file, Some(at.line), Some(name.as_str()), what);
        }
        self.entries.insert(name, (entry, at));
    }
}

fn read(path: &Path) -> Result<String, String> {
    let size = path.metadata().map_err(|error| error.to_string())?.len();
    if size > FILE_BYTES {
        return Err(format!("it has {size} bytes and can have {FILE_BYTES}"));
    }
    std::fs::read_to_string(path).map_err(|error| format!("it cannot be read: {error}"))
}
