//! The agent's key, certificate and trusted roots, and the directory that holds them.
//!
//! `agent.key` (PKCS #8 PEM, 0600), `agent.crt` (PEM chain), `roots.crt` (PEM roots), and `pending.key` from a
//! certificate request until its certificate is stored: a crash in between is retried with the same key, and a crash
//! in the middle of storing is finished by the next load. `agent.crt` decides which key belongs to it.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use outpost_failpoint as failpoint;
use rcgen::{CertificateParams, DistinguishedName, KeyPair, PublicKeyData as _};
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

const KEY: &str = "agent.key";
const PENDING_KEY: &str = "pending.key";
const CHAIN: &str = "agent.crt";
const ROOTS: &str = "roots.crt";
/// Far above the largest honest file: eight certificates.
const MAX_FILE_BYTES: u64 = 128 * 1024;

/// Why the key directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IdentityError {
    #[error("cannot read or write {path}")]
    File { path: PathBuf, source: io::Error },
    #[error(
        "others may read or change {path} (mode {mode:o}, owner {owner}): make it the agent's, chmod go="
    )]
    Exposed {
        path: PathBuf,
        mode: u32,
        owner: u32,
    },
    #[error("{path} does not parse: {what}; enrol again")]
    Damaged { path: PathBuf, what: &'static str },
    #[error("the certificate does not belong to the requested key; enrol again")]
    OtherKey,
    #[error("no certificate was requested: there is no pending key")]
    NothingPending,
    #[error("the renewed certificate is for another name: {0}")]
    OtherName(String),
    #[error("the orchestrator sent a certificate that is not an agent's: {0}")]
    BadCertificate(&'static str),
    #[error("a key or certificate request could not be made")]
    Crypto(#[from] rcgen::Error),
}

/// What link presents and trusts.
#[derive(Debug)]
pub(crate) struct Identity {
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) key: PrivateKeyDer<'static>,
    pub(crate) roots: Vec<CertificateDer<'static>>,
    /// `spiffe://<trust domain>/tenant/<t>/agent/<id>`.
    pub(crate) spiffe_id: String,
    pub(crate) trust_domain: String,
    /// Seconds since 1970 when it was stored, as far as its file tells; never outside its validity.
    pub(crate) since_s: u64,
    /// Seconds since 1970.
    pub(crate) not_after_s: u64,
}

/// Where the identity's files are, before this process confines itself: it may not be able to get there afterwards.
#[derive(Debug)]
pub(crate) struct KeyPlace {
    path: PathBuf,
    fd: OwnedFd,
}

impl KeyPlace {
    /// Makes the directory (0700) when it is missing, and holds it without looking into it.
    pub(crate) fn find(dir: &Path) -> Result<Self, IdentityError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let found = DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .and_then(|()| Ok(rustix::fs::open(dir, flags, Mode::empty())?));
        let path = dir.to_owned();
        match found {
            Ok(fd) => Ok(Self { path, fd }),
            Err(source) => Err(IdentityError::File { path, source }),
        }
    }
}

impl AsFd for KeyPlace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The directory with the identity's files. All of them are reached from its descriptor: the way there may be closed.
#[derive(Debug)]
pub(crate) struct KeyDir {
    path: PathBuf,
    dir: File,
}

impl KeyDir {
    /// Goes in, as the account that this process is now.
    pub(crate) fn enter(place: KeyPlace) -> Result<Self, IdentityError> {
        let KeyPlace { path, fd } = place;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = rustix::fs::openat(&fd, ".", flags, Mode::empty())
            .map_err(io::Error::from)
            .map(File::from);
        let dir = dir.and_then(|dir| Ok((dir.metadata()?, dir)));
        match dir {
            Ok((meta, dir)) => {
                private(&path, &meta, 0o022)?;
                Ok(Self { path, dir })
            }
            Err(source) => Err(IdentityError::File { path, source }),
        }
    }

    /// The stored identity; `None` before enrolment.
    pub(crate) fn load(&self) -> Result<Option<Identity>, IdentityError> {
        let Some(chain_pem) = self.read(CHAIN, false)? else {
            return Ok(None);
        };
        let chain = self.certificates(CHAIN, &chain_pem)?;
        let facts = LeafFacts::read(&chain).map_err(|what| self.damaged(CHAIN, what))?;
        let roots_pem = self
            .read(ROOTS, false)?
            .ok_or_else(|| self.damaged(ROOTS, "missing"))?;
        let roots = self.certificates(ROOTS, &roots_pem)?;
        let key = self.key_of(&facts)?;
        Ok(Some(Identity {
            chain,
            key: PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())),
            roots,
            spiffe_id: facts.spiffe_id,
            trust_domain: facts.trust_domain,
            since_s: self.stored_s().clamp(facts.not_before_s, facts.not_after_s),
            not_after_s: facts.not_after_s,
        }))
    }

    /// A certificate request for the pending key, which is made and synced to disk when there is none. DER.
    pub(crate) fn request(&self) -> Result<Vec<u8>, IdentityError> {
        Ok(self.request_and_key()?.0)
    }

    /// The same, and the SubjectPublicKeyInfo in it, DER.
    pub(crate) fn request_and_key(&self) -> Result<(Vec<u8>, Vec<u8>), IdentityError> {
        let key = match self.pending()? {
            Some(key) => key,
            None => {
                let key = KeyPair::generate()?;
                self.write(PENDING_KEY, key.serialize_pem().as_bytes())?;
                failpoint::reach("link-keyed");
                key
            }
        };
        // The fixed template: no name, no extensions. Only the public key is used by the other side.
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let request = params.serialize_request(&key)?.der().to_vec();
        Ok((request, key.subject_public_key_info()))
    }

    /// Makes the pending key, this chain and these roots the identity. Durable when it returns.
    pub(crate) fn store(
        &self,
        chain: &[Vec<u8>],
        roots: &[Vec<u8>],
    ) -> Result<Identity, IdentityError> {
        let pending = self.pending()?.ok_or(IdentityError::NothingPending)?;
        let ders: Vec<CertificateDer<'static>> = chain
            .iter()
            .map(|der| CertificateDer::from(der.clone()))
            .collect();
        let facts = LeafFacts::read(&ders).map_err(IdentityError::BadCertificate)?;
        if facts.public_key != pending.subject_public_key_info() {
            return Err(IdentityError::OtherKey);
        }
        if roots.is_empty()
            || roots
                .iter()
                .any(|der| X509Certificate::from_der(der).is_err())
        {
            return Err(IdentityError::BadCertificate("its roots do not parse"));
        }
        self.write(ROOTS, pem(roots).as_bytes())?;
        failpoint::reach("link-rooted");
        // From here on the pending key is the certificate's key, whatever is interrupted below.
        self.write(CHAIN, pem(chain).as_bytes())?;
        failpoint::reach("link-chained");
        self.load()?.ok_or(IdentityError::NothingPending)
    }

    fn stored_s(&self) -> u64 {
        let stat = rustix::fs::statat(&self.dir, CHAIN, AtFlags::SYMLINK_NOFOLLOW);
        stat.map_or(0, |stat| u64::try_from(stat.st_mtime).unwrap_or(0))
    }

    /// The key that belongs to the certificate; finishes an interrupted store.
    fn key_of(&self, facts: &LeafFacts) -> Result<KeyPair, IdentityError> {
        if let Some(pending) = self.pending()?
            && pending.subject_public_key_info() == facts.public_key
        {
            rustix::fs::renameat(&self.dir, PENDING_KEY, &self.dir, KEY)
                .map_err(|errno| self.file(KEY, errno.into()))?;
            self.sync_dir()?;
            return Ok(pending);
        }
        let key = self.key(KEY)?.ok_or_else(|| self.damaged(KEY, "missing"))?;
        if key.subject_public_key_info() == facts.public_key {
            Ok(key)
        } else {
            Err(IdentityError::OtherKey)
        }
    }

    /// The key of a request. One that is damaged is worth nothing, and stands in nobody's way: the next request replaces it.
    fn pending(&self) -> Result<Option<KeyPair>, IdentityError> {
        match self.key(PENDING_KEY) {
            Err(error @ IdentityError::Damaged { .. }) => {
                tracing::warn!("the key of a certificate that was asked for is of no use: {error}");
                Ok(None)
            }
            key => key,
        }
    }

    fn key(&self, name: &'static str) -> Result<Option<KeyPair>, IdentityError> {
        let Some(text) = self.read(name, true)? else {
            return Ok(None);
        };
        let text = std::str::from_utf8(&text).map_err(|_| self.damaged(name, "not text"))?;
        KeyPair::from_pem(text)
            .map(Some)
            .map_err(|_| self.damaged(name, "not a PKCS #8 key"))
    }

    fn certificates(
        &self,
        name: &'static str,
        text: &[u8],
    ) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
        let list: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text).collect();
        match list {
            Ok(list) if !list.is_empty() => Ok(list),
            Ok(_) | Err(_) => Err(self.damaged(name, "not a list of PEM certificates")),
        }
    }

    fn read(&self, name: &'static str, secret: bool) -> Result<Option<Vec<u8>>, IdentityError> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(&self.dir, name, flags, Mode::empty()) {
            Ok(fd) => File::from(fd),
            Err(Errno::NOENT) => return Ok(None),
            Err(errno) => return Err(self.file(name, errno.into())),
        };
        let meta = file.metadata().map_err(|source| self.file(name, source))?;
        // Whoever may write the certificates decides whom this agent trusts; the key nobody else may even read.
        private(
            &self.path.join(name),
            &meta,
            if secret { 0o077 } else { 0o022 },
        )?;
        let mut text = Vec::new();
        file.take(MAX_FILE_BYTES)
            .read_to_end(&mut text)
            .map_err(|source| self.file(name, source))?;
        Ok(Some(text))
    }

    /// Temporary file, sync, rename, sync of the directory.
    fn write(&self, name: &'static str, text: &[u8]) -> Result<(), IdentityError> {
        let temporary = format!("{name}.tmp");
        let written = (|| {
            match rustix::fs::unlinkat(&self.dir, &temporary, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(errno) => return Err(io::Error::from(errno)),
            }
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
            let owner_only = Mode::RUSR | Mode::WUSR;
            let file = rustix::fs::openat(&self.dir, &temporary, flags, owner_only)?;
            let mut file = File::from(file);
            file.write_all(text)?;
            file.sync_all()?;
            Ok(rustix::fs::renameat(
                &self.dir, &temporary, &self.dir, name,
            )?)
        })();
        written.map_err(|source| self.file(name, source))?;
        self.sync_dir()
    }

    fn sync_dir(&self) -> Result<(), IdentityError> {
        self.dir.sync_all().map_err(|source| IdentityError::File {
            path: self.path.clone(),
            source,
        })
    }

    fn file(&self, name: &'static str, source: io::Error) -> IdentityError {
        IdentityError::File {
            path: self.path.join(name),
            source,
        }
    }

    fn damaged(&self, name: &'static str, what: &'static str) -> IdentityError {
        IdentityError::Damaged {
            path: self.path.join(name),
            what,
        }
    }
}

/// Asks for our or root's ownership, and for none of the forbidden permissions.
fn private(path: &Path, meta: &fs::Metadata, forbidden: u32) -> Result<(), IdentityError> {
    let (mode, owner) = (meta.mode() & 0o7777, meta.uid());
    let ours = owner == 0 || owner == rustix::process::geteuid().as_raw();
    if ours && mode & forbidden == 0 {
        return Ok(());
    }
    Err(IdentityError::Exposed {
        path: path.to_owned(),
        mode,
        owner,
    })
}

/// What is read from the leaf.
struct LeafFacts {
    public_key: Vec<u8>,
    spiffe_id: String,
    trust_domain: String,
    not_before_s: u64,
    not_after_s: u64,
}

impl LeafFacts {
    fn read(chain: &[CertificateDer<'_>]) -> Result<Self, &'static str> {
        let leaf = chain.first().ok_or("the chain is empty")?;
        let (_, leaf) = X509Certificate::from_der(leaf).map_err(|_| "the leaf does not parse")?;
        let spiffe_id = uri_san(&leaf)
            .ok_or("the leaf has not exactly one URI name")?
            .to_owned();
        let rest = spiffe_id
            .strip_prefix("spiffe://")
            .ok_or("the leaf's URI name is not a SPIFFE id")?;
        let (trust_domain, path) = rest
            .split_once('/')
            .ok_or("the leaf's SPIFFE id has no path")?;
        if trust_domain.is_empty() || path.is_empty() {
            return Err("the leaf's SPIFFE id is incomplete");
        }
        let seconds = |at: i64| u64::try_from(at).map_err(|_| "the leaf is of before 1970");
        let validity = (
            seconds(leaf.validity().not_before.timestamp())?,
            seconds(leaf.validity().not_after.timestamp())?,
        );
        Ok(Self {
            public_key: leaf.public_key().raw.to_vec(),
            trust_domain: trust_domain.to_owned(),
            not_before_s: validity.0.min(validity.1),
            not_after_s: validity.1,
            spiffe_id,
        })
    }
}

/// Whether a chain that is to replace `present` is for the same name.
pub(crate) fn check_name(present: &Identity, chain: &[Vec<u8>]) -> Result<(), IdentityError> {
    let ders: Vec<_> = chain
        .iter()
        .map(|der| CertificateDer::from_slice(der))
        .collect();
    let facts = LeafFacts::read(&ders).map_err(IdentityError::BadCertificate)?;
    if facts.spiffe_id == present.spiffe_id {
        Ok(())
    } else {
        Err(IdentityError::OtherName(facts.spiffe_id))
    }
}

/// The last second of a certificate's validity, in seconds since 1970; 0 when it cannot be read.
pub(crate) fn not_after_s(der: &[u8]) -> u64 {
    let parsed = X509Certificate::from_der(der);
    parsed.map_or(0, |(_, leaf)| {
        u64::try_from(leaf.validity().not_after.timestamp()).unwrap_or(0)
    })
}

/// The certificate's URI name, when it has exactly one.
pub(crate) fn uri_san<'a>(certificate: &'a X509Certificate<'_>) -> Option<&'a str> {
    let names = certificate.subject_alternative_name().ok()??;
    let mut uris = names.value.general_names.iter().filter_map(|name| {
        if let GeneralName::URI(uri) = name {
            Some(*uri)
        } else {
            None
        }
    });
    let only = uris.next()?;
    uris.next().is_none().then_some(only)
}

fn pem(ders: &[Vec<u8>]) -> String {
    let mut text = String::new();
    for der in ders {
        text.push_str("-----BEGIN CERTIFICATE-----\n");
        let encoded = STANDARD.encode(der);
        let mut rest = encoded.as_str();
        while !rest.is_empty() {
            let (line, tail) = rest.split_at(rest.len().min(64));
            text.push_str(line);
            text.push('\n');
            rest = tail;
        }
        text.push_str("-----END CERTIFICATE-----\n");
    }
    text
}
