//! Whose signature counts by the word of the person who checks: roots that were named to `verify`, in the place of those that
//! the ledger, or an export of it, brings along. Whoever makes an export can bring roots of his own.

use std::collections::BTreeSet;
use std::path::Path;

use outpost_certs::pem;
use sha2::{Digest as _, Sha256};

use super::bounds::{self, ANCHORS, SMALL_BYTES};
use super::trust::{Anchor, Trust};
use super::{LedgerError, hex};

/// Why it is not known which roots are meant.
#[derive(Debug, thiserror::Error)]
pub enum RootsError {
    /// The file cannot be read.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// Neither.
    #[error(
        "{root} is neither the SHA-256 of a root (64 hex digits, colons allowed) nor a file with at most {ANCHORS} certificates, as PEM or DER"
    )]
    Neither {
        /// What was said.
        root: String,
    },
}

/// Roots that somebody named.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Roots {
    /// DER.
    ders: Vec<Vec<u8>>,
    /// SHA-256, hex.
    hashes: BTreeSet<String>,
}

impl Roots {
    /// Each the SHA-256 of a root, or a file with certificates; `None` when nothing was named.
    ///
    /// # Errors
    /// [`RootsError`]
    pub fn named(all: &[String]) -> Result<Option<Self>, RootsError> {
        let mut roots = Self::default();
        for root in all {
            match as_hash(root) {
                Some(hash) => drop(roots.hashes.insert(hash)),
                None => roots.add_file(root)?,
            }
        }
        Ok((!all.is_empty()).then_some(roots))
    }

    fn add_file(&mut self, root: &str) -> Result<(), RootsError> {
        let neither = || RootsError::Neither {
            root: root.to_owned(),
        };
        let text = bounds::read(Path::new(root), SMALL_BYTES)?.ok_or_else(neither)?;
        let ders: Vec<Vec<u8>> = match pem::certificates(&text) {
            Ok(all) => all.iter().map(|der| der.to_vec()).collect(),
            // DER: a sequence of some length.
            Err(_) if text.starts_with(&[0x30, 0x82]) => vec![text],
            Err(_) => return Err(neither()),
        };
        if self.ders.len() + ders.len() > ANCHORS {
            return Err(neither());
        }
        self.hashes.extend(ders.iter().map(|der| hash(der)));
        self.ders.extend(ders);
        Ok(())
    }

    /// What counts of what a ledger brings along: these roots and no others, for the same trust domains, or where it brings
    /// nothing for that of the agent whose it is said to be.
    pub(super) fn of(&self, brought: &Trust, spiffe_id: Option<&str>) -> Trust {
        let mut anchors = brought.anchors.clone();
        if anchors.is_empty() {
            anchors.extend(spiffe_id.and_then(|id| Anchor::new(id, &[])));
        }
        for anchor in &mut anchors {
            let mut ders = anchor.ders();
            ders.retain(|der| self.hashes.contains(&hash(der)));
            ders.extend(self.ders.iter().cloned());
            anchor.set(&ders);
        }
        Trust { anchors }
    }

    /// Those that were named.
    pub(super) fn hashes(&self) -> &BTreeSet<String> {
        &self.hashes
    }
}

/// As people and tools write it: in either case, with colons or without.
fn as_hash(text: &str) -> Option<String> {
    let digits: String = text.chars().filter(|c| *c != ':').collect();
    let is_hash = digits.len() == 64 && digits.chars().all(|c| c.is_ascii_hexdigit());
    is_hash.then(|| digits.to_ascii_lowercase())
}

fn hash(der: &[u8]) -> String {
    hex(&Sha256::digest(der))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_root_is_named_by_its_hash_or_a_file() {
        let dir = crate::testing::tempdir().unwrap();
        let der = [&[0x30, 0x82, 1, 0][..], &[7; 256]].concat();
        let (pem, plain) = (dir.path().join("root.pem"), dir.path().join("root.der"));
        std::fs::write(&pem, pem::encode_certificate(&der)).unwrap();
        std::fs::write(&plain, &der).unwrap();
        let expected = hash(&der);
        let colons: Vec<_> = expected.to_uppercase().chars().collect();
        let colons: Vec<String> = colons.chunks(2).map(|two| two.iter().collect()).collect();
        for named in [
            expected.clone(),
            colons.join(":"),
            pem.display().to_string(),
            plain.display().to_string(),
        ] {
            let roots = Roots::named(&[named]).unwrap().unwrap();
            assert_eq!(roots.hashes().iter().collect::<Vec<_>>(), [&expected]);
        }
        assert_eq!(Roots::named(&[]).unwrap(), None);
        std::fs::write(&plain, "no certificate").unwrap();
        for named in [&expected[1..], "", "/nowhere", &plain.display().to_string()] {
            let refused = Roots::named(&[named.to_owned()]);
            assert!(refused.is_err(), "{named}: {refused:?}");
        }
    }
}
