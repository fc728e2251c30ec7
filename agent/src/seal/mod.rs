//! Encryption at rest: the site's keys, and what is encrypted with them.
//!
//! A site key never leaves the process that read it: each attempt's log, and each file of a run, has a key of its own that
//! is derived from the site's with fresh chance. The keeper gets the former ([`SiteKeys::for_attempt`]), and writes the log
//! with it; the runner itself encrypts what runs leave (`runs`). Commands that show these files read the site's keys
//! themselves (`load`).

mod attributes;
pub(crate) mod book;
mod list;
mod load;
pub(crate) mod log;
pub(crate) mod record;
pub(crate) mod runs;
mod walk;

use std::path::PathBuf;

use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Prk, Salt};
use outpost_agent_keeper::seal::{DataKey, Header, KeyId, Kind, SealSpec, SealedWith, Witness};
use outpost_proto::ids::AttemptId;
use zeroize::Zeroizing;

pub(crate) use list::Rest;
pub(crate) use load::{KeyArgs, make};

/// A site's key: 32 random bytes, and the name that it has in files.
pub struct SiteKey {
    bytes: Zeroizing<[u8; 32]>,
    id: KeyId,
}

impl std::fmt::Debug for SiteKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SiteKey({})", self.id)
    }
}

/// The keys of a site: the first encrypts, all of them open.
#[derive(Debug)]
pub struct SiteKeys {
    keys: Vec<SiteKey>,
    files: Vec<PathBuf>,
}

/// The key that a file needs is not here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "it is encrypted with the site key {0}, which is not given: give it with --site-key-file (OUTPOST_AGENT_SITE_KEY_FILE) or --site-key-credential, after the present one if there is one"
)]
pub struct MissingKey(pub KeyId);

/// The library or the kernel refused what neither does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no key can be made: the kernel gave no randomness, or the encryption failed")]
pub struct NoKey;

/// 32 bytes, as every key here.
struct Whole;

impl KeyType for Whole {
    fn len(&self) -> usize {
        32
    }
}

impl SiteKey {
    /// Takes a key's bytes.
    ///
    /// # Errors
    /// When the library refuses.
    pub fn new(bytes: Zeroizing<[u8; 32]>) -> Result<Self, NoKey> {
        let mut id = [0; 32];
        let derived = Prk::new_less_safe(HKDF_SHA256, &*bytes);
        let info: [&[u8]; 1] = [b"outpost site key id 1"];
        let okm = derived.expand(&info, Whole).map_err(|_| NoKey)?;
        okm.fill(&mut id).map_err(|_| NoKey)?;
        let mut first = [0; 8];
        first.copy_from_slice(&id[..8]);
        Ok(Self {
            bytes,
            id: KeyId(first),
        })
    }

    /// Which one it is: tells nothing about it.
    #[must_use]
    pub fn id(&self) -> KeyId {
        self.id
    }

    fn data_key(&self, salt: &[u8; 32], kind: Kind, subject: [u8; 16]) -> Result<DataKey, NoKey> {
        let purpose: &[u8] = match kind {
            Kind::Log => b"outpost data key 1 log",
            Kind::RunFile => b"outpost data key 1 run file",
            Kind::RunList => b"outpost data key 1 run list",
        };
        self.derive(salt, purpose, subject)
    }

    fn derive(&self, salt: &[u8; 32], purpose: &[u8], subject: [u8; 16]) -> Result<DataKey, NoKey> {
        let mut key = Zeroizing::new([0; 32]);
        let derived = Salt::new(HKDF_SHA256, salt).extract(&*self.bytes);
        let info = [purpose, &subject];
        let okm = derived.expand(&info, Whole).map_err(|_| NoKey)?;
        okm.fill(&mut *key).map_err(|_| NoKey)?;
        Ok(DataKey::new(key))
    }

    fn book(&self, salt: &[u8; 32]) -> Result<Witness, NoKey> {
        let key = self.derive(salt, b"outpost data key 1 book", [0; 16])?;
        Ok(Witness::new(key, [0; 16]))
    }
}

impl SiteKeys {
    /// `keys`: the first one encrypts; `None` when there is none.
    #[must_use]
    pub fn new(keys: Vec<SiteKey>) -> Option<Self> {
        let files = Vec::new();
        (!keys.is_empty()).then_some(Self { keys, files })
    }

    /// The same, with the files and directories that they were read from.
    #[must_use]
    pub(crate) fn read_from(mut self, files: Vec<PathBuf>) -> Self {
        self.files = files;
        self
    }

    /// What they were read from: nothing that a task may look at.
    #[must_use]
    pub fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// The one that encrypts.
    fn first(&self) -> Result<&SiteKey, NoKey> {
        self.keys.first().ok_or(NoKey)
    }

    /// Which ones there are, the one that encrypts first.
    #[must_use]
    pub fn ids(&self) -> Vec<KeyId> {
        self.keys.iter().map(SiteKey::id).collect()
    }

    /// What a keeper needs for an attempt's log.
    ///
    /// # Errors
    /// When no key can be made.
    pub fn for_attempt(&self, attempt: AttemptId) -> Result<SealSpec, NoKey> {
        let salt = salt()?;
        let key = self.first()?;
        Ok(SealSpec {
            key: key.data_key(&salt, Kind::Log, attempt.0.to_be_bytes())?,
            key_id: key.id,
            salt,
        })
    }

    /// A header and a key for a file that is to be encrypted.
    fn for_file(&self, subject: [u8; 16], part: [u8; 16]) -> Result<(Header, DataKey), NoKey> {
        self.fresh(Kind::RunFile, subject, part)
    }

    /// The same for the list of a run's files.
    fn for_list(&self, run: [u8; 16]) -> Result<(Header, DataKey), NoKey> {
        self.fresh(Kind::RunList, run, [0; 16])
    }

    fn fresh(
        &self,
        kind: Kind,
        subject: [u8; 16],
        part: [u8; 16],
    ) -> Result<(Header, DataKey), NoKey> {
        let salt = salt()?;
        let key = self.first()?;
        let header = Header {
            key_id: key.id,
            salt,
            kind,
            subject,
            part,
        };
        Ok((header, key.data_key(&salt, kind, subject)?))
    }

    /// What tells whether an attempt's record is as its keeper wrote it.
    ///
    /// # Errors
    /// When the site key is none of these.
    fn witness(&self, with: &SealedWith, attempt: [u8; 16]) -> Result<Witness, MissingKey> {
        let key = self.key_of(&Header {
            key_id: with.key_id,
            salt: with.salt,
            kind: Kind::Log,
            subject: attempt,
            part: [0; 16],
        })?;
        Ok(Witness::new(key, attempt))
    }

    /// What signs a new book of encrypted logs, and what it says of that in the open.
    fn for_book(&self) -> Result<(SealedWith, Witness), NoKey> {
        let key = self.first()?;
        let with = SealedWith {
            key_id: key.id,
            salt: salt()?,
        };
        Ok((with, key.book(&with.salt)?))
    }

    /// What tells whether a book's lines are as they were written.
    fn book(&self, with: &SealedWith) -> Result<Witness, MissingKey> {
        let missing = MissingKey(with.key_id);
        let key = self.keys.iter().find(|key| key.id == with.key_id);
        let witness = key.ok_or(missing)?.book(&with.salt);
        witness.map_err(|NoKey| missing)
    }

    /// The key of a file with this header.
    ///
    /// # Errors
    /// When the site key is none of these.
    pub fn key_of(&self, header: &Header) -> Result<DataKey, MissingKey> {
        let missing = MissingKey(header.key_id);
        let key = self.keys.iter().find(|key| key.id == header.key_id);
        let key = key.ok_or(missing)?;
        key.data_key(&header.salt, header.kind, header.subject)
            .map_err(|NoKey| missing)
    }
}

fn salt() -> Result<[u8; 32], NoKey> {
    let mut salt = [0; 32];
    getrandom::fill(&mut salt).map_err(|_| NoKey)?;
    Ok(salt)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn keys(bytes: &[u8]) -> SiteKeys {
        let key = |byte: &u8| SiteKey::new(Zeroizing::new([*byte; 32])).unwrap();
        SiteKeys::new(bytes.iter().map(key).collect()).unwrap()
    }

    #[test]
    fn each_attempt_has_a_key_of_its_own_that_its_header_and_the_sites_key_give() {
        let keys = keys(&[1, 2]);
        let attempt = AttemptId(7);
        let spec = keys.for_attempt(attempt).unwrap();
        assert_eq!(spec.key_id, keys.ids()[0]);
        let header = spec.log_header(7_u128.to_be_bytes(), 0, 0);
        assert_eq!(keys.key_of(&header).unwrap(), spec.key);
        let again = keys.for_attempt(attempt).unwrap();
        assert_ne!((again.salt, &again.key), (spec.salt, &spec.key));
        let other = spec.log_header(8_u128.to_be_bytes(), 0, 0);
        assert_ne!(keys.key_of(&other).unwrap(), spec.key);
    }

    #[test]
    fn what_is_encrypted_for_one_purpose_has_no_key_of_another() {
        let site = keys(&[1]);
        let key = &site.keys[0];
        let of = |kind| key.data_key(&[3; 32], kind, [0; 16]).unwrap();
        let of = [Kind::Log, Kind::RunFile, Kind::RunList].map(of);
        assert!(of[0] != of[1] && of[0] != of[2] && of[1] != of[2]);
        let mut line = br#"{"begun":{"attempt":"1"}}"#.to_vec();
        key.book(&[3; 32]).unwrap().sign(&mut line).unwrap();
        for other in of {
            assert!(!Witness::new(other, [0; 16]).vouches_for(&line));
        }
    }

    #[test]
    fn a_former_key_opens_and_a_foreign_one_is_named() {
        let spec = keys(&[1]).for_attempt(AttemptId(7)).unwrap();
        let header = spec.log_header(7_u128.to_be_bytes(), 0, 0);
        assert_eq!(keys(&[2, 1]).key_of(&header).unwrap(), spec.key);
        let error = keys(&[2]).key_of(&header).unwrap_err();
        assert_eq!(error, MissingKey(spec.key_id));
        assert!(error.to_string().contains(&spec.key_id.to_string()));
        assert!(!format!("{:?}", keys(&[1])).contains("1, 1"));
    }
}
