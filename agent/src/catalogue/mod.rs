//! The site's catalogue: the only things that may run here, and with which parameters.
//!
//! Read from `catalogue.d/*.toml` as a whole or not at all. The orchestrator can only name an entry and give values
//! that the entry's schema accepts; everything else is refused, with an enum upstream and the full reason in the site's
//! own log. `load` reads and checks, `entry` is what an entry is, `lint` refuses what is too wide, `paths` refuses what
//! others could change, `advice` says what will not work or is
//! wider than it need be, `schema` describes the files, `plan` turns an accepted assignment into a program with arguments.

mod advice;
mod entry;
mod file;
mod lines;
mod lint;
mod load;
mod param;
mod parsing;
mod paths;
mod plan;
mod schema;
mod suggest;

use std::collections::BTreeMap;
use std::path::PathBuf;

use outpost_agent_core::event::{Catalog, Terms};
use outpost_proto::ids::CatalogueVersion;
use outpost_proto::message::{self, Assign};
use outpost_proto::name::{EntryHash, EntryName};
use outpost_proto::outcome::Refusal;

pub use entry::{Entry, RunAs};
pub use load::{CatalogueError, Problem, Survey, load, survey};
pub use param::{Kind as ParamKind, Param};
pub use plan::Plan;
pub use schema::{reference, schema};
pub(crate) use suggest::did_you_mean;

/// An accepted catalogue: immutable until the next accepted reload.
#[derive(Debug)]
pub struct Catalogue {
    dir: PathBuf,
    version: CatalogueVersion,
    spiffe_id: String,
    entries: BTreeMap<EntryName, Entry>,
}

impl Catalogue {
    /// Changes whenever an entry's content does.
    #[must_use]
    pub fn version(&self) -> CatalogueVersion {
        self.version
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

#[cfg(test)]
mod tests;
