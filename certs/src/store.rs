//! Files: the authority's directory, and private files in general.
//!
//! A file is written beside its place, synced and renamed, so a crash leaves the old one or the new one. Private files
//! are readable by their owner alone, and one that is not is refused rather than used.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rcgen::{Issuer, KeyPair, PublicKeyData as _};
use rustls_pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use zeroize::Zeroizing;

use crate::ca::{Authority, Intermediate, root_id};
use crate::crypto::{NoRandomness, hex, p256_point, random, verify_p256};
use crate::identity::{check_trust_domain, not_after, parse_certificate};
use crate::issue::ServerIdentity;
use crate::pem::{self, PemError};

/// Bytes of the largest file that is read: far more than any key or chain.
const FILE_BYTES: u64 = 64 * 1024;
/// Owner only.
const PRIVATE: u32 = 0o600;
/// Everybody may read.
const PUBLIC: u32 = 0o644;

/// Why a file or an authority could not be stored or loaded.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The operating system refused.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// `read`, `write`, …
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// Its answer.
        source: io::Error,
    },
    /// Somebody else may read a private file.
    #[error(
        "{} is readable or writable by others (mode {mode:04o}); if nobody else can have read it, run: chmod 600 {0}",
        path.display()
    )]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Larger than any honest one.
    #[error("{} has more than {FILE_BYTES} bytes and cannot be a key or certificate", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// There is an authority already; it is never overwritten.
    #[error("{} exists and is not empty: it is never overwritten; move it away to begin anew", dir.display())]
    Occupied {
        /// The directory.
        dir: PathBuf,
    },
    /// Not a PEM file of the expected kind.
    #[error("{}: {source}", path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: PemError,
    },
    /// A file does not fit its place.
    #[error("{} {problem}; restore the directory from a backup", path.display())]
    Mismatch {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        problem: &'static str,
    },
    /// No name for a temporary file.
    #[error(transparent)]
    NoRandomness(#[from] NoRandomness),
}

impl StoreError {
    /// Whether the file or directory simply does not exist.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    move |source| StoreError::Io {
        action,
        path: path.to_owned(),
        source,
    }
}

/// Writes a file that only its owner may read; replaces an older one in one step.
pub fn write_private(path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    write_atomically(path, bytes, PRIVATE)
}

/// Writes a file that everybody may read; replaces an older one in one step.
pub fn write_public(path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    write_atomically(path, bytes, PUBLIC)
}

fn write_atomically(path: &Path, bytes: &[u8], mode: u32) -> Result<(), StoreError> {
    let parent = parent_of(path);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let draft = parent.join(format!(".{name}.{}", hex(&random::<8>()?)));
    let written = write_new(&draft, bytes, mode)
        .and_then(|()| fs::rename(&draft, path))
        .map_err(io_error("write", path));
    if written.is_err() {
        // The first error is the one that matters.
        let _ = fs::remove_file(&draft);
    }
    written?;
    sync_dir(&parent)
}

fn write_new(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn sync_dir(dir: &Path) -> Result<(), StoreError> {
    File::open(dir)
        .and_then(|dir| dir.sync_all())
        .map_err(io_error("sync", dir))
}

fn parent_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent.to_owned(),
        Some(_) | None => PathBuf::from("."),
    }
}

/// Reads a private file; refuses one that group or others may read or write.
pub fn read_private(path: &Path) -> Result<Zeroizing<Vec<u8>>, StoreError> {
    let file = File::open(path).map_err(io_error("read", path))?;
    check_private(&file, path)?;
    read_bounded(file, path)
}

fn check_private(file: &File, path: &Path) -> Result<(), StoreError> {
    let mode = file
        .metadata()
        .map_err(io_error("read", path))?
        .permissions()
        .mode()
        & 0o7777;
    if mode & 0o077 != 0 {
        return Err(StoreError::Exposed {
            path: path.to_owned(),
            mode,
        });
    }
    Ok(())
}

fn read_bounded(file: File, path: &Path) -> Result<Zeroizing<Vec<u8>>, StoreError> {
    // The whole room at once: a buffer that grows leaves copies of a key behind.
    let length = file
        .metadata()
        .map_err(io_error("read", path))?
        .len()
        .min(FILE_BYTES);
    let mut bytes = Zeroizing::new(Vec::with_capacity(usize::try_from(length).unwrap_or(0) + 1));
    file.take(FILE_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(io_error("read", path))?;
    if bytes.len() as u64 > FILE_BYTES {
        return Err(StoreError::TooLarge {
            path: path.to_owned(),
        });
    }
    Ok(bytes)
}

impl Authority {
    /// Writes `root`, `agents`, `servers` and `operators`, each `.crt` and `.key` (PEM), into the new directory `dir`
    /// (mode 0700, its parent must exist). All of it appears in one step; a directory with anything in it is refused.
    pub fn save(&self, dir: &Path) -> Result<(), StoreError> {
        let draft = parent_of(dir).join(format!(".ca.{}", hex(&random::<8>()?)));
        DirBuilder::new()
            .mode(0o700)
            .create(&draft)
            .map_err(io_error("create", &draft))?;
        let saved = self.write_files(&draft).and_then(|()| {
            fs::rename(&draft, dir).map_err(|source| {
                // Which of the two it is differs from one file system to another.
                if matches!(
                    source.kind(),
                    io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists
                ) {
                    return StoreError::Occupied {
                        dir: dir.to_owned(),
                    };
                }
                io_error("create", dir)(source)
            })
        });
        if saved.is_err() {
            // The first error is the one that matters.
            let _ = fs::remove_dir_all(&draft);
        }
        saved?;
        sync_dir(&parent_of(dir))
    }

    fn write_files(&self, dir: &Path) -> Result<(), StoreError> {
        write_public(
            &dir.join("root.crt"),
            pem::encode_certificate(&self.root).as_bytes(),
        )?;
        if let Some(key) = &self.root_key {
            write_private(
                &dir.join("root.key"),
                pem::encode_private_key(key.serialized_der()).as_bytes(),
            )?;
        }
        for (name, branch) in [
            ("agents", &self.agents),
            ("servers", &self.servers),
            ("operators", &self.operators),
        ] {
            let certificate = pem::encode_certificate(&branch.certificate);
            write_public(&dir.join(format!("{name}.crt")), certificate.as_bytes())?;
            let key = pem::encode_private_key(branch.issuer.key().serialized_der());
            write_private(&dir.join(format!("{name}.key")), key.as_bytes())?;
        }
        Ok(())
    }

    /// Reads what [`Self::save`] wrote and checks that it belongs together. `root.key` may be absent (kept offline) and
    /// is not read; where it is present, others must not be able to read it.
    pub fn load(dir: &Path) -> Result<Self, StoreError> {
        let root_path = dir.join("root.crt");
        let root = read_certificate(&root_path)?;
        let key_path = dir.join("root.key");
        match File::open(&key_path) {
            Ok(file) => check_private(&file, &key_path)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(io_error("read", &key_path)(error)),
        }
        let trust_domain = parse_certificate(&root)
            .and_then(|parsed| trust_domain_of(&parsed))
            .ok_or(StoreError::Mismatch {
                path: root_path,
                problem: "is not the root certificate of an authority of ours",
            })?;
        Ok(Self {
            trust_domain,
            root_key: None,
            agents: Intermediate::load(dir, "agents", &root)?,
            servers: Intermediate::load(dir, "servers", &root)?,
            operators: Intermediate::load(dir, "operators", &root)?,
            root,
        })
    }
}

impl ServerIdentity {
    /// A chain and its key that were brought along: PEM, leaf first; the key readable by its owner alone. Whether they
    /// belong together is checked when a configuration is made of them.
    ///
    /// # Errors
    /// A file that cannot be read, that others can read, or that does not hold what it should.
    pub fn load(chain_path: &Path, key_path: &Path) -> Result<Self, StoreError> {
        let pem_error = |path: &Path| {
            let path = path.to_owned();
            |source| StoreError::Pem { path, source }
        };
        let file = File::open(chain_path).map_err(io_error("read", chain_path))?;
        let chain =
            pem::certificates(&read_bounded(file, chain_path)?).map_err(pem_error(chain_path))?;
        let leaf = chain.first().and_then(|leaf| parse_certificate(leaf));
        let leaf = leaf.ok_or_else(|| StoreError::Mismatch {
            path: chain_path.to_owned(),
            problem: "does not begin with a certificate",
        })?;
        let not_after = not_after(&leaf);
        let key = pem::private_key(&read_private(key_path)?).map_err(pem_error(key_path))?;
        Ok(Self {
            not_after,
            chain,
            key,
        })
    }
}

impl Intermediate {
    fn load(dir: &Path, name: &str, root: &CertificateDer<'_>) -> Result<Self, StoreError> {
        let path = dir.join(format!("{name}.crt"));
        let certificate = read_certificate(&path)?;
        let key_path = dir.join(format!("{name}.key"));
        let key = read_key(&key_path)?;
        let mismatch = |problem| StoreError::Mismatch {
            path: path.clone(),
            problem,
        };
        let parsed =
            parse_certificate(&certificate).ok_or_else(|| mismatch("is not a certificate"))?;
        if !is_signed_by(&parsed, root) {
            return Err(mismatch("is not signed by root.crt"));
        }
        if parsed.public_key().raw != key.subject_public_key_info() {
            return Err(mismatch("does not belong to the key beside it"));
        }
        let not_after = not_after(&parsed);
        let issuer = Issuer::from_ca_cert_der(&certificate, key)
            .map_err(|_| mismatch("is not the certificate of an authority"))?;
        Ok(Self {
            not_after,
            issuer,
            certificate,
        })
    }
}

fn read_certificate(path: &Path) -> Result<CertificateDer<'static>, StoreError> {
    let text = read_bounded(File::open(path).map_err(io_error("read", path))?, path)?;
    let mut all = pem::certificates(&text).map_err(|source| StoreError::Pem {
        path: path.to_owned(),
        source,
    })?;
    if all.len() != 1 {
        return Err(StoreError::Mismatch {
            path: path.to_owned(),
            problem: "has more than one certificate",
        });
    }
    Ok(all.swap_remove(0))
}

fn read_key(path: &Path) -> Result<KeyPair, StoreError> {
    let text = read_private(path)?;
    let der = pem::private_key(&text).map_err(|source| StoreError::Pem {
        path: path.to_owned(),
        source,
    })?;
    KeyPair::try_from(&der).map_err(|_| StoreError::Mismatch {
        path: path.to_owned(),
        problem: "holds no private key that can be used",
    })
}

fn is_signed_by(certificate: &X509Certificate<'_>, root: &CertificateDer<'_>) -> bool {
    let Some(root) = parse_certificate(root) else {
        return false;
    };
    let Some(point) = p256_point(root.public_key().raw) else {
        return false;
    };
    certificate.issuer().as_raw() == root.subject().as_raw()
        && verify_p256(
            point,
            certificate.tbs_certificate.as_ref(),
            &certificate.signature_value.data,
        )
}

/// The trust domain in an authority's root: exactly one URI, `spiffe://<trust domain>`.
fn trust_domain_of(root: &X509Certificate<'_>) -> Option<String> {
    let names = root.subject_alternative_name().ok()??;
    let [GeneralName::URI(uri)] = names.value.general_names.as_slice() else {
        return None;
    };
    let trust_domain = uri.strip_prefix(&root_id(""))?;
    check_trust_domain(trust_domain).ok()?;
    root.is_ca().then(|| trust_domain.to_owned())
}
