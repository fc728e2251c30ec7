//! A copy of the ledger for somebody else: everything that is needed to check it, on another machine and without this agent,
//! with a list of the files and their hashes.
//!
//! Segments, `receipts.led`, `pruned.json` and `trust.json` are byte for byte those of the state directory, without a torn
//! end. `roots.pem` and `receipts.jsonl` say again, for other programs, what is in them. `docs/ledger.md` describes each.

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use outpost_certs::pem::encode_certificate;
use outpost_proto::message::SessionEnd;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::beside::DAMAGED;
use super::bounds::{self, FILES, LIST_BYTES, SMALL_BYTES};
use super::check::{Finding, Findings, Given, Summary, check, check_with};
use super::damage::{Damage, Weight};
use super::held::{FILE as RECEIPTS, Held};
use super::pruned::{PRUNED, read_pruned};
use super::reader::Walk;
use super::roots::Roots;
use super::signed::Named;
use super::trust::{FILE as TRUST, Trust, TrustError};
use super::{LedgerError, hex, segment_path, segments};
use crate::files;
use crate::state_dir::Identity;

const FORMAT: &str = "outpost-ledger-export-1";
const MANIFEST: &str = "manifest.json";
const MANIFEST_HASH: &str = "manifest.sha256";
const PART_BYTES: usize = 64 * 1024;

/// Why there is no export, or none that can be checked.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The ledger itself is damaged or cannot be read.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The roots cannot be read.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// The file system said no.
    #[error("{what} {path}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// On this.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Somebody's files are there already.
    #[error("{path} is not empty: name a directory that does not exist yet")]
    NotEmpty {
        /// Which.
        path: PathBuf,
    },
    /// The list of files is not there or says something else than was written.
    #[error("{path} is no export's list of files, or is not as it was written")]
    Manifest {
        /// Which.
        path: PathBuf,
    },
}

fn failed<'a>(what: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> ExportError + 'a {
    move |source| ExportError::Io {
        what,
        path: path.to_owned(),
        source,
    }
}

/// One file of an export.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportedFile {
    /// Its name in the directory.
    pub name: String,
    /// Its length.
    pub bytes: u64,
    /// SHA-256, hex.
    pub sha256: String,
}

/// What an export holds, as its `manifest.json` says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Of this file and of what it lists.
    pub format: String,
    /// The agent whose ledger it is.
    pub agent: Identity,
    /// When, in microseconds since 1970, by the site's clock.
    pub exported_us: u64,
    /// By which version of the agent.
    pub version: String,
    /// Head of the chain over all records, hex.
    pub head: String,
    /// All other files, in order of name.
    pub files: Vec<ExportedFile>,
}

/// An export that was made.
#[derive(Debug, Clone, Serialize)]
pub struct Exported {
    /// Where.
    pub directory: PathBuf,
    /// Its files and their bytes.
    pub files: usize,
    /// Bytes of all of them.
    pub bytes: u64,
    /// SHA-256 of `manifest.json`, hex: whoever is told it by another way knows that nothing was changed since.
    pub manifest_sha256: String,
    /// What was found when the copy was checked.
    pub summary: Summary,
    /// What is not as it should be, although every record is as it was written.
    pub findings: Vec<Finding>,
}

/// Copies the ledger in `dir` into `to`, which must not be there or be empty, and checks the copy.
///
/// # Errors
/// [`ExportError`]; what was copied by then stays.
pub fn export(
    dir: &Path,
    to: &Path,
    agent: &Identity,
    exported_us: u64,
) -> Result<Exported, ExportError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(to)
        .map_err(failed("making", to))?;
    let mut there = std::fs::read_dir(to).map_err(failed("reading", to))?;
    if there.next().is_some() {
        return Err(ExportError::NotEmpty {
            path: to.to_owned(),
        });
    }
    let mut files = Vec::new();
    // First: receipts are never for more than what is in the segments that are copied after them.
    let held = Held::read(dir, false)?;
    if held.good.0 > 0 {
        files.push(copy(dir, to, RECEIPTS, held.good.0)?);
    }
    for name in [PRUNED, TRUST, DAMAGED] {
        let path = dir.join(name);
        match path.metadata() {
            Ok(meta) => files.push(copy(dir, to, name, meta.len())?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed("reading", &path)(error)),
        }
    }
    let pruned = read_pruned(to)?.segment;
    for number in segments(dir)?.into_iter().filter(|n| *n > pruned) {
        let mut walk = Walk::segment(dir, number)?;
        while walk.next_record()?.is_some() {}
        let path = segment_path(dir, number);
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        files.push(copy(dir, to, &name, walk.offset())?);
    }
    files.extend(for_others(to, &held)?);
    files.sort_by(|a, b| a.name.cmp(&b.name));
    let (summary, findings) = check(to, true, Some(&whose(agent)))?;
    let manifest = Manifest {
        format: FORMAT.to_owned(),
        agent: agent.clone(),
        exported_us,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        head: summary.head.clone(),
        files,
    };
    let text = serde_json::to_vec_pretty(&manifest).unwrap_or_default();
    write(to, MANIFEST, &text)?;
    let manifest_sha256 = hex(&Sha256::digest(&text));
    let line = format!("{manifest_sha256}  {MANIFEST}\n");
    write(to, MANIFEST_HASH, line.as_bytes())?;
    File::open(to)
        .and_then(|dir| dir.sync_all())
        .map_err(failed("syncing", to))?;
    Ok(Exported {
        directory: to.to_owned(),
        files: manifest.files.len(),
        bytes: manifest.files.iter().map(|file| file.bytes).sum(),
        manifest_sha256,
        summary,
        findings,
    })
}

/// What other programs can read without knowing the ledger's form.
fn for_others(to: &Path, held: &Held) -> Result<Vec<ExportedFile>, ExportError> {
    let trust = Trust::read(to)?;
    let roots = trust.anchors.iter().flat_map(|anchor| anchor.ders());
    let roots: String = roots.map(|der| encode_certificate(&der)).collect();
    let mut files = vec![write(to, "roots.pem", roots.as_bytes())?];
    let mut lines = Vec::new();
    for signed in &held.receipts {
        let chain = signed.chain.iter().map(|der| STANDARD.encode(der));
        let line = serde_json::json!({
            "session_epoch": signed.session_epoch, "frame_count": signed.frame_count,
            "head": hex(&signed.head), "signature": STANDARD.encode(&signed.signature),
            "chain": chain.collect::<Vec<_>>(), "came_us": signed.wall_us,
            "tenant": signed.named.as_ref().map(|named| &named.tenant),
            "agent": signed.named.as_ref().map(|named| &named.agent),
            "since": signed.past.as_ref().map(|past| past.since),
            "before": signed.past.as_ref().map(|past| before(&past.before)),
        });
        lines.extend_from_slice(line.to_string().as_bytes());
        lines.push(b'\n');
    }
    files.push(write(to, "receipts.jsonl", &lines)?);
    Ok(files)
}

fn before(ends: &[SessionEnd]) -> Vec<serde_json::Value> {
    let end = |end: &SessionEnd| {
        serde_json::json!({
            "session_epoch": end.session_epoch.0, "frame_count": end.frame_count, "head": hex(&end.head),
        })
    };
    ends.iter().map(end).collect()
}

/// Which agent's an export says that it is.
fn whose(agent: &Identity) -> Named {
    Named {
        tenant: agent.tenant.clone(),
        agent: agent.agent.clone(),
    }
}

/// Checks an export: its records first, so that what was done to one is named, then each file against the list, and the
/// list against what is there. `roots`: those under which signatures count, in the place of those that it brings along.
///
/// # Errors
/// [`ExportError::Ledger`] for the first record that is not as it was written, [`ExportError::Manifest`] for the list.
pub fn check_export(
    dir: &Path,
    roots: Option<&Roots>,
) -> Result<(Manifest, Summary, Vec<Finding>), ExportError> {
    let manifest = read_manifest(dir)?;
    let there = bounds::names(dir)?;
    let is_there = |file: &&ExportedFile| there.contains(OsStr::new(&file.name));
    if let Some(file) = manifest.files.iter().find(|file| !is_there(file)) {
        let kind = if file.name.ends_with(".led") && file.name != RECEIPTS {
            Damage::MissingSegment
        } else {
            Damage::Truncated
        };
        return Err(damaged(kind, "a missing file", dir.join(&file.name)).into());
    }
    let given = Given {
        whose: Some(&whose(&manifest.agent)),
        spiffe_id: Some(&manifest.agent.spiffe_id),
        roots,
    };
    let (summary, found) = check_with(dir, true, given)?;
    let mut findings = Findings::default();
    for Finding { kind, what, path } in found {
        findings.add(kind, what, path);
    }
    for file in &manifest.files {
        if let Some((kind, what)) = compare(dir, file)? {
            findings.add(kind, what, dir.join(&file.name));
        }
    }
    let listed = manifest.files.iter().map(|file| file.name.as_str());
    let listed: BTreeSet<_> = listed.chain([MANIFEST, MANIFEST_HASH]).collect();
    let is_listed = |name: &OsString| name.to_str().is_some_and(|name| listed.contains(name));
    for name in there.iter().filter(|name| !is_listed(name)) {
        let what = "it is not in the list of files: it was put there later".to_owned();
        findings.add(Damage::UnlistedFile, what, dir.join(name));
    }
    let mut findings = findings.into_all();
    let damaged = |finding: &Finding| finding.kind.weight() == Weight::Damaged;
    if summary.head != manifest.head && !findings.iter().any(damaged) {
        let what = "the ledger ends with another head than the list of files says".to_owned();
        findings.push(Finding {
            kind: Damage::Truncated,
            what,
            path: dir.join(MANIFEST),
        });
    }
    Ok((manifest, summary, findings))
}

fn read_manifest(dir: &Path) -> Result<Manifest, ExportError> {
    let (path, hash_path) = (dir.join(MANIFEST), dir.join(MANIFEST_HASH));
    let none = |path: &Path| failed("reading", path)(io::ErrorKind::NotFound.into());
    let text = bounds::read(&path, LIST_BYTES)?.ok_or_else(|| none(&path))?;
    let says = bounds::read(&hash_path, SMALL_BYTES)?.ok_or_else(|| none(&hash_path))?;
    let line = format!("{}  {MANIFEST}\n", hex(&Sha256::digest(&text)));
    let manifest: Option<Manifest> = serde_json::from_slice(&text).ok();
    let manifest = manifest.filter(|manifest| {
        let plain = |file: &ExportedFile| !file.name.contains('/') && file.name != "..";
        line.as_bytes() == says
            && manifest.format == FORMAT
            && manifest.files.len() <= FILES
            && manifest.files.iter().all(plain)
    });
    manifest.ok_or(ExportError::Manifest { path })
}

fn compare(dir: &Path, listed: &ExportedFile) -> Result<Option<(Damage, String)>, ExportError> {
    let path = dir.join(&listed.name);
    let file = files::open_plain(&path).map_err(failed("opening", &path))?;
    let bytes = file.metadata().map_err(failed("reading", &path))?.len();
    let says = |kind| {
        let what = format!("{bytes} bytes, and the list says {}", listed.bytes);
        Some((kind, what))
    };
    Ok(match bytes.cmp(&listed.bytes) {
        Ordering::Less => says(Damage::Truncated),
        Ordering::Greater => says(Damage::Tampered),
        Ordering::Equal if hash(&path, file)? == listed.sha256 => None,
        Ordering::Equal => Some((
            Damage::Tampered,
            "other bytes than the list says".to_owned(),
        )),
    })
}

fn damaged(kind: Damage, what: &str, path: PathBuf) -> LedgerError {
    LedgerError::Damaged {
        kind,
        what: what.to_owned(),
        path,
        offset: 0,
    }
}

fn hash(path: &Path, mut file: File) -> Result<String, ExportError> {
    let (mut hasher, mut part) = (Sha256::new(), vec![0; PART_BYTES]);
    loop {
        match file.read(&mut part).map_err(failed("reading", path))? {
            0 => return Ok(hex(&hasher.finalize())),
            read => hasher.update(&part[..read]),
        }
    }
}

fn make(path: &Path) -> Result<File, ExportError> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(failed("making", path))
}

/// Copies so many bytes of a file.
fn copy(from: &Path, to: &Path, name: &str, bytes: u64) -> Result<ExportedFile, ExportError> {
    let (source, path) = (from.join(name), to.join(name));
    let mut reads = File::open(&source)
        .map_err(failed("opening", &source))?
        .take(bytes);
    let mut writes = make(&path)?;
    let copied = io::copy(&mut reads, &mut writes).map_err(failed("writing", &path))?;
    writes.sync_all().map_err(failed("syncing", &path))?;
    let copy = File::open(&path).map_err(failed("opening", &path))?;
    let sha256 = hash(&path, copy)?;
    Ok(ExportedFile {
        name: name.to_owned(),
        bytes: copied,
        sha256,
    })
}

fn write(to: &Path, name: &str, text: &[u8]) -> Result<ExportedFile, ExportError> {
    let path = to.join(name);
    let mut file = make(&path)?;
    file.write_all(text)
        .and_then(|()| file.sync_all())
        .map_err(failed("writing", &path))?;
    Ok(ExportedFile {
        name: name.to_owned(),
        bytes: text.len() as u64,
        sha256: hex(&Sha256::digest(text)),
    })
}
