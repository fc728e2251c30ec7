//! The site's catalogue: the only things that may run here, and with which parameters.
//!
//! Read from `catalogue.d/*.toml` as a whole or not at all. The orchestrator can only name an entry and give values
//! that the entry's schema accepts; everything else is refused, with an enum upstream and the full reason in the site's
//! own log. `load` reads and checks, `entry` is what an entry is, `lint` refuses what is too wide, `script` knows what
//! interpreters read, `paths` refuses what others could change, `verify` looks again before each start, `advice` says
//! what will not work or is wider than it need be, `schema` describes the files, `plan` turns an accepted assignment into
//! a program with arguments.

mod advice;
mod entry;
mod file;
mod grant;
mod lines;
mod lint;
mod load;
mod param;
mod parsing;
mod paths;
mod plan;
mod schema;
mod script;
mod suggest;
mod verify;
mod window;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use outpost_agent_core::event::{Catalog, Terms};
use outpost_proto::ids::CatalogueVersion;
use outpost_proto::message::{self, Assign, ParamValue};
use outpost_proto::name::{EntryHash, EntryName, ParamName};
use outpost_proto::outcome::Refusal;

use crate::secrets::Sources;

pub use entry::{Entry, RunAs};
pub use grant::Grant;
pub use load::{CatalogueError, Problem, Survey, load, survey};
pub use param::{Kind as ParamKind, Param};
pub(crate) use paths::check as check_path;
pub use plan::Plan;
pub use schema::{reference, schema};
pub(crate) use suggest::did_you_mean;
pub use window::Window;

/// An accepted catalogue: immutable until the next accepted reload.
#[derive(Debug)]
pub struct Catalogue {
    dir: PathBuf,
    version: CatalogueVersion,
    spiffe_id: String,
    entries: BTreeMap<EntryName, Entry>,
    secrets: Arc<Sources>,
}

/// Refuses a file that anybody but root and the agent's account could change, or put another in the place of.
///
/// # Errors
/// Which part of the path is the trouble, and what to do about it.
pub(crate) fn unchangeable(path: &Path, own_uid: u32) -> Result<(), String> {
    paths::check(path, own_uid)
}

/// A secret's command that is a script under its own name, with what to write instead: the rule of an entry's `argv`.
pub(crate) fn script_as_command(argv: &[String]) -> Option<String> {
    script::objection_to_command(argv)
}

/// Refuses a secret's command of which not everything that it runs is what was looked at: the rules of an entry's `argv`.
///
/// # Errors
/// What others could change, or what to write in front of a script.
pub(crate) fn check_command(argv: &[String], own_uid: u32) -> Result<(), String> {
    let program = argv.first().map(PathBuf::from);
    for file in program.into_iter().chain(script::run_by_command(argv)) {
        unchangeable(&file, own_uid)?;
    }
    script_as_command(argv).map_or(Ok(()), Err)
}

impl Catalogue {
    /// Changes whenever an entry's content does.
    #[must_use]
    pub fn version(&self) -> CatalogueVersion {
        self.version
    }

    /// Where it was read: absolute, without links.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// All entries, by name.
    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.values()
    }

    /// One entry.
    #[must_use]
    pub fn entry(&self, name: &EntryName) -> Option<&Entry> {
        self.entries.get(name)
    }

    /// Where the secrets that its entries are granted come from.
    #[must_use]
    pub fn secrets(&self) -> &Arc<Sources> {
        &self.secrets
    }

    /// What exactly is to be run for this assignment.
    ///
    /// # Errors
    /// The refusal for the wire and the full reason for the site.
    pub fn plan(&self, assign: &Assign) -> Result<Plan, (Refusal, String)> {
        let entry = self
            .entries
            .get(&assign.entry)
            .ok_or_else(|| self.unknown(&assign.entry))?;
        plan::plan(entry, &self.dir, assign).map_err(|why| (Refusal::BadParameters, why))
    }

    fn unknown(&self, name: &EntryName) -> (Refusal, String) {
        let likely = did_you_mean(name.as_str(), self.entries.keys().map(EntryName::as_str));
        let why = format!(
            "the catalogue in {} has no entry `{name}`; `outpost-agent catalogue list` shows what it has{likely}",
            self.dir.display()
        );
        (Refusal::UnknownEntry, why)
    }
}

impl Catalog for Catalogue {
    fn announced(&self) -> message::Catalogue {
        let entries = self.entries.values().map(|entry| message::CatalogueEntry {
            hash: EntryHash::new(&self.spiffe_id, &entry.name),
            retry_safe: entry.retry_safe,
            on_disconnect: entry.on_disconnect,
            grace_s: entry.grace_s,
        });
        message::Catalogue {
            version: self.version,
            entries: entries.collect(),
        }
    }

    fn judge(&self, assign: &Assign) -> Result<Terms, (Refusal, String)> {
        self.plan(assign)?;
        let entry = self
            .entries
            .get(&assign.entry)
            .ok_or_else(|| self.unknown(&assign.entry))?;
        Ok(Terms {
            on_disconnect: entry.on_disconnect,
            max_parallel: entry.max_parallel,
            max_per_hour: entry.max_per_hour,
        })
    }
}

/// What the orchestrator gives an attempt, as texts: what people compare and approve.
pub(crate) fn texts(assign: &Assign) -> BTreeMap<String, String> {
    let text = |(name, value): (&ParamName, &ParamValue)| (name.to_string(), param::as_text(value));
    assign
        .parameters
        .iter()
        .map(|(name, value)| text((name, value)))
        .collect()
}

#[cfg(test)]
mod tests;
