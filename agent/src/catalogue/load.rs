//! Reading the catalogue: all files, all problems, and either a whole catalogue or none.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use outpost_proto::ids::CatalogueVersion;
use outpost_proto::limits::CATALOGUE_ENTRIES;
use outpost_proto::name::EntryName;
use sha2::{Digest, Sha256};

use super::entry::Entry;
use super::file::File;
use super::{Catalogue, lint, paths};

/// Bytes of one catalogue file.
const FILE_BYTES: u64 = 1 << 20;

/// Something wrong in the catalogue.
#[derive(Debug, Clone, PartialEq, Eq)]
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

/// Reads and checks every `*.toml` in `dir`. `spiffe_id` salts the names' hashes.
///
/// # Errors
/// Everything that is wrong, with file, line and entry.
pub fn load(dir: &Path, spiffe_id: &str) -> Result<Catalogue, CatalogueError> {
    let own_uid = rustix::process::geteuid().as_raw();
    let mut loading = Loading {
        own_uid,
        problems: Vec::new(),
        entries: BTreeMap::new(),
        digest: Sha256::new(),
    };
    loading.digest.update(spiffe_id.as_bytes());
    let dir = match dir.canonicalize() {
        Ok(dir) => dir,
        Err(error) => {
            let what = format!("{error}: make the directory, or name another with --catalogue");
            loading.problem(dir, None, None, what);
            return Err(CatalogueError {
                dir: dir.to_owned(),
                problems: loading.problems,
            });
        }
    };
    // Also when it holds links only: whoever can write here can exchange them.
    if let Err(why) = paths::check(&dir, own_uid) {
        loading.problem(&dir, None, None, why);
    }
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
    if !loading.problems.is_empty() {
        return Err(CatalogueError {
            dir,
            problems: loading.problems,
        });
    }
    let digest = loading.digest.finalize();
    let version = u32::from_be_bytes([digest[0], digest[1], digest[2], digest[3]]);
    let entries = loading
        .entries
        .into_iter()
        .map(|(name, (entry, _))| (name, entry))
        .collect();
    Ok(Catalogue {
        dir,
        version: CatalogueVersion(version),
        spiffe_id: spiffe_id.to_owned(),
        entries,
    })
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

struct Loading {
    own_uid: u32,
    problems: Vec<Problem>,
    entries: BTreeMap<EntryName, (Entry, PathBuf)>,
    digest: Sha256,
}

impl Loading {
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
                let line = error.span().map(|span| line_of(&text, span.start));
                return self.problem(path, line, None, error.message().to_owned());
            }
        };
        for (name, raw) in file.entry {
            let line = line_of(&text, name.span().start);
            match Entry::new(name.get_ref(), raw, self.own_uid == 0) {
                Ok(entry) => self.entry(dir, path, line, entry),
                Err(wrong) => {
                    wrong.into_iter().for_each(|what| {
                        self.problem(path, Some(line), Some(name.get_ref()), what)
                    });
                }
            }
        }
    }

    fn entry(&mut self, dir: &Path, path: &Path, line: usize, entry: Entry) {
        let name = entry.name.clone();
        if !entry.dangerous {
            for what in lint::objections(&entry, dir) {
                self.problem(path, Some(line), Some(name.as_str()), what);
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
                self.problem(path, Some(line), Some(name.as_str()), why);
            }
        }
        if let Some((_, other)) = self.entries.get(&name) {
            let what = format!(
                "it is defined a second time; the first is in {}",
                other.display()
            );
            return self.problem(path, Some(line), Some(name.as_str()), what);
        }
        self.entries.insert(name, (entry, path.to_owned()));
    }
}

fn read(path: &Path) -> Result<String, String> {
    let size = path.metadata().map_err(|error| error.to_string())?.len();
    if size > FILE_BYTES {
        return Err(format!("it has {size} bytes and can have {FILE_BYTES}"));
    }
    std::fs::read_to_string(path).map_err(|error| format!("it cannot be read: {error}"))
}

fn line_of(text: &str, offset: usize) -> usize {
    text.get(..offset).unwrap_or(text).matches('\n').count() + 1
}
