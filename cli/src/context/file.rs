//! The file that contexts are kept in: TOML, readable by its owner only, replaced as a whole.
//!
//! ```toml
//! current = "prod"
//!
//! [context.prod]
//! server = "https://outpost.example.org:7080"
//! token_file = "/home/ada/prod.token"
//! ca = "/home/ada/root.pem"
//! ```

use std::collections::BTreeMap;
use std::fs::{DirBuilder, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::failure::Failure;
use crate::suggest;

/// Everything in the file.
#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Contexts {
    /// The one that is used when nothing else is said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) current: Option<String>,
    /// By name.
    #[serde(
        default,
        rename = "context",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub(crate) by_name: BTreeMap<String, Context>,
}

/// A server and the right to ask it. Not `Debug`: it may hold a token.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Context {
    /// Its API.
    pub(crate) server: String,
    /// Where the token is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) token_file: Option<PathBuf>,
    /// The token itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) token: Option<String>,
    /// Root certificates in PEM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ca: Option<PathBuf>,
}

/// `$XDG_CONFIG_HOME/outpost/config.toml`, or below `~/.config`; `None` without a home.
pub(crate) fn usual_path() -> Option<PathBuf> {
    let absolute = |name: &str| {
        let path = PathBuf::from(std::env::var_os(name)?);
        path.is_absolute().then_some(path)
    };
    let base = absolute("XDG_CONFIG_HOME").or_else(|| Some(absolute("HOME")?.join(".config")))?;
    Some(base.join("outpost").join("config.toml"))
}

impl Contexts {
    /// Reads the file; without one there are no contexts.
    ///
    /// # Errors
    /// It cannot be read, is no such TOML, or holds a token that others can read.
    pub(crate) fn load(path: &Path) -> Result<Self, Failure> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(Failure::file(path)(error)),
        };
        let contexts: Self = toml::from_str(&text).map_err(|error| {
            Failure::Usage(format!(
                "{}: {}",
                path.display(),
                error.to_string().trim_end()
            ))
        })?;
        let mode = std::fs::metadata(path)
            .map_err(Failure::file(path))?
            .permissions()
            .mode();
        let stores = contexts.by_name.values().any(|it| it.token.is_some());
        if stores && mode & 0o077 != 0 {
            return Err(Failure::Usage(format!(
                "{} holds a token and can be read by others; end that with `chmod 600 {0}`",
                path.display()
            )));
        }
        Ok(contexts)
    }

    /// Replaces the file: it is the old one or the new one, whatever happens in between.
    ///
    /// # Errors
    /// It cannot be written.
    pub(crate) fn save(&self, path: &Path) -> Result<(), Failure> {
        let text = toml::to_string(self)
            .map_err(|error| Failure::Internal(format!("contexts are no TOML: {error}")))?;
        let dir = path.parent().unwrap_or(Path::new("."));
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(Failure::file(dir))?;
        let new = dir.join(format!(".config.toml.{}", std::process::id()));
        let written = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&new)
            .and_then(|mut file| {
                file.write_all(text.as_bytes())?;
                file.sync_all()
            })
            .and_then(|()| std::fs::rename(&new, path));
        written.map_err(|error| {
            let _ = std::fs::remove_file(&new);
            Failure::file(path)(error)
        })
    }

    /// The context of this name.
    ///
    /// # Errors
    /// There is none; the message says which there are.
    pub(crate) fn named(&self, name: &str) -> Result<&Context, Failure> {
        self.by_name.get(name).ok_or_else(|| {
            let names = self.by_name.keys().map(String::as_str);
            let hint = suggest::sentence(name, names)
                .unwrap_or_else(|| "`outpost context add` makes one".to_owned());
            Failure::NoContext {
                name: name.to_owned(),
                hint,
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context() -> Context {
        Context {
            server: "https://a.example:7080".to_owned(),
            token_file: None,
            token: Some("opt_x".to_owned()),
            ca: None,
        }
    }

    #[test]
    fn what_was_saved_is_loaded_and_nobody_else_can_read_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("outpost/config.toml");
        assert!(Contexts::load(&path).unwrap().by_name.is_empty());
        let mut contexts = Contexts::default();
        contexts.by_name.insert("prod".to_owned(), context());
        contexts.current = Some("prod".to_owned());
        contexts.save(&path).unwrap();
        contexts.save(&path).unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
        let loaded = Contexts::load(&path).unwrap();
        assert_eq!(loaded.current.as_deref(), Some("prod"));
        assert_eq!(
            loaded.named("prod").unwrap().token.as_deref(),
            Some("opt_x")
        );
        assert_eq!(
            std::fs::read_dir(path.parent().unwrap()).unwrap().count(),
            1
        );

        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        let refused = Contexts::load(&path).err().unwrap().to_string();
        assert!(refused.contains("chmod 600"), "{refused}");
    }

    #[test]
    fn a_file_that_is_wrong_is_told_with_its_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.toml");
        std::fs::write(
            &path,
            "[context.a]\nserver = \"http://127.0.0.1\"\ntokenfile = \"x\"\n",
        )
        .unwrap();
        let refused = Contexts::load(&path).err().unwrap().to_string();
        assert!(
            refused.contains("line 3") && refused.contains("token_file"),
            "{refused}"
        );
    }
}
