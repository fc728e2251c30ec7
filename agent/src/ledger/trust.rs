//! Whose signature under a receipt counts: the roots that enrolment settled, kept beside the ledger by the runner itself, so
//! that nothing depends on what the network process says or holds.

use std::collections::BTreeSet;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use outpost_certs::receipt::{Witness, WitnessError};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::bounds::{self, ANCHORS, SMALL_BYTES};
use super::signed::Named;
use super::{LedgerError, hex};
use crate::files;

/// The file's name.
pub(super) const FILE: &str = "trust.json";

/// Why it cannot be known whose signature counts.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// The file cannot be read or written.
    #[error("{what} {path}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// On this.
        path: std::path::PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The file does not parse.
    #[error(
        "{path} is not what was written: it does not parse, or holds more than any agent writes"
    )]
    Unreadable {
        /// Which.
        path: std::path::PathBuf,
    },
}

/// The roots of one trust domain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Anchor {
    /// First part of the orchestrator's SPIFFE identity.
    pub trust_domain: String,
    /// DER, base64.
    pub roots: Vec<String>,
    /// SPIFFE id of the agent that was enrolled; empty from an agent of an earlier version.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub agent: String,
}

impl Anchor {
    /// For the trust domain of an agent's SPIFFE id; `None` when that is none.
    #[must_use]
    pub fn new(spiffe_id: &str, roots: &[Vec<u8>]) -> Option<Self> {
        let (trust_domain, _) = spiffe_id.strip_prefix("spiffe://")?.split_once('/')?;
        Some(Self {
            trust_domain: trust_domain.to_owned(),
            roots: roots.iter().map(|der| STANDARD.encode(der)).collect(),
            agent: spiffe_id.to_owned(),
        })
    }

    /// In the place of its roots.
    pub(super) fn set(&mut self, ders: &[Vec<u8>]) {
        self.roots = ders.iter().map(|der| STANDARD.encode(der)).collect();
    }

    /// DER.
    #[must_use]
    pub fn ders(&self) -> Vec<Vec<u8>> {
        let ders = self.roots.iter().map(|root| STANDARD.decode(root));
        ders.filter_map(Result::ok).collect()
    }
}

/// All that were ever settled by enrolments of this state directory, the newest last.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Trust {
    /// Each once.
    pub anchors: Vec<Anchor>,
}

impl Trust {
    /// Those beside the ledger in `dir`; nobody when there is no file.
    ///
    /// # Errors
    /// [`TrustError`]
    pub fn read(dir: &Path) -> Result<Self, TrustError> {
        let path = dir.join(FILE);
        match bounds::read(&path, SMALL_BYTES) {
            Ok(Some(bytes)) => {
                let trust: Option<Self> = serde_json::from_slice(&bytes).ok();
                let trust = trust.filter(|trust| trust.anchors.len() <= ANCHORS);
                trust.ok_or(TrustError::Unreadable { path })
            }
            Ok(None) => Ok(Self::default()),
            Err(LedgerError::Io { source, .. }) => Err(TrustError::Io {
                what: "reading",
                path,
                source,
            }),
            Err(
                LedgerError::Damaged { .. }
                | LedgerError::Newer { .. }
                | LedgerError::Beyond { .. },
            ) => Err(TrustError::Unreadable { path }),
        }
    }

    /// The agents that enrolments named.
    #[must_use]
    pub fn agents(&self) -> Vec<Named> {
        let ids = self.anchors.iter().map(|anchor| anchor.agent.as_str());
        ids.filter_map(Named::of).collect()
    }

    /// SHA-256 of each root, in hex: to be compared with what the orchestrator's people say.
    #[must_use]
    pub fn fingerprints(&self) -> Vec<String> {
        let ders = self.anchors.iter().flat_map(Anchor::ders);
        let all: BTreeSet<_> = ders.map(|der| hex(&Sha256::digest(der))).collect();
        all.into_iter().collect()
    }

    /// Adds one, durably, if it is new.
    ///
    /// # Errors
    /// [`TrustError`]
    pub fn add(dir: &Path, anchor: Anchor) -> Result<Self, TrustError> {
        let mut trust = Self::read(dir)?;
        if trust.anchors.last() == Some(&anchor) {
            return Ok(trust);
        }
        trust.anchors.retain(|known| *known != anchor);
        trust.anchors.push(anchor);
        let beyond = trust.anchors.len().saturating_sub(ANCHORS);
        trust.anchors.drain(..beyond);
        let path = dir.join(FILE);
        let text = serde_json::to_vec_pretty(&trust).unwrap_or_default();
        match files::replace(&path, &text) {
            Ok(()) => Ok(trust),
            Err(source) => Err(TrustError::Io {
                what: "writing",
                path,
                source,
            }),
        }
    }

    /// The server with this chain (DER, leaf first), if it is an orchestrator of ours.
    ///
    /// # Errors
    /// [`WitnessError`], of the newest anchor.
    pub fn witness(&self, chain: &[Vec<u8>]) -> Result<Witness, WitnessError> {
        let mut refused = WitnessError::Missing;
        for anchor in self.anchors.iter().rev() {
            match Witness::new(chain, &anchor.ders(), &anchor.trust_domain) {
                Ok(witness) => return Ok(witness),
                Err(error) if refused == WitnessError::Missing => refused = error,
                Err(_) => {}
            }
        }
        Err(refused)
    }
}
