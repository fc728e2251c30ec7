//! Reading a site's keys: from files, or from what systemd hands to the service; and making one.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use outpost_agent_keeper::seal::KeyId;
use zeroize::Zeroizing;

use super::{NoKey, SiteKey, SiteKeys};

/// Keys that are read at most.
const MOST_KEYS: usize = 64;
/// Bytes of a key's file: digits, and a line end that an editor may double.
const FILE_BYTES: u64 = 66;
/// Where systemd says the credentials are.
const CREDENTIALS: &str = "CREDENTIALS_DIRECTORY";

/// Where the keys are.
#[derive(Debug, Clone, Default, PartialEq, Eq, clap::Args)]
#[command(next_help_heading = "Encryption at rest")]
pub(crate) struct KeyArgs {
    /// File with the site key with which logs and outputs are encrypted; further ones, and directories of them, for what
    /// was encrypted before. In the variable several are separated by colons.
    #[arg(
        long,
        env = "OUTPOST_AGENT_SITE_KEY_FILE",
        value_name = "PATH",
        value_delimiter = ':'
    )]
    pub(crate) site_key_file: Vec<PathBuf>,
    /// Name of the systemd credential with the site key, as LoadCredential= has it; it comes before all files.
    #[arg(long, env = "OUTPOST_AGENT_SITE_KEY_CREDENTIAL", value_name = "NAME")]
    pub(crate) site_key_credential: Option<String>,
}

/// Why there is no key, or none that may be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SiteKeyError {
    /// The file system said no.
    #[error("the site key {path} cannot be read: {error}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
    /// Others may know it, or exchange it.
    #[error("the site key {path} is not safe: {why}")]
    Unsafe {
        /// Which file.
        path: PathBuf,
        /// What is wrong, and what to do.
        why: String,
    },
    /// Not a key.
    #[error(
        "{0} holds no site key: 64 hex digits or 32 bytes are one, which `outpost-agent site-key new --out FILE` makes"
    )]
    NotAKey(PathBuf),
    /// An empty directory.
    #[error("there is no site key in {0}: put one there, or name a file")]
    NoneIn(PathBuf),
    /// More than anybody rotates.
    #[error(
        "there are more than {MOST_KEYS} site keys: take those away with which nothing is encrypted any more"
    )]
    TooMany,
    /// A name that leads elsewhere.
    #[error("`{0}` is no name of a credential: it is a file name without `/`")]
    Name(String),
    /// Not started by systemd, or without the credential.
    #[error(
        "the credential `{0}` is not there: the unit needs LoadCredential={0}:FILE or LoadCredentialEncrypted=, and only what systemd starts has it; by hand give --site-key-file"
    )]
    NoCredential(String),
    /// The library refused.
    #[error(transparent)]
    NoKey(#[from] NoKey),
    /// A new key's file that is there.
    #[error("{0} is there already, and no key is written over anything: name another file")]
    Exists(PathBuf),
    /// A new key's file.
    #[error("the site key cannot be written to {path}: {error}")]
    Write {
        /// Which file.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
}

impl KeyArgs {
    /// Reads the keys; `None` when none is named.
    ///
    /// # Errors
    /// See [`SiteKeyError`]: one key that cannot be used spoils all, because what it opens would seem to be damaged.
    pub(crate) fn load(&self) -> Result<Option<SiteKeys>, SiteKeyError> {
        let dir = std::env::var_os(CREDENTIALS).map(PathBuf::from);
        self.load_from(dir.as_deref())
    }

    fn load_from(&self, credentials: Option<&Path>) -> Result<Option<SiteKeys>, SiteKeyError> {
        let mut keys = Vec::new();
        if let Some(name) = &self.site_key_credential {
            keys.push(credential(name, credentials)?);
        }
        for path in &self.site_key_file {
            read_all(path, &mut keys)?;
        }
        if keys.len() > MOST_KEYS {
            return Err(SiteKeyError::TooMany);
        }
        let named = self.site_key_credential.as_ref();
        let credentials = credentials.filter(|_| named.is_some());
        let files = self.site_key_file.iter().cloned();
        let files = files.chain(credentials.map(Path::to_owned)).collect();
        Ok(SiteKeys::new(keys).map(|keys| keys.read_from(files)))
    }
}

fn credential(name: &str, dir: Option<&Path>) -> Result<SiteKey, SiteKeyError> {
    if name.is_empty() || name.contains('/') || name == "." || name == ".." {
        return Err(SiteKeyError::Name(name.to_owned()));
    }
    let none = || SiteKeyError::NoCredential(name.to_owned());
    let path = dir.ok_or_else(none)?.join(name);
    // systemd mounts the directory for this service alone; who else reads it is said by an access list, which shows as
    // the group's rights.
    let judge = |meta: &Metadata| (meta.mode() & 0o027 != 0).then(|| "chmod o= it".to_owned());
    match read(&path, judge) {
        Err(SiteKeyError::Read { error, .. }) if error.kind() == io::ErrorKind::NotFound => {
            Err(none())
        }
        read => read,
    }
}

fn read_all(path: &Path, keys: &mut Vec<SiteKey>) -> Result<(), SiteKeyError> {
    let own = rustix::process::geteuid().as_raw();
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |error| SiteKeyError::Read { path, error }
    };
    let along = |path: &Path| {
        crate::catalogue::check_path(path, own).map_err(|why| SiteKeyError::Unsafe {
            path: path.to_owned(),
            why,
        })
    };
    if !path.metadata().map_err(failed(path))?.is_dir() {
        along(path)?;
        keys.push(read(path, |meta| objection(meta, own))?);
        return Ok(());
    }
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path).map_err(failed(path))? {
        let entry = entry.map_err(failed(path))?;
        if !entry.file_name().as_encoded_bytes().starts_with(b".") {
            files.push(entry.path());
        }
    }
    files.sort();
    if files.is_empty() {
        return Err(SiteKeyError::NoneIn(path.to_owned()));
    }
    for file in files {
        along(&file)?;
        keys.push(read(&file, |meta| objection(meta, own))?);
    }
    Ok(())
}

fn objection(meta: &Metadata, own: u32) -> Option<String> {
    if meta.uid() != own {
        return Some(format!(
            "it belongs to user {}, and the agent runs as user {own}: chown it",
            meta.uid()
        ));
    }
    let mode = meta.mode() & 0o7777;
    (mode & !0o600 != 0).then(|| format!("its mode is {mode:o}: chmod 0400 it"))
}

fn read(
    path: &Path,
    objection: impl FnOnce(&Metadata) -> Option<String>,
) -> Result<SiteKey, SiteKeyError> {
    let failed = |error| SiteKeyError::Read {
        path: path.to_owned(),
        error,
    };
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path)
        .map_err(failed)?;
    // Of the file that is read, whatever its name leads to by now.
    let meta = file.metadata().map_err(failed)?;
    if !meta.is_file() {
        return Err(SiteKeyError::NotAKey(path.to_owned()));
    }
    if let Some(why) = objection(&meta) {
        let path = path.to_owned();
        return Err(SiteKeyError::Unsafe { path, why });
    }
    let mut bytes = Zeroizing::new(Vec::with_capacity(128));
    let mut bounded = file.take(FILE_BYTES + 1);
    bounded.read_to_end(&mut bytes).map_err(failed)?;
    let key = key(&bytes).ok_or_else(|| SiteKeyError::NotAKey(path.to_owned()))?;
    Ok(SiteKey::new(key)?)
}

/// 32 bytes as they are, or their digits on a line. All zeros is what a broken tool writes.
fn key(bytes: &[u8]) -> Option<Zeroizing<[u8; 32]>> {
    let mut key = Zeroizing::new([0; 32]);
    if bytes.len() == key.len() {
        key.copy_from_slice(bytes);
    } else {
        let digits = bytes.trim_ascii_end();
        if digits.len() != 2 * key.len() {
            return None;
        }
        for (byte, pair) in key.iter_mut().zip(digits.chunks(2)) {
            let pair = std::str::from_utf8(pair).ok()?;
            // A sign is no digit, though numbers may have one.
            if !pair.bytes().all(|digit| digit.is_ascii_hexdigit()) {
                return None;
            }
            *byte = u8::from_str_radix(pair, 16).ok()?;
        }
    }
    key.iter().any(|byte| *byte != 0).then_some(key)
}

/// Makes a key and writes it to a file that is not there yet: mode 0400, synced.
///
/// # Errors
/// When there is something already, or it cannot be written; nothing is left then.
pub(crate) fn make(path: &Path) -> Result<KeyId, SiteKeyError> {
    let mut bytes = Zeroizing::new([0; 32]);
    getrandom::fill(&mut *bytes).map_err(|_| NoKey)?;
    let mut text = Zeroizing::new(String::with_capacity(80));
    for byte in bytes.iter() {
        use std::fmt::Write as _;
        // Writing to a text does not fail.
        let _ = write!(text, "{byte:02x}");
    }
    text.push('\n');
    let key = SiteKey::new(bytes)?;
    let failed = |error: io::Error| {
        let path = path.to_owned();
        if error.kind() == io::ErrorKind::AlreadyExists {
            SiteKeyError::Exists(path)
        } else {
            SiteKeyError::Write { path, error }
        }
    };
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o400)
        .open(path)
        .map_err(failed)?;
    let written = file
        .write_all(text.as_bytes())
        .and_then(|()| file.sync_all())
        .and_then(|()| sync_parent(path));
    if let Err(error) = written {
        // What is half a key is none.
        let _ = std::fs::remove_file(path);
        return Err(failed(error));
    }
    Ok(key.id())
}

fn sync_parent(path: &Path) -> io::Result<()> {
    let parent = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn files(paths: &[&Path]) -> KeyArgs {
        KeyArgs {
            site_key_file: paths.iter().map(|path| path.to_path_buf()).collect(),
            site_key_credential: None,
        }
    }

    fn chmod(path: &Path, mode: u32) {
        std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    }

    #[test]
    fn a_new_key_is_read_again_in_both_forms_and_never_overwritten() {
        let dir = crate::testing::tempdir().unwrap();
        let path = dir.path().join("key");
        let id = make(&path).unwrap();
        assert_eq!(path.metadata().unwrap().mode() & 0o7777, 0o400);
        let keys = files(&[&path]).load_from(None).unwrap().unwrap();
        assert_eq!(keys.ids(), [id]);
        assert!(
            make(&path)
                .unwrap_err()
                .to_string()
                .contains("is there already")
        );
        let text = std::fs::read_to_string(&path).unwrap();
        let raw: Vec<u8> = (0..32)
            .map(|at| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).unwrap())
            .collect();
        let other = dir.path().join("raw");
        std::fs::write(&other, raw).unwrap();
        chmod(&other, 0o600);
        let keys = files(&[&other]).load_from(None).unwrap().unwrap();
        assert_eq!(keys.ids(), [id]);
        assert!(KeyArgs::default().load_from(None).unwrap().is_none());
    }

    #[test]
    fn what_others_could_read_or_change_is_refused() {
        let dir = crate::testing::tempdir().unwrap();
        let path = dir.path().join("key");
        make(&path).unwrap();
        for mode in [0o644, 0o640, 0o604, 0o620, 0o700] {
            chmod(&path, mode);
            let error = files(&[&path]).load_from(None).unwrap_err().to_string();
            assert!(error.contains(": chmod "), "{mode:o}: {error}");
        }
        chmod(&path, 0o400);
        chmod(dir.path(), 0o777);
        let error = files(&[&path]).load_from(None).unwrap_err().to_string();
        assert!(error.contains("can be written by others"), "{error}");
    }

    #[test]
    fn what_is_no_key_is_said_and_never_shown() {
        let dir = crate::testing::tempdir().unwrap();
        let path = dir.path().join("key");
        for text in [
            "",
            "abc",
            &"g".repeat(64),
            &"+f".repeat(32),
            &"0".repeat(64),
            &"f".repeat(66),
        ] {
            std::fs::write(&path, text).unwrap();
            chmod(&path, 0o600);
            let error = files(&[&path]).load_from(None).unwrap_err().to_string();
            assert!(error.contains("holds no site key"), "{error}");
            assert!(text.len() < 4 || !error.contains(text), "{error}");
        }
        let error = files(&[&dir.path().join("none")]).load_from(None);
        assert!(matches!(error, Err(SiteKeyError::Read { .. })));
    }

    #[test]
    fn no_key_is_written_over_anything() {
        let dir = crate::testing::tempdir().unwrap();
        let path = dir.path().join("key");
        let id = make(&path).unwrap();
        let error = make(&path).unwrap_err();
        assert!(error.to_string().contains("is there already"), "{error}");
        let kept = files(&[&path]).load_from(None).unwrap().unwrap();
        assert_eq!(kept.ids(), [id]);
        let none = make(&dir.path().join("none/key")).unwrap_err();
        // All of it is in its words: nothing is said twice.
        assert!(std::error::Error::source(&none).is_none(), "{none}");
    }

    #[test]
    fn what_is_no_file_is_not_waited_for_and_a_huge_one_not_read() {
        let dir = crate::testing::tempdir().unwrap();
        let (pipe, huge) = (dir.path().join("pipe"), dir.path().join("huge"));
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        let kind = rustix::fs::FileType::Fifo;
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, kind, mode, 0).unwrap();
        let file = File::create(&huge).unwrap();
        file.set_len(1 << 40).unwrap();
        chmod(&huge, 0o600);
        for path in [&pipe, &huge] {
            let error = files(&[path]).load_from(None).unwrap_err();
            assert!(matches!(error, SiteKeyError::NotAKey(_)), "{error}");
        }
        // Whose it is counts of what was opened, whatever the path led to before.
        let meta = dir.path().metadata().unwrap();
        let own = rustix::process::geteuid().as_raw();
        let why = objection(&meta, own + 1).unwrap_or_default();
        assert!(why.contains("chown"), "{why}");
    }

    #[test]
    fn a_directory_has_no_hidden_keys_and_not_more_than_anybody_rotates() {
        let dir = crate::testing::tempdir().unwrap();
        let keys = dir.path().join("keys");
        std::fs::create_dir(&keys).unwrap();
        let _ = make(&keys.join(".former")).unwrap();
        let none = files(&[&keys]).load_from(None).unwrap_err();
        assert!(matches!(none, SiteKeyError::NoneIn(_)), "{none}");
        for n in 0..MOST_KEYS {
            let _ = make(&keys.join(n.to_string())).unwrap();
        }
        let loaded = files(&[&keys]).load_from(None).unwrap().unwrap();
        assert_eq!(loaded.ids().len(), MOST_KEYS);
        let _ = make(&keys.join("more")).unwrap();
        let many = files(&[&keys]).load_from(None).unwrap_err();
        assert!(matches!(many, SiteKeyError::TooMany), "{many}");
    }

    #[test]
    fn a_directory_is_read_in_the_order_of_its_names() {
        let dir = crate::testing::tempdir().unwrap();
        let keys = dir.path().join("keys");
        std::fs::create_dir(&keys).unwrap();
        let empty = files(&[&keys]).load_from(None).unwrap_err();
        assert!(matches!(empty, SiteKeyError::NoneIn(_)));
        let (b, a) = (
            make(&keys.join("b")).unwrap(),
            make(&keys.join("a")).unwrap(),
        );
        let first = dir.path().join("first");
        let c = make(&first).unwrap();
        let loaded = files(&[&first, &keys]).load_from(None).unwrap().unwrap();
        assert_eq!(loaded.ids(), [c, a, b]);
    }

    #[test]
    fn a_credential_comes_first_and_one_that_is_missing_is_named() {
        let dir = crate::testing::tempdir().unwrap();
        let id = make(&dir.path().join("outpost-site-key")).unwrap();
        let named = |name: &str| KeyArgs {
            site_key_file: Vec::new(),
            site_key_credential: Some(name.to_owned()),
        };
        let keys = named("outpost-site-key").load_from(Some(dir.path()));
        assert_eq!(keys.unwrap().unwrap().ids(), [id]);
        chmod(&dir.path().join("outpost-site-key"), 0o440);
        assert!(
            named("outpost-site-key")
                .load_from(Some(dir.path()))
                .is_ok()
        );
        for mode in [0o444, 0o420, 0o604] {
            chmod(&dir.path().join("outpost-site-key"), mode);
            let error = named("outpost-site-key").load_from(Some(dir.path()));
            assert!(
                matches!(error, Err(SiteKeyError::Unsafe { .. })),
                "{mode:o}"
            );
        }
        for (name, dir) in [("other", Some(dir.path())), ("outpost-site-key", None)] {
            let error = named(name).load_from(dir).unwrap_err().to_string();
            assert!(error.contains(&format!("LoadCredential={name}")), "{error}");
        }
        for name in ["../x", "a/b", "..", ".", ""] {
            let error = named(name).load_from(Some(dir.path())).unwrap_err();
            assert!(matches!(error, SiteKeyError::Name(_)), "{name}: {error}");
        }
    }

    #[test]
    fn each_key_of_a_directory_is_looked_at_as_one_that_is_named() {
        let dir = crate::testing::tempdir().unwrap();
        let keys = dir.path().join("keys");
        std::fs::create_dir(&keys).unwrap();
        let _ = make(&keys.join("a")).unwrap();
        let _ = make(&keys.join("b")).unwrap();
        let load = || files(&[&keys]).load_from(None);
        assert_eq!(load().unwrap().unwrap().ids().len(), 2);
        chmod(&keys.join("b"), 0o440);
        let error = load().unwrap_err().to_string();
        assert!(error.contains("its mode is 440"), "{error}");
        chmod(&keys.join("b"), 0o400);
        chmod(&keys, 0o777);
        let error = load().unwrap_err().to_string();
        assert!(error.contains("can be written by others"), "{error}");
        let error = read(&keys, |_| None).unwrap_err();
        assert!(matches!(error, SiteKeyError::NotAKey(_)), "{error}");
    }

    #[test]
    fn where_keys_were_read_is_closed_to_tasks() {
        let dir = crate::testing::tempdir().unwrap();
        let (credentials, key) = (dir.path().join("credentials"), dir.path().join("key"));
        std::fs::create_dir(&credentials).unwrap();
        for path in [&credentials.join("site"), &key] {
            let _ = make(path).unwrap();
        }
        let mut args = files(&[&key]);
        let closed = |args: &KeyArgs| {
            let keys = args.load_from(Some(&credentials)).unwrap().unwrap();
            keys.files().to_vec()
        };
        assert_eq!(closed(&args), std::slice::from_ref(&key));
        args.site_key_credential = Some("site".to_owned());
        assert_eq!(closed(&args), [key.clone(), credentials.clone()]);
    }
}
