//! The site's secrets: where each comes from, who may have it, and how it is fetched when an attempt starts.
//!
//! `secrets.toml`, beside the catalogue's directory, names the sources; entries of the catalogue are granted secrets by
//! name. Values are fetched by the runner at the real start of an attempt, off its loop, and leave it in a sealed file
//! without a name that goes to the attempt's keeper. A value is never in a configuration file, an argument, a log line,
//! an error, the journal or the ledger, and nothing of it goes upstream: what is said there is `start_failed{secret}`.
//!
//! `file` is the form of the file, `source` what is believed of it, `read` and `command` fetch, `vault` asks a server,
//! `resolve` bounds all of it in time and number, `look` says whether that would work, `value` is what was fetched,
//! `place` is where files of tasks lie.

mod command;
mod file;
mod look;
mod place;
mod read;
mod resolve;
mod source;
mod value;
#[cfg(feature = "vault")]
mod vault;

use std::time::Duration;

pub(crate) use file::reference;
pub use file::schema;
pub(crate) use look::{Seen, look};
pub use place::Place;
pub(crate) use resolve::remark;
pub use resolve::{Resolver, Unresolved};
pub use source::{Name, Problem, Source, Sources};
pub(crate) use value::Value;

/// Most secrets that one entry is granted.
pub const MOST: usize = outpost_agent_keeper::secrets::MOST;
/// Most bytes of one value.
pub const VALUE_BYTES: usize = outpost_agent_keeper::secrets::VALUE_BYTES;
/// Most secrets that a site defines.
pub const SOURCES: usize = 1024;
/// How long one source may take.
pub const TIMEOUT: Duration = Duration::from_secs(10);
/// How many sources are asked at once; further attempts wait for their turn.
pub const AT_ONCE: usize = 8;
/// The file's name, beside the catalogue's directory.
pub const FILE: &str = "secrets.toml";
